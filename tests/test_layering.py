"""No module reaches down: the order of the package, read from its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "wsproto_sip"

#: Modules and packages, each importing only what stands above it. Modules of one package here
#: may import each other. "" is the package's own ``__init__``.
ORDER = (
    # 1 protocol
    "typing",
    "limits",
    "states",
    "utilities",
    "events",
    "_masking",
    "frame_protocol",
    "_deflate",
    "extensions",
    "_parser",
    "_head",
    "negotiation",
    "handshake",
    "connection",
    "extended_connect",
    # 2 session
    "timers",
    "keepalive",
    "subprotocols",
    "config",
    "lifecycle",
    "prepared",
    "_session_core",
    "session",
    "",
    # 3 server
    "policy",
    "server",
    # 4 sub-protocols
    "sip",
    "msrp",
    # 5 the outside world
    "adapters",
    "cli",
    "__main__",
)
OUTSIDE = frozenset({"adapters", "cli", "__main__"})

#: Input and output, clocks and threads are the caller's.
WORLDLY = frozenset(
    ["asyncio", "datetime", "logging", "select", "selectors", "socket", "ssl", "threading", "time"]
)
#: What the core may import besides the standard library.
DEPENDENCIES = frozenset({"h11"})


class Import(NamedTuple):
    """One imported module, by its full name, and where the statement stands."""

    name: str
    line: int


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that run, also those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for otherwise in child.orelse:
                yield from _statements(ast.Module([otherwise], []))
        else:
            yield from _statements(child)


def _imports(tree: ast.AST, package: str, modules: Iterable[str]) -> Iterator[Import]:
    """What a module imports.

    Args:
        tree: Its syntax tree.
        package: The package that relative imports start from.
        modules: All modules of the tree, to tell a module from a name inside one.
    """
    for statement in _statements(tree):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield Import(alias.name, statement.lineno)
            continue
        base = statement.module or ""
        if statement.level:
            parts = package.split(".")
            start = parts[: len(parts) - statement.level + 1]
            base = ".".join([*start, base] if base else start)
        for alias in statement.names:
            inner = f"{base}.{alias.name}"
            yield Import(inner if inner in modules else base, statement.lineno)


def _place(module: str) -> str:
    """The entry of ORDER that a module of the package belongs to."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def violations(root: Path) -> list[str]:
    """What breaks the rules in the package below ``root``, one line each."""
    files = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = []
    for module, path in files.items():
        place = _place(module)
        where = path.relative_to(root).as_posix()
        if place not in ORDER:
            found.append(f"{where}: {place} has no place in ORDER")
            continue
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_bytes(), filename=where)
        for name, line in _imports(tree, package, files):
            top = name.partition(".")[0]
            if top == PACKAGE:
                target = _place(name)
                if target not in ORDER:
                    found.append(f"{where}:{line}: {name} has no place in ORDER")
                elif target != place and ORDER.index(target) > ORDER.index(place):
                    found.append(f"{where}:{line}: reaches down to {name}")
            elif place in OUTSIDE:
                pass
            elif top in WORLDLY:
                found.append(f"{where}:{line}: imports {name}")
            elif top not in DEPENDENCIES and top not in sys.stdlib_module_names:
                found.append(f"{where}:{line}: depends on {name}")
    return found


def test_no_layer_reaches_down() -> None:
    assert violations(ROOT) == []


def test_the_order_names_each_place_once() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) >= OUTSIDE


def test_importing_the_package_loads_nothing_optional() -> None:
    program = f"import sys, {PACKAGE}; print(*sorted(sys.modules), sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert f"{PACKAGE}.events" in loaded
    unwanted = {"sip", "msrp", "policy", "server", *OUTSIDE}
    assert [name for name in loaded if name.startswith(PACKAGE) and _place(name) in unwanted] == []


# -- the checker itself can fail ------------------------------------------------------------------


def check(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    "statement",
    [
        "from .session import Session",
        "from . import session",
        "from wsproto_sip import session",
        "from wsproto_sip.session import Session",
        "import wsproto_sip.session",
        "import wsproto_sip.session as s",
        "def f():\n    from . import session",
        "try:\n    from . import session\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from . import session",
    ],
)
def test_reaching_down_is_found(tmp_path: Path, statement: str) -> None:
    line = statement[: statement.index("session")].count("\n") + 1
    assert check(tmp_path, {"events.py": statement, "session.py": ""}) == [
        f"wsproto_sip/events.py:{line}: reaches down to wsproto_sip.session"
    ]


def test_reaching_up_and_sideways_is_not(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .session import Session\nfrom .events import *",
        "events.py": "import dataclasses\nfrom .utilities import ProtocolError",
        "utilities.py": "import h11\nfrom h11 import Request",
        "session.py": "from . import events\nfrom . import utilities, limits",
        "limits.py": "",
        "sip/__init__.py": "from .via import Via\nfrom . import via",
        "sip/via.py": "from .uri import Uri\nfrom ..events import Event\nfrom .. import session",
        "sip/uri.py": "from . import via",
        "adapters/asyncio.py": "import asyncio, trio\nfrom .. import Session\nfrom ..sip import x",
        "cli/serve.py": "import socket\nfrom ..adapters import asyncio\nfrom . import connect",
        "__main__.py": "from .cli import main",
    }
    assert check(tmp_path, files) == []


def test_types_may_come_from_below(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    from .session import Session\n    import socket\n"
    files = {"session.py": "", "events.py": text, "utilities.py": text.replace("if ", "if typing.")}
    assert check(tmp_path, files) == []


@pytest.mark.parametrize("name", sorted(WORLDLY))
@pytest.mark.parametrize("form", ["import {0}", "from {0} import x", "import os, {0}.y as z"])
@pytest.mark.parametrize("place", ["events.py", "sip/via.py", "__init__.py", "server/registry.py"])
def test_the_world_stays_outside(tmp_path: Path, name: str, form: str, place: str) -> None:
    imported = f"{name}.y" if ".y" in form else name
    assert check(tmp_path, {place: form.format(name)}) == [
        f"wsproto_sip/{place}:1: imports {imported}"
    ]


def test_the_core_depends_on_h11_alone(tmp_path: Path) -> None:
    assert check(tmp_path, {"session.py": "import h11, wsproto.events"}) == [
        "wsproto_sip/session.py:1: depends on wsproto.events"
    ]


def test_the_package_itself_is_below_the_protocol(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "events.py": "from . import WSConnection",
        "sip/via.py": "from .. import x",
    }
    assert check(tmp_path, files) == ["wsproto_sip/events.py:1: reaches down to wsproto_sip"]


def test_a_module_without_a_place_is_found(tmp_path: Path) -> None:
    assert check(tmp_path, {"helpers.py": "", "events.py": "from . import helpers"}) == [
        "wsproto_sip/events.py:1: wsproto_sip.helpers has no place in ORDER",
        "wsproto_sip/helpers.py: helpers has no place in ORDER",
    ]

"""No module imports a lower layer: the order of the package, read from its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests._layers import (
    LAYERS,
    ORDER,
    OUTSIDE,
    PACKAGE,
    ROOT,
    file_of_tests,
    module_files,
    modules_to_test,
    place_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Input and output, clocks and threads are left to the caller.
WORLDLY = frozenset(
    ["asyncio", "datetime", "logging", "select", "selectors", "socket", "ssl", "threading", "time"]
)
#: The core's only dependencies besides the standard library.
DEPENDENCIES = frozenset({"h11"})
#: Optional dependencies of modules of the core.
OPTIONAL = {
    "uri": frozenset({"idna"}),
    "_kernel": frozenset({"librt", "mypy_extensions"}),
}


class Import(NamedTuple):
    """One imported module, by its full name, and the place of the statement."""

    name: str
    line: int


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _statements(node: ast.AST, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run, including those in functions; optionally those for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            branch = child.body + child.orelse if types else child.orelse
            for statement in branch:
                yield from _statements(ast.Module([statement], []), types)
        else:
            yield from _statements(child, types)


def _imports(
    module: str, path: Path, modules: Iterable[str], *, types: bool = False
) -> Iterator[Import]:
    """Yield the imports of a module.

    Args:
        module: Its full name.
        path: Its file.
        modules: All modules of the tree, to tell a module from a name inside one.
        types: Whether imports under TYPE_CHECKING count.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for statement in _statements(tree, types):
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


def violations(root: Path) -> list[str]:
    """Return the violations in the package below ``root``, one line each."""
    files = module_files(root)
    found = []
    for module, path in files.items():
        place = place_of(module)
        where = path.relative_to(root).as_posix()
        if place is None:
            found.append(f"{where}: {module} has no place in LAYERS")
            continue
        for name, line in _imports(module, path, files):
            top = name.partition(".")[0]
            if top == PACKAGE:
                target = place_of(name)
                if target is None:
                    found.append(f"{where}:{line}: {name} has no place in LAYERS")
                elif target != place and ORDER.index(target) > ORDER.index(place):
                    found.append(f"{where}:{line}: reaches down to {name}")
            elif place in OUTSIDE:
                pass
            elif top in WORLDLY:
                found.append(f"{where}:{line}: imports {name}")
            elif top in OPTIONAL.get(place, ()):
                pass
            elif top not in DEPENDENCIES and top not in sys.stdlib_module_names:
                found.append(f"{where}:{line}: depends on {name}")
    return found


def circles(root: Path, *, types: bool) -> list[set[str]]:
    """Return the cycles of imports in the package below ``root``: modules that import each other.

    Args:
        root: The folder that holds the package.
        types: Whether imports under TYPE_CHECKING count.
    """
    files = module_files(root)
    graph = {
        module: {name for name, _ in _imports(module, path, files, types=types) if name in files}
        for module, path in files.items()
    }
    reached = {module: _reachable(module, graph) for module in graph}
    found: list[set[str]] = []
    for module in graph:
        circle = {other for other in reached[module] if module in reached[other]}
        if len(circle | {module}) > 1 and circle not in found:
            found.append(circle)
    return found


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - reached:
            reached.add(name)
            waiting.append(name)
    return reached


#: Cycles made by types alone, and why they stay. wsproto's names put an event into an error,
#: extensions into an event, and frames and errors into extensions, each in a module whose name is
#: documented. A SipParseError has the response that answers it.
KNOWN_CIRCLES = [
    {
        f"{PACKAGE}.{name}"
        for name in ("_deflate", "events", "extensions", "frame_protocol", "utilities")
    },
    {
        f"{PACKAGE}.sip.message.{name}"
        for name in (
            ["_syntax", "address", "errors", "fields", "headers", "message", "params", "uri", "via"]
        )
    },
]


def test_no_layer_imports_a_lower_one() -> None:
    assert violations(ROOT) == []


def test_order_names_each_place_once() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) >= OUTSIDE


def test_importing_the_package_loads_nothing_optional() -> None:
    program = f"import sys, {PACKAGE}; print(*sorted(sys.modules), sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert f"{PACKAGE}.events" in loaded
    ours = {place_of(name) for name in loaded if name.startswith(PACKAGE)}
    assert ours <= {*LAYERS["protocol"], *LAYERS["session"]}


def test_imports_have_no_cycles() -> None:
    assert circles(ROOT, types=False) == []
    assert circles(ROOT, types=True) == KNOWN_CIRCLES


def test_each_place_has_modules() -> None:
    places = {place_of(module) for module in module_files()}
    assert [place for place in ORDER if place not in places] == []


def test_each_module_has_a_test_file() -> None:
    assert [name for name in modules_to_test() if not file_of_tests(name).is_file()] == []


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
def test_import_of_a_lower_layer_is_found(tmp_path: Path, statement: str) -> None:
    line = statement[: statement.index("session")].count("\n") + 1
    assert check(tmp_path, {"events.py": statement, "session.py": ""}) == [
        f"wsproto_sip/events.py:{line}: reaches down to wsproto_sip.session"
    ]


def test_imports_of_higher_and_equal_layers_are_allowed(tmp_path: Path) -> None:
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
        "cli/connect.py": "",
        "__main__.py": "from .cli import main",
    }
    assert check(tmp_path, files) == []


def test_types_may_be_imported_from_lower_layers(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    from .session import Session\n    import socket\n"
    files = {"session.py": "", "events.py": text, "utilities.py": text.replace("if ", "if typing.")}
    assert check(tmp_path, files) == []


@pytest.mark.parametrize("name", sorted(WORLDLY))
@pytest.mark.parametrize("form", ["import {0}", "from {0} import x", "import os, {0}.y as z"])
@pytest.mark.parametrize("place", ["events.py", "sip/via.py", "__init__.py", "server/registry.py"])
def test_modules_for_io_are_imported_by_adapters_alone(
    tmp_path: Path, name: str, form: str, place: str
) -> None:
    imported = f"{name}.y" if ".y" in form else name
    assert check(tmp_path, {place: form.format(name)}) == [
        f"wsproto_sip/{place}:1: imports {imported}"
    ]


def test_core_depends_on_h11_alone(tmp_path: Path) -> None:
    assert check(tmp_path, {"session.py": "import h11, wsproto.events"}) == [
        "wsproto_sip/session.py:1: depends on wsproto.events"
    ]


def test_package_itself_is_below_the_protocol(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "events.py": "from . import WSConnection",
        "sip/via.py": "from .. import x",
    }
    assert check(tmp_path, files) == ["wsproto_sip/events.py:1: reaches down to wsproto_sip"]


def test_module_without_a_place_is_found(tmp_path: Path) -> None:
    assert check(tmp_path, {"helpers.py": "", "events.py": "from . import helpers"}) == [
        "wsproto_sip/events.py:1: wsproto_sip.helpers has no place in LAYERS",
        "wsproto_sip/helpers.py: wsproto_sip.helpers has no place in LAYERS",
    ]


def test_cycle_through_type_imports_is_found(tmp_path: Path) -> None:
    files = {
        "events.py": "from . import limits",
        "limits.py": "if TYPE_CHECKING:\n    from .events import Event",
        "states.py": "",
    }
    assert check(tmp_path, files) == []
    assert circles(tmp_path, types=False) == []
    assert circles(tmp_path, types=True) == [{"wsproto_sip.events", "wsproto_sip.limits"}]

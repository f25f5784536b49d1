"""The layers of the package in one list: which imports are allowed, and which test measures what.

``test_layering`` checks the imports against it, and ``.ci/coverage_by_module.py`` measures its
modules one by one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = "wsproto_sip"

#: Modules and packages by layer. Each imports only from itself and from the entries above it. "" is
#: the package's own ``__init__``; an entry such as "sip" includes all modules without an entry of
#: their own below it, here the ``__init__`` of a folder.
LAYERS: Final = {
    "protocol": (
        "typing",
        "errors",
        "_checks",
        "limits",
        "states",
        "uri",
        "utilities",
        "events",
        "_masking",
        "masking",
        "frame_protocol",
        "_deflate",
        "extensions",
        "_frames",
        "_parser",
        "_inbox",
        "_kernel",
        "_compiled",
        "_implementation",
        "_head",
        "negotiation",
        "connection",
        "handshake",
        "wsconnection",
        "extended_connect",
    ),
    "session": ("timers", "subprotocols", "session", ""),
    "server": ("auth", "policy", "server"),
    "sub-protocols": (
        "sip.message",
        "sip.rules",
        "sip.registrar",
        "sip.edge",
        "sip",
        "msrp.message",
        "msrp.authentication",
        "msrp.client",
        "msrp.relay",
        "msrp",
    ),
    "the outside world": (
        "adapters",
        "adapters.asyncio",
        "adapters.blocking",
        "adapters.trio",
        "adapters.uvicorn",
        "cli._text",
        "cli._token",
        "cli._tables",
        "cli._top",
        "cli.connect",
        "cli.ctl",
        "cli.serve",
        "cli._commands",
        "cli.completion",
        "cli.manual",
        "cli",
        "__main__",
    ),
}
ORDER: Final = tuple(place for places in LAYERS.values() for place in places)
#: The only layer that may use sockets, clocks, threads and optional dependencies.
OUTSIDE: Final = frozenset(LAYERS["the outside world"])

#: Modules that run as a separate process in most of their tests, where they cannot be measured.
AS_PROCESSES: Final = "cli."
#: Modules that only define names: nothing but their import can fail.
NAMES_ALONE: Final = frozenset({"typing", "__main__"})


def place_of(module: str) -> str | None:
    """Return the longest entry of ORDER that a module's name starts with.

    Args:
        module: The module's full name.
    """
    name = module.removeprefix(PACKAGE).removeprefix(".")
    while name not in ORDER:
        if not name:
            return None
        name = name.rpartition(".")[0]
        if not name:
            return None
    return name


def module_files(root: Path = ROOT) -> dict[str, Path]:
    """Return the modules of the package, by their full names.

    Args:
        root: The folder that holds the package.
    """
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def modules_to_test() -> list[str]:
    """Return the modules that have to have a test file, by their names in the package."""
    names = [
        module.removeprefix(f"{PACKAGE}.")
        for module, path in module_files().items()
        if path.name != "__init__.py"
    ]
    return [name for name in names if name not in NAMES_ALONE]


def measured_modules() -> list[str]:
    """Return the modules that a test file has to cover completely."""
    return [name for name in modules_to_test() if not name.startswith(AS_PROCESSES)]


def file_of_tests(module: str) -> Path:
    """Return the test file of a module or, without one, that of its package as a whole.

    Args:
        module: Its name in the package.
    """
    *packages, name = module.split(".")
    tests = ROOT.joinpath("tests", *packages, f"test_{name.strip('_')}.py")
    if not tests.is_file():
        tests = tests.with_name(f"test_{packages[-1]}.py" if packages else tests.name)
    return tests

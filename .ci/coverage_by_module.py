"""Whether each module's own test file covers all of its lines and branches.

Runs ``tests/test_<module>.py`` for each module of the layers below, measuring that module alone,
and fails when one is below 100 %. Names on the command line (``events``, ``sip.via``) run just
those.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "wsproto_sip"

#: The modules and packages that have to be covered. ``typing`` and the ``__init__`` of packages
#: hold names alone: nothing in them can fail but their import.
LAYERS = (
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
    "timers",
    "keepalive",
    "subprotocols",
    "config",
    "lifecycle",
    "prepared",
    "_session_core",
    "session",
    "policy",
    "server",
    "sip",
    "msrp",
    "adapters._common",
    "adapters._driver",
    "adapters._asyncio_connection",
    "adapters._asyncio_wakeup",
    "adapters._asyncio_dial",
    "adapters._asyncio_proxy",
    "adapters._asyncio_reconnect",
    "adapters.asyncio",
    "adapters.backoff",
    "adapters.proxies",
    "adapters._blocking_alarm",
    "adapters._blocking_connection",
    "adapters._blocking_dial",
    "adapters.blocking",
    "adapters._trio_connection",
    "adapters._trio_dial",
    "adapters.trio",
    "adapters._addresses",
    "adapters.sip_edge",
    "adapters.sip_upstream",
    "adapters.uvicorn",
    "adapters.endpoint_server",
    "adapters.management",
    "adapters.management_http",
    "adapters.msrp_tcp",
)


def modules() -> list[str]:
    """The modules of the layers, by their names inside the package."""
    found = []
    for entry in LAYERS:
        path = PACKAGE.joinpath(*entry.split("."))
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        files = [file for file in files if file.name != "__init__.py"]
        found += [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
    return found


def tests_of(module: str) -> Path:
    """The test file of a module; parts of one, as ``_asyncio_connection``, are tested with it."""
    *packages, name = module.split(".")
    tests = ROOT.joinpath("tests", *packages, f"test_{name.strip('_')}.py")
    if name.startswith("_") and not tests.is_file():
        tests = tests.with_name(f"test_{name.split('_')[1]}.py")
    return tests


def measure(tests: Path, names: list[str], scratch: str) -> tuple[list[str], bool, str]:
    """Runs the tests of some modules: their names, whether all is covered, what was printed."""
    if not tests.is_file():
        return names, False, f"there is no {tests.relative_to(ROOT)}"
    sources = ",".join(f"{PACKAGE.joinpath(*name.split('.'))}.py" for name in names)
    environment = {**os.environ, "COVERAGE_FILE": os.path.join(scratch, names[0])}
    coverage = [sys.executable, "-m", "coverage"]
    run = [*coverage, "run", "--append", "--branch", f"--include={sources}"]
    steps = (
        [*run, "-m", "pytest", "-q", str(tests)],
        [*coverage, "report", "--show-missing", "--fail-under=100", "--precision=2"],
    )
    # Which way a test takes through an adapter is up to the kernel too, how much a socket takes at
    # once for example: there the tests run once more where one run has not taken all.
    rounds = 2 if names[0].startswith("adapters.") else 1
    printed = ""
    for _ in range(rounds):
        for step in steps:
            done = subprocess.run(
                step, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
            )
            printed = done.stdout + done.stderr
            if done.returncode and step is steps[0]:
                return names, False, printed
        if not done.returncode:
            return names, True, ""
    return names, False, printed


def main(names: list[str]) -> int:
    """Measures the named modules, or all; the exit code."""
    wanted: dict[Path, list[str]] = {}
    for module in names or modules():
        wanted.setdefault(tests_of(module), []).append(module)
    failed = 0
    with (
        TemporaryDirectory() as scratch,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        for covered, passed, report in pool.map(
            lambda item: measure(*item, scratch), wanted.items()
        ):
            print(f"{'100 %' if passed else 'FAILS':>6}  {', '.join(covered)}", flush=True)
            if not passed:
                failed += 1
                print(report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

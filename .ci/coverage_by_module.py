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
    "msrp",
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


def measure(module: str, scratch: str) -> tuple[str, bool, str]:
    """Runs one module's tests: its name, whether all is covered, and what was printed."""
    *packages, name = module.split(".")
    tests = ROOT.joinpath("tests", *packages, f"test_{name.strip('_')}.py")
    source = PACKAGE.joinpath(*packages, f"{name}.py")
    if not tests.is_file():
        return module, False, f"there is no {tests.relative_to(ROOT)}"
    data = os.path.join(scratch, module)
    environment = {**os.environ, "COVERAGE_FILE": data}
    coverage = [sys.executable, "-m", "coverage"]
    steps = (
        [*coverage, "run", "--branch", f"--include={source}", "-m", "pytest", "-q", str(tests)],
        [*coverage, "report", "--show-missing", "--fail-under=100", "--precision=2"],
    )
    for step in steps:
        done = subprocess.run(
            step, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            return module, False, done.stdout + done.stderr
    return module, True, ""


def main(names: list[str]) -> int:
    """Measures the named modules, or all; the exit code."""
    wanted = names or modules()
    failed = 0
    with (
        TemporaryDirectory() as scratch,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        for module, passed, report in pool.map(lambda name: measure(name, scratch), wanted):
            print(f"{'100 %' if passed else 'FAILS':>6}  {module}", flush=True)
            if not passed:
                failed += 1
                print(report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

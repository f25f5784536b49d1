"""Check that each module's own test file covers all of its lines and branches.

Each test file runs by itself and only its module is measured; a module below 100 % fails the check.
The tests run with few examples first, and with all of them only if those are not enough. Names on
the command line (``events``, ``sip.message.via``) select modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests._layers import PACKAGE, file_of_tests, measured_modules  # noqa: E402


def measure(tests: Path, names: list[str], scratch: str) -> tuple[list[str], bool, str]:
    """Run a test file; return the names of its modules, whether all is covered, and the output."""
    if not tests.is_file():
        return names, False, f"there is no {tests.relative_to(ROOT)}"
    sources = ",".join(f"{ROOT.joinpath(PACKAGE, *name.split('.'))}.py" for name in names)
    environment = {**os.environ, "COVERAGE_FILE": os.path.join(scratch, names[0])}
    coverage = [sys.executable, "-m", "coverage"]
    run = [*coverage, "run", "--append", "--branch", f"--include={sources}"]
    # Few examples of each property take most ways. Which way a test takes through an adapter is up
    # to the kernel too, how much a socket takes at once for example.
    rounds = ["brief", "wsproto_sip"]
    if names[0].startswith("adapters."):
        rounds.append("wsproto_sip")
    printed = ""
    for profile in rounds:
        steps = (
            [*run, "-m", "pytest", "-q", f"--hypothesis-profile={profile}", str(tests)],
            [*coverage, "report", "--show-missing", "--fail-under=100", "--precision=2"],
        )
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
    """Measure the named modules, or all, and return the exit code."""
    wanted: dict[Path, list[str]] = {}
    for module in names or measured_modules():
        wanted.setdefault(file_of_tests(module), []).append(module)
    failed = 0
    with (
        TemporaryDirectory() as scratch,
        # Much of a run is waiting.
        ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool,
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

"""Run the targets under atheris: ``python -m fuzz.run [--seconds N] [TARGET …]``.

Each target runs in a separate process, as many at once as there are processors, from a corpus that
starts with the seeds; new inputs are kept in the corpus folder. The exit code is 1 if an input
broke a target, whose file is then named.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from .seeds import write_seeds
from .targets import TARGETS

FOLDER = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run the named targets, or all, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=10, help="for each target (%(default)s)")
    parser.add_argument("--corpus", type=Path, help="where the corpus is kept (a new folder)")
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory() as scratch,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        corpus = options.corpus or Path(scratch)
        write_seeds(corpus)
        targets = options.targets or TARGETS
        failed = False
        runs = pool.map(partial(_run, corpus=corpus, seconds=options.seconds), targets)
        for target, done in zip(targets, runs, strict=True):
            print(f"== {target}\n{done.stdout}", flush=True)
            failed |= done.returncode != 0
    return int(failed)


def _run(target: str, *, corpus: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    words = FOLDER / "dictionaries" / f"{target}.dict"
    dictionary = [f"-dict={words}"] if words.is_file() else []
    command = [
        sys.executable,
        str(FOLDER / f"fuzz_{target}.py"),
        f"-max_total_time={seconds}",
        f"-artifact_prefix={corpus / target}-broken-by-",
        "-max_len=4096",
        "-print_final_stats=1",
        *dictionary,
        str(corpus / target),
    ]
    return subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


if __name__ == "__main__":
    sys.exit(main())

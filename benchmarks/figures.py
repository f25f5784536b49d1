"""The page of test figures: the tests made on the package, and their results.

``python -m benchmarks.figures`` measures every section and writes ``docs/test-figures.json`` and,
from it, ``docs/test-figures.md``; with names of sections it measures those and keeps the others.
``--page`` only writes the page.

Theory of operation: a section is the output of one of the project's own commands, as JSON if it
writes any. Each has the day and the Python version of its measurement, so that the page never mixes
them up. :func:`render` makes the page from the data; a test compares the two.
"""

from __future__ import annotations

import argparse
import ast
import base64
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "test-figures.json"
PAGE = ROOT / "docs" / "test-figures.md"

#: Kinds of tests, by their folder.
KINDS = {
    "tests/session": "sessions",
    "tests/policy": "policies",
    "tests/auth": "authentication",
    "tests/server": "endpoints and their management",
    "tests/sip": "SIP",
    "tests/msrp": "MSRP",
    "tests/adapters": "adapters, over sockets",
    "tests/cli": "the command line",
    "tests/peers": "foreign programs as peers",
    "tests": "the protocol engine, documentation and layers",
}

#: Tests that every adapter passes, by their file.
ENDS = {
    "tests/adapters/_ends.py": "a burst, and the end of the transport in each way there is",
    "tests/adapters/_strain.py": "too much, too little, cancellation, a cut at any place",
    "tests/adapters/_refusals.py": "refusals that are cut off or have no end",
}

Data = dict[str, Any]


class MeasuringError(Exception):
    """A command has failed without giving a figure."""


def run(*command: object) -> str:
    """Run a program of the project, and return its output.

    Raises:
        MeasuringError: The program has failed.
    """
    words = [sys.executable, *map(str, command)]
    print("$", *words[1:], flush=True)
    done = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise MeasuringError(f"{' '.join(words[1:])}: {done.returncode}\n{done.stdout[-5000:]}")
    return done.stdout


# -- sections: measuring ---------------------------------------------------------------------------


def measure_tests(options: argparse.Namespace) -> Data:
    """Run and count the whole suite, or count the reports of earlier runs."""
    counts = count_tests(run_tests(options))
    return {name: counts[name] for name in ("kinds", "ends", "torture")}


def measure_attacks(options: argparse.Namespace) -> Data:
    """Run the attacks on servers."""
    return {"servers": count_tests(run_tests(options, "tests/adapters/test_attacks.py"))["attacks"]}


def run_tests(options: argparse.Namespace, *files: str) -> list[str]:
    """Run tests, unless reports are given; return pytest's reports."""
    if options.junit:
        return [file.read_text(encoding="utf-8") for file in options.junit]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files)
        return [report.read_text(encoding="utf-8")]


def count_tests(reports: Sequence[str]) -> Data:
    """Count the results in pytest's JUnit reports.

    Args:
        reports: The reports, with Hypothesis's statistics among their properties, which
            pytest-xdist leaves out. A test in several reports counts as in the last.
    """
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    ends: Counter[str] = Counter()
    torture = 0
    attacks: dict[str, list[str]] = defaultdict(list)
    shared = {name: what for file, what in ENDS.items() for name in test_names(ROOT / file)}
    roots = [ElementTree.fromstring(report) for report in reports]
    cases = {
        (case.get("classname", ""), case.get("name", "")): case
        for root in roots
        for case in root.iter("testcase")
    }
    for (place, name), case in cases.items():
        where = place.replace(".", "/")
        test, _, parameters = name.partition("[")
        children = {child.tag for child in case}
        outcome = "skipped" if "skipped" in children else "passed"
        outcome = "failed" if children & {"failure", "error"} else outcome
        kinds[kind_of(where)][outcome] += 1
        if outcome != "passed":
            continue
        if where.startswith("tests/adapters/") and test in shared:
            ends[shared[test]] += 1
        if where == "tests/sip/message/test_torture":
            torture += 1
        if where == "tests/adapters/test_attacks":
            server, _, attack = parameters.rstrip("]").partition("-")
            attacks[server].append(attack or test.removeprefix("test_").replace("_", " "))
    for item in (item for root in roots for item in root.iter("property")):
        name = item.get("name", "")
        if name.startswith("hypothesis-statistics-"):
            kind = kinds[kind_of(name.removeprefix("hypothesis-statistics-"))]
            statistics = base64.b64decode(item.get("value", "")).decode()
            kind["properties"] += 1
            # The word for an example has changed between Hypothesis's releases.
            kind["examples"] += sum(map(int, re.findall(r"(\d+) passing", statistics)))
    return {
        "kinds": {kind: dict(kinds[kind]) for kind in KINDS.values() if kind in kinds},
        "ends": {what: ends[what] for what in ENDS.values() if what in ends},
        "torture": torture,
        "attacks": attacks,
    }


def kind_of(where: str) -> str:
    """Return the kind of a test, by its module or id."""
    return next(kind for folder, kind in KINDS.items() if where.startswith(folder + "/"))


def test_names(file: Path) -> list[str]:
    """Return the tests that a file defines, in classes or not."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


def measure_wsproto(options: argparse.Namespace) -> Data:
    """Run wsproto's own tests on this package."""
    return read_wsproto(run(".ci/wsproto_suite.py"))


def read_wsproto(output: str) -> Data:
    """Parse the output of ``.ci/wsproto_suite.py``, which fails on an unexpected failure."""
    found = re.search(r"^(\d+) tests passed, (\d+) failed", output, re.MULTILINE)
    if not found:
        raise MeasuringError(f"no counts in {output!r}")
    reasons = re.findall(r"^ *(\d+)  (.+)$", output, re.MULTILINE)
    return {
        "passed": int(found[1]),
        "meant": int(found[2]),
        "reasons": {reason: int(count) for count, reason in reasons},
    }


def measure_autobahn(options: argparse.Namespace) -> Data:
    """Run the core of the Autobahn testsuite on every party."""
    return autobahn()


def measure_autobahn_all(options: argparse.Namespace) -> Data:
    """Run the whole Autobahn testsuite, on asyncio's server and client."""
    kept = ["--folder", str(options.autobahn)] if options.autobahn else []
    return autobahn("--all", *kept, "asyncio, server", "asyncio, client")


def autobahn(*arguments: str) -> Data:
    """Run the Autobahn testsuite."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "counts.json")
        run(".ci/autobahn.py", "--json", file, *arguments)
        return {"parties": json.loads(file.read_text(encoding="utf-8"))}


def measure_flood(options: argparse.Namespace) -> Data:
    """Measure calls during a flood of INVITEs."""
    return read_flood(run("-m", "benchmarks.flood"))


def read_flood(output: str) -> Data:
    """Parse the output of ``benchmarks.flood``."""
    sent = re.search(r"^([\d,]+) INVITEs of \S+: ([\d,]+) answered with 503", output, re.MULTILINE)
    calls = re.search(
        r"^(\d+) of (\d+) calls set up in ([\d.]+) s, the slowest in ([\d.]+) s",
        output,
        re.MULTILINE,
    )
    if not sent or not calls:
        raise MeasuringError(f"no figures in {output!r}")
    return {
        "invites": int(sent[1].replace(",", "")),
        "refused": int(sent[2].replace(",", "")),
        "done": int(calls[1]),
        "calls": int(calls[2]),
        "seconds": float(calls[3]),
        "slowest": float(calls[4]),
    }


def measure_connections(options: argparse.Namespace) -> Data:
    """Measure the connections that one server holds at once."""
    count = options.connections
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "figures.json")
        words = ["--only", "wsproto_sip", "--loop", "asyncio", "--idle", count, "--json", file]
        run("-m", "benchmarks.connections", *words)
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    values = {figure["what"]: figure["value"] for figure in figures}
    return {
        "count": count,
        "plain": values["asyncio, idle, plain: wsproto_sip"],
        "deflate": values["asyncio, idle, deflate used: wsproto_sip"],
    }


def measure_hostile(options: argparse.Namespace) -> Data:
    """Measure hostile peers in memory: how much each makes a session hold, and for how long."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "figures.json")
        run("-m", "benchmarks.session", "--only", "attacks", "--json", file)
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    # Microseconds depend on the machine; the page on benchmarks has them.
    return {
        "figures": [[f["what"], f["unit"], f["value"]] for f in figures if f["unit"] in ("kB", "s")]
    }


def measure_fuzz(options: argparse.Namespace) -> Data:
    """Run the fuzz targets."""
    return {
        "seconds": options.seconds,
        "targets": read_fuzz(run("-u", "-m", "fuzz.run", "--seconds", options.seconds)),
    }


def read_fuzz(output: str) -> dict[str, int]:
    """Parse the output of ``fuzz.run``: the number of inputs of each target."""
    targets = re.findall(
        r"^== (\S+)$.*?^stat::number_of_executed_units: *(\d+)$", output, re.MULTILINE | re.DOTALL
    )
    if not targets:
        raise MeasuringError(f"no figures in {output!r}")
    return {name: int(count) for name, count in targets}


SECTIONS: dict[str, Callable[[argparse.Namespace], Data]] = {
    "tests": measure_tests,
    "attacks": measure_attacks,
    "wsproto": measure_wsproto,
    "autobahn": measure_autobahn,
    "autobahn-all": measure_autobahn_all,
    "hostile": measure_hostile,
    "flood": measure_flood,
    "connections": measure_connections,
    "fuzz": measure_fuzz,
}

# -- the page --------------------------------------------------------------------------------------

HEAD = """\
# Test figures

What was tried on this package, and what came of it. `python -m benchmarks.figures` measures and
writes this page; figures of speed are with each benchmark.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; all columns but the first are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(number(cell) for cell in line) + " |" for line in lines)


def number(cell: object) -> str:
    """Format a cell, numbers with separators."""
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


def render_tests(data: Data) -> str:
    """Render the suite's counts."""
    columns = ("passed", "failed", "skipped", "properties", "examples")
    rows = [
        [kind, *(counts.get(column, 0) for column in columns)]
        for kind, counts in data["kinds"].items()
    ]
    rows.append(["**all**", *(sum(row[n] for row in rows) for n in range(1, 6))])
    head = ["about", "passed", "failed", "skipped", "properties", "inputs that Hypothesis tried"]
    ends = "\n".join(f"- {what}: {count:,}" for what, count in data["ends"].items())
    return f"""\
## The tests

{table(head, rows)}

Properties are the tests that Hypothesis tries inputs on, state machines among them.
{data["torture"]} tests have the kinds of odd and of broken messages of RFC 4475 and RFC 5118. Tests
that break or strain a transport, on all adapters together:

{ends}
"""


def render_attacks(data: Data) -> str:
    """Render the attacks by server."""
    servers = data["servers"]
    attacks = sorted({attack for survived in servers.values() for attack in survived})
    rows = [
        [attack, *("survived" if attack in survived else "" for survived in servers.values())]
        for attack in attacks
    ]
    return f"""\
## Attacks on servers with their defaults

Each server is a process of its own. It has survived where a client that was there before the
attack, and one that comes after it, get their messages back.

{table(["attack", *servers], rows)}
"""


def render_wsproto(data: Data) -> str:
    """Render wsproto's own tests."""
    reasons = "\n".join(f"- {reason}: {count}" for reason, count in data["reasons"].items())
    return f"""\
## wsproto's own tests

{data["passed"]} pass on this package. {data["meant"]} fail, each at a statement that is expected to
fail, for a reason that [](howto/from-wsproto.md) has:

{reasons}
"""


def render_autobahn(data: Data) -> str:
    """Render the Autobahn testsuite's core."""
    return f"""\
## The Autobahn testsuite

Its core, without the cases that only measure speed or compression; NON-STRICT would be a failure.

{autobahn_table(data)}
"""


def render_autobahn_all(data: Data) -> str:
    """Render the whole Autobahn testsuite."""
    return f"""\
### All of its cases

{autobahn_table(data)}
"""


def autobahn_table(data: Data) -> str:
    """Render the counts by party."""
    kinds = sorted({kind for counts in data["parties"].values() for kind in counts}, reverse=True)
    rows = [
        [party, *(counts.get(kind, 0) for kind in kinds)]
        for party, counts in data["parties"].items()
    ]
    return table(["", *kinds], rows)


def render_hostile(data: Data) -> str:
    """Render the hostile peers."""
    rows = [[what, f"{value:,.4g} {unit}"] for what, unit, value in data["figures"]]
    return f"""\
## What a hostile peer costs

Memory is the most that a session and its adapter have held; after the colon stands what became of
the connection.

{table(["", "measured"], rows)}
"""


def render_flood(data: Data) -> str:
    """Render the flood."""
    return f"""\
## Calls during a flood

One address sent {data["invites"]:,} INVITEs over 100 connections to `wsproto-sip serve` with its
defaults; {data["refused"]:,} of them were answered with 503. Meanwhile a user with a password set
up and ended {data["done"]} of {data["calls"]} calls, the slowest in {data["slowest"]} s.
"""


def render_connections(data: Data) -> str:
    """Render the connections."""
    return f"""\
## Connections at once

One server on asyncio held {data["count"]:,} connections that had each echoed a message, in
{data["plain"]:.1f} KiB each, and as many with compression in use in {data["deflate"]:.1f} KiB.
"""


def render_fuzz(data: Data) -> str:
    """Render the fuzzing."""
    rows = [*data["targets"].items(), ("**all**", sum(data["targets"].values()))]
    return f"""\
## Fuzzing

Inputs tried in {data["seconds"]} s for each target, none of which broke a promise:

{table(["target", "inputs"], rows)}
"""


RENDERERS: dict[str, Callable[[Data], str]] = {
    "tests": render_tests,
    "attacks": render_attacks,
    "wsproto": render_wsproto,
    "autobahn": render_autobahn,
    "autobahn-all": render_autobahn_all,
    "hostile": render_hostile,
    "flood": render_flood,
    "connections": render_connections,
    "fuzz": render_fuzz,
}


def render(data: Data) -> str:
    """Render the page.

    Args:
        data: The sections, as ``docs/test-figures.json`` has them.
    """
    parts = [HEAD]
    for name, render_section in RENDERERS.items():
        if name in data:
            section = data[name]
            parts.append(render_section(section["figures"]))
            parts.append(f"*{section['on']}, {section['with']}*\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = ", ".join(SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"which of {names} (all)")
    parser.add_argument("--page", action="store_true", help="only make the page of the data")
    parser.add_argument(
        "--junit",
        action="append",
        type=Path,
        metavar="FILE",
        help="a report of pytest's (--junitxml) to count instead of running the tests",
    )
    parser.add_argument(
        "--autobahn", type=Path, metavar="FOLDER", help="where autobahn-all keeps its reports"
    )
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing each target (60)")
    parser.add_argument("--connections", type=int, default=5000, help="held at once (5000)")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"not among {names}: {', '.join(sorted(unknown))}")
    data: Data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    failed = 0
    for name in () if options.page else options.sections or SECTIONS:
        try:
            figures = SECTIONS[name](options)
        except MeasuringError as exc:
            print(exc, file=sys.stderr)
            failed = 1
            continue
        data[name] = {
            "on": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "with": f"{platform.python_implementation()} {platform.python_version()}, "
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "figures": figures,
        }
        DATA.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(render(data), encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""Shared by the benchmarks: alternating measurements, and writing the results.

Theory of operation: all candidates of a workload take turns in one process, and the order shifts by
one each round, so that a slow moment of the machine affects all of them. Each turn starts from a
fresh connection made before the clock starts. The clock is the CPU time of the process, because
wall time also includes other processes. The cyclic garbage collector runs before a turn and not
during it, and objects that were alive before the first turn are frozen, so that a collection only
looks at the candidate's objects. The result of a turn is compared with the input; a difference ends
the benchmark.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

R = TypeVar("R")


class DeliveryError(Exception):
    """A candidate delivered something other than what was sent to it."""


@dataclass(frozen=True, slots=True)
class Turn(Generic[R]):
    """One candidate's part of a workload.

    Args:
        candidate: Its column.
        prepare: Prepares one turn and returns a function; only the call of that function is timed.
    """

    candidate: str
    prepare: Callable[[], Callable[[], R]]


def take_turns(
    turns: Sequence[Turn[R]], *, expected: R, operations: int, rounds: int
) -> dict[str, list[float]]:
    """Run every candidate once per round.

    Args:
        turns: The candidates.
        expected: The expected result of each turn.
        operations: The number of operations in one turn, to divide its time by.
        rounds: How often each candidate is measured; one more round before them is not counted.

    Returns:
        The microseconds per operation of each candidate, one figure per round.

    Raises:
        DeliveryError: A turn returned another result.
    """
    samples: dict[str, list[float]] = {turn.candidate: [] for turn in turns}
    gc.collect()
    gc.freeze()
    try:
        for number in range(-1, rounds):
            shift = number % len(turns)
            for turn in (*turns[shift:], *turns[:shift]):
                run = turn.prepare()
                gc.collect()
                gc.disable()
                try:
                    start = time.process_time_ns()
                    result = run()
                    elapsed = time.process_time_ns() - start
                finally:
                    gc.enable()
                if result != expected:
                    raise DeliveryError(f"{turn.candidate} gave {result}, expected {expected}")
                if number >= 0:
                    samples[turn.candidate].append(elapsed / operations / 1000)
    finally:
        gc.unfreeze()
    return samples


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio to reach.

    Args:
        workload: The row.
        ours: Our column.
        peer: The column to compare with.
        ratio: The highest acceptable value of ``ours / peer``.
    """

    workload: str
    ours: str
    peer: str
    ratio: float


@dataclass(slots=True)
class Results:
    """The figures of one run.

    Args:
        subject: What was measured, with its unit.
        candidates: The columns in order, each with a note on how it was run.
        ours: The candidates of this package.
        missing: What could not be measured, and why.
        samples: Workload, candidate, and the microseconds of every round.
        per: The unit of one operation.
    """

    subject: str
    candidates: dict[str, str]
    ours: Sequence[str]
    missing: list[str] = field(default_factory=list)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    per: str = "message"

    def median(self, workload: str, candidate: str) -> float | None:
        """Return the median of the rounds' figures in microseconds; ``None`` if there are none."""
        figures = self.samples.get(workload, {}).get(candidate)
        return statistics.median(figures) if figures else None

    def ratio(self, workload: str, ours: str, peer: str) -> float | None:
        """Return our figure divided by the peer's; below 1 is faster.

        It is the median of the rounds' ratios: a slow phase of the machine affects both.
        """
        samples = self.samples.get(workload, {})
        pairs = zip(samples.get(ours, ()), samples.get(peer, ()), strict=False)
        return statistics.median([mine / theirs for mine, theirs in pairs] or [0.0]) or None

    def figures_table(self) -> list[list[str]]:
        """Return the figures in microseconds, one row per workload."""
        rows = [[f"µs per {self.per}", *self.candidates]]
        for workload in self.samples:
            figures = (self.median(workload, candidate) for candidate in self.candidates)
            rows.append([workload, *map(_number, figures)])
        return rows

    def ratio_table(self, ours: str) -> list[list[str]]:
        """Return our figure divided by each of the peers', one row per workload."""
        peers = [name for name in self.candidates if name not in self.ours]
        rows = [[f"{ours} /", *peers]]
        for workload in self.samples:
            ratios = (self.ratio(workload, ours, peer) for peer in peers)
            rows.append([workload, *map(_number, ratios)])
        return rows

    def goals_table(self, goals: Iterable[Goal]) -> list[list[str]]:
        """Return each goal, the measured ratio, and whether it is reached."""
        rows = [["goal", "of", "divided by", "at most", "measured", ""]]
        for goal in goals:
            ratio = self.ratio(goal.workload, goal.ours, goal.peer)
            if ratio is None:
                verdict = "not measured"
            else:
                verdict = "reached" if ratio <= goal.ratio else "NOT REACHED"
            measured = "-" if ratio is None else f"{ratio:.4f}"
            bound = f"{goal.ratio:.3f}"
            rows.append([goal.workload, goal.ours, goal.peer, bound, measured, verdict])
        return rows

    def write_json(self, path: Path, goals: Iterable[Goal]) -> None:
        """Write all results, including every round.

        Args:
            path: The file; it is replaced.
            goals: The goals to state the verdict on.
        """
        report = self.report(goals)
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def report(self, goals: Iterable[Goal]) -> dict[str, object]:
        """Return all results, including every round, for JSON.

        Args:
            goals: The goals to state the verdict on.
        """
        return {
            "subject": self.subject,
            "environment": environment(),
            "candidates": self.candidates,
            "missing": self.missing,
            "samples": self.samples,
            "medians": {
                workload: {name: self.median(workload, name) for name in samples}
                for workload, samples in self.samples.items()
            },
            "goals": [
                {
                    "workload": goal.workload,
                    "ours": goal.ours,
                    "peer": goal.peer,
                    "at_most": goal.ratio,
                    "measured": self.ratio(goal.workload, goal.ours, goal.peer),
                }
                for goal in goals
            ],
        }

    def render(self, goals: Sequence[Goal], *, markdown: bool) -> str:
        """Return the whole report as text.

        Args:
            goals: The goals to state the verdict on.
            markdown: Whether the tables are Markdown's, else plain columns.
        """
        table = markdown_table if markdown else plain_table
        facts = ", ".join(f"{name} {value}" for name, value in environment().items())
        parts = [f"{self.subject}\n{facts}", table(self.figures_table())]
        parts += [table(self.ratio_table(ours)) for ours in self.ours if self._measured(ours)]
        if goals:
            parts.append(table(self.goals_table(goals)))
        if self.missing:
            missing = [f"not measured: {line}" for line in self.missing]
            # Other lines are on what a peer cannot do.
            if any("No module named" in line for line in missing):
                missing.append("pip install -e '.[bench]' brings the peers")
            parts.append("\n".join(missing))
        return "\n\n".join(parts)

    def _measured(self, candidate: str) -> bool:
        return any(candidate in samples for samples in self.samples.values())


@dataclass(slots=True)
class Figure:
    """One line of a report whose figures are not compared with each other.

    Args:
        what: What was measured.
        unit: Its unit.
        value: The median of the rounds' figures.
        goal: The highest acceptable value; ``None`` without a goal.
        samples: The rounds' figures.
    """

    what: str
    unit: str
    value: float
    goal: float | None = None
    samples: Sequence[float] = ()

    @property
    def verdict(self) -> str:
        """Whether the goal is reached."""
        if self.goal is None:
            return ""
        return "reached" if self.value <= self.goal else "NOT REACHED"


def middle(what: str, unit: str, samples: Sequence[float], goal: float | None = None) -> Figure:
    """Return the median of several rounds as a figure."""
    return Figure(what, unit, statistics.median(samples), goal, samples)


def render_figures(title: str, figures: Iterable[Figure], *, markdown: bool) -> str:
    """Return figures as a table.

    Args:
        title: The head of its first column.
        figures: The lines.
        markdown: Whether the table is Markdown's, else plain columns.
    """
    rows = [[title, "unit", "measured", "goal", ""]]
    for figure in figures:
        goal = "" if figure.goal is None else f"{figure.goal:,g}"
        value = f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:.3g}"
        rows.append([figure.what, figure.unit, value, goal, figure.verdict])
    facts = ", ".join(f"{name} {value}" for name, value in environment().items())
    return f"{facts}\n\n{(markdown_table if markdown else plain_table)(rows)}"


def write_figures(path: Path, figures: Iterable[Figure], **more: object) -> None:
    """Write figures, including every round.

    Args:
        path: The file; it is replaced.
        figures: The figures.
        more: Further contents of the report.
    """
    report = {"environment": environment(), "figures": [asdict(f) for f in figures], **more}
    text = json.dumps(report, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_options(
    name: str, description: str, arguments: Sequence[str] | None, *, rounds: int
) -> argparse.Namespace:
    """Read the options that every benchmark has.

    Args:
        name: The benchmark.
        description: The text of ``--help``.
        arguments: The command line; ``None`` for the program's own.
        rounds: Measured rounds by default.

    Returns:
        ``rounds``, ``smoke``, ``json`` and ``markdown``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"measured rounds (default: {rounds})"
    )
    parser.add_argument("--smoke", action="store_true", help="everything once, a few times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return options


#: Packages that are measured in other processes.
run_elsewhere: set[str] = set()


def environment() -> Mapping[str, str]:
    """Return the interpreter, the machine, and the versions of the measured packages."""
    facts = {
        platform.python_implementation(): platform.python_version(),
        "on": f"{platform.system()} {platform.machine()}",
    }
    for package in ("wsproto", "websockets", "aiohttp", "picows", "uvicorn", "uvloop"):
        if package in sys.modules or package in run_elsewhere:
            facts[package] = metadata.version(package)
    return facts


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Return columns of text, the first one aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, whose head is the first row."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body])

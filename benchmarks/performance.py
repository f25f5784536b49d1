"""The tables and the plot of the page "Performance", from one run of several benchmarks.

Run from the root of the repository::

    python -m benchmarks.performance
    python -m benchmarks.performance --rounds 1 --folder /tmp/figures

Theory of operation: each benchmark runs in a separate process and leaves its figures as JSON; the
page shows the median of the rounds' ratios, ours divided by the peer's. A second table has the
goals of receiving in pure Python, and what the least possible code takes in their place. If the
compiled engine was built in the tree, ``receive`` and ``send`` run a second time with it; the first
run forces the pure one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._receivers import LEAST
from wsproto_sip import implementation

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "figures"

#: The benchmarks: the title of the table, the module, our column, and the peers to show.
TABLES = [
    (
        "Receiving, pure Python",
        "receive",
        "pure",
        "wsproto_sip",
        ("wsproto", "websockets C", "websockets pure", "aiohttp C", "aiohttp pure", "picows"),
    ),
    (
        "Receiving, compiled engine",
        "receive",
        "compiled",
        "wsproto_sip",
        ("wsproto", "websockets C", "aiohttp C", "picows"),
    ),
    (
        "Sending, pure Python",
        "send",
        "pure",
        "wsproto_sip",
        ("wsproto", "websockets", "aiohttp", "picows"),
    ),
    (
        "Sending, compiled engine",
        "send",
        "compiled",
        "wsproto_sip",
        ("wsproto", "websockets", "aiohttp", "picows"),
    ),
    ("The handshake of a server", "handshake", "pure", "wsproto_sip", ("wsproto", "websockets")),
]

#: The peers in the plot.
PLOTTED = ("wsproto", "websockets C", "aiohttp C")

Report = dict[str, Any]


def run(module: str, engine: str, rounds: int, folder: str) -> Report:
    """Run one benchmark.

    Args:
        module: The benchmark.
        engine: ``"pure"`` or ``"compiled"``.
        rounds: The number of measured rounds.
        folder: The folder for its JSON.
    """
    path = Path(folder, f"{module}-{engine}.json")
    environment = {**os.environ, "WSPROTO_SIP_PURE": "1" if engine == "pure" else "0"}
    command = [sys.executable, "-m", f"benchmarks.{module}", "--rounds", str(rounds)]
    subprocess.run(
        [*command, "--json", str(path)],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    return report


def ratio(samples: Mapping[str, Sequence[float]], ours: str, peer: str) -> float | None:
    """Return the median of the rounds' ratios; ``None`` if either was not measured."""
    pairs = zip(samples.get(ours, ()), samples.get(peer, ()), strict=False)
    ratios = [mine / theirs for mine, theirs in pairs]
    return statistics.median(ratios) if ratios else None


def table(report: Report, ours: str, peers: Sequence[str]) -> list[str]:
    """Return our figure divided by each peer's, in Markdown."""
    shown = [peer for peer in peers if peer in report["candidates"]]
    lines = [f"| ours / | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    for workload, samples in report["samples"].items():
        ratios = [ratio(samples, ours, peer) for peer in shown]
        cells = ["-" if value is None else f"{value:.2g}" for value in ratios]
        lines.append(f"| {workload} | {' | '.join(cells)} |")
    return lines


def goals_and_least(report: Report, ours: str) -> list[str]:
    """Return a report's goals beside our figures and the least possible, in Markdown."""
    lines = ["| ours / | goal | now | least possible |", "|---|---|---|---|"]
    for goal in report["goals"]:
        samples, peer = report["samples"][goal["workload"]], goal["peer"]
        now, least = ratio(samples, ours, peer), ratio(samples, LEAST, peer)
        if goal["ours"] == ours and now is not None and least is not None:
            bound = f"{goal['at_most']:g}"
            lines.append(f"| {goal['workload']} / {peer} | {bound} | {now:.2g} | {least:.2g} |")
    return lines


def plot(report: Report, ours: str, peers: Sequence[str], path: Path) -> None:
    """Draw a table's ratios as bars, one group per workload."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "wsproto-sip", "svg.fonttype": "none", "font.size": 8})
    workloads = list(report["samples"])
    shown = [peer for peer in peers if peer in report["candidates"]]
    figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(workloads) + 1))
    height = 0.8 / len(shown)
    for number, peer in enumerate(shown):
        ratios = [ratio(report["samples"][workload], ours, peer) or 0.0 for workload in workloads]
        places = [place + (number - len(shown) / 2 + 0.5) * height for place in range(len(ratios))]
        axes.barh(places, ratios, height=height, label=peer)
    axes.set_yticks(range(len(workloads)), workloads)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("CPU time of wsproto-sip, in pure Python / of the peer (left of 1 is faster)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=len(shown), frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if every benchmark has run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where the files go (default: docs/figures)"
    )
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with TemporaryDirectory() as folder:
        for title, module, engine, ours, peers in TABLES:
            if engine == "compiled" and implementation != "compiled":
                print("the compiled engine was not built in this tree: its table is left out")
                continue
            report = run(module, engine, options.rounds, folder)
            if not lines:
                facts = (f"{name} {value}" for name, value in report["environment"].items())
                lines += [f"Measured on {date.today().isoformat()}: {', '.join(facts)}."]
                plot(
                    report,
                    ours,
                    ("wsproto", "websockets C", "aiohttp C"),
                    options.folder / "receive.svg",
                )
                least = "\n".join(goals_and_least(report, ours))
                options.folder.joinpath("least.md").write_text(f"{least}\n", encoding="utf-8")
            lines += ["", f"**{title}**", "", *table(report, ours, peers)]
    text = "\n".join(lines)
    options.folder.joinpath("performance.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

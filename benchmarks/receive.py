"""What receiving a message costs a server, compared with other libraries.

Run from the root of the repository::

    python -m benchmarks.receive
    python -m benchmarks.receive --smoke
    python -m benchmarks.receive --only text-20 --only sip-800-each --markdown

Theory of operation: every candidate gets the same bytes, masked frames of a client, in the same
reads, and passes whole messages to a consumer that checks the type of each event and adds up the
lengths; if a library returns pieces, its consumer joins them, because the application would. The
connection is open before the clock starts: the notes in _receivers.py, repeated in the report of
``--json``, say for each how it skipped the handshake and why that is fair. Replies are not
collected, since data frames have none. Before the timing, each candidate runs once with a consumer
that keeps the messages, which must be those that were sent; in the timed turns the number of texts,
of binaries and their lengths must match.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._harness import DeliveryError, Goal, Results, Turn, take_turns
from benchmarks._receivers import Candidate, Tally, load
from benchmarks._wire import Message, Workload, workloads
from wsproto_sip import implementation

PURE_GOALS = [
    Goal("20 B text", "wsproto_sip", "wsproto", 0.062),
    Goal("20 B text", "wsproto_sip", "websockets C", 0.27),
    Goal("800 B SIP, one frame per read", "wsproto_sip", "wsproto", 0.165),
    Goal("800 B SIP, one frame per read", "wsproto_sip", "websockets C", 0.60),
    Goal("64 KiB binary", "wsproto_sip", "wsproto", 0.95),
    Goal("1 KiB in 16 B fragments", "wsproto_sip", "wsproto", 0.055),
    Goal("125 B delivered byte by byte", "wsproto_sip", "wsproto", 0.025),
    Goal("125 B delivered byte by byte", "wsproto_sip streaming", "wsproto", 0.10),
    Goal("800 B deflate, context takeover", "wsproto_sip", "wsproto", 0.15),
]
#: The goals of the compiled engine.
COMPILED_GOALS = [
    Goal(workload, "wsproto_sip", peer, ratio)
    for workload, peers in {
        "20 B text": {"aiohttp C": 0.65, "picows": 0.6},
        "20 B text, one frame per read": {"aiohttp C": 0.85, "picows": 0.55},
        "800 B SIP, one frame per read": {"aiohttp C": 0.90, "picows": 0.5},
        "4 KiB binary": {"aiohttp C": 0.9},
        "64 KiB binary": {"aiohttp C": 0.9},
        "1 MiB binary": {"aiohttp C": 0.8},
        "64 KiB non-ASCII text": {"aiohttp C": 1.1},
        "1 KiB in 16 B fragments": {"aiohttp C": 1.2, "picows": 0.4},
        "125 B delivered byte by byte": {"aiohttp C": 1.2},
    }.items()
    for peer, ratio in peers.items()
]
GOALS = COMPILED_GOALS if implementation == "compiled" else PURE_GOALS


def expected_tally(workload: Workload) -> Tally:
    """Return the expected result of every candidate."""
    texts = sum(isinstance(message, str) for message in workload.messages)
    size = sum(map(len, workload.messages))
    return Tally(texts, len(workload.messages) - texts, size)


def check_delivery(candidate: Candidate, workload: Workload) -> None:
    """Run a candidate once and compare every message.

    Raises:
        DeliveryError: It delivered something other than what was sent.
    """
    seen: list[Message] = []

    def keep(message: Message) -> int:
        seen.append(message)
        return len(message)

    tally = candidate.connect(workload)(workload.reads, keep)
    if tally != expected_tally(workload) or seen != list(workload.messages):
        raise DeliveryError(
            f"{candidate.name} does not deliver {workload.title}: {tally}, "
            f"expected {expected_tally(workload)}"
        )


def measure(
    chosen: Sequence[Workload], candidates: Sequence[Candidate], missing: list[str], rounds: int
) -> Results:
    """Check and time every candidate on every workload.

    Args:
        chosen: The workloads.
        candidates: The candidates.
        missing: Lines on missing candidates, to which lines on omitted workloads are added.
        rounds: How often each is timed; 0 only checks the delivery.

    Raises:
        DeliveryError: A candidate delivered something other than what was sent.
    """
    results = Results(
        "Receiving masked client frames on a server, CPU time in µs per message",
        {candidate.name: candidate.note for candidate in candidates},
        [candidate.name for candidate in candidates if candidate.ours],
        missing,
    )
    for workload in chosen:
        turns = []
        for candidate in candidates:
            if reason := candidate.skips(workload):
                missing.append(f"{candidate.name} on {workload.title} ({reason})")
                continue
            check_delivery(candidate, workload)
            turns.append(_turn(candidate, workload))
        results.samples[workload.title] = take_turns(
            turns,
            expected=expected_tally(workload),
            operations=len(workload.messages),
            rounds=rounds,
        )
    return results


def _turn(candidate: Candidate, workload: Workload) -> Turn[Tally]:
    def prepare() -> Callable[[], Tally]:
        receive = candidate.connect(workload)
        return lambda: receive(workload.reads, len)

    return Turn(candidate.name, prepare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if every candidate delivered the messages."""
    keys = [workload.key for workload in workloads(0)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receive", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=21, help="measured rounds (default: 21)")
    parser.add_argument(
        "--only",
        action="append",
        choices=keys,
        metavar="WORKLOAD",
        help=f"one of {', '.join(keys)}",
    )
    parser.add_argument("--smoke", action="store_true", help="everything once, with few messages")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")

    candidates, missing = load()
    chosen = [
        workload
        for workload in workloads(0.02 if options.smoke else 1.0)
        if not options.only or workload.key in options.only
    ]
    titles = {workload.title for workload in chosen}
    goals = [] if options.smoke else [goal for goal in GOALS if goal.workload in titles]
    try:
        results = measure(chosen, candidates, missing, 1 if options.smoke else options.rounds)
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    print(results.render(goals, markdown=options.markdown))
    if options.smoke:
        print("\nsmoke run: everything was delivered; the figures mean nothing")
    if options.json:
        results.write_json(options.json, goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())

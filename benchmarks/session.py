"""What a session costs: a message compared with the bare parser, memory, and hostile peers.

Run from the root of the repository::

    python -m benchmarks.session
    python -m benchmarks.session --smoke
    python -m benchmarks.session --only sip-800-each --markdown

Theory of operation: the first tables compare ``Session.receive`` with its parts, in turns, on the
input of the receive benchmark; the consumer does the work of an adapter, which continues while
there is remaining work. The second table is the memory of an idle open connection, here and in
other libraries, each opened by its own handshake. The third one is in _attacks.py. Options leave
out tables, not lines of them.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks._attacks import REQUEST, attacks, deadlines, growths, handshakes
from benchmarks._harness import (
    DeliveryError,
    Figure,
    Goal,
    Results,
    Turn,
    render_figures,
    take_turns,
    write_figures,
)
from benchmarks._receivers import SizeOf, Tally
from benchmarks._wire import Message, Workload, workloads
from wsproto_sip._parser import FrameParser
from wsproto_sip.connection import Connection
from wsproto_sip.events import AcceptConnection, BytesMessage, Event, TextMessage
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

SERVER = ConnectionType.SERVER

GOALS = [
    Goal("800 B SIP, one frame per read", "Session", "Connection", 1.15),
    Goal("800 B SIP, one frame per read", "Session", "FrameParser", 1.15),
]
#: Bytes of an idle open session without compression.
IDLE_GOAL = 1100.0

CANDIDATES = {
    "Session": "Session.receive, and handle_timeout while there is work left over",
    "Connection": "Connection(SERVER, whole_messages=True): receive_data and events",
    "FrameParser": "the parser that both have inside, by itself",
}

Receive = Callable[[Sequence[bytes], SizeOf], Tally]


def _tally(batches: Callable[[Sequence[bytes], Callable[[list[Event]], None]], None]) -> Receive:
    """Return the consumer that all share."""

    def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
        texts = binaries = size = 0

        def take(events: list[Event]) -> None:
            nonlocal texts, binaries, size
            for event in events:
                kind = type(event)
                if kind is TextMessage:
                    texts += 1
                elif kind is BytesMessage:
                    binaries += 1
                else:
                    raise DeliveryError(f"an unexpected event: {event!r}")
                size += size_of(event.data)  # type: ignore[attr-defined]

        batches(reads, take)
        return Tally(texts, binaries, size)

    return receive


def _extensions(workload: Workload) -> list[PerMessageDeflate]:
    if not workload.deflate:
        return []
    deflate = PerMessageDeflate()
    deflate.accept("permessage-deflate")
    return [deflate]


def of_session(workload: Workload) -> Receive:
    """Use a session, including its remaining work."""
    session = Session.established(SERVER, now=0.0, extensions=_extensions(workload))

    def batches(reads: Sequence[bytes], take: Callable[[list[Event]], None]) -> None:
        receive = session.receive
        for read in reads:
            take(receive(read, 1.0))
            while session.has_work:
                take(session.handle_timeout(1.0))

    return _tally(batches)


def of_connection(workload: Workload) -> Receive:
    """Use a connection, like a program written for wsproto."""
    connection = Connection(SERVER, list(_extensions(workload)), whole_messages=True)

    def batches(reads: Sequence[bytes], take: Callable[[list[Event]], None]) -> None:
        receive_data, events = connection.receive_data, connection.events
        for read in reads:
            receive_data(read)
            take(events())  # type: ignore[arg-type]

    return _tally(batches)


def of_parser(workload: Workload) -> Receive:
    """Use the parser alone."""
    limits = Limits()
    deflate = None
    for deflate in _extensions(workload):
        deflate.set_limits(limits)
    parser = FrameParser(False, limits, deflate, whole_messages=True)

    def batches(reads: Sequence[bytes], take: Callable[[list[Event]], None]) -> None:
        receive = parser.receive
        for read in reads:
            take(receive(read))
            while parser.paused:
                take(receive(b""))

    return _tally(batches)


CONNECT: dict[str, Callable[[Workload], Receive]] = {
    "Session": of_session,
    "Connection": of_connection,
    "FrameParser": of_parser,
}


def measure(chosen: Sequence[Workload], rounds: int) -> Results:
    """Measure the three.

    Raises:
        DeliveryError: A candidate delivered something other than what was sent.
    """
    results = Results(
        "A session beside what it is built on, CPU time in µs per message received",
        CANDIDATES,
        ["Session"],
    )
    for workload in chosen:
        texts = sum(isinstance(message, str) for message in workload.messages)
        size = sum(map(len, workload.messages))
        expected = Tally(texts, len(workload.messages) - texts, size)
        turns = []
        for name, connect in CONNECT.items():
            _check(name, connect, workload)
            turns.append(Turn(name, _prepared(connect, workload)))
        results.samples[workload.title] = take_turns(
            turns, expected=expected, operations=len(workload.messages), rounds=rounds
        )
    return results


def _prepared(
    connect: Callable[[Workload], Receive], workload: Workload
) -> Callable[[], Callable[[], Tally]]:
    def prepare() -> Callable[[], Tally]:
        receive = connect(workload)
        return lambda: receive(workload.reads, len)

    return prepare


def _check(name: str, connect: Callable[[Workload], Receive], workload: Workload) -> None:
    seen: list[Message] = []

    def keep(message: Message) -> int:
        seen.append(message)
        return len(message)

    connect(workload)(workload.reads, keep)
    if seen != list(workload.messages):
        raise DeliveryError(f"{name} does not deliver {workload.title}")


# -- memory ----------------------------------------------------------------------------------------


def _open_session() -> object:
    session = Session(SERVER, now=0.0)
    session.receive(REQUEST, 0.0)
    session.send(AcceptConnection(), 0.0)
    return _opened(session, session.data_to_send())


def _openers(missing: list[str]) -> dict[str, Callable[[], object]]:
    """Return the functions that open a connection through the handshake, by name."""
    openers: dict[str, Callable[[], object]] = {"wsproto_sip Session": _open_session}
    try:
        from wsproto import ConnectionType as WsprotoType, WSConnection
        from wsproto.events import AcceptConnection as WsprotoAccept
    except ImportError as error:
        missing.append(f"wsproto ({error})")
    else:

        def open_wsproto() -> object:
            connection = WSConnection(WsprotoType.SERVER)
            connection.receive_data(REQUEST)
            list(connection.events())
            return _opened(connection, connection.send(WsprotoAccept()))

        openers["wsproto"] = open_wsproto
    try:
        from websockets.server import ServerProtocol
    except ImportError as error:
        missing.append(f"websockets ({error})")
    else:

        def open_websockets() -> object:
            protocol = ServerProtocol()
            protocol.receive_data(REQUEST)
            [request] = protocol.events_received()
            protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
            return _opened(protocol, b"".join(protocol.data_to_send()))

        openers["websockets sans-IO"] = open_websockets
    return openers


def _opened(connection: object, response: bytes) -> object:
    if not response.startswith(b"HTTP/1.1 101 "):
        raise DeliveryError(f"{connection!r} is not open: {response!r}")
    return connection


def idle_memory(count: int, missing: list[str]) -> list[Figure]:
    """Return the memory of idle open connections in bytes."""
    figures = []
    for name, opened in _openers(missing).items():
        opened()
        gc.collect()
        tracemalloc.start()
        try:
            connections = [opened() for _ in range(count)]
            gc.collect()
            size = tracemalloc.get_traced_memory()[0] / len(connections)
        finally:
            tracemalloc.stop()
        goal = IDLE_GOAL if name.startswith("wsproto_sip") else None
        figures.append(Figure(f"an idle open connection, {name} ({count:,})", "B", size, goal))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was delivered and each attack ended correctly."""
    keys = [workload.key for workload in workloads(0)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default: 15)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*keys, "memory", "attacks"],
        metavar="WHAT",
        help=f"one of {', '.join(keys)}, memory, attacks; may be repeated",
    )
    parser.add_argument("--smoke", action="store_true", help="everything once, with few of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")

    smoke, only = options.smoke, options.only
    scale, rounds = (0.02, 1) if smoke else (1.0, options.rounds)
    chosen = [workload for workload in workloads(scale) if not only or workload.key in only]
    titles = {workload.title for workload in chosen}
    goals = [] if smoke else [goal for goal in GOALS if goal.workload in titles]
    missing: list[str] = []
    memory: list[Figure] = []
    hostile: list[Figure] = []
    try:
        results = measure(chosen, rounds)
        if not only or "memory" in only:
            memory = idle_memory(200 if smoke else 10_000, missing)
        if not only or "attacks" in only:
            hostile = [attack.run() for attack in attacks(scale)]
            hostile += [*handshakes(rounds), *growths(scale, min(rounds, 5)), *deadlines()]
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    results.missing = missing
    if smoke:
        for figure in (*memory, *hostile):
            figure.goal = None
    print(results.render(goals, markdown=options.markdown))
    for title, figures in (("memory", memory), ("hostile peers", hostile)):
        if figures:
            print("\n" + render_figures(title, figures, markdown=options.markdown))
    if smoke:
        print("\nsmoke run: everything was done; the figures mean nothing")
    if options.json:
        write_figures(
            options.json,
            [*memory, *hostile],
            receiving=results.report(goals),
            goals=[asdict(goal) for goal in goals],
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

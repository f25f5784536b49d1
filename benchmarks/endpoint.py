"""What many connections cost: received messages, keep-alive, memory, dumps.

Run from the root of the repository::

    python -m benchmarks.endpoint
    python -m benchmarks.endpoint --smoke
    python -m benchmarks.endpoint --connections 20000 --json FILE

Theory of operation: it cannot be compared with another implementation, so each figure has its own
goal; where it is the cost of an addition, the variants with and without it take turns. The share of
keep-alive is that of the passes, measured within a turn, because frames cost the same. Time is
simulated: a pass over the due connections is made when they are due, and their Pongs arrive before
the next one, outside the clock. Every figure comes with a check that the work was done: messages
counted, Pings counted, connections shown.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._harness import (
    DeliveryError,
    Figure,
    Turn,
    middle,
    render_figures,
    take_turns,
    write_figures,
)
from benchmarks._wire import masked
from wsproto_sip.events import AcceptConnection
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import Output
from wsproto_sip.server.management.commands import DumpCommand, DumpOrder, DumpResult
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
KEY = b"\x11\x22\x33\x44"
INTERVAL = 25.0
PING = SessionConfig(keepalive=KeepaliveConfig(interval=INTERVAL))
NONE = SessionConfig(keepalive=KeepaliveConfig(mechanism=Mechanism.NONE))


def text_frame(size: int) -> bytes:
    """Return a client's text frame."""
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2)
    return head + KEY + masked(b"x" * size, KEY)


def crowd(count: int, session: SessionConfig = PING) -> Endpoint:
    """Return an endpoint with many open connections, all accepted at the same time."""
    config = EndpointConfig(
        session=session,
        max_due=None,
        max_connections=None,
        max_per_address=None,
        max_handshaking=None,
        max_handshaking_per_address=None,
    )
    endpoint = Endpoint(config, now=0.0)
    for number in range(count):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        endpoint.receive(endpoint.accept((address, 40000), 0.0), REQUEST, 0.0)
    endpoint.take_output()
    if endpoint.statistics.values()["ws_current_connections"] != count:
        raise DeliveryError("not all connections are open")
    return endpoint


def answer(endpoint: Endpoint, outputs: Sequence[Output], now: float) -> int:
    """Answer the Pings that were sent, and return their number."""
    for output in outputs:
        if output.data[:2] != b"\x89\x08":
            raise DeliveryError(f"not a Ping: {output}")
        endpoint.receive(output.cid, b"\x8a\x88" + KEY + masked(output.data[2:], KEY), now)
    endpoint.take_output()
    return len(outputs)


def received(size: int, count: int, rounds: int) -> list[Figure]:
    """Measure a message per read, through a session alone and through an endpoint."""
    frame = text_frame(size)

    def of_session() -> Callable[[], int]:
        session = Session(ConnectionType.SERVER, now=0.0, config=PING)
        session.receive(REQUEST, 0.0)
        session.send(AcceptConnection(), 0.0)
        session.data_to_send()
        receive = session.receive
        return lambda: sum(len(receive(frame, 1.0)) for _ in range(count))

    def of_endpoint() -> Callable[[], int]:
        receive = crowd(10).receive
        return lambda: sum(len(receive(5, frame, 1.0)) for _ in range(count))

    samples = take_turns(
        [Turn("Session", of_session), Turn("Endpoint", of_endpoint)],
        expected=count,
        operations=count,
        rounds=rounds,
    )
    ratios = [b / a for a, b in zip(samples["Session"], samples["Endpoint"], strict=True)]
    return [
        *(middle(f"{size} B received, {name}", "µs", samples[name]) for name in samples),
        middle(f"{size} B received, Endpoint / Session", "", ratios),
    ]


class Traffic:
    """A table in which every connection receives a frame each second.

    Args:
        connections: The number of connections.
        session: The session configuration, with keep-alive.
        size: The size of a message in bytes.

    Attributes:
        shares: The part of each turn's CPU time that passes over due connections have taken.
    """

    def __init__(self, connections: int, session: SessionConfig, size: int) -> None:
        self.endpoint = crowd(connections, session)
        self.shares: list[float] = []
        # The first deadlines are spread over the second interval.
        self.now = int(INTERVAL)
        self._frame = text_frame(size)

    def seconds(self, seconds: int) -> int:
        """Receive for some seconds; return how much was received and sent."""
        endpoint, frame = self.endpoint, self._frame
        receive, cids = endpoint.receive, range(1, len(endpoint) + 1)
        total = passes = 0
        started = time.process_time_ns()
        for second in range(self.now + 1, self.now + 1 + seconds):
            now = float(second)
            for cid in cids:
                total += len(receive(cid, frame, now))
            due = time.process_time_ns()
            endpoint.handle_timeout(now)
            total += len(endpoint.take_output())
            passes += time.process_time_ns() - due
        self.now += seconds
        self.shares.append(passes / max(1, time.process_time_ns() - started))
        return total


def keepalive_of_traffic(
    connections: int, seconds: int, rounds: int, size: int, goal: float
) -> list[Figure]:
    """Measure the cost of keep-alive per frame if every connection receives one each second."""
    tables = {
        "with": Traffic(connections, PING, size),
        "without": Traffic(connections, NONE, size),
    }
    samples = take_turns(
        [
            Turn(name, lambda table=table: lambda: table.seconds(seconds))  # type: ignore[misc]
            for name, table in tables.items()
        ],
        expected=connections * seconds,
        operations=connections * seconds,
        rounds=rounds,
    )
    what = f"{size} B with keep-alive ({connections})"
    return [
        middle(what, "µs", samples["with"]),
        middle(f"{size} B without", "µs", samples["without"]),
        middle(f"{what}: share of the passes", "", tables["with"].shares, goal),
    ]


class Table:
    """A table whose connections are kept alive, some of them in each pass.

    Args:
        endpoint: The table.
        due: The number of connections due in a pass.
    """

    def __init__(self, endpoint: Endpoint, due: int) -> None:
        self.endpoint = endpoint
        # The first keep-alive comes after an interval of silence, spread over the next one.
        self.now = INTERVAL
        self.pings = 0
        self._step = due * INTERVAL / len(endpoint)
        self._outputs: list[Output] = []

    def prepare(self) -> Callable[[], int]:
        """Return the next pass."""
        self.pings += answer(self.endpoint, self._outputs, self.now)
        self.now += self._step
        endpoint, now = self.endpoint, self.now

        def run() -> int:
            endpoint.handle_timeout(now)
            self._outputs = endpoint.take_output()
            return 0

        return run


def passes(endpoint: Endpoint, small: Endpoint, due: int, rounds: int) -> list[Figure]:
    """Measure a keep-alive pass over idle connections, in a large table and in a small one."""
    tables = {"large": Table(endpoint, due), "small": Table(small, due)}
    turns = [Turn(name, table.prepare) for name, table in tables.items()]
    samples = take_turns(turns, expected=0, operations=due, rounds=rounds)
    for table in tables.values():
        # Those of the last pass are not counted yet.
        if abs(table.pings - due * rounds) > due * rounds * 0.1:
            raise DeliveryError(f"{table.pings} Pings instead of {due * rounds}")
    ratios = [a / b for a, b in zip(samples["large"], samples["small"], strict=True)]

    def idle() -> Callable[[], int]:
        now = tables["large"].now
        return lambda: sum(len(endpoint.handle_timeout(now)) for _ in range(1000))

    empty = take_turns([Turn("", idle)], expected=0, operations=1000, rounds=rounds)[""]
    return [
        middle(f"a pass, for each of {due} due ({len(endpoint)})", "µs", samples["large"]),
        middle(f"a pass, for each of {due} due ({len(small)})", "µs", samples["small"]),
        middle("a pass, large / small table", "", ratios, 2.0),
        middle(f"a pass with nothing due ({len(endpoint)})", "µs", empty),
    ]


def dumps(endpoint: Endpoint, rounds: int) -> list[Figure]:
    """Measure dumps of 50 connections in every order, from the start and from the middle."""
    figures = []
    for order in DumpOrder:
        for offset, goal in ((0, 1000.0), (len(endpoint) // 2, None)):
            command = DumpCommand(order, offset, 50)
            times = 10 if offset == 0 else 1

            def prepare(command: DumpCommand = command, times: int = times) -> Callable[[], int]:
                def run() -> int:
                    shown = 0
                    for _ in range(times):
                        result = endpoint.execute(command, 1000.0)
                        assert isinstance(result, DumpResult)
                        shown += len(result.connections)
                    return shown

                return run

            samples = take_turns(
                [Turn("", prepare)], expected=50 * times, operations=times, rounds=rounds
            )[""]
            where = "" if offset == 0 else f" from {offset}"
            figures.append(middle(f"dump of 50{where}, {order.value}", "µs", samples, goal))
    return figures


def accepting(count: int, rounds: int) -> list[Figure]:
    """Measure accepting a transport, and the whole opening handshake."""

    def accept() -> Callable[[], int]:
        endpoint = crowd(0)
        return lambda: len({endpoint.accept(("192.0.2.1", port), 0.0) for port in range(count)})

    def open_all() -> Callable[[], int]:
        return lambda: len(crowd(count))

    figures = []
    for what, prepare in (("accept", accept), ("accept and handshake", open_all)):
        samples = take_turns([Turn("", prepare)], expected=count, operations=count, rounds=rounds)[
            ""
        ]
        figures.append(middle(what, "µs", samples))
    return figures


def memory(count: int) -> Figure:
    """Return the bytes of an idle connection, including its peer's address."""
    crowd(100)
    gc.collect()
    tracemalloc.start()
    try:
        endpoint = crowd(count)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] / len(endpoint)
    finally:
        tracemalloc.stop()
    return Figure(f"memory of an idle connection ({count})", "B", size, 2048.0)


def measure(connections: int, scale: float, rounds: int) -> list[Figure]:
    """Measure all figures.

    Args:
        connections: The number of idle connections.
        scale: The size of everything else; 1 for meaningful figures.
        rounds: How often each is timed.

    Raises:
        DeliveryError: The measured work was not done.
    """
    few = max(int(1000 * scale), 20)
    figures = [
        *received(20, int(20_000 * scale), rounds),
        *received(800, int(20_000 * scale), rounds),
        *keepalive_of_traffic(few, 50, rounds, 20, 0.1),
        *keepalive_of_traffic(connections, 5, min(rounds, 3), 800, 0.06),
        *accepting(few, rounds),
        memory(max(connections // 5, 20)),
    ]
    endpoint, small = crowd(connections), crowd(max(connections // 25, 20))
    due = max(connections // 250, 10)
    return [*figures, *passes(endpoint, small, due, rounds), *dumps(endpoint, rounds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if all of the measured work was done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--connections", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--smoke", action="store_true", help="everything once, with few of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.connections < 200:
        parser.error("--connections must be 200 or more")

    smoke = options.smoke
    try:
        figures = measure(
            500 if smoke else options.connections,
            0.02 if smoke else 1,
            1 if smoke else options.rounds,
        )
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    if smoke:
        for figure in figures:
            figure.goal = None
    print(render_figures("many connections", figures, markdown=options.markdown))
    if smoke:
        print("\nsmoke run: everything was done; the figures mean nothing")
    if options.json:
        write_figures(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

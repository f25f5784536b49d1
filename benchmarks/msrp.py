"""What relaying an MSRP chunk costs, in memory and over loopback.

Run from the root of the repository::

    python -m benchmarks.msrp
    python -m benchmarks.msrp --smoke
    python -m benchmarks.msrp --markdown

Theory of operation: one client sends a message in chunks through the relay to another one, both
with a session. A *transaction* is all the work of the relay for a chunk: it takes the SEND, answers
it, forwards it, and takes the receiver's response. *Forwarding* is the same without responses
(Failure-Report: no). The other columns are parts of it on their own. No sockets and no WebSocket
frames are involved; CPU time counts. The output must contain all bytes of the input.

The goal is for one ratio: a transaction with a chunk of 2 KiB by the parsing of that chunk, from
medians of rounds in which the columns take turns. The time of a transaction includes that of this
program for making the receiver's response, about 0.5 µs. A round has a thousand chunks: the parser
would remember the header lines of a few hundred, and parse them faster than new ones.

Over loopback the relay runs in a separate process, on asyncio, with WebSocket; this process is both
clients, with frames made in advance. ``server`` is the CPU time of the relay's process for a
transaction, ``wall`` the elapsed time; the difference is that of the clients, which share the
machine. MB/s are the bodies' bytes by wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from benchmarks._harness import DeliveryError, Turn, markdown_table, plain_table, take_turns
from benchmarks._loopback import HOST, Wire, frame_of
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.msrp import MsrpService
from wsproto_sip.auth.identity import Identity
from wsproto_sip.msrp import (
    Continuation,
    MessageSplitter,
    MsrpApplication,
    MsrpRelay,
    MsrpRelayConfig,
    MsrpRequest,
    MsrpStreamParser,
    MsrpUri,
    SendChunk,
    new_transaction_id,
    parse_chunk,
    parse_path,
)
from wsproto_sip.policy.decision import Continue, Decision, PolicyChain, RequestContext
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.session.config import SessionConfig

SIZES = (100, 2048, 16384)
#: A transaction with a chunk of this size may take so many times the time of its parsing.
GOAL_SIZE, GOAL = 2048, 1.6
COLUMNS = ("transaction", "forwarding", "parsing", "serialising", "framing")
RELAY = MsrpUri.build("relay.example", 2855, secure=True, transport="ws")
CONFIG = MsrpRelayConfig("relay.example", 2855)


class Pair:
    """A relay with two clients that have sessions.

    Args:
        exchange: Passes a client's chunk to another relay, and returns its answer.
    """

    def __init__(self, exchange: Callable[[int, bytes], bytes] | None = None) -> None:
        self.relay = MsrpRelay(CONFIG)
        self._exchange = exchange or self._in_memory
        self.alice = self._join(1)
        self.carol = self._join(2)

    def _in_memory(self, number: int, data: bytes) -> bytes:
        self.relay.connection_opened(number, 0.0, identity=str(number))
        (action,) = self.relay.receive(number, data, 0.0)
        assert isinstance(action, SendChunk)
        return action.data

    def _join(self, number: int) -> tuple[MsrpUri, MsrpUri]:
        local = MsrpUri.build(f"{number}.invalid", 2855, "a" * 20, secure=True, transport="ws")
        request = MsrpRequest(new_transaction_id(), b"AUTH", (RELAY,), (local,))
        answer = self._exchange(number, request.to_bytes())
        (session,) = parse_path(parse_chunk(answer).header(b"use-path") or b"")
        return session, local

    @property
    def answer(self) -> bytes:
        """Return the receiver's answer, with two gaps for the transaction id."""
        return b"MSRP %%b 200 OK\r\nTo-Path: %b\r\nFrom-Path: %b\r\n-------%%b$\r\n" % (
            self.carol[0].raw,
            self.carol[1].raw,
        )

    def chunks(self, body: bytes, size: int, *, reports: bool) -> list[bytes]:
        """Return the chunks of a message from one client to the other."""
        splitter = MessageSplitter(body, chunk_size=size)
        chunks = []
        while not splitter.finished:
            piece = splitter.next_piece()
            request = MsrpRequest(
                new_transaction_id(piece.data),
                b"SEND",
                (self.alice[0], *self.carol),
                (self.alice[1],),
                [
                    (b"Message-ID", b"0123456789"),
                    (b"Byte-Range", bytes(piece.byte_range)),
                    *([] if reports else [(b"Failure-Report", b"no")]),
                    (b"Content-Type", b"application/octet-stream"),
                ],
                piece.data,
                piece.continuation,
            )
            chunks.append(request.to_bytes())
        return chunks


def _relay(body: bytes, size: int, *, reports: bool) -> Callable[[], int]:
    pair = Pair()
    chunks = pair.chunks(body, size, reports=reports)
    receive = pair.relay.receive
    forwarded: list[bytes] = []
    answer = pair.answer

    def run() -> int:
        for chunk in chunks:
            actions = receive(1, chunk, 0.0)
            action = actions[-1]
            assert isinstance(action, SendChunk)
            forwarded.append(action.data)
            if reports:
                tid = action.data[5:25]
                receive(2, answer % (tid, tid), 0.0)
        if pair.relay.transactions:
            raise DeliveryError(f"{pair.relay.transactions} transactions are left over")
        # The bytes themselves are compared by check_delivery.
        return size * len(forwarded)

    return run


def _parse(body: bytes, size: int) -> Callable[[], int]:
    chunks = Pair().chunks(body, size, reports=True)

    def run() -> int:
        total = 0
        for chunk in chunks:
            request = parse_chunk(chunk)
            assert isinstance(request, MsrpRequest)
            total += len(request.body or b"")
        return total

    return run


def _serialise(body: bytes, size: int) -> Callable[[], int]:
    requests = [parse_chunk(chunk) for chunk in Pair().chunks(body, size, reports=True)]
    head = len(requests[0].to_bytes())

    def run() -> int:
        for request in requests:
            if len(request.to_bytes()) < min(head, size):
                raise DeliveryError("a chunk is too short")
        return len(body)

    return run


def _frame(body: bytes, size: int) -> Callable[[], int]:
    stream = b"".join(Pair().chunks(body, size, reports=True))
    reads = [stream[at : at + 65536] for at in range(0, len(stream), 65536)]
    parser = MsrpStreamParser()

    def run() -> int:
        if sum(len(chunk) for read in reads for chunk in parser.receive(read)) != len(stream):
            raise DeliveryError("the stream was not cut as it was joined")
        return len(body)

    return run


def check_delivery(size: int, count: int) -> None:
    """Relay a message once and compare its bytes.

    Raises:
        DeliveryError: The output differs from the input.
    """
    pair = Pair()
    body = random.Random(size).randbytes(size * count)
    received = bytearray()
    for chunk in pair.chunks(body, size, reports=True):
        action = pair.relay.receive(1, chunk, 0.0)[-1]
        request = parse_chunk(action.data) if isinstance(action, SendChunk) else None
        if not isinstance(request, MsrpRequest) or request.to_path != pair.carol[1:]:
            raise DeliveryError(f"not forwarded: {action}")
        received += request.body or b""
        last = request.continuation
    if received != body or last is not Continuation.COMPLETE:
        raise DeliveryError("the message was changed on its way")


def measure(size: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Measure the microseconds per chunk for each column, one figure per round."""
    body = random.Random(size).randbytes(size * count)
    prepare: dict[str, Callable[[], Callable[[], int]]] = {
        "transaction": lambda: _relay(body, size, reports=True),
        "forwarding": lambda: _relay(body, size, reports=False),
        "parsing": lambda: _parse(body, size),
        "serialising": lambda: _serialise(body, size),
        "framing": lambda: _frame(body, size),
    }
    return take_turns(
        [Turn(name, prepare[name]) for name in COLUMNS],
        expected=len(body),
        operations=count,
        rounds=rounds,
    )


# -- over loopback ---------------------------------------------------------------------------------


def _known(context: RequestContext) -> Decision:
    return Continue(identity=Identity(context.request.target))


async def _serve() -> None:
    """Run the relay's process: print its port, and its CPU time so far for each line of input."""
    session = SessionConfig()
    session = replace(session, profiles=subprotocol_profiles(session))
    policies = PolicyChain([_known, SubprotocolPolicy(["msrp"])])
    loop = asyncio.get_running_loop()
    endpoint = Endpoint(EndpointConfig(session=session, policies=policies), now=loop.time())
    server = EndpointServer(endpoint, lambda *event: service.handle(*event))  # noqa: PLW0108
    application = MsrpApplication(endpoint, MsrpRelay(CONFIG), allow_insecure=True)
    service = MsrpService(server, application, {})
    ((_, port),) = await server.listen(HOST, 0)
    print(port, flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(time.process_time_ns(), flush=True)
    await service.close()
    await server.close()


@contextmanager
def _relay_process() -> Iterator[tuple[int, Callable[[], int]]]:
    """Yield the relay's port, and a function that returns its CPU time in nanoseconds."""
    command = [sys.executable, "-m", "benchmarks.msrp", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def used() -> int:
            stdin.write(b"\n")
            stdin.flush()
            return int(stdout.readline())

        try:
            yield int(stdout.readline()), used
        finally:
            stdin.close()


def _receive(wire: Wire, answer: bytes, count: int, arrived: list[bytes]) -> None:
    """Answer each chunk, as the receiver."""
    for chunks in wire.messages():
        arrived += chunks
        answers = [frame_of(answer % (tid, tid)) for tid in (chunk[5:25] for chunk in chunks)]
        wire.sock.sendall(b"".join(answers))
        if len(arrived) >= count:
            return


def _drain(wire: Wire, count: int) -> None:
    """Take the answers, as the sender's other half."""
    for chunks in wire.messages():
        count -= len(chunks)
        if count <= 0:
            return


def loopback(size: int, count: int, rounds: int) -> tuple[float, float]:
    """Measure the microseconds per chunk over loopback: the relay's CPU time, and wall time.

    Raises:
        DeliveryError: The output differs from the input.
    """
    body = random.Random(size).randbytes(size * count)
    figures: list[tuple[float, float]] = []
    with _relay_process() as (port, used):
        for _ in range(rounds):
            wires = {1: Wire(port, "msrp", "/1"), 2: Wire(port, "msrp", "/2")}

            def exchange(number: int, data: bytes, wires: dict[int, Wire] = wires) -> bytes:
                wires[number].sock.sendall(frame_of(data))
                return next(wires[number].messages())[0]

            pair = Pair(exchange)
            stream = b"".join(map(frame_of, pair.chunks(body, size, reports=True)))
            arrived: list[bytes] = []
            threads = [
                threading.Thread(target=_receive, args=(wires[2], pair.answer, count, arrived)),
                threading.Thread(target=_drain, args=(wires[1], count)),
            ]
            cpu, clock = used(), time.perf_counter_ns()
            for thread in threads:
                thread.start()
            wires[1].sock.sendall(stream)
            for thread in threads:
                thread.join()
            clock = time.perf_counter_ns() - clock
            figures.append(((used() - cpu) / count / 1000, clock / count / 1000))
            for wire in wires.values():
                wire.sock.close()
            requests = [parse_chunk(chunk) for chunk in arrived]
            if b"".join(getattr(request, "body", None) or b"" for request in requests) != body:
                raise DeliveryError("the message was changed on its way")
    middle = len(figures) // 2
    return sorted(cpu for cpu, _ in figures)[middle], sorted(wall for _, wall in figures)[middle]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was delivered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.msrp", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="everything once, with few chunks")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(_serve())
        return 0
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    rows = [["µs per chunk, in memory", *COLUMNS, "MB/s relayed"]]
    outside = [["µs per chunk, over loopback", "server", "wall", "MB/s relayed"]]
    goals = [["in memory", "measured", "at most", ""]]
    count, rounds = (20, 1) if options.smoke else (1000, options.rounds)
    try:
        for size in SIZES:
            check_delivery(size, 20)
            samples = measure(size, count, rounds)
            medians = {
                name: sorted(figures)[len(figures) // 2] for name, figures in samples.items()
            }
            rows.append(
                [
                    f"{size} B",
                    *(f"{medians[name]:.1f}" for name in COLUMNS),
                    f"{size / medians['transaction']:.1f}",
                ]
            )
            if size == GOAL_SIZE:
                ratio = medians["transaction"] / medians["parsing"]
                verdict = "reached" if ratio <= GOAL else "NOT REACHED"
                name = f"{size} B, transaction / parsing"
                goals.append([name, f"{ratio:.2f}", f"{GOAL}", verdict])
            server, wall = loopback(size, 5 * count, rounds)
            outside.append([f"{size} B", f"{server:.1f}", f"{wall:.1f}", f"{size / wall:.1f}"])
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    table = markdown_table if options.markdown else plain_table
    print(table(rows), table(outside), sep="\n\n")
    if not options.smoke:
        print("", table(goals), sep="\n")
    if options.smoke:
        print("\nsmoke run: everything was delivered; the figures mean nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())

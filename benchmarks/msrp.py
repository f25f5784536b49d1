"""What relaying a chunk of MSRP costs, in memory.

Run from the root of the repository::

    python -m benchmarks.msrp
    python -m benchmarks.msrp --smoke
    python -m benchmarks.msrp --markdown

Theory of operation: one client sends a message in chunks through the relay to another one, both
with a session. A *transaction* is all the relay does for a chunk: it takes the SEND, answers it,
forwards it, and takes the receiver's response. *Forwarding* is the same without responses
(Failure-Report: no). The other columns are parts of it on their own. No sockets and no WebSocket
frames are involved; CPU time counts. What comes out must hold all octets that went in.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence

from benchmarks._harness import DeliveryError, Turn, markdown_table, plain_table, take_turns
from wsproto_sip.msrp import (
    Continuation,
    MessageSplitter,
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

SIZES = (100, 2048, 16384)
COLUMNS = ("transaction", "forwarding", "parsing", "serialising", "framing")
RELAY = MsrpUri.build("relay.example", 2855, secure=True, transport="ws")
CONFIG = MsrpRelayConfig("relay.example", 2855)


class Pair:
    """A relay with two clients that have sessions."""

    def __init__(self) -> None:
        self.relay = MsrpRelay(CONFIG)
        self.alice = self._join(1)
        self.carol = self._join(2)

    def _join(self, number: int) -> tuple[MsrpUri, MsrpUri]:
        self.relay.connection_made(number, 0.0, identity=str(number))
        local = MsrpUri.build(f"{number}.invalid", 2855, "a" * 20, secure=True, transport="ws")
        request = MsrpRequest(new_transaction_id(), b"AUTH", (RELAY,), (local,))
        (action,) = self.relay.receive(number, request.to_bytes(), 0.0)
        assert isinstance(action, SendChunk)
        (session,) = parse_path(parse_chunk(action.data).header(b"use-path") or b"")
        return session, local

    def chunks(self, body: bytes, size: int, *, reports: bool) -> list[bytes]:
        """A message from the one to the other."""
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
    answer = b"MSRP %%b 200 OK\r\nTo-Path: %b\r\nFrom-Path: %b\r\n-------%%b$\r\n" % (
        pair.carol[0].raw,
        pair.carol[1].raw,
    )

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
        # The octets themselves are compared by check_delivery.
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
    """Relay a message once and compare its octets.

    Raises:
        DeliveryError: It did not come out as it went in.
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
    """Microseconds a chunk for each column, one figure a round."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when everything was delivered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.msrp", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="everything once, with few chunks")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    rows = [["µs per chunk", *COLUMNS, "MB/s relayed"]]
    try:
        for size in SIZES:
            check_delivery(size, 20)
            samples = measure(
                size, 20 if options.smoke else 1000, 1 if options.smoke else options.rounds
            )
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
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    print((markdown_table if options.markdown else plain_table)(rows))
    if options.smoke:
        print("\nsmoke run: everything was delivered; the figures mean nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())

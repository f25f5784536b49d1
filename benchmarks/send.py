"""What sending a message costs, either role, against other libraries.

Run from the root of the repository::

    python -m benchmarks.send
    python -m benchmarks.send --smoke
    python -m benchmarks.send --markdown

Theory of operation: every candidate turns the same message into a frame again and again, from an
open connection made before the clock starts, and the lengths of what is to be written are added
up. What each of them writes is taken apart once before the clock starts, and must be one frame
with the message in it: unmasked from a server, masked from a client.
"""

from __future__ import annotations

import argparse
import importlib
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._harness import DeliveryError, Goal, Results, Turn, take_turns
from benchmarks._wire import BINARY, FIN, TEXT, Message, binary, invite, masked, plain_text

#: Rows: title, message, how many are sent a turn.
MESSAGES: list[tuple[str, Message, int]] = [
    ("20 B text", plain_text(1, 20), 10000),
    ("800 B SIP text", invite(1, 800), 5000),
    ("64 KiB binary", binary(1, 65536), 200),
]
GOALS = [
    Goal("20 B text, server", "wsproto_sip", "wsproto", 0.25),
    Goal("20 B text, client", "wsproto_sip", "wsproto", 0.35),
    Goal("800 B SIP text, server", "wsproto_sip", "wsproto", 0.35),
    Goal("800 B SIP text, client", "wsproto_sip", "wsproto", 0.50),
    Goal("64 KiB binary, server", "wsproto_sip", "wsproto", 0.40),
    Goal("64 KiB binary, client", "wsproto_sip", "wsproto", 0.95),
]

#: Sends one message, gives the octets.
Send = Callable[[], bytes]


def wsproto_like(package: str, client: bool, message: Message) -> Send:
    """``Connection.send`` of this package or of wsproto, the event included."""
    connection = importlib.import_module(f"{package}.connection")
    events = importlib.import_module(f"{package}.events")
    role = connection.ConnectionType.CLIENT if client else connection.ConnectionType.SERVER
    send = connection.Connection(role).send
    kind = events.TextMessage if isinstance(message, str) else events.BytesMessage
    return lambda: send(kind(message))  # type: ignore[no-any-return]


def websockets_sans_io(client: bool, message: Message) -> Send:
    """``send_text`` or ``send_binary``, and what is to be written, joined."""
    state = importlib.import_module("websockets.protocol").OPEN
    connection: Any
    if client:
        uri = importlib.import_module("websockets.uri").parse_uri("ws://127.0.0.1/")
        connection = importlib.import_module("websockets.client").ClientProtocol(uri, state=state)
    else:
        connection = importlib.import_module("websockets.server").ServerProtocol(state=state)
    take = connection.data_to_send
    if isinstance(message, str):
        return lambda: connection.send_text(message.encode()) or b"".join(take())
    return lambda: connection.send_binary(message) or b"".join(take())


CANDIDATES: dict[str, tuple[str, Callable[[bool, Message], Send]]] = {
    "wsproto_sip": ("Connection.send", lambda *case: wsproto_like("wsproto_sip", *case)),
    "wsproto": ("Connection.send", lambda *case: wsproto_like("wsproto", *case)),
    "websockets": (
        "the sans-IO protocol's send_ methods and data_to_send, with its C mask where it is built",
        websockets_sans_io,
    ),
}


def check(candidate: str, octets: bytes, client: bool, message: Message) -> None:
    """Takes a frame apart (RFC 6455 §5.2).

    Raises:
        DeliveryError: It is not the message's.
    """
    payload = message.encode() if isinstance(message, str) else message
    size = len(payload)
    mask_bit = 0x80 if client else 0
    head = bytes([FIN | (TEXT if isinstance(message, str) else BINARY)])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    rest = bytes(octets).removeprefix(head)
    if client:
        rest = masked(rest[4:], rest[:4])
    if not octets.startswith(head) or rest != payload:
        raise DeliveryError(f"{candidate} does not send the message of {size} octets")


def measure(results: Results, scale: float, rounds: int) -> None:
    """Times every candidate on every message, as server and as client."""
    for title, message, count in MESSAGES:
        number = max(3, round(count * scale))
        for client in (False, True):
            turns = []
            size = 0
            for candidate in results.candidates:
                send = CANDIDATES[candidate][1](client, message)
                octets = send()
                check(candidate, octets, client, message)
                size = len(octets)
                turns.append(Turn(candidate, _turn(send, number)))
            results.samples[f"{title}, {'client' if client else 'server'}"] = take_turns(
                turns, expected=size * number, operations=number, rounds=rounds
            )


def _turn(send: Send, number: int) -> Callable[[], Callable[[], int]]:
    def run() -> int:
        total = 0
        for _ in range(number):
            total += len(send())
        return total

    return lambda: run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every candidate sent the messages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.send", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="everything once, a few times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    results = Results("Sending whole messages, CPU time in µs per message", {}, ["wsproto_sip"])
    for name, (note, make) in CANDIDATES.items():
        try:
            make(False, "")
        except ImportError as error:
            results.missing.append(f"{name} ({error})")
        else:
            results.candidates[name] = note
    try:
        measure(results, 0.01 if options.smoke else 1.0, 1 if options.smoke else options.rounds)
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    goals = [] if options.smoke else GOALS
    print(results.render(goals, markdown=options.markdown))
    if options.smoke:
        print("\nsmoke run: everything was sent; the figures mean nothing")
    if options.json:
        results.write_json(options.json, goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())

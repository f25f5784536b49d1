"""What sending a message costs, in either role, compared with other libraries.

Run from the root of the repository::

    python -m benchmarks.send
    python -m benchmarks.send --smoke
    python -m benchmarks.send --markdown

Theory of operation: every candidate turns the same message into a frame again and again, on an open
connection created before the clock starts, and the lengths of the output are added up. The output
of each is parsed once before the clock starts, and must be one frame with the message: unmasked
from a server, masked from a client.
"""

from __future__ import annotations

import asyncio
import importlib
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks._harness import DeliveryError, Goal, Results, Turn, read_options, take_turns
from benchmarks._wire import BINARY, FIN, TEXT, Message, binary, invite, masked, plain_text

#: Rows: title, message, number of messages in a turn.
MESSAGES: list[tuple[str, Message, int]] = [
    ("20 B text", plain_text(1, 20), 10000),
    ("800 B SIP text", invite(1, 800), 5000),
    ("64 KiB binary", binary(1, 65536), 200),
]
GOALS = [
    Goal("800 B SIP text, server", "wsproto_sip", "websockets", 0.45),
    Goal("800 B SIP text, client", "wsproto_sip", "websockets", 1.20),
    Goal("20 B text, server", "wsproto_sip", "wsproto", 0.25),
    Goal("20 B text, client", "wsproto_sip", "wsproto", 0.35),
    Goal("800 B SIP text, server", "wsproto_sip", "wsproto", 0.35),
    Goal("800 B SIP text, client", "wsproto_sip", "wsproto", 0.50),
    Goal("64 KiB binary, server", "wsproto_sip", "wsproto", 0.40),
    Goal("64 KiB binary, client", "wsproto_sip", "wsproto", 0.95),
]

#: Sends one message, returns the bytes.
Send = Callable[[], bytes]


def wsproto_like(package: str, client: bool, message: Message) -> Send:
    """Use ``Connection.send`` of this package or of wsproto, creating the event."""
    connection = importlib.import_module(f"{package}.connection")
    events = importlib.import_module(f"{package}.events")
    role = connection.ConnectionType.CLIENT if client else connection.ConnectionType.SERVER
    send = connection.Connection(role).send
    kind = events.TextMessage if isinstance(message, str) else events.BytesMessage
    return lambda: send(kind(message))  # type: ignore[no-any-return]


def websockets_sans_io(client: bool, message: Message) -> Send:
    """Use ``send_text`` or ``send_binary``, and join the output."""
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


class _Kept:
    """The transport that aiohttp writes to."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)


def aiohttp_writer(client: bool, message: Message) -> Send:
    """Use ``WebSocketWriter.send_frame``, whose coroutine does not wait here."""
    base_protocol = importlib.import_module("aiohttp.base_protocol")
    writer_module = importlib.import_module("aiohttp._websocket.writer")
    kinds = importlib.import_module("aiohttp._websocket.models").WSMsgType
    loop = asyncio.new_event_loop()
    loop.close()  # it is only kept, because nothing has to wait
    transport = _Kept()
    protocol = base_protocol.BaseProtocol(loop)
    send_frame = writer_module.WebSocketWriter(protocol, transport, use_mask=client).send_frame
    kind = kinds.TEXT if isinstance(message, str) else kinds.BINARY

    def run() -> bytes:
        # Like the send methods of its connections.
        data = message.encode() if isinstance(message, str) else message
        try:
            send_frame(data, kind).send(None)
        except StopIteration:
            raw = b"".join(transport.pieces)
            transport.pieces.clear()
            return raw
        raise DeliveryError("aiohttp had to wait")

    return run


def picows_transport(client: bool, message: Message) -> Send:
    """Use ``WSTransport.send``."""
    picows = importlib.import_module("picows")
    protocol, underneath = importlib.import_module("benchmarks._picows").open_picows(
        picows.WSListener(), client=client
    )
    send = protocol.transport.send
    kind = picows.WSMsgType.TEXT if isinstance(message, str) else picows.WSMsgType.BINARY

    def run() -> bytes:
        send(kind, message)
        raw: bytes = underneath.written
        underneath.written = b""
        return raw

    return run


CANDIDATES: dict[str, tuple[str, Callable[[bool, Message], Send]]] = {
    "wsproto_sip": ("Connection.send", lambda *case: wsproto_like("wsproto_sip", *case)),
    "wsproto": ("Connection.send", lambda *case: wsproto_like("wsproto", *case)),
    "websockets": (
        "the sans-IO protocol's send_ methods and data_to_send, with its C mask where it is built",
        websockets_sans_io,
    ),
    "aiohttp": (
        "WebSocketWriter.send_frame with its compiled mask function; its transport keeps the data",
        aiohttp_writer,
    ),
    "picows": (
        "WSTransport.send without its own transport, which writes to the socket past the loop's",
        picows_transport,
    ),
}


def check(candidate: str, raw: bytes, client: bool, message: Message) -> None:
    """Parse a frame (RFC 6455 §5.2).

    Raises:
        DeliveryError: The frame does not contain the message.
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
    rest = bytes(raw).removeprefix(head)
    if client:
        rest = masked(rest[4:], rest[:4])
    if not raw.startswith(head) or rest != payload:
        raise DeliveryError(f"{candidate} does not send the message of {size} bytes")


def measure(results: Results, scale: float, rounds: int) -> None:
    """Time every candidate on every message, as server and as client."""
    for title, message, count in MESSAGES:
        number = max(3, round(count * scale))
        for client in (False, True):
            turns = []
            size = 0
            for candidate in results.candidates:
                send = CANDIDATES[candidate][1](client, message)
                raw = send()
                check(candidate, raw, client, message)
                size = len(raw)
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
    """Run the benchmark; return 0 if every candidate sent the messages."""
    options = read_options("send", __doc__ or "", arguments, rounds=9)
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

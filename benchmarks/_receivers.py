"""The candidates of the receive benchmark: how each library is opened and used.

Theory of operation: a candidate creates an open connection for a workload, outside the clock, and
returns the function to be timed: it feeds the reads one by one and after each checks the type of
every event, joins the pieces of a message if the library leaves that to its caller, and adds up the
lengths. If a library has a cheaper way than its documented one, the cheaper way is measured.
Private parts of a peer are only used to skip its handshake.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import wsproto_sip
from benchmarks._harness import DeliveryError
from benchmarks._least import receiver
from benchmarks._picows import feed, open_picows
from benchmarks._wire import Message, Workload, client_frames
from wsproto_sip import masking
from wsproto_sip.events import BytesMessage, TextMessage

#: The column of what pure Python has to take at least.
LEAST = "least"


class Tally(NamedTuple):
    """The messages that a consumer got.

    Args:
        texts: Number of text messages.
        binaries: Number of binary messages.
        size: Their total length in characters and bytes.
    """

    texts: int
    binaries: int
    size: int


#: Takes one whole message, returns its length: ``len`` in a timed turn.
SizeOf = Callable[[Message], int]
#: Takes the reads of a workload, returns the tally.
Receive = Callable[[Sequence[bytes], SizeOf], Tally]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to receive messages.

    Args:
        name: Column of the tables.
        note: How it is run, and how it skips the handshake.
        connect: Creates an open connection for a workload and returns its receiving side.
        skips: Returns why a workload is not for this candidate, or ``None``.
        ours: Whether it is this package.
    """

    name: str
    note: str
    connect: Callable[[Workload], Receive]
    skips: Callable[[Workload], str | None] = lambda workload: None
    ours: bool = False


def _unexpected(event: object) -> DeliveryError:
    return DeliveryError(f"an unexpected event: {event!r}")


# ---------------------------------------------------------------------------------------------
# wsproto's interface: this package and wsproto.


def _whole_messages(connection: Any, events: ModuleType) -> Receive:
    text_type, bytes_type = events.TextMessage, events.BytesMessage

    def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
        texts = binaries = size = 0
        receive_data, take_events = connection.receive_data, connection.events
        for read in reads:
            receive_data(read)
            for event in take_events():
                kind = type(event)
                if kind is text_type:
                    texts += 1
                    size += size_of(event.data)
                elif kind is bytes_type:
                    binaries += 1
                    size += size_of(event.data)
                else:
                    raise _unexpected(event)
        return Tally(texts, binaries, size)

    return receive


def _streamed_messages(connection: Any, events: ModuleType) -> Receive:
    text_type, bytes_type = events.TextMessage, events.BytesMessage

    def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
        texts = binaries = size = 0
        pieces: list[Any] = []
        receive_data, take_events = connection.receive_data, connection.events
        for read in reads:
            receive_data(read)
            for event in take_events():
                kind = type(event)
                if kind is text_type:
                    if not event.message_finished:
                        pieces.append(event.data)
                        continue
                    texts += 1
                    if pieces:
                        pieces.append(event.data)
                        size += size_of("".join(pieces))
                        pieces.clear()
                    else:
                        size += size_of(event.data)
                elif kind is bytes_type:
                    if not event.message_finished:
                        pieces.append(event.data)
                        continue
                    binaries += 1
                    if pieces:
                        pieces.append(event.data)
                        size += size_of(b"".join(pieces))
                        pieces.clear()
                    else:
                        size += size_of(event.data)
                else:
                    raise _unexpected(event)
        return Tally(texts, binaries, size)

    return receive


def _wsproto_like(
    package: str,
    consume: Callable[[Any, ModuleType], Receive],
    mask: Callable[[bytes, bytes], bytes] | None = None,
    **options: Any,
) -> Callable[[Workload], Receive]:
    connection = importlib.import_module(f"{package}.connection")
    events = importlib.import_module(f"{package}.events")
    extensions = importlib.import_module(f"{package}.extensions")

    def connect(workload: Workload) -> Receive:
        masking.use(mask)  # until the next connection is made, so for this one's turn
        negotiated = []
        if workload.deflate:
            negotiated.append(extensions.PerMessageDeflate())
            negotiated[0].accept("permessage-deflate")
        server = connection.ConnectionType.SERVER
        return consume(connection.Connection(server, negotiated, **options), events)

    return connect


def load_ours() -> list[Candidate]:
    return [
        Candidate(
            "wsproto_sip",
            "Connection(SERVER, whole_messages=True), the class WSConnection hands its input to "
            "once the handshake is done; with deflate, an extension object that has accepted "
            f"the offer; {wsproto_sip.implementation} engine",
            _wsproto_like("wsproto_sip", _whole_messages, whole_messages=True),
            ours=True,
        ),
        Candidate(
            "wsproto_sip streaming",
            "the same Connection without whole_messages, as a program written for wsproto uses "
            "it; the consumer joins the pieces",
            _wsproto_like("wsproto_sip", _streamed_messages),
            ours=True,
        ),
    ]


def load_ours_with_another_mask() -> list[Candidate]:
    speedups = importlib.import_module("websockets.speedups")
    return [
        Candidate(
            "wsproto_sip + C XOR",
            "the same as wsproto_sip, with the mask function of websockets plugged in by "
            "masking.use",
            _wsproto_like(
                "wsproto_sip", _whole_messages, mask=speedups.apply_mask, whole_messages=True
            ),
            ours=True,
        )
    ]


def _least() -> Callable[[Workload], Receive]:
    def connect(workload: Workload) -> Receive:
        generator = receiver()
        next(generator)
        take = generator.send

        def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            texts = binaries = size = 0
            for read in reads:
                for event in take(read):
                    kind = type(event)
                    if kind is TextMessage:
                        texts += 1
                        size += size_of(event.data)
                    elif kind is BytesMessage:
                        binaries += 1
                        size += size_of(event.data)
                    else:
                        raise _unexpected(event)
            return Tally(texts, binaries, size)

        return receive

    return connect


def load_least() -> list[Candidate]:
    return [
        Candidate(
            LEAST,
            "the generator of _least.py: unmasks, joins, inflates, decodes and makes the events of "
            "this package, with its tables, and checks only that compressed messages are complete",
            _least(),
        )
    ]


def load_wsproto() -> list[Candidate]:
    return [
        Candidate(
            "wsproto",
            "wsproto.connection.Connection(SERVER), the class WSConnection hands its input to "
            "once the handshake is done; the consumer joins the pieces; with deflate, an "
            "extension object that has accepted the offer",
            _wsproto_like("wsproto", _streamed_messages),
        )
    ]


# ---------------------------------------------------------------------------------------------
# websockets


def _websockets(without_extension: bool) -> Callable[[Workload], Receive]:
    if without_extension:
        # A second copy of the package, for which its C extension does not exist.
        kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _of_websockets(name)}
        sys.modules["websockets.speedups"] = None  # type: ignore[assignment]
    try:
        frames = importlib.import_module("websockets.frames")
        server = importlib.import_module("websockets.server")
        protocol = importlib.import_module("websockets.protocol")
        deflate = importlib.import_module("websockets.extensions.permessage_deflate")
    finally:
        if without_extension:
            for name in [name for name in sys.modules if _of_websockets(name)]:
                del sys.modules[name]
            sys.modules.update(kept)
    compiled = frames.apply_mask.__module__ == "websockets.speedups" or not hasattr(
        frames.apply_mask, "__code__"
    )
    if compiled == without_extension:
        raise ImportError("its C extension is not built here")
    text, binary, continuation = frames.TEXT, frames.BINARY, frames.CONT

    def connect(workload: Workload) -> Receive:
        connection = server.ServerProtocol(state=protocol.OPEN)
        if workload.deflate:
            connection.extensions = [deflate.PerMessageDeflate(False, False, 15, 15)]

        def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            texts = binaries = size = 0
            pieces: list[Any] = []
            opened = None
            receive_data, take_events = connection.receive_data, connection.events_received
            for read in reads:
                receive_data(read)
                for frame in take_events():
                    opcode = frame.opcode
                    if opcode is continuation:
                        opcode = opened
                    if opcode is not text and opcode is not binary:
                        raise _unexpected(frame)
                    if not frame.fin:
                        opened = opcode
                        pieces.append(frame.data)
                        continue
                    if pieces:
                        pieces.append(frame.data)
                        data = b"".join(pieces)
                        pieces.clear()
                    else:
                        data = frame.data
                    if opcode is text:
                        texts += 1
                        size += size_of(data.decode())
                    else:
                        binaries += 1
                        size += size_of(data)
            return Tally(texts, binaries, size)

        return receive

    return connect


def _of_websockets(module: str) -> bool:
    return module == "websockets" or module.startswith("websockets.")


def load_websockets() -> list[Candidate]:
    return [
        Candidate(
            "websockets C",
            "the sans-IO ServerProtocol with its C mask function, made with state=OPEN, a "
            "documented argument; with deflate, its PerMessageDeflate put into extensions as its "
            "own handshake does; the consumer joins frames and decodes text, as its asyncio and "
            "threading layers do",
            _websockets(without_extension=False),
        )
    ]


def load_websockets_pure() -> list[Candidate]:
    return [
        Candidate(
            "websockets pure",
            "the same, imported with its C extension hidden",
            _websockets(without_extension=True),
        )
    ]


# ---------------------------------------------------------------------------------------------
# aiohttp


def _aiohttp(module: str, *, read: bool, patch: bool = False) -> Callable[[Workload], Receive]:
    reader_module = importlib.import_module(module)
    base_protocol = importlib.import_module("aiohttp.base_protocol")
    models = importlib.import_module("aiohttp._websocket.models")
    if patch:
        helpers = importlib.import_module("aiohttp._websocket.helpers")
        reader_module.__dict__["websocket_mask"] = helpers._websocket_mask_python
    loop = asyncio.new_event_loop()
    loop.close()  # it is only kept by the queue, which never has to wait here
    text, binary = models.WSMsgType.TEXT, models.WSMsgType.BINARY

    def connect(workload: Workload) -> Receive:
        protocol = base_protocol.BaseProtocol(loop)
        protocol._upgraded = True  # as its server sets it: the HTTP parser is done
        limit = 2**16 if read else 2**30
        queue = reader_module.WebSocketDataQueue(protocol, limit, loop=loop)
        reader = reader_module.WebSocketReader(queue, 4 * 1024 * 1024, workload.deflate, True)

        async def from_queue(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            texts = binaries = size = 0
            feed, take, waiting = reader.feed_data, queue.read, queue._buffer
            for data in reads:
                feed(data)
                while waiting:
                    message = await take()
                    kind = message.type
                    if kind is text:
                        texts += 1
                        size += size_of(message.data)
                    elif kind is binary:
                        binaries += 1
                        size += size_of(message.data)
                    else:
                        raise _unexpected(message)
            return Tally(texts, binaries, size)

        def through_read(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            coroutine = from_queue(reads, size_of)
            try:
                coroutine.send(None)
            except StopIteration as stop:
                result: Tally = stop.value
                return result
            raise DeliveryError("the queue had to wait")

        def drained(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            texts = binaries = size = 0
            feed, waiting = reader.feed_data, queue._buffer
            take = waiting.popleft
            for data in reads:
                feed(data)
                while waiting:
                    message = take()[0]
                    kind = message.type
                    if kind is text:
                        texts += 1
                        size += size_of(message.data)
                    elif kind is binary:
                        binaries += 1
                        size += size_of(message.data)
                    else:
                        raise _unexpected(message)
            return Tally(texts, binaries, size)

        return through_read if read else drained

    return connect


def load_aiohttp() -> list[Candidate]:
    return [
        Candidate(
            "aiohttp C",
            "WebSocketReader compiled by Cython, made as its server makes it after the "
            "handshake; the consumer empties the reader's queue by hand, which is cheaper than "
            "any documented way and favours it",
            _aiohttp("aiohttp._websocket.reader_c", read=False),
        ),
        Candidate(
            "aiohttp C + read()",
            "the same with `await queue.read()` for each message, as an application gets them, "
            "and aiohttp's own queue limit",
            _aiohttp("aiohttp._websocket.reader_c", read=True),
        ),
    ]


def load_aiohttp_pure() -> list[Candidate]:
    return [
        Candidate(
            "aiohttp pure",
            "its WebSocketReader in Python with its mask function in Python; the queue emptied "
            "by hand",
            _aiohttp("aiohttp._websocket.reader_py", read=False, patch=True),
        )
    ]


# ---------------------------------------------------------------------------------------------
# picows


def _picows() -> Callable[[Workload], Receive]:
    picows = importlib.import_module("picows")
    kinds = picows.WSMsgType
    text, binary, continuation = kinds.TEXT, kinds.BINARY, kinds.CONTINUATION

    class Listener(picows.WSListener):  # type: ignore[misc, name-defined]
        """The consumer, called by picows for each frame."""

        def __init__(self) -> None:
            self.texts = self.binaries = self.size = 0
            self.size_of: SizeOf = len
            self.pieces: list[bytes] = []
            self.opened: object = None

        def on_ws_frame(self, transport: object, frame: Any) -> None:
            kind = frame.msg_type
            if kind == continuation or not frame.fin:
                self.pieces.append(frame.get_payload_as_bytes())
                if kind != continuation:
                    self.opened = kind
                if frame.fin:
                    data = b"".join(self.pieces)
                    self.pieces.clear()
                    if self.opened == text:
                        self.texts += 1
                        self.size += self.size_of(data.decode())
                    else:
                        self.binaries += 1
                        self.size += self.size_of(data)
            elif kind == text:
                self.texts += 1
                self.size += self.size_of(frame.get_payload_as_utf8_text())
            elif kind == binary:
                self.binaries += 1
                self.size += self.size_of(frame.get_payload_as_bytes())
            else:
                raise _unexpected(frame)

    def connect(workload: Workload) -> Receive:
        listener = Listener()
        protocol, transport = open_picows(listener)
        get_buffer, buffer_updated = protocol.get_buffer, protocol.buffer_updated

        def receive(reads: Sequence[bytes], size_of: SizeOf) -> Tally:
            listener.size_of = size_of
            for read in reads:
                buffer = get_buffer(-1)
                size = len(read)
                if size <= len(buffer):
                    buffer[:size] = read
                    buffer_updated(size)
                else:
                    feed(protocol, read)
            if transport.written:
                raise DeliveryError(f"picows answered {transport.written!r}")
            return Tally(listener.texts, listener.binaries, listener.size)

        return receive

    return connect


def load_picows() -> list[Candidate]:
    return [
        Candidate(
            "picows",
            "its WSProtocol, made as ws_create_server makes it, on a transport that only keeps "
            "what is written; it has taken an upgrade request before the clock starts; each read "
            "is copied into its buffer, where the socket would have put it",
            _picows(),
            skips=lambda workload: "has no permessage-deflate" if workload.deflate else None,
        )
    ]


PEERS: dict[str, Callable[[], list[Candidate]]] = {
    "wsproto_sip + C XOR": load_ours_with_another_mask,
    LEAST: load_least,
    "wsproto": load_wsproto,
    "websockets": load_websockets,
    "websockets pure": load_websockets_pure,
    "aiohttp": load_aiohttp,
    "aiohttp pure": load_aiohttp_pure,
    "picows": load_picows,
}


def load() -> tuple[list[Candidate], list[str]]:
    """Return the candidates of this package and the installed peers, and a line on each other one.

    Private parts of a peer may differ in another version; then it is left out.
    """
    candidates = load_ours()
    missing: list[str] = []
    message = ["a message"]
    trial = Workload("trial", "trial", message, client_frames(message))
    for name, loader in PEERS.items():
        try:
            loaded = loader()
            for candidate in loaded:
                candidate.connect(trial)(trial.reads, len)
        except Exception as error:
            missing.append(f"{name} ({type(error).__name__}: {error})")
        else:
            candidates += loaded
    return candidates, missing

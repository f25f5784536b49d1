"""Shared by tests of the wire: a frame writer, and a reader that is slow and obviously correct.

Neither shares a line with the package. :class:`Model` takes one byte at a time and follows RFC 6455
§5, §7 and §8.1 literally, so that it fails at the earliest wrong byte. Its results are plain
tuples, see :data:`Seen`.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from wsproto_sip.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = bytes.fromhex("a15be3f7")

#: An event without its class: ("text" or "binary", data, frame finished, message finished),
#: ("ping" or "pong", payload), ("close", code, reason).
Seen = tuple[object, ...]


# -- writing ---------------------------------------------------------------------------------------


def masked(payload: bytes, key: bytes) -> bytes:
    """Mask as RFC 6455 §5.3 describes it."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """Return one frame, valid or not.

    Args:
        opcode: Four bits.
        payload: Not masked yet.
        fin: The FIN bit.
        rsv: The three reserved bits as a number.
        key: The masking key; ``None`` leaves the frame unmasked.
        length: The length to announce instead of the payload's.
        form: How many bytes the length takes: 1, 2 or 8; ``None`` for the shortest form.
    """
    if length is None:
        length = len(payload)
    if form is None:
        form = 1 if length < 126 else 2 if length < 65536 else 8
    raw = bytearray([fin << 7 | rsv << 4 | opcode])
    mask_bit = 0 if key is None else 0x80
    if form == 1:
        raw.append(mask_bit | length)
    else:
        raw.append(mask_bit | (126 if form == 2 else 127))
        raw += length.to_bytes(form, "big")
    if key is not None:
        raw += key
        payload = masked(payload, key)
    return bytes(raw) + payload


def message(
    opcode: int, pieces: Sequence[bytes], *, key: bytes | None = KEY, rsv: int = 0
) -> list[bytes]:
    """Return the frames of one message."""
    return [
        frame(
            CONTINUATION if number else opcode,
            piece,
            fin=number == len(pieces) - 1,
            rsv=0 if number else rsv,
            key=key,
        )
        for number, piece in enumerate(pieces)
    ]


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """Return the body of a close frame (RFC 6455 §5.5.1)."""
    return bytes([code >> 8, code & 0xFF]) + reason


def deflated(payload: bytes, compressor: zlib._Compress | None = None) -> bytes:
    """Return a message's payload compressed as RFC 7692 §7.2.1 describes it."""
    if compressor is None:
        compressor = zlib.compressobj(wbits=-15)
    raw = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert raw.endswith(b"\x00\x00\xff\xff")
    return raw[:-4]


def cut(data: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """Yield the bytes split at the places, which may be in any order and out of range."""
    start = 0
    for place in [*sorted({place for place in places if 0 < place < len(data)}), len(data)]:
        yield data[start:place]
        start = place


def one_by_one(data: bytes) -> Iterator[bytes]:
    """Return the bytes one by one."""
    return (data[i : i + 1] for i in range(len(data)))


# -- reading ---------------------------------------------------------------------------------------


class Wrong(Exception):
    """The protocol is broken; RFC 6455 §7.1.7."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Utf8:
    """Takes text byte by byte (RFC 3629 §4: the table of well-formed sequences)."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.sequence = bytearray()

    def take(self, byte: int) -> str:
        """Return the character that ends with the byte, or ""."""
        tail = (0x80, 0xBF)
        if self.ranges:
            low, high = self.ranges.pop(0)
            if not low <= byte <= high:
                raise Wrong(1007)
        elif byte <= 0x7F:
            pass
        elif 0xC2 <= byte <= 0xDF:
            self.ranges = [tail]
        elif byte == 0xE0:
            self.ranges = [(0xA0, 0xBF), tail]
        elif byte == 0xED:
            self.ranges = [(0x80, 0x9F), tail]
        elif 0xE1 <= byte <= 0xEF:
            self.ranges = [tail, tail]
        elif byte == 0xF0:
            self.ranges = [(0x90, 0xBF), tail, tail]
        elif 0xF1 <= byte <= 0xF3:
            self.ranges = [tail, tail, tail]
        elif byte == 0xF4:
            self.ranges = [(0x80, 0x8F), tail, tail]
        else:
            raise Wrong(1007)
        self.sequence.append(byte)
        if self.ranges:
            return ""
        first, *rest = self.sequence
        self.sequence.clear()
        point = first if not rest else first & (0x3F >> len(rest))
        for byte in rest:
            point = point << 6 | byte & 0x3F
        return chr(point)

    def end(self) -> None:
        """Handle the end of the text."""
        if self.ranges:
            raise Wrong(1007)


class Model:
    """Reads the input of one end, byte by byte.

    Args:
        client: Whether it is the client, which receives unmasked frames.
        whole: Whether messages are reported when they are complete, or else each frame.
        max_frame: The maximum size of a frame in bytes.
        max_message: The maximum size of a message in bytes.
        max_fragments: The maximum number of frames of a message, in addition to one for each 64
            bytes.
        deflate: Whether RSV1 marks compressed messages (with context takeover).

    Attributes:
        seen: The reported events.
        count: How many bytes were taken.
        failed_at: The index of the wrong byte, or ``None``.
        over: Further input is ignored.
    """

    def __init__(
        self,
        *,
        client: bool = False,
        whole: bool = False,
        max_frame: int | None = None,
        max_message: int | None = None,
        max_fragments: int | None = None,
        deflate: bool = False,
    ) -> None:
        self.client = client
        self.whole = whole
        self.max_frame = max_frame
        self.max_message = max_message
        self.max_fragments = max_fragments
        self.deflate = deflate
        self.seen: list[Seen] = []
        self.count = 0
        self.failed_at: int | None = None
        self.over = False
        self._inflater = zlib.decompressobj(-15)
        self._kind = 0
        self._compressed = False
        self._frames = 0
        self._wire = 0
        self._size = 0
        self._utf8 = Utf8()
        #: Since the last report.
        self._text = ""
        self._binary = bytearray()
        self._reader = self._read()
        next(self._reader)

    def feed(self, data: bytes) -> Model:
        for byte in data:
            if self.over:
                break
            self.count += 1
            try:
                self._reader.send(byte)
            except Wrong as wrong:
                self.failed_at = self.count - 1
                self._end(wrong.code, None)
        return self

    def partial(self) -> list[Seen]:
        """Return the piece of a frame that has arrived, where messages are not reported whole."""
        if self.over or self.whole or not (self._text or self._binary):
            return []
        return [self._report(False, False)]

    def _end(self, code: int, reason: str | None) -> None:
        self.over = True
        self.seen.append(("close", code, reason))

    def _report(self, frame_done: bool, message_done: bool) -> Seen:
        if self._kind == TEXT:
            return ("text", self._text, frame_done, message_done)
        return ("binary", bytes(self._binary), frame_done, message_done)

    def _read(self) -> Generator[None, int, None]:
        while True:
            # §5.2, the first byte.
            first = yield
            fin, rsv, opcode = first >> 7, first >> 4 & 7, first & 15
            control = opcode >= 8
            if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
                raise Wrong(1002)
            if control and not fin:
                raise Wrong(1002)
            if opcode == CONTINUATION and not self._kind:
                raise Wrong(1002)
            if opcode in (TEXT, BINARY) and self._kind:
                raise Wrong(1002)
            if rsv and not (self.deflate and rsv == 4 and opcode in (TEXT, BINARY)):
                raise Wrong(1002)
            if not control:
                if self.max_fragments is not None:
                    honest = self._wire // 64
                    if self._frames >= self.max_fragments + honest:
                        raise Wrong(1009)
                if opcode:
                    self._kind = opcode
                    self._compressed = rsv == 4
                self._frames += 1
            # The second.
            second = yield
            if (second >> 7 == 1) == self.client:
                raise Wrong(1002)
            length = second & 127
            if control and length > 125:
                raise Wrong(1002)
            if length == 126:
                length = (yield) << 8
                length |= yield
                if length < 126:
                    raise Wrong(1002)
            elif length == 127:
                length = 0
                for _ in range(8):
                    length = length << 8 | (yield)
                if length >= 1 << 63 or length < 65536:
                    raise Wrong(1002)
            if not control:
                if self.max_frame is not None and length > self.max_frame:
                    raise Wrong(1009)
                if self.max_message is not None:
                    slack = self.max_message // 16 + 64 if self._compressed else 0
                    if self._wire + length > self.max_message + slack:
                        raise Wrong(1009)
                self._wire += length
            key = [0, 0, 0, 0]
            if not self.client:
                for i in range(4):
                    key[i] = yield
            # The payload.
            body = bytearray()
            for i in range(length):
                byte = (yield) ^ key[i % 4]
                if control:
                    body.append(byte)
                elif self._compressed:
                    self._inflate(bytes([byte]))
                else:
                    self._take(byte)
            if control:
                self._control(opcode, bytes(body))
            else:
                self._frame_done(bool(fin))

    def _inflate(self, data: bytes) -> None:
        try:
            inflated = self._inflater.decompress(data)
        except zlib.error:
            raise Wrong(1007) from None
        for byte in inflated:
            self._take(byte)

    def _take(self, byte: int) -> None:
        self._size += 1
        if self.max_message is not None and self._size > self.max_message:
            raise Wrong(1009)
        if self._kind == TEXT:
            self._text += self._utf8.take(byte)
        else:
            self._binary.append(byte)

    def _frame_done(self, fin: bool) -> None:
        if fin:
            if self._compressed:
                self._inflate(b"\x00\x00\xff\xff")
            if self._kind == TEXT:
                self._utf8.end()
        if fin or not self.whole:
            self.seen.append(self._report(True, fin))
            self._text = ""
            self._binary = bytearray()
        if fin:
            self._kind = self._frames = self._wire = self._size = 0

    def _control(self, opcode: int, body: bytes) -> None:
        if opcode == PING:
            self.seen.append(("ping", body))
        elif opcode == PONG:
            self.seen.append(("pong", body))
        elif not body:
            # §7.1.5
            self._end(1005, "")
        elif len(body) == 1:
            raise Wrong(1002)
        else:
            # §7.4
            code = body[0] << 8 | body[1]
            if code not in (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)):
                raise Wrong(1002)
            utf8 = Utf8()
            reason = "".join(map(utf8.take, body[2:]))
            utf8.end()
            self._end(code, reason)


def seen(events: Iterable[Event], found: list[Seen] | None = None) -> list[Seen]:
    """Return the events as tuples; pieces of one frame are joined.

    Args:
        events: The events.
        found: Earlier tuples, which are extended.
    """
    if found is None:
        found = []
    for event in events:
        # Only the documented classes may be used, not a subclass.
        kind = type(event)
        if kind is TextMessage or kind is BytesMessage:
            assert isinstance(event, TextMessage | BytesMessage)
            name = "text" if kind is TextMessage else "binary"
            data: str | bytes = event.data
            assert type(data) is (str if kind is TextMessage else bytes)
            if found and found[-1][0] == name and not found[-1][2]:
                data = found.pop()[1] + data  # type: ignore[operator]
            found.append((name, data, event.frame_finished, event.message_finished))
        elif kind is Ping or kind is Pong:
            assert isinstance(event, Ping | Pong)
            assert type(event.payload) is bytes
            found.append(("ping" if kind is Ping else "pong", event.payload))
        else:
            assert kind is CloseConnection
            assert isinstance(event, CloseConnection)
            found.append(("close", event.code, event.reason))
    return found


def settled(found: list[Seen], failed: bool) -> list[Seen]:
    """Return the parts that do not depend on how a stream was split.

    If the contents of a frame turn out to be wrong, more or less of it may have been delivered; and
    the model does not predict the text of an error.
    """
    if not failed:
        return found
    *before, (name, code, _) = found
    assert name == "close"
    if before and before[-1][0] in ("text", "binary") and not before[-1][2]:
        before.pop()
    return [*before, ("close", code, None)]


# -- streams to try --------------------------------------------------------------------------------

#: Every kind of invalid UTF-8, and the boundaries of valid characters.
BROKEN_TEXT = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2A",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe2\x82",
    b"\xe2\x82A",
    b"\xe2A",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x9f\x98",
    b"\xf0\x9f\x98A",
    b"\xf0\x9fA",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
]
EDGES_OF_TEXT = "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"

sizes = st.one_of(
    st.integers(0, 12),
    st.sampled_from([124, 125, 126, 127, 128, 508, 509, 510, 511, 512, 513, 514, 1023, 1024, 1025]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.text(st.sampled_from(EDGES_OF_TEXT), max_size=8),
    st.builds(lambda text, size: (text * size)[:size], st.text(min_size=1, max_size=3), sizes),
).map(str.encode)
text_like = st.one_of(
    texts,
    st.builds(
        lambda head, wrong, tail: head + wrong + tail, texts, st.sampled_from(BROKEN_TEXT), texts
    ),
)
binaries = st.one_of(
    st.binary(max_size=12),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), sizes),
)
close_codes = st.one_of(
    st.sampled_from([0, 999, *range(1000, 1017), 2999, 3000, 3999, 4000, 4999, 5000, 65535]),
    st.integers(0, 65535),
)
close_bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=1),
    st.builds(
        lambda code, reason: close_payload(code, reason)[:125],
        close_codes,
        st.one_of(st.just(b""), text_like),
    ),
)
#: Zeros keep mutated bytes unchanged.
keys = st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4))


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes to receive, and where to split them."""

    data: bytes
    cuts: tuple[int, ...]

    def pieces(self) -> Iterator[bytes]:
        return cut(self.data, self.cuts)


@st.composite
def frames(draw: DrawFn, *, client: bool, rsv1: bool = False) -> list[bytes]:
    """Draw the frames of a valid, or nearly valid, stream.

    Args:
        draw: Hypothesis' function.
        client: Whether they are for a client, unmasked.
        rsv1: Whether messages may be compressed.
    """
    found: list[bytes] = []
    compressor = zlib.compressobj(wbits=-15)

    def key() -> bytes | None:
        return None if client else draw(keys)

    def control() -> None:
        opcode = draw(st.sampled_from([PING, PONG]))
        found.append(frame(opcode, draw(st.binary(max_size=125)), key=key()))

    for _ in range(draw(st.integers(0, 5))):
        what = draw(st.sampled_from(["message", "message", "message", "control", "close", "odd"]))
        if what == "message":
            opcode = draw(st.sampled_from([TEXT, BINARY]))
            payload = draw(text_like if opcode == TEXT else binaries)
            if broken_rarely := draw(st.integers(0, 3)):
                payload = payload.decode(errors="ignore").encode() if opcode == TEXT else payload
            rsv = 0
            if rsv1 and draw(st.booleans()):
                rsv = 4
                payload = deflated(payload, compressor)
            places = draw(st.lists(st.integers(0, len(payload)), max_size=3))
            pieces = list(cut(payload, places))
            if not broken_rarely or draw(st.booleans()):
                pieces.insert(draw(st.integers(0, len(pieces))), b"")
            for number, piece in enumerate(pieces):
                if draw(st.integers(0, 4)) == 0:
                    control()
                found.append(
                    frame(
                        CONTINUATION if number else opcode,
                        piece,
                        fin=number == len(pieces) - 1,
                        rsv=0 if number else rsv,
                        key=key(),
                    )
                )
        elif what == "control":
            control()
        elif what == "close":
            found.append(frame(CLOSE, draw(close_bodies), key=key()))
        elif draw(st.booleans()):
            payload = draw(binaries)
            size = len(payload)
            found.append(
                frame(
                    draw(st.integers(0, 15)),
                    payload,
                    fin=draw(st.booleans()),
                    rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7])),
                    key=key(),
                    form=draw(st.sampled_from([2, 8] if size > 125 else [1, 2, 8])),
                )
            )
        else:
            found.append(
                frame(
                    draw(st.sampled_from([TEXT, BINARY, CONTINUATION, PING])),
                    b"",
                    key=draw(st.one_of(keys, st.none())),
                    length=draw(st.sampled_from([0, 126, 65535, 65536, 1 << 32, (1 << 63) - 1])),
                    form=8,
                )
            )
    return found


@st.composite
def streams(draw: DrawFn, *, client: bool, rsv1: bool = False) -> Stream:
    """Return a stream of :func:`frames`, with a byte changed, or truncated."""
    data = bytearray(b"".join(draw(frames(client=client, rsv1=rsv1))))
    if data and draw(st.integers(0, 3)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if data and draw(st.integers(0, 3)) == 0:
        del data[draw(st.integers(0, len(data) - 1)) :]
    return Stream(bytes(data), draw(cuttings(len(data))))


def cuttings(size: int) -> SearchStrategy[tuple[int, ...]]:
    """Return where to split so many bytes: nowhere, everywhere, or here and there."""
    return st.one_of(
        st.just(()),
        st.just(tuple(range(size))),
        st.lists(st.integers(0, size), max_size=8).map(tuple),
    )

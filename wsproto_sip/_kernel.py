"""The hot loops in typed Python, compiled by mypyc: masking, and frames that need no closer look.

Theory of operation. In compiled code, 64-bit arithmetic is free while a call into the interpreter
costs the same as ever, so a payload is XORed eight bytes at a time, or sixteen if it is large, and
the usual read is handled without the interpreter. The tables of ``_masking`` and ``_parser`` let
the interpreter do with one call what would take it many; they are useless here. That is why two
modules do the same work in two ways, and :mod:`._implementation` chooses between them.

:class:`Intake` stands before a :class:`._parser.FrameParser`. It takes whole messages between which
nothing else happens, also if they arrive in parts, down to single bytes. Whatever may be wrong, and
every other frame, it leaves to the parser, with all it knows; the parser lets it go on when it is
between messages again. :class:`KernelInbox` is the receiving side of a connection on top of it.

``librt`` comes with mypyc and has the functions that read and write integers in bytes. Only the
tests import this module if it is not compiled.
"""

from __future__ import annotations

import sysconfig
from codecs import utf_8_decode
from functools import partial
from typing import Any, Final, final

from librt.strings import BytesWriter, read_i32_le, read_i64_be, read_i64_le, write_i64_le
from librt.vecs import vec
from mypy_extensions import i32, i64, mypyc_attr, u8

from ._masking import plugged
from .events import BytesMessage, TextMessage

__all__ = [
    "Intake",
    "KernelInbox",
    "mask",
    "masked_frame",
    "take_fragments",
    "take_frame",
    "take_messages",
]

# Skipping __init__ saves a call of the interpreter.
_new_text: Final[Any] = partial(object.__new__, TextMessage)
_new_bytes: Final[Any] = partial(object.__new__, BytesMessage)
_utf_8_decode: Final[Any] = utf_8_decode

#: Flags of a connection: frames are masked, text stays bytes, messages are delivered whole.
MASKED: Final = 1
TEXT_AS_BYTES: Final = 2
WHOLE: Final = 4

_TEXT: Final = 0x81
_BINARY: Final = 0x82
#: Pieces of text shorter than this are joined to the previous one, like those of the parser.
_SHORT: Final = 512
#: The sizes of the blocks into which large payloads are divided. Each has a function of its own. A
#: function that the program has plugged in takes the place of both.
_BLOCK: Final = 4096
_LARGE_BLOCK: Final = 16384

# A buffer that grows costs more than the XOR of 1 KiB does. One that stays serves all threads that
# share a lock, because nothing is called between its first use and its last.
_SHARED: Final = sysconfig.get_config_var("Py_GIL_DISABLED") != 1
_scratch: Final = BytesWriter()


def _write(out: BytesWriter, data: bytes, start: i64, stop: i64, key: i64) -> None:
    """Append a part of ``data``, XORed with the key's eight bytes."""
    pos = start
    unrolled = stop - 32
    while pos <= unrolled:
        write_i64_le(out, read_i64_le(data, pos) ^ key)
        write_i64_le(out, read_i64_le(data, pos + 8) ^ key)
        write_i64_le(out, read_i64_le(data, pos + 16) ^ key)
        write_i64_le(out, read_i64_le(data, pos + 24) ^ key)
        pos += 32
    last = stop - 8
    while pos <= last:
        write_i64_le(out, read_i64_le(data, pos) ^ key)
        pos += 8
    while pos < stop:
        out.append(u8((i64(data[pos]) ^ key) & 0xFF))
        key >>= 8
        pos += 1


# With a length that it knows, the C compiler drops the check of each index, and handles 16 bytes at
# a time. That is worth the copy to make a vector of bytes. Joining copies a vector like bytes, so
# that it need not become bytes before.


def _block(data: bytes, start: i64, key: i64) -> vec[u8]:
    """Return ``_BLOCK`` bytes, XORed."""
    # Copying so few costs less than a view.
    octets = vec[u8](data[start : start + _BLOCK])
    assert len(octets) == _BLOCK  # noqa: S101 - this is what tells the compiler
    first, second = u8(key & 0xFF), u8((key >> 8) & 0xFF)
    third, fourth = u8((key >> 16) & 0xFF), u8((key >> 24) & 0xFF)
    pos: i64 = 0
    while pos < _BLOCK - 3:
        octets[pos] = octets[pos] ^ first
        octets[pos + 1] = octets[pos + 1] ^ second
        octets[pos + 2] = octets[pos + 2] ^ third
        octets[pos + 3] = octets[pos + 3] ^ fourth
        pos += 4
    return octets


def _large_block(view: memoryview, start: i64, key: i64) -> vec[u8]:
    """Return ``_LARGE_BLOCK`` bytes, XORed."""
    octets = vec[u8](view[start : start + _LARGE_BLOCK])
    assert len(octets) == _LARGE_BLOCK  # noqa: S101
    first, second = u8(key & 0xFF), u8((key >> 8) & 0xFF)
    third, fourth = u8((key >> 16) & 0xFF), u8((key >> 24) & 0xFF)
    pos: i64 = 0
    while pos < _LARGE_BLOCK - 3:
        octets[pos] = octets[pos] ^ first
        octets[pos + 1] = octets[pos + 1] ^ second
        octets[pos + 2] = octets[pos + 2] ^ third
        octets[pos + 3] = octets[pos + 3] ^ fourth
        pos += 4
    return octets


def _blocks(
    data: bytes, start: i64, stop: i64, key: i64, blocks: list[Any], text: bool = False
) -> i64:
    """Append the blocks of a part of ``data``, XORed; return where the rest begins.

    They are vectors, which can be joined and nothing else, or bytes if they are text.
    """
    if plugged:
        four = BytesWriter()
        write_i64_le(four, key)
        blocks.append(plugged[0](data[start:stop], four.getvalue()[:4]))
        return stop
    pos = start
    if stop - pos >= _LARGE_BLOCK:
        view = memoryview(data)
        while stop - pos >= _LARGE_BLOCK:
            octets = _large_block(view, pos, key)
            blocks.append(bytes(octets) if text else octets)
            pos += _LARGE_BLOCK
    while stop - pos >= _BLOCK:
        octets = _block(data, pos, key)
        blocks.append(bytes(octets) if text else octets)
        pos += _BLOCK
    return pos


def _unmask(data: bytes, start: i64, stop: i64, key: i64) -> bytes:
    """Return a part of ``data``, XORed with the key's eight bytes."""
    size = stop - start
    if size >= _BLOCK:
        if size == _BLOCK and not plugged:
            # Nothing has to be joined.
            return bytes(_block(data, start, key))
        blocks: list[Any] = []
        pos = _blocks(data, start, stop, key, blocks)
        if pos < stop:
            blocks.append(_unmask(data, pos, stop, key))
        return b"".join(blocks)
    out = _scratch if _SHARED else BytesWriter()
    out.truncate(0)
    _write(out, data, start, stop, key)
    return out.getvalue()


def _rotate(key: i64, count: i64) -> i64:
    """Return the key as it applies after ``count`` more bytes."""
    shift = (count & 3) << 3
    low = key & 0xFFFFFFFF
    low = ((low >> shift) | (low << (32 - shift))) & 0xFFFFFFFF
    if low >= 0x80000000:
        low -= 0x100000000
    return (low << 32) | (low & 0xFFFFFFFF)


def _key_at(data: bytes, pos: i64) -> i64:
    """Return the four bytes of a key, twice, as the number they are in memory."""
    low = i64(read_i32_le(data, pos))
    return (low << 32) | (low & 0xFFFFFFFF)


def _long_size(data: bytes, pos: i64, short: i64, end: i64) -> i64:
    """Read the extended payload length; return -1 if it is incomplete or wrong."""
    if short == 126:
        if pos + 4 > end:
            return -1
        size = i64(data[pos + 2]) << 8 | i64(data[pos + 3])
        return size if size > 125 else -1
    if short != 127 or pos + 10 > end:
        return -1
    size = read_i64_be(data, pos + 2)
    return size if size > 65535 else -1


def _exactly(data: Any) -> bytes:
    """Convert bytes-like data to bytes; a subclass of bytes may index or count in its own way."""
    if type(data) is bytes:
        raw: bytes = data
        return raw
    return bytes(memoryview(data))


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload; the operation is its own inverse (RFC 6455 §5.3).

    Args:
        payload: The bytes.
        key: The key's four bytes.

    Returns:
        The same number of bytes.
    """
    return _unmask(payload, 0, len(payload), _key_at(key, 0))


def masked_frame(head: bytes, payload: bytes, key: bytes) -> bytes:
    """Return a frame.

    Args:
        head: Its header, with the key.
        payload: The unmasked payload.
        key: The key's four bytes.
    """
    size: i64 = len(payload)
    number = _key_at(key, 0)
    if size >= _BLOCK:
        parts: list[Any] = [head]
        pos = _blocks(payload, 0, size, number, parts)
        parts.append(_unmask(payload, pos, size, number))
        return b"".join(parts)
    out = _scratch if _SHARED else BytesWriter()
    out.truncate(0)
    out.write(head)
    _write(out, payload, 0, size, number)
    return out.getvalue()


def _message(first: i64, payload: bytes, mode: i64) -> Any:
    """Make the event of a whole message.

    Raises:
        UnicodeDecodeError: It is text, and not UTF-8 (§8.1).
    """
    if first != _BINARY:
        text = payload.decode("utf-8")
        return _text_message(payload if mode & TEXT_AS_BYTES else text)
    event: Any = _new_bytes()
    event.data = payload
    event.frame_finished = True
    event.message_finished = True
    return event


def _text_message(text: Any) -> Any:
    """Make the event of a whole text message."""
    event: Any = _new_text()
    event.data = text
    event.frame_finished = True
    event.message_finished = True
    return event


def _take_message(data: bytes, pos: i64, mode: i64, limit: i64) -> tuple[Any, i64]:
    """Take the complete, plain, unfragmented message at ``pos``.

    Returns:
        Its event, and where the next frame starts; or ``None`` and ``pos``.
    """
    masked = mode & MASKED
    start = pos + (6 if masked else 2)
    end: i64 = len(data)
    if start > end:
        return None, pos
    first = i64(data[pos])
    if first != _TEXT and first != _BINARY:
        return None, pos
    size = i64(data[pos + 1])
    if masked:
        size ^= 0x80
    if size > 125:
        size = _long_size(data, pos, size, end)
        if size < 0:
            return None, pos
        start += 2 if size < 65536 else 8
    if size > limit or start + size > end:
        return None, pos
    stop = start + size
    key = _key_at(data, start - 4) if masked else 0
    payload = _unmask(data, start, stop, key) if masked else data[start:stop]
    try:
        return _message(first, payload, mode), stop
    except UnicodeDecodeError:
        return None, pos


def take_messages(
    data: bytes, pos: i64, mode: i64, limit: i64, turns: i64, events: list[Any]
) -> i64:
    """Take the complete, plain, unfragmented messages at ``pos``.

    Args:
        data: The received bytes.
        pos: Where the first frame starts.
        mode: ``MASKED`` and ``TEXT_AS_BYTES``, or neither.
        limit: The maximum payload length in bytes.
        turns: The maximum number of frames to take.
        events: The list to append events to.

    Returns:
        Where the first frame that was not taken starts; it may be text that is not UTF-8.
    """
    while turns > 0:
        event, pos = _take_message(data, pos, mode, limit)
        if event is None:
            break
        events.append(event)
        turns -= 1
    return pos


def take_frame(data: bytes, pos: i64, masked: bool, limit: i64) -> tuple[i64, bytes] | None:
    """Take one frame of any kind, if it is complete.

    Args:
        data: The received bytes.
        pos: Where it starts.
        masked: Whether it must be masked.
        limit: The maximum payload length in bytes.

    Returns:
        Where the next frame starts, and the unmasked payload; ``None`` if the frame is incomplete
        or too large, or its length is invalid.
    """
    end: i64 = len(data)
    header: i64 = 6 if masked else 2
    if pos + header > end:
        return None
    size = i64(data[pos + 1])
    if masked:
        size ^= 0x80
    start = pos + header
    if size > 125:
        size = _long_size(data, pos, size, end)
        if size < 0:
            return None
        start += 2 if size < 65536 else 8
    if size > limit or start + size > end:
        return None
    stop = start + size
    if not masked:
        return stop, data[start:stop]
    return stop, _unmask(data, start, stop, _key_at(data, start - 4))


def take_fragments(
    data: bytes, pos: i64, masked: bool, room: i64, most: i64
) -> tuple[i64, i64, bool, bytes]:
    """Take the frames of fewer than 126 bytes that continue a plain message; join their payloads.

    Args:
        data: The received bytes.
        pos: Where the first frame starts.
        masked: Whether they must be masked.
        room: The maximum number of payload bytes to take.
        most: The maximum number of frames to take.

    Returns:
        Where the next frame starts; how many frames were taken; whether the last one ends the
        message; and the joined payloads, unmasked.
    """
    end: i64 = len(data)
    header: i64 = 6 if masked else 2
    out = BytesWriter()
    count: i64 = 0
    final = False
    while count < most and pos + header <= end:
        first = i64(data[pos])
        if first != 0 and first != 0x80:
            break
        size = i64(data[pos + 1])
        if masked:
            size ^= 0x80
        if size > 125:
            break
        start = pos + header
        stop = start + size
        if stop > end or size > room:
            break
        if masked:
            _write(out, data, start, stop, _key_at(data, start - 4))
        else:
            out.write(data[start:stop])
        count += 1
        pos = stop
        room -= size
        if first:
            final = True
            break
    return pos, count, final, out.getvalue()


@final
@mypyc_attr(acyclic=True)
class Partial:
    """The payload of a frame that is a whole message, as far as it has arrived.

    Text outside ASCII is decoded as it arrives, so that what is not UTF-8 is noticed at once.

    Args:
        first: The frame's first byte.
        key: The key's four bytes, twice, as the number they are in memory; 0 if it has none.
        total: The payload's size.
        decodes: Whether text becomes ``str``.

    Attributes:
        missing: How many bytes have not arrived yet.
        texts: The decoded text, in pieces; the bytes that follow it are undecoded.
        decoded: The number of characters in it.
        undecoded: How many bytes have arrived and are not in it.
    """

    __slots__ = (
        "decoded",
        "decodes",
        "first",
        "key",
        "missing",
        "parts",
        "tail",
        "texts",
        "total",
        "undecoded",
    )

    def __init__(self, first: i64, key: i64, total: i64, decodes: bool) -> None:
        self.first = first
        # Rotated, so that it applies to the next byte.
        self.key = key
        self.total = total
        self.missing = total
        self.decodes = decodes
        self.texts: list[str] = []
        self.decoded: i64 = 0
        self.undecoded: i64 = 0
        # Large parts, bytes or vectors of them; they come before what is in the tail.
        self.parts: list[Any] = []
        self.tail = BytesWriter()

    def add_single(self, data: bytes) -> bool:
        """Add a byte; return whether it cannot be wrong, otherwise nothing has changed."""
        octet = (i64(data[0]) ^ self.key) & 0xFF
        if self.first == _TEXT and (octet > 127 or self.texts):
            return False
        self.tail.append(u8(octet))
        self.key = _rotate(self.key, 1)
        self.missing -= 1
        self.undecoded += 1
        return True

    def add(self, data: bytes, start: i64, stop: i64) -> bool:
        """Add bytes; return whether they cannot be wrong, as text that is not decoded could be."""
        right = not self.texts
        tail = self.tail
        size = stop - start
        if size >= _BLOCK:
            blocks: list[Any] = []
            is_text = self.first == _TEXT
            pos = _blocks(data, start, stop, self.key, blocks, is_text)
            rest = _unmask(data, pos, stop, self.key)
            if is_text:
                for block in (rest, *blocks):
                    right = right and block.isascii()
            if len(tail) > 0:
                self.parts.append(tail.getvalue())
                tail.truncate(0)
            self.parts.extend(blocks)
            tail.write(rest)
        elif self.first == _TEXT:
            text = _unmask(data, start, stop, self.key)
            right = right and text.isascii()
            tail.write(text)
        else:
            _write(tail, data, start, stop, self.key)
        self.key = _rotate(self.key, size)
        self.missing -= size
        self.undecoded += size
        return right or (self.decodes and self._decode())

    def _decode(self) -> bool:
        """Decode the undecoded bytes; return whether they cannot be wrong."""
        data = self.payload()
        try:
            text: str
            used: i64
            text, used = _utf_8_decode(data, "strict", self.missing == 0)
        except UnicodeDecodeError:
            return False
        rest = data[used:]
        # Python's decoder waits for the third byte of a surrogate, but the second is wrong already.
        if len(rest) == 2 and rest[0] == 0xED and rest[1] >= 0xA0:
            return False
        texts = self.texts
        if texts and (self.missing == 0 or len(texts[-1]) < _SHORT):
            # In place, if nothing else refers to it.
            last = texts.pop()
            last += text
            texts.append(last)
        else:
            texts.append(text)
        self.decoded += len(text)
        self.parts.clear()
        self.tail.truncate(0)
        self.tail.write(rest)
        self.undecoded = len(rest)
        return True

    def payload(self) -> bytes:
        """Return the undecoded bytes: of a message without text, all that have arrived."""
        if not self.parts:
            return self.tail.getvalue()
        return b"".join([*self.parts, self.tail.getvalue()])

    def message(self, mode: i64, right: bool) -> Any:
        """Make the event of the complete message, or ``None`` if it is text that is not UTF-8.

        Args:
            mode: The flags of the connection.
            right: What :meth:`add` has returned.
        """
        texts = self.texts
        if texts:
            if not right:
                return None
            return _text_message(texts[0] if len(texts) == 1 else "".join(texts))
        try:
            return _message(self.first, self.payload(), mode)
        except UnicodeDecodeError:
            return None


@final
@mypyc_attr(acyclic=True)
class Settings:
    """What an :class:`Intake` has to know; many share one.

    Args:
        mode: ``MASKED``, ``TEXT_AS_BYTES`` and ``WHOLE``, or none of them.
        limit: The maximum payload length in bytes.
        turns: The maximum number of frames to take in one call.
    """

    __slots__ = ("limit", "mode", "turns")

    def __init__(self, mode: i64, limit: i64, turns: i64) -> None:
        self.mode = mode
        self.limit = limit
        self.turns = turns


@final
@mypyc_attr(acyclic=True)
class Intake:
    """Takes whole messages for a parser, as long as they are ordinary.

    Args:
        settings: The settings; may be replaced.
        ready: Whether the parser is between messages.

    Attributes:
        ready: Whether frames may be taken; otherwise everything is left to the parser.
        waiting: An incomplete payload, or the bytes of a header after which nothing has arrived.
        completed: How many messages were taken that arrived in more than one part; after 2 ** 31
            of them it goes on with a negative number.
    """

    __slots__ = ("completed", "ready", "settings", "waiting")

    def __init__(self, settings: Settings, ready: bool) -> None:
        self.settings = settings
        self.ready = ready
        self.completed: i32 = 0
        self.waiting: Partial | bytes | None = None

    @property
    def arrived(self) -> int:
        """The size of what has arrived of an incomplete payload: bytes, or characters."""
        waiting = self.waiting
        return waiting.decoded + waiting.undecoded if isinstance(waiting, Partial) else 0

    @property
    def held(self) -> int:
        """How many bytes of a header are kept."""
        waiting = self.waiting
        return len(waiting) if isinstance(waiting, bytes) else 0

    def receive(self, data: Any) -> Any:
        """Take the next bytes from the peer.

        Args:
            data: Bytes, split anywhere.

        Returns:
            The list of events, in order; or what the parser has to go on with, as a tuple: bytes,
            where to start, how many frames may be taken, and the events before.

        Raises:
            TypeError: ``data`` is not bytes-like. Nothing has changed.
        """
        raw = _exactly(data)
        events: list[Any] = []
        if len(raw) == 1 and self.take_single(raw):
            return events
        left = self.take(raw, 0, events)
        return events if left is None else left

    def take_single(self, data: bytes) -> bool:
        """Take a byte of a payload; return whether that was possible without a closer look."""
        waiting = self.waiting
        return isinstance(waiting, Partial) and waiting.missing > 1 and waiting.add_single(data)

    def take_first(self, data: bytes) -> tuple[Any, i64]:
        """Take the message with which bytes begin, if it is complete and nothing precedes it.

        Returns:
            Its event, and where the next frame starts; or ``None`` and 0.
        """
        if not self.ready or self.waiting is not None:
            return None, 0
        settings = self.settings
        return _take_message(data, 0, settings.mode, settings.limit)

    def take(
        self, data: bytes, pos: i64, events: list[Any]
    ) -> tuple[bytes, int, int, list[Any]] | None:
        """Take bytes, append the events, and return what is left to the parser.

        Args:
            data: The bytes.
            pos: Where to start: after the message that was taken before, or 0.
            events: That message's event, or an empty list.
        """
        settings = self.settings
        turns = settings.turns - i64(len(events))
        if not self.ready:
            return data, pos, turns, events
        end: i64 = len(data)
        waiting = self.waiting
        if isinstance(waiting, Partial):
            stop = waiting.missing if waiting.missing < end else end
            right = waiting.add(data, 0, stop)
            if waiting.missing > 0:
                return None if right else (data, stop, turns, events)
            event = waiting.message(settings.mode, right)
            if event is None:
                return data, stop, turns, events
            events.append(event)
            self.waiting = None
            self.completed += 1
            pos = stop
            turns -= 1
        elif isinstance(waiting, bytes):
            data = waiting + data
            self.waiting = None
            end = len(data)
        if pos < end:
            before: i64 = len(events)
            pos = take_messages(data, pos, settings.mode, settings.limit, turns, events)
            turns -= i64(len(events)) - before
            if pos < end and (turns <= 0 or not self._begin(data, pos, end)):
                return data, pos, turns, events
        return None

    def _begin(self, data: bytes, pos: i64, end: i64) -> bool:
        """Begin an incomplete frame; return whether so far it cannot be wrong."""
        first = i64(data[pos])
        if first != _TEXT and first != _BINARY:
            return False
        settings = self.settings
        masked = settings.mode & MASKED
        start = pos + 2
        if end >= start:
            size = i64(data[pos + 1])
            if masked:
                size ^= 0x80
            if size > 127:
                return False
            if size > 125:
                start += 2 if size == 126 else 8
                if end >= start:
                    size = _long_size(data, pos, size, end)
                    if size < 0:
                        return False
            if end >= start and size > settings.limit:
                return False
            if masked:
                start += 4
        if end <= start:
            self.waiting = data[pos:end]
            return True
        if not settings.mode & WHOLE or start + size <= end:
            # Pieces are delivered as they arrive, or it is text that is not UTF-8.
            return False
        key = _key_at(data, start - 4) if masked else 0
        decodes = first == _TEXT and not settings.mode & TEXT_AS_BYTES
        partial = Partial(first, key, size, decodes)
        self.waiting = partial
        return partial.add(data, start, end)

    def close(self) -> None:
        """Take nothing more."""
        self.ready = False
        self.waiting = None


@mypyc_attr(allow_interpreted_subclasses=True)
class KernelInbox:
    """The receiving side of a connection: :class:`._inbox.Inbox`, but faster.

    Args:
        parser: The parser.
    """

    def __init__(self, parser: Any) -> None:
        self._parser: Any = parser
        self._intake: Intake = parser.front
        self._pending: Any = iter(())
        self._backlog: Any = None
        self._ended = False

    def receive_data(self, data: Any) -> None:
        """Take the next bytes from the peer; :meth:`events` returns the resulting events.

        Args:
            data: Bytes, split anywhere; ``None`` at the end of input.
        """
        if data is None:
            self._ended = True
            self._queue([])
            return
        raw = _exactly(data)
        if self._ended:
            return
        intake = self._intake
        if len(raw) == 1 and intake.take_single(raw):
            return
        first, pos = intake.take_first(raw)
        events: Any
        if first is not None and pos == i64(len(raw)):
            # Most reads: a tuple is made faster than a list.
            events = (first,)
        else:
            taken: list[Any] = [] if first is None else [first]
            left = intake.take(raw, pos, taken)
            if left is not None:
                parser = self._parser
                taken = parser.rest(left)
                if parser.halted:
                    if taken or parser.paused:
                        self._queue(taken)
                    return
            if not taken:
                return
            events = taken
        if self._backlog is not None:
            self._queue([*events])
            return
        for event in self._pending:
            # The caller has not taken all of them.
            self._queue([event, *self._pending, *events])
            return
        self._pending = iter(events)

    def events(self) -> Any:
        """Iterate over the events not taken yet; unread ones are left for the next call.

        Returns:
            An iterator. Receiving more bytes may end it; the next one continues. The last event of
            a connection is a ``CloseConnection``.
        """
        return self._pending

    def _queue(self, events: list[Any]) -> None:
        raise NotImplementedError

"""The hot loops in typed Python, compiled by mypyc: masking, and frames that need no closer look.

Theory of operation. In compiled code, 64-bit arithmetic is free while a call into the interpreter
costs the same as ever, so a payload is XORed eight bytes at a time, straight into the object that
is returned. The tables of ``_masking`` and ``_parser`` let the interpreter do with one call what
would take it many; they are useless here. That is why two modules do the same work in two ways, and
:mod:`._implementation` chooses between them. These functions only take frames that are complete and
cannot be wrong, except for text that is not UTF-8; everything else is left to
:class:`._parser.FrameParser`.

``librt`` comes with mypyc and has the functions that read and write integers in bytes. Only the
tests import this module if it is not compiled.
"""

from __future__ import annotations

from typing import Any, Final

from librt.strings import BytesWriter, read_i32_le, read_i64_be, read_i64_le, write_i64_le
from mypy_extensions import i64, u8

from .events import BytesMessage, TextMessage

__all__ = ["mask", "take_fragments", "take_frame", "take_messages"]

_new: Final[Any] = object.__new__

#: Flags of a connection for ``take_messages``: frames are masked, text stays bytes.
MASKED: Final = 1
TEXT_AS_BYTES: Final = 2


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


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload; the operation is its own inverse (RFC 6455 §5.3).

    Args:
        payload: The bytes.
        key: The key's four bytes.

    Returns:
        The same number of bytes.
    """
    out = BytesWriter()
    _write(out, payload, 0, len(payload), _key_at(key, 0))
    return out.getvalue()


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
        Where the first frame that was not taken starts.

    Raises:
        UnicodeDecodeError: A text message is not UTF-8 (§8.1); the messages before it are in
            ``events``.
    """
    masked = mode & MASKED
    flag: i64 = 0x80 if masked else 0
    header: i64 = 6 if masked else 2
    end: i64 = len(data)
    out = BytesWriter()
    while turns > 0 and pos + header <= end:
        first = i64(data[pos])
        if first != 0x81 and first != 0x82:
            break
        size = i64(data[pos + 1]) ^ flag
        start = pos + header
        if size > 125:
            size = _long_size(data, pos, size, end)
            if size < 0:
                break
            start += 2 if size < 65536 else 8
        if size > limit or start + size > end:
            break
        stop = start + size
        if masked:
            out.truncate(0)
            _write(out, data, start, stop, _key_at(data, start - 4))
            payload = out.getvalue()
        else:
            payload = data[start:stop]
        event: Any
        if first == 0x82:
            event = _new(BytesMessage)
            event.data = payload
        else:
            event = _new(TextMessage)
            text = payload.decode("utf-8")
            if mode & TEXT_AS_BYTES:
                event.data = payload
            else:
                event.data = text
        event.frame_finished = True
        event.message_finished = True
        events.append(event)
        pos = stop
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
    out = BytesWriter()
    _write(out, data, start, stop, _key_at(data, start - 4))
    return stop, out.getvalue()


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

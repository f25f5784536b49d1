"""The least that receiving in pure Python can take: a floor for the figures of this package.

Theory of operation: a generator is given each read, and returns its events. It takes what a
well-behaved client sends: it unmasks, joins fragments, inflates, decodes, and makes the same events
as this package, in the fastest way that is known for each, with the same tables. It does not check
limits, reserved bits or the order of frames, and has neither a client's role, nor control frames,
nor an end. The one thing it does check is that a compressed message is complete (RFC 7692 §7.2.2):
zlib does not tell, and the calls for that are a large part of what such a message takes. A goal
below this cannot be reached without a compiler.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from typing import Any

from wsproto_sip._masking import (
    FROM_0,
    FROM_1,
    FROM_2,
    FROM_3,
    INTEGER_LIMIT,
    MASKED,
    SHORT,
    TABLES,
    unmask_run,
)
from wsproto_sip.events import BytesMessage, TextMessage

# The first bytes of frames that are taken many at once: text, binary, a middle fragment.
_RUNS_OF = (0x81, 0x82, 0)
_TAIL = b"\x00\x00\xff\xff"
_EMPTY_BLOCKS = _TAIL + (b"\x00" + _TAIL) * 8
_NO_OCTETS = bytearray()
_from_bytes = int.from_bytes
_new: Any = object.__new__


def receiver() -> Generator[Sequence[Any], bytes, None]:
    """Return a generator that takes the reads of one connection and yields their events.

    The first ``next`` starts it.
    """
    nothing: tuple[()] = ()
    events: Any = nothing
    parts: list[Any] = []
    binary = False
    kept, wanted = _NO_OCTETS, 0
    inflate = zlib.decompressobj(-15).decompress
    payload: Any
    while True:
        data = yield events
        if wanted:
            kept += data
            if len(kept) < wanted:
                events = nothing
                continue
            data, wanted = bytes(kept), 0
        events = []
        pos, end = 0, len(data)
        look = pos
        while pos < end:
            if end - pos < 6:
                wanted = _frame_size(data[pos:])
                break
            first = data[pos]
            masked = MASKED[data[pos + 1]]
            if masked is not None:
                total, unpack, repunit, shift, size = masked
                stop = pos + total
                if stop > end:
                    wanted = total
                    break
                if (pos > look or not first) and stop + 2 < end:
                    look = pos + 1024
                    payloads: Sequence[Any] = ()
                    alike = data[stop] == first and data[stop + 1] == data[pos + 1]
                    if alike and first in _RUNS_OF:
                        payloads, stop = _take_run(data, pos, total)
                    if payloads:
                        pos, look = stop, stop - 1
                        if first == 0x81:
                            for text in map(bytes.decode, payloads):
                                event = _new(TextMessage)
                                event.data = text
                                event.frame_finished = event.message_finished = True
                                events.append(event)
                            continue
                        if not first:
                            parts += payloads
                            continue
                        for payload in payloads:
                            event = _new(BytesMessage)
                            event.data = payload
                            event.frame_finished = event.message_finished = True
                            events.append(event)
                        continue
                    stop = pos + total
                key, payload = unpack(data, pos)
                key = key * repunit >> shift if shift else key * repunit
                payload = (_from_bytes(payload) ^ key).to_bytes(size)
            else:
                if data[pos + 1] == 0xFE:
                    start, size = pos + 8, data[pos + 2] << 8 | data[pos + 3]
                else:
                    start, size = pos + 14, _from_bytes(data[pos + 2 : pos + 10])
                stop = start + size
                if stop > end:
                    wanted = _frame_size(data[pos : pos + 14])
                    break
                if size < INTEGER_LIMIT:
                    unpack, repunit, whole = SHORT[size]
                    key, payload = unpack(data, start - 4)
                    if whole:
                        payload = _from_bytes(payload, "little") ^ key * repunit
                        payload = payload.to_bytes(whole, "little")[:size]
                    else:
                        payload = (_from_bytes(payload) ^ key * repunit).to_bytes(size)
                else:
                    payload = _NO_OCTETS + data[start:stop]
                    payload[FROM_0] = payload[FROM_0].translate(TABLES[data[start - 4]])
                    payload[FROM_1] = payload[FROM_1].translate(TABLES[data[start - 3]])
                    payload[FROM_2] = payload[FROM_2].translate(TABLES[data[start - 2]])
                    payload[FROM_3] = payload[FROM_3].translate(TABLES[data[start - 1]])
            pos = stop
            if first == 0x81:
                event = _new(TextMessage)
                event.data = payload.decode()
            elif first == 0xC1:
                event = _new(TextMessage)
                inflated, rest = inflate(payload[:-3]), inflate(payload[-3:])
                if not rest or inflate(_EMPTY_BLOCKS, 1):
                    raise ValueError("a compressed message is not complete")
                event.data = (inflated + rest).decode()
            elif first == 0x82:
                event = _new(BytesMessage)
                event.data = bytes(payload)
            else:
                parts.append(payload)
                if first < 0x80:
                    binary = binary or first == 2
                    continue
                payload = b"".join(parts)
                parts.clear()
                event = _new(BytesMessage if binary else TextMessage)
                event.data = payload if binary else payload.decode()
                binary = False
            event.frame_finished = event.message_finished = True
            events.append(event)
        if wanted:
            kept = _NO_OCTETS + data[pos:]


def _take_run(data: bytes, pos: int, total: int) -> tuple[Sequence[bytes], int]:
    """Return the payloads of frames with the same two first bytes, and where they end."""
    payloads: list[bytes] = []
    first, second, size = data[pos : pos + 1], data[pos + 1 : pos + 2], total - 6
    for count in (16, 4):
        span, firsts, seconds = count * total, first * count, second * count
        while True:
            frames = data[pos : pos + span]
            if frames[::total] != firsts or frames[1::total] != seconds or len(frames) < span:
                break
            payloads += unmask_run(frames, size, count)
            pos += span
    return payloads, pos


def _frame_size(data: bytes) -> int:
    """Return the size of a masked frame, or how many bytes are needed to know it."""
    size = data[1] & 0x7F if len(data) > 1 else 0
    if len(data) < 2:
        return 2
    if size < 126:
        return 6 + size
    header = 8 if size == 126 else 14
    return header + _from_bytes(data[2 : header - 4]) if len(data) >= header else header

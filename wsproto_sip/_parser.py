"""The receive loop: bytes in, events out (RFC 6455 §5).

Theory of operation. Most frames are whole messages that lie completely in one read. The loop in
:meth:`FrameParser.receive` takes those without calling any function of ours, a run of them that
have one size, or of fragments, with one call, and other plain frames with one call each. Everything
else goes through :meth:`FrameParser._frame`, which checks the header as far as it has arrived, so
that a wrong byte fails the connection before the next one is needed. Three things can be unfinished
between two reads:

- a header, a control frame or a short message: its bytes (131 at most) are held;
- the payload of a data frame: it is unmasked, inflated, checked as UTF-8 and delivered (streaming)
  or put aside (whole messages) as it arrives; only ``_remaining`` and the rotated key are kept;
- a message: ``_opcode``, its pieces, and up to three bytes of a character split between pieces.

Errors are raised as ``ParseFailed`` inside and become one ``CloseConnection`` after the events
parsed so far; then the parser drops all input. How much of an invalid frame was delivered depends
on how it was split; nothing else does.
"""

from __future__ import annotations

from codecs import utf_8_decode
from functools import lru_cache, partial
from itertools import islice, repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ._frames import (
    KIND_BINARY,
    KIND_OCTETS,
    KIND_TEXT,
    KINDS_BETWEEN,
    KINDS_INSIDE,
    KINDS_INSIDE_DEFLATE,
    KINDS_NONE,
    inbound_header,
    inbound_payload,
    too_big,
)
from ._masking import (
    FROM_0,
    FROM_1,
    FROM_2,
    FROM_3,
    INTEGER_LIMIT,
    MASKED,
    NOTHING,
    SHORT,
    TABLES,
    apply_mask,
    fast_frames,
    rotate_key,
    short_header,
    singles,
    unmask_run,
)
from .events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from .extensions import InflateError
from .frame_protocol import CloseReason, Opcode, ParseFailed, parse_close
from .limits import HONEST_FRAGMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .extensions import Extension, PerMessageDeflate
    from .limits import Limits
    from .typing import BytesLike

__all__ = ["FEW", "FrameParser"]

#: Parts of a message shorter than this are joined to the previous part, so that a message trickled
#: byte by byte costs its size and not an object per byte.
_PART_SIZE: Final = 512

_from_bytes = int.from_bytes
# Skipping __init__ halves the cost of an event.
_new: Any = object.__new__
_new_text: Any = partial(_new, TextMessage)
_new_bytes: Any = partial(_new, BytesMessage)

_WHOLE_MESSAGES: Final = (KIND_TEXT, KIND_BINARY, KIND_OCTETS)
# How to make the event of a single byte, and its data by the byte's value: for binary data, text,
# and text as bytes. ``None`` takes a closer look.
_OCTETS: Final = [bytes((octet,)) for octet in range(256)]
_NOT_ASCII: Final = [None] * 128
_BINARY_SINGLE: Final = (_new_bytes, _OCTETS)
_TEXT_SINGLE: Final = (_new_text, [*map(chr, range(128)), *_NOT_ASCII])
_OCTETS_SINGLE: Final = (_new_text, [*_OCTETS[:128], *_NOT_ASCII])


def _checked(text: bytes) -> bytes:
    text.isascii() or text.decode()
    return text


# How to make the event of a whole message, and its data of the payload, by the kind of the frame.
_HOW_TO_DELIVER: Final[dict[int, tuple[Any, Any]]] = {
    KIND_TEXT: (_new_text, bytes.decode),
    KIND_BINARY: (_new_bytes, None),
    KIND_OCTETS: (_new_text, _checked),
}
_NO_WAY: Final = (None, None)
_NO_KEY: Final = bytes(4)
_NO_OCTETS: Final = bytearray()  # never added to
_NEVER: Final = 1 << 64  # larger than any frame
_ENDLESS: Final = repeat(0)
#: Fewer bytes than this in a read suggest that they arrive one by one.
FEW: Final = 16
# How many short frames with the same first two bytes are taken at once, and after how many bytes
# without such a run the next one is looked for.
_RUNS: Final = (16, 4)
_NEXT_LOOK: Final = 1024
# How many bytes of a payload are held raw before they are put aside, where they are counted.
_HELD: Final = 1024


@lru_cache(maxsize=64)
def _rules(
    limits: Limits, max_frames: int | None, text_as_bytes: bool
) -> tuple[Iterable[object], int, int, int, bool]:
    """Return what never changes; parsers share it, to stay small.

    Returns:
        An iterable with an item for each frame that one call may take; how much it may inflate; the
        maximum number of fragments; the maximum payload length; and whether text stays bytes.
    """
    return (
        _ENDLESS if max_frames is None else range(max_frames),
        _NEVER if limits.max_inflated_per_read is None else limits.max_inflated_per_read,
        _NEVER if limits.max_fragments is None else limits.max_fragments,
        _NEVER if limits.max_frame_size is None else limits.max_frame_size,
        text_as_bytes,
    )


def _take_alike(
    data: bytes,
    pos: int,
    most: int,
    turns: Iterator[object],
    begun: int,
    take: Callable[[tuple[bytes, ...]], None],
) -> int:
    """Unmask the short frames at ``pos`` that have the same first two bytes, many at once.

    Args:
        data: The received bytes.
        pos: Where the first frame starts.
        most: How many frames may be taken.
        turns: Yields an item for each frame that may be taken.
        begun: How many items it has yielded for them.
        take: Takes payloads.

    Returns:
        Where the next frame starts.
    """
    first, second = data[pos : pos + 1], data[pos + 1 : pos + 2]
    total = second[0] - 0x80 + 6
    end = len(data)
    for count in _RUNS:
        span = count * total
        while pos + span <= end and count <= most:
            frames = data[pos : pos + span]
            if frames[::total] != first * count or frames[1::total] != second * count:
                break
            if turns is not _ENDLESS:
                if length_hint(turns) + begun < count:
                    break
                for _ in islice(turns, count - begun):
                    pass
                begun = 0
            take(unmask_run(frames, total - 6, count))
            pos += span
            most -= count
    return pos


class FrameParser:
    """Turn the bytes from a peer into events.

    Args:
        client: Whether this is the client's end, which receives unmasked frames.
        limits: The limits on frames and messages.
        deflate: permessage-deflate, if it is the only extension in use.
        extensions: Otherwise, the extensions in use, in the order in which they were accepted.
        whole_messages: Whether to deliver messages when they are complete, instead of their pieces
            as they arrive.
        text_as_bytes: Whether text messages carry their bytes, checked as UTF-8, instead of
            ``str``.
        max_frames: How many frames to take in one call; the rest waits for the next. ``None`` takes
            all.

    Raises:
        ValueError: ``max_frames`` is less than 1.

    Attributes:
        closed: No more events will come: a close frame was read, or the peer broke the protocol.
        failed: The peer broke the protocol.
        paused: The limit on the work of one call was reached with bytes left; call ``receive(b"")``
            to continue.
        halted: The parser is closed or paused.
        controls: How many control frames were taken; the caller may reset it.
        fragments: How many data frames were taken, not counting the last frame of each message; the
            caller may reset it.
        put_aside: The size of what has arrived of an unfinished message, if messages are assembled.
        joined: How many messages were assembled from more than one part.
        kept: Bytes that were not processed yet: of an incomplete frame, or else from its start.
        harmless: For each of the bytes that may be appended to ``kept`` without processing, its
            allowed values, by the piece of one byte that each is received as.
        client: Whether this is the client's end.
    """

    # fmt: off
    __slots__ = (
        "_between", "_carry", "_chain", "_compressed", "_deflate", "_fast", "_fin", "_fragments",
        "_inflated", "_key", "_kinds", "_max_message", "_opcode", "_parts", "_remaining", "_rules",
        "_single", "_size", "_unfinished", "_whole", "_wire", "client", "closed", "controls",
        "failed", "fragments", "halted", "harmless", "joined", "kept", "paused", "put_aside"
    )
    # fmt: on

    def __init__(
        self,
        client: bool,
        limits: Limits,
        deflate: PerMessageDeflate | None = None,
        extensions: Sequence[Extension] = (),
        *,
        whole_messages: bool = False,
        text_as_bytes: bool = False,
        max_frames: int | None = None,
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames must be 1 or more: {max_frames!r}")
        self.client = client
        self.closed = self.failed = self.paused = self.halted = False
        self.controls = self.fragments = 0
        self.put_aside = self.joined = 0
        self._deflate: Any = deflate
        # RFC 6455 §9.1: the last accepted extension is the one nearest to the wire.
        self._chain = tuple(reversed(extensions))
        self._whole = whole_messages
        self._max_message = _NEVER if limits.max_message_size is None else limits.max_message_size
        self._rules = _rules(limits, max_frames, text_as_bytes)
        most, max_frame = self._rules[2:4]
        # The largest payload that needs no closer look.
        self._fast = fast_frames(client, min(self._max_message, max_frame))
        # The frames that the loop may take between messages, and now. Extensions see every frame.
        between = KINDS_BETWEEN[deflate is not None, text_as_bytes]
        self._between = KINDS_NONE if extensions or not most else between
        self._kinds = self._between
        # The incomplete data frame: the missing bytes, including those held below; its FIN bit; its
        # key, rotated so that the byte n before the end uses ``key[-n & 3]``; and, if single bytes
        # make events, which ones.
        self._remaining = 0
        self._fin, self._key = False, _NO_KEY
        self._single: tuple[Any, Sequence[Any]] | None = None
        # The incomplete message: 0, TEXT or BINARY; its size so far, on the wire and inflated; its
        # parts, all str or all bytes; the start of a split character.
        self._opcode, self._compressed = 0, False
        self._fragments = self._wire = self._size = 0
        self._parts: list[Any] | None = None
        self._carry = b""
        self.kept = _NO_OCTETS
        self.harmless: Iterator[dict[bytes, int]] = NOTHING
        # Bytes inflated in this call; whether an earlier call left input to inflate, or was the
        # last.
        self._inflated = 0
        self._unfinished = False

    def receive(self, data: BytesLike) -> list[Event]:
        """Take the next bytes from the peer.

        Args:
            data: Bytes, split anywhere; an empty one continues a parser that has paused.

        Returns:
            The events, in order. A ``CloseConnection`` is always the last one.

        Raises:
            TypeError: ``data`` is not bytes-like. The parser is unchanged.
        """
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        if self._unfinished:
            # Single bytes are the most expensive input. Bytes that cannot be wrong are held raw;
            # the first byte that could be, or the last one of the payload, is processed like any
            # other piece.
            for harmless in self.harmless:
                try:
                    self.kept.append(harmless[data])
                    return []
                except KeyError:
                    self.harmless = NOTHING
                    break
            remaining = self._remaining
            if remaining:
                if self._single is not None and len(data) == 1 and remaining > 1:
                    # While messages are streamed, a byte is an event if it is valid on its own.
                    new_event, pieces = self._single
                    piece = pieces[data[0] ^ self._key[-remaining & 3]]
                    if piece is not None:
                        self._remaining = remaining - 1
                        event = new_event()
                        event.data = piece
                        event.frame_finished = event.message_finished = False
                        return [event]
            elif self.closed:
                return []
            else:
                data = b"".join((self.kept, data))
                self.kept, self.harmless = _NO_OCTETS, NOTHING
        events: list[Event] = []
        pos, turns = 0, self._rules[0]
        if turns is not _ENDLESS:
            turns = iter(turns)
        self._inflated = 0
        try:
            if self._unfinished:
                self._unfinished = self.paused = self.halted = False
                if self._remaining:
                    pos = self._continue(data, events)
                    if not self._remaining:
                        # A payload that this call completes counts as its first frame.
                        next(turns)
            end = len(data)
            table, mask_bit, header, least, fast_limit, mask = self._fast
            last = end - least
            kinds = self._kinds
            payload: bytes | bytearray
            look = pos
            for _ in turns:
                # Ordinary data frames that are complete and within the limits. Every other case,
                # and every error, is left to _frame.
                if pos <= last:
                    first = data[pos]
                    kind = kinds[first]
                    if kind:
                        octet = data[pos + 1]
                        masked = table[octet]
                        if masked is not None:
                            total, unpack, repunit, shift, size = masked
                            stop = pos + total
                            if pos > look and stop < last:
                                # Not the first frame of the read, and not the last.
                                look = pos + _NEXT_LOOK
                                if data[stop] == first and data[stop + 1] == octet:
                                    stop = self._take_messages(data, pos, turns, events)
                                    if stop > pos:
                                        pos = look = stop
                                        continue
                                    stop = pos + total
                            if stop <= end:
                                key, payload = unpack(data, pos)
                                key = key * repunit >> shift if shift else key * repunit
                                payload = (_from_bytes(payload) ^ key).to_bytes(size)
                            else:
                                kind = 0
                        else:
                            size = octet ^ mask_bit
                            start = pos + header
                            if size > 125:
                                # 127 announces eight bytes of length, which _frame reads: such
                                # frames are rare, or wrong.
                                size = data[pos + 2] << 8 | data[pos + 3] if size == 126 else 0
                                start += 2
                                # 127, or not the shortest form (§5.2). No frame is of this size,
                                # so that _frame decides.
                                if size < 126:
                                    size = _NEVER
                            stop = start + size
                            if stop > end or size > fast_limit:
                                kind = 0
                            elif not mask_bit:
                                payload = data[start:stop]
                            elif mask is not None:
                                payload = mask(data[start:stop], data[start - 4 : start])
                            elif size < INTEGER_LIMIT:
                                unpack, repunit, whole = SHORT[size]
                                key, payload = unpack(data, start - 4)
                                key *= repunit
                                if whole:
                                    key ^= _from_bytes(payload, "little")
                                    payload = key.to_bytes(whole, "little")[:size]
                                else:
                                    payload = (_from_bytes(payload) ^ key).to_bytes(size)
                            else:
                                # Same as apply_mask, without the call.
                                payload = _NO_OCTETS + data[start:stop]
                                payload[FROM_0] = payload[FROM_0].translate(TABLES[data[start - 4]])
                                payload[FROM_1] = payload[FROM_1].translate(TABLES[data[start - 3]])
                                payload[FROM_2] = payload[FROM_2].translate(TABLES[data[start - 2]])
                                payload[FROM_3] = payload[FROM_3].translate(TABLES[data[start - 1]])
                                if kind != KIND_TEXT:
                                    payload = bytes(payload)
                        if kind:
                            pos = stop
                            if kind == KIND_TEXT:
                                event = _new_text()
                                event.data = payload.decode()
                            elif kind == KIND_BINARY:
                                event = _new_bytes()
                                event.data = payload
                            elif kind == KIND_OCTETS:
                                # Only checked: the caller wants the bytes.
                                payload.isascii() or payload.decode()
                                event = _new_text()
                                event.data = payload
                            else:
                                self._plain_frame(first, payload, events)
                                if self._inflated > self._rules[1]:
                                    break
                                kinds = self._kinds
                                if kinds is KINDS_INSIDE and pos <= last:
                                    pos = self._take_fragments(data, pos, turns, events)
                                    kinds = self._kinds
                                continue
                            event.frame_finished = event.message_finished = True
                            events.append(event)
                            continue
                # The usual end of a read: everything was taken.
                elif pos >= end:
                    return events
                if end - pos < FEW and self._hold(data, pos):
                    return events
                stop = self._frame(data, pos, events)
                if stop < 0:
                    # All of the missing bytes but the last one may arrive singly without another
                    # look.
                    self._keep(data, pos, singles(-stop - 1 - end + pos))
                    return events
                pos = stop
                if self._inflated > self._rules[1]:
                    break
                kinds = self._kinds
            # The limit on the work of one call is reached.
            if pos < end:
                self._keep(data, pos, NOTHING)
                self.paused = self.halted = True
        except (ParseFailed, InflateError, UnicodeDecodeError) as exc:
            # The one place for errors: events parsed before the wrong byte are delivered before it.
            self._fail(exc, events)
        return events

    @property
    def front(self) -> Any:
        """Return what input is given to first: an object with the method :meth:`receive`.

        If that returns a tuple, :meth:`rest` has to be called with it.
        """
        return self

    def rest(self, left: tuple[bytes, int, int, list[Event]]) -> list[Event]:
        """Go on with what the front has left, and return the events."""
        raise NotImplementedError

    #: What a front of another class adds to ``put_aside`` and to ``joined``.
    arrived: ClassVar[int] = 0
    completed: ClassVar[int] = 0

    @property
    def held(self) -> int:
        """Return how many bytes are kept raw for the next call."""
        return len(self.kept)

    def deliver_pieces(self) -> list[Event]:
        """Deliver the pieces of messages as they arrive, from now on.

        Returns:
            The pieces put aside of the incomplete message, if any.
        """
        events: list[Event] = []
        if self._whole and not self.closed:
            parts, self._parts = self._parts, None
            self._whole = False
            self.put_aside = 0
            if parts:
                kind: Any = TextMessage if self._opcode == Opcode.TEXT else BytesMessage
                part = "".join(parts) if isinstance(parts[0], str) else b"".join(parts)
                events.append(kind(part, False, False))
            # The held bytes cannot be wrong. They belong to a payload or start with its frame.
            if self._remaining:
                self._continue(b"", events)
            elif self.kept and not self.paused:
                events += self.receive(b"")
        return events

    def end_of_input(self) -> list[Event]:
        """Handle the end of the peer's input.

        Returns:
            A ``CloseConnection`` with code 1006 (RFC 6455 §7.1.5), unless the last event was
            delivered.
        """
        if self.closed:
            return []
        self._release()
        return [CloseConnection(code=CloseReason.ABNORMAL_CLOSURE)]

    def _keep(self, data: bytes, pos: int, harmless: Iterator[dict[bytes, int]]) -> None:
        """Keep the rest of the input for the next call."""
        self.kept = _NO_OCTETS + data[pos:]
        self.harmless = harmless
        self._unfinished = True

    def _hold(self, data: bytes, pos: int) -> bool:
        """Keep the first bytes of a short unfragmented message, if they cannot be wrong."""
        kind = self._kinds[data[pos]]
        if self.client or kind not in _WHOLE_MESSAGES:
            return False
        size = len(data) - pos
        if size == 1:
            self._keep(data, pos, short_header() if self._fast[4] > 125 else NOTHING)
            return True
        entry = MASKED[data[pos + 1]]
        if entry is None or entry[-1] > self._fast[4]:
            return False
        if size < 6:
            self._keep(data, pos, singles(5 - size))
            return True
        key = None if kind == KIND_BINARY else data[pos + 2 : pos + 6]
        if size > 6 and key is not None:
            if not apply_mask(data[pos + 6 :], key).isascii():
                return False
            key = rotate_key(key, size - 6)
        if self._whole:
            self._keep(data, pos, singles(entry[0] - size - 1, key))
        return self._whole

    def _fail(
        self, failure: ParseFailed | InflateError | UnicodeDecodeError, events: list[Event]
    ) -> None:
        """End the parser; RFC 6455 §7.1.7 forbids processing any further data."""
        self.failed = True
        self._release()
        if isinstance(failure, UnicodeDecodeError):
            # RFC 6455 §8.1
            reason = f"text is not UTF-8: {failure.reason}"
            event = CloseConnection(CloseReason.INVALID_FRAME_PAYLOAD_DATA, reason)
        else:
            event = CloseConnection(failure.code, str(failure))
        events.append(event)

    def _release(self) -> None:
        self.closed = self.halted = self._unfinished = True
        self.paused = False
        self._remaining = self.put_aside = 0
        self._carry = b""
        self.kept, self.harmless = _NO_OCTETS, NOTHING
        self._parts = self._deflate = self._single = None
        self._chain = ()

    # -- frames ------------------------------------------------------------------------------------

    def _frame(self, data: bytes, pos: int, events: list[Event]) -> int:
        """Take the frame of any kind at ``pos``, as far as it has arrived.

        Checks are made in the order of the bytes, so that the same error is reported however the
        stream was split.

        Returns:
            Where the next frame starts; or, if nothing was taken, how many bytes from ``pos`` on
            are needed to continue, negated.
        """
        end = len(data)
        first = data[pos]
        opcode = first & 0x0F
        control = opcode & 0x08
        fin = first >= 0x80
        rsv = first & 0x70
        chain = self._chain
        if opcode > (Opcode.PONG if control else Opcode.BINARY):
            raise ParseFailed(f"unknown opcode 0x{opcode:X}")
        if control:
            # RFC 6455 §5.5
            if not fin:
                raise ParseFailed("fragmented control frame")
        # RFC 6455 §5.4
        elif not opcode:
            if not self._opcode:
                raise ParseFailed("continuation frame without a message to continue")
        elif self._opcode:
            raise ParseFailed("new message before the end of the fragmented one")
        # RFC 7692 §6.1: RSV1 on the first frame of a message, and nowhere else.
        if rsv and not chain and (rsv != 0x40 or self._deflate is None or not opcode or control):
            raise ParseFailed("reserved bit set that was not negotiated")
        if not control:
            self._check_fragments()
        if end - pos < 2:
            return -2
        size = data[pos + 1] if self.client else data[pos + 1] ^ 0x80
        start = pos + 2
        if size > 127:
            # RFC 6455 §5.1
            raise ParseFailed("masked frame from a server" if self.client else "unmasked frame")
        if size > 125:
            if control:
                raise ParseFailed("control frame longer than 125 bytes")
            shortest, octets = (126, 2) if size == 126 else (65536, 8)
            start += octets
            if end < start:
                return pos - start
            size = _from_bytes(data[start - octets : start])
            if size >> 63:
                raise ParseFailed("length with its top bit set")
            if size < shortest:
                raise ParseFailed("length not in its shortest form")
        if not control:
            self._check_size(size, bool(chain) or (rsv == 0x40 if opcode else self._compressed))
        key = _NO_KEY
        if not self.client:
            start += 4
            key = data[start - 4 : start]
        stop = start + size
        # Control frames are processed when they are complete (§5.5), data frames as soon as they
        # begin.
        if end < (stop if control else start):
            return pos - (stop if control else start)
        payload: bytes | bytearray = data[start:stop]
        if not self.client:
            payload = apply_mask(payload, key)
        if chain:
            inbound_header(chain, self, Opcode(opcode), rsv, size)
        if control:
            payload = bytes(payload)
            if chain:
                payload = inbound_payload(chain, self, payload, True, True)
            self._control(opcode, payload, events)
            # Everything after a close frame is ignored (§5.5.1).
            return end if self.closed else stop
        self._begin_frame(first, size)
        if stop <= end:
            self._payload(payload, True, fin, events)
            return stop
        self._remaining = stop - end
        self._fin = fin
        self._key = rotate_key(key, size)
        if payload:
            self._payload(payload, False, fin, events)
        self._more_to_come(end)
        return end

    def _plain_frame(self, first: int, payload: bytes | bytearray, events: list[Event]) -> None:
        """Process a complete data frame, in which at most the size can be wrong."""
        if first > 0xC0:
            # A whole compressed message: no state needs to be kept.
            octets = self._deflate.decompress(payload, True, self._max_message)
            self._inflated += len(octets)
            event: Any = _new(TextMessage if first == 0xC1 else BytesMessage)
            if first == 0xC2:
                event.data = octets
            elif self._rules[4]:
                octets.isascii() or octets.decode()
                event.data = octets
            else:
                event.data = octets.decode()
            event.frame_finished = event.message_finished = True
            events.append(event)
            return
        self._check_fragments()
        size = len(payload)
        if size > self._rules[3] or self._wire + size > self._max_message:
            self._check_size(size, self._compressed)
        self._begin_frame(first, size)
        self._payload(payload, True, first >= 0x80, events)

    def _take_messages(
        self, data: bytes, pos: int, turns: Iterator[object], events: list[Event]
    ) -> int:
        """Take the short whole messages at ``pos`` whose frames have the same first two bytes.

        Args:
            data: The received bytes.
            pos: Where the first frame starts.
            turns: Yields an item for each frame that may be taken, and has done so for the first.
            events: The list to append events to.

        Returns:
            Where the next frame starts; ``pos`` if there are too few.
        """
        new_event, convert = _HOW_TO_DELIVER.get(self._kinds[data[pos]], _NO_WAY)
        if new_event is None:
            return pos

        def deliver(payloads: Iterable[Any]) -> None:
            for piece in map(convert, payloads) if convert else payloads:
                event = new_event()
                event.data = piece
                event.frame_finished = event.message_finished = True
                events.append(event)

        return _take_alike(data, pos, len(data), turns, 1, deliver)

    def _take_fragments(
        self, data: bytes, pos: int, turns: Iterator[object], events: list[Event]
    ) -> int:
        """Take the short masked frames at ``pos`` that continue a plain message.

        Frames that may be wrong are left to the loop. If messages are assembled, text is checked
        once for all frames taken, and therefore before the next frame is processed.

        Args:
            data: The received bytes.
            pos: Where the first frame starts.
            turns: Yields an item for each frame that may be taken.
            events: The list to append events to.

        Returns:
            Where the next frame starts.
        """
        least, limit = self._fast[3:5]
        if self.client or limit < 125:
            return pos
        end = len(data)
        last = end - least
        whole, text, as_octets = self._whole, self._opcode == Opcode.TEXT, self._rules[4]
        kind: Any = TextMessage if text else BytesMessage
        room = self._max_message - self._wire
        left = self._rules[2] + self._wire // HONEST_FRAGMENT - self._fragments
        parts: list[bytes] = []
        first = 0
        look = pos
        while left > 0 and pos <= last and not first:
            following = data[pos]
            octet = data[pos + 1]
            masked = MASKED[octet]
            if masked is None or (following and following != 0x80):
                break
            total, unpack, repunit, shift, size = masked
            stop = pos + total
            if stop > end or size > room:
                break
            if whole and pos >= look and stop < last and not following:
                look = pos + _NEXT_LOOK
                if data[stop] == following and data[stop + 1] == octet:
                    most = min(left, room // size) if size else left
                    before = len(parts)
                    stop = _take_alike(data, pos, most, turns, 0, parts.extend)
                    if stop > pos:
                        taken = len(parts) - before
                        left -= taken
                        room -= taken * size
                        pos = look = stop
                        continue
                    stop = pos + total
            if turns is not _ENDLESS:
                for _ in turns:
                    break
                else:
                    break
            key, payload = unpack(data, pos)
            key = key * repunit >> shift if shift else key * repunit
            payload = (_from_bytes(payload) ^ key).to_bytes(size)
            parts.append(payload)
            pos = stop
            left -= 1
            room -= size
            first = following
            if whole or first:
                continue
            if text and (self._carry or not payload.isascii()):
                self._payload(payload, True, False, events)
            else:
                event = _new(kind)
                event.data = payload.decode() if text and not as_octets else payload
                event.frame_finished = True
                event.message_finished = False
                events.append(event)
                self.fragments += 1
        if parts:
            self._fragments += len(parts)
            self._wire = self._max_message - room
            if whole:
                self.fragments += len(parts) - 1
                payload = b"".join(parts)
            if whole or first:
                self._payload(payload, True, first != 0, events)
        return pos

    def _check_fragments(self) -> None:
        """Refuse another data frame of a message that already has too many for its size."""
        most = self._rules[2]
        if self._fragments >= most:
            allowed = most + self._wire // HONEST_FRAGMENT
            if self._fragments >= allowed:
                raise too_big(f"message in more than {allowed} frames")

    def _check_size(self, size: int, compressed: bool) -> None:
        """Refuse a payload that is announced as too long, before any of it is read."""
        max_frame = self._rules[3]
        if size > max_frame:
            raise too_big(f"frame of {size} bytes, more than {max_frame}")
        bound = self._max_message
        if compressed:
            # Incompressible data grows by its block headers: by 4 % if the deflater has the least
            # memory.
            bound += bound // 16 + 64
        self._check_total(self._wire + size, bound)

    def _check_total(self, total: int, bound: int) -> None:
        if total > bound:
            raise too_big(f"message of more than {self._max_message} bytes")

    def _begin_frame(self, first: int, size: int) -> None:
        """Count a data frame, the first or a later one of its message."""
        opcode = first & 0x0F
        if opcode:
            self._opcode = opcode
            self._compressed = first & 0x40 != 0 and not self._chain
            if self._between is not KINDS_NONE:
                self._kinds = KINDS_INSIDE_DEFLATE if self._compressed else KINDS_INSIDE
        self._fragments += 1
        self._wire += size

    def _continue(self, data: bytes, events: list[Event]) -> int:
        """Process the rest of a payload from an earlier call; return how many bytes were taken."""
        held = len(self.kept)
        end = self._remaining - held
        payload = self.kept + data[:end] if held else data[:end]
        self.kept, self.harmless, self._single = _NO_OCTETS, NOTHING, None
        taken = len(payload)
        if not self.client:
            payload = apply_mask(payload, rotate_key(self._key, -self._remaining))
        self._remaining -= taken
        if payload:
            self._payload(payload, not self._remaining, self._fin, events)
        if self._remaining:
            self._more_to_come(len(data))
        return taken - held

    def _more_to_come(self, size: int) -> None:
        """Record that a payload is unfinished, and which bytes of it need no processing."""
        self._unfinished = True
        if size >= FEW or self._carry or self._compressed or self._chain:
            return
        text = self._opcode == Opcode.TEXT
        if not self._whole:
            self._single = (
                _BINARY_SINGLE if not text else _OCTETS_SINGLE if self._rules[4] else _TEXT_SINGLE
            )
        else:
            self.kept = bytearray()
            ascii_key = rotate_key(self._key, -self._remaining) if text else None
            self.harmless = singles(min(self._remaining - 1, _HELD), ascii_key)

    # -- payloads ----------------------------------------------------------------------------------

    def _payload(
        self, payload: bytes | bytearray, frame_done: bool, fin: bool, events: list[Event]
    ) -> None:
        """Handle unmasked bytes of a data frame: inflate, check, deliver or put aside."""
        done = frame_done and fin
        if frame_done and not fin:
            self.fragments += 1
        if self._compressed:
            payload = self._inflate(payload, done)
            self._size += len(payload)
        elif self._chain:
            payload = inbound_payload(self._chain, self, bytes(payload), frame_done, fin)
            self._size += len(payload)
            self._check_total(self._size, self._max_message)
        text = self._opcode == KIND_TEXT
        part: str | bytes | bytearray = payload
        if text:
            if self._carry or not payload.isascii():
                payload = self._carry + payload
                part, used = utf_8_decode(payload, "strict", done)
                self._carry = carry = bytes(payload[used:])
                # Python's decoder waits for the third byte of a surrogate, but the second is wrong
                # already.
                if carry[:1] == b"\xed" and carry[1:] >= b"\xa0":
                    raise UnicodeDecodeError("utf-8", carry, 0, 1, "invalid continuation byte")
                if self._rules[4]:
                    part = payload[:used]
            elif not self._rules[4]:
                part = payload.decode()
        if self._whole:
            if not done:
                if part:
                    self._put_aside(part)
                return
            parts = self._parts
            if parts is not None:
                if isinstance(part, str):
                    # Python extends a string in place if nothing else refers to it, which most
                    # often saves the only copy.
                    last: str = parts.pop()
                    last += part
                    part = "".join((*parts, last)) if parts else last
                else:
                    part = b"".join((*parts, part))
                self.put_aside = 0
                self.joined += 1
        elif not (part or frame_done):
            return
        if isinstance(part, bytearray):
            part = bytes(part)
        kind: Any = TextMessage if text else BytesMessage
        events.append(kind(part, frame_done, done))
        if done:
            self._opcode = 0
            self._kinds = self._between
            self._fragments = self._wire = self._size = 0
            self._parts = None

    def _put_aside(self, part: str | bytes | bytearray) -> None:
        """Keep a part of an unfinished message, in no more objects than its size justifies."""
        parts = self._parts
        self.put_aside += len(part)
        if parts is None:
            self._parts = [part]
        elif len(parts[-1]) < _PART_SIZE:
            parts[-1] += part
        else:
            parts.append(part)

    def _inflate(self, payload: bytes | bytearray, done: bool) -> bytes:
        """Inflate a compressed message or its next piece, within the message's limit."""
        budget = self._max_message - self._size
        octets: bytes = self._deflate.decompress(bytes(payload), done, budget)
        self._inflated += len(octets)
        return octets

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        """Handle a complete control frame (RFC 6455 §5.5)."""
        self.controls += 1
        if opcode == Opcode.PING:
            events.append(Ping(payload))
        elif opcode == Opcode.PONG:
            events.append(Pong(payload))
        else:
            close = parse_close(payload)
            self._release()
            events.append(close)

"""The receive loop: octets in, events out (RFC 6455 §5).

Theory of operation. Most frames are whole messages that lie complete in one read: the loop in
:meth:`FrameParser.receive` takes those without calling anything of ours, and other plain frames
with one call. What is left goes through :meth:`FrameParser._frame`, which checks the header as far
as it is there, so that a wrong octet fails the connection before the next one is needed. Three
things can be unfinished between two reads:

- a header, a control frame or a short message: its octets (131 at most) are held;
- the payload of a data frame: it is unmasked, inflated, checked as UTF-8 and handed on (streaming)
  or put aside (whole messages) as it arrives, and only ``_remaining`` and the rotated key are kept;
- a message: ``_opcode``, its pieces, and the up to three octets of a character cut in two.

Errors are raised as ``ParseFailed`` inside and end in one ``CloseConnection`` behind the events
parsed so far; then the parser drops what comes. How much was delivered of a frame that turned out
to be wrong depends on how it was cut; nothing else does.
"""

from __future__ import annotations

from codecs import utf_8_decode
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Final

from ._masking import (
    FROM_0,
    FROM_1,
    FROM_2,
    FROM_3,
    INTEGER_LIMIT,
    MASKED,
    SHORT,
    TABLES,
    apply_mask,
    fast_frames,
    rotate_key,
    short_header,
    singles,
)
from .events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from .extensions import InflateError
from .frame_protocol import (
    KIND_BINARY,
    KIND_TEXT,
    KINDS_BETWEEN,
    KINDS_BETWEEN_DEFLATE,
    KINDS_INSIDE,
    KINDS_NONE,
    CloseReason,
    Opcode,
    ParseFailed,
    inbound_header,
    inbound_payload,
    parse_close,
    too_big,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .extensions import Extension, PerMessageDeflate
    from .limits import Limits
    from .typing import BytesLike

__all__ = ["FrameParser"]

#: Parts of a message shorter than this are joined to their predecessor, so that a message trickled
#: octet by octet costs its size and not an object per octet.
_PART_SIZE: Final = 512

_from_bytes = int.from_bytes
_new: Any = object.__new__

_NO_KEY: Final = bytes(4)
_NO_OCTETS: Final = bytearray()  # nobody adds to this one
_NONE: Final = singles(0)
_NEVER: Final = 1 << 64  # a size no frame has
_FEW: Final = 16  # a read of fewer octets is a sign that they come one by one


class FrameParser:
    """Turns the octets a peer sent into events.

    Args:
        client: Whether this is the client's end, which receives unmasked frames.
        limits: Bounds on frames and messages.
        deflate: permessage-deflate, if that is the one extension in use.
        extensions: The extensions in use otherwise, in the order in which they were accepted.
        whole_messages: Whether to deliver a message when it is complete, instead of its pieces as
            they arrive.
        text_as_bytes: Whether text messages carry their (checked) octets instead of ``str``.
        max_frames: Frames to take in one call; the rest waits for the next. None takes all.

    Raises:
        ValueError: ``max_frames`` is less than 1.

    Attributes:
        closed: Nothing more comes out: a close frame was read, or the peer broke the protocol.
        failed: It was the latter.
        paused: A bound on the work of one call was reached with octets left; call
            ``receive(b"")`` to go on.
        halted: It is closed or paused.
        client: As above.
    """

    # fmt: off
    __slots__ = (
        "_between", "_carry", "_chain", "_compressed", "_deflate", "_fast", "_fin", "_fragments",
        "_harmless", "_held", "_inflated", "_key", "_kinds", "_max_fragments", "_max_frame",
        "_max_inflated", "_max_message", "_opcode", "_parts", "_remaining", "_size",
        "_text_as_bytes", "_turns", "_unfinished", "_whole", "_wire", "client", "closed",
        "failed", "halted", "paused"
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
        self._deflate: Any = deflate
        # RFC 6455 §9.1: the last accepted extension stands nearest to the wire.
        self._chain = tuple(reversed(extensions))
        self._whole = whole_messages
        self._text_as_bytes = text_as_bytes
        self._max_message = _NEVER if limits.max_message_size is None else limits.max_message_size
        self._max_frame = _NEVER if limits.max_frame_size is None else limits.max_frame_size
        self._max_fragments = _NEVER if limits.max_fragments is None else limits.max_fragments
        self._max_inflated = (
            _NEVER if limits.max_inflated_per_read is None else limits.max_inflated_per_read
        )
        # What a payload may have that nobody needs to take a closer look at.
        self._fast = fast_frames(client, min(self._max_message, self._max_frame))
        # What the loop may take between messages, and now. Extensions see every frame.
        between = KINDS_BETWEEN if deflate is None else KINDS_BETWEEN_DEFLATE
        self._between = KINDS_NONE if extensions or not self._max_fragments else between
        self._kinds = self._between
        # The data frame that is not complete: octets missing, those held below included; its FIN
        # bit; the key for what is missing.
        self._remaining = 0
        self._fin, self._key = False, _NO_KEY
        # The message that is not complete: 0, TEXT or BINARY; what was counted of it, on the wire
        # and inflated; its parts, all str or all octets; the start of a character.
        self._opcode, self._compressed = 0, False
        self._fragments = self._wire = self._size = 0
        self._parts: list[Any] | None = None
        self._carry = b""
        # Octets not looked at yet: of that frame, or else from the start of one; and for each that
        # may be added singly without a look, which ones.
        self._held = _NO_OCTETS
        self._harmless: Iterator[frozenset[bytes]] = _NONE
        # Octets inflated in this call; whether an earlier one left anything over, or was the last.
        self._inflated = 0
        self._unfinished = False
        self._turns: Iterable[object] = repeat(0) if max_frames is None else range(max_frames)

    def receive(self, data: BytesLike) -> list[Event]:
        """Takes what the peer sent next.

        Args:
            data: Octets in any division; none at all continue a parser that has paused.

        Returns:
            What happened, in order. A ``CloseConnection`` is the last event there will be.

        Raises:
            TypeError: The data is no octets; nothing has changed.
        """
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        if self._unfinished:
            # A peer that sends octet by octet is the slowest there is. What cannot be wrong is held
            # as it came; the first other octet, or the last one, takes the way of every piece.
            for harmless in self._harmless:
                if data not in harmless:
                    break
                held = self._held
                held += data
                return []
            if not self._remaining:
                if self.closed:
                    return []
                data = b"".join((self._held, data))
                self._held, self._harmless = _NO_OCTETS, _NONE
        events: list[Event] = []
        pos, turns = 0, self._turns
        self._inflated = 0
        try:
            if self._unfinished:
                self._unfinished = self.paused = self.halted = False
                if self._remaining:
                    pos = self._continue(data, events)
                    turns = turns if self._remaining else islice(turns, 1, None)
            end = len(data)
            table, mask_bit, header, least, fast_limit = self._fast
            last = end - least
            kinds = self._kinds
            payload: bytes | bytearray
            for _ in turns:
                # Data frames without further ado that are complete and within the limits; every
                # other case, and every error, is for _frame.
                if pos <= last:
                    first = data[pos]
                    kind = kinds[first]
                    if kind:
                        octet = data[pos + 1]
                        masked = table[octet]
                        if masked is not None:
                            total, unpack, repunit, shift, size = masked
                            stop = pos + total
                            fits = stop <= end
                        else:
                            size = octet ^ mask_bit
                            start = pos + header
                            if size > 125:
                                size = data[pos + 2] << 8 | data[pos + 3] if size == 126 else 0
                                start += 2
                                if size < 126:
                                    size = _NEVER
                            stop = start + size
                            fits = stop <= end and size <= fast_limit
                        if fits:
                            if masked is not None:
                                key, payload = unpack(data, pos)
                                key = key * repunit >> shift if shift else key * repunit
                                payload = (_from_bytes(payload) ^ key).to_bytes(size)
                            elif not mask_bit:
                                payload = data[start:stop]
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
                                # apply_mask, without calling it.
                                payload = _NO_OCTETS + data[start:stop]
                                payload[FROM_0] = payload[FROM_0].translate(TABLES[data[start - 4]])
                                payload[FROM_1] = payload[FROM_1].translate(TABLES[data[start - 3]])
                                payload[FROM_2] = payload[FROM_2].translate(TABLES[data[start - 2]])
                                payload[FROM_3] = payload[FROM_3].translate(TABLES[data[start - 1]])
                            pos = stop
                            # Without __init__ an event costs half.
                            if kind == KIND_TEXT:
                                event = _new(TextMessage)
                                if self._text_as_bytes:
                                    payload.isascii() or payload.decode()
                                    event.data = bytes(payload)
                                else:
                                    event.data = payload.decode()
                            elif kind == KIND_BINARY:
                                event = _new(BytesMessage)
                                event.data = bytes(payload)
                            else:
                                self._plain_frame(first, payload, events)
                                if self._inflated > self._max_inflated:
                                    break
                                kinds = self._kinds
                                continue
                            event.frame_finished = event.message_finished = True
                            events.append(event)
                            continue
                elif pos >= end:
                    return events
                if end - pos < _FEW and self._hold(data, pos):
                    return events
                stop = self._frame(data, pos, events)
                if stop < 0:
                    self._keep(data, pos, singles(-stop - 1 - end + pos))
                    return events
                pos = stop
                if self._inflated > self._max_inflated:
                    break
                kinds = self._kinds
            # The work of one call is done.
            if pos < end:
                self._keep(data, pos, _NONE)
                self.paused = self.halted = True
        except (ParseFailed, UnicodeDecodeError) as exc:
            self._fail(exc, events)
        return events

    def end_of_input(self) -> list[Event]:
        """Takes the end of what the peer sends.

        Returns:
            A ``CloseConnection`` with code 1006 (RFC 6455 §7.1.5), unless the last event was out.
        """
        if self.closed:
            return []
        self._release()
        return [CloseConnection(code=CloseReason.ABNORMAL_CLOSURE)]

    def _keep(self, data: bytes, pos: int, harmless: Iterator[frozenset[bytes]]) -> None:
        """Keeps what was not taken for the next call."""
        self._held = _NO_OCTETS + data[pos:]
        self._harmless = harmless
        self._unfinished = True

    def _hold(self, data: bytes, pos: int) -> bool:
        """Keeps the first octets of a short message of one frame, if nothing can be wrong there."""
        kind = self._kinds[data[pos]]
        if self.client or kind not in (KIND_TEXT, KIND_BINARY):
            return False
        size = len(data) - pos
        if size == 1:
            self._keep(data, pos, short_header() if self._fast[-1] > 125 else _NONE)
            return True
        entry = MASKED[data[pos + 1]]
        if entry is None or entry[-1] > self._fast[-1]:
            return False
        if size < 6:
            self._keep(data, pos, singles(5 - size))
            return True
        key = data[pos + 2 : pos + 6] if kind == KIND_TEXT else None
        if size > 6 and key is not None:
            if not apply_mask(data[pos + 6 :], key).isascii():
                return False
            key = rotate_key(key, size - 6)
        if self._whole:
            self._keep(data, pos, singles(entry[0] - size - 1, key))
        return self._whole

    def _fail(self, failure: ParseFailed | UnicodeDecodeError, events: list[Event]) -> None:
        """Ends the parser; RFC 6455 §7.1.7 forbids to process anything further."""
        self.failed = True
        self._release()
        if isinstance(failure, ParseFailed):
            event = CloseConnection(failure.code, str(failure))
        else:
            # RFC 6455 §8.1
            reason = f"text is not UTF-8: {failure.reason}"
            event = CloseConnection(CloseReason.INVALID_FRAME_PAYLOAD_DATA, reason)
        events.append(event)

    def _release(self) -> None:
        self.closed = self.halted = self._unfinished = True
        self.paused = False
        self._remaining = 0
        self._carry = b""
        self._held, self._harmless = _NO_OCTETS, _NONE
        self._parts = self._deflate = None
        self._chain = ()

    # -- frames ------------------------------------------------------------------------------------

    def _frame(self, data: bytes, pos: int, events: list[Event]) -> int:
        """Takes the frame at ``pos`` of any kind, as far as it is there.

        The order of the checks is the order of the octets, so that the same error comes out
        wherever the stream was cut.

        Returns:
            Where the next frame starts; or, if nothing was taken, how many octets from ``pos`` on
            are needed to say more, negated.
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
                raise ParseFailed("control frame longer than 125 octets")
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
        # Control frames are taken when they are complete (§5.5), others as soon as they begin.
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
            # Behind a close frame nothing counts (§5.5.1).
            return end if self.closed else stop
        self._begin_frame(first, size)
        if stop <= end:
            self._payload(payload, True, fin, events)
            return stop
        self._remaining = stop - end
        self._fin = fin
        self._key = rotate_key(key, len(payload))
        if payload:
            self._payload(payload, False, fin, events)
        self._more_to_come(end)
        return end

    def _plain_frame(self, first: int, payload: bytes | bytearray, events: list[Event]) -> None:
        """Takes a complete data frame that nothing is wrong with but maybe its size."""
        if first > 0xC0:
            # A compressed message, whole: there is nothing to remember.
            data: Any = self._inflate(payload, True)
            if first == 0xC1:
                text = data.decode()
                data = data if self._text_as_bytes else text
            kind: Any = TextMessage if first == 0xC1 else BytesMessage
            events.append(kind(data))
            return
        self._check_fragments()
        size = len(payload)
        if size > self._max_frame or self._wire + size > self._max_message:
            self._check_size(size, self._compressed)
        self._begin_frame(first, size)
        self._payload(payload, True, first >= 0x80, events)

    def _check_fragments(self) -> None:
        """Refuses one more data frame of a message that has too many already."""
        if self._fragments >= self._max_fragments:
            raise too_big(f"message in more than {self._max_fragments} frames")

    def _check_size(self, size: int, compressed: bool) -> None:
        """Refuses an announced payload that is too long, before any of it is read."""
        if size > self._max_frame:
            raise too_big(f"frame of {size} octets, more than {self._max_frame}")
        bound = self._max_message
        if compressed:
            # What does not compress grows by its block headers: 4 % where a deflater has the
            # least memory.
            bound += bound // 16 + 64
        self._check_total(self._wire + size, bound)

    def _check_total(self, total: int, bound: int) -> None:
        if total > bound:
            raise too_big(f"message of more than {self._max_message} octets")

    def _begin_frame(self, first: int, size: int) -> None:
        """Counts a data frame, the first or a further one of its message."""
        opcode = first & 0x0F
        if opcode:
            self._opcode = opcode
            self._compressed = first & 0x40 != 0 and not self._chain
            if self._between is not KINDS_NONE:
                self._kinds = KINDS_INSIDE
        self._fragments += 1
        self._wire += size

    def _continue(self, data: bytes, events: list[Event]) -> int:
        """Takes what ``data`` has of a payload that began in an earlier call; returns how much."""
        held = len(self._held)
        end = self._remaining - held
        payload = self._held + data[:end] if held else data[:end]
        self._held, self._harmless = _NO_OCTETS, _NONE
        taken = len(payload)
        self._remaining -= taken
        if not self.client:
            payload = apply_mask(payload, self._key)
        if payload:
            self._payload(payload, not self._remaining, self._fin, events)
        if self._remaining:
            self._key = rotate_key(self._key, taken)
            self._more_to_come(len(data))
        return taken - held

    def _more_to_come(self, size: int) -> None:
        """Notes that a payload is unfinished, and which octets of it need no look."""
        self._unfinished = True
        if size < _FEW and self._whole and not (self._compressed or self._chain or self._carry):
            self._held = bytearray()
            ascii_key = self._key if self._opcode == KIND_TEXT else None
            self._harmless = singles(self._remaining - 1, ascii_key)

    # -- payloads ----------------------------------------------------------------------------------

    def _payload(
        self, payload: bytes | bytearray, frame_done: bool, fin: bool, events: list[Event]
    ) -> None:
        """Handles unmasked octets of a data frame: inflates, checks, delivers or puts aside."""
        done = frame_done and fin
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
                # Python's decoder waits for the third octet of a surrogate; the second is wrong.
                if carry[:1] == b"\xed" and carry[1:] >= b"\xa0":
                    raise UnicodeDecodeError("utf-8", carry, 0, 1, "invalid continuation byte")
                if self._text_as_bytes:
                    part = payload[:used]
            elif not self._text_as_bytes:
                part = payload.decode()
        if self._whole:
            if not done:
                if part:
                    self._put_aside(part)
                return
            if self._parts is not None:
                self._put_aside(part)
                part = "".join(self._parts) if isinstance(part, str) else b"".join(self._parts)
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
        """Keeps a part of an unfinished message, in no more objects than its size justifies."""
        parts = self._parts
        if parts is None:
            self._parts = [part]
        elif len(parts[-1]) < _PART_SIZE:
            parts[-1] += part
        else:
            parts.append(part)

    def _inflate(self, payload: bytes | bytearray, done: bool) -> bytes:
        """Inflates a compressed message or its next piece, within the limit of the message."""
        bound = self._max_message
        budget = None if bound == _NEVER else bound - self._size
        try:
            octets: bytes = self._deflate.decompress(bytes(payload), done, budget)
        except InflateError as exc:
            raise ParseFailed(str(exc), exc.code) from exc
        self._inflated += len(octets)
        return octets

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        """Handles a complete control frame (RFC 6455 §5.5)."""
        if opcode == Opcode.PING:
            events.append(Ping(payload))
        elif opcode == Opcode.PONG:
            events.append(Pong(payload))
        else:
            close = parse_close(payload)
            self._release()
            events.append(close)

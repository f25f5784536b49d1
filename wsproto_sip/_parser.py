"""The receive loop: octets in, events out (RFC 6455 §5).

Theory of operation. Most frames are whole messages that lie complete in one read: the head of the
loop in :meth:`FrameParser.receive` takes those without calling anything of ours. Every other frame
goes through :meth:`FrameParser._frame`, which checks the header as far as it is there, so that a
wrong octet fails the connection before the next one is needed. Three things can be unfinished
between two reads:

- a header, or a control frame: its octets (131 at most) are kept and looked at again;
- the payload of a data frame: it is unmasked, inflated, checked as UTF-8 and handed on (streaming)
  or put aside (whole messages) as it arrives, and only ``_remaining`` and the rotated key are kept;
- a message: ``_opcode``, its pieces, and the up to three octets of a character cut in two.

Errors are raised as ``ParseFailed`` inside and end in one ``CloseConnection`` behind the events
parsed so far; then the parser is closed and drops what comes.
"""

from __future__ import annotations

from codecs import utf_8_decode
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ._masking import INTEGER_LIMIT, REPEAT, SHIFT, apply_mask, mask_in_place, rotate_key
from .events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from .extensions import InflateError
from .frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits, is_close_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension, PerMessageDeflate
    from .limits import Limits
    from .typing import BytesLike

__all__ = ["FrameParser"]

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)
_CLOSE: Final = int(Opcode.CLOSE)
_PING: Final = int(Opcode.PING)

#: Parts of a message shorter than this are joined to their predecessor, so that a message trickled
#: octet by octet costs its size and not an object per octet.
_PART_SIZE: Final = 1024

_medium = Struct(">H").unpack_from
_long = Struct(">Q").unpack_from
_code = Struct(">H").unpack_from

#: For each size of a short payload: what takes key and payload out of a frame in one call, and
#: the two numbers that make a mask of the key (see _masking).
_SHORT: Final = [
    (Struct(f">I{size}s").unpack_from, REPEAT[size], SHIFT[size]) for size in range(INTEGER_LIMIT)
]

_from_bytes = int.from_bytes
_new: Any = object.__new__

_NO_KEY: Final = bytes(4)
_NO_OCTETS: Final = bytearray()

#: A size no frame has.
_NEVER: Final = 1 << 64


class FrameParser:
    """Turns the octets a peer sent into events.

    Args:
        client: Whether this is the client's end, which receives unmasked frames.
        limits: Bounds on frames and messages.
        deflate: permessage-deflate, if that is the one extension in use.
        extensions: The extensions in use otherwise.
        whole_messages: Whether to deliver a message when it is complete, instead of its pieces as
            they arrive.
        text_as_bytes: Whether text messages carry their (checked) octets instead of ``str``.
        max_frames: Frames to take in one call; the rest waits for the next. None takes all.

    Attributes:
        closed: Nothing more comes out: a close frame was read, or the peer broke the protocol.
        failed: It was the latter.
        paused: A bound on the work of one call was reached with octets left; call
            ``receive(b"")`` to go on.
        halted: It is closed or paused.
        client: As above (extensions look at it).
    """

    __slots__ = (
        "_bounded",
        "_buffer",
        "_carry",
        "_chain",
        "_compressed",
        "_deflate",
        "_enough",
        "_fast_limit",
        "_fin",
        "_fragments",
        "_harmless",
        "_header",
        "_held",
        "_inflated",
        "_key",
        "_mask_bit",
        "_max_fragments",
        "_max_frame",
        "_max_inflated",
        "_max_message",
        "_opcode",
        "_parts",
        "_remaining",
        "_size",
        "_text_as_bytes",
        "_turns",
        "_unfinished",
        "_whole",
        "_wire",
        "client",
        "closed",
        "failed",
        "halted",
        "paused",
    )

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
        self.client = client
        self.closed = False
        self.failed = False
        self.paused = False
        self.halted = False
        self._mask_bit = 0 if client else 0x80
        self._deflate = deflate
        # RFC 6455 §9.1: the last accepted extension stands nearest to the wire.
        self._chain = tuple(reversed(extensions))
        self._whole = whole_messages
        self._text_as_bytes = text_as_bytes
        self._max_message = limits.max_message_size
        self._max_frame = limits.max_frame_size
        self._max_fragments = limits.max_fragments
        self._max_inflated = _or_never(limits.max_inflated_per_read)
        # What a whole message in one frame may have; extensions other than deflate see every frame.
        self._fast_limit = (
            -1
            if extensions
            else min(_or_never(limits.max_message_size), _or_never(limits.max_frame_size), _NEVER - 1)
        )
        # A header or a control frame that is not complete.
        self._buffer = b""
        # The data frame that is not complete: octets missing, its FIN bit, the key behind what
        # was read of it.
        self._remaining = 0
        self._fin = False
        self._key = _NO_KEY
        # The message that is not complete: 0, TEXT or BINARY; what was counted of it, on the wire
        # and inflated; its parts; the start of a character.
        self._opcode = 0
        self._compressed = False
        self._fragments = 0
        self._wire = 0
        self._size = 0
        # All of one type: str, or octets.
        self._parts: list[Any] | None = None
        self._carry = b""
        # Octets that came one by one, unmasked; the largest octet that may be added to them.
        self._held = bytearray()
        self._harmless = -1
        # Octets inflated since the last pause.
        self._inflated = 0
        # Whether anything is left over from an earlier call, or forbids a later one.
        self._unfinished = False
        # Octets up to the payload with a short length; octets that suffice to read any length
        # below 64 Ki, and that every frame with a mask has.
        self._header, self._enough = (2, 4) if client else (6, 6)
        # An iterable of known length is the cheapest counter.
        self._bounded = max_frames is not None
        self._turns = (None,) * (max_frames or 4096)

    def receive(self, data: BytesLike) -> list[Event]:
        """Takes what the peer sent next.

        Args:
            data: Octets in any division; none at all continue a parser that has paused.

        Returns:
            What happened, in order. A ``CloseConnection`` is the last event there will be.
        """
        if self._unfinished:
            # A peer that sends octet by octet is the slowest there is. What cannot be wrong is
            # unmasked and held; the first other octet, or the last of the frame, takes the way of
            # every piece.
            if len(data) == 1 and self._remaining > 1:
                held = self._held
                octet = data[0] ^ self._key[len(held) & 3]
                if octet <= self._harmless:
                    held.append(octet)
                    self._remaining -= 1
                    return []
            elif self.closed:
                return []
        events: list[Event] = []
        pos = 0
        try:
            if type(data) is not bytes:
                data = bytes(data)
            if self._unfinished:
                self._unfinished = self.paused = self.halted = False
                if self._remaining:
                    pos = self._continue(data, events)
                else:
                    data = self._buffer + data
                    self._buffer = b""
            end = len(data)
            last = end - self._enough
            header = self._header
            masked = self._mask_bit
            fast_limit = self._fast_limit
            as_bytes = self._text_as_bytes
            while True:
                for _ in self._turns:
                    # Whole messages in one frame that are complete and within the limits; every
                    # other case, and every error, is for _frame.
                    if pos <= last:
                        first = data[pos]
                        if (first == 0x81 or first == 0x82) and not self._opcode:
                            size = data[pos + 1] ^ masked
                            start = pos + header
                            if size > 125:
                                size = data[pos + 2] << 8 | data[pos + 3] if size == 126 else 0
                                start += 2
                                if size < 126:
                                    size = _NEVER
                            stop = start + size
                            if stop <= end and size <= fast_limit:
                                if not masked:
                                    payload: bytes | bytearray = data[start:stop]
                                elif size < INTEGER_LIMIT:
                                    unpack, repeat, shift = _SHORT[size]
                                    key, payload = unpack(data, start - 4)
                                    payload = (
                                        _from_bytes(payload) ^ (key * repeat >> shift)
                                    ).to_bytes(size)
                                else:
                                    # Cheaper than to call bytearray.
                                    payload = _NO_OCTETS + data[start:stop]
                                    mask_in_place(payload, data, start - 4)
                                # Without __init__ an event costs half.
                                if first == 0x82:
                                    event = _new(BytesMessage)
                                    event.data = bytes(payload)
                                else:
                                    event = _new(TextMessage)
                                    event.data = payload.decode()
                                    if as_bytes:
                                        event.data = bytes(payload)
                                event.frame_finished = event.message_finished = True
                                events.append(event)
                                pos = stop
                                continue
                    elif pos >= end:
                        return events
                    stop = self._frame(data, pos, events)
                    if stop < 0:
                        self._keep(data, pos)
                        return events
                    pos = stop
                    if self._inflated > self._max_inflated:
                        self._inflated = 0
                        break
                else:
                    if not self._bounded:
                        continue
                # The work of one call is done.
                if pos < end:
                    self._keep(data, pos)
                    self.paused = self.halted = True
                return events
        except ParseFailed as exc:
            self._fail(exc, events)
        except UnicodeDecodeError as exc:
            self._fail(_not_utf8(exc), events)
        return events

    def _keep(self, data: bytes, pos: int) -> None:
        """Keeps what was not taken for the next call."""
        self._buffer = data[pos:]
        self._unfinished = True

    def end_of_input(self) -> list[Event]:
        """Takes the end of what the peer sends.

        Returns:
            A ``CloseConnection`` with code 1006 (RFC 6455 §7.1.5), unless the last event was out.
        """
        if self.closed:
            return []
        self._release()
        return [CloseConnection(code=CloseReason.ABNORMAL_CLOSURE)]

    def _fail(self, failure: ParseFailed, events: list[Event]) -> None:
        """Ends the parser; RFC 6455 §7.1.7 forbids to process anything further."""
        self.failed = True
        self._release()
        events.append(CloseConnection(code=failure.code, reason=str(failure)))

    def _release(self) -> None:
        self.closed = self.halted = self._unfinished = True
        self.paused = False
        self._remaining = 0
        self._buffer = self._carry = b""
        self._held = bytearray()
        self._parts = None
        self._deflate = None
        self._chain = ()

    def _frame(self, data: bytes, pos: int, events: list[Event]) -> int:
        """Takes the frame at ``pos`` of any kind, as far as it is there.

        The order of the checks is the order of the octets, so that the same error comes out
        wherever the stream was cut.

        Returns:
            Where the next frame starts, or -1: nothing was taken, more octets are needed.
        """
        end = len(data)
        first = data[pos]
        opcode = first & 0x0F
        fin = first >= 0x80
        rsv = first & 0x70
        chain = self._chain
        compressed = False
        if opcode & 0x8:
            # RFC 6455 §5.5
            if opcode > Opcode.PONG:
                raise ParseFailed(f"unknown opcode 0x{opcode:X}")
            if not fin:
                raise ParseFailed("fragmented control frame")
        else:
            # RFC 6455 §5.4
            if opcode > Opcode.BINARY:
                raise ParseFailed(f"unknown opcode 0x{opcode:X}")
            if not opcode:
                if not self._opcode:
                    raise ParseFailed("continuation frame without a message to continue")
                compressed = self._compressed
            elif self._opcode:
                raise ParseFailed("new message before the end of the fragmented one")
            if self._max_fragments is not None and self._fragments >= self._max_fragments:
                raise ParseFailed(
                    f"message in more than {self._max_fragments} frames",
                    CloseReason.MESSAGE_TOO_BIG,
                )
        if rsv and not chain:
            # RFC 7692 §6.1: RSV1 on the first frame of a message, and nowhere else.
            if rsv != 0x40 or self._deflate is None or opcode not in (_TEXT, _BINARY):
                raise ParseFailed("reserved bit set that was not negotiated")
            compressed = True
        if end - pos < 2:
            return -1
        masked = self._mask_bit
        size = data[pos + 1] ^ masked
        start = pos + 2
        if size > 127:
            # RFC 6455 §5.1
            raise ParseFailed("masked frame from a server" if self.client else "unmasked frame")
        if size > 125:
            if opcode & 0x8:
                raise ParseFailed("control frame longer than 125 octets")
            if size == 126:
                if end - start < 2:
                    return -1
                (size,) = _medium(data, start)
                start += 2
                if size < 126:
                    raise ParseFailed("length not in its shortest form")
            else:
                if end - start < 8:
                    return -1
                (size,) = _long(data, start)
                start += 8
                if size >> 63:
                    raise ParseFailed("length with its top bit set")
                if size < 65536:
                    raise ParseFailed("length not in its shortest form")
        if not opcode & 0x8:
            self._check_size(size, compressed or bool(chain))
        key = _NO_KEY
        if masked:
            if end - start < 4:
                return -1
            key = data[start : start + 4]
            start += 4
        stop = start + size
        if opcode & 0x8 and stop > end:
            return -1
        # From here on the frame is taken.
        if chain:
            self._inbound_header(Opcode(opcode), rsv, size)
        payload = _unmask(data[start:stop], key) if masked else data[start:stop]
        if opcode & 0x8:
            payload = bytes(payload)
            if chain:
                payload = self._inbound_payload(payload, True, True)
            self._control(opcode, payload, events)
            return stop
        if opcode:
            self._opcode = opcode
            self._compressed = compressed
        self._fragments += 1
        self._wire += size
        if stop > end:
            self._remaining = stop - end
            self._fin = fin
            self._key = rotate_key(key, len(payload))
            if payload:
                self._payload(payload, False, fin, events)
            self._more_to_come()
            return end
        self._payload(payload, True, fin, events)
        return stop

    def _check_size(self, size: int, compressed: bool) -> None:
        """Refuses an announced payload that is too long, before any of it is read."""
        if self._max_frame is not None and size > self._max_frame:
            raise ParseFailed(
                f"frame of {size} octets, more than {self._max_frame}",
                CloseReason.MESSAGE_TOO_BIG,
            )
        bound = self._max_message
        if bound is not None:
            if compressed:
                # What does not compress grows by its block headers.
                total = self._wire + size
                bound += bound // 1000 + 64
            else:
                total = self._size + size
            if total > bound:
                raise ParseFailed(
                    f"message of more than {self._max_message} octets",
                    CloseReason.MESSAGE_TOO_BIG,
                )

    def _continue(self, data: bytes, events: list[Event]) -> int:
        """Takes what ``data`` has of a payload that began in an earlier call; returns how much."""
        take = min(len(data), self._remaining)
        payload: bytes | bytearray = data[:take]
        held = self._held
        if self._mask_bit:
            key = rotate_key(self._key, len(held))
            payload = _unmask(data[:take], key)
            self._key = rotate_key(key, take)
        if held:
            payload = held + payload
            self._held = bytearray()
        self._remaining -= take
        if payload:
            self._payload(payload, not self._remaining, self._fin, events)
        if self._remaining:
            self._more_to_come()
        return take

    def _more_to_come(self) -> None:
        """Notes that a payload is unfinished, and which octets of it need no look at."""
        self._unfinished = True
        if not self._whole or self._compressed or self._chain or self._carry:
            self._harmless = -1
        else:
            self._harmless = 127 if self._opcode == _TEXT else 255

    def _payload(
        self, payload: bytes | bytearray, frame_done: bool, fin: bool, events: list[Event]
    ) -> None:
        """Handles unmasked octets of a data frame: inflates, checks, delivers or puts aside."""
        done = frame_done and fin
        if self._compressed and self._deflate is not None:
            bound = self._max_message
            try:
                payload = self._deflate.decompress(
                    bytes(payload), done, None if bound is None else bound - self._size
                )
            except InflateError as exc:
                raise ParseFailed(str(exc), exc.code) from exc
            self._inflated += len(payload)
        elif self._chain:
            payload = self._inbound_payload(bytes(payload), frame_done, fin)
            bound = self._max_message
            if bound is not None and self._size + len(payload) > bound:
                raise ParseFailed(
                    f"message of more than {bound} octets", CloseReason.MESSAGE_TOO_BIG
                )
        self._size += len(payload)
        part: str | bytes | bytearray = payload
        if self._opcode == _TEXT:
            if self._carry:
                payload = self._carry + payload
            text, used = utf_8_decode(payload, "strict", done)
            self._carry = bytes(payload[used:])
            part = payload[:used] if self._text_as_bytes else text
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
        kind: Any = TextMessage if self._opcode == _TEXT else BytesMessage
        events.append(kind(part, frame_done, done))
        if done:
            self._opcode = 0
            self._fragments = 0
            self._wire = 0
            self._size = 0
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

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        """Handles a complete control frame (RFC 6455 §5.5)."""
        if opcode == _PING:
            events.append(Ping(payload))
        elif opcode != _CLOSE:
            events.append(Pong(payload))
        else:
            code = int(CloseReason.NO_STATUS_RCVD)
            reason = None
            if payload:
                # RFC 6455 §5.5.1
                if len(payload) < 2:
                    raise ParseFailed("close frame with a body of one octet")
                (code,) = _code(payload)
                if not is_close_code(code):
                    raise ParseFailed(f"close code {code} may not stand in a frame")
                reason = payload[2:].decode()
            self._release()
            events.append(CloseConnection(code, reason))

    def _inbound_header(self, opcode: Opcode, rsv: int, size: int) -> None:
        bits = RsvBits(bool(rsv & 0x40), bool(rsv & 0x20), bool(rsv & 0x10))
        used = [False, False, False]
        for extension in self._chain:
            result = extension.frame_inbound_header(self, opcode, bits, size)
            if isinstance(result, CloseReason):
                raise ParseFailed(f"refused by extension {extension.name}", result)
            used = [a or b for a, b in zip(used, result, strict=True)]
        if any(bit and not taken for bit, taken in zip(bits, used, strict=True)):
            raise ParseFailed("reserved bit set that was not negotiated")

    def _inbound_payload(self, payload: bytes, frame_done: bool, fin: bool) -> bytes:
        for extension in self._chain:
            result = extension.frame_inbound_payload_data(self, payload)
            if isinstance(result, CloseReason):
                raise ParseFailed(f"refused by extension {extension.name}", result)
            payload = bytes(result)
            if frame_done:
                rest = extension.frame_inbound_complete(self, fin)
                if isinstance(rest, CloseReason):
                    raise ParseFailed(f"refused by extension {extension.name}", rest)
                if rest is not None:
                    payload += rest
        return payload


def _unmask(payload: bytes, key: bytes) -> bytes | bytearray:
    """Like apply_mask, without the copy back into ``bytes`` of a long payload."""
    if len(payload) < INTEGER_LIMIT:
        return apply_mask(payload, key)
    octets = _NO_OCTETS + payload
    mask_in_place(octets, key)
    return octets


def _or_never(limit: int | None) -> int:
    return _NEVER if limit is None else limit


def _not_utf8(exc: UnicodeDecodeError) -> ParseFailed:
    """RFC 6455 §8.1."""
    return ParseFailed(f"text is not UTF-8: {exc.reason}", CloseReason.INVALID_FRAME_PAYLOAD_DATA)

"""Inflating and deflating the messages of one connection (RFC 7692 §7.2), for permessage-deflate.

Theory of operation: what is kept between two messages of the peer is not a zlib object but the
octets that the next message may refer to, at most one window of them. Each message gets a new
inflater, primed with that history. Such an inflater may be used up: it is fed a final block behind
the message, and only if it stops exactly there did the message end between two blocks. A block that
ends the deflate stream early (BFINAL) is no special case either: the next inflater takes over from
the same history. And a connection at rest holds neither inflater state nor an empty window.

For sending, zlib does not let the history out of its hands, so a deflater is kept where history
counts. Where it does not, deflaters are shared: after a full flush nothing of a message is left in
one, and any connection may use it next.
"""

from __future__ import annotations

import sys
import zlib
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

from .frame_protocol import CloseReason
from .limits import Limits

if TYPE_CHECKING:
    from zlib import _Compress, _Decompress

__all__ = ["FULL_WINDOW", "DeflateCodec", "InflateError", "deflate_message"]

#: What a window is where no parameter says otherwise, and the largest there is (RFC 7692 §7.1.2).
FULL_WINDOW: Final = 15


class InflateError(Exception):
    """A compressed message cannot be inflated, or is not allowed to.

    Args:
        message: What was wrong.
        code: The code to fail the connection with: 1007 for data that is not what it should be,
            1009 for too much of it.
    """

    def __init__(self, message: str, code: CloseReason) -> None:
        super().__init__(message)
        self.code = code


#: What a sync flush ends with; it is left out on the wire (RFC 7692 §7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"

#: RFC 7692 §7.2.3.6: the empty message, an empty stored block less its last four octets.
_EMPTY: Final = b"\x00"


def _new_deflater(level: int, window_bits: int, mem_level: int) -> _Compress:
    if window_bits == 8:
        # zlib has no raw deflater for this window. One that only repeats the octet just written
        # never looks back farther than one, whatever its own window is.
        return zlib.compressobj(level, zlib.DEFLATED, -9, mem_level, zlib.Z_RLE)
    return zlib.compressobj(level, zlib.DEFLATED, -window_bits, mem_level)


#: Deflaters without a memory, by level, window and memLevel, for whoever comes next. Few are needed
#: at a time: one per thread. Taking and putting back are single steps, so threads may share them.
_spare: defaultdict[tuple[int, int, int], deque[_Compress]] = defaultdict(lambda: deque(maxlen=4))


def deflate_message(data: bytes, window_bits: int, level: int = 6, mem_level: int = 4) -> bytes:
    """Compresses a message by itself, so that it may be sent on many connections.

    The result fits every connection where
    :attr:`PerMessageDeflate.standalone_window_bits` is at least ``window_bits``.

    Args:
        data: The whole message.
        window_bits: Size of the window, as a power of two: 8 to 15.
        level: zlib's effort, 0 to 9.
        mem_level: zlib's memory level, 1 to 9.

    Returns:
        The payload to send with RSV1 set (RFC 7692 §7.2.1).
    """
    if not data:
        return _EMPTY
    spare = _spare[level, window_bits, mem_level]
    try:
        deflater = spare.pop()
    except IndexError:
        deflater = _new_deflater(level, window_bits, mem_level)
    # A full flush makes zlib forget what it has seen; a new object, or a copy of an unused one,
    # would do the same and cost more: three times the whole at window 15 and memLevel 8.
    payload = deflater.compress(data) + deflater.flush(zlib.Z_FULL_FLUSH)
    spare.append(deflater)
    return payload[:-4]


#: An empty stored block with BFINAL set, and one octet more. An inflater that stands between two
#: blocks takes all of the block, makes nothing of it, and leaves the octet.
_PROBE: Final = b"\x01\x00\x00\xff\xff\x00"
_LEFT_OF_PROBE: Final = b"\x00"

#: The largest number of octets that zlib can be asked for, less the one too many.
_UNBOUNDED: Final = sys.maxsize - 1

#: How often a message may end its deflate stream and go on. Each time costs a new inflater, two
#: microseconds or more, for two octets on the wire.
_MAX_FINAL_BLOCKS: Final = 1024

#: Octets given to zlib at once behind a final block, at first: it hands back a copy of all that it
#: leaves, which would be quadratic for a message that is nothing but final blocks.
_FIRST_STEP: Final = 512


class DeflateCodec:
    """Compresses and inflates the messages of one connection; what zlib needs is made on demand.

    Memory (CPython 3.11, zlib 1.2.13), nothing of it before the first compressed message:

    - Sending with context takeover keeps a deflater: 39 KiB at window 12 and memLevel 5, 25 KiB at
      9 and 5, up to 268 KiB at 15 and 8. Without, nothing is kept, and the process keeps at most
      four per combination of settings.
    - Receiving with context takeover keeps one window of octets: up to 4.6 KiB at 12 bits, 36 KiB
      at 15. Without, nothing. A message that has arrived in part holds an inflater besides: 7 KiB
      and up to 32 KiB.

    Args:
        level: zlib's effort for compressing, 0 to 9.
        mem_level: zlib's memory level for compressing, 1 to 9.

    Attributes:
        max_ratio: How many times its compressed size a message may inflate to; None for any.
        ratio_floor: Octets up to which the ratio is not looked at.
    """

    __slots__ = (
        "_busy",
        "_deflate_resets",
        "_deflate_window",
        "_deflater",
        "_ends",
        "_failure",
        "_given",
        "_held",
        "_history",
        "_inflate_resets",
        "_inflate_window",
        "_inflater",
        "_taken",
        "level",
        "max_ratio",
        "mem_level",
        "ratio_floor",
    )

    def __init__(self, level: int = 6, mem_level: int = 4) -> None:
        self.level = level
        self.mem_level = mem_level
        # Receiving: between messages there is only the history, never more than one window of it.
        self._history = bytearray()
        # Receiving a message in pieces: its inflater, the octets that wait in front of it, the
        # compressed octets taken and the inflated ones given so far, and its final blocks.
        self._inflater: _Decompress | None = None
        self._held = bytearray()
        self._taken = 0
        self._given = 0
        self._ends = 0
        # Set in the middle of a message, and for good when inflating failed.
        self._busy = False
        self._failure: CloseReason | None = None
        # Sending.
        self._deflater: _Compress | None = None
        self.configure()
        self.set_limits(Limits())

    def configure(
        self,
        *,
        inflate_window: int = FULL_WINDOW,
        inflate_resets: bool = False,
        deflate_window: int = FULL_WINDOW,
        deflate_resets: bool = False,
    ) -> None:
        """Sets what was negotiated, before the first message.

        Args:
            inflate_window: The peer's window, as a power of two: 8 to 15.
            inflate_resets: Whether the peer compresses each message by itself.
            deflate_window: This side's window.
            deflate_resets: Whether this side compresses each message by itself.
        """
        self._inflate_window = 1 << inflate_window
        self._inflate_resets = inflate_resets
        self._deflate_window = deflate_window
        self._deflate_resets = deflate_resets

    def set_limits(self, limits: Limits) -> None:
        """Sets the bounds on inflating; those of ``Limits()`` hold before.

        Args:
            limits: Of which count ``max_inflate_ratio`` and ``inflate_ratio_floor``.
        """
        self.max_ratio = limits.max_inflate_ratio
        self.ratio_floor = limits.inflate_ratio_floor

    def decompress(self, data: bytes, finished: bool, budget: int | None) -> bytes:
        """Inflates a compressed message or its next piece (RFC 7692 §7.2.2).

        While a message inflates to more than ``max_ratio`` times the octets received of it, what is
        beyond that stays compressed until more arrives; so the outcome depends on the message and
        not on how it was cut.

        Args:
            data: The octets received.
            finished: Whether they end the message.
            budget: Inflated octets that the message may still have; None for any number.

        Returns:
            The octets inflated and not returned yet; all that are left, if it is finished.

        Raises:
            InflateError: The octets are not a deflate stream, or the message does not end at a
                block boundary (1007); it inflates to more than ``budget`` or ``max_ratio`` allow,
                or has over a thousand final blocks (1009). Nothing inflates afterwards.
        """
        # What the message may still inflate to, and whether its compressed size decides that.
        room = _UNBOUNDED if budget is None or budget > _UNBOUNDED else budget
        by_ratio = False
        if self.max_ratio is not None:
            earned = self.max_ratio * (self._taken + len(data))
            if earned < self.ratio_floor:
                earned = self.ratio_floor
            earned -= self._given
            if earned < room:
                room = earned
                by_ratio = True
        if room < 0:
            room = 0
        if not finished or self._busy:
            return self._inflate_piece(data, finished, room, by_ratio)
        # The whole message at once, as nearly all arrive. Whatever is unusual about it is left to
        # the general way, which starts over.
        history = self._history
        # Always the full window: it is borrowed for this moment only, and how far back a peer that
        # breaks its word may refer does not depend on how its message was cut.
        inflater = zlib.decompressobj(-FULL_WINDOW, history)
        try:
            payload = inflater.decompress(data + _TAIL, room + 1)
            if len(payload) > room:
                raise self._too_big(room, by_ratio)
            if inflater.decompress(_PROBE, 1) or inflater.unused_data != _LEFT_OF_PROBE:
                payload = b""
                return self._inflate_piece(data, finished, room, by_ratio)
        except zlib.error:
            return self._inflate_piece(data, finished, room, by_ratio)
        if not self._inflate_resets:
            # As in _remember, without the call.
            over = len(history) + len(payload) - self._inflate_window
            if over <= 0:
                history += payload
            elif over < len(history):
                del history[:over]
                history += payload
            else:
                history[:] = payload[-self._inflate_window :]
        return payload

    def _remember(self, payload: bytes) -> None:
        """Adds to the history, which is never longer than the window."""
        history = self._history
        over = len(history) + len(payload) - self._inflate_window
        if over <= 0:
            history += payload
        elif over < len(history):
            del history[:over]
            history += payload
        else:
            history[:] = payload[-self._inflate_window :]

    def _inflate_piece(self, data: bytes, finished: bool, room: int, by_ratio: bool) -> bytes:
        if self._failure is not None:
            raise InflateError("an earlier message could not be inflated", self._failure)
        self._busy = True
        self._taken += len(data)
        self._held += data
        if finished:
            self._held += _TAIL
        patient = by_ratio and not finished
        if patient and room < len(self._held):
            # Not worth while yet: to try again for every octet that arrives would be quadratic.
            return b""
        try:
            payload, inflater = self._inflate_held(room if patient else room + 1)
            if len(payload) > room:
                raise self._too_big(room, by_ratio)
            self._given += len(payload)
            if finished:
                if inflater.decompress(_PROBE, 1) or inflater.unused_data != _LEFT_OF_PROBE:
                    raise self._fail(
                        "compressed message ends inside a block",
                        CloseReason.INVALID_FRAME_PAYLOAD_DATA,
                    )
                self._busy = False
                self._inflater = None
                self._taken = self._given = self._ends = 0
                if self._inflate_resets:
                    self._history = bytearray()
        except zlib.error as exc:
            raise self._fail(
                f"compressed data is invalid: {exc}", CloseReason.INVALID_FRAME_PAYLOAD_DATA
            ) from exc
        return payload

    def _inflate_held(self, limit: int) -> tuple[bytes, _Decompress]:
        """Inflates what waits, up to a number of octets; what is beyond them goes on waiting."""
        held = self._held
        inflater = self._inflater or zlib.decompressobj(-FULL_WINDOW, self._history)
        step = _FIRST_STEP if self._ends else len(held)
        position = 0
        pieces = []
        while position < len(held) and limit:
            chunk = held[position : position + step]
            payload = inflater.decompress(chunk, limit)
            limit -= len(payload)
            pieces.append(payload)
            self._remember(payload)
            if inflater.eof:
                # RFC 7692 §7.2.3.4: the stream is over, the message is not, nor is its history.
                position += len(chunk) - len(inflater.unused_data)
                inflater = zlib.decompressobj(-FULL_WINDOW, self._history)
                step = _FIRST_STEP
                self._ends += 1
                if self._ends > _MAX_FINAL_BLOCKS:
                    raise self._fail(
                        f"message with more than {_MAX_FINAL_BLOCKS} final blocks",
                        CloseReason.MESSAGE_TOO_BIG,
                    )
            else:
                position += len(chunk) - len(inflater.unconsumed_tail)
                step *= 2
        del held[:position]
        self._inflater = inflater
        return b"".join(pieces), inflater

    def _too_big(self, room: int, by_ratio: bool) -> InflateError:
        return self._fail(
            f"message inflates to more than {self.max_ratio} times its size"
            if by_ratio
            else f"message of more than {self._given + room} octets",
            CloseReason.MESSAGE_TOO_BIG,
        )

    def _fail(self, message: str, code: CloseReason) -> InflateError:
        self._failure = code
        self._busy = True
        self._inflater = None
        self._held = bytearray()
        self._history = bytearray()
        return InflateError(message, code)

    def compress(self, data: bytes, finished: bool) -> bytes:
        """Deflates a message or its next piece (RFC 7692 §7.2.1).

        Args:
            data: The octets.
            finished: Whether they end the message.

        Returns:
            Compressed octets; of a message that is not finished maybe none yet.
        """
        deflater = self._deflater
        if deflater is None:
            if finished and self._deflate_resets:
                return deflate_message(data, self._deflate_window, self.level, self.mem_level)
            deflater = _new_deflater(self.level, self._deflate_window, self.mem_level)
            self._deflater = deflater
        payload = deflater.compress(data)
        if not finished:
            return payload
        payload += deflater.flush(zlib.Z_SYNC_FLUSH)
        if self._deflate_resets:
            self._deflater = None
        return payload[:-4]

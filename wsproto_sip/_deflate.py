"""Compress and inflate the messages of one connection for permessage-deflate (RFC 7692 §7.2).

Theory of operation: between two messages of the peer we keep the bytes that the next message may
refer to, at most one window of them. A message gets a new inflater, primed with that history. Such
an inflater may be used up: after the message it is fed a final block, and only if it stops exactly
there did the message end between two blocks. A block that ends the deflate stream early (BFINAL)
needs no special case either: the next inflater continues from the same history. And an idle
connection holds neither inflater state nor an empty window.

To hand a large history over takes longer than to inflate a short message. So a few inflaters stay,
those of the connections that needed one last. They have the peer's window, which is exactly the
history, and they take a message only if a check that does not use them up proves that it ended
between two blocks: see ``_EMPTY_BLOCKS``. Every other message starts over, with the history and a
new inflater, so that what stays is nothing but a cache.

For sending, zlib does not give its history away, so a deflater is kept if later messages may refer
to earlier ones. Otherwise deflaters are shared: a full flush leaves nothing of a message in one, so
any connection may use it next.
"""

from __future__ import annotations

import sys
import zlib
from collections import defaultdict, deque
from itertools import count
from typing import TYPE_CHECKING, Final
from weakref import ref

from .errors import WsprotoSipError
from .frame_protocol import CloseReason
from .limits import Limits

if TYPE_CHECKING:
    from zlib import _Compress, _Decompress

__all__ = ["FULL_WINDOW", "DeflateCodec", "InflateError", "deflate_message"]

#: The window unless a parameter says otherwise, which is also the largest (RFC 7692 §7.1.2).
FULL_WINDOW: Final = 15


class InflateError(WsprotoSipError):
    """A compressed message is invalid, or exceeds a limit.

    Args:
        message: What was wrong.
        code: The close code to fail the connection with: 1007 for invalid data, 1009 for too much
            of it.
    """

    def __init__(self, message: str, code: CloseReason) -> None:
        super().__init__(message)
        self.code = code


#: The end of every sync flush, which is left out on the wire (RFC 7692 §7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"

_DEFAULT_LIMITS: Final = Limits()

#: RFC 7692 §7.2.3.6: the empty message, an empty stored block less its last four bytes.
_EMPTY: Final = b"\x00"


def _new_deflater(level: int, window_bits: int, mem_level: int) -> _Compress:
    if window_bits == 8:
        # zlib has no raw deflater for this window. One that only repeats the previous byte never
        # looks back farther than one byte, whatever its own window is.
        return zlib.compressobj(level, zlib.DEFLATED, -9, mem_level, zlib.Z_RLE)
    return zlib.compressobj(level, zlib.DEFLATED, -window_bits, mem_level)


#: Deflaters without history, by level, window and memLevel, for the next caller that needs one. Few
#: are needed at a time: one per thread. Taking and putting back are atomic, so threads may share
#: them.
_spare: defaultdict[tuple[int, int, int], deque[_Compress]] = defaultdict(lambda: deque(maxlen=4))


def deflate_message(data: bytes, window_bits: int, level: int = 6, mem_level: int = 4) -> bytes:
    """Compress a message on its own, so that it can be sent on many connections.

    The result fits every connection whose :attr:`PerMessageDeflate.standalone_window_bits` is at
    least ``window_bits``.

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
    # A full flush makes zlib forget what it has seen. A new object, or a copy of an unused one,
    # would do the same but cost more: three times the total at window 15 and memLevel 8.
    payload = deflater.compress(data) + deflater.flush(zlib.Z_FULL_FLUSH)
    spare.append(deflater)
    return payload[:-4]


#: An empty stored block with BFINAL set, and one extra byte. An inflater that is between two blocks
#: consumes the block, outputs nothing, and leaves the byte.
_PROBE: Final = b"\x01\x00\x00\xff\xff\x00"
_LEFT_OF_PROBE: Final = b"\x00"

#: The largest number of bytes that zlib can be asked for, minus one to detect an excess.
_UNBOUNDED: Final = sys.maxsize - 1

#: How often a message may end its deflate stream and continue. Each time costs a new inflater, two
#: microseconds or more, for two bytes on the wire.
_MAX_FINAL_BLOCKS: Final = 1024

#: How many bytes zlib gets at once after a final block, at first. It hands back a copy of
#: everything it leaves, which would be quadratic for a message that consists of final blocks.
_FIRST_STEP: Final = 512


#: A history of this size or less is not worth an inflater that stays.
_CHEAP_HISTORY: Final = 8192

#: How many inflaters stay, in the whole process. Each has 7 KiB and the window.
_MOST_KEPT: Final = 64

# Numbers the messages that met no inflater that had stayed for them.
_turns: Final = count(_MOST_KEPT + 1)

#: The limits on a message for one that stays, compressed and inflated. Compared with inflating more
#: than that, priming costs nothing.
_KEPT_DATA: Final = 1024
_KEPT_OUTPUT: Final = 16 * 1024

#: What completes a message, and eight more empty stored blocks. An inflater that stays has to take
#: them without output, error or end of the stream, and the last three bytes of the message must
#: have had output.
#:
#: Then the message ended where it must, before the length of an empty stored block. If it ended
#: elsewhere, at most 23 of its bits follow the last output, which is not enough to prepare zlib for
#: what comes next: it becomes data, an invalid length or code, or the end of the stream. All 16
#: million endings have been tried. Without output from the last bytes, the header of a dynamic
#: block could be in progress that ends where one of the eight does. Fewer do not suffice: a header
#: without codes for its lengths takes 320 bits before zlib refuses it.
_BODY: Final = slice(None, -3)
_END: Final = slice(-3, None)
_EMPTY_BLOCKS: Final = _TAIL + (b"\x00" + _TAIL) * 8

#: As long as an inflater stays, the history is the last messages themselves: nothing has to be
#: copied. Shorter ones are joined, so that they are not many. The history before them is divided,
#: so that not all of it remains until the messages fill the window.
_PIECE: Final = 512
_SLICE: Final = 2048
_NONE: Final[deque[bytes]] = deque()  # never added to

#: The codecs that have an inflater that stays, in the order in which they got it.
_keepers: Final[deque[ref[DeflateCodec]]] = deque()


class DeflateCodec:
    """Compress and inflate the messages of one connection; zlib objects are created on demand.

    Memory (CPython 3.11, zlib 1.2.13), none of it before the first compressed message:

    - Sending with context takeover keeps a deflater: 39 KiB at window 12 and memLevel 5, 25 KiB at
      9 and 5, up to 268 KiB at 15 and 8. Sending without it keeps nothing per connection, and at
      most four deflaters per process and combination of settings.
    - Receiving with context takeover keeps one window of bytes: up to 4.6 KiB at 12 bits, 36 KiB at
      15. Receiving without it keeps nothing. A partly received message also holds an inflater: 7
      KiB plus up to 32 KiB. So do, after 8 KiB of messages, at most 64 connections of the process.

    Args:
        level: zlib's compression level, 0 to 9.
        mem_level: zlib's memory level for compressing, 1 to 9.

    Attributes:
        max_ratio: How many times its compressed size a message may inflate to; ``None`` for any.
        ratio_floor: Inflated size in bytes below which the ratio is not checked.
    """

    __slots__ = (
        "__weakref__",
        "_bound",
        "_busy",
        "_deflate_resets",
        "_deflate_window",
        "_deflater",
        "_ends",
        "_failure",
        "_given",
        "_held",
        "_history",
        "_inflate_bits",
        "_inflate_resets",
        "_inflate_window",
        "_inflater",
        "_kept",
        "_last",
        "_listed",
        "_recent",
        "_room",
        "_sure",
        "_taken",
        "level",
        "max_ratio",
        "mem_level",
        "ratio_floor",
    )

    def __init__(self, level: int = 6, mem_level: int = 4) -> None:
        self.level = level
        self.mem_level = mem_level
        # Receiving: between messages only the history is kept, never more than one window.
        self._history = bytearray()
        # Receiving a message in pieces: its inflater, the bytes waiting for it, the compressed
        # bytes taken and the inflated bytes returned so far, and the final blocks seen.
        self._inflater: _Decompress | None = None
        # An inflater that has seen the whole history. Another codec may take it away at any time,
        # as long as this one is listed among those that have one.
        self._kept: _Decompress | None = None
        # Once it has taken a message, the history is in these, the first of which is needed only
        # until the others have no room left in the window.
        self._recent = _NONE
        self._room = 0
        self._last = 0
        self._listed = False
        self._held = bytearray()
        self._taken = 0
        self._given = 0
        self._ends = 0
        # Set in the middle of a message, and permanently once inflating has failed.
        self._busy = False
        self._failure: CloseReason | None = None
        # Sending.
        self._deflater: _Compress | None = None
        self.configure()
        self.set_limits(_DEFAULT_LIMITS)

    def configure(
        self,
        *,
        inflate_window: int = FULL_WINDOW,
        inflate_resets: bool = False,
        deflate_window: int = FULL_WINDOW,
        deflate_resets: bool = False,
    ) -> None:
        """Set the negotiated parameters, before the first message.

        Args:
            inflate_window: The peer's window, as a power of two: 8 to 15.
            inflate_resets: Whether the peer compresses each message on its own.
            deflate_window: Our window, as a power of two.
            deflate_resets: Whether we compress each message on its own.
        """
        self._inflate_bits = inflate_window
        self._inflate_window = 1 << inflate_window
        self._inflate_resets = inflate_resets
        self._deflate_window = deflate_window
        self._deflate_resets = deflate_resets

    def set_limits(self, limits: Limits) -> None:
        """Set the bounds on inflating; until then those of ``Limits()`` apply.

        Args:
            limits: The limits, of which ``max_inflate_ratio`` and ``inflate_ratio_floor`` are used,
                and ``max_message_size`` with the frame hooks.
        """
        self.max_ratio = ratio = limits.max_inflate_ratio
        self.ratio_floor = floor = limits.inflate_ratio_floor
        # A message that inflates to less than this is not limited by its ratio.
        self._sure = _KEPT_OUTPUT if ratio is None or floor >= _KEPT_OUTPUT else floor + 1
        self._bound = limits.max_message_size

    def decompress(self, data: bytes, finished: bool, budget: int | None) -> bytes:
        """Inflate a compressed message or its next piece (RFC 7692 §7.2.2).

        If a message inflates to more than ``max_ratio`` times the bytes received of it, the excess
        stays compressed until more bytes arrive. So the outcome depends on the message and not on
        how it was split.

        Args:
            data: The bytes received.
            finished: Whether they end the message.
            budget: How many more inflated bytes the message may have; ``None`` for any number.

        Returns:
            The bytes inflated but not returned yet; all of them if the message is finished.

        Raises:
            InflateError: The bytes are not a deflate stream, or the message does not end at a block
                boundary (1007); or it inflates to more than ``budget`` or ``max_ratio`` allow, or
                has more than 1024 final blocks (1009). Nothing can be inflated afterwards.
        """
        kept = self._kept
        if kept is None:
            if self._recent:
                self._recall()
            if finished and len(self._history) > _CHEAP_HISTORY and len(data) <= _KEPT_DATA:
                kept = None if self._busy else self._keep()
        if kept is not None:
            if finished and len(data) <= _KEPT_DATA:
                try:
                    payload = kept.decompress(data[_BODY], _KEPT_OUTPUT)
                    end = kept.decompress(data[_END], _KEPT_OUTPUT)
                    if end and not kept.decompress(_EMPTY_BLOCKS, 1) and not kept.eof:
                        payload += end
                        size = len(payload)
                        if size < self._sure and (budget is None or size <= budget):
                            recent = self._recent or self._divide()
                            if size < _PIECE and len(recent) > 1 and len(recent[-1]) < _PIECE:
                                recent[-1] += payload
                            else:
                                recent.append(payload)
                            room = self._room - size
                            while room <= 0:
                                recent.popleft()
                                room += len(recent[0])
                            self._room = room
                            return payload
                except zlib.error:
                    pass
            # Everything else starts over. One message does not bring another inflater that stays:
            # where others come all the time, it would cost more than it saves.
            self._recall()
            self._last = 0
        history = self._history
        # How far the message may still inflate, and whether the ratio is what limits it.
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
        # Almost every message arrives whole. Anything unusual about it is left to the general case
        # below, which starts over.
        # Always the full window. The inflater lives only for this call, and how far back a
        # misbehaving peer may refer must not depend on how its message was split.
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
            # Same as _remember, without the call.
            over = len(history) + len(payload) - self._inflate_window
            if over <= 0:
                history += payload
            elif over < len(history):
                del history[:over]
                history += payload
            else:
                history[:] = payload[-self._inflate_window :]
        return payload

    def _keep(self) -> _Decompress | None:
        """Make an inflater that stays, if messages come often here, compared with other codecs."""
        last, self._last = self._last, next(_turns)
        if self._last - last > _MOST_KEPT:
            return None
        kept = zlib.decompressobj(-self._inflate_bits, self._history)
        self._kept = kept
        if self._listed:
            # It had lost the last one itself, and no other has to go.
            return kept
        self._listed = True
        _keepers.append(ref(self))
        if len(_keepers) > _MOST_KEPT:
            oldest = _keepers.popleft()()
            if oldest is not None:
                oldest._listed = False
                oldest._kept = None
        return kept

    def _divide(self) -> deque[bytes]:
        """Divide the history, so that messages can follow it; an inflater has stayed."""
        history = bytes(self._history)
        # The inflater refers to the object.
        self._history.clear()
        pieces = (history[at : at + _SLICE] for at in range(0, len(history), _SLICE))
        self._recent = recent = deque(pieces)
        self._room = self._inflate_window - len(history) + len(recent[0])
        return recent

    def _recall(self) -> None:
        """Make the history from the messages that the inflater which stayed has seen."""
        self._kept = None
        if self._recent:
            history = self._history = bytearray().join(self._recent)
            del history[: -self._inflate_window]
            self._recent = _NONE

    def _remember(self, payload: bytes) -> None:
        """Add to the history, which is never longer than the window."""
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
            raise InflateError("a previous message could not be inflated", self._failure)
        self._busy = True
        self._taken += len(data)
        self._held += data
        if finished:
            self._held += _TAIL
        patient = by_ratio and not finished
        if patient and room < len(self._held):
            # Too early: trying again for every byte that arrives would be quadratic.
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
        """Inflate the waiting bytes up to a limit; the rest keeps waiting."""
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
                # RFC 7692 §7.2.3.4: the deflate stream has ended, but the message and its history
                # go on.
                position += len(chunk) - len(inflater.unused_data)
                inflater = zlib.decompressobj(-FULL_WINDOW, self._history)
                step = _FIRST_STEP
                self._ends += 1
                if self._ends > _MAX_FINAL_BLOCKS:
                    raise self._fail(
                        f"message has more than {_MAX_FINAL_BLOCKS} final blocks",
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
            else f"message of more than {self._given + room} bytes",
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
        """Deflate a message or its next piece (RFC 7692 §7.2.1).

        Args:
            data: The bytes.
            finished: Whether they end the message.

        Returns:
            Compressed bytes; possibly none yet if the message is not finished.
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

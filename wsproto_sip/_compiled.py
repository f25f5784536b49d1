"""The receive loop on the compiled kernel: :class:`._parser.FrameParser`, but faster.

Theory of operation. :mod:`._kernel` takes complete, ordinary frames, many in one call: whole
messages, and runs of fragments. Everything else, and every error, goes through the methods
inherited from the pure loop, so that each rule is implemented once. A read of a few bytes is left
to the pure loop entirely, because the kernel cannot speed it up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from ._frames import KIND_OTHER, KINDS_INSIDE, KINDS_NONE
from ._kernel import MASKED, TEXT_AS_BYTES, mask, take_fragments, take_frame, take_messages
from ._masking import NOTHING, singles
from ._parser import FEW, FrameParser
from .extensions import InflateError
from .frame_protocol import ParseFailed
from .limits import HONEST_FRAGMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .events import Event
    from .extensions import Extension, PerMessageDeflate
    from .limits import Limits
    from .typing import BytesLike

__all__ = ["KernelParser"]

#: Longer payloads go to the mask function that the program has plugged in, which is faster for
#: them.
_PLUGGED_FROM: Final = 1024
# Practically unlimited, but fits into 64 bits.
_ENDLESS: Final = 1 << 62
_NO_BYTES: Final = bytearray()  # never added to


@lru_cache(maxsize=64)
def _arguments(mode: int, limit: int, turns: int) -> tuple[int, int, int]:
    """Return the arguments of ``take_messages``; parsers share one tuple to stay small."""
    return mode, limit, turns


class KernelParser(FrameParser):
    """Turn the bytes a peer sent into events; see the base class for arguments and attributes."""

    __slots__ = ("_messages", "_ordinary")

    def __init__(
        self,
        client: bool,
        limits: Limits,
        deflate: PerMessageDeflate | None = None,
        extensions: Sequence[Extension] = (),
        **options: Any,
    ) -> None:
        super().__init__(client, limits, deflate, extensions, **options)
        # The frames allowed between messages, unless every frame needs a closer look.
        self._ordinary = None if self._between is KINDS_NONE else self._between
        limit, plugged = self._fast[4:]
        if plugged is not None and plugged is not mask:
            limit = min(limit, _PLUGGED_FROM - 1)
        self._messages = _arguments(
            (0 if client else MASKED) | (TEXT_AS_BYTES if self._text_as_bytes else 0),
            min(limit, _ENDLESS),
            len(self._turns) if type(self._turns) is range else _ENDLESS,
        )

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
        events: list[Event] = []
        mode, limit, turns = self._messages
        pos, end = 0, len(data)
        self._inflated = 0
        try:
            if not self._unfinished:
                # Most reads are whole messages and nothing else.
                if self._kinds is self._ordinary:
                    pos = take_messages(data, 0, mode, limit, turns, events)
                    if pos == end:
                        return events
                    turns -= len(events)
            elif end < FEW and not self.paused:
                return FrameParser.receive(self, data)
            elif self.closed:
                return events
            else:
                remaining = self._remaining
                if not remaining:
                    data = b"".join((self.kept, data))
                    end = len(data)
                    self.kept, self.harmless = _NO_BYTES, NOTHING
                self._unfinished = self.paused = self.halted = False
                if remaining:
                    pos = self._continue(data, events)
                    turns -= not self._remaining
            while turns > 0:
                kinds = self._kinds
                if kinds is self._ordinary:
                    before = len(events)
                    pos = take_messages(data, pos, mode, limit, turns, events)
                    turns -= len(events) - before
                elif kinds is KINDS_INSIDE and self._whole and limit >= 125:
                    pos, turns = self._take_run(data, pos, turns, events)
                if pos >= end:
                    return events
                if turns <= 0:
                    break
                if self._kinds is not kinds:
                    continue
                if end - pos < FEW and self._hold(data, pos):
                    return events
                first = data[pos]
                frame = (
                    take_frame(data, pos, not self.client, limit)
                    if kinds[first] == KIND_OTHER
                    else None
                )
                if frame is not None:
                    pos, payload = frame
                    self._plain_frame(first, payload, events)
                else:
                    stop = self._frame(data, pos, events)
                    if stop < 0:
                        self._keep(data, pos, singles(-stop - 1 - end + pos))
                        return events
                    pos = stop
                turns -= 1
                if self._inflated > self._max_inflated:
                    break
            # The limit on the work of one call is reached.
            if pos < end:
                self._keep(data, pos, NOTHING)
                self.paused = self.halted = True
        except (ParseFailed, InflateError, UnicodeDecodeError) as exc:
            self._fail(exc, events)
        return events

    def _take_run(self, data: bytes, pos: int, turns: int, events: list[Event]) -> tuple[int, int]:
        """Take the short frames at ``pos`` that continue a plain message.

        Returns:
            Where the next frame starts, and how many more frames may be taken.
        """
        most = self._max_fragments + self._wire // HONEST_FRAGMENT - self._fragments
        room = min(self._max_message - self._wire, _ENDLESS)
        pos, count, final, payload = take_fragments(
            data, pos, not self.client, room, min(most, turns)
        )
        if count:
            self._fragments += count
            self._wire += len(payload)
            self.fragments += count - 1
            self._payload(payload, True, final, events)
        return pos, turns - count

"""The parser on the compiled kernel: :class:`._parser.FrameParser`, but faster.

Theory of operation. :class:`._kernel.Intake` takes ordinary messages. Everything else, and every
error, goes through the methods inherited from the pure loop, so that each rule is implemented once;
complete plain frames and runs of fragments are unmasked by the kernel on the way. Between messages
the intake is told that it may go on. What it holds of an incomplete message is taken over when
something happens that it does not know. A read of a few bytes that the intake leaves is left to the
pure loop entirely, because the kernel cannot speed it up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from ._frames import KIND_OTHER, KINDS_INSIDE, KINDS_NONE
from ._kernel import (
    MASKED,
    TEXT_AS_BYTES,
    WHOLE,
    Intake,
    Partial,
    Settings,
    take_fragments,
    take_frame,
    take_messages,
)
from ._masking import NOTHING, rotate_key, singles
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

# Practically unlimited, but fits into 64 bits.
_ENDLESS: Final = 1 << 62
_NO_BYTES: Final = bytearray()  # never added to


_settings = lru_cache(maxsize=64)(Settings)


class KernelParser(FrameParser):
    """Turn the bytes a peer sent into events; see the base class for arguments and attributes."""

    __slots__ = ("_intake",)

    def __init__(
        self,
        client: bool,
        limits: Limits,
        deflate: PerMessageDeflate | None = None,
        extensions: Sequence[Extension] = (),
        **options: Any,
    ) -> None:
        super().__init__(client, limits, deflate, extensions, **options)
        limit = self._fast[4]
        turns, _, _, _, text_as_bytes = self._rules
        self._intake = Intake(
            _settings(
                (0 if client else MASKED)
                | (TEXT_AS_BYTES if text_as_bytes else 0)
                | (WHOLE if self._whole else 0),
                min(limit, _ENDLESS),
                min(turns.stop, _ENDLESS) if type(turns) is range else _ENDLESS,
            ),
            self._between is not KINDS_NONE,
        )

    @property
    def front(self) -> Intake:
        """Return the intake."""
        return self._intake

    @property
    def held(self) -> int:
        """Return how many bytes are kept raw for the next call."""
        return len(self.kept) + self._intake.held

    def receive(self, data: BytesLike) -> list[Event]:
        """Take the next bytes from the peer.

        Args:
            data: Bytes, split anywhere; an empty one continues a parser that has paused.

        Returns:
            The events, in order. A ``CloseConnection`` is always the last one.

        Raises:
            TypeError: ``data`` is not bytes-like. The parser is unchanged.
        """
        events = self._intake.receive(data)
        if type(events) is tuple:
            return self.rest(events)
        return events  # type: ignore[no-any-return]

    def rest(self, left: tuple[bytes, int, int, list[Event]]) -> list[Event]:
        """Go on with what the intake has left.

        Args:
            left: What it has returned.

        Returns:
            The events, including those that it has taken.
        """
        data, pos, turns, events = left
        self._inflated = 0
        try:
            if isinstance(self._intake.waiting, Partial):
                # All bytes are in it.
                self._take_over(events)
            else:
                events = self._receive(data, pos, turns, events)
        except (ParseFailed, InflateError, UnicodeDecodeError) as exc:
            self._fail(exc, events)
        self._resume()
        return events

    def deliver_pieces(self) -> list[Event]:
        """Deliver the pieces of messages as they arrive, from now on.

        Returns:
            The pieces put aside of the incomplete message, if any.
        """
        events: list[Event] = []
        intake = self._intake
        self._take_over(events)
        settings = intake.settings
        intake.settings = _settings(settings.mode & ~WHOLE, settings.limit, settings.turns)
        intake.ready = False
        events += super().deliver_pieces()
        self._resume()
        return events

    def _take_over(self, events: list[Event]) -> None:
        """Take what the intake holds of an incomplete message."""
        intake = self._intake
        waiting, intake.waiting = intake.waiting, None
        if isinstance(waiting, bytes):
            self._keep(waiting, 0, NOTHING)
        elif isinstance(waiting, Partial):
            self._begin_frame(waiting.first, waiting.total)
            self._fin, self._remaining = True, int(waiting.missing)
            key = int(waiting.key & 0xFFFFFFFF).to_bytes(4, "little")
            self._key = rotate_key(key, self._remaining)
            self._unfinished = True
            if waiting.decoded:
                self._parts, self.put_aside = waiting.texts, waiting.decoded
            self._payload(waiting.payload(), not waiting.missing, True, events)

    def _resume(self) -> None:
        """Let the intake go on, if the next byte begins an ordinary message."""
        between = self._between
        self._intake.ready = (
            self._kinds is between and between is not KINDS_NONE and not self._unfinished
        )

    def _release(self) -> None:
        super()._release()
        self._intake.close()

    def _receive(self, data: bytes, pos: int, turns: int, events: list[Event]) -> list[Event]:
        """Take bytes from ``pos`` on; see :meth:`receive`."""
        settings = self._intake.settings
        mode, limit, max_inflated = settings.mode, settings.limit, self._rules[1]
        end = len(data)
        if self._unfinished:
            if self.closed:
                return events
            if end < FEW and not self.paused:
                return FrameParser.receive(self, data)
            remaining = self._remaining
            if not remaining:
                data = b"".join((self.kept, data))
                end = len(data)
                self.kept, self.harmless = _NO_BYTES, NOTHING
            self._unfinished = self.paused = self.halted = False
            if remaining:
                pos = self._continue(data, events)
                turns -= not self._remaining
        between = None if self._between is KINDS_NONE else self._between
        while turns > 0:
            kinds = self._kinds
            if kinds is between:
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
            if self._inflated > max_inflated:
                break
        # The limit on the work of one call is reached.
        if pos < end:
            self._keep(data, pos, NOTHING)
            self.paused = self.halted = True
        return events

    def _take_run(self, data: bytes, pos: int, turns: int, events: list[Event]) -> tuple[int, int]:
        """Take the short frames at ``pos`` that continue a plain message.

        Returns:
            Where the next frame starts, and how many more frames may be taken.
        """
        most = self._rules[2] + self._wire // HONEST_FRAGMENT - self._fragments
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

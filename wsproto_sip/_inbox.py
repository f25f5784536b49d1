"""The receiving side of a connection, from bytes to the iterator over its events.

Theory of operation: most reads find the iterator over the last one's events exhausted, and replace
it. Events wait in a backlog only if a caller has left some unread, and around every pause and
ending; :class:`~wsproto_sip.connection.Connection` manages that one. The compiled engine has this
class a second time, in :mod:`._kernel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._masking import NOTHING

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator

    from ._parser import FrameParser
    from .events import Event
    from .typing import BytesLike

__all__ = ["Inbox"]


class Inbox:
    """Receives bytes, and hands out events.

    Args:
        parser: The parser.
    """

    __slots__ = ("_backlog", "_ended", "_harmless", "_kept", "_parser", "_pending", "_receive")

    def __init__(self, parser: FrameParser) -> None:
        self._parser = parser
        self._receive: Callable[[BytesLike], list[Event]] = parser.receive
        self._ended = False
        # What events() returns: an iterator over the events of the last read, or over the backlog.
        self._pending: Iterator[Event] = iter(())
        self._backlog: deque[Event] | None = None
        # The parser's, after a read without events.
        self._harmless, self._kept = NOTHING, parser.kept

    def receive_data(self, data: BytesLike | None) -> None:
        """Take the next bytes from the peer; :meth:`events` returns the resulting events.

        Args:
            data: Bytes, split anywhere; ``None`` at the end of input.
        """
        for harmless in self._harmless:
            # Same as in the parser, without the call: bytes that arrive one by one.
            try:
                self._kept.append(harmless[data])  # type: ignore[index]
                return
            except (KeyError, TypeError, ValueError):
                # Not a single byte, or not an allowed one; not hashable: bytes-like, or wrong.
                self._harmless = self._parser.harmless = NOTHING
                break
        if data is None:
            self._ended = True
            # Input after this is not the peer's.
            self._receive, self._parser.harmless = _nothing, NOTHING
            self._queue([])
            return
        events = self._receive(data)
        parser = self._parser
        if events:
            if parser.halted or self._backlog is not None:
                self._queue(events)
                return
            for event in self._pending:
                # The caller has not taken all of them.
                self._queue([event, *self._pending, *events])
                return
            self._pending = iter(events)
        elif parser.paused:
            self._queue(events)
        else:
            self._harmless, self._kept = parser.harmless, parser.kept

    def events(self) -> Iterator[Event]:
        """Iterate over the events not taken yet; unread ones are left for the next call.

        Returns:
            An iterator. Receiving more bytes may end it; the next one continues. The last event of
            a connection is a ``CloseConnection``.
        """
        return self._pending

    def _queue(self, events: list[Event]) -> None:
        """Let events wait in the backlog."""
        raise NotImplementedError


def _nothing(data: BytesLike) -> list[Event]:
    memoryview(data)  # anything else is an error at any time
    return []

"""Receiving messages piece by piece, without I/O.

Theory of operation: a connection delivers whole messages until it is first asked for pieces, or
pieces from the beginning if configured so. From then on everything it receives waits in a
:class:`PieceQueue`, whose size makes the driver stop reading. ``recv()`` joins the pieces of one
message; an iterator yields them as they arrive. Only one receiver at a time owns the message that
has begun. If an iterator is closed or dropped before the end of its message, the next receiver
skips the rest, which would otherwise look like a message of its own.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["AsyncPieceIterator", "PieceIterator", "PieceQueue", "PieceReceiver"]

#: Pieces shorter than this are joined to the one before, so that a message that arrives byte by
#: byte costs its size and not an object for each byte.
_SHORT: Final = 512

#: Overhead of a piece in bytes.
_OVERHEAD: Final = 50


class PieceReceiver:
    """The state of an iterator over the pieces of a message.

    Attributes:
        over: Whether no more pieces follow.
        begun: Whether a piece has been returned.
    """

    def __init__(self) -> None:
        self.over = False
        self.begun = False

    def close(self) -> None:
        """Give up the rest of the message: the next receiver skips it."""
        self.over = True


class PieceIterator(PieceReceiver, Iterator[str | bytes]):
    """Iterate over the pieces of one message as they arrive; made by ``recv_streaming()``.

    Args:
        receive: Called with the iterator; returns its next piece, or ``None`` at the end.
        timeout: Seconds to wait for a piece; ``None`` to wait as long as it takes.
    """

    def __init__(
        self,
        receive: Callable[[PieceReceiver, float | None], str | bytes | None],
        timeout: float | None,
    ) -> None:
        super().__init__()
        self._receive = receive
        self._timeout = timeout

    def __next__(self) -> str | bytes:
        piece = None if self.over else self._receive(self, self._timeout)
        if piece is None:
            raise StopIteration
        return piece


class AsyncPieceIterator(PieceReceiver, AsyncIterator[str | bytes]):
    """Iterate over the pieces of one message as they arrive; made by ``recv_streaming()``.

    Args:
        receive: Called with the iterator; returns its next piece, or ``None`` at the end.
    """

    def __init__(self, receive: Callable[[PieceReceiver], Awaitable[str | bytes | None]]) -> None:
        super().__init__()
        self._receive = receive

    async def __anext__(self) -> str | bytes:
        piece = None if self.over else await self._receive(self)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Do the same as :meth:`close`, for :func:`contextlib.aclosing`."""
        self.close()


class PieceQueue:
    """Unreceived pieces, and the owner of the message that has begun.

    Attributes:
        size: The cost of the waiting pieces, in bytes.
        messages: How many of them end a message.
    """

    def __init__(self) -> None:
        self.size = 0
        self.messages = 0
        self._queue: deque[tuple[str | bytes, bool]] = deque()
        # The pieces of the message that recv() is joining.
        self._parts: list[str | bytes] = []
        # The iterator that has returned a part of its message, but not the end.
        self._owner: weakref.ref[PieceReceiver] | None = None
        # Whether the next pieces are the rest of an unwanted message.
        self._skipping = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, data: str | bytes, finished: bool) -> int:
        """Add a received piece.

        Args:
            data: A piece of a message, or a whole one.
            finished: Whether it is the last of its message.

        Returns:
            By how much the cost of the queue has grown.
        """
        queue = self._queue
        before = self.size
        if queue and not queue[-1][1] and (not data or len(queue[-1][0]) < _SHORT):
            joined = queue.pop()[0] + data  # type: ignore[operator]
            queue.append((joined, finished))
            self.size += len(data)
        elif data or finished:
            queue.append((data, finished))
            self.size += len(data) + _OVERHEAD
        else:
            return 0
        self.messages += finished
        return self.size - before

    def take(self) -> tuple[str | bytes, bool] | None:
        """Take the next wanted piece, and whether it ends its message."""
        while self._queue:
            data, finished = self._queue.popleft()
            self.size -= len(data) + _OVERHEAD
            self.messages -= finished
            if not self._skipping:
                return data, finished
            self._skipping = not finished
        return None

    # -- receivers ---------------------------------------------------------------------------------

    def claim(self, receiver: PieceReceiver | None) -> None:
        """Check that the message that has begun does not belong to another receiver.

        Args:
            receiver: The iterator that wants a piece; ``None`` for whole messages.

        Raises:
            RuntimeError: It belongs to an iterator that is still in use.
        """
        if self._owner is None:
            return
        owner = self._owner()
        if owner is not None and owner is receiver:
            return
        if owner is not None and not owner.over:
            raise RuntimeError("a message is being received in pieces; close its iterator first")
        self._owner = None
        self._skipping = True

    def join(self, data: str | bytes, finished: bool) -> str | bytes | None:
        """Add a piece to the message that ``recv()`` is joining.

        Args:
            data: The piece.
            finished: Whether it is the last one.

        Returns:
            The message, if it is complete.
        """
        parts = self._parts
        if parts and len(parts[-1]) < _SHORT:
            parts[-1] += data  # type: ignore[operator]
        else:
            parts.append(data)
        return self.take_parts() if finished else None

    def take_parts(self) -> str | bytes | None:
        """Take the pieces joined so far, or ``None``."""
        parts, self._parts = self._parts, []
        if not parts:
            return None
        return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)  # type: ignore[arg-type]

    def give(
        self, receiver: PieceReceiver, data: str | bytes, finished: bool
    ) -> str | bytes | None:
        """Record that a piece goes to an iterator.

        Args:
            receiver: The iterator.
            data: A piece of its message.
            finished: Whether it is the last one.

        Returns:
            The piece; ``None`` if it is empty and only ends the message.
        """
        receiver.over = finished
        self._owner = None if finished else weakref.ref(receiver)
        if not data and receiver.begun:
            return None
        receiver.begun = True
        return data

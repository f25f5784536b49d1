"""An awaitable that a task waits for again and again, as cheap as the loop allows.

Theory of operation: a task that awaits a future is resumed through ``call_soon()``, in the loop's
next turn. On the loops of the standard library, a turn costs more than parsing a message. A task
may await anything that behaves like a future (``asyncio.isfuture()``), and continues when the
callback it has added is called: :class:`DirectWakeup` calls it from where the bytes arrived. That
must not happen inside another task; there, and for cancelling, the next turn of the loop is used as
usual.

On a compiled loop (uvloop) a turn costs next to nothing, and a future less than an object of ours.
If many connections have received something, their tasks are then resumed one after the other, which
processors like better than doing it between the reads: :class:`TurnWakeup` has a future for each
wait.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

__all__ = ["DirectWakeup", "TurnWakeup", "Wakeup", "make_wakeup"]


class DirectWakeup:
    """An awaitable that resumes the task at once; for one task at a time.

    It can be awaited again after it was woken or cancelled.

    Args:
        loop: The loop of the task.

    Attributes:
        waiting: Whether a task waits and was not woken yet.
    """

    # Set by the task when it starts to wait.
    _callback: Callable[[Any], object]
    _context: Context

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_loop",
        "waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self.waiting = self._cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        self._cancelled = False
        self.waiting = self._asyncio_future_blocking = True
        # The task calls result(), and raises here what that raises.
        yield self

    def wake(self) -> bool:
        """Resume the task, if possible before this returns.

        Returns:
            Whether a task was waiting.
        """
        if not self.waiting:
            return False
        self.waiting = False
        if asyncio.current_task(self._loop) is None:
            self._context.run(self._callback, self)
        else:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    # -- the interface of a future -----------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        """Store the callback of the task."""
        self._callback = callback
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        """Cancel the wait."""
        if not self.waiting:
            return False
        self.waiting, self._cancelled = False, True
        self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> None:
        """Raise if the wait was cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError


class TurnWakeup:
    """An awaitable that resumes the task in the loop's next turn; for one task at a time.

    It can be awaited again after it was woken or cancelled.

    Args:
        loop: The loop of the task.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a task waits and was not woken yet."""
        return self._future is not None and not self._future.done()

    def __await__(self) -> Generator[Any, None, None]:
        self._future = future = self._loop.create_future()
        return future.__await__()

    def wake(self) -> bool:
        """Resume the task.

        Returns:
            Whether a task was waiting.
        """
        future = self._future
        if future is None or future.done():
            return False
        future.set_result(None)
        return True


Wakeup = DirectWakeup | TurnWakeup


def make_wakeup(loop: asyncio.AbstractEventLoop) -> Wakeup:
    """Return the awaitable that suits a loop.

    Args:
        loop: The loop. Those written in Python have their turns from ``asyncio.BaseEventLoop``.
    """
    return DirectWakeup(loop) if isinstance(loop, asyncio.BaseEventLoop) else TurnWakeup(loop)

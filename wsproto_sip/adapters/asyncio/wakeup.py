"""An awaitable that resumes a task at once, instead of in the loop's next turn.

Theory of operation: a task that awaits a future is resumed through ``call_soon()``, which costs a
turn of the loop and with it a system call: more than parsing a message. A task may await anything
that behaves like a future (``asyncio.isfuture()``), and continues when the callback it has added is
called. :class:`Wakeup` calls it from where the bytes arrived. That must not happen inside another
task; there, and for cancelling, the next turn of the loop is used as usual.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

__all__ = ["Wakeup"]


class Wakeup:
    """An awaitable for one task at a time; reusable after it was woken or cancelled.

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

    def wake(self) -> None:
        """Resume the task, if possible before this returns."""
        if not self.waiting:
            return
        self.waiting = False
        if asyncio.current_task(self._loop) is None:
            self._context.run(self._callback, self)
        else:
            self._loop.call_soon(self._callback, self, context=self._context)

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

"""Something to wait for that lets a task go on at once, instead of in the loop's next turn.

Theory of operation: a task that awaits a future is woken through ``call_soon()``, which costs a
turn of the loop, and that turn a system call: more than parsing a message. A task may await
anything that behaves like a future (``asyncio.isfuture()``), and goes on when the callback it has
added is called. :class:`Wakeup` calls it from where the octets came in. That must not be from
inside another task; there, and for cancelling, the loop's next turn is taken as usual.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

__all__ = ["Wakeup"]


class Wakeup:
    """Awaited by one task at a time; may be awaited again when it was woken or cancelled.

    Args:
        loop: The loop of the task.
    """

    # What the task says when it begins to wait.
    _callback: Callable[[Any], object]
    _context: Context

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_done",
        "_loop",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._done = True
        self._cancelled = False

    @property
    def waiting(self) -> bool:
        """Whether a task waits that was not woken yet."""
        return not self._done

    def __await__(self) -> Generator[Any, None, None]:
        self._done = self._cancelled = False
        self._asyncio_future_blocking = True
        yield self
        self.result()

    def wake(self) -> None:
        """Lets the task go on: before this returns, where that can be."""
        if self._done:
            return
        self._done = True
        if asyncio.current_task(self._loop) is None:
            self._context.run(self._callback, self)
        else:
            self._loop.call_soon(self._callback, self, context=self._context)

    # -- what a task does with a future ------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        """The task says what to call."""
        self._callback = callback
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        """The task is being cancelled."""
        if self._done:
            return False
        self._done = self._cancelled = True
        self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def result(self) -> None:
        """The task asks what has happened."""
        if self._cancelled:
            raise asyncio.CancelledError

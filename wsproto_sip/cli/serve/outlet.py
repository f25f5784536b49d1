"""An output stream that never blocks the server.

Theory of operation: lines go into a bounded queue, and a thread writes them to the descriptor. If
the reader of a pipe stops reading, or a user stops a terminal with Ctrl-S, only the thread waits.
Lines that find the queue full are dropped and counted, and the count is reported once there is room
again. The thread writes to the descriptor itself: a thread that waits inside of ``sys.stderr``
would hold its lock, and with that the end of the process.
"""

from __future__ import annotations

import io
import os
import select
from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Outlet"]

#: Maximum number of queued bytes.
_CAPACITY: Final = 1024 * 1024

#: Seconds that the remaining bytes may take at the end.
_LINGER: Final = 1.0


class Outlet(io.TextIOBase):
    """A text stream on a descriptor; its methods return at once.

    Args:
        descriptor: The descriptor to write to; it stays open.
        tell: Called by the thread with the number of writes that were dropped, when there is room
            again. It may write to the outlet.
        capacity: Maximum number of queued bytes.
        write: Writes to the descriptor; may block.

    Attributes:
        dropped: Number of dropped writes not yet reported, such as all after the reader is gone.
        dropped_in_all: Total number of dropped writes.
    """

    def __init__(
        self,
        descriptor: int,
        tell: Callable[[int], object],
        *,
        capacity: int = _CAPACITY,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.dropped = self.dropped_in_all = 0
        self._descriptor = descriptor
        self._tell = tell
        self._capacity = capacity
        self._write_out = write
        # Guards the following attributes, and notifies of changes.
        self._change = Condition()
        # Text, and descriptors that replace the one before.
        self._waiting: deque[bytes | int] = deque()
        # Queued bytes, including those being written.
        self._held = 0
        # Whether the thread has something to do, including reports of its own.
        self._busy = False
        self._ended = False
        self._thread = Thread(target=self._run, name="wsproto_sip output", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Queue text, or drop all of it if the queue is full.

        Args:
            text: The text, as a whole line if possible.
        """
        data = text.encode("utf-8", "backslashreplace")
        with self._change:
            # Text longer than the queue is written if the queue is empty.
            if self._ended or (self._held and self._held + len(data) > self._capacity):
                self.dropped += 1
                self.dropped_in_all += 1
            else:
                self._waiting.append(data)
                self._held += len(data)
                self._change.notify_all()
        return len(text)

    def drain(self, seconds: float = _LINGER) -> bool:
        """Wait until everything is written.

        Args:
            seconds: Seconds to wait.

        Returns:
            Whether it is.
        """
        with self._change:
            return self._change.wait_for(lambda: not (self._busy or self._waiting), seconds)

    def close(self) -> None:
        """Wait briefly for queued text to be written, and end the thread."""
        self.drain()
        self._end()
        super().close()

    @property
    def waiting(self) -> int:
        """Number of queued bytes."""
        return self._held

    def replace(self, descriptor: int) -> None:
        """Write later text to another descriptor's file; the caller may close that descriptor.

        Queued text still goes to the file that was there when it was written.

        Args:
            descriptor: The other descriptor.
        """
        with self._change:
            if not self._ended:
                self._waiting.append(os.dup(descriptor))
                self._change.notify_all()

    def close_descriptor(self) -> None:
        """Close it, and its descriptor too, unless the thread still uses it."""
        self.close()
        self._thread.join(_LINGER)
        if not self._thread.is_alive():
            os.close(self._descriptor)

    def _end(self) -> None:
        with self._change:
            self._ended = True
            for item in self._waiting:
                if isinstance(item, int):
                    os.close(item)
                else:
                    self.dropped += 1
                    self.dropped_in_all += 1
            self._waiting.clear()
            self._change.notify_all()

    def _run(self) -> None:
        """Write the queued text, one write after the other."""
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                self._busy = True
                data = self._waiting.popleft()
            if isinstance(data, int):
                os.dup2(data, self._descriptor, inheritable=False)
                os.close(data)
                continue
            try:
                self._put(data)
            except OSError:
                # The reader is gone, so this cannot be reported.
                self._end()
            with self._change:
                self._held -= len(data)
                dropped = 0
                if not (self._waiting or self._ended):
                    dropped, self.dropped = self.dropped, 0
            if dropped:
                self._tell(dropped)

    def _put(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._write_out(self._descriptor, data) :]
            except BlockingIOError:
                # Another process with the same pipe or terminal made it non-blocking.
                select.select([], [self._descriptor], [])

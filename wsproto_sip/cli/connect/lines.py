"""The lines of standard input, as they arrive.

Theory of operation: a thread reads standard input, because no event loop can wait for a plain file;
it never gets more than a few reads ahead.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["input_lines"]

#: Number of reads that the thread may be ahead.
_AHEAD: Final = 4


async def input_lines() -> AsyncIterator[bytes]:
    """Yield the lines of standard input, without their LF or CRLF."""
    batches: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
    ahead = threading.Semaphore(_AHEAD)
    arguments = (asyncio.get_running_loop(), batches.put_nowait, ahead)
    threading.Thread(target=_read_lines, args=arguments, daemon=True).start()
    while (batch := await batches.get()) is not None:
        for line in batch:
            yield line
        ahead.release()


def _read_lines(
    loop: asyncio.AbstractEventLoop,
    put: Callable[[list[bytes] | None], None],
    ahead: threading.Semaphore,
) -> None:
    """Read standard input, in a thread.

    Not through ``sys.stdin``: a thread that waits in it at the program's end holds its lock, which
    the interpreter needs.

    Args:
        loop: The loop that calls ``put``.
        put: Takes the lines of one read, without their ends; ``None`` at the end of the input.
        ahead: Acquired once per read.
    """
    rest: list[bytes] = []
    try:
        while True:
            ahead.acquire()
            chunk = _read_input()
            *lines, last = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*rest, lines[0]])
                rest.clear()
            rest.append(last)
            if not chunk:
                lines = [b"".join(rest)] if any(rest) else []
            loop.call_soon_threadsafe(put, [line.removesuffix(b"\r") for line in lines])
            if not chunk:
                loop.call_soon_threadsafe(put, None)
                return
    except RuntimeError:
        pass  # the connection ended first, and the loop with it


def _read_input() -> bytes:
    """Return the next bytes of standard input; empty at its end."""
    if sys.stdin is None:  # it was closed before the start
        return b""
    try:
        return os.read(sys.stdin.fileno(), 65536)
    except OSError:
        return b""

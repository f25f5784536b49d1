"""The lag of an event loop: the first sign of an overloaded server."""

from __future__ import annotations

import asyncio
from typing import Final

from ...server.histogram import Histogram

__all__ = ["LoopLag"]

#: Seconds between two measurements, and the buckets of their histogram.
_INTERVAL: Final = 1.0
_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measure every second by how much a timer of the running loop is late.

    Args:
        interval: Seconds between two measurements.

    Attributes:
        seconds: A histogram of the results.
    """

    def __init__(self, interval: float = _INTERVAL) -> None:
        self.seconds = Histogram(_BOUNDS)
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._due = self._loop.time() + self._interval
        self._timer = self._loop.call_at(self._due, self._measure)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        self.seconds.add(max(self._loop.time() - self._due, 0.0))
        self.start()

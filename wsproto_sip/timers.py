"""Deadlines: those of one connection, and the next ones of many.

Theory of operation: nothing here knows what time it is; a deadline is a number on the caller's
clock. A connection has few timers, all of them known, so they are a list indexed by
:class:`Timer`, and the next one is its minimum. Many connections share a :class:`TimerQueue`: a
heap in which an entry that was moved or removed stays until it comes up, because a connection's
next deadline moves more often than it passes.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["Deadlines", "Timer", "TimerQueue"]


class Timer(IntEnum):
    """What a connection may be waiting for."""

    #: The opening handshake, from the first moment on.
    OPEN = 0
    #: Anything at all from the peer.
    IDLE = 1
    #: The end, once closing has begun.
    CLOSE = 2
    #: The transport taking octets.
    SEND = 3
    #: The end of the longest life a connection may have.
    AGE = 4


class Deadlines:
    """The deadlines of one connection."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times = [inf] * len(Timer)

    def __getitem__(self, timer: Timer) -> float:
        """When a timer is due; infinity where it is not armed."""
        return self._times[timer]

    def set(self, timer: Timer, when: float) -> None:
        """Arms a timer, or moves it.

        Args:
            timer: Which one.
            when: The time at which it is due; infinity disarms it.
        """
        self._times[timer] = when

    def clear(self, timer: Timer) -> None:
        """Disarms a timer."""
        self._times[timer] = inf

    def clear_all(self) -> None:
        """Disarms every timer."""
        self._times = [inf] * len(Timer)

    def shift(self, seconds: float) -> None:
        """Moves every deadline, because the clock was moved.

        Args:
            seconds: By how much; negative towards the past.
        """
        self._times = [when + seconds for when in self._times]

    def next(self) -> float:
        """When the first timer is due; infinity where none is armed."""
        return min(self._times)


K = TypeVar("K", bound="SupportsOrder")

#: Left-over entries below this many are not worth a clean-up.
_STALE: Final = 64


class SupportsOrder(Hashable, Protocol):
    """What can be a key, and stand behind a time in a heap."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before another."""
        ...


class TimerQueue(Generic[K]):
    """The next deadline of each of many keys: O(log n) to set, and to take the first."""

    __slots__ = ("_heap", "_when")

    def __init__(self) -> None:
        # (when, key); an entry counts while _when has the same time for its key.
        self._heap: list[tuple[float, K]] = []
        self._when: dict[K, float] = {}

    def __len__(self) -> int:
        """How many keys have a deadline."""
        return len(self._when)

    def set(self, key: K, when: float | None) -> None:
        """Gives a key its next deadline in place of the one it had.

        Args:
            key: Whose it is.
            when: The time; None takes the deadline away.
        """
        if when is None:
            self._when.pop(key, None)
        elif self._when.get(key) != when:
            self._when[key] = when
            heappush(self._heap, (when, key))
        if len(self._heap) > 2 * len(self._when) + _STALE:
            self._heap = [(due, key) for key, due in self._when.items()]
            heapify(self._heap)

    def next(self) -> float | None:
        """When the first key is due; None where none is."""
        heap = self._heap
        while heap:
            when, key = heap[0]
            if self._when.get(key) == when:
                return when
            heappop(heap)
        return None

    def pop_due(self, now: float, most: int | None = None) -> list[K]:
        """Takes the keys that are due out of the queue, the first first.

        Args:
            now: The time.
            most: How many at the most; None takes all.

        Returns:
            The keys, each without a deadline now.
        """
        due: list[K] = []
        heap = self._heap
        while heap and heap[0][0] <= now and (most is None or len(due) < most):
            when, key = heappop(heap)
            if self._when.get(key) == when:
                del self._when[key]
                due.append(key)
        return due

"""Keep track of the next deadlines of many connections.

Theory of operation: this module does not read a clock; a deadline is a number on the caller's
clock. Many connections share a :class:`TimerQueue`, in which a moved or removed entry stays until
it comes up, because a connection's next deadline moves more often than it passes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from heapq import heappop, heappush
from math import inf, nextafter
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["TimerQueue"]


K = TypeVar("K", bound="SupportsOrder")

#: Fewer stale entries than this are not worth a clean-up.
_STALE: Final = 64


class SupportsOrder(Hashable, Protocol):
    """A key: it is hashed, and compared if times are equal."""

    def __lt__(self, other: Any, /) -> bool:
        """Return whether this key sorts before another."""
        ...


class TimerQueue(Generic[K]):
    """The next deadline of each of many keys.

    Distant deadlines wait unsorted, in one list per second; a list is sorted when all lists before
    it are empty. So setting a deadline costs the same however many keys there are. A deadline
    before the end of the second in use goes into a separate heap::

        set --> far: {20: [...], 21: [...], ...} --> ready: sorted, one second --> pop_due
         |                                                                            ^
         +----> early: a heap, for times before the end of that second ---------------+

    A key with a new deadline leaves its old entry in place until it comes up.
    """

    __slots__ = ("_early", "_entries", "_far", "_horizon", "_ready", "_seconds", "_when")

    def __init__(self) -> None:
        # The current deadlines; an entry elsewhere is stale unless its time matches.
        self._when: dict[K, float] = {}
        # (when, key) before the horizon, sorted, the first one at the end.
        self._ready: list[tuple[float, K]] = []
        self._early: list[tuple[float, K]] = []
        self._horizon = -inf
        # Keys by second, from the horizon on, and a heap of these seconds.
        self._far: dict[float, list[K]] = {}
        self._seconds: list[float] = []
        # The total number of entries.
        self._entries = 0

    def __len__(self) -> int:
        """Return how many keys have a deadline."""
        return len(self._when)

    def set(self, key: K, when: float | None) -> None:
        """Set a key's next deadline, replacing any other.

        Args:
            key: The key.
            when: The time; ``None`` or infinity removes the deadline.
        """
        if when is None or when == inf:
            self._when.pop(key, None)
        elif self._when.get(key) != when:
            self._when[key] = when
            self._add(key, when)
        if self._entries > 2 * len(self._when) + _STALE:
            # Start over without the stale entries.
            self._ready, self._early, self._far, self._seconds = [], [], {}, []
            self._horizon = -inf
            self._entries = 0
            for left, due in self._when.items():
                self._add(left, due)

    def _add(self, key: K, when: float) -> None:
        self._entries += 1
        if when < self._horizon or when == -inf:
            heappush(self._early, (when, key))
            return
        second = when // 1
        keys = self._far.get(second)
        if keys is None:
            self._far[second] = [key]
            heappush(self._seconds, second)
        else:
            keys.append(key)

    def _first(self, until: float = inf) -> list[tuple[float, K]] | None:
        """Return the list with the first entry, ready or early; ``None`` if both are empty.

        If both are empty, the ready list is filled with the next second, unless all of it lies
        after ``until``.
        """
        early, ready = self._early, self._ready
        if early:
            return early if not ready or early[0] < ready[-1] else ready
        while not ready and self._seconds and self._seconds[0] <= until:
            second = heappop(self._seconds)
            # If seconds are too large to tell apart, take at least one.
            self._horizon = horizon = max(second + 1, nextafter(second, inf))
            keys, times = self._far.pop(second), self._when
            self._entries -= len(keys)
            ready = self._ready
            for key in keys:
                when = times.get(key)
                # A key that has moved since is stale.
                if when is not None and second <= when < horizon:
                    ready.append((when, key))
            ready.sort(reverse=True)
            self._entries += len(ready)
        return ready or None

    def next(self) -> float | None:
        """Return when the first key is due; ``None`` without any."""
        while (entries := self._first()) is not None:
            when, key = entries[0] if entries is self._early else entries[-1]
            if self._when.get(key) == when:
                return when
            self._drop(entries)
        return None

    def _drop(self, entries: list[tuple[float, K]]) -> None:
        """Remove the first entry from the list that :meth:`_first` returned."""
        self._entries -= 1
        if entries is self._early:
            heappop(entries)
        else:
            entries.pop()

    def pop_due(self, now: float, most: int | None = None) -> list[K]:
        """Remove and return the due keys, in the order of their deadlines.

        Args:
            now: The current time.
            most: The maximum number of keys; ``None`` for all.

        Returns:
            The keys, which no longer have a deadline.
        """
        due: list[K] = []
        times = self._when
        while most is None or len(due) < most:
            entries = self._first(now)
            if entries is None:
                break
            if self._early:
                # One at a time: the next one may be in the other list.
                when, _ = entry = entries[0] if entries is self._early else entries[-1]
                if when > now:
                    break
                self._drop(entries)
                taken = [entry]
            else:
                start = bisect_left(entries, -now, key=_minus_when)
                if most is not None:
                    start = max(start, len(entries) - most + len(due))
                taken = entries[start:][::-1]
                del entries[start:]
                if not taken:
                    break
                self._entries -= len(taken)
            for when, key in taken:
                if times.get(key) == when:
                    del times[key]
                    due.append(key)
        return due


def _minus_when(entry: tuple[float, object]) -> float:
    return -entry[0]

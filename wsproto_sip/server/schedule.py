"""The next deadlines of many connections.

Theory of operation. Deadlines are kept in shards, by id modulo their number, so that several timers
can drive one table. In its shard a connection has one entry: the earliest deadline known when it
was last examined. Input makes the deadline later without moving the entry: the entry comes up, the
connection turns out not to be due, and the entry is moved to the current deadline, once per
interval. So a received message costs nothing here, and a pass costs only the entries that are due.

Connections with remaining work are due at once, in any shard. While the endpoint is draining, each
connection also has a time to leave: first to start closing, then to be ended. The first shard
handles those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

from ..timers import TimerQueue

__all__ = ["Schedule", "keepalive_share"]

_GOLDEN: Final = (5**0.5 - 1) / 2


def keepalive_share(cid: int) -> float:
    """Return a connection's place in the keep-alive interval, a share above 0 and at most 1.

    Multiples of the golden ratio are never close together, however many connections there are.

    Args:
        cid: The connection.
    """
    return 1 - cid * _GOLDEN % 1


class Schedule:
    """The deadlines of all connections of one endpoint.

    Args:
        shards: The number of parts in which deadlines are kept.
        now: The current time, in seconds of any monotonic clock.

    Attributes:
        drained_by: The time when draining ends; ``None`` before it starts.
        leave_by: The time when the last connections start to leave.
    """

    __slots__ = ("_busy", "_leaving", "_passes", "_shards", "drained_by", "leave_by")

    def __init__(self, shards: int, *, now: float) -> None:
        self._shards: list[TimerQueue[int]] = [TimerQueue() for _ in range(shards)]
        # When the last complete pass over each shard was made.
        self._passes = [now] * shards
        self._busy: dict[int, None] = {}
        self._leaving: TimerQueue[int] = TimerQueue()
        self.drained_by: float | None = None
        self.leave_by = inf

    def shard_of(self, cid: int) -> int:
        """Return the shard that keeps a connection's deadline."""
        return cid % len(self._shards)

    def _asked(self, shard: int | None) -> Sequence[int]:
        return range(len(self._shards)) if shard is None else (shard,)

    def set(self, cid: int, when: float | None) -> None:
        """Set a connection's next deadline, replacing the previous one.

        Args:
            cid: The connection.
            when: The deadline; ``None`` without one.
        """
        self._shards[cid % len(self._shards)].set(cid, when)

    def set_busy(self, cid: int) -> None:
        """Record that a connection has work that needs neither input nor time.

        Args:
            cid: The connection.
        """
        self._busy[cid] = None

    def forget(self, cid: int) -> None:
        """Forget a connection that has ended.

        Args:
            cid: The connection.
        """
        self.set(cid, None)
        self._leaving.set(cid, None)
        self._busy.pop(cid, None)

    def next(self, shard: int | None, interval: float) -> float | None:
        """Return when the next connection is due.

        Args:
            shard: The shard; the first one also handles draining. ``None`` for all.
            interval: Seconds between two passes over a shard.

        Returns:
            The time, minus infinity if there is remaining work; ``None`` without a deadline.
        """
        if self._busy:
            return -inf
        due: list[float] = []
        for index in self._asked(shard):
            when = self._shards[index].next()
            if when is not None:
                due.append(max(when, self._passes[index] + interval))
        if shard is None or shard == 0:
            leaving = self._leaving.next()
            if leaving is not None:
                due.append(leaving)
        return min(due, default=None)

    def take_busy(self) -> dict[int, None]:
        """Remove and return the connections with remaining work in all shards, in order."""
        busy, self._busy = self._busy, {}
        return busy

    def take_due(
        self, now: float, shard: int | None, interval: float, most: int | None
    ) -> list[int]:
        """Remove and return the due connections; each needs a new deadline.

        Args:
            now: The current time.
            shard: The shard; ``None`` for all.
            interval: Seconds between two passes over a shard.
            most: The maximum number of connections per shard; ``None`` for all.

        Returns:
            The connections.
        """
        cids: list[int] = []
        for index in self._asked(shard):
            if now >= self._passes[index] + interval:
                due = self._shards[index].pop_due(now, most)
                if due and len(due) != most:
                    # Otherwise the next call continues this pass.
                    self._passes[index] = now
                cids += due
        return cids

    def drain(self, cids: Iterable[int], now: float, deadline: float) -> None:
        """Start draining: give connections times to leave, spread over four fifths of the time.

        Args:
            cids: The connections.
            now: The current time.
            deadline: The time when all must have left; a past one means at once.
        """
        self.drained_by = max(now, deadline)
        cids = list(cids)
        self.leave_by = now + 0.8 * (self.drained_by - now)
        step = (self.leave_by - now) / max(1, len(cids))
        for number, cid in enumerate(cids):
            self._leaving.set(cid, now + number * step)

    def set_leaving(self, cid: int, when: float) -> None:
        """Set a connection's time to leave, replacing the previous one.

        Args:
            cid: The connection.
            when: The time.
        """
        self._leaving.set(cid, when)

    def take_leaving(self, now: float) -> list[int]:
        """Remove and return the connections whose time to leave has come.

        Args:
            now: The current time.
        """
        return self._leaving.pop_due(now)

"""The events at a relay, for its operator: counters, and events for a log.

The relay calls its :class:`RelayJournal`, which counts, and passes an event to its observer if
there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...server.histogram import Histogram

__all__ = [
    "METHODS",
    "Authorized",
    "Dropped",
    "Failed",
    "Refused",
    "RelayEvent",
    "RelayJournal",
    "Relayed",
]

#: Methods that are counted separately; a sender may invent others.
METHODS: Final = frozenset(["AUTH", "NICKNAME", "REPORT", "SEND"])
_OTHER: Final = "other"
_NAMES: Final = {name.encode(): name for name in METHODS}

_SIZES: Final = (256, 1024, 2048, 4096, 16384, 65536, 262144, 1048576)


@dataclass(frozen=True, slots=True)
class Authorized:
    """A client has got or extended a session.

    Args:
        user: The user.
        cid: The connection.
        expires: Seconds until it ends.
        refreshed: Whether it existed before.
    """

    user: str
    cid: int
    expires: int
    refreshed: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused.

    Args:
        method: Its method; empty if it could not be read.
        status: The status of the response.
        detail: The reason, if known.
        cid: The connection it arrived on.
    """

    method: str
    status: int
    detail: str
    cid: int


@dataclass(frozen=True, slots=True)
class Relayed:
    """A request was forwarded.

    Args:
        method: Its method.
        size: Its length in bytes.
        cid: The connection it arrived on.
    """

    method: str
    size: int
    cid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A forwarded request has failed further on.

    Args:
        status: The status; 408 if it was not answered, 481 if its receiver has gone.
        cid: The connection it arrived on.
    """

    status: int
    cid: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A connection is closed.

    Args:
        cid: The connection.
        reason: The reason.
    """

    cid: int
    reason: str


RelayEvent = Authorized | Refused | Relayed | Failed | Dropped
"""The events that an observer gets."""


class RelayJournal:
    """Counts events, and passes them to an observer.

    Attributes:
        observer: Called with each event; it must not raise, nor call the relay. ``None`` by
            default.
        authorized: How many sessions were granted.
        refreshed: How many sessions were extended.
        relayed: How many requests were forwarded, by method.
        refused: How many requests were refused, by method and status.
        failed: How many requests have failed further on, by status.
        dropped: How many connections were closed.
        sizes: The sizes of forwarded requests in bytes.
    """

    def __init__(self) -> None:
        self.observer: Callable[[RelayEvent], object] | None = None
        self.authorized = self.refreshed = self.dropped = 0
        self.relayed: Counter[str] = Counter()
        self.refused: Counter[tuple[str, int]] = Counter()
        self.failed: Counter[int] = Counter()
        self.sizes = Histogram(_SIZES)

    def authorize(self, user: str, cid: int, expires: int, *, refreshed: bool) -> None:
        """Record a session; see :class:`Authorized`."""
        if refreshed:
            self.refreshed += 1
        else:
            self.authorized += 1
        if self.observer is not None:
            self.observer(Authorized(user, cid, expires, refreshed))

    def refuse(self, method: bytes, status: int, detail: str, cid: int) -> None:
        """Record a refusal; see :class:`Refused`."""
        name = method.decode("ascii", "replace")
        self.refused[name if name in METHODS else _OTHER, status] += 1
        if self.observer is not None:
            self.observer(Refused(name, status, detail, cid))

    def relay(self, method: bytes, size: int, cid: int) -> None:
        """Record a forwarded request; see :class:`Relayed`."""
        self.relayed[_NAMES.get(method, _OTHER)] += 1
        self.sizes.add(size)
        if self.observer is not None:
            self.observer(Relayed(method.decode("ascii", "replace"), size, cid))

    def fail(self, status: int, cid: int) -> None:
        """Record a failure further on; see :class:`Failed`."""
        self.failed[status] += 1
        if self.observer is not None:
            self.observer(Failed(status, cid))

    def drop(self, cid: int, reason: str) -> None:
        """Record the end of a connection; see :class:`Dropped`."""
        self.dropped += 1
        if self.observer is not None:
            self.observer(Dropped(cid, reason))

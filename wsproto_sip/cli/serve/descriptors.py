"""The number of connections that this process's descriptors allow (``RLIMIT_NOFILE``)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["Room", "make_room", "room_within"]

#: Descriptors for everything but WebSocket connections: the standard streams, listeners, the event
#: loop, files that are read again, channels for commands with their clients, upstreams and peers.
_RESERVE: Final = 128


@dataclass(frozen=True, slots=True)
class Room:
    """The possible number of connections.

    Args:
        connections: Total connections.
        handshakes: Opening handshakes in addition.
        descriptors: The descriptors needed for both, or allowed if that is less.
        lowered: Whether the numbers are lower than requested.
    """

    connections: int
    handshakes: int
    descriptors: int
    lowered: bool


def make_room(connections: int, handshakes: int) -> Room:
    """Raise the limit of this process as far as needed and allowed.

    Args:
        connections: Total connections.
        handshakes: Opening handshakes in addition.

    Raises:
        ValueError: There are too few descriptors for a server.
    """
    need = connections + handshakes + _RESERVE
    return room_within(_raised_to(need), connections, handshakes)


def _raised_to(need: int) -> int:
    if sys.platform == "win32":
        # Sockets do not count as files there.
        return need
    import resource  # noqa: PLC0415  # not there on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    if soft == endless or soft >= need:
        return need
    # The superuser may raise the hard limit too.
    for limits in ((need, hard if hard == endless else max(need, hard)), (min(need, hard), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (ValueError, OSError):
            continue
        return limits[0]
    return soft


def room_within(allowed: int, connections: int, handshakes: int) -> Room:
    """Divide a number of descriptors: handshakes get a quarter of them at most.

    Args:
        allowed: The descriptors that there are.
        connections: Connections in all.
        handshakes: Opening handshakes besides them.

    Raises:
        ValueError: There are too few descriptors for a server.
    """
    need = connections + handshakes + _RESERVE
    if allowed >= need:
        return Room(connections, handshakes, need, lowered=False)
    left = allowed - _RESERVE
    if left < 2:
        raise ValueError(
            f"the system allows {allowed} open files (ulimit -n), "
            f"a server needs {_RESERVE + 2} at least"
        )
    handshakes = min(handshakes, max(left // 4, left - connections, 1))
    return Room(min(connections, left - handshakes), handshakes, allowed, lowered=True)

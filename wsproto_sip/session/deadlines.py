"""The deadlines of one connection.

Theory of operation: this module does not read a clock; a deadline is a number on the caller's
clock. A connection has a few timers, all known in advance, so they are a list indexed by
:class:`Timer`, and the next deadline is its minimum.

A deadline that is checked much too late says more about this process, or its clock, than about the
peer, whose answer may be unread. :meth:`Deadlines.forgive` extends it once.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final

__all__ = ["LATENESS", "Deadlines", "Timer", "after"]

#: If a deadline is missed by more seconds than this, the clock or this process is to blame.
LATENESS: Final = 2.0


class Timer(IntEnum):
    """The things a connection may be waiting for."""

    #: The opening handshake, from the creation of the session.
    OPEN = 0
    #: Any byte from the peer.
    IDLE = 1
    #: The end of the connection, once closing has begun.
    CLOSE = 2
    #: The transport to accept bytes.
    SEND = 3
    #: The connection's maximum age.
    AGE = 4
    #: The end of a pause in reading.
    PAUSE = 5


class Deadlines:
    """The deadlines of one connection."""

    __slots__ = ("_forgiven", "_times")

    def __init__(self) -> None:
        self._times = [inf] * len(Timer)
        # A bit for each timer that was checked too late and extended.
        self._forgiven = 0

    def __getitem__(self, timer: Timer) -> float:
        """Return when a timer is due; infinity if it is not armed."""
        return self._times[timer]

    def set(self, timer: Timer, when: float) -> None:
        """Arm a timer, or move it.

        Args:
            timer: The timer.
            when: The time at which it is due; infinity disarms it.
        """
        self._times[timer] = when

    def clear(self, timer: Timer) -> None:
        """Disarm a timer."""
        self._times[timer] = inf

    def clear_all(self) -> None:
        """Disarm every timer."""
        self._times = [inf] * len(Timer)

    def shift(self, seconds: float) -> None:
        """Move every deadline, because the clock was moved.

        Args:
            seconds: By how much; negative if the clock was set back.
        """
        self._times = [when + seconds for when in self._times]

    def next(self) -> float:
        """Return when the first timer is due; infinity if none is armed."""
        return min(self._times)

    def forgive(self, timer: Timer, now: float, seconds: float | None) -> bool:
        """Extend a due timer once if it is checked much too late.

        Args:
            timer: The timer.
            now: The time.
            seconds: The time it gets from now on; ``None`` disarms it.

        Returns:
            Whether it was extended; ``False`` if it is not late, or was extended before.
        """
        bit = 1 << timer
        if self._forgiven & bit or now - self._times[timer] <= LATENESS:
            return False
        self._forgiven |= bit
        self._times[timer] = after(now, seconds)
        return True

    def forget(self, timer: Timer) -> None:
        """Forget that a timer was extended: the event that it waited for has occurred since."""
        self._forgiven &= ~(1 << timer)


def after(now: float, seconds: float | None) -> float:
    """Return the deadline that lies some time after now.

    Args:
        now: The current time.
        seconds: How long; ``None`` for ever.

    Returns:
        The time at which it is due.
    """
    return inf if seconds is None else now + seconds

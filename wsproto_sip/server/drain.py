"""The steps in which a server stops: in which order, and how long each may take, without I/O.

Theory of operation: a server that belongs to a population of several first says that it is going,
so that the others send new calls elsewhere. It stops listening, and lets the handshakes that have
begun finish, since their clients were let in before. Then its connections leave
(:meth:`~wsproto_sip.server.endpoint.Endpoint.drain`): the idle ones spread over the time, those
with a reason to stay at its end. When none are left, the population forgets the server::

    ANNOUNCE ──▶ STOP_LISTENING ──▶ SEND_AWAY ──▶ WITHDRAW ──▶ FINISH
       │  told, or 1 s      │ no handshakes,   │ no connections,   │ forgotten,
       ▼                    ▼ or 1 s           ▼ or the deadline   ▼ or 2 s

A step that takes too long is not waited for: a store that does not answer must not keep a server,
and the time to live of its entries does what it could not do.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["Drain", "DrainStep"]

#: The longest time to announce the end, to finish handshakes, and to withdraw, in seconds.
_ANNOUNCE_SECONDS: Final = 1.0
_HANDSHAKE_SECONDS: Final = 1.0
_WITHDRAW_SECONDS: Final = 2.0
#: Seconds after the deadline in which transports may write what remains.
_LINGER: Final = 1.0
#: The share of the time that waiting for handshakes may take.
_SHARE: Final = 0.2


class DrainStep(Enum):
    """A step to perform."""

    #: Say that the server is going; report :meth:`Drain.announced`.
    ANNOUNCE = "announce"
    #: Stop listening; handshakes go on.
    STOP_LISTENING = "stop-listening"
    #: Refuse new handshakes, and have the connections leave until :attr:`Drain.deadline`.
    SEND_AWAY = "send-away"
    #: Remove what the population knows of the server; report :meth:`Drain.withdrawn`.
    WITHDRAW = "withdraw"
    #: The server has ended; drop what remains.
    FINISH = "finish"


class Drain:
    """A server that stops.

    In all methods, ``now`` is the time in seconds of any monotonic clock. They return the steps to
    perform, in order.

    Args:
        seconds: The time in which connections leave.
        shared: Whether the server belongs to a population of several.

    Attributes:
        deadline: When all connections have left.
        step: The latest step; ``None`` before the first.
    """

    def __init__(self, seconds: float, *, shared: bool = False) -> None:
        self._seconds = max(seconds, 0.0)
        self._shared = shared
        self._until = 0.0
        self.deadline = 0.0
        self.step: DrainStep | None = None

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`progress` again; ``None`` before and after the steps."""
        return None if self.step in (None, DrainStep.FINISH) else self._until

    def begin(self, now: float) -> list[DrainStep]:
        """Start."""
        self.deadline = now + self._seconds
        if self._shared:
            return self._enter(DrainStep.ANNOUNCE, now + _ANNOUNCE_SECONDS)
        return self._stop_listening(now)

    def announced(self, now: float) -> list[DrainStep]:
        """Go on after the announcement."""
        return self._stop_listening(now) if self.step is DrainStep.ANNOUNCE else []

    def progress(self, now: float, *, handshakes: int, connections: int) -> list[DrainStep]:
        """Go on if nothing is left to wait for, or it takes too long.

        Args:
            now: The time.
            handshakes: Unfinished handshakes.
            connections: Connections and handshakes.
        """
        late = now >= self._until
        match self.step:
            case DrainStep.ANNOUNCE if late:
                return self._stop_listening(now)
            case DrainStep.STOP_LISTENING if late or not handshakes:
                self.deadline = max(self.deadline, now)
                return self._enter(DrainStep.SEND_AWAY, self.deadline + _LINGER)
            case DrainStep.SEND_AWAY if late or not connections:
                return self._withdraw(now)
            case DrainStep.WITHDRAW if late:
                return self._enter(DrainStep.FINISH, now)
        return []

    def hurry(self, now: float) -> list[DrainStep]:
        """Do not wait for connections any longer; they may be sent away a second time, at once."""
        if self.step in (DrainStep.WITHDRAW, DrainStep.FINISH):
            return []
        self.deadline = now
        steps: list[DrainStep] = []
        if self.step in (None, DrainStep.ANNOUNCE):
            steps.append(DrainStep.STOP_LISTENING)
        return [*steps, DrainStep.SEND_AWAY, *self._withdraw(now)]

    def withdrawn(self, now: float) -> list[DrainStep]:
        """Finish after the withdrawal."""
        if self.step is not DrainStep.WITHDRAW:
            return []
        return self._enter(DrainStep.FINISH, now)

    def _enter(self, step: DrainStep, until: float) -> list[DrainStep]:
        self.step, self._until = step, until
        return [step]

    def _stop_listening(self, now: float) -> list[DrainStep]:
        grace = min(_HANDSHAKE_SECONDS, _SHARE * self._seconds)
        return self._enter(DrainStep.STOP_LISTENING, now + grace)

    def _withdraw(self, now: float) -> list[DrainStep]:
        if not self._shared:
            return self._enter(DrainStep.FINISH, now)
        return self._enter(DrainStep.WITHDRAW, now + _WITHDRAW_SECONDS)

"""AUTH requests that wait for an answer from elsewhere, and later ones on the same connection.

Theory of operation: the first AUTH of a connection that cannot be judged at once asks a question,
and later ones on the connection wait for their turn, so that none overtakes another. Other requests
continue meanwhile, because they belong to existing sessions. Each waiting request counts as a
transaction of its sender, and has a deadline from its arrival. When a connection ends, its AUTH
requests are dropped; a question that was asked stays until its answer or deadline, so that the
check which asked it can finish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...server.shares import Bound, Claim, Party
from ...timers import TimerQueue

if TYPE_CHECKING:
    from ...auth.outcome import Denied, Question
    from ...auth.verifier import Proven
    from ..message.chunk import MsrpRequest
    from .tables import RelayConnection

__all__ = ["Login", "Logins"]


@dataclass(slots=True, eq=False)
class Login:
    """An AUTH that waits.

    Args:
        connection: The connection it arrived on.
        request: The request.
        claim: Its share, released when it no longer waits.
        deadline: When it has waited too long.
        number: The question's number; 0 without one.
        question: The question it waits for; ``None`` while it waits for its turn.
    """

    connection: RelayConnection
    request: MsrpRequest
    claim: Claim
    deadline: float
    number: int = 0
    question: Question[Proven | Denied] | None = None


class Logins:
    """The waiting AUTH requests of a relay.

    Args:
        claim: Claims the cost of a request from its sender's share.
        timeout: Seconds that a request may wait.
    """

    def __init__(self, claim: Callable[[Party], Claim | Bound], timeout: float) -> None:
        self._claim = claim
        self._timeout = timeout
        self._lanes: dict[RelayConnection, deque[Login]] = {}
        self._asked: dict[int, Login] = {}
        self._ready: deque[RelayConnection] = deque()
        self._timers: TimerQueue[int] = TimerQueue()
        self._last = 0

    def __len__(self) -> int:
        """Return how many requests wait."""
        return sum(map(len, self._lanes.values()))

    def is_waited_on(self, connection: RelayConnection) -> bool:
        """Return whether another AUTH of a connection has to wait for its turn."""
        return connection in self._lanes

    def enter(self, connection: RelayConnection, request: MsrpRequest, now: float) -> Login | Bound:
        """Let an AUTH wait for its turn.

        Args:
            connection: The connection it arrived on.
            request: The request.
            now: The time in seconds.

        Returns:
            The waiting request, queued after the others of its connection; or the exceeded limit.
        """
        claim = self._claim(connection.party)
        if isinstance(claim, Bound):
            return claim
        login = Login(connection, request, claim, now + self._timeout)
        self._lanes.setdefault(connection, deque()).append(login)
        return login

    def ask(self, login: Login, question: Question[Proven | Denied]) -> int:
        """Let the first AUTH of a connection wait for an answer.

        Args:
            login: The waiting request.
            question: The question.

        Returns:
            The number of the question.
        """
        self._last += 1
        login.number, login.question = self._last, question
        self._asked[self._last] = login
        self._timers.set(self._last, login.deadline)
        return self._last

    def answered(self, number: int) -> Login | None:
        """Remove and return the request that waits for an answer; ``None`` if it no longer waits.

        Args:
            number: The question's number.
        """
        login = self._asked.pop(number, None)
        if login is not None:
            self._timers.set(number, None)
            self._leave(login)
        return login

    def turn(self) -> Login | None:
        """Return the next AUTH whose turn it is, without removing it; ``None`` if there is none."""
        while self._ready:
            waiting = self._lanes.get(self._ready.popleft())
            if waiting and not waiting[0].number:
                return waiting[0]
        return None

    def leave(self, login: Login) -> None:
        """Remove an AUTH without a question."""
        self._leave(login)

    def drop(self, connection: RelayConnection) -> None:
        """Drop the waiting requests of a connection that has ended."""
        for login in self._lanes.pop(connection, ()):
            if not login.number:
                login.claim.release()

    def next_deadline(self) -> float | None:
        """Return when :meth:`due` returns something; ``None`` for never."""
        return self._timers.next()

    def due(self, now: float) -> list[int]:
        """Return the numbers of the expired questions; each has to be answered."""
        return self._timers.pop_due(now)

    def _leave(self, login: Login) -> None:
        login.claim.release()
        waiting = self._lanes.get(login.connection)
        if waiting is None:
            # Its connection has ended.
            return
        waiting.remove(login)
        if waiting:
            self._ready.append(login.connection)
        else:
            del self._lanes[login.connection]

"""Requests that wait for an external answer, and later requests that wait for their turn.

Theory of operation: a step that cannot decide at once asks a question, and its request is parked.
Later requests of its lane, which is the client's connection or a call of the upstream, wait for
their turn, so that none overtakes another. The first of a lane is the one with the question; when
it is gone, the next has its turn. ACK, CANCEL and responses do not wait: they belong to requests
that came before.

Waiting requests count towards the transactions and pending bytes of their sender, and have a
deadline, ``answer_timeout`` after they arrived, whichever question they wait for. A request that is
cancelled, or whose connection ends, is gone at once. Its question stays until its answer or
deadline, so that the check that asked it can finish: the answer may reveal a wrong password.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ...server.shares import Bound
from ...timers import TimerQueue
from ..rules.routing import Rejection

if TYPE_CHECKING:
    from ...auth.outcome import Question
    from ...server.shares import Claim, Party
    from ..message.message import SipRequest
    from ..rules.outbound import Flow
    from .transactions import Key

__all__ = ["OnItsWay", "Parked", "Parking"]


class OnItsWay(Protocol):
    """A request on its way, as needed here."""

    @property
    def request(self) -> SipRequest:
        """The request."""
        ...

    @property
    def origin(self) -> Flow | None:
        """The connection it came from; ``None`` for an upstream."""
        ...

    @property
    def came(self) -> float:
        """The time of its arrival."""
        ...


P = TypeVar("P", bound=OnItsWay)


@dataclass(slots=True, eq=False)
class Parked(Generic[P]):
    """A request that waits.

    Args:
        passage: The request.
        key: The name of its transaction.
        claims: The claims it holds, released when it no longer waits.
        deadline: The time until which it may wait.
        number: The number of its question; 0 for none.
        question: The question it waits for; ``None`` while it waits for its turn.
        abandoned: Whether the request is gone, and only the question is left.
    """

    passage: P
    key: Key
    claims: tuple[Claim, ...]
    deadline: float
    number: int = 0
    question: Question[Any] | None = None
    abandoned: bool = False

    @property
    def lane(self) -> Flow | str:
        """The sequence it belongs to: its connection or, from the upstream, its call."""
        return self.passage.origin or self.passage.request.call_id


class Parking(Generic[P]):
    """The waiting requests of an edge.

    Args:
        claim: Claims the cost of a request of some bytes from the share of its sender.
        timeout: Seconds that a request may wait.
    """

    def __init__(
        self, claim: Callable[[Party, int], tuple[Claim, ...] | Bound], timeout: float
    ) -> None:
        self._claim = claim
        self._timeout = timeout
        self._lanes: dict[Flow | str, deque[Parked[P]]] = {}
        self._by_key: dict[Key, Parked[P]] = {}
        self._asked: dict[int, Parked[P]] = {}
        #: The lanes whose first request has its turn.
        self._ready: deque[Flow | str] = deque()
        self._timers: TimerQueue[int] = TimerQueue()
        self._last = 0

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._by_key)

    @property
    def questions(self) -> int:
        """The number of unanswered questions."""
        return len(self._asked)

    def is_waited_on(self, lane: Flow | str) -> bool:
        """Return whether a request of a lane must wait for its turn."""
        return lane in self._lanes

    def repeated(self, key: Key) -> bool:
        """Return whether a request is already waiting."""
        return key in self._by_key

    def queue(self, passage: P, key: Key, party: Party) -> Rejection | None:
        """Let a request wait for its turn.

        Args:
            passage: A request of a lane with waiting requests.
            key: The name of its transaction, which is not waiting yet.
            party: The party whose share it counts towards.

        Returns:
            ``None``, or the refusal with 503 if too much waits.
        """
        parked = self._enter(passage, key, party)
        if isinstance(parked, Bound):
            detail = f"too many waiting requests (bound: {parked.value})"
            return Rejection(503, detail, (("Retry-After", "5"),))
        self._lanes[parked.lane].append(parked)
        return None

    def ask(
        self,
        passage: P,
        key: Key,
        party: Party,
        question: Question[Any],
        *,
        deadline: float | None = None,
    ) -> Parked[P] | Bound:
        """Let a request wait for an answer.

        Args:
            passage: The request, the first of its lane.
            key: The name of its transaction, which is not waiting yet.
            party: The party whose share it counts towards.
            question: The question it waits for.
            deadline: The time until which this question may wait, if shorter than the request's.

        Returns:
            The parked request, with the number of its question; or the bound that it met.
        """
        parked = self._enter(passage, key, party)
        if isinstance(parked, Parked):
            # If others wait, it was the first already.
            self._lanes.setdefault(parked.lane, deque()).appendleft(parked)
            self._last += 1
            parked.number, parked.question = self._last, question
            if deadline is not None:
                parked.deadline = min(parked.deadline, deadline)
            self._asked[parked.number] = parked
            self._timers.set(parked.number, parked.deadline)
        return parked

    def _enter(self, passage: P, key: Key, party: Party) -> Parked[P] | Bound:
        claims = self._claim(party, len(passage.request.to_bytes()))
        if isinstance(claims, Bound):
            return claims
        parked = Parked(passage, key, claims, self.deadline_of(passage))
        self._by_key[key] = parked
        return parked

    def deadline_of(self, passage: P) -> float:
        """Return the time until which a request may wait."""
        return passage.came + self._timeout

    def answered(self, number: int) -> Parked[P] | None:
        """Take the request that waits for an answer; ``None`` if none does (any more).

        Args:
            number: The number of the question.
        """
        parked = self._asked.pop(number, None)
        if parked is None:
            return None
        self._timers.set(number, None)
        if parked.abandoned:
            self._release(parked)
        else:
            self._leave(parked)
        return parked

    def turn(self) -> Parked[P] | None:
        """Take the next request whose turn it is, or ``None``."""
        while self._ready:
            waiting = self._lanes.get(self._ready.popleft())
            if waiting and not waiting[0].number:
                parked = waiting[0]
                self._leave(parked)
                return parked
        return None

    def cancel(self, key: Key) -> Parked[P] | None:
        """Cancel a waiting request.

        Args:
            key: The name of its transaction.

        Returns:
            The parked request; ``None`` if no such request waits.
        """
        parked = self._by_key.get(key)
        if parked is not None:
            self._abandon(parked)
        return parked

    def flow_lost(self, flow: Flow) -> None:
        """Give up waiting requests of a connection that has ended."""
        for parked in list(self._lanes.get(flow, ())):
            self._abandon(parked)

    def next_deadline(self) -> float | None:
        """Return when :meth:`due` will return something; ``None`` for never."""
        return self._timers.next()

    def due(self, now: float) -> list[Parked[P]]:
        """Take the requests that have waited too long."""
        numbers = self._timers.pop_due(now)
        return [parked for number in numbers if (parked := self.answered(number)) is not None]

    def _abandon(self, parked: Parked[P]) -> None:
        self._leave(parked, keep=bool(parked.number))
        parked.abandoned = True

    def _leave(self, parked: Parked[P], *, keep: bool = False) -> None:
        """Take a request out of its lane; the claims of a question that stays are kept."""
        lane = parked.lane
        waiting = self._lanes[lane]
        waiting.remove(parked)
        del self._by_key[parked.key]
        if not keep:
            self._release(parked)
        if waiting:
            self._ready.append(lane)
        else:
            del self._lanes[lane]

    @staticmethod
    def _release(parked: Parked[P]) -> None:
        for claim in parked.claims:
            claim.release()

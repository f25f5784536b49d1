"""Pending requests: server transactions, their branches, and how to find both (RFC 3261 §17).

Theory of operation: a transaction is one received request; a branch is one copy of it that was sent
on. Both know their flow, ``None`` being the upstream, and are only found by it together with the
contents of messages, so that no message can act on another connection's transaction. Their states
follow from :data:`TRANSACTION_STEPS` and :data:`BRANCH_STEPS`; steps that are not in a table change
nothing. Every timer of a transaction and its branches is a number on the caller's clock, and the
table knows the first timer of each transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from math import inf
from typing import Final

from ...server.shares import Claim
from ...timers import TimerQueue
from ..message.message import SipRequest, SipResponse
from ..rules.outbound import Flow
from .actions import SendToUpstream
from .callees import CalleeClaim
from .config import DATAGRAMS
from .forking import Target

__all__ = [
    "BRANCH_STEPS",
    "TRANSACTION_STEPS",
    "Branch",
    "Cancel",
    "Resend",
    "State",
    "Step",
    "Transaction",
    "TransactionTable",
    "key_of",
]

#: The name of a server transaction: the flow, and the parts of RFC 3261 §17.2.3.
Key = tuple[Flow | None, str, int | None, str, str, int, str]


class State(Enum):
    """The state of a transaction or a branch."""

    #: No response yet.
    CALLING = "calling"
    #: A provisional response was received or sent.
    PROCEEDING = "proceeding"
    #: A final response was received or sent.
    COMPLETED = "completed"
    #: A 2xx to an INVITE, of which there may be more (RFC 6026).
    ACCEPTED = "accepted"

    # For the tables below: Enum hashes names, in Python.
    __hash__ = object.__hash__


class Step(Enum):
    """The events that change a state: a response, or the lack of one."""

    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    #: A final response that is not a 2xx; for a branch also the end of its time or connection.
    FAILURE = "3xx to 6xx, or none"

    __hash__ = object.__hash__


#: A branch: the client transaction of RFC 3261 §17.1 and RFC 6026 §7.2. A 2xx counts even after a
#: failure, because the callee has answered: the caller must know that in order to end the call.
BRANCH_STEPS: Final[Mapping[tuple[State, Step], State]] = {
    (State.CALLING, Step.PROVISIONAL): State.PROCEEDING,
    (State.PROCEEDING, Step.PROVISIONAL): State.PROCEEDING,
    (State.CALLING, Step.SUCCESS): State.ACCEPTED,
    (State.PROCEEDING, Step.SUCCESS): State.ACCEPTED,
    (State.COMPLETED, Step.SUCCESS): State.ACCEPTED,
    (State.ACCEPTED, Step.SUCCESS): State.ACCEPTED,
    (State.CALLING, Step.FAILURE): State.COMPLETED,
    (State.PROCEEDING, Step.FAILURE): State.COMPLETED,
}
#: The response side: the server transaction of §17.2 and RFC 6026 §7.1, which starts as PROCEEDING.
#: It is dropped when its time has passed after a final response.
TRANSACTION_STEPS: Final[Mapping[tuple[State, Step], State]] = {
    (State.PROCEEDING, Step.PROVISIONAL): State.PROCEEDING,
    (State.PROCEEDING, Step.SUCCESS): State.ACCEPTED,
    (State.ACCEPTED, Step.SUCCESS): State.ACCEPTED,
    (State.PROCEEDING, Step.FAILURE): State.COMPLETED,
}


class Cancel(Enum):
    """Whether a branch is to be cancelled."""

    NO = 0
    #: As soon as there is a provisional response (RFC 3261 §9.1).
    WANTED = 1
    SENT = 2


@dataclass(slots=True)
class Resend:
    """A message that is retransmitted until it is answered: timers A, E and G.

    Args:
        action: The action that sends the message.
        at: The time of the next transmission.
        interval: Seconds between the last transmission and the next.
        longest: The maximum of the interval, which doubles each time.
    """

    action: SendToUpstream
    at: float
    interval: float
    longest: float = inf

    def again(self, now: float) -> SendToUpstream:
        """Count a transmission, and return the action that sends the message."""
        self.interval = min(2 * self.interval, self.longest)
        self.at = now + self.interval
        return self.action


@dataclass(slots=True, eq=False)
class Branch:
    """One copy of a request that was sent on.

    Args:
        id: The branch parameter of our Via on it.
        target: Its target.
        request: The request as sent, but without the body.
        transaction: The transaction it belongs to.
        deadline: When to stop waiting: timers B, C and F.
        breadth: Its part of the breadth of the transaction.
        link: The link to an upstream that it was sent on; ``None`` for a client's connection.
        upstream: The name of that upstream.
        sent: When it was first sent.
    """

    id: str
    target: Target
    request: SipRequest
    transaction: Transaction
    deadline: float
    breadth: int = 1
    link: int | None = None
    upstream: str = ""
    sent: float = -inf
    state: State = State.CALLING
    cancel: Cancel = Cancel.NO
    resend: Resend | None = None
    #: The number of responses that were sent on, and did not end it.
    responses: int = 0
    #: The same message as a datagram, if it was sent over TCP because of its size.
    datagram: SendToUpstream | None = None
    #: Whether another upstream was tried before the final response of this one.
    abandoned: bool = False

    def step(self, step: Step) -> bool:
        """Take a step in :data:`BRANCH_STEPS`.

        Returns:
            Whether the step exists; otherwise nothing has changed.
        """
        state = BRANCH_STEPS.get((self.state, step))
        if state is None:
            return False
        self.state = state
        return True

    @property
    def lossy(self) -> bool:
        """Whether it may be lost in transit."""
        return self.link == DATAGRAMS

    @property
    def flow(self) -> Flow | None:
        """Its destination: a connection, or the upstream."""
        return self.target.flow

    @property
    def done(self) -> bool:
        """Whether it has its final response, or will not get one."""
        return self.state in (State.COMPLETED, State.ACCEPTED)

    def next(self) -> float:
        """Return the time of its next action."""
        resend = inf if self.resend is None else self.resend.at
        return resend if self.done else min(self.deadline, resend)


@dataclass(slots=True, eq=False)
class Transaction:
    """A received request that waits for its response, or for what follows it.

    Args:
        key: Its name, from :func:`key_of`.
        request: The request as it goes on, except for the differences between branches.
        base: The base of its branch parameters.
        claims: Its claims, released when it is dropped.
        waiting: Claims until its final response.
        breadth: How many branches may be pending at the same time.
        groups: Targets still to be tried.
        link: The link to an upstream that it came on; ``None`` for a client's connection.
        upstream: The name of that upstream.
        expires: When its sender stops waiting: timers B and F.
    """

    key: Key
    request: SipRequest
    base: str
    claims: tuple[Claim, ...] = ()
    waiting: tuple[CalleeClaim, ...] = ()
    breadth: int = 1
    groups: list[list[Target]] = field(default_factory=list)
    link: int | None = None
    upstream: str = ""
    expires: float = inf
    serial: int = 0
    state: State = State.PROCEEDING
    branches: list[Branch] = field(default_factory=list)
    finals: list[SipResponse] = field(default_factory=list)
    cancelled: bool = False
    #: Whether an upstream could not be reached.
    unreached: bool = False
    #: Whether the request still has its body.
    whole: bool = True
    #: The names of the upstreams that it was sent to.
    tried: list[str] = field(default_factory=list)
    #: When it is dropped after its final response.
    deadline: float = inf
    #: The last response to the upstream, for retransmitted requests.
    last: SendToUpstream | None = None
    resend: Resend | None = None
    #: The time of its arrival.
    started: float = 0.0
    #: Whether it is a REGISTER for the address that its connection has registered before.
    refreshes: bool = False
    #: The number of ACKs that its sender may still send, one per 2xx.
    acks: int = 0

    def step(self, step: Step) -> bool:
        """Take a step in :data:`TRANSACTION_STEPS`.

        Returns:
            Whether the step exists; otherwise nothing has changed.
        """
        state = TRANSACTION_STEPS.get((self.state, step))
        if state is None:
            return False
        self.state = state
        return True

    @property
    def origin(self) -> Flow | None:
        """The origin of the request, which gets its responses: a connection or the upstream."""
        return self.key[0]

    @property
    def lossy(self) -> bool:
        """Whether its responses may be lost in transit."""
        return self.link == DATAGRAMS

    @property
    def is_invite(self) -> bool:
        """Whether it is an INVITE."""
        return self.key[-1] == "INVITE"

    @property
    def pending(self) -> list[Branch]:
        """The branches without a final response."""
        return [branch for branch in self.branches if not branch.done]

    def next(self) -> float:
        """Return the time of its next action."""
        resend = inf if self.resend is None else self.resend.at
        return min([self.deadline, resend, *[branch.next() for branch in self.branches]])


def key_of(request: SipRequest, origin: Flow | None) -> Key:
    """Return the name of a request's transaction; an ACK or CANCEL has the name of its INVITE.

    Args:
        request: A request whose topmost Via, Call-ID and CSeq can be parsed.
        origin: Where it came from.

    Raises:
        SipParseError: 400, if they cannot be parsed.
    """
    via = request.via
    method = "INVITE" if request.method in ("ACK", "CANCEL") else request.method
    # For requests older than RFC 3261, whose branches are not unique, Call-ID and number count.
    return (
        origin,
        via.host.lower(),
        via.port,
        via.branch or "",
        request.call_id,
        request.cseq.number,
        method,
    )


def _dialog_key(key: Key) -> tuple[Flow | None, str, int]:
    """Return what an INVITE shares with the ACKs to its 2xx: the flow, Call-ID and number."""
    return key[0], key[4], key[5]


class TransactionTable:
    """All transactions of an edge."""

    def __init__(self) -> None:
        self._by_serial: dict[int, Transaction] = {}
        self._by_key: dict[Key, Transaction] = {}
        self._by_branch: dict[str, Branch] = {}
        #: Transactions by the flow they came from, and those by the flows of their branches.
        self._origins: dict[Flow | None, dict[int, None]] = {}
        self._targets: dict[Flow | None, dict[int, None]] = {}
        self._timers: TimerQueue[int] = TimerQueue()
        #: INVITEs with a 2xx, by the part that they share with their ACKs.
        self._accepted: dict[tuple[Flow | None, str, int], Transaction] = {}
        self._last = 0

    def __len__(self) -> int:
        """Return the number of transactions."""
        return len(self._by_serial)

    def add(self, transaction: Transaction) -> None:
        """Add a transaction with a new key."""
        self._last += 1
        transaction.serial = self._last
        self._by_serial[self._last] = transaction
        self._by_key[transaction.key] = transaction
        self._origins.setdefault(transaction.origin, {})[self._last] = None

    def add_branch(self, branch: Branch) -> None:
        """Add a branch of a transaction in the table."""
        branch.transaction.branches.append(branch)
        self._by_branch[branch.id] = branch
        self._targets.setdefault(branch.flow, {})[branch.transaction.serial] = None

    def remove(self, transaction: Transaction) -> None:
        """Remove a transaction and its branches; unknown ones are ignored."""
        if self._by_serial.pop(transaction.serial, None) is None:
            return
        del self._by_key[transaction.key]
        for claim in transaction.claims:
            claim.release()
        for waiting in transaction.waiting:
            waiting.release()
        name = _dialog_key(transaction.key)
        if self._accepted.get(name) is transaction:
            del self._accepted[name]
        self._timers.set(transaction.serial, None)
        _discard(self._origins, transaction.origin, transaction.serial)
        for branch in transaction.branches:
            del self._by_branch[branch.id]
            _discard(self._targets, branch.flow, transaction.serial)

    def page(self, offset: int, limit: int) -> list[Transaction]:
        """Return some of the transactions, the oldest first."""
        return list(islice(self._by_serial.values(), offset, offset + limit))

    def find(self, key: Key) -> Transaction | None:
        """Return the transaction with that name."""
        return self._by_key.get(key)

    def branch(self, name: str, flow: Flow | None) -> Branch | None:
        """Return the branch with that name, if it was sent to that flow."""
        branch = self._by_branch.get(name)
        return branch if branch is not None and branch.flow == flow else None

    def expect_ack(self, transaction: Transaction) -> None:
        """Count a 2xx to an INVITE, to which its sender answers with one ACK."""
        transaction.acks += 1
        self._accepted[_dialog_key(transaction.key)] = transaction

    def take_ack(self, key: Key) -> bool:
        """Return whether an ACK answers a 2xx without a counted ACK, and count it.

        Args:
            key: The ACK's own key from :func:`key_of`: a new branch, otherwise equal to its
                INVITE's.
        """
        transaction = self._accepted.get(_dialog_key(key))
        if transaction is None or not transaction.acks:
            return False
        transaction.acks -= 1
        return True

    def came_from(self, flow: Flow | None) -> list[Transaction]:
        """Return the transactions that came from a flow."""
        return [self._by_serial[serial] for serial in self._origins.get(flow, ())]

    def went_to(self, flow: Flow | None) -> list[Transaction]:
        """Return the transactions that have a branch on a flow."""
        return [self._by_serial[serial] for serial in self._targets.get(flow, ())]

    def arm(self, transaction: Transaction) -> None:
        """Update the timer of a transaction in the table."""
        when = transaction.next()
        self._timers.set(transaction.serial, None if when == inf else when)

    def next_deadline(self) -> float | None:
        """Return when :meth:`due` will return something; ``None`` for never."""
        return self._timers.next()

    def due(self, now: float) -> list[Transaction]:
        """Return the transactions whose timers have passed; arm them again."""
        return [self._by_serial[serial] for serial in self._timers.pop_due(now)]


def _discard(index: dict[Flow | None, dict[int, None]], flow: Flow | None, serial: int) -> None:
    serials = index.get(flow)
    if serials is not None:
        serials.pop(serial, None)
        if not serials:
            del index[flow]

"""Requests under way: server transactions, their branches, and how to find both (RFC 3261 §17).

Theory of operation: a transaction is one request that came in; a branch is one copy of it that
went out. Both know the flow they belong to, ``None`` being the upstream, and are found by it alone
together with what their messages say, so that no message can speak for another connection's
transaction. Every timer of a transaction and its branches is a number on the caller's clock, and
the table knows of each transaction the first one due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf

from ..timers import TimerQueue
from .edge_config import DATAGRAMS
from .forking import Target
from .message import SipRequest, SipResponse
from .outbound import Flow

__all__ = ["Branch", "Cancel", "Resend", "State", "Transaction", "TransactionTable", "key_of"]

#: What names a server transaction: the flow, and the parts of RFC 3261 §17.2.3.
Key = tuple[Flow | None, str, int | None, str, str, int, str]


class State(Enum):
    """How far a transaction or a branch is."""

    #: No response yet.
    CALLING = 1
    #: A provisional response.
    PROCEEDING = 2
    #: A final response.
    COMPLETED = 3
    #: A 2xx to an INVITE, of which there may be more (RFC 6026).
    ACCEPTED = 4


class Cancel(Enum):
    """Whether a branch is to be given up."""

    NO = 0
    #: As soon as there is a provisional response (RFC 3261 §9.1).
    WANTED = 1
    SENT = 2


@dataclass(slots=True)
class Resend:
    """A message that goes out again until it is answered: timers A, E and G.

    Args:
        data: The message.
        at: When next.
        interval: Seconds to that from the last time.
        longest: What the interval grows to; it doubles each time.
    """

    data: bytes
    at: float
    interval: float
    longest: float = inf

    def again(self, now: float) -> bytes:
        """Count one; returns the message."""
        self.interval = min(2 * self.interval, self.longest)
        self.at = now + self.interval
        return self.data


@dataclass(slots=True, eq=False)
class Branch:
    """One copy of a request that was sent on.

    Args:
        id: The branch parameter of our Via on it.
        target: Where it went.
        request: As it was sent, but for the body.
        transaction: What it belongs to.
        deadline: When to stop waiting: timers B, C and F.
        link: Which link to the upstream it went on; ``None`` for a connection of a client.
    """

    id: str
    target: Target
    request: SipRequest
    transaction: Transaction
    deadline: float
    link: int | None = None
    state: State = State.CALLING
    cancel: Cancel = Cancel.NO
    resend: Resend | None = None
    #: The same as a datagram, where it was too large for one and went over TCP.
    datagram: bytes | None = None

    @property
    def lossy(self) -> bool:
        """Whether it may be lost on its way."""
        return self.link == DATAGRAMS

    @property
    def flow(self) -> Flow | None:
        """Where it went: a connection, or the upstream."""
        return self.target.flow

    @property
    def done(self) -> bool:
        """Whether it had its final response, or will have none."""
        return self.state in (State.COMPLETED, State.ACCEPTED)

    def next(self) -> float:
        """When something is to be done about it."""
        resend = inf if self.resend is None else self.resend.at
        return resend if self.done else min(self.deadline, resend)


@dataclass(slots=True, eq=False)
class Transaction:
    """A request that came in and waits for its response, or for what follows that.

    Args:
        key: Its name, from :func:`key_of`.
        request: As it goes on, but for what differs between branches.
        base: What the names of its branches are made of.
        size: Octets it counts for.
        groups: Targets still to be tried.
        link: Which link to the upstream it came on; ``None`` for a connection of a client.
    """

    key: Key
    request: SipRequest
    base: str
    size: int
    groups: list[list[Target]] = field(default_factory=list)
    link: int | None = None
    serial: int = 0
    state: State = State.PROCEEDING
    branches: list[Branch] = field(default_factory=list)
    finals: list[SipResponse] = field(default_factory=list)
    cancelled: bool = False
    #: When it is forgotten, once it had its final response.
    deadline: float = inf
    #: The last response, for a request that is sent again.
    last: bytes | None = None
    resend: Resend | None = None

    @property
    def origin(self) -> Flow | None:
        """Where the request came from, and all responses go: a connection, or the upstream."""
        return self.key[0]

    @property
    def lossy(self) -> bool:
        """Whether its responses may be lost on their way."""
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
        """When something is to be done about it."""
        resend = inf if self.resend is None else self.resend.at
        return min([self.deadline, resend, *[branch.next() for branch in self.branches]])


def key_of(request: SipRequest, origin: Flow | None) -> Key:
    """What names the transaction of a request; an ACK's or CANCEL's is its INVITE's.

    Args:
        request: With a topmost Via, Call-ID and CSeq that can be read.
        origin: Where it came from.

    Raises:
        SipParseError: 400, where they cannot.
    """
    via = request.via
    method = "INVITE" if request.method in ("ACK", "CANCEL") else request.method
    # Call-ID and number stand for requests from before RFC 3261, whose branches name nothing.
    return (
        origin,
        via.host.lower(),
        via.port,
        via.branch or "",
        request.call_id,
        request.cseq.number,
        method,
    )


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
        self._last = 0
        #: Octets of all requests in it, and of those that came from a flow.
        self.octets = 0
        self._octets_of: dict[Flow | None, int] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_serial)

    def count_of(self, origin: Flow | None) -> int:
        """How many came from a flow, or from the upstream."""
        return len(self._origins.get(origin, ()))

    def octets_of(self, origin: Flow | None) -> int:
        """Octets of the requests that came from a flow, or from the upstream."""
        return self._octets_of.get(origin, 0)

    def add(self, transaction: Transaction) -> None:
        """Take in a transaction whose key is not there yet."""
        self._last += 1
        transaction.serial = self._last
        self._by_serial[self._last] = transaction
        self._by_key[transaction.key] = transaction
        self._origins.setdefault(transaction.origin, {})[self._last] = None
        self._count(transaction, transaction.size)

    def add_branch(self, branch: Branch) -> None:
        """Take in a branch, of a transaction that is in the table."""
        branch.transaction.branches.append(branch)
        self._by_branch[branch.id] = branch
        self._targets.setdefault(branch.flow, {})[branch.transaction.serial] = None

    def remove(self, transaction: Transaction) -> None:
        """Forget a transaction and its branches; one that is not there is passed over."""
        if self._by_serial.pop(transaction.serial, None) is None:
            return
        del self._by_key[transaction.key]
        self._count(transaction, -transaction.size)
        self._timers.set(transaction.serial, None)
        _discard(self._origins, transaction.origin, transaction.serial)
        for branch in transaction.branches:
            del self._by_branch[branch.id]
            _discard(self._targets, branch.flow, transaction.serial)

    def _count(self, transaction: Transaction, octets: int) -> None:
        self.octets += octets
        origin = transaction.origin
        left = self._octets_of.pop(origin, 0) + octets
        if left:
            self._octets_of[origin] = left

    def find(self, key: Key) -> Transaction | None:
        """The transaction of that name."""
        return self._by_key.get(key)

    def branch(self, name: str, flow: Flow | None) -> Branch | None:
        """The branch of that name that went to that flow, and no other."""
        branch = self._by_branch.get(name)
        return branch if branch is not None and branch.flow == flow else None

    def came_from(self, flow: Flow | None) -> list[Transaction]:
        """The transactions that came from a flow."""
        return [self._by_serial[serial] for serial in self._origins.get(flow, ())]

    def went_to(self, flow: Flow | None) -> list[Transaction]:
        """The transactions that have a branch on a flow."""
        return [self._by_serial[serial] for serial in self._targets.get(flow, ())]

    def arm(self, transaction: Transaction) -> None:
        """Note when something is next to be done about a transaction that is in the table."""
        when = transaction.next()
        self._timers.set(transaction.serial, None if when == inf else when)

    def next_deadline(self) -> float | None:
        """When :meth:`due` has something; ``None`` for never."""
        return self._timers.next()

    def due(self, now: float) -> list[Transaction]:
        """The transactions about which something is to be done; arm them again."""
        return [self._by_serial[serial] for serial in self._timers.pop_due(now)]


def _discard(index: dict[Flow | None, dict[int, None]], flow: Flow | None, serial: int) -> None:
    serials = index.get(flow)
    if serials is not None:
        serials.pop(serial, None)
        if not serials:
            del index[flow]

"""What happens at an edge, for its operator: counters, and events for a log.

Theory of operation: the parts of an edge report requests, responses and registrations to its
:class:`EdgeJournal`. It counts them, and passes an event of each to its observer, if it has one.
Events hold the messages they are about and extract fields only when asked, so that events without a
listener cost almost nothing.

Calls are recognised by their messages: an INVITE that starts a dialog, its final response, and the
BYE that ends it. A call that an upstream leads back to another client passes twice, and counts
twice. The start of an answered call is kept until its end, for a bounded number of calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...server.histogram import Histogram
from ..message.errors import SipParseError
from ..message.uri import SipUri
from ..registrar.registrar import BindingChange, Change
from .calls import Calls, name_of

if TYPE_CHECKING:
    from ..message.message import SipMessage, SipRequest, SipResponse
    from ..rules.outbound import Flow
    from .transactions import Transaction

__all__ = [
    "METHODS",
    "CallAnswered",
    "CallEnded",
    "CallFailed",
    "CallStarted",
    "EdgeEvent",
    "EdgeJournal",
    "Refused",
    "Registered",
    "Relayed",
    "Unregistered",
    "party_of",
]

#: Methods with counters of their own; a sender may invent any other.
METHODS: Final = frozenset(
    [
        *("ACK", "BYE", "CANCEL", "INFO", "INVITE", "MESSAGE", "NOTIFY", "OPTIONS", "PRACK"),
        *("PUBLISH", "REFER", "REGISTER", "SUBSCRIBE", "UPDATE"),
    ]
)
#: The name for all other methods.
_OTHER: Final = "other"

#: Buckets for the seconds of call set-up and of calls, and for bytes of messages.
SETUP_BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0)
CALL_BOUNDS: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)


def party_of(message: SipMessage, field: str) -> str:
    """Return user and host of a From or To, for a log.

    Args:
        message: The message.
        field: ``from`` or ``to``.
    """
    try:
        uri = (message.from_ if field == "from" else message.to).uri
    except SipParseError:
        return ""
    if not isinstance(uri, SipUri):
        return str(uri).partition(";")[0]
    # Without password and parameters.
    return uri.host if uri.user is None else f"{uri.username}@{uri.host}"


@dataclass(frozen=True, slots=True)
class Registered:
    """A client was registered, or its registration was refreshed.

    Args:
        aor: The address.
        contact: Its Contact.
        cid: The connection; ``None`` if it came on none.
        expires: Seconds until it must be refreshed; ``None`` if only an upstream knows.
        refreshed: Whether it existed before.
    """

    aor: str
    contact: str
    cid: int | None
    expires: float | None
    refreshed: bool


@dataclass(frozen=True, slots=True)
class Unregistered:
    """A client's registration has ended.

    Args:
        aor: The address.
        contact: Its Contact.
        cid: The connection it came on.
        cause: ``request``, ``expired``, ``connection`` (its end) or ``administrator``.
    """

    aor: str
    contact: str
    cid: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused here, or a REGISTER by the upstream.

    Args:
        status: The status of the response.
        detail: Why.
        cid: The client's connection; ``None`` for the upstream.
        request: The request; ``None`` if it could not be parsed.
    """

    status: int
    detail: str
    cid: int | None
    request: SipRequest | None


@dataclass(frozen=True, slots=True)
class _OfTransaction:
    """An event of a request that was sent on.

    Args:
        request: The request.
        cid: The connection it came on; ``None`` for the upstream.
        seconds: How long it took; for an ended call its duration, ``None`` if unknown.
        status: The final status; ``None`` without one, or before one.
        targets: The number of branches.
    """

    request: SipRequest
    cid: int | None
    seconds: float | None = None
    status: int | None = None
    targets: int = 0


@dataclass(frozen=True, slots=True)
class CallStarted(_OfTransaction):
    """A call is being set up."""


@dataclass(frozen=True, slots=True)
class CallAnswered(_OfTransaction):
    """A call was answered."""


@dataclass(frozen=True, slots=True)
class CallFailed(_OfTransaction):
    """A call was not answered: it was refused, cancelled, or timed out."""


@dataclass(frozen=True, slots=True)
class CallEnded(_OfTransaction):
    """A call was hung up; the request is the BYE."""


@dataclass(frozen=True, slots=True)
class Relayed(_OfTransaction):
    """Another request received its final response, or timed out."""


EdgeEvent = (
    Registered
    | Unregistered
    | Refused
    | CallStarted
    | CallAnswered
    | CallFailed
    | CallEnded
    | Relayed
)
"""The events for an observer."""


class EdgeJournal:
    """Count what happens, and report it to an observer.

    Attributes:
        observer: Called with each event; it must not raise, nor call the edge. ``None`` for none.
        requests: Received requests, by ``client`` or ``upstream`` and method.
        responses: Received responses, by ``client`` or ``upstream`` and first digit of the status.
        finals: Final responses to requests that were sent on, by method and first digit of the
            status; 0 for unanswered requests.
        refused: Requests refused here, by status.
        registered: Clients registered by an upstream.
        branches: Copies of requests that were sent.
        forks: Requests of which more than one copy was sent.
        calls: Calls by ``started``, ``answered``, ``failed`` and ``ended``.
        setup_seconds: Times from INVITE to answer.
        call_seconds: Times from answer to BYE.
        answered: The answered calls that are not known to have ended.
    """

    def __init__(self) -> None:
        self.observer: Callable[[EdgeEvent], object] | None = None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.responses: Counter[tuple[str, int]] = Counter()
        self.finals: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[int] = Counter()
        self.registered = 0
        self.branches = 0
        self.forks = 0
        self.calls: Counter[str] = Counter()
        self.setup_seconds = Histogram(SETUP_BOUNDS)
        self.call_seconds = Histogram(CALL_BOUNDS)
        self.answered = Calls()

    # -- messages ----------------------------------------------------------------------------------

    def request_came(self, method: str, cid: int | None) -> None:
        """Count a request.

        Args:
            method: Its method.
            cid: The connection it came on; ``None`` for the upstream.
        """
        origin = "upstream" if cid is None else "client"
        self.requests[origin, method if method in METHODS else _OTHER] += 1

    def response_came(self, status: int, cid: int | None) -> None:
        """Count a response; see :meth:`request_came`."""
        self.responses["upstream" if cid is None else "client", status // 100] += 1

    def refuse(self, request: SipRequest | None, status: int, detail: str, cid: int | None) -> None:
        """Record that a request was refused.

        Args:
            request: The request; ``None`` if it could not be parsed.
            status: The status of the response.
            detail: The reason.
            cid: The connection it came on; ``None`` for the upstream.
        """
        self.refused[status] += 1
        if self.observer is not None:
            self.observer(Refused(status, detail, cid, request))

    # -- registrations -----------------------------------------------------------------------------

    def binding_changed(self, change: BindingChange, now: float) -> None:
        """Report a change of a binding in our own registrar."""
        if self.observer is None:
            return
        binding = change.binding
        cid = None if binding.flow is None else binding.flow.cid
        contact = str(binding.contact.uri)
        if change.change is Change.REMOVED:
            self.observer(Unregistered(change.aor, contact, cid, change.cause.value))
        else:
            refreshed = change.change is Change.REFRESHED
            expires = change.expires
            self.observer(Registered(change.aor, contact, cid, expires, refreshed))

    # -- transactions ------------------------------------------------------------------------------

    def started(self, transaction: Transaction, now: float) -> None:
        """Record that a request is sent on.

        Args:
            transaction: Its transaction.
            now: The time.
        """
        transaction.started = now
        if transaction.is_invite and transaction.request.to.tag is None:
            self.calls["started"] += 1
            if self.observer is not None:
                self.observer(CallStarted(transaction.request, _cid(transaction)))

    def finished(
        self,
        transaction: Transaction,
        response: SipResponse | None,
        now: float,
        flow: Flow | None = None,
    ) -> None:
        """Record the first final response to a request that was sent on.

        Args:
            transaction: Its transaction.
            response: The response; ``None`` without one.
            now: The time.
            flow: The connection it came on; ``None`` for an upstream, or one of our own.
        """
        method = transaction.key[-1]
        targets = len(transaction.branches)
        self.branches += targets
        self.forks += targets > 1
        status = None if response is None else response.status
        name = method if method in METHODS else _OTHER
        self.finals[name, 0 if status is None else status // 100] += 1
        request, seconds = transaction.request, max(now - transaction.started, 0.0)
        kind: type[CallAnswered | CallFailed | CallEnded | Relayed] = Relayed
        length: float | None = seconds
        if method == "INVITE" and request.to.tag is None:
            if response is not None and response.status < 300:
                kind = CallAnswered
                self.calls["answered"] += 1
                self.setup_seconds.add(seconds)
                name_of_call = name_of(response)
                if name_of_call is not None:
                    self.answered.begin(name_of_call, (transaction.origin, flow), now)
            else:
                kind = CallFailed
                self.calls["failed"] += 1
        elif method == "BYE" and (status is None or status < 300 or status in (408, 481)):
            # These end the dialog, too (RFC 3261 §15.1.1).
            kind = CallEnded
            self.calls["ended"] += 1
            length = self._end(request, now)
        elif method == "REGISTER" and status is not None:
            self._registered(transaction, status)
            return
        if self.observer is not None:
            self.observer(kind(request, _cid(transaction), length, status, targets))

    def _registered(self, transaction: Transaction, status: int) -> None:
        """Report the upstream's answer to a REGISTER."""
        request, cid = transaction.request, _cid(transaction)
        if status >= 300 and status not in (401, 407):
            if self.observer is not None:
                self.observer(Refused(status, "by the upstream", cid, request))
            return
        if status >= 300:
            return
        self.registered += 1
        if self.observer is None:
            return
        aor, contact, expires = party_of(request, "to"), request.get("contact") or "", None
        gone = contact == "*" or (request.get("expires") or "").strip() == "0"
        if gone or contact.replace(" ", "").endswith(";expires=0"):
            self.observer(Unregistered(aor, contact, cid, "request"))
        else:
            self.observer(Registered(aor, contact, cid, expires, transaction.refreshes))

    def _end(self, request: SipRequest, now: float) -> float | None:
        """Return the duration of the call that a BYE has ended, if known."""
        name = name_of(request)
        length = None if name is None else self.answered.end(name, now)
        if length is not None:
            self.call_seconds.add(length)
        return length


def _cid(transaction: Transaction) -> int | None:
    origin = transaction.origin
    return None if origin is None else origin.cid

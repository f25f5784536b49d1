"""What a policy is asked, what it answers, and the chain that runs policies in order.

Theory of operation: a policy is any callable from a :class:`RequestContext` to a
:data:`Decision`. It lets the request pass on (and may contribute header fields, an identity, a
sub-protocol or a corrected context), refuses it, or says that the answer has to be fetched first.
:class:`PolicyChain` asks one after the other: the first refusal ends it, a deferred answer parks
it, and when all have passed it accepts with everything they contributed. A single policy can
therefore never let a request in past the ones behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..events import AcceptConnection, Event, RejectConnection, RejectData, Request
from ..negotiation import RESERVED, WEBSOCKET_VERSION
from ..utilities import check_header_fields

if TYPE_CHECKING:
    from ..extensions import Extension
    from ..typing import Headers

__all__ = [
    "LATER",
    "Accept",
    "Continue",
    "Decision",
    "Deferred",
    "Identity",
    "Later",
    "Outcome",
    "Pending",
    "Policy",
    "PolicyChain",
    "Reject",
    "RequestContext",
    "Respond",
    "header_values",
    "refuse",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection was opened for.

    It stays with the connection; SIP and MSRP compare the addresses they are shown with it.

    Args:
        name: The user, account or subject.
        method: How it was proven: ``"basic"``, ``"digest"``, ``"token"`` or a name of the caller's.
        attributes: Anything else the caller wants to find again at the connection. Not part of
            the hash.
    """

    name: str
    method: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request, and what is known about where it came from.

    Args:
        request: The opening handshake.
        now: The time, in seconds of any monotonic clock.
        peer_address: The client's address as text; empty where the transport has none.
        peer_port: The client's port.
        secure: Whether the client's side of the connection is TLS.
        local_port: The port the connection was accepted on.
        method: The HTTP method: ``GET``, or ``CONNECT`` over HTTP/2 and 3; ``HEAD`` too of plain
            requests.
        upgrade: Whether it asks for a WebSocket at all. A plain request, which a browser sends for
            a page, passes through the policies too; where none answers it, it gets 426.
        enabled: Whether new connections are wanted at all (``ws.disable``, draining).
        identity: Who the client is, where an earlier policy found out.
        subprotocol: The sub-protocol to answer with, where an earlier policy has chosen one.
        connections: How many connections there are.
        connections_by_address: How many of them each client address has.
    """

    request: Request
    now: float = 0.0
    peer_address: str = ""
    peer_port: int | None = None
    secure: bool = False
    local_port: int | None = None
    method: str = "GET"
    upgrade: bool = True
    enabled: bool = True
    identity: Identity | None = None
    subprotocol: str | None = None
    connections: int = 0
    connections_by_address: Mapping[str, int] = field(default_factory=dict)


def header_values(request: Request, name: bytes) -> list[bytes]:
    """The values of all header fields called ``name`` (lower case), in the order received."""
    return [value for field_name, value in request.extra_headers if field_name == name]


@dataclass(frozen=True, slots=True)
class Continue:
    """This policy has nothing against the request.

    Args:
        headers: Header fields to add to the response that accepts.
        identity: Who the client is, where this policy found out. It replaces an earlier one.
        subprotocol: The sub-protocol to answer with. It replaces an earlier one.
        context: What the following policies shall see instead of the context this one saw.

    Raises:
        LocalProtocolError: A header field cannot be sent, or is the handshake's own to set.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()
    identity: Identity | None = None
    subprotocol: str | None = None
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        check_header_fields(self.headers, RESERVED)


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is refused.

    Args:
        status: The HTTP status code, 300 to 599.
        reason: Why, for the log; it is not sent.
        headers: Header fields of the response.
        body: The response's body.

    Raises:
        ValueError: The status is out of range.
        LocalProtocolError: A header field cannot be sent.
    """

    status: int
    reason: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""

    #: The first status that is one.
    LEAST: ClassVar[int] = 300

    def __post_init__(self) -> None:
        if not self.LEAST <= self.status <= 599:
            raise ValueError(f"not a status from {self.LEAST} to 599: {self.status!r}")
        check_header_fields(self.headers)

    def events(self) -> list[Event]:
        """What to send: the rejection, and its body if it has one.

        Returns:
            A :class:`~wsproto_sip.events.RejectConnection`, followed by a
            :class:`~wsproto_sip.events.RejectData` where there is a body; then a Content-Length
            is given too (RFC 9110 §8.6).
        """
        headers: Headers = list(self.headers)
        if not self.body:
            return [RejectConnection(status_code=self.status, headers=headers)]
        headers = [item for item in headers if item[0].lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(self.body)))
        rejection = RejectConnection(status_code=self.status, headers=headers, has_body=True)
        return [rejection, RejectData(data=self.body)]


@dataclass(frozen=True, slots=True)
class Respond(Reject):
    """A plain request is answered: a :class:`Reject` that may be none at all, such as 200.

    A request for a WebSocket should not get one with a status below 300: over HTTP/2 and 3 that
    would accept it, and is not sent.

    Args:
        status: The HTTP status code, 200 to 599.
        reason: As for :class:`Reject`; so are the others.
    """

    LEAST: ClassVar[int] = 200


@dataclass(frozen=True, slots=True)
class Deferred:
    """The answer takes something this layer cannot do, such as asking a database.

    Args:
        question: What has to be found out; its form is the policy's.
        conclude: Makes the decision out of what was found out. What it takes is the policy's too.
    """

    question: object
    conclude: Callable[[object], Decision]


Decision = Continue | Reject | Deferred
"""What one policy answers."""


class Later(Enum):
    """The type of :data:`LATER`."""

    LATER = "later"


# RFC 9110 §15.5.22, §7.8: to what, and named in Connection too.
_UPGRADE = (
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Version", WEBSOCKET_VERSION),
)

LATER = Later.LATER
"""What a caller's hook returns when it cannot answer at once; the policy then defers."""


@dataclass(frozen=True, slots=True)
class Accept:
    """All policies have let the request pass.

    Args:
        context: The context as the last policy left it, so with the effective client address.
        subprotocol: The sub-protocol to answer with.
        headers: Header fields to add to the response.
        identity: Who the client is, where a policy found out.
    """

    context: RequestContext
    subprotocol: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    identity: Identity | None = None

    def event(self, extensions: Iterable[Extension] = ()) -> AcceptConnection:
        """The event that accepts the request.

        Args:
            extensions: The extensions the server supports.
        """
        return AcceptConnection(
            subprotocol=self.subprotocol,
            extensions=list(extensions),
            extra_headers=list(self.headers),
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """A chain that waits for the answer to a question; :meth:`PolicyChain.resume` takes it up.

    Args:
        deferred: The question, and what to do with its answer.
        position: Which policy asked, counted from 0.
        so_far: What the policies before it contributed.
    """

    deferred: Deferred
    position: int
    so_far: Accept

    @property
    def question(self) -> object:
        """What has to be found out."""
        return self.deferred.question


Outcome = Accept | Reject | Pending
"""What a chain answers."""


class Policy(Protocol):
    """A check of a request: any callable with this signature, a plain function too."""

    def __call__(self, context: RequestContext, /) -> Decision:
        """Let the request pass, refuse it, or ask for more time."""
        ...


class PolicyChain:
    """Policies, asked in order.

    Exceptions that a caller's own hook raises pass through; whoever runs the chain answers them
    with 500.

    Args:
        policies: The policies; the cheap ones first, those that cost the most last.
    """

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self.policies = tuple(policies)

    def decide(self, context: RequestContext) -> Outcome:
        """Ask every policy, until one refuses or defers.

        Args:
            context: The request and where it came from.

        Returns:
            :class:`Accept`, :class:`Reject`, or :class:`Pending` when a policy deferred.
        """
        return self._run(0, Accept(context))

    def resume(self, pending: Pending, result: object, now: float | None = None) -> Outcome:
        """Go on with the answer to a deferred question.

        Args:
            pending: What :meth:`decide` or an earlier call of this method returned.
            result: The answer, in the form the policy that asked takes.
            now: The time at which the policies behind it are asked; the earlier one if not given.

        Returns:
            As :meth:`decide`.
        """
        decision = pending.deferred.conclude(result)
        so_far = pending.so_far
        if now is not None:
            so_far = replace(so_far, context=replace(so_far.context, now=now))
        settled = self._apply(decision, pending.position, so_far)
        if isinstance(settled, Accept):
            return self._run(pending.position + 1, settled)
        return settled

    def _run(self, position: int, so_far: Accept) -> Outcome:
        for index in range(position, len(self.policies)):
            settled = self._apply(self.policies[index](so_far.context), index, so_far)
            if not isinstance(settled, Accept):
                return settled
            so_far = settled
        if not so_far.context.upgrade:
            return Reject(426, "no upgrade is asked for", _UPGRADE)
        return so_far

    @staticmethod
    def _apply(decision: Decision, position: int, so_far: Accept) -> Outcome:
        if isinstance(decision, Reject):
            return decision
        if isinstance(decision, Deferred):
            return Pending(decision, position, so_far)
        context = decision.context or so_far.context
        if decision.identity is not None:
            context = replace(context, identity=decision.identity)
        if decision.subprotocol:
            context = replace(context, subprotocol=decision.subprotocol)
        return Accept(
            context=context,
            subprotocol=decision.subprotocol or so_far.subprotocol,
            headers=so_far.headers + tuple(decision.headers),
            identity=decision.identity or so_far.identity,
        )


def refuse(status: int, reason: str, *headers: tuple[bytes, bytes]) -> Reject:
    """A refusal without a body: what nearly every policy answers with."""
    return Reject(status, reason, headers)

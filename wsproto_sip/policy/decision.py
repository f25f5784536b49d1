"""The input and the output of a policy, and the chain that runs policies in order.

Theory of operation: a policy is any callable from a :class:`RequestContext` to a :data:`Decision`.
It lets the request continue (and may contribute header fields, an identity, a sub-protocol or a
corrected context), rejects it, or defers the decision until a question is answered.
:class:`PolicyChain` asks one policy after the other: the first rejection ends it, a deferred answer
suspends it, and when all have passed, it accepts with everything they contributed. So a single
policy can never admit a request past the policies that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ..auth.identity import Identity
from ..events import AcceptConnection, Event, RejectConnection, RejectData, Request
from ..negotiation import RESERVED, WEBSOCKET_VERSION
from ..utilities import check_header_fields

if TYPE_CHECKING:
    from ..extensions import Extension
    from ..typing import Headers

__all__ = [
    "NO_UPGRADE",
    "Accept",
    "Continue",
    "Decision",
    "Deferred",
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
class RequestContext:
    """A request, and what is known about its origin.

    Args:
        request: The opening handshake.
        now: The time, in seconds of any monotonic clock.
        peer_address: The client's address as text; ``unix-`` and a number for the user of a Unix
            socket; empty if the transport has none.
        peer_port: The client's port.
        secure: Whether the client's side of the connection is TLS.
        local_port: The port the connection was accepted on.
        method: The HTTP method: ``GET``, or ``CONNECT`` over HTTP/2 and HTTP/3; plain requests may
            also have ``HEAD``.
        upgrade: Whether the request asks for a WebSocket. A plain request, which a browser sends
            for a page, passes through the policies too; unless one answers it, it gets 426.
        enabled: Whether new connections are accepted at all (``ws.disable``, draining).
        identity: The client's identity, if an earlier policy has found it.
        subprotocol: The sub-protocol to answer with, if an earlier policy has chosen one.
        connections: The number of connections.
        connections_by_address: The number of connections of each client address; those of IPv6
            count by their /64.
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
    """Return the values of all header fields with a name (in lower case), in the order received."""
    return [value for field_name, value in request.extra_headers if field_name == name]


@dataclass(frozen=True, slots=True)
class Continue:
    """The policy does not object to the request.

    Args:
        headers: Header fields to add to the accepting response.
        identity: The client's identity, if this policy has found it. It replaces an earlier one.
        subprotocol: The sub-protocol to answer with. It replaces an earlier one.
        context: The context for the following policies, if it differs from the one this policy saw.

    Raises:
        LocalProtocolError: A header field cannot be sent, or is set by the handshake.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()
    identity: Identity | None = None
    subprotocol: str | None = None
    context: RequestContext | None = None

    def __post_init__(self) -> None:
        check_header_fields(self.headers, RESERVED)


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is rejected.

    Args:
        status: The HTTP status code, 300 to 599.
        reason: The reason, for the log; it is not sent.
        headers: Header fields of the response.
        body: The response's body.
        context: The context that the rejecting policy saw, with the effective client address; set
            by the chain.

    Raises:
        ValueError: The status is out of range.
        LocalProtocolError: A header field cannot be sent.
    """

    status: int
    reason: str = ""
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    context: RequestContext | None = field(default=None, compare=False, repr=False)

    #: The lowest valid status.
    LEAST: ClassVar[int] = 300

    def __post_init__(self) -> None:
        if not self.LEAST <= self.status <= 599:
            raise ValueError(f"not a status from {self.LEAST} to 599: {self.status!r}")
        check_header_fields(self.headers)

    def events(self) -> list[Event]:
        """Return the events to send: the rejection, and its body if it has one.

        Returns:
            A :class:`~wsproto_sip.events.RejectConnection`, followed by a
            :class:`~wsproto_sip.events.RejectData` if there is a body, in which case there is a
            Content-Length too (RFC 9110 §8.6).
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
    """A plain request is answered: a :class:`Reject` that may have a successful status.

    Do not answer a request for a WebSocket with a status below 300: over HTTP/2 and HTTP/3 that
    would accept it, so it is not sent.

    Args:
        status: The HTTP status code, 200 to 599.
        reason: See :class:`Reject`, as for the other arguments.
        routine: Whether the same is asked for again and again, by a load balancer for example, so
            that a log need not tell each time.
    """

    routine: bool = False

    LEAST: ClassVar[int] = 200


@dataclass(frozen=True, slots=True)
class Deferred:
    """The decision needs something this layer cannot do, such as asking a database.

    Args:
        question: What to find out, in a form defined by the policy.
        conclude: Makes the decision from the answer, whose form is defined by the policy too.
    """

    question: object
    conclude: Callable[[object], Decision]


Decision = Continue | Reject | Deferred
"""The answer of one policy."""


#: The answer to a plain request that no policy answers. RFC 9110 §15.5.22, §7.8: it has to name the
#: protocol to upgrade to, and name Upgrade in Connection.
NO_UPGRADE: Final = Reject(
    426,
    "the request does not ask for an upgrade",
    (
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", WEBSOCKET_VERSION),
    ),
)


@dataclass(frozen=True, slots=True)
class Accept:
    """All policies have admitted the request.

    Args:
        context: The context that the last policy left, with the effective client address.
        subprotocol: The sub-protocol to answer with.
        headers: Header fields to add to the response.
        identity: The client's identity, if a policy has found it.
    """

    context: RequestContext
    subprotocol: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    identity: Identity | None = None

    def event(self, extensions: Iterable[Extension] = ()) -> AcceptConnection:
        """Return the event that accepts the request.

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
    """A chain that waits for the answer to a question; :meth:`PolicyChain.resume` continues it.

    Args:
        deferred: The question, and how to conclude from its answer.
        position: The index of the policy that asked.
        so_far: The contributions of the policies before it.
    """

    deferred: Deferred
    position: int
    so_far: Accept

    @property
    def question(self) -> object:
        """What to find out."""
        return self.deferred.question


Outcome = Accept | Reject | Pending
"""The answer of a chain."""


class Policy(Protocol):
    """A check of a request: any callable with this signature, including a plain function."""

    def __call__(self, context: RequestContext, /) -> Decision:
        """Let the request continue, reject it, or defer the decision."""
        ...


class PolicyChain:
    """Policies that are asked in order.

    Exceptions raised by the caller's hooks are passed through; the code that runs the chain answers
    them with 500.

    Args:
        policies: The policies; put cheap ones first and expensive ones last.

    Raises:
        TypeError: ``policies`` is not an iterable of callables.
    """

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        if not isinstance(policies, Iterable):
            raise TypeError(f"policies must be several: [{policies!r:.100}]")
        self.policies = tuple(policies)
        for policy in self.policies:
            if not callable(policy):
                raise TypeError(f"a policy must be callable: {policy!r:.100}")

    def decide(self, context: RequestContext) -> Outcome:
        """Ask each policy, until one rejects or defers.

        Args:
            context: The request and its origin.

        Returns:
            :class:`Accept`, :class:`Reject`, or :class:`Pending` if a policy deferred.
        """
        return self._run(0, Accept(context))

    def resume(self, pending: Pending, result: object, now: float | None = None) -> Outcome:
        """Continue with the answer to a deferred question.

        Args:
            pending: The result of :meth:`decide` or of an earlier call of this method.
            result: The answer, in the form that the deferring policy expects.
            now: The time for the following policies; by default that of the request.

        Returns:
            The same as :meth:`decide`.
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
            return replace(NO_UPGRADE, context=so_far.context)
        return so_far

    @staticmethod
    def _apply(decision: Decision, position: int, so_far: Accept) -> Outcome:
        if isinstance(decision, Reject):
            return replace(decision, context=so_far.context)
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
    """Return a rejection without a body, as most policies use it."""
    return Reject(status, reason, headers)

"""Admission: limits on transports, and the policies' decisions on handshakes.

Theory of operation. A transport is accepted if there is room for it. Once its request is complete,
the policies are asked; their answer is sent on the session, or the connection waits in
``Entry.pending`` for an answer from outside, with which ``decide`` continues. While the endpoint is
disabled or draining, every answer is 503 without looking at the request, unless there are health
checks, which are always answered.

Policies are the caller's code. An exception affects only the connection that the policy was asked
about. Policies may also call the endpoint, so the session is checked again after each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..events import PlainRequest, RejectConnection, Request
from ..policy.decision import Accept, Outcome, Pending, Reject, RequestContext, Respond
from ..states import ConnectionState, ConnectionType
from .events import Answer, CapacityError
from .registry import Entry, Others, Registry

if TYPE_CHECKING:
    from .config import EndpointConfig
    from .statistics import Statistics

__all__ = ["Admission", "Verdict"]

#: Why every handshake is refused.
_CLOSED_FOR_NOW: Final = "no new connections are wanted"

Verdict = Accept | Pending | None
"""The result of a handshake: accepted, waiting for an answer, or refused (or gone meanwhile)."""


class Admission:
    """Decides which transports and handshakes one endpoint accepts.

    Args:
        registry: The connection table.
        statistics: The counters, including one for refused handshakes.

    Attributes:
        enabled: Whether new handshakes are accepted (``ws.enable``, ``ws.disable``).
        draining: Whether the endpoint is draining, and accepts no further handshakes.
    """

    __slots__ = ("_registry", "_statistics", "draining", "enabled")

    def __init__(self, registry: Registry, statistics: Statistics) -> None:
        self._registry = registry
        self._statistics = statistics
        self.enabled = True
        self.draining = False

    @property
    def is_open(self) -> bool:
        """Whether handshakes are accepted at all."""
        return self.enabled and not self.draining

    def check_accept(self, address: str, config: EndpointConfig) -> Entry | None:
        """Check that there is room for a transport opened by a client.

        Args:
            address: The client's address.
            config: The limits.

        Returns:
            The connection to drop first, in an unfinished handshake: addresses with many of these
            make room for those with fewer. ``None`` if there is room.

        Raises:
            CapacityError: No room is left.
        """
        registry = self._registry
        for name, count, bound in (
            ("connections", len(registry), config.max_connections),
            ("connections from it", registry.count_of(address), config.max_per_address),
            (
                "handshakes from it",
                registry.handshaking_of(address),
                config.max_handshaking_per_address,
            ),
        ):
            if bound is not None and count >= bound:
                raise CapacityError(f"{address} refused: {count} {name}")
        if config.max_handshaking is None or registry.handshaking < config.max_handshaking:
            return None
        longest = registry.longest_handshake(address)
        if longest is None:
            raise CapacityError(f"{address} refused: {registry.handshaking} handshakes")
        return longest

    def check_connect(self, authority: str, config: EndpointConfig) -> None:
        """Check that there is room for a connection that we open.

        Args:
            authority: The host and port to connect to.
            config: The limits.

        Raises:
            CapacityError: No room is left, or the endpoint is draining.
        """
        bound = config.max_connections
        if self.draining or (bound is not None and len(self._registry) >= bound):
            raise CapacityError(f"no room for a connection to {authority}")

    def turn_away(self, entry: Entry, config: EndpointConfig, now: float) -> None:
        """Answer a client with 503 without looking at its request.

        Args:
            entry: The connection; it is left alone unless it waits for an answer and a client
                opened it.
            config: The endpoint's configuration; with health checks, the request is looked at.
            now: The current time.
        """
        session = entry.session
        if config.health is not None:
            return
        if session.role is ConnectionType.SERVER and session.state is ConnectionState.CONNECTING:
            entry.pending = None
            session.send(RejectConnection(status_code=503), now)
            self._note_answer(entry, 503, _CLOSED_FOR_NOW, None)

    def ask(
        self, entry: Entry, event: Request | PlainRequest, config: EndpointConfig, now: float
    ) -> Verdict:
        """Ask the policies about a request, and answer it.

        Args:
            entry: The connection.
            event: The request.
            config: The policies and extensions.
            now: The current time.

        Returns:
            The verdict. It is already carried out; the answer was sent, or the question recorded.
        """
        plain = event if isinstance(event, PlainRequest) else PlainRequest(event, "GET")
        address, port = entry.peer
        context = RequestContext(
            request=plain.request,
            now=now,
            peer_address=address,
            peer_port=port,
            secure=entry.secure,
            local_port=entry.local[1] if entry.local is not None else None,
            method=plain.method,
            upgrade=plain is not event,
            enabled=self.is_open,
            connections=len(self._registry) - 1,
            connections_by_address=Others(self._registry.addresses, address),
        )
        checked = config.health(context) if config.health is not None else None
        if isinstance(checked, Reject):
            return self._answer(entry, checked, context, config, now)
        outcome = self._run(config.policies.decide, context)
        return self._answer(entry, outcome, context, config, now)

    def decide(
        self, entry: Entry, answer: object, config: EndpointConfig, now: float
    ) -> tuple[Request, Verdict] | None:
        """Continue with a handshake that waits for an answer.

        Args:
            entry: The connection.
            answer: The answer, in the form that the policy expects.
            config: The policies and extensions.
            now: The current time.

        Returns:
            The request and the verdict, as from :meth:`ask`; ``None`` if the connection does not
            wait for an answer.
        """
        pending, entry.pending = entry.pending, None
        if pending is None or entry.session.state is not ConnectionState.CONNECTING:
            return None
        outcome = self._run(config.policies.resume, pending, answer, now)
        context = pending.so_far.context
        return context.request, self._answer(entry, outcome, context, config, now)

    def _run(self, policies: Callable[..., Outcome], *args: object) -> Outcome:
        """Run the policies, unless the answer is 503 in any case."""
        if not self.is_open:
            return Reject(503, _CLOSED_FOR_NOW)
        try:
            return policies(*args)
        except Exception:
            self._statistics.hook_errors += 1
            return Reject(500, "a policy failed")

    def _answer(
        self,
        entry: Entry,
        outcome: Outcome,
        context: RequestContext,
        config: EndpointConfig,
        now: float,
    ) -> Verdict:
        """Send the policies' decision."""
        session = entry.session
        if session.state is not ConnectionState.CONNECTING:
            # A policy closed the connection that it was asked about.
            return None
        if isinstance(outcome, Pending):
            entry.pending = outcome
            return outcome
        status, reason, respond = 500, "the decision cannot be sent", None
        try:
            if isinstance(outcome, Accept):
                session.send(outcome.event(config.extensions(outcome.subprotocol)), now)
                self._identify(entry, outcome)
                return outcome
            context = outcome.context or context
            for event in outcome.events():
                session.send(event, now)
            status, reason = outcome.status, outcome.reason
            respond = outcome if isinstance(outcome, Respond) else None
        except Exception:
            # The decision was not offered or cannot be sent, or a hook for extensions failed.
            self._statistics.hook_errors += 1
            if session.state is ConnectionState.CONNECTING:
                session.send(RejectConnection(status_code=500), now)
        self._note_answer(entry, status, reason, context, respond)
        return None

    def _identify(self, entry: Entry, accepted: Accept) -> None:
        """Record the client's identity and address according to the policies."""
        context = accepted.context
        peer = (context.peer_address, context.peer_port)
        if peer != entry.peer:
            self._registry.move(entry, peer)
        entry.secure = context.secure
        entry.identity = accepted.identity

    def _note_answer(
        self,
        entry: Entry,
        status: int,
        reason: str,
        context: RequestContext | None,
        respond: Respond | None = None,
    ) -> None:
        """Record and count the answer to a request."""
        request, peer = None, entry.peer
        if context is not None:
            request, peer = context.request, (context.peer_address, context.peer_port)
        served = respond is not None
        routine = respond is not None and respond.routine
        entry.answer = Answer(status, reason, request, peer, served, routine)
        self._statistics.request_answered(status, served=served)

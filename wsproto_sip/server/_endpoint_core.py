"""The inside of an endpoint: transports and sessions, admission and endings.

Theory of operation: :class:`EndpointCore` handles one connection at a time; what concerns all of
them, or the time, is :class:`~wsproto_sip.server.endpoint.Endpoint`'s. Every call ends in
``_note``: ``take_output`` will look for the connection's output and its next deadline. Hooks of
the caller's (policies, listeners) may call the endpoint again; so whatever is done behind one
looks first at where the connection is then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    PlainRequest,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from ..lifecycle import Cause, ConnectionClosed
from ..policy.decision import Accept, Outcome, Pending, Reject, RequestContext
from ..prepared import PreparedMessage
from ..session import Session
from ..states import ConnectionState, ConnectionType
from ..timers import TimerQueue
from ..utilities import LocalProtocolError
from .endpoint_config import EndpointConfig
from .endpoint_events import (
    AdmissionPending,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)
from .outgoing import Outgoing
from .registry import Entry, Others, Registry
from .statistics import Ending, Statistics
from .target import Target

if TYPE_CHECKING:
    from ..typing import Address, BytesLike

__all__ = ["EndpointCore"]


_ENDINGS: Final = {
    Cause.REMOTE: Ending.REMOTE,
    Cause.LOCAL: Ending.LOCAL,
    Cause.ADMINISTRATOR: Ending.LOCAL,
    Cause.SHUTDOWN: Ending.LOCAL,
    Cause.IDLE: Ending.LOCAL,
    Cause.AGE: Ending.LOCAL,
}

_CLOSABLE: Final = frozenset(
    [ConnectionState.CONNECTING, ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING]
)

_CONTROLS: Final = frozenset([CloseConnection, Ping, Pong])

_GOLDEN: Final = (5**0.5 - 1) / 2


class EndpointCore:
    """What :class:`~wsproto_sip.server.endpoint.Endpoint` is made of; see there."""

    def __init__(self, config: EndpointConfig, *, now: float) -> None:
        self.config = config
        self.enabled = True
        self.registry = Registry()
        self.statistics = Statistics()
        self._timers: list[TimerQueue[int]] = [TimerQueue() for _ in range(config.shards)]
        self._passes = [now] * config.shards
        # Connections whose output, transport or deadline may have changed.
        self._touched: dict[int, Entry] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._by_target: dict[Target, int] = {}
        self._targets: dict[int, Target] = {}
        self._connects: list[Connect] = []
        self._listeners: list[Callable[[Closed], object]] = []
        # Events of connections that came up while another one was asked.
        self._unread: list[tuple[int, Event]] = []
        # Who leaves when, while draining; and when nobody may be left.
        self._leaving: TimerQueue[int] = TimerQueue()
        self._drained_by: float | None = None
        # Sessions with work left over.
        self._busy: dict[int, None] = {}
        #: How often a listener or a policy raised an exception, which was dropped, or a policy
        #: decided what cannot be done.
        self.errors = 0

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self.registry)

    @property
    def draining(self) -> bool:
        """Whether :meth:`drain` was called."""
        return self._drained_by is not None

    def shard_of(self, cid: int) -> int:
        """The shard that keeps a connection's deadlines."""
        return cid % len(self._timers)

    def on_closed(self, listener: Callable[[Closed], object]) -> None:
        """Has every ending told to a listener too, at once.

        Args:
            listener: Called with each :class:`Closed`, when the connection is out of the table. It
                may call the endpoint. An exception that it raises is counted and dropped.
        """
        self._listeners.append(listener)

    # -- transports --------------------------------------------------------------------------------

    def accept(
        self, peer: Address, now: float, *, secure: bool = False, local: Address | None = None
    ) -> int:
        """Takes in a transport that a client has opened.

        Args:
            peer: The client's address and port.
            now: The time.
            secure: Whether it is TLS.
            local: The address and port it was accepted on.

        Returns:
            The connection's id.

        Raises:
            CapacityError: There is no room; drop the transport.
        """
        config, registry = self.config, self.registry
        for name, count, bound in (
            ("connections", len(registry), config.max_connections),
            ("connections from it", registry.count_of(peer[0]), config.max_per_address),
            ("handshakes", registry.handshaking, config.max_handshaking),
            (
                "handshakes from it",
                registry.handshaking_of(peer[0]),
                config.max_handshaking_per_address,
            ),
        ):
            if bound is not None and count >= bound:
                raise CapacityError(f"{peer[0]} refused: {count} {name}")
        session = Session(ConnectionType.SERVER, now=now, config=config.session)
        entry = registry.add(session, peer, local, secure, now)
        self._schedule(entry)
        return entry.cid

    def connect(
        self, uri: str, now: float, *, subprotocol: str | None = None, reuse: bool = True
    ) -> int:
        """Opens a connection as a client, or finds the one there is.

        Args:
            uri: A ``ws`` or ``wss`` URI.
            now: The time.
            subprotocol: The sub-protocol to offer.
            reuse: Whether a connection to the same target and with the same sub-protocol will do,
                if it is open or being opened.

        Returns:
            The connection's id. Whole messages may be sent at once; they wait until it is open.

        Raises:
            ValueError: It is not such a URI, or no token of a sub-protocol.
            CapacityError: There are too many connections, or the endpoint drains.
        """
        target = Target.parse(uri, subprotocol)
        known = self._by_target.get(target)
        if reuse and known is not None:
            state = self._entry(known).session.state
            if state is ConnectionState.CONNECTING or state is ConnectionState.OPEN:
                return known
        bound = self.config.max_connections
        if self.draining or (bound is not None and len(self.registry) >= bound):
            raise CapacityError(f"no room for a connection to {target.authority}")
        config = self.config.client_session or self.config.session
        session = Session(ConnectionType.CLIENT, now=now, config=config)
        peer = (target.host.strip("[]"), target.port)
        entry = self.registry.add(session, peer, None, target.secure, now)
        self._outgoing[entry.cid] = Outgoing(target)
        self._by_target[target] = entry.cid
        self._targets[entry.cid] = target
        self._connects.append(Connect(entry.cid, peer[0], target.port, target.secure))
        self._schedule(entry)
        return entry.cid

    def take_connects(self) -> list[Connect]:
        """Takes the transports that are to be opened."""
        connects, self._connects = self._connects, []
        return connects

    def connected(self, cid: int, now: float, *, local: Address | None = None) -> None:
        """Tells that the transport of an outgoing connection is open.

        Args:
            cid: The connection.
            now: The time.
            local: Our end's address and port.

        Raises:
            UnknownConnectionError: It has ended meanwhile; drop the transport.
            LocalProtocolError: It was told already, or is no outgoing connection.
        """
        entry = self._entry(cid)
        outgoing = self._outgoing.get(cid)
        if outgoing is None:
            raise LocalProtocolError(f"connection {cid} does not wait for a transport")
        target = outgoing.target
        wanted = [] if target.subprotocol is None else [target.subprotocol]
        extensions = list(self.config.extensions(target.subprotocol))
        entry.local = local
        entry.session.send(
            Request(
                host=target.authority,
                target=target.resource,
                subprotocols=wanted,
                extensions=extensions,
            ),
            now,
        )
        self._note(entry)

    def receive(self, cid: int, data: BytesLike | None, now: float) -> list[Event]:
        """Takes what a transport received.

        Args:
            cid: The connection; one that is unknown, or no longer known, gives nothing.
            data: Octets; None when the transport has ended, or could not be opened.
            now: The time.

        Returns:
            What happened on this connection, which is messages, ``Ping``, ``Pong``,
            ``CloseConnection`` and ``RejectConnection`` as a session gives them, and
            :class:`Opened`, :class:`AdmissionPending` and :class:`Closed`.
        """
        entry = self.registry.get(cid)
        if entry is None:
            return []
        session = entry.session
        if entry.handshaking and data and not self._lets_in:
            self._turn_away(entry, now)
        events = session.receive(data, now)
        self.registry.touch(entry, now)
        if session.touched or not session.config.whole_messages:
            return self._handle(entry, events, now)
        if events:
            self.statistics.frames_received(session.subprotocol, len(events))
        return events

    # -- output ------------------------------------------------------------------------------------

    def send(self, cid: int, event: Event | PreparedMessage, now: float) -> None:
        """Sends an event on a connection; :meth:`take_output` has the octets.

        Args:
            cid: The connection. One that this side is still opening takes whole messages too, up
                to its bounds.
            event: A message or a piece of one, ``Ping``, ``Pong`` or ``CloseConnection``.
            now: The time.

        Raises:
            UnknownConnectionError: There is no such connection.
            LocalProtocolError: The event may not be sent now, or its contents not at all.
            TypeError: It is not an event that can be sent.
        """
        entry = self._entry(cid)
        outgoing = self._outgoing.get(cid)
        if outgoing is not None:
            config = self.config
            outgoing.add(
                event,
                max_messages=config.max_queued_messages,
                max_octets=config.max_queued_bytes,
            )
            return
        if entry.handshaking:
            raise LocalProtocolError(f"connection {cid} is not open")
        entry.session.send(event, now)
        self.registry.touch(entry, now)
        if type(event) not in _CONTROLS:
            self.statistics.frames_transmitted(entry.session.subprotocol, 1)
        self._touched[cid] = entry

    def transport_backlog(self, cid: int, octets: int, now: float) -> None:
        """Tells how much of a connection's output its transport has not taken yet.

        Args:
            cid: The connection; an unknown one is passed over.
            octets: How many wait in the transport's own buffer.
            now: The time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            session = entry.session
            full = not session.writable
            session.transport_backlog(octets, now)
            self._note(entry)
            self._tell_room(entry, full)

    def take_output(self) -> list[Output]:
        """Takes what is to be done with the transports, of every connection with anything to do.

        Returns:
            Octets and actions; call it after every other call. An action is told once, and again
            only with octets that are left for it.
        """
        outputs: list[Output] = []
        touched, self._touched = self._touched, {}
        for cid, entry in touched.items():
            session = entry.session
            full = not session.writable
            data = session.data_to_send()
            # As far as is known yet: the adapter may tell that its transport is full.
            self._tell_room(entry, full)
            if session.controls_sent:
                self.statistics.frames_transmitted(None, 0, session.controls_sent)
                session.controls_sent = 0
            session.touched = False
            self._schedule(entry)
            action = session.transport_action
            if data or action is not entry.action:
                entry.action = action
                outputs.append(Output(cid, data, action))
        return outputs

    def _tell_room(self, entry: Entry, full: bool) -> None:
        session = entry.session
        if full and session.writable and session.state is ConnectionState.OPEN:
            self._unread.append((entry.cid, Writable(entry.cid)))

    # -- closing -----------------------------------------------------------------------------------

    def close(
        self, cid: int, code: int = 1000, reason: str = "Normal closure", *, now: float
    ) -> None:
        """Begins to close a connection, or answers the peer's close frame; once more ends it.

        Args:
            cid: The connection.
            code: The status code (RFC 6455 §7.4).
            reason: Text to go with it.
            now: The time.

        Raises:
            UnknownConnectionError: There is no such connection.
            LocalProtocolError: The code may not be sent.
        """
        self._close(self._entry(cid), code, reason, now, Cause.LOCAL)

    def _close(self, entry: Entry, code: int, reason: str, now: float, cause: Cause) -> None:
        state = entry.session.state
        if state in _CLOSABLE and entry.cid not in self._outgoing:
            entry.session.close(code, reason, now=now, cause=cause)
            self._note(entry)
        else:
            self._end(entry, now, cause)

    def _end(self, entry: Entry, now: float, cause: Cause) -> None:
        events = self._handle(entry, entry.session.abort(now=now, cause=cause), now)
        self._unread += [(entry.cid, event) for event in events]

    # -- inside ------------------------------------------------------------------------------------

    def _entry(self, cid: int) -> Entry:
        entry = self.registry.get(cid)
        if entry is None:
            raise UnknownConnectionError(cid)
        return entry

    def _note(self, entry: Entry) -> None:
        """Notes that a session was touched."""
        self._touched[entry.cid] = entry

    def _schedule(self, entry: Entry) -> None:
        """Notes when a session has to be looked at next."""
        cid = entry.cid
        if cid in self.registry:
            if entry.session.has_work:
                self._busy[cid] = None
            self._timers[cid % len(self._timers)].set(cid, entry.session.next_deadline())

    def _handle(self, entry: Entry, events: list[Event], now: float) -> list[Event]:
        """Does what has to follow from a session's events, and gives those for the caller."""
        given: list[Event] = []
        session = entry.session
        messages = controls = 0
        for event in events:
            kind = type(event)
            if kind is TextMessage or kind is BytesMessage:
                # The other frames of a message are counted apart.
                messages += event.message_finished  # type: ignore[attr-defined]
            elif kind is Ping or kind is CloseConnection:
                controls += 1
            elif kind is Pong:
                controls += 1
                trip = session.round_trip_time
                if trip is not None and trip is not entry.round_trip:
                    entry.round_trip = trip
                    self.statistics.round_trips.add(trip)
            elif isinstance(event, Request | PlainRequest):
                self._admit(entry, event, now, given)
                continue
            elif isinstance(event, AcceptConnection):
                self._opened(entry, None, now, given)
                continue
            elif isinstance(event, ConnectionClosed):
                self._closed(entry, event, given)
                continue
            given.append(event)
        messages += session.take_fragments()
        if messages or controls:
            self.statistics.frames_received(session.subprotocol, messages, controls)
        self._note(entry)
        return given

    def _admit(
        self, entry: Entry, event: Request | PlainRequest, now: float, given: list[Event]
    ) -> None:
        """Asks the policies about a handshake, or a plain request."""
        plain = event if isinstance(event, PlainRequest) else PlainRequest(event, "GET")
        request = plain.request
        address, port = entry.peer
        context = RequestContext(
            request=request,
            now=now,
            peer_address=address,
            peer_port=port,
            secure=entry.secure,
            local_port=entry.local[1] if entry.local is not None else None,
            method=plain.method,
            upgrade=plain is not event,
            enabled=self._lets_in,
            connections=len(self.registry) - 1,
            connections_by_address=Others(self.registry.addresses, address),
        )
        self._conclude(entry, self._ask(self.config.policies.decide, context), request, now, given)

    def _turn_away(self, entry: Entry, now: float) -> None:
        """Answers 503 to a client, before anything that it says is looked at."""
        session = entry.session
        if session.role is ConnectionType.SERVER and session.state is ConnectionState.CONNECTING:
            session.send(RejectConnection(status_code=503), now)
            self._refused(entry)

    def _refused(self, entry: Entry, status: int = 500) -> None:
        entry.pending = None
        entry.refused = True
        if status >= 300:
            self.statistics.handshake_failed()
        self._note(entry)

    @property
    def _lets_in(self) -> bool:
        return self.enabled and not self.draining

    def _ask(self, ask: Callable[..., Outcome], *args: object) -> Outcome:
        """Asks the policies, unless nobody is let in any more: then there is nothing to go on."""
        if not self._lets_in:
            return Reject(503, "disabled")
        try:
            return ask(*args)
        except Exception:
            # A hook of the caller's: what it raises is its own affair and must cost this
            # connection only.
            self.errors += 1
            return Reject(500, "a policy failed")

    def decide(self, cid: int, answer: object, now: float) -> list[Event]:
        """Gives the answer to the question of an :class:`AdmissionPending`.

        Args:
            cid: The connection; an unknown one, or one that waits for nothing, gives nothing.
            answer: In the form that the policy takes.
            now: The time.

        Returns:
            What happened, as from :meth:`receive`.
        """
        entry = self.registry.get(cid)
        given: list[Event] = []
        if entry is not None and entry.pending is not None:
            pending, entry.pending = entry.pending, None
            if entry.session.state is ConnectionState.CONNECTING:
                request = pending.so_far.context.request
                outcome = self._ask(self.config.policies.resume, pending, answer, now)
                self._conclude(entry, outcome, request, now, given)
        return given

    def _conclude(
        self, entry: Entry, outcome: Outcome, request: Request, now: float, given: list[Event]
    ) -> None:
        session = entry.session
        if session.state is not ConnectionState.CONNECTING:
            # A policy has closed the connection that it was asked about.
            return
        if isinstance(outcome, Pending):
            entry.pending = outcome
            given.append(AdmissionPending(entry.cid, outcome.question))
            return
        accepted: Accept | None = None
        status = 500
        try:
            if isinstance(outcome, Accept):
                extensions = self.config.extensions(outcome.subprotocol)
                session.send(outcome.event(extensions), now)
                accepted = outcome
            else:
                for event in outcome.events():
                    session.send(event, now)
                status = outcome.status
        except Exception:
            # A policy decided what was not offered or cannot be sent, or a hook raised something.
            self.errors += 1
            if session.state is ConnectionState.CONNECTING:
                session.send(RejectConnection(status_code=500), now)
        if accepted is None:
            self._refused(entry, status)
            if entry.session.state is ConnectionState.REJECTING:
                # The body could not follow its head: there is no answer that is whole.
                given += self._handle(entry, session.abort(now=now), now)
            return
        self._note(entry)
        context = accepted.context
        peer = (context.peer_address, context.peer_port)
        if peer != entry.peer:
            self.registry.move(entry, peer)
        entry.secure = context.secure
        entry.identity = accepted.identity
        self._opened(entry, request, now, given)
        # What the client sent behind its request.
        given += self._handle(entry, session.receive(b"", now), now)

    def _opened(
        self, entry: Entry, request: Request | None, now: float, given: list[Event]
    ) -> None:
        session = entry.session
        self.registry.opened(entry)
        self.statistics.connection_opened(session.subprotocol)
        self._spread(entry, now)
        given.append(Opened(entry.cid, session.subprotocol, entry.identity, request))
        outgoing = self._outgoing.pop(entry.cid, None)
        if outgoing is not None:
            for event in outgoing.queue:
                if session.state is ConnectionState.OPEN:
                    # Else the transport's bound is below the queue's.
                    session.send(event, now)
                    self.statistics.frames_transmitted(session.subprotocol, 1)

    def _spread(self, entry: Entry, now: float) -> None:
        """Gives a connection its place in the keep-alive interval."""
        # Multiples of the golden ratio leave no two of them close together.
        entry.session.keepalive.spread(1 - entry.cid * _GOLDEN % 1, now)

    def _closed(self, entry: Entry, closed: ConnectionClosed, given: list[Event]) -> None:
        opened = not entry.handshaking
        session = entry.session
        self.registry.remove(entry)
        self._timers[entry.cid % len(self._timers)].set(entry.cid, None)
        self._leaving.set(entry.cid, None)
        self._outgoing.pop(entry.cid, None)
        self._connects = [wanted for wanted in self._connects if wanted.cid != entry.cid]
        target = self._targets.pop(entry.cid, None)
        if target is not None and self._by_target.get(target) == entry.cid:
            del self._by_target[target]
        if opened:
            ending = _ENDINGS.get(closed.cause, Ending.FAILED)
            self.statistics.connection_ended(session.subprotocol, ending, closed.code)
        elif session.role is ConnectionType.SERVER and not entry.refused:
            self.statistics.handshake_failed()
        event = Closed(
            entry.cid,
            *entry.peer,
            session.subprotocol,
            entry.identity,
            entry.user_data,
            closed,
            opened,
        )
        given.append(event)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                self.errors += 1

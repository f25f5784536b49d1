"""Many connections: one table, one way in, and one way out.

Theory of operation. An :class:`Endpoint` owns sessions and gives each an id. The adapter, which
owns the sockets, reports their events (``accept``, ``receive``, ``connected``), and takes output
from ``take_output`` and transports to open from ``take_connects``::

    transports    accept, connected, receive          take_output, take_connects
                              |                                  ^
                              v                                  |
                  admission   registry of sessions   schedule   dialling
                              |                                  ^
                              v                                  |
    application   Opened, messages, Closed                 send, close

Each piece of state has one owner: :mod:`~wsproto_sip.server.registry` the connections,
:mod:`~wsproto_sip.server.admission` the admission of handshakes,
:mod:`~wsproto_sip.server.dialling` the connections that we open,
:mod:`~wsproto_sip.server.schedule` the deadlines.

An ordinary message costs the work of its session, recording the use, and counting. Only if a
session reports that it was touched does it enter ``_touched``, and ``take_output`` checks its
output, its transport and its next deadline. The caller's hooks (policies, listeners) may call the
endpoint, so code that runs after a hook first checks the state of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from ..events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    PlainRequest,
    Pong,
    Request,
    TextMessage,
)
from ..frame_protocol import CloseReason
from ..policy.decision import Accept, Pending
from ..session.keepalive import Mechanism
from ..session.lifecycle import Cause, ConnectionClosed
from ..session.prepared import PreparedMessage
from ..session.session import Session
from ..states import ConnectionState, ConnectionType
from ..uri import WebSocketURI
from ..utilities import LocalProtocolError, is_token
from .admission import Admission, Verdict
from .config import EndpointConfig
from .dialling import Dialling, Target
from .events import (
    AdmissionPending,
    Answer,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)
from .management.commands import (
    ApplicationCommand,
    CloseCommand,
    Command,
    CommandError,
    CommandTable,
    ConnectCommand,
    ConnectResult,
    DisableCommand,
    DrainCommand,
    DumpCommand,
    DumpResult,
    EmptyResult,
    EnableCommand,
    FactsResult,
    Fault,
    GetSettingCommand,
    GetStatisticsCommand,
    GroupStatisticsCommand,
    ListResult,
    PingCommand,
    PongCommand,
    ResetStatisticsCommand,
    Result,
    SetSettingCommand,
    StatisticsCommand,
    UptimeCommand,
    ValueResult,
)
from .registry import Entry, Registry
from .schedule import Schedule, keepalive_share
from .statistics import GROUP, Ending, Statistics
from .unfinished import UnfinishedMessages

if TYPE_CHECKING:
    from ..session.config import SessionConfig
    from ..session.keepalive import KeepaliveConfig
    from ..typing import Address, BytesLike
    from .histogram import Histogram

__all__ = ["Endpoint"]

_ENDINGS: Final = {
    Cause.REMOTE: Ending.REMOTE,
    Cause.LOCAL: Ending.LOCAL,
    Cause.ADMINISTRATOR: Ending.LOCAL,
    Cause.SHUTDOWN: Ending.LOCAL,
    Cause.IDLE: Ending.LOCAL,
    Cause.PAUSE: Ending.LOCAL,
    Cause.AGE: Ending.LOCAL,
}

#: States in which a connection can be told to close.
_CLOSABLE: Final = frozenset(
    [ConnectionState.CONNECTING, ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING]
)
#: States in which a connection has not started to end.
_STAYING: Final = frozenset([ConnectionState.CONNECTING, ConnectionState.OPEN])

#: The answer to a command that would undo draining: success would promise connections.
_DRAINING: Final = "this server has been drained; restart it"
#: Seconds until a connection that stays while the endpoint drains is checked again.
_STAY_SECONDS: Final = 1.0

_CONTROLS: Final = frozenset([CloseConnection, Ping, Pong])


class Endpoint:
    """The connections of one server, which may also connect to others.

    In all methods, ``now`` is the current time in seconds of any monotonic clock, and ``cid`` is
    the id of a connection as :meth:`accept` or :meth:`connect` returned it.

    Args:
        config: The configuration.
        now: The current time.

    Attributes:
        config: The configuration; it may be replaced, for future connections.
        registry: The connection table.
        statistics: The counters.
        commands: The management commands; applications may add their own.
    """

    def __init__(self, config: EndpointConfig, *, now: float) -> None:
        self.config = config
        self.registry = Registry()
        self.statistics = Statistics()
        self.commands = CommandTable()
        self._admission = Admission(self.registry, self.statistics)
        self._dialling = Dialling()
        self._schedule = Schedule(config.shards, now=now)
        self._unfinished = UnfinishedMessages(config.unfinished_bytes, config.message_timeout)
        self.statistics.refusals.append(lambda: self._unfinished.refused)
        self._started = now
        # Connections whose output, transport or deadline may have changed.
        self._touched: dict[int, Entry] = {}
        # Events that occurred outside a call that returns events of their connection.
        self._unread: list[tuple[int, Event]] = []
        self._listeners: list[Callable[[Closed], object]] = []
        self._staying: list[Callable[[int], bool]] = []

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self.registry)

    @property
    def enabled(self) -> bool:
        """Whether new handshakes are accepted (``ws.enable``, ``ws.disable``); may be set."""
        return self._admission.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._admission.enabled = enabled

    @property
    def draining(self) -> bool:
        """Whether :meth:`drain` was called."""
        return self._admission.draining

    def shard_of(self, cid: int) -> int:
        """Return the shard that keeps a connection's deadline."""
        return self._schedule.shard_of(cid)

    def on_closed(self, listener: Callable[[Closed], object]) -> None:
        """Call a listener at the end of every connection.

        Args:
            listener: Called with each :class:`Closed`, after the connection has left the table. It
                may call the endpoint. An exception that it raises is counted
                (:attr:`~wsproto_sip.server.statistics.Statistics.hook_errors`) and dropped.
        """
        self._listeners.append(listener)

    def stays_while(self, check: Callable[[int], bool]) -> None:
        """Let connections stay while the endpoint drains, as long as a check says so.

        They stay until four fifths of the time have passed; the others leave before.

        Args:
            check: Called with a connection's id, when it would have to leave and about once a
                second from then on. If it raises, the connection leaves.
        """
        self._staying.append(check)

    # -- transports --------------------------------------------------------------------------------

    def accept(
        self, peer: Address, now: float, *, secure: bool = False, local: Address | None = None
    ) -> int:
        """Accept a transport opened by a client.

        Args:
            peer: The client's address and port.
            now: The current time.
            secure: Whether the transport is TLS.
            local: The address and port that accepted it.

        Returns:
            The connection's id.

        Raises:
            CapacityError: No room is left; drop the transport.
        """
        try:
            longest = self._admission.check_accept(peer[0], self.config)
        except CapacityError:
            self.statistics.turned_away += 1
            raise
        if longest is not None:
            self.statistics.turned_away += 1
            self._abort(longest, now, Cause.LIMIT)
        session = Session(ConnectionType.SERVER, now=now, config=self.config.session)
        entry = self.registry.add(session, peer, local, secure, now)
        self._set_deadline(entry)
        drained_by = self._schedule.drained_by
        # Later ones are answered with 503; what bounds them is the time for their handshake.
        if drained_by is not None and now < drained_by:
            self._schedule.set_leaving(entry.cid, drained_by)
        return entry.cid

    def connect(
        self, uri: str, now: float, *, subprotocol: str | None = None, reuse: bool = True
    ) -> int:
        """Open a connection as a client, or find an existing one.

        Args:
            uri: A ``ws`` or ``wss`` URI; a user and a password in it are sent as Basic
                authentication (RFC 7617).
            now: The current time.
            subprotocol: The sub-protocol to offer.
            reuse: Whether to return an existing connection to the same target with the same
                sub-protocol that is open or being opened.

        Returns:
            The connection's id. Whole messages may be sent at once; they wait until it is open.

        Raises:
            ValueError: The URI is invalid, or the sub-protocol is not a token.
            CapacityError: There are too many connections, or the endpoint is draining.
        """
        if subprotocol is not None and not is_token(subprotocol.encode(errors="replace")):
            raise ValueError(f"not a sub-protocol: {ascii(subprotocol)[:80]}")
        target = Target(WebSocketURI.parse(uri), subprotocol)
        known = self._dialling.find(target)
        if reuse and known is not None and self._entry(known).session.state in _STAYING:
            return known
        self._admission.check_connect(target.uri.host_header, self.config)
        config = self.config.client_session or self.config.session
        session = Session(ConnectionType.CLIENT, now=now, config=config)
        peer = (target.uri.host, target.uri.port)
        entry = self.registry.add(session, peer, None, target.uri.secure, now)
        self._dialling.add(entry.cid, target)
        self._set_deadline(entry)
        return entry.cid

    def take_connects(self) -> list[Connect]:
        """Return the transports to open that have not been returned before."""
        return self._dialling.take_connects()

    def connected(self, cid: int, now: float, *, local: Address | None = None) -> None:
        """Report that the transport of a connection that we are opening is open.

        Args:
            cid: The connection.
            now: The current time.
            local: Our end's address and port.

        Raises:
            UnknownConnectionError: The connection has already ended; drop the transport.
            LocalProtocolError: It was reported before, or a client opened the connection.
        """
        entry = self._entry(cid)
        target = self._dialling.target(cid)
        authorization = target.uri.authorization
        wanted = [] if target.subprotocol is None else [target.subprotocol]
        extensions = list(self.config.extensions(target.subprotocol))
        entry.local = local
        entry.session.send(
            Request(
                host=target.uri.host_header,
                target=target.uri.target,
                subprotocols=wanted,
                extensions=extensions,
                extra_headers=[(b"Authorization", authorization)] if authorization else [],
            ),
            now,
        )
        self._touched[cid] = entry

    def receive(self, cid: int, data: BytesLike | None, now: float) -> list[Event]:
        """Take input of a transport.

        Args:
            cid: The connection; an unknown or ended one returns no events.
            data: The bytes; ``None`` if the transport has ended, or could not be opened.
            now: The current time.

        Returns:
            The events of this connection. They are messages, ``Ping``, ``Pong``,
            ``CloseConnection`` and ``RejectConnection`` from its session, and :class:`Opened`,
            :class:`AdmissionPending` and :class:`Closed`.
        """
        entry = self.registry.get(cid)
        if entry is None:
            return []
        session = entry.session
        if entry.handshaking and data and not self._admission.is_open:
            self._admission.turn_away(entry, self.config, now)
        events = session.receive(data, now)
        self.registry.touch(entry, now)
        if data is not None:
            entry.received_bytes += len(data)
        if (
            session.touched
            or not session.config.whole_messages
            or session.unfinished
            or entry.holds
        ):
            return self._process(entry, events, now)
        if events:
            messages = len(events)
            entry.received_messages += messages
            statistics = self.statistics
            statistics.frames_received(session.subprotocol, messages)
            if statistics.message_sizes is not None:
                _count_sizes(statistics.message_sizes, events)
        return events

    def decide(self, cid: int, answer: object, now: float) -> list[Event]:
        """Answer the question of an :class:`AdmissionPending`.

        Args:
            cid: The connection; one that is unknown or does not wait for an answer returns no
                events.
            answer: The answer, in the form that the policy expects.
            now: The current time.

        Returns:
            The events, as from :meth:`receive`.
        """
        given: list[Event] = []
        entry = self.registry.get(cid)
        if entry is not None:
            decided = self._admission.decide(entry, answer, self.config, now)
            if decided is not None:
                self._follow_verdict(entry, *decided, now, given)
        return given

    def pause(self, cid: int, now: float) -> None:
        """Hold back a connection's input; the adapter should stop reading its transport.

        Args:
            cid: The connection; an unknown one is ignored.
            now: The current time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            entry.session.pause(now)
            self._touched[cid] = entry

    def resume(self, cid: int, now: float) -> None:
        """Continue after :meth:`pause`; ``handle_timeout``, due at once, returns the held events.

        Args:
            cid: The connection; an unknown one is ignored.
            now: The current time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            events = self._process(entry, entry.session.resume(now), now)
            self._unread += [(cid, event) for event in events]
            # Even if no input was held back: the adapter has to learn that it may read again.
            self._schedule.set_busy(cid)

    # -- output ------------------------------------------------------------------------------------

    def send(self, cid: int, event: Event | PreparedMessage, now: float) -> None:
        """Send an event on a connection; :meth:`take_output` returns the bytes.

        Args:
            cid: The connection. If it is still being opened, whole messages are queued, within the
                limits of the configuration.
            event: A message or a piece of one, ``Ping``, ``Pong`` or ``CloseConnection``.
            now: The current time.

        Raises:
            UnknownConnectionError: The connection does not exist.
            LocalProtocolError: The event may not be sent now, or its contents can never be sent.
            TypeError: The event is not one that can be sent.
        """
        entry = self._entry(cid)
        if entry.handshaking:
            config = self.config
            self._dialling.queue(
                cid,
                event,
                max_messages=config.max_queued_messages,
                max_bytes=config.max_queued_bytes,
            )
            return
        entry.session.send(event, now)
        self.registry.touch(entry, now)
        kind = type(event)
        if kind not in _CONTROLS:
            self.statistics.frames_transmitted(entry.session.subprotocol, 1)
            if kind is PreparedMessage or event.message_finished:  # type: ignore[union-attr]
                entry.sent_messages += 1
        self._touched[cid] = entry

    def transport_backlog(self, cid: int, size: int, now: float) -> None:
        """Report how much of a connection's output its transport has not sent yet.

        Args:
            cid: The connection; an unknown one is ignored.
            size: How many bytes wait in the transport's own buffer.
            now: The current time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            session = entry.session
            was_full = not session.writable
            session.transport_backlog(size, now)
            self._touched[cid] = entry
            if was_full:
                self._report_room(entry)

    def take_output(self) -> list[Output]:
        """Take the instructions for the transports; call it after every other call.

        Returns:
            Bytes to write and actions, for every connection that has any. An action is returned
            once, and again only with bytes to write before it.
        """
        outputs: list[Output] = []
        touched, self._touched = self._touched, {}
        for cid, entry in touched.items():
            session = entry.session
            was_full = not session.writable
            data = session.data_to_send()
            entry.sent_bytes += len(data)
            if was_full:
                # As far as is known: the adapter may still report that its transport is full.
                self._report_room(entry)
            if session.controls_sent:
                self.statistics.frames_transmitted(None, 0, session.controls_sent)
                session.controls_sent = 0
            session.touched = False
            self._set_deadline(entry)
            action = session.transport_action
            if data or action is not entry.action:
                entry.action = action
                outputs.append(Output(cid, data, action))
        return outputs

    def _report_room(self, entry: Entry) -> None:
        """Report that a full connection has room again, if it has."""
        session = entry.session
        if session.writable and session.state is ConnectionState.OPEN:
            self._unread.append((entry.cid, Writable(entry.cid)))

    # -- closing -----------------------------------------------------------------------------------

    def close(
        self, cid: int, code: int = 1000, reason: str = "Normal closure", *, now: float
    ) -> None:
        """Start to close a connection, or answer the peer's close frame; a second call ends it.

        Args:
            cid: The connection.
            code: The status code (RFC 6455 §7.4).
            reason: The reason.
            now: The current time.

        Raises:
            UnknownConnectionError: The connection does not exist.
            LocalProtocolError: The code may not be sent.
        """
        self._close(self._entry(cid), code, reason, now, Cause.LOCAL)

    def _close(self, entry: Entry, code: int, reason: str, now: float, cause: Cause) -> None:
        if entry.session.state in _CLOSABLE and entry.cid not in self._dialling:
            entry.session.close(code, reason, now=now, cause=cause)
            self._touched[entry.cid] = entry
        else:
            self._abort(entry, now, cause)

    def _abort(self, entry: Entry, now: float, cause: Cause) -> None:
        events = self._process(entry, entry.session.abort(now=now, cause=cause), now)
        self._unread += [(entry.cid, event) for event in events]

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self, shard: int | None = None) -> float | None:
        """Return the latest time to call :meth:`handle_timeout`.

        Args:
            shard: The shard; ``None`` for all.

        Returns:
            The time, minus infinity if there is remaining work; ``None`` without a deadline.
        """
        self._set_touched_deadlines()
        if self._unread:
            return -inf
        when = self._schedule.next(shard, self.config.timer_interval)
        unfinished = self._unfinished.next_deadline()
        if when is None or unfinished is None:
            return unfinished if when is None else when
        return min(when, unfinished)

    def handle_timeout(self, now: float, shard: int | None = None) -> list[tuple[int, Event]]:
        """Perform the actions that are due.

        Args:
            now: The current time; early and repeated calls do nothing.
            shard: The shard; ``None`` for all.

        Returns:
            The events, each with the id of its connection.
        """
        self._set_touched_deadlines()
        config = self.config
        happened: list[tuple[int, Event]] = []
        busy = self._schedule.take_busy()
        due = self._schedule.take_due(now, shard, config.timer_interval, config.max_due)
        for cid in (*busy, *due):
            entry = self.registry.get(cid)
            if entry is None:
                continue
            when = None if cid in busy else entry.session.put_off(now)
            if when is not None and when > now:
                # Input has moved the deadline, and nothing else is due.
                self._schedule.set(cid, when)
                continue
            events = self._process(entry, entry.session.handle_timeout(now), now)
            if events:
                happened += [(cid, event) for event in events]
        for cid in self._unfinished.take_due(now):
            happened += self._refuse_slow(cid, now)
        drained_by = self._schedule.drained_by
        if drained_by is not None and shard in (None, 0):
            self._send_away(now, drained_by)
        unread, self._unread = self._unread, []
        return unread + happened

    def _refuse_slow(self, cid: int, now: float) -> list[tuple[int, Event]]:
        """End a connection whose message takes too long, unless the delay is ours."""
        entry = self.registry.get(cid)
        if entry is None:
            return []
        if entry.session.paused:
            self._unfinished.put_off(cid, now)
            return []
        refused = entry.session.refuse_input("the message took too long", now)
        return [(cid, event) for event in self._process(entry, refused, now)]

    def _set_touched_deadlines(self) -> None:
        """Update the deadlines of connections whose output was not taken yet."""
        for entry in self._touched.values():
            self._set_deadline(entry)

    def _set_deadline(self, entry: Entry) -> None:
        cid, session = entry.cid, entry.session
        if cid in self.registry:
            if session.has_work:
                self._schedule.set_busy(cid)
            self._schedule.set(cid, session.next_deadline())

    def drain(self, now: float, deadline: float) -> None:
        """Refuse new handshakes, and close all connections (1001), spread over time.

        Connections with a reason to stay (:meth:`stays_while`) leave after all others.

        Args:
            now: The current time.
            deadline: The time when all connections have ended. The last fifth of the time is for
                closing handshakes; a past deadline means at once.

        Raises:
            ValueError: The deadline is not finite.
        """
        if not deadline < inf:
            raise ValueError(f"not a deadline: {deadline!r}")
        self._admission.draining = True
        self._schedule.drain([entry.cid for entry in self.registry], now, deadline)

    def _send_away(self, now: float, drained_by: float) -> None:
        """Close the connections that are due to leave, and end all others at the deadline."""
        for cid in self._schedule.take_leaving(now):
            entry = self.registry.get(cid)
            # Others are closing already.
            if entry is not None and entry.session.state in _STAYING:
                if now < self._schedule.leave_by and self._stays(cid):
                    when = min(now + _STAY_SECONDS, self._schedule.leave_by)
                    self._schedule.set_leaving(cid, when)
                    continue
                self._close(entry, CloseReason.GOING_AWAY, "shutting down", now, Cause.SHUTDOWN)
            if entry is not None and cid in self.registry:
                if now >= drained_by:
                    self._abort(entry, now, Cause.SHUTDOWN)
                else:
                    self._schedule.set_leaving(cid, drained_by)

    def _stays(self, cid: int) -> bool:
        for check in self._staying:
            try:
                if check(cid):
                    return True
            except Exception:
                self.statistics.hook_errors += 1
        return False

    def set_keepalive(self, keepalive: KeepaliveConfig, now: float) -> None:
        """Change the keep-alive of all connections, including future ones and all profiles.

        Connections that become due are spread over the new interval.

        Args:
            keepalive: The configuration from now on.
            now: The current time.
        """
        session = _with_keepalive(self.config.session, keepalive)
        client = self.config.client_session
        if client is not None:
            client = _with_keepalive(client, keepalive)
        self.config = replace(self.config, session=session, client_session=client)
        for entry in self.registry:
            entry.session.set_keepalive(keepalive, now)
            if entry.session.keepalive.next_deadline() <= now:
                self._spread_keepalive(entry, now)
            self._touched[entry.cid] = entry

    def _spread_keepalive(self, entry: Entry, now: float) -> None:
        """Give a connection its place in the keep-alive interval."""
        entry.session.keepalive.spread(keepalive_share(entry.cid), now)

    # -- what follows from a session's events ------------------------------------------------------

    def _entry(self, cid: int) -> Entry:
        entry = self.registry.get(cid)
        if entry is None:
            raise UnknownConnectionError(cid)
        return entry

    def _process(self, entry: Entry, events: list[Event], now: float) -> list[Event]:
        """Act on a session's events, and return those for the application."""
        given: list[Event] = []
        session = entry.session
        if session.unfinished or entry.holds:
            reason = self._unfinished.note(entry, now)
            if reason is not None:
                events = [*events, *session.refuse_input(reason, now)]
        sizes = self.statistics.message_sizes if session.config.whole_messages else None
        messages = controls = finished = 0
        for event in events:
            kind = type(event)
            if kind is TextMessage or kind is BytesMessage:
                # The other frames of a message are counted separately.
                messages += event.message_finished  # type: ignore[attr-defined]
                finished += event.message_finished  # type: ignore[attr-defined]
                if sizes is not None:
                    _count_sizes(sizes, [event])
            elif kind is Ping or kind is CloseConnection:
                controls += 1
            elif kind is Pong:
                controls += 1
                trip = session.round_trip_time
                if trip is not None and trip is not entry.round_trip:
                    entry.round_trip = trip
                    self.statistics.round_trips.add(trip)
            elif isinstance(event, Request | PlainRequest):
                request = event.request if isinstance(event, PlainRequest) else event
                verdict = self._admission.ask(entry, event, self.config, now)
                self._follow_verdict(entry, request, verdict, now, given)
                continue
            elif isinstance(event, AcceptConnection):
                self._report_opened(entry, None, now, given)
                continue
            elif isinstance(event, ConnectionClosed):
                self._report_closed(entry, event, now, given)
                continue
            given.append(event)
        messages += session.take_fragments()
        entry.received_messages += finished
        if messages or controls:
            self.statistics.frames_received(session.subprotocol, messages, controls)
        self._touched[entry.cid] = entry
        return given

    def _follow_verdict(
        self, entry: Entry, request: Request, verdict: Verdict, now: float, given: list[Event]
    ) -> None:
        """Report the result of a handshake, adding to the events in ``given``."""
        session = entry.session
        self._touched[entry.cid] = entry
        if isinstance(verdict, Pending):
            given.append(AdmissionPending(entry.cid, verdict.question))
        elif isinstance(verdict, Accept):
            self._report_opened(entry, request, now, given)
            # Input that the client sent after its request.
            given += self._process(entry, session.receive(b"", now), now)
        elif session.state is ConnectionState.REJECTING:
            # The body could not be sent after its header, so the answer is incomplete.
            given += self._process(entry, session.abort(now=now), now)

    def _report_opened(
        self, entry: Entry, request: Request | None, now: float, given: list[Event]
    ) -> None:
        session = entry.session
        self.registry.opened(entry)
        self.statistics.connection_opened(session.subprotocol, max(now - entry.since, 0.0))
        entry.since = now
        self._spread_keepalive(entry, now)
        given.append(Opened(entry.cid, session.subprotocol, entry.identity, request))
        for message in self._dialling.open(entry.cid):
            # The session's limit may be below the queue's, which would close the session.
            if session.state is ConnectionState.OPEN:
                session.send(message, now)
                self.statistics.frames_transmitted(session.subprotocol, 1)

    def _report_closed(
        self, entry: Entry, closed: ConnectionClosed, now: float, given: list[Event]
    ) -> None:
        opened = not entry.handshaking
        session = entry.session
        self.registry.remove(entry)
        self._schedule.forget(entry.cid)
        self._unfinished.forget(entry.cid)
        self._dialling.forget(entry.cid)
        if opened:
            ending = _ENDINGS.get(closed.cause, Ending.FAILED)
            self.statistics.connection_closed(session.subprotocol, ending, closed.code)
        elif session.role is ConnectionType.SERVER and entry.answer is None:
            if session.refusal is None:
                self.statistics.handshake_failed()
            else:
                status, request = session.refusal
                self.statistics.request_answered(status)
                entry.answer = Answer(status, closed.reason, request, entry.peer)
        event = Closed(
            entry.cid,
            *entry.peer,
            session.subprotocol,
            entry.identity,
            entry.user_data,
            closed,
            opened,
            entry.answer,
            entry.traffic(now),
            entry.transport,
        )
        given.append(event)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                self.statistics.hook_errors += 1

    # -- management --------------------------------------------------------------------------------

    def execute(self, command: Command, now: float) -> Result:
        """Execute a management command.

        Args:
            command: A command made by :attr:`commands` from a name and parameters.
            now: The current time.

        Returns:
            The result.

        Raises:
            CommandError: The command cannot be executed; it has the module's code and text.
        """
        match command:
            case DumpCommand():
                shown, more = self.registry.page(
                    command.order, command.offset, command.limit, command.filter, now
                )
                following = command.offset + len(shown) if more else None
                return DumpResult(tuple(shown), following)
            case CloseCommand():
                entry = self._commanded(command.id)
                try:
                    self._close(entry, command.code, command.reason, now, Cause.ADMINISTRATOR)
                except LocalProtocolError as exc:
                    raise CommandError(Fault.CLOSING_FAILED, str(exc)) from exc
            case PingCommand() | PongCommand():
                entry = self._commanded(command.id)
                payload = entry.session.keepalive.config.application_data or b""
                frame = Ping(payload) if isinstance(command, PingCommand) else Pong(payload)
                try:
                    self.send(command.id, frame, now)
                except LocalProtocolError as exc:
                    raise CommandError(Fault.SENDING_FAILED, str(exc)) from exc
            case EnableCommand() if self.draining:
                raise CommandError(Fault.DISABLED, _DRAINING)
            case DisableCommand() | EnableCommand():
                self.enabled = isinstance(command, EnableCommand)
            case ConnectCommand():
                try:
                    cid = self.connect(command.target, now, subprotocol=command.subprotocol)
                except (ValueError, CapacityError) as exc:
                    raise CommandError(Fault.CONNECTING_FAILED, str(exc)) from exc
                return ConnectResult(cid)
            case StatisticsCommand():
                return self.statistics.result(command.names)
            case GetStatisticsCommand():
                chosen = self.statistics.chosen(command.names)
                return ListResult(tuple(f"{GROUP}:{name} = {chosen[name]}" for name in chosen))
            case ResetStatisticsCommand():
                self.statistics.reset(command.names)
            case GroupStatisticsCommand():
                return FactsResult(self.statistics.group(command.group))
            case GetSettingCommand():
                return self._get_setting(command.group, command.name)
            case SetSettingCommand():
                self._set_setting(command, now)
            case UptimeCommand():
                return FactsResult({"uptime": int(now - self._started)})
            case DrainCommand():
                self.drain(now, now + command.seconds)
            case ApplicationCommand():
                return command.execute(now)
            case _:
                return self.commands.describe(command)
        return EmptyResult()

    def _get_setting(self, group: str, name: str | None) -> Result:
        keepalive = self.config.session.keepalive
        settings = {
            "enabled": int(self.enabled),
            "keepalive_interval": int(self.config.timer_interval),
            "keepalive_mechanism": int(keepalive.mechanism),
            "keepalive_timeout": int(keepalive.interval),
        }
        if name is None:
            return FactsResult(settings if group == GROUP else {})
        if group != GROUP or name not in settings:
            raise CommandError(Fault.GETTING_FAILED)
        return ValueResult(settings[name])

    def _set_setting(self, command: SetSettingCommand, now: float) -> None:
        keepalive, value = self.config.session.keepalive, command.value
        try:
            match command.group, command.name:
                case "websocket", "enabled" if value == 1 and self.draining:
                    raise CommandError(Fault.SETTING_FAILED, _DRAINING)
                case "websocket", "enabled" if value in (0, 1):
                    self.enabled = bool(value)
                case "websocket", "keepalive_interval":
                    self.config = replace(self.config, timer_interval=float(value))
                case "websocket", "keepalive_mechanism":
                    self.set_keepalive(replace(keepalive, mechanism=Mechanism(value)), now)
                case "websocket", "keepalive_timeout":
                    self.set_keepalive(replace(keepalive, interval=float(value)), now)
                case _:
                    raise CommandError(Fault.SETTING_FAILED)
        except ValueError as exc:
            raise CommandError(Fault.SETTING_FAILED, str(exc)) from exc

    def _commanded(self, cid: int) -> Entry:
        entry = self.registry.get(cid)
        if entry is None:
            raise CommandError(Fault.UNKNOWN_CONNECTION)
        return entry


def _with_keepalive(config: SessionConfig, keepalive: KeepaliveConfig) -> SessionConfig:
    """Return a configuration with another keep-alive, including its profiles."""
    profiles = {
        name: replace(profile, keepalive=keepalive) for name, profile in config.profiles.items()
    }
    return replace(config, keepalive=keepalive, profiles=profiles)


def _count_sizes(sizes: Histogram, messages: Iterable[Event]) -> None:
    """Count the sizes of whole messages, in bytes."""
    for message in messages:
        data = message.data  # type: ignore[attr-defined]
        if isinstance(data, str) and not data.isascii():
            data = data.encode()
        sizes.add(len(data))

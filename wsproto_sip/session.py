"""One connection over time: a sans-IO endpoint that an adapter only has to feed.

Theory of operation. A :class:`Session` is the handshake, then a parser and an encoder, and around
them what every user of a WebSocket needs: whole messages within bounds, Pongs and close frames by
themselves, deadlines, back-pressure, and what to do with the transport. The caller gives octets
and the time (any monotonic number of seconds) and takes events and octets. A read of messages
costs their parsing and a few comparisons; control frames, bounds and endings go the longer way.

- What is sent automatically is written by :meth:`Session.data_to_send`: one Pong, to the latest
  Ping, in front of what the caller has sent, and the close frame that answers the peer's behind
  it, so that messages which came before that can still be answered.
- ``transport_action`` says what the transport is for: ``CLOSE`` to close it when everything is
  written (RFC 6455 §7.1.1: the server does so first, and a client waits for it), ``ABORT`` to
  drop it at once.
- The end of the transport, however it comes, is reported with ``receive(None, now)``; that, or a
  deadline, gives the one :class:`~wsproto_sip.lifecycle.ConnectionClosed`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from ._masking import KeySource
from ._parser import FrameParser
from .config import SessionConfig
from .connection import arrange_extensions
from .events import CloseConnection, Event, Message, Ping, Pong, RejectConnection
from .frame_protocol import CloseReason, FrameEncoder, Opcode
from .handshake import H11Handshake
from .keepalive import LATENESS, Keepalive, KeepaliveAction
from .lifecycle import (
    TRANSITIONS,
    Cause,
    CheckTransport,
    ConnectionClosed,
    Step,
    TransportAction,
)
from .prepared import PreparedMessage
from .states import ConnectionState, ConnectionType
from .timers import Deadlines, Timer
from .utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension
    from .keepalive import KeepaliveConfig
    from .typing import BytesLike

__all__ = ["Session"]

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT: Final = SessionConfig()


class _Parser(FrameParser):
    """A parser that tells when a session has to look at what came out."""

    __slots__ = ("controls",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.controls = False

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        self.controls = True
        super()._control(opcode, payload, events)


class Session:
    """One connection, from the first octet to the last.

    Args:
        role: Which end this is.
        now: The time, in seconds on any clock; every later one is on the same.
        config: How it behaves.

    Attributes:
        role: Which end this is.
        config: How it behaves (that of the sub-protocol's profile once that is known).
        subprotocol: The sub-protocol in use, or None.
        extensions: The extensions in use.
        transport_action: What is to be done with the transport.
        paused: Whether messages are held back until :meth:`resume`; the adapter should not read
            meanwhile.
        keepalive: The keep-alive, which works while the connection is open.
    """

    __slots__ = (
        "_answer",
        "_backlog",
        "_cause",
        "_close_rcvd",
        "_close_sent",
        "_control_time",
        "_control_tokens",
        "_deadlines",
        "_delivered",
        "_delivered_bytes",
        "_detail",
        "_encoder",
        "_ended",
        "_extended",
        "_failed",
        "_handed",
        "_handshake",
        "_input",
        "_input_ended",
        "_now",
        "_out",
        "_parser",
        "_pong",
        "_state",
        "_unread",
        "_waiting",
        "config",
        "extensions",
        "keepalive",
        "paused",
        "role",
        "subprotocol",
        "transport_action",
    )

    def __init__(
        self, role: ConnectionType, *, now: float, config: SessionConfig = _DEFAULT
    ) -> None:
        self.role = role
        self.config = config
        self.subprotocol: str | None = None
        self.extensions: list[Extension] = []
        self.transport_action = TransportAction.NONE
        self.paused = False
        self.keepalive = Keepalive(config.keepalive, now=now, entropy=config.entropy)
        self._now = now
        self._state = _CONNECTING
        self._handshake: H11Handshake | None = H11Handshake(
            role, limits=config.limits, entropy=config.entropy
        )
        self._parser: _Parser | None = None
        self._encoder = FrameEncoder(
            role is ConnectionType.CLIENT, KeySource(config.entropy), None, ()
        )
        self._deadlines = Deadlines()
        self._deadlines.set(Timer.OPEN, _after(now, config.open_timeout))
        self._deadlines.set(Timer.AGE, _after(now, config.max_age))
        # Events that came up outside a call that returns events.
        self._unread: list[Event] | None = None
        # Octets that came while paused, or with the handshake; whether the end came with them.
        self._input = b""
        self._input_ended = False
        # Output: what waits for data_to_send(), its size, what was ever handed out, and how much
        # of that the transport still holds.
        self._out: list[bytes] = []
        self._waiting = 0
        self._handed = 0
        self._backlog = 0
        # The Ping and the close frame that are to be answered.
        self._pong: bytes | None = None
        self._answer: CloseConnection | None = None
        self._close_rcvd: CloseConnection | None = None
        self._close_sent: CloseConnection | None = None
        self._cause: Cause | None = None
        self._detail = ""
        self._failed = False
        self._ended = False
        # Messages delivered since the last resume().
        self._delivered = 0
        self._delivered_bytes = 0
        # The bucket that bounds control frames.
        self._control_tokens = float(config.limits.control_burst)
        self._control_time = now
        # Whether a deadline that was looked at too late was granted once more.
        self._extended = False

    @classmethod
    def established(
        cls,
        role: ConnectionType,
        *,
        now: float,
        config: SessionConfig = _DEFAULT,
        subprotocol: str | None = None,
        extensions: Sequence[Extension] = (),
        trailing_data: bytes = b"",
    ) -> Session:
        """A session whose handshake was somebody else's: HTTP/2, HTTP/3, another server's.

        Args:
            role: Which end this is.
            now: The time.
            config: How it behaves.
            subprotocol: The sub-protocol agreed on.
            extensions: The extensions agreed on.
            trailing_data: Octets received behind the handshake.

        Returns:
            The session, open.
        """
        session = cls(role, now=now, config=config)
        session._open(subprotocol, list(extensions), trailing_data)
        return session

    @property
    def state(self) -> ConnectionState:
        """Where the session is; :data:`~wsproto_sip.lifecycle.TRANSITIONS` has the ways."""
        return self._state

    @property
    def closed(self) -> bool:
        """Whether ``ConnectionClosed`` is out."""
        return self._ended

    @property
    def writable(self) -> bool:
        """Whether less than ``limits.high_water`` octets wait to be sent."""
        return self._waiting + self._backlog < self.config.limits.high_water

    @property
    def round_trip_time(self) -> float | None:
        """Seconds that the last answered Ping took; None before the first."""
        return self.keepalive.round_trip_time

    @property
    def last_received(self) -> float:
        """When the peer last sent anything, or the session began."""
        return self.keepalive.last_received

    # -- input -------------------------------------------------------------------------------------

    def receive(self, data: BytesLike | None, now: float) -> list[Event]:
        """Takes what the peer sent.

        Args:
            data: Octets in any division, none included; None at the end of input, or when the
                transport is gone for another reason.
            now: The time.

        Returns:
            What happened, in order. Nothing is raised, whatever the peer sends.
        """
        if now < self._now:
            self._shift(now)
        self._now = now
        parser = self._parser
        if parser is None or not data or self.paused or self._input:
            return self._receive_otherwise(data)
        self.keepalive.last_received = now
        events = parser.receive(data)
        if parser.controls or parser.halted or self._unread or self.config.auto_pause:
            return self._take(events)
        return events

    def _receive_otherwise(self, data: BytesLike | None) -> list[Event]:
        """Takes input in the handshake, while paused, and at its end."""
        if self._ended:
            return []
        if data is None:
            self._input_ended = True
        elif data and self._state is not _CLOSED:
            self.keepalive.last_received = self._now
            self._input += bytes(data)
        return self._proceed()

    def _proceed(self) -> list[Event]:
        """Goes on with input that is there already."""
        events: list[Event] = []
        if self._handshake is not None and (self._input or self._input_ended):
            self._shake_hands(self._handshake, events)
        parser = self._parser
        if parser is not None and not self.paused and (self._input or parser.paused):
            data, self._input = self._input, b""
            events += parser.receive(data)
        events = self._take(events)
        if self._input_ended and not self._ended and not self._has_more():
            self._end_of_input(events)
        return events

    def _has_more(self) -> bool:
        """Whether octets that were received wait to be parsed."""
        parser = self._parser
        return parser is not None and not parser.closed and (parser.paused or bool(self._input))

    def _shake_hands(self, handshake: H11Handshake, events: list[Event]) -> None:
        """Gives the handshake what there is: octets, or else the end."""
        data, self._input = self._input, b""
        try:
            handshake.receive_data(data or None)
        except RemoteProtocolError as exc:
            events += handshake.events()
            self._set_cause(Cause.PROTOCOL_ERROR if data else Cause.END_OF_INPUT, str(exc))
            if data and exc.event_hint is not None:
                self._queue(handshake.send(exc.event_hint))
            self._over(TransportAction.CLOSE)
            return
        events += handshake.events()
        self._follow(handshake)

    def _follow(self, handshake: H11Handshake) -> None:
        """Follows the handshake to where it is."""
        if handshake.state is _OPEN:
            self._open(
                handshake.subprotocol, handshake.accepted_extensions, handshake.trailing_data
            )
        elif handshake.state is _REJECTING and self._state is _CONNECTING:
            self._set_cause(Cause.REJECTION)
            self._step(Step.REJECT)
        elif handshake.state is _CLOSED and self._state is not _CLOSED:
            self._set_cause(Cause.REJECTION)
            self._over(TransportAction.CLOSE)

    def _open(
        self, subprotocol: str | None, extensions: list[Extension], trailing_data: bytes
    ) -> None:
        config = self.config
        if subprotocol is not None:
            config = self.config = config.profiles.get(subprotocol, config)
        limits = config.limits
        client = self.role is ConnectionType.CLIENT
        self.subprotocol = subprotocol
        self.extensions, deflate, chain = arrange_extensions(extensions, limits)
        frames = limits.max_frames_per_call
        if config.auto_pause:
            frames = min(frames or limits.max_queued_messages, limits.max_queued_messages)
        self._parser = _Parser(
            client,
            limits,
            deflate,
            chain,
            whole_messages=config.whole_messages,
            text_as_bytes=config.text_as_bytes,
            max_frames=frames,
        )
        self._encoder = FrameEncoder(client, KeySource(config.entropy), deflate, chain)
        self._handshake = None
        self._step(Step.ACCEPT)
        now = self._now
        self.keepalive = Keepalive(config.keepalive, now=now, entropy=config.entropy)
        self._deadlines.clear(Timer.OPEN)
        self._deadlines.set(Timer.IDLE, _after(now, config.idle_timeout))
        self._deadlines.set(Timer.AGE, _after(now, config.max_age))
        self._control_tokens = float(limits.control_burst)
        self._control_time = now
        self._input = trailing_data + self._input

    def _take(self, events: list[Event]) -> list[Event]:
        """Looks at what came out of the parser, and does what has to follow from it."""
        parser = self._parser
        if parser is not None and (parser.controls or parser.closed):
            parser.controls = False
            controls = 0
            for event in events:
                kind = type(event)
                if kind is Ping:
                    controls += 1
                    if self.config.auto_pong:
                        # RFC 6455 §5.5.3 lets the latest Ping stand for all.
                        self._pong = event.payload  # type: ignore[attr-defined]
                elif kind is Pong:
                    controls += 1
                    self.keepalive.pong(event.payload, self._now)  # type: ignore[attr-defined]
                elif isinstance(event, CloseConnection):
                    self._closed_by_peer(event, parser.failed)
            if controls and not self._afford(controls):
                events.append(self._violation("too many control frames"))
        if self.config.auto_pause and parser is not None:
            self._count(events)
        if self._unread:
            events, self._unread = [*self._unread, *events], None
        return events

    def _closed_by_peer(self, event: CloseConnection, failed: bool) -> None:
        """Handles the event behind which the parser gives no other."""
        if failed:
            bound = event.code in (CloseReason.MESSAGE_TOO_BIG, CloseReason.POLICY_VIOLATION)
            self._set_cause(Cause.LIMIT if bound else Cause.PROTOCOL_ERROR, event.reason)
            self._fail(event)
            return
        self._close_rcvd = event
        self._set_cause(Cause.REMOTE)
        self._step(Step.RECEIVE_CLOSE)
        self._arm_close()
        if self._state is _REMOTE_CLOSING:
            if self.config.auto_close:
                self._answer = event.response()
        elif self.role is ConnectionType.SERVER:
            # RFC 6455 §7.1.1: the server closes TCP first.
            self.transport_action = TransportAction.CLOSE

    def _afford(self, controls: int) -> bool:
        """Takes control frames out of their bucket; False: there are too many."""
        rate = self.config.limits.max_control_rate
        if rate is None:
            return True
        burst = self.config.limits.control_burst
        tokens = self._control_tokens + (self._now - self._control_time) * rate
        self._control_tokens = min(tokens, burst) - controls
        self._control_time = self._now
        return self._control_tokens >= 0

    def _count(self, events: list[Event]) -> None:
        """Counts what is delivered, and pauses when it is a queue's worth."""
        for event in events:
            if isinstance(event, Message):
                data = event.data
                self._delivered += event.message_finished
                if isinstance(data, str) and not data.isascii():
                    data = data.encode()
                self._delivered_bytes += len(data)
        limits = self.config.limits
        if (
            self._delivered >= limits.max_queued_messages
            or self._delivered_bytes >= limits.max_queued_bytes
        ):
            self.paused = True

    def pause(self) -> None:
        """Holds back what the peer sends from now on; the adapter should stop reading."""
        self.paused = True

    def resume(self, now: float) -> list[Event]:
        """Goes on after a pause.

        Args:
            now: The time.

        Returns:
            What was held back, up to the next pause.
        """
        self._tick(now)
        self.paused = False
        self._delivered = self._delivered_bytes = 0
        return [] if self._ended else self._proceed()

    # -- output ------------------------------------------------------------------------------------

    def send(self, event: Event | PreparedMessage, now: float) -> None:
        """Sends an event; :meth:`data_to_send` has the octets.

        Args:
            event: In the handshake ``Request`` (client), ``AcceptConnection``,
                ``RejectConnection`` or ``RejectData`` (server); then a message or a piece of one,
                a prepared message, ``Ping``, ``Pong`` or ``CloseConnection``.
            now: The time.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents may not be sent at
                all; the session is as it was.
            TypeError: It is not an event that can be sent.
        """
        self._tick(now)
        encoder = self._encoder
        handshake = self._handshake
        if handshake is not None:
            self._queue(handshake.send(event))  # type: ignore[arg-type]
            self._follow(handshake)
        elif isinstance(event, Message | PreparedMessage):
            if self._state is not _OPEN and (self._state is not _REMOTE_CLOSING or self._failed):
                raise self._refusal(event)
            if isinstance(event, PreparedMessage):
                self._queue(event.frame(encoder))
            else:
                self._queue(encoder.message(event))
        elif isinstance(event, CloseConnection):
            if self._state is not _OPEN and self._state is not _REMOTE_CLOSING:
                raise self._refusal(event)
            self._send_close(event, Cause.LOCAL)
        elif isinstance(event, Ping | Pong):
            if self._state is not _OPEN:
                raise self._refusal(event)
            if isinstance(event, Ping):
                self._ping(event.payload)
            else:
                self._queue(encoder.control(Opcode.PONG, event.payload))
        else:
            raise TypeError(f"not an event that an open session sends: {event!r}")

    def _refusal(self, event: object) -> LocalProtocolError:
        return LocalProtocolError(
            f"{type(event).__name__} cannot be sent in state {self._state.name}"
        )

    def _ping(self, payload: bytes) -> None:
        self._queue(self._encoder.control(Opcode.PING, payload))
        self.keepalive.ping(bytes(payload), self._now)

    def _queue(self, octets: bytes) -> None:
        if not octets:
            return
        self._out.append(octets)
        self._waiting += len(octets)
        bound = self.config.limits.max_outgoing
        if bound is not None and self._waiting + self._backlog > bound and self._state is _OPEN:
            self._unread = [*(self._unread or ()), self._violation("too much output waits")]

    def data_to_send(self) -> bytes:
        """Takes the octets that are to be written to the transport.

        Returns:
            All of them, with the automatic answers; empty where there are none.
        """
        if self._pong is not None or self._answer is not None:
            self._flush()
        out = self._out
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self._waiting = 0
        self._handed += len(octets)
        return octets

    def _flush(self) -> None:
        """Writes the automatic answers."""
        pong, answer = self._pong, self._answer
        self._pong = self._answer = None
        # Our own close frame may wait already, and nothing goes behind it (RFC 6455 §5.5.1). While
        # the transport is stuck the Pong waits for a later Ping to take its place.
        if pong is not None and self._state is not _CLOSED:
            if self._backlog < self.config.limits.high_water or answer is not None:
                octets = self._encoder.control(Opcode.PONG, pong)
                self._out.insert(0, octets)
                self._waiting += len(octets)
            else:
                self._pong = pong
        if answer is not None:
            self._send_close(answer, Cause.REMOTE)

    def transport_backlog(self, octets: int, now: float) -> None:
        """Tells how much of what was handed out the transport has not taken yet.

        Adapters that know it call this after writing and when it changes. Then the output is
        bounded by ``limits.max_outgoing``, ``writable`` includes it, and a transport that takes
        nothing for ``send_timeout`` seconds ends the session.

        Args:
            octets: How many wait in the transport's own buffer.
            now: The time.
        """
        self._tick(now)
        moved = octets < self._backlog or self._deadlines[Timer.SEND] == inf
        self._backlog = octets
        if not octets or self._ended:
            self._deadlines.clear(Timer.SEND)
        elif moved:
            self._deadlines.set(Timer.SEND, _after(now, self.config.send_timeout))

    # -- closing -----------------------------------------------------------------------------------

    def close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        now: float,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Begins to close, whatever the state; once more does nothing.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 octets in UTF-8; longer ones are cut.
            now: The time.
            cause: Why.

        Raises:
            LocalProtocolError: The code may not be sent, or the reason cannot be encoded.
        """
        self._tick(now)
        if self._state in (_OPEN, _REMOTE_CLOSING):
            self._send_close(CloseConnection(code, reason), cause)
        elif self._handshake is not None and self._state is _CONNECTING:
            self._set_cause(cause, reason)
            self._give_up(self._handshake, 503)

    def abort(self, *, now: float, cause: Cause = Cause.LOCAL) -> list[Event]:
        """Ends the session at once, without a close frame.

        Args:
            now: The time.
            cause: Why.

        Returns:
            The ``ConnectionClosed``, unless it is out already.
        """
        self._tick(now)
        events: list[Event] = []
        if not self._ended:
            self._set_cause(cause)
            self._finish(TransportAction.ABORT, events)
        return events

    def tls_failed(self, *, now: float) -> list[Event]:
        """Ends the session because TLS did; the code is 1015 (RFC 6455 §7.4.1).

        Args:
            now: The time.

        Returns:
            The ``ConnectionClosed``, unless it is out already.
        """
        return self.abort(now=now, cause=Cause.TLS)

    def _send_close(self, event: CloseConnection, cause: Cause) -> None:
        octets = self._encoder.close(event.code, event.reason)
        self._answer = None
        self._close_sent = event
        self._set_cause(cause)
        self._step(Step.SEND_CLOSE)
        self._arm_close()
        self._out.append(octets)
        self._waiting += len(octets)
        if self._state is _CLOSED and (self.role is ConnectionType.SERVER or self._failed):
            # RFC 6455 §7.1.1: the server closes TCP first.
            self.transport_action = TransportAction.CLOSE

    def _fail(self, event: CloseConnection) -> None:
        """Fails the connection (RFC 6455 §7.1.7) for what an event says."""
        self._failed = True
        if self._state is _OPEN and not self.config.auto_close:
            # The close frame is the caller's.
            self._step(Step.RECEIVE_CLOSE)
            self._arm_close()
            return
        if self._state is _OPEN:
            octets = self._encoder.close(event.code, event.reason)
            self._close_sent = event
            self._out.append(octets)
            self._waiting += len(octets)
        self._pong = None
        self._over(TransportAction.CLOSE)

    def _violation(self, reason: str) -> CloseConnection:
        """Fails the connection because a rule of ours was broken."""
        if self._parser is not None:
            self._parser.end_of_input()
        event = CloseConnection(CloseReason.POLICY_VIOLATION, reason)
        self._set_cause(Cause.LIMIT, reason)
        self._fail(event)
        return event

    def _give_up(self, handshake: H11Handshake, status: int) -> None:
        """Ends the handshake, politely where a response can still be sent."""
        action = TransportAction.ABORT
        if self.role is ConnectionType.SERVER:
            try:
                self._queue(handshake.send(RejectConnection(status_code=status)))
                action = TransportAction.CLOSE
            except LocalProtocolError:
                # There is nothing yet to respond to.
                pass
        self._over(action)

    def _over(self, action: TransportAction) -> None:
        """Nothing more will be said; the transport has until the close deadline to end."""
        self._step(Step.END)
        self._arm_close()
        self._handshake = None
        self._input = b""
        self.transport_action = action

    def _end_of_input(self, events: list[Event]) -> None:
        if self._answer is not None:
            # The transport may be closed one way only.
            self._flush()
        self._set_cause(Cause.END_OF_INPUT)
        self._finish(TransportAction.CLOSE, events)

    def _finish(self, action: TransportAction, events: list[Event]) -> None:
        """The end: reports it, and lets go of everything."""
        self._over(action)
        self._ended = True
        self._parser = None
        self._pong = self._answer = None
        self._deadlines.clear_all()
        received = self._close_rcvd
        cause = self._cause or Cause.LOCAL
        if received is not None:
            code, reason = received.code, received.reason or ""
        else:
            code = (
                CloseReason.TLS_HANDSHAKE_FAILED
                if cause is Cause.TLS
                else CloseReason.ABNORMAL_CLOSURE
            )
            reason = self._detail
        events.append(ConnectionClosed(int(code), reason, cause, received, self._close_sent))

    def _step(self, step: Step) -> None:
        self._state = TRANSITIONS[self._state, step]

    def _set_cause(self, cause: Cause, detail: str | None = None) -> None:
        """Notes why the session ends; the first reason stays."""
        if self._cause is None:
            self._cause = cause
            self._detail = detail or ""

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has to be called at the latest.

        Returns:
            The time; one that is past already where there is work left over; None where nothing
            is waited for.
        """
        if self._ended:
            return None
        if self._unread or (not self.paused and self._has_more()):
            return self._now
        when = self._deadlines.next()
        if self._state is _OPEN:
            when = min(when, self.keepalive.next_deadline())
        return None if when == inf else when

    def handle_timeout(self, now: float) -> list[Event]:
        """Does what is due.

        Args:
            now: The time; early and repeated calls do nothing.

        Returns:
            What happened.
        """
        self._tick(now)
        if self._ended:
            return []
        events = self._proceed()
        if self._deadlines.next() <= now:
            self._pass_deadlines(events)
        if self._state is _OPEN:
            self._keep_alive(self.keepalive, events)
        return events

    def _pass_deadlines(self, events: list[Event]) -> None:
        now = self._now
        deadlines = self._deadlines
        if deadlines[Timer.SEND] <= now:
            self._set_cause(Cause.SEND_TIMEOUT, "the transport took no octets for too long")
            self._finish(TransportAction.ABORT, events)
            return
        if deadlines[Timer.CLOSE] <= now:
            if self._state is _LOCAL_CLOSING:
                self._cause = Cause.CLOSE_TIMEOUT
                self._detail = "the close frame was not answered"
            self._finish(TransportAction.ABORT, events)
            return
        if deadlines[Timer.OPEN] <= now and self._handshake is not None:
            deadlines.clear(Timer.OPEN)
            self._set_cause(Cause.OPEN_TIMEOUT, "the opening handshake took too long")
            if self._state is _CONNECTING:
                self._give_up(self._handshake, 408)
            else:
                self._over(TransportAction.ABORT)
        if deadlines[Timer.AGE] <= now:
            deadlines.clear(Timer.AGE)
            self._leave("maximum age reached", Cause.AGE)
        if deadlines[Timer.IDLE] <= now:
            self._idle()

    def _idle(self) -> None:
        """The idle deadline has come; what came since it was set moves it."""
        allowed = self.config.idle_timeout
        if allowed is None or self._state is not _OPEN:
            self._deadlines.clear(Timer.IDLE)
            return
        alive_until = self.keepalive.last_received + allowed
        late = self._now - self._deadlines[Timer.IDLE] > LATENESS
        if alive_until > self._now:
            self._extended = False
            self._deadlines.set(Timer.IDLE, alive_until)
        elif self.paused or (late and not self._extended):
            # The peer may have sent what this side has not looked at.
            self._extended = True
            self._deadlines.set(Timer.IDLE, self._now + allowed)
        else:
            self._deadlines.clear(Timer.IDLE)
            self._leave("idle for too long", Cause.IDLE)

    def _leave(self, reason: str, cause: Cause) -> None:
        if self._state is _OPEN:
            self._send_close(CloseConnection(CloseReason.GOING_AWAY, reason), cause)

    def _keep_alive(self, keepalive: Keepalive, events: list[Event]) -> None:
        if self.paused and keepalive.awaiting and keepalive.next_deadline() <= self._now:
            # The answer may be among what is not read.
            keepalive.postpone(self._now)
        action = keepalive.poll(self._now)
        if action is KeepaliveAction.PING:
            self._queue(self._encoder.control(Opcode.PING, keepalive.payload))
        elif action is KeepaliveAction.PONG:
            self._queue(self._encoder.control(Opcode.PONG, keepalive.payload))
        elif action is KeepaliveAction.CHECK:
            events.append(CheckTransport())
        elif action is KeepaliveAction.DEAD:
            reason = "keep-alive timed out"
            self._set_cause(Cause.KEEPALIVE, reason)
            self._send_close(CloseConnection(CloseReason.INTERNAL_ERROR, reason), Cause.KEEPALIVE)
            self._finish(TransportAction.ABORT, events)

    def set_keepalive(self, config: KeepaliveConfig, now: float) -> None:
        """Changes the keep-alive of the open connection.

        Args:
            config: How from now on.
            now: The time.
        """
        self._tick(now)
        self.keepalive.reconfigure(config, now)

    def _arm_close(self) -> None:
        """Gives closing its deadline; that of the first step stays."""
        if self._deadlines[Timer.CLOSE] == inf:
            self._deadlines.clear(Timer.OPEN)
            self._deadlines.set(Timer.CLOSE, _after(self._now, self.config.close_timeout))

    def _tick(self, now: float) -> None:
        if now < self._now:
            self._shift(now)
        self._now = now

    def _shift(self, now: float) -> None:
        """Follows a clock that was set back: what had time before still has as much."""
        seconds = now - self._now
        self._deadlines.shift(seconds)
        self._control_time += seconds
        self.keepalive.shift(seconds)

    def describe(self, now: float) -> str:
        """The session in one line for logs and dumps, at most 200 characters, safe to print.

        Args:
            now: The time.

        Returns:
            Role, state, sub-protocol, and what is known about activity and the end.
        """
        words = [self.role.name.lower(), self._state.name]
        if self.subprotocol is not None:
            words.append(f"sub-protocol {ascii(self.subprotocol)[:40]}")
        words.append(f"last received {max(0.0, now - self.keepalive.last_received):.1f} s ago")
        if self.keepalive.awaiting:
            words.append("awaiting Pong")
        if self._waiting + self._backlog:
            words.append(f"{self._waiting + self._backlog} octets to send")
        if self._cause is not None:
            words.append(f"cause {self._cause.value}")
        return ", ".join(words)[:200]


def _after(now: float, seconds: float | None) -> float:
    return inf if seconds is None else now + seconds

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
from typing import TYPE_CHECKING, Final

from ._session_core import SessionCore, after
from .config import SessionConfig
from .events import CloseConnection, Event, Message, Ping, Pong
from .frame_protocol import CloseReason, Opcode
from .handshake import H11Handshake
from .keepalive import LATENESS, Keepalive, KeepaliveAction
from .lifecycle import Cause, CheckTransport, Step, TransportAction
from .limits import bound
from .states import ConnectionState, ConnectionType
from .timers import Timer
from .utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension
    from .keepalive import KeepaliveConfig
    from .typing import BytesLike, Headers

__all__ = ["Session"]

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT: Final = SessionConfig()


class Session(SessionCore):
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
        controls_sent: Control frames that went out; whoever counts them sets it back.
        touched: Set by every call behind which there may be octets to send, another state or an
            earlier deadline, which is every one but reads that bring nothing but messages. Whoever
            has many sessions looks at those that were touched, and takes the mark away.
    """

    __slots__ = ()

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

    # -- input -------------------------------------------------------------------------------------

    def initiate_upgrade_connection(
        self, headers: Headers, path: bytes | str, now: float
    ) -> list[Event]:
        """Takes an upgrade request that an HTTP server of the caller's has parsed (servers only).

        Octets which that server has read behind the request are for :meth:`receive`.

        Args:
            headers: The request's header fields, in order.
            path: The request target, path and query.
            now: The time.

        Returns:
            The ``Request``, or nothing where it is no proper opening handshake (RFC 6455 §4.2.1):
            then the response that says so waits to be sent.

        Raises:
            LocalProtocolError: This is a client, or there is a request already.
        """
        self._tick(now)
        handshake = self._handshake
        if handshake is None:
            raise LocalProtocolError(f"no request is taken in state {self._state.name}")
        try:
            handshake.initiate_upgrade_connection(headers, path)
        except RemoteProtocolError as exc:
            self._refuse_handshake(handshake, Cause.PROTOCOL_ERROR, exc)
        return [*handshake.events()]

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
        self.touched = True
        if self._ended:
            return []
        parser = self._parser
        if data is None:
            self._input_ended = True
        elif not (self._input_ended or self._state is _CLOSED or (parser and parser.closed)):
            octets = bytes(memoryview(data))
            if octets:
                self.keepalive.last_received = self._now
                self._input += octets
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
            cause = Cause.PROTOCOL_ERROR if data else Cause.END_OF_INPUT
            self._refuse_handshake(handshake, cause, exc)
            return
        events += handshake.events()
        self._follow(handshake)

    def _refuse_handshake(
        self, handshake: H11Handshake, cause: Cause, exc: RemoteProtocolError
    ) -> None:
        """Ends a handshake that is none, with a response where somebody waits for it."""
        self._set_cause(cause, str(exc))
        if cause is not Cause.END_OF_INPUT and exc.event_hint is not None:
            self._queue(handshake.send(exc.event_hint))
        self._over(TransportAction.CLOSE)

    def _take(self, events: list[Event]) -> list[Event]:
        """Looks at what came out of the parser, and does what has to follow from it."""
        self.touched = True
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
            if controls and not self._afford(controls) and not parser.closed:
                events.append(self._violation(parser, "too many control frames"))
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
        if self._delivered >= bound(limits.max_queued_messages) or self._delivered_bytes >= bound(
            limits.max_queued_bytes
        ):
            self.pause(self._now)

    def pause(self, now: float) -> None:
        """Holds back what the peer sends from now on; the adapter should stop reading.

        Deadlines that wait for the peer to send something wait longer by the time of the pause.

        Args:
            now: The time.
        """
        self._tick(now)
        if not self.paused:
            self.paused = True
            self._paused_at = now

    def resume(self, now: float) -> list[Event]:
        """Goes on after a pause.

        Args:
            now: The time.

        Returns:
            What was held back, up to the next pause.
        """
        self._tick(now)
        paused, self.paused = self.paused, False
        if self._ended:
            return []
        if paused:
            self.keepalive.looked_away(self._paused_at, now)
            if self._state is _OPEN:
                self._deadlines.set(Timer.IDLE, after(now, self.config.idle_timeout))
        self._delivered = self._delivered_bytes = 0
        return self._proceed()

    # -- time --------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether the next call has something to give that needs no input and no time."""
        return bool(self._unread) or (not self.paused and self._has_more())

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has to be called at the latest.

        Returns:
            The time; one that is past already where there is work left over; None where nothing
            is waited for.
        """
        if self._ended:
            return None
        if self.has_work:
            return self._now
        when = self._deadlines.next()
        if self._keeps_alive():
            when = min(when, self.keepalive.next_deadline())
        return None if when == inf else when

    def _keeps_alive(self) -> bool:
        # While paused the answer may be among what is not read.
        return self._state is _OPEN and not (self.paused and self.keepalive.waiting)

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
        if self._keeps_alive():
            self._keep_alive(self.keepalive, events)
        return events

    def _pass_deadlines(self, events: list[Event]) -> None:
        now = self._now
        config = self.config
        deadlines = self._deadlines
        if deadlines[Timer.SEND] <= now and not self._forgive(Timer.SEND, config.send_timeout):
            self._set_cause(Cause.SEND_TIMEOUT, "the transport took no octets for too long")
            self._finish(TransportAction.ABORT, events)
            return
        if deadlines[Timer.CLOSE] <= now:
            if self._state is _LOCAL_CLOSING:
                self._cause = Cause.CLOSE_TIMEOUT
                self._detail = "the close frame was not answered"
            self._finish(TransportAction.ABORT, events)
            return
        if deadlines[Timer.OPEN] <= now and not self._forgive(Timer.OPEN, config.open_timeout):
            self._set_cause(Cause.OPEN_TIMEOUT, "the opening handshake took too long")
            self._give_up(408)
        if deadlines[Timer.AGE] <= now:
            deadlines.clear(Timer.AGE)
            self._leave("maximum age reached", Cause.AGE)
        if deadlines[Timer.IDLE] <= now:
            self._idle()

    def _idle(self) -> None:
        """The idle deadline has come; what came since it was set moves it."""
        allowed = self.config.idle_timeout
        alive_until = after(self.keepalive.last_received, allowed)
        if self.paused:
            # It is armed anew behind the pause.
            self._deadlines.clear(Timer.IDLE)
            return
        if alive_until > self._deadlines[Timer.IDLE]:
            self._forgiven &= ~(1 << Timer.IDLE)
        if alive_until > self._now:
            self._deadlines.set(Timer.IDLE, alive_until)
        elif not self._forgive(Timer.IDLE, allowed):
            self._deadlines.clear(Timer.IDLE)
            self._leave("idle for too long", Cause.IDLE)

    def _forgive(self, timer: Timer, seconds: float | None) -> bool:
        """Arms a timer that is due anew if it is looked at much too late, once.

        The clock was moved, or this process did nothing: what was waited for may be there.
        """
        bit = 1 << timer
        if self._forgiven & bit or self._now - self._deadlines[timer] <= LATENESS:
            return False
        self._forgiven |= bit
        self._deadlines.set(timer, after(self._now, seconds))
        return True

    def _leave(self, reason: str, cause: Cause) -> None:
        if self._state is _OPEN:
            self._send_close(CloseConnection(CloseReason.GOING_AWAY, reason), cause)

    def _keep_alive(self, keepalive: Keepalive, events: list[Event]) -> None:
        action = keepalive.poll(self._now)
        if action is KeepaliveAction.PING:
            self._queue_control(self._encoder.control(Opcode.PING, keepalive.payload))
        elif action is KeepaliveAction.PONG:
            self._queue_control(self._encoder.control(Opcode.PONG, keepalive.payload))
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

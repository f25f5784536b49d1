"""The inside of a session: its state, what it sends, and how it ends.

Theory of operation: :class:`SessionCore` knows everything about a session but when to do it; that,
and what comes from the peer, is :class:`~wsproto_sip.session.Session`'s. Octets to send wait in
``_out``. An ending has three steps, each taken at most once: a cause is noted, the state is closed
and the transport told so (``_over``), and ``ConnectionClosed`` is given out (``_finish``).
"""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ._masking import KeySource
from ._parser import FrameParser
from .config import SessionConfig
from .connection import arrange_extensions
from .events import CloseConnection, Event, Message, Ping, Pong, RejectConnection
from .frame_protocol import CloseReason, FrameEncoder, Opcode
from .handshake import H11Handshake
from .keepalive import Keepalive
from .lifecycle import (
    TRANSITIONS,
    Cause,
    ConnectionClosed,
    Step,
    TransportAction,
)
from .limits import bound
from .prepared import PreparedMessage
from .states import ConnectionState, ConnectionType
from .timers import Deadlines, Timer
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension
    from .typing import Entropy

__all__ = ["SessionCore", "after"]

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT: Final = SessionConfig()
#: Made once: a union in isinstance() is made anew each time.
_MESSAGES: Final = (Message, PreparedMessage)
#: What a session has that sends nothing at the moment, and one key source for nearly all of them:
#: an idle connection should cost what it has to.
_NOTHING: Final[list[bytes]] = []
_SYSTEM_KEYS: Final = KeySource()

#: First octet of the handshake's response; no frame that is sent begins with it.
_HTTP: Final = ord("H")


class _Parser(FrameParser):
    """A parser that tells when a session has to look at what came out."""

    __slots__ = ("controls", "fragments")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.controls = False
        self.fragments = 0

    def _payload(
        self, payload: bytes | bytearray, frame_done: bool, fin: bool, events: list[Event]
    ) -> None:
        if frame_done and not fin:
            self.fragments += 1
            self.controls = True
        super()._payload(payload, frame_done, fin, events)

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        self.controls = True
        super()._control(opcode, payload, events)


class SessionCore:
    """What :class:`~wsproto_sip.session.Session` is made of; see there."""

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
        "_failed",
        "_forgiven",
        "_handed_out",
        "_handshake",
        "_input",
        "_input_ended",
        "_now",
        "_out",
        "_parser",
        "_paused_at",
        "_pong",
        "_pong_leaves_in",
        "_state",
        "_unread",
        "_waiting",
        "config",
        "controls_sent",
        "extensions",
        "keepalive",
        "paused",
        "role",
        "subprotocol",
        "touched",
        "transport_action",
    )

    def __init__(
        self, role: ConnectionType, *, now: float, config: SessionConfig = _DEFAULT
    ) -> None:
        self.role = role
        self.config = config
        self.subprotocol: str | None = None
        self.extensions: Sequence[Extension] = ()
        self.transport_action = TransportAction.NONE
        self.paused = False
        self.touched = True
        self.controls_sent = 0
        self.keepalive = Keepalive(config.keepalive, now=now, entropy=config.entropy)
        self._now = now
        self._state = _CONNECTING
        self._handshake: H11Handshake | None = H11Handshake(
            role,
            limits=config.limits,
            entropy=config.entropy,
            plain_requests=config.plain_requests,
        )
        self._parser: _Parser | None = None
        self._encoder = FrameEncoder(role is ConnectionType.CLIENT, _keys(config.entropy))
        self._deadlines = Deadlines()
        self._deadlines.set(Timer.OPEN, after(now, config.open_timeout))
        # Events that came up outside a call that returns events.
        self._unread: list[Event] | None = None
        # Octets that came while paused, or with the handshake; whether the end came with them.
        self._input = b""
        self._input_ended = False
        # Since when nothing is parsed, while paused.
        self._paused_at = now
        # Output: what waits for data_to_send(), and its size; how much the transport held when
        # its backlog was last told, and what it was given since.
        self._out = _NOTHING
        self._waiting = 0
        self._backlog = 0
        self._handed_out = 0
        # The Ping and the close frame that are to be answered; after how many octets more the
        # transport has taken the last Pong.
        self._pong: bytes | None = None
        self._pong_leaves_in = 0
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
        self._control_tokens: float = config.limits.control_burst
        self._control_time = now
        # Timers that were looked at too late and granted once more, a bit each.
        self._forgiven = 0

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

    # -- opening -----------------------------------------------------------------------------------

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
        before = config = self.config
        if subprotocol is not None:
            config = self.config = before.profiles.get(subprotocol, before)
        # One that was set meanwhile stays.
        keepalive = self.keepalive.config
        if keepalive is before.keepalive:
            keepalive = config.keepalive
        limits = config.limits
        client = self.role is ConnectionType.CLIENT
        self.subprotocol = subprotocol
        in_use, deflate, rest = arrange_extensions(extensions, limits)
        self.extensions, chain = tuple(in_use), tuple(rest)
        frames = limits.max_frames_per_call
        if config.auto_pause and bound(limits.max_queued_messages) < bound(frames):
            frames = limits.max_queued_messages
        self._parser = _Parser(
            client,
            limits,
            deflate,
            chain,
            whole_messages=config.whole_messages,
            text_as_bytes=config.text_as_bytes,
            max_frames=frames,
        )
        self._encoder = FrameEncoder(client, _keys(config.entropy), deflate, chain)
        self._handshake = None
        self._step(Step.ACCEPT)
        now = self._now
        self.keepalive = Keepalive(keepalive, now=now, entropy=config.entropy)
        self._deadlines.clear(Timer.OPEN)
        self._deadlines.set(Timer.IDLE, after(now, config.idle_timeout))
        self._deadlines.set(Timer.AGE, after(now, config.max_age))
        self._control_tokens = limits.control_burst
        self._control_time = now
        self._input = trailing_data + self._input

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
        elif isinstance(event, _MESSAGES):
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
                self._queue_control(encoder.control(Opcode.PONG, event.payload))
        elif self._state is not _OPEN:
            # Among others an answer to a handshake that has timed out meanwhile.
            raise self._refusal(event)
        else:
            raise TypeError(f"not an event that an open session sends: {event!r}")

    def _refusal(self, event: object) -> LocalProtocolError:
        return LocalProtocolError(
            f"{type(event).__name__} cannot be sent in state {self._state.name}"
        )

    def _ping(self, payload: bytes) -> None:
        self._queue_control(self._encoder.control(Opcode.PING, payload))
        self.keepalive.ping(bytes(payload), self._now)

    def _queue(self, octets: bytes) -> None:
        if not octets:
            return
        waited = self._waiting + self._backlog
        self._write(octets)
        bound = self.config.limits.max_outgoing
        parser = self._parser
        # Responses of the handshake are not bounded, because there would be nothing else to say.
        # Nor is one message by itself, which is the caller's, however long: what is bounded is how
        # much it may pile up.
        if parser is not None and bound is not None and waited and waited + len(octets) > bound:
            event = self._violation(parser, "too much output waits")
            self._unread = [*(self._unread or ()), event]

    def _queue_control(self, octets: bytes) -> None:
        # Never refused for what waits already: these frames are few, and the last of them ends it.
        self.controls_sent += 1
        self._write(octets)

    def _write(self, octets: bytes) -> None:
        if self._out:
            self._out.append(octets)
        else:
            self._out = [octets]
        self._waiting += len(octets)

    def take_fragments(self) -> int:
        """Takes how many frames were received since the last call that were not whole messages.

        Returns:
            Frames of fragmented messages, the last of each left out.
        """
        parser = self._parser
        if parser is None:
            return 0
        count, parser.fragments = parser.fragments, 0
        return count

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
        self._out = _NOTHING
        self._handed_out += len(octets)
        self._waiting = 0
        return octets

    def _flush(self) -> None:
        """Writes the automatic answers."""
        pong, answer = self._pong, self._answer
        # While the transport still has the last Pong, a later Ping may take this one's place.
        if pong is not None and not (self._backlog and self._pong_leaves_in > 0):
            self._pong = None
            octets = self._encoder.control(Opcode.PONG, pong)
            self._pong_leaves_in = self._backlog + self._handed_out + len(octets)
            self.controls_sent += 1
            self._waiting += len(octets)
            # In front of what waits, which may be long, or our close frame (RFC 6455 §5.5.1);
            # only the handshake comes first.
            first = 1 if self._out and self._out[0][0] == _HTTP else 0
            self._out = [*self._out[:first], octets, *self._out[first:]]
        if answer is not None:
            self._send_close(answer, Cause.REMOTE)

    def transport_backlog(self, octets: int, now: float) -> None:
        """Tells how much of what was handed out the transport has not taken yet.

        Adapters that know it call this after writing and when it changes. Then the output is
        bounded by ``limits.max_outgoing``, ``writable`` includes it, one automatic Pong at most
        waits with it, and a transport that takes nothing for ``send_timeout`` seconds ends the
        session. Who has told of a backlog once has to tell when it is gone.

        Args:
            octets: How many wait in the transport's own buffer.
            now: The time.
        """
        self._tick(now)
        taken = self._backlog + self._handed_out - octets
        moved = taken > 0
        self._backlog = octets
        self._handed_out = 0
        if moved:
            self._pong_leaves_in -= taken
            self._forgiven &= ~(1 << Timer.SEND)
        if not octets or self._ended:
            self._deadlines.clear(Timer.SEND)
        elif moved or self._deadlines[Timer.SEND] == inf:
            self._deadlines.set(Timer.SEND, after(now, self.config.send_timeout))

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
        elif self._handshake is not None:
            self._set_cause(cause, reason)
            self._give_up(503)

    def abort(self, *, now: float, cause: Cause = Cause.LOCAL) -> list[Event]:
        """Ends the session at once, without a close frame.

        Args:
            now: The time.
            cause: Why.

        Returns:
            The ``ConnectionClosed``, unless it is out already.
        """
        self._tick(now)
        events, self._unread = self._unread or [], None
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
        self._close_sent = event
        self._set_cause(cause)
        self._step(Step.SEND_CLOSE)
        self._arm_close()
        self._queue_control(octets)
        if self._state is _CLOSED and (self.role is ConnectionType.SERVER or self._failed):
            # RFC 6455 §7.1.1: the server closes TCP first.
            self.transport_action = TransportAction.CLOSE

    def _fail(self, event: CloseConnection) -> None:
        """Fails the connection (RFC 6455 §7.1.7) for what an event says."""
        self._failed = True
        self._pong = self._answer = None
        if self._state is _OPEN and not self.config.auto_close:
            # The close frame is the caller's.
            self._step(Step.RECEIVE_CLOSE)
            self._arm_close()
            return
        if self._close_sent is None and self.config.auto_close:
            octets = self._encoder.close(event.code, event.reason)
            self._close_sent = event
            self._queue_control(octets)
        self._over(TransportAction.CLOSE)

    def _violation(self, parser: FrameParser, reason: str) -> CloseConnection:
        """Fails the connection because a rule of ours was broken."""
        parser.end_of_input()
        event = CloseConnection(CloseReason.POLICY_VIOLATION, reason)
        self._set_cause(Cause.LIMIT, reason)
        self._fail(event)
        return event

    def _give_up(self, status: int) -> None:
        """Ends the handshake, politely where a response can still be sent."""
        action = TransportAction.ABORT
        handshake = self._handshake
        if (
            handshake is not None
            and self._state is _CONNECTING
            and self.role is ConnectionType.SERVER
        ):
            self._queue(handshake.send(RejectConnection(status_code=status)))
            action = TransportAction.CLOSE
        self._over(action)

    def _over(self, action: TransportAction) -> None:
        """Nothing more will be said; the transport has until the close deadline to end."""
        self._step(Step.END)
        self._arm_close()
        self._handshake = None
        self._input = b""
        if self.transport_action is not TransportAction.ABORT:
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
        if self._state is _CLOSED:
            # RFC 6455 §5.5.2: who has sent a close frame gets no Pong.
            self._pong = self._answer = None

    def _set_cause(self, cause: Cause, detail: str | None = None) -> None:
        """Notes why the session ends; the first reason stays."""
        if self._cause is None:
            self._cause = cause
            self._detail = detail or ""

    def _arm_close(self) -> None:
        """Gives closing its deadline; that of the first step stays."""
        if self._deadlines[Timer.CLOSE] == inf:
            self._deadlines.clear(Timer.OPEN)
            self._deadlines.set(Timer.CLOSE, after(self._now, self.config.close_timeout))

    def _tick(self, now: float) -> None:
        """Takes the time, at the head of every call but a plain read."""
        if now < self._now:
            self._shift(now)
        self._now = now
        self.touched = True

    def _shift(self, now: float) -> None:
        """Follows a clock that was set back: what had time before still has as much."""
        self.touched = True
        seconds = now - self._now
        self._deadlines.shift(seconds)
        self._control_time += seconds
        self._paused_at += seconds
        self.keepalive.shift(seconds)


def _keys(entropy: Entropy) -> KeySource:
    return _SYSTEM_KEYS if entropy is os.urandom else KeySource(entropy)


def after(now: float, seconds: float | None) -> float:
    return inf if seconds is None else now + seconds

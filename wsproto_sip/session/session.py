"""One connection over time: a sans-IO endpoint that an adapter only has to feed.

Theory of operation. A :class:`Session` is the handshake, then a parser and an encoder, and around
them the functions that every user of a WebSocket needs: whole messages within limits, automatic
Pongs and close frames, deadlines, back-pressure, and instructions for the transport. The caller
passes bytes and the time (any monotonic number of seconds) and gets events and bytes. A read of
messages costs their parsing and a few comparisons; control frames, limits and endings take the
longer path.

::

    receive() ──> handshake, then parser ──> events
                          │ Ping, Pong, close frame, error
                          v
                  keepalive · deadlines · ending
                          │ Pong, Ping, close frame
                          v
    send() ────> encoder ──> output ──> data_to_send()

- Automatic output is written by :meth:`Session.data_to_send`: Pongs before the caller's output, and
  after it the close frame that answers the peer's, or reports the peer's protocol error, so that
  messages received before it can still be answered.
- ``transport_action`` says what to do with the transport: ``CLOSE`` to close it when everything is
  written (RFC 6455 §7.1.1: the server closes first, and a client waits for that), ``ABORT`` to drop
  it at once.
- The end of the transport, for any reason, is reported with ``receive(None, now)``; that, or a
  deadline, produces the one :class:`~wsproto_sip.session.lifecycle.ConnectionClosed`.

An ending has three steps, each taken at most once: a cause is recorded (``_end_because``), the
state becomes ``CLOSED`` and the transport is told to end (``_enter_closed``), and
``ConnectionClosed`` is delivered (``_report_end``).
"""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Any, Final

from .._implementation import PARSER
from .._masking import KeySource
from ..connection import arrange_extensions
from ..events import (
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from ..frame_protocol import CloseReason, FrameEncoder, Opcode, wire_code
from ..handshake import H11Handshake
from ..limits import bound
from ..states import TRANSITIONS, ConnectionState, ConnectionType, Step
from ..utilities import LocalProtocolError, RemoteProtocolError
from .config import SessionConfig
from .deadlines import Deadlines, Timer, after
from .ending import Ending
from .keepalive import Keepalive, KeepaliveAction
from .lifecycle import Cause, CheckTransport, TransportAction
from .output import Output
from .prepared import PreparedMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._parser import FrameParser
    from ..extensions import Extension
    from ..typing import BytesLike, Entropy, ParsedHeaders
    from .keepalive import KeepaliveConfig

__all__ = ["Session"]

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT: Final = SessionConfig()
#: Created once: a union in isinstance() is created anew on each call.
_MESSAGES: Final = (Message, PreparedMessage)
#: The input of a session without any; never changed.
_NO_INPUT: Final = bytearray()
#: How many held bytes are given to the parser at a time.
_PORTION: Final = 64 * 1024
#: Shared by nearly all sessions: an idle connection should cost little.
_SYSTEM_KEYS: Final = KeySource()


class Session:
    """One connection, from the first byte to the last.

    Args:
        role: Which end this is.
        now: The current time, in seconds on any monotonic clock. All methods take the time of the
            same clock.
        config: The configuration.

    Attributes:
        role: Which end this is.
        config: The configuration; that of the sub-protocol's profile once that is known.
        subprotocol: The sub-protocol in use, or ``None``.
        extensions: The extensions in use.
        transport_action: What to do with the transport.
        paused: Whether messages are held back until :meth:`resume`; the adapter should not read
            meanwhile.
        keepalive: The keep-alive, which is active while the connection is open.
        refusal: The automatic rejection of an opening handshake by a server: the status, and the
            request as far as one was read; ``None`` otherwise.
        controls_sent: How many control frames were sent; a caller that counts them may reset it.
        touched: Set by every call after which there may be output, another state or an earlier
            deadline: by all calls except reads that only bring messages. A caller with many
            sessions checks the touched ones, and resets it.

    Raises:
        TypeError: ``config`` is of another type.
    """

    __slots__ = (
        "_control_time",
        "_control_tokens",
        "_deadlines",
        "_delivered",
        "_delivered_bytes",
        "_direct",
        "_ending",
        "_fragments",
        "_front",
        "_handshake",
        "_input",
        "_input_ended",
        "_now",
        "_output",
        "_parser",
        "_paused_at",
        "_state",
        "_unread",
        "config",
        "controls_sent",
        "extensions",
        "keepalive",
        "paused",
        "refusal",
        "role",
        "subprotocol",
        "touched",
        "transport_action",
    )

    def __init__(
        self, role: ConnectionType, *, now: float, config: SessionConfig = _DEFAULT
    ) -> None:
        if not isinstance(config, SessionConfig):
            raise TypeError(f"config must be a SessionConfig, not {type(config).__name__}")
        self.role = role
        self.config = config
        self.subprotocol: str | None = None
        self.extensions: Sequence[Extension] = ()
        self.transport_action = TransportAction.NONE
        self.paused = False
        self.touched = True
        self.refusal: tuple[int, Request | None] | None = None
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
        self._parser: FrameParser | None = None
        # What takes input before the parser does; the parser itself in the pure engine.
        self._front: Any = None
        self._output = Output(FrameEncoder(role is ConnectionType.CLIENT, _keys(config.entropy)))
        self._deadlines = Deadlines()
        self._deadlines.set(Timer.OPEN, after(now, config.open_timeout))
        # ``None`` until there is a cause for this session to end.
        self._ending: Ending | None = None
        # Events that occurred outside a call that returns events.
        self._unread: list[Event] | None = None
        # Whether input goes straight to the parser: nothing waits, and nothing is paused.
        self._direct = False
        # Bytes that arrived while paused, or with the handshake; whether the end arrived with them.
        self._input = _NO_INPUT
        self._input_ended = False
        # While paused, when parsing stopped.
        self._paused_at = now
        # Messages delivered since the last resume().
        self._delivered = 0
        self._delivered_bytes = 0
        # Fragments that were received and not yet counted by the caller.
        self._fragments = 0
        # The token bucket that limits control frames.
        self._control_tokens: float = config.limits.control_burst
        self._control_time = now

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
        """Create a session whose handshake was done elsewhere: HTTP/2, HTTP/3, another server.

        Args:
            role: Which end this is.
            now: The current time.
            config: How the session behaves.
            subprotocol: The negotiated sub-protocol.
            extensions: The negotiated extensions.
            trailing_data: Bytes received after the handshake.

        Returns:
            The session, open.
        """
        session = cls(role, now=now, config=config)
        session._open(subprotocol, list(extensions), trailing_data)
        return session

    @property
    def state(self) -> ConnectionState:
        """The state of the session; see :data:`~wsproto_sip.states.TRANSITIONS`."""
        return self._state

    @property
    def closed(self) -> bool:
        """Whether ``ConnectionClosed`` has been delivered."""
        return self._ending is not None and self._ending.reported

    @property
    def writable(self) -> bool:
        """Whether fewer than ``limits.high_water`` bytes wait to be sent."""
        output = self._output
        return output.waiting + output.backlog < self.config.limits.high_water

    @property
    def round_trip_time(self) -> float | None:
        """Seconds between the last answered Ping and its Pong; ``None`` before the first."""
        return self.keepalive.round_trip_time

    @property
    def last_received(self) -> float:
        """When the peer last sent anything, or the session was created."""
        return self.keepalive.last_received

    # -- opening -----------------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Size in bytes of a partly received message; 0 if pieces are delivered."""
        parser = self._parser
        return 0 if parser is None else parser.put_aside + self._front.arrived

    @property
    def joined(self) -> int:
        """How many messages were assembled from more than one part; identifies the current one."""
        parser = self._parser
        return 0 if parser is None else parser.joined + self._front.completed

    def initiate_upgrade_connection(
        self, headers: ParsedHeaders, path: bytes | str, now: float
    ) -> list[Event]:
        """Start from an upgrade request that the caller's HTTP server has parsed (servers only).

        Give bytes that the server has read after the request to :meth:`receive`.

        Args:
            headers: The request's header fields, in order, as bytes or as text.
            path: The request target, path and query.
            now: The current time.

        Returns:
            The ``Request``; or nothing if it is not a valid opening handshake (RFC 6455 §4.2.1), in
            which case an error response waits to be sent.

        Raises:
            LocalProtocolError: This is a client, or a request was received already.
        """
        self._set_time(now)
        handshake = self._handshake
        if handshake is None:
            raise LocalProtocolError(f"a request cannot be accepted in state {self._state.name}")
        try:
            handshake.initiate_upgrade_connection(headers, path)
        except RemoteProtocolError as exc:
            self._fail_handshake(handshake, Cause.PROTOCOL_ERROR, exc)
        return [*handshake.events()]

    def _receive_handshake(self, handshake: H11Handshake, data: bytes, events: list[Event]) -> None:
        """Pass input to the handshake: bytes, or else the end."""
        try:
            handshake.receive_data(data or None)
        except RemoteProtocolError as exc:
            events += handshake.events()
            cause = Cause.PROTOCOL_ERROR if data else Cause.END_OF_INPUT
            self._fail_handshake(handshake, cause, exc)
            return
        events += handshake.events()
        self._follow_handshake(handshake)

    def _follow_handshake(self, handshake: H11Handshake) -> None:
        """Move to the state that the handshake has reached."""
        if handshake.state is _OPEN:
            self._open(
                handshake.subprotocol, handshake.accepted_extensions, handshake.trailing_data
            )
        elif handshake.state is _REJECTING and self._state is _CONNECTING:
            self._end_because(Cause.REJECTION)
            self._move(Step.REJECT)
        elif handshake.state is _CLOSED and self._state is not _CLOSED:
            self._end_because(Cause.REJECTION)
            self._enter_closed(TransportAction.CLOSE)

    def _fail_handshake(
        self, handshake: H11Handshake, cause: Cause, exc: RemoteProtocolError
    ) -> None:
        """Fail an invalid handshake, with an error response if the peer still waits for one."""
        self._end_because(cause, str(exc))
        hint = exc.event_hint
        action = TransportAction.CLOSE
        if cause is Cause.END_OF_INPUT:
            pass
        elif isinstance(hint, RejectConnection):
            self.refusal = hint.status_code, handshake.seen
            self._output.write(handshake.send(hint))
        else:
            # A client has nothing to say to such a server, which may not speak WebSocket or HTTP at
            # all and may wait for us: the program is told at once.
            action = TransportAction.ABORT
        self._enter_closed(action)

    def _abandon_handshake(self, status: int) -> None:
        """End an unfinished handshake, with a response if one can still be sent."""
        action = TransportAction.ABORT
        handshake = self._handshake
        if (
            handshake is not None
            and self._state is _CONNECTING
            and self.role is ConnectionType.SERVER
        ):
            self.refusal = status, handshake.seen
            self._output.write(handshake.send(RejectConnection(status_code=status)))
            action = TransportAction.CLOSE
        self._enter_closed(action)

    def _open(
        self, subprotocol: str | None, extensions: list[Extension], trailing_data: bytes
    ) -> None:
        """Start to exchange frames."""
        before = config = self.config
        if subprotocol is not None:
            config = self.config = before.profiles.get(subprotocol, before)
        # A configuration set in the meantime is kept.
        keepalive = self.keepalive.config
        if keepalive is before.keepalive:
            keepalive = config.keepalive
        limits = config.limits
        client = self.role is ConnectionType.CLIENT
        self.subprotocol = subprotocol
        in_use, deflate, rest = arrange_extensions(extensions, limits, client)
        self.extensions, chain = tuple(in_use), tuple(rest)
        frames = limits.max_frames_per_call
        if config.auto_pause and bound(limits.max_queued_messages) < bound(frames):
            frames = limits.max_queued_messages
        self._parser = PARSER(
            client,
            limits,
            deflate,
            chain,
            whole_messages=config.whole_messages,
            text_as_bytes=config.text_as_bytes,
            max_frames=frames,
        )
        self._front = self._parser.front
        self._output.encoder = FrameEncoder(client, _keys(config.entropy), deflate, chain)
        self._handshake = None
        self._move(Step.ACCEPT)
        now = self._now
        self.keepalive = Keepalive(keepalive, now=now, entropy=config.entropy)
        self._deadlines.clear(Timer.OPEN)
        self._deadlines.set(Timer.IDLE, after(now, config.idle_timeout))
        self._deadlines.set(Timer.AGE, after(now, config.max_age))
        self._control_tokens = limits.control_burst
        self._control_time = now
        if trailing_data:
            self._input = bytearray(trailing_data)
        self._direct = not (self._input or self.paused)

    # -- output ------------------------------------------------------------------------------------

    def send(self, event: Event | PreparedMessage, now: float) -> None:
        """Send an event; :meth:`data_to_send` has the bytes.

        Args:
            event: In the handshake ``Request`` (client), ``AcceptConnection``,
                ``RejectConnection`` or ``RejectData`` (server); then a message or a piece of one,
                a prepared message, ``Ping``, ``Pong`` or ``CloseConnection``.
            now: The time.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents can never be sent.
                The session is unchanged.
            TypeError: The argument is not an event that can be sent.
        """
        self._set_time(now)
        handshake = self._handshake
        if handshake is not None:
            # Responses are not limited, because nothing else could be sent instead.
            self._output.write(handshake.send(event))  # type: ignore[arg-type]
            self._follow_handshake(handshake)
        elif isinstance(event, _MESSAGES):
            if self._state is not _OPEN and not self._may_answer():
                raise self._refusal(event)
            encoder = self._output.encoder
            if isinstance(event, PreparedMessage):
                self._write_message(event.frame(encoder))
            else:
                self._write_message(encoder.message(event))
        elif isinstance(event, CloseConnection):
            if self._state is not _OPEN and self._state is not _REMOTE_CLOSING:
                raise self._refusal(event)
            self._send_close(event, Cause.LOCAL)
        elif isinstance(event, Ping | Pong):
            if self._state is not _OPEN:
                raise self._refusal(event)
            if isinstance(event, Ping):
                self._send_ping(event)
            else:
                self._write_control(Opcode.PONG, event.payload)
        elif self._state is not _OPEN or isinstance(event, Event):
            # For example an answer to a handshake that has timed out meanwhile, or a second one.
            raise self._refusal(event)
        else:
            raise TypeError(f"not an event that an open session sends: {event!r}")

    def send_message(self, message: str | BytesLike | PreparedMessage, now: float) -> bytes:
        """Send a whole message and take the output, which is usually its frame alone.

        This is :meth:`send` and :meth:`data_to_send` in one step. If nothing else waits to be sent,
        it costs less, and does not touch the session.

        Args:
            message: ``str`` is sent as text, bytes as binary; or a prepared message.
            now: The time.

        Returns:
            The bytes to write to the transport, including automatic answers.

        Raises:
            LocalProtocolError: As for :meth:`send`.
            TypeError: The message is of another type.
        """
        output = self._output
        text = isinstance(message, str)
        if self._state is not _OPEN or output.waiting or output.pongs or output.backlog:
            event: Event | PreparedMessage
            if isinstance(message, PreparedMessage):
                event = message
            else:
                event = TextMessage(message) if text else BytesMessage(message)  # type: ignore[arg-type]
            self.send(event, now)
            return self.data_to_send()
        encoder = output.encoder
        if text:
            raw = encoder.text(message)  # type: ignore[arg-type]
        elif isinstance(message, PreparedMessage):
            raw = message.frame(encoder)
        else:
            raw = encoder.binary(message)  # type: ignore[arg-type]
        output.handed_out += len(raw)
        return raw

    def _may_answer(self) -> bool:
        """Return whether earlier messages may be answered although reading has stopped (§5.5.1)."""
        ending = self._ending
        return self._state is _REMOTE_CLOSING and ending is not None and not ending.muted

    def _refusal(self, event: object) -> LocalProtocolError:
        return LocalProtocolError(
            f"{type(event).__name__} cannot be sent in state {self._state.name}"
        )

    def _write_message(self, raw: bytes) -> None:
        """Write a message, within the limit on waiting output."""
        output = self._output
        waited = output.waiting + output.backlog
        output.write(raw)
        most = self.config.limits.max_outgoing
        parser = self._parser
        # A single message may have any length; the limit is on how much may pile up.
        if most is not None and waited and waited + len(raw) > most and parser is not None:
            parser.end_of_input()
            event = CloseConnection(CloseReason.POLICY_VIOLATION, "too much output waits")
            if self._state is _OPEN:
                # In other states, the peer's close frame or its failure was already the one such
                # event.
                self._unread = [*(self._unread or ()), event]
                self._direct = False
            self._break_off(event)

    def _write_control(self, opcode: Opcode, payload: bytes) -> None:
        """Write a control frame despite waiting output: these are few, and the last ends it."""
        output = self._output
        output.write(output.encoder.control(opcode, payload))
        self.controls_sent += 1

    def _send_ping(self, event: Ping) -> None:
        """Send a Ping for the caller."""
        payload = bytes(memoryview(event.payload))
        first = not self.keepalive.awaiting
        self._write_control(Opcode.PING, payload)
        self.keepalive.ping(payload, self._now)
        if first:
            self._time_ping()

    def _time_ping(self) -> None:
        """Start timing the Ping just written, unless it waits after a backlog."""
        self._output.mark_ping()
        if self._output.ping_waits:
            self._hold_ping()

    def _hold_ping(self) -> None:
        """Do not time the Ping while it waits; a stuck transport has its own deadline."""
        until = inf
        if self.config.send_timeout is None:
            until = self._now + self.keepalive.config.answer_timeout
        self.keepalive.hold(until)

    def _write_close(self, event: CloseConnection) -> CloseConnection:
        """Write a close frame; return it as the peer sees it.

        Raises:
            LocalProtocolError: The frame may not be sent. Nothing has changed.
        """
        output = self._output
        output.write(output.encoder.close(event.code, event.reason))
        self.controls_sent += 1
        code = wire_code(event.code)
        # Some codes only report an end, and are sent as another code or without one.
        return event if code in (None, event.code) else CloseConnection(code, event.reason)

    def take_fragments(self) -> int:
        """Return how many fragments were received since the last call, and reset the count.

        Returns:
            The number of frames of fragmented messages, not counting the last one of each.
        """
        count, self._fragments = self._fragments, 0
        return count

    def data_to_send(self) -> bytes:
        """Take the bytes to write to the transport.

        Returns:
            The bytes, including automatic answers; empty if there are none.
        """
        output = self._output
        if output.pongs or self._ending is not None:
            self._write_answers()
        return output.take()

    def _write_answers(self) -> None:
        """Write the automatic frames that follow the caller's own answers."""
        self.controls_sent += self._output.write_pongs()
        ending = self._ending
        if ending is not None and ending.answer is not None:
            self._send_close(ending.answer, Cause.REMOTE)

    def transport_backlog(self, size: int, now: float) -> None:
        """Report how many of the bytes handed out the transport has not sent yet.

        Adapters that know it call this after writing and when it changes. Then the output is
        limited by ``limits.max_outgoing``, ``writable`` includes the backlog, at most one automatic
        Pong waits with it, the time to answer a Ping starts when the Ping has left, and a transport
        that accepts nothing for ``send_timeout`` seconds ends the session. Once you have reported a
        backlog, report zero when it has drained.

        Args:
            size: How many bytes wait in the transport's own buffer.
            now: The time.
        """
        self._set_time(now)
        deadlines = self._deadlines
        moved = self._output.set_backlog(size) > 0
        if moved:
            deadlines.forget(Timer.SEND)
        if not size or self.closed:
            deadlines.clear(Timer.SEND)
        elif moved or deadlines[Timer.SEND] == inf:
            deadlines.set(Timer.SEND, after(now, self.config.send_timeout))
        keepalive = self.keepalive
        if keepalive.waiting:
            if not self._output.ping_waits:
                keepalive.release(now)
            elif moved or not keepalive.held:
                self._hold_ping()

    # -- input -------------------------------------------------------------------------------------

    def receive(self, data: BytesLike | None, now: float) -> list[Event]:
        """Take the next bytes from the peer.

        Args:
            data: Bytes, split anywhere, possibly empty; ``None`` at the end of input, or if the
                transport is gone for another reason.
            now: The current time.

        Returns:
            The events, in order. No input of the peer raises an exception.
        """
        if now < self._now:
            self._shift(now)
        self._now = now
        parser = self._parser
        if parser is None or not data or not self._direct:
            return self._receive_otherwise(data)
        self.keepalive.last_received = now
        events = self._front.receive(data)
        if type(events) is tuple:
            events = parser.rest(events)
        if parser.controls or parser.fragments or parser.halted or self.config.auto_pause:
            return self._act_on(events)
        return events  # type: ignore[no-any-return]

    def _receive_otherwise(self, data: BytesLike | None) -> list[Event]:
        """Take input during the handshake, while paused or busy, and at its end."""
        self.touched = True
        if self.closed:
            return []
        parser = self._parser
        raw = b""
        if data is None:
            self._input_ended = True
        elif not (self._input_ended or self._state is _CLOSED or (parser and parser.closed)):
            raw = bytes(memoryview(data))
        if raw:
            self.keepalive.last_received = self._now
        events: list[Event] = []
        if self._handshake is not None:
            if raw or data is None:
                self._receive_handshake(self._handshake, raw, events)
        elif raw and parser is not None:
            # Remaining work is done automatically, so only a pause has to be limited.
            held = len(self._input) + len(raw)
            if self.paused and held > bound(self.config.limits.max_paused_bytes):
                return [self._enforce_bound(parser, "too much input while paused")]
            if self._input:
                self._input += raw
            else:
                self._input = bytearray(raw)
        return self._continue_input(events)

    def _continue_input(self, events: list[Event]) -> list[Event]:
        """Continue with input that has already arrived, after other events."""
        parser = self._parser
        if parser is not None and not self.paused:
            events += self._parse_input(parser)
            self._direct = not (parser.paused or self._input)
        events = self._act_on(events)
        if self._input_ended and not self.closed and not self._has_input():
            self._end_of_input(events)
        return events

    def _parse_input(self, parser: FrameParser) -> list[Event]:
        """Parse the held input, up to the first events or the end of a call's work."""
        events: list[Event] = []
        while (parser.paused or self._input) and not events:
            portion = b""
            # The parser copies the bytes it leaves, so they have to be few.
            if self._input and not (parser.paused and parser.held >= _PORTION):
                portion = bytes(self._input[:_PORTION])
                del self._input[:_PORTION]
            events = parser.receive(portion)
            if parser.paused:
                break
        if parser.closed:
            self._input = _NO_INPUT
        return events

    def _has_input(self) -> bool:
        """Return whether received bytes wait to be parsed."""
        parser = self._parser
        return parser is not None and not parser.closed and (parser.paused or bool(self._input))

    def _act_on(self, events: list[Event]) -> list[Event]:
        """Act on the parser's events."""
        self.touched = True
        parser = self._parser
        if parser is not None and parser.halted:
            self._direct = False
        if parser is not None and (parser.controls or parser.fragments or parser.closed):
            self._fragments += parser.fragments
            controls = parser.controls
            parser.controls = parser.fragments = 0
            pings: list[bytes] = []
            for event in events:
                kind = type(event)
                if kind is Ping:
                    pings.append(event.payload)  # type: ignore[attr-defined]
                elif kind is Pong:
                    self.keepalive.pong(event.payload, self._now)  # type: ignore[attr-defined]
                elif isinstance(event, CloseConnection):
                    if parser.failed:
                        self._fail_for(event)
                    else:
                        self._receive_close(event)
            # RFC 6455 §5.5.2: a Ping after a close frame gets no Pong; but those before it do.
            if pings and self.config.auto_pong and self._state is not _CLOSED:
                self._output.answer(pings)
            # The other events, nearly always messages, pay for one each.
            unpaid = 2 * controls - len(events)
            if unpaid > 0 and not self._afford(unpaid) and not parser.closed:
                events.append(self._enforce_bound(parser, "too many control frames"))
        if self.config.auto_pause and parser is not None:
            self._count_delivered(events)
        if self._unread:
            events, self._unread = [*self._unread, *events], None
        return events

    def _afford(self, controls: int) -> bool:
        """Take control frames out of their bucket; return ``False`` if there are too many."""
        rate = self.config.limits.max_control_rate
        if rate is None:
            return True
        burst = self.config.limits.control_burst
        tokens = self._control_tokens + (self._now - self._control_time) * rate
        self._control_tokens = min(tokens, burst) - controls
        self._control_time = self._now
        return self._control_tokens >= 0

    def _count_delivered(self, events: list[Event]) -> None:
        """Count delivered messages, and pause after a queue's worth."""
        for event in events:
            if isinstance(event, Message):
                data = event.data
                self._delivered += event.message_finished
                if isinstance(data, str) and not data.isascii():
                    data = data.encode()
                self._delivered_bytes += len(data)
        limits = self.config.limits
        # Only once, because another pause() would mean that the application is still working.
        if not self.paused and (
            self._delivered >= bound(limits.max_queued_messages)
            or self._delivered_bytes >= bound(limits.max_queued_bytes)
        ):
            self.pause(self._now)

    def pause(self, now: float) -> None:
        """Hold back input from now on; the adapter should stop reading.

        Deadlines that wait for the peer are extended by the duration of the pause. A pause ends the
        connection after ``pause_timeout`` seconds; another call restarts that time, because the
        application is still working.

        Args:
            now: The time.
        """
        self._set_time(now)
        if not self.paused:
            self.paused = True
            self._direct = False
            self._paused_at = now
        if self._state is _OPEN:
            self._deadlines.set(Timer.PAUSE, after(now, self.config.pause_timeout))

    def resume(self, now: float) -> list[Event]:
        """Continue after a pause.

        Args:
            now: The time.

        Returns:
            The events held back, up to the next pause.
        """
        self._set_time(now)
        paused, self.paused = self.paused, False
        if self.closed:
            return []
        if paused:
            self._deadlines.clear(Timer.PAUSE)
            self.keepalive.looked_away(self._paused_at, now)
            if self._state is _OPEN:
                self._deadlines.set(Timer.IDLE, after(now, self.config.idle_timeout))
        self._delivered = self._delivered_bytes = 0
        return self._continue_input([])

    def deliver_pieces(self, now: float) -> list[Event]:
        """Deliver the pieces of messages as they arrive from now on, instead of whole messages.

        A session with an unfinished handshake uses its configuration instead.

        Args:
            now: The time.

        Returns:
            The pieces of an incomplete message received so far.
        """
        self._set_time(now)
        parser = self._parser
        return [] if parser is None else self._act_on(parser.deliver_pieces())

    # -- closing -----------------------------------------------------------------------------------

    def close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        now: float,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Start to close, in any state; repeated calls do nothing.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 bytes in UTF-8; longer ones are cut.
            now: The time.
            cause: Why it is closed.

        Raises:
            LocalProtocolError: The code may not be sent, or the reason cannot be encoded.
        """
        self._set_time(now)
        if self._state in (_OPEN, _REMOTE_CLOSING):
            self._send_close(CloseConnection(code, reason), cause)
        elif self._handshake is not None:
            self._end_because(cause, reason)
            self._abandon_handshake(503)

    def abort(self, *, now: float, cause: Cause = Cause.LOCAL) -> list[Event]:
        """End the session at once, without a close frame.

        Args:
            now: The time.
            cause: Why it is ended.

        Returns:
            The ``ConnectionClosed``, unless it was delivered before.
        """
        self._set_time(now)
        events, self._unread = self._unread or [], None
        if not self.closed:
            self._end_because(cause)
            self._report_end(TransportAction.ABORT, events)
        return events

    def tls_failed(self, *, now: float) -> list[Event]:
        """End the session because TLS failed; the code is 1015 (RFC 6455 §7.4.1).

        Args:
            now: The time.

        Returns:
            The ``ConnectionClosed``, unless it was delivered before.
        """
        return self.abort(now=now, cause=Cause.TLS)

    def _send_close(self, event: CloseConnection, cause: Cause) -> None:
        """Send our close frame, the first one or the answer to the peer's.

        Raises:
            LocalProtocolError: The frame may not be sent. The session is unchanged.
        """
        ending = self._ending
        if ending is not None and ending.failed and ending.answer is not None:
            # RFC 6455 §7.1.7: our close frame reports why the connection has failed.
            event = ending.answer
        sent = self._write_close(event)
        ending = self._end_because(cause)
        ending.sent = sent
        self._move(Step.SEND_CLOSE)
        self._arm_close_deadline()
        if self._state is _CLOSED and (self.role is ConnectionType.SERVER or ending.failed):
            # RFC 6455 §7.1.1: the server closes TCP first.
            self.transport_action = TransportAction.CLOSE

    def _receive_close(self, event: CloseConnection) -> None:
        """Act on the peer's close frame, which is the parser's last event."""
        ending = self._end_because(Cause.REMOTE)
        ending.received = event
        self._move(Step.RECEIVE_CLOSE)
        self._arm_close_deadline()
        if self._state is _REMOTE_CLOSING:
            if self.config.auto_close:
                ending.answer = event.response()
        elif self.role is ConnectionType.SERVER:
            # RFC 6455 §7.1.1: the server closes TCP first.
            self.transport_action = TransportAction.CLOSE

    def _fail_for(self, event: CloseConnection) -> None:
        """Fail the connection because of the peer's input (RFC 6455 §7.1.7)."""
        limit = event.code in (CloseReason.MESSAGE_TOO_BIG, CloseReason.POLICY_VIOLATION)
        ending = self._end_because(Cause.LIMIT if limit else Cause.PROTOCOL_ERROR, event.reason)
        ending.failed = True
        if self._state is _OPEN:
            # Earlier messages may be answered before our close frame, as before an answer to the
            # peer's.
            self._move(Step.RECEIVE_CLOSE)
            self._arm_close_deadline()
            if self.config.auto_close:
                ending.answer = event
        else:
            self._enter_closed(TransportAction.CLOSE)

    def refuse_input(self, reason: str, now: float) -> list[Event]:
        """Fail the connection (1008) because of input that the caller cannot hold.

        Args:
            reason: The reason, for the close frame.
            now: The time.

        Returns:
            The events.
        """
        self._set_time(now)
        parser = self._parser
        if parser is None or parser.closed or self.closed:
            return []
        self.touched = True
        return [self._enforce_bound(parser, reason)]

    def _enforce_bound(self, parser: FrameParser, reason: str) -> CloseConnection:
        """Fail the connection for exceeding a limit on input; return the event that reports it."""
        parser.end_of_input()
        self._input = _NO_INPUT
        self._output.drop_pongs()
        event = CloseConnection(CloseReason.POLICY_VIOLATION, reason)
        self._fail_for(event)
        return event

    def _break_off(self, event: CloseConnection) -> None:
        """Fail the connection because too much output waits; nothing more may be added."""
        ending = self._end_because(Cause.LIMIT, event.reason)
        ending.failed = ending.muted = True
        ending.answer = None
        self._output.drop_pongs()
        if self.config.auto_close:
            ending.sent = self._write_close(event)
        elif self._state is _OPEN:
            # The caller sends the close frame.
            self._move(Step.RECEIVE_CLOSE)
            self._arm_close_deadline()
            return
        self._enter_closed(TransportAction.CLOSE)

    def _end_of_input(self, events: list[Event]) -> None:
        """End because the transport has ended."""
        ending = self._end_because(Cause.END_OF_INPUT)
        if ending.answer is not None:
            # The transport may be closed in one direction only.
            self._write_answers()
        self._report_end(TransportAction.CLOSE, events)

    def _end_because(self, cause: Cause, detail: str | None = None) -> Ending:
        """Record why the session ends; the first reason is kept."""
        ending = self._ending
        if ending is None:
            ending = self._ending = Ending(cause, detail or "")
        return ending

    def _enter_closed(self, action: TransportAction) -> None:
        """Stop sending; the transport has until the close deadline to end."""
        self._move(Step.END)
        self._arm_close_deadline()
        self._handshake = None
        self._input = _NO_INPUT
        # ABORT is final: a gentler action must not follow it.
        if self.transport_action is not TransportAction.ABORT:
            self.transport_action = action

    def _report_end(self, action: TransportAction, events: list[Event]) -> None:
        """Deliver the one ``ConnectionClosed``, and release everything."""
        self._enter_closed(action)
        self._parser = self._front = None
        self._deadlines.clear_all()
        events.append(self._end_because(Cause.LOCAL).report())

    def _move(self, step: Step) -> None:
        """Move to the next state."""
        self._state = TRANSITIONS[self._state, step]
        if self._state is _CLOSED:
            # RFC 6455 §5.5.2: Pongs are not required after a close frame.
            self._output.drop_pongs()
            # The close frame that was to follow the answers is not sent any more.
            self._end_because(Cause.LOCAL).answer = None

    # -- time --------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether the next call can produce events without input and without waiting."""
        if self._direct:
            return False
        return bool(self._unread) or (not self.paused and self._has_input())

    def next_deadline(self) -> float | None:
        """Return the latest time to call :meth:`handle_timeout`.

        Returns:
            The time, which is in the past if there is remaining work; ``None`` without a deadline.
        """
        if self._ending is not None and self.closed:
            return None
        if not self._direct and self.has_work:
            return self._now
        when = self._deadlines.next()
        if self._keeps_alive():
            when = min(when, self.keepalive.next_deadline())
        return None if when == inf else when

    def put_off(self, now: float) -> float | None:
        """Move the keep-alive's deadline if input has arrived since it was set.

        :meth:`handle_timeout` does so too. This is for callers that keep the deadlines of many
        sessions: if the result is later than now, they need not call it.

        Args:
            now: The time.

        Returns:
            The next deadline, as from :meth:`next_deadline`.
        """
        put_off = self.keepalive.put_off(now)
        if self.touched or self.paused or self._state is not _OPEN:
            return self.next_deadline()
        when = min(self._deadlines.next(), put_off)
        return None if when == inf else when

    def _keeps_alive(self) -> bool:
        # While paused, the answer may be in the unread input.
        return self._state is _OPEN and not (self.paused and self.keepalive.waiting)

    def handle_timeout(self, now: float) -> list[Event]:
        """Perform the actions that are due.

        Args:
            now: The current time; early and repeated calls do nothing.

        Returns:
            The events.
        """
        self._set_time(now)
        if self.closed:
            return []
        events = self._continue_input([])
        if self._deadlines.next() <= now:
            self._pass_deadlines(events)
        if self._keeps_alive():
            self._keep_alive(self.keepalive, events)
        return events

    def _pass_deadlines(self, events: list[Event]) -> None:
        """Act on the timers that are due."""
        now = self._now
        config = self.config
        deadlines = self._deadlines
        if deadlines[Timer.SEND] <= now and not deadlines.forgive(
            Timer.SEND, now, config.send_timeout
        ):
            self._end_because(Cause.SEND_TIMEOUT, "the transport accepted no bytes for too long")
            self._report_end(TransportAction.ABORT, events)
            return
        if deadlines[Timer.CLOSE] <= now:
            if self._state is _LOCAL_CLOSING:
                ending = self._end_because(Cause.CLOSE_TIMEOUT)
                ending.cause = Cause.CLOSE_TIMEOUT
                ending.detail = "the close frame was not answered"
            self._report_end(TransportAction.ABORT, events)
            return
        if deadlines[Timer.OPEN] <= now and not deadlines.forgive(
            Timer.OPEN, now, config.open_timeout
        ):
            self._end_because(Cause.OPEN_TIMEOUT, "the opening handshake took too long")
            self._abandon_handshake(408)
        if deadlines[Timer.AGE] <= now:
            deadlines.clear(Timer.AGE)
            self._close_open(CloseReason.GOING_AWAY, "maximum age reached", Cause.AGE)
        if deadlines[Timer.PAUSE] <= now and not deadlines.forgive(
            Timer.PAUSE, now, config.pause_timeout
        ):
            deadlines.clear(Timer.PAUSE)
            self._close_open(
                CloseReason.INTERNAL_ERROR, "nothing was read for too long", Cause.PAUSE
            )
        if deadlines[Timer.IDLE] <= now:
            self._check_idle()

    def _check_idle(self) -> None:
        """Close an idle connection; input since the deadline was set moves it."""
        allowed = self.config.idle_timeout
        deadlines = self._deadlines
        alive_until = after(self.keepalive.last_received, allowed)
        if self.paused:
            # It is armed again after the pause.
            deadlines.clear(Timer.IDLE)
            return
        if alive_until > deadlines[Timer.IDLE]:
            deadlines.forget(Timer.IDLE)
        if alive_until > self._now:
            deadlines.set(Timer.IDLE, alive_until)
        elif not deadlines.forgive(Timer.IDLE, self._now, allowed):
            deadlines.clear(Timer.IDLE)
            self._close_open(CloseReason.GOING_AWAY, "idle for too long", Cause.IDLE)

    def _close_open(self, code: CloseReason, reason: str, cause: Cause) -> None:
        """Start to close, unless closing has started."""
        if self._state is _OPEN:
            self._send_close(CloseConnection(code, reason), cause)

    def _keep_alive(self, keepalive: Keepalive, events: list[Event]) -> None:
        """Perform the keep-alive's action."""
        action = keepalive.poll(self._now)
        if action is KeepaliveAction.PING:
            self._write_control(Opcode.PING, keepalive.payload)
            self._time_ping()
        elif action is KeepaliveAction.PONG:
            self._write_control(Opcode.PONG, keepalive.payload)
        elif action is KeepaliveAction.CHECK:
            events.append(CheckTransport())
        elif action is KeepaliveAction.DEAD:
            reason = "keep-alive timed out"
            self._end_because(Cause.KEEPALIVE, reason)
            self._send_close(CloseConnection(CloseReason.INTERNAL_ERROR, reason), Cause.KEEPALIVE)
            self._report_end(TransportAction.ABORT, events)

    def set_keepalive(self, config: KeepaliveConfig, now: float) -> None:
        """Change the keep-alive of the open connection.

        Args:
            config: The configuration from now on.
            now: The time.
        """
        self._set_time(now)
        self.keepalive.reconfigure(config, now)

    def _arm_close_deadline(self) -> None:
        """Set the deadline of closing; the first one is kept."""
        deadlines = self._deadlines
        if deadlines[Timer.CLOSE] == inf:
            deadlines.clear(Timer.OPEN)
            deadlines.set(Timer.CLOSE, after(self._now, self.config.close_timeout))

    def _set_time(self, now: float) -> None:
        """Update the time, at the start of every call except a plain read."""
        if now < self._now:
            self._shift(now)
        self._now = now
        self.touched = True

    def _shift(self, now: float) -> None:
        """Follow a clock that was set back: all deadlines keep their remaining time."""
        self.touched = True
        seconds = now - self._now
        self._deadlines.shift(seconds)
        self._control_time += seconds
        self._paused_at += seconds
        self.keepalive.shift(seconds)

    def describe(self, now: float) -> str:
        """Describe the session in a line of at most 200 characters that is safe to print.

        Args:
            now: The time.

        Returns:
            Role, state, sub-protocol, and the known facts about activity and the end.
        """
        words = [self.role.name.lower(), self._state.name]
        if self.subprotocol is not None:
            words.append(f"sub-protocol {ascii(self.subprotocol)[:40]}")
        words.append(f"last received {max(0.0, now - self.keepalive.last_received):.1f} s ago")
        if self.keepalive.awaiting:
            words.append("awaiting Pong")
        to_send = self._output.waiting + self._output.backlog
        if to_send:
            words.append(f"{to_send} bytes to send")
        if self._ending is not None:
            words.append(f"cause {self._ending.cause.value}")
        return ", ".join(words)[:200]


def _keys(entropy: Entropy) -> KeySource:
    return _SYSTEM_KEYS if entropy is os.urandom else KeySource(entropy)

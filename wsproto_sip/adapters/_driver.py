"""The driver of a session: the part that all adapters share, whatever moves the bytes.

Theory of operation: a :class:`Driver` holds the session of one connection and all that a program
waits for: messages to be received, Pings to be answered, and the end. Events of the session go to
:meth:`Driver._dispatch`: messages are appended to a short list, all other events are handled at
once. After each step that may have changed more than that, :meth:`Driver._follow_session` does what
the session asks for through a few methods that an adapter implements: write bytes, end the
transport, keep one deadline.

Back-pressure goes both ways. The session stops parsing when the queue of unreceived messages is
full, and the adapter stops reading. Pieces of messages wait in a queue of their own
(:mod:`wsproto_sip.adapters._pieces`) and count in the same way. A sender waits while more than
``limits.high_water`` bytes are outstanding.

Invariant: while the session has work, something will call it. One call parses a bounded number of
frames, and a paused session parses nothing, so most reads leave work over. It is continued by

- the timer, while the transport exists: the deadline of a session that has work is now;
- the receiver, while the session is paused: taking the last message resumes the session;
- :meth:`Driver._read_rest`, when the transport is gone and the timer has stopped: it parses to the
  end at once. Only messages that inflate to more than ``limits.max_inflated_per_read`` bytes stop
  it; then messages wait to be received, and taking the last of those continues.

A connection whose transport is gone therefore has its end in ``closed``, or has messages to
receive. That end is what the peer sent: its close frame counts, however late it is parsed, and
``recv()``, ``send()``, ``ping()`` and ``wait_closed()`` all report the same. If writing fails while
the transport can still be read, as on sockets, it is read to its end before a sender is told.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..events import (
    AcceptConnection,
    BytesMessage,
    Ping,
    PlainRequest,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from ..frame_protocol import CloseReason
from ..limits import bound
from ..session.lifecycle import Cause, ConnectionClosed, TransportAction
from ..session.prepared import PreparedMessage
from ..states import ConnectionState
from ..utilities import LocalProtocolError
from ._pieces import AsyncPieceIterator, PieceIterator, PieceQueue
from .exceptions import ConnectionClosedError, HandshakeRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..auth.identity import Identity
    from ..events import Event
    from ..policy.decision import Reject
    from ..session.session import Session
    from ..typing import Address
    from ._pieces import PieceReceiver

__all__ = [
    "BODY_KEPT",
    "Driver",
    "Message",
    "PieceKind",
    "Pieces",
    "WholeMessage",
    "is_pieces",
    "last_piece",
    "message_event",
    "piece_event",
]

#: Bytes of a rejection's body that a client keeps.
BODY_KEPT: Final = 64 * 1024

#: Seconds that a receiver has, after the peer's close frame, to answer earlier messages.
_GRACE: Final = 1.0

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_CLOSED = ConnectionState.CLOSED

#: Seconds that a client waits for the body of a rejection after its head.
_BODY_TIME: Final = 1.0

#: Overhead of a message in bytes, when kept messages are counted.
_OVERHEAD: Final = 50

#: The end of a connection whose transport was lost before its end was read.
_LOST: Final = ConnectionClosed(1006, "the transport has ended", Cause.END_OF_INPUT)

#: A waiter for a Pong.
W = TypeVar("W")

#: A message to send: as a whole, or in pieces.
WholeMessage = str | bytes | bytearray | memoryview | PreparedMessage
Pieces = (
    Iterable[str]
    | Iterable[bytes]
    | AsyncIterable[str]
    | AsyncIterable[bytes]
    | PieceIterator
    | AsyncPieceIterator
)
Message = WholeMessage | Pieces

#: The event of a piece of a message.
PieceKind = type[TextMessage] | type[BytesMessage]


def message_event(message: WholeMessage) -> Event | PreparedMessage:
    """Return the event that sends a message.

    Args:
        message: Text, bytes, or a prepared message.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        return BytesMessage(message)  # type: ignore[arg-type]
    if isinstance(message, str):
        return TextMessage(message)
    if isinstance(message, PreparedMessage):
        return message
    raise TypeError(f"a message must be str, bytes-like or prepared, not {type(message).__name__}")


def is_pieces(message: object) -> bool:
    """Return whether a message is given in pieces, by a synchronous or asynchronous iterable.

    Args:
        message: The message to send.
    """
    if isinstance(message, str | bytes | bytearray | memoryview | Mapping):
        return False
    return isinstance(message, Iterable | AsyncIterable)


def piece_event(piece: object, kind: PieceKind | None) -> TextMessage | BytesMessage:
    """Return the event that sends a piece of a message, with more to follow.

    Args:
        piece: Text or bytes.
        kind: The kind of the earlier pieces; ``None`` for the first piece.

    Raises:
        TypeError: It is something else, or the pieces differ.
    """
    event: TextMessage | BytesMessage
    if isinstance(piece, str):
        event = TextMessage(piece, message_finished=False)
    elif isinstance(piece, bytes | bytearray | memoryview):
        event = BytesMessage(piece, message_finished=False)  # type: ignore[arg-type]
    else:
        raise TypeError(
            f"a piece of a message must be str or bytes-like, not {type(piece).__name__}"
        )
    if kind is not None and kind is not type(event):
        raise TypeError("the pieces of a message must be all text, or all bytes")
    return event


def last_piece(kind: PieceKind) -> TextMessage | BytesMessage:
    """Return the event that ends a message in pieces: an empty piece.

    Args:
        kind: The kind of its pieces.
    """
    return TextMessage("") if kind is TextMessage else BytesMessage(b"")


class Driver(Generic[W]):
    """One connection, without its transport.

    Args:
        session: The session to drive.
        request: The request that a client starts with.
        time: The clock.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        closed: How the connection ended; ``None`` while it is open.
        request: The request of the opening handshake; on a server, ``None`` until it has arrived.
        response: On a connected client, the response to the request.
        rejection: On a rejected client, the response, with what has arrived of its body.
        peer: The other end's address and port. On a server, the client's, as corrected by policies;
            on a client, those it is connected to, which may be a proxy's. A Unix socket has no port
            and usually no address.
        local: This end's address and port.
        secure: Whether the peer's side of the connection uses TLS.
        identity: The identity of the client, if a policy has established it.
        on_control: Called with each Ping and Pong as it is read; ``None`` if not needed.
        method: The method of the request: ``GET``, or also ``HEAD`` for a plain request.
        upgrade: Whether the request asks for a WebSocket; False for a plain request.
    """

    # Class attributes, because most connections never need another value.
    peer: Address = ("", None)
    local: Address = ("", None)
    secure: bool = False
    identity: Identity | None = None
    on_control: Callable[[Ping | Pong], object] | None = None
    method: str = "GET"
    upgrade: bool = True
    # The task or thread that sends a message in pieces, so that others wait.
    _in_pieces: object = None
    # Unreceived pieces, on a connection that receives pieces.
    _pieces: PieceQueue | None = None

    def __init__(
        self, session: Session, request: Request | None, time: Callable[[], float]
    ) -> None:
        self.session = session
        self.request = request
        self.response: AcceptConnection | None = None
        self.closed: ConnectionClosed | None = None
        self._time = time
        # The rejection of a client's request, as far as it has arrived, and the latest time to
        # report it.
        self.rejection: HandshakeRejected | None = None
        self._report_by = inf
        # Unreceived messages.
        self._messages: list[str | bytes] = []
        config = session.config
        if not (config.whole_messages and all(p.whole_messages for p in config.profiles.values())):
            self._pieces = PieceQueue()
        # Whether the program has received a message and not yet asked for the next.
        self._busy = False
        # How many more bytes of messages are kept beyond the queue: unlimited while the session's
        # pause bounds them, and none once this side closes.
        self._budget = inf
        # Whether parsed messages are dropped instead of kept.
        self._dropping = False
        self._pings: dict[bytes, W] | None = None
        # The latest time to answer the peer's close frame.
        self._answer_by = inf
        # Whether the transport is reading, and whether it is gone.
        self._reading = True
        self._gone = False
        # Whether a failure of TLS ended it.
        self._tls_failed = False
        # Whether the transport had unwritten bytes when last asked.
        self._stuck = False

    # -- implemented by an adapter -----------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        """Write bytes to the transport."""
        raise NotImplementedError

    def _backlog(self) -> int:
        """Return how many bytes the transport has not written yet."""
        raise NotImplementedError

    def _resume_reading(self) -> None:
        """Start reading again; ``_reading`` is set."""
        raise NotImplementedError

    def _end_output(self) -> None:
        """End the transport's output once everything is written; does nothing when repeated.

        The other direction is read until the peer ends it too, within the close deadline. Closing a
        transport with unread bytes would reset it, and the peer might never see the close frame.
        """
        raise NotImplementedError

    def _drop_transport(self) -> None:
        """End the transport at once."""
        raise NotImplementedError

    def _schedule(self, when: float, now: float) -> None:
        """Replace the deadline; infinity is for none."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wake receivers if there is a message or the end."""
        raise NotImplementedError

    def _opened(self, error: Exception | None) -> None:
        """End the client's handshake; only the first of several calls counts."""
        raise NotImplementedError

    def _answered(self, waiter: W, now: float) -> None:
        """End the wait for a Pong."""
        raise NotImplementedError

    def _unanswered(self, waiter: W) -> None:
        """End the wait for a Pong that will not come."""
        raise NotImplementedError

    def _requested(self) -> None:
        """Handle the request that a server has received."""

    # -- for the program ---------------------------------------------------------------------------

    @property
    def subprotocol(self) -> str | None:
        """The negotiated sub-protocol."""
        return self.session.subprotocol

    def begin_close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Start to close the connection, without waiting for the end.

        Arguments and exceptions are those of ``close()``.

        Args:
            code: The status code.
            reason: Text.
            cause: The cause to report with the end.
        """
        if self._gone:
            self._read_rest(drop=True)
        self._answer_by = -inf
        self.session.close(code, reason, now=self._time(), cause=cause)
        self._follow_session()

    def abort(self) -> None:
        """End the connection at once, without a close frame."""
        if self._gone:
            self._read_rest(drop=True)
        self._dispatch(self.session.abort(now=self._time()))
        self._follow_session()

    def accept(self, answer: AcceptConnection) -> None:
        """Accept the request, on a server.

        Args:
            answer: The answer.

        Raises:
            LocalProtocolError: The answer does not suit the request, or is too late.
        """
        self.session.send(answer, self._time())
        # Parse what arrived together with the request.
        self._dispatch(self.session.receive(b"", self._time()))
        self._follow_session()

    def reject(self, rejection: HandshakeRejected | Reject) -> None:
        """Reject the request, on a server; a plain request may be answered with a page in this way.

        Args:
            rejection: The answer.

        Raises:
            LocalProtocolError: It cannot be sent, or is too late.
            ValueError: Its status is not that of a final response.
        """
        now = self._time()
        for event in rejection.events():
            self.session.send(event, now)
        self._follow_session()

    def answer(self, answer: AcceptConnection | HandshakeRejected | Reject) -> bool:
        """Answer the request, on a server, unless it is too late.

        Args:
            answer: The answer.

        Returns:
            Whether the connection is open now.

        Raises:
            LocalProtocolError: The answer does not suit the request, or cannot be sent.
        """
        if self.session.state is not _CONNECTING:
            return False
        if isinstance(answer, AcceptConnection):
            self.accept(answer)
            return True
        self.reject(answer)
        return False

    # -- for the adapter ---------------------------------------------------------------------------

    def _closed_error(self) -> ConnectionClosedError:
        """Return the end of the connection, parsing what is left if the transport is gone."""
        if self._gone:
            self._read_rest(drop=True)
        return ConnectionClosedError(self.closed or _LOST)

    def _begin(self) -> None:
        """Start the session: a client sends its request."""
        if self.request is not None:
            try:
                self.session.send(self.request, self._time())
            except LocalProtocolError as error:
                self._opened(error)
                self._dispatch(self.session.abort(now=self._time()))
        self._follow_session()

    def _give(self, event: Event | PreparedMessage, now: float) -> bool:
        """Give the session something to send; return False if the connection is closing or closed.

        Raises:
            LocalProtocolError: It cannot be sent in any state.
        """
        session = self.session
        if self._gone:
            return False
        try:
            session.send(event, now)
        except LocalProtocolError:
            state = session.state
            if state is _OPEN or (state is _REMOTE_CLOSING and not isinstance(event, Ping | Pong)):
                raise
            return False
        return True

    def _check_turn(self, sender: object) -> None:
        """Refuse to wait for the end of a message from inside its own iterator.

        Args:
            sender: The task or thread that wants to send.

        Raises:
            RuntimeError: It is the one that sends a message in pieces.
        """
        if self._in_pieces == sender:
            raise RuntimeError("the iterator of a message sends on the message's own connection")

    def _ask_for_message(self) -> None:
        """Note that the program has handled the last message and waits for the next."""
        self._busy = False
        if self._answer_by != inf:
            # Everything before the close frame has been received, so answer it now.
            self._answer_by = -inf
            self._follow_session()

    def _take(self) -> str | bytes:
        """Take the first of the waiting messages."""
        message = self._messages.pop(0)
        self._busy = True
        if self.session.paused or self._gone:
            self._taken()
        return message

    def _taken(self) -> None:
        """Continue after something was received."""
        self._busy = True
        if self._refill() and self.session.paused:
            # Pausing anew restarts the bound on how long nothing is received.
            self.session.pause(self._time())

    def _refill(self) -> bool:
        """Parse on if nothing waits to be received, and return whether something does now."""
        if not (self._messages or self._pieces):
            if self._gone:
                self._read_rest()
            elif self.session.paused:
                self._dispatch(self.session.resume(self._time()))
                self._follow_session()
        return bool(self._messages or self._pieces)

    def _has_message(self) -> bool:
        """Return whether a message can be taken, joining its pieces if necessary.

        Raises:
            RuntimeError: Its pieces belong to an iterator.
        """
        pieces = self._pieces
        if pieces is not None and not self._messages:
            pieces.claim(None)
            while not self._messages:
                piece = pieces.take()
                if piece is not None:
                    message = pieces.join(*piece)
                    if message is not None:
                        self._messages.append(message)
                elif not self._refill():
                    break
        return bool(self._messages)

    def _receive_pieces(self) -> PieceQueue:
        """Receive messages in pieces from now on."""
        pieces = self._pieces
        if pieces is None:
            pieces = self._pieces = PieceQueue()
            self._dispatch(self.session.deliver_pieces(self._time()))
            self._follow_session()
        return pieces

    def _next_piece(self, receiver: PieceReceiver) -> str | bytes | None:
        """Take a piece for an iterator.

        Args:
            receiver: The iterator.

        Returns:
            The piece. ``None`` if the message is over, as the iterator knows, or if none is there.

        Raises:
            RuntimeError: The current message belongs to another iterator.
        """
        pieces = self._receive_pieces()
        pieces.claim(receiver)
        piece = None
        if self._messages:
            piece = pieces.give(receiver, self._messages.pop(0), True)
        elif (joined := pieces.take_parts()) is not None:
            # The beginning of the message, left over by a cancelled recv().
            piece = pieces.give(receiver, joined, False)
        else:
            while (taken := pieces.take()) is None and self._refill():
                pass
            if taken is not None:
                piece = pieces.give(receiver, *taken)
        if piece is not None or receiver.over:
            self._taken()
        return piece

    def _ping(self, payload: bytes | None, waiter: W) -> bytes | None:
        """Send a Ping and register the waiter for its answer.

        Returns:
            The payload, or ``None`` if the connection is closing or closed.

        Raises:
            LocalProtocolError: The payload is too long.
            ValueError: A Ping with this payload is already waiting.
        """
        payload = bytes(memoryview(self.session.config.entropy(8) if payload is None else payload))
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ValueError("a Ping with this payload is already waiting for its answer")
        if not self._give(Ping(payload), self._time()):
            return None
        self._pings[payload] = waiter
        self._follow_session()
        return payload

    def _pong(self, payload: bytes) -> bool:
        """Send a Pong; return False if the connection is closing or closed.

        Raises:
            LocalProtocolError: The payload is too long.
        """
        sent = self._give(Pong(bytes(memoryview(payload))), self._time())
        self._follow_session()
        return sent

    def _forget_ping(self, payload: bytes) -> None:
        """Drop the waiter of a Ping."""
        if self._pings:
            self._pings.pop(payload, None)

    def _lose(self, tls: bool) -> None:
        """Handle the loss of the transport: nothing can be read or written any more.

        Args:
            tls: Whether TLS has failed.
        """
        self._gone = True
        self._tls_failed = tls
        self._read_rest()
        self._fail_pings()
        self._wake()

    def _read_rest(self, *, drop: bool = False) -> None:
        """Parse what was read before the transport was lost, to the end.

        Messages are kept up to a bound, because what was read may inflate to far more. The excess
        stays compressed until the messages before it are received.

        Args:
            drop: Drop the excess instead, because the end is asked for.
        """
        session = self.session
        now = self._time()
        drop = drop or self._dropping
        if not drop:
            self._budget = self._most_kept()
        while not session.closed and (drop or self._budget > 0):
            self._dropping = drop and self._budget <= 0
            self._dispatch(session.resume(now))
            if not session.has_work:
                # Everything is parsed. What came before a failure of TLS counts too.
                self._dispatch(
                    session.tls_failed(now=now) if self._tls_failed else session.receive(None, now)
                )

    def _hurry(self) -> None:
        """Read to the end without waiting for a receiver, because nothing can be sent.

        Messages are kept up to a bound, and then dropped.
        """
        self._answer_by = -inf
        self._budget = min(self._budget, self._most_kept())
        if self.session.paused:
            self._dispatch(self.session.resume(self._time()))
        self._follow_session()

    def _most_kept(self) -> float:
        """Return how many bytes of messages are kept while no pause bounds them."""
        limits = self.session.config.limits
        most = max(bound(limits.max_queued_bytes), bound(limits.max_inflated_per_read), 1)
        return min(most, sys.maxsize)

    def _dispatch(self, events: list[Event]) -> None:
        """Handle events: store messages, wake waiters, and record what happened."""
        for event in events:
            kind = type(event)
            if kind is TextMessage or kind is BytesMessage:
                if self._dropping:
                    pass
                elif self._pieces is None:
                    self._messages.append(event.data)  # type: ignore[attr-defined]
                    self._budget -= len(event.data) + _OVERHEAD  # type: ignore[attr-defined]
                else:
                    self._budget -= self._pieces.put(event.data, event.message_finished)  # type: ignore[attr-defined]
            elif kind is Pong or kind is Ping:
                if kind is Pong:
                    self._ponged(event.payload)  # type: ignore[attr-defined]
                if self.on_control is not None:
                    self.on_control(event)  # type: ignore[arg-type]
            elif kind is ConnectionClosed:
                self.closed = event  # type: ignore[assignment]
                self._opened(self.rejection or ConnectionClosedError(event))  # type: ignore[arg-type]
                self._fail_pings()
            elif kind is Request:
                self.request = event  # type: ignore[assignment]
                self._requested()
            elif kind is PlainRequest:
                self.request, self.method = event.request, event.method  # type: ignore[attr-defined]
                self.upgrade = False
                self._requested()
            elif kind is AcceptConnection:
                self.response = event  # type: ignore[assignment]
                self._opened(None)
            elif kind is RejectConnection:
                self.rejection = HandshakeRejected(event.status_code, event.headers)  # type: ignore[attr-defined]
                self._report_by = self._time() + _BODY_TIME
            elif kind is RejectData and self.rejection is not None:
                rejection = self.rejection
                rejection.body += event.data[: BODY_KEPT - len(rejection.body)]  # type: ignore[attr-defined]
                if event.body_finished or len(rejection.body) >= BODY_KEPT:  # type: ignore[attr-defined]
                    self._report_by = -inf

    def _ponged(self, payload: bytes) -> None:
        """End the wait for a Pong and for earlier ones, which it answers too (RFC 6455 §5.5.3)."""
        pings = self._pings
        while pings and payload in pings:
            self._answered(pings.pop(next(iter(pings))), self._time())

    def _fail_pings(self) -> None:
        pings, self._pings = self._pings, None
        for waiter in (pings or {}).values():
            self._unanswered(waiter)

    def _follow_session(self) -> None:
        """Do what the session asks for."""
        if self._gone:
            self._wake()
            return
        session = self.session
        now = self._time()
        if self.rejection is not None and (now >= self._report_by or session.state is _CLOSED):
            # Report the status even if the body is incomplete.
            self._report_by = inf
            self._opened(self.rejection)
        if self._budget <= 0:
            self._dropping = True
        elif (
            (self._messages or self._pieces)
            and not session.paused
            and self._budget == inf
            and self._is_full()
        ):
            session.pause(now)
        if session.state is _LOCAL_CLOSING:
            self._drop_messages(now)
        elif self._held_back(now):
            self._schedule(min(self._answer_by, session.next_deadline() or inf), now)
            self._wake()
            return
        if data := session.data_to_send():
            self._write(data)
        backlog = self._backlog()
        if backlog or self._stuck:
            self._stuck = backlog > 0
            session.transport_backlog(backlog, now)
        action = session.transport_action
        if action is TransportAction.ABORT:
            self._drop_transport()
        elif not self._reading and not self._held_up:
            self._reading = True
            self._resume_reading()
        if action is TransportAction.CLOSE:
            self._end_output()
        deadline = session.next_deadline()
        self._schedule(min(inf if deadline is None else deadline, self._report_by), now)
        session.touched = False
        self._wake()

    @property
    def _held_up(self) -> bool:
        """Whether reading is suspended for a receiver or unfinished work; never after the end."""
        session = self.session
        return (session.paused or session.has_work) and session.state is not _CLOSED

    def _is_full(self) -> bool:
        """Return whether the queue of unreceived messages is full."""
        limits = self.session.config.limits
        count, size = len(self._messages), sum(map(len, self._messages))
        if self._pieces is not None:
            count += self._pieces.messages
            size += self._pieces.size
        return count >= bound(limits.max_queued_messages) or size >= bound(limits.max_queued_bytes)

    def _held_back(self, now: float) -> bool:
        """Return whether the answer to the peer's close frame is held back for a while.

        The program may want to answer messages that came before the close frame: those that wait,
        or the one it received last. It can do so until it asks for more, for a bounded time.
        """
        if self.session.state is not _REMOTE_CLOSING:
            return False
        if self._answer_by == inf:
            waiting = self._messages or self._pieces or self._busy
            self._answer_by = now + _GRACE if waiting else -inf
        if not self.session.writable:
            self._answer_by = -inf
        return now < self._answer_by

    def _drop_messages(self, now: float) -> None:
        """Read on to the peer's close frame, dropping the messages before it."""
        session = self.session
        while session.paused:
            self._dropping = True
            self._budget = -inf
            self._dispatch(session.resume(now))

    def _pass_deadline(self) -> None:
        """Handle a deadline that has passed."""
        now = self._time()
        if self._stuck:
            self.session.transport_backlog(self._backlog(), now)
        self._dispatch(self.session.handle_timeout(now))
        self._follow_session()

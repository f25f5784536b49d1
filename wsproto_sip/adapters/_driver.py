"""What drives a session, whatever moves its octets: the part that the adapters have in common.

Theory of operation: a :class:`Driver` is one connection's session together with what a program
waits for: messages that nobody has received yet, Pings that were not answered, and the end. What
the session gives goes to :meth:`Driver._dispatch`: messages wait in a short list, everything else
is dealt with at once. After each step that may have changed more than that, :meth:`Driver._settle`
does what the session wants, by the few methods that an adapter adds: octets to write, a transport
to end, one deadline to keep.

Back-pressure goes both ways. The session stops parsing when a queue's worth of messages was not
received, and the adapter stops reading. Who sends waits while more than ``limits.high_water``
octets are on their way.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..events import (
    AcceptConnection,
    BytesMessage,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from ..frame_protocol import CloseReason
from ..lifecycle import Cause, ConnectionClosed, TransportAction
from ..limits import bound
from ..states import ConnectionState
from ..utilities import LocalProtocolError
from ._common import BODY_KEPT, ConnectionClosedError, HandshakeRejected, lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events import Event
    from ..prepared import PreparedMessage
    from ..session import Session

__all__ = ["Driver"]

#: Seconds that whoever reads has, behind the peer's close frame, to answer what came before it.
_GRACE: Final = 1.0

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_CLOSED = ConnectionState.CLOSED

#: What waits for a Pong.
W = TypeVar("W")


class Driver(Generic[W]):
    """One connection, without its transport.

    Args:
        session: What it drives.
        request: What a client begins with.
        time: The clock.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        closed: How the connection ended; None while it has not.
        request: The request of the opening handshake, on a server once it is there.
        response: On a client that is connected, the answer to it.
    """

    def __init__(
        self, session: Session, request: Request | None, time: Callable[[], float]
    ) -> None:
        self.session = session
        self.request = request
        self.response: AcceptConnection | None = None
        self.closed: ConnectionClosed | None = None
        self._time = time
        self._rejection: HandshakeRejected | None = None
        self._body = b""
        # Messages that nobody has received yet.
        self._messages: list[str | bytes] = []
        # Whether somebody has received a message and not asked for the next.
        self._busy = False
        # Whether messages are read that nobody shall receive any more.
        self._dropping = False
        self._pings: dict[bytes, W] | None = None
        # When the peer's close frame is answered at the latest.
        self._answer_by = inf
        # Whether the transport reads, and whether it is gone.
        self._reading = True
        self._gone = False
        # Whether the transport had octets left when it was last asked.
        self._stuck = False

    # -- what an adapter adds ----------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        """Gives octets to the transport."""
        raise NotImplementedError

    def _backlog(self) -> int:
        """How many octets the transport has not taken yet."""
        raise NotImplementedError

    def _resume_reading(self) -> None:
        """Reads again; ``_reading`` is set."""
        raise NotImplementedError

    def _end_output(self) -> None:
        """Ends the transport when everything is written; once more does nothing.

        The other direction is read until the peer ends it too, within the close deadline: a
        transport that is closed with octets unread is reset, and the peer may never see the close
        frame.
        """
        raise NotImplementedError

    def _drop_transport(self) -> None:
        """Ends the transport at once."""
        raise NotImplementedError

    def _schedule(self, when: float, now: float) -> None:
        """Keeps a deadline in the place of the last one; infinity is none."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Wakes who receives, if there is a message or the end."""
        raise NotImplementedError

    def _opened(self, error: Exception | None) -> None:
        """The client's handshake has ended; called more often, the first time counts."""
        raise NotImplementedError

    def _answered(self, waiter: W, now: float) -> None:
        """Ends the waiting for a Pong."""
        raise NotImplementedError

    def _unanswered(self, waiter: W) -> None:
        """Ends it, because there will be none."""
        raise NotImplementedError

    def _requested(self) -> None:
        """A server has its request."""

    # -- for the program ---------------------------------------------------------------------------

    @property
    def subprotocol(self) -> str | None:
        """The sub-protocol agreed on."""
        return self.session.subprotocol

    def begin_close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Closes the connection without waiting for the end.

        Arguments and exceptions are those of ``close()``.

        Args:
            code: The status code.
            reason: Text.
            cause: Why, as the end will tell.
        """
        self._answer_by = -inf
        self.session.close(code, reason, now=self._time(), cause=cause)
        self._settle()

    def abort(self) -> None:
        """Ends the connection at once, without a close frame."""
        self._dispatch(self.session.abort(now=self._time()))
        self._settle()

    def accept(self, answer: AcceptConnection) -> None:
        """Accepts the request, on a server.

        Args:
            answer: The answer.

        Raises:
            LocalProtocolError: The answer does not suit the request, or comes too late.
        """
        self.session.send(answer, self._time())
        # What came with the request is parsed now.
        self._dispatch(self.session.receive(b"", self._time()))
        self._settle()

    def reject(self, rejection: HandshakeRejected) -> None:
        """Rejects the request, on a server.

        Args:
            rejection: The answer.

        Raises:
            LocalProtocolError: It cannot be sent, or comes too late.
        """
        now = self._time()
        self.session.send(rejection.response(), now)
        self.session.send(RejectData(rejection.body), now)
        self._settle()

    def answer(self, answer: AcceptConnection | HandshakeRejected) -> bool:
        """Answers the request, on a server, unless it is too late for that.

        Args:
            answer: The answer.

        Returns:
            Whether the connection is open now.

        Raises:
            LocalProtocolError: The answer does not suit the request, or cannot be sent.
        """
        if self.session.state is not _CONNECTING:
            return False
        if isinstance(answer, HandshakeRejected):
            self.reject(answer)
            return False
        self.accept(answer)
        return True

    # -- for the adapter ---------------------------------------------------------------------------

    def _closed_error(self) -> ConnectionClosedError:
        return ConnectionClosedError(self.closed or lost("the transport has ended"))

    def _begin(self) -> None:
        """Begins: a client sends its request."""
        if self.request is not None:
            try:
                self.session.send(self.request, self._time())
            except LocalProtocolError as error:
                self._opened(error)
                self.session.abort(now=self._time())
        self._settle()

    def _give(self, event: Event | PreparedMessage, now: float) -> bool:
        """Gives the session something to send; False: the connection is closing, or closed.

        Raises:
            LocalProtocolError: It cannot be sent at all.
        """
        session = self.session
        if self._gone:
            return False
        try:
            session.send(event, now)
        except LocalProtocolError:
            state = session.state
            if state is _OPEN or (state is _REMOTE_CLOSING and not isinstance(event, Ping)):
                raise
            return False
        return True

    def _ask_for_message(self) -> None:
        """Notes that somebody is done with the last message, and waits for the next."""
        self._busy = False
        if self._answer_by != inf:
            # All that came in front of the close frame is received: now it is answered.
            self._answer_by = -inf
            self._settle()

    def _take(self) -> str | bytes:
        """Takes the first message out of those that wait."""
        self._busy = True
        message = self._messages.pop(0)
        if self.session.paused and not self._messages:
            self._dispatch(self.session.resume(self._time()))
            self._settle()
        return message

    def _ping(self, payload: bytes | None, waiter: W) -> bytes | None:
        """Sends a Ping for whose answer somebody waits.

        Returns:
            The payload; None: the connection is closing, or closed.

        Raises:
            LocalProtocolError: The payload is too long.
            ValueError: A Ping with this payload waits already.
        """
        payload = self.session.config.entropy(8) if payload is None else bytes(payload)
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ValueError("a Ping with this payload waits for its answer already")
        if not self._give(Ping(payload), self._time()):
            return None
        self._pings[payload] = waiter
        self._settle()
        return payload

    def _forget_ping(self, payload: bytes) -> None:
        """Nobody waits for this one any more."""
        if self._pings:
            self._pings.pop(payload, None)

    def _lose(self, tls: bool) -> None:
        """The transport is gone.

        Args:
            tls: Whether it was TLS that failed.
        """
        now = self._time()
        self._gone = True
        self._dispatch(self.session.tls_failed(now=now) if tls else self.session.receive(None, now))
        self._fail_pings()
        self._opened(self._closed_error())
        self._wake()

    def _dispatch(self, events: list[Event]) -> None:
        """Does what events ask for, and wakes who waits for them."""
        for event in events:
            kind = type(event)
            if kind is TextMessage or kind is BytesMessage:
                if not self._dropping:
                    self._messages.append(event.data)  # type: ignore[attr-defined]
            elif kind is Pong:
                self._ponged(event.payload)  # type: ignore[attr-defined]
            elif kind is ConnectionClosed:
                self.closed = event  # type: ignore[assignment]
                self._opened(ConnectionClosedError(event))  # type: ignore[arg-type]
                self._fail_pings()
            elif kind is Request:
                self.request = event  # type: ignore[assignment]
                self._requested()
            elif kind is AcceptConnection:
                self.response = event  # type: ignore[assignment]
                self._opened(None)
            elif kind is RejectConnection:
                self._rejection = HandshakeRejected(event.status_code, event.headers)  # type: ignore[attr-defined]
            elif kind is RejectData:
                self._body += event.data[: BODY_KEPT - len(self._body)]  # type: ignore[attr-defined]
                if event.body_finished and self._rejection is not None:  # type: ignore[attr-defined]
                    self._rejection.body = self._body
                    self._opened(self._rejection)

    def _ponged(self, payload: bytes) -> None:
        """Ends the waiting for a Pong, and for those that it stands for (RFC 6455 §5.5.3)."""
        pings = self._pings
        while pings and payload in pings:
            self._answered(pings.pop(next(iter(pings))), self._time())

    def _fail_pings(self) -> None:
        pings, self._pings = self._pings, None
        for waiter in (pings or {}).values():
            self._unanswered(waiter)

    def _settle(self) -> None:
        """Does what the session wants."""
        if self._gone:
            self._wake()
            return
        session = self.session
        now = self._time()
        if self._messages and not session.paused and self._is_full():
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
        self._schedule(inf if deadline is None else deadline, now)
        session.touched = False
        self._wake()

    @property
    def _held_up(self) -> bool:
        """Whether nothing is read, because nobody receives; behind the end it is of no matter."""
        session = self.session
        return session.paused and session.state is not _CLOSED

    def _is_full(self) -> bool:
        """Whether a queue's worth of messages waits to be received."""
        limits = self.session.config.limits
        return len(self._messages) >= bound(limits.max_queued_messages) or sum(
            map(len, self._messages)
        ) >= bound(limits.max_queued_bytes)

    def _held_back(self, now: float) -> bool:
        """Whether the peer's close frame stays unanswered for a while.

        Whoever reads may want to answer messages that came in front of it: those that wait, or the
        one that was received last. It has until it asks for more, and not too long.
        """
        if self.session.state is not _REMOTE_CLOSING:
            return False
        if self._answer_by == inf:
            self._answer_by = now + _GRACE if self._messages or self._busy else -inf
        if not self.session.writable:
            self._answer_by = -inf
        return now < self._answer_by

    def _drop_messages(self, now: float) -> None:
        """Reads on to the peer's close frame, whether or not anybody receives what comes before."""
        session = self.session
        while session.paused:
            self._dropping = True
            self._dispatch(session.resume(now))

    def _pass_deadline(self) -> None:
        """Does what is due."""
        now = self._time()
        if self._stuck:
            self.session.transport_backlog(self._backlog(), now)
        self._dispatch(self.session.handle_timeout(now))
        self._settle()

"""One connection on asyncio.

Theory of operation: a :class:`Connection` is the protocol of one transport and drives one
:class:`~wsproto_sip.session.Session`. A read goes into a persistent buffer and to the session;
messages wait in a short list for whoever receives, everything else is dealt with at once. After
each step that may have changed more than that, ``_settle`` does what the session wants: octets to
write, a transport to close, one timer for the next deadline.

Back-pressure goes both ways. The session stops parsing when a queue's worth of messages was not
received, and the transport stops reading when octets come nevertheless. Who sends waits while
more than ``limits.high_water`` octets are on their way.

Cancelling is safe at every ``await``: a message is given out or stays, and is sent or is not.
"""

from __future__ import annotations

import asyncio
import ssl
from math import inf
from typing import TYPE_CHECKING, Final, cast

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
from ..states import ConnectionState
from ..utilities import LocalProtocolError
from ._asyncio_wakeup import Wakeup
from ._common import BODY_KEPT, ConnectionClosedError, HandshakeRejected, lost, message_event

if TYPE_CHECKING:
    from ..events import Event
    from ..limits import Limits
    from ..prepared import PreparedMessage
    from ..session import Session

__all__ = ["READ_SIZE", "Connection"]

#: Octets of one read.
READ_SIZE: Final = 64 * 1024

#: Seconds that whoever reads has, behind the peer's close frame, to answer what came before it.
_GRACE: Final = 1.0

_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_NONE = TransportAction.NONE


class Connection(asyncio.BufferedProtocol):
    """One WebSocket connection.

    One task at a time may receive; any number may send, ping and close.

    Args:
        session: What it drives.
        buffer: Where reads go; None for one of its own.
        request: What a client begins with.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        transport: The transport.
        closed: How the connection ended; None while it has not.
        request: The request of the opening handshake, on a server once it is there.
        response: On a client that is connected, the answer to it.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        session: Session,
        *,
        buffer: memoryview | None = None,
        request: Request | None = None,
    ) -> None:
        self.session = session
        self.request = request
        self.response: AcceptConnection | None = None
        self._buffer = memoryview(bytearray(READ_SIZE)) if buffer is None else buffer
        self._loop = loop = asyncio.get_running_loop()
        self._time = loop.time
        # Done when the client's handshake is.
        self._opening: asyncio.Future[None] | None = loop.create_future() if request else None
        self._rejection: HandshakeRejected | None = None
        self._body = b""
        # Messages that nobody has received yet, and who waits for one.
        self._messages: list[str | bytes] = []
        self._receiver = Wakeup(loop)
        # Whether somebody has received a message and not asked for the next.
        self._busy = False
        self._senders: list[asyncio.Future[None]] | None = None
        # Whether messages are read that nobody shall receive any more.
        self._dropping = False
        self._pings: dict[bytes, asyncio.Future[float]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        # When the peer's close frame is answered at the latest.
        self._answer_by = inf
        self._reading = True
        self._writable = True
        # Whether the transport had octets left when it was last asked.
        self._stuck = False
        self.closed: ConnectionClosed | None = None
        self._lost: asyncio.Future[None] = loop.create_future()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def subprotocol(self) -> str | None:
        """The sub-protocol agreed on."""
        return self.session.subprotocol

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would not have to wait."""
        return self._writable

    async def recv(self) -> str | bytes:
        """Receives a message.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages are received.
            RuntimeError: Another task receives.
        """
        if not self._messages and not await self._wait_for_message():
            raise self._closed_error()
        return self._take()

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> str | bytes:
        if not self._messages and not self._receiver.waiting and self._answer_by == inf:
            # The usual case, a call shorter than below.
            self._busy = False
            if self.closed is None:
                await self._receiver
        if not self._messages and not await self._wait_for_message():
            error = self._closed_error()
            if error.in_order:
                raise StopAsyncIteration
            raise error
        return self._take()

    async def _wait_for_message(self) -> bool:
        """Waits for a message; False: there will be none."""
        self._busy = False
        if self._answer_by != inf:
            # All that came in front of the close frame is received: now it is answered.
            self._answer_by = -inf
            self._settle()
        while not self._messages:
            if self.closed is not None:
                return False
            if self._receiver.waiting:
                raise RuntimeError("another task receives from this connection")
            await self._receiver
        return True

    def _take(self) -> str | bytes:
        self._busy = True
        message = self._messages.pop(0)
        if self.session.paused and not self._messages:
            self._dispatch(self.session.resume(self._time()))
            self._settle()
        return message

    async def send(self, message: str | bytes | bytearray | memoryview | PreparedMessage) -> None:
        """Sends a message, when the transport has room for it.

        Args:
            message: ``str`` goes as text, octets as binary.

        Raises:
            ConnectionClosedError: The connection is closed, or a close frame was sent.
            LocalProtocolError: The text cannot be encoded.
        """
        while not self._writable:
            await self._wait_writable()
        session = self.session
        now = self._time()
        try:
            session.send(
                TextMessage(message) if type(message) is str else message_event(message), now
            )
        except LocalProtocolError:
            if session.state is _OPEN or session.state is _REMOTE_CLOSING:
                raise
            await asyncio.shield(self._lost)
            raise self._closed_error() from None
        if self._answer_by != inf:
            self._settle()
            return
        transport = self.transport
        transport.write(session.data_to_send())
        if self._stuck or transport.get_write_buffer_size():
            self._settle()
        else:
            session.touched = False

    async def _wait_writable(self) -> None:
        waiter = self._loop.create_future()
        if self._senders is None:
            self._senders = []
        self._senders.append(waiter)
        try:
            await waiter
        finally:
            # Whoever woke it has thrown the list away.
            if self._senders and waiter in self._senders:
                self._senders.remove(waiter)

    async def ping(self, payload: bytes | None = None) -> float:
        """Pings the peer and waits for its answer (RFC 6455 §5.5.2).

        The answer stands behind what the peer sent before it: it is not seen while messages wait
        to be received.

        Args:
            payload: At most 125 octets that no other unanswered Ping has; None for random ones.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
            ValueError: A Ping with this payload waits already.
        """
        session = self.session
        payload = session.config.entropy(8) if payload is None else bytes(payload)
        if self._pings is None:
            self._pings = {}
        if payload in self._pings:
            raise ValueError("a Ping with this payload waits for its answer already")
        sent = self._time()
        try:
            session.send(Ping(payload), sent)
        except LocalProtocolError:
            if session.state is _OPEN:
                raise
            await asyncio.shield(self._lost)
            raise self._closed_error() from None
        waiter = self._pings[payload] = self._loop.create_future()
        try:
            self._settle()
            received: float = await waiter
            return received - sent
        finally:
            self._pings.pop(payload, None)

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection and waits until it is (RFC 6455 §7.1.2); once more only waits.

        What the peer still sends can be received, up to a queue's worth; the rest is dropped.
        It takes ``close_timeout`` seconds at most. Cancelled, it goes on by itself.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 octets in UTF-8; longer ones are cut.

        Raises:
            LocalProtocolError: The code may not be sent, or the reason cannot be encoded.
        """
        self.begin_close(code, reason)
        await asyncio.shield(self._lost)

    def begin_close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Closes the connection without waiting for the end.

        Arguments and exceptions are those of :meth:`close`.

        Args:
            code: The status code.
            reason: Text.
            cause: Why, as the end will tell.
        """
        self._answer_by = -inf
        self.session.close(code, reason, now=self._time(), cause=cause)
        self._settle()

    async def wait_closed(self) -> ConnectionClosed:
        """Waits until the transport is gone.

        The end stands behind what the peer sent before it: it is not seen while messages wait to
        be received, unless this side closes.

        Returns:
            How the connection ended.
        """
        self._answer_by = -inf
        self._settle()
        await asyncio.shield(self._lost)
        return self._closed_error().event

    def abort(self) -> None:
        """Ends the connection at once, without a close frame."""
        self._dispatch(self.session.abort(now=self._time()))
        self._settle()

    def _closed_error(self) -> ConnectionClosedError:
        return ConnectionClosedError(self.closed or lost("the transport has ended"))

    # -- opening -----------------------------------------------------------------------------------

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

    async def wait_opened(self) -> None:
        """Waits for the answer to a client's request.

        Raises:
            HandshakeRejected: It was no success.
            ConnectionClosedError: There was none.
        """
        if self._opening is not None:
            await asyncio.shield(self._opening)

    def _opened(self, error: Exception | None) -> None:
        """Tells the client how its handshake ended."""
        opening = self._opening
        if opening is not None and not opening.done():
            if error is None:
                opening.set_result(None)
            else:
                opening.set_exception(error)
                # Nobody has to ask.
                opening.exception()

    # -- for the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins: a client sends its request."""
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(self.session.config.limits.high_water)
        if self.request is not None:
            try:
                self.session.send(self.request, self._time())
            except LocalProtocolError as error:
                self._opened(error)
                self.session.abort(now=self._time())
        self._settle()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets have come."""
        session = self.session
        if session.paused and self._reading:
            self._reading = False
            self.transport.pause_reading()
        events = session.receive(bytes(self._buffer[:nbytes]), self._time())
        if not session.touched and self._receiver.waiting and not self._dropping:
            # The usual case: nothing but messages, and somebody who waits for them.
            for event in events:
                self._messages.append(event.data)  # type: ignore[attr-defined]
            if events:
                self._receiver.wake()
            return
        self._dispatch(events)
        self._settle()

    def eof_received(self) -> None:
        """The peer has ended its stream; the transport then closes itself."""
        self._dispatch(self.session.receive(None, self._time()))
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        now = self._time()
        session = self.session
        if isinstance(exc, ssl.SSLError):
            self._dispatch(session.tls_failed(now=now))
        else:
            self._dispatch(session.receive(None, now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost.set_result(None)
        self.resume_writing()
        self._fail_pings()
        self._opened(self._closed_error())
        self._wake()

    def pause_writing(self) -> None:
        """The transport has more than ``limits.high_water`` octets to write."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has written most of them."""
        self._writable = True
        senders, self._senders = self._senders, None
        for waiter in senders or ():
            if not waiter.done():
                waiter.set_result(None)
        self._settle()

    # -- between the two ---------------------------------------------------------------------------

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

    def _requested(self) -> None:
        """A server has its request."""

    def _ponged(self, payload: bytes) -> None:
        """Ends the waiting for a Pong, and for those that it stands for (RFC 6455 §5.5.3)."""
        pings = self._pings
        while pings and payload in pings:
            waiter = pings.pop(next(iter(pings)))
            if not waiter.done():
                waiter.set_result(self._time())

    def _fail_pings(self) -> None:
        for waiter in (self._pings or {}).values():
            if not waiter.done():
                waiter.set_exception(self._closed_error())

    def _settle(self) -> None:
        """Does what the session wants."""
        if self._lost.done():
            self._wake()
            return
        session = self.session
        now = self._time()
        if self._messages and not session.paused and self._is_full(session.config.limits):
            session.pause(now)
        if session.state is _LOCAL_CLOSING:
            self._drop_messages(now)
        elif self._held_back(now):
            self._schedule(min(self._answer_by, session.next_deadline() or inf), now)
            self._wake()
            return
        transport = self.transport
        if (data := session.data_to_send()) and not transport.is_closing():
            transport.write(data)
        backlog = transport.get_write_buffer_size()
        if backlog or self._stuck:
            self._stuck = backlog > 0
            session.transport_backlog(backlog, now)
        action = session.transport_action
        if action is _NONE:
            if not self._reading and not session.paused:
                self._reading = True
                transport.resume_reading()
        elif action is TransportAction.ABORT:
            transport.abort()
        elif not transport.is_closing():
            self._end_output(transport)
        deadline = session.next_deadline()
        self._schedule(inf if deadline is None else deadline, now)
        session.touched = False
        self._wake()

    def _is_full(self, limits: Limits) -> bool:
        """Whether a queue's worth of messages waits to be received."""
        return (
            len(self._messages) >= limits.max_queued_messages
            or sum(map(len, self._messages)) >= limits.max_queued_bytes
        )

    def _wake(self) -> None:
        if self._messages or self.closed is not None:
            self._receiver.wake()

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

    def _end_output(self, transport: asyncio.Transport) -> None:
        """Ends the transport when everything is written.

        The other direction is read until the peer ends it too, within the close deadline: a
        transport that is closed with octets unread is reset, and the peer may never see the
        close frame.
        """
        if not self._reading:
            self._reading = True
            transport.resume_reading()
        if self.session.closed or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def _schedule(self, when: float, now: float) -> None:
        timer = self._timer
        if timer is not None:
            if self._due <= when:
                return
            timer.cancel()
            self._timer = None
        if when != inf and not self._lost.done():
            self._due = when
            self._timer = self._loop.call_at(max(when, now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._time()
        if self._stuck:
            self.session.transport_backlog(self.transport.get_write_buffer_size(), now)
        self._dispatch(self.session.handle_timeout(now))
        self._settle()

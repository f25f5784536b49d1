"""One connection on asyncio.

Theory of operation: a :class:`Connection` is the protocol of one transport, and the
:class:`~wsproto_sip.adapters._driver.Driver` of one session. A read goes into a persistent buffer
and from there to the session. A loop with a buffer of its own (uvloop) hands out bytes at less
cost, and prefers that for a protocol of both kinds. The usual cases, a read that yields only
messages and a message that is written at once, take short cuts past the general code. There is one
timer, for the next deadline.

Cancelling is safe at every ``await``: a message is returned or stays, and is sent or is not.

The end of a connection is reported at once, also under a timeout of 0, but only once in a turn of
the loop. A program that ignores it and calls again, forever, then delays other connections but does
not stop them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from ...events import BytesMessage, TextMessage
from ...frame_protocol import CloseReason
from ...session.lifecycle import ConnectionClosed
from ...session.prepared import PreparedMessage
from ...states import ConnectionState
from ...utilities import LocalProtocolError
from .._driver import Driver, PieceKind, is_pieces, last_piece, message_event, piece_event
from .._listening import as_address, peer_of
from .._pieces import AsyncPieceIterator
from .transport import StreamProtocol
from .wakeup import make_wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...events import Request
    from ...session.session import Session
    from .._driver import Message, Pieces
    from .._pieces import PieceReceiver
    from ..exceptions import ConnectionClosedError

__all__ = ["Connection", "ShownConnection"]

#: Messages after which a sender that never has to wait gives the loop a turn.
_MOST_UNWAITED: Final = 256

_OPEN = ConnectionState.OPEN
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
#: The types of nearly all messages that are sent.
_USUAL: Final = frozenset([str, bytes, PreparedMessage])


class Connection(StreamProtocol, asyncio.Protocol, Driver["asyncio.Future[float]"]):
    """One WebSocket connection.

    One task at a time may receive; any number may send, ping and close.

    Args:
        session: The session to drive.
        request: The request that a client starts with.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        transport: The transport.
        closed: How the connection ended; ``None`` while it is open.
        request: The request of the opening handshake; on a server, ``None`` until it has arrived.
        response: On a connected client, the response to the request.
    """

    # Python stores up to 29 attributes compactly, and the driver has 25.
    __slots__ = (
        "_due",
        "_end_reported",
        "_full",
        "_loop",
        "_lost",
        "_opening",
        "_receiver",
        "_senders",
        "_timer",
        "_writable",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        session: Session,
        *,
        request: Request | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        StreamProtocol.__init__(self)
        Driver.__init__(self, session, request, loop.time)
        # Resolved with the end of the client's handshake.
        self._opening: asyncio.Future[None] | None = loop.create_future() if request else None
        # The task that waits for a message, and those that wait to send one.
        self._receiver = make_wakeup(loop)
        self._senders: list[asyncio.Future[None]] | None = None
        self._writable = True
        self._full = False
        # Messages sent since a sender last gave the loop a turn.
        self._unwaited = 0
        # Whether the end was reported in this turn of the loop.
        self._end_reported = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._lost: asyncio.Future[None] = loop.create_future()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would return without waiting for room."""
        return self._writable

    async def recv(self) -> str | bytes:
        """Receive a message.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages were received.
            RuntimeError: Another task receives, or a message is being received in pieces.
        """
        if not self._messages and not await self._wait_for_message():
            raise await self._end()
        return self._take()

    def recv_streaming(self) -> AsyncPieceIterator:
        """Receive a message in pieces as they arrive: frames, or parts of frames.

        Each piece of text is valid however its bytes were divided, and no piece is empty unless the
        message is. Reading stops while the queue of pieces is full. ``limits.max_message_size``
        bounds the message; for longer ones, see :doc:`/howto/adapters`. With ``whole_messages``
        (the default), what arrived before this call waits for the end of its message; if the
        connection ends first, it is lost, as with :meth:`recv`.

        If the iterator is closed or dropped, the rest of its message is skipped. Until then nothing
        else can be received.

        Returns:
            An asynchronous iterator. It raises the same exceptions as :meth:`recv`, including
            ``ConnectionClosedError`` in the middle of a message. It can be continued after it was
            cancelled while waiting.
        """
        return AsyncPieceIterator(self._recv_piece)

    async def _recv_piece(self, receiver: PieceReceiver) -> str | bytes | None:
        """Return the next piece of the message; ``None`` after the last one."""
        while True:
            self._check_receiver()
            piece = self._next_piece(receiver)
            if piece is not None or receiver.over:
                return piece
            self._ask_for_message()
            if self.closed is not None:
                error = await self._end()
                receiver.close()
                raise error
            await self._receiver

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> str | bytes:
        if (
            not self._messages
            and not self._receiver.waiting
            and self._answer_by == inf
            and self._pieces is None
        ):
            # The usual case, with one call fewer than below.
            self._busy = False
            if self.closed is None:
                await self._receiver
        messages = self._messages
        if not messages and not await self._wait_for_message():
            error = await self._end()
            if error.in_order:
                raise StopAsyncIteration
            raise error
        # Same as _take, without the call.
        message = messages.pop(0)
        self._busy = True
        if self.session.paused or self._gone:
            self._taken()
        return message

    async def _wait_for_message(self) -> bool:
        """Wait for a message; return False if there will be none."""
        while True:
            self._check_receiver()
            if self._has_message():
                return True
            self._ask_for_message()
            if self.closed is not None:
                return False
            await self._receiver

    async def _end(self) -> ConnectionClosedError:
        """Return the end of the connection, in another turn of the loop than the last time."""
        if self._end_reported:
            await asyncio.sleep(0)
        else:
            self._end_reported = True
            self._loop.call_soon(self._allow_report)
        return self._closed_error()

    def _allow_report(self) -> None:
        self._end_reported = False

    def _check_receiver(self) -> None:
        if self._receiver.waiting:
            raise RuntimeError("another task receives from this connection")

    async def send(self, message: Message) -> None:
        """Send a message as soon as there is room for it.

        Args:
            message: ``str`` is sent as text, bytes as binary. An iterable or asynchronous iterable
                of either is sent as one message in fragments, each as soon as there is room; an
                empty one sends nothing. Other senders wait for its end. If it fails or is cancelled
                in the middle, the connection is closed with 1011.

        Raises:
            ConnectionClosedError: The connection is closed, or a close frame was sent.
            LocalProtocolError: The text cannot be encoded.
            RuntimeError: Called by the iterator of another message, which would wait for itself.
        """
        usual = type(message) in _USUAL
        if not usual and is_pieces(message):
            await self._send_pieces(cast("Pieces", message))
            return
        if not self._writable or self._unwaited >= _MOST_UNWAITED:
            await self._wait_turn()
        session = self.session
        try:
            if usual and self._answer_by == inf:
                data = session.send_message(message, self._time())  # type: ignore[arg-type]
            else:
                session.send(message_event(message), self._time())  # type: ignore[arg-type]
                data = b""
        except LocalProtocolError:
            if session.state is _OPEN or session.state is _REMOTE_CLOSING:
                raise
            await asyncio.shield(self._lost)
            raise await self._end() from None
        transport = self.transport
        transport.write(data)
        if session.touched or self._stuck or transport.get_write_buffer_size():
            self._follow_session()
        self._unwaited += 1

    async def _take_turn(self) -> None:
        """Let the loop do its other work, because nothing has made this task wait for a while.

        Nothing else might ever: after a failed write, a transport takes and drops everything, and
        the loop reports its end only in another turn.
        """
        self._unwaited = 0
        await asyncio.sleep(0)

    async def _send_pieces(self, pieces: Pieces) -> None:
        if not self._writable:
            await self._wait_turn()
        self._in_pieces, self._writable = asyncio.current_task(), False
        kind: PieceKind | None = None
        try:
            if isinstance(pieces, AsyncIterable):
                async for piece in pieces:
                    kind = await self._send_piece(piece_event(piece, kind))
            else:
                for piece in pieces:
                    kind = await self._send_piece(piece_event(piece, kind))
                    # Let the loop run, for example to notice the end of the transport.
                    await asyncio.sleep(0)
            if kind is not None:
                await self._send_piece(last_piece(kind))
        except BaseException:
            if kind is not None:
                self.begin_close(CloseReason.INTERNAL_ERROR)
            raise
        finally:
            self._in_pieces = None
            self._writable = not (self._full or self._gone)
            self._let_send()

    async def _send_piece(self, event: TextMessage | BytesMessage) -> PieceKind:
        if self._unwaited >= _MOST_UNWAITED:
            await self._take_turn()
        while self._full:
            await self._wait_writable()
        if not self._give(event, self._time()):
            await asyncio.shield(self._lost)
            raise await self._end()
        self._follow_session()
        self._unwaited += 1
        return type(event)

    async def _wait_turn(self) -> None:
        """Wait until a message may begin."""
        if self._unwaited >= _MOST_UNWAITED:
            await self._take_turn()
        while not self._writable:
            self._check_turn(asyncio.current_task())
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        if self._gone:
            raise await self._end()
        waiter = self._loop.create_future()
        if self._senders is None:
            self._senders = []
        self._senders.append(waiter)
        try:
            await waiter
        finally:
            # If it was woken, the list has been discarded.
            if self._senders and waiter in self._senders:
                self._senders.remove(waiter)

    async def ping(self, payload: bytes | None = None) -> float:
        """Ping the peer and wait for the answer (RFC 6455 §5.5.2).

        The answer arrives after everything that the peer sent before it, and is not seen while
        messages wait to be received.

        Args:
            payload: At most 125 bytes that no other unanswered Ping has; ``None`` for random bytes.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
            ValueError: A Ping with this payload is already waiting.
        """
        sent = self._time()
        waiter: asyncio.Future[float] = self._loop.create_future()
        payload = self._ping(payload, waiter)
        if payload is None:
            await asyncio.shield(self._lost)
            raise await self._end()
        try:
            return await waiter - sent
        finally:
            self._forget_ping(payload)

    async def pong(self, payload: bytes = b"") -> None:
        """Send an unsolicited Pong (RFC 6455 §5.5.3).

        Args:
            payload: At most 125 bytes.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
        """
        if self._unwaited >= _MOST_UNWAITED:
            await self._take_turn()
        if not self._pong(payload):
            await asyncio.shield(self._lost)
            raise await self._end()
        self._unwaited += 1

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection and wait until it is closed (RFC 6455 §7.1.2).

        A repeated call only waits. Messages that the peer still sends can be received until the
        queue is full; the rest is dropped. Closing takes at most ``close_timeout`` seconds, and
        continues by itself if the call is cancelled.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 bytes in UTF-8; longer text is cut.

        Raises:
            LocalProtocolError: The code must not be sent, or the reason cannot be encoded.
        """
        self.begin_close(code, reason)
        await asyncio.shield(self._lost)

    async def wait_closed(self) -> ConnectionClosed:
        """Wait until the transport is gone.

        The peer's end comes after everything it sent before: reading stops while the queue of
        unreceived messages is full, unless this side closes or the transport is gone.

        Returns:
            How the connection ended.
        """
        self._answer_by = -inf
        self._follow_session()
        await asyncio.shield(self._lost)
        return self._closed_error().event

    async def wait_opened(self) -> None:
        """Wait for the answer to a client's request.

        Raises:
            HandshakeRejected: The server rejected the handshake.
            ConnectionClosedError: The connection ended without an answer.
        """
        if self._opening is not None:
            await asyncio.shield(self._opening)

    # -- for the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session on a new transport."""
        self._begin_on(transport, self.session.config.limits.high_water)
        info = transport.get_extra_info
        self.peer = peer_of(info("peername"), info("socket"))
        self.local = as_address(info("sockname"))
        self.secure = info("sslcontext") is not None
        self._begin()

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes that the loop has read into the buffer."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Process bytes from the transport, or from another protocol on it before this one."""
        session = self.session
        events = session.receive(data, self._time())
        if not session.touched and self._budget == inf and self._pieces is None:
            # The usual case: only messages, and a receiver that waits for them.
            for event in events:
                self._messages.append(event.data)  # type: ignore[attr-defined]
            if not events or self._receiver.wake():
                return
        else:
            self._dispatch(events)
        self._follow_session()
        if self._reading and self._held_up:
            self._reading = False
            self._pause_reading()

    def eof_received(self) -> None:
        """Process the end of the input; the transport then closes itself."""
        self._dispatch(self.session.receive(None, self._time()))
        self._follow_session()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost.set_result(None)
        self._lose(isinstance(exc, ssl.SSLError))
        # Senders take the slow path from now on, and are told of the end.
        self._let_send()
        self._writable = False

    def pause_writing(self) -> None:
        """Stop senders: the transport has more than ``limits.high_water`` bytes to write."""
        self._full = True
        self._writable = False

    def resume_writing(self) -> None:
        """Let senders continue: the transport has written most of its bytes."""
        self._full = False
        self._writable = self._in_pieces is None
        self._let_send()
        self._follow_session()

    def _let_send(self) -> None:
        senders, self._senders = self._senders, None
        for waiter in senders or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- for the driver ----------------------------------------------------------------------------

    def _end_output(self) -> None:
        if self.session.closed:
            self._close_transport()
        else:
            self._half_close()

    def _wake(self) -> None:
        if self._messages or self._pieces or self.closed is not None:
            self._receiver.wake()

    def _opened(self, error: Exception | None) -> None:
        opening = self._opening
        if opening is not None and not opening.done():
            if error is None:
                opening.set_result(None)
            else:
                opening.set_exception(error)
                # It need not be retrieved.
                opening.exception()

    def _answered(self, waiter: asyncio.Future[float], now: float) -> None:
        if not waiter.done():
            waiter.set_result(now)

    def _unanswered(self, waiter: asyncio.Future[float]) -> None:
        if not waiter.done():
            waiter.set_exception(self._closed_error())

    def _schedule(self, when: float, now: float) -> None:
        timer = self._timer
        if timer is not None:
            if self._due <= when:
                return
            timer.cancel()
            self._timer = None
        if when != inf:
            self._due = when
            self._timer = self._loop.call_at(max(when, now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pass_deadline()


class _ShownTransport:
    """A transport that shows its writes first.

    Args:
        transport: The transport.
        show: Called with the bytes of each write.
    """

    def __init__(self, transport: asyncio.Transport, show: Callable[[bytes], object]) -> None:
        self._transport = transport
        self._show = show

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._show(data)
        self._transport.write(data)


class ShownConnection(Connection):
    """A connection that shows the bytes of its transport; other connections pay no cost for this.

    Args:
        session: As for :class:`Connection`.
        show: Called with the connection, the bytes, and whether they were sent.
        request: As for :class:`Connection`.
    """

    def __init__(
        self,
        session: Session,
        show: Callable[[Connection, bytes, bool], object],
        *,
        request: Request | None = None,
    ) -> None:
        super().__init__(session, request=request)
        self._show = show

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the session on a new transport."""
        shown = _ShownTransport(
            cast("asyncio.Transport", transport), lambda data: self._show(self, data, True)
        )
        super().connection_made(cast("asyncio.Transport", shown))

    def data_received(self, data: bytes) -> None:
        """Process bytes from the transport."""
        self._show(self, data, False)
        super().data_received(data)

"""One connection on asyncio.

Theory of operation: a :class:`Connection` is the protocol of one transport, and the
:class:`~wsproto_sip.adapters._driver.Driver` of one session. A read goes into a persistent buffer
and to the session; the usual cases, a read that gives nothing but messages and a message that goes
out at once, are short ways past what has to be done otherwise. There is one timer, for the next
deadline.

Cancelling is safe at every ``await``: a message is given out or stays, and is sent or is not.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, cast

from ..events import TextMessage
from ..frame_protocol import CloseReason
from ..lifecycle import ConnectionClosed
from ..states import ConnectionState
from ..utilities import LocalProtocolError
from ._asyncio_wakeup import Wakeup
from ._common import message_event
from ._driver import Driver

if TYPE_CHECKING:
    from ..events import Request
    from ..prepared import PreparedMessage
    from ..session import Session

__all__ = ["READ_SIZE", "Connection"]

#: Octets of one read.
READ_SIZE: Final = 64 * 1024

_OPEN = ConnectionState.OPEN
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING


#: Whether reads are under way between callbacks.
_READS_AHEAD = sys.platform == "win32"

#: Each thread's buffer for reads.
_shared = threading.local()


def _read_buffer() -> memoryview:
    """Where a connection reads to.

    A loop takes what was read out of the buffer before it reads from anybody else, so that the
    connections of a thread share one. Only where a read is under way between callbacks (Windows)
    each has its own.
    """
    if _READS_AHEAD:
        return memoryview(bytearray(READ_SIZE))
    try:
        buffer: memoryview = _shared.buffer
    except AttributeError:
        buffer = _shared.buffer = memoryview(bytearray(READ_SIZE))
    return buffer


class Connection(Driver["asyncio.Future[float]"], asyncio.BufferedProtocol):
    """One WebSocket connection.

    One task at a time may receive; any number may send, ping and close.

    Args:
        session: What it drives.
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
        request: Request | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        super().__init__(session, request, loop.time)
        self._buffer = _read_buffer()
        # Done when the client's handshake is.
        self._opening: asyncio.Future[None] | None = loop.create_future() if request else None
        # Who waits for a message, and who to send one.
        self._receiver = Wakeup(loop)
        self._senders: list[asyncio.Future[None]] | None = None
        self._writable = True
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._lost: asyncio.Future[None] = loop.create_future()

    # -- for the program ---------------------------------------------------------------------------

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
        self._ask_for_message()
        while not self._messages:
            if self.closed is not None:
                return False
            if self._receiver.waiting:
                raise RuntimeError("another task receives from this connection")
            await self._receiver
        return True

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
        if self._gone:
            raise self._closed_error()
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
        sent = self._time()
        waiter: asyncio.Future[float] = self._loop.create_future()
        payload = self._ping(payload, waiter)
        if payload is None:
            await asyncio.shield(self._lost)
            raise self._closed_error()
        try:
            return await waiter - sent
        finally:
            self._forget_ping(payload)

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

    async def wait_opened(self) -> None:
        """Waits for the answer to a client's request.

        Raises:
            HandshakeRejected: It was no success.
            ConnectionClosedError: There was none.
        """
        if self._opening is not None:
            await asyncio.shield(self._opening)

    # -- for the event loop ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(self.session.config.limits.high_water)
        self._begin()

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost.set_result(None)
        self._lose(isinstance(exc, ssl.SSLError))
        # Whoever wants to send goes the longer way, and is told.
        self._let_send()
        self._writable = False

    def pause_writing(self) -> None:
        """The transport has more than ``limits.high_water`` octets to write."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has written most of them."""
        self._writable = True
        self._let_send()
        self._settle()

    def _let_send(self) -> None:
        senders, self._senders = self._senders, None
        for waiter in senders or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- for the driver ----------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def _backlog(self) -> int:
        return self.transport.get_write_buffer_size()

    def _resume_reading(self) -> None:
        self.transport.resume_reading()

    def _end_output(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        if self.session.closed or not transport.can_write_eof():
            transport.close()
        else:
            # Where the peer has reset it, asyncio says so here; the end comes by itself.
            with suppress(OSError):
                transport.write_eof()

    def _drop_transport(self) -> None:
        self.transport.abort()

    def _wake(self) -> None:
        if self._messages or self.closed is not None:
            self._receiver.wake()

    def _opened(self, error: Exception | None) -> None:
        opening = self._opening
        if opening is not None and not opening.done():
            if error is None:
                opening.set_result(None)
            else:
                opening.set_exception(error)
                # Nobody has to ask.
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

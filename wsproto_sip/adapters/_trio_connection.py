"""One connection on trio.

Theory of operation: a :class:`Connection` is the driver of one session, and :meth:`Connection.run`
has three tasks for it: one reads, one writes what the session has left to write, one waits for the
next deadline. The program's own calls change the session and the queues in one step, without a
checkpoint in between, and wait in front of that or behind it.

Cancelling is safe at every ``await``: a message is given out or stays, and is sent or is not. When
:meth:`Connection.run` itself is cancelled, the connection is dropped.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from ..frame_protocol import CloseReason
from ..lifecycle import ConnectionClosed
from ._common import message_event
from ._driver import Driver

if TYPE_CHECKING:
    from ..events import Request
    from ..prepared import PreparedMessage
    from ..session import Session

__all__ = ["Connection"]

#: Octets of one read, and of one write: trio tells what is written when all of a write is.
_READ_SIZE: Final = 64 * 1024
_WRITE_SIZE: Final = 16 * 1024


class _Waiter:
    """What waits for a Pong."""

    __slots__ = ("done", "received")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.received: float | None = None


class Connection(Driver[_Waiter]):
    """One WebSocket connection.

    One task at a time may receive; any number may send, ping and close.

    Args:
        session: What it drives.
        stream: A connected stream; with TLS the handshake may still have to be done.
        request: What a client begins with.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        stream: The stream; to be asked for its addresses, and left alone.
        closed: How the connection ended; None while it has not.
        request: The request of the opening handshake, on a server once it is there.
        response: On a client that is connected, the answer to it.
    """

    def __init__(
        self, session: Session, stream: trio.abc.Stream, *, request: Request | None = None
    ) -> None:
        super().__init__(session, request, trio.current_time)
        self.stream = stream
        # Whether TLS is still being agreed on.
        self._shaking = isinstance(stream, trio.SSLStream)
        # Who waits for a message, for room to send one, and for something to do.
        self._receivers = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()
        self._reader = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()
        # What is not written yet, the piece that is being written included.
        self._out = bytearray()
        self._high_water = session.config.limits.high_water
        # How the stream is: it takes no more; nothing more comes; its output has ended, or is to.
        self._broken = False
        self._input_over = False
        self._output_over = False
        self._ending: trio.abc.HalfCloseableStream | None = None
        # What run() does, and whether the stream is closed in good order behind it.
        self._scope = trio.CancelScope()
        self._in_order = False
        self._tls_failed = False
        self._due = inf
        self._sleep = trio.CancelScope()
        # When there is a request, on a server; when a client's handshake has ended, and how.
        self._asked = trio.Event()
        self._is_open = trio.Event()
        self._opening: Exception | None = None
        self._lost = trio.Event()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would not have to wait."""
        return len(self._out) <= self._high_water and not (self._broken or self._gone)

    async def recv(self) -> str | bytes:
        """Receives a message.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages are received.
            RuntimeError: Another task receives.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._messages and not await self._wait_for_message():
            raise self._closed_error()
        message = self._take()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> str | bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._messages and not await self._wait_for_message():
            error = self._closed_error()
            if error.in_order:
                raise StopAsyncIteration
            raise error
        message = self._take()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    async def _wait_for_message(self) -> bool:
        """Waits for a message; False: there will be none."""
        if self._receivers:
            raise RuntimeError("another task receives from this connection")
        self._ask_for_message()
        while not self._messages:
            if self.closed is not None:
                return False
            await self._receivers.park()
        return True

    async def send(self, message: str | bytes | bytearray | memoryview | PreparedMessage) -> None:
        """Sends a message, when there is room for it.

        Args:
            message: ``str`` goes as text, octets as binary.

        Raises:
            ConnectionClosedError: The connection is closed, or a close frame was sent.
            LocalProtocolError: The text cannot be encoded.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.writable:
            if self._broken or self._gone:
                raise self._closed_error()
            await self._senders.park()
        if not self._give(message_event(message), self._time()):
            await self._lost.wait()
            raise self._closed_error()
        self._settle()
        await trio.lowlevel.cancel_shielded_checkpoint()

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
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._broken:
            raise self._closed_error()
        sent = self._time()
        waiter = _Waiter()
        payload = self._ping(payload, waiter)
        if payload is None:
            await self._lost.wait()
            raise self._closed_error()
        try:
            await waiter.done.wait()
        finally:
            self._forget_ping(payload)
        if waiter.received is None:
            raise self._closed_error()
        return waiter.received - sent

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
        await self._lost.wait()

    async def wait_closed(self) -> ConnectionClosed:
        """Waits until the stream is closed.

        The end stands behind what the peer sent before it: it is not seen while messages wait to
        be received, unless this side closes.

        Returns:
            How the connection ended.
        """
        self._answer_by = -inf
        self._settle()
        await self._lost.wait()
        return self._closed_error().event

    # -- opening -----------------------------------------------------------------------------------

    async def wait_opened(self) -> None:
        """Waits for the answer to a client's request.

        Raises:
            HandshakeRejected: It was no success.
            ConnectionClosedError: There was none.
        """
        await self._is_open.wait()
        if self._opening is not None:
            raise self._opening

    async def wait_requested(self) -> bool:
        """Waits for the request, on a server.

        Returns:
            Whether there is one; the connection may have ended instead.
        """
        await self._asked.wait()
        return self.request is not None

    def _requested(self) -> None:
        self._asked.set()

    def _opened(self, error: Exception | None) -> None:
        if not self._is_open.is_set():
            self._opening = error
            self._is_open.set()

    # -- the tasks ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Does all that is to be done with the stream, until it is closed; called once."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._begin()
                    nursery.start_soon(self._keep_time)
                    nursery.start_soon(self._write_all)
                    await self._read_all()
            if self._in_order:
                # To say goodbye takes TLS some octets that may have to wait.
                with trio.move_on_after(self.session.config.close_timeout or inf):
                    await self.stream.aclose()
        finally:
            try:
                await trio.aclose_forcefully(self.stream)
            finally:
                self._out.clear()
                if not self._scope.cancel_called:
                    # It was cancelled itself.
                    self._dispatch(self.session.abort(now=self._time()))
                self._lose(self._tls_failed)
                self._asked.set()
                self._lost.set()
                self._senders.unpark_all()

    def _finish(self, *, in_order: bool) -> None:
        """Lets :meth:`run` end."""
        self._in_order = in_order
        self._scope.cancel()

    async def _read_all(self) -> None:
        """Reads until the end of the input."""
        stream = self.stream
        session = self.session
        try:
            if isinstance(stream, trio.SSLStream):
                await stream.do_handshake()
                self._shaking = False
                self._writer.unpark_all()
            while not self._input_over:
                while self._held_up:
                    self._reading = False
                    await self._reader.park()
                data = await stream.receive_some(_READ_SIZE)
                self._dispatch(session.receive(bytes(data) or None, self._time()))
                self._input_over = not data
                self._settle()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            self._tls_failed = isinstance(cause, ssl.SSLError) and not _is_end(cause)
            self._finish(in_order=False)
            return
        if not self._out:
            self._finish(in_order=True)

    async def _write_all(self) -> NoReturn:
        """Writes what there is to write."""
        stream = self.stream
        while True:
            while self._shaking or not self._out:
                ending, self._ending = self._ending, None
                if ending is None:
                    await self._writer.park()
                    continue
                with suppress(trio.BrokenResourceError):
                    await ending.send_eof()
            piece = bytes(self._out[:_WRITE_SIZE])
            try:
                await stream.send_all(piece)
            except trio.BrokenResourceError:
                # What the peer has sent before may still be read.
                self._broken = True
                self._out.clear()
            else:
                del self._out[: len(piece)]
            self._settle()
            if self.writable or self._broken:
                self._senders.unpark_all()
            if self._input_over and not self._out:
                self._finish(in_order=True)

    async def _keep_time(self) -> NoReturn:
        """Waits for deadlines."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.sleep_forever()
            self._pass_deadline()

    # -- for the driver ----------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._out += data
        self._writer.unpark_all()

    def _backlog(self) -> int:
        return len(self._out)

    def _resume_reading(self) -> None:
        self._reader.unpark_all()

    def _end_output(self) -> None:
        if self._shaking:
            self._finish(in_order=False)
        elif not self._out:
            stream = self.stream
            if self.session.closed or not isinstance(stream, trio.abc.HalfCloseableStream):
                self._finish(in_order=True)
            elif not self._output_over:
                self._output_over = True
                self._ending = stream
                self._writer.unpark_all()

    def _drop_transport(self) -> None:
        self._finish(in_order=False)

    def _schedule(self, when: float, now: float) -> None:
        self._due = when
        # A deadline that has moved away is found out when it passes.
        if when < self._sleep.deadline:
            self._sleep.deadline = when

    def _wake(self) -> None:
        if self._messages or self.closed is not None:
            self._receivers.unpark_all()

    def _answered(self, waiter: _Waiter, now: float) -> None:
        waiter.received = now
        waiter.done.set()

    def _unanswered(self, waiter: _Waiter) -> None:
        waiter.done.set()


def _is_end(error: ssl.SSLError) -> bool:
    """Whether the peer has ended the stream without a farewell of TLS's, as many do."""
    return isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF" in (error.strerror or "")

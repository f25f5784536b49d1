"""One connection on trio.

Theory of operation: a :class:`Connection` is the driver of one session, and :meth:`Connection.run`
runs three tasks for it: one reads, one writes the session's output, one waits for the next
deadline. The program's own calls change the session and the queues in one step, without a
checkpoint in between; they only wait before or after that step.

Cancelling is safe at every ``await``: a message is returned or stays, and is sent or is not. If
:meth:`Connection.run` itself is cancelled, the connection is dropped.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, NoReturn, cast

import trio

from ...frame_protocol import CloseReason
from ...session.lifecycle import ConnectionClosed
from .._driver import Driver, PieceKind, is_pieces, last_piece, message_event, piece_event
from .._listening import as_address, peer_of
from .._pieces import AsyncPieceIterator

if TYPE_CHECKING:
    from ...events import BytesMessage, Event, Request, TextMessage
    from ...session.prepared import PreparedMessage
    from ...session.session import Session
    from .._driver import Message, Pieces, WholeMessage
    from .._pieces import PieceReceiver
    from ..exceptions import ConnectionClosedError

__all__ = ["Connection"]

#: Bytes of one read and of one write: trio reports writes only as a whole.
_READ_SIZE: Final = 64 * 1024
_WRITE_SIZE: Final = 16 * 1024
#: Checkpoints in which a stream takes what it has room for.
_TURNS: Final = 4


#: Seconds to wait for what a stream has already received after writing to it has failed.
_LAST_READ: Final = 1.0


class _Waiter:
    """A waiter for a Pong."""

    __slots__ = ("done", "received")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.received: float | None = None


class Connection(Driver[_Waiter]):
    """One WebSocket connection.

    One task at a time may receive; any number may send, ping and close.

    Args:
        session: The session to drive.
        stream: A connected stream; with TLS, the handshake may still be outstanding.
        request: The request that a client starts with.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        stream: The stream, for asking its addresses only.
        closed: How the connection ended; ``None`` while it is open.
        request: The request of the opening handshake; on a server, ``None`` until it has arrived.
        response: On a connected client, the response to the request.
    """

    def __init__(
        self, session: Session, stream: trio.abc.Stream, *, request: Request | None = None
    ) -> None:
        super().__init__(session, request, trio.current_time)
        self.stream = stream
        # Whether the TLS handshake is in progress.
        self._shaking = self.secure = isinstance(stream, trio.SSLStream)
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if isinstance(stream, trio.SocketStream):
            # It may be disconnected already.
            with suppress(OSError):
                self.local = as_address(stream.socket.getsockname())
                self.peer = peer_of(stream.socket.getpeername(), stream.socket)
        # Tasks waiting for a message, for room to send one, and for something to read or write.
        self._receivers = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()
        self._reader = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()
        # Unwritten bytes, including the piece that is being written.
        self._out = bytearray()
        self._high_water = session.config.limits.high_water
        # The state of the stream: cannot be written; has reached its end; its output was ended or
        # is about to be.
        self._broken = False
        self._input_over = False
        self._output_over = False
        self._ending: trio.abc.HalfCloseableStream | None = None
        # Bounds how long it is read.
        self._listening = trio.CancelScope()
        # The scope of run(), and whether the stream is closed cleanly after it.
        self._scope = trio.CancelScope()
        self._in_order = False
        self._due = inf
        self._sleep = trio.CancelScope()
        # Set when a server has its request; set when a client's handshake has ended, and how.
        self._asked = trio.Event()
        self._is_open = trio.Event()
        self._opening: Exception | None = None
        self._lost = trio.Event()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would return without waiting."""
        return self._has_room and not (self._in_pieces or self._broken or self._gone)

    @property
    def _has_room(self) -> bool:
        return len(self._out) <= self._high_water

    async def recv(self) -> str | bytes:
        """Receive a message.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages were received.
            RuntimeError: Another task receives, or a message is being received in pieces.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._messages and not await self._wait_for_message():
            raise await self._end()
        message = self._take()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

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
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._check_receiver()
            piece = self._next_piece(receiver)
            if piece is not None or receiver.over:
                break
            self._ask_for_message()
            if self.closed is not None:
                receiver.close()
                raise await self._end()
            await self._receivers.park()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return piece

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> str | bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._messages and not await self._wait_for_message():
            error = await self._end()
            if error.in_order:
                raise StopAsyncIteration
            raise error
        message = self._take()
        await trio.lowlevel.cancel_shielded_checkpoint()
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
            await self._receivers.park()

    async def _end(self) -> ConnectionClosedError:
        """Return the end of the connection, after a checkpoint."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        return self._closed_error()

    def _check_receiver(self) -> None:
        if self._receivers:
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
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (self.writable or self._broken or self._gone):
            self._check_turn(trio.lowlevel.current_task())
            await self._senders.park()
        if is_pieces(message):
            await self._send_pieces(cast("Pieces", message))
        else:
            await self._send_event(message_event(cast("WholeMessage", message)))
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send_event(self, event: Event | PreparedMessage) -> None:
        if self._broken or not self._give(event, self._time()):
            await self._raise_end()
        self._follow_session()

    async def _send_pieces(self, pieces: Pieces) -> None:
        self._in_pieces = trio.lowlevel.current_task()
        kind: PieceKind | None = None
        try:
            if isinstance(pieces, AsyncIterable):
                async for piece in pieces:
                    kind = await self._send_piece(piece_event(piece, kind))
            else:
                for piece in pieces:
                    kind = await self._send_piece(piece_event(piece, kind))
            if kind is not None:
                await self._send_piece(last_piece(kind))
        except BaseException:
            if kind is not None:
                self.begin_close(CloseReason.INTERNAL_ERROR)
            raise
        finally:
            self._in_pieces = None
            self._senders.unpark_all()

    async def _send_piece(self, event: TextMessage | BytesMessage) -> PieceKind:
        while not (self._has_room or self._broken or self._gone):
            await self._senders.park()
        await self._send_event(event)
        return type(event)

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
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self._time()
        waiter = _Waiter()
        payload = None if self._broken else self._ping(payload, waiter)
        if payload is None:
            await self._raise_end()
        try:
            await waiter.done.wait()
        finally:
            self._forget_ping(payload)
        if waiter.received is None:
            raise self._closed_error()
        return waiter.received - sent

    async def pong(self, payload: bytes = b"") -> None:
        """Send an unsolicited Pong (RFC 6455 §5.5.3).

        Args:
            payload: At most 125 bytes.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
        """
        await trio.lowlevel.checkpoint()
        if self._broken or not self._pong(payload):
            await self._raise_end()

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
        await self._lost.wait()

    async def wait_closed(self) -> ConnectionClosed:
        """Wait until the stream is closed.

        The peer's end comes after everything it sent before: reading stops while the queue of
        unreceived messages is full, unless this side closes or the transport is gone.

        Returns:
            How the connection ended.
        """
        self._answer_by = -inf
        if self._broken:
            self._hurry()
        self._follow_session()
        await self._lost.wait()
        return self._closed_error().event

    async def _raise_end(self) -> NoReturn:
        """Wait for the end of the connection, which accepts nothing more, and raise it."""
        if self._broken:
            self._hurry()
        await self._lost.wait()
        raise self._closed_error()

    # -- opening -----------------------------------------------------------------------------------

    async def wait_opened(self) -> None:
        """Wait for the answer to a client's request.

        Raises:
            HandshakeRejected: The server rejected the handshake.
            ConnectionClosedError: The connection ended without an answer.
        """
        await self._is_open.wait()
        if self._opening is not None:
            raise self._opening

    async def wait_requested(self) -> bool:
        """Wait for the request, on a server.

        Returns:
            Whether it has arrived; otherwise the connection has ended.
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
        """Run the stream's tasks until it is closed; called once."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._begin()
                    nursery.start_soon(self._keep_time)
                    nursery.start_soon(self._write_all)
                    await self._read_all()
            if self._in_order:
                # The closing alert of TLS may have to wait until it can be written.
                with trio.move_on_after(self.session.config.close_timeout or inf):
                    await self.stream.aclose()
        finally:
            try:
                await trio.aclose_forcefully(self.stream)
            finally:
                self._out.clear()
                if not self._scope.cancel_called:
                    # run() itself was cancelled.
                    self._dispatch(self.session.abort(now=self._time()))
                self._lose(self._tls_failed)
                self._asked.set()
                self._lost.set()
                self._senders.unpark_all()

    def _end_transport(self, *, in_order: bool) -> None:
        """Make :meth:`run` end."""
        self._in_order = in_order
        self._scope.cancel()

    async def _read_all(self) -> None:
        """Read until the end of the input."""
        stream = self.stream
        session = self.session
        try:
            if isinstance(stream, trio.SSLStream):
                await stream.do_handshake()
                self._shaking = False
                self._writer.unpark_all()
            with self._listening:
                while not self._input_over:
                    while self._held_up:
                        self._reading = False
                        self._listening.deadline = inf
                        await self._reader.park()
                    self._bound_listening()
                    data = await stream.receive_some(_READ_SIZE)
                    await self._let_write()
                    self._dispatch(session.receive(bytes(data) or None, self._time()))
                    self._input_over = not data
                    self._follow_session()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            self._tls_failed = isinstance(cause, ssl.SSLError) and not _is_end(cause)
            self._end_transport(in_order=False)
            return
        if not self._out:
            self._end_transport(in_order=not self._listening.cancelled_caught)

    async def _let_write(self) -> None:
        """Let the writer run: bytes that only wait for its turn are not a backlog."""
        for _ in range(_TURNS):
            if not self._out:
                break
            await trio.lowlevel.checkpoint()

    def _bound_listening(self) -> None:
        """Limit reading to what has already arrived, after writing has failed."""
        if self._broken:
            self._listening.deadline = trio.current_time() + _LAST_READ

    async def _write_all(self) -> NoReturn:
        """Write the output, forever."""
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
                # What the peer sent before can still be read.
                self._broken = True
                self._out.clear()
                if not self._held_up:
                    self._bound_listening()
            else:
                del self._out[: len(piece)]
            self._follow_session()
            if self._has_room or self._broken:
                self._senders.unpark_all()
            if self._input_over and not self._out:
                self._end_transport(in_order=True)

    async def _keep_time(self) -> NoReturn:
        """Wait for deadlines, forever."""
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
            self._end_transport(in_order=False)
        elif not self._out:
            stream = self.stream
            if self.session.closed or not isinstance(stream, trio.abc.HalfCloseableStream):
                self._end_transport(in_order=True)
            elif not self._output_over:
                self._output_over = True
                self._ending = stream
                self._writer.unpark_all()

    def _drop_transport(self) -> None:
        self._end_transport(in_order=False)

    def _schedule(self, when: float, now: float) -> None:
        self._due = when
        # A deadline that moved into the future is only noticed when the old one passes.
        if when < self._sleep.deadline:
            self._sleep.deadline = when

    def _wake(self) -> None:
        if self._messages or self._pieces or self.closed is not None:
            self._receivers.unpark_all()

    def _answered(self, waiter: _Waiter, now: float) -> None:
        waiter.received = now
        waiter.done.set()

    def _unanswered(self, waiter: _Waiter) -> None:
        waiter.done.set()


def _is_end(error: ssl.SSLError) -> bool:
    """Return whether the peer ended the stream without a closing alert of TLS, as many do."""
    return isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF" in (error.strerror or "")

"""One connection on a socket, with a thread of its own.

Theory of operation: a :class:`Connection` is the driver of one session and has a thread that waits
for the socket, the next deadline, and an alarm. Pings are therefore answered and deadlines hold
whatever the program does. The socket never blocks and, like everything else, is only used under the
connection's lock: a sender writes at once what the socket takes, and leaves the rest to the thread.
The program's code never runs in that thread.

Any number of threads may send, ping and close; one at a time may receive.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from contextlib import suppress
from math import inf
from threading import Condition, Lock, RLock, Thread, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, cast

from ...frame_protocol import CloseReason
from ...session.lifecycle import Cause, ConnectionClosed
from .._driver import Driver, PieceKind, is_pieces, last_piece, message_event, piece_event
from .._listening import as_address, peer_of
from .._pieces import PieceIterator
from ..exceptions import ConnectionClosedError, HandshakeRejected
from .alarm import Alarm, Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ...events import AcceptConnection, BytesMessage, Request, TextMessage
    from ...policy.decision import Reject
    from ...session.session import Session
    from .._driver import WholeMessage
    from .._pieces import PieceReceiver

__all__ = ["Connection"]

#: Bytes of one read: more than a TLS record, so that no bytes remain buffered in it.
_READ_SIZE: Final = 64 * 1024

#: Bytes of one write. With TLS, those of a record: an unfinished write must be repeated with the
#: same bytes, and only completed records count as written.
_WRITE_SIZE: Final = 1024 * 1024
_RECORD_SIZE: Final = 16 * 1024

#: Raised by a socket that is not ready at the moment.
_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


#: Held while a connection is torn down, which takes many system calls; after each of them it
#: waits for the GIL; thousands that do so at the same time would starve all other threads.
_taking_down: Final = Lock()


class _Waiter:
    """A waiter for a Pong."""

    __slots__ = ("done", "received")

    def __init__(self) -> None:
        self.done = False
        self.received: float | None = None


class Connection(Driver[_Waiter]):
    """One WebSocket connection.

    Args:
        session: The session to drive.
        sock: A connected socket; with TLS, before its handshake.
        request: The request that a client starts with.
        time: The clock.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        sock: The socket, for asking its addresses only.
        closed: How the connection ended; ``None`` while it is open.
        request: The request of the opening handshake; on a server, ``None`` until it has arrived.
        response: On a connected client, the response to the request.
    """

    def __init__(
        self,
        session: Session,
        sock: socket.socket,
        *,
        request: Request | None = None,
        time: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(session, request, time)
        self.sock = sock
        sock.setblocking(False)
        with suppress(OSError):
            # It may be disconnected already.
            self.local = as_address(sock.getsockname())
            self.peer = peer_of(sock.getpeername(), sock)
        # Unix sockets do not have this option.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = self.secure = isinstance(sock, ssl.SSLSocket)
        # Whether the TLS handshake is in progress, and what it waits for.
        self._shaking = self._tls
        self._shaking_for = _READ
        self._lock = RLock()
        # Signals something to receive, a Pong or the end; and room for messages to send.
        self._news = Condition(self._lock)
        self._room = Condition(self._lock)
        self._receiving = False
        # Bytes that the socket has not taken yet.
        self._out = bytearray()
        self._high_water = session.config.limits.high_water
        # The state of the socket: cannot be written; has reached its end; its output was ended.
        self._broken = False
        self._input_over = False
        self._output_over = False
        # Whether the socket is to be closed, because of which error, and whether it is closed.
        self._over = False
        self._error: OSError | None = None
        self._lost = False
        # How the client's handshake ended.
        self._opening: Exception | None = None
        self._is_open = request is None
        self._started = False
        # What the thread should wait for, and what it currently waits for.
        self._due = inf
        self._asleep = False
        self._sleeps_until = inf
        self._watched = 0
        self._alarm = Alarm()
        self._selector = Selector()
        self._selector.register(self._alarm.receiver, _READ)

    def start(self) -> None:
        """Start the session, in a thread of its own.

        Raises:
            RuntimeError: No more threads can be started.
        """
        name = f"wsproto_sip {self.sock.fileno()}"
        thread = Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self._started = True

    def abandon(self) -> None:
        """End the connection at once, and wait until the socket is closed."""
        with self._lock:
            if self._started:
                self.abort()
                self._wait_lost()
            elif not self._lost:
                self._let_go()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would return without waiting."""
        return self._has_room and not (self._in_pieces or self._broken or self._gone)

    @property
    def _has_room(self) -> bool:
        return len(self._out) <= self._high_water

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Receive a message.

        Args:
            timeout: Seconds to wait; ``None`` to wait as long as it takes.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages were received.
            TimeoutError: No message arrived in time.
            RuntimeError: Another thread receives, or a message is being received in pieces.
        """
        with self._lock:
            if not self._messages:
                self._wait_for_message(timeout)
                if not self._messages:
                    raise self._closed_error()
            return self._take()

    def _wait_for_message(self, timeout: float | None) -> None:
        self._wait_to_receive(lambda: self._has_message() or self.closed is not None, timeout)

    def _wait_to_receive(self, predicate: Callable[[], bool], timeout: float | None) -> None:
        if self._receiving:
            raise RuntimeError("another thread receives from this connection")
        if predicate():
            return
        self._ask_for_message()
        self._receiving = True
        try:
            _wait(self._news, predicate, timeout)
        finally:
            self._receiving = False

    def recv_streaming(self, timeout: float | None = None) -> PieceIterator:
        """Receive a message in pieces as they arrive: frames, or parts of frames.

        Each piece of text is valid however its bytes were divided, and no piece is empty unless the
        message is. Reading stops while the queue of pieces is full. ``limits.max_message_size``
        bounds the message; for longer ones, see :doc:`/howto/adapters`. With ``whole_messages``
        (the default), what arrived before this call waits for the end of its message; if the
        connection ends first, it is lost, as with :meth:`recv`.

        If the iterator is closed or dropped, the rest of its message is skipped. Until then nothing
        else can be received.

        Args:
            timeout: Seconds to wait for each piece; ``None`` to wait as long as it takes.

        Returns:
            An iterator. It raises the same exceptions as :meth:`recv`, including
            ``ConnectionClosedError`` in the middle of a message. It can be continued after a
            ``TimeoutError``.
        """
        return PieceIterator(self._recv_piece, timeout)

    def _recv_piece(self, receiver: PieceReceiver, timeout: float | None) -> str | bytes | None:
        """Return the next piece of the message; ``None`` after the last one."""
        piece: str | bytes | None = None

        def arrived() -> bool:
            nonlocal piece
            piece = self._next_piece(receiver)
            return piece is not None or receiver.over

        with self._lock:
            self._wait_to_receive(lambda: arrived() or self.closed is not None, timeout)
            if piece is None and not receiver.over:
                receiver.close()
                raise self._closed_error()
            return piece

    def __iter__(self) -> Connection:
        return self

    def __next__(self) -> str | bytes:
        try:
            return self.recv()
        except ConnectionClosedError as error:
            if error.in_order:
                raise StopIteration from None
            raise

    def send(
        self,
        message: WholeMessage | Iterable[str] | Iterable[bytes],
        timeout: float | None = None,
    ) -> None:
        """Send a message as soon as there is room for it.

        Args:
            message: ``str`` is sent as text, bytes as binary. An iterable of either is sent as one
                message in fragments, each as soon as there is room; an empty one sends nothing.
                Other senders wait for its end. If it fails in the middle, the connection is closed
                with 1011.
            timeout: Seconds to wait for room; ``None`` to wait as long as it takes.

        Raises:
            ConnectionClosedError: The connection is closed, or a close frame was sent.
            LocalProtocolError: The text cannot be encoded.
            TimeoutError: There was no room in time; nothing was sent.
            RuntimeError: Called by the iterator of another message, which would wait for itself.
        """
        if is_pieces(message):
            self._send_pieces(cast("Iterable[object]", message), timeout)
            return
        with self._lock:
            self._wait_turn(timeout)
            event = message_event(cast("WholeMessage", message))
            if self._broken or not self._give(event, self._time()):
                self._raise_end()
            session = self.session
            if self._answer_by == inf:
                # The usual case: it is written at once.
                self._write(session.data_to_send())
                if not (self._out or self._stuck or self._broken):
                    session.touched = False
                    return
            self._follow_session()

    def _send_pieces(self, pieces: Iterable[object], timeout: float | None) -> None:
        with self._lock:
            self._wait_turn(timeout)
            self._in_pieces = get_ident()
        kind: PieceKind | None = None
        try:
            for piece in pieces:
                kind = self._send_piece(piece_event(piece, kind), timeout)
            if kind is not None:
                self._send_piece(last_piece(kind), timeout)
        except BaseException:
            if kind is not None:
                self.begin_close(CloseReason.INTERNAL_ERROR)
            raise
        finally:
            with self._lock:
                self._in_pieces = None
                self._room.notify_all()

    def _send_piece(self, event: TextMessage | BytesMessage, timeout: float | None) -> PieceKind:
        with self._lock:
            _wait(self._room, lambda: self._has_room or self._broken or self._gone, timeout)
            if self._broken or not self._give(event, self._time()):
                self._raise_end()
            self._follow_session()
            return type(event)

    def _wait_turn(self, timeout: float | None) -> None:
        """Wait until a message may begin."""
        self._check_turn(get_ident())
        _wait(self._room, lambda: self.writable or self._broken or self._gone, timeout)

    def ping(self, payload: bytes | None = None, timeout: float | None = None) -> float:
        """Ping the peer and wait for the answer (RFC 6455 §5.5.2).

        The answer arrives after everything that the peer sent before it, and is not seen while
        messages wait to be received.

        Args:
            payload: At most 125 bytes that no other unanswered Ping has; ``None`` for random bytes.
            timeout: Seconds to wait; ``None`` to wait as long as it takes.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
            TimeoutError: There was no answer in time.
            ValueError: A Ping with this payload is already waiting.
        """
        waiter = _Waiter()
        with self._lock:
            sent = self._time()
            payload = None if self._broken else self._ping(payload, waiter)
            if payload is None:
                self._raise_end()
            try:
                _wait(self._news, lambda: waiter.done, timeout)
            finally:
                self._forget_ping(payload)
            if waiter.received is None:
                raise self._closed_error()
            return waiter.received - sent

    def pong(self, payload: bytes = b"") -> None:
        """Send an unsolicited Pong (RFC 6455 §5.5.3).

        Args:
            payload: At most 125 bytes.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
        """
        with self._lock:
            if self._broken or not self._pong(payload):
                self._raise_end()

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection and wait until it is closed (RFC 6455 §7.1.2).

        A repeated call only waits. Messages that the peer still sends can be received until the
        queue is full; the rest is dropped. Closing takes at most ``close_timeout`` seconds.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 bytes in UTF-8; longer text is cut.

        Raises:
            LocalProtocolError: The code must not be sent, or the reason cannot be encoded.
        """
        with self._lock:
            self.begin_close(code, reason)
            self._wait_lost()

    def begin_close(
        self,
        code: int = CloseReason.NORMAL_CLOSURE,
        reason: str = "",
        *,
        cause: Cause = Cause.LOCAL,
    ) -> None:
        """Start to close the connection, without waiting for the end; see :meth:`close`."""
        with self._lock:
            super().begin_close(code, reason, cause=cause)

    def wait_closed(self, timeout: float | None = None) -> ConnectionClosed:
        """Wait until the socket is closed.

        The peer's end comes after everything it sent before: reading stops while the queue of
        unreceived messages is full, unless this side closes or the transport is gone.

        Args:
            timeout: Seconds to wait; ``None`` to wait as long as it takes.

        Returns:
            How the connection ended.

        Raises:
            TimeoutError: It has not ended in time.
        """
        with self._lock:
            self._answer_by = -inf
            if self._broken:
                self._hurry()
            self._follow_session()
            self._wait_lost(timeout)
            return self._closed_error().event

    def _raise_end(self) -> NoReturn:
        """Wait for the end of the connection, which accepts nothing more, and raise it."""
        if self._broken:
            self._hurry()
        self._wait_lost()
        raise self._closed_error()

    def _wait_lost(self, timeout: float | None = None) -> None:
        _wait(self._news, lambda: self._lost, timeout)

    def abort(self) -> None:
        """End the connection at once, without a close frame."""
        with self._lock:
            super().abort()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection with 1000, or drop it if the block has failed."""
        try:
            if error is None:
                self.close()
        finally:
            self.abandon()

    # -- opening -----------------------------------------------------------------------------------

    def accept(self, answer: AcceptConnection) -> None:
        """Accept the request, on a server."""
        with self._lock:
            super().accept(answer)

    def reject(self, rejection: HandshakeRejected | Reject) -> None:
        """Reject the request, on a server."""
        with self._lock:
            super().reject(rejection)

    def answer(self, answer: AcceptConnection | HandshakeRejected | Reject) -> bool:
        """Answer the request, on a server, unless it is too late."""
        with self._lock:
            return super().answer(answer)

    def wait_opened(self, timeout: float | None = None) -> None:
        """Wait for the answer to a client's request.

        Args:
            timeout: Seconds to wait; ``None`` to wait as long as it takes.

        Raises:
            HandshakeRejected: The server rejected the handshake.
            ConnectionClosedError: The connection ended without an answer.
            OSError: The TLS handshake failed.
            TimeoutError: There was no answer in time.
        """
        with self._lock:
            _wait(self._news, lambda: self._is_open, timeout)
            if self._opening is not None:
                raise self._opening

    def _opened(self, error: Exception | None) -> None:
        if not self._is_open:
            self._is_open = True
            self._opening = error
            self._news.notify_all()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        """Run the connection until its end."""
        try:
            with self._lock:
                self._begin()
                if self._shaking:
                    self._shake()
            while not self._over:
                self._turn()
        finally:
            with _taking_down, self._lock:
                self._let_go()

    def _turn(self) -> None:
        with self._lock:
            if self._over:
                return
            self._watch(self._interest())
            timeout = None if self._due == inf else max(self._due - self._time(), 0.0)
            # When writing has failed, only what has already arrived can still be read.
            last_look = self._broken and bool(self._watched & _READ)
            if last_look:
                timeout = 0.0
            self._sleeps_until = self._due
            self._asleep = True
        ready = self._selector.select(timeout)
        with self._lock:
            self._asleep = False
            mask = 0
            for key, events in ready:
                if key.fileobj is self.sock:
                    mask |= events
                else:
                    self._alarm.silence()
            if self._shaking:
                if mask:
                    self._shake()
            else:
                if mask & _WRITE:
                    self._flush()
                if mask & _READ:
                    self._read()
            if self._due <= self._time():
                self._pass_deadline()
            if (self._input_over and not self._out) or (last_look and not mask):
                self._over = True

    def _interest(self) -> int:
        """Return what to wait for on the socket."""
        if self._shaking:
            return self._shaking_for
        mask = _WRITE if self._out else 0
        return mask if self._input_over or self._held_up else mask | _READ

    def _watch(self, mask: int) -> None:
        if mask == self._watched:
            return
        if not self._watched:
            self._selector.register(self.sock, mask)
        elif mask:
            self._selector.modify(self.sock, mask)
        else:
            self._selector.unregister(self.sock)
        self._watched = mask

    def _shake(self) -> None:
        """Continue the TLS handshake."""
        try:
            self.sock.do_handshake()  # type: ignore[attr-defined]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wanted:
            self._shaking_for = _READ if isinstance(wanted, ssl.SSLWantReadError) else _WRITE
        except OSError as error:
            self._error = error
            self._over = True
        else:
            self._shaking = False
            self._flush()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_READ_SIZE)
        except _NOT_NOW:
            return
        except OSError as error:
            self._error = error
            self._over = True
            return
        session = self.session
        empty = (
            self._receiving and not self._messages and self._budget == inf and self._pieces is None
        )
        events = session.receive(data or None, self._time())
        if data and empty and not session.touched:
            # The usual case: only messages, and a receiver that waits for them.
            self._messages += [event.data for event in events]  # type: ignore[attr-defined]
            self._wake()
            return
        self._dispatch(events)
        if not data:
            self._input_over = True
        self._follow_session()

    def _flush(self) -> None:
        """Write pending bytes."""
        if self._out:
            with memoryview(self._out) as pending:
                done = self._put(pending)
            del self._out[:done]
        self._follow_session()
        # Each waiting sender checks for itself whether there is room.
        self._room.notify_all()

    def _put(self, pending: memoryview) -> int:
        """Write what the socket takes at once, and return how many bytes that was."""
        if self._shaking:
            return 0
        size = _RECORD_SIZE if self._tls else _WRITE_SIZE
        done = 0
        try:
            while done < len(pending) and not self._broken:
                done += self.sock.send(pending[done : done + size])
        except _NOT_NOW:
            return done
        except OSError:
            # What the peer sent before can still be read.
            self._broken = True
        return len(pending)

    def _let_go(self) -> None:
        """End the thread, and close the socket."""
        self._selector.close()
        self._alarm.close()
        self.sock.close()
        self._out.clear()
        if self._error is not None and self._shaking:
            self._opened(self._error)
        self._lose(isinstance(self._error, ssl.SSLError))
        self._lost = True
        self._news.notify_all()
        self._room.notify_all()

    # -- for the driver ----------------------------------------------------------------------------

    def _follow_session(self) -> None:
        super()._follow_session()
        if self._asleep and (
            self._over
            or self._broken
            or self._due < self._sleeps_until
            or self._interest() != self._watched
        ):
            self._asleep = False
            self._alarm.ring()

    def _write(self, data: bytes) -> None:
        done = 0 if self._out else self._put(memoryview(data))
        self._out += memoryview(data)[done:]

    def _backlog(self) -> int:
        return len(self._out)

    def _end_output(self) -> None:
        if self._shaking:
            self._over = True
        elif not self._out:
            if not self._output_over:
                self._output_over = True
                self._shut_down()
            self._over = self._over or self.session.closed

    def _shut_down(self) -> None:
        """Tell the peer that nothing more follows."""
        with suppress(OSError, ValueError):
            if isinstance(self.sock, ssl.SSLSocket):
                # Do not wait for its answer.
                self.sock.unwrap()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _drop_transport(self) -> None:
        self._over = True

    def _schedule(self, when: float, now: float) -> None:
        self._due = when

    def _wake(self) -> None:
        if self._messages or self._pieces or self.closed is not None:
            self._news.notify_all()

    def _answered(self, waiter: _Waiter, now: float) -> None:
        waiter.received = now
        self._unanswered(waiter)

    def _unanswered(self, waiter: _Waiter) -> None:
        waiter.done = True
        self._news.notify_all()


def _wait(condition: Condition, predicate: Callable[[], bool], timeout: float | None) -> None:
    if not condition.wait_for(predicate, timeout):
        raise TimeoutError("it took too long")

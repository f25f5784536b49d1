"""One connection on a socket, with a thread of its own.

Theory of operation: a :class:`Connection` is the driver of one session and has a thread that waits
for the socket, for the next deadline, and for being woken. So Pings are answered and deadlines
hold whatever the program does. The socket never blocks, and is used under the connection's lock
alone, like everything else: whoever sends writes at once what the socket takes, and leaves the
rest to the thread. No code of the program runs in that thread.

Any number of threads may send, ping and close; one at a time may receive.
"""

from __future__ import annotations

import selectors
import socket
import ssl
from contextlib import suppress
from math import inf
from threading import Condition, RLock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..frame_protocol import CloseReason
from ..lifecycle import Cause, ConnectionClosed
from ._blocking_alarm import Alarm, Selector
from ._common import ConnectionClosedError, HandshakeRejected, message_event
from ._driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..events import AcceptConnection, Request
    from ..prepared import PreparedMessage
    from ..session import Session

__all__ = ["Connection"]

#: Octets of one read: more than a record of TLS has, so that none stay behind in it.
_READ_SIZE: Final = 64 * 1024

#: Octets of one write. With TLS those of a record: a write that was begun has to be repeated with
#: the same octets, and what is written counts when a record is.
_WRITE_SIZE: Final = 1024 * 1024
_RECORD_SIZE: Final = 16 * 1024

#: What a socket says that has, or takes, nothing at the moment.
_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE


class _Waiter:
    """What waits for a Pong."""

    __slots__ = ("done", "received")

    def __init__(self) -> None:
        self.done = False
        self.received: float | None = None


class Connection(Driver[_Waiter]):
    """One WebSocket connection.

    Args:
        session: What it drives.
        sock: A connected socket; with TLS the handshake is still to be done.
        request: What a client begins with.
        time: The clock.

    Attributes:
        session: The session: its state, sub-protocol, extensions and round-trip time.
        sock: The socket; to be asked for its addresses, and left alone.
        closed: How the connection ended; None while it has not.
        request: The request of the opening handshake, on a server once it is there.
        response: On a client that is connected, the answer to it.
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
        # Local domains have no such option.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = isinstance(sock, ssl.SSLSocket)
        # Whether TLS is still being agreed on, and what for it waits then.
        self._shaking = self._tls
        self._shaking_for = _READ
        self._lock = RLock()
        # Something to receive, an answer, the end; room for messages to send.
        self._news = Condition(self._lock)
        self._room = Condition(self._lock)
        self._receiving = False
        # What the socket has not taken.
        self._out = bytearray()
        self._high_water = session.config.limits.high_water
        # How the socket is: it takes no more; nothing more comes; the output was ended.
        self._broken = False
        self._input_over = False
        self._output_over = False
        # Whether the socket is to be closed, for which error, and whether it is.
        self._over = False
        self._error: OSError | None = None
        self._lost = False
        # How the client's handshake ended.
        self._opening: Exception | None = None
        self._is_open = request is None
        self._started = False
        # What the thread waits for: as it should be, and as it is while it does.
        self._due = inf
        self._asleep = False
        self._sleeps_until = inf
        self._watched = 0
        self._alarm = Alarm()
        self._selector = Selector()
        self._selector.register(self._alarm.receiver, _READ)

    def start(self) -> None:
        """Begins, in a thread of its own.

        Raises:
            RuntimeError: There can be no more threads.
        """
        name = f"wsproto_sip {self.sock.fileno()}"
        thread = Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self._started = True

    def abandon(self) -> None:
        """Ends the connection at once, and waits until the socket is closed."""
        with self._lock:
            if self._started:
                self.abort()
                self._wait_lost()
            elif not self._lost:
                self._let_go()

    # -- for the program ---------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` would not have to wait."""
        return len(self._out) <= self._high_water and not (self._broken or self._gone)

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Receives a message.

        Args:
            timeout: Seconds to wait at most; None to wait as long as it takes.

        Returns:
            ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosedError: The connection has ended, and all messages are received.
            TimeoutError: There was none in time.
            RuntimeError: Another thread receives.
        """
        with self._lock:
            if not self._messages:
                self._wait_for_message(timeout)
                if not self._messages:
                    raise self._closed_error()
            return self._take()

    def _wait_for_message(self, timeout: float | None) -> None:
        if self._receiving:
            raise RuntimeError("another thread receives from this connection")
        self._ask_for_message()
        self._receiving = True
        try:
            _wait(self._news, lambda: bool(self._messages) or self.closed is not None, timeout)
        finally:
            self._receiving = False

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
        message: str | bytes | bytearray | memoryview | PreparedMessage,
        timeout: float | None = None,
    ) -> None:
        """Sends a message, when there is room for it.

        Args:
            message: ``str`` goes as text, octets as binary.
            timeout: Seconds to wait for room at most; None to wait as long as it takes.

        Raises:
            ConnectionClosedError: The connection is closed, or a close frame was sent.
            LocalProtocolError: The text cannot be encoded.
            TimeoutError: There was no room in time; nothing is sent.
        """
        with self._lock:
            _wait(self._room, self._may_send, timeout)
            if self._broken:
                raise self._closed_error()
            if not self._give(message_event(message), self._time()):
                self._wait_lost()
                raise self._closed_error()
            session = self.session
            if self._answer_by == inf:
                # The usual case: it goes out at once.
                self._write(session.data_to_send())
                if not (self._out or self._stuck):
                    session.touched = False
                    return
            self._settle()

    def _may_send(self) -> bool:
        return self.writable or self._broken or self._gone

    def ping(self, payload: bytes | None = None, timeout: float | None = None) -> float:
        """Pings the peer and waits for its answer (RFC 6455 §5.5.2).

        The answer stands behind what the peer sent before it: it is not seen while messages wait
        to be received.

        Args:
            payload: At most 125 octets that no other unanswered Ping has; None for random ones.
            timeout: Seconds to wait at most; None to wait as long as it takes.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosedError: The connection has ended, or is closing.
            LocalProtocolError: The payload is too long.
            TimeoutError: There was no answer in time.
            ValueError: A Ping with this payload waits already.
        """
        waiter = _Waiter()
        with self._lock:
            if self._broken:
                raise self._closed_error()
            sent = self._time()
            payload = self._ping(payload, waiter)
            if payload is None:
                self._wait_lost()
                raise self._closed_error()
            try:
                _wait(self._news, lambda: waiter.done, timeout)
            finally:
                self._forget_ping(payload)
            if waiter.received is None:
                raise self._closed_error()
            return waiter.received - sent

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection and waits until it is (RFC 6455 §7.1.2); once more only waits.

        What the peer still sends can be received, up to a queue's worth; the rest is dropped.
        It takes ``close_timeout`` seconds at most.

        Args:
            code: The status code (RFC 6455 §7.4).
            reason: Text of at most 123 octets in UTF-8; longer ones are cut.

        Raises:
            LocalProtocolError: The code may not be sent, or the reason cannot be encoded.
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
        """Closes the connection without waiting for the end; see :meth:`close`."""
        with self._lock:
            super().begin_close(code, reason, cause=cause)

    def wait_closed(self, timeout: float | None = None) -> ConnectionClosed:
        """Waits until the socket is closed.

        The end stands behind what the peer sent before it: it is not seen while messages wait to
        be received, unless this side closes.

        Args:
            timeout: Seconds to wait at most; None to wait as long as it takes.

        Returns:
            How the connection ended.

        Raises:
            TimeoutError: It has not.
        """
        with self._lock:
            self._answer_by = -inf
            self._settle()
            self._wait_lost(timeout)
            return self._closed_error().event

    def _wait_lost(self, timeout: float | None = None) -> None:
        _wait(self._news, lambda: self._lost, timeout)

    def abort(self) -> None:
        """Ends the connection at once, without a close frame."""
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
        """Closes the connection with 1000, or drops it where the block has failed."""
        try:
            if error is None:
                self.close()
        finally:
            self.abandon()

    # -- opening -----------------------------------------------------------------------------------

    def accept(self, answer: AcceptConnection) -> None:
        """Accepts the request, on a server."""
        with self._lock:
            super().accept(answer)

    def reject(self, rejection: HandshakeRejected) -> None:
        """Rejects the request, on a server."""
        with self._lock:
            super().reject(rejection)

    def answer(self, answer: AcceptConnection | HandshakeRejected) -> bool:
        """Answers the request, on a server, unless it is too late for that."""
        with self._lock:
            return super().answer(answer)

    def wait_opened(self, timeout: float | None = None) -> None:
        """Waits for the answer to a client's request.

        Args:
            timeout: Seconds to wait at most; None to wait as long as it takes.

        Raises:
            HandshakeRejected: It was no success.
            ConnectionClosedError: There was none.
            OSError: TLS could not be agreed on.
            TimeoutError: There was none in time.
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
        """Waits, and does what there is to do, until the end."""
        try:
            with self._lock:
                self._begin()
                if self._shaking:
                    self._shake()
            while not self._over:
                self._turn()
        finally:
            with self._lock:
                self._let_go()

    def _turn(self) -> None:
        with self._lock:
            if self._over:
                return
            self._watch(self._interest())
            timeout = None if self._due == inf else max(self._due - self._time(), 0.0)
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
            if self._input_over and not self._out:
                self._over = True

    def _interest(self) -> int:
        """What to wait for on the socket."""
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
        """Goes on with the handshake of TLS."""
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
        empty = self._receiving and not self._messages and not self._dropping
        events = session.receive(data or None, self._time())
        if data and empty and not session.touched:
            # The usual case: nothing but messages, and somebody who waits for them.
            self._messages += [event.data for event in events]  # type: ignore[attr-defined]
            self._wake()
            return
        self._dispatch(events)
        if not data:
            self._input_over = True
        self._settle()

    def _flush(self) -> None:
        """Writes what waits."""
        if self._out:
            with memoryview(self._out) as octets:
                done = self._put(octets)
            del self._out[:done]
        self._settle()
        # Whoever waits looks for itself whether there is room.
        self._room.notify_all()

    def _put(self, octets: memoryview) -> int:
        """Writes what the socket takes at once; how many octets that are."""
        if self._shaking:
            return 0
        size = _RECORD_SIZE if self._tls else _WRITE_SIZE
        done = 0
        try:
            while done < len(octets) and not self._broken:
                done += self.sock.send(octets[done : done + size])
        except _NOT_NOW:
            return done
        except OSError:
            # What the peer has sent before may still be read.
            self._broken = True
        return len(octets)

    def _let_go(self) -> None:
        """The end of the thread, and of the socket."""
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

    def _settle(self) -> None:
        super()._settle()
        if self._asleep and (
            self._over or self._due < self._sleeps_until or self._interest() != self._watched
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
        """Tells the peer that nothing more comes."""
        with suppress(OSError, ValueError):
            if isinstance(self.sock, ssl.SSLSocket):
                # Its answer is not waited for.
                self.sock.unwrap()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _drop_transport(self) -> None:
        self._over = True

    def _schedule(self, when: float, now: float) -> None:
        self._due = when

    def _wake(self) -> None:
        if self._messages or self.closed is not None:
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

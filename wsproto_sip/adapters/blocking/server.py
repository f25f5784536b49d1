"""WebSocket servers with blocking sockets and threads.

Theory of operation: each :class:`~wsproto_sip.adapters.blocking.connection.Connection` has a thread
for its socket. A server has one more thread that accepts connections, and runs the handler of each
connection in a third one as soon as its request has arrived, so that a client with a slow handshake
does not occupy a handler. The number of connections is bounded; further ones wait in the operating
system's queue.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl as tls
from contextlib import contextmanager
from inspect import iscoroutinefunction
from threading import Condition, Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Final

from ...frame_protocol import CloseReason
from ...session.config import SessionConfig
from ...session.lifecycle import Cause
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, no_extensions
from .._listening import AcceptBackoff, open_listener, place_of, unlink
from .._serving import Serving, run_blocking
from ..exceptions import HandshakeRejected
from .alarm import Alarm, Selector
from .connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ...events import AcceptConnection
    from ...extensions import Extension
    from ...policy.decision import PolicyChain, Reject

__all__ = ["Server", "serve"]

_logger = logging.getLogger("wsproto_sip.blocking")

#: Seconds that handlers have to notice that their connections were dropped.
_LAST_WORDS: Final = 1.0

_DEFAULT: Final = SessionConfig()


class _ServerConnection(Connection):
    """A connection of a server."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        session = Session(ConnectionType.SERVER, now=monotonic(), config=server.config)
        super().__init__(session, sock)
        self._server = server

    def _requested(self) -> None:
        self._server._spawn(self)

    def _let_go(self) -> None:
        super()._let_go()
        self._server._left(self)


class Server:
    """Listen, and run a handler for each connection; made by :func:`serve`.

    Args:
        handler: As for :func:`serve`; so are the other arguments.

    Attributes:
        config: The configuration of sessions.
        max_connections: The maximum number of connections.
    """

    def __init__(
        self,
        handler: Callable[[Connection], object],
        *,
        policies: PolicyChain | None = None,
        resolve: Callable[[Connection, object], object] | None = None,
        process_request: Callable[[Connection], AcceptConnection | Reject | None] | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
        max_connections: int = 1000,
    ) -> None:
        check_arguments(handler=handler, max_connections=max_connections)
        for function in (handler, resolve, process_request):
            if iscoroutinefunction(function):
                raise TypeError(f"{function.__name__}() must not be async: it runs in a thread")
        self._serving: Serving[Connection] = Serving(
            _logger,
            policies=policies,
            resolve=resolve,
            process_request=process_request,
            subprotocols=subprotocols,
            extensions=extensions,
            config=config,
        )
        self.config = self._serving.config
        self.max_connections = max_connections
        self._handler = handler
        # Guards the next five attributes, and signals when something leaves them.
        self._change = Condition()
        self._connections: set[Connection] = set()
        self._handlers: set[Thread] = set()
        self._listeners: list[tuple[socket.socket, tls.SSLContext | None]] = []
        self._acceptor: Thread | None = None
        self._alarm: Alarm | None = None

    @property
    def connections(self) -> set[Connection]:
        """The connections whose sockets are open, as a new set."""
        with self._change:
            return set(self._connections)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses and ports it listens on; the path of a Unix socket, with port 0."""
        with self._change:
            return [place_of(listener) for listener, _ in self._listeners]

    def listen(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        unix: str | None = None,
        sock: socket.socket | int | None = None,
        ssl: tls.SSLContext | None = None,
        backlog: int = 100,
        reuse_port: bool = False,
    ) -> None:
        """Start to accept connections, at one more place if it already does.

        Args:
            host: The address to listen on; ``None`` for all, including IPv6 if available.
            port: The port; 0 for a free one.
            unix: The path of a Unix socket to listen on instead.
            sock: A socket to listen on instead, or its descriptor, for example an inherited one.
            ssl: The TLS context, for wss.
            backlog: Connections that may wait to be accepted.
            reuse_port: Whether other sockets may listen on the same port.

        Raises:
            OSError: The server cannot listen there.
            TypeError: Not exactly one place is named.
        """
        check_arguments(ssl=ssl)
        listener = open_listener(port, unix, sock, backlog)
        if listener is None:
            both = host is None and socket.has_dualstack_ipv6()
            six = both or ":" in (host or "")
            listener = socket.create_server(
                (host or "", port or 0),
                family=socket.AF_INET6 if six else socket.AF_INET,
                backlog=backlog,
                reuse_port=reuse_port,
                dualstack_ipv6=both,
            )
            listener.setblocking(False)
        with self._change:
            self._listeners.append((listener, ssl))
            if self._alarm is not None:
                self._alarm.ring()
                return
            alarm = self._alarm = Alarm()
            name = "wsproto_sip acceptor"
            self._acceptor = Thread(target=self._accept_all, args=(alarm,), name=name, daemon=True)
            self._acceptor.start()

    def _accept_all(self, alarm: Alarm) -> None:
        """Accept connections until the last listener is removed."""
        backoff = AcceptBackoff(_logger)
        pause: float | None = None
        while True:
            with self._change:
                listeners = list(self._listeners)
                full = len(self._connections) >= self.max_connections
            if not listeners:
                return
            with Selector() as selector:
                selector.register(alarm.receiver, selectors.EVENT_READ)
                if not full and pause is None:
                    for listener, context in listeners:
                        selector.register(listener, selectors.EVENT_READ, context)
                ready = selector.select(pause)
            pause = None
            for key, _ in ready:
                if key.fileobj is alarm.receiver:
                    alarm.silence()
                    continue
                try:
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                except (OSError, RuntimeError) as exc:
                    pause = backoff.failed(exc, monotonic())
                else:
                    backoff.succeeded()

    def _accept(self, listener: socket.socket, context: tls.SSLContext | None) -> None:
        """Accept a connection.

        Raises:
            OSError: Too few descriptors are left.
            RuntimeError: No more threads can be started.
        """
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        try:
            sock.setblocking(False)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            connection = _ServerConnection(self, sock)
        except OSError:
            # It is disconnected already, or too few descriptors are left to serve it.
            sock.close()
            return
        with self._change:
            self._connections.add(connection)
        self._serving.enter(connection)
        try:
            connection.start()
        except RuntimeError:
            connection.abandon()
            raise

    def _left(self, connection: Connection) -> None:
        self._serving.leave(connection)
        with self._change:
            if self._alarm is not None and len(self._connections) == self.max_connections:
                self._alarm.ring()
            self._connections.discard(connection)
            self._change.notify_all()

    def _spawn(self, connection: Connection) -> None:
        name = f"wsproto_sip handler {connection.sock.fileno()}"
        thread = Thread(target=self._run, args=(connection,), name=name, daemon=True)
        with self._change:
            self._handlers.add(thread)
        try:
            thread.start()
        except RuntimeError:
            _logger.exception("no thread can be started to handle a connection")
            with self._change:
                self._handlers.discard(thread)
            connection.reject(HandshakeRejected(503))

    def _run(self, connection: Connection) -> None:
        """Run the handler of a connection, after its request has arrived."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            if run_blocking(self._serving.answering(connection)):
                self._handler(connection)
        except Exception as error:
            code = self._serving.code_after(error)
        finally:
            # The session does the rest, in bounded time.
            connection.begin_close(code)
            with self._change:
                self._handlers.discard(current_thread())
                self._change.notify_all()

    def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay."""
        with self._change:
            listeners, self._listeners = self._listeners, []
            acceptor, self._acceptor = self._acceptor, None
            alarm, self._alarm = self._alarm, None
        if acceptor is not None and alarm is not None:
            alarm.ring()
            acceptor.join()
            alarm.close()
        for listener, _ in listeners:
            unlink(listener)
            listener.close()

    def drain(self, seconds: float) -> None:
        """Close all connections with 1001, and drop those that are left after a time.

        A thread cannot be ended from outside: a handler that then does anything other than use its
        connection is left running.

        Args:
            seconds: Time for handlers and peers to finish.
        """
        self.stop_listening()
        for connection in self.connections:
            connection.begin_close(CloseReason.GOING_AWAY, cause=Cause.SHUTDOWN)
        try:
            self._wait_finished(seconds)
        finally:
            for connection in self.connections:
                connection.abort()
        if not self._wait_finished(_LAST_WORDS):
            _logger.warning("handlers still running: %d", len(self._handlers))

    def _wait_finished(self, seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(
                lambda: not (self._handlers or self._connections), max(seconds, 0.0)
            )


@contextmanager
def serve(
    handler: Callable[[Connection], object],
    host: str | None = None,
    port: int | None = None,
    *,
    unix: str | None = None,
    sock: socket.socket | int | None = None,
    ssl: tls.SSLContext | None = None,
    policies: PolicyChain | None = None,
    resolve: Callable[[Connection, object], object] | None = None,
    process_request: Callable[[Connection], AcceptConnection | Reject | None] | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    max_connections: int = 1000,
    drain: float = 5.0,
    backlog: int = 100,
    reuse_port: bool = False,
) -> Iterator[Server]:
    """Serve WebSocket connections while a block runs, in threads.

    Args:
        handler: Called with each open connection, in a thread of its own. The connection is closed
            with 1000 when it returns, and with 1011 when it raises.
        host: The address to listen on; ``None`` for all.
        port: The port; 0 for a free one.
        unix: The path of a Unix socket to listen on instead.
        sock: A socket to listen on instead, or its descriptor, for example an inherited one.
        ssl: The TLS context, for wss.
        policies: Decide about each request first. They set the connection's ``identity``, and
            correct its ``peer``. They run in the threads of several handlers at the same time.
        resolve: Answers the deferred questions of policies; called in the same thread with the
            connection and the question.
        process_request: Called in the same thread with each connection whose ``request`` was
            admitted by the policies. It may return the answer, or raise
            :class:`~wsproto_sip.adapters.exceptions.HandshakeRejected`. With
            ``config.plain_requests`` it also gets plain requests (``connection.upgrade`` is False),
            and answers them by returning a :class:`~wsproto_sip.policy.decision.Respond`.
        subprotocols: The server's sub-protocols; the client's order of preference decides.
        extensions: Makes the extensions that one connection may use.
        config: The configuration of sessions. The adapter sets ``auto_pause`` and
            ``limits.max_outgoing`` itself.
        max_connections: The maximum number of connections, of two threads each; further ones wait
            to be accepted.
        drain: Seconds for handlers and peers to finish at the end of the block.
        backlog: Connections that may wait to be accepted.
        reuse_port: Whether other sockets may listen on the same port.

    Yields:
        The server.

    Raises:
        OSError: The server cannot listen there.
        TypeError: An argument is of the wrong type, or no place to listen on is named.
    """
    check_arguments(drain=drain)
    server = Server(
        handler,
        policies=policies,
        resolve=resolve,
        process_request=process_request,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        max_connections=max_connections,
    )
    server.listen(host, port, unix=unix, sock=sock, ssl=ssl, backlog=backlog, reuse_port=reuse_port)
    try:
        yield server
    finally:
        server.drain(drain)

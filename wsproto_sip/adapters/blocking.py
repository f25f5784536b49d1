"""WebSocket clients and servers on sockets and threads.

Theory of operation: a :class:`~wsproto_sip.adapters._blocking_connection.Connection` has a thread
that does all that is to be done with its socket. A server has one more that accepts connections,
and runs the handler of each in a third, from its request on: a client that is slow in its
handshake occupies no handler. The number of connections is bounded; those above it wait in the
operating system's queue.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl as tls
from contextlib import contextmanager
from threading import Condition, Thread, current_thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from ..config import SessionConfig
from ..frame_protocol import CloseReason
from ..lifecycle import Cause
from ..session import Session
from ..states import ConnectionType
from ._blocking_alarm import Alarm, Selector
from ._blocking_connection import Connection
from ._blocking_dial import left, reach
from ._common import (
    ConnectionClosedError,
    HandshakeRejected,
    WebSocketURI,
    adapted,
    default_answer,
    make_request,
    no_extensions,
    protocol_names,
    redirected,
)
from .backoff import Backoff, is_transient, retry_after
from .proxies import ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..events import AcceptConnection, Request
    from ..extensions import Extension

__all__ = [
    "Backoff",
    "Connection",
    "ConnectionClosedError",
    "HandshakeRejected",
    "ProxyError",
    "Server",
    "connect",
    "is_transient",
    "reconnect",
    "serve",
]

_logger = logging.getLogger("wsproto_sip.blocking")

#: Seconds until a server that could not accept a connection, for want of descriptors, tries again.
_RECOVERY: Final = 1.0

#: Seconds that handlers have to see that their connections were dropped.
_LAST_WORDS: Final = 1.0

_DEFAULT: Final = SessionConfig()


# -- servers ---------------------------------------------------------------------------------------


class _ServerConnection(Connection):
    """A connection that its server knows of."""

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
    """Listens, and runs a handler for each connection; :func:`serve` makes it.

    Args:
        handler: Called with each connection that is open, in a thread of its own. The connection
            is closed when it returns, with 1000, and with 1011 when it raises.
        process_request: As with :func:`serve`.
        subprotocols: As with :func:`serve`.
        extensions: As with :func:`serve`.
        config: As with :func:`serve`.
        max_connections: As with :func:`serve`.

    Attributes:
        config: How sessions behave.
        max_connections: How many connections there may be.
    """

    def __init__(
        self,
        handler: Callable[[Connection], object],
        *,
        process_request: Callable[[Connection], AcceptConnection | None] | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
        max_connections: int = 1000,
    ) -> None:
        self.config = adapted(config)
        self.max_connections = max_connections
        self._handler = handler
        self._process_request = process_request
        self._subprotocols = protocol_names(subprotocols)
        self._extensions = extensions
        # Guards what follows, and tells when something of it has left.
        self._change = Condition()
        self._connections: set[Connection] = set()
        self._handlers: set[Thread] = set()
        self._listeners: list[tuple[socket.socket, tls.SSLContext | None]] = []
        self._acceptor: Thread | None = None
        self._alarm: Alarm | None = None

    @property
    def connections(self) -> set[Connection]:
        """The connections whose sockets are open, in a set of the caller's own."""
        with self._change:
            return set(self._connections)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: addresses and ports."""
        with self._change:
            return [listener.getsockname()[:2] for listener, _ in self._listeners]

    def listen(
        self,
        host: str | None,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        backlog: int = 100,
        reuse_port: bool = False,
    ) -> None:
        """Begins to accept connections, at one more place where it does already.

        Args:
            host: The address to listen on; None for all, of IPv6 as well where there is both.
            port: The port; 0 for a free one.
            ssl: For wss.
            backlog: Connections that may wait to be accepted.
            reuse_port: Whether others may listen there too.

        Raises:
            OSError: It cannot be listened there.
        """
        both = host is None and socket.has_dualstack_ipv6()
        six = both or ":" in (host or "")
        listener = socket.create_server(
            (host or "", port),
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
        """The life of the acceptor, until nothing is listened to any more."""
        exhausted = False
        while True:
            with self._change:
                listeners = list(self._listeners)
                full = len(self._connections) >= self.max_connections
            if not listeners:
                return
            with Selector() as selector:
                selector.register(alarm.receiver, selectors.EVENT_READ)
                if not (full or exhausted):
                    for listener, context in listeners:
                        selector.register(listener, selectors.EVENT_READ, context)
                ready = selector.select(_RECOVERY if exhausted else None)
            exhausted = False
            for key, _ in ready:
                if key.fileobj is alarm.receiver:
                    alarm.silence()
                elif not self._accept(key.fileobj, key.data):  # type: ignore[arg-type]
                    exhausted = True

    def _accept(self, listener: socket.socket, context: tls.SSLContext | None) -> bool:
        """Accepts a connection; False: there are too few descriptors, or threads."""
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return True
        except OSError:
            _logger.exception("a connection cannot be accepted")
            return False
        try:
            sock.setblocking(False)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            connection = _ServerConnection(self, sock)
        except OSError:
            # It has gone already, or there are too few descriptors to serve it.
            sock.close()
            return True
        with self._change:
            self._connections.add(connection)
        try:
            connection.start()
        except RuntimeError:
            _logger.exception("a connection cannot be served")
            connection.abandon()
            return False
        return True

    def _left(self, connection: Connection) -> None:
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
            _logger.exception("a connection cannot be handled")
            with self._change:
                self._handlers.discard(thread)
            connection.reject(HandshakeRejected(503))

    def _run(self, connection: Connection) -> None:
        """The life of a connection, from its request on."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            if connection.request and self._answer(connection, connection.request):
                self._handler(connection)
        except ConnectionClosedError:
            pass
        except Exception:
            code = CloseReason.INTERNAL_ERROR
            _logger.exception("the handler of a connection failed")
        finally:
            # What is left to do is the session's, and bound in time.
            connection.begin_close(code)
            with self._change:
                self._handlers.discard(current_thread())
                self._change.notify_all()

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Answers the request; whether the connection is open."""
        answer: AcceptConnection | HandshakeRejected | None = None
        try:
            if self._process_request is not None:
                answer = self._process_request(connection)
            if answer is None:
                answer = default_answer(request, self._subprotocols, self._extensions())
            return connection.answer(answer)
        except HandshakeRejected as rejection:
            return connection.answer(rejection)
        except Exception:
            _logger.exception("a handshake could not be answered")
            return connection.answer(HandshakeRejected(500))

    def stop_listening(self) -> None:
        """Accepts no more connections; those that are open stay."""
        with self._change:
            listeners, self._listeners = self._listeners, []
            acceptor, self._acceptor = self._acceptor, None
            alarm, self._alarm = self._alarm, None
        if acceptor is not None and alarm is not None:
            alarm.ring()
            acceptor.join()
            alarm.close()
        for listener, _ in listeners:
            listener.close()

    def drain(self, seconds: float) -> None:
        """Closes everything: connections with 1001, then what is left after a time by force.

        A thread cannot be ended from outside: a handler that then does something else than using
        its connection is left to itself.

        Args:
            seconds: What handlers and peers have to finish.
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
            _logger.warning("handlers that are still running: %d", len(self._handlers))

    def _wait_finished(self, seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(
                lambda: not (self._handlers or self._connections), max(seconds, 0.0)
            )


@contextmanager
def serve(
    handler: Callable[[Connection], object],
    host: str | None,
    port: int,
    *,
    ssl: tls.SSLContext | None = None,
    process_request: Callable[[Connection], AcceptConnection | None] | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    max_connections: int = 1000,
    drain: float = 5.0,
    **options: Any,
) -> Iterator[Server]:
    """Serves WebSocket connections while a block runs, in threads of its own.

    Args:
        handler: Called with each connection that is open, in a thread of its own; the connection
            is closed when it returns, with 1000, and with 1011 when it raises.
        host: The address to listen on; None for all.
        port: The port; 0 for a free one.
        ssl: For wss.
        process_request: Called, in the same thread, with each connection that has its
            ``request``; it may return the answer, or raise
            :class:`~wsproto_sip.adapters._common.HandshakeRejected`.
        subprotocols: Those that the server speaks; the client's order decides.
        extensions: Makes the extensions that one connection may use.
        config: How sessions behave; ``auto_pause``, ``whole_messages`` and
            ``limits.max_outgoing`` are the adapter's to say.
        max_connections: How many connections there may be, of two threads each; more wait to be
            accepted.
        drain: Seconds that handlers and peers have at the end of the block.
        options: More arguments of :meth:`Server.listen`.

    Yields:
        The server.

    Raises:
        OSError: It cannot be listened there.
    """
    server = Server(
        handler,
        process_request=process_request,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        max_connections=max_connections,
    )
    server.listen(host, port, ssl=ssl, **options)
    try:
        yield server
    finally:
        server.drain(drain)


# -- clients ---------------------------------------------------------------------------------------


def connect(
    uri: str,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    ssl: tls.SSLContext | None = None,
    max_redirects: int = 5,
    proxy: str | bool | None = True,
    proxy_ssl: tls.SSLContext | None = None,
    host: str | None = None,
    port: int | None = None,
    server_hostname: str | None = None,
) -> Connection:
    """Opens a connection; used with ``with``, it is closed with 1000 behind the block.

    Args:
        uri: Where to, ``ws://`` or ``wss://``; a user and a password in it are sent as basic
            authentication (RFC 7617).
        headers: Header fields for the request.
        subprotocols: The sub-protocols to offer, the preferred one first.
        extensions: Makes the extensions to offer.
        config: How the session behaves; ``open_timeout`` bounds everything from the look-up of the
            name on, which itself cannot be cut short. ``auto_pause``, ``whole_messages`` and
            ``limits.max_outgoing`` are the adapter's to say.
        ssl: How TLS is done; None for the system's certificates.
        max_redirects: How many redirections are followed; none leads from wss to ws.
        proxy: The URI of a proxy (:class:`~wsproto_sip.adapters.proxies.Proxy`); True for what the
            environment says, None or False for none.
        proxy_ssl: How TLS to an ``https`` proxy is done; None for the system's certificates.
        host: Where to connect to instead of the URI's host.
        port: Where to connect to instead of the URI's port.
        server_hostname: What the server's certificate has to name instead of the URI's host.

    Returns:
        The connection, open.

    Raises:
        ValueError: It is not a WebSocket URI, or not that of a proxy, or it is wss through an
            ``https`` proxy, which would be TLS in TLS.
        LocalProtocolError: The request cannot be sent.
        OSError: There is no connection to be had.
        ProxyError: The proxy did not let it through.
        ModuleNotFoundError: It is a SOCKS proxy, and python-socks is not installed.
        TimeoutError: It took too long.
        HandshakeRejected: The server's answer was no success.
        ConnectionClosedError: It was none at all.
    """
    target, fields = WebSocketURI.parse(uri), list(headers)
    config = adapted(config)
    until = None if config.open_timeout is None else monotonic() + config.open_timeout
    while True:
        request = make_request(
            target, headers=fields, subprotocols=subprotocols, extensions=extensions()
        )
        sock = reach(
            target,
            ssl=ssl,
            proxy=proxy,
            proxy_ssl=proxy_ssl,
            host=host or target.host,
            port=port or target.port,
            server_hostname=server_hostname,
            until=until,
        )
        session = Session(ConnectionType.CLIENT, now=monotonic(), config=config)
        try:
            connection = Connection(session, sock, request=request)
        except OSError:
            # There are too few descriptors to wake its thread.
            sock.close()
            raise
        try:
            connection.start()
            connection.wait_opened(left(until))
        except HandshakeRejected as rejection:
            connection.abandon()
            next_one = redirected(target, fields, rejection)
            if next_one is None or not max_redirects:
                raise
            max_redirects -= 1
            target, fields = next_one
        except ConnectionClosedError as error:
            connection.abandon()
            if error.event.cause is Cause.OPEN_TIMEOUT:
                raise TimeoutError("the opening handshake took too long") from None
            raise
        except BaseException:
            connection.abandon()
            raise
        else:
            return connection


def reconnect(
    uri: str,
    *,
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    wait: Callable[[float], object] = sleep,
    **options: Any,
) -> Iterator[Connection]:
    """Gives one connection after the other, without end.

    Asked for the next connection, it closes the last one with 1000 if it is still open, waits as
    the back-off says (RFC 6455 §7.2.3), and opens the next. What a connection's end means is for
    the program to say: it leaves the loop, or goes on with it. Behind the loop the last connection
    is closed when the generator is, which CPython does at once if nobody else has it.

    Args:
        uri: As with :func:`connect`.
        backoff: How long to wait.
        retry: Whether to try again after an error of :func:`connect`; where not, it is raised out
            of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` says what is tried
            again.
        wait: Waits for a number of seconds; may raise in order to end the loop.
        options: More arguments of :func:`connect`.

    Yields:
        The connections, open.
    """
    backoff = backoff or Backoff()
    while True:
        try:
            connection = connect(uri, **options)
        except Exception as error:
            if not retry(error):
                raise
            seconds = backoff.failed(monotonic(), at_least=retry_after(error))
            why: object = error
        else:
            backoff.opened(monotonic())
            try:
                yield connection
            finally:
                connection.close()
            seconds = backoff.failed(monotonic())
            why = "the connection has ended"
        _logger.info("%s; connecting again in %.1f s", why, seconds)
        wait(seconds)

"""WebSocket clients and servers on asyncio, and on uvloop.

Theory of operation: a :class:`~wsproto_sip.adapters._asyncio_connection.Connection` is the protocol
of a transport and does all that is to be done with one. A server runs a task for each, from its
request on: a client that is slow in its handshake costs no task. A client opens one, follows where
it is redirected to, and waits for the answer.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from ..config import SessionConfig
from ..frame_protocol import CloseReason
from ..lifecycle import Cause
from ..session import Session
from ..states import ConnectionType
from ._asyncio_connection import Connection
from ._asyncio_dial import ATTEMPT_DELAY, dial
from ._asyncio_proxy import connect_through, on_socket
from ._asyncio_reconnect import Reconnecting
from ._common import (
    ConnectionClosedError,
    HandshakeRejected,
    WebSocketURI,
    adapted,
    default_answer,
    make_request,
    no_extensions,
    only_closed,
    protocol_names,
    redirected,
)
from .backoff import Backoff, is_transient
from .proxies import ProxyError, choose_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from ..events import AcceptConnection, Request
    from ..extensions import Extension

__all__ = [
    "Backoff",
    "Connection",
    "ConnectionClosedError",
    "HandshakeRejected",
    "ProxyError",
    "Reconnecting",
    "Server",
    "connect",
    "is_transient",
    "open_connection",
    "reconnect",
    "serve",
]

_logger = logging.getLogger("wsproto_sip.asyncio")

#: Options that say how an address is found and reached.
_OF_DIALLING: Final[tuple[str, ...]] = ("family", "flags", "local_addr")

_DEFAULT: Final = SessionConfig()


# -- servers ---------------------------------------------------------------------------------------


class _ServerConnection(Connection):
    """A connection that its server knows of."""

    def __init__(self, server: Server) -> None:
        session = Session(ConnectionType.SERVER, now=server._loop.time(), config=server.config)
        super().__init__(session)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.connections.add(self)
        super().connection_made(transport)
        if self._server._drained:
            # It was accepted, or agreed on TLS, while the others were sent away.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(self)
        self._server._left()

    def _requested(self) -> None:
        self._server._spawn(self)


class Server:
    """Listens, and runs a handler for each connection; :func:`serve` makes it.

    Args:
        handler: Called with each connection that is open. It is closed when the handler returns,
            with 1000, and with 1011 when the handler raises.
        process_request: As with :func:`serve`.
        subprotocols: As with :func:`serve`.
        extensions: As with :func:`serve`.
        config: As with :func:`serve`.

    Attributes:
        connections: The connections that have a transport.
        config: How sessions behave.
    """

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[object]],
        *,
        process_request: Callable[[Connection], Awaitable[AcceptConnection | None]] | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
    ) -> None:
        self.connections: set[Connection] = set()
        self.config = adapted(config)
        self._handler = handler
        self._process_request = process_request
        self._subprotocols = protocol_names(subprotocols)
        self._extensions = extensions
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._listeners: list[asyncio.Server] = []
        self._drained = False

    async def listen(
        self,
        host: str | Sequence[str] | None,
        port: int | None,
        *,
        ssl: tls.SSLContext | None = None,
        **options: Any,
    ) -> None:
        """Begins to accept connections, at one more place where it does already.

        Args:
            host: The address or addresses to listen on; None for all.
            port: The port; 0 for a free one.
            ssl: For wss.
            options: More arguments of the loop's ``create_server()``.

        Raises:
            OSError: It cannot be listened there.
        """
        if ssl is not None:
            options.setdefault("ssl_handshake_timeout", self.config.open_timeout)
        listener = await self._loop.create_server(
            lambda: _ServerConnection(self), host, port, ssl=ssl, **options
        )
        self._listeners.append(listener)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: addresses and ports."""
        sockets = [sock for listener in self._listeners for sock in listener.sockets]
        return [sock.getsockname()[:2] for sock in sockets]

    def _spawn(self, connection: Connection) -> None:
        task = self._loop.create_task(self._run(connection))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._left()

    def _left(self) -> None:
        if not (self._tasks or self.connections):
            self._empty.set()

    async def _run(self, connection: Connection) -> None:
        """The life of a connection, from its request on."""
        code: int = CloseReason.NORMAL_CLOSURE
        try:
            if connection.request and await self._answer(connection, connection.request):
                await self._handler(connection)
        except asyncio.CancelledError:
            code = CloseReason.GOING_AWAY
            raise
        except Exception as error:
            if not only_closed(error):
                code = CloseReason.INTERNAL_ERROR
                _logger.exception("the handler of a connection failed")
        finally:
            # What is left to do is the session's, and bound in time.
            connection.begin_close(code)

    async def _answer(self, connection: Connection, request: Request) -> bool:
        """Answers the request; whether the connection is open."""
        answer: AcceptConnection | HandshakeRejected | None = None
        try:
            if self._process_request is not None:
                answer = await self._process_request(connection)
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
        for listener in self._listeners:
            listener.close()

    async def drain(self, seconds: float) -> None:
        """Closes everything: connections with 1001, then what is left after a time by force.

        A connection that was accepted before, and gets its transport later, is dropped.

        Args:
            seconds: What handlers and peers have to finish.
        """
        self.stop_listening()
        self._drained = True
        for connection in list(self.connections):
            connection.begin_close(CloseReason.GOING_AWAY, cause=Cause.SHUTDOWN)
        try:
            async with asyncio.timeout(seconds):
                await self._finished()
        except TimeoutError:
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            for connection in list(self.connections):
                connection.abort()
        await self._finished()
        for listener in self._listeners:
            await listener.wait_closed()

    async def _finished(self) -> None:
        while self._tasks or self.connections:
            self._empty.clear()
            await self._empty.wait()


@asynccontextmanager
async def serve(
    handler: Callable[[Connection], Awaitable[object]],
    host: str | Sequence[str] | None,
    port: int | None,
    *,
    ssl: tls.SSLContext | None = None,
    process_request: Callable[[Connection], Awaitable[AcceptConnection | None]] | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    drain: float = 5.0,
    **options: Any,
) -> AsyncIterator[Server]:
    """Serves WebSocket connections while a block runs.

    Args:
        handler: Called with each connection that is open; it is closed when the handler returns,
            with 1000, and with 1011 when the handler raises.
        host: The address or addresses to listen on; None for all.
        port: The port; 0 for a free one.
        ssl: For wss.
        process_request: Called with each connection that has its ``request``; it may return the
            answer, or raise :class:`HandshakeRejected`.
        subprotocols: Those that the server speaks; the client's order decides.
        extensions: Makes the extensions that one connection may use.
        config: How sessions behave; ``auto_pause``, ``whole_messages`` and
            ``limits.max_outgoing`` are the adapter's to say.
        drain: Seconds that handlers and peers have at the end of the block.
        options: More arguments of the loop's ``create_server()``.

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
    )
    await server.listen(host, port, ssl=ssl, **options)
    try:
        yield server
    finally:
        await server.drain(drain)


# -- clients ---------------------------------------------------------------------------------------


async def open_connection(
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
    **options: Any,
) -> Connection:
    """Opens a connection.

    Args:
        uri: Where to, ``ws://`` or ``wss://``; a user and a password in it are sent as basic
            authentication (RFC 7617).
        headers: Header fields for the request.
        subprotocols: The sub-protocols to offer, the preferred one first.
        extensions: Makes the extensions to offer.
        config: How the session behaves; ``open_timeout`` bounds everything from the look-up of the
            name on. ``auto_pause``, ``whole_messages`` and ``limits.max_outgoing`` are the
            adapter's to say.
        ssl: How TLS is done; None for the system's certificates.
        max_redirects: How many redirections are followed; none leads from wss to ws.
        proxy: The URI of a proxy (:class:`~wsproto_sip.adapters.proxies.Proxy`); True for what the
            environment says, None or False for none.
        proxy_ssl: How TLS to an ``https`` proxy is done; None for the system's certificates.
        options: As with the loop's ``create_connection()``: ``family``, ``flags``, ``local_addr``,
            ``happy_eyeballs_delay`` (RFC 8305; a quarter of a second unless said otherwise, None
            for one address after the other), ``server_hostname``, ``ssl_handshake_timeout`` and
            ``ssl_shutdown_timeout``; ``host`` and ``port``, where it is connected to somewhere else
            than the URI says; or ``sock``, a connected socket, for which no proxy is asked.

    Returns:
        The connection, open.

    Raises:
        ValueError: It is not a WebSocket URI, or not that of a proxy.
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
    async with asyncio.timeout(config.open_timeout):
        while True:
            request = make_request(
                target, headers=fields, subprotocols=subprotocols, extensions=extensions()
            )
            connection = await _transport(target, request, config, ssl, proxy, proxy_ssl, options)
            try:
                await connection.wait_opened()
            except HandshakeRejected as rejection:
                connection.abort()
                next_one = redirected(target, fields, rejection)
                if next_one is None or not max_redirects:
                    raise
                max_redirects -= 1
                target, fields = next_one
            except BaseException:
                connection.abort()
                raise
            else:
                return connection


async def _transport(
    uri: WebSocketURI,
    request: Request,
    config: SessionConfig,
    ssl: tls.SSLContext | None,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    options: dict[str, Any],
) -> Connection:
    loop = asyncio.get_running_loop()

    def connection() -> Connection:
        session = Session(ConnectionType.CLIENT, now=loop.time(), config=config)
        return Connection(session, request=request)

    options = dict(options)
    dialling = {name: options.pop(name) for name in _OF_DIALLING if name in options}
    dialling["delay"] = options.pop("happy_eyeballs_delay", ATTEMPT_DELAY)
    if uri.secure:
        options["ssl"] = ssl or tls.create_default_context()
        options.setdefault("server_hostname", uri.host)
    sock = options.pop("sock", None)
    if sock is not None:
        return await on_socket(connection, sock, options)
    host, port = options.pop("host", uri.host), options.pop("port", uri.port)
    way = choose_proxy(proxy, secure=uri.secure, host=host, port=port)
    if way is None:
        sock = await dial(host, port, **dialling)
        return await on_socket(connection, sock, options)
    return await connect_through(
        way, host, port, connection, proxy_ssl=proxy_ssl, dialling=dialling, options=options
    )


@asynccontextmanager
async def connect(
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
    **options: Any,
) -> AsyncIterator[Connection]:
    """Has a connection while a block runs, and closes it with 1000 behind it.

    Where the block fails, the connection is dropped.

    The arguments and exceptions are those of :func:`open_connection`.

    Yields:
        The connection, open.
    """
    connection = await open_connection(
        uri,
        headers=headers,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        ssl=ssl,
        max_redirects=max_redirects,
        proxy=proxy,
        proxy_ssl=proxy_ssl,
        **options,
    )
    try:
        yield connection
        await connection.close()
    finally:
        connection.abort()


def reconnect(
    uri: str,
    *,
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    **options: Any,
) -> Reconnecting:
    """Gives one connection after the other, with ``async for``.

    Each is opened when the one before has ended and a random time, which grows with the failures,
    has passed (RFC 6455 §7.2.3). What a connection's end means is for the program to say: it leaves
    the loop, or goes on with it.

    Args:
        uri: As with :func:`open_connection`.
        backoff: How long to wait.
        retry: Whether to try again after an error of :func:`open_connection`; where not, it is
            raised out of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` says what is
            tried again.
        options: More arguments of :func:`open_connection`.
    """

    def opening() -> Awaitable[Connection]:
        return open_connection(uri, **options)

    return Reconnecting(opening, backoff or Backoff(), retry)

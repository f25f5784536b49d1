"""WebSocket servers on asyncio, and on uvloop.

Theory of operation: a :class:`~wsproto_sip.adapters.asyncio.connection.Connection` is the protocol
of a transport and serves it by itself. A server runs a task for each as soon as its request has
arrived: a client that is slow in its handshake costs no task.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...frame_protocol import CloseReason
from ...session.config import SessionConfig
from ...session.lifecycle import Cause
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, no_extensions
from .._listening import open_listener, place_of, unlink
from .._serving import Serving, awaited, run_async
from .connection import Connection
from .listening import listen, open_sockets

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ...events import AcceptConnection
    from ...extensions import Extension
    from ...policy.decision import PolicyChain, Reject
    from .listening import Listener

__all__ = ["Server", "serve"]

_logger = logging.getLogger("wsproto_sip.asyncio")

_DEFAULT: Final = SessionConfig()


class _ServerConnection(Connection):
    """A connection of a server."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        session = Session(ConnectionType.SERVER, now=server._loop.time(), config=server.config)
        super().__init__(session)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server._enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server._forget_connection(self)

    def _requested(self) -> None:
        self._server._spawn(self)


class Server:
    """Listen, and run a handler for each connection; made by :func:`serve`.

    Args:
        handler: As for :func:`serve`; so are the other arguments.

    Attributes:
        connections: The connections that have a transport.
        config: The configuration of sessions.
    """

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[object]],
        *,
        policies: PolicyChain | None = None,
        resolve: Callable[[Connection, object], Awaitable[object]] | None = None,
        process_request: Callable[[Connection], Awaitable[AcceptConnection | Reject | None]]
        | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
    ) -> None:
        check_arguments(handler=handler)
        self._serving: Serving[Connection] = Serving(
            _logger,
            policies=policies,
            resolve=resolve,
            process_request=process_request,
            subprotocols=subprotocols,
            extensions=extensions,
            config=config,
        )
        self.connections: set[Connection] = set()
        self.config = self._serving.config
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._listeners: list[Listener] = []
        self._drained = False

    async def listen(
        self,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        unix: str | None = None,
        sock: socket.socket | int | None = None,
        ssl: tls.SSLContext | None = None,
        backlog: int = 100,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        """Start to accept connections, at one more place if it already does.

        Args:
            host: The address or addresses to listen on; ``None`` for all.
            port: The port; 0 for a free one.
            unix: The path of a Unix socket to listen on instead.
            sock: A socket to listen on instead, or its descriptor, for example an inherited one.
            ssl: The TLS context, for wss.
            backlog: Connections that may wait to be accepted.
            family: ``AF_INET`` or ``AF_INET6``, for a host name that has both.
            flags: Flags for ``getaddrinfo()``.
            reuse_address: Whether an address can be reused at once; by default on POSIX.
            reuse_port: Whether other sockets may listen on the same port.
            ssl_handshake_timeout: Seconds for the TLS handshake; by default
                ``config.open_timeout``.
            ssl_shutdown_timeout: Seconds for the TLS shutdown.

        Raises:
            OSError: The server cannot listen there.
            TypeError: Not exactly one place is named.
        """
        check_arguments(
            ssl=ssl,
            family=family,
            flags=flags,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        given = open_listener(port, unix, sock, backlog)
        options: dict[str, Any] = {"ssl": ssl}
        if ssl is not None:
            options["ssl_handshake_timeout"] = ssl_handshake_timeout or self.config.open_timeout
            options["ssl_shutdown_timeout"] = ssl_shutdown_timeout
        if given is None:
            sockets = await open_sockets(
                host,
                port or 0,
                backlog=backlog,
                family=family,
                flags=flags,
                reuse_address=reuse_address,
                reuse_port=reuse_port,
            )
        else:
            sockets = [given]
        listener = await listen(partial(_ServerConnection, self), sockets, _logger, **options)
        self._listeners.append(listener)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses and ports it listens on; the path of a Unix socket, with port 0."""
        return [place_of(sock) for listener in self._listeners for sock in listener.sockets]

    def _enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._serving.enter(connection)
        if self._drained:
            # It was accepted, or completed its TLS handshake, while the others were being closed.
            connection.abort()

    def _forget_connection(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._serving.leave(connection)
        self._left()

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
        """Run the handler of a connection, after its request has arrived."""
        code: int = CloseReason.NORMAL_CLOSURE
        try:
            if await run_async(self._serving.answering(connection)):
                await awaited(partial(self._handler, connection))
        except asyncio.CancelledError:
            code = CloseReason.GOING_AWAY
            raise
        except Exception as error:
            code = self._serving.code_after(error)
        finally:
            # The session does the rest, in bounded time.
            connection.begin_close(code)

    def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay."""
        for listener in self._listeners:
            for sock in listener.sockets:
                unlink(sock)
            listener.close()

    async def drain(self, seconds: float) -> None:
        """Close all connections with 1001, and drop those that are left after a time.

        A connection that was accepted before, but gets its transport later, is dropped.

        Args:
            seconds: Time for handlers and peers to finish.
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
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    unix: str | None = None,
    sock: socket.socket | int | None = None,
    ssl: tls.SSLContext | None = None,
    policies: PolicyChain | None = None,
    resolve: Callable[[Connection, object], Awaitable[object]] | None = None,
    process_request: Callable[[Connection], Awaitable[AcceptConnection | Reject | None]]
    | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    drain: float = 5.0,
    backlog: int = 100,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> AsyncIterator[Server]:
    """Serve WebSocket connections while a block runs.

    Args:
        handler: An async function that is called with each open connection. The connection is
            closed with 1000 when it returns, and with 1011 when it raises.
        host: The address or addresses to listen on; ``None`` for all.
        port: The port; 0 for a free one.
        unix: The path of a Unix socket to listen on instead.
        sock: A socket to listen on instead, or its descriptor, for example an inherited one.
        ssl: The TLS context, for wss.
        policies: Decide about each request first. They set the connection's ``identity``, and
            correct its ``peer``.
        resolve: An async function that answers the deferred questions of policies. It is called
            with the connection and the question.
        process_request: An async function that is called with each connection whose ``request``
            was admitted by the policies. It may return the answer, or raise
            :class:`~wsproto_sip.adapters.exceptions.HandshakeRejected`. With
            ``config.plain_requests`` it also gets plain requests (``connection.upgrade`` is False),
            and answers them by returning a :class:`~wsproto_sip.policy.decision.Respond`.
        subprotocols: The server's sub-protocols; the client's order of preference decides.
        extensions: Makes the extensions that one connection may use.
        config: The configuration of sessions. The adapter sets ``auto_pause`` and
            ``limits.max_outgoing`` itself.
        drain: Seconds for handlers and peers to finish at the end of the block.
        backlog: Connections that may wait to be accepted.
        family: ``AF_INET`` or ``AF_INET6``, for a host name that has both.
        flags: Flags for ``getaddrinfo()``.
        reuse_address: Whether an address can be reused at once; by default on POSIX.
        reuse_port: Whether other sockets may listen on the same port.
        ssl_handshake_timeout: Seconds for the TLS handshake, ``config.open_timeout`` by default.
        ssl_shutdown_timeout: Seconds for the TLS shutdown.

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
    )
    await server.listen(
        host,
        port,
        unix=unix,
        sock=sock,
        ssl=ssl,
        backlog=backlog,
        family=family,
        flags=flags,
        reuse_address=reuse_address,
        reuse_port=reuse_port,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    try:
        yield server
    finally:
        await server.drain(drain)

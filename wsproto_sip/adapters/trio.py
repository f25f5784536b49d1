"""WebSocket clients and servers on trio (the extra ``trio``).

Theory of operation: a :class:`~wsproto_sip.adapters._trio_connection.Connection` has a ``run()``
that does all that is to be done with its stream. A server runs one for each connection in a nursery
of its own, and the handler beside it, from the request on. A client has one in the nursery that it
is given. What the body of ``async with connect()`` or ``serve()`` raises comes out as it is, and
not in a group.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from ..config import SessionConfig
from ..frame_protocol import CloseReason
from ..lifecycle import Cause
from ..session import Session
from ..states import ConnectionType
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
from ._trio_connection import Connection
from ._trio_dial import reach
from .backoff import Backoff, is_transient, retry_after
from .proxies import ProxyError

if TYPE_CHECKING:
    import ssl as tls
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
    "serve_forever",
]

_logger = logging.getLogger("wsproto_sip.trio")

_DEFAULT: Final = SessionConfig()


@asynccontextmanager
async def _tasks() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block, and that lets out what the block raises."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


# -- servers ---------------------------------------------------------------------------------------


class Server:
    """Listens, and runs a handler for each connection; :func:`serve` makes it.

    Args:
        nursery: What the connections are in.
        handler: Called with each connection that is open. It is closed when the handler returns,
            with 1000, and with 1011 when the handler raises.
        process_request: As with :func:`serve`.
        subprotocols: As with :func:`serve`.
        extensions: As with :func:`serve`.
        config: As with :func:`serve`.

    Attributes:
        connections: The connections that have a stream.
        config: How sessions behave.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        handler: Callable[[Connection], Awaitable[object]],
        *,
        process_request: Callable[[Connection], Awaitable[AcceptConnection | None]] | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
    ) -> None:
        self.connections: set[Connection] = set()
        self.config = adapted(config)
        self._nursery = nursery
        self._handler = handler
        self._process_request = process_request
        self._subprotocols = protocol_names(subprotocols)
        self._extensions = extensions
        self._listeners: list[trio.SocketListener] = []
        self._accepting: list[trio.CancelScope] = []
        self._left = trio.lowlevel.ParkingLot()

    async def listen(
        self,
        host: str | bytes | None,
        port: int,
        *,
        ssl: tls.SSLContext | None = None,
        backlog: int | None = None,
    ) -> None:
        """Begins to accept connections, at one more place where it does already.

        Args:
            host: The address to listen on; None for all.
            port: The port; 0 for a free one.
            ssl: For wss.
            backlog: Connections that may wait to be accepted; None for as many as there can be.

        Raises:
            OSError: It cannot be listened there.
        """
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
        self._listeners += listeners

        async def serve_one(stream: trio.SocketStream) -> None:
            await self._serve_one(
                stream if ssl is None else trio.SSLStream(stream, ssl, server_side=True)
            )

        accepting = trio.CancelScope()
        self._accepting.append(accepting)

        async def accept_all() -> None:
            with accepting:
                await trio.serve_listeners(serve_one, listeners, handler_nursery=self._nursery)

        self._nursery.start_soon(accept_all)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: addresses and ports."""
        return [listener.socket.getsockname()[:2] for listener in self._listeners]

    async def _serve_one(self, stream: trio.abc.Stream) -> None:
        """The life of a connection."""
        session = Session(ConnectionType.SERVER, now=trio.current_time(), config=self.config)
        connection = Connection(session, stream)
        self.connections.add(connection)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                await self._run(connection)
        finally:
            self.connections.discard(connection)
            self._left.unpark_all()

    async def _run(self, connection: Connection) -> None:
        """What is done beside it, from its request on."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            await connection.wait_requested()
            if connection.request and await self._answer(connection, connection.request):
                await self._handler(connection)
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
        self._listeners.clear()
        while self._accepting:
            self._accepting.pop().cancel()

    async def drain(self, seconds: float) -> None:
        """Closes everything: connections with 1001, then what is left after a time by force.

        Args:
            seconds: What handlers and peers have to finish.
        """
        self.stop_listening()
        for connection in self.connections:
            connection.begin_close(CloseReason.GOING_AWAY, cause=Cause.SHUTDOWN)
        try:
            with trio.move_on_after(seconds):
                await self._finished()
        finally:
            self._nursery.cancel_scope.cancel()
        await self._finished()

    async def _finished(self) -> None:
        while self.connections:
            await self._left.park()


async def _hold_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Has a nursery open, until that is cancelled."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@asynccontextmanager
async def serve(
    handler: Callable[[Connection], Awaitable[object]],
    host: str | bytes | None,
    port: int,
    *,
    ssl: tls.SSLContext | None = None,
    backlog: int | None = None,
    process_request: Callable[[Connection], Awaitable[AcceptConnection | None]] | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    drain: float = 5.0,
) -> AsyncIterator[Server]:
    """Serves WebSocket connections while a block runs.

    Where the block is cancelled nothing is waited for: connections are dropped.

    Args:
        handler: Called with each connection that is open; it is closed when the handler returns,
            with 1000, and with 1011 when the handler raises.
        host: The address to listen on; None for all.
        port: The port; 0 for a free one.
        ssl: For wss.
        backlog: Connections that may wait to be accepted; None for as many as there can be.
        process_request: Called with each connection that has its ``request``; it may return the
            answer, or raise :class:`~wsproto_sip.adapters._common.HandshakeRejected`.
        subprotocols: Those that the server speaks; the client's order decides.
        extensions: Makes the extensions that one connection may use.
        config: How sessions behave; ``auto_pause``, ``whole_messages`` and
            ``limits.max_outgoing`` are the adapter's to say.
        drain: Seconds that handlers and peers have at the end of the block.

    Yields:
        The server.

    Raises:
        OSError: It cannot be listened there.
    """
    async with _tasks() as nursery:
        server = Server(
            await nursery.start(_hold_nursery),
            handler,
            process_request=process_request,
            subprotocols=subprotocols,
            extensions=extensions,
            config=config,
        )
        await server.listen(host, port, ssl=ssl, backlog=backlog)
        try:
            yield server
        finally:
            await server.drain(drain)


async def serve_forever(
    handler: Callable[[Connection], Awaitable[object]],
    host: str | bytes | None,
    port: int,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> NoReturn:
    """Serves WebSocket connections until it is cancelled; for ``nursery.start()`` too.

    Args:
        handler: As with :func:`serve`.
        host: As with :func:`serve`.
        port: As with :func:`serve`.
        task_status: Is told the server when it listens.
        options: The other arguments of :func:`serve`.

    Raises:
        OSError: It cannot be listened there.
    """
    async with serve(handler, host, port, **options) as server:
        task_status.started(server)
        await trio.sleep_forever()


# -- clients ---------------------------------------------------------------------------------------


async def open_connection(
    nursery: trio.Nursery,
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
    """Opens a connection that lives in a nursery; cancelling that drops it.

    Args:
        nursery: The nursery.
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
        host: Where to connect to instead of the URI's host.
        port: Where to connect to instead of the URI's port.
        server_hostname: What the server's certificate has to name instead of the URI's host.

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
    with trio.move_on_after(inf if config.open_timeout is None else config.open_timeout):
        while True:
            request = make_request(
                target, headers=fields, subprotocols=subprotocols, extensions=extensions()
            )
            stream = await reach(
                target,
                ssl=ssl,
                proxy=proxy,
                proxy_ssl=proxy_ssl,
                host=host or target.host,
                port=port or target.port,
                server_hostname=server_hostname,
            )
            session = Session(ConnectionType.CLIENT, now=trio.current_time(), config=config)
            connection = Connection(session, stream, request=request)
            nursery.start_soon(connection.run)
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
    raise TimeoutError("the connection could not be opened in time")


@asynccontextmanager
async def connect(uri: str, **options: Any) -> AsyncIterator[Connection]:
    """Has a connection while a block runs, and closes it with 1000 behind it.

    Where the block fails or is cancelled the connection is dropped.

    Args:
        uri: As with :func:`open_connection`, and so are the exceptions.
        options: The other arguments of :func:`open_connection`.

    Yields:
        The connection, open.
    """
    async with _tasks() as nursery:
        connection = await open_connection(nursery, uri, **options)
        yield connection
        await connection.close()


class Reconnecting:
    """Gives connections, each when the one before has ended; :func:`reconnect` makes it.

    Asked for the next connection, it closes the last one with 1000 if it is still open, waits as
    the back-off says, and opens the next, until that succeeds or the error is final. It never ends
    by itself.

    Args:
        opening: Opens a connection.
        backoff: How long to wait.
        retry: Whether to try again after an error.
    """

    def __init__(
        self,
        opening: Callable[[], Awaitable[Connection]],
        backoff: Backoff,
        retry: Callable[[Exception], bool],
    ) -> None:
        self._opening = opening
        self._backoff = backoff
        self._retry = retry
        self._connection: Connection | None = None
        # When the next attempt may be made.
        self._not_before = -inf

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> Connection:
        if self._connection is not None:
            await self.aclose()
            self._wait(self._backoff.failed(trio.current_time()), "the connection has ended")
        while True:
            await trio.sleep_until(self._not_before)
            try:
                self._connection = await self._opening()
            except Exception as error:
                if not self._retry(error):
                    raise
                seconds = self._backoff.failed(trio.current_time(), at_least=retry_after(error))
                self._wait(seconds, error)
            else:
                self._backoff.opened(trio.current_time())
                return self._connection

    def _wait(self, seconds: float, why: object) -> None:
        _logger.info("%s; connecting again in %.1f s", why, seconds)
        self._not_before = trio.current_time() + seconds

    async def aclose(self) -> None:
        """Closes the connection that was given out last, with 1000, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


@asynccontextmanager
async def reconnect(
    uri: str,
    *,
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    **options: Any,
) -> AsyncIterator[Reconnecting]:
    """Has one connection after the other while a block runs, with ``async for``.

    Each is opened when the one before has ended and a random time, which grows with the failures,
    has passed (RFC 6455 §7.2.3). What a connection's end means is for the program to say: it leaves
    the loop, or goes on with it. The last one is closed with 1000 behind the block, or dropped
    where that fails or is cancelled.

    Args:
        uri: As with :func:`open_connection`.
        backoff: How long to wait.
        retry: Whether to try again after an error of :func:`open_connection`; where not, it is
            raised out of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` says what is
            tried again.
        options: More arguments of :func:`open_connection`.

    Yields:
        What gives the connections.
    """
    async with _tasks() as nursery:

        async def opening() -> Connection:
            return await open_connection(nursery, uri, **options)

        connections = Reconnecting(opening, backoff or Backoff(), retry)
        yield connections
        await connections.aclose()

"""WebSocket servers on trio (the extra ``trio``).

Theory of operation: each :class:`~wsproto_sip.adapters.trio.connection.Connection` has a ``run()``
that serves its stream. A server starts one per connection in a nursery of its own, and the handler
next to it as soon as the request has arrived. Exceptions of the body of ``async with serve()`` are
raised as they are, not in a group.
"""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, TypedDict, Unpack

import trio

from ...frame_protocol import CloseReason
from ...session.config import SessionConfig
from ...session.lifecycle import Cause
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, no_extensions
from .._listening import AcceptBackoff, open_listener, place_of, unlink
from .._serving import Serving, awaited, run_async
from ._tasks import open_tasks
from .connection import Connection

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ...events import AcceptConnection
    from ...extensions import Extension
    from ...policy.decision import PolicyChain, Reject

__all__ = ["ServeOptions", "Server", "serve", "serve_forever"]

_logger = logging.getLogger("wsproto_sip.trio")

_DEFAULT: Final = SessionConfig()

#: A backlog larger than any system allows.
_MANY: Final = 0xFFFF


class ServeOptions(TypedDict, total=False):
    """The arguments of :func:`serve` besides the handler and the address."""

    unix: str | None
    sock: socket.socket | int | None
    ssl: tls.SSLContext | None
    backlog: int | None
    policies: PolicyChain | None
    resolve: Callable[[Connection, object], Awaitable[object]] | None
    process_request: Callable[[Connection], Awaitable[AcceptConnection | Reject | None]] | None
    subprotocols: Sequence[str]
    extensions: Callable[[], Sequence[Extension]]
    config: SessionConfig
    drain: float


class Server:
    """Listen, and run a handler for each connection; made by :func:`serve`.

    Args:
        nursery: The nursery for the connections.
        handler: As for :func:`serve`; so are the other arguments.

    Attributes:
        connections: The connections that have a stream.
        config: The configuration of sessions.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
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
        self._nursery = nursery
        self._handler = handler
        self._listeners: list[trio.SocketListener] = []
        self._accepting: list[trio.CancelScope] = []
        self._left = trio.lowlevel.ParkingLot()

    async def listen(
        self,
        host: str | bytes | None = None,
        port: int | None = None,
        *,
        unix: str | None = None,
        sock: socket.socket | int | None = None,
        ssl: tls.SSLContext | None = None,
        backlog: int | None = None,
    ) -> None:
        """Start to accept connections, at one more place if it already does.

        Args:
            host: The address to listen on; ``None`` for all.
            port: The port; 0 for a free one.
            unix: The path of a Unix socket to listen on instead.
            sock: A socket to listen on instead, or its descriptor, for example an inherited one.
            ssl: The TLS context, for wss.
            backlog: Connections that may wait to be accepted; ``None`` for the system's maximum.

        Raises:
            OSError: The server cannot listen there.
            TypeError: Not exactly one place is named.
        """
        check_arguments(ssl=ssl)
        given = open_listener(port, unix, sock, _MANY if backlog is None else backlog)
        if given is None:
            listeners = await trio.open_tcp_listeners(port or 0, host=host, backlog=backlog)
        else:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(given))]
        self._listeners += listeners

        async def serve_one(stream: trio.SocketStream) -> None:
            try:
                await self._serve_one(
                    stream if ssl is None else trio.SSLStream(stream, ssl, server_side=True)
                )
            finally:
                await trio.aclose_forcefully(stream)

        accepting = trio.CancelScope()
        self._accepting.append(accepting)

        async def accept_all() -> None:
            with accepting:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(self._accept_all, listener, serve_one)

        self._nursery.start_soon(accept_all)

    async def _accept_all(
        self,
        listener: trio.SocketListener,
        serve_one: Callable[[trio.SocketStream], Awaitable[None]],
    ) -> None:
        """Accept connections on a listener, forever."""
        backoff = AcceptBackoff(_logger)
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    await trio.sleep(backoff.failed(exc, trio.current_time()))
                else:
                    backoff.succeeded()
                    self._nursery.start_soon(serve_one, stream)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses and ports it listens on; the path of a Unix socket, with port 0."""
        return [place_of(listener.socket) for listener in self._listeners]

    async def _serve_one(self, stream: trio.abc.Stream) -> None:
        """Serve a connection until its end."""
        session = Session(ConnectionType.SERVER, now=trio.current_time(), config=self.config)
        connection = Connection(session, stream)
        self.connections.add(connection)
        self._serving.enter(connection)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                await self._run(connection)
        finally:
            self.connections.discard(connection)
            self._serving.leave(connection)
            self._left.unpark_all()

    async def _run(self, connection: Connection) -> None:
        """Run the handler of a connection, after its request has arrived."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            await connection.wait_requested()
            if await run_async(self._serving.answering(connection)):
                await awaited(partial(self._handler, connection))
        except Exception as error:
            code = self._serving.code_after(error)
        finally:
            # The session does the rest, in bounded time.
            connection.begin_close(code)

    def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay."""
        for listener in self._listeners:
            unlink(listener.socket)
        self._listeners.clear()
        while self._accepting:
            self._accepting.pop().cancel()

    async def drain(self, seconds: float) -> None:
        """Close all connections with 1001, and drop those that are left after a time.

        Args:
            seconds: Time for handlers and peers to finish.
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
    """Keep a nursery open until it is cancelled."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@asynccontextmanager
async def serve(
    handler: Callable[[Connection], Awaitable[object]],
    host: str | bytes | None = None,
    port: int | None = None,
    *,
    unix: str | None = None,
    sock: socket.socket | int | None = None,
    ssl: tls.SSLContext | None = None,
    backlog: int | None = None,
    policies: PolicyChain | None = None,
    resolve: Callable[[Connection, object], Awaitable[object]] | None = None,
    process_request: Callable[[Connection], Awaitable[AcceptConnection | Reject | None]]
    | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    drain: float = 5.0,
) -> AsyncIterator[Server]:
    """Serve WebSocket connections while a block runs.

    If the block is cancelled, connections are dropped without waiting.

    Args:
        handler: An async function that is called with each open connection. The connection is
            closed with 1000 when it returns, and with 1011 when it raises.
        host: The address to listen on; ``None`` for all.
        port: The port; 0 for a free one.
        unix: The path of a Unix socket to listen on instead.
        sock: A socket to listen on instead, or its descriptor, for example an inherited one.
        ssl: The TLS context, for wss.
        backlog: Connections that may wait to be accepted; ``None`` for the system's maximum.
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

    Yields:
        The server.

    Raises:
        OSError: The server cannot listen there.
        TypeError: An argument is of the wrong type, or no place to listen on is named.
    """
    check_arguments(drain=drain)
    async with open_tasks() as nursery:
        server = Server(
            await nursery.start(_hold_nursery),
            handler,
            policies=policies,
            resolve=resolve,
            process_request=process_request,
            subprotocols=subprotocols,
            extensions=extensions,
            config=config,
        )
        await server.listen(host, port, unix=unix, sock=sock, ssl=ssl, backlog=backlog)
        try:
            yield server
        finally:
            await server.drain(drain)


async def serve_forever(
    handler: Callable[[Connection], Awaitable[object]],
    host: str | bytes | None = None,
    port: int | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> NoReturn:
    """Serve WebSocket connections until cancelled; can be used with ``nursery.start()``.

    Args:
        handler: As for :func:`serve`.
        host: As for :func:`serve`.
        port: As for :func:`serve`.
        task_status: Reports the server once it listens.
        options: The other arguments of :func:`serve`.

    Raises:
        OSError: The server cannot listen there.
        TypeError: An argument is unknown or of the wrong type.
    """
    async with serve(handler, host, port, **options) as server:
        task_status.started(server)
        await trio.sleep_forever()

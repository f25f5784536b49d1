"""WebSocket clients on trio (the extra ``trio``).

Theory of operation: an :class:`~wsproto_sip.adapters._opening.Opening` determines where to connect
and what to request. A client dials, hands the stream to a
:class:`~wsproto_sip.adapters.trio.connection.Connection`, whose ``run()`` is started in the given
nursery, and waits for the response. A redirect starts that anew. Exceptions of the body of
``async with connect()`` are raised as they are, not in a group.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from inspect import isawaitable
from math import inf
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, Unpack

import trio

from ...session.config import SessionConfig
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, check_options, no_extensions
from .._opening import TOO_LATE, Opening
from ..backoff import Backoff, is_transient
from ..exceptions import HandshakeRejected
from ._tasks import open_tasks
from .connection import Connection
from .dial import reach
from .reconnect import Reconnecting

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ...extensions import Extension
    from .._arguments import HeaderFields

__all__ = ["ConnectOptions", "connect", "open_connection", "reconnect"]

_DEFAULT: Final = SessionConfig()

T = TypeVar("T")


class ConnectOptions(TypedDict, total=False):
    """The arguments of :func:`open_connection` besides the URI and the header fields."""

    subprotocols: Sequence[str]
    extensions: Callable[[], Sequence[Extension]]
    config: SessionConfig
    ssl: tls.SSLContext | None
    max_redirects: int
    proxy: str | bool | None
    proxy_ssl: tls.SSLContext | None
    host: str | None
    port: int | None
    server_hostname: str | None
    credentials: tuple[str, str] | None


async def open_connection(
    nursery: trio.Nursery,
    uri: str,
    *,
    headers: HeaderFields = (),
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
    credentials: tuple[str, str] | None = None,
) -> Connection:
    """Open a connection that lives in a nursery; cancelling the nursery drops it.

    Args:
        nursery: The nursery.
        uri: The URI to connect to, ``ws://`` or ``wss://``; a user and password in it are sent as
            basic authentication (RFC 7617).
        headers: Header fields for the request: a mapping or pairs, in bytes or text.
        subprotocols: The sub-protocols to offer, the preferred one first.
        extensions: Makes the extensions to offer.
        config: The configuration of the session. ``open_timeout`` bounds everything from the name
            look-up on. The adapter sets ``auto_pause`` and ``limits.max_outgoing`` itself.
        ssl: The TLS context; ``None`` for one with the system's certificates.
        max_redirects: How many redirects to follow; none leads from wss to ws. Another origin gets
            no credentials and, of the header fields, only Accept-Language, Origin and User-Agent.
        proxy: The URI of a proxy (:class:`~wsproto_sip.adapters.proxies.Proxy`); True to use the
            environment; ``None`` or False for no proxy.
        proxy_ssl: The TLS context for an ``https`` proxy; ``None`` for one with the system's
            certificates.
        host: Connect to this host instead of the URI's. This and the next two arguments apply to
            the URI's origin: a redirect to another origin drops them.
        port: Connect to this port instead of the URI's.
        server_hostname: The name that the server's certificate must have instead of the host's.
        credentials: A user and a password, sent when the server asks for them (401): with Digest
            (RFC 7616) if the server supports it, otherwise with Basic, which is readable in transit
            over ws. They are not sent to other origins than the URI's.

    Returns:
        The open connection.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The URI is not a WebSocket URI, or not that of a proxy.
        LocalProtocolError: The request cannot be sent.
        OSError: No connection could be made.
        ProxyError: The proxy refused or failed.
        ModuleNotFoundError: The proxy is a SOCKS proxy, and python-socks is not installed.
        TimeoutError: Opening took too long.
        HandshakeRejected: The server rejected the handshake.
        ConnectionClosedError: The server ended the connection without a response.
    """
    check_arguments(ssl=ssl, proxy=proxy, proxy_ssl=proxy_ssl)
    opening = Opening(
        uri,
        headers=headers,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        max_redirects=max_redirects,
        host=host,
        port=port,
        server_hostname=server_hostname,
        credentials=credentials,
    )
    config = opening.config
    connection: Connection | None = None
    with trio.move_on_after(inf if config.open_timeout is None else config.open_timeout):
        while True:
            connection = None
            request = opening.request()
            stream = await reach(opening, ssl=ssl, proxy=proxy, proxy_ssl=proxy_ssl)
            session = Session(ConnectionType.CLIENT, now=trio.current_time(), config=config)
            connection = Connection(session, stream, request=request)
            nursery.start_soon(connection.run)
            try:
                await connection.wait_opened()
            except HandshakeRejected as rejection:
                connection.abort()
                opening.follow(rejection)
            except BaseException:
                connection.abort()
                raise
            else:
                return connection
    if connection is not None and connection.rejection is not None:
        # Only the body of the rejection took too long.
        raise connection.rejection
    raise TimeoutError(TOO_LATE)


@asynccontextmanager
async def connect(
    uri: str, *, headers: HeaderFields = (), **options: Unpack[ConnectOptions]
) -> AsyncIterator[Connection]:
    """Open a connection for a block, and close it with 1000 at the end of the block.

    If the block fails or is cancelled, the connection is dropped.

    Args:
        uri: As for :func:`open_connection`, which also lists the exceptions.
        headers: As for :func:`open_connection`.
        options: The other arguments of :func:`open_connection`.

    Yields:
        The open connection.

    Raises:
        TypeError: An argument is unknown.
    """
    check_options(open_connection, options, "connect")
    async with open_tasks() as nursery:
        connection = await open_connection(nursery, uri, headers=headers, **options)
        yield connection
        await connection.close()


@asynccontextmanager
async def reconnect(
    uri: str | Callable[[], str | Awaitable[str]],
    *,
    headers: HeaderFields | Callable[[], HeaderFields | Awaitable[HeaderFields]] = (),
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    **options: Unpack[ConnectOptions],
) -> AsyncIterator[Reconnecting]:
    """Provide one connection after another for a block, to iterate over with ``async for``.

    Each is opened after the one before has ended and a random time, which grows with the failures,
    has passed (RFC 6455 §7.2.3). The program decides what the end of a connection means, by leaving
    the loop or continuing it. The last one is closed with 1000 at the end of the block, or dropped
    if the block fails or is cancelled.

    Args:
        uri: As for :func:`open_connection`; or a function, async or not, that returns it, called
            for each attempt.
        headers: As for :func:`open_connection`; or such a function, for tokens that expire.
        backoff: Computes the waiting times.
        retry: Decides whether to retry after an exception of :func:`open_connection`; if not, it is
            raised out of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` is the
            default.
        options: Further arguments of :func:`open_connection`.

    Yields:
        The iterator of connections.

    Raises:
        TypeError: An argument is unknown.
    """
    check_options(open_connection, options, "reconnect")
    async with open_tasks() as nursery:

        async def opening() -> Connection:
            current = await _current(uri)
            return await open_connection(
                nursery, current, headers=await _current(headers), **options
            )

        connections = Reconnecting(opening, backoff or Backoff(), retry)
        yield connections
        await connections.aclose()


async def _current(argument: T | Callable[[], T | Awaitable[T]]) -> T:
    """Return the value of an argument for the next attempt."""
    if not callable(argument):
        return argument
    value = argument()
    return await value if isawaitable(value) else value

"""WebSocket clients on asyncio, and on uvloop.

Theory of operation: an :class:`~wsproto_sip.adapters._opening.Opening` determines where to connect
and what to request. A client dials, through a proxy if there is one, hands the transport to a
:class:`~wsproto_sip.adapters.asyncio.connection.Connection`, and waits for the response. A redirect
starts that anew.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from ...session.config import SessionConfig
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, check_options, no_extensions
from .._opening import Opening, too_late
from .._tls import client_context
from ..backoff import Backoff, is_transient
from ..exceptions import HandshakeRejected
from ..proxies import choose_proxy
from .connection import Connection, ShownConnection
from .dial import ATTEMPT_DELAY, dial
from .proxy import connect_through, on_socket
from .reconnect import Reconnecting

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
    from types import TracebackType

    from ...events import Ping, Pong
    from ...extensions import Extension
    from .._arguments import HeaderFields

__all__ = ["ConnectOptions", "Connecting", "connect", "reconnect"]

_DEFAULT: Final = SessionConfig()

T = TypeVar("T")


class ConnectOptions(TypedDict, total=False):
    """The arguments of :func:`connect` besides the URI and the header fields."""

    subprotocols: Sequence[str]
    extensions: Callable[[], Sequence[Extension]]
    config: SessionConfig
    ssl: tls.SSLContext | None
    max_redirects: int
    proxy: str | bool | None
    proxy_ssl: tls.SSLContext | None
    host: str | None
    port: int | None
    sock: socket.socket | None
    server_hostname: str | None
    credentials: tuple[str, str] | None
    family: int
    flags: int
    local_addr: tuple[str, int] | None
    happy_eyeballs_delay: float | None
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None
    on_control: Callable[[Ping | Pong], object] | None
    on_wire: Callable[[Connection, bytes, bool], object] | None


class Connecting:
    """A connection that is being opened, returned by :func:`connect`; for one use.

    ``await`` it for the connection, or use it with ``async with``: the connection is then closed
    with 1000 at the end of the block, or dropped if the block fails.

    Args:
        opening: Opens the connection. It is called when this is awaited, so that an object that is
            never awaited leaves no resources.
    """

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, Connection]]) -> None:
        self._opening: Callable[[], Coroutine[Any, Any, Connection]] | None = opening
        self._connection: Connection

    def __await__(self) -> Generator[Any, None, Connection]:
        opening, self._opening = self._opening, None
        if opening is None:
            raise RuntimeError("the result of connect() can be awaited only once")
        return opening().__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self._connection.close()
        finally:
            self._connection.abort()


def connect(
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
    sock: socket.socket | None = None,
    server_hostname: str | None = None,
    credentials: tuple[str, str] | None = None,
    family: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    happy_eyeballs_delay: float | None = ATTEMPT_DELAY,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    on_control: Callable[[Ping | Pong], object] | None = None,
    on_wire: Callable[[Connection, bytes, bool], object] | None = None,
) -> Connecting:
    """Open a connection.

    ``await`` returns it. ``async with`` closes it with 1000 at the end of the block, or drops it if
    the block fails.

    Args:
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
        host: Connect to this host instead of the URI's. This and the next three arguments apply to
            the URI's origin: a redirect to another origin drops them.
        port: Connect to this port instead of the URI's.
        sock: A connected socket to use, without a proxy; redirects are not followed and challenges
            not answered.
        server_hostname: The name that the server's certificate must have instead of the host's.
        credentials: A user and a password, sent when the server asks for them (401): with Digest
            (RFC 7616) if the server supports it, otherwise with Basic, which is readable in transit
            over ws. They are not sent to other origins than the URI's.
        family: ``AF_INET`` or ``AF_INET6`` to use only addresses of that family.
        flags: Flags for ``getaddrinfo()``.
        local_addr: The address and port to connect from.
        happy_eyeballs_delay: Seconds before the next address is tried in parallel (RFC 8305);
            ``None`` to try one after another.
        ssl_handshake_timeout: Seconds for the TLS handshake.
        ssl_shutdown_timeout: Seconds for the TLS shutdown.
        on_control: Called with each Ping and Pong as it is read, for programs that display them.
            They are answered and evaluated in any case.
        on_wire: Called with the connection, the bytes of each write or read, inside TLS and the
            tunnel of a proxy, and whether they were sent; for programs that display them. Each
            attempt after a redirect or challenge has a connection of its own.

    Returns:
        An awaitable for the open connection.

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
    check_arguments(
        ssl=ssl,
        proxy=proxy,
        proxy_ssl=proxy_ssl,
        sock=sock,
        family=family,
        flags=flags,
        local_addr=local_addr,
        happy_eyeballs_delay=happy_eyeballs_delay,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        on_control=on_control,
        on_wire=on_wire,
    )
    opening = Opening(
        uri,
        headers=headers,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        max_redirects=0 if sock is not None else max_redirects,
        host=host,
        port=port,
        server_hostname=server_hostname,
        credentials=credentials if sock is None else None,
    )
    for_tls: dict[str, Any] = {
        "ssl": ssl,
        "ssl_handshake_timeout": ssl_handshake_timeout,
        "ssl_shutdown_timeout": ssl_shutdown_timeout,
    }
    dialling: dict[str, Any] = {
        "family": family,
        "flags": flags,
        "local_addr": local_addr,
        "delay": happy_eyeballs_delay,
    }
    return Connecting(
        partial(_open, opening, sock, proxy, proxy_ssl, dialling, for_tls, on_control, on_wire)
    )


async def _open(
    opening: Opening,
    sock: socket.socket | None,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    dialling: dict[str, Any],
    for_tls: dict[str, Any],
    on_control: Callable[[Ping | Pong], object] | None,
    on_wire: Callable[[Connection, bytes, bool], object] | None,
) -> Connection:
    connection: Connection | None = None
    try:
        async with asyncio.timeout(opening.config.open_timeout):
            while True:
                connection = None
                connection = await _reach(
                    opening, sock, proxy, proxy_ssl, dialling, for_tls, on_control, on_wire
                )
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
    except TimeoutError as error:
        if connection is not None and connection.rejection is not None:
            # Only the body of the rejection took too long.
            raise connection.rejection from None
        raise too_late(error) from None


async def _reach(
    opening: Opening,
    sock: socket.socket | None,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    dialling: dict[str, Any],
    for_tls: dict[str, Any],
    on_control: Callable[[Ping | Pong], object] | None,
    on_wire: Callable[[Connection, bytes, bool], object] | None,
) -> Connection:
    """Connect to the current place of the opening, and start the handshake there."""
    loop = asyncio.get_running_loop()
    request, config = opening.request(), opening.config

    def connection() -> Connection:
        session = Session(ConnectionType.CLIENT, now=loop.time(), config=config)
        if on_wire is None:
            made = Connection(session, request=request)
        else:
            made = ShownConnection(session, on_wire, request=request)
        made.on_control = on_control
        return made

    options: dict[str, Any] = {}
    if opening.uri.secure:
        options = {**for_tls, "server_hostname": opening.server_hostname}
        options["ssl"] = options["ssl"] or client_context()
    if sock is not None:
        return await on_socket(connection, sock, options)
    host, port = opening.host, opening.port
    way = choose_proxy(proxy, secure=opening.uri.secure, host=host, port=port)
    if way is None:
        return await on_socket(connection, await dial(host, port, **dialling), options)
    return await connect_through(
        way, host, port, connection, proxy_ssl=proxy_ssl, dialling=dialling, options=options
    )


def reconnect(
    uri: str | Callable[[], str | Awaitable[str]],
    *,
    headers: HeaderFields | Callable[[], HeaderFields | Awaitable[HeaderFields]] = (),
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    **options: Unpack[ConnectOptions],
) -> Reconnecting:
    """Yield one connection after another, with ``async for``.

    Each is opened after the one before has ended and a random time, which grows with the failures,
    has passed (RFC 6455 §7.2.3). The program decides what the end of a connection means, by leaving
    the loop or continuing it.

    Args:
        uri: As for :func:`connect`; or a function, async or not, that returns it, called for each
            attempt.
        headers: As for :func:`connect`; or such a function, for tokens that expire.
        backoff: Computes the waiting times.
        retry: Decides whether to retry after an exception of :func:`connect`; if not, it is raised
            out of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` is the default.
        options: Further arguments of :func:`connect`, except ``sock``, which cannot be reused.

    Raises:
        TypeError: An argument is unknown.
    """
    check_options(connect, options, "reconnect")
    if options.get("sock") is not None:
        raise TypeError("reconnect() cannot use the same sock= for each connection")

    async def opening() -> Connection:
        return await connect(await _current(uri), headers=await _current(headers), **options)

    return Reconnecting(opening, backoff or Backoff(), retry)


async def _current(argument: T | Callable[[], T | Awaitable[T]]) -> T:
    """Return the value of an argument for the next attempt."""
    if not callable(argument):
        return argument
    value = argument()
    return await value if isawaitable(value) else value

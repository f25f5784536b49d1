"""How an asyncio client connects through a proxy.

Theory of operation: python-socks returns a socket that leads to the server. For an HTTP proxy, a
protocol of this module asks for the tunnel and then hands its transport to the connection itself or
to TLS, inside the TLS to the proxy if there is any.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from .._tls import client_context
from ..exceptions import ProxyError
from ..proxies import Tunnel
from .dial import dial

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ..proxies import Proxy

__all__ = ["connect_through", "on_socket"]

#: Seconds; python-socks does not accept an unlimited timeout.
_NO_BOUND: Final = 1e6

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class _Tunnelling(asyncio.Protocol):
    """Ask for a tunnel, and keep the transport until it is taken over.

    Args:
        tunnel: Makes the request, and parses the answer.
    """

    transport: asyncio.Transport

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._error: ProxyError | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._tunnel.request)

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> None:
        self._receive(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receive(None)

    def _receive(self, data: bytes | None) -> None:
        if self.ready.done():
            # The transport has not been taken over yet.
            self._error = ProxyError("the tunnel of the proxy ended before it was used")
            return
        try:
            if self._tunnel.receive(data):
                self.ready.set_result(None)
        except ProxyError as error:
            self.ready.set_exception(error)
            # The waiting task may have been cancelled.
            self.ready.exception()

    def check(self) -> None:
        """Raise the error that has occurred since the tunnel was ready."""
        if self._error is not None:
            raise self._error


class _Waiting(asyncio.Protocol):
    """Keep a transport until it is taken over.

    A connection has timers from its first moment. If it were passed to ``create_connection()``, and
    that was cancelled, uvloop would not tell the connection that its transport is gone.
    """

    transport: asyncio.Transport
    ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


async def on_socket(
    protocol_factory: Callable[[], _P], sock: socket.socket, options: dict[str, Any]
) -> _P:
    """Make a transport of a socket, which is closed if that fails.

    Args:
        protocol_factory: Makes the protocol.
        sock: The connected socket.
        options: ``ssl`` and related arguments.
    """
    waiting = _Waiting()
    await _begin(waiting, sock, options)
    if waiting.ended:
        raise ConnectionResetError("the connection ended as it began")
    return _take_over(waiting.transport, protocol_factory())


async def _begin(
    protocol: _Waiting | _Tunnelling, sock: socket.socket, options: dict[str, Any]
) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.create_connection(lambda: protocol, sock=sock, **options)
    except BaseException:
        transport = getattr(protocol, "transport", None)
        if transport is not None:
            # When cancelled, asyncio would send a TLS closing alert and wait for the answer.
            transport.abort()
        sock.close()
        raise


def _take_over(transport: asyncio.Transport, protocol: _P) -> _P:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return protocol


async def connect_through(
    proxy: Proxy,
    host: str,
    port: int,
    protocol_factory: Callable[[], _P],
    *,
    proxy_ssl: tls.SSLContext | None,
    dialling: dict[str, Any],
    options: dict[str, Any],
) -> _P:
    """Connect to a server through a proxy.

    Args:
        proxy: The proxy.
        host: The server.
        port: Its port.
        protocol_factory: Makes the protocol of the connection.
        proxy_ssl: The TLS context for an ``https`` proxy; ``None`` for one with the system's
            certificates.
        dialling: Arguments of :func:`~wsproto_sip.adapters.asyncio.dial.dial` for the proxy; for a
            SOCKS proxy only ``local_addr`` is used.
        options: ``ssl`` and related arguments, for TLS to the server.

    Returns:
        The connected protocol.

    Raises:
        ProxyError: The proxy refused or failed.
        OSError: No connection could be made.
        ModuleNotFoundError: The proxy is a SOCKS proxy, and python-socks is not installed.
    """
    loop = asyncio.get_running_loop()
    if proxy.is_socks:
        sock = await _through_socks(proxy, host, port, dialling.get("local_addr"))
        return await on_socket(protocol_factory, sock, options)
    tunnel = Tunnel(proxy, host, port)
    to_proxy: dict[str, Any] = {}
    if proxy.is_secure:
        to_proxy["ssl"] = proxy_ssl or client_context()
        to_proxy["server_hostname"] = proxy.host
    sock = await dial(proxy.host, proxy.port, **dialling)
    tunnelling = _Tunnelling(tunnel)
    await _begin(tunnelling, sock, to_proxy)
    current = tunnelling.transport
    try:
        await tunnelling.ready
        if "ssl" in options:
            tunnelling.check()
            for_tls = dict(options)
            context = for_tls.pop("ssl")
            secured = await loop.start_tls(current, tunnelling, context, **for_tls)
            # start_tls() only returns None for a transport that was closed meanwhile.
            current = cast("asyncio.Transport", secured)
        tunnelling.check()
    except BaseException:
        current.abort()
        raise
    return _take_over(current, protocol_factory())


async def _through_socks(
    proxy: Proxy, host: str, port: int, local_addr: tuple[str, int] | None
) -> socket.socket:
    options = cast("dict[str, Any]", proxy.socks_options())
    import python_socks  # noqa: PLC0415 - optional
    from python_socks.async_.asyncio import Proxy as SocksProxy  # noqa: PLC0415

    try:
        # The caller bounds the time; disable the library's own timeout.
        return await SocksProxy(**options).connect(
            host, port, timeout=_NO_BOUND, local_addr=local_addr
        )
    except python_socks.ProxyError as error:
        raise proxy.socks_error(error) from error

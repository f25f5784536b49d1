"""How a client on trio reaches its server: addresses, proxies, TLS."""

from __future__ import annotations

import ssl as tls
from math import inf
from typing import TYPE_CHECKING, Any, cast

import trio

from .._tls import client_context
from ..proxies import Tunnel, choose_proxy

if TYPE_CHECKING:
    from .._opening import Opening
    from ..proxies import Proxy

__all__ = ["reach"]


async def reach(
    opening: Opening,
    *,
    ssl: tls.SSLContext | None,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
) -> trio.abc.Stream:
    """Connect to a server, including TLS.

    Args:
        opening: Where to connect.
        ssl: The TLS context for the server; ``None`` for one with the system's certificates.
        proxy: As for ``open_connection()``.
        proxy_ssl: The TLS context for an ``https`` proxy; ``None`` for one with the system's
            certificates.

    Raises:
        OSError: No connection could be made; ``ProxyError`` if the proxy refused or failed.
    """
    host, port, secure = opening.host, opening.port, opening.uri.secure
    way = choose_proxy(proxy, secure=secure, host=host, port=port)
    stream: trio.abc.Stream
    if way is None:
        stream = await _dial(host, port)
    elif way.is_socks:
        stream = await _through_socks(way, host, port)
    else:
        stream = await _dial(way.host, way.port)
        if way.is_secure:
            stream = await _secured(stream, proxy_ssl, way.host)
        await _tunnel(stream, way, host, port)
    return await _secured(stream, ssl, opening.server_hostname) if secure else stream


async def _dial(host: str, port: int) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        attempts = error.__cause__
        if not isinstance(attempts, ExceptionGroup):
            raise
        # Each address has an error of its own; raise the first one.
        raise attempts.exceptions[0] from error


async def _secured(
    stream: trio.abc.Stream, context: tls.SSLContext | None, name: str
) -> trio.SSLStream[trio.abc.Stream]:
    """Wrap a stream in TLS."""
    secured = trio.SSLStream(stream, context or client_context(), server_hostname=name)
    shaken = False
    try:
        await secured.do_handshake()
        shaken = True
    except trio.BrokenResourceError as error:
        raise error.__cause__ or error from None
    finally:
        if not shaken:
            await trio.aclose_forcefully(stream)
    return secured


async def _tunnel(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask an HTTP proxy for a tunnel."""
    tunnel = Tunnel(proxy, host, port)
    opened = False
    try:
        await stream.send_all(tunnel.request)
        while not opened:
            opened = tunnel.receive(await _answer(stream))
    finally:
        if not opened:
            await trio.aclose_forcefully(stream)


async def _answer(stream: trio.abc.Stream) -> bytes | None:
    try:
        return bytes(await stream.receive_some(4096)) or None
    except trio.BrokenResourceError:
        return None


async def _through_socks(proxy: Proxy, host: str, port: int) -> trio.SocketStream:
    options = cast("dict[str, Any]", proxy.socks_options())
    import python_socks  # noqa: PLC0415 - optional
    from python_socks.async_.trio import Proxy as SocksProxy  # noqa: PLC0415

    try:
        # The caller bounds the time; disable the library's own timeout.
        return trio.SocketStream(await SocksProxy(**options).connect(host, port, timeout=inf))
    except python_socks.ProxyError as error:
        raise proxy.socks_error(error) from error

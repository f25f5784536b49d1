"""The way of a blocking client to its server: addresses, proxies, TLS.

Theory of operation: all of it happens in the caller's thread, on a socket that blocks for no longer
than there is time, before the connection gets it and a thread of its own.
"""

from __future__ import annotations

import socket
import ssl as tls
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from .proxies import Tunnel, choose_proxy

if TYPE_CHECKING:
    from ._common import WebSocketURI
    from .proxies import Proxy

__all__ = ["left", "reach"]


def left(until: float | None) -> float | None:
    """The seconds that are left until a time.

    Args:
        until: The time; None for no bound.

    Raises:
        TimeoutError: There are none.
    """
    if until is None:
        return None
    seconds = until - monotonic()
    if seconds <= 0:
        raise TimeoutError("the connection could not be opened in time")
    return seconds


def reach(
    uri: WebSocketURI,
    *,
    ssl: tls.SSLContext | None,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    host: str,
    port: int,
    server_hostname: str | None,
    until: float | None,
) -> socket.socket:
    """Connects to a server; the handshake of TLS with it is still to be done.

    Args:
        uri: Where to.
        ssl: How TLS to the server is done; None for the system's certificates.
        proxy: As with ``connect()``.
        proxy_ssl: How TLS to an ``https`` proxy is done; None for the system's certificates.
        host: The server's name or address.
        port: Its port.
        server_hostname: What its certificate has to name; None for the URI's host.
        until: When it takes too long.

    Raises:
        OSError: There is no connection to be had; ``ProxyError`` where the proxy did not let it
            through.
        ValueError: It is wss through an ``https`` proxy.
    """
    way = choose_proxy(proxy, secure=uri.secure, host=host, port=port)
    if way is None:
        sock = _dial(host, port, until)
    elif way.is_secure and uri.secure:
        raise ValueError("wss through an https proxy would be TLS in TLS, which sockets do not do")
    elif way.is_socks:
        sock = _through_socks(way, host, port, until)
    else:
        sock = _dial(way.host, way.port, until)
        sock = _tunnelled(sock, way, host, port, proxy_ssl, until)
    if not uri.secure:
        return sock
    return _secured(sock, ssl or tls.create_default_context(), server_hostname or uri.host)


def _dial(host: str, port: int, until: float | None) -> socket.socket:
    """Connects to the first address of a host that answers."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        seconds = left(until)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = failure or error
            continue
        try:
            sock.settimeout(seconds)
            sock.connect(address)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            failure = failure or error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


def _secured(sock: socket.socket, context: tls.SSLContext, name: str) -> tls.SSLSocket:
    """Puts TLS on a socket; its handshake is still to be done."""
    try:
        return context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise


def _tunnelled(
    sock: socket.socket,
    proxy: Proxy,
    host: str,
    port: int,
    context: tls.SSLContext | None,
    until: float | None,
) -> socket.socket:
    """Asks an HTTP proxy for a tunnel."""
    if proxy.is_secure:
        sock = _secured(sock, context or tls.create_default_context(), proxy.host)
    try:
        sock.settimeout(left(until))
        tunnel = Tunnel(proxy, host, port)
        sock.sendall(tunnel.request)
        while not tunnel.receive(_answer(sock)):
            sock.settimeout(left(until))
    except BaseException:
        sock.close()
        raise
    return sock


def _answer(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(4096) or None
    except ConnectionError:
        return None


def _through_socks(proxy: Proxy, host: str, port: int, until: float | None) -> socket.socket:
    options = cast("dict[str, Any]", proxy.socks_options())
    import python_socks  # noqa: PLC0415 - optional
    from python_socks.sync import Proxy as SocksProxy  # noqa: PLC0415

    try:
        # Without a bound that library would have one of its own.
        return SocksProxy(**options).connect(host, port, timeout=left(until) or 1e6)
    except python_socks.ProxyError as error:
        raise proxy.socks_error(error) from error

"""How a blocking client reaches its server: addresses, proxies, TLS.

Theory of operation: everything happens in the caller's thread, on a socket whose timeout is the
remaining time, before the socket is handed to a connection with a thread of its own.
"""

from __future__ import annotations

import socket
import ssl as tls
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from .._opening import TOO_LATE, too_late
from .._tls import client_context
from ..proxies import Tunnel, choose_proxy

if TYPE_CHECKING:
    from .._opening import Opening
    from ..proxies import Proxy

__all__ = ["left", "reach", "secure"]


def left(until: float | None) -> float | None:
    """Return the seconds left until a time.

    Args:
        until: The time; ``None`` for no bound.

    Raises:
        TimeoutError: The time has passed.
    """
    if until is None:
        return None
    seconds = until - monotonic()
    if seconds <= 0:
        raise TimeoutError(TOO_LATE)
    return seconds


def reach(
    opening: Opening,
    *,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    until: float | None,
) -> socket.socket:
    """Connect to a server, before the TLS handshake with it.

    Args:
        opening: Where to connect.
        proxy: As for ``connect()``.
        proxy_ssl: The TLS context for an ``https`` proxy; ``None`` for one with the system's
            certificates.
        until: The time at which to give up.

    Raises:
        OSError: No connection could be made; ``ProxyError`` if the proxy refused or failed.
        ValueError: It is wss through an ``https`` proxy.
    """
    try:
        return _reach(opening, proxy, proxy_ssl, until)
    except TimeoutError as error:
        raise too_late(error) from None


def _reach(
    opening: Opening,
    proxy: str | bool | None,
    proxy_ssl: tls.SSLContext | None,
    until: float | None,
) -> socket.socket:
    host, port, is_secure = opening.host, opening.port, opening.uri.secure
    way = choose_proxy(proxy, secure=is_secure, host=host, port=port)
    if way is None:
        return _dial(host, port, until)
    if way.is_secure and is_secure:
        raise ValueError(
            "wss through an https proxy needs TLS in TLS, which sockets do not support"
        )
    if way.is_socks:
        return _through_socks(way, host, port, until)
    return _tunnelled(_dial(way.host, way.port, until), way, host, port, proxy_ssl, until)


def _dial(host: str, port: int, until: float | None) -> socket.socket:
    """Connect to the first address of a host that answers."""
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


def secure(sock: socket.socket, context: tls.SSLContext | None, name: str) -> tls.SSLSocket:
    """Wrap a socket in TLS, before its handshake; the socket is closed if that fails.

    Args:
        sock: The socket.
        context: The TLS context; ``None`` for one with the system's certificates.
        name: The name that the server's certificate must have.
    """
    try:
        context = context or client_context()
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
    """Ask an HTTP proxy for a tunnel."""
    if proxy.is_secure:
        sock = secure(sock, context, proxy.host)
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


class _Way:
    """The connection to a SOCKS proxy, as python-socks uses it: its calls share one time limit.

    The library's own connection would wait for each byte of an answer as long as for all of it.

    Args:
        until: The time at which to give up.
    """

    sock: socket.socket

    def __init__(self, until: float | None) -> None:
        self._until = until

    def connect(self, dest_host: str, dest_port: int, **_: object) -> _Way:
        self.sock = _dial(dest_host, dest_port, self._until)
        return self

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(left(self._until))
        self.sock.sendall(data)

    def recv(self, size: int) -> bytes:
        self.sock.settimeout(left(self._until))
        return self.sock.recv(size)

    def close(self) -> None:
        self.sock.close()


def _through_socks(proxy: Proxy, host: str, port: int, until: float | None) -> socket.socket:
    options = cast("dict[str, Any]", proxy.socks_options())
    import python_socks  # noqa: PLC0415 - optional
    from python_socks.sync import Proxy as SocksProxy  # noqa: PLC0415

    way = _Way(until)
    try:
        SocksProxy(**options, forward=cast("Any", way)).connect(host, port)
    except python_socks.ProxyError as error:
        raise proxy.socks_error(error) from error
    return way.sock

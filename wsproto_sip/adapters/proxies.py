"""Proxies between a client and its server, without I/O: choosing one, and asking it.

Theory of operation: :func:`choose_proxy` finds the proxy for a server, from the program's argument
or the environment. An HTTP proxy is asked for a tunnel with CONNECT (RFC 9110 §9.3.6) by a
:class:`Tunnel`, which takes bytes and returns bytes; TLS to the server is then done inside the
tunnel. SOCKS is left to the python-socks library, which each adapter calls in its own way with
:meth:`Proxy.socks_options`.
"""

from __future__ import annotations

import base64
import re
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

import h11

from ..uri import encode_domain
from ._addresses import is_address
from .exceptions import ProxyError

__all__ = ["Proxy", "Tunnel", "choose_proxy"]

#: Bytes of a proxy's answer before the tunnel: its head and interim responses.
_MAX_ANSWER: Final = 64 * 1024

_DEFAULT_PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
#: The names of the protocols in python-socks, and whether the proxy resolves host names.
_SOCKS: Final = {
    "socks4": ("SOCKS4", False),
    "socks4a": ("SOCKS4", True),
    "socks5": ("SOCKS5", False),
    "socks5h": ("SOCKS5", True),
}
#: RFC 1928 §6: not allowed, no such command, no such address type. No code: wrong credentials.
_SOCKS_FINAL: Final = frozenset({None, 2, 7, 8})
#: Statuses that another attempt may avoid (RFC 9110 §15.5.9, §15.6; RFC 6585 §4; RFC 8470 §5.2).
TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_not_in_uri = re.compile(r"[\x00-\x20\x7f]").search


@dataclass(frozen=True, slots=True)
class Proxy:
    """The address of a proxy, and the protocol to use with it.

    Args:
        scheme: ``http`` or ``https`` (CONNECT, without or with TLS to the proxy), ``socks5`` or
            ``socks4`` (the client resolves the server's name), or ``socks5h`` or ``socks4a`` (the
            proxy does).
        host: A name or an address, without brackets.
        port: The port.
        user: The user name, or ``None``.
        password: The password.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Parse the URI of a proxy.

        Args:
            text: ``scheme://[user[:password]@]host[:port]``. The scheme defaults to ``http``, as in
                many environments.

        Raises:
            ValueError: It is not such a URI. The message says why, without the password.
        """
        if _not_in_uri(text):
            raise ValueError("the proxy's URI must not contain spaces or control characters")
        url = urlsplit(text if "://" in text else f"http://{text}")
        if url.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"the proxy's URI must begin with one of {', '.join(_DEFAULT_PORTS)}")
        if not url.hostname:
            raise ValueError("the proxy's URI names no host")
        if url.path not in {"", "/"} or url.query or url.fragment:
            raise ValueError("the proxy's URI must end after the port")
        try:
            host = url.hostname if is_address(url.hostname) else encode_domain(url.hostname)
        except ValueError as exc:
            raise ValueError(f"the proxy's URI is not valid: {exc}") from None
        port = url.port or _DEFAULT_PORTS[url.scheme]
        if url.username is None:
            return cls(url.scheme, host, port)
        user, password = unquote(url.username), unquote(url.password or "")
        if ":" in user and url.scheme in {"http", "https"}:
            raise ValueError("the proxy's user name must not contain a colon")
        return cls(url.scheme, host, port, user, password)

    @property
    def is_socks(self) -> bool:
        """Whether this is a SOCKS proxy."""
        return self.scheme in _SOCKS

    @property
    def is_secure(self) -> bool:
        """Whether the connection to the proxy uses TLS."""
        return self.scheme == "https"

    def socks_options(self) -> dict[str, object]:
        """Return the arguments of python-socks' proxy classes.

        Raises:
            ModuleNotFoundError: python-socks is not installed.
        """
        try:
            from python_socks import ProxyType  # noqa: PLC0415 - optional
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{self} needs the python-socks library: pip install 'wsproto-sip[socks]'",
                name=error.name,
            ) from None
        name, names_there = _SOCKS[self.scheme]
        return {
            "proxy_type": ProxyType[name],
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": None if self.user is None else self.password,
            "rdns": names_there,
        }

    def socks_error(self, error: Exception) -> ProxyError:
        """Return the exception to raise for a ``ProxyError`` of python-socks.

        Args:
            error: The exception of python-socks.
        """
        code = getattr(error, "error_code", None)
        # A reply that was read is the cause of its error, and has that attribute too.
        replied = hasattr(error.__cause__, "error_code")
        return ProxyError(
            f"the proxy {self} refused: {error}",
            transient=not replied or code not in _SOCKS_FINAL,
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{_authority(self.host, self.port)}"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def choose_proxy(proxy: str | bool | None, *, secure: bool, host: str, port: int) -> Proxy | None:
    """Return the proxy for a server.

    In the environment (``urllib.request.getproxies()``: the ``…_proxy`` variables, or the system's
    settings on Windows and macOS) the first of these counts: ``wss_proxy``, ``socks_proxy``,
    ``https_proxy``, ``all_proxy`` for wss, and ``ws_proxy``, ``socks_proxy``, ``https_proxy``,
    ``http_proxy``, ``all_proxy`` for ws. The order follows RFC 6455 §4.1: SOCKS, then the proxy for
    HTTPS, then the one for HTTP. ``no_proxy`` lists the exceptions: names, which include the names
    below them (``example.com``, ``.example.com``, ``*.example.com``), each with or without a port,
    addresses, and networks (``10.0.0.0/8``).

    Args:
        proxy: The URI of a proxy; True to use the environment; ``None`` or False for no proxy.
        secure: Whether the server is reached by wss.
        host: The server.
        port: Its port.

    Raises:
        ValueError: The text is not the URI of a proxy; the message says why.
    """
    if isinstance(proxy, str):
        return Proxy.parse(proxy)
    if not proxy:
        return None
    settings = urllib.request.getproxies()
    names = ["wss", "socks", "https", "all"] if secure else ["ws", "socks", "https", "http", "all"]
    found = next((name for name in names if settings.get(name)), None)
    if found is None or any(map(urllib.request.proxy_bypass, {_authority(host, port), host})):
        return None
    if _is_exempt(settings.get("no", ""), host.partition("%")[0].removesuffix("."), port):
        return None
    text = settings[found]
    if found == "socks" and ("://" not in text or text.startswith("http://")):
        # The settings of systems do not name the version of SOCKS.
        text = "socks5h://" + text.removeprefix("http://")
    try:
        return Proxy.parse(text)
    except ValueError as error:
        raise ValueError(f"{found}_proxy of the environment: {error}") from None


def _is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Return whether ``no_proxy`` names a host in a form that urllib does not support.

    These are networks, names with ``*.``, and names that are separated by spaces or end with a dot.
    """
    host = host.lower()
    for entry in no_proxy.lower().replace(",", " ").split():
        if is_address(host):
            with suppress(ValueError):
                if ip_address(host) in ip_network(_unbracketed(entry), strict=False):
                    return True
            continue
        name, _, only = entry.partition(":")
        if only not in ("", str(port)):
            continue
        below = name.startswith("*.")
        name = name.removeprefix("*").strip(".")
        if name and (host.endswith("." + name) or (host == name and not below)):
            return True
    return False


def _unbracketed(entry: str) -> str:
    return entry.replace("[", "").replace("]", "")


class Tunnel:
    """Ask an HTTP proxy for a tunnel (RFC 9110 §9.3.6).

    Args:
        proxy: The proxy, already connected.
        host: The server.
        port: Its port.

    Attributes:
        request: What to send to the proxy.
    """

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        self._proxy = proxy
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
        self._received = 0
        place = _authority(host, port).encode("ascii")
        headers = [(b"Host", place)]
        if proxy.user is not None:
            # RFC 7617 §2.
            credentials = f"{proxy.user}:{proxy.password}".encode()
            value = b"Basic " + base64.b64encode(credentials)
            headers.append((b"Proxy-Authorization", value))
        head = h11.Request(method=b"CONNECT", target=place, headers=headers)
        self.request: bytes = (self._http.send(head) or b"") + (
            self._http.send(h11.EndOfMessage()) or b""
        )

    def receive(self, data: bytes | None) -> bool:
        """Process bytes from the proxy.

        Args:
            data: The bytes; ``None`` at their end.

        Returns:
            Whether the tunnel is open, so that all further bytes come from the server.

        Raises:
            ProxyError: The proxy does not open the tunnel.
        """
        self._received += len(data or b"")
        try:
            if self._received > _MAX_ANSWER:
                raise h11.RemoteProtocolError("too long")
            # h11 takes an empty chunk for the end of input.
            if data != b"":
                self._http.receive_data(data or b"")
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    return self._answered(event)
        except h11.RemoteProtocolError as error:
            what = "closed the connection" if data is None else f"did not send HTTP: {error}"
            raise ProxyError(f"the proxy {self._proxy} {what}") from None
        return False

    def _answered(self, response: h11.Response) -> bool:
        status, headers = response.status_code, list(response.headers)
        if not 200 <= status < 300:
            reason = response.reason.decode("ascii", "replace")
            asked = next((value for name, value in headers if name == b"proxy-authenticate"), b"")
            detail = f" ({asked.decode('ascii', 'replace')})" if asked else ""
            message = f"the proxy {self._proxy} refused: {status} {reason}".rstrip()
            transient = status in TRANSIENT_STATUS
            raise ProxyError(message + detail, status, headers, transient=transient)
        if self._http.trailing_data[0]:
            # Neither a server (RFC 6455 §4.1) nor TLS sends anything before the client does.
            raise ProxyError(f"the proxy {self._proxy} sent more than its answer")
        return True

"""Proxies between a client and its server: which one, and how it is asked; without I/O.

Theory of operation: :func:`choose_proxy` says which proxy leads to a place, from what the program
or the environment says. An HTTP proxy is asked for a tunnel with CONNECT (RFC 9110 §9.3.6) by a
:class:`Tunnel`, which takes octets and gives octets; TLS to the server is then done inside the
tunnel. SOCKS is spoken by the python-socks library, which each adapter calls in its own way with
:meth:`Proxy.socks_options`.
"""

from __future__ import annotations

import base64
import re
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..typing import Headers

__all__ = ["Proxy", "ProxyError", "Tunnel", "choose_proxy"]

#: Octets of a proxy's answer in front of the tunnel: its head and interim responses.
_MAX_ANSWER: Final = 64 * 1024

_DEFAULT_PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
#: python-socks' names of the protocols, and whether the proxy looks up names.
_SOCKS: Final = {
    "socks4": ("SOCKS4", False),
    "socks4a": ("SOCKS4", True),
    "socks5": ("SOCKS5", False),
    "socks5h": ("SOCKS5", True),
}
#: RFC 1928 §6: not allowed, no such command, no such address type. No code: wrong credentials.
_SOCKS_FINAL: Final = frozenset({None, 2, 7, 8})
#: Answers that another attempt may not get (RFC 9110 §15.5.9, §15.6; RFC 6585 §4; RFC 8470 §5.2).
TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_not_in_uri = re.compile(r"[\x00-\x20\x7f]").search


class ProxyError(ConnectionError):
    """A proxy did not open the way to the server.

    Args:
        message: What it did instead.
        status_code: The HTTP status code of its answer; None where there was none.
        headers: The answer's header fields.
        transient: Whether it may do so another time.
    """

    def __init__(
        self,
        message: str,
        status_code: int | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        transient: bool = True,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.headers: Headers = list(headers)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and how it is spoken to.

    Args:
        scheme: ``http`` or ``https`` (CONNECT, without and with TLS to the proxy), ``socks5`` and
            ``socks4`` (this side looks up the server's name), or ``socks5h`` and ``socks4a`` (the
            proxy does).
        host: A name or an address, without brackets.
        port: The port.
        user: A name that the proxy knows; None without.
        password: The password.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Takes the URI of a proxy apart.

        Args:
            text: ``scheme://[user[:password]@]host[:port]``; without a scheme it is ``http``, as
                in many environments.

        Raises:
            ValueError: It is no such URI; the message says why, and holds no password.
        """
        if _not_in_uri(text):
            raise ValueError("the proxy's URI holds a space or a control character")
        url = urlsplit(text if "://" in text else f"http://{text}")
        if url.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"the proxy's URI does not begin with {', '.join(_DEFAULT_PORTS)}")
        if not url.hostname:
            raise ValueError("the proxy's URI names no host")
        if url.path not in {"", "/"} or url.query or url.fragment:
            raise ValueError("the proxy's URI has something behind the port")
        try:
            host = url.hostname.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("the proxy's host is not a domain name") from None
        port = url.port or _DEFAULT_PORTS[url.scheme]
        if url.username is None:
            return cls(url.scheme, host, port)
        user, password = unquote(url.username), unquote(url.password or "")
        if ":" in user and url.scheme in {"http", "https"}:
            raise ValueError("the proxy's user name holds a colon")
        return cls(url.scheme, host, port, user, password)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS."""
        return self.scheme in _SOCKS

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken to it."""
        return self.scheme == "https"

    def socks_options(self) -> dict[str, object]:
        """The arguments of python-socks' classes of proxies.

        Raises:
            ModuleNotFoundError: That library is not installed.
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
        """What to raise where python-socks has raised its ``ProxyError``.

        Args:
            error: That error.
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
    """Which proxy leads to a server.

    From the environment (``urllib.request.getproxies()``: the variables ``…_proxy``, or else the
    system's settings on Windows and macOS) the first that is set counts: ``wss_proxy``,
    ``socks_proxy``, ``https_proxy``, ``all_proxy`` for wss, and ``ws_proxy``, ``socks_proxy``,
    ``https_proxy``, ``http_proxy``, ``all_proxy`` for ws. The order is RFC 6455's, §4.1: SOCKS,
    then the proxy for HTTPS, then the one for HTTP. ``no_proxy`` names hosts that are reached
    without one.

    Args:
        proxy: The URI of one; True for what the environment says; None or False for none.
        secure: Whether the server is asked by wss.
        host: The server.
        port: Its port.

    Raises:
        ValueError: It is not the URI of a proxy; the message says why.
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
    text = settings[found]
    if found == "socks" and ("://" not in text or text.startswith("http://")):
        # Systems' settings name no version of SOCKS.
        text = "socks5h://" + text.removeprefix("http://")
    try:
        return Proxy.parse(text)
    except ValueError as error:
        raise ValueError(f"{found}_proxy of the environment: {error}") from None


class Tunnel:
    """Asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6).

    Args:
        proxy: The proxy, which is connected to already.
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
        """Takes what the proxy has sent.

        Args:
            data: Octets; None at their end.

        Returns:
            Whether the tunnel is open, so that from now on the octets are the server's.

        Raises:
            ProxyError: There will be none.
        """
        self._received += len(data or b"")
        try:
            if self._received > _MAX_ANSWER:
                raise h11.RemoteProtocolError("too long")
            # To h11 no octets are the end of them.
            if data != b"":
                self._http.receive_data(data or b"")
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    return self._answered(event)
        except h11.RemoteProtocolError as error:
            what = "closed the connection" if data is None else f"sent no HTTP: {error}"
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
            # A server says nothing before it is asked (RFC 6455 §4.1), nor does TLS.
            raise ProxyError(f"the proxy {self._proxy} sent more than its answer")
        return True

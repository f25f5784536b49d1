"""WebSocket URIs (RFC 6455 §3): where a client connects to, and which resource it requests.

Theory of operation: a URI is split by its delimiters (RFC 3986 appendix B), and each part is then
checked by its own rule. Input that two readers could understand differently is refused, not
repaired: a host is a domain name or an address, and anything else is refused with a reason.
Characters outside ASCII are encoded as browsers encode them: a host with IDNA (RFC 5891), path and
query with percent-encoded UTF-8 (RFC 3987 §3.1).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

__all__ = ["WebSocketURI", "encode_domain"]

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}

#: RFC 3986 §3.3, §3.4: characters kept unchanged in a path, besides letters, digits and ``_.-~``.
_IN_TARGET: Final = "/%:@!$&'()*+,;="

_forbidden = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]").search
_parts = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)"
    r"(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
).fullmatch
#: A label of a host name: letters, digits, hyphens, and the underscore, which occurs in practice.
_is_label = re.compile(r"[A-Za-z0-9_-]{1,63}").fullmatch
#: RFC 6874 §2: a decoded ZoneID. It names an interface of this machine.
_is_zone = re.compile(r"[A-Za-z0-9._~-]{1,64}").fullmatch
#: A numeric last label makes a host an IPv4 address (RFC 3986 §3.2.2; WHATWG URL, host parser).
_is_numeric = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*").fullmatch


def encode_domain(name: str) -> str:
    """Encode a domain name for DNS and for header fields (IDNA 2008, RFC 5891 §5).

    Names outside ASCII are mapped according to UTS 46 if the package `idna` is installed. Otherwise
    the standard library's IDNA 2003 encodes the names for which both versions agree.

    Args:
        name: The name; it may end with a dot.

    Returns:
        The name in ASCII and lower case.

    Raises:
        ValueError: The name is not a domain name, or cannot be encoded without `idna`.
    """
    if not name.isascii():
        name = _encode_idna(name)
    labels = name.removesuffix(".").split(".")
    if len(name) > 254 or not all(map(_is_label, labels)):
        raise ValueError("the host is not a valid domain name")
    return name.lower()


def _encode_idna(name: str) -> str:
    try:
        import idna  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        pass
    else:
        try:
            return idna.encode(name, uts46=True, transitional=False).decode("ascii")
        except idna.IDNAError as exc:
            raise ValueError(f"the host is not a valid domain name: {exc}") from None
    # RFC 5894 §7.2: the characters that IDNA 2003 maps to others and IDNA 2008 keeps.
    if re.search("[\xdf\u1e9e\u03c2\u200c\u200d]", name):
        raise ValueError("the host needs IDNA 2008: install the package idna")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is not a valid domain name") from None


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """The parts of a ws or wss URI (RFC 6455 §3).

    Args:
        secure: Whether the scheme is wss.
        host: A domain name in ASCII and lower case, or an IP address without brackets; an IPv6
            address may carry a zone (``fe80::1%eth0``, RFC 6874).
        port: The port, between 1 and 65535.
        target: Path and query as they appear in the request line (the RFC's resource name).
        credentials: User and password as bytes, joined by a colon (RFC 7617 §2), or ``None``.
    """

    secure: bool
    host: str
    port: int
    target: str = "/"
    credentials: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> WebSocketURI:
        """Parse a URI.

        Args:
            text: The URI. Characters outside ASCII are encoded as browsers do; an empty port means
                the scheme's default (RFC 3986 §3.2.3).

        Returns:
            The URI's parts.

        Raises:
            ValueError: The text is not a WebSocket URI. The message says why, without quoting
                anything that could be a secret.
        """
        if _forbidden(text):
            raise ValueError("the URI contains a space or a control character")
        match = _parts(text)
        scheme = match["scheme"].lower() if match else ""
        if match is None or scheme not in _DEFAULT_PORTS:
            raise ValueError("the URI does not start with ws:// or wss://")
        if match["fragment"] is not None:
            raise ValueError("the URI has a fragment")
        if "\\" in match["authority"]:
            # Browsers read it as a slash, other parsers as a part of the user name.
            raise ValueError("the host contains a backslash")
        userinfo, at, hostport = match["authority"].rpartition("@")
        credentials = _parse_credentials(userinfo) if at else None
        host, port = _parse_hostport(hostport)
        target = quote(match["path"] or "/", safe=_IN_TARGET)
        if match["query"]:
            target += "?" + quote(match["query"], safe=_IN_TARGET + "?")
        return cls(scheme == "wss", host, port or _DEFAULT_PORTS[scheme], target, credentials)

    @property
    def host_header(self) -> str:
        """The value of the Host header field (RFC 6455 §4.1): without a default port and zone."""
        # RFC 6874 §1: a zone has a meaning on this machine only.
        host = self.host.partition("%")[0]
        if ":" in host:
            host = f"[{host}]"
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def authorization(self) -> bytes | None:
        """The value of an Authorization header field with the credentials (RFC 7617 §2), if any."""
        if self.credentials is None:
            return None
        return b"Basic " + base64.b64encode(self.credentials)

    @property
    def server_name(self) -> str:
        """The name for SNI and for the certificate: without a final dot (RFC 6066 §3) and zone."""
        return self.host.partition("%")[0].removesuffix(".")

    @property
    def origin(self) -> tuple[bool, str, int]:
        """The scheme, host and port that URIs of one server share (RFC 6454 §4)."""
        return self.secure, self.host, self.port

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.target}"


def _parse_credentials(userinfo: str) -> bytes:
    user, _, password = userinfo.partition(":")
    name = unquote_to_bytes(user)
    if b":" in name:
        # RFC 7617 §2: the server would take the rest for the password.
        raise ValueError("the URI's user name contains a colon")
    return name + b":" + unquote_to_bytes(password)


def _parse_hostport(text: str) -> tuple[str, int | None]:
    """Split host and port; the port is ``None`` if it is missing."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("the URI's IPv6 address has no closing bracket before the port")
        host, port = _parse_ipv6(address), rest[1:]
    else:
        name, _, port = text.partition(":")
        if not name:
            raise ValueError("the URI has no host")
        host = _parse_name(name)
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port[-6:]) <= 65535 or len(port) > 5:
        raise ValueError("the URI's port is not an integer between 1 and 65535")
    return host, int(port)


def _parse_ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    try:
        # IPv6Address accepts a zone too, but in another form than a URI.
        parsed = str(IPv6Address(address))
    except ValueError:
        raise ValueError("the URI's host is not an IPv6 address") from None
    if not percent:
        return parsed
    # RFC 6874 §2: "%25" starts the zone, which may itself be percent-encoded.
    name = unquote(zone.removeprefix("25"))
    if not zone.startswith("25") or not _is_zone(name):
        raise ValueError("the zone of the URI's IPv6 address is not valid: write %25NAME")
    return f"{parsed}%{name}"


def _parse_name(text: str) -> str:
    try:
        host = encode_domain(text)
    except ValueError as exc:
        raise ValueError(f"the URI is not valid: {exc}") from None
    last = host.removesuffix(".").rpartition(".")[2]
    if _is_numeric(last):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise ValueError("the URI's host is not an IPv4 address") from None
    return host

"""URIs: ``sip:`` and ``sips:`` fully parsed, ``tel:`` partly, all others kept as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from urllib.parse import unquote as percent_decode

from ._syntax import HOST, escaped, parse_port
from .errors import SipParseError, SipValueError
from .params import NO_URI_PARAMS, UriParams, percent_encode

__all__ = ["AbsoluteUri", "SipUri", "TelUri", "Uri", "host_key", "parse_uri"]

_USER = escaped(r"[A-Za-z0-9\-_.!~*'()&=+$,;?/]")
_PASSWORD = escaped(r"[A-Za-z0-9\-_.!~*'()&=+$,]") + "?"
_HEADERS = escaped(r"[A-Za-z0-9\-_.!~*'()\[\]/?:+$=&]")
_SIP_RE = re.compile(
    rf"([sS][iI][pP][sS]?):(?:({_USER})(?::({_PASSWORD}))?@)?({HOST})(?::([0-9]+))?"
    rf"(;[^?]+)?(?:\?({_HEADERS}))?"
)
_USER_RE = re.compile(_USER)
_PASSWORD_RE = re.compile(_PASSWORD)
_HOST_RE = re.compile(HOST)
_IPV4_RE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_ZEROS_RE = re.compile(r"(?<![0-9])0+(?=[0-9])")
_HEADERS_RE = re.compile(_HEADERS)
_TEL_RE = re.compile(r"tel:(\+?[0-9A-Fa-f*#().\-]+)((?:;[^;]+)*)", re.IGNORECASE | re.ASCII)
_SEPARATORS_RE = re.compile(r"[().\-]+")
#: Visible ASCII except what would end a name-addr or a request line.
_ABSOLUTE_RE = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):[^\x00-\x20\x7f-\U0010ffff<>\"]+")
#: Longest text, in characters, whose parsed value is cached.
_MAX_REMEMBERED = 128
_USER_SAFE = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()&=+$,;?/"
)
#: Parameters that two equal URIs must both have or both lack (RFC 3261 §19.1.4).
_DECISIVE_PARAMS = ("user", "ttl", "method", "maddr", "transport")


class SipUri:
    """A SIP or SIPS URI (RFC 3261 §19.1); user, password and headers keep their escapes.

    Equality follows §19.1.4: ``SIP:%61lice@Example.COM`` equals ``sip:alice@example.com``, but a
    URI with ``:5060`` differs from one without a port. It is not transitive, so the hash covers
    only the parts that equal URIs always share.

    Args:
        host: A name, an IPv4 address, or an IPv6 address in brackets.
        user: The user part, escaped; :meth:`make` takes a plain one.
        port: 0 to 65535.
        params: The parameters.
        scheme: ``sip`` or ``sips``.
        password: The password, escaped.
        headers: What follows the question mark, escaped.

    Raises:
        SipValueError: A part is not valid in a URI as it is.
    """

    __slots__ = ("_headers", "_host", "_params", "_password", "_port", "_scheme", "_user")

    def __init__(
        self,
        host: str,
        user: str | None = None,
        port: int | None = None,
        params: UriParams = NO_URI_PARAMS,
        scheme: str = "sip",
        password: str | None = None,
        headers: str | None = None,
    ) -> None:
        if not _HOST_RE.fullmatch(host):
            raise SipValueError(f"not a host: {host!r:.100}")
        if user is not None and not _USER_RE.fullmatch(user):
            raise SipValueError(f"not an escaped user part: {user!r:.100}")
        if port is not None and not 0 <= port <= 65535:
            raise SipValueError(f"not a port: {port!r}")
        if scheme not in ("sip", "sips"):
            raise SipValueError(f"neither sip nor sips: {scheme!r:.100}")
        if password is not None and (user is None or not _PASSWORD_RE.fullmatch(password)):
            raise SipValueError("not an escaped password, or one without a user")
        if headers is not None and not _HEADERS_RE.fullmatch(headers):
            raise SipValueError(f"not escaped headers: {headers!r:.100}")
        self._host = host
        self._user = user
        self._port = port
        self._params = params
        self._scheme = scheme
        self._password = password
        self._headers = headers

    @classmethod
    def make(
        cls,
        host: str,
        user: str | None = None,
        port: int | None = None,
        *,
        scheme: str = "sip",
        **params: str | None,
    ) -> SipUri:
        """Make a URI from plain text, escaping it where needed.

        Args:
            host: As for the class; an IPv6 address may omit its brackets.
            user: The plain user part.
            port: 0 to 65535.
            scheme: ``sip`` or ``sips``.
            params: Parameters, plain; ``None`` is for one without a value (``lr=None``).

        Raises:
            SipValueError: A part cannot be written.
        """
        return cls(
            bracketed(host),
            None if user is None else percent_encode(user, _USER_SAFE),
            port,
            UriParams(params.items()) if params else NO_URI_PARAMS,
            scheme,
        )

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """Read a SIP or SIPS URI.

        Raises:
            SipParseError: 416 for another scheme, 400 for bad syntax.
        """
        match = _SIP_RE.fullmatch(text)
        if match is None:
            if text[:4].lower() == "sip:" or text[:5].lower() == "sips:":
                raise SipParseError(400, f"bad SIP URI: {text!r:.100}")
            raise SipParseError(416, f"not a SIP URI: {text!r:.100}")
        scheme, user, password, host, port, params, headers = match.groups()
        uri = cls.__new__(cls)
        uri._host = host
        uri._user = user
        uri._port = None if port is None else parse_port(port)
        uri._params = UriParams.parse(params) if params else NO_URI_PARAMS
        uri._scheme = scheme if scheme in ("sip", "sips") else scheme.lower()
        uri._password = password
        uri._headers = headers
        return uri

    @property
    def host(self) -> str:
        """A name, an IPv4 address, or an IPv6 address in brackets."""
        return self._host

    @property
    def user(self) -> str | None:
        """The user part, escapes kept."""
        return self._user

    @property
    def port(self) -> int | None:
        """The port, or ``None``."""
        return self._port

    @property
    def params(self) -> UriParams:
        """The parameters."""
        return self._params

    @property
    def scheme(self) -> str:
        """``sip`` or ``sips``."""
        return self._scheme

    @property
    def password(self) -> str | None:
        """The password, escapes kept."""
        return self._password

    @property
    def headers(self) -> str | None:
        """What follows the question mark, escapes kept."""
        return self._headers

    @property
    def username(self) -> str | None:
        """The user part as plain text, without its escapes."""
        user = self._user
        return user if user is None or "%" not in user else _decoded(user)

    @property
    def address(self) -> str:
        """The host without the brackets of an IPv6 address: ``::1``, ``192.0.2.1``, a name."""
        host = self._host
        return host[1:-1] if host[0] == "[" else host

    @property
    def host_key(self) -> str:
        """The host as it is compared, by :func:`host_key`."""
        return host_key(self._host)

    @property
    def transport(self) -> str | None:
        """The transport parameter in lower case, or ``None``."""
        value = self._params.get("transport")
        return value if value is None else value.lower()

    @property
    def aor(self) -> SipUri:
        """The canonical scheme, user and host: the key of a registrar (RFC 3261 §10.3)."""
        user = self.username
        return SipUri.make(self.host_key, user, scheme=self.scheme)

    def with_params(self, params: UriParams) -> SipUri:
        """Return a copy with other parameters."""
        uri = SipUri.__new__(SipUri)
        uri._host = self._host
        uri._user = self._user
        uri._port = self._port
        uri._params = params
        uri._scheme = self._scheme
        uri._password = self._password
        uri._headers = self._headers
        return uri

    def with_param(self, name: str, value: str | None = None, *, first: bool = False) -> SipUri:
        """Return a copy with a parameter set; see ``UriParams.with_param``."""
        return self.with_params(self._params.with_param(name, value, first=first))

    def without_param(self, name: str) -> SipUri:
        """Return a copy without a parameter."""
        return self.with_params(self._params.without(name))

    def __repr__(self) -> str:
        return f"SipUri({str(self)!r})"

    def __str__(self) -> str:
        user = self._user
        if user is None:
            userinfo = ""
        elif self._password is None:
            userinfo = f"{user}@"
        else:
            userinfo = f"{user}:{self._password}@"
        port = "" if self._port is None else f":{self._port}"
        headers = "" if self._headers is None else f"?{self._headers}"
        return f"{self._scheme}:{userinfo}{self._host}{port}{self._params}{headers}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SipUri):
            return NotImplemented
        if self._decisive() != other._decisive():
            return False
        mine = _decoded_params(self._params)
        theirs = _decoded_params(other._params)
        for name in _DECISIVE_PARAMS:
            if mine.get(name) != theirs.get(name):
                return False
        # Other parameters must agree if both URIs have them, and are ignored otherwise.
        for name, value in mine.items():
            if theirs.get(name, value) != value:
                return False
        return self._headers == other._headers or (
            _header_set(self._headers) == _header_set(other._headers)
        )

    def __hash__(self) -> int:
        return hash(self._decisive())

    def _decisive(self) -> tuple[str, str | None, str | None, str, int | None]:
        password = None if self._password is None else _decoded(self._password)
        return (self._scheme, self.username, password, self._host.lower(), self._port)


@lru_cache(maxsize=1024)
def host_key(host: str) -> str:
    """Return a host in the one form that all its forms have in common, to be compared.

    That is lower case, no dot of the root at its end (``example.com.``), no zeros in front of the
    numbers of an IPv4 address, and the shortest form of an IPv6 address.

    Args:
        host: A name or address; of IPv6 in brackets.
    """
    key = host.lower().rstrip(".") or host
    if key[:1] == "[":
        try:
            address = IPv6Address(key[1:-1])
        except ValueError:
            return key
        # Python writes a mapped address in its mixed form (RFC 5952 §5) from 3.13 on.
        mapped = address.ipv4_mapped
        return f"[{address.compressed}]" if mapped is None else f"[::ffff:{mapped}]"
    return _ZEROS_RE.sub("", key) if _IPV4_RE.fullmatch(key) else key


def bracketed(host: str) -> str:
    """Return a host as URIs and Via write it, with brackets around an IPv6 address."""
    return f"[{host}]" if ":" in host and host[:1] != "[" else host


def _decoded(text: str) -> str:
    return percent_decode(text, errors="surrogateescape") if "%" in text else text


def _decoded_params(params: UriParams) -> dict[str, str]:
    return {_decoded(name).lower(): _decoded(value or "").lower() for name, value in params}


def _header_set(headers: str | None) -> list[tuple[str, str]]:
    """Return the headers of a URI in a comparable form: names ignore case, order is ignored."""
    items = []
    for item in (headers or "").split("&"):
        name, _, value = item.partition("=")
        items.append((_decoded(name).lower(), _decoded(value)))
    return sorted(items)


@dataclass(frozen=True, slots=True)
class TelUri:
    """A ``tel:`` URI (RFC 3966). Numbers that differ only in separators are equal.

    Args:
        number: The number as written, with its separators, and ``+`` in front of a global one.
        params: The parameters as written, from the first semicolon on.

    Raises:
        SipValueError: A part is not valid in a URI as it is.
    """

    number: str
    params: str = ""

    def __post_init__(self) -> None:
        text = str(self)
        match = _TEL_RE.fullmatch(text)
        if not match or match[1] != self.number or not _ABSOLUTE_RE.fullmatch(text):
            raise SipValueError(f"not a tel URI: {text!r:.100}")

    @classmethod
    def parse(cls, text: str) -> TelUri:
        """Read a tel URI.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        match = _TEL_RE.fullmatch(text)
        if not match or not _ABSOLUTE_RE.fullmatch(text):
            raise SipParseError(400, f"bad tel URI: {text!r:.100}")
        return cls(match[1], match[2])

    @property
    def scheme(self) -> str:
        """Always ``tel``."""
        return "tel"

    @property
    def digits(self) -> str:
        """The number without its visual separators."""
        return _SEPARATORS_RE.sub("", self.number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TelUri):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, tuple[str, ...]]:
        return (self.digits.lower(), tuple(sorted(self.params.lower().split(";"))))

    def __str__(self) -> str:
        return f"tel:{self.number}{self.params}"


@dataclass(frozen=True, slots=True)
class AbsoluteUri:
    """Any other URI, kept as text (``mailto:``, ``urn:``, ``http:`` …).

    Args:
        text: The whole URI.

    Raises:
        SipValueError: It has no scheme, or contains white space, quotes, angle brackets or
            characters outside ASCII.
    """

    text: str

    def __post_init__(self) -> None:
        if not _ABSOLUTE_RE.fullmatch(self.text):
            raise SipValueError(f"not an absolute URI: {self.text!r:.100}")

    @property
    def scheme(self) -> str:
        """The scheme in lower case."""
        return self.text.partition(":")[0].lower()

    def __str__(self) -> str:
        return self.text


Uri = SipUri | TelUri | AbsoluteUri


def parse_uri(text: str) -> Uri:
    """Read a URI of any scheme.

    Raises:
        SipParseError: 400, for bad syntax.
    """
    return _remembered(text) if len(text) <= _MAX_REMEMBERED else _read_uri(text)


def _read_uri(text: str) -> Uri:
    if text[:4] == "sip:":
        return SipUri.parse(text)
    if (match := _ABSOLUTE_RE.fullmatch(text)) is None:
        raise SipParseError(400, f"bad URI: {text!r:.100}")
    scheme = match[1].lower()
    if scheme in ("sip", "sips"):
        return SipUri.parse(text)
    if scheme == "tel":
        return TelUri.parse(text)
    return AbsoluteUri(text)


# A client sends the same few URIs in message after message, and URIs are immutable.
_remembered = lru_cache(maxsize=512)(_read_uri)

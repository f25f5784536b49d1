"""MSRP URIs, their comparison, and paths of them (RFC 4975 §6, §9).

Theory of operation: a URI is parsed once with a strict pattern and keeps its original bytes, so
that a path is sent exactly as it was received; equality and hash follow the comparison rules of the
RFC, so that a URI can be looked up in a dictionary whatever the case of its host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ...errors import WsprotoSipError
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits

__all__ = ["MsrpPath", "MsrpUri", "MsrpUriError", "format_path", "parse_path"]

_URI = re.compile(
    rb"(?P<scheme>msrps?)://"
    rb"(?:(?P<userinfo>(?:[0-9A-Za-z\-._~!$&'()*+,;=:]|%[0-9A-Fa-f]{2})*)@)?"
    rb"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z](?:[0-9A-Za-z._\-]*))"
    rb"(?::(?P<port>[0-9]{1,5}))?"
    rb"(?:/(?P<session>[0-9A-Za-z\-._~+=/]+))?"
    rb";(?P<transport>[0-9A-Za-z]+)"
    rb"(?P<parameters>(?:;[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?)*)",
    re.IGNORECASE,
)


class MsrpUriError(WsprotoSipError, ValueError):
    """The bytes are not an MSRP URI, or not a path of MSRP URIs."""


@dataclass(frozen=True, slots=True, eq=False)
class MsrpUri:
    """One MSRP URI (RFC 4975 §9), for example ``msrp://relay.example.org:2855/s1;tcp``.

    URIs are compared according to RFC 4975 §6.1: scheme, host and transport case-insensitively
    (addresses by value), the session case-sensitively; a missing port differs from every port, and
    userinfo and further parameters are ignored.

    Create one with :meth:`parse` or :meth:`build`.

    Args:
        raw: The original bytes.
        scheme: ``msrp`` or ``msrps``.
        userinfo: The part before the ``@``, or ``None``.
        host: The host as written, an IPv6 address in brackets.
        port: The port, or ``None``.
        session_id: The session, or ``None``.
        transport: ``tcp``, ``ws`` or another one, in lower case.
        parameters: Further parameters as written, each with its semicolon.
    """

    raw: bytes
    scheme: str
    userinfo: str | None
    host: str
    port: int | None
    session_id: str | None
    transport: str
    parameters: str
    _key: tuple[str, str, int | None, str | None, str] = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> MsrpUri:
        """Parse a URI.

        Args:
            data: The bytes of the URI and nothing else.

        Raises:
            MsrpUriError: The bytes are not an MSRP URI (RFC 4975 §9).
        """
        return _parse(data)

    @classmethod
    def build(
        cls,
        host: str,
        port: int | None = None,
        session_id: str | None = None,
        *,
        secure: bool = False,
        transport: str = "tcp",
        userinfo: str | None = None,
    ) -> MsrpUri:
        """Create a URI from its parts.

        Args:
            host: A name, an IPv4 address, or an IPv6 address in brackets.
            port: 1 to 65535, or ``None``.
            session_id: The session, or ``None``.
            secure: Whether the scheme is ``msrps``.
            transport: The transport parameter.
            userinfo: The part before the ``@``.

        Raises:
            MsrpUriError: The parts do not make a valid URI.
        """
        text = (
            ("msrps://" if secure else "msrp://")
            + ("" if userinfo is None else f"{userinfo}@")
            + host
            + ("" if port is None else f":{port}")
            + ("" if session_id is None else f"/{session_id}")
            + f";{transport}"
        )
        uri = _parse(text.encode("utf-8", "surrogatepass"))
        # A part that contains a delimiter would be parsed as another part.
        if (uri.host, uri.port, uri.session_id, uri.userinfo) != (host, port, session_id, userinfo):
            raise MsrpUriError(f"the parts would be parsed as another URI: {text!r}")
        return uri

    @property
    def secure(self) -> bool:
        """Whether the scheme is ``msrps``."""
        return self.scheme == "msrps"

    @property
    def authority(self) -> tuple[str, int | None]:
        """The host in its comparable form, and the port: the address of a next hop."""
        return self._key[1], self._key[2]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MsrpUri):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __bytes__(self) -> bytes:
        return self.raw

    def __str__(self) -> str:
        return self.raw.decode("ascii")


#: The URIs of a To-Path or From-Path header field, the next hop first.
MsrpPath = tuple[MsrpUri, ...]


def _comparable_host(host: str) -> str:
    """Return the form of a host for comparison (RFC 4975 §6.1)."""
    if host[0] == "[":
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError as error:
            raise MsrpUriError(f"not an IPv6 address: {host!r}") from error
    return host.lower()


# A conversation repeats the same few URIs and paths in each chunk. The caches are small, so that a
# sender who varies them only causes cache misses for itself.
@lru_cache(maxsize=1024)
def _parse(data: bytes) -> MsrpUri:
    match = _URI.fullmatch(data)
    if match is None:
        raise MsrpUriError(f"not an MSRP URI: {data[:80]!r}")
    scheme = match["scheme"].decode("ascii").lower()
    host = match["host"].decode("ascii")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise MsrpUriError(f"not a port: {port}")
    session_id = None if match["session"] is None else match["session"].decode("ascii")
    transport = match["transport"].decode("ascii").lower()
    return MsrpUri(
        raw=data,
        scheme=scheme,
        userinfo=None if match["userinfo"] is None else match["userinfo"].decode("ascii"),
        host=host,
        port=port,
        session_id=session_id,
        transport=transport,
        parameters=match["parameters"].decode("ascii"),
        _key=(scheme, _comparable_host(host), port, session_id, transport),
    )


def parse_path(value: bytes, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS) -> MsrpPath:
    """Parse the value of a To-Path, From-Path or Use-Path header field (RFC 4975 §9).

    Args:
        value: URIs separated by single spaces.
        limits: The limits, of which ``max_path_uris`` and ``max_uri`` are used.

    Raises:
        MsrpUriError: An item is not an MSRP URI or is too long, or there are too many.
    """
    if value.count(b" ") >= limits.max_path_uris:
        raise MsrpUriError(f"more than {limits.max_path_uris} URIs in a path")
    if len(value) > limits.max_uri:
        longest = max(map(len, value.split(b" ")))
        if longest > limits.max_uri:
            raise MsrpUriError(f"a URI of {longest} bytes is longer than {limits.max_uri}")
    return _parse_path(value)


@lru_cache(maxsize=256)
def _parse_path(value: bytes) -> MsrpPath:
    return tuple(map(_parse, value.split(b" ")))


def format_path(path: Iterable[MsrpUri]) -> bytes:
    """Join URIs with single spaces to the value of a path header field."""
    return b" ".join([uri.raw for uri in path])

"""The web pages that may open a connection (RFC 6454, RFC 6455 §10.2)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from enum import Enum

from .decision import Continue, Decision, RequestContext, header_values, refuse

__all__ = ["ANY_ORIGIN", "AnyOrigin", "OriginPolicy"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# RFC 6454 §6.2: browsers send it in lower case, without a default port, path or user.
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([1-9][0-9]{0,4}))?"
)


class AnyOrigin(Enum):
    """The type of :data:`ANY_ORIGIN`."""

    ANY = "any"


ANY_ORIGIN = AnyOrigin.ANY
"""Allows every origin, which has to be requested explicitly."""


def _is_loopback(origin: str) -> bool:
    """Return whether an origin belongs to pages on this machine, at any port."""
    match = _ORIGIN.fullmatch(origin)
    if match is None or _fault(origin) is not None or match[1] not in ("http", "https"):
        return False
    host = match[2].strip("[]")
    if host == "localhost" or host.endswith(".localhost"):
        # RFC 6761 §6.3.
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _fault(origin: str) -> str | None:
    """Return why a text is not an origin as browsers write it; ``None`` if it is one."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return "not scheme://host or scheme://host:port in lower case"
    scheme, host, port = match.groups()
    if host.startswith("["):
        try:
            canonical = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return "not an IPv6 address"
        if canonical != host:
            return f"write the address as {canonical}"
    if port is not None:
        if int(port) > 65535:
            return "not a port"
        if _DEFAULT_PORTS.get(scheme) == int(port):
            return "leave out the scheme's default port"
    return None


class OriginPolicy:
    """Refuse connections started by a page of another origin with 403 Forbidden.

    Origins are compared as a whole, scheme, host and port, in the one form that browsers use, so
    that another suffix, prefix, port or case cannot pass for an allowed origin. The first three
    arguments are required, because the application has to decide.

    Args:
        allowed: The origins (``https://example.com``, ``https://example.com:8443``), or
            :data:`ANY_ORIGIN`.
        allow_null: Whether ``null`` may connect: sandboxed frames and local files, which means any
            page.
        allow_missing: Whether a request without Origin may connect, as from clients that are not
            browsers.
        allow_loopback: Whether pages on the client's own machine may connect, from any port of
            ``localhost`` or a loopback address: for servers that only this machine can reach.

    Raises:
        ValueError: An allowed origin is not in the form that browsers use; the message says how it
            differs.
        TypeError: ``allowed`` is one string.
    """

    def __init__(
        self,
        allowed: Iterable[str] | AnyOrigin,
        *,
        allow_null: bool,
        allow_missing: bool,
        allow_loopback: bool = False,
    ) -> None:
        self._allow_loopback = allow_loopback
        self._allowed: frozenset[bytes] | None = None
        self._allow_null = allow_null
        self._allow_missing = allow_missing
        if isinstance(allowed, AnyOrigin):
            return
        if isinstance(allowed, str):
            raise TypeError("allowed must be a collection of strings or ANY_ORIGIN, not one string")
        origins: set[bytes] = set()
        for origin in allowed:
            fault = _fault(origin)
            if fault is not None:
                raise ValueError(f"not an origin as browsers send it: {origin!r}: {fault}")
            origins.add(origin.encode("ascii"))
        self._allowed = frozenset(origins)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Look the request's Origin up; more than one Origin is answered with 400."""
        values = header_values(context.request, b"origin")
        if len(values) > 1:
            return refuse(400, "more than one Origin")
        if not values:
            return Continue() if self._allow_missing else refuse(403, "no Origin")
        origin = values[0]
        if origin == b"null":
            return Continue() if self._allow_null else refuse(403, "Origin is null")
        if self._allowed is not None:
            passes = origin in self._allowed or (
                self._allow_loopback and _is_loopback(origin.decode("latin-1"))
            )
        else:
            passes = _fault(origin.decode("latin-1")) is None
        return Continue() if passes else refuse(403, "Origin is not allowed")

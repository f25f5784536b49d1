"""The names and ports that the server answers to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["HostPolicy", "LocalPortPolicy"]

# RFC 9110 §7.2: uri-host [ ":" port ]. Names may have letters, digits, "-", "_" and ".".
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")


def _split(text: str) -> tuple[str, int | None] | None:
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name, port = match[1].lower(), None if match[2] is None else int(match[2])
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        except ValueError:
            return None
    if port is not None and not 1 <= port <= 65535:
        return None
    return name, port


class HostPolicy:
    """Refuse requests for another host with 403 Forbidden (RFC 6455 §10.2, DNS rebinding).

    An alias without a port matches every port. An alias with a port matches that port, and a Host
    without a port if it is the scheme's default: 80, or 443 over TLS (RFC 6455 §3).

    Args:
        aliases: The server's names and addresses, each with or without a port: ``example.com``,
            ``example.com:8443``, ``[2001:db8::1]:80``.

    Raises:
        ValueError: An alias is not a host or a host and port, or there are none.
        TypeError: ``aliases`` is one string.
    """

    def __init__(self, aliases: Iterable[str]) -> None:
        if isinstance(aliases, str):
            raise TypeError("aliases must be a collection of strings, not one string")
        known: set[tuple[str, int | None]] = set()
        for alias in aliases:
            parts = _split(alias)
            if parts is None:
                raise ValueError(f"not a host, or host and port: {alias!r}")
            known.add(parts)
        if not known:
            raise ValueError("no aliases: every request would be refused")
        self._known = frozenset(known)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Compare the request's Host with the aliases."""
        parts = _split(context.request.host)
        if parts is None:
            return refuse(403, "malformed Host")
        name, port = parts
        if port is None:
            port = 443 if context.secure else 80
        if (name, None) in self._known or (name, port) in self._known:
            return Continue()
        return refuse(403, "Host is not one of ours")


class LocalPortPolicy:
    """Refuse connections on a port that is not for WebSockets with 403 Forbidden.

    For servers that listen on ports for other purposes too; the guide's example allows 80 and 443.

    Args:
        ports: The ports for WebSockets.

    Raises:
        ValueError: A port is outside 1 to 65535.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(ports)
        for port in self._ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"not a port: {port!r}")

    def __call__(self, context: RequestContext, /) -> Decision:
        """Check the port that the connection was accepted on."""
        if context.local_port in self._ports:
            return Continue()
        return refuse(403, "not a port for WebSockets")

"""Where a client connects to: ``ws`` and ``wss`` URIs (RFC 6455 §3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..utilities import is_token

__all__ = ["Target"]

# RFC 3986 §3, as far as RFC 6455 §3 lets it: no user information, no fragment, and no octet
# outside ASCII (a host name in its A-label form).
_URI = re.compile(
    r"(?P<scheme>(?i:wss?))://"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~!$&'()*+,;=%-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-\"$-;=?-Z\\^_a-z~%\[\]]*|)"
    r"(?P<query>\?[!-\"$-;=?-Z\\^_a-z~%\[\]]*|)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A WebSocket resource, and the sub-protocol wanted of it.

    Args:
        host: The host's name or address, an IPv6 address in brackets.
        port: The port.
        secure: Whether it is wss.
        resource: Path and query, beginning with a slash.
        subprotocol: The sub-protocol to offer; None for none.
    """

    host: str
    port: int
    secure: bool
    resource: str
    subprotocol: str | None = None

    @classmethod
    def parse(cls, uri: str, subprotocol: str | None = None) -> Target:
        """Takes a URI apart.

        Args:
            uri: A ``ws`` or ``wss`` URI.
            subprotocol: The sub-protocol to offer.

        Returns:
            The target; scheme and host in lower case, the default port filled in.

        Raises:
            ValueError: It is not such a URI, or not a sub-protocol's name.
        """
        if subprotocol is not None and not is_token(subprotocol.encode(errors="replace")):
            raise ValueError(f"not a sub-protocol: {ascii(subprotocol)[:80]}")
        match = _URI.fullmatch(uri)
        if match is None:
            raise ValueError(f"not a ws or wss URI: {ascii(uri)[:200]}")
        secure = match["scheme"].lower() == "wss"
        port = int(match["port"]) if match["port"] else (443 if secure else 80)
        if not 1 <= port <= 65535:
            raise ValueError(f"not a port: {port}")
        resource = (match["path"] or "/") + match["query"]
        return cls(match["host"].lower(), port, secure, resource, subprotocol)

    @property
    def authority(self) -> str:
        """What the Host header field says: without the port where it is the default."""
        if self.port == (443 if self.secure else 80):
            return self.host
        return f"{self.host}:{self.port}"

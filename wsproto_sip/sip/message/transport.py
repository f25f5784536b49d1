"""Transports: their numbers and default ports, and where a message came from."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from .errors import SipValueError
from .uri import SipUri

__all__ = ["TRANSPORT_NAMES", "TRANSPORT_NUMBERS", "Source", "default_port"]

#: Kamailio's numbers of transports, which its aliases contain.
TRANSPORT_NUMBERS = {"udp": 1, "tcp": 2, "tls": 3, "sctp": 4, "ws": 5, "wss": 6}
TRANSPORT_NAMES = {number: name for name, number in TRANSPORT_NUMBERS.items()}

#: RFC 3261 §19.1.2, RFC 7118 §5.5.
_DEFAULT_PORTS = {"tls": 5061, "ws": 80, "wss": 443}


def default_port(transport: str) -> int:
    """Return the default port of a transport: 80 for ws, 443 for wss, 5061 for tls, else 5060."""
    return _DEFAULT_PORTS.get(transport.lower(), 5060)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a message came from, as seen by the transport rather than stated in the message.

    Args:
        host: An IPv4 or IPv6 address, without brackets.
        port: 0 to 65535.
        transport: ``udp``, ``tcp``, ``tls``, ``sctp``, ``ws`` or ``wss``.

    Raises:
        SipValueError: An argument is invalid.
    """

    host: str
    port: int
    transport: str

    def __post_init__(self) -> None:
        try:
            address = ip_address(self.host)
        except ValueError:
            raise SipValueError(f"not an IP address: {self.host!r:.100}") from None
        # A zone ("%eth0") names an interface of this machine and must not enter a message.
        object.__setattr__(self, "host", str(address).partition("%")[0])
        if not 0 <= self.port <= 65535:
            raise SipValueError(f"not a port: {self.port!r}")
        if self.transport not in TRANSPORT_NUMBERS:
            raise SipValueError(f"not a transport: {self.transport!r:.100}")

    @property
    def is_websocket(self) -> bool:
        """Return whether it came over ws or wss."""
        return self.transport in ("ws", "wss")

    @property
    def uri(self) -> SipUri:
        """``sip:host:port;transport=…``; ``ws`` for wss too (RFC 7118 §5.2)."""
        transport = "ws" if self.is_websocket else self.transport
        return SipUri.make(self.host, port=self.port, transport=transport)

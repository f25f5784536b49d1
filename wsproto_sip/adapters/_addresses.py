"""Addresses of this machine and of others."""

from __future__ import annotations

import socket
from ipaddress import ip_address

__all__ = ["canonical", "is_address", "local_address"]


def canonical(address: str) -> str:
    """Return an address in a form fit for comparison: IPv4 addresses mapped to IPv6 become IPv4.

    Args:
        address: An IPv4 or IPv6 address.

    Raises:
        ValueError: It is not an IP address.
    """
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address rather than a name.

    Args:
        host: The host, without brackets.
    """
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def local_address(host: str, port: int) -> str:
    """Return this machine's address on the route to another one, without sending anything.

    Args:
        host: The name or address of the other machine.
        port: A port there.

    Raises:
        OSError: The name is unknown, or the machine cannot be reached.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return canonical(str(probe.getsockname()[0]))

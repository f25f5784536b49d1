"""Addresses of other machines and of this one."""

from __future__ import annotations

import socket
from ipaddress import ip_address

__all__ = ["canonical", "is_address", "local_address"]


def canonical(address: str) -> str:
    """An address in the form in which it is compared: an IPv4 address is one in IPv6 too.

    Args:
        address: An IPv4 or IPv6 address.

    Raises:
        ValueError: It is none.
    """
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def is_address(host: str) -> bool:
    """Whether a host is an address and no name.

    Args:
        host: It; without brackets.
    """
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def local_address(host: str, port: int) -> str:
    """The address of this machine from which another one is reached; nothing is sent to find out.

    Args:
        host: The other one's name or address.
        port: A port of it.

    Raises:
        OSError: The name is not known, or there is no way there.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return canonical(str(probe.getsockname()[0]))

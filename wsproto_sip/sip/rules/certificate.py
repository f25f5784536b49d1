"""Matching certificates and domains in SIP over TLS (RFC 5922).

The rules differ from those of HTTPS. A certificate names a SIP domain by a ``sip`` URI in its
subjectAltName or, if there is none, by a DNS name. Names are compared as a whole, without wildcards
(§7.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from ..message.errors import SipParseError
from ..message.uri import SipUri

__all__ = ["names_domain"]


def names_domain(certificate: Mapping[str, Any], domain: str) -> bool:
    """Return whether a verified certificate is for a domain (RFC 5922 §7.1, §7.2).

    Args:
        certificate: As :meth:`ssl.SSLSocket.getpeercert` returns it; empty for no certificate.
        domain: A name, or an IP address for a server that is only known by it.
    """
    names: Mapping[str, list[str]] = {"URI": [], "DNS": [], "IP Address": []}
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in names:
            names[kind].append(value)
    address = _address(domain)
    if address is not None:
        return any(_address(value) == address for value in names["IP Address"])
    wanted = _folded(domain)
    hosts = [host for host in map(_sip_domain, names["URI"]) if host is not None]
    if not hosts:
        hosts = names["DNS"]
    if not certificate.get("subjectAltName"):
        # Only a certificate without that extension may be known by its Common Name.
        hosts = [
            value
            for part in certificate.get("subject", ())
            for key, value in part
            if key == "commonName"
        ]
    return any(_folded(host) == wanted for host in hosts)


def _folded(host: str) -> str:
    return host.lower().removesuffix(".")


def _address(host: str) -> object:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _sip_domain(text: str) -> str | None:
    """Return the domain that a URI names, or ``None`` for a user's URI or another scheme."""
    try:
        uri = SipUri.parse(text)
    except SipParseError:
        return None
    return uri.host if uri.scheme == "sip" and uri.user is None else None

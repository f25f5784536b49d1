"""Clients that cannot know their address: Kamailio's nathelper functions as pure functions.

A browser writes ``.invalid`` hosts into Via and Contact; the address that the transport saw
replaces them.
"""

from __future__ import annotations

import re
from enum import IntFlag
from ipaddress import AddressValueError, IPv4Address, IPv4Network, ip_address

from ..message.message import SipMessage, SipRequest
from ..message.transport import Source
from ..message.uri import SipUri, bracketed

__all__ = [
    "NatTest",
    "fix_nated_contact",
    "fix_nated_register",
    "force_rport",
    "is_private",
    "nat_uac_test",
]


class NatTest(IntFlag):
    """The tests of :func:`nat_uac_test`, with Kamailio's numbers."""

    #: Contact contains a private address.
    CONTACT_PRIVATE = 1
    #: The source address differs from the topmost Via's.
    RECEIVED = 2
    #: The topmost Via contains a private address.
    VIA_PRIVATE = 4
    #: The SDP contains a private connection address.
    SDP_PRIVATE = 8
    #: The source port differs from the topmost Via's, 5060 by default.
    RPORT = 16
    #: The source address is private.
    SOURCE_PRIVATE = 32
    #: The message came over a WebSocket.
    WEBSOCKET = 64
    #: The Contact's port, 5060 by default, differs from the source's.
    CONTACT_PORT = 128
    #: The SDP's connection address differs from the source address.
    SDP_ADDRESS = 256
    #: The request's target and next hop differ, or it goes to a WebSocket.
    TO_WEBSOCKET = 512


_PRIVATE = [
    IPv4Network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "192.0.0.0/24",
    )
]
_CONNECTION_RE = re.compile(rb"(?:^|\n)c=IN IP[46] ([0-9A-Fa-f.:]+)")


def is_private(host: str) -> bool:
    """Return whether a host is a non-public IPv4 address (RFC 1918, 6598, 6890)."""
    try:
        address = IPv4Address(host)
    except AddressValueError:
        return False
    return any(address in network for network in _PRIVATE)


def _same_address(host: str, source: Source) -> bool:
    try:
        return ip_address(host) == ip_address(source.host)
    except ValueError:
        # A name is never resolved (RFC 7118 appendix B.1), so it is not the source.
        return False


def _contact_uri(message: SipMessage) -> SipUri | None:
    contacts = message.contacts
    if not contacts:
        return None
    uri = contacts[0].uri
    return uri if isinstance(uri, SipUri) else None


def _sdp_addresses(message: SipMessage) -> list[str]:
    if message.content_type != "application/sdp":
        return []
    return [found.decode("ascii") for found in _CONNECTION_RE.findall(message.body)]


def nat_uac_test(
    message: SipMessage,
    source: Source,
    flags: int,
    *,
    next_hop: SipUri | None = None,
) -> NatTest:
    """Return which of the selected tests are true of a message; none is an empty, false value.

    Args:
        message: A request or response.
        source: Where it came from.
        flags: The tests to apply: the sum of :class:`NatTest` values.
        next_hop: Where the request will be sent, for test 512; its Request-URI by default.

    Raises:
        SipParseError: 400, if a header that a test needs is malformed.
    """
    found = NatTest(0)
    if flags & NatTest.WEBSOCKET and source.is_websocket:
        found |= NatTest.WEBSOCKET
    if flags & NatTest.SOURCE_PRIVATE and is_private(source.host):
        found |= NatTest.SOURCE_PRIVATE
    if flags & (NatTest.RECEIVED | NatTest.VIA_PRIVATE | NatTest.RPORT):
        via = message.via
        if not _same_address(via.address, source):
            found |= NatTest.RECEIVED
        if is_private(via.host):
            found |= NatTest.VIA_PRIVATE
        if (5060 if via.port is None else via.port) != source.port:
            found |= NatTest.RPORT
    if flags & (NatTest.CONTACT_PRIVATE | NatTest.CONTACT_PORT):
        contact = _contact_uri(message)
        if contact is not None:
            if is_private(contact.host):
                found |= NatTest.CONTACT_PRIVATE
            if (5060 if contact.port is None else contact.port) != source.port:
                found |= NatTest.CONTACT_PORT
    if flags & (NatTest.SDP_PRIVATE | NatTest.SDP_ADDRESS):
        addresses = _sdp_addresses(message)
        if any(is_private(address) for address in addresses):
            found |= NatTest.SDP_PRIVATE
        if any(not _same_address(address, source) for address in addresses):
            found |= NatTest.SDP_ADDRESS
    if flags & NatTest.TO_WEBSOCKET and _goes_to_websocket(message, next_hop):
        found |= NatTest.TO_WEBSOCKET
    return found & NatTest(flags)


def _goes_to_websocket(message: SipMessage, next_hop: SipUri | None) -> bool:
    if not isinstance(message, SipRequest):
        return False
    target = message.uri
    if next_hop is None:
        return isinstance(target, SipUri) and target.transport in ("ws", "wss")
    if next_hop.transport in ("ws", "wss") or not isinstance(target, SipUri):
        return True
    return (target.host.lower(), target.port) != (next_hop.host.lower(), next_hop.port)


def force_rport(request: SipRequest, source: Source) -> None:
    """Write the source's port and address into the topmost Via, requested or not (RFC 3581 §4).

    Responses then carry ``;rport=port;received=address``, whatever the sender wrote there.

    Raises:
        SipParseError: 400, for a bad Via.
    """
    request.replace_first("Via", request.via.seen_from(bracketed(source.host), source.port))


def fix_nated_register(request: SipRequest, source: Source) -> SipUri:
    """Return the address to store with the bindings of a REGISTER: the source, as a URI.

    Requests to the binding go there, and the Contact of the 200 carries it as its ``received``
    parameter. The Contact itself stays as the client wrote it.
    """
    return source.uri


def fix_nated_contact(message: SipMessage, source: Source) -> bool:
    """Put the source's address and port into the URI of every Contact.

    Returns:
        Whether there was a Contact to change; ``*`` does not count.

    Raises:
        SipParseError: 400, for a bad Contact.
    """
    fixed = []
    for contact in message.contacts or []:
        uri = contact.uri
        if isinstance(uri, SipUri):
            uri = SipUri(
                bracketed(source.host),
                uri.user,
                source.port,
                uri.params,
                uri.scheme,
                uri.password,
                uri.headers,
            )
        fixed.append(contact.with_uri(uri))
    if fixed:
        message.set_contacts(fixed)
    return bool(fixed)

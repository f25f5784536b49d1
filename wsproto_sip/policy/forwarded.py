"""The client's address and scheme as proxies report them (RFC 7239, and X-Forwarded-For)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from .decision import Continue, Decision, RequestContext, header_values, refuse

__all__ = ["ForwardedHeader", "ForwardedPolicy", "TrustedNetworks"]

_MAX_HOPS = 32

# RFC 7239 §4: name "=" ( token | quoted-string ), joined by ";" within a hop and "," between hops;
# elements may be empty (RFC 9110 §5.6.1.2).
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)="
    r'(?:([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)|"((?:[\t\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*)")'
    r"[ \t]*)?(;|,|\Z)"
)
_ESCAPED = re.compile(r"\\(.)")
# RFC 7239 §6: an address with or without a port; "unknown" and "_name" hide the address.
_NODE = re.compile(
    r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]|(unknown|_[A-Za-z0-9._-]+))"
    r"(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)
#: A peer at a Unix socket, as adapters call it: the user's number where the system tells it.
_UNIX = re.compile(r"unix(?:-[0-9]{1,10})?")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}


class ForwardedHeader(Enum):
    """The header fields that the proxies write. Only one kind is trusted, never both."""

    FORWARDED = "forwarded"
    X_FORWARDED = "x-forwarded-for"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise ValueError("not an address") from None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


class TrustedNetworks:
    """Addresses of trusted proxies.

    Args:
        networks: Networks and single addresses (``10.0.0.0/8``, ``2001:db8::1``); ``unix`` for
            peers at a Unix socket, whose address is empty or begins with ``unix``, and
            ``unix-33`` for those of one user, by number, where the system tells the user.

    Raises:
        ValueError: An item is not a network, or has bits set after its prefix.
        TypeError: ``networks`` is one string.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            raise TypeError("networks must be a collection of strings, not one string")
        words = list(networks)
        users = {word for word in words if _UNIX.fullmatch(word)}
        self._unix = "unix" in users
        self._users = frozenset(users)
        self._networks = tuple(ipaddress.ip_network(word) for word in words if word not in users)

    def __contains__(self, address: str | None) -> bool:
        """Return whether a text is an address in one of the networks; ``None`` never is.

        An IPv4 address in IPv6 notation (``::ffff:10.0.0.1``) counts as the IPv4 address.
        """
        if not address:
            return self._unix and address == ""
        if _UNIX.fullmatch(address):
            return self._unix or address in self._users
        try:
            parsed = _address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


@dataclass(frozen=True, slots=True)
class _Hop:
    address: str | None
    port: int | None = None
    secure: bool | None = None


class ForwardedPolicy:
    """Replace the proxy's address, port and scheme by the client's.

    Only a peer in a trusted network is believed; header fields of others are ignored. Hops are
    followed from the last one towards the client, as long as their addresses are trusted: the first
    one that is not trusted is the client, since the hops before it are claims of the client. A hop
    that hides its address ends the search at the last known address. Without the header fields, the
    context stays unchanged, and so does the scheme unless they name one. Input from a trusted proxy
    must be well-formed; otherwise the answer is 400.

    Args:
        trusted: The trusted proxies.
        header: The header fields they write: ``Forwarded``, or ``X-Forwarded-For`` with
            ``X-Forwarded-Proto``. They have to remove or extend those sent by a client.
    """

    def __init__(
        self, trusted: TrustedNetworks, *, header: ForwardedHeader = ForwardedHeader.FORWARDED
    ) -> None:
        self._trusted = trusted
        self._header = header

    def __call__(self, context: RequestContext, /) -> Decision:
        """Follow the hops."""
        if context.peer_address not in self._trusted:
            return Continue()
        values = header_values(context.request, self._header.value.encode("ascii"))
        if not values:
            return Continue()
        text = b",".join(values).decode("latin-1")
        try:
            if self._header is ForwardedHeader.FORWARDED:
                found = self._follow(_forwarded_hops(text))
            else:
                protocols = header_values(context.request, b"x-forwarded-proto")
                found = self._follow_addresses(text, b",".join(protocols).decode("latin-1"))
        except ValueError as error:
            return refuse(400, f"malformed {self._header.value}: {error}")
        address, port = found.address, found.port
        if address is None:
            address, port = context.peer_address, context.peer_port
        secure = context.secure if found.secure is None else found.secure
        return Continue(
            context=replace(context, peer_address=address, peer_port=port, secure=secure)
        )

    def _follow(self, hops: list[_Hop]) -> _Hop:
        known = _Hop(None)
        for hop in reversed(hops):
            if hop.address is None:
                return replace(known, secure=hop.secure)
            known = hop
            if hop.address not in self._trusted:
                break
        return known

    def _follow_addresses(self, addresses: str, protocols: str) -> _Hop:
        nodes = addresses.split(",")
        schemes = [scheme.strip(" \t").lower() for scheme in protocols.split(",")]
        if len(nodes) > _MAX_HOPS or len(schemes) > _MAX_HOPS:
            raise ValueError("too many hops")
        known = _Hop(None)
        for index in range(len(nodes) - 1, -1, -1):
            known = _node(nodes[index].strip(" \t"), bare=True)
            if protocols:
                # Proxies either extend this list too, or only give the client's scheme.
                if len(schemes) not in (1, len(nodes)):
                    raise ValueError("the numbers of schemes and addresses differ")
                scheme = schemes[index if len(schemes) > 1 else 0]
                if scheme not in _SCHEMES:
                    raise ValueError("unknown scheme")
                known = replace(known, secure=_SCHEMES[scheme])
            if known.address not in self._trusted:
                break
        return known


def _node(text: str, *, bare: bool) -> _Hop:
    """Parse a hop's address; ``bare`` allows IPv6 without brackets and forbids hidden ones."""
    if bare and text.count(":") > 1 and _BARE_IPV6.fullmatch(text):
        return _Hop(str(_address(text)))
    match = _NODE.fullmatch(text)
    if match is None or (bare and match[3]):
        raise ValueError("not an address")
    ipv4, ipv6, _, digits = match.groups()
    port = None if digits is None else int(digits)
    if port is not None and port > 65535:
        raise ValueError("not a port")
    if ipv6 is not None and ":" not in ipv6:
        raise ValueError("not an address")
    address = ipv4 or ipv6
    return _Hop(None) if address is None else _Hop(str(_address(address)), port)


def _forwarded_hops(text: str) -> list[_Hop]:
    hops: list[_Hop] = []
    pairs: dict[str, str] = {}
    position = 0
    while True:
        match = _PAIR.match(text, position)
        if match is None:
            raise ValueError(f"invalid parameter at character {position}")
        position = match.end()
        name, token, quoted, delimiter = match.groups()
        if name is not None:
            name = name.lower()
            if name in pairs:
                raise ValueError(f"parameter {name} is repeated")
            pairs[name] = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if delimiter == ";":
            continue
        if pairs:
            hops.append(_hop(pairs))
            pairs = {}
        if len(hops) > _MAX_HOPS:
            raise ValueError("too many hops")
        if not delimiter:
            break
    if not hops:
        raise ValueError("no hop")
    return hops


def _hop(pairs: dict[str, str]) -> _Hop:
    hop = _node(pairs["for"], bare=False) if "for" in pairs else _Hop(None)
    if "proto" in pairs:
        scheme = pairs["proto"].lower()
        if scheme not in _SCHEMES:
            raise ValueError("unknown scheme")
        hop = replace(hop, secure=_SCHEMES[scheme])
    return hop

"""From the name of a SIP domain to its servers (RFC 3263), as questions and answers.

Theory of operation: :func:`locate` is a generator. It yields a question for the DNS, is sent the
answer, and finally returns the servers. How the questions are asked is up to the caller::

    sip:example.com --NAPTR--> _sip._tcp.example.com --SRV--> a.example.com:5060 --A--> 192.0.2.1

NAPTR chooses the transport, unless the name comes with one. SRV gives hosts, ports, priorities and
weights. A name with a port needs neither (§4.1, §4.2).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import Final

from ..message.transport import default_port

__all__ = ["Answer", "Location", "Naptr", "Question", "Server", "Srv", "locate"]

#: The NAPTR services and their transports.
_SERVICES: Final = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
#: The prefix of each transport's SRV records.
_PREFIXES: Final = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}
#: The transports to try without NAPTR records, in this order (§4.1).
_TRANSPORTS: Final = ("tls", "tcp", "udp")


@dataclass(frozen=True, slots=True)
class Question:
    """A question for the DNS.

    Args:
        name: The name.
        kind: ``NAPTR``, ``SRV``, ``A`` or ``AAAA``.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Naptr:
    """A NAPTR record (RFC 3403 §4.1).

    Args:
        order: The lowest is used first.
        preference: Among equal orders, the lowest is used first.
        flags: ``s`` if the record leads to SRV records.
        service: For example ``SIP+D2T``.
        replacement: The next name to query.
    """

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record (RFC 2782).

    Args:
        priority: The lowest is used first.
        weight: The share among equal priorities.
        port: The port.
        target: The host; ``.`` if the service is not offered.
    """

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the DNS.

    Args:
        records: Records of the requested kind, addresses as text; may be empty.
        ttl: Seconds for which it is valid.
    """

    records: Sequence[Naptr | Srv | str] = ()
    ttl: float = inf


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a domain.

    Args:
        address: Its IP address.
        port: Its port.
        transport: ``udp``, ``tcp`` or ``tls``.
        priority: The lowest is used first.
        weight: The share among equal priorities.
        host: The name that led to the address.
    """

    address: str
    port: int
    transport: str
    priority: int
    weight: int
    host: str


@dataclass(frozen=True, slots=True)
class Location:
    """The servers of a domain.

    Args:
        servers: The servers, the preferred one first.
        ttl: Seconds for which this is valid.
    """

    servers: tuple[Server, ...]
    ttl: float


def locate(
    host: str,
    port: int | None = None,
    transport: str | None = None,
    *,
    kinds: Sequence[str] = ("A", "AAAA"),
) -> Generator[Question, Answer, Location]:
    """Find the servers of a domain.

    Args:
        host: The name, or an IP address, which needs no query.
        port: The port, if one is given.
        transport: ``udp``, ``tcp`` or ``tls``, if one is given; ``tls`` for ``sips``.
        kinds: The usable kinds of addresses, the preferred one first.

    Yields:
        Questions; send the answer to each.
    """
    name = host.strip("[]").rstrip(".")
    search = _Search(kinds)
    if _is_address(name) or port is not None:
        transport = transport or "udp"
        record = Srv(0, 1, default_port(transport) if port is None else port, name)
        yield from search.addresses(record, transport)
        return search.location()
    wanted = _TRANSPORTS if transport is None else (transport,)
    for service, domain in (yield from search.services(name, wanted)):
        yield from search.records(domain, service)
        if search.servers:
            return search.location()
    # Neither NAPTR nor SRV led anywhere: resolve the name itself.
    transport = transport or "udp"
    yield from search.addresses(Srv(0, 1, default_port(transport), name), transport)
    return search.location()


class _Search:
    """The state of a search."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.servers: list[Server] = []
        self._kinds = kinds
        self._ttl = inf

    def location(self) -> Location:
        """Return the servers found so far."""
        servers = sorted(self.servers, key=lambda server: server.priority)
        return Location(tuple(servers), self._ttl)

    def _ask(
        self, name: str, kind: str
    ) -> Generator[Question, Answer, Sequence[Naptr | Srv | str]]:
        answer = yield Question(name, kind)
        self._ttl = min(self._ttl, answer.ttl)
        return answer.records

    def services(
        self, name: str, wanted: Sequence[str]
    ) -> Generator[Question, Answer, list[tuple[str, str]]]:
        """Find the offered transports, the preferred one first, and their SRV names."""
        found: list[tuple[str, str]] = []
        # A given transport leaves nothing for NAPTR to choose.
        if len(wanted) > 1:
            records = yield from self._ask(name, "NAPTR")
            naptrs = [record for record in records if isinstance(record, Naptr)]
            for record in sorted(naptrs, key=lambda item: (item.order, item.preference)):
                transport = _SERVICES.get(record.service.upper())
                if transport is not None and record.flags.lower() == "s":
                    found.append((transport, record.replacement.rstrip(".")))
        return found or [(transport, _PREFIXES[transport] + name) for transport in wanted]

    def records(self, domain: str, transport: str) -> Generator[Question, Answer, None]:
        """Find the servers named by SRV records."""
        records = yield from self._ask(domain, "SRV")
        for record in records:
            if isinstance(record, Srv) and record.target.rstrip("."):
                yield from self.addresses(record, transport)

    def addresses(self, record: Srv, transport: str) -> Generator[Question, Answer, None]:
        """Find the addresses of a server; each can be tried (§4.2)."""
        host = record.target.rstrip(".")
        addresses = [host]
        if not _is_address(host):
            addresses = []
            for kind in self._kinds:
                found = yield from self._ask(host, kind)
                addresses += [address for address in found if isinstance(address, str)]
        self.servers += [
            Server(address, record.port, transport, record.priority, record.weight, host)
            for address in addresses
        ]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

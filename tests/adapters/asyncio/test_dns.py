"""DNS look-ups: with a table as the resolver, and with dnspython and a local name server."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.peers._support import run
from wsproto_sip.adapters.asyncio.dns import DnsResolver, find
from wsproto_sip.sip.rules.location import Answer, Naptr, Question, Server, Srv

from .._sip import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

dns_message = pytest.importorskip("dns.message", reason="needs dnspython (the extra dns)")
dns_rrset = pytest.importorskip("dns.rrset")
dns_rcode = pytest.importorskip("dns.rcode")

ZONE = {
    ("example.test.", "NAPTR"): [
        '20 50 "s" "SIP+D2U" "" _sip._udp.example.test.',
        '10 50 "S" "SIP+D2T" "" _sip._tcp.example.test.',
    ],
    ("_sip._tcp.example.test.", "SRV"): ["1 10 5070 core.example.test."],
    ("core.example.test.", "A"): ["192.0.2.1"],
    ("core.example.test.", "AAAA"): ["2001:db8::1"],
}
LOCATED = (
    Server("192.0.2.1", 5070, "tcp", 1, 10, "core.example.test"),
    Server("2001:db8::1", 5070, "tcp", 1, 10, "core.example.test"),
)


class NameServer(asyncio.DatagramProtocol):
    """Answers from the zone; other names do not exist."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns_message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), question.rdtype.name
        response = dns_message.make_response(query)
        if name == "broken.test.":
            response.set_rcode(dns_rcode.SERVFAIL)
        elif records := ZONE.get((name, kind)):
            response.answer.append(dns_rrset.from_text(name, 300, "IN", kind, *records))
        elif not any(known == name for known, _ in ZONE):
            response.set_rcode(dns_rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(NameServer, (HOST, 0))
    try:
        yield transport.get_extra_info("sockname")[:2]
    finally:
        transport.close()


def test_domain_leads_to_its_servers() -> None:
    async def scenario() -> None:
        async with name_server() as where:
            resolver = DnsResolver(nameservers=[where])
            location = await find(resolver, "example.test")
            assert location.servers == LOCATED
            assert location.ttl == 300.0

    run(scenario())


def test_records_and_their_absence_are_reported() -> None:
    async def scenario() -> None:
        async with name_server() as where:
            resolver = DnsResolver(nameservers=[where])
            answer = await resolver.ask(Question("example.test", "NAPTR"))
            # In any order.
            assert Naptr(10, 50, "S", "SIP+D2T", "_sip._tcp.example.test.") in answer.records
            answer = await resolver.ask(Question("_sip._tcp.example.test", "SRV"))
            assert answer == Answer([Srv(1, 10, 5070, "core.example.test.")], 300.0)
            for name in ("nowhere.test", "core.example.test"):
                assert await resolver.ask(Question(name, "SRV")) == Answer((), 60.0)
            with pytest.raises(OSError, match=r"A of broken\.test: "):
                await resolver.ask(Question("broken.test", "A"))
            with pytest.raises(OSError, match=r"no server of nowhere\.test is known"):
                await find(resolver, "nowhere.test")

    run(scenario())


def test_address_needs_no_resolver() -> None:
    class Unresolved:
        async def ask(self, question: Question) -> Answer:
            raise AssertionError(question)

    async def scenario() -> None:
        location = await find(Unresolved(), "192.0.2.1", transport="tls")
        assert location.servers == (Server("192.0.2.1", 5061, "tls", 0, 1, "192.0.2.1"),)

    run(scenario())


def test_missing_dnspython_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(ImportError, match=r"wsproto-sip\[dns\]"):
        DnsResolver()


def test_name_servers_of_the_machine_are_the_default() -> None:
    assert DnsResolver(timeout=1.0)._resolver.lifetime == 1.0

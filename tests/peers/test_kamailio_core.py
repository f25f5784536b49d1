"""The edge in front of Debian's Kamailio, a registrar and proxy: two telephones on WebSockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.adapters._sip import EdgeServer, SocketPhone, call, phone, serving
from tests.peers._support import run
from tests.sip._phones import SDP
from wsproto_sip.sip.edge.config import EdgeMode

from ._kamailio import DOMAIN, Kamailio, in_front_of, kamailio, needs_kamailio, password

pytestmark = needs_kamailio

#: As long as a browser's: with UDP it is sent over TCP if possible.
LONG = SDP + b"a=candidate:1 1 udp 1 192.0.2.2 9 typ host\r\n" * 50
SECRET = {"digest": True}


@pytest.fixture(scope="module")
def core() -> Iterator[Kamailio]:
    with kamailio() as running:
        yield running


@pytest.fixture(scope="module")
def asking() -> Iterator[Kamailio]:
    with kamailio(digest=True) as running:
        yield running


@pytest.fixture(params=["udp", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(EdgeMode), ids=lambda mode: mode.value)
def mode(request: pytest.FixtureRequest) -> EdgeMode:
    chosen = request.param
    assert isinstance(chosen, EdgeMode)
    return chosen


@asynccontextmanager
async def two(
    core: Kamailio, transport: str, mode: EdgeMode = EdgeMode.OUTBOUND, **options: Any
) -> AsyncIterator[tuple[EdgeServer, SocketPhone, SocketPhone]]:
    """Register alice and bob with Kamailio through an edge."""
    async with (
        serving(in_front_of(core, transport, mode)) as running,
        phone(running.url, "alice", password=password("alice"), **options) as alice,
        phone(running.url, "bob", password=password("bob"), **options) as bob,
    ):
        try:
            yield running, alice, bob
        finally:
            for one in (alice, bob):
                await one.register(expires=0)


def test_register_message_and_unregister(core: Kamailio, transport: str, mode: EdgeMode) -> None:
    async def scenario() -> None:
        async with two(core, transport, mode) as (running, alice, bob):
            text = "Grüße, 世界 🙂".encode()
            for one, other in ((alice, bob), (bob, alice)):
                one.send("MESSAGE", other.aor, ("Content-Type", "text/plain"), body=text)
                message = await other.request("MESSAGE")
                assert (message.body, str(message.uri)) == (text, other.contact)
                other.answer(message, 202)
                await one.response(202)
            assert (await alice.ask("MESSAGE", f"sip:nobody@{DOMAIN}")).status == 404
            assert (await bob.register(expires=0)).status == 200
            assert (await alice.ask("MESSAGE", bob.aor)).status == 404
            assert not running.edge.transactions or transport == "udp"

    run(scenario())


@pytest.mark.parametrize("body", [SDP, LONG], ids=["short", "long"])
def test_calls_in_both_directions(
    core: Kamailio, transport: str, mode: EdgeMode, body: bytes
) -> None:
    """INVITE, 200, ACK, INFO both ways, and BYE from either side."""

    async def scenario() -> None:
        async with two(core, transport, mode) as (_, alice, bob):
            for caller, callee, first in ((alice, bob, True), (bob, alice, False)):
                here, there = await call(caller, callee, body=body)
                for side, other in ((here, callee), (there, caller)):
                    side.send("INFO", body=b"5")
                    other.answer(await other.request("INFO"), 200)
                    await side.phone.response(200)
                side, other = (here, callee) if first else (there, caller)
                side.send("BYE")
                other.answer(await other.request("BYE"), 200)
                await side.phone.response(200)

    run(scenario())


def test_call_is_cancelled(core: Kamailio, transport: str, mode: EdgeMode) -> None:
    async def scenario() -> None:
        async with two(core, transport, mode) as (_, alice, bob):
            invite = alice.send("INVITE", bob.aor, body=LONG)
            ringing = await bob.request("INVITE")
            bob.answer(ringing, 180)
            await alice.response(180)
            alice.follow("CANCEL", invite)
            bob.answer(await bob.request("CANCEL"), 200)
            assert (await alice.response(200)).cseq.method == "CANCEL"
            bob.answer(ringing, 487)
            await bob.request("ACK")
            refused = await alice.response(487)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())


@pytest.mark.parametrize("status", [486, 603])
def test_call_is_refused(core: Kamailio, transport: str, status: int) -> None:
    async def scenario() -> None:
        async with two(core, transport) as (_, alice, bob):
            invite = alice.send("INVITE", bob.aor, body=SDP)
            bob.answer(await bob.request("INVITE"), status)
            await bob.request("ACK")
            refused = await alice.response(status)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())


def test_upstream_challenges_users(asking: Kamailio, transport: str) -> None:
    async def scenario() -> None:
        async with two(asking, transport) as (running, alice, bob):
            alice.send("MESSAGE", bob.aor, body=b"?")
            challenge = await alice.response(407)
            proof = alice.credentials(challenge, "MESSAGE", bob.aor)
            alice.send("MESSAGE", bob.aor, proof, body=b"!", cseq=2)
            message = await bob.request("MESSAGE")
            assert message.body == b"!"
            bob.answer(message, 200)
            await alice.response(200)
            async with phone(running.url, "alice", registers=False, password="wrong") as mallory:
                assert (await mallory.register()).status == 401

    run(scenario())


def test_outbound_client_has_one_binding(core: Kamailio, transport: str) -> None:
    """An instance's reg-id has one binding, however often it connects (RFC 5626)."""

    async def scenario() -> None:
        instance = "urn:uuid:00000000-0000-1000-8000-0000000000aa"
        async with serving(in_front_of(core, transport)) as running:
            async with phone(running.url, "carol", outbound=instance) as carol:
                number = carol.cid
                answer = await carol.register()
                assert "outbound" in answer.tokens("require")
                # The connection ends without notice to the registrar.
                await carol.hang_up()
            async with phone(running.url, "dave") as dave:
                # The flow has failed, and no other binding exists.
                assert (await dave.ask("MESSAGE", f"sip:carol@{DOMAIN}")).status in (430, 480)
                async with phone(running.url, "carol", outbound=instance, number=number) as carol:
                    dave.send("MESSAGE", carol.aor, body=b"again")
                    message = await carol.request("MESSAGE")
                    carol.answer(message, 200)
                    await dave.response(200)

    run(scenario())

"""The SIP edge on asyncio: telephones on sockets of this machine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.peers._support import run
from wsproto_sip.events import Ping
from wsproto_sip.server.endpoint_events import Closed
from wsproto_sip.sip.edge_config import STREAM, EdgeMode

from ._endpoint import CLIENT_TLS, SERVER_TLS
from ._msrp import until
from ._sip import CONFIG, HOST, Core, call, phone, serving

MODES = list(EdgeMode)


@pytest.mark.parametrize("mode", MODES)
def test_two_telephones_message_and_call_each_other(mode: EdgeMode) -> None:
    async def scenario() -> None:
        async with (
            serving(replace(CONFIG, mode=mode)) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            for one, other in ((alice, bob), (bob, alice)):
                one.send("MESSAGE", other.aor, body="Grüße".encode())
                message = await other.request("MESSAGE")
                assert message.body == "Grüße".encode()
                other.answer(message, 200)
                await one.response(200)
            here, there = await call(alice, bob)
            for side, other in ((here, bob), (there, alice)):
                side.send("INFO", body=b"5")
                other.answer(await other.request("INFO"), 200)
                await (alice if other is bob else bob).response(200)
            there.send("BYE")
            alice.answer(await alice.request("BYE"), 200)
            await bob.response(200)

    run(scenario())


def test_over_tls() -> None:
    async def scenario() -> None:
        async with (
            serving(tls=SERVER_TLS) as running,
            phone(running.url, "alice", tls=CLIENT_TLS) as alice,
            phone(running.url, "bob", tls=CLIENT_TLS) as bob,
        ):
            await call(alice, bob)

    run(scenario())


def test_who_hangs_up_is_gone() -> None:
    async def scenario() -> None:
        async with serving() as running, phone(running.url, "alice") as alice:
            async with phone(running.url, "bob") as bob:
                alice.send("INVITE", bob.aor)
                await bob.request("INVITE")
                await bob.hang_up()
                await alice.response(480)
            assert (await alice.ask("MESSAGE", bob.aor)).status == 404

    run(scenario())


def test_time_passes() -> None:
    """A call that nobody answers ends, by the service's own timer."""

    async def scenario() -> None:
        short = replace(CONFIG, t1=0.001, t2=0.001, t4=0.001, ring_timeout=0.1)
        async with (
            serving(short) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            alice.send("INVITE", bob.aor)
            invite = await bob.request("INVITE")
            await alice.response(408)
            # Early, which does nothing but to look for the next deadline.
            running.service.wake()
            bob.answer(invite, 486)
            await bob.request("ACK")
            await until(lambda: not running.edge.transactions)

    run(scenario())


def test_what_does_not_speak_sip_is_not_taken() -> None:
    async def scenario() -> None:
        async with serving() as running:
            assert not running.service.handle(7, Ping())
            async with connect(
                running.url, subprotocols=[Subprotocol("msrp")], proxy=None
            ) as websocket:
                await websocket.send("MESSAGE sip:bob@sip.test SIP/2.0\r\n\r\n")
            await until(lambda: any(type(event) is Closed for event in running.passed_over))
            running.passed_over.clear()
            async with phone(running.url, "alice") as alice:
                alice.say("\r\n\r\n")
                assert await alice.text() == "\r\n"
            await until(lambda: not running.edge.connections)
            assert not running.passed_over

    run(scenario())


# -- with an upstream ------------------------------------------------------------------------------


def test_an_upstream_over_udp() -> None:
    async def scenario() -> None:
        core = Core("udp")
        async with (
            core.datagrams() as send,
            serving(core.config) as running,
            phone(running.url, "alice") as alice,
        ):
            register = core.requests[0]
            assert register.method == "REGISTER"
            path = register.paths[0].sip_uri
            assert (path.host, path.port) == (HOST, core.upstream.local_port)
            assert "lr" in path.params
            assert "ob" in path.params
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert core.requests[-1].body == b"there"
            # What stands behind the body of a datagram is no part of it.
            send(core.request(alice, "UDP", body=b"back") + b"!")
            message = await alice.request("MESSAGE")
            assert message.body == b"back"
            alice.answer(message, 202)
            await until(lambda: core.responses)
            assert (core.responses[0].status, core.responses[0].via.rport) == (202, core.port)

    run(scenario())


def test_an_upstream_over_tcp() -> None:
    """Which is answered on the connection on which it has asked."""

    async def scenario() -> None:
        core = Core("tcp")
        async with (
            await asyncio.start_server(core.attach, HOST, core.port),
            serving(core.config) as running,
            phone(running.url, "alice") as alice,
        ):
            there = HOST, core.upstream.local_port
            reader, writer = await asyncio.open_connection(*there)
            for part in (request := core.request(alice, "TCP"))[:90], request[90:]:
                writer.write(part)
            message = await alice.request("MESSAGE")
            alice.answer(message, 202)
            assert (await reader.readuntil(b"\r\n")) == b"SIP/2.0 202 Accepted\r\n"
            # What cannot be framed ends that connection, and no other.
            writer.write(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
            await reader.read()
            writer.close()
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)

    run(scenario())


def test_a_large_request_to_an_upstream_over_udp() -> None:
    """It goes over TCP, and as a datagram where nobody listens there."""

    async def scenario() -> None:
        core = Core("udp")
        async with (
            core.datagrams(),
            serving(core.config, service={"pauses": (1000.0, 1000.0)}) as running,
            phone(running.url, "alice") as alice,
        ):
            for via in ("TCP", "UDP", "UDP"):
                listener = None
                if via == "TCP":
                    listener = await asyncio.start_server(core.attach, HOST, core.port)
                alice.send("MESSAGE", "sip:core@sip.test", body=bytes(2000))
                await alice.response(200)
                message = core.requests[-1]
                assert (message.via.transport, len(message.body)) == (via, 2000)
                if listener is not None:
                    listener.close()
                    links = running.service._links
                    assert links is not None
                    links.reset(STREAM, "the core is tired")

    run(scenario())


def test_an_upstream_that_is_not_there() -> None:
    async def scenario() -> None:
        core = Core("tcp")
        async with (
            serving(core.config) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            assert (await alice.register()).status == 500
            # And nobody waits for it any more.
            await until(lambda: not running.edge.transactions)
            running.service.settle()

    run(scenario())


def test_closing_twice_does_no_harm() -> None:
    async def scenario() -> None:
        async with serving() as running, phone(running.url, "alice"):
            await running.service.close()
        async with serving() as running:
            # Nothing was ever due.
            running.service.wake()

    run(scenario())

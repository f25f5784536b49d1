"""The edge in front of two Kamailios, one of which dies, and in front of one over TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.adapters._msrp import until
from tests.adapters._sip import CONFIG, HOST, call, free_port, phone, serving
from tests.peers._support import run
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip.edge.config import EdgeConfig, Probing, Upstream
from wsproto_sip.sip.registrar.domains import Domains

from ._kamailio import DOMAIN, kamailio, needs_kamailio, needs_kamailio_tls
from ._sipp import call_out, called_party, needs_sipp, register_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.adapters._sip import EdgeServer

pytestmark = needs_kamailio

#: Calls in each part of the test.
CALLS = 3


@needs_sipp
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_calls_fail_over_to_the_other_kamailio_and_back(transport: str, tmp_path: Path) -> None:
    """No call is lost: the caller and sipp count the same number."""

    async def scenario(stack: ExitStack, first: ExitStack) -> None:
        ports = {"one": free_port(), "two": free_port()}
        core = await asyncio.to_thread(first.enter_context, kamailio(port=ports["one"]))
        await asyncio.to_thread(stack.enter_context, kamailio(port=ports["two"]))
        local = free_port()
        upstreams = tuple(
            Upstream(name, HOST, port, HOST, local, transport, None, priority=index)
            for index, (name, port) in enumerate(ports.items())
        )
        config = EdgeConfig(
            "edge.test",
            Domains((DOMAIN,)),
            upstreams=upstreams,
            # Its death is reported by the network; one that is only slow stays in service.
            probing=Probing(0.5, timeout=0.4, dead_after=10),
            # One caller without a password keeps calling one callee.
            callee_requests_per_second=ShareConfig(1000, reserve=0),
        )
        async with (
            called_party(3 * CALLS, tmp_path) as called,
            serving(config, service={"pauses": (0.05, 0.1)}) as running,
            phone(running.url, "alice", domain=DOMAIN, registers=False) as alice,
        ):
            states = running.application.endpoint.statistics.upstreams

            async def calls(upstream: str) -> None:
                before = {name: state.requests for name, state in states.items()}
                for _ in range(CALLS):
                    await call_out(alice)
                # INVITE, INFO and BYE of each call, without ACK.
                assert states[upstream].requests - before[upstream] == 3 * CALLS

            for port in ports.values():
                await asyncio.to_thread(register_at, port, called)
            await calls("one")
            core.kill()
            await asyncio.to_thread(first.close)
            # Its death is noticed by the first INVITE, or by a probe.
            await calls("two")
            await until(lambda: not states["one"].in_service)
            await asyncio.to_thread(first.enter_context, kamailio(port=ports["one"]))
            await asyncio.to_thread(register_at, ports["one"], called)
            await until(lambda: states["one"].in_service)
            await calls("one")

    with ExitStack() as stack, ExitStack() as first:
        run(scenario(stack, first))


# -- over TLS --------------------------------------------------------------------------------------


@asynccontextmanager
async def in_front_of_tls(
    scratch: Path, *, trusts: trustme.CA | None = None, name: str = "core.test"
) -> AsyncIterator[EdgeServer]:
    """Configure an edge whose upstream is a Kamailio with a certificate for core.test."""
    authority = trustme.CA()
    files = {part: scratch / f"{part}.pem" for part in ("chain", "key", "ca")}
    issued = authority.issue_cert("core.test")
    issued.private_key_pem.write_to_path(str(files["key"]))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(files["chain"]), append=True)
    authority.cert_pem.write_to_path(str(files["ca"]))
    client = ssl.create_default_context()
    client.check_hostname = False
    (trusts or authority).configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own = authority.issue_cert("edge.test")
    for context in (client, server):
        own.configure_cert(context)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    tls = free_port()
    upstream = Upstream("core", HOST, tls, HOST, free_port(), "tls", tls_name=name)
    config = replace(CONFIG, upstreams=(upstream,))
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, kamailio(tls=(tls, files)))
        options = {"client_tls": client, "server_tls": server, "pauses": (0.05, 0.1)}
        async with serving(config, service=options) as running:
            yield running


@needs_kamailio_tls
def test_calls_over_tls(tmp_path: Path) -> None:
    """Kamailio opens a connection of its own to send to the clients, with its certificate."""

    async def scenario() -> None:
        async with (
            in_front_of_tls(tmp_path) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            here, there = await call(alice, bob)
            for side, other in ((here, bob), (there, alice)):
                side.send("INFO", body=b"5")
                other.answer(await other.request("INFO"), 200)
                await (alice if other is bob else bob).response(200)
            there.send("BYE")
            alice.answer(await alice.request("BYE"), 200)
            await bob.response(200)
            links = running.service._links
            assert links is not None
            # Its connection, in addition to ours.
            assert len(links._servers["core"]._streams) >= 2

    run(scenario())


@needs_kamailio_tls
@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_kamailio_with_a_wrong_certificate_is_refused(
    wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        trusts = trustme.CA() if wrong == "authority" else None
        name = "other.test" if wrong == "name" else "core.test"
        async with (
            in_front_of_tls(tmp_path, trusts=trusts, name=name) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            assert (await alice.register()).status == 503

    run(scenario())
    reason = {"authority": "verify failed", "name": "the certificate is not for the upstream"}
    assert reason[wrong] in caplog.text

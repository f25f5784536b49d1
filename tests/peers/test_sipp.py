"""The edge in front of sipp, over UDP, as the called party."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.adapters._sip import CONFIG, HOST, SocketPhone, free_port, phone, serving
from tests.peers._support import run
from tests.sip._phones import SDP
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream

from ._sipp import CALLED, answered, call_out, called_party, needs_sipp

pytestmark = needs_sipp


@asynccontextmanager
async def caller(
    scenario: str, scratch: Path, mode: EdgeMode = EdgeMode.OUTBOUND
) -> AsyncIterator[SocketPhone]:
    """Run a telephone on an edge whose upstream is a sipp, which checks what it receives."""
    port = free_port()
    config = EdgeConfig(
        "edge.test",
        CONFIG.domains,
        mode=mode,
        upstreams=(Upstream("sipp", HOST, port, HOST, free_port()),),
    )
    async with (
        serving(config) as running,
        phone(running.url, "alice", registers=False) as alice,
        # What it waits for at the end comes by the edge.
        called_party(1, scratch, scenario, port=port),
    ):
        yield alice


@pytest.mark.parametrize("mode", list(EdgeMode))
@pytest.mark.parametrize("body", [SDP, SDP * 50], ids=["short", "long"])
def test_caller_hangs_up(mode: EdgeMode, body: bytes, tmp_path: Path) -> None:
    """Also with an INVITE that is too large for a datagram: the peer does not listen for TCP."""

    async def scenario() -> None:
        async with caller("is_hung_up_on", tmp_path, mode) as alice:
            await call_out(alice, body)

    run(scenario())


@pytest.mark.parametrize("mode", list(EdgeMode))
def test_called_party_hangs_up(mode: EdgeMode, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("hangs_up", tmp_path, mode) as alice:
            await answered(alice)
            alice.answer(await alice.request("BYE"), 200)

    run(scenario())


def test_busy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("is_busy", tmp_path) as alice:
            invite = alice.send("INVITE", CALLED, body=SDP)
            refused = await alice.response(486)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())


def test_cancelled_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("is_given_up", tmp_path) as alice:
            invite = alice.send("INVITE", CALLED, body=SDP)
            await alice.response(180)
            alice.follow("CANCEL", invite)
            assert (await alice.response(200)).cseq.method == "CANCEL"
            refused = await alice.response(487)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())

"""The edge in front of sipp, over UDP, as the called party."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.adapters._sip import CONFIG, HOST, SocketPhone, free_port, phone, serving
from tests.peers._support import run
from tests.sip._phones import SDP, Dialog
from wsproto_sip.sip import SipRequest
from wsproto_sip.sip.edge_config import EdgeConfig, EdgeMode, Upstream

SIPP = shutil.which("sipp")
SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "sipp"
CALLED = "sip:called@sip.test"

pytestmark = pytest.mark.skipif(SIPP is None, reason="needs sipp (Debian: sip-tester)")


@asynccontextmanager
async def caller(
    scenario: str, scratch: Path, mode: EdgeMode = EdgeMode.OUTBOUND
) -> AsyncIterator[SocketPhone]:
    """A telephone on an edge whose upstream is a sipp, which has to see what it expects."""
    assert SIPP is not None
    port = free_port()
    config = EdgeConfig(
        "edge.test",
        CONFIG.domains,
        mode=mode,
        upstream=Upstream("sipp", HOST, port, HOST, free_port()),
    )
    process = await asyncio.create_subprocess_exec(
        *(SIPP, "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", HOST, "-p", str(port)),
        *("-m", "1", "-nostdin", "-timeout", "30s", "-timeout_error"),
        cwd=scratch,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with (
            serving(config) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            yield alice
            said, _ = await process.communicate()
            assert process.returncode == 0, said.decode(errors="replace")[-3000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def answered(alice: SocketPhone, body: bytes) -> tuple[Dialog[SocketPhone], SipRequest]:
    invite = alice.send("INVITE", CALLED, ("Content-Type", "application/sdp"), body=body)
    await alice.response(180)
    ok = await alice.response(200)
    assert ok.body.startswith(b"v=0")
    dialog = Dialog(alice, invite, ok, caller=True)
    dialog.send("ACK")
    return dialog, invite


@pytest.mark.parametrize("mode", list(EdgeMode))
@pytest.mark.parametrize("body", [SDP, SDP * 50], ids=["short", "long"])
def test_the_caller_hangs_up(mode: EdgeMode, body: bytes, tmp_path: Path) -> None:
    """Also with an INVITE that is too large for a datagram: nobody listens for TCP there."""

    async def scenario() -> None:
        async with caller("is_hung_up_on", tmp_path, mode) as alice:
            dialog, _ = await answered(alice, body)
            for method in ("INFO", "BYE"):
                dialog.send(method)
                await alice.response(200)

    run(scenario())


@pytest.mark.parametrize("mode", list(EdgeMode))
def test_the_called_party_hangs_up(mode: EdgeMode, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("hangs_up", tmp_path, mode) as alice:
            await answered(alice, SDP)
            alice.answer(await alice.request("BYE"), 200)

    run(scenario())


def test_busy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("is_busy", tmp_path) as alice:
            invite = alice.send("INVITE", CALLED, body=SDP)
            refused = await alice.response(486)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())


def test_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("is_given_up", tmp_path) as alice:
            invite = alice.send("INVITE", CALLED, body=SDP)
            await alice.response(180)
            alice.follow("CANCEL", invite)
            assert (await alice.response(200)).cseq.method == "CANCEL"
            refused = await alice.response(487)
            alice.follow("ACK", invite, to=str(refused.to))

    run(scenario())

"""The page of ``wsproto-sip serve`` and telephones of other pages: JsSIP and SIP.js."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli._service import launched

from ._browser import browser as others, installed, missing
from ._support import run
from .test_page import BOUND, telephones

if TYPE_CHECKING:
    from pathlib import Path

    from ._browser import Phone

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

#: The page uses the server's name as the domain.
DOMAIN = "127.0.0.1"


@pytest.fixture(scope="module")
def modules() -> Path:
    return installed()


@pytest.mark.parametrize("kind", ["jssip", "sipjs"])
def test_calls_both_ways_with_hold_and_messages(tmp_path: Path, modules: Path, kind: str) -> None:
    async def scenario(url: str, bob: Phone) -> None:
        async def tell(call: str, *arguments: Any) -> Any:
            return await asyncio.to_thread(bob.tell, call, *arguments)

        async def until(*events: str) -> Any:
            return await asyncio.to_thread(bob.until, *events)

        await tell("connect")
        assert (await tell("register"))["status"] == 200
        async with telephones(tmp_path, url) as (_, [alice]):
            await alice.registered("alice", "bob")
            await alice.write("Grüße")
            assert (await until("message"))["text"] == "Grüße"
            assert (await tell("message", "alice", "back"))["status"] == 200
            await alice.logged("back")

            await alice.press("Call")
            await until("incoming")
            await tell("answer")
            assert (await until("confirmed", "failed"))["event"] == "confirmed"
            await alice.call("bob", "Connected")
            await alice.counts(20)
            for button, event in (("Hold", "held"), ("Resume", "resumed")):
                await asyncio.to_thread(bob.read)
                await alice.press(button)
                await until(event)
                # A library reports an offer before its answer is acknowledged.
                await asyncio.to_thread(bob.hear, "^ACK ")
            await tell("hold")
            await alice.call("bob", "bob has put you on hold")
            await tell("resume")
            await alice.call("bob", "Connected")
            await alice.press("Hang up")
            assert (await until("ended"))["by"] == "remote"

            await tell("call", "alice")
            await alice.press("Answer")
            assert (await until("confirmed", "failed"))["event"] == "confirmed"
            await alice.call("bob", "Connected")
            await tell("hangUp")
            await until("ended")
            await alice.idle()
        await tell("leave")

    with launched() as service, others(modules) as found:
        phone = found.phone(kind, "bob", url=service.url, domain=DOMAIN, password="", outbound=True)
        run(scenario(service.url, phone), bound=BOUND)

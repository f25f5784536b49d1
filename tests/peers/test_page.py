"""The page of ``wsproto-sip serve`` in two tabs of a headless Chromium."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli._service import Service, launched

from ._support import run
from ._tabs import Browser, Tab, browser
from .test_chromium import CHROMIUM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


class Telephone:
    """The page in a tab."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    async def fill(self, **values: str) -> None:
        for name, value in values.items():
            await self.tab.run(f"document.getElementById({name!r}).value = {value!r}")

    async def press(self, name: str) -> None:
        await self.tab.until(f"!document.getElementById({name!r}).closest('[hidden]')")
        await self.tab.run(f"document.getElementById({name!r}).click()")

    async def enter(self, user: str, peer: str, password: str = "") -> None:
        await self.fill(user=user, peer=peer, password=password)
        await self.press("enter")

    async def state(self, text: str) -> None:
        await self.tab.until(f"document.getElementById('state').textContent.startsWith({text!r})")

    async def progress(self, text: str) -> None:
        # What was said of an earlier call still stands there, unseen.
        await self.tab.until(
            "!document.getElementById('call').hidden && "
            f"document.getElementById('progress').textContent === {text!r}"
        )

    async def idle(self) -> None:
        await self.tab.until("document.getElementById('call').hidden")

    async def logged(self, text: str) -> None:
        """Waits until the last line of the log says so."""
        await self.tab.until(
            f"(document.querySelector('#log li:last-child') || {{}}).textContent === {text!r}"
        )

    async def write(self, text: str) -> None:
        await self.fill(text=text)
        await self.press("send")

    async def counts(self, least: int) -> None:
        """Waits until so many RTP packets went out and came in."""
        pattern = r"/(\d+) sent, (\d+) received/.exec(document.getElementById('count').textContent)"
        await self.tab.until(f"({pattern} || []).slice(1).filter((n) => n >= {least}).length === 2")


@asynccontextmanager
async def telephones(profile: Path, *urls: str) -> AsyncIterator[tuple[Browser, list[Telephone]]]:
    async with browser(profile) as found:
        tabs = [Telephone(await found.open(url.replace("ws", "http", 1))) for url in urls]
        yield found, tabs
        assert found.complaints == []


def on_two_tabs(
    profile: Path,
    scenario: Callable[[Telephone, Telephone], Awaitable[None]],
    *flags: str,
) -> None:
    async def bounded(service: Service) -> None:
        async with telephones(profile, service.url, service.url) as (_, [alice, bob]):
            await scenario(alice, bob)

    with launched(*flags) as service:
        run(bounded(service))


@pytest.mark.parametrize("mode", ["outbound", "alias"])
def test_two_tabs_message_and_call_each_other(tmp_path: Path, mode: str) -> None:
    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await alice.enter("alice", "bob")
        await bob.enter("bob", "alice")
        await alice.state("registered")
        await bob.state("registered")
        await alice.write("Grüße, 世界 🎉")
        await bob.logged("aliceGrüße, 世界 🎉")
        await bob.write("<b>back</b>")
        await alice.logged("bob<b>back</b>")

        await alice.press("dial")
        await alice.progress("Ringing at bob")
        await bob.progress("Call from alice")
        await bob.press("answer")
        await alice.progress("In a call with bob")
        await bob.progress("In a call with alice")
        await alice.counts(20)
        await bob.counts(20)
        await alice.press("end")
        await bob.logged("alicethe other side has hung up")
        await alice.idle()

        # The other way, with a picture, and hung up by who was called.
        await bob.tab.run("document.getElementById('video').checked = true")
        await bob.press("dial")
        await alice.progress("Call from bob")
        await alice.press("answer")
        await bob.tab.until("document.getElementById('remote').videoWidth > 0")
        await alice.tab.until("document.getElementById('remote').videoWidth > 0")
        await alice.counts(20)
        await alice.press("end")
        await bob.logged("alicethe other side has hung up")

        await alice.press("leave")
        await alice.state("not registered")
        await bob.write("there?")
        await bob.logged("not delivered to alice: 404 Not Found")

    on_two_tabs(tmp_path, scenario, "--sip-mode", mode)


def test_calls_that_come_to_nothing(tmp_path: Path) -> None:
    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await alice.enter("alice", "bob")
        await bob.enter("bob", "alice")
        await alice.state("registered")
        await bob.state("registered")

        await alice.press("dial")
        await bob.press("end")
        await alice.logged("bob603 Decline")
        await bob.logged("alicedeclined")

        await alice.press("dial")
        await alice.progress("Ringing at bob")
        await alice.press("end")
        await bob.logged("alicecancelled")
        await alice.logged("bobcancelled")

        await alice.fill(peer="nobody")
        await alice.press("dial")
        await alice.logged("nobody404 Not Found")

        # Whoever calls himself is busy.
        await alice.fill(peer="alice")
        await alice.press("dial")
        await alice.logged("alice486 Busy Here")

        # A tab that is closed declines, if it still can.
        await alice.fill(peer="bob")
        await alice.press("dial")
        await bob.progress("Call from alice")
        await bob.tab.close()
        last = "document.querySelector('#log li:last-child').textContent"
        await alice.tab.until(f"/^bob(603|480) /.test({last})")

    on_two_tabs(tmp_path, scenario)


def test_passwords_and_no_microphone(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("alice:wonder land\nbob:builder\n")

    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await alice.enter("alice", "bob", "wrong")
        await alice.state("not registered: 401")
        await alice.press("leave")
        await alice.state("not registered")
        await alice.enter("alice", "bob", "wonder land")
        await bob.enter("bob", "alice", "builder")
        await alice.state("registered")
        await bob.state("registered")
        await alice.write("it is me")
        await bob.logged("aliceit is me")
        for one in (alice, bob):
            await one.tab.run(
                "navigator.mediaDevices.getUserMedia = async () => { throw new Error('none'); }"
            )
        await alice.press("dial")
        await alice.logged("no microphone or camera (none): sending a tone")
        await bob.press("answer")
        await alice.counts(20)
        await bob.counts(20)
        await bob.press("end")
        await alice.logged("bobthe other side has hung up")

    flags = ["--sip-users", str(tmp_path / "users"), "--sip-challenge", "--path", "/sip/ws"]
    on_two_tabs(tmp_path / "profile", scenario, *flags)


def test_the_server_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            with launched() as service:
                url, port = service.url, str(service.address[1])
                found, [alice, bob] = await stack.enter_async_context(
                    telephones(tmp_path, url, url)
                )
                await alice.enter("alice", "bob")
                await bob.enter("bob", "alice")
                await alice.state("registered")
                await bob.state("registered")
                await alice.press("dial")
                await bob.press("answer")
                await alice.progress("In a call with bob")
                service.process.kill()
                await alice.logged("bobthe connection was lost")
                await alice.state("no connection; next attempt in")
            with launched("--port", port):
                await alice.state("registered")
                await bob.state("registered")
                await alice.write("there again")
                await bob.logged("alicethere again")
            # Attempts while nobody was there.
            found.complaints[:] = [
                entry for entry in found.complaints if "ERR_CONNECTION" not in str(entry)
            ]

    run(scenario())

"""The page of ``wsproto-sip serve`` in tabs of a headless Chromium.

If WSPROTO_SIP_PICTURES names a directory, the last test saves a picture of each state there.
"""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli._service import Service, launched

from ._support import run
from ._tabs import Browser, Tab, browser
from .test_chromium import CHROMIUM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

#: Seconds that a scenario may take: a browser with three telephones may only get half a CPU.
BOUND = 240.0

#: The variable that names a directory for pictures.
PICTURES = "WSPROTO_SIP_PICTURES"

#: The size of a wide window, and of a telephone.
WIDE, NARROW = (1100, 760), (390, 780)

#: The position of an element with a text; hidden elements do not count.
_FIND = """\
[...document.querySelectorAll({selector})].find((element) =>
  element.checkVisibility() && (element.getAttribute('aria-label') || element.innerText)
    .trim().startsWith({text}))"""


class Telephone:
    """The page, in a tab."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    async def fill(self, **values: str) -> None:
        for name, value in values.items():
            await self.tab.run(f"document.getElementById({name!r}).value = {value!r}")

    async def press(self, text: str) -> None:
        """Press the button with a text or label, as soon as it is enabled."""
        found = _FIND.format(selector="'button:not(:disabled)'", text=json.dumps(text))
        await self.tab.until(found)
        await self.tab.run(f"{found}.click()")

    async def follow(self, user: str) -> None:
        """Agree to a transfer to a user; the history has a button with the same label."""
        found = _FIND.format(selector="'[data-do=follow]'", text=json.dumps(f"Call {user}"))
        await self.tab.until(found)
        await self.tab.run(f"{found}.click()")

    async def enter(self, user: str, peer: str, password: str = "") -> None:
        await self.fill(user=user, peer=peer, password=password)
        await self.press("Sign in")

    async def registered(self, user: str, peer: str, password: str = "") -> None:
        await self.enter(user, peer, password)
        await self.state(f"Registered as {user}")

    async def state(self, text: str) -> None:
        await self.tab.until(f"document.getElementById('state').textContent.startsWith({text!r})")

    async def call(self, user: str, progress: str) -> None:
        """Wait until a call with a user is in this state."""
        await self.tab.until(
            "[...document.querySelectorAll('.call')].some((call) => "
            f"call.querySelector('.name')?.textContent === {user!r} && "
            f"call.querySelector('.progress').textContent === {progress!r})"
        )

    async def idle(self) -> None:
        await self.tab.until("document.getElementById('calls').hidden")

    async def logged(self, text: str) -> None:
        """Wait until the last entry of the history has a text."""
        await self.tab.until(
            f"(document.querySelector('#log li:last-child') || {{}}).innerText?.includes({text!r})"
        )

    async def noticed(self, text: str) -> None:
        """Wait until a notice shows a text, also to screen readers."""
        await self.tab.until(
            "document.getElementById('notice').checkVisibility() && "
            f"document.querySelector('#notice p').textContent === {text!r} && "
            "['said', 'alarm'].some((id) => "
            f"document.getElementById(id).textContent === {text!r})"
        )

    async def write(self, text: str) -> None:
        await self.fill(text=text)
        await self.press("Send")

    async def counts(self, more: int) -> None:
        """Wait until so many more RTP packets were sent and received."""
        text = "document.getElementById('count').textContent"
        read = rf"(/(\d+) sent, (\d+) received/.exec({text}) || [0, 0, 0]).slice(1).map(Number)"
        start = await self.tab.run(read)
        await self.tab.until(f"{read}.every((count, i) => count >= {start}[i] + {more})")


@asynccontextmanager
async def telephones(profile: Path, *urls: str) -> AsyncIterator[tuple[Browser, list[Telephone]]]:
    async with browser(profile) as found:
        tabs = [Telephone(await found.open(url.replace("ws", "http", 1))) for url in urls]
        yield found, tabs
        assert found.complaints == []


def on_tabs(
    profile: Path, scenario: Callable[..., Awaitable[None]], *flags: str, tabs: int = 2
) -> None:
    async def bounded(service: Service) -> None:
        async with telephones(profile, *[service.url] * tabs) as (_, found):
            await scenario(*found)

    with launched(*flags) as service:
        run(bounded(service), bound=BOUND)


async def _talk(caller: Telephone, called: Telephone, names: tuple[str, str]) -> None:
    await caller.press("Call")
    await called.press("Answer")
    await caller.call(names[1], "Connected")
    await called.call(names[0], "Connected")


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_password_of_the_server_is_asked_for_once(tmp_path: Path, scheme: str) -> None:
    """The browser's own form for it cannot be filled in here; a URL can bring what it asks for."""
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    users.chmod(0o600)

    async def scenario(service: Service) -> None:
        url = service.url.replace("ws://", "ws://alice:secret@")
        async with telephones(tmp_path, url) as (_, (alice,)):
            await alice.registered("alice", "bob")

    with launched("--auth-file", str(users), "--auth-scheme", scheme) as service:
        run(scenario(service), bound=BOUND)


@pytest.mark.parametrize("mode", ["outbound", "alias"])
def test_two_tabs_message_and_call_each_other(tmp_path: Path, mode: str) -> None:
    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await alice.registered("alice", "bob")
        await bob.registered("bob", "alice")
        await alice.write("Grüße, 世界 🎉")
        await bob.logged("Grüße, 世界 🎉")
        await bob.write("<b>back</b>")
        await alice.logged("<b>back</b>")

        await alice.press("Call")
        await alice.call("bob", "Ringing …")
        await bob.call("alice", "Incoming call")
        await bob.tab.until("document.title.startsWith('alice is calling')")
        await bob.press("Answer")
        await alice.call("bob", "Connected")
        await bob.call("alice", "Connected")
        await alice.counts(20)
        await bob.counts(20)

        await alice.press("Mute")
        await alice.tab.until("document.querySelector('[data-do=mute][aria-pressed=true]')")
        await alice.press("Hold")
        await alice.call("bob", "On hold")
        await bob.call("alice", "alice has put you on hold")
        await alice.press("Resume")
        await bob.call("alice", "Connected")
        await alice.counts(5)

        # As RFC 4733 events if the sender supports them, and otherwise as SIP INFO.
        await alice.press("Keypad")
        await alice.press("5")
        await alice.tab.run(
            "void Object.defineProperty("
            "RTCDTMFSender.prototype, 'canInsertDTMF', {get: () => false})"
        )
        await alice.press("7")
        await bob.noticed("alice pressed 7")

        # Video, started during the call.
        await alice.press("Camera")
        await bob.tab.until("document.getElementById('remote').videoWidth > 0")
        await alice.press("Hang up")
        await bob.logged("alice called: ")
        await alice.idle()

        # In the other direction, with video, and ended by the callee.
        await bob.press("Video call")
        await alice.press("Video: ")
        for one in (alice, bob):
            await one.tab.until("document.getElementById('remote').videoWidth > 0")
        await alice.counts(20)
        await alice.press("Hang up")
        await bob.idle()

        # The history is still there after a reload.
        before = await bob.tab.run("document.getElementById('log').innerText")
        await bob.tab.reload()
        await bob.registered("bob", "alice")
        assert await bob.tab.run("document.getElementById('log').innerText") == before

        await alice.press("Sign out")
        await alice.state("Not registered")
        await bob.write("there?")
        await bob.noticed("Not delivered: alice is not registered")
        assert await bob.tab.run("document.getElementById('text').value") == "there?"

    on_tabs(tmp_path, scenario, "--sip-mode", mode)


def test_unsuccessful_calls(tmp_path: Path) -> None:
    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await alice.registered("alice", "bob")
        await bob.registered("bob", "alice")

        await alice.press("Call")
        await bob.press("Decline")
        await alice.noticed("bob declined")
        await bob.logged("You declined")

        await alice.press("Call")
        await alice.call("bob", "Ringing …")
        await alice.press("Hang up")
        await bob.logged("Missed call from alice")
        await alice.logged("You cancelled the call")

        await alice.fill(peer="nobody")
        await alice.press("Call")
        await alice.noticed("nobody is not registered")

        # A user who calls himself is busy.
        await alice.fill(peer="alice")
        await alice.press("Call")
        await alice.noticed("alice is busy")

        # A tab that is closed declines, if it still can.
        await alice.fill(peer="bob")
        await alice.press("Call")
        await bob.call("alice", "Incoming call")
        await bob.tab.close()
        await alice.noticed("bob cannot be reached right now")

    on_tabs(tmp_path, scenario)


def test_wrong_password_and_missing_microphone(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("alice:wonder land\nbob:builder\n")

    async def scenario(alice: Telephone, bob: Telephone) -> None:
        refusal = "document.getElementById('refusal').innerText === "
        await alice.enter("alice", "bob")
        await alice.tab.until(f"{refusal}'“alice” needs a password.'")
        await alice.enter("alice", "bob", "wrong")
        await alice.tab.until(f"{refusal}'Wrong name or password. Try again.'")
        # The form is shown again, with the wrong field selected.
        assert await alice.tab.run("document.activeElement.id") == "password"
        await alice.registered("alice", "bob", "wonder land")
        await bob.registered("bob", "alice", "builder")
        await alice.write("it is me")
        await bob.logged("it is me")
        for one in (alice, bob):
            await one.tab.run(
                "navigator.mediaDevices.getUserMedia = async () => { throw new Error('none'); }"
            )
        await alice.press("Call")
        await alice.noticed("No microphone (none). bob hears a soft tone instead of you.")
        await bob.press("Answer")
        await alice.counts(20)
        await bob.counts(20)
        await bob.press("Hang up")
        await alice.logged("You called bob: ")

    flags = ["--sip-users", str(tmp_path / "users"), "--sip-challenge", "--path", "/sip/ws"]
    on_tabs(tmp_path / "profile", scenario, *flags)


def test_call_waiting_swapping_and_transfer(tmp_path: Path) -> None:
    async def scenario(alice: Telephone, bob: Telephone, carol: Telephone) -> None:
        await alice.registered("alice", "bob")
        await bob.registered("bob", "alice")
        await carol.registered("carol", "bob")
        await _talk(alice, bob, ("alice", "bob"))

        # Call waiting: answering puts the first call on hold, and the calls can be swapped.
        await carol.press("Call")
        await bob.call("carol", "Incoming call")
        await bob.press("Answer: carol")
        await bob.call("alice", "On hold")
        await bob.call("carol", "Connected")
        await alice.call("bob", "bob has put you on hold")
        await bob.press("Swap: alice")
        await bob.call("carol", "On hold")
        await alice.call("bob", "Connected")
        await carol.call("bob", "bob has put you on hold")

        # Attended transfer: bob leaves, and the others talk to each other.
        await bob.press("Transfer")
        await bob.press("Connect alice with carol")
        await alice.follow("carol")
        await alice.call("carol", "Connected")
        await carol.call("alice", "Connected")
        await bob.idle()
        await alice.counts(20)
        await carol.counts(20)

        # Blind transfer: if the target refuses, the call continues.
        await carol.press("Transfer")
        await carol.fill(target="bob")
        await carol.tab.run("document.getElementById('transfer').requestSubmit()")
        await alice.press("No")
        await carol.noticed("The transfer failed. bob declined")
        await carol.press("Transfer")
        await carol.fill(target="bob")
        await carol.tab.run("document.getElementById('transfer').requestSubmit()")
        await alice.follow("bob")
        await bob.press("Answer")
        await alice.call("bob", "Connected")
        await bob.call("alice", "Connected")
        await carol.idle()
        # The call with carol may not have ended here yet.
        await alice.press("Hang up: bob")
        await bob.idle()

    on_tabs(tmp_path, scenario, tabs=3)


def test_call_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            with launched() as service:
                url, port = service.url, str(service.address[1])
                found, [alice, bob] = await stack.enter_async_context(
                    telephones(tmp_path, url, url)
                )
                await alice.registered("alice", "bob")
                await bob.registered("bob", "alice")
                await _talk(alice, bob, ("alice", "bob"))
                await alice.counts(20)
                service.process.kill()
                for one, other in ((alice, "bob"), (bob, "alice")):
                    await one.state("Disconnected, next attempt in")
                    await one.call(other, "Connected, without the server")
                await alice.counts(50)
                await bob.counts(50)
            # The other server does not know the call: a new dialog replaces the old one.
            with launched("--port", port):
                for one, name, other in ((alice, "alice", "bob"), (bob, "bob", "alice")):
                    await one.state(f"Registered as {name}")
                    await one.call(other, "Connected")
                await alice.counts(20)
                await bob.counts(20)
                await bob.press("Hold")
                await alice.call("bob", "bob has put you on hold")
                await bob.press("Hang up")
                await alice.logged("You called bob: ")
                await alice.write("there again")
                await bob.logged("there again")
            # Attempts while the server was down.
            found.complaints[:] = [
                entry for entry in found.complaints if "ERR_CONNECTION" not in str(entry)
            ]

    run(scenario(), bound=BOUND)


def test_keyboard_operates_everything(tmp_path: Path) -> None:
    """Every control also has a name for screen readers."""

    async def scenario(alice: Telephone, bob: Telephone) -> None:
        await bob.registered("bob", "alice")
        tab = alice.tab

        async def focus() -> Any:
            return await tab.run(
                "(({activeElement: it}) => it.id || it.dataset.do || it.tagName)(document)"
            )

        async def reach(name: str) -> None:
            passed = []
            while (now := await focus()) != name:
                passed.append(now)
                assert len(passed) < 30, passed
                await tab.press("Tab")

        await reach("user")
        await tab.run("document.activeElement.select()")
        await tab.type("alice")
        await tab.press("Enter")
        await alice.state("Registered as alice")
        # The focus moves from the form, which is gone, to the next control.
        assert await focus() == "peer"
        await tab.run("document.activeElement.select()")
        await tab.type("bob")
        await tab.press("Enter")
        await bob.press("Answer")
        await alice.call("bob", "Connected")
        await reach("keypad-open")
        await tab.press("Enter")
        await tab.run(
            "window.pressed = []; "
            "void (RTCDTMFSender.prototype.insertDTMF = (key) => pressed.push(key))"
        )
        await tab.press("4")
        await tab.press("2")
        assert await tab.run("pressed.join('')") == "42"
        await tab.press("Escape")
        assert await focus() == "keypad-open"
        await alice.tab.run("document.querySelector('[data-do=hold]').focus()")
        await tab.press(" ")
        await alice.call("bob", "On hold")
        # Resume takes the place of Hold.
        assert await focus() == "select"
        await tab.press("Enter")
        await alice.call("bob", "Connected")
        nodes = await tab.accessible()
        roles = {"button", "textbox", "combobox", "slider", "searchbox", "link"}
        unnamed = [n for n in nodes if n["role"]["value"] in roles and not n["name"].get("value")]
        assert unnamed == []
        names = {node["name"].get("value") for node in nodes if "name" in node}
        assert {"Hang up: bob", "Mute: bob", "Calls and messages", "Volume"} <= names
        await tab.run("document.querySelector('[data-do=end]').focus()")
        await tab.press("Enter")
        await alice.idle()
        assert await focus() == "peer"

    on_tabs(tmp_path, scenario)


def test_pictures_of_each_state(tmp_path: Path) -> None:
    """No element is wider than the window, and "Hang up" is visible during a call."""
    place = Path(os.environ.get(PICTURES, tmp_path / "pictures"))
    place.mkdir(parents=True, exist_ok=True)

    async def show(one: Telephone, name: str) -> None:
        for dark, (width, height) in ((True, NARROW), (False, WIDE)):
            await one.tab.look(width, height, dark=dark)
            path = place / f"{name}-{'dark' if dark else 'light'}.png"
            await one.tab.picture(path)
            assert path.read_bytes().startswith(b"\x89PNG")
            assert await one.tab.run("document.documentElement.scrollWidth") <= width
            assert await one.tab.run("document.querySelector('main').clientHeight") > height / 3
            assert await one.tab.run(
                "[...document.querySelectorAll('[data-do=end]')].every((button) => "
                "{ const {top, bottom, left, right} = button.getBoundingClientRect(); "
                "return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth"
                " && document.elementFromPoint((left + right) / 2, (top + bottom) / 2)"
                ".closest('[data-do=end]') === button; })"
            )

    async def scenario(alice: Telephone, bob: Telephone, carol: Telephone) -> None:
        await show(alice, "01-sign-in")
        await alice.enter("alice", "bob", "wrong")
        await alice.tab.until("document.getElementById('refusal').checkVisibility()")
        await show(alice, "02-refused")
        for one, name, peer in (
            (alice, "alice", "bob"),
            (bob, "bob", "alice"),
            (carol, "carol", "bob"),
        ):
            await one.registered(name, peer, name)
        await show(alice, "03-registered")
        await alice.write("Lunch at one?")
        await bob.logged("Lunch")
        await bob.write("Yes. I will bring the long list of things that we still have to discuss.")
        await alice.logged("Yes")
        await alice.press("Call")
        await alice.call("bob", "Ringing …")
        await bob.call("alice", "Incoming call")
        await show(alice, "04-ringing")
        await show(bob, "05-incoming")
        await bob.press("Answer")
        await alice.call("bob", "Connected")
        await alice.press("Keypad")
        await show(alice, "06-keypad")
        await alice.press("Keypad")
        await carol.press("Video call")
        await bob.call("carol", "Incoming call")
        await show(bob, "07-waiting")
        await bob.press("Video: carol")
        await bob.call("alice", "On hold")
        await bob.tab.until("document.getElementById('remote').videoWidth > 0")
        await show(bob, "08-video")
        await show(alice, "09-held")
        await bob.press("Transfer")
        await show(bob, "10-transfer")
        await bob.press("Connect carol with alice")
        await carol.tab.until("document.querySelector('.ask')")
        await show(carol, "11-asked")
        await carol.press("Call alice")
        await bob.idle()
        await alice.press("Hang up")
        await alice.fill(peer="nobody")
        await alice.press("Call")
        await alice.noticed("nobody is not registered")
        await show(alice, "12-error")
        await alice.press("Settings")
        await alice.tab.until("document.querySelectorAll('#audioinput option').length > 1")
        await show(alice, "13-settings")

    users = tmp_path / "users"
    users.write_text("alice:alice\nbob:bob\ncarol:carol\n")
    on_tabs(tmp_path / "profile", scenario, "--sip-users", str(users), tabs=3)

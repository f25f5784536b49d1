"""Tabs of a headless Chromium, driven over its DevTools protocol with the websockets library."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect

from .test_chromium import CHROMIUM, OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Microphone and camera are there, made up, and allowed; tabs in the background work on.
TABS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # ICE needs addresses that this machine can use, and on some there is only the loopback one.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--allow-loopback-in-peer-connection",
    "--remote-debugging-port=0",
]

#: In a page: a promise that is kept when something becomes true.
_UNTIL = """\
new Promise((resolve) => {
  const look = () => {
    const found = %s;
    if (found) resolve(found);
    else setTimeout(look, 20);
  };
  look();
})"""


class Browser:
    """A browser.

    Args:
        websocket: To its DevTools.

    Attributes:
        complaints: What its pages complained of: exceptions, violations, failed requests.
    """

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[Any] = []
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for text in self._websocket:
            message = json.loads(text)
            if (number := message.get("id")) in self._answers:
                self._answers.pop(number).set_result(message)
            elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(message["params"])

    async def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Gives a command: its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._websocket.send(json.dumps(message))
        found = await answer
        assert "result" in found, found
        return found["result"]

    async def open(self, url: str) -> Tab:
        """Opens a tab; it is there when its document is."""
        target = await self.ask("Target.createTarget", url="about:blank")
        attached = await self.ask(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab = Tab(self, attached["sessionId"], target["targetId"])
        for domain in ("Runtime", "Log", "Page"):
            await self.ask(f"{domain}.enable", tab.session)
        await self.ask("Page.navigate", tab.session, url=url)
        await tab.until("location.href !== 'about:blank' && document.readyState === 'complete'")
        return tab

    async def close(self) -> None:
        """Lets go of it."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


class Tab:
    """A tab.

    Args:
        browser: Of this browser.
        session: How it is called in commands.
        target: How the browser calls it.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self.session = session
        self._target = target

    async def run(self, script: str) -> Any:
        """Evaluates an expression, as if the user had just clicked: its value."""
        result = await self._browser.ask(
            "Runtime.evaluate",
            self.session,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Waits until an expression is true: its value."""
        return await self.run(_UNTIL % condition)

    async def close(self) -> None:
        """Closes it."""
        await self._browser.ask("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """A browser of its own."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *OPTIONS,
        *TABS,
        f"--user-data-dir={profile}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        while line := (await process.stderr.readline()).decode(errors="replace"):
            if line.startswith("DevTools listening on "):
                break
        assert line, "Chromium has ended"
        # What else it says there is nobody's affair, but has to go somewhere.
        rest = asyncio.ensure_future(process.stderr.read())
        async with connect(line.split()[-1], max_size=None, proxy=None) as websocket:
            found = Browser(websocket)
            try:
                yield found
            finally:
                await found.close()
    finally:
        # It has children of its own.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await rest

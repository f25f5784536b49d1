"""Tabs of a headless Chromium, driven over its DevTools protocol with the websockets library."""

from __future__ import annotations

import asyncio
import base64
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

#: Fake microphone and camera, permitted; background tabs are not throttled.
TABS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # ICE needs usable addresses, and some machines only have loopback.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--allow-loopback-in-peer-connection",
    "--remote-debugging-port=0",
]

#: In a page: a promise that resolves when a condition becomes true.
_UNTIL = """\
new Promise((resolve) => {
  const look = () => {
    const found = %s;
    // An element has no value to give.
    if (found) resolve(found instanceof Node ? true : found);
    else setTimeout(look, 20);
  };
  look();
})"""


class Browser:
    """A browser.

    Args:
        websocket: The connection to its DevTools.

    Attributes:
        complaints: Problems in its pages: exceptions, violations, failed requests.
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
        """Send a command, and return its result."""
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
        """Open a tab, and wait until its document is loaded."""
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
        """Disconnect from it."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


class Tab:
    """A tab.

    Args:
        browser: The browser.
        session: Its name in commands.
        target: The browser's name for it.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self.session = session
        self._target = target

    async def run(self, script: str) -> Any:
        """Evaluate an expression, as if the user had just clicked, and return its value."""
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
        """Wait until an expression is true, and return its value."""
        return await self.run(_UNTIL % condition)

    async def reload(self) -> None:
        """Reload the document."""
        await self._browser.ask("Page.navigate", self.session, url=await self.run("location.href"))
        await self.until("document.readyState === 'complete'")

    async def type(self, text: str) -> None:
        """Type a text at the focus."""
        await self._browser.ask("Input.insertText", self.session, text=text)

    async def press(self, key: str) -> None:
        """Press a key of the keyboard: ``Enter``, ``Tab``, ``Escape``, a space or a digit."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
        values: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0]))}
        if key not in ("Tab", "Escape"):
            values["text"] = "\r" if key == "Enter" else key
        for kind in ("keyDown", "keyUp"):
            await self._browser.ask("Input.dispatchKeyEvent", self.session, type=kind, **values)

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and the user's preferences."""
        await self._browser.ask(
            "Emulation.setDeviceMetricsOverride",
            self.session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self._browser.ask("Emulation.setEmulatedMedia", self.session, features=[scheme, calm])

    async def picture(self, path: Path) -> None:
        """Return a picture of the visible part (PNG)."""
        # A background tab does not paint.
        await self._browser.ask("Page.bringToFront", self.session)
        found = await self._browser.ask("Page.captureScreenshot", self.session, format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(found["data"]))

    async def accessible(self) -> list[dict[str, Any]]:
        """Return the nodes exposed to screen readers."""
        found = await self._browser.ask("Accessibility.getFullAXTree", self.session)
        return [node for node in found["nodes"] if not node["ignored"]]

    async def close(self) -> None:
        """Close it."""
        await self._browser.ask("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """Run a browser."""
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
        # Its other output is irrelevant, but must be read.
        rest = asyncio.ensure_future(process.stderr.read())
        async with connect(line.split()[-1], max_size=None, proxy=None) as websocket:
            found = Browser(websocket)
            try:
                yield found
            finally:
                await found.close()
    finally:
        # It has child processes.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    await rest

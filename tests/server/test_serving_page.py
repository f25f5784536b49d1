"""The examples of the page on serving run, and the reference has every module."""

from __future__ import annotations

import asyncio
import doctest
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidStatus

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "howto" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_page_runs() -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    # The blocks build on each other.
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "page", PAGE.name, 0)
    assert len(test.examples) > 25
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


def test_server_on_the_page_serves(capsys: pytest.CaptureFixture[str]) -> None:
    code, *_ = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    code = code.replace("8080", "0").replace("asyncio.run(main())\n", "")
    names: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), names)

    async def scenario() -> None:
        running = asyncio.ensure_future(names["main"]())
        printed = ""
        while not printed:
            await asyncio.sleep(0)
            printed = capsys.readouterr().out
        [port] = re.findall(r"127\.0\.0\.1', (\d+)", printed)
        url = f"ws://127.0.0.1:{port}/"
        with pytest.raises(InvalidStatus) as refused:
            await dial(url, additional_headers={"Origin": "https://evil.example"})
        assert refused.value.response.status_code == 403
        async with dial(url) as websocket:
            for message in ("hello", b"\0"):
                await websocket.send(message)
                assert await websocket.recv() == message
            running.cancel()
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1001
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("package", ["policy", "server"])
def test_reference_has_every_module(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text(encoding="utf-8")
    shown = re.findall(r"automodule:: wsproto_sip\.(\S+)", page)
    path = ROOT / "wsproto_sip"
    modules = [
        ".".join(file.relative_to(path).with_suffix("").parts)
        for file in (path / package).rglob("[!_]*.py")
    ]
    assert sorted(shown) == sorted(modules)

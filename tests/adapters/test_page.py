"""The examples on the page on adapters, run as they stand there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve as their_server

from ._suite import BOUND, HOST, port_of

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block(adapter: str, *, reconnecting: bool = False) -> dict[str, Any]:
    """Runs one of an adapter's two examples; gives the names it defines."""
    pytest.importorskip("trio" if adapter == "trio" else "asyncio")
    [code] = [
        code
        for code in BLOCKS
        if f"wsproto_sip.adapters.{adapter} " in code and ("reconnect(" in code) == reconnecting
    ]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "adapters.md", "exec"), names)
    return names


def test_every_example_is_run() -> None:
    assert len(BLOCKS) == 7


@pytest.mark.parametrize("adapter", ["asyncio", "blocking", "trio"])
def test_both_ends(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    block(adapter)
    assert re.fullmatch(r"hello\n\S+ seconds there and back\n", capsys.readouterr().out)


@pytest.mark.parametrize("adapter", ["asyncio", "blocking", "trio"])
def test_reconnecting(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listen = block(adapter, reconnecting=True)["listen"]
    monkeypatch.setattr(
        import_module("wsproto_sip.adapters.backoff").Backoff, "failed", lambda *_, **__: 0.0
    )
    codes = [1000, 1011, 4001]
    got: list[str | bytes] = []

    async def handler(websocket: ServerConnection) -> None:
        await websocket.send(str(len(codes)))
        await websocket.close(codes.pop(0))

    async def deal_with(message: str | bytes) -> None:
        got.append(message)

    def on_trio(uri: str) -> None:
        import_module("trio").run(listen, uri, deal_with)

    async def scenario() -> None:
        async with asyncio.timeout(BOUND), their_server(handler, HOST, 0) as server:
            uri = f"ws://{HOST}:{port_of(server)}"
            if adapter == "asyncio":
                await listen(uri, deal_with)
            elif adapter == "trio":
                await asyncio.to_thread(on_trio, uri)
            else:
                await asyncio.to_thread(listen, uri, got.append)

    asyncio.run(scenario())
    assert got == ["3", "2", "1"]
    assert not [thread for thread in threading.enumerate() if "wsproto_sip" in thread.name]


def test_hypercorn() -> None:
    """In a process of its own, where hypercorn then finds this engine."""
    pytest.importorskip("hypercorn")
    [code] = [code for code in BLOCKS if 'sys.modules["wsproto"]' in code]
    code += (
        "from hypercorn.protocol import ws_stream\n"
        "print({name: sys.modules[name].__name__ for name in sys.modules if 'wsproto' in name\n"
        "    and not name.startswith('wsproto_sip')})\n"
        "print(ws_stream.Connection.__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    modules, connection = done.stdout.splitlines()
    found = eval(modules)
    assert found["wsproto"] == "wsproto_sip"
    assert all(name.startswith("wsproto_sip") for name in found.values())
    assert connection == "wsproto_sip.connection"

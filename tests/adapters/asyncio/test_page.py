"""The examples on the page on adapters, run as written."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve as their_server

from wsproto_sip.adapters.asyncio import (
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    connect,
    serve,
)
from wsproto_sip.session import SessionConfig

from .._suite import BOUND, HOST, port_of

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "howto" / "adapters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block(adapter: str, *, reconnecting: bool = False) -> dict[str, Any]:
    """Run one of an adapter's two examples, and return the names it defines."""
    pytest.importorskip("trio" if adapter == "trio" else "asyncio")
    [code] = [
        code
        for code in BLOCKS
        if f"wsproto_sip.adapters.{adapter} " in code
        and ("reconnect(" if reconnecting else "connect(f") in code
    ]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "adapters.md", "exec"), names)
    return names


def example(words: str) -> dict[str, Any]:
    """Run the example that contains these words, and return the names it defines."""
    [code] = [code for code in BLOCKS if words in code]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "adapters.md", "exec"), names)
    return names


def test_every_example_is_run() -> None:
    # Both ends and reconnecting on three adapters, hypercorn, and the ones below.
    assert len(BLOCKS) == 3 * 2 + 1 + 5


def test_configuration_of_the_example_takes_messages_of_any_length() -> None:
    config = example("STREAMING_LIMITS")["CONFIG"]
    size = SessionConfig().limits.max_message_size
    assert size is not None
    counted: list[int] = []

    async def handler(connection: Connection) -> None:
        counted.append(sum([len(piece) async for piece in connection.recv_streaming()]))

    async def scenario() -> None:
        async with (
            serve(handler, HOST, 0, config=config) as server,
            connect(f"ws://{HOST}:{server.addresses[0][1]}/") as connection,
        ):
            await connection.send(bytes(size + 1))
            with pytest.raises(ConnectionClosedError, match="1000"):
                await connection.recv()

    asyncio.run(scenario())
    assert counted == [size + 1]


def test_policies_of_the_example_refuse_other_origins() -> None:
    policies = example("async with serve(handler")["policies"]

    async def handler(connection: Connection) -> None:
        await connection.send("let in")

    async def scenario() -> None:
        async with serve(handler, HOST, 0, policies=policies) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}/"
            for headers in ({}, {"Origin": "https://evil.example"}):
                with pytest.raises(HandshakeRejected) as refused:
                    await connect(uri, headers=headers)
                assert refused.value.status_code == 403
            async with connect(uri, headers={"Origin": "https://app.example"}) as connection:
                assert await connection.recv() == "let in"

    asyncio.run(scenario())


def test_deferred_question_of_the_example_is_answered_by_a_coroutine() -> None:
    assert inspect.iscoroutinefunction(example("TOKENS.get")["resolve"])


def test_health_check_of_the_example_answers() -> None:
    process_request = example('== "/health"')["process_request"]

    async def handler(connection: Connection) -> None:
        raise AssertionError("a plain request is not a connection")

    async def scenario() -> None:
        config = SessionConfig(plain_requests=True)
        async with serve(
            handler, HOST, 0, process_request=process_request, config=config
        ) as server:
            for path, answer in (("health", b"HTTP/1.1 200 OK"), ("x", b"HTTP/1.1 426 ")):
                reader, writer = await asyncio.open_connection(HOST, server.addresses[0][1])
                writer.write(f"GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                assert (await reader.read()).startswith(answer)
                writer.close()
                await writer.wait_closed()

    asyncio.run(scenario())


def test_class_of_the_example_is_one_for_uvicorn() -> None:
    pytest.importorskip("uvicorn")
    assert isinstance(example("websocket_protocol(\n")["WebSockets"], type)


@pytest.mark.parametrize("adapter", ["asyncio", "blocking", "trio"])
def test_client_and_server_examples_work_together(
    adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    block(adapter)
    assert re.fullmatch(r"hello\n\S+ seconds there and back\n", capsys.readouterr().out)


@pytest.mark.parametrize("adapter", ["asyncio", "blocking", "trio"])
def test_reconnecting_example(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_hypercorn_example() -> None:
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

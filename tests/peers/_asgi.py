"""What uvicorn and hypercorn must both do on wsproto_sip.

Theory of operation: :func:`running` starts ``_alias_server`` in a process of its own; the tests of
:class:`Behaviour` connect to it with the websockets library. At the end, the server's log must not
contain an exception.
"""

from __future__ import annotations

import json
import select
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("websockets")

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from ._alias_server import MAX_MESSAGE, SUBMODULES
from ._support import BOUND, HOST, ROOT, command, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server:
    """A running server.

    Args:
        process: Its process.
        port: The port it listens on.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def connect(self, path: str, **options: Any) -> connect:
        """Return a client for it."""
        url = f"ws://{HOST}:{self.port}{path}"
        return connect(url, proxy=None, ping_interval=None, **options)

    async def told(self, path: str, **options: Any) -> dict[str, Any]:
        """Return the application's report on a path that has one."""
        async with self.connect(path, **options) as websocket:
            told: dict[str, Any] = json.loads(await websocket.recv())
            await websocket.wait_closed()
            assert websocket.close_code == 1000
        return told


@contextmanager
def running(name: str, directory: Path) -> Iterator[Server]:
    """Run a server.

    Args:
        name: ``"uvicorn"`` or ``"hypercorn"``.
        directory: The directory for its log.
    """
    log = directory / f"{name}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command("tests.peers._alias_server", name),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        assert process.stdout is not None
        try:
            select.select([process.stdout], [], [], BOUND)
            port = process.stdout.readline()
            assert port, log.read_text()
            yield Server(process, int(port))
        finally:
            process.terminate()
            try:
                process.communicate(timeout=BOUND)
            finally:
                process.kill()
    assert "Traceback" not in log.read_text(), log.read_text()


class Behaviour:
    """The tests; a subclass names the server.

    Attributes:
        server_name: The name of the server.
        end_code: The code the application is told when the client closes with 3001.
    """

    server_name: ClassVar[str]
    end_code: ClassVar[int]

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        with running(cls.server_name, tmp_path_factory.mktemp(cls.server_name)) as server:
            yield server

    def test_wsproto_is_not_loaded(self, server: Server) -> None:
        files = run(server.told("/modules"))
        aliases = {"wsproto", *(f"wsproto.{name}" for name in SUBMODULES)}
        assert files == dict.fromkeys(aliases, "wsproto_sip")

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_echo(self, server: Server, compression: str | None) -> None:
        async def scenario() -> None:
            async with server.connect("/echo", compression=compression) as websocket:
                assert bool(websocket.protocol.extensions) == (compression is not None)
                messages: list[str | bytes] = [
                    "hello",
                    "Grüße, 你好, 🌍",
                    bytes(range(256)),
                    b"x" * MAX_MESSAGE,
                    "y" * MAX_MESSAGE,
                    "ü" * (MAX_MESSAGE // 2),
                ]
                for message in messages:
                    await websocket.send(message)
                    assert await websocket.recv() == message
                await websocket.send(["in ", "", "pie", "ces"])
                assert await websocket.recv() == "in pieces"
                await websocket.send([b"\x00", b"\xff" * 40000])
                assert await websocket.recv() == b"\x00" + b"\xff" * 40000
                for number in range(100):
                    await websocket.send(f"number {number}")
                assert [await websocket.recv() for _ in range(100)] == [
                    f"number {number}" for number in range(100)
                ]
            await server.told("/end")

        run(scenario())

    def test_subprotocol_and_headers(self, server: Server) -> None:
        offered = [Subprotocol("sip"), Subprotocol("msrp")]

        async def scenario() -> None:
            async with server.connect("/echo", subprotocols=offered) as websocket:
                assert websocket.subprotocol == "sip"
                assert websocket.response is not None
                assert websocket.response.headers["x-echo"] == "yes"
            await server.told("/end")
            assert await server.told("/scope?a=b", subprotocols=[Subprotocol("x")]) == {
                "http_version": "1.1",
                "query_string": "a=b",
                "subprotocols": ["x"],
            }

        # /scope accepts without a sub-protocol, which a client may or may not accept.
        run(scenario())

    def test_ping(self, server: Server) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                for payload in (b"", b"x" * 125):
                    await (await websocket.ping(payload))
                await websocket.pong(b"unasked")
                await websocket.send("after")
                assert await websocket.recv() == "after"
            await server.told("/end")

        run(scenario())

    def test_close_by_the_client_is_reported(self, server: Server) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                await websocket.close(3001, "bye")
                assert (websocket.close_code, websocket.close_reason) == (3001, "bye")
            assert (await server.told("/end"))["code"] == self.end_code

        run(scenario())

    def test_lost_client_is_reported(self, server: Server) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                websocket.transport.abort()
            assert (await server.told("/end"))["code"] in {1005, 1006}

        run(scenario())

    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4001, "Grüße")])
    def test_application_may_close(self, server: Server, code: int, reason: str) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                await websocket.send(f"close {code} {reason}")
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
                assert (websocket.close_code, websocket.close_reason) == (code, reason)
            await server.told("/end")

        run(scenario())

    def test_application_may_refuse(self, server: Server) -> None:
        async def scenario() -> None:
            with pytest.raises(InvalidStatus) as caught:
                await server.connect("/refuse")
            assert caught.value.response.status_code == 403

        run(scenario())

    def test_application_may_send_a_response(self, server: Server) -> None:
        async def scenario() -> None:
            with pytest.raises(InvalidStatus) as caught:
                await server.connect("/response")
            response = caught.value.response
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Basic"
            assert response.body == b"no way!"

        run(scenario())

    @pytest.mark.parametrize("data", [b"x" * (MAX_MESSAGE + 1), "y" * (MAX_MESSAGE + 1)])
    def test_oversized_message_closes_with_1009(self, server: Server, data: str | bytes) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                await websocket.send(data)
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
                assert websocket.close_code == 1009
            await server.told("/end")

        run(scenario())

    def test_protocol_error_closes_with_1002(self, server: Server) -> None:
        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                websocket.transport.write(b"\x83\x80\x00\x00\x00\x00")
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
                assert websocket.close_code == 1002
            await server.told("/end")

        run(scenario())

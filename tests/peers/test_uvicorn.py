"""uvicorn with wsproto_sip in place of wsproto."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("uvicorn")

from websockets.exceptions import ConnectionClosed

from ._alias_server import MAX_MESSAGE
from ._asgi import Behaviour, running
from ._support import run

if TYPE_CHECKING:
    from pathlib import Path

    from ._asgi import Server


class TestUvicorn(Behaviour):
    """The common tests of both servers."""

    server_name = "uvicorn"
    end_code = 3001

    def test_oversized_message_in_pieces_closes_with_1009(self, server: Server) -> None:
        """hypercorn ignores everything after the piece that exceeds its limit."""

        async def scenario() -> None:
            async with server.connect("/echo") as websocket:
                await websocket.send([b"x" * MAX_MESSAGE, b"y", b"z"])
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
            # uvicorn closes with unread bytes, so that the client may not see the reason.
            assert await server.told("/end") == {
                "code": 1009,
                "reason": f"Message exceeds the maximum size ({MAX_MESSAGE} bytes)",
            }

        run(scenario())


def test_shutdown_closes_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server.connect("/echo") as websocket:
            await websocket.send("open")
            assert await websocket.recv() == "open"
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1012

    with running("uvicorn", tmp_path) as server:
        run(scenario())

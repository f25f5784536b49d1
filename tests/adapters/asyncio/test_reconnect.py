"""One connection after another, with the websockets library as the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("websockets")

from websockets.asyncio.server import ServerConnection, serve as their_server

from wsproto_sip.adapters.asyncio import (
    Backoff,
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    Reconnecting,
    is_transient,
    reconnect,
)

from .._refusals import REFUSALS, answering
from .._suite import BOUND, HOST, nothing_leaks, port_of, their_echo, turns

if TYPE_CHECKING:
    from collections.abc import Coroutine


def quick() -> Backoff:
    """Return a back-off with waits of microseconds."""
    return Backoff(first=1e-6, longest=1e-6)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), nothing_leaks():
            await scenario

    asyncio.run(bounded())


def test_each_end_is_followed_by_another_connection() -> None:
    """Another connection follows, however one ends and whichever side ends it."""
    codes: list[int | None] = []

    async def handler(websocket: ServerConnection) -> None:
        number = len(codes)
        codes.append(None)
        await websocket.send(str(number))
        if number == 1:
            websocket.transport.abort()
        elif number == 2:
            await websocket.close(1012)
        else:
            await websocket.wait_closed()
            codes[number] = websocket.close_code

    async def scenario() -> None:
        received: list[str | bytes] = []
        async with their_server(handler, HOST, 0) as server:
            uri = f"ws://{HOST}:{port_of(server)}"
            async with reconnect(uri, backoff=quick()) as connections:
                async for connection in connections:
                    with suppress(ConnectionClosedError):
                        received.append(await connection.recv())
                        if len(received) in {2, 3}:
                            await connection.recv()
                    if len(received) == 4:
                        break
            assert received == ["0", "1", "2", "3"]
            assert connection.closed
            assert connection.closed.code == 1000

    run(scenario())
    # The client closes connections that its program leaves open.
    assert codes == [1000, None, None, 1000]


def test_status_decides_about_a_refusal_with_truncated_body() -> None:
    """503 is retried after the time that it names, and 403 is raised."""
    judged: list[Exception] = []

    def retry(error: Exception) -> bool:
        judged.append(error)
        return is_transient(error) and len(judged) < 3

    async def scenario() -> None:
        later = b"HTTP/1.1 503 Later\r\nRetry-After: 0\r\nContent-Length: 9\r\n\r\nonly"
        for answer, status, attempts in ((later, 503, 3), (REFUSALS["body cut off"][0], 403, 1)):
            judged.clear()
            async with answering(answer, "close") as port:
                uri = f"ws://{HOST}:{port}"
                async with reconnect(uri, backoff=quick(), retry=retry) as connections:
                    with pytest.raises(HandshakeRejected) as caught:
                        await anext(connections)
            assert caught.value is judged[-1]
            assert [
                error.status_code for error in judged if isinstance(error, HandshakeRejected)
            ] == [status] * attempts

    run(scenario())


def test_restarted_server_is_reached_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wsproto_sip.asyncio")

    async def scenario() -> None:
        server = await their_server(their_echo, HOST, 0)
        port = port_of(server)
        waits: list[float] = []

        class Noting(Backoff):
            def failed(self, now: float, *, at_least: float = 0.0) -> float:
                waits.append(super().failed(now, at_least=at_least))
                if len(waits) == 3:
                    again.set_result(None)
                return waits[-1]

        again = asyncio.get_running_loop().create_future()

        async def restart() -> None:
            await again
            restarted.append(await their_server(their_echo, HOST, port))

        restarted: list[Any] = []
        restarting = asyncio.create_task(restart())
        seen = 0
        async with reconnect(
            f"ws://{HOST}:{port}", backoff=Noting(first=1e-3, longest=1e-3)
        ) as connections:
            async for connection in connections:
                await connection.send("x")
                assert await connection.recv() == "x"
                seen += 1
                if seen == 2:
                    break
                server.close()
                await server.wait_closed()
        await restarting
        restarted[0].close()
        await restarted[0].wait_closed()
        assert len(waits) >= 3

    run(scenario())
    assert "connecting again in 0.0 s" in caplog.text
    assert "the connection has ended" in caplog.text


def test_final_error_is_raised() -> None:
    asked: list[str] = []

    def refuse(connection: ServerConnection, request: Any) -> Any:
        asked.append(request.path)
        response = connection.respond(503 if len(asked) < 3 else 403, "")
        response.headers["Retry-After"] = "0"
        return response

    async def scenario() -> None:
        async with their_server(their_echo, HOST, 0, process_request=refuse) as server:
            uri = f"ws://{HOST}:{port_of(server)}"
            with pytest.raises(HandshakeRejected) as caught:
                async for _ in reconnect(uri, backoff=quick()):
                    pass
            assert caught.value.status_code == 403
            assert len(asked) == 3
            # A custom retry function.
            with pytest.raises(HandshakeRejected):
                async for _ in reconnect(uri, backoff=quick(), retry=lambda error: False):
                    pass
            assert len(asked) == 4
        with pytest.raises(ValueError, match="ws://"):
            async for _ in reconnect("http://x"):
                pass

    run(scenario())


def test_retry_after_is_respected() -> None:
    wishes: list[float] = []

    class Noting(Backoff):
        def failed(self, now: float, *, at_least: float = 0.0) -> float:
            wishes.append(at_least)
            return 0.0

    def refuse(connection: ServerConnection, request: Any) -> Any:
        if wishes:
            return None
        response = connection.respond(429, "")
        response.headers["Retry-After"] = "17"
        return response

    async def scenario() -> None:
        async with (
            their_server(their_echo, HOST, 0, process_request=refuse) as server,
            reconnect(f"ws://{HOST}:{port_of(server)}", backoff=Noting()) as connections,
        ):
            await anext(connections)
        assert wishes == [17.0]

    run(scenario())


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_failing_block_drops_the_connection(error: type[BaseException]) -> None:
    """The connection is ended at once, without waiting for the peer."""
    ended: list[ServerConnection] = []
    opened: list[Connection] = []

    async def handler(websocket: ServerConnection) -> None:
        await websocket.wait_closed()
        ended.append(websocket)

    async def scenario() -> None:
        async with their_server(handler, HOST, 0) as server:
            connections = reconnect(f"ws://{HOST}:{port_of(server)}")

            async def block() -> None:
                async with connections:
                    opened.append(await anext(connections))
                    raise error

            with pytest.raises(error):
                await block()
            assert opened[0].closed
        assert ended[0].close_code == 1006

    run(scenario())


def test_waiting_can_be_cancelled() -> None:
    attempts: list[int] = []

    async def opening() -> Connection:
        attempts.append(1)
        raise OSError

    async def scenario() -> None:
        connections = Reconnecting(opening, Backoff(first=1e9, longest=1e9), lambda error: True)
        task = asyncio.create_task(anext(connections))
        await turns(lambda: bool(attempts))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(attempts) == 1
        await connections.aclose()

    run(scenario())

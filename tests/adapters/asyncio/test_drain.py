"""A server on asyncio that stops step by step."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.peers._support import BOUND, HOST, connected, request, run
from wsproto_sip.adapters.asyncio.drain import stop
from wsproto_sip.events import AcceptConnection, CloseConnection

from .._endpoint import Running, serving

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so, a turn of the loop at a time."""
    while not condition():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)


class Others:
    """Other servers, which are told about this one."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.told: list[tuple[str, int]] = []

    async def announce(self) -> None:
        """Take note that it is going."""
        self.told.append(("going", len(self._running.endpoint)))

    async def withdraw(self) -> None:
        """Take note that it has gone."""
        self.told.append(("gone", len(self._running.endpoint)))


def test_others_are_told_before_and_after_the_connections_leave() -> None:
    async def scenario() -> None:
        async with serving() as running:
            others = Others(running)
            async with connected(running.port, opening=request(running.port)) as client:
                await client.expect(AcceptConnection)
                stopping = asyncio.ensure_future(
                    stop(
                        running.server,
                        5.0,
                        announce=others.announce,
                        withdraw=others.withdraw,
                    )
                )
                assert (await client.expect(CloseConnection)).code == 1001
            await stopping
            assert others.told == [("going", 1), ("gone", 0)]
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, running.port)

    run(scenario())


def test_handshake_that_has_begun_is_finished() -> None:
    async def scenario() -> None:
        async with serving() as running:
            reader, writer = await asyncio.open_connection(HOST, running.port)
            await until(lambda: running.endpoint.registry.handshaking > 0)
            stopping = asyncio.ensure_future(stop(running.server, 5.0))
            await asyncio.sleep(0)
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
            await reader.readuntil(b"\x88\x0f\x03\xe9shutting down")
            writer.close()
            await stopping

    run(scenario())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports cannot be shared")
def test_client_that_waits_at_a_shared_port_is_served() -> None:
    async def scenario() -> None:
        async with serving() as running:
            [(_, port)] = await running.server.listen(HOST, 0, reuse_port=True)
            # The system has accepted it, and the server not yet.
            with closing(socket.create_connection((HOST, port), BOUND)) as client:
                client.sendall(REQUEST)
                client.setblocking(False)
                stopping = asyncio.ensure_future(stop(running.server, 5.0))
                answer = await asyncio.get_running_loop().sock_recv(client, 4096)
                assert answer.startswith(b"HTTP/1.1 101 ")
            await stopping

    run(scenario())


def test_hurry_does_not_wait_for_connections_that_stay() -> None:
    async def scenario() -> None:
        async with serving() as running:
            running.endpoint.stays_while(lambda cid: True)
            hurry = asyncio.Event()
            async with connected(running.port, opening=request(running.port)) as client:
                await client.expect(AcceptConnection)
                others = Others(running)
                stopping = asyncio.ensure_future(
                    stop(running.server, 500.0, withdraw=others.withdraw, hurry=hurry)
                )
                await until(lambda: running.endpoint.draining)
                assert not stopping.done()
                hurry.set()
                await stopping
                assert others.told == [("gone", 0)]

    run(scenario())


def test_failure_to_tell_others_does_not_keep_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise OSError("the store is away")

    async def scenario() -> None:
        async with serving() as running:
            await stop(running.server, 5.0, announce=fails)

    with caplog.at_level(logging.ERROR, "wsproto_sip.server"):
        run(scenario())
    [record] = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the store is away"


def test_cancelled_stop_leaves_no_task() -> None:
    async def scenario() -> None:
        async with serving() as running:
            running.endpoint.stays_while(lambda cid: True)
            async with connected(running.port, opening=request(running.port)) as client:
                await client.expect(AcceptConnection)
                stopping = asyncio.ensure_future(stop(running.server, 500.0))
                await until(lambda: running.endpoint.draining)
                stopping.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await stopping

    run(scenario())

"""The asyncio adapter: the suite on both loops, back-pressure, cancellation, and what is left."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters import _asyncio_connection
from wsproto_sip.adapters._common import adapted
from wsproto_sip.adapters.asyncio import (
    Connection,
    ConnectionClosedError,
    Server,
    _ServerConnection,
    connect,
    open_connection,
    reconnect,
    serve,
)
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import AcceptConnection
from wsproto_sip.lifecycle import Cause
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType

from .._sessions import REQUEST, frame
from ._strain import Strain
from ._suite import BOUND, HOST, echo, nothing_left_behind, peer, reset, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from ._suite import End


class OnAsyncio(Strain):
    """The suite, with a check that nothing is left behind."""

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        async with serve(program, HOST, 0, **options) as server:
            yield server.addresses[0][1]
        assert not server.connections
        assert not server._tasks

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        async with connect(uri, **options) as connection:
            yield connection
        assert connection._lost.done()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def checked() -> None:
            async with nothing_left_behind():
                await scenario

        super().run(checked())


class TestStandardLoop(OnAsyncio):
    """On the event loop of the standard library."""


@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
class TestUvloop(OnAsyncio):
    """On uvloop."""

    def loop_run(self, scenario: Coroutine[Any, Any, None]) -> None:
        uvloop = import_module("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), nothing_left_behind():
            await scenario

    asyncio.run(bounded())


@asynccontextmanager
async def pair(
    *, config: SessionConfig | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A server's and a client's connection, both of ours."""
    config = config or SessionConfig()
    there: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def program(connection: Connection) -> None:
        there.set_result(connection)
        await connection.wait_closed()

    async with (
        serve(program, HOST, 0, config=config, **options) as server,
        connect(f"ws://{HOST}:{server.addresses[0][1]}", config=config) as client,
    ):
        yield await there, client


class TestBackPressure:
    """Neither side takes in or gives out more than its bounds."""

    def test_pings_are_answered_at_last(self) -> None:
        async def scenario() -> None:
            async with pair() as (server, client):
                for number in range(17):
                    await client.send(str(number))
                ping = asyncio.create_task(client.ping())
                await turns(lambda: server.session.paused)
                assert not ping.done()
                assert [await server.recv() for _ in range(17)] == list(map(str, range(17)))
                await ping

        run(scenario())

    def test_what_came_before_a_reset_can_be_received(self) -> None:
        async def scenario() -> None:
            async with pair() as (server, client):
                for number in range(40):
                    await client.send(str(number))
                await turns(lambda: server.session.paused)
                client.abort()
                received = [message async for message in _until_the_end(server)]
                assert received == list(map(str, range(40)))

        run(scenario())


async def _until_the_end(connection: Connection) -> AsyncIterator[str | bytes]:
    try:
        while True:
            yield await connection.recv()
    except ConnectionClosedError:
        return


class TestCancelling:
    """Wherever a task is cancelled, nothing is lost and nothing is left."""

    def test_receiving(self) -> None:
        """A message is given out, or stays."""

        async def scenario() -> None:
            generator = random.Random(1)
            received: list[str | bytes] = []
            async with pair() as (server, client):

                async def send() -> None:
                    for number in range(300):
                        await client.send(str(number))
                        if generator.random() < 0.5:
                            await asyncio.sleep(0)

                sending = asyncio.create_task(send())
                while len(received) < 300:
                    task = asyncio.create_task(server.recv())
                    for _ in range(generator.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    with_result = await asyncio.gather(task, return_exceptions=True)
                    if isinstance(with_result[0], str):
                        received.append(with_result[0])
                await sending
            assert received == list(map(str, range(300)))

        run(scenario())

    def test_sending(self) -> None:
        """A message is sent, or it is not."""

        async def scenario() -> None:
            async with pair() as (server, client):
                server_got: list[bytes] = []
                number = 0
                while client.writable:
                    await client.send(number.to_bytes(4, "big") + bytes(10_000))
                    number += 1
                waiting = [asyncio.create_task(client.send(b"no")) for _ in range(3)]
                last = asyncio.create_task(client.send(b"last"))
                await asyncio.sleep(0)
                for task in waiting:
                    task.cancel()
                while not server_got or server_got[-1] != b"last":
                    message = await server.recv()
                    assert isinstance(message, bytes)
                    server_got.append(message[:4])
                await last
                numbers = [item.to_bytes(4, "big") for item in range(number)]
                assert server_got == [*numbers, b"last"]
                assert await asyncio.gather(*waiting, return_exceptions=True)

        run(scenario())

    @pytest.mark.parametrize("steps", [*range(24), 30, 40, 60, 80])
    def test_a_whole_client(self, steps: int) -> None:
        async def client(port: int) -> None:
            async with connect(f"ws://{HOST}:{port}") as connection:
                await connection.ping()
                await connection.send("x" * 200_000)
                await connection.recv()
                await connection.close()

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                port = server.addresses[0][1]
                task = asyncio.create_task(client(port))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await turns(lambda: not server.connections and not server._tasks)
                # The server is well.
                async with connect(f"ws://{HOST}:{port}") as connection:
                    await connection.send("still there?")
                    assert await connection.recv() == "still there?"

        run(scenario())

    def test_pinging_and_closing(self) -> None:
        async def scenario() -> None:
            async with pair() as (server, client):
                client.transport.pause_reading()
                waiting = [
                    asyncio.create_task(server.ping(b"1")),
                    asyncio.create_task(server.wait_closed()),
                    asyncio.create_task(server.close(3000)),
                ]
                await asyncio.sleep(0)
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                assert [task.cancelled() for task in waiting] == [True] * 3
                client.transport.resume_reading()
                with pytest.raises(ConnectionClosedError) as caught:
                    await client.recv()
                assert caught.value.code == 3000
                assert (await server.wait_closed()).code == 3000

        run(scenario())

    def test_a_server(self) -> None:
        """A program that does not end is cancelled when its time is up."""
        cancelled: list[bool] = []

        async def program(connection: Connection) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def scenario() -> None:
            async with serve(program, HOST, 0, drain=0.01) as server:
                connection = await open_connection(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert caught.value.code == 1001
            assert await connection.wait_closed() == caught.value.event

        run(scenario())
        assert cancelled == [True]


class TestServer:
    def test_two_places(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                await server.listen(HOST, 0)
                assert len(server.addresses) == 2
                for _, port in server.addresses:
                    async with connect(f"ws://{HOST}:{port}") as client:
                        await client.send("x")
                        assert await client.recv() == "x"
                server.stop_listening()
                assert server.addresses == []

        run(scenario())

    def test_no_place(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                port = server.addresses[0][1]
                with pytest.raises(OSError, match="in use"):
                    async with serve(echo, HOST, port):
                        pass

        run(scenario())

    def test_a_peer_that_does_not_answer_while_draining(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0, drain=0.01) as server:
                reader, writer = await asyncio.open_connection(HOST, server.addresses[0][1])
                writer.write(REQUEST)
                await reader.readuntil(b"\r\n\r\n")
            with suppress(ConnectionResetError):
                # Going away, and nothing behind it.
                assert await reader.read() == b"\x88\x02\x03\xe9"
            writer.close()

        run(scenario())

    def test_a_peer_that_is_gone_while_draining(self) -> None:
        """What is written to it resets the connection; the others are sent away all the same."""

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                port = server.addresses[0][1]
                gone = [socket.create_connection((HOST, port)) for _ in range(3)]
                await turns(lambda: len(server.connections) == 3)
                async with connect(f"ws://{HOST}:{port}") as client:
                    for sock in gone:
                        sock.close()
                    await server.drain(5)
                    assert (await client.wait_closed()).code == 1001
            assert not server.connections

        run(scenario())

    def test_a_transport_that_comes_behind_the_end(self) -> None:
        """It was accepted before, and has agreed on TLS since."""

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                pass
            connection, transport = _ServerConnection(server), Transport()
            connection.connection_made(transport)
            assert transport.calls == ["abort"]
            connection.connection_lost(None)
            assert not server.connections

        run(scenario())

    def test_one_sub_protocol_is_no_list(self) -> None:
        async def scenario() -> None:
            with pytest.raises(TypeError, match="a sequence of names"):
                Server(echo, subprotocols="sip")

        run(scenario())


class TestClient:
    """What the suite does not say of clients; proxies and names have tests of their own."""

    def test_another_place(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                port = server.addresses[0][1]
                async with connect("ws://nowhere.invalid", host=HOST, port=port) as client:
                    await client.send("x")
                    assert await client.recv() == "x"
                sock = socket.create_connection((HOST, port))
                async with connect("ws://nowhere.invalid", sock=sock, proxy="http://p") as client:
                    await client.send("y")
                    assert await client.recv() == "y"

        run(scenario())

    def test_a_proxy(self) -> None:
        with socket.create_server((HOST, 0)) as sock:
            place = f"http://{HOST}:{sock.getsockname()[1]}"

        async def scenario() -> None:
            with pytest.raises(ConnectionRefusedError):
                await open_connection("ws://nowhere.invalid", proxy=place)
            with pytest.raises(ValueError, match="proxy's URI"):
                await open_connection("ws://nowhere.invalid", proxy="x://p")

        run(scenario())

    def test_reconnection(self) -> None:
        async def scenario() -> None:
            async with (
                serve(echo, HOST, 0) as server,
                reconnect(f"ws://{HOST}:{server.addresses[0][1]}") as connections,
            ):
                async for connection in connections:
                    await connection.send("x")
                    assert await connection.recv() == "x"
                    break

        run(scenario())


class TestLeaks:
    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
    def test_soak(self) -> None:
        """Connections that come, talk and go in every way leave nothing behind."""
        generator = random.Random(7)

        async def one(port: int, way: int) -> None:
            if way == 0:
                async with connect(f"ws://{HOST}:{port}") as connection:
                    await connection.send("x" * 1000)
                    await connection.recv()
            elif way == 1:
                websocket = await peer(port)
                await websocket.send("x")
                reset(websocket.transport.get_extra_info("socket"))
                websocket.transport.abort()
            elif way == 2:
                _, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
                writer.close()
                await writer.wait_closed()
            else:
                connection = await open_connection(f"ws://{HOST}:{port}")
                await connection.ping()
                connection.abort()

        async def batch(server: Server, count: int) -> tuple[int, int, int]:
            port = server.addresses[0][1]
            await asyncio.gather(*(one(port, generator.randrange(4)) for _ in range(count)))
            await turns(lambda: not server.connections and not server._tasks)
            gc.collect()
            loop: Any = asyncio.get_running_loop()
            sessions = sum(isinstance(item, Session) for item in gc.get_objects())
            timers = sum(not timer.cancelled() for timer in loop._scheduled)
            return sessions, len(os.listdir("/proc/self/fd")), timers

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                first = await batch(server, 20)
                for _ in range(7):
                    last = await batch(server, 40)
            assert last[1:] == first[1:]
            assert last[0] <= first[0]

        run(scenario())


class Transport(asyncio.Transport):
    """One that takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.backlog = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 65536

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def write(self, data: Any) -> None:
        self.backlog += len(data)

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.calls.append("close")

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def abort(self) -> None:
        self.calls.append("abort")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def opened(**options: Any) -> tuple[Connection, Transport]:
    """A server's connection on a transport that takes nothing."""
    config = adapted(SessionConfig(**options))
    now = asyncio.get_running_loop().time()
    connection = Connection(Session(ConnectionType.SERVER, now=now, config=config))
    transport = Transport()
    connection.connection_made(transport)
    receive(connection, REQUEST)
    connection.accept(AcceptConnection())
    transport.backlog = 0
    return connection, transport


def receive(connection: Connection, data: bytes) -> None:
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


@pytest.mark.parametrize("ahead", [False, True])
def test_buffers(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections share one, but where a loop reads while it does something else."""
    monkeypatch.setattr(_asyncio_connection, "_READS_AHEAD", ahead)

    async def scenario() -> None:
        (one, _), (other, _) = opened(), opened()
        assert (one.get_buffer(-1) is other.get_buffer(-1)) != ahead
        for connection in (one, other):
            connection.abort()
            connection.connection_lost(None)

    run(scenario())


class TestCallbacks:
    """What a loop may do at awkward moments."""

    def test_tls_fails(self) -> None:
        async def scenario() -> None:
            connection, _ = opened()
            await connection.wait_opened()
            connection.connection_lost(ssl.SSLError("bad record"))
            assert connection.closed
            assert (connection.closed.code, connection.closed.cause) == (1015, Cause.TLS)
            with pytest.raises(ConnectionClosedError) as caught:
                async for _message in connection:
                    pass
            assert caught.value.event is connection.closed

        run(scenario())

    def test_the_transport_is_lost_while_messages_wait(self) -> None:
        """The end stands behind them, and nothing can be sent any more."""

        async def scenario() -> None:
            connection, transport = opened()
            for number in range(17):
                receive(connection, frame(0x81, b"%d" % number))
            receive(connection, frame(0x81, b"last"))
            connection.pause_writing()
            waiting = asyncio.create_task(connection.send("x"))
            await asyncio.sleep(0)
            connection.connection_lost(None)
            assert connection.closed is None
            for sending in (waiting, connection.send("y"), connection.ping()):
                with pytest.raises(ConnectionClosedError, match="the transport has ended"):
                    await sending
            assert transport.backlog == 0
            assert [await connection.recv() for _ in range(18)][-1] == "last"
            with pytest.raises(ConnectionClosedError):
                await connection.recv()

        run(scenario())

    def test_the_transport_closes_before_the_session(self) -> None:
        async def scenario() -> None:
            connection, transport = opened()
            transport.abort()
            connection.begin_close()
            assert transport.backlog == 0
            connection.connection_lost(None)

        run(scenario())

    def test_answer_to_a_ping_that_was_cancelled(self) -> None:
        async def scenario() -> None:
            connection, _ = opened()
            pings = [asyncio.create_task(connection.ping(text)) for text in (b"1", b"2")]
            await asyncio.sleep(0)
            for ping in pings:
                ping.cancel()
            receive(connection, frame(0x8A, b"1"))
            connection.connection_lost(None)
            await asyncio.gather(*pings, return_exceptions=True)
            assert [ping.cancelled() for ping in pings] == [True] * 2

        run(scenario())

    def test_room_for_a_sender_that_was_cancelled(self) -> None:
        async def scenario() -> None:
            connection, transport = opened()
            connection.pause_writing()
            sending = [asyncio.create_task(connection.send(text)) for text in ("no", "yes")]
            await asyncio.sleep(0)
            sending[0].cancel()
            connection.resume_writing()
            await asyncio.gather(*sending, return_exceptions=True)
            assert [task.cancelled() for task in sending] == [True, False]
            assert transport.backlog == 2 + 3
            connection.abort()
            connection.connection_lost(None)

        run(scenario())

    def test_much_is_sent_behind_the_peers_close_frame(self) -> None:
        """The answer is not put off for more than the high-water mark."""

        async def scenario() -> None:
            connection, transport = opened()
            receive(connection, frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert connection.session.state is ConnectionState.REMOTE_CLOSING
            assert await connection.recv() == "x"
            await connection.send(bytes(60_000))
            assert transport.backlog == 0
            await connection.send(bytes(6_000))
            assert transport.backlog == 60_000 + 6_000 + 2 * 4 + 4
            assert transport.calls == ["write_eof"]
            connection.connection_lost(None)
            assert (await connection.wait_closed()).code == 1000

        run(scenario())

    def test_nobody_answers_in_front_of_the_close_frame(self) -> None:
        async def scenario() -> None:
            connection, transport = opened()
            receive(connection, frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert transport.backlog == 0
            # A second later, by the clock that is asked.
            now = connection._time()
            connection._time = lambda: now + 1.5
            assert connection._timer
            connection._timer.cancel()
            connection._on_timer()
            assert transport.backlog == 4
            connection.connection_lost(None)

        run(scenario())

    def test_reading_goes_on_behind_an_error(self) -> None:
        """What the peer still sends is dropped, and its end is seen."""

        async def scenario() -> None:
            connection, transport = opened()
            for number in range(17):
                receive(connection, frame(0x81, b"%d" % number))
            assert transport.calls == ["pause"]
            receive(connection, b"\x83\x80\x00\x00\x00\x00")
            assert transport.calls == ["pause"]
            assert [await connection.recv() for _ in range(17)] == list(map(str, range(17)))
            assert transport.calls == ["pause", "resume", "write_eof"]
            connection.eof_received()
            connection.connection_lost(None)
            assert connection.closed
            assert connection.closed.cause is Cause.PROTOCOL_ERROR

        run(scenario())

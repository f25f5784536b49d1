"""The asyncio adapter: the suite on both loops, back-pressure, cancellation, and leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
import threading
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters._arguments import adapted
from wsproto_sip.adapters.asyncio import (
    Backoff,
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    Server,
    connect,
    reconnect,
    serve,
)
from wsproto_sip.adapters.asyncio.server import _ServerConnection
from wsproto_sip.events import AcceptConnection, Ping, Pong
from wsproto_sip.policy.decision import Reject
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import Cause
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType

from ..._sessions import REQUEST, frame
from .._ends import Plan, plans
from .._strain import Strain
from .._suite import (
    BOUND,
    HOST,
    UPGRADE,
    certificates,
    echo,
    nothing_leaks,
    peer,
    place,
    reset,
    turns,
)
from .._transport import Transport, play, receive

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterator,
    )

    from .._suite import End


class OnAsyncio(Strain):
    """The suite, with a check for leaks."""

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        async with serve(program, *place(options), **options) as server:
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
            async with nothing_leaks():
                await scenario

        super().run(checked())

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize("call", ["send", "pong", "pieces"])
    def test_endless_sender_notices_a_reset(self, call: str, tls: bool) -> None:
        """A task that never has to wait lets the loop report the end."""
        most = 100_000
        sent: list[int] = []
        for_server, for_client = certificates()
        go, gone = threading.Event(), threading.Event()

        def client(port: int) -> None:
            with socket.create_connection((HOST, port)) as raw, ExitStack() as stack:
                sock = raw
                if tls:
                    sock = stack.enter_context(
                        for_client.wrap_socket(raw, server_hostname="localhost")
                    )
                sock.sendall(UPGRADE)
                go.wait()
                reset(sock)
            gone.set()

        def count() -> Iterator[bytes]:
            for number in range(most):
                if number == 100:
                    go.set()
                    # The loop stands still meanwhile.
                    gone.wait()
                yield b"x"
                sent.append(number)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in count():
                yield piece

        async def scenario() -> None:
            over = asyncio.Event()

            async def program(connection: Any) -> None:
                with suppress(ConnectionClosedError):
                    if call == "pieces":
                        await connection.send(pieces())
                    else:
                        for data in count():
                            await getattr(connection, call)(data)
                over.set()

            async with self.serving(program, ssl=for_server if tls else None) as port:
                thread = threading.Thread(target=client, args=(port,))
                thread.start()
                await over.wait()
                thread.join()

        self.run(scenario())
        assert len(sent) < most


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
        async with asyncio.timeout(BOUND), nothing_leaks():
            await scenario

    asyncio.run(bounded())


@asynccontextmanager
async def pair(
    *, config: SessionConfig | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connect a server's and a client's connection, both of ours."""
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
    """Neither side buffers more than its bounds."""

    def test_pings_are_answered_after_a_backlog(self) -> None:
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

    def test_messages_before_a_reset_can_be_received(self) -> None:
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


class TestPieces:
    def test_other_sender_waits_for_an_asynchronous_iterator(self) -> None:
        """The other sender's message comes after the pieces."""

        async def scenario() -> None:
            async with pair() as (server, client):

                async def pieces() -> AsyncIterator[str]:
                    yield "a"
                    others.append(asyncio.create_task(client.send("other")))
                    await asyncio.sleep(0)
                    client.pause_writing()
                    asyncio.get_running_loop().call_soon(client.resume_writing)
                    yield "b"

                others: list[asyncio.Task[None]] = []
                await client.send(pieces())
                assert [await server.recv(), await server.recv()] == ["ab", "other"]
                await others[0]
                # Two that send pieces take turns.
                both = [client.send(["x", "y"]), client.send(["z"])]
                await asyncio.gather(*both)
                assert [await server.recv(), await server.recv()] == ["xy", "z"]

        run(scenario())

    def test_pieces_and_messages_are_received_by_one_task_at_a_time(self) -> None:
        async def scenario() -> None:
            async with pair() as (server, client):
                pieces = server.recv_streaming()
                waiting = asyncio.create_task(anext(pieces))
                await asyncio.sleep(0)
                for call in (server.recv, lambda: anext(server.recv_streaming())):
                    with pytest.raises(RuntimeError, match="another task receives"):
                        await call()
                # A cancelled call loses nothing.
                waiting.cancel()
                await asyncio.wait([waiting])
                receiving = asyncio.create_task(server.recv())
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match="another task receives"):
                    await anext(pieces)
                more = asyncio.Event()

                async def slowly() -> AsyncIterator[str]:
                    yield "a"
                    await more.wait()
                    yield "b"

                sending = asyncio.create_task(client.send(slowly()))
                queue = server._receive_pieces()
                await turns(lambda: bool(queue._parts))
                receiving.cancel()
                await asyncio.wait([receiving])
                assert await anext(pieces) == "a"
                more.set()
                await sending
                assert [piece async for piece in pieces] == ["b"]
                assert [piece async for piece in pieces] == []

        run(scenario())


class TestCancelling:
    """Cancelling anywhere loses nothing and leaks nothing."""

    def test_cancelled_recv_keeps_the_message(self) -> None:
        """A message is returned, or stays."""

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

    def test_cancelled_send_is_whole_or_absent(self) -> None:
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
    def test_cancelled_client_leaves_nothing(self, steps: int) -> None:
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
                # The server still works.
                async with connect(f"ws://{HOST}:{port}") as connection:
                    await connection.send("still there?")
                    assert await connection.recv() == "still there?"

        run(scenario())

    def test_cancelled_ping_and_close(self) -> None:
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

    def test_unfinished_handler_is_cancelled(self) -> None:
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
                connection = await connect(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert caught.value.code == 1001
            assert await connection.wait_closed() == caught.value.event

        run(scenario())
        assert cancelled == [True]


class TestServer:
    def test_server_listens_on_two_places(self) -> None:
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

    def test_missing_place_is_a_type_error(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                port = server.addresses[0][1]
                with pytest.raises(OSError, match="in use"):
                    async with serve(echo, HOST, port):
                        pass

        run(scenario())

    def test_drain_drops_a_silent_peer(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0, drain=0.01) as server:
                reader, writer = await asyncio.open_connection(HOST, server.addresses[0][1])
                writer.write(REQUEST)
                await reader.readuntil(b"\r\n\r\n")
            with suppress(ConnectionResetError):
                # Going away, and nothing after it.
                assert await reader.read() == b"\x88\x02\x03\xe9"
            writer.close()

        run(scenario())

    def test_drain_survives_a_lost_peer(self) -> None:
        """What is written to it resets the connection; the others are closed anyway."""

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

    def test_late_transport_is_dropped(self) -> None:
        """It was accepted before, and has completed its TLS handshake since."""

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                pass
            connection, transport = _ServerConnection(server), Transport()
            connection.connection_made(transport)
            assert transport.calls == ["abort"]
            connection.connection_lost(None)
            assert not server.connections

        run(scenario())

    def test_handler_that_is_not_async_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        def handler(connection: Connection) -> None: ...

        async def scenario() -> None:
            async with serve(handler, HOST, 0) as server:  # type: ignore[arg-type]
                connection = await connect(f"ws://{HOST}:{server.addresses[0][1]}")
                assert (await connection.wait_closed()).code == 1011

        run(scenario())
        assert "handler() must be an async function: it returned None" in caplog.text

    def test_single_sub_protocol_is_refused(self) -> None:
        async def scenario() -> None:
            with pytest.raises(TypeError, match="a sequence of names"):
                Server(echo, subprotocols="sip")

        run(scenario())


class TestClient:
    """Clients, beyond the suite; proxies and names have tests of their own."""

    def test_host_and_port_override_the_uri(self) -> None:
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

    def test_proxy_is_used(self) -> None:
        with socket.create_server((HOST, 0)) as sock:
            place = f"http://{HOST}:{sock.getsockname()[1]}"

        async def scenario() -> None:
            with pytest.raises(ConnectionRefusedError):
                await connect("ws://nowhere.invalid", proxy=place)
            with pytest.raises(ValueError, match="proxy's URI"):
                await connect("ws://nowhere.invalid", proxy="x://p")

        run(scenario())

    def test_redirect_on_a_given_socket_is_raised(self) -> None:
        """The socket is used already, so the redirect is raised."""

        async def elsewhere(connection: Connection) -> None:
            raise HandshakeRejected(302, [(b"Location", b"/")])

        async def scenario() -> None:
            async with serve(echo, HOST, 0, process_request=elsewhere) as server:
                sock = socket.create_connection(server.addresses[0])
                with pytest.raises(HandshakeRejected):
                    await connect("ws://nowhere.invalid", sock=sock)

        run(scenario())

    def test_connect_can_be_awaited_once(self) -> None:
        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                connecting = connect(f"ws://{HOST}:{server.addresses[0][1]}")
                connection = await connecting
                await connection.send("x")
                assert await connection.recv() == "x"
                await connection.close()
                with pytest.raises(RuntimeError, match="awaited only once"):
                    async with connecting:
                        pass

        run(scenario())

    def test_reconnect_to_a_fixed_uri(self) -> None:
        async def scenario() -> None:
            async with (
                serve(echo, HOST, 0) as server,
                reconnect(f"ws://{HOST}:{server.addresses[0][1]}") as connections,
            ):
                connection = await anext(connections)
                await connection.send("x")
                assert await connection.recv() == "x"

        run(scenario())

    def test_uri_and_headers_are_renewed_for_each_attempt(self) -> None:
        """The URI and the header fields are computed for each attempt."""
        asked: list[str] = []

        async def program(connection: Connection) -> None:
            assert connection.request
            asked.append(connection.request.target)
            asked.append(dict(connection.request.extra_headers)[b"x"].decode())

        async def scenario() -> None:
            async with serve(program, HOST, 0) as server:

                def uri() -> str:
                    return f"ws://{HOST}:{server.addresses[0][1]}/{len(asked)}"

                async def headers() -> dict[str, str]:
                    await asyncio.sleep(0)
                    return {"X": str(len(asked))}

                backoff = Backoff(first=1e-6, longest=1e-6)
                async with reconnect(uri, headers=headers, backoff=backoff) as connections:
                    async for connection in connections:
                        await connection.wait_closed()
                        if len(asked) == 4:
                            break

        run(scenario())
        assert asked == ["/0", "0", "/2", "2"]

    def test_reconnect_checks_its_arguments_at_once(self) -> None:
        with pytest.raises(TypeError, match=r"connect\(\) got .* 'ping_interval'"):
            reconnect("ws://h", ping_interval=5)  # type: ignore[call-arg]
        with socket.socket() as sock, pytest.raises(TypeError, match="the same sock="):
            reconnect("ws://h", sock=sock)


class TestLeaks:
    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
    def test_soak(self) -> None:
        """Connections that end in every possible way leave no resources."""
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
                connection = await connect(f"ws://{HOST}:{port}")
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


def opened(**options: Any) -> tuple[Connection, Transport]:
    """Return a server connection on a transport that writes nothing."""
    config = adapted(SessionConfig(**options))
    now = asyncio.get_running_loop().time()
    connection = Connection(Session(ConnectionType.SERVER, now=now, config=config))
    transport = Transport()
    connection.connection_made(transport)
    receive(connection, REQUEST)
    connection.accept(AcceptConnection())
    transport.backlog = 0
    return connection, transport


async def receive_all(source: AsyncIterable[str | bytes]) -> None:
    async for _ in source:
        pass


async def send_while_full(connection: Connection) -> None:
    connection.pause_writing()
    await connection.send("x")


#: What a program may call although the connection has ended.
CALLS: dict[str, Callable[[Connection], Coroutine[Any, Any, object]]] = {
    "recv": lambda connection: connection.recv(),
    "for": receive_all,
    "recv_streaming": lambda connection: receive_all(connection.recv_streaming()),
    "send": lambda connection: connection.send("x"),
    "send-full": send_while_full,
    "send-pieces": lambda connection: connection.send(["x"]),
    "ping": lambda connection: connection.ping(),
    "pong": lambda connection: connection.pong(),
}


@given(plans(), st.sampled_from([None, ConnectionResetError()]))
def test_any_burst_and_end_of_the_transport(plan: Plan, lost: Exception | None) -> None:
    """All messages arrive, and then the peer's own end."""

    async def scenario() -> None:
        connection, transport = opened()
        program = asyncio.create_task(plan.follow(connection, partial(asyncio.sleep, 0)))
        await play(plan, connection, transport, lost)
        await program

    run(scenario())


class TestCallbacks:
    """Callbacks of a loop at awkward moments."""

    def test_tls_failure_is_reported(self) -> None:
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

    def test_lost_transport_keeps_unreceived_messages(self) -> None:
        """The end is known before they are received, and nothing can be sent."""

        async def scenario() -> None:
            connection, transport = opened()
            for number in range(17):
                receive(connection, frame(0x81, b"%d" % number))
            receive(connection, frame(0x81, b"last") + frame(0x88, b"\x0f\xa1"))
            connection.pause_writing()
            waiting = asyncio.create_task(connection.send("x"))
            await asyncio.sleep(0)
            connection.connection_lost(None)
            assert connection.closed
            assert connection.closed.code == 4001
            for sending in (waiting, connection.send("y"), connection.ping()):
                with pytest.raises(ConnectionClosedError) as caught:
                    await sending
                assert caught.value.event is connection.closed
            assert await connection.wait_closed() is connection.closed
            assert transport.backlog == 0
            assert [await connection.recv() for _ in range(18)][-1] == "last"
            with pytest.raises(ConnectionClosedError):
                await connection.recv()

        run(scenario())

    @pytest.mark.parametrize("call", sorted(CALLS))
    @pytest.mark.parametrize("code", [b"\x03\xe8", b"\x0f\xa1"])
    def test_call_after_the_end_lets_others_run(self, call: str, code: bytes) -> None:
        """A handler that ignores the end, and calls again and again, does not stop the loop."""

        async def scenario() -> None:
            connection, _ = opened()
            receive(connection, frame(0x88, code))
            connection.connection_lost(None)
            for _ in range(3):
                others = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(others.set_result, None)
                for _ in range(2):
                    error: ConnectionClosedError | None = None
                    try:
                        await CALLS[call](connection)
                    except ConnectionClosedError as exc:
                        error = exc
                    # Only a loop over messages ends without an error, if the end is in order.
                    assert (error is None) == (call == "for" and code == b"\x03\xe8")
                    assert error is None or error.event is connection.closed
                    assert error is None or error.__suppress_context__ or error.__context__ is None
                assert others.done()

        run(scenario())

    @pytest.mark.parametrize("call", sorted(CALLS))
    def test_call_after_the_end_under_a_timeout_of_0(self, call: str) -> None:
        """A program that polls is told of the end, whatever others were told before."""

        async def scenario() -> None:
            connection, _ = opened()
            receive(connection, frame(0x88, b"\x0f\xa1"))
            connection.connection_lost(None)
            for _ in range(3):
                with pytest.raises(ConnectionClosedError):
                    async with asyncio.timeout(0):
                        await CALLS[call](connection)
                await asyncio.sleep(0)

        run(scenario())

    def test_transport_closing_before_the_session(self) -> None:
        async def scenario() -> None:
            connection, transport = opened()
            transport.abort()
            connection.begin_close()
            assert transport.backlog == 0
            connection.connection_lost(None)

        run(scenario())

    def test_pong_for_a_cancelled_ping_is_ignored(self) -> None:
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

    def test_room_goes_to_the_next_sender_after_a_cancelled_one(self) -> None:
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

    def test_close_frame_is_answered_above_high_water(self) -> None:
        """The answer is not delayed once output exceeds the high-water mark."""

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

    def test_close_frame_is_answered_after_a_while(self) -> None:
        async def scenario() -> None:
            connection, transport = opened()
            receive(connection, frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert transport.backlog == 0
            # A second later, by the patched clock.
            now = connection._time()
            connection._time = lambda: now + 1.5
            assert connection._timer
            connection._timer.cancel()
            connection._on_timer()
            assert transport.backlog == 4
            connection.connection_lost(None)

        run(scenario())

    def test_reading_stops_while_work_is_left(self) -> None:
        """A peer that sends faster than its frames are parsed does not fill the memory."""

        async def scenario() -> None:
            connection, transport = opened()
            receive(connection, frame(0x01) + frame(0x00) * 100)
            assert connection.session.has_work
            receive(connection, frame(0x00))
            assert transport.calls == ["pause"]
            while connection.session.has_work:
                connection._on_timer()
            assert transport.calls == ["pause", "resume"]
            connection.connection_lost(None)

        run(scenario())

    def test_reading_continues_after_an_error(self) -> None:
        """The rest of the peer's input is dropped, and its end is noticed."""

        async def scenario() -> None:
            connection, transport = opened()
            for number in range(17):
                receive(connection, frame(0x81, b"%d" % number))
            assert transport.calls == ["pause"]
            receive(connection, b"\x83\x80\x00\x00\x00\x00")
            assert transport.calls == ["pause"]
            assert [await connection.recv() for _ in range(17)] == list(map(str, range(17)))
            # The last message may still be answered, until the next is asked for.
            assert transport.calls == ["pause"]
            more = asyncio.ensure_future(connection.recv())
            await asyncio.sleep(0)
            assert transport.calls == ["pause", "resume", "write_eof"]
            connection.eof_received()
            connection.connection_lost(None)
            with pytest.raises(ConnectionClosedError):
                await more
            assert connection.closed
            assert connection.closed.cause is Cause.PROTOCOL_ERROR

        run(scenario())


def test_on_wire_is_called_with_all_bytes() -> None:
    async def scenario() -> None:
        seen: dict[Connection, list[bytes]] = {}

        async def redirect(connection: Connection) -> Reject | None:
            assert connection.request is not None
            if connection.request.target == "/":
                return Reject(302, headers=[(b"Location", b"/there")])
            return None

        def show(connection: Connection, data: bytes, sent: bool) -> None:
            both = seen.setdefault(connection, [b"", b""])
            both[sent] += data

        async with (
            serve(echo, HOST, 0, process_request=redirect) as server,
            connect(f"ws://{HOST}:{server.addresses[0][1]}/", on_wire=show) as connection,
        ):
            await connection.send("hello")
            assert await connection.recv() == "hello"
            assert connection.writable
        first, second = seen.values()
        assert first[True].startswith(b"GET / HTTP/1.1\r\n")
        assert first[False].startswith(b"HTTP/1.1 302 ")
        sent, received = second[True], second[False]
        assert sent.startswith(b"GET /there HTTP/1.1\r\n")
        assert received.partition(b"\r\n\r\n")[2] == b"\x81\x05hello\x88\x02\x03\xe8"
        assert len(sent.partition(b"\r\n\r\n")[2]) == 11 + 8

    run(scenario())


def test_on_control_is_called_with_control_frames() -> None:
    async def scenario() -> None:
        seen: list[Ping | Pong] = []

        async def handler(connection: Connection) -> None:
            await connection.ping(b"are you there")
            await connection.send("done")
            await connection.wait_closed()
            await connection.wait_closed()

        async with (
            serve(handler, HOST, 0) as server,
            connect(f"ws://{HOST}:{server.addresses[0][1]}/", on_control=seen.append) as connection,
        ):
            assert await connection.recv() == "done"
            await connection.ping(b"and you")
        assert seen == [Ping(b"are you there"), Pong(b"and you")]

    run(scenario())

"""The trio adapter: the suite, cancellation, deadlines by trio's clock, and leaks."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("trio")

import trio
import trio.testing
from trio.testing import MockClock

from wsproto_sip.adapters._arguments import adapted
from wsproto_sip.adapters.trio import (
    Backoff,
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    connect,
    open_connection,
    reconnect,
    serve,
    serve_forever,
)
from wsproto_sip.events import AcceptConnection
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

from ..._sessions import REQUEST, frame
from .._ends import BURST, NUMBERS, Plan, plans
from .._strain import Strain
from .._suite import BOUND, HOST, certificates, place

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine

    from wsproto_sip.adapters._pieces import AsyncPieceIterator
    from wsproto_sip.session.lifecycle import ConnectionClosed

    from .._suite import End


CERTIFICATES = certificates()


class TrioThread:
    """Trio's loop in a thread of its own, next to the asyncio loop of the peers."""

    def __enter__(self) -> TrioThread:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()

    async def _main(self) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery:
            self._started.set()
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()

    async def call(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Run a function there."""
        return await asyncio.to_thread(
            partial(trio.from_thread.run, function, *arguments, trio_token=self._token)
        )

    @asynccontextmanager
    async def enter(
        self, make: Callable[[], AbstractAsyncContextManager[Any]]
    ) -> AsyncIterator[Any]:
        """Keep a context manager of trio open there."""
        release, left = trio.Event(), trio.Event()

        async def hold(task_status: trio.TaskStatus[Any]) -> None:
            try:
                async with make() as value:
                    task_status.started(value)
                    await release.wait()
            finally:
                left.set()

        async def leave() -> None:
            release.set()
            await left.wait()

        value = await self.call(self.nursery.start, hold)
        try:
            yield value
        finally:
            await self.call(leave)


class Pieces:
    """An iterator over pieces on trio, with the interface of a scenario on asyncio."""

    def __init__(self, pieces: AsyncPieceIterator, call: Any) -> None:
        self._pieces = pieces
        self._call = call

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            piece: str | bytes = await self._call(self._pieces.__anext__)
        except StopAsyncIteration:
            raise StopAsyncIteration from None
        return piece


class Ended:
    """A connection on trio with the interface of a scenario on asyncio.

    Args:
        connection: The connection.
        loop: The loop it belongs to.
    """

    def __init__(self, connection: Connection, loop: TrioThread) -> None:
        self.connection = connection
        self._call = loop.call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def send(self, message: str | bytes) -> None:
        await self._call(self.connection.send, message)

    async def recv(self) -> str | bytes:
        message: str | bytes = await self._call(self.connection.recv)
        return message

    async def ping(self, payload: bytes | None = None) -> float:
        seconds: float = await self._call(self.connection.ping, payload)
        return seconds

    async def pong(self, payload: bytes = b"") -> None:
        await self._call(self.connection.pong, payload)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._call(self.connection.close, code, reason)

    async def wait_closed(self) -> ConnectionClosed:
        closed: ConnectionClosed = await self._call(self.connection.wait_closed)
        return closed

    def recv_streaming(self) -> Pieces:
        return Pieces(self.connection.recv_streaming(), self._call)

    def __aiter__(self) -> Ended:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            message: str | bytes = await self._call(self.connection.__anext__)
        except StopAsyncIteration:
            raise StopAsyncIteration from None
        return message


class TestTrio(Strain):
    """The suite; programs of servers run on trio."""

    trio: TrioThread

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        async with self.trio.enter(lambda: serve(program, *place(options), **options)) as server:
            yield server.addresses[0][1]
        assert not server.connections

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        async with self.trio.enter(lambda: connect(uri, **options)) as connection:
            yield Ended(connection, self.trio)
        assert connection._lost.is_set()

    async def nap(self) -> None:
        await trio.lowlevel.checkpoint()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with TrioThread() as self.trio:
            super().run(scenario)


# -- specific to trio -----------------------------------------------------------------------------


def run(scenario: Callable[[], Awaitable[None]], clock: trio.abc.Clock | None = None) -> None:
    """Run a scenario on trio, within the time limit."""

    async def bounded() -> None:
        with trio.fail_after(BOUND if clock is None else inf):
            await scenario()

    trio.run(bounded, clock=clock)


async def echo_all(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def pair(
    *, config: SessionConfig | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connect a server's and a client's connection, both of ours."""
    config = config or SessionConfig()
    there: list[Connection] = []
    arrived = trio.Event()

    async def program(connection: Connection) -> None:
        there.append(connection)
        arrived.set()
        await connection.wait_closed()

    async with (
        serve(program, HOST, 0, config=config, **options) as server,
        connect(f"ws://{HOST}:{server.addresses[0][1]}", config=config) as client,
    ):
        await arrived.wait()
        yield there[0], client


@asynccontextmanager
async def raw(
    *, sockets: bool = False, **options: Any
) -> AsyncIterator[tuple[Connection, trio.abc.HalfCloseableStream]]:
    """Yield an open server connection, and the other end of its stream, which is in memory."""
    ours: trio.abc.HalfCloseableStream
    theirs: trio.abc.HalfCloseableStream
    if sockets:
        # Bound the bytes in transit.
        ours, theirs = (trio.SocketStream(sock) for sock in trio.socket.socketpair())
    else:
        ours, theirs = trio.testing.memory_stream_pair()
    config = adapted(SessionConfig(**options))
    session = Session(ConnectionType.SERVER, now=trio.current_time(), config=config)
    async with trio.open_nursery() as nursery:
        connection = Connection(session, ours)
        nursery.start_soon(connection.run)
        await theirs.send_all(REQUEST)
        await connection.wait_requested()
        assert connection.answer(AcceptConnection())
        await read_until(theirs, b"\r\n\r\n")
        yield connection, theirs
        connection.abort()
        await trio.aclose_forcefully(theirs)


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await stream.receive_some(65536)
    return data


async def receive_for_ever(connection: Connection, got: list[str | bytes]) -> None:
    while True:
        got.append(await connection.recv())


async def send_for_ever(connection: Connection) -> None:
    while True:
        await connection.send(bytes(50_000))


async def receive_all(source: AsyncIterable[str | bytes]) -> None:
    async for _ in source:
        pass


#: What a program may call although the connection has ended.
CALLS: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "recv": lambda connection: connection.recv(),
    "for": receive_all,
    "recv_streaming": lambda connection: receive_all(connection.recv_streaming()),
    "send": lambda connection: connection.send("x"),
    "send-pieces": lambda connection: connection.send(["x"]),
    "ping": lambda connection: connection.ping(),
    "pong": lambda connection: connection.pong(),
    "close": lambda connection: connection.close(),
    "wait_closed": lambda connection: connection.wait_closed(),
}


@settings(deadline=None)
@given(plans(), st.sampled_from(["eof", "close"]))
def test_any_burst_and_end_of_the_stream(plan: Plan, way: str) -> None:
    """All messages arrive, and then the peer's own end."""

    async def scenario() -> None:
        async with raw(sockets=True) as (connection, theirs), trio.open_nursery() as nursery:
            follow = partial(plan.follow, cast("End", connection), trio.lowlevel.checkpoint)
            nursery.start_soon(follow)
            for data in plan.writes:
                await theirs.send_all(data)
            if way == "eof":
                await theirs.send_eof()
            else:
                await theirs.aclose()

    run(scenario)


class TestDeadlines:
    """With trio's clock, which moves by itself when nothing else can happen."""

    def test_silent_peer_is_pinged_and_dropped(self) -> None:
        async def scenario() -> None:
            keepalive = KeepaliveConfig(application_data=b"?")
            async with raw(keepalive=keepalive) as (connection, theirs):
                begin = trio.current_time()
                for number in (1, 2):
                    assert await read_until(theirs, b"?") == b"\x89\x01?"
                    assert trio.current_time() == begin + 25 * number
                    await theirs.send_all(frame(0x8A, b"?"))
                assert await read_until(theirs, b"?") == b"\x89\x01?"
                assert (await connection.wait_closed()).cause is Cause.KEEPALIVE
                assert trio.current_time() == begin + 75 + 20

        run(scenario, MockClock(autojump_threshold=0))

    def test_connection_is_closed_at_its_maximum_age(self) -> None:
        async def scenario() -> None:
            keepalive = KeepaliveConfig(mechanism=Mechanism.NONE)
            async with raw(keepalive=keepalive, max_age=3600.0) as (connection, theirs):
                begin = trio.current_time()
                await theirs.send_all(frame(0x81, b"x"))
                assert await connection.recv() == "x"
                assert (await read_until(theirs, b"age reached"))[:4] == b"\x88\x15\x03\xe9"
                assert trio.current_time() == begin + 3600
                assert (await connection.wait_closed()).cause is Cause.CLOSE_TIMEOUT
                assert trio.current_time() == begin + 3605

        run(scenario, MockClock(autojump_threshold=0))

    def test_answers_are_sent_before_the_close_frame(self) -> None:
        async def scenario() -> None:
            async with raw() as (connection, theirs):
                begin = trio.current_time()
                await theirs.send_all(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
                assert await connection.recv() == "x"
                await connection.send("y")
                assert await read_until(theirs, b"\x03\xe8") == b"\x81\x01y\x88\x02\x03\xe8"
                assert trio.current_time() == begin + 1

        run(scenario, MockClock(autojump_threshold=0))

    def test_slow_handshake_is_dropped(self) -> None:
        async def scenario() -> None:
            ours, theirs = trio.testing.memory_stream_pair()
            session = Session(ConnectionType.SERVER, now=trio.current_time())
            connection = Connection(session, ours)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                assert not await connection.wait_requested()
                assert trio.current_time() == 15
            assert (await theirs.receive_some()).startswith(b"HTTP/1.1 408 ")
            assert connection.closed
            assert connection.closed.cause is Cause.OPEN_TIMEOUT

        run(scenario, MockClock(autojump_threshold=0))


class TestCancelling:
    """Cancelling anywhere loses nothing and leaks nothing."""

    def test_cancelled_recv_keeps_the_message(self) -> None:
        """A message is returned, or stays."""
        generator = random.Random(1)
        received: list[str | bytes] = []

        async def scenario() -> None:
            async with pair() as (server, client), trio.open_nursery() as nursery:

                async def send() -> None:
                    for number in range(300):
                        await client.send(str(number))
                        if generator.random() < 0.5:
                            await trio.lowlevel.checkpoint()

                async def receive(scope: trio.CancelScope) -> None:
                    with scope:
                        if generator.random() < 0.5:
                            received.append(await server.recv())
                        else:
                            async for message in server:
                                received.append(message)

                nursery.start_soon(send)
                while len(received) < 300:
                    async with trio.open_nursery() as inner:
                        scope = trio.CancelScope()
                        inner.start_soon(receive, scope)
                        for _ in range(generator.randrange(5)):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

        run(scenario)
        assert received == list(map(str, range(300)))

    def test_cancelled_send_has_not_sent(self) -> None:
        """A message is sent whole or not at all: a cancelled call has not sent it."""
        generator = random.Random(2)

        async def scenario() -> None:
            sent: list[bytes] = []
            async with pair() as (server, client):

                async def send(number: int, scope: trio.CancelScope) -> None:
                    with scope:
                        message = number.to_bytes(4, "big") + bytes(30_000)
                        await client.send(message)
                        sent.append(message[:4])

                async def send_all() -> None:
                    for number in range(200):
                        async with trio.open_nursery() as inner:
                            scope = trio.CancelScope()
                            inner.start_soon(send, number, scope)
                            for _ in range(generator.randrange(6)):
                                await trio.lowlevel.checkpoint()
                            scope.cancel()
                    await client.send("last")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all)
                    got: list[bytes] = []
                    while (message := await server.recv()) != "last":
                        assert isinstance(message, bytes)
                        got.append(message[:4])
                        assert len(message) == 30_004
                assert got == sent
                assert 0 < len(sent) < 200

        run(scenario)

    @pytest.mark.parametrize("steps", [*range(0, 40, 2), 50, 70, 90, 120])
    @pytest.mark.parametrize("scheme", ["ws", "wss"])
    def test_cancelled_client_leaves_nothing(self, scheme: str, steps: int) -> None:
        server_side, client_side = CERTIFICATES
        tls = scheme == "wss"

        async def client(uri: str, scope: trio.CancelScope) -> None:
            with scope:
                async with connect(uri, ssl=client_side) as connection:
                    await connection.ping()
                    await connection.send("x" * 200_000)
                    await connection.recv()
                    await connection.close()

        async def scenario() -> None:
            async with serve(echo_all, HOST, 0, ssl=server_side if tls else None) as server:
                uri = f"{scheme}://{HOST}:{server.addresses[0][1]}"
                async with trio.open_nursery() as nursery:
                    scope = trio.CancelScope()
                    nursery.start_soon(client, uri, scope)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                # The server still works.
                async with connect(uri, ssl=client_side) as connection:
                    await connection.send("still there?")
                    assert await connection.recv() == "still there?"

        run(scenario)

    def test_cancelled_ping_and_close(self) -> None:
        async def scenario() -> None:
            async with raw() as (connection, theirs):
                for call in (connection.ping, connection.wait_closed, connection.close):
                    with trio.move_on_after(0.001) as scope:
                        await call()
                    assert scope.cancelled_caught
                assert not connection._pings
                # Closing continues by itself.
                await theirs.send_all(frame(0x88, b"\x03\xe8"))
                await read_until(theirs, b"\x88\x02\x03\xe8")
                await trio.aclose_forcefully(theirs)
                assert (await connection.wait_closed()).code == 1000

        run(scenario)

    def test_cancelled_nursery_drops_the_connection(self) -> None:
        """It is dropped when its nursery is cancelled."""

        async def scenario() -> None:
            async with serve(echo_all, HOST, 0) as server:
                uri = f"ws://{HOST}:{server.addresses[0][1]}"
                async with trio.open_nursery() as nursery:
                    connection = await open_connection(nursery, uri)
                    nursery.cancel_scope.cancel()
                assert connection.closed
                assert connection.closed.cause is Cause.LOCAL
                with pytest.raises(ConnectionClosedError):
                    await connection.send("x")

        run(scenario)

    def test_unfinished_handler_is_cancelled(self) -> None:
        """A program that does not end is cancelled when its time is up."""
        cancelled: list[bool] = []
        began = trio.Event()

        async def program(connection: Connection) -> None:
            began.set()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.append(True)
                raise

        async def scenario() -> None:
            async with trio.open_nursery() as nursery:
                async with serve(program, HOST, 0, drain=0.01) as server:
                    uri = f"ws://{HOST}:{server.addresses[0][1]}"
                    connection = await open_connection(nursery, uri)
                    await began.wait()
                with pytest.raises(ConnectionClosedError) as caught:
                    await connection.recv()
                assert caught.value.code == 1001
                assert await connection.wait_closed() == caught.value.event

        run(scenario)
        assert cancelled == [True]

    def test_cancelled_block_drops_all_connections(self) -> None:
        """It ends without waiting, and leaves nothing."""

        async def scenario() -> None:
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    async with serve(echo_all, HOST, 0) as server:
                        uri = f"ws://{HOST}:{server.addresses[0][1]}"
                        client = await open_connection(nursery, uri)
                        await client.send("x")
                        assert await client.recv() == "x"
                        scope.cancel()
                        await trio.sleep_forever()
                assert not server.connections
                assert (await client.wait_closed()).code in {1001, 1006}

        run(scenario)


class TestStructure:
    def test_exceptions_are_raised_ungrouped(self) -> None:
        async def scenario() -> None:
            async with (
                serve(echo_all, HOST, 0) as server,
                connect(f"ws://{HOST}:{server.addresses[0][1]}"),
            ):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(scenario)

    def test_closed_connection_in_a_group_is_not_a_failure(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Finding the connection closed is not a failure, even in an exception group."""

        async def program(connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.recv)
                await connection.wait_closed()

        async def scenario() -> None:
            async with (
                serve(program, HOST, 0) as server,
                connect(f"ws://{HOST}:{server.addresses[0][1]}"),
            ):
                pass

        run(scenario)
        assert not [record for record in caplog.records if record.exc_info]

    def test_serve_forever_reports_its_server(self) -> None:
        async def scenario() -> None:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve_forever, echo_all, HOST, 0)
                async with connect(f"ws://{HOST}:{server.addresses[0][1]}") as client:
                    await client.send("x")
                    assert await client.recv() == "x"
                nursery.cancel_scope.cancel()

        run(scenario)

    def test_server_listens_on_two_places(self) -> None:
        async def scenario() -> None:
            async with serve(echo_all, HOST, 0) as server:
                await server.listen(HOST, 0)
                assert len(server.addresses) == 2
                for _, port in server.addresses:
                    async with connect(f"ws://{HOST}:{port}") as client:
                        await client.send("x")
                        assert await client.recv() == "x"
                server.stop_listening()
                assert server.addresses == []

        run(scenario)

    def test_lack_of_descriptors_pauses_accepting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        failures = [OSError(errno.EMFILE, "Too many open files")] * 2
        accept = trio.SocketListener.accept

        async def scarce(listener: trio.SocketListener) -> trio.SocketStream:
            if failures:
                raise failures.pop()
            return await accept(listener)

        async def scenario() -> None:
            monkeypatch.setattr(trio.SocketListener, "accept", scarce)
            async with serve(echo_all, HOST, 0) as server:
                host, port = server.addresses[0]
                async with connect(f"ws://{host}:{port}/") as connection:
                    await connection.send("accepted all the same")
                    assert await connection.recv() == "accepted all the same"
            assert not failures

        run(scenario)

    def test_missing_place_is_a_type_error(self) -> None:
        async def scenario() -> None:
            async with serve(echo_all, HOST, 0) as server:
                with pytest.raises(OSError, match="in use"):
                    async with serve(echo_all, HOST, server.addresses[0][1]):
                        pass

        run(scenario)


class TestPieces:
    def test_asynchronous_iterator_is_sent_in_fragments(self) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            await trio.lowlevel.checkpoint()
            yield bytes(300_000)

        async def scenario() -> None:
            async with pair() as (server, client), trio.open_nursery() as nursery:
                nursery.start_soon(client.send, pieces())
                assert await server.recv() == b"a" + bytes(300_000)

        run(scenario)

    def test_pieces_and_messages_are_received_by_one_task_at_a_time(self) -> None:
        async def scenario() -> None:
            async with pair() as (server, client), trio.open_nursery() as nursery:
                pieces = server.recv_streaming()
                scope = trio.CancelScope()

                async def wait() -> None:
                    with scope:
                        await anext(pieces)

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                for call in (server.recv, lambda: anext(server.recv_streaming())):
                    with pytest.raises(RuntimeError, match="another task receives"):
                        await call()
                # A cancelled call loses nothing.
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                more = trio.Event()

                async def slowly() -> AsyncIterator[str]:
                    yield "a"
                    await more.wait()
                    yield "b"

                nursery.start_soon(client.send, slowly())
                with trio.CancelScope() as receiving:
                    server.on_control = lambda _: receiving.cancel()
                    nursery.start_soon(client.ping)
                    await server.recv()
                assert await anext(pieces) == "a"
                more.set()
                assert [piece async for piece in pieces] == ["b"]

        run(scenario)


class TestReconnecting:
    """One connection after another."""

    def test_each_end_is_followed_by_another_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another connection follows, however one ends, until the program stops."""
        caplog.set_level("INFO", "wsproto_sip.trio")
        asked: list[str] = []
        codes: list[int] = []

        async def process(connection: Connection) -> None:
            asked.append("")
            if len(asked) == 2:
                raise HandshakeRejected(503)

        async def program(connection: Connection) -> None:
            await connection.send(str(len(asked)))
            if len(asked) == 3:
                connection.abort()
            elif len(asked) == 4:
                await connection.close(1012)
            codes.append((await connection.wait_closed()).code)

        async def scenario() -> None:
            received = []
            async with serve(program, HOST, 0, process_request=process) as server:
                uri = f"ws://{HOST}:{server.addresses[0][1]}"
                backoff = Backoff(first=1e-6, longest=1e-6)
                async with reconnect(uri, backoff=backoff) as connections:
                    async for connection in connections:
                        with suppress(ConnectionClosedError):
                            received.append(await connection.recv())
                            if len(asked) in {3, 4}:
                                await connection.recv()
                        if len(asked) == 5:
                            break
                assert connection.closed
                assert connection.closed.code == 1000
            assert set(received) <= {"1", "3", "4", "5"}

        run(scenario)
        assert sorted(codes) == [1000, 1000, 1006, 1012]
        assert "the connection has ended; connecting again in 0.0 s" in caplog.text

    def test_uri_and_headers_are_renewed_for_each_attempt(self) -> None:
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
                    return {"X": str(len(asked))}

                backoff = Backoff(first=1e-6, longest=1e-6)
                async with reconnect(uri, headers=headers, backoff=backoff) as connections:
                    async for connection in connections:
                        await connection.wait_closed()
                        if len(asked) == 4:
                            break

        run(scenario)
        assert asked == ["/0", "0", "/2", "2"]

    def test_final_error_is_raised(self) -> None:
        async def process(connection: Connection) -> None:
            raise HandshakeRejected(403)

        async def scenario() -> None:
            async with (
                serve(echo_all, HOST, 0, process_request=process) as server,
                reconnect(f"ws://{HOST}:{server.addresses[0][1]}") as connections,
            ):
                with pytest.raises(HandshakeRejected):
                    await anext(connections)

        run(scenario)


class TestStreams:
    """Streams that fail at awkward moments."""

    def test_end_of_the_connection_wakes_a_sender(self) -> None:
        async def scenario() -> None:
            async with raw(sockets=True) as (connection, _), trio.open_nursery() as nursery:
                told: list[str] = []

                async def send() -> None:
                    with pytest.raises(ConnectionClosedError):
                        await send_for_ever(connection)
                    told.append("sender")

                for _ in range(3):
                    nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked()
                assert not connection.writable
                connection.abort()
                await connection.wait_closed()
                await trio.testing.wait_all_tasks_blocked()
                assert told == ["sender"] * 3

        run(scenario)

    def test_sending_to_a_lost_peer_reports_its_end(self) -> None:
        """Sending reports the peer's end; earlier messages can still be received."""

        async def scenario() -> None:
            async with raw(sockets=True) as (connection, theirs):
                for number in range(17):
                    await theirs.send_all(frame(0x81, b"%d" % number))
                await trio.testing.wait_all_tasks_blocked()
                assert connection._held_up
                await theirs.send_all(frame(0x88, b"\x0f\xa1"))
                await theirs.aclose()
                for call in (partial(send_for_ever, connection), connection.ping):
                    with pytest.raises(ConnectionClosedError) as caught:
                        await call()
                    assert caught.value.code == 4001
                assert await connection.wait_closed() == connection.closed == caught.value.event
                for number in range(17):
                    assert await connection.recv() == str(number)
                with pytest.raises(ConnectionClosedError):
                    await connection.recv()

        run(scenario)

    @pytest.mark.parametrize("messages", [0, 300])
    def test_failed_write_wakes_the_receiver(self, messages: int) -> None:
        """The peer reads and sends nothing more: its earlier messages arrive, then the end."""
        got: list[str | bytes] = []
        ended = trio.Event()

        async def scenario() -> None:
            async with raw(sockets=True) as (connection, theirs), trio.open_nursery() as nursery:

                async def receive() -> None:
                    with pytest.raises(ConnectionClosedError) as caught:
                        await receive_for_ever(connection, got)
                    assert caught.value.event is connection.closed
                    ended.set()

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                assert isinstance(theirs, trio.SocketStream)
                if messages:
                    await theirs.send_all(BURST)
                theirs.socket.shutdown(trio.socket.SHUT_RD)
                await connection.send("x")
                await ended.wait()

        run(scenario, MockClock(autojump_threshold=0))
        assert got == NUMBERS[:messages]

    @pytest.mark.parametrize("call", sorted(CALLS))
    @pytest.mark.parametrize("code", [b"\x03\xe8", b"\x0f\xa1"])
    def test_call_after_the_end_is_a_checkpoint(self, call: str, code: bytes) -> None:
        """A handler that ignores the end, and calls again and again, does not stop the loop."""

        async def scenario() -> None:
            async with raw() as (connection, theirs):
                await theirs.send_all(frame(0x88, code))
                await theirs.aclose()
                await connection.wait_closed()
                for _ in range(3):
                    error: ConnectionClosedError | None = None
                    with trio.testing.assert_checkpoints():
                        try:
                            await CALLS[call](connection)
                        except ConnectionClosedError as exc:
                            error = exc
                    # A loop over messages ends without an error, if the end is in order.
                    loop = call == "for" and code == b"\x03\xe8"
                    assert (error is None) == (loop or call in ("close", "wait_closed"))
                    assert error is None or error.event is connection.closed

        run(scenario)

    def test_end_of_input_while_output_waits(self) -> None:
        async def scenario() -> None:
            async with raw(sockets=True) as (connection, theirs):
                await connection.send(bytes(1_000_000))
                await theirs.send_eof()
                await trio.testing.wait_all_tasks_blocked()
                received = b""
                while data := await theirs.receive_some():
                    received += data
                assert len(received) == 1_000_010
                assert (await connection.wait_closed()).cause is Cause.END_OF_INPUT

        run(scenario)

    @pytest.mark.parametrize("polite", [False, True])
    def test_end_of_tls_is_the_end_of_input(self, polite: bool) -> None:
        """It is the end of the input, with or without a closing alert of TLS."""

        async def scenario() -> None:
            ends: list[ConnectionClosed] = []
            done = trio.Event()

            async def program(connection: Connection) -> None:
                ends.append(await connection.wait_closed())
                done.set()

            server_side, client_side = CERTIFICATES
            async with serve(program, HOST, 0, ssl=server_side) as server:
                stream = await trio.open_ssl_over_tcp_stream(
                    "localhost", server.addresses[0][1], ssl_context=client_side
                )
                await stream.send_all(REQUEST)
                await read_until(stream, b"\r\n\r\n")
                if polite:
                    await stream.aclose()
                else:
                    await trio.aclose_forcefully(stream.transport_stream)
                await done.wait()
            assert [(end.code, end.cause) for end in ends] == [(1006, Cause.END_OF_INPUT)]

        run(scenario)

    def test_tls_failure_is_reported(self) -> None:
        async def scenario() -> None:
            ends: list[ConnectionClosed] = []
            done = trio.Event()

            async def program(connection: Connection) -> None:
                ends.append(await connection.wait_closed())
                done.set()

            server_side, client_side = CERTIFICATES
            async with serve(program, HOST, 0, ssl=server_side) as server:
                stream = await trio.open_ssl_over_tcp_stream(
                    "localhost", server.addresses[0][1], ssl_context=client_side
                )
                await stream.send_all(REQUEST)
                await read_until(stream, b"\r\n\r\n")
                await stream.transport_stream.send_all(b"\xff" * 100)
                await done.wait()
                await trio.aclose_forcefully(stream)
            assert [(end.code, end.cause) for end in ends] == [(1015, Cause.TLS)]

        run(scenario)

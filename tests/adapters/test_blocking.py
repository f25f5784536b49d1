"""The adapter of sockets and threads: the suite, threads, back-pressure, and what is left."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from queue import Queue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from wsproto_sip.adapters import _blocking_connection, blocking
from wsproto_sip.adapters._common import adapted
from wsproto_sip.adapters.blocking import (
    Backoff,
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    Server,
    connect,
    reconnect,
    serve,
)
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import AcceptConnection
from wsproto_sip.keepalive import KeepaliveConfig
from wsproto_sip.lifecycle import Cause
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType

from .._sessions import REQUEST, frame
from ._strain import Strain
from ._suite import BOUND, HOST, certificates, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from wsproto_sip.lifecycle import ConnectionClosed

    from ._suite import End

T = TypeVar("T")


async def at_once(call: Callable[..., T], *arguments: object) -> T:
    """For a program that has its thread to itself."""
    return call(*arguments)


class Ended:
    """A connection as the suite sees it.

    Args:
        connection: The connection.
        run: Runs what blocks.
    """

    def __init__(self, connection: Connection, run: Any = at_once) -> None:
        self.connection = connection
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def send(self, message: str | bytes) -> None:
        await self._run(self.connection.send, message)

    async def recv(self) -> str | bytes:
        message: str | bytes = await self._run(self.connection.recv)
        return message

    async def ping(self, payload: bytes | None = None) -> float:
        seconds: float = await self._run(self.connection.ping, payload)
        return seconds

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._run(self.connection.close, code, reason)

    async def wait_closed(self) -> ConnectionClosed:
        closed: ConnectionClosed = await self._run(self.connection.wait_closed)
        return closed

    def __aiter__(self) -> Ended:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._run(next, self.connection, None)
        if message is None:
            raise StopAsyncIteration
        return message  # type: ignore[no-any-return]


def finish(program: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never waits for a loop."""
    try:
        program.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waits for something")


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Asserts that a block leaves no thread of ours behind."""
    yield
    left = [thread.name for thread in threading.enumerate() if "wsproto_sip" in thread.name]
    assert left == []


class TestBlocking(Strain):
    """The suite, with a check that nothing is left behind."""

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        def handler(connection: Connection) -> None:
            finish(program(Ended(connection)))  # type: ignore[arg-type]

        process = options.pop("process_request", None)
        if process is not None:
            options["process_request"] = lambda connection: finish(process(Ended(connection)))
        serving = serve(handler, HOST, 0, **options)
        server = serving.__enter__()
        try:
            yield server.addresses[0][1]
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
        assert not server.connections
        assert not server._handlers

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        connection = await asyncio.to_thread(connect, uri, **options)
        try:
            yield Ended(connection, asyncio.to_thread)
        except BaseException:
            await asyncio.to_thread(connection.abandon)
            raise
        await asyncio.to_thread(connection.__exit__, None, None, None)
        assert connection._lost

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with nothing_left_behind():
            super().run(scenario)


# -- what threads and sockets bring with them -----------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@contextmanager
def pair(
    config: SessionConfig | None = None, **options: Any
) -> Iterator[tuple[Connection, Connection]]:
    """A server's and a client's connection, both of ours."""
    config = config or SessionConfig()
    there: Queue[Connection] = Queue()

    def program(connection: Connection) -> None:
        there.put(connection)
        connection.wait_closed()

    with (
        serve(program, HOST, 0, config=config, **options) as server,
        connect(f"ws://{HOST}:{server.addresses[0][1]}", config=config) as client,
    ):
        yield there.get(timeout=BOUND), client


def until(condition: Callable[[], bool]) -> None:
    """Lets other threads run until something is so."""
    end = monotonic() + BOUND
    while not condition():
        assert monotonic() < end
        sleep(0)


def send_for_ever(connection: Connection) -> None:
    while True:
        connection.send(bytes(50_000))


class Clock:
    """One that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def raw(**options: Any) -> Iterator[tuple[Connection, socket.socket, Clock]]:
    """A server's connection, open, the other end of its socket, and its clock."""
    ours, theirs = socket.socketpair()
    clock = Clock()
    session = Session(
        ConnectionType.SERVER, now=clock.now, config=adapted(SessionConfig(**options))
    )
    connection = Connection(session, ours, time=clock)
    connection.start()
    try:
        theirs.settimeout(BOUND)
        theirs.sendall(REQUEST)
        until(lambda: connection.request is not None)
        assert connection.answer(AcceptConnection())
        read_until(theirs, b"\r\n\r\n")
        yield connection, theirs, clock
    finally:
        connection.abandon()
        theirs.close()


def read_until(sock: socket.socket, end: bytes) -> bytes:
    octets = b""
    while not octets.endswith(end):
        octets += sock.recv(1)
    return octets


def move(clock: Clock, seconds: float, connection: Connection) -> None:
    clock.now += seconds
    connection._alarm.ring()


class TestDeadlines:
    """They hold, and Pings are answered, while the program does something else."""

    def test_pings_are_answered(self) -> None:
        with raw() as (_, theirs, _):
            theirs.sendall(frame(0x89, b"?"))
            assert read_until(theirs, b"?") == b"\x8a\x01?"

    def test_peer_is_pinged_and_given_up(self) -> None:
        keepalive = KeepaliveConfig(application_data=b"?")
        with raw(keepalive=keepalive) as (connection, theirs, clock):
            for _ in range(2):
                move(clock, 25, connection)
                assert read_until(theirs, b"?") == b"\x89\x01?"
                theirs.sendall(frame(0x8A, b"?"))
                until(lambda: not connection.session.keepalive.awaiting)
            move(clock, 25, connection)
            assert read_until(theirs, b"?") == b"\x89\x01?"
            move(clock, 20, connection)
            assert connection.wait_closed(BOUND).cause is Cause.KEEPALIVE
            # It is told, in case that it hears.
            assert read_until(theirs, b"timed out")[:4] == b"\x88\x16\x03\xf3"
            assert theirs.recv(100) == b""

    def test_oldest_age(self) -> None:
        with raw(max_age=3600.0) as (connection, theirs, clock):
            theirs.sendall(frame(0x81, b"x"))
            assert connection.recv(BOUND) == "x"
            move(clock, 3600, connection)
            assert read_until(theirs, b"age reached")[:4] == b"\x88\x15\x03\xe9"

    def test_answer_in_front_of_the_close_frame(self) -> None:
        with raw() as (connection, theirs, clock):
            theirs.sendall(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert connection.recv(BOUND) == "x"
            until(lambda: connection.session.state is ConnectionState.REMOTE_CLOSING)
            connection.send("y")
            move(clock, 1.5, connection)
            assert read_until(theirs, b"\x03\xe8") == b"\x81\x01y\x88\x02\x03\xe8"


class TestTimeouts:
    def test_nothing_comes(self) -> None:
        with pair() as (server, client):
            for seconds in (0.0, 0.001):
                with pytest.raises(TimeoutError):
                    client.recv(seconds)
                with pytest.raises(TimeoutError):
                    server.wait_closed(seconds)
            server.send("x")
            assert client.recv(BOUND) == "x"

    def test_no_answer(self) -> None:
        with raw() as (connection, theirs, _):
            with pytest.raises(TimeoutError):
                connection.ping(b"1", timeout=0.001)
            theirs.sendall(frame(0x8A, b"1") + frame(0x81, b"x"))
            assert connection.recv(BOUND) == "x"
            assert not connection._pings

    def test_no_room(self) -> None:
        """Nothing is sent of what could not be sent in time."""
        with raw() as (connection, theirs, _):
            connection.send(bytes(2_000_000))
            assert not connection.writable
            with pytest.raises(TimeoutError):
                connection.send("no", timeout=0.001)
            sending = threading.Thread(target=connection.send, args=("yes",))
            sending.start()
            said = b""
            while not said.endswith(b"\x81\x03yes"):
                said += theirs.recv(65536)
            sending.join()
            assert len(said) == 2_000_010 + 5


class TestSenders:
    def test_many_threads(self) -> None:
        """Messages are whole, and those of one thread in order; a bound holds."""
        with pair() as (server, client):

            def send(sender: int) -> None:
                for number in range(60):
                    client.send(bytes([sender, number]) * (1 + 2000 * (number % 4)))

            threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            numbers = [0] * 8
            for _ in range(8 * 60):
                message = server.recv(BOUND)
                assert isinstance(message, bytes)
                sender, number = message[:2]
                assert message == bytes([sender, number]) * (1 + 2000 * (number % 4))
                assert number == numbers[sender]
                numbers[sender] += 1
                assert client._backlog() <= 65536 + 8 * 12_100
            for thread in threads:
                thread.join()

    @pytest.mark.parametrize("way", ["close", "abort", "reset"])
    def test_the_connection_ends_under_them(self, way: str) -> None:
        """Everybody who waits is told."""
        told: Queue[str] = Queue()
        with raw() as (connection, theirs, _):

            def send() -> None:
                with pytest.raises(ConnectionClosedError):
                    send_for_ever(connection)
                told.put("sender")

            def receive() -> None:
                with pytest.raises(ConnectionClosedError):
                    connection.recv()
                told.put("receiver")

            def ping() -> None:
                with pytest.raises(ConnectionClosedError):
                    connection.ping()
                told.put("pinger")

            programs = [send, send, send, receive, ping]
            threads = [threading.Thread(target=program) for program in programs]
            for thread in threads:
                thread.start()
            until(lambda: not connection.writable and bool(connection._pings))
            assert connection._out
            if way == "abort":
                connection.abort()
            elif way == "reset":
                theirs.close()
            else:
                connection.begin_close(4000)
                theirs.sendall(frame(0x88, b"\x0f\xa0"))
                # Everything is said, and not yet on its way.
                until(lambda: connection.session.state is ConnectionState.CLOSED)
                while theirs.recv(65536):
                    pass
                theirs.close()
            for thread in threads:
                thread.join(BOUND)
            assert sorted(told.get(timeout=BOUND) for _ in threads) == [
                "pinger",
                "receiver",
                *["sender"] * 3,
            ]

    def test_nobody_receives_and_the_peer_is_gone(self) -> None:
        """Sending tells; what came before can still be received."""
        with raw() as (connection, theirs, _):
            for number in range(17):
                theirs.sendall(frame(0x81, b"%d" % number))
            until(lambda: connection._held_up)
            theirs.close()
            with pytest.raises(ConnectionClosedError, match="the transport has ended"):
                send_for_ever(connection)
            with pytest.raises(ConnectionClosedError, match="the transport has ended"):
                connection.ping()
            assert connection.closed is None
            assert [connection.recv(BOUND) for _ in range(17)] == list(map(str, range(17)))
            with pytest.raises(ConnectionClosedError):
                connection.recv(BOUND)


class TestServing:
    def test_number_of_connections(self) -> None:
        """More than there may be wait for those that are there."""
        with serve(echo_all, HOST, 0, max_connections=2) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with connect(uri) as first, connect(uri) as second:
                with pytest.raises(TimeoutError):
                    connect(uri, config=SessionConfig(open_timeout=0.05))
                for connection in (first, second):
                    connection.send("x")
                    assert connection.recv(BOUND) == "x"
                assert len(server.connections) == 2
                first.close()
                with connect(uri) as third:
                    third.send("y")
                    assert third.recv(BOUND) == "y"

    def test_two_places(self) -> None:
        with serve(echo_all, HOST, 0) as server:
            server.listen(None, 0)
            assert len(server.addresses) == 2
            for _, port in server.addresses:
                with connect(f"ws://{HOST}:{port}") as client:
                    client.send("x")
                    assert client.recv(BOUND) == "x"
            for _ in range(2):
                server.stop_listening()
            assert server.addresses == []
            server.listen(HOST, 0)
            with connect(f"ws://{HOST}:{server.addresses[0][1]}") as client:
                client.send("x")
                assert client.recv(BOUND) == "x"

    def test_no_place(self) -> None:
        with (
            serve(echo_all, HOST, 0) as server,
            pytest.raises(OSError, match="in use"),
            serve(echo_all, HOST, server.addresses[0][1]),
        ):
            pass

    def test_handler_that_does_not_end(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is left to itself, and that is said."""
        release = threading.Event()
        monkey = pytest.MonkeyPatch()
        monkey.setattr(blocking, "_LAST_WORDS", 0.01)
        with monkey.context():
            with serve(lambda _: release.wait(), HOST, 0, drain=0.01) as server:
                client = connect(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv(BOUND)
            client.abandon()
        monkey.undo()
        assert caught.value.code == 1001
        assert "handlers that are still running: 1" in caplog.text
        release.set()
        until(lambda: not server._handlers)

    def test_too_few_descriptors(self, caplog: pytest.LogCaptureFixture) -> None:
        """Accepting is tried again later."""
        accept = socket.socket.accept
        failures = [OSError(errno.EMFILE, "too many"), ConnectionAbortedError()]

        def failing(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return accept(sock)

        with pytest.MonkeyPatch.context() as monkey:
            monkey.setattr(blocking, "_RECOVERY", 0.01)
            monkey.setattr(socket.socket, "accept", failing)
            with serve(echo_all, HOST, 0) as server:
                connect(f"ws://{HOST}:{server.addresses[0][1]}").close()
        assert "a connection cannot be accepted" in caplog.text
        assert not failures

    @pytest.mark.parametrize("which", ["handler", "connection"])
    def test_too_few_threads(self, which: str, caplog: pytest.LogCaptureFixture) -> None:
        start = threading.Thread.start
        failing = [True]

        def limited(thread: threading.Thread) -> None:
            name = thread.name.split()
            ours = len(name) > 1 and name[0] == "wsproto_sip" and server_side(name)
            if ours and failing:
                failing.clear()
                raise RuntimeError("can't start new thread")
            start(thread)

        def server_side(name: list[str]) -> bool:
            if which == "handler":
                return name[1] == "handler"
            return name[1].isdigit() and threading.current_thread().name == "wsproto_sip acceptor"

        with pytest.MonkeyPatch.context() as monkey, serve(echo_all, HOST, 0) as server:
            monkey.setattr(threading.Thread, "start", limited)
            monkey.setattr(blocking, "_RECOVERY", 0.01)
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with pytest.raises((HandshakeRejected, ConnectionClosedError)) as caught:
                connect(uri)
            assert ("503" in str(caught.value)) == (which == "handler")
            connect(uri).close()
        assert "can't start new thread" in caplog.text

    def test_peer_that_is_gone_before_tls(self) -> None:
        context: Any = NoContext()
        with serve(echo_all, HOST, 0, ssl=context) as server:
            with socket.create_connection(server.addresses[0]) as sock:
                assert sock.recv(1) == b""
            assert not server.connections

    def test_shutdown_in_the_middle_of_tls(self) -> None:
        with serve(echo_all, HOST, 0, ssl=certificates()[0]) as server:
            sock = socket.create_connection(server.addresses[0])
            until(lambda: bool(server.connections))
        with sock:
            assert sock.recv(1) == b""


class NoContext:
    def wrap_socket(self, sock: socket.socket, **options: Any) -> socket.socket:
        raise OSError("gone")


def echo_all(connection: Connection) -> None:
    for message in connection:
        connection.send(message)


class TestConnecting:
    def test_another_place(self) -> None:
        server_side, client_side = certificates()
        with serve(echo_all, HOST, 0, ssl=server_side) as server:
            host, port = server.addresses[0]
            place: dict[str, Any] = {"host": host, "port": port, "ssl": client_side}
            with connect("wss://example.com/", server_hostname="localhost", **place) as client:
                client.send("x")
                assert client.recv(BOUND) == "x"
            with pytest.raises(ssl.SSLCertVerificationError):
                connect("wss://example.com/", **place)

    def test_without_a_bound(self) -> None:
        with serve(echo_all, HOST, 0) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with connect(uri, config=SessionConfig(open_timeout=None)) as client:
                assert client.ping() >= 0

    def test_the_session_gives_up_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blocking, "left", lambda until: BOUND)
        with socket.create_server((HOST, 0)) as silent:
            uri = f"ws://{HOST}:{silent.getsockname()[1]}"
            with pytest.raises(TimeoutError, match="handshake"):
                connect(uri, config=SessionConfig(open_timeout=0.02))

    def test_block_that_fails(self) -> None:
        ends: Queue[ConnectionClosed] = Queue()
        with serve(lambda connection: ends.put(connection.wait_closed()), HOST, 0) as server:
            client = connect(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ZeroDivisionError), client:
                raise ZeroDivisionError
            assert ends.get(timeout=BOUND).cause is Cause.END_OF_INPUT

    def test_no_descriptors_to_wake_its_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The socket to the server is closed all the same."""

        def alarm() -> None:
            raise OSError(errno.EMFILE, "too many")

        monkeypatch.setattr(_blocking_connection, "Alarm", alarm)
        with socket.create_server((HOST, 0)) as listener:
            with pytest.raises(OSError, match="too many") as caught:
                connect(f"ws://{HOST}:{listener.getsockname()[1]}")
            # While the frames that held it are still there.
            assert caught.traceback
            server_side, _ = listener.accept()
            with server_side:
                server_side.settimeout(BOUND)
                assert server_side.recv(1) == b""

    def test_one_that_was_not_started(self) -> None:
        ours, theirs = socket.socketpair()
        session = Session(ConnectionType.SERVER, now=0.0)
        connection = Connection(session, ours)
        for _ in range(2):
            connection.abandon()
        assert connection.wait_closed(0).cause is Cause.END_OF_INPUT
        assert theirs.recv(1) == b""
        theirs.close()


class TestReconnecting:
    """Connections that follow each other."""

    def test_one_after_the_other(self, caplog: pytest.LogCaptureFixture) -> None:
        """However a connection ends there is another one, until the program has enough."""
        caplog.set_level("INFO", "wsproto_sip.blocking")
        asked: list[str] = []
        ends: Queue[ConnectionClosed] = Queue()
        waits: list[float] = []

        def process(connection: Connection) -> None:
            asked.append("")
            if len(asked) == 2:
                raise HandshakeRejected(503, [(b"Retry-After", b"7")])

        def program(connection: Connection) -> None:
            connection.send(str(len(asked)))
            if len(asked) == 3:
                connection.abort()
            elif len(asked) == 4:
                connection.close(1012)
            ends.put(connection.wait_closed())

        with serve(program, HOST, 0, process_request=process) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            received = []
            for connection in reconnect(uri, wait=waits.append):
                try:
                    received.append(connection.recv(BOUND))
                    if len(asked) in {3, 4}:
                        connection.recv(BOUND)
                except ConnectionClosedError:
                    pass
                if len(asked) == 5:
                    break
            assert connection.closed
            assert connection.closed.code == 1000
            codes = [ends.get(timeout=BOUND).code for _ in range(4)]
        assert set(received) <= {"1", "3", "4", "5"}
        assert sorted(codes) in ([1000, 1000, 1006, 1012], [1000, 1000, 1006, 1006])
        assert len(waits) == 4
        assert waits[1] >= 7
        assert "the connection has ended; connecting again in" in caplog.text

    def test_what_is_final(self) -> None:
        def process(connection: Connection) -> None:
            raise HandshakeRejected(403)

        with serve(echo_all, HOST, 0, process_request=process) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with pytest.raises(HandshakeRejected):
                next(reconnect(uri, backoff=Backoff()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_nothing_leaks() -> None:
    """Connections that come, talk and go in every way leave nothing behind."""
    generator = random.Random(7)

    def one(uri: str, place: tuple[str, int], way: int) -> None:
        if way == 0:
            with connect(uri) as connection:
                connection.send("x" * 1000)
                connection.recv()
        elif way == 1:
            connection = connect(uri)
            connection.send("x")
            connection.abandon()
        elif way == 2:
            with socket.create_connection(place) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        else:
            with socket.create_connection(place) as sock:
                sock.sendall(REQUEST + frame(0x81, b"x"))
                reset(sock)

    def batch(server: Server, count: int) -> tuple[int, int]:
        place = server.addresses[0]
        uri = f"ws://{place[0]}:{place[1]}"
        ways = [generator.randrange(4) for _ in range(count)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda way: one(uri, place, way), ways))
        until(lambda: not server.connections and not server._handlers)
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with serve(echo_all, HOST, 0) as server:
        first = batch(server, 10)
        for _ in range(4):
            until(lambda: batch(server, 20) == first)

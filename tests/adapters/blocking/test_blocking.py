"""The blocking adapter: the suite, threads, back-pressure, and leaks."""

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
from functools import partial
from pathlib import Path
from queue import Queue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given, settings, strategies as st

from wsproto_sip.adapters._arguments import adapted
from wsproto_sip.adapters.blocking import (
    Backoff,
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    Server,
    client as blocking_client,
    connect,
    connection as _blocking_connection,
    dial,
    reconnect,
    serve,
    server as blocking_server,
)
from wsproto_sip.events import AcceptConnection
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig
from wsproto_sip.session.lifecycle import Cause
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType

from ..._sessions import REQUEST, frame
from .._ends import BURST, NUMBERS, Plan, plans
from .._strain import Strain
from .._suite import BOUND, HOST, certificates, place, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from wsproto_sip.adapters._pieces import PieceIterator
    from wsproto_sip.session.lifecycle import ConnectionClosed

    from .._suite import End

T = TypeVar("T")


async def at_once(call: Callable[..., T], *arguments: object) -> T:
    """Run a program that has its thread to itself."""
    return call(*arguments)


class Pieces:
    """An iterator over pieces, with the interface of the suite."""

    def __init__(self, pieces: PieceIterator, run: Any) -> None:
        self._pieces = pieces
        self._run = run

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> str | bytes:
        piece = await self._run(next, self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        return piece  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        self._pieces.close()


class Ended:
    """A connection with the interface of the suite.

    Args:
        connection: The connection.
        run: Runs blocking calls.
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

    async def pong(self, payload: bytes = b"") -> None:
        await self._run(self.connection.pong, payload)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._run(self.connection.close, code, reason)

    async def wait_closed(self) -> ConnectionClosed:
        closed: ConnectionClosed = await self._run(self.connection.wait_closed)
        return closed

    def recv_streaming(self) -> Pieces:
        return Pieces(self.connection.recv_streaming(), self._run)

    def __aiter__(self) -> Ended:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._run(next, self.connection, None)
        if message is None:
            raise StopAsyncIteration
        return message  # type: ignore[no-any-return]


def finish(program: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for a loop."""
    try:
        program.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waits for something")


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """Assert that a block leaves none of our threads."""
    yield
    left = [thread.name for thread in threading.enumerate() if "wsproto_sip" in thread.name]
    assert left == []


class TestBlocking(Strain):
    """The suite, with a check for leaks."""

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        def handler(connection: Connection) -> None:
            finish(program(Ended(connection)))  # type: ignore[arg-type]

        process = options.pop("process_request", None)
        if process is not None:
            options["process_request"] = lambda connection: finish(process(Ended(connection)))
        resolve = options.pop("resolve", None)
        if resolve is not None:
            options["resolve"] = lambda end, question: finish(resolve(Ended(end), question))
        serving = serve(handler, *place(options), **options)
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

    async def nap(self) -> None:
        # The program has its thread to itself.
        sleep(0)  # noqa: ASYNC251

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with nothing_leaks():
            super().run(scenario)


# -- specific to threads and sockets ---------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    with nothing_leaks():
        yield


@contextmanager
def pair(
    config: SessionConfig | None = None, **options: Any
) -> Iterator[tuple[Connection, Connection]]:
    """Connect a server's and a client's connection, both of ours."""
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
    """Let other threads run until a condition holds."""
    end = monotonic() + BOUND
    while not condition():
        assert monotonic() < end
        sleep(0)


def send_for_ever(connection: Connection) -> None:
    while True:
        connection.send(bytes(50_000))


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def raw(**options: Any) -> Iterator[tuple[Connection, socket.socket, Clock]]:
    """Yield an open server connection, the other end of its socket, and its clock."""
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
    data = b""
    while not data.endswith(end):
        data += sock.recv(1)
    return data


def move(clock: Clock, seconds: float, connection: Connection) -> None:
    clock.now += seconds
    connection._alarm.ring()


@settings(deadline=None, max_examples=50)
@given(plans(), st.sampled_from(["eof", "close"]))
def test_any_burst_and_end_of_the_socket(plan: Plan, way: str) -> None:
    """All messages arrive, and then the peer's own end."""

    async def nap() -> None:
        # The program has its thread to itself.
        sleep(0)  # noqa: ASYNC251

    with raw() as (connection, theirs, _), ThreadPoolExecutor(1) as pool:
        program = pool.submit(finish, plan.follow(Ended(connection), nap))
        for data in plan.writes:
            theirs.sendall(data)
        if way == "eof":
            theirs.shutdown(socket.SHUT_WR)
        else:
            theirs.close()
        program.result(BOUND)


class TestDeadlines:
    """Deadlines hold and Pings are answered while the program does something else."""

    def test_pings_are_answered_while_the_program_is_busy(self) -> None:
        with raw() as (_, theirs, _):
            theirs.sendall(frame(0x89, b"?"))
            assert read_until(theirs, b"?") == b"\x8a\x01?"

    def test_silent_peer_is_pinged_and_dropped(self) -> None:
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
            # It is told, in case it still reads.
            assert read_until(theirs, b"timed out")[:4] == b"\x88\x16\x03\xf3"
            assert theirs.recv(100) == b""

    def test_connection_is_closed_at_its_maximum_age(self) -> None:
        with raw(max_age=3600.0) as (connection, theirs, clock):
            theirs.sendall(frame(0x81, b"x"))
            assert connection.recv(BOUND) == "x"
            move(clock, 3600, connection)
            assert read_until(theirs, b"age reached")[:4] == b"\x88\x15\x03\xe9"

    def test_answers_are_sent_before_the_close_frame(self) -> None:
        with raw() as (connection, theirs, clock):
            theirs.sendall(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert connection.recv(BOUND) == "x"
            until(lambda: connection.session.state is ConnectionState.REMOTE_CLOSING)
            connection.send("y")
            move(clock, 1.5, connection)
            assert read_until(theirs, b"\x03\xe8") == b"\x81\x01y\x88\x02\x03\xe8"


class TestTimeouts:
    def test_recv_times_out(self) -> None:
        with pair() as (server, client):
            for seconds in (0.0, 0.001):
                with pytest.raises(TimeoutError):
                    client.recv(seconds)
                with pytest.raises(TimeoutError):
                    server.wait_closed(seconds)
            server.send("x")
            assert client.recv(BOUND) == "x"

    def test_ping_times_out(self) -> None:
        with raw() as (connection, theirs, _):
            with pytest.raises(TimeoutError):
                connection.ping(b"1", timeout=0.001)
            theirs.sendall(frame(0x8A, b"1") + frame(0x81, b"x"))
            assert connection.recv(BOUND) == "x"
            assert not connection._pings

    def test_send_times_out_without_sending(self) -> None:
        """A message that cannot be sent in time is not sent in part."""
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


class TestPieces:
    def test_pieces_and_messages_are_received_by_one_thread_at_a_time(self) -> None:
        with pair() as (server, client), ThreadPoolExecutor() as pool:
            pieces = server.recv_streaming()
            waiting = pool.submit(next, pieces)
            until(lambda: server._receiving)
            for call in (server.recv, partial(next, server.recv_streaming())):
                with pytest.raises(RuntimeError, match="another thread receives"):
                    call()
            client.send("all")
            assert waiting.result(BOUND) == "all"
            assert list(pieces) == []

    def test_timeout_keeps_received_pieces(self) -> None:
        more, sent = threading.Event(), threading.Event()

        def slowly() -> Iterator[str]:
            yield "a"
            sent.set()
            more.wait(BOUND)
            yield "b"

        with pair() as (server, client), ThreadPoolExecutor() as pool:
            sending = pool.submit(client.send, slowly())
            assert sent.wait(BOUND)
            pieces = server.recv_streaming(timeout=BOUND)
            assert next(pieces) == "a"
            impatient = server.recv_streaming(timeout=0)
            with pytest.raises(RuntimeError, match="a message is being received in pieces"):
                next(impatient)
            pieces._timeout = 0
            with pytest.raises(TimeoutError):
                next(pieces)
            more.set()
            sending.result(BOUND)
            pieces._timeout = BOUND
            assert list(pieces) == ["b"]


class TestSenders:
    def test_concurrent_senders_keep_messages_whole(self) -> None:
        """Messages stay whole, and those of each thread in order; output is bounded."""
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
    def test_end_of_the_connection_wakes_all_senders(self, way: str) -> None:
        """Every waiting thread is told."""
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
                # Everything is queued, and nothing is written yet.
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

    def test_sending_to_a_lost_peer_reports_its_end(self) -> None:
        """Sending reports the peer's end; earlier messages can still be received."""
        with raw() as (connection, theirs, _):
            for number in range(17):
                theirs.sendall(frame(0x81, b"%d" % number))
            until(lambda: connection._held_up)
            theirs.sendall(frame(0x88, b"\x0f\xa1"))
            theirs.close()
            for call in (partial(send_for_ever, connection), connection.ping):
                with pytest.raises(ConnectionClosedError) as caught:
                    call()
                assert caught.value.code == 4001
            assert connection.wait_closed(BOUND) == connection.closed == caught.value.event
            assert [connection.recv(BOUND) for _ in range(17)] == list(map(str, range(17)))
            with pytest.raises(ConnectionClosedError):
                connection.recv(BOUND)

    def test_failed_write_wakes_the_receiver(self) -> None:
        """The peer reads and sends nothing more: its earlier messages arrive, then the end."""
        with raw() as (connection, theirs, _), ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(connection.recv)
            until(lambda: connection._receiving)
            theirs.sendall(BURST)
            assert receiving.result(BOUND) == "0"
            theirs.shutdown(socket.SHUT_RD)
            connection.send("x")
            assert [connection.recv(BOUND) for _ in range(299)] == NUMBERS[1:]
            with pytest.raises(ConnectionClosedError) as caught:
                connection.recv(BOUND)
            assert caught.value.event is connection.closed

    def test_failed_write_wakes_a_waiting_receiver(self) -> None:
        with raw() as (connection, theirs, _), ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(connection.recv)
            until(lambda: connection._receiving)
            theirs.shutdown(socket.SHUT_RD)
            connection.send("x")
            with pytest.raises(ConnectionClosedError):
                receiving.result(BOUND)


class TestServing:
    def test_connections_are_torn_down_one_at_a_time(self) -> None:
        """Many simultaneous resets queue up, and other connections are served meanwhile."""
        with serve(echo_all, HOST, 0) as server:
            port = server.addresses[0][1]
            with connect(f"ws://{HOST}:{port}") as client:
                peers = [socket.create_connection((HOST, port)) for _ in range(50)]
                for sock in peers:
                    sock.settimeout(BOUND)
                    sock.sendall(REQUEST)
                    read_until(sock, b"\r\n\r\n")
                with _blocking_connection._taking_down:
                    for sock in peers:
                        reset(sock)
                        sock.close()
                    until(lambda: sum(one._over for one in server.connections) == 50)
                    client.send("x")
                    assert client.recv(BOUND) == "x"
                    assert len(server.connections) == 51
                until(lambda: len(server.connections) == 1)
                client.send("y")
                assert client.recv(BOUND) == "y"

    def test_connections_above_the_maximum_wait(self) -> None:
        """Connections above the maximum wait for others to end."""
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

    def test_server_listens_on_two_places(self) -> None:
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

    def test_missing_place_is_a_type_error(self) -> None:
        with (
            serve(echo_all, HOST, 0) as server,
            pytest.raises(OSError, match="in use"),
            serve(echo_all, HOST, server.addresses[0][1]),
        ):
            pass

    def test_unfinished_handler_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is left running, and that is logged."""
        release = threading.Event()
        monkey = pytest.MonkeyPatch()
        monkey.setattr(blocking_server, "_LAST_WORDS", 0.01)
        with monkey.context():
            with serve(lambda _: release.wait(), HOST, 0, drain=0.01) as server:
                client = connect(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv(BOUND)
            client.abandon()
        monkey.undo()
        assert caught.value.code == 1001
        assert "handlers still running: 1" in caplog.text
        release.set()
        until(lambda: not server._handlers)

    def test_lack_of_descriptors_pauses_accepting(self, caplog: pytest.LogCaptureFixture) -> None:
        """Accepting is retried later."""
        accept = socket.socket.accept
        failures = [OSError(errno.EMFILE, "too many"), ConnectionAbortedError()]

        def failing(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return accept(sock)

        with pytest.MonkeyPatch.context() as monkey:
            monkey.setattr(socket.socket, "accept", failing)
            with serve(echo_all, HOST, 0) as server:
                connect(f"ws://{HOST}:{server.addresses[0][1]}").close()
        assert 'accept-failed reason="too many"' in caplog.text
        assert not failures

    @pytest.mark.parametrize("which", ["handler", "connection"])
    def test_lack_of_threads_pauses_accepting(
        self, which: str, caplog: pytest.LogCaptureFixture
    ) -> None:
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
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with pytest.raises((HandshakeRejected, ConnectionClosedError)) as caught:
                connect(uri)
            assert ("503" in str(caught.value)) == (which == "handler")
            connect(uri).close()
        assert "can't start new thread" in caplog.text

    def test_peer_lost_before_tls_is_dropped(self) -> None:
        context = NoContext(ssl.PROTOCOL_TLS_SERVER)
        with serve(echo_all, HOST, 0, ssl=context) as server:
            with socket.create_connection(server.addresses[0]) as sock:
                assert sock.recv(1) == b""
            assert not server.connections

    def test_shutdown_ends_a_tls_handshake(self) -> None:
        with serve(echo_all, HOST, 0, ssl=certificates()[0]) as server:
            sock = socket.create_connection(server.addresses[0])
            until(lambda: bool(server.connections))
        with sock:
            assert sock.recv(1) == b""

    def test_async_functions_are_refused(self) -> None:
        async def program(connection: Connection) -> None: ...

        with pytest.raises(TypeError, match=r"program\(\) must not be async"):
            Server(program)
        with pytest.raises(TypeError, match=r"program\(\) must not be async"):
            Server(echo_all, process_request=program)  # type: ignore[arg-type]


class NoContext(ssl.SSLContext):
    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        raise OSError("gone")


def echo_all(connection: Connection) -> None:
    for message in connection:
        connection.send(message)


class TestConnecting:
    def test_host_and_port_override_the_uri(self) -> None:
        server_side, client_side = certificates()
        with serve(echo_all, HOST, 0, ssl=server_side) as server:
            host, port = server.addresses[0]
            place: dict[str, Any] = {"host": host, "port": port, "ssl": client_side}
            with connect("wss://example.com/", server_hostname="localhost", **place) as client:
                client.send("x")
                assert client.recv(BOUND) == "x"
            with pytest.raises(ssl.SSLCertVerificationError):
                connect("wss://example.com/", **place)
            place["sock"] = socket.create_connection((host, port))
            with connect("wss://localhost/", **place) as client:
                assert client.ping() >= 0

    def test_connecting_without_a_timeout(self) -> None:
        with serve(echo_all, HOST, 0) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with connect(uri, config=SessionConfig(open_timeout=None)) as client:
                assert client.ping() >= 0

    def test_open_timeout_of_the_session_is_a_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (blocking_client, dial):
            monkeypatch.setattr(module, "left", lambda until: BOUND)
        with socket.create_server((HOST, 0)) as silent:
            uri = f"ws://{HOST}:{silent.getsockname()[1]}"
            with pytest.raises(TimeoutError, match="handshake"):
                connect(uri, config=SessionConfig(open_timeout=0.02))

    def test_failing_block_drops_the_connection(self) -> None:
        ends: Queue[ConnectionClosed] = Queue()
        with serve(lambda connection: ends.put(connection.wait_closed()), HOST, 0) as server:
            client = connect(f"ws://{HOST}:{server.addresses[0][1]}")
            with pytest.raises(ZeroDivisionError), client:
                raise ZeroDivisionError
            assert ends.get(timeout=BOUND).cause is Cause.END_OF_INPUT

    def test_lack_of_descriptors_closes_the_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The socket to the server is closed anyway."""

        def alarm() -> None:
            raise OSError(errno.EMFILE, "too many")

        monkeypatch.setattr(_blocking_connection, "Alarm", alarm)
        with socket.create_server((HOST, 0)) as listener:
            with pytest.raises(OSError, match="too many") as caught:
                connect(f"ws://{HOST}:{listener.getsockname()[1]}")
            # While the frames that refer to it still exist.
            assert caught.traceback
            server_side, _ = listener.accept()
            with server_side:
                server_side.settimeout(BOUND)
                assert server_side.recv(1) == b""

    def test_connection_that_was_not_started_is_closed(self) -> None:
        ours, theirs = socket.socketpair()
        session = Session(ConnectionType.SERVER, now=0.0)
        connection = Connection(session, ours)
        for _ in range(2):
            connection.abandon()
        assert connection.wait_closed(0).cause is Cause.END_OF_INPUT
        assert theirs.recv(1) == b""
        theirs.close()


class TestReconnecting:
    """One connection after another."""

    def test_each_end_is_followed_by_another_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another connection follows, however one ends, until the program stops."""
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

    def test_uri_and_headers_are_renewed_for_each_attempt(self) -> None:
        asked: list[str] = []

        def program(connection: Connection) -> None:
            assert connection.request
            asked.append(connection.request.target)
            asked.append(dict(connection.request.extra_headers)[b"x"].decode())

        with serve(program, HOST, 0) as server:
            connections = reconnect(
                lambda: f"ws://{HOST}:{server.addresses[0][1]}/{len(asked)}",
                headers=lambda: {"X": str(len(asked))},
                wait=lambda seconds: None,
            )
            for connection in connections:
                connection.wait_closed(BOUND)
                if len(asked) == 4:
                    break
        assert asked == ["/0", "0", "/2", "2"]

    def test_arguments_are_checked_at_once(self) -> None:
        with pytest.raises(TypeError, match=r"connect\(\) got .* 'ping_interval'"):
            reconnect("ws://h", ping_interval=5)  # type: ignore[call-arg]
        with socket.socket() as sock, pytest.raises(TypeError, match="the same sock="):
            reconnect("ws://h", sock=sock)

    def test_final_error_is_raised(self) -> None:
        def process(connection: Connection) -> None:
            raise HandshakeRejected(403)

        with serve(echo_all, HOST, 0, process_request=process) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with pytest.raises(HandshakeRejected):
                next(reconnect(uri, backoff=Backoff()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_connections_leak_nothing() -> None:
    """Connections that end in every possible way leave no resources."""
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

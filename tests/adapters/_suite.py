"""What every adapter over a session must do, with the websockets library as the peer.

Theory of operation: :class:`Behaviour` is subclassed once for each adapter, and the subclass
defines how to run its servers and clients. One end of a connection looks the same to the tests
on every adapter: :class:`End`. Programs run on the side of our server; their results are asserted
after the end of the block, where a failure cannot be lost.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

pytest.importorskip("websockets")

import trustme
from websockets.asyncio.client import connect as their_client
from websockets.asyncio.server import ServerConnection, basic_auth, serve as their_server
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed as TheirClosed, InvalidStatus
from websockets.http11 import Request as TheirRequest, Response
from websockets.typing import Subprotocol

from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from wsproto_sip.events import AcceptConnection
    from wsproto_sip.session.session import Session
    from wsproto_sip.typing import Address

HOST = "127.0.0.1"

#: Seconds after which a scenario has failed; none comes close to it.
BOUND = 20.0

#: Bytes that hardly compress.
NOISE = random.Random(6455).randbytes(1024 * 1024)

MESSAGES: list[str | bytes] = [
    "hello",
    "",
    b"",
    bytes(range(256)),
    "Grüße, 你好, 🌍",
    "x" * 65536,
    NOISE[:65535],
    NOISE,
    NOISE[: 512 * 1024].hex(),
]

#: A request for an upgrade, by hand.
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class End(Protocol):
    """One end of a connection of ours."""

    @property
    def subprotocol(self) -> str | None: ...
    @property
    def closed(self) -> ConnectionClosed | None: ...
    @property
    def response(self) -> AcceptConnection | None: ...
    @property
    def session(self) -> Session: ...
    @property
    def writable(self) -> bool: ...
    @property
    def peer(self) -> Address: ...
    async def send(self, message: str | bytes) -> None: ...
    async def recv(self) -> str | bytes: ...
    async def ping(self, payload: bytes | None = None) -> float: ...
    async def pong(self, payload: bytes = b"") -> None: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    async def wait_closed(self) -> ConnectionClosed: ...
    def __aiter__(self) -> End: ...
    async def __anext__(self) -> str | bytes: ...

    # Internals that a test may inspect to check bounds.
    _messages: list[str | bytes]
    _pings: Any

    def _backlog(self) -> int: ...


async def echo(end: End) -> None:
    async for message in end:
        await end.send(message)


async def their_echo(websocket: ServerConnection) -> None:
    with suppress(TheirClosed):
        async for message in websocket:
            await websocket.send(message)


def deflate() -> list[PerMessageDeflate]:
    return [PerMessageDeflate()]


def port_of(server: Any) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


def place(options: dict[str, Any]) -> tuple[str, int] | tuple[()]:
    """Return where a server listens, unless its options say so."""
    return () if options.keys() & {"unix", "sock"} else (HOST, 0)


def reset(sock: socket.socket) -> None:
    """Close a socket with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def peer(port: int, path: str = "/", scheme: str = "ws", **options: Any) -> their_client:
    options.setdefault("max_size", None)
    host = HOST if scheme == "ws" else "localhost"
    return their_client(
        f"{scheme}://{host}:{port}{path}", proxy=None, ping_interval=None, **options
    )


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return TLS contexts for a server and a client."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost", HOST).configure_cert(server)
    authority.configure_trust(client)
    return server, client


class Behaviour:
    """The tests; a subclass defines how servers and clients are run."""

    #: What the peer uses if it should run in the same way.
    name: ClassVar[str]

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario, within the time limit."""

        async def bounded() -> None:
            async with asyncio.timeout(BOUND):
                await scenario

        self.loop_run(bounded())

    def loop_run(self, scenario: Coroutine[Any, Any, None]) -> None:
        asyncio.run(scenario)

    def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AbstractAsyncContextManager[int]:
        """Run a server of ours, and yield its port."""
        raise NotImplementedError

    def client(self, uri: str, **options: Any) -> AbstractAsyncContextManager[End]:
        """Run a client of ours."""
        raise NotImplementedError

    # -- a server of ours --------------------------------------------------------------------------

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_server_echoes(self, compression: str | None) -> None:
        async def scenario() -> None:
            async with (
                self.serving(echo, extensions=deflate) as port,
                peer(port, compression=compression) as websocket,
            ):
                assert bool(websocket.protocol.extensions) == (compression is not None)
                for message in MESSAGES:
                    await websocket.send(message)
                    assert await websocket.recv() == message
                for number in range(200):
                    await websocket.send(str(number))
                assert [await websocket.recv() for _ in range(200)] == list(map(str, range(200)))

        self.run(scenario())

    def test_server_gets_fragments(self) -> None:
        async def scenario() -> None:
            async with self.serving(echo) as port, peer(port) as websocket:
                await websocket.send(["Grü", "", "ße"])
                assert await websocket.recv() == "Grüße"
                await websocket.send([b"\x00", b"\xff" * 70000])
                assert await websocket.recv() == b"\x00" + b"\xff" * 70000

        self.run(scenario())

    def test_pings_are_answered_both_ways(self) -> None:
        times: list[float] = []

        async def program(end: End) -> None:
            times.append(await end.ping())
            await end.send("pinged")
            await echo(end)

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                assert await websocket.recv() == "pinged"
                await (await websocket.ping(b"x" * 125))
                await websocket.pong(b"unasked")
                await websocket.send("after")
                assert await websocket.recv() == "after"

        self.run(scenario())
        assert len(times) == 1
        assert 0 <= times[0] < BOUND

    @pytest.mark.parametrize(
        ("code", "reason", "in_order"),
        [(1000, "", True), (1001, "Grüße", True), (3001, "bye", False)],
    )
    def test_close_by_the_client_is_reported(self, code: int, reason: str, in_order: bool) -> None:
        ends: list[ConnectionClosed | None] = []
        ways: list[bool] = []

        async def program(end: End) -> None:
            try:
                await echo(end)
                ways.append(True)
            except ConnectionClosedError as error:
                ways.append(error.event is not end.closed)
            with pytest.raises(ConnectionClosedError):
                await end.recv()
            with pytest.raises(ConnectionClosedError):
                await end.send("too late")
            with pytest.raises(ConnectionClosedError):
                await end.ping()
            await end.close(1000, "once more")
            ends.append(end.closed)

        async def scenario() -> None:
            async with self.serving(program) as port:
                websocket = await peer(port)
                await websocket.close(code, reason)
                assert (websocket.close_code, websocket.close_reason) == (code, reason)

        self.run(scenario())
        assert [(end.code, end.reason, end.cause) for end in ends if end] == [
            (code, reason, Cause.REMOTE)
        ]
        assert ways == [in_order]

    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4001, "Grüße")])
    def test_close_by_the_server_is_reported(self, code: int, reason: str) -> None:
        ends: list[ConnectionClosed] = []

        async def program(end: End) -> None:
            await end.recv()
            await end.close(code, reason)
            ends.append(await end.wait_closed())

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                await websocket.send("now")
                with pytest.raises(TheirClosed):
                    await websocket.recv()
                assert (websocket.close_code, websocket.close_reason) == (code, reason)

        self.run(scenario())
        assert [(end.code, end.cause) for end in ends] == [(code, Cause.LOCAL)]

    def test_server_closes_after_its_handler(self, caplog: pytest.LogCaptureFixture) -> None:
        async def program(end: End) -> None:
            if await end.recv() == "fail":
                raise ZeroDivisionError("on purpose")

        async def scenario() -> None:
            async with self.serving(program) as port:
                for word, code in (("end", 1000), ("fail", 1011)):
                    async with peer(port) as websocket:
                        await websocket.send(word)
                        with pytest.raises(TheirClosed):
                            await websocket.recv()
                        assert websocket.close_code == code

        self.run(scenario())
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
            ZeroDivisionError
        ]

    def test_answers_are_sent_before_the_close_frame(self) -> None:
        async def scenario() -> None:
            async with self.serving(echo) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(
                    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                    b"\r\n"
                    b"\x81\x82\x00\x00\x00\x00hi\x81\x82\x00\x00\x00\x00ho"
                    b"\x88\x82\x00\x00\x00\x00\x03\xe8"
                )
                answer = await reader.read()
                assert answer.partition(b"\r\n\r\n")[2] == b"\x81\x02hi\x81\x02ho\x88\x02\x03\xe8"
                writer.close()

        self.run(scenario())

    def test_answers_are_sent_before_the_close_frame_of_a_failure(self) -> None:
        async def scenario() -> None:
            async with self.serving(echo) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(UPGRADE)
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"\x81\x83\0\0\0\0ask\x89\x81\0\0\0\0p\x83")
                assert await reader.read(-1) == b"".join(
                    [b"\x8a\x01p", b"\x81\x03ask", b"\x88\x14\x03\xeaunknown opcode 0x3"]
                )
                writer.close()
                await writer.wait_closed()

        self.run(scenario())

    @pytest.mark.parametrize("together", [True, False])
    def test_each_ping_has_its_pong(self, together: bool) -> None:
        async def scenario() -> None:
            async with self.serving(echo) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                pings = [b"\x89\x81\0\0\0\0%d" % number for number in range(10)]
                writer.write(UPGRADE + (b"".join(pings) if together else b""))
                await reader.readuntil(b"\r\n\r\n")
                for ping in () if together else pings:
                    writer.write(ping)
                pongs = b"".join(b"\x8a\x01%d" % number for number in range(10))
                assert await reader.readexactly(len(pongs)) == pongs
                writer.close()
                await writer.wait_closed()

        self.run(scenario())

    def test_handler_may_reject_the_request(self) -> None:
        async def reject(end: Any) -> None:
            if end.request.target == "/fail":
                raise ZeroDivisionError
            raise HandshakeRejected(401, [(b"WWW-Authenticate", b"Basic")], b"who?")

        async def scenario() -> None:
            async with self.serving(echo, process_request=reject) as port:
                with pytest.raises(InvalidStatus) as caught:
                    await peer(port)
                response = caught.value.response
                assert (response.status_code, response.body) == (401, b"who?")
                assert response.headers["WWW-Authenticate"] == "Basic"
                with pytest.raises(InvalidStatus) as caught:
                    await peer(port, "/fail")
                assert caught.value.response.status_code == 500

        self.run(scenario())

    def test_server_selects_a_subprotocol(self) -> None:
        async def program(end: End) -> None:
            await end.send(str(end.subprotocol))

        async def scenario() -> None:
            async with self.serving(program, subprotocols=["sip", "msrp"]) as port:
                for offers, chosen in ((["x", "msrp", "sip"], "msrp"), ([], "None")):
                    offered = [Subprotocol(offer) for offer in offers]
                    async with peer(port, subprotocols=offered or None) as websocket:
                        assert await websocket.recv() == chosen
                        assert str(websocket.subprotocol) == chosen

        self.run(scenario())

    def test_reset_by_the_client_is_reported(self) -> None:
        ends: list[ConnectionClosed] = []

        async def program(end: End) -> None:
            with pytest.raises(ConnectionClosedError) as caught:
                await echo(end)
            ends.append(caught.value.event)

        async def scenario() -> None:
            async with self.serving(program) as port:
                websocket = await peer(port)
                await websocket.send("hello")
                assert await websocket.recv() == "hello"
                reset(websocket.transport.get_extra_info("socket"))
                websocket.transport.abort()
                await turns(lambda: bool(ends))

        self.run(scenario())
        assert [(end.code, end.cause) for end in ends] == [(1006, Cause.END_OF_INPUT)]

    def test_server_closes_with_1009_after_an_oversized_message(self) -> None:
        config = SessionConfig(limits=Limits(max_message_size=1000))

        async def scenario() -> None:
            async with self.serving(echo, config=config) as port, peer(port) as websocket:
                await websocket.send(bytes(1000))
                assert await websocket.recv() == bytes(1000)
                # Everything is written before the answer is read: nothing may be reset.
                await websocket.send(NOISE)
                with pytest.raises(TheirClosed):
                    await websocket.recv()
                assert websocket.close_code == 1009

        self.run(scenario())

    def test_drain_closes_with_1001(self) -> None:
        ends: list[ConnectionClosed | None] = []
        codes: list[int | None] = []

        async def program(end: End) -> None:
            try:
                await echo(end)
            finally:
                ends.append(end.closed)

        async def scenario() -> None:
            websockets = []
            async with self.serving(program) as port:
                for _ in range(5):
                    websocket = await peer(port)
                    await websocket.send("x")
                    assert await websocket.recv() == "x"
                    websockets.append(websocket)
            for websocket in websockets:
                await websocket.wait_closed()
                codes.append(websocket.close_code)

        self.run(scenario())
        assert codes == [1001] * 5
        assert [end.cause for end in ends if end] == [Cause.SHUTDOWN] * 5

    def test_tls(self) -> None:
        server, client = certificates()

        async def scenario() -> None:
            async with self.serving(echo, ssl=server) as port:
                async with peer(port, scheme="wss", ssl=client) as websocket:
                    for message in MESSAGES:
                        await websocket.send(message)
                        assert await websocket.recv() == message
                uri = f"wss://localhost:{port}/"
                async with self.client(uri, ssl=client) as end:
                    for message in MESSAGES:
                        await end.send(message)
                        assert await end.recv() == message
                assert end.closed
                assert end.closed.code == 1000
                with pytest.raises(ssl.SSLCertVerificationError):
                    async with self.client(uri):
                        pass

        self.run(scenario())

    # -- a client of ours --------------------------------------------------------------------------

    @pytest.mark.parametrize("extensions", [list, deflate])
    def test_client_echoes(self, extensions: Callable[[], list[Any]]) -> None:
        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, max_size=None) as server:
                uri = f"ws://{HOST}:{port_of(server)}/a?b=c"
                async with self.client(uri, extensions=extensions) as end:
                    for message in MESSAGES:
                        await end.send(message)
                        assert await end.recv() == message
                    assert 0 <= await end.ping() < BOUND
                assert end.closed
                assert (end.closed.code, end.closed.cause) == (1000, Cause.LOCAL)

        self.run(scenario())

    def test_client_gets_fragments_and_pings(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            await websocket.send(["Grü", "", "ße"])
            await (await websocket.ping())
            await websocket.send([b"a", b"b" * 70000])

        async def scenario() -> None:
            async with their_server(handler, HOST, 0) as server:
                async with self.client(f"ws://{HOST}:{port_of(server)}") as end:
                    assert [message async for message in end] == ["Grüße", b"a" + b"b" * 70000]
                assert end.closed
                assert (end.closed.code, end.closed.cause) == (1000, Cause.REMOTE)

        self.run(scenario())

    @pytest.mark.parametrize(("code", "reason"), [(1011, "oh"), (4000, "ü" * 61)])
    def test_close_by_their_server_is_reported(self, code: int, reason: str) -> None:
        async def handler(websocket: ServerConnection) -> None:
            await websocket.close(code, reason)

        async def scenario() -> None:
            async with (
                their_server(handler, HOST, 0) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                with pytest.raises(ConnectionClosedError) as caught:
                    await end.recv()
                assert (caught.value.code, caught.value.reason) == (code, reason)

        self.run(scenario())

    def test_lost_server_is_reported(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            await websocket.send("last")
            websocket.transport.abort()

        async def scenario() -> None:
            async with (
                their_server(handler, HOST, 0) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                assert await end.recv() == "last"
                with pytest.raises(ConnectionClosedError) as caught:
                    await end.recv()
                assert caught.value.event.cause is Cause.END_OF_INPUT

        self.run(scenario())

    def test_client_offers_subprotocols_and_headers(self) -> None:
        seen: list[TheirRequest] = []

        async def handler(websocket: ServerConnection) -> None:
            assert websocket.request is not None
            seen.append(websocket.request)

        async def scenario() -> None:
            sip = [Subprotocol("sip")]
            async with their_server(handler, HOST, 0, subprotocols=sip) as server:
                uri = f"ws://{HOST}:{port_of(server)}/%20ü?x=ü"
                headers = [(b"X-One", b"1")]
                offers = ["msrp", "sip"]
                async with self.client(uri, headers=headers, subprotocols=offers) as end:
                    assert end.subprotocol == "sip"

        self.run(scenario())
        assert seen[0].path == "/%20%C3%BC?x=%C3%BC"
        assert seen[0].headers["X-One"] == "1"

    @pytest.mark.parametrize(("status", "size"), [(403, 10), (302, 0), (500, 100_000)])
    def test_rejection_is_raised_with_its_body(self, status: int, size: int) -> None:
        headers = Headers({"X-Why": "because", "Content-Length": str(size)})

        def reject(connection: ServerConnection, request: TheirRequest) -> Response:
            return Response(status, "Reason", headers, b"x" * size)

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, process_request=reject) as server:
                with pytest.raises(HandshakeRejected) as caught:
                    async with self.client(f"ws://{HOST}:{port_of(server)}"):
                        pass
                rejection = caught.value
                assert rejection.status_code == status
                assert rejection.header(b"x-why") == b"because"
                assert rejection.body == b"x" * min(size, 65536)

        self.run(scenario())

    def test_credentials_of_the_uri_are_sent(self) -> None:
        check = basic_auth(realm="x", credentials=("al:ice".replace(":", ""), "s e:cret"))

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, process_request=check) as server:
                place = f"{HOST}:{port_of(server)}"
                async with self.client(f"ws://alice:s%20e%3Acret@{place}/") as end:
                    await end.send("in")
                    assert await end.recv() == "in"
                with pytest.raises(HandshakeRejected) as caught:
                    async with self.client(f"ws://alice:wrong@{place}/"):
                        pass
                assert caught.value.status_code == 401

        self.run(scenario())

    def test_client_answers_a_challenge(self) -> None:
        check = basic_auth(realm="x", credentials=("alice", "s e:cret"))
        asked: list[tuple[str, bool]] = []

        def refuse(connection: ServerConnection, request: TheirRequest) -> Any:
            asked.append((request.path, "Authorization" in request.headers))
            return check(connection, request)

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, process_request=refuse) as server:
                place = f"ws://{HOST}:{port_of(server)}"
                async with self.client(f"{place}/", credentials=("alice", "s e:cret")) as end:
                    await end.send("in")
                    assert await end.recv() == "in"
                with pytest.raises(HandshakeRejected) as caught:
                    async with self.client(f"{place}/wrong", credentials=("alice", "x")):
                        pass
                assert caught.value.status_code == 401

        self.run(scenario())
        assert asked == [("/", False), ("/", True), ("/wrong", False), ("/wrong", True)]

    def test_unsolicited_pong(self) -> None:
        async def program(end: End) -> None:
            await end.pong(b"here")
            with pytest.raises(LocalProtocolError):
                await end.pong(b"x" * 126)
            await end.close()
            with pytest.raises(ConnectionClosedError):
                await end.pong()

        async def scenario() -> None:
            async with self.serving(program) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(UPGRADE)
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(6) == b"\x8a\x04here"
                assert await reader.readexactly(4) == b"\x88\x02\x03\xe8"
                writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
                assert await reader.read() == b""
                writer.close()

        self.run(scenario())

    def test_redirects_are_followed(self) -> None:
        asked: list[tuple[str, str | None]] = []

        def redirect(connection: ServerConnection, request: TheirRequest) -> Response | None:
            asked.append((request.path, request.headers.get("Cookie")))
            places = {
                "/relative": "there?x",
                "/absolute": f"http://localhost:{connection.local_address[1]}/there?x",
                "/loop": "/loop",
                "/elsewhere": "ftp://example.com/",
            }
            place = places.get(request.path)
            if place is None:
                return None
            return Response(307, "", Headers({"Location": place, "Content-Length": "0"}))

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, process_request=redirect) as server:
                place = f"ws://{HOST}:{port_of(server)}"
                headers = [(b"Cookie", b"c=d")]
                for path in ("/relative", "/absolute"):
                    async with self.client(place + path, headers=headers) as end:
                        await end.send("x")
                        assert await end.recv() == "x"
                for path in ("/loop", "/elsewhere"):
                    with pytest.raises(HandshakeRejected) as caught:
                        async with self.client(place + path, max_redirects=2):
                            pass
                    assert caught.value.status_code == 307

        self.run(scenario())
        assert asked == [
            ("/relative", "c=d"),
            ("/there?x", "c=d"),
            ("/absolute", "c=d"),
            ("/there?x", None),
            ("/loop", None),
            ("/loop", None),
            ("/loop", None),
            ("/elsewhere", None),
        ]

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n"])
    def test_response_that_is_not_http_is_reported(self, answer: bytes) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async def scenario() -> None:
            server = await asyncio.start_server(other, HOST, 0)
            async with server:
                with pytest.raises(ConnectionClosedError) as caught:
                    async with self.client(f"ws://{HOST}:{port_of(server)}"):
                        pass
                cause = Cause.PROTOCOL_ERROR if b"SSH" in answer else Cause.END_OF_INPUT
                assert caught.value.event.cause is cause

        self.run(scenario())

    def test_silent_server_is_a_timeout(self) -> None:
        async def scenario() -> None:
            with socket.create_server((HOST, 0)) as silent:
                config = SessionConfig(open_timeout=0.05)
                with pytest.raises(TimeoutError):
                    async with self.client(f"ws://{HOST}:{silent.getsockname()[1]}", config=config):
                        pass

        self.run(scenario())

    def test_refused_connection_is_an_os_error(self) -> None:
        with socket.create_server((HOST, 0)) as sock:
            port = sock.getsockname()[1]

        async def scenario() -> None:
            with pytest.raises(ConnectionRefusedError):
                async with self.client(f"ws://{HOST}:{port}"):
                    pass
            with pytest.raises(ValueError, match="ws://"):
                async with self.client("http://example.com"):
                    pass

        self.run(scenario())

    def test_unanswered_close_times_out(self) -> None:
        config = SessionConfig(close_timeout=0.05)

        async def deaf(websocket: ServerConnection) -> None:
            websocket.transport.pause_reading()
            await websocket.send("deaf")
            await websocket.wait_closed()

        async def scenario() -> None:
            async with their_server(deaf, HOST, 0, close_timeout=0.05) as server:
                async with self.client(f"ws://{HOST}:{port_of(server)}", config=config) as end:
                    assert await end.recv() == "deaf"
                assert end.closed
                assert (end.closed.code, end.closed.cause) == (1006, Cause.CLOSE_TIMEOUT)

        self.run(scenario())


async def turns(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds."""
    while not condition():  # noqa: ASYNC110 - polled on purpose
        await asyncio.sleep(0)


@asynccontextmanager
async def nothing_leaks() -> AsyncIterator[None]:
    """Assert that a block leaves no task and no timer."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    yield
    # Tasks cancelled in the block end in the next turns of the loop.
    for _ in range(10):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    timers = [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]
    # The task of the scenario itself.
    assert len(timers) <= 1, timers

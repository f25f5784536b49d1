"""uvicorn with applications on this engine, and the websockets library as the client."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

import uvicorn
import uvicorn.server
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from wsproto_sip.adapters.uvicorn import WebSocketProtocol, session_config, websocket_protocol
from wsproto_sip.auth.identity import Identity
from wsproto_sip.limits import Limits
from wsproto_sip.policy import Continue, Deferred, PolicyChain, Reject
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import Mechanism
from wsproto_sip.states import ConnectionState

from .._sessions import REQUEST
from ._ends import BURST, ENDINGS, NUMBERS, Plan, end_transport, plans, raw_client
from ._suite import BOUND, MESSAGES, NOISE, peer, reset, turns
from ._transport import Transport, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

Log = list[dict[str, Any]]


class Application:
    """An application that records what it is told; the path selects what it does.

    Args:
        log: Records the last event on each connection.
    """

    def __init__(self) -> None:
        self.log: Log = []
        # How often /ignore still asks.
        self.patience = 1_000_000

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert await receive() == {"type": "websocket.connect"}
        method = getattr(self, scope["path"].strip("/"))
        await method(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        offers = scope["subprotocols"]
        headers = [(b"x-answer", b"42")]
        chosen = "sip" if "sip" in offers else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        self.log.append(message)
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "too late"})

    async def scope(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        names = ("http_version", "scheme", "path", "raw_path", "query_string", "root_path")
        told = {name: str(scope[name]) for name in names}
        told["headers"] = str(dict(scope["headers"])[b"x-question"])
        told["client"] = scope["client"][0]
        await send({"type": "websocket.send", "text": json.dumps(told)})

    async def close(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001, "reason": "Grüße"})
        for kind in ("send", "close"):
            with pytest.raises(RuntimeError, match="after the end"):
                await send({"type": f"websocket.{kind}", "text": "x"})
        self.log.append(await receive())

    async def refuse(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})
        with pytest.raises(RuntimeError, match="after the end"):
            await send({"type": "websocket.accept"})
        self.log.append(await receive())

    async def respond(self, scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "websocket.http.response.start", "status": 401}
        await send({**start, "headers": [(b"www-authenticate", b"Basic")]})
        with pytest.raises(RuntimeError, match="cannot be sent now"):
            await send({"type": "websocket.accept"})
        body = {"type": "websocket.http.response.body"}
        await send({**body, "body": b"no ", "more_body": True})
        await send({**body, "body": b"way"})

    async def start(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        with pytest.raises(RuntimeError, match="cannot be sent now"):
            await send({"type": "websocket.close"})

    async def fail_in_response(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(scope, receive, send)
        raise ZeroDivisionError

    async def unfinished(self, scope: Any, receive: Any, send: Any) -> None:
        await self.start(scope, receive, send)
        body = {"type": "websocket.http.response.body"}
        await send({**body, "body": b"no ", "more_body": True})

    async def length(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"Content-Length", scope["query_string"]), (b"Transfer-Encoding", b"chunked")]
        start = {"type": "websocket.http.response.start", "status": 403, "headers": headers}
        await send(start)
        with pytest.raises(RuntimeError, match="cannot be sent now"):
            await send(start)
        await send({"type": "websocket.http.response.body", "body": b"way"})

    async def fail(self, scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async def fail_later(self, scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="does not answer"):
            await send({"type": "websocket.send", "text": "x"})
        await send({"type": "websocket.accept"})
        with pytest.raises(RuntimeError, match="cannot be sent now"):
            await send({"type": "websocket.accept"})
        raise ZeroDivisionError

    async def late(self, scope: Any, receive: Any, send: Any) -> None:
        self.log.append(await receive())
        await send({"type": "websocket.accept"})

    async def nothing(self, scope: Any, receive: Any, send: Any) -> None:
        return

    async def ignore(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while self.patience:
            self.patience -= 1
            with suppress(RuntimeError):
                await receive()

    async def insist(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while True:
            self.log.append(await receive())


@asynccontextmanager
async def running(application: Any, **options: Any) -> AsyncIterator[int]:
    """Run uvicorn, and yield its port."""
    async with server_of(application, **options) as server:
        yield server.servers[0].sockets[0].getsockname()[1]


@asynccontextmanager
async def server_of(application: Any, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """Run uvicorn, and yield the server."""
    options = {"lifespan": "off", "log_config": None, **options}
    protocol: Any = options.pop("ws", WebSocketProtocol)
    config = uvicorn.Config(application, port=0, ws=protocol, **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    try:
        await turns(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        await serving
    # Tasks cancelled after their time end in the next turns of the loop.
    await turns(lambda: not (server.server_state.connections or server.server_state.tasks))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    factory = None
    if request.param == "uvloop":
        try:
            factory = import_module("uvloop").new_event_loop
        except ImportError:
            pytest.skip("uvloop is not installed")

    def run(scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND):
                await scenario

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_echo(run: Any, compression: str | None, http: str) -> None:
    if http == "httptools":
        pytest.importorskip("httptools")
    application = Application()

    async def scenario() -> None:
        async with running(application, http=http) as port:
            offers = [Subprotocol("msrp"), Subprotocol("sip")]
            async with peer(
                port, "/echo", compression=compression, subprotocols=offers
            ) as websocket:
                assert websocket.subprotocol == "sip"
                assert websocket.response
                assert websocket.response.headers["x-answer"] == "42"
                assert bool(websocket.protocol.extensions) == (compression is not None)
                for message in MESSAGES:
                    await websocket.send(message)
                    assert await websocket.recv() == message
                for number in range(100):
                    await websocket.send(str(number))
                assert [await websocket.recv() for _ in range(100)] == list(map(str, range(100)))
                await websocket.send(["in ", "", "pieces"])
                assert await websocket.recv() == "in pieces"
                await (await websocket.ping())
                await websocket.close(3001, "bye")

    run(scenario())
    assert application.log == [{"type": "websocket.disconnect", "code": 3001, "reason": "bye"}]


def test_scope(run: Any) -> None:
    async def scenario() -> None:
        async with (
            running(Application(), root_path="") as port,
            peer(port, "/%73cope?a=b", additional_headers={"X-Question": "?"}) as websocket,
        ):
            assert json.loads(await websocket.recv()) == {
                "http_version": "1.1",
                "scheme": "ws",
                "path": "/scope",
                "raw_path": "b'/%73cope'",
                "query_string": "b'a=b'",
                "root_path": "",
                "headers": "b'?'",
                "client": "127.0.0.1",
            }
            await websocket.wait_closed()
            assert websocket.close_code == 1000

    run(scenario())


def test_application_may_close(run: Any) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port, peer(port, "/close") as websocket:
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert (websocket.close_code, websocket.close_reason) == (4001, "Grüße")

    run(scenario())
    assert application.log == [{"type": "websocket.disconnect", "code": 4001, "reason": "Grüße"}]


def test_application_that_ignores_the_end_cannot_stop_other_connections(run: Any) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port:
            async with peer(port, "/ignore"):
                pass
            async with peer(port, "/echo") as websocket:
                await websocket.send("still here?")
                assert await websocket.recv() == "still here?"
            assert application.patience > 0
            application.patience = 0

    run(scenario())


def test_application_that_ignores_the_end_is_ended(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port, peer(port, "/insist"):
            pass

    run(scenario())
    assert (
        application.log
        == [
            {"type": "websocket.disconnect", "code": 1000, "reason": ""},
        ]
        * 100
    )
    assert "receive() was called again and again after the end" in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", 403, b""),
        ("/respond", 401, b"no way"),
        ("/start", 404, b""),
        ("/fail_in_response", 404, b""),
        ("/unfinished", 404, b"no "),
        ("/length?1", 403, b"way"),
        ("/length?10", 403, b"way"),
        ("/fail", 500, b""),
        ("/nothing", 500, b""),
    ],
)
def test_application_may_reject(run: Any, path: str, status: int, body: bytes) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port:
            with pytest.raises(InvalidStatus) as caught:
                await peer(port, path)
            response = caught.value.response
            assert (response.status_code, response.body) == (status, body)
            if path == "/respond":
                assert response.headers["www-authenticate"] == "Basic"

    run(scenario())
    assert application.log == (
        [{"type": "websocket.disconnect", "code": 1006, "reason": ""}] if path == "/refuse" else []
    )


def test_failing_application_closes_with_1011(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(Application()) as port, peer(port, "/fail_later") as websocket:
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1011

    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        run(scenario())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ZeroDivisionError
    ]


def test_reset_by_the_client_is_a_disconnect(run: Any) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port:
            websocket = await peer(port, "/echo")
            await websocket.send("x")
            assert await websocket.recv() == "x"
            reset(websocket.transport.get_extra_info("socket"))
            websocket.transport.abort()
            await turns(lambda: bool(application.log))

    run(scenario())
    assert [message["code"] for message in application.log] == [1006]


@pytest.mark.parametrize("ending", ENDINGS)
def test_application_calls_end_when_clients_burst_and_leave(run: Any, ending: str) -> None:
    """Each call gets all messages, then the client's end; sending reports the same."""
    last, way, code = ENDINGS[ending]
    calls = 20
    received: list[list[str]] = []
    log: Log = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        got: list[str] = []
        received.append(got)
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["text"])
            for _ in range(3):
                await asyncio.sleep(0)
        assert await receive() == message
        with pytest.raises(OSError, match=str(code)):
            await send({"type": "websocket.send", "text": "too late"})
        log.append(message)

    async def client(port: int) -> None:
        sock = await raw_client(port)
        await asyncio.get_running_loop().sock_sendall(sock, BURST + last)
        await end_transport(sock, way)

    async def scenario() -> None:
        async with running(application) as port:
            await asyncio.gather(*[client(port) for _ in range(calls)])
            await turns(lambda: len(log) == calls)

    run(scenario())
    assert received == [NUMBERS] * calls
    assert [message["code"] for message in log] == [code] * calls


@given(plans(), st.sampled_from([None, ConnectionResetError()]))
def test_any_burst_and_end_of_the_transport(plan: Plan, lost: Exception | None) -> None:
    """The application gets all messages, then the client's own end."""
    log: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        got = []
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["text"])
            if len(got) == plan.sends_at:
                with suppress(OSError):
                    await send({"type": "websocket.send", "text": "x"})
            for _ in range(plan.naps):
                await asyncio.sleep(0)
        log.extend([got, message["code"]])

    async def scenario() -> None:
        config = uvicorn.Config(application, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        connection = WebSocketProtocol(config, state, {})
        transport = Transport()
        connection.connection_made(transport)
        connection.data_received(REQUEST)
        await turns(lambda: connection.session.state is ConnectionState.OPEN)
        await play(plan, connection, transport, lost)
        await asyncio.gather(*state.tasks)

    asyncio.run(scenario())
    assert log == [plan.messages, plan.code]


def test_client_lost_in_the_handshake_is_dropped(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /late HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            writer.close()
            await turns(lambda: bool(application.log))

    run(scenario())
    assert [message["code"] for message in application.log] == [1006]
    assert not [record for record in caplog.records if record.exc_info]


def test_oversized_message_closes_with_1009(run: Any) -> None:
    async def scenario() -> None:
        async with (
            running(Application(), ws_max_size=1000) as port,
            peer(port, "/echo") as websocket,
        ):
            await websocket.send(bytes(1000))
            assert await websocket.recv() == bytes(1000)
            await websocket.send(NOISE)
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1009

    run(scenario())


def test_shutdown_closes_with_1012(run: Any) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port:
            websocket = await peer(port, "/echo")
            await websocket.send("x")
            assert await websocket.recv() == "x"
        await websocket.wait_closed()
        assert websocket.close_code == 1012

    run(scenario())
    assert [message["code"] for message in application.log] == [1012]


@pytest.mark.parametrize("way", ["cancel", "shutdown"])
def test_unfinished_application_is_cancelled_at_shutdown(run: Any, way: str) -> None:
    """The server cancels it when its time is up, after it has told the client."""
    ended: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    async def scenario() -> None:
        async with server_of(application, timeout_graceful_shutdown=0.02) as server:
            websocket = await peer(server.servers[0].sockets[0].getsockname()[1], "/")
            if way == "cancel":
                for task in list(server.server_state.tasks):
                    task.cancel()
                await websocket.wait_closed()
        await websocket.wait_closed()
        assert websocket.close_code == 1012

    run(scenario())
    assert ended == ["/"]


def test_silent_peer_is_pinged_and_dropped(run: Any) -> None:
    """A silent peer is pinged, and dropped; the test moves the clock."""
    application = Application()

    async def scenario() -> None:
        async with server_of(application, ws_ping_interval=30, ws_ping_timeout=10) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            websocket = await peer(port, "/echo")
            [connection] = server.server_state.connections
            assert isinstance(connection, WebSocketProtocol)
            now = connection._time()

            def move(seconds: float) -> None:
                connection._time = lambda: now + seconds
                connection._on_timer()

            move(29)
            assert not connection.session.keepalive.awaiting
            move(30)
            assert connection.session.keepalive.awaiting
            await turns(lambda: not connection.session.keepalive.awaiting)
            websocket.transport.pause_reading()
            move(60)
            assert connection.session.keepalive.awaiting
            move(70)
            await turns(lambda: bool(application.log))
            websocket.transport.resume_reading()
            await websocket.wait_closed()

    run(scenario())
    reason = "keep-alive timed out"
    assert application.log == [{"type": "websocket.disconnect", "code": 1011, "reason": reason}]


def test_back_pressure_works_both_ways(run: Any) -> None:
    """Reading stops unless the application receives; sending waits unless the peer reads."""
    release = asyncio.Event()
    got: list[bytes] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await release.wait()
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["bytes"][:4])
            await send({"type": "websocket.send", "bytes": message["bytes"]})

    async def scenario() -> None:
        async with server_of(application, ws_max_queue=4) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            async with peer(port, "/", compression=None) as websocket:
                count = 600

                async def flood() -> None:
                    for number in range(count):
                        await websocket.send(number.to_bytes(4, "big") + bytes(20_000))

                flooding = asyncio.create_task(flood())
                [connection] = server.server_state.connections
                assert isinstance(connection, WebSocketProtocol)
                await turns(lambda: connection.session.paused)
                assert len(connection._messages) <= 8
                assert not flooding.done()
                release.set()
                await turns(lambda: not connection.writable)
                assert connection.transport.get_write_buffer_size() <= 65536 + 20_014
                for number in range(count):
                    message = await websocket.recv()
                    assert message == number.to_bytes(4, "big") + bytes(20_000)
                await flooding

    run(scenario())
    assert got == [number.to_bytes(4, "big") for number in range(600)]


def test_forwarded_address_reaches_the_application(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The address that uvicorn got from a proxy reaches the application and the log."""

    async def scenario() -> None:
        options = {"proxy_headers": True, "forwarded_allow_ips": "127.0.0.1"}
        headers = {"X-Question": "?", "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
        async with (
            running(Application(), **options) as port,
            peer(port, "/scope?x", additional_headers=headers) as websocket,
        ):
            told = json.loads(await websocket.recv())
            assert (told["client"], told["scheme"]) == ("192.0.2.1", "wss")

    with caplog.at_level(logging.INFO, "uvicorn.error"):
        run(scenario())
    assert '192.0.2.1:0 - "WebSocket /scope?x" [accepted]' in caplog.messages


class Answering:
    """An application that accepts as the test defines.

    Args:
        accept: The fields of its message besides the type.
    """

    def __init__(self, **accept: Any) -> None:
        self.accept = accept
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "websocket.accept", **self.accept})


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ({"headers": [(b"Sec-WebSocket-Protocol", b"sip")]}, "sip"),
        ({"headers": [(b"sec-websocket-protocol", b"x")], "subprotocol": "msrp"}, "msrp"),
        ({"subprotocol": "not offered"}, None),
        (
            {
                "headers": [
                    (b"upgrade", b"websocket"),
                    (b"connection", b"upgrade"),
                    (b"sec-websocket-accept", b"x"),
                    (b"content-length", b"0"),
                    (b"sec-websocket-extensions", b"x"),
                    (b"transfer-encoding", b"chunked"),
                ]
            },
            None,
        ),
    ],
)
def test_reserved_header_fields_are_dropped(
    run: Any, accept: dict[str, Any], chosen: str | None
) -> None:
    headers = [*accept.get("headers", []), (b"X-Own", b" kept ")]

    async def scenario() -> None:
        offers = [Subprotocol("msrp"), Subprotocol("sip")]
        async with (
            running(Answering(**{**accept, "headers": headers})) as port,
            peer(port, subprotocols=offers) as websocket,
        ):
            assert websocket.subprotocol == chosen
            assert websocket.response
            assert websocket.response.headers["X-Own"] == "kept"

    run(scenario())


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_large_cookies_are_accepted(run: Any, http: str) -> None:
    async def scenario() -> None:
        cookie = {"Cookie": "c=" + "x" * 60_000}
        async with (
            running(Answering(), http=http, h11_max_incomplete_event_size=65536) as port,
            peer(port, additional_headers=cookie),
        ):
            pass

    run(scenario())


class TestPolicies:
    """Protocol classes made by ``websocket_protocol()``."""

    def test_identity_and_address_are_in_the_scope(self, run: Any) -> None:
        application = Answering()

        def defer(context: Any) -> Any:
            return Deferred("who?", conclude)

        def conclude(answer: Any) -> Any:
            return Continue([(b"x-policy", b"1")], identity=Identity(answer), subprotocol="sip")

        async def resolve(connection: Any, question: object) -> str:
            return f"{question} {connection.peer[0]}"

        protocol = websocket_protocol(policies=PolicyChain([defer]), resolve=resolve)

        async def scenario() -> None:
            async with (
                running(application, ws=protocol) as port,
                peer(port, subprotocols=[Subprotocol("sip")]) as websocket,
            ):
                assert websocket.response
                assert websocket.response.headers["x-policy"] == "1"
                assert websocket.subprotocol == "sip"

        run(scenario())
        [scope] = application.scopes
        extension = scope["extensions"]["wsproto_sip"]
        assert extension == {"identity": Identity("who? 127.0.0.1")}

    @pytest.mark.parametrize("status", [403, 500])
    def test_refused_request_does_not_reach_the_application(self, run: Any, status: int) -> None:
        application = Answering()

        def refuse(context: Any) -> Any:
            if status == 500:
                raise ZeroDivisionError
            return Reject(status)

        protocol = websocket_protocol(policies=PolicyChain([refuse]))

        async def scenario() -> None:
            async with running(application, ws=protocol) as port:
                with pytest.raises(InvalidStatus, match=str(status)):
                    await peer(port)

        run(scenario())
        assert application.scopes == []

    def test_settings_that_uvicorn_lacks_apply(self) -> None:
        base = SessionConfig(close_timeout=1.0, limits=Limits(max_fragments=5, max_message_size=1))
        protocol = websocket_protocol(config=base)
        config = session_config(uvicorn.Config(Answering(), ws_max_size=7), protocol._base)
        assert (config.close_timeout, config.limits.max_fragments) == (1.0, 5)
        assert config.limits.max_message_size == 7
        with pytest.raises(TypeError, match="config must be a SessionConfig, not dict"):
            websocket_protocol(config={})  # type: ignore[arg-type]


class TestFrameworks:
    """Typical applications for Starlette and FastAPI."""

    @pytest.mark.parametrize("framework", ["starlette", "fastapi"])
    def test_framework_application_works(self, run: Any, framework: str) -> None:
        ends: list[tuple[int, str]] = []
        application = self.application(framework, ends)

        async def scenario() -> None:
            async with running(application, ws_max_size=1000) as port:
                async with peer(port, "/echo/7") as websocket:
                    await websocket.send("hello")
                    assert await websocket.recv() == "7: hello"
                    await websocket.close(3001, "enough")
                async with peer(port, "/json") as websocket:
                    await websocket.send('{"a": [1, "ü"]}')
                    assert json.loads(await websocket.recv()) == {"a": [1, "ü"]}
                    await websocket.send("x" * 1001)
                    with pytest.raises(ConnectionClosed):
                        await websocket.recv()
                    assert websocket.close_code == 1009
                async with peer(port, "/policy") as websocket:
                    with pytest.raises(ConnectionClosed):
                        await websocket.recv()
                    assert (websocket.close_code, websocket.close_reason) == (1008, "no")
                for path, status, body in (("/deny", 401, b"who?"), ("/elsewhere", 403, b"")):
                    with pytest.raises(InvalidStatus) as caught:
                        await peer(port, path)
                    response = caught.value.response
                    assert (response.status_code, response.body) == (status, body)

        run(scenario())
        assert ends[0] == (3001, "enough")
        assert ends[1][0] == 1009

    def application(self, framework: str, ends: list[tuple[int, str]]) -> Any:
        pytest.importorskip(framework, reason=f"{framework} is not installed")
        websockets = import_module("starlette.websockets")
        responses = import_module("starlette.responses")
        exceptions = import_module("starlette.exceptions")

        async def echo(websocket: Any) -> None:
            await websocket.accept()
            try:
                while True:
                    text = await websocket.receive_text()
                    await websocket.send_text(f"{websocket.path_params['room']}: {text}")
            except websockets.WebSocketDisconnect as end:
                ends.append((end.code, end.reason))

        async def jsons(websocket: Any) -> None:
            await websocket.accept()
            try:
                async for value in websocket.iter_json():
                    await websocket.send_json(value)
                with pytest.raises(RuntimeError):
                    await websocket.receive_text()
            finally:
                ends.append((1009, ""))

        async def policy(websocket: Any) -> None:
            await websocket.accept()
            raise exceptions.WebSocketException(1008, "no")

        async def deny(websocket: Any) -> None:
            await websocket.send_denial_response(responses.PlainTextResponse("who?", 401))

        routes = {"/echo/{room}": echo, "/json": jsons, "/policy": policy, "/deny": deny}
        if framework == "starlette":
            routing = import_module("starlette.routing")
            return import_module("starlette.applications").Starlette(
                routes=[routing.WebSocketRoute(path, route) for path, route in routes.items()]
            )
        application = import_module("fastapi").FastAPI()
        for path, route in routes.items():
            application.add_api_websocket_route(path, typed(route))
        return application


def typed(route: Any) -> Any:
    """Annotate a function for FastAPI, which injects arguments by type."""

    async def endpoint(websocket: Any) -> None:
        await route(websocket)

    endpoint.__annotations__["websocket"] = import_module("fastapi").WebSocket
    return endpoint


@pytest.mark.parametrize(
    ("options", "mechanism", "interval", "timeout"),
    [
        ({}, Mechanism.PING, 20.0, 20.0),
        ({"ws_ping_interval": 0.1, "ws_ping_timeout": None}, Mechanism.PING, 1.0, 3600.0),
        ({"ws_ping_interval": None}, Mechanism.NONE, 25.0, 20.0),
    ],
)
def test_options_of_uvicorn_apply(
    options: dict[str, Any], mechanism: Mechanism, interval: float, timeout: float
) -> None:
    theirs = uvicorn.Config(Application(), ws_max_size=7, ws_max_queue=3, **options)
    config = session_config(theirs)
    assert (config.limits.max_message_size, config.limits.max_queued_messages) == (7, 3)
    keepalive = config.keepalive
    assert (keepalive.mechanism, keepalive.interval) == (mechanism, interval)
    assert keepalive.answer_timeout == timeout


def test_queue_of_zero_becomes_one() -> None:
    config = session_config(uvicorn.Config(Application(), ws_max_queue=0))
    assert config.limits.max_queued_messages == 1

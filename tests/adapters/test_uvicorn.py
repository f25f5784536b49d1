"""uvicorn with applications on this engine, and the websockets library as the client."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from wsproto_sip.adapters.uvicorn import WebSocketProtocol, session_config
from wsproto_sip.keepalive import Mechanism

from ._suite import BOUND, MESSAGES, NOISE, peer, reset, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

Log = list[dict[str, Any]]


class Application:
    """What an application is told; what it does is named by the path.

    Args:
        log: Takes the last thing that it is told on each connection.
    """

    def __init__(self) -> None:
        self.log: Log = []

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
            with pytest.raises(RuntimeError, match="behind the end"):
                await send({"type": f"websocket.{kind}", "text": "x"})
        self.log.append(await receive())

    async def refuse(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})
        with pytest.raises(RuntimeError, match="behind the end"):
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


@asynccontextmanager
async def running(application: Any, **options: Any) -> AsyncIterator[int]:
    """Runs uvicorn; gives its port."""
    async with server_of(application, **options) as server:
        yield server.servers[0].sockets[0].getsockname()[1]


@asynccontextmanager
async def server_of(application: Any, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """Runs uvicorn; gives the server."""
    options = {"lifespan": "off", "log_config": None, **options}
    protocol: Any = WebSocketProtocol
    config = uvicorn.Config(application, port=0, ws=protocol, **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    await turns(lambda: server.started)
    yield server
    server.should_exit = True
    await serving
    # What was given up when its time was over ends in the next turns of the loop.
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


def test_application_closes(run: Any) -> None:
    application = Application()

    async def scenario() -> None:
        async with running(application) as port, peer(port, "/close") as websocket:
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert (websocket.close_code, websocket.close_reason) == (4001, "Grüße")

    run(scenario())
    assert application.log == [{"type": "websocket.disconnect", "code": 4001, "reason": "Grüße"}]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", 403, b""),
        ("/respond", 401, b"no way"),
        ("/fail", 500, b""),
        ("/nothing", 500, b""),
    ],
)
def test_rejection(run: Any, path: str, status: int, body: bytes) -> None:
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
        [{"type": "websocket.disconnect", "code": 1006, "reason": ""}] if status == 403 else []
    )


def test_application_fails(run: Any, caplog: pytest.LogCaptureFixture) -> None:
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


def test_client_resets(run: Any) -> None:
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


def test_client_vanishes_in_the_handshake(run: Any, caplog: pytest.LogCaptureFixture) -> None:
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


def test_message_over_the_limit(run: Any) -> None:
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


def test_shutdown(run: Any) -> None:
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
def test_application_that_does_not_end(run: Any, way: str) -> None:
    """The server cancels it when its time is up; the client has been told before."""
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


def test_keep_alive(run: Any) -> None:
    """A peer that says nothing is pinged, and given up; the clock is moved by the test."""
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


def test_back_pressure(run: Any) -> None:
    """What the application does not receive is not read; what nobody reads, it waits to send."""
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


def test_forwarded_client(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn knows from a proxy is told to the application, and to the log."""

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


class TestFrameworks:
    """Applications as they are written for Starlette and FastAPI."""

    @pytest.mark.parametrize("framework", ["starlette", "fastapi"])
    def test_application(self, run: Any, framework: str) -> None:
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
    """What FastAPI gives an argument goes by its type."""

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
def test_options(
    options: dict[str, Any], mechanism: Mechanism, interval: float, timeout: float
) -> None:
    theirs = uvicorn.Config(Application(), ws_max_size=7, ws_max_queue=3, **options)
    config = session_config(theirs)
    assert (config.limits.max_message_size, config.limits.max_queued_messages) == (7, 3)
    keepalive = config.keepalive
    assert (keepalive.mechanism, keepalive.interval) == (mechanism, interval)
    assert keepalive.answer_timeout == timeout


def test_no_queue() -> None:
    config = session_config(uvicorn.Config(Application(), ws_max_queue=0))
    assert config.limits.max_queued_messages == 1

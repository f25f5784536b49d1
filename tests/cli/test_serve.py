"""``wsproto-sip serve`` as a process, with clients of the websockets library and plain sockets."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect as dial

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.cli import main, serve as module
from wsproto_sip.events import CloseConnection, Ping, Request, TextMessage

if TYPE_CHECKING:
    from collections.abc import Callable

Server = tuple[str, "subprocess.Popen[bytes]"]


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("ws://").removesuffix("/").rpartition(":")
    return host, int(port)


# -- starting and stopping ------------------------------------------------------------------------


def test_it_says_what_it_offers_and_how_to_try_it(serve: Server) -> None:
    url, process = serve
    assert url.startswith("ws://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    text = out.decode()
    assert "sip, msrp and none" in text
    assert f"-m wsproto_sip connect {url}\n" in text
    assert f"-m wsproto_sip connect --subprotocol sip {url}\n" in text
    assert f'new WebSocket("{url}")' in text
    assert (err, process.returncode) == (b"", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_closes_connections_with_1001(serve: Server, number: signal.Signals) -> None:
    url, process = serve
    with dial(url) as websocket, socket.create_connection(address_of(url)) as silent:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        process.send_signal(number)
        with pytest.raises(ConnectionClosedOK):
            websocket.recv()
        assert websocket.close_code == 1001
        assert websocket.close_reason == "the server is going away"
        assert silent.recv(1) == b""
    assert process.wait() == 0


def test_a_second_signal_does_not_wait_for_clients(serve: Server) -> None:
    url, process = serve
    client = WSConnection(ConnectionType.CLIENT)
    with socket.create_connection(address_of(url)) as sock:
        sock.sendall(client.send(Request(host="localhost", target="/")))
        client.receive_data(sock.recv(65536))
        list(client.events())
        process.send_signal(signal.SIGTERM)
        client.receive_data(sock.recv(65536))
        assert [type(event) for event in client.events()] == [CloseConnection]
        # The answer stays out, and with it the server's end, but for the second signal.
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_port_in_use_is_an_error(
    serve: Server, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    host, port = address_of(serve[0])
    process = start("serve", "--port", str(port))
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.decode() == (
        f"wsproto-sip: cannot listen on {host}:{port}: Address already in use\n"
    )


def test_an_unknown_host_is_an_error(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("serve", "--host", "300.0.0.1", "--port", "0")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.decode().startswith("wsproto-sip: cannot listen on 300.0.0.1:0: ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("port", ["65536", "-1", "http", ""])
def test_a_port_is_a_number(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", f"--port={port}"])
    assert caught.value.code == 2
    assert f"{port!r} is no number from 0 to 65535" in capsys.readouterr().err


def test_verbose_tells_about_connections(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("serve", "--port", "0", "--verbose")
    assert process.stdout is not None
    url = process.stdout.readline().decode().split()[2]
    with dial(f"{url}room?x=1", subprotocols=["msrp"]) as websocket:  # type: ignore[list-item]
        host, port = websocket.local_address
        websocket.close(4000, "\x1b[31mbye")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert err.decode().splitlines() == [
        f"-- {host}:{port} open: /room?x=1, sub-protocol msrp",
        f"-- {host}:{port} closed: 4000 \\x1b[31mbye",
    ]


# -- what clients see -----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_come_back(serve: Server, compression: str | None) -> None:
    messages: list[str | bytes] = [
        "hello",
        b"\x00\xff",
        "",
        b"",
        "grüße, 世界 🎉",
        # Text and octets that do not shrink so far that they would look like an attack.
        random.Random(1).randbytes(512 * 1024).hex(),
        random.Random(2).randbytes(1024 * 1024),
    ]
    with dial(serve[0], compression=compression, max_size=None) as websocket:
        assert websocket.response is not None
        accepted = websocket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert accepted.startswith("permessage-deflate") == (compression is not None)
        for message in messages:
            websocket.send(message)
            assert websocket.recv() == message


def test_fragments_come_back_as_one_message(serve: Server) -> None:
    with dial(serve[0]) as websocket:
        websocket.send(["one ", "", "message"])
        assert list(websocket.recv_streaming()) == ["one message"]


def test_a_message_above_the_limit_closes_with_1009(serve: Server) -> None:
    with dial(serve[0], compression=None) as websocket:
        websocket.send(b"x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosedError):
            websocket.recv()
        assert websocket.close_code == 1009


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["sip"], "sip"),
        (["msrp", "sip"], "msrp"),
        (["chat", "sip"], "sip"),
        (["sipx"], None),
        (["si", "p"], None),
    ],
)
def test_subprotocols(serve: Server, offered: list[str], chosen: str | None) -> None:
    with dial(serve[0], subprotocols=offered or None) as websocket:  # type: ignore[arg-type]
        assert websocket.subprotocol == chosen
        websocket.send("still an echo")
        assert websocket.recv() == "still an echo"


def test_pings_are_answered(serve: Server) -> None:
    with dial(serve[0]) as websocket:
        assert websocket.ping("are you there?").wait(60)


def test_the_close_is_echoed(serve: Server) -> None:
    with dial(serve[0]) as websocket:
        websocket.close(4321, "enough")
        received = websocket.protocol.close_rcvd
        assert received is not None
        assert (received.code, received.reason) == (4321, "enough")


def test_a_plain_request_gets_a_plain_answer(serve: Server) -> None:
    with socket.create_connection(address_of(serve[0])) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with sock.makefile("rb") as stream:
            answer = stream.read()  # to the end: the server closes first
    assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")


# -- what cannot be seen from outside -------------------------------------------------------------


class Transport(asyncio.Transport):
    """A transport that only takes notes."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = bytearray()
        self.reading = True
        self.ended = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


class Pair:
    """A connection of the server, open, with a client in memory."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.server = module.EchoServer()
        self.connection = self.server()
        self.connection.connection_made(self.transport)
        self.client = WSConnection(ConnectionType.CLIENT)
        self.connection.data_received(self.client.send(Request(host="localhost", target="/")))
        assert len(self.answers()) == 1

    def answers(self) -> list[object]:
        self.client.receive_data(bytes(self.transport.written))
        self.transport.written.clear()
        return list(self.client.events())


def test_nothing_is_taken_while_the_client_does_not_read() -> None:
    async def scenario() -> None:
        pair = Pair()
        texts = [TextMessage(data=str(number)) for number in range(4)]
        pair.connection.pause_writing()
        pair.connection.data_received(b"".join(map(pair.client.send, texts)))
        assert pair.answers() == texts[:1]
        assert not pair.transport.reading
        pair.connection.resume_writing()
        assert pair.answers() == texts[1:]
        assert pair.transport.reading

    asyncio.run(scenario())


def test_going_away_does_not_wait_for_a_client_that_does_not_read() -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.connection.pause_writing()
        frames = [TextMessage(data="a"), TextMessage(data="b"), Ping()]
        pair.connection.data_received(b"".join(map(pair.client.send, frames)))
        pair.connection.go_away()
        assert pair.transport.reading
        assert pair.answers() == [
            TextMessage(data="a"),
            CloseConnection(code=1001, reason="the server is going away"),
        ]
        pair.connection.data_received(pair.client.send(CloseConnection(code=1001)))
        assert pair.transport.ended
        assert pair.transport.written == b""

    asyncio.run(scenario())


@pytest.mark.parametrize("opened", [False, True], ids=["handshake", "closing"])
def test_deadlines_abort(monkeypatch: pytest.MonkeyPatch, opened: bool) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS" if opened else "OPEN_SECONDS", 0)

    async def scenario() -> None:
        if opened:
            pair = Pair()
            pair.connection.go_away()
            transport = pair.transport
        else:
            transport = Transport()
            module.EchoServer()().connection_made(transport)
        assert not transport.aborted
        while not transport.aborted:  # noqa: ASYNC110  # a turn of the loop, not a time
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_connection_accepted_while_closing_is_dropped() -> None:
    async def scenario() -> None:
        server = module.EchoServer()
        await server.drain()
        transport = Transport()
        server().connection_made(transport)
        assert transport.aborted

    asyncio.run(scenario())

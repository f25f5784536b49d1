"""``wsproto-sip serve`` as a process, with clients of the websockets library and plain sockets."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect as dial

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.cli import main
from wsproto_sip.events import CloseConnection, Request

if TYPE_CHECKING:
    from collections.abc import Callable

Server = tuple[str, "subprocess.Popen[bytes]"]


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("ws://").removesuffix("/").rpartition(":")
    return host, int(port)


# -- starting and stopping ------------------------------------------------------------------------


def test_the_start_reports_services_and_how_to_try_them(serve: Server) -> None:
    url, process = serve
    assert url.startswith("ws://127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    text = out.decode()
    assert "sip, msrp and none" in text
    assert f"-m wsproto_sip connect {url}\n" in text
    assert "SIP for any domain; strangers may register under any name\n" in text
    assert f"\nA telephone for browsers: {url.replace('ws:', 'http:')} (two tabs" in text
    assert "\nWithout a sub-protocol and on msrp, every message comes back" in text
    assert f'new WebSocket("{url}")' in text
    assert (err, process.returncode) == (b"", 0)
    assert "ctl" not in text


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
        assert websocket.close_reason == "shutting down"
        with silent.makefile("rb") as stream:
            assert stream.read().startswith(b"HTTP/1.1 503 ")
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
        f"wsproto-sip: --port: cannot listen on {host}:{port}: Address already in use\n"
    )


def test_an_unknown_host_is_an_error(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start(
        *("serve", "--host", "300.0.0.1", "--port", "0", "--origin", "any", "--sip-anyone")
    )
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert err.decode().startswith("wsproto-sip: --port: cannot listen on 300.0.0.1:0: ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("port", ["65536", "-1", "http", ""])
def test_a_port_is_a_number(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", f"--port={port}"])
    assert caught.value.code == 2
    assert f"{port!r} is not a number from 0 to 65535" in capsys.readouterr().err


# -- what clients see -----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_come_back(shared: Server, compression: str | None) -> None:
    messages: list[str | bytes] = [
        "hello",
        b"\x00\xff",
        "",
        b"",
        "grüße, 世界 🎉",
        # Text and bytes that do not compress so well that they would look like an attack.
        random.Random(1).randbytes(512 * 1024).hex(),
        random.Random(2).randbytes(1024 * 1024),
    ]
    with dial(shared[0], compression=compression, max_size=None) as websocket:
        assert websocket.response is not None
        accepted = websocket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert accepted.startswith("permessage-deflate") == (compression is not None)
        for message in messages:
            websocket.send(message)
            assert websocket.recv() == message


def test_fragments_come_back_as_one_message(shared: Server) -> None:
    with dial(shared[0]) as websocket:
        websocket.send(["one ", "", "message"])
        assert list(websocket.recv_streaming()) == ["one message"]


def test_a_message_above_the_limit_closes_with_1009(shared: Server) -> None:
    with dial(shared[0], compression=None) as websocket:
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
def test_subprotocols(shared: Server, offered: list[str], chosen: str | None) -> None:
    with dial(shared[0], subprotocols=offered or None) as websocket:  # type: ignore[arg-type]
        assert websocket.subprotocol == chosen
        # SIP answers the keep-alive of RFC 5626 §4.4.1, and ignores other text.
        websocket.send("no echo" if chosen == "sip" else "an echo")
        websocket.send("\r\n\r\n")
        assert websocket.recv() == ("\r\n" if chosen == "sip" else "an echo")


def test_pings_are_answered(shared: Server) -> None:
    with dial(shared[0]) as websocket:
        assert websocket.ping("are you there?").wait(60)


def test_the_close_is_echoed(shared: Server) -> None:
    with dial(shared[0]) as websocket:
        websocket.close(4321, "enough")
        received = websocket.protocol.close_rcvd
        assert received is not None
        assert (received.code, received.reason) == (4321, "enough")


@pytest.mark.parametrize(
    ("target", "start"),
    [("/", b"HTTP/1.1 200 OK\r\n"), ("/chat", b"HTTP/1.1 404 Not Found\r\n")],
)
def test_a_plain_request_gets_the_page(shared: Server, target: str, start: bytes) -> None:
    with socket.create_connection(address_of(shared[0])) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with sock.makefile("rb") as stream:
            answer = stream.read()  # to the end: the server closes first
    assert answer.startswith(start)
    assert (b"\r\n\r\n<!doctype html>\n" in answer) is (target == "/")


def test_without_the_page_a_plain_request_is_told_to_upgrade(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = start("serve", "--port", "0", "--no-page")
    assert process.stdout is not None
    url = process.stdout.readline().decode().split()[2]
    with socket.create_connection(address_of(url)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with sock.makefile("rb") as stream:
            assert stream.read().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    process.terminate()
    assert b"telephone" not in process.communicate()[0]

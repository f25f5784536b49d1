"""Hostile peers at every server, with its default settings.

Each server is a process of its own. A client from before the attack and one that connects after it
are still echoed; the attacker is told what was wrong by the close code or status that the RFC
defines.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from benchmarks._attacks import KEY, REQUEST, deflated, frame
from tests.cli._service import COMMAND, HANGS, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Programs that echo, each on an inherited socket.
PROGRAMS = {
    "asyncio": """
import asyncio, sys
from wsproto_sip.adapters.asyncio import serve
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with serve(echo, sock=int(sys.argv[1])):
        await asyncio.Event().wait()
asyncio.run(main())
""",
    "trio": """
import sys, trio
from wsproto_sip.adapters.trio import serve_forever
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    await serve_forever(echo, sock=int(sys.argv[1]))
trio.run(main)
""",
    "blocking": """
import sys, threading
from wsproto_sip.adapters.blocking import serve
def echo(connection):
    for message in connection:
        connection.send(message)
with serve(echo, sock=int(sys.argv[1])):
    threading.Event().wait()
""",
    "uvicorn": """
import socket, sys, uvicorn
from wsproto_sip.adapters.uvicorn import WebSocketProtocol
async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        try:
            await send({**message, "type": "websocket.send"})
        except OSError:
            return
config = uvicorn.Config(echo, ws=WebSocketProtocol, lifespan="off", log_config=None)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
""",
    "endpoint": """
import asyncio, sys
from contextlib import suppress
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.events import BytesMessage, TextMessage
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.endpoint import Endpoint
async def main():
    loop = asyncio.get_running_loop()
    endpoint = Endpoint(EndpointConfig(), now=loop.time())
    def handle(cid, event):
        if isinstance(event, (TextMessage, BytesMessage)):
            with suppress(Exception):
                endpoint.send(cid, event, loop.time())
    server = EndpointServer(endpoint, handle)
    await server.listen("127.0.0.1", int(sys.argv[1]))
    await asyncio.Event().wait()
asyncio.run(main())
""",
}


@pytest.fixture(scope="module", params=["serve", *PROGRAMS])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return a server's port."""
    kind = request.param
    listener = socket.create_server(("127.0.0.1", 0))
    place = listener.getsockname()[1]
    if kind in ("serve", "endpoint"):
        # These only accept addresses.
        listener.close()
    command = [*COMMAND, "serve", "--port", str(place)]
    if kind != "serve":
        number = place if kind == "endpoint" else listener.fileno()
        command = [sys.executable, "-c", PROGRAMS[kind], str(number)]
    passed = () if kind in ("serve", "endpoint") else (listener.fileno(),)
    with subprocess.Popen(
        command, cwd=ROOT, pass_fds=passed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            listener.close()
            while kind in ("serve", "endpoint") and not is_listening(place):
                assert process.poll() is None
            yield place
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dial(port: int, request: bytes = REQUEST) -> socket.socket:
    """Return a connection whose handshake has succeeded."""
    sock = socket.create_connection(("127.0.0.1", port), HANGS)
    sock.sendall(request)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(1)
        assert data, head
        head += data
    assert head.startswith(b"HTTP/1.1 101 "), head
    return sock


def echo(sock: socket.socket) -> None:
    """Check that a message is echoed."""
    sock.sendall(frame(0x82, b"hello"))
    expected = b"\x82\x05hello"
    got = b""
    while len(got) < len(expected):
        data = sock.recv(len(expected) - len(got))
        assert data, got
        got += data
    assert got == expected


DEFLATE = REQUEST.removesuffix(b"\r\n") + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"

#: Bytes sent after the handshake, and the close code of the answer.
FRAMES: dict[str, tuple[Callable[[], bytes], int]] = {
    "20,000 Pings at once": (lambda: frame(0x89) * 20_000, 1008),
    "20,000 Pongs at once": (lambda: frame(0x8A) * 20_000, 1008),
    "20,000 empty fragments": (lambda: frame(0x01) + frame(0x00) * 20_000, 1009),
    "a frame of 2**62 bytes": (
        lambda: b"\x82\xff" + (1 << 62).to_bytes(8) + KEY + bytes(1000),
        1009,
    ),
    "a frame of 20 MB": (lambda: b"\x82\xff" + (20_000_000).to_bytes(8) + KEY + bytes(1000), 1009),
    "50 MB in 50 kB": (lambda: deflated(bytes(50_000_000)), 1009),
    "bytes that do not inflate": (lambda: frame(0xC2, b"\xff\xff\xff\xff"), 1007),
    "a frame without a mask": (lambda: b"\x82\x01a", 1002),
    "text that is not UTF-8": (lambda: frame(0x81, b"\xff"), 1007),
    "a reserved opcode": (lambda: frame(0x83), 1002),
    "a Ping of 126 bytes": (lambda: frame(0x89, bytes(126)), 1002),
    "a message within a message": (lambda: frame(0x01, b"a") + frame(0x81, b"b"), 1002),
    "a close code that is never sent": (lambda: frame(0x88, b"\x03\xed"), 1002),
}
COMPRESSED = ("50 MB in 50 kB", "bytes that do not inflate")
#: The servers that agree to permessage-deflate by default; for others its bit is reserved.
INFLATES = ("serve", "uvicorn")


def server_of(request: pytest.FixtureRequest) -> str:
    """Return the server that a test is for."""
    return str(request.node.callspec.params["port"])


@pytest.mark.parametrize("what", FRAMES)
def test_attack_after_the_handshake_only_ends_its_connection(
    port: int, what: str, request: pytest.FixtureRequest
) -> None:
    make, code = FRAMES[what]
    if what in COMPRESSED and server_of(request) not in INFLATES:
        code = 1002
    data = make()
    with dial(port) as before, dial(port, DEFLATE) as attacker:
        echo(before)
        with suppress(ConnectionError):
            attacker.sendall(data)
        assert close_code(ends(attacker)) == code
        echo(before)
        with dial(port) as after:
            echo(after)


def close_code(data: bytes) -> int | None:
    """Return the code of the close frame among the frames from a server."""
    while data:
        opcode, size = data[0] & 15, data[1]
        extended = {126: 2, 127: 8}.get(size, 0)
        if extended:
            size = int.from_bytes(data[2 : 2 + extended])
        data = data[2 + extended :]
        if opcode == 8:
            return int.from_bytes(data[:2])
        data = data[size:]
    return None


def ends(sock: socket.socket) -> bytes:
    """Read until the server ends the connection, without ending it from this side."""
    got = b""
    with suppress(ConnectionError):
        while data := sock.recv(65536):
            got += data
    return got


def with_fields(*fields: bytes) -> bytes:
    """Return a handshake with additional header fields."""
    return REQUEST.removesuffix(b"\r\n") + b"".join(b"%b\r\n" % field for field in fields) + b"\r\n"


#: Bytes sent instead of a handshake, and the status of the answer.
HEADS: dict[str, tuple[Callable[[], bytes], int]] = {
    "a request of 1 MB": (lambda: b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 170_000, 431),
    "a target of 1 MB": (lambda: b"GET /" + b"a" * 1_000_000, 431),
    "not HTTP": (
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        400,
    ),
    "two Hosts": (lambda: with_fields(b"Host: elsewhere.test"), 400),
    "two lengths": (lambda: with_fields(b"Content-Length: 5", b"Content-Length: 6"), 400),
    "a header field in a header field": (lambda: with_fields(b"A: b\rC: d"), 400),
}
#: uvicorn reads the request itself, and decides how long to wait for the rest of a head.
READ_BY_UVICORN = ("a request of 1 MB", "a target of 1 MB")


@pytest.mark.parametrize("what", HEADS)
def test_attack_in_the_handshake_only_ends_its_connection(
    port: int, what: str, request: pytest.FixtureRequest
) -> None:
    make, status = HEADS[what]
    ours = server_of(request) != "uvicorn" or what not in READ_BY_UVICORN
    with dial(port) as before, socket.create_connection(("127.0.0.1", port), HANGS) as attacker:
        with suppress(ConnectionError):
            attacker.sendall(make())
        if ours:
            assert ends(attacker).startswith(b"HTTP/1.1 %d " % status)
        echo(before)
        with dial(port) as after:
            echo(after)


def test_stalled_clients_do_not_delay_others(port: int) -> None:
    """Some stop within a request, others within a frame, and one reads nothing."""
    waiting = [socket.create_connection(("127.0.0.1", port), HANGS) for _ in range(20)]
    halves = [dial(port) for _ in range(20)]
    deaf = dial(port)
    try:
        for sock in waiting:
            sock.sendall(REQUEST[:-2])
        for sock in halves:
            sock.sendall(frame(0x82, bytes(1000))[:-1])
        deaf.setblocking(False)
        with suppress(OSError):
            for _ in range(200):
                deaf.sendall(frame(0x82, bytes(60_000)))
        with dial(port) as after:
            echo(after)
    finally:
        for sock in (*waiting, *halves, deaf):
            sock.close()

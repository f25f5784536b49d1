"""``wsproto-sip connect`` as a process, against our server, the websockets library and sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
import trustme

from wsproto_sip.cli.connect import Address, parse_header, parse_url

from .conftest import HANGS, echo

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

    Start = Callable[..., subprocess.Popen[bytes]]
    Connect = Callable[..., tuple[int, bytes, str]]
    Peer = Callable[..., str]
    Server = tuple[str, subprocess.Popen[bytes]]

CONNECTED = "-- connected, sub-protocol none\n"
CLOSED = "-- closed: 1000\n"


def answer_with(*replies: bytes) -> tuple[str, threading.Thread]:
    """A server for one connection that answers one read with each of these, then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            for reply in replies:
                connection.recv(65536)
                connection.sendall(reply)

    thread = threading.Thread(target=run)
    thread.start()
    return f"ws://127.0.0.1:{listener.getsockname()[1]}/", thread


# -- pipes ----------------------------------------------------------------------------------------


def test_a_pipe_gets_all_its_answers(shared: Server, connect: Connect) -> None:
    assert connect(shared[0], lines=b"a\nb\n") == (0, b"a\nb\n", CONNECTED + CLOSED)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_with_another_server(peer: Peer, connect: Connect, compression: str | None) -> None:
    result = connect(peer(echo(2), compression=compression), "--wait", str(HANGS), lines=b"a\nb\n")
    assert result == (0, b"a\nb\n", CONNECTED + CLOSED)


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"no newline", ["no newline"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        ("grüße\x0b\x0c\x1c\x85\u2028 世界\n".encode(), ["grüße\x0b\x0c\x1c\x85\u2028 世界"]),
        (b"text\n\xff\xfe\n", ["text", b"\xff\xfe"]),
        (b"x" * 200_000 + b"\n", ["x" * 200_000]),
    ],
)
def test_a_line_is_a_message(
    peer: Peer, connect: Connect, lines: bytes, messages: list[str | bytes]
) -> None:
    received: list[str | bytes] = []
    url = peer(received.extend)
    assert connect(url, lines=lines) == (0, b"", CONNECTED + CLOSED)
    assert received == messages


def test_what_came_in_goes_out_as_it_is(shared: Server, connect: Connect) -> None:
    lines = b"\x1b[31mred\n\xff\x00\n\n" + "世界\n".encode()
    assert connect(shared[0], lines=lines)[:2] == (0, lines)


def test_many_lines(shared: Server, connect: Connect) -> None:
    # More than all buffers on the way hold, so that either side has to wait for the other.
    lines = b"".join(b"%d %s\n" % (number, b"." * 500) for number in range(20_000))
    assert connect(shared[0], lines=lines)[:2] == (0, lines)


def test_standard_input_may_be_closed(shared: Server, start: Start) -> None:
    # A shell's `<&-`.
    process = start("connect", shared[0], preexec_fn=lambda: os.close(0))
    out, err = process.communicate(timeout=HANGS)
    assert (process.returncode, out, err.decode()) == (0, b"", CONNECTED + CLOSED)


def test_standard_output_may_close_first(shared: Server, start: Start) -> None:
    process = start("connect", shared[0])
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"one\n"
    process.stdout.close()
    process.stdin.write(b"two\n")
    process.stdin.flush()
    assert process.wait(HANGS) == 1
    assert process.stderr is not None
    assert process.stderr.read().decode() == CONNECTED


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "shown", "exit_code"),
    [
        (1000, "", "1000", 0),
        (1001, "going away", "1001 going away", 0),
        (1011, "", "1011", 1),
        (4001, "\x1b[31mtired\n", "4001 \\x1b[31mtired\\n", 1),
    ],
)
def test_the_servers_close_ends_it(
    peer: Peer, start: Start, code: int, reason: str, shown: str, exit_code: int
) -> None:
    # Standard input stays open: what ends the program is the server.
    process = start("connect", peer(lambda websocket: websocket.close(code, reason)))
    assert process.wait(HANGS) == exit_code
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert process.stderr is not None
    assert process.stderr.read().decode() == f"{CONNECTED}-- closed: {shown}\n"


def test_pings_and_pongs_are_shown(peer: Peer, start: Start) -> None:
    answered = []

    def handler(websocket: ServerConnection) -> None:
        websocket.pong("unasked")
        answered.append(websocket.ping(b"\x00" * 40).wait(HANGS))

    process = start("connect", peer(handler))
    assert process.wait(HANGS) == 0
    assert process.stderr is not None
    assert process.stderr.read().decode() == (
        f"{CONNECTED}-- pong (7 octets) 75 6e 61 73 6b 65 64\n"
        f"-- ping (40 octets) {' '.join(['00'] * 32)} …\n{CLOSED}"
    )
    assert answered == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_is_not_at_the_servers_mercy(peer: Peer, start: Start) -> None:
    def handler(websocket: ServerConnection) -> None:
        websocket.send("two\r\nlines, \x1b[31mone\x07 red\u202e")
        websocket.send(b"\x1b[31m")

    master, slave = os.openpty()
    process = start("connect", peer(handler), stdout=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells the end of a terminal
        while octets := os.read(master, 65536):
            shown += octets
    os.close(master)
    assert process.wait(HANGS) == 0
    assert shown.decode() == (
        "< two\r\n< lines, \\x1b[31mone\\x07 red\\u202e\r\n< (5 octets) 1b 5b 33 31 6d\r\n"
    )


def test_ctrl_c_closes(peer: Peer, start: Start) -> None:
    codes = []

    def handler(websocket: ServerConnection) -> None:
        assert list(websocket) == []
        codes.append(websocket.close_code)

    process = start("connect", peer(handler))
    assert process.stderr is not None
    assert process.stderr.readline().decode() == CONNECTED
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGS) == 0
    assert process.stderr.read().decode() == CLOSED
    assert codes == [1000]


def test_ctrl_c_during_the_handshake(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start("connect", f"ws://127.0.0.1:{listener.getsockname()[1]}/")
        with listener.accept()[0] as connection:
            assert connection.recv(65536).startswith(b"GET / HTTP/1.1\r\n")
            process.send_signal(signal.SIGINT)
            assert process.wait(HANGS) == 130
    assert process.stderr is not None
    assert process.stderr.read() == b""


# -- the handshake --------------------------------------------------------------------------------


def test_subprotocols_and_headers_are_sent(peer: Peer, connect: Connect) -> None:
    seen: dict[str, str] = {}

    def handler(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        seen.update(websocket.request.headers.raw_items())
        seen["target"] = websocket.request.path

    url = peer(handler, subprotocols=["sip"])
    options = ("--subprotocol", "msrp", "--subprotocol", "sip", "--header", "Origin: https://a.b ")
    code, _, err = connect(f"{url}grüße?q=ä b".replace(" ", "%20"), *options)
    assert (code, err) == (0, f"-- connected, sub-protocol sip\n{CLOSED}")
    assert seen["target"] == "/gr%C3%BC%C3%9Fe?q=%C3%A4%20b"
    assert seen["Sec-WebSocket-Protocol"] == "msrp, sip"
    assert seen["Origin"] == "https://a.b"
    assert seen["Host"] == url.removeprefix("ws://").removesuffix("/")


def test_a_rejection_is_shown(peer: Peer, connect: Connect) -> None:
    def refuse(websocket: ServerConnection, request: Request) -> Response:
        response = websocket.respond(HTTPStatus.UNAUTHORIZED, "who\nare you?\x1b[31m\n")
        response.headers["WWW-Authenticate"] = 'Basic realm="x"'
        return response

    code, out, err = connect(peer(echo(0), process_request=refuse))
    assert (code, out) == (1, b"")
    lines = err.splitlines()
    assert lines[0] == "-- rejected: 401 Unauthorized"
    assert '-- www-authenticate: basic realm="x"' in [line.lower() for line in lines]
    assert lines[-2:] == ["-- who", "-- are you?\\x1b[31m"]


def test_a_redirect_is_not_followed(connect: Connect) -> None:
    url, thread = answer_with(
        b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    )
    code, out, err = connect(url)
    thread.join()
    assert (code, out) == (1, b"")
    assert err.splitlines()[0] == "-- rejected: 302 Found"
    assert "-- location: ws://127.0.0.1:1/" in err.lower().splitlines()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b""], ids=["ssh", "nothing"])
def test_another_protocol(connect: Connect, answer: bytes) -> None:
    url, thread = answer_with(answer)
    code, out, err = connect(url)
    thread.join()
    assert (code, out) == (1, b"")
    assert err.count("\n") == 1


def test_a_lost_connection(peer: Peer, start: Start) -> None:
    def handler(websocket: ServerConnection) -> None:
        websocket.socket.shutdown(socket.SHUT_RDWR)

    process = start("connect", peer(handler))
    assert process.wait(HANGS) == 1
    assert process.stderr is not None
    assert process.stderr.read().decode() == f"{CONNECTED}-- the connection was lost\n"


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "soon"])
def test_a_wait_is_a_number(connect: Connect, seconds: str) -> None:
    code, _, err = connect(f"--wait={seconds}", "ws://127.0.0.1:1/")
    assert code == 2
    assert f"{seconds!r} is no number of seconds" in err


def test_nobody_listens(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert connect(f"ws://127.0.0.1:{port}/") == (
        2,
        b"",
        f"wsproto-sip: cannot connect to 127.0.0.1:{port}: Connection refused\n",
    )


# -- wss ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, peer: Peer) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return peer(echo(1), ssl=context)


def test_wss(secure: str, connect: Connect, authority: trustme.CA, tmp_path: Path) -> None:
    cafile = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(cafile))
    result = connect(secure, "--cafile", str(cafile), "--wait", str(HANGS), lines=b"a\n")
    assert result == (0, b"a\n", CONNECTED + CLOSED)


def test_a_certificate_nobody_vouches_for(secure: str, connect: Connect) -> None:
    code, out, err = connect(secure)
    assert (code, out) == (2, b"")
    where = secure.removeprefix("wss://").removesuffix("/")
    assert err.startswith(
        f"wsproto-sip: cannot connect to {where}: the certificate is not accepted: "
    )
    assert err.count("\n") == 1


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "host_header"),
    [
        ("ws://example.com", Address("example.com", 80, False, "/"), "example.com"),
        ("WS://Example.com:80/", Address("example.com", 80, False, "/"), "example.com"),
        ("wss://example.com", Address("example.com", 443, True, "/"), "example.com"),
        ("wss://example.com:80/a", Address("example.com", 80, True, "/a"), "example.com:80"),
        ("ws://[::1]:9/a/b?c=d&e", Address("::1", 9, False, "/a/b?c=d&e"), "[::1]:9"),
        ("ws://[::1]?x", Address("::1", 80, False, "/?x"), "[::1]"),
        ("ws://bücher.example/", Address("xn--bcher-kva.example", 80, False, "/"), None),
        ("ws://h/a%20b/ü", Address("h", 80, False, "/a%20b/%C3%BC"), "h"),
    ],
)
def test_urls(text: str, address: Address, host_header: str | None) -> None:
    assert parse_url(text) == address
    assert parse_url(text).host_header == (host_header or address.host)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://example.com/", "ws:// or wss://"),
        ("example.com:8080", "ws:// or wss://"),
        ("", "ws:// or wss://"),
        ("ws:///path", "no host"),
        ("ws://:80/", "no host"),
        ("ws://h/#top", "fragment"),
        ("ws://h/#", "fragment"),
        ("ws://user:secret@h/", "--header"),
        ("ws://h:port/", "port"),
        ("ws://h:65536/", "[Pp]ort"),
        ("ws://[::1/", "IPv6"),
        ("ws://a..b/", "domain name"),
        (f"ws://{'a' * 64}.example/", "domain name"),
        ("ws://h/a b", "space"),
        ("ws://h/a\nb", "space"),
    ],
)
def test_what_is_no_url(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_url(text)


def test_headers() -> None:
    assert parse_header("X-Name:value") == (b"X-Name", b"value")
    assert parse_header("A: \t b: c \t") == (b"A", b"b: c")
    assert parse_header("A:") == (b"A", b"")
    assert parse_header("A: ü\udcff") == (b"A", b"\xc3\xbc\xff")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no colon", "Name: value"),
        (": value", "Name: value"),
        ("Na me: value", "Name: value"),
        ("A: b\r\nC: d", "Name: value"),
        ("A: b\n", "Name: value"),
        ("A: \x00", "Name: value"),
        ("hOST: x", "hOST is written by the handshake"),
        ("Sec-WebSocket-Key: x", "written by the handshake"),
    ],
)
def test_what_is_no_header(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_header(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["http://h/"], "'http://h/' is not a WebSocket URL: "),
        (["ws://h/", "--header", "x"], "--header 'x': "),
        (["wss://h/", "--cafile", "/nowhere/ca.pem"], "--cafile '/nowhere/ca.pem': No such file"),
        (["ws://h/", "--subprotocol", "a b"], ""),
    ],
)
def test_wrong_arguments(connect: Connect, arguments: list[str], complaint: str) -> None:
    code, out, err = connect(*arguments)
    assert (code, out) == (2, b"")
    assert err.startswith(f"wsproto-sip: {complaint}")
    assert err.count("\n") == 1

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

from wsproto_sip.cli.connect.command import EXIT_CODES, parse_header, parse_resolve

from ..conftest import HANGS, ROOT, echo

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
    """Serve one connection: answer one read with each of these, then close."""
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
        f"{CONNECTED}-- pong (7 bytes) 75 6e 61 73 6b 65 64\n"
        f"-- ping (40 bytes) {' '.join(['00'] * 32)} …\n{CLOSED}"
    )
    assert answered == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_is_not_at_the_servers_mercy(peer: Peer, start: Start) -> None:
    def handler(websocket: ServerConnection) -> None:
        websocket.send("two\r\nlines, \x1b[31mone\x07 red\u202e")
        websocket.send(b"\x1b[31m")

    master, slave = os.openpty()
    environment = {**os.environ, "NO_COLOR": "1"}
    process = start("connect", peer(handler), stdout=slave, env=environment)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells the end of a terminal
        while octets := os.read(master, 65536):
            shown += octets
    os.close(master)
    assert process.wait(HANGS) == 0
    assert shown.decode() == (
        "< two\r\n< lines, \\x1b[31mone\\x07 red\\u202e\r\n< (5 bytes) 1b 5b 33 31 6d\r\n"
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
    assert (code, out) == (4, b"")
    lines = err.splitlines()
    assert lines[0] == "-- rejected: 401 Unauthorized"
    assert '-- www-authenticate: basic realm="x"' in [line.lower() for line in lines]
    assert lines[-2:] == ["-- who", "-- are you?\\x1b[31m"]


def redirecting_to(url: str) -> tuple[str, threading.Thread]:
    head = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"
    return answer_with(head.encode())


def test_redirect_is_followed(shared: Server, connect: Connect) -> None:
    url, thread = redirecting_to(shared[0])
    result = connect(url, lines=b"a\n")
    thread.join()
    assert result == (0, b"a\n", CONNECTED + CLOSED)


def test_redirect_is_shown_where_it_may_not_be_followed(connect: Connect) -> None:
    url, thread = redirecting_to("ws://127.0.0.1:1/")
    code, out, err = connect("--max-redirects", "0", url)
    thread.join()
    assert (code, out) == (4, b"")
    assert err.splitlines()[0] == "-- rejected: 302 Found"
    assert "-- location: ws://127.0.0.1:1/" in err.lower().splitlines()


def test_proxy_that_refuses_is_named(connect: Connect) -> None:
    proxy, thread = answer_with(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    proxy = proxy.replace("ws:", "http:")
    code, out, err = connect("--proxy", proxy, "ws://example.invalid/")
    thread.join()
    assert (code, out) == (3, b"")
    assert err.startswith("wsproto-sip: cannot connect to example.invalid:80: ")
    assert "403" in err


def test_server_that_does_not_answer_is_given_up(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start("connect", "--open-timeout", "0.2", f"ws://127.0.0.1:{port}/")
        assert process.wait(HANGS) == 3
    assert process.stderr is not None
    expected = f"wsproto-sip: cannot connect to 127.0.0.1:{port}: no answer\n"
    assert process.stderr.read().decode() == expected


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b""], ids=["ssh", "nothing"])
def test_another_protocol(connect: Connect, answer: bytes) -> None:
    url, thread = answer_with(answer)
    code, out, err = connect(url)
    thread.join()
    assert (code, out) == (4, b"")
    assert err.count("\n") == 1


def test_a_lost_connection(peer: Peer, start: Start) -> None:
    def handler(websocket: ServerConnection) -> None:
        websocket.socket.shutdown(socket.SHUT_RDWR)

    process = start("connect", peer(handler))
    assert process.wait(HANGS) == 5
    assert process.stderr is not None
    assert process.stderr.read().decode() == f"{CONNECTED}-- the connection was lost\n"


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "soon"])
def test_a_wait_is_a_number(connect: Connect, seconds: str) -> None:
    code, _, err = connect(f"--wait={seconds}", "ws://127.0.0.1:1/")
    assert code == 2
    assert f"{seconds!r} is not a number of seconds of at least 0" in err


def test_connecting_to_a_closed_port_fails(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert connect(f"ws://127.0.0.1:{port}/") == (
        3,
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


def test_a_certificate_can_be_ignored(secure: str, connect: Connect) -> None:
    result = connect(secure, "--insecure", "--wait", str(HANGS), lines=b"a\n")
    assert result == (0, b"a\n", CONNECTED + CLOSED)


def test_client_certificate(
    authority: trustme.CA, peer: Peer, connect: Connect, tmp_path: Path
) -> None:
    shown: list[object] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    def handler(websocket: ServerConnection) -> None:
        assert isinstance(websocket.socket, ssl.SSLSocket)
        shown.append(websocket.socket.getpeercert() is not None)
        websocket.send(websocket.recv())

    port = peer(handler, ssl=context).rpartition(":")[2]
    cafile, cert, key = (str(tmp_path / name) for name in ("ca", "cert", "key"))
    authority.cert_pem.write_to_path(cafile)
    own = authority.issue_cert("client.example")
    own.private_key_pem.write_to_path(key)
    with open(cert, "wb") as file:
        file.writelines(blob.bytes() for blob in own.cert_chain_pems)
    # The name is that of the certificate, and leads here without a name server.
    resolve = f"Server.example:{port.rstrip('/')}:127.0.0.1"
    options = ["--cafile", cafile, "--cert", cert, "--key", key, "--resolve", resolve]
    result = connect(*options, "--wait", str(HANGS), f"wss://server.example:{port}", lines=b"a\n")
    assert result == (0, b"a\n", CONNECTED + CLOSED)
    assert shown == [True]


def test_an_untrusted_certificate_is_refused(secure: str, connect: Connect) -> None:
    code, out, err = connect(secure)
    assert (code, out) == (3, b"")
    where = secure.removeprefix("wss://").removesuffix("/")
    assert err.startswith(
        f"wsproto-sip: cannot connect to {where}: the certificate is not accepted: "
    )
    assert err.count("\n") == 1


# -- exit codes ----------------------------------------------------------------------------------


def test_table_of_exit_codes() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    section = page.partition("## `wsproto-sip connect`")[2]
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in section


# -- arguments ------------------------------------------------------------------------------------


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
        ("hOST: x", "hOST is set by the handshake"),
        ("Sec-WebSocket-Key: x", "set by the handshake"),
    ],
)
def test_invalid_header_fields_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_header(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Example.com:443:192.0.2.1", ("example.com", 443, "192.0.2.1")),
        ("example.com:80:2001:db8::1", ("example.com", 80, "2001:db8::1")),
        ("[::1]:80:[2001:DB8::1]", ("::1", 80, "2001:db8::1")),
    ],
)
def test_resolve(text: str, parts: tuple[str, int, str]) -> None:
    assert parse_resolve(text) == parts


@pytest.mark.parametrize("text", ["", "h:80", "h:x:192.0.2.1", "h:80:name", "h:99999:192.0.2.1"])
def test_invalid_resolve_arguments_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_resolve(text)


def test_resolve_does_not_apply_to_other_hosts(shared: Server, connect: Connect) -> None:
    other = "example.com:80:192.0.2.1"
    assert connect("--resolve", other, shared[0], lines=b"a\n")[:2] == (0, b"a\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["http://h/"], "'http://h/' is not a WebSocket URI: "),
        (["ws://h/", "--header", "x"], "--header 'x': "),
        (["wss://h/", "--cafile", "/nowhere/ca.pem"], "--cafile '/nowhere/ca.pem': No such file"),
        (["wss://h/", "--cert", "/nowhere"], "--cert '/nowhere': No such file"),
        (["wss://h/", "--cert", "/dev/null"], "--cert '/dev/null': "),
        (["wss://h/", "--key", "k"], "--key: requires --cert"),
        (["ws://h/", "--resolve", "h:80"], "--resolve 'h:80': not of the form"),
        (["ws://h/", "--origin", "a\nb"], "--origin 'a\\nb': not a field value"),
        (["ws://h/", "--auth", "\x01:x"], "not a user name"),
        (["ws://h/", "--subprotocol", "a b"], "--subprotocol 'a b': not a token"),
    ],
)
def test_wrong_arguments(connect: Connect, arguments: list[str], complaint: str) -> None:
    code, out, err = connect(*arguments)
    assert (code, out) == (2, b"")
    assert err.startswith(f"wsproto-sip: {complaint}")
    assert err.count("\n") == 1

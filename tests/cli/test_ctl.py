"""``wsproto-sip ctl`` against servers that answer oddly; the rest is in test_serve_endpoint."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli import ctl, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")

Captured = pytest.CaptureFixture[str]


@contextmanager
def answering(listener: socket.socket, answer: bytes) -> Iterator[None]:
    """Serve one client: read once and answer with this."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(answer)

    thread = threading.Thread(target=serve)
    with listener:
        listener.settimeout(30)
        thread.start()
        yield
        thread.join()


def run(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["ctl", *arguments])
    except SystemExit as exit:
        code = int(str(exit.code))
    out, err = capsys.readouterr()
    return code, out, err


def unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":{"id":7}}\n', 0, "id  7\n", ""),
        # The end of input will do in place of the end of the line.
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', 0, "", ""),
        (b'{"jsonrpc":"2.0","id":1,"result":"odd"}\n', 0, "odd\n", ""),
        (b'{"jsonrpc":"2.0","id":1,"result":["a",1]}\n', 0, "a\n1\n", ""),
        (
            b'{"jsonrpc":"2.0","id":1,"error":{"code":500,"message":"No\\u001b[31m"}}\n',
            1,
            "",
            "wsproto-sip: 500 No\\x1b[31m\n",
        ),
        (b"", 1, "", "wsproto-sip: 0 answers instead of one\n"),
        (b"nonsense\n", 1, "", "wsproto-sip: the answer is not JSON: "),
    ],
)
def test_answers(
    tmp_path: Path, capsys: Captured, answer: bytes, code: int, out: str, err: str
) -> None:
    with answering(unix(tmp_path / "s"), answer):
        result = run(capsys, "--socket", str(tmp_path / "s"), "ws.enable")
    assert result[:2] == (code, out)
    assert result[2] == err or (err.endswith(": ") and result[2].startswith(err))


@pytest.mark.parametrize(
    ("answer", "code", "err"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", 1, "403 Forbidden: no"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 1, "404 Not Found"),
        (b"SSH-2.0-x\r\n", 1, "not HTTP: BadStatusLine("),
        (b"", 1, "not HTTP: RemoteDisconnected("),
    ],
)
def test_answers_over_http(capsys: Captured, answer: bytes, code: int, err: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with answering(listener, answer):
        result = run(capsys, "--url", url, "ws.enable")
    assert result[:2] == (code, "")
    assert result[2].startswith(f"wsproto-sip: {err}")


def test_a_server_that_does_not_run_is_reported(tmp_path: Path, capsys: Captured) -> None:
    unix(tmp_path / "dead").close()
    os.mkfifo(tmp_path / "unread")
    (tmp_path / "file").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    refused = os.strerror(111) if os.name == "posix" else ""
    for option, where, reason in (
        (
            "--socket",
            str(tmp_path / "dead"),
            f"{refused}; serve listens there with --ctl-socket PATH",
        ),
        (
            "--socket",
            str(tmp_path / "nowhere"),
            "No such file or directory; serve creates it with --ctl-socket PATH",
        ),
        (
            "--url",
            f"http://127.0.0.1:{port}/",
            f"{refused}; serve listens there with --ctl-http PORT",
        ),
        (
            "--fifo",
            str(tmp_path / "nowhere"),
            "No such file or directory; serve creates it with --fifo PATH",
        ),
        (
            "--fifo",
            str(tmp_path / "unread"),
            "the FIFO has no reader; serve reads it with --fifo PATH",
        ),
        ("--fifo", str(tmp_path / "file"), "not a FIFO"),
    ):
        code, out, err = run(capsys, option, where, "ws.dump")
        assert (code, out, err) == (2, "", f"wsproto-sip: {where}: {reason}\n")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dead", "file", "unread"]


@pytest.mark.parametrize(("option", "call"), [("--socket", "over_socket"), ("--fifo", "over_fifo")])
def test_a_channel_of_another_user_is_explained(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, option: str, call: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "not for you")

    # As root, no file is forbidden.
    monkeypatch.setattr(ctl, call, refuse)
    code, _, err = run(capsys, option, "/run/ctl", "ws.dump")
    assert code == 2
    assert err == (
        "wsproto-sip: /run/ctl: Permission denied; it is for the user that runs the server; run "
        "ctl as that user, or use --url with the server's --ctl-http and --ctl-http-token\n"
    )


def test_the_channels_of_several_processes_are_named(tmp_path: Path, capsys: Captured) -> None:
    where = str(tmp_path / "ctl")
    with unix(tmp_path / "ctl.0"):
        code, _, err = run(capsys, "--socket", where, "ws.dump")
    assert code == 2
    assert err == (
        f"wsproto-sip: {where}: No such file or directory; with --processes, each process has "
        f"its own, the first one {where}.0\n"
    )


def test_a_server_that_wants_a_token_is_explained(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "token"
    path.write_text("t" * 16)
    path.chmod(0o600)
    for options, advice in (
        ([], "--token-file names the file of the server's --ctl-http-token"),
        (["--token-file", str(path)], "the token is not that of the server's --ctl-http-token"),
    ):
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with answering(listener, b"HTTP/1.1 401 \r\nContent-Length: 1\r\n\r\n-"):
            result = run(capsys, "--url", url, *options, "ws.enable")
        assert result == (1, "", f"wsproto-sip: 401: -; {advice}\n")
    path.chmod(0o644)
    for where, reason in (
        (path, "other users may use it (mode 0644); chmod 600"),
        (
            tmp_path / "nowhere",
            "No such file or directory; it has the token of the server's --ctl-http-token",
        ),
    ):
        result = run(capsys, "--url", "http://127.0.0.1:9", "--token-file", str(where), "ws.dump")
        assert result == (2, "", f"wsproto-sip: --token-file: {where}: {reason}\n")


def test_no_answer_in_time(tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        where = str(tmp_path / "fifo")
        code, _, err = run(capsys, "--timeout", "0.01", "--fifo", where, "ws.dump")
        assert (code, err) == (2, f"wsproto-sip: {where}: {os.strerror(110)}\n")
    finally:
        os.close(reader)
    with unix(tmp_path / "socket"):
        where = str(tmp_path / "socket")
        code, _, err = run(capsys, "--timeout", "0.01", "--socket", where, "ws.dump")
        assert (code, err) == (2, f"wsproto-sip: {where}: timed out\n")


def test_an_answer_through_a_fifo_that_ends_early(tmp_path: Path, capsys: Captured) -> None:
    os.mkfifo(tmp_path / "fifo")
    where = tmp_path / "fifo"

    def serve() -> None:
        with where.open("rb", buffering=0) as fifo:
            name = fifo.readline().decode().split(":")[2].strip("\n")
        with where.with_name(name).open("wb", buffering=0) as reply:
            reply.write(b"200 OK\n")

    thread = threading.Thread(target=serve)
    thread.start()
    err = "the FIFO has no reader"
    while "the FIFO has no reader" in err:
        code, out, err = run(capsys, "--fifo", str(where), "ws.dump")
    thread.join()
    assert (code, out) == (1, "")
    assert err == "wsproto-sip: the answer does not end in an empty line\n"


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (["ws.dump"], "one of the arguments --socket --url --fifo is required"),
        (["--socket", "a", "--fifo", "b", "ws.dump"], "not allowed with argument"),
        (["--socket", "a"], "the following arguments are required: COMMAND"),
        (["--url", "https://127.0.0.1/", "ws.dump"], "not http://HOST:PORT/: "),
        (["--url", "http:///", "ws.dump"], "not http://HOST:PORT/: "),
        (["--url", "http://127.0.0.1:x/", "ws.dump"], "Port could not be cast"),
        (["--socket", "a", "--timeout", "0", "ws.dump"], "--timeout: 0.0 is not a number"),
        (["--socket", "a", "--watch", "0", "ws.dump"], "--watch: 0.0 is not a number"),
        (["--socket", "a", "top", "x"], "top takes no parameter but all"),
        (["--socket", "a", "--timeout", "nan", "ws.dump"], "--timeout: nan is not a number"),
        (["--fifo", "a", "ws.dump", "a\nb"], "must not be empty or have control characters"),
    ],
)
def test_wrong_arguments(capsys: Captured, arguments: list[str], err: str) -> None:
    code, out, told = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err in told


def test_watching_ends_when_the_server_does(tmp_path: Path, capsys: Captured) -> None:
    listener = unix(tmp_path / "s")
    asked = []

    def serve() -> None:
        with listener:
            for number in range(3):
                client, _ = listener.accept()
                with client:
                    asked.append(client.recv(65536))
                    client.sendall(b'{"jsonrpc":"2.0","id":1,"result":{"n":%d}}\n' % number)

    listener.settimeout(30)
    thread = threading.Thread(target=serve)
    thread.start()
    where = str(tmp_path / "s")
    code, out, err = run(capsys, "--socket", where, "--watch", "0.001", "ws.statistics", "n")
    thread.join()
    assert (code, out) == (2, "n  0\n\nn  1\n\nn  2\n\n")
    assert err.startswith(f"wsproto-sip: {where}: {os.strerror(111)}; serve listens there with ")
    assert len(asked) == 3

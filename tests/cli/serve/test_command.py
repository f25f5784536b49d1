"""Starting ``wsproto-sip serve``: places to listen at, systemd, and checking without starting."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trustme

from wsproto_sip.cli import main

from .._service import COMMAND, HANGS, ROOT, Service, launched, status_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and signals")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """Return the file of a certificate with its key, and the clients' context for it."""
    authority = trustme.CA()
    path = tmp_path / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return str(path), context


def answer_at(path: str) -> bytes:
    """Return the status line of a handshake at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(HANGS)
        sock.connect(path)
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        return sock.makefile("rb").readline().rstrip()


def test_several_places_in_one_process(
    tmp_path: Path, certificate: tuple[str, ssl.SSLContext]
) -> None:
    path = str(tmp_path / "ws")
    words = ["ws://127.0.0.1:0", "wss://127.0.0.1:0", f"unix:{path}"]
    with launched(
        *[word for place in words for word in ("--listen", place)],
        *("--tls-cert", certificate[0], "--origin", "missing", "--port", "8080"),
        *("--sip-name", "127.0.0.1", "--sip-anyone", "--ctl-socket", str(tmp_path / "ctl")),
        *("--trusted-proxy", "unix"),
    ) as service:
        shown = [line.removeprefix("Listening on ") for line in service.announced[:3]]
        plain, secure, unix = shown
        assert (plain[:15], secure[:16], unix) == ("ws://127.0.0.1:", "wss://127.0.0.1:", words[2])
        assert status_of(plain) == 101
        assert status_of(secure, ssl=certificate[1]) == 101
        assert answer_at(path) == b"HTTP/1.1 101 Switching Protocols"
        out, err = service.stop()
    assert (out, err) == ("", [])
    assert not os.path.exists(path)


_EXEC = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def inheriting(sock: socket.socket, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start a server with a socket passed by systemd."""
    command = [sys.executable, "-c", _EXEC, str(sock.fileno()), *COMMAND, "serve", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        pass_fds=[sock.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


STATED = ("--origin", "missing", "--subprotocol", "none")


def test_systemd_passes_a_socket_and_gets_notifications(tmp_path: Path) -> None:
    place = str(tmp_path / "notify")
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(place)
        manager.settimeout(HANGS)

        def told(beginning: bytes) -> bytes:
            while not (message := manager.recv(4096)).startswith(beginning):
                assert message == b"WATCHDOG=1"
            return message

        url = f"ws://127.0.0.1:{sock.getsockname()[1]}/"
        with inheriting(
            sock,
            *("--listen", "systemd:public", "--drain-seconds", "3", *STATED),
            NOTIFY_SOCKET=place,
            WATCHDOG_USEC="200000",
        ) as process:
            try:
                service = Service(process)
                assert service.url == url
                assert told(b"READY") == f"READY=1\nSTATUS=Listening on {url}".encode()
                assert status_of(url) == 101
                # It comes again and again, from the event loop.
                assert [told(b"WATCHDOG") for _ in range(3)] == [b"WATCHDOG=1"] * 3
                assert service.reload() == "Settings reloaded"
                assert told(b"RELOADING").startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                assert told(b"READY").startswith(b"READY=1\n")
                process.send_signal(signal.SIGTERM)
                assert told(b"STOPPING").startswith(
                    b"STOPPING=1\nEXTEND_TIMEOUT_USEC=13000000\nSTATUS="
                )
                assert process.communicate(timeout=HANGS) == ("", "")
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--listen", "systemd:private", *STATED),
            "--listen: systemd:private: no such socket was passed; there are public",
        ),
        (("--listen", "systemd", *STATED), "--listen: systemd:: not a stream socket"),
    ],
)
def test_sockets_that_do_not_fit(arguments: tuple[str, ...], message: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with inheriting(sock, *arguments) as process:
            _, err = process.communicate(timeout=HANGS)
            assert process.returncode == 2
            assert err == f"wsproto-sip: {message}\n"


def test_unused_sockets_are_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, inheriting(sock, "--port", "0") as process:
        try:
            _, err = Service(process).stop()
        finally:
            process.kill()
    assert err == ["wsproto-sip: systemd has passed sockets (1), which no --listen takes"]


def test_inherited_places_require_systemd(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--listen", "systemd", *STATED]) == 2
    assert capsys.readouterr().err == (
        "wsproto-sip: --listen: systemd:: no such socket was passed; there are none (LISTEN_FDS)\n"
    )


class TestCheckConfig:
    """``--check-config``: what a start would say, without one."""

    def test_all_is_well(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        users = tmp_path / "users"
        users.write_text("alice:secret\n")
        users.chmod(0o600)
        arguments = ["--sip-users", str(users), "--msrp-users", str(users)]
        path = f"unix:{tmp_path}/ws"
        arguments += ["--allow-insecure-msrp", "--listen", "ws://127.0.0.1:0", "--listen", path]
        arguments += ["--origin", "missing", "--fifo", str(tmp_path / "fifo")]
        arguments += ["--trusted-proxy", "unix"]
        assert main(["serve", "--check-config", *arguments]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines()[-1] == "The configuration is valid"
        assert "MSRP relay msrp://127.0.0.1:" in out
        places = ["Would listen on ws://127.0.0.1:0", f"Would listen on {path}"]
        assert out.splitlines()[:2] == places
        assert err == ""
        assert os.listdir(tmp_path) == ["users"]

    def test_check_config_accepts_a_port_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = str(sock.getsockname()[1])
            assert main(["serve", "--check-config", "--port", port]) == 0
            assert main(["serve", "--port", port]) == 2
        assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--host", "192.0.2.1", "--origin", "any", "--subprotocol", "none"],
                "--port: cannot listen on 192.0.2.1:8080: ",
            ),
            (["--host", "192.0.2.1"], "--origin: state which web pages may connect to 192.0.2.1"),
            (["--sip-users", "/nowhere"], "--sip-users: /nowhere: No such file or directory"),
            (["--sip-flow-keys", "/nowhere"], "--sip-flow-keys: /nowhere: No such file"),
            (
                ["--listen", "unix:/nowhere/ws", "--trusted-proxy", "unix", *STATED],
                "--listen: cannot listen on unix:/nowhere/ws: ",
            ),
            (
                ["--listen", "unix:/nowhere/ws", *STATED],
                "--listen: unix:/nowhere/ws: all clients that a proxy brings there share",
            ),
            (["--fifo", "/nowhere/fifo"], "--fifo: /nowhere/fifo: nothing can be made in its"),
            (["--ctl-socket", "/nowhere/ctl"], "--ctl-socket: /nowhere/ctl: nothing can be made"),
            (["--fifo", "/dev/null"], "--fifo: /dev/null is not a FIFO"),
            (["--ctl-socket", "/dev/null"], "--ctl-socket: /dev/null is not a socket"),
            (["--upstream", "sip:nowhere.invalid"], "--upstream: sip:nowhere.invalid: "),
            (["--store", "mysql://store"], "--store: not of the form redis"),
            (["--tls-cert", "/dev/null"], "--tls-cert: /dev/null: not a certificate with its"),
            (["--event-hook", "json:nothing"], "--event-hook: AttributeError: "),
            (
                ["--event-hook-command", "/nowhere/program"],
                "--event-hook-command: no such program: /nowhere/program",
            ),
            (["--proxy-header", "x-forwarded-for"], "--proxy-header: requires --trusted-proxy"),
            (["--msrp-peer-port", "2855"], "--msrp-peer-port: requires --msrp-users"),
            (["--ctl-http", "8080"], "--ctl-http: 127.0.0.1:8080 is used by --port, too"),
        ],
    )
    def test_what_a_start_would_refuse(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["serve", "--check-config", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"wsproto-sip: {message}")

    def test_an_error_names_the_file_of_its_option(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "serve.toml"
        path.write_text('sip-users = "/nowhere"\n')
        assert main(["serve", "--check-config", "--config", str(path)]) == 2
        assert capsys.readouterr().err == (
            f"wsproto-sip: {path}: sip-users: /nowhere: No such file or directory\n"
        )

    def test_check_config_accepts_warnings(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        users = tmp_path / "users"
        users.write_text("alice:secret\n")
        users.chmod(0o644)
        assert main(["serve", "--check-config", "--sip-users", str(users)]) == 0
        assert f"--sip-users: {users}: every user of this machine" in capsys.readouterr().err

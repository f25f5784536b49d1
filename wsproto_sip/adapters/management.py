"""The management commands for programs on the same machine: a FIFO, a Unix socket, HTTP.

Theory of operation: each channel reads messages of a codec, executes what they hold at the one
endpoint, and writes the answers. All are bounded in what they read, how long they wait and how
many clients they have. Who may give commands is what the channel's place says: the FIFO and the
socket belong to this process's user alone (mode 0600), HTTP is in
:mod:`~wsproto_sip.adapters.management_http`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..server.codecs.jsonrpc import RpcCall, answer, decode_calls
from ..server.codecs.mi_fifo import (
    FifoError,
    FifoMessage,
    FifoParser,
    encode_reply,
    make_reply,
)
from ..server.commands import CommandError, parse_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..server.codecs.mi_fifo import FifoItem, FifoReply, FifoRequest
    from ..server.commands import Command, Result
    from .endpoint_server import EndpointServer

__all__ = ["Channel", "FifoChannel", "SocketChannel", "StreamChannel", "executor"]

_logger = logging.getLogger("wsproto_sip.management")

#: Octets of one message.
MAX_MESSAGE: Final = 64 * 1024

#: Clients of one channel at a time, and answers on their way through FIFOs.
MAX_CLIENTS: Final = 16

#: Seconds that a client may take to send its next message, or to take an answer.
CLIENT_SECONDS: Final = 60.0

#: Seconds that a FIFO's reader has to come and to take the answer.
REPLY_SECONDS: Final = 2.0


def executor(server: EndpointServer) -> Callable[[Command], Result]:
    """What executes commands at a server's endpoint and has their effects carried out.

    Args:
        server: The server.
    """

    def execute(command: Command) -> Result:
        try:
            return server.endpoint.execute(command, server.now())
        finally:
            server.pump()

    return execute


class Channel(Protocol):
    """A way for commands to come in."""

    @property
    def name(self) -> str:
        """Where it is, for people."""
        ...

    async def open(self) -> None:
        """Begins to take commands; OSError if that cannot be."""
        ...

    async def close(self) -> None:
        """Ends it, and removes what it made."""
        ...


def _check_directory(path: Path) -> None:
    """Refuses a directory in which others could put something in the channel's place."""
    info = path.parent.stat()
    writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable and not info.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EACCES, f"others may write to the directory of {path}")


class FifoChannel:
    """Commands through a FIFO: the text form of the module's guide (§6), and JSON-RPC 2.0 in lines.

    Answers go to the FIFO that a request names, in the same directory and nowhere else; nothing
    is created or followed there.

    Args:
        path: The FIFO; it is made, mode 0600, and removed at the end. One that is left over from
            before is used again.
        execute: Executes a command.
    """

    def __init__(self, path: str | os.PathLike[str], execute: Callable[[Command], Result]) -> None:
        self._path = Path(path)
        self._execute = execute
        self._parser = FifoParser()
        self._fd = -1
        self._replies: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    async def open(self) -> None:
        """Makes the FIFO and listens to it.

        Raises:
            OSError: It cannot be made; there is something else of that name, or a FIFO that others
                may use or another process reads.
        """
        _check_directory(self._path)
        try:
            os.mkfifo(self._path, 0o600)
        except FileExistsError:
            self._check_unused()
        self._listen()

    def _check_unused(self) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
            raise
        os.close(fd)
        raise OSError(errno.EADDRINUSE, f"{self._path} is in use, or no FIFO")

    def _listen(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        info = os.fstat(fd)
        private = info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077
        if not stat.S_ISFIFO(info.st_mode) or not private:
            os.close(fd)
            raise PermissionError(errno.EACCES, f"{self._path} is no FIFO of this user alone")
        asyncio.get_running_loop().add_reader(fd, self._readable)
        self._fd = fd

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, MAX_MESSAGE)
        except BlockingIOError:
            return
        for item in self._parser.feed(data) if data else self._parser.close():
            self._take(item)
        if not data:
            # The last writer has gone; who comes next finds a reader at any moment.
            ended = self._fd
            asyncio.get_running_loop().remove_reader(ended)
            try:
                self._listen()
            except OSError as exc:
                self._fd = -1
                _logger.error("the FIFO %s is gone: %s", self._path, exc)
            os.close(ended)

    def _take(self, item: FifoItem) -> None:
        if isinstance(item, FifoMessage):
            calls = decode_calls(item.data)
            octets = answer(calls, self._execute)
            names = [call.reply_name for call in calls.items if isinstance(call, RpcCall)]
            name = next(filter(None, names), None)
        else:
            octets, name = encode_reply(self._reply_to(item)), item.reply
        if name is None or not octets:
            return
        if name == self._path.name or len(self._replies) >= MAX_CLIENTS:
            _logger.warning("no answer to the FIFO %s", name)
            return
        task = asyncio.get_running_loop().create_task(self._answer(name, octets))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    def _reply_to(self, item: FifoRequest | FifoError) -> FifoReply:
        if isinstance(item, FifoError):
            return make_reply(item)
        try:
            return make_reply(self._execute(parse_command(item.name, item.params)))
        except CommandError as exc:
            return make_reply(exc)

    async def _answer(self, name: str, octets: bytes) -> None:
        fd = -1
        left = memoryview(octets)
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                while fd < 0:
                    fd = self._open_reply(name)
                    if fd < 0:
                        await asyncio.sleep(0.02)
                while left:
                    try:
                        left = left[os.write(fd, left) :]
                    except BlockingIOError:
                        await asyncio.sleep(0.02)
        except (OSError, TimeoutError) as exc:
            _logger.warning("no answer to the FIFO %s: %s", name, str(exc) or "nobody reads it")
        finally:
            if fd >= 0:
                os.close(fd)

    def _open_reply(self, name: str) -> int:
        """Opens a reply FIFO for writing; -1 if nobody reads it yet."""
        path = self._path.with_name(name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return -1
            raise
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            raise PermissionError(errno.EACCES, "it is no FIFO")
        return fd

    async def close(self) -> None:
        """Removes the FIFO; answers on their way are dropped."""
        for task in self._replies:
            task.cancel()
        await asyncio.gather(*self._replies, return_exceptions=True)
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            with suppress(FileNotFoundError):
                self._path.unlink()


class StreamChannel:
    """What channels over sockets have in common: clients, and a bound on them."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client to its end.

        Args:
            reader: What it sends.
            writer: What it gets.
        """
        raise NotImplementedError

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has come."""
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CLIENTS:
            _logger.warning("too many clients")
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            await self.serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            _logger.info("a client has gone: %s", str(exc) or "it took too long")
            writer.transport.abort()
        except asyncio.CancelledError:
            # The channel is being closed. Whoever started this task would log it as an error.
            writer.transport.abort()
        except Exception:
            _logger.exception("a command failed")
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """Lets no more clients come, and drops those who are there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SocketChannel(StreamChannel):
    """Commands through a Unix socket: JSON-RPC 2.0, a message or batch a line.

    Args:
        path: The socket; it is made, mode 0600, and removed at the end. One that nobody listens
            on any more is replaced.
        execute: Executes a command.
    """

    def __init__(self, path: str | os.PathLike[str], execute: Callable[[Command], Result]) -> None:
        super().__init__()
        self._path = Path(path)
        self._execute = execute

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    async def open(self) -> None:
        """Makes the socket and listens on it.

        Raises:
            OSError: It cannot be made; there is something else of that name, or a socket that
                another process listens on.
        """
        _check_directory(self._path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            self._remove_left_over()
            # The mode has to be right from the first moment on.
            mask = os.umask(0o177)
            try:
                sock.bind(str(self._path))
            finally:
                os.umask(mask)
            self._server = await asyncio.start_unix_server(
                self.connected, sock=sock, limit=MAX_MESSAGE
            )
        except BaseException:
            sock.close()
            raise

    def _remove_left_over(self) -> None:
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, f"{self._path} is no socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
        raise OSError(errno.EADDRINUSE, f"{self._path} is in use")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers line by line."""
        ended = False
        while not ended:
            async with asyncio.timeout(CLIENT_SECONDS):
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.IncompleteReadError as exc:
                    line, ended = exc.partial, True
                except asyncio.LimitOverrunError:
                    # It is answered as what it is: too long.
                    line, ended = bytes(MAX_MESSAGE + 1), True
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line:
                reply = answer(decode_calls(line, max_octets=MAX_MESSAGE), self._execute)
                if reply:
                    writer.write(reply + b"\n")
                    async with asyncio.timeout(CLIENT_SECONDS):
                        await writer.drain()

    async def close(self) -> None:
        """Removes the socket too."""
        listening = self._server is not None
        await super().close()
        if listening:
            with suppress(FileNotFoundError):
                self._path.unlink()

"""Management commands for programs on the same machine: a FIFO, a Unix socket, HTTP.

Theory of operation: each channel reads messages of a codec, executes their commands on the
endpoint, and writes the answers. Input, waiting times and clients of all channels are bounded, and
they survive a lack of descriptors like other listeners. The place of a channel defines who may give
commands: the FIFO and the socket belong to the user of this process only (mode 0600), HTTP is
described in :mod:`~wsproto_sip.adapters.asyncio.management_http`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from ...server.management.commands import (
    CommandError,
    FactsResult,
    UptimeCommand,
)
from ...server.management.jsonrpc import RpcCall, answer, decode_calls, encode_replies
from ...server.management.mi_fifo import (
    FifoError,
    FifoMessage,
    FifoParser,
    encode_reply,
    make_reply,
)
from .._lines import LOGGERS, report, report_failure
from .._listening import AcceptBackoff
from .listening import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ...server.management.commands import Command, Execute, Params, Result
    from ...server.management.jsonrpc import RpcBatch
    from ...server.management.mi_fifo import FifoItem, FifoReply, FifoRequest
    from .endpoint import EndpointServer
    from .listening import Listener

    Anywhere = Callable[[str, Params], Awaitable[Result]]

__all__ = ["Channel", "FifoChannel", "SocketChannel", "StreamChannel", "answered", "executor"]

#: Bytes of one message.
MAX_MESSAGE: Final = 64 * 1024

#: Clients of one channel at a time, and pending answers through FIFOs.
MAX_CLIENTS: Final = 16

#: Clients that may wait to be accepted.
BACKLOG: Final = 100

#: Seconds that a client may take to send its next message, or to read an answer.
CLIENT_SECONDS: Final = 60.0

#: Seconds in which the answer must be read from a FIFO.
REPLY_SECONDS: Final = 2.0

#: Errors of opening a file for lack of descriptors or memory.
_SCARCITY: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: Seconds between two log records about too many clients.
_SILENCE: Final = 60.0


def executor(
    server: EndpointServer, *, check: Callable[[Command], object] = lambda command: None
) -> Execute:
    """Return a function that executes commands on a server's endpoint, with their effects.

    Args:
        server: The server.
        check: Called with each command first; raises
            :class:`~wsproto_sip.server.management.commands.CommandError` to refuse it.
    """

    def execute(command: Command) -> Result:
        check(command)
        try:
            result = server.endpoint.execute(command, server.now())
        finally:
            server.pump()
        if isinstance(command, UptimeCommand) and isinstance(result, FactsResult):
            return _with_dates(result)
        return result

    return server.endpoint.commands.executing(execute)


def _with_dates(uptime: FactsResult) -> FactsResult:
    """Add the wall-clock time, as Kamailio does."""
    now = time.time()
    dates = {"now": time.ctime(now), "up_since": time.ctime(now - int(uptime.values["uptime"]))}
    return FactsResult({**dates, **uptime.values})


async def answered(batch: RpcBatch, execute: Execute, anywhere: Anywhere | None) -> bytes:
    """Execute the calls of a message one after the other, and write the answer.

    Args:
        batch: The message.
        execute: Executes a command here.
        anywhere: Executes a command wherever it has to be executed; ``None`` for a server alone.

    Returns:
        The answer; empty if none is requested.
    """
    if anywhere is None:
        return answer(batch, execute)
    outcomes: list[Result | CommandError] = []
    for item in batch.items:
        if isinstance(item, RpcCall):
            try:
                outcomes.append(await anywhere(item.method, item.params))
            except CommandError as exc:
                outcomes.append(exc)
    return encode_replies(batch, outcomes)


class Channel(Protocol):
    """A channel for commands."""

    @property
    def name(self) -> str:
        """Where it is, in readable form."""
        ...

    async def open(self) -> None:
        """Start to accept commands; raise OSError if that fails."""
        ...

    async def close(self) -> None:
        """Close the channel, and remove its files."""
        ...


def _check_directory(path: Path) -> None:
    """Refuse a directory in which other users could replace the channel's file."""
    info = path.parent.stat()
    writable = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable and not info.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EACCES, f"others may write to the directory of {path}")


def _tell_unanswered(fifo: str, reason: str) -> None:
    """Log that a client gets no answer."""
    report("management", logging.WARNING, "no-answer", about="fifo", fifo=fifo, reason=reason)


class FifoChannel:
    """Commands through a FIFO: the text form of the module's guide (§6), and JSON-RPC 2.0 in lines.

    Answers go to the FIFO that a request names, in the same directory only; it is never created,
    and symbolic links are not followed.

    Args:
        path: The FIFO; it is created with mode 0600, and removed at the end. An existing one is
            reused if no process reads it.
        execute: Executes a command.
    """

    def __init__(self, path: str | os.PathLike[str], execute: Execute) -> None:
        self._path = Path(path)
        self._execute = execute
        self._parser = FifoParser()
        self._fd = -1
        self._backoff = AcceptBackoff(LOGGERS["management"])
        self._pause: asyncio.TimerHandle | None = None
        self._replies: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    async def open(self) -> None:
        """Create the FIFO and start to read it.

        Raises:
            OSError: It cannot be created; another kind of file has that name, or a FIFO that other
                users may use or another process reads.
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
        raise OSError(errno.EADDRINUSE, f"{self._path} is in use, or not a FIFO")

    def _listen(self) -> None:
        fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        info = os.fstat(fd)
        private = info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077
        if not stat.S_ISFIFO(info.st_mode) or not private:
            os.close(fd)
            raise PermissionError(errno.EACCES, f"{self._path} is not a FIFO of this user only")
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
            # The last writer has closed it. Reopen it at once, so that the next one finds a reader.
            asyncio.get_running_loop().remove_reader(self._fd)
            self._listen_again()

    def _listen_again(self) -> None:
        self._pause = None
        ended = self._fd
        try:
            self._listen()
        except OSError as exc:
            if exc.errno in _SCARCITY:
                # Bytes written meanwhile stay in the FIFO, because this end stays open.
                loop = asyncio.get_running_loop()
                seconds = self._backoff.failed(exc, loop.time())
                self._pause = loop.call_later(seconds, self._listen_again)
                return
            self._fd = -1
            report(
                "management", logging.ERROR, "fifo-gone", fifo=str(self._path), reason=exc.strerror
            )
        else:
            self._backoff.succeeded()
        os.close(ended)

    def _take(self, item: FifoItem) -> None:
        if isinstance(item, FifoMessage):
            calls = decode_calls(item.data)
            reply = answer(calls, self._execute)
            names = [call.reply_name for call in calls.items if isinstance(call, RpcCall)]
            name = next(filter(None, names), None)
        else:
            reply, name = encode_reply(self._reply_to(item)), item.reply
        if name is None or not reply:
            return
        if name == self._path.name or len(self._replies) >= MAX_CLIENTS:
            own = name == self._path.name
            _tell_unanswered(name, "it is not for answers" if own else "too many answers wait")
            return
        task = asyncio.get_running_loop().create_task(self._answer(name, reply))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    def _reply_to(self, item: FifoRequest | FifoError) -> FifoReply:
        if isinstance(item, FifoError):
            return make_reply(item)
        try:
            return make_reply(self._execute(item.name, item.params))
        except CommandError as exc:
            return make_reply(exc)

    async def _answer(self, name: str, reply: bytes) -> None:
        fd = -1
        left = memoryview(reply)
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
            _tell_unanswered(name, exc.strerror or "it has no reader")
        finally:
            if fd >= 0:
                os.close(fd)

    def _open_reply(self, name: str) -> int:
        """Open a reply FIFO for writing; return -1 if that is not possible yet."""
        path = self._path.with_name(name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            # It has no reader yet, or there are no descriptors.
            if exc.errno in (errno.ENXIO, *_SCARCITY):
                return -1
            raise
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            raise PermissionError(errno.EACCES, "it is not a FIFO")
        return fd

    async def close(self) -> None:
        """Remove the FIFO; pending answers are dropped."""
        for task in self._replies:
            task.cancel()
        await asyncio.gather(*self._replies, return_exceptions=True)
        if self._pause is not None:
            self._pause.cancel()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            with suppress(FileNotFoundError):
                self._path.unlink()


class StreamChannel:
    """The common part of channels over sockets: clients, and a bound on them."""

    def __init__(self) -> None:
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those of them that go on, the one that was answered longest ago first.
        self._turns: dict[asyncio.Task[None], None] = {}
        self._told = -inf

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept clients.

        Args:
            sockets: Listening sockets in non-blocking mode; they are closed with the channel.
        """
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(MAX_MESSAGE, loop)
            return asyncio.StreamReaderProtocol(reader, self.connected, loop)

        self._listener = await listen(protocol, sockets, LOGGERS["management"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until its end.

        Args:
            reader: The stream to read from.
            writer: The stream to write to.
        """
        raise NotImplementedError

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new client, dropping the least recent one if there are too many."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if len(self._turns) >= MAX_CLIENTS:
            self._make_room()
        self._tasks.add(task)
        self._turns[task] = None
        try:
            await self.serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            reason = str(exc) or "it took too long"
            report("management", logging.INFO, "client-gone", about="client", reason=reason)
            writer.transport.abort()
        except asyncio.CancelledError:
            # The channel is being closed. asyncio would log the cancelled task as an error.
            writer.transport.abort()
        except Exception as exc:
            report_failure("management", "command-failed", exc)
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._turns.pop(task, None)
            writer.close()

    def _make_room(self) -> None:
        """Drop the client that was answered longest ago, so that idle ones cannot block others."""
        longest = next(iter(self._turns))
        del self._turns[longest]
        longest.cancel()
        now = asyncio.get_running_loop().time()
        if now - self._told >= _SILENCE:
            self._told = now
            reason = "too many clients; it was idle longest"
            report("management", logging.WARNING, "client-dropped", reason=reason)

    def answered(self) -> None:
        """Record that the client of this task was answered: others are dropped before it."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if task in self._turns:
            del self._turns[task]
            self._turns[task] = None

    async def close(self) -> None:
        """Stop accepting clients, and drop the current ones."""
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SocketChannel(StreamChannel):
    """Commands through a Unix socket: JSON-RPC 2.0, one message or batch per line.

    Args:
        path: The socket; it is created with mode 0600, and removed at the end. One without a
            listener is replaced.
        execute: Executes a command.
        anywhere: Executes a command that may concern other servers.
    """

    def __init__(
        self, path: str | os.PathLike[str], execute: Execute, anywhere: Anywhere | None = None
    ) -> None:
        super().__init__()
        self._path = Path(path)
        self._execute = execute
        self._anywhere = anywhere

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    async def open(self) -> None:
        """Create the socket and listen on it.

        Raises:
            OSError: It cannot be created; another kind of file has that name, or a socket that
                another process listens on.
        """
        _check_directory(self._path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            self._remove_left_over()
            # The mode must be right from the first moment.
            mask = os.umask(0o177)
            try:
                sock.bind(str(self._path))
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            await self.listen([sock])
        except BaseException:
            sock.close()
            raise

    def _remove_left_over(self) -> None:
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, f"{self._path} is not a socket")
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
        """Answer line by line."""
        ended = False
        while not ended:
            async with asyncio.timeout(CLIENT_SECONDS):
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.IncompleteReadError as exc:
                    line, ended = exc.partial, True
                except asyncio.LimitOverrunError:
                    # Answer it as too long.
                    line, ended = bytes(MAX_MESSAGE + 1), True
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if line:
                self.answered()
                calls = decode_calls(line, max_bytes=MAX_MESSAGE)
                reply = await answered(calls, self._execute, self._anywhere)
                if reply:
                    writer.write(reply + b"\n")
                    async with asyncio.timeout(CLIENT_SECONDS):
                        await writer.drain()

    async def close(self) -> None:
        """Remove the socket, too."""
        listening = self._listener is not None
        await super().close()
        if listening:
            with suppress(FileNotFoundError):
                self._path.unlink()

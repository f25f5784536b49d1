"""A conversation over a connection, between a person or a pipe and a server.

Theory of operation: one task executes lines of input, another shows what the server sends. After
the end of the input, the conversation continues until the server has been quiet for a while,
because many servers answer a close frame before earlier messages. Then it sends its own close
frame and reads on until the server's, so that every answer of a server that keeps the order is
shown, however slow it is.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...adapters.asyncio import ConnectionClosedError
from ...states import ConnectionState
from ...utilities import LocalProtocolError
from .._text import reason_of
from .line import (
    Action,
    Close,
    Mistake,
    SendBinary,
    SendPing,
    SendPong,
    SendText,
    help_lines,
    read_line,
)
from .lines import input_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...adapters.asyncio import Connection
    from ...events import Ping, Pong
    from .output import Output
    from .prompt import Prompt

__all__ = ["Conversation"]

#: Exit codes of a conversation; the others are in ``command``.
_IN_ORDER: Final = 0
_OTHER_CODE: Final = 1
_LOST: Final = 5


class Conversation:
    """A conversation over a connection.

    Args:
        output: Shows events.
        wait: Seconds of quiet between the end of the input and the close frame.
        commands: Whether a slash starts a command.

    Attributes:
        interrupted: Whether Ctrl-C ended the program.
        prompt: The prompt that lines come from; ``None`` for standard input.
    """

    prompt: Prompt | None = None

    def __init__(self, output: Output, *, wait: float, commands: bool) -> None:
        self._output = output
        self._wait = wait
        self._commands = commands
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._connection: Connection | None = None
        # Pings and Pongs that were read before the connection was announced.
        self._early: list[Ping | Pong] = []
        self._last_message = 0.0
        # Pings whose answers will be shown.
        self._pings: set[asyncio.Task[None]] = set()
        self.interrupted = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C close the connection, or end the program if it is closed already."""
        previous = signal.signal(
            signal.SIGINT, lambda *_: self._loop.call_soon_threadsafe(self.interrupt)
        )
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def interrupt(self) -> None:
        """Handle Ctrl-C."""
        connection = self._connection
        if connection is not None and connection.session.state is ConnectionState.OPEN:
            connection.begin_close()
        elif self._task is not None:
            self.interrupted = True
            self._task.cancel()

    async def talk(self, connection: Connection) -> int:
        """Run the conversation.

        Args:
            connection: The open connection.

        Returns:
            The exit code.
        """
        with nullcontext() if self.prompt is None else self.prompt.screen():
            self._connection = connection
            self._output.opened(connection)
            early, self._early = self._early, []
            for event in early:
                self._output.control(event)
            sending = self._loop.create_task(self._send_lines(connection))
            try:
                while True:
                    message = await connection.recv()
                    self._last_message = self._loop.time()
                    self._output.message(message)
            except ConnectionClosedError as exc:
                end = exc
            finally:
                # A prompt releases the terminal before anything else is written to it.
                for task in (sending, *self._pings):
                    task.cancel()
                results = await asyncio.gather(sending, return_exceptions=True)
            self._output.closed(end.event)
        if isinstance(results[0], Exception):
            raise results[0]
        if end.in_order:
            return _IN_ORDER
        return _OTHER_CODE if end.event.close_rcvd is not None else _LOST

    def control(self, event: Ping | Pong) -> None:
        """Show a Ping or a Pong.

        Args:
            event: The Ping or Pong.
        """
        if self._connection is None:
            self._early.append(event)
        else:
            self._output.control(event)

    async def _send_lines(self, connection: Connection) -> None:
        lines = input_lines() if self.prompt is None else self.prompt.lines()
        try:
            async for line in lines:
                try:
                    await self._do(read_line(line, commands=self._commands), connection)
                except Mistake as exc:
                    self._output.mistaken(str(exc))
            quiet_since = self._loop.time()
            while (left := quiet_since + self._wait - self._loop.time()) > 0:
                await asyncio.sleep(left)
                quiet_since = max(quiet_since, self._last_message)
            connection.begin_close()
        except ConnectionClosedError:
            return  # the receiving task notices and reports the same
        except Exception:
            connection.abort()
            raise

    async def _do(self, action: Action, connection: Connection) -> None:
        """Execute a line.

        Raises:
            Mistake: It cannot be executed.
            ConnectionClosedError: The connection has ended, or is closing.
        """
        try:
            match action:
                case SendText(text, path):
                    await connection.send(await _text_of(path) if text is None else text)
                case SendBinary(data, path):
                    await connection.send(await _bytes_of(path) if data is None else data)
                case SendPing(payload):
                    await self._ping(payload, connection)
                case SendPong(payload):
                    await connection.pong(payload)
                case Close(code, reason):
                    connection.begin_close(code, reason)
                case _:
                    self._output.lines(help_lines())
        except LocalProtocolError as exc:
            raise Mistake(str(exc)) from None

    async def _ping(self, payload: bytes | None, connection: Connection) -> None:
        async def answered() -> None:
            try:
                self._output.round_trip(await connection.ping(payload))
            except ConnectionClosedError:
                pass
            except ValueError as exc:  # the same payload twice
                self._output.mistaken(str(exc))

        # Others may be sent while its answer is pending.
        task = self._loop.create_task(answered())
        self._pings.add(task)
        task.add_done_callback(self._pings.discard)
        # Send it before the next line.
        await asyncio.sleep(0)


def _read_file(path: str) -> bytes:
    return Path(path).expanduser().read_bytes()


async def _bytes_of(path: str) -> bytes:
    try:
        return await asyncio.to_thread(_read_file, path)
    except (OSError, RuntimeError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
        raise Mistake(f"@{path}: {reason}") from None


async def _text_of(path: str) -> str:
    data = await _bytes_of(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Mistake(f"@{path}: not UTF-8; /binary sends it") from None

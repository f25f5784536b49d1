"""Commands that concern other servers, on asyncio.

Theory of operation: each server listens to two channels of a :class:`Bus`: ``cmd:NAME`` for
commands, and ``answer:NAME`` for answers to its own. A command goes as a JSON-RPC call to the
channel of each server it is for; the id of the call says whose it is. The answers come back in
the same form, and :mod:`~wsproto_sip.server.management.population` makes one result of them. A
server that has not answered after a second is named in it.

Whatever can write to the bus can give commands. Those are executed that read, close connections or
refuse new ones, remove registrations, and reload, and no others.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...errors import WsprotoSipError
from ...server.management.commands import ApplicationFault, CommandError
from ...server.management.jsonrpc import (
    RpcCall,
    answer,
    decode_calls,
    decode_replies,
    encode_calls,
)
from ...server.management.population import errand_of, explained, is_for_others
from ...utilities import RemoteProtocolError
from .._lines import report
from ..backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from ...server.management.commands import Execute, Params, Result
    from ...server.management.jsonrpc import RpcBatch
    from ...server.management.population import Answer

__all__ = ["Bus", "BusError", "PopulationCommands"]

#: Seconds that the other servers may take to answer.
TIMEOUT: Final = 1.0
#: Bytes of a command, and of an answer.
_MAX_CALL: Final = 64 * 1024
_MAX_ANSWER: Final = 1024 * 1024
#: The id of a call: the name of the server that asks, and a number.
_ID: Final = re.compile(r"([ -~]{1,100}) ([0-9]{1,18})")
_NOT_HERE: Final = ApplicationFault(403, "Not for other nodes")
_UNREACHABLE: Final = ApplicationFault(503, "The other nodes cannot be reached")


class BusError(WsprotoSipError):
    """A bus cannot be reached.

    Args:
        reason: The reason.
    """


class Bus(Protocol):
    """Channels between servers."""

    async def publish(self, channel: str, data: bytes) -> None:
        """Send a message to all that listen to a channel.

        Args:
            channel: The channel.
            data: The message.

        Raises:
            BusError: It cannot be sent.
        """
        ...

    def listen(self, channels: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield channel and data of each message until the bus is lost.

        Args:
            channels: The channels.

        Raises:
            BusError: It is lost.
        """
        ...


class PopulationCommands:
    """The commands of a server among several; made inside the event loop.

    Args:
        bus: Leads to the others.
        name: This server.
        others: Returns the names of the others.
        execute: Executes a command here.
        meet: Looks for servers that have just started, before a command of an unknown one is
            ignored.
    """

    def __init__(
        self,
        bus: Bus,
        name: str,
        others: Callable[[], Collection[str]],
        execute: Execute,
        *,
        meet: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._bus = bus
        self._name = name
        self._others = others
        self._execute = execute
        self._meet = meet
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._last = 0
        self._listening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to listen to the others."""
        self._listening = asyncio.ensure_future(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        tasks = [*self._tasks, *([] if self._listening is None else [self._listening])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- commands of this server -------------------------------------------------------------------

    async def execute(self, name: str, params: Params) -> Result:
        """Execute a command, wherever it has to be executed.

        Args:
            name: The command.
            params: Its parameters.

        Raises:
            CommandError: It is refused, or cannot be brought to the others.
        """
        errand = errand_of(name, params)
        if errand is None:
            try:
                return self._execute(name, params)
            except CommandError as exc:
                raise explained(exc) from None
        asked: dict[str, asyncio.Future[Answer]] = {}
        numbers: list[int] = []
        answers: dict[str, Answer] = {}
        loop = asyncio.get_running_loop()
        try:
            for server in errand.servers({self._name, *self._others()}):
                own = errand.params(server)
                if server == self._name:
                    try:
                        answers[server] = self._execute(name, own).to_json()
                    except CommandError as exc:
                        answers[server] = exc
                    continue
                self._last += 1
                numbers.append(self._last)
                asked[server] = self._pending[self._last] = loop.create_future()
                call = RpcCall(name, own, id=f"{self._name} {self._last}")
                await self._publish(f"cmd:{server}", encode_calls([call]))
            if asked:
                await asyncio.wait(asked.values(), timeout=TIMEOUT)
        finally:
            for number in numbers:
                del self._pending[number]
        silent = [server for server, future in asked.items() if not future.done()]
        answers |= {server: each.result() for server, each in asked.items() if each.done()}
        return errand.merged(answers, silent)

    async def _publish(self, channel: str, data: bytes) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._bus.publish(channel, data)
        except (BusError, TimeoutError) as exc:
            raise CommandError(_UNREACHABLE, str(exc) or "no answer in time") from None

    # -- messages of the others --------------------------------------------------------------------

    async def _listen(self) -> None:
        backoff = Backoff(first=0.25, longest=4.0)
        loop = asyncio.get_running_loop()
        while True:
            channels = [f"cmd:{self._name}", f"answer:{self._name}"]
            try:
                async for channel, data in self._bus.listen(channels):
                    self._take(channel, data)
            except BusError as exc:
                report("management", logging.INFO, "nodes-unheard", about="bus", reason=str(exc))
            await asyncio.sleep(backoff.failed(loop.time(), at_least=0.05))

    def _take(self, channel: str, data: bytes) -> None:
        if channel.startswith("answer:"):
            self._answered(data)
            return
        batch = decode_calls(data, max_bytes=_MAX_CALL)
        call = batch.items[0]
        match = _ID.fullmatch(call.id) if isinstance(call.id, str) else None
        if batch.batch or match is None:
            _tell_ignored("command-ignored", "it is not from another node")
            return
        task = asyncio.ensure_future(self._obey(match[1], batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, asker: str, batch: RpcBatch) -> None:
        if asker not in self._others() and self._meet is not None:
            await self._meet()
        if asker not in self._others():
            _tell_ignored("command-ignored", "it is not from another node")
            return
        await self._reply(f"answer:{asker}", answer(batch, self._execute_for_others))

    def _execute_for_others(self, name: str, params: Params) -> Result:
        if not is_for_others(name) or errand_of(name, params) is not None:
            raise CommandError(_NOT_HERE, name[:80])
        return self._execute(name, params)

    async def _reply(self, channel: str, reply: bytes) -> None:
        try:
            await self._publish(channel, reply)
        except CommandError as exc:
            node = channel.removeprefix("answer:")
            report("management", logging.INFO, "no-answer", about=node, node=node, reason=str(exc))

    def _answered(self, data: bytes) -> None:
        try:
            replies = decode_replies(data, max_bytes=_MAX_ANSWER)
        except RemoteProtocolError as exc:
            _tell_ignored("answer-ignored", str(exc))
            return
        for reply in replies:
            match = _ID.fullmatch(reply.id) if isinstance(reply.id, str) else None
            future = self._pending.get(int(match[2])) if match is not None else None
            if future is None or future.done():
                # It came too late.
                continue
            error = reply.error
            outcome: Any = reply.result
            if error is not None:
                outcome = CommandError(ApplicationFault(error.code, error.message), error.data)
            future.set_result(outcome)


def _tell_ignored(event: str, reason: str) -> None:
    """Log a message of the bus that cannot be used."""
    report("management", logging.WARNING, event, about="bus", reason=reason)

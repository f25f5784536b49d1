"""Commands that concern other servers, over a bus in memory."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers._support import run
from wsproto_sip.adapters.asyncio import population as module
from wsproto_sip.adapters.asyncio.population import BusError, PopulationCommands
from wsproto_sip.server.management.commands import (
    ApplicationFault,
    CommandError,
    EmptyResult,
    FactsResult,
    Fault,
    TreeResult,
)
from wsproto_sip.server.management.jsonrpc import RpcCall, encode_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from wsproto_sip.server.management.commands import Params, Result


class MemoryBus:
    """Channels inside the process."""

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[tuple[str, bytes] | None]] = {}
        self.broken = False
        self.stuck = False
        self.reports = True

    async def publish(self, channel: str, data: bytes) -> None:
        """Deliver a message, if somebody listens."""
        if self.stuck:
            await asyncio.Event().wait()
        if self.broken:
            raise BusError("away")
        queue = self.queues.get(channel)
        if queue is not None:
            queue.put_nowait((channel, data))

    async def listen(self, channels: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield messages until the bus is lost."""
        queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        for channel in channels:
            self.queues[channel] = queue
        while (message := await queue.get()) is not None:
            yield message
        if self.reports:
            raise BusError("lost")

    def lose(self, channel: str, *, reports: bool) -> None:
        """End the listening to a channel, and report it or not."""
        self.reports = reports
        self.queues.pop(channel).put_nowait(None)


class Server:
    """A server with a few commands."""

    def __init__(self, bus: MemoryBus, name: str, others: Sequence[str]) -> None:
        self.name = name
        self.closed: list[object] = []
        self.commands = PopulationCommands(bus, name, lambda: others, self.execute)

    def execute(self, name: str, params: Params) -> Result:
        """Execute a command here."""
        if name == "ws.statistics":
            return FactsResult({"connections": len(self.name)})
        if name == "ws.close":
            assert not isinstance(params, dict)
            [number] = params
            if number == "404":
                raise CommandError(Fault.UNKNOWN_CONNECTION, "no such")
            self.closed.append(number)
            return EmptyResult()
        if name == "ul.lookup":
            raise CommandError(ApplicationFault(500, "AOR not found in location table"))
        if name == "core.version":
            raise CommandError(Fault.DISABLED)
        return TreeResult({"ran": name})


@asynccontextmanager
async def servers(*names: str, absent: str = "") -> AsyncIterator[tuple[MemoryBus, list[Server]]]:
    """Run servers; one of their names may stand for a server that does not answer."""
    bus = MemoryBus()
    made = [Server(bus, name, [each for each in names if each != name]) for name in names]
    made = [server for server in made if server.name != absent]
    for server in made:
        server.commands.open()
    await asyncio.sleep(0)
    try:
        yield bus, made
    finally:
        for server in made:
            await server.commands.close()


async def result(server: Server, name: str, *params: object) -> Any:
    return (await server.commands.execute(name, params)).to_json()


def test_all_are_asked() -> None:
    async def scenario() -> None:
        async with servers("one", "three", "seventeen") as (_, (one, *_others)):
            assert await result(one, "ws.statistics", "all") == {"connections": 17, "nodes": 3}
            assert await result(one, "core.version", "all") == {
                "one": "503 WebSockets are disabled",
                "seventeen": "503 WebSockets are disabled",
                "three": "503 WebSockets are disabled",
            }
            # What is for this server alone goes nowhere.
            assert await result(one, "tm.list") == {"ran": "tm.list"}
            with pytest.raises(CommandError, match="at this node; all as the first parameter"):
                await result(one, "ul.lookup", "bob")

    run(scenario())


def test_connection_of_another_server_is_closed_there() -> None:
    async def scenario() -> None:
        async with servers("one", "two") as (_, (one, two)):
            assert await result(one, "ws.close", "two/17") == {}
            assert (one.closed, two.closed) == ([], ["17"])
            assert await result(two, "ws.close", "two/18") == {}
            assert two.closed == ["17", "18"]
            with pytest.raises(CommandError, match="500 Unknown connection ID: no such"):
                await result(one, "ws.close", "two/404")
            with pytest.raises(CommandError, match="500 Unknown connection ID"):
                await result(one, "ws.close", "one/404")

    run(scenario())


def test_silent_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)

    async def scenario() -> None:
        async with servers("one", "two", "gone", absent="gone") as (bus, (one, _two)):
            assert await result(one, "ws.statistics", "all") == {
                "connections": 6,
                "nodes": 2,
                "silent": "gone",
            }
            with pytest.raises(CommandError, match="504 The node has not answered: gone"):
                await result(one, "ws.close", "gone/1")
            for state in ("broken", "stuck"):
                setattr(bus, state, True)
                with pytest.raises(CommandError, match="503 The other nodes cannot be reached"):
                    await result(one, "ws.statistics", "all")
                setattr(bus, state, False)

    run(scenario())


def test_others_may_not_give_every_command(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with servers("one", "two") as (bus, (_, two)):
            answers: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
            bus.queues["answer:one"] = answers

            async def sent(*calls: RpcCall, batch: bool = False) -> None:
                await bus.publish("cmd:two", encode_calls(list(calls), batch=batch))

            await sent(RpcCall("ws.connect", ["ws://a/"], id="one 1"))
            await sent(RpcCall("ws.statistics", ["all"], id="one 2"))
            for number in (1, 2):
                message = await answers.get()
                assert message is not None
                assert message[1].startswith(b'{"jsonrpc":"2.0","error":{"code":403,')
                assert message[1].endswith(b'"id":"one %d"}' % number)
            # Not from another server, not a call, or several.
            await sent(RpcCall("ws.close", ["5"], id="mallory 3"))
            await sent(RpcCall("ws.close", ["5"], id=4))
            await sent(RpcCall("ws.close", ["5"], id="one 5"), batch=True)
            await bus.publish("cmd:two", b"{")
            await sent(RpcCall("ws.statistics", [], id="one 6"))
            message = await answers.get()
            assert message is not None
            assert message[1].endswith(b'"id":"one 6"}')
            assert two.closed == []

    with caplog.at_level(logging.WARNING, "wsproto_sip.management"):
        run(scenario())
    assert len(caplog.records) == 4


def test_server_that_has_just_started_is_met_before_its_command_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        bus = MemoryBus()
        known: list[str] = []

        async def meet() -> None:
            known.append("one")

        new = Server(bus, "one", ["two"])
        old = Server(bus, "two", known)
        old.commands = PopulationCommands(bus, "two", lambda: known, old.execute, meet=meet)
        for server in (new, old):
            server.commands.open()
        await asyncio.sleep(0)
        try:
            assert await result(new, "ws.statistics", "all") == {"connections": 6, "nodes": 2}
            assert known == ["one"]
        finally:
            for server in (new, old):
                await server.commands.close()

    with caplog.at_level(logging.WARNING, "wsproto_sip.management"):
        run(scenario())
    assert caplog.records == []


def test_strange_and_late_answers_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with servers("one", "two") as (bus, (one, _)):
            await bus.publish("answer:one", b"?")
            for text in (b'"one 99"', b"7", b'"?"'):
                await bus.publish("answer:one", b'{"jsonrpc":"2.0","result":1,"id":%b}' % text)
            assert await result(one, "ws.close", "two/1") == {}

    with caplog.at_level(logging.WARNING, "wsproto_sip.management"):
        run(scenario())
    assert len(caplog.records) == 1


def test_repeated_answer_counts_once() -> None:
    async def scenario() -> None:
        async with servers("one", "two", "three", absent="three") as (bus, (one, _)):
            asking = asyncio.ensure_future(result(one, "ws.statistics", "all"))
            await asyncio.sleep(0)
            for value in (1, 5):
                for number in (1, 2):
                    reply = b'{"jsonrpc":"2.0","result":{"connections":%d},"id":"one %d"}'
                    await bus.publish("answer:one", reply % (value, number))
            assert await asking == {"connections": 5, "nodes": 3}

    run(scenario())


@pytest.mark.parametrize("reports", [True, False])
def test_lost_bus_is_listened_to_again(reports: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with servers("one", "two") as (bus, (one, _)):
            bus.lose("cmd:two", reports=reports)
            while "cmd:two" not in bus.queues:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await result(one, "ws.close", "two/1") == {}

    with caplog.at_level(logging.INFO, "wsproto_sip.management"):
        run(scenario())
    assert ("nodes-unheard reason=lost" in caplog.text) == reports


def test_answer_that_cannot_be_sent_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with servers("one", "two") as (bus, _):
            await bus.publish("cmd:two", encode_calls([RpcCall("ws.enable", [], id="one 1")]))
            bus.broken = True
            while "no-answer node=one reason=" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0)

    with caplog.at_level(logging.INFO, "wsproto_sip.management"):
        run(scenario())


def test_commands_that_were_not_opened_are_closed() -> None:
    async def scenario() -> None:
        await Server(MemoryBus(), "one", []).commands.close()

    run(scenario())

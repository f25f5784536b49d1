"""2,000 connections that end in every possible way, and a check that they leave nothing.

Theory of operation: a round has 2,000 connections open at once, ends each in a way drawn from a
seeded generator, and replaces every fourth. After it, descriptors, tasks, timers, sessions and
memory blocks are counted. There are two equal rounds, and a shorter one before them for one-time
allocations. A leak of one block per connection would be 2,500 more blocks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
from collections import Counter
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wsproto_sip.adapters.asyncio import (
    Connection,
    ConnectionClosedError,
    Server,
    connect,
    serve,
)
from wsproto_sip.session.session import Session

from ..._sessions import REQUEST
from .._suite import HOST, reset, turns

CONNECTIONS = 2000
#: Handshakes at a time, so that the listener's queue holds them.
AT_ONCE = 64

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed"),
    ),
]


class Counts(NamedTuple):
    """The resources that must not grow over a round."""

    descriptors: int
    tasks: int
    timers: int
    sessions: int


def counted() -> Counts:
    loop: Any = asyncio.get_running_loop()
    gc.collect()
    return Counts(
        len(os.listdir("/proc/self/fd")),
        len(asyncio.all_tasks()),
        # uvloop does not expose its timers.
        sum(not timer.cancelled() for timer in getattr(loop, "_scheduled", ())),
        sum(isinstance(item, Session) for item in gc.get_objects()),
    )


async def program(connection: Connection) -> None:
    """Echo; some words make it end in particular ways."""
    async for message in connection:
        if message == "close":
            await connection.close(4000, "as you like")
        elif message == "abort":
            connection.abort()
        elif message == "ping":
            await connection.ping()
        else:
            await connection.send(message)


class Round:
    """One round.

    Args:
        server: The server.
        connections: The number of connections open at once.
        generator: The source of randomness.
    """

    def __init__(self, server: Server, connections: int, generator: random.Random) -> None:
        self.connections = connections
        self.port = server.addresses[0][1]
        self.generator = generator
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.all_open = asyncio.Event()
        self.open = 0
        self.ways: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self.client(replaced=number % 4 == 0))

    async def opened(self) -> Connection:
        async with self.slots:
            return await connect(f"ws://{HOST}:{self.port}", proxy=None)

    async def client(self, *, replaced: bool) -> None:
        connection = await self.opened()
        self.open += 1
        if self.open == self.connections:
            self.all_open.set()
        await self.all_open.wait()
        await self.end(connection)
        if replaced:
            if self.generator.random() < 0.3:
                await self.cut_short()
            else:
                await self.end(await self.opened())

    async def end(self, connection: Connection) -> None:
        """Talk a little, and end the connection in one of many ways."""
        way = self.generator.choice(
            ["close", "leave", "reset", "eof", "theirs", "killed", "cancelled", "unread"]
        )
        self.ways[way] += 1
        await connection.send("x" * self.generator.randrange(2000))
        await connection.recv()
        match way:
            case "close":
                await connection.close(1000)
            case "leave":
                connection.abort()
            case "reset":
                reset(connection.transport.get_extra_info("socket"))
                connection.transport.abort()
            case "eof":
                # In the middle of a frame.
                connection.transport.write(b"\x82\xfe\xff\xff1234")
                connection.transport.write_eof()
            case "theirs" | "killed":
                await connection.send("close" if way == "theirs" else "abort")
                with suppress(ConnectionClosedError):
                    await connection.recv()
            case "cancelled":
                await self.cancelled(connection)
            case "unread":
                for _ in range(20):
                    await connection.send(bytes(1000))
                connection.begin_close(1001)
        await connection.wait_closed()

    async def cancelled(self, connection: Connection) -> None:
        """Cancel a task that pings, sends, receives and closes, at any point."""

        async def talk() -> None:
            await connection.send("ping")
            await connection.ping()
            await connection.send("y" * 100_000)
            await connection.recv()
            await connection.close()

        task = asyncio.create_task(talk())
        for _ in range(self.generator.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        connection.abort()

    async def cut_short(self) -> None:
        """Start a handshake that does not finish."""
        self.ways["cut short"] += 1
        async with self.slots:
            if self.generator.random() < 0.5:
                task = asyncio.ensure_future(connect(f"ws://{HOST}:{self.port}", proxy=None))
                for _ in range(self.generator.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
                [result] = await asyncio.gather(task, return_exceptions=True)
                if isinstance(result, Connection):
                    result.abort()
                    await result.wait_closed()
                return
            _, writer = await asyncio.open_connection(HOST, self.port)
            writer.write(REQUEST[: self.generator.randrange(len(REQUEST))])
            if self.generator.random() < 0.5:
                reset(writer.get_extra_info("socket"))
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_two_thousand_connections_leak_nothing(loop: str) -> None:
    needed = 2 * CONNECTIONS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} descriptors, ulimit -Hn")
    before = 0
    counts: list[Counts] = []
    blocks: list[int] = []
    ways: list[Counter[str]] = []

    async def scenario() -> None:
        # Other tests may have left some, for example in a traceback.
        nonlocal before
        before = counted().sessions
        async with serve(program, HOST, 0, backlog=2 * AT_ONCE) as server:
            for connections in (CONNECTIONS // 8, CONNECTIONS, CONNECTIONS):
                one = Round(server, connections, random.Random(6455))
                await one.run()
                await turns(lambda: not server.connections and not server._tasks)
                # Connections closed last are released in the next turns of the loop.
                for _ in range(20):
                    await asyncio.sleep(0)
                ways.append(one.ways)
                del one
                counts.append(counted())
                blocks.append(sys.getallocatedblocks())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with asyncio.Runner(loop_factory=import_module(loop).new_event_loop) as runner:
            runner.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(len(each) == 9 for each in ways)
    assert [sum(each.values()) for each in ways[1:]] == [CONNECTIONS * 5 // 4] * 2
    assert max(each.sessions for each in counts) <= before
    assert counts[1][:3] == counts[0][:3]
    assert counts[2][:3] == counts[0][:3]
    assert blocks[2] - blocks[1] < CONNECTIONS // 2

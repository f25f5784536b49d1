"""The adapter of trio: the suite, cancellation, deadlines by trio's clock, and what is left."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trio")

import trio

from wsproto_sip.adapters.trio import Connection, connect, serve

from ._strain import Strain
from ._suite import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from wsproto_sip.lifecycle import ConnectionClosed

    from ._suite import End


class TrioThread:
    """trio's loop in a thread of its own, beside the one of asyncio that the peers are on."""

    def __enter__(self) -> TrioThread:
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()

    async def _main(self) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery:
            self._started.set()
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()

    async def call(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Runs something there."""
        return await asyncio.to_thread(
            partial(trio.from_thread.run, function, *arguments, trio_token=self._token)
        )

    @asynccontextmanager
    async def enter(
        self, make: Callable[[], AbstractAsyncContextManager[Any]]
    ) -> AsyncIterator[Any]:
        """Has a context manager of trio's open there."""
        release, left = trio.Event(), trio.Event()

        async def hold(task_status: trio.TaskStatus[Any]) -> None:
            try:
                async with make() as value:
                    task_status.started(value)
                    await release.wait()
            finally:
                left.set()

        async def leave() -> None:
            release.set()
            await left.wait()

        value = await self.call(self.nursery.start, hold)
        try:
            yield value
        finally:
            await self.call(leave)


class Ended:
    """A connection on trio as a scenario on asyncio sees it.

    Args:
        connection: The connection.
        loop: Where it is.
    """

    def __init__(self, connection: Connection, loop: TrioThread) -> None:
        self.connection = connection
        self._call = loop.call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def send(self, message: str | bytes) -> None:
        await self._call(self.connection.send, message)

    async def recv(self) -> str | bytes:
        message: str | bytes = await self._call(self.connection.recv)
        return message

    async def ping(self, payload: bytes | None = None) -> float:
        seconds: float = await self._call(self.connection.ping, payload)
        return seconds

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._call(self.connection.close, code, reason)

    async def wait_closed(self) -> ConnectionClosed:
        closed: ConnectionClosed = await self._call(self.connection.wait_closed)
        return closed

    def __aiter__(self) -> Ended:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            message: str | bytes = await self._call(self.connection.__anext__)
        except StopAsyncIteration:
            raise StopAsyncIteration from None
        return message


class TestTrio(Strain):
    """The suite; programs of servers run on trio."""

    trio: TrioThread

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        async with self.trio.enter(lambda: serve(program, HOST, 0, **options)) as server:
            yield server.addresses[0][1]
        assert not server.connections

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        async with self.trio.enter(lambda: connect(uri, **options)) as connection:
            yield Ended(connection, self.trio)
        assert connection._lost.is_set()

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with TrioThread() as self.trio:
            super().run(scenario)

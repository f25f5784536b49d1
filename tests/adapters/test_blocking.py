"""The adapter of sockets and threads: the suite, threads, back-pressure, and what is left."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from wsproto_sip.adapters.blocking import Connection, connect, serve

from ._strain import Strain
from ._suite import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from wsproto_sip.lifecycle import ConnectionClosed

    from ._suite import End

T = TypeVar("T")


async def at_once(call: Callable[..., T], *arguments: object) -> T:
    """For a program that has its thread to itself."""
    return call(*arguments)


class Ended:
    """A connection as the suite sees it.

    Args:
        connection: The connection.
        run: Runs what blocks.
    """

    def __init__(self, connection: Connection, run: Any = at_once) -> None:
        self.connection = connection
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    async def send(self, message: str | bytes) -> None:
        await self._run(self.connection.send, message)

    async def recv(self) -> str | bytes:
        message: str | bytes = await self._run(self.connection.recv)
        return message

    async def ping(self, payload: bytes | None = None) -> float:
        seconds: float = await self._run(self.connection.ping, payload)
        return seconds

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._run(self.connection.close, code, reason)

    async def wait_closed(self) -> ConnectionClosed:
        closed: ConnectionClosed = await self._run(self.connection.wait_closed)
        return closed

    def __aiter__(self) -> Ended:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._run(next, self.connection, None)
        if message is None:
            raise StopAsyncIteration
        return message  # type: ignore[no-any-return]


def finish(program: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never waits for a loop."""
    try:
        program.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("it waits for something")


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Asserts that a block leaves no thread of ours behind."""
    yield
    left = [thread.name for thread in threading.enumerate() if "wsproto_sip" in thread.name]
    assert left == []


class TestBlocking(Strain):
    """The suite, with a check that nothing is left behind."""

    @asynccontextmanager
    async def serving(
        self, program: Callable[[End], Awaitable[object]], **options: Any
    ) -> AsyncIterator[int]:
        def handler(connection: Connection) -> None:
            finish(program(Ended(connection)))  # type: ignore[arg-type]

        process = options.pop("process_request", None)
        if process is not None:
            options["process_request"] = lambda connection: finish(process(Ended(connection)))
        serving = serve(handler, HOST, 0, **options)
        server = serving.__enter__()
        try:
            yield server.addresses[0][1]
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
        assert not server.connections
        assert not server._handlers

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        connection = await asyncio.to_thread(connect, uri, **options)
        try:
            yield Ended(connection, asyncio.to_thread)
        except BaseException:
            await asyncio.to_thread(connection.abandon)
            raise
        await asyncio.to_thread(connection.__exit__, None, None, None)
        assert connection._lost

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        with nothing_left_behind():
            super().run(scenario)

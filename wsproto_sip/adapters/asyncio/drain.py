"""Stopping an :class:`~wsproto_sip.adapters.asyncio.endpoint.EndpointServer` step by step.

:class:`~wsproto_sip.server.drain.Drain` has the order of the steps and their times; :func:`stop`
performs them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ...server.drain import Drain, DrainStep
from .._lines import report_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .endpoint import EndpointServer

__all__ = ["stop"]

#: Seconds between two looks at unfinished handshakes.
_LOOK: Final = 0.05


async def stop(
    server: EndpointServer,
    seconds: float,
    *,
    announce: Callable[[], Awaitable[object]] | None = None,
    withdraw: Callable[[], Awaitable[object]] | None = None,
    hurry: asyncio.Event | None = None,
) -> None:
    """Stop listening, have all connections leave, and return when they are gone.

    Connections with a reason to stay
    (:meth:`~wsproto_sip.server.endpoint.Endpoint.stays_while`) leave last. Call
    :meth:`EndpointServer.close` afterwards.

    Args:
        server: The server.
        seconds: The time in which connections leave; transports have a moment more.
        announce: Says that the server is going, for example to other servers that send requests to
            it; it may take a second.
        withdraw: Removes what others know of the server, after its connections are gone; it may
            take two seconds.
        hurry: Set it to have the rest happen at once.
    """
    stopping = _Stop(server, seconds, announce, withdraw)
    if hurry is not None:
        stopping.watch(hurry.wait(), stopping.hurry)
    try:
        await stopping.run()
    finally:
        stopping.close()


class _Stop:
    """A server that stops; see :func:`stop`."""

    def __init__(
        self,
        server: EndpointServer,
        seconds: float,
        announce: Callable[[], Awaitable[object]] | None,
        withdraw: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._server = server
        self._announce, self._withdraw = announce, withdraw
        self._drain = Drain(seconds, shared=announce is not None or withdraw is not None)
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    async def run(self) -> None:
        """Perform all steps."""
        drain, server = self._drain, self._server
        self._perform(drain.begin(server.now()))
        while (due := drain.next_deadline()) is not None:
            pause = max(due - server.now(), 0.0)
            if drain.step is DrainStep.STOP_LISTENING:
                # Transports that were just accepted are entered in the next turns of the loop.
                pause = min(pause, _LOOK)
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            self._go_on()

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._tasks:
            task.cancel()

    def watch(self, coroutine: Coroutine[Any, Any, object], done: Callable[[], object]) -> None:
        """Call a function when a coroutine has ended, and go on."""

        async def watched() -> None:
            try:
                await coroutine
            except Exception as exc:
                report_failure("server", "stopping-failed", exc)
            done()
            self._woken.set()

        self._tasks.append(asyncio.ensure_future(watched()))

    def hurry(self) -> None:
        """Do not wait for connections any longer."""
        self._perform(self._drain.hurry(self._server.now()))

    def _go_on(self) -> None:
        server = self._server
        handshakes = server.endpoint.registry.handshaking
        self._perform(
            self._drain.progress(server.now(), handshakes=handshakes, connections=server.transports)
        )

    def _perform(self, steps: list[DrainStep]) -> None:
        server = self._server
        for step in steps:
            if step is DrainStep.STOP_LISTENING:
                server.stop_listening()
            elif step is DrainStep.SEND_AWAY:
                server.endpoint.drain(server.now(), self._drain.deadline)
                server.wake()
                self.watch(server.emptied(), self._go_on)
            elif step is DrainStep.ANNOUNCE:
                self.watch(_call(self._announce), self._announced)
            elif step is DrainStep.WITHDRAW:
                self.watch(_call(self._withdraw), self._withdrawn)

    def _announced(self) -> None:
        self._perform(self._drain.announced(self._server.now()))

    def _withdrawn(self) -> None:
        self._perform(self._drain.withdrawn(self._server.now()))


async def _call(function: Callable[[], Awaitable[object]] | None) -> None:
    if function is not None:
        await function()

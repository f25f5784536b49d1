"""Servers on an endpoint, inside a test, and a check that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.events import BytesMessage, Event, TextMessage
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import Closed, Opened, UnknownConnectionError
from wsproto_sip.utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HOST = "127.0.0.1"

_AUTHORITY = trustme.CA()
SERVER_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
_AUTHORITY.issue_cert(HOST, "localhost").configure_cert(SERVER_TLS)
CLIENT_TLS = ssl.create_default_context()
_AUTHORITY.configure_trust(CLIENT_TLS)


class Clock:
    """A clock that stands still.

    Attributes:
        now: The time.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Running:
    """A server that echoes.

    Args:
        config: The configuration of its endpoint.
        handler: Called with each event before it is echoed.
        options: Options of EndpointServer.

    Attributes:
        clock: Its clock; deadlines only pass if the test moves it.
        server: The server.
        events: The events so far, with the ids.
        port: The port it listens on.
    """

    def __init__(
        self,
        config: EndpointConfig,
        handler: Callable[[int, Event], object] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint(config, now=self.clock())
        self.server = EndpointServer(self.endpoint, self._handle, clock=self.clock, **options)
        self.events: list[tuple[int, Event]] = []
        self.port = 0
        self._handler = handler
        self._news = asyncio.Event()

    def _handle(self, cid: int, event: Event) -> None:
        self.events.append((cid, event))
        self._news.set()
        if self._handler is not None:
            self._handler(cid, event)
        if isinstance(event, TextMessage | BytesMessage):
            with suppress(LocalProtocolError, UnknownConnectionError):
                self.endpoint.send(cid, event, self.clock())

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.now += seconds
        self.server.wake()

    async def seen(self, kind: type[Event], count: int = 1) -> list[Any]:
        """Wait for a number of events of a kind, and return them."""
        while True:
            found = [event for _, event in self.events if type(event) is kind]
            if len(found) >= count:
                return found
            self._news.clear()
            await self._news.wait()

    async def opened(self, count: int = 1) -> list[Opened]:
        """Return the openings."""
        return await self.seen(Opened, count)

    async def closed(self, count: int = 1) -> list[Closed]:
        """Return the endings."""
        return await self.seen(Closed, count)


@asynccontextmanager
async def serving(
    config: EndpointConfig | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    handler: Callable[[int, Event], object] | None = None,
    **options: Any,
) -> AsyncIterator[Running]:
    """Run an echoing server on a free port, and check that nothing of it is left."""
    before = asyncio.all_tasks()
    running = Running(config or EndpointConfig(), handler, **options)
    [(host, running.port)] = await running.server.listen(HOST, 0, tls=tls)
    assert host == HOST
    try:
        yield running
    finally:
        await running.server.close()
    for _ in range(10):
        # Turns of the loop in which clients of the test can end.
        await asyncio.sleep(0)
    assert len(running.endpoint) == 0
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


def open_files() -> int | None:
    """Return how many files this process has open, if that can be determined."""
    listing = Path("/proc/self/fd")
    return len(os.listdir(listing)) if listing.is_dir() else None

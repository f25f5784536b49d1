"""A small asyncio server and client on WSConnection, and what the tests against peers share.

Theory of operation: :class:`Endpoint` moves octets between a stream and a connection and gives one
event at a time; it answers nothing by itself, so that a test says everything that is sent.
:func:`run` bounds a whole scenario in time; nothing waits for time to pass.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

T = TypeVar("T")
E = TypeVar("E", bound=Event)

#: Where ``python -m`` finds the package and the tests.
ROOT = Path(__file__).resolve().parents[2]

HOST = "127.0.0.1"

#: Seconds after which a scenario has failed; none comes near it.
BOUND = 60.0

#: Octets that hardly compress: what inflates to 200 times its size is refused.
NOISE = random.Random(6455).randbytes(1024 * 1024)

#: What goes there and back: names and messages.
MESSAGES: dict[str, str | bytes] = {
    "text": "hello",
    "empty text": "",
    "125 octets": "x" * 125,
    "126 octets": "x" * 126,
    "octets": bytes(range(256)),
    "no octets": b"",
    "65535 octets": NOISE[:65535],
    "65536 octets": NOISE[:65536],
    "non-ASCII": "Grüße, Привет, 你好, 🌍🎉 \x00\x85\u2028",
    "1 MiB of octets": NOISE,
    "1 MiB of text": NOISE[: 512 * 1024].hex(),
    "1 MiB of non-ASCII text": "".join(chr(0x1F000 + octet) for octet in NOISE[: 256 * 1024]),
}


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Runs a scenario, within the bound of time."""

    async def bounded() -> T:
        async with asyncio.timeout(BOUND):
            return await scenario

    return asyncio.run(bounded())


class Endpoint:
    """One end of a WebSocket connection over a stream.

    Args:
        connection: The protocol.
        reader: Where octets come from.
        writer: Where they go.
    """

    def __init__(
        self, connection: WSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection = connection
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Writes octets that no connection has made."""
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, *events: Event) -> None:
        """Sends events in one write."""
        await self.write(b"".join(map(self.connection.send, events)))

    async def next_event(self) -> Event:
        """The next event; there must be one to come."""
        while True:
            for event in self.connection.events():
                return event
            data = await self.reader.read(65536)
            self.connection.receive_data(data or None)

    async def expect(self, kind: type[E]) -> E:
        """The next event, which must be of this kind."""
        event = await self.next_event()
        assert type(event) is kind, event
        return event

    async def message(self) -> str | bytes:
        """The next message, its pieces put together."""
        event = await self.next_event()
        assert isinstance(event, TextMessage | BytesMessage), event
        kind = type(event)
        pieces: list[Any] = [event.data]
        while not event.message_finished:
            event = await self.next_event()
            assert isinstance(event, kind), event
            pieces.append(event.data)
        return "".join(pieces) if kind is TextMessage else b"".join(pieces)

    async def accept(self, answer: AcceptConnection | None = None) -> Request:
        """Takes the request and accepts it."""
        request = await self.expect(Request)
        await self.send(answer or AcceptConnection())
        return request

    async def echo(self) -> CloseConnection:
        """Sends everything back until the peer closes, and closes as well."""
        while True:
            event = await self.next_event()
            if isinstance(event, TextMessage | BytesMessage):
                await self.send(event)
            elif isinstance(event, Ping):
                await self.send(event.response())
            else:
                assert isinstance(event, CloseConnection), event
                await self.send(event.response())
                return event

    async def end(self) -> bytes:
        """What is left to come until the peer ends the stream."""
        return await self.reader.read()


@asynccontextmanager
async def serving(
    handler: Callable[[Endpoint], Awaitable[None]], *, whole_messages: bool = False
) -> AsyncIterator[int]:
    """A server on a free port of 127.0.0.1.

    Args:
        handler: Called for each connection, which is closed behind it; what it raises is raised
            where the server ends.
        whole_messages: How its connections deliver messages.

    Yields:
        The port.
    """
    tasks: list[asyncio.Task[Any]] = []
    failures: list[BaseException] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        connection = WSConnection(ConnectionType.SERVER, whole_messages=whole_messages)
        try:
            await handler(Endpoint(connection, reader, writer))
        except Exception as failure:
            failures.append(failure)
        finally:
            await _close(writer)

    server = await asyncio.start_server(connected, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        if failures:
            # In place of what the failure has led to at the other end.
            raise failures[0]


@asynccontextmanager
async def connected(
    port: int, *, opening: Request | None = None, whole_messages: bool = False
) -> AsyncIterator[Endpoint]:
    """A client connected to 127.0.0.1.

    Args:
        port: Where.
        opening: The request to send; ``None`` sends none.
        whole_messages: How the connection delivers messages.

    Yields:
        The client's end, with the answer still to come.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    connection = WSConnection(ConnectionType.CLIENT, whole_messages=whole_messages)
    endpoint = Endpoint(connection, reader, writer)
    try:
        if opening is not None:
            await endpoint.send(opening)
        yield endpoint
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def message(data: str | bytes) -> TextMessage | BytesMessage:
    """The message that carries the text, or the octets."""
    return TextMessage(data) if isinstance(data, str) else BytesMessage(data)


def request(port: int, **fields: Any) -> Request:
    """A client's request to 127.0.0.1."""
    return Request(host=f"{HOST}:{port}", target="/", **fields)


async def rejection(client: Endpoint) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, header fields and body of a rejection."""
    answer = await client.expect(RejectConnection)
    body, finished = b"", not answer.has_body
    while not finished:
        piece = await client.expect(RejectData)
        body, finished = body + piece.data, piece.body_finished
    return answer.status_code, dict(answer.headers), body


def command(module: str, *arguments: str) -> Sequence[str]:
    """The command line that runs a module with this interpreter, in ROOT."""
    return [sys.executable, "-m", module, *arguments]

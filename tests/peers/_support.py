"""A small asyncio server and client on WSConnection, shared by the tests against peers.

Theory of operation: :class:`Endpoint` moves bytes between a stream and a connection and returns one
event at a time. It never answers by itself, so that a test controls everything that is sent.
:func:`run` limits the time of a whole scenario; no test sleeps.
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

#: The directory in which ``python -m`` finds the package and the tests.
ROOT = Path(__file__).resolve().parents[2]

HOST = "127.0.0.1"

#: Seconds after which a scenario has failed; none comes close to it.
BOUND = 60.0

#: Bytes that hardly compress, because messages that inflate to 200 times their size are refused.
NOISE = random.Random(6455).randbytes(1024 * 1024)

#: The messages to echo, by name.
MESSAGES: dict[str, str | bytes] = {
    "text": "hello",
    "empty text": "",
    "125 bytes": "x" * 125,
    "126 bytes": "x" * 126,
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "65535 bytes": NOISE[:65535],
    "65536 bytes": NOISE[:65536],
    "non-ASCII": "Grüße, Привет, 你好, 🌍🎉 \x00\x85\u2028",
    "1 MiB of bytes": NOISE,
    "1 MiB of text": NOISE[: 512 * 1024].hex(),
    "1 MiB of non-ASCII text": "".join(chr(0x1F000 + byte) for byte in NOISE[: 256 * 1024]),
}


def run(scenario: Coroutine[Any, Any, T], bound: float = BOUND) -> T:
    """Run a scenario, with a limit on its time in seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(bound):
            return await scenario

    return asyncio.run(bounded())


class Endpoint:
    """One end of a WebSocket connection over a stream.

    Args:
        connection: The protocol.
        reader: The stream to read from.
        writer: The stream to write to.
    """

    def __init__(
        self, connection: WSConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection = connection
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Write bytes that do not come from the connection."""
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, *events: Event) -> None:
        """Send events in one write."""
        await self.write(b"".join(map(self.connection.send, events)))

    async def next_event(self) -> Event:
        """Return the next event; there must be one."""
        while True:
            for event in self.connection.events():
                return event
            data = await self.reader.read(65536)
            self.connection.receive_data(data or None)

    async def expect(self, kind: type[E]) -> E:
        """Return the next event, which must be of this kind."""
        event = await self.next_event()
        assert type(event) is kind, event
        return event

    async def message(self) -> str | bytes:
        """Return the next message, its pieces joined."""
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
        """Receive the request and accept it."""
        request = await self.expect(Request)
        await self.send(answer or AcceptConnection())
        return request

    async def echo(self) -> CloseConnection:
        """Echo everything until the peer closes, and close as well."""
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
        """Return the rest of the input until the peer ends the stream."""
        return await self.reader.read()


@asynccontextmanager
async def serving(
    handler: Callable[[Endpoint], Awaitable[None]], *, whole_messages: bool = False
) -> AsyncIterator[int]:
    """Run a server on a free port of 127.0.0.1.

    Args:
        handler: Called for each connection, which is closed when it returns; its exceptions are
            raised when the server ends.
        whole_messages: Whether its connections deliver whole messages.

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
            # Raised instead of what the failure caused at the other end.
            raise failures[0]


@asynccontextmanager
async def connected(
    port: int, *, opening: Request | None = None, whole_messages: bool = False
) -> AsyncIterator[Endpoint]:
    """Connect a client to 127.0.0.1.

    Args:
        port: The port.
        opening: The request to send; ``None`` sends none.
        whole_messages: Whether the connection delivers whole messages.

    Yields:
        The client's end, before the response has arrived.
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
    """Return the message with the text or the bytes."""
    return TextMessage(data) if isinstance(data, str) else BytesMessage(data)


def request(port: int, **fields: Any) -> Request:
    """Return a client's request to 127.0.0.1."""
    return Request(host=f"{HOST}:{port}", target="/", **fields)


async def rejection(client: Endpoint) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, header fields and body of a rejection."""
    answer = await client.expect(RejectConnection)
    body, finished = b"", not answer.has_body
    while not finished:
        piece = await client.expect(RejectData)
        body, finished = body + piece.data, piece.body_finished
    return answer.status_code, dict(answer.headers), body


def command(module: str, *arguments: str) -> Sequence[str]:
    """Return the command line that runs a module with this interpreter, in ROOT."""
    return [sys.executable, "-m", module, *arguments]

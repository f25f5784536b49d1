"""What every adapter must do when a peer sends a burst and ends the transport.

Theory of operation: the peer is a bare socket of the test. It writes more messages than a queue
takes, perhaps a close frame, and ends TCP in one of the possible ways. The program receives one
message after another and lets other tasks run in between.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st

from wsproto_sip.adapters.exceptions import ConnectionClosedError
from wsproto_sip.events import AcceptConnection
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

from .._sessions import REQUEST, frame
from ._refusals import Refusals
from ._suite import HOST, End, reset, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: More than a queue takes, and more than one call parses.
COUNT = 300

NUMBERS = [str(number) for number in range(COUNT)]
BURST = b"".join(frame(0x81, number.encode()) for number in NUMBERS)
#: Frames that do not fill the queue: each message with a Ping and an empty fragment.
MIXED = b"".join(
    frame(0x89, b"?") + frame(0x01) + frame(0x80, number.encode()) for number in NUMBERS[:60]
)
CLOSE_4001 = frame(0x88, b"\x0f\xa1bye")

#: The peer's end: what it sends last, how it ends TCP, and the code to be reported.
ENDINGS = {
    "FIN": (b"", "close", 1006),
    "RST": (b"", "reset", 1006),
    "half-close": (b"", "half", 1006),
    "close frame and FIN": (CLOSE_4001, "close", 4001),
    "close frame and RST": (CLOSE_4001, "reset", 4001),
    "close frame and half-close": (CLOSE_4001, "half", 4001),
}


async def raw_client(port: int) -> socket.socket:
    """Connect a bare socket and complete the WebSocket handshake."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (HOST, port))
    await loop.sock_sendall(sock, REQUEST)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await loop.sock_recv(sock, 65536)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return sock


async def end_transport(sock: socket.socket, way: str) -> None:
    """End TCP in the given way."""
    if way == "half":
        sock.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while await loop.sock_recv(sock, 65536):
                pass
    elif way == "reset":
        reset(sock)
    sock.close()


async def what_is_said_of_the_end(end: End) -> list[ConnectionClosed | None]:
    """Ask for the end in every possible way, and return the answers."""
    calls: list[Callable[[], Awaitable[object]]] = [
        end.recv,
        lambda: end.send("too late"),
        end.ping,
    ]
    said: list[ConnectionClosed | None] = [await end.wait_closed()]
    for call in calls:
        with pytest.raises(ConnectionClosedError) as caught:
            await call()
        said.append(caught.value.event)
    await end.close()
    return [*said, end.closed]


class Ends(Refusals):
    """All the tests."""

    async def nap(self) -> None:
        """Let others run, in a program of a server."""
        await asyncio.sleep(0)

    async def receive_slowly(self, end: End, got: list[str | bytes]) -> None:
        while True:
            got.append(await end.recv())
            for _ in range(3):
                await self.nap()

    async def send_for_ever(self, end: End) -> None:
        while True:
            await end.send("x" * 1000)
            await self.nap()

    def serve_peers_that_end(
        self, data: bytes, way: str, peers: int
    ) -> tuple[list[list[str | bytes]], list[list[ConnectionClosed | None]]]:
        """Serve peers that end, and return what the handlers received and were told of the end."""
        received: list[list[str | bytes]] = []
        ends: list[list[ConnectionClosed | None]] = []

        async def program(end: End) -> None:
            got: list[str | bytes] = []
            received.append(got)
            with suppress(ConnectionClosedError):
                await self.receive_slowly(end, got)
            ends.append(await what_is_said_of_the_end(end))

        async def client(port: int) -> None:
            sock = await raw_client(port)
            await asyncio.get_running_loop().sock_sendall(sock, data)
            await end_transport(sock, way)

        async def scenario() -> None:
            async with self.serving(program) as port:
                await asyncio.gather(*[client(port) for _ in range(peers)])
                await turns(lambda: len(ends) == peers)

        self.run(scenario())
        return received, ends

    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("burst", [BURST, MIXED], ids=["messages", "fragments and pings"])
    def test_every_message_of_a_burst_arrives_then_the_peers_end(
        self, burst: bytes, ending: str
    ) -> None:
        last, way, code = ENDINGS[ending]
        [got], [said] = self.serve_peers_that_end(burst + last, way, 1)
        assert got == (NUMBERS if burst is BURST else NUMBERS[:60])
        assert [end.code for end in said if end] == [code] * 5
        cause = Cause.REMOTE if code == 4001 else Cause.END_OF_INPUT
        assert [end.cause for end in said if end] == [cause] * 5

    def test_hundred_handlers_end_after_their_peers(self) -> None:
        received, ends = self.serve_peers_that_end(BURST + CLOSE_4001, "close", 100)
        assert received == [NUMBERS] * 100
        assert [[end.code for end in said if end] for said in ends] == [[4001] * 5] * 100

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_client_gets_every_message_of_a_burst_then_the_end(self, ending: str) -> None:
        last, way, code = ENDINGS[ending]
        data = b"".join(unmasked(0x81, number.encode()) for number in NUMBERS)
        if last:
            data += unmasked(0x88, b"\x0f\xa1bye")
        got: list[str | bytes] = []
        said: list[ConnectionClosed | None] = []

        async def scenario() -> None:
            async with RawServer(data, way) as port, self.client(f"ws://{HOST}:{port}") as end:
                with suppress(ConnectionClosedError):
                    while True:
                        got.append(await end.recv())
                        for _ in range(3):
                            await asyncio.sleep(0)
                said.extend(await what_is_said_of_the_end(end))

        self.run(scenario())
        assert got == NUMBERS
        assert [end.code for end in said if end] == [code] * 5

    def test_sender_is_told_of_the_end_and_messages_stay(self) -> None:
        """Sending fails once the peer has ended; earlier messages can still be received."""
        said: list[ConnectionClosed | None] = []
        got: list[str | bytes] = []

        async def program(end: End) -> None:
            got.append(await end.recv())
            with pytest.raises(ConnectionClosedError) as caught:
                await self.send_for_ever(end)
            said.append(caught.value.event)
            with suppress(ConnectionClosedError):
                await self.receive_slowly(end, got)
            said.extend(await what_is_said_of_the_end(end))

        async def scenario() -> None:
            async with self.serving(program) as port:
                sock = await raw_client(port)
                await asyncio.get_running_loop().sock_sendall(sock, BURST + CLOSE_4001)
                await end_transport(sock, "close")
                await turns(lambda: len(said) == 6)

        self.run(scenario())
        assert got == NUMBERS
        assert [end.code for end in said if end] == [4001] * 6


@dataclass(frozen=True)
class Plan:
    """What a peer does to a connection, and what the program does meanwhile.

    Args:
        frames: Kinds of frames, and how many of each in a row.
        closes: Whether the peer's last frame is a close frame.
        size: Bytes of one write of the peer.
        naps: How often the program lets others run after each message.
        sends_at: After how many messages the program sends one; ``None`` for never.
    """

    frames: list[tuple[str, int]]
    closes: bool
    size: int
    naps: int
    sends_at: int | None

    @property
    def messages(self) -> list[str]:
        """Return the messages to be received."""
        count = sum(count for kind, count in self.frames if kind in ("message", "fragments"))
        return [str(number) for number in range(count)]

    @property
    def writes(self) -> list[bytes]:
        """Return the peer's writes."""
        numbers = iter(self.messages)
        pieces: list[bytes] = []
        for kind, count in self.frames:
            for _ in range(count):
                if kind == "ping":
                    pieces.append(frame(0x89, b"?"))
                elif kind == "message":
                    pieces.append(frame(0x81, next(numbers).encode()))
                else:
                    pieces += [frame(0x01), frame(0x00), frame(0x80, next(numbers).encode())]
        data = b"".join(pieces) + (CLOSE_4001 if self.closes else b"")
        return [data[start : start + self.size] for start in range(0, len(data), self.size)]

    @property
    def code(self) -> int:
        """Return the code to be reported."""
        return 4001 if self.closes else 1006

    async def follow(self, end: End, nap: Callable[[], Awaitable[object]]) -> None:
        """Run the program's part, and check that it gets what the peer sent."""
        got: list[str | bytes] = []
        with suppress(ConnectionClosedError):
            while True:
                if len(got) == self.sends_at:
                    with suppress(ConnectionClosedError):
                        await end.send("x")
                got.append(await end.recv())
                for _ in range(self.naps):
                    await nap()
        said = await what_is_said_of_the_end(end)
        assert got == self.messages
        assert [event.code for event in said if event] == [self.code] * 5


def plans() -> st.SearchStrategy[Plan]:
    """Draw bursts of up to a few hundred frames."""
    return st.builds(
        Plan,
        st.lists(
            st.tuples(
                st.sampled_from(["message", "message", "fragments", "ping"]), st.integers(1, 60)
            ),
            max_size=6,
        ).filter(lambda frames: sum(n for kind, n in frames if kind == "ping") <= 150),
        st.booleans(),
        st.sampled_from([7, 100, 65536]),
        st.integers(0, 3),
        st.none() | st.integers(0, 40),
    )


def unmasked(first: int, payload: bytes) -> bytes:
    """Return a short frame of a server."""
    return bytes([first, len(payload)]) + payload


class RawServer:
    """Accept one client, send the given bytes, and end TCP.

    Args:
        data: The bytes to send after the response to the request.
        way: The way to end TCP.
    """

    def __init__(self, data: bytes, way: str) -> None:
        self._data = data
        self._way = way

    async def __aenter__(self) -> int:
        self._listener = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self._task = asyncio.create_task(self._serve())
        port: int = self._listener.getsockname()[1]
        return port

    async def __aexit__(self, *exc: object) -> None:
        await self._task
        self._listener.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        sock, _ = await loop.sock_accept(self._listener)
        session = Session(ConnectionType.SERVER, now=0.0)
        while not session.receive(await loop.sock_recv(sock, 65536), 0.0):
            pass
        session.send(AcceptConnection(), 0.0)
        await loop.sock_sendall(sock, session.data_to_send() + self._data)
        await end_transport(sock, self._way)

"""The second half of what every adapter must do: overload, stalled peers, and ends.

:class:`Strain` is :class:`~tests.adapters._suite.Behaviour` with more tests of the same kind.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.server import ServerConnection, serve as their_server
from websockets.exceptions import ConnectionClosed as TheirClosed

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.events import AcceptConnection
from wsproto_sip.limits import Limits, bound
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.utilities import LocalProtocolError

from .._sessions import REQUEST, frame
from ._ends import unmasked
from ._streaming import Streaming
from ._suite import (
    BOUND,
    HOST,
    End,
    certificates,
    echo,
    peer,
    port_of,
    reset,
    their_echo,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: The client's part of a conversation that is cut at every point.
CONVERSATION = b"".join(
    [
        REQUEST,
        frame(0x81, b"one"),
        frame(0x01, b"tw"),
        frame(0x89, b"?"),
        frame(0x80, b"o"),
        frame(0x82, bytes(3000)),
        frame(0x88, b"\x03\xe8bye"),
    ]
)


async def until_the_end(end: End) -> AsyncIterator[str | bytes]:
    with suppress(ConnectionClosedError):
        while True:
            yield await end.recv()


async def send_for_ever(end: End) -> None:
    while True:
        await end.send(bytes(100_000))


class Strain(Streaming):
    """All the tests."""

    # -- back-pressure -----------------------------------------------------------------------------

    def test_sender_is_stopped_while_messages_wait(self) -> None:
        """The sender is stopped; every message is received later, in order."""
        size, count = 10_000, 3000
        sent: list[int] = []

        async def flood(websocket: ServerConnection) -> None:
            for number in range(count):
                await websocket.send(number.to_bytes(4, "big") + bytes(size))
                sent.append(number)
            await websocket.wait_closed()

        async def scenario() -> None:
            async with (
                their_server(flood, HOST, 0, compression=None, ping_interval=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                [websocket] = server.connections
                transport = websocket.transport
                await turns(
                    lambda: end.session.paused and transport.get_write_buffer_size() > 32768
                )
                assert len(sent) < count
                # A full queue, the call that filled it, and one read.
                limits = end.session.config.limits
                assert len(end._messages) < 2 * bound(limits.max_queued_messages)
                assert sum(map(len, end._messages)) <= bound(limits.max_queued_bytes) + 65536
                assert len(end.session._input) <= 65536
                for number in range(count):
                    assert await end.recv() == number.to_bytes(4, "big") + bytes(size)

        self.run(scenario())

    def test_send_waits_while_the_peer_does_not_read(self) -> None:
        """The sender waits; every message arrives later, in order."""
        got: list[int] = []

        async def slow(websocket: ServerConnection) -> None:
            async for message in websocket:
                assert isinstance(message, bytes)
                got.append(int.from_bytes(message[:4], "big"))

        async def scenario() -> None:
            async with (
                their_server(slow, HOST, 0, compression=None, ping_interval=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                [websocket] = server.connections
                websocket.transport.pause_reading()
                number = 0
                while end.writable:
                    await end.send(number.to_bytes(4, "big") + bytes(10_000))
                    number += 1
                waiting = asyncio.create_task(end.send(number.to_bytes(4, "big")))
                await asyncio.sleep(0)
                assert end._backlog() <= 65536 + 10_014
                assert not waiting.done()
                websocket.transport.resume_reading()
                await waiting
                await turns(lambda: len(got) == number + 1)
                assert got == list(range(number + 1))

        self.run(scenario())

    def test_send_timeout_ends_a_blocked_connection(self) -> None:
        """The sender waits, and the send timeout ends the connection."""

        async def deaf(websocket: ServerConnection) -> None:
            websocket.transport.pause_reading()
            await websocket.send("deaf")
            await websocket.wait_closed()

        async def scenario() -> None:
            config = SessionConfig(send_timeout=0.05)
            async with (
                their_server(deaf, HOST, 0, ping_interval=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}", config=config) as end,
            ):
                assert await end.recv() == "deaf"
                with pytest.raises(ConnectionClosedError) as caught:
                    await send_for_ever(end)
                assert caught.value.event.cause is Cause.SEND_TIMEOUT
                assert caught.value.event.reason == "the transport accepted no bytes for too long"
                [websocket] = server.connections
                websocket.transport.abort()

        self.run(scenario())

    def test_close_drops_unreceived_messages(self) -> None:
        """The peer's answer comes after messages that are read and dropped."""

        async def flood(websocket: ServerConnection) -> None:
            for number in range(200):
                await websocket.send(bytes([number]) * 1000)
            await websocket.wait_closed()

        async def scenario() -> None:
            async with (
                their_server(flood, HOST, 0, compression=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                await turns(lambda: end.session.paused)
                await end.close(4000, "enough")
                assert end.closed
                assert (end.closed.code, end.closed.cause) == (4000, Cause.LOCAL)
                kept = [message async for message in until_the_end(end)]
                assert 16 <= len(kept) < 32
                assert kept == [bytes([number]) * 1000 for number in range(len(kept))]

        self.run(scenario())

    def test_messages_before_the_end_can_be_received(self) -> None:
        async def brief(websocket: ServerConnection) -> None:
            for number in range(40):
                await websocket.send(str(number))

        async def scenario() -> None:
            async with (
                their_server(brief, HOST, 0) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                await turns(lambda: end.session.paused)
                assert [message async for message in end] == list(map(str, range(40)))
                assert end.closed
                assert (end.closed.code, end.closed.cause) == (1000, Cause.REMOTE)

        self.run(scenario())

    # -- several at a time, and misuse -------------------------------------------------------------

    def test_concurrent_senders_keep_messages_whole(self) -> None:
        """Messages stay whole, and those of each sender in order."""

        async def scenario() -> None:
            async with (
                their_server(their_echo, HOST, 0, compression=None, max_size=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):

                async def send(sender: int) -> None:
                    for number in range(40):
                        await end.send(bytes([sender, number]) * (1 + 700 * (number % 5)))

                sending = [asyncio.create_task(send(sender)) for sender in range(5)]
                numbers = [0] * 5
                for _ in range(200):
                    message = await end.recv()
                    assert isinstance(message, bytes)
                    sender, number = message[:2]
                    assert message == bytes([sender, number]) * (1 + 700 * (number % 5))
                    assert number == numbers[sender]
                    numbers[sender] += 1
                await asyncio.gather(*sending)

        self.run(scenario())

    def test_second_receiver_is_refused(self) -> None:
        async def scenario() -> None:
            async with (
                their_server(their_echo, HOST, 0) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                tasks = [asyncio.create_task(end.recv()) for _ in range(2)]
                done, waiting = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
                with pytest.raises(RuntimeError, match=r"another (task|thread) receives"):
                    done.pop().result()
                await end.send("x")
                assert await waiting.pop() == "x"

        self.run(scenario())

    def test_invalid_messages_are_refused(self) -> None:
        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0) as server:
                uri = f"ws://{HOST}:{port_of(server)}"
                async with self.client(uri) as end:
                    with pytest.raises(LocalProtocolError):
                        await end.send("\ud800")
                    with pytest.raises(LocalProtocolError):
                        await end.ping(bytes(126))
                    with pytest.raises(LocalProtocolError):
                        await end.close(1004)
                    with pytest.raises(TypeError):
                        await end.send(1)  # type: ignore[arg-type]
                    # The connection is unaffected.
                    await end.send(b"x")
                    assert await end.recv() == b"x"
                with pytest.raises(LocalProtocolError):
                    async with self.client(uri, headers=[(b"Host", b"x")]):
                        pass

        self.run(scenario())

    def test_pong_answers_earlier_pings_too(self) -> None:
        """A later Pong also answers earlier Pings; the end of the connection ends the wait."""

        async def scenario() -> None:
            async with (
                their_server(their_echo, HOST, 0, ping_interval=None) as server,
                self.client(f"ws://{HOST}:{port_of(server)}") as end,
            ):
                [websocket] = server.connections
                transport = websocket.transport
                transport.pause_reading()
                pings = [asyncio.create_task(end.ping(text)) for text in (b"1", b"2", b"3")]
                await turns(lambda: len(end._pings or ()) == 3)
                with pytest.raises(ValueError, match="already waiting"):
                    await end.ping(b"1")
                transport.resume_reading()
                assert all(0 <= seconds < BOUND for seconds in await asyncio.gather(*pings))
                transport.pause_reading()
                ping = asyncio.create_task(end.ping())
                await turns(lambda: len(end._pings or ()) == 1)
                reset(transport.get_extra_info("socket"))
                transport.abort()
                with pytest.raises(ConnectionClosedError):
                    await ping
                with pytest.raises(ConnectionClosedError):
                    await end.ping()

        self.run(scenario())

    # -- deadlines and bounds ----------------------------------------------------------------------

    def test_slow_handshake_is_dropped(self) -> None:
        config = SessionConfig(open_timeout=0.02)

        async def scenario() -> None:
            async with self.serving(echo, config=config) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"GET / HTTP/1.1\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
                writer.close()

        self.run(scenario())

    def test_slow_tls_handshake_is_dropped(self) -> None:
        config = SessionConfig(open_timeout=0.02)

        async def scenario() -> None:
            async with self.serving(echo, config=config, ssl=certificates()[0]) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                assert await reader.read() == b""
                writer.close()

        self.run(scenario())

    def test_plain_text_on_a_tls_port_is_dropped(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario() -> None:
            async with self.serving(echo, ssl=certificates()[0]) as port:
                with pytest.raises((ConnectionClosedError, ssl.SSLError)):
                    async with self.client(f"ws://{HOST}:{port}"):
                        pass
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"\xff" * 1000)
                with suppress(ConnectionError):
                    await reader.read()
                writer.close()

        self.run(scenario())
        assert not [record for record in caplog.records if "wsproto_sip" in record.name]

    def test_oversized_head_is_refused(self) -> None:
        async def scenario() -> None:
            async with self.serving(echo) as port:
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
                assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
                writer.close()

        self.run(scenario())

    def test_idle_connection_is_closed(self) -> None:
        ends: list[ConnectionClosed] = []

        async def program(end: End) -> None:
            ends.append(await end.wait_closed())

        async def scenario() -> None:
            config = SessionConfig(idle_timeout=0.02)
            async with self.serving(program, config=config) as port, peer(port) as websocket:
                with pytest.raises(TheirClosed):
                    await websocket.recv()
                assert (websocket.close_code, websocket.close_reason) == (1001, "idle for too long")

        self.run(scenario())
        assert [(end.code, end.cause) for end in ends] == [(1001, Cause.IDLE)]

    @pytest.mark.parametrize("error", [None, HandshakeRejected(403), ZeroDivisionError()])
    def test_late_answer_to_a_request_is_ignored(self, error: Exception | None) -> None:
        async def slow(end: Any) -> None:
            await end.wait_closed()
            if error is not None:
                raise error

        async def scenario() -> None:
            config = SessionConfig(open_timeout=0.02)
            async with self.serving(echo, config=config, process_request=slow) as port:
                with pytest.raises(Exception, match="408"):
                    async with self.client(f"ws://{HOST}:{port}"):
                        pass

        self.run(scenario())

    def test_program_may_answer_the_request(self) -> None:
        async def answer(end: Any) -> AcceptConnection:
            return AcceptConnection(extra_headers=[(b"x-answer", b"42")])

        async def scenario() -> None:
            async with (
                self.serving(echo, process_request=answer) as port,
                self.client(f"ws://{HOST}:{port}") as end,
            ):
                assert end.response
                assert (b"x-answer", b"42") in end.response.extra_headers

        self.run(scenario())

    def test_client_closes_with_1009_after_an_oversized_message(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            await websocket.send(bytes(1000))
            await websocket.send(bytes(1001))
            await websocket.wait_closed()
            codes.append(websocket.close_code)

        codes: list[int | None] = []

        async def scenario() -> None:
            config = SessionConfig(limits=Limits(max_message_size=1000))
            async with (
                their_server(handler, HOST, 0) as server,
                self.client(f"ws://{HOST}:{port_of(server)}", config=config) as end,
            ):
                assert await end.recv() == bytes(1000)
                with pytest.raises(ConnectionClosedError) as caught:
                    await end.recv()
                assert caught.value.event.cause is Cause.LIMIT

        self.run(scenario())
        assert codes == [1009]

    # -- ends at any point -------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(4))
    def test_server_survives_clients_cut_at_any_byte(
        self, seed: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The server discards what they leave, and logs nothing."""
        generator = random.Random(seed)

        async def one(port: int) -> None:
            reader, writer = await asyncio.open_connection(HOST, port)
            said = CONVERSATION[: generator.randrange(len(CONVERSATION) + 1)]
            while said:
                size = generator.randrange(1, 1500)
                writer.write(said[:size])
                said = said[size:]
                await asyncio.sleep(0)
            way = generator.randrange(4)
            if way == 0:
                writer.write_eof()
                await reader.read()
            elif way == 1:
                reset(writer.get_extra_info("socket"))
                writer.transport.abort()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

        async def scenario() -> None:
            async with self.serving(echo) as port:
                await asyncio.gather(*(one(port) for _ in range(12)))
                # The server still works.
                async with peer(port) as websocket:
                    await websocket.send("still there?")
                    assert await websocket.recv() == "still there?"

        self.run(scenario())
        assert not [record for record in caplog.records if "wsproto_sip" in record.name]

    @pytest.mark.parametrize("seed", range(4))
    def test_client_reports_servers_cut_at_any_byte(self, seed: int) -> None:
        """A client is told, after it has received what came before the end."""
        generator = random.Random(seed)
        messages = ["one", b"two", "three"]

        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = WSConnection(ConnectionType.SERVER)
            connection.receive_data(await reader.readuntil(b"\r\n\r\n"))
            assert list(connection.events())
            head = connection.send(AcceptConnection())
            frames = [unmasked(0x81, b"one"), unmasked(0x82, b"two"), unmasked(0x81, b"three")]
            said = head + b"".join(frames)
            first = 0 if generator.random() < 0.2 else len(head)
            cut = generator.randrange(first, len(said) + 1)
            writer.write(said[:cut])
            whole.append(sum(cut >= len(head + b"".join(frames[: n + 1])) for n in range(3)))
            opened.append(cut >= len(head))
            if generator.random() < 0.5:
                reset(writer.get_extra_info("socket"))
                writer.transport.abort()
            writer.close()

        whole: list[int] = []
        opened: list[bool] = []
        causes: list[Cause] = []

        async def scenario() -> None:
            server = await asyncio.start_server(other, HOST, 0)
            async with server:
                for _ in range(12):
                    got: list[str | bytes] = []
                    try:
                        async with self.client(f"ws://{HOST}:{port_of(server)}") as end:
                            got += [message async for message in until_the_end(end)]
                            assert end.closed
                            assert end.closed.cause is Cause.END_OF_INPUT
                    except ConnectionClosedError as error:
                        causes.append(error.event.cause)
                    # A reset may overtake the last bytes.
                    assert got == messages[: len(got)]
                    assert len(got) <= whole[-1]

        self.run(scenario())
        assert any(opened)
        assert sum(whole) > 0
        assert set(causes) <= {Cause.END_OF_INPUT}

    def test_silent_connections_do_not_block_a_server(self) -> None:
        """A server with many silent connections keeps working, and drains."""

        async def scenario() -> None:
            sockets = []
            async with self.serving(echo, drain=0.02) as port:
                for _ in range(10):
                    sock = socket.create_connection((HOST, port))
                    sockets.append(sock)
                async with peer(port) as websocket:
                    await websocket.send("x")
                    assert await websocket.recv() == "x"
            for sock in sockets:
                with suppress(ConnectionError):
                    assert sock.recv(5000)[:12] in {b"", b"HTTP/1.1 503"}
                sock.close()

        self.run(scenario())

"""An endpoint on asyncio, with sockets of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.peers._support import BOUND, HOST, Endpoint, connected, request, run
from wsproto_sip.adapters._lines import Line
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer, _local, _Peer, _peer
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)
from wsproto_sip.limits import Limits
from wsproto_sip.policy.decision import PolicyChain
from wsproto_sip.policy.forwarded import TrustedNetworks
from wsproto_sip.policy.token import TokenPlace, TokenPolicy, TokenQuestion, TokenSource
from wsproto_sip.server import endpoint as server_endpoint
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.events import AdmissionPending, Closed, Opened, Writable
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig
from wsproto_sip.session.lifecycle import Cause

from .._endpoint import CLIENT_TLS, SERVER_TLS, Running, open_files, serving
from .._ends import BURST, ENDINGS, NUMBERS, end_transport, raw_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

PROXIES = TrustedNetworks(["127.0.0.0/8"])
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x14"
    + bytes([192, 0, 2, 7, 198, 51, 100, 1])
    + struct.pack(">HH", 4711, 443)
    # TLS on the client's side: a record of type 0x20.
    + b"\x20\x00\x05\x01\x00\x00\x00\x00"
)


def url(running: Running, scheme: str = "ws") -> str:
    return f"{scheme}://{HOST}:{running.port}/"


@asynccontextmanager
async def joined(running: Running) -> AsyncIterator[Endpoint]:
    """Connect a client and complete its handshake."""
    async with connected(running.port, opening=request(running.port)) as client:
        await client.expect(AcceptConnection)
        yield client


async def gone(reader: asyncio.StreamReader) -> bool:
    """Return whether the other end drops the connection silently."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


# -- messages -------------------------------------------------------------------------------------


def test_messages_are_echoed() -> None:
    async def scenario() -> None:
        async with serving() as running:
            async with joined(running) as client:
                await client.send(TextMessage("one"), BytesMessage(b"\x00two"), Ping(b"?"))
                assert await client.expect(Pong) == Pong(b"?")
                assert [await client.message(), await client.message()] == ["one", b"\x00two"]
                await client.send(CloseConnection(1000, "bye"))
                assert await client.expect(CloseConnection) == CloseConnection(1000, "bye")
                assert await client.end() == b""
            [closed] = await running.closed()
            [opened] = await running.opened()
        assert opened.cid == closed.cid == 1
        assert (closed.address, closed.opened, closed.closed.cause) == (HOST, True, Cause.REMOTE)
        assert closed.closed.code == 1000

    run(scenario())


def test_flood_of_small_messages_is_answered_in_order() -> None:
    async def scenario() -> None:
        texts = [TextMessage(str(number)) for number in range(5000)]
        async with serving() as running, joined(running) as client:
            await client.send(*texts)
            assert [await client.message() for _ in texts] == [text.data for text in texts]

    run(scenario())


def test_client_that_does_not_read_is_not_read() -> None:
    limits = Limits(max_message_size=1 << 20, max_outgoing=4 << 20)
    size, count = 1 << 18, 64

    async def scenario() -> None:
        config = EndpointConfig(session=SessionConfig(limits=limits))
        async with serving(config) as running, joined(running) as client:
            for number in range(count):
                message = BytesMessage(bytes([number]) * size)
                # Without back-pressure this would end with 1008.
                client.writer.write(client.connection.send(message))
            for number in range(count):
                assert await client.message() == bytes([number]) * size

    run(scenario())


def test_paused_session_is_not_read() -> None:
    async def scenario() -> None:
        def handler(cid: int, event: Event) -> None:
            if event == TextMessage("wait"):
                running.endpoint.pause(cid, running.clock())

        async with (
            serving(handler=handler) as running,
            joined(running) as client,
            joined(running) as other,
        ):
            cid = (await running.opened())[0].cid
            await client.send(TextMessage("wait"))
            assert await client.message() == "wait"
            await client.send(TextMessage("go"), TextMessage("on"))
            await other.send(TextMessage("meanwhile"))
            assert await other.message() == "meanwhile"
            # Whatever else is due.
            running.server.wake()
            running.server.wake()
            assert (cid, TextMessage("go")) not in running.events
            running.endpoint.resume(cid, running.clock())
            running.server.pump()
            assert [await client.message() for _ in range(2)] == ["go", "on"]
            # An unknown connection is ignored.
            running.endpoint.pause(99, running.clock())
            running.endpoint.resume(99, running.clock())

    run(scenario())


@pytest.mark.parametrize("client_session", [None, SessionConfig()])
def test_session_is_told_when_there_is_room_again(client_session: SessionConfig | None) -> None:
    async def scenario() -> None:
        limits = Limits(high_water=1000, max_outgoing=None)
        config = EndpointConfig(SessionConfig(limits=limits), client_session=client_session)
        async with serving(config) as running, joined(running) as client:
            cid = (await running.opened())[0].cid
            session = running.endpoint.registry.get(cid).session  # type: ignore[union-attr]
            sent = 0
            while session.writable:
                running.endpoint.send(cid, BytesMessage(bytes(900)), running.clock())
                running.server.pump()
                sent += 1
            assert Writable(cid) not in [event for _, event in running.events]
            for _ in range(sent):
                assert await client.message() == bytes(900)
            # Once when its bytes were handed out, and once when they were written.
            assert await running.seen(Writable, 2) == [Writable(cid)] * 2
            assert session.writable

    run(scenario())


def test_failing_handler_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def handler(cid: int, event: Event) -> None:
        if event == TextMessage("fail"):
            raise RuntimeError("out of order")

    async def scenario() -> None:
        async with (
            serving(handler=handler) as running,
            dial(url(running)) as other,
            dial(url(running)) as websocket,
        ):
            await websocket.send("fail")
            with pytest.raises(ConnectionClosedError):
                await websocket.recv()
            assert (websocket.close_code, websocket.close_reason) == (1011, "internal error")
            await other.send("still here")
            assert await other.recv() == "still here"

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert caplog.messages == ["handler-failed connection=2"]


def test_handler_may_fail_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    def handler(cid: int, event: Event) -> None:
        raise RuntimeError("always")

    async def scenario() -> None:
        async with serving(handler=handler) as running:
            with pytest.raises(ConnectionClosedError):
                async with dial(url(running)) as websocket:
                    await websocket.recv()
            await running.closed()

    run(scenario())
    assert caplog.messages == ["handler-failed connection=1"] * 2


def test_peer_that_breaks_the_handler_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(cid: int, event: Event) -> None:
        if isinstance(event, TextMessage):
            raise RuntimeError("out of order")

    async def scenario() -> None:
        async with serving(handler=handler) as running:
            async with joined(running) as client:
                await client.send(*[TextMessage("fail")] * 100)
                assert await client.expect(CloseConnection) == CloseConnection(
                    1011, "internal error"
                )
            await running.closed()
            assert [type(event) for _, event in running.events] == [Opened, TextMessage, Closed]

    run(scenario())
    assert caplog.messages == ["handler-failed connection=1"]


# -- admission ------------------------------------------------------------------------------------


def test_identity_may_be_decided_later() -> None:
    policy = TokenPolicy([TokenSource(TokenPlace.QUERY, "token")], lambda question: LATER)
    config = EndpointConfig(policies=PolicyChain([policy]))

    async def scenario() -> None:
        asked: asyncio.Queue[tuple[int, object]] = asyncio.Queue()

        def handler(cid: int, event: Event) -> None:
            if isinstance(event, AdmissionPending):
                asked.put_nowait((cid, event.question))

        async def find_out(server: EndpointServer) -> None:
            for _ in range(3):
                cid, question = await asked.get()
                assert isinstance(question, TokenQuestion)
                answer = Identity("alice") if question.token == "hers" else None
                server.dispatch(cid, server.endpoint.decide(cid, answer, server.now()))

        async with serving(config, handler=handler) as running:
            running.server.spawn(find_out(running.server))
            async with dial(f"{url(running)}?token=hers") as websocket:
                [opened] = await running.opened()
                assert opened.identity == Identity("alice")
                await websocket.send("hello")
                assert await websocket.recv() == "hello"
            for token, status in (("his", 403), ("her s", 403)):
                with pytest.raises(InvalidStatus) as refused:
                    await dial(f"{url(running)}?token={quote(token)}")
                assert refused.value.response.status_code == status

    run(scenario())


def test_questions_of_policies_are_answered_by_resolve() -> None:
    policy = TokenPolicy([TokenSource(TokenPlace.QUERY, "token")], lambda question: LATER)
    config = EndpointConfig(policies=PolicyChain([policy]))

    async def resolve(question: object) -> Identity | None:
        assert isinstance(question, TokenQuestion)
        if question.token == "none":
            raise RuntimeError("no database")
        return Identity("alice") if question.token == "hers" else None

    async def scenario() -> None:
        async with serving(config, resolve=resolve) as running:
            async with dial(f"{url(running)}?token=hers") as websocket:
                [opened] = await running.opened()
                assert opened.identity == Identity("alice")
                await websocket.send("hello")
                assert await websocket.recv() == "hello"
            for token, status in (("his", 403), ("none", 503)):
                with pytest.raises(InvalidStatus) as refused:
                    await dial(f"{url(running)}?token={token}")
                assert refused.value.response.status_code == status

    run(scenario())


# -- endings --------------------------------------------------------------------------------------


def test_messages_before_the_end_of_input_are_answered() -> None:
    async def scenario() -> None:
        async with serving() as running:
            async with joined(running) as client:
                await client.send(TextMessage("last words"))
                client.writer.write_eof()
                assert await client.message() == "last words"
                assert await client.end() == b""
            [closed] = await running.closed()
        assert (closed.closed.code, closed.closed.cause) == (1006, Cause.END_OF_INPUT)

    run(scenario())


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_message_of_a_burst_arrives_then_the_peers_end(ending: str) -> None:
    """More frames than one call parses, of a peer that ends TCP at once."""
    last, way, code = ENDINGS[ending]

    async def scenario() -> None:
        async with serving() as running:
            sock = await raw_client(running.port)
            await asyncio.get_running_loop().sock_sendall(sock, BURST + BURST + last)
            await end_transport(sock, way)
            [closed] = await running.closed()
            assert closed.closed.code == code
            assert [event.data for event in await running.seen(TextMessage)] == NUMBERS * 2

    run(scenario())


def test_close_frame_survives_unread_bytes() -> None:
    """Closing a socket with unread bytes would reset it, and lose the close frame."""

    async def scenario() -> None:
        config = EndpointConfig(session=SessionConfig(limits=Limits(max_message_size=1000)))
        async with serving(config) as running:
            async with joined(running) as client:
                await client.send(BytesMessage(bytes(8 << 20)))
                closing = await client.expect(CloseConnection)
                assert closing.code == 1009
            await running.closed()

    run(scenario())


def test_peer_that_never_ends_its_side_is_dropped() -> None:
    async def scenario() -> None:
        async with serving() as running, joined(running) as client:
            await client.send(CloseConnection(1000))
            await client.expect(CloseConnection)
            assert await client.end() == b""
            # The close deadline, and the tolerance of a pass.
            running.advance(6)
            [closed] = await running.closed()
            assert closed.closed.cause is Cause.REMOTE
            while running.server._transports:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)

    run(scenario())


def test_lingering_transport_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_sip.adapters.asyncio.transport._LINGER", 0.01)
    # It is read while the answer waits; otherwise its end of input would not be noticed.
    roomy = EndpointConfig(session=SessionConfig(limits=Limits(high_water=1 << 20)))

    async def scenario() -> None:
        async with serving(roomy) as running, joined(running) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            [peer] = running.server._transports
            sock = peer.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            payload = BytesMessage(bytes(1 << 19))
            client.writer.write(client.connection.send(payload))
            # It asks for an answer, ends its output, and does not read.
            client.writer.write_eof()
            await running.closed()
            while running.server._transports:  # noqa: ASYNC110  # it is the test that looks
                await asyncio.sleep(0.005)

    run(scenario())


def test_slow_reader_of_a_large_message_is_not_dropped() -> None:
    """Neither because of a full transport, nor because of a Ping that waits in it."""

    async def scenario() -> None:
        async with serving() as running, joined(running) as client:
            [opened] = await running.opened()
            [peer] = running.server._transports
            running.endpoint.send(opened.cid, BytesMessage(bytes(1 << 24)), running.clock())
            running.server.pump()
            pauses = 0
            while before := peer.transport.get_write_buffer_size():
                while peer.transport.get_write_buffer_size() >= before:
                    assert await client.reader.read(1 << 16)
                running.advance(19)
                pauses += 1
            assert pauses > 5
            assert not [event for _, event in running.events if isinstance(event, Closed)]

    run(scenario())


def test_full_transport_is_not_read_even_if_its_session_has_room() -> None:
    async def scenario() -> None:
        async with serving() as running, joined(running):
            [peer] = running.server._transports
            peer._full = True
            peer.transport.pause_reading()
            peer.read_if_wanted()
            assert not peer.transport.is_reading()
            peer._full = False
            peer.read_if_wanted()
            assert peer.transport.is_reading()

    run(scenario())


def test_idle_handshake_is_dropped() -> None:
    async def scenario() -> None:
        async with serving() as running:
            async with connected(running.port) as client:
                while not len(running.endpoint):  # noqa: ASYNC110  # turns of the loop
                    await asyncio.sleep(0)
                running.advance(10)
                assert (await client.reader.read()).startswith(b"HTTP/1.1 408 ")
            [closed] = await running.closed()
        assert (closed.opened, closed.closed.cause) == (False, Cause.OPEN_TIMEOUT)

    run(scenario())


def test_keepalive_follows_the_clock() -> None:
    keepalive = KeepaliveConfig(interval=30, answer_timeout=20, application_data=b"there?")

    async def scenario() -> None:
        config = EndpointConfig(session=SessionConfig(keepalive=keepalive))
        async with serving(config) as running:
            async with joined(running) as client:
                # An interval of silence, and the delay that spreads connections.
                running.advance(60)
                assert await client.expect(Ping) == Ping(b"there?")
                running.advance(20)
                closing = await client.expect(CloseConnection)
                assert (closing.code, closing.reason) == (1011, "keep-alive timed out")
            [closed] = await running.closed()
        assert closed.closed.cause is Cause.KEEPALIVE

    run(scenario())


def test_drain_closes_all_connections() -> None:
    async def scenario() -> None:
        async with serving() as running:
            async with dial(url(running)) as one, dial(url(running)) as two:
                running.server.stop_listening()
                draining = asyncio.ensure_future(running.server.drain(10))
                await one.wait_closed()
                assert not draining.done()
                running.advance(4)
                await two.wait_closed()
                await draining
                assert (one.close_code, two.close_code) == (1001, 1001)
            causes = [closed.closed.cause for closed in await running.closed(2)]
        assert causes == [Cause.SHUTDOWN, Cause.SHUTDOWN]

    run(scenario())


def test_drain_is_bounded() -> None:
    async def scenario() -> None:
        async with serving() as running, joined(running) as client:
            draining = asyncio.ensure_future(running.server.drain(0.5))
            assert (await client.expect(CloseConnection)).code == 1001
            running.advance(0.5)
            await draining
            assert await gone(client.reader)

    run(scenario())


def test_two_hundred_connections_leak_nothing() -> None:
    async def one(running: Running) -> None:
        async with joined(running) as client:
            await client.send(TextMessage("hello"))
            assert await client.message() == "hello"
            await client.send(CloseConnection(1000))
            await client.expect(CloseConnection)

    async def scenario() -> None:
        config = EndpointConfig(max_per_address=None, max_handshaking_per_address=None)
        async with serving(config) as running:
            files = open_files()
            for _ in range(4):
                await asyncio.gather(*(one(running) for _ in range(50)))
            await running.closed(200)
            while running.server._transports:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            assert len(running.endpoint) == 0
            assert running.server._peers == {}
            assert running.endpoint.next_deadline() is None
            assert open_files() == files
            timers = running.server.loop._scheduled  # type: ignore[attr-defined]
            assert [timer for timer in timers if not timer.cancelled()] in (
                [],
                [running.server._timer],
            )

    # Without a timer of the test among those of the loop.
    asyncio.run(scenario())


# -- admission ------------------------------------------------------------------------------------


def test_connection_above_the_maximum_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(EndpointConfig(max_per_address=1)) as running:
            async with dial(url(running)), connected(running.port) as client:
                assert await gone(client.reader)
            assert len(running.endpoint.registry) in (0, 1)

    with caplog.at_level(logging.INFO):
        run(scenario())
    [told] = [record.msg for record in caplog.records]
    assert isinstance(told, Line)
    assert (told.event, told.about, list(told.fields)) == ("turned-away", HOST, ["peer", "reason"])
    assert str(told.fields["peer"]).startswith(f"{HOST}:")


@pytest.mark.parametrize(
    ("header", "secure", "port"),
    [(V1, False, 443), (V2, True, 443)],
    ids=["version 1", "version 2"],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_trusted_proxy_names_the_client(
    header: bytes, secure: bool, port: int, piecewise: bool
) -> None:
    async def scenario() -> None:
        async with serving(proxies=PROXIES) as running, connected(running.port) as client:
            opening = client.connection.send(request(running.port))
            if piecewise:
                for byte in header:
                    await client.write(bytes([byte]))
                await client.write(opening)
            else:
                await client.write(header + opening)
            await client.expect(AcceptConnection)
            [opened] = await running.opened()
            entry = running.endpoint.registry.get(opened.cid)
            assert entry is not None
            assert entry.peer == ("192.0.2.7", 4711)
            assert entry.local == ("198.51.100.1", port)
            assert entry.secure is secure

    run(scenario())


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_client_of_a_unix_socket_is_not_the_proxy_that_it_calls_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        async with serving(proxies=TrustedNetworks(["10.0.0.0/8"])) as running:
            await running.server.listen(unix="ws")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind("10.0.0.1")
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, "ws")
                reader, writer = await asyncio.open_unix_connection(sock=sock)
                writer.write(V1 + b"\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
                writer.close()

    run(scenario())


def test_proxy_headers_that_do_not_come_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        config = EndpointConfig(max_handshaking=2)
        async with serving(config, proxies=PROXIES) as running:
            half = [await asyncio.open_connection(HOST, running.port) for _ in range(3)]
            assert await half[2][0].read() == b""
            half[0][1].close()
            while len(running.server._announced) > 1:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)
            async with connected(running.port) as client:
                await client.write(V1 + client.connection.send(request(running.port)))
                await client.expect(AcceptConnection)
            for _, writer in half:
                writer.close()

    with caplog.at_level(logging.INFO):
        run(scenario())
    reason = 'reason="too many PROXY headers have not come yet"'
    [told] = [line for line in caplog.messages if line.startswith("proxy-refused ")]
    assert told.startswith("proxy-refused proxy=127.0.0.1:")
    assert told.endswith(reason)


def test_local_command_keeps_the_proxys_address() -> None:
    async def scenario() -> None:
        async with serving(proxies=PROXIES) as running, connected(running.port) as client:
            await client.write(b"PROXY UNKNOWN\r\n")
            await client.send(request(running.port))
            await client.expect(AcceptConnection)
            [opened] = await running.opened()
            entry = running.endpoint.registry.get(opened.cid)
            assert entry is not None
            assert entry.peer == client.writer.get_extra_info("sockname")

    run(scenario())


def test_untrusted_proxy_header_is_an_error() -> None:
    async def scenario() -> None:
        trusted = TrustedNetworks(["192.0.2.0/24"])
        async with serving(proxies=trusted) as running:
            async with joined(running):
                pass
            async with connected(running.port) as client:
                await client.write(V1 + b"\r\n")
                assert (await client.reader.read()).startswith(b"HTTP/1.1 400 ")

    run(scenario())


def test_missing_proxy_header_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with (
            serving(proxies=PROXIES) as running,
            connected(running.port, opening=request(running.port)) as client,
        ):
            assert await gone(client.reader)

    with caplog.at_level(logging.INFO):
        run(scenario())
    [told] = caplog.messages
    assert told.startswith(f"proxy-refused proxy={HOST}:")
    assert told.endswith(' reason="not a PROXY protocol header"')


def test_late_proxy_header_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_sip.adapters.asyncio.endpoint._PROXY_TIMEOUT", 0.01)

    async def scenario() -> None:
        async with serving(proxies=PROXIES) as running, connected(running.port) as client:
            await client.write(b"PROXY ")
            assert await gone(client.reader)

    run(scenario())


def test_client_of_a_proxy_counts_towards_the_maximum() -> None:
    async def scenario() -> None:
        config = EndpointConfig(max_connections=0)
        async with (
            serving(config, proxies=PROXIES) as running,
            connected(running.port) as client,
        ):
            await client.write(V1)
            await client.send(request(running.port))
            assert await gone(client.reader)

    run(scenario())


# -- TLS ------------------------------------------------------------------------------------------


def test_wss() -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as running:
            async with dial(url(running, "wss"), ssl=CLIENT_TLS, max_size=None) as websocket:
                for message in ("hello", bytes(1 << 19)):
                    await websocket.send(message)
                    assert await websocket.recv() == message
                [opened] = await running.opened()
                entry = running.endpoint.registry.get(opened.cid)
                assert entry is not None
                assert entry.secure
                assert running.server.tls_version(opened.cid) == "TLSv1.3"
            [closed] = await running.closed()
            assert running.server.tls_version(opened.cid) is None
            assert closed.closed.cause is Cause.REMOTE

    run(scenario())


def test_proxy_header_comes_before_tls() -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS, proxies=PROXIES) as running:
            sock = socket.create_connection((HOST, running.port))
            sock.sendall(V1)
            async with dial(url(running, "wss"), sock=sock, ssl=CLIENT_TLS) as websocket:
                await websocket.send("hello")
                assert await websocket.recv() == "hello"
                [opened] = await running.opened()
                entry = running.endpoint.registry.get(opened.cid)
                assert entry is not None
                assert (entry.peer, entry.secure) == (("192.0.2.7", 4711), True)

    run(scenario())


def test_failed_tls_handshake_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as running:
            async with connected(running.port) as client:
                await client.write(b"GET / HTTP/1.1\r\n\r\n")
                await client.reader.read()
            [closed] = await running.closed()
            assert not closed.opened

    with caplog.at_level(logging.INFO):
        run(scenario())
    [told] = [record.msg for record in caplog.records if record.name == "wsproto_sip.ws"]
    assert isinstance(told, Line)
    assert (told.event, told.about) == ("tls-failed", HOST)
    assert list(told.fields) == ["connection", "peer", "reason"]
    assert str(told.fields["peer"]).startswith(f"{HOST}:")


@pytest.mark.parametrize("end", ["deadline", "client", "close"])
def test_missing_tls_handshake_times_out(end: str) -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as running, connected(running.port) as client:
            while not len(running.endpoint):  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            if end == "deadline":
                running.advance(10)
                assert await gone(client.reader)
            elif end == "client":
                client.writer.close()
            elif end == "close":
                await running.server.close()
            [closed] = await running.closed()
            assert not closed.opened

    run(scenario())


def test_tls_on_a_lost_transport_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as running:
            spawn = running.server.spawn

            def lose(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                [peer] = running.server._transports
                peer.transport.abort()
                return spawn(coroutine)

            monkeypatch.setattr(running.server, "spawn", lose)
            async with connected(running.port) as client:
                assert await gone(client.reader)
            [closed] = await running.closed()
            assert not closed.opened

    run(scenario())


def test_slow_client_after_tls_has_the_handshake_deadline() -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as running:
            reader, writer = await asyncio.open_connection(HOST, running.port, ssl=CLIENT_TLS)
            [peer] = running.server._transports
            while peer._tls is not None:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
            writer.close()
            await running.closed()

    run(scenario())


# -- what a loop may do ---------------------------------------------------------------------------


def test_full_transport_may_be_lost() -> None:
    async def scenario() -> None:
        async with serving() as running, joined(running) as client:
            [peer] = running.server._transports
            peer.transport.abort()
            peer.pause_writing()
            peer.resume_writing()
            assert await gone(client.reader)
            [closed] = await running.closed()
            assert closed.closed.cause is Cause.END_OF_INPUT

    run(scenario())


def test_waking_without_deadlines() -> None:
    async def scenario() -> None:
        async with serving() as running:
            running.server.wake()
            assert running.server._timer is None

    run(scenario())


@pytest.mark.parametrize(
    ("info", "address"),
    [
        (("192.0.2.1", 4711), ("192.0.2.1", 4711)),
        (("2001:db8::1", 4711, 0, 0), ("2001:db8::1", 4711)),
        ("/run/socket", ("/run/socket", None)),
        # A peer that is gone already has none.
        (None, ("", None)),
    ],
)
def test_addresses(info: object, address: tuple[str, int | None]) -> None:
    transport = asyncio.BaseTransport({"peername": info, "sockname": info})
    assert _peer(transport) == _local(transport) == address


# -- other places to listen at ---------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "ws")

    async def scenario() -> None:
        async with serving() as running:
            assert await running.server.listen(unix=path) == [(path, 0)]
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
            [opened] = await running.opened()
            entry = running.endpoint.registry.get(opened.cid)
            assert entry is not None
            assert entry.local == (path, None)
            assert entry.peer[0].startswith("unix")
            writer.close()
            await running.closed()
            running.server.stop_listening()

    run(scenario())
    assert not os.path.exists(path)


@pytest.mark.parametrize("given", ["socket", "descriptor"])
def test_inherited_socket_is_served_next_to_another(given: str) -> None:
    sock = socket.create_server((HOST, 0))
    port = sock.getsockname()[1]

    async def scenario() -> None:
        async with serving() as running:
            inherited = sock if given == "socket" else sock.detach()
            assert await running.server.listen(sock=inherited) == [(HOST, port)]
            for number in (port, running.port):
                async with connected(number, opening=request(number)) as client:
                    await client.expect(AcceptConnection)

    run(scenario())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="ports cannot be shared")
def test_port_is_shared_with_another_listener() -> None:
    async def scenario() -> None:
        async with serving() as one, serving() as two:
            [(host, port)] = await one.server.listen(HOST, 0, reuse_port=True)
            assert await two.server.listen(HOST, port, reuse_port=True) == [(host, port)]
            with pytest.raises(OSError, match="address already in use"):
                await two.server.listen(HOST, port)
            async with connected(port, opening=request(port)) as client:
                await client.expect(AcceptConnection)

    run(scenario())


def test_connections_wait_until_they_are_accepted() -> None:
    async def scenario() -> None:
        async with serving() as running:
            [(_, port)] = await running.server.listen(HOST, 0, accept=False)
            async with connected(port, opening=request(port)) as client:
                # Accepted, and with this one the other would have been.
                async with connected(running.port, opening=request(running.port)) as other:
                    await other.expect(AcceptConnection)
                    assert running.server.transports == 1
                assert len(await running.opened()) == 1
                await running.server.accept()
                await client.expect(AcceptConnection)
            # There is nothing more to accept.
            await running.server.accept()
            await running.server.listen(HOST, 0, accept=False)

    run(scenario())


def test_two_places_at_once_are_refused() -> None:
    async def scenario() -> None:
        async with serving() as running:
            with pytest.raises(TypeError, match="name exactly one place"):
                await running.server.listen(HOST, 0, unix="/run/nowhere")

    run(scenario())


# -- connections of our own -----------------------------------------------------------------------


def test_connecting() -> None:
    async def scenario() -> None:
        async with serving() as there, serving() as here:
            cid = here.endpoint.connect(url(there), here.clock())
            here.endpoint.send(cid, TextMessage("hello"), here.clock())
            here.server.pump()
            await here.opened()
            # Both ends echo forever.
            await there.seen(TextMessage, 3)
            here.endpoint.close(cid, now=here.clock())
            here.server.pump()
            [closed] = await here.closed()
            assert closed.closed.code == 1000
            await there.closed()

    run(scenario())


def test_connecting_over_tls() -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as there, serving() as here:
            here.server.use_client_tls(CLIENT_TLS)
            here.endpoint.connect(url(there, "wss"), here.clock())
            here.server.pump()
            await asyncio.gather(here.opened(), there.opened())

    run(scenario())


def test_connecting_trusts_only_the_systems_certificates() -> None:
    async def scenario() -> None:
        async with serving(tls=SERVER_TLS) as there, serving() as here:
            here.endpoint.connect(url(there, "wss"), here.clock())
            here.server.pump()
            [closed] = await here.closed()
            assert not closed.opened

    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1:1", "host.invalid"])
def test_refused_connection_is_reported(host: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving() as running:
            running.endpoint.connect(f"ws://{host}/", running.clock())
            running.server.pump()
            [closed] = await running.closed()
            assert (closed.opened, closed.closed.cause) == (False, Cause.END_OF_INPUT)

    with caplog.at_level(logging.INFO):
        run(scenario())
    [told] = caplog.messages
    address = host if ":" in host else f"{host}:80"
    assert told.startswith(f"connect-failed connection=1 address={address} reason=")


def test_connecting_has_the_handshake_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with serving() as running:
            monkeypatch.setattr(running.server.loop, "sock_connect", never)
            running.endpoint.connect("ws://192.0.2.1/", running.clock())
            running.server.pump()
            await asyncio.sleep(0)
            running.advance(10)
            [closed] = await running.closed()
            assert closed.closed.cause is Cause.OPEN_TIMEOUT

    run(scenario())


def test_late_transport_is_dropped() -> None:
    async def scenario() -> None:
        async with serving() as there, serving() as here:
            cid = here.endpoint.connect(url(there), here.clock())
            here.server.pump()
            here.endpoint.close(cid, now=here.clock())
            here.endpoint.take_output()
            here.server.wake()
            await here.closed()
            await there.closed()
            assert [closed.opened for closed in await there.closed()] == [False]

    run(scenario())


@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
def test_closing_while_connecting_on_uvloop() -> None:
    """It does not wait for transports that uvloop will not report, however far they have come."""

    async def scenario() -> None:
        with socket.create_server((HOST, 0)) as listener:
            for turns in range(8):
                endpoint = server_endpoint.Endpoint(EndpointConfig(), now=0.0)
                server = EndpointServer(endpoint, lambda _cid, _event: None)
                endpoint.connect(f"ws://{HOST}:{listener.getsockname()[1]}/", server.now())
                server.pump()
                for _ in range(turns):
                    await asyncio.sleep(0)
                async with asyncio.timeout(BOUND):
                    await server.close()
                assert not server._transports

    uvloop: Any = import_module("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_transport_after_close_is_dropped() -> None:
    """It was accepted before the close: a closed server serves no client."""

    async def scenario() -> None:
        async with serving() as running:
            pass
        late = _Peer(running.server, None)
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            await loop.create_connection(lambda: late, sock=ours)
            assert len(running.endpoint) == 0
            assert await loop.sock_recv(theirs, 1) == b""
        await running.server.close()
        assert running.events == []

    run(scenario())

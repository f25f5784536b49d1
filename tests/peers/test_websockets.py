"""The websockets library as the peer, as client and as server."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("websockets")

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate as TheirDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Response
from websockets.typing import Subprotocol

from wsproto_sip import masking
from wsproto_sip.connection import Connection, ConnectionState, ConnectionType
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.frame_protocol import CloseReason
from wsproto_sip.utilities import LocalProtocolError

from ._support import (
    HOST,
    MESSAGES,
    NOISE,
    Endpoint,
    connected,
    message,
    rejection,
    request,
    run,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from websockets.http11 import Request as TheirRequest
    from websockets.protocol import Protocol

#: The four parameters of RFC 7692 §7.1, as keyword arguments for both libraries.
TAKEOVERS: list[dict[str, Any]] = [
    {"server_no_context_takeover": server, "client_no_context_takeover": client}
    for server, client in itertools.product((False, True), repeat=2)
]
WINDOWS: list[dict[str, Any]] = [
    {},
    {"server_max_window_bits": 9},
    {"client_max_window_bits": 9},
    {"server_max_window_bits": 12, "client_max_window_bits": 10},
    {"server_max_window_bits": 15, "client_max_window_bits": 15},
]
PARAMETERS = [takeover | window for takeover in TAKEOVERS for window in WINDOWS]


def naming(parameters: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in parameters.items() if value) or "none"


#: Messages to send with each set of parameters: repetitive ones, so that a window that was not
#: negotiated shows, and incompressible ones.
COMPRESSED: list[str | bytes] = [
    "abc" * 400,
    "abc" * 400,
    "",
    "ü🌍" * 9000,
    NOISE[:100000],
    b"abc" * 400,
]


#: The limits of the peers: incompressible messages grow when compressed, and websockets counts the
#: compressed size.
THEIR_LIMIT = 2 * 1024 * 1024


def client_of(port: int, **options: Any) -> connect:
    return connect(f"ws://{HOST}:{port}/", proxy=None, max_size=THEIR_LIMIT, **options)


async def their_echo(websocket: ServerConnection) -> None:
    async for data in websocket:
        await websocket.send(data)


def port_of(server: Any) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


def agreed(ours: PerMessageDeflate, theirs: Protocol, *, as_server: bool) -> None:
    """Check that both sides have negotiated the same parameters."""
    (extension,) = theirs.extensions
    assert isinstance(extension, TheirDeflate)
    local = (extension.local_no_context_takeover, extension.local_max_window_bits)
    remote = (extension.remote_no_context_takeover, extension.remote_max_window_bits)
    server = (ours.server_no_context_takeover, ours.server_max_window_bits)
    client = (ours.client_no_context_takeover, ours.client_max_window_bits)
    assert ours.enabled()
    assert (server, client) == ((remote, local) if as_server else (local, remote))


class TestTheirClient:
    """websockets connects to a server on WSConnection."""

    @pytest.mark.parametrize("whole", [False, True], ids=["streaming", "whole"])
    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_echo(self, compression: str | None, whole: bool) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[PerMessageDeflate()]))
            closing = await end.echo()
            assert closing == CloseConnection(1000, "")

        async def scenario() -> None:
            async with (
                serving(server, whole_messages=whole) as port,
                client_of(port, compression=compression) as websocket,
            ):
                assert bool(websocket.protocol.extensions) == (compression is not None)
                for name, data in MESSAGES.items():
                    await websocket.send(data)
                    assert await websocket.recv() == data, name
                # All of them in transit at once.
                small = [data for data in MESSAGES.values() if len(data) < 1000]
                for data in small:
                    await websocket.send(data)
                assert [await websocket.recv() for _ in small] == small

        run(scenario())

    @pytest.mark.parametrize("parameters", PARAMETERS, ids=naming)
    def test_deflate_with_their_offer(self, parameters: dict[str, Any]) -> None:
        deflate = PerMessageDeflate()

        async def server(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[deflate]))
            await end.echo()

        async def scenario() -> None:
            factory = ClientPerMessageDeflateFactory(**parameters)
            async with (
                serving(server) as port,
                client_of(port, compression=None, extensions=[factory]) as websocket,
            ):
                agreed(deflate, websocket.protocol, as_server=True)
                for data in COMPRESSED:
                    await websocket.send(data)
                    assert await websocket.recv() == data

        run(scenario())

    @pytest.mark.parametrize("parameters", PARAMETERS, ids=naming)
    def test_deflate_with_our_choice(self, parameters: dict[str, Any]) -> None:
        deflate = PerMessageDeflate(**parameters)

        async def server(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[deflate]))
            await end.echo()

        async def scenario() -> None:
            async with serving(server) as port, client_of(port) as websocket:
                agreed(deflate, websocket.protocol, as_server=True)
                (extension,) = websocket.protocol.extensions
                assert isinstance(extension, TheirDeflate)
                assert extension.remote_max_window_bits <= parameters.get(
                    "server_max_window_bits", 15
                )
                assert extension.local_max_window_bits <= parameters.get(
                    "client_max_window_bits", 15
                )
                for data in COMPRESSED:
                    await websocket.send(data)
                    assert await websocket.recv() == data

        run(scenario())

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_their_fragments_are_received(self, compression: str | None) -> None:
        got: list[str | bytes] = []

        async def server(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[PerMessageDeflate()]))
            got.append(await end.message())
            got.append(await end.message())
            await end.send(CloseConnection(1000))
            await end.expect(CloseConnection)

        async def scenario() -> None:
            async with serving(server) as port, client_of(port, compression=compression) as peer:
                await peer.send(["Grü", "", "ße", " und ", "Ende"])
                await peer.send(iter([b"\x00", NOISE[:70000], b""]))
                await peer.wait_closed()

        run(scenario())
        assert got == ["Grüße und Ende", b"\x00" + NOISE[:70000]]

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_our_fragments_are_received(self, compression: str | None) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[PerMessageDeflate()]))
            await end.send(
                TextMessage("Gr", message_finished=False),
                TextMessage("üße", message_finished=False),
                Ping(b"between"),
                TextMessage(" und Ende"),
                BytesMessage(b"", message_finished=False),
                BytesMessage(b"abc" * 1000, message_finished=True),
            )
            assert await end.expect(Pong) == Pong(b"between")
            await end.echo()

        async def scenario() -> None:
            async with serving(server) as port, client_of(port, compression=compression) as peer:
                pieces = [piece async for piece in peer.recv_streaming()]
                if compression is None:
                    assert pieces == ["Gr", "üße", " und Ende"]
                assert "".join(map(str, pieces)) == "Grüße und Ende"
                assert await peer.recv() == b"abc" * 1000

        run(scenario())

    def test_pings(self) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            assert await end.expect(Ping) == Ping(b"theirs")
            await end.send(Pong(b"theirs"), Ping(b"ours" * 31))
            assert await end.expect(Pong) == Pong(b"ours" * 31)
            await end.echo()

        async def scenario() -> None:
            async with serving(server) as port, client_of(port, ping_interval=None) as peer:
                await (await peer.ping(b"theirs"))

        run(scenario())

    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4999, "ü" * 61)])
    def test_their_close_is_answered(self, code: int, reason: str) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            assert await end.echo() == CloseConnection(code, reason)
            assert end.connection.state is ConnectionState.CLOSED

        async def scenario() -> None:
            async with serving(server) as port, client_of(port) as peer:
                await peer.close(code, reason)
                assert (peer.close_code, peer.close_reason) == (code, reason)
                assert peer.protocol.close_rcvd_then_sent is False

        run(scenario())

    @pytest.mark.parametrize(
        ("code", "reason", "shown"),
        [
            (1000, None, (1000, "")),
            (1013, "later", (1013, "later")),
            (3000, "ü" * 100, (3000, "ü" * 61)),
            (CloseReason.NO_STATUS_RCVD, None, (1005, "")),
            (1006, "lost", (1000, "lost")),
            (1015, None, (1000, "")),
        ],
    )
    def test_our_close_is_answered(
        self, code: int, reason: str | None, shown: tuple[int, str]
    ) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            await end.send(CloseConnection(code, reason))
            answer = await end.expect(CloseConnection)
            assert answer.code == shown[0]
            assert end.connection.state is ConnectionState.CLOSED

        async def scenario() -> None:
            async with serving(server) as port, client_of(port) as peer:
                with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
                    await peer.recv()
                assert (peer.close_code, peer.close_reason) == shown
                assert peer.protocol.close_rcvd_then_sent is True

        run(scenario())

    @pytest.mark.parametrize("code", [0, 1, 999, 1004, 2999, 5000, 99999])
    def test_invalid_close_codes_are_not_sent(self, code: int) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            with pytest.raises(LocalProtocolError):
                end.connection.send(CloseConnection(code))
            await end.echo()

        async def scenario() -> None:
            # The connection is unaffected.
            async with serving(server) as port, client_of(port) as peer:
                await peer.send("still open")
                assert await peer.recv() == "still open"

        run(scenario())

    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (b"\x81\x85\x00\x00\x00\x00\xff\xff\xff\xff\xff", 1007),
            (b"\x83\x80\x00\x00\x00\x00", 1002),
            (b"\x81\x05hello", 1002),
            (b"\x88\x82\x00\x00\x00\x00\x03\xee", 1002),
            (b"\x80\x80\x00\x00\x00\x00", 1002),
            (b"\xc1\x80\x00\x00\x00\x00", 1002),
            (b"\x82\xff" + (1 << 40).to_bytes(8) + b"\x00\x00\x00\x00", 1009),
        ],
        ids=["not UTF-8", "opcode", "unmasked", "close 1006", "lone end", "RSV1", "1 TiB"],
    )
    def test_we_fail_invalid_frames(self, frame: bytes, code: int) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            assert await end.message() == "before"
            failure = await end.expect(CloseConnection)
            assert failure.code == code
            await end.send(failure)
            assert end.connection.state is ConnectionState.CLOSED

        async def scenario() -> None:
            async with (
                serving(server, whole_messages=True) as port,
                client_of(port, compression=None) as peer,
            ):
                await peer.send("before")
                peer.transport.write(frame)
                with pytest.raises(ConnectionClosedError) as caught:
                    await peer.recv()
                assert caught.value.rcvd is not None
                assert caught.value.rcvd.code == code
                assert caught.value.rcvd.reason

        run(scenario())

    def test_they_fail_invalid_frames(self) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            await end.write(b"\x81\x02\xc3(")
            failure = await end.echo()
            assert failure.code == 1007

        async def scenario() -> None:
            async with serving(server) as port, client_of(port) as peer:
                with pytest.raises(ConnectionClosedError) as caught:
                    await peer.recv()
                assert caught.value.sent is not None
                assert caught.value.sent.code == 1007

        run(scenario())

    @pytest.mark.parametrize(
        ("status", "body"),
        [(403, [b"no ", b"entry"]), (404, []), (302, []), (503, [b"x" * 100000, b""])],
    )
    def test_rejection(self, status: int, body: list[bytes]) -> None:
        headers = [(b"x-reason", b"because"), (b"content-length", b"%d" % sum(map(len, body)))]

        async def server(end: Endpoint) -> None:
            await end.expect(Request)
            await end.send(RejectConnection(status, headers, has_body=bool(body)))
            for number, piece in enumerate(body):
                await end.send(RejectData(piece, body_finished=number == len(body) - 1))

        async def scenario() -> None:
            async with serving(server) as port:
                with pytest.raises(InvalidStatus) as caught:
                    await client_of(port)
                response = caught.value.response
                assert response.status_code == status
                assert response.headers["x-reason"] == "because"
                assert response.body == b"".join(body)

        run(scenario())

    def test_subprotocol_path_and_headers(self) -> None:
        seen: list[Request] = []

        async def server(end: Endpoint) -> None:
            headers = [(b"x-answer", b"42")]
            seen.append(
                await end.accept(AcceptConnection(subprotocol="sip", extra_headers=headers))
            )
            await end.echo()

        async def scenario() -> int:
            async with serving(server) as port:
                async with connect(
                    f"ws://{HOST}:{port}/a%20b?c=d",
                    proxy=None,
                    compression=None,
                    subprotocols=[Subprotocol("msrp"), Subprotocol("sip")],
                    origin=None,
                    additional_headers={"X-Question": "6 x 7"},
                ) as peer:
                    assert peer.subprotocol == "sip"
                    assert peer.response is not None
                    assert peer.response.headers["x-answer"] == "42"
                return port

        port = run(scenario())
        assert seen[0].target == "/a%20b?c=d"
        assert seen[0].host == f"{HOST}:{port}"
        assert seen[0].subprotocols == ["msrp", "sip"]
        assert seen[0].extensions == []
        assert (b"x-question", b"6 x 7") in seen[0].extra_headers

    def test_lost_peer_is_reported(self) -> None:
        async def server(end: Endpoint) -> None:
            await end.accept()
            assert await end.expect(CloseConnection) == CloseConnection(1006)
            assert end.connection.state is ConnectionState.CLOSED

        async def scenario() -> None:
            async with serving(server) as port, client_of(port) as peer:
                peer.transport.close()
                await peer.wait_closed()

        run(scenario())


class TestTheirServer:
    """A client on WSConnection connects to websockets."""

    @pytest.mark.parametrize("whole", [False, True], ids=["streaming", "whole"])
    @pytest.mark.parametrize("offers", [[], [PerMessageDeflate]], ids=["plain", "deflate"])
    def test_echo(self, offers: Sequence[type[PerMessageDeflate]], whole: bool) -> None:
        extensions = [offer() for offer in offers]

        async def scenario() -> None:
            async with (
                serve(their_echo, HOST, 0, max_size=THEIR_LIMIT) as server,
                connected(
                    port_of(server),
                    opening=request(port_of(server), extensions=extensions),
                    whole_messages=whole,
                ) as end,
            ):
                accepted = await end.expect(AcceptConnection)
                assert accepted.extensions == extensions
                for name, data in MESSAGES.items():
                    await end.send(message(data))
                    assert await end.message() == data, name
                await end.send(CloseConnection(1000, "done"))
                assert await end.expect(CloseConnection) == CloseConnection(1000, "done")
                assert end.connection.state is ConnectionState.CLOSED
                assert await end.end() == b""

        run(scenario())

    @pytest.mark.parametrize("parameters", PARAMETERS, ids=naming)
    @pytest.mark.parametrize("side", ["our offer", "their answer"])
    def test_deflate(self, side: str, parameters: dict[str, Any]) -> None:
        ours = PerMessageDeflate(**(parameters if side == "our offer" else {}))
        theirs = ServerPerMessageDeflateFactory(**({} if side == "our offer" else parameters))

        protocols: list[Protocol] = []

        async def handler(websocket: ServerConnection) -> None:
            protocols.append(websocket.protocol)
            await their_echo(websocket)

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0, compression=None, extensions=[theirs]) as server,
                connected(
                    port_of(server), opening=request(port_of(server), extensions=[ours])
                ) as end,
            ):
                assert (await end.expect(AcceptConnection)).extensions == [ours]
                assert ours.server_max_window_bits <= parameters.get("server_max_window_bits", 15)
                assert ours.client_max_window_bits <= parameters.get("client_max_window_bits", 15)
                for data in COMPRESSED:
                    await end.send(message(data))
                    assert await end.message() == data
                agreed(ours, protocols[0], as_server=False)

        run(scenario())

    @pytest.mark.parametrize("offers", [[], [PerMessageDeflate]], ids=["plain", "deflate"])
    def test_fragments(self, offers: Sequence[type[PerMessageDeflate]]) -> None:
        pieces: list[Any] = []

        async def handler(websocket: ServerConnection) -> None:
            pieces.extend([piece async for piece in websocket.recv_streaming()])

            async def parts() -> AsyncIterator[str]:
                yield "Grü"
                yield ""
                yield "ße"

            await websocket.send(parts())

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(
                    port_of(server),
                    opening=request(port_of(server), extensions=[offer() for offer in offers]),
                ) as end,
            ):
                await end.expect(AcceptConnection)
                await end.send(
                    BytesMessage(b"ab" * 100, message_finished=False),
                    Pong(b"unasked"),
                    BytesMessage(b"", message_finished=False),
                    BytesMessage(b"c"),
                )
                assert await end.message() == "Grüße"
                assert await end.expect(CloseConnection) == CloseConnection(1000, "")

        run(scenario())
        if not offers:
            assert pieces == [b"ab" * 100, b"", b"c"]
        assert b"".join(pieces) == b"ab" * 100 + b"c"

    def test_pings(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            await (await websocket.ping(b"theirs"))
            await websocket.close(1000, "pinged")

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                await end.send(Ping(b"ours"))
                assert await end.expect(Ping) == Ping(b"theirs")
                assert await end.expect(Pong) == Pong(b"ours")
                await end.send(Pong(b"theirs"))
                assert await end.expect(CloseConnection) == CloseConnection(1000, "pinged")

        run(scenario())

    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "oh"), (4000, "ü" * 61)])
    def test_their_close_is_answered(self, code: int, reason: str) -> None:
        after: list[tuple[int | None, str | None]] = []

        async def handler(websocket: ServerConnection) -> None:
            await websocket.close(code, reason)
            after.append((websocket.close_code, websocket.close_reason))

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                assert await end.echo() == CloseConnection(code, reason)
                assert end.connection.state is ConnectionState.CLOSED
                assert await end.end() == b""

        run(scenario())
        assert after == [(code, reason)]

    @pytest.mark.parametrize(
        ("code", "reason"), [(1000, "bye"), (3999, "ü" * 61), (CloseReason.NO_STATUS_RCVD, None)]
    )
    def test_our_close_is_answered(self, code: int, reason: str | None) -> None:
        after: list[tuple[int | None, str | None]] = []

        async def handler(websocket: ServerConnection) -> None:
            await websocket.wait_closed()
            after.append((websocket.close_code, websocket.close_reason))

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                await end.send(CloseConnection(code, reason))
                answer = await end.expect(CloseConnection)
                assert (answer.code, answer.reason or "") == (code, reason or "")
                assert await end.end() == b""

        run(scenario())
        assert after == [(code, reason or "")]

    def test_subprotocol(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            assert websocket.subprotocol == "sip"

        async def scenario() -> None:
            sip = [Subprotocol("sip")]
            async with serve(handler, HOST, 0, subprotocols=sip) as server:
                opening = request(port_of(server), subprotocols=["msrp", "sip"])
                async with connected(port_of(server), opening=opening) as end:
                    assert (await end.expect(AcceptConnection)).subprotocol == "sip"
                    assert await end.expect(CloseConnection) == CloseConnection(1000, "")

        run(scenario())

    def test_server_without_our_subprotocol(self) -> None:
        async def scenario() -> None:
            async with serve(their_echo, HOST, 0, subprotocols=[Subprotocol("sip")]) as server:
                opening = request(port_of(server), subprotocols=["msrp"])
                async with connected(port_of(server), opening=opening) as end:
                    status, headers, body = await rejection(end)
                    assert status == 400
                    assert b"subprotocol" in body
                    assert headers[b"content-length"] == b"%d" % len(body)

        run(scenario())

    @pytest.mark.parametrize(
        ("status", "body"), [(401, b"who?"), (302, b""), (500, b"\xff" * 100000)]
    )
    def test_rejection(self, status: int, body: bytes) -> None:
        headers = Headers({"WWW-Authenticate": "Basic", "Content-Length": str(len(body))})

        def reject(connection: ServerConnection, asked: TheirRequest) -> Response:
            return Response(status, "Reason", headers, body)

        async def scenario() -> None:
            async with (
                serve(their_echo, HOST, 0, process_request=reject) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                got_status, got_headers, got_body = await rejection(end)
                assert (got_status, got_body) == (status, body)
                assert got_headers[b"www-authenticate"] == b"Basic"

        run(scenario())

    def test_they_fail_invalid_frames(self) -> None:
        async def scenario() -> None:
            async with (
                serve(their_echo, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                await end.write(b"\x81\x01x")  # not masked
                failure = await end.echo()
                assert failure.code == 1002
                assert failure.reason

        run(scenario())

    def test_we_fail_invalid_frames(self) -> None:
        after: list[int | None] = []

        async def handler(websocket: ServerConnection) -> None:
            websocket.transport.write(b"\x82\x81\x00\x00\x00\x00x")  # masked
            await websocket.wait_closed()
            after.append(websocket.close_code)

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                assert (await end.echo()).code == 1002

        run(scenario())
        assert after == [1002]

    def test_lost_peer_is_reported(self) -> None:
        async def handler(websocket: ServerConnection) -> None:
            websocket.transport.abort()

        async def scenario() -> None:
            async with (
                serve(handler, HOST, 0) as server,
                connected(port_of(server), opening=request(port_of(server))) as end,
            ):
                await end.expect(AcceptConnection)
                try:
                    data = await end.reader.read()
                except ConnectionError:
                    data = b""
                assert data == b""
                end.connection.receive_data(None)
                assert await end.expect(CloseConnection) == CloseConnection(1006)

        run(scenario())


def test_mask_function_of_websockets_can_be_plugged_in() -> None:
    speedups = pytest.importorskip("websockets.speedups")
    server = Connection(ConnectionType.SERVER, whole_messages=True)
    client = Connection(ConnectionType.CLIENT, whole_messages=True)
    try:
        masking.use(speedups.apply_mask)
        for size in (0, 20, 800, 70_000):
            server.receive_data(client.send(BytesMessage(bytes(size))))
            assert list(server.events()) == [BytesMessage(bytes(size))]
    finally:
        masking.use(None)

"""hypercorn with wsproto_sip in place of wsproto, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("hypercorn")
pytest.importorskip("h2")

import h2.config
import h2.connection
import h2.events
import h2.settings
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate as TheirDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extended_connect import ClientExtendedConnect
from wsproto_sip.extensions import PerMessageDeflate

from ._asgi import Behaviour
from ._support import HOST, NOISE, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wsproto_sip.events import Event
    from wsproto_sip.typing import Headers

    from ._asgi import Server


class TestHypercorn(Behaviour):
    """The common tests of both servers, and RFC 8441."""

    server_name = "hypercorn"
    end_code = 1006  # hypercorn does not report the client's code

    @pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
    def test_echo_over_http2(self, server: Server, deflate: bool) -> None:
        async def scenario() -> None:
            async with http2(server.port) as client:
                offer = [(b"sec-websocket-extensions", b"permessage-deflate")] if deflate else []
                protocols = (b"sec-websocket-protocol", b"sip, x")
                headers = await client.ask("/echo", *offer, protocols)
                assert headers[b":status"] == b"200"
                assert headers[b"sec-websocket-protocol"] == b"sip"
                assert headers[b"x-echo"] == b"yes"
                assert (b"sec-websocket-extensions" in headers) == deflate
                assert b"sec-websocket-accept" not in headers
                websocket = Websockets(client, deflate=deflate)
                for payload in (b"", b"hello", NOISE[:30000], NOISE[:50000]):
                    websocket.protocol.send_binary(payload)
                    frame = await websocket.frame()
                    assert (frame.opcode, frame.fin, frame.data) == (Opcode.BINARY, True, payload)
                websocket.protocol.send_text("Grüße".encode())
                websocket.protocol.send_ping(b"payload")
                opcodes = {(await websocket.frame()).opcode for _ in range(2)}
                assert opcodes == {Opcode.TEXT, Opcode.PONG}
                websocket.protocol.send_close(3001, "bye")
                close = await websocket.frame()
                assert (close.opcode, bytes(close.data)) == (Opcode.CLOSE, b"\x0b\xb9bye")
            await server.told("/end")

        run(scenario())

    def test_two_streams_over_http2(self, server: Server) -> None:
        async def scenario() -> None:
            async with http2(server.port) as client:
                assert (await client.ask("/echo"))[b":status"] == b"200"
                websocket = Websockets(client)
                websocket.protocol.send_text(b"close 4001 enough")
                assert bytes((await websocket.frame()).data) == b"\x0f\xa1enough"
                assert (await client.ask("/scope?c=d"))[b":status"] == b"200"
                told = bytes((await Websockets(client).frame()).data)
                assert b'"http_version": "2"' in told
                assert b'"query_string": "c=d"' in told
            await server.told("/end")

        run(scenario())

    @pytest.mark.parametrize(("path", "status"), [("/refuse", 403), ("/response", 401)])
    def test_refusal_over_http2(self, server: Server, path: str, status: int) -> None:
        async def scenario() -> None:
            async with http2(server.port) as client:
                asking = ClientExtendedConnect()
                request = Request(host=client.authority, target=path)
                headers = await client.open(asking.request_headers(request, secure=False))
                answer = asking.receive_response(headers)
                assert isinstance(answer, RejectConnection)
                assert answer.status_code == status

        run(scenario())

    def test_our_client_over_http2(self, server: Server) -> None:
        async def scenario() -> None:
            async with http2(server.port) as client:
                asking = ClientExtendedConnect(whole_messages=True)
                request = Request(
                    host=client.authority,
                    target="/echo",
                    extensions=[PerMessageDeflate()],
                    subprotocols=["msrp"],
                )
                headers = await client.open(asking.request_headers(request, secure=False))
                answer = asking.receive_response(headers)
                assert isinstance(answer, AcceptConnection)
                assert answer.subprotocol == "msrp"
                assert len(answer.extensions) == 1
                connection = asking.connection

                async def next_event() -> Event:
                    while True:
                        for event in connection.events():
                            return event
                        connection.receive_data(await client.read())

                for message in (TextMessage("Grüße"), BytesMessage(NOISE[:60000])):
                    await client.write(connection.send(message))
                    assert await next_event() == message
                await client.write(connection.send(CloseConnection(1000, "done")))
                assert await next_event() == CloseConnection(1000, "done")
            await server.told("/end")

        run(scenario())


class Http2Client:
    """Streams of one HTTP/2 connection, one after another.

    Args:
        reader: The stream to read from.
        writer: The stream to write to.
        authority: Host and port.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str
    ) -> None:
        self.authority = authority
        self._reader = reader
        self._writer = writer
        configuration = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._http = h2.connection.H2Connection(configuration)
        self._http.initiate_connection()
        self._stream = 0
        self._response: Headers = []
        self._data = b""
        self._may_connect = False

    async def _receive(self) -> None:
        self._writer.write(self._http.data_to_send())
        data = await self._reader.read(65536)
        assert data, "the server has ended the connection"
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                # RFC 8441 §3
                code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
                self._may_connect = event.changed_settings[code].new_value == 1
            elif isinstance(event, h2.events.ResponseReceived):
                assert event.stream_id == self._stream
                self._response = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.DataReceived):
                if event.stream_id == self._stream:
                    self._data += event.data
                size = event.flow_controlled_length
                self._http.acknowledge_received_data(size, event.stream_id)

    async def open(self, headers: Headers) -> Headers:
        """Open a stream, which becomes the current one, and return the response's header list."""
        while not self._may_connect:
            await self._receive()
        self._stream = self._http.get_next_available_stream_id()
        self._response, self._data = [], b""
        self._http.send_headers(self._stream, headers)
        while not self._response:
            await self._receive()
        return self._response

    async def ask(self, path: str, *headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
        """Open a stream with extended CONNECT (RFC 8441 §4); return the header list."""
        response = await self.open(
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", self.authority.encode()),
                (b"sec-websocket-version", b"13"),
                *headers,
            ]
        )
        return dict(response)

    async def write(self, data: bytes) -> None:
        """Send bytes on the stream."""
        while data:
            window = self._http.local_flow_control_window(self._stream)
            size = min(window, self._http.max_outbound_frame_size, len(data))
            if size:
                self._http.send_data(self._stream, data[:size])
                data = data[size:]
            else:
                await self._receive()
        self._writer.write(self._http.data_to_send())

    async def read(self) -> bytes:
        """Return bytes from the stream; there must be some."""
        while not self._data:
            await self._receive()
        data, self._data = self._data, b""
        return data


class Websockets:
    """The protocol of websockets on the stream of a client.

    Args:
        client: The client.
        deflate: Whether permessage-deflate was negotiated.
    """

    def __init__(self, client: Http2Client, *, deflate: bool = False) -> None:
        self._client = client
        self._frames: list[Frame] = []
        self.protocol = ClientProtocol(parse_uri(f"ws://{HOST}/"), state=State.OPEN)
        if deflate:
            self.protocol.extensions = [TheirDeflate(False, False, 15, 15)]

    async def frame(self) -> Frame:
        """Send pending output, and return the next frame."""
        await self._client.write(b"".join(self.protocol.data_to_send()))
        while not self._frames:
            self.protocol.receive_data(await self._client.read())
            for event in self.protocol.events_received():
                assert isinstance(event, Frame)
                self._frames.append(event)
        return self._frames.pop(0)


@asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2Client]:
    """Connect a client with prior knowledge of HTTP/2 (RFC 9113 §3.3)."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Http2Client(reader, writer, f"{HOST}:{port}")
    finally:
        writer.close()
        await writer.wait_closed()

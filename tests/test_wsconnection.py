"""A connection with its handshake, from the first byte to the last."""

from __future__ import annotations

import gc
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests._wire import CONTINUATION, PING, TEXT, frame
from wsproto_sip.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError
from wsproto_sip.wsconnection import WSConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER
CONNECTING = ConnectionState.CONNECTING
OPEN = ConnectionState.OPEN
REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
CLOSED = ConnectionState.CLOSED
REJECTING = ConnectionState.REJECTING


def take(connection: WSConnection) -> list[Event]:
    return list(connection.events())


REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def opened(**options: Any) -> WSConnection:
    connection = WSConnection(SERVER, **options)
    connection.receive_data(REQUEST)
    assert [type(event) for event in connection.events()] == [Request]
    connection.send(AcceptConnection())
    return connection


def test_both_ends_from_the_first_byte_to_the_last() -> None:
    client, server = WSConnection(CLIENT), WSConnection(SERVER)
    assert client.client
    assert not server.client
    assert client.state is server.state is CONNECTING
    server.receive_data(client.send(Request(host="example.com", target="/")))
    assert server.state is CONNECTING
    (request,) = server.events()
    assert isinstance(request, Request)
    response = server.send(AcceptConnection())
    assert server.state is OPEN
    assert take(server) == []
    client.receive_data(response)
    assert client.state is OPEN
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection)
    server.receive_data(client.send(TextMessage("hello")))
    assert take(server) == [TextMessage("hello")]
    client.receive_data(server.send(CloseConnection(1000)))
    assert server.state is LOCAL_CLOSING
    (close,) = client.events()
    assert isinstance(close, CloseConnection)
    assert client.state is REMOTE_CLOSING
    server.receive_data(client.send(close.response()))
    assert take(server) == [CloseConnection(1000, "")]
    assert client.state is server.state is CLOSED
    client.receive_data(None)
    assert take(client) == []


def test_frames_after_the_request_and_after_the_response() -> None:
    server = WSConnection(SERVER)
    server.receive_data(REQUEST + frame(TEXT, b"early")[:4])
    assert [type(event) for event in server.events()] == [Request]
    response = server.send(AcceptConnection())
    server.receive_data(frame(TEXT, b"early")[4:])
    assert take(server) == [TextMessage("early")]
    client = WSConnection(CLIENT, entropy=lambda size: b"the sample nonce"[:size])
    client.send(Request(host="example.com", target="/chat"))
    client.receive_data(response + frame(TEXT, b"first", key=None))
    # Events of the handshake and of the connection, taken one by one.
    events = client.events()
    assert isinstance(next(events), AcceptConnection)
    client.receive_data(frame(TEXT, b"second", key=None))
    assert next(client.events()) == TextMessage("first")
    assert take(client) == [TextMessage("second")]
    assert take(client) == []


def test_handshake_parsed_by_another_server() -> None:
    headers = [
        (b"Host", b"example.com"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"),
    ]
    connection = WSConnection(SERVER)
    connection.initiate_upgrade_connection(headers, "/chat")
    (request,) = connection.events()
    assert isinstance(request, Request)
    assert request.target == "/chat"
    connection.send(AcceptConnection())
    connection.receive_data(frame(PING))
    assert take(connection) == [Ping()]
    with pytest.raises(LocalProtocolError, match="a request was received already"):
        connection.initiate_upgrade_connection(headers, "/chat")


def test_rejection() -> None:
    connection = WSConnection(SERVER)
    connection.receive_data(REQUEST)
    assert len(take(connection)) == 1
    connection.send(RejectConnection(status_code=403, has_body=True))
    assert connection.state is REJECTING
    connection.send(RejectData(b"no"))
    assert connection.state is CLOSED
    for event in (TextMessage("x"), CloseConnection(1000)):
        with pytest.raises(LocalProtocolError):
            connection.send(event)
    assert take(connection) == []


def test_invalid_request_is_refused() -> None:
    connection = WSConnection(SERVER)
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert isinstance(caught.value.event_hint, RejectConnection)
    connection.send(caught.value.event_hint)
    assert connection.state is CLOSED


def test_head_has_limits() -> None:
    connection = WSConnection(SERVER, limits=Limits(max_headers=3))
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(REQUEST)
    assert caught.value.event_hint == RejectConnection(431, caught.value.event_hint.headers)  # type: ignore[union-attr]


def test_options_reach_the_connection() -> None:
    connection = opened(
        whole_messages=True,
        text_as_bytes=True,
        max_frames=1,
        limits=Limits(max_message_size=4),
    )
    connection.receive_data(
        frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, b"cd") + frame(TEXT, b"abcde")
    )
    events: Iterator[Any] = connection.events()
    assert next(events).data == b"abcd"
    assert next(events) == CloseConnection(1009, "message of more than 4 bytes")
    client = WSConnection(CLIENT, entropy=lambda size: b"the sample nonce"[:size])
    request = client.send(Request(host="example.com", target="/chat"))
    assert b"dGhlIHNhbXBsZSBub25jZQ==" in request
    server = WSConnection(SERVER)
    server.receive_data(request)
    assert len(take(server)) == 1
    client.receive_data(server.send(AcceptConnection()))
    assert client.send(TextMessage("x")) == frame(TEXT, b"x", key=b"the ")


def test_compression_that_was_negotiated() -> None:
    client, server = WSConnection(CLIENT), WSConnection(SERVER)
    server.receive_data(
        client.send(Request(host="example.com", target="/", extensions=[PerMessageDeflate()]))
    )
    assert len(take(server)) == 1
    client.receive_data(server.send(AcceptConnection(extensions=[PerMessageDeflate()])))
    assert len(take(client)) == 1
    raw = server.send(TextMessage("hello " * 20))
    assert raw[0] == 0xC1
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(raw[2:] + b"\0\0\xff\xff") == b"hello " * 20
    client.receive_data(raw)
    assert take(client) == [TextMessage("hello " * 20)]


def test_open_connection_at_rest_is_small() -> None:
    connections = [opened() for _ in range(20)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        connections += [opened() for _ in range(100)]
        for connection in connections[20:]:
            connection.receive_data(frame(TEXT, b"x"))
            assert len(take(connection)) == 1
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 100 < 2000

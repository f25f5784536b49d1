"""Small programs as users would write them for wsproto.

``test_wsproto`` runs this file twice: as it is, and with ``wsproto_sip`` for ``wsproto`` in its
imports, which must be the only change needed. Each program returns what it observed.
"""

from __future__ import annotations

from collections.abc import Callable

from wsproto import ConnectionType, WSConnection
from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import SUPPORTED_EXTENSIONS, Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits
from wsproto.handshake import (
    WEBSOCKET_VERSION,
    H11Handshake,
    client_extensions_handshake,
    server_extensions_handshake,
)
from wsproto.typing import Headers
from wsproto.utilities import (
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    generate_accept_token,
    generate_nonce,
    split_comma_header,
)

PROGRAMS: list[Callable[[], list[object]]] = []


def program(function: Callable[[], list[object]]) -> Callable[[], list[object]]:
    """Mark a program."""
    PROGRAMS.append(function)
    return function


def pair() -> tuple[WSConnection, WSConnection]:
    """Return a client and a server after their handshake."""
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="example.com", target="/")))
    assert isinstance(next(server.events()), Request)
    client.receive_data(server.send(AcceptConnection()))
    assert isinstance(next(client.events()), AcceptConnection)
    return client, server


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """Return a client's frame with a key of zeros."""
    assert len(payload) < 126
    head = bytes((opcode | (0x80 if fin else 0), 0x80 | len(payload)))
    return head + bytes(4) + payload


@program
def handshake() -> list[object]:
    seen: list[object] = []
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    seen += [client.state.name, server.state.name]
    request = client.send(
        Request(
            host="example.com:8080",
            target="/chat?room=1",
            subprotocols=["sip", "msrp"],
            extensions=[PerMessageDeflate()],
            extra_headers=[(b"X-Token", b"abc"), (b"x-token", b"def")],
        )
    )
    for number in range(len(request)):
        server.receive_data(request[number : number + 1])
    for event in server.events():
        assert isinstance(event, Request)
        seen += [event.host, event.target, event.subprotocols]
        seen.append([value for name, value in event.extra_headers if name == b"x-token"])
        seen.append(len(event.extensions))
    seen.append(server.state.name)
    response = server.send(
        AcceptConnection(
            subprotocol="msrp",
            extensions=[PerMessageDeflate()],
            extra_headers=[(b"X-Answer", b"42")],
        )
    )
    seen.append(response.startswith(b"HTTP/1.1 101"))
    client.receive_data(response)
    for answer in client.events():
        assert isinstance(answer, AcceptConnection)
        seen += [answer.subprotocol, answer.extra_headers]
        seen += [(type(extension).__name__, extension.enabled()) for extension in answer.extensions]
    return [*seen, client.state.name, server.state.name]


@program
def conversation() -> list[object]:
    client, server = pair()
    seen: list[object] = []
    for event in (
        TextMessage(data="Grüße"),
        BytesMessage(data=b"\x00\xff"),
        Message(data="plain message"),
        Message(data=b"plain message"),
        TextMessage(data="", message_finished=False),
        TextMessage(data="one ", message_finished=False),
        Ping(payload=b"between"),
        TextMessage(data="two"),
        Ping(),
        Pong(payload=b"unasked"),
    ):
        server.receive_data(client.send(event))
        for got in server.events():
            seen.append(got)
            if isinstance(got, Message):
                client.receive_data(server.send(got))
            elif isinstance(got, Ping):
                client.receive_data(server.send(got.response()))
    seen += client.events()
    return seen


def not_empty(event: Event) -> bool:
    """Return whether an event has content: wsproto reports the first bytes of a character."""
    return not (isinstance(event, Message) and not event.data and not event.frame_finished)


@program
def pieces() -> list[object]:
    """Stream unfinished frames, in every division into two reads."""
    data = (
        masked(1, "Grüße".encode(), fin=False)
        + masked(9, b"ping")
        + masked(0, "你".encode()[:1], fin=False)
        + masked(0, "你".encode()[1:])
        + masked(2, b"bytes")
        + masked(1, b"")
    )
    seen: list[object] = []
    for cut in range(len(data) + 1):
        _, server = pair()
        for piece in (data[:cut], data[cut:]):
            server.receive_data(piece)
            seen += [event for event in server.events() if not_empty(event)]
    return seen


@program
def bytewise() -> list[object]:
    data = (
        masked(1, "añ你🌍".encode())
        + masked(2, b"abc", fin=False)
        + masked(0, b"")
        + masked(10, b"p")
    )
    _, server = pair()
    seen: list[object] = []
    for number in range(len(data)):
        server.receive_data(data[number : number + 1])
        seen += [event for event in server.events() if not_empty(event)]
    return seen


@program
def closing() -> list[object]:
    seen: list[object] = []
    for code, reason in (
        (CloseReason.NORMAL_CLOSURE, "bye"),
        (1001, None),
        (4999, "ü" * 61),
        (3000, ""),
    ):
        for first, second in (pair(), pair()[::-1]):
            second.receive_data(first.send(CloseConnection(code=code, reason=reason)))
            seen += [first.state.name, second.state.name]
            for event in second.events():
                assert isinstance(event, CloseConnection)
                seen += [event, second.state.name]
                first.receive_data(second.send(event.response()))
            seen += [*first.events(), first.state.name, second.state.name]
    return seen


@program
def relaying_an_end() -> list[object]:
    """Relay the end of a connection, however its other side ended."""
    ends = [CloseConnection(code=int(code), reason="lost") for code in (1005, 1006, 1015)]
    for data in (None, b"\x88\x00", b"\x88\x02\x03\xe8", b"\x88\x05\x0f\xa1bye"):
        client, _ = pair()
        client.receive_data(data)
        for event in client.events():
            assert isinstance(event, CloseConnection)
            ends += [event, event.response(), CloseConnection(code=event.code)]
    seen: list[object] = []
    for end in ends:
        client, server = pair()
        data = server.send(end)
        client.receive_data(data)
        seen += [data, *client.events()]
    return seen


@program
def end_of_input() -> list[object]:
    client, server = pair()
    server.receive_data(client.send(TextMessage(data="half", message_finished=False)))
    seen: list[object] = [*server.events(), server.state.name]
    server.receive_data(None)
    return [*seen, *server.events(), server.state.name]


@program
def answers_before_the_close() -> list[object]:
    """Answer a message that arrives in one read with a close frame."""
    client, server = pair()
    data = client.send(TextMessage(data="question")) + client.send(CloseConnection(code=1000))
    server.receive_data(data)
    seen: list[object] = []
    for event in server.events():
        seen += [event, server.state.name]
        if isinstance(event, TextMessage):
            client.receive_data(server.send(TextMessage(data="answer")))
        elif isinstance(event, CloseConnection):
            client.receive_data(server.send(event.response()))
    return [*seen, *client.events(), client.state.name, server.state.name]


@program
def what_may_not_be_sent() -> list[object]:
    seen: list[object] = []

    def attempt(connection: WSConnection, event: Event) -> None:
        try:
            connection.send(event)
        except LocalProtocolError as error:
            seen.append([type(error).__name__, isinstance(error, ProtocolError)])
        else:
            seen.append("sent")

    _, server = pair()
    server.send(CloseConnection(code=1000))
    for event in (TextMessage(data="late"), Ping(), Pong(), CloseConnection(code=1000)):
        attempt(server, event)
    attempt(WSConnection(ConnectionType.CLIENT), TextMessage(data="early"))
    return seen


@program
def protocol_errors() -> list[object]:
    seen: list[object] = []
    for data in (
        b"\x83\x80\x00\x00\x00\x00",
        b"\x81\x01x",
        masked(0, b""),
        masked(9, b"", fin=False),
        masked(1, b"\xff"),
        masked(8, b"\x03"),
        masked(8, b"\x03\xee"),
        masked(1, b"", fin=False) + masked(2, b""),
        b"\xc1\x80\x00\x00\x00\x00",
    ):
        _, server = pair()
        server.receive_data(masked(1, b"before") + data)
        for event in server.events():
            # The messages differ between the libraries.
            code = int(event.code) if isinstance(event, CloseConnection) else None
            seen.append((type(event).__name__, code))
    return seen


@program
def rejection() -> list[object]:
    seen: list[object] = []
    for bodies in ((), (b"no entry",), (b"no ", b"entry", b"")):
        client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
        server.receive_data(client.send(Request(host="example.com", target="/")))
        list(server.events())
        headers = [(b"x-why", b"closed"), (b"content-length", b"%d" % sum(map(len, bodies)))]
        reject = RejectConnection(status_code=403, headers=headers, has_body=bool(bodies))
        client.receive_data(server.send(reject))
        for number, body in enumerate(bodies):
            last = number == len(bodies) - 1
            client.receive_data(server.send(RejectData(data=body, body_finished=last)))
        got, *pieces = client.events()
        assert isinstance(got, RejectConnection)
        seen += [got.status_code, dict(got.headers)[b"x-why"]]
        data = [piece for piece in pieces if isinstance(piece, RejectData)]
        seen += [len(data) == len(pieces), b"".join(bytes(piece.data) for piece in data)]
        seen += [data[-1].body_finished, client.state.name, server.state.name]
    return seen


@program
def bad_requests() -> list[object]:
    seen: list[object] = []
    for line in (
        b"Sec-WebSocket-Version: 12",
        b"Sec-WebSocket-Version: 13\r\nUpgrade: h2c",
        b"no header at all",
    ):
        server = WSConnection(ConnectionType.SERVER)
        try:
            server.receive_data(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + line + b"\r\n\r\n"
            )
        except RemoteProtocolError as error:
            hint = error.event_hint
            if hint is not None:
                seen += [type(hint).__name__, server.send(hint)[:10]]
    return seen


@program
def bad_responses() -> list[object]:
    seen: list[object] = []
    for lines in (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    ):
        client = WSConnection(ConnectionType.CLIENT)
        client.send(Request(host="a", target="/"))
        try:
            client.receive_data(b"HTTP/1.1 101 Switching Protocols\r\n" + lines + b"\r\n")
        except RemoteProtocolError as error:
            seen.append(type(error).__name__)
    return seen


@program
def request_parsed_by_somebody_else() -> list[object]:
    server = WSConnection(ConnectionType.SERVER)
    headers: Headers = [
        (b"Host", b"localhost"),
        (b"Connection", b"Keep-Alive, Upgrade"),
        (b"Upgrade", b"WebSocket"),
        (b"Sec-WebSocket-Version", WEBSOCKET_VERSION),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"X-Foo", b"bar"),
    ]
    server.initiate_upgrade_connection(headers, "/path?query")
    seen: list[object] = []
    for event in server.events():
        assert isinstance(event, Request)
        seen += [event.host, event.target, dict(event.extra_headers)[b"x-foo"]]
    response = server.send(AcceptConnection())
    return [*seen, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in response, server.state.name]


@program
def request_parsed_into_text() -> list[object]:
    server = WSConnection(SERVER)
    headers = {
        "Host": "localhost",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "X-Foo": "bar",
    }
    server.initiate_upgrade_connection(list(headers.items()), "/")  # type: ignore[arg-type]
    (request,) = server.events()
    assert isinstance(request, Request)
    return [request.host, dict(request.extra_headers)[b"x-foo"], server.send(AcceptConnection())]


@program
def handshake_alone() -> list[object]:
    client, server = H11Handshake(CLIENT), H11Handshake(SERVER)
    seen: list[object] = [client.client, server.client, client.connection, repr(server)]
    data = client.send(Request(host="böse.example:81", target="/"))
    seen.append([line for line in data.split(b"\r\n") if line.lower().startswith(b"host")])
    server.receive_data(data)
    assert isinstance(next(server.events()), Request)
    client.receive_data(server.send(AcceptConnection()))
    ours, theirs = client.connection, server.connection
    assert ours is not None
    assert theirs is not None
    theirs.receive_data(ours.send(TextMessage(data="hello")))
    return [*seen, ours.client, theirs.client, *theirs.events(), repr(client)]


@program
def frames_behind_the_response() -> list[object]:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="a", target="/")))
    list(server.events())
    data = server.send(AcceptConnection()) + server.send(TextMessage(data="first words"))
    client.receive_data(data)
    return [type(event).__name__ for event in client.events()]


@program
def without_the_handshake() -> list[object]:
    """Use a connection as a server does after its own handshake, for example over HTTP/2."""
    offers = ["permessage-deflate; client_max_window_bits"]
    extensions: list[Extension] = [PerMessageDeflate()]
    accepted = server_extensions_handshake(offers, extensions)
    assert accepted is not None
    theirs: list[Extension] = [PerMessageDeflate()]
    agreed = client_extensions_handshake([accepted.decode()], theirs)
    server = Connection(ConnectionType.SERVER, extensions, b"")
    client = Connection(ConnectionType.CLIENT, agreed)
    seen: list[object] = [accepted.split(b";")[0], server.state is ConnectionState.OPEN]
    server.receive_data(client.send(TextMessage(data="compressed " * 50)))
    text = ""
    for event in server.events():
        assert isinstance(event, TextMessage)
        text += event.data
    server.receive_data(client.send(CloseConnection(code=1000)))
    return [*seen, text, *server.events(), server.state.name]


@program
def utilities() -> list[object]:
    return [
        generate_accept_token(b"dGhlIHNhbXBsZSBub25jZQ=="),
        len(generate_nonce()),
        split_comma_header(b"a, b ,c"),
        [(opcode.name, int(opcode), opcode.iscontrol()) for opcode in Opcode],
        RsvBits(True, False, False),
        int(ParseFailed("x").code),
        CloseReason(1000) is CloseReason.NORMAL_CLOSURE,
        [int(reason) for reason in (CloseReason.GOING_AWAY, CloseReason.MESSAGE_TOO_BIG)],
        {name: kind.__name__ for name, kind in SUPPORTED_EXTENSIONS.items()},
        WEBSOCKET_VERSION,
        H11Handshake(ConnectionType.SERVER).state.name,
        [state.name for state in ConnectionState],
        [kind.name for kind in ConnectionType],
        {TextMessage(data="a"): 1}[TextMessage(data="a")],
        TextMessage(data="a") == TextMessage(data="a", frame_finished=True),
        repr(Ping(payload=b"x")),
    ]

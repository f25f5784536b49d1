from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip import extended_connect as module
from wsproto_sip.connection import Connection
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extended_connect import ClientExtendedConnect, ServerExtendedConnect
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from wsproto_sip.typing import Headers

#: RFC 8441 §5.1.
EXAMPLE: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/chat"),
    (b":authority", b"server.example.com"),
    (b"sec-websocket-protocol", b"chat, superchat"),
    (b"sec-websocket-extensions", b"permessage-deflate"),
    (b"sec-websocket-version", b"13"),
    (b"origin", b"http://www.example.com"),
]


def without(*names: bytes) -> Headers:
    return [field for field in EXAMPLE if field[0] not in names]


def replaced(name: bytes, value: bytes) -> Headers:
    return [(key, value if key == name else old) for key, old in EXAMPLE]


def refused(headers: Headers, **options: Any) -> RejectConnection:
    """Return the refusal of a request; check that it can be sent and ends the handshake."""
    server = ServerExtendedConnect(**options)
    with pytest.raises(RemoteProtocolError) as raised:
        server.receive_request(headers)
    hint = raised.value.event_hint
    assert type(hint) is RejectConnection
    with pytest.raises(LocalProtocolError):
        server.accept(AcceptConnection())
    response = server.reject(hint)
    assert response[0] == (b":status", b"%d" % hint.status_code)
    with pytest.raises(LocalProtocolError):
        server.receive_request(EXAMPLE)
    with pytest.raises(LocalProtocolError):
        _ = server.connection
    return hint


def test_public_names() -> None:
    assert module.__all__ == ["ClientExtendedConnect", "ServerExtendedConnect"]


# -- server ----------------------------------------------------------------------------------------


def test_example_of_the_rfc() -> None:
    server = ServerExtendedConnect()
    request = server.receive_request(EXAMPLE)
    assert type(request) is Request
    assert request == Request(
        "server.example.com",
        "/chat",
        ["permessage-deflate"],
        [(b"sec-websocket-version", b"13"), (b"origin", b"http://www.example.com")],
        ["chat", "superchat"],
    )
    with pytest.raises(LocalProtocolError, match="not succeeded"):
        _ = server.connection
    assert server.accept(AcceptConnection("chat", extra_headers=[(b"Server", b"x")])) == [
        (b":status", b"200"),
        (b"sec-websocket-protocol", b"chat"),
        (b"server", b"x"),
    ]
    assert type(server.connection) is Connection
    assert server.connection.connection_type is ConnectionType.SERVER
    assert server.connection.state is ConnectionState.OPEN
    assert server.connection.extensions == []


def test_fields_as_text() -> None:
    """The header list as h2 returns it by default."""

    def as_text(headers: Headers) -> list[tuple[str, str]]:
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]

    one, other = ServerExtendedConnect(), ServerExtendedConnect()
    assert one.receive_request(as_text(EXAMPLE)) == other.receive_request(EXAMPLE)
    response = one.accept(AcceptConnection("chat"))
    answers = [
        client(subprotocols=["chat"]).receive_response(fields)
        for fields in (response, as_text(response))
    ]
    assert answers == [AcceptConnection("chat")] * 2
    with pytest.raises(RemoteProtocolError, match="outside Latin-1") as caught:
        ServerExtendedConnect().receive_request([*as_text(EXAMPLE), ("x", "Ω")])
    assert caught.value.event_hint == RejectConnection()


def test_extensions_are_negotiated() -> None:
    server = ServerExtendedConnect()
    server.receive_request(EXAMPLE)
    extension = PerMessageDeflate()
    (status, field) = server.accept(AcceptConnection(extensions=[extension]))
    assert status == (b":status", b"200")
    assert field[0] == b"sec-websocket-extensions"
    assert field[1].startswith(b"permessage-deflate")
    assert server.connection.extensions == [extension]


@pytest.mark.parametrize(
    "headers",
    [
        without(b"sec-websocket-version"),
        without(b"sec-websocket-protocol", b"sec-websocket-extensions", b"origin"),
        replaced(b":scheme", b"http"),
        replaced(b":path", b"/?a|b"),
        replaced(b":authority", b"[::1]:8080"),
        [*EXAMPLE[:5][::-1], *EXAMPLE[5:]],
        [*EXAMPLE, (b"host", b"SERVER.example.com")],
        [*EXAMPLE, (b"te", b"trailers")],
        [*EXAMPLE, (b"cookie", b"a=\xff"), (b"cookie", b"b=c")],
        # RFC 8441 §5: not processed.
        [*EXAMPLE, (b"sec-websocket-key", b"nonsense")],
        [*EXAMPLE, (b"sec-websocket-protocol", b"more")],
    ],
)
def test_valid_requests_are_accepted(headers: Headers) -> None:
    server = ServerExtendedConnect()
    request = server.receive_request(headers)
    assert request.host.encode() == dict(headers)[b":authority"]
    assert request.target.encode() == dict(headers)[b":path"]
    assert not any(name.startswith(b":") for name, _ in request.extra_headers)
    assert b"host" not in dict(request.extra_headers)
    assert server.accept(AcceptConnection()) == [(b":status", b"200")]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"connect", b"", b"\xff"])
def test_other_methods_get_405(method: bytes) -> None:
    expected = RejectConnection(405, [(b"allow", b"CONNECT")])
    assert refused(replaced(b":method", method)) == expected
    assert refused(replaced(b":method", method)[:1]) == expected


@pytest.mark.parametrize("protocol", [b"connect-udp", b"WebSocket", b"", b"websocket\xa0"])
def test_other_protocols_get_501(protocol: bytes) -> None:
    # RFC 9220 §3.
    assert refused(replaced(b":protocol", protocol)) == RejectConnection(501)


def test_other_websocket_versions_get_400() -> None:
    for value in (b"8", b"", b"13, 13", b"13\x1c"):
        assert refused(replaced(b"sec-websocket-version", value)) == RejectConnection(
            400, [(b"sec-websocket-version", b"13")]
        )
    assert refused([*EXAMPLE, (b"sec-websocket-version", b"13")]).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        [],
        without(b":method"),
        without(b":protocol"),
        without(b":scheme"),
        without(b":path"),
        without(b":authority"),
        # RFC 9113 §8.3: repeated, unknown, of a response, after a regular field.
        [EXAMPLE[0], *EXAMPLE],
        [(b":foo", b"x"), *EXAMPLE],
        [(b":status", b"200"), *EXAMPLE],
        [*EXAMPLE[1:], EXAMPLE[0]],
        # §8.2.1.
        [*EXAMPLE, (b"Origin", b"x")],
        [*EXAMPLE, (b"", b"x")],
        [*EXAMPLE, (b"a b", b"x")],
        [*EXAMPLE, (b"\xe4", b"x")],
        [*EXAMPLE, (b"a\r\nb", b"x")],
        [*EXAMPLE, (b"a", b"x\r\ny: z")],
        [*EXAMPLE, (b"a", b"x\n")],
        [*EXAMPLE, (b"a", b"\x00")],
        [*EXAMPLE, (b"a", b" b")],
        [*EXAMPLE, (b"a", b"b\t")],
        replaced(b":path", b"/\r\na: b"),
        # §8.2.2.
        [*EXAMPLE, (b"connection", b"upgrade")],
        [*EXAMPLE, (b"upgrade", b"websocket")],
        [*EXAMPLE, (b"keep-alive", b"x")],
        [*EXAMPLE, (b"proxy-connection", b"x")],
        [*EXAMPLE, (b"transfer-encoding", b"chunked")],
        [*EXAMPLE, (b"te", b"gzip")],
        [*EXAMPLE, (b"content-length", b"0")],
        [*EXAMPLE, (b"host", b"other.example")],
        [*EXAMPLE, (b"host", b"server.example.com"), (b"host", b"server.example.com")],
        replaced(b":scheme", b"wss"),
        replaced(b":scheme", b""),
        replaced(b":path", b""),
        replaced(b":path", b"*"),
        replaced(b":path", b"chat"),
        replaced(b":path", b"/a#b"),
        replaced(b":path", b"/\xff"),
        replaced(b":path", b"https://server.example.com/"),
        replaced(b":authority", b""),
        replaced(b":authority", b"u@server.example.com"),
        replaced(b":authority", b"a b"),
        replaced(b":authority", b"\xe4"),
        replaced(b"sec-websocket-protocol", b""),
        replaced(b"sec-websocket-protocol", b"a b"),
        replaced(b"sec-websocket-protocol", b"a, a"),
        replaced(b"sec-websocket-protocol", b"a\x85"),
        replaced(b"sec-websocket-protocol", b"," * 40),
        replaced(b"sec-websocket-extensions", b"a;"),
        replaced(b"sec-websocket-extensions", b"\xff"),
    ],
)
def test_invalid_requests_are_refused(headers: Headers) -> None:
    assert refused(headers) == RejectConnection(400)


@pytest.mark.parametrize(
    ("extra", "refusal"),
    [
        ([(b"a", b"b")] * 60, None),
        ([(b"a", b"b")] * 61, 431),
        ([(b"a", b"b" * 15_500)], None),
        ([(b"a", b"b" * 16_000)], 431),
    ],
)
def test_limits(extra: Headers, refusal: int | None) -> None:
    if refusal is None:
        ServerExtendedConnect().receive_request([*EXAMPLE, *extra])
    else:
        assert refused([*EXAMPLE, *extra]) == RejectConnection(refusal)


def test_limits_can_be_set() -> None:
    ServerExtendedConnect(limits=Limits(max_headers=4)).receive_request(EXAMPLE)
    assert refused(EXAMPLE, limits=Limits(max_headers=3)).status_code == 431
    assert refused(EXAMPLE, limits=Limits(max_list_items=1)).status_code == 400
    length = sum(len(name) + len(value) + 32 for name, value in EXAMPLE)
    ServerExtendedConnect(limits=Limits(max_handshake_bytes=length)).receive_request(EXAMPLE)
    assert refused(EXAMPLE, limits=Limits(max_handshake_bytes=length - 1)).status_code == 431
    none = Limits(max_handshake_bytes=None, max_headers=None)
    ServerExtendedConnect(limits=none).receive_request([*EXAMPLE, *[(b"x", b"y" * 200)] * 200])


def test_one_request_and_one_answer() -> None:
    server = ServerExtendedConnect()
    with pytest.raises(LocalProtocolError, match="no request"):
        server.accept(AcceptConnection())
    server.receive_request(EXAMPLE)
    with pytest.raises(LocalProtocolError, match="already"):
        server.receive_request(EXAMPLE)
    server.accept(AcceptConnection())
    with pytest.raises(LocalProtocolError, match="no request"):
        server.accept(AcceptConnection())
    with pytest.raises(LocalProtocolError, match="answered"):
        server.reject(RejectConnection())
    with pytest.raises(LocalProtocolError, match="already"):
        server.receive_request(EXAMPLE)


@pytest.mark.parametrize(
    "event",
    [
        AcceptConnection("other"),
        AcceptConnection("chat\r\na: b"),
        AcceptConnection(extra_headers=[(b"a", b"b\r\nc: d")]),
        AcceptConnection(extra_headers=[(b":status", b"404")]),
        AcceptConnection(extra_headers=[(b"Connection", b"x")]),
        AcceptConnection(extra_headers=[(b"Keep-Alive", b"x")]),
        AcceptConnection(extra_headers=[(b"proxy-connection", b"x")]),
        AcceptConnection(extra_headers=[(b"sec-websocket-protocol", b"chat")]),
        AcceptConnection(extra_headers=[(b"sec-websocket-accept", b"x")]),
    ],
)
def test_invalid_acceptances_are_refused(event: AcceptConnection) -> None:
    server = ServerExtendedConnect()
    server.receive_request(EXAMPLE)
    with pytest.raises(LocalProtocolError):
        server.accept(event)
    assert server.accept(AcceptConnection("superchat"))[1][1] == b"superchat"


def test_lists_of_the_event_are_copies() -> None:
    server = ServerExtendedConnect()
    request = server.receive_request(EXAMPLE)
    request.subprotocols.append("other")
    assert isinstance(request.extensions, list)
    request.extensions.clear()
    with pytest.raises(LocalProtocolError, match="not offered"):
        server.accept(AcceptConnection("other"))
    assert len(server.accept(AcceptConnection(extensions=[PerMessageDeflate()]))) == 2


def test_rejection() -> None:
    server = ServerExtendedConnect()
    server.receive_request(EXAMPLE)
    # The same event as for HTTP/1.1.
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"Connection", b"close"),
        (b"Upgrade", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"WWW-Authenticate", b"a"),
        (b"www-authenticate", b"b"),
    ]
    assert server.reject(RejectConnection(401, headers, has_body=True)) == [
        (b":status", b"401"),
        (b"content-type", b"text/plain"),
        (b"www-authenticate", b"a"),
        (b"www-authenticate", b"b"),
    ]
    with pytest.raises(LocalProtocolError):
        _ = server.connection


def test_rejection_before_the_request() -> None:
    server = ServerExtendedConnect()
    assert server.reject(RejectConnection(503)) == [(b":status", b"503")]
    with pytest.raises(LocalProtocolError):
        server.receive_request(EXAMPLE)


@pytest.mark.parametrize(
    "event",
    [
        RejectConnection(200),
        RejectConnection(299),
        RejectConnection(101),
        RejectConnection(1000),
        RejectConnection(400, [(b"a", b"b\nc")]),
        RejectConnection(400, [(b":status", b"200")]),
    ],
)
def test_invalid_rejections_are_refused(event: RejectConnection) -> None:
    server = ServerExtendedConnect()
    server.receive_request(EXAMPLE)
    with pytest.raises(LocalProtocolError):
        server.reject(event)
    assert server.accept(AcceptConnection()) == [(b":status", b"200")]


NAMES = st.sampled_from([name for name, _ in EXAMPLE] + [b"host", b"te", b"x", b"", b":"])


@given(
    st.lists(st.tuples(NAMES | st.binary(max_size=4), st.binary(max_size=6)), max_size=4),
    st.integers(0, len(EXAMPLE)),
    st.sets(st.integers(0, len(EXAMPLE) - 1), max_size=2),
)
@example([], 0, set())
def test_any_list_is_a_request_or_refused(extra: Headers, at: int, lost: set[int]) -> None:
    headers = [field for index, field in enumerate(EXAMPLE) if index not in lost]
    headers[at:at] = extra
    server = ServerExtendedConnect()
    try:
        request = server.receive_request(headers)
    except RemoteProtocolError as error:
        hint = error.event_hint
    else:
        hint = None
    if hint is not None:
        assert isinstance(hint, RejectConnection)
        server.reject(hint)
        return
    pseudo = [name for name, _ in headers if name.startswith(b":")]
    assert sorted(pseudo) == sorted(name for name, _ in EXAMPLE[:5])
    assert dict(headers)[b":authority"].decode() == request.host
    server.accept(AcceptConnection())


# -- client ----------------------------------------------------------------------------------------


def client(**request: Any) -> ClientExtendedConnect:
    connect = ClientExtendedConnect()
    connect.request_headers(Request("server.example.com", "/chat", **request))
    return connect


def test_request_is_written() -> None:
    connect = ClientExtendedConnect()
    headers = connect.request_headers(
        Request(
            "server.example.com",
            "/chat",
            extensions=[PerMessageDeflate()],
            extra_headers=[(b"Origin", b"http://www.example.com"), (b"Cookie", b"\xff")],
            subprotocols=["chat", "superchat"],
        )
    )
    offer = headers.pop(7)
    assert offer[0] == b"sec-websocket-extensions"
    assert offer[1].startswith(b"permessage-deflate")
    assert headers == [
        *EXAMPLE[:5],
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-protocol", b"chat, superchat"),
        (b"origin", b"http://www.example.com"),
        (b"cookie", b"\xff"),
    ]
    with pytest.raises(LocalProtocolError, match="twice"):
        connect.request_headers(Request("a", "/"))


def test_scheme() -> None:
    for secure, scheme in ((True, b"https"), (False, b"http")):
        headers = ClientExtendedConnect().request_headers(Request("a", "/"), secure=secure)
        assert dict(headers)[b":scheme"] == scheme


@pytest.mark.parametrize(
    "request_",
    [
        Request("ä b", "/"),
        Request("", "/"),
        Request("a\r\nb", "/"),
        Request("a", "chat"),
        Request("a", "/ä"),
        Request("a", "/", subprotocols=["a", "a"]),
        Request("a", "/", extra_headers=[(b"Host", b"b")]),
        Request("a", "/", extra_headers=[(b"Connection", b"Upgrade")]),
        Request("a", "/", extra_headers=[(b"keep-alive", b"b")]),
        Request("a", "/", extra_headers=[(b"sec-websocket-key", b"b")]),
        Request("a", "/", extra_headers=[(b":path", b"/b")]),
        Request("a", "/", extra_headers=[(b"a", b"b\r\n")]),
        Request("a", "/", extensions=["permessage-deflate"]),
    ],
)
def test_invalid_requests_cannot_be_sent(request_: Request) -> None:
    connect = ClientExtendedConnect()
    with pytest.raises(LocalProtocolError):
        connect.request_headers(request_)
    connect.request_headers(Request("a", "/"))


def test_acceptance() -> None:
    extension = PerMessageDeflate()
    connect = client(extensions=[extension], subprotocols=["a", "b"])
    for status in (b"100", b"103", b"199"):
        assert connect.receive_response([(b":status", status), (b"link", b"x")]) is None
    with pytest.raises(LocalProtocolError, match="not succeeded"):
        _ = connect.connection
    event = connect.receive_response(
        [
            (b":status", b"200"),
            (b"date", b"now"),
            (b"sec-websocket-protocol", b"b"),
            (b"sec-websocket-extensions", b"permessage-deflate"),
            (b"sec-websocket-accept", b"nonsense"),
        ]
    )
    assert event == AcceptConnection("b", [extension], [(b"date", b"now")])
    assert type(connect.connection) is Connection
    assert connect.connection.connection_type is ConnectionType.CLIENT
    assert connect.connection.extensions == [extension]
    with pytest.raises(LocalProtocolError, match="answer"):
        connect.receive_response([(b":status", b"200")])


@pytest.mark.parametrize("status", [300, 301, 401, 404, 500, 999])
def test_rejection_is_reported_unchanged(status: int) -> None:
    connect = client()
    headers = [(b"location", b"https://b/"), (b"www-authenticate", b"\xff")]
    event = connect.receive_response([(b":status", b"%d" % status), *headers])
    assert event == RejectConnection(status, headers)
    with pytest.raises(LocalProtocolError):
        _ = connect.connection
    with pytest.raises(LocalProtocolError, match="answer"):
        connect.receive_response([(b":status", b"200")])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"date", b"now")],
        [(b":status", b"")],
        [(b":status", b"20")],
        [(b":status", b"0200")],
        [(b":status", b"099")],
        [(b":status", b"2\xb20")],
        [(b":status", b" 200")],
        [(b":status", b"101")],
        [(b":status", b"201")],
        [(b":status", b"204")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b"date", b"now"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"Date", b"now")],
        [(b":status", b"200"), (b"connection", b"upgrade")],
        [(b":status", b"200"), (b"upgrade", b"websocket")],
        [(b":status", b"200"), (b"a", b"b\r\n")],
        [(b":status", b"200"), (b"sec-websocket-protocol", b"c")],
        [(b":status", b"200"), (b"sec-websocket-protocol", b"a, b")],
        [(b":status", b"200"), (b"sec-websocket-extensions", b"other")],
        [(b":status", b"200"), (b"sec-websocket-extensions", b"")],
        [(b":status", b"200"), (b"sec-websocket-extensions", b"\xff")],
        [(b":status", b"404"), (b"a", b"\x00")],
        [(b":status", b"404"), *[(b"a", b"b")] * 70],
        [(b":status", b"404"), (b"a", b"b" * 20_000)],
    ],
)
def test_invalid_responses_are_refused(headers: Headers) -> None:
    connect = client(extensions=[PerMessageDeflate()], subprotocols=["a", "b"])
    with pytest.raises(RemoteProtocolError) as raised:
        connect.receive_response(headers)
    assert raised.value.event_hint is None
    with pytest.raises(LocalProtocolError):
        _ = connect.connection
    with pytest.raises(LocalProtocolError, match="answer"):
        connect.receive_response([(b":status", b"200")])


def test_response_without_a_request_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="answer"):
        ClientExtendedConnect().receive_response([(b":status", b"200")])


# -- both ends -------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["sip", "msrp", "x"]), unique=True),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=300),
)
def test_both_ends_agree_and_talk(
    names: list[str], offer: bool, support: bool, payload: bytes
) -> None:
    asking, answering = ClientExtendedConnect(), ServerExtendedConnect()
    extensions = [PerMessageDeflate()] if offer else []
    request = answering.receive_request(
        asking.request_headers(Request("a", "/b", extensions, [], names), secure=False)
    )
    assert (request.host, request.target, request.subprotocols) == ("a", "/b", names)
    chosen = names[-1] if names else None
    supported = [PerMessageDeflate()] if support else []
    response = answering.accept(AcceptConnection(chosen, list(supported)))
    event = asking.receive_response(response)
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == chosen
    expected = 1 if offer and support else 0
    assert len(asking.connection.extensions) == expected
    assert len(answering.connection.extensions) == expected
    for sender, receiver in (
        (asking.connection, answering.connection),
        (answering.connection, asking.connection),
    ):
        receiver.receive_data(sender.send(BytesMessage(payload)))
        got = b"".join(event.data for event in receiver.events() if type(event) is BytesMessage)
        assert got == payload


def test_options_reach_the_connection() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    limits = Limits(max_message_size=4)
    asking = ClientExtendedConnect(limits=limits, entropy=entropy, whole_messages=True)
    answering = ServerExtendedConnect(limits=limits, entropy=entropy, whole_messages=True)
    answering.receive_request(asking.request_headers(Request("a", "/")))
    assert asked == []  # a key is not needed
    asking.receive_response(answering.accept(AcceptConnection()))
    answering.connection.receive_data(asking.connection.send(TextMessage("ab", True, False)))
    answering.connection.receive_data(asking.connection.send(TextMessage("cd")))
    assert asked
    assert list(answering.connection.events()) == [TextMessage("abcd")]
    to_server = asking.connection.send(BytesMessage(b"12345"))
    to_client = answering.connection.send(BytesMessage(b"12345"))
    for connection, raw in ((asking.connection, to_client), (answering.connection, to_server)):
        connection.receive_data(raw)
        (event,) = connection.events()
        assert type(event) is CloseConnection
        assert event.code == 1009


def test_more_options_reach_the_connection() -> None:
    answering = ServerExtendedConnect(text_as_bytes=True, max_frames=1)
    asking = client()
    answering.receive_request(EXAMPLE)
    asking.receive_response(answering.accept(AcceptConnection()))
    raw = asking.connection.send(TextMessage("a")) + asking.connection.send(TextMessage("b"))
    answering.connection.receive_data(raw)
    assert [event.data for event in answering.connection.events()] == [b"a", b"b"]  # type: ignore[attr-defined]

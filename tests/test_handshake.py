from __future__ import annotations

import base64
import contextlib
import os
import string
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import h11
import pytest
from hypothesis import assume, example, given, strategies as st

from wsproto_sip import handshake as module
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    PlainRequest,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.handshake import WEBSOCKET_VERSION, H11Handshake
from wsproto_sip.limits import Limits
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsproto_sip.events import Event
    from wsproto_sip.typing import BytesLike, Headers

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER
CONNECTING, OPEN = ConnectionState.CONNECTING, ConnectionState.OPEN
REJECTING, CLOSED = ConnectionState.REJECTING, ConnectionState.CLOSED

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
TOKEN = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#: Chromium's request.
CHROME = (
    b"GET /chat?x=1 HTTP/1.1\r\n"
    b"Host: example.com:8080\r\n"
    b"Connection: Upgrade\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/156.0.0.0 Safari/537.36\r\n"
    b"Upgrade: websocket\r\n"
    b"Origin: http://example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: a=b\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Sec-WebSocket-Protocol: sip, msrp\r\n"
    b"\r\n"
)

FIELDS: Headers = [
    (b"Host", b"example.com"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
]


def written(fields: Headers, start: bytes = b"GET /chat HTTP/1.1") -> bytes:
    lines = [start, *(b"%b: %b" % field for field in fields), b"", b""]
    return b"\r\n".join(lines)


def with_field(name: bytes, *values: bytes) -> bytes:
    """Return a valid request, except for one field's values."""
    fields = [field for field in FIELDS if field[0].lower() != name.lower()]
    return written([*fields, *((name, value) for value in values)])


def server(data: bytes = b"", **options: Any) -> H11Handshake:
    handshake = H11Handshake(SERVER, **options)
    handshake.receive_data(data)
    return handshake


def the_request(handshake: H11Handshake) -> Request:
    (event,) = handshake.events()
    assert type(event) is Request
    return event


def refused(data: bytes, **options: Any) -> RejectConnection:
    """Return the answer to a request that a server refuses; check that it can be sent."""
    handshake = H11Handshake(SERVER, **options)
    with pytest.raises(RemoteProtocolError) as raised:
        handshake.receive_data(data)
    return sendable(handshake, raised.value, b"HEAD" if data.startswith(b"HEAD ") else b"GET")


def sendable(
    handshake: H11Handshake, error: RemoteProtocolError, method: bytes = b"GET"
) -> RejectConnection:
    """Check that a rejection is well-formed HTTP with ``Connection: close``, and ends all."""
    hint = error.event_hint
    assert type(hint) is RejectConnection
    assert not hint.has_body
    assert list(handshake.events()) == []
    assert handshake.state is CONNECTING
    with pytest.raises(LocalProtocolError):
        handshake.send(AcceptConnection())
    response, body = by_h11(handshake.send(hint), method)
    assert response.status_code == hint.status_code
    assert response.http_version == b"1.1"
    assert body == b""
    connection = [value for name, value in response.headers if name == b"connection"]
    tokens = [token.strip().lower() for value in connection for token in value.split(b",")]
    assert tokens.count(b"close") == 1
    assert handshake.state is CLOSED
    # Further input is not read.
    handshake.receive_data(CHROME)
    handshake.receive_data(None)
    assert list(handshake.events()) == []
    assert handshake.trailing_data == b""
    return hint


def by_h11(raw: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    """Parse a response with h11; it must be complete, without further bytes."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    response = connection.next_event()
    assert type(response) is h11.Response
    body = b""
    while type(event := connection.next_event()) is h11.Data:
        body += event.data
    assert type(event) is h11.EndOfMessage
    assert type(connection.next_event()) is h11.ConnectionClosed
    return response, body


# -- a server accepts ------------------------------------------------------------------------------


def test_version_is_13() -> None:
    assert WEBSOCKET_VERSION == b"13"
    assert set(module.__all__) == {
        "WEBSOCKET_VERSION",
        "H11Handshake",
        "client_extensions_handshake",
        "server_extensions_handshake",
    }


def test_browser_request_is_accepted() -> None:
    handshake = server(CHROME)
    assert handshake.state is CONNECTING
    request = the_request(handshake)
    assert (request.host, request.target) == ("example.com:8080", "/chat?x=1")
    assert request.extensions == ["permessage-deflate; client_max_window_bits"]
    assert request.subprotocols == ["sip", "msrp"]
    assert request.extra_headers[:2] == [(b"connection", b"Upgrade"), (b"pragma", b"no-cache")]
    assert [name for name, _ in request.extra_headers] == [
        b"connection",
        b"pragma",
        b"cache-control",
        b"user-agent",
        b"upgrade",
        b"origin",
        b"sec-websocket-version",
        b"accept-encoding",
        b"accept-language",
        b"cookie",
        b"sec-websocket-key",
    ]
    assert all(
        type(name) is bytes and type(value) is bytes for name, value in request.extra_headers
    )
    raw = handshake.send(AcceptConnection(subprotocol="sip", extra_headers=[(b"X-a", b"b")]))
    assert raw == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + TOKEN + b"\r\n"
        b"Sec-WebSocket-Protocol: sip\r\n"
        b"X-a: b\r\n"
        b"\r\n"
    )
    assert handshake.state is OPEN
    assert handshake.subprotocol == "sip"
    assert handshake.accepted_extensions == []
    assert handshake.trailing_data == b""
    assert list(handshake.events()) == []


def test_extensions_are_negotiated() -> None:
    handshake = server(CHROME)
    used, unused = PerMessageDeflate(), PerMessageDeflate()
    raw = handshake.send(AcceptConnection(extensions=[used, unused]))
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate" in raw
    assert handshake.accepted_extensions == [used]
    assert used.enabled()
    assert not unused.enabled()


def test_nothing_offered_means_nothing_accepted() -> None:
    handshake = server(written(FIELDS))
    request = the_request(handshake)
    assert request.extensions == []
    assert request.subprotocols == []
    extension = PerMessageDeflate()
    raw = handshake.send(AcceptConnection(extensions=[extension]))
    assert b"Sec-WebSocket-Extensions" not in raw
    assert b"Sec-WebSocket-Protocol" not in raw
    assert handshake.accepted_extensions == []
    assert not extension.enabled()


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"Sec-WebSocket-Protocol", b"sip, msrp")],
        [(b"Sec-WebSocket-Protocol", b"sip"), (b"X", b"y"), (b"sec-websocket-protocol", b"msrp")],
        [(b"Sec-WebSocket-Extensions", b"a; b=c"), (b"Sec-WebSocket-Extensions", b'd; e="f", g')],
        [(b"Cookie", b"\xe4\xff"), (b"cookie", b"again")],
        [(b"X-Empty", b"")],
        [(b"Expect", b"100-continue")],
    ],
)
def test_wsproto_makes_the_same_event(fields: Headers) -> None:
    import wsproto
    import wsproto.events

    data = written(FIELDS + fields)
    theirs = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    theirs.receive_data(data)
    (expected,) = theirs.events()
    assert isinstance(expected, wsproto.events.Request)
    request = the_request(server(data))
    for name in Request.__slots__:
        assert getattr(request, name) == getattr(expected, name)


def test_wsproto_answers_with_the_same_bytes() -> None:
    import wsproto
    import wsproto.events

    theirs = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    theirs.receive_data(CHROME)
    expected = theirs.send(
        wsproto.events.AcceptConnection(subprotocol="msrp", extra_headers=[(b"Server", b"x")])
    )
    ours = server(CHROME).send(AcceptConnection("msrp", extra_headers=[(b"Server", b"x")]))
    assert ours == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Connection", b"upgrade"),
        (b"Connection", b"keep-alive, UPGRADE"),
        (b"Connection", b",, Upgrade ,"),
        (b"Upgrade", b"WebSocket"),
        (b"Upgrade", b"h2c, websocket"),
        (b"Host", b"[::1]:80"),
        (b"Content-Length", b"0"),
        (b"Content-Length", b"00"),
        (b"Sec-WebSocket-Protocol", b"!#$%&'*+-.^_`|~"),
        (b"Sec-WebSocket-Key", b" \t" + KEY + b" "),
    ],
)
def test_valid_fields_are_accepted(name: bytes, value: bytes) -> None:
    handshake = server(with_field(name, value))
    the_request(handshake)
    assert handshake.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "target",
    [b"/", b"/a?b", b"//x", b"http://example.com/", b"WS://EXAMPLE.com?a", b"/" + b"|" * 99],
)
def test_valid_targets_are_accepted(target: bytes) -> None:
    request = the_request(server(written(FIELDS, b"GET %b HTTP/1.1" % target)))
    assert request.target == target.decode()


@pytest.mark.parametrize("version", [b"1.1", b"1.2", b"1.9"])
def test_later_versions_of_http_1_are_accepted(version: bytes) -> None:
    the_request(server(written(FIELDS, b"GET / HTTP/" + version)))


def test_valid_syntax_is_accepted() -> None:
    # RFC 9112 §2.2 and §5.2: an empty line before, bare LF, folded lines.
    assert the_request(server(b"\r\n" + CHROME)) == the_request(server(CHROME))
    assert the_request(server(CHROME.replace(b"\r", b""))) == the_request(server(CHROME))
    folded = CHROME.replace(b"sip, msrp", b"sip,\r\n\tmsrp")
    assert the_request(server(folded)) == the_request(server(CHROME))


def test_lists_of_the_event_are_copies() -> None:
    handshake = server(CHROME)
    request = the_request(handshake)
    request.subprotocols[:] = ["a\r\nb: c"]
    with pytest.raises(LocalProtocolError):
        handshake.send(AcceptConnection(subprotocol="a\r\nb: c"))
    handshake.send(AcceptConnection(subprotocol="sip"))


# -- a server refuses ------------------------------------------------------------------------------

UPGRADE: Headers = [
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Connection", b"close, Upgrade"),
]
CLOSE: Headers = [(b"Connection", b"close")]


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"FOO"])
def test_other_methods_get_405(method: bytes) -> None:
    hint = refused(written(FIELDS, method + b" / HTTP/1.1"))
    assert hint == RejectConnection(405, [(b"Allow", b"GET"), *CLOSE])


@pytest.mark.parametrize("version", [b"1.0", b"0.9"])
def test_http_1_0_gets_400(version: bytes) -> None:
    assert refused(written(FIELDS, b"GET / HTTP/" + version)) == RejectConnection(400, CLOSE)


@pytest.mark.parametrize("line", [b"GET /x HTTP/2.0", b"GET /x HTTP/3.1", b"POST / HTTP/2.0"])
def test_other_major_http_versions_get_505(line: bytes) -> None:
    assert refused(written(FIELDS, line)) == RejectConnection(505, CLOSE)


def test_http_2_preface_gets_505() -> None:
    # RFC 9113 §3.4: a client that knows that the server speaks HTTP/2 begins with it.
    assert refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == RejectConnection(505, CLOSE)


@pytest.mark.parametrize(
    "values", [[], [b""], [b"h2c"], [b"websocketx"], [b"xwebsocket"], [b"web socket"]]
)
def test_missing_upgrade_gets_426(values: list[bytes]) -> None:
    expected = RejectConnection(426, UPGRADE) if values != [b""] else RejectConnection(400, CLOSE)
    assert refused(with_field(b"Upgrade", *values)) == expected


@pytest.mark.parametrize("values", [[], [b"close"], [b"upgrades"], [b"up grade"], [b"a;upgrade"]])
def test_upgrade_missing_in_connection_gets_426(values: list[bytes]) -> None:
    assert refused(with_field(b"Connection", *values)) == RejectConnection(426, UPGRADE)


@pytest.mark.parametrize("value", [b"8", b"14", b"013", b"13;", b"0", b"x", b"\xb2\xb3", b"13\x1c"])
def test_other_websocket_versions_get_426(value: bytes) -> None:
    # RFC 6455 §4.4.
    assert refused(with_field(b"Sec-WebSocket-Version", value)) == RejectConnection(426, UPGRADE)


@pytest.mark.parametrize("values", [[], [b"13", b"13"], [b"13, 8"], [b"8", b"13"]])
def test_missing_or_repeated_version_gets_400(values: list[bytes]) -> None:
    hint = refused(with_field(b"Sec-WebSocket-Version", *values))
    assert hint == RejectConnection(400, [(b"Sec-WebSocket-Version", b"13"), *CLOSE])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [KEY, KEY],
        [KEY, b""],
        [KEY + b", " + KEY],
        [KEY[:-1]],
        [KEY + b"="],
        [b"c2hvcnQ="],
        [base64.b64encode(b"x" * 17)],
        [base64.b64encode(b"x" * 15)],
        [b"dGhlIHNhbXBsZSBub25jZ*=="],
        [b"dGhlIHNhbXBsZSBub25jZ\xff=="],
        [b"dGhlIHNhbXBs ZSBub25jZQ=="],
        [KEY + b"\x1c"],
        [KEY + b"\xa0"],
    ],
)
def test_missing_repeated_or_invalid_key_gets_400(values: list[bytes]) -> None:
    assert refused(with_field(b"Sec-WebSocket-Key", *values)) == RejectConnection(400, CLOSE)


@pytest.mark.parametrize(
    "values", [[], [b""], [b"a", b"b"], [b"a", b"a"], [b"a b"], [b"a, b"], [b"\xff"], [b"u@a"]]
)
def test_missing_repeated_or_invalid_host_gets_400(values: list[bytes]) -> None:
    assert refused(with_field(b"Host", *values)) == RejectConnection(400, CLOSE)


@pytest.mark.parametrize("version", [b"1.2", b"1.9"])
@pytest.mark.parametrize("values", [[], [b"a", b"b"]])
def test_missing_host_gets_400_in_any_version(version: bytes, values: list[bytes]) -> None:
    fields = FIELDS[1:] + [(b"Host", value) for value in values]
    hint = refused(written(fields, b"GET / HTTP/" + version))
    assert hint == RejectConnection(400, CLOSE)


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"chat",
        b"/#a",
        b"/\xff",
        b"http://other.example/",
        b"http://u@example.com/",
        b"http://",
        b"ftp://example.com/",
    ],
)
def test_invalid_targets_get_400(target: bytes) -> None:
    hint = refused(written(FIELDS, b"GET %b HTTP/1.1" % target))
    assert hint == RejectConnection(400, CLOSE)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ((b"Content-Length", b"1"), 400),
        ((b"Content-Length", b"-1"), 400),
        ((b"Content-Length", b"0, 1"), 400),
        ((b"Content-Length", b"\xb2"), 400),
        ((b"Transfer-Encoding", b"chunked"), 400),
        ((b"Transfer-Encoding", b"gzip, chunked"), 501),
    ],
)
def test_request_with_a_body_gets_400(field: tuple[bytes, bytes], status: int) -> None:
    assert refused(written([*FIELDS, field]) + b"x").status_code == status


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"])
@pytest.mark.parametrize("value", [b"", b",", b"a b", b"a,\xe4", b"a\xa0", b'a;"', b"," * 40])
def test_malformed_lists_get_400(name: bytes, value: bytes) -> None:
    assert refused(with_field(name, value)) == RejectConnection(400, CLOSE)


@pytest.mark.parametrize("name", [b"Connection", b"Upgrade"])
@pytest.mark.parametrize("value", [b"", b"\xe4", b"upgrade, \x85, websocket", b"," * 40])
def test_malformed_token_lists_get_400(name: bytes, value: bytes) -> None:
    assert refused(with_field(name, value)) == RejectConnection(400, CLOSE)


def test_repeated_subprotocol_gets_400() -> None:
    for values in ([b"sip, sip"], [b"sip", b"sip"]):
        assert refused(with_field(b"Sec-WebSocket-Protocol", *values)).status_code == 400


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b" GET / HTTP/1.1",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nb: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nb: \x0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\xe4: b\r\n\r\n",
    ],
)
def test_input_that_is_not_http_is_refused(data: bytes) -> None:
    assert refused(data).status_code == (505 if data.startswith(b"PRI") else 400)


def test_error_message_is_bounded() -> None:
    handshake = H11Handshake(SERVER)
    with pytest.raises(
        RemoteProtocolError, match=r"^invalid HTTP: illegal header line: "
    ) as raised:
        handshake.receive_data(written([(b"a b" * 2000, b"c")]))
    assert len(str(raised.value)) == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (written([*FIELDS, (b"a", b"b" * 17_000)]), 431),
        (written(FIELDS + [(b"a", b"b" * 8000)] * 3), 431),
        (written(FIELDS + [(b"a", b"b")] * 60), 431),
        (b"GET /" + b"a" * 17_000, 431),
        (written([*FIELDS, (b"a", b"b" * 9000)]), None),
        (written(FIELDS + [(b"a", b"b")] * 59), None),
        (
            written(
                [*FIELDS, (b"Sec-WebSocket-Protocol", b",".join(b"%d" % i for i in range(32)))]
            ),
            None,
        ),
        (
            written(
                [*FIELDS, (b"Sec-WebSocket-Protocol", b",".join(b"%d" % i for i in range(33)))]
            ),
            400,
        ),
        (written([*FIELDS, (b"Connection", b"," * 32)]), 400),
    ],
)
def test_limits(data: bytes, status: int | None) -> None:
    if status is None:
        the_request(server(data))
    else:
        assert refused(data) == RejectConnection(status, CLOSE)


def test_limits_can_be_set() -> None:
    the_request(server(written(FIELDS), limits=Limits(max_headers=5)))
    assert refused(written(FIELDS), limits=Limits(max_headers=4)).status_code == 431
    small = Limits(max_list_items=1)
    assert refused(with_field(b"Connection", b"a, upgrade"), limits=small).status_code == 400


def test_limits_can_be_disabled() -> None:
    none = Limits(
        max_handshake_bytes=None, max_header_line=None, max_headers=None, max_list_items=None
    )
    much = with_field(b"Connection", *[b"a, " * 3000, *[b"b"] * 100, b"upgrade"])
    assert refused(much).status_code == 431
    handshake = server(much, limits=none)
    the_request(handshake)
    handshake.receive_data(bytes(100_000))
    assert handshake.trailing_data == bytes(100_000)


# -- invariant 33: accepted iff a strict model accepts ---------------------------------------------

TCHARS = frozenset(("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters).encode())


def model_token(item: bytes) -> bool:
    return len(item) > 0 and set(item) <= TCHARS


def model_items(values: list[bytes]) -> list[bytes] | None:
    """Return the items of a list in several fields; ``None`` without such a list."""
    if not values:
        return None
    items = [item.strip(b" \t") for value in values for item in value.split(b",")]
    return [item for item in items if item]


def model_extension(item: bytes) -> bool:
    name, *parameters = [part.strip(b" \t") for part in item.split(b";")]
    if not model_token(name):
        return False
    for parameter in parameters:
        key, equals, value = parameter.partition(b"=")
        value = value.strip(b" \t")
        if value[:1] == b'"':
            # No drawn value has a semicolon or a comma in quotes.
            if len(value) < 2 or value[-1:] != b'"':
                return False
            value = value[1:-1].replace(b"\\", b"")
        if not model_token(key.strip(b" \t")) or (equals and not model_token(value)):
            return False
    return True


def model_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except ValueError:
        return False


def model(method: bytes, target: bytes, version: bytes, fields: Headers) -> bool:
    """RFC 6455 §4.2.1 and the limits, on a request that is well-formed HTTP."""

    def values(name: bytes) -> list[bytes]:
        return [value for key, value in fields if key.lower() == name]

    def one(name: bytes) -> bytes | None:
        found = values(name)
        return found[0] if len(found) == 1 else None

    if method != b"GET" or version not in (b"1.1", b"1.2") or not target.startswith(b"/"):
        return False
    if b"#" in target or len(fields) > 64 or one(b"host") not in (b"example.com", b"[::1]:80"):
        return False
    if any(value.strip(b"0") for value in values(b"content-length")):
        return False
    if values(b"transfer-encoding") or one(b"sec-websocket-version") != b"13":
        return False
    key = one(b"sec-websocket-key")
    if key is None or not model_key(key):
        return False
    for name, token in ((b"upgrade", b"websocket"), (b"connection", b"upgrade")):
        items = model_items(values(name))
        if items is None or token not in [item.lower() for item in items]:
            return False
        if any(max(item, default=0) > 127 for item in items):
            return False
    subprotocols = model_items(values(b"sec-websocket-protocol"))
    if subprotocols is not None and not (
        subprotocols
        and all(model_token(item) for item in subprotocols)
        and len(set(subprotocols)) == len(subprotocols)
    ):
        return False
    extensions = model_items(values(b"sec-websocket-extensions"))
    return extensions is None or (
        bool(extensions) and all(model_extension(item) for item in extensions)
    )


def choose(*usual: bytes, odd: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """Mostly valid values, so that many requests are accepted."""
    return st.sampled_from([*usual * 40, *odd])


CHOICES: dict[bytes, st.SearchStrategy[bytes]] = {
    b"Host": choose(b"example.com", b"[::1]:80", odd=[b"", b"a b", b"a@b", b"\xff"]),
    b"Upgrade": choose(
        b"websocket", b"WebSocket", b"h2c, websocket", odd=[b"", b"h2c", b"web", b"websocket\xa0"]
    ),
    b"Connection": choose(
        b"Upgrade", b"keep-alive, upgrade", odd=[b"", b"close", b"upgrade\x1c", b"\xe4, upgrade"]
    ),
    b"Sec-WebSocket-Key": choose(KEY, odd=[b"", KEY[1:], KEY + b"=", KEY[:-2], b"a" * 24, b"\xff"]),
    b"Sec-WebSocket-Version": choose(b"13", odd=[b"", b"8", b"13, 13", b"1\x1c3"]),
}
OPTIONAL = st.one_of(
    st.tuples(
        st.just(b"Sec-WebSocket-Protocol"),
        choose(b"sip", b"msrp, x", b"y,", odd=[b"", b"a b", b"sip, sip", b"\x85", b"a/b"]),
    ),
    st.tuples(
        st.just(b"Sec-WebSocket-Extensions"),
        choose(
            b"permessage-deflate; client_max_window_bits",
            b'a; b="c"; d , e',
            odd=[b"", b"a;", b"a b", b'a; b="', b"a; b=", b"a; b= c=d", b"\xff"],
        ),
    ),
    st.tuples(st.just(b"Content-Length"), choose(b"0", odd=[b"1", b"-0", b""])),
    st.tuples(st.just(b"Transfer-Encoding"), st.just(b"chunked")),
    st.tuples(
        st.sampled_from([b"Origin", b"Cookie", b"X"]),
        st.binary(max_size=8).map(
            lambda value: bytes(c for c in value if c not in b"\0\t\n\v\f\r ")
        ),
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, Headers]:
    fields: Headers = []
    for name, values in CHOICES.items():
        count = draw(st.sampled_from([1] * 30 + [0, 2]))
        name = draw(st.sampled_from([name, name.lower(), name.upper()]))
        fields += [(name, draw(values)) for _ in range(count)]
    fields += draw(st.lists(OPTIONAL, max_size=4))
    fields = draw(st.permutations(fields))
    return (
        draw(choose(b"GET", odd=[b"POST", b"get"])),
        draw(choose(b"/", b"/chat?a", odd=[b"*", b"/#", b"a", b"http://other/"])),
        draw(choose(b"1.1", b"1.2", odd=[b"1.0", b"0.9", b"2.0"])),
        fields,
    )


@given(requests())
def test_accepted_iff_a_strict_model_accepts(
    drawn: tuple[bytes, bytes, bytes, Headers],
) -> None:
    method, target, version, fields = drawn
    data = written(fields, b"%b %b HTTP/%b" % (method, target, version))
    handshake = H11Handshake(SERVER)
    # h11 joins or refuses repeated Content-Length and Transfer-Encoding; so does the model.
    try:
        handshake.receive_data(data)
    except RemoteProtocolError as error:
        assert not model(method, target, version, fields) or bad_for_h11(fields)
        sendable(handshake, error)
    else:
        assert model(method, target, version, fields)
        request = the_request(handshake)
        assert request.target.encode() == target
        response = handshake.send(AcceptConnection())
        key = next(value for name, value in fields if name.lower() == b"sec-websocket-key")
        assert b"\r\nSec-WebSocket-Accept: %b\r\n" % generate_accept_token(key) in response


def bad_for_h11(fields: Headers) -> bool:
    """Return whether h11 refuses the request before RFC 6455 applies: conflicting lengths."""
    lengths = [value for name, value in fields if name == b"Content-Length"]
    return len(set(lengths)) > 1 or any(not value.isdigit() for value in lengths)


@given(st.binary(max_size=60), st.binary(max_size=20), st.integers(0, len(CHROME)))
@example(b"", b"", 0)
def test_any_input_is_accepted_or_refused(junk: bytes, more: bytes, at: int) -> None:
    for data in (junk + more, CHROME[:at] + junk + CHROME[at:], CHROME[:at] + junk + b"\r\n\r\n"):
        handshake = H11Handshake(SERVER)
        try:
            handshake.receive_data(data)
        except RemoteProtocolError as error:
            sendable(handshake, error)
        else:
            for event in handshake.events():
                assert type(event) is Request


@given(st.binary(min_size=1, max_size=3), st.sampled_from([f[0] for f in FIELDS]))
def test_bytes_outside_ascii_anywhere(raw: bytes, name: bytes) -> None:
    # A blank line would end the head before them.
    raw = raw.replace(b"\n", b"-")
    # Each was an UnicodeDecodeError in wsproto 1.3.2.
    for extra in (b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Protocol", name):
        value = dict(FIELDS).get(extra, b"a") + raw + b"\xff"
        handshake = H11Handshake(SERVER)
        with pytest.raises(RemoteProtocolError) as raised:
            handshake.receive_data(with_field(extra, value))
        sendable(handshake, raised.value)


def test_bytes_outside_ascii_in_other_fields_are_passed_on() -> None:
    request = the_request(server(with_field(b"Cookie", b"a\xff\x85b")))
    assert request.extra_headers[-1] == (b"cookie", b"a\xff\x85b")


# -- how it arrives, and what comes after ----------------------------------------------------------


@given(st.sets(st.integers(0, len(CHROME) + 6), max_size=12))
def test_any_split_of_the_input_gives_the_same(cuts: set[int]) -> None:
    stream = CHROME + b"\x81\x80abcd"
    handshake = H11Handshake(SERVER)
    for start, end in pairwise([0, *sorted(cuts), len(stream)]):
        handshake.receive_data(stream[start:end])
    assert the_request(handshake) == the_request(server(CHROME))
    assert handshake.trailing_data == b"\x81\x80abcd"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_is_accepted(kind: type[BytesLike]) -> None:
    handshake = H11Handshake(SERVER)
    handshake.receive_data(kind(CHROME))
    handshake.receive_data(kind(b"abc"))
    the_request(handshake)
    assert handshake.trailing_data == b"abc"


def test_bytes_after_the_request_are_kept() -> None:
    # wsproto 1.3.2 lost it.
    handshake = server(CHROME + b"one")
    handshake.receive_data(b"two")
    the_request(handshake)
    handshake.receive_data(b"three")
    handshake.send(AcceptConnection())
    assert handshake.trailing_data == b"onetwothree"
    with pytest.raises(LocalProtocolError, match="to the connection"):
        handshake.receive_data(b"four")
    with pytest.raises(LocalProtocolError, match="to the connection"):
        handshake.receive_data(None)
    assert handshake.trailing_data == b"onetwothree"


@pytest.mark.parametrize("after", [b"x" * 17, b""])
def test_bytes_after_the_request_are_limited(after: bytes) -> None:
    limits = Limits(max_handshake_bytes=600, max_header_line=600)
    assert len(CHROME) < 600
    handshake = server(CHROME + after, limits=limits)
    handshake.receive_data(b"y" * (600 - len(after)))
    with pytest.raises(RemoteProtocolError, match=r"^too much data before") as raised:
        handshake.receive_data(b"z")
    assert handshake.trailing_data == b""
    assert sendable(handshake, raised.value) == RejectConnection(400, CLOSE)
    assert refused(CHROME + b"y" * 601, limits=limits) == RejectConnection(400, CLOSE)


def test_event_that_was_taken_can_still_be_rejected_after_an_error() -> None:
    handshake = server(CHROME)
    the_request(handshake)
    with pytest.raises(RemoteProtocolError) as raised:
        handshake.receive_data(None)
    assert sendable(handshake, raised.value) == RejectConnection(400, CLOSE)


@pytest.mark.parametrize("end", [0, 1, 40, len(CHROME) - 1, len(CHROME), len(CHROME) + 3])
def test_end_of_input(end: int) -> None:
    handshake = server((CHROME + b"abc")[:end])
    with pytest.raises(RemoteProtocolError, match=r"^the client went away before") as raised:
        handshake.receive_data(None)
    assert sendable(handshake, raised.value) == RejectConnection(400, CLOSE)


def test_error_does_not_end_the_events() -> None:
    handshake = H11Handshake(CLIENT)
    handshake.send(Request("example.com", "/"))
    events = handshake.events()
    handshake.receive_data(b"HTTP/1.1 404 \r\nContent-Length: 4\r\n\r\nab")
    with pytest.raises(RemoteProtocolError):
        handshake.receive_data(None)
    assert [type(event) for event in events] == [RejectConnection, RejectData]


def test_unread_events_are_kept() -> None:
    handshake = H11Handshake(CLIENT)
    handshake.send(Request("example.com", "/"))
    handshake.receive_data(b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\nab")
    for event in handshake.events():
        assert type(event) is RejectConnection
        break
    assert list(handshake.events()) == [RejectData(b"ab", True)]


# -- requests without an upgrade -------------------------------------------------------------------

PLAIN = b"GET /page?x HTTP/1.1\r\nHost: example.com\r\nCookie: a=b\r\n\r\n"


def asked(data: bytes) -> tuple[H11Handshake, PlainRequest]:
    handshake = H11Handshake(SERVER, plain_requests=True)
    handshake.receive_data(data)
    [event] = handshake.events()
    assert isinstance(event, PlainRequest)
    return handshake, event


def test_plain_request_can_be_answered_with_a_page() -> None:
    handshake, event = asked(PLAIN)
    headers = [(b"host", b"example.com"), (b"cookie", b"a=b")]
    assert event == PlainRequest(Request("example.com", "/page?x", [], headers), "GET")
    assert handshake.state is CONNECTING
    with pytest.raises(LocalProtocolError, match="no request was received yet"):
        handshake.send(AcceptConnection())
    # Further input is not read, but limited meanwhile.
    handshake.receive_data(b"GET /more HTTP/1.1\r\n")
    with pytest.raises(LocalProtocolError, match="a request was received already"):
        handshake.initiate_upgrade_connection([], "/")
    raw = handshake.send(RejectConnection(200, [(b"Content-Length", b"4")], has_body=True))
    raw += handshake.send(RejectData(b"page"))
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"\r\nConnection: close\r\n\r\npage")
    assert handshake.state is CLOSED


def test_plain_head_request_gets_no_body() -> None:
    handshake, event = asked(PLAIN.replace(b"GET", b"HEAD"))
    assert event.method == "HEAD"
    raw = handshake.send(RejectConnection(200, [(b"Content-Length", b"4")], has_body=True))
    assert handshake.send(RejectData(b"page")) == b""
    assert b"\r\nContent-Length: 4\r\n" in raw
    assert handshake.state is CLOSED


@pytest.mark.parametrize(
    "field", [b"Upgrade: websocket", b"Connection: Upgrade", b"Upgrade: h2c\r\nConnection: upgrade"]
)
def test_partial_upgrade_is_a_plain_request(field: bytes) -> None:
    asked(PLAIN.replace(b"Cookie: a=b", field))


@pytest.mark.parametrize(
    ("data", "status", "allow"),
    [
        (PLAIN.replace(b"GET", b"POST"), 405, b"GET, HEAD"),
        (CHROME.replace(b"GET", b"HEAD"), 405, b"GET"),
        (PLAIN.replace(b"Cookie: a=b", b"Content-Length: 1"), 400, None),
        (PLAIN.replace(b"Host: example.com", b"X: y"), 400, None),
        (PLAIN.replace(b"1.1", b"0.9"), 400, None),
        (PLAIN.replace(b"1.1", b"1.0").replace(b"example.com", b"a b"), 400, None),
    ],
)
def test_invalid_plain_requests_are_refused(data: bytes, status: int, allow: bytes | None) -> None:
    handshake = H11Handshake(SERVER, plain_requests=True)
    with pytest.raises(RemoteProtocolError) as caught:
        handshake.receive_data(data)
    hint = caught.value.event_hint
    assert isinstance(hint, RejectConnection)
    assert hint.status_code == status
    assert dict(hint.headers).get(b"Allow") == allow


@pytest.mark.parametrize(
    ("data", "host"),
    [
        # HAProxy's check where it is given a URI alone.
        (b"GET /alive HTTP/1.0\r\n\r\n", ""),
        (b"HEAD /alive HTTP/1.0\r\nHost: example.com\r\nUser-Agent: check\r\n\r\n", "example.com"),
        (b"GET http://example.com/alive HTTP/1.0\r\n\r\n", ""),
        # RFC 9110 §7.8: in HTTP/1.0 no upgrade can be asked for.
        (CHROME.replace(b"HTTP/1.1", b"HTTP/1.0"), "example.com:8080"),
    ],
)
def test_requests_of_http_1_0_are_plain(data: bytes, host: str) -> None:
    handshake, event = asked(data)
    assert event.request.host == host
    assert event.method.encode() == data.partition(b" ")[0]
    answer = handshake.send(RejectConnection(200, [(b"Content-Length", b"0")]))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in answer


def test_requests_of_http_1_0_are_refused_together_with_plain_requests() -> None:
    handshake = H11Handshake(SERVER)
    with pytest.raises(RemoteProtocolError, match=r"below 1\.1"):
        handshake.receive_data(b"GET /alive HTTP/1.0\r\n\r\n")


def test_upgrades_are_accepted_together_with_plain_requests() -> None:
    handshake = H11Handshake(SERVER, plain_requests=True)
    handshake.receive_data(CHROME)
    assert list(handshake.events()) == [the_request(server(CHROME))]
    handshake.send(AcceptConnection("sip"))
    assert handshake.state is OPEN


# -- a request parsed by another server ----------------------------------------------------------


def as_text(field: tuple[bytes, bytes]) -> tuple[str, str]:
    return field[0].decode("latin-1"), field[1].decode("latin-1")


@pytest.mark.parametrize("fields", [list, lambda items: map(as_text, items)], ids=["bytes", "str"])
@pytest.mark.parametrize("path", ["/chat?x=1", b"/chat?x=1"])
def test_parsed_request(path: bytes | str, fields: Any) -> None:
    handshake = H11Handshake(SERVER)
    headers = [tuple(line.split(b": ", 1)) for line in CHROME.split(b"\r\n")[1:-2]]
    handshake.initiate_upgrade_connection(fields(headers), path)
    assert handshake.state is CONNECTING
    assert the_request(handshake) == the_request(server(CHROME))
    handshake.receive_data(b"abc")
    assert handshake.send(AcceptConnection("sip")) == server(CHROME).send(AcceptConnection("sip"))
    assert handshake.state is OPEN
    assert handshake.trailing_data == b"abc"


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        (FIELDS[1:], "/", 400),
        (FIELDS[:1] + FIELDS[2:], "/", 426),
        ([*FIELDS, (b"transfer-encoding", b"chunked")], "/", 400),
        ([*FIELDS, ("x-name", "Ω")], "/", 400),
        ([*FIELDS, ("x-\ud800", "y")], "/", 400),
        (FIELDS, "/ä", 400),
        (FIELDS, "/\ud800\udcff", 400),
        (FIELDS, b"/\xff", 400),
        (FIELDS, "", 400),
        ([*FIELDS, (b"host", b"b")], "/", 400),
        ([*FIELDS, (b"sec-websocket-protocol", b"a\r\nb")], "/", 400),
        ([*FIELDS, (b"x", b"a\r\nCookie: b")], "/", 400),
        ([*FIELDS, (b"x", b"a\nb")], "/", 400),
        ([*FIELDS, ("x", "a\rb")], "/", 400),
        ([*FIELDS, ("x", "a\0")], "/", 400),
        ([*FIELDS, (b"x", b"\x0ba")], "/", 400),
        ([*FIELDS, (b"x: y\r\nz", b"a")], "/", 400),
        ([*FIELDS, (b"", b"a")], "/", 400),
        ([*FIELDS, (b":path", b"/")], "/", 400),
    ],
)
def test_parsed_request_that_is_refused(headers: Headers, path: bytes | str, status: int) -> None:
    handshake = H11Handshake(SERVER)
    with pytest.raises(RemoteProtocolError) as raised:
        handshake.initiate_upgrade_connection(headers, path)
    assert sendable(handshake, raised.value).status_code == status
    with pytest.raises(LocalProtocolError, match=r"^a request was received already$"):
        handshake.initiate_upgrade_connection(FIELDS, "/")


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_parsed_field_is_refused_if_its_line_would_be(name: bytes, value: bytes) -> None:
    """Or would be parsed as something else."""
    given, written = H11Handshake(SERVER), H11Handshake(SERVER)
    headers = [*FIELDS, (b"x" + name, value.strip(b" \t"))]
    head = b"".join(b"%b: %b\r\n" % field for field in headers)
    line = b"GET / HTTP/1.1\r\n" + head + b"\r\n"
    found: dict[H11Handshake, Request] = {}
    with suppress(RemoteProtocolError):
        given.initiate_upgrade_connection(headers, "/")
        found[given] = the_request(given)
    with suppress(RemoteProtocolError):
        written.receive_data(line)
        found[written] = the_request(written)
    if given in found:
        assert found[given] == found[written]
    elif written in found:
        # The value of the line is something else.
        assert found[written].extra_headers[-1] != (b"x" + name.lower(), value.strip(b" \t"))


def test_parsed_request_comes_first_and_once() -> None:
    handshake = H11Handshake(SERVER)
    handshake.initiate_upgrade_connection(FIELDS, "/")
    failed = H11Handshake(SERVER)
    with pytest.raises(RemoteProtocolError):
        failed.receive_data(b"\0")
    for other in (handshake, failed, server(b"G"), server(CHROME)):
        with pytest.raises(LocalProtocolError, match=r"^a request was received already$"):
            other.initiate_upgrade_connection(FIELDS, "/")
    rejected = H11Handshake(SERVER)
    rejected.send(RejectConnection())
    with pytest.raises(LocalProtocolError, match=r"^a request was received already$"):
        rejected.initiate_upgrade_connection(FIELDS, "/")


def test_parsed_fields_in_latin_1_are_the_bytes_that_were_received() -> None:
    handshake = H11Handshake(SERVER)
    handshake.initiate_upgrade_connection([*FIELDS, ("X-Name", "J\xe9r\xf4me")], "/")
    assert (b"x-name", b"J\xe9r\xf4me") in the_request(handshake).extra_headers


@pytest.mark.parametrize("role", [SERVER, CLIENT], ids=["server", "client"])
def test_connection_that_a_handshake_has_opened(role: ConnectionType) -> None:
    """For programs that use wsproto's handshake without WSConnection."""
    ends = {kind: H11Handshake(kind, limits=Limits(max_frame_size=9)) for kind in ConnectionType}
    assert repr(ends[role]) == f"H11Handshake(client={role is CLIENT}, state={CONNECTING})"
    assert ends[role].client is (role is CLIENT)
    assert ends[role].connection is None
    request = Request(host="example.com", target="/", extensions=[PerMessageDeflate()])
    ends[SERVER].receive_data(ends[CLIENT].send(request))
    early = b"\x81\x82\0\0\0\0hi" if role is SERVER else b"\x81\x02hi"
    answer = AcceptConnection(extensions=[PerMessageDeflate()])
    if role is SERVER:
        ends[SERVER].receive_data(early)
        early = b""
    ends[CLIENT].receive_data(ends[SERVER].send(answer) + early)
    end = ends[role].connection
    assert end is not None
    assert ends[role].connection is end
    assert (end.connection_type, end.client) == (role, role is CLIENT)
    assert list(end.events()) == [TextMessage("hi")]
    other = ends[CLIENT if role is SERVER else SERVER].connection
    assert other is not None
    other.receive_data(end.send(TextMessage("a" * 300)))
    assert list(other.events()) == [TextMessage("a" * 300)]
    other.receive_data(end.send(BytesMessage(bytes(range(100)))))
    assert list(other.events()) == [CloseConnection(1009, "frame of 102 bytes, more than 9")]
    assert repr(ends[role]) == f"H11Handshake(client={role is CLIENT}, state={OPEN})"


def test_client_refuses_a_parsed_request() -> None:
    with pytest.raises(LocalProtocolError, match="client"):
        H11Handshake(CLIENT).initiate_upgrade_connection(FIELDS, "/")


# -- what a server sends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        AcceptConnection(subprotocol="xmpp"),
        AcceptConnection(subprotocol=""),
        AcceptConnection(subprotocol="sip\r\nX: y"),
        AcceptConnection(extra_headers=[(b"a", b"b\r\nc: d")]),
        AcceptConnection(extra_headers=[(b"a: b\r\nc", b"d")]),
        AcceptConnection(extra_headers=[(b"a", b"\x00")]),
        AcceptConnection(extra_headers=[(b"Sec-WebSocket-Protocol", b"sip")]),
        AcceptConnection(extra_headers=[(b"connection", b"close")]),
        AcceptConnection(extra_headers=[(b"content-length", b"3")]),
        RejectConnection(status_code=101),
        RejectConnection(status_code=199),
        RejectConnection(status_code=1000),
        RejectConnection(status_code=-404),
        RejectConnection(headers=[(b"a", b"b\nc: d")]),
        RejectConnection(headers=[(b"a b", b"c")]),
        RejectConnection(headers=[(b"content-length", b"3")]),
        RejectConnection(headers=[(b"content-length", b"x")], has_body=True),
        RejectConnection(headers=[(b"content-length", b"\xb2")], has_body=True),
        RejectConnection(headers=[(b"content-length", b"1"), (b"content-length", b"2")]),
        RejectConnection(headers=[(b"transfer-encoding", b"gzip")], has_body=True),
        RejectData(b"x"),
        Request("a", "/"),
        TextMessage("x"),
        CloseConnection(1000),
    ],
)
def test_refused_event_changes_nothing(event: Event) -> None:
    handshake = server(CHROME)
    with pytest.raises(LocalProtocolError):
        handshake.send(event)
    assert handshake.state is CONNECTING
    # h11 was not touched either.
    assert handshake.send(RejectConnection(403)).startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_accepting_works_after_a_refused_event() -> None:
    handshake = server(CHROME)
    with pytest.raises(LocalProtocolError):
        handshake.send(RejectConnection(headers=[(b"transfer-encoding", b"gzip")], has_body=True))
    assert handshake.send(AcceptConnection()) == server(CHROME).send(AcceptConnection())


@pytest.mark.parametrize("data", [b"", b"GET "])
def test_accepting_before_the_request_is_refused(data: bytes) -> None:
    handshake = server(data)
    with pytest.raises(LocalProtocolError, match=r"^no request was received yet$"):
        handshake.send(AcceptConnection())
    assert handshake.state is CONNECTING


def test_second_answer_is_refused() -> None:
    accepted = server(CHROME)
    accepted.send(AcceptConnection())
    rejected = server(CHROME)
    rejected.send(RejectConnection())
    rejecting = server(CHROME)
    rejecting.send(RejectConnection(has_body=True))
    for handshake in (accepted, rejected, rejecting):
        state = handshake.state
        for event in (AcceptConnection(), RejectConnection()):
            with pytest.raises(LocalProtocolError):
                handshake.send(event)
        assert handshake.state is state
    for handshake in (accepted, rejected):
        with pytest.raises(LocalProtocolError, match="no rejection with a body"):
            handshake.send(RejectData(b""))


def test_rejection_without_a_body() -> None:
    handshake = server(CHROME + b"behind")
    raw = handshake.send(RejectConnection(403, [(b"X-a", b"b")]))
    assert raw == (
        b"HTTP/1.1 403 Forbidden\r\nX-a: b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    assert handshake.state is CLOSED
    assert handshake.trailing_data == b""
    assert by_h11(raw)[0].status_code == 403


def test_rejection_before_the_request() -> None:
    # The caller may have other reasons: no time, no room.
    for handshake in (H11Handshake(SERVER), server(b"GET / HT")):
        raw = handshake.send(RejectConnection(408))
        assert raw.startswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n")
        assert handshake.state is CLOSED
        handshake.receive_data(CHROME)
        assert list(handshake.events()) == []


@pytest.mark.parametrize(
    ("headers", "connection"),
    [
        ([], b"close"),
        ([(b"connection", b"close")], b"close"),
        ([(b"Connection", b"keep-alive")], b"close"),
        ([(b"Connection", b"Close, X"), (b"connection", b", Keep-Alive ,y")], b"close, X, y"),
    ],
)
def test_connection_close_is_sent_once(headers: Headers, connection: bytes) -> None:
    response, _ = by_h11(server(CHROME).send(RejectConnection(400, headers)))
    assert list(response.headers) == [(b"connection", connection), (b"content-length", b"0")]


def test_statuses() -> None:
    for status, start in (
        (200, b"HTTP/1.1 200 OK\r\n"),
        (300, b"HTTP/1.1 300 Multiple Choices\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ):
        raw = server(CHROME).send(RejectConnection(status))
        assert raw.startswith(start)
        assert by_h11(raw)[0].status_code == status


def test_no_content_has_no_body() -> None:
    response, body = by_h11(server(CHROME).send(RejectConnection(204)))
    assert (response.status_code, body) == (204, b"")
    assert b"content-length" not in dict(response.headers)


def test_body_in_chunks() -> None:
    handshake = server(CHROME)
    raw = handshake.send(RejectConnection(403, [(b"Content-Type", b"text/plain")], has_body=True))
    assert handshake.state is REJECTING
    raw += handshake.send(RejectData(b"ab", body_finished=False))
    raw += handshake.send(RejectData(b"", body_finished=False))
    assert handshake.state is REJECTING
    handshake.receive_data(b"not read")
    handshake.receive_data(None)
    raw += handshake.send(RejectData(b"cd"))
    assert handshake.state is CLOSED
    response, body = by_h11(raw)
    assert dict(response.headers)[b"transfer-encoding"] == b"chunked"
    assert body == b"abcd"
    with pytest.raises(LocalProtocolError):
        handshake.send(RejectData(b""))


@pytest.mark.parametrize("body", [b"", b"x", b"hello"])
def test_body_of_announced_length(body: bytes) -> None:
    handshake = server(CHROME)
    headers = [(b"Content-Length", b"%d" % len(body))]
    raw = handshake.send(RejectConnection(403, headers, has_body=True))
    raw += handshake.send(RejectData(body[:1], body_finished=False))
    with pytest.raises(LocalProtocolError, match="Content-Length"):
        handshake.send(RejectData(body, body_finished=False)) if body else handshake.send(
            RejectData(b"x")
        )
    if len(body) > 1:
        with pytest.raises(LocalProtocolError, match="Content-Length"):
            handshake.send(RejectData(b""))
    assert handshake.state is REJECTING
    raw += handshake.send(RejectData(body[1:]))
    assert handshake.state is CLOSED
    assert by_h11(raw)[1] == body


def test_http_1_0_client_gets_a_body_without_chunks() -> None:
    handshake = H11Handshake(SERVER)
    with pytest.raises(RemoteProtocolError):
        handshake.receive_data(written(FIELDS, b"GET / HTTP/1.0"))
    raw = handshake.send(RejectConnection(400, has_body=True))
    raw += handshake.send(RejectData(b"body"))
    response, body = by_h11(raw)
    assert b"transfer-encoding" not in dict(response.headers)
    assert body == b"body"


def test_chunks_that_the_caller_announced() -> None:
    handshake = server(CHROME)
    headers = [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")]
    raw = handshake.send(RejectConnection(403, headers, has_body=True))
    raw += handshake.send(RejectData(b"body"))
    assert by_h11(raw)[1] == b"body"
    raw = server(CHROME).send(RejectConnection(403, headers[:1]))
    assert by_h11(raw)[1] == b""


def test_answer_to_head_has_no_body() -> None:
    handshake = H11Handshake(SERVER)
    with pytest.raises(RemoteProtocolError):
        handshake.receive_data(written(FIELDS, b"HEAD / HTTP/1.1"))
    raw = handshake.send(RejectConnection(405, [(b"Content-Length", b"4")], has_body=True))
    raw += handshake.send(RejectData(b"body"))
    response, body = by_h11(raw, b"HEAD")
    assert dict(response.headers)[b"content-length"] == b"4"
    assert body == b""
    assert raw.endswith(b"\r\n\r\n")


def test_not_modified_has_no_body() -> None:
    for headers in ([], [(b"Content-Length", b"4")]):
        raw = server(CHROME).send(RejectConnection(304, headers))
        response, body = by_h11(raw)
        assert (response.status_code, body) == (304, b"")
        handshake = server(CHROME)
        raw = handshake.send(RejectConnection(304, headers, has_body=True))
        with pytest.raises(LocalProtocolError):
            handshake.send(RejectData(b"x"))
        raw += handshake.send(RejectData(b""))
        assert by_h11(raw)[1] == b""


# -- invariant 35: nothing from outside writes lines of its own ------------------------------------

ANYTHING = st.binary(max_size=6) | st.sampled_from(
    [b"\r\nX: y", b"\n", b"\r", b"\0", b"ok", b"a b"]
)
ANY_FIELDS = st.lists(st.tuples(ANYTHING, ANYTHING), max_size=3)
ANY_TEXT = st.text(max_size=6) | st.sampled_from(["\r\nX: y", "\n", "/", "/a", "ok", "\x85", "sip"])


def lines_of(raw: bytes) -> list[bytes]:
    assert b"\0" not in raw
    assert raw.endswith(b"\r\n\r\n")
    lines = raw[:-4].split(b"\r\n")
    assert not any(set(line) & set(b"\r\n") for line in lines)
    return lines


@given(ANY_FIELDS, ANY_TEXT | st.none())
def test_acceptance_has_the_lines_it_was_given(headers: Headers, subprotocol: str | None) -> None:
    handshake = server(CHROME)
    try:
        raw = handshake.send(AcceptConnection(subprotocol, extra_headers=headers))
    except LocalProtocolError:
        assert handshake.state is CONNECTING
        return
    lines = lines_of(raw)[4:]
    if subprotocol is not None:
        assert lines.pop(0) == b"Sec-WebSocket-Protocol: sip"
    assert lines == [b"%b: %b" % field for field in headers]


@given(ANY_FIELDS, st.integers(299, 600).filter(lambda status: status != 304))
def test_rejection_has_the_lines_it_was_given(headers: Headers, status: int) -> None:
    handshake = server(CHROME)
    try:
        raw = handshake.send(RejectConnection(status, headers))
    except LocalProtocolError:
        assert handshake.state is CONNECTING
        return
    assert lines_of(raw)[1:] == [
        *(b"%b: %b" % field for field in headers),
        b"Connection: close",
        b"Content-Length: 0",
    ]


@given(ANY_TEXT, ANY_TEXT, ANY_FIELDS, st.lists(ANY_TEXT, max_size=3))
@example("ok", "/a", [], ["sip"])
def test_request_has_the_lines_it_was_given(
    host: str, target: str, headers: Headers, subprotocols: list[str]
) -> None:
    handshake = H11Handshake(CLIENT, entropy=lambda _: b"the sample nonce")
    try:
        raw = handshake.send(
            Request(host, target, extra_headers=headers, subprotocols=subprotocols)
        )
    except LocalProtocolError:
        assert handshake.state is CONNECTING
        # No response was started.
        handshake.send(Request("a", "/"))
        return
    # Hosts outside ASCII are sent in another form.
    assume(host.isascii())
    assert lines_of(raw) == [
        b"GET %b HTTP/1.1" % target.encode("ascii"),
        b"Host: %b" % host.encode("ascii"),
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        *([b"Sec-WebSocket-Protocol: " + ", ".join(subprotocols).encode()] if subprotocols else []),
        *(b"%b: %b" % field for field in headers),
    ]


# -- a client --------------------------------------------------------------------------------------


def client(data: bytes | None = None, /, **request: Any) -> H11Handshake:
    handshake = H11Handshake(CLIENT, entropy=lambda count: b"the sample nonce"[:count])
    handshake.send(Request("example.com", "/chat", **request))
    if data is not None:
        handshake.receive_data(data)
    return handshake


def switching(*fields: tuple[bytes, bytes], start: bytes = b"HTTP/1.1 101 Switching") -> bytes:
    usual = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", TOKEN),
    ]
    given = {name.lower() for name, _ in fields}
    return written([*(f for f in usual if f[0].lower() not in given), *fields], start)


def failed(handshake: H11Handshake, data: bytes | None, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match) as raised:
        handshake.receive_data(data)
    assert raised.value.event_hint is None
    assert handshake.state is CLOSED
    # Later input is dropped.
    handshake.receive_data(switching())
    handshake.receive_data(None)
    assert handshake.state is CLOSED
    assert handshake.trailing_data == b""
    with pytest.raises(LocalProtocolError):
        handshake.send(Request("a", "/"))


def test_request_is_sent() -> None:
    handshake = H11Handshake(CLIENT, entropy=lambda count: b"the sample nonce"[:count])
    assert handshake.state is CONNECTING
    raw = handshake.send(
        Request(
            "example.com:8080",
            "/chat?x=1",
            extensions=[PerMessageDeflate()],
            extra_headers=[(b"Origin", b"http://a"), (b"Cookie", b"\xff")],
            subprotocols=["sip", "msrp"],
        )
    )
    lines = raw.split(b"\r\n")
    offer = lines.pop(7)
    assert offer.startswith(b"Sec-WebSocket-Extensions: permessage-deflate")
    assert lines == [
        b"GET /chat?x=1 HTTP/1.1",
        b"Host: example.com:8080",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Protocol: sip, msrp",
        b"Origin: http://a",
        b"Cookie: \xff",
        b"",
        b"",
    ]
    assert handshake.state is CONNECTING


def test_keys_are_fresh() -> None:
    keys = set()
    for _ in range(20):
        lines = H11Handshake(CLIENT).send(Request("a", "/")).split(b"\r\n")
        keys.add(next(line for line in lines if line.startswith(b"Sec-WebSocket-Key: ")))
    assert len(keys) == 20


def test_wsproto_asks_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import wsproto
    import wsproto.events

    monkeypatch.setattr(os, "urandom", lambda count: b"the sample nonce"[:count])
    theirs = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    arguments: dict[str, Any] = {
        "host": "example.com",
        "target": "/chat",
        "subprotocols": ["a", "b"],
        "extra_headers": [(b"X", b"y")],
    }
    expected = theirs.send(wsproto.events.Request(**arguments))
    handshake = H11Handshake(CLIENT, entropy=os.urandom)
    assert handshake.send(Request(**arguments)) == expected


@pytest.mark.parametrize(
    "event",
    [
        Request("exä mple.com", "/"),
        Request("", "/"),
        Request("a\r\nb: c", "/"),
        Request("a", "/ä"),
        Request("a", "chat"),
        Request("a", "/ HTTP/1.1\r\nb: c"),
        Request("a", "/", subprotocols=["a", "a"]),
        Request("a", "/", subprotocols=["a\r\nb: c"]),
        Request("a", "/", extra_headers=[(b"Host", b"b")]),
        Request("a", "/", extra_headers=[(b"Sec-WebSocket-Key", KEY)]),
        Request("a", "/", extra_headers=[(b"a", b"b\r\nc: d")]),
        Request("a", "/", extensions=["permessage-deflate"]),
        AcceptConnection(),
        RejectConnection(),
        RejectData(b""),
        TextMessage("a"),
    ],
)
def test_client_refuses_other_events(event: Event) -> None:
    handshake = H11Handshake(CLIENT)
    with pytest.raises(LocalProtocolError):
        handshake.send(event)
    assert handshake.state is CONNECTING
    assert handshake.send(Request("a", "/")).startswith(b"GET / HTTP/1.1\r\n")


def test_request_is_sent_once() -> None:
    handshake = client()
    with pytest.raises(LocalProtocolError, match="twice"):
        handshake.send(Request("a", "/"))
    handshake.receive_data(switching())
    assert handshake.state is OPEN
    with pytest.raises(LocalProtocolError, match="twice"):
        handshake.send(Request("a", "/"))


def test_answer() -> None:
    extension = PerMessageDeflate()
    handshake = client(
        switching(
            (b"Date", b"now"),
            (b"Sec-WebSocket-Protocol", b"msrp"),
            (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
            (b"Set-Cookie", b"a"),
            (b"set-cookie", b"\xff"),
            (b"Sec-WebSocket-Version", b"13"),
        )
        + b"\x81\x01a",
        extensions=[extension],
        subprotocols=["sip", "msrp"],
    )
    assert handshake.state is OPEN
    (event,) = handshake.events()
    assert event == AcceptConnection(
        "msrp",
        [extension],
        [
            (b"date", b"now"),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"\xff"),
            (b"sec-websocket-version", b"13"),
        ],
    )
    assert type(event) is AcceptConnection
    assert handshake.subprotocol == "msrp"
    assert handshake.accepted_extensions == [extension]
    assert extension.enabled()
    assert handshake.trailing_data == b"\x81\x01a"
    with pytest.raises(LocalProtocolError, match="to the connection"):
        handshake.receive_data(b"more")


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Upgrade", b"WebSocket")],
        [(b"Connection", b"keep-alive, upgrade")],
        [(b"Connection", b"UPGRADE")],
    ],
)
def test_valid_answers_are_accepted(fields: Headers) -> None:
    assert list(client(switching(*fields)).events()) == [AcceptConnection()]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ([(b"Upgrade", b"")], "switch"),
        ([(b"Upgrade", b"h2c")], "switch"),
        ([(b"Upgrade", b"websocket, h2c")], "switch"),
        ([(b"Upgrade", b"websocket"), (b"Upgrade", b"websocket")], "switch"),
        ([(b"Upgrade", b"websocket\xa0")], "switch"),
        ([(b"Connection", b"close")], "Connection"),
        ([(b"Connection", b"")], "connection"),
        ([(b"Connection", b"upgrade\xff")], "connection"),
        ([(b"Sec-WebSocket-Accept", b"")], "Accept"),
        ([(b"Sec-WebSocket-Accept", TOKEN.lower())], "Accept"),
        ([(b"Sec-WebSocket-Accept", TOKEN + b"=")], "Accept"),
        ([(b"Sec-WebSocket-Accept", TOKEN[:-1])], "Accept"),
        ([(b"Sec-WebSocket-Accept", TOKEN + b"\xa0")], "Accept"),
        ([(b"Sec-WebSocket-Accept", TOKEN), (b"sec-websocket-accept", TOKEN)], "Accept"),
        ([(b"Sec-WebSocket-Protocol", b"xmpp")], "sub-protocol"),
        ([(b"Sec-WebSocket-Protocol", b"")], "sub-protocol"),
        ([(b"Sec-WebSocket-Protocol", b"SIP")], "sub-protocol"),
        ([(b"Sec-WebSocket-Protocol", b"sip, msrp")], "sub-protocol"),
        (
            [(b"Sec-WebSocket-Protocol", b"sip"), (b"Sec-WebSocket-Protocol", b"sip")],
            "sub-protocol",
        ),
        ([(b"Sec-WebSocket-Protocol", b"sip\xff")], "sub-protocol"),
        ([(b"Sec-WebSocket-Extensions", b"foo")], "extension"),
        ([(b"Sec-WebSocket-Extensions", b"")], "extensions is empty"),
        ([(b"Sec-WebSocket-Extensions", b"permessage-deflate; foo")], None),
        ([(b"Sec-WebSocket-Extensions", b"permessage-deflate, permessage-deflate")], "twice"),
        ([(b"Sec-WebSocket-Extensions", b"permessage-deflate\xff")], "ASCII"),
        ([(b"a b", b"c")], "invalid HTTP"),
        ([(b"a", b"b")] * 70, "header fields"),
        ([(b"a", b"b" * 17_000)], "longer"),
        ([(b"a", b"b" * 8000)] * 3, "head is"),
    ],
)
def test_invalid_answers_are_refused(fields: Headers, match: str | None) -> None:
    handshake = client(extensions=[PerMessageDeflate()], subprotocols=["sip", "msrp"])
    failed(handshake, switching(*fields), match)
    assert list(handshake.events()) == []
    assert handshake.subprotocol is None


@pytest.mark.parametrize("missing", [b"Upgrade", b"Connection", b"Sec-WebSocket-Accept"])
def test_incomplete_answers_are_refused(missing: bytes) -> None:
    lines = switching().split(b"\r\n")
    data = b"\r\n".join(line for line in lines if not line.startswith(missing + b":"))
    assert len(data) < len(switching())
    failed(client(), data)


@given(st.integers(0, len(TOKEN) - 1), st.integers(33, 255))
def test_accept_value_is_compared_exactly(at: int, byte: int) -> None:
    # Invariant 37.
    value = TOKEN[:at] + bytes([byte]) + TOKEN[at + 1 :]
    handshake = client()
    if value == TOKEN:
        handshake.receive_data(switching((b"Sec-WebSocket-Accept", value)))
        assert handshake.state is OPEN
    else:
        failed(handshake, switching((b"Sec-WebSocket-Accept", value)), "does not answer the key")


@pytest.mark.parametrize("version", ["1.0", "0.9", "2.0"])
def test_another_version_of_http_cannot_switch(version: str) -> None:
    line = b"HTTP/%b 101 Switching" % version.encode()
    failed(client(), switching(start=line), f"in HTTP/{version}")


@pytest.mark.parametrize(
    "data",
    [
        b"\x81",
        b"SIP/2.0",
        b"HTTP/1.1 1",
        b"HTTP/1.1 099 \r\n\r\n",
        b"HTTP/x\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
    ],
)
def test_input_that_is_not_a_response_is_refused(data: bytes) -> None:
    if data == b"HTTP/1.1 1":
        assert list(client(data).events()) == []
    else:
        failed(client(), data)


def test_interim_responses_are_ignored() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + b"HTTP/1.1 100 \r\n\r\n"
    assert list(client(interim + switching() + b"x").events()) == [AcceptConnection()]
    handshake = client(interim)
    assert list(handshake.events()) == []
    assert handshake.state is CONNECTING
    handshake.receive_data(interim + b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n")
    assert [type(event) for event in handshake.events()] == [RejectConnection, RejectData]
    # All heads together belong to one handshake.
    failed(client(), interim * 400, "head is longer")


def rejection(handshake: H11Handshake) -> tuple[RejectConnection, list[RejectData]]:
    first, *rest = handshake.events()
    assert type(first) is RejectConnection
    assert first.has_body
    pieces = []
    for event in rest:
        assert type(event) is RejectData
        pieces.append(event)
    return first, pieces


@pytest.mark.parametrize(
    ("start", "fields"),
    [
        (b"HTTP/1.1 301 Moved", [(b"Location", b"wss://b/")]),
        (
            b"HTTP/1.1 401 Unauthorized",
            [(b"WWW-Authenticate", b"Basic"), (b"www-authenticate", b"x")],
        ),
        (b"HTTP/1.1 200 OK", []),
        (b"HTTP/1.0 503", []),
        (b"HTTP/1.1 999 ?", []),
    ],
)
def test_every_other_response_is_a_rejection(start: bytes, fields: Headers) -> None:
    handshake = client(written([*fields, (b"Content-Length", b"4")], start) + b"bodybehind")
    first, pieces = rejection(handshake)
    assert first.status_code == int(start[9:12])
    assert first.headers == [
        *((name.lower(), value) for name, value in fields),
        (b"content-length", b"4"),
    ]
    assert pieces == [RejectData(b"body", True)]
    assert handshake.state is CLOSED
    assert handshake.trailing_data == b""
    handshake.receive_data(b"more")
    handshake.receive_data(None)
    assert list(handshake.events()) == []


CHUNKED = b"HTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = [
    (b"HTTP/1.1 404 \r\nContent-Length: 6\r\n\r\nabcdef", True),
    (b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", True),
    (b"HTTP/1.1 204 \r\n\r\n", True),
    (b"HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n", True),
    (CHUNKED + b"1;x=y\r\na\r\n4\r\nbcde\r\n1\r\nf\r\n0\r\nTrailer: x\r\n\r\n", True),
    (CHUNKED + b"0\r\n\r\n", True),
    (b"HTTP/1.1 404 \r\n\r\nabcdef", False),
    (b"HTTP/1.1 404 \r\n\r\n", False),
]


@given(st.sampled_from(BODIES), st.data())
def test_any_split_of_a_body_gives_the_same(case: tuple[bytes, bool], data: st.DataObject) -> None:
    stream, ends_itself = case
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=10))
    handshake = client()
    states = []
    for start, end in pairwise([0, *sorted(cuts), len(stream)]):
        handshake.receive_data(stream[start:end])
        states.append(handshake.state)
    assert handshake.state is (CLOSED if ends_itself else REJECTING)
    handshake.receive_data(None)
    assert handshake.state is CLOSED
    first, pieces = rejection(handshake)
    assert first.status_code in (404, 204, 304)
    assert b"".join(piece.data for piece in pieces) == (
        b"abcdef" if b"a" in stream.partition(b"\r\n\r\n")[2] else b""
    )
    assert [piece.body_finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.data for piece in pieces[:-1])
    assert all(type(piece.data) is bytes for piece in pieces)


def test_pieces_are_bounded() -> None:
    size = 3 * module.BODY_PIECE + 1
    handshake = client(b"HTTP/1.1 404 \r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    _, pieces = rejection(handshake)
    assert [len(piece.data) for piece in pieces] == [module.BODY_PIECE] * 3 + [1]
    assert [piece.body_finished for piece in pieces] == [False] * 3 + [True]
    handshake = client(b"HTTP/1.1 404 \r\n\r\n" + b"x" * size)
    _, pieces = rejection(handshake)
    assert [len(piece.data) for piece in pieces] == [module.BODY_PIECE] * 3 + [1]
    assert not any(piece.body_finished for piece in pieces)


def test_small_chunks_make_one_piece() -> None:
    _, pieces = rejection(client(CHUNKED + b"1\r\nx\r\n" * 500))
    assert pieces == [RejectData(b"x" * 500, False)]


@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        (CHUNKED + b"3\r\nabc\r\nx\r\n", [b"abc"]),
        (CHUNKED + b"3\r\nabcd", [b"abc"]),
        (CHUNKED + b";" + b"x" * 17000, []),
    ],
)
def test_body_that_is_malformed(data: bytes, pieces: list[bytes]) -> None:
    handshake = client()
    failed(handshake, data, "invalid HTTP")
    _, found = rejection(handshake)
    assert found == [RejectData(piece, False) for piece in pieces]


@pytest.mark.parametrize("fields", [[(b"Transfer-Encoding", b"gzip")], [(b"Content-Length", b"x")]])
def test_unknown_transfer_coding_is_refused(fields: Headers) -> None:
    handshake = client()
    failed(handshake, written(fields, b"HTTP/1.1 404 x"), "invalid HTTP")
    assert list(handshake.events()) == []


@pytest.mark.parametrize(
    "data", [b"", b"H", switching()[:-1], b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 404 \r\n"]
)
def test_end_of_input_before_the_answer(data: bytes) -> None:
    handshake = client(data)
    failed(handshake, None, "went away before it answered")
    assert list(handshake.events()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 404 \r\nContent-Length: 4\r\n\r\nabc",
        CHUNKED + b"4\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
    ],
)
def test_end_of_input_in_the_body(data: bytes) -> None:
    handshake = client(data)
    failed(handshake, None, "invalid HTTP")
    assert rejection(handshake)[1] == [RejectData(b"abc", False)]


def test_response_without_a_request_is_refused() -> None:
    handshake = H11Handshake(CLIENT)
    handshake.receive_data(b"")
    failed(handshake, switching(), "spoke before the request")
    failed(H11Handshake(CLIENT), None, "went away")


@given(st.binary(max_size=40), st.integers(0, 100))
def test_any_response_is_reported_or_refused(junk: bytes, at: int) -> None:
    good = switching()
    for data in (junk, good[:at] + junk + good[at:], good[:at] + junk + b"\r\n\r\n"):
        handshake = client()
        try:
            handshake.receive_data(data)
            handshake.receive_data(None) if handshake.state is not OPEN else None
        except RemoteProtocolError:
            assert handshake.state is CLOSED
        for event in handshake.events():
            assert type(event) in (AcceptConnection, RejectConnection, RejectData)


@given(st.sets(st.integers(0, 200), max_size=8))
def test_any_split_of_the_answer_gives_the_same(cuts: set[int]) -> None:
    stream = b"HTTP/1.1 103 \r\n\r\n" + switching() + b"\x81\x01a"
    handshake = client()
    done = 0
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]):
        if handshake.state is OPEN:
            break
        handshake.receive_data(stream[start:end])
        done = end
    assert handshake.state is OPEN
    assert list(handshake.events()) == [AcceptConnection()]
    assert handshake.trailing_data + stream[done:] == b"\x81\x01a"


# -- both ends -------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["sip", "msrp", "a.b"]), unique=True),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_both_ends_agree(names: list[str], choose: bool, offer: bool, support: bool) -> None:
    asking, answering = H11Handshake(CLIENT), H11Handshake(SERVER)
    extensions = [PerMessageDeflate()] if offer else []
    answering.receive_data(
        asking.send(Request("a", "/", subprotocols=names, extensions=extensions))
    )
    request = the_request(answering)
    assert request.subprotocols == names
    chosen = names[-1] if names and choose else None
    supported = [PerMessageDeflate()] if support else []
    asking.receive_data(answering.send(AcceptConnection(chosen, list(supported))))
    assert asking.state is OPEN
    assert asking.subprotocol == answering.subprotocol == chosen
    expected = 1 if offer and support else 0
    assert len(asking.accepted_extensions) == len(answering.accepted_extensions) == expected
    assert [e.enabled() for e in extensions] == [bool(expected)] * len(extensions)


def test_refusal_reaches_the_client() -> None:
    asking, answering = H11Handshake(CLIENT), server(CHROME)
    asking.send(Request("a", "/"))
    raw = answering.send(RejectConnection(401, [(b"WWW-Authenticate", b"x")], has_body=True))
    raw += answering.send(RejectData(b"no", body_finished=False))
    asking.receive_data(raw + answering.send(RejectData(b" way")))
    first, pieces = rejection(asking)
    assert first.status_code == 401
    assert (b"www-authenticate", b"x") in first.headers
    assert pieces == [RejectData(b"no way", True)]


# -- invariant 38: what is hostile but small enough costs no more than what is not -----------------

BIG = 8000


@pytest.mark.parametrize(
    "unit", [",", ", ", " ", "\t", '"', '\\"', "a", "a;", ";", "a,", 'a="', "a b "]
)
@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Upgrade",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Extensions",
        b"Host",
        b"Cookie",
    ],
)
def test_hostile_fields(unit: str, name: bytes) -> None:
    limits = Limits(max_handshake_bytes=1 << 20, max_header_line=1 << 20, max_list_items=1 << 20)
    for size in (BIG, 400_000):
        value = (unit * (size // len(unit))).encode()
        for data in (with_field(name, b"x" + value + b"x"), with_field(name, b'x; y="' + value)):
            handshake = H11Handshake(SERVER, limits=Limits() if size == BIG else limits)
            try:
                handshake.receive_data(data)
            except RemoteProtocolError as error:
                sendable(handshake, error)
            else:
                the_request(handshake)


# -- the ordinary request, and h11 -----------------------------------------------------------------


def outcome_of(data: bytes, answers: Sequence[Event], **options: Any) -> list[object]:
    """Return all results of a server's handshake for a request and the answers to it."""
    handshake = H11Handshake(SERVER, **options)
    outcome: list[object] = []
    try:
        handshake.receive_data(data)
    except RemoteProtocolError as error:
        outcome += [str(error), error.event_hint]
        answers = [error.event_hint] if error.event_hint else []
    outcome += handshake.events()
    for answer in answers:
        try:
            outcome.append(handshake.send(answer))
        except LocalProtocolError as error:
            outcome.append(str(error))
    return [*outcome, handshake.state, handshake.subprotocol, handshake.trailing_data]


ANSWERS: list[list[Event]] = [
    [AcceptConnection()],
    [AcceptConnection(subprotocol="sip", extra_headers=[(b"A", b"b")])],
    [RejectConnection(404)],
    [RejectConnection(403, [(b"Content-Length", b"2")], has_body=True), RejectData(b"no")],
    [RejectConnection(200, has_body=True), RejectData(b"a", False), RejectData(b"b")],
    [RejectConnection(426, [(b"Upgrade", b"websocket")])],
]


@given(st.data())
def test_requests_have_one_outcome_with_and_without_the_fast_reader(data: st.DataObject) -> None:
    fields = dict(line.split(b": ", 1) for line in CHROME.split(b"\r\n")[1:-2])
    for name in data.draw(st.sets(st.sampled_from(sorted(fields)), max_size=2)):
        fields[name] = data.draw(
            st.sampled_from(
                [b"13", b"upgrade", b"close, Upgrade", b"WebSocket", b"x", KEY, b"a, a", b";"]
            )
        )
    for name in data.draw(st.sets(st.sampled_from(sorted(fields)), max_size=1)):
        del fields[name]
    if data.draw(st.booleans()):
        fields[b"Expect"] = b"100-continue"
    request = written(list(fields.items())) + data.draw(st.sampled_from([b"", b"\x81\x00"]))
    answers = data.draw(st.sampled_from(ANSWERS))
    plain = data.draw(st.booleans())
    outcome = outcome_of(request, answers, plain_requests=plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_ordinary_request", lambda head: None)
        assert outcome_of(request, answers, plain_requests=plain) == outcome


def seen_of(data: bytes) -> Request | None:
    server = H11Handshake(ConnectionType.SERVER)
    with contextlib.suppress(RemoteProtocolError):
        server.receive_data(data)
    return server.seen


@pytest.mark.parametrize(
    "head", ["GET /a?b HTTP/1.1", "POST /a?b HTTP/1.1", "GET /a?b HTTP/1.0", "GET /a?b HTTP/2.0"]
)
def test_seen_has_a_refused_request(head: str) -> None:
    request = seen_of(f"{head}\r\nHost: h\r\nUser-Agent: curl\r\n\r\n".encode())
    assert request is not None
    assert (request.host, request.target, request.subprotocols) == ("h", "/a?b", [])
    assert dict(request.extra_headers)[b"user-agent"] == b"curl"


def test_seen_is_none_without_a_request() -> None:
    assert seen_of(b"hello\r\n\r\n") is None
    assert seen_of(b"GET / HTTP/1.1\r\nHo") is None


def test_seen_has_a_valid_request() -> None:
    request = seen_of(CHROME)
    assert request is not None
    assert request.host != ""

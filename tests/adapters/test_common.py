"""URIs, redirections, exceptions and configurations of the adapters."""

from __future__ import annotations

import pytest

from wsproto_sip.adapters._common import (
    ConnectionClosedError,
    HandshakeRejected,
    WebSocketURI,
    adapted,
    default_answer,
    lost,
    make_request,
    message_event,
    no_extensions,
    only_closed,
    protocol_names,
    redirected,
)
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.lifecycle import Cause, ConnectionClosed
from wsproto_sip.prepared import PreparedMessage


class TestURI:
    @pytest.mark.parametrize(
        ("text", "expected", "host"),
        [
            ("ws://example.com", WebSocketURI(False, "example.com", 80, "/"), "example.com"),
            ("wss://Example.com/a?b", WebSocketURI(True, "example.com", 443, "/a?b"), None),
            ("wss://x:80/%20?", WebSocketURI(True, "x", 80, "/%20"), "x:80"),
            ("ws://[::1]:443/ü", WebSocketURI(False, "::1", 443, "/%C3%BC"), "[::1]:443"),
            ("ws://bücher.de", WebSocketURI(False, "xn--bcher-kva.de", 80, "/"), None),
            ("ws://a@h/", WebSocketURI(False, "h", 80, "/", b"a:"), "h"),
            ("ws://%41:b%3a@h/", WebSocketURI(False, "h", 80, "/", b"A:b:"), "h"),
        ],
    )
    def test_taken_apart(self, text: str, expected: WebSocketURI, host: str | None) -> None:
        uri = WebSocketURI.parse(text)
        assert uri == expected
        assert uri.host_header == (host or uri.host)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("ws://a b/", "a space"),
            ("ws://a\n/", "control"),
            ("http://a/", "ws:// or wss://"),
            ("ws://a/#b", "fragment"),
            ("ws:///x", "no host"),
            ("ws://a..b/", "domain name"),
            ("ws://a%3ab@h/", "colon"),
            ("ws://h:99999/", "port|Port"),
        ],
    )
    def test_refused(self, text: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            WebSocketURI.parse(text)

    def test_printed_without_secrets(self) -> None:
        assert str(WebSocketURI.parse("wss://a:b@h:1/x?y")) == "wss://h:1/x?y"
        assert str(WebSocketURI.parse("ws://h")) == "ws://h/"


class TestRequest:
    def test_credentials(self) -> None:
        uri = WebSocketURI.parse("ws://Aladdin:open%20sesame@h/")
        request = make_request(uri, headers=[(b"X", b"y")], subprotocols=["a"], extensions=[])
        # RFC 7617 §2 has this one.
        basic = (b"Authorization", b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        assert request.extra_headers == [(b"X", b"y"), basic]
        assert request.subprotocols == ["a"]

    def test_the_callers_authorization_stands(self) -> None:
        own = [(b"AUTHORIZATION", b"Bearer x")]
        uri = WebSocketURI.parse("ws://a:b@h/")
        request = make_request(uri, headers=own, subprotocols=[], extensions=[])
        assert request.extra_headers == own


class TestRedirection:
    SECRETS = ((b"Cookie", b"c"), (b"authorization", b"a"), (b"X", b"x"))

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        ("location", "target"),
        [
            (b"there", "wss://h:1/a/there"),
            (b"/there?x", "wss://h:1/there?x"),
            (b"https://h:1/x", "wss://h:1/x"),
            (b"wss://h:1/x", "wss://h:1/x"),
        ],
    )
    def test_same_server(self, status: int, location: bytes, target: str) -> None:
        uri = WebSocketURI.parse("wss://a:b@h:1/a/b?c")
        rejection = HandshakeRejected(status, [(b"Location", location)])
        followed = redirected(uri, self.SECRETS, rejection)
        assert followed is not None
        assert str(followed[0]) == target
        assert followed[0].credentials == b"a:b"
        assert followed[1] == list(self.SECRETS)

    @pytest.mark.parametrize("location", [b"//h:2/", b"wss://i:1/", b"wss://h/"])
    def test_another_server_is_told_no_secrets(self, location: bytes) -> None:
        uri = WebSocketURI.parse("wss://a:b@h:1/")
        followed = redirected(uri, self.SECRETS, HandshakeRejected(302, [(b"location", location)]))
        assert followed is not None
        assert followed[0].credentials is None
        assert followed[1] == [(b"X", b"x")]

    def test_its_own_credentials(self) -> None:
        uri = WebSocketURI.parse("ws://a:b@h/")
        rejection = HandshakeRejected(302, [(b"location", b"ws://c:d@h/")])
        followed = redirected(uri, (), rejection)
        assert followed is not None
        assert followed[0].credentials == b"c:d"

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (302, []),
            (302, [(b"location", b"")]),
            (302, [(b"location", b"/\xff")]),
            (302, [(b"location", b"ftp://x/")]),
            (302, [(b"location", b"ws://h/")]),
            (302, [(b"location", b"http://h/")]),
            (302, [(b"location", b"/#x")]),
            (200, [(b"location", b"/x")]),
            (304, [(b"location", b"/x")]),
        ],
    )
    def test_not_followed(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        uri = WebSocketURI.parse("wss://h/")
        assert redirected(uri, (), HandshakeRejected(status, headers)) is None


class TestExceptions:
    @pytest.mark.parametrize(
        ("code", "received", "in_order"),
        [
            (1000, True, True),
            (1001, True, True),
            (1005, True, True),
            (1011, True, False),
            (1000, False, False),
            (1006, False, False),
        ],
    )
    def test_closed(self, code: int, received: bool, in_order: bool) -> None:
        frame = CloseConnection(code) if received else None
        error = ConnectionClosedError(ConnectionClosed(code, "why", Cause.REMOTE, frame))
        assert (error.code, error.reason, error.in_order) == (code, "why", in_order)
        assert str(error) == f"connection closed with {code} (remote): why"

    def test_lost(self) -> None:
        assert str(ConnectionClosedError(lost(""))) == "connection closed with 1006 (end of input)"

    def test_rejected(self) -> None:
        error = HandshakeRejected(401, [(b"A", b"b"), (b"a", b"c")], b"body")
        assert str(error) == "the handshake was rejected with status 401"
        assert (error.header(b"a"), error.header(b"x")) == (b"b", None)
        response = error.response()
        assert response.status_code == 401
        assert response.headers == [(b"A", b"b"), (b"a", b"c"), (b"Content-Length", b"4")]
        assert response.has_body


def test_configuration() -> None:
    config = SessionConfig(whole_messages=False, max_age=9, profiles={"sip": SessionConfig()})
    for result in (adapted(config), adapted(config).profiles["sip"]):
        assert not result.auto_pause
        assert result.whole_messages
        assert result.limits.max_frames_per_call == 16
        assert result.limits.max_outgoing is None
        assert result.limits.max_message_size == config.limits.max_message_size
    assert adapted(config).max_age == 9


def test_messages() -> None:
    class Text(str):
        __slots__ = ()

    prepared = PreparedMessage(TextMessage("x"))
    assert message_event("x") == TextMessage("x")
    assert message_event(Text("x")) == TextMessage("x")
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert message_event(data) == BytesMessage(data)  # type: ignore[arg-type]
    assert message_event(prepared) is prepared
    with pytest.raises(TypeError, match="a message is str, octets or prepared, and not int"):
        message_event(5)  # type: ignore[arg-type]


def test_one_name_is_no_list_of_sub_protocols() -> None:
    assert protocol_names(("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match=r"a sequence of names: \['sip'\]"):
        protocol_names("sip")
    uri = WebSocketURI.parse("ws://h/")
    with pytest.raises(TypeError, match="a sequence of names"):
        make_request(uri, headers=[], subprotocols="sip", extensions=[])


def test_default_answer() -> None:
    extension = PerMessageDeflate()
    for offers, chosen in ((["x", "msrp", "sip"], "msrp"), ([], None)):
        answer = default_answer(
            Request(host="h", target="/", subprotocols=offers), ["sip", "msrp"], [extension]
        )
        assert answer == AcceptConnection(chosen, [extension])
    assert list(no_extensions()) == []


def test_only_closed() -> None:
    error = ConnectionClosedError(lost("gone"))
    assert only_closed(error)
    assert only_closed(ExceptionGroup("tasks", [error, ExceptionGroup("more", [error])]))
    assert not only_closed(ZeroDivisionError())
    assert not only_closed(ExceptionGroup("tasks", [error, ZeroDivisionError()]))

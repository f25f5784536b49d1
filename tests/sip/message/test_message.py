from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.headers import CSeq
from wsproto_sip.sip.message.message import SipMessage, SipRequest, SipResponse
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.uri import SipUri, TelUri
from wsproto_sip.sip.message.via import Via

HEAD = (
    "INVITE sip:bob@sip.test SIP/2.0\r\n"
    "Via: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
    "Via: SIP/2.0/WS y.invalid;branch=z9hG4bK0\r\n"
    "Max-Forwards: 69\r\n"
    "To: <sip:bob@sip.test>\r\n"
    'From: "Alice" <sip:alice@sip.test>;tag=1\r\n'
    "Call-ID: abc@x\r\n"
    "CSeq: 7 INVITE\r\n"
    "Contact: <sip:a@x.invalid;transport=ws>;expires=5, <sip:b@x.invalid>\r\n"
    "Route: <sip:r1;lr>, <sip:r2;lr>\r\n"
    "Record-Route: <sip:rr;lr>\r\n"
    "Path: <sip:p;lr>\r\n"
    "Expires: 120\r\n"
    "Supported: Path,gruu\r\n"
    "k: outbound\r\n"
    "Timestamp: 54\r\n"
    "Content-Type: Application/SDP ;charset=x\r\n"
    "Content-Length: 3\r\n"
    "\r\n"
)


def request(data: str = HEAD + "v=0") -> SipRequest:
    message = parse_message(data)
    assert isinstance(message, SipRequest)
    return message


def test_values() -> None:
    message = request()
    assert message.start_line == "INVITE sip:bob@sip.test SIP/2.0"
    assert (message.method, message.uri_text) == ("INVITE", "sip:bob@sip.test")
    assert message.uri == SipUri("sip.test", "bob")
    assert message.uri is message.uri
    assert message.via.branch == "z9hG4bK1"
    assert message.via is message.via
    assert [via.host for via in message.vias] == ["x.invalid", "y.invalid"]
    assert message.from_.display_name == "Alice"
    assert message.from_ is message.from_
    assert message.to.tag is None
    assert message.call_id == "abc@x"
    assert message.cseq == CSeq(7, "INVITE")
    assert message.cseq is message.cseq
    assert message.contacts is not None
    assert [str(c) for c in message.contacts] == [
        "<sip:a@x.invalid;transport=ws>;expires=5",
        "<sip:b@x.invalid>",
    ]
    assert [str(r) for r in message.routes] == ["<sip:r1;lr>", "<sip:r2;lr>"]
    assert [str(r) for r in message.record_routes] == ["<sip:rr;lr>"]
    assert [str(r) for r in message.paths] == ["<sip:p;lr>"]
    assert message.addresses("Service-Route") == []
    assert message.max_forwards == 69
    assert message.expires == 120
    assert message.content_length == 3
    assert message.content_type == "application/sdp"
    assert message.tokens("Supported") == ["path", "gruu", "outbound"]
    assert message.body == b"v=0"
    assert repr(message) == "<SipRequest 'INVITE sip:bob@sip.test SIP/2.0'>"


def test_absent_values_are_none_or_empty() -> None:
    message = request()
    for name in ("max-forwards", "expires", "content-length", "content-type", "contact"):
        message.remove_header(name)
    assert message.max_forwards is message.expires is message.content_length is None
    assert message.content_type is None
    assert message.contacts == []
    message.add_header("Contact", "*")
    assert message.contacts is None
    message.remove_header("route")
    message.remove_header("supported")
    assert message.routes == []
    assert message.tokens("Supported") == []


def test_values_are_cached_and_returned_lists_are_copies() -> None:
    message = request()
    first = message.vias[0]
    assert message.via is first
    for read in (lambda: message.vias, lambda: message.contacts or [], lambda: message.routes):
        values = read()
        values.clear()
        assert len(read()) == 2
        assert read()[0] is read()[0]
    assert message.call_id is message.call_id


def test_valid_utf8_is_a_text_message() -> None:
    for body in (b"", b"v=0"):
        response = request().make_response(200, body=body)
        assert response.to_websocket() == response.to_bytes().decode()
    response = request().make_response(200, headers=[("Subject", "Grüße")])
    assert "Grüße" in str(response.to_websocket())


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("Via", "x", lambda m: m.via),
        ("Via", "x", lambda m: m.vias),
        ("From", "x", lambda m: m.from_),
        ("To", "<", lambda m: m.to),
        ("Call-ID", "a b", lambda m: m.call_id),
        ("CSeq", "x", lambda m: m.cseq),
        ("Contact", "*, <sip:a>", lambda m: m.contacts),
        ("Route", "x", lambda m: m.routes),
        ("Max-Forwards", "256", lambda m: m.max_forwards),
        ("Expires", "-1", lambda m: m.expires),
        ("Content-Length", "x", lambda m: m.content_length),
        ("Supported", "a b", lambda m: m.tokens("supported")),
    ],
)
def test_malformed_values_are_refused(
    name: str, value: str, read: Callable[[SipRequest], object]
) -> None:
    message = request()
    message.replace_header(name, value)
    with pytest.raises(SipParseError) as caught:
        read(message)
    assert caught.value.status == 400


def test_edit_invalidates_cached_values() -> None:
    message = request()
    assert message.via.host == "x.invalid"
    message.replace_first("Via", Via("WS", "z"))
    assert message.via.host == "z"


def test_request_uri() -> None:
    message = request()
    message.uri = SipUri("new.test", "x")
    assert message.uri == SipUri("new.test", "x")
    assert message.to_bytes().startswith(b"INVITE sip:x@new.test SIP/2.0\r\nVia: ")
    message.uri = "tel:+1"
    assert message.uri == TelUri("+1")
    for bad in ("", "sip:a b", "sip:a SIP/2.0\r\nEvil: 1", "x"):
        with pytest.raises(SipValueError):
            message.uri = bad
    assert message.uri_text == "tel:+1"


def test_editing_request_uri_leaves_the_rest() -> None:
    lines = (line for line in HEAD.split("\r\n") if line[:2] not in ("Co", "k:"))
    message = request("\r\n".join(lines))
    before = message.to_bytes()
    message.uri = "sip:carol@sip.test"
    assert message.to_bytes() == before.replace(b"bob", b"carol", 1)


def test_malformed_request_uri_is_refused() -> None:
    message = request(HEAD.replace("sip:bob@sip.test SIP", "<sip:bob@sip.test> SIP") + "v=0")
    with pytest.raises(SipParseError, match="bad URI"):
        _ = message.uri


def test_set_contacts_replaces_the_field() -> None:
    message = request()
    message.set_contacts([NameAddr(SipUri("a")), NameAddr(SipUri("b"))])
    assert message.get_all("contact") == ["<sip:a>, <sip:b>"]
    message.set_contacts([])
    assert "contact" not in message


def test_body() -> None:
    message = request()
    message.set_body(b"\xff\x00", "application/octet-stream")
    assert message.to_bytes().endswith(b"Content-Length: 2\r\n\r\n\xff\x00")
    assert message.content_type == "application/octet-stream"
    assert message.to_websocket() == message.to_bytes() == bytes(message)
    message.set_body(b"")
    assert "content-type" not in message
    assert message.content_length == 0
    assert message.to_websocket() == message.to_bytes().decode()
    assert parse_message(message.to_bytes()).to_bytes() == message.to_bytes()


def test_unedited_message_keeps_its_bytes() -> None:
    data = (HEAD + "v=0").encode()
    assert parse_message(data).to_bytes() is data
    assert parse_message(HEAD + "v=0").to_websocket() == HEAD + "v=0"


def test_copies_are_independent() -> None:
    message = request()
    other = message.copy()
    other.uri = SipUri("other")
    other.remove_header("via")
    assert message.to_bytes() == (HEAD + "v=0").encode()
    assert other.start_line == "INVITE sip:other SIP/2.0"
    assert message.copy().to_bytes() is message.to_bytes()
    response = message.make_response(200)
    copy = response.copy()
    copy.remove_first("Via")
    assert (copy.status, copy.reason) == (200, "OK")
    assert len(response.vias) == 2


def test_request_is_built_from_its_parts() -> None:
    message = SipRequest(
        "MESSAGE",
        "sip:a@b",
        [("Via", Via("WS", "x")), ("CSeq", CSeq(1, "MESSAGE")), ("Content-Length", 77)],
        b"hi",
    )
    assert message.to_bytes() == (
        b"MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/WS x\r\nCSeq: 1 MESSAGE\r\n"
        b"Content-Length: 2\r\n\r\nhi"
    )
    assert SipRequest("ACK", SipUri("a")).to_bytes() == (
        b"ACK sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(("method", "uri"), [("A B", "sip:a"), ("A\r\n", "sip:a"), ("A", "x")])
def test_request_with_invalid_parts_is_refused(method: str, uri: str) -> None:
    with pytest.raises(SipValueError):
        SipRequest(method, uri)


def test_response_is_built_from_its_parts() -> None:
    message = SipResponse(486, headers=[("To", NameAddr(SipUri("a")))])
    assert (message.status, message.reason) == (486, "Busy Here")
    assert (
        message.to_bytes() == b"SIP/2.0 486 Busy Here\r\nTo: <sip:a>\r\nContent-Length: 0\r\n\r\n"
    )
    assert SipResponse(200, "").to_bytes().startswith(b"SIP/2.0 200 \r\n")
    for status, reason in ((99, None), (700, "x"), (200, "OK\r\nEvil: 1")):
        with pytest.raises(SipValueError):
            SipResponse(status, reason)


def test_response_copies_fields_of_the_request() -> None:
    response = request().make_response(180, to_tag="t1", headers=[("Server", "x")], body=b"b")
    assert response.to_bytes() == (
        b"SIP/2.0 180 Ringing\r\n"
        b"Via: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
        b"Via: SIP/2.0/WS y.invalid;branch=z9hG4bK0\r\n"
        b"Record-Route: <sip:rr;lr>\r\n"
        b'From: "Alice" <sip:alice@sip.test>;tag=1\r\n'
        b"To: <sip:bob@sip.test>;tag=t1\r\n"
        b"Call-ID: abc@x\r\n"
        b"CSeq: 7 INVITE\r\n"
        b"Timestamp: 54\r\n"
        b"Server: x\r\n"
        b"Content-Length: 1\r\n\r\nb"
    )


def test_tags_of_responses() -> None:
    message = request()
    assert message.make_response(100, "trying").to.tag is None
    first, second = message.make_response(404), message.make_response(404)
    assert first.to.tag == second.to.tag
    assert first.to.tag is not None
    assert len(first.to.tag) == 20
    assert "record-route" not in first
    message.replace_header("Call-ID", "other")
    assert message.make_response(404).to.tag != first.to.tag
    message.replace_header("To", "<sip:a>;tag=x")
    assert message.make_response(404, to_tag="y").to.tag == "x"
    message.replace_header("To", "<what")
    message.remove_header("timestamp")
    response = message.make_response(400)
    assert response.get("to") == "<what"
    assert "timestamp" not in response
    with pytest.raises(SipValueError, match="tag is not a token"):
        request().make_response(404, to_tag="a;b")
    message.remove_header("to")
    with pytest.raises(SipParseError, match="to is missing"):
        message.make_response(400)


@given(st.text(), st.text(), st.binary())
def test_edits_cannot_inject_headers(reason: str, content_type: str, body: bytes) -> None:
    message = request()
    try:
        response = message.make_response(500, reason)
        message.set_body(body, content_type)
    except SipValueError:
        return
    for written, lines in ((message, HEAD.count("\r\n")), (response, 10)):
        again = parse_message(written.to_bytes())
        assert isinstance(again, SipMessage)
        assert again.to_bytes() == written.to_bytes()
        assert written.to_bytes().partition(b"\r\n\r\n")[0].count(b"\n") <= lines
    assert response.reason == reason
    assert message.body == body


# -- for a stream ----------------------------------------------------------------------------------


def start_of(data: bytes) -> list[bytes]:
    return data.split(b"\r\n")[:2]


@pytest.mark.parametrize(
    "field",
    [
        "",
        "Content-Length: 3\r\n",
        "content-length\t :\r\n  003 \r\n",
        "l: 3\r\n",
        "Subject: x\r\n Content-Length: 0\r\n",
        "Content_Length: 0\r\n",
    ],
    ids=["none", "usual", "folded", "compact", "continuation", "underscore"],
)
def test_stream_message_has_content_length_first_and_once(field: str) -> None:
    message = request(HEAD.replace("Content-Length: 3\r\n", field) + "v=0")
    data = message.to_stream()
    assert start_of(data) == [b"INVITE sip:bob@sip.test SIP/2.0", b"Content-Length: 3"]
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"v=0"
    assert not any(line.startswith((b" ", b"\t", b"l")) for line in head.split(b"\r\n"))
    assert head.replace(b"_", b"-").lower().count(b"\r\ncontent-length") == 1
    # The parsed message is unchanged.
    assert message.to_bytes() == (HEAD.replace("Content-Length: 3\r\n", field) + "v=0").encode()


def test_stream_message_keeps_all_other_fields() -> None:
    folded = "Subject: a\r\n b,\r\n\tc\r\n"
    message = request(HEAD.replace("Content-Length: 3\r\n", folded) + "\xff")
    read = parse_message(message.to_stream())
    wanted = [item for item in message.header_items() if item[0] != "content-length"]
    assert read.header_items() == [("content-length", "2"), *wanted]
    assert message.get("subject") == "a b, c"


def test_stream_message_omits_fields_with_odd_names() -> None:
    message = SipRequest("ACK", "sip:a", [("Max-Forwards*", "70"), ("X_a.b-1", "x"), ("%", "y")])
    assert message.to_stream() == b"ACK sip:a SIP/2.0\r\nContent-Length: 0\r\nX_a.b-1: x\r\n\r\n"


def test_stream_response_has_content_length() -> None:
    response = parse_message(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a>;tag=1\r\n"
        "To: <sip:b>;tag=2\r\nCall-ID: c\r\nCSeq: 1 INFO\r\n\r\n"
    )
    assert start_of(response.to_stream()) == [b"SIP/2.0 200 OK", b"Content-Length: 0"]
    response.set_body(b"\xff\x00", "application/x")
    assert response.to_stream().endswith(b"\r\nContent-Type: application/x\r\n\r\n\xff\x00")
    assert start_of(response.to_stream())[1] == b"Content-Length: 2"


def test_content_length_added_twice_is_written_once() -> None:
    message = SipRequest("ACK", "sip:a")
    message.add_header("Content-Length", 7)
    assert message.to_stream() == b"ACK sip:a SIP/2.0\r\nContent-Length: 0\r\n\r\n"

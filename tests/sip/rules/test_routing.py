from __future__ import annotations

from collections.abc import Callable

import pytest

from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.params import Params
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.message.via import Via
from wsproto_sip.sip.rules.routing import (
    Rejection,
    add_received,
    branch_for,
    decrement_max_forwards,
    is_loop,
    loose_route,
    max_breadth,
    pop_via,
    prepare_next_hop,
    push_via,
    record_route,
    response_address,
    restore_response,
    simplify_vias,
    validate_request,
)

KEY = b"k" * 32
OWN_VIA = Via("WS", "edge.test", 80)


def request(
    method: str = "INVITE", uri: str = "sip:bob@sip.test", **changed: str | None
) -> SipRequest:
    usual: dict[str, str | None] = {
        "via": "SIP/2.0/WS x.invalid;branch=z9hG4bK1",
        "max_forwards": "70",
        "from": "<sip:alice@sip.test>;tag=1",
        "to": "<sip:bob@sip.test>",
        "call_id": "c",
        "cseq": f"1 {method}",
    }
    headers = usual | changed
    return SipRequest(
        method,
        uri,
        [(name.replace("_", "-"), value) for name, value in headers.items() if value is not None],
    )


def is_own_via(via: Via) -> bool:
    return (via.host, via.port) == ("edge.test", 80)


def is_own_uri(uri: SipUri) -> bool:
    return uri.host in ("edge.test", "edge2.test")


# -- validation ------------------------------------------------------------------------------------


def test_request_without_demands_is_accepted_as_received() -> None:
    message = parse_message(
        "OPTIONS sip:bob@sip.test SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
        "To: <sip:bob@sip.test>\r\nFrom: <sip:alice@sip.test>;tag=1\r\nCall-ID: c\r\n"
        "CSeq: 1 OPTIONS\r\n\r\n"
    )
    assert isinstance(message, SipRequest)
    assert not message.rare_names
    assert validate_request(message) is None


def test_valid_request_is_accepted() -> None:
    assert validate_request(request()) is None
    assert validate_request(request(max_forwards=None)) is None
    assert validate_request(request(require="100rel")) is None
    assert validate_request(request(route="<sip:a;lr>")) is None
    assert validate_request(request(proxy_require="Path"), extensions=("path",)) is None
    assert validate_request(request("ACK", require="x"), as_server=True) is None
    assert validate_request(request("OPTIONS", max_forwards="0"), as_server=True) is None
    assert validate_request(request(uri="tel:+1"), schemes=("tel",)) is None


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (request(via="x"), 400),
        (request(cseq="1 BYE"), 400),
        (request(cseq="36893488147419103232 INVITE"), 400),
        (request(max_forwards="300"), 400),
        (request(max_forwards="0"), 483),
        (request(contact="sip:a@b?x=y"), 400),
        (request(route="<sip:a"), 400),
        (request(call_id=None), 400),
        (request(uri="tel:+1"), 416),
        (request(uri="sip:a@b?Route=x"), 400),
        (request(proxy_require="x"), 420),
        (request("MSRP"), 501),
        (request("HEP3!!"), 501),
    ],
)
def test_invalid_request_is_rejected(message: SipRequest, status: int) -> None:
    rejection = validate_request(message)
    assert rejection is not None
    assert rejection.status == status


def test_extensions() -> None:
    message = request(proxy_require="a", require="b, path")
    assert validate_request(message) == Rejection(
        420, "extension required", (("Unsupported", "a"),)
    )
    rejection = validate_request(message, extensions=("path",), as_server=True)
    assert rejection is not None
    response = rejection.response(message)
    assert (response.status, response.get("unsupported")) == (420, "a, b")


def test_max_forwards() -> None:
    message = request(max_forwards="1")
    assert decrement_max_forwards(message)
    assert message.max_forwards == 0
    assert not decrement_max_forwards(message)
    assert message.max_forwards == 0
    message = request(max_forwards=None)
    assert decrement_max_forwards(message)
    assert message.max_forwards == 70
    with pytest.raises(SipParseError):
        decrement_max_forwards(request(max_forwards="x"))


def test_max_breadth() -> None:
    assert max_breadth(request()) == 60
    assert max_breadth(request(max_breadth="7")) == 7
    with pytest.raises(SipParseError):
        max_breadth(request(max_breadth="x"))


# -- Via -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("via", "after"),
    [
        ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP 192.0.2.1"),
        ("SIP/2.0/UDP x", "SIP/2.0/UDP x;received=192.0.2.1"),
        ("SIP/2.0/UDP 192.0.2.1;received=6.6.6.6;a", "SIP/2.0/UDP 192.0.2.1;a"),
        ("SIP/2.0/UDP x;received=6.6.6.6", "SIP/2.0/UDP x;received=192.0.2.1"),
        ("SIP/2.0/UDP 192.0.2.1;rport", "SIP/2.0/UDP 192.0.2.1;rport=7;received=192.0.2.1"),
    ],
)
def test_received(via: str, after: str) -> None:
    message = request(via=via)
    add_received(message, Source("192.0.2.1", 7, "udp"))
    assert message.get("via") == after


def test_push_and_pop() -> None:
    message = request()
    push_via(message, OWN_VIA)
    response = message.make_response(200)
    assert pop_via(response, is_own_via) == OWN_VIA
    assert response.values("via") == ["SIP/2.0/WS x.invalid;branch=z9hG4bK1"]
    # Not another element's, and not the last one.
    assert pop_via(response, is_own_via) is None
    assert pop_via(request().make_response(200), lambda via: True) is None
    assert len(response.vias) == 1
    with pytest.raises(SipParseError):
        pop_via(request(via="x").make_response(200), is_own_via)


@pytest.mark.parametrize(
    ("via", "address"),
    [
        ("SIP/2.0/UDP a", ("a", 5060)),
        ("SIP/2.0/WSS a", ("a", 443)),
        ("SIP/2.0/UDP a:7;maddr=b", ("b", 7)),
        ("SIP/2.0/UDP [::1]:7", ("::1", 7)),
        ("SIP/2.0/UDP a:7;received=1.2.3.4", ("1.2.3.4", 7)),
        ("SIP/2.0/UDP a:7;received=[::2];rport=9", ("::2", 9)),
    ],
)
def test_response_address(via: str, address: tuple[str, int]) -> None:
    assert response_address(Via.parse(via)) == address


def test_a_response_repeats_what_identifies_its_request() -> None:
    """RFC 3261 §8.2.6.2."""
    asked = request(to="<sip:bob@sip.test>;tag=2")
    response = asked.make_response(200)
    right = bytes(response)
    restore_response(response, asked)
    assert bytes(response) == right
    changes = {
        "Via": "SIP/2.0/WS y.invalid;branch=z9hG4bK2",
        "From": "<sip:alice@sip.test>;tag=3",
        "To": "<sip:bob@sip.test>",
        "Call-ID": "d",
        "CSeq": "2 INVITE",
    }
    for name, value in changes.items():
        for wrong in (value, "<") if name in ("From", "To") else (value,):
            response = asked.make_response(200)
            response.replace_header(name, wrong)
            restore_response(response, asked)
            assert response.get(name.lower()) == asked.get(name.lower())
            assert len(bytes(response)) == len(right)
    for name in ("From", "To", "Call-ID"):
        response = asked.make_response(200)
        response.remove_header(name)
        restore_response(response, asked)
        assert response.get(name.lower()) == asked.get(name.lower())


def test_a_from_without_a_tag_stays_without() -> None:
    """As clients older than RFC 3261 have it."""
    asked = request(**{"from": "sip:alice@sip.test"})
    for wrong in ("<sip:alice@sip.test>;tag=3", "<"):
        response = asked.make_response(200)
        response.replace_header("From", wrong)
        restore_response(response, asked)
        assert response.get("from") == "sip:alice@sip.test"


def test_a_response_may_write_names_otherwise_and_add_its_own_tag() -> None:
    asked = request()
    response = asked.make_response(200, to_tag="2")
    response.replace_header("From", '"Alice" <sip:a@elsewhere.test>;tag=1')
    before = bytes(response)
    restore_response(response, asked)
    assert bytes(response) == before


# -- loops -----------------------------------------------------------------------------------------


def forwarded(message: SipRequest, key: bytes = KEY) -> SipRequest:
    branch = branch_for(message, key)
    message = message.copy()
    push_via(message, Via("WS", "edge.test", 80, Params([("branch", branch)])))
    decrement_max_forwards(message)
    return message


def test_branches() -> None:
    branch = branch_for(request(), KEY)
    assert branch.startswith("z9hG4bK")
    assert branch == branch_for(request(), KEY)
    # CANCEL, and the ACK of a final response that is not 2xx, which has the tag of To.
    assert branch == branch_for(request("CANCEL"), KEY)
    assert branch == branch_for(request("ACK", to="<sip:bob@sip.test>;tag=2"), KEY)
    assert branch != branch_for(request(), b"other" * 8)
    assert branch != branch_for(request(), KEY, "sip:second@target")
    assert branch != branch_for(request(via="SIP/2.0/WS x.invalid;branch=z9hG4bK2"), KEY)
    assert branch != branch_for(request(uri="sip:x@sip.test"), KEY)


def test_branches_of_old_clients() -> None:
    old = request(via="SIP/2.0/UDP a;branch=1")
    assert branch_for(old, KEY) == branch_for(request(via="SIP/2.0/UDP a;branch=1"), KEY)
    other = request(via="SIP/2.0/UDP a;branch=1", call_id="other")
    assert branch_for(old, KEY)[:27] != branch_for(other, KEY)[:27]
    without = request(via="SIP/2.0/UDP a", **{"from": "<sip:a@b>"})
    assert branch_for(without, KEY) != branch_for(old, KEY)


def test_loop_is_detected_and_spiral_is_not() -> None:
    first = request()
    assert not is_loop(first, KEY, is_own_via)
    back = forwarded(first)
    push_via(back, Via("UDP", "other.test", params=Params([("branch", "z9hG4bKo")])))
    assert is_loop(back, KEY, is_own_via)
    assert not is_loop(back, b"other" * 8, is_own_via)
    # A spiral: it comes back for another target.
    back.uri = "sip:carol@sip.test"
    assert not is_loop(back, KEY, is_own_via)
    back.insert_header("Via", Via("WS", "edge.test", 80))
    assert not is_loop(back, KEY, is_own_via)


# -- Record-Route and Route ------------------------------------------------------------------------


def test_record_route() -> None:
    message = request(record_route="<sip:before;lr>")
    edge = SipUri.parse("sip:edge.test:80;transport=ws")
    record_route(message, edge)
    assert message.values("record-route") == [
        "<sip:edge.test:80;transport=ws;lr>",
        "<sip:before;lr>",
    ]
    message = request()
    record_route(message, edge, edge)
    assert message.values("record-route") == ["<sip:edge.test:80;transport=ws;lr>"]


def test_double_record_route() -> None:
    message = request()
    record_route(
        message, SipUri.parse("sip:edge.test;transport=ws"), SipUri.parse("sip:edge2.test")
    )
    assert message.values("record-route") == [
        "<sip:edge2.test;r2=on;lr>",
        "<sip:edge.test;transport=ws;r2=on;lr>",
    ]


@pytest.mark.parametrize(
    ("route", "own", "left", "next_hop"),
    [
        (None, [], [], "sip:bob@sip.test"),
        ("<sip:other;lr>", [], ["<sip:other;lr>"], "sip:other;lr"),
        ("<tel:+1>", [], ["<tel:+1>"], "tel:+1"),
        ("<sip:t@edge.test;lr>", ["sip:t@edge.test;lr"], [], "sip:bob@sip.test"),
        (
            "<sip:edge.test;lr>,<sip:other;lr>",
            ["sip:edge.test;lr"],
            ["<sip:other;lr>"],
            "sip:other;lr",
        ),
        (
            "<sip:t@edge.test;r2=on;lr>, <sip:edge2.test;r2=on;lr>, <sip:o;lr>",
            ["sip:t@edge.test;r2=on;lr", "sip:edge2.test;r2=on;lr"],
            ["<sip:o;lr>"],
            "sip:o;lr",
        ),
        # Two passages through this element, of which this is the first.
        (
            "<sip:edge.test;lr>, <sip:edge.test;lr>",
            ["sip:edge.test;lr"],
            ["<sip:edge.test;lr>"],
            "sip:edge.test;lr",
        ),
        (
            "<sip:edge.test;r2=on>, <sip:edge2.test;r2=on>, <sip:edge.test;r2=on>",
            ["sip:edge.test;r2=on", "sip:edge2.test;r2=on"],
            ["<sip:edge.test;r2=on>"],
            "sip:edge.test;r2=on",
        ),
    ],
)
def test_loose_route(route: str | None, own: list[str], left: list[str], next_hop: str) -> None:
    message = request("BYE", route=route)
    result = loose_route(message, is_own_uri)
    assert [str(uri) for uri in result.own] == own
    assert result.followed is bool(own)
    assert message.values("route") == left
    assert str(result.next_hop) == next_hop


@pytest.mark.parametrize(
    ("route", "left", "next_hop"),
    [
        ("<sip:bob@x.invalid>", [], "sip:bob@x.invalid"),
        ("<sip:p;lr>, <sip:bob@x.invalid>", ["<sip:p;lr>"], "sip:p;lr"),
    ],
)
def test_strict_routing_predecessor_is_corrected(
    route: str, left: list[str], next_hop: str
) -> None:
    message = request("BYE", "sip:edge.test;lr", route=route)
    result = loose_route(message, is_own_uri)
    assert result.own == (SipUri.parse("sip:edge.test;lr"),)
    assert message.uri == SipUri.parse("sip:bob@x.invalid")
    assert message.values("route") == left
    assert str(result.next_hop) == next_hop


@pytest.mark.parametrize("uri", ["sip:other;lr", "sip:edge.test", "tel:+1"])
def test_other_request_uris_are_unchanged(uri: str) -> None:
    message = request("BYE", uri, route="<sip:a;lr>")
    assert not loose_route(message, is_own_uri).followed
    assert message.uri_text == uri


@pytest.mark.parametrize(
    ("route", "uri", "left", "next_hop"),
    [
        (None, "sip:bob@sip.test", [], "sip:bob@sip.test"),
        ("<sip:p;lr>", "sip:bob@sip.test", ["<sip:p;lr>"], "sip:p;lr"),
        ("<sip:p>", "sip:p", ["<sip:bob@sip.test>"], "sip:p"),
        ("<sip:p>, <sip:q;lr>", "sip:p", ["<sip:q;lr>", "<sip:bob@sip.test>"], "sip:p"),
        ("<tel:+1>", "sip:bob@sip.test", ["<tel:+1>"], "tel:+1"),
    ],
)
def test_next_hop(route: str | None, uri: str, left: list[str], next_hop: str) -> None:
    message = request(route=route)
    assert str(prepare_next_hop(message)) == next_hop
    assert message.uri_text == uri
    assert message.values("route") == left


@pytest.mark.parametrize(
    "call",
    [
        lambda m: loose_route(m, is_own_uri),
        prepare_next_hop,
        lambda m: branch_for(m, KEY),
        lambda m: is_loop(m, KEY, is_own_via),
        lambda m: add_received(m, Source("1.2.3.4", 1, "ws")),
    ],
)
def test_malformed_headers_are_refused(call: Callable[[SipRequest], object]) -> None:
    with pytest.raises(SipParseError):
        call(request(route="<", via="x"))


def test_vias_that_kamailio_cannot_parse_are_simplified() -> None:
    usual, other = 'SIP/2.0/UDP a;branch=z9hG4bK1;x="="', "SIP/2.0/TCP b:1;branch=z9hG4bK2"
    message = request(via=usual)
    message.add_header("Via", other)
    before = message.to_bytes()
    simplify_vias(message)
    assert message.to_bytes() == before
    message.add_header(
        "Via", 'SIP/2.0/WS c:2;branch=z9hG4bK=3, SIP/2.0/WS d;x="\\"";branch=z9hG4bK4'
    )
    simplify_vias(message)
    assert message.values("via") == [usual, other, "SIP/2.0/WS c:2", "SIP/2.0/WS d"]

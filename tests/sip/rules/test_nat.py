from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipMessage, SipRequest
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.nat import (
    NatTest,
    fix_nated_contact,
    fix_nated_register,
    force_rport,
    is_private,
    nat_uac_test,
)

BROWSER = Source("203.0.113.9", 51020, "ws")
ALL = 1023


def request(
    via: str = "SIP/2.0/WS x.invalid;branch=z9hG4bK1",
    contact: str | None = "<sip:a@x.invalid;transport=ws>",
    sdp: str | None = None,
    uri: str = "sip:bob@sip.test",
) -> SipRequest:
    message = SipRequest(
        "INVITE",
        uri,
        [
            ("Via", via),
            ("Via", "SIP/2.0/UDP 10.0.0.1"),
            ("From", "<sip:a@sip.test>;tag=1"),
            ("To", "<sip:bob@sip.test>"),
            ("Call-ID", "x"),
            ("CSeq", "1 INVITE"),
        ],
    )
    if contact is not None:
        message.add_header("Contact", contact)
    if sdp is not None:
        message.set_body(f"v=0\r\nc=IN {sdp}\r\nt=0 0\r\n".encode(), "application/sdp")
    return message


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.0.0.0", True),
        ("172.16.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("100.128.0.0", False),
        ("192.0.0.255", True),
        ("192.0.1.0", False),
        ("203.0.113.9", False),
        ("10.example.com", False),
        ("fd00::1", False),
        ("010.0.0.1", False),
    ],
)
def test_private(host: str, private: bool) -> None:
    assert is_private(host) is private


def test_browser_request_gets_the_same_flags_as_from_kamailio() -> None:
    # Kamailio's results for such a request: 2, 16, 64 and 128 true, the others false.
    assert nat_uac_test(request(), BROWSER, ALL) == 2 | 16 | 64 | 128


def test_public_client_passes_no_test() -> None:
    public = request("SIP/2.0/UDP 203.0.113.9:51020", "<sip:a@203.0.113.9:51020>")
    found = nat_uac_test(public, Source("203.0.113.9", 51020, "udp"), ALL)
    assert found == NatTest(0)
    assert not found


@pytest.mark.parametrize(
    ("message", "source", "flag", "expected"),
    [
        (request(contact="<sip:a@10.0.0.1>"), BROWSER, 1, True),
        (request(contact="<sip:a@203.0.113.1>"), BROWSER, 1, False),
        (request(contact=None), BROWSER, 1 | 128, False),
        (request(contact="*"), BROWSER, 1 | 128, False),
        (request(contact="<tel:+1>"), BROWSER, 1 | 128, False),
        (request("SIP/2.0/WS 203.0.113.9"), BROWSER, 2, False),
        (request("SIP/2.0/WS [2001:db8:0::1]"), Source("2001:db8::1", 1, "ws"), 2, False),
        (request("SIP/2.0/WS 203.0.113.8"), BROWSER, 2, True),
        (request("SIP/2.0/WS 192.168.0.1"), BROWSER, 4, True),
        (request(sdp="IP4 10.1.1.1"), BROWSER, 8, True),
        (request(sdp="IP4 203.0.113.9/127"), BROWSER, 8 | 256, False),
        (request(sdp="IP4 203.0.113.8"), BROWSER, 256, True),
        (request(sdp="IP6 2001:db8::1"), Source("2001:db8::1", 1, "ws"), 256, False),
        (request(sdp=None), BROWSER, 8 | 256, False),
        (request("SIP/2.0/WS a:51020"), BROWSER, 16, False),
        (request("SIP/2.0/WS a"), Source("203.0.113.9", 5060, "ws"), 16, False),
        (request(), Source("10.0.0.1", 1, "ws"), 32, True),
        (request(), Source("203.0.113.9", 1, "wss"), 64, True),
        (request(), Source("203.0.113.9", 1, "tcp"), 64, False),
        (request(contact="<sip:a@b:51020>"), BROWSER, 128, False),
        (request(contact="<sip:a@b>"), Source("203.0.113.9", 5060, "udp"), 128, False),
        (request(uri="sip:a@b;transport=ws"), BROWSER, 512, True),
        (request(uri="tel:+1"), BROWSER, 512, False),
    ],
)
def test_each_flag_tests_one_thing(
    message: SipMessage, source: Source, flag: int, expected: bool
) -> None:
    assert bool(nat_uac_test(message, source, flag)) is expected
    assert nat_uac_test(message, source, 0) == 0


@pytest.mark.parametrize(
    ("uri", "next_hop", "expected"),
    [
        ("sip:a@b", "sip:B", False),
        ("sip:a@b", "sip:c", True),
        ("sip:a@b", "sip:b:5060", True),
        ("sip:a@b", "sip:b;transport=WSS", True),
        ("tel:+1", "sip:b", True),
    ],
)
def test_next_hop(uri: str, next_hop: str, expected: bool) -> None:
    found = nat_uac_test(request(uri=uri), BROWSER, 512, next_hop=SipUri.parse(next_hop))
    assert bool(found) is expected


def test_responses() -> None:
    response = request().make_response(200)
    assert nat_uac_test(response, BROWSER, 64 | 512) == NatTest.WEBSOCKET


def test_malformed_headers_are_refused() -> None:
    with pytest.raises(SipParseError, match="bad Via"):
        nat_uac_test(request("x"), BROWSER, 2)
    with pytest.raises(SipParseError, match="bad address"):
        nat_uac_test(request(contact="<"), BROWSER, 1)


def test_rport() -> None:
    message = request("SIP/2.0/WS x.invalid;branch=z9hG4bK1;received=6.6.6.6;rport=1")
    force_rport(message, BROWSER)
    assert message.get("via") == (
        "SIP/2.0/WS x.invalid;branch=z9hG4bK1;received=203.0.113.9;rport=51020"
    )
    force_rport(message, Source("::1", 7, "ws"))
    assert message.via.params.get("received") == "[::1]"
    assert (message.via.rport, message.via.received) == (7, "::1")
    assert message.get_all("via")[1] == "SIP/2.0/UDP 10.0.0.1"


def test_register() -> None:
    assert str(fix_nated_register(request(), BROWSER)) == "sip:203.0.113.9:51020;transport=ws"


def test_contact() -> None:
    message = request(contact='"A" <sip:a:p@x.invalid:1;transport=ws?s=1>;q=1, <tel:+1>')
    assert fix_nated_contact(message, BROWSER)
    assert message.get_all("contact") == [
        '"A" <sip:a:p@203.0.113.9:51020;transport=ws?s=1>;q=1, <tel:+1>'
    ]
    assert fix_nated_contact(message, Source("::1", 7, "udp"))
    assert message.get("contact") == '"A" <sip:a:p@[::1]:7;transport=ws?s=1>;q=1, <tel:+1>'
    assert not fix_nated_contact(request(contact=None), BROWSER)
    assert not fix_nated_contact(request(contact="*"), BROWSER)


@given(st.text())
def test_source_cannot_inject_into_contact(text: str) -> None:
    data = request().to_bytes().replace(b"branch=z9hG4bK1", text.encode("utf-8", "replace"), 1)
    data = data.replace(b"transport=ws", text.encode("utf-8", "replace"), 1)
    try:
        message = parse_message(data)
        assert isinstance(message, SipRequest)
        names = [name for name, _ in message.header_items()]
        force_rport(message, BROWSER)
        fix_nated_contact(message, BROWSER)
    except SipParseError:
        return
    again = parse_message(message.to_bytes())
    assert [name for name, _ in again.header_items()] == names
    assert again.via.rport == 51020

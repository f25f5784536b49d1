from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.params import Params
from wsproto_sip.sip.message.via import MAGIC_COOKIE, Via


def test_all_parts() -> None:
    via = Via.parse("SIP/2.0/WSS x.invalid:443;branch=z9hG4bK1;rport=5;received=192.0.2.1")
    assert (via.transport, via.host, via.port) == ("WSS", "x.invalid", 443)
    assert via.branch == MAGIC_COOKIE + "1"
    assert via.rport == 5
    assert via.received == "192.0.2.1"
    assert via.address == "x.invalid"
    assert str(via) == "SIP/2.0/WSS x.invalid:443;branch=z9hG4bK1;rport=5;received=192.0.2.1"


def test_few_parts() -> None:
    via = Via.parse("SIP/2.0/WS  x.invalid")
    assert (via.port, via.branch, via.rport, via.received) == (None, None, None, None)
    assert str(via) == "SIP/2.0/WS x.invalid"
    assert Via.parse("SIP/2.0/WS x;rport").rport is None


@pytest.mark.parametrize("text", ["", ";rport", ";rport=1;received=x", ";Received=y;branch=1"])
def test_seen_from_sets_received_and_rport(text: str) -> None:
    via = Via.parse(f"SIP/2.0/WS x.invalid{text}")
    seen = via.seen_from("[::1]", 4000)
    slow = via.with_param("rport", "4000").with_param("received", "[::1]")
    assert seen == slow
    assert (seen.rport, seen.received) == (4000, "::1")
    assert Via.parse(str(seen)) == seen


def test_with_branch_sets_the_branch() -> None:
    assert str(Via("WS", "a", 5).with_branch("z9hG4bK.1")) == "SIP/2.0/WS a:5;branch=z9hG4bK.1"
    assert str(Via.parse("SIP/2.0/UDP a;rport").with_branch("b")).endswith(";rport;branch=b")


def test_equality() -> None:
    via = Via.parse("SIP/2.0/ws A:5;x")
    assert via == Via.parse("sip/2.0/WS a:5;X")
    assert hash(via) == hash(Via.parse("sip/2.0/WS a:5;X"))
    assert via != Via.parse("SIP/2.0/WS a;x")
    assert via != "SIP/2.0/WS a:5;x"
    assert repr(via) == "Via('SIP/2.0/ws A:5;x')"
    for name in ("transport", "host", "port", "params"):
        with pytest.raises(AttributeError):
            setattr(via, name, "x")


def test_white_space() -> None:
    via = Via.parse(" SIP / 2.0\t/ UDP \t first.example.com : 4000 ; ttl = 16 ;maddr=224.2.0.1 ")
    assert via == Via(
        "UDP", "first.example.com", 4000, Params([("ttl", "16"), ("maddr", "224.2.0.1")])
    )


def test_ipv6() -> None:
    via = Via.parse("sip/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255]")
    assert via.host == "[2001:db8::9:1]"
    assert via.address == "2001:db8::9:1"
    assert via.received == "2001:db8::9:255"
    assert Via.parse("SIP/2.0/UDP [::1];received=2001:db8::9:255").received == "2001:db8::9:255"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/WS",
        "SIP/2.0 x",
        "SIP/7.0/UDP x",
        "HTTP/2.0/UDP x",
        "SIP/2.0/W S x",
        "SIP/2.0/UDP x:",
        "SIP/2.0/UDP x:65536",
        "SIP/2.0/UDP x:\u0661",
        "SIP/2.0/UDP x;;,;,,",
        "SIP/2.0/UDP x;branch=1;branch=2",
        "SIP/2.0/UDP ::1",
        "SIP/2.0/UDP\u00a0x",
        "SIP/2.0/UDP x y",
    ],
)
def test_malformed_via_is_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        Via.parse(text)
    assert caught.value.status == 400


def test_malformed_rport_is_refused() -> None:
    via = Via.parse("SIP/2.0/UDP x;rport=a")
    with pytest.raises(SipParseError, match="rport is not a number"):
        _ = via.rport


@pytest.mark.parametrize(
    ("transport", "host", "port"),
    [("", "a", None), ("W S", "a", None), ("WS", "a b", None), ("WS", "", 1), ("WS", "a", 65536)],
)
def test_invalid_parts_are_refused(transport: str, host: str, port: int | None) -> None:
    with pytest.raises(SipValueError):
        Via(transport, host, port)


@given(st.text(), st.text(), st.text())
def test_edits_cannot_inject_parameters(host: str, received: str, transport: str) -> None:
    for where, how in ((host, "WS"), ("a.test", transport), ("a.test", "WS")):
        try:
            via = Via(how, where).with_param("received", received).without_param("x")
        except SipValueError:
            continue
        again = Via.parse(str(via))
        assert again == via
        assert len(again.params) == 1
        assert again.params.get("received") == received


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for start in ("", "SIP/2.0/", "SIP/2.0/WS a"):
        try:
            via = Via.parse(start + text)
        except SipParseError:
            continue
        assert str(Via.parse(str(via))) == str(via)

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.params import UriParams
from wsproto_sip.sip.message.uri import (
    AbsoluteUri,
    SipUri,
    TelUri,
    _read_uri,
    bracketed,
    host_key,
    parse_uri,
)


def test_all_parts() -> None:
    text = "sips:alice%40x:pa$s@[2001:db8::1]:5061;transport=WS;lr?subject=a%20b&to=x"
    uri = SipUri.parse(text)
    assert uri.scheme == "sips"
    assert uri.user == "alice%40x"
    assert uri.username == "alice@x"
    assert uri.password == "pa$s"
    assert uri.host == "[2001:db8::1]"
    assert uri.address == "2001:db8::1"
    assert uri.port == 5061
    assert uri.transport == "ws"
    assert uri.headers == "subject=a%20b&to=x"
    assert str(uri) == text


def test_few_parts() -> None:
    uri = SipUri.parse("SIP:example.com")
    assert str(uri) == "sip:example.com"
    assert (uri.user, uri.username, uri.port, uri.transport) == (None, None, None, None)
    assert uri.address == "example.com"
    assert str(SipUri.parse("sip:a@b?c=d")) == "sip:a@b?c=d"


def test_unusual_user_parts_are_accepted() -> None:
    text = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1@example.com"
    assert SipUri.parse(text).password == "&it+has=1"
    assert str(SipUri.parse(text)) == text
    assert SipUri.parse("sip:user;par=u%40example.net@example.com").username == (
        "user;par=u@example.net"
    )
    assert SipUri.parse("sip:null-%00-null@example.com").username == "null-\0-null"
    assert SipUri.parse("sip:host:5060").host == "host"


@pytest.mark.parametrize(
    "text",
    [
        "sip:",
        "sip:a@",
        "sip:@b",
        "sip:a b@c",
        "sip:a@b:",
        "sip:a@b:x",
        "sip:a@b:65536",
        "sip:a@b:\u0665060",
        "sip:a@[::1",
        "sip:a@::1",
        "sip:a@b;",
        "sip:a@b;p=",
        "sip:a@b?",
        "sip:%4@b",
        "sip:ä@b",
        "sip:a@b\r\nEvil: 1",
        "sips:",
    ],
)
def test_malformed_uri_is_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        SipUri.parse(text)
    assert caught.value.status == 400


def test_sip_uri_of_another_scheme_is_refused() -> None:
    with pytest.raises(SipParseError) as caught:
        SipUri.parse("http://example.com")
    assert caught.value.status == 416


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        ("sip:a@b?subject=x&priority=urgent", "sip:a@b?priority=urgent&SUBJECT=x"),
        ("sip:a:%70w@b", "sip:a:pw@b"),
    ],
)
def test_equal(one: str, two: str) -> None:
    assert SipUri.parse(one) == SipUri.parse(two)
    assert hash(SipUri.parse(one)) == hash(SipUri.parse(two))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;newparam=6"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next"),
        ("sip:bob@phone21.boxes.com", "sip:bob@192.0.2.4"),
        ("sip:a:x@b", "sip:a@b"),
    ],
)
def test_different(one: str, two: str) -> None:
    assert SipUri.parse(one) != SipUri.parse(two)


def test_uri_differs_from_other_types() -> None:
    assert SipUri.parse("sip:a") != "sip:a"
    assert TelUri.parse("tel:1") != "tel:1"


def test_make_escapes_plain_text() -> None:
    uri = SipUri.make("::1", "a b@c", 80, transport="ws", lr=None)
    assert str(uri) == "sip:a%20b%40c@[::1]:80;transport=ws;lr"
    assert str(SipUri.make("example.com", scheme="sips")) == "sips:example.com"
    assert str(uri.with_param("ob")) == str(uri) + ";ob"
    assert str(uri.with_param("x", "1", first=True).without_param("lr")) == (
        "sip:a%20b%40c@[::1]:80;x=1;transport=ws"
    )
    assert str(SipUri.parse("sip:%41l:pw@EXAMPLE.com:5070;lr?a=b").aor) == "sip:Al@example.com"
    assert str(SipUri.parse("sips:EXAMPLE.com").aor) == "sips:example.com"


def test_repr() -> None:
    assert repr(SipUri("a", "b")) == "SipUri('sip:b@a')"


def test_uris_are_immutable() -> None:
    uri = SipUri("a")
    for name in ("host", "user", "port", "params", "scheme", "password", "headers"):
        with pytest.raises(AttributeError):
            setattr(uri, name, "x")


def test_brackets() -> None:
    assert bracketed("::1") == bracketed("[::1]") == "[::1]"
    assert bracketed("a") == "a"


@pytest.mark.parametrize(
    "parts",
    [
        {"host": "a b"},
        {"host": "a\r\nEvil: 1"},
        {"host": "a;lr"},
        {"host": ""},
        {"host": "a", "user": "b@c"},
        {"host": "a", "user": ""},
        {"host": "a", "port": -1},
        {"host": "a", "port": 65536},
        {"host": "a", "scheme": "tel"},
        {"host": "a", "password": "x"},
        {"host": "a", "user": "b", "password": "x@y"},
        {"host": "a", "headers": "a b"},
    ],
)
def test_invalid_parts_are_refused(parts: dict[str, object]) -> None:
    with pytest.raises(SipValueError):
        SipUri(**parts)  # type: ignore[arg-type]


@given(
    st.text(),
    st.one_of(st.none(), st.text()),
    st.one_of(st.none(), st.integers()),
    st.text(min_size=1),
    st.text(),
)
def test_make_cannot_inject_parts(
    host: str, user: str | None, port: int | None, name: str, value: str
) -> None:
    for where in (host, "example.com"):
        try:
            uri = SipUri.make(where, user, port).with_param(name, value)
        except SipValueError:
            continue
        again = SipUri.parse(str(uri))
        assert (again.username, again.host, again.port) == (user, uri.host, port)
        assert len(again.params) == 1
        assert str(again) == str(uri)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for start in ("", "sip:", "sip:a@", "sip:a@b;", "tel:"):
        try:
            uri = parse_uri(start + text)
        except SipParseError:
            continue
        assert str(parse_uri(str(uri))) == str(uri)
        assert parse_uri(str(uri)) == uri


def test_tel() -> None:
    uri = parse_uri("tel:+1-201-555-0123;phone-context=example.com")
    assert isinstance(uri, TelUri)
    assert uri.scheme == "tel"
    assert uri.number == "+1-201-555-0123"
    assert uri.digits == "+12015550123"
    assert str(uri) == "tel:+1-201-555-0123;phone-context=example.com"
    assert uri == TelUri("+12015550123", ";Phone-Context=example.com")
    assert hash(uri) == hash(TelUri("+12015550123", ";Phone-Context=example.com"))
    assert uri != TelUri("+12015550123")


@pytest.mark.parametrize("text", ["tel:", "tel:+", "tel:1 2", "tel:x", "tel:1;", "tel:1;a<b"])
def test_malformed_tel_uri_is_refused(text: str) -> None:
    with pytest.raises(SipParseError):
        TelUri.parse(text)


@pytest.mark.parametrize("parts", [("", ""), ("1;a", ""), ("1", "x"), ("1", ";a b")])
def test_invalid_tel_parts_are_refused(parts: tuple[str, str]) -> None:
    with pytest.raises(SipValueError):
        TelUri(*parts)


def test_other_uris() -> None:
    uri = parse_uri("nobodyKnowsThisScheme:totallyopaquecontent")
    assert isinstance(uri, AbsoluteUri)
    assert uri.scheme == "nobodyknowsthisscheme"
    assert str(uri) == "nobodyKnowsThisScheme:totallyopaquecontent"
    assert isinstance(parse_uri("SIPS:a"), SipUri)
    for bad in ("", "a", ":a", "1a:b", "a:", "a:b c", "a:<b>", "a:\u00e4"):
        with pytest.raises(SipParseError):
            parse_uri(bad)
        with pytest.raises(SipValueError):
            AbsoluteUri(bad)


def test_params_are_kept_as_written() -> None:
    assert str(SipUri("a", params=UriParams.parse(";X=%61"))) == "sip:a;X=%61"


def test_cached_uris_equal_freshly_parsed_ones() -> None:
    for text in ("sip:a@b;lr?x=y", "SIPS:b", "tel:+1;x", "urn:x", "sip:" + "a" * 200):
        first = parse_uri(text)
        assert str(parse_uri(text)) == str(first) == str(_read_uri(text))
        assert (parse_uri(text) is first) is (len(text) <= 128)


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("example.com..", "example.com"),
        (".", "."),
        ("192.000.2.01", "192.0.2.1"),
        ("192.0.2.0", "192.0.2.0"),
        ("0a.example", "0a.example"),
        ("[2001:DB8:0:0::01]", "[2001:db8::1]"),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
        ("[::FFFF:C000:201]", "[::ffff:192.0.2.1]"),
        ("[:::]", "[:::]"),
    ],
)
def test_forms_of_one_host_have_one_key(host: str, key: str) -> None:
    assert host_key(host) == key
    assert host_key(key) == key
    uri = SipUri.parse(f"sip:a@{host}")
    assert uri.host_key == uri.aor.host == key

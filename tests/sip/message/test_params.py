from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message._syntax import split_values
from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.params import Params, UriParams


def test_header_parameters() -> None:
    params = Params.parse(' ; Tag = "a \\" b" ;lr;expires=60')
    assert params.get("tag") == 'a " b'
    assert params.get("TAG") == 'a " b'
    assert params.get("lr") == ""
    assert Params.parse(";tag=1").get("tag") == "1"
    assert str(Params.parse("; tag=1")) == ";tag=1"
    assert params.get("q") is None
    assert params.get("q", "1") == "1"
    assert list(params) == [("Tag", '"a \\" b"'), ("lr", None), ("expires", "60")]
    assert str(params) == ';Tag="a \\" b";lr;expires=60'
    assert len(params) == 3
    assert "EXPIRES" in params
    assert "lr" in params
    assert "x" not in params
    assert repr(params) == f"Params({str(params)!r})"
    assert Params.parse("") == Params()
    assert Params.from_checked("") == Params()


@pytest.mark.parametrize(
    "text", [";", ";;a", ";a;", ";a=", ";=a", "a", ";a=b c", ';a="b', ";a=\x0bb", ";a=b;A=c"]
)
def test_malformed_header_parameters_are_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        Params.parse(text)
    assert caught.value.status == 400


def test_edits_return_changed_copies() -> None:
    params = Params([("a", "1"), ("b", None)])
    assert str(params.with_param("A", "x y")) == ';A="x y";b'
    assert str(params.with_param("c")) == ";a=1;b;c"
    assert str(params.with_param("c", "[::1]", first=True)) == ";c=[::1];a=1;b"
    assert str(params.without("A")) == ";b"
    assert params.without("z") is params
    assert str(params) == ";a=1;b"


def test_several_parameters_are_set_at_once() -> None:
    given = {"rport": "5060", "received": "[::1]"}
    for text, after in (
        ("", ";rport=5060;received=[::1]"),
        (";branch=1;ttl", ";branch=1;ttl;rport=5060;received=[::1]"),
        (";RPort;a=b", ";RPort=5060;a=b;received=[::1]"),
        (";received=x;rport=1", ";received=[::1];rport=5060"),
    ):
        assert str(Params.parse(text).with_written(given)) == after


def test_equality() -> None:
    assert Params.parse(";A=1") == Params.parse(";a=1")
    assert hash(Params.parse(";A=1")) == hash(Params.parse(";a=1"))
    assert Params.parse(";a=1") != Params.parse(";a=2")
    assert Params() != UriParams()


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "a\r\n", "ä"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(SipValueError, match="not a token"):
        Params().with_param(name, "x")


def test_invalid_values_are_refused() -> None:
    with pytest.raises(SipValueError, match="line break"):
        Params().with_param("a", "b\r\nEvil: 1")
    with pytest.raises(SipValueError, match="repeated"):
        Params([("a", "1"), ("A", "2")])


@given(st.text(), st.text())
def test_header_edits_cannot_inject_parameters(name: str, value: str) -> None:
    try:
        params = Params([("first", "1")]).with_param(name, value)
    except SipValueError:
        return
    again = Params.parse(str(params))
    assert len(again) == len(params) <= 2
    assert again.get(name) == value
    assert "\r" not in str(params)
    assert "\n" not in str(params)
    assert split_values(f"x{params}") == [f"x{params}"]


def test_uri_parameters() -> None:
    params = UriParams.parse(";transport=ws;lr;p=%61%3b")
    assert params.get("Transport") == "ws"
    assert params.get("p") == "a;"
    assert params.get("lr") == ""
    assert str(params.with_param("ob")) == ";transport=ws;lr;p=%61%3b;ob"
    assert str(UriParams([("a b", "c;d")])) == ";a%20b=c%3Bd"
    assert UriParams.parse("") == UriParams()


@pytest.mark.parametrize("text", [";", ";a=", ";a b", ";a=%4", ';a="b"', "a", ";a;a", ";a=b?c"])
def test_malformed_uri_parameters_are_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        UriParams.parse(text)
    assert caught.value.status == 400


def test_invalid_uri_parameters_are_refused() -> None:
    with pytest.raises(SipValueError, match="needs a name"):
        UriParams().with_param("")
    with pytest.raises(SipValueError, match="cannot be empty"):
        UriParams().with_param("a", "")
    with pytest.raises(SipValueError, match="UTF-8"):
        UriParams().with_param("a", "\ud800")


@given(st.text(min_size=1), st.text(min_size=1))
def test_uri_edits_cannot_inject_parameters(name: str, value: str) -> None:
    try:
        params = UriParams([("first", "1")]).with_param(name, value)
    except SipValueError:
        return
    again = UriParams.parse(str(params))
    assert str(again) == str(params)
    assert len(again) <= 2
    assert value in [again.get(written) for written, _ in again]
    assert str(params).isascii()

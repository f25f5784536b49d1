from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message._syntax import split_values
from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.uri import SipUri, TelUri


@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        ("<sip:a@b>", None, "sip:a@b", ""),
        ("sip:a@b", None, "sip:a@b", ""),
        ("sip:a@b;tag=x", None, "sip:a@b", ";tag=x"),
        ("sip:a@b ; tag = x ", None, "sip:a@b", ";tag=x"),
        ("<sip:a@b;lr>;tag=x", None, "sip:a@b;lr", ";tag=x"),
        ('"J \\"R\\" \\\\" \t<sip:a@b>\t;tag=x', 'J "R" \\', "sip:a@b", ";tag=x"),
        ('""<sip:a@b>', "", "sip:a@b", ""),
        ("caller<sip:a@b>", "caller", "sip:a@b", ""),
        ("Two  Words <sip:a@b?x=y>", "Two  Words", "sip:a@b?x=y", ""),
        ("J\u00f6rg M <sip:a@b>", "J\u00f6rg M", "sip:a@b", ""),
        ("<tel:+123>;a", None, "tel:+123", ";a"),
    ],
)
def test_every_form_is_parsed_and_written(
    text: str, display: str | None, uri: str, params: str
) -> None:
    value = NameAddr.parse(text)
    assert value.display_name == display
    assert str(value.uri) == uri
    assert str(value.params) == params
    again = NameAddr.parse(str(value))
    assert again == value
    assert hash(again) == hash(value)
    assert str(again) == str(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<>",
        "<sip:a@b",
        "sip:a@b>",
        "< sip:a@b >",
        "Bell, Alexander <sip:a@b>",
        '"unbalanced <sip:a@b>',
        "sip:a@b?Route=%3Csip:c%3E",
        "sip:a@b,sip:c@d",
        "<sip:a@b>;",
        "<sip:a@b> x",
        "<sip:a@b>;tag=x;TAG=y",
        "\u00a0<sip:a@b>;\u00a0tag=x",
    ],
)
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        NameAddr.parse(text)
    assert caught.value.status == 400


def test_sip_uri_of_another_scheme_is_refused() -> None:
    assert NameAddr.parse("<sip:a@b>").sip_uri == SipUri("b", "a")
    with pytest.raises(SipParseError) as caught:
        _ = NameAddr(TelUri("1")).sip_uri
    assert caught.value.status == 416


def test_edits_return_changed_copies() -> None:
    value = NameAddr.parse('"A" <sip:a@b>;tag=x')
    assert value.tag == "x"
    assert str(value.with_param("q", "0.5")) == '"A" <sip:a@b>;tag=x;q=0.5'
    assert str(value.without_param("tag")) == '"A" <sip:a@b>'
    assert str(value.with_uri(SipUri("c"))) == '"A" <sip:c>;tag=x'
    assert NameAddr(SipUri("c")).tag is None


def test_equality_follows_uri_params_and_name() -> None:
    value = NameAddr(SipUri("a"))
    assert value == NameAddr.parse("sip:A")
    assert value != NameAddr(SipUri("a"), display_name="")
    assert value != "<sip:a>"
    assert repr(value) == "NameAddr('<sip:a>')"


def test_values_are_immutable() -> None:
    for name in ("uri", "params", "display_name"):
        with pytest.raises(AttributeError):
            setattr(NameAddr(SipUri("a")), name, "x")


def test_display_name_with_line_break_or_nul_is_refused() -> None:
    with pytest.raises(SipValueError, match="display name"):
        NameAddr(SipUri("a"), display_name="x\r\nEvil: 1")
    with pytest.raises(SipValueError, match="display name"):
        NameAddr(SipUri("a"), display_name="\\\0")


@given(st.text(), st.text())
def test_edits_cannot_inject_headers(display: str, tag: str) -> None:
    try:
        value = NameAddr(SipUri("a.test"), display_name=display).with_param("tag", tag)
    except SipValueError:
        return
    text = str(value)
    assert split_values(text) == [text]
    again = NameAddr.parse(text)
    assert again == value
    assert again.tag == tag
    assert len(again.params) == 1


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        value = NameAddr.parse(text)
    except SipParseError:
        return
    assert str(NameAddr.parse(str(value))) == str(value)


def test_cached_addresses_equal_freshly_parsed_ones() -> None:
    for text in ('"A" <sip:a@b>;tag=1', "sip:a@b;tag=1", "<sip:a@b>;x=" + "y" * 300):
        first = NameAddr.parse(text)
        assert NameAddr.parse(text) == first == NameAddr._read(text)
        assert str(first) == str(NameAddr._read(text))
        assert (NameAddr.parse(text) is first) is (len(text) <= 256)

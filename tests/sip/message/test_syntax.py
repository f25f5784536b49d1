from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message._syntax import (
    MAX_VALUES,
    check_text,
    check_token,
    parse_port,
    parse_uint,
    quote,
    split_first,
    split_values,
    unquote,
)
from wsproto_sip.sip.message.errors import SipParseError, SipValueError


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\0b", "\ud800"])
def test_invalid_field_text_is_refused(bad: str) -> None:
    with pytest.raises(SipValueError, match="a word"):
        check_text(bad, "a word")


def test_valid_field_text_is_returned() -> None:
    assert check_text("ä\udcff", "a word") == "ä\udcff"
    # A quoted pair, as received.
    assert check_text('"\\\0"', "a word") == '"\\\0"'


def test_nul_cannot_be_quoted() -> None:
    for text in ("\0", "\\\0"):
        with pytest.raises(SipValueError, match="quoted text contains"):
            quote(text)


def test_token() -> None:
    assert check_token("REG*'~`", "method") == "REG*'~`"
    for bad in ("", "a b", "ä", "a;b", "a\n"):
        with pytest.raises(SipValueError, match="method is not a token"):
            check_token(bad, "method")


@given(st.text())
def test_unquote_reverses_quote(text: str) -> None:
    try:
        written = quote(text)
    except SipValueError:
        assert {"\r", "\n", "\0"} & set(text) or not text.isprintable()
        return
    assert unquote(written) == text
    assert split_values(f"{written}, b") == [written, "b"]


def test_unquote_returns_tokens_unchanged() -> None:
    assert unquote("abc") == "abc"
    assert unquote("") == ""


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        (" \t", []),
        ("a", ["a"]),
        (" a , b\t,c", ["a", "b", "c"]),
        ('<sip:a,b@c>, "x, \\" y" <sip:d>;p=","', ["<sip:a,b@c>", '"x, \\" y" <sip:d>;p=","']),
        ("a\x0b,\xa0b", ["a\x0b", "\xa0b"]),
    ],
)
def test_values(text: str, values: list[str]) -> None:
    assert split_values(text) == values


@pytest.mark.parametrize("text", [",", "a,,b", "a,", ",a", "<a>,,<b>", "<a>,"])
def test_empty_values(text: str) -> None:
    with pytest.raises(SipParseError, match="empty value"):
        split_values(text)


@pytest.mark.parametrize("value", ["a", "<sip:a>", '"a, b"'])
def test_too_long_list_is_refused(value: str) -> None:
    assert split_values(",".join([value] * MAX_VALUES)) == [value] * MAX_VALUES
    for count in (MAX_VALUES + 1, 10 * MAX_VALUES):
        with pytest.raises(SipParseError, match="more than 128 values"):
            split_values(",".join([value] * count))


@pytest.mark.parametrize("text", ['a, "b', 'a, "b\\"', "<a, b", "<a<b>, c"])
def test_unbalanced_quotes_are_refused(text: str) -> None:
    with pytest.raises(SipParseError, match="unbalanced"):
        split_values(text)


def test_first_value() -> None:
    assert split_first(" a ") == ("a", "")
    assert split_first("<a,b> , c, d") == ("<a,b>", "c, d")
    with pytest.raises(SipParseError, match="unbalanced"):
        split_first('"a, b')
    assert split_first(", b") == ("", "b")


def test_numbers() -> None:
    assert parse_uint("0070", 255, "n") == 70
    assert parse_uint("0" * 5000 + "7", 255, "n") == 7
    assert parse_uint("0" * 30, 255, "n") == 0
    for bad in ("", "-1", "+1", "1 ", "\u0661", "1_0", "256", "9" * 5000):
        with pytest.raises(SipParseError) as caught:
            parse_uint(bad, 255, "n")
        assert caught.value.status == 400


def test_ports() -> None:
    assert parse_port(None) is None
    assert parse_port("65535") == 65535
    with pytest.raises(SipParseError, match="port is above 65535"):
        parse_port("65536")

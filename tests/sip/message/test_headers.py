from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.headers import (
    CANONICAL,
    COMPACT_FORMS,
    CSeq,
    parse_contacts,
    parse_expires,
    parse_q,
    parse_tokens,
)


def test_names() -> None:
    for name in ("Call-ID", "call-id", "CALL-id", "i", "I"):
        assert CANONICAL[name] == "call-id"
    assert CANONICAL["X-Own"] == "x-own"
    assert {CANONICAL[form] for form in COMPACT_FORMS} == set(COMPACT_FORMS.values())


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä", "a\0"])
def test_name_that_is_not_a_token_is_refused(name: str) -> None:
    with pytest.raises(SipValueError, match="not a token"):
        CANONICAL[name]


def test_cseq() -> None:
    assert CSeq.parse("0009 \t INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(2**31 - 1, "x*y")) == "2147483647 x*y"
    assert hash(CSeq(1, "A")) == hash(CSeq.parse("1 A"))


@pytest.mark.parametrize(
    "text", ["", "1", "INVITE", "1INVITE", "-1 A", "2147483648 A", "1 A B", "1\u00a0A", "\u0661 A"]
)
def test_malformed_cseq_is_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        CSeq.parse(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(("number", "method"), [(-1, "A"), (2**31, "A"), (1, "A\r\n"), (1, "")])
def test_cseq_out_of_range_is_refused(number: int, method: str) -> None:
    with pytest.raises(SipValueError):
        CSeq(number, method)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (CSeq.parse, parse_tokens, parse_expires, parse_q):
        with suppress(SipParseError):
            parse(text)


def test_contacts() -> None:
    assert parse_contacts([]) == []
    assert parse_contacts(["*"]) is None
    contacts = parse_contacts(["<sip:a>;q=1", "sip:b"])
    assert contacts is not None
    assert [str(contact) for contact in contacts] == ["<sip:a>;q=1", "<sip:b>"]
    for bad in (["*", "<sip:a>"], ["x"]):
        with pytest.raises(SipParseError):
            parse_contacts(bad)


def test_tokens() -> None:
    assert parse_tokens("path,gruu , outbound") == ["path", "gruu", "outbound"]
    assert parse_tokens("") == []
    for bad in ("a b", "a,,b", "a\u00a0"):
        with pytest.raises(SipParseError):
            parse_tokens(bad)


def test_expires() -> None:
    assert parse_expires("4294967295") == 2**32 - 1
    for bad in ("4294967296", "-1", "x"):
        with pytest.raises(SipParseError):
            parse_expires(bad)


@pytest.mark.parametrize(
    ("text", "q"), [("0", 0), ("1", 1000), ("0.7", 700), ("0.123", 123), ("1.000", 1000), ("0.", 0)]
)
def test_q(text: str, q: int) -> None:
    assert parse_q(text) == q


@pytest.mark.parametrize("text", ["", "2", "1.1", "0.1234", ".5", "-0", "0.\u0661"])
def test_malformed_q_is_refused(text: str) -> None:
    with pytest.raises(SipParseError):
        parse_q(text)

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.address import NameAddr
from wsproto_sip.sip.errors import SipParseError, SipValueError
from wsproto_sip.sip.fields import HeaderFields
from wsproto_sip.sip.headers import CSeq
from wsproto_sip.sip.message import SipRequest
from wsproto_sip.sip.parser import parse_message
from wsproto_sip.sip.uri import SipUri
from wsproto_sip.sip.via import Via

HEAD = (
    b"OPTIONS sip:a SIP/2.0\r\n"
    b"v: SIP/2.0/WS a;branch=1 ,  SIP/2.0/WS b;branch=2\r\n"
    b"X-Odd :  one\r\n\t two \r\n"
    b"VIA: SIP/2.0/WS c;branch=3\r\n"
    b"From:<sip:f>;tag=1\r\nt: <sip:t>\r\ni: 1@x\r\nCSeq: 1 OPTIONS\r\n"
)


def message() -> HeaderFields:
    return parse_message(HEAD + b"\r\n")


def written(fields: HeaderFields) -> bytes:
    assert isinstance(fields, SipRequest)
    return fields.to_bytes()


def test_looking() -> None:
    fields = message()
    assert fields.get("Via") == "SIP/2.0/WS a;branch=1 ,  SIP/2.0/WS b;branch=2"
    assert fields.get("x-odd") == "one two"
    assert fields.get("X-None") is None
    assert "V" in fields
    assert "X-None" not in fields
    assert fields.get_all("via")[1] == "SIP/2.0/WS c;branch=3"
    assert fields.get_all("x-none") == []
    assert fields.values("v") == [f"SIP/2.0/WS {c};branch={n}" for n, c in enumerate("abc", 1)]
    assert [name for name, _ in fields.header_items()] == [
        *("via", "x-odd", "via", "from", "to", "call-id", "cseq"),
    ]
    assert fields.header_items()[1] == ("x-odd", "one two")
    fields.remove_header("via")
    assert fields.get_all("X-Odd") == ["one two"]
    assert fields.values("x-odd") == ["one two"]
    for count in (64, 128):
        fields.add_header("X-List", ",".join("a" * 64))
        assert fields.values("x-list") == ["a"] * count
    fields.add_header("X-List", "b")
    with pytest.raises(SipParseError, match="more than 128 values of x-list"):
        fields.values("x-list")


def test_adding() -> None:
    fields = message()
    fields.add_header("X-New", " a ")
    fields.add_header("Expires", 60)
    assert written(fields) == HEAD + b"X-New: a\r\nExpires: 60\r\n\r\n"
    assert fields.get("expires") == "60"


def test_inserting() -> None:
    fields = message()
    fields.insert_header("Via", Via("WS", "new"))
    fields.insert_header("Record-Route", NameAddr(SipUri("r")))
    start, rest = HEAD.split(b"\r\n", 1)
    assert written(fields) == (
        start + b"\r\nRecord-Route: <sip:r>\r\nVia: SIP/2.0/WS new\r\n" + rest + b"\r\n"
    )
    assert fields.values("via")[0] == "SIP/2.0/WS new"


def test_replacing() -> None:
    fields = message()
    fields.replace_header("Via", Via("WS", "only"))
    fields.replace_header("CSeq", CSeq(2, "OPTIONS"))
    fields.replace_header("Y", "z")
    assert fields.get_all("via") == ["SIP/2.0/WS only"]
    assert written(fields) == (
        b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/WS only\r\nX-Odd :  one\r\n\t two \r\n"
        b"From:<sip:f>;tag=1\r\nt: <sip:t>\r\ni: 1@x\r\nCSeq: 2 OPTIONS\r\nY: z\r\n\r\n"
    )


def test_removing() -> None:
    fields = message()
    assert fields.remove_header("X-ODD") == 1
    assert fields.remove_header("v") == 2
    assert fields.remove_header("via") == 0
    assert "via" not in fields
    assert fields.header_items()[0] == ("from", "<sip:f>;tag=1")


def test_first_value() -> None:
    fields = message()
    fields.replace_first("Via", "SIP/2.0/WS x")
    assert fields.get_all("via")[0] == "SIP/2.0/WS x, SIP/2.0/WS b;branch=2"
    assert fields.remove_first("Via") == "SIP/2.0/WS x"
    assert b"\r\nv: SIP/2.0/WS b;branch=2\r\n" in written(fields)
    assert fields.remove_first("Via") == "SIP/2.0/WS b;branch=2"
    assert fields.get("via") == "SIP/2.0/WS c;branch=3"
    assert fields.remove_first("Via") == "SIP/2.0/WS c;branch=3"
    for edit in (lambda: fields.remove_first("Via"), lambda: fields.replace_first("Via", "x")):
        with pytest.raises(SipValueError, match="no Via to edit"):
            edit()
    fields.replace_header("Contact", '"a, b')
    with pytest.raises(SipParseError, match="unbalanced"):
        fields.remove_first("Contact")


def test_a_missing_field() -> None:
    fields = message()
    assert isinstance(fields, SipRequest)
    assert fields.to == NameAddr(SipUri("t"))
    fields.remove_header("to")
    with pytest.raises(SipParseError, match="400 Bad Request: to is missing"):
        _ = fields.to


@given(st.text(), st.text())
def test_edits_inject_nothing(name: str, value: str) -> None:
    for edit in (
        HeaderFields.add_header,
        HeaderFields.insert_header,
        HeaderFields.replace_header,
        HeaderFields.replace_first,
    ):
        for field in (name, "Via", "X-Odd"):
            fields = message()
            before = written(fields)
            try:
                edit(fields, field, value)
            except SipValueError:
                assert written(fields) == before
                continue
            lines = written(fields).split(b"\r\n")
            assert len(lines) <= len(before.split(b"\r\n")) + 1
            assert value.strip(" \t").encode() in written(fields)
            assert b"\n" not in b"".join(lines)


# -- a head in its common spelling, which is taken apart when that is needed -----------------------

COMMON = (
    b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/WS a;branch=1\r\nFrom: <sip:f>;tag=1\r\n"
    b"To: <sip:t>\r\nCall-ID: 1@x\r\nCSeq: 1 OPTIONS\r\nSupported: path\r\n"
)
MANY = COMMON + b"Via: SIP/2.0/WS b;branch=2\r\nX-Own: 1\r\n"


@pytest.mark.parametrize("head", [COMMON, MANY])
def test_looking_at_a_common_head(head: bytes) -> None:
    fields = parse_message(head + b"\r\n")
    assert fields.get("Via") == fields.get("via") == "SIP/2.0/WS a;branch=1"
    assert fields.get_all("to") == ["<sip:t>"]
    assert fields.get_all("contact") == []
    assert fields.get("contact") is None
    assert len(fields.get_all("via")) == head.count(b"Via")
    assert fields.get("supported") == "path"
    assert fields.get("route") is None
    assert fields.header_items()[-1][1] == ("path" if head is COMMON else "1")
    assert "X-Own" in fields or head is COMMON


def test_routing_texts() -> None:
    expected = ["SIP/2.0/WS a;branch=1", "<sip:f>;tag=1", "<sip:t>", "1@x", "1 OPTIONS"]
    fields = parse_message(COMMON + b"\r\n")
    assert list(fields.routing_texts) == [*expected, None]
    fields.add_header("Contact", "<sip:c>")
    assert list(fields.routing_texts) == [*expected, "<sip:c>"]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda f: f.add_header("Contact", "<sip:c>"), b"Contact: <sip:c>\r\n"),
        (lambda f: f.insert_header("Path", "<sip:c>"), b"Path: <sip:c>\r\n"),
        (lambda f: f.replace_header("To", "<sip:c>"), b"To: <sip:c>\r\n"),
        (lambda f: f.remove_header("supported"), b"To: <sip:t>\r\n"),
        (lambda f: f.replace_first("Via", "SIP/2.0/WS c"), b"Via: SIP/2.0/WS c\r\n"),
    ],
)
def test_the_first_edit_of_a_common_head(
    edit: Callable[[HeaderFields], object], line: bytes
) -> None:
    fields = parse_message(MANY + b"\r\nbody")
    edit(fields)
    assert line in fields.to_bytes()
    again = parse_message(fields.to_bytes())
    assert again.header_items() == fields.header_items()
    assert again.routing_texts == fields.routing_texts

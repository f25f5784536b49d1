from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.fields import HeaderFields
from wsproto_sip.sip.message.headers import CSeq
from wsproto_sip.sip.message.message import SipMessage, SipRequest
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.uri import SipUri, TelUri
from wsproto_sip.sip.message.via import Via

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


def test_fields_are_found_in_any_spelling() -> None:
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
    assert list(fields.header_names) == ["via", "x-odd", "from", "to", "call-id", "cseq"]
    fields.remove_header("via")
    assert fields.get_all("X-Odd") == ["one two"]
    assert fields.values("x-odd") == ["one two"]
    for count in (64, 128):
        fields.add_header("X-List", ",".join("a" * 64))
        assert fields.values("x-list") == ["a"] * count
    fields.add_header("X-List", "b")
    with pytest.raises(SipParseError, match="more than 128 values of x-list"):
        fields.values("x-list")


def test_add_header_appends() -> None:
    fields = message()
    fields.add_header("X-New", " a ")
    fields.add_header("Expires", 60)
    assert written(fields) == HEAD + b"X-New: a\r\nExpires: 60\r\n\r\n"
    assert fields.get("expires") == "60"


def test_insert_header_goes_before_its_name() -> None:
    fields = message()
    fields.insert_header("Via", Via("WS", "new"))
    fields.insert_header("Record-Route", NameAddr(SipUri("r")))
    start, rest = HEAD.split(b"\r\n", 1)
    assert written(fields) == (
        start + b"\r\nRecord-Route: <sip:r>\r\nVia: SIP/2.0/WS new\r\n" + rest + b"\r\n"
    )
    assert fields.values("via")[0] == "SIP/2.0/WS new"


def test_replace_header_leaves_one_field() -> None:
    fields = message()
    fields.replace_header("Via", Via("WS", "only"))
    fields.replace_header("CSeq", CSeq(2, "OPTIONS"))
    fields.replace_header("Y", "z")
    assert fields.get_all("via") == ["SIP/2.0/WS only"]
    assert written(fields) == (
        b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/WS only\r\nX-Odd :  one\r\n\t two \r\n"
        b"From:<sip:f>;tag=1\r\nt: <sip:t>\r\ni: 1@x\r\nCSeq: 2 OPTIONS\r\nY: z\r\n\r\n"
    )


def test_remove_header_returns_the_count() -> None:
    fields = message()
    assert fields.remove_header("X-ODD") == 1
    assert fields.remove_header("v") == 2
    assert fields.remove_header("via") == 0
    assert "via" not in fields
    assert fields.header_items()[0] == ("from", "<sip:f>;tag=1")


def test_first_value_is_edited_in_its_list() -> None:
    fields = message()
    fields.replace_first("Via", "SIP/2.0/WS x")
    assert fields.get_all("via")[0] == "SIP/2.0/WS x, SIP/2.0/WS b;branch=2"
    assert fields.remove_first("Via") == "SIP/2.0/WS x"
    assert b"\r\nv: SIP/2.0/WS b;branch=2\r\n" in written(fields)
    assert fields.remove_first("Via") == "SIP/2.0/WS b;branch=2"
    assert fields.get("via") == "SIP/2.0/WS c;branch=3"
    assert fields.remove_first("Via") == "SIP/2.0/WS c;branch=3"
    for edit in (lambda: fields.remove_first("Via"), lambda: fields.replace_first("Via", "x")):
        with pytest.raises(SipValueError, match="has no Via to edit"):
            edit()
    fields.replace_header("Contact", '"a, b')
    with pytest.raises(SipParseError, match="unbalanced"):
        fields.remove_first("Contact")


def test_missing_field_cannot_be_edited() -> None:
    fields = message()
    assert isinstance(fields, SipRequest)
    assert fields.to == NameAddr(SipUri("t"))
    fields.remove_header("to")
    with pytest.raises(SipParseError, match="400 Bad Request: to is missing"):
        _ = fields.to


@given(st.text(), st.text())
def test_edits_cannot_inject_headers(name: str, value: str) -> None:
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


# -- a head in its common spelling, which is split when needed -------------------------------------

COMMON = (
    b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/WS a;branch=1\r\nFrom: <sip:f>;tag=1\r\n"
    b"To: <sip:t>\r\nCall-ID: 1@x\r\nCSeq: 1 OPTIONS\r\nSupported: path\r\n"
)
MANY = COMMON + b"Via: SIP/2.0/WS b;branch=2\r\nX-Own: 1\r\n"


@pytest.mark.parametrize("head", [COMMON, MANY])
def test_common_head_gives_the_same_fields(head: bytes) -> None:
    fields = parse_message(head + b"\r\n")
    assert fields.get("Via") == fields.get("via") == "SIP/2.0/WS a;branch=1"
    assert fields.get_all("to") == ["<sip:t>"]
    assert fields.get_all("contact") == []
    assert fields.get("contact") is None
    assert len(fields.get_all("via")) == head.count(b"Via")
    assert fields.get("supported") == "path"
    assert fields.get("route") is None
    assert fields.values("contact") == fields.values("route") == []
    assert len(fields.values("via")) == head.count(b"Via")
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
def test_first_edit_of_a_common_head_keeps_other_fields(
    edit: Callable[[HeaderFields], object], line: bytes
) -> None:
    fields = parse_message(MANY + b"\r\nbody")
    edit(fields)
    assert line in fields.to_bytes()
    again = parse_message(fields.to_bytes())
    assert again.header_items() == fields.header_items()
    assert again.routing_texts == fields.routing_texts


# -- cached values of an edited message ------------------------------------------------------------

FULL = (
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


def request(data: str = FULL + "v=0") -> SipRequest:
    message = parse_message(data)
    assert isinstance(message, SipRequest)
    return message


def lists_supported(message: SipMessage) -> bool:
    return "Supported" in message


def test_edit_drops_cached_values_of_its_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counting(parse: Callable[[str], Via | NameAddr]) -> Callable[[str], Via | NameAddr]:
        def count(text: str) -> Via | NameAddr:
            parsed.append(text)
            return parse(text)

        return count

    monkeypatch.setattr(Via, "parse", counting(Via.parse))
    monkeypatch.setattr(NameAddr, "parse", counting(NameAddr.parse))
    message = request()

    def look(at: SipMessage) -> list[object]:
        return [at.vias, at.via, at.from_, at.to, at.contacts, at.routes, at.cseq, at.call_id]

    look(message)
    assert len(parsed) == 8
    look(message)
    look(message.copy())
    message.replace_first("Via", message.via.with_param("rport", "5060"))
    message.replace_header("Max-Forwards", 68)
    message.insert_header("Record-Route", "<sip:edge.test;lr>")
    message.remove_first("Route")
    message.uri = "sip:carol@sip.test"
    assert [str(value) for value in message.routes] == ["<sip:r2;lr>"]
    assert message.via.rport == 5060
    look(message)
    assert len(parsed) == 8
    message.replace_header("To", "<sip:carol@sip.test>")
    look(message)
    assert parsed[8:] == ["<sip:carol@sip.test>"]


_READS: list[Callable[[SipRequest], object]] = [
    *(lambda m: m.vias, lambda m: m.via, lambda m: m.contacts, lambda m: m.routes),
    *(lambda m: m.from_, lambda m: m.to, lambda m: m.cseq, lambda m: m.call_id),
    *(lambda m: m.max_forwards, lambda m: m.uri, lambda m: m.tokens("supported")),
    *(lambda m: m.addresses("m"), lambda m: m.header_items(), lambda m: m.routing_texts),
    *(lambda m: m.tokens("require"), lambda m: m.get("privacy"), lambda m: m.get_all("Route")),
    *(lambda m: {"route", "require", "path"}.intersection(m.rare_names), lambda m: "Path" in m),
    *(lambda m: m.get("timestamp"), lambda m: "To" in m, lambda m: "Session-Expires" in m),
    *(
        lambda m: m.get("Contact"),
        lambda m: m.get_all("Via"),
        lambda m: m.get("x"),
        lists_supported,
    ),
]
_VALUES: list[str | Via | NameAddr] = [
    *("<sip:a@b>", "<sip:a@b>, sip:c@d;x", "*", "", "70", "x y", "1 INVITE", "SIP/2.0/WS e;b=1"),
    *("SIP/2.0/WS e;b=1, SIP/2.0/TCP f", '"a, b" <sip:q>;r="\\""', "<sip:a@b", ",", "gruu,\tpath"),
    *(Via("WS", "v"), Via("UDP", "[::1]", 5060, Via.parse("SIP/2.0/WS a;rport").params)),
    *(NameAddr(SipUri("h")), NameAddr(TelUri("+1"), display_name='say "x"')),
    NameAddr.parse('<sip:u@h;lr;a=%41>;q=0.5;+sip.instance="<urn:x>"'),
]
_EDITS: list[Callable[[SipRequest, str, str | Via | NameAddr], object]] = [
    SipRequest.add_header,
    SipRequest.insert_header,
    SipRequest.replace_header,
    SipRequest.replace_first,
    lambda m, name, value: m.remove_first(name),
    lambda m, name, value: m.remove_header(name),
]
_NAMES = ["Via", "v", "Contact", "contact", "Route", "To", "From", "CSeq", "Call-ID", "X", "k"]
_NAMES += ["Require", "Timestamp", "Session-Expires"]
_COMMON = (
    "INVITE sip:bob@sip.test SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
    "Max-Forwards: 69\r\nTo: <sip:bob@sip.test>\r\nFrom: <sip:alice@sip.test>;tag=1\r\n"
    "Call-ID: abc\r\nCSeq: 7 INVITE\r\nContact: <sip:a@x.invalid>\r\nSupported: path\r\n\r\n"
)


def outcome(read: Callable[[SipRequest], object], message: SipRequest) -> object:
    try:
        return read(message)
    except SipParseError as error:
        return error.status


@given(
    st.sampled_from(
        [
            *(FULL, _COMMON, _COMMON.replace("Contact", "Route: <sip:r>\r\nm")),
            _COMMON.replace("Contact", "Require: 100rel\r\nTimestamp: 54\r\nContact"),
            _COMMON.replace("Contact", "Session-Expires: 90\r\nVia: SIP/2.0/WS y\r\nContact"),
            _COMMON.replace("branch=z9hG4bK1", "branch=z9hG4bK1, SIP/2.0/WS y"),
        ]
    ),
    st.lists(
        st.tuples(
            st.sampled_from(_EDITS),
            st.sampled_from(_NAMES),
            st.sampled_from(_VALUES),
            st.sets(st.sampled_from(_READS)),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_edited_message_reads_like_a_new_one(
    data: str,
    edits: list[
        tuple[
            Callable[[SipRequest, str, str | Via | NameAddr], object],
            str,
            str | Via | NameAddr,
            set[Callable[[SipRequest], object]],
        ]
    ],
) -> None:
    message = request(data.replace("Content-Length: 3\r\n", ""))
    for edit, name, value, reads in edits:
        for read in reads:
            outcome(read, message)
        with suppress(SipValueError, SipParseError):
            edit(message, name, value)
    for one in (message, message.copy()):
        start, *rest = one.to_bytes().decode().split("\r\n")
        # No cached value of the fields before the edit, or as they were written, is used.
        fresh = SipRequest("INVITE", start.split(" ")[1], one.header_items())
        fresh.remove_header("content-length")
        assert len(rest) == len(one.header_items()) + 2
        for read in _READS:
            assert outcome(read, one) == outcome(read, fresh)


def test_only_via_is_replaced_beside_the_fields() -> None:
    via = Via.parse("SIP/2.0/WS x.invalid;branch=z9hG4bK1;rport=1")
    message = request(_COMMON)
    for value in (Via("WS", "v"), via):
        message.replace_first("Via", value)
        assert message.get_all("v") == message.values("Via") == [str(value)]
        assert message.make_response(200).get("Via") == str(value)
        assert message.vias == [value]
    assert "Route" not in message
    assert "Route" not in message.copy()
    assert message.to_bytes() == _COMMON.replace("bK1", "bK1;rport=1").encode()
    message.replace_first("Via", "SIP/2.0/WS y")
    assert message.header_items()[0] == ("via", "SIP/2.0/WS y")


@pytest.mark.parametrize("more", ["\r\nVia: SIP/2.0/WS z", ", SIP/2.0/WS z"])
def test_first_of_several_vias_is_replaced_in_its_field(more: str) -> None:
    message = request(_COMMON.replace("bK1", f"bK1{more}"))
    message.replace_first("Via", "SIP/2.0/WS y")
    assert message.values("Via") == ["SIP/2.0/WS y", "SIP/2.0/WS z"]


def test_removing_every_field_leaves_an_empty_head() -> None:
    message = request(_COMMON)
    for name, _ in message.header_items():
        message.remove_header(name)
    assert message.to_bytes() == b"INVITE sip:bob@sip.test SIP/2.0\r\n\r\n"
    assert message.get("via") is None
    assert "supported" not in message
    assert message.header_items() == []

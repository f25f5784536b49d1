from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.limits import SipLimits
from wsproto_sip.sip.message.message import SipRequest, SipResponse
from wsproto_sip.sip.message.parser import _read, _read_common, error_response, parse_message

FIELDS = (
    "Via: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
    "From: <sip:a@b>;tag=1\r\n"
    "To: <sip:c@d>\r\n"
    "Call-ID: x\r\n"
    "CSeq: 1 OPTIONS\r\n"
)
START = "OPTIONS sip:c@d SIP/2.0\r\n"


def refused(data: bytes | str, limits: SipLimits | None = None) -> SipParseError:
    with pytest.raises(SipParseError) as caught:
        parse_message(data, limits=limits or SipLimits())
    return caught.value


def accepted(message: SipRequest | SipResponse) -> None:
    assert message.call_id == "x"


def test_request() -> None:
    message = parse_message(START + FIELDS + "\r\nbody")
    assert isinstance(message, SipRequest)
    assert message.body == b"body"
    assert message.uri_text == "sip:c@d"


def test_response() -> None:
    message = parse_message(f"SIP/2.0 200 All is well\r\n{FIELDS}\r\n".encode())
    assert isinstance(message, SipResponse)
    assert (message.status, message.reason) == (200, "All is well")
    lower = parse_message(f"sip/2.0 699 \r\n{FIELDS}\r\n")
    assert isinstance(lower, SipResponse)
    assert (lower.status, lower.reason) == (699, "")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers(kind: type[bytearray]) -> None:
    data = f"{START}{FIELDS}\r\n".encode()
    assert parse_message(kind(data)).to_bytes() == data


def test_spellings_agree() -> None:
    odd = (
        "OPTIONS sip:c@d sip/2.0\r\nV : SIP/2.0/WS\r\n x.invalid;branch=z9hG4bK1\r\n"
        "fRoM:<sip:a@b>;tag=1\r\nt:\r\n\t<sip:c@d>\r\nI:x\r\ncseq:\r\n 1\r\n  OPTIONS\r\n\r\n"
    )
    one, other = parse_message(odd), parse_message(START + FIELDS + "\r\n")
    assert one.via == other.via
    assert one.from_ == other.from_
    assert one.to == other.to
    assert one.call_id == other.call_id
    assert one.cseq == other.cseq
    assert one.to_bytes() == odd.encode()
    one.add_header("X", "y")
    assert one.to_bytes() == (odd[:-2] + "X: y\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        ("", 400, "no empty line"),
        (START + FIELDS, 400, "no empty line"),
        ("\ud800", 400, "surrogates"),
        ("\r\n\r\n", 400, "bad request line"),
        ("OPTIONS  sip:c@d SIP/2.0\r\n" + FIELDS + "\r\n", 400, "bad request line"),
        (" OPTIONS sip:c@d SIP/2.0\r\n" + FIELDS + "\r\n", 400, "bad request line"),
        ("OPTIONS sip:c@d SIP/2.0 \r\n" + FIELDS + "\r\n", 400, "bad request line"),
        ("OPTIONS  SIP/2.0\r\n" + FIELDS + "\r\n", 400, "bad request line"),
        ("OPT(IONS sip:c@d SIP/2.0\r\n" + FIELDS + "\r\n", 400, "bad request line"),
        ("OPTIONS sip:c@d SIP/7.0\r\n" + FIELDS + "\r\n", 505, "not SIP/2.0"),
        ("OPTIONS sip:c@d HTTP/1.1\r\n" + FIELDS + "\r\n", 400, "not SIP/2.0"),
        ("SIP/3.0 200 OK\r\n" + FIELDS + "\r\n", 505, "not SIP/2.0"),
        ("SIP/2.0 700 OK\r\n" + FIELDS + "\r\n", 400, "bad status line"),
        ("SIP/2.0 4294967301 OK\r\n" + FIELDS + "\r\n", 400, "bad status line"),
        ("SIP/2.0 200\r\n" + FIELDS + "\r\n", 400, "bad status line"),
        (START + FIELDS + "X: a\nb\r\n\r\n", 400, "CR or LF"),
        (START + FIELDS + "X: a\rb\r\n\r\n", 400, "CR or LF"),
        (START + FIELDS + "X: a\0b\r\n\r\n", 400, "NUL"),
        (START + FIELDS + "X\r\n\r\n", 400, "without a colon"),
        (START + FIELDS + "Via\r\n\r\n", 400, "without a colon"),
        (START + FIELDS + "X Y: a\r\n\r\n", 400, "not a token"),
        (START + FIELDS + ": a\r\n\r\n", 400, "not a token"),
        (START + " X: a\r\n" + FIELDS + "\r\n", 400, "before the first"),
        (START + FIELDS + "t: <sip:x>\r\n\r\n", 400, "more than one to"),
        (START + FIELDS + "Content-Length: 0\r\nl: 0\r\n\r\n", 400, "more than one"),
        (START + FIELDS + "Content-Length: 1\r\n\r\n", 400, "body of 0 bytes"),
        (START + FIELDS + "Content-Length: 1\r\n\r\nab", 400, "body of 2 bytes"),
        (START + FIELDS + "Content-Length: -1\r\n\r\n", 400, "not a number"),
        (START + FIELDS + "Content-Length: \u0660\r\n\r\n", 400, "not a number"),
        (START + FIELDS.replace("To", "X-To") + "\r\n", 400, "missing: to"),
        (START + "\r\n", 400, "missing: via, from, to, call-id, cseq"),
    ],
)
def test_malformed_message_is_refused(data: str, status: int, detail: str) -> None:
    error = refused(data)
    assert error.status == status
    assert detail in error.detail


def test_length_may_be_written_differently() -> None:
    for length in ("Content-Length:3", "l : 003", "Content-Length:\r\n 3"):
        assert parse_message(f"{START}{FIELDS}{length}\r\n\r\nabc").body == b"abc"


def test_nul_in_a_quoted_pair_is_accepted() -> None:
    message = parse_message(START + FIELDS.replace("<sip:c@d>", '"\\\0" <sip:c@d>') + "\r\n")
    assert message.to.display_name == "\0"


def test_limits() -> None:
    data = START + FIELDS
    size = len(data) + 2
    accepted(parse_message(data + "\r\n", limits=SipLimits(max_message_size=size)))
    assert refused(data + "\r\n", SipLimits(max_message_size=size - 1)).status == 513
    error = refused(data + "\r\n" + "x" * (size + 1), SipLimits(max_message_size=size))
    assert error.status == 413
    assert error.response is not None
    assert error.response.status == 413
    accepted(parse_message(data + "\r\n", limits=SipLimits(max_headers=5)))
    assert refused(data + "\r\n", SipLimits(max_headers=4)).status == 400
    accepted(parse_message(data + "\r\n", limits=SipLimits(max_uri=7)))
    assert refused(data + "\r\n", SipLimits(max_uri=6)).status == 414


def test_line_limit() -> None:
    limits = SipLimits(max_header_line=50)
    accepted(parse_message(f"{START}{FIELDS}X: {'a' * 47}\r\n\r\n", limits=limits))
    assert refused(f"{START}{FIELDS}X: {'a' * 48}\r\n\r\n", limits).status == 513
    # Bytes count, and folds do.
    assert refused(f"{START}{FIELDS}X: {'ä' * 24}\r\n\r\n", limits).status == 513
    assert refused(f"{START}{FIELDS}X: {'a' * 30}\r\n {'a' * 30}\r\n\r\n", limits).status == 513
    # The Request-URI has its own limit, the method does not.
    uri = "sip:" + "a" * 100
    accepted(parse_message(f"OPTIONS {uri} SIP/2.0\r\n{FIELDS}\r\n", limits=limits))
    assert refused(f"{'A' * 50} {uri} SIP/2.0\r\n{FIELDS}\r\n", limits).status == 513
    assert refused(f"SIP/2.0 200 {'a' * 50}\r\n{FIELDS}\r\n", limits).status == 513


def test_via_limit() -> None:
    via = "Via: SIP/2.0/WS y;branch=2\r\n"
    accepted(parse_message(START + FIELDS + via * 70 + "\r\n"))
    assert "more than 71 Vias" in refused(START + FIELDS + via * 71 + "\r\n").detail
    both = FIELDS.replace("z9hG4bK1", "z9hG4bK1, SIP/2.0/WS y")
    accepted(parse_message(START + both + "\r\n", limits=SipLimits(max_vias=2)))
    assert refused(START + both + "\r\n", SipLimits(max_vias=1)).status == 400
    assert refused(START + FIELDS + "\r\n", SipLimits(max_vias=0)).status == 400


def test_without_limits_anything_is_accepted() -> None:
    limits = SipLimits(None, None, None, None, None)
    accepted(parse_message(START + FIELDS + f"X: {'a' * 70000}\r\n" * 101 + "\r\n", limits=limits))


def test_error_carries_a_response() -> None:
    error = refused(START + FIELDS + "t: <sip:evil>\r\nTimestamp: 1\r\nX\r\n\r\n")
    assert error.response is not None
    assert error.response.status == 400
    assert error.response.to.uri == parse_message(START + FIELDS + "\r\n").to.uri
    assert error.response.get("timestamp") == "1"
    assert error.response.via.branch == "z9hG4bK1"
    folded = FIELDS.replace(" <sip:c", "\r\n <sip:c")
    error = refused("OPTIONS sip:c@d SIP/7.0\r\n" + folded + "\r\n")
    assert error.response is not None
    assert error.response.start_line == "SIP/2.0 505 Version Not Supported"
    assert str(error.response.to).startswith("<sip:c@d>;tag=")


def test_request_without_required_fields_is_answered_with_the_others() -> None:
    """RFC 4475 §3.3.1, insuf: an INVITE without Call-ID, From and To."""
    error = refused(
        "INVITE sip:user@example.com SIP/2.0\r\nCSeq: 193942 INVITE\r\n"
        "v:  SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\r\nl: 0\r\n\r\n"
    )
    assert error.response is not None
    assert error.response.to_bytes() == (
        b"SIP/2.0 400 Bad Request\r\nCSeq: 193942 INVITE\r\n"
        b"v: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        "ACK sip:c@d SIP/7.0\r\n" + FIELDS + "\r\n",
        "SIP/7.0 200 OK\r\n" + FIELDS + "\r\n",
        START + FIELDS.replace("CSeq", "X-CSeq") + "\r\n",
        START + FIELDS.replace("Via", "X-Via") + "\r\n",
        START + FIELDS.replace("z9hG4bK1", "\0") + "\r\n",
        "\r\n" + START + FIELDS + "\r\n",
        START + FIELDS.replace("a@b", "a\n@b") + "\r\n",
        START + FIELDS.replace("a@b", "a\r@b") + "\r\n",
    ],
)
def test_responses_and_acks_are_not_answered(data: str) -> None:
    assert refused(data).response is None


def test_error_response() -> None:
    response = error_response((START + FIELDS).encode(), 513)
    assert response is not None
    assert response.status == 513
    assert error_response(b"", 513) is None


def test_invalid_utf8_survives() -> None:
    data = (START + FIELDS + "Subject: ").encode() + b"\xff\xe4\x85 \xc3\xa4\r\n\r\n\xfe"
    message = parse_message(data)
    assert message.get("subject") == "\udcff\udce4\udc85 ä"
    message.remove_first("Via")
    assert b"Subject: \xff\xe4\x85 \xc3\xa4\r\n" in message.to_bytes()
    assert message.to_websocket() == message.to_bytes()


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x1c", "\x85", "\xa0"])
def test_unicode_space_is_not_white_space(space: str) -> None:
    message = parse_message(f"{START}{FIELDS}X:{space}a{space}\r\n\r\n")
    assert message.get("x") == f"{space}a{space}"
    assert refused(f"{START}{FIELDS}X{space}: a\r\n\r\n").status == 400


PIECES = st.sampled_from(
    [
        *(START, FIELDS, "\r\n", "\r\n\r\n", " ", "\t", ":", ",", ";", "\0", "\\\0", "\r", "\n"),
        *(
            "v: SIP/2.0/WS a\r\n",
            "l: 0\r\n",
            "X: y\r\n",
            "SIP/2.0 200 OK\r\n",
            "ACK ",
            "\udcff",
            "<",
        ),
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=3))))
def test_any_text_is_parsed_or_refused(pieces: list[str]) -> None:
    data = "".join(pieces).encode("utf-8", "replace")
    check(data)
    check((START + FIELDS).encode() + data + b"\r\n\r\n")


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    check(data)
    check((START + FIELDS).encode() + data)
    check((START + FIELDS).encode() + data + b"\r\n\r\n")


_LINES = [
    *(f"{line}\r\n" for line in FIELDS.split("\r\n")[:-1]),
    *("Via: SIP/2.0/WS y;branch=2\r\n", "Via: a, b\r\n", "v: SIP/2.0/WS z\r\n", 'Via: "\r\n'),
    *("From: <sip:x@y>\r\n", "f: z\r\n", "Cseq: 2 OPTIONS\r\n", "Call-ID:y\r\n", "To : x\r\n"),
    *("Contact: <sip:a@b>\r\n", "Contact:  *\r\n", "Contact:\r\n", "m: <sip:c@d>\r\n"),
    *("Content-Length: 0\r\n", "Content-Length: 4\r\n", "l: 4\r\n", "Content-Length: 004\r\n"),
    *("Supported: path\r\n", "Supported:  gruu \r\n", "X: y\r\n", "X1: y\r\n", "Abc: \r\n"),
    *("Subject: \u00e4\r\n", " fold\r\n", "Subject: a\nb\r\n", "Subject: \r\n", "Event: x\r\n"),
    *("Expires: 5\r\n", "Expires: 6\r\n", "Max-Forwards: 70\r\n", "\r\n", "no colon\r\n"),
]
_STARTS = [
    START,
    "SIP/2.0 200 OK\r\n",
    "SIP/2.0 200 \r\n",
    "options x SIP/2.0\r\n",
    "X a\nb SIP/2.0\r\n",
]


@given(
    st.sampled_from(_STARTS),
    st.permutations(_LINES[:5]),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(_LINES)), max_size=4),
    st.sampled_from([b"", b"body", b"\r\n\r\n", b"\xff\xfe", "\u00e4\u00e4".encode()]),
    st.sampled_from([(10**6, 100, 4096, 70, 1024), (300, 6, 4096, 1, 5), (10**6, 5, 200, 2, 1024)]),
)
def test_fast_and_slow_path_agree(
    start: str,
    lines: list[str],
    more: list[tuple[int, str]],
    body: bytes,
    bounds: tuple[int, ...],
) -> None:
    for at, line in more:
        lines.insert(at, line)
    data = "".join([start, *lines, "\r\n"]).encode() + body
    quick = _read_common(data, bounds)
    if quick is None:
        return
    head, _, rest = data.partition(b"\r\n\r\n")
    slow = _read(data, len(head), head.decode().split("\r\n"), rest, bounds)
    for name in ("via", "contact", "from", "call-id", "cseq", "supported", "expires", "x"):
        assert quick.get(name) == slow.get(name)
        assert quick.get_all(name) == slow.get_all(name)
        assert (name in quick) == (name in slow)
    assert quick.routing_texts == slow.routing_texts
    for one, other in ((quick, slow), (quick.copy(), slow.copy())):
        assert type(one) is type(other)
        assert one.start_line == other.start_line
        assert one.header_items() == other.header_items()
        assert (one.body, one.to_bytes()) == (other.body, other.to_bytes())
    for message in (quick, slow):
        message.insert_header("Via", "SIP/2.0/WS edge")
        message.replace_header("Contact", "<sip:new>")
        message.add_header("X", "1")
    assert quick.to_bytes() == slow.to_bytes()
    assert quick.header_items() == slow.header_items()
    assert quick.routing_texts == slow.routing_texts


def check(data: bytes) -> None:
    try:
        message = parse_message(data)
    except SipParseError as error:
        if error.response is not None:
            parse_message(error.response.to_bytes())
        return
    assert message.to_bytes() == data
    # Writing it from its parts gives the same bytes.
    message.add_header("X-Added", "1")
    message.remove_header("X-Added")
    assert message.to_bytes() == data or b"x-added" in data.lower()
    again = parse_message(message.to_bytes())
    assert again.header_items() == message.header_items()
    for read in ("via", "vias", "from_", "to", "cseq", "contacts", "routes", "max_forwards"):
        with suppress(SipParseError):
            getattr(message, read)

"""The ordinary SEND, against the parser of all chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip.msrp.message.chunk import MsrpParseError, MsrpRequest, split_chunk
from wsproto_sip.msrp.message.fields import FailureReport
from wsproto_sip.msrp.message.limits import DEFAULT_MSRP_LIMITS
from wsproto_sip.msrp.message.ordinary import is_ordinary_within, read_ordinary

PATHS = b"To-Path: msrp://r/s;tcp msrp://b/c;ws\r\nFrom-Path: msrp://a/b;ws\r\n"
FIELDS = b"Message-ID: 1234\r\nByte-Range: 1-5/5\r\nContent-Type: text/plain\r\n"


def send(
    body: bytes = b"hello",
    fields: bytes = FIELDS,
    *,
    tid: bytes = b"abcd",
    flag: bytes = b"$",
) -> bytes:
    return b"MSRP %b SEND\r\n%b%b\r\n%b\r\n-------%b%b\r\n" % (tid, PATHS, fields, body, tid, flag)


def ranged(held: bytes) -> bytes:
    return FIELDS.replace(b"1-5/5", held)


def agrees(data: bytes) -> bool:
    """Return whether a chunk is ordinary; then check that it is what the parser reads."""
    found = read_ordinary(data)
    if found is None:
        return False
    paths, (tid, message_id, held, wanted, rest, size, flag) = found
    assert data.count(paths) == 1
    # Paths are not checked.
    request, fields, expected = split_chunk(data.replace(paths, PATHS))
    assert isinstance(request, MsrpRequest)
    assert (tid, b"SEND") == (request.transaction_id, request.method)
    assert rest == expected
    assert (message_id, held) == (fields[b"message-id"], fields[b"byte-range"])
    assert wanted is request.failure_report
    assert size == len(request.body or b"")
    assert flag == request.continuation.value
    assert data == b"MSRP %b SEND\r\n%b%b-------%b%b\r\n" % (tid, paths, rest, tid, flag)
    return True


@pytest.mark.parametrize(
    "data",
    [
        send(),
        send(flag=b"+"),
        send(b"", ranged(b"1-0/0")),
        send(b"", ranged(b"1-0/*"), flag=b"#"),
        send(fields=ranged(b"1-*/*")),
        send(fields=ranged(b"7-*/6")),
        send(fields=ranged(b"7-11/11")),
        send(b"\r\n---", tid=b"-abc".replace(b"-", b"0")),
        send(b"\r\n-------abc$\r\n", ranged(b"1-15/*")),
        send(fields=FIELDS.replace(b"Byte", b"Failure-Report: partial\r\nByte")),
        send(fields=FIELDS.replace(b"Content", b"Success-Report: yes\r\nContent")),
        send(
            fields=FIELDS.replace(b"Byte", b"Failure-Report: no\r\nByte").replace(
                b"Content", b"Success-Report: no\r\nContent"
            )
        ),
    ],
)
def test_ordinary(data: bytes) -> None:
    assert agrees(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        send().replace(b"SEND", b"REPORT"),
        send().replace(b"Message-ID", b"message-id"),
        send().replace(b"Content", b"X-Other: x\r\nContent"),
        send(fields=b"Message-ID: 1234\r\nContent-Type: text/plain\r\n"),
        send(fields=FIELDS.replace(b"plain", b"x" * 100)),
        # A range that contradicts itself or the body.
        send(fields=ranged(b"1-6/6")),
        send(fields=ranged(b"1-5/4")),
        send(fields=ranged(b"7-*/5")),
        send(fields=ranged(b"0-4/5")),
        send(fields=ranged(b"1-5/%d" % 10**18)),
        # Fields that are malformed or repeated.
        send(fields=FIELDS.replace(b"Byte", b"Failure-Report: never\r\nByte")),
        send(fields=FIELDS.replace(b"Byte", b"Success-Report: partial\r\nByte")),
        send(fields=FIELDS.replace(b"Byte", 2 * b"Failure-Report: no\r\nByte", 1)),
        # Not at the end, or not ended.
        send() + b"\r\n",
        send(flag=b"x"),
        send(b"x\r\n-------abcd$\r\ny", ranged(b"1-18/18")),
        send(b"-------abcd$\r\nxx", ranged(b"1-16/16")),
        send(b"x\r\n-------abcdefgh$\r\n", ranged(b"1-23/23")),
        send()[: -len(b"hello\r\n-------abcd$\r\n")] + b"-------abcd$\r\n",
    ],
)
def test_not_ordinary(data: bytes) -> None:
    assert not agrees(data)


_reports = st.sampled_from(
    [
        b"",
        b"Failure-Report: no\r\n",
        b"Failure-Report: partial\r\n",
        b"Failure-Report: NO\r\n",
        b"Success-Report: yes\r\n",
        b"Success-Report: no\r\nFailure-Report: yes\r\n",
    ]
)
_numbers = st.integers(0, 12) | st.sampled_from([10**18 - 1, 10**18, 2**63 - 1, 2**63])
_octets = st.sampled_from([b"\r", b"\n", b"\0", b"\xff", b"x", b" ", b"-", b"*", b"0", b"$", b"+"])
_lines = st.sampled_from([b"\r\n", b"-------abcd", b"$\r\n", b": ", b"Failure-Report: yes\r\n"])
_pieces = _octets | _lines


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    body = b"".join(draw(st.lists(_pieces | st.binary(max_size=5), max_size=4)))
    first = draw(_numbers)
    last = draw(st.just(first - 1 + len(body)) | _numbers)
    held = b"%d-%b/%b" % (
        first,
        draw(st.sampled_from([b"%d" % last, b"*"])),
        draw(st.sampled_from([b"%d" % last, b"*", b"%d" % draw(_numbers)])),
    )
    fields = b"Message-ID: 1234\r\n%bByte-Range: %b\r\n%bContent-Type: a/b\r\n" % (
        draw(_reports),
        held,
        draw(_reports),
    )
    data = send(body, fields, flag=draw(st.sampled_from([b"$", b"+", b"#"])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(_pieces) + data[at + draw(st.integers(0, 3)) :]
    return data


@given(chunks())
@example(send())
def test_what_is_ordinary_is_read_as_by_the_parser(data: bytes) -> None:
    agrees(data)


@given(chunks())
def test_chunk_that_is_refused_is_not_ordinary(data: bytes) -> None:
    try:
        split_chunk(data)
    except MsrpParseError:
        found = read_ordinary(data)
        # Unless its paths are wrong.
        assert found is None or found[0] != PATHS


@pytest.mark.parametrize(
    ("name", "least"), [("max_first_line", 44), ("max_header_line", 116), ("max_headers", 5)]
)
def test_limits_leave_room_for_all_of_it(name: str, least: int) -> None:
    full = FIELDS.replace(b"Byte", b"Success-Report: no\r\nFailure-Report: yes\r\nByte")
    data = send(fields=full.replace(b"plain", b"x" * 95), tid=b"i" * 32)
    assert agrees(data)
    limits = replace(DEFAULT_MSRP_LIMITS, **{name: least})
    assert is_ordinary_within(limits)
    split_chunk(data, limits=limits)
    assert not is_ordinary_within(replace(limits, **{name: least - 1}))
    with pytest.raises(MsrpParseError):
        split_chunk(data, limits=replace(limits, **{name: least - 1}))


def test_failure_reports_are_those_of_the_field() -> None:
    for wanted in FailureReport:
        line = b"Failure-Report: %b\r\nByte" % wanted.value
        found = read_ordinary(send(fields=FIELDS.replace(b"Byte", line)))
        assert found is not None
        assert found[1][3] is wanted

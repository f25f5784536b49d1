from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.msrp.message.fields import (
    REASONS,
    ByteRange,
    FailureReport,
    check_field,
    format_status,
    is_exact_range,
    parse_status,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1-*/*", ByteRange(1, None, None)),
        (b"1-0/0", ByteRange(1, 0, 0)),
        (b"5-8/10", ByteRange(5, 8, 10)),
        (b"11-*/10", ByteRange(11, None, 10)),
        (b"9223372036854775807-9223372036854775807/*", ByteRange(2**63 - 1, 2**63 - 1, None)),
    ],
)
def test_byte_range(value: bytes, expected: ByteRange) -> None:
    assert ByteRange.parse(value) == expected
    assert bytes(expected) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        b"*-*/*",
        b"-1-2/2",
        b"1-2/2 ",
        b"1 - 2/2",
        b"1-2/2\n",
        b"0-1/1",
        b"3-1/9",
        b"2-0/0",
        b"1-5/4",
        b"6-*/4",
        b"1-*/9223372036854775808",
        b"1-9223372036854775808/*",
        b"9223372036854775808-*/*",
        b"1-*/99999999999999999999",
        b"\xd9\xa1-*/*",
    ],
)
def test_malformed_byte_range_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError):
        ByteRange.parse(value)


@given(st.integers(-5, 2**64), st.none() | st.integers(-5, 2**64), st.none() | st.integers(-5))
def test_byte_ranges_stay_in_range(start: int, end: int | None, total: int | None) -> None:
    try:
        made = ByteRange(start, end, total)
    except ValueError:
        return
    assert 1 <= made.start < 2**63
    assert made.end is None or made.start - 1 <= made.end < 2**63
    assert made.total is None or 0 <= made.total < 2**63
    assert ByteRange.parse(bytes(made)) == made


def test_status() -> None:
    assert parse_status(b"000 200 OK") == (200, b"OK")
    assert parse_status(b"000 408") == (408, b"")
    assert format_status(408) == b"000 408 Transaction-did-not-complete-in-allotted-time"
    assert format_status(408, b"") == b"000 408"
    assert format_status(299) == b"000 299"
    with pytest.raises(ValueError, match="not a status"):
        parse_status(b"200 OK")
    # No other namespace is defined yet.
    with pytest.raises(ValueError, match="not a status"):
        parse_status(b"001 200 OK")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, FailureReport.YES),
        (b"yes", FailureReport.YES),
        (b"PARTIAL", FailureReport.PARTIAL),
        (b"No", FailureReport.NO),
    ],
)
def test_failure_report(value: bytes | None, wanted: FailureReport) -> None:
    assert FailureReport.of(value) is wanted


def test_malformed_failure_report_is_refused() -> None:
    with pytest.raises(ValueError, match="maybe"):
        FailureReport.of(b"maybe")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (b"Message-ID", b"a.b-c+d%e=f", b"abc"),
        (b"Success-Report", b"YES", b"perhaps"),
        (b"Failure-Report", b"Partial", b"partly"),
        (b"Byte-Range", b"1-*/*", b"0-*/*"),
        (b"Status", b"001 200 OK", b"200 OK"),
        (b"Expires", b"0", b"-1"),
        (b"Min-Expires", b"9999999999", b"10000000000"),
        (b"Max-Expires", b"60", b"\xb2"),
    ],
)
def test_fields_that_are_checked(name: bytes, good: bytes, bad: bytes) -> None:
    assert check_field(name, name.lower(), good)
    with pytest.raises(ValueError):
        check_field(name, name.lower(), bad)


@pytest.mark.parametrize(
    "name", [b"Content-Type", b"Use-Path", b"Authorization", b"Authentication-Info"]
)
def test_fields_parsed_elsewhere_are_not_checked(name: bytes) -> None:
    assert check_field(name, name.lower(), b"anything")


def test_other_fields() -> None:
    assert not check_field(b"X-Other", b"x-other", b"anything")


def test_every_code_has_a_reason() -> None:
    assert set(REASONS) == {200, 400, 401, 403, 408, 413, 415, 423, 481, 501, 506}


@pytest.mark.parametrize("name", [b"Content-Length", b"CONTENT_LENGTH", b"l", b"L"])
def test_length_field_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="MSRP has no length field"):
        check_field(name, name.lower(), b"5")


@pytest.mark.parametrize(
    ("value", "size", "exact"),
    [
        (b"1-5/5", 5, True),
        (b"1-5/*", 4, False),
        (b"1-5/5", 6, False),
        (b"11-15/20", 5, True),
        (b"1-0/0", 0, True),
        (b"1-*/5", 7, True),
    ],
)
def test_range_that_agrees_with_a_body(value: bytes, size: int, exact: bool) -> None:
    assert is_exact_range(value, size) is exact

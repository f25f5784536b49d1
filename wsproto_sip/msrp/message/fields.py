"""The values of MSRP header fields that are interpreted (RFC 4975 §7.1, §9; RFC 4976 §9).

Literals in the grammar are case-insensitive; byte counts stay below 2⁶³.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "IDENT",
    "REASONS",
    "TEXT",
    "ByteRange",
    "FailureReport",
    "announces_length",
    "check_field",
    "format_status",
    "is_exact_range",
    "parse_status",
]

#: The status codes of RFC 4975 §10 and RFC 4976 §9.2 with our comments.
REASONS = {
    200: b"OK",
    400: b"Unintelligible",
    401: b"Unauthorized",
    403: b"Action-not-allowed",
    408: b"Transaction-did-not-complete-in-allotted-time",
    413: b"Stop-sending-message",
    415: b"MIME-not-understood",
    423: b"Parameter-out-of-bounds",
    481: b"Session-does-not-exist",
    501: b"Request-method-not-understood",
    506: b"Session-already-in-use",
}

#: Byte ranges and totals stay below this.
_TOO_LARGE = 2**63

#: The grammar's ``ident``, used for transaction and message ids (RFC 4975 §9).
IDENT = rb"[0-9A-Za-z][0-9A-Za-z.\-+%=]{3,31}"
#: The grammar's ``utf8text``, without checking its encoding.
TEXT = rb"[\t\x20-\x7e\x80-\xff]*"

_BYTE_RANGE = re.compile(rb"([0-9]{1,19})-(?:([0-9]{1,19})|\*)/(?:([0-9]{1,19})|\*)")
_STATUS = re.compile(rb"([0-9]{3}) ([0-9]{3})(?: (%b))?" % TEXT)

#: Fields that may occur once, and the pattern of their value if it matters.
_KNOWN: dict[bytes, re.Pattern[bytes] | None] = {
    b"message-id": re.compile(IDENT),
    b"success-report": re.compile(rb"yes|no", re.IGNORECASE),
    b"failure-report": re.compile(rb"yes|no|partial", re.IGNORECASE),
    b"byte-range": _BYTE_RANGE,
    b"status": _STATUS,
    b"content-type": None,
    b"expires": re.compile(rb"[0-9]{1,10}"),
    b"min-expires": re.compile(rb"[0-9]{1,10}"),
    b"max-expires": re.compile(rb"[0-9]{1,10}"),
    b"use-path": None,
    b"authorization": None,
    b"authentication-info": None,
}

#: Names of a field that MSRP does not have. Kamailio, which reads SIP and MSRP on one port, ends a
#: chunk by it all the same, so that the rest of the body becomes its next message.
_LENGTHS = frozenset({b"content-length", b"l"})


class FailureReport(Enum):
    """The failures that a sender wants reported (RFC 4975 §7.1.1)."""

    #: Every response, and a REPORT for a failure further on.
    YES = b"yes"
    #: Failures only.
    PARTIAL = b"partial"
    #: Nothing.
    NO = b"no"

    @classmethod
    def of(cls, value: bytes | None) -> FailureReport:
        """Parse the value of a Failure-Report header field, or its absence.

        Raises:
            ValueError: The value is malformed, which cannot happen in a parsed chunk.
        """
        return cls.YES if value is None else _WANTED.get(value) or cls(value.lower())


#: By the usual spelling of the value.
_WANTED = {wanted.value: wanted for wanted in FailureReport}


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes of its message that a chunk contains (RFC 4975 §7.1.1), counted from 1.

    Args:
        start: Position of the first byte, in [1, 2⁶³).
        end: Position of the last byte, ``start - 1`` for an empty range; ``None`` if it was unknown
            when the chunk began (``*``).
        total: The length of the whole message; ``None`` if unknown (``*``).

    Raises:
        ValueError: The numbers contradict each other or are out of range.
    """

    start: int = 1
    end: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        _check_range(self.start, self.end, self.total)

    @classmethod
    def parse(cls, value: bytes) -> ByteRange:
        """Parse the value of a Byte-Range header field.

        Raises:
            ValueError: The value is not a byte range, or its numbers are impossible.
        """
        match = _BYTE_RANGE.fullmatch(value)
        if match is None:
            raise ValueError(f"not a byte range: {value[:80]!r}")
        return cls(*_numbers(match))

    def __bytes__(self) -> bytes:
        end = "*" if self.end is None else self.end
        total = "*" if self.total is None else self.total
        return f"{self.start}-{end}/{total}".encode("ascii")


def announces_length(lower: bytes) -> bool:
    """Return whether some parsers take a field with this lower-case name for Content-Length."""
    return lower.replace(b"_", b"-") in _LENGTHS


def is_exact_range(value: bytes, size: int) -> bool:
    """Return whether a Byte-Range value agrees with the size of the chunk's body.

    Args:
        value: A value that :meth:`ByteRange.parse` accepts.
        size: The length of the body in bytes.

    Returns:
        True also if the end is open (``*``).
    """
    start, _, others = value.partition(b"-")
    end = others.partition(b"/")[0]
    return end == b"*" or int(end) - int(start) + 1 == size


def _numbers(match: re.Match[bytes]) -> tuple[int, int | None, int | None]:
    """Return start, end and total of a byte range."""
    start, end, total = match.groups()
    return int(start), None if end is None else int(end), None if total is None else int(total)


def _check_range(start: int, end: int | None, total: int | None) -> None:
    """Check that the numbers are a byte range.

    Raises:
        ValueError: They are not.
    """
    if not 1 <= start < _TOO_LARGE:
        raise ValueError(f"a range cannot start at {start}")
    if end is not None and not start - 1 <= end < _TOO_LARGE:
        raise ValueError(f"a range cannot go from {start} to {end}")
    if total is not None:
        if not 0 <= total < _TOO_LARGE:
            raise ValueError(f"impossible total: {total}")
        if max(start - 1, end or 0) > total:
            raise ValueError(f"the range exceeds its total of {total}")


def parse_status(value: bytes) -> tuple[int, bytes]:
    """Parse the value of a Status header field of a REPORT (RFC 4975 §7.1.2).

    Returns:
        The status code, and the comment after it.

    Raises:
        ValueError: The value is not a status, or has a namespace other than 000, the only one
            defined.
    """
    match = _STATUS.fullmatch(value)
    if match is None or match[1] != b"000":
        raise ValueError(f"not a status: {value[:80]!r}")
    return int(match[2]), match[3] or b""


def format_status(code: int, comment: bytes | None = None) -> bytes:
    """Return the value of a Status header field; the comment defaults to the code's usual one."""
    text = REASONS.get(code, b"") if comment is None else comment
    return b"000 %03d" % code + (b" " + text if text else b"")


def check_field(name: bytes, lower: bytes, value: bytes) -> bool:
    """Check a header field.

    Args:
        name: Its name.
        lower: Its name in lower case.
        value: Its value.

    Returns:
        Whether RFC 4975 or RFC 4976 defines the field, so that it may occur only once.

    Raises:
        ValueError: They define it, and its value is malformed; or it announces a length, which MSRP
            does not have.
    """
    if lower not in _KNOWN:
        if announces_length(lower):
            raise ValueError(f"MSRP has no length field, the end-line ends a chunk: {name!r}")
        return False
    pattern = _KNOWN[lower]
    if pattern is not None:
        match = pattern.fullmatch(value)
        if match is None:
            raise ValueError(f"malformed {name.decode('ascii')}: {value[:80]!r}")
        if pattern is _BYTE_RANGE:
            _check_range(*_numbers(match))
    return True

"""The values of MSRP header fields that mean something here (RFC 4975 §7.1, §9; RFC 4976 §9).

Literal words in the grammar are the same in any case; numbers of octets stay below 2⁶³.
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
    "check_field",
    "format_status",
    "parse_status",
]

#: The status codes of RFC 4975 §10 and RFC 4976 §9.2 and what we say beside them.
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

#: The grammar's ``ident``, which transaction and message ids are (RFC 4975 §9).
IDENT = rb"[0-9A-Za-z][0-9A-Za-z.\-+%=]{3,31}"
#: The grammar's ``utf8text`` without its coding, which is nobody's concern here.
TEXT = rb"[\t\x20-\x7e\x80-\xff]*"

_BYTE_RANGE = re.compile(rb"([0-9]{1,19})-(?:([0-9]{1,19})|\*)/(?:([0-9]{1,19})|\*)")
_STATUS = re.compile(rb"([0-9]{3}) ([0-9]{3})(?: (%b))?" % TEXT)

#: Fields that may stand once, and what their value must look like where that matters here.
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


class FailureReport(Enum):
    """What a sender wants to hear of failures (RFC 4975 §7.1.1)."""

    #: Every response, and a REPORT for a failure further on.
    YES = b"yes"
    #: Failures only.
    PARTIAL = b"partial"
    #: Nothing.
    NO = b"no"

    @classmethod
    def of(cls, value: bytes | None) -> FailureReport:
        """What the value of a Failure-Report header field says, or that there is none.

        Raises:
            ValueError: It is malformed, which a parsed chunk's never is.
        """
        return cls.YES if value is None else cls(value.lower())


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Which octets of its message a chunk holds (RFC 4975 §7.1.1), counted from 1.

    Args:
        start: Position of the first octet, in [1, 2⁶³).
        end: Position of the last octet, ``start - 1`` for none at all; ``None`` where it was
            not known when the chunk began (``*``).
        total: Octets of the whole message; ``None`` where not known (``*``).

    Raises:
        ValueError: The numbers contradict each other or are out of bounds.
    """

    start: int = 1
    end: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        _check_range(self.start, self.end, self.total)

    @classmethod
    def parse(cls, value: bytes) -> ByteRange:
        """Read the value of a Byte-Range header field.

        Raises:
            ValueError: It is none, or its numbers are impossible.
        """
        match = _BYTE_RANGE.fullmatch(value)
        if match is None:
            raise ValueError(f"no byte range: {value[:80]!r}")
        return cls(*_numbers(match))

    def __bytes__(self) -> bytes:
        end = "*" if self.end is None else self.end
        total = "*" if self.total is None else self.total
        return f"{self.start}-{end}/{total}".encode("ascii")


def _numbers(match: re.Match[bytes]) -> tuple[int, int | None, int | None]:
    """Start, end and total of a byte range."""
    start, end, total = match.groups()
    return int(start), None if end is None else int(end), None if total is None else int(total)


def _check_range(start: int, end: int | None, total: int | None) -> None:
    """Find numbers that make no byte range.

    Raises:
        ValueError: They do not.
    """
    if not 1 <= start < _TOO_LARGE:
        raise ValueError(f"a range that starts at {start}")
    if end is not None and not start - 1 <= end < _TOO_LARGE:
        raise ValueError(f"a range from {start} to {end}")
    if total is not None:
        if not 0 <= total < _TOO_LARGE:
            raise ValueError(f"a total of {total}")
        if max(start - 1, end or 0) > total:
            raise ValueError(f"a range beyond its total of {total}")


def parse_status(value: bytes) -> tuple[int, bytes]:
    """Read the value of a Status header field of a REPORT (RFC 4975 §7.1.2).

    Returns:
        The status code, and the text beside it.

    Raises:
        ValueError: It is none, or of another namespace than 000, the only one there is.
    """
    match = _STATUS.fullmatch(value)
    if match is None or match[1] != b"000":
        raise ValueError(f"no status: {value[:80]!r}")
    return int(match[2]), match[3] or b""


def format_status(code: int, comment: bytes | None = None) -> bytes:
    """The value of a Status header field; the comment defaults to the code's usual one."""
    text = REASONS.get(code, b"") if comment is None else comment
    return b"000 %03d" % code + (b" " + text if text else b"")


def check_field(name: bytes, lower: bytes, value: bytes) -> bool:
    """Check a header field.

    Args:
        name: Its name.
        lower: Its name in lower case.
        value: Its value.

    Returns:
        Whether it is one of those defined by RFC 4975 and RFC 4976, which may stand once.

    Raises:
        ValueError: It is, and its value is malformed.
    """
    if lower not in _KNOWN:
        return False
    pattern = _KNOWN[lower]
    if pattern is not None:
        match = pattern.fullmatch(value)
        if match is None:
            raise ValueError(f"malformed {name.decode('ascii')}: {value[:80]!r}")
        if pattern is _BYTE_RANGE:
            _check_range(*_numbers(match))
    return True

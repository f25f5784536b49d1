"""MSRP chunks: parser and serialiser (RFC 4975 §7, §9; RFC 4976 §9).

Theory of operation: a chunk is a first line that carries a transaction id, two paths, header
fields, perhaps a body, and an end-line that repeats the id. Nothing announces the length of the
body, so the end-line alone ends it: it is looked for by the chunk's own id, and whoever makes a
chunk chooses an id that the body does not hold. Everything is octets; a body may be text or
binary, and a WebSocket message of either kind is read the same way (RFC 7977 §4.2).

The parser is strict in what frames or routes a chunk, and keeps what it does not know: header
fields of unknown name stay, in their order and byte for byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ..typing import Entropy, Headers
from ..utilities import LocalProtocolError, RemoteProtocolError
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .uri import MsrpPath, MsrpUriError, format_path, parse_path

__all__ = [
    "END_LINE",
    "FIRST_LINE",
    "REASONS",
    "ByteRange",
    "Continuation",
    "FailureReport",
    "MsrpChunk",
    "MsrpParseError",
    "MsrpRequest",
    "MsrpResponse",
    "find_end_line",
    "format_status",
    "new_transaction_id",
    "parse_chunk",
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

_IDENT = rb"[0-9A-Za-z][0-9A-Za-z.\-+%=]{3,31}"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_NAME = rb"[A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z]*"

#: The first line of a chunk; the first group is its transaction id.
FIRST_LINE = re.compile(rb"MSRP (%b) (?:([A-Z]+)|([1-9][0-9]{2})(?: (%b))?)\r\n" % (_IDENT, _TEXT))
_TO_PATH = re.compile(rb"To-Path: (%b)\r\n" % _TEXT, re.IGNORECASE)
_FROM_PATH = re.compile(rb"From-Path: (%b)\r\n" % _TEXT, re.IGNORECASE)
_HEADER = re.compile(rb"(%b): (%b)\r\n" % (_NAME, _TEXT))
_NAME_ONLY = re.compile(_NAME)
_TEXT_ONLY = re.compile(_TEXT)
_IDENT_ONLY = re.compile(_IDENT)
_METHOD_ONLY = re.compile(rb"[A-Z]+")

_BYTE_RANGE = re.compile(rb"([0-9]{1,19})-(?:([0-9]{1,19})|\*)/(?:([0-9]{1,19})|\*)")
_STATUS = re.compile(rb"000 ([0-9]{3})(?: (%b))?" % _TEXT)

#: Fields that may stand once, and what their value must look like where that matters here.
_KNOWN: dict[bytes, re.Pattern[bytes] | None] = {
    b"message-id": _IDENT_ONLY,
    b"success-report": re.compile(rb"yes|no"),
    b"failure-report": re.compile(rb"yes|no|partial"),
    b"byte-range": None,
    b"status": _STATUS,
    b"content-type": None,
    b"expires": re.compile(rb"[0-9]{1,10}"),
    b"min-expires": re.compile(rb"[0-9]{1,10}"),
    b"max-expires": re.compile(rb"[0-9]{1,10}"),
    b"use-path": None,
    b"authorization": None,
    b"authentication-info": None,
}

#: What comes before the transaction id in an end-line.
END_LINE = b"\r\n-------"
_END_FLAGS = (b"$\r\n", b"+\r\n", b"#\r\n")


class Continuation(Enum):
    """The flag at the end of the end-line (RFC 4975 §7.1)."""

    #: The chunk holds the last octet of its message.
    COMPLETE = b"$"
    #: More chunks follow.
    MORE = b"+"
    #: The message is abandoned.
    ABORT = b"#"


class FailureReport(Enum):
    """What a sender wants to hear of failures (RFC 4975 §7.1.1)."""

    #: Every response, and a REPORT for a failure further on.
    YES = b"yes"
    #: Failures only.
    PARTIAL = b"partial"
    #: Nothing.
    NO = b"no"


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
        if not 1 <= self.start < _TOO_LARGE:
            raise ValueError(f"a range that starts at {self.start}")
        if self.end is not None and not self.start - 1 <= self.end < _TOO_LARGE:
            raise ValueError(f"a range from {self.start} to {self.end}")
        if self.total is not None:
            if not 0 <= self.total < _TOO_LARGE:
                raise ValueError(f"a total of {self.total}")
            if max(self.start - 1, self.end or 0) > self.total:
                raise ValueError(f"a range beyond its total of {self.total}")

    @classmethod
    def parse(cls, value: bytes) -> ByteRange:
        """Read the value of a Byte-Range header field.

        Raises:
            ValueError: It is none, or its numbers are impossible.
        """
        match = _BYTE_RANGE.fullmatch(value)
        if match is None:
            raise ValueError(f"no byte range: {value[:80]!r}")
        start, end, total = match.groups()
        return cls(
            int(start), None if end is None else int(end), None if total is None else int(total)
        )

    def __bytes__(self) -> bytes:
        end = "*" if self.end is None else self.end
        total = "*" if self.total is None else self.total
        return f"{self.start}-{end}/{total}".encode("ascii")


def parse_status(value: bytes) -> tuple[int, bytes]:
    """Read the value of a Status header field of a REPORT (RFC 4975 §7.1.2).

    Returns:
        The status code, and the text beside it.

    Raises:
        ValueError: It is none of the namespace 000.
    """
    match = _STATUS.fullmatch(value)
    if match is None:
        raise ValueError(f"no status: {value[:80]!r}")
    return int(match[1]), match[2] or b""


def format_status(code: int, comment: bytes | None = None) -> bytes:
    """The value of a Status header field; the comment defaults to the code's usual one."""
    text = REASONS.get(code, b"") if comment is None else comment
    return b"000 %03d" % code + (b" " + text if text else b"")


class _Fields:
    """Access to header fields, for both kinds of chunk."""

    __slots__ = ()
    headers: Headers

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this name, whatever its case; ``None`` without one."""
        wanted = name.lower()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value
        return None

    @property
    def message_id(self) -> bytes | None:
        """The value of Message-ID."""
        return self.header(b"message-id")

    @property
    def byte_range(self) -> ByteRange | None:
        """The value of Byte-Range.

        Raises:
            ValueError: It is malformed, which a parsed chunk's never is.
        """
        value = self.header(b"byte-range")
        return None if value is None else ByteRange.parse(value)


@dataclass(slots=True)
class MsrpRequest(_Fields):
    """A request: one chunk of a message, a report, an authentication or anything else.

    Args:
        transaction_id: What pairs it with its response and ends it, 4 to 32 octets.
        method: ``b"SEND"``, ``b"REPORT"``, ``b"AUTH"`` or another one in capitals.
        to_path: Where it goes, the next hop first.
        from_path: Where it comes from, the previous hop first.
        headers: The other fields; with a body the last is Content-Type.
        body: The octets of the body; ``None`` for none, which is not the same as an empty one.
        continuation: The flag of the end-line.
    """

    transaction_id: bytes
    method: bytes
    to_path: MsrpPath
    from_path: MsrpPath
    headers: Headers = field(default_factory=list)
    body: bytes | None = None
    continuation: Continuation = Continuation.COMPLETE

    @property
    def content_type(self) -> bytes | None:
        """The value of Content-Type."""
        return self.header(b"content-type")

    @property
    def success_report(self) -> bool:
        """Whether a success report is wanted; by default it is not (RFC 4975 §7.1.1)."""
        return self.header(b"success-report") == b"yes"

    @property
    def failure_report(self) -> FailureReport:
        """Which failures are to be reported; by default all (RFC 4975 §7.1.1).

        Raises:
            ValueError: It is malformed, which a parsed chunk's never is.
        """
        value = self.header(b"failure-report")
        return FailureReport.YES if value is None else FailureReport(value)

    def response(
        self, code: int, comment: bytes | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> MsrpResponse:
        """Make the response to this request (RFC 4975 §7.2).

        The response to a SEND goes one hop back, any other one the whole way. Nobody may send
        one to a REPORT.

        Args:
            code: The status code.
            comment: The text beside it, by default the code's usual one.
            headers: Further header fields.
        """
        return MsrpResponse(
            self.transaction_id,
            code,
            self.from_path[:1] if self.method == b"SEND" else self.from_path,
            self.to_path[:1],
            list(headers),
            REASONS.get(code) if comment is None else comment,
        )

    def to_bytes(self) -> bytes:
        """The octets of the chunk.

        Raises:
            LocalProtocolError: They would not be read back as this chunk: the id, the method, a
                field or a path is malformed, a body is without Content-Type, or the body holds
                the end-line.
        """
        _check(self.method, _METHOD_ONLY, "method")
        typed = bool(self.headers) and self.headers[-1][0].lower() == b"content-type"
        if self.body is None:
            if self.content_type is not None:
                raise LocalProtocolError("Content-Type without a body (RFC 4975 §9)")
            body = b""
        elif typed:
            body = b"\r\n%b\r\n" % self.body
            if b"%b%b" % (END_LINE, self.transaction_id) in b"\r\n" + self.body:
                raise LocalProtocolError("the body holds the end-line of its own transaction")
        else:
            raise LocalProtocolError("a body needs Content-Type as the last header (RFC 4975 §9)")
        return _serialise(self, self.method, body)


@dataclass(slots=True)
class MsrpResponse(_Fields):
    """A response (RFC 4975 §7.2).

    Args:
        transaction_id: The id of the request.
        code: The status code.
        to_path: Where it goes, the next hop first.
        from_path: Where it comes from.
        headers: The other fields.
        comment: The text beside the code; ``None`` for none and no space.
        continuation: The flag of the end-line.
    """

    transaction_id: bytes
    code: int
    to_path: MsrpPath
    from_path: MsrpPath
    headers: Headers = field(default_factory=list)
    comment: bytes | None = None
    continuation: Continuation = Continuation.COMPLETE

    def to_bytes(self) -> bytes:
        """The octets of the response.

        Raises:
            LocalProtocolError: They would not be read back as this response.
        """
        if not 100 <= self.code <= 999:
            raise LocalProtocolError(f"no status code: {self.code}")
        if self.content_type_present():
            raise LocalProtocolError("a response has no body and no Content-Type (RFC 4975 §9)")
        kind = b"%d" % self.code
        if self.comment is not None:
            _check(self.comment, _TEXT_ONLY, "comment")
            kind += b" " + self.comment
        return _serialise(self, kind, b"")

    def content_type_present(self) -> bool:
        """Whether a Content-Type field stands here, which announces a body that may not be."""
        return self.header(b"content-type") is not None


#: What a parser returns.
MsrpChunk = MsrpRequest | MsrpResponse


def _check(value: bytes, pattern: re.Pattern[bytes], what: str) -> None:
    if pattern.fullmatch(value) is None:
        raise LocalProtocolError(f"malformed {what}: {value[:80]!r}")


def _serialise(chunk: MsrpChunk, kind: bytes, body: bytes) -> bytes:
    """Put a chunk together, checking what both kinds have in common."""
    tid = chunk.transaction_id
    _check(tid, _IDENT_ONLY, "transaction id")
    if not (chunk.to_path and chunk.from_path):
        raise LocalProtocolError("a chunk needs To-Path and From-Path (RFC 4975 §7.1)")
    parts = [
        b"MSRP %b %b\r\nTo-Path: %b\r\nFrom-Path: %b\r\n"
        % (tid, kind, format_path(chunk.to_path), format_path(chunk.from_path))
    ]
    for name, value in chunk.headers:
        line = b"%b: %b\r\n" % (name, value)
        if _HEADER.fullmatch(line) is None or b":" in name:
            raise LocalProtocolError(f"malformed header field {name[:80]!r}: {value[:80]!r}")
        parts.append(line)
    parts.append(body)
    parts.append(b"-------%b%b\r\n" % (tid, chunk.continuation.value))
    return b"".join(parts)


class MsrpParseError(RemoteProtocolError):
    """A chunk that breaks the rules.

    Args:
        status: The status to answer, 400 or 413.
        message: What is wrong with it.
        request: What could be read of the request, enough to answer it: id, method and both
            paths; ``None`` where that could not be read or the chunk was a response.
    """

    def __init__(self, status: int, message: str, request: MsrpRequest | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request = request

    def response(self) -> MsrpResponse | None:
        """The answer to the malformed chunk; ``None`` where there must be none or can be none.

        A response and a REPORT are never answered (RFC 4975 §7.2).
        """
        if self.request is None or self.request.method == b"REPORT":
            return None
        return self.request.response(self.status)


def parse_chunk(data: bytes, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS) -> MsrpChunk:
    """Read one chunk: the whole of one WebSocket message (RFC 7977 §5.1) or of one stream frame.

    Args:
        data: The octets of the chunk, from ``MSRP`` to the CRLF of its end-line.
        limits: The bounds on line, header and path sizes and on the whole.

    Raises:
        MsrpParseError: They are not exactly one well-formed chunk.
    """
    first = FIRST_LINE.match(data, 0, limits.max_first_line)
    if first is None:
        raise MsrpParseError(400, f"no first line of MSRP: {data[:80]!r}")
    tid, method, code, comment = first.groups()
    position = first.end()
    to_line = _TO_PATH.match(data, position, position + limits.max_header_line)
    if to_line is None:
        raise MsrpParseError(400, "To-Path does not follow the first line")
    position = to_line.end()
    from_line = _FROM_PATH.match(data, position, position + limits.max_header_line)
    if from_line is None:
        raise MsrpParseError(400, "From-Path does not follow To-Path")
    try:
        to_path = parse_path(to_line[1], limits=limits)
        from_path = parse_path(from_line[1], limits=limits)
    except MsrpUriError as error:
        raise MsrpParseError(400, str(error)) from error
    request = None if method is None else MsrpRequest(tid, method, to_path, from_path)
    if len(data) > limits.max_chunk_size:
        raise MsrpParseError(
            413, f"a chunk of {len(data)} octets, more than {limits.max_chunk_size}", request
        )
    try:
        headers, body, continuation = _parse_rest(data, tid, from_line.end(), limits)
    except ValueError as error:
        raise MsrpParseError(400, str(error), request) from error
    if request is None:
        if body is not None:
            raise MsrpParseError(400, "a response with a body")
        return MsrpResponse(tid, int(code), to_path, from_path, headers, comment, continuation)
    request.headers = headers
    request.body = body
    request.continuation = continuation
    return request


def find_end_line(data: bytes | bytearray, tid: bytes, position: int) -> int:
    """Where the end-line of this transaction begins, with the CRLF before it; -1 for nowhere.

    A line that only begins like it, such as that of a longer id, is not it (RFC 4975 §7.1).
    """
    marker = END_LINE + tid
    while (position := data.find(marker, position)) >= 0:
        flag = position + len(marker)
        if data[flag : flag + 3] in _END_FLAGS:
            return position
        position += 1
    return -1


def _parse_rest(
    data: bytes, tid: bytes, position: int, limits: MsrpLimits
) -> tuple[Headers, bytes | None, Continuation]:
    """Read what follows From-Path.

    Raises:
        ValueError: It is malformed.
    """
    # The CRLF before the end-line can be the one that ends the From-Path line.
    end = find_end_line(data, tid, position - 2)
    if end < 0:
        raise ValueError("the end-line of the transaction is missing")
    flag = end + len(END_LINE) + len(tid)
    if flag + 3 != len(data):
        raise ValueError("octets behind the end-line: a message is one chunk (RFC 7977 §5.1)")
    body: bytes | None = None
    header_end = end + 2
    blank = data.find(b"\r\n\r\n", position - 2, end + 2)
    if blank >= 0:
        if blank + 4 > end:
            raise ValueError("an empty line without a body")
        header_end = blank + 2
        body = data[blank + 4 : end]
    headers: Headers = []
    seen: set[bytes] = set()
    while position < header_end:
        line = _HEADER.match(data, position, min(header_end, position + limits.max_header_line))
        if line is None:
            raise ValueError(f"malformed header line: {data[position : position + 80]!r}")
        if len(headers) == limits.max_headers:
            raise ValueError(f"more than {limits.max_headers} header fields")
        name, value = line.groups()
        lower = name.lower()
        if lower in _KNOWN:
            pattern = _KNOWN[lower]
            if lower in seen:
                raise ValueError(f"{name.decode('ascii')} stands twice")
            if pattern is not None and pattern.fullmatch(value) is None:
                raise ValueError(f"malformed {name.decode('ascii')}: {value[:80]!r}")
            if lower == b"byte-range":
                ByteRange.parse(value)
            seen.add(lower)
        elif lower in {b"to-path", b"from-path"}:
            raise ValueError(f"{name.decode('ascii')} stands twice")
        headers.append((name, value))
        position = line.end()
    if body is not None and (not headers or headers[-1][0].lower() != b"content-type"):
        raise ValueError("a body needs Content-Type as the last header field")
    if body is None and b"content-type" in seen:
        raise ValueError("Content-Type without a body")
    return headers, body, Continuation(data[flag : flag + 1])


def new_transaction_id(body: bytes | None = None, *, entropy: Entropy = os.urandom) -> bytes:
    """A fresh transaction id of 80 random bits that the body does not hold (RFC 4975 §7.1).

    Args:
        body: The body the id shall end.
        entropy: Source of the random octets.

    Raises:
        ValueError: The source gave nothing but ids that stand in the body, so it is not random.
    """
    for _ in range(16):
        tid = entropy(10).hex().encode("ascii")
        if body is None or b"-------" + tid not in body:
            return tid
    raise ValueError("the source of entropy repeats itself")

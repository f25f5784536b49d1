"""MSRP chunks: parser and serialiser (RFC 4975 §7, §9; RFC 4976 §9).

Theory of operation: a chunk is a first line with a transaction id, two paths, header fields,
optionally a body, and an end-line that repeats the id. The length of the body is not announced, so
only the end-line ends it: the parser searches for the chunk's own id, and the sender of a chunk
chooses an id that does not occur in the body. Everything is bytes; a body may be text or binary,
and a WebSocket message of either kind is parsed in the same way (RFC 7977 §4.2).

The parser is strict about everything that frames or routes a chunk, and keeps unknown parts: header
fields with unknown names stay, in their order and byte for byte. A relay changes the first line and
the paths alone; :func:`split_chunk` leaves everything between these and the end-line unparsed, so
that it need not be serialised again.
"""

from __future__ import annotations

import os
import re
from binascii import hexlify
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from ...typing import Entropy, Headers
from ...utilities import LocalProtocolError, RemoteProtocolError
from .fields import (
    IDENT,
    REASONS,
    TEXT,
    ByteRange,
    FailureReport,
    announces_length,
    check_field,
)
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .uri import MsrpPath, MsrpUri, MsrpUriError, format_path, parse_path

__all__ = [
    "END_FLAGS",
    "END_LINE",
    "FIRST_LINE",
    "Continuation",
    "MsrpChunk",
    "MsrpParseError",
    "MsrpRequest",
    "MsrpResponse",
    "accept_send",
    "acceptance",
    "find_end_line",
    "forward_chunk",
    "new_transaction_id",
    "parse_chunk",
    "path_lines",
    "split_chunk",
    "with_open_range",
]

_NAME = rb"[A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z]*"

#: The first line of a chunk; the first group is its transaction id.
FIRST_LINE = re.compile(rb"MSRP (%b) (?:([A-Z]+)|([1-9][0-9]{2})(?: (%b))?)\r\n" % (IDENT, TEXT))
_TO_PATH = re.compile(rb"To-Path: (%b)\r\n" % TEXT, re.IGNORECASE)
_FROM_PATH = re.compile(rb"From-Path: (%b)\r\n" % TEXT, re.IGNORECASE)
_HEADER = re.compile(rb"(%b): (%b)\r\n" % (_NAME, TEXT))
_HEADERS = re.compile(rb"(?:%b: %b\r\n)*" % (_NAME, TEXT))
_RANGE_END = re.compile(rb"^(Byte-Range: [0-9]+-)[0-9]+", re.IGNORECASE | re.MULTILINE)
_NAME_ONLY = re.compile(_NAME)
_TEXT_ONLY = re.compile(TEXT)
_IDENT_ONLY = re.compile(IDENT)
_METHOD_ONLY = re.compile(rb"[A-Z]+")

#: Longest header line, in bytes, whose parsed form is kept for the next one.
_SHORT: Final = 128

#: The part of an end-line before the transaction id.
END_LINE = b"\r\n-------"
#: What follows it: the flag of :class:`Continuation`, and the CRLF.
END_FLAGS = (b"$\r\n", b"+\r\n", b"#\r\n")


class Continuation(Enum):
    """The flag at the end of the end-line (RFC 4975 §7.1)."""

    #: The chunk contains the last byte of its message.
    COMPLETE = b"$"
    #: More chunks follow.
    MORE = b"+"
    #: The message is abandoned.
    ABORT = b"#"


#: By its byte in the end-line.
_FLAGS = {flag.value[0]: flag for flag in Continuation}


class _Fields:
    """Access to header fields, for both kinds of chunk."""

    __slots__ = ()
    headers: Headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first field with this name, in any case; ``None`` without one."""
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
            ValueError: The value is malformed, which cannot happen in a parsed chunk.
        """
        value = self.header(b"byte-range")
        return None if value is None else ByteRange.parse(value)


@dataclass(slots=True)
class MsrpRequest(_Fields):
    """A request: one chunk of a message, a report, an authentication or anything else.

    Args:
        transaction_id: The id that matches it with its response and ends it, 4 to 32 bytes.
        method: ``b"SEND"``, ``b"REPORT"``, ``b"AUTH"`` or another one in capitals.
        to_path: The path to the receiver, the next hop first.
        from_path: The path from the sender, the previous hop first.
        headers: The other fields; with a body, the last one is Content-Type.
        body: The bytes of the body; ``None`` for none, which differs from an empty one.
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
        """Whether to report success; false by default (RFC 4975 §7.1.1)."""
        return (self.header(b"success-report") or b"").lower() == b"yes"

    @property
    def failure_report(self) -> FailureReport:
        """Which failures to report; by default all (RFC 4975 §7.1.1).

        Raises:
            ValueError: The value is malformed, which cannot happen in a parsed chunk.
        """
        return FailureReport.of(self.header(b"failure-report"))

    def response(
        self, code: int, comment: bytes | None = None, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> MsrpResponse:
        """Make the response to this request (RFC 4975 §7.2).

        The response to a SEND is sent one hop back, any other one along the whole path. A REPORT
        must not be answered.

        Args:
            code: The status code.
            comment: The comment, by default the code's usual one.
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
        """Return the bytes of the chunk.

        Raises:
            LocalProtocolError: The bytes would not be parsed as this chunk: the id, the method, a
                field or a path is malformed, a body has no Content-Type, or the body contains the
                end-line. A line that only begins like it is refused too: a lax receiver could take
                it for the end.
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
                raise LocalProtocolError("the body contains the end-line of its transaction")
        else:
            raise LocalProtocolError("a body needs Content-Type as the last header (RFC 4975 §9)")
        return _serialise(self, self.method, body)


@dataclass(slots=True)
class MsrpResponse(_Fields):
    """A response (RFC 4975 §7.2).

    Args:
        transaction_id: The id of the request.
        code: The status code.
        to_path: The path to the receiver, the next hop first.
        from_path: The path from the sender.
        headers: The other fields.
        comment: The comment after the code; ``None`` leaves it and its space out.
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
        """Return the bytes of the response.

        Raises:
            LocalProtocolError: The bytes would not be parsed as this response.
        """
        if not 100 <= self.code <= 999:
            raise LocalProtocolError(f"not a status code: {self.code}")
        if self.content_type_present():
            raise LocalProtocolError("a response has no body and no Content-Type (RFC 4975 §9)")
        kind = b"%d" % self.code
        if self.comment is not None:
            _check(self.comment, _TEXT_ONLY, "comment")
            kind += b" " + self.comment
        return _serialise(self, kind, b"")

    def content_type_present(self) -> bool:
        """Return whether there is a Content-Type field, which announces a body."""
        return self.header(b"content-type") is not None


#: The result of the parser.
MsrpChunk = MsrpRequest | MsrpResponse


def _check(value: bytes, pattern: re.Pattern[bytes], what: str) -> None:
    if pattern.fullmatch(value) is None:
        raise LocalProtocolError(f"malformed {what}: {value[:80]!r}")


def _serialise(chunk: MsrpChunk, kind: bytes, body: bytes) -> bytes:
    """Serialise a chunk, checking the parts that both kinds have in common."""
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
        if _HEADER.fullmatch(line) is None or b":" in name or announces_length(name.lower()):
            raise LocalProtocolError(f"malformed header field {name[:80]!r}: {value[:80]!r}")
        parts.append(line)
    parts.append(body)
    parts.append(b"-------%b%b\r\n" % (tid, chunk.continuation.value))
    return b"".join(parts)


class MsrpParseError(RemoteProtocolError):
    """A malformed chunk.

    Args:
        status: The status to answer with, 400 or 413.
        message: What is wrong with it.
        request: The readable parts of the request, enough to answer it: id, method and both paths;
            ``None`` if these could not be read or the chunk was a response.
    """

    def __init__(self, status: int, message: str, request: MsrpRequest | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request = request

    def response(self) -> MsrpResponse | None:
        """Return the answer to the malformed chunk; ``None`` if it must not or cannot be answered.

        Responses and REPORTs are never answered (RFC 4975 §7.2).
        """
        if self.request is None or self.request.method == b"REPORT":
            return None
        return self.request.response(self.status)


def parse_chunk(data: bytes, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS) -> MsrpChunk:
    """Parse one chunk: a whole WebSocket message (RFC 7977 §5.1) or one frame of a stream.

    Args:
        data: The bytes of the chunk, from ``MSRP`` to the CRLF of its end-line.
        limits: The limits on line, header, path and total sizes.

    Raises:
        MsrpParseError: The bytes are not exactly one well-formed chunk.
    """
    return split_chunk(data, limits=limits)[0]


def split_chunk(
    data: bytes, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS
) -> tuple[MsrpChunk, dict[bytes, bytes], bytes]:
    """Parse one chunk like :func:`parse_chunk`, in order to forward it.

    Args:
        data: The bytes of the chunk, from ``MSRP`` to the CRLF of its end-line.
        limits: The limits on line, header, path and total sizes.

    Returns:
        The chunk; its fields that RFC 4975 and RFC 4976 define, by name in lower case; and the
        bytes that :func:`forward_chunk` needs.

    Raises:
        MsrpParseError: The bytes are not exactly one well-formed chunk.
    """
    first = FIRST_LINE.match(data, 0, limits.max_first_line)
    if first is None:
        raise MsrpParseError(400, f"not an MSRP first line: {data[:80]!r}")
    tid, method, code, comment = first.groups()
    position = first.end()
    to_line = _TO_PATH.match(data, position, position + limits.max_header_line)
    if to_line is None:
        raise MsrpParseError(400, "To-Path does not follow the first line")
    position = to_line.end()
    from_line = _FROM_PATH.match(data, position, position + limits.max_header_line)
    if from_line is None:
        raise MsrpParseError(400, "From-Path does not follow To-Path")
    position = from_line.end()
    try:
        to_path = parse_path(to_line[1], limits=limits)
        from_path = parse_path(from_line[1], limits=limits)
    except MsrpUriError as error:
        raise MsrpParseError(400, str(error)) from error
    request = None if method is None else MsrpRequest(tid, method, to_path, from_path)
    if len(data) > limits.max_chunk_size:
        raise MsrpParseError(
            413, f"a chunk of {len(data)} bytes, more than {limits.max_chunk_size}", request
        )
    try:
        # The CRLF before the end-line can be the one that ends the From-Path line.
        end = find_end_line(data, tid, position - 2)
        if end < 0:
            raise ValueError("the end-line of the transaction is missing")
        flag = end + len(END_LINE) + len(tid)
        if flag + 3 != len(data):
            raise ValueError("bytes after the end-line: a message is one chunk (RFC 7977 §5.1)")
        headers, known, body = _parse_rest(data, position, end, limits)
    except ValueError as error:
        raise MsrpParseError(400, str(error), request) from error
    continuation = _FLAGS[data[flag]]
    rest = data[position : end + 2]
    if request is None:
        if body is not None:
            raise MsrpParseError(400, "a response with a body")
        response = MsrpResponse(tid, int(code), to_path, from_path, headers, comment, continuation)
        return response, known, rest
    request.headers = headers
    request.body = body
    request.continuation = continuation
    return request, known, rest


def path_lines(to_path: MsrpPath, from_path: MsrpPath) -> bytes:
    """Return the lines of both paths, which follow the first line of a chunk."""
    return b"To-Path: %b\r\nFrom-Path: %b\r\n" % (format_path(to_path), format_path(from_path))


def forward_chunk(method: bytes, tid: bytes, paths: bytes, rest: bytes, flag: bytes) -> bytes:
    """Serialise a request with another first line and other paths.

    Args:
        method: The method of the request as received.
        tid: The transaction id, made by :func:`new_transaction_id` for ``rest``.
        paths: The lines of both paths; see :func:`path_lines`.
        rest: The remaining bytes that :func:`split_chunk` has returned with the request.
        flag: The flag of its end-line.
    """
    return b"MSRP %b %b\r\n%b%b-------%b%b\r\n" % (tid, method, paths, rest, tid, flag)


def with_open_range(rest: bytes) -> bytes:
    """Leave the end of the Byte-Range open (``*``) in the bytes that :func:`split_chunk` returned.

    Some receivers, such as FreeSWITCH, take the size of the body from Byte-Range and not from the
    end-line. With an open end they search for the end-line.

    Args:
        rest: Header fields, including Byte-Range, and optionally a body.
    """
    head, blank, body = rest.partition(b"\r\n\r\n")
    return _RANGE_END.sub(rb"\1*", head, count=1) + blank + body


def acceptance(to: MsrpUri, sender: MsrpUri) -> bytes:
    """Return the part of :func:`accept_send` that is the same for all chunks between two URIs.

    Args:
        to: The first URI of the SEND's From-Path.
        sender: The first URI of its To-Path.
    """
    return b" 200 OK\r\nTo-Path: %b\r\nFrom-Path: %b\r\n-------" % (to.raw, sender.raw)


def accept_send(tid: bytes, said: bytes) -> bytes:
    """Return ``request.response(200)`` as bytes for a parsed SEND, without further checks.

    Args:
        tid: The transaction id of the SEND.
        said: The :func:`acceptance` between its URIs.
    """
    return b"MSRP %b%b%b$\r\n" % (tid, said, tid)


def find_end_line(data: bytes | bytearray, tid: bytes, position: int) -> int:
    """Find the end-line of this transaction, including the CRLF before it; -1 if there is none.

    A line that only starts in the same way, such as one with a longer id, is a different one (RFC
    4975 §7.1).
    """
    marker = END_LINE + tid
    while (position := data.find(marker, position)) >= 0:
        flag = position + len(marker)
        if data[flag : flag + 3] in END_FLAGS:
            return position
        position += 1
    return -1


def _parse_rest(
    data: bytes, position: int, end: int, limits: MsrpLimits
) -> tuple[Headers, dict[bytes, bytes], bytes | None]:
    """Parse the part between From-Path and the end-line.

    Raises:
        ValueError: It is malformed.
    """
    if position == end + 2:
        return [], {}, None
    body: bytes | None = None
    header_end = end + 2
    blank = data.find(b"\r\n\r\n", position - 2, end + 2)
    if blank >= 0:
        if blank + 4 > end:
            raise ValueError("an empty line without a body")
        header_end = blank + 2
        body = data[blank + 4 : end]
    if _HEADERS.fullmatch(data, position, header_end) is None:
        while (line_match := _HEADER.match(data, position, header_end)) is not None:
            position = line_match.end()
        raise ValueError(f"malformed header line: {data[position : position + 80]!r}")
    lines = data[position : header_end - 2].split(b"\r\n") if position < header_end else []
    if len(lines) > limits.max_headers:
        raise ValueError(f"more than {limits.max_headers} header fields")
    headers: Headers = []
    known: dict[bytes, bytes] = {}
    lower = b""
    for line in lines:
        if len(line) + 2 > limits.max_header_line:
            raise ValueError(f"malformed header line: {line[:80]!r}")
        item, lower, defined = _remembered(line) if len(line) <= _SHORT else _read_field(line)
        headers.append(item)
        if defined:
            if lower in known:
                raise ValueError(f"{item[0].decode('ascii')} is repeated")
            known[lower] = item[1]
        elif lower in {b"to-path", b"from-path"}:
            raise ValueError(f"{item[0].decode('ascii')} is repeated")
    if body is not None and lower != b"content-type":
        raise ValueError("a body needs Content-Type as the last header field")
    if body is None and b"content-type" in known:
        raise ValueError("Content-Type without a body")
    return headers, known, body


def _read_field(line: bytes) -> tuple[tuple[bytes, bytes], bytes, bool]:
    """Check a header line; return name and value, the lower-case name, and whether it is defined.

    Raises:
        ValueError: See :func:`check_field`.
    """
    name, _, value = line.partition(b": ")
    lower = name.lower()
    return (name, value), lower, check_field(name, lower, value)


# All chunks of a message have the same Message-ID and Content-Type. The cache is small, and so are
# its entries: a sender who varies them only causes cache misses for itself.
_remembered = lru_cache(maxsize=512)(_read_field)


def new_transaction_id(body: bytes | None = None, *, entropy: Entropy = os.urandom) -> bytes:
    """Make a transaction id of 80 random bits that does not occur in the body (RFC 4975 §7.1).

    Args:
        body: The body that the id will end.
        entropy: Source of the random bytes.

    Raises:
        ValueError: The source returned only ids that occur in the body, so it is not random.
    """
    for _ in range(16):
        tid = hexlify(entropy(10))
        if body is None or b"-------" + tid not in body:
            return tid
    raise ValueError("the source of entropy repeats itself")

"""Reading one message: framing, limits, and the fields that every message needs.

This runs for every message of every connection: a head in its common spelling is read in one pass
of ``sip._head``, and everything unusual (folds, compact names, repeated fields) and
everything wrong is left to slower code that gives the same result.
"""

from __future__ import annotations

import re

from ._head import HEAD_RE, LENGTH, METHOD, MORE, REASON, STATUS, URI, VALUES
from ._syntax import TOKEN_RE, parse_uint
from .errors import SipParseError, SipValueError
from .fields import plain
from .headers import KNOWN_NAMES, canonical_name
from .limits import DEFAULT_LIMITS, SipLimits
from .message import SipRequest, SipResponse

__all__ = ["error_response", "parse_message"]

#: Without these a message can neither be routed nor answered (RFC 3261 §8.1.1).
_REQUIRED = ("via", "from", "to", "call-id", "cseq")
#: Fields of which a message may have one at most (RFC 3261 §7.3.1).
_SINGLE = (*_REQUIRED[1:], "max-forwards", "content-length", "content-type", "expires")
#: What of a head in common spelling is looked at at once.
_GROUPS = (METHOD, URI, VALUES["via"], MORE["via"], LENGTH)
#: Octets of the shortest field in common spelling, ``To: x`` with its CRLF.
_SHORTEST = 7
_METHODS = frozenset(
    {
        *("ACK", "BYE", "CANCEL", "INFO", "INVITE", "MESSAGE", "NOTIFY", "OPTIONS", "PRACK"),
        *("PUBLISH", "REFER", "REGISTER", "SUBSCRIBE", "UPDATE"),
    }
)
_VERSION_RE = re.compile(r"SIP/[0-9]++\.[0-9]++", re.IGNORECASE | re.ASCII)
_STATUS_RE = re.compile(r"([1-6][0-9][0-9]) (.*+)", re.DOTALL)
_MAX_LENGTH = 10**18


def parse_message(
    data: bytes | bytearray | memoryview | str, *, limits: SipLimits = DEFAULT_LIMITS
) -> SipRequest | SipResponse:
    """Read one WebSocket message as one SIP message (RFC 7118 §5).

    Content-Length may be missing; if it is there, it has to be the size of the body, so nothing
    can hide behind a message. The values of the header fields are read when they are asked for.

    Args:
        data: The message, from a text or a binary WebSocket message.
        limits: What it may cost.

    Raises:
        SipParseError: With the status to answer: 400 for bad syntax, a missing or repeated field
            or too many fields or Vias, 413 for a body, 414 for a Request-URI and 513 for a message
            or field that is too long, 505 for another version of SIP.
    """
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            raise SipParseError(400, "text that is not Unicode") from None
    elif not isinstance(data, bytes):
        data = bytes(data)
    bounds = limits.bounds
    common = _read_common(data, bounds)
    if common is not None:
        return common
    head, blank, body = data.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    try:
        if not blank:
            raise SipParseError(400, "no empty line behind the header fields")
        return _read(data, len(head), lines, body, bounds)
    except SipParseError as error:
        error.response = _answer(lines, error.status)
        raise


def error_response(head: bytes, status: int) -> SipResponse | None:
    """The response with that status to a request of which only the head can be read.

    Returns:
        ``None`` where the head is none of a request, is an ACK's, or lacks what an answer needs.
    """
    return _answer(head.decode("utf-8", "surrogateescape").split("\r\n"), status)


def _read_common(data: bytes, bounds: tuple[int, ...]) -> SipRequest | SipResponse | None:
    """Read a message in the common spelling; ``None`` for every other one and for what is wrong.

    What it takes, :func:`_read` takes too, and makes the same message of it.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        # What is not ASCII is in the body mostly, and may be no text at all.
        head, blank, _ = data.partition(b"\r\n\r\n")
        if not head.isascii():
            return None
        text = (head + blank).decode("ascii")
    match = HEAD_RE.match(text)
    if match is None:
        return None
    size = match.end()
    body = data[size:]
    method, uri, via, more, length = match.group(*_GROUPS)
    if (
        (length is not None and int(length) != len(body))
        or len(data) > bounds[0]
        or size > bounds[2]
        # No field is shorter than this; only then they are counted.
        or (size > bounds[1] * _SHORTEST and text.count("\n", 0, size) - 2 > bounds[1])
        # There are no more Vias than fields and commas.
        or (1 if more is None and "," not in via else _most_vias(text, size)) > bounds[3]
    ):
        return None
    message: SipRequest | SipResponse
    if method is None:
        message = SipResponse.__new__(SipResponse)
        message._status = int(match[STATUS])
        message._reason = match[REASON]
        message._start = f"SIP/2.0 {match[STATUS]} {match[REASON]}"
    elif len(uri) > bounds[4]:
        return None
    else:
        message = SipRequest.__new__(SipRequest)
        message._method = method
        message._uri = uri
        message._start = f"{method} {uri} SIP/2.0"
    message._first = {}
    message._quick = match
    message._cache = {}
    message._body = body
    message._wire = data
    return message


def _read(
    data: bytes, head_size: int, lines: list[str], body: bytes, bounds: tuple[int, ...]
) -> SipRequest | SipResponse:
    max_size, max_headers, max_line, max_vias, max_uri = bounds
    if len(data) > max_size:
        status = 413 if len(body) > max_size else 513
        raise SipParseError(status, f"message of {len(data)} octets")
    text = "".join(lines)
    if "\r" in text or "\n" in text:
        raise SipParseError(400, "a CR or LF that ends no line")
    # The grammar has NUL in one place: behind the backslash of a quoted pair.
    if "\0" in text and text.count("\0") != text.count("\\\0"):
        raise SipParseError(400, "NUL in the header")
    start = lines[0]
    message = _start_line(start, max_uri)

    fields, names, first = _index(lines[1:])
    if any(name not in first for name in _REQUIRED):
        missing = [name for name in _REQUIRED if name not in first]
        raise SipParseError(400, f"missing: {', '.join(missing)}")
    if len(fields) > max_headers:
        raise SipParseError(400, f"{len(fields)} header fields")
    if head_size > max_line:
        _check_lines(start, fields, message, max_line)
    if _count_vias(names, fields) > max_vias:
        raise SipParseError(400, f"more than {max_vias} Vias")
    length = first.get("content-length")
    if length is not None:
        size = parse_uint(plain(length), _MAX_LENGTH, "Content-Length")
        if size != len(body):
            raise SipParseError(400, f"Content-Length {size}, but a body of {len(body)} octets")

    message._names = names
    message._fields = fields
    message._first = first
    message._quick = None
    message._cache = {}
    message._body = body
    message._wire = data
    return message


def _most_vias(text: str, size: int) -> int:
    """How many Vias there are at most: no more than fields and commas."""
    return text.count("\n", 0, size) + text.count(",", 0, size)


def _count_vias(names: list[str], fields: list[str]) -> int:
    """How many there are, or a few more: a comma within quotes counts too."""
    return sum(
        [field.count(",") + 1 for name, field in zip(names, fields, strict=True) if name == "via"]
    )


def _start_line(line: str, max_uri: int) -> SipRequest | SipResponse:
    """Make the message that its first line announces (RFC 3261 §7.1, §7.2)."""
    parts = line.split(" ")
    if len(parts) == 3 and parts[2] == "SIP/2.0":
        method, uri, _ = parts
    else:
        if line[:4].upper() == "SIP/":
            return _status_line(line)
        if len(parts) != 3:
            # White space more or less is an error here, not something to be passed over.
            raise SipParseError(400, f"bad request line: {line!r:.100}")
        method, uri, version = parts
        _check_version(version)
    if len(uri) > max_uri:
        raise SipParseError(414, f"Request-URI of {len(uri)} characters")
    if not uri or (method not in _METHODS and not TOKEN_RE.fullmatch(method)):
        raise SipParseError(400, f"bad request line: {line!r:.100}")
    request = SipRequest.__new__(SipRequest)
    request._start = line
    request._method = method
    request._uri = uri
    return request


def _status_line(line: str) -> SipResponse:
    version, _, rest = line.partition(" ")
    _check_version(version)
    match = _STATUS_RE.fullmatch(rest)
    if match is None:
        raise SipParseError(400, f"bad status line: {line!r:.100}")
    response = SipResponse.__new__(SipResponse)
    response._start = line
    response._status = int(match[1])
    response._reason = match[2]
    return response


def _check_version(version: str) -> None:
    if version.upper() != "SIP/2.0":
        known = _VERSION_RE.fullmatch(version)
        raise SipParseError(505 if known else 400, f"not SIP/2.0: {version!r:.100}")


def _check_lines(
    start: str, fields: list[str], message: SipRequest | SipResponse, maximum: int
) -> None:
    uri = message.uri_text if isinstance(message, SipRequest) else ""
    for size in [_size(start) - _size(uri), *[_size(field) for field in fields]]:
        if size > maximum:
            raise SipParseError(513, f"header field of {size} octets")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _index(lines: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Fields, their canonical names and the first value of each, for any legal spelling."""
    folded: list[list[str]] = []
    for line in lines:
        if line[:1] not in (" ", "\t"):
            folded.append([line])
        elif folded:
            folded[-1].append(line)
        else:
            raise SipParseError(400, "white space before the first header field")
    fields = ["\r\n".join(pieces) for pieces in folded]
    names: list[str] = []
    first: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        try:
            canonical = canonical_name(name.rstrip(" \t"))
        except SipValueError as error:
            raise SipParseError(400, str(error)) from None
        if not colon:
            raise SipParseError(400, f"header field without a colon: {field!r:.100}")
        if canonical in first:
            if canonical in _SINGLE:
                raise SipParseError(400, f"more than one {canonical}")
        else:
            first[canonical] = value
        names.append(canonical)
    return fields, names, first


def _answer(lines: list[str], status: int) -> SipResponse | None:
    """The error response, where the message was a request and has what an answer needs."""
    method = lines[0].partition(" ")[0]
    # Responses are not answered, nor is ACK (RFC 3261 §17, §18.3).
    if method == "ACK" or not TOKEN_RE.fullmatch(method):
        return None
    request = SipRequest.__new__(SipRequest)
    request._names = []
    request._fields = []
    request._first = {}
    request._quick = None
    field: list[str] = []
    for line in [*lines[1:], "end:"]:
        if line[:1] in (" ", "\t"):
            field.append(line)
            continue
        name, colon, value = "\r\n".join(field).partition(":")
        canonical = KNOWN_NAMES.get(name.rstrip(" \t"))
        field = [line]
        if colon and canonical in (*_REQUIRED, "timestamp"):
            if canonical != "via" and canonical in request._first:
                continue
            request._names.append(canonical)
            request._fields.append(f"{name}:{value}")
            request._first.setdefault(canonical, value)
    try:
        return request.make_response(status)
    except (SipParseError, SipValueError):
        return None

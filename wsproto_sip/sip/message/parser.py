"""Reading one message: framing, limits, and the fields that every message needs.

This runs for every message of every connection. A head in its common spelling is read in one pass
by ``sip._head``. Anything unusual (folds, compact names, repeated fields) and any error is left to
slower code that produces the same result.
"""

from __future__ import annotations

import re

from ._head import HEAD_RE, LENGTH, METHOD, MORE, REASON, STATUS, URI, VALUES
from ._syntax import TOKEN_RE, check_text, parse_uint
from .errors import SipParseError, SipValueError
from .fields import NO_GROUPS, plain
from .headers import CANONICAL
from .limits import DEFAULT_LIMITS, SipLimits
from .message import SipRequest, SipResponse

__all__ = ["error_response", "parse_message"]

#: Without these a message can neither be routed nor answered (RFC 3261 §8.1.1).
_REQUIRED = ("via", "from", "to", "call-id", "cseq")
#: Fields that a message may have at most once (RFC 3261 §7.3.1).
_SINGLE = (*_REQUIRED[1:], "max-forwards", "content-length", "content-type", "expires")
#: The groups of a head in common spelling that are always read.
_GROUPS = (METHOD, URI, VALUES["via"], MORE["via"], LENGTH)
#: Size in bytes of the shortest field in common spelling, ``To: x`` with its CRLF.
_SHORTEST = 7
_METHODS = frozenset(
    {
        *("ACK", "BYE", "CANCEL", "INFO", "INVITE", "MESSAGE", "NOTIFY", "OPTIONS", "PRACK"),
        *("PUBLISH", "REFER", "REGISTER", "SUBSCRIBE", "UPDATE"),
    }
)
_VERSION_RE = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE | re.ASCII)
_STATUS_RE = re.compile(r"([1-6][0-9][0-9]) (.*)", re.DOTALL)
_MAX_LENGTH = 10**18


def parse_message(
    data: bytes | bytearray | memoryview | str, *, limits: SipLimits = DEFAULT_LIMITS
) -> SipRequest | SipResponse:
    """Read one WebSocket message as one SIP message (RFC 7118 §5).

    Content-Length may be absent; if present, it must match the size of the body, so that nothing
    can hide after a message. Header values are parsed when they are asked for, and may turn out to
    be invalid only then: :func:`~wsproto_sip.sip.rules.routing.validate_request` parses those that
    handling a request needs, and says what to answer.

    Args:
        data: The message, from a text or a binary WebSocket message.
        limits: Bounds on the message.

    Raises:
        SipParseError: With the status to answer: 400 for bad syntax, a missing or repeated field,
            or too many fields or Vias; 413 for a body, 414 for a Request-URI and 513 for a message
            or field that is too long; 505 for another version of SIP.
    """
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            raise SipParseError(400, "text with surrogates, which UTF-8 cannot encode") from None
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
            raise SipParseError(400, "no empty line after the header fields")
        return _read(data, len(head), lines, body, bounds)
    except SipParseError as error:
        error.response = _answer(lines, error.status)
        raise


def error_response(head: bytes, status: int) -> SipResponse | None:
    """Build an error response to a request of which only the head can be read.

    Returns:
        ``None`` for a response or an ACK, or if a field that an answer needs is missing.
    """
    return _answer(head.decode("utf-8", "surrogateescape").split("\r\n"), status)


def _read_common(data: bytes, bounds: tuple[int, ...]) -> SipRequest | SipResponse | None:
    """Read a message in the common spelling; return ``None`` for any other, and for errors.

    For every message it accepts, :func:`_read` gives an equal result.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        # Usually only the body is not ASCII, and it need not be text at all.
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
        # Fields are only counted if this size could exceed the bound at all.
        or (size > bounds[1] * _SHORTEST and text.count("\n", 0, size) - 2 > bounds[1])
        # There are at most as many Vias as fields and commas.
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
        message._target = None
        message._start = f"{method} {uri} SIP/2.0"
    # Inlined rather than a method of the message: this runs for every one.
    message._quick = match
    message._edited = NO_GROUPS
    message._top = None
    message._first = {}
    message._single = {}
    message._lists = {}
    message._wire = data
    message._body = body
    return message


def _read(
    data: bytes, head_size: int, lines: list[str], body: bytes, bounds: tuple[int, ...]
) -> SipRequest | SipResponse:
    max_size, max_headers, max_line, max_vias, max_uri = bounds
    if len(data) > max_size:
        status = 413 if len(body) > max_size else 513
        raise SipParseError(status, f"message of {len(data)} bytes")
    text = "".join(lines)
    if "\r" in text or "\n" in text:
        raise SipParseError(400, "a CR or LF that is not part of a CRLF")
    # The grammar allows NUL in one place only: after the backslash of a quoted pair.
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
            raise SipParseError(400, f"Content-Length {size}, but a body of {len(body)} bytes")

    message._clear()
    message._names = names
    message._fields = fields
    message._first = first
    message._body = body
    message._wire = data
    return message


def _most_vias(text: str, size: int) -> int:
    """Return an upper bound of the number of Vias: the count of fields and commas."""
    return text.count("\n", 0, size) + text.count(",", 0, size)


def _count_vias(names: list[str], fields: list[str]) -> int:
    """Count the Vias, or a few more: a comma within quotes counts too."""
    return sum(
        [field.count(",") + 1 for name, field in zip(names, fields, strict=True) if name == "via"]
    )


def _start_line(line: str, max_uri: int) -> SipRequest | SipResponse:
    """Make a message of its start line (RFC 3261 §7.1, §7.2)."""
    parts = line.split(" ")
    if len(parts) == 3 and parts[2] == "SIP/2.0":
        method, uri, _ = parts
    else:
        if line[:4].upper() == "SIP/":
            return _status_line(line)
        if len(parts) != 3:
            # Extra or missing white space is an error, and not silently corrected.
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
    request._target = None
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
            raise SipParseError(513, f"header field of {size} bytes")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _index(lines: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Return fields, canonical names and the first value of each, for any legal spelling."""
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
            canonical = CANONICAL[name.rstrip(" \t")]
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
    """Build the error response if the message was a request with the fields that needs."""
    method = lines[0].partition(" ")[0]
    # Responses are not answered, nor is ACK (RFC 3261 §17, §18.3).
    if method == "ACK" or not TOKEN_RE.fullmatch(method):
        return None
    request = SipRequest.__new__(SipRequest)
    request._clear()
    field: list[str] = []
    for line in [*lines[1:], "end:"]:
        if line[:1] in (" ", "\t"):
            field.append(line)
            continue
        name, colon, value = "\r\n".join(field).partition(":")
        canonical = CANONICAL.get(name.rstrip(" \t"))
        field = [line]
        if colon and canonical in (*_REQUIRED, "timestamp"):
            if canonical != "via" and canonical in request._first:
                continue
            request._names.append(canonical)
            request._fields.append(f"{name}:{value}")
            request._first.setdefault(canonical, value)
    try:
        # The error may be a stray CR or LF within one of these fields.
        for name, value in request.header_items():
            check_text(value, name)
        if all(name in request._first for name in _REQUIRED):
            return request.make_response(status)
        if "via" not in request._first or "cseq" not in request._first:
            return None
        # A client may still know its request by these (RFC 4475 §3.3.1).
        fields = zip(request._fields, request.header_items(), strict=True)
        headers = [(field.partition(":")[0].rstrip(" \t"), item[1]) for field, item in fields]
        return SipResponse(status, headers=headers)
    except (SipParseError, SipValueError):
        return None

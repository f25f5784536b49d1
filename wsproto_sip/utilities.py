"""Errors, and the parts of header syntax that both roles need.

Theory of operation: header fields stay bytes until they are known to be ASCII. Every pattern here
runs in linear time: the part after a run of one character class never starts with a character of
that class, and a repeated group never starts with a character that the group before it may end
with. So there is only one way to match an input, and backtracking fails at once. (Possessive
quantifiers would express this, but Python supports them correctly only since 3.11.5.)
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import WsprotoSipError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from .events import Event
    from .typing import Entropy, Headers, ParsedHeaders

__all__ = [
    "ACCEPT_GUID",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "check_header_fields",
    "generate_accept_token",
    "generate_nonce",
    "is_extension",
    "is_host",
    "is_token",
    "is_valid_key",
    "normed_header_dict",
    "received_fields",
    "split_comma_header",
    "target_authority",
]

#: What a pair consists of.
N = TypeVar("N")
V = TypeVar("V")

#: RFC 6455 §1.3: the value that the server appends to the client's key.
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# RFC 9110 §5.6.2. RFC 6455 §4.1 excludes the separators of RFC 2616 from a sub-protocol, which
# leaves the same characters.
_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = _TCHAR + rb"+"
# RFC 6455 §9.1: a quoted value has to be a token once it is unquoted.
_QUOTED = rb'"(?:\\?' + _TCHAR + rb')+"'
_PARAMETER = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)

_is_token = re.compile(_TOKEN).fullmatch
_is_extension = re.compile(_TOKEN + rb"(?:" + _PARAMETER + rb")*").fullmatch
# 16 bytes in base64 (RFC 4648 §4) are 22 characters and two pads.
_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
# RFC 9110 §5.5: control characters are not allowed except the tab, nor white space around the text.
_is_field_value = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
# RFC 9110 §7.2, RFC 3986 §3.2.2: a registered name or an address, and an optional port. The name
# may not be empty, because that of a ws URI is not (RFC 6455 §3).
_NAME_CHAR = rb"[A-Za-z0-9\-._~!$&'()*+,;=]"
_is_host = re.compile(
    rb"(?:(?=[^:])%b*(?:%%[0-9A-Fa-f]{2}%b*)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"
    % (_NAME_CHAR, _NAME_CHAR)
).fullmatch
# RFC 6455 §4.2.1: a path, or an absolute URI with one; never a fragment (§3).
_target = re.compile(
    rb"""(?:(?i:https?|wss?)://(?P<authority>[^/?\#\x00-\x20\x7f-\xff]+)(?=[/?]|\Z)|(?=/))
    [!"$-~]*""",
    re.VERBOSE,
).fullmatch
# The text between unquoted commas. An unterminated quoted string extends to the end, so that
# matching cannot fail once it has started.
_items = re.compile(r'(?:[^",]+|"(?:[^"\\]+|\\.)*(?:"|\\?\Z))+', re.DOTALL).findall


#: Iterable, but not over pairs.
_NOT_PAIRS = (Mapping, str, bytes)


class ProtocolError(WsprotoSipError):
    """Base class of local and remote protocol errors."""


class LocalProtocolError(ProtocolError):
    """The caller's request would break the protocol. Nothing was sent and no state has changed."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.

    Args:
        message: What was wrong.
        event_hint: The event to answer with, if there is one.
    """

    def __init__(self, message: str, event_hint: Event | None = None) -> None:
        self.event_hint = event_hint
        super().__init__(message)


def generate_nonce(entropy: Entropy = os.urandom) -> bytes:
    """Generate a value for Sec-WebSocket-Key (RFC 6455 §4.1).

    Args:
        entropy: Source of 16 random bytes.

    Returns:
        The 16 bytes in base64.

    Raises:
        ValueError: The source returned the wrong number of bytes.
    """
    raw = entropy(16)
    if len(raw) != 16:
        raise ValueError(f"entropy returned {len(raw)} bytes, not 16")
    return base64.b64encode(raw)


def generate_accept_token(key: bytes) -> bytes:
    """Compute the Sec-WebSocket-Accept that answers a key (RFC 6455 §4.2.2).

    Args:
        key: The received value of Sec-WebSocket-Key.
    """
    # RFC 6455 requires SHA-1; security does not depend on it.
    digest = hashlib.sha1(key + ACCEPT_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def is_valid_key(key: bytes) -> bool:
    """Return whether a Sec-WebSocket-Key is the base64 of exactly 16 bytes (RFC 6455 §4.2.1).

    Args:
        key: The value without surrounding white space.
    """
    return _is_key(key) is not None


def is_token(value: bytes) -> bool:
    """Return whether this is a token (RFC 9110 §5.6.2): a field name, a sub-protocol, a method."""
    return _is_token(value) is not None


def is_extension(item: bytes) -> bool:
    """Return whether this is one extension with its parameters (RFC 6455 §9.1).

    Args:
        item: One item of Sec-WebSocket-Extensions, without surrounding white space.
    """
    return _is_extension(item) is not None


def is_host(value: bytes) -> bool:
    """Return whether this is a valid value of Host: a name or an address, and an optional port."""
    return _is_host(value) is not None


def target_authority(target: bytes) -> bytes | None:
    """Check a request target, and return the authority in it (RFC 9112 §3.2).

    Args:
        target: A path with its query, or an absolute ``http``, ``https``, ``ws`` or ``wss`` URI.

    Returns:
        The URI's host and port; ``None`` for a path.

    Raises:
        ValueError: The target is neither, has a fragment, or has characters outside visible ASCII.
    """
    match = _target(target)
    if match is None:
        raise ValueError(f"not a path or an absolute URI without a fragment: {target[:80]!r}")
    authority: bytes | None = match["authority"]
    return authority


def normed_header_dict(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Collect header fields by lower-case name, joining repeated ones in order (RFC 9110 §5.3).

    A field that may occur only once can be checked in the joined value too: keys, hosts, versions
    and tokens do not contain the comma and space that join two values.

    Args:
        headers: Names in any case, and values.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        fields[name] = b"%b, %b" % (fields[name], value) if name in fields else value
    return fields


def split_comma_header(value: bytes) -> list[str]:
    """Split a list-valued header field (RFC 9110 §5.6.1).

    Commas in quoted strings do not separate items, spaces and tabs around items are stripped, and
    empty items are left out.

    Args:
        value: The field's value, or the values of several fields joined with commas.

    Raises:
        RemoteProtocolError: The value has bytes outside ASCII, which such lists may not contain.
    """
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        raise RemoteProtocolError("a list of tokens has bytes outside ASCII") from None
    items = _items(text) if '"' in text else text.split(",")
    return [item for item in [item.strip(" \t") for item in items] if item]


def _pairs(headers: Iterable[tuple[N, V]]) -> Iterator[tuple[N, V]]:
    """Yield header fields that are pairs; text of two characters is not one, nor is a mapping.

    Raises:
        TypeError: They are not pairs.
    """
    if isinstance(headers, _NOT_PAIRS) or not hasattr(headers, "__iter__"):
        raise TypeError(f"header fields must be pairs of a name and a value: {headers!r:.100}")
    for field in headers:
        given: Any = field
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise TypeError(f"not a pair of a header field's name and value: {field!r:.100}")
        yield field


def received_fields(headers: ParsedHeaders) -> Headers:
    """Convert header fields parsed by another program to bytes.

    Args:
        headers: Names and values, each as bytes or as text. Text must have been decoded from
            Latin-1, as in WSGI.

    Returns:
        The same fields as a new list.

    Raises:
        RemoteProtocolError: Text has characters outside Latin-1.
        TypeError: The fields are not pairs.
    """
    try:
        return [
            (
                name.encode("latin-1") if isinstance(name, str) else name,
                value.encode("latin-1") if isinstance(value, str) else value,
            )
            for name, value in _pairs(headers)
        ]
    except UnicodeEncodeError as exc:
        raise RemoteProtocolError(
            f"header field with characters outside Latin-1: {exc.object[:80]!a}"
        ) from None


def check_header_fields(
    headers: Iterable[tuple[object, object]], reserved: Container[bytes] = ()
) -> Headers:
    """Check header fields that are about to be sent (RFC 9110 §5.1, §5.5).

    Args:
        headers: Names and values, as bytes or ASCII text.
        reserved: Field names, in lower case, that the caller may not set.

    Returns:
        The same fields as bytes, in a new list.

    Raises:
        LocalProtocolError: A name is not a token or is reserved; a value has control characters
            (such as CR, LF or NUL) or surrounding white space; or either is of the wrong type.
        TypeError: The fields are not pairs.
    """
    checked: Headers = []
    # As in almost all answers; the check for pairs costs more than all the rest of it.
    if headers == []:
        return checked
    for name, value in _pairs(headers):
        # h11 accepts text too, so programs pass it.
        if isinstance(name, str) and name.isascii():
            name = name.encode("ascii")
        if isinstance(value, str) and value.isascii():
            value = value.encode("ascii")
        if not (isinstance(name, bytes) and isinstance(value, bytes)):
            raise LocalProtocolError(
                f"header names and values must be bytes or ASCII text: {name!r}: {value!r:.100}"
            )
        if _is_token(name) is None:
            raise LocalProtocolError(f"not a header field's name: {name!r}")
        if _is_field_value(value) is None:
            raise LocalProtocolError(f"{name.decode('ascii')} has a value that cannot be sent")
        if name.lower() in reserved:
            raise LocalProtocolError(f"{name.decode('ascii')} is set by the handshake")
        checked.append((name, value))
    return checked

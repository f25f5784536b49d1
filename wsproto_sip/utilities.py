"""Errors, and the small pieces of header syntax that both roles need.

Theory of operation: header fields stay octets until they are known to be ASCII, and every pattern
here runs in time linear in its input: runs of one class of characters are possessive, and what may
follow a run never starts with a character of it, so that nothing is tried twice.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from .events import Event
    from .typing import Entropy, Headers

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
    "split_comma_header",
    "target_authority",
]

#: RFC 6455 §1.3: what the server appends to the client's key.
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# RFC 9110 §5.6.2. RFC 6455 §4.1 excludes the separators of RFC 2616 from a sub-protocol, which
# leaves the same characters.
_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TOKEN = _TCHAR + rb"++"
# RFC 6455 §9.1: a quoted value has to be a token once its quotes and backslashes are gone.
_QUOTED = rb'"(?:\\?' + _TCHAR + rb')+"'
_PARAMETER = rb"[ \t]*+;[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)

_is_token = re.compile(_TOKEN).fullmatch
_is_extension = re.compile(_TOKEN + rb"(?:" + _PARAMETER + rb")*").fullmatch
# 16 octets in base64 (RFC 4648 §4) are 22 letters and two pads.
_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
# RFC 9110 §5.5: no control character but the tab, and nothing around the text.
_is_field_value = re.compile(rb"(?:[!-~\x80-\xff]++(?:[ \t]++(?=[!-~\x80-\xff]))?)*").fullmatch
# RFC 9110 §7.2, RFC 3986 §3.2.2: a registered name or an address, and perhaps a port. The name
# may not be empty, because that of a ws URI is not (RFC 6455 §3).
_is_host = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]++\])(?::[0-9]*+)?"
).fullmatch
# RFC 6455 §4.2.1: a path, or a whole URI with one; never a fragment (§3).
_target = re.compile(
    rb"""(?:(?i:https?|wss?)://(?P<authority>[^/?\#\x00-\x20\x7f-\xff]++)(?=[/?]|\Z)|(?=/))
    [!"$-~]*+""",
    re.VERBOSE,
).fullmatch
# What stands between commas that are not quoted. A quoted string without an end takes the rest.
_items = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*(?:"|\\?\Z))+', re.DOTALL).findall


class ProtocolError(Exception):
    """Base class of the two errors below."""


class LocalProtocolError(ProtocolError):
    """What the caller asked for would break the protocol; nothing was sent and no state changed."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol.

    Args:
        message: What was wrong.
        event_hint: The event to send in answer, where there is one.
    """

    def __init__(self, message: str, event_hint: Event | None = None) -> None:
        self.event_hint = event_hint
        super().__init__(message)


def generate_nonce(entropy: Entropy = os.urandom) -> bytes:
    """Makes a fresh value for Sec-WebSocket-Key (RFC 6455 §4.1).

    Args:
        entropy: Source of 16 random octets.

    Returns:
        The octets in base64.

    Raises:
        ValueError: The source gave another number of octets.
    """
    octets = entropy(16)
    if len(octets) != 16:
        raise ValueError(f"16 random octets were asked for, {len(octets)} were given")
    return base64.b64encode(octets)


def generate_accept_token(key: bytes) -> bytes:
    """Computes the value of Sec-WebSocket-Accept that answers a key (RFC 6455 §4.2.2).

    Args:
        key: The value of Sec-WebSocket-Key as it was received.
    """
    # RFC 6455 asks for SHA-1; nothing secret depends on it.
    digest = hashlib.sha1(key + ACCEPT_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def is_valid_key(key: bytes) -> bool:
    """Whether a value of Sec-WebSocket-Key is the base64 of exactly 16 octets (RFC 6455 §4.2.1).

    Args:
        key: The value without white space around it.
    """
    return _is_key(key) is not None


def is_token(value: bytes) -> bool:
    """Whether this is a token (RFC 9110 §5.6.2): a field name, a sub-protocol, a method."""
    return _is_token(value) is not None


def is_extension(item: bytes) -> bool:
    """Whether this is one extension with its parameters as RFC 6455 §9.1 writes them.

    Args:
        item: One item of Sec-WebSocket-Extensions, without white space around it.
    """
    return _is_extension(item) is not None


def is_host(value: bytes) -> bool:
    """Whether this may stand in a Host field: a name or an address, and perhaps a port."""
    return _is_host(value) is not None


def target_authority(target: bytes) -> bytes | None:
    """Checks a request target, and tells the authority it names (RFC 9112 §3.2).

    Args:
        target: A path with its query, or a whole ``http``, ``https``, ``ws`` or ``wss`` URI.

    Returns:
        The URI's host and port; None for a path.

    Raises:
        ValueError: It is neither, has a fragment, or has characters outside visible ASCII.
    """
    match = _target(target)
    if match is None:
        raise ValueError(f"not a path or an absolute URI without a fragment: {target[:80]!r}")
    authority: bytes | None = match["authority"]
    return authority


def normed_header_dict(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header fields by name in lower case, repeated ones joined in order (RFC 9110 §5.3).

    A field that may occur only once can be checked in the joined value too: neither a key, a
    host, a version nor a token contains the comma and space that join two.

    Args:
        headers: Names in any case, and values.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        fields[name] = b"%b, %b" % (fields[name], value) if name in fields else value
    return fields


def split_comma_header(value: bytes) -> list[str]:
    """The items of a list-valued header field (RFC 9110 §5.6.1).

    Commas in quoted strings do not separate, spaces and tabs around items are taken off, and
    empty items are left out.

    Args:
        value: The field's value; several fields joined with commas.

    Raises:
        RemoteProtocolError: There are octets outside ASCII, which no such list may have.
    """
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        raise RemoteProtocolError("a list of tokens has octets outside ASCII") from None
    items = _items(text) if '"' in text else text.split(",")
    return [item for item in [item.strip(" \t") for item in items] if item]


def check_header_fields(
    headers: Iterable[tuple[object, object]], reserved: Container[bytes] = ()
) -> Headers:
    """Checks header fields that are about to be sent (RFC 9110 §5.1, §5.5).

    Args:
        headers: Names and values; text in ASCII will do.
        reserved: Names, in lower case, that the caller may not set.

    Returns:
        The same fields as octets, in a list of its own.

    Raises:
        LocalProtocolError: A name is no token or is reserved, or a value has control characters
            (no CR, LF or NUL passes) or white space around it, or either is something else.
    """
    checked: Headers = []
    for name, value in headers:
        # h11 takes text too, and so programs pass it.
        if isinstance(name, str) and name.isascii():
            name = name.encode("ascii")
        if isinstance(value, str) and value.isascii():
            value = value.encode("ascii")
        if not (isinstance(name, bytes) and isinstance(value, bytes)):
            raise LocalProtocolError(f"header names and values are bytes: {name!r}: {value!r}")
        if _is_token(name) is None:
            raise LocalProtocolError(f"not a header field's name: {name!r}")
        if _is_field_value(value) is None:
            raise LocalProtocolError(f"{name.decode('ascii')} has a value that cannot be sent")
        if name.lower() in reserved:
            raise LocalProtocolError(f"{name.decode('ascii')} is the handshake's own to set")
        checked.append((name, value))
    return checked

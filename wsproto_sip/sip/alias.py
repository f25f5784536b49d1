"""The alias parameter: a Contact that remembers its connection, in Kamailio's form.

``sip:u@x.invalid;alias=192.0.2.1~51020~5`` says that the client behind ``x.invalid`` came from
192.0.2.1, port 51020, over transport 5. Anybody can write such a parameter, so it is looked up
among the live connections and never dialled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

from .errors import SipParseError, SipValueError
from .message import SipMessage, SipRequest
from .transport import TRANSPORT_NAMES, TRANSPORT_NUMBERS, Source, default_port
from .uri import SipUri, bracketed

__all__ = [
    "AliasResult",
    "AliasTarget",
    "add_contact_alias",
    "format_alias",
    "handle_ruri_alias",
    "parse_alias",
    "set_contact_alias",
]

T = TypeVar("T")

_ALIAS_RE = re.compile(r"\[?([0-9A-Fa-f:.]++)\]?~([0-9]{1,5})~([1-6])")


class AliasResult(IntEnum):
    """What became of it; the numbers are Kamailio's, but for the last."""

    DONE = 1
    #: No Contact, ``Contact: *``, a Contact that is the source already, or no alias: nothing to do.
    NOTHING = 2
    #: To be answered with 400.
    MALFORMED = -1
    #: The connection that the alias names does not exist (any more): 430 or 480.
    GONE = -2


@dataclass(frozen=True, slots=True)
class AliasTarget(Generic[T]):
    """The outcome of :func:`handle_ruri_alias`.

    Args:
        result: What became of it.
        connection: What ``resolve`` gave; only with ``AliasResult.DONE``.
    """

    result: AliasResult
    connection: T | None = None


def format_alias(source: Source) -> str:
    """The value of the parameter: ``192.0.2.1~51020~5``."""
    return f"{bracketed(source.host)}~{source.port}~{TRANSPORT_NUMBERS[source.transport]}"


def parse_alias(text: str) -> Source:
    """Read the value of an alias parameter.

    Raises:
        SipParseError: 400, for anything but an address, a port and a transport's number.
    """
    match = _ALIAS_RE.fullmatch(text)
    if match is not None:
        try:
            return Source(match[1], int(match[2]), TRANSPORT_NAMES[int(match[3])])
        except SipValueError:
            pass
    raise SipParseError(400, f"bad alias: {text!r:.100}")


def _is_source(uri: SipUri, source: Source) -> bool:
    transport = uri.transport or "udp"
    port = default_port(transport) if uri.port is None else uri.port
    # RFC 7118 §5.2: the URI says ws on both kinds of WebSocket.
    same = transport == source.transport or (transport == "ws" and source.is_websocket)
    return same and port == source.port and uri.address == source.host


def add_contact_alias(message: SipMessage, source: Source) -> AliasResult:
    """Put an alias of the source behind host and port of the first Contact's URI.

    An alias that the client wrote itself is replaced.

    Args:
        message: A request or response from a client.
        source: Where it came from.
    """
    return _alias_contact(message, source, in_front=True)


def set_contact_alias(message: SipMessage, source: Source) -> AliasResult:
    """Like :func:`add_contact_alias`, with the alias at the end of the URI."""
    return _alias_contact(message, source, in_front=False)


def _alias_contact(message: SipMessage, source: Source, *, in_front: bool) -> AliasResult:
    try:
        contacts = message.contacts
        if not contacts:
            return AliasResult.NOTHING
        uri = contacts[0].sip_uri
    except SipParseError:
        return AliasResult.MALFORMED
    if _is_source(uri, source) and "alias" not in uri.params:
        return AliasResult.NOTHING
    params = uri.params.without("alias")
    # "~" needs no escape in a URI parameter.
    params = params.with_param("alias", format_alias(source), first=in_front)
    message.replace_first("Contact", contacts[0].with_uri(uri.with_params(params)))
    return AliasResult.DONE


def handle_ruri_alias(request: SipRequest, resolve: Callable[[Source], T | None]) -> AliasTarget[T]:
    """Take the alias out of the Request-URI and find the connection it names.

    The request is changed only where the connection is there.

    Args:
        request: A request within a dialog, say.
        resolve: Finds the live connection from that source; ``None`` where there is none.
    """
    try:
        uri = request.uri
        if not isinstance(uri, SipUri) or (value := uri.params.get("alias")) is None:
            return AliasTarget(AliasResult.NOTHING)
        source = parse_alias(value)
    except SipParseError:
        return AliasTarget(AliasResult.MALFORMED)
    connection = resolve(source)
    if connection is None:
        return AliasTarget(AliasResult.GONE)
    request.uri = uri.without_param("alias")
    return AliasTarget(AliasResult.DONE, connection)

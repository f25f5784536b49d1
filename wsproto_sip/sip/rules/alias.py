"""The alias parameter: a Contact that names its connection, in Kamailio's form.

``sip:u@x.invalid;alias=192.0.2.1~51020~5`` says that the client with the host ``x.invalid`` came
from 192.0.2.1, port 51020, over transport 5. Anyone can write such a parameter, so it is looked up
among the live connections and never dialled. An optional second parameter, ``seal``, proves that
this side wrote the alias.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

from ..message.errors import SipParseError, SipValueError
from ..message.message import SipMessage, SipRequest
from ..message.transport import TRANSPORT_NAMES, TRANSPORT_NUMBERS, Source, default_port
from ..message.uri import SipUri, bracketed

__all__ = [
    "SEAL",
    "AliasResult",
    "AliasTarget",
    "add_contact_alias",
    "format_alias",
    "handle_ruri_alias",
    "parse_alias",
    "set_contact_alias",
]

T = TypeVar("T")

#: The parameter that proves the origin of an alias.
SEAL: Final = "seal"

_ALIAS_RE = re.compile(r"\[?([0-9A-Fa-f:.]+)\]?~([0-9]{1,5})~([1-6])")


class AliasResult(IntEnum):
    """The outcome; the numbers are Kamailio's, except for the last."""

    DONE = 1
    #: Nothing to do: no Contact, ``Contact: *``, no alias, or a Contact that is the source already.
    NOTHING = 2
    #: Answer with 400.
    MALFORMED = -1
    #: The connection that the alias names does not exist or no longer exists: answer 430 or 480.
    GONE = -2


@dataclass(frozen=True, slots=True)
class AliasTarget(Generic[T]):
    """The outcome of :func:`handle_ruri_alias`.

    Args:
        result: The outcome.
        connection: The result of ``resolve``; only with ``AliasResult.DONE``.
    """

    result: AliasResult
    connection: T | None = None


def format_alias(source: Source) -> str:
    """Return the value of an alias parameter: ``192.0.2.1~51020~5``."""
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


def add_contact_alias(
    message: SipMessage, source: Source, *, seal: str | None = None
) -> AliasResult:
    """Put an alias of the source after host and port of the first Contact's URI.

    An alias or seal that the client wrote itself is replaced.

    Args:
        message: A request or response from a client.
        source: Where it came from.
        seal: A proof that this side wrote the alias, such as a flow token.
    """
    return _alias_contact(message, source, in_front=True, seal=seal)


def set_contact_alias(message: SipMessage, source: Source) -> AliasResult:
    """Do the same as :func:`add_contact_alias`, with the alias at the end of the URI."""
    return _alias_contact(message, source, in_front=False)


def _alias_contact(
    message: SipMessage, source: Source, *, in_front: bool, seal: str | None = None
) -> AliasResult:
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
    if seal is not None:
        params = params.without(SEAL).with_param(SEAL, seal, first=in_front)
    # "~" needs no escape in a URI parameter.
    params = params.with_param("alias", format_alias(source), first=in_front)
    message.replace_first("Contact", contacts[0].with_uri(uri.with_params(params)))
    return AliasResult.DONE


def handle_ruri_alias(request: SipRequest, resolve: Callable[[Source], T | None]) -> AliasTarget[T]:
    """Take the alias out of the Request-URI and find the connection it names.

    The request is changed only if the connection exists.

    Args:
        request: For example a request within a dialog.
        resolve: Returns the live connection from that source, or ``None``.
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

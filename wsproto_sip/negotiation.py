"""What the two sides of an opening handshake offer and accept, whatever carries it.

Theory of operation: these functions read and write the header fields that RFC 6455 §4, RFC 8441
and RFC 9220 have in common. What they read comes as one mapping of joined fields (see
:func:`~wsproto_sip.utilities.normed_header_dict`); what is wrong with it raises
:class:`~wsproto_sip.utilities.RemoteProtocolError`, and the caller adds the response to send. What
they write has been checked character by character.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .limits import bound
from .utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    check_header_fields,
    is_extension,
    is_host,
    is_token,
    split_comma_header,
    target_authority,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .events import AcceptConnection, Request
    from .extensions import Extension
    from .limits import Limits
    from .typing import Headers

__all__ = [
    "RESERVED",
    "TAKEN_FROM_ANSWER",
    "TAKEN_FROM_REQUEST",
    "WEBSOCKET_VERSION",
    "client_extensions_handshake",
    "read_answer",
    "read_host",
    "read_list",
    "read_offers",
    "server_extensions_handshake",
    "write_answer",
    "write_host",
    "write_offers",
    "write_target",
]

#: RFC 6455 §4.1: the value of Sec-WebSocket-Version.
WEBSOCKET_VERSION = b"13"

#: Fields that a request event has attributes for.
TAKEN_FROM_REQUEST = frozenset([b"host", b"sec-websocket-extensions", b"sec-websocket-protocol"])

#: Fields of a success that its event has attributes for, or that say no more than that it is one.
TAKEN_FROM_ANSWER = frozenset(
    [
        b"connection",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"upgrade",
    ]
)

#: Fields that only the handshake itself may write.
RESERVED = frozenset(
    [
        b"connection",
        b"content-length",
        b"host",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    ]
)


def read_list(fields: Mapping[bytes, bytes], name: bytes, limits: Limits) -> list[str]:
    """Reads a list that has to have items if it is there at all (RFC 9110 §5.6.1).

    Args:
        fields: Header fields, joined.
        name: The list's, in lower case.
        limits: How many items a list may have.

    Returns:
        The items; none when there is no such field.

    Raises:
        RemoteProtocolError: It is empty, too long, or has octets outside ASCII.
    """
    value = fields.get(name)
    if value is None:
        return []
    if value.count(b",") >= bound(limits.max_list_items):
        raise RemoteProtocolError(f"more than {limits.max_list_items} items in {name.decode()}")
    if not value.isascii():
        raise RemoteProtocolError(f"octets outside ASCII in {name.decode()}")
    items = split_comma_header(value)
    if not items:
        raise RemoteProtocolError(f"{name.decode()} is empty")
    return items


def _extensions(fields: Mapping[bytes, bytes], limits: Limits) -> list[str]:
    items = read_list(fields, b"sec-websocket-extensions", limits)
    for item in items:
        # RFC 6455 §9.1: what does not follow the grammar fails the handshake.
        if not is_extension(item.encode("ascii")):
            raise RemoteProtocolError(f"malformed extension: {item[:80]!r}")
    return items


def read_offers(fields: Mapping[bytes, bytes], limits: Limits) -> tuple[list[str], list[str]]:
    """Reads what a client offers (RFC 6455 §4.2.1).

    Args:
        fields: The request's header fields, joined.
        limits: How many items a list may have.

    Returns:
        Extensions with their parameters, and sub-protocols, both in the client's order.

    Raises:
        RemoteProtocolError: A list is there and empty, too long or malformed.
    """
    subprotocols = read_list(fields, b"sec-websocket-protocol", limits)
    for item in subprotocols:
        if not is_token(item.encode("ascii")):
            raise RemoteProtocolError(f"not a sub-protocol: {item[:80]!r}")
    # RFC 6455 §4.1: they must all differ.
    if len(set(subprotocols)) != len(subprotocols):
        raise RemoteProtocolError("a sub-protocol is offered twice")
    return _extensions(fields, limits), subprotocols


def write_offers(
    request: Request, reserved: frozenset[bytes] = RESERVED
) -> tuple[Headers, list[Extension]]:
    """Checks and writes what a client offers (RFC 6455 §4.1).

    Args:
        request: The request to be sent.
        reserved: Fields, in lower case, that the caller may not set.

    Returns:
        Sec-WebSocket-Version, -Protocol and -Extensions as far as they are needed and the extra
        header fields, and the extensions that were really offered.

    Raises:
        LocalProtocolError: A sub-protocol is no token or offered twice, an extension or a header
            field cannot be sent.
    """
    fields: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
    subprotocols = request.subprotocols
    for name in subprotocols:
        if not (name.isascii() and is_token(name.encode("ascii"))):
            raise LocalProtocolError(f"not a sub-protocol: {name!r}")
    if subprotocols:
        if len(set(subprotocols)) != len(subprotocols):
            raise LocalProtocolError("a sub-protocol is offered twice")
        fields.append((b"Sec-WebSocket-Protocol", ", ".join(subprotocols).encode("ascii")))
    offered: list[Extension] = []
    offers: list[bytes] = []
    for extension in request.extensions:
        if isinstance(extension, str):
            raise LocalProtocolError(f"a client offers Extension objects, not text: {extension!r}")
        offer = extension.offer()
        if offer is not False:
            offered.append(extension)
            offers.append(_written(extension, offer))
    if offers:
        fields.append((b"Sec-WebSocket-Extensions", b", ".join(offers)))
    fields += check_header_fields(request.extra_headers, reserved)
    return fields, offered


def _written(extension: Extension, parameters: bool | str) -> bytes:
    """An extension as it stands in the header field."""
    text = extension.name
    if isinstance(parameters, str) and parameters:
        text = f"{text}; {parameters}"
    if not (text.isascii() and is_extension(text.encode("ascii"))):
        raise LocalProtocolError(f"an extension wrote a malformed header: {text!r}")
    return text.encode("ascii")


def _name_of(item: str) -> str:
    return item.partition(";")[0].strip(" \t")


def _agree(
    requested: Iterable[str], supported: Iterable[Extension]
) -> list[tuple[Extension, bytes]]:
    """What a server accepts of the offers, in their order; each extension at most once."""
    left = list(supported)
    agreed: list[tuple[Extension, bytes]] = []
    for offer in requested:
        name = _name_of(offer)
        for extension in left:
            if extension.name != name:
                continue
            answer = extension.accept(offer)
            # When it is declined, another offer of the same extension may follow (RFC 7692 §5).
            if answer is not None and answer is not False:
                left.remove(extension)
                agreed.append((extension, _written(extension, answer)))
                break
    return agreed


def server_extensions_handshake(
    requested: Iterable[str], supported: list[Extension]
) -> bytes | None:
    """Decides which extensions a server accepts (RFC 6455 §9.1).

    Args:
        requested: The client's offers with their parameters, in its order.
        supported: The extensions to choose from; those accepted are enabled by it.

    Returns:
        The value of Sec-WebSocket-Extensions to answer with; None when none is accepted.

    Raises:
        LocalProtocolError: An extension answered with something that cannot stand in a header.
    """
    return b", ".join(text for _, text in _agree(requested, supported)) or None


def client_extensions_handshake(
    accepted: Iterable[str], supported: Sequence[Extension]
) -> list[Extension]:
    """Checks which extensions the server accepted, and enables them (RFC 6455 §4.1).

    Args:
        accepted: The items of the server's Sec-WebSocket-Extensions.
        supported: The extensions that were offered.

    Returns:
        Those in use, in the server's order.

    Raises:
        RemoteProtocolError: One was not offered, is repeated, or has parameters that were not
            offered.
    """
    left = {extension.name: extension for extension in supported}
    agreed: list[Extension] = []
    for item in accepted:
        extension = left.pop(_name_of(item), None)
        if extension is None:
            raise RemoteProtocolError(
                f"the server uses an extension that was not offered, or twice: {item[:80]!r}"
            )
        extension.finalize(item)
        agreed.append(extension)
    return agreed


def write_answer(
    event: AcceptConnection,
    offers: Iterable[str],
    subprotocols: Sequence[str],
    reserved: frozenset[bytes] = RESERVED,
) -> tuple[Headers, list[Extension]]:
    """Checks and writes what a server accepts (RFC 6455 §4.2.2).

    Args:
        event: The answer.
        offers: The extensions that were offered.
        subprotocols: The sub-protocols that were offered.
        reserved: Fields, in lower case, that the caller may not set.

    Returns:
        Sec-WebSocket-Protocol and -Extensions as far as they are needed and the extra header
        fields, and the extensions in use.

    Raises:
        LocalProtocolError: The sub-protocol was not offered, or a header field cannot be sent.
    """
    extra = check_header_fields(event.extra_headers, reserved)
    fields: Headers = []
    if event.subprotocol is not None:
        if event.subprotocol not in subprotocols:
            raise LocalProtocolError(f"sub-protocol was not offered: {event.subprotocol!r}")
        fields.append((b"Sec-WebSocket-Protocol", event.subprotocol.encode("ascii")))
    agreed = _agree(offers, event.extensions)
    if agreed:
        fields.append((b"Sec-WebSocket-Extensions", b", ".join(text for _, text in agreed)))
    return fields + extra, [extension for extension, _ in agreed]


def read_answer(
    fields: Mapping[bytes, bytes],
    offered: Sequence[Extension],
    subprotocols: Sequence[str],
    limits: Limits,
) -> tuple[str | None, list[Extension]]:
    """Reads what a server accepted (RFC 6455 §4.1).

    Args:
        fields: The response's header fields, joined.
        offered: The extensions that were offered.
        subprotocols: The sub-protocols that were offered.
        limits: How many items a list may have.

    Returns:
        The sub-protocol, and the extensions in use.

    Raises:
        RemoteProtocolError: The server accepted what was not offered, or wrote it badly.
    """
    chosen = fields.get(b"sec-websocket-protocol")
    subprotocol = None
    if chosen is not None:
        # Compared whole: two of them are none of those offered.
        subprotocol = chosen.decode("latin-1")
        if subprotocol not in subprotocols:
            raise RemoteProtocolError(f"sub-protocol was not offered: {chosen[:80]!r}")
    return subprotocol, client_extensions_handshake(_extensions(fields, limits), offered)


def read_host(value: bytes | None) -> str:
    """Checks the Host field or what stands for it (RFC 9112 §3.2).

    Args:
        value: Its value, None when it is missing.

    Raises:
        RemoteProtocolError: It is missing, repeated or not a host.
    """
    if value is None or not is_host(value):
        raise RemoteProtocolError(f"one Host with a host's name is needed, not {value!r:.80}")
    return value.decode("ascii")


def write_host(host: str) -> bytes:
    """Checks and encodes the host of a request to be sent.

    Args:
        host: A name in ASCII or an address, and perhaps a port.

    Raises:
        LocalProtocolError: It is neither. Names in other letters need their ASCII form
            (``xn--…``), the one they are resolved by.
    """
    if not (host.isascii() and is_host(host.encode("ascii"))):
        raise LocalProtocolError(f"not a host in ASCII: {host!r}")
    return host.encode("ascii")


def write_target(target: str) -> bytes:
    """Checks and encodes the target of a request to be sent.

    Args:
        target: Path and query, percent-encoded where not ASCII.

    Raises:
        LocalProtocolError: It does not start with a slash, has a fragment, or has characters that
            a URI cannot have.
    """
    try:
        octets = target.encode("ascii")
        absolute = target_authority(octets) is not None
    except ValueError:
        absolute = True
    if absolute:
        raise LocalProtocolError(f"not a path in ASCII that starts with a slash: {target!r}")
    return octets

"""Offers and answers in opening handshakes, independent of the version of HTTP.

Theory of operation: these functions read and write the header fields that RFC 6455 §4, RFC 8441 and
RFC 9220 have in common. They read one mapping of joined fields (see
:func:`~wsproto_sip.utilities.normed_header_dict`). Errors in it raise
:class:`~wsproto_sip.utilities.RemoteProtocolError`, to which the caller adds the response to send.
Fields they write have been checked character by character.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from .uri import encode_domain
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
    from collections.abc import Callable, Iterable, Mapping, Sequence

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

#: Fields for which a request event has attributes.
TAKEN_FROM_REQUEST = frozenset([b"host", b"sec-websocket-extensions", b"sec-websocket-protocol"])

#: Fields of a success for which its event has attributes, or that only mark it as a success.
TAKEN_FROM_ANSWER = frozenset(
    [
        b"connection",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"upgrade",
    ]
)

#: Fields that only the handshake may write.
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


# Almost all clients send the same few lists, and get the same few answers, so results are cached by
# value; errors are not. A cache has a fixed number of entries, and longer values are not cached. So
# a flood of different values holds some hundred KiB at most, and each of them costs one insertion
# more than without the cache.
#
# A script in a browser can set no other field than the sub-protocols, so some clients pass a token
# there. A list that is long enough to hold one is not cached: 128 random bits have 22 characters.
_CACHED: Final = 64
_CACHED_SIZE: Final = 256
_SUBPROTOCOLS: Final = b"sec-websocket-protocol"
_CACHED_SUBPROTOCOLS_SIZE: Final = 21


def read_list(
    fields: Mapping[bytes, bytes],
    name: bytes,
    limits: Limits,
    check: Callable[[list[str]], None] | None = None,
) -> list[str]:
    """Read a list that must have items if it is present (RFC 9110 §5.6.1).

    Args:
        fields: Header fields, joined.
        name: The field's name in lower case.
        limits: How many items a list may have.
        check: Raises ``RemoteProtocolError`` if the items are not valid; a function of a module.

    Returns:
        The items; none if the field is missing.

    Raises:
        RemoteProtocolError: The list is empty, too long, or has bytes outside ASCII.
    """
    value = fields.get(name)
    if value is None:
        return []
    longest = _CACHED_SUBPROTOCOLS_SIZE if name == _SUBPROTOCOLS else _CACHED_SIZE
    # Other bytes-like values are not hashable.
    cached = type(value) is bytes and len(value) <= longest
    read = _read_items if cached else _read_items.__wrapped__
    return [*read(value, name, limits.max_list_items, check)]


@lru_cache(maxsize=_CACHED)
def _read_items(
    value: bytes, name: bytes, most: int | None, check: Callable[[list[str]], None] | None
) -> tuple[str, ...]:
    if most is not None and value.count(b",") >= most:
        raise RemoteProtocolError(f"more than {most} items in {name.decode()}")
    if not value.isascii():
        raise RemoteProtocolError(f"bytes outside ASCII in {name.decode()}")
    items = split_comma_header(value)
    if not items:
        raise RemoteProtocolError(f"{name.decode()} is empty")
    if check is not None:
        check(items)
    return tuple(items)


def _check_extensions(items: list[str]) -> None:
    for item in items:
        # RFC 6455 §9.1: an item that does not match the grammar fails the handshake.
        if not is_extension(item.encode("ascii")):
            raise RemoteProtocolError(f"malformed extension: {item[:80]!r}")


def _check_subprotocols(items: list[str]) -> None:
    for item in items:
        if not is_token(item.encode("ascii")):
            raise RemoteProtocolError(f"not a sub-protocol: {item[:80]!r}")
    # RFC 6455 §4.1: sub-protocols must be unique.
    if len(set(items)) != len(items):
        raise RemoteProtocolError("a sub-protocol is offered twice")


def read_offers(fields: Mapping[bytes, bytes], limits: Limits) -> tuple[list[str], list[str]]:
    """Read a client's offers (RFC 6455 §4.2.1).

    Args:
        fields: The request's header fields, joined.
        limits: How many items a list may have.

    Returns:
        Extensions with their parameters, and sub-protocols, both in the client's order.

    Raises:
        RemoteProtocolError: A list is present but empty, too long or malformed.
    """
    subprotocols = read_list(fields, _SUBPROTOCOLS, limits, _check_subprotocols)
    extensions = read_list(fields, b"sec-websocket-extensions", limits, _check_extensions)
    return extensions, subprotocols


def write_offers(
    request: Request, reserved: frozenset[bytes] = RESERVED
) -> tuple[Headers, list[Extension]]:
    """Check and write a client's offers (RFC 6455 §4.1).

    Args:
        request: The request to be sent.
        reserved: Field names, in lower case, that the caller may not set.

    Returns:
        Sec-WebSocket-Version, -Protocol and -Extensions as needed and the extra header fields, and
        the extensions that were really offered.

    Raises:
        LocalProtocolError: A sub-protocol is not a token or offered twice, or an extension or a
            header field cannot be sent.
        TypeError: The sub-protocols are not several names, or the header fields are not pairs.
    """
    fields: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
    subprotocols = request.subprotocols
    if isinstance(subprotocols, str):
        raise TypeError(f"sub-protocols must be several names: [{subprotocols!r:.100}]")
    for name in subprotocols:
        if not isinstance(name, str):
            raise TypeError(f"a sub-protocol must be text: {name!r:.100}")
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
    """Format an extension for the header field."""
    text = extension.name
    if isinstance(parameters, str) and parameters:
        text = f"{text}; {parameters}"
    return (_encode if len(text) <= _CACHED_SIZE else _encode.__wrapped__)(text)


@lru_cache(maxsize=_CACHED)
def _encode(text: str) -> bytes:
    if not (text.isascii() and is_extension(text.encode("ascii"))):
        raise LocalProtocolError(f"an extension wrote a malformed header: {text!r}")
    return text.encode("ascii")


def _name_of(item: str) -> str:
    return item.partition(";")[0].strip(" \t")


def _agree(
    requested: Iterable[str], supported: Iterable[Extension]
) -> list[tuple[Extension, bytes]]:
    """Return the server's answers to the offers, in their order; each extension at most once."""
    left = list(supported)
    agreed: list[tuple[Extension, bytes]] = []
    for offer in requested:
        name = _name_of(offer)
        for extension in left:
            if extension.name != name:
                continue
            answer = extension.accept(offer)
            # After a declined offer, another one of the same extension may follow (RFC 7692 §5).
            if answer is not None and answer is not False:
                left.remove(extension)
                agreed.append((extension, _written(extension, answer)))
                break
    return agreed


def server_extensions_handshake(
    requested: Iterable[str], supported: list[Extension]
) -> bytes | None:
    """Choose the extensions that a server accepts (RFC 6455 §9.1).

    Args:
        requested: The client's offers with their parameters, in its order.
        supported: The extensions to choose from; the accepted ones become enabled.

    Returns:
        The value of Sec-WebSocket-Extensions to answer with; ``None`` if none is accepted.

    Raises:
        LocalProtocolError: An extension's answer cannot be written in a header field.
    """
    return b", ".join(text for _, text in _agree(requested, supported)) or None


def client_extensions_handshake(
    accepted: Iterable[str], supported: Sequence[Extension]
) -> list[Extension]:
    """Check the extensions that the server accepted, and enable them (RFC 6455 §4.1).

    Args:
        accepted: The items of the server's Sec-WebSocket-Extensions.
        supported: The extensions that were offered.

    Returns:
        The extensions in use, in the server's order.

    Raises:
        RemoteProtocolError: An extension was not offered, is repeated, or has parameters that were
            not offered.
    """
    left = {extension.name: extension for extension in supported}
    agreed: list[Extension] = []
    for item in accepted:
        extension = left.pop(_name_of(item), None)
        if extension is None:
            raise RemoteProtocolError(
                f"the server accepted an extension not offered, or accepted it twice: {item[:80]!r}"
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
    """Check and write what a server accepts (RFC 6455 §4.2.2).

    Args:
        event: The answer.
        offers: The extensions that were offered.
        subprotocols: The sub-protocols that were offered.
        reserved: Fields, in lower case, that the caller may not set.

    Returns:
        Sec-WebSocket-Protocol and -Extensions as needed and the extra header fields, and the
        extensions in use.

    Raises:
        LocalProtocolError: The sub-protocol was not offered, or a header field cannot be sent.
    """
    extra = check_header_fields(event.extra_headers, reserved)
    fields: Headers = []
    if event.subprotocol is not None:
        if event.subprotocol not in subprotocols:
            raise LocalProtocolError(f"sub-protocol was not offered: {event.subprotocol!r}")
        fields.append((b"Sec-WebSocket-Protocol", event.subprotocol.encode("ascii")))
    # What almost all servers pass that do not compress.
    if event.extensions == []:
        return fields + extra, []
    agreed = _agree(offers, event.extensions)
    if agreed:
        fields.append((b"Sec-WebSocket-Extensions", b", ".join([text for _, text in agreed])))
    return fields + extra, [extension for extension, _ in agreed]


def read_answer(
    fields: Mapping[bytes, bytes],
    offered: Sequence[Extension],
    subprotocols: Sequence[str],
    limits: Limits,
) -> tuple[str | None, list[Extension]]:
    """Read what a server accepted (RFC 6455 §4.1).

    Args:
        fields: The response's header fields, joined.
        offered: The extensions that were offered.
        subprotocols: The sub-protocols that were offered.
        limits: How many items a list may have.

    Returns:
        The sub-protocol, and the extensions in use.

    Raises:
        RemoteProtocolError: The server accepted something that was not offered, or its answer is
            malformed.
    """
    chosen = fields.get(b"sec-websocket-protocol")
    subprotocol = None
    if chosen is not None:
        # Compared as a whole: a list of two cannot equal an offered one.
        subprotocol = chosen.decode("latin-1")
        if subprotocol not in subprotocols:
            raise RemoteProtocolError(f"sub-protocol was not offered: {chosen[:80]!r}")
    accepted = read_list(fields, b"sec-websocket-extensions", limits, _check_extensions)
    return subprotocol, client_extensions_handshake(accepted, offered)


def read_host(value: bytes | None) -> str:
    """Check the Host field or its equivalent (RFC 9112 §3.2).

    Args:
        value: Its value; ``None`` if it is missing.

    Raises:
        RemoteProtocolError: It is missing, repeated or not a host.
    """
    if value is None or not is_host(value):
        raise RemoteProtocolError(f"one valid Host field is required, not {value!r:.80}")
    return value.decode("ascii")


def write_host(host: str) -> bytes:
    """Check and encode the host of a request to be sent.

    Args:
        host: A name or an address, and perhaps a port. A name outside ASCII is encoded by
            :func:`~wsproto_sip.uri.encode_domain`.

    Raises:
        LocalProtocolError: The host is not valid, or the name cannot be encoded.
        TypeError: The host is not text.
    """
    if not isinstance(host, str):
        raise TypeError(f"a host must be text: {host!r:.100}")
    if not host.isascii():
        name, colon, port = host.partition(":")
        try:
            host = encode_domain(name) + colon + port
        except ValueError as exc:
            raise LocalProtocolError(f"host {host[:80]!r} cannot be sent: {exc}") from None
    if not (host.isascii() and is_host(host.encode("ascii"))):
        raise LocalProtocolError(f"not a host: {host[:80]!r}")
    return host.encode("ascii")


def write_target(target: str) -> bytes:
    """Check and encode the target of a request to be sent.

    Args:
        target: Path and query, percent-encoded outside ASCII.

    Raises:
        LocalProtocolError: The target does not start with a slash, has a fragment, or has
            characters that a URI may not have.
        TypeError: The target is not text.
    """
    if not isinstance(target, str):
        raise TypeError(f"a target must be text: {target!r:.100}")
    try:
        raw = target.encode("ascii")
        absolute = target_authority(raw) is not None
    except ValueError:
        absolute = True
    if absolute:
        raise LocalProtocolError(f"not an ASCII path that starts with a slash: {target!r}")
    return raw

"""What a parser does with a frame by its first byte, and how extensions see it (RFC 6455 §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension, HasRole

__all__ = [
    "KINDS_BETWEEN",
    "KINDS_INSIDE",
    "KINDS_INSIDE_DEFLATE",
    "KINDS_NONE",
    "KIND_BINARY",
    "KIND_OCTETS",
    "KIND_OTHER",
    "KIND_TEXT",
    "inbound_header",
    "inbound_payload",
    "too_big",
]

#: What a parser does with a frame, by its first byte. 0 means a closer look: control frames,
#: errors, and every frame if extensions are in use. ``KIND_TEXT``, ``KIND_OCTETS`` (undecoded text)
#: and ``KIND_BINARY`` are whole messages; ``KIND_OTHER`` are the other data frames allowed here.
KIND_TEXT: Final = 1
KIND_BINARY: Final = 2
KIND_OCTETS: Final = 3
KIND_OTHER: Final = 4


def _kinds(kinds: dict[int, int]) -> list[int]:
    return [kinds.get(first, 0) for first in range(256)]


_BEGINNINGS: Final = {0x01: KIND_OTHER, 0x02: KIND_OTHER, 0x82: KIND_BINARY}
# RFC 7692 §6: RSV1 marks a compressed message.
_COMPRESSED: Final = dict.fromkeys((0xC1, 0xC2, 0x41, 0x42), KIND_OTHER)
_TEXT_KINDS: Final = {0x81: KIND_TEXT}
_OCTETS_KINDS: Final = {0x81: KIND_OCTETS}

#: Between messages (RFC 6455 §5.4), by whether permessage-deflate is in use and whether text is
#: left as bytes.
KINDS_BETWEEN: Final = {
    (False, False): _kinds(_BEGINNINGS | _TEXT_KINDS),
    (False, True): _kinds(_BEGINNINGS | _OCTETS_KINDS),
    (True, False): _kinds(_BEGINNINGS | _TEXT_KINDS | _COMPRESSED),
    (True, True): _kinds(_BEGINNINGS | _OCTETS_KINDS | _COMPRESSED),
}
#: Inside a message, compressed or not.
KINDS_INSIDE: Final = _kinds(dict.fromkeys((0x80, 0x00), KIND_OTHER))
KINDS_INSIDE_DEFLATE: Final = _kinds(dict.fromkeys((0x80, 0x00), KIND_OTHER))
#: With extensions, which see every frame.
KINDS_NONE: Final = _kinds({})


def too_big(what: str) -> ParseFailed:
    """Make the error for a peer that exceeds a limit (RFC 6455 §10.4).

    Args:
        what: What was too big, and how much is allowed.
    """
    return ParseFailed(what, CloseReason.MESSAGE_TOO_BIG)


def inbound_header(
    chain: Sequence[Extension], proto: HasRole, opcode: Opcode, rsv: int, size: int
) -> None:
    """Pass a received frame's header to the extensions.

    Args:
        chain: The extensions, the one nearest to the wire first.
        proto: Tells them which end this is.
        opcode: The frame's opcode.
        rsv: Its first byte, of which the reserved bits are used.
        size: The payload's length in bytes.

    Raises:
        ParseFailed: An extension refuses the frame, or a reserved bit is set that none of them
            uses.
    """
    bits = RsvBits(bool(rsv & 0x40), bool(rsv & 0x20), bool(rsv & 0x10))
    unused = list(bits)
    for extension in chain:
        used = extension.frame_inbound_header(proto, opcode, bits, size)
        if isinstance(used, CloseReason):
            raise _refused(extension, used)
        unused = [bit and not taken for bit, taken in zip(unused, used, strict=True)]
    if any(unused):
        raise ParseFailed("reserved bit set that was not negotiated")


def inbound_payload(
    chain: Sequence[Extension], proto: HasRole, payload: bytes, frame_done: bool, fin: bool
) -> bytes:
    """Let extensions undo their transformation of a piece of a payload.

    Args:
        chain: The extensions, the one nearest to the wire first.
        proto: Tells them which end this is.
        payload: The unmasked bytes.
        frame_done: Whether this piece ends the frame.
        fin: Whether the frame ends its message.

    Returns:
        The original bytes.

    Raises:
        ParseFailed: An extension refuses the frame.
    """
    for extension in chain:
        data = extension.frame_inbound_payload_data(proto, payload)
        if isinstance(data, CloseReason):
            raise _refused(extension, data)
        payload = bytes(data)
        if frame_done:
            rest = extension.frame_inbound_complete(proto, fin)
            if isinstance(rest, CloseReason):
                raise _refused(extension, rest)
            if rest is not None:
                payload += rest
    return payload


def _refused(extension: Extension, code: CloseReason) -> ParseFailed:
    return ParseFailed(f"refused by extension {extension.name}", code)

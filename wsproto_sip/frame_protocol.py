"""Frames as they stand on the wire (RFC 6455 §5): names, tables, and how to write them.

Theory of operation: reading is in ``_parser``; here is what both directions share, and the writing
side. :class:`FrameEncoder` turns messages and control frames into octets and knows nothing of
states: what may be sent when is decided by :class:`~wsproto_sip.connection.Connection`.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ._masking import KeySource, apply_mask
from .events import CloseConnection, TextMessage
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .events import Message
    from .extensions import Extension, HasRole, PerMessageDeflate
    from .typing import BytesLike

__all__ = [
    "KINDS_BETWEEN",
    "KINDS_BETWEEN_DEFLATE",
    "KINDS_INSIDE",
    "KINDS_NONE",
    "KIND_BINARY",
    "KIND_OTHER",
    "KIND_TEXT",
    "LOCAL_ONLY_CLOSE_REASONS",
    "MAX_CONTROL_PAYLOAD",
    "MAX_REASON_OCTETS",
    "CloseReason",
    "FrameEncoder",
    "Opcode",
    "ParseFailed",
    "RsvBits",
    "encode_frame",
    "inbound_header",
    "inbound_payload",
    "is_close_code",
    "parse_close",
    "too_big",
]

#: RFC 6455 §5.5: the longest payload of a control frame.
MAX_CONTROL_PAYLOAD: Final = 125

#: What of it is left for the reason of a close frame, behind the code.
MAX_REASON_OCTETS: Final = MAX_CONTROL_PAYLOAD - 2


class Opcode(IntEnum):
    """What a frame is (RFC 6455 §5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    def iscontrol(self) -> bool:
        """Whether it is one of the control frames (RFC 6455 §5.5)."""
        return bool(self & 0x8)


class CloseReason(IntEnum):
    """Status codes of closing (RFC 6455 §7.4.1 and the IANA registry)."""

    #: The purpose of the connection is fulfilled.
    NORMAL_CLOSURE = 1000
    #: A server shuts down, or a page is left.
    GOING_AWAY = 1001
    #: The peer broke the protocol.
    PROTOCOL_ERROR = 1002
    #: A kind of data that this endpoint does not take.
    UNSUPPORTED_DATA = 1003
    #: Reported where a close frame carried no code; never sent.
    NO_STATUS_RCVD = 1005
    #: Reported where the connection ended without a close frame; never sent.
    ABNORMAL_CLOSURE = 1006
    #: Text that is not UTF-8, or compressed data that does not inflate.
    INVALID_FRAME_PAYLOAD_DATA = 1007
    #: A rule of this endpoint's own was broken.
    POLICY_VIOLATION = 1008
    #: A message larger than this endpoint takes.
    MESSAGE_TOO_BIG = 1009
    #: A client misses an extension in the server's answer.
    MANDATORY_EXT = 1010
    #: Something unforeseen at the server.
    INTERNAL_ERROR = 1011
    #: The server restarts.
    SERVICE_RESTART = 1012
    #: The server is overloaded.
    TRY_AGAIN_LATER = 1013
    #: A gateway got an invalid answer from behind.
    BAD_GATEWAY = 1014
    #: Reported where TLS failed; never sent.
    TLS_HANDSHAKE_FAILED = 1015


#: Codes that are reported to the application and never stand in a frame (RFC 6455 §7.4.1).
LOCAL_ONLY_CLOSE_REASONS: Final = (
    CloseReason.NO_STATUS_RCVD,
    CloseReason.ABNORMAL_CLOSURE,
    CloseReason.TLS_HANDSHAKE_FAILED,
)

_MEMBERS: Final = {int(reason): reason for reason in CloseReason}
_REGISTERED: Final = frozenset(range(1000, 1004)) | frozenset(range(1007, 1015))


def is_close_code(code: int) -> bool:
    """Whether a code may stand in a close frame (RFC 6455 §7.4).

    Args:
        code: The status code.

    Returns:
        True for the registered codes and for 3000 to 4999.
    """
    return code in _REGISTERED or 3000 <= code <= 4999


class RsvBits(NamedTuple):
    """The three reserved bits of a frame (RFC 6455 §5.2)."""

    rsv1: bool
    rsv2: bool
    rsv3: bool


class ParseFailed(Exception):
    """A received frame broke the protocol; it ends in a ``CloseConnection`` event.

    Args:
        msg: What was wrong; it becomes the reason.
        code: The code to fail the connection with.
    """

    def __init__(self, msg: str, code: int = CloseReason.PROTOCOL_ERROR) -> None:
        super().__init__(msg)
        self.code = code


def too_big(what: str) -> ParseFailed:
    """What to raise where a peer passes a limit (RFC 6455 §10.4).

    Args:
        what: What was too big, and what would not have been.
    """
    return ParseFailed(what, CloseReason.MESSAGE_TOO_BIG)


#: What a parser does with a frame, by its first octet. ``KIND_TEXT`` and ``KIND_BINARY`` are whole
#: messages, ``KIND_OTHER`` the other data frames that may stand here; 0 is all that needs a closer
#: look: control frames, errors, and every frame where extensions are in use.
KIND_TEXT: Final = 1
KIND_BINARY: Final = 2
KIND_OTHER: Final = 3


def _kinds(kinds: dict[int, int]) -> list[int]:
    return [kinds.get(first, 0) for first in range(256)]


_WHOLE: Final = {0x81: KIND_TEXT, 0x82: KIND_BINARY, 0x01: KIND_OTHER, 0x02: KIND_OTHER}

#: Where no message is begun (RFC 6455 §5.4).
KINDS_BETWEEN: Final = _kinds(_WHOLE)
#: The same with permessage-deflate, where RSV1 marks what is compressed (RFC 7692 §6).
KINDS_BETWEEN_DEFLATE: Final = _kinds(_WHOLE | dict.fromkeys((0xC1, 0xC2, 0x41, 0x42), KIND_OTHER))
#: Inside a message.
KINDS_INSIDE: Final = _kinds(dict.fromkeys((0x80, 0x00), KIND_OTHER))
#: With extensions.
KINDS_NONE: Final = _kinds({})


def parse_close(payload: bytes) -> CloseConnection:
    """Reads the body of a close frame (RFC 6455 §5.5.1).

    Args:
        payload: The octets, unmasked.

    Returns:
        What it says, code 1005 if it is empty (§7.1.5). A code with a name is a ``CloseReason``.

    Raises:
        ParseFailed: It is only one octet, or the code may not stand in a frame (§7.4).
        UnicodeDecodeError: The reason is not UTF-8.
    """
    if not payload:
        return CloseConnection(CloseReason.NO_STATUS_RCVD, "")
    if len(payload) == 1:
        raise ParseFailed("close frame with a body of one octet")
    code = int.from_bytes(payload[:2])
    if not is_close_code(code):
        raise ParseFailed(f"close code {code} may not stand in a frame")
    return CloseConnection(_MEMBERS.get(code, code), payload[2:].decode())


def inbound_header(
    chain: Sequence[Extension], proto: HasRole, opcode: Opcode, rsv: int, size: int
) -> None:
    """Shows a received frame's header to extensions.

    Args:
        chain: The extensions, that nearest to the wire first.
        proto: Tells them the role.
        opcode: What the frame is.
        rsv: Its first octet, of which the reserved bits count.
        size: The octets of its payload.

    Raises:
        ParseFailed: One refuses the frame, or a reserved bit is set that none of them uses.
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
    """Has extensions undo what they did to a piece of a frame's payload.

    Args:
        chain: The extensions, that nearest to the wire first.
        proto: Tells them the role.
        payload: The octets, unmasked.
        frame_done: Whether they end the frame.
        fin: Whether the frame ends its message.

    Returns:
        What they were before.

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


_pack_short = Struct(">BB").pack
_pack_medium = Struct(">BBH").pack
_pack_long = Struct(">BBQ").pack
_pack_code = Struct(">H").pack


def encode_frame(first_octet: int, payload: bytes, key: bytes | None = None) -> bytes:
    """Writes one frame (RFC 6455 §5.2), its length in the shortest form.

    Args:
        first_octet: FIN, the reserved bits and the opcode.
        payload: The octets, not masked yet.
        key: The masking key of a client's frame; None leaves the frame unmasked.

    Returns:
        The frame.
    """
    size = len(payload)
    mask_bit = 0 if key is None else 0x80
    if size < 126:
        head = _pack_short(first_octet, mask_bit | size)
    elif size < 65536:
        head = _pack_medium(first_octet, mask_bit | 126, size)
    else:
        head = _pack_long(first_octet, mask_bit | 127, size)
    if key is None:
        return head + payload
    return b"".join((head, key, apply_mask(payload, key)))


_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)

#: The first two octets of a whole message of a server in fewer than 126 octets.
_TEXT_HEADS: Final = [bytes((0x80 | _TEXT, size)) for size in range(126)]
_BINARY_HEADS: Final = [bytes((0x80 | _BINARY, size)) for size in range(126)]


def _octets(data: BytesLike) -> bytes:
    """The octets of anything that has some, and of nothing else."""
    return data if type(data) is bytes else bytes(memoryview(data))


class FrameEncoder:
    """Writes the frames of one connection.

    Args:
        client: Whether this is the client, whose frames are masked (RFC 6455 §5.3).
        keys: Where masking keys come from.
        deflate: permessage-deflate, if that is the one extension in use.
        extensions: The extensions in use otherwise, in the order in which they were accepted.
    """

    __slots__ = ("_deflate", "_extensions", "_keys", "_opcode", "_unchanged", "client")

    def __init__(
        self,
        client: bool,
        keys: KeySource,
        deflate: PerMessageDeflate | None = None,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self.client = client
        self._keys = keys
        self._deflate = deflate
        self._extensions = extensions
        # Whether payloads go out as they are.
        self._unchanged = not client and deflate is None and not extensions
        # Opcode of the message whose pieces are being sent; 0 between messages.
        self._opcode = 0

    def sharing(self) -> int | None:
        """Which other connections would send a message in the same frame, octet for octet.

        Returns:
            0 without extensions, and the window bits where each message is compressed by itself;
            None where the frame is this connection's own because it is masked, compressed with
            what was sent before, or changed by other extensions.

        Raises:
            LocalProtocolError: A message is unfinished, so that no other can be sent whole.
        """
        if self._opcode:
            raise LocalProtocolError("a message cannot be sent inside another")
        if self.client or self._extensions:
            return None
        return 0 if self._deflate is None else self._deflate.standalone_window_bits

    def message(self, message: Message[str] | Message[bytes]) -> bytes:
        """A message or its next piece, as text or binary after its class or else its data.

        Args:
            message: The message.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: See :meth:`text` and :meth:`binary`.
        """
        data = message.data
        if isinstance(message, TextMessage) or isinstance(data, str):
            return self.text(data, message.message_finished)
        return self.binary(data, message.message_finished)

    def text(self, data: str | BytesLike, fin: bool = True) -> bytes:
        """A text message or its next piece (RFC 6455 §5.6).

        Args:
            data: The text; octets are taken as text that is encoded already, and have to be
                UTF-8 by themselves.
            fin: Whether it is the last piece.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: The text cannot be encoded, or a binary message is unfinished.
        """
        try:
            if isinstance(data, str):
                payload = data.encode()
            else:
                payload = _octets(data)
                payload.isascii() or payload.decode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"text cannot be sent: {exc}") from exc
        if fin and self._unchanged and not self._opcode:
            size = len(payload)
            if size < 126:
                return _TEXT_HEADS[size] + payload
            return encode_frame(0x80 | _TEXT, payload)
        return self._message(_TEXT, payload, fin)

    def binary(self, data: BytesLike, fin: bool = True) -> bytes:
        """A binary message or its next piece (RFC 6455 §5.6).

        Args:
            data: The octets.
            fin: Whether it is the last piece.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: A text message is unfinished.
        """
        payload = _octets(data)
        if fin and self._unchanged and not self._opcode:
            size = len(payload)
            if size < 126:
                return _BINARY_HEADS[size] + payload
            return encode_frame(0x80 | _BINARY, payload)
        return self._message(_BINARY, payload, fin)

    def _message(self, opcode: int, payload: bytes, fin: bool) -> bytes:
        current = self._opcode
        if current and current != opcode:
            raise LocalProtocolError("a message cannot change between text and binary")
        first = 0 if current else opcode
        if self._deflate is not None:
            rsv, payload = self._deflate.outbound(payload, first=not current, fin=fin)
            first |= rsv
        elif self._extensions:
            rsv, payload = self._run_extensions(Opcode(first), payload, fin)
            first |= rsv
        self._opcode = 0 if fin else opcode
        return self._frame(first | 0x80 if fin else first, payload)

    def _run_extensions(self, opcode: Opcode, payload: bytes, fin: bool) -> tuple[int, bytes]:
        rsv = RsvBits(False, False, False)
        # RFC 6455 §9.1: the first accepted extension stands nearest to the application.
        for extension in self._extensions:
            rsv, payload = extension.frame_outbound(self, opcode, rsv, payload, fin)
        return rsv.rsv1 << 6 | rsv.rsv2 << 5 | rsv.rsv3 << 4, payload

    def control(self, opcode: Opcode, payload: BytesLike) -> bytes:
        """A Ping or Pong frame (RFC 6455 §5.5).

        Args:
            opcode: Which one.
            payload: At most 125 octets.

        Returns:
            The frame.

        Raises:
            LocalProtocolError: The payload is too long.
        """
        return self._control(opcode, _octets(payload))

    def _control(self, opcode: Opcode, payload: bytes) -> bytes:
        rsv = 0
        if self._extensions:
            rsv, payload = self._run_extensions(opcode, payload, True)
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise LocalProtocolError(
                f"a control frame carries at most {MAX_CONTROL_PAYLOAD} octets, not {len(payload)}"
            )
        return self._frame(0x80 | rsv | opcode, payload)

    def close(self, code: int | None, reason: str | None) -> bytes:
        """A close frame (RFC 6455 §5.5.1).

        Args:
            code: The status code; None and 1005 send none.
            reason: Text to go with it; cut between characters to 123 octets.

        Returns:
            The frame.

        Raises:
            LocalProtocolError: The code may not stand in a frame, there is a reason without a
                code, or the reason cannot be encoded.
            TypeError: The reason is no text.
        """
        if code is None or code == CloseReason.NO_STATUS_RCVD:
            if reason:
                raise LocalProtocolError("a close frame cannot carry a reason without a code")
            return self._control(Opcode.CLOSE, b"")
        if not is_close_code(code):
            raise LocalProtocolError(f"close code {int(code)} may not be sent")
        try:
            octets = bytes(reason or "", "utf-8")
        except UnicodeError as exc:
            raise LocalProtocolError(f"close reason cannot be sent: {exc}") from exc
        if len(octets) > MAX_REASON_OCTETS:
            # Continuation octets are 10xxxxxx: step back to where a character starts.
            end = MAX_REASON_OCTETS
            while octets[end] & 0xC0 == 0x80:
                end -= 1
            octets = octets[:end]
        return self._control(Opcode.CLOSE, _pack_code(code) + octets)

    def _frame(self, first_octet: int, payload: bytes) -> bytes:
        return encode_frame(first_octet, payload, self._keys.next_key() if self.client else None)

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
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .extensions import Extension, PerMessageDeflate
    from .typing import BytesLike

__all__ = [
    "LOCAL_ONLY_CLOSE_REASONS",
    "MAX_CONTROL_PAYLOAD",
    "MAX_REASON_OCTETS",
    "CloseReason",
    "FrameEncoder",
    "Opcode",
    "ParseFailed",
    "RsvBits",
    "encode_frame",
    "is_close_code",
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


class ParseFailed(Exception):  # noqa: N818 - the name is wsproto's
    """A received frame broke the protocol; it ends in a ``CloseConnection`` event.

    Args:
        msg: What was wrong; it becomes the reason.
        code: The code to fail the connection with.
    """

    def __init__(self, msg: str, code: int = CloseReason.PROTOCOL_ERROR) -> None:
        super().__init__(msg)
        self.code = code


_pack_short = Struct(">BB").pack
_pack_medium = Struct(">BBH").pack
_pack_long = Struct(">BBQ").pack
_pack_code = Struct(">H").pack

#: The first two octets of an unmasked, unfragmented frame of fewer than 126 octets.
_TEXT_HEADS: Final = [bytes((0x80 | Opcode.TEXT, size)) for size in range(126)]
_BINARY_HEADS: Final = [bytes((0x80 | Opcode.BINARY, size)) for size in range(126)]


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


class FrameEncoder:
    """Writes the frames of one connection.

    Args:
        client: Whether this is the client, whose frames are masked (RFC 6455 §5.3).
        keys: Where masking keys come from.
        deflate: permessage-deflate, if that is the one extension in use.
        extensions: The extensions in use otherwise, in the order in which they were accepted.
    """

    __slots__ = ("_deflate", "_extensions", "_keys", "_opcode", "client")

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
        # Opcode of the message whose pieces are being sent; 0 between messages.
        self._opcode = 0

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
                payload = bytes(data)
                payload.isascii() or payload.decode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"text cannot be sent: {exc}") from exc
        if fin and not self._opcode and not self.client:
            size = len(payload)
            if size < 126 and self._deflate is None and not self._extensions:
                return _TEXT_HEADS[size] + payload
        return self._message(Opcode.TEXT, payload, fin)

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
        payload = bytes(data)
        if fin and not self._opcode and not self.client:
            size = len(payload)
            if size < 126 and self._deflate is None and not self._extensions:
                return _BINARY_HEADS[size] + payload
        return self._message(Opcode.BINARY, payload, fin)

    def _message(self, opcode: int, payload: bytes, fin: bool) -> bytes:
        current = self._opcode
        if current and current != opcode:
            raise LocalProtocolError("a message cannot change between text and binary")
        first = Opcode.CONTINUATION if current else opcode
        rsv = 0
        if self._deflate is not None:
            # RFC 7692 §6.1: RSV1 marks the first frame of a compressed message.
            rsv, payload = self._deflate.outbound(payload, first=not current, fin=fin)
        elif self._extensions:
            rsv, payload = self._run_extensions(Opcode(first), payload, fin)
        self._opcode = 0 if fin else opcode
        return self._frame((0x80 if fin else 0) | rsv | first, payload)

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
        payload = bytes(payload)
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise LocalProtocolError(
                f"a control frame carries at most {MAX_CONTROL_PAYLOAD} octets, not {len(payload)}"
            )
        rsv = 0
        if self._extensions:
            rsv, payload = self._run_extensions(opcode, payload, True)
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
        """
        if code is None or code == CloseReason.NO_STATUS_RCVD:
            if reason:
                raise LocalProtocolError("a close frame cannot carry a reason without a code")
            return self._frame(0x80 | Opcode.CLOSE, b"")
        if not is_close_code(code):
            raise LocalProtocolError(f"close code {int(code)} may not be sent")
        try:
            octets = (reason or "").encode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"close reason cannot be sent: {exc}") from exc
        if len(octets) > MAX_REASON_OCTETS:
            # Continuation octets are 10xxxxxx: step back to where a character starts.
            end = MAX_REASON_OCTETS
            while octets[end] & 0xC0 == 0x80:
                end -= 1
            octets = octets[:end]
        return self._frame(0x80 | Opcode.CLOSE, _pack_code(code) + octets)

    def _frame(self, first_octet: int, payload: bytes) -> bytes:
        return encode_frame(first_octet, payload, self._keys.next_key() if self.client else None)

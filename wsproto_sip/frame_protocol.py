"""Frames on the wire (RFC 6455 §5): names, tables, and the encoder.

Theory of operation: parsing is in ``_parser``; this module has what both directions share, and the
encoder. :class:`FrameEncoder` turns messages and control frames into bytes and keeps no connection
state: :class:`~wsproto_sip.connection.Connection` decides what may be sent when.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ._masking import KeySource, apply_mask, joining
from .errors import WsprotoSipError
from .events import CloseConnection, TextMessage
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .events import Message
    from .extensions import Extension, PerMessageDeflate
    from .typing import BytesLike

__all__ = [
    "LOCAL_ONLY_CLOSE_REASONS",
    "MAX_CONTROL_PAYLOAD",
    "MAX_REASON_BYTES",
    "CloseReason",
    "FrameEncoder",
    "Opcode",
    "ParseFailed",
    "RsvBits",
    "encode_frame",
    "is_close_code",
    "parse_close",
    "wire_code",
]

#: RFC 6455 §5.5: the maximum payload length of a control frame.
MAX_CONTROL_PAYLOAD: Final = 125

#: The room in it for the reason of a close frame, after the code.
MAX_REASON_BYTES: Final = MAX_CONTROL_PAYLOAD - 2


class Opcode(IntEnum):
    """Frame types (RFC 6455 §5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    def iscontrol(self) -> bool:
        """Return whether this is a control frame (RFC 6455 §5.5)."""
        return bool(self & 0x8)


class CloseReason(IntEnum):
    """Close codes (RFC 6455 §7.4.1 and the IANA registry)."""

    #: The purpose of the connection has been fulfilled.
    NORMAL_CLOSURE = 1000
    #: The server is shutting down, or the browser is leaving the page.
    GOING_AWAY = 1001
    #: The peer broke the protocol.
    PROTOCOL_ERROR = 1002
    #: This endpoint does not accept this type of data.
    UNSUPPORTED_DATA = 1003
    #: Reported if a close frame has no code; never sent.
    NO_STATUS_RCVD = 1005
    #: Reported if the connection ended without a close frame; never sent.
    ABNORMAL_CLOSURE = 1006
    #: Text is not UTF-8, or compressed data is invalid.
    INVALID_FRAME_PAYLOAD_DATA = 1007
    #: A policy of this endpoint was violated.
    POLICY_VIOLATION = 1008
    #: A message is too large for this endpoint.
    MESSAGE_TOO_BIG = 1009
    #: The client needs an extension that the server has not accepted.
    MANDATORY_EXT = 1010
    #: An unexpected condition at the server.
    INTERNAL_ERROR = 1011
    #: The server is restarting.
    SERVICE_RESTART = 1012
    #: The server is overloaded.
    TRY_AGAIN_LATER = 1013
    #: A gateway got an invalid response from its upstream server.
    BAD_GATEWAY = 1014
    #: Reported if TLS failed; never sent.
    TLS_HANDSHAKE_FAILED = 1015


#: Codes that are reported to the application but never sent in a frame (RFC 6455 §7.4.1).
LOCAL_ONLY_CLOSE_REASONS: Final = (
    CloseReason.NO_STATUS_RCVD,
    CloseReason.ABNORMAL_CLOSURE,
    CloseReason.TLS_HANDSHAKE_FAILED,
)

_MEMBERS: Final = {int(reason): reason for reason in CloseReason}
_REGISTERED: Final = frozenset(range(1000, 1004)) | frozenset(range(1007, 1015))


def is_close_code(code: int) -> bool:
    """Return whether a code may be sent in a close frame (RFC 6455 §7.4).

    Args:
        code: The status code.

    Returns:
        True for the registered codes and for 3000 to 4999.
    """
    return code in _REGISTERED or 3000 <= code <= 4999


def wire_code(code: int | None) -> int | None:
    """Return the code to put in a close frame for a given code (RFC 6455 §7.4.1).

    Codes that only report how a connection ended are never sent in a frame. wsproto's users send
    them all the same when they pass on a received event, and their peers get 1000.

    Args:
        code: The requested code; it is not validated further.

    Returns:
        The code; ``None`` for a frame without a code, which is what the ``CloseReason`` of 1005
        means in a received event. A plain 1005 requests a code, as in wsproto.
    """
    if code is None or code is CloseReason.NO_STATUS_RCVD:
        return None
    return CloseReason.NORMAL_CLOSURE if code in LOCAL_ONLY_CLOSE_REASONS else code


class RsvBits(NamedTuple):
    """The three reserved bits of a frame (RFC 6455 §5.2)."""

    rsv1: bool
    rsv2: bool
    rsv3: bool


class ParseFailed(WsprotoSipError):
    """A received frame broke the protocol; it becomes a ``CloseConnection`` event.

    Args:
        msg: What was wrong; it becomes the close reason.
        code: The code to fail the connection with.
    """

    def __init__(self, msg: str, code: int = CloseReason.PROTOCOL_ERROR) -> None:
        super().__init__(msg)
        self.code = code


def parse_close(payload: bytes) -> CloseConnection:
    """Parse the body of a close frame (RFC 6455 §5.5.1).

    Args:
        payload: The unmasked bytes.

    Returns:
        The event, with code 1005 if the body is empty (§7.1.5). A code that has a name is a
        ``CloseReason``.

    Raises:
        ParseFailed: The body is a single byte, or the code may not be sent in a frame (§7.4).
        UnicodeDecodeError: The reason is not UTF-8.
    """
    if not payload:
        return CloseConnection(CloseReason.NO_STATUS_RCVD, "")
    if len(payload) == 1:
        raise ParseFailed("close frame with a body of one byte")
    code = int.from_bytes(payload[:2])
    if not is_close_code(code):
        raise ParseFailed(f"close code {code} may not be sent in a frame")
    return CloseConnection(_MEMBERS.get(code, code), payload[2:].decode())


_pack_short = Struct(">BB").pack
_pack_medium = Struct(">BBH").pack
_pack_long = Struct(">BBQ").pack
_pack_short_masked = Struct(">BB4s").pack
_pack_medium_masked = Struct(">BBH4s").pack
_pack_long_masked = Struct(">BBQ4s").pack
_pack_code = Struct(">H").pack


def encode_frame(first_byte: int, payload: bytes, key: bytes | None = None) -> bytes:
    """Encode one frame (RFC 6455 §5.2), with its length in the shortest form.

    Args:
        first_byte: FIN, the reserved bits and the opcode.
        payload: The unmasked bytes.
        key: The masking key of a client's frame; ``None`` leaves the frame unmasked.

    Returns:
        The frame.
    """
    size = len(payload)
    if key is None:
        if size < 126:
            return _pack_short(first_byte, size) + payload
        if size < 65536:
            return _pack_medium(first_byte, 126, size) + payload
        return _pack_long(first_byte, 127, size) + payload
    if size < 126:
        head = _pack_short_masked(first_byte, 0x80 | size, key)
    elif size < 65536:
        head = _pack_medium_masked(first_byte, 0xFE, size, key)
    else:
        head = _pack_long_masked(first_byte, 0xFF, size, key)
    if joining:
        return joining[0](head, bytes(payload), key)
    return head + apply_mask(payload, key)


_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)

#: The first two bytes of a server's whole message of fewer than 126 bytes.
_TEXT_HEADS: Final = [bytes((0x80 | _TEXT, size)) for size in range(126)]
_BINARY_HEADS: Final = [bytes((0x80 | _BINARY, size)) for size in range(126)]
#: The same as one number, for up to 65,535 bytes; the length follows.
_TEXT_HEAD: Final = (0x80 | _TEXT) << 8 | 126
_BINARY_HEAD: Final = (0x80 | _BINARY) << 8 | 126
_pack_two = Struct(">HH").pack


def _bytes_of(data: BytesLike) -> bytes:
    """Convert bytes-like data, and nothing else, to bytes."""
    return data if type(data) is bytes else bytes(memoryview(data))


class FrameEncoder:
    """Encodes the frames of one connection.

    Args:
        client: Whether this is the client, whose frames are masked (RFC 6455 §5.3).
        keys: Where masking keys come from.
        deflate: permessage-deflate, if it is the only extension in use.
        extensions: Otherwise, the extensions in use, in the order in which they were accepted.
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
        # Whether payloads are changed by a mask at most.
        self._unchanged = deflate is None and not extensions
        # The opcode of the message whose pieces are being sent; 0 between messages.
        self._opcode = 0

    def sharing(self) -> int | None:
        """Return which other connections would send a message in the same frame, byte for byte.

        Returns:
            0 without extensions; the window bits if each message is compressed on its own; ``None``
            if the frame is unique to this connection, because it is masked, compressed with earlier
            messages, or changed by other extensions.

        Raises:
            LocalProtocolError: A message is unfinished, so another one cannot be sent whole.
        """
        if self._opcode:
            raise LocalProtocolError("a message cannot be sent inside another")
        if self.client or self._extensions:
            return None
        return 0 if self._deflate is None else self._deflate.standalone_window_bits

    def message(self, message: Message[str] | Message[bytes]) -> bytes:
        """Encode a message or its next piece as text or binary, by its class or otherwise its data.

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
        """Encode a text message or its next piece (RFC 6455 §5.6).

        Args:
            data: The text; bytes are taken as encoded text, and have to be valid UTF-8 on their
                own.
            fin: Whether this is the last piece.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: The text cannot be encoded, or a binary message is unfinished.
        """
        try:
            if isinstance(data, str):
                payload = data.encode()
            else:
                payload = _bytes_of(data)
                payload.isascii() or payload.decode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"text cannot be sent: {exc}") from exc
        # Most messages, with as few calls as possible.
        if fin and self._unchanged and not self._opcode:
            if self.client:
                return encode_frame(0x80 | _TEXT, payload, self._keys.next_key())
            size = len(payload)
            if size < 126:
                return _TEXT_HEADS[size] + payload
            if size < 65536:
                return _pack_two(_TEXT_HEAD, size) + payload
        return self._message(_TEXT, payload, fin)

    def binary(self, data: BytesLike, fin: bool = True) -> bytes:
        """Encode a binary message or its next piece (RFC 6455 §5.6).

        Args:
            data: The bytes.
            fin: Whether this is the last piece.

        Returns:
            One frame.

        Raises:
            LocalProtocolError: A text message is unfinished.
        """
        payload = _bytes_of(data)
        if fin and self._unchanged and not self._opcode:
            if self.client:
                return encode_frame(0x80 | _BINARY, payload, self._keys.next_key())
            size = len(payload)
            if size < 126:
                return _BINARY_HEADS[size] + payload
            if size < 65536:
                return _pack_two(_BINARY_HEAD, size) + payload
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
        # RFC 6455 §9.1: the first accepted extension is the one nearest to the application.
        for extension in self._extensions:
            rsv, payload = extension.frame_outbound(self, opcode, rsv, payload, fin)
        return rsv.rsv1 << 6 | rsv.rsv2 << 5 | rsv.rsv3 << 4, payload

    def control(self, opcode: Opcode, payload: BytesLike) -> bytes:
        """Encode a Ping or Pong frame (RFC 6455 §5.5).

        Args:
            opcode: The frame's opcode.
            payload: At most 125 bytes.

        Returns:
            The frame.

        Raises:
            LocalProtocolError: The payload is too long.
        """
        return self._control(opcode, _bytes_of(payload))

    def _control(self, opcode: Opcode, payload: bytes) -> bytes:
        rsv = 0
        if self._extensions:
            rsv, payload = self._run_extensions(opcode, payload, True)
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise LocalProtocolError(
                f"a control frame carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}"
            )
        return self._frame(0x80 | rsv | opcode, payload)

    def close(self, code: int | None, reason: str | None) -> bytes:
        """Encode a close frame (RFC 6455 §5.5.1).

        Args:
            code: The status code; see :func:`wire_code` for codes that are not sent as they are.
            reason: The reason, cut between characters to 123 bytes.

        Returns:
            The frame.

        Raises:
            LocalProtocolError: The code may not be sent in a frame, there is a reason without a
                code, or the reason cannot be encoded.
            TypeError: The code is not an integer, or the reason is not text.
        """
        if not isinstance(code, int | None):
            raise TypeError(f"a close code must be an integer or None: {code!r:.100}")
        code = wire_code(code)
        if code is None:
            if reason:
                raise LocalProtocolError("a close frame cannot carry a reason without a code")
            return self._control(Opcode.CLOSE, b"")
        if not is_close_code(code):
            raise LocalProtocolError(f"close code {int(code)} may not be sent")
        if not isinstance(reason, str | None):
            raise TypeError(f"a close reason must be text or None: {reason!r:.100}")
        try:
            raw = bytes(reason or "", "utf-8")
        except UnicodeError as exc:
            raise LocalProtocolError(f"close reason cannot be sent: {exc}") from exc
        if len(raw) > MAX_REASON_BYTES:
            # Continuation bytes are 10xxxxxx: step back to the start of a character.
            end = MAX_REASON_BYTES
            while raw[end] & 0xC0 == 0x80:
                end -= 1
            raw = raw[:end]
        return self._control(Opcode.CLOSE, _pack_code(code) + raw)

    def _frame(self, first_byte: int, payload: bytes) -> bytes:
        return encode_frame(first_byte, payload, self._keys.next_key() if self.client else None)

"""Extensions of the protocol (RFC 6455 §9), and the one everybody speaks: permessage-deflate.

Theory of operation: an extension is negotiated first, as text in ``Sec-WebSocket-Extensions``, and
then sees every frame through four hooks. permessage-deflate alone is the common case, for which the
engine calls :meth:`PerMessageDeflate.decompress` and :meth:`PerMessageDeflate.outbound` itself; the
hooks do the same by way of the same methods. The octets are handled in ``_deflate``.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from ._deflate import FULL_WINDOW, DeflateCodec, InflateError, deflate_message
from .frame_protocol import CloseReason, Opcode, RsvBits
from .limits import Limits
from .utilities import LocalProtocolError, RemoteProtocolError

__all__ = [
    "SUPPORTED_EXTENSIONS",
    "Extension",
    "HasRole",
    "InflateError",
    "PerMessageDeflate",
    "deflate_message",
]


class HasRole(Protocol):
    """What the hooks of an extension may ask of the connection they are called from."""

    @property
    def client(self) -> bool:
        """Whether this end of the connection is the client."""
        ...


class Extension:
    """Base of all extensions (RFC 6455 §9): does nothing, and does it transparently.

    Override what the extension needs. One object serves one connection: first it negotiates
    (:meth:`offer` and :meth:`finalize` on a client, :meth:`accept` on a server), then its frame
    hooks see all frames in both directions, if it is :meth:`enabled`.

    Receiving, each frame passes ``frame_inbound_header`` once, ``frame_inbound_payload_data`` for
    every piece of its payload as it arrives, and ``frame_inbound_complete`` when the payload is
    over. A hook refuses the frame by returning the :class:`CloseReason` to fail the connection
    with. Sending, each frame passes ``frame_outbound``.
    """

    __slots__ = ()

    #: The registered token that stands for the extension in ``Sec-WebSocket-Extensions``.
    name: str

    def enabled(self) -> bool:
        """Whether it was negotiated, so that its hooks are to be called."""
        return False

    def offer(self) -> bool | str:
        """What a client offers (RFC 6455 §9.1).

        Returns:
            The parameters as text, without the name; True to offer the name alone; False to offer
            nothing.
        """
        return False

    def accept(self, offer: str) -> bool | str | None:
        """Decides, on a server, on one offer of the client.

        Args:
            offer: The offer, name and parameters.

        Returns:
            The parameters of the response as text, without the name; True to accept with the name
            alone; False or None to decline.
        """
        return None

    def finalize(self, offer: str) -> None:
        """Takes over, on a client, what the server accepted.

        Args:
            offer: The server's response, name and parameters.

        Raises:
            RemoteProtocolError: The response does not fit what was offered.
        """

    def frame_inbound_header(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Sees the header of a received frame.

        Args:
            proto: Tells the role.
            opcode: What the frame is.
            rsv: Its reserved bits.
            payload_length: The octets of its payload.

        Returns:
            The reserved bits that may be set on this frame as far as this extension is concerned,
            or the code to fail the connection with.
        """
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: HasRole, data: bytes) -> bytes | CloseReason:
        """Transforms a piece of a received payload.

        Args:
            proto: Tells the role.
            data: The octets, unmasked.

        Returns:
            What to pass on, or the code to fail the connection with.
        """
        return data

    def frame_inbound_complete(self, proto: HasRole, fin: bool) -> bytes | CloseReason | None:
        """Sees the end of a received frame.

        Args:
            proto: Tells the role.
            fin: Whether the frame ends its message.

        Returns:
            Octets to add to the payload, None for none, or the code to fail the connection with.
        """
        return None

    def frame_outbound(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Transforms a frame that is about to be sent.

        Args:
            proto: Tells the role.
            opcode: What the frame is.
            rsv: Its reserved bits as set so far.
            data: Its payload.
            fin: Whether it ends its message.

        Returns:
            The reserved bits and the payload to send.
        """
        return rsv, data


# -- negotiation -----------------------------------------------------------------------------------

_NAME: Final = "permessage-deflate"
_CLIENT_RESETS: Final = "client_no_context_takeover"
_SERVER_RESETS: Final = "server_no_context_takeover"
_CLIENT_WINDOW: Final = "client_max_window_bits"
_SERVER_WINDOW: Final = "server_max_window_bits"
_PARAMETERS: Final = (_CLIENT_RESETS, _SERVER_RESETS, _CLIENT_WINDOW, _SERVER_WINDOW)

#: RFC 7692 §7.1.2: a decimal integer from 8 to 15 without leading zeros; anything else is no value.
_WINDOW_VALUES: Final = {str(bits): bits for bits in range(8, 16)}

#: RFC 6455 §9.1 lets a value be quoted as long as it is a token underneath.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def _parse(text: str, response: bool) -> dict[str, int | None]:
    """Reads an offer or a response strictly (RFC 6455 §9.1, RFC 7692 §7.1).

    Args:
        text: Name and parameters.
        response: Whether it is a response, where a window always needs a value.

    Returns:
        The parameters that are there: a window's bits, or None for what has no value.

    Raises:
        ValueError: Anything that RFC 7692 §7 has declined: a parameter that is unknown or there
            twice, or a value that is wrong, missing or too many.
    """
    name, *items = text.split(";")
    if name.strip(" \t") != _NAME:
        raise ValueError(f"{name[:40]!a} is not {_NAME}")
    found: dict[str, int | None] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip(" \t")
        if name not in _PARAMETERS:
            raise ValueError(f"unknown parameter {name[:40]!a}")
        if name in found:
            raise ValueError(f"{name} is there twice")
        if not equals:
            if name == _SERVER_WINDOW or (name == _CLIENT_WINDOW and response):
                raise ValueError(f"{name} has no value")
            found[name] = None
            continue
        if name in (_CLIENT_RESETS, _SERVER_RESETS):
            raise ValueError(f"{name} has a value")
        value = value.strip(" \t")
        if quoted := _QUOTED.fullmatch(value):
            value = _ESCAPE.sub(r"\1", quoted[1])
        if value not in _WINDOW_VALUES:
            raise ValueError(f"{name} is {value[:40]!a}, not a number from 8 to 15")
        found[name] = _WINDOW_VALUES[value]
    return found


def _checked_window(bits: int) -> int:
    if bits not in range(8, 16):
        raise ValueError(f"a window has 8 to 15 bits, not {bits!r}")
    return bits


class PerMessageDeflate(DeflateCodec, Extension):
    """permessage-deflate (RFC 7692), either role.

    One object serves one connection, and the first offer of it that is accepted counts: afterwards
    :meth:`accept` declines, :meth:`offer` and :meth:`finalize` raise.

    What is negotiated, when nothing is asked for here: a server compresses within a window of
    ``default_window_bits`` and says so, and asks the same of a client that lets it. A client
    announces that window for itself and leaves the server's alone, because servers in wide use
    answer an offer that bounds it without bounding it.

    A window of 8 bits, for which zlib has no raw deflater, is honoured by compressing repetitions
    of single octets only; for inflating it is a window like the others.

    Args:
        client_no_context_takeover: Each message of the client is compressed by itself.
        client_max_window_bits: The largest window for the client's messages, 8 to 15 (a power of
            two); None for the default above. A client that does not let the server choose uses 15.
        server_no_context_takeover: Each message of the server is compressed by itself.
        server_max_window_bits: The largest window for the server's messages, likewise.
        default_window_bits: The window where none is given, 8 to 15.
        mem_level: zlib's memory level for compressing, 1 to 9.
        level: zlib's effort for compressing, 0 to 9.
        min_size: Messages of fewer octets are sent as they are, unless they are sent in pieces. 0
            compresses all. Without context takeover text of less than about 40 octets does not get
            any shorter; with it, anything does.

    Raises:
        ValueError: A number is out of range.
    """

    __slots__ = (
        "_bound",
        "_client_max_window_bits",
        "_enabled",
        "_frame_compressed",
        "_message_compressed",
        "_sending_compressed",
        "_server_max_window_bits",
        "client_no_context_takeover",
        "default_window_bits",
        "min_size",
        "server_no_context_takeover",
    )

    name = _NAME

    def __init__(
        self,
        client_no_context_takeover: bool = False,
        client_max_window_bits: int | None = None,
        server_no_context_takeover: bool = False,
        server_max_window_bits: int | None = None,
        *,
        default_window_bits: int = 12,
        mem_level: int = 4,
        level: int = 6,
        min_size: int = 0,
    ) -> None:
        if mem_level not in range(1, 10):
            raise ValueError(f"mem_level is 1 to 9, not {mem_level!r}")
        if level not in range(10):
            raise ValueError(f"level is 0 to 9, not {level!r}")
        if min_size < 0:
            raise ValueError(f"min_size must not be negative: {min_size!r}")
        super().__init__(level, mem_level)
        self.client_no_context_takeover = client_no_context_takeover
        self.server_no_context_takeover = server_no_context_takeover
        self._client_max_window_bits: int | None = None
        self._server_max_window_bits: int | None = None
        if client_max_window_bits is not None:
            self.client_max_window_bits = client_max_window_bits
        if server_max_window_bits is not None:
            self.server_max_window_bits = server_max_window_bits
        self.default_window_bits = _checked_window(default_window_bits)
        self.min_size = min_size
        self._enabled = False
        self._sending_compressed = False
        # What the hooks know of the frame and the message at hand.
        self._frame_compressed = False
        self._message_compressed = False

    def __repr__(self) -> str:
        words = [
            f"{_CLIENT_WINDOW}={self.client_max_window_bits}",
            f"{_SERVER_WINDOW}={self.server_max_window_bits}",
        ]
        if self.client_no_context_takeover:
            words.append(_CLIENT_RESETS)
        if self.server_no_context_takeover:
            words.append(_SERVER_RESETS)
        return f"<{type(self).__name__} {'; '.join(words)}>"

    @property
    def client_max_window_bits(self) -> int:
        """The window of the client's messages, as a power of two.

        Once negotiated, what counts; before, what is asked for, 15 for nothing. Setting it is for
        before.

        Raises:
            ValueError: On setting: not a number from 8 to 15.
        """
        return self._client_max_window_bits or FULL_WINDOW

    @client_max_window_bits.setter
    def client_max_window_bits(self, value: int) -> None:
        self._client_max_window_bits = _checked_window(value)

    @property
    def server_max_window_bits(self) -> int:
        """The window of the server's messages, likewise.

        Raises:
            ValueError: On setting: not a number from 8 to 15.
        """
        return self._server_max_window_bits or FULL_WINDOW

    @server_max_window_bits.setter
    def server_max_window_bits(self, value: int) -> None:
        self._server_max_window_bits = _checked_window(value)

    @property
    def standalone_window_bits(self) -> int | None:
        """The window of messages that may be compressed elsewhere, by :func:`deflate_message`.

        None where the peer's inflater counts on what this connection has sent before, and before
        the negotiation.
        """
        return self._deflate_window if self._enabled and self._deflate_resets else None

    def set_limits(self, limits: Limits) -> None:
        """Sets the bounds on inflating; those of ``Limits()`` hold before.

        Args:
            limits: Of which count ``max_inflate_ratio`` and ``inflate_ratio_floor``, and
                ``max_message_size`` where the frame hooks are used.
        """
        super().set_limits(limits)
        self._bound = limits.max_message_size

    # -- negotiation -------------------------------------------------------------------------------

    def enabled(self) -> bool:
        """Whether it was negotiated."""
        return self._enabled

    def offer(self) -> str:
        """The parameters that a client offers (RFC 7692 §7.1).

        Returns:
            Text without the name. The client's window is always in it, so that the server may ask
            for a smaller one.

        Raises:
            LocalProtocolError: The object already serves a connection.
        """
        if self._enabled:
            raise LocalProtocolError(f"this {_NAME} already serves a connection: make a new one")
        bits = self._client_max_window_bits or self.default_window_bits
        words = [_CLIENT_WINDOW if bits == FULL_WINDOW else f"{_CLIENT_WINDOW}={bits}"]
        # A full window is no bound; saying so could only make a server decline.
        if self.server_max_window_bits < FULL_WINDOW:
            words.append(f"{_SERVER_WINDOW}={self.server_max_window_bits}")
        if self.client_no_context_takeover:
            words.append(_CLIENT_RESETS)
        if self.server_no_context_takeover:
            words.append(_SERVER_RESETS)
        return "; ".join(words)

    def accept(self, offer: str) -> str | None:
        """Accepts or declines one offer (RFC 7692 §5, §7.1).

        Args:
            offer: The offer, name and parameters.

        Returns:
            The parameters of the response, without the name, or None to decline; declining changes
            nothing.
        """
        if self._enabled:
            return None
        try:
            asked = _parse(offer, response=False)
        except ValueError:
            return None
        words = []
        client_resets = self.client_no_context_takeover or _CLIENT_RESETS in asked
        if client_resets:
            words.append(_CLIENT_RESETS)
        server_resets = self.server_no_context_takeover or _SERVER_RESETS in asked
        if server_resets:
            words.append(_SERVER_RESETS)
        client_bits = FULL_WINDOW
        if _CLIENT_WINDOW in asked:
            # §7.1.2.2: only a client that names the parameter can be asked for a window.
            client_bits = min(
                asked[_CLIENT_WINDOW] or FULL_WINDOW,
                self._client_max_window_bits or self.default_window_bits,
            )
            words.append(f"{_CLIENT_WINDOW}={client_bits}")
        server_bits = min(
            asked.get(_SERVER_WINDOW) or FULL_WINDOW,
            self._server_max_window_bits or self.default_window_bits,
        )
        # §7.1.2.1: repeated to a client that asked, and told to one that did not.
        if server_bits < FULL_WINDOW or _SERVER_WINDOW in asked:
            words.append(f"{_SERVER_WINDOW}={server_bits}")
        self._settle(False, client_resets, client_bits, server_resets, server_bits)
        return "; ".join(words)

    def finalize(self, offer: str) -> None:
        """Takes over the server's response to the offer (RFC 7692 §5, §7.1).

        Args:
            offer: The response, name and parameters.

        Raises:
            RemoteProtocolError: The response is malformed or outside the offer, or the second one.
        """
        if self._enabled:
            raise RemoteProtocolError(f"the server accepted {_NAME} twice")
        try:
            answer = _parse(offer, response=True)
        except ValueError as exc:
            raise RemoteProtocolError(f"bad answer to {_NAME}: {exc}") from exc
        # §7.1.2.2: a client that named a window keeps to it also where the answer has none.
        client_limit = self._client_max_window_bits or self.default_window_bits
        client_bits = answer.get(_CLIENT_WINDOW) or client_limit
        server_bits = answer.get(_SERVER_WINDOW) or FULL_WINDOW
        server_resets = _SERVER_RESETS in answer
        for name, bits, limit in (
            (_CLIENT_WINDOW, client_bits, client_limit),
            (_SERVER_WINDOW, server_bits, self.server_max_window_bits),
        ):
            if bits > limit:
                raise RemoteProtocolError(
                    f"bad answer to {_NAME}: {name} is {bits} where {limit} was offered"
                )
        if self.server_no_context_takeover and not server_resets:
            raise RemoteProtocolError(f"bad answer to {_NAME}: {_SERVER_RESETS} is missing")
        client_resets = self.client_no_context_takeover or _CLIENT_RESETS in answer
        self._settle(True, client_resets, client_bits, server_resets, server_bits)

    def _settle(
        self,
        client: bool,
        client_resets: bool,
        client_bits: int,
        server_resets: bool,
        server_bits: int,
    ) -> None:
        self.client_no_context_takeover = client_resets
        self.server_no_context_takeover = server_resets
        self._client_max_window_bits = client_bits
        self._server_max_window_bits = server_bits
        if client:
            self.configure(
                deflate_window=client_bits,
                deflate_resets=client_resets,
                inflate_window=server_bits,
                inflate_resets=server_resets,
            )
        else:
            self.configure(
                deflate_window=server_bits,
                deflate_resets=server_resets,
                inflate_window=client_bits,
                inflate_resets=client_resets,
            )
        self._enabled = True

    # -- sending -----------------------------------------------------------------------------------

    def outbound(self, data: bytes, *, first: bool, fin: bool) -> tuple[int, bytes]:
        """Prepares the payload of a data frame for sending.

        Args:
            data: The octets.
            first: Whether the frame begins its message.
            fin: Whether it ends it.

        Returns:
            The bit to set in the first octet of the frame, 0x40 (RSV1) or 0, and the payload. RSV1
            stands on the first frame of a compressed message (RFC 7692 §6.1).
        """
        if first:
            self._sending_compressed = not fin or len(data) >= self.min_size
        if not self._sending_compressed:
            return 0, data
        return (0x40 if first else 0), self.compress(data, fin)

    # -- the hooks, for use together with other extensions -----------------------------------------

    def frame_inbound_header(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Takes RSV1 of a message's first frame, and of no other (RFC 7692 §6.1)."""
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._message_compressed = self._frame_compressed = rsv.rsv1
            return RsvBits(True, False, False)
        if rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        self._frame_compressed = self._message_compressed and opcode is Opcode.CONTINUATION
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: HasRole, data: bytes) -> bytes | CloseReason:
        """Inflates a piece of a compressed message."""
        return self._inflate_hook(data, False) if self._frame_compressed else data

    def frame_inbound_complete(self, proto: HasRole, fin: bool) -> bytes | CloseReason | None:
        """Ends the inflating of a compressed message."""
        return self._inflate_hook(b"", True) if fin and self._frame_compressed else None

    def _inflate_hook(self, data: bytes, finished: bool) -> bytes | CloseReason:
        try:
            return self.decompress(
                data, finished, None if self._bound is None else self._bound - self._given
            )
        except InflateError as exc:
            return exc.code

    def frame_outbound(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Compresses the payload of a data frame."""
        if opcode.iscontrol():
            return rsv, data
        bit, data = self.outbound(data, first=opcode is not Opcode.CONTINUATION, fin=fin)
        return rsv._replace(rsv1=bool(bit)), data


#: The extensions that this package brings, by name.
SUPPORTED_EXTENSIONS: Final = {PerMessageDeflate.name: PerMessageDeflate}

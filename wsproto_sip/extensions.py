"""Extensions of the protocol (RFC 6455 §9), and the common one: permessage-deflate.

Theory of operation: an extension is first negotiated, as text in ``Sec-WebSocket-Extensions``, and
then sees every frame through four hooks. permessage-deflate alone is the common case: the engine
calls :meth:`PerMessageDeflate.decompress` and :meth:`PerMessageDeflate.outbound` directly, and the
hooks call the same methods. The compression itself is in ``_deflate``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Protocol

from ._deflate import FULL_WINDOW, DeflateCodec, InflateError, deflate_message
from .frame_protocol import CloseReason, Opcode, RsvBits
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
    """What a hook may ask of the connection that calls it."""

    @property
    def client(self) -> bool:
        """Whether this end of the connection is the client."""
        ...


class Extension:
    """Base class of all extensions (RFC 6455 §9): does nothing.

    Override what the extension needs. One object serves one connection: first it negotiates
    (:meth:`offer` and :meth:`finalize` on a client, :meth:`accept` on a server), then its frame
    hooks see all frames in both directions, if it is :meth:`enabled`.

    For each received frame, ``frame_inbound_header`` is called once, ``frame_inbound_payload_data``
    for every piece of its payload as it arrives, and ``frame_inbound_complete`` at the end of the
    payload. A hook refuses the frame by returning the :class:`CloseReason` to fail the connection
    with. For each frame to be sent, ``frame_outbound`` is called.
    """

    __slots__ = ()

    #: The registered token that identifies the extension in ``Sec-WebSocket-Extensions``.
    name: str

    def enabled(self) -> bool:
        """Return whether the extension was negotiated, so that its hooks are called."""
        return False

    def offer(self) -> bool | str:
        """Return a client's offer (RFC 6455 §9.1).

        Returns:
            The parameters as text, without the name; True to offer the name alone; False to offer
            nothing.
        """
        return False

    def accept(self, offer: str) -> bool | str | None:
        """Answer one offer of the client, on a server.

        Args:
            offer: The offer: name and parameters.

        Returns:
            The parameters of the response as text, without the name; True to accept with the name
            alone; ``False`` or ``None`` to decline.
        """
        return None

    def finalize(self, offer: str) -> None:
        """Apply the server's response, on a client.

        Args:
            offer: The response: name and parameters.

        Raises:
            RemoteProtocolError: The response does not match the offer.
        """

    def frame_inbound_header(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Inspect the header of a received frame.

        Args:
            proto: Tells which end this is.
            opcode: The frame's opcode.
            rsv: Its reserved bits.
            payload_length: The length of its payload in bytes.

        Returns:
            The reserved bits that this extension allows on this frame, or the code to fail the
            connection with.
        """
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: HasRole, data: bytes) -> bytes | CloseReason:
        """Transform a piece of a received payload.

        Args:
            proto: Tells which end this is.
            data: The unmasked bytes.

        Returns:
            The bytes to pass on, or the code to fail the connection with.
        """
        return data

    def frame_inbound_complete(self, proto: HasRole, fin: bool) -> bytes | CloseReason | None:
        """Handle the end of a received frame.

        Args:
            proto: Tells which end this is.
            fin: Whether the frame ends its message.

        Returns:
            Bytes to append to the payload, ``None`` for none, or the code to fail the connection
            with.
        """
        return None

    def frame_outbound(
        self, proto: HasRole, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        """Transform a frame to be sent.

        Args:
            proto: Tells which end this is.
            opcode: The frame's opcode.
            rsv: Its reserved bits as set so far.
            data: Its payload.
            fin: Whether the frame ends its message.

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

#: RFC 7692 §7.1.2: a decimal integer from 8 to 15 without leading zeros.
_WINDOWS: Final = range(8, 16)
_WINDOW_VALUES: Final = {str(bits): bits for bits in _WINDOWS}
#: zlib's.
_MEM_LEVELS: Final = range(1, 10)
_LEVELS: Final = range(10)

#: RFC 6455 §9.1 allows a quoted value if the unquoted text is a token.
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def _parse(text: str, response: bool) -> dict[str, int | None]:
    """Parse an offer or a response strictly (RFC 6455 §9.1, RFC 7692 §7.1).

    Args:
        text: Name and parameters.
        response: Whether it is a response, in which a window always needs a value.

    Returns:
        The parameters: a window's bits, or ``None`` for a parameter without a value.

    Raises:
        ValueError: Anything for which RFC 7692 §7 requires declining: an unknown or repeated
            parameter, or a wrong, missing or superfluous value.
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
            raise ValueError(f"{name} is repeated")
        if not equals:
            if name == _SERVER_WINDOW or (name == _CLIENT_WINDOW and response):
                raise ValueError(f"{name} has no value")
            found[name] = None
            continue
        if name in (_CLIENT_RESETS, _SERVER_RESETS):
            raise ValueError(f"{name} must not have a value")
        value = value.strip(" \t")
        if quoted := _QUOTED.fullmatch(value):
            value = _ESCAPE.sub(r"\1", quoted[1])
        if value not in _WINDOW_VALUES:
            raise ValueError(f"{name} is {value[:40]!a}, not a number from 8 to 15")
        found[name] = _WINDOW_VALUES[value]
    return found


#: The longest offer whose answer is cached.
_CACHED_SIZE: Final = 256


# Almost all clients make the same few offers. The number of entries and the length of an offer are
# bounded, so a flood of different offers holds less than 100 KiB, and each costs one insertion.
@lru_cache(maxsize=64, typed=True)
def _answer(
    offer: str,
    client_resets: bool,
    server_resets: bool,
    client_most: int,
    server_most: int,
) -> tuple[str, bool, int, bool, int] | None:
    """Answer an offer (RFC 7692 §7.1).

    Args:
        offer: The offer: name and parameters.
        client_resets: Whether we want each message of the client compressed on its own.
        server_resets: Whether we compress each of our messages on its own.
        client_most: The largest window we want for the client's messages.
        server_most: The largest window of our messages.

    Returns:
        The parameters of the response; and, for the client and the server each, whether messages
        are compressed on their own, and the window. ``None`` to decline.
    """
    try:
        asked = _parse(offer, response=False)
    except ValueError:
        return None
    words = []
    client_resets = client_resets or _CLIENT_RESETS in asked
    if client_resets:
        words.append(_CLIENT_RESETS)
    server_resets = server_resets or _SERVER_RESETS in asked
    if server_resets:
        words.append(_SERVER_RESETS)
    client_bits = FULL_WINDOW
    if _CLIENT_WINDOW in asked:
        # §7.1.2.2: a server may only send the parameter to a client that has named it.
        client_bits = min(asked[_CLIENT_WINDOW] or FULL_WINDOW, client_most)
        words.append(f"{_CLIENT_WINDOW}={client_bits}")
    server_bits = min(asked.get(_SERVER_WINDOW) or FULL_WINDOW, server_most)
    # §7.1.2.1: echoed to a client that asked for it, and announced to one that did not.
    if server_bits < FULL_WINDOW or _SERVER_WINDOW in asked:
        words.append(f"{_SERVER_WINDOW}={server_bits}")
    return "; ".join(words), client_resets, client_bits, server_resets, server_bits


def _checked_window(bits: int) -> int:
    if bits not in _WINDOWS:
        raise ValueError(f"window bits must be 8 to 15, not {bits!r}")
    return bits


class PerMessageDeflate(DeflateCodec, Extension):
    """The permessage-deflate extension (RFC 7692), for both roles.

    One object serves one connection, and the first accepted offer counts: afterwards :meth:`accept`
    declines, and :meth:`offer` and :meth:`finalize` raise. The connection that uses the object
    determines which end it compresses for (:meth:`set_role`), not the method that negotiated the
    parameters: a proxy gives the server's answer to :meth:`finalize` and serves its client with the
    result.

    By default, a server compresses within a window of ``default_window_bits`` and says so, and asks
    the same of a client that allows it. A client lets the server choose its window, as browsers do,
    compresses within ``default_window_bits`` if the server allows more, and does not limit the
    server's window, because widely used servers accept such a limit without honouring it.

    A window of 8 bits, for which zlib has no raw deflater, is honoured by compressing only
    repetitions of single bytes; for inflating it works like any other window.

    Args:
        client_no_context_takeover: Whether each message of the client is compressed on its own.
        client_max_window_bits: The largest window for the client's messages, 8 to 15 (a power of
            two); ``None`` for the default described above.
        server_no_context_takeover: Whether each message of the server is compressed on its own.
        server_max_window_bits: The largest window for the server's messages, likewise.
        default_window_bits: The window if none is given, 8 to 15.
        mem_level: zlib's memory level for compressing, 1 to 9.
        level: zlib's compression level, 0 to 9.
        min_size: Messages of fewer bytes are sent uncompressed, unless they are sent in pieces. 0
            compresses all. Without context takeover, text of less than about 40 bytes does not get
            shorter; with it, any message can.

    Raises:
        ValueError: A number is out of range.
    """

    __slots__ = (
        "_client",
        "_client_bits",
        "_client_wish",
        "_enabled",
        "_frame_compressed",
        "_message_compressed",
        "_offered",
        "_sending_compressed",
        "_server_bits",
        "_server_wish",
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
        if mem_level not in _MEM_LEVELS:
            raise ValueError(f"mem_level must be 1 to 9, not {mem_level!r}")
        if level not in _LEVELS:
            raise ValueError(f"level must be 0 to 9, not {level!r}")
        if min_size < 0:
            raise ValueError(f"min_size must not be negative: {min_size!r}")
        super().__init__(level, mem_level)
        self.client_no_context_takeover = client_no_context_takeover
        self.server_no_context_takeover = server_no_context_takeover
        # The windows that were requested here, and those that were negotiated.
        self._client_wish: int | None = None
        self._server_wish: int | None = None
        self._client_bits: int | None = None
        self._server_bits: int | None = None
        if client_max_window_bits is not None:
            self.client_max_window_bits = client_max_window_bits
        if server_max_window_bits is not None:
            self.server_max_window_bits = server_max_window_bits
        self.default_window_bits = _checked_window(default_window_bits)
        self.min_size = min_size
        self._offered = False
        self._enabled = False
        # Whether it compresses for the client; ``None`` until this is known.
        self._client: bool | None = None
        self._sending_compressed = False
        # What the hooks know about the current frame and message.
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
        """The window of the client's messages in bits, as a power of two.

        After the negotiation, the negotiated value; before it, the requested one, or 15. It can be
        set before the negotiation.

        Raises:
            ValueError: On setting: not an integer from 8 to 15.
        """
        return self._client_bits or self._client_wish or FULL_WINDOW

    @client_max_window_bits.setter
    def client_max_window_bits(self, value: int) -> None:
        self._client_wish = _checked_window(value)

    @property
    def server_max_window_bits(self) -> int:
        """The window of the server's messages, likewise.

        Raises:
            ValueError: On setting: not an integer from 8 to 15.
        """
        return self._server_bits or self._server_wish or FULL_WINDOW

    @server_max_window_bits.setter
    def server_max_window_bits(self, value: int) -> None:
        self._server_wish = _checked_window(value)

    @property
    def standalone_window_bits(self) -> int | None:
        """The window for messages compressed elsewhere, by :func:`deflate_message`.

        ``None`` if the peer's inflater depends on what this connection has sent before, and before
        the negotiation.
        """
        return self._deflate_window if self._enabled and self._deflate_resets else None

    # -- negotiation -------------------------------------------------------------------------------

    def enabled(self) -> bool:
        """Return whether the extension was negotiated."""
        return self._enabled

    def offer(self) -> str:
        """Return the parameters that a client offers (RFC 7692 §7.1).

        Returns:
            Text without the name. The client's window is always named, so that the server may ask
            for a smaller one (§7.1.2.2).

        Raises:
            LocalProtocolError: The object already serves a connection.
        """
        if self._enabled:
            raise LocalProtocolError(f"this {_NAME} already serves a connection: make a new one")
        self._offered = True
        bits = self._client_wish
        words = [_CLIENT_WINDOW if bits is None else f"{_CLIENT_WINDOW}={bits}"]
        if self._server_wish is not None:
            words.append(f"{_SERVER_WINDOW}={self._server_wish}")
        if self.client_no_context_takeover:
            words.append(_CLIENT_RESETS)
        if self.server_no_context_takeover:
            words.append(_SERVER_RESETS)
        return "; ".join(words)

    def accept(self, offer: str) -> str | None:
        """Accept or decline one offer (RFC 7692 §5, §7.1).

        Args:
            offer: The offer: name and parameters.

        Returns:
            The parameters of the response, without the name, or ``None`` to decline. Declining
            changes nothing.
        """
        if self._enabled:
            return None
        answer = (_answer if len(offer) <= _CACHED_SIZE else _answer.__wrapped__)(
            offer,
            self.client_no_context_takeover,
            self.server_no_context_takeover,
            self._client_wish or self.default_window_bits,
            self._server_wish or self.default_window_bits,
        )
        if answer is None:
            return None
        text, client_resets, client_bits, server_resets, server_bits = answer
        self._note_parameters(False, client_resets, client_bits, server_resets, server_bits)
        return text

    def finalize(self, offer: str) -> None:
        """Apply the server's response to the offer (RFC 7692 §5, §7.1).

        Without a previous :meth:`offer`, apply what two other parties have negotiated.

        Args:
            offer: The response: name and parameters.

        Raises:
            RemoteProtocolError: The response is malformed, exceeds the offer, or is the second one.
        """
        if self._enabled:
            raise RemoteProtocolError(f"the server accepted {_NAME} twice")
        try:
            answer = _parse(offer, response=True)
        except ValueError as exc:
            raise RemoteProtocolError(f"bad answer to {_NAME}: {exc}") from exc
        client_resets = self.client_no_context_takeover or _CLIENT_RESETS in answer
        server_resets = self.server_no_context_takeover or _SERVER_RESETS in answer
        client_bits = answer.get(_CLIENT_WINDOW) or FULL_WINDOW
        server_bits = answer.get(_SERVER_WINDOW) or FULL_WINDOW
        if self._offered:
            # §7.1.2.2: the window in an offer is a promise. A response with a larger window, or
            # with none, does not change it.
            client_bits = min(client_bits, self.client_max_window_bits)
            if server_bits > self.server_max_window_bits:
                raise RemoteProtocolError(
                    f"bad answer to {_NAME}: {_SERVER_WINDOW} is {server_bits} where "
                    f"{self.server_max_window_bits} was offered"
                )
            if _SERVER_RESETS not in answer and server_resets:
                raise RemoteProtocolError(f"bad answer to {_NAME}: {_SERVER_RESETS} is missing")
        self._note_parameters(True, client_resets, client_bits, server_resets, server_bits)

    def _note_parameters(
        self,
        client: bool,
        client_resets: bool,
        client_bits: int,
        server_resets: bool,
        server_bits: int,
    ) -> None:
        self.client_no_context_takeover = client_resets
        self.server_no_context_takeover = server_resets
        self._client_bits = client_bits
        self._server_bits = server_bits
        self._enabled = True
        # Nearly always right; the connection corrects it otherwise.
        self.set_role(client)

    def set_role(self, client: bool) -> None:
        """Set which end of the connection this is: the end whose messages it compresses.

        Call it before the first message; connections and the hooks do so.

        Args:
            client: Whether this is the client's end.
        """
        self._client = client
        # A window is an upper bound: our deflater may use less.
        client_bits = self._client_bits or self._client_wish or FULL_WINDOW
        server_bits = self._server_bits or self._server_wish or FULL_WINDOW
        if client:
            self.configure(
                deflate_window=min(client_bits, self._client_wish or self.default_window_bits),
                deflate_resets=self.client_no_context_takeover,
                inflate_window=server_bits,
                inflate_resets=self.server_no_context_takeover,
            )
        else:
            self.configure(
                deflate_window=min(server_bits, self._server_wish or self.default_window_bits),
                deflate_resets=self.server_no_context_takeover,
                inflate_window=client_bits,
                inflate_resets=self.client_no_context_takeover,
            )

    # -- sending -----------------------------------------------------------------------------------

    def outbound(self, data: bytes, *, first: bool, fin: bool) -> tuple[int, bytes]:
        """Prepare the payload of a data frame for sending.

        Args:
            data: The bytes.
            first: Whether the frame begins its message.
            fin: Whether the frame ends its message.

        Returns:
            The bit to set in the first byte of the frame, 0x40 (RSV1) or 0, and the payload. RSV1
            is set on the first frame of a compressed message (RFC 7692 §6.1).
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
        """Accept RSV1 on a message's first frame, and on no other (RFC 7692 §6.1)."""
        self._follow(proto)
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._message_compressed = self._frame_compressed = rsv.rsv1
        elif rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        else:
            self._frame_compressed = self._message_compressed and opcode is Opcode.CONTINUATION
        return RsvBits(True, False, False)

    def _follow(self, proto: HasRole) -> None:
        """Take the role from the connection that calls the hook."""
        if self._client is not proto.client:
            self.set_role(proto.client)

    def frame_inbound_payload_data(self, proto: HasRole, data: bytes) -> bytes | CloseReason:
        """Inflate a piece of a compressed message."""
        return self._inflate_hook(data, False) if self._frame_compressed else data

    def frame_inbound_complete(self, proto: HasRole, fin: bool) -> bytes | CloseReason | None:
        """Finish inflating a compressed message."""
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
        """Compress the payload of a data frame."""
        self._follow(proto)
        if opcode.iscontrol():
            return rsv, data
        bit, data = self.outbound(data, first=opcode is not Opcode.CONTINUATION, fin=fin)
        return rsv._replace(rsv1=bool(bit)), data


#: The extensions included in this package, by name.
SUPPORTED_EXTENSIONS: Final = {PerMessageDeflate.name: PerMessageDeflate}

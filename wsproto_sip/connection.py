"""One WebSocket connection, in wsproto's vocabulary (RFC 6455).

Theory of operation: :class:`Connection` is what is left when the handshake is over: a parser for
what comes, an encoder for what goes, and the closing handshake between them. Received octets are
parsed when they arrive; ``state`` follows when the closing event is *taken* from ``events()``, so
that messages of the same read can still be answered. :class:`WSConnection` puts the HTTP/1.1
handshake in front.

States and what moves them (RFC 6455 §4, §7.1):

=================  ======================  ==========================  =================
state              close frame sent        close frame or error taken  end of input taken
=================  ======================  ==========================  =================
``OPEN``           ``LOCAL_CLOSING``       ``REMOTE_CLOSING``          ``CLOSED``
``LOCAL_CLOSING``  refused                 ``CLOSED``                  ``CLOSED``
``REMOTE_CLOSING`` ``CLOSED``              nothing comes               ``REMOTE_CLOSING``
=================  ======================  ==========================  =================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ._masking import KeySource
from ._parser import FrameParser
from .events import BytesMessage, CloseConnection, Message, Ping, Pong, Request, TextMessage
from .extensions import PerMessageDeflate
from .frame_protocol import CloseReason, FrameEncoder, Opcode
from .handshake import H11Handshake
from .limits import STREAMING_LIMITS, Limits
from .states import ConnectionState, ConnectionType
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .events import Event
    from .extensions import Extension
    from .typing import BytesLike, Entropy, Headers

__all__ = ["Connection", "ConnectionState", "ConnectionType", "WSConnection"]

_OPEN = ConnectionState.OPEN
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_CLOSED = ConnectionState.CLOSED


class Connection:
    """An open connection: frames in, events out, and the other way round.

    Args:
        connection_type: Which end this is.
        extensions: The extensions in use, as the handshake left them.
        trailing_data: Octets that were received behind the handshake.
        limits: Bounds; by default those of :class:`~wsproto_sip.limits.Limits` with
            ``whole_messages`` and :data:`~wsproto_sip.limits.STREAMING_LIMITS` without.
        entropy: Source of masking keys.
        whole_messages: Whether events carry whole messages, instead of the pieces of messages as
            they arrive.
        text_as_bytes: Whether text messages are delivered as their UTF-8 octets, checked but not
            decoded.
        max_frames: Frames parsed at a time, the rest while ``events()`` is iterated.
    """

    __slots__ = ("_encoder", "_ended", "_parser", "_pending", "_receive", "_state", "connection_type", "extensions")

    def __init__(
        self,
        connection_type: ConnectionType,
        extensions: list[Extension] | None = None,
        trailing_data: bytes = b"",
        *,
        limits: Limits | None = None,
        entropy: Entropy = os.urandom,
        whole_messages: bool = False,
        text_as_bytes: bool = False,
        max_frames: int | None = None,
    ) -> None:
        if limits is None:
            limits = Limits() if whole_messages else STREAMING_LIMITS
        client = connection_type is ConnectionType.CLIENT
        in_use = [extension for extension in extensions or () if extension.enabled()]
        deflate: PerMessageDeflate | None = None
        for extension in in_use:
            if isinstance(extension, PerMessageDeflate):
                extension.set_limits(limits)
                deflate = extension
        if len(in_use) != 1:
            deflate = None
        chain = () if deflate is not None else in_use
        self.connection_type = connection_type
        self.extensions = in_use
        self._encoder = FrameEncoder(client, KeySource(entropy), deflate, chain)
        self._parser = FrameParser(
            client,
            limits,
            deflate,
            chain,
            whole_messages=whole_messages,
            text_as_bytes=text_as_bytes,
            max_frames=max_frames,
        )
        self._receive = self._parser.receive
        self._ended = False
        self._state = _OPEN
        # Events not taken yet. An iterator and not a list, so that what was taken is freed.
        self._pending: Iterator[Event] = iter(())
        if trailing_data:
            self.receive_data(trailing_data)

    @property
    def state(self) -> ConnectionState:
        """Where the connection is between open and closed."""
        return self._state

    def send(self, event: Event) -> bytes:
        """Turns an event into octets for the peer.

        Args:
            event: A message or a piece of one, ``Ping``, ``Pong`` or ``CloseConnection``.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents may not be sent at
                all; the connection is as it was.
            TypeError: It is not an event that a connection sends.
        """
        if isinstance(event, Message):
            # RFC 6455 §5.5.1: data may go out until our own close frame has; after an error of
            # the peer's nothing may but that (§7.1.7).
            if self._state is not _OPEN and (
                self._state is not _REMOTE_CLOSING or self._parser.failed
            ):
                raise self._refusal(event)
            data = event.data
            if isinstance(event, TextMessage) or isinstance(data, str):
                return self._encoder.text(data, event.message_finished)
            return self._encoder.binary(data, event.message_finished)
        if isinstance(event, CloseConnection):
            if self._state is not _OPEN and self._state is not _REMOTE_CLOSING:
                raise self._refusal(event)
            octets = self._encoder.close(event.code, event.reason)
            self._state = _LOCAL_CLOSING if self._state is _OPEN else _CLOSED
            return octets
        if isinstance(event, Ping | Pong):
            if self._state is not _OPEN:
                raise self._refusal(event)
            opcode = Opcode.PING if isinstance(event, Ping) else Opcode.PONG
            return self._encoder.control(opcode, event.payload)
        raise TypeError(f"not an event that an open connection sends: {event!r}")

    def _refusal(self, event: Event) -> LocalProtocolError:
        return LocalProtocolError(
            f"{type(event).__name__} cannot be sent in state {self._state.name}"
        )

    def receive_data(self, data: BytesLike | None) -> None:
        """Takes what the peer sent; :meth:`events` tells what it was.

        Args:
            data: Octets in any division; None at the end of input.
        """
        if data is None:
            self._ended = True
            if self._parser.paused:
                # What was received before comes first, when it is asked for.
                return
            events = self._parser.end_of_input()
        else:
            events = self._receive(data)
        if events:
            for first in self._pending:
                # What was not taken yet stays in front.
                events = [first, *self._pending, *events]
            self._pending = iter(events)

    def events(self) -> Iterator[Event]:
        """Gives the events not taken yet; what is left behind in a loop stays for the next call.

        Returns:
            An iterator. The last event of a connection is a ``CloseConnection``.
        """
        if self._parser.halted or self._ended:
            return self._last_events()
        return self._pending

    def _last_events(self) -> Iterator[Event]:
        parser = self._parser
        while True:
            for event in self._pending:
                if type(event) is CloseConnection:
                    self._closed_by(event)
                yield event
            if parser.paused:
                self._pending = iter(parser.receive(b""))
            elif self._ended and not parser.closed:
                self._pending = iter(parser.end_of_input())
            else:
                return

    def _closed_by(self, event: CloseConnection) -> None:
        # 1006 never stands in a frame: it is the end of input.
        if event.code == CloseReason.ABNORMAL_CLOSURE or self._state is _LOCAL_CLOSING:
            self._state = _CLOSED
        elif self._state is _OPEN:
            self._state = _REMOTE_CLOSING


class WSConnection:
    """The local end of a WebSocket connection, HTTP/1.1 handshake included.

    Args:
        connection_type: Which end this is.
        limits: Bounds; see :class:`Connection`.
        entropy: Source of masking keys and of the handshake's key.
        whole_messages: See :class:`Connection`.
        text_as_bytes: See :class:`Connection`.
        max_frames: See :class:`Connection`.
    """

    __slots__ = ("_connection", "_handshake", "_opening", "_options", "client")

    def __init__(
        self,
        connection_type: ConnectionType,
        *,
        limits: Limits | None = None,
        entropy: Entropy = os.urandom,
        whole_messages: bool = False,
        text_as_bytes: bool = False,
        max_frames: int | None = None,
    ) -> None:
        self.client = connection_type is ConnectionType.CLIENT
        self._options = _Options(limits, entropy, whole_messages, text_as_bytes, max_frames)
        self._handshake = H11Handshake(connection_type, limits=limits or Limits(), entropy=entropy)
        self._connection: Connection | None = None
        # Events of the handshake may not have been taken yet.
        self._opening = True

    @property
    def state(self) -> ConnectionState:
        """Where the connection is, from the handshake to the end."""
        if self._connection is None:
            return self._handshake.state
        return self._connection.state

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Takes a request that an HTTP server of the caller's has parsed (servers only).

        Args:
            headers: The request's header fields, in order.
            path: The request target, path and query.

        Raises:
            RemoteProtocolError: It is not a valid opening handshake (RFC 6455 §4.2.1).
            LocalProtocolError: This is a client, or a request was received already.
        """
        self._handshake.initiate_upgrade_connection(headers, path)

    def send(self, event: Event) -> bytes:
        """Turns an event into octets for the peer.

        Args:
            event: In the handshake ``Request`` (client), ``AcceptConnection``,
                ``RejectConnection`` or ``RejectData`` (server); then what
                :meth:`Connection.send` takes.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents may not be sent at
                all; the connection is as it was.
            TypeError: It is not an event that can be sent.
        """
        if self._connection is not None:
            return self._connection.send(event)
        octets = self._handshake.send(event)
        self._open()
        return octets

    def receive_data(self, data: BytesLike | None) -> None:
        """Takes what the peer sent; :meth:`events` tells what it was.

        Args:
            data: Octets in any division; None at the end of input.

        Raises:
            RemoteProtocolError: The handshake is not one; ``event_hint`` is the answer to send.
        """
        if self._connection is not None:
            self._connection.receive_data(data)
        else:
            self._handshake.receive_data(data)
            self._open()

    def events(self) -> Iterator[Event]:
        """Gives the events not taken yet; what is left behind in a loop stays for the next call.

        Returns:
            An iterator.
        """
        if self._opening:
            return self._first_events()
        assert self._connection is not None
        return self._connection.events()

    def _open(self) -> None:
        handshake = self._handshake
        if handshake.state is _OPEN:
            options = self._options
            self._connection = Connection(
                ConnectionType.CLIENT if self.client else ConnectionType.SERVER,
                handshake.accepted_extensions,
                handshake.trailing_data,
                limits=options.limits,
                entropy=options.entropy,
                whole_messages=options.whole_messages,
                text_as_bytes=options.text_as_bytes,
                max_frames=options.max_frames,
            )

    def _first_events(self) -> Iterator[Event]:
        yield from self._handshake.events()
        if self._connection is not None:
            self._opening = False
            yield from self._connection.events()


class _Options(NamedTuple):
    """What a WSConnection keeps for the Connection it will make."""

    limits: Limits | None
    entropy: Entropy
    whole_messages: bool
    text_as_bytes: bool
    max_frames: int | None

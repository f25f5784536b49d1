"""A connection together with its HTTP/1.1 handshake, in wsproto's vocabulary.

Theory of operation: a :class:`WSConnection` delegates to one of two objects, first to its
:class:`~wsproto_sip.handshake.H11Handshake` and, once that has succeeded, to the
:class:`~wsproto_sip.connection.Connection` created with the negotiated parameters.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .connection import Connection
from .handshake import H11Handshake
from .states import ConnectionState, ConnectionType
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .events import Event
    from .limits import Limits
    from .typing import BytesLike, Entropy, ParsedHeaders

__all__ = ["WSConnection"]

_OPEN = ConnectionState.OPEN


class WSConnection:
    """The local end of a WebSocket connection, including the HTTP/1.1 handshake.

    Args:
        connection_type: Which end this is.
        limits: See :class:`~wsproto_sip.connection.Connection`, as for the last three arguments.
        entropy: Source of masking keys and of the handshake's key.
        whole_messages: Whether events carry whole messages.
        text_as_bytes: Whether text messages are delivered as bytes.
        max_frames: How many frames to parse at a time.
    """

    __slots__ = ("_handshake", "_options", "_stage", "client")

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
        # For the connection.
        self._options = (
            connection_type,
            limits,
            entropy,
            whole_messages,
            text_as_bytes,
            max_frames,
        )
        # Kept until its events have been taken, possibly after it has ended.
        self._handshake: H11Handshake | None = H11Handshake(
            connection_type, limits=limits, entropy=entropy
        )
        self._stage: H11Handshake | Connection = self._handshake

    @property
    def state(self) -> ConnectionState:
        """The state of the connection, from the handshake to the end."""
        return self._stage.state

    def initiate_upgrade_connection(self, headers: ParsedHeaders, path: bytes | str) -> None:
        """Start from a request that the caller's HTTP server has parsed (servers only).

        Args:
            headers: The request's header fields, in order, as bytes or as text.
            path: The request target, path and query.

        Raises:
            RemoteProtocolError: It is not a valid opening handshake (RFC 6455 §4.2.1).
            LocalProtocolError: This is a client, or a request was received already.
        """
        if self._handshake is None:
            raise LocalProtocolError("a request was received already")
        self._handshake.initiate_upgrade_connection(headers, path)

    def send(self, event: Event) -> bytes:
        """Turn an event into bytes for the peer.

        Args:
            event: In the handshake ``Request`` (client), ``AcceptConnection``,
                ``RejectConnection`` or ``RejectData`` (server); then what
                :meth:`Connection.send() <wsproto_sip.connection.Connection.send>` takes.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents can never be sent.
                The connection is unchanged.
            TypeError: The argument is not an event that can be sent, and the connection is open.
        """
        raw = self._stage.send(event)
        if self._stage is self._handshake:
            self._follow(self._handshake)
        return raw

    def receive_data(self, data: BytesLike | None) -> None:
        """Take the next bytes from the peer; :meth:`events` returns the resulting events.

        Args:
            data: Bytes, split anywhere; ``None`` at the end of input.

        Raises:
            RemoteProtocolError: The handshake is invalid; ``event_hint`` is the answer to send.
        """
        self._stage.receive_data(data)
        if self._stage is self._handshake:
            self._follow(self._handshake)

    def events(self) -> Iterator[Event]:
        """Iterate over the events not taken yet; unread ones are left for the next call.

        Returns:
            An iterator.
        """
        if self._handshake is None:
            return self._stage.events()
        return self._first_events(self._handshake)

    def _follow(self, handshake: H11Handshake) -> None:
        if handshake.state is _OPEN:
            role, limits, entropy, whole_messages, text_as_bytes, max_frames = self._options
            self._stage = Connection(
                role,
                handshake.accepted_extensions,
                handshake.trailing_data,
                limits=limits,
                entropy=entropy,
                whole_messages=whole_messages,
                text_as_bytes=text_as_bytes,
                max_frames=max_frames,
            )

    def _first_events(self, handshake: H11Handshake) -> Iterator[Event]:
        yield from handshake.events()
        if self._stage is not handshake:
            self._handshake = None
            yield from self._stage.events()

"""One WebSocket connection, in wsproto's vocabulary (RFC 6455).

Theory of operation: :class:`Connection` is what remains after the handshake: a parser for received
bytes, an encoder for sent frames, and the closing handshake between them. Received bytes are parsed
when they arrive; ``state`` changes when the closing event is *taken* from ``events()``, so that
messages of the same read can still be answered.

The states and their transitions are those of :data:`~wsproto_sip.states.TRANSITIONS`.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from ._implementation import PARSER
from ._masking import KeySource
from .events import CloseConnection, Event, Message, Ping, Pong, TextMessage
from .extensions import PerMessageDeflate
from .frame_protocol import CloseReason, FrameEncoder, Opcode
from .limits import STREAMING_LIMITS, Limits
from .states import TRANSITIONS, ConnectionState, ConnectionType, Step
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._inbox import Inbox as INBOX
    from .extensions import Extension
    from .typing import Entropy
else:
    from ._implementation import INBOX

__all__ = [
    "CLIENT",
    "SERVER",
    "Connection",
    "ConnectionState",
    "ConnectionType",
    "arrange_extensions",
]

#: wsproto's short names for the two ends.
CLIENT: Final = ConnectionType.CLIENT
SERVER: Final = ConnectionType.SERVER

_OPEN = ConnectionState.OPEN
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING


def arrange_extensions(
    extensions: Iterable[Extension], limits: Limits, client: bool
) -> tuple[list[Extension], PerMessageDeflate | None, list[Extension]]:
    """Arrange the negotiated extensions for a parser and an encoder.

    Args:
        extensions: The extensions, in the order in which they were accepted.
        limits: The limits; permessage-deflate is told its own.
        client: Whether this is the client's end.

    Returns:
        The extensions in use; permessage-deflate if it is the only one; otherwise all of them.
    """
    if not extensions:
        return [], None, []
    in_use = [extension for extension in extensions if extension.enabled()]
    for extension in in_use:
        if isinstance(extension, PerMessageDeflate):
            extension.set_limits(limits)
            extension.set_role(client)
            if len(in_use) == 1:
                return in_use, extension, []
    return in_use, None, in_use


class _Waiting:
    """The iterator over the events of a connection that wait in its backlog.

    A caller may close an iterator of its own around it, or hold several: all state is kept in the
    connection.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self._connection._next_waiting()
        if event is None:
            raise StopIteration
        return event


class Connection(INBOX):
    """An open connection: bytes in, events out, and the reverse.

    Args:
        connection_type: Which end this is.
        extensions: The extensions in use, as the handshake negotiated them.
        trailing_data: Bytes that were received after the handshake.
        limits: The limits; by default those of :class:`~wsproto_sip.limits.Limits` with
            ``whole_messages`` and :data:`~wsproto_sip.limits.STREAMING_LIMITS` without.
        entropy: Source of masking keys.
        whole_messages: Whether events carry whole messages, instead of their pieces as they arrive.
        text_as_bytes: Whether text messages are delivered as their UTF-8 bytes, checked but not
            decoded.
        max_frames: How many frames to parse at a time; the rest is parsed while ``events()`` is
            iterated.
    """

    __slots__ = (
        "_encoder",
        "_state",
        "connection_type",
        "extensions",
    )

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
        in_use, deflate, chain = arrange_extensions(extensions or (), limits, client)
        self.connection_type = connection_type
        self.extensions = in_use
        self._encoder = FrameEncoder(client, KeySource(entropy), deflate, chain)
        parser = PARSER(
            client,
            limits,
            deflate,
            chain,
            whole_messages=whole_messages,
            text_as_bytes=text_as_bytes,
            max_frames=max_frames,
        )
        super().__init__(parser)
        self._state = _OPEN
        if trailing_data:
            self.receive_data(trailing_data)

    @property
    def client(self) -> bool:
        """Whether this is the client's end."""
        return self.connection_type is ConnectionType.CLIENT

    @property
    def state(self) -> ConnectionState:
        """The state of the connection, between open and closed."""
        return self._state

    def send(self, event: Event) -> bytes:
        """Turn an event into bytes for the peer.

        Args:
            event: A message or a piece of one, ``Ping``, ``Pong`` or ``CloseConnection``.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents can never be sent.
                The connection is unchanged.
            TypeError: The argument is not an event that can be sent.
        """
        if type(event) is TextMessage and self._state is _OPEN:
            # The most common case, with a single call.
            return self._encoder.text(event.data, event.message_finished)
        if isinstance(event, Message):
            # RFC 6455 §5.5.1: data may be sent until our own close frame is; after a protocol error
            # of the peer, only the close frame may be (§7.1.7).
            if self._state is not _OPEN and (
                self._state is not _REMOTE_CLOSING or self._parser.failed
            ):
                raise self._refusal(event)
            return self._encoder.message(event)
        if isinstance(event, CloseConnection):
            if self._state is not _OPEN and self._state is not _REMOTE_CLOSING:
                raise self._refusal(event)
            raw = self._encoder.close(event.code, event.reason)
            self._state = TRANSITIONS[self._state, Step.SEND_CLOSE]
            return raw
        if isinstance(event, (Ping, Pong)):
            if self._state is not _OPEN:
                raise self._refusal(event)
            opcode = Opcode.PING if isinstance(event, Ping) else Opcode.PONG
            return self._encoder.control(opcode, event.payload)
        if isinstance(event, Event):
            raise self._refusal(event)
        raise TypeError(f"not an event that an open connection sends: {event!r}")

    def _refusal(self, event: Event) -> LocalProtocolError:
        return LocalProtocolError(
            f"{type(event).__name__} cannot be sent in state {self._state.name}"
        )

    receive_data = INBOX.receive_data
    events = INBOX.events

    def _queue(self, events: list[Event]) -> None:
        if self._backlog is None:
            if not events and self._parser.closed:
                return
            self._backlog = deque(self._pending)
            self._pending = _Waiting(self)
        self._backlog += events

    def _next_waiting(self) -> Event | None:
        """Take the next waiting event, or the parser's as it continues; update the state."""
        parser = self._parser
        while self._backlog is not None:
            if self._backlog:
                event: Event = self._backlog.popleft()
                if type(event) is CloseConnection:
                    # Always the last one.
                    self._backlog, self._pending = None, iter(())
                    self._closed_by(event)
                return event
            if parser.paused:
                self._backlog += parser.receive(b"")
            elif self._ended and not parser.closed:
                self._backlog += parser.end_of_input()
            else:
                self._backlog, self._pending = None, iter(())
        return None

    def _closed_by(self, event: CloseConnection) -> None:
        # A frame cannot carry 1006: it is the end of input.
        ended = event.code == CloseReason.ABNORMAL_CLOSURE
        self._state = TRANSITIONS[self._state, Step.END if ended else Step.RECEIVE_CLOSE]

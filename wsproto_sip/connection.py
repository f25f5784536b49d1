"""One WebSocket connection, in wsproto's vocabulary (RFC 6455).

Theory of operation: :class:`Connection` is what is left when the handshake is over: a parser for
what comes, an encoder for what goes, and the closing handshake between them. Received octets are
parsed when they arrive; ``state`` follows when the closing event is *taken* from ``events()``, so
that messages of the same read can still be answered. :class:`WSConnection` puts the HTTP/1.1
handshake in front.

States and what moves them (RFC 6455 §4, §7.1):

==================  =================  ==========================  ==================
state               close frame sent   close frame or error taken  end of input taken
==================  =================  ==========================  ==================
``OPEN``            ``LOCAL_CLOSING``  ``REMOTE_CLOSING``          ``CLOSED``
``LOCAL_CLOSING``   refused            ``CLOSED``                  ``CLOSED``
``REMOTE_CLOSING``  ``CLOSED``         nothing comes               ``REMOTE_CLOSING``
==================  =================  ==========================  ==================
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from ._masking import KeySource
from ._parser import FrameParser
from .events import CloseConnection, Event, Message, Ping, Pong
from .extensions import PerMessageDeflate
from .frame_protocol import CloseReason, FrameEncoder, Opcode
from .handshake import H11Handshake
from .limits import STREAMING_LIMITS, Limits
from .states import ConnectionState, ConnectionType
from .utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .extensions import Extension
    from .typing import BytesLike, Entropy, Headers

__all__ = ["Connection", "ConnectionState", "ConnectionType", "WSConnection", "arrange_extensions"]

_OPEN = ConnectionState.OPEN
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_CLOSED = ConnectionState.CLOSED


def arrange_extensions(
    extensions: Iterable[Extension], limits: Limits
) -> tuple[list[Extension], PerMessageDeflate | None, list[Extension]]:
    """Sorts what a handshake has agreed on into what a parser and an encoder take.

    Args:
        extensions: The extensions, in the order in which they were accepted.
        limits: Bounds; permessage-deflate gets to know its own.

    Returns:
        Those that are in use; permessage-deflate where it is the only one; the others.
    """
    in_use = [extension for extension in extensions if extension.enabled()]
    for extension in in_use:
        if isinstance(extension, PerMessageDeflate):
            extension.set_limits(limits)
            if len(in_use) == 1:
                return in_use, extension, []
    return in_use, None, in_use


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

    __slots__ = (
        "_backlog",
        "_encoder",
        "_ended",
        "_parser",
        "_pending",
        "_receive",
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
        in_use, deflate, chain = arrange_extensions(extensions or (), limits)
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
        self._receive: Callable[[BytesLike], list[Event]] = self._parser.receive
        self._ended = False
        self._state = _OPEN
        # What events() gives: the events of the last read, unless there is a backlog, which is
        # where they wait when a caller has left some behind, and around every pause and ending.
        self._pending: Iterator[Event] = iter(())
        self._backlog: deque[Event] | None = None
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
            TypeError: It is no event.
        """
        if isinstance(event, Message):
            # RFC 6455 §5.5.1: data may go out until our own close frame has; after an error of
            # the peer's nothing may but that (§7.1.7).
            if self._state is not _OPEN and (
                self._state is not _REMOTE_CLOSING or self._parser.failed
            ):
                raise self._refusal(event)
            return self._encoder.message(event)
        if isinstance(event, CloseConnection):
            if self._state is not _OPEN and self._state is not _REMOTE_CLOSING:
                raise self._refusal(event)
            octets = self._encoder.close(event.code, event.reason)
            self._state = _LOCAL_CLOSING if self._state is _OPEN else _CLOSED
            return octets
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

    def receive_data(self, data: BytesLike | None) -> None:
        """Takes what the peer sent; :meth:`events` tells what it was.

        Args:
            data: Octets in any division; None at the end of input.
        """
        if data is None:
            self._ended = True
            # Whatever still comes is not the peer's.
            self._receive = _nothing
            self._queue([])
            return
        events = self._receive(data)
        if not events:
            if self._parser.paused:
                self._queue(events)
            return
        if self._parser.halted or self._backlog is not None:
            self._queue(events)
            return
        for event in self._pending:
            # The caller has not taken all of them.
            self._queue([event, *self._pending, *events])
            return
        self._pending = iter(events)

    def events(self) -> Iterator[Event]:
        """Gives the events not taken yet; what is left behind in a loop stays for the next call.

        Returns:
            An iterator; more octets received may end it, what it has not given comes out of the
            next. The last event of a connection is a ``CloseConnection``.
        """
        return self._pending if self._backlog is None else self._drain()

    def _queue(self, events: list[Event]) -> None:
        if self._backlog is None:
            if not events and self._parser.closed:
                return
            self._backlog = deque(self._pending)
        self._backlog += events

    def _drain(self) -> Iterator[Event]:
        """Gives what waits, and what the parser says when it goes on; moves the state.

        A caller may close this, or have several of them: all that they know is kept in the
        connection.
        """
        parser = self._parser
        while self._backlog is not None:
            if self._backlog:
                event = self._backlog.popleft()
                if type(event) is CloseConnection:
                    self._closed_by(event)
                yield event
            elif parser.paused:
                self._backlog += parser.receive(b"")
            elif self._ended and not parser.closed:
                self._backlog += parser.end_of_input()
            else:
                self._backlog = None

    def _closed_by(self, event: CloseConnection) -> None:
        # 1006 never stands in a frame: it is the end of input.
        if event.code == CloseReason.ABNORMAL_CLOSURE or self._state is _LOCAL_CLOSING:
            self._state = _CLOSED
        else:
            self._state = _REMOTE_CLOSING


def _nothing(data: BytesLike) -> list[Event]:
    return []


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

    __slots__ = ("_connect", "_handshake", "_stage", "client")

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
        self._connect = partial(
            Connection,
            connection_type,
            limits=limits,
            entropy=entropy,
            whole_messages=whole_messages,
            text_as_bytes=text_as_bytes,
            max_frames=max_frames,
        )
        # Kept until its events have been taken, which may be after it has ended.
        self._handshake: H11Handshake | None = H11Handshake(
            connection_type, limits=limits, entropy=entropy
        )
        self._stage: H11Handshake | Connection = self._handshake

    @property
    def state(self) -> ConnectionState:
        """Where the connection is, from the handshake to the end."""
        return self._stage.state

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Takes a request that an HTTP server of the caller's has parsed (servers only).

        Args:
            headers: The request's header fields, in order.
            path: The request target, path and query.

        Raises:
            RemoteProtocolError: It is not a valid opening handshake (RFC 6455 §4.2.1).
            LocalProtocolError: This is a client, or a request was received already.
        """
        if self._handshake is None:
            raise LocalProtocolError("there is a request already")
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
            TypeError: It is no event, and the connection is open.
        """
        octets = self._stage.send(event)
        if self._stage is self._handshake:
            self._follow(self._handshake)
        return octets

    def receive_data(self, data: BytesLike | None) -> None:
        """Takes what the peer sent; :meth:`events` tells what it was.

        Args:
            data: Octets in any division; None at the end of input.

        Raises:
            RemoteProtocolError: The handshake is not one; ``event_hint`` is the answer to send.
        """
        self._stage.receive_data(data)
        if self._stage is self._handshake:
            self._follow(self._handshake)

    def events(self) -> Iterator[Event]:
        """Gives the events not taken yet; what is left behind in a loop stays for the next call.

        Returns:
            An iterator.
        """
        if self._handshake is None:
            return self._stage.events()
        return self._first_events(self._handshake)

    def _follow(self, handshake: H11Handshake) -> None:
        if handshake.state is _OPEN:
            self._stage = self._connect(handshake.accepted_extensions, handshake.trailing_data)

    def _first_events(self, handshake: H11Handshake) -> Iterator[Event]:
        yield from handshake.events()
        if self._stage is not handshake:
            self._handshake = None
            yield from self._stage.events()

"""What happened on a connection, or what shall happen: the vocabulary of layer 1.

Theory of operation: an event is a value. The receiving side makes them from octets, the sending
side turns them into octets, and ``type(event)`` alone tells what it is, so nothing in this package
ever emits a subclass of a class defined here. They are slotted and not frozen, because creating a
frozen object costs more than parsing a small frame; treat them as immutable all the same (they
hash by value).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .extensions import Extension
    from .typing import Headers

__all__ = [
    "AcceptConnection",
    "BytesMessage",
    "CloseConnection",
    "Event",
    "Message",
    "Ping",
    "PlainRequest",
    "Pong",
    "RejectConnection",
    "RejectData",
    "Request",
    "TextMessage",
]

T = TypeVar("T", str, bytes)


class Event:
    """Base class of everything a connection reports or is asked to do."""

    __slots__ = ()


@dataclass(slots=True)
class Request(Event):
    """The opening handshake's request (RFC 6455 §4.1), received by a server or sent by a client.

    Args:
        host: The Host header field's value (``example.com:8080``).
        target: The request target, path and query (``/chat?room=1``).
        extensions: On a server, the offers as text, one item each
            (``"permessage-deflate; client_max_window_bits"``). On a client, the
            :class:`~wsproto_sip.extensions.Extension` objects to offer.
        extra_headers: The other header fields. On a server: all that were received, names in
            lower case, except Host, Sec-WebSocket-Extensions and Sec-WebSocket-Protocol.
        subprotocols: The sub-protocols offered, in the client's order of preference.
    """

    host: str
    target: str
    extensions: Sequence[Extension] | Sequence[str] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)
    subprotocols: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PlainRequest(Event):
    """An HTTP request that asks for no upgrade, where a server was told to take such.

    It can be rejected alone; over HTTP/1.1 a page is a rejection too, with a status of 200.

    Args:
        request: What there is of it; it offers nothing.
        method: ``GET`` or ``HEAD``.
    """

    request: Request
    method: str


@dataclass(slots=True)
class AcceptConnection(Event):
    """The handshake succeeded (RFC 6455 §4.2.2): sent by a server, received by a client.

    Args:
        subprotocol: The chosen sub-protocol; it must be one that was offered.
        extensions: The extensions in use. A server passes those it supports; what the two sides
            agree on is negotiated from the client's offers.
        extra_headers: Other header fields of the response.
    """

    subprotocol: str | None = None
    extensions: list[Extension] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)


@dataclass(slots=True)
class RejectConnection(Event):
    """The handshake was answered with something else than success (RFC 6455 §4.1, §4.2.2).

    A client receives every such response this way, redirects and 401 included.

    Args:
        status_code: The HTTP status code, 200 or above; 300 or above over HTTP/2 and HTTP/3, where
            200 accepts.
        headers: The response's header fields.
        has_body: Whether :class:`RejectData` events follow.
    """

    status_code: int = 400
    headers: Headers = field(default_factory=list)
    has_body: bool = False


@dataclass(slots=True)
class RejectData(Event):
    """A piece of the body of a rejection.

    Args:
        data: The octets of this piece.
        body_finished: Whether it is the last one.
    """

    data: bytes
    body_finished: bool = True


@dataclass(slots=True, unsafe_hash=True)
class CloseConnection(Event):
    """The connection is being closed (RFC 6455 §5.5.1, §7): sent or received.

    It is also what a receiving connection yields, exactly once, when the peer broke the protocol
    (then ``code`` is the code to fail it with) and at the end of input (``code`` 1006).

    Args:
        code: The status code (RFC 6455 §7.4); 1005 stands for a close frame without one.
        reason: Text of at most 123 octets in UTF-8; longer ones are cut between characters.
    """

    code: int
    reason: str | None = None

    def response(self) -> CloseConnection:
        """The close frame that answers this one: its code and reason echoed (RFC 6455 §5.5.1)."""
        return CloseConnection(code=self.code, reason=self.reason)


@dataclass(slots=True, unsafe_hash=True)
class Message(Event, Generic[T]):
    """A message, or a piece of one (RFC 6455 §5.6). Received ones are text or bytes messages.

    Args:
        data: The payload, ``str`` for text and octets for binary.
        frame_finished: Whether this piece ends its frame.
        message_finished: Whether this piece ends the message.
    """

    data: T
    frame_finished: bool = True
    message_finished: bool = True


@dataclass(slots=True, unsafe_hash=True)
class TextMessage(Message[str]):
    """A text message or a piece of one; pieces are cut between characters."""


@dataclass(slots=True, unsafe_hash=True)
class BytesMessage(Message[bytes]):
    """A binary message or a piece of one."""


@dataclass(slots=True, unsafe_hash=True)
class Ping(Event):
    """A Ping frame (RFC 6455 §5.5.2).

    Args:
        payload: At most 125 octets.
    """

    payload: bytes = b""

    def response(self) -> Pong:
        """The Pong that answers this Ping: the same payload (RFC 6455 §5.5.3)."""
        return Pong(payload=self.payload)


@dataclass(slots=True, unsafe_hash=True)
class Pong(Event):
    """A Pong frame (RFC 6455 §5.5.3).

    Args:
        payload: At most 125 octets; that of the Ping it answers.
    """

    payload: bytes = b""

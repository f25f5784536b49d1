"""The events of a connection, received or to be sent: the vocabulary of layer 1.

Theory of operation: an event is a value. Receiving turns bytes into events, sending turns events
into bytes, and ``type(event)`` alone identifies one, so nothing in this package ever emits a
subclass of a class defined here. Events are slotted but not frozen, because creating a frozen
object costs more than parsing a small frame; treat them as immutable all the same (they hash by
value).
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
    """Base class of everything that a connection reports or is asked to do."""

    __slots__ = ()


@dataclass(slots=True)
class Request(Event):
    """The opening handshake's request (RFC 6455 §4.1), received by a server or sent by a client.

    Args:
        host: The value of the Host header field (``example.com:8080``). A server gets it in ASCII,
            as it was sent; on a client a name may contain any letters, which are encoded with IDNA.
        target: The request target, path and query (``/chat?room=1``).
        extensions: On a server, the offers as text, one item each (``"permessage-deflate;
            client_max_window_bits"``). On a client, the :class:`~wsproto_sip.extensions.Extension`
            objects to offer.
        extra_headers: The other header fields. On a server, all those received, with names in lower
            case, except Host, Sec-WebSocket-Extensions and Sec-WebSocket-Protocol.
        subprotocols: The sub-protocols offered, in the client's order of preference.
    """

    host: str
    target: str
    extensions: Sequence[Extension] | Sequence[str] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)
    subprotocols: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PlainRequest(Event):
    """An HTTP request without an upgrade, for servers that accept such requests.

    It can only be rejected; over HTTP/1.1 a page is a rejection too, with a status of 200.
    Requests of HTTP/1.0 are always plain; load balancers send them as health checks.

    Args:
        request: The request as far as it applies; it offers nothing. Its host is empty if a request
            of HTTP/1.0 has no Host field.
        method: ``GET`` or ``HEAD``.
    """

    request: Request
    method: str


@dataclass(slots=True)
class AcceptConnection(Event):
    """The handshake succeeded (RFC 6455 §4.2.2): sent by a server, received by a client.

    Args:
        subprotocol: The chosen sub-protocol, which must have been offered.
        extensions: The extensions in use. A server passes those it supports; the result is
            negotiated from the client's offers.
        extra_headers: Other header fields of the response.
    """

    subprotocol: str | None = None
    extensions: list[Extension] = field(default_factory=list)
    extra_headers: Headers = field(default_factory=list)


@dataclass(slots=True)
class RejectConnection(Event):
    """The handshake was rejected with an HTTP response (RFC 6455 §4.1, §4.2.2).

    A client receives every such response this way, including redirects and 401.

    Args:
        status_code: The HTTP status code, 200 or above; over HTTP/2 and HTTP/3, where 200 accepts,
            300 or above.
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
        data: The bytes of this piece.
        body_finished: Whether it is the last one.
    """

    data: bytes
    body_finished: bool = True


@dataclass(slots=True, unsafe_hash=True)
class CloseConnection(Event):
    """The connection is being closed (RFC 6455 §5.5.1, §7): sent or received.

    A receiving connection also yields it, exactly once, when the peer breaks the protocol (``code``
    is then the code to fail the connection with) and at the end of input (``code`` 1006).

    Args:
        code: The status code (RFC 6455 §7.4). In a received event, ``CloseReason`` 1005 means a
            close frame without a code, and sending it sends such a frame. The other codes that only
            report an end, 1006 and 1015, are sent as 1000.
        reason: Text of at most 123 bytes in UTF-8; longer ones are cut between characters.
    """

    code: int
    reason: str | None = None

    def response(self) -> CloseConnection:
        """Return the close frame that answers this one, echoing it (RFC 6455 §5.5.1)."""
        return CloseConnection(code=self.code, reason=self.reason)


@dataclass(slots=True, unsafe_hash=True)
class Message(Event, Generic[T]):
    """A message or a piece of one (RFC 6455 §5.6). Received ones are text or bytes messages.

    Args:
        data: The payload, ``str`` for text and bytes for binary.
        frame_finished: Whether this piece ends its frame.
        message_finished: Whether this piece ends the message.
    """

    data: T
    frame_finished: bool = True
    message_finished: bool = True


@dataclass(slots=True, unsafe_hash=True)
class TextMessage(Message[str]):
    """A text message or a piece of one; pieces are split between characters."""


@dataclass(slots=True, unsafe_hash=True)
class BytesMessage(Message[bytes]):
    """A binary message or a piece of one."""


@dataclass(slots=True, unsafe_hash=True)
class Ping(Event):
    """A Ping frame (RFC 6455 §5.5.2).

    Args:
        payload: At most 125 bytes.
    """

    payload: bytes = b""

    def response(self) -> Pong:
        """Return the Pong that answers this Ping, with the same payload (RFC 6455 §5.5.3)."""
        return Pong(payload=self.payload)


@dataclass(slots=True, unsafe_hash=True)
class Pong(Event):
    """A Pong frame (RFC 6455 §5.5.3).

    Args:
        payload: At most 125 bytes; in an answer, the payload of the Ping.
    """

    payload: bytes = b""

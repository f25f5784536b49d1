"""The output of an endpoint: events of connections, and instructions for transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import WsprotoSipError
from ..events import Event

if TYPE_CHECKING:
    from ..auth.identity import Identity
    from ..events import Request
    from ..session.lifecycle import ConnectionClosed, TransportAction
    from ..typing import Address

__all__ = [
    "AdmissionPending",
    "Answer",
    "CapacityError",
    "Closed",
    "Connect",
    "Opened",
    "Output",
    "Traffic",
    "UnknownConnectionError",
    "Writable",
]


class CapacityError(WsprotoSipError):
    """No room is left for another connection; drop the transport."""


class UnknownConnectionError(WsprotoSipError, LookupError):
    """A connection with this id does not exist, or has ended.

    Args:
        cid: The id.
    """

    def __init__(self, cid: int) -> None:
        super().__init__(f"unknown connection: {cid}")
        self.cid = cid


@dataclass(slots=True)
class Opened(Event):
    """A connection is open.

    Args:
        cid: Its id.
        subprotocol: The sub-protocol in use.
        identity: The identity that it was opened for.
        request: The handshake's request; ``None`` for a connection that we opened.
    """

    cid: int
    subprotocol: str | None
    identity: Identity | None
    request: Request | None


@dataclass(slots=True)
class AdmissionPending(Event):
    """A policy needs an answer from outside; pass it to :meth:`Endpoint.decide`.

    Args:
        cid: The connection.
        question: What to find out.
    """

    cid: int
    question: object


@dataclass(slots=True)
class Writable(Event):
    """A connection has room again, after ``limits.high_water`` bytes or more were waiting.

    Args:
        cid: Its id.
    """

    cid: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request that did not open a connection.

    Args:
        status: The HTTP status code.
        reason: The reason, for the log; it was not sent.
        request: The request, as far as one was read; it need not be a valid handshake.
        peer: Address and port of the client, as named by a trusted proxy.
        served: Whether a plain request got what it asked for, such as a page or the state of the
            server, with whatever status; otherwise the request was refused.
        routine: Whether the same is asked for again and again.
    """

    status: int
    reason: str
    request: Request | None
    peer: Address
    served: bool = False
    routine: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of a connection, and its age.

    Args:
        received_messages: How many messages were received. If a session delivers fragments, these
            are counted instead.
        sent_messages: How many whole messages were sent.
        received_bytes: How many bytes its transport has received, including the handshake.
        sent_bytes: How many bytes were given to its transport, including the handshake.
        age: Seconds since it was opened, or since it was accepted if it never was open.
    """

    received_messages: int
    sent_messages: int
    received_bytes: int
    sent_bytes: int
    age: float


#: The traffic of an unused connection.
NO_TRAFFIC: Final = Traffic(0, 0, 0, 0, 0.0)


@dataclass(slots=True)
class Closed(Event):
    """A connection has ended; Kamailio's ``websocket:closed``.

    Args:
        cid: Its id.
        address: The peer's address.
        port: The peer's port.
        subprotocol: Its sub-protocol.
        identity: The identity that it was opened for.
        user_data: The application's data.
        closed: How it ended.
        opened: Whether it was ever open.
        answer: The answer to its request, if that did not open a connection.
        traffic: Its traffic.
        transport: Address and port of the transport's peer, which may be a proxy.
    """

    cid: int
    address: str
    port: int | None
    subprotocol: str | None
    identity: Identity | None
    user_data: object
    closed: ConnectionClosed
    opened: bool
    answer: Answer | None = None
    traffic: Traffic = NO_TRAFFIC
    transport: Address = ("", None)


@dataclass(frozen=True, slots=True)
class Output:
    """Instructions for a connection's transport.

    Args:
        cid: The connection.
        data: Bytes to write.
        action: What to do afterwards.
    """

    cid: int
    data: bytes
    action: TransportAction


@dataclass(frozen=True, slots=True)
class Connect:
    """A transport to open; report it with :meth:`Endpoint.connected` or ``receive(cid, None)``.

    Args:
        cid: The connection.
        host: The host's name or address.
        port: Its port.
        server_name: The name for TLS, which the certificate must match; ``None`` without TLS.
    """

    cid: int
    host: str
    port: int
    server_name: str | None

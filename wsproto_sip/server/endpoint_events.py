"""What an endpoint tells and wants: events of connections, and things to do with transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..events import Event

if TYPE_CHECKING:
    from ..events import Request
    from ..lifecycle import ConnectionClosed, TransportAction
    from ..policy.decision import Identity

__all__ = [
    "AdmissionPending",
    "CapacityError",
    "Closed",
    "Connect",
    "Opened",
    "Output",
    "UnknownConnectionError",
    "Writable",
]


class CapacityError(Exception):
    """There is no room for another connection; the transport is to be dropped."""


class UnknownConnectionError(LookupError):
    """There is no connection of that id, or no longer.

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
        identity: Whom it was opened for.
        request: The handshake's request; None on a connection that this side opened.
    """

    cid: int
    subprotocol: str | None
    identity: Identity | None
    request: Request | None


@dataclass(slots=True)
class AdmissionPending(Event):
    """A policy needs an answer from outside; :meth:`Endpoint.decide` takes it.

    Args:
        cid: The connection.
        question: What has to be found out.
    """

    cid: int
    question: object


@dataclass(slots=True)
class Writable(Event):
    """A connection has room again, after ``limits.high_water`` octets or more have waited on it.

    Args:
        cid: Its id.
    """

    cid: int


@dataclass(slots=True)
class Closed(Event):
    """A connection has ended; Kamailio's ``websocket:closed``.

    Args:
        cid: Its id.
        address: The peer's address.
        port: The peer's port.
        subprotocol: The sub-protocol it spoke.
        identity: Whom it was opened for.
        user_data: What the owner kept with it.
        closed: How it ended.
        opened: Whether it was ever open.
    """

    cid: int
    address: str
    port: int | None
    subprotocol: str | None
    identity: Identity | None
    user_data: object
    closed: ConnectionClosed
    opened: bool


@dataclass(frozen=True, slots=True)
class Output:
    """What to do with a connection's transport.

    Args:
        cid: The connection.
        data: Octets to write.
        action: What to do then.
    """

    cid: int
    data: bytes
    action: TransportAction


@dataclass(frozen=True, slots=True)
class Connect:
    """A transport to open; report it with :meth:`Endpoint.connected` or ``receive(cid, None)``.

    Args:
        cid: The connection it is for.
        host: The host's name or address.
        port: Its port.
        secure: Whether TLS is wanted.
    """

    cid: int
    host: str
    port: int
    secure: bool

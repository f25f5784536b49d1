"""The two ends of a connection, its states, and the transitions between them.

:data:`TRANSITIONS` is the opening and the closing handshake as one table (RFC 6455 §4, §7.1).
:class:`~wsproto_sip.handshake.H11Handshake`, :class:`~wsproto_sip.connection.Connection` and
:class:`~wsproto_sip.session.session.Session` follow it and have no other rules; the diagram in the
documentation is drawn from it.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TRANSITIONS", "ConnectionState", "ConnectionType", "Step"]


class ConnectionType(Enum):
    """The end of a connection (RFC 6455 §1.3)."""

    #: Opens the connection, and masks the frames it sends (§5.3).
    CLIENT = 1
    #: Answers the opening handshake, and must not mask.
    SERVER = 2


class ConnectionState(Enum):
    """The progress of a connection (RFC 6455 §4 and §7)."""

    #: The opening handshake is in progress.
    CONNECTING = 0
    #: Messages may be sent in both directions.
    OPEN = 1
    #: The peer's close frame was received; ours is still to be sent.
    REMOTE_CLOSING = 2
    #: Our close frame was sent; the peer's has not been received.
    LOCAL_CLOSING = 3
    #: Nothing more may be sent or received.
    CLOSED = 4
    #: The handshake was answered with a rejection whose body is unfinished.
    REJECTING = 5


class Step(Enum):
    """An event that moves a connection from one state to another."""

    #: The opening handshake succeeds.
    ACCEPT = "handshake accepted"
    #: The opening handshake is answered with a response that has a body.
    REJECT = "handshake rejected, body follows"
    #: A close frame is sent.
    SEND_CLOSE = "close frame sent"
    #: The peer's close frame is received, or a frame that fails the connection (§7.1.7). In either
    #: case nothing more is read, and our close frame is still to be sent.
    RECEIVE_CLOSE = "close frame received, or a bad frame"
    #: The connection ends for any other reason: a failed or rejected handshake, a deadline, the end
    #: of the transport.
    END = "error, deadline or end of input"


_CONNECTING = ConnectionState.CONNECTING
_REJECTING = ConnectionState.REJECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_CLOSED = ConnectionState.CLOSED

#: All transitions.
TRANSITIONS: Final[Mapping[tuple[ConnectionState, Step], ConnectionState]] = MappingProxyType(
    {
        (_CONNECTING, Step.ACCEPT): _OPEN,
        (_CONNECTING, Step.REJECT): _REJECTING,
        (_CONNECTING, Step.END): _CLOSED,
        (_REJECTING, Step.END): _CLOSED,
        (_OPEN, Step.SEND_CLOSE): _LOCAL_CLOSING,
        (_OPEN, Step.RECEIVE_CLOSE): _REMOTE_CLOSING,
        (_OPEN, Step.END): _CLOSED,
        (_LOCAL_CLOSING, Step.RECEIVE_CLOSE): _CLOSED,
        (_LOCAL_CLOSING, Step.END): _CLOSED,
        (_REMOTE_CLOSING, Step.SEND_CLOSE): _CLOSED,
        (_REMOTE_CLOSING, Step.END): _CLOSED,
        (_CLOSED, Step.END): _CLOSED,
    }
)

"""Which end of a connection one is, and how far the connection has come.

These stand apart from the connection because the handshake, which comes before it, needs them.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["ConnectionState", "ConnectionType"]


class ConnectionType(Enum):
    """Which end of the connection this is (RFC 6455 §1.3)."""

    #: Opens the connection, and masks what it sends (§5.3).
    CLIENT = 1
    #: Answers the opening handshake, and must not mask.
    SERVER = 2


class ConnectionState(Enum):
    """How far a connection has come (RFC 6455 §4 and §7)."""

    #: The opening handshake is not over.
    CONNECTING = 0
    #: Messages may be sent both ways.
    OPEN = 1
    #: The peer's close frame was taken; ours is still to be sent.
    REMOTE_CLOSING = 2
    #: Our close frame was sent; the peer's has not come.
    LOCAL_CLOSING = 3
    #: Nothing more may be sent, nothing more will come.
    CLOSED = 4
    #: The handshake was answered with a rejection whose body is not over.
    REJECTING = 5

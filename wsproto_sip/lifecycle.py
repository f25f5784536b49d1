"""How the life of a session goes, and how it ends.

:data:`TRANSITIONS` is the whole of it: the states are those of the protocol layer, and every way
between two of them stands in the table. The diagram in the documentation is drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from .events import CloseConnection, Event
from .states import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "TRANSITIONS",
    "Cause",
    "CheckTransport",
    "ConnectionClosed",
    "Step",
    "TransportAction",
]


class TransportAction(Enum):
    """What is to be done with the transport."""

    #: Leave it as it is.
    NONE = "none"
    #: Close it when everything from ``data_to_send()`` is written.
    CLOSE = "close"
    #: Drop it; what ``data_to_send()`` still gives may be tried, but not waited for.
    ABORT = "abort"


class Cause(Enum):
    """Why a session ended: the first reason there was, if it came to the end that began."""

    #: The peer sent a close frame first.
    REMOTE = "remote"
    #: This side did.
    LOCAL = "local"
    #: The transport ended without one.
    END_OF_INPUT = "end of input"
    #: The peer broke the protocol.
    PROTOCOL_ERROR = "protocol error"
    #: The peer, or what was sent to it, went past a bound.
    LIMIT = "limit"
    #: The peer was gone.
    KEEPALIVE = "keep-alive"
    #: The peer had nothing to say for too long.
    IDLE = "idle"
    #: The connection was as old as one may get, by the caller's clock.
    AGE = "age"
    #: The transport took no octets for too long.
    SEND_TIMEOUT = "send timeout"
    #: The opening handshake took too long.
    OPEN_TIMEOUT = "open timeout"
    #: The peer did not answer a close frame, whatever that was sent for.
    CLOSE_TIMEOUT = "close timeout"
    #: The opening handshake was refused.
    REJECTION = "rejection"
    #: TLS failed.
    TLS = "TLS"
    #: An administrator's command.
    ADMINISTRATOR = "administrator"
    #: The server shuts down.
    SHUTDOWN = "shutdown"


@dataclass(slots=True)
class ConnectionClosed(Event):
    """The end of a session; every session has exactly one, and nothing comes behind it.

    Args:
        code: The code of the peer's close frame (RFC 6455 §7.1.5), 1005 where it had none, 1006
            where there was no close frame, 1015 where TLS failed.
        reason: The reason in it, or else what is known about the cause.
        cause: Why the session ended.
        close_rcvd: The close frame that was received.
        close_sent: The close frame that was sent.
    """

    code: int
    reason: str
    cause: Cause
    close_rcvd: CloseConnection | None = None
    close_sent: CloseConnection | None = None


@dataclass(slots=True)
class CheckTransport(Event):
    """Keep-alive by check is due: see whether the transport still exists.

    If it does not, say so with ``receive(None, now)``; otherwise there is nothing to do.
    """


class Step(Enum):
    """What moves a session from one state to another."""

    #: The opening handshake succeeds.
    ACCEPT = "handshake accepted"
    #: It is answered with a response that has a body.
    REJECT = "handshake rejected, body follows"
    #: A close frame goes out.
    SEND_CLOSE = "close frame sent"
    #: A close frame comes in.
    RECEIVE_CLOSE = "close frame received"
    #: It is over, whatever was said: an error, a rejection, a deadline, the end of the transport.
    END = "error, deadline or end of input"


_CONNECTING = ConnectionState.CONNECTING
_REJECTING = ConnectionState.REJECTING
_OPEN = ConnectionState.OPEN
_LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
_REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
_CLOSED = ConnectionState.CLOSED

#: Every way between the states of a session (RFC 6455 §4, §7.1).
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

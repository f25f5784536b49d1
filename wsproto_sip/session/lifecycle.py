"""The end of a session: what is reported, and what to do with the transport."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..events import CloseConnection, Event

__all__ = ["Cause", "CheckTransport", "ConnectionClosed", "TransportAction"]


class TransportAction(Enum):
    """What to do with the transport."""

    #: Leave it as it is.
    NONE = "none"
    #: Close it after writing all output of ``data_to_send()``.
    CLOSE = "close"
    #: Drop it; the remaining output of ``data_to_send()`` may be tried, but not waited for.
    ABORT = "abort"


class Cause(Enum):
    """Why a session ended: the first reason, if that led to the end."""

    #: The peer sent a close frame first.
    REMOTE = "remote"
    #: We sent a close frame first.
    LOCAL = "local"
    #: The transport ended without a close frame.
    END_OF_INPUT = "end of input"
    #: The peer broke the protocol.
    PROTOCOL_ERROR = "protocol error"
    #: The peer, or the output for it, exceeded a limit.
    LIMIT = "limit"
    #: The peer did not answer a keep-alive.
    KEEPALIVE = "keep-alive"
    #: The peer did not send anything for too long.
    IDLE = "idle"
    #: We did not read for too long.
    PAUSE = "pause"
    #: The connection reached its maximum age.
    AGE = "age"
    #: The transport did not accept bytes for too long.
    SEND_TIMEOUT = "send timeout"
    #: The opening handshake took too long.
    OPEN_TIMEOUT = "open timeout"
    #: The peer did not answer a close frame, whatever its reason.
    CLOSE_TIMEOUT = "close timeout"
    #: The opening handshake was refused.
    REJECTION = "rejection"
    #: TLS failed.
    TLS = "TLS"
    #: An administrator gave a command.
    ADMINISTRATOR = "administrator"
    #: The server is shutting down.
    SHUTDOWN = "shutdown"


@dataclass(slots=True)
class ConnectionClosed(Event):
    """The end of a session; every session has exactly one, as its last event.

    Args:
        code: The code of the peer's close frame (RFC 6455 §7.1.5), 1005 if it had no code, 1006
            without a close frame, 1015 if TLS failed.
        reason: The reason in the close frame, or otherwise more about the cause.
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
    """Keep-alive by check is due: check whether the transport still exists.

    If it does not, call ``receive(None, now)``; otherwise do nothing.
    """

"""One connection over time: automatic answers, deadlines, keep-alive, and one end."""

from .config import SessionConfig
from .keepalive import KeepaliveConfig
from .lifecycle import Cause, CheckTransport, ConnectionClosed, TransportAction
from .prepared import PreparedMessage
from .session import Session

__all__ = [
    "Cause",
    "CheckTransport",
    "ConnectionClosed",
    "KeepaliveConfig",
    "PreparedMessage",
    "Session",
    "SessionConfig",
    "TransportAction",
]

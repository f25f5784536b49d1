"""WebSocket (RFC 6455) without I/O, for people who write frameworks and servers.

The names here are what most programs need; the modules have the rest. Importing the package loads
neither the SIP and MSRP parts nor any adapter.
"""

from __future__ import annotations

from .config import SessionConfig
from .connection import Connection, ConnectionState, ConnectionType, WSConnection
from .keepalive import KeepaliveConfig
from .lifecycle import Cause, ConnectionClosed, TransportAction
from .limits import Limits
from .session import Session
from .utilities import LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = [
    "Cause",
    "Connection",
    "ConnectionClosed",
    "ConnectionState",
    "ConnectionType",
    "KeepaliveConfig",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "Session",
    "SessionConfig",
    "TransportAction",
    "WSConnection",
]

__version__ = "0.1.0.dev0"

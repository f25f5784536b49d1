"""WebSocket (RFC 6455) without I/O, for authors of frameworks and servers.

Most programs need only the names exported here; the modules have the rest. Importing the package
loads neither the SIP and MSRP parts nor any adapter.
"""

from __future__ import annotations

from . import events
from ._implementation import NAME as implementation
from .connection import Connection, ConnectionState, ConnectionType
from .errors import WsprotoSipError
from .extensions import PerMessageDeflate
from .frame_protocol import CloseReason
from .limits import STREAMING_LIMITS, Limits
from .session.config import SessionConfig
from .session.keepalive import KeepaliveConfig
from .session.lifecycle import Cause, CheckTransport, ConnectionClosed, TransportAction
from .session.prepared import PreparedMessage
from .session.session import Session
from .utilities import LocalProtocolError, ProtocolError, RemoteProtocolError
from .wsconnection import WSConnection

__all__ = [
    "STREAMING_LIMITS",
    "Cause",
    "CheckTransport",
    "CloseReason",
    "Connection",
    "ConnectionClosed",
    "ConnectionState",
    "ConnectionType",
    "KeepaliveConfig",
    "Limits",
    "LocalProtocolError",
    "PerMessageDeflate",
    "PreparedMessage",
    "ProtocolError",
    "RemoteProtocolError",
    "Session",
    "SessionConfig",
    "TransportAction",
    "WSConnection",
    "WsprotoSipError",
    "events",
    "implementation",
]

__version__ = "0.1.0.dev0"

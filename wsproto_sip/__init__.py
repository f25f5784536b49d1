"""WebSocket (RFC 6455) without I/O, for people who write frameworks and servers.

The names here are what most programs need; the modules have the rest. Importing the package loads
neither the SIP and MSRP parts nor any adapter.
"""

from __future__ import annotations

from .connection import Connection, ConnectionState, ConnectionType, WSConnection
from .limits import Limits
from .utilities import LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = [
    "Connection",
    "ConnectionState",
    "ConnectionType",
    "Limits",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "WSConnection",
]

__version__ = "0.1.0.dev0"

"""WebSocket clients and servers on asyncio, and on uvloop."""

from ..backoff import Backoff, is_transient
from ..exceptions import ConnectionClosedError, HandshakeRejected, ProxyError
from .client import Connecting, ConnectOptions, connect, reconnect
from .connection import Connection
from .reconnect import Reconnecting
from .server import Server, serve

__all__ = [
    "Backoff",
    "ConnectOptions",
    "Connecting",
    "Connection",
    "ConnectionClosedError",
    "HandshakeRejected",
    "ProxyError",
    "Reconnecting",
    "Server",
    "connect",
    "is_transient",
    "reconnect",
    "serve",
]

"""WebSocket clients and servers with blocking sockets and threads."""

from ..backoff import Backoff, is_transient
from ..exceptions import ConnectionClosedError, HandshakeRejected, ProxyError
from .client import ConnectOptions, connect, reconnect
from .connection import Connection
from .server import Server, serve

__all__ = [
    "Backoff",
    "ConnectOptions",
    "Connection",
    "ConnectionClosedError",
    "HandshakeRejected",
    "ProxyError",
    "Server",
    "connect",
    "is_transient",
    "reconnect",
    "serve",
]

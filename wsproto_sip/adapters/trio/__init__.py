"""WebSocket clients and servers on trio (the extra ``trio``)."""

from ..backoff import Backoff, is_transient
from ..exceptions import ConnectionClosedError, HandshakeRejected, ProxyError
from .client import ConnectOptions, connect, open_connection, reconnect
from .connection import Connection
from .reconnect import Reconnecting
from .server import ServeOptions, Server, serve, serve_forever

__all__ = [
    "Backoff",
    "ConnectOptions",
    "Connection",
    "ConnectionClosedError",
    "HandshakeRejected",
    "ProxyError",
    "Reconnecting",
    "ServeOptions",
    "Server",
    "connect",
    "is_transient",
    "open_connection",
    "reconnect",
    "serve",
    "serve_forever",
]

"""Run picows without a socket.

Theory of operation: picows reads from the loop's transport and writes to the socket itself, past
the transport, while nothing waits in it. That is fast with the standard library's loop but has no
counterpart in the other candidates. Where only the protocol is measured, picows therefore gets a
transport that claims to hold something: then picows passes its output to it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Iterable
from typing import Any

from benchmarks.handshake import key_of, response_to


class _FakeSocket:
    """Accepts the options that picows sets on its socket."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        pass

    def getsockopt(self, level: int, option: int) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class FakeTransport:
    """Stands in for the transport of one connection and keeps its output."""

    def __init__(self) -> None:
        self.written = b""
        self.socket = _FakeSocket()

    def get_extra_info(self, name: str) -> object:
        return self.socket if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return 1  # not empty, so that nothing goes straight to the socket

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.written += b"".join(pieces)

    def close(self) -> None:
        pass


_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def feed(protocol: Any, data: bytes) -> None:
    """Copy bytes into picows's buffer, as the socket would."""
    rest = memoryview(data)
    while rest:
        buffer = protocol.get_buffer(-1)
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        protocol.buffer_updated(size)
        rest = rest[size:]


def open_picows(listener: Any, *, client: bool = False) -> tuple[Any, FakeTransport]:
    """Create a connection as picows's server and client do, including the handshake.

    Args:
        listener: Called by picows for each frame.
        client: Whether it is the client's end.

    Returns:
        The protocol object and its transport, whose output is empty.

    Raises:
        ImportError: This version of picows works differently.
    """
    picows = importlib.import_module("picows")
    internals = importlib.import_module("picows.picows")
    transport = FakeTransport()

    async def make() -> Any:
        return internals.WSProtocol(
            "localhost" if client else None,  # host and port
            "/" if client else None,  # path
            client,  # is_client_side
            (lambda: listener) if client else (lambda request: listener),
            logging.Logger("picows", logging.CRITICAL),
            True,  # disconnect_on_exception
            None,  # websocket_handshake_timeout
            False,  # enable_auto_ping
            20,  # auto_ping_idle_timeout
            20,  # auto_ping_reply_timeout
            picows.WSAutoPingStrategy.PING_WHEN_IDLE,
            True,  # enable_auto_pong
            10 * 1024 * 1024,  # max_frame_size
            None,  # extra_headers
            128 * 1024,  # read_buffer_init_size: two reads of the benchmark
        )

    with asyncio.Runner() as runner:
        protocol = runner.run(make())
    protocol.connection_made(transport)
    if client:
        request, transport.written = transport.written, b""
        feed(protocol, response_to(key_of(request), subprotocol=False))
    else:
        feed(protocol, _UPGRADE)
        if not transport.written.startswith(b"HTTP/1.1 101"):
            raise ImportError(f"its handshake answered {transport.written!r}")
        transport.written = b""
    return protocol, transport

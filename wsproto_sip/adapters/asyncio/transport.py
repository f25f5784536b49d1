"""The base of all stream protocols on asyncio: reading, writing, and ending cleanly.

Theory of operation: a transport that is closed with unread bytes is reset, and the last bytes
written may never reach the peer. Therefore the output is ended first, and the input is read until
the peer ends it too; ``_linger()`` bounds that time if nothing else does.

Received bytes are taken out of the buffer before the loop reads from any other transport, so all
protocols of a thread share one buffer per size. Only where reads are pending between callbacks
(Windows) does each protocol have its own.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["READ_SIZE", "StreamProtocol", "silence"]

#: Bytes of one read.
READ_SIZE: Final = 64 * 1024

#: Seconds for a transport to end after everything was written.
_LINGER: Final = 5.0

#: Whether reads are pending between callbacks.
_READS_AHEAD = sys.platform == "win32"


def silence(idle: int, interval: int, unacknowledged: int) -> list[tuple[int, int]]:
    """Return the options with which TCP gives up a silent connection, as far as the system can.

    Args:
        idle: Seconds without traffic after which TCP probes.
        interval: Seconds between two probes.
        unacknowledged: Milliseconds after which a connection ends on which nothing was
            acknowledged.
    """
    names = (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPINTVL", interval),
        ("TCP_USER_TIMEOUT", unacknowledged),
    )
    return [
        (option, value)
        for name, value in names
        if (option := getattr(socket, name, None)) is not None
    ]


#: The options towards other servers. By default, a connection that a firewall has forgotten takes
#: and loses everything for a quarter of an hour.
_SILENCE: Final = silence(30, 5, 20_000)


class _Buffers(threading.local):
    """Each thread's read buffers, by size."""

    def __init__(self) -> None:
        self.by_size: dict[int, memoryview] = {}


_shared: Final = _Buffers()


def _read_buffer(size: int) -> memoryview:
    """Return the buffer that a protocol reads into."""
    if _READS_AHEAD:
        return memoryview(bytearray(min(size, READ_SIZE)))
    buffers = _shared.by_size
    if (buffer := buffers.get(size)) is None:
        buffer = buffers[size] = memoryview(bytearray(size))
    return buffer


class StreamProtocol(asyncio.BufferedProtocol):
    """A protocol that knows its transport.

    Args:
        size: Bytes of one read.
    """

    __slots__ = ("_buffer", "_lingering", "transport")

    transport: asyncio.Transport

    def __init__(self, size: int = READ_SIZE) -> None:
        self._read_into(size)
        self._lingering: asyncio.TimerHandle | None = None

    def _begin_on(self, transport: asyncio.BaseTransport, high_water: int | None = None) -> None:
        """Start on a transport.

        Args:
            transport: The transport.
            high_water: Bytes that it buffers before it calls ``pause_writing()``; asyncio's own
                value by default.
        """
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high_water)

    def _read_into(self, size: int) -> None:
        """Read at most this many bytes at once."""
        self._buffer = _read_buffer(size)

    def keep_alive(self, options: Iterable[tuple[int, int]] = _SILENCE) -> None:
        """Let TCP give up a peer that disappeared silently.

        Args:
            options: The options of TCP, as pairs of their number and value.
        """
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in options:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into."""
        return self._buffer

    def _read(self, size: int) -> bytes:
        """Take the received bytes out of the buffer."""
        return bytes(self._buffer[:size])

    def _write(self, data: bytes) -> None:
        """Write, unless the transport is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def _backlog(self) -> int:
        """Return how many bytes the transport has not written yet."""
        return self.transport.get_write_buffer_size()

    def _pause_reading(self) -> None:
        """Stop reading."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        """Start reading again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _close_transport(self) -> None:
        """Close the transport, unless it is already closing.

        A TLS transport that is closed twice loses later requests.
        """
        if not self.transport.is_closing():
            self.transport.close()

    def _half_close(self) -> None:
        """End the output, or close a transport (TLS) that cannot end only its output."""
        transport = self.transport
        if transport.is_closing():
            return
        if not transport.can_write_eof():
            transport.close()
            return
        # If the peer has reset it, asyncio raises here; the end is reported anyway.
        with suppress(OSError):
            transport.write_eof()

    def _drop_transport(self) -> None:
        """End the transport at once; unwritten bytes are lost."""
        self.transport.abort()

    def _linger(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the transport a moment to end by itself."""
        if self._lingering is None:
            self._lingering = loop.call_later(_LINGER, self._drop_transport)

    def _end_lingering(self) -> None:
        """Cancel the timer of :meth:`_linger`, because the transport is gone."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

"""Waking a thread that waits for sockets."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from typing import Final

__all__ = ["Alarm", "Selector"]

#: A selector that needs no descriptor of its own, if the system has one.
Selector: Final[type[selectors.BaseSelector]] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class Alarm:
    """Wake a thread that waits in a selector."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def ring(self) -> None:
        """Make the selector return; does nothing if the alarm is closed."""
        with suppress(OSError):
            self._sender.send(b"\0")

    def silence(self) -> None:
        """Clear the alarm."""
        with suppress(BlockingIOError):
            self.receiver.recv(4096)

    def close(self) -> None:
        """Close the descriptors."""
        self.receiver.close()
        self._sender.close()

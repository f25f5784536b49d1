"""What wakes a thread that waits for sockets."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from typing import Final

__all__ = ["Alarm", "Selector"]

#: One that takes no descriptor, where there is one.
Selector: Final[type[selectors.BaseSelector]] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)


class Alarm:
    """Wakes a thread that waits in a selector."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)

    def ring(self) -> None:
        """Lets the selector return, once or more; nothing happens where it is closed."""
        with suppress(OSError):
            self._sender.send(b"\0")

    def silence(self) -> None:
        """Forgets that it was rung."""
        with suppress(BlockingIOError):
            self.receiver.recv(4096)

    def close(self) -> None:
        """Gives its descriptors back."""
        self.receiver.close()
        self._sender.close()

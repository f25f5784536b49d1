"""Communication with systemd: inherited sockets, readiness and the watchdog.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): environment
variables, and datagrams to a Unix socket. Without systemd, nothing is inherited or sent.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import MutableMapping
from typing import Final

__all__ = ["Notifier", "take_inherited"]

#: The first inherited descriptor (``SD_LISTEN_FDS_START``).
_FIRST: Final = 3
_MOST: Final = 1024
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def _number(environment: MutableMapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def take_inherited(environment: MutableMapping[str, str]) -> list[tuple[str, int]]:
    """Return the sockets that systemd has passed to this process, and forget them.

    Args:
        environment: The environment; its variables about them are removed, so that programs this
            one starts do not take them for theirs.

    Returns:
        Name and descriptor of each; a socket unit calls them as its ``FileDescriptorName=`` says.
    """
    pid, count = _number(environment, "LISTEN_PID"), _number(environment, "LISTEN_FDS")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    if pid != os.getpid() or count is None:
        return []
    found = []
    for index in range(min(count, _MOST)):
        os.set_inheritable(_FIRST + index, False)
        found.append((names[index] if index < len(names) else "", _FIRST + index))
    return found


class Notifier:
    """Notifies systemd about this service.

    Args:
        environment: The environment: where to tell it, and whether there is a watchdog. Its
            variables about that are removed.

    Attributes:
        watchdog: Seconds between two signs of life; None where the unit has no ``WatchdogSec=``.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._place = environment.pop("NOTIFY_SOCKET", "")
        period = _number(environment, "WATCHDOG_USEC")
        pid = environment.get("WATCHDOG_PID", str(os.getpid()))
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            environment.pop(name, None)
        self.watchdog: float | None = None
        if period and pid == str(os.getpid()):
            # Half of it, as sd_watchdog_enabled(3) says.
            self.watchdog = period / 2_000_000

    def _tell(self, *lines: str) -> None:
        # "@" stands for the NUL of the abstract namespace.
        if not self._place.startswith(("/", "@")):
            return
        place = "\0" + self._place[1:] if self._place.startswith("@") else self._place
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                # A manager that does not read must not stop the service.
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), place)
            except OSError:
                # Nothing more can be done: systemd ends a service without notifications.
                return

    def ready(self, status: str) -> None:
        """Notify that clients can connect, or that reloading is complete.

        Args:
            status: What the service does, in one line; ``systemctl status`` shows it.
        """
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that files are read again; call :meth:`ready` afterwards."""
        if not self._place:
            # Nor does every system have the clock.
            return
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def not_reloaded(self) -> None:
        """Do nothing: systemd only learns that reloading is complete, see :meth:`ready`."""

    def stopping(self, seconds: float, status: str) -> None:
        """Notify that the service ends.

        Args:
            seconds: How long that may take; systemd waits for it, whatever ``TimeoutStopSec=`` is.
            status: As for :meth:`ready`.
        """
        microseconds = int(seconds * 1_000_000)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={microseconds}", f"STATUS={status}")

    def alive(self) -> None:
        """Notify the watchdog that the service is alive."""
        self._tell("WATCHDOG=1")

"""Listening sockets without an address, and what to do when accepting fails."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._arguments import check_arguments
from ._lines import Line

if TYPE_CHECKING:
    import logging

    from ..typing import Address

__all__ = ["AcceptBackoff", "as_address", "open_listener", "peer_of", "place_of", "unlink"]


#: Seconds of the first and of the longest pause in accepting.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

#: The credentials of the program at the other end of a Unix socket, if the system reports them:
#: process, user and group.
_CREDENTIALS: Final = struct.Struct("3i")

#: Seconds between two log records about failures to accept.
_SILENCE: Final = 60.0


class _Bound(Protocol):
    """A socket, from the standard library, asyncio or trio."""

    def getsockname(self) -> Any: ...


class _Connected(Protocol):
    """A socket from the standard library, asyncio or trio, or uvloop's substitute for one."""

    @property
    def family(self) -> int: ...

    def fileno(self) -> int: ...


class AcceptBackoff:
    """Bound how often a listening socket is retried after accepting fails, and log the failures.

    Accepting fails for lack of descriptors or memory (``EMFILE``, ``ENFILE``, ``ENOBUFS``,
    ``ENOMEM``) while the socket stays readable, so that retrying at once would use all CPU. Pauses
    double up to a second. While connections come and go at the limit, accepting fails again and
    again; this is logged once a minute.

    Args:
        logger: The logger to use.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._pause = _FIRST_PAUSE
        self._told = -inf
        self._failures = 0

    def failed(self, error: Exception, now: float) -> float:
        """Return how many seconds to wait before the next attempt.

        Args:
            error: The error of accepting.
            now: The time in seconds, on any clock.
        """
        self._failures += 1
        if now - self._told >= _SILENCE:
            self._told = now
            reason = str(getattr(error, "strerror", None) or error)
            fields = {"reason": reason, "failures": self._failures}
            self._logger.warning(Line("accept-failed", fields))
        pause = self._pause
        self._pause = min(2 * pause, _LONGEST_PAUSE)
        return pause

    def succeeded(self) -> None:
        """Note that a connection was accepted."""
        self._pause = _FIRST_PAUSE


def open_listener(
    port: int | None, unix: str | None, sock: socket.socket | int | None, backlog: int
) -> socket.socket | None:
    """Return the listening socket for a place other than an address.

    Args:
        port: The port of an address.
        unix: The path of a Unix socket.
        sock: A socket opened by another program, such as systemd, or its descriptor. The server
            owns and closes it from now on.
        backlog: Connections that may wait to be accepted.

    Returns:
        The socket, in non-blocking mode; ``None`` for an address.

    Raises:
        OSError: The path cannot be used, or the descriptor is not a socket.
        TypeError: Not exactly one place is named, or an argument is of another type.
        ValueError: The port is not one.
    """
    check_arguments(port=port, unix=unix, backlog=backlog)
    if sum(place is not None for place in (port, unix, sock)) != 1:
        raise TypeError("name exactly one place to listen on: host and port, unix=, or sock=")
    if unix is not None:
        return _listen_unix(unix, backlog)
    if sock is None:
        return None
    if not isinstance(sock, int | socket.socket):
        raise TypeError(f"sock must be a socket or a descriptor, not {sock!r:.100}")
    taken = socket.socket(fileno=sock) if isinstance(sock, int) else sock
    taken.setblocking(False)
    taken.listen(backlog)
    return taken


def _listen_unix(path: str, backlog: int) -> socket.socket:
    """Return a listening Unix socket, replacing a path that no server listens on any more.

    Args:
        path: Its path; one that begins with NUL is in Linux's abstract namespace.
        backlog: Connections that may wait to be accepted.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        if _is_stale(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_stale(path: str) -> bool:
    """Return whether a path is a socket that no server listens on."""
    if path.startswith("\0"):
        return False
    with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        # EAGAIN means a full backlog: a server listens.
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
    return False


def place_of(listener: _Bound) -> tuple[str, int]:
    """Return where a socket listens: address and port; the path of a Unix socket, with port 0.

    Args:
        listener: The socket.
    """
    address, port = as_address(listener.getsockname())
    return address, port or 0


def as_address(name: object) -> Address:
    """Convert the operating system's name of an endpoint to an address.

    Args:
        name: A tuple with address and port, a path, or ``None`` if the endpoint is unknown.
    """
    if isinstance(name, tuple):
        return str(name[0]), int(name[1])
    if isinstance(name, bytes):
        # The abstract namespace of Linux.
        return os.fsdecode(name), None
    return str(name or ""), None


def peer_of(name: object, sock: _Connected | None) -> Address:
    """Return the address of a connection's peer.

    The other end of a Unix socket chooses its own name, which could look like an address, so it is
    ignored. If the system tells the user of the other end, the user replaces the address.

    Args:
        name: The operating system's name for the other end.
        sock: The socket; ``None`` for a transport without one.

    Returns:
        Address and port; of a Unix socket ``unix-`` with the number of the user, or ``unix``;
        ``unknown`` if the other end is already gone.
    """
    if sock is None or isinstance(name, tuple):
        return as_address(name)
    if sock.family != getattr(socket, "AF_UNIX", None):
        return "unknown", None
    option = getattr(socket, "SO_PEERCRED", None)
    user = None
    # uvloop has sockets in name only.
    with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as own:
        if option is not None:
            told = own.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
            _, user, _ = _CREDENTIALS.unpack(told)
    return "unix" if user is None else f"unix-{user}", None


def unlink(listener: _Bound) -> None:
    """Remove the path of a Unix socket that is about to be closed.

    Args:
        listener: The socket; one of another family is left alone.
    """
    path, port = as_address(listener.getsockname())
    if port is None and path and not path.startswith("\0"):
        with suppress(OSError):
            os.unlink(path)

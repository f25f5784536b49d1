"""Listening sockets on asyncio that outlast a lack of descriptors.

Theory of operation: without descriptors, asyncio's own servers log a traceback for each connection
in the backlog, again every second. Here the loop calls ``_accept()`` when connections wait. If they
cannot be accepted, they stay in the system's backlog while the socket is left alone for a moment,
and one log record says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .._lines import Line
from .._listening import AcceptBackoff

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

__all__ = ["Listener", "listen", "open_sockets"]

#: Connections to accept in a row before other callbacks run.
_BURST: Final = 100


async def open_sockets(
    host: str | Sequence[str] | None,
    port: int,
    *,
    backlog: int = 100,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
) -> list[socket.socket]:
    """Listen on all addresses of hosts, as ``loop.create_server()`` does.

    Args:
        host: The name or address, or several; ``None`` for all addresses of this machine.
        port: The port; 0 for a free one.
        backlog: Connections that may wait to be accepted.
        family: ``AF_INET`` or ``AF_INET6``, for a name that has both.
        flags: Flags for ``getaddrinfo()``.
        reuse_address: Whether an address can be reused at once; by default on POSIX.
        reuse_port: Whether other sockets may listen on the same port.

    Raises:
        OSError: The server cannot listen on an address.
    """
    loop = asyncio.get_running_loop()
    hosts = [host or None] if host is None or isinstance(host, str) else list(host)
    found: dict[tuple[Any, ...], None] = {}
    for name in hosts:
        infos = await loop.getaddrinfo(
            name, port, family=family, type=socket.SOCK_STREAM, flags=flags
        )
        found |= dict.fromkeys((info[0], info[2], info[4]) for info in infos)
    sockets: list[socket.socket] = []
    try:
        for kind, protocol, address in found:
            try:
                sock = socket.socket(kind, socket.SOCK_STREAM, protocol)
            except OSError:
                # A machine without IPv6 still resolves IPv6 addresses.
                continue
            sockets.append(sock)
            if os.name == "posix" if reuse_address is None else reuse_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if kind == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            try:
                sock.bind(address)
            except OSError as exc:
                text = f"cannot bind to {address}: {(exc.strerror or str(exc)).lower()}"
                raise OSError(exc.errno, text) from None
            sock.listen(backlog)
        if not sockets:
            raise OSError(f"no address of {host!r} can be listened on")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def listen(
    factory: Callable[[], asyncio.BaseProtocol],
    sockets: Sequence[socket.socket],
    logger: logging.Logger,
    **options: Any,
) -> Listener:
    """Accept connections on sockets from now on.

    Args:
        factory: Makes the protocol of a connection, which keeps its transport as ``transport``.
        sockets: Listening sockets in non-blocking mode; the listener closes them.
        logger: Logs a lack of descriptors.
        options: The TLS options of ``loop.connect_accepted_socket()``. ``ssl`` may also be a
            function that returns the context for each connection, so that it can be replaced.
    """
    listener = Listener(factory, sockets, logger, options)
    await listener.accept()
    return listener


class Listener:
    """Listening sockets that accept connections, once told to; :func:`listen` makes one that does.

    Args:
        factory: Makes the protocol of a connection, as for :func:`listen`.
        sockets: Listening sockets in non-blocking mode, to be closed by it.
        logger: Logs a lack of descriptors.
        options: The TLS options, as for :func:`listen`.

    Attributes:
        sockets: The listening sockets.
        servers: Servers for loops without ``add_reader()``.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        sockets: Sequence[socket.socket],
        logger: logging.Logger,
        options: dict[str, Any],
    ) -> None:
        self.sockets = list(sockets)
        self.servers: list[asyncio.Server] = []
        self._loop = asyncio.get_running_loop()
        self._factory = factory
        self._logger = logger
        self._options = options
        self._backoff = AcceptBackoff(logger)
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._opening: dict[asyncio.Task[Any], list[asyncio.BaseProtocol]] = {}

    async def accept(self) -> None:
        """Accept connections from now on, those that wait already included."""
        try:
            self.start()
        except NotImplementedError:
            # Windows' default loop, where descriptors are not scarce.
            for sock in self.sockets:
                self.servers.append(
                    await self._loop.create_server(self._factory, sock=sock, **self.options())
                )

    def options(self) -> dict[str, Any]:
        """Return the options for a connection that is accepted now."""
        context = self._options.get("ssl")
        return {**self._options, "ssl": context()} if callable(context) else self._options

    def start(self) -> None:
        """Accept on all sockets.

        Raises:
            NotImplementedError: The loop does not support ``add_reader()``.
        """
        for sock in self.sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def accept_waiting(self) -> None:
        """Accept the connections that wait now.

        Call this before :meth:`close` if other sockets listen on the same port: the system would
        reset connections that wait at this one, although another could serve them.
        """
        for sock in self.sockets:
            if not self.servers:
                self._accept(sock)

    def close(self) -> None:
        """Stop accepting; connections that are open, or in their TLS handshake, stay."""
        for server in self.servers:
            server.close()
        for pause in self._pauses.values():
            pause.cancel()
        for sock in self.sockets:
            with suppress(NotImplementedError):
                self._loop.remove_reader(sock)
            sock.close()
        self.sockets.clear()

    async def wait_closed(self) -> None:
        """Drop connections whose TLS handshake is not complete."""
        for opening, made in self._opening.items():
            # asyncio closes the transport of a cancelled task. If the protocol has the transport
            # and has closed it already, it would be closed twice, and then ignore abort() for
            # 30 s. That task is left to end by itself, which takes one turn of the loop.
            if all(getattr(protocol, "transport", None) is None for protocol in made):
                opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        """Accept waiting connections."""
        for _ in range(_BURST):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._pause(listener, self._backoff.failed(exc, self._loop.time()))
                return
            self._backoff.succeeded()
            sock.setblocking(False)
            made: list[asyncio.BaseProtocol] = []
            opening = self._loop.create_task(
                self._loop.connect_accepted_socket(
                    partial(self._make, made), sock, **self.options()
                )
            )
            self._opening[opening] = made
            opening.add_done_callback(partial(self._opened, sock))

    def _make(self, made: list[asyncio.BaseProtocol]) -> asyncio.BaseProtocol:
        protocol = self._factory()
        made.append(protocol)
        return protocol

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._pauses[listener] = self._loop.call_later(
            seconds, self._loop.add_reader, listener, self._accept, listener
        )

    def _opened(self, sock: socket.socket, opening: asyncio.Task[Any]) -> None:
        del self._opening[opening]
        if opening.cancelled():
            sock.close()
        elif (error := opening.exception()) is not None:
            # It is disconnected already, or did not send TLS.
            sock.close()
            self._logger.debug(Line("opening-failed", {"reason": str(error)}, "listener"))

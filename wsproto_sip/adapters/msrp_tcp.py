"""MSRP over plain TCP with configured peers, on asyncio, beside an endpoint's server.

Theory of operation: :class:`MsrpService` is what an
:class:`~wsproto_sip.adapters.endpoint_server.EndpointServer` has for a handler. It gives events to
the application, keeps its time, and carries out what it wants with the links. A transport is taken
in only from an address that a peer was configured with, and opened only to one. While a sender is
held back, nothing is read from it; what a transport does not take at once is told the application.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from math import inf
from typing import TYPE_CHECKING, Final, cast

from ._addresses import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..events import Event
    from ..msrp.binding import MsrpApplication
    from .endpoint_server import EndpointServer

__all__ = ["MsrpService"]

_logger = logging.getLogger("wsproto_sip.msrp")

#: Octets of one read.
_READ_SIZE: Final = 64 * 1024

#: Octets in a transport's buffer above which it says so.
_FULL: Final = 32 * 1024

#: Seconds that a transport has to go when the application has done with it.
_LINGER: Final = 5.0


class MsrpService:
    """Runs an application: its events, its time, and its peers' TCP connections.

    Args:
        server: The server, whose handler has to call :meth:`handle`.
        application: The application on the server's endpoint; nobody else may feed it meanwhile.
        peers: Host and port of each of the relay's peers; connections go there and come from
            there alone.
        connect_timeout: Seconds for opening a connection.

    Attributes:
        application: The application.
        loop: The event loop.
    """

    def __init__(
        self,
        server: EndpointServer,
        application: MsrpApplication,
        peers: Mapping[str, tuple[str, int]],
        *,
        connect_timeout: float = 10.0,
    ) -> None:
        self.application = application
        self._peers = peers
        self._connect_timeout = connect_timeout
        self._server = server
        self.loop = server.loop
        self._names: dict[str, str] = {}
        self._links: dict[int, _Link] = {}
        # Those that are not read from.
        self._held: set[_Link] = set()
        self._transports: set[_Link] = set()
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._empty = asyncio.Event()

    def now(self) -> float:
        """The time on the clock that the application is driven with."""
        return self._server.now()

    async def listen(self, host: str | None, port: int) -> list[tuple[str, int]]:
        """Lets the peers connect. Their names are looked up now, and not again.

        Args:
            host: The address to listen on; None for all.
            port: The port; 0 for a free one.

        Returns:
            The addresses and ports.

        Raises:
            OSError: It cannot be listened there, or a peer's name is not known.
            ValueError: Two peers have the same address, so that it tells nobody who connects.
        """
        for name, peer in self._peers.items():
            for *_, address in await self.loop.getaddrinfo(*peer, type=socket.SOCK_STREAM):
                known = self._names.setdefault(canonical(str(address[0])), name)
                if known != name:
                    raise ValueError(f"peers {known} and {name} have the same address")
        server = await self.loop.create_server(lambda: _Link(self), host, port)
        self._listeners.append(server)
        return [listener.getsockname()[:2] for listener in server.sockets]

    def stop_listening(self) -> None:
        """Accepts no more connections; those that are open stay."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def close(self) -> None:
        """Stops: listeners, timer, and the connections with peers."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in list(self._transports):
            link.transport.abort()
        while self._transports:
            self._empty.clear()
            await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()

    def handle(self, cid: int, event: Event) -> bool:
        """Takes an event of the endpoint.

        Args:
            cid: The connection it happened on.
            event: The event.

        Returns:
            Whether it is a connection that speaks MSRP.
        """
        taken = self.application.handle(cid, event, self.now())
        if taken:
            self._carry_out()
        return taken

    # -- between the loop and the application ------------------------------------------------------

    def _carry_out(self) -> None:
        """Does what the application wants, except with the endpoint."""
        application = self.application
        while outputs := application.take_output():
            for output in outputs:
                self._links[output.link].carry_out(output.data, output.close)
        for name in application.take_connects():
            task = self.loop.create_task(self._connect(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for link in list(self._held):
            link.read_if_wanted()
        deadline = application.next_deadline()
        # A timer that comes too early does no harm, and most deadlines are never reached.
        if deadline is not None and (self._timer is None or deadline < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self.loop.call_later(max(deadline - self.now(), 0), self.wake)

    def wake(self) -> None:
        """Does what is due; at deadlines it is called by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.application.handle_timeout(self.now())
        self.settle()

    def settle(self) -> None:
        """Does what the application and the endpoint want."""
        self._carry_out()
        self._server.pump()

    async def _connect(self, name: str) -> None:
        host, port = self._peers[name]
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self.loop.create_connection(lambda: _Link(self, name), host, port)
        except (OSError, ValueError) as exc:
            _logger.info("peer %s: %s", name, str(exc) or "no answer")
            self.application.link_failed(name, self.now())
            self.settle()

    def name_of(self, address: str) -> str | None:
        """The peer that has an address."""
        return self._names.get(canonical(address))

    def joined(self, link: _Link) -> None:
        """Notes a transport."""
        self._transports.add(link)

    def entered(self, number: int, link: _Link) -> None:
        """Notes which link it is."""
        self._links[number] = link

    def held(self, link: _Link, yes: bool) -> None:
        """Notes whether it is not to be read from."""
        if yes:
            self._held.add(link)
        else:
            self._held.discard(link)

    def left(self, link: _Link) -> None:
        """Notes that it is gone."""
        self._transports.discard(link)
        self._held.discard(link)
        self._links.pop(link.number, None)
        if not self._transports:
            self._empty.set()


class _Link(asyncio.BufferedProtocol):
    """One connection with a peer; the peer has opened it, unless its name is given."""

    transport: asyncio.Transport

    def __init__(self, service: MsrpService, name: str | None = None) -> None:
        self._service = service
        self._name = name
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._linger: asyncio.TimerHandle | None = None
        # None of the application's, which passes it over.
        self.number = 0

    # -- beginning and end -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enters it into the application, if it is a peer's."""
        self.transport = transport = cast("asyncio.Transport", transport)
        service = self._service
        service.joined(self)
        transport.set_write_buffer_limits(high=_FULL)
        # A peer that is gone without a word is noticed by and by.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        address = transport.get_extra_info("peername")
        name = self._name
        if name is None and address:
            name = service.name_of(str(address[0]))
        if name is None:
            _logger.info("refused: %s is no peer", address)
            transport.abort()
            return
        application, now = service.application, service.now()
        number = application.link_opened(name, now)
        if number is None:
            _logger.info("peer %s: too many connections", name)
            transport.abort()
            if self._name is not None:
                application.link_failed(name, now)
        else:
            self.number = number
            service.entered(number, self)
        service.settle()

    def eof_received(self) -> None:
        """The peer sends no more; then it gets no more either."""
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._linger is not None:
            self._linger.cancel()
        self._lose()
        self._service.left(self)

    def _lose(self) -> None:
        self._service.application.link_lost(self.number, self._service.now())
        self._service.settle()

    # -- input -------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets have come."""
        service, application = self._service, self._service.application
        application.link_received(self.number, bytes(self._buffer[:nbytes]), service.now())
        if not application.wanted(self.number):
            self.transport.pause_reading()
            service.held(self, True)
        service.settle()

    def read_if_wanted(self) -> None:
        """Reads again, when the application takes more."""
        if self._service.application.wanted(self.number):
            self._service.held(self, False)
            self.transport.resume_reading()

    # -- output ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The transport is full; how much it holds is told behind each write."""

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._tell_backlog()
        self._service.settle()

    def _tell_backlog(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._service.application.link_backlog(self.number, waiting, self._service.now())

    def carry_out(self, data: bytes, close: bool) -> None:
        """Writes, and closes when told to.

        Args:
            data: Octets to write.
            close: Whether to close then.
        """
        transport = self.transport
        if data:
            transport.write(data)
            self._tell_backlog()
        if close:
            self._linger = self._service.loop.call_later(_LINGER, transport.abort)
            transport.close()

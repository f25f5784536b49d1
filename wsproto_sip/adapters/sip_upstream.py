"""The links between an edge and its upstream: a UDP socket, and TCP connections both ways.

Theory of operation: an :class:`UpstreamLinks` has a socket for datagrams, where the upstream is
reached over UDP, a listener for connections that the upstream opens, and one connection that is
opened to it: at once and again and again where the upstream is reached over TCP, and when a request
is too large for a datagram otherwise. What is to be sent while it is being opened waits, within a
bound; when it cannot be opened, or there is too much, the owner is told, and for a while nobody
tries again: the first pause is short, and each failure in a row doubles it.

The upstream's name is looked up when the links are opened, before each connection, and every now
and then. Nothing is taken from any other address; of datagrams the port counts too, because
answers go there. Only addresses are looked up (A and AAAA), no SRV or NAPTR records.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ..sip.edge_config import DATAGRAMS, STREAM
from ..sip.transport import Source
from ._addresses import canonical, is_address

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..sip.edge_config import Upstream

__all__ = ["LinkOwner", "UpstreamLinks"]

_logger = logging.getLogger("wsproto_sip.sip")

#: Octets of one read.
_READ_SIZE: Final = 64 * 1024

#: Octets that a socket may hold for datagrams that have come.
_RECEIVE_BUFFER: Final = 1024 * 1024

#: Seconds until a name is looked up again.
_LOOK_UP: Final = 60.0

#: Seconds that a transport has to go when it is closed.
_LINGER: Final = 5.0


class LinkOwner(Protocol):
    """Whom links tell what happens."""

    def link_received(self, link: int, data: bytes, source: Source) -> None:
        """The upstream has sent something.

        Args:
            link: What it came on.
            data: A datagram, or octets of a stream.
            source: Where it came from.
        """

    def link_lost(self, link: int) -> None:
        """A connection has ended."""

    def link_failed(self) -> None:
        """No connection can be had, and what waited for one is gone."""


class UpstreamLinks:
    """The links of one upstream.

    Args:
        owner: Whom to tell what happens.
        upstream: The upstream.
        bind: Host and port of this side's socket and listener; by default those by which the
            upstream reaches the edge.
        connect_timeout: Seconds for opening a connection.
        pauses: The first and the longest pause between two attempts, in seconds; each lasts
            between half of that and all of it, by chance.
        max_waiting: Octets that may wait for a connection, or for the upstream to read.
        max_connections: Connections that the upstream may have open.
    """

    def __init__(
        self,
        owner: LinkOwner,
        upstream: Upstream,
        *,
        bind: tuple[str, int] | None = None,
        connect_timeout: float = 5.0,
        pauses: tuple[float, float] = (0.25, 8.0),
        max_waiting: int = 1024 * 1024,
        max_connections: int = 32,
    ) -> None:
        self.owner = owner
        self.upstream = upstream
        self.loop = asyncio.get_running_loop()
        host, port = bind or (upstream.local_host, upstream.local_port)
        self._local = (host.strip("[]"), port)
        self._host = upstream.host.strip("[]")
        self._connect_timeout = connect_timeout
        self._first_pause, self._longest_pause = pauses
        self._max_waiting = max_waiting
        self._max_connections = max_connections
        self._family: int = socket.AF_UNSPEC
        #: Where the upstream is, the first one being where datagrams go.
        self._known: list[tuple[str, int]] = []
        self._known_hosts: set[str] = set()
        self._datagrams: asyncio.DatagramTransport | None = None
        self._listener: asyncio.Server | None = None
        self._streams: dict[int, _Stream] = {}
        self._last = STREAM
        #: The connection that is being opened, and what waits for it.
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._waiting_octets = 0
        self._failures = 0
        self._resume: asyncio.TimerHandle | None = None
        self._look_up_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[_Stream] = set()
        self._gone = asyncio.Event()
        self._closed = False

    # -- beginning and end -------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens socket and listener, and begins to connect where the upstream speaks TCP.

        Raises:
            OSError: An address is in use or none of this machine, or the upstream's name is not
                known.
        """
        upstream = self.upstream
        try:
            found = await self.loop.getaddrinfo(*self._local, type=socket.SOCK_STREAM)
            self._family = found[0][0]
            await self._look_up()
            if not upstream.reliable:
                transport, _ = await self.loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=self._local, family=self._family
                )
                self._datagrams = transport
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER
                )
            # Who sends large requests over TCP has to take them so too (RFC 3261 §18.2.1).
            if upstream.reliable or upstream.datagram_limit is not None:
                self._listener = await self.loop.create_server(
                    lambda: _Stream(self), *self._local, family=self._family
                )
        except OSError:
            await self.close()
            raise
        if not is_address(self._host):
            self._look_up_later()
        if upstream.reliable:
            self._connect()

    async def close(self) -> None:
        """Closes everything."""
        self._closed = True
        for timer in (self._resume, self._look_up_timer):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        if self._datagrams is not None:
            self._datagrams.abort()
        for stream in list(self._transports):
            stream.transport.abort()
        while self._transports:
            self._gone.clear()
            await self._gone.wait()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a coroutine until it ends, or the links are closed."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- who it is ---------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        found = await self.loop.getaddrinfo(
            self._host, self.upstream.port, family=self._family, type=socket.SOCK_STREAM
        )
        self._known = [(canonical(str(where[4][0])), self.upstream.port) for where in found]
        self._known_hosts = {host for host, _ in self._known}

    def _look_up_later(self) -> None:
        self._look_up_timer = self.loop.call_later(
            _LOOK_UP, lambda: self.spawn(self._look_up_again())
        )

    async def _look_up_again(self) -> None:
        try:
            await self._look_up()
        except OSError as exc:
            # What was known is better than nothing.
            _logger.info("upstream %s: %s", self.upstream.name, exc)
        self._look_up_later()

    # -- sending -----------------------------------------------------------------------------------

    def send(self, data: bytes, link: int) -> None:
        """Sends something to the upstream.

        Args:
            data: A message, or a keep-alive.
            link: ``DATAGRAMS``, ``STREAM``, or a connection of the upstream's. In the place of one
                that is gone STREAM is used, which is opened where it is not.
        """
        if self._closed:
            return
        if link == DATAGRAMS:
            if self._datagrams is not None:
                self._datagrams.sendto(data, self._known[0])
            return
        stream = self._streams.get(link) or self._streams.get(STREAM)
        if stream is not None:
            stream.write(data)
        elif self._connect() and self._waiting_octets + len(data) <= self._max_waiting:
            self._waiting.append(data)
            self._waiting_octets += len(data)
        else:
            # Not from within the call that wanted it sent.
            self.loop.call_soon(self._fail)

    def reset(self, link: int, reason: str) -> None:
        """Closes a connection when what waits on it is written.

        Args:
            link: Which one; one that is gone is passed over.
            reason: What was wrong, for the log.
        """
        stream = self._streams.get(link)
        if stream is not None:
            _logger.info("upstream %s: closed: %s", self.upstream.name, reason)
            stream.close()

    # -- the connection to the upstream ------------------------------------------------------------

    def _connect(self) -> bool:
        """Begins to open the connection, if that is not under way and no pause holds it back."""
        if self._resume is not None and not self._failures:
            # It has ended, and there is no reason yet to think that it cannot be had again.
            self._resume.cancel()
            self._resume = None
        if self._connecting is None and self._resume is None:
            self._connecting = self.spawn(self._open_stream())
        return self._connecting is not None

    async def _open_stream(self) -> None:
        upstream = self.upstream
        opened = False
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._look_up()
                await self.loop.create_connection(
                    lambda: _Stream(self, STREAM),
                    self._host,
                    upstream.port,
                    family=self._family,
                    local_addr=(self._local[0], 0),
                )
            opened = True
        except (OSError, ValueError) as exc:
            _logger.info("upstream %s: %s", upstream.name, str(exc) or "no answer")
        finally:
            self._connecting = None
        if not opened:
            self._failures += 1
            self._pause()
            self._fail()

    def _pause(self) -> None:
        longest = min(self._first_pause * 2 ** min(self._failures, 30), self._longest_pause)
        pause = longest * (0.5 + random.random() / 2)  # noqa: S311 - spreads, and hides nothing
        self._resume = self.loop.call_later(pause, self._resumed)

    def _resumed(self) -> None:
        self._resume = None
        if self.upstream.reliable:
            self._connect()

    def _fail(self) -> None:
        """Nothing that waits can be sent."""
        self._waiting.clear()
        self._waiting_octets = 0
        if not self._closed:
            self.owner.link_failed()

    # -- what streams say --------------------------------------------------------------------------

    def joined(self, stream: _Stream) -> None:
        """A transport is there."""
        self._transports.add(stream)

    def entered(self, stream: _Stream, address: tuple[str, int]) -> int | None:
        """Which link a connection is; ``None`` for one that is not let in.

        Args:
            stream: The connection.
            address: Where it comes from or goes to.
        """
        name = self.upstream.name
        if stream.link == STREAM:
            self._failures = 0
            self._streams[STREAM] = stream
            waiting, self._waiting = self._waiting, []
            self._waiting_octets = 0
            for data in waiting:
                stream.write(data)
            return STREAM
        if address[0] not in self._known_hosts:
            _logger.info("refused: %s is not upstream %s", address[0], name)
            return None
        if len(self._streams) - (STREAM in self._streams) >= self._max_connections:
            _logger.info("refused: upstream %s has too many connections", name)
            return None
        self._last += 1
        self._streams[self._last] = stream
        return self._last

    def overrun(self, stream: _Stream) -> None:
        """A connection is given up because nothing is read on it."""
        self.ended(stream)
        self.loop.call_soon(self._fail)

    def full(self, waiting: int) -> bool:
        """Whether that many octets are more than may wait."""
        return waiting > self._max_waiting

    def ended(self, stream: _Stream) -> None:
        """A connection takes and gives no more."""
        if self._streams.get(stream.link) is not stream:
            return
        del self._streams[stream.link]
        if self._closed:
            return
        self.owner.link_lost(stream.link)
        if stream.link == STREAM and self.upstream.reliable and self._resume is None:
            # Not at once: one that is closed again and again would be opened as often.
            self._pause()

    def left(self, stream: _Stream) -> None:
        """A transport is gone."""
        self._transports.discard(stream)
        if not self._transports:
            self._gone.set()

    def datagram(self, data: bytes, address: tuple[str, int]) -> None:
        """A datagram has come; from elsewhere it is dropped without a word."""
        host, port = canonical(address[0]), address[1]
        if (host, port) in self._known:
            self.owner.link_received(DATAGRAMS, data, Source(host, port, "udp"))


class _Datagrams(asyncio.DatagramProtocol):
    """The socket for datagrams."""

    def __init__(self, links: UpstreamLinks) -> None:
        self._links = links

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """One has come."""
        self._links.datagram(data, addr)


class _Stream(asyncio.BufferedProtocol):
    """One connection; the upstream has opened it, unless its link is given."""

    transport: asyncio.Transport

    def __init__(self, links: UpstreamLinks, link: int = 0) -> None:
        self._links = links
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._source: Source | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enters it, if it is the upstream's."""
        self.transport = transport = cast("asyncio.Transport", transport)
        links = self._links
        links.joined(self)
        # An upstream that is gone without a word is noticed by and by.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = transport.get_extra_info("peername")
        if peer is None:
            # It was reset before it was accepted.
            transport.abort()
            return
        address = canonical(peer[0]), peer[1]
        link = links.entered(self, address)
        if link is None:
            transport.abort()
            return
        self.link = link
        self._source = Source(*address, "tcp")

    def eof_received(self) -> None:
        """The upstream sends no more; then it gets no more either."""
        self._links.ended(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._linger is not None:
            self._linger.cancel()
        self._links.ended(self)
        self._links.left(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets have come."""
        if self._source is not None and not self.transport.is_closing():
            self._links.owner.link_received(self.link, bytes(self._buffer[:nbytes]), self._source)

    def write(self, data: bytes) -> None:
        """Sends octets, unless the upstream does not read."""
        if self.transport.is_closing():
            return
        self.transport.write(data)
        if self._links.full(self.transport.get_write_buffer_size()):
            _logger.info("upstream %s does not read", self._links.upstream.name)
            self._links.overrun(self)
            self.transport.abort()

    def close(self) -> None:
        """Ends it when everything is written."""
        self._links.ended(self)
        self._linger = self._links.loop.call_later(_LINGER, self.transport.abort)
        self.transport.close()

"""The links between an edge and its upstreams: UDP sockets, and TCP connections both ways.

Theory of operation: a :class:`_Side` is one address of this machine at which upstreams reach the
edge. It has a socket for datagrams and a listener for connections from upstreams, if any of its
upstreams uses them. A :class:`_Server` is one upstream. It sends datagrams from its side's socket,
and has one connection that is opened to it: at once and again after each end if it is reached over
TCP or TLS, otherwise when a request is too large for a datagram. Messages wait while it is being
opened, within a bound. If it cannot be opened, or too much waits, the owner is told, and opening it
pauses: the first pause is short, and each failure in a row doubles it.

An upstream's name is resolved when the links are opened, before each connection, and from time to
time. Input from any other address is dropped; for datagrams the port must match too, because
answers go there. Only addresses are looked up here (A and AAAA).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...sip.edge.config import DATAGRAMS, STREAM
from ...sip.message.transport import Source
from ...sip.rules.certificate import names_domain
from .._addresses import canonical, is_address
from ..reports import LOGGERS, report
from .listening import listen, open_sockets
from .transport import StreamProtocol, silence

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from ...sip.edge.config import Upstream
    from .listening import Listener

__all__ = ["LinkOwner", "UpstreamLinks"]


#: Options of Linux to report ICMP errors on unconnected sockets; Python does not define them.
_HEEDS_ICMP: Final = sys.platform == "linux"
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_UNREACHABLE: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
#: Bytes of the report of an ICMP error, which begins with its errno.
_REPORT_SIZE: Final = 512

#: How TCP gives up a connection between nodes, which are near each other.
_NODE_SILENCE: Final = silence(5, 2, 10_000)

#: Size of the receive buffer for datagrams, in bytes.
_RECEIVE_BUFFER: Final = 1024 * 1024

#: Seconds until a name is resolved again.
_LOOK_UP: Final = 60.0

#: Seconds for which links of a removed upstream stay open, for pending calls.
_RETIREMENT: Final = 300.0


class LinkOwner(Protocol):
    """The receiver of link events. The first argument is always the name of the upstream."""

    def link_received(self, upstream: str, link: int, data: bytes, source: Source) -> None:
        """Process bytes from an upstream.

        Args:
            upstream: Its name.
            link: The link they arrived on.
            data: A datagram, or bytes of a stream.
            source: The address they came from.
        """

    def link_opened(self, upstream: str) -> None:
        """Handle a new connection to an upstream."""

    def link_lost(self, upstream: str, link: int) -> None:
        """Handle the end of a connection."""

    def link_failed(self, upstream: str, link: int, reason: str) -> None:
        """Handle a link on which nothing that was sent can arrive.

        Args:
            upstream: The name of the upstream.
            link: ``STREAM``: no connection can be made, and waiting messages are dropped;
                ``DATAGRAMS``: the network reports that datagrams are not received.
            reason: The reason reported by the network.
        """


class UpstreamLinks:
    """The links of the upstreams of an edge.

    Args:
        owner: Receives the events of links.
        upstreams: The upstreams.
        bind: Host and port of sockets and listeners, by the local host and port of upstreams, if
            those are not this machine's.
        client_tls: Verifies the certificates of upstreams reached over TLS, and may contain
            a certificate of our own. It leaves the check of names to the links, because SIP has its
            own rules for that (RFC 5922).
        server_tls: The TLS context for the connections that such upstreams open. Without it they
            cannot open any. A certificate that it has verified must be the upstream's.
        connect_timeout: Seconds for opening a connection.
        pauses: The first and the longest pause between two attempts, in seconds; each is a random
            time between half of that and all of it.
        max_waiting: Bytes that may wait for a connection, or for the upstream to read.
        max_connections: Connections that each upstream may open.

    Raises:
        ValueError: An upstream is reached over TLS, but ``client_tls`` is missing.
    """

    def __init__(
        self,
        owner: LinkOwner,
        upstreams: Sequence[Upstream],
        *,
        bind: Mapping[tuple[str, int], tuple[str, int]] | None = None,
        client_tls: ssl.SSLContext | None = None,
        server_tls: ssl.SSLContext | None = None,
        connect_timeout: float = 5.0,
        pauses: tuple[float, float] = (0.25, 8.0),
        max_waiting: int = 1024 * 1024,
        max_connections: int = 32,
    ) -> None:
        self.owner = owner
        self.loop = asyncio.get_running_loop()
        self.bind = dict(bind or {})
        self.client_tls = client_tls
        self.server_tls = server_tls
        self.connect_timeout = connect_timeout
        self.pauses = pauses
        self.max_waiting = max_waiting
        self.max_connections = max_connections
        self.closed = False
        #: Called when a connection comes from elsewhere: its upstream may be found then.
        self.introduce: Callable[[], Awaitable[object]] | None = None
        #: Connections that wait for that.
        self.strangers = 0
        self._upstreams = list(upstreams)
        self._check_tls(upstreams)
        self._sides: dict[tuple[str, int], _Side] = {}
        self._servers: dict[str, _Server] = {}
        self._retired: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[_Stream] = set()
        self._gone = asyncio.Event()

    @property
    def out_of_reach(self) -> frozenset[str]:
        """The names of upstreams, and nodes, to which the last attempt to connect has failed."""
        servers = self._servers.items()
        return frozenset([name for name, each in servers if each.out_of_reach and not each.retired])

    def _check_tls(self, upstreams: Sequence[Upstream]) -> None:
        if self.client_tls is None and any(upstream.secure for upstream in upstreams):
            raise ValueError("an upstream is reached over TLS, but client_tls is missing")

    # -- beginning and end -------------------------------------------------------------------------

    async def open(self) -> None:
        """Open sockets and listeners, and start to connect to upstreams over TCP or TLS.

        Raises:
            OSError: An address is in use or not this machine's, or no name can be resolved.
        """
        try:
            await self._open(self._upstreams)
        except OSError:
            await self.close()
            raise

    async def listen(self, local: tuple[str, int], *, secure: bool) -> None:
        """Listen for connections at an address, before an upstream is known that uses it.

        Args:
            local: The local host and port of such upstreams.
            secure: Whether they are reached over TLS.

        Raises:
            OSError: The address is in use or not this machine's.
        """
        await self._side_at(local).listen(secure=secure)

    async def use(self, upstreams: Sequence[Upstream]) -> None:
        """Use other upstreams from now on. Links of upstreams with the same names stay.

        The links of the others are closed after a few minutes, since calls may still need them.

        Args:
            upstreams: The upstreams.

        Raises:
            OSError: As for :meth:`open`; the upstreams are unchanged then.
            ValueError: As for :class:`UpstreamLinks`.
        """
        self._check_tls(upstreams)
        await self._open(upstreams)
        names = {upstream.name for upstream in upstreams}
        for name in [name for name in self._servers if name not in names]:
            server = self._servers[name]
            if not server.retired:
                server.retired = True
                self.loop.call_later(_RETIREMENT, self._retire, server)

    def use_tls(self, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext | None) -> None:
        """Use other certificates from now on. Connections that are open stay.

        Args:
            client_tls: As for :class:`UpstreamLinks`.
            server_tls: As for :class:`UpstreamLinks`; ``None`` for the one of before.
        """
        self.client_tls = client_tls
        self.server_tls = server_tls or self.server_tls

    def _retire(self, server: _Server) -> None:
        if server.retired and not self.closed:
            del self._servers[server.upstream.name]
            self._drop(server)

    @staticmethod
    def _drop(server: _Server) -> None:
        server.retired = False
        server.close()
        server.side.remove(server)

    async def _open(self, upstreams: Sequence[Upstream]) -> None:
        fresh: list[_Server] = []
        failures: list[tuple[str, OSError]] = []
        for upstream in upstreams:
            known = self._servers.get(upstream.name)
            if known is not None and known.is_at(upstream):
                # It is the same one, but its certificate may be for another name.
                known.upstream, known.retired = upstream, False
                continue
            side = self._side_at(upstream.local)
            await side.open_for(upstream)
            server = _Server(self, side, upstream)
            fresh.append(server)
            try:
                await server.look_up()
            except OSError as exc:
                failures.append((upstream.name, exc))
        if failures and len(failures) == len(upstreams):
            raise failures[0][1]
        for name, failure in failures:
            report("sip", logging.WARNING, "link-not-found", upstream=name, reason=str(failure))
        for server in fresh:
            moved = self._servers.pop(server.upstream.name, None)
            if moved is not None:
                self._drop(moved)
            self._servers[server.upstream.name] = server
            server.start()

    def _side_at(self, local: tuple[str, int]) -> _Side:
        side = self._sides.get(local)
        if side is None:
            side = self._sides[local] = _Side(self, local)
        return side

    async def close(self) -> None:
        """Close everything."""
        self.closed = True
        # Tasks end first. asyncio closes the transport of a connection whose opening is cancelled,
        # and a TLS transport that is closed twice ignores abort() for 30 s.
        await self._end_tasks()
        for server in self._servers.values():
            server.close()
        await self._end_tasks()
        for side in self._sides.values():
            await side.close()
        for stream in list(self._transports):
            stream.transport.abort()
        while self._transports:
            self._gone.clear()
            await self._gone.wait()

    async def _end_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until it ends, or the links are closed."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- sending -----------------------------------------------------------------------------------

    def send(self, upstream: str, data: bytes, link: int) -> None:
        """Send data to an upstream.

        Args:
            upstream: The name of the upstream; unknown ones are ignored.
            data: A message, or a keep-alive.
            link: ``DATAGRAMS``, ``STREAM``, or a connection of the upstream. STREAM replaces one
                that has ended, and is opened if necessary.
        """
        server = self._servers.get(upstream)
        if server is not None and not self.closed:
            server.send(data, link)

    def reset(self, upstream: str, link: int, reason: str) -> None:
        """Close a connection after its pending output is written.

        Args:
            upstream: The name of the upstream.
            link: The link; one that has ended is ignored.
            reason: What was wrong, for the log.
        """
        server = self._servers.get(upstream)
        if server is not None:
            server.reset(link, reason)

    # -- called by streams -------------------------------------------------------------------------

    def joined(self, stream: _Stream) -> None:
        """Record a transport."""
        self._transports.add(stream)

    def left(self, stream: _Stream) -> None:
        """Remove a transport."""
        self._transports.discard(stream)
        if not self._transports:
            self._gone.set()

    def full(self, waiting: int) -> bool:
        """Return whether that many bytes exceed the bound."""
        return waiting > self.max_waiting


class _Side:
    """One address at which upstreams reach the edge.

    Args:
        links: The links it belongs to.
        local: The address as written in messages.
    """

    def __init__(self, links: UpstreamLinks, local: tuple[str, int]) -> None:
        self._links = links
        host, port = links.bind.get(local, local)
        self.local = (host.strip("[]"), port)
        self.family: int = socket.AF_UNSPEC
        self.datagrams: asyncio.DatagramTransport | None = None
        self._address: Any = None
        self._sock: socket.socket | None = None
        self._listener: Listener | None = None
        self._servers: list[_Server] = []
        #: The upstreams by the sources of their datagrams.
        self._sources: dict[tuple[str, int], _Server] = {}

    async def open_for(self, upstream: Upstream) -> None:
        """Open what an upstream needs, unless it is open already.

        Raises:
            OSError: The address is in use or not this machine's.
        """
        links = self._links
        await self._find_address()
        if not upstream.reliable and self.datagrams is None:
            self._sock = sock = self._datagram_socket()
            self.datagrams, _ = await links.loop.create_datagram_endpoint(
                lambda: _Datagrams(self), sock=sock
            )
        # An element that sends large requests over TCP must accept them, too (RFC 3261 §18.2.1).
        if upstream.reliable or upstream.datagram_limit is not None:
            await self.listen(secure=upstream.secure)

    async def _find_address(self) -> None:
        if self._address is None:
            found = await self._links.loop.getaddrinfo(*self.local, type=socket.SOCK_STREAM)
            self.family, self._address = found[0][0], found[0][4]

    async def listen(self, *, secure: bool) -> None:
        """Listen for connections of upstreams, unless it does already.

        Args:
            secure: Whether they use TLS, without whose context none is accepted.

        Raises:
            OSError: The address is in use or not this machine's.
        """
        links = self._links
        options: dict[str, Any] = {}
        if self._listener is not None or (secure and links.server_tls is None):
            return
        await self._find_address()
        if secure:
            options["ssl"] = lambda: links.server_tls
        sockets = await open_sockets(*self.local, family=self.family)
        transport = "tls" if secure else "tcp"
        self._listener = await listen(
            lambda: _Stream(links, self, transport), sockets, LOGGERS["sip"], **options
        )

    def _datagram_socket(self) -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if _HEEDS_ICMP:
                if self.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            sock.bind(self._address)
        except OSError:
            sock.close()
            raise
        return sock

    async def close(self) -> None:
        """Close socket and listener."""
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
        if self.datagrams is not None:
            self.datagrams.abort()

    def add(self, server: _Server) -> None:
        """Add an upstream, or update its addresses."""
        if server not in self._servers:
            self._servers.append(server)
        self._note_sources()

    def remove(self, server: _Server) -> None:
        """Remove an upstream, whose input is then dropped."""
        self._servers.remove(server)
        self._note_sources()

    def _note_sources(self) -> None:
        self._sources = {}
        for server in self._servers:
            if not server.upstream.reliable:
                for address in server.known:
                    self._sources.setdefault(address, server)

    def server_at(self, host: str, certificate: Mapping[str, Any] | None) -> _Server | str:
        """Return the upstream that has opened a connection.

        Args:
            host: The address it comes from.
            certificate: The peer's certificate, if any.

        Returns:
            The upstream, or the reason why it is not one.
        """
        servers = [item for item in self._servers if any(host == known for known, _ in item.known)]
        if not servers:
            return "not an upstream"
        for server in servers:
            if not certificate or server.is_shown_by(certificate):
                return server
        return "the certificate is not for the upstream"

    def datagram(self, data: bytes, address: tuple[str, int]) -> None:
        """Process a datagram; one from another source is silently dropped."""
        source = canonical(address[0]), address[1]
        server = self._sources.get(source)
        if server is not None:
            server.datagram(data, Source(*source, "udp"))

    def datagram_error(self, exc: Exception) -> None:
        """Process ICMP errors that the kernel reports (RFC 3261 §18.4)."""
        failed: dict[tuple[str, int], OSError] = {}
        sock = self._sock
        if _HEEDS_ICMP and sock is not None:
            # The socket stays ready until its errors are read.
            with suppress(OSError):
                while True:
                    _, reports, _, address = sock.recvmsg(0, _REPORT_SIZE, socket.MSG_ERRQUEUE)
                    for _, _, report in reports:
                        (number,) = struct.unpack_from("I", report)
                        error = OSError(number, os.strerror(number))
                        failed[canonical(address[0]), address[1]] = error
        elif isinstance(exc, OSError) and len(self._servers) == 1:
            failed = dict.fromkeys(self._sources, exc)
        for source, error in failed.items():
            server = self._sources.get(source)
            if server is not None and error.errno in _UNREACHABLE:
                server.datagrams_refused(error)


class _Server:
    """One upstream.

    Args:
        links: The links it belongs to.
        side: The address at which it reaches the edge.
        upstream: The upstream.
    """

    def __init__(self, links: UpstreamLinks, side: _Side, upstream: Upstream) -> None:
        self.upstream = upstream
        self.side = side
        #: Its addresses; datagrams go to the first.
        self.known: list[tuple[str, int]] = []
        #: Whether it was removed.
        self.retired = False
        self._links = links
        self._host = upstream.host.strip("[]")
        #: Whether the network last reported that datagrams are not received.
        self._refused = False
        self._streams: dict[int, _Stream] = {}
        self._last = STREAM
        #: The connection that is being opened, and the messages that wait for it.
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._failures = 0
        self._resume: asyncio.TimerHandle | None = None
        self._look_up_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def is_at(self, upstream: Upstream) -> bool:
        """Return whether an upstream of the same name is where this one is."""
        mine, other = self.upstream, upstream
        return (mine.host, mine.port, mine.local, mine.transport) == (
            *(other.host, other.port, other.local, other.transport),
        )

    def start(self) -> None:
        """Keep its name resolved, and connect to it if it is reached over TCP or TLS."""
        self.side.add(self)
        if not is_address(self._host):
            self._look_up_later()
        if self.upstream.reliable:
            self._connect()

    def close(self) -> None:
        """End its connections and timers."""
        self._closed = True
        for timer in (self._resume, self._look_up_timer):
            if timer is not None:
                timer.cancel()
        if self._connecting is not None and STREAM not in self._streams:
            self._connecting.cancel()
        for stream in list(self._streams.values()):
            stream.close()

    # -- its addresses -----------------------------------------------------------------------------

    async def look_up(self) -> None:
        """Resolve its name.

        Raises:
            OSError: Its name cannot be resolved.
        """
        found = await self._links.loop.getaddrinfo(
            self._host, self.upstream.port, family=self.side.family, type=socket.SOCK_STREAM
        )
        self.known = [(canonical(str(where[4][0])), self.upstream.port) for where in found]

    def _look_up_later(self) -> None:
        self._look_up_timer = self._links.loop.call_later(
            _LOOK_UP, lambda: self._links.spawn(self._look_up_again())
        )

    async def _look_up_again(self) -> None:
        try:
            await self.look_up()
            self.side.add(self)
        except OSError as exc:
            # Keep using the earlier addresses.
            self._report(logging.INFO, "link-not-found", reason=str(exc))
        if not self._closed:
            self._look_up_later()

    def is_shown_by(self, certificate: Mapping[str, Any] | None) -> bool:
        """Return whether a verified certificate is this upstream's (RFC 5922 §7)."""
        return names_domain(certificate or {}, self.upstream.tls_name or self._host)

    @property
    def out_of_reach(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return bool(self._failures)

    def _report(self, level: int, event: str, **fields: str) -> None:
        kind = "node" if self.upstream.is_node else "upstream"
        named: dict[str, str] = {kind: self.upstream.name, **fields}
        report("sip", level, event, about=None, **named)

    # -- sending -----------------------------------------------------------------------------------

    def send(self, data: bytes, link: int) -> None:
        """Send data; see :meth:`UpstreamLinks.send`."""
        loop = self._links.loop
        if link == DATAGRAMS:
            datagrams = self.side.datagrams
            if datagrams is not None and self.known:
                datagrams.sendto(data, self.known[0])
            else:
                loop.call_soon(self._datagrams_failed, "its name cannot be resolved")
            return
        stream = self._streams.get(link) or self._streams.get(STREAM)
        if stream is not None:
            stream.write(data)
        elif self._connect() and not self._links.full(self._waiting_bytes + len(data)):
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        else:
            # Not from within the call that sends it.
            loop.call_soon(self._drop_stream, "there is no connection")

    def reset(self, link: int, reason: str) -> None:
        """Close a connection; see :meth:`UpstreamLinks.reset`."""
        stream = self._streams.get(link)
        if stream is not None:
            self._report(logging.INFO, "link-closed", reason=reason)
            stream.close()

    # -- the connection to the upstream ------------------------------------------------------------

    def _connect(self) -> bool:
        """Start to open the connection, unless it is being opened or a pause forbids it."""
        if self._resume is not None and not self._failures:
            # It has ended, but no attempt to open it again has failed yet.
            self._resume.cancel()
            self._resume = None
        if self._connecting is None and self._resume is None:
            self._connecting = self._links.spawn(self._open_stream())
        return self._connecting is not None

    async def _open_stream(self) -> None:
        upstream, links = self.upstream, self._links
        reason = ""
        tls: dict[str, Any] = {}
        if upstream.secure:
            tls = {"ssl": links.client_tls, "server_hostname": upstream.tls_name or self._host}
        transport = "tls" if upstream.secure else "tcp"
        try:
            async with asyncio.timeout(links.connect_timeout):
                await self.look_up()
                self.side.add(self)
                _, stream = await links.loop.create_connection(
                    lambda: _Stream(links, self.side, transport, self),
                    self._host,
                    upstream.port,
                    family=self.side.family,
                    local_addr=(self.side.local[0], 0),
                    **tls,
                )
            if stream.refusal:
                reason = stream.refusal
        except (OSError, ValueError) as exc:
            reason = str(exc) or "no answer"
        finally:
            self._connecting = None
        if reason:
            # Warn once, and not again at each attempt.
            level = logging.INFO if self._failures else logging.WARNING
            self._report(level, "link-down", reason=reason)
            self._failures += 1
            self._pause()
            self._drop_stream(reason)

    def _pause(self) -> None:
        first, longest = self._links.pauses
        most = min(first * 2 ** min(self._failures, 30), longest)
        pause = most * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, not security
        self._resume = self._links.loop.call_later(pause, self._resumed)

    def _resumed(self) -> None:
        self._resume = None
        if self.upstream.reliable:
            self._connect()

    def _drop_stream(self, reason: str) -> None:
        """Drop waiting messages, which cannot be sent."""
        self._waiting.clear()
        self._waiting_bytes = 0
        if not self._links.closed:
            self._links.owner.link_failed(self.upstream.name, STREAM, reason)

    # -- called by streams and datagrams -----------------------------------------------------------

    def opened(self, stream: _Stream) -> None:
        """Use the new connection to the upstream, and send what waits for it."""
        if self._failures:
            self._report(logging.WARNING, "link-up")
        self._failures = 0
        self._streams[STREAM] = stream
        self._watch(stream)
        waiting, self._waiting = self._waiting, []
        self._waiting_bytes = 0
        for data in waiting:
            stream.write(data)
        self._links.owner.link_opened(self.upstream.name)

    def accepted(self, stream: _Stream) -> int | None:
        """Add a connection that the upstream has opened.

        Returns:
            Its link; ``None`` if there are too many.
        """
        if len(self._streams) - (STREAM in self._streams) >= self._links.max_connections:
            return None
        self._last += 1
        self._streams[self._last] = stream
        self._watch(stream)
        if self._resume is not None:
            # It is there again, so there is nothing to wait for any more.
            self._resume.cancel()
            self._resumed()
        return self._last

    def _watch(self, stream: _Stream) -> None:
        """Let TCP give up a connection with another node soon, since nothing else probes it."""
        if self.upstream.is_node:
            stream.keep_alive(_NODE_SILENCE)

    def overrun(self, stream: _Stream) -> None:
        """Give up a connection whose peer does not read."""
        self._report(logging.INFO, "link-closed", reason="it does not read")
        self.ended(stream)
        self._links.loop.call_soon(self._drop_stream, "it does not read")

    def ended(self, stream: _Stream) -> None:
        """Handle the end of a connection."""
        if self._streams.get(stream.link) is not stream:
            return
        del self._streams[stream.link]
        if self._links.closed:
            return
        self._links.owner.link_lost(self.upstream.name, stream.link)
        again = stream.link == STREAM and self.upstream.reliable and not self._closed
        if again and self._resume is None:
            # Not at once: a connection that keeps being closed would be reopened as often.
            self._pause()

    def datagram(self, data: bytes, source: Source) -> None:
        """Process a datagram from the upstream."""
        if self._refused:
            self._report(logging.WARNING, "link-up")
        self._refused = False
        self._links.owner.link_received(self.upstream.name, DATAGRAMS, data, source)

    def datagrams_refused(self, exc: OSError) -> None:
        """Handle a report of the network that datagrams are not received."""
        level = logging.INFO if self._refused else logging.WARNING
        self._report(level, "link-down", reason=str(exc))
        self._refused = True
        # Not from within a call that sends something.
        self._links.loop.call_soon(self._datagrams_failed, str(exc))

    def _datagrams_failed(self, reason: str) -> None:
        if not self._links.closed:
            self._links.owner.link_failed(self.upstream.name, DATAGRAMS, reason)


class _Datagrams(asyncio.DatagramProtocol):
    """The socket for datagrams."""

    def __init__(self, side: _Side) -> None:
        self._side = side

    def error_received(self, exc: Exception) -> None:
        """Process an error reported by the network."""
        self._side.datagram_error(exc)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Process a datagram."""
        self._side.datagram(data, addr)


class _Stream(StreamProtocol):
    """One connection, opened by the upstream unless its server is given.

    Args:
        links: The links it belongs to.
        side: Its address on this side.
        transport: ``tcp`` or ``tls``.
        server: The upstream that it was opened to.
    """

    def __init__(
        self, links: UpstreamLinks, side: _Side, transport: str, server: _Server | None = None
    ) -> None:
        super().__init__()
        self._links = links
        self._side = side
        self._transport_name = transport
        self._server = server
        self._source: Source | None = None
        self.link = 0 if server is None else STREAM
        #: The reason why it is refused.
        self.refusal = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the connection, if it is an upstream's."""
        self._begin_on(transport)
        self.keep_alive()
        self._links.joined(self)
        peer = transport.get_extra_info("peername")
        if peer is None:
            # It was reset before it was accepted.
            self._drop_transport()
            return
        address = canonical(peer[0]), peer[1]
        certificate = transport.get_extra_info("peercert")
        server = self._server
        if server is None:
            self.refusal = self._accept(address[0], certificate)
            introduce = self._links.introduce
            room = self._links.strangers < self._links.max_connections
            if self.refusal and introduce is not None and room:
                self._links.strangers += 1
                self.transport.pause_reading()
                self._links.spawn(self._be_introduced(introduce, address, certificate))
                return
            if self.refusal:
                self._report_refusal(address[0])
        elif server.upstream.secure and not server.is_shown_by(certificate):
            self.refusal = "the certificate is not for the upstream"
        if self.refusal:
            self._drop_transport()
            return
        self._source = Source(*address, self._transport_name)
        if server is not None:
            server.opened(self)

    def _report_refusal(self, address: str) -> None:
        fields = {"address": address, "reason": self.refusal}
        report("sip", logging.INFO, "link-refused", about=address, **fields)

    async def _be_introduced(
        self,
        introduce: Callable[[], Awaitable[object]],
        address: tuple[str, int],
        certificate: Mapping[str, Any] | None,
    ) -> None:
        """Wait for the upstream to be known that has opened the connection."""
        links = self._links
        # An early 3.11 starts to read after connection_made(), whether it is paused or not.
        self.transport.resume_reading()
        self.transport.pause_reading()
        try:
            await introduce()
        finally:
            links.strangers -= 1
        if self.transport.is_closing():
            return
        self.refusal = self._accept(address[0], certificate)
        if self.refusal:
            self._report_refusal(address[0])
            self._drop_transport()
            return
        self._source = Source(*address, self._transport_name)
        self.transport.resume_reading()

    def _accept(self, host: str, certificate: Mapping[str, Any] | None) -> str:
        """Enter a connection that an upstream has opened; return the reason if it is refused."""
        server = self._side.server_at(host, certificate)
        if isinstance(server, str):
            return server
        link = server.accepted(self)
        if link is None:
            return f"upstream {server.upstream.name} has too many connections"
        self._server, self.link = server, link
        return ""

    def eof_received(self) -> None:
        """Handle the end of the input, which also ends the output."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        self._end_lingering()
        self._end()
        self._links.left(self)

    def _end(self) -> None:
        if self._server is not None:
            self._server.ended(self)

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes from the transport."""
        server = self._server
        if server is None or self._source is None or self.transport.is_closing():
            return
        data = self._read(nbytes)
        self._links.owner.link_received(server.upstream.name, self.link, data, self._source)

    def write(self, data: bytes) -> None:
        """Send bytes, or give the connection up if the upstream does not read."""
        if self.transport.is_closing():
            return
        self._write(data)
        if self._server is not None and self._links.full(self._backlog()):
            self._server.overrun(self)
            self._drop_transport()

    def close(self) -> None:
        """Close the connection after everything is written."""
        self._end()
        self._linger(self._links.loop)
        self._close_transport()

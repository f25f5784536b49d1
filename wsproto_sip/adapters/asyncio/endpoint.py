"""An :class:`~wsproto_sip.server.endpoint.Endpoint` on asyncio.

Theory of operation: every callback of a transport becomes one call of the endpoint, its events go
to the handler, and :meth:`EndpointServer.pump` then does what the endpoint asks for: write bytes,
close or open transports, keep one timer for the next deadline. All transports read into one buffer,
because received bytes are parsed before the loop does anything else. On loops where reads are
pending between callbacks (Windows), each transport has its own.

A transport is entered into the endpoint when it is accepted, or after the header of the PROXY
protocol, and TLS only starts then: a client that is slow in its TLS handshake counts like any
other, and has the deadline of the opening handshake.

Back-pressure goes both ways. A transport is not read while its own buffer is full, or while its
session has not parsed earlier bytes; and the endpoint knows how many bytes wait.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from ...frame_protocol import CloseReason
from ...policy.proxy_protocol import ProxyHeaderParser
from ...server.events import AdmissionPending, CapacityError, Closed, UnknownConnectionError
from ...session.lifecycle import TransportAction
from ...utilities import LocalProtocolError, RemoteProtocolError
from .._lines import LOGGERS, address_text, report, report_failure
from .._listening import as_address, open_listener, peer_of, place_of, unlink
from .answers import answer_to
from .dial import ATTEMPT_DELAY, dial
from .listening import Listener, open_sockets
from .proxy import on_socket
from .transport import StreamProtocol

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Coroutine

    from ...events import Event
    from ...policy.forwarded import TrustedNetworks
    from ...server.endpoint import Endpoint
    from ...server.events import Connect
    from ...typing import Address
    from .answers import Resolve
    from .listening import Listener

__all__ = ["EndpointServer"]


#: Bytes of one read.
_READ_SIZE: Final = 256 * 1024

#: Seconds within which a proxy must send its header.
_PROXY_TIMEOUT: Final = 10.0


class EndpointServer:
    """Connect an endpoint to the transports of the running event loop.

    Args:
        endpoint: The endpoint; no other code may feed it meanwhile.
        handler: Called with every event and the id of its connection. What it sends is written
            when it returns. If it raises, the exception is logged and the connection closed with
            1011; of its later events, only the end is passed to the handler.
        proxies: Networks whose connections begin with a header of the PROXY protocol, before any
            TLS.
        resolve: An async function that answers the deferred questions of policies, such as
            :class:`~wsproto_sip.adapters.asyncio.answers.Answers`. Without it, the handler gets
            each :class:`~wsproto_sip.server.events.AdmissionPending`.
        clock: Returns the time in seconds; the loop's by default. After advancing another clock,
            call :meth:`wake`.

    Attributes:
        endpoint: The endpoint.
        loop: The event loop.
        proxies: The networks of proxies; may be replaced, for connections to come.
        closed: Whether :meth:`close` was called.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        handler: Callable[[int, Event], object],
        *,
        proxies: TrustedNetworks | None = None,
        resolve: Resolve | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self.proxies = proxies
        self._resolve = resolve
        self._clock = self.loop.time if clock is None else clock
        self._handler = handler
        self._transports: set[_Peer] = set()
        self._peers: dict[int, _Peer] = {}
        # Connections whose handler has failed, so that no peer can fill the log.
        self._failed: set[int] = set()
        # Transports that are not read because their sessions have unfinished work.
        self._stalled: set[_Peer] = set()
        # Transports that had unwritten bytes when last asked.
        self._backlogged: set[_Peer] = set()
        # Transports whose PROXY header is pending: nothing else bounds them.
        self._announced: set[_Peer] = set()
        self._listeners: list[Listener] = []
        # Those of them that do not accept connections yet.
        self._waiting: list[Listener] = []
        # Those on a port that other processes listen on, too.
        self._sharing: list[Listener] = []
        # The Unix sockets whose paths are removed at the end.
        self._paths: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._tls: ssl.SSLContext | None = None
        self._empty = asyncio.Event()
        self.closed = False

    def now(self) -> float:
        """Return the time on the clock that drives the endpoint."""
        return self._clock()

    async def listen(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        unix: str | None = None,
        sock: socket.socket | int | None = None,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        backlog: int = 100,
        reuse_port: bool = False,
        accept: bool = True,
    ) -> list[tuple[str, int]]:
        """Start to accept connections, at one more place if it already does.

        Args:
            host: The address to listen on; ``None`` for all.
            port: The port; 0 for a free one.
            unix: The path of a Unix socket to listen on instead. The address of its clients is
                ``unix-`` with the number of their user, or ``unix`` if that is unknown.
            sock: A socket to listen on instead, or its descriptor, for example an inherited one.
            tls: The TLS context, for wss; or a function that returns it for each connection, so
                that it can be replaced while the server runs.
            backlog: Connections that may wait to be accepted.
            reuse_port: Whether other processes may listen on the same address and port
                (``SO_REUSEPORT``); the system shares connections out.
            accept: Whether to accept connections at once. Otherwise they wait in the backlog until
                :meth:`accept`, for services that have to know the port before they can start.

        Returns:
            The addresses and ports; for a Unix socket its path, with port 0.

        Raises:
            OSError: The server cannot listen there.
            TypeError: Not exactly one place is named.
        """
        given = open_listener(port, unix, sock, backlog)
        if given is None:
            sockets = await open_sockets(host, port or 0, backlog=backlog, reuse_port=reuse_port)
        else:
            sockets = [given]
        listener = Listener(
            lambda: _Peer(self, tls() if callable(tls) else tls), sockets, LOGGERS["ws"], {}
        )
        self._listeners.append(listener)
        if accept:
            await listener.accept()
        else:
            self._waiting.append(listener)
        if reuse_port:
            self._sharing.append(listener)
        # An inherited socket's path belongs to the program that made it.
        self._paths += sockets if unix is not None else []
        return [place_of(sock) for sock in sockets]

    async def accept(self) -> None:
        """Accept connections at the places where :meth:`listen` was told to wait with it."""
        waiting, self._waiting = self._waiting, []
        for listener in waiting:
            await listener.accept()

    def use_client_tls(self, context: ssl.SSLContext) -> None:
        """Set the TLS context of connections that this side opens.

        Args:
            context: The context; by default, one with the system's certificates.
        """
        self._tls = context

    def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay."""
        for sock in self._paths:
            unlink(sock)
        for listener in self._sharing:
            listener.accept_waiting()
        for listener in self._listeners:
            listener.close()
        self._listeners, self._waiting, self._sharing, self._paths = [], [], [], []

    async def drain(self, seconds: float) -> None:
        """Close all connections over a time, and wait until they are gone.

        :func:`~wsproto_sip.adapters.asyncio.drain.stop` also stops listening first.

        Args:
            seconds: The time for that; transports have a moment more.
        """
        now = self.now()
        self.endpoint.drain(now, now + seconds)
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + 1):
                await self.emptied()

    async def close(self) -> None:
        """Close listeners, timer, and everything that is still open, for good."""
        self.closed = True
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in list(self._transports):
            peer.transport.abort()
        await self.emptied()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def transports(self) -> int:
        """The number of open transports."""
        return len(self._transports)

    async def emptied(self) -> None:
        """Wait until all transports are closed."""
        while self._transports:
            self._empty.clear()
            await self._empty.wait()

    # -- between the loop and the endpoint ---------------------------------------------------------

    def dispatch(self, cid: int, events: list[Event]) -> None:
        """Pass events to the handler, then do what the endpoint asks for.

        Args:
            cid: The connection.
            events: Its events.
        """
        for event in events:
            self._handle(cid, event)
        self.pump()

    def _handle(self, cid: int, event: Event) -> None:
        if cid in self._failed:
            if not isinstance(event, Closed):
                return
            self._failed.discard(cid)
        if isinstance(event, AdmissionPending) and self._resolve is not None:
            self.spawn(self._decide(cid, event.question))
            return
        try:
            self._handler(cid, event)
        except Exception as exc:
            report_failure("ws", "handler-failed", exc, connection=cid)
            # The connection may have ended already.
            with suppress(UnknownConnectionError):
                self.endpoint.close(
                    cid, CloseReason.INTERNAL_ERROR, "internal error", now=self.now()
                )
                self._failed.add(cid)

    async def _decide(self, cid: int, question: object) -> None:
        answer = await answer_to(self._resolve, question)
        self.dispatch(cid, self.endpoint.decide(cid, answer, self.now()))

    def pump(self) -> None:
        """Do what the endpoint asks for; call this after using the endpoint from outside."""
        endpoint = self.endpoint
        for output in endpoint.take_output():
            peer = self._peers.get(output.cid)
            if peer is not None:
                peer.carry_out(output.data, output.action)
            elif output.cid in self._connecting:
                self._connecting[output.cid].cancel()
        for connect in endpoint.take_connects():
            self._connecting[connect.cid] = self.spawn(self._connect(connect))
        deadline = endpoint.next_deadline()
        if deadline is not None and (self._timer is None or deadline < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self.loop.call_later(max(deadline - self.now(), 0), self.wake)

    def wake(self) -> None:
        """Handle passed deadlines; called automatically at deadlines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # A transport reports when it is full and when it has room, not its progress in between.
        for peer in list(self._backlogged):
            peer.tell_backlog()
        for cid, event in self.endpoint.handle_timeout(self.now()):
            self._handle(cid, event)
        for peer in list(self._stalled):
            peer.read_if_wanted()
        self.pump()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until it ends, or the server is closed."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, connect: Connect) -> None:
        options: dict[str, Any] = {}
        if connect.server_name is not None:
            options["ssl"] = self._tls if self._tls is not None else True
            options["server_hostname"] = connect.server_name
        opened = False
        try:
            sock = await dial(connect.host, connect.port, delay=ATTEMPT_DELAY)
            await on_socket(lambda: _Peer(self, None, connect.cid), sock, options)
            opened = True
        except (OSError, ValueError) as exc:
            report(
                "ws",
                logging.INFO,
                "connect-failed",
                about=connect.host,
                connection=connect.cid,
                address=address_text((connect.host, connect.port)),
                reason=str(exc),
            )
        finally:
            del self._connecting[connect.cid]
            if not opened:
                self.dispatch(connect.cid, self.endpoint.receive(connect.cid, None, self.now()))

    def full_at(self) -> int:
        """Return how many bytes a transport may buffer before it is full.

        At most as many as the sessions allow: then each is told when there is room again.
        """
        config = self.endpoint.config
        sessions = [config.session, *config.session.profiles.values()]
        if config.client_session is not None:
            sessions.append(config.client_session)
        return max(min(session.limits.high_water for session in sessions) - 1, 0)

    def tls_version(self, cid: int) -> str | None:
        """Return the version of TLS of a connection, such as ``TLSv1.3``.

        Args:
            cid: The connection.

        Returns:
            The version; ``None`` without TLS, or if a proxy terminates it.
        """
        peer = self._peers.get(cid)
        tls = None if peer is None else peer.transport.get_extra_info("ssl_object")
        return None if tls is None else str(tls.version())

    def joined(self, peer: _Peer) -> None:
        """Record a transport."""
        self._transports.add(peer)

    def announce(self, peer: _Peer) -> bool:
        """Record a transport whose PROXY header is pending; return whether there is room for it."""
        most = self.endpoint.config.max_handshaking
        if most is not None and len(self._announced) >= most:
            return False
        self._announced.add(peer)
        return True

    def named(self, peer: _Peer) -> None:
        """Record that no PROXY header is pending any more."""
        self._announced.discard(peer)

    def entered(self, cid: int, peer: _Peer) -> None:
        """Record the transport of a connection."""
        self._peers[cid] = peer

    def stalled(self, peer: _Peer, yes: bool) -> None:
        """Record whether a transport waits for its session."""
        if yes:
            self._stalled.add(peer)
        else:
            self._stalled.discard(peer)

    def backlogged(self, peer: _Peer, yes: bool) -> None:
        """Record whether a transport has unwritten bytes."""
        if yes:
            self._backlogged.add(peer)
        else:
            self._backlogged.discard(peer)

    def left(self, peer: _Peer) -> None:
        """Remove a transport."""
        self._transports.discard(peer)
        self._announced.discard(peer)
        self._stalled.discard(peer)
        self._backlogged.discard(peer)
        if peer.cid is not None:
            self._peers.pop(peer.cid, None)
        if not self._transports:
            self._empty.set()


class _Peer(StreamProtocol):
    """One transport."""

    __slots__ = (
        "_closing",
        "_deadline",
        "_early",
        "_full",
        "_lost",
        "_proxy",
        "_secure",
        "_server",
        "_tls",
        "cid",
    )

    def __init__(
        self, server: EndpointServer, tls: ssl.SSLContext | None, cid: int | None = None
    ) -> None:
        super().__init__(_READ_SIZE)
        self._server = server
        self._secure = tls is not None
        # The pending TLS handshake, and bytes that arrived through it before its end was reported.
        self._tls = tls
        self._early = b""
        self._proxy: ProxyHeaderParser | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._full = False
        self._closing = False
        self._lost = False
        self.cid = cid

    # -- beginning ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the connection into the endpoint, or wait for a PROXY header first."""
        server = self._server
        self._begin_on(transport, server.full_at())
        server.joined(self)
        if server.closed:
            # It was accepted before the close, and the loop reports it only now.
            self._drop_transport()
            return
        peer, local = _peer(transport), _local(transport)
        if self.cid is not None:
            server.entered(self.cid, self)
            try:
                server.endpoint.connected(self.cid, server.now(), local=local)
            except (UnknownConnectionError, LocalProtocolError):
                # The connection has ended while the transport was being opened.
                self._drop_transport()
            server.pump()
        elif server.proxies is not None and peer[0] in server.proxies:
            if not server.announce(self):
                self._refuse_proxy("too many PROXY headers have not come yet")
                return
            self._proxy = ProxyHeaderParser()
            if self._tls is not None:
                # Bytes after the header belong to TLS and must not be read here.
                self._read_into(1)
            self._deadline = server.loop.call_later(_PROXY_TIMEOUT, self._drop_transport)
        else:
            self._enter(peer, local, self._secure)

    def _enter(self, peer: Address, local: Address, secure: bool) -> None:
        server = self._server
        try:
            self.cid = server.endpoint.accept(peer, server.now(), secure=secure, local=local)
        except CapacityError as exc:
            report(
                "ws",
                logging.INFO,
                "turned-away",
                about=peer[0],
                peer=address_text(peer),
                reason=str(exc),
            )
            self.transport.abort()
            return
        server.entered(self.cid, self)
        if self._tls is not None:
            # The following bytes are TLS.
            self.transport.pause_reading()
            server.spawn(self._start_tls(self._tls))
        server.pump()

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        raw, server = self.transport, self._server
        if raw.is_closing():
            return
        try:
            transport = await server.loop.start_tls(raw, self, context, server_side=True)
        except OSError as exc:
            entry = server.endpoint.registry.get(cast("int", self.cid))
            peer = _peer(raw) if entry is None else entry.peer
            report(
                "ws",
                logging.INFO,
                "tls-failed",
                about=peer[0],
                connection=self.cid,
                peer=address_text(peer),
                reason=str(exc),
            )
            transport = None
        except asyncio.CancelledError:
            raw.abort()
            self.connection_lost(None)
            raise
        if transport is None:
            # The protocol of the transport was TLS, which does not report its failure.
            raw.abort()
            self.connection_lost(None)
            return
        self._tls = None
        self._begin_on(transport, server.full_at())
        early, self._early = self._early, b""
        if early:
            self._received(early)

    # -- input -------------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes from the transport."""
        data = self._read(nbytes)
        if self._proxy is not None:
            data = self._read_proxy_header(self._proxy, data)
        if self._tls is not None:
            self._early += data
        elif data:
            self._received(data)

    def _received(self, data: bytes) -> None:
        cid = self.cid
        if cid is not None:
            server = self._server
            server.dispatch(cid, server.endpoint.receive(cid, data, server.now()))
            if self._has_work():
                server.stalled(self, True)
                self.transport.pause_reading()

    def _has_work(self) -> bool:
        """Return whether the session has unparsed bytes, or is paused."""
        entry = None if self.cid is None else self._server.endpoint.registry.get(self.cid)
        return entry is not None and (entry.session.has_work or entry.session.paused)

    def read_if_wanted(self) -> None:
        """Resume reading unless the session or the output still holds it up."""
        if not self._has_work():
            self._server.stalled(self, False)
            if not self._full:
                self._resume_reading()

    def _read_proxy_header(self, parser: ProxyHeaderParser, data: bytes) -> bytes:
        """Parse the header, and return the bytes after it."""
        try:
            header = parser.feed(data)
        except RemoteProtocolError as exc:
            self._refuse_proxy(str(exc))
            return b""
        if header is None:
            return b""
        self._proxy = None
        self._server.named(self)
        self._read_into(_READ_SIZE)
        self._end_deadline()
        peer, local = _peer(self.transport), _local(self.transport)
        if header.peer_address is not None:
            peer = (header.peer_address, header.peer_port)
        if header.local_address is not None:
            local = (header.local_address, header.local_port)
        self._enter(peer, local, self._secure if header.secure is None else header.secure)
        return parser.trailing

    def _refuse_proxy(self, reason: str) -> None:
        """Drop a proxy's connection whose client is not known."""
        proxy = _peer(self.transport)
        report(
            "ws",
            logging.INFO,
            "proxy-refused",
            about=proxy[0],
            proxy=address_text(proxy),
            reason=reason,
        )
        self.transport.abort()

    # -- the end -----------------------------------------------------------------------------------

    def eof_received(self) -> bool:
        """Process the end of the input: pending output is written, then the connection ends."""
        self._ended()
        self._linger(self._server.loop)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        if self._lost:
            return
        self._lost = True
        self._end_deadline()
        self._end_lingering()
        self._ended()
        self._server.left(self)

    def _ended(self) -> None:
        if self.cid is not None:
            server = self._server
            server.dispatch(self.cid, server.endpoint.receive(self.cid, None, server.now()))

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # -- output ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Stop reading while the transport is full, until the peer reads."""
        self._full = True
        self.tell_backlog()
        self._pause_reading()

    def resume_writing(self) -> None:
        """Continue when the transport has room again."""
        self._full = False
        self.tell_backlog()
        self.read_if_wanted()
        self._server.pump()

    def tell_backlog(self) -> None:
        """Report how many bytes the transport has not written yet."""
        server = self._server
        # Nothing is written before the connection has an id.
        cid = cast("int", self.cid)
        waiting = self._backlog()
        server.backlogged(self, waiting > 0)
        server.endpoint.transport_backlog(cid, waiting, server.now())

    def carry_out(self, data: bytes, action: TransportAction) -> None:
        """Write, and close if requested.

        Args:
            data: The bytes to write.
            action: What to do then.
        """
        if self._tls is not None:
            # The connection ends before its TLS handshake is complete.
            self._drop_transport()
            return
        if data and not self._closing:
            self._write(data)
            if self._backlog():
                self.tell_backlog()
        if action is TransportAction.ABORT:
            self._drop_transport()
        elif action is TransportAction.CLOSE and not self._closing:
            self._close()

    def _close(self) -> None:
        """End our side; the peer's input is read until the peer ends it."""
        self._closing = True
        self._linger(self._server.loop)
        self._half_close()
        self._resume_reading()


def _peer(transport: asyncio.BaseTransport) -> Address:
    """Return the address and port of the other end."""
    return peer_of(transport.get_extra_info("peername"), transport.get_extra_info("socket"))


def _local(transport: asyncio.BaseTransport) -> Address:
    """Return the address and port of this end; for a Unix socket, its path."""
    return as_address(transport.get_extra_info("sockname"))

"""An :class:`~wsproto_sip.server.endpoint.Endpoint` on asyncio.

Theory of operation: every callback of a transport becomes one call of the endpoint, its events go
to the handler, and :meth:`EndpointServer.pump` then carries out what the endpoint wants: octets
to write, transports to close or open, one timer for the next deadline. All transports read into
one buffer, because what is read is parsed before the loop does anything else; on loops where a
read is under way between callbacks (Windows) each has its own.

A transport is entered into the endpoint when it is accepted, or behind the header of the PROXY
protocol, and TLS begins only then: a client that is slow in its TLS handshake counts like any
other, and its deadline is that of the opening handshake.

Back-pressure goes both ways. Nothing is read from a transport whose own buffer is full, or whose
session has not parsed yet what was read before; and the endpoint knows how much waits.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from ..frame_protocol import CloseReason
from ..lifecycle import TransportAction
from ..policy.proxy_protocol import ProxyHeaderParser
from ..server.endpoint_events import CapacityError, Closed, UnknownConnectionError
from ..utilities import LocalProtocolError, RemoteProtocolError
from ._asyncio_dial import ATTEMPT_DELAY, dial
from ._asyncio_proxy import on_socket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from ..events import Event
    from ..policy.forwarded import TrustedNetworks
    from ..server.endpoint import Endpoint
    from ..server.endpoint_events import Connect
    from ..typing import Address

__all__ = ["EndpointServer"]

_logger = logging.getLogger("wsproto_sip.server")

#: Octets of one read.
_READ_SIZE: Final = 256 * 1024

#: Seconds within which a proxy has to send its header.
_PROXY_TIMEOUT: Final = 10.0

#: Seconds that a transport has to go when the endpoint has done with it.
_LINGER: Final = 5.0

_BUFFER_IS_SHARED: Final = sys.platform != "win32"


class EndpointServer:
    """Binds an endpoint to the transports of the running event loop.

    Args:
        endpoint: The endpoint; nobody else may feed it meanwhile.
        handler: Called with every event and the id of its connection. What it sends goes out when
            it returns; an exception that it raises is logged and closes that connection with 1011,
            and of what happens on it then, only the end is given.
        proxies: Networks whose connections begin with a header of the PROXY protocol, in front of
            TLS too.
        clock: The time in seconds; the loop's if not given. Whoever moves another one has to call
            :meth:`wake` then.

    Attributes:
        endpoint: The endpoint.
        loop: The event loop.
        proxies: As above; may be exchanged, for connections to come.
        closed: Whether :meth:`close` was called.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        handler: Callable[[int, Event], object],
        *,
        proxies: TrustedNetworks | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self.proxies = proxies
        self._clock = self.loop.time if clock is None else clock
        self._handler = handler
        self._transports: set[_Peer] = set()
        self._peers: dict[int, _Peer] = {}
        # Connections that the handler has failed on, so that no peer can fill the log.
        self._failed: set[int] = set()
        # Those that are not read from because their sessions have enough to do.
        self._stalled: set[_Peer] = set()
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._tls: ssl.SSLContext | None = None
        self._empty = asyncio.Event()
        self.closed = False

    def now(self) -> float:
        """The time on the clock that the endpoint is driven with."""
        return self._clock()

    async def listen(
        self, host: str | None, port: int, *, tls: ssl.SSLContext | None = None
    ) -> list[tuple[str, int]]:
        """Accepts connections.

        Args:
            host: The address to listen on; None for all.
            port: The port; 0 for a free one.
            tls: For wss.

        Returns:
            The addresses and ports.

        Raises:
            OSError: It cannot be listened there.
        """
        server = await self.loop.create_server(lambda: _Peer(self, tls), host, port)
        self._listeners.append(server)
        return [listener.getsockname()[:2] for listener in server.sockets]

    def use_client_tls(self, context: ssl.SSLContext) -> None:
        """Sets how TLS is done on connections that this side opens.

        Args:
            context: The context; without one, the system's certificates decide.
        """
        self._tls = context

    def stop_listening(self) -> None:
        """Accepts no more connections; those that are open stay."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def drain(self, seconds: float) -> None:
        """Sends everybody away over a time, and waits until they are gone.

        Args:
            seconds: How long that may take; their transports have a moment more.
        """
        now = self.now()
        self.endpoint.drain(now, now + seconds)
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + 1):
                await self._emptied()

    async def close(self) -> None:
        """Stops: listeners, timer, and whatever is still open; once and for all."""
        self.closed = True
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in list(self._transports):
            peer.transport.abort()
        await self._emptied()
        if self._timer is not None:
            self._timer.cancel()

    async def _emptied(self) -> None:
        while self._transports:
            self._empty.clear()
            await self._empty.wait()

    # -- between the loop and the endpoint ---------------------------------------------------------

    def dispatch(self, cid: int, events: list[Event]) -> None:
        """Gives events to the handler, then does what the endpoint wants.

        Args:
            cid: The connection.
            events: What happened on it.
        """
        for event in events:
            self._handle(cid, event)
        self.pump()

    def _handle(self, cid: int, event: Event) -> None:
        if cid in self._failed:
            if not isinstance(event, Closed):
                return
            self._failed.discard(cid)
        try:
            self._handler(cid, event)
        except Exception:
            _logger.exception("connection %d: the handler failed", cid)
            # It may have ended already.
            with suppress(UnknownConnectionError):
                self.endpoint.close(
                    cid, CloseReason.INTERNAL_ERROR, "internal error", now=self.now()
                )
                self._failed.add(cid)

    def pump(self) -> None:
        """Does what the endpoint wants; whoever called the endpoint from outside calls this."""
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
        """Does what is due; at deadlines it is called by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for cid, event in self.endpoint.handle_timeout(self.now()):
            self._handle(cid, event)
        for peer in list(self._stalled):
            peer.read_if_wanted()
        self.pump()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a coroutine until it ends, or the server is closed."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, connect: Connect) -> None:
        options: dict[str, Any] = {}
        if connect.secure:
            options["ssl"] = self._tls if self._tls is not None else True
            options["server_hostname"] = connect.host
        opened = False
        try:
            sock = await dial(connect.host, connect.port, delay=ATTEMPT_DELAY)
            await on_socket(lambda: _Peer(self, None, connect.cid), sock, options)
            opened = True
        except (OSError, ValueError) as exc:
            _logger.info("connection %d: %s", connect.cid, exc)
        finally:
            del self._connecting[connect.cid]
            if not opened:
                self.dispatch(connect.cid, self.endpoint.receive(connect.cid, None, self.now()))

    def full_at(self) -> int:
        """How much a transport may hold before it is full, in octets.

        No more than the sessions take for it: then each hears when there is room again.
        """
        config = self.endpoint.config
        sessions = [config.session, *config.session.profiles.values()]
        if config.client_session is not None:
            sessions.append(config.client_session)
        return max(min(session.limits.high_water for session in sessions) - 1, 0)

    def new_buffer(self) -> memoryview:
        """What a transport may read into."""
        return self._buffer if _BUFFER_IS_SHARED else memoryview(bytearray(_READ_SIZE // 16))

    def joined(self, peer: _Peer) -> None:
        """Notes a transport."""
        self._transports.add(peer)

    def entered(self, cid: int, peer: _Peer) -> None:
        """Notes which connection it belongs to."""
        self._peers[cid] = peer

    def stalled(self, peer: _Peer, yes: bool) -> None:
        """Notes whether it waits for its session."""
        if yes:
            self._stalled.add(peer)
        else:
            self._stalled.discard(peer)

    def left(self, peer: _Peer) -> None:
        """Notes that it is gone."""
        self._transports.discard(peer)
        self._stalled.discard(peer)
        if peer.cid is not None:
            self._peers.pop(peer.cid, None)
        if not self._transports:
            self._empty.set()


class _Peer(asyncio.BufferedProtocol):
    """One transport."""

    __slots__ = (
        "_buffer",
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
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self, server: EndpointServer, tls: ssl.SSLContext | None, cid: int | None = None
    ) -> None:
        self._server = server
        self._secure = tls is not None
        # The TLS that is still to be done, and what came through it before it was told done.
        self._tls = tls
        self._early = b""
        self._proxy: ProxyHeaderParser | None = None
        self._buffer = server.new_buffer()
        self._deadline: asyncio.TimerHandle | None = None
        self._full = False
        self._closing = False
        self._lost = False
        self.cid = cid

    # -- beginning ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enters the connection into the endpoint, unless a proxy is to say first whose it is."""
        self.transport = transport = cast("asyncio.Transport", transport)
        server = self._server
        server.joined(self)
        if server.closed:
            # It was accepted before, and the loop tells only now.
            transport.abort()
            return
        transport.set_write_buffer_limits(server.full_at())
        peer, local = _address(transport, "peername"), _address(transport, "sockname")
        if self.cid is not None:
            server.entered(self.cid, self)
            try:
                server.endpoint.connected(self.cid, server.now(), local=local)
            except (UnknownConnectionError, LocalProtocolError):
                # It has ended while the transport was being opened.
                transport.abort()
            server.pump()
        elif server.proxies is not None and peer[0] in server.proxies:
            self._proxy = ProxyHeaderParser()
            if self._tls is not None:
                # What stands behind the header is not to be taken away from TLS.
                self._buffer = memoryview(bytearray(1))
            self._deadline = server.loop.call_later(_PROXY_TIMEOUT, transport.abort)
        else:
            self._enter(peer, local, self._secure)

    def _enter(self, peer: Address, local: Address, secure: bool) -> None:
        server = self._server
        try:
            self.cid = server.endpoint.accept(peer, server.now(), secure=secure, local=local)
        except CapacityError as exc:
            _logger.info("%s", exc)
            self.transport.abort()
            return
        server.entered(self.cid, self)
        if self._tls is not None:
            # What comes now is TLS.
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
            _logger.info("connection %s: TLS failed: %s", self.cid, exc)
            transport = None
        except asyncio.CancelledError:
            raw.abort()
            self.connection_lost(None)
            raise
        if transport is None:
            # The protocol of the transport was TLS, which tells nobody when it has failed.
            raw.abort()
            self.connection_lost(None)
            return
        self._tls = None
        self.transport = transport
        transport.set_write_buffer_limits(server.full_at())
        early, self._early = self._early, b""
        if early:
            self._received(early)

    # -- input -------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets have come."""
        data = bytes(self._buffer[:nbytes])
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
        """Whether the session still has to parse what was read before, or is paused."""
        entry = None if self.cid is None else self._server.endpoint.registry.get(self.cid)
        return entry is not None and (entry.session.has_work or entry.session.paused)

    def read_if_wanted(self) -> None:
        """Reads again, when nothing speaks against it any more."""
        if not self._has_work():
            self._server.stalled(self, False)
            if not self._full and not self.transport.is_closing():
                self.transport.resume_reading()

    def _read_proxy_header(self, parser: ProxyHeaderParser, data: bytes) -> bytes:
        """Takes the header, and gives what stands behind it."""
        try:
            header = parser.feed(data)
        except RemoteProtocolError as exc:
            _logger.info("%s: %s", _address(self.transport, "peername")[0], exc)
            self.transport.abort()
            return b""
        if header is None:
            return b""
        self._proxy = None
        self._buffer = self._server.new_buffer()
        self._end_deadline()
        peer, local = _address(self.transport, "peername"), _address(self.transport, "sockname")
        if header.peer_address is not None:
            peer = (header.peer_address, header.peer_port)
        if header.local_address is not None:
            local = (header.local_address, header.local_port)
        self._enter(peer, local, self._secure if header.secure is None else header.secure)
        return parser.trailing

    # -- the end -----------------------------------------------------------------------------------

    def eof_received(self) -> bool:
        """The peer sends no more: what is still to be said is written, then it is over."""
        self._ended()
        self._linger()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._lost:
            return
        self._lost = True
        self._end_deadline()
        self._ended()
        self._server.left(self)

    def _ended(self) -> None:
        if self.cid is not None:
            server = self._server
            server.dispatch(self.cid, server.endpoint.receive(self.cid, None, server.now()))

    def _linger(self) -> None:
        """Gives the transport a moment to go by itself."""
        if self._deadline is None:
            self._deadline = self._server.loop.call_later(_LINGER, self._drop)

    def _drop(self) -> None:
        self.transport.abort()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # -- output ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The transport is full: the peer has to read before it is read from."""
        self._full = True
        self._tell_backlog()
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._full = False
        self._tell_backlog()
        self.read_if_wanted()
        self._server.pump()

    def _tell_backlog(self) -> None:
        server = self._server
        # Nothing is written before it has an id.
        cid = cast("int", self.cid)
        waiting = self.transport.get_write_buffer_size()
        server.endpoint.transport_backlog(cid, waiting, server.now())

    def carry_out(self, data: bytes, action: TransportAction) -> None:
        """Writes, and closes when told to.

        Args:
            data: Octets to write.
            action: What to do then.
        """
        transport = self.transport
        if self._tls is not None:
            # It is over before there is a way to say anything.
            transport.abort()
            return
        if data and not self._closing and not transport.is_closing():
            transport.write(data)
            if transport.get_write_buffer_size():
                self._tell_backlog()
        if action is TransportAction.ABORT:
            transport.abort()
        elif action is TransportAction.CLOSE and not self._closing:
            self._close()

    def _close(self) -> None:
        """Ends our side; what the peer still sends is read until it ends its own.

        To close on octets that were not read would reset the connection, and the close frame
        might be lost with it.
        """
        self._closing = True
        transport = self.transport
        self._linger()
        if transport.is_closing():
            return
        if transport.can_write_eof():
            # A transport that is just being lost says so here.
            with suppress(OSError):
                transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()


def _address(transport: asyncio.BaseTransport, name: str) -> Address:
    """The address and port of one end; of a Unix socket, its path."""
    info = transport.get_extra_info(name)
    if isinstance(info, tuple):
        return str(info[0]), int(info[1])
    return str(info or ""), None

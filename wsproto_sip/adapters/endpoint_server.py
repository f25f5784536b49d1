"""An :class:`~wsproto_sip.server.endpoint.Endpoint` on asyncio.

Theory of operation: every callback of a transport becomes one call of the endpoint, its events go
to the handler, and :meth:`EndpointServer.pump` then carries out what the endpoint wants: octets
to write, transports to close or open, one timer for the next deadline. All transports read into
one buffer, because what is read is parsed before the loop does anything else; on loops where a
read is under way between callbacks (Windows) each has its own.

Back-pressure goes both ways: while a transport's own buffer is full, nothing is read from it, and
the endpoint knows how much waits.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from ..frame_protocol import CloseReason
from ..lifecycle import TransportAction
from ..policy.proxy_protocol import ProxyHeaderParser
from ..server.endpoint_events import CapacityError, UnknownConnectionError
from ..utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

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

_BUFFER_IS_SHARED: Final = sys.platform != "win32"


class EndpointServer:
    """Binds an endpoint to the transports of the running event loop.

    Args:
        endpoint: The endpoint; nobody else may feed it meanwhile.
        handler: Called with every event and the id of its connection. What it sends goes out when
            it returns; an exception that it raises is logged and closes that connection with 1011.
    """

    def __init__(self, endpoint: Endpoint, handler: Callable[[int, Event], object]) -> None:
        self.endpoint = endpoint
        self.loop = asyncio.get_running_loop()
        self._handler = handler
        self._peers: dict[int, _Peer] = {}
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._tls: ssl.SSLContext | None = None
        self._empty = asyncio.Event()

    def now(self) -> float:
        """The time on the clock that the endpoint is driven with."""
        return self.loop.time()

    async def listen(
        self,
        host: str | None,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        proxies: TrustedNetworks | None = None,
    ) -> list[tuple[str, int]]:
        """Accepts connections.

        Args:
            host: The address to listen on; None for all.
            port: The port; 0 for a free one.
            tls: For wss.
            proxies: Networks whose connections begin with a header of the PROXY protocol.

        Returns:
            The addresses and ports.

        Raises:
            OSError: It cannot be listened there.
        """
        server = await self.loop.create_server(
            lambda: _Peer(self, tls is not None, proxies), host, port, ssl=tls
        )
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
            seconds: How long that may take.
        """
        now = self.now()
        self.endpoint.drain(now, now + seconds)
        self._pump_timeouts()
        # The endpoint ends the last of them by then; their transports are dropped at once.
        async with asyncio.timeout(seconds + 1):
            while self._peers:
                self._empty.clear()
                await self._empty.wait()

    async def close(self) -> None:
        """Stops: listeners, timer, and whatever is still open."""
        self.stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for peer in list(self._peers.values()):
            peer.transport.abort()
        while self._peers:
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
            try:
                self._handler(cid, event)
            except Exception:
                _logger.exception("connection %d: the handler failed", cid)
                self._fail(cid)
        self.pump()

    def _fail(self, cid: int) -> None:
        # It may have ended already.
        with suppress(UnknownConnectionError):
            self.endpoint.close(cid, CloseReason.INTERNAL_ERROR, "internal error", now=self.now())

    def pump(self) -> None:
        """Does what the endpoint wants; whoever called the endpoint from outside calls this."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while outputs := self.endpoint.take_output():
                for output in outputs:
                    peer = self._peers.get(output.cid)
                    if peer is not None:
                        peer.carry_out(output.data, output.action)
        finally:
            self._pumping = False
        for connect in self.endpoint.take_connects():
            task = self.loop.create_task(self._connect(connect))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        deadline = self.endpoint.next_deadline()
        if deadline is not None:
            timer = self._timer
            if timer is None or timer.cancelled() or timer.when() > deadline:
                if timer is not None:
                    timer.cancel()
                self._timer = self.loop.call_at(max(deadline, self.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump_timeouts()

    def _pump_timeouts(self) -> None:
        for cid, event in self.endpoint.handle_timeout(self.now()):
            self.dispatch(cid, [event])
        self.pump()

    async def _connect(self, connect: Connect) -> None:
        tls: Any = None
        if connect.secure:
            tls = self._tls if self._tls is not None else True
        try:
            await self.loop.create_connection(
                lambda: _Peer(self, connect.secure, None, connect.cid),
                connect.host,
                connect.port,
                ssl=tls,
            )
        except OSError as exc:
            _logger.info("connection %d: %s", connect.cid, exc)
            self.dispatch(connect.cid, self.endpoint.receive(connect.cid, None, self.now()))

    def joined(self, cid: int, peer: _Peer) -> None:
        """Notes a connection's transport."""
        self._peers[cid] = peer

    def left(self, cid: int) -> None:
        """Notes that it is gone."""
        self._peers.pop(cid, None)
        if not self._peers:
            self._empty.set()


class _Peer(asyncio.BufferedProtocol):
    """One transport."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_proxies",
        "_proxy",
        "_secure",
        "_server",
        "cid",
        "transport",
    )

    transport: asyncio.Transport
    _deadline: asyncio.TimerHandle

    def __init__(
        self,
        server: EndpointServer,
        secure: bool,
        proxies: TrustedNetworks | None,
        cid: int | None = None,
    ) -> None:
        self._server = server
        self._secure = secure
        self._proxies = proxies
        self._proxy: ProxyHeaderParser | None = None
        self._buffer = (
            server._buffer if _BUFFER_IS_SHARED else memoryview(bytearray(_READ_SIZE // 16))
        )
        self.cid = cid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enters the connection into the endpoint, unless a proxy is to say first whose it is."""
        self.transport = transport = cast("asyncio.Transport", transport)
        server = self._server
        if self.cid is not None:
            server.joined(self.cid, self)
            try:
                server.endpoint.connected(
                    self.cid, server.now(), local=_address(transport, "sockname")
                )
            except (UnknownConnectionError, LocalProtocolError):
                # It has ended while the transport was being opened.
                transport.abort()
            server.pump()
            return
        peer = _address(transport, "peername")
        if self._proxies is not None and peer[0] in self._proxies:
            self._proxy = ProxyHeaderParser()
            self._deadline = server.loop.call_later(_PROXY_TIMEOUT, transport.abort)
        else:
            self._enter(peer, _address(transport, "sockname"), self._secure)

    def _enter(self, peer: Address, local: Address, secure: bool) -> None:
        server = self._server
        try:
            self.cid = server.endpoint.accept(peer, server.now(), secure=secure, local=local)
        except CapacityError as exc:
            _logger.info("%s", exc)
            self.transport.abort()
            return
        server.joined(self.cid, self)
        server.pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets have come."""
        data = bytes(self._buffer[:nbytes])
        if self._proxy is not None:
            data = self._read_proxy_header(self._proxy, data)
        if self.cid is not None and data:
            server = self._server
            server.dispatch(self.cid, server.endpoint.receive(self.cid, data, server.now()))

    def _read_proxy_header(self, parser: ProxyHeaderParser, data: bytes) -> bytes:
        try:
            header = parser.feed(data)
        except RemoteProtocolError as exc:
            _logger.info("%s: %s", _address(self.transport, "peername"), exc)
            self.transport.abort()
            return b""
        if header is None:
            return b""
        self._proxy = None
        self._deadline.cancel()
        peer, local = _address(self.transport, "peername"), _address(self.transport, "sockname")
        if header.peer_address is not None:
            peer = (header.peer_address, header.peer_port)
        if header.local_address is not None:
            local = (header.local_address, header.local_port)
        self._enter(peer, local, self._secure if header.secure is None else header.secure)
        return parser.trailing

    def eof_received(self) -> bool:
        """The peer sends no more: what is still to be said is written, then it is over."""
        self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._proxy is not None:
            self._deadline.cancel()
        self._ended()
        if self.cid is not None:
            self._server.left(self.cid)

    def _ended(self) -> None:
        if self.cid is not None:
            server = self._server
            server.dispatch(self.cid, server.endpoint.receive(self.cid, None, server.now()))

    def pause_writing(self) -> None:
        """The transport is full: the peer has to read before it is read from."""
        self._tell_backlog()
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._tell_backlog()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _tell_backlog(self) -> None:
        if self.cid is not None:
            server = self._server
            waiting = self.transport.get_write_buffer_size()
            server.endpoint.transport_backlog(self.cid, waiting, server.now())

    def carry_out(self, data: bytes, action: TransportAction) -> None:
        """Writes, and closes when told to.

        Args:
            data: Octets to write.
            action: What to do then.
        """
        transport = self.transport
        if data and not transport.is_closing():
            transport.write(data)
            if transport.get_write_buffer_size():
                self._tell_backlog()
        if action is TransportAction.CLOSE:
            transport.close()
        elif action is TransportAction.ABORT:
            transport.abort()


def _address(transport: asyncio.BaseTransport, name: str) -> Address:
    """The address and port of one end; of a Unix socket, its path."""
    info = transport.get_extra_info(name)
    if isinstance(info, tuple):
        return str(info[0]), int(info[1])
    return str(info or ""), None

"""MSRP over TCP with configured peers and between nodes, on asyncio, next to an endpoint's server.

Theory of operation: :class:`MsrpService` is called by the handler of an
:class:`~wsproto_sip.adapters.asyncio.endpoint.EndpointServer`. It passes events to the application,
keeps its time, and does what it asks for on the links. A transport is only accepted from the
address of a configured peer, and only opened to one. A sender that is held back is not read; bytes
that a transport does not take at once are reported to the application.

Nodes have a listener of their own. A node needs no name there, but has to be in the set: it shows a
certificate, or its address is in a private network.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from math import inf
from ssl import CERT_REQUIRED
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...msrp.relay.config import node_hop
from ...sip.rules.certificate import names_domain
from .._addresses import canonical
from .._lines import LOGGERS, report
from .answers import answer_to
from .listening import listen, open_sockets
from .transport import StreamProtocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from ...events import Event
    from ...msrp.relay.application import MsrpApplication
    from ...msrp.relay.config import RelayNode
    from .answers import Resolve
    from .endpoint import EndpointServer
    from .listening import Listener

__all__ = ["MsrpService"]

#: Bytes in a transport's buffer above which it counts as full.
_FULL: Final = 32 * 1024


class _Addresses(Protocol):
    """Addresses as text."""

    def __contains__(self, address: str, /) -> bool: ...


class MsrpService:
    """Run an application: its events, its time, and the TCP connections of its peers.

    Args:
        server: The server, whose handler must call :meth:`handle`.
        application: The application on the server's endpoint; no other code may feed it meanwhile.
        peers: Host and port of each of the relay's peers; connections are only opened to them and
            accepted from them.
        resolve: An async function that answers questions about users, such as
            :class:`~wsproto_sip.adapters.asyncio.answers.Answers`.
        connect_timeout: Seconds for opening a connection.
        node_tls: For connections to nodes: verifies their certificates and contains this node's
            own. ``None`` for plain TCP.
        node_tls_name: The domain in the certificates of all nodes; by default the host connected
            to. The rules are those for SIP (RFC 5922 §7).

    Attributes:
        application: The application.
        loop: The event loop.
        node_tls: The context for connections to nodes.
        node_tls_name: As given.
    """

    def __init__(
        self,
        server: EndpointServer,
        application: MsrpApplication,
        peers: Mapping[str, tuple[str, int]],
        *,
        resolve: Resolve | None = None,
        connect_timeout: float = 10.0,
        node_tls: ssl.SSLContext | None = None,
        node_tls_name: str | None = None,
    ) -> None:
        self.application = application
        self._peers = peers
        self._resolve = resolve
        self._connect_timeout = connect_timeout
        self.node_tls = node_tls
        self._accepting: ssl.SSLContext | None = None
        self.node_tls_name = node_tls_name
        self._nodes: dict[str, tuple[str, int]] = {}
        self._server = server
        self.loop = server.loop
        self._names: dict[str, str] = {}
        self._links: dict[int, _Link] = {}
        # Links that are not being read.
        self._held: set[_Link] = set()
        self._transports: set[_Link] = set()
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._empty = asyncio.Event()
        self._closed = False

    def now(self) -> float:
        """Return the time on the clock that drives the application."""
        return self._server.now()

    async def listen(
        self, host: str | None, port: int, *, reuse_port: bool = False
    ) -> list[tuple[str, int]]:
        """Accept connections from the peers, whose names are resolved once, now.

        Args:
            host: The address to listen on; ``None`` for all.
            port: The port; 0 for a free one.
            reuse_port: Whether other processes may listen on the same address and port.

        Returns:
            The addresses and ports.

        Raises:
            OSError: The server cannot listen there, or a peer's name cannot be resolved.
            ValueError: Two peers have the same address, which then does not identify them.
        """
        for name, peer in self._peers.items():
            for *_, address in await self.loop.getaddrinfo(*peer, type=socket.SOCK_STREAM):
                known = self._names.setdefault(canonical(str(address[0])), name)
                if known != name:
                    raise ValueError(f"peers {known} and {name} have the same address")
        sockets = await open_sockets(host, port, reuse_port=reuse_port)
        self._listeners.append(await listen(lambda: _Link(self), sockets, LOGGERS["msrp"]))
        return [sock.getsockname()[:2] for sock in sockets]

    async def listen_for_nodes(
        self,
        host: str | None,
        port: int,
        *,
        networks: _Addresses | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> list[tuple[str, int]]:
        """Accept connections from other nodes, which are trusted.

        Args:
            host: The address to listen on; ``None`` for all.
            port: The port; 0 for a free one.
            networks: The addresses that nodes have, for example
                :class:`~wsproto_sip.policy.forwarded.TrustedNetworks`; others are refused.
                ``None`` for all, which needs ``tls``.
            tls: A context that requires certificates of clients. They have to name
                ``node_tls_name``, if that is given; otherwise the authority must issue certificates
                to nodes only. ``None`` for plain TCP.

        Returns:
            The addresses and ports.

        Raises:
            OSError: The server cannot listen there.
            ValueError: Neither ``networks`` nor certificates identify nodes.
        """
        if networks is None and (tls is None or tls.verify_mode is not CERT_REQUIRED):
            raise ValueError("nodes need networks, or tls with certificates of clients")
        sockets = await open_sockets(host, port)
        self._accepting = tls
        options = {} if tls is None else {"ssl": lambda: self._accepting}
        self._listeners.append(
            await listen(lambda: _NodeLink(self, networks), sockets, LOGGERS["msrp"], **options)
        )
        return [sock.getsockname()[:2] for sock in sockets]

    def use_node_tls(self, connecting: ssl.SSLContext, accepting: ssl.SSLContext) -> None:
        """Use other certificates for new connections between nodes.

        Args:
            connecting: As for ``node_tls``.
            accepting: As for :meth:`listen_for_nodes`.
        """
        self.node_tls, self._accepting = connecting, accepting

    def use_nodes(
        self, nodes: Mapping[str, RelayNode], addresses: Mapping[str, tuple[str, int]]
    ) -> None:
        """Replace the list of running nodes.

        Args:
            nodes: The other nodes by name.
            addresses: Host and port on which they listen for nodes.
        """
        self._nodes = {node_hop(name): addresses[name] for name in nodes}
        self.application.use_nodes(nodes, self.now())
        self.settle()

    def stop_listening(self) -> None:
        """Stop accepting connections; open ones stay."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def close(self) -> None:
        """Close listeners, timer, and the connections with peers."""
        self._closed = True
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
            self._timer = None

    def handle(self, cid: int, event: Event) -> bool:
        """Process an event of the endpoint.

        Args:
            cid: The connection of the event.
            event: The event.

        Returns:
            Whether the connection speaks MSRP.
        """
        taken = self.application.handle(cid, event, self.now())
        if taken:
            self._carry_out()
        return taken

    # -- between the loop and the application ------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what the application asks for, except on the endpoint."""
        application = self.application
        while outputs := application.take_output():
            for output in outputs:
                self._links[output.link].carry_out(output.data, output.close)
        for question in application.take_questions():
            self._server.spawn(self._answer(question.number, question.question))
        if self._closed:
            return
        for name in application.take_connects():
            task = self.loop.create_task(self._connect(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for link in list(self._held):
            link.read_if_wanted()
        deadline = application.next_deadline()
        # A timer that fires too early is harmless, and most deadlines are never reached.
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
        self.application.handle_timeout(self.now())
        self.settle()

    def settle(self) -> None:
        """Do what the application and the endpoint ask for."""
        self._carry_out()
        self._server.pump()

    async def _answer(self, number: int, question: object) -> None:
        answer = await answer_to(self._resolve, question)
        self.application.answer(number, answer, self.now())
        self.settle()

    async def _connect(self, name: str) -> None:
        tls: dict[str, Any] = {}
        certified = None
        if name in self._peers:
            host, port = self._peers[name]
        elif name in self._nodes:
            host, port = self._nodes[name]
            if self.node_tls is not None:
                certified = self.node_tls_name or host
                tls = {"ssl": self.node_tls, "server_hostname": certified}
        else:
            # It has left meanwhile.
            return
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self.loop.create_connection(
                    lambda: _Link(self, name, certified), host, port, **tls
                )
        except (OSError, ValueError) as exc:
            self.tell_link(logging.INFO, "link-down", name, str(exc) or "no answer")
            self.application.link_failed(name, self.now())
            self.settle()

    def tell_link(self, level: int, event: str, name: str, reason: str) -> None:
        """Log an event of the link with a peer or a node.

        Args:
            level: A level of ``logging``.
            event: The name of the event.
            name: The peer or node.
            reason: The reason.
        """
        kind = "node" if name in self._nodes else "relay"
        fields: dict[str, Any] = {kind: name, "reason": reason}
        report("msrp", level, event, about=name, **fields)

    def name_of(self, address: str) -> str | None:
        """Return the peer with an address."""
        return self._names.get(canonical(address))

    def joined(self, link: _Link) -> None:
        """Record a transport."""
        self._transports.add(link)

    def entered(self, number: int, link: _Link) -> None:
        """Record the transport of a link."""
        self._links[number] = link

    def held(self, link: _Link, yes: bool) -> None:
        """Record whether a link is not to be read."""
        if yes:
            self._held.add(link)
        else:
            self._held.discard(link)

    def left(self, link: _Link) -> None:
        """Remove a link."""
        self._transports.discard(link)
        self._held.discard(link)
        self._links.pop(link.number, None)
        if not self._transports:
            self._empty.set()


def _tell_refused(level: int, address: str, reason: str) -> None:
    """Log that a connection was not from where links come from."""
    report("msrp", level, "link-refused", about=address, address=address, reason=reason)


class _Link(StreamProtocol):
    """One connection with a peer, opened by the peer unless its name is given.

    A certificate has to name the third argument, unless that is ``None``.
    """

    def __init__(
        self, service: MsrpService, name: str | None = None, certified: str | None = None
    ) -> None:
        super().__init__()
        self._service = service
        self._name = name
        self._certified = certified
        # Not a link of the application, which ignores it.
        self.number = 0

    # -- beginning and end -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the link into the application, if it is a peer's."""
        self._begin_on(transport, _FULL)
        self.keep_alive()
        service = self._service
        service.joined(self)
        address = transport.get_extra_info("peername")
        name = self._name
        if name is None and address:
            name = service.name_of(str(address[0]))
        if name is None:
            refused = "" if address is None else str(address[0])
            _tell_refused(logging.INFO, refused, "it is not a peer")
            self._drop_transport()
            return
        application, now = service.application, service.now()
        if self._certified is not None and not self._is_certified(self._certified):
            reason = f"it has no certificate of {self._certified}"
            service.tell_link(logging.WARNING, "link-refused", name, reason)
            self._drop_transport()
            application.link_failed(name, now)
        elif not self._enter(application.link_opened(name, now)):
            service.tell_link(logging.INFO, "link-refused", name, "too many connections")
            if self._name is not None:
                application.link_failed(name, now)
        service.settle()

    def _is_certified(self, name: str) -> bool:
        """Return whether the other side has shown a certificate of a name."""
        return names_domain(self.transport.get_extra_info("peercert") or {}, name)

    def _enter(self, number: int | None) -> bool:
        """Take the number that the application has given; without one, drop the transport."""
        if number is None:
            self._drop_transport()
            return False
        self.number = number
        self._service.entered(number, self)
        return True

    def eof_received(self) -> None:
        """Handle the end of the input, which also ends the output."""
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        self._end_lingering()
        self._lose()
        self._service.left(self)

    def _lose(self) -> None:
        self._service.application.link_lost(self.number, self._service.now())
        self._service.settle()

    # -- input -------------------------------------------------------------------------------------

    def buffer_updated(self, nbytes: int) -> None:
        """Process bytes from the transport."""
        service, application = self._service, self._service.application
        application.link_received(self.number, self._read(nbytes), service.now())
        if not application.wanted(self.number):
            self._pause_reading()
            service.held(self, True)
        service.settle()

    def read_if_wanted(self) -> None:
        """Resume reading, if the application accepts more."""
        if self._service.application.wanted(self.number):
            self._service.held(self, False)
            self._resume_reading()

    # -- output ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Do nothing: the backlog is reported after each write."""

    def resume_writing(self) -> None:
        """Report the backlog when the transport has room again."""
        self._tell_backlog()
        self._service.settle()

    def _tell_backlog(self) -> None:
        self._service.application.link_backlog(self.number, self._backlog(), self._service.now())

    def carry_out(self, data: bytes, close: bool) -> None:
        """Write, and close if requested.

        Args:
            data: The bytes to write.
            close: Whether to close then.
        """
        if data:
            self._write(data)
            self._tell_backlog()
        if close:
            self._linger(self._service.loop)
            self._close_transport()


class _NodeLink(_Link):
    """One connection that a node has opened."""

    def __init__(
        self,
        service: MsrpService,
        networks: _Addresses | None,
    ) -> None:
        super().__init__(service)
        self._networks = networks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the link into the application, if it is a node's."""
        self._begin_on(transport, _FULL)
        self.keep_alive()
        service = self._service
        service.joined(self)
        # A transport that has ended already has no address.
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if self._networks is not None and address not in self._networks:
            _tell_refused(logging.WARNING, address, "it is not in a network of the nodes")
            self._drop_transport()
        elif service.node_tls_name is not None and not self._is_certified(service.node_tls_name):
            _tell_refused(logging.WARNING, address, "it has no certificate of a node")
            self._drop_transport()
        elif not self._enter(service.application.node_link_opened(service.now(), address)):
            _tell_refused(logging.WARNING, address, "too many connections")
        service.settle()

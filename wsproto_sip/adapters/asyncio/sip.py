"""A SIP edge on asyncio, next to an endpoint's server.

Theory of operation: :class:`SipService` is called by the handler of an
:class:`~wsproto_sip.adapters.asyncio.endpoint.EndpointServer`. It passes events to the application,
keeps its time, and moves messages between it and its upstreams, if there are any.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING, cast

from ...sip.edge.actions import AskQuestion, HookFailed, ResetUpstream, SendToUpstream
from ...sip.edge.config import check_upstreams
from ...sip.edge.hook import Failed, HookRequest
from .._lines import report, report_failure
from .answers import answer_to
from .sip_upstream import UpstreamLinks

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ...events import Event
    from ...sip.edge.actions import UpstreamChanged
    from ...sip.edge.application import EdgeApplication, ForOwner
    from ...sip.edge.config import Upstream
    from ...sip.edge.hook import Verdict
    from ...sip.message.transport import Source
    from .answers import Resolve
    from .endpoint import EndpointServer

__all__ = ["SipService"]


class SipService:
    """Run an application: its events, its time and its upstreams.

    Args:
        server: The server, whose handler must call :meth:`handle`.
        application: The application on the server's endpoint; no other code may feed it meanwhile.
        bind: Host and port of sockets and listeners for upstreams, by the local host and port in
            their configuration, if those are not this machine's, for example with NAT.
        client_tls: Verifies the certificates of upstreams reached over TLS, and may contain
            a certificate of this side.
        server_tls: The TLS context for the connections that such upstreams open.
        resolve: An async function that answers questions about users, such as
            :class:`~wsproto_sip.adapters.asyncio.answers.Answers`; if the registrar is a node, also
            those for the location store.
        hook: An async function that decides about requests, for an edge whose own hook returns
            ``LATER``.
        connect_timeout: Seconds for opening a connection to an upstream.
        pauses: The first and the longest pause between attempts to open one, in seconds.

    Attributes:
        application: The application.
        loop: The event loop.
        on_upstream: Called when an upstream comes into service or goes out of it; the logger is
            told if it is None.
    """

    def __init__(
        self,
        server: EndpointServer,
        application: EdgeApplication,
        *,
        bind: Mapping[tuple[str, int], tuple[str, int]] | None = None,
        client_tls: ssl.SSLContext | None = None,
        server_tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        hook: Callable[[HookRequest], Awaitable[Verdict]] | None = None,
        connect_timeout: float = 5.0,
        pauses: tuple[float, float] = (0.25, 8.0),
    ) -> None:
        self.application = application
        self.on_upstream: Callable[[UpstreamChanged], object] | None = None
        self.loop = server.loop
        self._server = server
        self._resolve = resolve
        #: Takes questions with a function for the answer, if the resolver can do without a task.
        self._ask: Callable[[object, Callable[[object], object]], bool] | None = getattr(
            resolve, "ask", None
        )
        self._closed = False
        #: Whether what was sent for answers goes out in the next turn of the loop.
        self._settling = False
        self._hook = hook
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._make_links = partial(
            UpstreamLinks,
            self,
            bind=bind,
            client_tls=client_tls,
            server_tls=server_tls,
            connect_timeout=connect_timeout,
            pauses=pauses,
        )
        self._links: UpstreamLinks | None = None
        if application.edge.upstreams:
            self._links = self._make_links(application.edge.upstreams)

    def now(self) -> float:
        """Return the time on the clock that drives the application."""
        return self._server.now()

    async def open(self) -> None:
        """Open the links to upstreams; to be called before the server listens.

        Raises:
            OSError: An upstream's local address is in use or not this machine's, or no name can
                be resolved.
        """
        if self._links is not None:
            await self._links.open()
            # Upstreams may be probed at once.
            self._carry_out(())

    async def use_upstreams(self, upstreams: Sequence[Upstream]) -> None:
        """Use other upstreams from now on; see :meth:`SipEdge.use_upstreams`.

        Args:
            upstreams: One or more.

        Raises:
            OSError: The local address for one is in use or not this machine's, or no name can be
                resolved. Nothing has changed then.
            ValueError: There were no upstreams before, or they cannot be told apart.
        """
        check_upstreams(upstreams)
        if self._links is not None:
            await self._links.use(upstreams)
        self.application.edge.use_upstreams(upstreams)
        self._carry_out(())

    def use_tls(self, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext | None) -> None:
        """Use other certificates with upstreams from now on. Connections that are open stay.

        Args:
            client_tls: As for the constructor.
            server_tls: As for the constructor; ``None`` for the one of before.
        """
        if self._links is not None:
            self._links.use_tls(client_tls, server_tls)
        kept = {} if server_tls is None else {"server_tls": server_tls}
        self._make_links = partial(self._make_links, client_tls=client_tls, **kept)

    async def listen_for_nodes(
        self,
        host: str,
        port: int,
        *,
        secure: bool = False,
        introduce: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Listen for connections of other nodes, before the first of them is known.

        Args:
            host: Where they reach this one: the local host of the nodes of :meth:`use_nodes`.
            port: The port.
            secure: Whether they use TLS.
            introduce: Called, and awaited, when a connection comes from an address that no node is
                known to have: it may call :meth:`use_nodes`.

        Raises:
            OSError: The address is in use or not this machine's.
        """
        if self._links is None:
            self._links = self._make_links(())
        self._links.introduce = introduce
        await self._links.listen((host.lower(), port), secure=secure)

    async def use_nodes(self, nodes: Sequence[Upstream]) -> None:
        """Have links with other nodes from now on; see :meth:`SipEdge.use_nodes`.

        A node is known by where it is: connections come from the addresses of nodes alone and, over
        TLS, with their certificates. So an address that other programs can have needs TLS.

        Args:
            nodes: The other nodes that run, each with where it is and where it reaches this one.

        Raises:
            OSError: The address for them is in use or not this machine's, or the name of none can
                be resolved. Then nothing has changed.
            ValueError: As of :meth:`SipEdge.use_nodes`.
        """
        self.application.edge.check_nodes(nodes)
        if self._links is None:
            links = self._make_links(nodes)
            await links.open()
            self._links = links
        else:
            await self._links.use(nodes)
        self.application.edge.use_nodes(nodes)
        self._carry_out(())

    async def close(self) -> None:
        """Stop the timer, and close the links to upstreams."""
        self._closed = True
        if self._links is not None:
            await self._links.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle(self, cid: int, event: Event) -> bool:
        """Process an event of the endpoint.

        Args:
            cid: The connection of the event.
            event: The event.

        Returns:
            Whether the connection speaks SIP.
        """
        edge = self.application.edge
        # A connection becomes known with its first event, and unknown with its last.
        known = edge.knows(cid)
        self._carry_out(self.application.handle(cid, event, self.now()))
        return known or edge.knows(cid)

    def wake(self) -> None:
        """Handle passed deadlines; called automatically at deadlines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._perform(self.application.handle_timeout(self.now()))

    def settle(self) -> None:
        """Do what the endpoint asks for; call this after using the application from outside."""
        self._perform(())

    # -- called by the links -----------------------------------------------------------------------

    def link_received(self, upstream: str, link: int, data: bytes, source: Source) -> None:
        """Pass received bytes of an upstream to the application."""
        self._perform(
            self.application.upstream_received(
                data, self.now(), upstream=upstream, link=link, source=source
            )
        )

    def link_opened(self, upstream: str) -> None:
        """Tell the application that a connection to an upstream is open."""
        self._perform(self.application.upstream_opened(upstream, self.now()))

    def link_lost(self, upstream: str, link: int) -> None:
        """Tell the application that a connection with an upstream has ended."""
        self.application.upstream_lost(link, upstream=upstream)

    def link_failed(self, upstream: str, link: int, reason: str) -> None:
        """Tell the application that nothing sent on a link to an upstream can arrive."""
        self._perform(
            self.application.upstream_failed(
                self.now(), upstream=upstream, link=link, reason=reason
            )
        )

    # -- between the loop and the application ------------------------------------------------------

    async def _answer(self, number: int, question: object) -> None:
        """Answer a question of the edge."""
        answer: object
        if isinstance(question, HookRequest) and self._hook is not None:
            try:
                answer = await self._hook(question)
            except Exception as error:
                answer = Failed(error)
        else:
            answer = await answer_to(self._resolve, question)
        self._answered(number, answer)

    def _answered(self, number: int, answer: object) -> None:
        """Pass the answer to a question to the edge.

        Answers of a store come many at a time; what is sent for them goes out together.
        """
        if not self._closed:
            self._act(self.application.answer(number, answer, self.now()))
            if not self._settling:
                self._settling = True
                self.loop.call_soon(self._settle_answers)

    def _settle_answers(self) -> None:
        self._settling = False
        self._server.pump()
        self._keep_time()

    def _perform(self, actions: Sequence[ForOwner]) -> None:
        """Do what the application and the endpoint ask for."""
        self._carry_out(actions)
        self._server.pump()

    @property
    def out_of_reach(self) -> frozenset[str]:
        """The names of upstreams, and nodes, to which the last attempt to connect has failed."""
        return frozenset() if self._links is None else self._links.out_of_reach

    def _carry_out(self, actions: Sequence[ForOwner]) -> None:
        """Do what the application asks for, except on the endpoint."""
        self._act(actions)
        self._keep_time()

    def _act(self, actions: Sequence[ForOwner]) -> None:
        # Actions for upstreams only occur if there are upstreams.
        links = cast("UpstreamLinks", self._links)
        for action in actions:
            if isinstance(action, AskQuestion):
                number, question = action.number, action.question
                if self._ask is None or not self._ask(question, partial(self._answered, number)):
                    self._server.spawn(self._answer(number, question))
            elif isinstance(action, HookFailed):
                report_failure("sip", "hook-failed", action.error, method=action.method)
            elif isinstance(action, SendToUpstream):
                links.send(action.upstream, action.data, action.link)
            elif isinstance(action, ResetUpstream):
                links.reset(action.upstream, action.link, action.reason)
            else:
                self._tell_of_upstream(action)

    def _tell_of_upstream(self, change: UpstreamChanged) -> None:
        if self.on_upstream is not None:
            self.on_upstream(change)
            return
        event = "upstream-up" if change.in_service else "upstream-down"
        report(
            "sip", logging.WARNING, event, upstream=change.upstream, reason=change.reason or None
        )

    def _keep_time(self) -> None:
        """Be there again at the application's next deadline."""
        if self._closed:
            return
        deadline = self.application.next_deadline()
        # A timer that fires too early is harmless, and most deadlines are never reached.
        if deadline is not None and (self._timer is None or deadline < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self.loop.call_later(max(deadline - self.now(), 0), self.wake)

"""A SIP edge on asyncio, beside an endpoint's server.

Theory of operation: :class:`SipService` is what an
:class:`~wsproto_sip.adapters.endpoint_server.EndpointServer` has for a handler. It gives events to
the application, keeps its time, and moves messages between it and the upstream, if it has one.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from ..sip.edge_config import SendToUpstream
from .sip_upstream import UpstreamLinks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..events import Event
    from ..sip.application import EdgeApplication
    from ..sip.edge_config import ResetUpstream
    from ..sip.transport import Source
    from .endpoint_server import EndpointServer

__all__ = ["SipService"]


class SipService:
    """Runs an application: its events, its time and its upstream.

    Args:
        server: The server, whose handler has to call :meth:`handle`.
        application: The application on the server's endpoint; nobody else may feed it meanwhile.
        bind: Host and port on which the upstream reaches the edge, where these are not the ones in
            the configuration: behind a NAT, say.
        connect_timeout: Seconds for opening a connection to the upstream.
        pauses: The first and the longest pause between attempts to open one, in seconds.

    Attributes:
        application: The application.
        loop: The event loop.
    """

    def __init__(
        self,
        server: EndpointServer,
        application: EdgeApplication,
        *,
        bind: tuple[str, int] | None = None,
        connect_timeout: float = 5.0,
        pauses: tuple[float, float] = (0.25, 8.0),
    ) -> None:
        self.application = application
        self.loop = server.loop
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._links: UpstreamLinks | None = None
        upstream = application.edge.config.upstream
        if upstream is not None:
            self._links = UpstreamLinks(
                self, upstream, bind=bind, connect_timeout=connect_timeout, pauses=pauses
            )

    def now(self) -> float:
        """The time on the clock that the application is driven with."""
        return self._server.now()

    async def open(self) -> None:
        """Begins: to be called before the server listens.

        Raises:
            OSError: Of the upstream: the address for it is in use or none of this machine, or its
                name is not known.
        """
        if self._links is not None:
            await self._links.open()

    async def close(self) -> None:
        """Stops the timer, and ends what there is with the upstream."""
        if self._links is not None:
            await self._links.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle(self, cid: int, event: Event) -> bool:
        """Takes an event of the endpoint.

        Args:
            cid: The connection it happened on.
            event: The event.

        Returns:
            Whether it is a connection that speaks SIP.
        """
        edge = self.application.edge
        # The first event of a connection makes it known, and the last one unknown.
        known = edge.knows(cid)
        self._carry_out(self.application.handle(cid, event, self.now()))
        return known or edge.knows(cid)

    def wake(self) -> None:
        """Does what is due; at deadlines it is called by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._settle(self.application.handle_timeout(self.now()))

    def settle(self) -> None:
        """Does what the endpoint wants; whoever called the application from outside calls this."""
        self._settle(())

    # -- what the upstream's links say -------------------------------------------------------------

    def link_received(self, link: int, data: bytes, source: Source) -> None:
        """Gives the application what has come from the upstream."""
        now = self.now()
        self._settle(self.application.upstream_received(data, now, link=link, source=source))

    def link_lost(self, link: int) -> None:
        """Tells the application that a connection with the upstream has ended."""
        self.application.upstream_lost(link)

    def link_failed(self) -> None:
        """Tells the application that no connection to the upstream can be had."""
        self._settle(self.application.upstream_failed(self.now()))

    # -- between the loop and the application ------------------------------------------------------

    def _settle(self, actions: Sequence[SendToUpstream | ResetUpstream]) -> None:
        """Does what the application and the endpoint want."""
        self._carry_out(actions)
        self._server.pump()

    def _carry_out(self, actions: Sequence[SendToUpstream | ResetUpstream]) -> None:
        """Does what the application wants, except with the endpoint."""
        links = self._links
        if links is not None:
            for action in actions:
                if isinstance(action, SendToUpstream):
                    links.send(action.data, action.link)
                else:
                    links.reset(action.link, action.reason)
        deadline = self.application.next_deadline()
        # A timer that comes too early does no harm, and most deadlines are never reached.
        if deadline is not None and (self._timer is None or deadline < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self.loop.call_later(max(deadline - self.now(), 0), self.wake)

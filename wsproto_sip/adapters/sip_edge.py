"""A SIP edge on asyncio, beside an endpoint's server.

Theory of operation: :class:`SipService` is what an
:class:`~wsproto_sip.adapters.endpoint_server.EndpointServer` has for a handler. It gives events to
the application and keeps its time.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..events import Event
    from ..sip.application import EdgeApplication
    from .endpoint_server import EndpointServer

__all__ = ["SipService"]


class SipService:
    """Runs an application: its events and its time.

    Args:
        server: The server, whose handler has to call :meth:`handle`.
        application: The application on the server's endpoint; nobody else may feed it meanwhile.

    Attributes:
        application: The application.
        loop: The event loop.
    """

    def __init__(self, server: EndpointServer, application: EdgeApplication) -> None:
        self.application = application
        self.loop = server.loop
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf

    def now(self) -> float:
        """The time on the clock that the application is driven with."""
        return self._server.now()

    async def open(self) -> None:
        """Begins: to be called before the server listens."""

    async def close(self) -> None:
        """Stops the timer."""
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
        self.application.handle(cid, event, self.now())
        self._arm()
        return known or edge.knows(cid)

    def wake(self) -> None:
        """Does what is due; at deadlines it is called by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.application.handle_timeout(self.now())
        self.settle()

    def settle(self) -> None:
        """Does what the endpoint wants; whoever called the application from outside calls this."""
        self._arm()
        self._server.pump()

    def _arm(self) -> None:
        deadline = self.application.next_deadline()
        # A timer that comes too early does no harm, and most deadlines are never reached.
        if deadline is not None and (self._timer is None or deadline < self._due):
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self.loop.call_later(max(deadline - self.now(), 0), self.wake)

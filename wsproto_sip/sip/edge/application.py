"""An edge on an endpoint: events of connections go in, messages come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...events import BytesMessage, Event, TextMessage
from ...server.events import Closed, Opened, UnknownConnectionError
from ...subprotocols import SIP
from ...utilities import LocalProtocolError
from ..message.errors import SipValueError
from ..message.transport import Source
from .actions import AskQuestion, EdgeAction, HookFailed, SendToConnection, UpstreamAction
from .config import STREAM
from .connections import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...server.endpoint import Endpoint
    from ...server.shares import Bound
    from .edge import SipEdge

__all__ = ["EdgeApplication", "ForOwner"]

#: Actions that are left to the owner of an application.
ForOwner = UpstreamAction | AskQuestion | HookFailed


class EdgeApplication:
    """Connect a :class:`~wsproto_sip.sip.edge.edge.SipEdge` with an endpoint.

    Pass every event of the endpoint to it; those of connections that do not speak ``sip`` are
    ignored. Messages of the edge for connections are sent; actions that are left to the caller
    (messages to an upstream, questions) are returned::

        for event in endpoint.receive(cid, data, now):
            for action in application.handle(cid, event, now):
                ...  # SendToUpstream, ResetUpstream, AskQuestion, HookFailed

    Args:
        endpoint: The endpoint.
        edge: The edge.
    """

    def __init__(self, endpoint: Endpoint, edge: SipEdge) -> None:
        self.endpoint = endpoint
        self.edge = edge
        endpoint.statistics.upstreams = edge.upstream_statistics
        endpoint.statistics.refusals.append(self._refused)
        endpoint.stays_while(edge.is_in_call)

    def _refused(self) -> dict[tuple[str, Bound], int]:
        refused = self.edge.refused.items()
        return {(f"sip_{share}", bound): count for (share, bound), count in refused}

    def handle(self, cid: int, event: Event, now: float) -> list[ForOwner]:
        """Process an event of a connection.

        Args:
            cid: The connection.
            event: The event.
            now: The time, in seconds.

        Returns:
            Actions for the caller.
        """
        actions: Sequence[EdgeAction] = ()
        match event:
            case TextMessage() | BytesMessage():
                # Ask the edge, not the endpoint: messages that arrived in one read with the end of
                # the connection, for example a last BYE, must still be delivered.
                if self.edge.knows(cid):
                    actions = self.edge.receive(cid, event.data, now)
            case Opened(subprotocol=token) if token == SIP:
                self._opened(event)
            case Closed(subprotocol=token) if token == SIP:
                actions = self.edge.connection_closed(cid, now)
        return self._perform(actions, now)

    def answer(self, number: int, answer: object, now: float) -> list[ForOwner]:
        """Answer a question; see :meth:`SipEdge.answer`."""
        return self._perform(self.edge.answer(number, answer, now), now)

    def upstream_received(
        self,
        data: bytes,
        now: float,
        *,
        upstream: str | None = None,
        link: int | None = None,
        source: Source | None = None,
    ) -> list[ForOwner]:
        """Process input from an upstream; see :meth:`SipEdge.upstream_received`."""
        edge = self.edge
        actions = edge.upstream_received(data, now, upstream=upstream, link=link, source=source)
        return self._perform(actions, now)

    def upstream_opened(self, upstream: str, now: float) -> list[ForOwner]:
        """Handle a new connection to an upstream; see :meth:`SipEdge.upstream_opened`."""
        return self._perform(self.edge.upstream_opened(upstream, now), now)

    def upstream_lost(self, link: int, *, upstream: str | None = None) -> None:
        """Handle the end of a connection with an upstream; see :meth:`SipEdge.upstream_lost`."""
        self.edge.upstream_lost(link, upstream=upstream)

    def upstream_failed(
        self,
        now: float,
        *,
        upstream: str | None = None,
        link: int = STREAM,
        reason: str = "it cannot be reached",
    ) -> list[ForOwner]:
        """Handle an unreachable upstream; see :meth:`SipEdge.upstream_failed`."""
        if upstream is None or upstream in self.edge.upstream_statistics:
            # Nodes come and go, which is not the failure of an upstream.
            self.endpoint.statistics.upstream_failures += 1
        actions = self.edge.upstream_failed(now, upstream=upstream, link=link, reason=reason)
        return self._perform(actions, now)

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout`; ``None`` for never."""
        return self.edge.next_deadline()

    def handle_timeout(self, now: float) -> list[ForOwner]:
        """Handle passed deadlines; early calls do nothing."""
        return self._perform(self.edge.handle_timeout(now), now)

    def _opened(self, event: Opened) -> None:
        entry = self.endpoint.registry.get(event.cid)
        if entry is None:
            return
        address, port = entry.peer
        transport = "wss" if entry.secure else "ws"
        # Without a port (a Unix socket, a proxy that does not report one), the id replaces it. The
        # edge ensures that no two connections have the same.
        number = event.cid % 65536 if port is None else port
        try:
            source = Source(address, number, transport)
        except SipValueError:
            source = Source("127.0.0.1", number, transport)
        user = None if event.identity is None else event.identity.name
        self.edge.connection_opened(event.cid, Peer(source, user, address))

    def _perform(self, actions: Sequence[EdgeAction], now: float) -> list[ForOwner]:
        left: list[ForOwner] = []
        for action in actions:
            if not isinstance(action, SendToConnection):
                left.append(action)
                continue
            data = action.data
            message = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
            # A closing connection accepts no more messages; its end will be reported.
            try:  # noqa: SIM105 - for every message
                self.endpoint.send(action.cid, message, now)
            except (UnknownConnectionError, LocalProtocolError):
                pass
        return left

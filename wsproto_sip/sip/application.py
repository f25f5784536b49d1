"""An edge on an endpoint: what happens on connections goes in, what is to be sent comes out."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..events import BytesMessage, Event, TextMessage
from ..server.endpoint_events import Closed, Opened, UnknownConnectionError
from ..subprotocols import SIP
from ..utilities import LocalProtocolError
from .edge_config import EdgeAction, Peer, ResetUpstream, SendToConnection, SendToUpstream
from .errors import SipValueError
from .transport import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..server.endpoint import Endpoint
    from .edge import SipEdge

__all__ = ["EdgeApplication"]


class EdgeApplication:
    """Connects a :class:`~wsproto_sip.sip.edge.SipEdge` with an endpoint.

    Give it every event of the endpoint; those of connections that do not speak ``sip`` are passed
    over. What the edge wants sent on connections is sent; what is left for the caller to do
    (messages to the upstream) is returned::

        for event in endpoint.receive(cid, data, now):
            for action in application.handle(cid, event, now):
                ...  # SendToUpstream, ResetUpstream

    Args:
        endpoint: The endpoint.
        edge: The edge.
    """

    def __init__(self, endpoint: Endpoint, edge: SipEdge) -> None:
        self.endpoint = endpoint
        self.edge = edge

    def handle(self, cid: int, event: Event, now: float) -> list[SendToUpstream | ResetUpstream]:
        """Something has happened on a connection.

        Args:
            cid: The connection.
            event: What.
            now: The time, in seconds.

        Returns:
            What the caller has to do.
        """
        actions: Sequence[EdgeAction] = ()
        match event:
            case TextMessage() | BytesMessage():
                # The edge, not the endpoint, is asked: what came in one read with the end of the
                # connection, a last BYE say, is still to be delivered.
                if self.edge.knows(cid):
                    actions = self.edge.receive(cid, event.data, now)
            case Opened(subprotocol=token) if token == SIP:
                self._opened(event)
            case Closed(subprotocol=token) if token == SIP:
                actions = self.edge.connection_closed(cid, now)
        return self._perform(actions, now)

    def upstream_received(
        self, data: bytes, now: float, *, link: int | None = None, source: Source | None = None
    ) -> list[SendToUpstream | ResetUpstream]:
        """Something has come from the upstream; see :meth:`SipEdge.upstream_received`."""
        return self._perform(self.edge.upstream_received(data, now, link=link, source=source), now)

    def upstream_lost(self, link: int) -> None:
        """A connection with the upstream has ended; see :meth:`SipEdge.upstream_lost`."""
        self.edge.upstream_lost(link)

    def upstream_failed(self, now: float) -> list[SendToUpstream | ResetUpstream]:
        """No connection to the upstream can be had; see :meth:`SipEdge.upstream_failed`."""
        return self._perform(self.edge.upstream_failed(now), now)

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has to be called; ``None`` for never."""
        return self.edge.next_deadline()

    def handle_timeout(self, now: float) -> list[SendToUpstream | ResetUpstream]:
        """Do what is due; early calls do nothing."""
        return self._perform(self.edge.handle_timeout(now), now)

    def _opened(self, event: Opened) -> None:
        entry = self.endpoint.registry.get(event.cid)
        if entry is None:
            return
        address, port = entry.peer
        transport = "wss" if entry.secure else "ws"
        # Without a port (a Unix socket, a proxy that tells none) the id stands for it: the edge
        # sees to it that no two connections have the same.
        number = event.cid % 65536 if port is None else port
        try:
            source = Source(address, number, transport)
        except SipValueError:
            source = Source("127.0.0.1", number, transport)
        user = None if event.identity is None else event.identity.name
        self.edge.connection_opened(event.cid, Peer(source, user))

    def _perform(
        self, actions: Sequence[EdgeAction], now: float
    ) -> list[SendToUpstream | ResetUpstream]:
        left: list[SendToUpstream | ResetUpstream] = []
        for action in actions:
            if not isinstance(action, SendToConnection):
                left.append(action)
                continue
            data = action.data
            message = TextMessage(data) if isinstance(data, str) else BytesMessage(data)
            # A connection that is closing takes no more; its end will be told.
            with suppress(UnknownConnectionError, LocalProtocolError):
                self.endpoint.send(action.connection, message, now)
        return left

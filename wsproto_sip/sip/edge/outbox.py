"""The messages of an edge, collected while an event is handled."""

from __future__ import annotations

from ..message.message import SipMessage
from ..message.stream import KeepAlive
from ..rules.outbound import Flow
from .actions import EdgeAction, SendToConnection, SendToUpstream
from .config import DATAGRAMS, EdgeConfig
from .connections import Connections

__all__ = ["Outbox"]


class Outbox:
    """Collect messages and other actions.

    Args:
        config: The edge's configuration.
        connections: Its connections.
    """

    def __init__(self, config: EdgeConfig, connections: Connections) -> None:
        self._connections = connections
        self._actions: list[EdgeAction] = []
        #: The upstream and link of the message that is being handled.
        self.upstream = config.upstreams[0].name if config.upstreams else ""
        self.link = DATAGRAMS

    def take(self) -> list[EdgeAction]:
        """Return all actions since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def add(self, action: EdgeAction) -> None:
        """Add an action."""
        self._actions.append(action)

    def reaches(self, flow: Flow | None) -> bool:
        """Return whether a flow still exists; the upstreams always do."""
        return flow is None or self._connections.is_alive(flow)

    def send(self, flow: Flow | None, message: SipMessage) -> None:
        """Send a message on a flow, which may have ended, or answer an upstream."""
        if flow is None:
            self.add(self.write(message, self.upstream, self.link))
        elif self._connections.is_alive(flow):
            self._actions.append(SendToConnection(flow.cid, message.to_websocket()))

    def send_text(self, flow: Flow, text: str) -> None:
        """Send the text of a message on a flow, which may have ended."""
        if self._connections.is_alive(flow):
            self._actions.append(SendToConnection(flow.cid, text))

    def write(self, message: SipMessage | KeepAlive, upstream: str, link: int) -> SendToUpstream:
        """Return the action that sends a message to an upstream; :meth:`add` it to send it.

        Everything for an upstream is written here, and only from whole messages, so that a message
        ends on a stream where it ended for us (RFC 3261 §18.3). A retransmission repeats the same
        action.

        Args:
            message: A message or a keep-alive.
            upstream: The name of the upstream.
            link: The link to use.
        """
        data = message.value if isinstance(message, KeepAlive) else message.to_stream()
        return SendToUpstream(upstream, data, link)

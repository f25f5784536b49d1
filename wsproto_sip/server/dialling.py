"""The connections that we open: their targets, and the messages that wait for them.

Theory of operation. ``add`` remembers a connection by its target, so that the next call for the
same target can use it, and leaves a :class:`~wsproto_sip.server.events.Connect` for the adapter.
Whole messages wait in order until ``open`` returns them; from then on only the target is kept,
until ``forget``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ..events import BytesMessage, Event, TextMessage
from ..session.prepared import PreparedMessage
from ..utilities import LocalProtocolError
from .events import Connect

if TYPE_CHECKING:
    from ..uri import WebSocketURI

__all__ = ["Dialling", "Target"]

_TOO_MUCH: Final = "too many messages wait for the connection to open"


class Target(NamedTuple):
    """The key by which two calls share a connection.

    Args:
        uri: The URI to connect to.
        subprotocol: The sub-protocol to offer; ``None`` for none.
    """

    uri: WebSocketURI
    subprotocol: str | None = None


class _Queue:
    """The messages that wait for one connection.

    Attributes:
        messages: The messages, in order.
        size: Their size in bytes.
    """

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: list[TextMessage | BytesMessage] = []
        self.size = 0


class Dialling:
    """The connections of one endpoint that we open."""

    __slots__ = ("_by_target", "_connects", "_queues", "_targets")

    def __init__(self) -> None:
        # By connection, from add() to open() or forget().
        self._queues: dict[int, _Queue] = {}
        # By connection, until forget(); and the latest connection to each target.
        self._targets: dict[int, Target] = {}
        self._by_target: dict[Target, int] = {}
        # Transports to open that the adapter has not taken yet.
        self._connects: dict[int, Connect] = {}

    def __contains__(self, cid: int) -> bool:
        """Return whether a connection is still being opened."""
        return cid in self._queues

    def find(self, target: Target) -> int | None:
        """Return the latest connection to a target, open or not; ``None`` without one.

        Args:
            target: The URI and sub-protocol.
        """
        return self._by_target.get(target)

    def add(self, cid: int, target: Target) -> None:
        """Start to open a connection.

        Args:
            cid: Its id.
            target: The URI and sub-protocol.
        """
        self._queues[cid] = _Queue()
        self._targets[cid] = target
        self._by_target[target] = cid
        uri = target.uri
        server_name = uri.server_name if uri.secure else None
        self._connects[cid] = Connect(cid, uri.host, uri.port, server_name)

    def take_connects(self) -> list[Connect]:
        """Return the transports to open that have not been returned before."""
        connects, self._connects = self._connects, {}
        return [*connects.values()]

    def target(self, cid: int) -> Target:
        """Return the target of a connection that is being opened.

        Args:
            cid: The connection.

        Raises:
            LocalProtocolError: We are not opening this connection.
        """
        if cid not in self._queues:
            raise LocalProtocolError(f"connection {cid} is not waiting for a transport")
        return self._targets[cid]

    def queue(
        self, cid: int, event: Event | PreparedMessage, *, max_messages: int, max_bytes: int
    ) -> None:
        """Queue a message until the connection is open.

        A message that could not be sent later is refused now, while the caller can be told.

        Args:
            cid: The connection.
            event: A whole message.
            max_messages: How many messages may wait.
            max_bytes: How many bytes they may have.

        Raises:
            LocalProtocolError: We are not opening the connection, or the event is not a whole
                message, cannot be encoded, or exceeds a limit.
            TypeError: The message has neither text nor bytes.
        """
        queue = self._queues.get(cid)
        if queue is None:
            raise LocalProtocolError(f"connection {cid} is not open")
        message = event.message if isinstance(event, PreparedMessage) else event
        if not isinstance(message, TextMessage | BytesMessage) or not message.message_finished:
            raise LocalProtocolError("only whole messages can wait for a connection to open")
        data: object = message.data
        try:
            encoded = data.encode() if isinstance(data, str) else bytes(memoryview(data))  # type: ignore[arg-type]
            if isinstance(message, TextMessage):
                encoded.decode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"text cannot be sent: {exc}") from exc
        if len(queue.messages) >= max_messages or queue.size + len(encoded) > max_bytes:
            raise LocalProtocolError(_TOO_MUCH)
        # A copy: the caller may reuse its buffer.
        queue.messages.append(message if isinstance(data, str) else type(message)(encoded))  # type: ignore[arg-type]
        queue.size += len(encoded)

    def open(self, cid: int) -> list[TextMessage | BytesMessage]:
        """Record that a connection is open.

        Args:
            cid: The connection, which may have been opened by a client.

        Returns:
            The messages that waited for it.
        """
        queue = self._queues.pop(cid, None)
        return [] if queue is None else queue.messages

    def forget(self, cid: int) -> None:
        """Forget a connection that has ended.

        Args:
            cid: The connection, which may have been opened by a client.
        """
        target = self._targets.pop(cid, None)
        if target is None:
            return
        self._queues.pop(cid, None)
        self._connects.pop(cid, None)
        # A newer connection may have replaced it.
        if self._by_target[target] == cid:
            del self._by_target[target]

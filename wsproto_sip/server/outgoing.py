"""What waits for a connection that this side is still opening."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import BytesMessage, Event, TextMessage
from ..prepared import PreparedMessage
from ..utilities import LocalProtocolError

if TYPE_CHECKING:
    from .target import Target

__all__ = ["Outgoing"]


class Outgoing:
    """A connection that this side opens, until it is open.

    Args:
        target: What it is opened to.

    Attributes:
        target: As above.
        queue: The messages that wait.
        size: How many octets are in them.
    """

    __slots__ = ("queue", "size", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.queue: list[TextMessage | BytesMessage] = []
        self.size = 0

    def add(self, event: Event | PreparedMessage, *, max_messages: int, max_octets: int) -> None:
        """Has a message wait.

        Whatever could not be sent is refused here: later there is nobody to tell.

        Args:
            event: A whole message.
            max_messages: How many messages may wait.
            max_octets: How many octets may be in them.

        Raises:
            LocalProtocolError: It is no whole message, cannot be sent, or is too much.
            TypeError: It is not made of text or octets.
        """
        message = event.message if isinstance(event, PreparedMessage) else event
        if not isinstance(message, TextMessage | BytesMessage) or not message.message_finished:
            raise LocalProtocolError("only whole messages can wait for a connection")
        data: object = message.data
        try:
            octets = data.encode() if isinstance(data, str) else bytes(memoryview(data))  # type: ignore[arg-type]
            if isinstance(message, TextMessage):
                octets.decode()
        except UnicodeError as exc:
            raise LocalProtocolError(f"text cannot be sent: {exc}") from exc
        if len(self.queue) >= max_messages or self.size + len(octets) > max_octets:
            raise LocalProtocolError("too much waits for the connection to open")
        # The caller may use its buffer again.
        self.queue.append(message if isinstance(data, str) else type(message)(octets))  # type: ignore[arg-type]
        self.size += len(octets)

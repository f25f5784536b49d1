"""One message for many connections.

Theory of operation: a server's frames are not masked, so the frame of a message is the same on
every connection without extensions, and on every connection that compresses each message on its own
(RFC 7692 §7.1.1, ``server_no_context_takeover``) with the same window. Those frames are made once,
when first needed. A client masks each frame with a different key, and a connection that compresses
with context has to compress for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..events import Message
    from ..frame_protocol import FrameEncoder

__all__ = ["PreparedMessage"]


class PreparedMessage:
    """A whole message to be sent on many sessions.

    Args:
        message: The message, which must be whole.

    Raises:
        ValueError: The message is only a piece.

    Attributes:
        message: The message.
    """

    __slots__ = ("_frames", "message")

    def __init__(self, message: Message[str] | Message[bytes]) -> None:
        if not message.message_finished:
            raise ValueError("only a whole message can be prepared")
        self.message = message
        # By the number that identifies connections with the same frame.
        self._frames: dict[int, bytes] = {}

    def frame(self, encoder: FrameEncoder) -> bytes:
        """Return the message as one connection sends it.

        Args:
            encoder: The connection's encoder.

        Returns:
            One frame, the same object for every connection that can share it.

        Raises:
            LocalProtocolError: The connection cannot send it now.
        """
        sharing = encoder.sharing()
        if sharing is None:
            return encoder.message(self.message)
        frame = self._frames.get(sharing)
        if frame is None:
            frame = self._frames[sharing] = encoder.message(self.message)
        return frame

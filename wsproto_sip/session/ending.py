"""The end of a session: its cause, the close frames of both ends, and the one report.

Theory of operation: an ending starts with its cause, and the first cause is kept, whatever it leads
to. Then close frames are sent and received, or not, and finally :meth:`Ending.report` makes the
:class:`~wsproto_sip.session.lifecycle.ConnectionClosed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..frame_protocol import CloseReason
from .lifecycle import Cause, ConnectionClosed

if TYPE_CHECKING:
    from ..events import CloseConnection

__all__ = ["Ending"]


class Ending:
    """The known facts about the end of a session, from its first cause on.

    Args:
        cause: Why the session ends.
        detail: More about the cause, as text.

    Attributes:
        cause: Why the session ends.
        detail: More about the cause, as text.
        failed: Whether the connection was failed (RFC 6455 §7.1.7): the peer broke the protocol, or
            either end exceeded a limit.
        muted: Whether messages are refused although our close frame has not been sent.
        received: The peer's close frame.
        sent: Our close frame, as the peer sees it.
        answer: The close frame to send as soon as the caller has sent its answers to earlier
            messages.
        reported: Whether ``ConnectionClosed`` has been delivered.
    """

    __slots__ = ("answer", "cause", "detail", "failed", "muted", "received", "reported", "sent")

    def __init__(self, cause: Cause, detail: str = "") -> None:
        self.cause = cause
        self.detail = detail
        self.failed = self.muted = False
        self.received: CloseConnection | None = None
        self.answer: CloseConnection | None = None
        self.sent: CloseConnection | None = None
        self.reported = False

    def report(self) -> ConnectionClosed:
        """Return the event that reports the end."""
        self.reported = True
        received = self.received
        if received is not None:
            code, reason = received.code, received.reason or ""
        else:
            tls = self.cause is Cause.TLS
            code = CloseReason.TLS_HANDSHAKE_FAILED if tls else CloseReason.ABNORMAL_CLOSURE
            reason = self.detail
        return ConnectionClosed(int(code), reason, self.cause, received, self.sent)

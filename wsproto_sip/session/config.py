"""The configuration of a session, as one frozen value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .._checks import check_fields
from ..limits import Limits
from .keepalive import KeepaliveConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..typing import Entropy

__all__ = ["SessionConfig"]


_LIMITS: Final = Limits()
_KEEPALIVE: Final = KeepaliveConfig()
_DEADLINES: Final = (
    "open_timeout",
    "close_timeout",
    "send_timeout",
    "idle_timeout",
    "max_age",
    "pause_timeout",
)


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The configuration of a session. Times are in seconds; ``None`` disables a deadline.

    Args:
        limits: The limits of the connection.
        open_timeout: Time for the opening handshake, from the creation of the session.
        close_timeout: Time from the first close frame to the end of the transport.
        send_timeout: Time for the transport to accept a byte, if the adapter reports it.
        idle_timeout: Time without any byte from the peer. It restarts after a pause in reading.
        max_age: Time from the end of the opening handshake.
        pause_timeout: Time of a pause in reading, from the last ``pause()``; then the connection is
            closed with 1011.
        keepalive: The keep-alive configuration.
        auto_pong: Whether to answer Pings.
        auto_close: Whether to answer close frames and errors with a close frame.
        whole_messages: Whether to deliver whole messages, instead of pieces.
        text_as_bytes: Whether to deliver text as bytes, checked as UTF-8 but not decoded.
        auto_pause: Whether the session pauses after delivering a queue's worth of messages
            (``limits.max_queued_messages``, ``max_queued_bytes``), until ``resume()``.
        plain_requests: Whether a server accepts requests without an upgrade, as a
            :class:`~wsproto_sip.events.PlainRequest` to be rejected, for example with a page;
            otherwise they are answered with 426.
        entropy: Source of masking keys, handshake keys and Ping payloads.
        profiles: Other configurations for connections with a given sub-protocol.
    """

    limits: Limits = _LIMITS
    open_timeout: float | None = 10.0
    close_timeout: float | None = 5.0
    send_timeout: float | None = 20.0
    idle_timeout: float | None = None
    max_age: float | None = None
    pause_timeout: float | None = 300.0
    keepalive: KeepaliveConfig = _KEEPALIVE
    auto_pong: bool = True
    auto_close: bool = True
    whole_messages: bool = True
    text_as_bytes: bool = False
    auto_pause: bool = False
    plain_requests: bool = False
    entropy: Entropy = os.urandom
    profiles: Mapping[str, SessionConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in _DEADLINES:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 seconds: {value!r}")

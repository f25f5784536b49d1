"""How a session behaves, in one frozen value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .keepalive import KeepaliveConfig
from .limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .typing import Entropy

__all__ = ["SessionConfig"]


_LIMITS: Final = Limits()
_KEEPALIVE: Final = KeepaliveConfig()


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session behaves. Times are seconds; None switches a deadline off.

    Args:
        limits: Its bounds.
        open_timeout: For the opening handshake, from the first moment on.
        close_timeout: From the first close frame to the end of the transport.
        send_timeout: Without the transport taking an octet, where the adapter reports it.
        idle_timeout: Without any octet from the peer. Anew after a pause in reading.
        max_age: From the end of the opening handshake on.
        keepalive: How it is kept alive.
        auto_pong: Whether Pings are answered.
        auto_close: Whether close frames and errors are answered with a close frame.
        whole_messages: Whether messages are delivered whole, instead of in pieces.
        text_as_bytes: Whether text is delivered as its octets, checked but not decoded.
        auto_pause: Whether the session pauses when a queue's worth of messages was delivered
            (``limits.max_queued_messages``, ``max_queued_bytes``), until ``resume()``.
        plain_requests: Whether a server takes requests that ask for no upgrade, as a
            :class:`~wsproto_sip.events.PlainRequest` to be rejected, with a page perhaps; else
            they are answered with 426.
        entropy: Source of masking keys, handshake keys and Ping payloads.
        profiles: Other configurations for connections that speak a certain sub-protocol.
    """

    limits: Limits = _LIMITS
    open_timeout: float | None = 10.0
    close_timeout: float | None = 5.0
    send_timeout: float | None = 20.0
    idle_timeout: float | None = None
    max_age: float | None = None
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
        for name in ("open_timeout", "close_timeout", "send_timeout", "idle_timeout", "max_age"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 seconds: {value!r}")

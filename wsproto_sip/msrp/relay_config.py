"""How a relay behaves, and what it asks of its surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .uri import MsrpUri

__all__ = ["DropConnection", "ForwardToPeer", "MsrpRelayConfig", "RelayAction", "SendChunk"]


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send a chunk on a connection, over WebSocket as one message.

    Args:
        connection_id: The connection.
        data: The chunk; text or binary is the same to MSRP (RFC 7977 §4.2).
        outcome: Whether it tells what has become of an earlier request. Who has caused it has
            no choice in that, and should not have to wait until it can be sent.
    """

    connection_id: int
    data: bytes
    outcome: bool = False


@dataclass(frozen=True, slots=True)
class ForwardToPeer:
    """Send a chunk to a configured peer, opening a connection to it where none is open.

    Args:
        peer: The name of the peer in the configuration.
        data: The chunk.
        outcome: As for :class:`SendChunk`.
    """

    peer: str
    data: bytes
    outcome: bool = False


@dataclass(frozen=True, slots=True)
class DropConnection:
    """Close a connection, after what was to be sent on it. The relay has forgotten it already.

    Args:
        connection_id: The connection.
        reason: Why.
    """

    connection_id: int
    reason: str


#: What a relay asks of its surroundings, to be done in order.
RelayAction = SendChunk | ForwardToPeer | DropConnection


@dataclass(frozen=True, slots=True)
class MsrpRelayConfig:
    """How a relay behaves.

    Args:
        host: The host in the URIs it hands out.
        port: The port in them.
        secure: Whether they are ``msrps``.
        aliases: Other hosts and ports under which clients may address their AUTH.
        peers: MSRP peers over TCP by name, with the host and port in their URIs. Nothing else is
            ever sent to.
        min_expires: The shortest time a session may be asked for, in seconds (RFC 4976 §6.2).
        default_expires: What a session gets that was asked for without a time.
        max_expires: The longest time.
        transaction_timeout: Seconds after which a silent next hop is reported (RFC 4976 §6.3.1).
        authentication_timeout: Seconds a client may stay without a session; ``None`` for ever.
        limits: The bounds.

    Raises:
        ValueError: The times are not in order.
        MsrpUriError: Host and port make no URI.
    """

    host: str
    port: int
    secure: bool = True
    aliases: frozenset[tuple[str, int | None]] = frozenset()
    peers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    min_expires: int = 60
    default_expires: int = 900
    max_expires: int = 3600
    transaction_timeout: float = 30.0
    authentication_timeout: float | None = 30.0
    limits: MsrpLimits = DEFAULT_MSRP_LIMITS

    def __post_init__(self) -> None:
        if not 0 < self.min_expires <= self.default_expires <= self.max_expires:
            raise ValueError("min_expires, default_expires and max_expires are not in order")
        for host, port in ((self.host, self.port), *self.aliases, *self.peers.values()):
            MsrpUri.build(host, port)

"""The configuration of a relay, and the actions it requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..._checks import check_fields
from ..message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from ..message.uri import MsrpUri

__all__ = [
    "AskQuestion",
    "DropConnection",
    "ForwardToPeer",
    "MsrpRelayConfig",
    "RelayAction",
    "RelayNode",
    "SendChunk",
    "node_hop",
]

#: What the names of nodes start with among the relay's peers.
_NODE: Final = "node:"


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Send a chunk on a connection; over WebSocket as one message.

    Args:
        cid: The connection.
        data: The chunk; text and binary are the same to MSRP (RFC 7977 §4.2).
        outcome: Whether it reports the outcome of an earlier request. The party that caused it had
            no choice, so it should not have to wait until it can be sent.
    """

    cid: int
    data: bytes
    outcome: bool = False


@dataclass(frozen=True, slots=True)
class ForwardToPeer:
    """Send a chunk to a configured peer or a node, opening a connection if there is none.

    Args:
        peer: The name of the peer in the configuration; for a node, its :func:`node_hop`.
        data: The chunk.
        outcome: See :class:`SendChunk`.
    """

    peer: str
    data: bytes
    outcome: bool = False


@dataclass(frozen=True, slots=True)
class DropConnection:
    """Close a connection after sending its output. The relay has already forgotten it.

    Args:
        cid: The connection.
        reason: The reason.
    """

    cid: int
    reason: str


@dataclass(frozen=True, slots=True)
class AskQuestion:
    """Answer a question by calling :meth:`~wsproto_sip.msrp.relay.relay.MsrpRelay.answer`.

    Args:
        number: The number to answer with.
        question: An :class:`~wsproto_sip.auth.verifier.AccountQuestion`.
    """

    number: int
    question: object


#: The actions that a relay requests, to be performed in order.
RelayAction = SendChunk | ForwardToPeer | DropConnection | AskQuestion


@dataclass(frozen=True, slots=True)
class RelayNode:
    """Another relay of the same operator, which serves the same users.

    Args:
        host: The host in the URIs it issues, unique among the nodes. The port does not count.
        boot: Identifier of its run; sessions end with the run.

    Raises:
        MsrpUriError: ``host`` is not a valid host.
    """

    host: str
    boot: str = ""

    def __post_init__(self) -> None:
        MsrpUri.build(self.host)


def node_hop(name: str) -> str:
    """Return the name of a node among the relay's peers."""
    return f"{_NODE}{name}"


@dataclass(frozen=True, slots=True)
class MsrpRelayConfig:
    """The configuration of a relay.

    Args:
        host: The host in the URIs it issues.
        port: The port in them.
        secure: Whether they are ``msrps``.
        aliases: Other hosts and ports under which clients may address their AUTH.
        peers: MSRP peers over TCP by name, with the host and port in their URIs. The relay never
            sends to anything else.
        min_expires: The shortest session lifetime that clients may request, in seconds (RFC 4976
            §6.2).
        default_expires: The lifetime in seconds if the client requests none.
        max_expires: The longest lifetime in seconds.
        transaction_timeout: Seconds after which a silent next hop is reported (RFC 4976 §6.3.1).
        authentication_timeout: Seconds that a client may stay without a session; ``None`` for ever.
        answer_timeout: Seconds that an AUTH may wait for an answer from elsewhere, and for earlier
            ones on its connection; then it gets 408.
        limits: The limits.

    Raises:
        ValueError: The times are not in order, ``answer_timeout`` is not positive, or a peer has
            the name of a node.
        MsrpUriError: Host and port do not make a valid URI.
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
    answer_timeout: float = 5.0
    limits: MsrpLimits = DEFAULT_MSRP_LIMITS

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.min_expires <= self.default_expires <= self.max_expires:
            raise ValueError(
                "min_expires, default_expires and max_expires are not in ascending order"
            )
        if not self.answer_timeout > 0:
            raise ValueError(f"answer_timeout must be positive: {self.answer_timeout!r}")
        for name in ("transaction_timeout", "authentication_timeout"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative: {value!r}")
        for name in self.peers:
            if name.startswith(_NODE):
                raise ValueError(f"the name of a peer must not start with {_NODE!r}: {name!r}")
        for host, port in ((self.host, self.port), *self.aliases, *self.peers.values()):
            MsrpUri.build(host, port)

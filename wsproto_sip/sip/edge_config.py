"""How an edge behaves, what it is told of connections, and what it asks of its surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .domains import Domains
from .limits import DEFAULT_LIMITS, SipLimits
from .transport import Source
from .uri import SipUri

__all__ = [
    "DATAGRAMS",
    "STREAM",
    "EdgeAction",
    "EdgeConfig",
    "EdgeMode",
    "Peer",
    "ResetUpstream",
    "SendToConnection",
    "SendToUpstream",
    "Upstream",
]

#: The link to an upstream that is no connection: datagrams.
DATAGRAMS = 0
#: The link that is the connection opened to an upstream. Connections that the upstream opens have
#: higher numbers.
STREAM = 1


class EdgeMode(Enum):
    """How requests within a dialog find a client's connection."""

    #: By flow tokens in Record-Route and Path (RFC 5626).
    OUTBOUND = "outbound"
    #: By aliases in Contact, as Kamailio's nathelper writes them.
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection.

    Args:
        source: Where it comes from.
        user: Whom it was opened for, where the handshake found out: a name, of a user in the
            first domain, or ``name@host``.
    """

    source: Source
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A SIP proxy and registrar behind the edge.

    Args:
        name: What actions call it.
        host: Its host, a name or an address, for its adapter.
        port: Its port.
        local_host: This side's host, by which the upstream reaches the edge; it stands in Via,
            Path and Record-Route.
        local_port: This side's port.
        transport: ``udp`` or ``tcp``.
        datagram_limit: Octets above which a request goes over TCP although the transport is
            ``udp`` (RFC 3261 §18.1.1): 1300 where nobody knows what the network takes in one
            piece. ``None`` sends everything as datagrams.

    Raises:
        ValueError: Another transport.
        SipValueError: Host and port make no URI.
    """

    name: str
    host: str
    port: int
    local_host: str
    local_port: int
    transport: str = "udp"
    datagram_limit: int | None = 1300

    def __post_init__(self) -> None:
        if self.transport not in ("udp", "tcp"):
            raise ValueError(f"neither udp nor tcp: {self.transport!r}")
        SipUri.make(self.host, port=self.port)
        SipUri.make(self.local_host, port=self.local_port)

    @property
    def reliable(self) -> bool:
        """Whether the transport delivers what it is given."""
        return self.transport == "tcp"

    @property
    def link(self) -> int:
        """Where requests go."""
        return STREAM if self.reliable else DATAGRAMS


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """How an edge behaves. Times are seconds.

    Args:
        host: The host in the Via and Record-Route it writes towards WebSocket clients. They never
            connect to it, since they are connected already; it has to be this edge's alone.
        domains: The domains it is responsible for; ``None`` for the host alone.
        port: The port in them; ``None`` for none.
        mode: Flow tokens or aliases.
        upstream: Where everything goes that is not for a connection; without one, the edge is
            registrar and proxy for its domains.
        challenge_requests: Whether to authenticate every request that begins something, with 407,
            and not REGISTER alone. Without an authenticator nothing is challenged.
        check_identity: Whether From and P-Preferred-Identity have to be the user that the
            connection was opened for.
        t1: The round-trip time to expect (RFC 3261 §17.1.1.1).
        t2: The longest interval between retransmissions.
        t4: How long a message may stay in the network.
        ring_timeout: How long a call may ring without a word from the called side: timer C.
        max_transactions: Requests under way in all; more are answered with 503.
        max_transactions_per_connection: From one connection; the same.
        max_pending_octets: Octets of all requests under way; the same.
        max_pending_octets_per_connection: Of these, what came from one connection; the same.
        max_branches: How many contacts one request may be sent to.
        limits: What one message may cost.

    Raises:
        ValueError: The times are not in order, or a bound is not positive.
        SipValueError: Host and port make no URI.
    """

    host: str
    domains: Domains | None = None
    port: int | None = None
    mode: EdgeMode = EdgeMode.OUTBOUND
    upstream: Upstream | None = None
    challenge_requests: bool = False
    check_identity: bool = True
    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    ring_timeout: float = 185.0
    max_transactions: int = 10_000
    max_transactions_per_connection: int = 100
    max_pending_octets: int = 32 * 1024 * 1024
    max_pending_octets_per_connection: int = 512 * 1024
    max_branches: int = 20
    limits: SipLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        SipUri.make(self.host, port=self.port)
        if not 0 < self.t1 <= self.t2 <= self.t4 <= self.timeout < self.ring_timeout:
            raise ValueError("t1, t2, t4, 64 times t1 and ring_timeout are not in order")
        numbers = (
            self.max_transactions,
            self.max_transactions_per_connection,
            self.max_pending_octets,
            self.max_pending_octets_per_connection,
            self.max_branches,
        )
        if min(numbers) < 1:
            raise ValueError("a bound is not positive")

    @property
    def timeout(self) -> float:
        """How long to wait for a response: timers B, F, H, J and L (RFC 3261 §17, RFC 6026)."""
        return 64 * self.t1

    @property
    def own_domains(self) -> Domains:
        """The domains, with the host in their place where none are given."""
        return self.domains or Domains((self.host,))


@dataclass(frozen=True, slots=True)
class SendToConnection:
    """Send one WebSocket message.

    Args:
        connection: The connection.
        data: Text for a text message, octets for a binary one.
    """

    connection: int
    data: str | bytes


@dataclass(frozen=True, slots=True)
class SendToUpstream:
    """Send a SIP message to the configured upstream: one datagram, or into a stream.

    Args:
        upstream: Its name in the configuration.
        data: The message.
        link: :data:`DATAGRAMS`; :data:`STREAM`, which is to be opened where it is not; or the
            connection of the upstream's on which the request came. Where that one is gone, STREAM
            takes its place.
    """

    upstream: str
    data: bytes
    link: int = DATAGRAMS


@dataclass(frozen=True, slots=True)
class ResetUpstream:
    """Close a connection with the upstream: what came on it cannot be framed.

    Args:
        upstream: Its name in the configuration.
        reason: What was wrong.
        link: Which one; what was to be sent on it is still sent.
    """

    upstream: str
    reason: str
    link: int = STREAM


#: What an edge asks of its surroundings, to be done in order.
EdgeAction = SendToConnection | SendToUpstream | ResetUpstream

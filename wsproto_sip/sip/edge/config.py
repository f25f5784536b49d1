"""The configuration of an edge, and of the upstreams it stands in front of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..._checks import check_fields
from ...server.shares import ShareConfig
from ..message.limits import DEFAULT_LIMITS, SipLimits
from ..message.uri import SipUri
from ..registrar.domains import Domains

__all__ = [
    "DATAGRAMS",
    "STREAM",
    "ChallengeScope",
    "EdgeConfig",
    "EdgeMode",
    "Probing",
    "Upstream",
    "check_upstreams",
]

#: The link to an upstream without a connection: datagrams.
DATAGRAMS = 0
#: The link that is the connection opened to an upstream. Connections that the upstream opens have
#: higher numbers.
STREAM = 1

_TRANSACTIONS: Final = ShareConfig(10_000)
_PENDING_BYTES: Final = ShareConfig(32 * 1024 * 1024)
_REQUESTS_PER_SECOND: Final = ShareConfig(2_000)
#: Only for strangers, so that nothing is reserved for users.
_FOR_CALLEE: Final = ShareConfig(30, reserve=0)


class EdgeMode(Enum):
    """How requests within a dialog reach a client's connection."""

    #: With flow tokens in Record-Route and Path (RFC 5626).
    OUTBOUND = "outbound"
    #: With aliases in Contact, as written by Kamailio's nathelper.
    ALIAS = "alias"


class ChallengeScope(Enum):
    """Which requests need a password, besides REGISTER, if there is an authenticator."""

    #: None: clients without a password may act in the name of any user.
    NONE = "none"
    #: Requests that claim to come from a user in one of our domains.
    OWN = "own"
    #: All requests that start something, so that strangers can do nothing.
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server of the SIP core that the edge stands in front of: a proxy and registrar.

    Args:
        name: Its unique name in actions, metrics and the log.
        host: Its host, a name or an address, for its adapter.
        port: Its port.
        local_host: This side's host, at which the upstream reaches the edge; written into Via, Path
            and Record-Route. Upstreams may share it, and its port, unless only one of them is
            reached over TLS.
        local_port: This side's port.
        transport: ``udp``, ``tcp`` or ``tls``.
        datagram_limit: Size in bytes above which a request is sent over TCP although the transport
            is ``udp`` (RFC 3261 §18.1.1): 1300 if the path MTU is unknown. ``None`` sends
            everything as datagrams.
        priority: Upstreams with the lowest number are used while one of them is in service
            (RFC 2782). Of a client that is connected to several nodes, the connection at the node
            with the lowest number is tried first.
        weight: The share of clients among upstreams of the same priority; 0 for almost none while
            others have more.
        aliases: Other hosts that name it in Route and Request-URI, such as its address.
        tls_name: The domain that its certificate must be for (RFC 5922); ``host`` by default.
        is_node: Whether it is a node of the same population, for
            :meth:`~wsproto_sip.sip.edge.edge.SipEdge.use_nodes`, and not an upstream.

    Raises:
        ValueError: The name is empty, or transport, priority or weight is not one of the above.
        SipValueError: Host and port are not valid in a URI.
    """

    name: str
    host: str
    port: int
    local_host: str
    local_port: int
    transport: str = "udp"
    datagram_limit: int | None = 1300
    priority: int = 0
    weight: int = 1
    aliases: tuple[str, ...] = ()
    tls_name: str | None = None
    is_node: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.transport not in ("udp", "tcp", "tls"):
            raise ValueError(f"transport must be udp, tcp or tls: {self.transport!r:.100}")
        if not self.name or min(self.priority, self.weight) < 0:
            raise ValueError("an upstream needs a name, and a priority and weight of at least 0")
        SipUri.make(self.host, port=self.port)
        SipUri.make(self.local_host, port=self.local_port)

    @property
    def reliable(self) -> bool:
        """Whether the transport is reliable."""
        return self.transport != "udp"

    @property
    def secure(self) -> bool:
        """Whether it is reached over TLS, as ``sips`` requires (RFC 5630)."""
        return self.transport == "tls"

    @property
    def link(self) -> int:
        """The link for requests."""
        return STREAM if self.reliable else DATAGRAMS

    @property
    def local(self) -> tuple[str, int]:
        """This side's host and port, in comparable form."""
        return self.local_host.lower(), self.local_port


@dataclass(frozen=True, slots=True)
class Probing:
    """How an edge finds out whether its upstreams are in service. Times are in seconds.

    An upstream is sent OPTIONS (RFC 3261 §11) while there are others, or while it is out of
    service. Any answer except 503 is a sign of life.

    Args:
        interval: The time between two probes of one upstream.
        timeout: How long a probe waits for its answer.
        jitter: The random part of an interval, so that edges that were started together do not
            probe at the same time.
        dead_after: Consecutive failures after which an upstream is out of service. One that the
            network reports as unreachable is out of service at once.
        alive_after: Consecutive answers after which it is in service again.

    Raises:
        ValueError: The timeout is not between 0 and the interval, the jitter is not between 0
            and 1, or a number is not positive.
        TypeError: A field is of another type.
    """

    interval: float = 10.0
    timeout: float = 4.0
    jitter: float = 0.2
    dead_after: int = 2
    alive_after: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.timeout <= self.interval:
            raise ValueError("the timeout of probes must be above 0 and at most their interval")
        if not 0 <= self.jitter < 1:
            raise ValueError("the jitter of probes must be at least 0 and below 1")
        if min(self.dead_after, self.alive_after) < 1:
            raise ValueError("dead_after and alive_after must be positive")


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """The configuration of an edge. Times are in seconds.

    Args:
        host: The host in the Via and Record-Route that it writes towards WebSocket clients. They
            never connect to it, since they are connected already; it must be unique to this edge.
        domains: The domains it is responsible for; ``None`` for the host alone.
        port: The port in them; ``None`` for none.
        mode: Flow tokens or aliases.
        upstreams: The destination of everything that is not for a connection, one at a time.
            Without any, the edge is registrar and proxy for its domains.
        challenge: Which requests are challenged with 407, besides REGISTER. Without an
            authenticator nothing is challenged.
        check_identity: Whether From and P-Preferred-Identity must name the user of the connection.
        open_to_strangers: Whether unauthenticated clients may send to other domains than ours
            through the upstream, like any client of an open relay.
        assert_identity: Whether to tell the upstream in P-Asserted-Identity which authenticated
            user of the domains has sent a request (RFC 3325), even if From is anonymous. The
            upstream must be trusted with that.
        t1: The expected round-trip time (RFC 3261 §17.1.1.1).
        t2: The longest interval between retransmissions.
        t4: How long a message may stay in the network.
        ring_timeout: How long a call may ring without a response from the called side: timer C.
        transactions: Pending requests, in shares of connections, addresses, users and the upstream.
            Requests above a share are answered with 503.
        pending_bytes: Bytes of pending requests, with the same shares and answer.
        requests_per_second: New requests of clients per second, with the same shares and answer.
        callee_requests_per_second: Requests of strangers to one callee per second. Requests above
            it are answered with 480 and Retry-After. A callee is a connection or, with an upstream,
            a user there.
        callee_transactions: Requests of strangers to one callee that wait for their answer, such as
            ringing calls, with the same answer.
        probing: How to find out which upstreams are in service.
        failover_timeout: How long a request waits for the first response of one upstream before it
            is sent to another, within ``timeout`` in total.
        answer_timeout: How long a request waits for answers to questions about it, and for earlier
            requests on its connection, before it is answered with 503.
        store_timeout: How long one question to the location store may take. Afterwards a REGISTER
            is answered with 503, and other requests with 480, with Retry-After.
        max_branches: How many contacts one request may be sent to.
        max_users_per_connection: How many authenticated users one connection may have, and may
            register; a gateway has many.
        limits: Bounds on one message.
        names: Hosts and ports of further URIs that mean this edge: the public names by which
            clients of a reverse proxy know it. A name without a port (``None``) matches URIs with
            no port, with ``port``, or with a default port of WebSocket, 80 and 443. The same is
            true of the domains, and of ``host`` if a URI without a port says ``transport=ws``.

    Raises:
        ValueError: The times are not in order, a bound is not positive, or two upstreams have the
            same name, or the same local address with and without TLS.
        SipValueError: Host and port are not valid in a URI.
    """

    host: str
    domains: Domains | None = None
    port: int | None = None
    mode: EdgeMode = EdgeMode.OUTBOUND
    upstreams: tuple[Upstream, ...] = ()
    challenge: ChallengeScope = ChallengeScope.OWN
    check_identity: bool = True
    open_to_strangers: bool = False
    assert_identity: bool = False
    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    ring_timeout: float = 185.0
    probing: Probing = Probing()
    failover_timeout: float = 5.0
    transactions: ShareConfig = _TRANSACTIONS
    pending_bytes: ShareConfig = _PENDING_BYTES
    requests_per_second: ShareConfig = _REQUESTS_PER_SECOND
    answer_timeout: float = 5.0
    store_timeout: float = 2.0
    callee_requests_per_second: ShareConfig = _FOR_CALLEE
    callee_transactions: ShareConfig = _FOR_CALLEE
    max_branches: int = 20
    max_users_per_connection: int = 20
    limits: SipLimits = DEFAULT_LIMITS
    names: tuple[tuple[str, int | None], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        for host, port in ((self.host, self.port), *self.names):
            SipUri.make(host, port=port)
        if not 0 < self.t1 <= self.t2 <= self.t4 <= self.timeout < self.ring_timeout:
            raise ValueError("t1, t2, t4, 64 times t1 and ring_timeout must be in ascending order")
        for name in ("answer_timeout", "store_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive: {getattr(self, name)!r}")
        if min(self.max_branches, self.max_users_per_connection) < 1:
            raise ValueError("max_branches and max_users_per_connection must be positive")
        if self.failover_timeout <= 0:
            raise ValueError(f"failover_timeout must be positive: {self.failover_timeout!r}")
        check_upstreams(self.upstreams)

    @property
    def timeout(self) -> float:
        """How long to wait for a response: timers B, F, H, J and L (RFC 3261 §17, RFC 6026)."""
        return 64 * self.t1

    @property
    def own_domains(self) -> Domains:
        """The domains, or the host if none are given."""
        return self.domains or Domains((self.host,))


def check_upstreams(upstreams: Sequence[Upstream]) -> None:
    """Check that upstreams can be told apart.

    Args:
        upstreams: The upstreams of one edge.

    Raises:
        ValueError: Two have the same name, or the same local address with and without TLS.
    """
    if len({upstream.name for upstream in upstreams}) < len(upstreams):
        raise ValueError("two upstreams have the same name")
    places = {(upstream.local, upstream.secure) for upstream in upstreams}
    if len({local for local, _ in places}) < len(places):
        raise ValueError(
            "an upstream over TLS and one without must not have the same local address"
        )

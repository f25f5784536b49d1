"""The configuration of an endpoint, as one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from .._checks import check_fields
from ..policy.decision import Policy, PolicyChain
from ..policy.health import HealthPolicy
from ..session.config import SessionConfig
from ..subprotocols import MSRP, SIP
from .management.kamailio import ModParams
from .shares import ShareConfig

if TYPE_CHECKING:
    from ..extensions import Extension

__all__ = ["EndpointConfig", "subprotocol_profiles"]

_SESSION: Final = SessionConfig()

_UNFINISHED: Final = ShareConfig(256 * 1024 * 1024)
_BOUNDS: Final = {
    "max_due": 1,
    "max_connections": 0,
    "max_per_address": 0,
    "max_handshaking": 0,
    "max_handshaking_per_address": 0,
    "max_queued_messages": 0,
    "max_queued_bytes": 0,
}


def _no_extensions(subprotocol: str | None) -> Sequence[Extension]:
    return ()


def subprotocol_profiles(
    session: SessionConfig, *, sip_size: int = 64 * 1024, msrp_size: int = 64 * 1024
) -> dict[str, SessionConfig]:
    """Return the session configurations for SIP and MSRP.

    Both deliver text as bytes (RFC 7118 §4.2, RFC 7977 §4.2) and have their own size limits; a SIP
    message has at most 64 frames. A lower limit of other sessions applies to them too.

    Args:
        session: The configuration of other sessions.
        sip_size: The largest SIP message, in bytes.
        msrp_size: The largest MSRP chunk, in bytes.

    Returns:
        Configurations by sub-protocol, for ``SessionConfig.profiles``.
    """
    limits = session.limits
    most = limits.max_message_size
    sip = replace(
        limits,
        max_message_size=_at_most(sip_size, most),
        max_fragments=_at_most(64, limits.max_fragments),
    )
    msrp = replace(limits, max_message_size=_at_most(msrp_size, most))
    return {
        SIP: replace(session, limits=sip, text_as_bytes=True, profiles={}),
        MSRP: replace(session, limits=msrp, text_as_bytes=True, profiles={}),
    }


def _at_most(bound: int, other: int | None) -> int:
    return bound if other is None else min(bound, other)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """The configuration of an endpoint. Times are in seconds; ``None`` disables a limit.

    The limits on connections are checked when a transport is accepted, when only its address is
    known; an excess transport is dropped without an answer. A connection counts for its transport's
    address until a policy that trusts a proxy names the client, and for the client from then on. If
    there is a proxy, the limits per address therefore limit its handshakes, and
    :class:`~wsproto_sip.policy.capacity.CapacityPolicy`, which answers with 503 or 429, limits each
    client. Connections that we open count too, for the host they lead to.

    Args:
        session: The session configuration of accepted connections.
        client_session: The session configuration of connections that we open; ``None`` for the
            same.
        policies: The policies that decide about handshakes. They are not asked while the endpoint
            is disabled or draining.
        health: Answers health checks, before the policies and in any state of the endpoint;
            ``session`` must have ``plain_requests`` then.
        extensions: Returns the extensions to negotiate for a connection, given its sub-protocol or
            ``None``; it must return new objects for each call.
        shards: The number of parts in which deadlines are kept, 1 to 16, by id modulo their number;
            fixed for the endpoint's life.
        timer_interval: Seconds between two passes over a shard, 0 to 60, which is how late a
            deadline may be; 0 makes a pass whenever a connection is due.
        max_due: Connections of a shard that one call handles; the next call, due at once, continues
            with the others.
        max_connections: Connections in total.
        max_per_address: Connections of one address; those of IPv6 count by their /64.
        max_handshaking: Connections in total with an unfinished handshake. If there are as many,
            the oldest of the address with the most of them makes room for another address.
        max_handshaking_per_address: Connections of one address with an unfinished handshake.
        max_queued_messages: Messages waiting for one connection that we are opening.
        max_queued_bytes: Bytes in these messages.
        unfinished_bytes: Bytes of partly received messages, in shares of connections, addresses and
            users; fixed for the endpoint's life. A connection with more is failed with 1008.
        message_timeout: Seconds that a message may take from its first bytes on, plus one for each
            KiB of it; then its connection is failed with 1008.

    Raises:
        ValueError: A number is out of range.
    """

    session: SessionConfig = _SESSION
    client_session: SessionConfig | None = None
    policies: PolicyChain = field(default_factory=PolicyChain)
    health: HealthPolicy | None = None
    extensions: Callable[[str | None], Sequence[Extension]] = _no_extensions
    shards: int = 1
    timer_interval: float = 0.0
    max_due: int | None = 1000
    max_connections: int | None = 10_000
    max_per_address: int | None = 100
    max_handshaking: int | None = 1000
    max_handshaking_per_address: int | None = 50
    max_queued_messages: int = 16
    max_queued_bytes: int = 64 * 1024
    unfinished_bytes: ShareConfig = _UNFINISHED
    message_timeout: float | None = 60.0

    @classmethod
    def from_modparams(
        cls,
        params: ModParams | Mapping[str, int | str | bytes],
        *,
        policies: Iterable[Policy] = (),
        **options: Any,
    ) -> EndpointConfig:
        """Create a configuration from the parameters of Kamailio's ``websocket`` module.

        Args:
            params: Values by the module's names, or parameters that were already read.
            policies: Policies to ask before the module's own checks: port, target, Host, Origin,
                authentication, as the script around the module would.
            options: Further fields of this class. The parameters are applied to ``session``.

        Returns:
            The configuration.

        Raises:
            ModParamError: The module would refuse to start with these parameters.
        """
        if not isinstance(params, ModParams):
            params = ModParams.from_modparams(params)
        session: SessionConfig = options.pop("session", _SESSION)
        session = replace(session, keepalive=params.keepalive_config())
        session = replace(session, profiles={**subprotocol_profiles(session), **session.profiles})
        return cls(
            session=session,
            policies=PolicyChain([*policies, *params.policies()]),
            shards=params.keepalive_processes,
            timer_interval=float(params.keepalive_interval),
            **options,
        )

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.shards <= 16:
            raise ValueError(f"shards must be 1 to 16: {self.shards!r}")
        if not 0 <= self.timer_interval <= 60:
            raise ValueError(f"timer_interval must be 0 to 60 seconds: {self.timer_interval!r}")
        if self.message_timeout is not None and not self.message_timeout > 0:
            raise ValueError(f"message_timeout must be positive: {self.message_timeout!r}")
        for name, least in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more: {value!r}")

"""How an endpoint behaves, in one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from ..config import SessionConfig
from ..policy.decision import Policy, PolicyChain
from ..subprotocols import MSRP, SIP
from .modparams import ModParams

if TYPE_CHECKING:
    from ..extensions import Extension

__all__ = ["EndpointConfig", "subprotocol_profiles"]

_SESSION: Final = SessionConfig()

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


def subprotocol_profiles(session: SessionConfig) -> dict[str, SessionConfig]:
    """What sessions that speak SIP or MSRP do differently.

    Both want the octets of text (RFC 7118 §4.2, RFC 7977 §4.2) and have messages of at most 64
    KiB; a SIP message comes in at most 64 frames. Where the others may do less, so may they.

    Args:
        session: How the others behave.

    Returns:
        Configurations by sub-protocol, for ``SessionConfig.profiles``.
    """
    limits = session.limits
    limits = replace(limits, max_message_size=_at_most(64 * 1024, limits.max_message_size))
    sip = replace(limits, max_fragments=_at_most(64, limits.max_fragments))
    return {
        SIP: replace(session, limits=sip, text_as_bytes=True, profiles={}),
        MSRP: replace(session, limits=limits, text_as_bytes=True, profiles={}),
    }


def _at_most(bound: int, other: int | None) -> int:
    return bound if other is None else min(bound, other)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """How an endpoint behaves. Times are seconds; None switches a bound off.

    The bounds on connections are for the moment a transport is accepted, when nothing is known but
    its address: one more is dropped without a word. An address is the transport's own until a
    policy that trusts a proxy has told whose connection it is, and is then counted for that client;
    so behind a proxy those per address bound what it has open before that, and
    :class:`~wsproto_sip.policy.capacity.CapacityPolicy`, which answers with 503 or 429, is what
    bounds each client. Connections that this side opens count too, under the host they go to.

    Args:
        session: How the sessions of accepted connections behave.
        client_session: How those of connections behave that this side opens; None for the same.
        policies: Who is let in. Whether new connections are wanted at all is asked before.
        extensions: Gives the extensions to negotiate for a connection that will speak a certain
            sub-protocol, or none; fresh objects each time.
        shards: Parts that the deadlines are kept in, 1 to 16, by id modulo their number; fixed
            for the endpoint's life.
        timer_interval: Seconds between two passes over a shard, by which every deadline may be
            late; 0 for a pass whenever one is due.
        max_due: Connections that one call handles at the most in a shard; the next call, for
            which it is time at once, goes on with the others.
        max_connections: Connections in all, before which no other is taken.
        max_per_address: Of one address.
        max_handshaking: Before the end of their handshake, in all.
        max_handshaking_per_address: Of one address.
        max_queued_messages: Messages for a connection that is still being opened.
        max_queued_bytes: Octets in them.

    Raises:
        ValueError: A number is out of its range.
    """

    session: SessionConfig = _SESSION
    client_session: SessionConfig | None = None
    policies: PolicyChain = field(default_factory=PolicyChain)
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

    @classmethod
    def from_modparams(
        cls,
        params: ModParams | Mapping[str, int | str | bytes],
        *,
        policies: Iterable[Policy] = (),
        **options: Any,
    ) -> EndpointConfig:
        """A configuration from the parameters of Kamailio's ``websocket`` module.

        Args:
            params: Values by the module's names, or such as were read already.
            policies: What is asked before the module's own checks: port, target, Host, Origin,
                authentication, as the script around the module would.
            options: Further fields of this class. ``session`` is what the parameters are put into.

        Returns:
            The configuration.

        Raises:
            ModParamError: The module would refuse to start with them.
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
        if not 1 <= self.shards <= 16:
            raise ValueError(f"shards must be 1 to 16: {self.shards!r}")
        if not 0 <= self.timer_interval <= 60:
            raise ValueError(f"timer_interval must be 0 to 60 seconds: {self.timer_interval!r}")
        for name, least in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more: {value!r}")

"""Limit the number of connections."""

from __future__ import annotations

from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["CapacityPolicy"]


class CapacityPolicy:
    """Refuse connections above a limit: 503 in total, 429 per address (RFC 6585 §4).

    The counts are in the context. If there is a proxy, put
    :class:`~wsproto_sip.policy.forwarded.ForwardedPolicy` first, or every client counts as the
    proxy.

    Args:
        max_connections: Connections in total; ``None`` for any number.
        max_per_address: Connections from one client address, of IPv6 from its /64; ``None`` for
            any number.
        retry_after: Seconds for the Retry-After header field; ``None`` leaves it out.

    Raises:
        ValueError: A number is negative.
    """

    def __init__(
        self,
        max_connections: int | None = 10_000,
        max_per_address: int | None = 100,
        *,
        retry_after: int | None = 5,
    ) -> None:
        for name, value in (
            ("max_connections", max_connections),
            ("max_per_address", max_per_address),
            ("retry_after", retry_after),
        ):
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative: {value!r}")
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._headers = () if retry_after is None else ((b"retry-after", b"%d" % retry_after),)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Compare the counts without this connection with the limits."""
        limit = self._max_connections
        if limit is not None and context.connections >= limit:
            return refuse(503, "too many connections", *self._headers)
        limit = self._max_per_address
        if limit is not None:
            count = context.connections_by_address.get(context.peer_address, 0)
            if count >= limit:
                return refuse(429, "too many connections from this address", *self._headers)
        return Continue()

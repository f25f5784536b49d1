"""The Access-Control-Allow-Origin header field of an accepting response (RFC 7977 §7)."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import IntEnum

from .decision import Continue, Decision, RequestContext, header_values, refuse

__all__ = ["CorsMode", "CorsPolicy"]

_VISIBLE = re.compile(rb"[\x21-\x7e]+")


class CorsMode(IntEnum):
    """The values of Kamailio's parameter ``cors_mode``."""

    NONE = 0
    ANY = 1
    ECHO = 2


class CorsPolicy:
    """Add Access-Control-Allow-Origin to the response.

    The field tells what a page may read, and does not refuse connections:
    :class:`~wsproto_sip.policy.origin.OriginPolicy` does that. Only an Origin that could not be
    echoed, because it is repeated or has anything but visible ASCII, is refused, with 400.

    Args:
        mode: ``NONE`` adds nothing, ``ANY`` adds ``*``, ``ECHO`` adds the request's Origin, if any.
        always: Sub-protocols for which ``NONE`` counts as ``ECHO``, which ``msrp`` requires (RFC
            7977 §7). The policy that chooses the sub-protocol has to come before this one in the
            chain.

    Raises:
        ValueError: The mode is not one of these.
        TypeError: ``always`` is one string.
    """

    def __init__(
        self, mode: CorsMode | int = CorsMode.NONE, *, always: Collection[str] = ()
    ) -> None:
        if isinstance(always, str):
            raise TypeError("always must be a collection of strings, not one string")
        self.mode = CorsMode(mode)
        self._always = frozenset(always)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Add the header field."""
        if self.mode is CorsMode.NONE and context.subprotocol not in self._always:
            return Continue()
        if self.mode is CorsMode.ANY:
            return Continue(headers=((b"access-control-allow-origin", b"*"),))
        values = header_values(context.request, b"origin")
        if not values:
            return Continue()
        if len(values) > 1 or not _VISIBLE.fullmatch(values[0]):
            return refuse(400, "malformed or repeated Origin")
        return Continue(headers=((b"access-control-allow-origin", values[0]),))

"""The Access-Control-Allow-Origin header field of the response that accepts (RFC 7977 §7)."""

from __future__ import annotations

import re
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

    It says what a page may read, and keeps nobody out: that is
    :class:`~wsproto_sip.policy.origin.OriginPolicy`'s part. Only an Origin that could not be
    echoed, being repeated or holding something else than visible ASCII, is refused, with 400.

    Args:
        mode: ``NONE`` adds nothing, ``ANY`` adds ``*``, ``ECHO`` the request's Origin, and nothing
            if there is none.

    Raises:
        ValueError: The mode is none of these.
    """

    def __init__(self, mode: CorsMode | int = CorsMode.NONE) -> None:
        self.mode = CorsMode(mode)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Make the header field."""
        if self.mode is CorsMode.NONE:
            return Continue()
        if self.mode is CorsMode.ANY:
            return Continue(headers=((b"access-control-allow-origin", b"*"),))
        values = header_values(context.request, b"origin")
        if not values:
            return Continue()
        if len(values) > 1 or not _VISIBLE.fullmatch(values[0]):
            return refuse(400, "malformed or repeated Origin")
        return Continue(headers=((b"access-control-allow-origin", values[0]),))

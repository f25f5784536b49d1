"""Choose the sub-protocol of a connection (RFC 6455 §4.2.2, RFC 7118 §4.1, RFC 7977 §4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from ..subprotocols import select_subprotocol
from ..utilities import is_token
from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["SubprotocolPolicy"]


class SubprotocolPolicy:
    """Choose the first sub-protocol that both sides support.

    Names are compared exactly and case-sensitively: ``sipx`` or ``SIP`` does not match ``sip``. If
    none matches and one is required, the answer is 400 Bad Request with the enabled sub-protocols
    and the version, like that of Kamailio's module.

    Args:
        enabled: The sub-protocols, in the server's order of preference.
        required: Whether a request must offer one of them. Otherwise a request that offers none, or
            only unknown ones, gets a connection without a sub-protocol.
        server_preference: Whether the server's order decides instead of the client's, which is
            Kamailio's rule for ``("sip", "msrp")``.

    Raises:
        ValueError: A name is not a token or is repeated, or one is required and none is enabled.
        TypeError: ``enabled`` is one string.
    """

    def __init__(
        self, enabled: Sequence[str], *, required: bool = True, server_preference: bool = False
    ) -> None:
        if isinstance(enabled, str):
            raise TypeError("enabled must be a sequence of strings, not one string")
        for name in enabled:
            if not name.isascii() or not is_token(name.encode("ascii")):
                raise ValueError(f"not a sub-protocol name: {name!r}")
        if len(set(enabled)) != len(enabled):
            raise ValueError(f"a sub-protocol is repeated: {', '.join(enabled)}")
        if required and not enabled:
            raise ValueError("a sub-protocol is required, but none is enabled")
        self._enabled = tuple(enabled)
        self._required = required
        self._server_preference = server_preference
        self._hints = (
            (b"sec-websocket-protocol", ", ".join(enabled).encode("ascii")),
            (b"sec-websocket-version", b"13"),
        )

    def __call__(self, context: RequestContext, /) -> Decision:
        """Compare the request's offers with the enabled sub-protocols."""
        name = select_subprotocol(
            context.request.subprotocols, self._enabled, prefer_server=self._server_preference
        )
        if name is not None:
            return Continue(subprotocol=name)
        if self._required:
            return refuse(400, "no enabled sub-protocol offered", *self._hints)
        return Continue()

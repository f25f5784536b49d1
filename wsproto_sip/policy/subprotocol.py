"""Which sub-protocol a connection gets (RFC 6455 §4.2.2, RFC 7118 §4.1, RFC 7977 §4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from ..subprotocols import select_subprotocol
from ..utilities import is_token
from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["SubprotocolPolicy"]


class SubprotocolPolicy:
    """Choose the first sub-protocol that both sides know.

    Names are compared exactly, case included: a proposal of ``sipx`` or ``SIP`` is not one of
    ``sip``. Where none fits and one is required, the answer is 400 Bad Request with the enabled
    sub-protocols and the version, as Kamailio's module answers.

    Args:
        enabled: The sub-protocols, in the server's order of preference.
        required: Whether a request must propose one of them. Otherwise one that proposes none,
            or only unknown ones, gets a connection without.
        server_preference: Whether the server's order decides instead of the client's, which is
            Kamailio's rule for ``("sip", "msrp")``.

    Raises:
        ValueError: A name is no token or is given twice, or one is required and none is enabled.
        TypeError: ``enabled`` is one string.
    """

    def __init__(
        self, enabled: Sequence[str], *, required: bool = True, server_preference: bool = False
    ) -> None:
        if isinstance(enabled, str):
            raise TypeError("enabled must be a sequence of strings, not one string")
        for name in enabled:
            if not name.isascii() or not is_token(name.encode("ascii")):
                raise ValueError(f"not the name of a sub-protocol: {name!r}")
        if len(set(enabled)) != len(enabled):
            raise ValueError(f"a sub-protocol is given twice: {', '.join(enabled)}")
        if required and not enabled:
            raise ValueError("a sub-protocol is required and none is enabled")
        self._enabled = tuple(enabled)
        self._required = required
        self._server_preference = server_preference
        self._hints = (
            (b"sec-websocket-protocol", ", ".join(enabled).encode("ascii")),
            (b"sec-websocket-version", b"13"),
        )

    def __call__(self, context: RequestContext, /) -> Decision:
        """Compare the request's proposals with what is enabled."""
        name = select_subprotocol(
            context.request.subprotocols, self._enabled, prefer_server=self._server_preference
        )
        if name is not None:
            return Continue(subprotocol=name)
        if self._required:
            return refuse(400, "no enabled sub-protocol proposed", *self._hints)
        return Continue()

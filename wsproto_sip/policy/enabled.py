"""Refuse connections while the server is disabled."""

from __future__ import annotations

from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["EnabledPolicy"]


class EnabledPolicy:
    """Refuse every handshake while the server is disabled, with 503 Service Unavailable.

    Put it before all other policies: after ``ws.disable`` a request is not examined any further.

    Args:
        retry_after: Seconds for the Retry-After header field (RFC 9110 §10.2.3); ``None`` leaves it
            out.

    Raises:
        ValueError: ``retry_after`` is negative.
    """

    def __init__(self, retry_after: int | None = None) -> None:
        if retry_after is not None and retry_after < 0:
            raise ValueError(f"retry_after must not be negative: {retry_after!r}")
        self._headers = () if retry_after is None else ((b"retry-after", b"%d" % retry_after),)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Check :attr:`RequestContext.enabled`."""
        if context.enabled:
            return Continue()
        return refuse(503, "new connections are disabled", *self._headers)

"""Whether new connections are wanted at all."""

from __future__ import annotations

from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["EnabledPolicy"]


class EnabledPolicy:
    """Refuse every handshake while the server is disabled, with 503 Service Unavailable.

    It belongs in front of all other policies: after ``ws.disable`` nothing else about a request
    is looked at.

    Args:
        retry_after: Seconds to put into a Retry-After header field (RFC 9110 §10.2.3); none if
            ``None``.

    Raises:
        ValueError: ``retry_after`` is negative.
    """

    def __init__(self, retry_after: int | None = None) -> None:
        if retry_after is not None and retry_after < 0:
            raise ValueError(f"retry_after must not be negative: {retry_after!r}")
        self._headers = () if retry_after is None else ((b"retry-after", b"%d" % retry_after),)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Look at :attr:`RequestContext.enabled`."""
        if context.enabled:
            return Continue()
        return refuse(503, "new connections are disabled", *self._headers)

"""Health checks on the port of the WebSocket connections: liveness and readiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .decision import Continue, Decision, RequestContext, Respond

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HealthPolicy"]

#: An answer describes the server at this moment, and must not be cached.
_HEADERS: Final = ((b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store"))
_ALIVE: Final = Respond(200, "alive", _HEADERS, b"alive\n", routine=True)
_READY: Final = Respond(200, "ready", _HEADERS, b"ready\n", routine=True)
_NOT_READY: Final = Respond(503, "not ready", _HEADERS, b"not ready\n", routine=True)


class HealthPolicy:
    """Answer the plain requests of load balancers and supervisors; all others pass.

    Put it before all other policies, because such requests have no server name in Host, no Origin
    and no credentials. The session's configuration must have ``plain_requests``. On an endpoint it
    is :attr:`EndpointConfig.health <wsproto_sip.server.config.EndpointConfig>`, which also answers
    while the endpoint is disabled or draining.

    Args:
        alive: The path that is answered with 200 as long as the server answers at all; ``None``
            disables it.
        ready: The path that is answered with 200 while new connections are accepted, and with 503
            otherwise; ``None`` disables it.
        is_ready: Whether what else the server needs is there; with ``False``, the answer is 503 as
            well.

    Raises:
        ValueError: A path is not absolute or has a query, or both paths are the same.
    """

    def __init__(
        self,
        alive: str | None = None,
        ready: str | None = None,
        *,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        for path in (alive, ready):
            if path is not None and (not path.startswith("/") or "?" in path):
                raise ValueError(f"not an absolute path without a query: {path!r}")
        if alive is not None and alive == ready:
            raise ValueError(f"alive and ready must differ: {alive!r}")
        self._alive = alive
        self._ready = ready
        self._is_ready = is_ready

    def __call__(self, context: RequestContext, /) -> Decision:
        """Look the path up, ignoring a query."""
        if not context.upgrade:
            path = context.request.target.partition("?")[0]
            if path == self._alive:
                return _ALIVE
            if path == self._ready:
                ready = context.enabled and (self._is_ready is None or self._is_ready())
                return _READY if ready else _NOT_READY
        return Continue()

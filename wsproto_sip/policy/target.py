"""The request targets and methods that lead to a WebSocket."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from .decision import Continue, Decision, RequestContext, refuse

__all__ = ["TargetPolicy"]

# A path in a pattern: the characters that RFC 3986 §3.3 allows, including percent-encoding.
_PATTERN = re.compile(r"(?:/[A-Za-z0-9\-._~%!$&'()*+,;=:@]*)+")

# One segment that a "*" matches. Dot segments are excluded, since an application may resolve them,
# and then a wildcard would reach outside its directory.
_SEGMENT = r"(?!(?:\.|%2[Ee]){1,2}(?:/|\Z))[A-Za-z0-9\-._~%!$&'()*+,;=:@]+"

# The absolute form (RFC 9112 §3.2.2), which a client of a proxy may send.
_AUTHORITY = re.compile(r"(?i:https?|wss?)://[^/?#]+")


class TargetPolicy:
    """Admit known paths only: 404 Not Found for other targets, 405 for other methods.

    Paths are compared byte by byte, without decoding and without their query. Only the path of an
    absolute URI is compared; the handshake compares its host with Host.

    Args:
        paths: The paths; a segment ``*`` matches exactly one non-empty segment (``/rooms/*/ws``).
        methods: The methods; GET for HTTP/1.1 (RFC 6455 §4.1), CONNECT for HTTP/2 and 3 (RFC 8441
            §4).

    Raises:
        ValueError: A path does not start with ``/`` or has a character that is not allowed in
            paths, or ``paths`` is empty.
        TypeError: ``paths`` is one string.
    """

    def __init__(
        self, paths: Iterable[str], *, methods: Collection[str] = ("GET", "CONNECT")
    ) -> None:
        if isinstance(paths, str):
            raise TypeError("paths must be a collection of strings, not one string")
        exact: set[str] = set()
        patterns: list[re.Pattern[str]] = []
        for path in paths:
            if not _PATTERN.fullmatch(path):
                raise ValueError(f"not an absolute path without a query: {path!r}")
            segments = path.split("/")
            if "*" in segments:
                expression = "/".join(_SEGMENT if s == "*" else re.escape(s) for s in segments)
                patterns.append(re.compile(expression))
            else:
                exact.add(path)
        if not exact and not patterns:
            raise ValueError("no paths: every request would be refused")
        self._exact = frozenset(exact)
        self._patterns = tuple(patterns)
        self._methods = frozenset(methods)
        self._allow = (b"allow", ", ".join(methods).encode("ascii"))

    def __call__(self, context: RequestContext, /) -> Decision:
        """Check the request's path and method."""
        path = context.request.target.partition("?")[0]
        authority = _AUTHORITY.match(path)
        if authority is not None:
            path = path[authority.end() :] or "/"
        if path not in self._exact and not any(p.fullmatch(path) for p in self._patterns):
            return refuse(404, "no WebSocket at this target")
        if context.method not in self._methods:
            return refuse(405, "wrong method", self._allow)
        return Continue()

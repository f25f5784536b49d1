"""A few files for browsers, on the port of the WebSocket connections that they open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..utilities import check_header_fields
from .decision import Continue, Decision, Reject, RequestContext, Respond

__all__ = ["CONTENT_SECURITY_POLICY", "PagePolicy", "Resource"]

#: Scripts, styles and connections of the page's own origin; nothing else, and in no frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Resource:
    """What stands under a path.

    Args:
        content_type: Its media type, with the charset of text.
        body: Its octets.
    """

    content_type: str
    body: bytes


class PagePolicy:
    """Answers plain requests: 200 with what stands under the path, or else 404.

    Requests for a WebSocket pass. Of the policies of a chain those in front of this one hold for
    the page too. The session's configuration has to have ``plain_requests``.

    Args:
        resources: What there is, by path.
        content_security_policy: What the page may do (Content Security Policy Level 3).

    Raises:
        ValueError: A path is not absolute.
        LocalProtocolError: A media type or the policy cannot stand in a header field.
    """

    def __init__(
        self,
        resources: Mapping[str, Resource],
        *,
        content_security_policy: str = CONTENT_SECURITY_POLICY,
    ) -> None:
        self._answers: dict[str, Respond] = {}
        for path, resource in resources.items():
            if not path.startswith("/"):
                raise ValueError(f"not an absolute path: {path!r}")
            headers = check_header_fields(
                [
                    (b"Content-Type", resource.content_type.encode()),
                    (b"Content-Security-Policy", content_security_policy.encode()),
                    (b"X-Content-Type-Options", b"nosniff"),
                    (b"Referrer-Policy", b"no-referrer"),
                    # Another version of the server may bring another page.
                    (b"Cache-Control", b"no-cache"),
                ]
            )
            self._answers[path] = Respond(200, "a page", headers, resource.body)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Look the path up; a query makes no difference."""
        if context.upgrade:
            return Continue()
        path = context.request.target.partition("?")[0]
        return self._answers.get(path) or Reject(404, "no such page")

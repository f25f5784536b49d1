"""Serve a few files for browsers on the port of the WebSocket connections that they open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..utilities import check_header_fields
from .decision import Continue, Decision, Reject, RequestContext, Respond

if TYPE_CHECKING:
    from .decision import Policy

__all__ = ["CONTENT_SECURITY_POLICY", "PagePolicy", "Resource", "own_origin"]

#: Scripts, styles, images and connections of the page's own origin; nothing else, and not in
#: frames.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def own_origin(host: str, *, secure: bool) -> str:
    """Return the Origin that a browser sends for a page from a host (RFC 6454 §6.2).

    Args:
        host: The Host of the page's request: a name or an address, with or without a port.
        secure: Whether the page came over TLS.
    """
    scheme, port = ("https", ":443") if secure else ("http", ":80")
    return f"{scheme}://{host.lower().removesuffix(port)}"


@dataclass(frozen=True, slots=True)
class Resource:
    """The content at a path.

    Args:
        content_type: Its media type, with the charset of text.
        body: Its bytes.
    """

    content_type: str
    body: bytes


class PagePolicy:
    """Answers plain requests: 200 with the content of the path, or 404.

    Requests for a WebSocket pass. Policies before this one in the chain apply to the page too. The
    session's configuration must have ``plain_requests``.

    Args:
        resources: The contents by path.
        content_security_policy: What the page may do (Content Security Policy Level 3).
        admission: Policies that the page's own connections meet later, such as those of Host and
            Origin. If one refuses a connection from the page's own origin, the page is not served.

    Raises:
        ValueError: A path is not absolute.
        LocalProtocolError: A media type or the policy cannot be written in a header field.
    """

    def __init__(
        self,
        resources: Mapping[str, Resource],
        *,
        content_security_policy: str = CONTENT_SECURITY_POLICY,
        admission: Iterable[Policy] = (),
    ) -> None:
        self._admission = tuple(admission)
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
                    # Another version of the server may have another page.
                    (b"Cache-Control", b"no-cache"),
                ]
            )
            self._answers[path] = Respond(200, "a page", headers, resource.body)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Look the path up, ignoring a query."""
        if context.upgrade:
            return Continue()
        answer = self._answers.get(context.request.target.partition("?")[0])
        if answer is None:
            return Reject(404, "no such page")
        if not self.is_admitted(context):
            return Reject(404, "a page whose origin may not connect")
        return answer

    def is_admitted(self, context: RequestContext) -> bool:
        """Return whether a page sent in answer to this request may open its connections."""
        # A browser may also send an Origin with a request for a script.
        headers = [field for field in context.request.extra_headers if field[0] != b"origin"]
        origin = own_origin(context.request.host, secure=context.secure)
        headers.append((b"origin", origin.encode("ascii", "replace")))
        request = replace(context.request, extra_headers=headers)
        opening = replace(context, request=request, upgrade=True)
        return not any(isinstance(policy(opening), Reject) for policy in self._admission)

"""Identity from a cookie, a bearer token or a query parameter, by a hook of the caller's.

Browsers cannot put header fields of their own on a WebSocket handshake, so what proves who they
are is usually a cookie (RFC 7118 §7) or a parameter of the URI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote_to_bytes

from .decision import (
    Continue,
    Decision,
    Deferred,
    Identity,
    Later,
    Reject,
    RequestContext,
    header_values,
    refuse,
)

__all__ = ["Source", "TokenPolicy", "TokenQuestion", "TokenSource"]

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
_SCHEME_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?: .*)?", re.DOTALL)
# RFC 6265 §4.1.1, and the quotes that may stand around the value.
_COOKIE = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_PRINTABLE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f]+")


class Source(Enum):
    """Where a token is looked for."""

    COOKIE = "cookie"
    BEARER = "bearer"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One place to look for a token.

    Tokens in the query end up in the logs of everything on the way; keep them short-lived.

    Args:
        source: The kind of place.
        name: The name of the cookie or the parameter; not used for bearer tokens (RFC 6750).

    Raises:
        ValueError: A cookie or parameter has no name, or one that is no token.
    """

    source: Source
    name: str = ""

    def __post_init__(self) -> None:
        if self.source is not Source.BEARER and not _NAME.fullmatch(self.name):
            raise ValueError(f"not the name of a cookie or parameter: {self.name!r}")


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """Whose token is this? The answer is an :class:`Identity`, or ``None`` for nobody's.

    Args:
        token: The token; not shown in representations.
        source: Where it was found.
        context: The request.
    """

    token: str = field(repr=False)
    source: TokenSource
    context: RequestContext = field(repr=False)


class TokenPolicy:
    """Let in who brings a token that the caller's hook knows.

    The first source that holds a token decides; the others are not looked at then. A refusal is
    401 with a Bearer challenge where bearer tokens are a source (RFC 6750 §3), and 403 Forbidden
    otherwise, since 401 needs a challenge. A token given twice in one source, or of a form it
    cannot have there, is answered with 400.

    Args:
        sources: Where to look, in order.
        verify: Takes a :class:`TokenQuestion` and returns whose the token is, ``None`` for
            nobody's, or :data:`~wsproto_sip.policy.decision.LATER` to be asked again through the
            same question.
        required: Whether a request without a token is refused, unless an earlier policy found
            out who it is. A wrong one is refused either way.
        max_length: Octets a token may have; a longer one is answered with 400.

    Raises:
        ValueError: There are no sources, or ``max_length`` is not positive.
    """

    def __init__(
        self,
        sources: Sequence[TokenSource],
        verify: Callable[[TokenQuestion], Identity | Later | None],
        *,
        required: bool = True,
        max_length: int = 4096,
    ) -> None:
        if not sources:
            raise ValueError("at least one source is needed")
        if max_length < 1:
            raise ValueError(f"max_length must be positive: {max_length!r}")
        self._sources = tuple(sources)
        self._verify = verify
        self._required = required
        self._max_length = max_length
        self._bearer = any(item.source is Source.BEARER for item in sources)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Find the token and have it verified."""
        for source in self._sources:
            try:
                raw = _FINDERS[source.source](context, source.name)
                token = None if raw is None else raw.decode("utf-8")
            except ValueError:
                return refuse(400, f"malformed or repeated {source.source.value} token")
            if token is None:
                continue
            if len(token) > self._max_length or not _PRINTABLE.fullmatch(token):
                return refuse(400, f"malformed or repeated {source.source.value} token")
            question = TokenQuestion(token, source, context)
            answer = self._verify(question)
            if isinstance(answer, Later):
                return Deferred(question, self._conclude)
            return self._conclude(answer)
        if self._required and context.identity is None:
            return self._refusal("no token", b"Bearer")
        return Continue()

    def _conclude(self, answer: object) -> Decision:
        if isinstance(answer, Identity):
            return Continue(identity=answer)
        if answer is None:
            return self._refusal("unknown token", b'Bearer error="invalid_token"')
        raise TypeError(f"an Identity or None is needed, not {type(answer).__name__}")

    def _refusal(self, reason: str, challenge: bytes) -> Reject:
        if self._bearer:
            return refuse(401, reason, (b"www-authenticate", challenge))
        return refuse(403, reason)


def _only(values: list[bytes]) -> bytes | None:
    if len(values) > 1:
        raise ValueError("more than one")
    return values[0] if values else None


def _find_cookie(context: RequestContext, name: str) -> bytes | None:
    # HTTP/2 may split the cookies into several fields (RFC 9113 §8.2.3).
    wanted = name.encode("ascii")
    found: list[bytes] = []
    for value in header_values(context.request, b"cookie"):
        for pair in value.split(b";"):
            key, _, content = pair.strip(b" \t").partition(b"=")
            if key == wanted:
                found.append(content)
    cookie = _only(found)
    if cookie is not None:
        if len(cookie) > 1 and cookie.startswith(b'"') and cookie.endswith(b'"'):
            cookie = cookie[1:-1]
        if not _COOKIE.fullmatch(cookie):
            raise ValueError("not a cookie's value")
    return cookie


def _find_bearer(context: RequestContext, name: str) -> bytes | None:
    value = _only(header_values(context.request, b"authorization"))
    if value is None or not _SCHEME_BEARER.fullmatch(value):
        return None
    match = _BEARER.fullmatch(value)
    if match is None:
        raise ValueError("not a bearer token")
    return match[1]


def _find_query(context: RequestContext, name: str) -> bytes | None:
    query = context.request.target.partition("?")[2]
    found: list[bytes] = []
    for pair in query.split("&"):
        key, _, content = pair.partition("=")
        if key == name:
            # A "+" stays one: tokens in Base64 hold it, and none holds a space.
            found.append(unquote_to_bytes(content))
    return _only(found)


_FINDERS: dict[Source, Callable[[RequestContext, str], bytes | None]] = {
    Source.COOKIE: _find_cookie,
    Source.BEARER: _find_bearer,
    Source.QUERY: _find_query,
}

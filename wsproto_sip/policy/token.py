"""Authenticate with a cookie, a bearer token or a query parameter, through a hook of the caller.

Browsers cannot set header fields of a WebSocket handshake, so their credentials are usually in a
cookie (RFC 7118 §7) or a parameter of the URI. :class:`TokenPolicy` supports all three.
:class:`Bearer` is just the scheme of Authorization, to be offered together with others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from urllib.parse import unquote_to_bytes

from ..auth.attempt import judge
from ..auth.identity import Identity, check_realm
from ..auth.outcome import Denied, Later, Question
from ..auth.throttle import Attempt, Throttle
from ..auth.used import UsedTokens
from .authentication import Judgement, Malformed
from .decision import Continue, Decision, Deferred, Reject, RequestContext, header_values, refuse

__all__ = ["Bearer", "TokenPlace", "TokenPolicy", "TokenQuestion", "TokenSource"]

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(" + _TOKEN.pattern + rb")")
_SCHEME_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?: .*)?", re.DOTALL)
# RFC 6265 §4.1.1, and the quotes that may surround the value.
_COOKIE = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_PRINTABLE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f]+")


class TokenPlace(Enum):
    """Where to look for a token."""

    COOKIE = "cookie"
    BEARER = "bearer"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """One place to look for a token.

    Tokens in a query end up in the logs of every server on the way; keep them short-lived.

    Args:
        place: The kind of place.
        name: The name of the cookie or the parameter; not used for bearer tokens (RFC 6750).

    Raises:
        ValueError: A cookie or parameter has no name, or its name is not a token.
    """

    place: TokenPlace
    name: str = ""

    def __post_init__(self) -> None:
        if self.place is not TokenPlace.BEARER and not _NAME.fullmatch(self.name):
            raise ValueError(f"not the name of a cookie or parameter: {self.name!r}")


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """A question for a token's owner: the answer is an :class:`Identity`, or ``None`` without one.

    Answer :class:`~wsproto_sip.auth.outcome.Unavailable` if it cannot be found out.

    Args:
        token: The token; not shown in representations.
        source: Where the token was found.
        context: The request.
    """

    token: str = field(repr=False)
    source: TokenSource
    context: RequestContext = field(repr=False)


class TokenPolicy:
    """Admit requests with a token that the caller's hook accepts.

    The first source that has a token decides; the others are ignored then. A refusal is 401 with a
    Bearer challenge if bearer tokens are a source (RFC 6750 §3), and 403 Forbidden otherwise, since
    401 requires a challenge. A token that is repeated within a source, or malformed for it, is
    answered with 400, and a token sent too soon after unknown ones with 429 and Retry-After,
    because tokens can be guessed like passwords. A token that was accepted from an address before
    does not have to wait because of other attempts from there.

    Args:
        sources: Where to look, in order.
        verify: Takes a :class:`TokenQuestion` and returns the token's identity, ``None`` if it is
            invalid, or :data:`~wsproto_sip.auth.outcome.LATER` to be asked again through the same
            question.
        required: Whether to refuse a request without a token, unless an earlier policy has
            identified the client. An invalid token is refused either way.
        require_tls: Whether tokens sent without TLS are refused unread.
        max_length: The maximum length of a token in bytes; a longer one is answered with 400.
        throttle: Slows guessing down; by default a separate one with default settings.
        used: Has tokens in a query accepted once; as often as they are valid by default. A token
            counts as used even if a later policy rejects the request. With ``shared``, a
            :class:`~wsproto_sip.auth.used.FirstUse` is asked.

    Raises:
        ValueError: ``sources`` is empty, or ``max_length`` is not positive.
    """

    def __init__(
        self,
        sources: Sequence[TokenSource],
        verify: Callable[[TokenQuestion], Identity | Later | None],
        *,
        required: bool = True,
        require_tls: bool = False,
        max_length: int = 4096,
        throttle: Throttle | None = None,
        used: UsedTokens | None = None,
    ) -> None:
        if not sources:
            raise ValueError("at least one source is required")
        if max_length < 1:
            raise ValueError(f"max_length must be positive: {max_length!r}")
        self._sources = tuple(sources)
        self._verify = verify
        self._required = required
        self._require_tls = require_tls
        self._max_length = max_length
        self._throttle = Throttle() if throttle is None else throttle
        self._used = used
        self._bearer = any(item.place is TokenPlace.BEARER for item in sources)

    def __call__(self, context: RequestContext, /) -> Decision:
        """Find the token and verify it."""
        for source in self._sources:
            try:
                raw = _FINDERS[source.place](context, source.name)
                token = None if raw is None else raw.decode("utf-8")
            except ValueError:
                return refuse(400, f"malformed or repeated {source.place.value} token")
            if token is None:
                continue
            if len(token) > self._max_length or not _PRINTABLE.fullmatch(token):
                return refuse(400, f"malformed or repeated {source.place.value} token")
            return self._ask(TokenQuestion(token, source, context))
        if self._required and context.identity is None:
            return self._refusal("no token", b"Bearer")
        return Continue()

    def _ask(self, question: TokenQuestion) -> Decision:
        if self._require_tls and not question.context.secure:
            return self._concluded(Denied("a token without TLS"))
        outcome = _judged(question, self._verify, self._throttle)
        if isinstance(outcome, Question):
            asked = outcome.then(partial(self._used_now, question))
            return Deferred(asked.question, asked.conclude)
        return self._used_now(question, outcome)

    def _used_now(self, question: TokenQuestion, outcome: Identity | Denied) -> Decision:
        """Use a valid token, if it is good for one use."""
        if self._used is None or question.source.place is not TokenPlace.QUERY:
            return self._concluded(outcome)
        if isinstance(outcome, Denied):
            return self._concluded(outcome)
        denied = self._used.use(question.token, question.context.now)
        if isinstance(denied, Question):
            asked = denied.then(lambda late: self._concluded(late or outcome))
            return Deferred(asked.question, asked.conclude)
        return self._concluded(denied or outcome)

    def _concluded(self, outcome: Identity | Denied) -> Decision:
        if isinstance(outcome, Identity):
            return Continue(identity=outcome)
        if outcome.retry_after:
            # RFC 9110 §15.6.4, RFC 6585 §4.
            status = 503 if outcome.unavailable else 429
            return refuse(status, outcome.reason, (b"retry-after", b"%d" % outcome.retry_after))
        return self._refusal(outcome.reason, b'Bearer error="invalid_token"')

    def _refusal(self, reason: str, challenge: bytes) -> Reject:
        if self._bearer:
            return refuse(401, reason, (b"www-authenticate", challenge))
        return refuse(403, reason)


class Bearer:
    """The Bearer scheme of Authorization (RFC 6750 §2.1), for an :class:`AuthenticationPolicy`.

    Args:
        realm: The realm that the client shows its user; printable ASCII.
        verify: See :class:`TokenPolicy`.
        require_tls: Whether tokens sent without TLS are denied unread.
        max_length: The maximum length of a token in bytes; a longer one is answered with 400.
        throttle: Slows guessing down; by default a separate one with default settings.

    Raises:
        ValueError: The realm cannot be quoted as it is, or ``max_length`` is not positive.
    """

    name = "bearer"

    def __init__(
        self,
        realm: str,
        verify: Callable[[TokenQuestion], Identity | Later | None],
        *,
        require_tls: bool = False,
        max_length: int = 4096,
        throttle: Throttle | None = None,
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be positive: {max_length!r}")
        self._challenge = f'Bearer realm="{check_realm(realm)}"'.encode("ascii")
        self._verify = verify
        self._require_tls = require_tls
        self._max_length = max_length
        self._throttle = Throttle() if throttle is None else throttle

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """Return the one challenge; it reports an invalid token (RFC 6750 §3)."""
        values = header_values(context.request, b"authorization")
        wrong = any(_SCHEME_BEARER.fullmatch(value) for value in values)
        return [self._challenge + b', error="invalid_token"' if wrong else self._challenge]

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Verify the token."""
        if self._require_tls and not context.secure:
            return Denied("a token without TLS")
        if not _TOKEN.fullmatch(credentials) or len(credentials) > self._max_length:
            return Malformed("malformed bearer token")
        question = TokenQuestion(
            credentials.decode("ascii"), TokenSource(TokenPlace.BEARER), context
        )
        return _judged(question, self._verify, self._throttle)


def _judged(
    question: TokenQuestion,
    verify: Callable[[TokenQuestion], Identity | Later | None],
    throttle: Throttle,
) -> Identity | Denied | Question[Identity | Denied]:
    context = question.context
    attempt = Attempt("token", context.peer_address, throttle.pseudonym(question.token))
    return judge(attempt, context.now, throttle, verify, question, wrong="unknown token")


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
            # A "+" is kept: tokens in Base64 contain it, and tokens never contain a space.
            found.append(unquote_to_bytes(content))
    return _only(found)


_FINDERS: dict[TokenPlace, Callable[[RequestContext, str], bytes | None]] = {
    TokenPlace.COOKIE: _find_cookie,
    TokenPlace.BEARER: _find_bearer,
    TokenPlace.QUERY: _find_query,
}

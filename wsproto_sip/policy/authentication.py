"""HTTP authentication of the handshake (RFC 9110 §11), and the Basic scheme (RFC 7617).

Theory of operation: a :class:`Scheme` makes challenges and judges credentials, and does not deal
with responses; :class:`AuthenticationPolicy` finds the scheme the client used, and answers 401 with
the challenges of all schemes if the credentials are not valid. A hook that looks accounts up may
return :data:`~wsproto_sip.auth.outcome.LATER`; then the question is deferred, and judged when its
answer arrives.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..auth.attempt import judge
from ..auth.digest import Credentials
from ..auth.identity import Identity, check_realm, is_username
from ..auth.outcome import Denied, Later, Question
from ..auth.throttle import Attempt, Throttle
from ..events import Request
from .decision import Continue, Decision, Deferred, Reject, RequestContext, header_values, refuse

__all__ = [
    "AuthenticationPolicy",
    "Basic",
    "BasicQuestion",
    "Judgement",
    "Malformed",
    "Scheme",
    "claimed_user",
]

_CREDENTIALS = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) +([^ ].*)", re.DOTALL)
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_PASSWORD = re.compile("[^\\x00-\\x1f\\x7f]*")


@dataclass(frozen=True, slots=True)
class Malformed:
    """The credentials do not match the scheme's grammar: 400.

    Args:
        reason: The reason, for the log.
    """

    reason: str


Judgement = Identity | Denied | Malformed | Question[Identity | Denied]
"""The result of judging credentials."""


class Scheme(Protocol):
    """An authentication scheme."""

    @property
    def name(self) -> str:
        """The scheme's name in lower case."""
        ...

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """Return the scheme's challenges, as values of WWW-Authenticate header fields."""
        ...

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Judge the part of Authorization after the scheme's name."""
        ...


class AuthenticationPolicy:
    """Admit users with valid credentials; others get 401 Unauthorized with challenges.

    Credentials sent too soon after failed ones get 429 Too Many Requests with Retry-After, and
    credentials that cannot be checked now get 503 Service Unavailable with it.

    Args:
        schemes: The schemes, the preferred one first.
        required: Whether to refuse a request without credentials, unless an earlier policy has
            identified the client. Otherwise it passes; wrong credentials are refused either way.

    Raises:
        ValueError: ``schemes`` is empty, or has two with the same name.
    """

    def __init__(self, schemes: Sequence[Scheme], *, required: bool = True) -> None:
        self._schemes = {scheme.name: scheme for scheme in schemes}
        if not schemes or len(self._schemes) != len(schemes):
            raise ValueError("at least one scheme is required, and each only once")
        self._required = required

    def __call__(self, context: RequestContext, /) -> Decision:
        """Judge the request's Authorization. A malformed or repeated one is answered with 400."""
        values = header_values(context.request, b"authorization")
        if not values:
            if self._required and context.identity is None:
                return self._unauthorized(context, Denied("no credentials"), "")
            return Continue()
        if len(values) > 1:
            return refuse(400, "more than one Authorization")
        match = _CREDENTIALS.fullmatch(values[0])
        if match is None:
            return refuse(400, "malformed Authorization")
        name = match[1].decode("ascii").lower()
        scheme = self._schemes.get(name)
        if scheme is None:
            return self._unauthorized(context, Denied("unknown scheme"), "")
        judgement = scheme.judge(match[2], context)
        if isinstance(judgement, Malformed):
            return refuse(400, judgement.reason)
        if isinstance(judgement, Question):
            asked = judgement.then(lambda outcome: self._decide_by(outcome, context, name))
            return Deferred(asked.question, asked.conclude)
        return self._decide_by(judgement, context, name)

    def _decide_by(
        self, judgement: Identity | Denied, context: RequestContext, name: str
    ) -> Decision:
        if isinstance(judgement, Identity):
            return Continue(identity=judgement)
        return self._unauthorized(context, judgement, name)

    def _unauthorized(self, context: RequestContext, denied: Denied, name: str) -> Reject:
        if denied.retry_after:
            # RFC 9110 §15.6.4, RFC 6585 §4.
            status = 503 if denied.unavailable else 429
            return refuse(status, denied.reason, (b"retry-after", b"%d" % denied.retry_after))
        headers = [
            (b"www-authenticate", challenge)
            for scheme in self._schemes.values()
            for challenge in scheme.challenges(context, stale=denied.stale and scheme.name == name)
        ]
        return refuse(401, denied.reason, *headers)


@dataclass(frozen=True, slots=True)
class BasicQuestion:
    """A question for an identity. The answer is an :class:`Identity`, or ``None`` for no account.

    Answer :class:`~wsproto_sip.auth.outcome.Unavailable` if it cannot be found out.

    Args:
        username: The user's name.
        password: The password.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        """Leave out the password, since representations end up in logs."""
        return f"BasicQuestion(username={self.username!r})"


class Basic:
    """The Basic scheme: it sends the password itself, which is readable on the path without TLS.

    Args:
        realm: The realm that the client shows its user; printable ASCII.
        verify: Takes a name and a password and returns their identity, ``None`` if they are wrong,
            or :data:`~wsproto_sip.auth.outcome.LATER` to be asked again through a
            :class:`BasicQuestion`. :func:`~wsproto_sip.auth.accounts.password_verifier` makes one.
        require_tls: Whether credentials sent without TLS are denied unread.
        throttle: Slows guessing down; by default a separate one with default settings.

    Raises:
        ValueError: The realm contains a quote, a backslash, or anything but printable ASCII.
    """

    name = "basic"

    def __init__(
        self,
        realm: str,
        verify: Callable[[str, str], Identity | Later | None],
        *,
        require_tls: bool = False,
        throttle: Throttle | None = None,
    ) -> None:
        self._challenge = f'Basic realm="{check_realm(realm)}", charset="UTF-8"'.encode("ascii")
        self._verify = verify
        self._require_tls = require_tls
        self._throttle = Throttle() if throttle is None else throttle

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """Return the single challenge (RFC 7617 §2)."""
        return [self._challenge]

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Decode the name and the password and have them verified."""
        if self._require_tls and not context.secure:
            return Denied("Basic without TLS")
        if not _BASE64.fullmatch(credentials):
            return Malformed("Basic credentials are not Base64")
        try:
            text = base64.b64decode(credentials).decode("utf-8")
        except UnicodeDecodeError:
            return Malformed("Basic credentials are not UTF-8")
        username, colon, password = text.partition(":")
        if not colon or not is_username(username) or not _PASSWORD.fullmatch(password):
            return Malformed("Basic credentials are not a name and a password")
        return judge(
            Attempt("basic", context.peer_address, username),
            context.now,
            self._throttle,
            lambda asked: self._verify(asked.username, asked.password),
            BasicQuestion(username, password),
            wrong="wrong name or password",
        )


def claimed_user(request: Request) -> str | None:
    """Return the user name in a request's credentials, valid or not.

    Args:
        request: The request.

    Returns:
        The name; ``None`` unless there is exactly one Authorization field, with readable Basic or
        Digest credentials.
    """
    values = header_values(request, b"authorization")
    if len(values) != 1:
        return None
    scheme, _, credentials = values[0].partition(b" ")
    try:
        if scheme.lower() == b"digest":
            given = Credentials.parse(values[0].decode("utf-8"))
            return None if given is None else given.username
        if scheme.lower() == b"basic" and _BASE64.fullmatch(credentials.strip(b" ")):
            name, colon, _ = base64.b64decode(credentials).decode("utf-8").partition(":")
            return name if colon and is_username(name) else None
    except ValueError:
        # Malformed, or not UTF-8.
        pass
    return None

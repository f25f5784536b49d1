"""HTTP authentication of the handshake (RFC 9110 §11), and the Basic scheme (RFC 7617).

Theory of operation: a :class:`Scheme` makes challenges and judges credentials, and knows nothing
of responses; :class:`AuthenticationPolicy` finds the scheme the client used, and answers 401 with
the challenges of all schemes when the credentials do not hold. A hook that looks accounts up may
answer :data:`~wsproto_sip.policy.decision.LATER`; then the question is handed out and judged when
its answer comes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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

__all__ = [
    "AuthenticationPolicy",
    "Basic",
    "BasicQuestion",
    "Denied",
    "Judgement",
    "Malformed",
    "Question",
    "Scheme",
    "check_realm",
    "is_username",
    "password_verifier",
    "same_secret",
]

_CREDENTIALS = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) +([^ ].*)", re.DOTALL)
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_REALM = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")
# No control characters (RFC 7617 §2), and no separators that would break a log line.
_USERNAME = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]{1,255}")
_PASSWORD = re.compile("[^\\x00-\\x1f\\x7f]*")


@dataclass(frozen=True, slots=True)
class Denied:
    """The credentials do not hold: 401 with challenges.

    Args:
        reason: Why, for the log.
        stale: Whether they were right and only too old, so that the client may answer the new
            challenge without asking its user (RFC 7616 §3.3).
    """

    reason: str
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Malformed:
    """The credentials are not what the scheme's grammar allows: 400.

    Args:
        reason: Why, for the log.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Question:
    """The judgement takes an answer from elsewhere.

    Args:
        question: What has to be found out.
        conclude: Judges by the answer.
    """

    question: object
    conclude: Callable[[object], Identity | Denied]


Judgement = Identity | Denied | Malformed | Question
"""What a scheme says about credentials."""


class Scheme(Protocol):
    """One way to authenticate."""

    @property
    def name(self) -> str:
        """The scheme's name in lower case."""
        ...

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """The values of the WWW-Authenticate header fields this scheme asks with."""
        ...

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Judge what stands behind the scheme's name in Authorization."""
        ...


def is_username(text: str) -> bool:
    """Whether a text can be a user's name: 1 to 255 characters, none of them a control."""
    return _USERNAME.fullmatch(text) is not None


def check_realm(realm: str) -> str:
    """Return a realm that can stand between quotes as it is.

    Raises:
        ValueError: It holds a quote, a backslash, or something else than printable ASCII.
    """
    if not _REALM.fullmatch(realm):
        raise ValueError(f"not printable ASCII without quotes and backslashes: realm {realm!r}")
    return realm


def same_secret(one: str, other: str) -> bool:
    """Compare two secrets in a time that depends on neither their content nor their length."""
    return hmac.compare_digest(
        hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest(),
        hashlib.sha256(other.encode("utf-8", "surrogatepass")).digest(),
    )


class AuthenticationPolicy:
    """Let in who has an account: 401 Unauthorized with challenges for everybody else.

    Args:
        schemes: The ways to authenticate, the preferred one first.
        required: Whether a request without credentials is refused, unless an earlier policy
            found out who it is. Otherwise it passes; wrong credentials are refused either way.

    Raises:
        ValueError: There are no schemes, or two of one name.
    """

    def __init__(self, schemes: Sequence[Scheme], *, required: bool = True) -> None:
        self._schemes = {scheme.name: scheme for scheme in schemes}
        if not schemes or len(self._schemes) != len(schemes):
            raise ValueError("at least one scheme is needed, and each only once")
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
            conclude = judgement.conclude
            return Deferred(
                judgement.question, lambda answer: self._settle(conclude(answer), context, name)
            )
        return self._settle(judgement, context, name)

    def _settle(self, judgement: Identity | Denied, context: RequestContext, name: str) -> Decision:
        if isinstance(judgement, Identity):
            return Continue(identity=judgement)
        return self._unauthorized(context, judgement, name)

    def _unauthorized(self, context: RequestContext, denied: Denied, name: str) -> Reject:
        headers = [
            (b"www-authenticate", challenge)
            for scheme in self._schemes.values()
            for challenge in scheme.challenges(context, stale=denied.stale and scheme.name == name)
        ]
        return refuse(401, denied.reason, *headers)


@dataclass(frozen=True, slots=True)
class BasicQuestion:
    """Who is this? The answer is an :class:`Identity`, or ``None`` for nobody.

    Args:
        username: The user's name.
        password: The password.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        """Without the password, since representations end up in logs."""
        return f"BasicQuestion(username={self.username!r})"


class Basic:
    """The Basic scheme: the password itself, readable to everybody on a path without TLS.

    Args:
        realm: What the client shows its user; printable ASCII.
        verify: Takes a name and a password, returns whose they are, ``None`` for nobody's, or
            :data:`~wsproto_sip.policy.decision.LATER` to be asked again through a
            :class:`BasicQuestion`. :func:`password_verifier` makes one.
        require_tls: Whether credentials that came without TLS are denied unread.

    Raises:
        ValueError: The realm holds a quote, a backslash, or something else than printable ASCII.
    """

    name = "basic"

    def __init__(
        self,
        realm: str,
        verify: Callable[[str, str], Identity | Later | None],
        *,
        require_tls: bool = False,
    ) -> None:
        self._challenge = f'Basic realm="{check_realm(realm)}", charset="UTF-8"'.encode("ascii")
        self._verify = verify
        self._require_tls = require_tls

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """The one challenge (RFC 7617 §2)."""
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
        answer = self._verify(username, password)
        if isinstance(answer, Later):
            return Question(BasicQuestion(username, password), _concluded)
        return _concluded(answer)


def _concluded(answer: object) -> Identity | Denied:
    if isinstance(answer, Identity):
        return answer
    if answer is None:
        return Denied("wrong name or password")
    raise TypeError(f"an Identity or None is needed, not {type(answer).__name__}")


def password_verifier(passwords: Mapping[str, str]) -> Callable[[str, str], Identity | None]:
    """Make the ``verify`` of :class:`Basic` from names and their passwords.

    Args:
        passwords: The password of each name. It is read at each call, so changes take effect.

    Returns:
        A function that compares in constant time, for unknown names too.
    """

    def verify(username: str, password: str) -> Identity | None:
        expected = passwords.get(username)
        right = same_secret(password, "" if expected is None else expected)
        if expected is None or not right:
            return None
        return Identity(username, "basic")

    return verify

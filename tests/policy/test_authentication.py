from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.accounts import password_verifier
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Denied, Later, Unavailable
from wsproto_sip.auth.throttle import Throttle
from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import (
    AuthenticationPolicy,
    Basic,
    BasicQuestion,
    Judgement,
    claimed_user,
)
from wsproto_sip.policy.decision import (
    Accept,
    Continue,
    Decision,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
)

PASSWORDS = {"alice": "secret", "Ålesund": "pässwörd", "colon": "a:b", "empty": ""}
BASIC = Basic("calls", password_verifier(PASSWORDS))
POLICY = AuthenticationPolicy([BASIC])
CHALLENGE = (b"www-authenticate", b'Basic realm="calls", charset="UTF-8"')


def context(*authorization: bytes, secure: bool = False) -> RequestContext:
    headers = [(b"authorization", value) for value in authorization]
    return RequestContext(Request("example.com", "/", extra_headers=headers), secure=secure)


def basic(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"Basic " + base64.b64encode(raw)


def unauthorized(reason: str) -> Reject:
    return Reject(401, reason, (CHALLENGE,))


@pytest.mark.parametrize("name", PASSWORDS)
def test_right_password_gives_an_identity(name: str) -> None:
    decision = POLICY(context(basic(f"{name}:{PASSWORDS[name]}")))
    assert decision == Continue(identity=Identity(name, "basic"))


@pytest.mark.parametrize("prefix", [b"basic ", b"BASIC ", b"bAsIc   "])
def test_scheme_is_case_insensitive(prefix: bytes) -> None:
    value = prefix + base64.b64encode(b"alice:secret")
    assert POLICY(context(value)) == Continue(identity=Identity("alice", "basic"))


@pytest.mark.parametrize(
    "text",
    ["alice:", "alice:Secret", "alice:secret ", "Alice:secret", "bob:secret", "bob:", "colon:a"],
)
def test_wrong_credentials_are_401_with_a_challenge(text: str) -> None:
    assert POLICY(context(basic(text))) == unauthorized("wrong name or password")


def test_no_credentials_and_unknown_schemes_are_401() -> None:
    assert POLICY(context()) == unauthorized("no credentials")
    assert POLICY(context(b"Bearer abc")) == unauthorized("unknown scheme")


def test_optional_authentication_still_refuses_wrong_credentials() -> None:
    policy = AuthenticationPolicy([BASIC], required=False)
    assert policy(context()) == Continue()
    assert policy(context(basic("alice:x"))) == unauthorized("wrong name or password")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed Authorization"),
        (b"Basic", "malformed Authorization"),
        (b"Basic ", "malformed Authorization"),
        (b" Basic YTpi", "malformed Authorization"),
        (b"Basic\tYTpi", "malformed Authorization"),
        (b"Ba,sic YTpi", "malformed Authorization"),
        (b"Basic YTpi YTpi", "Basic credentials are not Base64"),
        (b"Basic YTpi\x85", "Basic credentials are not Base64"),
        (b"Basic ===", "Basic credentials are not Base64"),
        (b"Basic YTp", "Basic credentials are not Base64"),
        (b"Basic YTpi=", "Basic credentials are not Base64"),
        (basic(b"\xff:x"), "Basic credentials are not UTF-8"),
        (basic("alice"), "Basic credentials are not a name and a password"),
        (basic(":secret"), "Basic credentials are not a name and a password"),
        (basic("a\r\nb:x"), "Basic credentials are not a name and a password"),
        (basic("a\u2028b:x"), "Basic credentials are not a name and a password"),
        (basic("alice:sec\nret"), "Basic credentials are not a name and a password"),
        (basic("a" * 256 + ":x"), "Basic credentials are not a name and a password"),
    ],
)
def test_malformed_credentials_are_400(value: bytes, reason: str) -> None:
    assert POLICY(context(value)) == Reject(400, reason)


def test_two_authorizations_are_400() -> None:
    value = basic("alice:secret")
    assert POLICY(context(value, value)) == Reject(400, "more than one Authorization")


def test_basic_may_require_tls() -> None:
    policy = AuthenticationPolicy([Basic("calls", password_verifier(PASSWORDS), require_tls=True)])
    value = basic("alice:secret")
    assert policy(context(value)) == unauthorized("Basic without TLS")
    assert policy(context(value, secure=True)) == Continue(identity=Identity("alice", "basic"))


def test_identified_client_needs_no_credentials() -> None:
    known = replace(context(), identity=Identity("bob", "token"))
    assert POLICY(known) == Continue()
    wrong = replace(context(basic("alice:x")), identity=Identity("bob", "token"))
    assert POLICY(wrong) == unauthorized("wrong name or password")


def later(username: str, password: str) -> Later:
    return LATER


def test_answer_may_come_later() -> None:
    chain = PolicyChain([AuthenticationPolicy([Basic("calls", later)])])
    asked = context(basic("alice:secret"))
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == BasicQuestion("alice", "secret")
    assert repr(pending.question) == "BasicQuestion(username='alice')"
    identity = Identity("alice@example.com", "database")
    assert chain.resume(pending, identity) == Accept(
        replace(asked, identity=identity), identity=identity
    )
    assert chain.resume(pending, None) == unauthorized("wrong name or password")
    with pytest.raises(TypeError, match="the answer must be an Identity or None, not bool"):
        chain.resume(pending, True)


def test_unavailable_answer_gets_503_with_retry_after() -> None:
    chain = PolicyChain([AuthenticationPolicy([Basic("calls", later)])])
    pending = chain.decide(context(basic("alice:secret")))
    assert isinstance(pending, Pending)
    refused = chain.resume(pending, Unavailable("no database", 7))
    assert refused == Reject(503, "no database", ((b"retry-after", b"7"),))


def test_guesses_get_429_with_retry_after() -> None:
    policy = AuthenticationPolicy([Basic("calls", password_verifier(PASSWORDS))])
    wrong, right = basic("alice:guess"), basic("alice:secret")
    for _ in range(6):
        assert policy(context(wrong)) == unauthorized("wrong name or password")
    slowed = Reject(429, "slowed-pair: wait 1 s", ((b"retry-after", b"1"),))
    # Right or wrong, there is nothing to learn.
    assert policy(context(wrong)) == policy(context(right)) == slowed
    at_home = replace(context(right), peer_address="192.0.2.7")
    assert policy(at_home) == Continue(identity=Identity("alice", "basic"))
    assert policy(replace(context(right), now=1.0)) == Continue(identity=Identity("alice", "basic"))


def test_guesses_at_all_schemes_count_together() -> None:
    throttle = Throttle()
    verify = password_verifier(PASSWORDS)
    policies = [AuthenticationPolicy([Basic(realm, verify, throttle=throttle)]) for realm in "ab"]
    answers = [policies[number % 2](context(basic("alice:x"))) for number in range(7)]
    assert [answer.status for answer in answers if isinstance(answer, Reject)] == [401] * 6 + [429]


def test_hook_that_fails_is_not_held_against_the_user() -> None:
    def verify(username: str, password: str) -> Identity | None:
        raise OSError("no database")

    policy = AuthenticationPolicy([Basic("calls", verify)])
    for _ in range(50):
        with pytest.raises(OSError, match="no database"):
            policy(context(basic("alice:secret")))


class Stamp:
    """A scheme that reports the staleness it was told."""

    def __init__(self, name: str) -> None:
        self.name = name

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        return [f"{self.name} stale={stale}".encode(), f"{self.name} second".encode()]

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        return Denied("old", stale=credentials == b"old")


def challenges(decision: Decision) -> list[bytes]:
    assert isinstance(decision, Reject)
    assert decision.status == 401
    return [value for _, value in decision.headers]


def test_all_schemes_challenge_and_only_the_used_one_is_stale() -> None:
    policy = AuthenticationPolicy([Stamp("one"), Stamp("two")])
    assert challenges(policy(context(b"Two old"))) == [
        b"one stale=False",
        b"one second",
        b"two stale=True",
        b"two second",
    ]
    assert challenges(policy(context(b"Two bad")))[2] == b"two stale=False"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one scheme"):
        AuthenticationPolicy([])
    with pytest.raises(ValueError, match="each only once"):
        AuthenticationPolicy([BASIC, BASIC])
    with pytest.raises(ValueError, match="not printable ASCII without quotes"):
        Basic('a"b', later)


@given(st.binary())
def test_any_credentials_get_a_decision(value: bytes) -> None:
    decision = POLICY(context(b"Basic " + value))
    assert isinstance(decision, Reject)
    assert decision.status in (400, 401)


@given(st.text(), st.text())
def test_any_name_and_password_get_a_decision(name: str, password: str) -> None:
    decision = POLICY(context(basic(f"{name}:{password}".encode("utf-8", "replace"))))
    known = {f"{n}:{p}" for n, p in PASSWORDS.items()}
    assert isinstance(decision, Continue) is (f"{name}:{password}" in known)


@pytest.mark.parametrize(
    ("values", "user"),
    [
        ([], None),
        ([b"Basic YWxpY2U6c2VjcmV0"], "alice"),
        ([b"basic YWxpY2U6d3Jvbmc="], "alice"),
        ([b"Basic YWxpY2U6c2VjcmV0", b"Basic YWxpY2U6c2VjcmV0"], None),
        ([b"Basic YWxpY2U="], None),
        ([b"Basic /////w=="], None),
        ([b"Basic ???"], None),
        ([b"Bearer YWxpY2U6c2VjcmV0"], None),
        ([b'Digest username="bob", realm="r", nonce="n", uri="/", response="0"'], "bob"),
        ([b'Digest username="bob", realm="r", nonce="n", uri="/", qop=odd, response="0"'], None),
        ([b"Digest username"], None),
        ([b"Digest \xff"], None),
    ],
)
def test_user_that_credentials_name(values: list[bytes], user: str | None) -> None:
    request = Request("h", "/", extra_headers=[(b"authorization", value) for value in values])
    assert claimed_user(request) == user

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Later, Unavailable
from wsproto_sip.auth.throttle import Failure, FailureCause, Throttle
from wsproto_sip.auth.used import FirstUse, UsedTokens
from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import AuthenticationPolicy, Basic
from wsproto_sip.policy.decision import (
    Accept,
    Continue,
    Deferred,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
)
from wsproto_sip.policy.token import Bearer, TokenPlace, TokenPolicy, TokenQuestion, TokenSource

COOKIE = TokenSource(TokenPlace.COOKIE, "sid")
BEARER = TokenSource(TokenPlace.BEARER)
QUERY = TokenSource(TokenPlace.QUERY, "token")
ALICE = Identity("alice", "token")


def verify(question: TokenQuestion) -> Identity | None:
    return ALICE if question.token in ("t0k+en/==", "tökén") else None


def context(target: str = "/", *headers: tuple[bytes, bytes]) -> RequestContext:
    return RequestContext(Request("example.com", target, extra_headers=list(headers)))


def cookies(*values: bytes) -> RequestContext:
    return context("/", *((b"cookie", value) for value in values))


def authorizations(*values: bytes) -> RequestContext:
    return context("/", *((b"authorization", value) for value in values))


@pytest.mark.parametrize(
    ("source", "request_context"),
    [
        (COOKIE, cookies(b"sid=t0k+en/==")),
        (COOKIE, cookies(b'a=1; sid="t0k+en/=="; b')),
        (COOKIE, cookies(b"a=1;\t sid=t0k+en/== ;b=2")),
        (COOKIE, cookies(b"SID=x; xsid=y", b"z=sid=; sid=t0k+en/==")),
        (BEARER, authorizations(b"Bearer t0k+en/==")),
        (BEARER, authorizations(b"bEARER   t0k+en/==")),
        (QUERY, context("/ws?token=t0k+en/==")),
        (QUERY, context("/ws?a&token=t0k%2Ben%2F%3D=&Token=x")),
        (QUERY, context("/ws?token=t%C3%B6k%c3%a9n")),
    ],
)
def test_known_token_gives_an_identity(
    source: TokenSource, request_context: RequestContext
) -> None:
    assert TokenPolicy([source], verify)(request_context) == Continue(identity=ALICE)


@pytest.mark.parametrize(
    ("source", "request_context", "malformed"),
    [
        (COOKIE, cookies(b"sid=a; sid=a"), "cookie"),
        (COOKIE, cookies(b"sid=a", b"sid=a"), "cookie"),
        (COOKIE, cookies(b"sid=a b"), "cookie"),
        (COOKIE, cookies(b'sid="'), "cookie"),
        (COOKIE, cookies(b"sid=\xc3\xa4"), "cookie"),
        (COOKIE, cookies(b"sid="), "cookie"),
        (COOKIE, cookies(b'sid=""'), "cookie"),
        (COOKIE, cookies(b"sid"), "cookie"),
        (COOKIE, cookies(b"sid=" + b"a" * 33), "cookie"),
        (BEARER, authorizations(b"Bearer a", b"Bearer a"), "bearer"),
        (BEARER, authorizations(b"Bearer"), "bearer"),
        (BEARER, authorizations(b"Bearer "), "bearer"),
        (BEARER, authorizations(b"Bearer a b"), "bearer"),
        (BEARER, authorizations(b"Bearer \x85a"), "bearer"),
        (BEARER, authorizations(b"Bearer =a"), "bearer"),
        (QUERY, context("/?token=a&token=b"), "query"),
        (QUERY, context("/?token=%0D%0A"), "query"),
        (QUERY, context("/?token=%FF"), "query"),
        (QUERY, context("/?token="), "query"),
        (QUERY, context("/?token"), "query"),
    ],
)
def test_malformed_and_repeated_tokens_are_400(
    source: TokenSource, request_context: RequestContext, malformed: str
) -> None:
    assert TokenPolicy([source], verify, max_length=32)(request_context) == Reject(
        400, f"malformed or repeated {malformed} token"
    )


def test_longest_token() -> None:
    policy = TokenPolicy([QUERY], lambda _: ALICE, max_length=4)
    assert policy(context("/?token=abcd")) == Continue(identity=ALICE)
    assert policy(context("/?token=abcde")) == Reject(400, "malformed or repeated query token")


def test_without_bearer_tokens_a_refusal_is_403() -> None:
    policy = TokenPolicy([COOKIE, QUERY], verify)
    assert policy(context("/?x=y", (b"cookie", b"a=b"))) == Reject(403, "no token")
    assert policy(cookies(b"sid=wrong")) == Reject(403, "unknown token")


def test_with_bearer_tokens_a_refusal_is_401_with_a_challenge() -> None:
    policy = TokenPolicy([COOKIE, BEARER], verify)
    assert policy(authorizations(b"Basic YTpi")) == Reject(
        401, "no token", ((b"www-authenticate", b"Bearer"),)
    )
    assert policy(authorizations(b"Bearer wrong")) == Reject(
        401, "unknown token", ((b"www-authenticate", b'Bearer error="invalid_token"'),)
    )


def test_first_source_with_a_token_decides() -> None:
    policy = TokenPolicy([COOKIE, QUERY], verify)
    both = context("/?token=t0k+en/==", (b"cookie", b"sid=wrong"))
    assert policy(both) == Reject(403, "unknown token")
    assert policy(context("/?token=t0k+en/==")) == Continue(identity=ALICE)


def test_optional_token_is_still_verified() -> None:
    policy = TokenPolicy([COOKIE], verify, required=False)
    assert policy(context()) == Continue()
    assert policy(cookies(b"sid=wrong")) == Reject(403, "unknown token")


def test_identified_client_needs_no_token() -> None:
    policy = TokenPolicy([COOKIE], verify)
    assert policy(replace(context(), identity=ALICE)) == Continue()
    wrong = replace(cookies(b"sid=wrong"), identity=ALICE)
    assert policy(wrong) == Reject(403, "unknown token")


def later(question: TokenQuestion) -> Later:
    return LATER


def test_answer_may_come_later() -> None:
    chain = PolicyChain([TokenPolicy([COOKIE], later)])
    asked = cookies(b"sid=abc")
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == TokenQuestion("abc", COOKIE, asked)
    assert repr(pending.question) == f"TokenQuestion(source={COOKIE!r})"
    assert chain.resume(pending, ALICE) == Accept(replace(asked, identity=ALICE), identity=ALICE)
    assert chain.resume(pending, None) == Reject(403, "unknown token")
    refused = Reject(503, "no database", ((b"retry-after", b"5"),))
    assert chain.resume(pending, Unavailable("no database")) == refused
    with pytest.raises(TypeError, match="the answer must be an Identity or None, not str"):
        chain.resume(pending, "alice")


def test_token_without_tls_may_be_refused_unread() -> None:
    policy = TokenPolicy([COOKIE], verify, require_tls=True)
    given = cookies(b"sid=t0k+en/==")
    assert policy(given) == Reject(403, "a token without TLS")
    assert policy(replace(given, secure=True)) == Continue(identity=ALICE)


# -- the scheme, beside others ---------------------------------------------------------------------

CHALLENGES = ((b"www-authenticate", b'Basic realm="r", charset="UTF-8"'),)


def scheme(**options: object) -> AuthenticationPolicy:
    basic = Basic("r", lambda name, password: None)
    return AuthenticationPolicy([basic, Bearer("r", verify, **options)])  # type: ignore[arg-type]


def test_token_and_password_can_be_combined() -> None:
    asked = (*CHALLENGES, (b"www-authenticate", b'Bearer realm="r"'))
    assert scheme()(context()) == Reject(401, "no credentials", asked)
    assert scheme()(authorizations(b"Basic YTpi")) == Reject(401, "wrong name or password", asked)
    assert scheme()(authorizations(b"Bearer t0k+en/==")) == Continue(identity=ALICE)
    wrong = (*CHALLENGES, (b"www-authenticate", b'Bearer realm="r", error="invalid_token"'))
    assert scheme()(authorizations(b"Bearer x")) == Reject(401, "unknown token", wrong)


def test_token_of_the_scheme_must_be_well_formed_and_use_tls() -> None:
    for value in (b"Bearer a b", b"Bearer \x85", b"Bearer =", b"Bearer " + b"a" * 4097):
        assert scheme()(authorizations(value)) == Reject(400, "malformed bearer token")
    outcome = scheme(require_tls=True)(authorizations(b"Bearer t0k+en/=="))
    assert isinstance(outcome, Reject)
    assert (outcome.status, outcome.reason) == (401, "a token without TLS")
    with pytest.raises(ValueError, match="max_length must be positive: 0"):
        Bearer("r", verify, max_length=0)
    with pytest.raises(ValueError, match="not printable ASCII"):
        Bearer('a"b', verify)


def test_answer_of_the_scheme_may_come_later() -> None:
    chain = PolicyChain([AuthenticationPolicy([Bearer("r", later)])])
    asked = authorizations(b"Bearer abc")
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == TokenQuestion("abc", BEARER, asked)
    assert chain.resume(pending, ALICE) == Accept(replace(asked, identity=ALICE), identity=ALICE)
    refused = Reject(503, "no database", ((b"retry-after", b"5"),))
    assert chain.resume(pending, Unavailable("no database")) == refused


def test_guesses_at_tokens_of_the_scheme_are_slowed_down() -> None:
    policy = scheme(throttle=Throttle())
    statuses = []
    for _ in range(8):
        outcome = policy(authorizations(b"Bearer x"))
        assert isinstance(outcome, Reject)
        statuses.append(outcome.status)
    assert statuses == [401] * 6 + [429] * 2


# -- guessing --------------------------------------------------------------------------------------


def guess(policy: TokenPolicy, token: str, now: float = 0.0, address: str = "203.0.113.9") -> int:
    """Send a token; return the status, 101 if it is accepted."""
    asked = replace(cookies(f"sid={token}".encode()), now=now, peer_address=address)
    outcome = policy(asked)
    return outcome.status if isinstance(outcome, Reject) else 101


def test_address_gets_86_guesses_at_tokens_in_an_hour() -> None:
    told: list[Failure] = []
    throttle = Throttle(report=told.append)
    policy = TokenPolicy([COOKIE], verify, throttle=throttle)
    statuses = [guess(policy, f"guess{number}", number / 20) for number in range(20 * 3600)]
    assert statuses.count(403) == 86
    assert statuses.count(429) == 20 * 3600 - 86
    assert throttle.counts["token", FailureCause.WRONG] == 86
    assert throttle.counts["token", FailureCause.ADDRESS] == statuses.count(429)
    # Tokens are secrets: log lines use other names for them.
    names = {failure.attempt.username for failure in told}
    assert not any("guess" in name for name in names)
    assert len(names) > 86


def test_valid_token_waits_only_at_the_guessing_address() -> None:
    policy = TokenPolicy([COOKIE], verify)
    for number in range(21):
        assert guess(policy, f"guess{number}") == 403
    right = "t0k+en/=="
    slowed = replace(cookies(f"sid={right}".encode()), peer_address="203.0.113.9")
    expected = Reject(429, "slowed-address: wait 1 s", ((b"retry-after", b"1"),))
    assert policy(slowed) == expected
    assert guess(policy, right, address="192.0.2.1") == 101
    assert guess(policy, right, now=1.0) == 101
    # From now on, attempts of others from there do not affect it.
    for number in range(21):
        guess(policy, f"guess{number}", now=2.0)
    assert guess(policy, "another", now=2.0) == 429
    assert guess(policy, right, now=2.0) == 101


def test_repeated_expired_token_is_slowed_down() -> None:
    policy = TokenPolicy([COOKIE], verify)
    assert [guess(policy, "expired") for _ in range(8)] == [403] * 6 + [429] * 2
    # The address is not slowed down: its other users are not affected.
    assert guess(policy, "t0k+en/==") == 101


def test_answers_that_come_later_count_too() -> None:
    policy = TokenPolicy([COOKIE], later)
    asked = cookies(b"sid=abc")
    pending = [policy(asked) for _ in range(6)]
    # Six are being checked, which counts like six failures.
    assert isinstance(policy(asked), Reject)
    for one in pending:
        assert isinstance(one, Deferred)
        assert one.conclude(None) == Reject(403, "unknown token")


def test_hook_that_fails_is_not_held_against_the_token() -> None:
    def fail(question: TokenQuestion) -> Identity | None:
        raise OSError("no database")

    policy = TokenPolicy([COOKIE], fail)
    for _ in range(50):
        with pytest.raises(OSError, match="no database"):
            policy(cookies(b"sid=abc"))


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "\xe4"])
def test_names_are_tokens(name: str) -> None:
    for source in (TokenPlace.COOKIE, TokenPlace.QUERY):
        with pytest.raises(ValueError, match="not the name of a cookie or parameter"):
            TokenSource(source, name)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        TokenPolicy([], verify)
    with pytest.raises(ValueError, match="max_length must be positive: 0"):
        TokenPolicy([COOKIE], verify, max_length=0)


@given(st.binary(), st.binary(), st.text(st.characters(max_codepoint=0xFF)))
def test_any_request_gets_a_decision(cookie: bytes, value: bytes, query: str) -> None:
    seen: list[str] = []

    def look(question: TokenQuestion) -> None:
        seen.append(question.token)

    headers = [(b"cookie", b"sid=" + cookie), (b"authorization", b"Bearer " + value)]
    for source in (COOKIE, BEARER, QUERY):
        decision = TokenPolicy([source], look)(context(f"/?token={query}", *headers))
        assert isinstance(decision, Reject)
        assert decision.status in (400, 401, 403)
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for token in seen for c in token)


def test_token_in_a_query_is_used_once() -> None:
    policy = TokenPolicy([QUERY, COOKIE], verify, used=UsedTokens(60.0))
    first = context("/?token=t0k+en/==")
    assert policy(context("/?token=wrong")).status == 403  # type: ignore[union-attr]
    assert policy(first) == Continue(identity=ALICE)
    again = policy(first)
    assert isinstance(again, Reject)
    assert (again.status, again.reason) == (403, "the token was used before")
    assert policy(replace(first, now=60.0)) == Continue(identity=ALICE)
    # In a cookie, it is not seen by others.
    for _ in range(2):
        assert policy(cookies(b"sid=t0k+en/==")) == Continue(identity=ALICE)


@pytest.mark.parametrize("known", [True, False])
def test_shared_store_remembers_used_tokens(known: bool) -> None:
    def later(question: TokenQuestion) -> Identity | Later | None:
        return verify(question) if known else LATER

    policy = TokenPolicy([QUERY], later, used=UsedTokens(60.0, shared=True))
    chain = PolicyChain([policy])
    outcomes: list[tuple[object, object]] = [
        (True, Accept),
        (False, 403),
        (Unavailable("down", 7), 503),
    ]
    for answer, expected in outcomes:
        pending = chain.decide(context("/?token=t0k+en/=="))
        if not known:
            # First, whose it is.
            assert isinstance(pending, Pending)
            assert isinstance(pending.question, TokenQuestion)
            pending = chain.resume(pending, ALICE)
        assert isinstance(pending, Pending)
        assert isinstance(pending.question, FirstUse)
        outcome = chain.resume(pending, answer)
        if isinstance(outcome, Accept):
            assert expected is Accept
            assert outcome.identity == ALICE
        else:
            assert isinstance(outcome, Reject)
            assert outcome.status == expected

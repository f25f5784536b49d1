from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import (
    LATER,
    Accept,
    Continue,
    Identity,
    Later,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
)
from wsproto_sip.policy.token import Source, TokenPolicy, TokenQuestion, TokenSource

COOKIE = TokenSource(Source.COOKIE, "sid")
BEARER = TokenSource(Source.BEARER)
QUERY = TokenSource(Source.QUERY, "token")
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
def test_a_known_token_gives_an_identity(
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


def test_the_longest_token() -> None:
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


def test_the_first_source_that_holds_a_token_decides() -> None:
    policy = TokenPolicy([COOKIE, QUERY], verify)
    both = context("/?token=t0k+en/==", (b"cookie", b"sid=wrong"))
    assert policy(both) == Reject(403, "unknown token")
    assert policy(context("/?token=t0k+en/==")) == Continue(identity=ALICE)


def test_an_optional_token_is_still_verified() -> None:
    policy = TokenPolicy([COOKIE], verify, required=False)
    assert policy(context()) == Continue()
    assert policy(cookies(b"sid=wrong")) == Reject(403, "unknown token")


def test_who_is_known_already_needs_no_token() -> None:
    policy = TokenPolicy([COOKIE], verify)
    assert policy(replace(context(), identity=ALICE)) == Continue()
    wrong = replace(cookies(b"sid=wrong"), identity=ALICE)
    assert policy(wrong) == Reject(403, "unknown token")


def later(question: TokenQuestion) -> Later:
    return LATER


def test_the_answer_may_come_later() -> None:
    chain = PolicyChain([TokenPolicy([COOKIE], later)])
    asked = cookies(b"sid=abc")
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == TokenQuestion("abc", COOKIE, asked)
    assert repr(pending.question) == f"TokenQuestion(source={COOKIE!r})"
    assert chain.resume(pending, ALICE) == Accept(replace(asked, identity=ALICE), identity=ALICE)
    assert chain.resume(pending, None) == Reject(403, "unknown token")
    with pytest.raises(TypeError, match="an Identity or None is needed, not str"):
        chain.resume(pending, "alice")


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "\xe4"])
def test_names_are_tokens(name: str) -> None:
    for source in (Source.COOKIE, Source.QUERY):
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

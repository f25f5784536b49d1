from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.accounts import Account, account_lookup
from wsproto_sip.auth.digest import Algorithm
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.nonces import Nonces
from wsproto_sip.auth.outcome import LATER, Later
from wsproto_sip.auth.verifier import AccountQuestion
from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import AuthenticationPolicy
from wsproto_sip.policy.decision import (
    Accept,
    Continue,
    Decision,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
)
from wsproto_sip.policy.digest import Digest

PASSWORDS = {"Mufasa": "Circle of Life", "Jäsøn": "pässwörd", 'q"\\': "x"}
MUFASA = Identity("Mufasa", "digest")
HASHES = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
WRONG = "wrong name or password"
NOT_OFFERED = "an algorithm or qop that was not offered, or a hashed user name"
STALE = "nonce too old, already used, or not ours"


def h(algorithm: str, text: str) -> str:
    return HASHES[algorithm](text.encode()).hexdigest()


def independent_response(
    algorithm: str,
    username: str,
    password: str,
    *,
    realm: str,
    method: str,
    uri: str,
    nonce: str,
    nc: str,
    cnonce: str,
) -> str:
    """Compute the response from RFC 7616 §3.4, without the module under test."""
    ha1 = h(algorithm, f"{username}:{realm}:{password}")
    ha2 = h(algorithm, f"{method}:{uri}")
    return h(algorithm, f"{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}")


def context(*authorization: bytes, now: float = 0.0, target: str = "/ws") -> RequestContext:
    headers = [(b"authorization", value) for value in authorization]
    return RequestContext(Request("example.com", target, extra_headers=headers), now=now)


def make_policy(**nonces: float) -> AuthenticationPolicy:
    store = Nonces(lifetime=nonces.get("lifetime", 300.0), capacity=int(nonces.get("capacity", 9)))
    return AuthenticationPolicy([Digest("calls", account_lookup(PASSWORDS), nonces=store)])


def challenges(decision: Decision) -> list[str]:
    assert isinstance(decision, Reject)
    assert decision.status == 401
    assert {name for name, _ in decision.headers} == {b"www-authenticate"}
    return [value.decode() for _, value in decision.headers]


def nonce_of(challenge: str) -> str:
    found = re.search(r'nonce="([0-9a-f]{64})"', challenge)
    assert found
    return found[1]


def fresh(policy: AuthenticationPolicy, now: float = 0.0) -> str:
    return nonce_of(challenges(policy(context(now=now)))[0])


def credentials(nonce: str, hashed: str = "SHA-256", /, **changes: str) -> bytes:
    """Return a good client's credentials, with changes made after the response was computed."""
    computed = {
        "username": changes.pop("of_user", "Mufasa"),
        "password": changes.pop("password", "Circle of Life"),
        "realm": "calls",
        "method": "GET",
        "uri": changes.pop("of_uri", "/ws"),
        "nonce": nonce,
        "nc": changes.pop("of_nc", "00000001"),
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    }
    given = {
        name: '"{}"'.format(computed[name].replace("\\", "\\\\").replace('"', '\\"'))
        for name in ("username", "realm", "uri", "nonce", "cnonce")
    }
    given["response"] = f'"{independent_response(hashed, **computed)}"'
    given |= {"nc": computed["nc"], "qop": "auth", "algorithm": hashed} | changes
    return ("Digest " + ", ".join(f"{k}={v}" for k, v in given.items() if v)).encode()


def test_challenges_offer_both_hashes() -> None:
    sha, md5 = challenges(make_policy()(context()))
    pattern = r'Digest realm="calls", nonce="[0-9a-f]{64}", algorithm=%s, qop="auth", charset=UTF-8'
    assert re.fullmatch(pattern % "SHA-256", sha)
    assert re.fullmatch(pattern % "MD5", md5)
    assert nonce_of(sha) != nonce_of(md5)


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
def test_right_credentials_give_an_identity(algorithm: str) -> None:
    policy = make_policy()
    value = credentials(fresh(policy), algorithm)
    assert policy(context(value)) == Continue(identity=MUFASA)


def test_no_algorithm_means_md5() -> None:
    policy = make_policy()
    assert policy(context(credentials(fresh(policy), "MD5", algorithm=""))) == Continue(
        identity=MUFASA
    )
    assert isinstance(policy(context(credentials(fresh(policy), algorithm=""))), Reject)


def test_names_in_unicode_and_with_quotes() -> None:
    policy = make_policy()
    value = credentials(fresh(policy), of_user="Jäsøn", password="pässwörd")
    assert policy(context(value)) == Continue(identity=Identity("Jäsøn", "digest"))
    value = credentials(fresh(policy), of_user='q"\\', password="x")
    assert policy(context(value)) == Continue(identity=Identity('q"\\', "digest"))
    extended = {"username": "", "username*": "UTF-8''J%C3%A4s%C3%B8n"}
    value = credentials(fresh(policy), of_user="Jäsøn", password="pässwörd", **extended)
    assert policy(context(value)) == Continue(identity=Identity("Jäsøn", "digest"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "wrong"}, WRONG),
        ({"of_user": "Scar"}, WRONG),
        ({"username": '"Jäsøn"'}, WRONG),
        ({"response": '""'}, WRONG),
        ({"response": f'"{"0" * 64}"'}, WRONG),
        ({"response": '"\u0660"'}, WRONG),
        ({"nc": "00000002"}, WRONG),
        ({"cnonce": '"other"'}, WRONG),
        ({"nonce": f'"{"0" * 64}"'}, WRONG),
        ({"algorithm": "MD5"}, WRONG),
        ({"realm": '"others"'}, "credentials for another realm"),
        ({"algorithm": "SHA-512-256"}, "algorithm SHA-512-256 is not offered"),
        ({"algorithm": "SHA-256-sess"}, NOT_OFFERED),
        ({"userhash": "true"}, NOT_OFFERED),
        ({"qop": "auth-int"}, NOT_OFFERED),
        ({"qop": ""}, "credentials without qop"),
    ],
)
def test_wrong_credentials_are_401_and_not_stale(changes: dict[str, str], reason: str) -> None:
    policy = make_policy()
    decision = policy(context(credentials(fresh(policy), **changes)))
    assert isinstance(decision, Reject)
    assert decision.reason == reason
    assert not any("stale" in challenge for challenge in challenges(decision))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uri": '"/other"'}, "Digest credentials for another target"),
        ({"uri": '"/ws?x"'}, "Digest credentials for another target"),
        ({"nc": "1"}, "nc must be eight hexadecimal digits"),
        ({"nc": ""}, "nc missing"),
        ({"uri": ""}, "uri missing"),
        ({"username": '""'}, "not a valid user name"),
        ({"username*": "UTF-8''a"}, "username and username* cannot be used together"),
        ({"cnonce": '"a'}, "malformed parameter"),
        ({"CNONCE": "x"}, "parameter cnonce is repeated"),
    ],
)
def test_malformed_credentials_are_400(changes: dict[str, str], reason: str) -> None:
    policy = make_policy()
    decision = policy(context(credentials(fresh(policy), **changes)))
    assert isinstance(decision, Reject)
    assert decision.status == 400
    assert reason in decision.reason


def test_credentials_that_are_not_utf8_are_400() -> None:
    decision = make_policy()(context(b'Digest username="\xff"'))
    assert isinstance(decision, Reject)
    assert decision.status == 400
    assert "can't decode byte 0xff" in decision.reason


def expect_stale(decision: Decision) -> str:
    assert isinstance(decision, Reject)
    assert decision.reason == STALE
    found = challenges(decision)
    assert all(", stale=true" in challenge for challenge in found)
    return nonce_of(found[0])


def test_count_cannot_be_used_twice() -> None:
    policy = make_policy()
    nonce = fresh(policy)
    value = credentials(nonce, of_nc="00000003")
    assert policy(context(value)) == Continue(identity=MUFASA)
    again = expect_stale(policy(context(value)))
    expect_stale(policy(context(credentials(nonce, of_nc="00000002"))))
    assert policy(context(credentials(nonce, of_nc="00000010"))) == Continue(identity=MUFASA)
    assert policy(context(credentials(again))) == Continue(identity=MUFASA)


def test_expired_nonce_is_replaced() -> None:
    policy = make_policy(lifetime=60)
    nonce = fresh(policy, now=100.0)
    assert policy(context(credentials(nonce), now=160.0)) == Continue(identity=MUFASA)
    second = credentials(nonce, of_nc="00000002")
    new = expect_stale(policy(context(second, now=160.5)))
    assert policy(context(credentials(new), now=160.5)) == Continue(identity=MUFASA)


def test_stored_hashes_replace_the_password() -> None:
    ha1 = hashlib.sha256(b"Mufasa:calls:Circle of Life").hexdigest()
    account = Account(MUFASA, ha1={Algorithm.SHA_256: ha1})
    assert repr(account) == f"Account(identity={MUFASA!r})"
    policy = AuthenticationPolicy([Digest("calls", lambda name: account)])
    value = credentials(fresh(policy))
    assert policy(context(value)) == Continue(identity=MUFASA)
    denied = policy(context(credentials(fresh(policy), "MD5")))
    assert isinstance(denied, Reject)
    assert denied.reason == WRONG


def test_only_the_chosen_algorithms_are_offered() -> None:
    scheme = Digest("calls", account_lookup(PASSWORDS), algorithms=[Algorithm.SHA_256])
    policy = AuthenticationPolicy([scheme])
    assert len(challenges(policy(context()))) == 1
    denied = policy(context(credentials(fresh(policy), "MD5")))
    assert isinstance(denied, Reject)
    assert denied.reason == "algorithm MD5 is not offered"


def test_guesses_get_429_with_retry_after() -> None:
    policy = make_policy()
    nonce = fresh(policy)
    answers = [policy(context(credentials(nonce, password="guess"))) for _ in range(7)]
    assert [answer.status for answer in answers if isinstance(answer, Reject)] == [401] * 6 + [429]
    assert answers[6] == Reject(429, "slowed-pair: wait 1 s", ((b"retry-after", b"1"),))
    at_home = replace(context(credentials(nonce)), peer_address="192.0.2.7")
    assert policy(at_home) == Continue(identity=MUFASA)


def later(username: str) -> Later:
    return LATER


def test_account_may_come_later() -> None:
    policy = AuthenticationPolicy([Digest("calls", later)])
    chain = PolicyChain([policy])
    asked = context(credentials(fresh(policy)))
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == AccountQuestion("Mufasa", "calls", "Mufasa")
    denied = chain.resume(pending, None)
    assert isinstance(denied, Reject)
    assert denied.reason == WRONG
    with pytest.raises(TypeError, match="the answer must be an Account or None, not str"):
        chain.resume(pending, "Circle of Life")
    account = Account(MUFASA, "Circle of Life")
    assert chain.resume(pending, account) == Accept(
        replace(asked, identity=MUFASA), identity=MUFASA
    )
    replayed = chain.resume(pending, account)
    assert isinstance(replayed, Reject)
    assert replayed.reason == STALE


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one algorithm"):
        Digest("calls", later, algorithms=[])
    with pytest.raises(ValueError, match="not printable ASCII"):
        Digest("a\r\nb", later)


@given(st.binary() | st.text('a=", \\\t\x0b', max_size=30).map(str.encode))
def test_any_credentials_get_a_decision(value: bytes) -> None:
    decision = make_policy()(context(b"Digest " + value))
    assert isinstance(decision, Reject)
    assert decision.status in (400, 401)

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import AuthenticationPolicy
from wsproto_sip.policy.decision import (
    LATER,
    Accept,
    Continue,
    Decision,
    Identity,
    Later,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
)
from wsproto_sip.policy.digest import (
    Account,
    Algorithm,
    Digest,
    DigestQuestion,
    Nonces,
    account_lookup,
    digest_ha1,
    digest_response,
    parse_parameters,
)

PASSWORDS = {"Mufasa": "Circle of Life", "Jäsøn": "pässwörd", 'q"\\': "x"}
MUFASA = Identity("Mufasa", "digest")
HASHES = {"SHA-256": hashlib.sha256, "MD5": hashlib.md5}
WRONG = "wrong name or password"
STALE = "nonce is too old, used before, or not ours"


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
    """Written after RFC 7616 §3.4, without the module under test."""
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
    """The credentials of a good client, with changes made after the response was computed."""
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
    pattern = r'Digest realm="calls", qop="auth", algorithm=%s, nonce="[0-9a-f]{64}", charset=UTF-8'
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


def test_the_example_of_the_rfc() -> None:
    """RFC 7616 §3.9.1."""
    values = {
        "method": "GET",
        "uri": "/dir/index.html",
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    }
    for algorithm, expected in (
        (Algorithm.MD5, "8ca523f5e9506fed4657c9700eebdbec"),
        (Algorithm.SHA_256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        ha1 = digest_ha1(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
        assert digest_response(algorithm, ha1, **values) == expected


@given(
    st.sampled_from(["SHA-256", "MD5"]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("abc/?=%", max_size=8),
)
def test_the_response_agrees_with_an_independent_one(
    algorithm: str, username: str, password: str, uri: str
) -> None:
    values = {"method": "GET", "uri": uri, "nonce": "n", "nc": "0000000a", "cnonce": "c"}
    ours = Algorithm(algorithm)
    assert digest_response(
        ours, digest_ha1(ours, username, "r", password), **values
    ) == independent_response(algorithm, username, password, realm="r", **values)


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
        ({"realm": '"others"'}, "Digest credentials for another realm"),
        ({"algorithm": "SHA-512-256"}, "Digest algorithm is not offered"),
        ({"algorithm": "SHA-256-sess"}, "Digest algorithm is not offered"),
        ({"userhash": "true"}, "hashed user names are not offered"),
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
        ({"qop": "auth-int"}, "malformed Digest credentials: qop or nc"),
        ({"nc": "1"}, "malformed Digest credentials: qop or nc"),
        ({"nc": "0000000A"}, "malformed Digest credentials: qop or nc"),
        ({"nc": '"\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661"'}, "qop or nc"),
        ({"qop": ""}, "Digest credentials without qop"),
        ({"nc": ""}, "Digest credentials without nc"),
        ({"cnonce": ""}, "Digest credentials without cnonce"),
        ({"uri": ""}, "Digest credentials without uri"),
        ({"realm": ""}, "Digest credentials without realm"),
        ({"nonce": ""}, "Digest credentials without nonce"),
        ({"response": ""}, "Digest credentials without response"),
        ({"username": ""}, "Digest credentials without username"),
        ({"username": '""'}, "not a user's name"),
        ({"username": '"a\tb"'}, "not a user's name"),
        ({"username*": "UTF-8''a"}, "username and username*"),
        ({"username": "", "username*": "latin-1''a"}, "username* is not in UTF-8"),
        ({"username": "", "username*": "UTF-8''a%4"}, "username* is not in UTF-8"),
        ({"username": "", "username*": "UTF-8''%FF"}, "malformed Digest credentials"),
        ({"username": "", "username*": "UTF-8''%0D"}, "not a user's name"),
        ({"cnonce": '"a'}, "no parameter at character"),
        ({"cnonce": '"a\\"'}, "no parameter at character"),
        ({"cnonce": "a b"}, "no parameter at character"),
        ({"cnonce": '"a\x0bb"'}, "no parameter at character"),
        ({"CNONCE": "x"}, "parameter cnonce twice"),
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
    assert all(challenge.endswith(", stale=true") for challenge in found)
    return nonce_of(found[0])


def test_a_count_cannot_be_used_twice() -> None:
    policy = make_policy()
    nonce = fresh(policy)
    value = credentials(nonce, of_nc="00000003")
    assert policy(context(value)) == Continue(identity=MUFASA)
    again = expect_stale(policy(context(value)))
    expect_stale(policy(context(credentials(nonce, of_nc="00000002"))))
    assert policy(context(credentials(nonce, of_nc="00000010"))) == Continue(identity=MUFASA)
    assert policy(context(credentials(again))) == Continue(identity=MUFASA)


def test_a_nonce_expires_and_the_client_may_go_on_with_a_new_one() -> None:
    policy = make_policy(lifetime=60)
    nonce = fresh(policy, now=100.0)
    assert policy(context(credentials(nonce), now=160.0)) == Continue(identity=MUFASA)
    second = credentials(nonce, of_nc="00000002")
    new = expect_stale(policy(context(second, now=160.5)))
    assert policy(context(credentials(new), now=160.5)) == Continue(identity=MUFASA)


def test_a_nonce_from_the_future_or_from_elsewhere_is_stale() -> None:
    policy = make_policy()
    expect_stale(policy(context(credentials(fresh(policy, now=100.0)), now=99.0)))
    expect_stale(policy(context(credentials(fresh(make_policy())))))
    expect_stale(policy(context(credentials("anything"))))
    nonce = fresh(policy)
    flipped = ("1" if nonce[0] == "0" else "0") + nonce[1:]
    expect_stale(policy(context(credentials(flipped))))


def test_forgetting_a_nonce_never_makes_it_usable_again() -> None:
    nonces = Nonces(capacity=2)
    made = [nonces.make(float(now)) for now in range(4)]
    assert nonces.use(made[1], 1, 4.0)
    assert nonces.use(made[2], 1, 4.0)
    assert nonces.use(made[3], 1, 4.0)
    assert len(nonces) == 2
    assert not nonces.use(made[1], 2, 4.0), "forgotten"
    assert not nonces.use(made[0], 1, 4.0), "older than the forgotten one"
    assert nonces.use(made[2], 2, 4.0)
    assert not nonces.use(made[3], 1, 4.0), "used before"
    assert nonces.use(nonces.make(4.0), 1, 4.0)


def test_expired_nonces_leave_memory() -> None:
    nonces = Nonces(lifetime=10, capacity=100)
    for now in range(50):
        assert nonces.use(nonces.make(float(now)), 1, float(now))
    assert len(nonces) == 11


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), max_size=40))
def test_no_nonce_and_count_pass_twice(steps: list[tuple[int, int, int]]) -> None:
    nonces = Nonces(lifetime=8, capacity=2, secret=bytes(16))
    now = 0.0
    made = [nonces.make(now)]
    used: set[tuple[str, int]] = set()
    for pick, count, pause in steps:
        now += pause
        made.append(nonces.make(now))
        nonce = made[-1 - pick % len(made)]
        if nonces.use(nonce, count, now):
            assert (nonce, count) not in used
            used.add((nonce, count))
        assert len(nonces) <= 2


def test_servers_with_one_secret_accept_each_others_nonces() -> None:
    one, other = Nonces(secret=b"s" * 16), Nonces(secret=b"s" * 16)
    assert other.use(one.make(1.0), 1, 1.0)
    assert not Nonces(secret=b"t" * 16).use(one.make(1.0), 1, 1.0)


def test_randomness_comes_from_the_given_source() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    nonces = Nonces(entropy=entropy)
    assert nonces.make(1.0) == nonces.make(1.0)
    assert asked == [32, 8, 8]
    assert Nonces(secret=os.urandom(16)).make(1.0) != nonces.make(1.0)


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
    assert denied.reason == "Digest algorithm is not offered"


def later(username: str) -> Later:
    return LATER


def test_the_account_may_come_later() -> None:
    policy = AuthenticationPolicy([Digest("calls", later)])
    chain = PolicyChain([policy])
    asked = context(credentials(fresh(policy)))
    pending = chain.decide(asked)
    assert isinstance(pending, Pending)
    assert pending.question == DigestQuestion("Mufasa", "calls")
    denied = chain.resume(pending, None)
    assert isinstance(denied, Reject)
    assert denied.reason == WRONG
    with pytest.raises(TypeError, match="an Account or None is needed, not str"):
        chain.resume(pending, "Circle of Life")
    account = Account(MUFASA, "Circle of Life")
    assert chain.resume(pending, account) == Accept(
        replace(asked, identity=MUFASA), identity=MUFASA
    )
    replayed = chain.resume(pending, account)
    assert isinstance(replayed, Reject)
    assert replayed.reason == STALE


def test_an_account_without_a_secret_lets_nobody_in() -> None:
    policy = AuthenticationPolicy([Digest("calls", lambda name: Account(MUFASA))])
    assert isinstance(policy(context(credentials(fresh(policy)))), Reject)


def test_bad_arguments_are_refused() -> None:
    for lifetime in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="lifetime must be positive"):
            Nonces(lifetime=lifetime)
    with pytest.raises(ValueError, match="capacity must be positive: 0"):
        Nonces(capacity=0)
    with pytest.raises(ValueError, match="at least 16 octets"):
        Nonces(secret=b"x" * 15)
    with pytest.raises(ValueError, match="at least one algorithm"):
        Digest("calls", later, algorithms=[])
    with pytest.raises(ValueError, match="not printable ASCII"):
        Digest("a\r\nb", later)


def test_parameters() -> None:
    assert parse_parameters(b'A=1, b = "x, \\"y\\\\" ,, c="" ,\t') == {
        "a": "1",
        "b": 'x, "y\\',
        "c": "",
    }
    assert parse_parameters(b"") == {}
    many = [f"p{number}=1" for number in range(33)]
    assert len(parse_parameters(",".join(many[:32]).encode())) == 32
    with pytest.raises(ValueError, match="too many parameters"):
        parse_parameters(",".join(many).encode())


@given(st.binary() | st.text('a=", \\\t\x0b', max_size=30).map(str.encode))
def test_any_credentials_get_a_decision(value: bytes) -> None:
    decision = make_policy()(context(b"Digest " + value))
    assert isinstance(decision, Reject)
    assert decision.status in (400, 401)

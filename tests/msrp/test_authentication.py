from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth import (
    Account,
    Algorithm,
    Challenge,
    Credentials,
    Denied,
    Identity,
    Nonces,
    Proven,
    Question,
    TimedAccounts,
    answer_challenge,
    digest_ha1,
    timed_credentials,
    verify_server,
)
from wsproto_sip.msrp.authentication import DigestServer
from wsproto_sip.msrp.message.uri import MsrpUri

URI = MsrpUri.parse(b"msrp://alice@relay.example:2855;ws")
BOB = Account(Identity("bob"), ha1={Algorithm.MD5: digest_ha1("bob", "sip.test", "builder")})
USERS: dict[str, str | Account] = {"alice": "wonderland", "bob": BOB}


def server(**options: object) -> DigestServer:
    return DigestServer("sip.test", USERS, **options)  # type: ignore[arg-type]


def challenge_of(digest: DigestServer, now: float = 0.0) -> Challenge:
    return digest.challenges(now)[0]


def credentials(
    challenge: Challenge, user: str = "alice", password: str = "wonderland", count: int = 1
) -> Credentials:
    return answer_challenge(challenge, user, password, "AUTH", str(URI), count=count)


def check(
    digest: DigestServer, given_: Credentials, now: float = 0.0, uri: MsrpUri = URI
) -> Proven | Denied:
    outcome = digest.check(str(given_).encode(), uri, now)
    assert not isinstance(outcome, Question)
    return outcome


@pytest.mark.parametrize(("user", "password"), [("alice", "wonderland"), ("bob", "builder")])
def test_right_credentials(user: str, password: str) -> None:
    digest = server()
    given_ = credentials(challenge_of(digest, 10.0), user, password)
    verdict = check(digest, given_, 11.0)
    assert isinstance(verdict, Proven)
    assert verdict.identity == Identity(user, "digest")
    assert verify_server(given_, password, verdict.info)


@pytest.mark.parametrize(
    ("user", "password"), [("alice", "Wonderland"), ("mallory", "x"), ("bob", "")]
)
def test_wrong_credentials(user: str, password: str) -> None:
    digest = server()
    given_ = credentials(challenge_of(digest), user, password)
    assert check(digest, given_) == Denied("wrong name or password")


def test_users_are_those_in_force() -> None:
    digest = server()
    assert digest.users is USERS
    fewer = {"bob": BOB}
    digest.use(fewer)
    assert digest.users is fewer


def test_first_challenge_is_the_preferred_one() -> None:
    both = (Algorithm.SHA_256, Algorithm.MD5)
    digest = DigestServer("sip.test", {"alice": "wonderland"}, algorithms=both)
    challenges = digest.challenges(0.0, stale=True)
    assert [(item.algorithm, item.stale) for item in challenges] == [(one, True) for one in both]
    for challenge in challenges:
        assert isinstance(check(digest, credentials(challenge)), Proven)


def test_users_may_be_replaced() -> None:
    digest = server()
    digest.use({"carol": "c"})
    assert isinstance(check(digest, credentials(challenge_of(digest), "carol", "c")), Proven)
    assert isinstance(check(digest, credentials(challenge_of(digest))), Denied)
    secret = b"s" * 16
    timed = timed_credentials(secret, "dave", 100)
    assert isinstance(check(digest, credentials(challenge_of(digest), *timed)), Denied)
    digest.use({}, TimedAccounts(secret, lambda: 0.0))
    assert isinstance(check(digest, credentials(challenge_of(digest), *timed)), Proven)


def test_refusals() -> None:
    digest = server()
    challenge = challenge_of(digest)
    not_offered = Denied("not Digest with an offered algorithm and qop=auth")
    assert digest.check(b"Basic x", URI, 0.0) == not_offered
    assert digest.check(b"Digest x", URI, 0.0) == Denied("malformed parameter: 'x'")
    undecodable = digest.check(b'Digest realm="\xff"', URI, 0.0)
    assert isinstance(undecodable, Denied)
    assert "can't decode byte 0xff" in undecodable.reason
    other = credentials(replace(challenge, realm="other.test"))
    assert check(digest, other) == Denied("credentials for another realm")
    elsewhere = MsrpUri.parse(b"msrp://relay.example:2856;ws")
    another = Denied("credentials for another URI")
    assert check(digest, credentials(challenge), uri=elsewhere) == another
    assert check(digest, replace(credentials(challenge), uri="nonsense")) == another
    assert isinstance(check(digest, credentials(challenge)), Proven)


STALE = Denied("nonce too old, already used, or not ours", stale=True)


def test_nonces_expire() -> None:
    digest = server(nonces=Nonces(lifetime=60.0))
    challenge = challenge_of(digest, 100.0)
    assert isinstance(check(digest, credentials(challenge), 160.0), Proven)
    assert check(digest, credentials(challenge, count=2), 160.5) == STALE
    assert check(digest, credentials(challenge, password="x"), 200.0) == Denied(
        "wrong name or password"
    )


def test_credentials_from_before_a_restart_are_stale() -> None:
    assert check(server(), credentials(challenge_of(server()))) == STALE


@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    digest = server()
    good = (
        b"Digest username=u, realm=r, nonce=n, uri=x, response=z, qop=auth, cnonce=c, nc=00000001"
    )
    for value in (noise, b"Digest " + noise, good + noise):
        verdict = digest.check(value, URI, 0.0)
        assert isinstance(verdict, Denied)
        assert not verdict.stale


@given(st.data())
def test_changed_character_of_credentials_is_refused(data: st.DataObject) -> None:
    digest = server(entropy=bytes)
    challenge = challenge_of(digest)
    given_ = answer_challenge(challenge, "alice", "wonderland", "AUTH", str(URI), entropy=bytes)
    before = str(given_)
    where = data.draw(st.integers(before.index("nonce="), len(before) - 1))
    new = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    changed = before[:where] + new + before[where + 1 :]
    try:
        if Credentials.parse(changed) == Credentials.parse(before):
            return
    except ValueError:
        pass
    verdict = digest.check(changed.encode(), URI, 0.0)
    # An upper-case digit of the response is the same digit.
    assert isinstance(verdict, Denied) or changed.lower() == before.lower()

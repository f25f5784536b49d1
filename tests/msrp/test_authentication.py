from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, strategies as st

from tests.msrp.recording import read_recording
from wsproto_sip.msrp.authentication import (
    Accepted,
    AuthenticationError,
    Challenge,
    Credentials,
    DigestServer,
    Ha1,
    Refused,
    answer_challenge,
    verify_server,
)
from wsproto_sip.msrp.limits import MsrpLimits
from wsproto_sip.msrp.uri import MsrpUri

URI = MsrpUri.parse(b"msrp://alice@relay.example:2855;ws")
USERS: dict[str, str | Ha1] = {"alice": "wonderland", "bob": Ha1.of("bob", "sip.test", "builder")}


def server(**options: object) -> DigestServer:
    return DigestServer("sip.test", USERS, **options)  # type: ignore[arg-type]


def credentials(
    challenge: Challenge, user: str = "alice", password: str = "wonderland", count: int = 1
) -> Credentials:
    return answer_challenge(challenge, user, password, URI, nonce_count=count)


# -- computing ------------------------------------------------------------------------------------


def test_the_digest_of_the_rfc() -> None:
    # RFC 2617 §3.5 gives HA1's ingredients; the digest for AUTH follows from §3.2.2.1.
    assert Ha1.of("Mufasa", "testrealm@host.com", "Circle Of Life").value == (
        "939e7578ed9e3c518a452acee763bce9"
    )


def test_ha1_is_hexadecimal() -> None:
    for value in ("", "x" * 32, "A" * 32, "0" * 33):
        with pytest.raises(ValueError, match="HA1 is 32"):
            Ha1(value)


def test_the_digests_of_the_recording_fit_together() -> None:
    # The passwords are not in the recording, so what is shown is that each field is read.
    seen = 0
    for entry in read_recording():
        match = re.search(rb"Authorization: (.*)\r\n", entry.data)
        if match is None or b'nonce="x"' in match[1]:
            continue
        seen += 1
        read = Credentials.parse(match[1])
        assert (read.realm, read.nc, len(read.response)) == ("sip.test", "00000001", 32)
        assert read.uri == f"msrp://{read.username}@127.0.0.1:28591;ws"
        assert bytes(read) == match[1]
    assert seen == 3
    with pytest.raises(AuthenticationError, match="qop is missing"):
        Credentials.parse(
            b'Digest username="eve", realm="sip.test", nonce="x", uri="y", response="z"'
        )


def test_a_challenge_of_the_recording() -> None:
    value = b'Digest realm="sip.test", nonce="awPhTGsD4CALRq7X=", qop="auth"'
    challenge = Challenge.parse(value)
    assert challenge == Challenge("sip.test", "awPhTGsD4CALRq7X=")
    assert bytes(challenge) == value


def test_all_of_a_challenge() -> None:
    challenge = Challenge('a "b" \\ é', "n", "o", True)
    assert Challenge.parse(bytes(challenge)) == challenge
    assert Challenge.parse(
        b'dIGEST  realm = "r",nonce=n , qop="auth-int, AUTH", algorithm=md5, stale=FALSE\t,a=b'
    ) == Challenge("r", "n")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "no Digest"),
        (b"Basic realm=x", "no Digest"),
        (b"Digest", "no Digest"),
        (b"Digest ", "malformed parameter"),
        (b'Digest realm="r', "malformed parameter"),
        (b'Digest realm="r",', "malformed parameter"),
        (b'Digest realm="r" nonce="n"', "malformed parameter"),
        (b'Digest realm="r"\x0b, nonce="n"', "malformed parameter"),
        (b"Digest realm=r, Realm=s", "realm stands twice"),
        (b'Digest realm="\xff", nonce=n, qop=auth', "realm is not UTF-8"),
        (b'Digest realm="a\nb", nonce=n', "realm holds control characters"),
        (b"Digest realm=r, nonce=n", "qop is missing"),
        (b"Digest realm=r, nonce=n, qop=auth-int", "does not offer qop=auth"),
        (b"Digest nonce=n, qop=auth", "realm is missing"),
        (b"Digest realm=r, qop=auth", "nonce is missing"),
        (b"Digest realm=r, nonce=n, qop=auth, algorithm=SHA-256", "'SHA-256' is not supported"),
    ],
)
def test_no_challenge(value: bytes, message: str) -> None:
    with pytest.raises(AuthenticationError, match=message):
        Challenge.parse(value)


GOOD = b"Digest username=u, realm=r, nonce=n, uri=x, response=z, qop=auth, cnonce=c, nc=00000001"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"qop=auth", b"qop=auth-int", "only qop=auth"),
        (b"nc=00000001", b"nc=1", "nc is 8"),
        (b"nc=00000001", b"nc=0000000g", "nc is 8"),
        (b"username=u, ", b"", "username is missing"),
        (b"response=z, ", b"", "response is missing"),
        (b"cnonce=c, ", b"", "cnonce is missing"),
        (b"uri=x", b"uri=x, algorithm=MD5-sess", "not supported"),
    ],
)
def test_no_credentials(old: bytes, new: bytes, message: str) -> None:
    assert Credentials.parse(GOOD).username == "u"
    with pytest.raises(AuthenticationError, match=message):
        Credentials.parse(GOOD.replace(old, new))


def test_opaque_comes_back() -> None:
    answer = credentials(Challenge("r", "n", "op"))
    assert answer.opaque == "op"
    assert Credentials.parse(bytes(answer)) == answer


@pytest.mark.parametrize("value", ["a\r\nb", "a\x00", "\x7f", "\ud800"])
def test_nothing_unquotable_is_written(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be quoted"):
        bytes(Challenge(value, "n"))
    with pytest.raises(ValueError, match="cannot be quoted"):
        DigestServer(value, {})


# -- checking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "password"), [("alice", "wonderland"), ("bob", "builder")])
def test_right_credentials(user: str, password: str) -> None:
    digest = server()
    challenge = Challenge.parse(bytes(digest.challenge(10.0)))
    given_ = credentials(challenge, user, password)
    verdict = digest.check(bytes(given_), URI, 11.0)
    assert isinstance(verdict, Accepted)
    assert verdict.username == user
    assert verify_server(given_, password, verdict.info)
    assert verify_server(given_, Ha1.of(user, "sip.test", password), verdict.info)
    assert not verify_server(given_, "other", verdict.info)


def test_a_client_may_know_only_ha1() -> None:
    digest = server()
    ha1 = Ha1.of("alice", "sip.test", "wonderland")
    given_ = answer_challenge(digest.challenge(0.0), "alice", ha1, URI)
    assert isinstance(digest.check(bytes(given_), URI, 0.0), Accepted)


def test_the_servers_proof_is_for_this_answer() -> None:
    digest = server()
    given_ = credentials(digest.challenge(0.0))
    verdict = digest.check(bytes(given_), URI, 0.0)
    assert isinstance(verdict, Accepted)
    assert not verify_server(given_, "wonderland", verdict.info.replace(b"nc=00000001", b"nc=2"))
    swapped = verdict.info.replace(given_.cnonce.encode(), b"x")
    assert not verify_server(given_, "wonderland", swapped)
    with pytest.raises(AuthenticationError, match="rspauth is missing"):
        verify_server(given_, "wonderland", b"qop=auth")


@pytest.mark.parametrize(
    ("user", "password"), [("alice", "Wonderland"), ("mallory", "x"), ("", ""), ("bob", "")]
)
def test_wrong_credentials(user: str, password: str) -> None:
    digest = server()
    given_ = credentials(digest.challenge(0.0), user, password)
    assert digest.check(bytes(given_), URI, 0.0) == Refused("unknown user or wrong password")


def test_nobody_is_let_in_by_the_secret_of_unknown_users() -> None:
    digest = server(entropy=bytes)
    given_ = answer_challenge(digest.challenge(0.0), "nobody", "0" * 32, URI)
    assert digest.check(bytes(given_), URI, 0.0) == Refused("unknown user or wrong password")


def test_refusals() -> None:
    digest = server()
    challenge = digest.challenge(0.0)
    assert digest.check(b"Basic x", URI, 0.0) == Refused("no Digest authentication")
    other = Challenge("other.test", challenge.nonce)
    assert digest.check(bytes(credentials(other)), URI, 0.0) == Refused("another realm")
    elsewhere = MsrpUri.parse(b"msrp://relay.example:2856;ws")
    assert digest.check(bytes(credentials(challenge)), elsewhere, 0.0) == Refused(
        "credentials for another URI"
    )
    assert isinstance(digest.check(bytes(credentials(challenge)), URI, 0.0), Accepted)


def test_a_uri_that_is_none() -> None:
    digest = server()
    challenge = digest.challenge(0.0)
    given_ = answer_challenge(challenge, "alice", "wonderland", "nonsense")  # type: ignore[arg-type]
    assert digest.check(bytes(given_), URI, 0.0) == Refused("credentials for another URI")


def test_nonces_are_our_own() -> None:
    digest, other = server(), server()
    good = digest.challenge(0.0).nonce
    octets = base64.urlsafe_b64decode(good)
    for nonce in (
        "",
        "x",
        "é",
        "AAAA",
        good[:-4],
        base64.urlsafe_b64encode(octets[:-1] + bytes([octets[-1] ^ 1])).decode(),
        base64.urlsafe_b64encode(b"\x01" + octets[1:]).decode(),
        other.challenge(0.0).nonce,
    ):
        refused = digest.check(bytes(credentials(Challenge("sip.test", nonce))), URI, 0.0)
        assert refused == Refused("no nonce of ours")


STALE = Refused("an old nonce, or a count used before", stale=True)


def test_nonces_expire() -> None:
    digest = server(nonce_lifetime=60.0)
    challenge = digest.challenge(100.0)
    assert isinstance(digest.check(bytes(credentials(challenge)), URI, 160.0), Accepted)
    assert digest.check(bytes(credentials(challenge, count=2)), URI, 160.5) == STALE
    assert digest.check(bytes(credentials(challenge, count=3)), URI, 99.0) == STALE
    wrong = credentials(challenge, password="x")
    assert digest.check(bytes(wrong), URI, 200.0) == Refused("unknown user or wrong password")


def test_the_answer_to_stale_credentials_says_so() -> None:
    assert bytes(server().challenge(0.0, stale=True)).endswith(b', qop="auth", stale=true')


def test_counts_rise() -> None:
    digest = server()
    challenge = digest.challenge(0.0)
    first = bytes(credentials(challenge))
    assert isinstance(digest.check(first, URI, 0.0), Accepted)
    assert digest.check(first, URI, 0.0) == STALE
    assert isinstance(digest.check(bytes(credentials(challenge, count=7)), URI, 0.0), Accepted)
    assert digest.check(bytes(credentials(challenge, count=3)), URI, 0.0) == STALE
    assert digest.check(bytes(credentials(challenge, count=0)), URI, 0.0) == STALE


def test_forgotten_nonces_are_stale() -> None:
    digest = server(limits=MsrpLimits(max_used_nonces=2))
    challenges = [digest.challenge(float(at)) for at in range(4)]
    used = [bytes(credentials(challenge)) for challenge in challenges]
    for value in (used[1], used[2], used[3]):
        assert isinstance(digest.check(value, URI, 5.0), Accepted)
    # The nonce of time 1 was forgotten: neither it nor an older one is taken again.
    for value in used:
        assert digest.check(value, URI, 5.0) == STALE
    assert isinstance(digest.check(bytes(credentials(challenges[3], count=2)), URI, 5.0), Accepted)


def test_old_nonces_are_forgotten() -> None:
    digest = server(nonce_lifetime=10.0)
    for at in range(0, 1000, 5):
        given_ = bytes(credentials(digest.challenge(float(at))))
        assert isinstance(digest.check(given_, URI, float(at)), Accepted)
    assert len(digest._used) == 3


# -- properties -----------------------------------------------------------------------------------


printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"))


@given(printable, printable, printable, st.none() | printable, st.booleans())
def test_round_trips(a: str, b: str, c: str, opaque: str | None, stale: bool) -> None:
    challenge = Challenge(a, b, opaque, stale)
    assert Challenge.parse(bytes(challenge)) == challenge
    made = Credentials(a, b, c, "u", "r", "0000000a", b, opaque)
    assert Credentials.parse(bytes(made)) == made


@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    digest = server()
    for value in (noise, b"Digest " + noise, GOOD + noise):
        verdict = digest.check(value, URI, 0.0)
        assert isinstance(verdict, Refused)
        assert not verdict.stale


@given(st.data())
def test_a_changed_character_of_credentials_is_refused(data: st.DataObject) -> None:
    digest = server()
    value = bytearray(bytes(credentials(digest.challenge(0.0))))
    start = value.index(b"nonce=")
    where = data.draw(st.integers(start, len(value) - 1))
    new = data.draw(st.integers(33, 126).filter(lambda octet: octet != value[where]))
    before = bytes(value)
    value[where] = new
    try:
        if Credentials.parse(bytes(value)) == Credentials.parse(before):
            return
    except AuthenticationError:
        pass
    verdict = digest.check(bytes(value), URI, 0.0)
    # An upper-case digit of the digest is the same digit.
    assert isinstance(verdict, Refused) or bytes(value).lower() == before.lower()

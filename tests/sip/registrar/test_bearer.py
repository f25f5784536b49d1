from __future__ import annotations

import pytest

from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Denied, Later, Question, Unavailable
from wsproto_sip.auth.throttle import FailureCause, Throttle
from wsproto_sip.sip.registrar.bearer import BearerQuestion, BearerVerifier

ALICE = Identity("alice", "token")


def verify(question: BearerQuestion) -> Identity | Later | None:
    return {"abc": ALICE, "later": LATER}.get(question.token)  # type: ignore[return-value]


def verifier(**options: object) -> BearerVerifier:
    return BearerVerifier("sip.test", verify, **options)  # type: ignore[arg-type]


def test_the_challenge_names_the_authorization_server() -> None:
    assert verifier().challenge() == 'Bearer realm="sip.test"'
    assert verifier().challenge(wrong=True) == 'Bearer realm="sip.test", error="invalid_token"'
    told = verifier(authorization_server="https://login.test/oauth")
    assert told.challenge() == 'Bearer realm="sip.test", authz_server="https://login.test/oauth"'


@pytest.mark.parametrize("text", ["Bearer abc", "bearer\tabc", " BEARER abc"])
def test_a_valid_token_gives_its_user(text: str) -> None:
    server = verifier()
    found = server.find(["Digest x=y", text, "Bearer other"])
    assert found == text
    assert server.check(found, 0.0, secure=True) == ALICE


def test_other_credentials_are_passed_over() -> None:
    assert verifier().find([]) is None
    assert verifier().find(['Digest username="Bearer abc"', "Bearerabc"]) is None


@pytest.mark.parametrize("text", ["Bearer", "Bearer ", "Bearer a b", 'Bearer "abc"', "Bearer a=b"])
def test_malformed_tokens_are_denied(text: str) -> None:
    assert verifier().check(text, 0.0, secure=True) == Denied("a malformed token")


def test_unknown_long_and_insecure_tokens_are_denied() -> None:
    server = verifier(max_length=3)
    assert server.check("Bearer abd", 0.0, secure=True) == Denied("unknown token")
    assert server.check("Bearer abcd", 0.0, secure=True) == Denied("a malformed token")
    assert server.check("Bearer abc", 0.0, secure=False) == Denied("a token without TLS")
    assert verifier(require_tls=False).check("Bearer abc", 0.0, secure=False) == ALICE


def test_the_answer_may_come_later() -> None:
    pending = verifier().check("Bearer later", 0.0, secure=True)
    assert isinstance(pending, Question)
    assert pending.question == BearerQuestion("later")
    assert "later" not in repr(pending.question)
    assert pending.conclude(ALICE) == ALICE
    assert pending.conclude(None) == Denied("unknown token")
    refused = Unavailable("no answer")
    assert pending.conclude(refused) == refused.denied
    with pytest.raises(TypeError, match="the answer must be an Identity or None, not str"):
        pending.conclude("alice")


def guess(server: BearerVerifier, token: str, now: float, address: str = "192.0.2.1") -> str:
    outcome = server.check(f"Bearer {token}", now, secure=True, address=address, connection=address)
    return outcome.reason if isinstance(outcome, Denied) else "taken"


def test_guesses_are_slowed_down_as_those_at_passwords_are() -> None:
    throttle = Throttle()
    server = verifier(throttle=throttle)
    # An address and a connection may try 11 tokens at once, and one token 6 times.
    reasons = [guess(server, f"x{number}", 0.0) for number in range(12)]
    assert reasons == ["unknown token"] * 11 + ["slowed-connection: wait 1 s"]
    assert guess(server, "abc", 0.0) == "slowed-connection: wait 1 s"
    # A client elsewhere does not wait, nor does one that has shown its token before.
    assert guess(server, "abc", 0.0, "192.0.2.2") == "taken"
    for number in range(12):
        guess(server, f"x{number}", 0.0, "192.0.2.2")
    assert guess(server, "abc", 0.0, "192.0.2.2") == "taken"
    assert throttle.counts["bearer", FailureCause.WRONG] == 22
    assert guess(server, "abc", 1.0) == "taken"


def test_unverifiable_tokens_do_not_count_as_guesses() -> None:
    throttle = Throttle()
    server = BearerVerifier("sip.test", lambda question: LATER, throttle=throttle)
    for _ in range(20):
        pending = server.check("Bearer abc", 0.0, secure=True)
        assert isinstance(pending, Question)
        pending.conclude(Unavailable("down"))
    assert not throttle.counts


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"authorization_server": "http://login.test"}, "not an https URI"),
        ({"authorization_server": 'https://login.test/"'}, "not an https URI"),
        ({"max_length": 0}, "max_length must be positive: 0"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        verifier(**options)
    with pytest.raises(ValueError, match="not printable ASCII"):
        BearerVerifier('a"b', verify)

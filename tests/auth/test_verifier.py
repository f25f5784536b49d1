from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from wsproto_sip.auth import verifier as module
from wsproto_sip.auth.accounts import Account, account_lookup
from wsproto_sip.auth.digest import (
    Algorithm,
    Challenge,
    Credentials,
    answer_challenge,
    digest_ha1,
    verify_server,
)
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.nonces import Nonces
from wsproto_sip.auth.outcome import LATER, Denied, Later, Question, Unavailable
from wsproto_sip.auth.throttle import Attempt, FailureCause, Slowed, Throttle
from wsproto_sip.auth.timed import TimedAccounts, timed_credentials
from wsproto_sip.auth.verifier import AccountQuestion, DigestVerifier, Proven

MD5, SHA_256 = Algorithm.MD5, Algorithm.SHA_256
HASHED = Account(Identity("bob"), ha1={MD5: digest_ha1("bob", "calls", "builder")})
USERS: dict[str, str | Account] = {"alice": "wonderland", "bob": HASHED, "empty": ""}
WRONG = Denied("wrong name or password")
STALE = Denied("nonce too old, already used, or not ours", stale=True)


def make(**options: object) -> DigestVerifier:
    return DigestVerifier("calls", account_lookup(USERS), **options)  # type: ignore[arg-type]


def answered(
    challenge: Challenge, user: str = "alice", password: str = "wonderland", count: int = 1
) -> Credentials:
    return answer_challenge(challenge, user, password, "GET", "/ws", count=count)


def outcome_of(verifier: DigestVerifier, credentials: Credentials) -> Proven | Denied:
    outcome = verifier.check(credentials, "GET", 0.0)
    assert not isinstance(outcome, Question)
    return outcome


def test_there_is_a_challenge_for_each_algorithm() -> None:
    sha, md5 = make().challenges(0.0, stale=True, utf8=True)
    assert (sha.algorithm, md5.algorithm) == (SHA_256, MD5)
    assert sha == Challenge("calls", sha.nonce, SHA_256, stale=True, utf8=True)
    assert sha.nonce != md5.nonce
    (only,) = make(algorithms=[MD5]).challenges(0.0)
    assert only == Challenge("calls", only.nonce)


@pytest.mark.parametrize(
    ("user", "password"), [("alice", "wonderland"), ("bob", "builder"), ("empty", "")]
)
def test_right_password_gives_the_identity(user: str, password: str) -> None:
    verifier = make(algorithms=[MD5])
    (challenge,) = verifier.challenges(0.0)
    credentials = answered(challenge, user, password)
    outcome = outcome_of(verifier, credentials)
    assert isinstance(outcome, Proven)
    assert outcome.identity == Identity(user, "digest")
    assert verify_server(credentials, password, outcome.info)
    assert outcome.ha1 not in repr(outcome)


def test_method_of_an_account_is_kept_if_it_has_one() -> None:
    staff = Account(Identity("alice@example.com", "directory"), "wonderland")
    verifier = DigestVerifier("calls", {"alice": staff}.get)
    outcome = outcome_of(verifier, answered(verifier.challenges(0.0)[0]))
    assert isinstance(outcome, Proven)
    assert outcome.identity == staff.identity


@pytest.mark.parametrize(
    ("user", "password"),
    [("alice", "Wonderland"), ("alice", ""), ("mallory", "x"), ("bob", ""), ("empty", " ")],
)
def test_wrong_password_and_unknown_name_get_the_same_answer(user: str, password: str) -> None:
    verifier = make()
    for challenge in verifier.challenges(0.0):
        assert outcome_of(verifier, answered(challenge, user, password)) == WRONG


def test_hash_of_another_algorithm_does_not_help() -> None:
    verifier = make()
    sha, _ = verifier.challenges(0.0)
    assert outcome_of(verifier, answered(sha, "bob", "builder")) == WRONG


def test_account_without_a_secret_is_denied() -> None:
    verifier = DigestVerifier("calls", lambda name: Account(Identity(name)), entropy=bytes)
    challenge = verifier.challenges(0.0)[0]
    # The password that credentials of unknown users are compared with.
    assert outcome_of(verifier, answered(challenge, password="0" * 32)) == WRONG
    unknown = DigestVerifier("calls", lambda name: None, entropy=bytes)
    challenge = unknown.challenges(0.0)[0]
    assert outcome_of(unknown, answered(challenge, password="0" * 32)) == WRONG


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"realm": "others"}, "credentials for another realm"),
        ({"algorithm": Algorithm.SHA_512_256}, "algorithm SHA-512-256 is not offered"),
        ({"nc": None}, "credentials without qop"),
    ],
)
def test_unoffered_credentials_are_denied(changes: dict[str, object], reason: str) -> None:
    verifier = make()
    credentials = answered(verifier.challenges(0.0)[0])
    assert outcome_of(verifier, replace(credentials, **changes)) == Denied(reason)  # type: ignore[arg-type]


def test_credentials_are_accepted_once_and_counts_rise() -> None:
    verifier = make()
    challenge = verifier.challenges(0.0)[0]
    first = answered(challenge)
    assert isinstance(outcome_of(verifier, first), Proven)
    assert outcome_of(verifier, first) == STALE
    assert isinstance(outcome_of(verifier, answered(challenge, count=7)), Proven)
    assert outcome_of(verifier, answered(challenge, count=3)) == STALE


def test_only_a_client_that_knows_the_password_learns_that_its_nonce_is_stale() -> None:
    verifier = make(nonces=Nonces(lifetime=60.0))
    challenge = verifier.challenges(0.0)[0]
    assert verifier.check(answered(challenge), "GET", 61.0) == STALE
    assert verifier.check(answered(challenge, password="x"), "GET", 61.0) == WRONG
    for nonce in ("", "é", challenge.nonce[:-1], make().challenges(0.0)[0].nonce):
        assert outcome_of(verifier, answered(replace(challenge, nonce=nonce))) == STALE


def test_answers_are_known_by_their_nonce() -> None:
    verifier = make()
    nonce = verifier.challenges(0.0)[0].nonce
    assert verifier.is_answered(f'Digest nonce="{nonce}"')
    # The escapes of a quoted string do not change what it is.
    assert verifier.is_answered(f'Digest realm="x, nonce="\\{nonce[:9]}\\{nonce[9:]}"')
    assert not verifier.is_answered(f'Digest nonce="{make().challenges(0.0)[0].nonce}"')


def test_method_is_part_of_the_proof() -> None:
    verifier = make()
    assert verifier.check(answered(verifier.challenges(0.0)[0]), "CONNECT", 0.0) == WRONG


def test_account_may_come_later() -> None:
    verifier = DigestVerifier("calls", lambda name: LATER)
    credentials = answered(verifier.challenges(0.0)[0])
    pending = verifier.check(credentials, "GET", 0.0)
    assert isinstance(pending, Question)
    assert pending.question == AccountQuestion("alice", "calls", "alice")
    assert pending.conclude(None) == WRONG
    account = Account(Identity("alice"), "wonderland")
    assert isinstance(pending.conclude(account), Proven)
    assert pending.conclude(account) == STALE
    with pytest.raises(TypeError, match="the answer must be an Account or None, not str"):
        pending.conclude("wonderland")


def test_question_has_the_name_as_received() -> None:
    asked: list[str] = []

    def lookup(name: str) -> Account | Later | None:
        asked.append(name)
        return None if name == "mallory@example.com" else LATER

    def name_of(name: str) -> str:
        return name.removesuffix("@example.com")

    verifier = DigestVerifier("calls", lookup, account_name=name_of)
    challenge = verifier.challenges(0.0)[0]
    pending = verifier.check(answered(challenge, "alice@example.com"), "GET", 0.0)
    assert isinstance(pending, Question)
    assert pending.question == AccountQuestion("alice@example.com", "calls", "alice")
    assert verifier.check(answered(challenge, "mallory@example.com"), "GET", 0.0) == WRONG
    assert asked == ["alice@example.com", "mallory@example.com"]


def test_unavailable_account_does_not_count_as_a_guess() -> None:
    throttle = Throttle()
    verifier = DigestVerifier("calls", lambda name: LATER, throttle=throttle)
    challenge = verifier.challenges(0.0)[0]
    for _ in range(20):
        pending = verifier.check(answered(challenge, password="guess"), "GET", 0.0)
        assert isinstance(pending, Question)
        denied = Denied("no database", retry_after=9, unavailable=True)
        assert pending.conclude(Unavailable("no database", 9)) == denied
    assert not throttle.counts


def test_users_may_be_replaced() -> None:
    verifier = make()
    verifier.users = {"alice": "looking-glass"}
    assert verifier.users == {"alice": "looking-glass"}
    challenge = verifier.challenges(0.0)[0]
    assert outcome_of(verifier, answered(challenge)) == WRONG
    assert isinstance(outcome_of(verifier, answered(challenge, password="looking-glass")), Proven)


def test_only_what_all_users_have_a_hash_for_is_offered() -> None:
    verifier = DigestVerifier("calls", USERS)
    (only,) = verifier.challenges(0.0)
    assert only.algorithm is MD5
    assert isinstance(outcome_of(verifier, answered(only, "bob", "builder")), Proven)
    carol = Account(Identity("carol"), ha1={SHA_256: "0" * 64})
    verifier.users = {"carol": carol}
    assert [item.algorithm for item in verifier.challenges(0.0)] == [SHA_256]
    # No algorithm suits all: users with one hash can use that one.
    verifier.users = {"carol": carol, "bob": HASHED}
    assert [item.algorithm for item in verifier.challenges(0.0)] == [SHA_256, MD5]


def test_expiring_credentials_are_accepted_in_addition() -> None:
    secret = b"a secret of sixteen bytes"
    timed = TimedAccounts(secret, lambda: 1000.0)
    verifier = DigestVerifier("calls", {"alice": "wonderland"}, timed=timed)
    for name, password in (("alice", "wonderland"), timed_credentials(secret, "carol", 1001)):
        credentials = answered(verifier.challenges(0.0)[0], name, password)
        outcome = outcome_of(verifier, credentials)
        assert isinstance(outcome, Proven)
        assert outcome.identity == Identity(name.rpartition(":")[2], "digest")
    name, password = timed_credentials(secret, "alice", 1000)
    assert outcome_of(verifier, answered(verifier.challenges(0.0)[0], name, password)) == WRONG


def test_names_in_several_forms_are_one_user_and_count_as_one() -> None:
    users = {"alice": "wonderland", "bob@calls": "builder"}
    throttle = Throttle()
    verifier = DigestVerifier(
        "calls", users, account_name=lambda name: name.partition("@")[0], throttle=throttle
    )
    challenge = verifier.challenges(0.0)[0]
    for user, password in (("alice", "wonderland"), ("alice@calls", "wonderland")):
        challenge = verifier.challenges(0.0)[0]
        outcome = outcome_of(verifier, answered(challenge, user, password))
        assert isinstance(outcome, Proven)
        assert outcome.identity == Identity("alice", "digest")
    challenge = verifier.challenges(0.0)[0]
    outcome = outcome_of(verifier, answered(challenge, "bob@calls", "builder"))
    assert isinstance(outcome, Proven)
    assert outcome.identity == Identity("bob", "digest")
    for number in range(6):
        assert outcome_of(verifier, answered(challenge, f"dave@{number}", "x")) == WRONG
    assert isinstance(throttle.admit(Attempt("", "", "dave"), 0.0), Slowed)


@pytest.mark.parametrize("user", ["alice", "bob", "mallory"])
def test_work_is_the_same_for_every_name(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    done: list[str] = []

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            done.append(name)
            return function(*args, **options)

        return call

    for name in ("digest_ha1", "verify_response"):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    verifier = make(algorithms=[MD5])
    credentials = answered(verifier.challenges(0.0)[0], user, "guess")
    assert outcome_of(verifier, credentials) == WRONG
    assert done == ["digest_ha1", "verify_response"]


def test_guesses_are_slowed_down_and_the_lookup_spared() -> None:
    asked: list[str] = []

    def lookup(name: str) -> Account | None:
        asked.append(name)
        return None

    throttle = Throttle()
    verifier = DigestVerifier("calls", lookup, throttle=throttle, service="test")
    challenge = verifier.challenges(0.0)[0]
    outcomes = [
        verifier.check(answered(challenge), "GET", 0.0, address="192.0.2.1") for _ in range(8)
    ]
    assert outcomes[5:] == [WRONG, *[Denied("slowed-pair: wait 1 s", retry_after=1)] * 2]
    assert asked == ["alice"] * 6
    assert throttle.counts == {("test", FailureCause.WRONG): 6, ("test", FailureCause.PAIR): 2}
    elsewhere = verifier.check(answered(challenge), "GET", 0.0, address="192.0.2.2")
    assert elsewhere == WRONG


def test_authenticated_user_is_not_slowed_down_on_the_connection() -> None:
    verifier = make()
    challenge = verifier.challenges(0.0)[0]
    for _ in range(6):
        outcome_of(verifier, answered(challenge, password="guess"))
    right = answered(challenge)
    assert isinstance(outcome_of(verifier, right), Denied)
    assert isinstance(verifier.check(right, "GET", 0.0, proven={"alice"}), Proven)


def test_other_refusals_do_not_count_as_guesses() -> None:
    verifier = make()
    challenge = verifier.challenges(0.0)[0]
    used = answered(challenge)
    assert isinstance(outcome_of(verifier, used), Proven)
    assert [outcome_of(verifier, used) for _ in range(50)] == [STALE] * 50


def test_lookup_that_fails_is_not_held_against_the_user() -> None:
    fails = [True]

    def lookup(name: str) -> Account | None:
        if fails:
            raise OSError("no database")
        return Account(Identity(name), "wonderland")

    verifier = DigestVerifier("calls", lookup)
    credentials = answered(verifier.challenges(0.0)[0])
    for _ in range(50):
        with pytest.raises(OSError, match="no database"):
            verifier.check(credentials, "GET", 0.0)
    fails.clear()
    assert isinstance(outcome_of(verifier, credentials), Proven)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one algorithm"):
        make(algorithms=[])
    with pytest.raises(ValueError, match="not printable ASCII"):
        DigestVerifier("a\r\nb", account_lookup({}))

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.digest import answer_challenge
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.throttle import Attempt, Slowed, Throttle
from wsproto_sip.auth.timed import TimedAccounts, timed_credentials
from wsproto_sip.auth.verifier import DigestVerifier, Proven

SECRET = b"sixteen bytes, yes"
NOW = 1_800_000_000


def verifier(throttle: Throttle | None = None) -> DigestVerifier:
    timed = TimedAccounts(SECRET, lambda: float(NOW))
    return DigestVerifier("calls", {"bob": "builder"}, timed=timed, throttle=throttle)


def check(server: DigestVerifier, name: str, password: str) -> Identity | None:
    credentials = answer_challenge(server.challenges(0.0)[0], name, password, "GET", "/")
    outcome = server.check(credentials, "GET", 0.0)
    return outcome.identity if isinstance(outcome, Proven) else None


def test_password_is_the_one_of_turn_servers() -> None:
    # printf %s 1433895918:alice | openssl dgst -sha1 -hmac north-of-the-wall -binary | base64
    assert timed_credentials(b"north-of-the-wall", "alice", 1433895918) == (
        "1433895918:alice",
        "gJY4Ms+ceA5GEcAofMuKbccKGvQ=",
    )


def test_credentials_are_valid_until_they_expire() -> None:
    server = verifier()
    assert check(server, *timed_credentials(SECRET, "alice", NOW + 1)) == Identity(
        "alice", "digest"
    )
    assert check(server, *timed_credentials(SECRET, "alice", NOW)) is None
    assert check(server, "bob", "builder") == Identity("bob", "digest")


def test_changed_time_or_user_is_refused() -> None:
    server = verifier()
    _, password = timed_credentials(SECRET, "alice", NOW + 1)
    for name in (f"{NOW + 2}:alice", f"{NOW + 1}:bob", "alice", f"{NOW + 1}:", f":{NOW + 1}"):
        assert check(server, name, password) is None
    _, other = timed_credentials(b"another secret of ours", "alice", NOW + 1)
    assert check(server, f"{NOW + 1}:alice", other) is None


def test_guesses_with_other_times_count_for_one_user() -> None:
    throttle = Throttle()
    server = verifier(throttle)
    for number in range(6):
        assert check(server, f"{NOW + number}:alice", "guess") is None
    assert isinstance(throttle.admit(Attempt("", "", "alice", secret="timed"), 0.0), Slowed)


def test_login_that_expires_forgives_no_guesses_at_the_password() -> None:
    throttle = Throttle()
    server = verifier(throttle)
    for _ in range(6):
        assert check(server, *timed_credentials(SECRET, "bob", NOW + 1)) == Identity(
            "bob", "digest"
        )
        assert check(server, "bob", "guess") is None
    # Even the right password has to wait now.
    assert check(server, "bob", "builder") is None


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{1,14}:.{0,9}", fullmatch=True))
def test_any_name_has_an_account_or_none(name: str) -> None:
    account = TimedAccounts(SECRET, lambda: float(NOW))(name)
    assert account is None or int(name.partition(":")[0]) > NOW


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        TimedAccounts(b"x" * 15, float)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        timed_credentials(b"x" * 15, "alice", NOW)
    for user, expires in (("", NOW), ("a\nb", NOW), ("alice", -1), ("alice", 10**12)):
        with pytest.raises(ValueError, match="not a time and a user"):
            timed_credentials(SECRET, user, expires)


def test_name_that_cannot_be_written_in_utf8_has_no_account() -> None:
    assert TimedAccounts(SECRET, float)("5:\ud800") is None

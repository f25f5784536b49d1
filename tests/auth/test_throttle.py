"""Guessing, in simulated time: what attackers achieve, and how it affects other users."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.outcome import Denied
from wsproto_sip.auth.throttle import (
    Attempt,
    Failure,
    FailureCause,
    Slowdown,
    Slowed,
    Throttle,
    ThrottleConfig,
    Ticket,
    network_of,
)

HOUR = 3600
ALICE = Attempt("sip", "192.0.2.1", "alice", connection=1)
EVE = Attempt("sip", "203.0.113.9", "alice", connection=2)


def fail(throttle: Throttle, attempt: Attempt, now: float) -> bool:
    """Try a wrong password; return whether it was checked."""
    outcome = throttle.admit(attempt, now)
    if isinstance(outcome, Slowed):
        return False
    outcome.failed()
    return True


def log_in(throttle: Throttle, attempt: Attempt, now: float) -> bool:
    """Try the right password; return whether it was checked."""
    outcome = throttle.admit(attempt, now)
    if isinstance(outcome, Slowed):
        return False
    outcome.succeeded()
    return True


def looked_at(throttle: Throttle, attempts: list[Attempt], *, seconds: int, rate: int) -> int:
    """Attack with these attempts in turn; return how many guesses were checked."""
    seen = 0
    for number in range(seconds * rate):
        seen += fail(throttle, attempts[number % len(attempts)], number / rate)
    return seen


# -- the attacks -----------------------------------------------------------------------------------


def test_one_connection_gets_25_guesses_at_a_user_in_an_hour() -> None:
    # 2,015 a second were answered before.
    assert looked_at(Throttle(), [EVE], seconds=HOUR, rate=20) == 25


def test_new_connections_give_no_more_guesses() -> None:
    fresh = [replace(EVE, connection=number) for number in range(999)]
    assert looked_at(Throttle(), fresh, seconds=HOUR, rate=20) == 25


def test_other_services_give_no_more_guesses() -> None:
    others = [replace(EVE, service=service) for service in ("basic", "digest", "sip", "msrp")]
    assert looked_at(Throttle(), others, seconds=HOUR, rate=20) == 25


def test_one_address_gets_86_guesses_at_all_users_in_an_hour() -> None:
    names = [replace(EVE, username=f"user{number}", connection=None) for number in range(997)]
    assert looked_at(Throttle(), names, seconds=HOUR, rate=20) == 86


def test_one_connection_is_slowed_down_even_if_its_address_is_not_known() -> None:
    # All clients of a proxy that does not reveal addresses: the connection distinguishes them.
    throttle = Throttle(ThrottleConfig(address=Slowdown(free=10**9, longest=1.0, forgive=1.0)))
    names = [replace(EVE, address="", username=f"user{number}") for number in range(997)]
    assert looked_at(throttle, names, seconds=HOUR, rate=20) == 30


def test_network_of_ipv6_is_one_address() -> None:
    hosts = [replace(EVE, address=f"2001:db8::{number:x}", connection=None) for number in range(99)]
    assert looked_at(Throttle(), hosts, seconds=HOUR, rate=20) == 25


def test_many_addresses_get_one_guess_each_in_half_a_minute() -> None:
    many = [replace(EVE, address=f"10.0.0.{number}", connection=None) for number in range(200)]
    seen = looked_at(Throttle(), many, seconds=300, rate=200)
    # 51 at once, and then one each in up to 30 s; 60,000 were made.
    assert seen < 51 + 200 * 300 / 25


def test_forms_of_a_name_count_as_one_user() -> None:
    forms = ["alice", "Alice", "ALICE", "al\xedce", "alice ", "\uff41lice"]
    many = [
        replace(EVE, address=f"10.0.0.{number}", username=forms[number % 6], connection=None)
        for number in range(200)
    ]
    assert looked_at(Throttle(), many, seconds=300, rate=200) < 51 + 200 * 300 / 25


def test_login_under_one_form_of_a_name_forgives_no_guesses_at_another() -> None:
    throttle = Throttle()
    seen = 0
    for number in range(HOUR):
        log_in(throttle, replace(EVE, username="Alice", connection=None), number)
        seen += fail(throttle, replace(EVE, connection=None), number)
    assert seen == 25


# -- the attacked ----------------------------------------------------------------------------------


def test_user_elsewhere_is_not_locked_out_by_one_attacker() -> None:
    throttle = Throttle()
    looked_at(throttle, [EVE], seconds=HOUR, rate=20)
    assert log_in(throttle, ALICE, HOUR)


def under_attack(throttle: Throttle, seconds: int = 60) -> None:
    many = [replace(EVE, address=f"10.1.0.{number}", connection=None) for number in range(250)]
    looked_at(throttle, many, seconds=seconds, rate=250)


def test_known_address_is_not_slowed_down_by_an_attack_of_many() -> None:
    throttle = Throttle()
    assert log_in(throttle, ALICE, 0.0)
    under_attack(throttle)
    assert log_in(throttle, replace(ALICE, connection=7), 60.0)
    assert throttle.admit(replace(ALICE, address="192.0.2.2"), 60.0) == Slowed(
        FailureCause.USER, 30.0
    )


def test_unknown_address_waits_for_itself_alone() -> None:
    throttle = Throttle()
    under_attack(throttle)
    slowed = throttle.admit(ALICE, 60.0)
    assert isinstance(slowed, Slowed)
    assert slowed.denied == Denied("slowed-user: wait 30 s", retry_after=30)
    # The attack continues, but does not make the wait longer.
    for number in range(3000):
        fail(throttle, replace(EVE, address=f"10.1.0.{number % 250}"), 60.0 + number / 100)
    assert not log_in(throttle, ALICE, 89.9)
    assert log_in(throttle, ALICE, 90.0)
    assert log_in(throttle, ALICE, 90.1)


def test_mistake_under_attack_costs_another_wait() -> None:
    throttle = Throttle()
    under_attack(throttle)
    throttle.admit(ALICE, 60.0)
    assert fail(throttle, ALICE, 90.0)
    under_attack(throttle, seconds=1)
    assert throttle.admit(ALICE, 95.0) == Slowed(FailureCause.USER, 25.0)
    assert log_in(throttle, ALICE, 120.0)


def test_known_users_of_an_attackers_address_are_not_slowed_down() -> None:
    throttle = Throttle()
    bob = replace(EVE, username="bob", connection=5)
    assert log_in(throttle, bob, 0.0)
    names = [replace(EVE, username=f"u{number}", connection=None) for number in range(997)]
    looked_at(throttle, names, seconds=HOUR, rate=20)
    assert log_in(throttle, replace(bob, connection=6), HOUR)
    # Users who have never logged in from there have to wait.
    guesser = replace(EVE, username="dave", connection=None)
    now = next(HOUR + second for second in range(61) if fail(throttle, guesser, HOUR + second))
    unknown = throttle.admit(replace(EVE, username="carol", connection=7), now)
    assert unknown == Slowed(FailureCause.ADDRESS, 60.0)
    assert log_in(throttle, replace(EVE, username="carol", connection=7), now + 60.0)


def test_connection_on_which_the_user_has_logged_in_gives_25_guesses_in_an_hour() -> None:
    # What opened it may have been a token, which must not lead to the password.
    throttle = Throttle()
    fresh = [replace(EVE, connection=number, proven=True) for number in range(999)]
    assert looked_at(throttle, fresh, seconds=HOUR, rate=20) == 25
    assert isinstance(throttle.admit(fresh[0], HOUR - 1.0), Slowed)
    # The connection of the user at another address is not affected.
    assert log_in(throttle, replace(ALICE, proven=True), HOUR)


def test_users_who_have_logged_in_can_make_many_attempts_at_a_time() -> None:
    throttle = Throttle()
    tickets = [throttle.admit(replace(ALICE, proven=True), 0.0) for _ in range(100)]
    for ticket in tickets:
        assert isinstance(ticket, Ticket)
        ticket.succeeded()
    assert len(throttle) == 1


def test_success_with_another_secret_forgives_no_guesses() -> None:
    throttle = Throttle()
    seen = 0
    for number in range(HOUR):
        assert log_in(throttle, replace(EVE, secret="timed", connection=None), number)
        seen += fail(throttle, replace(EVE, connection=None), number)
    assert seen == 25


def test_connection_on_which_the_user_has_logged_in_is_not_slowed_down_by_others() -> None:
    throttle = Throttle()
    # Another client with the same address guesses at the same user.
    looked_at(throttle, [EVE], seconds=60, rate=20)
    again = replace(EVE, connection=3, proven=True)
    assert not log_in(throttle, replace(again, proven=False), 60.0)
    assert log_in(throttle, again, 60.0)


def test_forgotten_password_costs_seconds() -> None:
    throttle = Throttle()
    now, waits = 0.0, []
    for _ in range(8):
        outcome = throttle.admit(ALICE, now)
        if isinstance(outcome, Slowed):
            waits.append(outcome.wait)
            now += outcome.wait
            outcome = throttle.admit(ALICE, now)
        assert isinstance(outcome, Ticket)
        outcome.failed()
    assert waits == [1.0, 2.0]
    assert log_in(throttle, ALICE, now + 4.0)
    # All failures are forgiven.
    assert [fail(throttle, ALICE, now + 5.0) for _ in range(7)] == [True] * 6 + [False]


def test_failures_are_forgiven_after_a_while() -> None:
    throttle = Throttle()
    for _ in range(6):
        assert fail(throttle, ALICE, 0.0)
    assert not fail(throttle, ALICE, 0.5)
    # One in ten minutes.
    assert fail(throttle, ALICE, 1200.0)
    assert fail(throttle, ALICE, 1200.0)
    assert not fail(throttle, ALICE, 1200.0)


# -- how an attempt ends ---------------------------------------------------------------------------


def test_attempts_that_are_not_answered_yet_count_too() -> None:
    throttle = Throttle()
    tickets = [throttle.admit(ALICE, 0.0) for _ in range(7)]
    assert isinstance(tickets[5], Ticket)
    assert isinstance(tickets[6], Slowed)
    tickets[5].succeeded()
    assert log_in(throttle, ALICE, 0.0)


def test_withdrawn_attempt_does_not_count_and_proves_nothing() -> None:
    throttle = Throttle()
    for _ in range(100):
        ticket = throttle.admit(ALICE, 0.0)
        assert isinstance(ticket, Ticket)
        ticket.withdrawn()
    under_attack(throttle)
    assert isinstance(throttle.admit(replace(ALICE, address="192.0.2.3"), 60.0), Slowed)


def test_exception_withdraws_the_attempt() -> None:
    throttle = Throttle()
    for _ in range(100):
        ticket = throttle.admit(ALICE, 0.0)
        assert isinstance(ticket, Ticket)
        with pytest.raises(OSError, match="no database"), ticket:
            raise OSError("no database")
    assert throttle.counts == {}
    ticket = throttle.admit(ALICE, 0.0)
    assert isinstance(ticket, Ticket)
    with ticket:
        pass
    ticket.failed()
    assert throttle.counts == {("sip", FailureCause.WRONG): 1}


def test_only_the_first_report_counts() -> None:
    throttle = Throttle()
    ticket = throttle.admit(ALICE, 0.0)
    assert isinstance(ticket, Ticket)
    ticket.failed()
    ticket.failed()
    ticket.succeeded()
    ticket.withdrawn()
    assert throttle.counts == {("sip", FailureCause.WRONG): 1}
    assert [fail(throttle, ALICE, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_success_keeps_concurrent_failures() -> None:
    throttle = Throttle()
    for number in range(20):
        fail(throttle, replace(EVE, username=f"user{number}", connection=None), 0.0)
    mine = throttle.admit(replace(EVE, username="mallory", connection=None), 0.0)
    assert isinstance(mine, Ticket)
    assert fail(throttle, replace(EVE, connection=None), 1.0)
    closed = throttle.admit(replace(EVE, username="bob", connection=None), 1.0)
    mine.succeeded()
    assert closed == throttle.admit(replace(EVE, username="bob", connection=None), 1.0)


# -- what is told ----------------------------------------------------------------------------------


def test_each_guess_is_reported_and_each_delay_once() -> None:
    told: list[Failure] = []
    throttle = Throttle(report=told.append)
    assert looked_at(throttle, [EVE], seconds=4, rate=1000) == 8
    causes = [
        *[FailureCause.WRONG] * 6,
        *[FailureCause.PAIR, FailureCause.WRONG] * 2,
        FailureCause.PAIR,
    ]
    assert [failure.cause for failure in told] == causes
    assert {failure.attempt for failure in told} == {EVE}
    assert [round(failure.wait) for failure in told if failure.wait] == [1, 2, 4]
    assert throttle.counts == {("sip", FailureCause.WRONG): 8, ("sip", FailureCause.PAIR): 3992}


def test_failure_that_is_noted_slows_nothing_down() -> None:
    told: list[Failure] = []
    throttle = Throttle(report=told.append)
    for _ in range(100):
        throttle.note(EVE)
    assert told == [Failure(EVE, FailureCause.WRONG)] * 100
    assert throttle.counts == {("sip", FailureCause.WRONG): 100}
    assert len(throttle) == 0


# -- bounds ----------------------------------------------------------------------------------------


def test_memory_is_bounded() -> None:
    throttle = Throttle(ThrottleConfig(max_entries=100))
    for number in range(2000):
        attempt = Attempt("sip", f"10.0.{number // 250}.{number % 250}", f"u{number}", number)
        (log_in if number % 2 else fail)(throttle, attempt, float(number))
        assert len(throttle) <= 500


def test_places_with_most_failures_are_remembered_longest() -> None:
    throttle = Throttle(ThrottleConfig(max_entries=100))
    for _ in range(10):
        fail(throttle, EVE, 0.0)
    for number in range(1000):
        fail(throttle, Attempt("sip", f"10.0.{number // 250}.{number % 250}", f"u{number}"), 0.0)
    assert not fail(throttle, EVE, 0.0)


def test_latest_logins_are_remembered_longest() -> None:
    throttle = Throttle(ThrottleConfig(max_entries=2))
    bob, carol = replace(ALICE, username="bob"), replace(ALICE, username="carol")
    for attempt in (ALICE, bob, ALICE, carol):
        assert log_in(throttle, attempt, 0.0)
    for number in range(40):
        fail(throttle, replace(ALICE, username=f"u{number}", connection=None), 0.0)
    assert [log_in(throttle, one, 0.0) for one in (ALICE, bob, carol)] == [True, False, True]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.floats(0, 100)),
        max_size=60,
    )
)
def test_attempt_after_the_delay_is_checked(steps: list[tuple[int, int, bool, float]]) -> None:
    throttle = Throttle(ThrottleConfig(user=Slowdown(free=2, longest=8.0, forgive=60.0)))
    now = 0.0
    for address, user, right, pause in steps:
        now += pause
        attempt = Attempt("sip", f"10.0.0.{address}", f"user{user}")
        outcome = throttle.admit(attempt, now)
        if isinstance(outcome, Slowed):
            assert 0 < outcome.wait <= 300.0
            # No other attempt is made meanwhile.
            now += outcome.wait
            outcome = throttle.admit(attempt, now)
            assert isinstance(outcome, Ticket)
        if right:
            outcome.succeeded()
        else:
            outcome.failed()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_address_counts_by_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_bad_arguments_are_refused() -> None:
    for values in ((0, 1.0, 1.0), (1, 0.0, 1.0), (1, 1.0, -1.0), (1, float("nan"), 1.0)):
        with pytest.raises(ValueError, match="must be positive"):
            Slowdown(*values)
    with pytest.raises(ValueError, match="max_entries must be positive: 0"):
        ThrottleConfig(max_entries=0)


def test_pseudonyms_do_not_reveal_the_secret() -> None:
    throttle = Throttle(entropy=bytes)
    name = throttle.pseudonym("secret")
    assert name == throttle.pseudonym("secret")
    assert len(name) == 16
    assert name != throttle.pseudonym("Secret")
    assert name != Throttle().pseudonym("secret")
    assert throttle.pseudonym("\udcff") != throttle.pseudonym("\udcfe")

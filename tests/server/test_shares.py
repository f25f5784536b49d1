"""Shares: what is left for others, whatever a party tries to take."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.shares import Bound, Claim, Pace, Party, ShareConfig, Shares, Standing

EVE = Party.stranger("203.0.113.9")


def take_all(shares: Shares, *parties: Party) -> list[int]:
    """Let parties claim in turn until each is refused; return what each has got."""
    got = [0] * len(parties)
    while True:
        before = list(got)
        for index, party in enumerate(parties):
            got[index] += isinstance(shares.claim(party), Claim)
        if got == before:
            return got


@pytest.mark.parametrize(
    "options",
    [
        {"total": 0},
        {"total": 10, "reserve": -1},
        {"total": 10, "reserve": 10},
        {"total": 10, "per_connection": 0},
        {"total": 10, "per_address": 0},
        {"total": 10, "per_user": -1},
    ],
)
def test_invalid_limits_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"positive|reserve"):
        ShareConfig(**options)


def test_quarter_is_kept_for_users_by_default() -> None:
    assert ShareConfig(10_000).for_strangers == 7_500
    assert ShareConfig(10_000, reserve=0).for_strangers == 10_000


def test_one_address_that_takes_all_it_can_leaves_half_to_other_strangers() -> None:
    shares = Shares(ShareConfig(10_000))
    assert take_all(shares, EVE) == [3_750]
    assert shares.claim(EVE) is Bound.ADDRESS
    assert take_all(shares, Party.stranger("192.0.2.1")) == [1_875]
    assert shares.refused == {Bound.ADDRESS: 3}


def test_addresses_that_want_everything_share_it_evenly() -> None:
    shares = Shares(ShareConfig(10_000, reserve=0))
    parties = [Party.stranger(f"192.0.2.{number}") for number in range(99)]
    assert take_all(shares, *parties) == [100] * 99
    # The next one finds something left.
    assert isinstance(shares.claim(EVE), Claim)


def test_strangers_together_leave_the_reserve_to_users() -> None:
    shares = Shares(ShareConfig(1_000))
    take_all(shares, *[Party.stranger(f"192.0.{a}.{b}") for a in range(8) for b in range(250)])
    assert shares.claim(EVE) is Bound.ALL
    assert shares.held == 750
    assert take_all(shares, Party.user("alice")) == [125]
    assert shares.claim(Party.user("alice")) is Bound.USER


def test_greedy_user_leaves_some_to_the_next_one() -> None:
    shares = Shares(ShareConfig(1_000))
    assert take_all(shares, Party.user("alice", 1)) == [500]
    assert take_all(shares, Party.user("bob")) == [250]
    # Strangers get no more than users have left.
    assert take_all(shares, EVE) == [125]


def test_one_connection_leaves_some_to_others_of_its_address() -> None:
    shares = Shares(ShareConfig(1_000, reserve=0))
    first, second = (Party.stranger("192.0.2.1", number) for number in (1, 2))
    assert take_all(shares, first) == [250]
    assert shares.claim(first) is Bound.CONNECTION
    assert isinstance(shares.claim(second), Claim)


def test_hundred_connections_of_an_address_get_no_more_than_the_address() -> None:
    shares = Shares(ShareConfig(10_000))
    got = take_all(shares, *[Party.stranger("192.0.2.1", number) for number in range(100)])
    assert sum(got) <= 3_750
    assert max(got) - min(got) <= 1


def test_addresses_of_one_ipv6_network_are_one() -> None:
    shares = Shares(ShareConfig(100, reserve=0, per_address=1))
    assert isinstance(shares.claim(Party.stranger("2001:db8::1")), Claim)
    assert shares.claim(Party.stranger("2001:db8::2")) is Bound.ADDRESS
    assert isinstance(shares.claim(Party.stranger("2001:db8:0:1::1")), Claim)


def test_explicit_limits_apply_though_more_is_free() -> None:
    config = ShareConfig(1_000, per_connection=2, per_address=3, per_user=5)
    shares = Shares(config)
    strangers = [Party.stranger("192.0.2.1", number) for number in (1, 2)]
    assert take_all(shares, *strangers) == [2, 1]
    assert take_all(shares, Party.user("a", 1), Party.user("a", 2), Party.user("a", 3)) == [2, 2, 1]


def test_upstream_may_hold_more_than_a_user_but_not_all() -> None:
    shares = Shares(ShareConfig(1_000))
    assert take_all(shares, Party.trusted("core")) == [750]
    assert shares.claim(Party.trusted("core")) is Bound.ALL
    assert isinstance(shares.claim(Party.user("alice")), Claim)


def test_single_unit_goes_to_the_first_claim() -> None:
    shares = Shares(ShareConfig(1, reserve=0))
    claim = shares.claim(Party.stranger("192.0.2.1", 1))
    assert isinstance(claim, Claim)
    assert shares.claim(EVE) is Bound.ALL
    claim.release()
    claim.release()
    assert (shares.held, len(shares)) == (0, 0)
    assert isinstance(shares.claim(EVE), Claim)


def test_nothing_is_granted_where_nothing_is_left() -> None:
    shares = Shares(ShareConfig(1, reserve=0))
    shares.claim(EVE)
    claim = shares.claim(EVE, 0)
    assert isinstance(claim, Claim)
    claim.release()
    assert shares.held == 1


def test_part_of_a_claim_is_released() -> None:
    shares = Shares(ShareConfig(20))
    party = Party.user("alice", 1)
    claim = shares.claim(party, 5)
    assert isinstance(claim, Claim)
    assert [claim.reduce(amount) for amount in (2, 0, 9, 1)] == [2, 0, 3, 0]
    claim.release()
    assert (shares.held, len(shares)) == (0, 0)


PARTIES = [
    *[Party.stranger(f"192.0.2.{address}", number) for address in (1, 2) for number in (1, 2)],
    *[Party.user(name, number) for name in "ab" for number in (1, 2)],
    Party.trusted("core"),
]


@given(st.lists(st.tuples(st.sampled_from(PARTIES), st.integers(1, 40), st.booleans())))
def test_sums_are_correct_and_no_party_holds_all(steps: list[tuple[Party, int, bool]]) -> None:
    shares = Shares(ShareConfig(100))
    held: list[tuple[Party, int, Claim]] = []
    for party, amount, release in steps:
        if release and held:
            held.pop(amount % len(held))[2].release()
        elif isinstance(claim := shares.claim(party, amount), Claim):
            held.append((party, amount, claim))
        assert shares.held == sum(amount for _, amount, _ in held) <= 100
        strangers = sum(n for party, n, _ in held if party.standing is Standing.STRANGER)
        assert strangers <= 75
        for group in {(party.standing, party.group) for party, _, _ in held}:
            most = 75 if group[0] is Standing.TRUSTED else 50
            assert sum(n for p, n, _ in held if (p.standing, p.group) == group) <= most
    for _, _, claim in held:
        claim.release()
    assert (shares.held, len(shares)) == (0, 0)


def test_pace_limits_the_rate_per_second() -> None:
    pace = Pace(ShareConfig(4, reserve=0))
    assert [pace.admit(EVE, 0.0) for _ in range(3)] == [None, None, Bound.ADDRESS]
    assert pace.admit(Party.stranger("192.0.2.1"), 0.5) is None
    assert pace.admit(EVE, 0.9) is Bound.ADDRESS
    assert pace.admit(EVE, 1.0) is None
    assert pace.refused == {Bound.ADDRESS: 2}

from __future__ import annotations

import pytest

from wsproto_sip.auth.accounts import Account
from wsproto_sip.auth.cache import AccountCache
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER

ALICE = Account(Identity("alice"), "wonderland")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_answers_and_missing_users_are_cached_for_the_lifetime() -> None:
    clock = Clock()
    cache = AccountCache(clock, lifetime=30.0)
    assert cache("alice") is LATER
    cache.store("alice", ALICE)
    cache.store("mallory", None)
    clock.now = 129.9
    assert cache("alice") is ALICE
    assert cache("mallory") is None
    clock.now = 130.0
    assert cache("alice") is LATER
    assert cache("mallory") is LATER


def test_latest_answer_counts_from_when_it_came() -> None:
    clock = Clock()
    cache = AccountCache(clock, lifetime=30.0)
    cache.store("alice", None)
    clock.now = 120.0
    cache.store("alice", ALICE)
    clock.now = 140.0
    assert cache("alice") is ALICE
    cache.clear()
    assert cache("alice") is LATER


def test_above_the_capacity_the_oldest_answer_is_forgotten() -> None:
    cache = AccountCache(Clock(), capacity=2)
    for name in ("a", "b", "a", "c"):
        cache.store(name, None)
    assert len(cache) == 2
    assert cache("b") is LATER
    assert cache("a") is None


def test_zero_lifetime_caches_nothing() -> None:
    cache = AccountCache(Clock(), lifetime=0.0)
    cache.store("alice", ALICE)
    assert cache("alice") is LATER
    assert len(cache) == 0


def test_invalid_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="lifetime must not be negative: -1"):
        AccountCache(Clock(), lifetime=-1.0)
    with pytest.raises(ValueError, match="capacity must be positive: 0"):
        AccountCache(Clock(), capacity=0)

from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.nonces import Nonces


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


def test_nonce_from_the_future_or_from_elsewhere_is_refused() -> None:
    nonces = Nonces()
    nonce = nonces.make(100.0)
    flipped = ("1" if nonce[0] == "0" else "0") + nonce[1:]
    for other in ("", "anything", nonce.upper(), nonce[:-1], flipped, Nonces().make(100.0)):
        assert not nonces.use(other, 1, 100.0)
    assert not nonces.use(nonce, 1, 99.0)
    assert nonces.use(nonce, 1, 100.0)


def test_an_own_nonce_is_found_in_any_text() -> None:
    nonces = Nonces()
    nonce, other = nonces.make(100.0), Nonces().make(100.0)
    assert nonces.use(nonce, 1, 100.0)
    for text in (nonce, f'Digest realm="x", nonce="{nonce}"', f"{other} nonce={nonce}"):
        assert nonces.in_text(text)
    for text in ("", other, nonce.upper(), f"{nonce}0", nonce[:-1], "0" * 64):
        assert not nonces.in_text(text)


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


def test_bad_arguments_are_refused() -> None:
    for lifetime in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="lifetime must be positive"):
            Nonces(lifetime=lifetime)
    with pytest.raises(ValueError, match="capacity must be positive: 0"):
        Nonces(capacity=0)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Nonces(secret=b"x" * 15)

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.outcome import Denied, Question, Unavailable
from wsproto_sip.auth.used import FirstUse, UsedTokens

USED = Denied("the token was used before")


def test_token_is_good_for_one_use() -> None:
    used = UsedTokens(60.0)
    assert used.use("a", 0.0) is None
    assert used.use("a", 0.0) == USED
    assert used.use("b", 1.0) is None
    assert used.use("a", 59.9) == USED
    assert len(used) == 2
    # It has expired meanwhile, and is not valid any more.
    assert used.use("a", 60.0) is None
    assert len(used) == 2


def test_signature_in_another_form_makes_the_same_token() -> None:
    used = UsedTokens(60.0)
    # {"alg":"ES256"}.{}
    assert used.use("eyJhbGciOiJFUzI1NiJ9.e30.c2ln", 0.0) is None
    assert used.use("eyJhbGciOiJFUzI1NiJ9.e30.c2lo", 0.0) == USED
    assert used.use("eyJhbGciOiJFUzI1NiJ9.e31.c2ln", 0.0) is None
    # Other tokens with dots are what they are: no Base64, no JSON, no object.
    for start in ("a", "W", "\xff", "WzFd", "MTIz"):
        for end in ("x", "y"):
            assert used.use(f"{start}.b.{end}", 0.0) is None
    assert used.use("eyJhbGciOiJFUzI1NiJ9.e32", 0.0) is None


def test_tokens_in_memory_are_bounded() -> None:
    used = UsedTokens(60.0, capacity=1)
    assert used.use("a", 0.0) is None
    refused = used.use("b", 1.0)
    assert isinstance(refused, Denied)
    assert refused.unavailable
    assert used.use("a", 1.0) == USED
    assert used.use("b", 60.0) is None


def test_shared_store_is_asked() -> None:
    used = UsedTokens(60.0, shared=True)
    first, second = used.use("a\ud800", 0.0), used.use("a\ud800", 0.0)
    assert isinstance(first, Question)
    assert isinstance(second, Question)
    assert first.question == second.question
    assert isinstance(first.question, FirstUse)
    assert first.question.seconds == 60.0
    assert "a" * 2 not in first.question.name
    assert len(first.question.name) == 32
    assert first.conclude(True) is None
    assert second.conclude(False) == USED
    assert second.conclude(Unavailable("down", 7)) == Unavailable("down", 7).denied
    with pytest.raises(TypeError, match="must be a bool, not NoneType"):
        first.conclude(None)
    assert len(used) == 0


@pytest.mark.parametrize("numbers", [(0.0, 1), (float("nan"), 1), (1.0, 0)])
def test_numbers_are_positive(numbers: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        UsedTokens(numbers[0], capacity=numbers[1])


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30)), max_size=40))
def test_second_use_within_the_time_is_always_refused(uses: list[tuple[str, float]]) -> None:
    used, now = UsedTokens(60.0, capacity=4), 0.0
    admitted: dict[str, float] = {}
    for token, later in uses:
        now += later
        if used.use(token, now) is None:
            assert now - admitted.get(token, -60.0) >= 60.0
            admitted[token] = now
        assert len(used) <= 4

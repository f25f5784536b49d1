"""Credentials that a hook judges, at once and later."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.auth.attempt import judge
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Denied, Question, Unavailable
from wsproto_sip.auth.throttle import Attempt, FailureCause, Slowdown, Throttle, ThrottleConfig

ALICE = Identity("alice", "token")


def judged(verify: Any, throttle: Throttle | None = None, now: float = 0.0) -> Any:
    attempt = Attempt("test", "192.0.2.1", "abc")
    used = Throttle() if throttle is None else throttle
    return judge(attempt, now, used, verify, "abc", wrong="unknown")


def test_hook_returns_the_identity() -> None:
    assert judged(lambda question: ALICE if question == "abc" else None) == ALICE
    assert judged(lambda question: None) == Denied("unknown")
    down = Unavailable("down")
    assert judged(lambda question: down) == down.denied
    with pytest.raises(TypeError, match="the answer must be an Identity or None, not str"):
        judged(lambda question: "alice")


def test_answer_may_come_later() -> None:
    throttle = Throttle()
    pending = judged(lambda question: LATER, throttle)
    assert isinstance(pending, Question)
    assert pending.question == "abc"
    assert pending.conclude(ALICE) == ALICE
    pending = judged(lambda question: LATER, throttle)
    assert pending.conclude(None) == Denied("unknown")
    assert throttle.counts == {("test", FailureCause.WRONG): 1}


def test_early_attempts_are_refused_unread() -> None:
    throttle = Throttle(ThrottleConfig(pair=Slowdown(1, 60.0, 60.0)))
    asked: list[str] = []

    def verify(question: str) -> None:
        asked.append(question)

    for _ in range(2):
        assert judged(verify, throttle) == Denied("unknown")
    slowed = judged(verify, throttle)
    assert slowed.retry_after == 1
    assert len(asked) == 2
    assert judged(verify, throttle, now=1.0) == Denied("unknown")


def test_unavailable_answer_does_not_count_as_a_guess() -> None:
    throttle = Throttle(ThrottleConfig(pair=Slowdown(1, 60.0, 60.0)))
    for _ in range(5):
        assert judged(lambda question: Unavailable("down"), throttle).unavailable

    def fails(question: str) -> None:
        raise OSError("down")

    for _ in range(5):
        with pytest.raises(OSError, match="down"):
            judged(fails, throttle)
    assert judged(lambda question: ALICE, throttle) == ALICE

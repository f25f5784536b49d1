"""Deadlines of one connection and of many."""

from __future__ import annotations

from math import inf

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.timers import Deadlines, Timer, TimerQueue


class TestDeadlines:
    def test_nothing_is_armed_at_first(self) -> None:
        deadlines = Deadlines()
        assert deadlines.next() == inf
        assert all(deadlines[timer] == inf for timer in Timer)

    def test_the_first_is_next(self) -> None:
        deadlines = Deadlines()
        deadlines.set(Timer.OPEN, 10.0)
        deadlines.set(Timer.AGE, 5.0)
        assert deadlines.next() == 5.0
        deadlines.clear(Timer.AGE)
        assert deadlines.next() == 10.0
        assert deadlines[Timer.AGE] == inf
        deadlines.set(Timer.OPEN, 20.0)
        assert deadlines.next() == deadlines[Timer.OPEN] == 20.0
        deadlines.clear_all()
        assert deadlines.next() == inf

    def test_shift_moves_what_is_armed(self) -> None:
        deadlines = Deadlines()
        deadlines.set(Timer.IDLE, 100.0)
        deadlines.shift(-60.0)
        assert deadlines[Timer.IDLE] == 40.0
        assert deadlines[Timer.OPEN] == inf


class TestTimerQueue:
    def test_first_come_first(self) -> None:
        queue: TimerQueue[str] = TimerQueue()
        assert queue.next() is None
        assert queue.pop_due(1e9) == []
        queue.set("b", 2.0)
        queue.set("a", 3.0)
        queue.set("c", 1.0)
        assert len(queue) == 3
        assert queue.next() == 1.0
        assert queue.pop_due(0.5) == []
        assert queue.pop_due(2.0) == ["c", "b"]
        assert len(queue) == 1
        assert queue.next() == 3.0

    def test_a_moved_key_comes_up_once(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        queue.set(1, 1.0)
        queue.set(1, 5.0)
        queue.set(1, 5.0)
        queue.set(1, 3.0)
        queue.set(1, 5.0)
        assert queue.next() == 5.0
        assert queue.pop_due(4.0) == []
        assert queue.pop_due(9.0) == [1]
        assert queue.pop_due(9.0) == []

    def test_a_removed_key_does_not(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        queue.set(1, 1.0)
        queue.set(2, 1.0)
        queue.set(1, None)
        queue.set(3, None)
        assert queue.pop_due(1.0) == [2]

    def test_no_more_at_a_time_than_wanted(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        for key in range(5):
            queue.set(key, float(key))
        assert queue.pop_due(9.0, 2) == [0, 1]
        assert queue.pop_due(9.0, 9) == [2, 3, 4]

    def test_left_over_entries_are_bounded(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        for when in range(10_000):
            queue.set(1, float(when))
        assert len(queue._heap) <= 2 + 64 + 1
        assert queue.pop_due(1e9) == [1]


class QueueAgainstDict(RuleBasedStateMachine):
    """The queue against a dictionary that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TimerQueue[int] = TimerQueue()
        self.model: dict[int, float] = {}

    @rule(key=st.integers(0, 5), when=st.integers(0, 20))
    def set(self, key: int, when: int) -> None:
        self.queue.set(key, float(when))
        self.model[key] = float(when)

    @rule(key=st.integers(0, 5))
    def remove(self, key: int) -> None:
        self.queue.set(key, None)
        self.model.pop(key, None)

    @rule(now=st.integers(0, 20), most=st.none() | st.integers(0, 4))
    def pop(self, now: int, most: int | None) -> None:
        due = sorted((when, key) for key, when in self.model.items() if when <= now)[:most]
        assert self.queue.pop_due(float(now), most) == [key for _, key in due]
        for _, key in due:
            del self.model[key]

    @invariant()
    def agree(self) -> None:
        assert len(self.queue) == len(self.model)
        assert self.queue.next() == min(self.model.values(), default=None)


TestQueueAgainstDict = QueueAgainstDict.TestCase


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1e6)), max_size=600))
def test_any_number_of_keys(changes: list[tuple[int, float]]) -> None:
    queue: TimerQueue[int] = TimerQueue()
    model: dict[int, float] = {}
    for key, when in changes:
        queue.set(key, when)
        model[key] = when
    assert queue.pop_due(inf) == [key for _, key in sorted((w, k) for k, w in model.items())]

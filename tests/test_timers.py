"""The next deadlines of many connections."""

from __future__ import annotations

from math import inf

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.timers import TimerQueue


class TestTimerQueue:
    def test_keys_come_in_the_order_of_their_deadlines(self) -> None:
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

    def test_moved_key_comes_up_once(self) -> None:
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

    def test_removed_key_does_not_come_up(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        queue.set(1, 1.0)
        queue.set(2, 1.0)
        queue.set(1, None)
        queue.set(3, None)
        assert queue.pop_due(1.0) == [2]

    def test_number_of_keys_per_call_is_limited(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        for key in range(5):
            queue.set(key, float(key))
        assert queue.pop_due(9.0, 2) == [0, 1]
        assert queue.pop_due(9.0, 9) == [2, 3, 4]

    def test_stale_entries_are_bounded(self) -> None:
        queue: TimerQueue[int] = TimerQueue()
        for when in range(10_000):
            queue.set(1, float(when))
        assert queue._entries <= 2 + 64 + 1
        assert queue.pop_due(1e9) == [1]


#: Several in the same second, at both ends of one, and far away.
TIMES = st.sampled_from([-inf, -1.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 2.0, 2.5, 7.0, 1e17])


class QueueAgainstDict(RuleBasedStateMachine):
    """The queue against a dictionary that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TimerQueue[int] = TimerQueue()
        self.model: dict[int, float] = {}

    @rule(key=st.integers(0, 5), when=TIMES)
    def set(self, key: int, when: float) -> None:
        self.queue.set(key, when)
        self.model[key] = when

    @rule(key=st.integers(0, 5), when=st.sampled_from([None, inf]))
    def remove(self, key: int, when: float | None) -> None:
        self.queue.set(key, when)
        self.model.pop(key, None)

    @rule(now=TIMES, most=st.none() | st.integers(0, 4))
    def pop(self, now: float, most: int | None) -> None:
        due = sorted((when, key) for key, when in self.model.items() if when <= now)[:most]
        assert self.queue.pop_due(now, most) == [key for _, key in due]
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

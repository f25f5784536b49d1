"""Which processes run, start again, reload and stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsproto_sip.cli.serve.supervisor import (
    Announce,
    Finish,
    Order,
    Report,
    Rolled,
    Rolling,
    Start,
    State,
    Supervisor,
    Tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsproto_sip.cli.serve.supervisor import Action

RELOAD, RESTART = Rolling.RELOAD, Rolling.RESTART


def halves(count: int) -> bytes:
    """Return random bytes that stand for one half of the longest pause."""
    return b"\x80" + bytes(count - 1)


def running(count: int, **options: float) -> Supervisor:
    """Return a set whose processes are all ready, at time 0."""
    found = Supervisor(count, drain=5.0, entropy=halves, **options)
    assert found.start(0) == [Start(0)]
    actions = found.ready(0, 0)
    for index in range(1, count):
        actions += found.ready(index, 0)
    assert actions == [*map(Start, range(1, count)), Announce()]
    return found


def test_first_process_starts_alone() -> None:
    found = Supervisor(3, drain=5.0)
    assert found.start(0) == [Start(0)]
    assert found.ready(0, 1) == [Start(1), Start(2)]
    assert found.ready(2, 2) == []
    assert found.ready(1, 3) == [Announce()]
    assert found.states == [State.RUNNING] * 3


def test_process_that_fails_at_the_start_ends_the_set_with_its_code() -> None:
    found = Supervisor(2, drain=5.0)
    found.start(0)
    assert found.exited(0, 2, 1) == [Finish(2)]
    assert found.stopping


def test_second_process_that_fails_at_the_start_stops_the_first() -> None:
    found = Supervisor(3, drain=5.0)
    found.start(0)
    found.ready(0, 1)
    assert found.exited(1, -9, 2) == [Tell(0, Order.STOP), Tell(2, Order.STOP)]
    assert found.exited(0, 0, 3) == []
    assert found.exited(2, 0, 3) == [Finish(1)]


def test_process_that_dies_is_started_again_after_growing_pauses() -> None:
    found = running(2)
    pauses = []
    now = 0.0
    for _ in range(7):
        [died] = found.exited(1, -9, now)
        assert isinstance(died, Report)
        assert (died.event, died.index, died.detail) == ("process-ended", 1, "signal 9")
        assert died.seconds is not None
        pauses.append(died.seconds)
        assert found.handle_timeout(now + died.seconds - 0.01) == []
        now += died.seconds
        assert found.next_deadline() == now
        assert found.handle_timeout(now) == [Start(1)]
        assert found.ready(1, now) == []
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    # One that has run for a while starts over.
    [died] = found.exited(1, 1, now + 30)
    assert died == Report("process-ended", 1, "exit code 1", 0.5)


def test_processes_reload_one_after_the_other() -> None:
    found = running(3)
    assert found.roll(RELOAD, 1) == [Tell(0, Order.RELOAD)]
    assert found.ready(0, 2) == [Tell(1, Order.RELOAD)]
    assert found.alive(1, 2) == []
    assert found.ready(1, 3) == [Tell(2, Order.RELOAD)]
    assert found.ready(2, 4) == [Rolled(RELOAD, done=True)]
    assert found.next_deadline() is None


def test_invalid_file_ends_the_reload() -> None:
    found = running(2)
    found.roll(RELOAD, 1)
    assert found.reload_failed(0, 2) == [Rolled(RELOAD, done=False)]
    assert found.ready(0, 2) == []
    # The command of one process concerns that process alone.
    assert found.reload_failed(1, 3) == []


def test_file_that_became_invalid_during_the_reload_is_reported() -> None:
    found = running(2)
    found.roll(RELOAD, 1)
    found.ready(0, 2)
    assert found.reload_failed(1, 3) == [
        Report("process-not-reloaded", 1, "only 1 before it have reloaded"),
        Rolled(RELOAD, done=False),
    ]


def test_processes_restart_one_after_the_other() -> None:
    found = running(2)
    assert found.roll(RESTART, 1) == [Tell(0, Order.STOP)]
    assert found.roll(RELOAD, 1) == []
    assert found.roll(RELOAD, 1) == []
    assert found.exited(0, 0, 2) == [Start(0)]
    assert found.ready(0, 3) == [Tell(1, Order.STOP)]
    assert found.exited(1, 0, 4) == [Start(1)]
    # What was asked for meanwhile is next.
    assert found.ready(1, 5) == [Rolled(RESTART, done=True), Tell(0, Order.RELOAD)]


def test_restart_ends_with_a_process_that_does_not_start() -> None:
    found = running(2)
    found.roll(RESTART, 1)
    found.exited(0, 0, 2)
    assert found.exited(0, 2, 3) == [
        Report("process-ended", 0, "exit code 2", 0.5),
        Rolled(RESTART, done=False),
    ]
    assert found.states == [State.DOWN, State.RUNNING]
    assert found.handle_timeout(3.5) == [Start(0)]


def test_process_that_dies_in_its_turn_goes_on_when_it_is_ready() -> None:
    found = running(2)
    found.roll(RELOAD, 1)
    found.exited(0, -6, 2)
    assert found.handle_timeout(2.5) == [Start(0)]
    assert found.ready(0, 3) == [Tell(1, Order.RELOAD)]


def test_processes_that_are_down_or_starting_are_waited_for_or_skipped() -> None:
    found = running(3)
    found.exited(0, -9, 1)
    found.exited(1, -9, 1)
    found.handle_timeout(1.5)
    found.exited(0, -9, 1.6)
    # 0 is down, 1 is starting.
    assert found.roll(RELOAD, 2) == []
    assert found.ready(1, 3) == [Tell(1, Order.RELOAD)]
    assert found.ready(1, 4) == [Tell(2, Order.RELOAD)]


def test_reload_before_all_are_ready_waits() -> None:
    found = Supervisor(2, drain=5.0)
    found.start(0)
    assert found.roll(RELOAD, 0) == []
    found.ready(0, 1)
    assert found.ready(1, 2) == [Announce(), Tell(0, Order.RELOAD)]


def test_stop_tells_all_and_ends_with_the_last() -> None:
    found = running(3)
    found.exited(2, 1, 1)
    found.roll(RELOAD, 1)
    assert found.stop(2) == [Tell(0, Order.STOP), Tell(1, Order.STOP)]
    assert found.roll(RELOAD, 2) == []
    assert found.ready(0, 2) == []
    assert found.exited(0, 0, 3) == []
    # A second signal is for those that are left.
    assert found.stop(3) == [Tell(1, Order.STOP)]
    assert found.exited(1, 0, 4) == [Finish(0)]
    assert found.stop(5) == []


def test_stop_of_a_set_that_is_down_ends_at_once() -> None:
    found = running(1)
    found.exited(0, 1, 1)
    assert found.stop(2) == [Finish(0)]
    assert found.next_deadline() is None


def test_process_that_does_not_stop_is_killed() -> None:
    found = running(1)
    found.stop(0)
    assert found.handle_timeout(24.9) == []
    assert found.handle_timeout(25.0) == [Tell(0, Order.KILL)]
    # Until the system ends it.
    assert found.handle_timeout(45.0) == [Tell(0, Order.KILL)]


def test_silent_process_is_killed() -> None:
    found = running(1, watchdog=10.0)
    found.alive(0, 5)
    assert found.next_deadline() == 15
    assert found.handle_timeout(15) == [Tell(0, Order.KILL)]
    assert found.exited(0, -9, 16) == [Report("process-ended", 0, "it did not respond", 0.5)]


def test_process_that_does_not_start_or_reload_is_killed() -> None:
    found = running(2)
    found.exited(1, 0, 0)
    found.handle_timeout(0.5)
    assert found.handle_timeout(60.5) == [Tell(1, Order.KILL)]
    [died] = found.exited(1, -9, 61)
    assert isinstance(died, Report)
    assert died.detail == "it did not start in time"
    found = running(2)
    found.roll(RELOAD, 1)
    assert found.handle_timeout(61) == [Tell(0, Order.KILL)]
    [died] = found.exited(0, -9, 61)
    assert isinstance(died, Report)
    assert died.detail == "it did not reload in time"


class Sets(RuleBasedStateMachine):
    """Whatever happens, orders go to running processes and the set ends once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.alive: set[int] = set()
        self.ready_ones: set[int] = set()
        self.told: set[int] = set()
        self.finished: list[int] = []
        self.announced = self.stopping = False
        self.rolling: list[int] = []

    @initialize(count=st.integers(1, 4), watchdog=st.none() | st.just(10.0))
    def begin(self, count: int, watchdog: float | None) -> None:
        self.count = count
        self.found = Supervisor(count, drain=5.0, watchdog=watchdog, entropy=halves)
        self.perform(self.found.start(self.now))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            assert not self.finished
            match action:
                case Start(index):
                    assert index not in self.alive
                    assert not self.stopping
                    self.alive.add(index)
                case Tell(index, order):
                    assert index in self.alive
                    if order is Order.RELOAD:
                        # One at a time, and the others serve meanwhile.
                        assert index in self.ready_ones
                    if order is Order.STOP and not self.found.stopping:
                        assert len(self.told) == 0
                    if order is Order.STOP:
                        self.told.add(index)
                case Announce():
                    assert not self.announced
                    assert len(self.ready_ones) == self.count
                    self.announced = True
                case Finish(code):
                    assert not self.alive
                    self.finished.append(code)
                case Rolled() | Report():
                    pass

    def step(self, act: Callable[[float], list[Action]]) -> None:
        self.perform(act(self.now))

    @rule(data=st.data())
    @precondition(lambda self: self.alive)
    def become_ready(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.alive)))
        if index not in self.told:
            self.ready_ones.add(index)
        self.step(lambda now: self.found.ready(index, now))

    @rule(data=st.data(), code=st.sampled_from([0, 1, 2, -9]))
    @precondition(lambda self: self.alive)
    def end(self, data: st.DataObject, code: int) -> None:
        index = data.draw(st.sampled_from(sorted(self.alive)))
        for those in (self.alive, self.ready_ones, self.told):
            those.discard(index)
        self.step(lambda now: self.found.exited(index, code, now))

    @rule(data=st.data())
    @precondition(lambda self: self.ready_ones)
    def fail_or_live(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.ready_ones)))
        if data.draw(st.booleans()):
            self.step(lambda now: self.found.reload_failed(index, now))
        else:
            self.step(lambda now: self.found.alive(index, now))

    @rule(what=st.sampled_from(Rolling))
    def roll(self, what: Rolling) -> None:
        self.step(lambda now: self.found.roll(what, now))

    @rule()
    def stop(self) -> None:
        if not self.finished:
            actions = self.found.stop(self.now)
            self.stopping = True
            self.perform(actions)

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.step(self.found.handle_timeout)

    @invariant()
    def something_will_happen(self) -> None:
        """Each process that is down is started again, unless the set is stopping."""
        if self.count and not self.finished:
            assert self.alive or self.found.next_deadline() is not None
            if self.announced and not self.found.stopping:
                for index, state in enumerate(self.found.states):
                    assert (state is State.DOWN) is (index not in self.alive)


TestSets = Sets.TestCase

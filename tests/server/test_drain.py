"""In which order a server stops, and how long it waits."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsproto_sip.server.drain import Drain, DrainStep

ANNOUNCE, STOP_LISTENING, SEND_AWAY, WITHDRAW, FINISH = DrainStep


def test_server_alone_waits_for_handshakes_and_connections() -> None:
    drain = Drain(10.0)
    assert drain.next_deadline() is None
    assert drain.begin(5.0) == [STOP_LISTENING]
    assert (drain.deadline, drain.next_deadline()) == (15.0, 6.0)
    assert drain.announced(5.0) == []
    assert drain.progress(5.5, handshakes=1, connections=3) == []
    assert drain.progress(5.6, handshakes=0, connections=3) == [SEND_AWAY]
    assert drain.progress(9.0, handshakes=0, connections=1) == []
    assert drain.progress(12.0, handshakes=0, connections=0) == [FINISH]
    assert drain.next_deadline() is None
    assert drain.hurry(13.0) == drain.progress(13.0, handshakes=0, connections=0) == []


def test_member_of_a_population_says_so_first_and_is_forgotten_last() -> None:
    drain = Drain(10.0, shared=True)
    assert drain.begin(0.0) == [ANNOUNCE]
    assert drain.progress(0.5, handshakes=0, connections=1) == []
    assert drain.withdrawn(0.5) == []
    assert drain.announced(0.6) == [STOP_LISTENING]
    assert drain.progress(0.6, handshakes=0, connections=1) == [SEND_AWAY]
    assert drain.announced(0.7) == []
    assert drain.progress(4.0, handshakes=0, connections=0) == [WITHDRAW]
    assert drain.progress(5.0, handshakes=0, connections=0) == []
    assert drain.hurry(5.0) == []
    assert drain.withdrawn(5.5) == [FINISH]


def test_what_takes_too_long_is_not_waited_for() -> None:
    drain = Drain(10.0, shared=True)
    drain.begin(0.0)
    assert drain.next_deadline() == 1.0
    assert drain.progress(1.0, handshakes=1, connections=2) == [STOP_LISTENING]
    assert drain.next_deadline() == 2.0
    assert drain.progress(2.0, handshakes=1, connections=2) == [SEND_AWAY]
    # The transports may write a little longer.
    assert drain.next_deadline() == 11.0
    assert drain.progress(11.0, handshakes=1, connections=2) == [WITHDRAW]
    assert drain.next_deadline() == 13.0
    assert drain.progress(13.0, handshakes=1, connections=2) == [FINISH]


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_without_time_handshakes_are_not_waited_for(seconds: float) -> None:
    drain = Drain(seconds)
    drain.begin(3.0)
    assert drain.progress(3.0, handshakes=4, connections=4) == [SEND_AWAY]
    assert drain.deadline == 3.0


@pytest.mark.parametrize(
    ("shared", "sent_away", "steps"),
    [
        (True, False, [STOP_LISTENING, SEND_AWAY, WITHDRAW]),
        (False, False, [SEND_AWAY, FINISH]),
        (False, True, [SEND_AWAY, FINISH]),
    ],
)
def test_hurry_leaves_out_no_step(shared: bool, sent_away: bool, steps: list[DrainStep]) -> None:
    drain = Drain(10.0, shared=shared)
    drain.begin(0.0)
    if sent_away:
        drain.progress(0.1, handshakes=0, connections=1)
    assert drain.hurry(0.5) == steps
    assert drain.deadline == 0.5


def test_hurry_before_the_beginning() -> None:
    drain = Drain(10.0)
    assert drain.hurry(1.0) == [STOP_LISTENING, SEND_AWAY, FINISH]


class Servers(RuleBasedStateMachine):
    """Each step comes once and in order, and the end comes in time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps: list[DrainStep] = []
        self.handshakes = self.connections = 0
        self.hurried = False

    @initialize(
        seconds=st.floats(0, 100),
        shared=st.booleans(),
        handshakes=st.integers(0, 3),
        connections=st.integers(0, 3),
    )
    def begin(self, seconds: float, shared: bool, handshakes: int, connections: int) -> None:
        self.seconds, self.shared = seconds, shared
        self.drain = Drain(seconds, shared=shared)
        self.handshakes, self.connections = handshakes, handshakes + connections
        self.steps += self.drain.begin(self.now)

    @rule()
    @precondition(lambda self: self.handshakes)
    def finish_handshake(self) -> None:
        self.handshakes -= 1
        self.go_on()

    @rule()
    @precondition(lambda self: self.connections > self.handshakes)
    def leave(self) -> None:
        self.connections -= 1
        self.go_on()

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        due = self.drain.next_deadline()
        self.now += seconds if due is None else min(seconds, max(due - self.now, 0.0))
        self.go_on()

    def go_on(self) -> None:
        self.steps += self.drain.progress(
            self.now, handshakes=self.handshakes, connections=self.connections
        )

    @rule(announced=st.booleans())
    def answer(self, announced: bool) -> None:
        act = self.drain.announced if announced else self.drain.withdrawn
        self.steps += act(self.now)

    @rule()
    def hurry(self) -> None:
        self.hurried = True
        self.steps += self.drain.hurry(self.now)

    @invariant()
    def steps_are_in_order(self) -> None:
        order = [step for step in DrainStep if self.shared or step not in (ANNOUNCE, WITHDRAW)]
        # Those that were sent away may be so again, at once.
        steps = [step for step, _ in groupby(self.steps)]
        assert steps == order[: len(steps)]
        assert len(self.steps) <= len(steps) + self.hurried
        if FINISH not in self.steps:
            due = self.drain.next_deadline()
            assert due is not None
            # Announcing, handshakes, lingering and withdrawing, in addition to the time given.
            assert due <= self.seconds + 1 + 1 + 1 + 2
        elif not self.hurried:
            assert not self.connections or self.now >= self.seconds

    def teardown(self) -> None:
        while self.steps and FINISH not in self.steps:
            due = self.drain.next_deadline()
            assert due is not None
            self.now = max(self.now, due)
            self.go_on()


TestServers = Servers.TestCase

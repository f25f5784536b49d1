"""The deadlines of one connection, and the effect of clocks that jump."""

from __future__ import annotations

from math import inf

from tests._sessions import (
    PING,
    PONG,
    TEXT,
    closed,
    established,
    fixed_entropy,
    frame,
    run,
)
from wsproto_sip.events import (
    TextMessage,
)
from wsproto_sip.limits import Limits
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.deadlines import LATENESS, Deadlines, Timer, after
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType


class TestDeadlines:
    def test_nothing_is_armed_at_first(self) -> None:
        deadlines = Deadlines()
        assert deadlines.next() == inf
        assert all(deadlines[timer] == inf for timer in Timer)

    def test_first_is_next(self) -> None:
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

    def test_shift_moves_armed_timers(self) -> None:
        deadlines = Deadlines()
        deadlines.set(Timer.IDLE, 100.0)
        deadlines.shift(-60.0)
        assert deadlines[Timer.IDLE] == 40.0
        assert deadlines[Timer.OPEN] == inf

    def test_late_deadline_is_extended_once(self) -> None:
        deadlines = Deadlines()
        deadlines.set(Timer.OPEN, 10.0)
        assert not deadlines.forgive(Timer.OPEN, 10.0 + LATENESS, 5.0)
        assert deadlines.forgive(Timer.OPEN, 100.0, 5.0)
        assert deadlines[Timer.OPEN] == 105.0
        assert not deadlines.forgive(Timer.OPEN, 200.0, 5.0)
        # Each timer is extended once, and again after the event it waits for.
        deadlines.set(Timer.SEND, 100.0)
        assert deadlines.forgive(Timer.SEND, 200.0, None)
        assert deadlines[Timer.SEND] == inf
        deadlines.forget(Timer.OPEN)
        assert deadlines.forgive(Timer.OPEN, 200.0, 5.0)


def test_none_means_for_ever() -> None:
    assert after(1.0, 2.5) == 3.5
    assert after(1.0, None) == inf


class TestClocksThatJump:
    def test_clock_set_back_only_shifts_the_deadlines(self) -> None:
        config = SessionConfig(idle_timeout=400.0, max_age=100.0)
        session = Session.established(ConnectionType.SERVER, now=1000.0, config=config)
        session.send(TextMessage("a"), 1001.0)
        session.data_to_send()
        session.transport_backlog(1, 1001.0)
        assert session.next_deadline() == 1021.0
        session.touched = False
        session.receive(frame(TEXT, b"a"), 1.0)
        assert session.touched
        assert session.next_deadline() == 21.0
        assert session.last_received == 1.0
        session.transport_backlog(0, 1.0)
        assert session.next_deadline() == 25.0
        # Input a second after the beginning moves it.
        run(session, 26.0)
        assert session.data_to_send()[:2] == b"\x89\x08"
        session.handle_timeout(-5000.0)
        # 26 became -5000.
        assert session.next_deadline() == -4980.0
        session.receive(frame(PONG, session.keepalive.payload), -4999.0)
        assert session.round_trip_time == 1.0

    def test_clock_set_back_does_not_refill_the_bucket(self) -> None:
        rate = Limits(max_control_rate=50, control_burst=200)
        session = established(now=100.0, limits=rate)
        session.receive(frame(PING) * 200, 100.0)
        session.receive(frame(TEXT, b"a"), 0.0)
        session.receive(frame(PING) * 50, 1.0)
        assert session.state is ConnectionState.OPEN
        session.receive(frame(PING), 1.0)
        assert session.state.name == "REMOTE_CLOSING"

    def test_clock_set_back_in_a_pause(self) -> None:
        session = established(now=100.0)
        run(session, 125.0)
        session.pause(130.0)
        session.handle_timeout(0.0)
        session.resume(3.0)
        # It was at 145, fifteen seconds after the pause began at what is now 0.
        assert session.next_deadline() == 23.0

    def test_live_peer_survives_a_clock_set_forward(self) -> None:
        session = established(idle_timeout=60.0, entropy=fixed_entropy)
        run(session, 25.0)
        session.transport_backlog(10, 25.0)
        # An hour is missing: because of the clock, or this process.
        assert session.handle_timeout(3625.0) == []
        assert session.state is ConnectionState.OPEN
        session.receive(frame(PONG, b"rrrrrrrr"), 3626.0)
        session.transport_backlog(0, 3626.0)
        assert session.next_deadline() == 3651.0
        # And again, later.
        run(session, 3651.0)
        session.transport_backlog(10, 3651.0)
        assert session.handle_timeout(9000.0) == []
        assert session.state is ConnectionState.OPEN

    def test_dead_peer_is_detected_after_a_clock_set_forward(self) -> None:
        session = established()
        run(session, 25.0)
        session.handle_timeout(3625.0)
        assert session.next_deadline() == 3645.0
        assert closed(session.handle_timeout(7000.0)).cause is Cause.KEEPALIVE

    def test_idle_peer_gets_its_time_again_after_a_clock_set_forward(self) -> None:
        session = established(idle_timeout=10.0, keepalive=KeepaliveConfig(Mechanism.NONE))
        session.handle_timeout(1000.0)
        assert session.next_deadline() == 1010.0
        session.receive(frame(TEXT, b"a"), 1005.0)
        session.handle_timeout(1010.0)
        assert session.next_deadline() == 1015.0
        session.handle_timeout(2000.0)
        assert session.state is ConnectionState.OPEN
        session.handle_timeout(3000.0)
        assert session.state.name == "LOCAL_CLOSING"

    def test_clock_set_forward_in_the_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.handle_timeout(3600.0)
        assert session.next_deadline() == 3610.0
        session.handle_timeout(7200.0)
        assert session.state is ConnectionState.CLOSED

    def test_clock_set_forward_with_a_stuck_transport(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        session.transport_backlog(10, 0.0)
        assert session.handle_timeout(1000.0) == []
        assert session.next_deadline() == 1020.0
        assert closed(session.handle_timeout(1030.0)).cause is Cause.SEND_TIMEOUT

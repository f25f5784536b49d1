"""Keep-alive of one connection, on a clock of the test's."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.session.keepalive import Keepalive, KeepaliveAction, KeepaliveConfig, Mechanism


def fixed_entropy(count: int) -> bytes:
    return b"r" * count


def watch(**options: object) -> Keepalive:
    config = KeepaliveConfig(**options)  # type: ignore[arg-type]
    return Keepalive(config, now=100.0, entropy=fixed_entropy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interval", 0.99),
        ("interval", 3601),
        ("interval", float("nan")),
        ("mechanism", 4),
        ("mechanism", -1),
        ("answer_timeout", 0),
        ("answer_timeout", 3600.5),
        ("application_data", b""),
        ("application_data", b"x" * 126),
    ],
)
def test_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}|Mechanism"):
        KeepaliveConfig(**{name: value})  # type: ignore[arg-type]


def test_application_data_is_bytes() -> None:
    with pytest.raises(TypeError, match="application_data must be bytes or None: 'x'"):
        KeepaliveConfig(application_data="x")  # type: ignore[arg-type]


def test_mechanism_may_be_its_number() -> None:
    config = KeepaliveConfig(mechanism=3)  # type: ignore[arg-type]
    assert config.mechanism is Mechanism.CHECK


def test_ends_of_the_ranges() -> None:
    KeepaliveConfig(interval=1, answer_timeout=0.1, application_data=b"x")
    KeepaliveConfig(interval=3600, answer_timeout=3600, application_data=b"x" * 125)


def test_without_a_mechanism_nothing_is_due() -> None:
    keepalive = watch(mechanism=Mechanism.NONE)
    keepalive.spread(0.5, 110.0)
    assert keepalive.next_deadline() == inf
    assert keepalive.poll(1e9) is None


class TestPing:
    def test_answered_ping(self) -> None:
        keepalive = watch(interval=25)
        assert keepalive.next_deadline() == 125.0
        assert keepalive.poll(124.9) is None
        assert keepalive.poll(125.0) is KeepaliveAction.PING
        assert keepalive.payload == b"r" * 8
        assert keepalive.awaiting
        assert keepalive.next_deadline() == 145.0
        assert keepalive.poll(130.0) is None
        keepalive.last_received = 126.0
        assert keepalive.pong(b"r" * 8, 126.0)
        assert keepalive.round_trip_time == 1.0
        assert not keepalive.awaiting
        assert keepalive.next_deadline() == 151.0

    def test_unanswered_ping(self) -> None:
        keepalive = watch()
        assert keepalive.poll(125.0) is KeepaliveAction.PING
        assert keepalive.poll(145.0) is KeepaliveAction.DEAD
        assert keepalive.next_deadline() == inf
        assert keepalive.poll(1e9) is None

    def test_only_the_same_bytes_answer(self) -> None:
        keepalive = watch(application_data=b"WebSockets rock")
        assert not keepalive.pong(b"", 110.0)
        keepalive.poll(125.0)
        assert keepalive.payload == b"WebSockets rock"
        for other in (b"", b"WebSockets", b"WebSockets rock!", b"websockets rock"):
            assert not keepalive.pong(other, 126.0)
        assert keepalive.round_trip_time is None
        assert keepalive.pong(b"WebSockets rock", 127.0)
        assert not keepalive.pong(b"WebSockets rock", 128.0)
        assert keepalive.round_trip_time == 2.0

    def test_input_postpones_the_deadline(self) -> None:
        keepalive = watch()
        keepalive.last_received = 120.0
        assert keepalive.poll(125.0) is None
        assert keepalive.next_deadline() == 145.0
        assert keepalive.poll(145.0) is KeepaliveAction.PING

    def test_peer_that_sends_without_answering_is_alive(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.last_received = 140.0
        assert keepalive.poll(145.0) is None
        assert keepalive.awaiting
        assert keepalive.next_deadline() == 160.0
        assert keepalive.poll(160.0) is KeepaliveAction.DEAD

    def test_late_poll_extends_the_deadline_once(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        assert keepalive.poll(1000.0) is None
        assert keepalive.next_deadline() == 1020.0
        assert keepalive.poll(9000.0) is KeepaliveAction.DEAD

    def test_input_allows_another_extension(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        for start in (1000.0, 2000.0, 3000.0):
            assert keepalive.poll(start) is None
            assert keepalive.next_deadline() == start + 20
            # Not the Pong, but a sign of life.
            keepalive.last_received = start + 10
        assert keepalive.poll(4000.0) is None
        assert keepalive.poll(5000.0) is KeepaliveAction.DEAD

    def test_jump_over_both_deadlines_sends_a_ping_first(self) -> None:
        keepalive = watch()
        assert keepalive.poll(1e6) is KeepaliveAction.PING
        assert keepalive.next_deadline() == 1e6 + 20

    def test_unread_peer_gets_its_time_back(self) -> None:
        keepalive = watch()
        keepalive.looked_away(110.0, 120.0)
        assert keepalive.next_deadline() == 125.0
        keepalive.poll(125.0)
        assert keepalive.waiting
        # 19 of the 20 seconds are over; the first pause gives them all again, in any case.
        keepalive.looked_away(144.0, 150.0)
        assert keepalive.next_deadline() == 170.0
        # Later pauses give no more than they took, and only from the Ping on.
        keepalive.looked_away(160.0, 163.0)
        assert keepalive.next_deadline() == 173.0
        assert keepalive.poll(173.0) is KeepaliveAction.DEAD

    def test_pause_from_before_the_ping(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.looked_away(100.0, 135.0)
        assert keepalive.next_deadline() == 155.0

    def test_frequent_pings_still_detect_a_dead_peer(self) -> None:
        keepalive = watch()
        keepalive.ping(b"1", 110.0)
        keepalive.ping(b"2", 120.0)
        assert keepalive.next_deadline() == 130.0
        assert not keepalive.pong(b"1", 121.0)
        # A sign of life between the two counts.
        keepalive.last_received = 115.0
        assert keepalive.poll(130.0) is None
        assert keepalive.next_deadline() == 135.0
        keepalive.ping(b"3", 134.0)
        assert keepalive.poll(135.0) is KeepaliveAction.DEAD

    def test_ping_of_the_callers(self) -> None:
        keepalive = watch()
        keepalive.ping(b"mine", 110.0)
        assert keepalive.next_deadline() == 130.0
        assert keepalive.pong(b"mine", 111.5)
        assert keepalive.round_trip_time == 1.5


class TestOthers:
    def test_unsolicited_pongs(self) -> None:
        keepalive = watch(mechanism=Mechanism.PONG, application_data=b"x")
        assert keepalive.poll(125.0) is KeepaliveAction.PONG
        assert keepalive.payload == b"x"
        assert not keepalive.awaiting
        assert keepalive.next_deadline() == 150.0
        assert keepalive.poll(150.0) is KeepaliveAction.PONG

    def test_check(self) -> None:
        keepalive = watch(mechanism=Mechanism.CHECK)
        assert keepalive.poll(125.0) is KeepaliveAction.CHECK
        assert keepalive.next_deadline() == 150.0

    def test_ping_of_the_callers_does_not_kill_under_another_mechanism(self) -> None:
        keepalive = watch(mechanism=Mechanism.CHECK)
        keepalive.ping(b"mine", 110.0)
        assert keepalive.awaiting
        assert keepalive.next_deadline() == 125.0
        assert keepalive.poll(200.0) is KeepaliveAction.CHECK

    def test_spread_puts_off_the_first_frame_only(self) -> None:
        keepalive = watch()
        keepalive.spread(0.2, 100.0)
        assert keepalive.next_deadline() == 130.0
        assert keepalive.poll(125.0) is None
        assert keepalive.poll(130.0) is KeepaliveAction.PING
        keepalive.last_received = 130.5
        assert keepalive.pong(keepalive.payload, 130.5)
        assert keepalive.next_deadline() == 155.5

    def test_spread_is_not_used_up_by_traffic(self) -> None:
        keepalive = watch()
        keepalive.spread(0.2, 100.0)
        keepalive.last_received = 114.0
        assert keepalive.poll(130.0) is None
        assert keepalive.next_deadline() == 144.0
        assert keepalive.poll(144.0) is KeepaliveAction.PING

    def test_spread_of_a_due_connection_starts_now(self) -> None:
        keepalive = watch()
        keepalive.spread(0.2, 200.0)
        assert keepalive.poll(204.0) is None
        assert keepalive.poll(205.0) is KeepaliveAction.PING

    def test_spread_keeps_the_deadline_of_an_outstanding_ping(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.spread(0.2, 126.0)
        assert keepalive.next_deadline() == 145.0

    def test_ping_that_has_not_left_is_not_timed(self) -> None:
        keepalive = watch()
        assert keepalive.poll(125.0) is KeepaliveAction.PING
        keepalive.hold(inf)
        assert keepalive.held
        assert keepalive.next_deadline() == inf
        assert keepalive.poll(1000.0) is None
        keepalive.release(1000.0)
        assert not keepalive.held
        assert keepalive.next_deadline() == 1020.0
        assert keepalive.pong(keepalive.payload, 1001.0)
        assert keepalive.round_trip_time == 1.0
        # Nothing is held or released without an outstanding Ping.
        keepalive.hold(2000.0)
        keepalive.release(1500.0)
        assert keepalive.next_deadline() == 1026.0

    def test_ping_that_never_leaves(self) -> None:
        keepalive = watch()
        assert keepalive.poll(125.0) is KeepaliveAction.PING
        keepalive.hold(150.0)
        assert keepalive.poll(149.0) is None
        assert keepalive.poll(150.0) is KeepaliveAction.DEAD

    def test_reconfigured_while_running(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.reconfigure(KeepaliveConfig(interval=60), 130.0)
        assert not keepalive.awaiting
        assert keepalive.next_deadline() == 160.0
        keepalive.reconfigure(KeepaliveConfig(interval=5), 150.0)
        assert keepalive.next_deadline() == 150.0
        assert keepalive.poll(150.0) is KeepaliveAction.PING
        keepalive.reconfigure(KeepaliveConfig(mechanism=Mechanism.NONE), 151.0)
        assert keepalive.next_deadline() == inf

    def test_shift(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.shift(-100.0)
        assert keepalive.last_received == 0.0
        assert keepalive.next_deadline() == 45.0
        assert keepalive.pong(keepalive.payload, 26.0)
        assert keepalive.round_trip_time == 1.0


@given(
    st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["poll", "data", "pong"])), max_size=60),
    st.floats(1, 100),
    st.floats(0.5, 100),
)
def test_dead_peers_are_detected_and_live_ones_kept(
    steps: list[tuple[float, str]], interval: float, answer_timeout: float
) -> None:
    config = KeepaliveConfig(interval=interval, answer_timeout=answer_timeout)
    keepalive = Keepalive(config, now=0.0)
    now = 0.0
    for wait, what in steps:
        # Deadlines are met exactly, as by a good event loop.
        until = now + wait
        while keepalive.next_deadline() <= until:
            now = keepalive.next_deadline()
            silent = now - keepalive.last_received
            if keepalive.poll(now) is KeepaliveAction.DEAD:
                # Only a peer that was silent for the answer timeout is given up.
                assert silent >= answer_timeout * (1 - 1e-9)
                return
        now = until
        if what == "data":
            keepalive.last_received = now
        elif what == "pong":
            keepalive.last_received = now
            assert keepalive.pong(keepalive.payload, now) or not keepalive.awaiting
        # A peer that is silent from now on is given up within both times.
        assert keepalive.next_deadline() <= now + interval + answer_timeout
    silence = keepalive.last_received
    while (action := keepalive.poll(keepalive.next_deadline())) is not KeepaliveAction.DEAD:
        assert action in (None, KeepaliveAction.PING)
        assert keepalive.next_deadline() <= max(silence, now) + interval + answer_timeout + 1e-6


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(["", "", "data", "pong", "ping", "spread"])),
        max_size=60,
    ),
    st.sampled_from(Mechanism),
    st.floats(0, 5),
)
def test_postponing_only_changes_the_number_of_polls(
    steps: list[tuple[float, str]], mechanism: Mechanism, late: float
) -> None:
    config = KeepaliveConfig(mechanism=mechanism, interval=20, answer_timeout=10)
    polled = Keepalive(config, now=0.0, entropy=fixed_entropy)
    put_off = Keepalive(config, now=0.0, entropy=fixed_entropy)
    now = 0.0
    for wait, what in steps:
        until = now + wait
        while polled.next_deadline() <= until:
            now = max(now, min(polled.next_deadline() + late, until))
            when = put_off.put_off(now)
            assert when == put_off.next_deadline()
            action = polled.poll(now)
            assert (put_off.poll(now) if when <= now else None) is action
            assert put_off.next_deadline() == polled.next_deadline()
        now = until
        for keepalive in (polled, put_off):
            if what:
                keepalive.last_received = now
            if what == "pong":
                keepalive.pong(keepalive.payload, now)
            elif what == "ping":
                keepalive.ping(b"p", now)
            elif what == "spread":
                keepalive.spread(0.5, now)

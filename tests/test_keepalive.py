"""Keep-alive of one connection, on a clock of the test's."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.keepalive import Keepalive, KeepaliveAction, KeepaliveConfig, Mechanism


def octets(count: int) -> bytes:
    return b"r" * count


def watch(**options: object) -> Keepalive:
    config = KeepaliveConfig(**options)  # type: ignore[arg-type]
    return Keepalive(config, now=100.0, entropy=octets)


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


def test_application_data_is_octets() -> None:
    with pytest.raises(TypeError, match="application_data must be bytes: 'x'"):
        KeepaliveConfig(application_data="x")  # type: ignore[arg-type]


def test_a_mechanism_may_be_its_number() -> None:
    config = KeepaliveConfig(mechanism=3)  # type: ignore[arg-type]
    assert config.mechanism is Mechanism.CHECK


def test_the_ends_of_the_ranges() -> None:
    KeepaliveConfig(interval=1, answer_timeout=0.1, application_data=b"x")
    KeepaliveConfig(interval=3600, answer_timeout=3600, application_data=b"x" * 125)


def test_without_a_mechanism_nothing_is_due() -> None:
    keepalive = watch(mechanism=Mechanism.NONE)
    keepalive.spread(0.5, 110.0)
    assert keepalive.next_deadline() == inf
    assert keepalive.poll(1e9) is None


class TestPing:
    def test_an_answered_ping(self) -> None:
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

    def test_an_unanswered_ping(self) -> None:
        keepalive = watch()
        assert keepalive.poll(125.0) is KeepaliveAction.PING
        assert keepalive.poll(145.0) is KeepaliveAction.DEAD
        assert keepalive.next_deadline() == inf
        assert keepalive.poll(1e9) is None

    def test_only_the_same_octets_answer(self) -> None:
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

    def test_what_the_peer_sends_puts_it_off(self) -> None:
        keepalive = watch()
        keepalive.last_received = 120.0
        assert keepalive.poll(125.0) is None
        assert keepalive.next_deadline() == 145.0
        assert keepalive.poll(145.0) is KeepaliveAction.PING

    def test_a_peer_that_sends_without_answering_is_alive(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.last_received = 140.0
        assert keepalive.poll(145.0) is None
        assert keepalive.awaiting
        assert keepalive.next_deadline() == 160.0
        assert keepalive.poll(160.0) is KeepaliveAction.DEAD

    def test_a_late_look_is_granted_once_more(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        assert keepalive.poll(1000.0) is None
        assert keepalive.next_deadline() == 1020.0
        assert keepalive.poll(9000.0) is KeepaliveAction.DEAD

    def test_each_sign_of_life_earns_another_late_look(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        for start in (1000.0, 2000.0, 3000.0):
            assert keepalive.poll(start) is None
            assert keepalive.next_deadline() == start + 20
            # Not the Pong, but it is there.
            keepalive.last_received = start + 10
        assert keepalive.poll(4000.0) is None
        assert keepalive.poll(5000.0) is KeepaliveAction.DEAD

    def test_a_jump_over_both_deadlines_sends_a_ping_first(self) -> None:
        keepalive = watch()
        assert keepalive.poll(1e6) is KeepaliveAction.PING
        assert keepalive.next_deadline() == 1e6 + 20

    def test_who_was_not_read_has_its_time_back(self) -> None:
        keepalive = watch()
        keepalive.looked_away(110.0, 120.0)
        assert keepalive.next_deadline() == 125.0
        keepalive.poll(125.0)
        assert keepalive.waiting
        # 19 of the 20 seconds are over; the first pause gives them all again, in any case.
        keepalive.looked_away(144.0, 150.0)
        assert keepalive.next_deadline() == 170.0
        # The others give no more than they took, and that only from the Ping on.
        keepalive.looked_away(160.0, 163.0)
        assert keepalive.next_deadline() == 173.0
        assert keepalive.poll(173.0) is KeepaliveAction.DEAD

    def test_a_pause_from_before_the_ping(self) -> None:
        keepalive = watch()
        keepalive.poll(125.0)
        keepalive.looked_away(100.0, 135.0)
        assert keepalive.next_deadline() == 155.0

    def test_who_pings_often_finds_out_all_the_same(self) -> None:
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

    def test_a_ping_of_the_callers(self) -> None:
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

    def test_a_ping_of_the_callers_does_not_kill_under_another_mechanism(self) -> None:
        keepalive = watch(mechanism=Mechanism.CHECK)
        keepalive.ping(b"mine", 110.0)
        assert keepalive.awaiting
        assert keepalive.next_deadline() == 125.0
        assert keepalive.poll(200.0) is KeepaliveAction.CHECK

    def test_spread(self) -> None:
        keepalive = watch()
        keepalive.spread(0.2, 100.0)
        assert keepalive.next_deadline() == 105.0
        assert keepalive.poll(105.0) is KeepaliveAction.PING
        keepalive.last_received = 105.5
        assert keepalive.pong(keepalive.payload, 105.5)
        assert keepalive.poll(125.0) is None
        assert keepalive.next_deadline() == 130.5

    def test_spread_does_not_yield_to_traffic_once(self) -> None:
        keepalive = watch()
        keepalive.spread(0.2, 110.0)
        keepalive.last_received = 114.0
        assert keepalive.poll(114.9) is None
        assert keepalive.poll(115.0) is KeepaliveAction.PING
        assert keepalive.pong(keepalive.payload, 115.0)
        keepalive.last_received = 139.0
        assert keepalive.poll(140.0) is None
        assert keepalive.next_deadline() == 164.0

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
def test_the_dead_are_dead_and_the_living_live(
    steps: list[tuple[float, str]], interval: float, answer_timeout: float
) -> None:
    config = KeepaliveConfig(interval=interval, answer_timeout=answer_timeout)
    keepalive = Keepalive(config, now=0.0)
    now = 0.0
    for wait, what in steps:
        # Deadlines are met to the moment, as by a good event loop.
        until = now + wait
        while keepalive.next_deadline() <= until:
            now = keepalive.next_deadline()
            silent = now - keepalive.last_received
            if keepalive.poll(now) is KeepaliveAction.DEAD:
                # Only who was silent for an answer's time is given up.
                assert silent >= answer_timeout * (1 - 1e-9)
                return
        now = until
        if what == "data":
            keepalive.last_received = now
        elif what == "pong":
            keepalive.last_received = now
            assert keepalive.pong(keepalive.payload, now) or not keepalive.awaiting
        # Who is silent from now on is given up within both times.
        assert keepalive.next_deadline() <= now + interval + answer_timeout
    silence = keepalive.last_received
    while (action := keepalive.poll(keepalive.next_deadline())) is not KeepaliveAction.DEAD:
        assert action in (None, KeepaliveAction.PING)
        assert keepalive.next_deadline() <= max(silence, now) + interval + answer_timeout + 1e-6

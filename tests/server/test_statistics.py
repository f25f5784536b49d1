from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.server.commands import CommandError, Fault
from wsproto_sip.server.statistics import (
    GAUGES,
    MAX_CLOSE_CODES,
    MODULE_STATISTICS,
    OTHER_CODES,
    ROUND_TRIP_BOUNDS,
    Ending,
    RoundTrips,
    Statistics,
)


def nonzero(statistics: Statistics) -> dict[str, int]:
    return {name: value for name, value in statistics.values().items() if value}


def test_the_names_are_the_modules() -> None:
    families = [
        "current_connections",
        "max_concurrent_connections",
        "failed_connections",
        "local_closed_connections",
        "remote_closed_connections",
        "received_frames",
        "transmitted_frames",
    ]
    expected = {f"{p}_{name}" for p in ("ws", "ws_sip", "ws_msrp") for name in families}
    expected |= {f"{p}_successful_handshakes" for p in ("ws", "ws_sip", "ws_msrp")}
    expected |= {"ws_failed_handshakes"}
    assert set(MODULE_STATISTICS) == expected
    assert len(MODULE_STATISTICS) == 25
    assert tuple(Statistics().values()) == MODULE_STATISTICS
    assert set(Statistics().values().values()) == {0}
    assert len(GAUGES) == 6


def test_connections() -> None:
    statistics = Statistics()
    statistics.connection_opened("sip")
    statistics.connection_opened("sip")
    statistics.connection_opened("msrp")
    statistics.connection_opened(None)
    statistics.connection_opened("chat")
    statistics.handshake_failed()
    statistics.connection_ended("sip", Ending.REMOTE, 1000)
    statistics.connection_ended("msrp", Ending.LOCAL, 1000)
    statistics.connection_ended("chat", Ending.FAILED, 1006)
    assert nonzero(statistics) == {
        "ws_current_connections": 2,
        "ws_max_concurrent_connections": 5,
        "ws_failed_connections": 1,
        "ws_local_closed_connections": 1,
        "ws_remote_closed_connections": 1,
        "ws_successful_handshakes": 5,
        "ws_sip_current_connections": 1,
        "ws_sip_max_concurrent_connections": 2,
        "ws_sip_remote_closed_connections": 1,
        "ws_sip_successful_handshakes": 2,
        "ws_msrp_max_concurrent_connections": 1,
        "ws_msrp_local_closed_connections": 1,
        "ws_msrp_successful_handshakes": 1,
        "ws_failed_handshakes": 1,
    }
    assert statistics.close_codes == {1000: 2, 1006: 1}


def test_frames() -> None:
    statistics = Statistics()
    statistics.frames_received("sip", 3, 2)
    statistics.frames_received("msrp", 1)
    statistics.frames_received(None, 0, 1)
    statistics.frames_received("chat", 1)
    statistics.frames_transmitted("sip", 1)
    statistics.frames_transmitted("msrp", 2, 5)
    statistics.frames_transmitted(None, 1)
    assert nonzero(statistics) == {
        "ws_received_frames": 8,
        "ws_sip_received_frames": 3,
        "ws_msrp_received_frames": 1,
        "ws_transmitted_frames": 9,
        "ws_sip_transmitted_frames": 1,
        "ws_msrp_transmitted_frames": 2,
    }


def test_no_more_connections_end_than_were_opened() -> None:
    statistics = Statistics()
    statistics.connection_opened("msrp")
    for sub_protocol in ("sip", "msrp", None):
        if sub_protocol == "msrp":
            statistics.connection_ended("msrp", Ending.LOCAL, 1000)
        with pytest.raises(ValueError, match="more connections ended than were opened"):
            statistics.connection_ended(sub_protocol, Ending.LOCAL, 1000)
    assert statistics.values()["ws_local_closed_connections"] == 1
    assert statistics.close_codes == {1000: 1}


def test_close_codes_take_bounded_memory() -> None:
    statistics = Statistics()
    for code in range(3000, 5000):
        statistics.connection_opened(None)
        statistics.connection_ended(None, Ending.REMOTE, code)
    statistics.connection_opened(None)
    statistics.connection_ended(None, Ending.REMOTE, 3000)
    assert len(statistics.close_codes) == MAX_CLOSE_CODES + 1
    assert statistics.close_codes[3000] == 2
    assert statistics.close_codes[OTHER_CODES] == 2000 - MAX_CLOSE_CODES
    assert sum(statistics.close_codes.values()) == 2001


def test_round_trips() -> None:
    times = RoundTrips()
    for seconds in (0.0, 0.005, 0.006, 10.0, 11.0):
        times.add(seconds)
    assert (times.count, times.maximum) == (5, 11.0)
    assert times.total == pytest.approx(21.011)
    assert times.classes == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    for seconds in (-0.001, float("nan")):
        with pytest.raises(ValueError, match="not a time"):
            times.add(seconds)
    assert times.count == 5


@given(st.lists(st.floats(0, 20)))
def test_every_round_trip_is_in_one_class(seconds: list[float]) -> None:
    times = RoundTrips()
    for value in seconds:
        times.add(value)
    assert sum(times.classes) == times.count == len(seconds)
    for index, bound in enumerate(ROUND_TRIP_BOUNDS):
        assert sum(times.classes[: index + 1]) == sum(value <= bound for value in seconds)


def test_the_result_of_the_command() -> None:
    statistics = Statistics()
    statistics.connection_opened("sip")
    statistics.connection_ended("sip", Ending.LOCAL, 1001)
    statistics.connection_opened("sip")
    statistics.connection_ended("sip", Ending.REMOTE, OTHER_CODES)
    statistics.round_trips.add(0.25)
    values = statistics.result().values
    assert list(values)[:25] == list(MODULE_STATISTICS)
    assert dict(list(values.items())[25:]) == {
        "ws_round_trips": 1,
        "ws_round_trip_seconds_total": 0.25,
        "ws_round_trip_seconds_max": 0.25,
        "ws_close_code_other": 1,
        "ws_close_code_1001": 1,
    }
    chosen = statistics.result(["ws_close_code_1001", "ws_current_connections"])
    assert chosen.to_lines() == ["ws_close_code_1001: 1", "ws_current_connections: 0"]
    with pytest.raises(CommandError) as caught:
        statistics.result(["ws_current_connections", "x" * 100])
    assert caught.value.fault is Fault.INVALID_PARAMETERS
    assert caught.value.detail == f"no statistic {'x' * 80!r}"


class Counting(RuleBasedStateMachine):
    """The numbers against a list of open connections."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()
        self.open: list[str | None] = []
        self.opened = 0
        self.most = 0

    @rule(sub_protocol=st.sampled_from(["sip", "msrp", None, "chat"]))
    def open_one(self, sub_protocol: str | None) -> None:
        self.statistics.connection_opened(sub_protocol)
        self.open.append(sub_protocol)
        self.opened += 1
        self.most = max(self.most, len(self.open))

    @rule(pick=st.integers(0, 99), ending=st.sampled_from(Ending), code=st.integers(1000, 1011))
    def end_one(self, pick: int, ending: Ending, code: int) -> None:
        if self.open:
            ended = self.open.pop(pick % len(self.open))
            self.statistics.connection_ended(ended, ending, code)

    @invariant()
    def numbers_agree(self) -> None:
        values = self.statistics.values()
        assert values["ws_current_connections"] == len(self.open)
        assert values["ws_sip_current_connections"] == self.open.count("sip")
        assert values["ws_msrp_current_connections"] == self.open.count("msrp")
        assert values["ws_max_concurrent_connections"] == self.most
        ended = sum(values[f"ws_{ending.value}"] for ending in Ending)
        assert ended == self.opened - len(self.open)
        assert sum(self.statistics.close_codes.values()) == ended


TestCounting = Counting.TestCase

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.auth.throttle import FailureCause
from wsproto_sip.server.management.commands import CommandError, Fault
from wsproto_sip.server.shares import Bound
from wsproto_sip.server.statistics import (
    GAUGES,
    MAX_CLOSE_CODES,
    MODULE_STATISTICS,
    OTHER_CODES,
    ROUND_TRIP_BOUNDS,
    Ending,
    Statistics,
)


def nonzero(statistics: Statistics) -> dict[str, int]:
    return {name: value for name, value in statistics.values().items() if value}


def test_names_match_the_module() -> None:
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
    statistics.connection_closed("sip", Ending.REMOTE, 1000)
    statistics.connection_closed("msrp", Ending.LOCAL, 1000)
    statistics.connection_closed("chat", Ending.FAILED, 1006)
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


def test_unmatched_end_is_refused() -> None:
    statistics = Statistics()
    statistics.connection_opened("msrp")
    for subprotocol in ("sip", "msrp", None):
        if subprotocol == "msrp":
            statistics.connection_closed("msrp", Ending.LOCAL, 1000)
        with pytest.raises(ValueError, match="more connections ended than were opened"):
            statistics.connection_closed(subprotocol, Ending.LOCAL, 1000)
    assert statistics.values()["ws_local_closed_connections"] == 1
    assert statistics.close_codes == {1000: 1}


def test_close_codes_take_bounded_memory() -> None:
    statistics = Statistics()
    for code in range(3000, 5000):
        statistics.connection_opened(None)
        statistics.connection_closed(None, Ending.REMOTE, code)
    statistics.connection_opened(None)
    statistics.connection_closed(None, Ending.REMOTE, 3000)
    assert len(statistics.close_codes) == MAX_CLOSE_CODES + 1
    assert statistics.close_codes[3000] == 2
    assert statistics.close_codes[OTHER_CODES] == 2000 - MAX_CLOSE_CODES
    assert sum(statistics.close_codes.values()) == 2001


def test_answers_count_as_failed_handshakes_unless_they_are_what_was_asked_for() -> None:
    statistics = Statistics()
    for status in (403, 403, 401):
        statistics.request_answered(status)
    statistics.request_answered(200, served=True)
    # A health check of a server that is not ready, for example.
    statistics.request_answered(503, served=True)
    assert statistics.answers == {403: 2, 401: 1, 200: 1, 503: 1}
    assert statistics.failed_handshakes == 3
    statistics.reset(["all"])
    assert (statistics.answers, statistics.failed_handshakes) == ({}, 0)


def test_handshakes_are_timed() -> None:
    statistics = Statistics()
    statistics.connection_opened("sip", 0.03)
    statistics.connection_opened(None, 20.0)
    assert (statistics.handshakes.count, statistics.handshakes.maximum) == (2, 20.0)
    assert statistics.handshakes.classes[ROUND_TRIP_BOUNDS.index(0.05)] == 1
    statistics.reset(["all"])
    assert statistics.handshakes.count == 0


def test_result_of_the_command() -> None:
    statistics = Statistics()
    statistics.connection_opened("sip")
    statistics.connection_closed("sip", Ending.LOCAL, 1001)
    statistics.connection_opened("sip")
    statistics.connection_closed("sip", Ending.REMOTE, OTHER_CODES)
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
    assert caught.value.detail == f"unknown statistic {'x' * 80!r}"


class Counting(RuleBasedStateMachine):
    """The numbers against a list of open connections."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()
        self.open: list[str | None] = []
        self.opened = 0
        self.most = 0

    @rule(subprotocol=st.sampled_from(["sip", "msrp", None, "chat"]))
    def open_one(self, subprotocol: str | None) -> None:
        self.statistics.connection_opened(subprotocol)
        self.open.append(subprotocol)
        self.opened += 1
        self.most = max(self.most, len(self.open))

    @rule(pick=st.integers(0, 99), ending=st.sampled_from(Ending), code=st.integers(1000, 1011))
    def end_one(self, pick: int, ending: Ending, code: int) -> None:
        if self.open:
            ended = self.open.pop(pick % len(self.open))
            self.statistics.connection_closed(ended, ending, code)

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


def busy() -> Statistics:
    """Return the statistics of a server that had two connections and has one."""
    statistics = Statistics()
    statistics.connection_opened("sip")
    statistics.connection_opened(None)
    statistics.connection_closed(None, Ending.REMOTE, 1001)
    statistics.handshake_failed()
    statistics.frames_received("sip", 3)
    statistics.round_trips.add(0.5)
    return statistics


def test_statistics_are_chosen_by_name_by_group_or_all() -> None:
    statistics = busy()
    everything = statistics.chosen(["all"])
    assert list(everything) == sorted(MODULE_STATISTICS)
    assert everything == statistics.chosen(["websocket:"]) == statistics.group("websocket")
    assert statistics.chosen(["ws_received_frames", "nothing"]) == {"ws_received_frames": 3}
    assert statistics.chosen(["core:"]) == statistics.group("core") == {}


def test_reset_keeps_the_number_of_connections() -> None:
    statistics = busy()
    statistics.reset(["all"])
    values = {name: value for name, value in statistics.values().items() if value}
    assert values == {
        "ws_current_connections": 1,
        "ws_max_concurrent_connections": 1,
        "ws_sip_current_connections": 1,
        "ws_sip_max_concurrent_connections": 1,
    }
    assert statistics.close_codes == {}
    assert statistics.round_trips.count == 0
    statistics.connection_closed("sip", Ending.LOCAL, 1000)
    assert statistics.values()["ws_current_connections"] == 0


def test_reset_of_one_leaves_the_others() -> None:
    statistics = busy()
    before = statistics.values()
    statistics.reset(["ws_received_frames", "nothing"])
    assert statistics.values() == before | {"ws_received_frames": 0}
    assert statistics.close_codes == {1001: 1}
    assert statistics.failed_handshakes == 1


def test_failed_attempts_at_passwords() -> None:
    statistics = Statistics()
    statistics.authentication_failures = {
        ("sip", FailureCause.WRONG): 2,
        ("basic", FailureCause.PAIR): 7,
    }
    assert statistics.failures() == [("basic", "slowed-pair", 7), ("sip", "wrong", 2)]
    names = ["ws_authentication_failures_basic_slowed_pair", "ws_authentication_failures_sip_wrong"]
    assert statistics.result(names).to_lines() == [f"{names[0]}: 7", f"{names[1]}: 2"]


def test_refusals_for_a_share() -> None:
    statistics = Statistics()
    assert statistics.refused() == []
    statistics.refusals += [lambda: {("b", Bound.USER): 2}, lambda: {("a", Bound.ALL): 7}]
    assert statistics.refused() == [("a", "all", 7), ("b", "user", 2)]
    names = ["ws_share_refusals_a_all", "ws_share_refusals_b_user"]
    assert statistics.result(names).to_lines() == [f"{names[0]}: 7", f"{names[1]}: 2"]

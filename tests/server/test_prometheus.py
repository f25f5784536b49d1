from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.prometheus import CONTENT_TYPE, render
from wsproto_sip.server.statistics import (
    GAUGES,
    MODULE_STATISTICS,
    OTHER_CODES,
    ROUND_TRIP_BOUNDS,
    Ending,
    Statistics,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def as_read(name: str) -> str:
    """The parser puts an ending on the samples of all counters; Prometheus itself does not."""
    return name if name in GAUGES else f"{name}_total"


def parse(text: str) -> tuple[dict[str, str], Samples]:
    """Types and samples as Prometheus' own client library reads them."""
    parser = pytest.importorskip(
        "prometheus_client.parser", reason="prometheus_client reads the exposition"
    )
    types: dict[str, str] = {}
    samples: Samples = {}
    for family in parser.text_string_to_metric_families(text):
        types[family.name] = family.type
        assert family.documentation
        for sample in family.samples:
            labels: Mapping[str, str] = sample.labels
            key = (sample.name, tuple(sorted(labels.items())))
            assert key not in samples
            samples[key] = sample.value
    return types, samples


def test_the_text_itself() -> None:
    lines = render(Statistics()).split("\n")
    assert lines[:3] == [
        "# HELP ws_current_connections WebSocket: current connections.",
        "# TYPE ws_current_connections gauge",
        "ws_current_connections 0",
    ]
    assert "# HELP ws_sip_received_frames SIP over WebSocket: received frames." in lines
    assert "# TYPE ws_msrp_received_frames counter" in lines
    assert lines[-3:] == ["ws_round_trip_seconds_sum 0.0", "ws_round_trip_seconds_count 0", ""]
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_every_statistic_has_its_type() -> None:
    types, samples = parse(render(Statistics()))
    assert {name: types[name] for name in MODULE_STATISTICS} == {
        name: "gauge" if name in GAUGES else "counter" for name in MODULE_STATISTICS
    }
    assert types["ws_round_trip_seconds"] == "histogram"
    assert types["ws_close_codes"] == "counter"
    assert set(types) == {*MODULE_STATISTICS, "ws_round_trip_seconds", "ws_close_codes"}
    assert all(samples[as_read(name), ()] == 0 for name in MODULE_STATISTICS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sip", "msrp", None]),
            st.sampled_from([None, *Ending]),
            st.sampled_from([1000, 1001, 1006, 4000, OTHER_CODES]),
        ),
        max_size=20,
    ),
    st.lists(st.floats(0, 30), max_size=20),
)
def test_the_numbers_are_the_counters(
    connections: list[tuple[str | None, Ending | None, int]], times: list[float]
) -> None:
    statistics = Statistics()
    for sub_protocol, ending, code in connections:
        statistics.connection_opened(sub_protocol)
        statistics.frames_received(sub_protocol, 2, 1)
        if ending is not None:
            statistics.connection_ended(sub_protocol, ending, code)
    for seconds in times:
        statistics.round_trips.add(seconds)
    _, samples = parse(render(statistics))
    expected: Samples = {(as_read(name), ()): value for name, value in statistics.values().items()}
    for code, count in statistics.close_codes.items():
        label = "other" if code == OTHER_CODES else str(code)
        expected[as_read("ws_close_codes"), (("code", label),)] = count
    for bound in ROUND_TRIP_BOUNDS:
        expected["ws_round_trip_seconds_bucket", (("le", str(bound)),)] = sum(
            seconds <= bound for seconds in times
        )
    expected["ws_round_trip_seconds_bucket", (("le", "+Inf"),)] = len(times)
    expected["ws_round_trip_seconds_sum", ()] = reduce(add, times, 0.0)
    expected["ws_round_trip_seconds_count", ()] = len(times)
    assert samples == expected

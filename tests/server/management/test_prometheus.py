from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.throttle import FailureCause
from wsproto_sip.server.histogram import Histogram
from wsproto_sip.server.management.prometheus import (
    CONTENT_TYPE,
    Family,
    connection_families,
    render,
)
from wsproto_sip.server.shares import Bound
from wsproto_sip.server.statistics import (
    GAUGES,
    MODULE_STATISTICS,
    OTHER_CODES,
    ROUND_TRIP_BOUNDS,
    Ending,
    Statistics,
    UpstreamStatistics,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def as_read(name: str) -> str:
    """Return the name of a sample; the parser strips the suffix from the name of a family."""
    return name if name in GAUGES else f"{name}_total"


def parse(text: str) -> tuple[dict[str, str], Samples]:
    """Return types and samples as Prometheus' own client library reads them."""
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


def test_text_format() -> None:
    lines = render(connection_families(Statistics())).split("\n")
    assert lines[:3] == [
        "# HELP ws_current_connections WebSocket: current connections.",
        "# TYPE ws_current_connections gauge",
        "ws_current_connections 0",
    ]
    assert "# HELP ws_sip_received_frames_total SIP over WebSocket: received frames." in lines
    assert "# TYPE ws_msrp_received_frames_total counter" in lines
    assert lines[-3:] == ["ws_handshake_seconds_sum 0.0", "ws_handshake_seconds_count 0", ""]
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_labels_are_escaped() -> None:
    family = Family("odd_total", "counter", "Odd.").add(1, name='a"\\\nb', number=2)
    assert family.lines == [r'odd_total{name="a\"\\\nb",number="2"} 1']
    assert render([Family("x", "gauge", "X.", 1.5)]) == "# HELP x X.\n# TYPE x gauge\nx 1.5\n"


def test_answers_and_sizes() -> None:
    statistics = Statistics()
    statistics.message_sizes = Histogram([10, 100])
    statistics.message_sizes.add(11)
    for status in (403, 200, 403):
        statistics.request_answered(status)
    _, samples = parse(render(connection_families(statistics)))
    assert samples["ws_answers_total", (("status", "403"),)] == 2
    assert samples["ws_answers_total", (("status", "200"),)] == 1
    assert samples["ws_message_size_bytes_bucket", (("le", "100"),)] == 1
    assert samples["ws_message_size_bytes_bucket", (("le", "10"),)] == 0


def test_failed_attempts_at_passwords_by_service_and_cause() -> None:
    statistics = Statistics()
    statistics.authentication_failures = {
        ("sip", FailureCause.WRONG): 2,
        ("basic", FailureCause.PAIR): 7,
    }
    types, samples = parse(render(connection_families(statistics)))
    assert types["ws_authentication_failures"] == "counter"
    name = as_read("ws_authentication_failures")
    assert {labels: value for (read, labels), value in samples.items() if read == name} == {
        (("cause", "slowed-pair"), ("service", "basic")): 7,
        (("cause", "wrong"), ("service", "sip")): 2,
    }


def test_refusals_by_share_and_bound() -> None:
    statistics = Statistics()
    statistics.refusals.append(lambda: {("sip_transactions", Bound.ADDRESS): 9})
    types, samples = parse(render(connection_families(statistics)))
    assert types["ws_share_refusals"] == "counter"
    labels = (("bound", "address"), ("share", "sip_transactions"))
    assert samples[as_read("ws_share_refusals"), labels] == 9


def test_upstreams_by_their_names() -> None:
    statistics = Statistics()
    odd = 'a"b\\c\nd'
    statistics.upstreams = {
        "sip:192.0.2.1:5060": UpstreamStatistics(True, 7, 1),
        odd: UpstreamStatistics(False, 2, 2),
    }
    types, samples = parse(render(connection_families(statistics)))
    assert types["ws_sip_upstream_up"] == "gauge"
    assert types["ws_sip_upstream_requests"] == "counter"
    for name, values in (
        ("ws_sip_upstream_up", (1, 0)),
        (as_read("ws_sip_upstream_requests"), (7, 2)),
        (as_read("ws_sip_upstream_failed_requests"), (1, 2)),
    ):
        for upstream, value in zip(("sip:192.0.2.1:5060", odd), values, strict=True):
            assert samples[name, (("upstream", upstream),)] == value


def test_every_statistic_has_its_type() -> None:
    types, samples = parse(render(connection_families(Statistics())))
    assert {name: types[name] for name in MODULE_STATISTICS} == {
        name: "gauge" if name in GAUGES else "counter" for name in MODULE_STATISTICS
    }
    assert types["ws_round_trip_seconds"] == "histogram"
    assert types["ws_close_codes"] == "counter"
    others = {
        *("ws_round_trip_seconds", "ws_handshake_seconds", "ws_close_codes", "ws_answers"),
        "ws_share_refusals",
        *("ws_authentication_failures", "ws_turned_away_connections", "ws_hook_errors"),
        *("ws_sip_upstream_failures", "ws_sip_upstream_up", "ws_sip_upstream_requests"),
        "ws_sip_upstream_failed_requests",
    }
    assert set(types) == {*MODULE_STATISTICS, *others}
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
def test_metrics_have_the_values_of_the_counters(
    connections: list[tuple[str | None, Ending | None, int]], times: list[float]
) -> None:
    statistics = Statistics()
    for subprotocol, ending, code in connections:
        statistics.connection_opened(subprotocol)
        statistics.frames_received(subprotocol, 2, 1)
        if ending is not None:
            statistics.connection_closed(subprotocol, ending, code)
    for seconds in times:
        statistics.round_trips.add(seconds)
    _, samples = parse(render(connection_families(statistics)))
    expected: Samples = {(as_read(name), ()): value for name, value in statistics.values().items()}
    for name in ("sip_upstream_failures", "turned_away_connections", "hook_errors"):
        expected[as_read(f"ws_{name}"), ()] = 0
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
    assert {
        sample: value for sample, value in samples.items() if "handshake_seconds" not in sample[0]
    } == expected

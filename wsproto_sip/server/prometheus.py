"""The statistics in Prometheus' text format, version 0.0.4.

The module's statistics keep their names; close codes and round-trip times stand beside them.
"""

from __future__ import annotations

from .statistics import GAUGES, OTHER_CODES, ROUND_TRIP_BOUNDS, Statistics

__all__ = ["CONTENT_TYPE", "render"]

#: What to put into the Content-Type header field.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_KINDS = {"ws": "WebSocket", "ws_sip": "SIP over WebSocket", "ws_msrp": "MSRP over WebSocket"}


def render(statistics: Statistics) -> str:
    """Write all numbers.

    Args:
        statistics: The counters.

    Returns:
        Lines of ASCII, each ended with LF.
    """
    lines: list[str] = []

    def family(name: str, kind: str, text: str) -> None:
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} {kind}")

    for name, value in statistics.values().items():
        prefix = next(item for item in ("ws_sip", "ws_msrp", "ws") if name.startswith(f"{item}_"))
        text = f"{_KINDS[prefix]}: {name.removeprefix(f'{prefix}_').replace('_', ' ')}."
        family(name, "gauge" if name in GAUGES else "counter", text)
        lines.append(f"{name} {value}")
    family("ws_close_codes", "counter", "Connections that ended, by status code.")
    for code in sorted(statistics.close_codes):
        label = "other" if code == OTHER_CODES else str(code)
        lines.append(f'ws_close_codes{{code="{label}"}} {statistics.close_codes[code]}')
    times = statistics.round_trips
    family("ws_round_trip_seconds", "histogram", "Times between a Ping and its Pong.")
    so_far = 0
    for bound, count in zip((*ROUND_TRIP_BOUNDS, "+Inf"), times.classes, strict=True):
        so_far += count
        lines.append(f'ws_round_trip_seconds_bucket{{le="{bound}"}} {so_far}')
    lines.append(f"ws_round_trip_seconds_sum {times.total}")
    lines.append(f"ws_round_trip_seconds_count {times.count}")
    return "\n".join(lines) + "\n"

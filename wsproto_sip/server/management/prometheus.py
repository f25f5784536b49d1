"""Prometheus' text format, version 0.0.4, and the metrics of connections.

Names and units follow Prometheus' conventions, so counters end with ``_total``. Otherwise the
module's statistics keep their names, and additional metrics have similar ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..histogram import Histogram
from ..statistics import GAUGES, OTHER_CODES, Statistics

__all__ = ["CONTENT_TYPE", "Family", "connection_families", "render"]

#: The value of the Content-Type header field.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_KINDS = {"ws": "WebSocket", "ws_sip": "SIP over WebSocket", "ws_msrp": "MSRP over WebSocket"}
#: The metrics of each upstream.
_UPSTREAM = (
    ("ws_sip_upstream_up", "gauge", "Whether a SIP upstream is in service.", "in_service"),
    (
        "ws_sip_upstream_requests_total",
        "counter",
        "Requests sent to a SIP upstream.",
        "requests",
    ),
    (
        "ws_sip_upstream_failed_requests_total",
        "counter",
        "Requests that a SIP upstream did not answer, or answered with 503.",
        "failures",
    ),
)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Family:
    """The samples with one name.

    Args:
        name: The name; for a counter, it ends with ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        text: A one-sentence description.
        value: The value of the only sample; ``None`` if samples are added later.

    Attributes:
        name: The name.
        kind: The kind.
        lines: The samples in text format.
    """

    __slots__ = ("kind", "lines", "name", "text")

    def __init__(self, name: str, kind: str, text: str, value: float | None = None) -> None:
        self.name = name
        self.kind = kind
        self.text = text
        self.lines: list[str] = []
        if value is not None:
            self.add(value)

    def add(self, value: float, **labels: object) -> Family:
        """Add a sample, and return the family.

        Args:
            value: Its value.
            labels: Its labels, which must have a bounded number of values.
        """
        self._add(self.name, value, labels)
        return self

    def _add(self, name: str, value: float, labels: dict[str, object]) -> None:
        shown = ",".join(f'{key}="{str(text).translate(_ESCAPES)}"' for key, text in labels.items())
        self.lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")

    def add_histogram(self, values: Histogram) -> Family:
        """Add the samples of a histogram, and return the family."""
        so_far = 0
        for bound, count in zip((*values.bounds, "+Inf"), values.classes, strict=True):
            so_far += count
            self._add(f"{self.name}_bucket", so_far, {"le": bound})
        self._add(f"{self.name}_sum", values.total, {})
        self._add(f"{self.name}_count", values.count, {})
        return self


def render(families: Iterable[Family]) -> str:
    """Write families of samples.

    Args:
        families: The families.

    Returns:
        Lines, each ending with LF.
    """
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.text}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += family.lines
    return "".join([f"{line}\n" for line in lines])


def connection_families(statistics: Statistics) -> list[Family]:
    """Return the metrics of an endpoint.

    Args:
        statistics: Its counters.
    """
    found = []
    for name, value in statistics.values().items():
        prefix = next(item for item in ("ws_sip", "ws_msrp", "ws") if name.startswith(f"{item}_"))
        text = f"{_KINDS[prefix]}: {name.removeprefix(f'{prefix}_').replace('_', ' ')}."
        gauge = name in GAUGES
        shown = name if gauge else f"{name}_total"
        found.append(Family(shown, "gauge" if gauge else "counter", text, value))
    codes = Family("ws_close_codes_total", "counter", "Ended connections by status code.")
    for code in sorted(statistics.close_codes):
        label = "other" if code == OTHER_CODES else str(code)
        codes.add(statistics.close_codes[code], code=label)
    answers = Family(
        "ws_answers_total",
        "counter",
        "Requests that did not open a connection, by status.",
    )
    for status, count in sorted(statistics.answers.items()):
        answers.add(count, status=status)
    failures = Family(
        "ws_authentication_failures_total",
        "counter",
        "Failed login attempts, by service and cause.",
    )
    for service, cause, count in statistics.failures():
        failures.add(count, service=service, cause=cause)
    found += [
        codes,
        answers,
        failures,
        Family(
            "ws_turned_away_connections_total",
            "counter",
            "Transports dropped for lack of room.",
            statistics.turned_away,
        ),
        Family(
            "ws_hook_errors_total",
            "counter",
            "Exceptions raised by the program's policies and listeners.",
            statistics.hook_errors,
        ),
        Family(
            "ws_sip_upstream_failures_total",
            "counter",
            "Failures to reach a SIP upstream.",
            statistics.upstream_failures,
        ),
    ]
    for name, kind, text, attribute in _UPSTREAM:
        family = Family(name, kind, text)
        for upstream, counts in statistics.upstreams.items():
            family.add(int(getattr(counts, attribute)), upstream=upstream)
        found.append(family)
    refusals = Family(
        "ws_share_refusals_total",
        "counter",
        "Refusals because a share was used up, by resource and limit.",
    )
    for share, bound, count in statistics.refused():
        refusals.add(count, share=share, bound=bound)
    found.append(refusals)
    histograms = [
        ("ws_round_trip_seconds", "Times between a Ping and its Pong.", statistics.round_trips),
        (
            "ws_handshake_seconds",
            "Times from accepting a transport to opening its connection.",
            statistics.handshakes,
        ),
        ("ws_message_size_bytes", "Sizes of received messages.", statistics.message_sizes),
    ]
    for name, text, values in histograms:
        if values is not None:
            found.append(Family(name, "histogram", text).add_histogram(values))
    return found

"""The counters of a relay, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...server.management.prometheus import Family

if TYPE_CHECKING:
    from .relay import MsrpRelay

__all__ = ["relay_families"]


def relay_families(relay: MsrpRelay) -> list[Family]:
    """Return the metrics of a relay.

    Args:
        relay: The relay.
    """
    journal = relay.journal
    relayed = Family("msrp_relayed_requests_total", "counter", "Requests forwarded.")
    for method, count in sorted(journal.relayed.items()):
        relayed.add(count, method=method)
    refused = Family("msrp_refused_requests_total", "counter", "Requests refused.")
    for (method, status), count in sorted(journal.refused.items()):
        refused.add(count, method=method, status=status)
    failed = Family(
        "msrp_failed_requests_total", "counter", "Forwarded requests that failed further on."
    )
    for status, count in sorted(journal.failed.items()):
        failed.add(count, status=status)
    return [
        Family("msrp_nodes", "gauge", "Other running nodes.", relay.nodes),
        Family("msrp_connections", "gauge", "Connections of the relay.", relay.connections),
        Family("msrp_sessions", "gauge", "Sessions.", relay.sessions),
        Family(
            "msrp_transactions",
            "gauge",
            "Forwarded requests waiting for their response.",
            relay.transactions,
        ),
        Family("msrp_authorizations_total", "counter", "Sessions granted.", journal.authorized),
        Family(
            "msrp_refreshed_authorizations_total",
            "counter",
            "Sessions extended.",
            journal.refreshed,
        ),
        Family(
            "msrp_dropped_connections_total",
            "counter",
            "Connections closed because of their input.",
            journal.dropped,
        ),
        relayed,
        refused,
        failed,
        Family(
            "msrp_relayed_size_bytes", "histogram", "Sizes of forwarded requests."
        ).add_histogram(journal.sizes),
    ]

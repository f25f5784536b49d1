"""The metrics of an edge, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...server.management.prometheus import Family

if TYPE_CHECKING:
    from .edge import SipEdge

__all__ = ["edge_families"]


def edge_families(edge: SipEdge) -> list[Family]:
    """Return the metrics of an edge.

    Args:
        edge: The edge.
    """
    journal, registrar = edge.journal, edge.registrar
    requests = Family("sip_requests_total", "counter", "Received requests.")
    for (origin, method), count in sorted(journal.requests.items()):
        requests.add(count, origin=origin, method=method)
    responses = Family("sip_responses_total", "counter", "Received responses.")
    for (origin, digit), count in sorted(journal.responses.items()):
        responses.add(count, origin=origin, status=f"{digit}xx")
    finals = Family(
        "sip_final_responses_total",
        "counter",
        "Final responses to requests that were sent on; none for unanswered ones.",
    )
    for (method, digit), count in sorted(journal.finals.items()):
        finals.add(count, method=method, status=f"{digit}xx" if digit else "none")
    refused = Family("sip_refused_requests_total", "counter", "Requests refused here.")
    for status, count in sorted(journal.refused.items()):
        refused.add(count, status=status)
    shares = Family(
        "sip_share_refusals_total", "counter", "Requests refused because of their sender's share."
    )
    for (what, bound), count in sorted(edge.refused.items(), key=lambda item: str(item[0])):
        shares.add(count, of=what, bound=bound.value)
    calls = Family("sip_calls_total", "counter", "Calls by result.")
    for event in ("started", "answered", "failed", "ended"):
        calls.add(journal.calls[event], event=event)
    found = [
        Family("sip_connections", "gauge", "Connections that speak SIP.", edge.connections),
        Family("sip_transactions", "gauge", "Pending requests.", edge.transactions),
        requests,
        responses,
        finals,
        refused,
        shares,
        Family(
            "sip_dropped_messages_total",
            "counter",
            "Messages dropped without an answer.",
            edge.dropped,
        ),
        Family("sip_branches_total", "counter", "Copies of requests sent.", journal.branches),
        Family(
            "sip_forked_requests_total",
            "counter",
            "Requests of which more than one copy was sent.",
            journal.forks,
        ),
        calls,
        Family(
            "sip_answered_calls",
            "gauge",
            "Answered calls that are not known to have ended.",
            len(journal.answered),
        ),
        Family("sip_call_setup_seconds", "histogram", "Times from INVITE to answer.").add_histogram(
            journal.setup_seconds
        ),
        Family("sip_call_duration_seconds", "histogram", "Times from answer to BYE.").add_histogram(
            journal.call_seconds
        ),
    ]
    if registrar is None:
        text = "Registrations of clients by the upstream."
        found.append(
            Family("sip_upstream_registrations_total", "counter", text, journal.registered)
        )
    else:
        removed = Family(
            "sip_registrations_removed_total", "counter", "Registrations that ended, by cause."
        )
        for cause, count in sorted(registrar.removed.items(), key=lambda item: item[0].value):
            removed.add(count, cause=cause.value)
        found += [
            Family("sip_registrations", "gauge", "Registrations.", registrar.bindings),
            Family(
                "sip_registrations_added_total", "counter", "Registrations added.", registrar.added
            ),
            Family(
                "sip_registrations_refreshed_total",
                "counter",
                "Registrations refreshed.",
                registrar.refreshed,
            ),
            removed,
        ]
    return found

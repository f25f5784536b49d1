"""The counters of a relay, for Prometheus."""

from __future__ import annotations

from wsproto_sip.msrp import MsrpRelay, MsrpRelayConfig
from wsproto_sip.msrp.relay.metrics import relay_families
from wsproto_sip.server.management.prometheus import render


def test_metrics_have_the_counters() -> None:
    relay = MsrpRelay(MsrpRelayConfig("relay.test", 2855))
    relay.connection_opened(1, 0.0)
    relay.journal.authorize("alice", 1, 900, refreshed=False)
    relay.journal.refuse(b"AUTH", 401, "", 1)
    relay.journal.relay(b"SEND", 300, 1)
    relay.journal.fail(408, 1)
    lines = render(relay_families(relay)).splitlines()
    for line in (
        "msrp_nodes 0",
        "msrp_connections 1",
        "msrp_sessions 0",
        "msrp_transactions 0",
        "msrp_authorizations_total 1",
        'msrp_refused_requests_total{method="AUTH",status="401"} 1',
        'msrp_relayed_requests_total{method="SEND"} 1',
        'msrp_failed_requests_total{status="408"} 1',
        "msrp_relayed_size_bytes_sum 300.0",
    ):
        assert line in lines

"""What an edge counts, for Prometheus."""

from __future__ import annotations

from tests.sip._phones import SDP, UPSTREAM, World, call
from wsproto_sip.server.management.prometheus import render
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip.edge.metrics import edge_families


def lines_of(world: World) -> list[str]:
    return render(edge_families(world.edge)).splitlines()


def test_a_call_in_numbers() -> None:
    world = World(transactions=ShareConfig(4, reserve=1, per_connection=1))
    alice, bob = world.phone("alice"), world.phone("bob")
    call(alice, bob)
    alice.send("INVITE", "sip:nobody@sip.test", body=SDP)
    alice.response(404)
    for _ in range(2):
        alice.send("INVITE", "sip:bob@sip.test", body=SDP)
    bob.hang_up()
    lines = lines_of(world)
    for line in (
        "sip_connections 1",
        "sip_registrations 1",
        "sip_registrations_added_total 2",
        'sip_registrations_removed_total{cause="connection"} 1',
        'sip_requests_total{origin="client",method="REGISTER"} 2',
        'sip_final_responses_total{method="INVITE",status="2xx"} 1',
        'sip_refused_requests_total{status="404"} 1',
        'sip_calls_total{event="answered"} 1',
        "sip_call_setup_seconds_count 1",
        "sip_answered_calls 1",
    ):
        assert line in lines
    assert any(line.startswith("sip_share_refusals_total{of=") for line in lines)
    assert any(
        line.startswith('sip_responses_total{origin="client",status="2xx"}') for line in lines
    )


def test_an_edge_of_an_upstream_has_no_registrations_of_its_own() -> None:
    names = [line.split()[2] for line in lines_of(World(upstream=UPSTREAM)) if "# TYPE" in line]
    assert "sip_upstream_registrations_total" in names
    assert "sip_registrations" not in names

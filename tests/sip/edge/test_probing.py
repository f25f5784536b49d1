"""How an edge finds out which upstreams are in service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sip._location import Cluster
from tests.sip._phones import UPSTREAM, World
from wsproto_sip.sip import SipRequest
from wsproto_sip.sip.edge.actions import UpstreamChanged
from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM, Probing, Upstream

A = replace(UPSTREAM, name="a", host="192.0.2.201")
B = replace(UPSTREAM, name="b", host="192.0.2.202", transport="tcp")
BOB = "sip:bob@sip.test"


def probes(world: World) -> dict[str, SipRequest]:
    """Return the OPTIONS to the upstreams since the last call."""
    sent, world.all_sent = world.all_sent, []
    world.upstream.clear()
    found = {}
    for name, message in sent:
        assert isinstance(message, SipRequest)
        if message.method == "OPTIONS":
            found[name] = message
    return found


def answer(world: World, name: str, probe: SipRequest, status: int = 200) -> None:
    world.from_upstream(probe.make_response(status), upstream=name)


def changes(world: World) -> list[tuple[str, bool]]:
    found, world.changes = world.changes, []
    return [(change.upstream, change.in_service) for change in found]


def test_each_upstream_is_probed_at_the_start() -> None:
    world = World(upstreams=(A, B))
    world.wait(0.0)
    sent = probes(world)
    assert world.links == [DATAGRAMS, STREAM]
    probe = sent["a"]
    assert str(probe.uri) == "sip:192.0.2.201:5060"
    assert str(sent["b"].uri) == "sip:192.0.2.202:5060;transport=tcp"
    assert (probe.via.transport, probe.via.host, probe.via.port) == ("UDP", "192.0.2.100", 5080)
    assert sent["b"].via.transport == "TCP"
    assert str(probe.from_.uri) == "sip:192.0.2.100:5080"
    assert probe.via.branch != sent["b"].via.branch


def test_one_upstream_alone_is_probed_only_while_it_is_out_of_service() -> None:
    world = World(upstreams=(A,))
    world.wait(60.0)
    assert not probes(world)
    assert world.edge.next_deadline() is None
    world.do(world.edge.upstream_failed(world.now, link=DATAGRAMS, reason="refused"))
    assert world.changes == [UpstreamChanged("a", False, "refused")]
    world.wait(10.0)
    answer(world, "a", probes(world)["a"], 405)
    assert world.changes[1:] == [UpstreamChanged("a", True, "405 to OPTIONS")]
    world.wait(60.0)
    assert not probes(world)


def test_probe_over_udp_is_sent_again_until_it_is_answered() -> None:
    world = World(upstreams=(A, B))
    start, sent = world.now, []
    for _ in range(40):
        world.wait(0.1)
        sent += [(name, round(world.now - start, 1)) for name in probes(world)]
    assert sent == [("a", 0.1), ("b", 0.1), ("a", 0.5), ("a", 1.5), ("a", 3.5)]


def test_silence_ends_service_and_an_answer_begins_it() -> None:
    world = World(upstreams=(A, B), probing=Probing(10.0, 4.0, 0.0))
    world.wait(3.9)
    assert not changes(world)
    # One probe, and fourteen seconds later the second.
    world.wait(14.1)
    assert sorted(changes(world)) == [("a", False), ("b", False)]
    probes(world)
    world.wait(10.0)
    for name, probe in probes(world).items():
        answer(world, name, probe, 100)
        assert not changes(world)
        answer(world, name, probe)
        assert changes(world) == [(name, True)]
        # Once is enough.
        answer(world, name, probe)
    world.wait(9.9)
    assert not probes(world)
    world.wait(0.1)
    assert sorted(probes(world)) == ["a", "b"]


def test_503_does_not_count_as_reachable() -> None:
    world = World(upstreams=(A, B))
    for seconds in (0.0, 10.0):
        world.wait(seconds)
        for name, probe in probes(world).items():
            answer(world, name, probe, 503 if name == "a" else 483)
    assert world.changes == [UpstreamChanged("a", False, "503 to OPTIONS")]


@pytest.mark.parametrize(("method", "times"), [("INVITE", 1), ("MESSAGE", 2)])
def test_silence_to_a_request_is_a_reason_to_probe(method: str, times: int) -> None:
    """An INVITE is answered with 100 by the next hop; of others that is not known."""
    world = World(upstreams=(A,))
    alice = world.phone("alice", registers=False)
    for _ in range(times):
        assert not world.changes
        alice.send(method, BOB)
        world.wait(31.9)
        assert not probes(world)
        world.wait(0.2)
        assert list(probes(world)) == ["a"]
        # It is not probed twice at a time.
        world.edge._prober.hurry("a", world.now)
        assert not probes(world)
        world.wait(4.0)
        probes(world)
    assert world.changes == [UpstreamChanged("a", False, "no answer to OPTIONS")]


def test_answer_to_a_request_is_a_sign_of_life() -> None:
    world = World(upstreams=(A,))
    world.do(world.edge.upstream_failed(world.now, link=DATAGRAMS))
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB)
    message = world.upstream_request()
    answer(world, "a", message, 404)
    assert changes(world) == [("a", False), ("a", True)]


def test_upstream_out_of_service_is_probed_when_its_connection_opens() -> None:
    world = World(upstreams=(B,))
    world.do(world.edge.upstream_opened("b", world.now))
    assert not probes(world)
    world.do(world.edge.upstream_failed(world.now, reason="refused"))
    world.do(world.edge.upstream_opened("b", world.now))
    world.do(world.edge.upstream_opened("gone", world.now))
    answer(world, "b", probes(world)["b"])
    assert changes(world) == [("b", False), ("b", True)]


def test_failure_while_a_probe_is_under_way_does_not_add_another() -> None:
    world = World(upstreams=(A, B))
    world.wait(0.0)
    probes(world)
    world.do(world.edge.upstream_failed(world.now, upstream="b", link=STREAM))
    assert changes(world) == [("b", False)]
    world.wait(4.0)
    assert list(probes(world)) == ["a"]


def test_intervals_are_spread() -> None:
    world = World(upstreams=(A, B), probing=Probing(10.0, 4.0, 0.5))
    # The entropy of the test counts upwards, to almost nothing: here it is to be almost all.
    world.edge._prober._entropy = lambda size: b"\xff" * size
    world.wait(0.0)
    for name, probe in probes(world).items():
        answer(world, name, probe)
    world.wait(4.9)
    assert not probes(world)
    world.wait(0.2)
    assert sorted(probes(world)) == ["a", "b"]


def test_response_to_no_probe_is_dropped() -> None:
    world = World(upstreams=(A, B))
    world.wait(0.0)
    probe = probes(world)["a"]
    stray = probe.make_response(200)
    stray.replace_header("Via", "SIP/2.0/UDP 192.0.2.100:5080;branch=z9hG4bKother")
    world.from_upstream(stray, upstream="a")
    assert world.edge.dropped == 1
    # A client cannot answer in an upstream's place.
    alice = world.phone("alice", registers=False)
    alice.say(probe.make_response(200))
    assert world.edge.dropped == 2


def test_new_upstreams_are_probed_and_old_ones_are_not() -> None:
    world = World(upstreams=(A, B))
    world.wait(0.0)
    before = probes(world)
    c: Upstream = replace(A, name="c", host="192.0.2.203")
    world.edge.use_upstreams([A, c])
    world.wait(0.0)
    assert list(probes(world)) == ["c"]
    answer(world, "b", before["b"])
    assert world.edge.dropped == 1
    world.edge._prober.heard("b", world.now)
    world.edge._prober.hurry("b", world.now)
    assert not probes(world)
    world.wait(30.0)
    assert set(probes(world)) == {"a", "c"}


def test_handling_time_early_does_nothing() -> None:
    world = World(upstreams=(A, B))
    world.wait(0.0)
    probes(world)
    world.do(world.edge.handle_timeout(world.now))
    assert not probes(world)


def test_nodes_are_not_probed() -> None:
    cluster = Cluster("one", "two", "three")
    world = cluster.worlds["one"]
    world.wait(60.0)
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    world.wait(60.0)
    world.do(world.edge.upstream_opened("two", world.now))
    assert world.all_sent == []


def test_nodes_come_and_go_without_being_upstreams_out_of_service() -> None:
    """The location store says which nodes run: nothing is out of service after a restart."""
    world = Cluster("one", "two").worlds["one"]
    assert world.edge.upstream_statistics == {}
    actions = world.edge.upstream_failed(world.now, upstream="two")
    actions += world.edge.upstream_opened("two", world.now)
    assert [action for action in actions if isinstance(action, UpstreamChanged)] == []

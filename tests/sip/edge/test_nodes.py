"""Nodes that share a location store and are linked: calls, dialogs and failures between them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sip._location import Cluster
from tests.sip._phones import SDP, Dialog, Phone
from wsproto_sip.adapters.backoff import Backoff
from wsproto_sip.sip import SipRequest
from wsproto_sip.sip.edge.hook import HookRequest

BOB = "sip:bob@sip.test"


def pair() -> tuple[Cluster, Phone, Phone]:
    """Alice and bob, each at a node of its own."""
    cluster = Cluster("one", "two")
    return cluster, cluster.phone("one", "alice"), cluster.phone("two", "bob")


def call_between(
    cluster: Cluster, caller: Phone, callee: Phone
) -> tuple[Dialog[Phone], Dialog[Phone]]:
    """Set a call up; returns both sides."""
    caller.send("INVITE", callee.aor, body=SDP)
    cluster.run()
    caller.response(100)
    incoming = callee.request("INVITE")
    assert str(incoming.uri) == callee.contact
    assert incoming.body == SDP
    for status in (180, 200):
        answer = callee.answer(incoming, status)
        cluster.run()
        caller.response(status)
    # What was recorded on the way is the same for both sides.
    return (
        Dialog(caller, incoming, answer, caller=True),
        Dialog(callee, incoming, answer, caller=False),
    )


def test_a_call_between_two_nodes_from_its_beginning_to_its_end() -> None:
    cluster, alice, bob = pair()
    mine, theirs = call_between(cluster, alice, bob)
    # Two routes of each node: towards its client, and towards the other node.
    assert len(mine.route) == 4
    mine.send("ACK")
    cluster.run()
    bob.request("ACK")
    for dialog, phone, other in ((theirs, bob, alice), (mine, alice, bob)):
        dialog.send("INFO")
        cluster.run()
        info = other.request("INFO")
        other.answer(info, 200)
        cluster.run()
        phone.response(200)
    theirs.send("BYE")
    cluster.run()
    alice.answer(alice.request("BYE"), 200)
    cluster.run()
    bob.response(200)
    # Nothing of that has asked the store but the first INVITE.
    assert all(world.quiet() for world in cluster.worlds.values())
    for world in cluster.worlds.values():
        world.wait(64.0)
        assert world.edge.transactions == 0


def test_a_user_at_both_nodes_rings_at_both_and_the_first_answer_counts() -> None:
    cluster, alice, bob = pair()
    other = cluster.phone("one", "bob")
    alice.send("INVITE", BOB, body=SDP)
    cluster.run()
    alice.response(100)
    here, there = other.request("INVITE"), bob.request("INVITE")
    other.answer(here, 180)
    bob.answer(there, 180)
    cluster.run()
    other.answer(here, 200)
    cluster.run()
    assert [alice.response().status for _ in range(3)] == [180, 180, 200]
    cancelled = bob.request("CANCEL")
    bob.answer(cancelled, 200)
    bob.answer(there, 487)
    cluster.run()
    bob.request("ACK")
    assert cluster.worlds["one"].quiet()
    assert cluster.worlds["two"].quiet()


def test_a_caller_that_gives_up() -> None:
    cluster, alice, bob = pair()
    invite = alice.send("INVITE", BOB, body=SDP)
    cluster.run()
    incoming = bob.request("INVITE")
    bob.answer(incoming, 180)
    cluster.run()
    alice.follow("CANCEL", invite)
    cluster.run()
    bob.answer(bob.request("CANCEL"), 200)
    bob.answer(incoming, 487)
    cluster.run()
    bob.request("ACK")
    assert [alice.response().status for _ in range(4)] == [100, 180, 200, 487]


def test_a_connection_that_has_just_ended_at_the_other_node() -> None:
    """The store does not know yet: another flow of the client is tried, or the call gets 480."""
    cluster, alice, bob = pair()
    cluster.worlds["two"].edge.connection_closed(bob.cid, 1000.0)
    alice.send("INVITE", BOB)
    cluster.run()
    alice.response(100)
    alice.response(480)
    again = cluster.phone("one", "carol", outbound="urn:uuid:1")
    first = cluster.phone("two", "carol", outbound="urn:uuid:1")
    # The later registration is tried first.
    cluster.worlds["two"].edge.connection_closed(first.cid, 1000.0)
    alice.send("INVITE", again.aor)
    cluster.run()
    alice.response(100)
    again.request("INVITE")


def test_a_connection_at_a_node_that_is_about_to_stop_is_tried_last() -> None:
    cluster, alice, _ = pair()
    here = cluster.phone("one", "carol", outbound="urn:uuid:1")
    there = cluster.phone("two", "carol", outbound="urn:uuid:1")
    edge = cluster.worlds["one"].edge
    edge.use_nodes([replace(node, priority=1) for node in edge.upstreams])
    alice.send("INVITE", here.aor)
    cluster.run()
    incoming = here.request("INVITE")
    here.answer(incoming, 486)
    cluster.run()
    assert [alice.response().status for _ in range(2)] == [100, 486]
    assert there.heard == []
    # Its priority counts among equals: a device that its user prefers comes first.
    dave = cluster.phone("two", "dave")
    spare = cluster.phone("one", "dave", q=";q=0.5")
    alice.send("INVITE", dave.aor)
    cluster.run()
    dave.request("INVITE")
    assert spare.heard == []


def test_a_node_that_is_killed() -> None:
    cluster, alice, bob = pair()
    cluster.phone("two", "carol")
    carol = cluster.phone("one", "carol", q=";q=0.5")
    alice.send("INVITE", "sip:carol@sip.test")
    alice.send("INVITE", BOB)
    world = cluster.worlds["one"]
    world.obey(cluster.location)
    # What was sent is lost; the link finds out.
    world.all_sent.clear()
    cluster.stop("two")
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    cluster.run()
    # No call is lost while another binding lives.
    carol.request("INVITE")
    assert sorted(alice.response().status for _ in range(3)) == [100, 100, 480]
    # From when its key is gone nothing is sent there.
    alice.send("INVITE", BOB)
    cluster.run()
    assert [alice.response().status for _ in range(2)] == [100, 404]
    # Or it is known not to run, before the store knows.
    cluster.location.stopped.clear()
    cluster.introduce("one", "one")
    alice.send("INVITE", BOB)
    cluster.run()
    assert [alice.response().status for _ in range(2)] == [100, 480]
    assert bob.heard == []


@pytest.mark.parametrize("pause", [b"\0", b"\x80", b"\xff"], ids=["no pause", "half", "longest"])
@pytest.mark.parametrize("end", ["stops", "is killed", "is killed and forgotten"])
def test_a_client_of_a_node_that_goes_away_is_at_another_one_within_five_seconds(
    end: str, pause: bytes
) -> None:
    """From the end of its connection to the answer to its REGISTER, whatever the store knows."""
    cluster = Cluster("one", "two", "three")
    alice = cluster.phone("three", "alice")
    before = cluster.phone("one", "bob", outbound="urn:uuid:1")
    here = cluster.worlds["two"]
    # As reconnect() has it, for a client that has been connected for a while.
    backoff = Backoff(entropy=lambda size: pause * size)
    backoff.opened(here.now)
    cluster.wait(30.0)
    ended = here.now
    if end == "stops":
        before.hang_up()
        cluster.run()
        assert cluster.location.bindings(BOB) == []
    cluster.stop("one")
    if end == "is killed":
        # The entry of the node has not expired yet: its bindings count as if it still ran.
        cluster.location.stopped.clear()
    cluster.wait(backoff.failed(ended))
    after = Phone(here, "bob", registers=False, outbound="urn:uuid:1")
    # It is the same flow of the same instance (RFC 5626 §4.2).
    after.params = before.params
    fields = after.registration(expires=300)
    after.send("REGISTER", "sip:sip.test", *fields, to=f"<{after.aor}>")
    cluster.run()
    after.response(200)
    assert here.now - ended < 5.0
    # Calls reach it there alone, and nothing is tried at the node that is gone.
    alice.send("INVITE", BOB)
    cluster.run()
    alice.response(100)
    after.answer(after.request("INVITE"), 486)
    cluster.run()
    alice.response(486)
    assert [binding.node for binding in cluster.location.bindings(BOB)] == [here.node]


def test_a_node_that_is_killed_while_it_rings() -> None:
    cluster, alice, bob = pair()
    alice.send("INVITE", BOB)
    cluster.run()
    bob.answer(bob.request("INVITE"), 180)
    cluster.run()
    cluster.stop("two")
    world = cluster.worlds["one"]
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    assert [alice.response().status for _ in range(3)] == [100, 180, 480]


def test_a_node_without_room_is_like_an_upstream_without_room() -> None:
    cluster, alice, bob = pair()
    cluster.worlds["two"].edge._forwarder.transactions.held += 10_000
    alice.send("INVITE", BOB)
    cluster.run()
    alice.response(100)
    # It is not this node that has no room (RFC 3261 §16.7 step 6).
    alice.response(500)
    assert not any(isinstance(item, SipRequest) and item.method == "INVITE" for item in bob.heard)


def test_a_client_that_comes_to_another_node_goes_on_with_its_dialog() -> None:
    """Its routes name its old node, which still has the other side."""
    cluster = Cluster("one", "two")
    alice, bob = cluster.phone("one", "alice"), cluster.phone("one", "bob")
    mine, _ = call_between(cluster, alice, bob)
    mine.send("ACK")
    cluster.run()
    bob.request("ACK")
    moved = Phone(cluster.worlds["two"], "alice", registers=False)
    mine.phone = moved
    mine.send("BYE")
    cluster.run()
    bob.answer(bob.request("BYE"), 200)
    cluster.run()
    moved.response(200)


def test_a_dialog_whose_node_is_gone_goes_on_by_a_gruu() -> None:
    cluster = Cluster("one", "two", "three")
    alice = cluster.phone("one", "alice")
    bob = cluster.phone("two", "bob", outbound="urn:uuid:1")
    mine, _ = call_between(cluster, alice, bob)
    mine.target = "sip:bob@sip.test;gr=urn:uuid:1"
    bob.hang_up()
    again = cluster.phone("three", "bob", outbound="urn:uuid:1")
    mine.send("INFO")
    cluster.run()
    info = again.request("INFO")
    assert str(info.uri) == again.contact
    again.answer(info, 200)
    cluster.run()
    alice.response(200)
    # Without one, it has ended.
    mine.target = bob.contact
    mine.send("INFO")
    cluster.run()
    alice.response(430)


def test_what_a_node_sends_leads_to_a_connection_or_nowhere() -> None:
    cluster, alice, bob = pair()
    (binding,) = cluster.location.bindings(BOB)

    def sent(uri: str, *routes: str) -> int:
        fields = [("Route", f"<{route};lr>") for route in routes]
        alice.send("MESSAGE", uri, *fields)
        cluster.run()
        return alice.response().status

    token = binding.token
    there = f"sip:{token}@two.test:5070;transport=tcp"
    forged = ("A" if token[-1] != "A" else "B").join([token[:-1], ""])
    assert sent("sip:x@elsewhere.test", f"sip:{forged}@two.test:5070;transport=tcp") == 403
    assert sent(BOB, "sip:two.test:5070;transport=tcp") == 403
    assert sent("sip:x@elsewhere.test", "sip:two.test:5070;transport=tcp") == 403
    assert sent("sip:x@elsewhere.test", "sip:three.test:5070;transport=tcp") == 403
    assert sent("tel:+1", "sip:two.test:5070;transport=tcp") == 416
    # A client that knows a node's own token may not use it, in whichever place.
    assert sent("sip:x@elsewhere.test", there) == 403
    assert sent("sip:x@elsewhere.test", "sip:two.test:5070;transport=tcp", there) == 403
    assert bob.heard == []


def test_the_hook_is_asked_at_one_node_alone() -> None:
    asked: list[str] = []

    def hook(request: HookRequest) -> None:
        asked.append(request.request.method)

    cluster, alice, bob = pair()
    for world in cluster.worlds.values():
        world.edge._rooms.hook = hook
    alice.send("MESSAGE", BOB)
    cluster.run()
    bob.request("MESSAGE")
    assert asked == ["MESSAGE"]


def test_sips_wants_tls_between_nodes() -> None:
    cluster = Cluster("one", "two")
    alice = cluster.phone("one", "alice", transport="wss")
    bob = cluster.phone("two", "bob", transport="wss")
    alice.send("MESSAGE", "sips:bob@sip.test")
    cluster.run()
    alice.response(480)
    for name, other in (("one", "two"), ("two", "one")):
        secure = replace(Cluster.seen(other, name), transport="tls")
        cluster.worlds[name].edge.use_nodes([secure])
    alice.send("MESSAGE", "sips:bob@sip.test")
    cluster.run()
    assert str(bob.request("MESSAGE").uri) == bob.contact

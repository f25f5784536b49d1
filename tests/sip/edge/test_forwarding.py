"""Requests on their way and responses on theirs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.sip._location import Cluster
from tests.sip._phones import MODES, SDP, UPSTREAM, Dialog, Phone, World, call
from wsproto_sip.server.shares import Party, ShareConfig
from wsproto_sip.sip import (
    SipLimits,
    SipRequest,
    SipResponse,
    SipValueError,
    parse_message,
)
from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM, EdgeMode, Upstream
from wsproto_sip.sip.edge.forking import Target
from wsproto_sip.sip.edge.transactions import key_of
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig

BOB = "sip:bob@sip.test"
TCP = replace(UPSTREAM, transport="tcp")


def ring(caller: Phone, *phones: Phone) -> list[SipRequest]:
    """Call bob; every one of his telephones rings."""
    caller.send("INVITE", BOB, body=SDP)
    caller.response(100)
    invites = [phone.request("INVITE") for phone in phones]
    for phone, invite in zip(phones, invites, strict=True):
        phone.answer(invite, 180)
        caller.response(180)
    return invites


def failed(caller: Phone, status: int) -> SipResponse:
    """Refuse the call; the caller acknowledges that."""
    response = caller.response(status)
    number = response.via.branch or ""
    request = caller.make("ACK", BOB, to=str(response.to), call_id=response.call_id)
    request.replace_header("Via", f"SIP/2.0/WS x{caller.cid}.invalid;branch={number}")
    request.replace_header("CSeq", f"{response.cseq.number} ACK")
    caller.say(request)
    return response


# -- one target ------------------------------------------------------------------------------------


def test_a_message_and_its_response() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    text = "Grüße, 世界 🙂".encode()
    sent = alice.send("MESSAGE", BOB, ("Content-Type", "text/plain"), body=text)
    got = bob.request("MESSAGE")
    assert got.body == text
    assert str(got.uri) == bob.contact
    assert got.max_forwards == 69
    assert got.content_type == "text/plain"
    assert [via.host for via in got.vias] == ["edge.test", f"x{alice.cid}.invalid"]
    assert got.via.transport == "WS"
    assert got.vias[1].received == "192.0.2.1"
    assert got.vias[1].rport == alice.source.port
    answered = bob.answer(got, 202, ("X-Own", "1"))
    response = alice.response(202)
    assert response.vias == got.vias[1:]
    assert response.via.branch == sent.via.branch
    assert response.get("x-own") == "1"
    assert world.edge.transactions == 0
    # The same response once more belongs to nothing.
    before = world.edge.dropped
    bob.say(answered)
    assert world.quiet()
    assert world.edge.dropped == before + 1


def test_bytes_that_are_not_text_arrive_unchanged() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB, ("Content-Type", "application/octet-stream"), body=b"\xff\x00")
    got = bob.request("MESSAGE")
    assert got.body == b"\xff\x00"
    assert isinstance(got.to_websocket(), bytes)


@pytest.mark.parametrize("status", [404, 486, 603])
def test_a_refused_call_is_acknowledged_here(status: int) -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    bob.answer(invite, status)
    ack = bob.request("ACK")
    assert ack.uri_text == invite.uri_text
    assert ack.via == invite.via
    assert len(ack.vias) == 1
    assert (ack.call_id, ack.cseq.number) == (invite.call_id, 1)
    assert ack.to.tag == f"t{bob.cid}"
    assert world.edge.transactions == 1
    failed(alice, status)
    assert world.quiet()
    assert world.edge.transactions == 0


def test_a_refusal_without_ack_is_forgotten() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    bob.answer(invite, 486)
    bob.request("ACK")
    alice.response(486)
    bob.answer(invite, 486)  # once more
    bob.request("ACK")
    world.wait(31.9)
    assert world.edge.transactions == 1
    world.wait(0.2)
    assert world.edge.transactions == 0
    assert world.quiet()


def test_connections_are_in_a_call_from_its_invite_to_its_end() -> None:
    world = World()
    alice, bob, carol = world.phone("alice"), world.phone("bob"), world.phone("carol")

    def in_call() -> list[str]:
        phones = (alice, bob, carol)
        return [phone.user for phone in phones if world.edge.is_in_call(phone.cid)]

    (invite,) = ring(alice, bob)
    assert in_call() == ["alice", "bob"]
    bob.answer(invite, 486)
    bob.request("ACK")
    failed(alice, 486)
    assert in_call() == []
    here, _ = call(alice, bob)
    assert in_call() == ["alice", "bob"]
    here.send("BYE")
    bob.answer(bob.request("BYE"), 200)
    alice.response(200)
    assert in_call() == []


def test_every_success_goes_through() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    for _ in range(2):
        bob.answer(invite, 200)
        alice.response(200)
    bob.answer(invite, 180)
    assert world.quiet()
    bob.answer(invite, 486)
    assert world.quiet()
    world.wait(33)
    assert world.edge.transactions == 0


def test_only_one_response_to_anything_else() -> None:
    world = World()
    alice, bob, other = world.phone("alice"), world.phone("bob"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    one, two = bob.request("MESSAGE"), other.request("MESSAGE")
    bob.answer(one, 200)
    alice.response(200)
    other.answer(two, 200)
    assert world.quiet()
    assert world.edge.transactions == 0


def test_a_provisional_response_to_anything_else() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    message = bob.request("MESSAGE")
    bob.answer(message, 183)
    alice.response(183)
    bob.answer(message, 200)
    alice.response(200)


def test_a_503_of_a_client_becomes_a_500() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    bob.answer(bob.request("MESSAGE"), 503)
    alice.response(500)


def test_the_same_request_again() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    sent = alice.send("INVITE", BOB)
    alice.response(100)
    bob.request("INVITE")
    alice.say(sent)
    assert world.quiet()


# -- responses without a transaction ---------------------------------------------------------------


def test_a_response_counts_only_on_its_own_connection() -> None:
    world = World()
    alice, bob, mallory = world.phone("alice"), world.phone("bob"), world.phone("mallory")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = bob.request("INVITE")
    before = world.edge.dropped
    mallory.answer(invite, 200)
    alice.answer(invite, 200)
    assert world.quiet()
    assert world.edge.dropped == before + 2
    bob.answer(invite, 200)
    alice.response(200)


def test_a_response_cannot_choose_where_it_goes() -> None:
    world = World()
    alice, bob, carol = world.phone("alice"), world.phone("bob"), world.phone("carol")
    alice.send("MESSAGE", BOB)
    message = bob.request("MESSAGE")
    response = message.make_response(200)
    other = f"SIP/2.0/WS x{carol.cid}.invalid;branch=z9hG4bKc;received={carol.source.host}"
    response.replace_header("Via", f"{message.via}, {other};rport={carol.source.port}")
    bob.say(response)
    assert alice.response(200).vias == message.vias[1:]
    assert world.quiet()


def test_a_callee_cannot_answer_for_another_dialog_of_the_caller() -> None:
    world = World()
    alice, bob, carol = [world.phone(user) for user in ("alice", "bob", "carol")]
    here, _ = call(alice, carol)
    invite = alice.send("INVITE", BOB, body=SDP)
    alice.response(100)
    incoming = bob.request("INVITE")
    contact = ("Contact", f"<{bob.contact}>")
    forged = incoming.make_response(200, to_tag=f"t{carol.cid}", headers=[contact])
    forged.replace_header("Call-ID", here.call_id)
    forged.replace_header("From", here.local)
    forged.replace_header("CSeq", "7 INVITE")
    bob.say(forged)
    heard = alice.response(200)
    assert (heard.call_id, heard.cseq, heard.from_.tag) == (
        invite.call_id,
        invite.cseq,
        invite.from_.tag,
    )
    # The edge itself takes it for the call of this INVITE, too.
    dialog = Dialog(alice, invite, heard, caller=True)
    dialog.send("BYE")
    bob.answer(bob.request("BYE"), 200)
    assert len(world.edge.journal.answered) == 1


def test_a_refusal_with_another_tag_is_acknowledged_with_that_one() -> None:
    """RFC 3261 §17.1.1.3: as after a restart of the callee, which has forgotten the dialog."""
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    here.send("INVITE", body=SDP)
    alice.response(100)
    refusal = bob.request("INVITE").make_response(481)
    refusal.replace_header("To", f"<{bob.aor}>;tag=new")
    bob.say(refusal)
    assert bob.request("ACK").to.tag == "new"
    assert alice.response(481).to.tag == f"t{bob.cid}"


@pytest.mark.parametrize("hops", [0, 1])
def test_the_response_to_a_request_from_far_away_is_read(hops: int) -> None:
    """Its last hop with the usual Max-Forwards has 70 Vias, and adds one."""
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    request = alice.make("MESSAGE", BOB, hops=1)
    for number in range(69 + hops):
        request.insert_header("Via", f"SIP/2.0/TCP p{number}.test;branch=z9hG4bK{number}")
    alice.say(request)
    if hops:
        assert alice.response(483).vias[-1].host == f"x{alice.cid}.invalid"
        assert not bob.heard
        return
    incoming = bob.request("MESSAGE")
    assert len(incoming.vias) == 71
    bob.answer(incoming, 200)
    assert len(alice.response(200).vias) == 70


def test_without_a_bound_there_is_room_for_any_number_of_hops() -> None:
    world = World(limits=SipLimits(max_vias=None))
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CSeq", "1 INFO"),
        ("Via", "SIP/2.0/WS edge.test:8080;branch=z9hG4bKnone, SIP/2.0/WS x.invalid"),
        ("Via", "SIP/2.0/WS other.test;branch=z9hG4bKnone, SIP/2.0/WS x.invalid"),
        ("Via", "SIP/2.0/WS edge.test:8080, SIP/2.0/WS x.invalid"),
        ("Via", "nothing"),
        ("CSeq", "1"),
    ],
)
def test_responses_to_nothing(field: str, value: str) -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    response = bob.request("MESSAGE").make_response(200)
    response.replace_header(field, value)
    before = world.edge.dropped
    bob.say(response)
    assert world.quiet()
    assert world.edge.dropped == before + 1


# -- CANCEL ----------------------------------------------------------------------------------------


def cancel(caller: Phone, invite: SipRequest, *fields: tuple[str, str]) -> None:
    """Give a call up."""
    request = caller.make("CANCEL", BOB, *fields, call_id=invite.call_id)
    request.replace_header("Via", str(invite.vias[-1].without_param("received")))
    caller.say(request)


def test_cancel() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    cancel(alice, invite, ("Reason", "SIP;cause=200"))
    alice.response(200)
    given_up = bob.request("CANCEL")
    assert given_up.via == invite.via
    assert len(given_up.vias) == 1
    assert str(given_up.cseq) == "1 CANCEL"
    assert given_up.uri_text == invite.uri_text
    assert given_up.get("reason") == "SIP;cause=200"
    bob.answer(given_up, 200)
    bob.answer(invite, 487)
    assert bob.request("ACK").via == invite.via
    failed(alice, 487)
    assert world.edge.transactions == 0
    cancel(alice, invite)
    alice.response(481)


def test_cancel_waits_for_a_sign_of_life() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = bob.request("INVITE")
    for _ in range(2):
        cancel(alice, invite)
        alice.response(200)
    assert world.quiet()
    bob.answer(invite, 100)
    bob.request("CANCEL")
    bob.answer(invite, 180)
    alice.response(180)
    assert world.quiet()


def test_cancel_of_a_silent_branch_ends_the_call_with_487() -> None:
    """Neither a word nor a 487 comes: the caller gets its 487 all the same."""
    world = World()
    alice, bob, other = world.phone("alice"), world.phone("bob"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    silent, ringing = bob.request("INVITE"), other.request("INVITE")
    other.answer(ringing, 180)
    alice.response(180)
    cancel(alice, ringing)
    alice.response(200)
    other.request("CANCEL")
    world.wait(33)
    failed(alice, 487)
    assert world.edge.transactions == 0
    bob.answer(silent, 486)
    assert world.quiet()


def test_a_success_that_crosses_the_cancel() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    cancel(alice, invite)
    alice.response(200)
    bob.request("CANCEL")
    bob.answer(invite, 200)
    assert str(alice.response(200).cseq) == "1 INVITE"


def test_only_the_caller_may_cancel() -> None:
    world = World()
    alice, bob, mallory = world.phone("alice"), world.phone("bob"), world.phone("mallory")
    (invite,) = ring(alice, bob)
    cancel(mallory, invite)
    mallory.response(481)
    assert world.quiet()


# -- forks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_one_winner(mode: EdgeMode) -> None:
    world = World(mode)
    alice = world.phone("alice")
    phones = [world.phone("bob") for _ in range(3)]
    alice.send("INVITE", BOB)
    alice.response(100)
    one, two, three = [phone.request("INVITE") for phone in phones]
    assert len({invite.via.branch for invite in (one, two, three)}) == 3
    phones[0].answer(one, 180)
    phones[1].answer(two, 180)
    for _ in range(2):
        alice.response(180)
    phones[1].answer(two, 200)
    accepted = alice.response(200)
    assert accepted.to.tag == f"t{phones[1].cid}"
    lost = phones[0].request("CANCEL")
    assert lost.get("reason") == 'SIP;cause=200;text="Call completed elsewhere"'
    assert not phones[2].heard
    # The third had not said anything; it is cancelled as soon as it does.
    phones[2].answer(three, 180)
    phones[2].request("CANCEL")
    for phone, invite in ((phones[0], one), (phones[2], three)):
        phone.answer(invite, 487)
        phone.request("ACK")
    assert world.quiet()
    world.wait(33)
    assert world.edge.transactions == 0


def test_a_second_success_is_forwarded_too() -> None:
    world = World()
    alice, bob, other = world.phone("alice"), world.phone("bob"), world.phone("bob")
    one, two = ring(alice, bob, other)
    bob.answer(one, 200)
    alice.response(200)
    other.request("CANCEL")
    other.answer(two, 200)
    assert alice.response(200).to.tag == f"t{other.cid}"
    assert world.quiet()


def test_all_have_failed() -> None:
    world = World()
    alice, bob, other = world.phone("alice"), world.phone("bob"), world.phone("bob")
    one, two = ring(alice, bob, other)
    bob.answer(one, 486)
    bob.request("ACK")
    assert world.quiet()
    other.answer(two, 480)
    other.request("ACK")
    assert failed(alice, 486).to.tag == f"t{bob.cid}"


def test_a_decline_stops_all() -> None:
    world = World()
    alice = world.phone("alice")
    bob, other = world.phone("bob"), world.phone("bob")
    world.phone("bob", q=";q=0.1")
    one, two = ring(alice, bob, other)
    bob.answer(one, 603)
    bob.request("ACK")
    other.request("CANCEL")
    other.answer(two, 487)
    other.request("ACK")
    failed(alice, 603)
    assert world.quiet()


def test_one_after_the_other() -> None:
    world = World()
    alice = world.phone("alice")
    last = world.phone("bob", q=";q=0.1")
    first = world.phone("bob", q=";q=0.9")
    (invite,) = ring(alice, first)
    assert not last.heard
    first.answer(invite, 486)
    first.request("ACK")
    second = last.request("INVITE")
    assert second.body == SDP
    last.answer(second, 200)
    alice.response(200)


def test_a_contact_that_goes_while_it_waits() -> None:
    world = World()
    alice = world.phone("alice")
    last = world.phone("bob", q=";q=0.1")
    first = world.phone("bob", q=";q=0.9")
    (invite,) = ring(alice, first)
    last.hang_up()
    first.answer(invite, 404)
    first.request("ACK")
    failed(alice, 404)
    assert world.quiet()


def test_a_request_whose_waiting_clients_are_gone_gets_480() -> None:
    world = World()
    alice = world.phone("alice")
    first = world.phone("bob", q=";q=0.9")
    last = world.phone("bob", q=";q=0.1")
    alice.send("MESSAGE", BOB)
    message = first.request("MESSAGE")
    last.hang_up()
    first.answer(message, 500)
    # Its own 480 is better than the other's 500.
    alice.response(480)


# -- flows that fail -------------------------------------------------------------------------------


def flows(world: World) -> tuple[Phone, Phone, Phone]:
    """Alice, and one client of bob with two flows, the first registered one second."""
    alice = world.phone("alice")
    first = world.phone("bob", outbound="urn:uuid:b")
    world.now += 1
    return alice, first, world.phone("bob", outbound="urn:uuid:b")


def test_the_other_flow_is_tried() -> None:
    world = World()
    alice, older, newer = flows(world)
    (invite,) = ring(alice, newer)
    assert not older.heard
    newer.answer(invite, 430)
    newer.request("ACK")
    again = older.request("INVITE")
    assert again.body == SDP
    older.answer(again, 430)
    older.request("ACK")
    failed(alice, 430)


def test_the_other_flow_when_the_first_is_lost() -> None:
    world = World()
    alice, older, newer = flows(world)
    ring(alice, newer)
    newer.hang_up()
    older.answer(older.request("INVITE"), 200)
    alice.response(200)


def test_no_other_flow_for_a_call_that_is_given_up() -> None:
    world = World()
    alice, older, newer = flows(world)
    (invite,) = ring(alice, newer)
    cancel(alice, invite)
    alice.response(200)
    newer.hang_up()
    failed(alice, 480)
    assert not older.heard


def test_the_other_flow_where_the_first_is_gone_before_its_turn() -> None:
    world = World()
    alice = world.phone("alice")
    busy = world.phone("bob", q=";q=1")
    older = world.phone("bob", q=";q=0.5", outbound="urn:uuid:b")
    world.now += 1
    newer = world.phone("bob", q=";q=0.5", outbound="urn:uuid:b")
    (invite,) = ring(alice, busy)
    newer.hang_up()
    busy.answer(invite, 486)
    busy.request("ACK")
    older.request("INVITE")


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_the_called_side_is_lost(method: str) -> None:
    world = World()
    alice, bob, other = world.phone("alice"), world.phone("bob"), world.phone("bob")
    alice.send(method, BOB)
    if method == "INVITE":
        alice.response(100)
    request = bob.request(method)
    other.request(method)
    bob.hang_up()
    assert world.quiet()
    other.hang_up()
    alice.response(480)
    assert str(request.uri) == bob.contact
    alice.send(method, BOB)
    alice.response(404)


def test_the_caller_is_lost() -> None:
    world = World()
    alice, bob, carol = world.phone("alice"), world.phone("bob"), world.phone("carol")
    (invite,) = ring(alice, bob)
    alice.send("MESSAGE", "sip:carol@sip.test")
    message = carol.request("MESSAGE")
    alice.hang_up()
    bob.request("CANCEL")
    bob.answer(invite, 487)
    bob.request("ACK")
    carol.answer(message, 200)
    world.wait(33)
    assert world.edge.transactions == 0
    assert world.quiet()


def test_a_connection_of_the_same_number_is_another_one() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    alice.hang_up()
    bob.request("CANCEL")
    world.numbers = iter([alice.cid])  # type: ignore[assignment]
    again = world.phone("carol", registers=False)
    bob.answer(invite, 200)
    assert not again.heard


# -- time ------------------------------------------------------------------------------------------


def test_an_unanswered_call() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    bob.request("INVITE")
    world.wait(31.9)
    assert world.quiet()
    world.wait(0.2)
    failed(alice, 408)


def test_some_ring_and_some_do_not() -> None:
    world = World()
    alice, silent, bob = world.phone("alice"), world.phone("bob"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    silent.request("INVITE")
    invite = bob.request("INVITE")
    bob.answer(invite, 180)
    alice.response(180)
    world.wait(60)
    assert world.quiet()
    bob.answer(invite, 486)
    bob.request("ACK")
    failed(alice, 486)


def test_a_call_that_rings_for_ever() -> None:
    world = World(ring_timeout=185.0)
    alice, bob = world.phone("alice"), world.phone("bob")
    (invite,) = ring(alice, bob)
    world.wait(180)
    bob.answer(invite, 183)
    alice.response(183)
    world.wait(184)
    assert world.quiet()
    world.wait(2)
    bob.request("CANCEL")
    assert world.quiet()
    world.wait(32)
    failed(alice, 408)
    bob.answer(invite, 487)
    assert world.edge.transactions == 0


def test_silence_after_other_methods_is_not_reported() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    message = bob.request("MESSAGE")
    world.wait(33)
    assert world.edge.transactions == 0
    bob.answer(message, 200)
    assert world.quiet()


def test_a_late_success_after_all() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = bob.request("INVITE")
    world.wait(33)
    alice.response(408)
    bob.answer(invite, 200)
    alice.response(200)
    bob.answer(invite, 180)
    assert world.quiet()


def test_a_keep_alive_is_answered_at_once() -> None:
    world = World()
    alice = world.phone("alice")
    alice.say("\r\n\r\n")
    assert alice.heard.pop() == "\r\n"


def test_early_calls_do_nothing() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    bob.request("INVITE")
    assert world.edge.next_deadline() == world.now + 32
    assert world.edge.handle_timeout(world.now + 31) == []


# -- breadth (RFC 5393) ----------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "parts"), [(None, [20, 20, 20]), (7, [3, 2, 2]), (3, [1, 1, 1])])
def test_the_breadth_of_a_request_is_divided_among_its_branches(
    given: int | None, parts: list[int]
) -> None:
    world = World()
    alice = world.phone("alice")
    bobs = [world.phone("bob") for _ in parts]
    fields = [] if given is None else [("Max-Breadth", str(given))]
    alice.send("INVITE", BOB, *fields)
    invites = [bob.request("INVITE") for bob in bobs]
    assert sorted(int(i.get("max-breadth") or "") for i in invites) == sorted(parts)


def test_more_targets_than_breadth_are_tried_one_after_the_other() -> None:
    """Two branches that double at each of many proxies make no more than the breadth allows."""
    world = World()
    alice = world.phone("alice")
    bobs = [world.phone("bob") for _ in range(3)]
    alice.send("INVITE", BOB, ("Max-Breadth", "2"))
    alice.response(100)
    first, second, last = bobs
    for bob in (first, second):
        invite = bob.request("INVITE")
        assert invite.get("max-breadth") == "1"
        assert not last.heard
        bob.answer(invite, 486)
        bob.request("ACK")
    invite = last.request("INVITE")
    assert invite.get("max-breadth") == "2"
    last.answer(invite, 180)
    alice.response(180)
    last.answer(invite, 486)
    alice.response(486)


@pytest.mark.parametrize(("value", "status"), [("0", 440), ("-1", 400), ("many", 400)])
def test_a_request_without_breadth_goes_nowhere(value: str, status: int) -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    assert alice.ask("MESSAGE", BOB, ("Max-Breadth", value)).status == status
    assert not bob.heard
    assert world.edge.transactions == 0


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"transactions": ShareConfig(1, reserve=0)},
        {"transactions": ShareConfig(100, per_connection=1)},
        {"transactions": ShareConfig(100, per_address=1)},
        {"pending_bytes": ShareConfig(1_200, reserve=0)},
        {"pending_bytes": ShareConfig(10_000, per_connection=450)},
    ],
)
def test_no_more_than_so_much(options: dict[str, Any]) -> None:
    world = World(**options)
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB)
    first = bob.request("MESSAGE")
    alice.send("MESSAGE", BOB)
    assert alice.response(503).get("retry-after") == "5"
    bob.answer(first, 200)
    alice.response(200)
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")
    assert world.edge.transactions == 1


def test_a_request_too_large_for_the_next_hop_is_refused() -> None:
    """A next hop with the same bound would close its connection."""
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    limit = world.edge.config.limits.max_message_size
    assert limit is not None
    alice.send("MESSAGE", BOB, body=bytes(limit - 3000))
    assert len(bob.request("MESSAGE").to_bytes()) <= limit
    alice.send("MESSAGE", BOB, body=bytes(limit - 1500))
    alice.response(513)
    assert world.edge.transactions == 1


@pytest.mark.parametrize(
    "options",
    [
        {"transactions": ShareConfig(100, per_connection=1)},
        {"pending_bytes": ShareConfig(10_000, per_connection=450)},
    ],
)
def test_one_connection_does_not_use_up_anothers_share(options: dict[str, Any]) -> None:
    world = World(**options)
    alice, bob, carol = world.phone("alice"), world.phone("bob"), world.phone("carol")
    alice.send("MESSAGE", BOB)
    carol.send("MESSAGE", BOB)
    for _ in range(2):
        bob.request("MESSAGE")


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_request_that_cannot_be_sent_is_not_pending(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SipValueError("cannot be written")

    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    monkeypatch.setattr(world.edge._rooms.router, "prepare", fail)
    alice.send(method, BOB)
    if method == "INVITE":
        alice.response(100)
    alice.response(400)
    assert world.edge.transactions == 0
    assert not bob.heard


def test_bodies_are_not_kept() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", BOB, body=b"x" * 50_000)
    assert len(bob.request("INVITE").body) == 50_000
    table = world.edge._forwarder._table
    connection = world.edge._connections.get(alice.cid)
    assert connection is not None
    (transaction,) = table.came_from(connection.flow)
    assert transaction.request.body == b""
    assert transaction.branches[0].request.body == b""


# -- an upstream that loses datagrams --------------------------------------------------------------


def outward(world: World, method: str, *, body: bytes = SDP) -> tuple[Phone, SipRequest]:
    alice = world.phone("alice", registers=False)
    alice.send(method, BOB, body=body)
    if method == "INVITE":
        alice.response(100)
    return alice, world.upstream_request()


def times(world: World, seconds: int) -> list[float]:
    """Return the times when more was sent to the upstream."""
    start, sent = world.now, []
    for _ in range(seconds * 10):
        world.wait(0.1)
        sent += [round(world.now - start, 1)] * len(world.upstream)
        world.upstream.clear()
    return sent


def test_an_invite_is_sent_again_until_it_is_answered() -> None:
    world = World(upstream=UPSTREAM)
    alice, invite = outward(world, "INVITE")
    assert invite.via.transport == "UDP"
    assert "rport" in invite.via.params
    assert (invite.via.host, invite.via.port) == ("192.0.2.100", 5080)
    assert times(world, 8) == [0.5, 1.5, 3.5, 7.5]
    world.from_upstream(invite.make_response(100))
    assert times(world, 20) == []
    world.from_upstream(invite.make_response(486))
    assert world.upstream_request().method == "ACK"
    world.from_upstream(invite.make_response(486))
    assert world.upstream_request().method == "ACK"
    failed(alice, 486)
    assert world.edge.transactions == 0


def test_the_whole_invite_is_sent_again() -> None:
    world = World(upstream=UPSTREAM)
    _, invite = outward(world, "INVITE")
    world.wait(0.6)
    assert world.upstream_request().to_bytes() == invite.to_bytes()
    assert invite.body == SDP


def test_something_else_is_sent_again_more_slowly() -> None:
    world = World(upstream=UPSTREAM)
    alice, message = outward(world, "MESSAGE")
    assert times(world, 16) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5]
    world.from_upstream(message.make_response(200))
    alice.response(200)
    assert times(world, 40) == []


def test_a_provisional_response_slows_it_down() -> None:
    world = World(upstream=UPSTREAM)
    alice, message = outward(world, "MESSAGE")
    world.from_upstream(message.make_response(183))
    alice.response(183)
    assert times(world, 9) == [0.5, 4.5, 8.5]


def test_a_cancel_is_sent_again_too() -> None:
    world = World(upstream=UPSTREAM)
    alice, invite = outward(world, "INVITE")
    world.from_upstream(invite.make_response(180))
    alice.response(180)
    cancel(alice, invite)
    alice.response(200)
    given_up = world.upstream_request()
    assert given_up.method == "CANCEL"
    assert times(world, 4) == [0.5, 1.5, 3.5]
    world.from_upstream(invite.make_response(180))
    alice.response(180)
    assert times(world, 4) == [3.5]
    world.from_upstream(given_up.make_response(200))
    assert times(world, 8) == []
    world.from_upstream(invite.make_response(487))
    world.upstream_request()
    failed(alice, 487)
    # Of a CANCEL that was never sent there is no response.
    other, invite = outward(world, "INVITE")
    stray = invite.make_response(200)
    stray.replace_header("CSeq", "1 CANCEL")
    world.from_upstream(stray)
    assert world.quiet()
    assert not other.heard


def test_nothing_is_sent_again_over_tcp() -> None:
    world = World(upstream=TCP)
    _, invite = outward(world, "INVITE")
    assert invite.via.transport == "TCP"
    assert "rport" not in invite.via.params
    assert times(world, 20) == []


LARGE = b"v=0\r\n" + b"a=candidate:1 1 udp 1 192.0.2.2 9 typ host\r\n" * 40


def test_a_large_request_goes_over_tcp() -> None:
    """RFC 3261 §18.1.1; and what belongs to it goes the same way."""
    world = World(upstream=UPSTREAM)
    alice, invite = outward(world, "INVITE", body=LARGE)
    assert len(invite.to_bytes()) > 1300
    assert (invite.via.transport, invite.via.host, invite.via.port) == ("TCP", "192.0.2.100", 5080)
    # Within the dialog a small request may come as a datagram.
    assert "transport" not in invite.record_routes[0].sip_uri.params
    assert times(world, 8) == []
    world.from_upstream(invite.make_response(180), link=STREAM)
    alice.response(180)
    cancel(alice, invite)
    alice.response(200)
    given_up = world.upstream_request()
    assert given_up.method == "CANCEL"
    assert given_up.via == invite.via
    assert times(world, 8) == []
    world.from_upstream(given_up.make_response(200), link=STREAM)
    world.from_upstream(invite.make_response(487), link=STREAM)
    assert world.upstream_request().method == "ACK"
    failed(alice, 487)
    assert world.links == [STREAM] * 3
    assert world.quiet()


@pytest.mark.parametrize("limit", [None, 1300])
def test_requests_sent_as_datagrams(limit: int | None) -> None:
    world = World(upstream=replace(UPSTREAM, datagram_limit=limit))
    _, invite = outward(world, "INVITE", body=SDP if limit else LARGE)
    assert invite.via.transport == "UDP"
    assert world.links == [DATAGRAMS]


def test_a_large_request_is_a_datagram_without_a_connection() -> None:
    world = World(upstream=UPSTREAM)
    alice, large = outward(world, "INVITE", body=LARGE)
    world.do(world.edge.upstream_failed(world.now))
    invite = world.upstream_request()
    assert (invite.body, invite.via.branch) == (LARGE, large.via.branch)
    assert invite.via.transport == "UDP"
    assert "rport" in invite.via.params
    assert world.links == [STREAM, DATAGRAMS]
    # Once more: nothing waits for a connection any more.
    world.do(world.edge.upstream_failed(world.now))
    assert times(world, 4) == [0.5, 1.5, 3.5]
    world.from_upstream(invite.make_response(404))
    ack = world.upstream_request()
    assert (ack.method, ack.via) == ("ACK", invite.via)
    failed(alice, 404)
    # For a while nothing else is tried.
    other, message = outward(world, "MESSAGE", body=LARGE)
    assert message.via.transport == "UDP"
    world.from_upstream(message.make_response(200))
    other.response(200)
    world.wait(40)
    _, message = outward(world, "MESSAGE", body=LARGE)
    assert message.via.transport == "TCP"


def test_a_large_request_that_was_given_up_is_not_a_datagram() -> None:
    world = World(upstream=UPSTREAM)
    alice, invite = outward(world, "INVITE", body=LARGE)
    cancel(alice, invite)
    alice.response(200)
    world.do(world.edge.upstream_failed(world.now))
    failed(alice, 487)
    assert world.quiet()


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_request_with_an_icmp_error_is_answered_at_once(method: str) -> None:
    """RFC 3261 §18.4: an ICMP error is an error of the transport, and no reason to wait."""
    world = World(upstream=UPSTREAM)
    alice, _ = outward(world, method)
    world.do(world.edge.upstream_failed(world.now, link=DATAGRAMS))
    failed(alice, 503)
    world.upstream.clear()
    world.wait(3)
    assert world.quiet()
    # What the upstream has answered it has got.
    bob, invite = outward(world, "INVITE")
    world.from_upstream(invite.make_response(100))
    world.do(world.edge.upstream_failed(world.now, link=DATAGRAMS))
    assert not bob.heard


def test_without_a_connection_nothing_goes_over_tcp() -> None:
    """RFC 3261 §16.9, §16.7 step 6: no request can reach the upstream, so 503 is the truth."""
    world = World(upstream=TCP)
    alice, _ = outward(world, "INVITE")
    bob, invite = outward(world, "INVITE")
    world.from_upstream(invite.make_response(180))
    bob.response(180)
    world.do(world.edge.upstream_failed(world.now))
    assert isinstance(refusal := alice.heard[-1], SipResponse)
    assert refusal.get("retry-after") == "10"
    failed(alice, 503)
    # A telephone that rings already does not need it.
    world.from_upstream(invite.make_response(486))
    world.upstream_request()
    failed(bob, 486)
    assert world.quiet()


@pytest.mark.parametrize(
    ("upstream", "body", "transport", "link"),
    [
        (UPSTREAM, b"", "UDP", DATAGRAMS),
        (UPSTREAM, LARGE, "TCP", STREAM),
        (TCP, LARGE, "TCP", STREAM),
    ],
)
def test_the_ack_of_a_call_that_the_upstream_routes(
    upstream: Upstream, body: bytes, transport: str, link: int
) -> None:
    world = World(upstream=upstream)
    alice, invite = outward(world, "INVITE")
    ok = invite.make_response(200, to_tag="b", headers=[("Contact", "<sip:b@192.0.2.9>")])
    for route in invite.get_all("record-route"):
        ok.add_header("Record-Route", route)
    world.from_upstream(ok)
    here = Dialog(alice, invite, alice.response(200), caller=True)
    here.send("ACK", body=body)
    ack = world.upstream_request()
    assert (ack.method, ack.via.transport, ack.body) == ("ACK", transport, body)
    assert not ack.routes
    assert world.links[-1] == link


def inward(world: World, method: str) -> tuple[Phone, SipRequest]:
    """Send a request from the upstream to a client registered there."""
    alice = world.phone("alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", ("Supported", "path"), contact=False)
    register = world.upstream_request()
    world.from_upstream(register.make_response(200))
    alice.response(200)
    (path,) = register.paths
    request = SipRequest(
        method,
        alice.contact,
        [
            ("Via", "SIP/2.0/UDP 192.0.2.200:5060;rport;branch=z9hG4bKu"),
            ("Max-Forwards", "70"),
            ("Route", f"<{path.uri}>"),
            ("From", "<sip:bob@sip.test>;tag=1"),
            ("To", "<sip:alice@sip.test>"),
            ("Call-ID", "inward"),
            ("CSeq", f"1 {method}"),
            ("Contact", "<sip:bob@192.0.2.9>"),
        ],
    )
    world.from_upstream(request)
    return alice, request


def upstream_ack(request: SipRequest) -> SipRequest:
    ack = request.copy()
    fields = [(name, request.get(name) or "") for name in ("via", "route", "from", "to", "call-id")]
    return SipRequest("ACK", ack.uri, [*fields, ("CSeq", "1 ACK")])


def test_a_refusal_is_sent_again_until_it_is_acknowledged() -> None:
    world = World(upstream=UPSTREAM)
    alice, request = inward(world, "INVITE")
    assert world.upstream_response().status == 100
    alice.answer(alice.request("INVITE"), 486)
    alice.request("ACK")
    refusal = world.upstream_response()
    assert refusal.status == 486
    assert refusal.via.rport == 5060
    assert refusal.via.received == "192.0.2.200"
    assert times(world, 12) == [0.5, 1.5, 3.5, 7.5, 11.5]
    world.from_upstream(request)
    assert world.upstream_response().status == 486
    world.from_upstream(upstream_ack(request))
    world.from_upstream(upstream_ack(request))
    assert times(world, 4) == []
    assert world.edge.transactions == 1
    assert times(world, 2) == []
    assert world.edge.transactions == 0
    assert not alice.heard


def test_a_repeated_request_gets_the_last_response() -> None:
    world = World(upstream=UPSTREAM)
    alice, request = inward(world, "INVITE")
    world.upstream.clear()
    invite = alice.request("INVITE")
    for status in (180, 200):
        alice.answer(invite, status)
        sent = world.upstream_response()
        world.from_upstream(request)
        assert world.upstream_response().to_bytes() == sent.to_bytes()
    assert times(world, 40) == []
    assert world.edge.transactions == 0


def test_a_repeated_request_before_any_response() -> None:
    world = World(upstream=UPSTREAM)
    alice, request = inward(world, "MESSAGE")
    message = alice.request("MESSAGE")
    world.from_upstream(request)
    assert world.quiet()
    alice.answer(message, 200)
    assert world.upstream_response().status == 200
    world.from_upstream(request)
    assert world.upstream_response().status == 200
    alice.answer(message, 200)
    assert world.quiet()
    world.wait(31)
    assert world.edge.transactions == 1
    world.wait(2)
    assert world.edge.transactions == 0


def test_the_upstream_is_not_held_to_what_a_connection_or_user_may_have() -> None:
    bounds = ShareConfig(100, per_connection=1, per_user=1, per_address=1)
    world = World(upstream=UPSTREAM, transactions=bounds)
    alice, request = inward(world, "MESSAGE")
    alice.request("MESSAGE")
    other = request.copy()
    other.replace_header("Call-ID", "another")
    world.from_upstream(other)
    alice.request("MESSAGE")
    assert world.edge.transactions == 2


def test_over_tcp_the_refusal_is_sent_once() -> None:
    world = World(upstream=TCP)
    alice, request = inward(world, "INVITE")
    alice.answer(alice.request("INVITE"), 486)
    alice.request("ACK")
    world.upstream.clear()
    assert times(world, 12) == []
    world.from_upstream(upstream_ack(request))
    assert world.edge.transactions == 0


def test_the_upstream_is_told_that_a_flow_has_failed() -> None:
    world = World(upstream=UPSTREAM)
    alice, _ = inward(world, "MESSAGE")
    alice.request("MESSAGE")
    alice.hang_up()
    assert world.upstream_response().status == 430


def test_refusal_for_the_upstream_goes_back_on_the_link_of_the_request() -> None:
    world = World(upstream=UPSTREAM)
    request = world.phone("alice", registers=False).make("MESSAGE", BOB)
    world.from_upstream(request, link=STREAM + 2)
    assert world.upstream_response().status == 404
    assert world.links == [STREAM + 2]


def test_a_call_over_and_over() -> None:
    """Many calls leave no state."""
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    for _ in range(20):
        here, _there = call(alice, bob)
        here.send("BYE")
        bob.answer(bob.request("BYE"), 200)
        alice.response(200)
    world.wait(33)
    table = world.edge._forwarder._table
    assert len(table) == world.edge._forwarder.pending_bytes.held == 0
    assert not any([table._by_key, table._by_branch, table._origins, table._targets])
    assert table.next_deadline() is None


def test_an_answer_of_a_registrar_without_flows() -> None:
    """A binding that some other process made cannot be reached from here."""
    registrar = Registrar(RegistrarConfig(World().edge.config.own_domains))
    world = World(registrar=registrar)
    alice, bob = world.phone("alice"), world.phone("bob", registers=False)
    request = bob.make("REGISTER", "sip:sip.test", ("Contact", f"<{bob.contact}>"), to=f"<{BOB}>")
    assert registrar.register(request, world.now).status == 200
    alice.send("MESSAGE", BOB)
    assert isinstance(alice.response(480), SipResponse)
    assert isinstance(parse_message(request.to_bytes()), SipRequest)


# -- several upstreams -----------------------------------------------------------------------------

A = replace(UPSTREAM, name="a", host="192.0.2.201")
B = replace(UPSTREAM, name="b", host="192.0.2.202", priority=1)
C = replace(UPSTREAM, name="c", host="192.0.2.203", priority=2)


def several(*upstreams: Upstream) -> World:
    """Return an edge whose upstreams have all answered their first probe."""
    world = World(upstreams=upstreams or (A, B))
    world.wait(0.0)
    for name, probe in taken(world):
        world.from_upstream(probe.make_response(200), upstream=name)
    return world


def taken(world: World) -> list[tuple[str, SipRequest]]:
    """Return the requests to the upstreams since the last call."""
    sent, world.all_sent = world.all_sent, []
    world.upstream.clear()
    return [(name, message) for name, message in sent if isinstance(message, SipRequest)]


def methods(world: World) -> list[tuple[str, str]]:
    return [(name, request.method) for name, request in taken(world)]


def calls_out(world: World, method: str = "INVITE") -> tuple[Phone, SipRequest]:
    """Return a request that goes to the first upstream."""
    alice = world.phone("alice", registers=False)
    alice.send(method, BOB, body=SDP)
    if method == "INVITE":
        alice.response(100)
    ((name, request),) = taken(world)
    assert name == "a"
    return alice, request


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_request_goes_to_the_next_upstream_after_503(method: str) -> None:
    world = several()
    alice, first = calls_out(world, method)
    world.from_upstream(first.make_response(503), upstream="a")
    got = taken(world)
    if method == "INVITE":
        assert (got[0][0], got.pop(0)[1].method) == ("a", "ACK")
    ((name, second),) = got
    assert (name, second.method, second.body) == ("b", method, SDP)
    assert second.via.branch != first.via.branch
    assert second.uri == first.uri
    assert not alice.heard
    world.from_upstream(second.make_response(200, to_tag="x"), upstream="b")
    assert alice.response().status == 200
    # 503 did not end service: it may be this request alone that there is no room for.
    assert not world.changes
    # This client's requests stay where they are answered only as long as nothing is better.
    alice.send("MESSAGE", BOB)
    assert methods(world) == [("a", "MESSAGE")]


def test_upstream_that_names_a_time_with_503_is_spared_until_then() -> None:
    world = several()
    alice, first = calls_out(world, "MESSAGE")
    fields = [("Retry-After", "20 (in maintenance);duration=3600")]
    world.from_upstream(first.make_response(503, headers=fields), upstream="a")
    ((name, second),) = taken(world)
    world.from_upstream(second.make_response(200), upstream=name)
    alice.response(200)
    for waited, expected in ((0.0, "b"), (15.0, "b"), (20.0, "a")):
        world.wait(waited)
        taken(world)
        alice.send("MESSAGE", BOB)
        assert methods(world) == [(expected, "MESSAGE")]
        world.upstream.clear()


def test_invite_that_no_upstream_answers_tries_each_within_its_time() -> None:
    world = several(A, B, C)
    alice, _ = calls_out(world)
    start, tried = world.now, []
    for _ in range(330):
        world.wait(0.1)
        tried += [
            (name, round(world.now - start, 1))
            for name, method in methods(world)
            if method == "INVITE"
        ]
    firsts = dict(reversed(tried))
    assert firsts == {"a": 0.5, "b": 5.0, "c": 10.0}
    # One at a time.
    for name, until in (("a", 5.0), ("b", 10.0)):
        assert max(when for sent, when in tried if sent == name) <= until
    failed(alice, 408)
    assert world.edge.transactions == 0


def test_abandoned_invite_that_rings_late_is_cancelled() -> None:
    world = several()
    alice, first = calls_out(world)
    world.wait(5.0)
    second = dict(taken(world))["b"]
    for _ in range(2):
        world.from_upstream(first.make_response(180), upstream="a")
    ((name, cancel),) = taken(world)
    assert (name, cancel.method, cancel.via.branch) == ("a", "CANCEL", first.via.branch)
    assert not alice.heard
    # Over UDP it is sent again, until it is answered or its time is over.
    world.wait(0.5)
    assert ("a", "CANCEL") in methods(world)
    world.wait(40.0)
    taken(world)
    world.wait(10.0)
    assert ("a", "CANCEL") not in methods(world)
    world.from_upstream(first.make_response(487), upstream="a")
    assert methods(world)[0] == ("a", "ACK")
    world.from_upstream(second.make_response(100), upstream="b")


def test_late_2xx_of_an_abandoned_invite_is_delivered_and_the_other_call_given_up() -> None:
    world = several()
    alice, first = calls_out(world)
    world.wait(5.0)
    second = dict(taken(world))["b"]
    world.from_upstream(second.make_response(180), upstream="b")
    alice.response(180)
    world.from_upstream(first.make_response(200, to_tag="late"), upstream="a")
    assert alice.response(200).to.tag == "late"
    assert methods(world) == [("b", "CANCEL")]


def test_late_refusal_of_an_abandoned_request_counts_if_the_others_do_no_better() -> None:
    world = several()
    alice, first = calls_out(world)
    world.wait(5.0)
    taken(world)
    for _ in range(2):
        world.from_upstream(first.make_response(404), upstream="a")
        assert methods(world) == [("a", "ACK")]
    assert not alice.heard
    world.wait(27.0)
    failed(alice, 404)


def test_message_that_waits_for_somebody_farther_away_is_not_sent_twice() -> None:
    """RFC 4320: the upstream is alive, and answers when the addressee does."""
    world = several()
    alice, slow = calls_out(world, "MESSAGE")
    alice.send("MESSAGE", BOB)
    quick = dict(taken(world))["a"]
    world.wait(0.1)
    world.from_upstream(quick.make_response(200), upstream="a")
    alice.response(200)
    world.wait(6.0)
    assert all(name == "a" for name, _ in methods(world))
    world.from_upstream(slow.make_response(202), upstream="a")
    alice.response(202)


def test_message_whose_upstream_is_silent_goes_elsewhere_and_the_upstream_is_probed() -> None:
    world = several()
    alice, _ = calls_out(world, "MESSAGE")
    world.wait(4.9)
    assert set(methods(world)) == {("a", "MESSAGE")}
    world.wait(0.1)
    got = dict(taken(world))
    assert got["a"].method == "OPTIONS"
    world.from_upstream(got["b"].make_response(202), upstream="b")
    alice.response(202)
    assert world.edge.upstream_statistics["a"].failures == 1


def test_message_is_not_given_up_for_an_upstream_out_of_service() -> None:
    world = several()
    world.do(world.edge.upstream_failed(world.now, upstream="b", link=DATAGRAMS))
    alice, first = calls_out(world, "MESSAGE")
    world.wait(6.0)
    assert "b" not in [name for name, request in taken(world) if request.method == "MESSAGE"]
    world.from_upstream(first.make_response(202), upstream="a")
    alice.response(202)


def test_provisional_response_ends_the_wait_for_the_first_word() -> None:
    world = several()
    alice, message = calls_out(world, "MESSAGE")
    world.from_upstream(message.make_response(100), upstream="a")
    world.wait(20.0)
    assert "b" not in [name for name, method in methods(world) if method == "MESSAGE"]
    world.from_upstream(message.make_response(202), upstream="a")
    alice.response(202)


@pytest.mark.parametrize(
    ("upstreams", "link"), [((A, B), DATAGRAMS), ((replace(A, transport="tcp"), B), STREAM)]
)
def test_request_goes_on_at_once_if_its_upstream_cannot_be_reached(
    upstreams: tuple[Upstream, ...], link: int
) -> None:
    world = several(*upstreams)
    alice, _ = calls_out(world)
    world.do(world.edge.upstream_failed(world.now, upstream="a", link=link, reason="refused"))
    ((name, second),) = taken(world)
    assert (name, second.method) == ("b", "INVITE")
    assert [(item.upstream, item.in_service, item.reason) for item in world.changes] == [
        ("a", False, "refused")
    ]
    # Both are out of reach now.
    world.do(world.edge.upstream_failed(world.now, upstream="b", link=DATAGRAMS))
    refusal = failed(alice, 503)
    assert refusal.get("retry-after") == "10"
    # What is out of service is tried all the same if nothing else is left.
    alice.send("MESSAGE", BOB)
    assert methods(world) == [("a", "MESSAGE")]


def test_request_that_is_cancelled_goes_nowhere_else() -> None:
    world = several()
    alice, invite = calls_out(world)
    cancel(alice, invite)
    alice.response(200)
    world.wait(5.0)
    assert not [name for name, method in methods(world) if (name, method) == ("b", "INVITE")]
    world.from_upstream(invite.make_response(503), upstream="a")
    assert methods(world) == [("a", "ACK")]
    assert alice.response().status == 500


def test_request_whose_route_leads_to_an_upstream_goes_there_or_nowhere() -> None:
    world = several()
    alice = world.phone("alice", registers=False)
    fields = [("Route", "<sip:192.0.2.202:5060;lr>")]
    alice.send("BYE", BOB, *fields, to=f"<{BOB}>;tag=1")
    ((name, bye),) = taken(world)
    assert name == "b"
    world.from_upstream(bye.make_response(503), upstream="b")
    assert alice.response().status == 500
    # So does one whose target is the upstream itself, as that of a back-to-back user agent is.
    alice.send("BYE", "sip:call-7@192.0.2.202:5060", to=f"<{BOB}>;tag=1")
    ((name, bye),) = taken(world)
    assert name == "b"
    world.do(world.edge.upstream_failed(world.now, upstream="b", link=DATAGRAMS))
    assert alice.response().status == 503
    assert not taken(world)
    # What begins something only names it as a domain.
    alice.send("MESSAGE", "sip:bob@192.0.2.202:5060")
    assert methods(world) == [("a", "MESSAGE")]


def test_ack_follows_its_call() -> None:
    world = several()
    alice, invite = calls_out(world)
    world.from_upstream(invite.make_response(503), upstream="a")
    second = dict(taken(world))["b"]
    ok = second.make_response(200, to_tag="x", headers=[("Contact", "<sip:192.0.2.202:5060>")])
    world.from_upstream(ok, upstream="b")
    Dialog(alice, invite, alice.response(200), caller=True).send("ACK")
    assert methods(world) == [("b", "ACK")]


def test_sips_goes_only_over_tls() -> None:
    secure = replace(C, transport="tls", local_port=5090, port=5061)
    world = several(A, B, secure)
    alice = world.phone("alice", registers=False)
    alice.send("INVITE", "sips:bob@sip.test")
    alice.response(100)
    ((name, invite),) = taken(world)
    assert (name, invite.via.transport) == ("c", "TLS")
    assert [route.uri.scheme for route in invite.record_routes] == ["sips", "sips"]
    world = several()
    alice = world.phone("alice", registers=False)
    alice.send("INVITE", "sips:bob@sip.test")
    alice.response(100)
    assert alice.response(480).get("warning") == '380 edge.test "SIPS Not Allowed"'
    route = ("Route", "<sip:edge.test:8080;lr>")
    alice.send("ACK", "sips:bob@sip.test", route, to="<sip:bob@sip.test>;tag=1")
    assert not taken(world)


def test_body_is_gone_when_a_second_upstream_comes() -> None:
    """Then the request stays with the first."""
    world = several(A)
    alice, invite = calls_out(world)
    world.edge.use_upstreams([A, B])
    world.from_upstream(invite.make_response(503), upstream="a")
    assert [name for name, method in methods(world) if method == "INVITE"] == []
    assert alice.response().status == 500


def test_what_is_under_way_goes_on_when_its_upstream_is_replaced() -> None:
    world = several(A)
    alice, invite = calls_out(world)
    world.edge.use_upstreams([B])
    world.from_upstream(invite.make_response(180), upstream="a")
    alice.response(180)
    cancel(alice, invite)
    alice.response(200)
    assert ("a", "CANCEL") in methods(world)
    world.do(world.edge.upstream_failed(world.now, upstream="a", link=DATAGRAMS))
    world.from_upstream(invite.make_response(487), upstream="a")
    failed(alice, 487)


def test_late_failures_of_a_replaced_upstream_are_counted_nowhere() -> None:
    world = several(A)
    alice, message = calls_out(world, "MESSAGE")
    world.edge.use_upstreams([B])
    world.from_upstream(message.make_response(503), upstream="a")
    assert alice.response().status == 500
    assert list(world.edge.upstream_statistics) == ["b"]


def test_a_large_request_that_goes_over_has_each_upstream_s_own_transport() -> None:
    world = several(A, replace(B, datagram_limit=None))
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB, body=bytes(2000))
    ((name, first),) = taken(world)
    assert (name, first.via.transport) == ("a", "TCP")
    # First as a datagram to the same one.
    world.do(world.edge.upstream_failed(world.now, upstream="a", link=STREAM))
    ((name, first),) = taken(world)
    assert (name, first.via.transport) == ("a", "UDP")
    assert not world.changes
    world.do(world.edge.upstream_failed(world.now, upstream="a", link=DATAGRAMS))
    ((name, second),) = taken(world)
    assert (name, second.via.transport, len(second.body)) == ("b", "UDP", 2000)


def test_transactions_are_shown_in_pages() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", "sip:bob@sip.test", body=SDP)
    bob.request("INVITE")
    assert [found.request.method for found in world.edge.transactions_page(0, 1)] == ["INVITE"]
    assert world.edge.transactions_page(1, 1) == []


def test_so_many_responses_of_a_branch_are_brought_back() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", bob.aor)
    incoming = bob.request("INVITE")
    for _ in range(201):
        bob.answer(incoming, 180)
    assert len(alice.heard) == 1 + 200
    assert world.edge.dropped == 1


# -- other nodes -----------------------------------------------------------------------------------


def test_requests_to_another_node_and_what_can_go_wrong_there() -> None:
    cluster = Cluster("one", "two")
    alice, bob = cluster.phone("one", "alice"), cluster.phone("two", "bob")
    world = cluster.worlds["one"]

    def invite(*statuses: int) -> SipRequest:
        alice.heard.clear()
        bob.heard.clear()
        request = alice.send("INVITE", bob.aor)
        cluster.run()
        assert [alice.response().status for _ in statuses] == list(statuses)
        return request

    invite(100)
    incoming = bob.request("INVITE")
    ok = bob.answer(incoming, 200)
    cluster.run()
    dialog = Dialog(alice, incoming, ok, caller=True)
    dialog.send("ACK")
    cluster.run()
    bob.request("ACK")
    assert alice.response(200).to.tag == ok.to.tag
    # It rings no more where the node is lost.
    invite(100)
    bob.answer(bob.request("INVITE"), 180)
    cluster.run()
    alice.response(180)
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    alice.response(480)
    # A connection that is gone there.
    cluster.worlds["two"].edge.connection_closed(bob.cid, 1000.0)
    invite(100, 480)
    dialog.send("INFO")
    cluster.run()
    alice.response(430)
    # Another flow of the client.
    first = cluster.phone("two", "carol", outbound="urn:uuid:1")
    second = cluster.phone("one", "carol", outbound="urn:uuid:1")
    third = cluster.phone("two", "carol", outbound="urn:uuid:1")
    for phone in (first, third):
        cluster.worlds["two"].edge.connection_closed(phone.cid, 1000.0)
    alice.send("INVITE", first.aor)
    cluster.run()
    second.request("INVITE")
    # The link fails, and another flow is tried.
    second.heard.clear()
    fourth = cluster.phone("two", "carol", outbound="urn:uuid:1")
    alice.heard.clear()
    alice.send("INVITE", first.aor)
    ((number, question),) = world.questions.items()
    assert world.node is not None
    answer = cluster.location.ask(world.node, question)
    world.questions.clear()
    world.do(world.edge.answer(number, answer, world.now))
    world.all_sent.clear()
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    alice.response(100)
    second.request("INVITE")
    assert fourth.heard == []
    # A node that is gone before the request goes, or the ACK.
    target = Target(None, node="three")
    forwarder = world.edge._forwarder
    forwarder.forward_ack(alice.make("ACK", bob.aor), target, None, 0.0)
    forwarder.start(
        alice.make("INVITE", bob.aor),
        key_of(alice.make("INVITE", bob.aor), None),
        "z9hG4bKx-0123456789abcdef",
        [[target]],
        Party.trusted("x"),
        world.now,
    )
    world.do(world.edge._outbox.take())
    # An ACK has no answer.
    assert [message.status for _, message in world.all_sent] == [100, 430]  # type: ignore[union-attr]


def test_a_caller_gives_up_and_the_other_node_fails() -> None:
    cluster = Cluster("one", "two")
    alice, bob = cluster.phone("one", "alice"), cluster.phone("two", "bob")
    world = cluster.worlds["one"]
    invite = alice.send("INVITE", bob.aor)
    cluster.run()
    bob.request("INVITE")
    alice.follow("CANCEL", invite)
    world.do(world.edge.upstream_failed(world.now, upstream="two"))
    assert [alice.response().status for _ in range(3)] == [100, 200, 487]


def test_a_silent_node() -> None:
    cluster = Cluster("one", "two")
    alice, bob = cluster.phone("one", "alice"), cluster.phone("two", "bob")
    alice.send("INVITE", bob.aor)
    world = cluster.worlds["one"]
    world.obey(cluster.location)
    world.wait(32.0)
    assert [alice.response().status for _ in range(2)] == [100, 408]


def test_another_node_without_room() -> None:
    cluster = Cluster("one", "two")
    alice, bob = cluster.phone("one", "alice"), cluster.phone("two", "bob")
    cluster.worlds["two"].edge._forwarder.transactions.held += 10_000
    alice.send("INVITE", bob.aor)
    cluster.run()
    assert [alice.response().status for _ in range(2)] == [100, 500]

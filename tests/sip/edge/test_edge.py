"""A SIP server for two telephones, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.sip._location import Cluster, Location, NodeWorld
from tests.sip._phones import (
    CORE,
    MODES,
    SDP,
    UPSTREAM,
    Dialog,
    Phone,
    World,
    call,
    entropy,
    lines,
)
from wsproto_sip.auth import LATER, Account, Identity, Later, Throttle
from wsproto_sip.server.shares import Bound, ShareConfig
from wsproto_sip.sip import (
    SipLimits,
    SipRequest,
    SipResponse,
    SipUri,
    Source,
    parse_message,
    parse_uri,
)
from wsproto_sip.sip.edge.actions import SendToConnection
from wsproto_sip.sip.edge.config import STREAM, ChallengeScope, EdgeConfig, EdgeMode
from wsproto_sip.sip.edge.connections import Peer
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.edge.hook import HookRequest, Proceed, Refuse, Verdict
from wsproto_sip.sip.message.stream import is_keepalive
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import Found, Lookup, NotAsked, Update

BOB = "sip:bob@sip.test"
ALIAS, OUTBOUND = EdgeMode.ALIAS, EdgeMode.OUTBOUND
TCP = replace(UPSTREAM, transport="tcp")
both_modes = pytest.mark.parametrize("mode", MODES)
USERS = {"alice": "wonderland", "bob": "builder"}


def authenticator() -> DigestAuthenticator:
    return DigestAuthenticator("sip.test", USERS, entropy=entropy())


def pair(
    mode: EdgeMode = OUTBOUND, *, digest: bool = False, **options: object
) -> tuple[World, Phone, Phone]:
    """Alice and bob, registered."""
    if digest:
        options |= {"authenticator": authenticator(), "challenge": ChallengeScope.ALL}
    world = World(mode, **options)
    alice = world.phone("alice", password="wonderland")
    return world, alice, world.phone("bob", password="builder")


# -- two telephones --------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("digest", [False, True])
def test_a_whole_call(mode: EdgeMode, digest: bool) -> None:
    world, alice, bob = pair(mode, digest=digest)
    if digest:
        challenge = alice.make("INVITE", BOB, body=SDP)
        alice.say(challenge)
        asked = alice.response(407)
        ack = alice.make("ACK", BOB, to=str(asked.to), call_id=asked.call_id)
        ack.replace_header("Via", str(challenge.via))
        alice.say(ack)
        alice.send("INVITE", BOB, alice.credentials(asked, "INVITE", BOB), body=SDP, cseq=2)
        alice.response(100)
        incoming = bob.request("INVITE")
        assert "proxy-authorization" not in incoming
        bob.answer(incoming, 486)
        bob.request("ACK")
        alice.response(486)
        # From here on, as if passwords were not required.
        assert world.edge.authenticator is not None
        world.edge.authenticator = None
    here, there = call(alice, bob)
    if digest:
        world.edge.authenticator = authenticator()
    # Hold and resume, from both sides.
    for one, other in ((here, bob), (there, alice), (here, bob)):
        one.send("INVITE", body=SDP)
        one.phone.response(100)
        again = other.request("INVITE")
        assert again.body == SDP
        assert "record-route" not in again
        other.answer(again, 200, body=SDP)
        assert one.phone.response(200).body == SDP
        one.send("ACK")
        other.request("ACK")
    for one, other in ((here, bob), (there, alice)):
        one.send("INFO", ("Content-Type", "application/dtmf-relay"), body=b"Signal=5\r\n")
        info = other.request("INFO")
        assert info.body == b"Signal=5\r\n"
        assert "route" not in info
        assert str(info.uri).startswith(other.contact)
        other.answer(info, 200)
        one.phone.response(200)
    for one, other in ((there, alice), (here, bob)):
        one.send("BYE")
        other.answer(other.request("BYE"), 200)
        one.phone.response(200)
    assert world.quiet()
    world.wait(33)
    assert world.edge.transactions == 0
    assert world.quiet()


@both_modes
def test_register_message_and_unregister(mode: EdgeMode) -> None:
    world, alice, bob = pair(mode)
    contact = bob.register(expires=120).values("contact")[0]
    received = f'received="{bob.source.uri}"'
    assert (received in contact) is (mode is ALIAS)
    for one, other in ((alice, bob), (bob, alice)):
        one.send("MESSAGE", f"sip:{other.user}@sip.test", body="Grüße, 世界 🙂".encode())
        got = other.request("MESSAGE")
        assert got.body.decode() == "Grüße, 世界 🙂"
        other.answer(got, 200)
        one.response(200)
    alice.send("OPTIONS", BOB)
    bob.answer(bob.request("OPTIONS"), 200, ("Allow", "INVITE"))
    assert alice.response(200).get("allow") == "INVITE"
    assert bob.register(expires=0).values("contact") == []
    assert alice.ask("MESSAGE", BOB).status == 404
    assert alice.ask("MESSAGE", "sip:nobody@sip.test").status == 404
    assert world.quiet()
    assert world.edge.transactions == 0


@both_modes
def test_a_lost_flow_takes_its_bindings_along(mode: EdgeMode) -> None:
    world, alice, bob = pair(mode)
    assert world.edge.connections == 2
    assert world.edge.knows(bob.cid)
    bob.hang_up()
    assert not world.edge.knows(bob.cid)
    assert alice.ask("MESSAGE", BOB).status == 404
    assert world.edge.connection_closed(bob.cid, world.now) == []
    assert world.edge.receive(bob.cid, "x", world.now) == []
    again = world.phone("bob")
    alice.send("MESSAGE", BOB)
    again.request("MESSAGE")


def test_bindings_expire() -> None:
    world, alice, bob = pair()
    assert world.edge.next_deadline() == world.now + 300
    world.wait(299)
    alice.send("MESSAGE", BOB)
    bob.answer(bob.request("MESSAGE"), 200)
    alice.response(200)
    world.wait(2)
    assert alice.ask("MESSAGE", BOB).status == 404
    assert world.edge.next_deadline() is None


def test_keep_alives() -> None:
    world = World()
    alice = world.phone("alice")
    alice.say("\r\n\r\n")
    alice.say(b"\r\n\r\n")
    assert alice.heard == ["\r\n", "\r\n"]
    alice.heard.clear()
    alice.say("\r\n")
    assert world.quiet()


def test_options_to_the_edge_itself() -> None:
    world = World()
    alice = world.phone("alice")
    for uri in ("sip:sip.test", "sip:edge.test:8080;transport=ws", "sip:SIP.test"):
        for hops in (70, 0):
            response = alice.ask("OPTIONS", uri, hops=hops)
            assert response.status == 200
            assert "INVITE" in (response.get("allow") or "")
            assert response.to.tag is not None
            assert response.via.received == "192.0.2.1"
            assert response.via.rport == alice.source.port
    assert alice.ask("OPTIONS", "sip:sip.test", ("Require", "100rel")).status == 420
    assert alice.ask("OPTIONS", "sip:elsewhere.test").status == 404


def test_options_count_as_requests_of_their_sender() -> None:
    world = World(requests_per_second=ShareConfig(4, reserve=0))
    alice = world.phone("alice", registers=False)
    answers = [alice.ask("OPTIONS", "sip:sip.test") for _ in range(4)]
    assert [answer.status for answer in answers][-1] == 503
    assert answers[-1].get("retry-after") == "1"


def test_connection_is_in_a_call_until_its_end() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    call(alice, bob)
    assert world.edge.is_in_call(alice.cid)
    assert not world.edge.is_in_call(99)
    bob.hang_up()
    assert not world.edge.is_in_call(bob.cid)


@both_modes
@pytest.mark.parametrize(
    "name",
    [
        "phones.example.com",
        "PHONES.example.com:443",
        "phones.example.com:80",
        "phones.example.com:8080",
        "[2001:db8::1]:8443",
        "edge.test:443",
        "sip.test:443",
    ],
)
def test_clients_of_a_reverse_proxy_write_the_public_name(mode: EdgeMode, name: str) -> None:
    names = (("phones.example.com", None), ("[2001:db8::1]", 8443))
    _world, alice, bob = pair(mode, names=names)
    alice.send("MESSAGE", BOB, ("Route", f"<sip:{name};lr;transport=ws>"))
    assert "route" not in bob.request("MESSAGE")
    assert alice.ask("OPTIONS", f"sip:{name}").status == 200


@pytest.mark.parametrize(
    "name", ["phones.example.com:5060", "[2001:db8::1]", "[2001:db8::1]:443", "x.example.com"]
)
def test_other_names_and_ports_are_not_the_server(name: str) -> None:
    names = (("phones.example.com", None), ("[2001:db8::1]", 8443))
    _world, alice, _bob = pair(names=names)
    assert alice.ask("MESSAGE", BOB, ("Route", f"<sip:{name};lr>")).status == 403
    assert alice.ask("OPTIONS", f"sip:{name}").status == 404


def test_any_host_for_trying_out() -> None:
    world = World(domains=Domains(("sip.test",), any_host=True))
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob, "sip:bob@localhost")
    here.send("BYE")
    bob.request("BYE")
    assert alice.ask("OPTIONS", "sip:localhost").status == 200


def test_a_gruu_for_the_whole_call() -> None:
    world, alice, _ = pair()
    bob = world.phone("bob", outbound="urn:uuid:b")
    (*_, contact) = bob.register().contacts or []
    gruu = contact.params.get("pub-gruu") or ""
    here, _ = call(alice, bob, gruu)
    here.target = gruu
    here.send("INVITE")
    alice.response(100)
    bob.answer(bob.request("INVITE"), 200)
    alice.response(200)
    here.send("ACK")
    assert bob.request("ACK").uri_text == bob.contact


def test_the_same_request_again() -> None:
    world, alice, bob = pair()
    sent = alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")
    alice.say(sent)
    assert world.quiet()


def without(uri: str, parameter: str) -> str:
    return str(SipUri.parse(uri).without_param(parameter))


@both_modes
@pytest.mark.parametrize("with_alias", [True, False])
def test_an_attended_transfer_calls_the_contact_of_the_other_side(
    mode: EdgeMode, with_alias: bool
) -> None:
    """Alice, in a call with bob and one with carol, sends bob to carol's Contact."""
    world, alice, bob = pair(mode)
    carol = world.phone("carol")
    call(alice, bob)
    here, _ = call(alice, carol)
    target = here.target if with_alias else without(here.target, "alias")
    bob.send("INVITE", target, ("Replaces", f"{here.call_id};to-tag=a;from-tag=b"), body=SDP)
    bob.response(100)
    invite = carol.request("INVITE")
    assert invite.get("replaces") is not None
    assert "alias" not in SipUri.parse(invite.uri_text).params
    carol.answer(invite, 200)
    bob.response(200)
    assert world.quiet()


@both_modes
def test_a_bye_without_route_finds_the_contact(mode: EdgeMode) -> None:
    world, alice, bob = pair(mode)
    here, there = call(alice, bob)
    for one, other in ((here, bob), (there, alice)):
        one.route = []
        one.send("BYE")
        other.answer(other.request("BYE"), 200)
        one.phone.response(200)
    bob.hang_up()
    here.send("BYE")
    alice.response(404)
    assert world.quiet()


@both_modes
def test_a_contact_leads_only_to_live_local_connections(mode: EdgeMode) -> None:
    world, alice, bob = pair(mode)
    here, _ = call(alice, bob)
    wrong = [
        "sip:bob2@elsewhere.test;transport=ws",
        "sip:nobody@x2.invalid",
        "sip:bob2@x2.invalid:5060",
        "sip:bob@192.0.2.77",
        "sip:x@y.invalid;alias=192.0.2.99~4002~5",
        "sip:x@y.invalid;alias=nonsense",
    ]
    for uri in wrong:
        assert alice.ask("INVITE", uri).status == 404
    secure = here.target.replace("sip:", "sips:")
    assert alice.ask("INVITE", without(secure, "alias")).status == (480)
    # An alias is for the mode that writes them, and for the server that has written it.
    by_alias = "sip:x@y.invalid;alias=192.0.2.1~4002~5"
    assert alice.ask("MESSAGE", by_alias).status == 404
    alice.send("MESSAGE", f"{by_alias};seal={SipUri.parse(here.target).params.get('seal')}")
    if mode is ALIAS:
        bob.request("MESSAGE")
    else:
        alice.response(404)
    # A client that registers bob's Contact does not get his calls.
    mallory = world.phone("mallory", registers=False)
    mallory.contact = bob.contact
    assert mallory.register().status == 200
    assert alice.ask("INVITE", without(here.target, "alias")).status == 485
    assert world.quiet()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fields", "status"),
    [
        ({"hops": 0}, [], 483),
        ({}, [("Proxy-Require", "x-none")], 420),
        ({"call_id": "a b"}, [], 400),
        ({"to": "<sip:a b>"}, [], 400),
        ({}, [("Route", "nonsense")], 400),
    ],
)
def test_wrong_requests(
    options: dict[str, str], fields: list[tuple[str, str]], status: int
) -> None:
    _world, alice, bob = pair()
    assert alice.ask("MESSAGE", BOB, *fields, **options).status == status
    assert not bob.heard


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("MESSAGE sip:bob@sip.test SIP/3.0", 505),
        ("MESSAGE  sip:bob@sip.test SIP/2.0", 400),
        ("MESSAGE sip:bob@sip.test" + "x" * 1100 + " SIP/2.0", 414),
        ("MESSAGE http://sip.test SIP/2.0", 416),
        ("MESSAGE sip:bob@sip.test?x=y SIP/2.0", 400),
    ],
)
def test_wrong_messages_are_answered_and_the_flow_goes_on(text: str, status: int) -> None:
    _world, alice, bob = pair()
    fields = [
        ("Via", "SIP/2.0/WS x.invalid;branch=z9hG4bKw"),
        ("From", "<sip:alice@sip.test>;tag=1"),
        ("To", "<sip:bob@sip.test>"),
        ("Call-ID", "w"),
        ("CSeq", "1 MESSAGE"),
    ]
    alice.say(lines(text, *fields))
    assert alice.response(status).call_id == "w"
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


def test_messages_other_than_sip_are_dropped() -> None:
    world, alice, bob = pair()
    junks: list[str | bytes] = ["", "x", b"\x00\xff", "SIP/2.0 200 OK\r\n\r\n", "\r\n\r"]
    for number, junk in enumerate(junks, 1):
        alice.say(junk)
        assert world.edge.dropped == number
    assert world.quiet()
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


def test_more_than_a_share_is_refused_and_counted() -> None:
    world, alice, _ = pair(
        transactions=ShareConfig(100, per_address=1), requests_per_second=ShareConfig(16, reserve=0)
    )
    world.now += 1.0
    alice.send("MESSAGE", BOB)
    statuses = [alice.ask("MESSAGE", BOB).status for _ in range(4)]
    assert statuses == [503] * 4
    assert world.edge.refused == {
        ("transactions", Bound.ADDRESS): 3,
        ("requests_per_second", Bound.CONNECTION): 1,
    }


def test_a_loop() -> None:
    _world, alice, bob = pair()
    alice.send("MESSAGE", BOB)
    message = bob.request("MESSAGE")
    # Bob sends what he has got as if it came to the edge for the first time.
    again = message.copy()
    again.uri = BOB
    again.insert_header("Via", "SIP/2.0/WS p.invalid;branch=z9hG4bKp")
    bob.say(again)
    bob.response(482)
    # With another target it is a spiral, and goes on.
    message.uri = "sip:alice@sip.test"
    message.insert_header("Via", "SIP/2.0/WS p.invalid;branch=z9hG4bKq")
    bob.say(message)
    assert len(alice.request("MESSAGE").vias) == 4


def test_strangers_send_one_callee_what_strangers_may() -> None:
    few = ShareConfig(4, reserve=0)
    _world, alice, _ = pair(callee_transactions=few)
    alice.send("INVITE", BOB)
    alice.response(100)
    assert alice.ask("INVITE", BOB).status == 480
    _world, alice, _ = pair(callee_requests_per_second=few)
    alice.send("MESSAGE", BOB)
    refused = alice.ask("MESSAGE", BOB)
    assert (refused.status, refused.get("retry-after")) == (480, "5")


def test_acks_are_held_to_the_pace_of_requests_but_for_those_of_the_upstream() -> None:
    world = World(requests_per_second=ShareConfig(4, reserve=0))
    alice = world.phone("alice", registers=False)
    for _ in range(5):
        alice.send("ACK", BOB)
    assert world.edge.refused == {("requests_per_second", Bound.CONNECTION): 4}
    world = World(upstream=UPSTREAM, requests_per_second=ShareConfig(4, reserve=0))
    for _ in range(5):
        world.from_upstream(alice.make("ACK", BOB))
    assert world.edge.dropped == 5
    assert not world.edge.refused


def test_an_ack_without_a_target_is_dropped() -> None:
    for mode in MODES:
        world, alice, bob = pair(mode)
        here, _ = call(alice, bob)
        before = world.edge.dropped
        alice.send("ACK", BOB)
        alice.send("ACK", BOB, ("Route", "<sip:evil.test;lr>"))
        alice.send("ACK", BOB, ("Max-Forwards", "x"))
        alice.send("ACK", BOB, hops=0)
        assert world.quiet()
        assert world.edge.dropped == before + 4
        bob.hang_up()
        here.send("ACK")
        assert world.quiet()
        assert world.edge.dropped == before + 5


def test_a_contact_that_takes_no_alias() -> None:
    _, alice, bob = pair(ALIAS)
    assert alice.ask("SUBSCRIBE", BOB, ("Contact", "<tel:+1>"), contact=False).status == 400
    assert not bob.heard


def test_a_cancel_of_nothing() -> None:
    _, alice, _ = pair()
    assert alice.ask("CANCEL", BOB).status == 481


def test_a_message_that_can_be_parsed_but_not_serialized() -> None:
    """NUL after a backslash is legal in a quoted string, but cannot be serialized."""
    _world, alice, bob = pair(ALIAS)
    contact = f'"\\\0" <{alice.contact}>'
    text = alice.make("INVITE", BOB, contact=False).to_bytes()
    text = text.replace(b"\r\n\r\n", f"\r\nContact: {contact}\r\n\r\n".encode())
    alice.say(text)
    for message in [*alice.heard, *bob.heard]:
        assert not isinstance(message, str)
        assert b"\0" not in message.to_bytes().replace(b"\\\0", b"")


def test_writing_errors_are_answered_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from wsproto_sip.sip import SipValueError
    from wsproto_sip.sip.edge import pipelines

    world, alice, bob = pair()

    def fail(*_: object, **__: object) -> None:
        raise SipValueError("cannot be written")

    monkeypatch.setattr(pipelines, "decrement_max_forwards", fail)
    assert alice.ask("MESSAGE", BOB).status == 400
    monkeypatch.setattr(SipRequest, "make_response", fail)
    before = world.edge.dropped
    alice.send("MESSAGE", BOB)
    assert world.edge.dropped == before + 1
    assert not alice.heard
    assert not bob.heard
    response = SipResponse(200, headers=[("Via", "SIP/2.0/WS x.invalid"), ("CSeq", "x")])
    response_text = response.to_bytes().replace(
        b"\r\n\r\n", b"\r\nFrom: <sip:a>\r\nTo: <sip:b>\r\nCall-ID: c\r\n\r\n"
    )
    alice.say(response_text)
    assert world.edge.dropped == before + 2


# -- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "sender", "fields", "status"),
    [
        ("alice", "<sip:alice@sip.test>;tag=1", [], 200),
        ("alice", "<sips:alice@sip.test>;tag=1", [], 200),
        ("alice", "<sip:alice@other.test:5061;x=y>;tag=1", [], 200),
        ("alice@other.test", "<sip:alice@sip.test>;tag=1", [], 200),
        ("alice", '"alice" <sip:bob@sip.test>;tag=1', [], 403),
        ("alice", "<sip:alice@elsewhere.test>;tag=1", [], 403),
        ("alice", "<tel:+1>;tag=1", [], 403),
        ("alice@elsewhere.test", "<sip:alice@elsewhere.test>;tag=1", [], 200),
        ("alice@elsewhere.test", "<sip:alice@sip.test>;tag=1", [], 403),
        ("alice", "<sip:alice@sip.test>;tag=1", [("P-Preferred-Identity", f"<{BOB}>")], 403),
        (
            "alice",
            "<sip:alice@sip.test>;tag=1",
            [("P-Preferred-Identity", '"A" <sip:alice@sip.test>')],
            200,
        ),
        (None, "<sip:anybody@elsewhere.test>;tag=1", [], 200),
    ],
)
def test_the_connections_user(
    login: str | None, sender: str, fields: list[tuple[str, str]], status: int
) -> None:
    world = World(domains=Domains(("sip.test", "other.test")))
    bob = world.phone("bob")
    alice = world.phone("alice", login=login, registers=False)
    alice.send("MESSAGE", BOB, *fields, sender=sender)
    if status == 200:
        bob.answer(bob.request("MESSAGE"), 200)
    alice.response(status)
    assert world.quiet()


def test_the_connections_user_may_be_anybody_if_so_configured() -> None:
    world = World(check_identity=False)
    alice, bob = world.phone("alice", login="alice"), world.phone("bob")
    alice.send("MESSAGE", BOB, sender="<sip:carol@sip.test>;tag=1")
    bob.request("MESSAGE")


@pytest.mark.parametrize(
    ("login", "status"),
    [
        ("alice", 200),
        ("alice@SIP.test", 200),
        ("bob", 403),
        ("alice@elsewhere.test", 403),
        ("alice@no host", 400),
    ],
)
def test_a_user_cannot_register_another_one(login: str, status: int) -> None:
    world = World(check_identity=False, authenticator=authenticator())
    assert world.phone("alice", login=login, registers=False).register().status == status


def test_digest_only_for_register() -> None:
    world = World(authenticator=authenticator())
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.send("REGISTER", "sip:sip.test", to="<sip:alice@sip.test>")
    assert alice.response(401).get("www-authenticate") is not None
    assert alice.register().status == 200
    alice.password = "wrong"
    assert alice.register().status == 401
    # Bob's password is for bob.
    mallory = world.phone("bob", password="builder", registers=False)
    mallory.user = "bob"
    response = mallory.ask(
        "REGISTER", "sip:sip.test", ("Contact", f"<{mallory.contact}>"), to="<sip:alice@sip.test>"
    )
    assert response.status == 403
    assert alice.ask("MESSAGE", BOB).status == 480
    assert alice.ask("MESSAGE", "sip:carol@sip.test").status == 404


def test_digest_for_everything() -> None:
    world, alice, bob = pair(digest=True)
    alice.send("MESSAGE", BOB)
    assert alice.response(407).get("proxy-authenticate") is not None
    assert not bob.heard
    alice.password = "wrong"
    assert alice.ask("MESSAGE", BOB).status == 407
    alice.password = "wonderland"
    for sender in (
        "<sip:bob@sip.test>;tag=1",
        "<sip:alice@elsewhere.test>;tag=1",
        "<tel:+1>;tag=1",
    ):
        assert alice.ask("MESSAGE", BOB, sender=sender).status == 403
    assert alice.ask("OPTIONS", "sip:sip.test").status == 200
    assert alice.ask("MESSAGE", "sip:nobody@sip.test").status == 404
    # An invented tag does not avoid the challenge.
    alice.password = None
    assert alice.ask("MESSAGE", BOB, to=f"<{BOB}>;tag=1").status == 407
    # A user known from the handshake is not challenged again.
    carol = world.phone("bob", login="bob", registers=False)
    carol.send("MESSAGE", "sip:alice@sip.test")
    alice.request("MESSAGE")


# -- strangers -------------------------------------------------------------------------------------


def as_bob(phone: Phone, **options: object) -> SipResponse:
    return phone.ask("MESSAGE", "sip:alice@sip.test", sender=f"<{BOB}>;tag=1", **options)


@pytest.mark.parametrize(
    ("sender", "preferred"),
    [
        (f"<{BOB}>;tag=1", None),
        ("<sips:bob@SIP.test:5061;x=y>;tag=1", None),
        # The root of the names has a dot: it is the same domain.
        ("<sip:bob@sip.test.>;tag=1", None),
        ("<sip:mallory@elsewhere.test>;tag=1", "<sip:bob@sip.test.>"),
        ("<sip:nobody@sip.test>;tag=1", None),
        ("<sip:sip.test>;tag=1", None),
        ("<sip:mallory@elsewhere.test>;tag=1", f"<{BOB}>"),
        ("<tel:+1>;tag=1", f"<tel:+1>, <{BOB}>"),
    ],
)
def test_stranger_cannot_speak_in_the_name_of_a_user(sender: str, preferred: str | None) -> None:
    world = World(authenticator=authenticator())
    alice = world.phone("alice", password="wonderland")
    mallory = world.phone("mallory", registers=False)
    fields = [] if preferred is None else [("P-Preferred-Identity", preferred)]
    for to in (f"<{alice.aor}>", f"<{alice.aor}>;tag=invented"):
        answer = mallory.ask("MESSAGE", alice.aor, *fields, sender=sender, to=to)
        assert answer.status == 407
    assert world.quiet()
    # Under a name of elsewhere, or none, mallory may write to alice.
    for sender in ("<sip:mallory@elsewhere.test>;tag=1", "<tel:+1>;tag=1"):
        mallory.send("MESSAGE", alice.aor, sender=sender)
        alice.answer(alice.request("MESSAGE"), 200)
        mallory.response(200)


def test_user_is_believed_on_the_connection_that_has_proven_it() -> None:
    world = World(authenticator=authenticator())
    alice = world.phone("alice", password="wonderland")
    bob = world.phone("bob", password="builder")
    alice.send("MESSAGE", BOB)
    bob.answer(bob.request("MESSAGE"), 200)
    alice.response(200)
    # Not as another user, neither in From nor in addition to it.
    assert alice.ask("MESSAGE", BOB, ("P-Preferred-Identity", f"<{BOB}>")).status == 403
    assert as_bob(alice).status == 403
    # Without a REGISTER the first request is challenged, and the next one is not.
    carol = world.phone("alice", password="wonderland", registers=False)
    carol.send("MESSAGE", BOB)
    proof = carol.credentials(carol.response(407), "MESSAGE", BOB)
    for fields in ([proof], []):
        carol.send("MESSAGE", BOB, *fields, cseq=2)
        bob.answer(bob.request("MESSAGE"), 200)
        carol.response(200)


def test_stranger_may_speak_in_any_name_if_so_configured() -> None:
    world = World(authenticator=authenticator(), challenge=ChallengeScope.NONE)
    alice = world.phone("alice", password="wonderland")
    mallory = world.phone("mallory", registers=False)
    mallory.send("MESSAGE", alice.aor, sender=f"<{BOB}>;tag=1")
    alice.request("MESSAGE")


def test_stranger_does_not_learn_which_users_there_are() -> None:
    """One answer for a user who is not here and for one who does not exist."""
    world = World(authenticator=authenticator())
    mallory = world.phone("mallory", domain="elsewhere.test", registers=False)
    answers = [mallory.ask("MESSAGE", f"sip:{name}@sip.test") for name in ("bob", "nobody")]
    assert [(answer.status, answer.reason) for answer in answers] == [
        (480, "Temporarily Unavailable")
    ] * 2
    alice = world.phone("alice", password="wonderland")
    assert alice.ask("MESSAGE", BOB).status == 480
    assert alice.ask("MESSAGE", "sip:nobody@sip.test").status == 404
    # Where there are no users, there is nothing to hide.
    world = World()
    assert world.phone("alice").ask("MESSAGE", BOB).status == 404


@pytest.mark.parametrize(
    ("uri", "route"),
    [
        ("tel:+19005551234", None),
        (BOB, "<sip:gateway.test;lr>"),
        (BOB, "<sip:192.0.2.200:5061;lr>"),
        (BOB, "<sip:edge.test:8080;lr>, <sip:192.0.2.200;lr>, <sip:gateway.test;lr>"),
        (BOB, "<tel:+1>"),
    ],
)
def test_stranger_chooses_neither_number_nor_route(uri: str, route: str | None) -> None:
    world = World(upstream=UPSTREAM)
    mallory = world.phone("mallory", registers=False)
    fields = [] if route is None else [("Route", route)]
    assert mallory.ask("INVITE", uri, *fields).status == 403
    assert mallory.ask("INVITE", uri, *fields, to=f"<{uri}>;tag=invented").status == 403
    assert not world.upstream
    # A client that the upstream has registered may do both; the upstream judges the rest.
    mallory.send("REGISTER", "sip:sip.test", ("Supported", "path"), contact=False)
    world.from_upstream(world.upstream_request().make_response(200))
    mallory.response(200)
    if route != "<tel:+1>":
        mallory.send("INVITE", uri, *fields)
        assert world.upstream_request().method == "INVITE"


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS", "REGISTER", "SUBSCRIBE"])
@pytest.mark.parametrize(
    ("uri", "passes"),
    [
        (BOB, True),
        ("sip:bob@SIP.test:5061", True),
        ("sip:edge.test:8080;transport=ws;x", True),
        ("sip:bob@192.0.2.200", True),
        ("sip:bob@elsewhere.test", False),
        ("sip:+15550100@192.0.2.201", False),
        ("sip:bob@192.0.2.200:5070", False),
        ("sip:sip.test@elsewhere.test", False),
        ("sip:bob@sip.test.elsewhere.test", False),
        ("sip:192.0.2.200@elsewhere.test;maddr=192.0.2.200", False),
    ],
)
def test_stranger_sends_to_no_other_domain_through_the_upstream(
    method: str, uri: str, passes: bool
) -> None:
    world = World(upstream=UPSTREAM)
    mallory = world.phone("mallory", domain="elsewhere.test", registers=False)
    for fields in ((), (("Route", "<sip:192.0.2.200;lr>"),)):
        mallory.send(method, uri, *fields, ("Supported", "path"), ("Contact", "<sip:m@x.invalid>"))
        if passes and uri.startswith("sip:edge") and method == "OPTIONS":
            mallory.response(200)
        elif passes:
            assert world.upstream_request().uri_text == uri
        else:
            mallory.response(403)
        mallory.heard.clear()
        assert not world.upstream


def test_a_client_that_the_upstream_has_registered_sends_anywhere() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    elsewhere = "sip:bob@elsewhere.test"
    assert alice.ask("MESSAGE", elsewhere).status == 403
    alice.send("REGISTER", "sip:sip.test", *alice.registration(expires=300), to=f"<{alice.aor}>")
    world.from_upstream(world.upstream_request().make_response(200))
    alice.response(200)
    alice.send("MESSAGE", elsewhere)
    assert world.upstream_request().uri_text == elsewhere


def test_an_edge_may_be_open_to_strangers() -> None:
    world = World(upstream=UPSTREAM, open_to_strangers=True)
    mallory = world.phone("mallory", registers=False)
    mallory.send("MESSAGE", "sip:bob@elsewhere.test")
    assert world.upstream_request().method == "MESSAGE"
    assert mallory.ask("MESSAGE", "tel:+1").status == 403


@both_modes
@pytest.mark.parametrize(
    "own",
    [
        "<sip:invented@edge.test:8080;lr>, <sip:edge.test:8080;lr;r2=on>",
        "<sip:edge.test:8080;lr>, <sip:invented@edge.test:8080;lr;r2=on>",
        "<sip:edge.test:8080;lr>",
    ],
)
@pytest.mark.parametrize("method", ["INVITE", "ACK"])
def test_stranger_reaches_no_route_of_its_choice_with_an_invented_dialog(
    mode: EdgeMode, own: str, method: str
) -> None:
    world = World(mode, upstream=UPSTREAM)
    mallory = world.phone("mallory", registers=False)
    route = ("Route", f"{own}, <sip:gateway.test;lr>")
    mallory.send(method, BOB, route, to=f"<{BOB}>;tag=invented")
    if method == "INVITE":
        mallory.response(403)
    assert world.quiet()


@both_modes
@pytest.mark.parametrize("method", ["REGISTER", "PUBLISH"])
def test_a_user_acts_for_no_other_user_at_the_upstream_with_the_route_of_a_call(
    mode: EdgeMode, method: str
) -> None:
    world = World(mode, upstream=UPSTREAM, authenticator=authenticator())
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.send("INVITE", BOB)
    proof = alice.credentials(alice.response(407), "INVITE", BOB)
    alice.send("INVITE", BOB, proof, cseq=2)
    alice.response(100)
    world.from_upstream(world.upstream_request().make_response(180, to_tag="t"))
    route = ("Route", str(alice.response(180).record_routes[-1]))
    fields = [route, ("Contact", f"<{alice.contact}>"), ("Supported", "path")]
    alice.send(method, BOB, *fields, to=f"<{BOB}>;tag=t", sender=f"<{BOB}>;tag=1")
    assert alice.response().status in (403, 407)
    assert world.quiet()


def test_stranger_may_name_the_upstream_and_stay_in_a_dialog() -> None:
    world = World(upstream=UPSTREAM)
    stranger = world.phone("mallory", registers=False)
    stranger.send("INVITE", BOB, ("Route", "<sip:192.0.2.200;lr>"), body=SDP)
    stranger.response(100)
    invite = world.upstream_request()
    answer = invite.make_response(200, to_tag="t", headers=[("Contact", "<sip:bob@192.0.2.9>")])
    answer.insert_header("Record-Route", "<sip:node7.test;lr>")
    world.from_upstream(answer)
    side = Dialog(stranger, invite, stranger.response(200), caller=True)
    for method in ("ACK", "BYE"):
        side.send(method)
        assert world.upstream_request().method == method
    # It is that dialog alone that leads along a route of the upstream's.
    side.call_id = "another"
    for method in ("ACK", "BYE"):
        side.send(method)
    stranger.response(403)
    assert world.quiet()


def test_stranger_registers_no_user_at_the_upstream() -> None:
    """Where the edge asks for passwords, the upstream may leave all asking to it."""
    world = World(upstream=UPSTREAM, authenticator=authenticator())
    mallory = world.phone("mallory", registers=False)
    fields = [("Contact", f"<{mallory.contact}>"), ("Supported", "path")]
    for sender in ("<sip:mallory@elsewhere.test>;tag=1", "<tel:+1>;tag=1"):
        options: dict[str, object] = {"to": f"<{BOB}>", "sender": sender}
        assert mallory.ask("REGISTER", "sip:sip.test", *fields, **options).status in (403, 416)
    assert not world.upstream


@both_modes
def test_a_client_cannot_answer_a_register(mode: EdgeMode) -> None:
    """Its sender would be registered, without the upstream."""
    world = World(mode, upstream=UPSTREAM)
    eve = world.phone("eve", registers=False)
    eve.send("INVITE", "sip:bob@sip.test")
    eve.response(100)
    invite = world.upstream_request()
    contact = ("Contact", "<sip:bob@192.0.2.200>")
    world.from_upstream(invite.make_response(200, to_tag="b", headers=[contact]))
    route = eve.response(200).record_routes[-1]
    uri = "sip:sip.test"
    if mode is ALIAS:
        (own,) = invite.contacts or []
        assert isinstance(own.uri, SipUri)
        uri = str(SipUri("sip.test", None, None, own.uri.params))
    eve.send(
        "REGISTER", uri, *[("Route", str(route))] * 2, *eve.registration(expires=300),
        to="<sip:alice@sip.test>", call_id=invite.call_id,
    )  # fmt: skip
    eve.response(403)
    eve.send("MESSAGE", "tel:+1")
    eve.response(403)
    assert world.quiet()


def test_within_a_dialog_the_connection_is_known() -> None:
    world, alice, bob = pair(ALIAS, digest=True)
    world.edge.authenticator = None
    here, _ = call(alice, bob)
    world.edge.authenticator = authenticator()
    here.send("INFO")
    bob.request("INFO")
    mallory = world.phone("mallory", registers=False)
    here.phone = mallory
    here.send("INFO")
    mallory.response(407)
    assert world.quiet()


@both_modes
@pytest.mark.parametrize("known_by", ["handshake", "password", "password when asked"])
@pytest.mark.parametrize("method", ["BYE", "INVITE", "REFER", "INFO", "UPDATE"])
@pytest.mark.parametrize(
    "called", ["sip:sales@sip.test", "sip:+4930123@elsewhere.test", "sip:asterisk@10.0.0.5:5060"]
)
def test_a_callee_speaks_under_the_name_that_was_called(
    mode: EdgeMode, known_by: str, method: str, called: str
) -> None:
    """A group, a forwarded number, or a Contact as Asterisk writes it stands in From then."""
    login = "bob" if known_by == "handshake" else None
    world = World(mode)
    alice = world.phone("alice")
    bob = world.phone("bob", login=login, password="builder")
    _, there = call(alice, bob, to=f"<{called}>")
    if login is None:
        world.edge._identities._config = replace(world.edge.config, challenge=ChallengeScope.ALL)
        world.edge.authenticator = authenticator()
    if known_by == "password":
        assert bob.register().status == 200
    there.send(method)
    if known_by == "password when asked":
        asked = bob.response(407)
        there.send(method, bob.credentials(asked, method, there.target))
    if method == "INVITE":
        bob.response(100)
    assert str(alice.request(method).from_.uri) == called
    assert world.quiet()


@both_modes
def test_what_begins_something_is_judged_by_from_whatever_tag_and_route_say(mode: EdgeMode) -> None:
    world = World(mode)
    alice = world.phone("alice")
    bob = world.phone("bob", login="bob")
    _, there = call(alice, bob)
    alien = {"sender": "<sip:carol@sip.test>;tag=x"}
    near = ("Route", "<sip:edge.test:8080;transport=ws;lr>")
    tag = f"<{alice.aor}>;tag=x"
    # No tag, no route, or a MESSAGE, which a client shows without knowing the dialog.
    assert bob.ask("INVITE", alice.aor, near, **alien).status == 403
    assert bob.ask("INFO", alice.aor, to=tag, **alien).status == 403
    there.local = "<sip:carol@sip.test>;tag=x"
    there.send("MESSAGE")
    bob.response(403)
    if mode is OUTBOUND:
        # A route without a flow token of ours proves nothing, nor does one that is made up.
        assert bob.ask("INFO", alice.aor, near, to=tag, **alien).status == 403
        made_up = ("Route", f"<sip:{'A' * 40}@edge.test:8080;transport=ws;lr>")
        assert bob.ask("INFO", alice.aor, made_up, to=tag, **alien).status == 403
    assert world.quiet()


ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1'
PREFERRED = ("P-Preferred-Identity", "<sip:alice@sip.test>")
WITHHELD = ("Privacy", "id")


@pytest.mark.parametrize("challenge", ChallengeScope)
@pytest.mark.parametrize("login", ["alice", None])
def test_an_anonymous_call_needs_no_more_than_a_password(
    challenge: ChallengeScope, login: str | None
) -> None:
    world = World(authenticator=authenticator(), challenge=challenge)
    alice = world.phone("alice", login=login, password="wonderland")
    bob = world.phone("bob", password="builder")
    for fields in ([WITHHELD], [WITHHELD, PREFERRED]):
        alice.send("INVITE", BOB, *fields, sender=ANONYMOUS, body=SDP)
        if isinstance(answer := alice.heard[0], SipResponse) and answer.status == 407:
            alice.heard.clear()
            proof = alice.credentials(answer, "INVITE", BOB)
            alice.send("INVITE", BOB, proof, *fields, sender=ANONYMOUS, body=SDP, cseq=2)
        alice.response(100)
        invite = bob.request("INVITE")
        assert str(invite.from_) == ANONYMOUS
        # Nothing tells the callee the caller's name.
        assert "p-preferred-identity" not in invite
        assert "p-asserted-identity" not in invite
        assert b"alice@" not in invite.to_bytes().replace(b"Contact: <sip:alice", b"")
        bob.answer(invite, 486)
        bob.request("ACK")
        alice.response(486)
    if login is not None or challenge is not ChallengeScope.NONE:
        other = ("P-Preferred-Identity", f"<{BOB}>")
        assert alice.ask("MESSAGE", BOB, other, sender=ANONYMOUS).status == 403


@pytest.mark.parametrize("login", ["alice", None])
@pytest.mark.parametrize("fields", [[WITHHELD], [PREFERRED], []])
@pytest.mark.parametrize("sender", [ANONYMOUS, "<sip:alice@sip.test>;tag=1"])
def test_the_upstream_is_told_whose_an_anonymous_call_is(
    login: str | None, fields: list[tuple[str, str]], sender: str
) -> None:
    world = World(upstream=UPSTREAM, authenticator=authenticator(), assert_identity=True)
    alice = world.phone("alice", login=login, password="wonderland", registers=False)
    if login is None:
        # Known by its REGISTER.
        alice.send("REGISTER", "sip:sip.test", ("Supported", "path"), to="<sip:alice@sip.test>")
        proof = alice.credentials(alice.response(407), "REGISTER", "sip:sip.test")
        alice.send(
            "REGISTER", "sip:sip.test", proof, ("Supported", "path"), to="<sip:alice@sip.test>"
        )
        world.upstream_request()
    forged = ("P-Asserted-Identity", f"<{BOB}>")
    alice.send("INVITE", BOB, forged, *fields, sender=sender)
    alice.response(100)
    invite = world.upstream_request()
    assert invite.get_all("p-asserted-identity") == ["<sip:alice@sip.test>"]
    assert "p-preferred-identity" not in invite
    assert ("privacy" in invite) is (WITHHELD in fields)


def test_the_upstream_is_told_nothing_that_was_not_proven_or_asked_for() -> None:
    world = World(upstream=UPSTREAM, assert_identity=True)
    stranger = world.phone("alice", registers=False)
    stranger.send("MESSAGE", BOB, PREFERRED)
    assert "p-asserted-identity" not in world.upstream_request()
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", login="alice", registers=False)
    alice.send("MESSAGE", BOB, PREFERRED, sender=ANONYMOUS)
    message = world.upstream_request()
    # An upstream that asserts identities itself is told the preference.
    assert message.get("p-preferred-identity") == "<sip:alice@sip.test>"
    assert "p-asserted-identity" not in message


@pytest.mark.parametrize(
    ("login", "asserted"),
    [("alice@SIP.test", "<sip:alice@sip.test>"), ("bob@elsewhere.test", None)],
)
def test_only_users_of_the_domains_are_asserted(login: str, asserted: str | None) -> None:
    """Whatever the source of users calls them."""
    world = World(upstream=UPSTREAM, assert_identity=True)
    alice = world.phone("alice", login=login, registers=False)
    alice.send("MESSAGE", BOB, sender=f"<sip:{login}>;tag=1")
    assert world.upstream_request().get("p-asserted-identity") == asserted


@pytest.mark.parametrize("private", [True, False])
def test_what_the_upstream_asserts_is_withheld_from_clients_on_request(private: bool) -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", login="alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", ("Supported", "path"), to="<sip:alice@sip.test>")
    path = world.upstream_request().paths[0]
    fields = [("P-Asserted-Identity", f"<{BOB}>"), *([WITHHELD] if private else [])]
    request = SipRequest(
        "MESSAGE",
        alice.contact,
        [
            ("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKu"),
            ("Route", str(path)),
            ("From", ANONYMOUS),
            ("To", "<sip:alice@sip.test>"),
            ("Call-ID", "u"),
            ("CSeq", "1 MESSAGE"),
            *fields,
        ],
    )
    world.from_upstream(request)
    assert ("p-asserted-identity" in alice.request("MESSAGE")) is not private
    alice.heard.clear()
    alice.send("OPTIONS", BOB)
    world.from_upstream(world.upstream_request().make_response(200, headers=fields))
    assert ("p-asserted-identity" in alice.response(200)) is not private


def test_so_many_users_are_remembered_on_a_connection() -> None:
    users = {f"user{number}": "pw" for number in range(30)}
    server = DigestAuthenticator("sip.test", users, entropy=entropy())
    world = World(authenticator=server)
    phone = world.phone("user0", password="pw", registers=False)
    for number in range(30):
        phone.user = f"user{number}"
        assert phone.register(expires=0).status == 200
    connection = world.edge._connections.get(phone.cid)
    assert connection is not None
    assert len(connection.proven) == 20


def test_a_gateway_has_as_many_users_as_its_connection_may() -> None:
    users = {f"user{number}": "pw" for number in range(30)}
    server = DigestAuthenticator("sip.test", users, entropy=entropy())
    world = World(authenticator=server, max_users_per_connection=30)
    gateway = world.phone("user0", password="pw", registers=False)
    alice = world.phone("user0", password="pw")
    for number in range(30):
        gateway.user = f"user{number}"
        assert gateway.register().status == 200
    alice.send("MESSAGE", "sip:user29@sip.test")
    gateway.request("MESSAGE")


def test_a_large_identity_passes_if_that_is_allowed() -> None:
    identity = ("Identity", "x" * 6000)
    world, alice, bob = pair()
    assert alice.ask("MESSAGE", BOB, identity).status == 513
    world, alice, bob = pair(limits=SipLimits(max_header_line=8192))
    message = alice.make("MESSAGE", BOB, identity).to_websocket()
    (action,) = world.edge.receive(alice.cid, message, world.now)
    assert isinstance(action, SendToConnection)
    assert (action.cid, f"Identity: {identity[1]}" in str(action.data)) == (bob.cid, True)


# -- with an upstream ------------------------------------------------------------------------------


def test_either_a_registrar_or_an_upstream() -> None:
    registrar = Registrar(RegistrarConfig(Domains(("sip.test",))))
    with pytest.raises(ValueError, match="the upstream is the registrar"):
        SipEdge(EdgeConfig("edge.test", upstreams=(UPSTREAM,)), registrar=registrar)
    assert SipEdge(EdgeConfig("edge.test"), registrar=registrar).registrar is registrar
    assert SipEdge(EdgeConfig("edge.test", upstreams=(UPSTREAM,))).registrar is None
    made = SipEdge(EdgeConfig("edge.test", mode=ALIAS)).registrar
    assert made is not None
    assert made.config.domains == Domains(("edge.test",))
    assert not made.config.outbound


@pytest.mark.parametrize("source", [CORE, None])
def test_requests_from_the_upstream(source: Source | None) -> None:
    world = World(upstream=UPSTREAM)
    fields = [
        ("Via", "SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bKu"),
        ("From", "<sip:core.test>;tag=1"),
        ("To", "<sip:192.0.2.100:5080>"),
        ("Call-ID", "u"),
    ]
    for method, status in (("OPTIONS", 200), ("REGISTER", 403), ("CANCEL", 481), ("MESSAGE", 404)):
        request = f"{method} sip:192.0.2.100:5080 SIP/2.0"
        world.from_upstream(lines(request, *fields, ("CSeq", f"1 {method}")), source=source)
        response = world.upstream_response()
        assert response.status == status
        assert response.via.received == (None if source is None else source.host)
    world.from_upstream(lines("MESSAGE sip:x SIP/3.0", *fields, ("CSeq", "1 MESSAGE")))
    assert world.upstream_response().status == 505
    world.from_upstream(b"\r\n\r\n")
    assert world.upstream.pop() == b"\r\n"
    world.from_upstream(b"\r\n")
    world.from_upstream(b"junk")
    assert world.quiet()
    assert world.edge.next_deadline() is None
    assert world.edge.handle_timeout(0.0) == []


def test_register_goes_to_the_upstream() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    contact = ("Contact", f"<{alice.contact}>")
    assert alice.ask("REGISTER", "sip:sip.test", contact).status == 421
    alice.send("REGISTER", "sip:sip.test", contact, ("Supported", "path"))
    register = world.upstream_request()
    assert len(register.paths) == 1
    answer = register.make_response(401, headers=[("WWW-Authenticate", "Digest x")])
    world.from_upstream(answer)
    assert alice.response(401).get("www-authenticate") == "Digest x"
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = world.upstream_request()
    world.from_upstream(invite.make_response(180))
    alice.hang_up()
    assert world.upstream_request().method == "CANCEL"


@pytest.mark.parametrize("check_identity", [True, False])
@pytest.mark.parametrize("login", ["alice", "alice@other.test", None])
def test_a_user_cannot_register_another_one_at_the_upstream(
    login: str | None, check_identity: bool
) -> None:
    """It may leave all asking to the edge, and then it knows nothing but To."""
    world = World(
        upstream=UPSTREAM,
        domains=Domains(("sip.test", "other.test")),
        authenticator=authenticator(),
        challenge=ChallengeScope.ALL,
        check_identity=check_identity,
    )
    alice = world.phone("alice", login=login, password="wonderland", registers=False)
    fields = [("Contact", f"<{alice.contact}>"), ("Supported", "path")]
    sender = "<sip:alice@sip.test>;tag=1"
    for to in ("sip:bob@sip.test", "sip:alice@elsewhere.test", "tel:+1", "sip:sip.test"):
        answer = alice.ask("REGISTER", "sip:sip.test", *fields, sender=sender, to=f"<{to}>")
        assert answer.status == 403
        assert not world.upstream
    for to in ("sip:alice@sip.test", "sip:alice@other.test"):
        options: dict[str, str] = {"sender": sender, "to": f"<{to}>"}
        alice.send("REGISTER", "sip:sip.test", *fields, **options)
        if login is None:
            proof = alice.credentials(alice.response(407), "REGISTER", "sip:sip.test")
            alice.send("REGISTER", "sip:sip.test", proof, *fields, **options)
        assert world.upstream_request().to.uri == parse_uri(to)


@pytest.mark.parametrize("name", ["P-Asserted-Identity", "P-Charging-Vector", "Diversion"])
def test_a_client_asserts_nothing(name: str) -> None:
    claim = (name, "<sip:boss@sip.test>")
    _, alice, bob = pair()
    alice.send("INVITE", BOB, claim, body=SDP)
    alice.response(100)
    invite = bob.request("INVITE")
    assert name not in invite
    bob.say(invite.make_response(180, headers=[claim]))
    assert name not in alice.response(180)
    behind = World(upstream=UPSTREAM)
    carol = behind.phone("carol", registers=False)
    carol.send("MESSAGE", BOB, claim)
    message = behind.upstream_request()
    assert name not in message
    # The upstream's word is passed on.
    behind.from_upstream(message.make_response(200, headers=[claim]))
    assert carol.response(200).get(name) == claim[1]


def test_a_stream_from_the_upstream() -> None:
    world = World(upstream=TCP)
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB)
    message = world.upstream_request()
    alice.send("MESSAGE", BOB)
    other = world.upstream_request()
    data = b"\r\n\r\n" + message.make_response(200).to_bytes() + b"\r\n"
    data += other.make_response(486).to_bytes()
    for octet in data:
        world.from_upstream(bytes([octet]))
    assert world.upstream.pop() == b"\r\n"
    assert alice.response(200).call_id == message.call_id
    assert alice.response(486).call_id == other.call_id
    # A message that is wrong in itself is answered; the stream goes on.
    fields = [
        ("Via", "SIP/2.0/TCP 192.0.2.200;branch=z9hG4bKu"),
        ("From", "<sip:a@core.test>;tag=1"),
        ("To", "<sip:alice@sip.test>"),
        ("Call-ID", "u"),
        ("CSeq", "1 MESSAGE"),
    ]
    world.from_upstream(lines("MESSAGE sip:x SIP/3.0", *fields))
    assert world.upstream_response().status == 505
    assert world.resets == []


def test_a_stream_that_cannot_be_framed_is_reset() -> None:
    world = World(upstream=TCP)
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB)
    message = world.upstream_request()
    world.from_upstream(b"SIP/2.0 200 OK\r\n\r\n")
    assert [reset.upstream for reset in world.resets] == ["core"]
    assert "Content-Length" in world.resets[0].reason
    # The next one begins anew, also in the middle of a message.
    answer = message.make_response(200).to_bytes()
    world.from_upstream(answer[:20])
    world.edge.upstream_lost(STREAM)
    world.edge.upstream_lost(STREAM)
    world.from_upstream(answer)
    alice.response(200)


def test_an_upstream_that_cannot_be_reached() -> None:
    world = World(upstream=TCP)
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB)
    world.upstream_request()
    world.do(world.edge.upstream_failed(world.now))
    alice.response(503)
    assert world.edge.transactions == 0


def test_a_single_pong_in_the_stream_gets_no_answer() -> None:
    world = World(upstream=TCP)
    world.from_upstream(b"")
    world.edge._streams["core", STREAM].expect_pong()
    world.from_upstream(b"\r\n")
    assert world.quiet()


def test_each_connection_of_the_upstream_is_a_stream_of_its_own() -> None:
    """And what is asked on one is answered there."""
    world = World(upstream=TCP)
    requests = [
        lines(
            "OPTIONS sip:192.0.2.100:5080 SIP/2.0",
            ("Via", f"SIP/2.0/TCP 192.0.2.200;branch=z9hG4bK{link}"),
            ("From", "<sip:core.test>;tag=1"),
            ("To", "<sip:192.0.2.100:5080>"),
            ("Call-ID", "u"),
            ("CSeq", f"{link} OPTIONS"),
        )
        for link in (STREAM, 2, 3)
    ]
    for link, request in zip((STREAM, 2, 3), requests, strict=True):
        world.from_upstream(request[:50], link=link)
    for link, request in zip((STREAM, 2, 3), requests, strict=True):
        world.from_upstream(request[50:] + b"\r\n\r\n", link=link)
        assert world.upstream_response().cseq.number == link
        assert world.upstream.pop() == b"\r\n"
    assert world.links == [1, 1, 2, 2, 3, 3]
    world.from_upstream(b"\rjunk", link=3)
    assert [reset.link for reset in world.resets] == [3]


def test_transactions_of_the_upstream_stay_on_their_connection() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", ("Supported", "path"))
    register = world.upstream_request()
    world.from_upstream(register.make_response(200))
    alice.response(200)
    path = register.paths[0]
    world.links.clear()
    invite = alice.make(
        "INVITE", alice.contact, ("Route", str(path)), sender="<sip:b@sip.test>;tag=b"
    )
    invite.replace_first("Via", "SIP/2.0/TCP 192.0.2.200;branch=z9hG4bKu")
    world.from_upstream(invite, link=5)
    incoming = alice.request("INVITE")
    world.from_upstream(invite, link=6)
    assert world.links == [5, 6], "the same again is answered where it came"
    alice.answer(incoming, 486)
    alice.request("ACK")
    assert [world.upstream_response().status for _ in range(3)] == [100, 100, 486]
    assert world.links[2:] == [5]
    # A connection loses nothing: it is not sent again.
    world.wait(5)
    assert world.quiet()


def test_without_an_upstream_nothing_comes_from_there() -> None:
    world = World()
    world.from_upstream(b"x")
    assert world.edge.dropped == 1
    assert world.quiet()


# -- recordings ------------------------------------------------------------------------------------

DATA = Path(__file__).parents[2] / "data" / "sip"


def recorded(name: str) -> list[tuple[int, str, str]]:
    """Time, direction and text of every message of a recording."""
    texts = (DATA / name).read_text(encoding="utf-8").split("\n")
    entries = [json.loads(text) for text in texts if text]
    return [(entry["t"], entry["ev"], entry["data"]) for entry in entries if "data" in entry]


def replay(first: str, second: str, mode: EdgeMode) -> list[tuple[str, SipRequest | SipResponse]]:
    """Return what the edge sends when two recorded clients repeat their messages.

    Credentials, routes and aliases were made by another server, so they are replaced by what this
    one would have: the client's words are the recording's otherwise.
    """
    config = EdgeConfig("edge.test", Domains(("sip.test",)), 8080, mode)
    edge = SipEdge(config, entropy=entropy())
    names = {1: "alice", 2: "bob"}
    for cid in names:
        edge.connection_opened(cid, Peer(Source("127.0.0.1", 50000 + cid, "ws")))
    out: list[tuple[str, SipRequest | SipResponse]] = []
    messages = sorted(
        [(t, cid, d, x) for cid, name in ((1, first), (2, second)) for t, d, x in recorded(name)],
        key=lambda item: (item[0], item[2] == "sent"),
    )
    #: Branch of the request as the client got it from us, by what the recorded one was.
    ours: dict[tuple[str, str], SipRequest] = {}
    for when, cid, direction, text in messages:
        if is_keepalive(text) or direction == "recv":
            continue
        message = parse_message(text)
        for name in ("authorization", "proxy-authorization", "route"):
            message.remove_header(name)
        if isinstance(message, SipResponse):
            known = ours.get((message.call_id, str(message.cseq)))
            if known is None:
                continue
            message.remove_header("via")
            for value in reversed(known.get_all("via")):
                message.insert_header("Via", value)
        for action in edge.receive(cid, message.to_websocket(), when / 1000):
            assert isinstance(action, SendToConnection)
            sent = parse_message(action.data)
            out.append((names[action.cid], sent))
            if isinstance(sent, SipRequest):
                ours[sent.call_id, str(sent.cseq)] = sent
    return out


@pytest.mark.parametrize(
    ("first", "second", "mode"),
    [
        ("kamailio-digest-alice.jsonl", "kamailio-digest-bob.jsonl", ALIAS),
        ("outbound-alice.jsonl", "outbound-bob.jsonl", OUTBOUND),
    ],
)
def test_recorded_clients(first: str, second: str, mode: EdgeMode) -> None:
    out = replay(first, second, mode)
    originals = {"alice": set(), "bob": set()}  # type: dict[str, set[str]]
    for name, file in (("alice", first), ("bob", second)):
        for _, direction, text in recorded(file):
            if direction == "sent" and not is_keepalive(text):
                message = parse_message(text)
                if isinstance(message, SipRequest):
                    originals[name].add(message.call_id)
    registered = delivered = 0
    for name, message in out:
        other = "bob" if name == "alice" else "alice"
        if isinstance(message, SipRequest):
            # No client gets messages for the other one, or its own messages.
            assert message.to.uri == parse_message(message.to_bytes()).to.uri
            assert [via.host for via in message.vias[:1]] == ["edge.test"]
            if message.to.tag is None:
                assert message.call_id in originals[other]
                assert str(message.to.uri) == f"sip:{name}@sip.test"
            delivered += 1
        else:
            assert message.via.host.endswith(".invalid")
            if message.cseq.method == "REGISTER" and message.status == 200:
                registered += 1
                contacts = message.contacts or []
                gruu = [contact.params.get("pub-gruu") for contact in contacts]
                assert any(gruu) is (mode is OUTBOUND and bool(contacts))
    assert registered >= 4
    assert delivered >= 8
    methods = {message.method for _, message in out if isinstance(message, SipRequest)}
    assert {"OPTIONS", "MESSAGE", "INVITE", "CANCEL", "ACK"} <= methods


# -- hostile clients -------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *("INVITE", "ACK", "CANCEL", "REGISTER", "MESSAGE", "BYE", "OPTIONS", "x"),
        *("sip:bob@sip.test", "sip:sip.test", "sip:edge.test:8080;lr", "tel:+1", "*", "<", ">"),
        *("SIP/2.0", " ", "\r\n", "\r\n\r\n", ":", ";", ",", '"', "\0", "\x85", "é", "=", "~5"),
        *("Via: SIP/2.0/WS x.invalid;branch=z9hG4bKh", "Via: SIP/2.0/WS edge.test:8080;branch=q"),
        *("From: <sip:alice@sip.test>;tag=1", "To: <sip:bob@sip.test>", "Call-ID: h"),
        *("CSeq: 1 INVITE", "Contact: *", "Contact: <sip:a@x.invalid;alias=1.2.3.4~5~5>"),
        *("Route: <sip:edge.test:8080;lr>", "Route: <sip:AAAA@edge.test:8080;lr>", "Expires: 0"),
        *("Max-Forwards: 0", "Record-Route: <sip:x>", "Content-Length: 1", "Supported: path"),
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join) | st.binary(max_size=60) | st.text(max_size=60))
def test_junk_never_raises_and_reaches_no_other_client(junk: str | bytes) -> None:
    _world, alice, bob = pair()
    alice.say(junk)
    assert not bob.heard
    alice.heard.clear()
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


_REQUEST_FIELDS = {
    "Via": ["SIP/2.0/WS x.invalid;branch=z9hG4bKh", "SIP/2.0/WS edge.test:8080;branch=z9hG4bKh"],
    "From": ["<sip:alice@sip.test>;tag=1", "<sip:bob@sip.test>;tag=2", "x", "<tel:+1>"],
    "To": [f"<{BOB}>", f"<{BOB}>;tag=1", "<sip:alice@sip.test>", "<mailto:x>"],
    "Call-ID": ["h", "call-1-2", "\0"],
    "Route": ["<sip:edge.test:8080;lr>", "<sip:bob@x>", "<sip:" + "A" * 40 + "@edge.test:8080;lr>"],
    "Contact": ["*", "<sip:a@x.invalid>", "<sip:a@x.invalid;alias=192.0.2.1~4002~5>", "<tel:1>"],
    "Expires": ["0", "60", "x"],
    "Supported": ["path, gruu, outbound", "<"],
    "Max-Forwards": ["0", "1", "x"],
    "Proxy-Authorization": ['Digest username="alice"', "Basic x"],
    "Reason": ["SIP;cause=200"],
}


@given(
    st.sampled_from(MODES),
    st.sampled_from(["INVITE", "ACK", "CANCEL", "REGISTER", "MESSAGE", "BYE", "OPTIONS", "NOTIFY"]),
    st.sampled_from(
        [BOB, "sip:sip.test", "sip:x@y.invalid;alias=192.0.2.1~4002~5", "tel:+1", "sip:b;gr", "x"]
    ),
    st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in _REQUEST_FIELDS.items()}
    ),
    st.integers(0, 2),
)
def test_odd_requests_are_answered_at_most_and_passed_on_to_whom_they_name(
    mode: EdgeMode, method: str, uri: str, changed: dict[str, str], times: int
) -> None:
    world = World(mode)
    alice, bob, carol = [world.phone(name) for name in ("alice", "bob", "carol")]
    fields = {
        "Via": "SIP/2.0/WS y.invalid;branch=z9hG4bKg",
        "From": "<sip:alice@sip.test>;tag=1",
        "To": f"<{BOB}>",
        "Call-ID": "g",
        "CSeq": f"1 {method}",
    } | changed
    for _ in range(times + 1):
        alice.say(lines(f"{method} {uri} SIP/2.0", *fields.items()))
    assert not carol.heard
    for message in bob.heard:
        assert isinstance(message, SipRequest)
        assert message.via.host == "edge.test"
    finals = [m for m in alice.heard if isinstance(m, SipResponse) and m.status >= 200]
    assert len(finals) <= times + 1
    # Nothing is left for ever, whatever it was.
    world.wait(8000)
    assert world.edge.transactions == 0


@given(
    st.sampled_from([100, 180, 200, 302, 407, 430, 486, 603]),
    st.fixed_dictionaries(
        {},
        optional={
            "Via": st.sampled_from(
                ["SIP/2.0/WS x", "x", "SIP/2.0/WS edge.test:8080;branch=z9hG4bK"]
            ),
            "CSeq": st.sampled_from(["1 CANCEL", "1 ACK", "2 INVITE", "x"]),
            "To": st.sampled_from(["<sip:x>", "x"]),
            "Contact": st.sampled_from(["*", "<tel:1>", "x", "<sip:a@b;alias=x>"]),
            "Call-ID": st.just("other"),
        },
    ),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_odd_responses(
    status: int, changed: dict[str, str], mode: EdgeMode, from_callee: bool
) -> None:
    world, alice, bob = pair(mode)
    carol = world.phone("carol")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = bob.request("INVITE")
    response = invite.make_response(status)
    for name, value in changed.items():
        response.replace_header(name, value)
    (bob if from_callee else carol).say(response)
    assert not carol.heard
    if not from_callee:
        assert not alice.heard
        assert not bob.heard
    for message in alice.heard:
        assert isinstance(message, SipResponse)
        assert message.via.host == f"x{alice.cid}.invalid"
    for message in bob.heard:
        assert isinstance(message, SipRequest)
        assert message.method == "ACK"


def test_other_keys_while_it_runs() -> None:
    old, new = b"the first of keys", b"the second of keys"
    world, alice, bob = pair(flow_keys=[old])
    here, _ = call(alice, bob)
    world.edge.use_flow_keys([new, old])
    here.send("INFO")
    bob.answer(bob.request("INFO"), 200)
    alice.response(200)
    world.edge.use_flow_keys([new])
    here.send("INFO")
    alice.response(403)
    assert world.quiet()


def test_other_users_while_it_runs() -> None:
    keys = authenticator()
    world = World(authenticator=keys)
    alice = world.phone("alice", password="wonderland")
    keys.users = {"bob": "builder"}
    assert [keys.knows(name) for name in ("alice", "bob")] == [False, True]
    assert alice.register().status == 401
    assert world.phone("bob", password="builder").register().status == 200


# -- several upstreams -----------------------------------------------------------------------------


def test_upstreams_can_be_replaced_and_not_taken_away() -> None:
    other = replace(UPSTREAM, name="other", host="192.0.2.201")
    world = World(upstream=UPSTREAM)
    world.edge.use_upstreams([other])
    assert world.edge.upstreams == [other]
    assert list(world.edge.upstream_statistics) == ["other"]
    for upstreams in ([], [other, other]):
        with pytest.raises(ValueError, match=r"from its beginning to its end|the same name"):
            world.edge.use_upstreams(upstreams)
    with pytest.raises(ValueError, match="from its beginning to its end"):
        World().edge.use_upstreams([other])
    # The one that was there may still answer, in whatever way.
    world.from_upstream(b"\r\n\r\n", upstream="core")
    assert world.all_sent == [("core", b"\r\n")]
    world.from_upstream(b"\r\n\r\n", upstream="never there")
    assert world.edge.dropped == 1


def test_a_connection_to_an_upstream_out_of_service_is_a_reason_to_probe() -> None:
    world = World(upstream=TCP)
    world.do(world.edge.upstream_opened("core", world.now))
    assert world.quiet()
    world.do(world.edge.upstream_failed(world.now))
    world.do(world.edge.upstream_opened("core", world.now))
    world.from_upstream(world.upstream_request().make_response(200))
    assert [change.in_service for change in world.changes] == [False, True]
    world.do(world.edge.upstream_opened("gone", world.now))
    assert world.quiet()


def test_what_upstreams_send_on_streams_is_kept_apart() -> None:
    other = replace(TCP, name="other", host="192.0.2.201")
    world = World(upstreams=(TCP, other))
    for name in ("core", "other"):
        world.from_upstream(b"\r\n", upstream=name)
    world.from_upstream(b"\r\n", upstream="core")
    assert world.all_sent == [("core", b"\r\n")]
    world.edge.upstream_lost(STREAM, upstream="other")
    world.from_upstream(b"\r\n", upstream="other")
    assert world.all_sent == [("core", b"\r\n")]


# -- what has to be found out elsewhere ------------------------------------------------------------

ALICE = Account(Identity("alice"), "wonderland")


def late_pair(**options: object) -> tuple[World, Phone, Phone]:
    """Alice and bob, where accounts are kept elsewhere."""
    late = DigestAuthenticator(
        "sip.test",
        lambda name: LATER,
        entropy=entropy(),
        throttle=options.pop("throttle", None),  # type: ignore[arg-type]
    )
    world = World(authenticator=late, challenge=ChallengeScope.ALL, **options)  # type: ignore[arg-type]
    alice = world.phone("alice", password="wonderland", registers=False)
    return world, alice, world.phone("bob", registers=False)


def ask_with_proof(
    phone: Phone, method: str, uri: str, *fields: tuple[str, str], to: str | None = None
) -> SipRequest:
    phone.send(method, uri, *fields, to=to)
    proof = phone.credentials(phone.response(), method, uri)
    return phone.send(method, uri, proof, *fields, to=to, cseq=2)


def test_a_registration_waits_for_its_account_and_others_wait_for_it() -> None:
    world, alice, bob = late_pair()
    fields = alice.registration(expires=60)
    waiting = ask_with_proof(alice, "REGISTER", "sip:sip.test", *fields, to=f"<{alice.aor}>")
    alice.say(waiting)
    alice.send("OPTIONS", "sip:edge.test:8080")
    # None of these waits.
    alice.say(lines("MESSAGE sip:bob@sip.test SIP/2.0", *UPSTREAMS[:-1], ("CSeq", "x")))
    alice.response(400)
    alice.follow("ACK", waiting)
    assert world.edge.dropped == 1
    bob.send("OPTIONS", "sip:edge.test:8080")
    bob.response(407)
    assert (world.edge.waiting, alice.heard) == (2, [])
    world.answer(ALICE)
    assert alice.response(200).cseq.method == "REGISTER"
    assert alice.response(407).cseq.method == "OPTIONS"
    assert world.edge.waiting == 0
    # Its bindings are as good as any, and an OPTIONS to the edge waits as well.
    ask_with_proof(alice, "OPTIONS", "sip:edge.test:8080")
    world.answer(ALICE)
    assert alice.response(200).get("allow")
    assert world.quiet()


def test_a_registration_may_turn_out_to_be_a_guess() -> None:
    world, alice, _ = late_pair()
    fields = alice.registration(expires=60)
    ask_with_proof(alice, "REGISTER", "sip:sip.test", *fields, to=f"<{alice.aor}>")
    world.answer(None)
    alice.response(401)


def test_a_call_that_waits_is_cancelled_timed_out_or_lost() -> None:
    throttle = Throttle()
    world, alice, _ = late_pair(throttle=throttle)
    invite = ask_with_proof(alice, "INVITE", BOB)
    alice.follow("CANCEL", invite)
    assert [alice.response().status for _ in range(2)] == [200, 487]
    world.answer(ALICE)
    ask_with_proof(alice, "INVITE", BOB)
    world.wait(5)
    assert alice.response(503).get("retry-after") == "5"
    world.answer(ALICE)
    ask_with_proof(alice, "INVITE", BOB)
    alice.hang_up()
    world.wait(5)
    assert world.edge.waiting == 0
    assert world.quiet()
    assert not throttle.counts


def test_requests_that_wait_have_their_share() -> None:
    share = ShareConfig(4, reserve=0, per_connection=1)
    world, alice, _ = late_pair(transactions=share)
    ask_with_proof(alice, "MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    alice.response(503)
    world.edge.connection_opened(77, Peer(Source("192.0.2.9", 1, "ws")))
    world.answer("alice")
    alice.response(500)
    assert (world.edge.hook_errors, len(world.failures)) == (1, 1)


def test_a_request_without_room_to_wait_is_refused() -> None:
    share = ShareConfig(2, reserve=0, per_connection=1)
    world, alice, bob = late_pair(transactions=share)
    ask_with_proof(alice, "MESSAGE", BOB)
    bob.password = "builder"
    ask_with_proof(bob, "MESSAGE", BOB)
    bob.response(503)
    assert len(world.questions) == 1


def test_the_second_of_two_is_not_asked_about_when_its_time_is_over() -> None:
    world, alice, _ = late_pair()
    proofs = []
    for _ in range(2):
        alice.send("MESSAGE", BOB)
        proofs.append(alice.credentials(alice.response(407), "MESSAGE", BOB))
    for proof in proofs:
        alice.send("MESSAGE", BOB, proof)
    world.wait(5)
    assert [alice.response().status for _ in range(2)] == [503, 503]
    assert len(world.questions) == 1


def hooked(verdict: Verdict | Later, **options: object) -> tuple[World, Phone, Phone]:
    """Alice and bob, and a hook that says one thing of their messages."""

    def hook(asked: HookRequest) -> Verdict | Later:
        if asked.request.method == "REGISTER":
            return None
        if asked.request.method == "INFO":
            raise RuntimeError("broken")
        return verdict

    world = World(hook=hook, **options)  # type: ignore[arg-type]
    return world, world.phone("alice"), world.phone("bob")


def test_the_hook_decides_about_requests() -> None:
    world, alice, bob = hooked(Proceed(BOB))
    alice.send("MESSAGE", "sip:support@sip.test")
    bob.request("MESSAGE")
    alice.send("INFO", BOB)
    alice.response(500)
    assert str(world.failures[0].error) == "broken"
    world, alice, _ = hooked(LATER)
    alice.send("MESSAGE", BOB)
    world.answer(Refuse(403))
    alice.response(403)
    alice.send("MESSAGE", BOB)
    world.answer(7)
    alice.response(500)
    alice.send("MESSAGE", BOB)
    # Something that cannot be written, though it can be read.
    world.answer(Proceed(remove=["contact"]))
    assert world.edge.waiting == 0


@pytest.mark.parametrize(
    ("privacy", "status"),
    [("id;critical", None), ("header", None), ("header;session;critical", 500)],
)
def test_privacy_that_is_critical_and_not_provided_is_refused(
    privacy: str, status: int | None
) -> None:
    world, alice, bob = pair()
    alice.send("MESSAGE", BOB, ("Privacy", privacy))
    if status is None:
        assert bob.request("MESSAGE").get("privacy") == privacy
    else:
        refused = alice.response(status)
        assert refused.reason == "Privacy Not Provided: header, session"
    assert world.quiet()


def test_the_upstream_may_provide_the_privacy_that_this_side_does_not() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    alice.send("MESSAGE", BOB, ("Privacy", "header;critical"))
    assert world.upstream_request().get("privacy") == "header;critical"


def test_the_hook_is_told_whose_request_it_is() -> None:
    asked: list[HookRequest] = []
    world = World(hook=asked.append, upstream=UPSTREAM)
    source = Source("192.0.2.7", 4000, "wss")
    alice = world.phone("alice", registers=False, peer=Peer(source, "alice"))
    alice.send("MESSAGE", BOB)
    world.upstream_request()
    world.from_upstream(lines("MESSAGE sip:alice@sip.test SIP/2.0", *UPSTREAMS))
    assert world.upstream_response().status == 404
    assert [one.user for one in asked] == ["alice", None]


UPSTREAMS = [
    ("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKc"),
    ("Max-Forwards", "70"),
    ("From", "<sip:carol@sip.test>;tag=c"),
    ("To", "<sip:alice@sip.test>"),
    ("Call-ID", "c"),
    ("CSeq", "1 MESSAGE"),
]


def test_requests_under_way_are_shown_in_pages() -> None:
    world, alice, bob = pair()
    assert world.edge.transactions_page(0, 9) == []
    alice.send("INVITE", BOB, body=SDP)
    bob.request("INVITE")
    [found] = world.edge.transactions_page(0, 9)
    assert found.request.method == "INVITE"
    assert world.edge.transactions_page(1, 9) == []


# -- a node of several -----------------------------------------------------------------------------


def node_pair(**options: ShareConfig) -> tuple[NodeWorld, Location, Phone, Phone]:
    """Alice and bob, registered at a node."""
    world, location = NodeWorld("one", 1, **options), Location()
    phones = [Phone(world, user, registers=False) for user in ("alice", "bob")]
    for phone in phones:
        ask_register(phone)
        assert [type(question) for question in world.obey(location)] == [Update]
        phone.response(200)
    return world, location, phones[0], phones[1]


def ask_register(phone: Phone, *, expires: int = 300, cseq: int = 1) -> None:
    fields = phone.registration(expires=expires)
    phone.send("REGISTER", "sip:sip.test", *fields, to=f"<{phone.aor}>", cseq=cseq)


def test_a_call_is_told_to_wait_while_the_callee_is_looked_up() -> None:
    world, location, alice, bob = node_pair()
    invite = alice.send("INVITE", BOB, body=SDP)
    alice.response(100)
    assert list(world.questions.values()) == [Lookup(BOB)]
    # Once more it is not asked.
    alice.say(invite)
    assert (len(world.questions), world.edge.waiting, world.edge.transactions) == (1, 1, 0)
    world.obey(location)
    incoming = bob.request("INVITE")
    assert incoming.body == SDP
    bob.answer(incoming, 486)
    bob.request("ACK")
    alice.response(486)
    assert world.quiet()


def test_without_an_answer_of_the_store_a_call_gets_480_and_a_registration_503() -> None:
    world, location, alice, bob = node_pair()
    alice.send("INVITE", BOB, body=SDP)
    bob.send("MESSAGE", BOB)
    ask_register(Phone(world, "carol", registers=False))
    assert world.edge.next_deadline() == world.now + 2.0
    world.wait(2.0)
    alice.response(100)
    for phone, status in ((alice, 480), (bob, 480), (world.phones[3], 503)):
        assert phone.response(status).get("retry-after") == "5"
    number = min(number for number in world.questions if number > 0)
    assert world.edge.answer(number, Found(BOB), world.now) == []
    # It is made sure of that carol's has not been done after all.
    errand = world.questions[-1]
    assert errand == Update("sip:carol@sip.test", 0)
    world.obey(location)
    assert world.quiet()
    assert location.bindings("sip:carol@sip.test") == []


def test_an_unavailable_store_gives_503_with_retry_after() -> None:
    world, _, alice, bob = node_pair()
    alice.send("INVITE", BOB, body=SDP)
    world.answer(NotAsked("no connection", 7))
    alice.response(100)
    assert alice.response(480).get("retry-after") == "7"
    ask_register(bob, cseq=2)
    world.answer(NotAsked("no connection", 7))
    assert bob.response(503).get("retry-after") == "7"
    assert world.quiet()
    assert not world.questions


def test_a_call_is_cancelled_while_the_callee_is_looked_up() -> None:
    world, location, alice, _ = node_pair()
    invite = alice.send("INVITE", BOB, body=SDP)
    alice.response(100)
    alice.follow("CANCEL", invite)
    assert alice.response(200).cseq.method == "CANCEL"
    assert alice.response(487).cseq.method == "INVITE"
    world.obey(location)
    assert world.quiet()
    assert (world.edge.waiting, world.edge.transactions) == (0, 0)


def test_what_was_granted_to_a_connection_that_is_gone_is_dropped() -> None:
    world, location = NodeWorld(), Location()
    phone = Phone(world, "alice", registers=False)
    ask_register(phone)
    phone.hang_up()
    first, second = world.obey(location)[:2]
    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert second.drop == () or second.drop == first.put
    assert location.bindings(phone.aor) == []
    assert (world.edge.waiting, len(world.registrar.errands)) == (0, 0)


def test_the_store_is_told_of_the_end_of_a_connection() -> None:
    world, location, alice, bob = node_pair()
    bob.hang_up()
    assert world.registrar.bindings == 1
    (drop,) = world.obey(location)
    assert isinstance(drop, Update)
    assert (len(drop.drop), drop.put) == (1, ())
    assert location.bindings(BOB) == []
    alice.send("MESSAGE", BOB)
    world.obey(location)
    alice.response(404)


def test_an_errand_without_an_answer_is_run_again() -> None:
    world, location, _, bob = node_pair()
    bob.hang_up()
    world.questions.clear()
    world.wait(4.9)
    assert not world.questions
    world.wait(1.1)
    assert world.obey(location)
    assert location.bindings(BOB) == []


def test_registrations_of_a_connection_keep_their_order_at_a_slow_store() -> None:
    world, location, _, bob = node_pair()
    for cseq in (2, 3, 4):
        ask_register(bob, cseq=cseq)
    assert (len(world.questions), world.edge.waiting) == (1, 3)
    world.obey(location)
    assert [bob.response(200).cseq.number for _ in range(3)] == [2, 3, 4]


def test_an_answer_of_the_store_that_is_none_gets_500() -> None:
    world, _, alice, bob = node_pair()
    alice.send("INVITE", BOB, body=SDP)
    world.answer(None)
    alice.response(100)
    alice.response(500)
    ask_register(bob, cseq=2)
    world.answer(Found(BOB))
    bob.response(500)
    assert world.edge.hook_errors == 2


def test_a_question_without_room_to_wait_is_not_asked() -> None:
    world, _, alice, bob = node_pair(transactions=ShareConfig(8, reserve=0, per_connection=1))
    alice.send("MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    assert alice.response(503).get("retry-after") == "5"
    world.edge._parking._claim = lambda party, size: Bound.ALL
    ask_register(bob, cseq=2)
    assert bob.response(503).get("retry-after") == "5"
    # It is certain that nothing was done.
    assert (len(world.questions), len(world.registrar.errands)) == (1, 0)


def test_a_gruu_is_looked_up_for_a_route_whose_connection_is_gone() -> None:
    world, location, alice, bob = node_pair()
    caller, callee = (
        Phone(world, "carol", registers=False),
        Phone(world, "dave", registers=False, outbound="urn:uuid:1"),
    )
    ask_register(callee)
    world.obey(location)
    contact = (callee.response(200).contacts or [])[0]
    for param in ("pub-gruu", "temp-gruu"):
        gruu = contact.params.get(param) or ""
        caller.send("INVITE", gruu, body=SDP)
        (question,) = world.obey(location)
        assert isinstance(question, Lookup)
        assert bool(question.gruu) == (param == "temp-gruu")
        caller.response(100)
        incoming = callee.request("INVITE")
        assert str(incoming.uri) == str(contact.uri)
        ok = callee.answer(incoming, 200, ("Contact", f"<{gruu}>"))
        accepted = caller.response(200)
        dialog = Dialog(caller, incoming, accepted, caller=True)
        dialog.local, dialog.target = str(accepted.from_), gruu
        # Within the dialog nothing is asked: its connection is here.
        dialog.send("ACK")
        assert str(callee.request("ACK").uri) == str(contact.uri)
        dialog.send("INFO")
        assert not world.questions
        info = callee.request("INFO")
        assert str(info.uri) == str(contact.uri)
        callee.answer(info, 200)
        caller.response(200)
        assert ok.status == 200
    callee.hang_up()
    world.obey(location)
    # Nothing is asked for an ACK.
    dropped = world.edge.dropped
    dialog.send("ACK")
    assert world.edge.dropped == dropped + 1
    assert not world.questions
    dialog.send("INFO")
    world.obey(location)
    caller.response(430)
    # The client comes again, and is found by its GRUU.
    again = Phone(world, "dave", registers=False, outbound="urn:uuid:1")
    ask_register(again)
    world.obey(location)
    again.response(200)
    dialog.target = f"{callee.aor};gr=urn:uuid:1"
    dialog.send("INFO")
    world.obey(location)
    again.request("INFO")
    # An address that is not a GRUU leads nowhere else.
    dialog.target = callee.contact
    dialog.send("INFO")
    caller.response(430)
    alice.send("MESSAGE", "sip:tgruu.unknown@sip.test;gr")
    alice.response(404)
    assert bob.heard == []


def test_bindings_at_another_node_are_seen() -> None:
    """Where they lead is for the links between nodes."""
    world, location, alice, _ = node_pair()
    other = NodeWorld("two", 100)
    carol = Phone(other, "carol", registers=False)
    ask_register(carol)
    other.obey(location)
    carol.response(200)
    alice.send("REGISTER", "sip:sip.test", to=f"<{carol.aor}>")
    assert world.obey(location) == [Lookup(carol.aor)]
    assert str((alice.response(200).contacts or [])[0].uri) == carol.contact
    alice.send("MESSAGE", carol.aor)
    world.obey(location)
    alice.response(480)


def test_which_nodes_there_are() -> None:
    world = NodeWorld("one")
    two = Cluster.seen("two", "one")
    world.edge.use_nodes([two])
    assert world.edge.upstreams == [two]
    assert world.edge.upstream_received(b"\r\n\r\n", 0.0, upstream="two", link=2)
    world.edge.use_nodes([])
    assert world.edge.upstreams == []


def test_invalid_nodes_are_refused() -> None:
    world = NodeWorld("one")
    for node in (Cluster.seen("one", "one"), replace(UPSTREAM, name="two")):
        with pytest.raises(ValueError, match="not another node"):
            world.edge.use_nodes([node])
    with pytest.raises(ValueError, match="same name"):
        world.edge.use_nodes([Cluster.seen("two", "one")] * 2)
    with pytest.raises(ValueError, match="is not a node"):
        World().edge.use_nodes([])
    with pytest.raises(ValueError, match="flow tokens alone"):
        SipEdge(EdgeConfig("edge.test", mode=EdgeMode.ALIAS), registrar=world.registrar)


# -- presence and waiting messages -----------------------------------------------------------------


@both_modes
def test_state_that_a_server_keeps_is_refused_where_there_is_none(mode: EdgeMode) -> None:
    world = World(mode)
    alice, bob = world.phone("alice"), world.phone("bob")
    refused = alice.ask("PUBLISH", alice.aor, ("Event", "presence"))
    assert refused.status == 405
    assert "INVITE" in (refused.get("allow") or "")
    assert "PUBLISH" not in (refused.get("allow") or "")
    for event in ("presence", "Presence;id=1", "message-summary", "presence.winfo", "reg"):
        for target in (BOB, "sip:sip.test"):
            refused = alice.ask("SUBSCRIBE", target, ("Event", event))
            assert (refused.status, refused.get("allow-events")) == (
                489,
                "conference, dialog, refer",
            )
    # What a client has itself is asked of it, and so is what is asked of its own address.
    for event, target in (("dialog", BOB), ("presence", bob.contact)):
        alice.send("SUBSCRIBE", target, ("Event", event))
        bob.answer(bob.request("SUBSCRIBE"), 405)
        alice.response(405)
    alice.send("SUBSCRIBE", BOB)
    bob.answer(bob.request("SUBSCRIBE"), 489)
    alice.response(489)


def test_state_may_be_kept_by_an_upstream_or_where_a_hook_says() -> None:
    for options in ({"upstream": UPSTREAM}, {"hook": lambda asked: None}):
        world = World(**options)
        alice = world.phone("alice", registers="upstream" not in options)
        alice.send("PUBLISH", alice.aor, ("Event", "presence"))
        if "upstream" in options:
            assert world.upstream_request().method == "PUBLISH"
        else:
            assert alice.request("PUBLISH").body == b""


@pytest.mark.parametrize(
    ("challenge", "left"),
    [
        (ChallengeScope.OWN, ["authorization"]),
        (ChallengeScope.NONE, ["authorization", "proxy-authorization"]),
    ],
)
def test_an_upstream_gets_the_credentials_that_it_may_have_requested(
    challenge: ChallengeScope, left: list[str]
) -> None:
    world = World(upstream=UPSTREAM, challenge=ChallengeScope.OWN, authenticator=authenticator())
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.send("MESSAGE", BOB)
    _, proof = alice.credentials(alice.response(407), "MESSAGE", BOB)
    if challenge is ChallengeScope.NONE:
        world = World(upstream=UPSTREAM, challenge=challenge, authenticator=authenticator())
        alice = world.phone("alice", registers=False)
    # In the same realm, with a nonce of the upstream's own.
    theirs = proof.replace('nonce="', 'nonce="0', 1)
    alice.send("MESSAGE", BOB, ("Authorization", theirs), ("Proxy-Authorization", proof), cseq=2)
    sent = world.upstream_request()
    assert [name for name in ("authorization", "proxy-authorization") if name in sent] == left

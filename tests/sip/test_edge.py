"""A SIP server for two telephones, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.sip._phones import CORE, MODES, SDP, UPSTREAM, Phone, World, call, entropy, lines
from wsproto_sip.sip import (
    SipRequest,
    SipResponse,
    Source,
    digest_ha1,
    is_keepalive,
    parse_message,
    parse_uri,
)
from wsproto_sip.sip.authentication import DigestAuthenticator
from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.edge import SipEdge
from wsproto_sip.sip.edge_config import STREAM, EdgeConfig, EdgeMode, Peer, SendToConnection
from wsproto_sip.sip.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.users import Users

BOB = "sip:bob@sip.test"
ALIAS, OUTBOUND = EdgeMode.ALIAS, EdgeMode.OUTBOUND
TCP = replace(UPSTREAM, transport="tcp")
both_modes = pytest.mark.parametrize("mode", MODES)
USERS = Users({"alice": "wonderland", "bob": "builder"})


def authenticator() -> DigestAuthenticator:
    return DigestAuthenticator("sip.test", USERS, entropy=entropy())


def pair(
    mode: EdgeMode = OUTBOUND, *, digest: bool = False, **options: object
) -> tuple[World, Phone, Phone]:
    """Alice and bob, registered."""
    if digest:
        options |= {"authenticator": authenticator(), "challenge_requests": True}
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
        # From here on, as if nobody asked for passwords.
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


def test_what_is_no_sip_is_dropped() -> None:
    world, alice, bob = pair()
    junks: list[str | bytes] = ["", "x", b"\x00\xff", "SIP/2.0 200 OK\r\n\r\n", "\r\n\r"]
    for number, junk in enumerate(junks, 1):
        alice.say(junk)
        assert world.edge.dropped == number
    assert world.quiet()
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


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


def test_an_ack_that_leads_nowhere() -> None:
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


def test_what_is_read_and_cannot_be_written() -> None:
    """NUL behind a backslash is legal in a quoted string, and cannot be written anew."""
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
    from wsproto_sip.sip import SipValueError, edge

    world, alice, bob = pair()

    def fail(*_: object, **__: object) -> None:
        raise SipValueError("cannot be written")

    monkeypatch.setattr(edge, "decrement_max_forwards", fail)
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


# -- who it is -------------------------------------------------------------------------------------


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
def test_nobody_registers_for_somebody_else(login: str, status: int) -> None:
    world = World(check_identity=False, authenticator=authenticator())
    assert world.phone("alice", login=login, registers=False).register().status == status


def test_digest_for_register_alone() -> None:
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
    # A tag of its own invention saves nobody from the question.
    alice.password = None
    assert alice.ask("MESSAGE", BOB, to=f"<{BOB}>;tag=1").status == 407
    # Whom the handshake knew is not asked again.
    carol = world.phone("bob", login="bob", registers=False)
    carol.send("MESSAGE", "sip:alice@sip.test")
    alice.request("MESSAGE")


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


def test_so_many_users_are_remembered_on_a_connection() -> None:
    users = Users({f"user{number}": "pw" for number in range(30)})
    server = DigestAuthenticator("sip.test", users, entropy=entropy())
    world = World(authenticator=server)
    phone = world.phone("user0", password="pw", registers=False)
    for number in range(30):
        phone.user = f"user{number}"
        assert phone.register(expires=0).status == 200
    connection = world.edge._connections.get(phone.cid)
    assert connection is not None
    assert len(connection.proven) == 20


# -- with an upstream ------------------------------------------------------------------------------


def test_either_a_registrar_or_an_upstream() -> None:
    registrar = Registrar(RegistrarConfig(Domains(("sip.test",))))
    with pytest.raises(ValueError, match="that is the registrar"):
        SipEdge(EdgeConfig("edge.test", upstream=UPSTREAM), registrar=registrar)
    assert SipEdge(EdgeConfig("edge.test"), registrar=registrar).registrar is registrar
    assert SipEdge(EdgeConfig("edge.test", upstream=UPSTREAM)).registrar is None
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
def test_nobody_registers_for_somebody_else_at_the_upstream(
    login: str | None, check_identity: bool
) -> None:
    """It may leave all asking to the edge, and then it knows nothing but To."""
    world = World(
        upstream=UPSTREAM,
        domains=Domains(("sip.test", "other.test")),
        authenticator=authenticator(),
        challenge_requests=True,
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


@pytest.mark.parametrize("name", ["P-Asserted-Identity", "Remote-Party-ID"])
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


def test_a_stream_that_cannot_be_framed() -> None:
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
    alice.response(500)
    assert world.edge.transactions == 0


def test_a_single_pong_in_the_stream_gets_no_answer() -> None:
    world = World(upstream=TCP)
    world.from_upstream(b"")
    world.edge._streams[STREAM].expect_pong()
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

DATA = Path(__file__).parent.parent / "data" / "sip"


def recorded(name: str) -> list[tuple[int, str, str]]:
    """Time, direction and text of every message of a recording."""
    texts = (DATA / name).read_text(encoding="utf-8").split("\n")
    entries = [json.loads(text) for text in texts if text]
    return [(entry["t"], entry["ev"], entry["data"]) for entry in entries if "data" in entry]


def replay(first: str, second: str, mode: EdgeMode) -> list[tuple[str, SipRequest | SipResponse]]:
    """What the edge sends when two recorded clients say again what they said.

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
            out.append((names[action.connection], sent))
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
            # Nobody gets what was meant for the other, and nothing comes back to its sender.
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
def test_junk_never_raises_and_reaches_nobody_else(junk: str | bytes) -> None:
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


def test_digest_helper_agrees() -> None:
    assert USERS.ha1("alice", "sip.test", "MD5") == digest_ha1("alice", "sip.test", "wonderland")


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
    keys.users = Users({"bob": "builder"})
    assert [keys.knows(name) for name in ("alice", "bob")] == [False, True]
    assert alice.register().status == 401
    assert world.phone("bob", password="builder").register().status == 200

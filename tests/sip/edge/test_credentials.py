"""Credentials for an edge stay with the edge: with them, a callee could speak as the caller."""

from __future__ import annotations

import re

import pytest

from tests.sip._phones import SDP, UPSTREAM, Dialog, Phone, World, entropy
from wsproto_sip.auth import Challenge, answer_challenge
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

USERS = {"alice": "wonderland", "bob": "builder"}
FIELDS = ("authorization", "proxy-authorization")
TARGET = "sip:bob@sip.test"


def server(**options: object) -> World:
    keys = DigestAuthenticator("sip.test", USERS, entropy=entropy())
    return World(authenticator=keys, **options)  # type: ignore[arg-type]


def unused(world: World, method: str, uri: str = TARGET) -> str:
    """Return credentials of alice with which no request was sent yet."""
    keys = world.edge.authenticator
    assert keys is not None
    eve = world.phone("alice", registers=False)
    eve.send("MESSAGE", uri)
    challenge = Challenge.parse(eve.response(407).get("proxy-authenticate") or "")
    assert challenge is not None
    return str(answer_challenge(challenge, "alice", "wonderland", method, uri))


@pytest.mark.parametrize("field", FIELDS)
def test_a_callee_does_not_get_the_credentials_of_a_proven_caller(field: str) -> None:
    world = server()
    alice = world.phone("alice", password="wonderland")
    bob = world.phone("bob", password="builder")
    # As telephones do that keep a challenge, and send its answer before they are asked.
    alice.send("INVITE", TARGET, (field, unused(world, "INVITE")), body=SDP)
    incoming = bob.request("INVITE")
    assert all(name not in incoming for name in FIELDS)


def test_an_ack_does_not_carry_the_credentials_of_its_invite() -> None:
    world = server()
    alice = world.phone("alice", password="wonderland")
    bob = world.phone("bob", password="builder")
    invite = alice.send("INVITE", TARGET, body=SDP)
    alice.response(100)
    bob.answer(bob.request("INVITE"), 200)
    dialog = Dialog(alice, invite, alice.response(200), caller=True)
    dialog.send("ACK", *[(name, unused(world, "INVITE")) for name in FIELDS])
    ack = bob.request("ACK")
    assert all(name not in ack for name in FIELDS)
    dialog.send("BYE", *[(name, unused(world, "BYE")) for name in FIELDS])
    bye = bob.request("BYE")
    assert all(name not in bye for name in FIELDS)


def test_a_callee_that_challenges_in_our_realm_learns_nothing() -> None:
    world = server()
    alice = world.phone("alice", password="wonderland")
    bob = world.phone("bob", password="builder")
    bob.send("INVITE", TARGET, sender="<sip:alice@sip.test>;tag=1")
    challenge = bob.response(407).get("proxy-authenticate") or ""
    alice.send("INVITE", TARGET, body=SDP)
    alice.response(100)
    bob.answer(bob.request("INVITE"), 401, ("WWW-Authenticate", challenge))
    proof = alice.credentials(alice.response(401), "INVITE", TARGET)
    assert proof[0] == "Authorization"
    alice.send("INVITE", TARGET, proof, body=SDP, cseq=2)
    assert bob.request("ACK").cseq.number == 1
    assert "authorization" not in bob.request("INVITE")


def test_the_credentials_for_others_go_on_and_malformed_ones_do_not() -> None:
    world = server()
    alice = world.phone("alice", password="wonderland")
    bob = world.phone("bob", password="builder")
    other = unused(world, "MESSAGE").replace('realm="sip.test"', 'realm="elsewhere"')
    given = [("Proxy-Authorization", value) for value in (other, 'Digest realm="sip.test"')]
    alice.send("MESSAGE", TARGET, *given)
    assert bob.request("MESSAGE").get_all("proxy-authorization") == [other]


def test_malformed_credentials_after_right_ones_are_not_an_error() -> None:
    world = server()
    bob = world.phone("bob", password="builder")
    alice = world.phone("alice", registers=False)
    first = ("Proxy-Authorization", unused(world, "MESSAGE"))
    alice.send("MESSAGE", TARGET, first, ("Proxy-Authorization", 'Digest realm="sip.test"'))
    assert "proxy-authorization" not in bob.request("MESSAGE")


def test_a_callee_of_an_upstream_that_challenges_in_our_realm_learns_nothing() -> None:
    world = server(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    bob = world.phone("bob", password="builder", registers=False)
    bob.send("REGISTER", "sip:sip.test", *bob.registration(expires=300), to=f"<{bob.aor}>")
    proof = bob.credentials(bob.response(407), "REGISTER", "sip:sip.test")
    fields = bob.registration(proof, expires=300)
    bob.send("REGISTER", "sip:sip.test", *fields, to=f"<{bob.aor}>", cseq=2)
    path = world.upstream_request().paths[0]
    # The upstream passes on what alice has answered to the challenge.
    given = [(name, unused(world, "MESSAGE")) for name in FIELDS]
    message = alice.make("MESSAGE", bob.contact, ("Route", str(path)), *given)
    world.from_upstream(message)
    heard = bob.request("MESSAGE")
    assert all(name not in heard for name in FIELDS)


def test_what_a_client_told_another_registrar_is_of_no_use_here() -> None:
    """A digest covers the Request-URI, and neither To nor the server that asked for it."""
    world = server()
    alice = world.phone("alice", password="wonderland")
    eve = world.phone("eve", registers=False)
    # Eve has a registrar of her own, passes our challenge on there, and the answer back to us.
    elsewhere = "sip:registrar.evil.test"
    proof = ("Authorization", unused(world, "REGISTER", elsewhere))
    fields = [*eve.registration(proof, expires=300)]
    eve.send("REGISTER", elsewhere, *fields, to=f"<{alice.aor}>", sender=f"<{alice.aor}>;tag=1")
    eve.response(404)
    eve.send("MESSAGE", TARGET, sender=f"<{alice.aor}>;tag=1")
    eve.response(407)


def proven(world: World) -> Phone:
    """Return alice's telephone, which has given her password."""
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.send("MESSAGE", TARGET)
    alice.send("MESSAGE", TARGET, alice.credentials(alice.response(407), "MESSAGE", TARGET))
    world.upstream_request()
    return alice


@pytest.mark.parametrize("method", ["MESSAGE", "REGISTER"])
def test_a_server_after_the_upstream_that_challenges_in_our_name_learns_nothing(
    method: str,
) -> None:
    """It passes our challenge of another client on, and would pass the answer back to us."""
    world = server(upstream=UPSTREAM)
    alice, eve = proven(world), world.phone("eve", registers=False)
    eve.send("MESSAGE", TARGET, sender=f"<{alice.aor}>;tag=1")
    challenge = ("WWW-Authenticate", eve.response(407).get("proxy-authenticate") or "")
    uri = "sip:elsewhere.test"
    alice.send(method, uri, *alice.registration(expires=300), to=f"<{alice.aor}>")
    world.from_upstream(world.upstream_request().make_response(401, headers=[challenge]))
    ours = alice.credentials(alice.response(401), method, uri)
    # What the upstream has asked for is in the same realm.
    theirs = ("Authorization", re.sub('nonce="[0-9a-f]*', 'nonce="0123', ours[1]))
    fields = [ours, theirs, *alice.registration(expires=300)]
    alice.send(method, uri, *fields, to=f"<{alice.aor}>", cseq=2)
    assert world.upstream_request().get_all("authorization") == [theirs[1]]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS"])
def test_what_a_client_told_a_server_elsewhere_does_not_prove_who_we_talk_to(method: str) -> None:
    """The server has a client there answer a challenge of ours, and passes the answer on to us."""
    world = server()
    eve = world.phone("eve", registers=False)
    elsewhere = "sip:eve@elsewhere.test"
    proof = ("Proxy-Authorization", unused(world, method, elsewhere))
    eve.send(method, elsewhere, proof, sender="<sip:alice@sip.test>;tag=1")
    eve.response(480)
    eve.send("MESSAGE", TARGET, sender="<sip:alice@sip.test>;tag=1")
    eve.response(407)


@pytest.mark.parametrize("uri", [TARGET, "sip:edge.test:8080"])
def test_one_password_is_enough_for_a_connection(uri: str) -> None:
    world = server()
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.ask("MESSAGE", uri)
    alice.send("MESSAGE", TARGET)
    alice.response(480)


def test_a_hook_leads_users_to_other_domains() -> None:
    users: list[str | None] = []
    world = server(hook=lambda asked: users.append(asked.user))
    alice = world.phone("alice", password="wonderland", registers=False)
    assert [alice.ask("MESSAGE", "sip:eve@elsewhere.test").status for _ in range(2)] == [404] * 2
    assert users == ["alice"] * 2


@pytest.mark.parametrize("uri", [TARGET, "sip:eve@elsewhere.test", "tel:+1"])
def test_an_upstream_leads_users_to_other_domains(uri: str) -> None:
    world = server(upstream=UPSTREAM)
    alice = world.phone("alice", password="wonderland", registers=False)
    alice.send("MESSAGE", uri)
    alice.send("MESSAGE", uri, alice.credentials(alice.response(407), "MESSAGE", uri))
    alice.send("MESSAGE", uri)
    assert [str(world.upstream_request().uri) for _ in range(2)] == [uri] * 2

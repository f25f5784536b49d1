"""Where requests go, and what is written on them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.sip._location import Cluster, Location, NodeWorld
from tests.sip._phones import MODES, UPSTREAM, Dialog, Phone, World, call
from wsproto_sip.sip import (
    Flow,
    FlowTokens,
    Rejection,
    SipRequest,
    SipUri,
    Source,
    Via,
    parse_uri,
)
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.edge.connections import Connections
from wsproto_sip.sip.edge.router import EdgeRouter
from wsproto_sip.sip.edge.upstreams import Upstreams
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.store import Lookup

BOB = "sip:bob@sip.test"
ALIAS, OUTBOUND = EdgeMode.ALIAS, EdgeMode.OUTBOUND
TCP = replace(UPSTREAM, transport="tcp")
SOURCE = Source("192.0.2.1", 4000, "ws")
both_modes = pytest.mark.parametrize("mode", MODES)


# -- what is ours ----------------------------------------------------------------------------------


def router(**options: object) -> EdgeRouter:
    settings: dict[str, object] = {"host": "Edge.test", "port": 8080}
    settings |= {"domains": Domains(("sip.test",)), "upstreams": (UPSTREAM,)}
    config = EdgeConfig(**(settings | options))  # type: ignore[arg-type]
    upstreams = Upstreams(config.upstreams, config.probing, os.urandom)
    return EdgeRouter(config, Connections(), None, FlowTokens([b"k" * 16]), upstreams)


@pytest.mark.parametrize(
    ("uri", "own"),
    [
        ("sip:edge.TEST:8080;transport=ws;lr", True),
        ("sip:edge.test", False),
        ("sip:edge.test;transport=ws", True),
        ("sip:edge.test;transport=udp", False),
        ("sip:edge.test:443", True),
        ("sip:other.test:443", False),
        ("sip:edge.test:5060", False),
        ("sip:sip.test", True),
        ("sip:sip.test:8080", True),
        ("sip:sip.test:5060", False),
        ("sip:192.0.2.100:5080", True),
        ("sip:192.0.2.100", False),
        ("sip:192.0.2.200:5060", False),
    ],
)
def test_own_uris(uri: str, own: bool) -> None:
    assert router().is_own(SipUri.parse(uri)) is own


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("sip:alice@sip.test", True),
        ("sip:SIP.test", True),
        ("sip:alice@other.test", False),
        ("sip:alice@sip.test;gr=urn:uuid:1", False),
        ("sip:alice@sip.test;gr", False),
        ("tel:+15551234567", False),
    ],
)
def test_addresses_of_users_and_those_of_clients(uri: str, named: bool) -> None:
    assert router().names_user(parse_uri(uri)) is named
    everywhere = router(domains=Domains(("sip.test",), any_host=True))
    assert everywhere.names_user(parse_uri("sip:alice@whatever.test"))
    assert not everywhere.names_user(parse_uri("sip:alice@a.invalid"))


@pytest.mark.parametrize(
    ("uri", "ours"),
    [
        ("sip:sip.test", True),
        ("sips:SIP.test:5061", True),
        # Some clients write the user, which RFC 3261 §10.2 does not allow.
        ("sip:alice@sip.test;transport=ws", True),
        ("sip:edge.test", True),
        ("sip:edge.test:1234", True),
        ("sip:phones.test", True),
        # What it is towards the upstream, or the other nodes.
        ("sip:192.0.2.100", True),
        ("sip:elsewhere.test", False),
        ("sip:sip.test.elsewhere.test", False),
        ("tel:+1", False),
    ],
)
def test_the_registrar_is_named_by_domain_or_server(uri: str, ours: bool) -> None:
    edge = router(names=(("phones.test", None),))
    assert edge.is_for_registrar(parse_uri(uri)) is ours


def test_a_register_for_another_registrar_is_refused() -> None:
    """RFC 3261 §10.3 step 1; with an upstream, that is the registrar and decides about it."""
    world = World()
    alice = world.phone("alice", registers=False)
    fields = alice.registration(expires=300)
    alice.send("REGISTER", "sip:elsewhere.test", *fields, to=f"<{alice.aor}>")
    alice.response(404)
    alice.send("REGISTER", "sip:edge.test", *fields, to=f"<{alice.aor}>")
    alice.response(200)
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False, login="alice")
    alice.send("REGISTER", "sip:elsewhere.test", *fields, to=f"<{alice.aor}>")
    assert str(world.upstream_request().uri) == "sip:elsewhere.test"
    stranger = world.phone("alice", registers=False)
    stranger.send("REGISTER", "sip:elsewhere.test", *fields, to=f"<{alice.aor}>")
    stranger.response(403)


def test_own_vias() -> None:
    assert router().is_own_via(Via("WS", "EDGE.test", 8080))
    assert router().is_own_via(Via("UDP", "192.0.2.100", 5080))
    assert not router().is_own_via(Via("WS", "edge.test"))
    assert not router(upstreams=()).is_own_via(Via("UDP", "192.0.2.100", 5080))


def test_via_of_a_flow_that_is_gone() -> None:
    assert str(router().via(Flow(1, 1), "z9hG4bKx")) == "SIP/2.0/WS Edge.test:8080;branch=z9hG4bKx"


# -- Record-Route ----------------------------------------------------------------------------------


def invited(world: World, **options: str) -> tuple[Phone, Phone, SipRequest]:
    alice, bob = world.phone("alice", **options), world.phone("bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    return alice, bob, bob.request("INVITE")


def test_both_tokens_in_outbound_mode() -> None:
    world = World(OUTBOUND)
    _, _, invite = invited(world)
    first, second = [value.sip_uri for value in invite.record_routes]
    assert "r2" in first.params
    assert "lr" in second.params
    assert first.user != second.user
    assert len(first.user or "") == len(second.user or "") == 56
    assert (first.host, first.port, first.transport) == ("edge.test", 8080, "ws")
    assert str((invite.contacts or [])[0].uri).endswith(".invalid;transport=ws;ob")


def test_seals_of_both_sides_in_alias_mode() -> None:
    world = World(ALIAS)
    alice, _, invite = invited(world)
    seals = [value.sip_uri.params.get("seal") or "" for value in invite.record_routes]
    assert [len(seal) for seal in seals] == [56, 56]
    assert invite.get_all("record-route") == [
        f"<sip:edge.test:8080;transport=ws;seal={seal};r2=on;lr>" for seal in seals
    ]
    (contact,) = invite.contacts or []
    assert contact.sip_uri.params.get("alias") == f"192.0.2.1~{alice.source.port}~5"
    seal = contact.sip_uri.params.get("seal") or ""
    assert len(seal) == 40
    assert str(contact.uri) == (
        f"sip:alice{alice.cid}@x{alice.cid}.invalid"
        f";alias=192.0.2.1~{alice.source.port}~5;seal={seal};transport=ws;ob"
    )


def test_secure_connections() -> None:
    world = World(ALIAS)
    alice = world.phone("alice", transport="wss")
    bob = world.phone("bob", transport="wss")
    alice.send("INVITE", "sips:bob@sip.test")
    alice.response(100)
    invite = bob.request("INVITE")
    assert invite.via.transport == "WSS"
    (contact,) = invite.contacts or []
    assert (contact.sip_uri.params.get("alias") or "").endswith("~6")
    plain = world.phone("plain")
    alice.send("MESSAGE", "sips:plain@sip.test")
    alice.response(480)
    assert not plain.heard


@pytest.mark.parametrize("mode", MODES)
def test_only_what_begins_something_is_recorded(mode: EdgeMode) -> None:
    world = World(mode)
    alice, bob = world.phone("alice"), world.phone("bob")
    for method in ("SUBSCRIBE", "REFER", "NOTIFY"):
        alice.send(method, BOB)
        assert "record-route" in bob.request(method)
    for method in ("MESSAGE", "OPTIONS", "INFO"):
        alice.send(method, BOB)
        assert "record-route" not in bob.request(method)


# -- tokens ----------------------------------------------------------------------------------------


def test_every_changed_character_of_a_token_is_refused() -> None:
    world = World(OUTBOUND)
    here, _ = call(world.phone("alice"), world.phone("bob"))
    route = here.route[-1]
    start = route.index("sip:") + 4
    # The last 20 are the second seal, which decides where a request is believed, not where it goes.
    for index in range(start, start + 36):
        other = "A" if route[index] != "A" else "B"
        here.route[-1] = route[:index] + other + route[index + 1 :]
        here.send("INFO")
        here.phone.response(403)
    assert world.quiet()


def test_a_token_dies_with_its_connection() -> None:
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    bob.hang_up()
    world.numbers = iter([bob.cid])  # type: ignore[assignment]
    other = world.phone("bob", registers=False)
    here.send("BYE")
    alice.response(430)
    assert not other.heard


def test_the_senders_own_token_may_be_an_old_one() -> None:
    """A client that has connected again goes on with its dialogs."""
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    alice.hang_up()
    again = world.phone("alice")
    here.phone = again
    here.send("BYE")
    bob.answer(bob.request("BYE"), 200)
    again.response(200)


def test_a_call_to_oneself() -> None:
    for mode in MODES:
        world = World(mode)
        alice = world.phone("alice")
        alice.send("INVITE", "sip:alice@sip.test")
        alice.response(100)
        invite = alice.request("INVITE")
        route = ", ".join([str(value) for value in invite.record_routes])
        target = str((invite.contacts or [])[0].uri)
        options = {"to": "<sip:alice@sip.test>;tag=1", "call_id": invite.call_id}
        alice.send("BYE", target, ("Route", route), **options)
        alice.request("BYE")


def gruu_world() -> tuple[World, Phone, Phone, str]:
    world = World(OUTBOUND)
    alice = world.phone("alice")
    bob = world.phone("bob", outbound="urn:uuid:b")
    (contact,) = bob.register().contacts or []
    return world, alice, bob, contact.params.get("pub-gruu") or ""


def test_gruus_in_and_out_of_dialogs() -> None:
    world, alice, bob, gruu = gruu_world()
    other = world.phone("bob")
    alice.send("MESSAGE", gruu)
    assert str(bob.request("MESSAGE").uri) == bob.contact
    here, there = call(alice, bob, gruu)
    assert not other.heard
    here.target = gruu
    here.send("INFO")
    assert str(bob.request("INFO").uri) == bob.contact
    # Another user's GRUU leaves the flow of the dialog unchanged.
    here.target = "sip:carol@sip.test;gr=urn:uuid:c"
    here.send("INFO")
    assert bob.request("INFO").uri_text == here.target
    here.target = gruu
    here.send("INVITE")
    alice.response(100)
    bob.answer(bob.request("INVITE"), 200)
    alice.response(200)
    here.send("ACK")
    assert str(bob.request("ACK").uri) == bob.contact
    there.send("BYE")
    alice.request("BYE")


def test_a_gruu_outlives_its_connection() -> None:
    world, alice, bob, gruu = gruu_world()
    here, _ = call(alice, bob)
    bob.hang_up()
    here.target = gruu
    here.send("INFO")
    alice.response(430)
    again = world.phone("bob", outbound="urn:uuid:b")
    here.send("INFO")
    assert str(again.request("INFO").uri) == again.contact


# -- aliases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "status"),
    [
        ("192.0.2.1~9~5", 430),
        ("192.0.2.1~{port}~6", 430),
        ("127.0.0.1~22~2", 430),
        ("192.0.2.1~{port}", 400),
        ("x.invalid~{port}~5", 400),
    ],
)
def test_aliases_lead_to_live_connections_or_nowhere(alias: str, status: int) -> None:
    world = World(ALIAS)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    good = f"192.0.2.1~{bob.source.port}~5"
    assert good in here.target
    here.target = here.target.replace(good, alias.format(port=bob.source.port))
    here.send("INFO")
    alice.response(status)
    assert world.quiet()


def test_an_alias_dies_with_its_connection() -> None:
    world = World(ALIAS)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    bob.hang_up()
    here.send("BYE")
    alice.response(430)


def test_an_alias_leads_to_its_connection_outside_of_a_dialog_too() -> None:
    world = World(ALIAS)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    params = here.target.partition(";")[2]
    assert f"alias=192.0.2.1~{bob.source.port}~5;seal=" in params
    alice.send("MESSAGE", f"sip:bob@x.invalid;{params}")
    assert bob.request("MESSAGE").uri_text == "sip:bob@x.invalid;transport=ws"
    # A user of ours is looked up as such, whatever the parameter says.
    alice.send("MESSAGE", f"sip:alice@sip.test;{params}")
    alice.request("MESSAGE")
    # Without an alias, a route through here leads to the users.
    alice.send("MESSAGE", BOB, ("Route", "<sip:sip.test;lr>"))
    bob.request("MESSAGE")


@pytest.mark.parametrize("upstream", [None, UPSTREAM])
def test_a_stranger_guessing_address_and_port_reaches_no_client(upstream: Upstream | None) -> None:
    """Whether there is such a connection or not: the answer is the same."""
    world = World(ALIAS, upstream=upstream)
    quiet = world.phone("bob", registers=False)
    eve = world.phone("eve", registers=False, source=Source("203.0.113.9", 1000, "ws"))
    token = "A" * 40
    for port in (quiet.source.port, 9):
        for seal in ("", ";seal", ";seal=x", f";seal={token}"):
            target = f"sip:bob@x.invalid;alias=192.0.2.1~{port}~5{seal}"
            response = eve.ask(
                "MESSAGE",
                target,
                ("Route", "<sip:edge.test:8080;transport=ws;lr>"),
                to="<sip:bob@x.invalid>;tag=guessed",
            )
            assert response.status == 403
    assert world.quiet()


def test_the_seal_of_one_connection_does_not_open_another() -> None:
    world = World(ALIAS)
    alice, bob, carol = (world.phone(name) for name in ("alice", "bob", "carol"))
    here, _ = call(alice, bob)
    here.target = here.target.replace(f"~{bob.source.port}~", f"~{carol.source.port}~")
    here.send("INFO")
    alice.response(430)
    assert world.quiet()


def test_a_seal_that_a_client_wrote_itself_is_replaced() -> None:
    world = World(ALIAS)
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.contact += ";seal=mine;alias=6.6.6.6~1~1"
    alice.send("INVITE", BOB)
    contact = bob.request("INVITE").get("contact") or ""
    assert contact.count("seal=") == contact.count("alias=") == 1
    assert "mine" not in contact


def test_a_client_with_an_address_for_its_contact_is_found_by_that() -> None:
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob", registers=False)
    for contact in ("sip:bob@192.0.2.77:5060;transport=ws", "sip:bob@[2001:db8::7]"):
        assert alice.ask("MESSAGE", contact).status == 404
        bob.contact = contact
        assert bob.register().status == 200
        alice.send("MESSAGE", contact)
        bob.request("MESSAGE")


def test_aliases_mean_nothing_in_outbound_mode() -> None:
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob")
    target = f"sip:bob@x.invalid;alias=192.0.2.1~{bob.source.port}~5"
    alice.send("MESSAGE", target, ("Route", "<sip:edge.test:8080;lr>"))
    alice.response(404)
    alice.send("INVITE", BOB)
    alice.response(100)
    assert "alias" not in (bob.request("INVITE").get("contact") or "")


def test_a_contact_that_takes_no_alias() -> None:
    world = World(ALIAS)
    alice = world.phone("alice")
    world.phone("bob")
    alice.send("INVITE", BOB, ("Contact", "<tel:+1>"), contact=False)
    alice.response(400)


def test_two_clients_of_a_proxy_without_ports() -> None:
    world = World(ALIAS)
    same = Source("192.0.2.9", 0, "ws")
    alice = world.phone("alice", source=same)
    bob = world.phone("bob", source=same)
    here, there = call(alice, bob)
    here.send("INFO")
    bob.request("INFO")
    there.send("BYE")
    alice.request("BYE")


# -- unreachable users -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("sip:nobody@sip.test", 404),
        ("sip:bob@elsewhere.test", 404),
        ("sip:bob@x2.invalid;transport=ws", 404),
        ("tel:+15551234", 416),
        ("mailto:bob@sip.test", 416),
    ],
)
def test_nowhere_to_go(uri: str, status: int) -> None:
    world = World()
    alice = world.phone("alice")
    world.phone("bob")
    alice.send("MESSAGE", uri)
    alice.response(status)
    assert world.quiet()


def test_no_relay_to_others() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", BOB, ("Route", "<sip:evil.test;lr>"))
    alice.response(403)
    alice.send("MESSAGE", BOB, ("Route", "<sip:alice@edge.test:8080;lr>"))
    alice.response(403)
    assert not bob.heard


def test_a_strict_router_before_us() -> None:
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, _ = call(alice, bob)
    first, *others = [value.strip("<>") for value in here.route]
    target, here.target = here.target, first
    here.route = [f"<{value}>" for value in [*others, target]]
    here.send("INFO")
    assert bob.request("INFO").uri_text == target


def test_path_that_a_client_wrote_leads_nowhere() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob", registers=False)
    assert bob.register(("Path", "<sip:p.test;lr>, <sip:q.test;lr>")).status == 200
    alice.send("MESSAGE", BOB)
    assert "route" not in bob.request("MESSAGE")


def test_so_many_contacts_and_no_more() -> None:
    world = World(max_branches=2)
    alice = world.phone("alice")
    phones = [world.phone("bob") for _ in range(3)]
    alice.send("MESSAGE", BOB)
    assert sum([len(phone.heard) for phone in phones]) == 2


# -- with an upstream ------------------------------------------------------------------------------


def registered(world: World, user: str, *fields: tuple[str, str]) -> tuple[Phone, SipRequest]:
    """Return a client, and the REGISTER that the upstream got."""
    phone = world.phone(user, registers=False)
    contact = f'<{phone.contact}>;reg-id=1;+sip.instance="<urn:uuid:{user}>"'
    phone.send(
        "REGISTER", "sip:sip.test", ("Contact", contact), ("Supported", "path, outbound"), *fields
    )
    register = world.upstream_request()
    world.from_upstream(register.make_response(200, headers=[("Contact", contact)]))
    phone.response(200)
    return phone, register


def from_core(
    world: World, phone: Phone, method: str, *routes: str, target: str | None = None, to: str = ""
) -> None:
    headers = [
        ("Via", "SIP/2.0/UDP 192.0.2.200:5060;branch=z9hG4bKu" + str(next(world.numbers))),
        ("Max-Forwards", "60"),
        *[("Route", route) for route in routes],
        ("From", "<sip:carol@sip.test>;tag=c"),
        ("To", to or f"<sip:{phone.user}@sip.test>"),
        ("Call-ID", "core"),
        ("CSeq", f"7 {method}"),
        ("Record-Route", "<sip:192.0.2.200;lr>"),
        ("Contact", "<sip:carol@192.0.2.9>"),
    ]
    world.from_upstream(SipRequest(method, target or phone.contact, headers))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("upstream", [UPSTREAM, TCP])
def test_register_goes_on_with_a_path(mode: EdgeMode, upstream: object) -> None:
    world = World(mode, upstream=upstream)
    alice, register = registered(world, "alice")
    (path,) = register.paths
    uri = path.sip_uri
    assert (uri.host, uri.port, len(uri.user or "")) == ("192.0.2.100", 5080, 40)
    assert "lr" in uri.params
    assert "ob" in uri.params
    assert uri.transport == (None if upstream is UPSTREAM else "tcp")
    received = path.params.get("received")
    assert received == (f"{alice.source.uri}" if mode is ALIAS else None)
    assert register.max_forwards == 69
    assert "alias" not in (register.get("contact") or "")


def test_register_through_another_hop_is_not_the_first() -> None:
    world = World(upstream=UPSTREAM)
    _, register = registered(world, "alice", ("Via", "SIP/2.0/UDP p.test;branch=z9hG4bKp"))
    assert "ob" not in register.paths[0].sip_uri.params


def test_register_without_path_is_refused() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", ("Contact", f"<{alice.contact}>"))
    assert alice.response(421).get("require") == "path"
    assert not world.upstream


@pytest.mark.parametrize("mode", MODES)
def test_a_call_from_the_upstream(mode: EdgeMode) -> None:
    world = World(mode, upstream=UPSTREAM)
    alice, register = registered(world, "alice")
    from_core(world, alice, "INVITE", f"<{register.paths[0].uri}>")
    assert world.upstream_response().status == 100
    invite = alice.request("INVITE")
    assert invite.uri_text == alice.contact
    assert "route" not in invite
    near, far, core = [value.sip_uri for value in invite.record_routes]
    assert (near.host, far.host, core.host) == ("edge.test", "192.0.2.100", "192.0.2.200")
    assert (near.user is None) == (mode is ALIAS)
    assert far.user is None
    assert "alias" not in (invite.get("contact") or "")
    alice.answer(invite, 200)
    accepted = world.upstream_response()
    target = str((accepted.contacts or [])[0].uri)
    assert ("alias" in target) == (mode is ALIAS)
    assert accepted.values("record-route") == invite.values("record-route")
    # Within the dialog, from there and from here.
    routes = [f"<{far}>", f"<{near}>"]
    tag = f"<sip:alice@sip.test>;tag=t{alice.cid}"
    from_core(world, alice, "ACK", *routes, target=target, to=tag)
    alice.request("ACK")
    from_core(world, alice, "INFO", *routes, target=target, to=tag)
    alice.request("INFO")
    alice.send(
        "BYE",
        "sip:carol@192.0.2.9",
        ("Route", f"<{near}>, <{far}>, <{core}>"),
        to="<sip:carol@sip.test>;tag=c",
    )
    bye = world.upstream_request()
    assert bye.values("route") == [f"<{core}>"]
    assert bye.uri_text == "sip:carol@192.0.2.9"


GRUU = "sip:alice@sip.test;gr=urn:uuid:a"
TEMPORARY = "sip:tgruu.xyz@sip.test;gr"
INSTANCE = '+sip.instance="<urn:uuid:a>"'


def registered_with_gruus(world: World, *more: str) -> tuple[Phone, SipRequest]:
    """Alice, with GRUUs from the upstream."""
    alice = world.phone("alice", registers=False)
    contact = f"<{alice.contact}>;{INSTANCE}"
    fields = [("Supported", "path, gruu"), ("Contact", contact)]
    alice.send("REGISTER", "sip:sip.test", *fields, to="<sip:alice@sip.test>")
    register = world.upstream_request()
    other = '<sip:z@z.invalid>;+sip.instance="<urn:uuid:z>";pub-gruu="sip:alice@sip.test;gr=z"'
    given = f'{contact};pub-gruu="{GRUU}";temp-gruu="{TEMPORARY}"'
    values = [("Contact", value) for value in (other, given, *more)]
    world.from_upstream(register.make_response(200, headers=values))
    alice.response(200)
    return alice, register


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gruu", [GRUU, TEMPORARY])
def test_a_gruu_of_the_upstream_outlives_its_connection(mode: EdgeMode, gruu: str) -> None:
    world = World(mode, upstream=UPSTREAM)
    alice, register = registered_with_gruus(world)
    from_core(world, alice, "INVITE", f"<{register.paths[0].uri}>")
    invite = alice.request("INVITE")
    near, far, _ = [value.sip_uri for value in invite.record_routes]
    response = invite.make_response(200, to_tag="t", headers=[("Contact", f"<{gruu}>")])
    alice.say(response)
    world.upstream_response()
    target = str((world.upstream_response().contacts or [])[0].uri)
    routes, tag = [f"<{far}>", f"<{near}>"], "<sip:alice@sip.test>;tag=t"
    from_core(world, alice, "ACK", *routes, target=target, to=tag)
    alice.request("ACK")
    alice.hang_up()
    from_core(world, alice, "INFO", *routes, target=target, to=tag)
    assert world.upstream_response().status == 430
    again, _ = registered_with_gruus(world)
    from_core(world, again, "INFO", *routes, target=target, to=tag)
    assert again.request("INFO").uri_text == again.contact
    # Of another client, of which the same response told, nothing is known.
    from_core(world, again, "INFO", *routes, target="sip:alice@sip.test;gr=z", to=tag)
    assert world.upstream_response().status == (430 if mode is OUTBOUND else 404)


def test_nothing_is_learnt_from_a_response_that_cannot_be_read() -> None:
    world = World(upstream=UPSTREAM)
    alice, _ = registered_with_gruus(world, f'<sip:x@y>;{INSTANCE};pub-gruu="nonsense"')
    connection = world.edge._connections.get(alice.cid)
    assert connection is not None
    assert connection.registered
    assert len(connection.gruus) == 2


@pytest.mark.parametrize(
    ("address", "user"),
    [
        ("sips:%61lice@SIP.test:5061;a=1", "sip:alice@sip.test"),
        ("sip:alice@Elsewhere.test", "sip:alice@elsewhere.test"),
        ("tel:+4930123;a=1", "tel:+4930123"),
    ],
)
def test_a_user_of_the_upstream_has_one_name_however_the_address_is_written(
    address: str, user: str
) -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", ("Supported", "path"), to=f"<{address}>")
    world.from_upstream(world.upstream_request().make_response(200))
    connection = world.edge._connections.get(alice.cid)
    assert connection is not None
    assert connection.registered == user


@pytest.mark.parametrize("mode", MODES)
def test_a_call_through_the_upstream_and_back(mode: EdgeMode) -> None:
    """The upstream leads the call on, and does or does not stay in its way."""
    for records in (True, False):
        world = World(mode, upstream=UPSTREAM)
        alice, _ = registered(world, "alice")
        bob, register = registered(world, "bob")
        alice.send("INVITE", BOB)
        alice.response(100)
        invite = world.upstream_request()
        invite.uri = bob.contact
        invite.insert_header("Route", f"<{register.paths[0].uri}>")
        invite.insert_header("Via", "SIP/2.0/UDP 192.0.2.200:5060;branch=z9hG4bKcore")
        if records:
            invite.insert_header("Record-Route", "<sip:192.0.2.200;lr>")
        world.from_upstream(invite)
        assert world.upstream_response().status == 100
        incoming = bob.request("INVITE")
        ok = bob.answer(incoming, 200)
        passed = world.upstream_response()
        passed.remove_first("Via")
        world.from_upstream(passed)
        accepted = alice.response(200)
        assert accepted.record_routes == ok.record_routes
        assert len(ok.record_routes) == 4 + records
        routes = [str(value) for value in ok.record_routes]
        caller_target = str((incoming.contacts or [])[0].uri)
        callee_target = str((accepted.contacts or [])[0].uri)
        for phone, other, route, target in (
            (alice, bob, routes[::-1], callee_target),
            (bob, alice, routes, caller_target),
        ):
            fields = [("Route", value) for value in route]
            options = {"to": "<sip:x>;tag=1", "call_id": incoming.call_id}
            phone.send("INFO", target, *fields, **options)
            if records:
                info = world.upstream_request()
                assert len(info.routes) == 3
                info.remove_first("Route")
                world.from_upstream(info)
            info = other.request("INFO")
            assert info.uri_text.startswith(other.contact)
            assert "route" not in info


@pytest.mark.parametrize("mode", MODES)
def test_what_leads_nowhere_from_the_upstream(mode: EdgeMode) -> None:
    world = World(mode, upstream=UPSTREAM)
    alice, register = registered(world, "alice")
    from_core(world, alice, "MESSAGE")
    assert world.upstream_response().status == 404
    route = str(register.paths[0].uri)
    from_core(world, alice, "MESSAGE", f"<{route.replace('sip:', 'sip:A', 1)}>")
    assert world.upstream_response().status == 403
    alice.hang_up()
    from_core(world, alice, "MESSAGE", f"<{route}>")
    assert world.upstream_response().status == 430


@pytest.mark.parametrize(
    ("host", "route", "same"),
    [
        ("Core.test", "sip:core.TEST:5060;lr", True),
        ("core.test", "sip:core.test", True),
        ("core.test", "sip:core.test:5061", False),
        ("core.test", "sip:core.test.evil", False),
        ("::1", "sip:[::1]:5060", True),
    ],
)
def test_upstream_is_known_by_host_and_port(host: str, route: str, same: bool) -> None:
    upstream = replace(UPSTREAM, host=host)
    name = router(upstreams=(upstream,)).upstream_named(SipUri.parse(route))
    assert name == ("core" if same else None)


def test_telephone_numbers_go_to_the_upstream() -> None:
    world = World(upstream=UPSTREAM)
    alice, _ = registered(world, "alice")
    alice.send("INVITE", "tel:+15551234")
    alice.response(100)
    assert world.upstream_request().uri_text == "tel:+15551234"


@given(st.text(alphabet="AZaz09-_~=%", max_size=48))
def test_no_invented_token_leads_anywhere(token: str) -> None:
    world = World(OUTBOUND)
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", bob.contact, ("Route", f"<sip:{token}@edge.test:8080;lr>"))
    assert alice.response().status in (400, 403)
    assert world.quiet()


def test_a_clients_own_token_leads_to_the_upstream() -> None:
    world = World(upstream=UPSTREAM)
    alice, _ = registered(world, "alice")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = world.upstream_request()
    near = invite.record_routes[-1].sip_uri
    assert near.user is not None
    alice.send("MESSAGE", BOB, ("Route", f"<{near}>"), call_id=invite.call_id)
    assert "route" not in world.upstream_request()


def test_a_path_leads_to_its_client_for_the_upstream_and_the_client_alone() -> None:
    world = World(upstream=UPSTREAM)
    alice, register = registered(world, "alice")
    eve = world.phone("eve", registers=False)
    path = ("Route", f"<{register.paths[0].uri}>")
    alice.send("MESSAGE", BOB, path)
    assert "route" not in world.upstream_request()
    assert eve.ask("MESSAGE", BOB, path).status == 403
    from_core(world, alice, "MESSAGE", path[1])
    alice.request("MESSAGE")
    alice.hang_up()
    assert eve.ask("MESSAGE", BOB, path).status == 430


# -- the seal of a dialog --------------------------------------------------------------------------


def users(mode: EdgeMode, **options: object) -> tuple[World, Phone, Phone, Phone]:
    """Alice, bob and carol, known by their handshakes."""
    world = World(mode, **options)
    found = [world.phone(name, login=name) for name in ("alice", "bob", "carol")]
    return (world, *found)  # type: ignore[return-value]


@both_modes
@pytest.mark.parametrize("method", ["BYE", "INFO", "INVITE", "REFER", "UPDATE"])
@pytest.mark.parametrize("what", ["another call", "another name", "another tag", "the other side"])
def test_the_route_of_a_call_is_valid_only_for_that_call(
    mode: EdgeMode, method: str, what: str
) -> None:
    world, alice, bob, _ = users(mode)
    here, _ = call(alice, bob)
    tag = here.local.partition(";tag=")[2]
    match what:
        case "another call":
            here.local, here.call_id = f"<sip:carol@sip.test>;tag={tag}", "another"
        case "another name":
            here.local = f"<sip:carol@sip.test>;tag={tag}"
        case "another tag":
            here.local = "<sip:carol@sip.test>;tag=x"
        case "the other side":
            here.local, here.remote = here.remote, here.local
            # Her own route would say that she is the caller.
            here.route = here.route[1:]
    here.send(method)
    alice.response(403)
    assert world.quiet()


@both_modes
def test_the_route_of_a_call_is_of_no_use_to_others(mode: EdgeMode) -> None:
    world, alice, bob, carol = users(mode)
    here, there = call(alice, bob)
    for side in (here, there):
        side.phone = carol
        side.send("BYE")
        carol.response(403)
    assert world.quiet()


@both_modes
def test_the_other_side_of_a_call_does_not_speak_for_one_that_has_gone(mode: EdgeMode) -> None:
    """Not even where the name in From is not a user's, so that there is nothing to compare."""
    world, alice, bob, _ = users(mode)
    here, _ = call(alice, bob, to="<sip:sales@sip.test>")
    bob.hang_up()
    here.local, here.remote = here.remote, here.local
    for route in (list(here.route), here.route[1:], here.route[:1]):
        here.route = route
        here.send("BYE")
        alice.response(403)
    assert world.quiet()


@both_modes
def test_a_user_goes_on_with_a_call_after_reconnecting(mode: EdgeMode) -> None:
    world, alice, bob, _ = users(mode)
    _, there = call(alice, bob, to="<sip:sales@sip.test>")
    bob.hang_up()
    there.phone = world.phone("bob", login="bob")
    for method in ("INFO", "BYE"):
        there.send(method)
        alice.answer(alice.request(method), 200)
        there.phone.response(200)
    assert world.quiet()


def test_a_stranger_goes_on_with_a_call_after_reconnecting() -> None:
    """Along a route of the upstream's, which strangers do not choose."""
    world = World(upstream=UPSTREAM)
    mallory = world.phone("mallory", registers=False)
    mallory.send("INVITE", BOB)
    mallory.response(100)
    invite = world.upstream_request()
    answer = invite.make_response(200, to_tag="t", headers=[("Contact", "<sip:bob@192.0.2.9>")])
    answer.insert_header("Record-Route", "<sip:node7.test;lr>")
    world.from_upstream(answer)
    side = Dialog(mallory, invite, mallory.response(200), caller=True)
    mallory.hang_up()
    side.phone = world.phone("mallory", registers=False)
    side.send("BYE")
    assert world.upstream_request().method == "BYE"
    side.call_id = "another"
    side.send("BYE")
    side.phone.response(403)
    assert world.quiet()


@both_modes
def test_each_branch_of_a_fork_is_a_dialog_of_its_own(mode: EdgeMode) -> None:
    world, alice, bob, _ = users(mode)
    other = world.phone("bob", login="bob")
    alice.send("INVITE", BOB)
    alice.response(100)
    sides = []
    for phone in (bob, other):
        incoming = phone.request("INVITE")
        phone.answer(incoming, 183)
        early = alice.response(183)
        theirs = incoming.make_response(183, to_tag=f"t{phone.cid}")
        sides.append((phone, Dialog(alice, incoming, early, caller=True)))
        sides.append((alice, Dialog(phone, incoming, theirs, caller=False)))
    # Contacts of a request and its response lead to each other.
    for heard, side in sides:
        side.target = heard.contact
        side.send("UPDATE")
        heard.answer(heard.request("UPDATE"), 200)
        side.phone.response(200)
    assert world.quiet()


def test_the_router_itself_knows_telephone_numbers() -> None:
    """An edge refuses them before, without an upstream."""
    world = World()
    request = world.phone("alice").make("MESSAGE", "tel:+1")
    outcome = world.edge._rooms.router.destination(request, [], None, 0.0)
    assert isinstance(outcome, Rejection)
    assert outcome.status == 416


# -- several upstreams -----------------------------------------------------------------------------

ONE = replace(UPSTREAM, name="one", host="core.test", aliases=("192.0.2.201",))
SECURE = replace(
    UPSTREAM, name="secure", host="safe.test", port=5061, local_port=5090, transport="tls"
)


def test_upstreams_are_known_by_what_they_are_called() -> None:
    other = replace(ONE, name="other", aliases=("192.0.2.202",))
    known = router(upstreams=(ONE, other, SECURE))
    names = {
        "sip:192.0.2.201": "one",
        "sip:192.0.2.202:5060;lr": "other",
        # Both are called so.
        "sip:core.test": "",
        "sip:safe.test;transport=tls": "secure",
        "sips:safe.test": "secure",
        "sip:safe.test": None,
        "tel:+1": None,
    }
    assert {text: known.upstream_named(parse_uri(text)) for text in names} == names


def test_an_upstream_that_was_there_lately_is_remembered() -> None:
    config = EdgeConfig("edge.test", upstreams=(ONE,))
    upstreams = Upstreams(config.upstreams, config.probing, os.urandom)
    known = EdgeRouter(config, Connections(), None, FlowTokens([bytes(16)]), upstreams)
    for number in range(101):
        upstreams.replace([replace(ONE, name=str(number))])
        known.upstreams_changed()
        assert known.knows_upstream("one") is (number < 100)
    assert known.knows_upstream("0")
    assert not known.knows_upstream("never")


def test_staying_with_an_upstream_requires_a_client() -> None:
    known = router(upstreams=(ONE, SECURE))
    known.stay_with(None, "one")
    known.stay_with(Flow(9, 9), "one")


@pytest.mark.parametrize(
    ("route", "uri", "name"),
    [
        ("<sips:safe.test;lr>", "sip:bob@sip.test", "secure"),
        ("<sip:core.test;lr>", "sip:bob@sip.test", "one"),
        ("<sip:core.test;lr>", "sips:bob@sip.test", None),
        ("<sip:elsewhere.test;lr>", "sips:bob@sip.test", "secure"),
    ],
)
def test_sips_is_not_led_over_anything_but_tls(route: str, uri: str, name: str | None) -> None:
    request = SipRequest("MESSAGE", uri, [("Route", route), ("To", "<sip:bob@sip.test>")])
    found = router(upstreams=(ONE, SECURE)).upstream_for(request, None, 0.0)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("upstream", "uri", "near", "far"),
    [
        (ONE, "sip:bob@sip.test", "sip:{}edge.test:8080", "sip:192.0.2.100:5080"),
        (SECURE, "sip:bob@sip.test", "sip:{}edge.test:8080", "sip:192.0.2.100:5090;transport=tls"),
        (SECURE, "sips:bob@sip.test", "sips:{}edge.test:8080", "sips:192.0.2.100:5090"),
    ],
)
def test_record_route_is_sips_where_the_target_is(
    mode: EdgeMode, upstream: Upstream, uri: str, near: str, far: str
) -> None:
    """RFC 3261 §16.6 step 4; RFC 5630 §3.1.3."""
    world = World(mode, upstream=upstream)
    alice = world.phone("alice", registers=False, transport="wss")
    alice.send("INVITE", uri)
    routes = world.upstream_request().record_routes
    token = "" if routes[1].sip_uri.user is None else f"{routes[1].sip_uri.user}@"
    assert (token != "") is (mode is OUTBOUND)
    assert str(routes[0].uri) == f"{far};r2=on;lr"
    unsealed = routes[1].sip_uri.without_param("seal")
    assert (str(unsealed) != str(routes[1].uri)) is (mode is ALIAS)
    assert str(unsealed) == f"{near.format(token)};transport=ws;r2=on;lr"


def test_path_leads_to_the_side_of_the_upstream_that_has_the_registration() -> None:
    world = World(upstreams=(replace(ONE, priority=1), SECURE))
    alice = world.phone("alice", registers=False)
    for upstream, port in ((SECURE, 5090), (ONE, 5080)):
        alice.send("REGISTER", "sip:sip.test", *alice.registration(expires=300))
        name, register = world.all_sent.pop()
        assert isinstance(register, SipRequest)
        assert (name, register.paths[0].sip_uri.port) == (upstream.name, port)
        world.do(world.edge.upstream_failed(world.now, upstream=name, link=upstream.link))
        world.all_sent.clear()


# -- what a client without a GRUU loses ------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_call_of_a_client_without_a_gruu_after_a_reconnection(mode: EdgeMode) -> None:
    """What it sends still arrives; what the other side sends is refused with 430."""
    world = World(mode, upstream=UPSTREAM)
    alice, _ = registered(world, "alice")
    alice.send("INVITE", BOB)
    alice.response(100)
    invite = world.upstream_request()
    ok = invite.make_response(200, to_tag="b", headers=[("Contact", "<sip:bob@192.0.2.200>")])
    for value in invite.get_all("record-route"):
        ok.add_header("Record-Route", value)
    world.from_upstream(ok)
    Dialog(alice, invite, alice.response(200), caller=True).send("ACK")
    world.upstream_request()
    alice.hang_up()
    again, _ = registered(world, "alice")
    routes = ", ".join(reversed(ok.get_all("record-route")))
    fields = [
        ("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKbye"),
        ("Route", ", ".join(ok.get_all("record-route"))),
        ("From", f"<{BOB}>;tag=b"),
        ("To", str(invite.from_)),
        ("Call-ID", invite.call_id),
        ("CSeq", "1 BYE"),
    ]
    contact = invite.contacts
    assert contact
    world.from_upstream(SipRequest("BYE", str(contact[0].uri), fields))
    assert world.upstream_response().status == 430
    again.send("BYE", "sip:bob@192.0.2.200", ("Route", routes), to=f"<{BOB}>;tag=b")
    bye = world.upstream_request()
    assert (bye.method, str(bye.uri)) == ("BYE", "sip:bob@192.0.2.200")


def test_a_tel_uri_is_not_for_strangers_and_is_its_own_callee() -> None:
    known = router(upstreams=(UPSTREAM,))
    number = parse_uri("tel:+15551234567")
    assert not known.is_for_strangers(number)
    assert known._callee(number) == "tel:+15551234567"


# -- a node of several -----------------------------------------------------------------------------


def test_a_node_asks_where_a_user_is_and_a_gruu_whose_route_is_gone() -> None:
    world, location = NodeWorld(), Location()
    alice = Phone(world, "alice", registers=False)
    bob = Phone(world, "bob", registers=False, outbound="urn:uuid:1")
    fields = bob.registration(expires=60)
    bob.send("REGISTER", "sip:sip.test", *fields, to=f"<{bob.aor}>")
    world.obey(location)
    gruu = (bob.response(200).contacts or [])[0].params.get("pub-gruu") or ""
    alice.send("INVITE", gruu)
    assert world.obey(location) == [Lookup(BOB)]
    alice.response(100)
    incoming = bob.request("INVITE")
    bob.answer(incoming, 200, ("Contact", f"<{gruu}>"))
    dialog = Dialog(alice, incoming, alice.response(200), caller=True)
    dialog.local, dialog.target = str(incoming.from_), gruu
    # While the connection is there, nothing is asked.
    dialog.send("INFO")
    assert not world.questions
    assert str(bob.request("INFO").uri) == bob.contact
    dialog.target = "sip:bob@sip.test;gr=urn:uuid:2"
    dialog.send("INFO")
    assert str(bob.request("INFO").uri) == dialog.target
    bob.hang_up()
    world.obey(location)
    for target, asked in ((gruu, [Lookup(BOB)]), (bob.contact, [])):
        alice.heard.clear()
        dialog.target = target
        dialog.send("INFO")
        assert world.obey(location) == asked
        alice.response(430)
    alice.send("MESSAGE", "sip:tgruu.x@sip.test;gr")
    alice.response(404)


def test_a_call_to_another_node_and_back_along_its_routes() -> None:
    cluster = Cluster("one", "two")
    alice = cluster.phone("one", "alice", transport="wss")
    bob = cluster.phone("two", "bob", outbound="urn:uuid:1", transport="wss")
    alice.send("INVITE", BOB)
    cluster.run()
    alice.response(100)
    incoming = bob.request("INVITE")
    ok = bob.answer(incoming, 200)
    cluster.run()
    mine = Dialog(alice, incoming, alice.response(200), caller=True)
    mine.local = str(incoming.from_)
    theirs = Dialog(bob, incoming, ok, caller=False)
    theirs.route = [str(route) for route in incoming.record_routes]
    for dialog, phone in ((mine, bob), (theirs, alice)):
        dialog.send("INFO")
        cluster.run()
        phone.request("INFO")
    # From another node, with its routes.
    moved = Phone(cluster.worlds["two"], "alice", registers=False)
    mine.phone = moved
    mine.send("INFO")
    cluster.run()
    bob.request("INFO")
    mine.phone = alice
    # By a GRUU, when the node's connection is gone.
    bob.hang_up()
    cluster.run()
    again = cluster.phone("one", "bob", outbound="urn:uuid:1")
    mine.target = "sip:bob@sip.test;gr=urn:uuid:1"
    mine.send("INFO")
    cluster.run()
    again.request("INFO")
    for route, status in (
        ("sip:two.test:5070", 403),
        ("sip:three.test:5070", 403),
        ("tel:+1", 403),
        (f"sip:{'A' * 52}@three.test", 403),
        # What nodes lead each other with is not for clients.
        (f"sip:{cluster.location.bindings(again.aor)[0].token}@two.test:5070", 403),
    ):
        alice.heard.clear()
        alice.send("MESSAGE", "sip:x@elsewhere.test", ("Route", f"<{route}>"))
        cluster.run()
        assert alice.response().status == status
    # One user at both nodes.
    dave, away = cluster.phone("one", "dave"), cluster.phone("two", "dave")
    alice.send("MESSAGE", dave.aor)
    cluster.run()
    assert [phone.request("MESSAGE").method for phone in (dave, away)] == ["MESSAGE"] * 2
    # sips wants TLS on the way to the other node.
    carol = cluster.phone("two", "carol", transport="wss")
    for transport in ("tcp", "udp", "tls"):
        seen = [
            replace(Cluster.seen(other, name), transport=transport)
            for name, other in (("one", "two"), ("two", "one"))
        ]
        for world, node in zip(cluster.worlds.values(), seen, strict=True):
            world.edge.use_nodes([node])
        alice.heard.clear()
        alice.send("MESSAGE", "sips:carol@sip.test")
        cluster.run()
        if transport == "tls":
            carol.request("MESSAGE")
        else:
            alice.response(480)
    cluster.worlds["one"].edge.use_nodes([replace(seen[0], transport="udp")])
    alice.send("MESSAGE", "sip:carol@sip.test")
    cluster.run()
    carol.request("MESSAGE")
    # A node that the store knows and this one does not.
    cluster.worlds["one"].edge.use_nodes([])
    alice.heard.clear()
    for uri in ("sip:carol@sip.test", "sips:carol@sip.test"):
        alice.send("MESSAGE", uri)
        cluster.run()
        alice.response(480)


def test_token_of_a_connection_is_made_once_for_each_key() -> None:
    world = NodeWorld()
    phone = Phone(world, "alice", registers=False)
    known = world.edge._rooms.router
    connection = known._connections.get(phone.cid)
    assert connection is not None
    first = known.token_of(connection)
    assert known.token_of(connection) is first
    world.edge._tokens.rotate(b"another key of 16 bytes")
    assert known.token_of(connection) != first
    assert known._opened(first, "x", None) == connection.flow
    # What comes from a node without a token leads nowhere.
    fields = [
        ("Via", "SIP/2.0/TCP two.test:5070;branch=z9hG4bKx"),
        ("From", "<sip:bob@sip.test>;tag=b"),
        ("To", "<sip:alice@sip.test>"),
        ("Call-ID", "x"),
        ("CSeq", "1 MESSAGE"),
    ]
    world.edge.use_nodes([Cluster.seen("two", "one")])
    request = SipRequest("MESSAGE", phone.contact, fields)
    source = Source("192.0.2.9", 5070, "tcp")
    world.from_upstream(request, upstream="two", link=2, source=source)
    assert world.upstream_response().status == 404

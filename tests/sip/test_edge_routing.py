"""Where requests go, and what is written on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.sip._phones import MODES, UPSTREAM, Phone, World, call
from wsproto_sip.sip import Flow, FlowTokens, Rejection, SipRequest, SipUri, Source, Via
from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.edge_config import EdgeConfig, EdgeMode, Peer
from wsproto_sip.sip.edge_routing import Connections, EdgeRouter

BOB = "sip:bob@sip.test"
ALIAS, OUTBOUND = EdgeMode.ALIAS, EdgeMode.OUTBOUND
TCP = replace(UPSTREAM, transport="tcp")
SOURCE = Source("192.0.2.1", 4000, "ws")


# -- connections -----------------------------------------------------------------------------------


def test_connections() -> None:
    table = Connections(2**32 - 2)
    one = table.add(7, Peer(SOURCE))
    assert one.flow == Flow(7, 2**32 - 1)
    assert one.source is SOURCE
    assert (len(table), table.get(7), table.get(8)) == (1, one, None)
    assert table.of(one.flow) is one
    assert table.at(SOURCE) == one.flow
    with pytest.raises(ValueError, match="connection 7 is there already"):
        table.add(7, Peer(SOURCE))
    assert table.remove(7) is one
    assert table.remove(7) is None
    assert (len(table), table.at(SOURCE), table.is_alive(one.flow)) == (0, None, False)
    # The same number again is another flow.
    again = table.add(7, Peer(SOURCE))
    assert again.flow == Flow(7, 0)
    assert table.of(one.flow) is None


def test_sources_that_are_not_unique() -> None:
    table = Connections()
    source = Source("192.0.2.1", 65535, "ws")
    connections = [table.add(cid, Peer(source)) for cid in range(3)]
    assert [connection.alias.port for connection in connections] == [65535, 0, 1]
    assert [table.at(connection.alias) for connection in connections] == [
        connection.flow for connection in connections
    ]
    assert all(connection.source == source for connection in connections)
    table.remove(1)
    assert table.add(3, Peer(source)).alias.port == 0


def test_a_source_that_all_have_in_common() -> None:
    """However many there are, another one costs no more, and no two share an alias."""
    table = Connections(2**32 - 1)
    source = Source("192.0.2.1", 5060, "wss")
    connections = [table.add(cid, Peer(source)) for cid in range(200)]
    assert len({connection.alias for connection in connections}) == 200
    assert connections[63].alias == Source("192.0.2.1", 5123, "wss")
    assert connections[64].alias == Source("100::40", 5124, "wss")
    for connection in connections:
        assert table.at(connection.alias) == connection.flow
        table.remove(connection.flow.connection)
        assert table.at(connection.alias) is None


# -- what is ours ----------------------------------------------------------------------------------


def router(**options: object) -> EdgeRouter:
    settings: dict[str, object] = {"host": "Edge.test", "port": 8080}
    settings |= {"domains": Domains(("sip.test",)), "upstream": UPSTREAM}
    config = EdgeConfig(**(settings | options))  # type: ignore[arg-type]
    return EdgeRouter(config, Connections(), None, FlowTokens([b"k" * 16]))


@pytest.mark.parametrize(
    ("uri", "own"),
    [
        ("sip:edge.TEST:8080;transport=ws;lr", True),
        ("sip:edge.test", False),
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


def test_own_vias() -> None:
    assert router().is_own_via(Via("WS", "EDGE.test", 8080))
    assert router().is_own_via(Via("UDP", "192.0.2.100", 5080))
    assert not router().is_own_via(Via("WS", "edge.test"))
    assert not router(upstream=None).is_own_via(Via("UDP", "192.0.2.100", 5080))


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
    assert len(first.user or "") == len(second.user or "") == 40
    assert (first.host, first.port, first.transport) == ("edge.test", 8080, "ws")
    assert str((invite.contacts or [])[0].uri).endswith(".invalid;transport=ws;ob")


def test_one_value_in_alias_mode() -> None:
    world = World(ALIAS)
    alice, _, invite = invited(world)
    assert invite.get_all("record-route") == ["<sip:edge.test:8080;transport=ws;lr>"]
    (contact,) = invite.contacts or []
    assert contact.sip_uri.params.get("alias") == f"192.0.2.1~{alice.source.port}~5"
    assert str(contact.uri) == (
        f"sip:alice{alice.cid}@x{alice.cid}.invalid"
        f";alias=192.0.2.1~{alice.source.port}~5;transport=ws;ob"
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
    for index in range(start, start + 40):
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
        (route,) = [str(value) for value in invite.record_routes]
        target = str((invite.contacts or [])[0].uri)
        alice.send("BYE", target, ("Route", route), to="<sip:alice@sip.test>;tag=1")
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
    # A GRUU of somebody else leaves the flow of the dialog as it is.
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


def test_an_alias_counts_within_dialogs_alone() -> None:
    world = World(ALIAS)
    alice, bob = world.phone("alice"), world.phone("bob")
    target = f"sip:bob@x.invalid;alias=192.0.2.1~{bob.source.port}~5"
    alice.send("MESSAGE", target)
    alice.response(404)
    # Without an alias, a route through here leads to the users.
    alice.send("MESSAGE", BOB, ("Route", "<sip:sip.test;lr>"))
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


def test_two_clients_behind_a_proxy_without_ports() -> None:
    world = World(ALIAS)
    same = Source("192.0.2.9", 0, "ws")
    alice = world.phone("alice", source=same)
    bob = world.phone("bob", source=same)
    here, there = call(alice, bob)
    here.send("INFO")
    bob.request("INFO")
    there.send("BYE")
    alice.request("BYE")


# -- who cannot be reached -------------------------------------------------------------------------


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


def test_the_path_of_a_binding() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob", registers=False)
    assert bob.register(("Path", "<sip:p.test;lr>, <sip:q.test;lr>")).status == 200
    alice.send("MESSAGE", BOB)
    assert bob.request("MESSAGE").values("route") == ["<sip:p.test;lr>", "<sip:q.test;lr>"]


def test_so_many_contacts_and_no_more() -> None:
    world = World(max_branches=2)
    alice = world.phone("alice")
    phones = [world.phone("bob") for _ in range(3)]
    alice.send("MESSAGE", BOB)
    assert sum([len(phone.heard) for phone in phones]) == 2


# -- with an upstream ------------------------------------------------------------------------------


def registered(world: World, user: str, *fields: tuple[str, str]) -> tuple[Phone, SipRequest]:
    """A client, and the REGISTER that the upstream has got."""
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
            phone.send("INFO", target, *[("Route", value) for value in route], to="<sip:x>;tag=1")
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


def test_telephone_numbers_go_to_the_upstream() -> None:
    world = World(upstream=UPSTREAM)
    alice = world.phone("alice", registers=False)
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
    near = world.upstream_request().record_routes[-1].sip_uri
    assert near.user is not None
    alice.send("MESSAGE", BOB, ("Route", f"<{near}>"))
    assert "route" not in world.upstream_request()


def test_the_router_itself_knows_telephone_numbers() -> None:
    """An edge refuses them before, without an upstream."""
    world = World()
    request = world.phone("alice").make("MESSAGE", "tel:+1")
    outcome = world.edge._router.destination(request, [], None, 0.0)
    assert isinstance(outcome, Rejection)
    assert outcome.status == 416

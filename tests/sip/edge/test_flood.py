"""Floods of requests through an edge, by simulated time: what is left for the others."""

from __future__ import annotations

import pytest

from tests.sip._phones import SDP, UPSTREAM, Dialog, Phone, World, call, entropy
from wsproto_sip.server.shares import Bound, ShareConfig
from wsproto_sip.sip.edge.config import EdgeConfig
from wsproto_sip.sip.message.message import SipResponse
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

USERS = {"alice": "wonderland", "bob": "builder", "carol": "lighthouse"}


def with_users(**options: object) -> World:
    keys = DigestAuthenticator("sip.test", USERS, entropy=entropy())
    return World(authenticator=keys, **options)  # type: ignore[arg-type]


def user(world: World, name: str, address: str = "192.0.2.1") -> Phone:
    source = Source(address, 3000 + len(world.phones), "ws")
    return world.phone(name, password=USERS[name], source=source)


def strangers(world: World, number: int, address: str) -> list[Phone]:
    """Connect so many clients of one address that prove nothing."""
    return [
        world.phone(
            "eve",
            domain="elsewhere.test",
            registers=False,
            source=Source(address, 1000 + port, "ws"),
        )
        for port in range(number)
    ]


def flood(world: World, clients: list[Phone], target: Phone, each: int) -> list[int]:
    """Send small INVITEs without answers, 2,000 a second; return how many got through."""
    passed = [0] * len(clients)
    for _ in range(each):
        for index, client in enumerate(clients):
            client.send("INVITE", target.aor)
            passed[index] += bool(target.heard)
            client.heard.clear()
            target.heard.clear()
            world.now += 1 / 2000
    return passed


def calls(caller: Phone, callee: Phone, number: int) -> None:
    """Set up so many calls and end them."""
    for _ in range(number):
        here, _ = call(caller, callee)
        here.send("BYE")
        callee.answer(callee.request("BYE"), 200)
        caller.response(200)


def test_a_flood_of_invites_from_one_address_leaves_users_their_calls() -> None:
    world = with_users()
    alice, bob, carol = (user(world, name) for name in USERS)
    attackers = strangers(world, 100, "203.0.113.9")
    passed = sum(flood(world, attackers, carol, 1))
    for _ in range(100):
        calls(alice, bob, 1)
        passed += sum(flood(world, attackers, carol, 1))
    assert 3_700 < passed <= 3_750
    assert {name for name, _ in world.edge.refused} == {"requests_per_second", "transactions"}
    # Other strangers can call too.
    honest = strangers(world, 1, "198.51.100.7")
    assert flood(world, honest, carol, 20) == [20]


def test_a_flood_from_the_address_of_a_user_leaves_the_user_all_calls() -> None:
    world = with_users()
    alice, bob, carol = (user(world, name, "203.0.113.9") for name in USERS)
    flood(world, strangers(world, 97, "203.0.113.9"), carol, 105)
    calls(alice, bob, 100)


def test_a_flood_from_many_addresses_leaves_users_the_reserve() -> None:
    world = with_users(transactions=ShareConfig(1_000))
    alice, bob, carol = (user(world, name) for name in USERS)
    attackers = [strangers(world, 1, f"203.0.{n // 250}.{n % 250}")[0] for n in range(1_000)]
    assert sum(flood(world, attackers, carol, 3)) == 750
    assert world.edge.refused["transactions", Bound.ALL] > 0
    calls(alice, bob, 100)


def test_a_user_that_floods_leaves_some_to_the_others() -> None:
    world = with_users(transactions=ShareConfig(1_000))
    alice, bob, carol = (user(world, name) for name in USERS)
    assert flood(world, [carol], bob, 2_000) == [500]
    assert world.edge.refused["transactions", Bound.USER] > 0
    calls(alice, bob, 100)


def test_large_requests_leave_room_for_others() -> None:
    world = with_users()
    alice, bob, carol = (user(world, name) for name in USERS)
    attackers = strangers(world, 40, "203.0.113.9")
    for _ in range(10):
        for client in attackers:
            client.send("INVITE", carol.aor, body=b"x" * 50_000)
            world.now += 1 / 500
    # 12 MiB, a little less than half of what there is for strangers.
    assert 230 < world.edge.transactions < 251
    assert world.edge.refused["pending_bytes", Bound.CONNECTION] > 0
    calls(alice, bob, 100)


def test_a_client_registered_at_the_upstream_is_not_a_stranger() -> None:
    world = World(upstream=UPSTREAM, transactions=ShareConfig(1_000))
    alice = world.phone("alice", registers=False)
    alice.send("REGISTER", "sip:sip.test", *alice.registration(expires=300), to=f"<{alice.aor}>")
    world.from_upstream(world.upstream_request().make_response(200))
    alice.response(200)
    attackers = [strangers(world, 1, f"203.0.{n // 250}.{n % 250}")[0] for n in range(1_000)]
    for attacker in attackers:
        attacker.send("OPTIONS", "sip:bob@sip.test")
        world.now += 1 / 2000
    assert world.edge.transactions == 750
    world.upstream.clear()
    alice.send("OPTIONS", "sip:bob@sip.test")
    world.upstream_request()


def test_a_user_that_registers_at_the_upstream_in_many_spellings_has_one_share() -> None:
    world = World(upstream=UPSTREAM, transactions=ShareConfig(1_000, per_user=3))
    spellings = [
        "sip:alice@sip.test",
        "sip:alice@SIP.test:5080;a=1",
        "sips:alice@sip.test",
        "sip:%61lice@sip.test",
    ]
    for address in spellings:
        alice = world.phone("alice", registers=False)
        alice.send("REGISTER", "sip:sip.test", ("Supported", "path"), to=f"<{address}>")
        world.from_upstream(world.upstream_request().make_response(200))
        alice.response(200)
        for _ in range(2):
            alice.send("OPTIONS", "sip:bob@sip.test")
        world.upstream.clear()
    assert world.edge.transactions == 3


@pytest.mark.parametrize("method", ["OPTIONS", "MESSAGE", "REGISTER"])
def test_more_new_requests_a_second_than_a_share_are_refused(method: str) -> None:
    world = World(requests_per_second=ShareConfig(100, reserve=0, per_connection=3))
    eve = world.phone("eve", registers=False)
    target = "sip:sip.test" if method == "REGISTER" else "sip:nobody@sip.test"
    statuses = [eve.ask(method, target).status for _ in range(5)]
    assert 503 not in statuses[:3]
    assert statuses[3:] == [503, 503]
    world.now += 1.0
    assert eve.ask(method, target).status != 503
    assert world.edge.refused == {("requests_per_second", Bound.CONNECTION): 2}


def test_messages_of_pending_requests_are_not_counted() -> None:
    world = World(requests_per_second=ShareConfig(100, per_connection=1))
    alice, bob = world.phone("alice"), world.phone("bob")
    world.now += 1.0
    invite = alice.send("INVITE", bob.aor)
    alice.response(100)
    bob.answer(bob.request("INVITE"), 180)
    alice.response(180)
    alice.follow("CANCEL", invite)
    alice.response(200)
    bob.request("CANCEL")


def test_the_upstream_is_not_held_to_a_pace() -> None:
    world = World(upstream=UPSTREAM, requests_per_second=ShareConfig(2, per_connection=1))
    alice = world.phone("alice", registers=False)
    ping = alice.make("OPTIONS", "sip:edge.test:8080", contact=False)
    for number in range(5):
        request = ping.copy()
        request.replace_header("Via", f"SIP/2.0/UDP 192.0.2.200;branch=z9hG4bK{number}")
        world.from_upstream(request)
        assert world.upstream_response().status == 200


# -- one callee ------------------------------------------------------------------------------------

FEW = ShareConfig(30, reserve=0)


def ringing(world: World, callee: Phone, callers: list[Phone], seconds: int) -> tuple[int, int]:
    """Have each caller call 1,000 times a second; return how many calls rang, and were refused."""
    rang = refused = 0
    for _ in range(seconds * 1000 // len(callers)):
        for caller in callers:
            caller.send("INVITE", callee.aor)
            rang += bool(callee.heard)
            callee.heard.clear()
            last = caller.response()
            if last.status != 100:
                # 503 for what is more than its share of all requests.
                assert last.status in (480, 503)
                assert last.get("retry-after") == ("5" if last.status == 480 else "1")
                refused += 1
            caller.heard.clear()
            world.now += 1 / 1000
    return rang, refused


def default_world(**options: object) -> World:
    options = {"callee_requests_per_second": FEW, "callee_transactions": FEW} | options
    return with_users(**options)


def test_the_defaults_are_those_of_these_tests() -> None:
    config = EdgeConfig("edge.test")
    assert config.callee_requests_per_second == config.callee_transactions == FEW


def test_one_stranger_does_not_ring_a_user_a_thousand_times_a_second() -> None:
    world = default_world()
    alice, bob, _ = (user(world, name) for name in USERS)
    (eve,) = strangers(world, 1, "203.0.113.9")
    assert ringing(world, alice, [eve], 2) == (8, 1992)
    # Other strangers and users still reach her.
    (honest,) = strangers(world, 1, "198.51.100.7")
    honest.send("INVITE", alice.aor)
    alice.request("INVITE")
    calls(bob, alice, 100)
    assert world.edge.refused["callee_requests_per_second", Bound.CONNECTION] > 0
    assert world.edge.refused["callee_transactions", Bound.CONNECTION] > 0


def test_strangers_of_many_addresses_do_not_ring_a_user_without_end() -> None:
    world = default_world()
    alice, bob, _ = (user(world, name) for name in USERS)
    many = [strangers(world, 1, f"203.0.{n // 250}.{n % 250}")[0] for n in range(1_000)]
    assert ringing(world, alice, many, 1) == (30, 970)
    calls(bob, alice, 100)
    # When their calls are over, there is room again.
    world.wait(world.edge.config.ring_timeout + 100)
    assert world.edge.transactions == 0
    assert len(world.edge._rooms.callees) == 1
    many[0].heard.clear()
    many[0].send("MESSAGE", alice.aor)
    assert len(world.edge._rooms.callees) == 2


@pytest.mark.parametrize("method", ["MESSAGE", "OPTIONS", "INFO", "SUBSCRIBE"])
def test_what_does_not_ring_does_not_fill_the_connection(method: str) -> None:
    world = default_world(callee_transactions=ShareConfig(1_000_000))
    alice = user(world, "alice")
    many = [strangers(world, 1, f"203.0.{n // 250}.{n % 250}")[0] for n in range(100)]
    got = 0
    for number in range(3_000):
        many[number % 100].send(method, alice.aor)
        got += len(alice.heard)
        alice.heard.clear()
        world.now += 1 / 1000
    # 30 a second for three seconds.
    assert 60 <= got <= 120


def test_an_answered_call_does_not_count_any_longer() -> None:
    world = default_world(callee_requests_per_second=ShareConfig(1_000_000))
    alice = user(world, "alice")
    (caller,) = strangers(world, 1, "203.0.113.9")
    calls(caller, alice, 100)
    for _ in range(100):
        caller.send("INVITE", alice.aor)
        caller.response(100)
        alice.answer(alice.request("INVITE"), 486)
        alice.request("ACK")
        caller.response(486)
    assert not world.edge.refused


def test_requests_within_dialogs_are_counted_beside_the_others() -> None:
    world = default_world()
    alice = user(world, "alice")
    honest, eve = (strangers(world, 1, address)[0] for address in ("198.51.100.7", "203.0.113.9"))
    here, _ = call(honest, alice)
    ringing(world, alice, [eve], 1)
    here.send("BYE")
    alice.answer(alice.request("BYE"), 200)
    honest.response(200)
    # And they are bounded too.
    again, _ = call(honest, alice)
    statuses = []
    for _ in range(20):
        again.send("INFO")
        statuses += [m.status for m in honest.heard if isinstance(m, SipResponse)]
        honest.heard.clear()
    assert statuses == [480] * 13


def test_a_user_at_the_upstream_is_one_callee_by_all_names() -> None:
    world = World(upstream=UPSTREAM, callee_requests_per_second=ShareConfig(8, reserve=0))
    (eve,) = strangers(world, 1, "203.0.113.9")
    names = ["sip.test", "SIP.test:5070", "192.0.2.200", "edge.test:8080"]
    uris = [f"sip:%61lice@{name}" for name in names] + [f"sip:alice@{name};a=b" for name in names]
    statuses = []
    for uri in uris:
        eve.send("MESSAGE", uri)
        statuses += [m.status for m in eve.heard if isinstance(m, SipResponse)]
        eve.heard.clear()
    assert statuses == [480] * 6
    eve.send("MESSAGE", "sip:bob@sip.test")
    assert len(world.upstream) == 3


def test_requests_that_are_not_forwarded_leave_no_claim() -> None:
    world = default_world(transactions=ShareConfig(4))
    alice = user(world, "alice")
    many = [strangers(world, 1, f"203.0.113.{number}")[0] for number in range(10)]
    for caller in many:
        caller.send("INVITE", alice.aor, ("Max-Breadth", "0"))
        caller.response(440)
        caller.send("INVITE", alice.aor)
    assert sum(shares.held for shares in world.edge._rooms.callees._shares.values()) == 3


# -- ACKs ------------------------------------------------------------------------------------------


def accepted(world: World, caller: Phone, callee: Phone) -> Dialog[Phone]:
    """Set a call up; return the caller's side, which has sent one ACK."""
    here, _ = call(caller, callee)
    return here


def test_acks_without_a_call_count_as_requests() -> None:
    world = World(requests_per_second=ShareConfig(100, reserve=0, per_connection=5))
    alice, bob = world.phone("alice"), world.phone("bob")
    here = accepted(world, alice, bob)
    world.now += 1.0
    for _ in range(2000):
        here.send("ACK")
    assert len(bob.heard) == 5
    assert world.edge.refused == {("requests_per_second", Bound.CONNECTION): 1995}
    assert world.edge.dropped == 1995
    assert not alice.heard


def test_an_ack_that_answers_a_2xx_is_never_refused() -> None:
    world = World(requests_per_second=ShareConfig(100, reserve=0, per_connection=2))
    alice, bob = world.phone("alice"), world.phone("bob")
    world.now += 1.0
    alice.send("INVITE", bob.aor, body=SDP)
    alice.response(100)
    incoming = bob.request("INVITE")
    ok = bob.answer(incoming, 200)
    here = Dialog(alice, incoming, alice.response(200), caller=True)
    # All that she may send in this second is sent.
    for _ in range(3):
        alice.send("OPTIONS", "sip:edge.test:8080", contact=False)
    alice.heard.clear()
    here.send("ACK")
    bob.request("ACK")
    # The callee asks for it once more, and gets it, as often as it asks.
    for _ in range(5):
        bob.say(ok)
        alice.response(200)
        here.send("ACK")
        bob.request("ACK")
    here.send("ACK")
    assert world.quiet()


def test_a_call_that_is_over_is_owed_no_ack() -> None:
    world = World(requests_per_second=ShareConfig(100, reserve=0, per_connection=1))
    alice, bob = world.phone("alice"), world.phone("bob")
    world.now += 1.0
    alice.send("INVITE", bob.aor)
    alice.response(100)
    incoming = bob.request("INVITE")
    bob.answer(incoming, 200)
    here = Dialog(alice, incoming, alice.response(200), caller=True)
    world.wait(100)
    assert world.edge.transactions == 0
    alice.send("OPTIONS", "sip:edge.test:8080", contact=False)
    alice.response(200)
    here.send("ACK")
    assert world.quiet()


# -- responses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [180, 200])
def test_a_callee_does_not_fill_the_connection_of_a_caller(status: int) -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("INVITE", bob.aor)
    incoming = bob.request("INVITE")
    for _ in range(5_000):
        bob.answer(incoming, status)
    assert len(alice.heard) == 1 + 200
    assert world.edge.dropped == 4_800
    # The call itself goes on, or is refused, as before.
    alice.heard.clear()
    bob.answer(incoming, 486)
    assert [m.status for m in alice.heard if isinstance(m, SipResponse)] == [486] * (status == 180)

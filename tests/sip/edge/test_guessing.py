"""Guessing at passwords through an edge, by simulated time."""

from __future__ import annotations

from tests.sip._phones import World, entropy
from wsproto_sip.auth.throttle import Failure, FailureCause, Throttle
from wsproto_sip.sip.message.message import SipResponse
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

USERS = {"alice": "wonderland", "bob": "builder"}


def server(throttle: Throttle) -> World:
    keys = DigestAuthenticator("sip.test", USERS, throttle=throttle, entropy=entropy())
    return World(authenticator=keys)


def retry_after(response: SipResponse) -> int:
    assert response.status == 503
    return int(response.get("retry-after") or "")


def test_a_guesser_is_refused_and_the_user_registers_all_the_same() -> None:
    told: list[Failure] = []
    throttle = Throttle(report=told.append)
    world = server(throttle)
    eve = world.phone("alice", registers=False, source=Source("203.0.113.9", 1000, "ws"))
    statuses = []
    for number in range(600):
        eve.password = f"guess {number}"
        statuses.append(eve.register().status)
        world.now += 0.1
    # Ten a second for a minute: 6 for nothing, and then with 1, 2, 4, 8, 16 and 32 s between.
    assert statuses.count(401) == 11
    assert statuses.count(503) == 589
    assert throttle.counts == {("sip", FailureCause.WRONG): 11, ("sip", FailureCause.PAIR): 589}
    assert {failure.attempt.address for failure in told} == {"203.0.113.9"}
    assert len(told) == 11 + 6
    # The right password would be refused too: there is nothing to learn.
    eve.password = "wonderland"
    assert 1 <= retry_after(eve.register()) <= 32
    alice = world.phone("alice", password="wonderland")
    assert alice.register().status == 200


def test_a_guesser_at_the_same_address_does_not_end_a_registration() -> None:
    world = server(Throttle())
    alice = world.phone("alice", password="wonderland")
    eve = world.phone("alice", password="guess", registers=False)
    while eve.register().status != 503:
        pass
    assert alice.register().status == 200
    # On a new connection she waits as the guesser does.
    again = world.phone("alice", password="wonderland", registers=False)
    world.now += retry_after(again.register())
    assert again.register().status == 200


def test_names_that_do_not_exist_are_slowed_down_alike() -> None:
    world = server(Throttle())
    answers = []
    for name, host in (("alice", "203.0.113.9"), ("mallory", "203.0.113.10")):
        eve = world.phone(name, password="x", registers=False, source=Source(host, 1000, "ws"))
        answers.append([eve.register().status for _ in range(10)])
    assert answers[0] == answers[1] == [401] * 6 + [503] * 4


def test_requests_are_slowed_down_as_registrations_are() -> None:
    keys = DigestAuthenticator("sip.test", USERS, entropy=entropy())
    world = World(authenticator=keys)
    eve = world.phone("alice", password="x", registers=False)
    statuses = [eve.ask("MESSAGE", "sip:bob@sip.test").status for _ in range(8)]
    assert statuses == [407] * 6 + [503] * 2

"""Waiting AUTH requests: their order, their limits, and how they are given up."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tests.msrp._relay import (
    LATE_ALICE,
    RELAY,
    Client,
    challenge_of,
    credentials_for,
    fates,
    late_world,
    log_in,
)
from wsproto_sip.auth import Account, AccountQuestion, Identity, Unavailable
from wsproto_sip.msrp.message.chunk import MsrpRequest, MsrpResponse
from wsproto_sip.msrp.message.limits import MsrpLimits


def test_auth_is_answered_once_the_account_is_known() -> None:
    world = late_world()
    tid = log_in(world)
    assert world.questions == {1: AccountQuestion("alice", "relay.example", "alice")}
    assert (world.relay.waiting, world.relay.sessions) == (1, 0)
    ((_, response),) = world.answer(LATE_ALICE)
    assert (response.transaction_id, response.code) == (tid, 200)
    assert response.header(b"Authentication-Info")
    assert (world.relay.waiting, world.relay.sessions) == (0, 1)
    assert world.relay.answer(1, LATE_ALICE, world.now) == []


def test_unknown_users_are_challenged_and_guesses_are_counted() -> None:
    world = late_world(limits=MsrpLimits(max_authentication_failures=2))
    for answer in (None, Account(Identity("alice"), "other")):
        log_in(world)
        ((_, response),) = world.answer(answer)
        assert response.code == 401
        assert challenge_of(response).realm == "relay.example"
    assert world.dropped == [(1, "too many refused credentials")]


def test_late_answer_gets_408() -> None:
    world = late_world(answer_timeout=3.0)
    tid = log_in(world)
    assert world.relay.next_deadline() == world.now + 3
    assert world.wait(2.9) == []
    ((_, response),) = world.wait(0.1)
    assert isinstance(response, MsrpResponse)
    assert (response.transaction_id, response.code) == (tid, 408)
    assert response.comment == b"Not now; wait 5 s"
    assert world.relay.waiting == 0


def test_unavailable_source_gets_408() -> None:
    world = late_world()
    tid = log_in(world)
    assert fates(world.answer(Unavailable("down", 9))) == [(tid, 408)]


def test_answer_of_another_form_is_an_error_and_the_auth_still_waits() -> None:
    world = late_world()
    tid = log_in(world)
    with pytest.raises(TypeError, match="the answer must be an Account or None, not str"):
        world.relay.answer(1, "a-secret", world.now)
    assert fates(world.answer(LATE_ALICE)) == [(tid, 200)]


def test_logins_keep_their_order_while_other_requests_continue() -> None:
    world = late_world()
    world.do(world.relay.connection_opened(2, world.now))
    first, second = log_in(world), log_in(world)
    third = world.tid()
    client = Client(world, 1, "alice")
    # It has no credentials, but waits all the same.
    assert world.give(1, MsrpRequest(third, b"AUTH", (RELAY,), (client.uri,))) == []
    other = log_in(world, 2)
    assert (len(world.questions), world.relay.waiting) == (2, 4)
    assert fates(world.answer(LATE_ALICE, 2)) == [(other, 200)]
    ((_, refused),) = world.give(1, MsrpRequest(world.tid(), b"SEND", (RELAY,), (client.uri,)))
    assert isinstance(refused, MsrpResponse)
    assert fates(world.answer(LATE_ALICE)) == [(first, 200)]
    assert fates(world.answer(LATE_ALICE)) == [(second, 200), (third, 401)]
    assert world.relay.waiting == 0


def test_deadline_includes_waiting_for_earlier_logins() -> None:
    world = late_world(answer_timeout=5.0)
    first, second = log_in(world), log_in(world)
    answers = world.wait(5.0)
    assert [(chunk.transaction_id, getattr(chunk, "code", 0)) for _, chunk in answers] == [
        (first, 408),
        (second, 408),
    ]
    assert len(world.questions) == 1


def test_waiting_login_ends_with_its_connection() -> None:
    world = late_world()
    log_in(world)
    log_in(world)
    world.do(world.relay.connection_closed(1, world.now))
    assert world.relay.waiting == 0
    assert world.answer(LATE_ALICE) == []
    assert world.relay.sessions == 0
    world.do(world.relay.connection_opened(1, world.now))
    log_in(world)
    world.do(world.relay.connection_closed(1, world.now))
    assert world.wait(5) == []
    assert world.relay.next_deadline() is None


def test_dropped_connection_ends_its_queued_logins() -> None:
    world = late_world(limits=MsrpLimits(max_authentication_failures=1))
    log_in(world)
    log_in(world)
    ((_, response),) = world.answer(None)
    assert response.code == 401
    assert world.dropped == [(1, "too many refused credentials")]
    assert world.relay.waiting == 0


def test_number_of_waiting_logins_is_limited() -> None:
    world = late_world(limits=MsrpLimits(max_transactions_per_connection=2))
    first = log_in(world)
    log_in(world)
    client = Client(world, 1, "alice")
    assert client.auth().code == 408
    world.do(world.relay.connection_closed(1, world.now))
    world.answer(LATE_ALICE)
    assert first
    world = late_world(limits=MsrpLimits(max_transactions=2, max_transactions_per_connection=1))
    world.do(world.relay.connection_opened(2, world.now))
    log_in(world)
    server = world.relay.authenticator
    assert server is not None
    proof = credentials_for(server.challenges(world.now)[0], "alice", "a-secret")
    assert Client(world, 2, "alice").auth(credentials=proof).code == 408
    assert len(world.questions) == 1


@given(st.lists(st.sampled_from(["send", "answer", "last", "wait", "lose"]), max_size=30))
def test_each_auth_is_answered_once_and_in_order(steps: list[str]) -> None:
    world = late_world(authentication_timeout=None)
    waiting: list[bytes] = []
    for step in [*steps, "wait"]:
        taken: list[tuple[bytes, int]] = []
        if step == "send":
            waiting.append(log_in(world))
        elif step == "wait":
            world.now += 5.0
            world.do(world.relay.handle_timeout(world.now))
            taken = fates(world.responses())
        elif step == "lose":
            world.do(world.relay.connection_closed(1, world.now))
            world.do(world.relay.connection_opened(1, world.now))
            waiting.clear()
        elif world.questions:
            number = max(world.questions) if step == "last" else min(world.questions)
            taken = fates(world.answer(LATE_ALICE, number))
        for tid, code in taken:
            assert tid == waiting.pop(0)
            assert code in (200, 408)
        assert world.relay.waiting == len(waiting)
    assert world.relay.waiting == 0

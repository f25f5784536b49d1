"""Requests that wait for an answer: their order, their bounds, and how they are given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.sip._location import Location, NodeWorld
from tests.sip._phones import CORE, SDP, UPSTREAM, Phone, World, call, entropy
from wsproto_sip.auth import (
    LATER,
    Account,
    AccountQuestion,
    Identity,
    Later,
    Throttle,
    Unavailable,
)
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import SipRequest, parse_message
from wsproto_sip.sip.edge.actions import EdgeAction, SendToConnection
from wsproto_sip.sip.edge.config import ChallengeScope
from wsproto_sip.sip.edge.hook import HookRequest
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

ALICE = Account(Identity("alice"), "wonderland")
BOB = "sip:bob@sip.test"


def late_world(kind: type[World] = World, **options: object) -> tuple[World, Phone, Phone]:
    """Alice, whose password is kept elsewhere, and bob."""
    throttle = options.pop("throttle", None)
    world = kind(challenge=ChallengeScope.ALL, **options)  # type: ignore[arg-type]
    bob = world.phone("bob")
    world.edge.authenticator = DigestAuthenticator(
        "sip.test",
        lambda name: LATER,
        throttle=throttle,  # type: ignore[arg-type]
        entropy=entropy(),
    )
    return world, world.phone("alice", password="wonderland", registers=False), bob


def attempt(
    alice: Phone, method: str = "MESSAGE", *, password: str = "wonderland", **options: object
) -> SipRequest:
    """Send a request with credentials, which has to wait."""
    alice.send(method, BOB)
    alice.password = password
    proof = alice.credentials(alice.response(407), method, BOB)
    return alice.send(method, BOB, proof, cseq=2, **options)


def asked(world: World) -> list[str]:
    names = []
    for question in world.questions.values():
        assert isinstance(question, AccountQuestion)
        names.append(question.username)
    return names


def test_a_request_goes_on_when_the_answer_comes() -> None:
    world, alice, bob = late_world()
    attempt(alice)
    assert asked(world) == ["alice"]
    assert (world.edge.waiting, world.edge.transactions) == (1, 0)
    assert world.quiet()
    world.answer(ALICE)
    bob.answer(bob.request("MESSAGE"), 200)
    alice.response(200)
    assert world.edge.waiting == 0
    # What was proven is remembered as ever, and a number is answered once.
    assert world.edge.answer(1, ALICE, world.now) == []
    assert world.quiet()


def test_an_unknown_user_and_a_wrong_password_are_challenged_again() -> None:
    world, alice, _ = late_world()
    for answer in (None, Account(Identity("alice"), "looking-glass")):
        attempt(alice)
        world.answer(answer)
        alice.response(407)
    assert world.quiet()


def test_without_an_answer_in_time_there_is_a_503_with_a_time() -> None:
    throttle = Throttle()
    world, alice, _ = late_world(throttle=throttle, answer_timeout=3.0)
    attempt(alice)
    assert world.edge.next_deadline() == world.now + 3.0
    world.wait(2.9)
    assert world.quiet()
    world.wait(0.1)
    assert alice.response(503).get("retry-after") == "5"
    assert world.edge.waiting == 0
    # It does not count as a guess.
    assert not throttle.counts
    number = min(world.questions)
    assert world.edge.answer(number, ALICE, world.now) == []


def test_an_unavailable_source_gives_503_with_retry_after() -> None:
    world, alice, _ = late_world()
    attempt(alice)
    world.answer(Unavailable("no database", 30))
    assert alice.response(503).get("retry-after") == "30"


def test_an_answer_of_another_form_is_reported_and_gets_500() -> None:
    world, alice, _ = late_world()
    attempt(alice)
    world.answer("wonderland")
    alice.response(500)
    (failure,) = world.failures
    assert failure.method == "MESSAGE"
    assert str(failure.error) == "the answer must be an Account or None, not str"
    assert world.edge.hook_errors == 1


def test_requests_of_a_connection_keep_their_order() -> None:
    world, alice, bob = late_world()
    attempt(alice, body=b"1")
    for number in range(2, 5):
        alice.send("MESSAGE", BOB, body=b"%d" % number)
    assert (world.edge.waiting, len(world.questions)) == (4, 1)
    # A connection that waits holds up no other.
    assert bob.ask("OPTIONS", "sip:sip.test").status == 407
    world.answer(ALICE)
    assert bob.request("MESSAGE").body == b"1"
    # The others have no credentials, and are answered in their turn.
    assert [alice.response(407).cseq.number for _ in range(3)] == [1, 1, 1]
    assert world.edge.waiting == 0
    assert world.quiet()


def test_a_question_may_have_a_deadline_of_its_own() -> None:
    world, location = NodeWorld(), Location()
    alice = Phone(world, "alice", registers=False)
    for _ in range(3):
        alice.send("INVITE", BOB)
    assert world.edge.next_deadline() == world.now + 2.0
    world.wait(2.0)
    # The others have their turn, and wait no longer in all than a request may.
    alice.response(100)
    alice.response(480)
    alice.response(100)
    world.wait(2.0)
    alice.response(480)
    alice.response(100)
    assert world.edge.next_deadline() == world.now + 1.0
    world.obey(location)
    alice.response(404)


def test_the_next_request_asks_when_it_has_its_turn() -> None:
    world, alice, bob = late_world()
    alice.send("MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    proofs = [alice.credentials(alice.response(407), "MESSAGE", BOB) for _ in range(2)]
    for number, proof in enumerate(proofs):
        alice.send("MESSAGE", BOB, proof, body=b"%d" % number)
    alice.send("MESSAGE", BOB, body=b"last")
    for number in range(2):
        assert len(world.questions) == 1
        world.answer(ALICE)
        assert bob.request("MESSAGE").body == b"%d" % number
    alice.response(407)
    assert world.quiet()


def test_waiting_for_others_counts_for_the_deadline() -> None:
    world, alice, _ = late_world(answer_timeout=5.0)
    alice.send("MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    proofs = [alice.credentials(alice.response(407), "MESSAGE", BOB) for _ in range(2)]
    for proof in proofs:
        alice.send("MESSAGE", BOB, proof)
    world.wait(5.0)
    # The second is not asked about any more.
    assert len(world.questions) == 1
    assert [alice.response(503).status for _ in range(2)] == [503, 503]
    assert world.edge.waiting == 0
    assert world.quiet()


def test_a_repeated_request_waits_once() -> None:
    world, alice, bob = late_world()
    request = attempt(alice)
    alice.say(request)
    assert world.edge.waiting == 1
    world.answer(ALICE)
    bob.request("MESSAGE")
    assert world.quiet()


def test_malformed_requests_are_refused_at_once() -> None:
    world, alice, _ = late_world()
    attempt(alice)
    bad = alice.make("MESSAGE", BOB)
    bad.replace_header("CSeq", "x")
    alice.say(bad)
    alice.response(400)
    assert world.edge.waiting == 1


@pytest.mark.parametrize("turn", [False, True])
def test_a_waiting_call_is_cancelled(turn: bool) -> None:
    world, alice, bob = late_world()
    if turn:
        attempt(alice)
        invite = alice.send("INVITE", BOB, body=SDP)
    else:
        invite = attempt(alice, "INVITE", body=SDP)
    alice.follow("CANCEL", invite)
    cancelled = alice.response(200)
    assert cancelled.cseq.method == "CANCEL"
    refused = alice.response(487)
    assert refused.cseq.method == "INVITE"
    alice.follow("ACK", invite, to=str(refused.to))
    assert world.edge.waiting == turn
    # The next one does not wait for its answer.
    alice.send("OPTIONS", "sip:sip.test")
    if not turn:
        alice.response(407)
    world.answer(ALICE)
    if turn:
        bob.request("MESSAGE")
        alice.response(407)
    assert world.quiet()
    alice.follow("CANCEL", invite)
    alice.response(481)


def test_acks_and_responses_do_not_wait() -> None:
    world, alice, bob = late_world()
    world.edge.authenticator, kept = None, world.edge.authenticator
    alice.register()
    here, _ = call(alice, bob)
    bob.send("MESSAGE", alice.aor)
    incoming = alice.request("MESSAGE")
    world.edge.authenticator = kept
    attempt(alice)
    here.send("ACK")
    bob.request("ACK")
    alice.answer(incoming, 200)
    bob.response(200)
    here.send("BYE")
    assert world.edge.waiting == 2
    world.answer(ALICE)
    bob.request("MESSAGE")
    bob.request("BYE")
    assert world.quiet()


def test_waiting_requests_end_with_their_connection() -> None:
    throttle = Throttle()
    world, alice, _ = late_world(throttle=throttle)
    attempt(alice, password="guess")
    alice.send("MESSAGE", BOB)
    alice.hang_up()
    assert world.edge.waiting == 0
    assert world.quiet()
    # The check ends all the same: it was a guess.
    world.answer(ALICE)
    assert sum(throttle.counts.values()) == 1
    assert world.quiet()


def test_a_question_of_a_lost_connection_ends_with_its_deadline() -> None:
    world, alice, _ = late_world()
    attempt(alice)
    alice.hang_up()
    assert world.edge.next_deadline() == world.now + 5
    world.wait(5)
    assert world.edge._parking.questions == 0
    assert world.edge.refused == {}


def test_an_answer_of_another_form_for_a_lost_connection_is_reported_too() -> None:
    world, alice, _ = late_world()
    attempt(alice)
    alice.hang_up()
    world.answer("wonderland")
    assert len(world.failures) == 1


def test_waiting_requests_count_as_pending() -> None:
    share = ShareConfig(4, reserve=0, per_connection=2)
    throttle = Throttle()
    world, alice, _ = late_world(transactions=share, throttle=throttle)
    attempt(alice)
    alice.send("MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    refused = alice.response(503)
    assert refused.get("retry-after") == "5"
    assert world.edge.waiting == 2
    assert sum(world.edge.refused.values()) == 1
    world.answer(ALICE)
    world.wait(40)
    assert world.edge.waiting == world.edge.transactions == 0


def test_there_may_be_no_room_to_ask() -> None:
    throttle = Throttle()
    world, alice, bob = late_world(
        transactions=ShareConfig(2, reserve=0, per_connection=1), throttle=throttle
    )
    world.edge.authenticator, kept = None, world.edge.authenticator
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")
    world.edge.authenticator = kept
    attempt(alice)
    assert alice.response(503).get("retry-after") == "5"
    assert world.questions == {}
    assert not throttle.counts


def later(asked: HookRequest) -> Later:
    return LATER


def from_core(method: str, call_id: str, number: int, phone: Phone) -> SipRequest:
    route = f"<sip:{world_token(phone)}@192.0.2.100:5080;lr>"
    return SipRequest(
        method,
        phone.contact,
        [
            ("Via", f"SIP/2.0/UDP {CORE.host};branch=z9hG4bK{call_id}{number}"),
            ("Max-Forwards", "70"),
            ("Route", route),
            ("From", "<sip:carol@sip.test>;tag=c"),
            ("To", f"<{phone.contact}>"),
            ("Call-ID", call_id),
            ("CSeq", f"{number} {method}"),
        ],
    )


def world_token(phone: Phone) -> str:
    connection = phone.world.edge._connections.get(phone.cid)
    assert connection is not None
    return phone.world.edge._tokens.make(connection.flow)


def test_a_call_of_the_upstream_waits_for_itself_alone() -> None:
    world = World(upstream=UPSTREAM, hook=later)
    alice = world.phone("alice", registers=False)
    for call_id, number in (("a", 1), ("b", 1), ("a", 2)):
        world.from_upstream(from_core("MESSAGE", call_id, number, alice))
    assert (world.edge.waiting, len(world.questions)) == (3, 2)
    # What it sends again waits already.
    world.from_upstream(from_core("MESSAGE", "a", 1, alice))
    assert world.edge.waiting == 3
    world.answer(None, 2)
    assert alice.request("MESSAGE").call_id == "b"
    world.answer(None)
    assert alice.request("MESSAGE").call_id == "a"
    world.wait(5)
    refused = world.upstream_response()
    assert (refused.status, refused.cseq.number) == (503, 2)
    assert world.links == [0]


# -- a source that answers late, in another order, or never ----------------------------------------


class Witness(World):
    """Notes what has become of each request: whether it went on, or how it was refused."""

    def __init__(self, **options: object) -> None:
        self.fates: list[tuple[str, int | None]] = []
        super().__init__(**options)  # type: ignore[arg-type]

    def do(self, actions: Sequence[EdgeAction]) -> None:
        for action in actions:
            if isinstance(action, SendToConnection):
                message = parse_message(action.data)
                if isinstance(message, SipRequest):
                    self.fates.append((message.call_id, None))
                elif message.status != 200:
                    self.fates.append((message.call_id, message.status))
        super().do(actions)


@dataclass
class Sent:
    """A request that alice has sent with credentials or without."""

    request: SipRequest
    proof: bool
    came: float


@dataclass
class Line:
    """One connection, and what was sent on it and has no answer."""

    phone: Phone
    proofs: list[tuple[str, str]] = field(default_factory=list)
    open: list[Sent] = field(default_factory=list)


class LateSource(RuleBasedStateMachine):
    """Whatever the source does, each request is answered once, in its order, and in time."""

    def __init__(self) -> None:
        super().__init__()
        world, alice, self.bob = late_world(Witness)
        assert isinstance(world, Witness)
        self.world = world
        self.lines = [Line(alice)]
        self.lines.append(Line(self.world.phone("alice", password="wonderland", registers=False)))
        self.numbers = 0

    @rule(line=st.integers(0, 1))
    def get_a_challenge(self, line: int) -> None:
        # A connection of its own, so that it does not wait.
        spare = self.world.phone("alice", password="wonderland", registers=False)
        spare.send("MESSAGE", BOB)
        self.lines[line].proofs.append(spare.credentials(spare.response(407), "MESSAGE", BOB))
        spare.hang_up()

    @rule(line=st.integers(0, 1), with_proof=st.booleans())
    def send(self, line: int, with_proof: bool) -> None:
        one = self.lines[line]
        self.numbers += 1
        body = b"%d" % self.numbers
        fields = [one.proofs.pop()] if with_proof and one.proofs else []
        request = one.phone.make("MESSAGE", BOB, *fields, body=body)
        one.open.append(Sent(request, bool(fields), self.world.now))
        one.phone.say(request)
        self.take()

    @precondition(lambda self: self.world.questions)
    @rule(data=st.data(), right=st.sampled_from([ALICE, None, Unavailable("down")]))
    def answer(self, data: st.DataObject, right: object) -> None:
        number = data.draw(st.sampled_from(sorted(self.world.questions)))
        self.world.answer(right, number)
        self.take()

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)
        self.take()

    @precondition(lambda self: any(line.open for line in self.lines))
    @rule(data=st.data())
    def lose_a_connection(self, data: st.DataObject) -> None:
        line = data.draw(st.integers(0, 1))
        self.lines[line].phone.hang_up()
        self.lines[line] = Line(
            self.world.phone("alice", password="wonderland", registers=False),
            self.lines[line].proofs,
        )

    def take(self) -> None:
        """Match what has become of requests with what was sent."""
        while self.bob.heard:
            self.bob.answer(self.bob.request("MESSAGE"), 200)
        for call_id, status in self.world.fates:
            for line in self.lines:
                if call_id in [sent.request.call_id for sent in line.open]:
                    # In their order, and each once.
                    sent = line.open.pop(0)
                    assert sent.request.call_id == call_id
                    assert status == 407 or sent.proof
                    assert status in (None, 407, 503)
        self.world.fates.clear()
        for phone in self.world.phones.values():
            phone.heard.clear()

    @invariant()
    def nothing_waits_too_long(self) -> None:
        edge, now = self.world.edge, self.world.now
        assert edge.waiting == sum(len(line.open) for line in self.lines)
        for line in self.lines:
            assert all(now - sent.came < 5.0 for sent in line.open)

    def teardown(self) -> None:
        self.world.wait(60)
        self.take()
        assert not any(line.open for line in self.lines)
        edge = self.world.edge
        assert (edge.waiting, edge.transactions) == (0, 0)
        # Nothing is held any more.
        assert len(edge._forwarder.transactions) == len(edge._forwarder.pending_bytes) == 0
        assert edge._parking.questions == 0


LateSource.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLateSource = LateSource.TestCase

"""Requests over several upstreams that answer, refuse, fall silent and come back in any order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sip._phones import UPSTREAM, Phone, World
from wsproto_sip.sip import SipRequest, SipResponse
from wsproto_sip.sip.edge.config import Upstream
from wsproto_sip.sip.edge.transactions import State
from wsproto_sip.sip.edge.upstreams import Health

NAMES = ("a", "b", "c")
NAME = st.sampled_from(NAMES)
PICK = st.integers(0, 10)


class Failover(RuleBasedStateMachine):
    """Three upstreams and a client, whose requests have to have one final response each."""

    @initialize(
        transports=st.tuples(*[st.sampled_from(["udp", "tcp"])] * 3),
        priorities=st.tuples(*[st.integers(0, 1)] * 3),
    )
    def begin(self, transports: tuple[str, ...], priorities: tuple[int, ...]) -> None:
        upstreams: list[Upstream] = [
            replace(
                UPSTREAM,
                name=name,
                host=f"192.0.2.{201 + index}",
                transport=transports[index],
                priority=priorities[index],
            )
            for index, name in enumerate(NAMES)
        ]
        self.world = World(upstreams=tuple(upstreams))
        self.alice: Phone = self.world.phone("alice", registers=False)
        #: Requests by upstream that could be answered, OPTIONS too.
        self.got: dict[str, list[SipRequest]] = {name: [] for name in NAMES}
        #: Final responses that came, by Call-ID, and the statuses that upstreams have sent.
        self.finals: dict[str, list[int]] = defaultdict(list)
        self.begun: list[SipRequest] = []
        self.ended: set[str] = set()
        #: The branches that each transaction has had, by upstream.
        self.branches: dict[str, dict[str, str]] = defaultdict(dict)

    def take(self) -> None:
        """Note what was sent on both sides."""
        sent, self.world.all_sent = self.world.all_sent, []
        self.world.upstream.clear()
        for name, message in sent:
            if not isinstance(message, SipRequest) or message.method in ("ACK", "CANCEL"):
                continue
            if message.method != "OPTIONS":
                branch = message.via.branch or ""
                known = self.branches[message.call_id].setdefault(name, branch)
                # To each upstream it goes once; what comes again is a retransmission.
                assert known == branch
            self.got[name].append(message)
        for heard in self.alice.heard:
            assert isinstance(heard, SipResponse)
            if heard.status >= 200:
                self.finals[heard.call_id].append(heard.status)
        self.alice.heard.clear()

    def best(self) -> set[str]:
        """Return the upstreams of which one has to be chosen."""
        upstreams = self.world.edge._upstreams
        living = [item for item in upstreams if upstreams.health(item.name) is not Health.DEAD]
        among = living or list(upstreams)
        lowest = min(item.priority for item in among)
        return {item.name for item in among if item.priority == lowest}

    @rule(method=st.sampled_from(["INVITE", "MESSAGE"]))
    def ask(self, method: str) -> None:
        self.take()
        best = self.best()
        self.begun.append(self.alice.send(method, "sip:bob@sip.test", body=b"body"))
        call_id = self.begun[-1].call_id
        sent = [
            (name, message)
            for name, message in self.world.all_sent
            if isinstance(message, SipRequest) and message.call_id == call_id
        ]
        ((name, request),) = sent
        assert name in best
        assert request.body == b"body"

    @rule(name=NAME, pick=PICK, status=st.sampled_from([100, 180, 200, 404, 486, 500, 503, 603]))
    def answer(self, name: str, pick: int, status: int) -> None:
        self.take()
        if self.got[name]:
            request = self.got[name][pick % len(self.got[name])]
            response = request.make_response(status, to_tag=f"{name}{pick}")
            self.world.from_upstream(response, upstream=name)

    @rule(name=NAME)
    def cut_off(self, name: str) -> None:
        upstream = self.world.edge._upstreams.get(name)
        assert upstream is not None
        world = self.world
        world.do(world.edge.upstream_failed(world.now, upstream=name, link=upstream.link))

    @rule(name=NAME)
    def connect(self, name: str) -> None:
        self.world.do(self.world.edge.upstream_opened(name, self.world.now))

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.0, 5.0, 11.0, 33.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(pick=PICK)
    def give_up(self, pick: int) -> None:
        invites = [request for request in self.begun if request.method == "INVITE"]
        if invites:
            invite = invites[pick % len(invites)]
            cancel = self.alice.make("CANCEL", "sip:bob@sip.test", call_id=invite.call_id)
            cancel.replace_header("Via", str(invite.via))
            self.alice.say(cancel)
            # Its own answer is none to the call.
            self.alice.heard = [
                message
                for message in self.alice.heard
                if not isinstance(message, SipResponse) or message.cseq.method != "CANCEL"
            ]

    @invariant()
    def one_at_a_time(self) -> None:
        for transaction in self.world.edge._forwarder._table._by_serial.values():
            waiting = [branch for branch in transaction.pending if branch.upstream]
            assert len(waiting) <= 1
            tried = [branch.upstream for branch in transaction.branches]
            assert len(tried) == len(set(tried)) == len(transaction.tried)
            if transaction.state is State.PROCEEDING:
                assert waiting

    @invariant()
    def one_final_response(self) -> None:
        self.take()
        for statuses in self.finals.values():
            # More than one 2xx to an INVITE is a call that was answered twice (RFC 6026).
            refusals = [status for status in statuses if status >= 300]
            assert len(refusals) <= 1
            if refusals:
                assert statuses[0] == refusals[0]

    def teardown(self) -> None:
        """Stop answering: everything ends, and every INVITE has its final response."""
        if not hasattr(self, "world"):
            return
        self.world.wait(400.0)
        self.take()
        for request in self.begun:
            if request.method == "INVITE":
                assert self.finals[request.call_id]
        assert not self.world.edge.transactions


TestFailover = Failover.TestCase
TestFailover.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("number", [1, 3])
def test_where_every_upstream_hangs_an_invite_gets_408_in_its_time(
    transport: str, number: int
) -> None:
    """Timer B (RFC 3261 §17.1.1.2); a MESSAGE gets nothing (RFC 4320 §4.2), and nothing is left."""
    upstreams = tuple(
        replace(UPSTREAM, name=name, host=f"192.0.2.{201 + index}", transport=transport)
        for index, name in enumerate(NAMES[:number])
    )
    world = World(upstreams=upstreams)
    alice, bob = [world.phone(name, registers=False) for name in ("alice", "bob")]
    alice.send("INVITE", "sip:carol@sip.test", body=b"body")
    alice.send("MESSAGE", "sip:carol@sip.test", body=b"body")
    alice.response(100)
    world.wait(31.0)
    assert not alice.heard
    # What needs no upstream is answered meanwhile.
    assert bob.ask("OPTIONS", "sip:edge.test:8080").status == 200
    tried = {name for name, message in world.all_sent if isinstance(message, SipRequest)}
    assert tried == set(NAMES[:number])
    world.wait(2.0)
    alice.response(408)
    assert not alice.heard
    # The client did not acknowledge it: Timer H (§17.2.1).
    world.wait(32.0)
    assert not world.edge.transactions

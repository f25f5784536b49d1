from __future__ import annotations

from math import inf

import pytest

from wsproto_sip.server.shares import Claim, Party, ShareConfig, Shares
from wsproto_sip.sip.edge.actions import SendToUpstream
from wsproto_sip.sip.edge.callees import CalleeClaim, Callees
from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM
from wsproto_sip.sip.edge.forking import Target
from wsproto_sip.sip.edge.transactions import (
    BRANCH_STEPS,
    TRANSACTION_STEPS,
    Branch,
    Resend,
    State,
    Step,
    Transaction,
    TransactionTable,
    key_of,
)
from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.rules.outbound import Flow

ONE, TWO = Flow(1, 1), Flow(2, 1)


def request(method: str = "INVITE", *, branch: str = "z9hG4bK1", **changed: str) -> SipRequest:
    fields = {
        "via": f"SIP/2.0/WS X.invalid;branch={branch}",
        "from": "<sip:a@sip.test>;tag=1",
        "to": "<sip:b@sip.test>",
        "call-id": "c",
        "cseq": f"1 {method}",
    }
    return SipRequest(method, "sip:b@sip.test", list((fields | changed).items()))


def transaction(
    method: str = "INVITE", origin: Flow | None = ONE, *, branch: str = "z9hG4bK1"
) -> Transaction:
    made = request(method, branch=branch)
    return Transaction(key_of(made, origin), made, "base")


def branch(owner: Transaction, name: str = "b", flow: Flow | None = TWO) -> Branch:
    return Branch(name, Target(flow), owner.request, owner, 40.0)


def test_names() -> None:
    invite = key_of(request(), ONE)
    assert key_of(request("ACK"), ONE) == key_of(request("CANCEL"), ONE) == invite
    assert key_of(request(via="SIP/2.0/WSS x.INVALID;branch=z9hG4bK1"), ONE) == invite
    others = [
        key_of(request(), TWO),
        key_of(request(), None),
        key_of(request("INFO"), ONE),
        key_of(request(branch="z9hG4bK2"), ONE),
        key_of(request(via="SIP/2.0/WS x.invalid:80;branch=z9hG4bK1"), ONE),
        key_of(request(via="SIP/2.0/WS x.invalid"), ONE),
        key_of(request(**{"call-id": "d"}), ONE),
        key_of(request(cseq="2 INVITE"), ONE),
    ]
    assert len({invite, *others}) == 9
    with pytest.raises(SipParseError):
        key_of(request(cseq="x"), ONE)


ACTION = SendToUpstream("core", b"x")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_steps_follow_the_tables_and_others_change_nothing(state: State, step: Step) -> None:
    owner = transaction()
    for one, table in ((owner, TRANSACTION_STEPS), (branch(owner), BRANCH_STEPS)):
        one.state = state
        assert one.step(step) is ((state, step) in table)
        assert one.state is table.get((state, step), state)


def test_sending_again_slows_down() -> None:
    resend = Resend(ACTION, 0.5, 0.5, 4.0)
    times = []
    for _ in range(6):
        times.append(resend.at)
        assert resend.again(resend.at) is ACTION
    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5]
    endless = Resend(ACTION, 0.5, 0.5)
    intervals = []
    for _ in range(5):
        endless.again(0.0)
        intervals.append(endless.at)
    assert intervals == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_deadlines() -> None:
    one = transaction()
    assert (one.origin, one.is_invite, one.next(), one.pending) == (ONE, True, inf, [])
    assert not transaction("INFO").is_invite
    first, second = branch(one), branch(one, "b2")
    one.branches += [first, second]
    assert one.pending == [first, second]
    assert one.next() == 40.0
    second.resend = Resend(ACTION, 7.0, 0.5)
    assert one.next() == 7.0
    first.state = State.COMPLETED
    assert (one.pending, first.next()) == ([second], inf)
    second.state = State.ACCEPTED
    assert second.next() == 7.0
    second.resend = None
    assert (one.pending, one.next()) == ([], inf)
    one.deadline = 9.0
    one.resend = Resend(ACTION, 8.0, 0.5)
    assert one.next() == 8.0
    one.resend = None
    assert one.next() == 9.0


def test_the_table_finds_by_name_branch_and_flow() -> None:
    table = TransactionTable()
    one, two = transaction(), transaction(origin=None, branch="z9hG4bK2")
    for each in (one, two):
        table.add(each)
    table.add_branch(first := branch(one))
    table.add_branch(second := branch(one, "b2"))
    table.add_branch(third := branch(two, "b3", None))
    assert len(table) == 2
    assert (table.page(0, 1), table.page(1, 9)) == ([one], [two])
    assert table.find(one.key) is one
    assert table.find(key_of(request(), TWO)) is None
    assert table.branch("b", TWO) is first
    assert table.branch("b2", TWO) is second
    assert table.branch("b3", None) is third
    # A branch is found on its own flow alone.
    assert table.branch("b", ONE) is None
    assert table.branch("b", None) is None
    assert table.branch("nothing", TWO) is None
    assert table.came_from(ONE) == [one]
    assert table.came_from(TWO) == []
    assert table.went_to(TWO) == [one]
    assert table.went_to(None) == [two]
    table.remove(one)
    table.remove(one)
    assert len(table) == 1
    assert table.find(one.key) is None
    assert table.branch("b", TWO) is None
    assert table.came_from(ONE) == table.went_to(TWO) == []
    table.remove(two)
    assert len(table) == 0
    assert table.went_to(None) == []


def test_what_a_transaction_costs_is_given_back_once() -> None:
    shares, table = Shares(ShareConfig(10)), TransactionTable()
    claim = shares.claim(Party.user("alice"), 3)
    assert isinstance(claim, Claim)
    one = transaction()
    one.claims = (claim,)
    table.add(one)
    assert shares.held == 3
    table.remove(one)
    table.remove(one)
    assert shares.held == 0


def test_flows_are_forgotten_with_their_last_transaction() -> None:
    table = TransactionTable()
    one, two = transaction(), transaction(branch="z9hG4bK2")
    table.add(one)
    table.add(two)
    table.remove(one)
    assert table.came_from(ONE) == [two]


def test_timers() -> None:
    table = TransactionTable()
    one, two = transaction(), transaction(branch="z9hG4bK2")
    table.add(one)
    table.add(two)
    table.arm(one)
    assert table.next_deadline() is None
    one.deadline, two.deadline = 20.0, 10.0
    table.arm(one)
    table.arm(two)
    assert table.next_deadline() == 10.0
    assert table.due(9.0) == []
    assert table.due(20.0) == [two, one]
    assert table.due(20.0) == []
    table.arm(one)
    table.remove(one)
    assert table.next_deadline() is None


def test_datagrams_may_be_lost() -> None:
    invite = transaction()
    copy = branch(invite)
    assert not invite.lossy
    assert not copy.lossy
    invite.link = copy.link = DATAGRAMS
    assert invite.lossy
    assert copy.lossy
    invite.link = copy.link = STREAM
    assert not invite.lossy
    assert not copy.lossy


def test_each_2xx_is_owed_one_ack() -> None:
    table = TransactionTable()
    invite = transaction()
    callees = Callees(ShareConfig(9), ShareConfig(9, reserve=0))
    claim = callees.claim("bob", Party.stranger("192.0.2.1"))
    assert isinstance(claim, CalleeClaim)
    invite.waiting = (claim,)
    table.add(invite)
    ack = key_of(request("ACK", branch="z9hG4bK2"), ONE)
    assert not table.take_ack(ack)
    table.expect_ack(invite)
    assert not table.take_ack(key_of(request("ACK", branch="z9hG4bK2"), TWO))
    assert table.take_ack(ack)
    assert not table.take_ack(ack)
    table.expect_ack(invite)
    table.remove(invite)
    assert not table.take_ack(ack)
    assert len(callees) == 0

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.registrar.store import Binding, MemoryStore, Node, NotAsked, contact_name
from wsproto_sip.sip.rules.outbound import Flow, OutboundBinding


def binding(
    expires_at: float = 100.0, *, flow: Flow | None = None, gruu: int = 0, user: str = "x"
) -> Binding:
    contact = NameAddr.parse(f"<sip:{user}@y.invalid;transport=ws>;q=0.5")
    return Binding(contact, expires_at, "call", 1, 0.0, flow=flow, gruu=gruu)


ONE, TWO = Flow(1, 1), Flow(2, 1)


def test_a_binding_leads_to_its_contact() -> None:
    assert str(binding().uri) == "sip:x@y.invalid;transport=ws"


def test_a_binding_is_identified_by_contact_or_by_instance_and_reg_id() -> None:
    assert binding().name == SipUri.parse("sip:%78@Y.invalid;transport=ws")
    outbound = OutboundBinding("urn:uuid:1", 2)
    assert replace(binding(), outbound=outbound).name == outbound


@pytest.mark.parametrize(("name", "boot"), [("", "1"), ("a", "")])
def test_a_node_has_a_name_and_a_boot(name: str, boot: str) -> None:
    assert Node("a", "1") != Node("a", "2")
    with pytest.raises(ValueError, match="a name and a boot"):
        Node(name, boot)


def test_a_question_that_was_not_sent_is_unavailable() -> None:
    assert isinstance(NotAsked("too much waits"), Unavailable)


def test_bindings_are_changed_one_by_one() -> None:
    store = MemoryStore()
    assert (len(store), store.get("a"), store.next_expiry()) == (0, (), None)
    first, second = binding(50.0), binding(40.0, user="z")
    store.change("a", (), [first])
    store.change("a", (), [second])
    assert store.get("a") == (first, second)
    assert (len(store), store.next_expiry()) == (1, 40.0)
    newer = binding(60.0)
    store.change("a", [first], [newer])
    assert store.get("a") == (second, newer)
    store.change("a", [second], [])
    assert store.get("a") == (newer,)
    assert store.next_expiry() == 60.0
    store.change("a", [newer], [])
    assert (len(store), store.get("a"), store.next_expiry()) == (0, (), None)


def test_each_change_gives_another_version() -> None:
    store = MemoryStore()
    first, second = binding(), binding(user="z")
    assert store.version("a") == 0
    versions = [
        store.change("a", (), [first]),
        store.change("b", (), [first]),
        store.change("a", (), [second]),
        store.change("a", (), ()),
    ]
    assert versions == [1, 2, 3, 4]
    assert store.version("a") == 4
    assert store.change("a", [first, second], ()) == store.version("a") == 0
    # An address that comes again has no version of its earlier life.
    assert store.change("a", (), [first]) == 5


def test_pages_of_addresses() -> None:
    store = MemoryStore()
    for name in "abcd":
        store.change(name, (), [binding()])
    store.change("a", store.get("a"), [binding()])
    assert [store.page(0, 2), store.page(2, 9), store.page(9, 1)] == [["b", "c"], ["d", "a"], []]


def test_flows_are_found_until_nothing_is_left_on_them() -> None:
    store = MemoryStore()
    one, other = binding(flow=ONE), binding(flow=ONE)
    store.change("a", (), [one, other, binding(flow=TWO), binding()])
    store.change("b", (), [binding(flow=ONE)])
    assert store.with_flow(ONE) == ["a", "b"]
    assert store.with_flow(TWO) == ["a"]
    store.change("a", [one], ())
    assert sorted(store.with_flow(ONE)) == ["a", "b"]
    store.change("a", [other], ())
    assert store.with_flow(ONE) == ["b"]
    for name in "ab":
        store.change(name, store.get(name), ())
    assert store.with_flow(ONE) == store.with_flow(TWO) == []


def test_temporary_gruus_are_found() -> None:
    store = MemoryStore()
    store.change("a", (), [binding(gruu=7), binding(gruu=7)])
    store.change("b", (), [binding()])
    assert store.with_gruu(7) == "a"
    assert store.with_gruu(0) is None
    first, second = store.get("a")
    store.change("a", [first], ())
    assert store.with_gruu(7) == "a"
    store.change("a", [second], [binding(gruu=8)])
    assert (store.with_gruu(7), store.with_gruu(8)) == (None, "a")


def test_expiry_is_reported_once() -> None:
    store = MemoryStore()
    store.change("a", (), [binding(10.0), binding(20.0)])
    store.change("b", (), [binding(15.0)])
    assert store.due(9.0) == []
    assert store.due(15.0) == ["a", "b"]
    assert store.due(15.0) == []
    store.change("a", store.get("a")[:1], ())
    assert store.next_expiry() == 20.0


def test_addresses_by_contact() -> None:
    store = MemoryStore()
    one, two = binding(), replace(binding(), contact=NameAddr.parse("<sip:%78@Y.invalid:5;ob>"))
    assert contact_name(one.uri) == "x@y.invalid:None"
    store.change("alice", (), [one, two])
    store.change("bob", (), [one])
    assert store.with_contact("x@y.invalid:None") == ["alice", "bob"]
    assert store.with_contact("x@y.invalid:5") == ["alice"]
    store.change("alice", [two], [binding()])
    assert store.with_contact("x@y.invalid:5") == []
    store.change("bob", store.get("bob"), ())
    store.change("alice", store.get("alice"), ())
    assert store.with_contact("x@y.invalid:None") == []


class Indexes(RuleBasedStateMachine):
    """Whatever is changed, every index says what looking at all bindings says."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()

    @rule(
        aor=st.sampled_from("ab"),
        flow=st.sampled_from([ONE, TWO, None]),
        user=st.sampled_from("xy"),
        gruu=st.booleans(),
        gone=st.sets(st.integers(0, 3)),
        come=st.integers(0, 2),
    )
    def change(
        self, aor: str, flow: Flow | None, user: str, gruu: bool, gone: set[int], come: int
    ) -> None:
        before = self.store.get(aor)
        drop = [each for index, each in enumerate(before) if index in gone]
        number = (1 if aor == "a" else 2) * gruu
        put = [binding(flow=flow, user=user, gruu=number) for _ in range(come)]
        version = self.store.change(aor, drop, put)
        assert (version == 0) == (not self.store.get(aor))
        assert version == self.store.version(aor)

    @invariant()
    def the_same(self) -> None:
        store = self.store
        held = [(aor, each) for aor in "ab" for each in store.get(aor)]
        for flow in (ONE, TWO):
            assert set(store.with_flow(flow)) == {aor for aor, each in held if each.flow == flow}
        for user in "xy":
            name = contact_name(binding(user=user).uri)
            having = {aor for aor, each in held if contact_name(each.uri) == name}
            assert set(store.with_contact(name)) == having
        for number in (1, 2):
            aors = {aor for aor, each in held if each.gruu == number}
            assert store.with_gruu(number) == (min(aors) if aors else None)
        assert len(store) == len({aor for aor, _ in held})


Indexes.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
TestIndexes = Indexes.TestCase

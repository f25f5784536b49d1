from __future__ import annotations

from wsproto_sip.sip.address import NameAddr
from wsproto_sip.sip.outbound import Flow
from wsproto_sip.sip.store import Binding, BindingStore, MemoryStore


def binding(
    expires_at: float = 100.0, *, flow: Flow | None = None, gruu: int = 0, user: str = "x"
) -> Binding:
    contact = NameAddr.parse(f"<sip:{user}@y.invalid;transport=ws>;q=0.5")
    return Binding(contact, expires_at, "call", 1, 0.0, flow=flow, gruu=gruu)


ONE, TWO = Flow(1, 1), Flow(2, 1)


def test_a_binding_leads_to_its_contact() -> None:
    assert str(binding().uri) == "sip:x@y.invalid;transport=ws"


def test_addresses_are_replaced_as_a_whole() -> None:
    store: BindingStore = MemoryStore()
    assert (len(store), store.get("a"), store.next_expiry()) == (0, (), None)
    first, second = binding(50.0), binding(40.0, user="z")
    store.put("a", [first, second])
    assert store.get("a") == (first, second)
    assert (len(store), store.next_expiry()) == (1, 40.0)
    store.put("a", [first])
    assert store.get("a") == (first,)
    assert store.next_expiry() == 50.0
    store.put("a", [])
    assert (len(store), store.get("a"), store.next_expiry()) == (0, (), None)


def test_flows_are_found_until_nothing_is_left_on_them() -> None:
    store = MemoryStore()
    store.put("a", [binding(flow=ONE), binding(flow=ONE), binding(flow=TWO), binding()])
    store.put("b", [binding(flow=ONE)])
    assert store.with_flow(ONE) == ["a", "b"]
    assert store.with_flow(TWO) == ["a"]
    store.put("a", [binding(flow=ONE)])
    assert store.with_flow(ONE) == ["b", "a"]
    assert store.with_flow(TWO) == []
    store.put("a", [])
    store.put("b", [])
    assert store.with_flow(ONE) == []


def test_temporary_gruus_are_found() -> None:
    store = MemoryStore()
    store.put("a", [binding(gruu=7), binding(gruu=7)])
    store.put("b", [binding()])
    assert store.with_gruu(7) == "a"
    assert store.with_gruu(0) is None
    store.put("a", [binding(gruu=8)])
    assert (store.with_gruu(7), store.with_gruu(8)) == (None, "a")


def test_expiry_is_told_once() -> None:
    store = MemoryStore()
    store.put("a", [binding(10.0), binding(20.0)])
    store.put("b", [binding(15.0)])
    assert store.due(9.0) == []
    assert store.due(15.0) == ["a", "b"]
    assert store.due(15.0) == []
    store.put("a", [binding(20.0)])
    assert store.next_expiry() == 20.0

"""The connection table, by itself and against a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsproto_sip.auth.identity import Identity
from wsproto_sip.server.events import Traffic
from wsproto_sip.server.management.commands import DisplayState, DumpFilter, DumpOrder
from wsproto_sip.server.registry import Entry, Others, Registry
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType


def add(registry: Registry, now: float = 0.0, port: int = 1, address: str = "192.0.2.1") -> Entry:
    session = Session.established(ConnectionType.SERVER, now=now, subprotocol="sip")
    return registry.add(session, (address, port), ("198.51.100.1", 80), False, now)


def cids(registry: Registry, order: DumpOrder, offset: int = 0, limit: int = 50) -> list[int]:
    shown, _ = registry.page(order, offset, limit, DumpFilter(), 0.0)
    return [info.id for info in shown]


def test_ids_are_never_reused() -> None:
    registry = Registry()
    first = add(registry)
    registry.remove(first)
    second = add(registry)
    assert (first.cid, second.cid) == (1, 2)
    assert registry.get(1) is None
    assert 1 not in registry
    assert 2 in registry


def test_neither_identity_nor_sub_protocol() -> None:
    registry = Registry()
    session = Session.established(ConnectionType.SERVER, now=0.0)
    entry = registry.add(session, ("192.0.2.1", 1), None, True, 0.0)
    registry.opened(entry)
    assert entry.info(0.0).subprotocol is None
    assert registry.by_subprotocol("sip") == registry.by_identity("alice") == []
    registry.remove(entry)
    assert len(registry) == 0


def test_identity_of_a_refused_connection_is_not_indexed() -> None:
    registry = Registry()
    entry = add(registry)
    entry.identity = Identity("alice")
    registry.remove(entry)
    assert registry.by_identity("alice") == []


def test_info_of_a_connection() -> None:
    registry = Registry()
    entry = add(registry, 10.0, 5060)
    entry.identity = Identity("alice")
    registry.opened(entry)
    info = entry.info(12.5)
    assert (info.id, info.peer_address, info.peer_port) == (1, "192.0.2.1", 5060)
    assert (info.local_address, info.local_port, info.secure) == ("198.51.100.1", 80, False)
    assert (info.state, info.awaiting_pong, info.idle) == (DisplayState.OPEN, False, 2.5)
    assert (info.subprotocol, info.identity) == ("sip", "alice")
    entry.local = None
    assert entry.info(12.5).local_address == ""


def test_orders() -> None:
    registry = Registry()
    entries = [add(registry) for _ in range(4)]
    assert cids(registry, DumpOrder.ID_HASH) == [1, 2, 3, 4]
    assert cids(registry, DumpOrder.USED_DESC) == [1, 2, 3, 4]
    registry.touch(entries[1], 1.0)
    registry.touch(entries[3], 2.0)
    registry.touch(entries[3], 3.0)
    assert cids(registry, DumpOrder.USED_DESC) == [1, 3, 2, 4]
    assert cids(registry, DumpOrder.USED_ASC) == [4, 2, 3, 1]
    assert cids(registry, DumpOrder.USED_ASC, 1, 2) == [2, 3]
    assert cids(registry, DumpOrder.ID_HASH, 3, 2) == [4]
    assert cids(registry, DumpOrder.ID_HASH, 9, 2) == []
    assert entries[3].used == 3.0


def test_pages_say_whether_there_is_more() -> None:
    registry = Registry()
    for _ in range(3):
        add(registry)
    for offset, limit, more in ((0, 2, True), (1, 2, False), (0, 3, False), (2, 1, False)):
        assert registry.page(DumpOrder.ID_HASH, offset, limit, DumpFilter(), 0.0)[1] is more


def test_filters() -> None:
    registry = Registry()
    add(registry, address="192.0.2.1")
    add(registry, address="192.0.2.2")
    add(registry, address="192.0.2.1")
    wanted = DumpFilter(address="192.0.2.1")
    shown, more = registry.page(DumpOrder.USED_ASC, 0, 1, wanted, 0.0)
    assert ([info.id for info in shown], more) == ([3], True)
    shown, more = registry.page(DumpOrder.USED_ASC, 1, 1, wanted, 0.0)
    assert ([info.id for info in shown], more) == ([1], False)
    assert registry.page(DumpOrder.ID_HASH, 0, 9, DumpFilter(subprotocol="msrp"), 0.0)[0] == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=20), st.integers(1, 5))
def test_paging_shows_every_lasting_connection_once(
    changes: list[tuple[bool, int]], limit: int
) -> None:
    registry = Registry()
    entries = [add(registry) for _ in range(12)]
    stay = {entry.cid for entry in entries}
    shown: list[int] = []
    more, after = True, 0
    while more:
        page, more = registry.page(DumpOrder.ID_HASH, 0, limit, DumpFilter(after=after), 0.0)
        shown += [info.id for info in page]
        after = shown[-1]
        # In between some are added, and some removed.
        for comes, number in changes[:3]:
            if comes:
                add(registry)
            elif (gone := registry.get(number)) is not None:
                registry.remove(gone)
                stay.discard(number)
        changes = changes[3:]
    assert shown == sorted(set(shown))
    assert stay <= set(shown)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (DumpFilter("sip", "192.0.2.1", "alice", DisplayState.OPEN, 1), True),
        (DumpFilter(subprotocol="msrp"), False),
        (DumpFilter(address="192.0.2.2"), False),
        (DumpFilter(identity="bob"), False),
        (DumpFilter(state=DisplayState.CLOSED), False),
        (DumpFilter(subprotocol="sip", after=1), True),
        (DumpFilter(after=2), False),
    ],
)
def test_every_filter_in_every_order(wanted: DumpFilter, expected: bool) -> None:
    registry = Registry()
    add(registry, address="192.0.2.3")
    entry = add(registry)
    entry.identity = Identity("alice")
    registry.opened(entry)
    for order in DumpOrder:
        shown, more = registry.page(order, 0, 5, wanted, 0.0)
        assert ([info.id for info in shown], more) == ([2] if expected else [], False)


def test_several_connections_from_the_same_address_and_port() -> None:
    registry = Registry()
    entries = [add(registry) for _ in range(4)]
    assert registry.by_peer("192.0.2.1", 1) is entries[3]
    registry.remove(entries[1])
    assert registry.by_peer("192.0.2.1", 1) is entries[3]
    registry.remove(entries[3])
    assert registry.by_peer("192.0.2.1", 1) is entries[2]
    registry.move(entries[2], ("203.0.113.9", None))
    assert registry.by_peer("192.0.2.1", 1) is entries[0]
    registry.remove(entries[0])
    assert registry.by_peer("192.0.2.1", 1) is None


@pytest.mark.parametrize("opened", [False, True])
def test_address_moved_by_a_proxy(opened: bool) -> None:
    registry = Registry()
    entry = add(registry)
    if opened:
        registry.opened(entry)
    registry.move(entry, ("203.0.113.9", None))
    assert registry.by_peer("192.0.2.1", 1) is None
    assert registry.by_peer("203.0.113.9", None) is entry
    assert (registry.count_of("192.0.2.1"), registry.count_of("203.0.113.9")) == (0, 1)
    assert registry.handshaking_of("203.0.113.9") == (not opened)
    registry.remove(entry)
    assert registry.count_of("203.0.113.9") == 0
    assert not registry.addresses


@dataclass
class Known:
    """The model's record of one connection."""

    entry: Entry
    address: str
    port: int
    #: When it was added.
    came: int
    identity: str | None = None
    opened: bool = False
    uses: list[int] = field(default_factory=list)

    @property
    def at(self) -> tuple[str, int]:
        """Its address and port."""
        return self.address, self.port


class RegistryMachine(RuleBasedStateMachine):
    """Any order of opening, using, moving and dropping: indexes and counters agree (48)."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.model: dict[int, Known] = {}
        self.highest = 0
        self.clock = 0

    def pick(self, data: st.DataObject) -> Known:
        return self.model[data.draw(st.sampled_from(sorted(self.model)))]

    @rule(address=st.sampled_from(["a", "b", "c"]), port=st.integers(1, 3))
    def add(self, address: str, port: int) -> None:
        self.clock += 1
        entry = add(self.registry, float(self.clock), port, address)
        assert entry.cid > self.highest
        self.highest = entry.cid
        self.model[entry.cid] = Known(entry, address, port, self.clock, uses=[self.clock])

    @precondition(lambda self: self.model)
    @rule(data=st.data(), identity=st.none() | st.sampled_from(["alice", "bob"]))
    def open(self, data: st.DataObject, identity: str | None) -> None:
        known = self.pick(data)
        if not known.opened:
            known.opened, known.identity = True, identity
            known.entry.identity = None if identity is None else Identity(identity)
            self.registry.opened(known.entry)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        self.clock += 1
        known = self.pick(data)
        known.uses.append(self.clock)
        self.registry.touch(known.entry, float(self.clock))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), address=st.sampled_from(["a", "d"]), port=st.integers(1, 3))
    def move(self, data: st.DataObject, address: str, port: int) -> None:
        self.clock += 1
        known = self.pick(data)
        known.address, known.port, known.came = address, port, self.clock
        self.registry.move(known.entry, (address, port))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        known = self.pick(data)
        self.registry.remove(known.entry)
        del self.model[known.entry.cid]

    @invariant()
    def agree(self) -> None:
        registry, model = self.registry, self.model
        assert len(registry) == len(model)
        assert [entry.cid for entry in registry] == sorted(model)
        assert registry.handshaking == sum(not known.opened for known in model.values())
        for address in "abcd":
            here = [known for known in model.values() if known.address == address]
            assert registry.count_of(address) == len(here)
            assert registry.handshaking_of(address) == sum(not known.opened for known in here)
        for name in ("alice", "bob"):
            found = [entry.cid for entry in registry.by_identity(name)]
            assert found == sorted(cid for cid, known in model.items() if known.identity == name)
        speakers = [entry.cid for entry in registry.by_subprotocol("sip")]
        assert speakers == sorted(cid for cid, known in model.items() if known.opened)
        by_use = sorted(model, key=lambda cid: model[cid].uses[-1])
        assert cids(registry, DumpOrder.USED_DESC) == by_use
        assert cids(registry, DumpOrder.USED_ASC) == by_use[::-1]
        for address in "abcd":
            for port in (1, 2, 3):
                here = [known for known in model.values() if known.at == (address, port)]
                latest = max(here, key=lambda known: known.came, default=None)
                found_entry = registry.by_peer(address, port)
                assert found_entry is (None if latest is None else latest.entry)

    def teardown(self) -> None:
        for known in self.model.values():
            self.registry.remove(known.entry)
        registry = self.registry
        assert len(registry) == registry.handshaking == 0
        assert not registry.addresses
        for index in (
            registry._by_peer,
            registry._older_of_peer,
            registry._by_identity,
            registry._by_subprotocol,
            registry._handshaking_by_address,
        ):
            assert not index


RegistryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestRegistryMachine = RegistryMachine.TestCase


def test_others() -> None:
    registry = Registry()
    others = Others(registry.addresses, "192.0.2.1")
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        add(registry, address=address)
    assert dict(others) == {"192.0.2.1": 1, "192.0.2.2": 1}
    assert len(others) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("unix-1", "unix-2", False),
    ],
)
def test_addresses_of_one_network_count_together(one: str, other: str, same: bool) -> None:
    registry = Registry()
    entries = [add(registry, address=one), add(registry, address=other)]
    for address in (one, other):
        assert registry.count_of(address) == registry.handshaking_of(address) == 1 + same
    assert Others(registry.addresses, one)[one] == same
    assert Others(registry.addresses, other)[one] == 1
    registry.move(entries[1], ("203.0.113.9", 1))
    assert registry.count_of(one) == 1
    for entry in entries:
        registry.remove(entry)
    assert not registry.addresses
    assert not registry.handshaking_of("203.0.113.9")


def test_entry_knows_its_traffic_and_its_transport() -> None:
    registry = Registry()
    entry = add(registry, 2.0)
    registry.move(entry, ("198.51.100.1", 2))
    entry.received_messages, entry.sent_messages = 1, 2
    entry.received_bytes, entry.sent_bytes = 30, 40
    assert entry.transport == ("192.0.2.1", 1)
    assert entry.traffic(5.0) == Traffic(1, 2, 30, 40, 3.0)


def test_oldest_handshake_of_the_address_with_the_most() -> None:
    registry = Registry()
    assert registry.longest_handshake("192.0.2.1") is None
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2"):
        add(registry, address=address)
    client = Session(ConnectionType.CLIENT, now=0.0)
    for _ in range(3):
        registry.add(client, ("192.0.2.9", 80), None, False, 0.0)
    for address in ("192.0.2.1", "192.0.2.3"):
        longest = registry.longest_handshake(address)
        assert longest is not None
        assert longest.cid == 2
    # Our own connections do not count, and an address makes no room for itself.
    assert registry.longest_handshake("192.0.2.2") is None

"""Relays that serve the same users as nodes, with links, restarts and losses in memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.msrp.relay.test_application import CONFIG, Client, World
from wsproto_sip.msrp.message.chunk import MsrpRequest, MsrpResponse
from wsproto_sip.msrp.message.uri import MsrpPath
from wsproto_sip.msrp.relay.config import RelayNode, node_hop

NAMES = ("n1", "n2", "n3")


def host_of(name: str) -> str:
    return f"{name}.relay.example"


@dataclass(eq=False)
class User:
    """A client at a node, and what it has sent and been told."""

    node: str
    client: Client
    path: MsrpPath
    #: Where each of its messages went.
    sent: dict[bytes, User] = field(default_factory=dict)
    #: How many chunks it has read.
    read: int = 0
    #: The messages that it has got, in order, by their sender's session.
    got: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    #: The statuses of its messages: answers, and later reports.
    answers: dict[bytes, int] = field(default_factory=dict)
    reports: dict[bytes, bytes] = field(default_factory=dict)
    alive: bool = True


class NodesMachine(RuleBasedStateMachine):
    """Three nodes, and clients that send to one another through them.

    Each message is delivered once at most, in order while nothing is lost, and one that was
    accepted is delivered or reported, unless its sender has gone.
    """

    @initialize()
    def start(self) -> None:
        self.worlds: dict[str, World] = {}
        self.boots: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.users: list[User] = []
        #: Whether nothing has happened that loses messages.
        self.lossless = True
        #: The two ends of each link: node and number at its opener and at its acceptor.
        self.wires: list[tuple[str, int, str, int]] = []
        self.now = 100.0
        self.serial = 0
        for name in NAMES:
            self.boot(name)
        for name in (*NAMES, "n1"):
            self.join(name)

    def boot(self, name: str) -> None:
        config = replace(CONFIG, host=host_of(name), aliases=frozenset({("relay.example", 2855)}))
        world = self.worlds[name] = World(config)
        world.now = self.now
        self.boots[name] += 1
        self.tell_nodes()

    def tell_nodes(self) -> None:
        running = {name: RelayNode(host_of(name), str(self.boots[name])) for name in self.worlds}
        for name, world in self.worlds.items():
            others = {other: node for other, node in running.items() if other != name}
            world.application.use_nodes(others, self.now)

    # -- what carries it

    def settle(self) -> None:
        """Move everything until nothing moves."""
        moved = True
        while moved:
            moved = False
            for name, world in self.worlds.items():
                world.run()
                for hop in world.application.take_connects():
                    moved = True
                    self.connect(name, hop)
                for number in world.closed_links:
                    moved = True
                    self.cut(name, number)
                world.closed_links.clear()
            for end in self.wires:
                for from_name, from_link, to_name, to_link in (end, (*end[2:], *end[:2])):
                    source, target = self.worlds[from_name], self.worlds[to_name]
                    data = source.links[from_link]
                    if data and target.application.wanted(to_link):
                        moved = True
                        source.links[from_link] = bytearray()
                        target.application.link_received(to_link, bytes(data), self.now)
            for user in self.users:
                moved |= self.read(user)

    def connect(self, name: str, hop: str) -> None:
        world = self.worlds[name]
        other = next((known for known in self.worlds if node_hop(known) == hop), None)
        if other is None:
            world.application.link_failed(hop, self.now)
            return
        number = world.application.link_opened(hop, self.now)
        theirs = self.worlds[other].application.node_link_opened(self.now, name)
        assert number is not None
        assert theirs is not None
        world.links[number] = bytearray()
        self.worlds[other].links[theirs] = bytearray()
        self.wires.append((name, number, other, theirs))

    def cut(self, name: str, number: int) -> None:
        """End a link, as seen by both of its ends."""
        for wire in [wire for wire in self.wires if (name, number) in (wire[:2], wire[2:])]:
            self.wires.remove(wire)
            for end, link in (wire[:2], wire[2:]):
                if end in self.worlds:
                    self.worlds[end].application.link_lost(link, self.now)

    def read(self, user: User) -> bool:
        """Let a client act on what it has got; return whether there was anything."""
        if not user.alive or not user.client.reads:
            return False
        news = user.client.chunks[user.read :]
        user.read += len(news)
        for chunk in news:
            if isinstance(chunk, MsrpResponse):
                user.answers[chunk.transaction_id] = chunk.code
            elif chunk.method == b"REPORT":
                assert chunk.message_id is not None
                assert chunk.message_id not in user.reports
                user.reports[chunk.message_id] = chunk.header(b"status") or b""
            else:
                assert chunk.message_id is not None
                user.got[bytes(chunk.from_path[-1])].append(chunk.message_id)
                user.client.say(chunk.response(200))
        return bool(news)

    # -- what happens

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        if name in self.worlds and len(self.users) < 9:
            world = self.worlds[name]
            client = world.member(f"user{len(self.users)}")
            self.users.append(User(name, client, client.path, read=len(client.chunks)))

    @rule(
        sender=st.integers(0, 8),
        receiver=st.integers(0, 8),
        size=st.sampled_from([5, 20_000]),
        count=st.integers(1, 6),
    )
    def send(self, sender: int, receiver: int, size: int, count: int) -> None:
        source = self.users[sender % len(self.users)]
        target = self.users[receiver % len(self.users)]
        if not source.alive or source is target:
            return
        for _ in range(count):
            self.serial += 1
            message_id = b"id%06d" % self.serial
            source.sent[message_id] = target
            request = MsrpRequest(
                message_id,
                b"SEND",
                (*source.client.use_path, *target.path),
                (source.client.local,),
                [(b"Message-ID", message_id), (b"Content-Type", b"text/plain")],
                b"x" * size,
            )
            source.client.say(request)
        self.settle()

    @rule(number=st.integers(0, 8))
    def stop_reading(self, number: int) -> None:
        self.users[number % len(self.users)].client.reads = False

    @rule(number=st.integers(0, 8))
    def read_on(self, number: int) -> None:
        user = self.users[number % len(self.users)]
        if user.alive:
            user.client.reads = True
            self.settle()

    @rule(number=st.integers(0, 8))
    def leave(self, number: int) -> None:
        user = self.users[number % len(self.users)]
        if user.alive:
            user.alive = False
            self.worlds[user.node].leave(user.client)
            self.settle()

    @precondition(lambda self: self.wires)
    @rule(data=st.data())
    def lose_a_link(self, data: st.DataObject) -> None:
        self.lossless = False
        name, number, _, _ = data.draw(st.sampled_from(self.wires))
        self.cut(name, number)
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def kill(self, name: str) -> None:
        if len(self.worlds) > 1 and name in self.worlds:
            self.lossless = False
            for user in self.users:
                user.alive = user.alive and user.node != name
            del self.worlds[name]
            for wire in [wire for wire in self.wires if name in (wire[0], wire[2])]:
                self.cut(*wire[:2])
            self.settle()
            self.tell_nodes()
            self.settle()

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        if name not in self.worlds:
            self.boot(name)
            self.settle()
            self.join(name)

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0]))
    def wait(self, seconds: float) -> None:
        # Messages that are not read are reported as unanswered.
        self.lossless &= all(user.client.reads for user in self.users)
        self.now += seconds
        for world in self.worlds.values():
            world.wait(seconds)
        self.notice_ends()
        self.settle()

    def notice_ends(self) -> None:
        """Take note of clients that were dropped for reading slowly."""
        for user in self.users:
            if user.alive and user.client.ended:
                user.alive = False

    # -- what holds

    @invariant()
    def messages_arrive_once_and_in_order(self) -> None:
        for user in self.users:
            for got in user.got.values():
                assert got == sorted(set(got))

    @invariant()
    def links_are_bounded(self) -> None:
        assert len(self.wires) <= 6

    def teardown(self) -> None:
        if not hasattr(self, "worlds"):
            return
        for user in self.users:
            if user.alive:
                user.client.reads = True
        self.settle()
        self.now += 31.0
        for world in self.worlds.values():
            world.wait(31.0)
        self.notice_ends()
        self.settle()
        for world in self.worlds.values():
            assert world.relay.transactions == 0
        for user in self.users:
            for message_id, target in user.sent.items():
                if not user.alive:
                    continue
                arrived = message_id in target.got[bytes(user.client.local)]
                told = message_id in user.reports or user.answers.get(message_id) != 200
                if target.alive:
                    assert arrived or told
                    assert not (self.lossless and told)


TestNodes = NodesMachine.TestCase
TestNodes.settings = settings(max_examples=60, stateful_step_count=30)

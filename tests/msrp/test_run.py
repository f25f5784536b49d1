"""Two clients and a relay in memory, with simulated time: the whole system."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings, strategies as st

from wsproto_sip.msrp import (
    Authenticated,
    AuthenticationFailed,
    DigestServer,
    DropConnection,
    ForwardToPeer,
    MessageAborted,
    MessageDelivered,
    MessageFailed,
    MessageReceived,
    MessageSent,
    MsrpEvent,
    MsrpLimits,
    MsrpRelay,
    MsrpRelayConfig,
    MsrpSession,
    MsrpSessionState,
    MsrpStreamParser,
    MsrpUri,
    ReceiveProgress,
    RelayAction,
    SendChunk,
    SendProgress,
)

USERS = {"alice": "a-secret", "carol": "c-secret"}
CONFIG = MsrpRelayConfig("relay.example", 2855, peers={"bob": ("10.1.1.1", 2855)})
RELAY = MsrpUri.parse(b"msrps://relay.example:2855;ws")

E = TypeVar("E")


class Network:
    """Carries whole messages between clients and the relay, in order, one at a time."""

    def __init__(self, config: MsrpRelayConfig = CONFIG) -> None:
        self.now = 0.0
        self.relay = MsrpRelay(config, DigestServer("relay.example", USERS))
        self.clients: dict[int, MsrpSession] = {}
        self.events: dict[int, list[MsrpEvent]] = {}
        self.up: deque[tuple[int, bytes]] = deque()
        self.down: deque[tuple[int, bytes]] = deque()
        self.to_peer = bytearray()
        self.carried = 0

    def client(self, number: int, user: str, password: str | None = None, **options: Any) -> None:
        secret = USERS[user] if password is None else password
        self.clients[number] = MsrpSession(RELAY, user, secret, **options)
        self.events[number] = []
        self.do(self.relay.connection_opened(number, self.now))
        self.clients[number].authenticate(self.now)
        self.run()

    def do(self, actions: list[RelayAction]) -> None:
        for action in actions:
            match action:
                case SendChunk(number, data):
                    self.down.append((number, data))
                case ForwardToPeer(_, data):
                    self.to_peer += data
                case DropConnection(number, _):
                    self.down = deque(item for item in self.down if item[0] != number)
                    self.events[number] += self.clients.pop(number).connection_closed()

    def step(self) -> bool:
        """Let each client write, and carry one message in each direction.

        Returns:
            Whether there was anything to carry.
        """
        before = self.carried
        for number, client in self.clients.items():
            self.up.extend((number, data) for data in client.data_to_send(self.now))
        for queue in (self.up, self.down):
            if queue:
                number, data = queue.popleft()
                self.carried += 1
                if queue is self.up:
                    self.do(self.relay.receive(number, data, self.now))
                elif number in self.clients:
                    self.events[number] += self.clients[number].receive(data, self.now)
        return self.carried > before

    def run(self) -> None:
        while self.step():
            pass

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for number, client in self.clients.items():
            self.events[number] += client.handle_timeout(self.now)
        self.do(self.relay.handle_timeout(self.now))
        self.run()

    def of(self, number: int, kind: type[E]) -> list[E]:
        return [event for event in self.events[number] if isinstance(event, kind)]


def pair(**options: Any) -> Network:
    network = Network()
    network.client(1, "alice", **options)
    network.client(2, "carol", **options)
    alice, carol = network.clients[1], network.clients[2]
    alice.connect(carol.path)
    carol.connect(alice.path)
    return network


def test_files_in_both_directions_between_short_texts() -> None:
    network = pair()
    alice, carol = network.clients[1], network.clients[2]
    source = random.Random(1)
    files = {1: source.randbytes(5 * 1024 * 1024), 2: source.randbytes(5 * 1024 * 1024)}
    ids = {
        number: network.clients[number].send(
            files[number], b"application/octet-stream", success_report=True
        )
        for number in (1, 2)
    }
    texts = 0
    waits = []
    running = True
    while running:
        running = network.step()
        if network.carried % 1000 == 0 and texts < 10:
            texts += 1
            before = network.carried
            sent = alice.send(f"text {texts}".encode())
            while not any(event.message_id == sent for event in network.of(2, MessageReceived)):
                assert network.step()
            waits.append(network.carried - before)
    assert texts == 10
    # A text waits for the chunks in the window, not for the rest of the file.
    assert max(waits) < 400
    for sender, receiver in ((1, 2), (2, 1)):
        received = network.of(receiver, MessageReceived)
        big = [event for event in received if event.message_id == ids[sender]]
        assert [event.content_type for event in big] == [b"application/octet-stream"]
        assert big[0].body == files[sender]
        assert MessageDelivered(ids[sender]) in network.events[sender]
        assert MessageSent(ids[sender]) in network.events[sender]
        progress = [
            event.acknowledged
            for event in network.of(sender, SendProgress)
            if event.message_id == ids[sender]
        ]
        assert progress == sorted(progress)
        assert (len(progress), progress[-1]) == (2560, 5 * 1024 * 1024)
        growing = [
            event.received
            for event in network.of(receiver, ReceiveProgress)
            if event.message_id == ids[sender]
        ]
        assert growing == [2048 * at for at in range(1, 2560)]
    assert [event.body for event in network.of(2, MessageReceived) if len(event.body) < 10] == [
        f"text {number}".encode() for number in range(1, 11)
    ]
    assert network.relay.transactions == 0
    assert carol.state is MsrpSessionState.READY


def test_wrong_password() -> None:
    network = Network()
    network.client(1, "alice", "guess")
    assert network.events[1] == [AuthenticationFailed(401, "the credentials were refused")]
    assert network.relay.sessions == 0


def test_relay_proves_itself() -> None:
    network = Network()
    network.client(1, "alice", require_proof=True)
    assert network.of(1, Authenticated) == [Authenticated(network.clients[1].path, 900)]


def test_lifetime_out_of_range_is_corrected() -> None:
    network = Network()
    network.client(1, "alice", expires=5)
    network.client(2, "carol", expires=100_000)
    assert network.of(1, Authenticated) == [Authenticated(network.clients[1].path, 60)]
    assert network.of(2, Authenticated) == [Authenticated(network.clients[2].path, 3600)]


def test_expired_session() -> None:
    network = pair(expires=60, prolong=False)
    network.wait(60)
    sent = network.clients[1].send(b"too late")
    network.run()
    assert MessageFailed(sent, 481, b"Session-does-not-exist") in network.events[1]
    assert network.of(2, MessageReceived) == []


def test_session_that_is_prolonged() -> None:
    network = pair(expires=60)
    for _ in range(20):
        network.wait(15)
    network.clients[1].send(b"still here")
    network.run()
    assert [event.body for event in network.of(2, MessageReceived)] == [b"still here"]
    assert len(network.of(1, Authenticated)) == 1 + 20 * 15 // 45


def test_abort() -> None:
    network = pair()
    sent = network.clients[1].send(bytes(1024 * 1024))
    while not network.of(2, ReceiveProgress):
        assert network.step()
    network.clients[1].abort(sent)
    network.run()
    assert network.events[2][-1] == MessageAborted(sent)
    assert network.of(2, MessageReceived) == []
    assert network.of(1, MessageSent) == []
    assert network.relay.transactions == 0


def test_receiver_rejects_a_message() -> None:
    network = pair(limits=MsrpLimits(max_message_size=100_000))
    sent = network.clients[1].send(bytes(100_001))
    network.run()
    assert network.of(1, MessageFailed) == [MessageFailed(sent, 413, b"Stop-sending-message")]
    assert network.of(2, MessageReceived) == []


def test_other_side_goes_away() -> None:
    network = pair()
    sent = network.clients[1].send(bytes(10_000))
    while not network.of(2, ReceiveProgress):
        assert network.step()
    del network.clients[2]
    network.do(network.relay.connection_closed(2, network.now))
    network.run()
    assert [(event.message_id, event.status) for event in network.of(1, MessageFailed)] == [
        (sent, 481)
    ]


def test_other_side_falls_silent() -> None:
    network = pair()
    sent = network.clients[1].send(b"hello?")
    del network.clients[2]
    network.run()
    assert network.of(1, MessageSent) == [MessageSent(sent)]
    network.wait(30)
    assert [(event.message_id, event.status) for event in network.of(1, MessageFailed)] == [
        (sent, 408)
    ]


def test_peer_over_tcp() -> None:
    """The other side is not a client of the relay but a configured peer, reached over a stream."""
    network = Network()
    network.client(1, "alice")
    alice = network.clients[1]
    bob = MsrpSession(RELAY, "bob", "-", entropy=random.Random(2).randbytes)
    # The peer's URI has its configured address.
    bob.local = MsrpUri.build("10.1.1.1", 2855, "bobs")
    bob.state = MsrpSessionState.READY
    bob.connect(alice.path)
    alice.connect((bob.local,))
    network.do(network.relay.connection_opened(9, network.now, peer="bob"))
    body = random.Random(3).randbytes(50_000)
    first = alice.send(body, b"application/octet-stream", success_report=True)
    second = bob.send(body[::-1], b"application/octet-stream", success_report=True)
    out, back = MsrpStreamParser(), MsrpStreamParser()
    heard: list[MsrpEvent] = []
    busy = True
    while busy:
        network.run()
        stream, network.to_peer = bytes(network.to_peer), bytearray()
        # The relay's answers on the peer's own connection go the same way.
        for chunk in out.receive(stream):
            heard += bob.receive(chunk, network.now)
        written = b"".join(bob.data_to_send(network.now))
        for at in range(0, len(written), 1000):
            for chunk in back.receive(written[at : at + 1000]):
                for action in network.relay.receive(9, chunk, network.now):
                    if action == SendChunk(9, getattr(action, "data", b"")):
                        heard += bob.receive(action.data, network.now)
                    else:
                        network.do([action])
        busy = bool(stream or written)
    assert (out.error, back.error) == (None, None)
    assert MessageReceived(first, b"application/octet-stream", body) in heard
    assert MessageDelivered(first) in network.events[1]
    assert network.of(1, MessageReceived) == [
        MessageReceived(second, b"application/octet-stream", body[::-1])
    ]
    assert MessageDelivered(second) in heard


@settings(max_examples=40)
@given(st.data())
def test_any_two_messages_in_any_order_of_events(data: st.DataObject) -> None:
    """Two messages in each direction, of any size and chunking, with any interleaving."""
    network = pair(
        chunk_size=data.draw(st.integers(1, 50)),
        limits=replace(MsrpLimits(), max_outstanding_chunks=data.draw(st.integers(1, 10))),
    )
    bodies = {number: [data.draw(st.binary(max_size=120)) for _ in range(2)] for number in (1, 2)}
    ids = {
        number: [network.clients[number].send(body, success_report=True) for body in bodies[number]]
        for number in (1, 2)
    }
    turns = random.Random(data.draw(st.integers(0, 1000)))
    busy = True
    while busy:
        # Each connection keeps its order, but any of them may be next.
        turns.shuffle(order := [1, 2])
        for queue in (network.up, network.down):
            items = sorted(queue, key=lambda item: order.index(item[0]))
            queue.clear()
            queue.extend(items)
        busy = network.step()
    for sender, receiver in ((1, 2), (2, 1)):
        received = {event.message_id: event.body for event in network.of(receiver, MessageReceived)}
        assert received == dict(zip(ids[sender], bodies[sender], strict=True))
        assert sorted(event.message_id for event in network.of(sender, MessageDelivered)) == sorted(
            ids[sender]
        )
        assert network.of(sender, MessageFailed) == []
    assert network.relay.transactions == 0


@pytest.mark.parametrize("user", ["alice", "carol"])
def test_too_many_guesses(user: str) -> None:
    network = Network()
    network.client(1, user, "guess")
    for _ in range(4):
        network.clients[1].authenticate(network.now)
        network.run()
    assert network.clients == {}
    assert len(network.of(1, AuthenticationFailed)) == 4
    assert network.relay.connections == 0

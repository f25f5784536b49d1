"""The application on a real endpoint, with transports in memory and simulated time."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.msrp._relay import credentials_for
from wsproto_sip.auth.accounts import Account, Users
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)
from wsproto_sip.msrp.authentication import DigestServer
from wsproto_sip.msrp.message.chunk import (
    Continuation,
    MsrpRequest,
    MsrpResponse,
    new_transaction_id,
    parse_chunk,
)
from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.msrp.message.stream import MsrpStreamParser
from wsproto_sip.msrp.message.uri import MsrpPath, MsrpUri, parse_path
from wsproto_sip.msrp.relay.application import LinkOutput, MsrpApplication
from wsproto_sip.msrp.relay.config import MsrpRelayConfig, RelayNode, node_hop
from wsproto_sip.msrp.relay.relay import MsrpRelay
from wsproto_sip.policy.decision import Continue, Decision, PolicyChain, RequestContext
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import Opened
from wsproto_sip.server.shares import Bound
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import TransportAction
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

CONFIG = MsrpRelayConfig(
    "relay.example",
    2855,
    peers={"bob": ("10.1.1.1", 2855), "dan": ("10.1.1.2", 2855)},
    authentication_timeout=None,
)
RELAY = MsrpUri.parse(b"msrps://relay.example:2855;ws")
BOB = MsrpUri.parse(b"msrp://10.1.1.1:2855/bobs;tcp")


def known(context: RequestContext) -> Decision:
    """Identify the client by the name in the path it requests."""
    name = context.request.target[1:]
    return Continue(identity=Identity(name)) if name else Continue()


class Client:
    """One client: its session, its transport, and its events."""

    def __init__(self, world: World, cid: int, session: Session) -> None:
        self.world = world
        self.cid = cid
        self.session = session
        self.heard: list[Event] = []
        #: Whether it reads; unread bytes wait in its transport.
        self.reads = True
        self.transport = bytearray()
        self.ended = False
        self.local = MsrpUri.build(f"{cid}.invalid", 2855, "s" * 20, secure=True, transport="ws")
        self.use_path: MsrpPath = ()

    @property
    def chunks(self) -> list[MsrpRequest | MsrpResponse]:
        return [
            parse_chunk(event.data.encode() if isinstance(event.data, str) else event.data)
            for event in self.heard
            if isinstance(event, TextMessage | BytesMessage)
        ]

    @property
    def requests(self) -> list[MsrpRequest]:
        return [chunk for chunk in self.chunks if isinstance(chunk, MsrpRequest)]

    @property
    def codes(self) -> list[int]:
        return [chunk.code for chunk in self.chunks if isinstance(chunk, MsrpResponse)]

    @property
    def close(self) -> CloseConnection | None:
        return next((event for event in self.heard if isinstance(event, CloseConnection)), None)

    def say(self, *chunks: MsrpRequest | MsrpResponse) -> None:
        """Send chunks in one read."""
        for chunk in chunks:
            self.session.send(BytesMessage(chunk.to_bytes()), self.world.now)
        self.world.run()

    def auth(self) -> None:
        before = len(self.chunks)
        self.say(MsrpRequest(new_transaction_id(), b"AUTH", (RELAY,), (self.local,)))
        self.use_path = parse_path(self.chunks[before].header(b"use-path") or b"")

    def message(self, to: MsrpPath, body: bytes = b"hello", **fields: Any) -> MsrpRequest:
        headers = [(b"Message-ID", b"0123456789"), *fields.pop("headers", [])]
        return MsrpRequest(
            new_transaction_id(body),
            b"SEND",
            (*self.use_path, *to),
            (self.local,),
            [*headers, (b"Content-Type", b"text/plain")],
            body,
            **fields,
        )

    @property
    def path(self) -> MsrpPath:
        return (*self.use_path, self.local)

    def bodies(self) -> list[bytes | None]:
        return [request.body for request in self.requests if request.method == b"SEND"]


class World:
    """Endpoint, relay and application, and all transports."""

    def __init__(
        self,
        config: MsrpRelayConfig = CONFIG,
        users: Users | None = None,
        **options: Any,
    ) -> None:
        self.now = 100.0
        session = SessionConfig(send_timeout=None)
        session = replace(session, profiles=subprotocol_profiles(session))
        self.endpoint = Endpoint(
            EndpointConfig(
                session=session,
                policies=PolicyChain([known, SubprotocolPolicy(["msrp", "sip"], required=False)]),
            ),
            now=self.now,
        )
        authenticator = None if users is None else DigestServer("relay.example", users)
        self.relay = MsrpRelay(config, authenticator)
        self.application = MsrpApplication(self.endpoint, self.relay, **options)
        self.clients: dict[int, Client] = {}
        self.links: dict[int, bytearray] = {}
        self.closed_links: list[int] = []
        self.passed_over: list[Event] = []

    def join(
        self, name: str = "", *, subprotocol: str | None = "msrp", secure: bool = True
    ) -> Client:
        cid = self.endpoint.accept(("192.0.2.1", 40000), self.now, secure=secure)
        session = Session(ConnectionType.CLIENT, now=self.now)
        client = self.clients[cid] = Client(self, cid, session)
        wanted = [] if subprotocol is None else [subprotocol]
        session.send(
            Request(host="relay.example", target=f"/{name}", subprotocols=wanted), self.now
        )
        self.run()
        return client

    def member(self, name: str) -> Client:
        client = self.join(name)
        client.auth()
        return client

    def give(self, cid: int, events: list[Event]) -> None:
        for event in events:
            if not self.application.handle(cid, event, self.now):
                self.passed_over.append(event)

    def run(self) -> None:
        """Move bytes until none are left."""
        while self._step():
            pass

    def _step(self) -> bool:
        moved = False
        for client in list(self.clients.values()):
            entry = self.endpoint.registry.get(client.cid)
            raw = b""
            if entry is not None and not (entry.session.paused or entry.session.has_work):
                raw = client.session.data_to_send()
            if raw:
                moved = True
                self.give(client.cid, self.endpoint.receive(client.cid, raw, self.now))
        for output in self.endpoint.take_output():
            moved = True
            client = self.clients[output.cid]
            client.transport += output.data
            if output.action is not TransportAction.NONE:
                client.ended = True
            if not client.reads:
                self.endpoint.transport_backlog(client.cid, len(client.transport), self.now)
        for client in list(self.clients.values()):
            if client.reads and client.transport:
                moved = True
                raw, client.transport = bytes(client.transport), bytearray()
                client.heard += client.session.receive(raw, self.now)
                self.endpoint.transport_backlog(client.cid, 0, self.now)
        for link in self.application.take_output():
            moved = True
            if link.data:
                self.links[link.link] += link.data
                self.application.link_backlog(link.link, 0, self.now)
            if link.close:
                self.closed_links.append(link.link)
        deadline = self.endpoint.next_deadline()
        if deadline is not None and deadline <= self.now:
            moved = True
            for cid, event in self.endpoint.handle_timeout(self.now):
                self.give(cid, [event])
        return moved

    def leave(self, client: Client) -> None:
        """End a transport abruptly."""
        self.give(client.cid, self.endpoint.receive(client.cid, None, self.now))
        client.reads = False
        self.run()

    def link(self, peer: str = "bob") -> int:
        number = self.application.link_opened(peer, self.now)
        assert number is not None
        self.links[number] = bytearray()
        self.run()
        return number

    def link_says(self, number: int, *chunks: MsrpRequest | MsrpResponse) -> None:
        raw = b"".join(chunk.to_bytes() for chunk in chunks)
        self.application.link_received(number, raw, self.now)
        self.run()

    def link_heard(self, number: int) -> list[Any]:
        parser = MsrpStreamParser()
        return [parse_chunk(chunk) for chunk in parser.receive(bytes(self.links[number]))]

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.application.handle_timeout(self.now)
        self.run()


def from_bob(client: Client, body: bytes, **fields: Any) -> MsrpRequest:
    return MsrpRequest(
        new_transaction_id(body),
        b"SEND",
        client.path,
        (BOB,),
        [(b"Message-ID", b"9876543210"), (b"Content-Type", b"text/plain")],
        body,
        **fields,
    )


# -- WebSocket connections -------------------------------------------------------------------------


def test_message_from_one_client_to_another() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(alice.message(carol.path))
    (request,) = carol.requests
    assert request.body == b"hello"
    assert request.from_path == (*carol.use_path, *alice.path)
    assert alice.codes == [200, 200]
    assert world.relay.transactions == 1
    carol.say(request.response(200))
    assert world.relay.transactions == 0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"text", TextMessage),
        ("Grüße".encode(), TextMessage),
        ("Grüße".encode("latin-1"), BytesMessage),
        (b"\x00\xff", BytesMessage),
    ],
)
def test_utf8_chunks_are_sent_as_text(body: bytes, kind: type[Event]) -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(alice.message(carol.path, body))
    assert type(carol.heard[-1]) is kind
    assert carol.bodies() == [body]


def test_decoded_text_is_accepted() -> None:
    """Text is accepted even if a session is not configured to deliver bytes."""
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    chunk = alice.message(carol.path, "Grüße".encode()).to_bytes()
    assert world.application.handle(alice.cid, TextMessage(chunk.decode()), world.now)
    world.run()
    assert carol.bodies() == ["Grüße".encode()]


def test_without_an_identity_a_password_is_needed() -> None:
    world = World(users={"alice": "a-secret"})
    alice = world.join()
    alice.say(MsrpRequest(new_transaction_id(), b"AUTH", (RELAY,), (alice.local,)))
    assert alice.codes == [401]


@pytest.mark.parametrize("subprotocol", ["sip", None])
def test_other_connections_are_ignored(subprotocol: str | None) -> None:
    world = World()
    other = world.join("alice", subprotocol=subprotocol)
    other.session.send(TextMessage("REGISTER"), world.now)
    world.run()
    assert [type(event) for event in world.passed_over] == [Opened, TextMessage]
    world.leave(other)
    assert len(world.passed_over) == 3
    assert world.relay.connections == 0


def test_our_own_connections_are_ignored() -> None:
    world = World()
    cid = world.endpoint.connect("ws://192.0.2.9/", world.now, subprotocol="msrp")
    assert not world.application.handle(cid, Opened(cid, "msrp", None, None), world.now)


def test_ended_connection_is_ignored() -> None:
    world = World()
    opened = Opened(99, "msrp", None, Request(host="h", target="/"))
    assert not world.application.handle(99, opened, world.now)


def test_other_events_are_ignored() -> None:
    world = World()
    alice = world.member("alice")
    assert world.application.handle(alice.cid, Ping(), world.now)
    assert world.relay.sessions == 1


def test_refusals_of_the_relay_are_statistics_of_the_endpoint() -> None:
    world = World()
    assert isinstance(world.relay.refused, dict)
    world.relay.refused[Bound.USER] = 3
    assert ("msrp_transactions", "user", 3) in list(world.endpoint.statistics.refused())


def test_msrp_needs_wss() -> None:
    world = World()
    alice = world.join("alice", secure=False)
    assert alice.close == CloseConnection(1008, "MSRP needs wss")
    assert world.relay.connections == 0
    # Further input is dropped.
    message = BytesMessage(alice.message((BOB,)).to_bytes())
    assert world.application.handle(alice.cid, message, world.now)
    assert alice.codes == []


def test_insecure_connections_may_be_allowed() -> None:
    world = World(allow_insecure=True)
    alice = world.join("alice", secure=False)
    alice.auth()
    assert alice.codes == [200]


def test_relay_drops_a_connection() -> None:
    world = World(replace(CONFIG, authentication_timeout=30.0))
    alice = world.join("alice")
    assert world.application.next_deadline() == world.now + 30
    world.wait(29)
    assert alice.close is None
    world.wait(1)
    assert alice.close == CloseConnection(1008, "no session")
    assert world.application.next_deadline() is None


def test_one_connection_too_many() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_connections=1)))
    world.member("alice")
    carol = world.join("carol")
    assert carol.close == CloseConnection(1008, "too many connections")


def test_connection_ends() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(alice.message(carol.path))
    world.leave(carol)
    assert (world.relay.connections, world.relay.sessions) == (1, 1)
    (report,) = alice.requests
    assert report.header(b"status") == b"000 481 Session-does-not-exist"


def test_chunk_for_a_connection_that_is_closing() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    carol.reads = False
    world.endpoint.close(carol.cid, now=world.now)
    alice.say(alice.message(carol.path))
    assert alice.codes == [200, 200]
    assert carol.bodies() == []


def test_chunk_for_a_connection_that_has_gone_unnoticed() -> None:
    """The endpoint learns of an ending before the application does."""
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    closed = world.endpoint.receive(carol.cid, None, world.now)
    alice.say(alice.message(carol.path))
    assert alice.codes == [200, 200]
    world.give(carol.cid, closed)
    world.run()
    (report,) = alice.requests
    assert report.header(b"status") == b"000 481 Session-does-not-exist"


def test_silent_receiver_is_reported() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(alice.message(carol.path))
    assert world.application.next_deadline() == world.now + 30
    world.wait(30)
    (report,) = alice.requests
    assert (report.header(b"status") or b"").startswith(b"000 408")


# -- back-pressure ---------------------------------------------------------------------------------

LARGE = b"x" * 30_000


def fill(world: World, sender: Client, receiver: Client) -> int:
    """Send chunks to a client that does not read until the sender has to wait; return how many."""
    receiver.reads = False
    for count in range(1, 10):
        sender.say(sender.message(receiver.path, LARGE))
        entry = world.endpoint.registry.get(sender.cid)
        assert entry is not None
        if entry.session.paused:
            return count
    raise AssertionError("no sender waits")


def test_sender_waits_for_a_slow_receiver_and_continues() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    count = fill(world, alice, carol)
    assert count == 4
    # Further input is not even read; answers to earlier chunks have arrived.
    alice.say(alice.message(carol.path, b"later"))
    assert alice.codes == [200] * 5
    assert len(carol.transport) < 100_000
    carol.reads = True
    world.run()
    assert carol.bodies() == [LARGE] * 4 + [b"later"]
    assert alice.codes == [200] * 6
    assert not any(entry.session.paused for entry in world.endpoint.registry)


def test_batch_stops_at_the_chunk_without_room() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    carol.reads = False
    alice.say(*[alice.message(carol.path, LARGE) for _ in range(20)])
    assert len(carol.transport) < 100_000
    carol.reads = True
    world.run()
    assert carol.bodies() == [LARGE] * 20
    assert world.application.next_deadline() == world.now + 30


def test_many_senders_cost_a_receiver_no_more_than_one() -> None:
    world = World()
    carol = world.member("carol")
    senders = [world.member(f"sender{number}") for number in range(20)]
    carol.reads = False
    for sender in senders:
        sender.say(*[sender.message(carol.path, LARGE) for _ in range(3)])
    assert len(carol.transport) < 100_000
    carol.reads = True
    world.run()
    assert carol.bodies() == [LARGE] * 60
    assert carol.close is None


def test_others_are_served_meanwhile() -> None:
    world = World()
    alice, carol, eve = (world.member(name) for name in ("alice", "carol", "eve"))
    fill(world, alice, carol)
    eve.say(eve.message(alice.path, b"hello alice"))
    assert alice.bodies() == [b"hello alice"]


def test_receiver_is_not_held_back_by_a_sender_that_ignores_answers() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(*[alice.message(carol.path) for _ in range(50)])
    refused = carol.requests
    # Her transport is full, so it accepts nothing more.
    carol.say(*[carol.message(alice.path, LARGE) for _ in range(3)])
    alice.reads = False
    carol.say(*[carol.message(alice.path, LARGE) for _ in range(2)])
    carol.say(*[request.response(413) for request in refused])
    entry = world.endpoint.registry.get(carol.cid)
    assert entry is not None
    assert not entry.session.paused
    eve = world.member("eve")
    carol.say(carol.message(eve.path, b"for eve"))
    assert eve.bodies() == [b"for eve"]
    alice.reads = True
    world.run()
    reports = [request for request in alice.requests if request.method == b"REPORT"]
    assert [report.header(b"status") for report in reports] == [
        b"000 413 Stop-sending-message"
    ] * 50


def test_two_that_wait_for_each_other() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.reads = False
    fill(world, alice, carol)
    carol.say(*[carol.message(alice.path, LARGE) for _ in range(6)])
    alice.reads = True
    world.run()
    carol.reads = True
    world.run()
    assert len(alice.bodies()) == 6
    assert len(carol.bodies()) == 4


def test_sender_that_leaves_while_it_waits() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    count = fill(world, alice, carol)
    world.leave(alice)
    carol.reads = True
    world.run()
    # Chunks that were answered with 200 arrive.
    assert carol.bodies() == [LARGE] * count
    assert world.relay.sessions == 1
    world.wait(30)
    assert world.relay.transactions == 0


def test_receiver_that_leaves_while_others_wait() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    fill(world, alice, carol)
    world.leave(carol)
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert not entry.session.paused
    reports = [request.header(b"status") for request in alice.requests]
    assert reports == [b"000 481 Session-does-not-exist"] * 4


def test_receiver_is_dropped_when_others_wait_too_long() -> None:
    world = World(stall_timeout=10.0)
    alice, carol = world.member("alice"), world.member("carol")
    fill(world, alice, carol)
    assert world.application.next_deadline() == world.now + 10
    world.wait(9)
    assert not carol.ended
    world.wait(1)
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert not entry.session.paused
    assert len(alice.requests) == 4
    carol.reads = True
    world.run()
    assert carol.close == CloseConnection(1008, "reads too slowly")
    # Later requests find no session.
    alice.say(alice.message(carol.path))
    assert alice.codes[-1] == 481


def test_sender_to_itself_does_not_wait() -> None:
    world = World()
    alice = world.member("alice")
    alice.reads = False
    for _ in range(5):
        alice.say(alice.message(alice.path, LARGE))
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert not entry.session.paused


@settings(max_examples=30)
@given(st.data())
def test_slowly_read_chunks_arrive_in_order(data: st.DataObject) -> None:
    world = World(allow_insecure=True)
    clients = [world.member(name) for name in ("alice", "carol", "eve")]
    link = world.link()
    sent: dict[tuple[int, int], list[bytes]] = {}
    for number in range(data.draw(st.integers(1, 12))):
        for client in clients:
            client.reads = data.draw(st.booleans())
        sender = data.draw(st.integers(0, 3))
        receiver = data.draw(st.sampled_from([at for at in range(3) if at != sender]))
        bodies = [
            b"%d-%d-%d" % (sender, number, at) + b"." * data.draw(st.sampled_from([0, 40_000]))
            for at in range(data.draw(st.integers(1, 4)))
        ]
        sent.setdefault((sender, receiver), []).extend(bodies)
        to = clients[receiver]
        if sender < 3:
            clients[sender].say(*[clients[sender].message(to.path, body) for body in bodies])
        else:
            world.link_says(link, *[from_bob(to, body) for body in bodies])
        assert all(len(client.transport) < 200_000 for client in clients)
    for client in clients:
        client.reads = True
    world.run()
    for receiver, client in enumerate(clients):
        assert client.close is None
        for sender in range(4):
            prefix = b"%d-" % sender
            arrived = [body for body in client.bodies() if body and body.startswith(prefix)]
            assert arrived == sent.get((sender, receiver), [])
    assert world.application.wanted(link)


# -- links -----------------------------------------------------------------------------------------


def test_peer_is_connected_to_when_there_is_something_for_it() -> None:
    world = World()
    alice = world.member("alice")
    assert world.application.take_connects() == []
    alice.say(alice.message((BOB,), b"one"), alice.message((BOB,), b"two"))
    assert world.application.take_connects() == ["bob"]
    link = world.link()
    assert link == -1
    assert [request.body for request in world.link_heard(link)] == [b"one", b"two"]
    alice.say(alice.message((BOB,), b"three"))
    assert world.application.take_connects() == []
    assert [request.body for request in world.link_heard(link)] == [b"one", b"two", b"three"]
    world.link_says(link, *[request.response(200) for request in world.link_heard(link)])
    assert world.relay.transactions == 0


def test_peer_sends() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    raw = from_bob(alice, b"from bob").to_bytes()
    for at in range(len(raw)):
        assert world.application.wanted(link)
        world.application.link_received(link, raw[at : at + 1], world.now)
    world.run()
    assert alice.bodies() == [b"from bob"]
    (answer,) = world.link_heard(link)
    assert answer.code == 200


def test_peer_that_cannot_be_reached() -> None:
    world = World(retry_after=5.0)
    alice = world.member("alice")
    alice.say(alice.message((BOB,)))
    assert world.application.take_connects() == ["bob"]
    world.application.link_failed("bob", world.now)
    world.run()
    assert [(report.header(b"status") or b"")[:7] for report in alice.requests] == [b"000 408"]
    # For a while it is not tried again.
    world.wait(4)
    alice.say(alice.message((BOB,)))
    assert world.application.take_connects() == []
    assert len(alice.requests) == 2
    world.wait(1)
    alice.say(alice.message((BOB,)))
    assert world.application.take_connects() == ["bob"]
    assert len(alice.requests) == 2


def test_second_connection_fails_while_the_first_is_there() -> None:
    world = World()
    alice = world.member("alice")
    alice.say(alice.message((BOB,), b"one"))
    link = world.link()
    world.application.link_failed("bob", world.now)
    world.run()
    assert alice.requests == []
    alice.say(alice.message((BOB,), b"two"))
    assert [request.body for request in world.link_heard(link)] == [b"one", b"two"]


def test_link_is_lost() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    alice.say(alice.message((BOB,)))
    world.application.link_lost(link, world.now)
    world.run()
    assert [(report.header(b"status") or b"")[:7] for report in alice.requests] == [b"000 408"]
    assert not world.application.wanted(link)
    alice.say(alice.message((BOB,)))
    assert world.application.take_connects() == ["bob"]


def test_unknown_links_are_ignored() -> None:
    world = World()
    world.application.link_received(-1, b"MSRP", world.now)
    world.application.link_backlog(-1, 5, world.now)
    world.application.link_lost(-1, world.now)
    assert not world.application.wanted(-1)
    assert world.application.take_output() == []


def test_latest_link_is_used_and_the_others_when_it_is_gone() -> None:
    world = World()
    alice = world.member("alice")
    first, second = world.link(), world.link()
    assert (first, second) == (-1, -2)
    alice.say(alice.message((BOB,), b"one"))
    world.application.link_lost(second, world.now)
    alice.say(alice.message((BOB,), b"two"))
    assert [request.body for request in world.link_heard(second)] == [b"one"]
    assert [request.body for request in world.link_heard(first)] == [b"two"]


def test_number_of_links_is_limited() -> None:
    world = World(max_links=1)
    world.link()
    assert world.application.link_opened("bob", world.now) is None
    assert world.application.link_opened("dan", world.now) == -2


def test_links_count_as_connections_of_the_relay() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_connections=1)))
    world.member("alice")
    assert world.application.link_opened("bob", world.now) is None
    assert world.relay.connections == 1


def test_unframeable_link_is_closed_after_delivering_earlier_chunks() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    world.application.link_received(
        link, from_bob(alice, b"good").to_bytes() + b"GET / HTTP/1.1\r\n\r\n", world.now
    )
    (output,) = world.application.take_output()
    assert (output.link, output.close) == (link, True)
    assert b" 200 OK\r\n" in output.data
    world.run()
    assert alice.bodies() == [b"good"]
    assert not world.application.wanted(link)
    world.application.link_received(link, b"more", world.now)
    assert world.application.take_output() == []


def test_relay_drops_a_link() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_malformed=1)))
    link = world.link()
    world.application.link_received(
        link, b"MSRP abcdef SEND\r\nTo-Path: x\r\n-------abcdef$\r\n" * 2, world.now
    )
    assert world.application.take_output() == [LinkOutput(link, b"", close=True)]
    assert world.relay.connections == 0


def test_link_waits_for_a_slow_client() -> None:
    world = World()
    alice = world.member("alice")
    alice.reads = False
    link = world.link()
    world.link_says(link, *[from_bob(alice, LARGE) for _ in range(6)])
    assert not world.application.wanted(link)
    assert len(world.link_heard(link)) == 4
    # Further input waits too; and so does the end of an unframeable stream.
    world.application.link_received(link, b"GET / HTTP/1.1\r\n\r\n", world.now)
    assert world.closed_links == []
    alice.reads = True
    world.run()
    assert alice.bodies() == [LARGE] * 6
    assert len(world.link_heard(link)) == 6
    assert world.closed_links == [link]


def test_clients_wait_for_a_slow_link() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    world.application.link_backlog(link, 70_000, world.now)
    alice.say(alice.message((BOB,), b"one"))
    assert world.link_heard(link) == []
    world.application.link_backlog(link, 60_000, world.now)
    world.run()
    assert [request.body for request in world.link_heard(link)] == [b"one"]


def test_peer_that_does_not_read_is_not_read_from() -> None:
    """Otherwise its own answers would pile up."""
    world = World()
    alice = world.member("alice")
    link = world.link()
    wanted = []
    for _ in range(1000):
        raw = from_bob(alice, b"hello").to_bytes()
        world.application.link_received(link, raw, world.now)
        for output in world.application.take_output():
            # The transport takes nothing.
            world.links[link] += output.data
        world.application.link_backlog(link, len(world.links[link]), world.now)
        world.run()
        wanted.append(world.application.wanted(link))
        if not wanted[-1]:
            break
    assert wanted == [True] * (len(wanted) - 1) + [False]
    assert 64 * 1024 <= len(world.links[link]) < 66 * 1024
    world.application.link_backlog(link, 0, world.now)
    assert world.application.wanted(link)


def test_output_counts_until_the_transport_reports() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    requests = [alice.message((BOB,), LARGE) for _ in range(6)]
    for request in requests:
        world.give(alice.cid, [BytesMessage(request.to_bytes())])
    (output,) = world.application.take_output()
    assert output.data.count(LARGE) == 3
    assert world.application.take_output() == []
    world.links[link] += output.data
    world.application.link_backlog(link, 0, world.now)
    world.run()
    assert [request.body for request in world.link_heard(link)] == [LARGE] * 6


def test_clients_wait_while_a_peer_is_connected_to() -> None:
    world = World()
    alice = world.member("alice")
    alice.say(*[alice.message((BOB,), LARGE) for _ in range(5)])
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert entry.session.paused
    link = world.link()
    assert [request.body for request in world.link_heard(link)] == [LARGE] * 5
    assert not entry.session.paused


def test_chunks_for_an_unreachable_peer_fail() -> None:
    world = World(stall_timeout=10.0)
    alice = world.member("alice")
    alice.say(*[alice.message((BOB,), LARGE) for _ in range(5)])
    world.wait(10)
    assert [(report.header(b"status") or b"")[:7] for report in alice.requests] == [b"000 408"] * 5
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert not entry.session.paused


def test_link_that_keeps_others_waiting_is_closed() -> None:
    world = World(stall_timeout=10.0)
    alice = world.member("alice")
    link = world.link()
    world.application.link_backlog(link, 70_000, world.now)
    alice.say(alice.message((BOB,)))
    world.wait(10)
    assert world.closed_links == [link]
    # It is tried on a new connection.
    assert world.application.take_connects() == ["bob"]


def test_link_is_lost_while_it_waits_and_is_waited_for() -> None:
    world = World()
    alice = world.member("alice")
    alice.reads = False
    link = world.link()
    world.link_says(link, *[from_bob(alice, LARGE) for _ in range(6)])
    world.application.link_backlog(link, 70_000, world.now)
    carol = world.member("carol")
    carol.say(carol.message((BOB,), b"hello"))
    world.application.link_lost(link, world.now)
    world.run()
    assert world.application.take_connects() == ["bob"]
    alice.reads = True
    world.run()
    # The chunk it waited with was answered, later ones were not.
    assert alice.bodies() == [LARGE] * 4


def test_responses_to_a_lost_link_are_dropped() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    world.link_says(link, from_bob(alice, b"hello"))
    world.application.link_lost(link, world.now)
    (request,) = alice.requests
    alice.say(request.response(413))
    # The report on its way back finds the peer, not the connection.
    assert world.application.take_connects() == ["bob"]
    again = world.link()
    (report,) = world.link_heard(again)
    assert report.header(b"status") == b"000 413 Stop-sending-message"


def test_aborted_chunks_are_relayed() -> None:
    world = World()
    alice, carol = world.member("alice"), world.member("carol")
    alice.say(alice.message(carol.path, b"part", continuation=Continuation.ABORT))
    (request,) = carol.requests
    assert request.continuation is Continuation.ABORT


def test_large_chunk_of_a_peer_is_split() -> None:
    world = World()
    alice = world.member("alice")
    link = world.link()
    body = random.Random(4976).randbytes(200_000)
    world.link_says(link, from_bob(alice, body))
    assert b"".join(part or b"" for part in alice.bodies()) == body
    sizes = [len(part or b"") for part in alice.bodies()]
    assert len(sizes) == 4
    assert max(sizes) < 64 * 1024
    # One chunk, one answer.
    (answer,) = world.link_heard(link)
    assert answer.code == 200
    assert world.closed_links == []


def test_random_bytes_on_a_link() -> None:
    world = World()
    link = world.link()
    world.application.link_received(link, random.Random(4975).randbytes(5000), world.now)
    world.run()
    assert world.closed_links == [link]


def test_accepting_connections_is_left_to_the_endpoint() -> None:
    """Events of the handshake never reach the application."""
    world = World()
    world.join("alice")
    assert not any(isinstance(event, AcceptConnection) for event in world.passed_over)


def test_account_question_is_passed_on_and_answered() -> None:
    world = World(users=lambda name: LATER)
    assert world.relay.authenticator is not None
    alice = world.join()
    challenge = world.relay.authenticator.challenges(world.now)[0]
    proof = (b"Authorization", credentials_for(challenge, "alice", "a-secret"))
    alice.say(MsrpRequest(new_transaction_id(), b"AUTH", (RELAY,), (alice.local,), [proof]))
    (question,) = world.application.take_questions()
    assert world.application.take_questions() == []
    assert alice.codes == []
    account = Account(Identity("alice"), "a-secret")
    world.application.answer(question.number, account, world.now)
    world.run()
    assert alice.codes == [200]


# -- nodes -----------------------------------------------------------------------------------------

N2 = RelayNode("n2.relay.example", "boot-1")
NODE = node_hop("n2")
DAN = parse_path(b"msrps://n2.relay.example:443/dans;tcp msrps://dan.invalid:1/x;ws")


def with_node(**options: Any) -> World:
    world = World(**options)
    world.application.use_nodes({"n2": N2}, world.now)
    return world


def node_link(world: World) -> int:
    number = world.application.node_link_opened(world.now, "10.0.0.2")
    assert number is not None
    world.links[number] = bytearray()
    return number


def test_node_is_connected_to_when_there_is_something_for_it() -> None:
    world = with_node()
    alice = world.member("alice")
    alice.say(alice.message(DAN, b"one"))
    assert world.application.take_connects() == [NODE]
    link = world.link(NODE)
    alice.say(alice.message(DAN, b"two"))
    first, second = world.link_heard(link)
    assert (first.body, second.body, second.to_path) == (b"one", b"two", DAN)
    world.application.link_lost(link, world.now)
    world.run()
    assert [(report.header(b"status") or b"")[:7] for report in alice.requests] == [b"000 408"] * 2


def test_node_sends() -> None:
    world = with_node()
    alice = world.member("alice")
    link = node_link(world)
    world.link_says(link, replace(from_bob(alice, b"hello"), from_path=DAN))
    assert alice.bodies() == [b"hello"]
    assert world.application.wanted(link)
    (answer,) = world.link_heard(link)
    assert answer.code == 200
    world.application.link_backlog(link, 70_000, world.now)
    assert not world.application.wanted(link)
    world.application.link_lost(link, world.now)
    (request,) = alice.requests
    alice.say(request.response(413))
    # The report goes to the node on a connection of our own.
    assert world.application.take_connects() == [NODE]


def test_connections_of_nodes_are_limited() -> None:
    config = replace(CONFIG, limits=MsrpLimits(max_connections=3))
    world = with_node(config=config, max_node_links=2)
    links = [node_link(world), node_link(world)]
    assert world.application.node_link_opened(world.now) is None
    world.application.link_lost(links[0], world.now)
    world.link(), world.link()
    assert world.application.node_link_opened(world.now) is None


def test_node_that_leaves_ends_what_it_had() -> None:
    world = with_node()
    alice = world.member("alice")
    link = world.link(NODE)
    alice.say(alice.message(DAN))
    world.application.use_nodes({"n2": N2}, world.now)
    world.run()
    assert (world.closed_links, alice.requests) == ([], [])
    world.application.use_nodes({}, world.now)
    world.run()
    assert world.closed_links == [link]
    assert [(report.header(b"status") or b"")[:7] for report in alice.requests] == [b"000 481"]
    alice.say(alice.message(DAN))
    assert alice.codes[-1] == 481
    assert world.application.link_opened(NODE, world.now) is None
    world.application.link_failed(NODE, world.now)
    assert world.application.take_connects() == []


def test_node_that_leaves_while_it_is_connected_to() -> None:
    world = with_node()
    alice = world.member("alice")
    alice.say(*[alice.message(DAN, LARGE) for _ in range(5)])
    entry = world.endpoint.registry.get(alice.cid)
    assert entry is not None
    assert entry.session.paused
    world.application.use_nodes({}, world.now)
    world.run()
    assert not entry.session.paused
    # One that was read later found that the node had left.
    reports = [(report.header(b"status") or b"")[:7] for report in alice.requests]
    assert reports == [b"000 481"] * len(reports)
    assert len(reports) + alice.codes.count(481) == 5


def test_restarted_node_is_connected_to_again() -> None:
    world = with_node()
    alice = world.member("alice")
    link = world.link(NODE)
    world.application.use_nodes({"n2": replace(N2, boot="boot-2")}, world.now)
    world.run()
    assert world.closed_links == [link]
    alice.say(alice.message(DAN))
    assert world.application.take_connects() == [NODE]


def test_receiver_holds_up_a_node_for_a_shorter_time() -> None:
    world = with_node()
    alice, carol = world.member("alice"), world.member("carol")
    alice.reads = False
    link = node_link(world)
    chunks = [replace(from_bob(alice, LARGE), from_path=DAN) for _ in range(6)]
    world.link_says(link, *chunks, replace(from_bob(carol, b"for carol"), from_path=DAN))
    assert not world.application.wanted(link)
    carol.say(carol.message(alice.path, LARGE))
    assert world.application.next_deadline() == world.now + 5
    world.wait(4)
    assert not alice.ended
    world.wait(1)
    assert world.application.wanted(link)
    assert carol.bodies() == [b"for carol"]
    alice.reads = True
    world.run()
    assert alice.close == CloseConnection(1008, "reads too slowly")


def test_link_of_a_node_is_lost_while_it_waits() -> None:
    world = with_node()
    alice = world.member("alice")
    alice.reads = False
    link = node_link(world)
    world.link_says(link, *[replace(from_bob(alice, LARGE), from_path=DAN) for _ in range(6)])
    world.application.link_lost(link, world.now)
    world.run()
    alice.reads = True
    world.run()
    assert alice.bodies() == [LARGE] * 4

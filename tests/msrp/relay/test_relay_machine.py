"""The relay against a model, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tests.msrp._relay import (
    BOB,
    USERS,
    Client,
    World,
    code_of,
    only,
    status_of,
)
from wsproto_sip.msrp.message.chunk import MsrpChunk, MsrpRequest
from wsproto_sip.msrp.message.uri import MsrpPath


@dataclass(eq=False)
class Flight:
    """A SEND that the relay has forwarded, as its receiver sees it; ``None`` for the peer."""

    sender: Client | None
    receiver: Client | None
    request: MsrpRequest
    deadline: float
    mode: bytes


class RelayMachine(RuleBasedStateMachine):
    """The relay against a model of its clients and transactions.

    Clients leave, and others arrive with the same numbers and URIs: a client of the bundle may have
    belonged to an earlier connection, of which nothing may remain.
    """

    clients = Bundle("clients")
    flights = Bundle("flights")

    @initialize(target=clients)
    def start(self) -> object:
        self.world = World()
        self.alive: dict[int, Client] = {}
        self.expires: dict[int, float] = {}
        self.pending: list[Flight] = []
        self.links: list[int] = []
        self.last_link = 1000
        self.open_link()
        return multiple(self.join(1, "alice", 60), self.join(2, "carol", 200))

    def here(self, client: Client) -> bool:
        return self.alive.get(client.id) is client

    def live(self, client: Client) -> bool:
        return self.here(client) and self.expires[client.id] > self.world.now

    def gone(self, number: int) -> None:
        del self.alive[number], self.expires[number]

    def check_reports(self, ended: list[Flight], status: bytes, *, late: bool = False) -> None:
        """Check that each remaining sender gets one report per message, in order."""
        expected: list[tuple[int | str, bytes | None]] = []
        for flight in ended:
            # A sender that asked for partial failure reports does not want time-outs.
            if flight.mode == b"yes" or not late:
                if flight.sender is None:
                    expected.append(("bob", flight.request.message_id))
                elif self.here(flight.sender):
                    expected.append((flight.sender.id, flight.request.message_id))
        self.pending = [flight for flight in self.pending if flight not in ended]
        found: list[tuple[int | str, bytes | None]] = []
        for to_whom, report in self.world.take():
            assert (status_of(report) or b"").startswith(status)
            found.append((self.name(to_whom), report.message_id))
        assert found == expected

    def name(self, to_whom: int | str) -> int | str:
        return "bob" if to_whom == "bob" or to_whom in self.links else to_whom

    # -- users

    @rule(
        target=clients,
        number=st.integers(1, 3),
        user=st.sampled_from(sorted(USERS)),
        expires=st.integers(60, 200),
    )
    def arrive(self, number: int, user: str, expires: int) -> object:
        return multiple() if number in self.alive else self.join(number, user, expires)

    def join(self, number: int, user: str, expires: int) -> Client:
        client = self.world.client(number, user, expires=expires)
        self.alive[number] = client
        self.expires[number] = self.world.now + expires
        return client

    @rule(client=clients, expires=st.integers(60, 200))
    def prolong(self, client: Client, expires: int) -> None:
        if self.here(client):
            before, known = client.session, self.live(client)
            assert client.authenticate(expires=expires).code == 200
            assert not known or client.session == before
            self.expires[client.id] = self.world.now + expires

    @rule(client=clients)
    def leave(self, client: Client) -> None:
        if self.here(client):
            self.world.do(self.world.relay.connection_closed(client.id, self.world.now))
            self.gone(client.id)
            self.check_reports(
                [flight for flight in self.pending if flight.receiver is client], b"000 481"
            )

    @rule()
    def connect_peer(self) -> None:
        self.open_link()

    def open_link(self) -> None:
        self.last_link += 1
        made = self.world.relay.connection_opened(self.last_link, self.world.now, peer="bob")
        assert made == []
        self.links.append(self.last_link)

    @rule()
    def lose_peer(self) -> None:
        if self.links:
            link = self.links.pop()
            self.world.do(self.world.relay.connection_closed(link, self.world.now))
            ended = [flight for flight in self.pending if flight.receiver is None]
            self.check_reports([] if self.links else ended, b"000 408")

    @rule()
    def miss_peer(self) -> None:
        self.world.do(self.world.relay.peer_unreachable("bob", self.world.now))
        self.check_reports(
            [flight for flight in self.pending if flight.receiver is None], b"000 408"
        )

    # -- what they say

    @rule(
        target=flights,
        sender=clients,
        receiver=clients,
        mode=st.sampled_from([b"yes", b"partial", b"no"]),
        body=st.binary(max_size=30),
    )
    def send(self, sender: Client, receiver: Client, mode: bytes, body: bytes) -> object:
        if not self.here(sender):
            return multiple()
        to = sender.to(receiver.session, receiver.uri)
        request, sent = self.give(sender, to, mode, body)
        if not (self.live(sender) and self.live(receiver)):
            self.refused(sent, sender.id, mode, 481)
            return multiple()
        got = self.passed_on(request, sent, sender.id, receiver.id)
        assert got.to_path == (receiver.uri,)
        assert got.from_path == (receiver.session, sender.session, sender.uri)
        return self.fly(sender, receiver, got, mode)

    @rule(target=flights, sender=clients, mode=st.sampled_from([b"yes", b"partial", b"no"]))
    def send_to_peer(self, sender: Client, mode: bytes) -> object:
        if not self.here(sender):
            return multiple()
        request, sent = self.give(sender, sender.to(BOB), mode, b"hello")
        if not self.live(sender):
            self.refused(sent, sender.id, mode, 481)
            return multiple()
        got = self.passed_on(request, sent, sender.id, "bob")
        assert (got.to_path, got.from_path) == ((BOB,), (sender.session, sender.uri))
        return self.fly(sender, None, got, mode)

    @rule(target=flights, receiver=clients, mode=st.sampled_from([b"yes", b"partial", b"no"]))
    def send_from_peer(self, receiver: Client, mode: bytes) -> object:
        if not self.links:
            return multiple()
        request = receiver.request(
            (receiver.session, receiver.uri),
            from_path=(BOB,),
            headers=((b"Byte-Range", b"1-5/5"), (b"Failure-Report", mode)),
            message_id=self.world.tid(),
        )
        sent = self.world.give(self.links[-1], request)
        if not self.live(receiver):
            self.refused(sent, self.links[-1], mode, 481)
            return multiple()
        got = self.passed_on(request, sent, self.links[-1], receiver.id)
        assert (got.to_path, got.from_path) == ((receiver.uri,), (receiver.session, BOB))
        return self.fly(None, receiver, got, mode)

    def give(
        self, sender: Client, to: MsrpPath, mode: bytes, body: bytes
    ) -> tuple[MsrpRequest, list[tuple[int | str, MsrpChunk]]]:
        held = b"1-%d/*" % len(body)
        headers = ((b"Byte-Range", held), (b"Failure-Report", mode))
        request = sender.request(to, headers=headers, body=body, message_id=self.world.tid())
        return request, self.world.give(sender.id, request)

    @staticmethod
    def refused(
        sent: list[tuple[int | str, MsrpChunk]], to_whom: int, mode: bytes, code: int
    ) -> None:
        if mode == b"no":
            assert sent == []
        else:
            assert code_of(sent, to_whom) == code

    @staticmethod
    def passed_on(
        request: MsrpRequest,
        sent: list[tuple[int | str, MsrpChunk]],
        sender: int,
        receiver: int | str,
    ) -> MsrpRequest:
        if request.header(b"failure-report") == b"yes":
            assert sent.pop(0) == (sender, request.response(200))
        got = only(sent, receiver)
        assert isinstance(got, MsrpRequest)
        assert (got.body, got.headers) == (request.body, request.headers)
        return got

    def fly(
        self, sender: Client | None, receiver: Client | None, got: MsrpRequest, mode: bytes
    ) -> Flight:
        flight = Flight(sender, receiver, got, self.world.now + 30, mode)
        if mode != b"no":
            self.pending.append(flight)
        return flight

    @rule(sender=clients, receiver=clients, mode=st.sampled_from([b"yes", b"partial"]))
    def lie(self, sender: Client, receiver: Client, mode: bytes) -> None:
        """From another client's path, or through another client's session."""
        if not self.here(sender) or sender.id == receiver.id:
            return
        headers = ((b"Failure-Report", mode),)
        to = sender.to(receiver.session, receiver.uri)
        forged = sender.request(to, from_path=(receiver.uri,), headers=headers)
        assert code_of(self.world.give(sender.id, forged), sender.id) == (
            403 if self.live(sender) else 481
        )
        stolen = sender.request((receiver.session, receiver.uri), headers=headers)
        assert code_of(self.world.give(sender.id, stolen), sender.id) == (
            506 if self.live(receiver) else 481
        )
        if self.links:
            posing = receiver.request(
                (receiver.session, receiver.uri), from_path=(sender.uri,), headers=headers
            )
            assert code_of(self.world.give(self.links[0], posing), self.links[0]) == (
                403 if self.live(receiver) else 481
            )

    # -- what becomes of it

    def answers_from(self, flight: Flight) -> list[int]:
        """Return the possible origins of the response."""
        if flight.receiver is None:
            return self.links
        return [flight.receiver.id] if self.here(flight.receiver) else []

    @rule(flight=consumes(flights), code=st.sampled_from([200, 400, 413]))
    def answer(self, flight: Flight, code: int) -> None:
        if not (numbers := self.answers_from(flight)):
            return
        known = flight in self.pending
        response = flight.request.response(code).to_bytes()
        self.world.do(self.world.relay.receive(numbers[0], response, self.world.now))
        ended = [flight] if known and code != 200 else []
        if known:
            self.pending.remove(flight)
        self.check_reports(ended, b"000 %d" % code)

    @rule(flight=flights)
    def answer_for_another(self, flight: Flight) -> None:
        rightful = self.answers_from(flight)
        for number in (*self.alive, *self.links):
            if number not in rightful:
                assert self.world.give(number, flight.request.response(413)) == []

    @rule(flight=flights)
    def report(self, flight: Flight) -> None:
        """Let the receiver confirm the message, which is never answered."""
        request = flight.request
        report = MsrpRequest(
            self.world.tid(),
            b"REPORT",
            request.from_path,
            request.to_path,
            [(b"Message-ID", request.message_id or b""), (b"Status", b"000 200 OK")],
        )
        for number in self.answers_from(flight)[:1]:
            sent = self.world.give(number, report)
            ends = [client for client in (flight.receiver, flight.sender) if client is not None]
            # They may have other sessions by now than those it has passed.
            passed = tuple(client.session for client in ends)
            if not all(map(self.live, ends)) or request.from_path[: len(ends)] != passed:
                assert sent == []
                continue
            got = only(sent, "bob" if flight.sender is None else flight.sender.id)
            assert isinstance(got, MsrpRequest)
            assert (got.headers, got.body) == (report.headers, None)
            if flight.sender is not None:
                assert got.to_path == (flight.sender.uri,)

    @rule(seconds=st.sampled_from([0.0, 1.0, 15.0, 30.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        world = self.world
        world.now += seconds
        world.do(world.relay.handle_timeout(world.now))
        # First the transactions, then connections without a session for too long.
        late = [flight for flight in self.pending if flight.deadline <= world.now]
        cut = [self.alive[number] for number, _ in world.dropped]
        orphans = [
            flight for flight in self.pending if flight not in late and flight.receiver in cut
        ]
        self.check_reports(late, b"000 408", late=True)
        for client in cut:
            assert self.expires[client.id] <= world.now
            self.gone(client.id)
        world.dropped.clear()
        assert orphans == []
        assert world.relay.handle_timeout(world.now) == []

    @invariant()
    def the_tables_agree(self) -> None:
        relay = self.world.relay
        assert relay.connections == len(self.alive) + len(self.links)
        assert relay.transactions == len(self.pending)
        assert relay.sessions >= sum(map(self.live, self.alive.values()))
        assert relay.sessions <= len(self.alive)
        deadline = relay.next_deadline()
        if self.pending:
            assert deadline is not None
            assert deadline <= min(flight.deadline for flight in self.pending)


RelayMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestRelayMachine = RelayMachine.TestCase

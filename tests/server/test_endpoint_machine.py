"""An endpoint under any interleaving of clients, commands and time, against a simple model.

Theory of operation: every connection has a party at its other end, which is a session of the other
role, and may be deaf: then nothing reaches it and nothing comes from it, as if a cable were cut.
Bytes are carried until none are left; deadlines are met exactly. The model is the parties'
knowledge: which connections exist, and what was sent.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import cast

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.policy.decision import (
    Continue,
    Decision,
    Deferred,
    PolicyChain,
    Reject,
    RequestContext,
)
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import AdmissionPending, CapacityError, Closed, Opened
from wsproto_sip.server.management.commands import (
    CloseCommand,
    Command,
    CommandError,
    ConnectCommand,
    ConnectResult,
    DisableCommand,
    DumpCommand,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    PingCommand,
    PongCommand,
)
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import TransportAction
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
NAMES = ["alice", "bob"]
TARGETS = ["ws://a.example/", "ws://b.example:81/x"]
MAX_CONNECTIONS, MAX_PER_ADDRESS = 6, 3
OPEN_TIMEOUT, CLOSE_TIMEOUT = 10.0, 5.0
KEEPALIVE = KeepaliveConfig(interval=25.0, answer_timeout=20.0)
QUIET = SessionConfig(
    keepalive=KeepaliveConfig(mechanism=Mechanism.NONE), open_timeout=None, close_timeout=None
)

PICKS = st.integers(0, 7)
SUBPROTOCOLS = st.sampled_from([None, "sip", "msrp"])
AFTER = st.sampled_from([b"", b"", b"\x81\x81\0\0\0\0a", b"GET / HTTP/1.1\r\n\r\n"])


def admit(context: RequestContext) -> Decision:
    """Decide about a request by its path."""
    verdict, _, name = context.request.target[1:].partition("/")
    if verdict == "ask":
        return Deferred(
            name, lambda answer: Continue(identity=Identity(name)) if answer else Reject(401)
        )
    if verdict == "raise":
        raise RuntimeError(name)
    return Continue(identity=Identity(name)) if verdict == "yes" else Reject(403)


class Party:
    """The other end of a connection.

    Attributes:
        asked: Whether a request was sent.
        pending: Whether the endpoint waits for an answer about it.
        opened: Whether the connection was ever open.
        closing: When closing started.
        gone_by: When it must have ended, because the endpoint is draining.
    """

    def __init__(self, cid: int, address: str, port: int, role: ConnectionType) -> None:
        self.cid = cid
        self.address = address
        self.port = port
        self.session = Session(role, now=0.0, config=QUIET)
        self.received: list[Event] = []
        self.asked = self.pending = self.opened = self.deaf = self.there = False
        self.closing = self.gone_by = inf
        self.subprotocol: str | None = None
        self.name: str | None = None
        self.offer: str | None = None


class EndpointMachine(RuleBasedStateMachine):
    """The rules."""

    def __init__(self) -> None:
        super().__init__()
        session = SessionConfig(
            open_timeout=OPEN_TIMEOUT, close_timeout=CLOSE_TIMEOUT, keepalive=KEEPALIVE
        )
        self.endpoint = Endpoint(
            EndpointConfig(
                session=session,
                policies=PolicyChain([SubprotocolPolicy(["sip", "msrp"], required=False), admit]),
                shards=3,
                max_due=2,
                max_connections=MAX_CONNECTIONS,
                max_per_address=MAX_PER_ADDRESS,
                # Full is tested by itself: another handshake makes room.
                max_handshaking=None,
                max_handshaking_per_address=None,
                max_queued_messages=2,
            ),
            now=0.0,
        )
        self.now = 0.0
        self.live: dict[int, Party] = {}
        self.last = 0
        self.ended: Counter[int] = Counter()
        self.heard: Counter[int] = Counter()
        self.opened = self.failed_handshakes = self.closed_open = self.errors = 0
        self.lets_in = True
        self.drained_by = inf
        self.endpoint.on_closed(self.on_closed)
        self.endpoint.on_closed(self.broken_listener)

    # -- what is heard -----------------------------------------------------------------------------

    def on_closed(self, event: Closed) -> None:
        self.heard[event.cid] += 1

    def broken_listener(self, event: Closed) -> None:
        self.errors += 1
        raise RuntimeError("a listener of somebody else's")

    def note(self, cid: int, events: list[Event]) -> None:
        for event in events:
            party = self.live[cid]
            if isinstance(event, Opened):
                assert not party.opened
                outgoing = party.session.role is ConnectionType.SERVER
                assert self.lets_in or outgoing
                assert (event.identity is None) == outgoing
                party.opened = True
                party.pending = False
                party.subprotocol = event.subprotocol
                party.name = event.identity.name if event.identity is not None else None
                self.opened += 1
            elif isinstance(event, AdmissionPending):
                party.pending = True
            elif isinstance(event, Closed):
                self.note_end(party, event)
            elif isinstance(event, RejectConnection):
                assert not party.opened
            else:
                # Messages, control frames, and endings: a close frame, or an invalid frame.
                assert party.opened
                if isinstance(event, CloseConnection):
                    party.closing = min(party.closing, self.now)

    def note_end(self, party: Party, event: Closed) -> None:
        assert event.cid == party.cid
        assert (event.address, event.port) == (party.address, party.port)
        assert event.opened == party.opened
        assert event.user_data == f"user data of {party.cid}"
        assert event.subprotocol == party.subprotocol
        assert (event.identity.name if event.identity else None) == party.name
        self.ended[party.cid] += 1
        if party.opened:
            self.closed_open += 1
        elif party.session.role is ConnectionType.CLIENT:
            self.failed_handshakes += 1
        del self.live[party.cid]

    # -- carrying ----------------------------------------------------------------------------------

    def carry(self) -> None:
        """Carry bytes and follow the endpoint's instructions until there are none."""
        endpoint = self.endpoint
        for _ in range(1000):
            when = endpoint.next_deadline()
            if when is not None and when <= self.now:
                for cid, event in endpoint.handle_timeout(self.now):
                    self.note(cid, [event])
                self.note_leaving()
            outputs = endpoint.take_output()
            for output in outputs:
                party = self.live.get(output.cid)
                if party is None:
                    continue
                if not party.deaf:
                    party.received += party.session.receive(output.data, self.now)
                    self.answer_request(party)
                if output.action is TransportAction.ABORT or (
                    output.action is TransportAction.CLOSE and not party.deaf
                ):
                    self.hang_up(party)
            said = [party for party in list(self.live.values()) if self.say(party)]
            if not outputs and not said and (when is None or when > self.now):
                return
        raise AssertionError("the endpoint never rests")

    def note_leaving(self) -> None:
        """Draining sets when a connection has ended; the endpoint chooses when it leaves."""
        for party in self.live.values():
            entry = self.endpoint.registry.get(party.cid)
            assert entry is not None
            leaving = entry.session.state is not ConnectionState.OPEN
            if party.opened and leaving and party.gone_by < inf:
                party.closing = min(party.closing, self.now)

    def say(self, party: Party) -> bool:
        raw = party.session.data_to_send()
        if not raw or party.deaf:
            return False
        self.note(party.cid, self.endpoint.receive(party.cid, raw, self.now))
        return True

    def answer_request(self, party: Party) -> None:
        """Accept everything at the other end of our own connections."""
        if party.received and isinstance(party.received[-1], Request):
            offered = party.received.pop().subprotocols  # type: ignore[attr-defined]
            chosen = offered[0] if offered else None
            party.session.send(AcceptConnection(subprotocol=chosen), self.now)

    def hang_up(self, party: Party) -> None:
        cid = party.cid
        self.note(cid, self.endpoint.receive(cid, None, self.now))
        assert cid not in self.live
        assert self.endpoint.receive(cid, b"late", self.now) == []

    def clients(self) -> list[Party]:
        """Return the parties that have connected to the endpoint."""
        role = ConnectionType.CLIENT
        return [party for party in self.live.values() if party.session.role is role]

    def pick(self, number: int) -> Party:
        return list(self.live.values())[number % len(self.live)]

    def talking(self) -> list[Party]:
        """Return the parties that can send."""
        return [
            party
            for party in self.live.values()
            if not party.deaf and party.session.state is ConnectionState.OPEN
        ]

    def enter(self, cid: int, address: str, port: int, role: ConnectionType) -> Party:
        assert cid == self.last + 1
        self.last = cid
        party = self.live[cid] = Party(cid, address, port, role)
        entry = self.endpoint.registry.get(cid)
        assert entry is not None
        entry.user_data = f"user data of {cid}"
        return party

    # -- rules: beginning --------------------------------------------------------------------------

    @initialize(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=4))
    def begin(self, names: list[str]) -> None:
        for name in names:
            self.join(ADDRESSES[len(self.live) % 3], name, "sip", b"")

    @rule(
        address=st.sampled_from(ADDRESSES),
        name=st.sampled_from(NAMES),
        subprotocol=SUBPROTOCOLS,
        after=AFTER,
    )
    def join(self, address: str, name: str, subprotocol: str | None, after: bytes) -> None:
        before = self.last
        self.accept(address)
        # After the end of draining it is ended at once.
        if self.last != before and self.last in self.live:
            self.shake_hands(-1, "yes", name, subprotocol, after)

    @rule(address=st.sampled_from(ADDRESSES))
    def accept(self, address: str) -> None:
        of_address = sum(party.address == address for party in self.live.values())
        full = len(self.live) >= MAX_CONNECTIONS or of_address >= MAX_PER_ADDRESS
        port = 1000 + self.last
        if full:
            with pytest.raises(CapacityError):
                self.endpoint.accept((address, port), self.now)
            return
        cid = self.endpoint.accept((address, port), self.now)
        self.enter(cid, address, port, ConnectionType.CLIENT).there = True
        self.carry()

    @precondition(lambda self: any(not p.asked and not p.deaf for p in self.clients()))
    @rule(
        number=PICKS,
        verdict=st.sampled_from(["yes", "yes", "ask", "no", "raise"]),
        name=st.sampled_from(NAMES),
        subprotocol=SUBPROTOCOLS,
        after=AFTER,
    )
    def shake_hands(
        self, number: int, verdict: str, name: str, subprotocol: str | None, after: bytes
    ) -> None:
        waiting = [party for party in self.clients() if not party.asked and not party.deaf]
        party = waiting[number % len(waiting)]
        party.asked = True
        protocols = [] if subprotocol is None else [subprotocol]
        party.session.send(
            Request(host="h", target=f"/{verdict}/{name}", subprotocols=protocols), self.now
        )
        raw = party.session.data_to_send()
        before = self.endpoint.statistics.hook_errors
        given = self.endpoint.receive(party.cid, raw + after, self.now)
        self.note(party.cid, given)
        kinds = [type(event) for event in given]
        if not self.lets_in:
            assert kinds == []
        elif verdict == "yes":
            # The bytes after the request are frames, or not.
            after_it: dict[bytes, list[type[Event]]] = {
                b"": [],
                b"\x81\x81\0\0\0\0a": [TextMessage],
            }
            assert kinds == [Opened, *after_it.get(after, [CloseConnection])]
        else:
            assert kinds == ([AdmissionPending] if verdict == "ask" else [])
        self.errors += self.lets_in and verdict == "raise"
        assert self.endpoint.statistics.hook_errors - before == (
            self.lets_in and verdict == "raise"
        )
        self.carry()
        if self.lets_in and verdict == "ask":
            assert party.received == []
            return
        answer = party.received[0]
        if isinstance(answer, AcceptConnection):
            assert verdict == "yes"
            assert answer.subprotocol == subprotocol
            return
        # A rejection is HTTP, and the end; bytes after the request were not read.
        assert isinstance(answer, RejectConnection)
        assert (b"connection", b"close") in [(n.lower(), v) for n, v in answer.headers]
        status = {"no": 403, "raise": 500}
        assert answer.status_code == (status[verdict] if self.lets_in else 503)
        assert party.cid not in self.live

    @precondition(lambda self: any(not p.asked and not p.deaf for p in self.clients()))
    @rule(number=PICKS, raw=st.sampled_from([b"GET /", b"\0", b"HELO\r\n\r\n", b"\r\n\r\n"]))
    def send_no_handshake(self, number: int, raw: bytes) -> None:
        waiting = [party for party in self.clients() if not party.asked and not party.deaf]
        party = waiting[number % len(waiting)]
        party.asked = True
        self.note(party.cid, self.endpoint.receive(party.cid, raw, self.now))
        # Half a request line is not an error yet; its time will run out.
        self.carry()
        assert not party.opened

    @precondition(lambda self: self.live)
    @rule(number=PICKS, answer=st.booleans())
    def decide(self, number: int, answer: bool) -> None:
        asked = [party for party in self.live.values() if party.pending] or [self.pick(number)]
        party = asked[number % len(asked)]
        waits = party.pending and party.closing == inf
        party.pending = False
        given = self.endpoint.decide(party.cid, answer, self.now)
        self.note(party.cid, given)
        expected = [Opened] if waits and answer and self.lets_in else []
        assert [type(event) for event in given if isinstance(event, Opened)] == expected
        self.carry()

    # While draining there may be connections left that can be used.
    @precondition(lambda self: self.drained_by == inf)
    @rule(uri=st.sampled_from(TARGETS), subprotocol=st.sampled_from([None, "sip"]))
    def connect(self, uri: str, subprotocol: str | None) -> None:
        host, port = ("a.example", 80) if uri == TARGETS[0] else ("b.example", 81)
        usable = [
            party.cid
            for party in self.live.values()
            if (party.address, party.port) == (host, port)
            and party.closing == inf
            and party.offer == subprotocol
        ]
        if not usable and len(self.live) >= MAX_CONNECTIONS:
            with pytest.raises(CommandError, match="500 Error connecting"):
                self.endpoint.execute(ConnectCommand(uri, subprotocol), self.now)
            return
        result = self.endpoint.execute(ConnectCommand(uri, subprotocol), self.now)
        assert isinstance(result, ConnectResult)
        connects = self.endpoint.take_connects()
        if usable:
            assert usable == [result.id]
            assert connects == []
            return
        assert [(wanted.cid, wanted.host, wanted.port) for wanted in connects] == [
            (result.id, host, port)
        ]
        party = self.enter(result.id, host, port, ConnectionType.SERVER)
        party.offer = subprotocol
        self.carry()

    @precondition(lambda self: any(not p.there for p in self.live.values()))
    @rule(number=PICKS, reached=st.booleans())
    def transport_opened(self, number: int, reached: bool) -> None:
        waiting = [party for party in self.live.values() if not party.there]
        party = waiting[number % len(waiting)]
        if not reached:
            self.hang_up(party)
        else:
            party.there = True
            self.endpoint.connected(party.cid, self.now)
            with pytest.raises(LocalProtocolError):
                self.endpoint.connected(party.cid, self.now)
        self.carry()
        assert party.opened == (reached and not party.deaf)

    # -- rules: in between -------------------------------------------------------------------------

    @precondition(lambda self: self.talking())
    @rule(number=PICKS, text=st.sampled_from(["", "a", "é" * 100]))
    def message_from_party(self, number: int, text: str) -> None:
        party = self.talking()[number % len(self.talking())]
        party.session.send(TextMessage(text), self.now)
        given = self.endpoint.receive(party.cid, party.session.data_to_send(), self.now)
        assert given == [TextMessage(text)]
        self.carry()

    @precondition(lambda self: self.live)
    @rule(number=PICKS, text=st.sampled_from(["", "a", "é" * 100]))
    def message_to_party(self, number: int, text: str) -> None:
        party = self.pick(number)
        try:
            self.endpoint.send(party.cid, TextMessage(text), self.now)
        except LocalProtocolError:
            outgoing = party.session.role is ConnectionType.SERVER and party.closing == inf
            assert not party.opened or party.closing < inf
            assert not outgoing or len(self.queued(party)) == 2
            return
        if party.opened:
            self.carry()
            if not party.deaf:
                assert party.received[-1] == TextMessage(text)
        else:
            assert party.session.role is ConnectionType.SERVER
            assert self.queued(party)[-1] == TextMessage(text)

    def queued(self, party: Party) -> list[TextMessage]:
        queue = self.endpoint._dialling._queues[party.cid]
        return cast("list[TextMessage]", queue.messages)

    @precondition(lambda self: self.live)
    @rule(number=PICKS, kind=st.sampled_from([PingCommand, PongCommand]))
    def control(self, number: int, kind: type[PingCommand | PongCommand]) -> None:
        party = self.pick(number)
        if not party.opened or party.closing < inf:
            with pytest.raises(CommandError) as caught:
                self.endpoint.execute(kind(party.cid), self.now)
            assert (caught.value.code, caught.value.text) == (500, "Error sending frame")
            return
        assert self.endpoint.execute(kind(party.cid), self.now) == EmptyResult()
        self.carry()
        if not party.deaf:
            assert type(party.received[-1]) is (Ping if kind is PingCommand else Pong)

    @precondition(lambda self: self.live)
    @rule(number=PICKS)
    def go_deaf(self, number: int) -> None:
        self.pick(number).deaf = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 20.0, 25.0, 60.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (when := self.endpoint.next_deadline()) is not None and when <= until:
            assert when > self.now
            self.now = when
            self.carry()
        self.now = until
        self.carry()

    @rule(order=st.sampled_from(DumpOrder), limit=st.integers(1, 4))
    def dump(self, order: DumpOrder, limit: int) -> None:
        used: list[float] = []
        seen: list[int] = []
        offset: int | None = 0
        while offset is not None:
            result = self.endpoint.execute(DumpCommand(order, offset, limit), self.now)
            assert isinstance(result, DumpResult)
            seen += [info.id for info in result.connections]
            used += [self.now - info.idle for info in result.connections]
            offset = result.next_offset
        assert sorted(seen) == sorted(self.live)
        if order is DumpOrder.ID_HASH:
            assert seen == sorted(seen)
        else:
            assert used == sorted(used, reverse=order is DumpOrder.USED_ASC)

    # -- rules: ending -----------------------------------------------------------------------------

    @precondition(lambda self: self.talking())
    @rule(number=PICKS)
    def close_by_party(self, number: int) -> None:
        party = self.talking()[number % len(self.talking())]
        party.session.send(CloseConnection(1000), self.now)
        # The endpoint answers; the server's end closes first then.
        party.closing = self.now
        self.carry()
        if party.session.role is ConnectionType.CLIENT:
            assert party.cid not in self.live
        elif party.cid in self.live:
            self.hang_up(party)

    @precondition(lambda self: self.live)
    @rule(number=PICKS, by_command=st.booleans())
    def close(self, number: int, by_command: bool) -> None:
        party = self.pick(number)
        again = party.closing < inf
        unopened = not party.opened and party.session.role is ConnectionType.SERVER
        if by_command:
            assert self.endpoint.execute(CloseCommand(party.cid), self.now) == EmptyResult()
        else:
            self.endpoint.close(party.cid, 4000, "enough", now=self.now)
        if party.closing == inf:
            party.closing = self.now
        if again or unopened:
            assert party.cid not in self.endpoint.registry
        self.carry()
        if not party.deaf and party.cid in self.live:
            # A client waits for the server to close the transport.
            assert party.session.role is ConnectionType.SERVER
            self.hang_up(party)

    @precondition(lambda self: self.live)
    @rule(number=PICKS)
    def transport_ends(self, number: int) -> None:
        self.hang_up(self.pick(number))
        self.carry()

    @rule(command=st.sampled_from([DisableCommand(), EnableCommand(), EnableCommand()]))
    def switch(self, command: Command) -> None:
        before = len(self.live)
        if isinstance(command, EnableCommand) and self.drained_by < inf:
            with pytest.raises(CommandError, match="drained"):
                self.endpoint.execute(command, self.now)
        else:
            assert self.endpoint.execute(command, self.now) == EmptyResult()
            self.lets_in = isinstance(command, EnableCommand)
        assert len(self.live) == before

    @rule(cid=st.integers(-1, 200))
    def command_nobody(self, cid: int) -> None:
        if cid in self.live:
            return
        for command in (CloseCommand(cid), PingCommand(cid), PongCommand(cid)):
            with pytest.raises(CommandError, match="500 Unknown connection ID"):
                self.endpoint.execute(command, self.now)

    @precondition(lambda self: self.last > 8)
    @rule(seconds=st.sampled_from([0.0, 3.0, 30.0]))
    def drain(self, seconds: float) -> None:
        self.lets_in = False
        self.drained_by = self.now + seconds
        self.endpoint.drain(self.now, self.drained_by)
        for party in self.live.values():
            # At some time until then.
            party.gone_by = self.drained_by
        self.carry()

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def everybody_is_in_the_table_once(self) -> None:
        endpoint = self.endpoint
        registry = endpoint.registry
        assert [entry.cid for entry in registry] == list(self.live)
        assert self.heard == self.ended
        assert set(self.ended.values()) <= {1}
        assert endpoint.statistics.hook_errors == self.errors
        for address in ADDRESSES:
            mine = [party for party in self.live.values() if party.address == address]
            assert registry.count_of(address) == len(mine)
        for name in NAMES:
            named = [party.cid for party in self.live.values() if party.name == name]
            assert [entry.cid for entry in registry.by_identity(name)] == named
        for token in ("sip", "msrp"):
            speakers = [p.cid for p in self.live.values() if p.opened and p.subprotocol == token]
            assert [entry.cid for entry in registry.by_subprotocol(token)] == speakers
        unopened = sum(not party.opened for party in self.live.values())
        assert registry.handshaking == unopened

    @invariant()
    def counters_agree(self) -> None:
        values = self.endpoint.statistics.values()
        current = sum(party.opened for party in self.live.values())
        assert values["ws_current_connections"] == current
        assert values["ws_successful_handshakes"] == self.opened == current + self.closed_open
        assert self.closed_open == sum(
            values[f"ws_{kind}_connections"] for kind in ("failed", "local_closed", "remote_closed")
        )
        assert sum(self.endpoint.statistics.close_codes.values()) == self.closed_open
        # Refused ones count before they have ended.
        assert self.failed_handshakes <= values["ws_failed_handshakes"]

    @invariant()
    def shards_partition_the_table(self) -> None:
        endpoint = self.endpoint
        for shard, timers in enumerate(endpoint._schedule._shards):
            mine = {cid for cid in self.live if endpoint.shard_of(cid) == shard}
            # Everything waits for something: keep-alive, or the end of a handshake.
            assert set(timers._when) == mine

    @invariant()
    def nobody_is_waited_for_too_long(self) -> None:
        for party in self.live.values():
            assert self.now < party.closing + CLOSE_TIMEOUT
            assert self.now < party.gone_by
            entry = self.endpoint.registry.get(party.cid)
            assert entry is not None
            quiet = self.now - entry.session.last_received
            if party.opened:
                # The first Ping is later by a share of the interval.
                silence = 2 * KEEPALIVE.interval + KEEPALIVE.answer_timeout
                assert quiet < silence + CLOSE_TIMEOUT
            else:
                assert quiet < OPEN_TIMEOUT + CLOSE_TIMEOUT

    def teardown(self) -> None:
        for party in list(self.live.values()):
            self.hang_up(party)
        self.carry()
        endpoint = self.endpoint
        self.everybody_is_in_the_table_once()
        self.counters_agree()
        assert self.failed_handshakes == endpoint.statistics.failed_handshakes
        assert endpoint.next_deadline() is None
        assert endpoint.handle_timeout(self.now + 1e6) == []
        assert endpoint.take_output() == []
        assert endpoint.take_connects() == []
        # Nothing is kept for ended connections.
        dialling, schedule = endpoint._dialling, endpoint._schedule
        assert not any(getattr(dialling, name) for name in dialling.__slots__)
        assert not any(len(queue) for queue in (*schedule._shards, schedule._leaving))
        assert not schedule._busy
        assert not endpoint._touched
        assert not endpoint._unread
        registry = endpoint.registry
        assert not any(value for value in vars(registry).values() if isinstance(value, dict))


EndpointMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestEndpointMachine = EndpointMachine.TestCase

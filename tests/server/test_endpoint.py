"""All connections of an endpoint: their time, their leaving, and the commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

import pytest

from tests._sessions import REQUEST
from tests.server._clients import Client, endpoint
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import CloseConnection, Event, Ping, Pong, RejectConnection, TextMessage
from wsproto_sip.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.lifecycle import Cause, CheckTransport, TransportAction
from wsproto_sip.policy.decision import Continue, Deferred, Identity
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.commands import (
    CloseCommand,
    CommandError,
    ConnectCommand,
    ConnectionInfo,
    ConnectResult,
    DisableCommand,
    DisplayState,
    DumpCommand,
    DumpFilter,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    PingCommand,
    PongCommand,
    StatisticsCommand,
    StatisticsResult,
    format_connection,
)
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.endpoint_config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint_events import CapacityError, Closed, Output, Writable
from wsproto_sip.states import ConnectionState

PONG_HEAD = b"\x8a\x88\0\0\0\0"


def crowd(server: Endpoint, count: int, now: float = 0.0) -> None:
    """Opens connections, all at one moment."""
    for number in range(count):
        cid = server.accept((f"192.0.2.{number % 256}", number), now)
        server.receive(cid, REQUEST, now)
    server.take_output()


def unbounded(**options: object) -> Endpoint:
    """An endpoint that takes any number of connections, of anybody."""
    options = {
        "max_connections": None,
        "max_per_address": None,
        "max_handshaking": None,
        "max_handshaking_per_address": None,
        **options,
    }
    return Endpoint(EndpointConfig(**options), now=0.0)  # type: ignore[arg-type]


def pings(outputs: Iterable[Output]) -> dict[int, bytes]:
    """The payloads of Pings by connection; there must be nothing else."""
    found: dict[int, bytes] = {}
    for output in outputs:
        assert output.data[:2] == b"\x89\x08"
        assert len(output.data) == 10
        assert output.action is TransportAction.NONE
        found[output.cid] = output.data[2:]
    return found


def answer(server: Endpoint, asked: dict[int, bytes], now: float) -> None:
    for cid, payload in asked.items():
        server.receive(cid, PONG_HEAD + payload, now)


def closed(happened: Iterable[tuple[int, Event]]) -> list[Closed]:
    return [event for _, event in happened if isinstance(event, Closed)]


class TestKeepalive:
    @pytest.mark.parametrize(
        ("count", "shards", "intervals"), [(1000, 1, 3), (1000, 7, 3), (10_000, 4, 1)]
    )
    def test_many_are_spread_over_the_interval(
        self, count: int, shards: int, intervals: int
    ) -> None:
        server = unbounded(shards=shards, timer_interval=1.0)
        interval = 25
        crowd(server, count)
        visits: list[Counter[int]] = []
        for second in range(1, intervals * interval + 1):
            if second % interval == 1:
                visits.append(Counter())
            now = float(second)
            asked: dict[int, bytes] = {}
            for shard in range(shards):
                assert server.handle_timeout(now, shard) == []
                of_shard = pings(server.take_output())
                # A shard visits its own.
                assert {server.shard_of(cid) for cid in of_shard} == {shard}
                asked |= of_shard
            # Evenly: neither a burst nor a pause in any second.
            assert abs(len(asked) - count / interval) <= 3 * shards
            visits[-1].update(asked.keys())
            answer(server, asked, now)
        # Everybody once an interval, nobody twice.
        assert visits == [Counter(range(1, count + 1))] * intervals
        assert len(server) == count

    def test_phones_that_register_at_once_are_spread_too(self) -> None:
        server = unbounded()
        crowd(server, 1000)
        for cid in range(1, 1001):
            server.receive(cid, b"\x81\x81\0\0\0\0a", 0.5)
        per_second = []
        for second in range(1, 26):
            server.handle_timeout(float(second))
            asked = pings(server.take_output())
            per_second.append(len(asked))
            answer(server, asked, float(second))
        assert sum(per_second) == 1000
        assert max(per_second) <= 43
        assert min(per_second) >= 37

    def test_one_that_is_in_use_is_left_alone(self) -> None:
        server = endpoint()
        client = Client(server)
        for second in range(1, 200):
            client.send(TextMessage("a"), float(second))
            server.handle_timeout(float(second))
            client.exchange(float(second))
        # Once for its place in the interval.
        assert len([event for event in client.received if isinstance(event, Ping)]) == 1

    def test_a_pass_costs_what_is_due(self) -> None:
        server = unbounded()
        crowd(server, 200)
        looked_at: list[int] = []
        timers = server._timers[0]
        while (when := server.next_deadline()) is not None and when <= 25.0:
            before = dict(timers._when)
            server.handle_timeout(when)
            asked = pings(server.take_output())
            moved = [cid for cid, due in timers._when.items() if before[cid] != due]
            assert sorted(asked) == moved == sorted(moved)
            looked_at += moved
            answer(server, asked, when)
            server.take_output()
        assert sorted(looked_at) == list(range(1, 201))

    def test_early_and_repeated_calls_do_nothing(self) -> None:
        server = endpoint()
        Client(server)
        when = server.next_deadline()
        assert when is not None
        assert 0 < when <= 25
        for _ in range(3):
            assert server.handle_timeout(when - 0.01) == []
            assert server.take_output() == []
        server.handle_timeout(when)
        assert len(pings(server.take_output())) == 1
        server.handle_timeout(when)
        assert server.take_output() == []

    def test_what_does_not_answer_ends(self) -> None:
        server = endpoint()
        client = Client(server)
        when = server.next_deadline()
        assert when is not None
        server.handle_timeout(when)
        server.take_output()
        assert server.next_deadline() == when + 20
        [ended] = closed(server.handle_timeout(when + 20))
        assert ended.closed.cause is Cause.KEEPALIVE
        assert (ended.address, ended.port, ended.cid) == ("192.0.2.1", 4000, client.cid)
        [output] = server.take_output()
        assert output.data[:4] == b"\x88\x16\x03\xf3"
        assert output.action is TransportAction.ABORT
        assert server.next_deadline() is None

    def test_check(self) -> None:
        keepalive = KeepaliveConfig(mechanism=Mechanism.CHECK)
        server = endpoint(session=SessionConfig(keepalive=keepalive))
        client = Client(server)
        assert server.handle_timeout(25.0) == [(client.cid, CheckTransport())]

    def test_timer_interval(self) -> None:
        server = unbounded(timer_interval=5.0)
        crowd(server, 100)
        passes = []
        now = 0.0
        for _ in range(4):
            when = server.next_deadline()
            assert when is not None
            assert server.handle_timeout(when - 0.001) == []
            assert server.take_output() == []
            now = when
            server.handle_timeout(now)
            passes.append(now)
            assert 19 <= len(pings(server.take_output())) <= 21
        assert passes == [5.0, 10.0, 15.0, 20.0]

    def test_max_due(self) -> None:
        server = unbounded(timer_interval=5.0, max_due=10)
        crowd(server, 25)
        seen: dict[int, bytes] = {}
        for expected in (10, 10, 5):
            # There is more to do at once, not at the next pass.
            when = server.next_deadline()
            assert when is not None
            assert when <= 25.0
            server.handle_timeout(25.0)
            asked = pings(server.take_output())
            assert len(asked) == expected
            seen |= asked
        assert len(seen) == 25
        assert server.next_deadline() == 45.0

    def test_max_due_none(self) -> None:
        server = unbounded(max_due=None)
        crowd(server, 1500)
        server.handle_timeout(25.0)
        assert len(pings(server.take_output())) == 1500

    def test_shards_have_deadlines_of_their_own(self) -> None:
        server = endpoint(shards=3)
        for now in (0.0, 1.0):
            server.accept(("192.0.2.1", 1), now)
        assert [server.shard_of(cid) for cid in (1, 2)] == [1, 2]
        assert [server.next_deadline(shard) for shard in range(3)] == [None, 10.0, 11.0]
        assert server.next_deadline() == 10.0
        assert server.handle_timeout(11.0, 0) == []
        assert server.handle_timeout(11.0, 2) == []
        # 408 for the second only; it has the time of a closing handshake to go.
        assert [output.cid for output in server.take_output()] == [2]

    def test_work_left_over_is_nobodys_shard(self) -> None:
        server = endpoint(shards=2)
        client = Client(server)
        octets = b"\x81\x81\0\0\0\0a" * 600
        given = len(server.receive(client.cid, octets, 1.0))
        assert given == 256
        for shard in (0, 1, None):
            assert server.next_deadline(shard) == -inf
        given += len(server.handle_timeout(1.0, 0))
        assert given == 512
        given += len(server.handle_timeout(1.0, 1))
        assert given == 600
        server.take_output()
        assert server.next_deadline() != -inf

    def test_a_listener_that_ends_another_one_that_is_due(self) -> None:
        server = endpoint()
        clients = [Client(server), Client(server)]
        for client in clients:
            server.close(client.cid, now=0.0)

        def listener(event: Closed) -> None:
            if event.cid == 1:
                server.close(2, now=5.0)

        server.on_closed(listener)
        # Each once, the second before the call that found the first comes back.
        assert [ended.cid for ended in closed(server.handle_timeout(5.0))] == [2, 1]
        assert server.handle_timeout(5.0) == []

    def test_a_deadline_is_known_before_the_output_is_taken(self) -> None:
        server = endpoint()
        client = Client(server)
        server.close(client.cid, now=1.0)
        assert server.next_deadline() == 6.0
        [ended] = closed(server.handle_timeout(6.0))
        assert ended.closed.cause is Cause.CLOSE_TIMEOUT


class TestSetKeepalive:
    def test_while_running(self) -> None:
        session = SessionConfig(profiles=subprotocol_profiles(SessionConfig()))
        server = endpoint(
            SubprotocolPolicy(["sip"], required=False),
            session=session,
            client_session=SessionConfig(close_timeout=1.0),
        )
        before = Client(server)
        server.accept(("192.0.2.7", 7), 0.0)
        server.set_keepalive(KeepaliveConfig(mechanism=Mechanism.PONG, interval=10.0), 1.0)
        after = Client(server, 1.0, subprotocols=["sip"])
        outgoing = server.connect("ws://a", 1.0)
        for cid in (before.cid, 2, after.cid, outgoing):
            entry = server.registry.get(cid)
            assert entry is not None
            assert entry.session.keepalive.config.interval == 10
        client_session = server.config.client_session
        assert client_session is not None
        assert client_session.close_timeout == 1.0
        server.handle_timeout(11.0)
        before.exchange(11.0)
        [pong] = [event for event in before.received if isinstance(event, Pong)]
        assert len(pong.payload) == 8

    def test_off_and_on_again(self) -> None:
        server = unbounded()
        crowd(server, 1000)
        server.set_keepalive(KeepaliveConfig(mechanism=Mechanism.NONE), 1.0)
        assert server.next_deadline() is None
        # They have been quiet for long, and are asked one after the other all the same.
        server.set_keepalive(KeepaliveConfig(interval=10.0), 1000.0)
        per_second = []
        for second in range(1001, 1011):
            server.handle_timeout(float(second))
            asked = pings(server.take_output())
            per_second.append(len(asked))
            answer(server, asked, float(second))
        assert sum(per_second) == 1000
        assert max(per_second) <= 104
        assert min(per_second) >= 96

    def test_those_that_are_not_due_keep_their_time(self) -> None:
        server = endpoint()
        client = Client(server)
        client.send(TextMessage("a"), 100.0)
        server.set_keepalive(KeepaliveConfig(interval=60.0), 110.0)
        assert server.next_deadline() == 160.0


class TestDrain:
    def test_spread_over_the_time(self) -> None:
        keepalive = KeepaliveConfig(mechanism=Mechanism.NONE)
        server = unbounded(session=SessionConfig(keepalive=keepalive))
        crowd(server, 100)
        server.drain(10.0, 60.0)
        assert server.draining
        gone: list[int] = []
        while (when := server.next_deadline()) is not None and len(gone) < 100:
            assert 10.0 <= when <= 50.0
            assert server.handle_timeout(when) == []
            for output in server.take_output():
                assert output.data == b"\x88\x0f\x03\xe9shutting down"
                assert when == pytest.approx(10.0 + 0.4 * len(gone))
                gone.append(output.cid)
                # The client answers, and the connection ends the usual way.
                server.receive(output.cid, b"\x88\x82\0\0\0\0\x03\xe9", when)
                [answered] = server.take_output()
                assert answered.action is TransportAction.CLOSE
                [ended] = server.receive(output.cid, None, when)
                assert isinstance(ended, Closed)
                assert ended.closed.cause is Cause.SHUTDOWN
                assert ended.closed.code == 1001
                server.take_output()
        assert gone == list(range(1, 101))
        assert len(server) == 0
        assert server.next_deadline() is None

    def test_the_rest_is_ended(self) -> None:
        # The closing handshake has more time than is left.
        server = endpoint(session=SessionConfig(close_timeout=100.0))
        silent = Client(server)
        halfway = server.accept(("192.0.2.2", 2), 0.0)
        asked = endpoint(lambda context: Deferred("?", lambda result: Continue()))
        waiting = Client(asked)
        for each in (server, asked):
            each.drain(1.0, 5.0)
            assert closed(each.handle_timeout(4.9)) == []
            assert each.next_deadline() in (5.0, 1.0 + 4.9)
        waiting.exchange(4.9)
        [rejection] = [event for event in waiting.received if isinstance(event, RejectConnection)]
        assert rejection.status_code == 503
        ends = closed(server.handle_timeout(5.0))
        assert [ended.cid for ended in ends] == [silent.cid, halfway]
        assert {ended.closed.cause for ended in ends} == {Cause.SHUTDOWN}
        outputs = server.take_output()
        assert {output.action for output in outputs} == {TransportAction.ABORT}
        assert len(server) == 0

    def test_nobody_is_let_in(self) -> None:
        server = endpoint()
        Client(server)
        server.drain(0.0, 10.0)
        late = Client(server, 1.0)
        assert isinstance(late.received[0], RejectConnection)
        assert late.received[0].status_code == 503
        with pytest.raises(CapacityError):
            server.connect("ws://a", 1.0)

    def test_those_that_leave_already_are_left_alone(self) -> None:
        server = endpoint()
        closing, answering, refused = Client(server), Client(server), Client(server)
        server.close(closing.cid, 4000, "first", now=0.0)
        answering.session.send(CloseConnection(4001), 0.0)
        server.receive(answering.cid, answering.session.data_to_send(), 0.0)
        server.receive(refused.cid, b"\xff\xff", 0.0)
        server.drain(0.0, 100.0)
        outputs = {output.cid: output for output in server.take_output()}
        assert server.handle_timeout(0.1) == []
        assert server.take_output() == []
        assert b"first" in outputs[closing.cid].data
        assert outputs[answering.cid].data == b"\x88\x02\x0f\xa1"
        assert outputs[answering.cid].action is TransportAction.CLOSE
        assert outputs[refused.cid].action is TransportAction.CLOSE

    def test_connections_of_our_own(self) -> None:
        server = endpoint()
        cid = server.connect("ws://a", 0.0)
        server.drain(0.0, 10.0)
        [ended] = closed(server.handle_timeout(0.0))
        assert (ended.cid, ended.opened, ended.closed.cause) == (cid, False, Cause.SHUTDOWN)
        assert server.take_connects() == []

    @pytest.mark.parametrize("deadline", [-inf, 0.0, 5.0])
    def test_at_once(self, deadline: float) -> None:
        server = endpoint()
        Client(server)
        Client(server)
        server.drain(5.0, deadline)
        assert len(closed(server.handle_timeout(5.0))) == 2
        for output in server.take_output():
            assert output.data == b"\x88\x0f\x03\xe9shutting down"
            assert output.action is TransportAction.ABORT

    @pytest.mark.parametrize("deadline", [inf, float("nan")])
    def test_a_deadline_that_is_none(self, deadline: float) -> None:
        server = endpoint()
        with pytest.raises(ValueError, match="not a deadline"):
            server.drain(0.0, deadline)
        assert not server.draining

    def test_with_nobody_there(self) -> None:
        server = endpoint()
        server.drain(0.0, 10.0)
        assert server.next_deadline() is None
        assert server.handle_timeout(10.0) == []

    def test_the_first_shard_does_it(self) -> None:
        server = endpoint(shards=2)
        Client(server)
        server.drain(0.0, 10.0)
        assert server.next_deadline(0) == 0.0
        assert server.handle_timeout(0.0, 1) == []
        assert server.take_output() == []
        server.handle_timeout(0.0, 0)
        assert [output.cid for output in server.take_output()] == [1]

    def test_once_more_with_less_time(self) -> None:
        server = endpoint()
        Client(server)
        server.drain(0.0, 1000.0)
        server.drain(1.0, 2.0)
        server.handle_timeout(1.0)
        [ended] = closed(server.handle_timeout(2.0))
        assert ended.closed.cause is Cause.SHUTDOWN


class TestPause:
    def test_what_is_received_meanwhile_comes_afterwards(self) -> None:
        server = endpoint()
        client = Client(server)
        client.given.clear()
        server.pause(client.cid, 1.0)
        client.send(TextMessage("held back"), 2.0)
        assert client.given == []
        server.resume(client.cid, 3.0)
        assert server.next_deadline() == -inf
        assert server.handle_timeout(3.0) == [(client.cid, TextMessage("held back"))]
        assert server.handle_timeout(3.0) == []

    def test_whoever_reads_hears_of_going_on(self) -> None:
        server = endpoint()
        client = Client(server)
        server.pause(client.cid, 1.0)
        server.take_output()
        assert server.next_deadline() != -inf
        server.resume(client.cid, 2.0)
        assert server.next_deadline() == -inf
        assert server.handle_timeout(2.0) == []
        assert server.next_deadline() != -inf

    def test_unknown_connections(self) -> None:
        server = endpoint()
        server.pause(7, 1.0)
        server.resume(7, 1.0)
        assert server.next_deadline() is None

    def test_room_again(self) -> None:
        server = endpoint()
        client = Client(server)
        server.send(client.cid, TextMessage("x" * 100_000), 1.0)
        server.take_output()
        assert server.handle_timeout(1.0) == [(client.cid, Writable(client.cid))]
        server.transport_backlog(client.cid, 100_000, 1.0)
        assert server.handle_timeout(1.0) == []
        server.transport_backlog(client.cid, 70_000, 2.0)
        assert server.handle_timeout(2.0) == []
        server.transport_backlog(client.cid, 60_000, 3.0)
        assert server.handle_timeout(3.0) == [(client.cid, Writable(client.cid))]
        server.transport_backlog(client.cid, 0, 3.0)
        assert server.handle_timeout(3.0) == []

    def test_nothing_is_told_of_one_that_is_gone(self) -> None:
        server = endpoint()
        client = Client(server)
        server.send(client.cid, TextMessage("x" * 100_000), 1.0)
        server.receive(client.cid, None, 1.0)
        server.take_output()
        assert server.handle_timeout(1.0) == []


class TestCommands:
    def test_dump(self) -> None:
        identity = Identity("alice")
        server = endpoint(
            SubprotocolPolicy(["sip"], required=False), lambda context: Continue(identity=identity)
        )
        Client(server, 1.0, subprotocols=["sip"], peer=("192.0.2.1", 1), secure=True)
        Client(server, 2.0, peer=("192.0.2.2", 2))
        third = Client(server, 3.0, peer=("2001:db8::1", 3))
        server.send(1, Ping(b"p"), 5.0)
        server.close(third.cid, now=6.0)

        def ids(command: DumpCommand) -> tuple[list[int], int | None]:
            result = server.execute(command, 10.0)
            assert isinstance(result, DumpResult)
            return [info.id for info in result.connections], result.next_offset

        assert ids(DumpCommand()) == ([1, 2, 3], None)
        assert ids(DumpCommand(order=DumpOrder.USED_DESC)) == ([2, 3, 1], None)
        assert ids(DumpCommand(order=DumpOrder.USED_ASC)) == ([1, 3, 2], None)
        assert ids(DumpCommand(limit=2)) == ([1, 2], 2)
        assert ids(DumpCommand(offset=2, limit=2)) == ([3], None)
        assert ids(DumpCommand(filter=DumpFilter(sub_protocol="sip"))) == ([1], None)
        closing = DumpFilter(state=DisplayState.CLOSING, identity="alice")
        assert ids(DumpCommand(filter=closing)) == ([3], None)
        result = server.execute(DumpCommand(limit=1), 10.0)
        assert isinstance(result, DumpResult)
        assert result.to_json()["connections"] == [format_connection(result.connections[0])]
        assert result.connections[0] == ConnectionInfo(
            1,
            "192.0.2.1",
            1,
            "198.51.100.1",
            8080,
            secure=True,
            awaiting_pong=True,
            idle=5.0,
            sub_protocol="sip",
            identity="alice",
        )

    def test_close(self) -> None:
        server = endpoint()
        client = Client(server)
        assert server.execute(CloseCommand(client.cid), 1.0) == EmptyResult()
        client.exchange(1.0)
        assert CloseConnection(1000, "Normal closure") in client.received
        [ended] = [event for event in client.given if isinstance(event, Closed)]
        assert ended.closed.cause is Cause.ADMINISTRATOR
        assert server.statistics.values()["ws_local_closed_connections"] == 1

    def test_close_twice(self) -> None:
        server = endpoint()
        client = Client(server)
        assert server.execute(CloseCommand(client.cid, 4000, "x"), 1.0) == EmptyResult()
        assert server.execute(CloseCommand(client.cid), 1.0) == EmptyResult()
        assert [ended.cid for ended in closed(server.handle_timeout(1.0))] == [client.cid]
        with pytest.raises(CommandError) as caught:
            server.execute(CloseCommand(client.cid), 1.0)
        assert (caught.value.code, caught.value.text) == (500, "Unknown connection ID")

    def test_close_with_a_code_that_may_not_be_sent(self) -> None:
        server = endpoint()
        client = Client(server)
        with pytest.raises(CommandError) as caught:
            server.execute(CloseCommand(client.cid, 1006), 1.0)
        assert (caught.value.code, caught.value.text) == (500, "Error closing connection")
        assert "1006" in caught.value.detail
        entry = server.registry.get(client.cid)
        assert entry is not None
        assert entry.session.state is ConnectionState.OPEN

    def test_ping_and_pong(self) -> None:
        keepalive = KeepaliveConfig(application_data=b"as configured")
        server = endpoint(session=SessionConfig(keepalive=keepalive))
        client = Client(server)
        client.received.clear()
        assert server.execute(PingCommand(client.cid), 1.0) == EmptyResult()
        assert server.execute(PongCommand(client.cid), 1.0) == EmptyResult()
        client.exchange(1.0)
        assert client.received == [Ping(b"as configured"), Pong(b"as configured")]
        assert server.statistics.round_trips.count == 1
        server.set_keepalive(KeepaliveConfig(), 2.0)
        client.received.clear()
        server.execute(PongCommand(client.cid), 2.0)
        client.exchange(2.0)
        assert client.received == [Pong(b"")]

    @pytest.mark.parametrize("command", [PingCommand(1), PongCommand(1)])
    def test_ping_while_closing(self, command: PingCommand | PongCommand) -> None:
        server = endpoint(lambda context: Deferred("?", lambda result: Continue()))
        client = Client(server)
        for _ in range(2):
            with pytest.raises(CommandError) as caught:
                server.execute(command, 1.0)
            assert (caught.value.code, caught.value.text) == (500, "Error sending frame")
            server.decide(client.cid, "yes", 1.0)
            server.close(client.cid, now=1.0)
        outgoing = endpoint()
        outgoing.connect("ws://a", 1.0)
        with pytest.raises(CommandError, match="500 Error sending frame"):
            outgoing.execute(command, 1.0)

    @pytest.mark.parametrize("command", [CloseCommand(9), PingCommand(9), PongCommand(9)])
    def test_unknown_connections(self, command: CloseCommand | PingCommand | PongCommand) -> None:
        with pytest.raises(CommandError) as caught:
            endpoint().execute(command, 1.0)
        assert (caught.value.code, caught.value.text) == (500, "Unknown connection ID")

    def test_disable_and_enable(self) -> None:
        server = endpoint()
        stays = Client(server)
        for _ in range(2):
            assert server.execute(DisableCommand(), 1.0) == EmptyResult()
            assert not server.enabled
        refused = Client(server, 1.0)
        assert isinstance(refused.received[0], RejectConnection)
        assert refused.received[0].status_code == 503
        stays.send(TextMessage("still here"), 1.0)
        assert stays.given[-1] == TextMessage("still here")
        for _ in range(2):
            assert server.execute(EnableCommand(), 2.0) == EmptyResult()
        Client(server, 2.0)
        assert len(server) == 2

    def test_connect(self) -> None:
        server = endpoint(max_connections=1)
        result = server.execute(ConnectCommand("ws://example.com", "sip"), 1.0)
        assert result == ConnectResult(1)
        [connect] = server.take_connects()
        assert (connect.cid, connect.host, connect.port) == (1, "example.com", 80)
        assert server.execute(ConnectCommand("ws://example.com", "sip"), 1.0) == result
        for target, sub_protocol, detail in (
            ("ws://example.org", None, "no room"),
            ("http://example.com", None, "not a ws or wss URI"),
            ("ws://example.com", "no token", "not a sub-protocol"),
        ):
            with pytest.raises(CommandError) as caught:
                server.execute(ConnectCommand(target, sub_protocol), 1.0)
            assert (caught.value.code, caught.value.text) == (500, "Error connecting")
            assert detail in caught.value.detail

    def test_statistics(self) -> None:
        server = endpoint()
        Client(server)
        names = ("ws_current_connections", "ws_successful_handshakes")
        result = server.execute(StatisticsCommand(names), 1.0)
        assert result == StatisticsResult(dict.fromkeys(names, 1))
        with pytest.raises(CommandError, match="no statistic"):
            server.execute(StatisticsCommand(("ws_unknown",)), 1.0)


def test_ids_are_never_used_again() -> None:
    server = endpoint()
    seen: list[int] = []
    for _ in range(20):
        client = Client(server)
        seen += [client.cid, server.connect("ws://a", 0.0)]
        client.hang_up(0.0)
        server.close(seen[-1], now=0.0)
    assert len(server) == 0
    assert seen == list(range(1, 41))


def test_lookups() -> None:
    server = endpoint(
        SubprotocolPolicy(["sip", "msrp"]),
        lambda context: Continue(identity=Identity(f"user{context.peer_port}")),
    )
    for port, token in ((1, "sip"), (2, "msrp"), (1, "sip")):
        Client(server, subprotocols=[token], peer=(f"192.0.2.{port}", port))
    registry = server.registry
    assert [entry.cid for entry in registry.by_identity("user1")] == [1, 3]
    assert [entry.cid for entry in registry.by_subprotocol("sip")] == [1, 3]
    assert [entry.cid for entry in registry.by_subprotocol("msrp")] == [2]
    found = registry.by_peer("192.0.2.2", 2)
    assert found is not None
    assert found.cid == 2
    for cid in (1, 2, 3):
        server.receive(cid, None, 1.0)
    assert registry.by_identity("user1") == registry.by_subprotocol("sip") == []
    assert registry.by_peer("192.0.2.2", 2) is None
    assert server.statistics.values()["ws_current_connections"] == 0

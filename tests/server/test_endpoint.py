"""The connections of an endpoint: messages, endings, commands, and time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from tests._sessions import REQUEST
from tests.server._clients import Client, answer, closed, crowd, endpoint, only, pings, unbounded
from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.policy.decision import Continue, Deferred, Reject
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import (
    AdmissionPending,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)
from wsproto_sip.server.histogram import Histogram
from wsproto_sip.server.management.commands import (
    ApplicationCommand,
    CloseCommand,
    CommandError,
    ConnectCommand,
    ConnectionInfo,
    ConnectResult,
    DisableCommand,
    DisplayState,
    DrainCommand,
    DumpCommand,
    DumpFilter,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    FactsResult,
    GetSettingCommand,
    GetStatisticsCommand,
    GroupStatisticsCommand,
    ListResult,
    PingCommand,
    PongCommand,
    ResetStatisticsCommand,
    Result,
    SetSettingCommand,
    StatisticsCommand,
    UptimeCommand,
    ValueResult,
    VersionCommand,
    format_connection,
)
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause, TransportAction
from wsproto_sip.session.prepared import PreparedMessage
from wsproto_sip.states import ConnectionState
from wsproto_sip.utilities import LocalProtocolError


class TestOpening:
    def test_handshake_waits_for_an_answer_from_outside(self) -> None:
        server = endpoint(lambda context: Deferred("who?", lambda answer: Continue()))
        client = Client(server)
        assert client.given == [AdmissionPending(client.cid, "who?")]
        [opened] = server.decide(client.cid, "bob", 1.0)
        assert isinstance(opened, Opened)
        assert server.decide(client.cid, "bob", 1.0) == []
        assert server.decide(99, "bob", 1.0) == []

    def test_refused_client_gets_the_answer_and_is_removed(self) -> None:
        server = endpoint(lambda context: Reject(403))
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 403
        assert [type(event) for event in client.given] == [Closed]
        assert len(server) == 0

    def test_client_whose_answer_cannot_be_completed_is_dropped(self) -> None:
        server = endpoint(lambda context: Reject(403, body="text"))  # type: ignore[arg-type]
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        [event] = server.receive(cid, REQUEST, 0.0)
        assert isinstance(event, Closed)
        [output] = server.take_output()
        assert output.action is TransportAction.ABORT

    def test_requests_are_not_examined_while_disabled(self) -> None:
        server = endpoint()
        server.enabled = False
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        assert server.receive(cid, b"not HTTP", 0.0) == []
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 503 ")


class TestConnecting:
    def open(self, **options: object) -> tuple[Endpoint, int, Endpoint, int]:
        """Return an endpoint that connects to another, and both ids."""
        near = Endpoint(EndpointConfig(**options), now=0.0)  # type: ignore[arg-type]
        far = endpoint(SubprotocolPolicy(["sip"], required=False))
        cid = near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip")
        return near, cid, far, far.accept(("192.0.2.1", 1), 0.0)

    def carry(self, near: Endpoint, cid: int, far: Endpoint, other: int) -> list[Event]:
        given: list[Event] = []
        while True:
            out, back = near.take_output(), far.take_output()
            if not any(output.data for output in (*out, *back)):
                return given
            for output in out:
                given += far.receive(other, output.data, 0.0)
            for output in back:
                given += near.receive(cid, output.data, 0.0)

    def test_messages_wait_until_it_is_open(self) -> None:
        near, cid, far, other = self.open()
        assert near.take_connects() == [Connect(cid, "example.com", 81, None)]
        assert near.take_connects() == []
        near.send(cid, TextMessage("queued"), 0.0)
        near.send(cid, PreparedMessage(BytesMessage(b"too")), 0.0)
        near.connected(cid, 0.0, local=("198.51.100.1", 9))
        given = self.carry(near, cid, far, other)
        request = next(event for event in given if isinstance(event, Opened)).request
        assert request is not None
        assert (request.host, request.target) == ("example.com:81", "/x?y")
        assert [event.cid for event in given if isinstance(event, Opened)] == [other, cid]
        assert [event for event in given if isinstance(event, TextMessage)]
        assert BytesMessage(b"too") in given
        entry = near.registry.get(cid)
        assert entry is not None
        assert entry.session.subprotocol == "sip"
        assert entry.session.state is ConnectionState.OPEN
        assert near.statistics.values()["ws_sip_transmitted_frames"] == 2
        with pytest.raises(LocalProtocolError, match="wait"):
            near.connected(cid, 0.0)

    def test_reuse(self) -> None:
        near, cid, *_ = self.open()
        assert near.connect("WS://EXAMPLE.com:81/x?y", 0.0, subprotocol="sip") == cid
        assert near.connect("ws://example.com:81/x?y", 0.0) != cid
        assert near.connect("ws://example.com:81/", 0.0, subprotocol="sip") != cid
        fresh = near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip", reuse=False)
        assert fresh != cid
        # The replaced one ends; the newer one is still found.
        near.receive(cid, None, 0.0)
        assert near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip") == fresh
        near.receive(fresh, None, 0.0)
        assert near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip") > fresh

    def test_closing_connection_is_not_reused(self) -> None:
        near, cid, far, other = self.open()
        near.connected(cid, 0.0)
        self.carry(near, cid, far, other)
        uri = "ws://example.com:81/x?y"
        assert near.connect(uri, 0.0, subprotocol="sip") == cid
        near.close(cid, now=0.0)
        fresh = near.connect(uri, 0.0, subprotocol="sip")
        assert fresh != cid
        near.receive(cid, None, 0.0)
        assert near.connect(uri, 0.0, subprotocol="sip") == fresh

    def test_invalid_subprotocol_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a sub-protocol"):
            endpoint().connect("ws://a", 0.0, subprotocol="sip\r\nX: y")

    def test_queue_above_the_limit_of_the_session_closes_it(self) -> None:
        limits = Limits(max_outgoing=100)
        near, cid, far, other = self.open(session=SessionConfig(limits=limits))
        for _ in range(3):
            near.send(cid, BytesMessage(b"x" * 90), 0.0)
        near.connected(cid, 0.0)
        events = self.carry(near, cid, far, other)
        assert CloseConnection(1008, "too much output waits") in events
        assert near.statistics.values()["ws_transmitted_frames"] == 3

    def test_queue_is_bounded(self) -> None:
        near, cid, *_ = self.open(max_queued_messages=2, max_queued_bytes=10)
        near.send(cid, TextMessage("12345"), 0.0)
        with pytest.raises(LocalProtocolError, match="too many"):
            near.send(cid, TextMessage("123456"), 0.0)
        near.send(cid, TextMessage("1234"), 0.0)
        with pytest.raises(LocalProtocolError, match="too many"):
            near.send(cid, TextMessage(""), 0.0)
        with pytest.raises(LocalProtocolError, match="only whole messages"):
            near.send(cid, Ping(), 0.0)

    def test_no_transport(self) -> None:
        near, cid, *_ = self.open()
        near.send(cid, TextMessage("lost"), 0.0)
        ended = only(near.receive(cid, None, 1.0), Closed)
        assert isinstance(ended, Closed)
        assert (ended.address, ended.port, ended.opened) == ("example.com", 81, False)
        assert near.take_connects() == []
        assert near.statistics.values()["ws_failed_handshakes"] == 0

    def test_closed_while_connecting(self) -> None:
        near, cid, *_ = self.open()
        near.close(cid, now=0.0)
        assert len(near) == 0
        [(_, ended)] = near.handle_timeout(0.0)
        assert isinstance(ended, Closed)

    def test_refused(self) -> None:
        near, cid, far, other = self.open()
        far.enabled = False
        near.connected(cid, 0.0)
        given = self.carry(near, cid, far, other)
        [rejection] = [event for event in given if isinstance(event, RejectConnection)]
        assert rejection.status_code == 503

    def test_extensions_are_offered(self) -> None:
        near, cid, _, _ = self.open(extensions=lambda subprotocol: [PerMessageDeflate()])
        near.connected(cid, 0.0)
        [output] = near.take_output()
        assert b"permessage-deflate" in output.data

    def test_configuration_of_its_own(self) -> None:
        near, cid, *_ = self.open(client_session=SessionConfig(text_as_bytes=True))
        entry = near.registry.get(cid)
        assert entry is not None
        assert entry.session.config.text_as_bytes


class TestMessages:
    def test_both_ways(self) -> None:
        server = endpoint()
        client = Client(server)
        client.given.clear()
        client.send(TextMessage("a"), 1.0)
        client.send(BytesMessage(b"b"), 1.0)
        assert client.given == [TextMessage("a"), BytesMessage(b"b")]
        client.received.clear()
        server.send(client.cid, TextMessage("c"), 2.0)
        server.send(client.cid, PreparedMessage(BytesMessage(b"d")), 2.0)
        client.exchange(2.0)
        assert client.received == [TextMessage("c"), BytesMessage(b"d")]
        entry = server.registry.get(client.cid)
        assert entry is not None
        assert entry.used == 2.0

    def test_frames_are_counted(self) -> None:
        server = endpoint(SubprotocolPolicy(["sip", "msrp"]))
        client = Client(server, subprotocols=["sip"])
        client.send(TextMessage("a", message_finished=False), 1.0)
        client.send(TextMessage("b", message_finished=False), 1.0)
        client.send(TextMessage("c"), 1.0)
        client.send(Ping(b"p"), 1.0)
        client.send(Pong(b"unasked"), 1.0)
        server.send(client.cid, TextMessage("d"), 1.0)
        server.send(client.cid, Pong(b"mine"), 1.0)
        client.exchange(1.0)
        values = server.statistics.values()
        assert values["ws_received_frames"] == 5
        assert values["ws_sip_received_frames"] == 3
        # The message, our Pong and the answering one.
        assert values["ws_transmitted_frames"] == 3
        assert values["ws_sip_transmitted_frames"] == 1
        assert values["ws_msrp_received_frames"] == 0

    def test_frames_of_streamed_messages_are_counted_once(self) -> None:
        server = endpoint(session=SessionConfig(whole_messages=False))
        client = Client(server)
        client.given.clear()
        client.send(BytesMessage(b"a" * 10, message_finished=False), 1.0)
        client.session.send(BytesMessage(b"b" * 10), 1.0)
        raw = client.session.data_to_send()
        for index in range(len(raw)):
            client.given += server.receive(client.cid, raw[index : index + 1], 1.0)
        data = [event.data for event in client.given if isinstance(event, BytesMessage)]
        assert b"".join(data) == b"a" * 10 + b"b" * 10
        assert len(data) > 2
        assert server.statistics.values()["ws_received_frames"] == 2

    def test_pieces_of_a_frame(self) -> None:
        server = endpoint()
        client = Client(server)
        client.session.send(TextMessage("abc"), 1.0)
        raw = client.session.data_to_send()
        assert server.receive(client.cid, raw[:7], 1.0) == []
        assert server.statistics.values()["ws_received_frames"] == 0
        assert server.receive(client.cid, raw[7:], 2.0) == [TextMessage("abc")]
        assert server.statistics.values()["ws_received_frames"] == 1

    def test_room_is_reported_while_open(self) -> None:
        server = endpoint(shards=3)
        client = Client(server)
        assert server.shard_of(client.cid) == 1
        server.send(client.cid, TextMessage("x" * 70_000), 1.0)
        server.take_output()
        server.transport_backlog(client.cid, 70_000, 1.0)
        server.transport_backlog(client.cid, 0, 2.0)
        assert server.handle_timeout(2.0) == [(client.cid, Writable(client.cid))] * 2
        server.send(client.cid, TextMessage("x" * 70_000), 3.0)
        server.close(client.cid, now=3.0)
        server.take_output()
        assert server.handle_timeout(3.0) == []

    def test_round_trips_are_counted_once_each(self) -> None:
        server = endpoint()
        client = Client(server)
        server.send(client.cid, Ping(b"p"), 1.0)
        [output] = server.take_output()
        client.session.receive(output.data, 1.0)
        server.receive(client.cid, client.session.data_to_send(), 1.25)
        client.send(Pong(b"p"), 2.0)
        assert server.statistics.round_trips.count == 1
        assert server.statistics.round_trips.total == 0.25

    def test_unknown_ids(self) -> None:
        server = endpoint()
        assert server.receive(5, b"late", 0.0) == []
        server.transport_backlog(5, 100, 0.0)
        with pytest.raises(UnknownConnectionError, match="5"):
            server.send(5, TextMessage("a"), 0.0)
        with pytest.raises(UnknownConnectionError, match="5"):
            server.close(5, now=0.0)
        with pytest.raises(UnknownConnectionError, match="5"):
            server.connected(5, 0.0)

    def test_backlog(self) -> None:
        server = endpoint(session=SessionConfig(send_timeout=20.0))
        client = Client(server)
        server.transport_backlog(client.cid, 100, 1.0)
        assert server.next_deadline() is not None
        assert [
            event for _, event in server.handle_timeout(20.9) if isinstance(event, Closed)
        ] == []
        [(_, ended)] = server.handle_timeout(21.0)
        assert isinstance(ended, Closed)
        assert ended.closed.cause is Cause.SEND_TIMEOUT
        [output] = server.take_output()
        assert output.action is TransportAction.ABORT


class TestClosing:
    def test_closing_handshake(self) -> None:
        server = endpoint()
        client = Client(server)
        server.close(client.cid, 4000, "because", now=1.0)
        client.exchange(1.0)
        assert CloseConnection(4000, "because") in client.received
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.closed.cause is Cause.LOCAL
        values = server.statistics.values()
        assert values["ws_local_closed_connections"] == 1
        assert values["ws_current_connections"] == 0
        assert server.statistics.close_codes == {4000: 1}

    def test_second_close_ends_it_at_once(self) -> None:
        server = endpoint()
        client = Client(server)
        server.close(client.cid, now=1.0)
        assert len(server) == 1
        server.close(client.cid, now=1.0)
        assert len(server) == 0
        assert server.next_deadline() == float("-inf")
        [(cid, ended)] = server.handle_timeout(1.0)
        assert cid == client.cid
        assert isinstance(ended, Closed)
        [output] = server.take_output()
        assert output.data == b"\x88\x10\x03\xe8Normal closure"
        assert output.action is TransportAction.ABORT

    def test_action_is_returned_once(self) -> None:
        server = endpoint()
        client = Client(server)
        server.close(client.cid, now=1.0)
        [output] = server.take_output()
        assert output.action is TransportAction.NONE
        client.session.receive(output.data, 1.0)
        server.receive(client.cid, client.session.data_to_send(), 1.0)
        [output] = server.take_output()
        assert output.action is TransportAction.CLOSE
        for data in (b"", b"more"):
            assert server.receive(client.cid, data, 2.0) == []
            assert server.take_output() == []
        server.close(client.cid, now=3.0)
        assert server.take_output() == [Output(client.cid, b"", TransportAction.ABORT)]
        server.receive(client.cid, None, 3.0)
        assert server.take_output() == []

    def test_answer_to_a_close_frame_may_be_given_by_hand(self) -> None:
        server = endpoint()
        client = Client(server)
        client.session.send(CloseConnection(1000), 1.0)
        [event] = server.receive(client.cid, client.session.data_to_send(), 1.0)
        assert event == CloseConnection(1000, "")
        server.close(client.cid, 4001, "as you wish", now=1.0)
        assert len(server) == 1
        client.exchange(1.0)
        assert CloseConnection(4001, "as you wish") in client.received
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.closed.cause is Cause.REMOTE

    def test_code_that_may_not_be_sent(self) -> None:
        server = endpoint()
        client = Client(server)
        with pytest.raises(LocalProtocolError, match="1004"):
            server.close(client.cid, 1004, now=1.0)
        assert server.take_output() == []
        client.send(TextMessage("still here"), 1.0)
        assert client.given[-1] == TextMessage("still here")

    def test_too_much_output(self) -> None:
        limits = Limits(max_outgoing=10)
        server = endpoint(session=SessionConfig(limits=limits))
        client = Client(server)
        server.send(client.cid, TextMessage("x"), 1.0)
        server.send(client.cid, TextMessage("x" * 20), 1.0)
        assert server.next_deadline() == float("-inf")
        [(cid, event)] = server.handle_timeout(1.0)
        assert cid == client.cid
        assert event == CloseConnection(1008, "too much output waits")
        assert server.next_deadline() == 6.0
        [output] = server.take_output()
        assert output.action is TransportAction.CLOSE

    def test_before_the_handshake_is_over(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        server.close(client.cid, now=1.0)
        client.exchange(1.0)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 503

    def test_end_by_the_peer_and_without_a_close_frame(self) -> None:
        server = endpoint()
        client = Client(server)
        client.send(CloseConnection(1001), 1.0)
        Client(server).hang_up(1.0)
        values = server.statistics.values()
        assert values["ws_remote_closed_connections"] == 1
        assert values["ws_failed_connections"] == 1

    def test_listeners(self) -> None:
        server = endpoint()
        heard: list[Closed] = []

        def broken(event: Closed) -> None:
            raise RuntimeError("listener")

        server.on_closed(broken)
        server.on_closed(heard.append)
        client = Client(server)
        client.hang_up(1.0)
        assert [event.cid for event in heard] == [client.cid]
        assert server.statistics.hook_errors == 1
        assert only(client.given, Closed) == heard[0]
        assert server.receive(client.cid, None, 1.0) == []
        assert len(heard) == 1

    def test_listener_that_ends_another_one_that_is_due(self) -> None:
        server = endpoint()
        clients = [Client(server), Client(server)]
        for client in clients:
            server.close(client.cid, now=0.0)

        def listener(event: Closed) -> None:
            if event.cid == 1:
                server.close(2, now=5.0)

        server.on_closed(listener)
        # Each once, the second before the call that found the first returns.
        assert [ended.cid for ended in closed(server.handle_timeout(5.0))] == [2, 1]
        assert server.handle_timeout(5.0) == []

    def test_listener_may_call_the_endpoint(self) -> None:
        server = endpoint()
        clients = [Client(server) for _ in range(4)]
        heard: list[int] = []

        def listener(event: Closed) -> None:
            heard.append(event.cid)
            assert event.cid not in server.registry
            if event.cid == 1:
                # Its own connection is gone, the second closes, the third ends right now.
                with pytest.raises(UnknownConnectionError):
                    server.close(1, now=1.0)
                server.close(2, now=1.0)
                server.close(3, now=1.0)
                server.close(3, now=1.0)
                server.send(4, TextMessage("one is gone"), 1.0)

        server.on_closed(listener)
        clients[0].hang_up(1.0)
        assert heard == [1, 3]
        assert server.statistics.hook_errors == 0
        assert [event.cid for event in clients[0].given if isinstance(event, Closed)] == [1]
        [(cid, ended)] = server.handle_timeout(1.0)
        assert (cid, type(ended)) == (3, Closed)
        assert [entry.cid for entry in server.registry] == [2, 4]

    @pytest.mark.parametrize(
        ("cause", "steps"),
        [
            (Cause.REMOTE, [lambda client: client.send(CloseConnection(1001), 1.0)]),
            (
                Cause.LOCAL,
                [
                    lambda client: client.server.close(1, now=1.0),
                    lambda client: client.exchange(1.0),
                ],
            ),
            (
                Cause.ADMINISTRATOR,
                [
                    lambda client: client.server.execute(CloseCommand(1), 1.0),
                    lambda client: client.exchange(1.0),
                ],
            ),
            (Cause.END_OF_INPUT, [lambda client: client.hang_up(1.0)]),
            (
                Cause.PROTOCOL_ERROR,
                [
                    lambda client: client.server.receive(1, b"\xff\xff", 1.0),
                    lambda client: client.exchange(1.0),
                ],
            ),
            (
                Cause.LIMIT,
                [
                    lambda client: client.server.receive(1, b"\x82\xff" + b"\x7f" * 8, 1.0),
                    lambda client: client.exchange(1.0),
                ],
            ),
            (
                Cause.KEEPALIVE,
                [
                    lambda client: client.server.handle_timeout(50.0),
                    lambda client: client.server.handle_timeout(70.0),
                ],
            ),
            (
                Cause.CLOSE_TIMEOUT,
                [
                    lambda client: client.server.close(1, now=1.0),
                    lambda client: client.server.handle_timeout(6.0),
                ],
            ),
            (
                Cause.SHUTDOWN,
                [
                    lambda client: client.server.drain(1.0, 1.0),
                    lambda client: client.server.handle_timeout(1.0),
                ],
            ),
        ],
    )
    def test_every_way_to_end(self, cause: Cause, steps: list[Callable[[Client], object]]) -> None:
        server = endpoint()
        heard: list[Closed] = []
        server.on_closed(heard.append)
        client = Client(server, peer=("2001:db8::7", 4711))
        for step in steps:
            step(client)
        [ended] = heard
        assert (ended.cid, ended.address, ended.port) == (1, "2001:db8::7", 4711)
        assert ended.closed.cause is cause
        assert ended.opened
        assert len(server) == 0
        # Nothing follows it, whatever is tried.
        client.hang_up(50.0)
        server.handle_timeout(5000.0)
        assert heard == [ended]
        assert server.next_deadline() is None


class TestPause:
    def test_input_during_a_pause_is_delivered_afterwards(self) -> None:
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

    def test_reader_learns_that_the_pause_has_ended(self) -> None:
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

    def test_ended_connection_reports_nothing(self) -> None:
        server = endpoint()
        client = Client(server)
        server.send(client.cid, TextMessage("x" * 100_000), 1.0)
        server.receive(client.cid, None, 1.0)
        server.take_output()
        assert server.handle_timeout(1.0) == []


class TestTime:
    def test_connection_in_use_is_not_pinged(self) -> None:
        server = endpoint()
        client = Client(server)
        for second in range(1, 200):
            client.send(TextMessage("a"), float(second))
            server.handle_timeout(float(second))
            client.exchange(float(second))
        assert [event for event in client.received if isinstance(event, Ping)] == []


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

    def test_keepalive_disabled_and_enabled(self) -> None:
        server = unbounded()
        crowd(server, 1000)
        server.set_keepalive(KeepaliveConfig(mechanism=Mechanism.NONE), 1.0)
        assert server.next_deadline() is None
        # They have been silent for long, but are pinged one after the other.
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

    def test_connections_that_are_not_due_keep_their_time(self) -> None:
        server = endpoint()
        client = Client(server)
        client.send(TextMessage("a"), 100.0)
        server.set_keepalive(KeepaliveConfig(interval=60.0), 110.0)
        assert server.next_deadline() == 160.0


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
        assert ids(DumpCommand(filter=DumpFilter(subprotocol="sip"))) == ([1], None)
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
            subprotocol="sip",
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
            server.execute(CloseCommand(client.cid, 1004), 1.0)
        assert (caught.value.code, caught.value.text) == (500, "Error closing connection")
        assert "1004" in caught.value.detail
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

    def test_drained_endpoint_cannot_be_enabled(self) -> None:
        server = endpoint()
        server.execute(DrainCommand(0), 1.0)
        told = "this server has been drained; restart it"
        with pytest.raises(CommandError, match=f"503 WebSockets are disabled: {told}"):
            server.execute(EnableCommand(), 1.0)
        with pytest.raises(CommandError, match=f"400 Failed to set the variable: {told}"):
            server.execute(SetSettingCommand("websocket", "enabled", 1), 1.0)
        # Disabling it changes nothing, and is not an error.
        assert server.execute(DisableCommand(), 1.0) == EmptyResult()
        assert server.execute(SetSettingCommand("websocket", "enabled", 0), 1.0) == EmptyResult()

    def test_connect(self) -> None:
        server = endpoint(max_connections=1)
        result = server.execute(ConnectCommand("ws://example.com", "sip"), 1.0)
        assert result == ConnectResult(1)
        [connect] = server.take_connects()
        assert (connect.cid, connect.host, connect.port) == (1, "example.com", 80)
        assert server.execute(ConnectCommand("ws://example.com", "sip"), 1.0) == result
        for target, subprotocol, detail in (
            ("ws://example.org", None, "no room"),
            ("http://example.com", None, "does not start with ws:// or wss://"),
            ("ws://example.com", "no token", "not a sub-protocol"),
        ):
            with pytest.raises(CommandError) as caught:
                server.execute(ConnectCommand(target, subprotocol), 1.0)
            assert (caught.value.code, caught.value.text) == (500, "Error connecting")
            assert detail in caught.value.detail

    def test_statistics(self) -> None:
        server = endpoint()
        Client(server)
        names = ("ws_current_connections", "ws_successful_handshakes")
        result = server.execute(StatisticsCommand(names), 1.0)
        assert result == FactsResult(dict.fromkeys(names, 1))
        with pytest.raises(CommandError, match="unknown statistic"):
            server.execute(StatisticsCommand(("ws_unknown",)), 1.0)

    def test_statistics_in_the_forms_of_kamailio(self) -> None:
        server = endpoint()
        Client(server)
        name = "ws_successful_handshakes"
        chosen = server.execute(GetStatisticsCommand((name, "unknown")), 1.0)
        assert chosen == ListResult((f"websocket:{name} = 1",))
        group = server.execute(GroupStatisticsCommand("websocket"), 1.0)
        assert isinstance(group, FactsResult)
        assert (len(group.values), group.values[name]) == (25, 1)
        assert server.execute(ResetStatisticsCommand(("all",)), 1.0) == EmptyResult()
        assert server.statistics.values()[name] == 0

    def test_settings_change_while_connections_are_open(self) -> None:
        server = endpoint()
        client = Client(server)

        def setting(name: str, value: int) -> Result:
            return server.execute(SetSettingCommand("websocket", name, value), 1.0)

        assert server.execute(GetSettingCommand("websocket"), 1.0) == FactsResult(
            {
                "enabled": 1,
                "keepalive_interval": 0,
                "keepalive_mechanism": 1,
                "keepalive_timeout": 25,
            }
        )
        for name, value in (
            ("enabled", 0),
            ("keepalive_interval", 2),
            ("keepalive_mechanism", 2),
            ("keepalive_timeout", 60),
        ):
            assert setting(name, value) == EmptyResult()
            got = server.execute(GetSettingCommand("websocket", name), 1.0)
            assert got == ValueResult(value)
        assert not server.enabled
        entry = server.registry.get(client.cid)
        assert entry is not None
        keepalive = entry.session.keepalive.config
        assert (keepalive.mechanism, keepalive.interval) == (Mechanism.PONG, 60.0)
        assert server.config.timer_interval == 2.0
        for name, value in (
            ("enabled", 2),
            ("keepalive_interval", 61),
            ("keepalive_mechanism", 4),
            ("keepalive_timeout", 0),
            ("keepalive_processes", 2),
        ):
            with pytest.raises(CommandError) as caught:
                setting(name, value)
            assert (caught.value.code, caught.value.text) == (400, "Failed to set the variable")

    @pytest.mark.parametrize(
        ("group", "name"), [("websocket", "sub_protocols"), ("core", "enabled")]
    )
    def test_unknown_setting_is_refused(self, group: str, name: str) -> None:
        server = endpoint()
        with pytest.raises(CommandError) as caught:
            server.execute(GetSettingCommand(group, name), 1.0)
        assert (caught.value.code, caught.value.text) == (400, "Failed to get the variable")
        with pytest.raises(CommandError):
            server.execute(SetSettingCommand("core", name, 1), 1.0)
        assert server.execute(GetSettingCommand("core"), 1.0) == FactsResult({})

    def test_uptime_and_version(self) -> None:
        server = endpoint(now=100.0)
        assert server.execute(UptimeCommand(), 107.9) == FactsResult({"uptime": 7})
        assert isinstance(server.execute(VersionCommand(), 107.9), ValueResult)

    def test_commands_of_applications_take_the_time(self) -> None:
        command = ApplicationCommand("ul.dump", lambda now: FactsResult({"at": now}))
        assert endpoint().execute(command, 3.5) == FactsResult({"at": 3.5})

    def test_drain(self) -> None:
        server = endpoint()
        client = Client(server)
        assert server.execute(DrainCommand(10), 1.0) == EmptyResult()
        assert server.draining
        server.handle_timeout(1.0)
        client.exchange(1.0)
        assert CloseConnection(1001, "shutting down") in client.received


def test_ids_are_never_reused() -> None:
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


def test_end_is_reported_once_on_every_path() -> None:
    server = endpoint()
    client = Client(server)
    server.close(client.cid, now=0.0)
    given = server.receive(client.cid, None, 0.0)
    assert [type(event) for event in given] == [Closed]
    assert server.receive(client.cid, None, 0.0) == []
    assert server.handle_timeout(1e9) == []


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

    def test_remaining_connections_are_ended(self) -> None:
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

    def test_handshakes_are_refused_while_draining(self) -> None:
        server = endpoint()
        Client(server)
        server.drain(0.0, 10.0)
        late = Client(server, 1.0)
        assert isinstance(late.received[0], RejectConnection)
        assert late.received[0].status_code == 503
        with pytest.raises(CapacityError):
            server.connect("ws://a", 1.0)

    def test_handshakes_are_answered_after_draining(self) -> None:
        server = endpoint()
        server.drain(0.0, 10.0)
        late = Client(server, 10.0, shake_hands=False)
        # Its request takes a while, and it is not dropped meanwhile.
        assert closed(server.handle_timeout(11.0)) == []
        late.session.send(Request(host="example.com", target="/"), 12.0)
        late.exchange(12.0)
        assert isinstance(late.received[0], RejectConnection)
        assert late.received[0].status_code == 503
        silent = Client(server, 20.0, shake_hands=False)
        deadline = server.next_deadline()
        assert deadline == 30.0
        server.handle_timeout(deadline)
        [output] = server.take_output()
        assert output.cid == silent.cid
        assert b" 408 " in output.data

    def test_closing_connections_are_left_alone(self) -> None:
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
    def test_invalid_deadline_is_refused(self, deadline: float) -> None:
        server = endpoint()
        with pytest.raises(ValueError, match="not a deadline"):
            server.drain(0.0, deadline)
        assert not server.draining

    def test_draining_without_connections(self) -> None:
        server = endpoint()
        server.drain(0.0, 10.0)
        assert server.next_deadline() is None
        assert server.handle_timeout(10.0) == []

    def test_first_shard_handles_draining(self) -> None:
        server = endpoint(shards=2)
        Client(server)
        server.drain(0.0, 10.0)
        assert server.next_deadline(0) == 0.0
        assert server.handle_timeout(0.0, 1) == []
        assert server.take_output() == []
        server.handle_timeout(0.0, 0)
        assert [output.cid for output in server.take_output()] == [1]

    def test_connections_with_a_reason_stay_until_four_fifths_of_the_time(self) -> None:
        keepalive = KeepaliveConfig(mechanism=Mechanism.NONE)
        server = endpoint(session=SessionConfig(keepalive=keepalive))
        calls = {1, 3}
        server.stays_while(calls.__contains__)
        for _ in range(3):
            Client(server)
        server.drain(10.0, 110.0)
        gone: list[tuple[int, float]] = []
        now = 10.0
        while len(gone) < 3:
            server.handle_timeout(now)
            for output in server.take_output():
                assert output.data == b"\x88\x0f\x03\xe9shutting down"
                gone.append((output.cid, now))
                server.receive(output.cid, None, now)
                server.take_output()
            if now > 60:
                calls.discard(1)
            now += 0.5
        cids, times = zip(*gone, strict=True)
        assert cids == (2, 1, 3)
        assert times[0] == pytest.approx(10 + 80 / 3, abs=0.5)
        # About a second after its call has ended.
        assert 60 < times[1] <= 62
        assert times[2] == 90.0

    def test_check_that_fails_keeps_no_connection(self) -> None:
        server = endpoint()

        def fails(cid: int) -> bool:
            raise LookupError(cid)

        server.stays_while(fails)
        server.stays_while(lambda cid: cid == 2)
        Client(server)
        Client(server)
        server.drain(0.0, 10.0)
        server.handle_timeout(4.0)
        assert [output.cid for output in server.take_output()] == [1]
        assert server.statistics.hook_errors == 2

    def test_second_drain_with_less_time(self) -> None:
        server = endpoint()
        Client(server)
        server.drain(0.0, 1000.0)
        server.drain(1.0, 2.0)
        server.handle_timeout(1.0)
        [ended] = closed(server.handle_timeout(2.0))
        assert ended.closed.cause is Cause.SHUTDOWN


def test_message_that_comes_in_part_is_bounded_in_size_and_time() -> None:
    server = unbounded(unfinished_bytes=ShareConfig(4000, reserve=0), message_timeout=5.0)
    client = Client(server)

    def send(size: int, now: float) -> list[Event]:
        client.session.send(BytesMessage(bytes(3000)), now)
        return server.receive(client.cid, client.session.data_to_send()[:size], now)

    assert send(900, 1.0) == []
    assert server.next_deadline() is not None
    server.pause(client.cid, 2.0)
    assert server.handle_timeout(7.0) == []
    server.resume(client.cid, 8.0)
    server.handle_timeout(8.0)
    [(_, late)] = server.handle_timeout(14.0)
    assert late == CloseConnection(1008, "the message took too long")
    assert server._refuse_slow(99, 14.0) == []
    client = Client(server, 20.0)
    [large] = send(2900, 20.0)
    assert isinstance(large, CloseConnection)
    assert large.code == 1008


class TestTraffic:
    def test_messages_and_bytes_are_counted_each_way(self) -> None:
        server = endpoint()
        client = Client(server, 1.0)
        client.session.send(TextMessage("hello"), 2.0)
        client.session.send(BytesMessage(b"\x00" * 70), 2.0)
        client.exchange(2.0)
        server.send(client.cid, TextMessage("a", message_finished=False), 2.0)
        server.send(client.cid, TextMessage("b"), 2.0)
        server.send(client.cid, PreparedMessage(TextMessage("c")), 2.0)
        server.send(client.cid, Ping(b""), 2.0)
        client.exchange(2.0)
        client.session.close(1000, now=5.0)
        client.exchange(5.0)
        closed = only(client.given, Closed)
        assert isinstance(closed, Closed)
        traffic = closed.traffic
        assert (traffic.received_messages, traffic.sent_messages) == (2, 2)
        assert (traffic.received_bytes > 200, traffic.sent_bytes > 100) == (True, True)
        assert traffic.age == 4.0

    def test_time_to_open_is_counted(self) -> None:
        server = endpoint()
        client = Client(server, 1.0, shake_hands=False)
        client.session.send(Request("example.com", "/"), 3.0)
        client.exchange(3.5)
        assert (server.statistics.handshakes.count, server.statistics.handshakes.total) == (1, 2.5)

    @pytest.mark.parametrize("pinged", [False, True])
    def test_sizes_of_messages_are_counted_on_request(self, pinged: bool) -> None:
        server = endpoint()
        client = Client(server)
        client.session.send(TextMessage("not looked at"), 0.0)
        client.exchange(0.0)
        sizes = server.statistics.message_sizes = Histogram([4, 100])
        for message in (TextMessage("\xe9\xe9"), TextMessage("abcde"), BytesMessage(b"x" * 101)):
            client.session.send(message, 0.0)
            if pinged:
                # Then not on the fast path.
                client.session.send(Ping(b""), 0.0)
            client.exchange(0.0)
        assert (sizes.classes, sizes.total) == ([1, 1, 1], 110.0)

    def test_refused_transports_are_counted(self) -> None:
        server = endpoint(max_connections=1)
        server.accept(("192.0.2.1", 1), 0.0)
        with pytest.raises(CapacityError):
            server.accept(("192.0.2.1", 2), 0.0)
        assert server.statistics.turned_away == 1

    def test_transports_that_make_room_for_others_are_counted(self) -> None:
        server = endpoint(max_handshaking=2)
        of_one = [server.accept(("192.0.2.1", port), 0.0) for port in (1, 2)]
        server.accept(("192.0.2.2", 1), 0.0)
        [output] = server.take_output()
        assert (output.cid, output.action) == (of_one[0], TransportAction.ABORT)
        assert server.statistics.turned_away == 1

    @pytest.mark.parametrize("raw", [b"", b"POST / HTTP/1.1\r\nHost: h\r\n\r\n"])
    def test_handshake_without_an_answer_and_one_with_it_have_failed(self, raw: bytes) -> None:
        server = endpoint()
        cid = server.accept(("192.0.2.1", 1), 0.0)
        given = server.receive(cid, raw or None, 0.0) + server.receive(cid, None, 0.0)
        ended = only(given, Closed)
        assert isinstance(ended, Closed)
        assert (ended.answer is None) is (raw == b"")
        assert server.statistics.failed_handshakes == 1
        assert server.statistics.answers == ({405: 1} if raw else {})

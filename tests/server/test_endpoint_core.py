"""One connection of an endpoint at a time: opening, admission, messages, endings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests._sessions import REQUEST
from tests.server._clients import Client, endpoint
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.lifecycle import Cause, TransportAction
from wsproto_sip.limits import Limits
from wsproto_sip.policy.decision import (
    Continue,
    Decision,
    Deferred,
    Identity,
    Reject,
    RequestContext,
    Respond,
)
from wsproto_sip.policy.forwarded import ForwardedPolicy, TrustedNetworks
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.prepared import PreparedMessage
from wsproto_sip.server.commands import CloseCommand
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.endpoint_config import EndpointConfig
from wsproto_sip.server.endpoint_events import (
    AdmissionPending,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)
from wsproto_sip.states import ConnectionState
from wsproto_sip.utilities import LocalProtocolError


def only(events: list[Event], kind: type[Event]) -> Event:
    [event] = [event for event in events if isinstance(event, kind)]
    return event


class TestAdmission:
    def test_opened(self) -> None:
        server = endpoint(SubprotocolPolicy(["sip"]))
        client = Client(server, subprotocols=["sip"])
        opened = only(client.given, Opened)
        assert isinstance(opened, Opened)
        assert (opened.cid, opened.subprotocol, opened.identity) == (1, "sip", None)
        assert isinstance(opened.request, Request)
        assert opened.request.target == "/"
        assert isinstance(client.received[0], AcceptConnection)
        assert client.received[0].subprotocol == "sip"
        assert len(server) == 1
        assert server.statistics.values()["ws_sip_successful_handshakes"] == 1

    def test_refused(self) -> None:
        server = endpoint(lambda context: Reject(403, "no", body=b"go away"))
        client = Client(server)
        rejection = client.received[0]
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 403
        assert client.action is TransportAction.CLOSE
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert not ended.opened
        assert ended.closed.cause is Cause.REJECTION
        assert len(server) == 0
        assert server.statistics.values()["ws_failed_handshakes"] == 1

    @pytest.mark.parametrize(
        ("method", "answer", "failed"),
        [("GET", Respond(200, body=b"page"), 0), ("HEAD", Reject(404), 1), ("GET", Continue(), 1)],
    )
    def test_plain_requests(self, method: str, answer: Decision, failed: int) -> None:
        seen: list[RequestContext] = []

        def look(context: RequestContext) -> Decision:
            seen.append(context)
            return answer

        server = endpoint(look, session=SessionConfig(plain_requests=True))
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        octets = f"{method} /page HTTP/1.1\r\nHost: example.com\r\n\r\n".encode()
        assert server.receive(cid, octets, 1.0) == []
        [context] = seen
        assert (context.method, context.upgrade) == (method, False)
        assert (context.request.target, context.now) == ("/page", 1.0)
        [output] = server.take_output()
        status = 426 if isinstance(answer, Continue) else answer.status  # type: ignore[union-attr]
        assert output.data.startswith(b"HTTP/1.1 %d " % status)
        assert output.data.endswith(b"page") is (status == 200)
        assert output.action is TransportAction.CLOSE
        ended = only(server.receive(cid, None, 2.0), Closed)
        assert isinstance(ended, Closed)
        assert not ended.opened
        # A page that is shown is no handshake that has failed.
        assert server.statistics.values()["ws_failed_handshakes"] == failed

    def test_plain_requests_are_not_taken_unless_wanted(self) -> None:
        server = endpoint(lambda context: Respond(200))
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        server.receive(cid, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", 0.0)
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 426 ")

    def test_what_policies_are_told(self) -> None:
        seen: list[RequestContext] = []
        counts: list[tuple[int, int]] = []

        def look(context: RequestContext) -> Decision:
            seen.append(context)
            by_address = context.connections_by_address
            counts.append((context.connections, by_address.get(context.peer_address, 0)))
            return Continue()

        server = endpoint(look)
        Client(server, 7.0, secure=True)
        Client(server, 8.0)
        Client(server, 8.0, peer=("192.0.2.2", None))
        first, second, third = seen
        assert (first.now, first.peer_address, first.peer_port) == (7.0, "192.0.2.1", 4000)
        assert (first.secure, first.local_port, first.enabled) == (True, 8080, True)
        # Others, not this one.
        assert counts == [(0, 0), (1, 1), (2, 0)]
        # What a policy keeps, because it waits, shows how many there are now.
        assert third.connections_by_address["192.0.2.1"] == 2
        assert dict(second.connections_by_address) == {"192.0.2.1": 1, "192.0.2.2": 1}
        assert len(second.connections_by_address) == 2

    def test_disabled_comes_before_anything_else(self) -> None:
        asked: list[RequestContext] = []

        def policy(context: RequestContext) -> Decision:
            asked.append(context)
            return Continue()

        server = endpoint(policy)
        server.enabled = False
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 503
        assert asked == []

    @pytest.mark.parametrize(
        "octets",
        [
            REQUEST.replace(b"Version: 13", b"Version: 8"),
            REQUEST.replace(b"Sec-WebSocket-Key", b"No-Key"),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HT",
            b"\x16\x03\x01",
        ],
    )
    def test_disabled_comes_before_what_is_wrong_with_a_request(self, octets: bytes) -> None:
        server = endpoint()
        server.enabled = False
        client = Client(server, shake_hands=False)
        assert server.receive(client.cid, b"", 0.0) == []
        assert server.take_output() == []
        assert server.receive(client.cid, octets, 0.0) == []
        assert server.receive(client.cid, octets, 0.0) == []
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 503 ")
        assert output.action is TransportAction.CLOSE
        client.hang_up(0.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.closed.cause is Cause.REJECTION
        assert server.statistics.failed_handshakes == 1

    def test_disabled_while_it_is_asked_for(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        server.enabled = False
        assert server.receive(client.cid, b"\x81", 1.0) == []
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 503 ")
        server.enabled = True
        assert server.decide(client.cid, "yes", 1.0) == []
        assert server.errors == 0

    def test_our_own_connections_open_while_disabled(self) -> None:
        server = endpoint()
        server.enabled = False
        cid = server.connect("ws://a.example/", 0.0)
        server.connected(cid, 0.0)
        given = server.receive(cid, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 0.0)
        assert isinstance(given[0], RejectConnection)

    def test_identity_and_user_data_stay_with_the_connection(self) -> None:
        server = endpoint(lambda context: Continue(identity=Identity("alice")))
        client = Client(server)
        [entry] = server.registry.by_identity("alice")
        assert entry.cid == client.cid
        entry.user_data = {"room": 5}
        client.hang_up(1.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.identity == Identity("alice")
        assert ended.user_data == {"room": 5}
        assert ended.opened

    def test_deferred(self) -> None:
        def ask(context: RequestContext) -> Decision:
            return Deferred(
                "who?",
                lambda answer: (
                    Continue(identity=Identity(str(answer))) if answer else Reject(401, "nobody")
                ),
            )

        for answer, status in (("bob", None), (None, 401)):
            server = endpoint(ask)
            client = Client(server)
            pending = only(client.given, AdmissionPending)
            assert isinstance(pending, AdmissionPending)
            assert (pending.cid, pending.question) == (1, "who?")
            given = server.decide(client.cid, answer, 1.0)
            assert server.decide(client.cid, answer, 1.0) == []
            client.exchange(1.0)
            if status is None:
                opened = only(given, Opened)
                assert isinstance(opened, Opened)
                assert opened.identity == Identity("bob")
                assert isinstance(client.received[0], AcceptConnection)
            else:
                assert isinstance(client.received[0], RejectConnection)
                assert client.received[0].status_code == status
        assert server.decide(99, "x", 1.0) == []

    def test_an_answer_that_comes_after_disabling(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        server.enabled = False
        assert server.decide(client.cid, "yes", 1.0) == []
        client.exchange(1.0)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 503

    def test_an_answer_that_comes_too_late(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Reject(401, "late")))
        client = Client(server)
        server.handle_timeout(10.0)
        assert server.decide(client.cid, "yes", 10.0) == []
        client.exchange(10.0)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 408
        assert server.errors == 0
        assert server.statistics.failed_handshakes == 1

    def test_an_answer_for_one_that_was_closed(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        entry = server.registry.get(client.cid)
        assert entry is not None
        server.close(client.cid, now=1.0)
        assert server.decide(client.cid, "yes", 1.0) == []
        assert entry.pending is None
        client.exchange(1.0)
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 503
        assert server.errors == 0
        assert server.statistics.failed_handshakes == 1
        assert [type(event) for event in client.given] == [AdmissionPending, Closed]

    def test_one_that_hangs_up_while_it_is_asked_for(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        client.hang_up(1.0)
        assert [type(event) for event in client.given] == [AdmissionPending, Closed]
        assert server.decide(client.cid, "yes", 1.0) == []

    def test_a_second_question(self) -> None:
        server = endpoint(
            lambda context: Deferred(1, lambda answer: Deferred(2, lambda answer: Continue()))
        )
        client = Client(server)
        [pending] = server.decide(client.cid, "yes", 1.0)
        assert pending == AdmissionPending(client.cid, 2)
        [opened] = server.decide(client.cid, "yes", 2.0)
        assert isinstance(opened, Opened)

    def test_a_policy_that_closes_the_connection_it_is_asked_about(self) -> None:
        def closes(context: RequestContext) -> Decision:
            server.close(1, now=0.0)
            return Continue()

        server = endpoint(closes)
        client = Client(server)
        assert [type(event) for event in client.given] == [Closed]
        assert len(server) == 0
        assert server.errors == 0
        assert server.statistics.failed_handshakes == 1

    def test_a_policy_that_ends_the_connection_it_is_asked_about(self) -> None:
        def ends(context: RequestContext) -> Decision:
            server.close(1, now=0.0)
            server.close(1, now=0.0)
            return Continue()

        server = endpoint(ends)
        client = Client(server)
        # The end was known before the call came back that the policy was asked in.
        assert client.given == []
        [(cid, ended)] = server.handle_timeout(0.0)
        assert (cid, type(ended)) == (1, Closed)
        assert len(server) == 0
        assert server.errors == 0
        assert server.statistics.failed_handshakes == 1

    @pytest.mark.parametrize(
        "decision",
        [
            # A body is announced, and none follows.
            Reject(403, headers=[(b"content-length", b"5")]),
            Continue(headers=[(b"x", b"y")], subprotocol="msrp"),
            None,
        ],
    )
    def test_a_decision_that_cannot_be_carried_out(self, decision: Decision) -> None:
        server = endpoint(lambda context: decision)
        client = Client(server, subprotocols=["sip"])
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 500
        assert server.errors == 1
        assert server.statistics.failed_handshakes == 1

    @pytest.mark.parametrize(
        "decision",
        [
            Reject(304, body=b"a response without a body"),
            Reject(403, body="text"),  # type: ignore[arg-type]
        ],
    )
    def test_a_rejection_that_breaks_off_ends_its_connection(self, decision: Decision) -> None:
        server = endpoint(lambda context: decision)
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        [closed] = server.receive(cid, REQUEST, 0.0)
        assert isinstance(closed, Closed)
        [output] = server.take_output()
        assert output.action is TransportAction.ABORT
        assert len(server) == 0
        assert server.errors == 1
        assert server.statistics.failed_handshakes == 1

    def test_extensions_that_cannot_be_had(self) -> None:
        def broken(subprotocol: str | None) -> list[PerMessageDeflate]:
            raise RuntimeError("no zlib")

        server = endpoint(extensions=broken)
        client = Client(server)
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 500
        assert server.errors == 1

    def test_a_policy_that_raises_costs_its_connection_only(self) -> None:
        def broken(context: RequestContext) -> Decision:
            raise RuntimeError("database gone")

        server = endpoint(broken)
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 500
        assert server.errors == 1

    def test_a_policy_that_chooses_what_was_not_offered(self) -> None:
        server = endpoint(lambda context: Continue(subprotocol="sip"))
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 500
        assert server.errors == 1

    def test_behind_a_proxy(self) -> None:
        server = endpoint(ForwardedPolicy(TrustedNetworks(["192.0.2.0/24"])))
        client = Client(server, headers=[(b"Forwarded", b'for="[2001:db8::1]:99";proto=https')])
        entry = server.registry.get(client.cid)
        assert entry is not None
        assert entry.peer == ("2001:db8::1", 99)
        assert entry.secure
        client.hang_up(1.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert (ended.address, ended.port) == ("2001:db8::1", 99)

    def test_extensions(self) -> None:
        asked: list[str | None] = []

        def extensions(subprotocol: str | None) -> list[PerMessageDeflate]:
            asked.append(subprotocol)
            return [PerMessageDeflate()]

        server = endpoint(SubprotocolPolicy(["sip"]), extensions=extensions)
        Client(server, subprotocols=["sip"])
        assert asked == ["sip"]

    def test_frames_behind_the_request(self) -> None:
        server = endpoint()
        cid = server.accept(("192.0.2.1", 1), 0.0)
        given = server.receive(cid, REQUEST + b"\x81\x81\0\0\0\0a", 0.0)
        assert [type(event) for event in given] == [Opened, TextMessage]
        assert server.statistics.values()["ws_received_frames"] == 1

    def test_what_is_no_handshake(self) -> None:
        server = endpoint()
        client = Client(server, shake_hands=False)
        client.given += server.receive(client.cid, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0.0)
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 426")
        assert output.action is TransportAction.CLOSE
        client.hang_up(0.0)
        assert server.statistics.values()["ws_failed_handshakes"] == 1
        assert len(server) == 0

    def test_handshakes_are_not_the_callers_to_answer(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        for event in (AcceptConnection(), RejectConnection(), RejectData(b""), TextMessage("a")):
            with pytest.raises(LocalProtocolError, match="connection 1 is not open"):
                server.send(client.cid, event, 0.0)
        server.decide(client.cid, "yes", 0.0)
        with pytest.raises(TypeError, match="AcceptConnection"):
            server.send(client.cid, AcceptConnection(), 0.0)


class TestCapacity:
    @pytest.mark.parametrize(
        ("options", "second"),
        [
            ({"max_connections": 1}, "192.0.2.2"),
            ({"max_per_address": 1}, "192.0.2.1"),
            ({"max_handshaking": 1}, "192.0.2.2"),
            ({"max_handshaking_per_address": 1}, "192.0.2.1"),
        ],
    )
    def test_full(self, options: dict[str, int], second: str) -> None:
        server = endpoint(**options)
        first = server.accept(("192.0.2.1", 1), 0.0)
        with pytest.raises(CapacityError, match=second):
            server.accept((second, 2), 0.0)
        if "per_address" in next(iter(options)):
            server.accept(("192.0.2.9", 2), 0.0)
        server.receive(first, None, 0.0)
        if "per_address" not in next(iter(options)):
            assert server.accept((second, 2), 0.0) == 2

    def test_no_bounds(self) -> None:
        server = endpoint(
            max_connections=None,
            max_per_address=None,
            max_handshaking=None,
            max_handshaking_per_address=None,
        )
        for _ in range(200):
            server.accept(("192.0.2.1", 1), 0.0)
        assert len(server) == 200


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
        # The message, our Pong and the one that answered.
        assert values["ws_transmitted_frames"] == 3
        assert values["ws_sip_transmitted_frames"] == 1
        assert values["ws_msrp_received_frames"] == 0

    def test_frames_of_streamed_messages_are_counted_once(self) -> None:
        server = endpoint(session=SessionConfig(whole_messages=False))
        client = Client(server)
        client.given.clear()
        client.send(BytesMessage(b"a" * 10, message_finished=False), 1.0)
        client.session.send(BytesMessage(b"b" * 10), 1.0)
        octets = client.session.data_to_send()
        for index in range(len(octets)):
            client.given += server.receive(client.cid, octets[index : index + 1], 1.0)
        data = [event.data for event in client.given if isinstance(event, BytesMessage)]
        assert b"".join(data) == b"a" * 10 + b"b" * 10
        assert len(data) > 2
        assert server.statistics.values()["ws_received_frames"] == 2

    def test_pieces_of_a_frame(self) -> None:
        server = endpoint()
        client = Client(server)
        client.session.send(TextMessage("abc"), 1.0)
        octets = client.session.data_to_send()
        assert server.receive(client.cid, octets[:7], 1.0) == []
        assert server.statistics.values()["ws_received_frames"] == 0
        assert server.receive(client.cid, octets[7:], 2.0) == [TextMessage("abc")]
        assert server.statistics.values()["ws_received_frames"] == 1

    def test_room_is_told_of_while_it_is_open(self) -> None:
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

    def test_once_more_ends_it_at_once(self) -> None:
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

    def test_an_action_is_told_once(self) -> None:
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

    def test_the_answer_to_a_close_frame_may_be_given_by_hand(self) -> None:
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

    def test_a_code_that_may_not_be_sent(self) -> None:
        server = endpoint()
        client = Client(server)
        with pytest.raises(LocalProtocolError, match="1006"):
            server.close(client.cid, 1006, now=1.0)
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

    def test_by_the_peer_and_by_nobody(self) -> None:
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
        assert server.errors == 1
        assert only(client.given, Closed) == heard[0]
        assert server.receive(client.cid, None, 1.0) == []
        assert len(heard) == 1

    def test_a_listener_may_call_the_endpoint(self) -> None:
        server = endpoint()
        clients = [Client(server) for _ in range(4)]
        heard: list[int] = []

        def listener(event: Closed) -> None:
            heard.append(event.cid)
            assert event.cid not in server.registry
            if event.cid == 1:
                # Its own connection is gone, the second closes, the third ends here and now.
                with pytest.raises(UnknownConnectionError):
                    server.close(1, now=1.0)
                server.close(2, now=1.0)
                server.close(3, now=1.0)
                server.close(3, now=1.0)
                server.send(4, TextMessage("one is gone"), 1.0)

        server.on_closed(listener)
        clients[0].hang_up(1.0)
        assert heard == [1, 3]
        assert server.errors == 0
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
                    lambda client: client.server.handle_timeout(25.0),
                    lambda client: client.server.handle_timeout(45.0),
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
        # Nothing comes behind it, whatever is tried.
        client.hang_up(50.0)
        server.handle_timeout(5000.0)
        assert heard == [ended]
        assert server.next_deadline() is None


class TestConnecting:
    def open(self, **options: object) -> tuple[Endpoint, int, Endpoint, int]:
        """An endpoint that connects to another; both ids."""
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
        assert near.take_connects() == [Connect(cid, "example.com", 81, False)]
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
        # The one it took the place of ends; the newer is still found.
        near.receive(cid, None, 0.0)
        assert near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip") == fresh
        near.receive(fresh, None, 0.0)
        assert near.connect("ws://example.com:81/x?y", 0.0, subprotocol="sip") > fresh

    def test_one_that_closes_is_not_used_again(self) -> None:
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

    def test_a_subprotocol_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="not a sub-protocol"):
            endpoint().connect("ws://a", 0.0, subprotocol="sip\r\nX: y")

    def test_more_waits_than_the_session_may_hold(self) -> None:
        limits = Limits(max_outgoing=100)
        near, cid, far, other = self.open(session=SessionConfig(limits=limits))
        for _ in range(3):
            near.send(cid, BytesMessage(b"x" * 90), 0.0)
        near.connected(cid, 0.0)
        events = self.carry(near, cid, far, other)
        assert CloseConnection(1008, "too much output waits") in events
        assert near.statistics.values()["ws_transmitted_frames"] == 3

    def test_the_queue_is_bounded(self) -> None:
        near, cid, *_ = self.open(max_queued_messages=2, max_queued_bytes=10)
        near.send(cid, TextMessage("12345"), 0.0)
        with pytest.raises(LocalProtocolError, match="too much"):
            near.send(cid, TextMessage("123456"), 0.0)
        near.send(cid, TextMessage("1234"), 0.0)
        with pytest.raises(LocalProtocolError, match="too much"):
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

    def test_no_room(self) -> None:
        near = endpoint(max_connections=1)
        near.connect("ws://a", 0.0)
        with pytest.raises(CapacityError, match="b"):
            near.connect("ws://b", 0.0)
        draining = endpoint()
        draining.drain(0.0, 1.0)
        with pytest.raises(CapacityError):
            draining.connect("ws://a", 0.0)

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

    def test_a_configuration_of_its_own(self) -> None:
        near, cid, *_ = self.open(client_session=SessionConfig(text_as_bytes=True))
        entry = near.registry.get(cid)
        assert entry is not None
        assert entry.session.config.text_as_bytes


def test_every_way_to_hear_of_the_end_is_one() -> None:
    server = endpoint()
    client = Client(server)
    server.close(client.cid, now=0.0)
    given = server.receive(client.cid, None, 0.0)
    assert [type(event) for event in given] == [Closed]
    assert server.receive(client.cid, None, 0.0) == []
    assert server.handle_timeout(1e9) == []

"""What a session sends, and how it ends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests._sessions import CLOSE, PING, REQUEST, carry, closed, frame, pair, server
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
from wsproto_sip.keepalive import KeepaliveConfig
from wsproto_sip.lifecycle import Cause, ConnectionClosed, TransportAction
from wsproto_sip.limits import Limits
from wsproto_sip.prepared import PreparedMessage
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

NORMAL = frame(CLOSE, b"\x03\xe8bye")


class TestOpening:
    def test_both_ends(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        answerer = Session(ConnectionType.SERVER, now=0.0)
        client.send(Request(host="example.com", target="/", subprotocols=["msrp", "sip"]), 0.0)
        [request] = carry(client, answerer, 0.0)
        assert isinstance(request, Request)
        assert answerer.state.name == "CONNECTING"
        answerer.send(AcceptConnection(subprotocol="sip"), 1.0)
        assert answerer.state is ConnectionState.OPEN
        [accepted] = carry(answerer, client, 1.0)
        assert isinstance(accepted, AcceptConnection)
        assert client.state is ConnectionState.OPEN
        assert client.subprotocol == answerer.subprotocol == "sip"
        assert client.extensions == answerer.extensions == ()

    def test_extensions(self) -> None:
        client, answerer = pair(offers=[PerMessageDeflate()], supported=[PerMessageDeflate()])
        assert [type(item) for item in answerer.extensions] == [PerMessageDeflate]
        client.send(TextMessage("a" * 1000), 0.0)
        octets = client.data_to_send()
        assert len(octets) < 100
        assert answerer.receive(octets, 0.0) == [TextMessage("a" * 1000)]

    def test_a_profile_takes_over_with_its_sub_protocol(self) -> None:
        profile = SessionConfig(text_as_bytes=True, limits=Limits(max_message_size=4))
        session = server(subprotocol="sip", profiles={"sip": profile})
        assert session.config is profile
        assert session.receive(b"\x81\x83\0\0\0\0abc", 0.0) == [TextMessage(b"abc")]  # type: ignore[arg-type]
        assert server(profiles={"sip": profile}).config is not profile

    def test_a_pausing_session_takes_no_more_frames_than_its_queue(self) -> None:
        limits = Limits(max_queued_messages=2)
        assert len(server(auto_pause=True, limits=limits).receive(frame(0x81) * 9, 0.0)) == 2
        assert len(server(limits=limits).receive(frame(0x81) * 9, 0.0)) == 9

    def test_the_answer_comes_too_late(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.handle_timeout(10.0)
        with pytest.raises(LocalProtocolError, match=r"AcceptConnection .* in state CLOSED"):
            session.send(AcceptConnection(), 10.0)

    def test_a_keep_alive_that_was_set_meanwhile_stays(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.set_keepalive(KeepaliveConfig(interval=60), 0.0)
        session.send(AcceptConnection(), 1.0)
        assert session.next_deadline() == 61.0

    def test_closing_in_a_rejection(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.send(RejectConnection(status_code=403, has_body=True), 0.0)
        session.close(now=1.0, cause=Cause.SHUTDOWN)
        assert session.transport_action is TransportAction.ABORT
        assert closed(session.receive(None, 1.0)).cause is Cause.REJECTION

    def test_keys_come_from_the_callers_source(self) -> None:
        config = SessionConfig(entropy=lambda count: b"k" * count)
        client = Session.established(ConnectionType.CLIENT, now=0.0, config=config)
        client.send(TextMessage("a"), 0.0)
        assert client.data_to_send() == b"\x81\x81kkkk" + bytes([ord("a") ^ ord("k")])

    def test_keys_of_the_system_are_fresh(self) -> None:
        clients = [Session.established(ConnectionType.CLIENT, now=0.0) for _ in range(2)]
        frames = set()
        for client in clients * 50:
            client.send(TextMessage("a" * 100), 0.0)
            frames.add(client.data_to_send())
        assert len(frames) == 100

    def test_rejection_with_a_body(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        answerer = Session(ConnectionType.SERVER, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        carry(client, answerer, 0.0)
        headers = [(b"content-length", b"4")]
        answerer.send(RejectConnection(status_code=403, headers=headers, has_body=True), 0.0)
        assert answerer.state.name == "REJECTING"
        assert answerer.transport_action.name == "NONE"
        answerer.send(RejectData(b"", body_finished=False), 0.0)
        answerer.send(RejectData(b"no", body_finished=False), 0.0)
        answerer.send(RejectData(b"no"), 0.0)
        assert answerer.state is ConnectionState.CLOSED
        assert answerer.transport_action is TransportAction.CLOSE
        events = carry(answerer, client, 0.0)
        assert [type(event) for event in events[:1]] == [RejectConnection]
        assert b"".join(e.data for e in events if isinstance(e, RejectData)) == b"nono"
        assert client.transport_action is TransportAction.CLOSE
        assert closed(answerer.receive(None, 0.0)).cause is Cause.REJECTION
        assert closed(client.receive(None, 0.0)).cause is Cause.REJECTION

    def test_a_bad_request_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 426 ")
        assert session.transport_action is TransportAction.CLOSE
        # What comes behind it is not read.
        assert session.receive(REQUEST, 0.0) == []
        end = closed(session.receive(None, 1.0))
        assert (end.code, end.cause) == (1006, Cause.PROTOCOL_ERROR)
        assert "upgrade" in end.reason.lower()

    def test_a_bad_response(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        client.data_to_send()
        assert client.receive(b"SIP/2.0 200 OK\r\n\r\n", 0.0) == []
        assert client.data_to_send() == b""
        assert client.transport_action is TransportAction.CLOSE
        assert closed(client.receive(None, 0.0)).cause is Cause.PROTOCOL_ERROR

    def test_the_end_before_the_handshake_is_over(self) -> None:
        for octets in (b"", b"GET", REQUEST):
            session = Session(ConnectionType.SERVER, now=0.0)
            session.receive(octets, 0.0)
            end = closed(session.receive(None, 0.0))
            assert (end.code, end.cause) == (1006, Cause.END_OF_INPUT)
            assert session.data_to_send() == b""

    def test_closing_before_the_answer(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.close(now=1.0, reason="overloaded")
        assert session.data_to_send().startswith(b"HTTP/1.1 503 ")
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 1.0))
        assert (end.cause, end.reason) == (Cause.LOCAL, "overloaded")

    def test_closing_a_client_that_is_not_open(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        client.close(now=0.0)
        assert client.transport_action is TransportAction.ABORT
        assert closed(client.receive(None, 0.0)).cause is Cause.LOCAL

    def test_established_elsewhere(self) -> None:
        session = Session.established(
            ConnectionType.SERVER,
            now=5.0,
            subprotocol="sip",
            trailing_data=b"\x89\x80\0\0\0\0",
        )
        assert session.state is ConnectionState.OPEN
        assert session.subprotocol == "sip"
        assert session.next_deadline() == 5.0
        assert session.handle_timeout(5.0) == [Ping()]

    def test_frames_behind_the_request_wait_for_the_answer(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST + b"\x81\x81\0\0\0\0a", 0.0)
        session.send(AcceptConnection(), 0.0)
        assert session.next_deadline() == 0.0
        assert session.handle_timeout(0.0) == [TextMessage("a")]


class TestSending:
    def test_refused_events_change_nothing(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("a"), 0.0)
        session = server()
        for wrong in (AcceptConnection(), "text", None):
            with pytest.raises(TypeError, match="not an event that an open session sends"):
                session.send(wrong, 0.0)  # type: ignore[arg-type]
        for event in (Ping(b"x" * 126), Pong(b"x" * 126), TextMessage("\ud800")):
            with pytest.raises(LocalProtocolError):
                session.send(event, 0.0)
        for code in (1004, 1006, 1015, 999, 5000):
            with pytest.raises(LocalProtocolError):
                session.close(code, now=0.0)
        assert session.state is ConnectionState.OPEN
        assert not session.keepalive.awaiting
        assert session.data_to_send() == b""

    def test_nothing_behind_our_close_frame(self) -> None:
        session = server()
        session.close(now=0.0)
        for event in (TextMessage("a"), Ping(), Pong(), CloseConnection(1000)):
            with pytest.raises(LocalProtocolError, match="LOCAL_CLOSING"):
                session.send(event, 0.0)
        assert session.data_to_send() == b"\x88\x02\x03\xe8"

    def test_messages_in_order(self) -> None:
        session = server()
        session.send(TextMessage("a"), 0.0)
        session.send(BytesMessage(b"b"), 0.0)
        session.send(PreparedMessage(TextMessage("c")), 0.0)
        session.send(Pong(b"d"), 0.0)
        assert session.data_to_send() == b"\x81\x01a\x82\x01b\x81\x01c\x8a\x01d"
        assert session.data_to_send() == b""

    def test_a_ping_of_the_callers_is_timed(self) -> None:
        client, answerer = pair()
        client.send(Ping(b"mine"), 1.0)
        assert carry(client, answerer, 1.5) == [Ping(b"mine")]
        assert carry(answerer, client, 2.25) == [Pong(b"mine")]
        assert client.round_trip_time == 1.25
        assert client.last_received == 2.25

    def test_pongs_are_coalesced(self) -> None:
        session = server()
        for number in range(100):
            session.receive(b"\x89\x81\0\0\0\0%c" % number, 0.0)
        assert session.data_to_send() == b"\x8a\x01%c" % 99

    def test_pongs_wait_while_the_transport_is_stuck(self) -> None:
        session = server()
        session.transport_backlog(0, 0.0)
        session.send(BytesMessage(b"x" * 100), 0.0)
        session.data_to_send()
        session.transport_backlog(102, 0.0)
        session.receive(b"\x89\x81\0\0\0\0a", 0.0)
        assert session.data_to_send() == b"\x8a\x01a"
        session.transport_backlog(105, 0.0)
        for number in range(100):
            session.receive(b"\x89\x81\0\0\0\0%c" % number, 0.0)
            assert session.data_to_send() == b""
        session.transport_backlog(105, 1.0)
        assert session.data_to_send() == b""
        # Not while the last one is in there, behind 102 octets.
        session.transport_backlog(1, 1.0)
        assert session.data_to_send() == b""
        session.transport_backlog(0, 1.0)
        assert session.data_to_send() == b"\x8a\x01%c" % 99
        session.send(BytesMessage(b"x" * 100), 1.0)
        session.data_to_send()
        session.transport_backlog(102, 1.0)
        session.receive(b"\x89\x81\0\0\0\0c", 1.0)
        assert session.data_to_send() == b"\x8a\x01c"

    def test_a_pong_goes_in_front_of_what_waits_but_not_of_the_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST + frame(PING, b"p"), 0.0)
        session.send(AcceptConnection(), 0.0)
        assert session.receive(b"", 0.0) == [Ping(b"p")]
        session.send(TextMessage("a"), 0.0)
        response, frames = session.data_to_send().split(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 101 ")
        assert frames == b"\x8a\x01p\x81\x01a"
        session.send(TextMessage("b"), 0.0)
        session.receive(frame(PING, b"q"), 0.0)
        assert session.data_to_send() == b"\x8a\x01q\x81\x01b"

    def test_a_pong_goes_in_front_of_our_close_frame(self) -> None:
        session = server()
        session.close(now=0.0)
        session.receive(frame(PING, b"p"), 0.0)
        assert session.data_to_send() == b"\x8a\x01p\x88\x02\x03\xe8"
        # RFC 6455 §5.5.2 asks for one as long as the peer's has not come.
        session.receive(frame(PING, b"q"), 0.0)
        assert session.data_to_send() == b"\x8a\x01q"
        session.receive(frame(PING, b"r") + NORMAL, 0.0)
        assert session.data_to_send() == b""

    def test_the_librarys_own_output_stays_small(self) -> None:
        session = server(limits=Limits(max_control_rate=None))
        session.transport_backlog(1_000_000, 0.0)
        own = 0
        for number in range(10_000):
            session.receive(frame(PING, b"%05d" % number + bytes(120)), 0.0)
            own += len(session.data_to_send())
            session.transport_backlog(1_000_000 + own, 0.0)
        session.receive(NORMAL, 0.0)
        own += len(session.data_to_send())
        assert own <= 512

    def test_pongs_may_be_the_callers_affair(self) -> None:
        session = server(auto_pong=False)
        assert session.receive(b"\x89\x81\0\0\0\0a", 0.0) == [Ping(b"a")]
        assert session.data_to_send() == b""

    def test_writable_and_the_bound(self) -> None:
        limits = Limits(high_water=100, max_outgoing=200)
        session = server(limits=limits)
        session.send(BytesMessage(b"x" * 90), 0.0)
        assert session.writable
        session.send(BytesMessage(b"x" * 10), 0.0)
        assert not session.writable
        assert len(session.data_to_send()) == 104
        assert session.writable
        session.transport_backlog(104, 0.0)
        assert not session.writable
        session.send(BytesMessage(b"x" * 98), 0.0)
        # That was one too many: the connection fails, and says so with the next call.
        assert session.state is ConnectionState.CLOSED
        assert session.next_deadline() == 0.0
        assert session.data_to_send().endswith(b"\x03\xf0too much output waits")
        assert session.handle_timeout(0.0) == [CloseConnection(1008, "too much output waits")]
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1006, Cause.LIMIT)
        assert end.close_sent == CloseConnection(1008, "too much output waits")

    def test_the_bound_holds_behind_the_peers_close_frame_too(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.receive(NORMAL, 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        assert session.data_to_send().endswith(b"\x88\x17\x03\xf0too much output waits")
        assert session.data_to_send() == b""
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1000, Cause.REMOTE)
        assert end.close_sent == CloseConnection(1008, "too much output waits")

    def test_the_bound_where_closing_is_the_callers(self) -> None:
        session = server(auto_close=False, limits=Limits(max_outgoing=20))
        session.send(BytesMessage(b""), 0.0)
        session.send(BytesMessage(bytes(20)), 0.0)
        assert session.state is ConnectionState.REMOTE_CLOSING
        with pytest.raises(LocalProtocolError):
            session.send(BytesMessage(b""), 0.0)
        assert session.handle_timeout(0.0) == [CloseConnection(1008, "too much output waits")]
        session = server(auto_close=False, limits=Limits(max_outgoing=20))
        session.receive(NORMAL, 0.0)
        session.send(BytesMessage(b""), 0.0)
        session.send(BytesMessage(bytes(20)), 0.0)
        assert session.state is ConnectionState.CLOSED
        assert session.data_to_send() == b"\x82\x00\x82\x14" + bytes(20)

    def test_one_message_by_itself_may_be_as_long_as_it_is(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.send(BytesMessage(bytes(1000)), 0.0)
        written = session.data_to_send()
        assert (session.state, len(written)) == (ConnectionState.OPEN, 1004)
        session.transport_backlog(1004, 0.0)
        session.send(BytesMessage(b""), 0.0)
        assert session.state is ConnectionState.CLOSED

    def test_ended_before_it_was_told(self) -> None:
        session = server(limits=Limits(max_outgoing=1))
        session.send(BytesMessage(b""), 0.0)
        session.send(BytesMessage(b""), 0.0)
        events = session.abort(now=0.0, cause=Cause.ADMINISTRATOR)
        assert events[0] == CloseConnection(1008, "too much output waits")
        assert closed(events).cause is Cause.LIMIT
        assert session.abort(now=0.0) == []

    def test_what_the_transport_holds_counts(self) -> None:
        session = server(limits=Limits(high_water=100, max_outgoing=1000))
        session.transport_backlog(99, 0.0)
        assert session.writable
        session.transport_backlog(100, 0.0)
        assert not session.writable
        session.transport_backlog(990, 0.0)
        session.send(BytesMessage(bytes(8)), 0.0)
        assert session.state.name == "OPEN"
        session.send(BytesMessage(b""), 0.0)
        assert session.state is ConnectionState.CLOSED

    def test_a_transport_that_moves(self) -> None:
        session = server()
        session.transport_backlog(0, 0.0)
        session.transport_backlog(100, 1.0)
        assert session.next_deadline() == 21.0
        session.transport_backlog(100, 5.0)
        assert session.next_deadline() == 21.0
        # Ten more came in and one went out.
        session.send(BytesMessage(bytes(8)), 6.0)
        session.data_to_send()
        session.transport_backlog(109, 6.0)
        assert session.next_deadline() == 25.0
        session.transport_backlog(0, 7.0)
        assert session.handle_timeout(24.0) == []
        session.transport_backlog(5, 24.0)
        session.receive(None, 24.0)
        session.transport_backlog(5, 24.0)
        assert session.next_deadline() is None

    def test_a_clock_that_is_set_back(self) -> None:
        session = server(1000.0)
        session.transport_backlog(1, 1000.0)
        session.send(TextMessage("a"), 900.0)
        assert session.next_deadline() == 920.0
        session.transport_backlog(0, 900.0)
        assert session.next_deadline() == 925.0

    def test_fragments_are_counted(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.take_fragments() == 0
        session = server()
        # Three frames, the first in two reads; the last of a message is the message.
        session.receive(frame(0x01, b"ab")[:-1], 0.0)
        assert session.take_fragments() == 0
        session.touched = False
        session.receive(b"b" + frame(0x00) + frame(0x80), 0.0)
        assert session.touched
        assert session.take_fragments() == 2
        assert session.take_fragments() == 0
        session.receive(frame(0x01) + frame(0x80) + frame(0x02) * 2, 0.0)
        assert session.take_fragments() == 2

    def test_without_a_bound(self) -> None:
        session = server(limits=Limits(max_outgoing=None))
        session.send(BytesMessage(bytes(2_000_000)), 0.0)
        assert session.state is ConnectionState.OPEN


class TestClosing:
    def test_answers_go_in_front_of_the_close_frame(self) -> None:
        client, answerer = pair()
        client.send(Ping(b"p"), 0.0)
        client.send(TextMessage("question"), 0.0)
        client.close(1001, "bye", now=0.0)
        events = carry(client, answerer, 0.0)
        assert events == [Ping(b"p"), TextMessage("question"), CloseConnection(1001, "bye")]
        assert answerer.state is ConnectionState.REMOTE_CLOSING
        answerer.send(TextMessage("answer"), 0.0)
        events = carry(answerer, client, 0.0)
        assert events == [Pong(b"p"), TextMessage("answer"), CloseConnection(1001, "bye")]
        assert answerer.state is client.state is ConnectionState.CLOSED
        # RFC 6455 §7.1.1
        assert answerer.transport_action is TransportAction.CLOSE
        assert client.transport_action is TransportAction.NONE
        sent = CloseConnection(1001, "bye")
        assert answerer.receive(None, 0.0) == [
            ConnectionClosed(1001, "bye", Cause.REMOTE, sent, sent)
        ]
        assert client.receive(None, 0.0) == [ConnectionClosed(1001, "bye", Cause.LOCAL, sent, sent)]
        assert client.transport_action is TransportAction.CLOSE

    def test_a_close_frame_without_a_code_is_answered_with_one(self) -> None:
        session = server()
        # The form of wsproto's event.
        assert session.receive(b"\x88\x80\0\0\0\0", 0.0) == [CloseConnection(1005, "")]
        assert session.data_to_send() == b"\x88\x00"
        assert closed(session.receive(None, 0.0)).code == 1005

    def test_the_answer_may_be_the_callers(self) -> None:
        session = server()
        session.receive(b"\x88\x82\0\0\0\0\x03\xe8", 0.0)
        session.close(4000, "mine", now=0.0)
        assert session.data_to_send() == b"\x88\x06\x0f\xa0mine"
        assert session.state is ConnectionState.CLOSED
        session = server(auto_close=False)
        session.receive(b"\x88\x82\0\0\0\0\x03\xe8", 0.0)
        assert session.data_to_send() == b""
        session.send(CloseConnection(1000), 0.0)
        assert session.data_to_send() == b"\x88\x02\x03\xe8"
        assert session.transport_action is TransportAction.CLOSE

    def test_both_at_once(self) -> None:
        client, answerer = pair()
        client.close(4001, now=0.0)
        answerer.close(4002, now=0.0)
        octets = client.data_to_send()
        assert carry(answerer, client, 0.0) == [CloseConnection(4002, "")]
        assert answerer.receive(octets, 0.0) == [CloseConnection(4001, "")]
        assert answerer.data_to_send() == client.data_to_send() == b""
        assert answerer.transport_action is TransportAction.CLOSE
        assert closed(answerer.receive(None, 0.0)).cause is Cause.LOCAL

    def test_close_is_idempotent(self) -> None:
        session = server()
        session.close(4000, now=0.0)
        session.close(4001, now=0.0)
        assert session.data_to_send() == b"\x88\x02\x0f\xa0"
        session.receive(None, 0.0)
        session.close(4002, now=0.0)
        assert session.data_to_send() == b""

    def test_an_error_of_the_peers(self) -> None:
        session = server()
        events = session.receive(b"\x81\x81\0\0\0\0a\x81\x01", 0.0)
        assert events == [TextMessage("a"), CloseConnection(1002, "unmasked frame")]
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("b"), 0.0)
        assert session.data_to_send() == b"\x88\x10\x03\xeaunmasked frame"
        assert session.transport_action is TransportAction.CLOSE
        assert session.receive(b"\x81\x81\0\0\0\0a", 0.0) == []
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.reason, end.cause) == (1006, "unmasked frame", Cause.PROTOCOL_ERROR)

    def test_an_error_may_be_the_callers_to_answer(self) -> None:
        session = server(auto_close=False)
        session.receive(b"\x83", 0.0)
        assert session.state is ConnectionState.REMOTE_CLOSING
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("b"), 0.0)
        session.send(CloseConnection(1002), 0.0)
        assert session.data_to_send() == b"\x88\x02\x03\xea"
        assert session.transport_action is TransportAction.CLOSE

    def test_an_error_behind_our_close_frame(self) -> None:
        session = server()
        session.close(now=0.0)
        session.data_to_send()
        assert session.receive(b"\x83", 0.0) == [CloseConnection(1002, "unknown opcode 0x3")]
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 0.0))
        assert end.cause is Cause.LOCAL
        assert end.close_rcvd is None

    def test_what_is_too_big_is_a_limit(self) -> None:
        session = server(limits=Limits(max_message_size=10))
        [event] = session.receive(b"\x82\x8b", 0.0)
        assert isinstance(event, CloseConnection)
        assert event.code == 1009
        assert closed(session.receive(None, 0.0)).cause is Cause.LIMIT

    def test_the_end_of_input(self) -> None:
        session = server()
        session.send(TextMessage("rest"), 0.0)
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1006, Cause.END_OF_INPUT)
        assert session.transport_action is TransportAction.CLOSE
        # The other direction may still be open.
        assert session.data_to_send() == b"\x81\x04rest"
        assert session.receive(None, 0.0) == session.receive(b"\x81", 0.0) == []
        assert session.closed
        assert session.next_deadline() is None
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("late"), 0.0)

    def test_the_end_right_behind_the_close_frame(self) -> None:
        session = server()
        session.receive(b"\x88\x82\0\0\0\0\x03\xe8", 0.0)
        end = closed(session.receive(None, 0.0))
        assert end.close_sent == CloseConnection(1000, "")
        assert session.data_to_send() == b"\x88\x02\x03\xe8"

    def test_abort(self) -> None:
        session = server()
        end = closed(session.abort(now=0.0, cause=Cause.ADMINISTRATOR))
        assert (end.code, end.cause) == (1006, Cause.ADMINISTRATOR)
        assert session.transport_action is TransportAction.ABORT
        assert session.abort(now=0.0) == []
        assert session.handle_timeout(1e9) == []

    def test_1005_1006_and_1015_are_told_and_never_sent(self) -> None:
        for code in (1005, 1006, 1015):
            session = server()
            [event] = session.receive(frame(CLOSE, code.to_bytes(2)), 0.0)
            assert event == CloseConnection(1002, f"close code {code} may not stand in a frame")
            assert session.data_to_send()[2:4] == b"\x03\xea"
        session = server()
        # 1005 as an argument is a close frame without a code.
        session.close(1005, now=0.0)
        assert session.data_to_send() == b"\x88\x00"

    def test_a_reason_is_cut_between_characters(self) -> None:
        session = server()
        session.close(4000, "é" * 62, now=0.0)
        assert session.data_to_send() == b"\x88\x7c\x0f\xa0" + "é".encode() * 61
        session = server()
        with pytest.raises(LocalProtocolError, match="reason"):
            session.close(4000, "\ud800", now=0.0)
        assert session.state is ConnectionState.OPEN

    def test_aborting_is_final(self) -> None:
        session = server()
        session.close(now=0.0)
        session.handle_timeout(5.0)
        assert session.transport_action is TransportAction.ABORT
        assert session.receive(None, 5.0) == []
        assert session.transport_action is TransportAction.ABORT

    def test_tls(self) -> None:
        end = closed(Session(ConnectionType.CLIENT, now=0.0).tls_failed(now=0.0))
        assert (end.code, end.cause) == (1015, Cause.TLS)

    def test_prepared_and_pieces_after_the_peers_close_frame(self) -> None:
        session = server()
        session.send(TextMessage("half", message_finished=False), 0.0)
        session.receive(b"\x88\x82\0\0\0\0\x03\xe8", 0.0)
        session.send(TextMessage("whole"), 0.0)
        session.send(PreparedMessage(TextMessage("more")), 0.0)
        assert session.data_to_send() == b"\x01\x04half\x80\x05whole\x81\x04more\x88\x02\x03\xe8"


def opened() -> Session:
    return server()


def requesting() -> Session:
    session = Session(ConnectionType.SERVER, now=0.0)
    session.receive(REQUEST, 0.0)
    return session


def rejecting() -> Session:
    session = requesting()
    session.send(RejectConnection(status_code=403), 0.0)
    return session


def connecting() -> Session:
    return Session(ConnectionType.SERVER, now=0.0)


BYE = CloseConnection(1000, "bye")
GONE = CloseConnection(1001, "going")


class Ending(NamedTuple):
    """One way to end, and what has to be told of it."""

    make: Callable[[], Session]
    act: Callable[[Session], list[Event]]
    closed: ConnectionClosed
    action: TransportAction


def nothing(session: Session) -> list[Event]:
    return []


def close(session: Session, cause: Cause = Cause.LOCAL) -> list[Event]:
    session.close(1001, "going", now=0.0, cause=cause)
    return []


def send(session: Session) -> list[Event]:
    session.send(BytesMessage(b"a"), 0.0)
    return []


def waiting(session: Session) -> Session:
    """A session with something to send."""
    send(session)
    return session


def stick(session: Session) -> list[Event]:
    session.transport_backlog(1, 0.0)
    return []


def refuse(session: Session) -> list[Event]:
    session.close(now=0.0, reason="full", cause=Cause.SHUTDOWN)
    return []


ABORT, DONE = TransportAction.ABORT, TransportAction.CLOSE
ENDINGS = {
    "the peer closes": Ending(
        opened,
        lambda session: session.receive(NORMAL, 0.0),
        ConnectionClosed(1000, "bye", Cause.REMOTE, BYE, BYE),
        DONE,
    ),
    "the peer closes without a code": Ending(
        opened,
        lambda session: session.receive(frame(CLOSE), 0.0),
        ConnectionClosed(
            1005, "", Cause.REMOTE, CloseConnection(1005, ""), CloseConnection(1005, "")
        ),
        DONE,
    ),
    "we close": Ending(
        opened,
        lambda session: close(session) + session.receive(NORMAL, 1.0),
        ConnectionClosed(1000, "bye", Cause.LOCAL, BYE, GONE),
        DONE,
    ),
    "we close and the transport ends": Ending(
        opened,
        lambda session: close(session, Cause.ADMINISTRATOR),
        ConnectionClosed(1006, "", Cause.ADMINISTRATOR, None, GONE),
        DONE,
    ),
    "we close and nothing comes": Ending(
        opened,
        lambda session: close(session, Cause.SHUTDOWN) + session.handle_timeout(5.0),
        ConnectionClosed(1006, "the close frame was not answered", Cause.CLOSE_TIMEOUT, None, GONE),
        ABORT,
    ),
    "the transport ends": Ending(
        opened, nothing, ConnectionClosed(1006, "", Cause.END_OF_INPUT), DONE
    ),
    "the peer breaks the protocol": Ending(
        opened,
        lambda session: session.receive(b"\x83", 0.0),
        ConnectionClosed(
            1006,
            "unknown opcode 0x3",
            Cause.PROTOCOL_ERROR,
            None,
            CloseConnection(1002, "unknown opcode 0x3"),
        ),
        DONE,
    ),
    "a message is too long": Ending(
        opened,
        lambda session: session.receive(b"\x82\xff" + bytes(5) + b"\x10\x00\x01", 0.0),
        ConnectionClosed(
            1006,
            "message of more than 1048576 octets",
            Cause.LIMIT,
            None,
            CloseConnection(1009, "message of more than 1048576 octets"),
        ),
        DONE,
    ),
    "too much output": Ending(
        lambda: waiting(server(limits=Limits(max_outgoing=1))),
        send,
        ConnectionClosed(
            1006,
            "too much output waits",
            Cause.LIMIT,
            None,
            CloseConnection(1008, "too much output waits"),
        ),
        DONE,
    ),
    "the peer is gone": Ending(
        opened,
        lambda session: session.handle_timeout(25.0) + session.handle_timeout(45.0),
        ConnectionClosed(
            1006,
            "keep-alive timed out",
            Cause.KEEPALIVE,
            None,
            CloseConnection(1011, "keep-alive timed out"),
        ),
        ABORT,
    ),
    "the peer is idle": Ending(
        lambda: server(idle_timeout=1.0),
        lambda session: session.handle_timeout(1.0),
        ConnectionClosed(1006, "", Cause.IDLE, None, CloseConnection(1001, "idle for too long")),
        DONE,
    ),
    "it is old": Ending(
        lambda: server(max_age=1.0),
        lambda session: session.handle_timeout(1.0),
        ConnectionClosed(1006, "", Cause.AGE, None, CloseConnection(1001, "maximum age reached")),
        DONE,
    ),
    "the transport is stuck": Ending(
        opened,
        lambda session: stick(session) + session.handle_timeout(20.0),
        ConnectionClosed(1006, "the transport took no octets for too long", Cause.SEND_TIMEOUT),
        ABORT,
    ),
    "no handshake": Ending(
        connecting,
        lambda session: session.handle_timeout(10.0) + session.handle_timeout(15.0),
        ConnectionClosed(1006, "the opening handshake took too long", Cause.OPEN_TIMEOUT),
        ABORT,
    ),
    "a bad handshake": Ending(
        connecting,
        lambda session: session.receive(b"\x00", 0.0),
        ConnectionClosed(1006, "this is not HTTP: b'\\x00'", Cause.PROTOCOL_ERROR),
        DONE,
    ),
    "half a handshake": Ending(
        connecting,
        lambda session: session.receive(b"GET", 0.0),
        ConnectionClosed(
            1006, "the client went away before the handshake was over", Cause.END_OF_INPUT
        ),
        DONE,
    ),
    "a refused handshake": Ending(
        rejecting, nothing, ConnectionClosed(1006, "", Cause.REJECTION), DONE
    ),
    "closed before the handshake was answered": Ending(
        requesting,
        refuse,
        ConnectionClosed(1006, "full", Cause.SHUTDOWN),
        DONE,
    ),
    "TLS failed": Ending(
        connecting,
        lambda session: session.tls_failed(now=0.0),
        ConnectionClosed(1015, "", Cause.TLS),
        ABORT,
    ),
    "aborted": Ending(
        opened,
        lambda session: session.abort(now=0.0, cause=Cause.SHUTDOWN),
        ConnectionClosed(1006, "", Cause.SHUTDOWN),
        ABORT,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_told_once(name: str) -> None:
    ending = ENDINGS[name]
    session = ending.make()
    told = ending.act(session) + session.receive(None, session._now)
    assert [event for event in told if isinstance(event, ConnectionClosed)] == [ending.closed]
    assert told[-1] == ending.closed
    assert session.transport_action is ending.action
    # Whatever comes now, that was it.
    session.close(now=session._now)
    session.transport_backlog(5, session._now)
    session.pause(session._now)
    after = [
        *session.receive(b"late", 1e3),
        *session.receive(None, 1e3),
        *session.handle_timeout(1e6),
        *session.resume(1e6),
        *session.abort(now=1e6),
        *session.tls_failed(now=1e6),
    ]
    assert after == []
    assert session.closed
    assert session.state is ConnectionState.CLOSED
    assert session.next_deadline() is None
    session.data_to_send()
    assert session.data_to_send() == b""


class TestMemory:
    def test_an_idle_session_is_small(self) -> None:
        sessions = [server()]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            sessions += [server() for _ in range(500)]
            each = (tracemalloc.get_traced_memory()[0] - before) / 500
        finally:
            tracemalloc.stop()
        assert each < 1200

    def test_an_ended_session_lets_go(self) -> None:
        session = server()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            session.receive(frame(0x01, bytes(200_000)), 0.0)
            session.receive(frame(0x80, bytes(200_000))[:-1], 0.0)
            assert tracemalloc.get_traced_memory()[0] - before > 400_000
            session.receive(None, 0.0)
            assert tracemalloc.get_traced_memory()[0] - before < 1000
        finally:
            tracemalloc.stop()

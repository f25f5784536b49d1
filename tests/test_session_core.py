"""What a session sends, and how it ends."""

from __future__ import annotations

import tracemalloc

import pytest

from tests._sessions import REQUEST, carry, pair, server
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
from wsproto_sip.lifecycle import TRANSITIONS, Cause, ConnectionClosed, Step, TransportAction
from wsproto_sip.limits import Limits
from wsproto_sip.prepared import PreparedMessage
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError


def closed(events: list[Event]) -> ConnectionClosed:
    """The one ConnectionClosed among events."""
    [event] = [event for event in events if isinstance(event, ConnectionClosed)]
    assert events[-1] is event
    return event


class TestOpening:
    def test_both_ends(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        answerer = Session(ConnectionType.SERVER, now=0.0)
        client.send(Request(host="example.com", target="/", subprotocols=["msrp", "sip"]), 0.0)
        [request] = carry(client, answerer, 0.0)
        assert isinstance(request, Request)
        assert answerer.state is ConnectionState.CONNECTING
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

    def test_rejection_with_a_body(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        answerer = Session(ConnectionType.SERVER, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        carry(client, answerer, 0.0)
        headers = [(b"content-length", b"4")]
        answerer.send(RejectConnection(status_code=403, headers=headers, has_body=True), 0.0)
        assert answerer.state is ConnectionState.REJECTING
        assert answerer.transport_action is TransportAction.NONE
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
        with pytest.raises(TypeError, match="AcceptConnection"):
            session.send(AcceptConnection(), 0.0)
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
        session.transport_backlog(104, 1.0)
        assert session.data_to_send() == b"\x8a\x01%c" % 99

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
        assert each < 1300

    def test_an_ended_session_is_smaller(self) -> None:
        session = server()
        session.receive(b"\x81\xfe\xff\xff\0\0\0\0" + bytes(60_000), 0.0)
        session.receive(None, 0.0)
        assert session._parser is None
        assert session.data_to_send() == b""


def test_every_transition_but_these_is_refused() -> None:
    for (state, step), after in TRANSITIONS.items():
        assert (after is ConnectionState.CLOSED) or step is not Step.END
        assert state is not ConnectionState.CLOSED or step is Step.END
    for state in ConnectionState:
        assert TRANSITIONS[state, Step.END] is ConnectionState.CLOSED

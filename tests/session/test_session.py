"""A session from its first byte to its last, on a simulated clock."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests._sessions import (
    BINARY,
    CLOSE,
    NORMAL,
    PING,
    PONG,
    REQUEST,
    TEXT,
    carry,
    closed,
    established,
    fixed_entropy,
    frame,
    pair,
    run,
    server,
)
from wsproto_sip._compiled import KernelParser
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
from wsproto_sip.frame_protocol import CloseReason
from wsproto_sip.limits import Limits
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause, CheckTransport, ConnectionClosed, TransportAction
from wsproto_sip.session.prepared import PreparedMessage
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError


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
        raw = client.data_to_send()
        assert len(raw) < 100
        assert answerer.receive(raw, 0.0) == [TextMessage("a" * 1000)]

    def test_profile_takes_over_with_its_sub_protocol(self) -> None:
        profile = SessionConfig(text_as_bytes=True, limits=Limits(max_message_size=4))
        session = server(subprotocol="sip", profiles={"sip": profile})
        assert session.config is profile
        assert session.receive(b"\x81\x83\0\0\0\0abc", 0.0) == [TextMessage(b"abc")]  # type: ignore[arg-type]
        assert server(profiles={"sip": profile}).config is not profile

    def test_auto_pause_limits_the_frames_per_call(self) -> None:
        limits = Limits(max_queued_messages=2)
        assert len(server(auto_pause=True, limits=limits).receive(frame(0x81) * 9, 0.0)) == 2
        assert len(server(limits=limits).receive(frame(0x81) * 9, 0.0)) == 9

    def test_late_answer_is_refused(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.handle_timeout(10.0)
        with pytest.raises(LocalProtocolError, match=r"AcceptConnection .* in state CLOSED"):
            session.send(AcceptConnection(), 10.0)

    def test_keepalive_set_during_the_handshake_is_kept(self) -> None:
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

    def test_bad_request_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 426 ")
        assert session.transport_action is TransportAction.CLOSE
        # Further input is not read.
        assert session.receive(REQUEST, 0.0) == []
        end = closed(session.receive(None, 1.0))
        assert (end.code, end.cause) == (1006, Cause.PROTOCOL_ERROR)
        assert "upgrade" in end.reason.lower()

    def test_bad_response(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        client.data_to_send()
        assert client.receive(b"SIP/2.0 200 OK\r\n\r\n", 0.0) == []
        assert client.data_to_send() == b""
        # Such a server may wait for us to speak, which nothing is left for.
        assert client.transport_action is TransportAction.ABORT
        assert closed(client.receive(None, 0.0)).cause is Cause.PROTOCOL_ERROR

    def test_end_before_the_handshake_is_over(self) -> None:
        for sent in (b"", b"GET", REQUEST):
            session = Session(ConnectionType.SERVER, now=0.0)
            session.receive(sent, 0.0)
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

    def test_frames_after_the_request_wait_for_the_answer(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST + b"\x81\x81\0\0\0\0a", 0.0)
        session.send(AcceptConnection(), 0.0)
        assert session.next_deadline() == 0.0
        assert session.handle_timeout(0.0) == [TextMessage("a")]


class TestTheHandshake:
    def test_bad_request_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST[:30], 0.0)
        assert session.receive(REQUEST[30:].replace(b"13", b"14") + frame(TEXT), 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1006, Cause.PROTOCOL_ERROR)
        assert end.reason == "unsupported Sec-WebSocket-Version b'14'"

    def test_bad_response_is_not_answered(self) -> None:
        session = Session(ConnectionType.CLIENT, now=0.0)
        session.send(Request(host="example.com", target="/"), 0.0)
        session.data_to_send()
        assert session.receive(b"HTTP/1.1 101 ?\r\n\r\n", 0.0) == []
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.ABORT
        # The failure has been reported: a second CloseConnection would be wrong.
        [end] = session.receive(None, 0.0)
        assert isinstance(end, ConnectionClosed)
        assert end.cause is Cause.PROTOCOL_ERROR

    def test_too_much_input_after_a_request(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        assert session.receive(bytes(16 * 1024 + 1), 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert closed(session.receive(None, 0.0)).cause is Cause.PROTOCOL_ERROR

    def test_request_that_another_server_has_parsed(self) -> None:
        headers = [
            (b"Host", b"example.com"),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"Sec-WebSocket-Protocol", b"sip"),
        ]
        sip = SessionConfig(text_as_bytes=True)
        config = SessionConfig(profiles={"sip": sip})
        session = Session(ConnectionType.SERVER, now=0.0, config=config)
        [request] = session.initiate_upgrade_connection(headers, "/chat?room=1", 1.0)
        assert isinstance(request, Request)
        assert (request.host, request.target) == ("example.com", "/chat?room=1")
        assert request.subprotocols == ["sip"]
        # Input after it waits for the answer, as does the deadline.
        assert session.receive(frame(TEXT, b"early"), 1.0) == []
        assert session.next_deadline() == 10.0
        for again in (session, pair()[0], pair()[1]):
            with pytest.raises(LocalProtocolError):
                again.initiate_upgrade_connection(headers, "/", 1.0)
        session.send(AcceptConnection(subprotocol="sip"), 1.0)
        assert session.data_to_send().startswith(b"HTTP/1.1 101 ")
        assert session.config is sip
        assert session.receive(frame(TEXT, b"late"), 1.0) == [
            TextMessage(b"early"),  # type: ignore[arg-type]
            TextMessage(b"late"),  # type: ignore[arg-type]
        ]

    def test_invalid_parsed_request_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.initiate_upgrade_connection([(b"Host", b"example.com")], b"/", 1.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert session.transport_action is TransportAction.CLOSE
        assert session.next_deadline() == 6.0
        end = closed(session.receive(None, 1.0))
        assert (end.code, end.cause) == (1006, Cause.PROTOCOL_ERROR)
        with pytest.raises(LocalProtocolError, match="in state CLOSED"):
            session.initiate_upgrade_connection([], b"/", 1.0)
        client = Session(ConnectionType.CLIENT, now=0.0)
        with pytest.raises(LocalProtocolError, match="client"):
            client.initiate_upgrade_connection([], b"/", 1.0)
        assert client.state is ConnectionState.CONNECTING


class TestReceiving:
    def test_messages_are_whole(self) -> None:
        session = established()
        session.touched = False
        assert session.receive(frame(0x01, b"a"), 1.0) == []
        assert session.receive(frame(0x80, b"b") + frame(BINARY, b"c"), 2.0) == [
            TextMessage("ab"),
            BytesMessage(b"c"),
        ]
        assert session.last_received == 2.0
        # A fragment to be counted is all that happened.
        assert session.touched
        assert session.take_fragments() == 1
        assert session.take_fragments() == 0

    def test_read_of_messages_touches_nothing_else(self) -> None:
        session = established()
        session.touched = False
        session.receive(frame(TEXT, b"a")[:3], 1.0)
        session.receive(frame(TEXT, b"a")[3:], 1.0)
        assert not session.touched
        session.receive(frame(PING), 1.0)
        assert session.touched

    def test_pieces_on_request(self) -> None:
        session = established(whole_messages=False)
        assert session.receive(frame(0x02, b"abc")[:-1], 0.0) == [
            BytesMessage(b"ab", frame_finished=False, message_finished=False)
        ]

    def test_text_as_bytes_on_request(self) -> None:
        session = established(text_as_bytes=True)
        assert session.receive(frame(TEXT, "ü".encode()), 0.0) == [
            TextMessage("ü".encode())  # type: ignore[arg-type]
        ]
        [event] = session.receive(frame(TEXT, b"\xff"), 0.0)
        assert isinstance(event, CloseConnection)
        assert event.code == 1007

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes_in_any_form(self, kind: type[bytes]) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        [request] = session.receive(kind(REQUEST), 0.0)
        assert isinstance(request, Request)
        session.send(AcceptConnection(), 0.0)
        assert session.receive(kind(frame(TEXT, b"a")), 0.0) == [TextMessage("a")]
        session.pause(0.0)
        assert session.receive(kind(frame(TEXT, b"b")), 0.0) == []
        assert session.resume(0.0) == [TextMessage("b")]

    @pytest.mark.parametrize("wrong", ["text", 5, [1]])
    def test_other_types_are_refused(self, wrong: object) -> None:
        for session in (Session(ConnectionType.SERVER, now=0.0), established()):
            with pytest.raises(TypeError):
                session.receive(wrong, 0.0)  # type: ignore[arg-type]
            assert session.next_deadline() in (10.0, 25.0)

    def test_empty_input_has_no_effect(self) -> None:
        for session in (Session(ConnectionType.SERVER, now=0.0), established()):
            assert session.receive(b"", 5.0) == []
            assert session.last_received == 0.0
            assert session.data_to_send() == b""

    def test_work_is_done_in_portions(self) -> None:
        session = established(limits=Limits(max_frames_per_call=4))
        session.touched = False
        messages = [TextMessage(str(number)) for number in range(10)]
        events = session.receive(b"".join(frame(TEXT, b"%d" % number) for number in range(10)), 3.0)
        assert events == messages[:4]
        assert session.touched
        assert session.has_work
        assert session.next_deadline() == 3.0
        assert session.handle_timeout(3.0) == messages[4:8]
        assert session.receive(frame(TEXT, b"more"), 3.0) == [*messages[8:], TextMessage("more")]
        assert not session.has_work
        assert session.next_deadline() == 25.0

    def test_by_default_portions_are_256_frames(self) -> None:
        session = established()
        assert len(session.receive(frame(TEXT, b"a") * 300, 0.0)) == 256
        assert len(session.handle_timeout(0.0)) == 44

    def test_end_of_input_waits_for_remaining_work(self) -> None:
        session = established(limits=Limits(max_frames_per_call=1))
        session.receive(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(TEXT, b"3"), 0.0)
        assert session.receive(None, 0.0) == [TextMessage("2")]
        # That was the end of the peer's input.
        assert session.receive(b"", 0.0) == [
            TextMessage("3"),
            ConnectionClosed(1006, "", Cause.END_OF_INPUT),
        ]

    def test_input_after_a_close_frame_is_ignored(self) -> None:
        session = established()
        assert session.receive(NORMAL + frame(TEXT, b"late"), 0.0) == [CloseConnection(1000, "bye")]
        for _ in range(3):
            assert session.receive(frame(TEXT, b"later") * 1000, 0.0) == []
        session.pause(0.0)
        session.receive(frame(TEXT, b"later") * 1000, 0.0)
        assert not session.has_work
        assert session.resume(0.0) == []
        assert session._input == b""

    @given(st.data())
    def test_any_split_of_the_input_gives_the_same(self, data: st.DataObject) -> None:
        parts = [
            frame(TEXT, "grüße".encode()),
            frame(0x02, b"a"),
            frame(PING, b"1"),
            frame(0x00),
            frame(PONG, b"1"),
            frame(PING, b"2"),
            frame(0x80, b"b"),
            frame(BINARY, bytes(200)),
            data.draw(st.sampled_from([NORMAL, frame(0x83), frame(TEXT, b"\xff"), b""])),
            frame(TEXT, b"late"),
        ]
        stream = REQUEST + b"".join(parts)
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))

        def outcome(cuts: Sequence[int]) -> tuple[list[Event], bytes, TransportAction]:
            session = Session(ConnectionType.SERVER, now=0.0)
            events: list[Event] = []
            edges = [0, *sorted(cuts), len(stream)]
            for start, stop in pairwise(edges):
                for event in session.receive(stream[start:stop], 0.0):
                    events.append(event)
                    if isinstance(event, Request):
                        session.send(AcceptConnection(), 0.0)
                events += session.handle_timeout(0.0)
            return events, session.data_to_send(), session.transport_action

        assert outcome(cuts) == outcome([])


def test_events_of_the_compiled_engine_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its front takes whole messages, and leaves the rest to the parser."""
    monkeypatch.setattr("wsproto_sip.session.session.PARSER", KernelParser)
    session = server()
    data = frame(TEXT, b"a") + frame(PING, b"p") + frame(TEXT, b"b")
    assert session.receive(data, 0.0) == [TextMessage("a"), Ping(b"p"), TextMessage("b")]
    assert session.receive(frame(TEXT, b"c"), 0.0) == [TextMessage("c")]


class TestSending:
    def test_refused_events_change_nothing(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("a"), 0.0)
        session = server()
        with pytest.raises(LocalProtocolError, match="cannot be sent in state OPEN"):
            session.send(AcceptConnection(), 0.0)
        for wrong in ("text", None):
            with pytest.raises(TypeError, match="not an event that an open session sends"):
                session.send(wrong, 0.0)  # type: ignore[arg-type]
        for event in (Ping(b"x" * 126), Pong(b"x" * 126), TextMessage("\ud800")):
            with pytest.raises(LocalProtocolError):
                session.send(event, 0.0)
        for code in (1004, 999, 5000):
            with pytest.raises(LocalProtocolError):
                session.close(code, now=0.0)
        assert session.state is ConnectionState.OPEN
        assert not session.keepalive.awaiting
        assert session.data_to_send() == b""

    def test_messages_after_our_close_frame_are_refused(self) -> None:
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

    @pytest.mark.parametrize("role", ConnectionType)
    def test_message_and_its_bytes_in_one_step(self, role: ConnectionType) -> None:
        config = SessionConfig(entropy=fixed_entropy)
        session = Session.established(role, now=0.0, config=config)
        other = Session.established(role, now=0.0, config=config)
        session.touched = False
        messages: list[tuple[Any, Any]] = [
            ("a\u20ac", TextMessage("a\u20ac")),
            (b"b" * 200, BytesMessage(b"b" * 200)),
            (bytearray(b"c"), BytesMessage(b"c")),
            (prepared := PreparedMessage(TextMessage("d")), prepared),
        ]
        for message, event in messages:
            other.send(event, 1.0)
            assert session.send_message(message, 1.0) == other.data_to_send()
        assert not session.touched

    def test_message_in_one_step_comes_after_what_waits(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.send(TextMessage("a"), 0.0)
        session.touched = False
        assert session.send_message("b", 0.0) == b"\x81\x01a\x81\x01b"
        assert session.touched
        session.receive(frame(PING, b"p"), 0.0)
        assert session.send_message(b"c", 0.0) == b"\x8a\x01p\x82\x01c"
        session.transport_backlog(10, 0.0)
        prepared = PreparedMessage(BytesMessage(bytes(10)))
        assert session.send_message(prepared, 0.0).endswith(b"too much output waits")
        assert session.handle_timeout(0.0) == [CloseConnection(1008, "too much output waits")]

    def test_message_in_one_step_before_the_answer_to_a_close_frame(self) -> None:
        session = server()
        session.receive(NORMAL, 0.0)
        assert session.send_message("a", 0.0) == b"\x81\x01a\x88\x05\x03\xe8bye"
        with pytest.raises(LocalProtocolError, match="CLOSED"):
            session.send_message("b", 0.0)

    def test_refused_message_in_one_step_changes_nothing(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        with pytest.raises(LocalProtocolError):
            session.send_message("a", 0.0)
        session = server()
        with pytest.raises(LocalProtocolError, match="text cannot be sent"):
            session.send_message("\ud800", 0.0)
        with pytest.raises(TypeError):
            session.send_message(5, 0.0)  # type: ignore[arg-type]
        session.send(TextMessage("a", message_finished=False), 0.0)
        assert session.data_to_send() == b"\x01\x01a"
        with pytest.raises(LocalProtocolError, match="cannot change"):
            session.send_message(b"b", 0.0)
        assert session.send_message("b", 0.0) == b"\x80\x01b"

    def test_ping_of_the_callers_is_timed(self) -> None:
        client, answerer = pair()
        client.send(Ping(b"mine"), 1.0)
        assert carry(client, answerer, 1.5) == [Ping(b"mine")]
        assert carry(answerer, client, 2.25) == [Pong(b"mine")]
        assert client.round_trip_time == 1.25
        assert client.last_received == 2.25

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
        # That was one too many: the connection fails, and reports it at the next call.
        assert session.state is ConnectionState.CLOSED
        assert session.next_deadline() == 0.0
        assert session.data_to_send().endswith(b"\x03\xf0too much output waits")
        assert session.handle_timeout(0.0) == [CloseConnection(1008, "too much output waits")]
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1006, Cause.LIMIT)
        assert end.close_sent == CloseConnection(1008, "too much output waits")

    def test_limit_applies_after_the_peers_close_frame(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.receive(NORMAL, 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        assert session.data_to_send().endswith(b"\x88\x17\x03\xf0too much output waits")
        assert session.data_to_send() == b""
        [end] = session.receive(None, 0.0)
        assert isinstance(end, ConnectionClosed)
        assert (end.code, end.cause) == (1000, Cause.REMOTE)
        assert end.close_sent == CloseConnection(1008, "too much output waits")

    def test_limit_with_manual_closing(self) -> None:
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

    def test_single_message_may_exceed_the_limit(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.send(BytesMessage(bytes(1000)), 0.0)
        written = session.data_to_send()
        assert (session.state, len(written)) == (ConnectionState.OPEN, 1004)
        session.transport_backlog(1004, 0.0)
        session.send(BytesMessage(b""), 0.0)
        assert session.state is ConnectionState.CLOSED

    def test_session_ended_before_the_report(self) -> None:
        session = server(limits=Limits(max_outgoing=1))
        session.send(BytesMessage(b""), 0.0)
        session.send(BytesMessage(b""), 0.0)
        events = session.abort(now=0.0, cause=Cause.ADMINISTRATOR)
        assert events[0] == CloseConnection(1008, "too much output waits")
        assert closed(events).cause is Cause.LIMIT
        assert session.abort(now=0.0) == []

    def test_clock_that_is_set_back(self) -> None:
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
        # Three frames, the first in two reads; the last one of a message completes it.
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


#: A limit that is soon reached.
RATE = Limits(max_control_rate=50, control_burst=200)


class TestControlFrames:
    def test_each_ping_is_answered(self) -> None:
        session = established()
        events = session.receive(frame(PING, b"1") + frame(PING, b"2"), 0.0)
        assert events == [Ping(b"1"), Ping(b"2")]
        events = session.receive(frame(PING, b"3"), 0.0)
        assert session.data_to_send() == b"\x8a\x011\x8a\x012\x8a\x013"
        assert session.controls_sent == 3

    def test_answering_pings_can_be_left_to_the_caller(self) -> None:
        session = established(auto_pong=False)
        assert session.receive(frame(PING, b"1") + frame(TEXT), 0.0) == [
            Ping(b"1"),
            TextMessage(""),
        ]
        assert session.data_to_send() == b""

    def test_as_many_as_may_come_at_once(self) -> None:
        session = established(limits=RATE)
        assert session.receive(frame(PING) * 200, 0.0) == [Ping()] * 200
        assert session.state is ConnectionState.OPEN
        # 50 a second.
        assert session.receive(frame(PONG) * 50, 1.0) == [Pong()] * 50
        assert session.receive(frame(PING), 1.0) == [
            Ping(),
            CloseConnection(1008, "too many control frames"),
        ]
        assert session.data_to_send() == b"\x88\x19\x03\xf0too many control frames"
        assert session.transport_action is TransportAction.CLOSE
        assert session.receive(frame(PING), 1.0) == []
        end = closed(session.receive(None, 1.0))
        assert (end.code, end.reason) == (1006, "too many control frames")
        assert end.cause is Cause.LIMIT

    def test_quiet_time_saves_at_most_the_burst(self) -> None:
        session = established(limits=RATE)
        session.receive(frame(PING), 0.0)
        session.receive(frame(PING) * 200, 10_000.0)
        assert session.state.name == "OPEN"
        session.receive(frame(PING), 10_000.0)
        assert session.state is ConnectionState.REMOTE_CLOSING

    def test_flood_in_portions(self) -> None:
        session = established(
            limits=Limits(max_frames_per_call=100, max_control_rate=50, control_burst=200)
        )
        events = session.receive(frame(PING) * 1000, 0.0)
        while session.has_work:
            events += session.handle_timeout(0.0)
        # Input after the excess frame is dropped.
        assert events == [Ping()] * 300 + [CloseConnection(1008, "too many control frames")]

    def test_flood_that_ends_in_a_close_frame_is_not_a_failure(self) -> None:
        session = established(limits=RATE)
        events = session.receive(frame(PING, b"x") * 240 + NORMAL, 0.0)
        assert events == [Ping(b"x")] * 240 + [CloseConnection(1000, "bye")]
        assert session.data_to_send() == b"\x8a\x01x" * 240 + b"\x88\x05\x03\xe8bye"
        assert closed(session.receive(None, 0.0)).cause is Cause.REMOTE

    def test_flood_after_our_close_frame(self) -> None:
        session = established(limits=RATE)
        session.close(now=0.0)
        session.data_to_send()
        events = session.receive(frame(PING) * 201, 0.0)
        assert events[-1] == CloseConnection(1008, "too many control frames")
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.CLOSE
        assert closed(session.receive(None, 0.0)).cause is Cause.LOCAL

    def test_reasonable_pings_pass(self) -> None:
        session = established()
        pings = b"".join(frame(PING, b"%03d" % number) for number in range(151))
        for second in range(10):
            assert len(session.receive(pings, float(second))) == 151
            assert session.data_to_send().count(b"\x8a\x03") == 151
        for _ in range(4):
            session.receive(frame(PING) * 250, 100.0)
        assert session.state is ConnectionState.OPEN

    def test_ping_beside_each_message_passes_at_any_rate(self) -> None:
        session = established(limits=Limits(max_control_rate=1, control_burst=1))
        for _ in range(100):
            session.receive((frame(PING) + frame(TEXT, b"a")) * 100, 0.0)
            session.receive((frame(PING) + frame(BINARY, b"a")) * 100, 0.0)
        assert session.state is ConnectionState.OPEN
        # A message pays for one.
        session.receive(frame(TEXT) + frame(PING) * 3, 0.0)
        assert session.state.name == "REMOTE_CLOSING"

    def test_without_a_bound(self) -> None:
        session = established(limits=Limits(max_control_rate=None, control_burst=0))
        for _ in range(10):
            session.receive(frame(PING) * 250, 0.0)
        assert session.state is ConnectionState.OPEN

    def test_flood_with_manual_closing(self) -> None:
        session = established(auto_close=False, limits=RATE)
        events = session.receive(frame(PING) * 201, 0.0)
        assert events[-1] == CloseConnection(1008, "too many control frames")
        assert session.data_to_send() == b""
        assert session.state is ConnectionState.REMOTE_CLOSING
        assert session.receive(frame(TEXT, b"a"), 0.0) == []
        session.close(1008, now=0.0)
        assert session.data_to_send() == b"\x88\x02\x03\xf0"
        assert session.transport_action is TransportAction.CLOSE


class TestPausing:
    def test_input_is_held_back(self) -> None:
        session = established()
        session.touched = False
        session.pause(1.0)
        assert session.touched
        assert session.paused
        assert session.receive(frame(TEXT, b"a"), 2.0) == []
        assert session.receive(frame(TEXT, b"b"), 3.0) == []
        assert session.last_received == 3.0
        assert not session.has_work
        assert session.handle_timeout(4.0) == []
        assert session.resume(5.0) == [TextMessage("a"), TextMessage("b")]
        assert not session.paused
        assert session.resume(5.0) == []
        assert session.receive(frame(TEXT, b"c"), 5.0) == [TextMessage("c")]

    def test_in_the_middle_of_a_portion(self) -> None:
        session = established(limits=Limits(max_frames_per_call=2))
        assert len(session.receive(frame(TEXT, b"a") * 5, 0.0)) == 2
        session.pause(0.0)
        assert not session.has_work
        assert session.handle_timeout(0.0) == []
        assert session.receive(frame(TEXT, b"b"), 0.0) == []
        assert len(session.resume(0.0)) == 2
        assert session.has_work
        assert session.handle_timeout(0.0) == [TextMessage("a"), TextMessage("b")]

    def test_handshake_goes_on(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.pause(0.0)
        assert len(session.receive(REQUEST + frame(TEXT, b"a"), 0.0)) == 1
        session.send(AcceptConnection(), 0.0)
        assert session.handle_timeout(0.0) == []
        assert session.resume(0.0) == [TextMessage("a")]

    def test_automatic_pause_after_a_queue_of_messages(self) -> None:
        session = established(auto_pause=True)
        events = session.receive(frame(TEXT, b"a") * 40, 0.0)
        assert events == [TextMessage("a")] * 16
        assert session.paused
        assert session.next_deadline() == 25.0
        assert session.receive(frame(TEXT, b"b"), 0.0) == []
        assert session.resume(0.0) == [TextMessage("a")] * 16
        assert session.paused
        assert session.resume(0.0) == [TextMessage("a")] * 8 + [TextMessage("b")]
        assert not session.paused
        # Nine were delivered since: seven more.
        assert len(session.receive(frame(TEXT, b"c") * 7, 0.0)) == 7
        assert session.paused

    @pytest.mark.parametrize(
        ("message", "count"),
        [
            (frame(BINARY, bytes(8192)), 8),
            (frame(TEXT, b"x" * 8192), 8),
            (frame(TEXT, "ü".encode() * 4096), 8),
            (frame(BINARY, bytes(1 << 16)), 1),
            (frame(BINARY, bytes((1 << 16) - 1)), 2),
        ],
    )
    def test_automatic_pause_after_a_queue_of_bytes(self, message: bytes, count: int) -> None:
        session = established(auto_pause=True)
        delivered = 0
        while not session.paused:
            delivered += len(session.receive(message, 0.0))
        assert delivered == count

    @pytest.mark.parametrize(
        ("messages", "size", "count"), [(None, 40, 4), (4, None, 4), (None, None, 9)]
    )
    def test_without_a_bound_on_the_queue(
        self, messages: int | None, size: int | None, count: int
    ) -> None:
        limits = Limits(max_queued_messages=messages, max_queued_bytes=size)
        session = established(auto_pause=True, limits=limits)
        delivered = 0
        while delivered < 9 and not session.paused:
            delivered += len(session.receive(frame(BINARY, bytes(10)), 0.0))
        assert delivered == count

    @pytest.mark.parametrize("cut", [1, 5, 8, 9])
    def test_queue_limit_holds_for_any_split_of_reads(self, cut: int) -> None:
        session = established(auto_pause=True, limits=Limits(max_queued_messages=1))
        raw = frame(BINARY, b"abc") + frame(BINARY) * 2
        assert session.receive(raw[:cut], 0.0) + session.receive(raw[cut:], 0.0) == [
            BytesMessage(b"abc")
        ]
        assert session.paused
        assert session.resume(0.0) == [BytesMessage(b"")]
        assert session.resume(0.0) == [BytesMessage(b"")]

    def test_pieces_count_as_their_message(self) -> None:
        limits = Limits(max_queued_messages=1, max_queued_bytes=10)
        session = established(auto_pause=True, whole_messages=False, limits=limits)
        assert len(session.receive(frame(0x01, b"a"), 0.0)) == 1
        assert not session.paused
        session.receive(frame(0x80, b"b"), 0.0)
        assert session.paused

    def test_other_events_do_not_count(self) -> None:
        session = established(auto_pause=True)
        session.receive(frame(PING) * 100, 0.0)
        while session.has_work:
            session.handle_timeout(0.0)
        assert not session.paused

    def test_quantum_smaller_than_the_queue(self) -> None:
        limits = Limits(max_frames_per_call=3, max_queued_messages=5)
        session = established(auto_pause=True, limits=limits)
        assert len(session.receive(frame(TEXT, b"a") * 9, 0.0)) == 3
        assert session.next_deadline() == 0.0
        assert len(session.handle_timeout(0.0)) == 3
        assert session.paused
        session = established(auto_pause=True, limits=Limits(max_frames_per_call=None))
        assert len(session.receive(frame(TEXT, b"a") * 20, 0.0)) == 16

    def test_end_of_input_waits_for_what_is_held_back(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(frame(TEXT, b"a"), 0.0)
        assert session.receive(None, 0.0) == []
        assert not session.closed
        # Late bytes are dropped.
        assert session.receive(frame(TEXT, b"late"), 0.0) == []
        assert session.resume(1.0) == [
            TextMessage("a"),
            ConnectionClosed(1006, "", Cause.END_OF_INPUT),
        ]
        session.pause(2.0)
        assert session.resume(3.0) == []

    def test_end_of_input_with_nothing_held_back(self) -> None:
        session = established()
        session.pause(0.0)
        assert closed(session.receive(None, 0.0)).cause is Cause.END_OF_INPUT

    def test_peers_close_frame_may_be_what_is_held_back(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(frame(TEXT, b"a") + NORMAL, 0.0)
        session.receive(None, 0.0)
        events = session.resume(1.0)
        bye = CloseConnection(1000, "bye")
        assert events == [
            TextMessage("a"),
            bye,
            ConnectionClosed(1000, "bye", Cause.REMOTE, bye, bye),
        ]
        assert session.data_to_send() == b"\x88\x05\x03\xe8bye"

    def test_endless_pause_closes_the_connection(self) -> None:
        session = established()
        session.pause(1.0)
        session.receive(frame(TEXT, b"a"), 2.0)
        assert run(session, 300.9) == []
        assert session.state is ConnectionState.OPEN
        run(session, 301.0)
        assert session.data_to_send().endswith(b"\x88\x1f\x03\xf3nothing was read for too long")
        # Held input can still be read, up to the peer's close frame.
        session.receive(frame(CLOSE, b"\x03\xf3"), 302.0)
        assert session.resume(303.0) == [TextMessage("a"), CloseConnection(1011, "")]
        assert closed(session.receive(None, 303.0)).cause is Cause.PAUSE

    def test_endless_pause_with_a_dead_peer(self) -> None:
        session = established()
        session.pause(1.0)
        end = closed(run(session, 1e9))
        assert end.close_sent == CloseConnection(1011, "nothing was read for too long")
        assert session._now == 306.0

    def test_repeated_pauses_extend_the_deadline(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        for minute in range(100):
            session.pause(minute * 60.0)
            assert run(session, minute * 60.0) == []
        assert session.next_deadline() == 99 * 60.0 + 300.0
        session.resume(6000.0)
        assert session.next_deadline() is None
        session.close(now=6000.0)
        session.pause(6000.0)
        assert session.next_deadline() == 6005.0

    def test_late_pause_deadline_is_extended_once(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        session.pause(0.0)
        session.handle_timeout(1000.0)
        assert session.next_deadline() == 1300.0

    def test_reading_while_paused_is_limited(self) -> None:
        session = established(limits=Limits(max_paused_bytes=1000))
        session.pause(0.0)
        for _ in range(15):
            assert session.receive(frame(TEXT, b"a") * 9, 0.0) == []
        assert session.receive(frame(TEXT, b"a") * 9, 0.0) == [
            CloseConnection(1008, "too much input while paused")
        ]
        assert session.data_to_send() == b"\x88\x1d\x03\xf0too much input while paused"
        assert session.resume(0.0) == []
        assert not session.has_work
        assert closed(session.receive(None, 0.0)).cause is Cause.LIMIT

    def test_reading_with_remaining_work_loses_nothing(self) -> None:
        limits = Limits(max_frames_per_call=16, max_paused_bytes=1000, max_message_size=None)
        session = established(limits=limits)
        data = frame(0x02, bytes(64)) + frame(0x00, bytes(64)) * 65_534 + frame(0x80, bytes(64))
        events: list[Event] = []
        for start in range(0, len(data), 65_536):
            events += session.receive(data[start : start + 65_536], 0.0)
        while session.has_work:
            events += session.handle_timeout(0.0)
        assert events == [BytesMessage(bytes(64 * 65_536))]

    def test_input_up_to_the_limit_is_not_lost(self) -> None:
        session = established(auto_pause=True, limits=Limits(max_control_rate=None))
        session.pause(0.0)
        sent = [f"message {number}" for number in range(40_000)]
        data = b"".join(frame(TEXT, text.encode()) for text in sent)
        assert 2**20 - 300_000 < len(data) < 2**20
        for start in range(0, len(data), 64):
            assert session.receive(data[start : start + 64], 0.0) == []
        heard: list[object] = []
        while session.paused or session.has_work:
            heard += [event.data for event in session.resume(0.0) if isinstance(event, TextMessage)]
        assert heard == sent

    def test_large_message_that_was_held_back_comes_whole(self) -> None:
        session = established(whole_messages=True)
        session.pause(0.0)
        session.receive(frame(BINARY, bytes(500_000)) + frame(TEXT, b"after"), 0.0)
        assert session.resume(0.0) == [BytesMessage(bytes(500_000)), TextMessage("after")]

    def test_input_after_an_invalid_frame_is_released(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(b"\x83" + bytes(200_000), 0.0)
        assert session.resume(0.0) == [CloseConnection(1002, "unknown opcode 0x3")]
        assert not session.has_work
        assert len(session._input) == 0

    def test_closing_does_not_wait_for_a_pause(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(NORMAL, 0.0)
        session.close(now=1.0)
        assert session.next_deadline() == 6.0
        assert closed(session.handle_timeout(6.0)).cause is Cause.CLOSE_TIMEOUT


class TestKeepalive:
    def test_ping_that_is_answered(self) -> None:
        client, answerer = pair()
        assert answerer.next_deadline() == 25.0
        assert run(answerer, 25.0) == []
        [ping] = carry(answerer, client, 25.5)
        assert isinstance(ping, Ping)
        assert len(ping.payload) == 8
        assert answerer.keepalive.awaiting
        assert carry(client, answerer, 26.0) == [Pong(ping.payload)]
        assert answerer.round_trip_time == 1.0
        assert answerer.next_deadline() == 51.0

    def test_silent_peer_is_given_up(self) -> None:
        session = established(entropy=fixed_entropy)
        assert run(session, 44.9) == []
        assert session.data_to_send() == b"\x89\x08rrrrrrrr"
        end = closed(run(session, 1e9))
        assert end == ConnectionClosed(
            1006,
            "keep-alive timed out",
            Cause.KEEPALIVE,
            close_sent=CloseConnection(1011, "keep-alive timed out"),
        )
        assert session.transport_action is TransportAction.ABORT
        # The answer may have arrived after all.
        assert session.data_to_send() == b"\x88\x16\x03\xf3keep-alive timed out"
        assert session.next_deadline() is None

    def test_sending_is_not_a_sign_of_life(self) -> None:
        session = established()
        for second in range(45):
            session.send(TextMessage("a"), float(second))
            session.data_to_send()
            assert run(session, float(second)) == []
        assert closed(run(session, 45.0)).cause is Cause.KEEPALIVE

    def test_any_input_is_a_sign_of_life(self) -> None:
        session = established()
        for second in range(20, 400, 20):
            # One byte of a frame each time.
            assert session.receive(frame(BINARY, bytes(100))[second // 20 - 1 :][:1], second) == []
            assert run(session, second) == []
        assert session.data_to_send() == b""

    def test_input_postpones_the_deadline_without_work(self) -> None:
        session = established()
        session.data_to_send()
        session.touched = False
        session.receive(frame(TEXT, b"a"), 20.0)
        assert session.next_deadline() == 25.0
        assert session.put_off(25.0) == session.next_deadline() == 45.0
        assert not session.touched
        assert session.put_off(45.0) == 45.0

    def test_remaining_work_is_not_postponed(self) -> None:
        session = established(limits=Limits(max_frames_per_call=1))
        session.receive(frame(TEXT, b"a") * 2, 20.0)
        assert session.put_off(25.0) == 20.0
        session = established(keepalive=KeepaliveConfig(mechanism=Mechanism.NONE))
        session.touched = False
        assert session.put_off(25.0) is None

    def test_wrong_pong_answers_nothing(self) -> None:
        session = established(entropy=fixed_entropy)
        run(session, 25.0)
        for payload in (b"", b"rrrrrrr", b"rrrrrrrrr", b"Rrrrrrrr"):
            session.receive(frame(PONG, payload), 26.0)
        assert session.round_trip_time is None
        assert session.keepalive.awaiting
        session.receive(frame(PONG, b"rrrrrrrr"), 27.0)
        assert session.round_trip_time == 2.0

    def test_ping_after_a_large_message_is_timed_when_it_has_left(self) -> None:
        session = established(keepalive=KeepaliveConfig(application_data=b"alive"))
        session.send(BytesMessage(bytes(1_000_000)), 0.0)
        waiting = len(session.data_to_send())
        session.transport_backlog(waiting, 0.0)
        # The peer reads 10 kB a second.
        for second in range(1, 101):
            assert run(session, float(second)) == []
            waiting += len(session.data_to_send()) - 10_000
            session.transport_backlog(waiting, float(second))
        assert session.keepalive.awaiting
        session.transport_backlog(0, 101.0)
        assert session.next_deadline() == 121.0
        session.receive(frame(PONG, b"alive"), 102.0)
        assert session.round_trip_time == 1.0
        assert session.next_deadline() == 127.0

    def test_ping_that_was_handed_out_with_a_large_message(self) -> None:
        session = established()
        session.send(BytesMessage(bytes(1000)), 25.0)
        assert run(session, 25.0) == []
        waiting = len(session.data_to_send())
        # Only now is it known that the transport holds it.
        session.transport_backlog(waiting, 25.0)
        session.transport_backlog(waiting - 1000, 40.0)
        assert session.next_deadline() == 60.0
        session.transport_backlog(1, 44.0)
        assert run(session, 63.9) == []
        session.transport_backlog(0, 63.9)
        assert closed(run(session, 1e9)).cause is Cause.KEEPALIVE
        assert session._now == 83.9

    def test_pong_before_a_ping_counts(self) -> None:
        session = established()
        session.transport_backlog(10, 0.0)
        run(session, 19.0)
        session.transport_backlog(9, 19.0)
        run(session, 25.0)
        session.receive(frame(PING, b"p"), 25.0)
        assert session.data_to_send()[:3] == b"\x8a\x01p"
        session.transport_backlog(13, 25.0)
        session.transport_backlog(3, 26.0)
        assert session.keepalive.held
        session.transport_backlog(0, 27.0)
        assert not session.keepalive.held

    def test_ping_of_the_callers_that_waits_is_not_timed_either(self) -> None:
        session = established()
        session.transport_backlog(10, 0.0)
        session.send(Ping(b"a"), 1.0)
        session.send(Ping(b"b"), 2.0)
        session.data_to_send()
        session.transport_backlog(16, 2.0)
        # The first one has left.
        session.transport_backlog(3, 10.0)
        assert session.next_deadline() == 30.0

    def test_ping_that_never_leaves_ends_the_session_without_a_send_deadline(self) -> None:
        session = established(send_timeout=None)
        session.transport_backlog(50_000, 0.0)
        run(session, 25.0)
        session.data_to_send()
        session.transport_backlog(50_005, 26.0)
        session.transport_backlog(40_000, 40.0)
        assert closed(run(session, 1e9)).cause is Cause.KEEPALIVE
        assert session._now == 60.0

    def test_stuck_transport_does_not_postpone_the_deadline(self) -> None:
        session = established(send_timeout=None)
        session.transport_backlog(50_000, 0.0)
        assert closed(run(session, 45.0)).cause is Cause.KEEPALIVE

    def test_unsolicited_pongs(self) -> None:
        session = established(
            keepalive=KeepaliveConfig(Mechanism.PONG, interval=10, application_data=b"alive")
        )
        assert run(session, 1000.0) == []
        assert session.data_to_send() == b"\x8a\x05alive" * 100
        assert session.controls_sent == 100

    def test_checking(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.CHECK, interval=10))
        assert run(session, 30.0) == [CheckTransport()] * 3
        assert session.data_to_send() == b""
        assert closed(session.receive(None, 30.0)).cause is Cause.END_OF_INPUT

    def test_mechanism_none_sends_nothing(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        assert session.next_deadline() is None
        assert session.handle_timeout(1e9) == []
        assert session.data_to_send() == b""

    def test_changed_while_running(self) -> None:
        session = established()
        session.touched = False
        session.set_keepalive(KeepaliveConfig(interval=5, application_data=b"new"), 10.0)
        assert session.touched
        assert session.next_deadline() == 10.0
        run(session, 10.0)
        assert session.data_to_send() == b"\x89\x03new"
        session.set_keepalive(KeepaliveConfig(Mechanism.NONE), 11.0)
        assert session.next_deadline() is None
        session.set_keepalive(KeepaliveConfig(interval=100), 12.0)
        assert session.next_deadline() == 100.0

    def test_changed_before_it_began(self) -> None:
        profile = SessionConfig(keepalive=KeepaliveConfig(interval=180))
        config = SessionConfig(profiles={"sip": profile})
        session = Session(ConnectionType.SERVER, now=0.0, config=config)
        session.receive(REQUEST, 0.0)
        session.set_keepalive(KeepaliveConfig(interval=60), 0.0)
        session.send(AcceptConnection(subprotocol="sip"), 0.0)
        assert session.next_deadline() == 60.0
        session = Session(ConnectionType.SERVER, now=0.0, config=config)
        session.receive(REQUEST, 0.0)
        session.send(AcceptConnection(subprotocol="sip"), 0.0)
        assert session.next_deadline() == 180.0

    def test_only_an_open_connection_is_kept_alive(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0, config=SessionConfig(open_timeout=None))
        assert session.next_deadline() is None
        session = established(close_timeout=None)
        session.close(now=0.0)
        assert session.next_deadline() is None

    def test_pause_takes_no_time_from_the_peer(self) -> None:
        session = established(entropy=fixed_entropy, pause_timeout=None)
        run(session, 25.0)
        session.pause(44.0)
        assert session.next_deadline() is None
        assert run(session, 1e9) == session.handle_timeout(500.0) == []
        session.resume(1000.0)
        # The answer may have been there all the time.
        assert session.next_deadline() == 1020.0
        session.receive(frame(PONG, b"rrrrrrrr"), 1000.5)
        assert session.round_trip_time == 975.5
        assert session.next_deadline() == 1025.5

    def test_pause_does_not_save_a_dead_peer(self) -> None:
        session = established()
        run(session, 25.0)
        session.pause(44.0)
        session.resume(100.0)
        for pause in range(105, 114, 3):
            session.pause(float(pause))
            session.resume(pause + 2.0)
        assert closed(run(session, 1e9)).cause is Cause.KEEPALIVE
        # 20 seconds, and the six of the pauses.
        assert session._now == 126.0

    def test_pause_deadline_ignores_input_and_the_clock(self) -> None:
        limits = Limits(max_queued_messages=1)
        session = established(auto_pause=True, pause_timeout=30.0, limits=limits)
        assert session.receive(frame(TEXT, b"a"), 0.0) == [TextMessage("a")]
        for now in (10.0, 20.0, 29.0):
            assert session.receive(frame(TEXT, b"b"), now) == []
            assert session.handle_timeout(now) == []
        assert session.paused
        run(session, 30.0)
        assert session.state is ConnectionState.LOCAL_CLOSING
        assert b"nothing was read for too long" in session.data_to_send()

    def test_pings_go_out_in_a_pause_too(self) -> None:
        session = established(entropy=fixed_entropy, pause_timeout=None)
        session.pause(1.0)
        assert session.next_deadline() == 25.0
        assert run(session, 1e9) == []
        assert session.data_to_send() == b"\x89\x08rrrrrrrr"
        session.receive(frame(PONG, b"rrrrrrrr"), 30.0)
        assert session.resume(60.0) == [Pong(b"rrrrrrrr")]
        assert session.next_deadline() == 85.0


class TestPieces:
    def test_pieces_are_delivered_from_the_moment_they_are_asked_for(self) -> None:
        session = established()
        assert session.receive(frame(0x01, b"whole, ") + frame(0x00, b"so far"), 0.0) == []
        assert session.unfinished == 13
        assert session.deliver_pieces(0.0) == [TextMessage("whole, so far", False, False)]
        assert session.unfinished == 0
        assert session.deliver_pieces(0.0) == []
        assert session.receive(frame(0x00, b", piece"), 0.0) == [
            TextMessage(", piece", True, False)
        ]
        assert session.receive(frame(0x80, b"!"), 0.0) == [TextMessage("!", True, True)]
        assert session.receive(frame(TEXT, b"next"), 0.0) == [TextMessage("next")]

    def test_pieces_count_towards_a_pause(self) -> None:
        session = established(auto_pause=True, limits=Limits(max_queued_bytes=3))
        session.receive(frame(0x01, b"abc"), 0.0)
        assert not session.paused
        session.deliver_pieces(0.0)
        assert session.paused

    def test_unopened_session_uses_its_configuration(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.deliver_pieces(0.0) == []
        session = established()
        session.abort(now=0.0)
        assert session.deliver_pieces(0.0) == []


class TestDeadlines:
    def test_request_that_does_not_come(self) -> None:
        for sent in (b"", REQUEST[:-4], REQUEST):
            session = Session(ConnectionType.SERVER, now=0.0)
            for number in range(len(sent)):
                session.receive(sent[number : number + 1], number / 100)
            assert session.next_deadline() == 10.0
            assert session.handle_timeout(9.9) == session.handle_timeout(10.0) == []
            assert session.state is ConnectionState.CLOSED
            assert session.data_to_send().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert session.transport_action is TransportAction.CLOSE
            assert session.receive(REQUEST, 10.0) == []
            end = closed(run(session, 15.0))
            assert end.cause is Cause.OPEN_TIMEOUT
            assert end.reason == "the opening handshake took too long"
            assert session.transport_action.name == "ABORT"

    def test_response_that_does_not_come(self) -> None:
        session = Session(ConnectionType.CLIENT, now=0.0)
        session.send(Request(host="example.com", target="/"), 0.0)
        session.data_to_send()
        assert session.handle_timeout(10.0) == []
        assert session.transport_action is TransportAction.ABORT
        assert session.data_to_send() == b""
        assert closed(session.receive(None, 10.0)).cause is Cause.OPEN_TIMEOUT
        # The end of the transport does not change that.
        assert session.transport_action is TransportAction.ABORT

    def test_rejection_that_does_not_end(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.send(RejectConnection(has_body=True), 0.0)
        session.send(RejectData(b"and", body_finished=False), 9.0)
        assert session.handle_timeout(10.0) == []
        assert session.transport_action is TransportAction.ABORT
        assert closed(run(session, 15.0)).cause is Cause.REJECTION

    def test_late_answer_to_a_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0, config=SessionConfig(open_timeout=None))
        session.receive(REQUEST, 0.0)
        assert session.next_deadline() is None
        session.send(AcceptConnection(), 1e6)
        assert session.state is ConnectionState.OPEN

    def test_peer_does_not_answer_our_close_frame(self) -> None:
        session = established()
        session.close(1001, now=1.0)
        assert session.next_deadline() == 6.0
        session.receive(frame(TEXT, b"still talking"), 5.0)
        end = closed(session.handle_timeout(6.0))
        assert end == ConnectionClosed(
            1006,
            "the close frame was not answered",
            Cause.CLOSE_TIMEOUT,
            close_sent=CloseConnection(1001, ""),
        )
        assert session.transport_action is TransportAction.ABORT

    def test_caller_does_not_answer_the_peers(self) -> None:
        session = established(auto_close=False)
        session.receive(NORMAL, 1.0)
        end = closed(run(session, 6.0))
        assert end.cause is Cause.REMOTE
        assert end.code == 1000
        assert session.transport_action is TransportAction.ABORT

    def test_transport_does_not_end(self) -> None:
        client, answerer = pair()
        client.close(now=1.0)
        carry(client, answerer, 3.0)
        carry(answerer, client, 4.0)
        # RFC 6455 §7.1.1: the client waits, from its first close frame on.
        assert client.transport_action is TransportAction.NONE
        assert client.next_deadline() == 6.0
        assert answerer.next_deadline() == 8.0
        end = closed(run(client, 6.0))
        assert (end.code, end.cause) == (1000, Cause.LOCAL)
        assert client.transport_action.name == "ABORT"
        end = closed(run(answerer, 8.0))
        assert (end.code, end.cause) == (1000, Cause.REMOTE)

    def test_deadlines_can_be_disabled(self) -> None:
        session = established(close_timeout=None)
        session.close(now=0.0)
        assert session.next_deadline() is None

    def test_idle(self) -> None:
        session = established(idle_timeout=10.0)
        session.receive(frame(TEXT, b"a"), 7.0)
        session.send(TextMessage("this is us"), 16.0)
        session.data_to_send()
        assert run(session, 16.9) == []
        assert session.state is ConnectionState.OPEN
        assert run(session, 17.0) == []
        assert session.data_to_send() == b"\x88\x13\x03\xe9idle for too long"
        session.receive(frame(CLOSE, b"\x03\xe9"), 18.0)
        end = closed(session.receive(None, 18.0))
        assert (end.code, end.cause) == (1001, Cause.IDLE)

    def test_idle_and_closing_already(self) -> None:
        session = established(idle_timeout=3.0)
        session.close(now=1.0)
        assert session.handle_timeout(3.0) == []
        assert session.data_to_send() == b"\x88\x02\x03\xe8"
        assert closed(run(session, 1e9)).cause is Cause.CLOSE_TIMEOUT

    def test_idle_in_a_pause(self) -> None:
        session = established(
            idle_timeout=10.0, pause_timeout=None, keepalive=KeepaliveConfig(Mechanism.NONE)
        )
        session.pause(5.0)
        assert run(session, 1e9) == []
        assert session.next_deadline() is None
        session.resume(1000.0)
        assert session.next_deadline() == 1010.0
        run(session, 1010.0)
        assert session.state is ConnectionState.LOCAL_CLOSING

    def test_transport_that_takes_nothing(self) -> None:
        session = established()
        session.send(BytesMessage(bytes(1000)), 0.0)
        session.data_to_send()
        session.transport_backlog(1004, 1.0)
        assert session.next_deadline() == 21.0
        session.transport_backlog(1004, 20.0)
        end = closed(run(session, 21.0))
        assert end == ConnectionClosed(
            1006, "the transport accepted no bytes for too long", Cause.SEND_TIMEOUT
        )
        assert session.transport_action is TransportAction.ABORT

    def test_transport_that_takes_something(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        backlog = 0
        for second in range(100):
            # More is written than accepted, but something is.
            session.send(BytesMessage(bytes(100)), float(second))
            backlog += len(session.data_to_send()) - 1
            session.transport_backlog(backlog, float(second))
        assert session.next_deadline() == 119.0
        session.transport_backlog(backlog - 1, 110.0)
        assert session.next_deadline() == 130.0
        session.transport_backlog(0, 120.0)
        assert session.next_deadline() is None
        session.transport_backlog(0, 121.0)
        assert session.next_deadline() is None

    def test_without_a_bound_on_sending(self) -> None:
        session = established(send_timeout=None, keepalive=KeepaliveConfig(Mechanism.NONE))
        session.transport_backlog(1000, 0.0)
        assert session.next_deadline() is None

    def test_backlog_after_the_end(self) -> None:
        session = established()
        session.receive(None, 0.0)
        session.transport_backlog(1000, 0.0)
        assert session.next_deadline() is None

    def test_age(self) -> None:
        session = Session(
            ConnectionType.SERVER,
            now=0.0,
            config=SessionConfig(max_age=15.0, keepalive=KeepaliveConfig(Mechanism.NONE)),
        )
        session.receive(REQUEST, 9.0)
        session.send(AcceptConnection(), 9.0)
        session.data_to_send()
        assert session.next_deadline() == 24.0
        session.receive(frame(TEXT, b"a"), 23.0)
        assert session.handle_timeout(24.0) == []
        assert session.data_to_send() == b"\x88\x15\x03\xe9maximum age reached"
        session.receive(frame(CLOSE, b"\x03\xe9"), 24.0)
        assert closed(session.receive(None, 24.0)).cause is Cause.AGE

    def test_age_and_closing_already(self) -> None:
        session = established(max_age=2.0)
        session.close(now=1.0)
        assert session.handle_timeout(2.0) == []
        assert session.next_deadline() == 6.0

    @given(
        st.sampled_from(["connecting", "open", "pinged", "local", "remote", "stuck"]),
        st.lists(st.floats(0, 1, exclude_max=True), max_size=5),
    )
    def test_early_and_repeated_calls_do_nothing(self, where: str, parts: list[float]) -> None:
        session = Session(
            ConnectionType.SERVER, now=0.0, config=SessionConfig(idle_timeout=60.0, max_age=90.0)
        )
        if where != "connecting":
            session.receive(REQUEST, 0.0)
            session.send(AcceptConnection(), 0.0)
        if where == "pinged":
            run(session, 25.0)
        elif where == "local":
            session.close(now=0.0)
        elif where == "remote":
            session.receive(NORMAL, 0.0)
        elif where == "stuck":
            session.transport_backlog(100, 0.0)
        session.data_to_send()
        when = session.next_deadline()
        assert when is not None
        before = (session.state, session.transport_action, session.keepalive.awaiting)
        start = session._now
        times = [start + (when - start) * part for part in sorted(parts)]
        for now in [now for now in times if now < when]:
            for _ in range(2):
                assert session.handle_timeout(now) == []
                assert session.next_deadline() == when
                assert session.data_to_send() == b""
                after = (session.state, session.transport_action, session.keepalive.awaiting)
                assert after == before


class TestClosing:
    def test_answers_precede_the_close_frame(self) -> None:
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

    def test_close_frame_without_a_code_is_answered_with_one(self) -> None:
        session = server()
        # The form of wsproto's event.
        assert session.receive(b"\x88\x80\0\0\0\0", 0.0) == [CloseConnection(1005, "")]
        assert session.data_to_send() == b"\x88\x00"
        assert closed(session.receive(None, 0.0)).code == 1005

    def test_answering_can_be_left_to_the_caller(self) -> None:
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
        raw = client.data_to_send()
        assert carry(answerer, client, 0.0) == [CloseConnection(4002, "")]
        assert answerer.receive(raw, 0.0) == [CloseConnection(4001, "")]
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

    def test_error_of_the_peers(self) -> None:
        session = server()
        events = session.receive(b"\x81\x81\0\0\0\0a\x81\x01", 0.0)
        assert events == [TextMessage("a"), CloseConnection(1002, "unmasked frame")]
        assert session.data_to_send() == b"\x88\x10\x03\xeaunmasked frame"
        assert session.transport_action is TransportAction.CLOSE
        with pytest.raises(LocalProtocolError):
            session.send(TextMessage("b"), 0.0)
        assert session.receive(b"\x81\x81\0\0\0\0a", 0.0) == []
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.reason, end.cause) == (1006, "unmasked frame", Cause.PROTOCOL_ERROR)

    def test_earlier_messages_are_answered_before_an_invalid_frame(self) -> None:
        session = server()
        events = session.receive(frame(TEXT, b"question") + frame(PING, b"p") + b"\x83", 0.0)
        failure = CloseConnection(1002, "unknown opcode 0x3")
        assert events == [TextMessage("question"), Ping(b"p"), failure]
        # Until the output is taken, as with the peer's close frame.
        assert session.state.name == "REMOTE_CLOSING"
        assert session.transport_action.name == "NONE"
        session.send(TextMessage("answer"), 0.0)
        assert session.data_to_send() == (
            b"\x8a\x01p\x81\x06answer\x88\x14\x03\xeaunknown opcode 0x3"
        )
        assert session.state is ConnectionState.CLOSED
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 0.0))
        assert (end.cause, end.close_sent) == (Cause.PROTOCOL_ERROR, failure)

    def test_client_that_fails_the_connection_ends_the_transport(self) -> None:
        client, _ = pair()
        client.receive(b"\x83", 0.0)
        assert client.data_to_send()
        assert client.transport_action is TransportAction.CLOSE

    @pytest.mark.parametrize("code", [1000, 4000])
    def test_close_frame_of_a_failure_reports_it(self, code: int) -> None:
        session = server()
        session.receive(frame(TEXT, b"question") + b"\x83", 0.0)
        session.send(TextMessage("answer"), 0.0)
        session.close(code, now=0.0)
        assert session.data_to_send() == b"\x81\x06answer\x88\x14\x03\xeaunknown opcode 0x3"
        assert session.state is ConnectionState.CLOSED

    def test_answers_to_a_peer_that_broke_the_protocol_are_bounded_too(self) -> None:
        session = server(limits=Limits(max_outgoing=20))
        session.receive(b"\x83", 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        session.send(BytesMessage(bytes(10)), 0.0)
        assert session.data_to_send().endswith(b"\x88\x17\x03\xf0too much output waits")
        assert session.transport_action is TransportAction.CLOSE
        # The failure has been reported: a second CloseConnection would be wrong.
        [end] = session.receive(None, 0.0)
        assert isinstance(end, ConnectionClosed)
        assert end.cause is Cause.PROTOCOL_ERROR

    def test_unwritten_failure_has_a_deadline(self) -> None:
        session = server()
        session.receive(b"\x83", 0.0)
        assert session.next_deadline() == 5.0
        end = closed(session.handle_timeout(5.0))
        assert (end.cause, end.close_sent) == (Cause.PROTOCOL_ERROR, None)

    def test_transport_ends_with_a_failure_unanswered(self) -> None:
        session = server()
        session.receive(b"\x83", 0.0)
        end = closed(session.receive(None, 0.0))
        assert end.close_sent == CloseConnection(1002, "unknown opcode 0x3")
        assert session.data_to_send() == b"\x88\x14\x03\xeaunknown opcode 0x3"

    def test_answering_errors_can_be_left_to_the_caller(self) -> None:
        session = server(auto_close=False)
        session.receive(frame(TEXT, b"question") + b"\x83", 0.0)
        assert session.state is ConnectionState.REMOTE_CLOSING
        session.send(TextMessage("answer"), 0.0)
        session.send(CloseConnection(1002), 0.0)
        assert session.data_to_send() == b"\x81\x06answer\x88\x02\x03\xea"
        assert session.transport_action is TransportAction.CLOSE

    def test_error_after_our_close_frame(self) -> None:
        session = server()
        session.close(now=0.0)
        session.data_to_send()
        assert session.receive(b"\x83", 0.0) == [CloseConnection(1002, "unknown opcode 0x3")]
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 0.0))
        assert end.cause is Cause.LOCAL
        assert end.close_rcvd is None

    def test_oversized_message_has_cause_limit(self) -> None:
        session = server(limits=Limits(max_message_size=10))
        [event] = session.receive(b"\x82\x8b", 0.0)
        assert isinstance(event, CloseConnection)
        assert event.code == 1009
        assert closed(session.receive(None, 0.0)).cause is Cause.LIMIT

    def test_end_of_input(self) -> None:
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

    def test_end_of_input_after_the_close_frame(self) -> None:
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

    def test_codes_1005_1006_and_1015_are_reported_and_never_sent(self) -> None:
        for code in (1005, 1006, 1015):
            session = server()
            [event] = session.receive(frame(CLOSE, code.to_bytes(2)), 0.0)
            assert event == CloseConnection(1002, f"close code {code} may not be sent in a frame")
            assert session.data_to_send()[2:4] == b"\x03\xea"
            # Passing such an end on closes normally, and that is what is reported.
            session = server()
            session.send(CloseConnection(code, "lost"), 0.0)
            assert session.data_to_send() == b"\x88\x06\x03\xe8lost"
            end = closed(session.abort(now=0.0))
            assert end.close_sent == CloseConnection(1000, "lost")
        session = server()
        session.close(CloseReason.NO_STATUS_RCVD, now=0.0)
        assert session.data_to_send() == b"\x88\x00"
        assert closed(session.abort(now=0.0)).close_sent == CloseConnection(1005, "")

    def test_reason_is_cut_between_characters(self) -> None:
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


class TestTheEndOfInput:
    def test_in_a_rejection(self) -> None:
        client = Session(ConnectionType.CLIENT, now=0.0)
        client.send(Request(host="example.com", target="/"), 0.0)
        client.data_to_send()
        events = client.receive(b"HTTP/1.1 500 No\r\n\r\nsorry", 0.0)
        assert client.state is ConnectionState.REJECTING
        # Without a length the body ends with the transport.
        events += client.receive(None, 0.0)
        assert events[1:] == [
            RejectData(b"sorry", body_finished=False),
            RejectData(b"", body_finished=True),
            ConnectionClosed(1006, "", Cause.REJECTION),
        ]

    def test_input_after_a_rejection_is_dropped(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.send(RejectConnection(status_code=403, has_body=True), 0.0)
        assert session.receive(REQUEST * 100, 0.0) == []
        session.send(RejectData(b""), 0.0)
        assert session.receive(REQUEST * 100, 0.0) == []
        assert session._input == b""
        assert closed(session.receive(None, 0.0)).cause is Cause.REJECTION

    @given(st.data())
    def test_at_any_point_there_is_one_end(self, data: st.DataObject) -> None:
        stream = (
            REQUEST
            + frame(0x01, b"half")
            + frame(PING, b"p")
            + frame(0x80, b"whole")
            + frame(BINARY, bytes(300))
            + data.draw(st.sampled_from([NORMAL, frame(0x83), b""]))
        )
        cut = data.draw(st.integers(0, len(stream)))
        auto_pause = data.draw(st.booleans())
        config = SessionConfig(auto_pause=auto_pause, limits=Limits(max_queued_messages=1))
        session = Session(ConnectionType.SERVER, now=0.0, config=config)
        events: list[Event] = []
        for event in session.receive(stream[:cut], 0.0):
            events.append(event)
            if isinstance(event, Request):
                session.send(AcceptConnection(), 0.0)
        events += session.receive(None, 0.0)
        while not session.closed:
            assert session.has_work or session.paused
            events += session.handle_timeout(0.0) if session.has_work else session.resume(0.0)
        closed(events)
        assert session.receive(None, 0.0) == session.receive(stream, 0.0) == []
        assert session.handle_timeout(1e9) == session.resume(1e9) == []
        assert session.next_deadline() is None
        assert session.transport_action is TransportAction.CLOSE
        whole = cut >= len(
            REQUEST + frame(0x01, b"half") + frame(PING, b"p") + frame(0x80, b"whole")
        )
        assert (TextMessage("halfwhole") in events) is whole


def test_events_during_send_are_returned_by_the_next_call() -> None:
    session = established(limits=Limits(max_outgoing=10))
    session.send(BytesMessage(b"x"), 0.0)
    session.send(BytesMessage(bytes(11)), 0.0)
    assert session.has_work
    assert session.next_deadline() == 0.0
    assert session.receive(frame(TEXT, b"late"), 0.0) == [
        CloseConnection(1008, "too much output waits")
    ]
    assert not session.has_work
    assert session.next_deadline() == 5.0


class TestClocks:
    def test_clock_set_back_only_shifts_the_numbers(self) -> None:
        session = established(1000.0)
        session.receive(frame(TEXT, b"a"), 10.0)
        assert session.last_received == 10.0
        assert session.next_deadline() == 35.0

    def test_late_idle_deadline_is_extended(self) -> None:
        session = established(idle_timeout=10.0, keepalive=KeepaliveConfig(Mechanism.NONE))
        assert session.handle_timeout(1000.0) == []
        assert session.next_deadline() == 1010.0


class TestDescribing:
    def test_open_session(self) -> None:
        session = server(subprotocol="sip", entropy=fixed_entropy)
        assert session.describe(1.26) == "server, OPEN, sub-protocol 'sip', last received 1.3 s ago"
        run(session, 25.0)
        assert session.describe(26.0) == (
            "server, OPEN, sub-protocol 'sip', last received 26.0 s ago, awaiting Pong, "
            "10 bytes to send"
        )

    def test_end(self) -> None:
        session = established()
        session.close(1001, now=0.0, cause=Cause.SHUTDOWN)
        session.data_to_send()
        session.transport_backlog(4, 0.0)
        # The clock may have been set back since.
        assert session.describe(-5.0) == (
            "server, LOCAL_CLOSING, last received 0.0 s ago, 4 bytes to send, cause shutdown"
        )

    @given(st.text(), st.floats(allow_nan=True))
    def test_description_is_one_bounded_printable_line(self, name: str, now: float) -> None:
        session = Session.established(ConnectionType.CLIENT, now=0.0, subprotocol=name)
        run(session, 30.0)
        session.transport_backlog(10**30, 30.0)
        session.abort(now=30.0)
        line = session.describe(now)
        assert len(line) <= 200
        assert line.isascii()
        assert line.isprintable()
        assert line.startswith("client, CLOSED, sub-protocol '") or name.count("'")


class TestMemory:
    def test_idle_session_is_small(self) -> None:
        sessions = [server()]
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            sessions += [server() for _ in range(500)]
            each = (tracemalloc.get_traced_memory()[0] - before) / 500
        finally:
            tracemalloc.stop()
        assert each < 1100

    def test_ended_session_releases_its_memory(self) -> None:
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


# -- half of a message -----------------------------------------------------------------------------


def test_size_of_an_unfinished_message_is_reported() -> None:
    session = Session(ConnectionType.SERVER, now=0.0)
    assert (session.unfinished, session.joined) == (0, 0)
    session = server()
    data = frame(TEXT, b"a" * 1000)
    assert session.receive(data[:508], 0.0) == []
    assert (session.unfinished, session.joined) == (500, 0)
    assert len(session.receive(data[508:], 0.0)) == 1
    assert (session.unfinished, session.joined) == (0, 1)


def test_refused_input_ends_the_connection() -> None:
    session = server()
    session.receive(frame(TEXT, b"a" * 1000)[:508], 0.0)
    assert session.refuse_input("no room", 1.0) == [CloseConnection(1008, "no room")]
    assert session.unfinished == 0
    assert session.refuse_input("no room", 1.0) == []
    assert session.data_to_send() == b"\x88\x09\x03\xf0no room"
    ended = closed(session.receive(None, 2.0))
    assert ended.cause is Cause.LIMIT
    # In the handshake there is none.
    assert Session(ConnectionType.SERVER, now=0.0).refuse_input("no room", 1.0) == []


class TestRefusal:
    """The automatic rejections of a server."""

    def test_bad_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        assert session.refusal is None
        session.receive(b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n", 0.0)
        assert session.refusal is not None
        status, request = session.refusal
        assert (status, request and request.target) == (405, "/x")

    def test_handshake_that_takes_too_long_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        for now in (10.0, 10.1):
            session.handle_timeout(now)
        assert session.refusal == (408, None)

    def test_handshake_that_ends_is_not_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(b"GET", 0.0)
        session.receive(None, 0.0)
        assert session.refusal is None


@pytest.mark.parametrize("payload", [5, "x", None])
def test_ping_of_something_else_than_bytes_is_a_type_error(payload: Any) -> None:
    session = Session.established(ConnectionType.CLIENT, now=0.0)
    for event in (Ping(payload), Pong(payload)):
        with pytest.raises(TypeError, match="bytes-like"):
            session.send(event, 0.0)
    assert session.data_to_send() == b""


def test_something_else_than_a_configuration_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="config must be a SessionConfig, not dict"):
        Session(ConnectionType.CLIENT, now=0.0, config={})  # type: ignore[arg-type]

"""What a session takes in, and what it does as time goes by: on a clock of the tests' own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from tests._sessions import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    REQUEST,
    TEXT,
    carry,
    closed,
    frame,
    pair,
    server,
)
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
from wsproto_sip.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.lifecycle import Cause, CheckTransport, ConnectionClosed, TransportAction
from wsproto_sip.limits import Limits
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

NORMAL = frame(CLOSE, b"\x03\xe8bye")


def octets(count: int) -> bytes:
    """Randomness that can be foreseen."""
    return b"r" * count


def established(now: float = 0.0, **options: object) -> Session:
    """An open server session without a handshake before it."""
    config = SessionConfig(**options)  # type: ignore[arg-type]
    return Session.established(ConnectionType.SERVER, now=now, config=config)


def run(session: Session, until: float) -> list[Event]:
    """Calls a session at its deadlines, and not otherwise, up to a time."""
    events: list[Event] = []
    while (when := session.next_deadline()) is not None and when <= until:
        events += session.handle_timeout(max(when, session._now))
    return events


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
        # A fragment is there to be counted; that is all that happened.
        assert session.touched
        assert session.take_fragments() == 1
        assert session.take_fragments() == 0

    def test_a_read_of_messages_touches_nothing_else(self) -> None:
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

    def test_text_as_octets_on_request(self) -> None:
        session = established(text_as_bytes=True)
        assert session.receive(frame(TEXT, "ü".encode()), 0.0) == [
            TextMessage("ü".encode())  # type: ignore[arg-type]
        ]
        [event] = session.receive(frame(TEXT, b"\xff"), 0.0)
        assert isinstance(event, CloseConnection)
        assert event.code == 1007

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_octets_in_any_form(self, kind: type[bytes]) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        [request] = session.receive(kind(REQUEST), 0.0)
        assert isinstance(request, Request)
        session.send(AcceptConnection(), 0.0)
        assert session.receive(kind(frame(TEXT, b"a")), 0.0) == [TextMessage("a")]
        session.pause(0.0)
        assert session.receive(kind(frame(TEXT, b"b")), 0.0) == []
        assert session.resume(0.0) == [TextMessage("b")]

    @pytest.mark.parametrize("wrong", ["text", 5, [1]])
    def test_anything_else_is_refused(self, wrong: object) -> None:
        for session in (Session(ConnectionType.SERVER, now=0.0), established()):
            with pytest.raises(TypeError):
                session.receive(wrong, 0.0)  # type: ignore[arg-type]
            assert session.next_deadline() in (10.0, 25.0)

    def test_nothing_is_nothing(self) -> None:
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

    def test_the_end_waits_for_the_work(self) -> None:
        session = established(limits=Limits(max_frames_per_call=1))
        session.receive(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(TEXT, b"3"), 0.0)
        assert session.receive(None, 0.0) == [TextMessage("2")]
        # That was the end of what the peer sends.
        assert session.receive(b"", 0.0) == [
            TextMessage("3"),
            ConnectionClosed(1006, "", Cause.END_OF_INPUT),
        ]

    def test_nothing_comes_behind_a_close_frame(self) -> None:
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
    def test_any_division_gives_the_same(self, data: st.DataObject) -> None:
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


class TestControlFrames:
    def test_the_latest_ping_is_answered(self) -> None:
        session = established()
        events = session.receive(frame(PING, b"1") + frame(PING, b"2"), 0.0)
        assert events == [Ping(b"1"), Ping(b"2")]
        events = session.receive(frame(PING, b"3"), 0.0)
        assert session.data_to_send() == b"\x8a\x013"
        assert session.controls_sent == 1

    def test_pings_may_be_the_callers_to_answer(self) -> None:
        session = established(auto_pong=False)
        assert session.receive(frame(PING, b"1") + frame(TEXT), 0.0) == [
            Ping(b"1"),
            TextMessage(""),
        ]
        assert session.data_to_send() == b""

    def test_as_many_as_may_come_at_once(self) -> None:
        session = established()
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

    def test_quiet_saves_no_more_than_the_burst(self) -> None:
        session = established()
        session.receive(frame(PING), 0.0)
        session.receive(frame(PING) * 200, 10_000.0)
        assert session.state.name == "OPEN"
        session.receive(frame(PING), 10_000.0)
        assert session.state is ConnectionState.CLOSED

    def test_a_flood_in_portions(self) -> None:
        session = established(limits=Limits(max_frames_per_call=100))
        events = session.receive(frame(PING) * 1000, 0.0)
        while session.has_work:
            events += session.handle_timeout(0.0)
        # What is behind the frame that was too many is dropped.
        assert events == [Ping()] * 300 + [CloseConnection(1008, "too many control frames")]

    def test_a_flood_that_ends_in_a_close_frame_is_over_anyway(self) -> None:
        session = established()
        events = session.receive(frame(PING, b"x") * 240 + NORMAL, 0.0)
        assert events == [Ping(b"x")] * 240 + [CloseConnection(1000, "bye")]
        assert session.data_to_send() == b"\x8a\x01x\x88\x05\x03\xe8bye"
        assert closed(session.receive(None, 0.0)).cause is Cause.REMOTE

    def test_a_flood_behind_our_close_frame(self) -> None:
        session = established()
        session.close(now=0.0)
        session.data_to_send()
        events = session.receive(frame(PING) * 201, 0.0)
        assert events[-1] == CloseConnection(1008, "too many control frames")
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.CLOSE
        assert closed(session.receive(None, 0.0)).cause is Cause.LOCAL

    def test_without_a_bound(self) -> None:
        session = established(limits=Limits(max_control_rate=None, control_burst=0))
        for _ in range(10):
            session.receive(frame(PING) * 250, 0.0)
        assert session.state is ConnectionState.OPEN

    def test_a_flood_whose_answer_is_the_callers(self) -> None:
        session = established(auto_close=False)
        events = session.receive(frame(PING) * 201, 0.0)
        assert events[-1] == CloseConnection(1008, "too many control frames")
        assert session.data_to_send() == b""
        assert session.state is ConnectionState.REMOTE_CLOSING
        assert session.receive(frame(TEXT, b"a"), 0.0) == []
        session.close(1008, now=0.0)
        assert session.data_to_send() == b"\x88\x02\x03\xf0"
        assert session.transport_action is TransportAction.CLOSE


class TestPausing:
    def test_what_comes_is_held_back(self) -> None:
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

    def test_the_handshake_goes_on(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.pause(0.0)
        assert len(session.receive(REQUEST + frame(TEXT, b"a"), 0.0)) == 1
        session.send(AcceptConnection(), 0.0)
        assert session.handle_timeout(0.0) == []
        assert session.resume(0.0) == [TextMessage("a")]

    def test_by_itself_after_a_queue_of_messages(self) -> None:
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
    def test_by_itself_after_a_queue_of_octets(self, message: bytes, count: int) -> None:
        session = established(auto_pause=True)
        delivered = 0
        while not session.paused:
            delivered += len(session.receive(message, 0.0))
        assert delivered == count

    @pytest.mark.parametrize(
        ("messages", "octets", "count"), [(None, 40, 4), (4, None, 4), (None, None, 9)]
    )
    def test_without_a_bound_on_the_queue(
        self, messages: int | None, octets: int | None, count: int
    ) -> None:
        limits = Limits(max_queued_messages=messages, max_queued_bytes=octets)
        session = established(auto_pause=True, limits=limits)
        delivered = 0
        while delivered < 9 and not session.paused:
            delivered += len(session.receive(frame(BINARY, bytes(10)), 0.0))
        assert delivered == count

    @pytest.mark.parametrize("cut", [1, 5, 8, 9])
    def test_no_more_than_the_queue_however_reads_are_cut(self, cut: int) -> None:
        session = established(auto_pause=True, limits=Limits(max_queued_messages=1))
        octets = frame(BINARY, b"abc") + frame(BINARY) * 2
        assert session.receive(octets[:cut], 0.0) + session.receive(octets[cut:], 0.0) == [
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

    def test_a_quantum_smaller_than_the_queue(self) -> None:
        limits = Limits(max_frames_per_call=3, max_queued_messages=5)
        session = established(auto_pause=True, limits=limits)
        assert len(session.receive(frame(TEXT, b"a") * 9, 0.0)) == 3
        assert session.next_deadline() == 0.0
        assert len(session.handle_timeout(0.0)) == 3
        assert session.paused
        session = established(auto_pause=True, limits=Limits(max_frames_per_call=None))
        assert len(session.receive(frame(TEXT, b"a") * 20, 0.0)) == 16

    def test_the_end_of_input_waits_for_what_is_held_back(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(frame(TEXT, b"a"), 0.0)
        assert session.receive(None, 0.0) == []
        assert not session.closed
        # Late octets are nobody's.
        assert session.receive(frame(TEXT, b"late"), 0.0) == []
        assert session.resume(1.0) == [
            TextMessage("a"),
            ConnectionClosed(1006, "", Cause.END_OF_INPUT),
        ]
        session.pause(2.0)
        assert session.resume(3.0) == []

    def test_the_end_of_input_with_nothing_held_back(self) -> None:
        session = established()
        session.pause(0.0)
        assert closed(session.receive(None, 0.0)).cause is Cause.END_OF_INPUT

    def test_the_peers_close_frame_may_be_what_is_held_back(self) -> None:
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

    def test_closing_does_not_wait_for_a_pause(self) -> None:
        session = established()
        session.pause(0.0)
        session.receive(NORMAL, 0.0)
        session.close(now=1.0)
        assert session.next_deadline() == 6.0
        assert closed(session.handle_timeout(6.0)).cause is Cause.CLOSE_TIMEOUT


class TestKeepalive:
    def test_a_ping_that_is_answered(self) -> None:
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

    def test_a_peer_that_is_gone(self) -> None:
        session = established(entropy=octets)
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
        # It may be there after all.
        assert session.data_to_send() == b"\x88\x16\x03\xf3keep-alive timed out"
        assert session.next_deadline() is None

    def test_what_was_sent_to_it_is_no_life_of_the_peers(self) -> None:
        session = established()
        for second in range(45):
            session.send(TextMessage("a"), float(second))
            session.data_to_send()
            assert run(session, float(second)) == []
        assert closed(run(session, 45.0)).cause is Cause.KEEPALIVE

    def test_whatever_it_sends_is_life(self) -> None:
        session = established()
        for second in range(20, 400, 20):
            # One octet of a frame each time.
            assert session.receive(frame(BINARY, bytes(100))[second // 20 - 1 :][:1], second) == []
            assert run(session, second) == []
        assert session.data_to_send() == b""

    def test_a_wrong_pong_answers_nothing(self) -> None:
        session = established(entropy=octets)
        run(session, 25.0)
        for payload in (b"", b"rrrrrrr", b"rrrrrrrrr", b"Rrrrrrrr"):
            session.receive(frame(PONG, payload), 26.0)
        assert session.round_trip_time is None
        assert session.keepalive.awaiting
        session.receive(frame(PONG, b"rrrrrrrr"), 27.0)
        assert session.round_trip_time == 2.0

    def test_writing_that_is_stuck_does_not_put_it_off(self) -> None:
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

    def test_nothing(self) -> None:
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

    def test_a_pause_takes_no_time_from_the_peer(self) -> None:
        session = established(entropy=octets)
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

    def test_a_pause_does_not_save_a_dead_peer(self) -> None:
        session = established()
        run(session, 25.0)
        session.pause(44.0)
        session.resume(100.0)
        for pause in range(105, 114, 3):
            session.pause(float(pause))
            session.resume(pause + 2.0)
        assert closed(run(session, 1e9)).cause is Cause.KEEPALIVE
        # 20 seconds, and the six that were pauses.
        assert session._now == 126.0

    def test_pings_go_out_in_a_pause_too(self) -> None:
        session = established(entropy=octets)
        session.pause(1.0)
        assert session.next_deadline() == 25.0
        assert run(session, 1e9) == []
        assert session.data_to_send() == b"\x89\x08rrrrrrrr"
        session.receive(frame(PONG, b"rrrrrrrr"), 30.0)
        assert session.resume(60.0) == [Pong(b"rrrrrrrr")]
        assert session.next_deadline() == 85.0


class TestDeadlines:
    def test_a_request_that_does_not_come(self) -> None:
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

    def test_a_response_that_does_not_come(self) -> None:
        session = Session(ConnectionType.CLIENT, now=0.0)
        session.send(Request(host="example.com", target="/"), 0.0)
        session.data_to_send()
        assert session.handle_timeout(10.0) == []
        assert session.transport_action is TransportAction.ABORT
        assert session.data_to_send() == b""
        assert closed(session.receive(None, 10.0)).cause is Cause.OPEN_TIMEOUT
        # That the transport has ended makes nothing better.
        assert session.transport_action is TransportAction.ABORT

    def test_a_rejection_that_does_not_end(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        session.send(RejectConnection(has_body=True), 0.0)
        session.send(RejectData(b"and", body_finished=False), 9.0)
        assert session.handle_timeout(10.0) == []
        assert session.transport_action is TransportAction.ABORT
        assert closed(run(session, 15.0)).cause is Cause.REJECTION

    def test_a_late_answer_to_a_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0, config=SessionConfig(open_timeout=None))
        session.receive(REQUEST, 0.0)
        assert session.next_deadline() is None
        session.send(AcceptConnection(), 1e6)
        assert session.state is ConnectionState.OPEN

    def test_the_peer_does_not_answer_our_close_frame(self) -> None:
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

    def test_the_caller_does_not_answer_the_peers(self) -> None:
        session = established(auto_close=False)
        session.receive(NORMAL, 1.0)
        end = closed(run(session, 6.0))
        assert end.cause is Cause.REMOTE
        assert end.code == 1000
        assert session.transport_action is TransportAction.ABORT

    def test_the_transport_does_not_end(self) -> None:
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

    def test_nothing_waits_for_ever_only_on_request(self) -> None:
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
        session = established(idle_timeout=10.0, keepalive=KeepaliveConfig(Mechanism.NONE))
        session.pause(5.0)
        assert run(session, 1e9) == []
        assert session.next_deadline() is None
        session.resume(1000.0)
        assert session.next_deadline() == 1010.0
        run(session, 1010.0)
        assert session.state is ConnectionState.LOCAL_CLOSING

    def test_a_transport_that_takes_nothing(self) -> None:
        session = established()
        session.send(BytesMessage(bytes(1000)), 0.0)
        session.data_to_send()
        session.transport_backlog(1004, 1.0)
        assert session.next_deadline() == 21.0
        session.transport_backlog(1004, 20.0)
        end = closed(run(session, 21.0))
        assert end == ConnectionClosed(
            1006, "the transport took no octets for too long", Cause.SEND_TIMEOUT
        )
        assert session.transport_action is TransportAction.ABORT

    def test_a_transport_that_takes_something(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        backlog = 0
        for second in range(100):
            # More is written than is taken, but something is.
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

    def test_a_backlog_behind_the_end(self) -> None:
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


class TestClocksThatJump:
    def test_backwards_nothing_changes_but_the_numbers(self) -> None:
        config = SessionConfig(idle_timeout=400.0, max_age=100.0)
        session = Session.established(ConnectionType.SERVER, now=1000.0, config=config)
        session.send(TextMessage("a"), 1001.0)
        session.data_to_send()
        session.transport_backlog(1, 1001.0)
        assert session.next_deadline() == 1021.0
        session.touched = False
        session.receive(frame(TEXT, b"a"), 1.0)
        assert session.touched
        assert session.next_deadline() == 21.0
        assert session.last_received == 1.0
        session.transport_backlog(0, 1.0)
        assert session.next_deadline() == 25.0
        # What came a second after the beginning moves it.
        run(session, 26.0)
        assert session.data_to_send()[:2] == b"\x89\x08"
        session.handle_timeout(-5000.0)
        # 26 became -5000.
        assert session.next_deadline() == -4980.0
        session.receive(frame(PONG, session.keepalive.payload), -4999.0)
        assert session.round_trip_time == 1.0

    def test_backwards_does_not_refill_the_bucket(self) -> None:
        session = established(now=100.0)
        session.receive(frame(PING) * 200, 100.0)
        session.receive(frame(TEXT, b"a"), 0.0)
        session.receive(frame(PING) * 50, 1.0)
        assert session.state is ConnectionState.OPEN
        session.receive(frame(PING), 1.0)
        assert session.state.name == "CLOSED"

    def test_backwards_in_a_pause(self) -> None:
        session = established(now=100.0)
        run(session, 125.0)
        session.pause(130.0)
        session.handle_timeout(0.0)
        session.resume(3.0)
        # It was at 145, fifteen seconds after the pause began at what is now 0.
        assert session.next_deadline() == 23.0

    def test_forwards_a_live_peer_stays(self) -> None:
        session = established(idle_timeout=60.0, entropy=octets)
        run(session, 25.0)
        session.transport_backlog(10, 25.0)
        # An hour is missing: it was the clock, or this process.
        assert session.handle_timeout(3625.0) == []
        assert session.state is ConnectionState.OPEN
        session.receive(frame(PONG, b"rrrrrrrr"), 3626.0)
        session.transport_backlog(0, 3626.0)
        assert session.next_deadline() == 3651.0
        # And again, later.
        run(session, 3651.0)
        session.transport_backlog(10, 3651.0)
        assert session.handle_timeout(9000.0) == []
        assert session.state is ConnectionState.OPEN

    def test_forwards_a_dead_peer_goes(self) -> None:
        session = established()
        run(session, 25.0)
        session.handle_timeout(3625.0)
        assert session.next_deadline() == 3645.0
        assert closed(session.handle_timeout(7000.0)).cause is Cause.KEEPALIVE

    def test_forwards_an_idle_peer_has_its_time_once_more(self) -> None:
        session = established(idle_timeout=10.0, keepalive=KeepaliveConfig(Mechanism.NONE))
        session.handle_timeout(1000.0)
        assert session.next_deadline() == 1010.0
        session.receive(frame(TEXT, b"a"), 1005.0)
        session.handle_timeout(1010.0)
        assert session.next_deadline() == 1015.0
        session.handle_timeout(2000.0)
        assert session.state is ConnectionState.OPEN
        session.handle_timeout(3000.0)
        assert session.state.name == "LOCAL_CLOSING"

    def test_forwards_in_the_handshake(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.handle_timeout(3600.0)
        assert session.next_deadline() == 3610.0
        session.handle_timeout(7200.0)
        assert session.state is ConnectionState.CLOSED

    def test_forwards_and_stuck(self) -> None:
        session = established(keepalive=KeepaliveConfig(Mechanism.NONE))
        session.transport_backlog(10, 0.0)
        assert session.handle_timeout(1000.0) == []
        assert session.next_deadline() == 1020.0
        assert closed(session.handle_timeout(1030.0)).cause is Cause.SEND_TIMEOUT


def test_what_came_up_while_sending_is_told_by_the_next_call() -> None:
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


class TestTheHandshake:
    def test_a_bad_request_is_answered(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST[:30], 0.0)
        assert session.receive(REQUEST[30:].replace(b"13", b"14") + frame(TEXT), 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert session.transport_action is TransportAction.CLOSE
        end = closed(session.receive(None, 0.0))
        assert (end.code, end.cause) == (1006, Cause.PROTOCOL_ERROR)
        assert end.reason == "version b'14' is not spoken"

    def test_a_bad_response_is_not(self) -> None:
        session = Session(ConnectionType.CLIENT, now=0.0)
        session.send(Request(host="example.com", target="/"), 0.0)
        session.data_to_send()
        assert session.receive(b"HTTP/1.1 101 ?\r\n\r\n", 0.0) == []
        assert session.data_to_send() == b""
        assert session.transport_action is TransportAction.CLOSE
        assert closed(session.receive(None, 0.0)).cause is Cause.PROTOCOL_ERROR

    def test_too_much_behind_a_request(self) -> None:
        session = Session(ConnectionType.SERVER, now=0.0)
        session.receive(REQUEST, 0.0)
        assert session.receive(bytes(16 * 1024 + 1), 0.0) == []
        assert session.data_to_send().startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert closed(session.receive(None, 0.0)).cause is Cause.PROTOCOL_ERROR

    def test_a_request_that_another_server_has_parsed(self) -> None:
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
        # What came behind it waits for the answer, as does the deadline.
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

    def test_a_parsed_request_that_is_none(self) -> None:
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

    def test_input_behind_a_rejection_is_dropped(self) -> None:
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


class TestDescribing:
    def test_an_open_session(self) -> None:
        session = server(subprotocol="sip", entropy=octets)
        assert session.describe(1.26) == "server, OPEN, sub-protocol 'sip', last received 1.3 s ago"
        run(session, 25.0)
        assert session.describe(26.0) == (
            "server, OPEN, sub-protocol 'sip', last received 26.0 s ago, awaiting Pong, "
            "10 octets to send"
        )

    def test_the_end(self) -> None:
        session = established()
        session.close(1001, now=0.0, cause=Cause.SHUTDOWN)
        session.data_to_send()
        session.transport_backlog(4, 0.0)
        # The clock may have been set back since.
        assert session.describe(-5.0) == (
            "server, LOCAL_CLOSING, last received 0.0 s ago, 4 octets to send, cause shutdown"
        )

    @given(st.text(), st.floats(allow_nan=True))
    def test_one_line_bounded_and_safe_to_print(self, name: str, now: float) -> None:
        session = Session.established(ConnectionType.CLIENT, now=0.0, subprotocol=name)
        run(session, 30.0)
        session.transport_backlog(10**30, 30.0)
        session.abort(now=30.0)
        line = session.describe(now)
        assert len(line) <= 200
        assert line.isascii()
        assert line.isprintable()
        assert line.startswith("client, CLOSED, sub-protocol '") or name.count("'")

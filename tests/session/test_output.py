"""The output of a session: frames in order, Pongs, and the transport's backlog."""

from __future__ import annotations

from tests._sessions import (
    NORMAL,
    PING,
    REQUEST,
    frame,
    server,
)
from wsproto_sip._masking import KeySource
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    Ping,
    TextMessage,
)
from wsproto_sip.frame_protocol import FrameEncoder
from wsproto_sip.limits import Limits
from wsproto_sip.session.output import Output
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType


def output(client: bool = False) -> Output:
    return Output(FrameEncoder(client, KeySource()))


class TestOutput:
    def test_output_is_taken_in_order(self) -> None:
        out = output()
        out.write(b"ab")
        assert out.take() == b"ab"
        out.write(b"c")
        out.write(b"")
        out.write(b"de")
        assert out.waiting == 3
        assert out.take() == b"cde"
        assert out.waiting == 0
        assert out.take() == b""

    def test_reported_backlog_counts_sent_bytes(self) -> None:
        out = output()
        out.write(bytes(10))
        out.take()
        assert out.set_backlog(8) == 2
        out.write(bytes(5))
        out.take()
        assert out.set_backlog(13) == 0
        assert out.backlog == 13
        assert out.set_backlog(0) == 13
        # A report of more than was taken.
        assert out.set_backlog(7) == -7

    def test_marked_ping_waits_until_the_transport_has_sent_it(self) -> None:
        out = output()
        out.write(bytes(10))
        out.take()
        out.set_backlog(10)
        out.write(b"ping")
        out.mark_ping()
        assert out.ping_waits
        # A Pong goes before it.
        out.answer([b"a", b"b"])
        assert out.write_pongs() == 1
        assert out.write_pongs() == 0
        assert out.take() == b"\x8a\x01bping"
        out.set_backlog(4)
        assert out.ping_waits
        out.set_backlog(0)
        assert not out.ping_waits

    def test_pongs_are_not_written_twice(self) -> None:
        out = output()
        out.answer([b"a", b"b"])
        assert out.write_pongs() == 2
        out.answer([b"c"])
        out.drop_pongs()
        assert out.write_pongs() == 0
        assert out.take() == b"\x8a\x01a\x8a\x01b"


class TestInASession:
    def test_ten_pings_in_one_read_are_answered_in_order(self) -> None:
        session = server()
        session.receive(b"".join(frame(PING, b"%d" % number) for number in range(10)), 0.0)
        assert session.data_to_send() == b"".join(b"\x8a\x01%d" % number for number in range(10))
        assert session.controls_sent == 10
        # Whether or not the transport has sent the last ones, until it reports that.
        session.receive(frame(PING, b"a") + frame(PING, b"b"), 0.0)
        assert session.data_to_send() == b"\x8a\x01a\x8a\x01b"

    def test_ten_pings_after_a_backlog_are_answered_with_one_pong(self) -> None:
        session = server()
        session.transport_backlog(1, 0.0)
        session.receive(b"".join(frame(PING, b"%d" % number) for number in range(10)), 0.0)
        assert session.data_to_send() == b"\x8a\x019"
        # Pongs from just before the transport was full must not pile up either.
        session.transport_backlog(0, 0.0)
        session.receive(frame(PING, b"a") + frame(PING, b"b"), 0.0)
        session.transport_backlog(5, 0.0)
        assert session.data_to_send() == b"\x8a\x01b"

    def test_untaken_pongs_are_bounded(self) -> None:
        session = server(limits=Limits(max_control_rate=None))
        for number in range(1000):
            session.receive(frame(PING, b"%03d" % number), 0.0)
        pongs = session.data_to_send()
        assert pongs == b"".join(b"\x8a\x03%03d" % number for number in range(744, 1000))

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
        # Not while the last one is in there, after 102 bytes.
        session.transport_backlog(1, 1.0)
        assert session.data_to_send() == b""
        session.transport_backlog(0, 1.0)
        assert session.data_to_send() == b"\x8a\x01%c" % 99
        session.send(BytesMessage(b"x" * 100), 1.0)
        session.data_to_send()
        session.transport_backlog(102, 1.0)
        session.receive(b"\x89\x81\0\0\0\0c", 1.0)
        assert session.data_to_send() == b"\x8a\x01c"

    def test_pong_precedes_waiting_output_except_the_handshake(self) -> None:
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

    def test_pong_precedes_our_close_frame(self) -> None:
        session = server()
        session.close(now=0.0)
        session.receive(frame(PING, b"p"), 0.0)
        assert session.data_to_send() == b"\x8a\x01p\x88\x02\x03\xe8"
        # RFC 6455 §5.5.2 requires one until the peer's close frame has arrived.
        session.receive(frame(PING, b"q"), 0.0)
        assert session.data_to_send() == b"\x8a\x01q"
        session.receive(frame(PING, b"r") + NORMAL, 0.0)
        assert session.data_to_send() == b""

    def test_automatic_output_stays_small(self) -> None:
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

    def test_automatic_pongs_can_be_disabled(self) -> None:
        session = server(auto_pong=False)
        assert session.receive(b"\x89\x81\0\0\0\0a", 0.0) == [Ping(b"a")]
        assert session.data_to_send() == b""

    def test_backlog_counts_towards_the_limit(self) -> None:
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

    def test_progressing_transport_keeps_the_session(self) -> None:
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

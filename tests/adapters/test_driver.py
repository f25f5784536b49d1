"""The part that all adapters share, on a transport and a clock that the test controls."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters._arguments import adapted
from wsproto_sip.adapters._driver import (
    BODY_KEPT,
    Driver,
    is_pieces,
    last_piece,
    message_event,
    piece_event,
)
from wsproto_sip.adapters._pieces import PieceReceiver
from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.policy.decision import Respond
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.session.prepared import PreparedMessage
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

from .._sessions import REQUEST, frame
from .._wire import deflated

CLOSE_4001 = frame(0x88, b"\x0f\xa1")

Ended = tuple[str, Exception | float | None]


class Fake(Driver[str]):
    """A driver with a transport that takes what ``room`` allows, and a clock that stands still.

    Args:
        role: The end of the connection.
        config: The configuration of the session.
        request: The request of a client.
    """

    def __init__(
        self,
        role: ConnectionType = ConnectionType.SERVER,
        config: SessionConfig | None = None,
        request: Request | None = None,
    ) -> None:
        self.now = 100.0
        session = Session(role, now=self.now, config=adapted(config or SessionConfig()))
        super().__init__(session, request, lambda: self.now)
        self.written = b""
        self.room: float = inf
        self.waiting = b""
        self.calls: list[str] = []
        self.due = inf
        self.woken = 0
        self.pongs: list[Ended] = []
        self.outcomes: list[Exception | None] = []
        self._begin()

    def take(self) -> bytes:
        """Return what was written."""
        taken, self.written = self.written, b""
        return taken

    def hear(self, data: bytes | None) -> None:
        """Receive bytes, or the end of the input."""
        self._dispatch(self.session.receive(data, self.now))
        self._follow_session()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and every deadline in it."""
        end = self.now + seconds
        while self.due <= end:
            self.now = max(self.due, self.now)
            self._pass_deadline()
        self.now = end

    def receive(self) -> str | bytes | None:
        """Do the same as recv(), without waiting."""
        if not self._has_message():
            self._ask_for_message()
        return self._take() if self._messages else None

    def receive_piece(self, receiver: PieceReceiver) -> str | bytes | None:
        """Do the same as an iterator, without waiting."""
        piece = self._next_piece(receiver)
        if piece is None and not receiver.over:
            self._ask_for_message()
        return piece

    # -- the transport -----------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self.waiting += data
        size = int(min(self.room, len(self.waiting)))
        self.room -= size
        self.written += self.waiting[:size]
        self.waiting = self.waiting[size:]

    def _backlog(self) -> int:
        return len(self.waiting)

    def _resume_reading(self) -> None:
        self.calls.append("read")

    def _end_output(self) -> None:
        self.calls.append("end")

    def _drop_transport(self) -> None:
        self.calls.append("drop")

    def _schedule(self, when: float, now: float) -> None:
        assert now == self.now
        self.due = when

    def _wake(self) -> None:
        self.woken += bool(self._messages or self.closed)

    def _opened(self, error: Exception | None) -> None:
        self.outcomes.append(error)

    def _answered(self, waiter: str, now: float) -> None:
        self.pongs.append((waiter, now))

    def _unanswered(self, waiter: str) -> None:
        self.pongs.append((waiter, self._closed_error()))


def opened(**options: Any) -> Fake:
    """Return an open server connection."""
    driver = Fake(config=SessionConfig(**options))
    driver.hear(REQUEST)
    assert driver.request
    driver.accept(AcceptConnection("sip"))
    assert driver.take().startswith(b"HTTP/1.1 101 ")
    return driver


def client() -> tuple[Fake, Session]:
    """Return a client whose request has arrived at a server."""
    request = Request(host="example.com", target="/chat", subprotocols=["sip"])
    driver = Fake(ConnectionType.CLIENT, request=request)
    server = Session(ConnectionType.SERVER, now=0.0)
    assert server.receive(driver.take(), 0.0)
    return driver, server


class TestMessages:
    def test_messages_are_received_in_order(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, "grüße".encode()) + frame(0x82, b"\0"))
        assert driver.woken == 1
        assert [driver.receive(), driver.receive(), driver.receive()] == ["grüße", b"\0", None]
        assert driver.subprotocol == "sip"

    def test_messages_are_sent(self) -> None:
        driver = opened()
        assert driver._give(TextMessage("hi"), driver.now)
        driver._follow_session()
        assert driver.take() == b"\x81\x02hi"

    def test_invalid_messages_are_refused(self) -> None:
        driver = opened()
        with pytest.raises(LocalProtocolError):
            driver._give(TextMessage("\ud800"), driver.now)
        driver.hear(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
        assert driver.session.state is ConnectionState.REMOTE_CLOSING
        with pytest.raises(LocalProtocolError):
            driver._give(TextMessage("\ud800"), driver.now)
        assert not driver._give(Ping(), driver.now)
        driver.begin_close()
        assert not driver._give(TextMessage("x"), driver.now)

    def test_queue_is_bounded(self) -> None:
        """Parsing stops when the queue is full, and continues when all of it is received."""
        driver = opened()
        for number in range(40):
            driver.hear(frame(0x81, b"%d" % number))
        assert len(driver._messages) == 16
        assert driver._held_up
        driver._reading = False
        assert [driver.receive() for _ in range(16)] == list(map(str, range(16)))
        assert driver.calls == []
        assert [driver.receive() for _ in range(24)] == list(map(str, range(16, 40)))
        assert driver.calls == ["read"]
        assert driver.receive() is None

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=200).map(lambda data: ("hear", data)),
                st.just(("receive", b"")),
            ),
            max_size=80,
        )
    )
    def test_no_message_is_lost_or_repeated(self, steps: list[tuple[str, bytes]]) -> None:
        driver = opened()
        said: list[bytes] = []
        got: list[Any] = []
        for step, data in steps:
            if step == "hear":
                said.append(data)
                driver.hear(frame(0x82, data))
            else:
                got.append(driver.receive())
            driver.pass_time(0)
        driver._lose(False)
        while (message := driver.receive()) is not None:
            got.append(message)
        assert [message for message in got if message is not None] == said
        assert driver.closed


class TestOpening:
    def test_client_opens(self) -> None:
        driver, server = client()
        server.send(AcceptConnection("sip"), 0.0)
        driver.hear(server.data_to_send())
        assert driver.outcomes == [None]
        assert driver.response
        assert driver.subprotocol == "sip"

    def test_rejection_is_reported_with_its_body(self) -> None:
        driver, server = client()
        body = b"x" * (BODY_KEPT + 1)
        server.send(RejectConnection(status_code=403, has_body=True), 0.0)
        server.send(RejectData(body), 0.0)
        driver.hear(server.data_to_send())
        driver.hear(None)
        rejection = driver.outcomes[0]
        assert isinstance(rejection, HandshakeRejected)
        assert (rejection.status_code, rejection.body) == (403, body[:-1])

    def rejected(self, body: bytes) -> Fake:
        """Return a client whose rejection has arrived, with a part of the announced body."""
        driver, server = client()
        fields = [(b"Content-Length", b"100000")]
        server.send(RejectConnection(403, fields, has_body=True), 0.0)
        server.send(RejectData(body, body_finished=False), 0.0)
        driver.hear(server.data_to_send())
        assert driver.session.state is ConnectionState.REJECTING
        return driver

    @pytest.mark.parametrize("way", ["time", "end", "lost", "abort", "enough"])
    def test_rejection_with_a_truncated_body_is_reported(self, way: str) -> None:
        driver = self.rejected(b"only this" if way != "enough" else bytes(BODY_KEPT))
        assert driver.outcomes == ([] if way != "enough" else [driver.rejection])
        if way == "time":
            driver.pass_time(0.9)
            assert driver.outcomes == []
            driver.pass_time(0.1)
        elif way == "end":
            driver.hear(None)
        elif way == "lost":
            driver._lose(False)
        elif way == "abort":
            driver.abort()
        rejection = driver.outcomes[0]
        assert rejection is driver.rejection
        assert isinstance(rejection, HandshakeRejected)
        assert rejection.status_code == 403
        assert rejection.body == (b"only this" if way != "enough" else bytes(BODY_KEPT))

    def test_invalid_request_is_reported(self) -> None:
        request = Request(host="example.com", target="/", extra_headers=[(b"Host", b"x")])
        driver = Fake(ConnectionType.CLIENT, request=request)
        assert isinstance(driver.outcomes[0], LocalProtocolError)
        assert driver.calls == ["drop"]

    def test_server_rejects_once(self) -> None:
        driver = Fake()
        driver.hear(REQUEST)
        assert not driver.answer(HandshakeRejected(401, [(b"X", b"y")], b"who?"))
        assert driver.take().startswith(b"HTTP/1.1 401 ")
        assert driver.calls == ["end"]
        assert not driver.answer(HandshakeRejected(402))
        assert not driver.answer(AcceptConnection())
        assert driver.take() == b""

    def test_message_sent_with_the_request_is_received(self) -> None:
        driver = Fake()
        driver.hear(REQUEST + frame(0x81, b"x"))
        assert driver.answer(AcceptConnection())
        assert driver.receive() == "x"

    def test_request_that_never_comes_times_out(self) -> None:
        driver = Fake()
        driver.hear(REQUEST[:-2])
        driver.pass_time(10)
        assert driver.take().startswith(b"HTTP/1.1 408 ")
        assert driver.calls[-1] == "end"
        driver.pass_time(5)
        assert driver.calls[-1] == "drop"
        assert driver.closed
        assert driver.closed.cause is Cause.OPEN_TIMEOUT


class TestTime:
    """Keep-alive and the other deadlines, with a clock that the test moves."""

    def test_answered_keepalive_keeps_the_connection(self) -> None:
        driver = opened(keepalive=KeepaliveConfig(application_data=b"?"))
        for _ in range(3):
            driver.pass_time(24.9)
            assert driver.take() == b""
            driver.pass_time(0.2)
            assert driver.take() == b"\x89\x01?"
            driver.now += 0.5
            driver.hear(frame(0x8A, b"?"))
            assert driver.session.round_trip_time == pytest.approx(0.6)
        assert driver.closed is None

    def test_unanswered_keepalive_ends_the_connection(self) -> None:
        driver = opened()
        driver.pass_time(25)
        assert driver.take()[:2] == b"\x89\x08"
        driver.pass_time(19.9)
        assert driver.closed is None
        driver.pass_time(0.1)
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (1006, Cause.KEEPALIVE)
        assert driver.calls == ["drop"]

    def test_paused_reading_suspends_keepalive(self) -> None:
        """A pause in reading says nothing about the peer."""
        driver = opened()
        driver.pass_time(25)
        assert driver.take()
        driver.hear(frame(0x81, b"x") * 16)
        driver.pass_time(290)
        assert driver.closed is None
        assert [driver.receive() for _ in range(17)] == ["x"] * 16 + [None]
        driver.pass_time(19)
        assert driver.closed is None
        driver.pass_time(1)
        assert driver.closed

    def test_blocked_transport_ends_by_the_send_timeout(self) -> None:
        driver = opened()
        driver.room = 3
        driver._give(TextMessage("x" * 100), driver.now)
        driver._follow_session()
        driver.pass_time(19)
        # It takes a part.
        driver.room = 1
        driver._write(b"")
        driver._pass_deadline()
        driver.pass_time(19)
        assert driver.closed is None
        driver.pass_time(1)
        assert driver.closed
        assert driver.closed.cause is Cause.SEND_TIMEOUT

    def test_drained_transport_cancels_the_send_timeout(self) -> None:
        driver = opened(keepalive=KeepaliveConfig(interval=3600.0))
        driver.room = 0
        driver._give(TextMessage("x"), driver.now)
        driver._follow_session()
        driver.room = inf
        driver._write(b"")
        driver._follow_session()
        driver.pass_time(60)
        assert driver.closed is None

    def test_leftover_work_is_due_at_once(self) -> None:
        """The rest is due at once."""
        driver = opened()
        driver.hear(frame(0x81, b"x") * 40)
        got = 0
        while driver.receive() is not None:
            got += 1
            driver.pass_time(0)
        assert got == 40


class TestPings:
    def test_pong_answers_earlier_pings_too(self) -> None:
        driver = opened()
        payloads = [driver._ping(None, "first"), driver._ping(b"2", "second")]
        assert payloads[0]
        assert len(payloads[0]) == 8
        with pytest.raises(ValueError, match="already waiting"):
            driver._ping(b"2", "again")
        with pytest.raises(LocalProtocolError):
            driver._ping(bytes(126), "long")
        driver.hear(frame(0x8A, b"nobody's"))
        assert driver.pongs == []
        driver.now += 1
        driver.hear(frame(0x8A, b"2"))
        assert driver.pongs == [("first", 101.0), ("second", 101.0)]

    def test_unsolicited_pong(self) -> None:
        driver = opened()
        before = len(driver.written)
        assert driver._pong(b"here")
        assert driver.written[before:] == b"\x8a\x04here"
        with pytest.raises(LocalProtocolError):
            driver._pong(bytes(126))
        driver.begin_close()
        assert not driver._pong(b"late")

    def test_abandoned_ping_is_forgotten(self) -> None:
        driver = opened()
        driver._forget_ping(b"1")
        driver._ping(b"1", "first")
        driver._forget_ping(b"1")
        driver._ping(b"2", "second")
        driver.abort()
        [(waiter, error)] = driver.pongs
        assert waiter == "second"
        assert isinstance(error, ConnectionClosedError)
        assert driver._ping(b"3", "late") is None


class TestClosing:
    def test_answers_are_sent_before_the_close_frame(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x81, b"b") + frame(0x88, b"\x03\xe8"))
        for _ in range(2):
            assert driver.receive()
            driver._give(TextMessage("ok"), driver.now)
            driver._follow_session()
        assert driver.take() == b""
        assert driver.receive() is None
        assert driver.take() == b"\x81\x02ok\x81\x02ok\x88\x02\x03\xe8"
        assert driver.calls == ["end"]

    def test_close_frame_is_answered_after_a_while(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x88, b"\x03\xe8"))
        driver.pass_time(0.9)
        assert driver.take() == b""
        driver.pass_time(0.1)
        assert driver.take() == b"\x88\x02\x03\xe8"

    def test_close_frame_is_answered_at_once_without_messages(self) -> None:
        driver = opened()
        driver.hear(frame(0x88, b"\x03\xe8"))
        assert driver.take() == b"\x88\x02\x03\xe8"

    def test_close_frame_is_answered_above_high_water(self) -> None:
        """The close frame is not delayed once output exceeds the high-water mark."""
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x88, b"\x03\xe8"))
        driver._give(TextMessage("x" * 65536), driver.now)
        driver._follow_session()
        assert driver.take().endswith(b"\x88\x02\x03\xe8")

    def test_close_drops_unreceived_messages(self) -> None:
        """The peer's close frame comes after more messages than are received."""
        driver = opened()
        for number in range(40):
            driver.hear(frame(0x81, b"%d" % number))
        driver.begin_close(4000, "enough")
        assert not driver.session.paused
        driver.hear(frame(0x81, b"more") + frame(0x88, b"\x0f\xa0"))
        assert driver.take() == b"\x88\x08\x0f\xa0enough"
        assert driver.calls == ["end"]
        driver._lose(False)
        assert driver.closed == ConnectionClosed(
            4000,
            "",
            Cause.LOCAL,
            CloseConnection(4000, ""),
            CloseConnection(4000, "enough"),
        )
        assert [driver.receive() for _ in range(17)] == [*map(str, range(16)), None]

    def test_only_a_receiving_program_delays_the_receive_timeout(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"x") * 20)
        assert driver.session.paused
        for _ in range(10):
            driver.pass_time(299)
            assert driver.receive() == "x"
        driver.pass_time(299)
        assert driver.session.state is ConnectionState.OPEN
        driver.pass_time(2)
        assert driver.take().endswith(b"\x88\x1f\x03\xf3nothing was read for too long")
        driver.pass_time(5)
        assert driver.closed
        assert driver.closed.close_sent is not None
        assert driver.closed.close_sent.code == 1011

    def test_reading_continues_after_the_last_frame(self) -> None:
        """After the last frame, unreceived messages do not hold up reading."""
        driver = opened()
        for number in range(17):
            driver.hear(frame(0x81, b"%d" % number))
        driver._reading = False
        assert driver._held_up
        driver.hear(b"\x83\x80\0\0\0\0")
        assert driver.calls == []
        assert [driver.receive() for _ in range(17)] == [*map(str, range(17))]
        # The last one may still be answered.
        assert driver.calls == []
        assert driver.receive() is None
        assert driver.calls == ["read", "end"]
        assert not driver._held_up

    def test_messages_before_a_broken_frame_are_received_first(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"question") + b"\x83")
        assert driver.receive() == "question"
        assert driver._give(TextMessage("answer"), driver.now)
        driver._follow_session()
        assert driver.take() == b""
        assert driver.receive() is None
        assert driver.take() == b"\x81\x06answer\x88\x14\x03\xeaunknown opcode 0x3"
        assert driver.calls == ["end"]

    def test_handler_that_ends_after_a_broken_frame_does_not_hide_it(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"question") + b"\x83")
        assert driver.receive() == "question"
        driver.begin_close(1000)
        assert driver.take() == b"\x88\x14\x03\xeaunknown opcode 0x3"

    def test_lost_transport_ends_the_connection(self) -> None:
        driver = opened()
        for number in range(18):
            driver.hear(frame(0x81, b"%d" % number))
        driver._ping(b"1", "first")
        driver.hear(frame(0x88, b"\x0f\xa1"))
        driver._lose(False)
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (4001, Cause.REMOTE)
        [(_, error)] = driver.pongs
        assert isinstance(error, ConnectionClosedError)
        assert error.event is driver.closed
        assert not driver._give(TextMessage("x"), driver.now)
        assert [driver.receive() for _ in range(19)] == [*map(str, range(18)), None]

    def test_tls_failure_is_reported(self) -> None:
        driver = opened()
        driver._lose(True)
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (1015, Cause.TLS)

    def test_close_frame_before_a_tls_failure_counts(self) -> None:
        """What was decrypted before counts; the alert is not the end that the peer gave."""
        for last, code in ((frame(0x88, b"\x0f\xa1"), 4001), (b"", 1015)):
            driver = opened()
            driver.hear(frame(0x81, b"x") * 40 + last)
            driver._lose(True)
            assert driver.closed
            assert driver.closed.code == code
            assert [driver.receive() for _ in range(41)] == ["x"] * 40 + [None]


class TestWorkLeftOver:
    """While the session has work, something will call it, whatever the transport does."""

    def burst(self, **limits: Any) -> Fake:
        """Return a connection that lost its transport with 40 messages of 100 bytes and an end."""
        driver = opened(limits=Limits(**limits))
        driver.hear(frame(0x81, b"x" * 100) * 40 + frame(0x88, b"\x0f\xa1"))
        driver._lose(False)
        return driver

    def test_lost_transport_parses_the_rest(self) -> None:
        driver = self.burst()
        assert driver.closed
        assert driver.closed.code == 4001
        assert len(driver._messages) == 40

    def test_messages_that_inflate_beyond_the_bound_wait_for_a_receiver(self) -> None:
        driver = self.burst(max_queued_bytes=1000, max_inflated_per_read=1000)
        assert driver.closed is None
        assert 0 < len(driver._messages) < 40
        assert [driver.receive() for _ in range(41)] == ["x" * 100] * 40 + [None]
        assert driver.closed
        assert driver.closed.code == 4001

    @pytest.mark.parametrize("way", ["ask", "close", "abort", "ping"])
    def test_asking_for_the_end_drops_the_excess(self, way: str) -> None:
        driver = opened(limits=Limits(max_queued_bytes=1000, max_inflated_per_read=1000))
        if way == "ping":
            driver._ping(b"1", "first")
        driver.hear(frame(0x81, b"x" * 100) * 40 + frame(0x88, b"\x0f\xa1"))
        driver._lose(False)
        if way == "ask":
            assert driver._closed_error().code == 4001
        elif way == "close":
            driver.begin_close(4002)
        elif way == "abort":
            driver.abort()
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (4001, Cause.REMOTE)
        kept = len(driver._messages)
        assert 16 <= kept < 40
        assert [driver.receive() for _ in range(kept + 1)] == ["x" * 100] * kept + [None]

    def test_messages_dropped_by_close_stay_dropped_when_the_transport_is_lost(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"x") * 40)
        driver.begin_close()
        driver.hear(frame(0x81, b"x") * 40 + frame(0x88, b"\x0f\xa1"))
        driver._lose(False)
        assert driver.closed
        assert driver.closed.code == 4001
        assert len(driver._messages) < 40

    @pytest.mark.parametrize("limits", [Limits(), Limits(max_inflated_per_read=None)])
    def test_hurrying_reads_on_without_a_receiver(self, limits: Limits) -> None:
        driver = opened(limits=limits)
        for _ in range(40):
            driver.hear(frame(0x81, b"x"))
        assert driver._held_up
        driver._hurry()
        driver.pass_time(0)
        driver.hear(frame(0x81, b"x"))
        driver._hurry()
        assert len(driver._messages) == 41
        assert not driver._held_up

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("hear"), st.integers(1, 60)),
                st.tuples(st.just("mixed"), st.integers(1, 60)),
                *[
                    st.tuples(st.just(word), st.just(0))
                    for word in ("receive", "receive", "wait", "send", "hurry", "eof")
                ],
            ),
            max_size=30,
        ),
        st.sampled_from([b"", CLOSE_4001]),
        st.booleans(),
        st.sampled_from([1000, 2 * 1024 * 1024]),
        st.booleans(),
    )
    def test_every_plan_reaches_the_peers_end(
        self, steps: list[tuple[str, int]], last: bytes, tls: bool, kept: int, whole: bool
    ) -> None:
        limits = Limits(max_queued_bytes=kept, max_inflated_per_read=kept, max_control_rate=None)
        driver = opened(limits=limits, whole_messages=whole)
        said, got, ended = 0, 0, False

        def check() -> None:
            session = driver.session
            if driver._gone:
                assert driver.closed or driver._messages or driver._pieces
            elif session.has_work:
                assert driver.due <= driver.now
            elif session.paused:
                assert driver._messages or driver._pieces

        for step, count in steps:
            if step in ("hear", "mixed") and not ended:
                said += count
                piece = frame(0x81, b"x")
                if step == "mixed":
                    piece = frame(0x89) + frame(0x01) + frame(0x80, b"x")
                driver.hear(piece * count)
            elif step == "receive":
                got += driver.receive() is not None
            elif step == "wait":
                driver.pass_time(0)
            elif step == "send":
                driver._give(TextMessage("x"), driver.now)
                driver._follow_session()
            elif step == "hurry":
                driver._hurry()
            elif step == "eof" and not ended:
                ended = True
                driver.hear(last)
                driver.hear(None)
            check()
        if not ended:
            driver.hear(last)
        check()
        driver._lose(tls and not ended)
        check()
        while driver.receive() is not None:
            got += 1
            check()
        assert driver.closed
        code = 4001 if last else 1015 if tls and not ended else 1006
        assert driver.closed.code == code
        assert got == said or (kept == 1000 and ("hurry", 0) in steps)


def test_adapter_must_implement_the_transport() -> None:
    """Each missing method raises NotImplementedError."""
    driver: Driver[str] = Driver(Session(ConnectionType.SERVER, now=0.0), None, lambda: 0.0)
    missing: list[tuple[str, tuple[Any, ...]]] = [
        ("_write", (b"",)),
        ("_backlog", ()),
        ("_resume_reading", ()),
        ("_end_output", ()),
        ("_drop_transport", ()),
        ("_schedule", (0.0, 0.0)),
        ("_wake", ()),
        ("_opened", (None,)),
        ("_answered", ("", 0.0)),
        ("_unanswered", ("",)),
    ]
    for name, arguments in missing:
        with pytest.raises(NotImplementedError):
            getattr(driver, name)(*arguments)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_plain_request_is_answered_with_a_page(method: str) -> None:
    driver = Fake(config=SessionConfig(plain_requests=True))
    driver.hear(f"{method} /health HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert driver.request
    assert (driver.request.target, driver.method, driver.upgrade) == ("/health", method, False)
    assert not driver.answer(Respond(200, body=b"well"))
    head, _, body = driver.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 4" in head.lower()
    assert body == (b"well" if method == "GET" else b"")


def test_event_matches_the_type_of_message() -> None:
    class Text(str):
        __slots__ = ()

    prepared = PreparedMessage(TextMessage("x"))
    assert message_event("x") == TextMessage("x")
    assert message_event(Text("x")) == TextMessage("x")
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert message_event(data) == BytesMessage(data)  # type: ignore[arg-type]
    assert message_event(prepared) is prepared
    with pytest.raises(TypeError, match="a message must be str, bytes-like or prepared, not int"):
        message_event(5)  # type: ignore[arg-type]


def test_sender_waiting_for_its_own_message_is_refused() -> None:
    driver = Fake()
    driver._check_turn("me")
    driver._in_pieces = "me"
    driver._check_turn("another")
    with pytest.raises(RuntimeError, match="the iterator of a message sends on"):
        driver._check_turn("me")


def test_pieces_make_one_message() -> None:
    assert [is_pieces(["a"]), is_pieces(iter([b"a"]))] == [True, True]
    wholes: list[object] = ["a", b"a", bytearray(), memoryview(b""), {}, 5]
    for whole in [*wholes, PreparedMessage(TextMessage(""))]:
        assert not is_pieces(whole)
    text = piece_event("a", None)
    assert text == TextMessage("a", message_finished=False)
    assert piece_event(b"a", BytesMessage) == BytesMessage(b"a", message_finished=False)
    assert [last_piece(TextMessage), last_piece(BytesMessage)] == [
        TextMessage(""),
        BytesMessage(b""),
    ]
    with pytest.raises(TypeError, match="all text, or all bytes"):
        piece_event("a", BytesMessage)
    with pytest.raises(TypeError, match="a piece of a message must be str or bytes-like, not int"):
        piece_event(5, None)


def test_on_control_is_called_with_pings_and_pongs() -> None:
    seen: list[Ping | Pong] = []
    driver = opened()
    driver.on_control = seen.append
    driver.hear(frame(0x89, b"a") + frame(0x8A, b"b"))
    assert seen == [Ping(b"a"), Pong(b"b")]


# -- pieces of messages ----------------------------------------------------------------------------

#: A message, how many bytes its fragments have, and how it is handled.
RECEIVED = st.tuples(
    st.one_of(
        st.text(st.sampled_from("aé€🌍"), max_size=40),
        st.binary(max_size=80),
        st.just(bytes(3000)),
        st.just("ü" * 1500),
    ),
    st.lists(st.integers(0, 1000), max_size=6),
    st.sampled_from(["recv", "stream", "stream", "close", "drop"]),
)


DEFLATE = b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n\r\n"


def fragments(data: str | bytes, sizes: list[int], compressed: bool) -> bytes:
    """Return the frames of a message, with a Ping between any two."""
    rest = data.encode() if isinstance(data, str) else data
    if compressed:
        rest = deflated(rest)
    parts = []
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    parts.append(rest)
    opcode = (0x01 if isinstance(data, str) else 0x02) | (0x40 if compressed else 0)
    frames = [
        frame((opcode if number == 0 else 0) | (0x80 if number == len(parts) - 1 else 0), part)
        for number, part in enumerate(parts)
    ]
    return frame(0x89, b"?").join(frames)


@pytest.mark.parametrize("compressed", [False, True])
@given(
    messages=st.lists(RECEIVED, min_size=1, max_size=6),
    size=st.integers(1, 4000),
    whole=st.booleans(),
    eager=st.booleans(),
    lost_after=st.sampled_from([inf, inf, 0, 3, 20]),
    queue=st.sampled_from([(1, 100), (16, 1000), (16, 64 * 1024)]),
)
def test_joined_pieces_equal_the_message(
    messages: list[tuple[str | bytes, list[int], str]],
    size: int,
    whole: bool,
    eager: bool,
    lost_after: float,
    queue: tuple[int, int],
    compressed: bool,
) -> None:
    limits = Limits(
        max_queued_messages=queue[0],
        max_queued_bytes=queue[1],
        max_inflated_per_read=1000,
        max_control_rate=None,
    )
    driver = Fake(config=SessionConfig(limits=limits, whole_messages=whole))
    driver.hear(REQUEST.replace(b"\r\n\r\n", DEFLATE))
    driver.accept(AcceptConnection(extensions=[PerMessageDeflate()]))
    wire = bytearray()
    for data, sizes, _ in messages:
        wire += fragments(data, sizes, compressed)
    steps = 0

    def arrive() -> bool:
        """Simulate the transport; return False when nothing more will happen."""
        nonlocal steps
        steps += 1
        if driver._pieces is not None:
            # At most a full queue and one read, whatever the peer sends.
            most = 17 * 3000 if compressed else size
            assert driver._pieces.size <= queue[1] + most + 50 * 17
        if driver.closed is not None:
            return False
        if driver.session.has_work:
            driver.pass_time(0)
        elif driver._gone:
            raise AssertionError("it waits for ever, although the transport is gone")
        elif not wire or steps >= lost_after:
            del wire[:]
            driver._lose(False)
        elif driver._held_up:
            raise AssertionError("it waits for ever, although nothing is read any more")
        else:
            data = bytes(wire[:size])
            del wire[:size]
            driver.hear(data)
        return True

    for data, _, how in messages:
        if eager:
            # The peer is faster than the receiver.
            while not driver._held_up:
                if not arrive():
                    break
        if how == "recv":
            while (message := driver.receive()) is None:
                if not arrive():
                    assert lost_after != inf
                    return
            assert message == data
            assert type(message) is type(data)
            continue
        receiver = PieceReceiver()
        pieces: list[str | bytes] = []
        while True:
            piece = driver.receive_piece(receiver)
            if piece is not None:
                assert type(piece) is type(data)
                assert piece or not data
                pieces.append(piece)
                if how != "stream":
                    break
            if receiver.over:
                break
            if piece is None and not arrive():
                assert lost_after != inf
                return
        joined = "".join(pieces) if isinstance(data, str) else b"".join(pieces)  # type: ignore[arg-type]
        if how == "stream":
            assert joined == data
        else:
            assert data[: len(joined)] == joined
            if how == "close":
                receiver.close()
        del receiver


def test_iterator_starts_with_pieces_of_a_cancelled_recv() -> None:
    driver = opened(whole_messages=False)
    driver.hear(frame(0x01, b"a" * 600) + frame(0x00, b"b" * 600))
    assert driver.receive() is None
    receiver = PieceReceiver()
    assert driver.receive_piece(receiver) == "a" * 600 + "b" * 600
    assert driver.receive_piece(receiver) is None
    driver.hear(frame(0x80, b"c"))
    assert driver.receive_piece(receiver) == "c"
    assert receiver.over

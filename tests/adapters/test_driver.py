"""The part that the adapters have in common, on a transport and a clock that the test moves."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters._common import (
    BODY_KEPT,
    ConnectionClosedError,
    HandshakeRejected,
    adapted,
)
from wsproto_sip.adapters._driver import Driver
from wsproto_sip.config import SessionConfig
from wsproto_sip.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.keepalive import KeepaliveConfig
from wsproto_sip.lifecycle import Cause, ConnectionClosed
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

from .._sessions import REQUEST, frame

Ended = tuple[str, Exception | float | None]


class Fake(Driver[str]):
    """On a transport that takes what ``room`` allows, and a clock that stands still.

    Args:
        role: Which end this is.
        config: How the session behaves.
        request: A client's.
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
        """Takes what was written."""
        taken, self.written = self.written, b""
        return taken

    def hear(self, data: bytes | None) -> None:
        """Octets come, or the end of the input."""
        self._dispatch(self.session.receive(data, self.now))
        self._settle()

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, and every deadline in it."""
        end = self.now + seconds
        while self.due <= end:
            self.now = max(self.due, self.now)
            self._pass_deadline()
        self.now = end

    def receive(self) -> str | bytes | None:
        """What recv() does, without waiting."""
        if not self._messages:
            self._ask_for_message()
        return self._take() if self._messages else None

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
    """A server's end, open."""
    driver = Fake(config=SessionConfig(**options))
    driver.hear(REQUEST)
    assert driver.request
    driver.accept(AcceptConnection("sip"))
    assert driver.take().startswith(b"HTTP/1.1 101 ")
    return driver


def client() -> tuple[Fake, Session]:
    """A client's end whose request has arrived at a server."""
    request = Request(host="example.com", target="/chat", subprotocols=["sip"])
    driver = Fake(ConnectionType.CLIENT, request=request)
    server = Session(ConnectionType.SERVER, now=0.0)
    assert server.receive(driver.take(), 0.0)
    return driver, server


class TestMessages:
    def test_received(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, "grüße".encode()) + frame(0x82, b"\0"))
        assert driver.woken == 1
        assert [driver.receive(), driver.receive(), driver.receive()] == ["grüße", b"\0", None]
        assert driver.subprotocol == "sip"

    def test_sent(self) -> None:
        driver = opened()
        assert driver._give(TextMessage("hi"), driver.now)
        driver._settle()
        assert driver.take() == b"\x81\x02hi"

    def test_what_cannot_be_sent(self) -> None:
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

    def test_a_queue_is_bounded(self) -> None:
        """Parsing stops at a queue's worth, and goes on when all of it is received."""
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
    def test_nothing_is_lost_or_doubled(self, steps: list[tuple[str, bytes]]) -> None:
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
    def test_client(self) -> None:
        driver, server = client()
        server.send(AcceptConnection("sip"), 0.0)
        driver.hear(server.data_to_send())
        assert driver.outcomes == [None]
        assert driver.response
        assert driver.subprotocol == "sip"

    def test_client_is_rejected(self) -> None:
        driver, server = client()
        body = b"x" * (BODY_KEPT + 1)
        server.send(RejectConnection(status_code=403, has_body=True), 0.0)
        server.send(RejectData(body), 0.0)
        driver.hear(server.data_to_send())
        driver.hear(None)
        rejection = driver.outcomes[0]
        assert isinstance(rejection, HandshakeRejected)
        assert (rejection.status_code, rejection.body) == (403, body[:-1])

    def test_client_asks_for_what_cannot_be(self) -> None:
        request = Request(host="example.com", target="/", extra_headers=[(b"Host", b"x")])
        driver = Fake(ConnectionType.CLIENT, request=request)
        assert isinstance(driver.outcomes[0], LocalProtocolError)
        assert driver.calls == ["drop"]

    def test_server_rejects(self) -> None:
        driver = Fake()
        driver.hear(REQUEST)
        assert not driver.answer(HandshakeRejected(401, [(b"X", b"y")], b"who?"))
        assert driver.take().startswith(b"HTTP/1.1 401 ")
        assert driver.calls == ["end"]
        assert not driver.answer(HandshakeRejected(402))
        assert not driver.answer(AcceptConnection())
        assert driver.take() == b""

    def test_server_accepts_what_came_with_a_message(self) -> None:
        driver = Fake()
        driver.hear(REQUEST + frame(0x81, b"x"))
        assert driver.answer(AcceptConnection())
        assert driver.receive() == "x"

    def test_server_waits_in_vain(self) -> None:
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
    """Keep-alive and the other deadlines, by a clock that the test moves."""

    def test_peer_answers(self) -> None:
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

    def test_peer_is_gone(self) -> None:
        driver = opened()
        driver.pass_time(25)
        assert driver.take()[:2] == b"\x89\x08"
        driver.pass_time(19.9)
        assert driver.closed is None
        driver.pass_time(0.1)
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (1006, Cause.KEEPALIVE)
        assert driver.calls == ["drop"]

    def test_nobody_receives(self) -> None:
        """What is not read says nothing about the peer."""
        driver = opened()
        driver.pass_time(25)
        assert driver.take()
        driver.hear(frame(0x81, b"x") * 16)
        driver.pass_time(1000)
        assert driver.closed is None
        assert [driver.receive() for _ in range(17)] == ["x"] * 16 + [None]
        driver.pass_time(19)
        assert driver.closed is None
        driver.pass_time(1)
        assert driver.closed

    def test_transport_takes_nothing(self) -> None:
        driver = opened()
        driver.room = 3
        driver._give(TextMessage("x" * 100), driver.now)
        driver._settle()
        driver.pass_time(19)
        # It takes some.
        driver.room = 1
        driver._write(b"")
        driver._pass_deadline()
        driver.pass_time(19)
        assert driver.closed is None
        driver.pass_time(1)
        assert driver.closed
        assert driver.closed.cause is Cause.SEND_TIMEOUT

    def test_all_is_taken_in_the_end(self) -> None:
        driver = opened(keepalive=KeepaliveConfig(interval=3600.0))
        driver.room = 0
        driver._give(TextMessage("x"), driver.now)
        driver._settle()
        driver.room = inf
        driver._write(b"")
        driver._settle()
        driver.pass_time(60)
        assert driver.closed is None

    def test_more_than_one_call_parses(self) -> None:
        """What is left over is due at once."""
        driver = opened()
        driver.hear(frame(0x81, b"x") * 40)
        got = 0
        while driver.receive() is not None:
            got += 1
            driver.pass_time(0)
        assert got == 40


class TestPings:
    def test_answers(self) -> None:
        driver = opened()
        payloads = [driver._ping(None, "first"), driver._ping(b"2", "second")]
        assert payloads[0]
        assert len(payloads[0]) == 8
        with pytest.raises(ValueError, match="waits"):
            driver._ping(b"2", "again")
        with pytest.raises(LocalProtocolError):
            driver._ping(bytes(126), "long")
        driver.hear(frame(0x8A, b"nobody's"))
        assert driver.pongs == []
        driver.now += 1
        driver.hear(frame(0x8A, b"2"))
        assert driver.pongs == [("first", 101.0), ("second", 101.0)]

    def test_given_up(self) -> None:
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
    def test_answers_go_out_before_the_close_frame(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x81, b"b") + frame(0x88, b"\x03\xe8"))
        for _ in range(2):
            assert driver.receive()
            driver._give(TextMessage("ok"), driver.now)
            driver._settle()
        assert driver.take() == b""
        assert driver.receive() is None
        assert driver.take() == b"\x81\x02ok\x81\x02ok\x88\x02\x03\xe8"
        assert driver.calls == ["end"]

    def test_nobody_asks(self) -> None:
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x88, b"\x03\xe8"))
        driver.pass_time(0.9)
        assert driver.take() == b""
        driver.pass_time(0.1)
        assert driver.take() == b"\x88\x02\x03\xe8"

    def test_nothing_to_answer(self) -> None:
        driver = opened()
        driver.hear(frame(0x88, b"\x03\xe8"))
        assert driver.take() == b"\x88\x02\x03\xe8"

    def test_much_to_answer(self) -> None:
        """The close frame is not put off for more than the high-water mark."""
        driver = opened()
        driver.hear(frame(0x81, b"a") + frame(0x88, b"\x03\xe8"))
        driver._give(TextMessage("x" * 65536), driver.now)
        driver._settle()
        assert driver.take().endswith(b"\x88\x02\x03\xe8")

    def test_messages_are_dropped(self) -> None:
        """The peer's close frame stands behind more than anybody receives."""
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

    def test_read_to_the_end(self) -> None:
        """Behind the last frame reading is not held up by what nobody receives."""
        driver = opened()
        for number in range(17):
            driver.hear(frame(0x81, b"%d" % number))
        driver._reading = False
        assert driver._held_up
        driver.hear(b"\x83\x80\0\0\0\0")
        assert driver.calls == []
        assert [driver.receive() for _ in range(17)] == [*map(str, range(17))]
        assert driver.calls == ["read", "end"]
        assert not driver._held_up

    def test_transport_is_lost(self) -> None:
        driver = opened()
        for number in range(18):
            driver.hear(frame(0x81, b"%d" % number))
        driver._ping(b"1", "first")
        driver._lose(False)
        assert driver.closed is None
        [(_, error)] = driver.pongs
        assert str(error) == "connection closed with 1006 (end of input): the transport has ended"
        assert not driver._give(TextMessage("x"), driver.now)
        assert [driver.receive() for _ in range(19)] == [*map(str, range(18)), None]
        assert driver.closed

    def test_tls_fails(self) -> None:
        driver = opened()
        driver._lose(True)
        assert driver.closed
        assert (driver.closed.code, driver.closed.cause) == (1015, Cause.TLS)


def test_an_adapter_has_to_add_the_transport() -> None:
    """What is missing is told by name."""
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

"""How sessions end, and how that is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests._sessions import (
    CLOSE,
    NORMAL,
    REQUEST,
    frame,
    server,
)
from wsproto_sip.events import (
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
)
from wsproto_sip.limits import Limits
from wsproto_sip.session.ending import Ending
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed, TransportAction
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType

BYE = CloseConnection(1000, "bye")
GONE = CloseConnection(1001, "going")


class TestEnding:
    def test_peers_close_frame_is_what_is_reported(self) -> None:
        ending = Ending(Cause.LOCAL, "why")
        ending.sent = GONE
        ending.received = BYE
        assert not ending.reported
        assert ending.report() == ConnectionClosed(1000, "bye", Cause.LOCAL, BYE, GONE)
        assert ending.reported

    def test_code_is_1006_without_a_close_frame(self) -> None:
        ending = Ending(Cause.KEEPALIVE, "keep-alive timed out")
        assert ending.report() == ConnectionClosed(1006, "keep-alive timed out", Cause.KEEPALIVE)

    def test_tls_failure_has_code_1015(self) -> None:
        assert Ending(Cause.TLS).report() == ConnectionClosed(1015, "", Cause.TLS)


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


class Way(NamedTuple):
    """One way to end, and its expected report."""

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
    """Return a session with something to send."""
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
    "the peer closes": Way(
        opened,
        lambda session: session.receive(NORMAL, 0.0),
        ConnectionClosed(1000, "bye", Cause.REMOTE, BYE, BYE),
        DONE,
    ),
    "the peer closes without a code": Way(
        opened,
        lambda session: session.receive(frame(CLOSE), 0.0),
        ConnectionClosed(
            1005, "", Cause.REMOTE, CloseConnection(1005, ""), CloseConnection(1005, "")
        ),
        DONE,
    ),
    "we close": Way(
        opened,
        lambda session: close(session) + session.receive(NORMAL, 1.0),
        ConnectionClosed(1000, "bye", Cause.LOCAL, BYE, GONE),
        DONE,
    ),
    "we close and the transport ends": Way(
        opened,
        lambda session: close(session, Cause.ADMINISTRATOR),
        ConnectionClosed(1006, "", Cause.ADMINISTRATOR, None, GONE),
        DONE,
    ),
    "we close and nothing comes": Way(
        opened,
        lambda session: close(session, Cause.SHUTDOWN) + session.handle_timeout(5.0),
        ConnectionClosed(1006, "the close frame was not answered", Cause.CLOSE_TIMEOUT, None, GONE),
        ABORT,
    ),
    "the transport ends": Way(
        opened, nothing, ConnectionClosed(1006, "", Cause.END_OF_INPUT), DONE
    ),
    "the peer breaks the protocol": Way(
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
    "a message is too long": Way(
        opened,
        lambda session: session.receive(b"\x82\xff" + bytes(5) + b"\x10\x00\x01", 0.0),
        ConnectionClosed(
            1006,
            "message of more than 1048576 bytes",
            Cause.LIMIT,
            None,
            CloseConnection(1009, "message of more than 1048576 bytes"),
        ),
        DONE,
    ),
    "too much output": Way(
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
    "the peer is gone": Way(
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
    "the peer is idle": Way(
        lambda: server(idle_timeout=1.0),
        lambda session: session.handle_timeout(1.0),
        ConnectionClosed(1006, "", Cause.IDLE, None, CloseConnection(1001, "idle for too long")),
        DONE,
    ),
    "it is old": Way(
        lambda: server(max_age=1.0),
        lambda session: session.handle_timeout(1.0),
        ConnectionClosed(1006, "", Cause.AGE, None, CloseConnection(1001, "maximum age reached")),
        DONE,
    ),
    "the transport is stuck": Way(
        opened,
        lambda session: stick(session) + session.handle_timeout(20.0),
        ConnectionClosed(1006, "the transport accepted no bytes for too long", Cause.SEND_TIMEOUT),
        ABORT,
    ),
    "no handshake": Way(
        connecting,
        lambda session: session.handle_timeout(10.0) + session.handle_timeout(15.0),
        ConnectionClosed(1006, "the opening handshake took too long", Cause.OPEN_TIMEOUT),
        ABORT,
    ),
    "a bad handshake": Way(
        connecting,
        lambda session: session.receive(b"\x00", 0.0),
        ConnectionClosed(1006, "not HTTP: b'\\x00'", Cause.PROTOCOL_ERROR),
        DONE,
    ),
    "half a handshake": Way(
        connecting,
        lambda session: session.receive(b"GET", 0.0),
        ConnectionClosed(
            1006, "the client went away before the handshake was over", Cause.END_OF_INPUT
        ),
        DONE,
    ),
    "a refused handshake": Way(
        rejecting, nothing, ConnectionClosed(1006, "", Cause.REJECTION), DONE
    ),
    "closed before the handshake was answered": Way(
        requesting,
        refuse,
        ConnectionClosed(1006, "full", Cause.SHUTDOWN),
        DONE,
    ),
    "TLS failed": Way(
        connecting,
        lambda session: session.tls_failed(now=0.0),
        ConnectionClosed(1015, "", Cause.TLS),
        ABORT,
    ),
    "aborted": Way(
        opened,
        lambda session: session.abort(now=0.0, cause=Cause.SHUTDOWN),
        ConnectionClosed(1006, "", Cause.SHUTDOWN),
        ABORT,
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_ending_is_reported_once(name: str) -> None:
    ending = ENDINGS[name]
    session = ending.make()
    told = ending.act(session) + session.receive(None, session._now)
    assert [event for event in told if isinstance(event, ConnectionClosed)] == [ending.closed]
    assert told[-1] == ending.closed
    assert session.transport_action is ending.action
    # Nothing follows.
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

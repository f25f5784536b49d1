from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth import Credentials, Proven
from wsproto_sip.msrp.authentication import DigestServer
from wsproto_sip.msrp.client.events import (
    Authenticated,
    AuthenticationFailed,
    MessageAborted,
    MessageDelivered,
    MessageFailed,
    MessageReceived,
    MessageSent,
    MsrpEvent,
    ReceiveProgress,
    SendProgress,
)
from wsproto_sip.msrp.client.session import MsrpSession, MsrpSessionState
from wsproto_sip.msrp.message.chunk import (
    Continuation,
    MsrpChunk,
    MsrpRequest,
    MsrpResponse,
    parse_chunk,
)
from wsproto_sip.msrp.message.fields import ByteRange
from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.msrp.message.uri import MsrpPath, MsrpUri, format_path, parse_path
from wsproto_sip.utilities import LocalProtocolError

RELAY = MsrpUri.parse(b"msrps://relay.example:2855;ws")
MINE = MsrpUri.parse(b"msrps://relay.example:2855/mine;tcp")
REMOTE = parse_path(b"msrps://relay.example:2855/theirs;tcp msrps://bob.invalid:2855/b;ws")
COMPLETE, MORE, ABORT = Continuation.COMPLETE, Continuation.MORE, Continuation.ABORT


@dataclass
class Peer:
    """A session, with hand-written messages of the relay and the other side."""

    options: dict[str, Any] = field(default_factory=dict)
    now: float = 0.0
    serial: int = 0

    def __post_init__(self) -> None:
        self.session = MsrpSession(RELAY, "alice", "secret", **self.options)
        self.server = DigestServer("relay", {"alice": "secret"})

    def out(self) -> list[MsrpChunk]:
        return [parse_chunk(data) for data in self.session.data_to_send(self.now)]

    def one(self) -> MsrpRequest:
        (chunk,) = self.out()
        assert isinstance(chunk, MsrpRequest)
        return chunk

    def give(self, chunk: MsrpChunk) -> list[MsrpEvent]:
        return self.session.receive(chunk.to_bytes(), self.now)

    def challenged(self, *, stale: bool = False) -> MsrpRequest:
        """Answer the outstanding AUTH with a challenge, and return the next one."""
        challenge = str(self.server.challenges(self.now, stale=stale)[0]).encode()
        events = self.give(self.one().response(401, None, [(b"WWW-Authenticate", challenge)]))
        assert events == []
        return self.one()

    def accept(
        self,
        request: MsrpRequest,
        *,
        expires: bytes | None = b"100",
        path: bytes = MINE.raw,
        info: bytes | None = None,
    ) -> list[MsrpEvent]:
        headers = [(b"Use-Path", path)]
        if expires is not None:
            headers.append((b"Expires", expires))
        if info is not None:
            headers.append((b"Authentication-Info", info))
        return self.give(request.response(200, None, headers))

    def ready(self) -> Peer:
        self.session.authenticate(self.now)
        assert len(self.accept(self.one())) == 1
        self.session.connect(REMOTE)
        return self

    def incoming(
        self,
        body: bytes | None,
        *,
        to_path: MsrpPath | None = None,
        from_path: MsrpPath | None = None,
        message_id: bytes | None = b"their1",
        where: bytes | None = None,
        flag: Continuation = COMPLETE,
        method: bytes = b"SEND",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        content_type: bytes = b"text/plain",
    ) -> MsrpRequest:
        self.serial += 1
        lines = [] if message_id is None else [(b"Message-ID", message_id)]
        if where is not None:
            lines.append((b"Byte-Range", where))
        lines += headers
        if body is not None:
            lines.append((b"Content-Type", content_type))
        return MsrpRequest(
            b"their%d" % self.serial,
            method,
            (self.session.local,) if to_path is None else to_path,
            (MINE, *REMOTE) if from_path is None else from_path,
            lines,
            body,
            flag,
        )

    def status(self, request: MsrpRequest, events: list[MsrpEvent] | None = None) -> int | None:
        """Pass in a request; return the status of the answer, if any."""
        found = self.give(request)
        if events is not None:
            assert found == events
        out = self.out()
        if not out:
            return None
        assert isinstance(out[0], MsrpResponse)
        assert out[0].transaction_id == request.transaction_id
        assert out[0].to_path == request.from_path[:1]
        return out[0].code

    def report(
        self, message_id: bytes, status: bytes | None, where: bytes | None = None, **more: Any
    ) -> list[MsrpEvent]:
        headers = () if status is None else ((b"Status", status),)
        return self.give(
            self.incoming(
                None, method=b"REPORT", message_id=message_id, where=where, headers=headers, **more
            )
        )


# -- authentication --------------------------------------------------------------------------------


def test_authentication() -> None:
    peer = Peer({"expires": 100})
    session = peer.session
    assert session.state is MsrpSessionState.NEW
    session.authenticate(0.0)
    assert session.state.value == "authenticating"
    with pytest.raises(LocalProtocolError, match="an AUTH is still waiting"):
        session.authenticate(0.0)
    request = peer.challenged()
    assert request.method == b"AUTH"
    assert (request.to_path, request.from_path) == ((RELAY,), (session.local,))
    assert request.header(b"Expires") == b"100"
    verdict = peer.server.check(request.header(b"Authorization") or b"", RELAY, 0.0)
    assert isinstance(verdict, Proven)
    events = peer.accept(request, info=verdict.info.encode())
    assert events == [Authenticated((MINE, session.local), 100)]
    assert session.path == (MINE, session.local)
    assert session.state.value == "ready"
    assert session.local.host.endswith(".invalid")
    assert session.local.transport == "ws"
    assert session.next_deadline() == 75.0


def test_session_without_a_challenge() -> None:
    peer = Peer({"prolong": False})
    peer.session.authenticate(0.0)
    assert peer.accept(peer.one()) == [Authenticated((MINE, peer.session.local), 100)]
    assert peer.session.next_deadline() is None


def test_session_without_a_lifetime_is_not_extended() -> None:
    peer = Peer()
    peer.session.authenticate(0.0)
    assert peer.accept(peer.one(), expires=None) == [Authenticated((MINE, peer.session.local), 0)]
    assert peer.session.next_deadline() is None


def test_prolonging_uses_the_nonce_again() -> None:
    peer = Peer()
    peer.session.authenticate(0.0)
    peer.accept(peer.challenged())
    peer.now = 74.0
    assert peer.session.handle_timeout(peer.now) == []
    assert peer.out() == []
    peer.now = 75.0
    assert peer.session.handle_timeout(peer.now) == []
    request = peer.one()
    credentials = Credentials.parse((request.header(b"Authorization") or b"").decode())
    assert credentials is not None
    assert credentials.nc == "00000002"
    assert peer.session.state.value == "ready"
    assert len(peer.accept(request)) == 1
    assert peer.session.next_deadline() == 150.0


def test_prolonging_waits_for_the_current_auth() -> None:
    peer = Peer()
    peer.session.authenticate(0.0)
    peer.accept(peer.one())
    peer.session.authenticate(74.0)
    peer.one()
    assert peer.session.handle_timeout(75.0) == []
    assert peer.out() == []


def failure(events: list[MsrpEvent]) -> tuple[int, str]:
    (event,) = events
    assert isinstance(event, AuthenticationFailed)
    return event.status, event.reason


def test_wrong_password() -> None:
    peer = Peer()
    peer.session.authenticate(0.0)
    request = peer.challenged()
    again = str(peer.server.challenges(0.0)[0]).encode()
    events = peer.give(request.response(401, None, [(b"WWW-Authenticate", again)]))
    assert failure(events) == (401, "the credentials were refused")
    assert peer.session.state.value == "new"
    assert peer.out() == []


def test_relay_that_does_not_answer() -> None:
    peer = Peer({"timeout": 5.0})
    peer.session.authenticate(0.0)
    request = peer.one()
    assert peer.session.next_deadline() == 5.0
    assert peer.session.handle_timeout(4.9) == []
    assert failure(peer.session.handle_timeout(5.0)) == (408, "the relay does not answer")
    assert peer.accept(request) == []
    assert peer.session.state.value == "new"


def test_failure_to_prolong_leaves_the_session() -> None:
    peer = Peer().ready()
    peer.session.authenticate(10.0)
    assert failure(peer.give(peer.one().response(403))) == (403, "Action-not-allowed")
    assert peer.session.state.value == "ready"


def test_answer_without_a_session_fails() -> None:
    peer = Peer({"require_proof": True})
    peer.session.authenticate(0.0)
    reason = "the relay does not prove knowledge of the password"
    assert failure(peer.accept(peer.one())) == (200, reason)
    assert peer.session.state.value == "new"


def test_content_types() -> None:
    peer = Peer().ready()
    with pytest.raises(LocalProtocolError, match="malformed header field"):
        peer.session.send(b"x", b"text/plain\r\nX: y")
    assert peer.out() == []


def test_user_names() -> None:
    with pytest.raises(ValueError, match="not a valid user name"):
        MsrpSession(RELAY, "a\r\nb", "secret")


# -- sending ---------------------------------------------------------------------------------------


def test_sending_without_a_path_is_refused() -> None:
    session = Peer().session
    with pytest.raises(LocalProtocolError, match="needs a session"):
        session.send(b"x")
    with pytest.raises(LocalProtocolError, match="is empty"):
        session.connect(())
    peer = Peer()
    peer.session.authenticate(0.0)
    peer.accept(peer.one())
    with pytest.raises(LocalProtocolError, match="needs a session"):
        peer.session.send(b"x")


def test_text() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"hello")
    request = peer.one()
    assert request == MsrpRequest(
        request.transaction_id,
        b"SEND",
        (MINE, *REMOTE),
        (peer.session.local,),
        [
            (b"Message-ID", message_id),
            (b"Byte-Range", b"1-5/5"),
            (b"Content-Type", b"text/plain"),
        ],
        b"hello",
    )
    assert peer.session.next_deadline() == 30.0
    assert peer.give(request.response(200)) == [
        SendProgress(message_id, 5, 5),
        MessageSent(message_id),
    ]
    assert peer.give(request.response(200)) == []
    assert peer.session.next_deadline() == 75.0


def test_empty_message() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"", success_report=True)
    request = peer.one()
    assert request.body == b""
    assert peer.give(request.response(200))[-1] == MessageSent(message_id)
    assert peer.report(message_id, b"000 200 OK", b"1-0/0") == [MessageDelivered(message_id)]


def bodies(chunks: list[MsrpChunk]) -> list[bytes | None]:
    assert all(isinstance(chunk, MsrpRequest) for chunk in chunks)
    return [chunk.body for chunk in chunks if isinstance(chunk, MsrpRequest)]


def test_messages_take_turns() -> None:
    peer = Peer({"chunk_size": 2}).ready()
    peer.session.send(b"aabbcc")
    peer.session.send(b"1122")
    peer.session.send(b"x")
    chunks = peer.out()
    assert bodies(chunks) == [b"aa", b"11", b"x", b"bb", b"22", b"cc"]
    flags = [chunk.continuation for chunk in chunks]
    assert flags == [MORE, MORE, COMPLETE, MORE, COMPLETE, COMPLETE]


def test_window() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=2)}).ready()
    message_id = peer.session.send(b"abcde")
    first = peer.out()
    assert bodies(first) == [b"a", b"b"]
    assert peer.out() == []
    assert isinstance(first[0], MsrpRequest)
    assert peer.give(first[0].response(200)) == [SendProgress(message_id, 1, 5)]
    assert bodies(peer.out()) == [b"c"]


def test_chunks_without_failure_reports_need_no_answer() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=2)}).ready()
    peer.session.send(b"abc", failure_report=False)
    first = peer.out()
    assert bodies(first) == [b"a", b"b"]
    assert all(chunk.header(b"Failure-Report") == b"no" for chunk in first)
    assert bodies(peer.out()) == [b"c"]
    assert peer.out() == []
    assert peer.session.next_deadline() == 75.0


def test_success_reports() -> None:
    peer = Peer({"chunk_size": 3}).ready()
    message_id = peer.session.send(b"abcdef", success_report=True)
    chunks = peer.out()
    assert all(chunk.header(b"Success-Report") == b"yes" for chunk in chunks)
    ok = b"000 200 OK"
    assert peer.report(message_id, ok, b"1-1/6") == []
    assert peer.report(message_id, ok, b"5-6/6") == []
    assert peer.report(message_id, ok, b"1-3/6") == []
    assert peer.report(b"other", ok, b"1-6/6") == []
    assert peer.report(message_id, None, b"1-6/6") == []
    assert peer.report(message_id, ok, b"1-6/6", to_path=(MINE,)) == []
    assert peer.report(message_id, b"001 200 OK", b"1-6/6") == []
    assert peer.report(message_id, ok, b"3-4/6") == [MessageDelivered(message_id)]
    assert peer.report(message_id, ok, b"1-6/6") == []


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 45), st.integers(0, 20)), max_size=30),
)
def test_success_reports_in_any_order(size: int, ranges: list[tuple[int, int]]) -> None:
    peer = Peer().ready()
    message_id = peer.session.send(bytes(size), success_report=True)
    peer.out()
    confirmed: set[int] = set()
    for start, length in ranges:
        confirmed |= set(range(start, start + length))
        told = peer.report(message_id, b"000 200 OK", b"%d-%d/*" % (start, start + length - 1))
        if confirmed >= set(range(1, size + 1)):
            assert told == [MessageDelivered(message_id)]
            return
        assert told == []


def test_invented_reports_cost_little() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(bytes(2000), success_report=True)
    peer.out()
    for start in range(1999, 0, -2):
        assert peer.report(message_id, b"000 200 OK", b"%d-%d/*" % (start, start)) == []
    message = peer.session._messages[message_id]
    assert len(message.confirmed) == 256
    assert message.confirmed[0] == (1, 1)


@pytest.mark.parametrize("where", [None, b"1-*/*", b"1-9/9"])
def test_report_about_the_whole_message(where: bytes | None) -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"abcdef", success_report=True)
    peer.out()
    assert peer.report(message_id, b"000 200 OK", where) == [MessageDelivered(message_id)]


def test_report_before_sending_is_ignored() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=1)}).ready()
    message_id = peer.session.send(b"ab", success_report=True)
    peer.out()
    assert peer.report(message_id, b"000 200 OK", b"1-2/2") == []


def test_refused_chunk_ends_its_message() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=2)}).ready()
    message_id = peer.session.send(b"abcde")
    first, second = peer.out()
    assert isinstance(first, MsrpRequest)
    assert isinstance(second, MsrpRequest)
    assert peer.give(first.response(413)) == [
        MessageFailed(message_id, 413, b"Stop-sending-message")
    ]
    last = peer.one()
    assert (last.message_id, last.continuation, last.body) == (message_id, ABORT, b"")
    assert last.byte_range == ByteRange(3, 2, 5)
    assert peer.give(second.response(413, b"")) == []
    assert peer.give(last.response(200)) == []
    assert peer.out() == []


def test_failure_further_on() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"hello")
    peer.give(peer.one().response(200))
    assert peer.report(message_id, b"000 408 late") == [MessageFailed(message_id, 408, b"late")]
    assert peer.report(message_id, b"000 408 late") == []
    assert peer.out() == []


def test_missing_answer_fails_the_message() -> None:
    peer = Peer({"chunk_size": 1, "prolong": False}).ready()
    message_id = peer.session.send(b"ab")
    peer.out()
    assert peer.session.handle_timeout(29.9) == []
    assert peer.session.handle_timeout(30.0) == [MessageFailed(message_id, 408)]
    assert peer.session.next_deadline() is None


def test_timeouts_come_in_order() -> None:
    peer = Peer({"prolong": False}).ready()
    one = peer.session.send(b"a")
    peer.out()
    peer.now = 10.0
    two = peer.session.send(b"b")
    peer.out()
    assert peer.session.handle_timeout(35.0) == [MessageFailed(one, 408)]
    assert peer.session.handle_timeout(40.0) == [MessageFailed(two, 408)]


def test_abort() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=1)}).ready()
    begun, waiting = peer.session.send(b"abc"), peer.session.send(b"xyz")
    request = peer.one()
    assert request.message_id == begun
    peer.session.abort(begun)
    peer.session.abort(begun)
    peer.session.abort(waiting)
    peer.session.abort(b"unknown")
    assert peer.one().continuation is ABORT
    assert peer.give(request.response(200)) == []
    assert peer.out() == []


def test_sent_message_cannot_be_aborted() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"abc")
    request = peer.one()
    peer.session.abort(message_id)
    assert peer.out() == []
    assert peer.give(request.response(200))[-1] == MessageSent(message_id)


def test_number_of_messages_is_limited() -> None:
    limits = MsrpLimits(max_messages=2, max_transactions_per_connection=2)
    peer = Peer({"limits": limits}).ready()
    first = peer.session.send(b"a", success_report=True)
    peer.session.send(b"b")
    with pytest.raises(LocalProtocolError, match="2 messages are being sent"):
        peer.session.send(b"c")
    peer.out()
    peer.session.send(b"c")
    assert peer.report(first, b"000 200 OK", b"1-1/1") == []


def test_end_of_the_connection() -> None:
    peer = Peer({"chunk_size": 1, "limits": MsrpLimits(max_outstanding_chunks=2)}).ready()
    done = peer.session.send(b"a")
    peer.give(peer.one().response(200))
    sent, begun = peer.session.send(b"a"), peer.session.send(b"bc")
    assert len(peer.out()) == 2
    queued = peer.session.send(b"d")
    peer.session.authenticate(0.0)
    assert peer.session.connection_closed() == [
        MessageFailed(begun, 481, b"connection lost"),
        MessageFailed(queued, 481, b"connection lost"),
        MessageFailed(sent, 481, b"connection lost"),
    ]
    assert done not in peer.session._messages
    assert peer.out() == []
    assert peer.session.next_deadline() is None
    assert peer.session.connection_closed() == []
    with pytest.raises(LocalProtocolError, match="needs a session"):
        peer.session.send(b"x")
    with pytest.raises(LocalProtocolError, match="the connection is gone"):
        peer.session.authenticate(0.0)


# -- receiving -------------------------------------------------------------------------------------


def test_text_is_received() -> None:
    peer = Peer().ready()
    assert (
        peer.status(peer.incoming(b"hello"), [MessageReceived(b"their1", b"text/plain", b"hello")])
        == 200
    )


def test_message_in_chunks_with_a_report() -> None:
    peer = Peer().ready()
    wanted = ((b"Success-Report", b"yes"),)
    first = peer.incoming(b"abc", where=b"1-3/5", flag=MORE, headers=wanted)
    assert peer.status(first, [ReceiveProgress(b"their1", 3, 5)]) == 200
    second = peer.incoming(b"de", where=b"4-5/5", headers=wanted)
    assert peer.give(second) == [MessageReceived(b"their1", b"text/plain", b"abcde")]
    response, report = peer.out()
    assert response == second.response(200)
    assert isinstance(report, MsrpRequest)
    assert report == MsrpRequest(
        report.transaction_id,
        b"REPORT",
        second.from_path,
        (peer.session.local,),
        [
            (b"Message-ID", b"their1"),
            (b"Byte-Range", b"1-5/5"),
            (b"Status", b"000 200 OK"),
        ],
    )


def test_empty_message_is_confirmed() -> None:
    peer = Peer().ready()
    peer.give(peer.incoming(b"", where=b"1-0/0", headers=((b"Success-Report", b"yes"),)))
    assert peer.out()[1].byte_range == ByteRange(1, 0, 0)


@pytest.mark.parametrize("body", [None, b"", b"xy"])
def test_sender_gives_up(body: bytes | None) -> None:
    peer = Peer({"accept": {b"text/plain"}}).ready()
    peer.status(peer.incoming(b"abc", where=b"1-3/5", flag=MORE))
    last = peer.incoming(body, where=b"4-*/5", flag=ABORT)
    assert peer.status(last, [MessageAborted(b"their1")]) == 200


def test_refusals() -> None:
    peer = Peer({"accept": {b"text/plain"}, "limits": MsrpLimits(max_message_size=4)}).ready()
    cases = [
        (peer.incoming(b"x", to_path=(MINE, peer.session.local)), 481),
        (peer.incoming(b"x", to_path=(MINE,)), 481),
        (peer.incoming(b"x", from_path=(MINE,)), 506),
        (peer.incoming(b"x", from_path=REMOTE), 506),
        (peer.incoming(b"x", message_id=None), 400),
        (peer.incoming(b"x", content_type=b"image/png"), 415),
        (peer.incoming(b"xxxxx"), 413),
        (peer.incoming(b"x", where=b"1-2/2"), 400),
        (peer.incoming(b"x", content_type=b"TEXT/plain \t; charset=utf-8"), 200),
        (peer.incoming(None), 200),
    ]
    for request, status in cases:
        assert peer.status(request) == status
        partial = replace(request, headers=[(b"Failure-Report", b"partial"), *request.headers])
        assert peer.status(partial) == (None if status == 200 else status)
        quiet = replace(request, headers=[(b"Failure-Report", b"no"), *request.headers])
        assert peer.status(quiet) is None


def test_chunks_before_the_path_is_known_are_refused() -> None:
    peer = Peer()
    peer.session.authenticate(0.0)
    peer.accept(peer.one())
    assert peer.status(peer.incoming(b"x"), []) == 481


def test_rejecting_a_message() -> None:
    peer = Peer({"limits": MsrpLimits(max_messages=2)}).ready()
    assert peer.status(peer.incoming(b"abc", where=b"1-3/9", flag=MORE)) == 200
    peer.session.reject(b"their1")
    for flag in (MORE, ABORT):
        assert peer.status(peer.incoming(b"def", where=b"4-6/9", flag=flag), []) == 413
    # Afterwards the id belongs to an ordinary message.
    assert peer.status(peer.incoming(b"abc")) == 200
    for message_id in (b"their1", b"their2", b"their3"):
        peer.session.reject(message_id)
    assert peer.status(peer.incoming(b"abc")) == 200


def test_other_requests() -> None:
    peer = Peer().ready()
    request = peer.incoming(None, method=b"AUTH", message_id=None)
    assert peer.give(request) == []
    assert peer.out() == [request.response(501)]
    assert peer.report(b"their1", b"000 200 OK") == []
    assert peer.out() == []


def test_unknown_responses_are_ignored() -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"x")
    request = peer.one()
    assert peer.give(replace(request.response(413), to_path=(MINE,))) == []
    assert peer.give(request.response(200))[-1] == MessageSent(message_id)


def test_malformed_chunks() -> None:
    peer = Peer().ready()
    assert peer.session.receive(b"noise", 0.0) == []
    assert peer.out() == []
    broken = peer.incoming(b"x").to_bytes() + b"x"
    assert peer.session.receive(broken, 0.0) == []
    (answer,) = peer.out()
    assert isinstance(answer, MsrpResponse)
    assert answer.code == 400


@given(st.binary(max_size=300), st.integers(1, 50))
def test_sent_messages_are_received(body: bytes, size: int) -> None:
    peer = Peer({"chunk_size": size}).ready()
    message_id = peer.session.send(body, b"application/octet-stream")
    found: list[MsrpEvent] = []
    receiver = Peer().ready()
    while chunks := peer.out():
        for chunk in chunks:
            assert isinstance(chunk, MsrpRequest)
            assert format_path(chunk.from_path) == peer.session.local.raw
            peer.give(chunk.response(200))
            found += receiver.give(
                replace(chunk, to_path=(receiver.session.local,), from_path=(MINE, *REMOTE))
            )
    assert found[-1] == MessageReceived(message_id, b"application/octet-stream", body)
    assert all(isinstance(event, ReceiveProgress) for event in found[:-1])


@given(st.data())
def test_no_input_raises(data: st.DataObject) -> None:
    peer = Peer().ready()
    message_id = peer.session.send(b"hello", success_report=True)
    request = peer.one()
    peer.session.authenticate(0.0)
    auth = peer.one()
    challenge = [(b"WWW-Authenticate", b'Digest realm="r", nonce="n", qop="auth"')]
    report = peer.incoming(
        None,
        method=b"REPORT",
        message_id=message_id,
        where=b"1-5/5",
        headers=((b"Status", b"000 200 OK"),),
    )
    chunks = [
        request.response(200).to_bytes(),
        auth.response(401, None, challenge).to_bytes(),
        auth.response(423, None, [(b"Min-Expires", b"60")]).to_bytes(),
        auth.response(200, None, [(b"Use-Path", MINE.raw)]).to_bytes(),
        report.to_bytes(),
        peer.incoming(b"abc", where=b"1-3/9", flag=MORE).to_bytes(),
    ]
    for _ in range(6):
        encoded = bytearray(data.draw(st.sampled_from(chunks)))
        for _ in range(data.draw(st.integers(0, 2))):
            where = data.draw(st.integers(0, len(encoded) - 1))
            encoded[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        peer.session.receive(bytes(encoded), 0.0)
        for chunk in peer.session.data_to_send(0.0):
            parse_chunk(chunk)

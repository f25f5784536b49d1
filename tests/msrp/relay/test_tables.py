from __future__ import annotations

import re

from wsproto_sip.msrp.message.chunk import MsrpRequest
from wsproto_sip.msrp.message.fields import FailureReport
from wsproto_sip.msrp.message.uri import MsrpUri, parse_path
from wsproto_sip.msrp.relay.tables import Peer, RelayConnection, SessionTable, Transaction
from wsproto_sip.server.shares import Claim, Party, ShareConfig, Shares

PATH = parse_path(b"msrp://alice.invalid:1/a;ws")
KEY = (PATH, "alice")


def table() -> SessionTable:
    return SessionTable("relay", 2855, secure=True)


def test_sessions_cannot_be_guessed() -> None:
    sessions, connection = table(), RelayConnection(id=1)
    uris = set()
    for number in range(50):
        session = sessions.issue((PATH, str(number)), connection, 10.0)
        # 22 characters of 6 bits each, that is 128 random bits.
        assert re.fullmatch(rb"msrps://relay:2855/[A-Za-z0-9_-]{22};tcp", session.uri.raw)
        uris.add(session.uri)
    assert len(uris) == len(sessions) == 50


def test_sessions_are_found_until_they_expire() -> None:
    sessions, connection = table(), RelayConnection(id=1)
    session = sessions.issue(KEY, connection, 10.0)
    assert session.path == PATH
    assert connection.sessions == {KEY: session}
    assert connection.proven == {"alice"}
    assert sessions.find(session.uri, 9.9) is session
    assert sessions.find(session.uri, 10.0) is None
    assert sessions.find(MsrpUri.parse(b"msrps://relay:2855/x;tcp"), 0.0) is None


def test_pages_of_sessions() -> None:
    sessions, connection = table(), RelayConnection()
    issued = [sessions.issue((PATH, str(number)), connection, 10.0) for number in range(3)]
    assert sessions.page(0, 2) == issued[:2]
    assert sessions.page(2, 9) == issued[2:]


def test_expiry() -> None:
    sessions, connection = table(), RelayConnection(id=1)
    assert sessions.next_deadline() is None
    one = sessions.issue((PATH, "one"), connection, 10.0)
    two = sessions.issue((PATH, "two"), connection, 20.0)
    assert sessions.next_deadline() == 10.0
    assert list(sessions.expire(9.0)) == []
    one.expires = 30.0
    assert list(sessions.expire(15.0)) == []
    assert sessions.next_deadline() == 20.0
    assert list(sessions.expire(40.0)) == [two, one]
    assert connection.sessions == {}
    assert (len(sessions), sessions.next_deadline()) == (0, None)


def test_dropping() -> None:
    sessions, connection, other = table(), RelayConnection(id=1), RelayConnection(id=1)
    gone = sessions.issue(KEY, connection, 10.0)
    kept = sessions.issue(KEY, other, 10.0)
    sessions.drop(connection)
    assert (sessions.find(gone.uri, 0.0), sessions.find(kept.uri, 0.0)) == (None, kept)
    assert connection.sessions == {}
    assert list(sessions.expire(10.0)) == [kept]


def test_dropped_sessions_do_not_pile_up() -> None:
    sessions = table()
    kept = sessions.issue(KEY, RelayConnection(id=0), 2.0)
    for number in range(1000):
        connection = RelayConnection(id=number)
        sessions.issue(KEY, connection, 1000.0)
        sessions.drop(connection)
        assert len(sessions._deadlines) <= 2 * 2 + 64 + 1
    assert list(sessions.expire(5.0)) == [kept]


def test_records_are_compared_by_identity() -> None:
    assert RelayConnection(id=1) != RelayConnection(id=1)
    assert Peer(name="p") != Peer(name="p")


def test_responses_are_expected_from_a_client_or_a_peer() -> None:
    client, peer = RelayConnection(id=1), Peer(name="p")
    assert client.hop is client
    assert RelayConnection(id=2, peer=peer).hop is peer


def test_session_turns_a_stranger_into_a_user() -> None:
    table = SessionTable("a", 1, secure=True)
    stranger = RelayConnection(id=1, party=Party.stranger("192.0.2.1", 1))
    table.issue((PATH, "alice"), stranger, 10.0)
    assert stranger.party == Party.user("alice", 1)
    known = RelayConnection(id=2, party=Party.user("bob", 2))
    table.issue((PATH, "alice"), known, 10.0)
    assert known.party == Party.user("bob", 2)


def test_transaction_keeps_no_body() -> None:
    request = MsrpRequest(
        b"abcd",
        b"SEND",
        PATH,
        PATH,
        [(b"Message-ID", b"1234"), (b"Content-Type", b"a/b")],
        b"x" * 1000,
    )
    hop, origin = RelayConnection(id=1), RelayConnection(id=2)
    made = Transaction.of(
        request,
        {b"message-id": b"1234"},
        tid=b"wxyz",
        hop=hop,
        deadline=30.0,
        origin=origin,
        from_path=PATH,
        passed=PATH,
        failure_report=FailureReport.PARTIAL,
        claim=Claim(Shares(ShareConfig(1)), origin.party, 0),
    )
    assert (made.tid, made.origin_tid, made.method) == (b"wxyz", b"abcd", b"SEND")
    assert (made.size, made.last, made.byte_range) == (1000, True, None)
    assert (made.message_id, made.failure_report) == (b"1234", FailureReport.PARTIAL)
    assert (made.hop, made.origin, made.from_path, made.passed) == (hop, origin, PATH, PATH)

from __future__ import annotations

import re

from wsproto_sip.msrp.message.chunk import MsrpRequest, acceptance, path_lines
from wsproto_sip.msrp.message.uri import MsrpUri, parse_path
from wsproto_sip.msrp.relay.tables import Hop, Peer, RelayConnection, Route, Session, SessionTable
from wsproto_sip.server.shares import Party

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


def test_responses_of_a_client_are_expected_from_it() -> None:
    client = RelayConnection(id=1)
    assert client.hop is client


def test_session_turns_a_stranger_into_a_user() -> None:
    table = SessionTable("a", 1, secure=True)
    stranger = RelayConnection(id=1, party=Party.stranger("192.0.2.1", 1))
    table.issue((PATH, "alice"), stranger, 10.0)
    assert stranger.party == Party.user("alice", 1)
    known = RelayConnection(id=2, party=Party.user("bob", 2))
    table.issue((PATH, "alice"), known, 10.0)
    assert known.party == Party.user("bob", 2)


def route(hop: Hop, *sessions: Session) -> Route:
    request = MsrpRequest(b"abcd", b"SEND", (sessions[0].uri, *PATH), PATH)
    return Route(hop, PATH, PATH, tuple(session.uri for session in sessions), request, *sessions)


def test_route_is_open_while_its_sessions_are() -> None:
    sessions, alice, carol = table(), RelayConnection(id=1), RelayConnection(id=2)
    one = sessions.issue(KEY, alice, 10.0)
    two = sessions.issue(KEY, carol, 20.0)
    single, double = route(carol, one), route(carol, two, one)
    assert (single.is_open(9.9), single.is_open(10.0)) == (True, False)
    assert (double.is_open(9.9), double.is_open(10.0)) == (True, False)
    one.expires = 30.0
    assert (double.is_open(19.9), double.is_open(20.0)) == (True, False)
    assert list(sessions.expire(20.0)) == [two]
    # Even if the time should go back.
    assert (single.is_open(15.0), double.is_open(15.0)) == (True, False)
    sessions.drop(alice)
    assert not single.is_open(0.0)


def test_route_knows_what_is_written_on_it() -> None:
    sessions = table()
    session = sessions.issue(KEY, RelayConnection(), 10.0)
    made = route(RelayConnection(), session)
    assert made.paths == path_lines(PATH, (session.uri, *PATH))
    assert made.accepting == acceptance(PATH[0], session.uri)
    assert made.accepted == acceptance(session.uri, PATH[0])


def test_connection_remembers_its_latest_routes() -> None:
    connection = RelayConnection()
    made = route(connection, table().issue(KEY, connection, 10.0))
    for number in range(20):
        connection.remember(b"%d" % number, made)
        connection.remember(b"%d" % number, made)
    assert [*connection.routes] == [b"%d" % number for number in range(12, 20)]
    connection.remember(b"12", made)
    assert len(connection.routes) == 8


def test_connections_of_a_peer_share_what_waits_for_it() -> None:
    peer, links = Peer(name="p"), [RelayConnection(id=1), RelayConnection(id=2)]
    for link in links:
        link.join(peer)
        assert link.hop is peer
        assert link.pending is peer.pending
    assert peer.connections == 2

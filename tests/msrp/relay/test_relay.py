from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.msrp._relay import (
    BOB,
    CONFIG,
    LATE_ALICE,
    RELAY,
    Client,
    World,
    challenge_of,
    code_of,
    credentials_for,
    fates,
    forwarded,
    late_world,
    log_in,
    only,
    status_of,
)
from tests.msrp.recording import read_recording
from wsproto_sip.auth import Unavailable
from wsproto_sip.msrp.message.chunk import (
    Continuation,
    MsrpChunk,
    MsrpRequest,
    MsrpResponse,
    accept_send,
    acceptance,
    parse_chunk,
)
from wsproto_sip.msrp.message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from wsproto_sip.msrp.message.stream import ChunkPart
from wsproto_sip.msrp.message.uri import MsrpUri, format_path, parse_path
from wsproto_sip.msrp.relay.config import (
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayNode,
    SendChunk,
    node_hop,
)
from wsproto_sip.msrp.relay.relay import MsrpRelay


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def alice(world: World) -> Client:
    return world.client(1, "alice")


@pytest.fixture
def carol(world: World, alice: Client) -> Client:
    return world.client(2, "carol")


@pytest.fixture
def bob(world: World) -> int:
    world.do(world.relay.connection_opened(9, world.now, peer="bob"))
    return 9


# -- connections -----------------------------------------------------------------------------------


def test_connections_are_counted(world: World) -> None:
    relay = world.relay
    assert relay.connection_opened(1, 0.0) == []
    with pytest.raises(ValueError, match="connection 1 already exists"):
        relay.connection_opened(1, 0.0)
    with pytest.raises(ValueError, match="unknown peer: 'eve'"):
        relay.connection_opened(2, 0.0, peer="eve")
    with pytest.raises(ValueError, match="unknown peer: 'eve'"):
        relay.peer_unreachable("eve", 0.0)
    assert relay.connections == 1
    assert relay.connection_closed(1, 0.0) == []
    assert relay.connection_closed(1, 0.0) == []
    assert relay.connections == 0
    assert relay.receive(1, b"whatever", 0.0) == []


def test_number_of_connections_is_limited() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_connections=1)))
    world.do(world.relay.connection_opened(1, 0.0))
    assert world.relay.connection_opened(2, 0.0) == [DropConnection(2, "too many connections")]
    assert world.relay.connections == 1


def test_client_has_to_authenticate_in_time(world: World) -> None:
    world.do(world.relay.connection_opened(1, world.now))
    world.do(world.relay.connection_opened(9, world.now, peer="bob"))
    assert world.relay.next_deadline() == 1030.0
    world.wait(29.9)
    assert world.dropped == []
    world.wait(0.1)
    assert world.dropped == [(1, "no session")]
    assert (world.relay.connections, world.relay.next_deadline()) == (1, None)


def test_client_that_lost_its_session_gets_the_time_again(world: World) -> None:
    world.client(1, "alice", expires=60)
    world.client(2, "alice", expires=60)
    world.wait(60)
    assert (world.relay.sessions, world.dropped) == (0, [])
    Client(world, 2, "alice").authenticate()
    world.wait(30)
    assert world.dropped == [(1, "no session")]


def test_last_session_counts(world: World) -> None:
    alice = world.client(1, "alice", expires=60)
    Client(world, 1, "carol").authenticate(expires=120)
    world.wait(60)
    assert (world.relay.sessions, world.relay.next_deadline()) == (1, world.now + 60)
    assert code_of(world.give(1, alice.request(alice.to(BOB))), 1) == 481


@pytest.mark.parametrize(
    ("expires", "transaction", "waiting", "earliest"),
    [(60, 100.0, 200.0, 60.0), (200, 100.0, 300.0, 100.0), (300, 200.0, 100.0, 100.0)],
)
def test_earliest_deadline_is_the_next(
    expires: int, transaction: float, waiting: float, earliest: float
) -> None:
    config = replace(CONFIG, transaction_timeout=transaction, authentication_timeout=waiting)
    world = World(config)
    alice = world.client(1, "alice", expires=expires)
    world.give(1, alice.request(alice.to(BOB)))
    world.do(world.relay.connection_opened(2, world.now))
    assert world.relay.next_deadline() == world.now + earliest


def test_authentication_timeout_can_be_disabled() -> None:
    world = World(replace(CONFIG, authentication_timeout=None))
    world.do(world.relay.connection_opened(1, 0.0))
    assert world.relay.next_deadline() is None


# -- AUTH ------------------------------------------------------------------------------------------


def test_authentication(world: World) -> None:
    client = world.client(1, "alice")
    assert client.session.secure
    assert client.session.authority == ("relay.example", 2855)
    assert world.relay.sessions == 1
    answer = client.authenticate(expires=60)
    assert answer.header(b"Expires") == b"60"
    assert world.relay.sessions == 1


def test_second_auth_prolongs_the_session(world: World, alice: Client) -> None:
    first = alice.session
    world.wait(800)
    alice.authenticate()
    assert alice.session == first
    world.wait(800)
    assert world.relay.sessions == 1
    world.wait(100)
    assert world.relay.sessions == 0


@pytest.mark.parametrize(
    ("expires", "headers"),
    [
        (0, {b"Min-Expires": b"60"}),
        (59, {b"Min-Expires": b"60"}),
        (3601, {b"Max-Expires": b"3600"}),
        (9999999999, {b"Max-Expires": b"3600"}),
    ],
)
def test_lifetimes_out_of_range_get_423(expires: int, headers: dict[bytes, bytes]) -> None:
    world = World()
    world.do(world.relay.connection_opened(1, world.now))
    answer = Client(world, 1, "alice").authenticate(expires=expires)
    assert answer.code == 423
    assert headers.items() <= dict(answer.headers).items()
    assert world.relay.sessions == 0


@pytest.mark.parametrize("expires", [60, 3600])
def test_lifetimes_at_the_limits_are_granted(expires: int) -> None:
    world = World()
    world.client(1, "alice", expires=expires)
    world.wait(expires - 1)
    assert world.relay.sessions == 1
    world.wait(1)
    assert world.relay.sessions == 0


def test_wrong_password(world: World) -> None:
    world.do(world.relay.connection_opened(1, world.now))
    client = Client(world, 1, "alice")
    for number in range(5):
        assert world.dropped == []
        assert client.authenticate(password=f"guess {number}").code == 401
    assert world.dropped == [(1, "too many refused credentials")]
    assert world.relay.connections == 0


def test_guesser_is_slowed_down_and_the_user_is_not(world: World) -> None:
    codes = []
    for cid in range(100, 120):
        world.do(world.relay.connection_opened(cid, world.now, address="203.0.113.9"))
        client = Client(world, cid, "alice")
        codes += [client.authenticate(password="guess").code for _ in range(5)]
        world.now += 0.5
    # A hundred guesses in ten seconds: 6 without delay, and then with 1, 2 and 4 s between.
    assert codes.count(401) == 9
    assert codes.count(403) == 91
    world.do(world.relay.connection_opened(1, world.now, address="203.0.113.9"))
    client = Client(world, 1, "alice")
    refused = client.authenticate()
    assert refused.code == 403
    assert re.fullmatch(rb"Too many failures; wait [1-8] s", refused.comment or b"")
    world.do(world.relay.connection_opened(2, world.now, address="192.0.2.1"))
    alice = Client(world, 2, "alice")
    assert alice.authenticate().code == 200
    # The guesser cannot end an existing session either.
    world.do(world.relay.connection_opened(3, world.now, address="192.0.2.1"))
    eve = Client(world, 3, "alice")
    while eve.authenticate(password="guess").code == 401 and world.dropped[-1][0] != 3:
        pass
    assert alice.authenticate().code == 200


def test_old_nonce_is_stale_and_not_a_guess(world: World) -> None:
    world.do(world.relay.connection_opened(1, world.now))
    client = Client(world, 1, "alice")
    challenge = challenge_of(client.auth())
    credentials = credentials_for(challenge, "alice", "a-secret")
    world.now += 301
    for _ in range(10):
        answer = client.auth(credentials=credentials)
        assert answer.code == 401
        assert challenge_of(answer).stale
    assert world.dropped == []


def test_credentials_are_accepted_once(world: World, alice: Client) -> None:
    challenge = challenge_of(alice.auth())
    credentials = credentials_for(challenge, "alice", "a-secret")
    assert alice.auth(credentials=credentials).code == 200
    world.do(world.relay.connection_opened(7, world.now))
    assert Client(world, 7, "alice").auth(credentials=credentials).code == 401


@pytest.mark.parametrize(
    "path",
    [
        b"msrps://other.example:2855;ws",
        b"msrps://relay.example:2856;ws",
        b"msrps://relay.example;ws",
        b"msrps://relay.example:2855;ws msrps://relay.example:2855;ws",
    ],
)
def test_auth_with_another_path_is_refused(world: World, alice: Client, path: bytes) -> None:
    assert alice.auth(to=parse_path(path)).code == 403


def test_auth_with_another_name_is_refused(world: World, alice: Client) -> None:
    assert alice.auth(to=parse_path(b"msrp://alice@WS.relay.example:443;ws")).code == 401


def test_identity_of_the_connection_needs_no_credentials(world: World) -> None:
    world.do(world.relay.connection_opened(1, world.now, identity="alice"))
    answer = Client(world, 1, "alice").auth()
    assert answer.code == 200
    assert answer.header(b"Authentication-Info") is None
    assert world.relay.sessions == 1


def test_only_identities_get_sessions_without_an_authenticator() -> None:
    relay = MsrpRelay(CONFIG)
    world = World()
    world.relay = relay
    world.do(relay.connection_opened(1, 0.0))
    assert Client(world, 1, "alice").auth().code == 403


def test_peer_has_no_session(world: World, bob: int) -> None:
    assert Client(world, bob, "alice").auth().code == 403


def test_number_of_sessions_is_limited() -> None:
    limits = MsrpLimits(max_sessions_per_connection=2, max_sessions=3)
    world = World(replace(CONFIG, limits=limits))
    alice = world.client(1, "alice")
    assert Client(world, 1, "carol").authenticate().code == 200
    other = Client(world, 1, "alice")
    refused = MsrpRequest(b"abcd", b"AUTH", (RELAY,), (BOB,))
    challenge = challenge_of(other.auth())
    refused.headers = [(b"Authorization", credentials_for(challenge, "alice", "a-secret"))]
    answer = only(world.give(1, refused), 1)
    assert isinstance(answer, MsrpResponse)
    assert (answer.code, answer.comment) == (403, b"Too many sessions")
    assert alice.authenticate().code == 200
    world.client(2, "carol")
    world.do(world.relay.connection_opened(3, world.now))
    assert Client(world, 3, "carol").authenticate().code == 403
    assert world.relay.sessions == 3


# -- SEND ------------------------------------------------------------------------------------------


def test_client_to_client(world: World, alice: Client, carol: Client) -> None:
    request = alice.request(
        alice.to(carol.session, carol.uri), headers=((b"X-Other", b"kept"),), flag=Continuation.MORE
    )
    sent = world.give(1, request)
    assert sent[0] == (1, request.response(200))
    got = forwarded(sent, 2)
    assert len(sent) == 2
    assert got == MsrpRequest(
        got.transaction_id,
        b"SEND",
        (carol.uri,),
        (carol.session, alice.session, alice.uri),
        request.headers,
        b"hello",
        Continuation.MORE,
    )
    assert got.transaction_id != request.transaction_id
    assert world.relay.transactions == 1
    assert world.give(2, got.response(200)) == []
    assert world.relay.transactions == 0
    assert world.wait(100) == []


def test_to_oneself(world: World, alice: Client) -> None:
    sent = world.give(1, alice.request(alice.to(alice.session, alice.uri)))
    assert forwarded(sent, 1).from_path == (alice.session, alice.session, alice.uri)


def test_success_report_finds_its_way_back(world: World, alice: Client, carol: Client) -> None:
    got = forwarded(world.give(1, alice.request(alice.to(carol.session, carol.uri))), 2)
    report = MsrpRequest(
        b"abcd",
        b"REPORT",
        got.from_path,
        got.to_path,
        [(b"Message-ID", b"msg1"), (b"Byte-Range", b"1-5/5"), (b"Status", b"000 200 OK")],
    )
    back = only(world.give(2, report), 1)
    assert isinstance(back, MsrpRequest)
    assert (back.method, back.headers) == (b"REPORT", report.headers)
    assert back.to_path == (alice.uri,)
    assert back.from_path == (alice.session, carol.session, carol.uri)


def test_to_a_peer_and_back(world: World, alice: Client, bob: int) -> None:
    request = alice.request(alice.to(BOB))
    sent = world.give(1, request)
    assert sent[0] == (1, request.response(200))
    got = forwarded(sent, "bob")
    assert (got.to_path, got.from_path) == ((BOB,), (alice.session, alice.uri))
    assert world.give(bob, got.response(200)) == []
    assert world.relay.transactions == 0
    answer = Client(world, bob, "bob").request((alice.session, alice.uri), from_path=(BOB,))
    sent = world.give(bob, answer)
    assert sent[0] == (bob, answer.response(200))
    back = forwarded(sent, 1)
    assert (back.to_path, back.from_path) == ((alice.uri,), (alice.session, BOB))


def test_range_that_contradicts_the_body_is_left_open() -> None:
    """FreeSWITCH would end the body early; an honest client with a wrong range loses nothing."""
    world = World()
    alice = world.client(1, "alice")
    for held, expected in ((b"1-2/2", b"1-*/2"), (b"1-5/5", b"1-5/5"), (b"1-*/9", b"1-*/9")):
        request = alice.request(alice.to(BOB), headers=((b"Byte-Range", held),))
        assert forwarded(world.give(1, request), "bob").header(b"Byte-Range") == expected
    report = alice.request(
        alice.to(BOB), method=b"REPORT", headers=((b"Byte-Range", b"1-5/5"),), body=None
    )
    got = only(world.give(1, report), "bob")
    assert got.header(b"Byte-Range") == b"1-5/5"


def test_beyond_a_peer(world: World, alice: Client) -> None:
    far = MsrpUri.parse(b"msrp://far.away:1/f;tcp")
    got = forwarded(world.give(1, alice.request(alice.to(BOB, far))), "bob")
    assert got.to_path == (BOB, far)


def test_keepalive_is_answered(world: World, alice: Client) -> None:
    """RFC 7977 §6: a SEND without a body."""
    request = alice.request(alice.to(), body=None)
    assert world.give(1, request) == [(1, request.response(200))]


def test_body_for_the_relay_is_refused(world: World, alice: Client) -> None:
    assert code_of(world.give(1, alice.request(alice.to())), 1) == 415


def test_empty_chunk_is_forwarded(world: World, alice: Client, carol: Client) -> None:
    sent = world.give(1, alice.request(alice.to(carol.session, carol.uri), body=None))
    assert forwarded(sent, 2).body is None


NOWHERE = MsrpUri.parse(b"msrp://evil.example:2855/x;tcp")


def test_refusals(world: World, alice: Client, carol: Client, bob: int) -> None:
    unknown = MsrpUri.build("relay.example", 2855, "guess", secure=True)
    from_bob = Client(world, bob, "bob")
    cases = [
        (1, alice.request((unknown, carol.uri)), 481),
        (1, alice.request((NOWHERE,)), 481),
        (1, alice.request(alice.to(unknown, carol.uri)), 481),
        (1, alice.request((carol.session, carol.uri)), 506),
        (1, alice.request((carol.session, alice.session, alice.uri)), 506),
        (1, alice.request(alice.to(carol.session, carol.uri), from_path=(carol.uri,)), 403),
        (1, alice.request(alice.to(carol.session, carol.uri), from_path=(BOB, alice.uri)), 403),
        (1, alice.request(alice.to(carol.session, carol.uri), from_path=(alice.uri, BOB)), 403),
        (1, alice.request(alice.to(carol.session)), 403),
        (1, alice.request(alice.to(carol.session, alice.uri)), 403),
        (1, alice.request(alice.to(carol.session, carol.uri, carol.uri)), 403),
        (1, alice.request(alice.to(carol.uri)), 403),
        (1, alice.request(alice.to(NOWHERE)), 403),
        (1, alice.request(alice.to(BOB), message_id=None), 400),
        (bob, from_bob.request((alice.session, alice.uri), from_path=(NOWHERE,)), 403),
        (bob, from_bob.request((alice.session, carol.uri), from_path=(BOB,)), 403),
        (bob, from_bob.request((alice.session,), from_path=(BOB,)), 403),
        (bob, from_bob.request((alice.session, carol.session, carol.uri), from_path=(BOB,)), 403),
        (bob, from_bob.request((unknown, alice.uri), from_path=(BOB,)), 481),
    ]
    for number, request, status in cases:
        assert code_of(world.give(number, request), number) == status, format_path(request.to_path)
        # A sender without failure reports gets none, and a report is never answered.
        quiet = (b"Failure-Report", b"no")
        assert world.give(number, replace(request, headers=[quiet, *request.headers])) == []
        if status != 400:
            assert world.give(number, replace(request, method=b"REPORT")) == []
    assert world.relay.transactions == 0
    assert world.dropped == []


def test_requests_without_a_session_are_refused(world: World, alice: Client) -> None:
    world.do(world.relay.connection_opened(5, world.now))
    eve = Client(world, 5, "eve")
    assert code_of(world.give(5, eve.request((alice.session, alice.uri))), 5) == 506
    stolen = eve.request(alice.to(BOB), from_path=(alice.uri,))
    assert code_of(world.give(5, stolen), 5) == 506


def test_expired_session_is_not_found(world: World) -> None:
    alice = world.client(1, "alice", expires=60)
    world.now += 60
    assert code_of(world.give(1, alice.request(alice.to(BOB))), 1) == 481
    world.wait(0)
    assert code_of(world.give(1, alice.request(alice.to(BOB))), 1) == 481


def test_sessions_end_with_their_connection(world: World, alice: Client, carol: Client) -> None:
    world.do(world.relay.connection_closed(2, world.now))
    assert world.relay.sessions == 1
    assert code_of(world.give(1, alice.request(alice.to(carol.session, carol.uri))), 1) == 481
    # Another connection with the same number does not inherit it.
    world.do(world.relay.connection_opened(2, world.now))
    assert code_of(world.give(2, carol.request(carol.to(BOB))), 2) == 481


def test_other_methods(world: World, alice: Client, carol: Client) -> None:
    assert code_of(world.give(1, alice.request(alice.to(), method=b"FOO", body=None)), 1) == 501
    assert code_of(world.give(1, alice.request(alice.to(), method=b"AUTH", body=None)), 1) == 501
    assert world.give(1, alice.request(alice.to(), method=b"REPORT", body=None)) == []
    request = alice.request(alice.to(carol.session, carol.uri), method=b"NICKNAME", body=None)
    got = only(world.give(1, request), 2)
    assert isinstance(got, MsrpRequest)
    assert (got.method, world.relay.transactions) == (b"NICKNAME", 1)
    answer = got.response(425, b"taken", [(b"X", b"y")])
    back = only(world.give(2, answer), 1)
    assert back == MsrpResponse(
        request.transaction_id,
        425,
        (alice.uri,),
        (alice.session, carol.session, carol.uri),
        [(b"X", b"y")],
        b"taken",
    )
    assert world.relay.transactions == 0


def test_other_methods_without_an_answer(world: World, alice: Client) -> None:
    world.give(1, alice.request(alice.to(BOB), method=b"NICKNAME", body=None))
    assert world.wait(30) == []
    assert world.relay.transactions == 0


# -- responses, failures and time --------------------------------------------------------------


def test_failure_further_on_is_reported(world: World, alice: Client, carol: Client) -> None:
    request = alice.request(
        alice.to(carol.session, carol.uri), headers=((b"Byte-Range", b"4-*/20"),)
    )
    got = forwarded(world.give(1, request), 2)
    report = only(world.give(2, got.response(413)), 1)
    assert isinstance(report, MsrpRequest)
    assert report == MsrpRequest(
        report.transaction_id,
        b"REPORT",
        (alice.uri,),
        (alice.session,),
        [
            (b"Message-ID", b"msg1"),
            (b"Byte-Range", b"4-8/20"),
            (b"Status", b"000 413 Stop-sending-message"),
        ],
    )
    assert world.relay.transactions == 0


def test_silence_is_reported_after_thirty_seconds(world: World, alice: Client) -> None:
    got = forwarded(world.give(1, alice.request(alice.to(BOB))), "bob")
    assert world.relay.next_deadline() == world.now + 30
    assert world.wait(29.9) == []
    report = only(world.wait(0.1), 1)
    assert status_of(report) == b"000 408 Transaction-did-not-complete-in-allotted-time"
    world.do(world.relay.connection_opened(9, world.now, peer="bob"))
    assert world.give(9, got.response(413)) == []


@pytest.mark.parametrize(
    ("mode", "answered", "failure", "silence"),
    [
        (None, True, True, True),
        (b"yes", True, True, True),
        (b"partial", False, True, False),
        (b"no", False, False, False),
    ],
)
def test_failure_report(mode: bytes | None, answered: bool, failure: bool, silence: bool) -> None:
    world = World()
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    headers = () if mode is None else ((b"Failure-Report", mode),)
    request = alice.request(alice.to(carol.session, carol.uri), headers=headers)
    sent = world.give(1, request)
    assert len(sent) == (2 if answered else 1)
    got = forwarded(sent, 2)
    assert len(world.give(2, got.response(400))) == failure
    world.give(1, request)
    assert len(world.wait(30)) == silence
    assert world.relay.transactions == 0


@pytest.mark.parametrize("comment", [b"OK", b"Fine", None])
def test_success_ends_a_transaction_in_any_spelling(
    world: World, alice: Client, carol: Client, comment: bytes | None
) -> None:
    got = forwarded(world.give(1, alice.request(alice.to(carol.session, carol.uri))), 2)
    assert world.relay.transactions == 1
    assert world.give(1, replace(got.response(200), comment=comment)) == []
    assert world.relay.transactions == 1
    assert world.give(2, replace(got.response(200), comment=comment)) == []
    assert world.relay.transactions == 0
    assert world.wait(60) == []


def test_unknown_responses_are_dropped(world: World, alice: Client, carol: Client) -> None:
    got = forwarded(world.give(1, alice.request(alice.to(carol.session, carol.uri))), 2)
    wrong = replace(got.response(413), to_path=(alice.session,))
    assert world.give(2, wrong) == []
    assert world.give(2, replace(got.response(413), transaction_id=b"abcd")) == []
    # A client cannot answer for another, whatever it knows.
    assert world.give(1, got.response(413)) == []
    assert world.relay.transactions == 1
    assert len(world.give(2, got.response(413))) == 1
    assert world.give(2, got.response(413)) == []


def test_next_hop_goes_away(world: World, alice: Client, carol: Client) -> None:
    world.give(1, alice.request(alice.to(carol.session, carol.uri)))
    world.do(world.relay.connection_closed(2, world.now))
    assert status_of(only(world.take(), 1)) == b"000 481 Session-does-not-exist"
    assert world.relay.transactions == 0


def test_many_transactions_are_given_up_in_portions() -> None:
    """No sender has to wait while the loss of a receiver is reported to all its senders."""
    limits = MsrpLimits(max_transactions_per_connection=1000)
    world = World(replace(CONFIG, limits=limits))
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    to = alice.to(carol.session, carol.uri)
    for number in range(1000):
        world.give(1, alice.request(to, message_id=b"id%04d" % number))
    world.do(world.relay.connection_closed(2, world.now))
    reports = []
    # Requests to be reported count as transactions.
    assert world.relay.transactions == 1000 - 256
    while world.relay.transactions:
        deadline = world.relay.next_deadline()
        assert deadline is not None
        assert deadline < world.now
        reports.append(world.take())
        world.do(world.relay.handle_timeout(world.now))
    reports.append(world.take())
    assert [len(part) for part in reports] == [256, 256, 256, 232]
    told = [chunk for part in reports for _, chunk in part]
    assert [chunk.message_id for chunk in told] == [b"id%04d" % at for at in range(1000)]
    assert {status_of(chunk) for chunk in told} == {b"000 481 Session-does-not-exist"}
    assert world.relay.handle_timeout(world.now) == []


def test_many_connections_without_a_session_are_closed_in_portions() -> None:
    world = World()
    for number in range(600):
        world.do(world.relay.connection_opened(number, world.now))
    dropped = []
    for _ in range(4):
        world.wait(30)
        dropped.append(len(world.dropped))
    assert dropped == [256, 512, 600, 600]


def test_sender_goes_away(world: World, alice: Client, carol: Client) -> None:
    got = forwarded(world.give(1, alice.request(alice.to(carol.session, carol.uri))), 2)
    world.give(1, alice.request(alice.to(carol.session, carol.uri)))
    world.do(world.relay.connection_closed(1, world.now))
    world.do(world.relay.connection_opened(1, world.now))
    assert world.give(2, got.response(413)) == []
    assert world.wait(30) == []
    assert world.relay.transactions == 0


def test_peer_goes_away(world: World, alice: Client, bob: int) -> None:
    world.do(world.relay.connection_opened(10, world.now, peer="bob"))
    world.give(1, alice.request(alice.to(BOB)))
    world.do(world.relay.connection_closed(9, world.now))
    assert world.take() == []
    world.do(world.relay.connection_closed(10, world.now))
    assert (status_of(only(world.take(), 1)) or b"")[:7] == b"000 408"


def test_peer_that_cannot_be_reached(world: World, alice: Client) -> None:
    world.give(1, alice.request(alice.to(BOB)))
    world.do(world.relay.peer_unreachable("bob", world.now))
    assert (status_of(only(world.take(), 1)) or b"")[:7] == b"000 408"


def test_reports_reach_a_peer_on_another_connection(world: World, alice: Client, bob: int) -> None:
    request = Client(world, bob, "bob").request((alice.session, alice.uri), from_path=(BOB,))
    first = forwarded(world.give(bob, request), 1)
    second = forwarded(world.give(bob, request), 1)
    assert (status_of(only(world.give(1, first.response(413)), bob)) or b"")[:7] == b"000 413"
    world.do(world.relay.connection_closed(bob, world.now))
    assert (status_of(only(world.give(1, second.response(413)), "bob")) or b"")[:7] == b"000 413"


def test_transactions_of_a_connection_are_limited() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_transactions_per_connection=2)))
    alice = world.client(1, "alice")
    got = [forwarded(world.give(1, alice.request(alice.to(BOB))), "bob") for _ in range(2)]
    assert code_of(world.give(1, alice.request(alice.to(BOB))), 1) == 413
    quiet = alice.request(alice.to(BOB), headers=((b"Failure-Report", b"no"),))
    assert len(world.give(1, quiet)) == 1
    world.do(world.relay.connection_opened(9, world.now, peer="bob"))
    world.give(9, got[0].response(200))
    assert len(world.give(1, alice.request(alice.to(BOB)))) == 2


def test_one_user_cannot_take_all_transactions() -> None:
    """A user with two connections and unanswered requests leaves the others their share."""
    world = World(replace(CONFIG, limits=MsrpLimits(max_transactions=20)))
    greedy = [world.client(number, "alice") for number in (1, 2)]
    carol = world.client(3, "carol")
    for _ in range(10):
        for number, client in enumerate(greedy, 1):
            answered = world.give(number, client.request(client.to(BOB)))
    assert world.relay.transactions == 10
    assert code_of(answered, 2) == 413
    assert sum(world.relay.refused.values()) == 10
    to_bob = carol.request(carol.to(BOB), message_id=b"fresh")
    answer, passed_on = world.give(3, to_bob)
    assert answer == (3, to_bob.response(200))
    assert passed_on[0] == "bob"
    # Alice's requests are reported in time, and not before.
    world.do(world.relay.handle_timeout(world.now + 30.0))
    assert world.relay.transactions == 0
    world.sent.clear()
    assert len(world.give(1, greedy[0].request(greedy[0].to(BOB)))) == 2


def test_sender_does_not_choose_the_size_of_a_record() -> None:
    """Userinfo and parameters are ignored in comparisons, and are not forwarded."""
    world = World()
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    padded = MsrpUri.parse(
        alice.uri.raw.replace(b"//", b"//%b@" % (b"x" * 300)) + b";" + b"y" * 100
    )
    assert padded == alice.uri
    got = forwarded(
        world.give(1, alice.request(alice.to(carol.session, carol.uri), from_path=(padded,))),
        2,
    )
    assert [uri.raw for uri in got.from_path] == [
        carol.session.raw,
        alice.session.raw,
        alice.uri.raw,
    ]
    report = only(world.give(2, got.response(413)), 1)
    assert report.to_path[0].raw == alice.uri.raw


def test_chunk_too_large_for_the_next_hop_gets_413() -> None:
    """A chunk grows by the difference between our transaction id and the original one."""
    world = World()
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    bound = world.config.limits.max_chunk_size
    for excess, codes in ((0, 200), (1, 413)):
        request = alice.request(alice.to(carol.session, carol.uri), body=b"")
        request.transaction_id = b"abcd"
        # Twice the difference of 4 and 20.
        room = bound - len(request.to_bytes()) - 32
        request.body = bytes(room + excess)
        assert len(request.to_bytes()) == bound - 32 + excess
        sent = world.give(1, request)
        assert sent[0] == (1, request.response(codes))
        assert [len(chunk.to_bytes()) for _, chunk in sent[1:]] == [bound] * (not excess)


# -- chunks on a route that is known ---------------------------------------------------------------


def ordinary(client: Client, to: Client, mode: bytes = b"yes", body: bytes = b"hello") -> bytes:
    """Return a SEND as most clients write it."""
    held = b"1-%d/*" % len(body)
    headers = ((b"Byte-Range", held), (b"Failure-Report", mode))
    return client.request(client.to(to.session, to.uri), headers=headers, body=body).to_bytes()


def chunks_to(world: World, cid: int, data: bytes) -> list[tuple[int | str, MsrpChunk]]:
    world.do(world.relay.receive(cid, data, world.now))
    return world.take()


@pytest.mark.parametrize(
    ("mode", "answered"), [(b"yes", True), (b"partial", False), (b"no", False)]
)
def test_known_route_is_used_as_it_was_found(
    world: World, alice: Client, carol: Client, mode: bytes, answered: bool
) -> None:
    for _ in range(3):
        data = ordinary(alice, carol, mode)
        request = parse_chunk(data)
        assert isinstance(request, MsrpRequest)
        sent = chunks_to(world, 1, data)
        if answered:
            assert sent.pop(0) == (1, request.response(200))
        passed = only(sent, 2)
        assert isinstance(passed, MsrpRequest)
        path = (carol.session, alice.session, alice.uri)
        tid = passed.transaction_id
        assert passed == replace(request, transaction_id=tid, to_path=(carol.uri,), from_path=path)
        assert world.relay.transactions == (mode != b"no")
        chunks_to(world, 2, passed.response(200).to_bytes())
        assert world.relay.transactions == 0


def test_known_route_ends_with_the_session_of_either_end(world: World, alice: Client) -> None:
    for wait in (0, 10_000):
        carol = world.client(2, "carol")
        data = ordinary(alice, carol)
        assert [to for to, _ in chunks_to(world, 1, data) + chunks_to(world, 1, data)] == [1, 2] * 2
        if not wait:
            world.do(world.relay.connection_closed(2, world.now))
            world.take()
        world.now += wait
        assert code_of(chunks_to(world, 1, data), 1) == 481


def test_known_route_belongs_to_its_connection(world: World, alice: Client, carol: Client) -> None:
    data = ordinary(alice, carol)
    for _ in range(2):
        assert len(chunks_to(world, 1, data)) == 2
        assert code_of(chunks_to(world, 2, data), 2) == 506


def test_known_route_to_a_node_ends_with_it(world: World, alice: Client) -> None:
    node = MsrpUri.parse(b"msrps://two.example:2855/theirs;tcp")
    request = alice.request(alice.to(node), headers=((b"Byte-Range", b"1-5/5"),)).to_bytes()
    assert code_of(chunks_to(world, 1, request), 1) == 403
    for _ in range(2):
        for boot in ("a", "b"):
            world.do(world.relay.use_nodes({"two": RelayNode("two.example", boot)}))
            world.take()
            for _ in range(2):
                assert [to for to, _ in chunks_to(world, 1, request)] == [1, node_hop("two")]
        world.do(world.relay.use_nodes({}))
        world.take()
        assert code_of(chunks_to(world, 1, request), 1) == 481


def test_chunk_on_a_known_route_is_refused_if_too_many_wait() -> None:
    world = World(replace(CONFIG, limits=MsrpLimits(max_transactions_per_connection=2)))
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    for _ in range(2):
        assert len(chunks_to(world, 1, ordinary(alice, carol))) == 2
    assert code_of(chunks_to(world, 1, ordinary(alice, carol)), 1) == 413
    assert chunks_to(world, 1, ordinary(alice, carol, b"no"))[0][0] == 2
    assert world.relay.journal.refused["SEND", 413] == 1
    assert world.relay.transactions == 2


def test_chunk_on_a_known_route_that_grows_too_large_is_refused() -> None:
    world = World()
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    empty = ordinary(alice, carol, body=b"")
    room = world.config.limits.max_chunk_size - len(empty) - 2 * len(b"12345")
    for excess in (-26, -25, -24, 0, 1):
        assert len(chunks_to(world, 1, empty)) == 2
        data = ordinary(alice, carol, body=bytes(room + excess))
        long = chunks_to(world, 1, ChunkPart(data))
        assert len(chunks_to(world, 1, data)) == 1 + len(long)


def test_response_to_a_send_does_not_answer_another_request(
    world: World, alice: Client, carol: Client
) -> None:
    """It is for the previous hop only; other responses take the whole path."""
    request = alice.request(alice.to(carol.session, carol.uri), method=b"NICKNAME", body=None)
    passed = only(world.give(1, request), 2)
    assert isinstance(passed, MsrpRequest)
    said = acceptance(carol.session, carol.uri)
    assert chunks_to(world, 2, accept_send(passed.transaction_id, said)) == []
    assert world.relay.transactions == 1
    assert code_of(world.give(2, passed.response(200)), 1) == 200


@pytest.mark.parametrize(
    ("size", "taken"), [(None, True), (DEFAULT_MSRP_LIMITS.max_chunk_size + 1, False)]
)
def test_limits_hold_on_a_known_route(
    world: World, alice: Client, carol: Client, size: int | None, taken: bool
) -> None:
    assert len(chunks_to(world, 1, ordinary(alice, carol))) == 2
    data = ordinary(alice, carol, body=b"")
    if size is not None:
        data = ordinary(alice, carol, body=bytes(size - len(data)))
    sent = chunks_to(world, 1, data)
    assert (len(sent) == 2) == taken
    assert taken or code_of(sent, 1) == 413


@pytest.mark.parametrize(
    "limits",
    [
        MsrpLimits(max_headers=4),
        # Shorter than the URIs of our sessions.
        MsrpLimits(max_uri=51),
        MsrpLimits(max_header_line=62),
    ],
)
def test_relay_with_small_limits_knows_no_ordinary_chunk(limits: MsrpLimits) -> None:
    config = MsrpRelayConfig("relay.example", 2855, limits=limits)
    assert MsrpRelay(config)._ordinary_size == 0
    assert MsrpRelay(replace(config, limits=MsrpLimits()))._ordinary_size > 0


# -- malformed chunks ------------------------------------------------------------------------------


def test_malformed_chunks_do_not_close_the_connection(
    world: World, alice: Client, carol: Client
) -> None:
    good = alice.request(alice.to(carol.session, carol.uri)).to_bytes()
    world.do(world.relay.receive(1, good + b"x", world.now))
    answer = only(world.take(), 1)
    assert isinstance(answer, MsrpResponse)
    assert (answer.code, answer.to_path) == (400, (alice.uri,))
    world.do(world.relay.receive(1, b"noise", world.now))
    assert world.take() == []
    assert len(world.give(1, alice.request(alice.to(carol.session, carol.uri)))) == 2


def test_too_many_malformed_chunks_close_the_connection(world: World, alice: Client) -> None:
    for _ in range(19):
        world.do(world.relay.receive(1, b"noise", world.now))
    alice.authenticate()
    for _ in range(20):
        assert world.dropped == []
        world.do(world.relay.receive(1, b"noise", world.now))
    assert world.dropped == [(1, "too many malformed chunks")]
    assert world.relay.sessions == 0


@given(st.data())
def test_no_input_raises(data: st.DataObject) -> None:
    world = World()
    alice, carol = world.client(1, "alice"), world.client(2, "carol")
    to = alice.to(carol.session, carol.uri)
    got = forwarded(world.give(1, alice.request(to)), 2)
    chunks = [
        alice.request(to).to_bytes(),
        alice.request(to, method=b"NICKNAME", body=None).to_bytes(),
        alice.request((RELAY,), method=b"AUTH", body=None, message_id=None).to_bytes(),
        got.response(200).to_bytes(),
    ]
    for _ in range(5):
        encoded = bytearray(data.draw(st.sampled_from(chunks)))
        for _ in range(data.draw(st.integers(0, 3))):
            where = data.draw(st.integers(0, len(encoded) - 1))
            encoded[where : where + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        world.do(world.relay.receive(data.draw(st.integers(1, 2)), bytes(encoded), world.now))


# -- the recording ---------------------------------------------------------------------------------


def test_recording_through_the_relay() -> None:
    """Our relay, given the recorded clients' input, sends each the same as the recorded relay did.

    Necessary differences remain: sessions and nonces, transaction ids after the relay, and the
    Message-ID that the other relay repeats in its responses.
    """
    config = replace(
        CONFIG, host="127.0.0.1", port=28591, secure=False, peers={"bob": ("127.0.0.1", 28599)}
    )
    relay = MsrpRelay(config)
    numbers = {"alice": 1, "carol": 2, "bob": 3}
    for name, number in numbers.items():
        if name == "bob":
            relay.connection_opened(number, 0.0, peer=name)
        else:
            relay.connection_opened(number, 0.0, identity=name)
    sessions: dict[bytes, bytes] = {}
    tids: dict[tuple[str, bytes], bytes] = {}
    queues: dict[str, list[MsrpChunk]] = {name: [] for name in numbers}
    checked = 0
    for entry in read_recording():
        if entry.who not in numbers:
            continue
        data = entry.data
        for theirs, replacement in sessions.items():
            data = data.replace(theirs, replacement)
        chunk = parse_chunk(data)
        if entry.to_server:
            if isinstance(chunk, MsrpResponse):
                chunk.transaction_id = tids[entry.who, chunk.transaction_id]
            for action in relay.receive(numbers[entry.who], chunk.to_bytes(), 0.0):
                match action:
                    case SendChunk(number, encoded):
                        name = next(key for key, value in numbers.items() if value == number)
                    case ForwardToPeer(name, encoded):
                        pass
                    case DropConnection():
                        raise AssertionError(action)
                queues[name].append(parse_chunk(encoded))
            continue
        ours = queues[entry.who].pop(0)
        if isinstance(chunk, MsrpRequest):
            tids[entry.who, chunk.transaction_id] = ours.transaction_id
            chunk.transaction_id = ours.transaction_id
        elif chunk.code == 401:
            # Our clients are identified already: the first AUTH gets a session, the second extends
            # it.
            continue
        elif chunk.header(b"use-path"):
            sessions[chunk.header(b"use-path") or b""] = ours.header(b"use-path") or b""
            assert ours.header(b"expires") == chunk.header(b"expires")
            continue
        else:
            chunk.headers = []
        assert ours == chunk
        checked += 1
    # Everything the other relay sent to the three except its four answers to AUTH.
    assert checked == 28
    assert relay.sessions == 2
    assert not any(queues.values())


def test_configuration_is_readable() -> None:
    relay = MsrpRelay(CONFIG)
    assert (relay.limits, list(relay.peers)) == (CONFIG.limits, ["bob"])


def test_parts_of_a_large_chunk_are_forwarded_and_not_answered(
    world: World, alice: Client, carol: Client
) -> None:
    part = alice.request(alice.to(carol.session, carol.uri), flag=Continuation.MORE)
    world.do(world.relay.receive(1, ChunkPart(part.to_bytes()), world.now))
    forwarded = only(world.take(), 2)
    assert isinstance(forwarded, MsrpRequest)
    assert (forwarded.body, forwarded.continuation) == (b"hello", Continuation.MORE)
    # A failure further on is still reported.
    refusal = world.give(2, forwarded.response(413))
    report = only(refusal, 1)
    assert report.header(b"status") == b"000 413 Stop-sending-message"


def test_parts_without_a_receiver_are_dropped(world: World, alice: Client) -> None:
    part = alice.request((RELAY,), flag=Continuation.MORE)
    world.do(world.relay.receive(1, ChunkPart(part.to_bytes()), world.now))
    assert world.take() == []


# -- accounts from elsewhere -----------------------------------------------------------------------


def test_auth_waits_for_its_account_and_others_wait_for_it() -> None:
    world = late_world(limits=MsrpLimits(max_transactions_per_connection=2))
    first, second = log_in(world), log_in(world)
    assert Client(world, 1, "alice").auth().code == 408
    assert world.relay.waiting == 2
    with pytest.raises(TypeError, match="the answer must be an Account or None, not int"):
        world.relay.answer(1, 1, world.now)
    assert fates(world.answer(LATE_ALICE)) == [(first, 200)]
    assert fates(world.answer(Unavailable("down"))) == [(second, 408)]
    assert world.relay.answer(2, None, world.now) == []
    log_in(world)
    world.do(world.relay.connection_closed(1, world.now))
    assert world.answer(LATE_ALICE) == []


def test_auth_does_not_wait_for_ever() -> None:
    world = late_world()
    first, second = log_in(world), log_in(world)
    assert world.relay.next_deadline() == world.now + 5
    world.now += 5
    world.do(world.relay.handle_timeout(world.now))
    assert fates(world.responses()) == [(first, 408), (second, 408)]
    assert world.relay.next_deadline() == 1030.0


def test_auth_that_cannot_wait_gets_408() -> None:
    world = late_world(limits=MsrpLimits(max_transactions=2, max_transactions_per_connection=1))
    world.do(world.relay.connection_opened(2, world.now))
    log_in(world)
    server = world.relay.authenticator
    assert server is not None
    proof = credentials_for(server.challenges(world.now)[0], "alice", "a-secret")
    assert Client(world, 2, "alice").auth(credentials=proof).code == 408


def test_sessions_are_shown_in_pages() -> None:
    world = World()
    client = world.client(1, "alice")
    [session] = world.relay.sessions_page(0, 9)
    assert session.uri == client.session
    assert world.relay.sessions_page(1, 9) == []


# -- nodes -----------------------------------------------------------------------------------------

N2 = RelayNode("N2.relay.example", "boot-1")
#: A client of that node, and its session.
DAN = parse_path(b"msrps://n2.relay.example:443/dans-session;tcp msrps://dan.invalid:1/x;ws")


@pytest.fixture
def nodes(world: World) -> World:
    """Return a relay with another node, which has opened connection 7."""
    world.do(world.relay.use_nodes({"n2": N2}))
    world.do(world.relay.connection_opened(7, world.now, node=True, address="10.0.0.2"))
    return world


def from_dan(world: World, client: Client, **options: object) -> MsrpRequest:
    request = Client(world, 7, "dan").request((client.session, client.uri), **options)  # type: ignore[arg-type]
    return replace(request, from_path=DAN)


def test_request_for_a_client_of_another_node_goes_there(nodes: World, alice: Client) -> None:
    assert nodes.relay.nodes == 1
    assert nodes.relay.host == CONFIG.host
    got = forwarded(nodes.give(1, alice.request(alice.to(*DAN))), node_hop("n2"))
    assert (got.to_path, got.from_path) == (DAN, (alice.session, alice.uri))
    assert nodes.relay.transactions == 1
    nodes.do(nodes.relay.connection_opened(8, nodes.now, peer=node_hop("n2")))
    assert nodes.give(8, got.response(200)) == []
    assert nodes.relay.transactions == 0
    # A session unknown there.
    got = forwarded(nodes.give(1, alice.request(alice.to(*DAN))), node_hop("n2"))
    assert (status_of(only(nodes.give(8, got.response(481)), 1)) or b"")[:7] == b"000 481"


def test_request_of_a_node_goes_to_a_client(nodes: World, alice: Client) -> None:
    got = forwarded(nodes.give(7, from_dan(nodes, alice)), 1)
    assert (got.to_path, got.from_path) == ((alice.uri,), (alice.session, *DAN))
    # The report goes back where the request has come from.
    report = only(nodes.give(1, got.response(413)), 7)
    assert (status_of(report) or b"")[:7] == b"000 413"
    assert isinstance(report, MsrpRequest)
    assert report.to_path == DAN


@pytest.mark.parametrize(("leaves", "told"), [(False, [node_hop("n2")]), (True, [])])
def test_report_for_a_node_takes_another_connection(
    nodes: World, alice: Client, leaves: bool, told: list[str]
) -> None:
    got = forwarded(nodes.give(7, from_dan(nodes, alice)), 1)
    nodes.do(nodes.relay.connection_closed(7, nodes.now))
    if leaves:
        nodes.do(nodes.relay.use_nodes({}))
    assert [to_whom for to_whom, _ in nodes.give(1, got.response(413))] == told


def test_report_for_an_unknown_node_is_dropped(nodes: World, alice: Client) -> None:
    stranger = parse_path(b"msrps://n9.relay.example:443/s;tcp msrps://x.invalid:1/x;ws")
    got = forwarded(nodes.give(7, replace(from_dan(nodes, alice), from_path=stranger)), 1)
    nodes.do(nodes.relay.connection_closed(7, nodes.now))
    assert nodes.give(1, got.response(413)) == []


def test_node_only_reaches_clients(nodes: World, alice: Client, carol: Client, bob: int) -> None:
    for path, code in [
        ((alice.session, *DAN), 403),
        ((alice.session, carol.session, carol.uri), 403),
        ((alice.session, BOB), 403),
        (DAN, 481),
    ]:
        assert code_of(nodes.give(7, replace(from_dan(nodes, alice), to_path=path)), 7) == code
    # It cannot speak for us.
    forged = replace(from_dan(nodes, alice), from_path=(carol.session, carol.uri))
    assert code_of(nodes.give(7, forged), 7) == 403
    assert Client(nodes, 7, "alice").auth().code == 403
    assert nodes.wait(1000) == []
    assert nodes.dropped == []


def test_client_cannot_speak_for_a_node(nodes: World, alice: Client, carol: Client) -> None:
    request = replace(from_dan(nodes, alice), from_path=DAN)
    assert code_of(nodes.give(2, request), 2) == 506


def test_node_that_leaves_ends_what_it_had(nodes: World, alice: Client) -> None:
    nodes.give(1, alice.request(alice.to(*DAN)))
    nodes.do(nodes.relay.use_nodes({"n2": N2}))
    assert nodes.take() == []
    nodes.do(nodes.relay.use_nodes({}))
    assert (status_of(only(nodes.take(), 1)) or b"")[:7] == b"000 481"
    assert nodes.relay.nodes == 0
    assert node_hop("n2") not in nodes.relay.peers
    assert code_of(nodes.give(1, alice.request(alice.to(*DAN))), 1) == 481
    nodes.do(nodes.relay.use_nodes({}))
    # It comes back.
    nodes.do(nodes.relay.use_nodes({"n2": N2}))
    forwarded(nodes.give(1, alice.request(alice.to(*DAN))), node_hop("n2"))


@pytest.mark.parametrize("again", [{"n2": RelayNode("n2.relay.example", "boot-2")}, {"n3": N2}])
def test_sessions_of_a_node_end_with_its_run(
    nodes: World, alice: Client, again: dict[str, RelayNode]
) -> None:
    nodes.do(nodes.relay.connection_opened(8, nodes.now, peer=node_hop("n2")))
    nodes.give(1, alice.request(alice.to(*DAN)))
    nodes.do(nodes.relay.use_nodes(again))
    assert (status_of(only(nodes.take(), 1)) or b"")[:7] == b"000 481"
    (name,) = again
    forwarded(nodes.give(1, alice.request(alice.to(*DAN))), node_hop(name))
    # The connection was the earlier run's.
    nodes.do(nodes.relay.connection_closed(8, nodes.now))
    assert nodes.take() == []
    nodes.do(nodes.relay.peer_unreachable(node_hop(name), nodes.now))
    assert (status_of(only(nodes.take(), 1)) or b"")[:7] == b"000 408"


def test_restart_is_not_reported_to_a_node_that_has_left(nodes: World, alice: Client) -> None:
    other = parse_path(b"msrps://n3.relay.example:443/s;tcp msrps://x.invalid:1/x;ws")
    nodes.do(nodes.relay.use_nodes({"n2": N2, "n3": RelayNode("n3.relay.example")}))
    nodes.do(nodes.relay.connection_opened(8, nodes.now, peer=node_hop("n2")))
    request = replace(from_dan(nodes, alice), from_path=DAN)
    got = forwarded(nodes.give(8, request), 1)
    nodes.do(nodes.relay.use_nodes({"n3": RelayNode("n3.relay.example")}))
    nodes.do(nodes.relay.connection_closed(8, nodes.now))
    assert nodes.give(1, got.response(413)) == []
    forwarded(nodes.give(1, alice.request(alice.to(*other))), node_hop("n3"))


def test_own_host_is_not_another_node(world: World, alice: Client) -> None:
    world.do(world.relay.use_nodes({"n1": RelayNode("RELAY.example")}))
    assert world.relay.nodes == 0
    unknown = replace(alice.request(alice.to()), to_path=alice.to(RELAY))
    assert code_of(world.give(1, unknown), 1) == 481


def test_memory_of_nodes_that_have_left_is_limited(world: World, alice: Client) -> None:
    for number in range(300):
        world.do(world.relay.use_nodes({"n": RelayNode(f"n{number}.example")}))
    codes = []
    for number in (0, 42, 43, 298):
        path = parse_path(b"msrps://n%d.example:1/s;tcp msrps://x.invalid:1/x;ws" % number)
        codes.append(code_of(world.give(1, alice.request(alice.to(*path))), 1))
    assert codes == [403, 403, 481, 481]

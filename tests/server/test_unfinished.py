"""Partly received messages: their memory and their deadlines."""

from __future__ import annotations

from tests.server._clients import Client, endpoint
from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import BytesMessage, CloseConnection, Event
from wsproto_sip.policy.decision import Continue, RequestContext
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism

KIB = 1024
#: Sessions without any other deadlines.
PATIENT = SessionConfig(keepalive=KeepaliveConfig(Mechanism.NONE))


def server(total: int = 256 * 1024 * KIB, timeout: float | None = 60.0) -> Endpoint:
    bound = ShareConfig(total)
    return endpoint(session=PATIENT, unfinished_bytes=bound, message_timeout=timeout)


def client(to: Endpoint, address: str = "203.0.113.9", now: float = 0.0) -> Client:
    return Client(to, now, peer=(address, 4000))


def message(of: Client, size: int) -> bytes:
    """Return the bytes of one message."""
    of.session.send(BytesMessage(bytes(size)), 0.0)
    return of.session.data_to_send()


def begin(of: Client, size: int, now: float = 0.0, *, whole: int = 1000 * KIB) -> list[Event]:
    """Send so much of a message."""
    return of.server.receive(of.cid, message(of, whole)[:size], now)


def refused(events: list[Event]) -> str | None:
    """Return why the connection was failed."""
    reasons = [event.reason for event in events if isinstance(event, CloseConnection)]
    return reasons[0] if reasons else None


def test_half_messages_of_one_address_leave_room_for_others() -> None:
    # 931 KiB on each of a hundred connections, for good, was 91 MiB; a hundred addresses 9 GiB.
    to = server(16 * 1024 * KIB)
    reasons = [refused(begin(client(to), 931 * KIB)) for _ in range(100)]
    held = to._unfinished.size
    assert 4 * 1024 * KIB < held <= 6 * 1024 * KIB
    assert {reason for reason in reasons if reason is not None} == {
        "too many bytes in unfinished messages (limit: connection)"
    }
    assert held == (931 * KIB - 14) * reasons.count(None)
    # The refused message holds nothing, and others send their messages in pieces as before.
    honest = client(to, "198.51.100.7")
    data = message(honest, 900 * KIB)
    assert to.receive(honest.cid, data[: 500 * KIB], 0.0) == []
    (whole,) = to.receive(honest.cid, data[500 * KIB :], 0.0)
    assert isinstance(whole, BytesMessage)
    assert len(whole.data) == 900 * KIB
    assert to._unfinished.size == held
    number = 100 - reasons.count(None)
    assert to.statistics.refused() == [("unfinished_bytes", "connection", number)]


def test_users_have_a_reserve() -> None:
    def identify(context: RequestContext) -> Continue:
        name = "alice" if context.peer_address == "192.0.2.1" else None
        return Continue(identity=None if name is None else Identity(name))

    bound = ShareConfig(4 * 1024 * KIB)
    to = endpoint(identify, session=PATIENT, unfinished_bytes=bound)
    for number in range(40):
        begin(client(to, f"203.0.113.{number}"), 900 * KIB)
    assert refused(begin(client(to, "203.0.113.99"), 900 * KIB)) is not None
    assert refused(begin(client(to, "192.0.2.1"), 500 * KIB)) is None


def test_ended_message_releases_its_claim() -> None:
    to = server()
    one, two = client(to), client(to)
    for each in (one, two):
        begin(each, 100 * KIB)
    assert to._unfinished.size > 190 * KIB
    to.receive(one.cid, None, 0.0)
    two.session.send(BytesMessage(b""), 0.0)
    to.receive(two.cid, bytes(901 * KIB), 0.0)
    assert to._unfinished.size == 0
    assert to._unfinished.next_deadline() is None


def test_message_that_does_not_end_has_a_deadline() -> None:
    to = server()
    slow = client(to)
    begin(slow, 100 * KIB, 10.0)
    # A minute, and a second for each KiB of it.
    when = to.next_deadline()
    assert when is not None
    assert 165.0 < when <= 170.0
    assert to.handle_timeout(when - 1.0) == []
    happened = to.handle_timeout(when)
    assert refused([event for _, event in happened]) == "the message took too long"
    assert to._unfinished.size == 0


def test_trickled_bytes_do_not_extend_the_deadline() -> None:
    to = server()
    slow = client(to)
    data = message(slow, 500 * KIB)
    to.receive(slow.cid, data[:100], 0.0)
    reason, sent = None, 100
    for now in range(1, 100):
        events = [event for _, event in to.handle_timeout(float(now))]
        events += to.receive(slow.cid, data[sent : sent + 1], float(now))
        sent += 1
        if (reason := refused(events)) is not None:
            break
    assert (now, reason) == (61, "the message took too long")


def test_message_that_comes_byte_by_byte_is_counted_and_has_a_deadline() -> None:
    to = server()
    of = client(to)
    data = message(of, 100 * KIB)
    # The header on its own, and then only single bytes.
    to.receive(of.cid, data[:14], 0.0)
    for byte in data[14 : 14 + 50 * KIB]:
        to.receive(of.cid, bytes((byte,)), 1.0)
    assert 49 * KIB <= to._unfinished.size <= 50 * KIB
    ended = [event for _, event in to.handle_timeout(1.0 + 60.0 + 50.0)]
    assert refused(ended) == "the message took too long"


def test_slow_upload_that_goes_on_is_not_cut_off() -> None:
    to = server()
    slow = client(to)
    data = message(slow, 500 * KIB)
    for second in range(300):
        assert to.handle_timeout(float(second)) == []
        events = to.receive(slow.cid, data[second * 2 * KIB :][: 2 * KIB], float(second))
        if events:
            break
    assert isinstance(events[0], BytesMessage)


def test_each_message_has_its_own_time() -> None:
    to = server()
    steady = client(to)
    for number in range(10):
        data = message(steady, 100 * KIB)
        now = number * 50.0
        assert to.handle_timeout(now) == []
        assert to.receive(steady.cid, data[: 50 * KIB], now) == []
        following = message(steady, 100 * KIB)
        # The end of one and the beginning of the next in one read.
        events = to.receive(steady.cid, data[50 * KIB :] + following[: 10 * KIB], now + 49.0)
        assert refused(events) is None
        (whole,) = to.receive(steady.cid, following[10 * KIB :], now + 49.0)
        assert isinstance(whole, BytesMessage)


def test_our_own_pause_extends_the_deadline() -> None:
    to = server()
    one = client(to)
    begin(one, 10 * KIB)
    to.pause(one.cid, 0.0)
    assert refused([event for _, event in to.handle_timeout(71.0)]) is None
    to.resume(one.cid, 100.0)
    assert refused([event for _, event in to.handle_timeout(100.0)]) is None
    assert refused([event for _, event in to.handle_timeout(141.0)]) is not None


def test_message_timeout_can_be_disabled() -> None:
    to = server(timeout=None)
    one = client(to)
    begin(one, 10 * KIB)
    assert to.next_deadline() is None
    to._unfinished.put_off(one.cid + 1, 0.0)
    assert to.handle_timeout(1e6) == []

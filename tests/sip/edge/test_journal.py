"""What an edge counts and tells of what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sip._phones import SDP, World, call
from wsproto_sip.sip import SipResponse, parse_message
from wsproto_sip.sip.edge.journal import (
    CallAnswered,
    CallEnded,
    CallFailed,
    EdgeEvent,
    EdgeJournal,
    Refused,
    Registered,
    Unregistered,
    party_of,
)
from wsproto_sip.sip.edge.transactions import Transaction, key_of
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.rules.outbound import Flow

if TYPE_CHECKING:
    from collections.abc import Sequence

BOB = "sip:bob@sip.test"
FLOW = Flow(7, 1)


def kinds(events: Sequence[EdgeEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def told(world: World) -> list[EdgeEvent]:
    events: list[EdgeEvent] = []
    world.edge.journal.observer = events.append
    return events


def request(
    method: str,
    *fields: str,
    tag: str = "",
    call_id: str = "c",
    from_: str = "<sip:alice@sip.test>",
) -> SipRequest:
    to_tag = f";tag={tag}" if tag else ""
    lines = [
        f"{method} sip:bob@sip.test SIP/2.0",
        "Via: SIP/2.0/WS a.invalid;branch=z9hG4bK1",
        "From: <sip:alice@sip.test>;tag=1",
        f"To: <{BOB}>{to_tag}",
        f"Call-ID: {call_id}",
        f"CSeq: 1 {method}",
        "Max-Forwards: 70",
        *fields,
        "",
        "",
    ]
    message = parse_message("\r\n".join(lines))
    assert isinstance(message, SipRequest)
    return message


class Here:
    """A journal by itself."""

    def __init__(self, *, listens: bool = True) -> None:
        self.journal = EdgeJournal()
        self.events: list[EdgeEvent] = []
        if listens:
            self.journal.observer = self.events.append

    def pass_through(
        self, message: SipRequest, status: int | None, *, at: float = 0.0, takes: float = 0.0
    ) -> None:
        transaction = Transaction(key_of(message, FLOW), message, "base")
        self.journal.started(transaction, at)
        response = None
        if status is not None:
            response = message.make_response(status)
            if status < 300 and message.to.tag is None:
                response.replace_header("To", f"<{BOB}>;tag=2")
        self.journal.finished(transaction, response, at + takes)


# -- with telephones -------------------------------------------------------------------------------


def test_a_call_from_registration_to_hanging_up() -> None:
    world = World()
    events = told(world)
    alice, bob = world.phone("alice"), world.phone("bob")
    call(alice, bob)
    assert kinds(events)[:4] == ["Registered", "Registered", "CallStarted", "CallAnswered"]
    first = events[0]
    assert isinstance(first, Registered)
    assert (first.aor, first.refreshed) == ("sip:alice@sip.test", False)
    assert first.cid is not None
    assert first.expires is not None
    assert first.expires > 0
    answered = events[3]
    assert isinstance(answered, CallAnswered)
    assert (answered.status, answered.targets) == (200, 1)
    assert party_of(answered.request, "from") == "alice@sip.test"
    counts = world.edge.journal
    assert counts.requests["client", "INVITE"] == 1
    assert counts.responses["client", 2] == 1
    assert counts.finals["INVITE", 2] == 1
    assert counts.calls["answered"] == 1
    assert counts.setup_seconds.count == 1
    assert counts.branches >= 1


def test_a_refused_request_is_logged_with_the_reason() -> None:
    world = World()
    events = told(world)
    alice = world.phone("alice")
    alice.send("INVITE", "sip:nobody@sip.test", body=SDP)
    alice.response(404)
    refused = events[-1]
    assert isinstance(refused, Refused)
    assert (refused.status, refused.cid) == (404, 1)
    assert refused.request is not None
    assert world.edge.journal.refused == {404: 1}
    alice.say("nonsense\r\n\r\n")
    alice.say(
        "MESSAGE sip:bob@sip.test SIP/2.0\r\nVia: SIP/2.0/WS a;branch=z9hG4bK9\r\n"
        "From: <sip:alice@sip.test>;tag=1\r\nTo: <sip:bob@sip.test>\r\nCall-ID: c\r\n"
        "CSeq: 1 OTHER\r\nMax-Forwards: 70\r\n\r\n"
    )
    unreadable = events[-1]
    assert isinstance(unreadable, Refused)
    assert unreadable.status == 400


def test_the_end_of_a_connection_unregisters() -> None:
    world = World()
    alice = world.phone("alice")
    events = told(world)
    alice.hang_up()
    [gone] = events
    assert isinstance(gone, Unregistered)
    assert (gone.aor, gone.cause, gone.cid) == ("sip:alice@sip.test", "connection", 1)


# -- by itself -------------------------------------------------------------------------------------


def test_calls() -> None:
    here = Here()
    here.pass_through(request("INVITE"), 200, takes=0.5)
    assert len(here.journal.answered) == 1
    here.pass_through(request("INVITE", tag="2"), 200, at=5.0)
    here.pass_through(request("BYE", tag="2"), 407, at=9.0)
    here.pass_through(request("BYE", tag="2"), 200, at=10.5)
    here.pass_through(request("BYE", tag="2"), None, at=11.0)
    here.pass_through(request("INVITE", call_id="d"), 486, takes=2.0)
    assert kinds(here.events) == [
        *("CallStarted", "CallAnswered", "Relayed", "Relayed", "CallEnded", "CallEnded"),
        *("CallStarted", "CallFailed"),
    ]
    answered, ended, unknown, failed = (here.events[index] for index in (1, 4, 5, 7))
    assert isinstance(answered, CallAnswered)
    assert isinstance(ended, CallEnded)
    assert isinstance(unknown, CallEnded)
    assert isinstance(failed, CallFailed)
    assert (answered.seconds, ended.seconds, unknown.seconds) == (0.5, 10.0, None)
    assert (failed.status, failed.seconds, failed.cid) == (486, 2.0, 7)
    assert here.journal.calls == {"started": 2, "answered": 1, "failed": 1, "ended": 2}
    assert len(here.journal.answered) == 0
    assert (here.journal.setup_seconds.total, here.journal.call_seconds.total) == (0.5, 10.0)
    assert here.journal.finals["BYE", 0] == 1


def test_a_call_that_passes_twice_ends_twice() -> None:
    here = Here()
    for _ in range(2):
        here.pass_through(request("INVITE"), 200)
    for _ in range(2):
        here.pass_through(request("BYE", tag="2"), 200, at=3.0)
    assert here.journal.call_seconds.count == 2


def test_events_without_an_observer_cost_little() -> None:
    here = Here(listens=False)
    here.pass_through(request("INVITE"), 200)
    here.journal.refuse(None, 400, "bad", 1)
    assert here.journal.refused == {400: 1}
    assert here.events == []


def test_an_answer_that_names_no_dialog_is_an_answer_all_the_same() -> None:
    here = Here()
    message = request("INVITE")
    transaction = Transaction(key_of(message, None), message, "base")
    here.journal.started(transaction, 0.0)
    response = message.make_response(200)
    response.replace_header("To", "<")
    here.journal.finished(transaction, response, 1.0)
    assert here.journal.calls["answered"] == 1
    assert len(here.journal.answered) == 0
    assert here.events[0].cid is None


def test_other_methods_are_counted_together() -> None:
    here = Here()
    for method in ("MESSAGE", "ODD", "STRANGE"):
        here.journal.request_came(method, None)
        here.pass_through(request(method), 200)
    assert here.journal.requests == {("upstream", "MESSAGE"): 1, ("upstream", "other"): 2}
    assert here.journal.finals == {("MESSAGE", 2): 1, ("other", 2): 2}
    assert kinds(here.events) == ["Relayed"] * 3
    here.journal.response_came(180, 1)
    assert here.journal.responses == {("client", 1): 1}


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        (("Contact: <sip:a@b>",), 200, Registered("bob@sip.test", "<sip:a@b>", 7, None, False)),
        (("Contact: *", "Expires: 0"), 200, Unregistered("bob@sip.test", "*", 7, "request")),
        (("Contact: <sip:a@b>", "Expires: 0"), 200, Unregistered),
        (("Contact: <sip:a@b>;expires=0",), 200, Unregistered),
        ((), 200, Registered),
        ((), 403, Refused),
        ((), 401, None),
        ((), 503, Refused),
    ],
)
def test_an_upstream_has_answered_a_register(
    fields: tuple[str, ...], status: int, expected: object
) -> None:
    here = Here()
    here.pass_through(request("REGISTER", *fields), status)
    if expected is None:
        assert here.events == []
    elif isinstance(expected, type):
        assert isinstance(here.events[0], expected)
    else:
        assert here.events == [expected]
    assert here.journal.registered == (status == 200)
    Here(listens=False).pass_through(request("REGISTER", *fields), status)


def test_an_unanswered_register() -> None:
    here = Here()
    here.pass_through(request("REGISTER"), None)
    assert kinds(here.events) == ["Relayed"]


def test_changes_of_bindings() -> None:
    world = World()
    phone = world.phone("alice")
    events = told(world)
    registrar = world.edge.registrar
    assert registrar is not None
    assert (registrar.bindings, registrar.added) == (1, 1)
    phone.register()
    again = events[-1]
    assert isinstance(again, Registered)
    assert again.refreshed
    assert (registrar.bindings, registrar.added, registrar.refreshed) == (1, 1, 1)
    world.edge.journal.observer = None
    phone.hang_up()
    assert registrar.bindings == 0


@pytest.mark.parametrize(
    ("from_", "party"),
    [
        ("<sip:alice:secret@sip.test;x=y>", "alice@sip.test"),
        ("<sip:sip.test>", "sip.test"),
        ("<tel:+49;phone-context=x>", "tel:+49"),
        ("<", ""),
    ],
)
def test_the_party_of_a_message(from_: str, party: str) -> None:
    message = request("MESSAGE")
    message.replace_header("From", f"{from_};tag=1")
    assert party_of(message, "from") == party
    assert party_of(SipResponse(200, "OK", [("To", "<sip:b@c>")]), "to") == "b@c"

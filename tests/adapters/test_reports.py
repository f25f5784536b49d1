"""Events of a server as log records and as calls of a hook."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.reports import Line, Reports
from wsproto_sip.auth import Attempt, Failure, FailureCause, Identity
from wsproto_sip.events import BytesMessage, Request
from wsproto_sip.msrp.relay import journal as relay
from wsproto_sip.server.events import Answer, Closed, Opened, Traffic
from wsproto_sip.server.registry import Registry
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.session.session import Session
from wsproto_sip.sip import SipRequest, SipUri
from wsproto_sip.sip.edge.actions import UpstreamChanged
from wsproto_sip.sip.edge.journal import (
    CallAnswered,
    CallEnded,
    CallFailed,
    CallStarted,
    EdgeEvent,
    Refused,
    Registered,
    Relayed,
    Unregistered,
)
from wsproto_sip.states import ConnectionType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wsproto_sip.server.registry import Entry

ALICE = Identity("alice")
REQUEST = Request(
    "example.com",
    "/ws?token=secret",
    extra_headers=[
        (b"origin", b"https://a.test"),
        (b"user-agent", b"curl"),
        (b"authorization", b"Basic YWxpY2U6c2VjcmV0"),
    ],
)
TOLD = {
    "target": "/ws?…",
    "host": "example.com",
    "origin": "https://a.test",
    "agent": "curl",
}


class Told:
    """Collects what was logged, and what a hook was called with."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        self.hooked: list[tuple[str, str, Mapping[str, object]]] = []
        self.reports = Reports(lambda *fact: self.hooked.append(fact))

    @property
    def line(self) -> tuple[str, str, Mapping[str, Any]]:
        [record] = self.records
        assert isinstance(record.msg, Line)
        return record.name, record.msg.event, record.msg.fields


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.records.append(record)

    handler = Kept()
    logger = logging.getLogger("wsproto_sip")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("wsproto_sip")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def entry_of(*, secure: bool = True) -> Entry:
    session = Session.established(ConnectionType.SERVER, now=0.0)
    registry = Registry()
    entry = registry.add(session, ("192.0.2.1", 7), None, secure, 0.0)
    registry.move(entry, ("2001:db8::1", 77))
    return entry


def closed_by(
    cause: Cause, *, opened: bool = True, answer: Answer | None = None, reason: str = "why"
) -> Closed:
    return Closed(
        *(1, "192.0.2.1", 7, "sip", ALICE, None, ConnectionClosed(1001, reason, cause), opened),
        answer,
        Traffic(1, 2, 30, 40, 1.23456),
        ("192.0.2.1", 7),
    )


def test_opened(told: Told) -> None:
    told.reports.connection(Opened(1, "sip", ALICE, REQUEST), entry_of(), "TLSv1.3")
    fields = {
        "connection": 1,
        "peer": "[2001:db8::1]:77",
        "proxy": "192.0.2.1:7",
        "secure": True,
        "tls": "TLSv1.3",
        **TOLD,
        "subprotocol": "sip",
        "identity": "alice",
    }
    assert told.line == ("wsproto_sip.ws", "opened", fields)
    assert told.hooked == [("ws", "opened", fields)]


def test_outgoing_connection_that_is_gone_is_reported(told: Told) -> None:
    told.reports.connection(Opened(1, None, None, None), None, None)
    assert told.line[2] == {"connection": 1, "peer": "", "outgoing": True, "secure": False}


@pytest.mark.parametrize(
    ("cause", "by"),
    [
        (Cause.REMOTE, "peer"),
        (Cause.SHUTDOWN, "server"),
        (Cause.LIMIT, "server"),
        (Cause.END_OF_INPUT, "network"),
    ],
)
def test_closed(told: Told, cause: Cause, by: str) -> None:
    told.reports.connection(closed_by(cause), None, None)
    fields = {
        "connection": 1,
        "peer": "192.0.2.1:7",
        "subprotocol": "sip",
        "identity": "alice",
        "code": 1001,
        "cause": cause.value,
        "by": by,
        "received_messages": 1,
        "sent_messages": 2,
        "received_bytes": 30,
        "sent_bytes": 40,
        "seconds": 1.235,
        "reason": "why",
    }
    assert told.line == ("wsproto_sip.ws", "closed", fields)
    assert told.hooked == [("ws", "closed", fields)]


def test_refused(told: Told) -> None:
    answer = Answer(403, "Origin is not allowed", REQUEST, ("203.0.113.9", None))
    told.reports.connection(closed_by(Cause.REJECTION, opened=False, answer=answer), None, None)
    fields = {
        "connection": 1,
        "peer": "203.0.113.9",
        "proxy": "192.0.2.1:7",
        "status": 403,
        "reason": "Origin is not allowed",
        **TOLD,
        "user": "alice",
    }
    assert told.line == ("wsproto_sip.ws", "refused", fields)
    assert told.hooked == [("ws", "refused", fields)]
    [record] = told.records
    assert isinstance(record.msg, Line)
    assert record.msg.about == "203.0.113.9"
    assert "secret" not in str(record.msg)
    assert "YWxp" not in str(record.msg)


def test_refusal_before_the_request_is_reported(told: Told) -> None:
    answer = Answer(408, "", None, ("192.0.2.1", 7))
    told.reports.connection(closed_by(Cause.REJECTION, opened=False, answer=answer), None, None)
    assert told.line[2] == {"connection": 1, "peer": "192.0.2.1:7", "status": 408}


def test_page_is_reported_as_served(told: Told) -> None:
    answer = Answer(200, "a page", Request("h", "/"), ("192.0.2.1", 7), served=True)
    told.reports.connection(closed_by(Cause.REJECTION, opened=False, answer=answer), None, None)
    assert told.line[1] == "served"
    assert told.line[2]["target"] == "/"
    assert told.hooked == []


def test_health_checks_are_logged_at_debug(told: Told) -> None:
    for status in (200, 503):
        answer = Answer(status, "", Request("h", "/"), ("192.0.2.1", 7), served=True, routine=True)
        told.reports.connection(closed_by(Cause.REJECTION, opened=False, answer=answer), None, None)
    assert told.records == []
    logging.getLogger("wsproto_sip").setLevel(logging.DEBUG)
    told.reports.connection(closed_by(Cause.REJECTION, opened=False, answer=answer), None, None)
    assert told.line[1] == "served"
    assert told.records[0].levelname == "DEBUG"


@pytest.mark.parametrize(("up", "event"), [(True, "upstream-up"), (False, "upstream-down")])
def test_upstream_changes_are_warnings_for_log_and_hook(told: Told, up: bool, event: str) -> None:
    told.reports.upstream(UpstreamChanged("sip:192.0.2.5:5060", up, "because"))
    fields = {"upstream": "sip:192.0.2.5:5060", "reason": "because"}
    assert told.line == ("wsproto_sip.sip", event, fields)
    assert told.hooked == [("sip", event, fields)]
    assert told.records[0].levelname == "WARNING"


def test_unanswered_handshake_is_reported_as_failed(told: Told) -> None:
    told.reports.connection(closed_by(Cause.TLS, opened=False, reason=""), None, None)
    assert told.line == (
        "wsproto_sip.ws",
        "failed",
        {"connection": 1, "peer": "192.0.2.1:7", "cause": "TLS", "seconds": 1.235},
    )


def test_other_events_are_ignored(told: Told) -> None:
    told.reports.connection(BytesMessage(b""), None, None)
    assert told.records == []


INVITE = SipRequest(
    "INVITE",
    SipUri.parse("sip:bob@sip.test"),
    [("From", "<sip:alice:secret@sip.test>;tag=1"), ("To", "<sip:bob@sip.test>"), ("Call-ID", "c")],
)
CALL = {
    "method": "INVITE",
    "from": "alice@sip.test",
    "to": "bob@sip.test",
    "call_id": "c",
}
PEER = {"connection": 1, "peer": "192.0.2.1:7"}
CONTACT = "sip:a@b.invalid"


@pytest.mark.parametrize(
    ("event", "name", "fields"),
    [
        (
            Registered("sip:alice@sip.test", CONTACT, 1, 299.6, False),
            "registered",
            {"aor": "sip:alice@sip.test", "expires": 300, "contact": CONTACT},
        ),
        (
            Registered("sip:alice@sip.test", CONTACT, 1, None, True),
            "refreshed",
            {"aor": "sip:alice@sip.test", "contact": CONTACT},
        ),
        (
            Unregistered("sip:alice@sip.test", CONTACT, 1, "expired"),
            "unregistered",
            {"aor": "sip:alice@sip.test", "cause": "expired", "contact": CONTACT},
        ),
        (Refused(404, "no", 1, INVITE), "refused", {"status": 404, "reason": "no", **CALL}),
        (Refused(400, "bad", 1, None), "refused", {"status": 400, "reason": "bad"}),
        (Refused(401, "who", 1, INVITE), "challenged", {"status": 401, "reason": "who", **CALL}),
        (CallStarted(INVITE, 1), "call-started", CALL),
        (
            CallAnswered(INVITE, 1, 1.23456, 200, 2),
            "call-answered",
            {"status": 200, "seconds": 1.235, "targets": 2, **CALL},
        ),
        (
            CallFailed(INVITE, 1, 1.0, 486, 1),
            "call-failed",
            {"status": 486, "seconds": 1.0, **CALL},
        ),
        (CallEnded(INVITE, 1, None, 200, 1), "call-ended", {"status": 200, **CALL}),
        (Relayed(INVITE, 1, 0.5, None, 1), "relayed", {"seconds": 0.5, **CALL}),
    ],
)
def test_events_of_a_sip_edge_are_reported(
    told: Told, event: EdgeEvent, name: str, fields: dict[str, object]
) -> None:
    logging.getLogger("wsproto_sip").setLevel(logging.DEBUG)
    told.reports.sip(event, ("192.0.2.1", 7))
    assert told.line == ("wsproto_sip.sip", name, PEER | fields)
    hooked = ("registered", "unregistered", "refused")
    assert [fact[1] for fact in told.hooked] == [name] * (name in hooked)
    [record] = told.records
    debug = name in ("refreshed", "challenged", "relayed")
    assert record.levelno == (logging.DEBUG if debug else logging.INFO)


def test_upstream_is_reported_without_address(told: Told) -> None:
    told.reports.sip(Refused(404, "no", None, None), None)
    assert told.line[2] == {"status": 404, "reason": "no"}
    assert isinstance(told.records[0].msg, Line)
    assert told.records[0].msg.about == "upstream"


@pytest.mark.parametrize(
    ("event", "name", "fields"),
    [
        (relay.Authorized("alice", 1, 900, False), "authorized", {"user": "alice", "expires": 900}),
        (relay.Authorized("alice", 1, 900, True), "refreshed", {"user": "alice", "expires": 900}),
        (relay.Refused("AUTH", 401, "", 1), "challenged", {"status": 401, "method": "AUTH"}),
        (relay.Refused("", 400, "bad", 1), "refused", {"status": 400, "reason": "bad"}),
        (relay.Relayed("SEND", 300, 1), "relayed", {"method": "SEND", "bytes": 300}),
        (relay.Failed(408, 1), "failed", {"status": 408}),
        (relay.Dropped(1, "enough"), "dropped", {"reason": "enough"}),
    ],
)
def test_events_of_an_msrp_relay_are_reported(
    told: Told, event: relay.RelayEvent, name: str, fields: dict[str, object]
) -> None:
    logging.getLogger("wsproto_sip").setLevel(logging.DEBUG)
    told.reports.msrp(event, ("192.0.2.1", 7))
    assert told.line == ("wsproto_sip.msrp", name, PEER | fields)
    debug = name in ("refreshed", "challenged", "relayed")
    assert told.records[0].levelno == (logging.DEBUG if debug else logging.INFO)
    assert [fact[1] for fact in told.hooked] == [name] * (name in ("authorized", "refused"))
    told.records.clear()
    told.reports.msrp(event, None)
    assert "peer" not in told.line[2]


def test_failed_login_is_reported(told: Told) -> None:
    failure = Failure(Attempt("sip", "[::1]", "alice"), FailureCause.PAIR, 2.04)
    told.reports.authentication_failed(failure)
    assert told.line == (
        "wsproto_sip.auth",
        "authentication-failed",
        {"address": "::1", "service": "sip", "cause": "slowed-pair", "wait": 2.0, "user": "alice"},
    )
    assert told.records[0].levelno == logging.WARNING
    assert told.hooked == []


@pytest.mark.usefixtures("quiet")
def test_unwanted_events_make_no_records() -> None:
    reports = Reports()
    answer = Answer(403, "", REQUEST, ("192.0.2.1", 7))
    assert not reports.wants("ws", logging.ERROR, "opened")
    reports.connection(Opened(1, "sip", ALICE, REQUEST), entry_of(), None)
    reports.connection(closed_by(Cause.LOCAL), None, None)
    reports.connection(closed_by(Cause.LOCAL, opened=False), None, None)
    reports.connection(closed_by(Cause.LOCAL, opened=False, answer=answer), None, None)
    reports.tell("ws", logging.INFO, "opened", {})
    reports.sip(CallStarted(INVITE, 1), ("192.0.2.1", 7))
    reports.msrp(relay.Failed(408, 1), None)


@pytest.mark.usefixtures("quiet")
def test_hook_is_called_regardless_of_log_levels(told: Told) -> None:
    logging.getLogger("wsproto_sip").setLevel(logging.CRITICAL)
    told.reports.connection(closed_by(Cause.LOCAL), None, None)
    assert told.records == []
    assert [fact[:2] for fact in told.hooked] == [("ws", "closed")]

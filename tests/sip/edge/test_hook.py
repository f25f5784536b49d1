"""The program's own decisions about requests: at once, later, and when it fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sip._phones import SDP, UPSTREAM, Phone, World, call
from wsproto_sip.auth import LATER, Later, Unavailable
from wsproto_sip.sip import SipParseError, SipRequest, SipUri, parse_uri
from wsproto_sip.sip.edge.config import ChallengeScope
from wsproto_sip.sip.edge.connections import Peer
from wsproto_sip.sip.edge.hook import (
    EdgeHook,
    Failed,
    HookRequest,
    Proceed,
    Refuse,
    Verdict,
    apply_verdict,
)
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

BOB = "sip:bob@sip.test"


class Hook:
    """Notes what it is asked, and answers what it is told to, REGISTER always with yes."""

    def __init__(self, verdict: Verdict | Later | Exception = None) -> None:
        self.verdict = verdict
        self.asked: list[HookRequest] = []

    def __call__(self, request: HookRequest) -> Verdict | Later:
        if request.request.method == "REGISTER":
            return None
        self.asked.append(request)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


def world_with(hook: EdgeHook, **options: object) -> tuple[World, Phone, Phone]:
    world = World(hook=hook, **options)  # type: ignore[arg-type]
    return world, world.phone("alice"), world.phone("bob")


def test_requests_accepted_by_the_hook_are_forwarded() -> None:
    hook = Hook()
    world, alice, bob = world_with(hook)
    alice.send("MESSAGE", BOB, body=b"hello")
    assert bob.request("MESSAGE").body == b"hello"
    (asked,) = hook.asked
    assert (asked.request.method, str(asked.request.uri)) == ("MESSAGE", BOB)
    assert (asked.user, asked.connection, asked.address) == (None, alice.cid, "192.0.2.1")
    assert (asked.secure, asked.in_dialog, asked.now) == (False, False, world.now)


def test_header_fields_are_removed_and_added() -> None:
    world, alice, bob = world_with(
        Hook(Proceed(remove=["Subject", "X-Old"], add=[("X-Old", "new"), ("s", "changed")]))
    )
    alice.send("MESSAGE", BOB, ("Subject", "one"), ("X-Old", "a"), ("X-Old", "b"))
    got = bob.request("MESSAGE")
    assert got.get_all("x-old") == ["new"]
    assert got.get_all("subject") == ["changed"]
    assert world.quiet()


def test_changes_to_the_hooks_copy_have_no_effect() -> None:
    def hook(asked: HookRequest) -> Verdict:
        asked.request.remove_header("subject")
        return None

    _, alice, bob = world_with(hook)
    alice.send("MESSAGE", BOB, ("Subject", "one"))
    assert bob.request("MESSAGE").get("subject") == "one"


@pytest.mark.parametrize("uri", [BOB, SipUri.parse(BOB)])
def test_a_request_is_sent_elsewhere(uri: str | SipUri) -> None:
    _, alice, bob = world_with(Hook(Proceed(uri)))
    alice.send("MESSAGE", "sip:support@sip.test")
    assert bob.request("MESSAGE").to.uri == parse_uri("sip:support@sip.test")


def test_a_request_is_refused() -> None:
    world, alice, _ = world_with(Hook(Refuse(302, headers=[("Contact", "<sip:x@y.test>")])))
    alice.send("MESSAGE", BOB)
    assert alice.response(302).get("contact") == "<sip:x@y.test>"
    assert world.edge.hook_errors == 0


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (RuntimeError("broken"), "broken"),
        ("yes", "a hook must return Proceed, Refuse, None or LATER, not 'yes'"),
    ],
)
def test_a_failing_hook_affects_only_its_request(verdict: object, reason: str) -> None:
    hook = Hook(verdict)  # type: ignore[arg-type]
    world, alice, bob = world_with(hook)
    alice.send("MESSAGE", BOB)
    alice.response(500)
    (failure,) = world.failures
    assert (failure.method, str(failure.error)) == ("MESSAGE", reason)
    assert world.edge.hook_errors == 1
    hook.verdict = None
    alice.send("MESSAGE", BOB)
    bob.request("MESSAGE")


def test_a_registration_waits_for_the_hook() -> None:
    def hook(asked: HookRequest) -> Later:
        questions.append(asked)
        return LATER

    questions: list[HookRequest] = []
    world = World(hook=hook, authenticator=DigestAuthenticator("sip.test", {"alice": "wonderland"}))
    alice = world.phone("alice", password="wonderland", registers=False)
    fields = alice.registration(expires=60)
    uri, to = "sip:sip.test", f"<{alice.aor}>"
    alice.send("REGISTER", uri, *fields, to=to)
    proof = alice.credentials(alice.response(401), "REGISTER", uri)
    alice.send("REGISTER", uri, *fields, proof, to=to, cseq=2)
    assert questions[0].user == "alice"
    assert alice.heard == []
    world.answer(None)
    assert alice.response(200).values("contact")
    # Nothing was asked about what had to be proven first.
    assert len(questions) == 1


def test_the_verdict_may_come_later() -> None:
    world, alice, bob = world_with(Hook(LATER))
    alice.send("MESSAGE", BOB)
    alice.send("MESSAGE", BOB)
    assert isinstance(world.questions[1], HookRequest)
    assert world.edge.waiting == 2
    world.answer(Proceed(add=[("X-Seen", "1")]))
    assert bob.request("MESSAGE").get("x-seen") == "1"
    world.answer(Refuse(486))
    alice.response(486)
    alice.send("MESSAGE", BOB)
    world.answer(Failed(RuntimeError("broken")))
    alice.response(500)
    assert str(world.failures[0].error) == "broken"
    alice.send("MESSAGE", BOB)
    world.answer(Unavailable("busy", 9))
    assert alice.response(503).get("retry-after") == "9"
    alice.send("MESSAGE", BOB)
    world.wait(5)
    alice.response(503)
    assert world.quiet()


def test_within_a_dialog_its_routes_decide() -> None:
    hook = Hook()
    world, alice, bob = world_with(hook)
    here, _ = call(alice, bob)
    # The ACK went by.
    assert [asked.request.method for asked in hook.asked] == ["INVITE"]
    here.send("INFO", body=b"x")
    bob.answer(bob.request("INFO"), 200)
    alice.response(200)
    assert hook.asked[-1].in_dialog
    hook.verdict = Proceed(BOB)
    here.send("INFO")
    alice.response(500)
    assert "within a dialog" in str(world.failures[0].error)


def test_neither_options_to_the_edge_nor_a_cancel_are_asked_about() -> None:
    hook = Hook()
    _, alice, bob = world_with(hook)
    alice.send("OPTIONS", "sip:edge.test:8080")
    alice.response(200)
    invite = alice.send("INVITE", BOB, body=SDP)
    alice.response(100)
    bob.answer(bob.request("INVITE"), 180)
    alice.response(180)
    alice.follow("CANCEL", invite)
    assert len(hook.asked) == 1


def test_in_front_of_an_upstream_both_sides_are_asked_about() -> None:
    hook = Hook(Proceed(add=[("X-Hook", "1")]))
    world = World(hook=hook, upstream=UPSTREAM, challenge=ChallengeScope.NONE)
    source = Source("192.0.2.7", 4000, "wss")
    alice = Phone(
        world, "alice", registers=False, transport="wss", source=source, peer=Peer(source, "alice")
    )
    alice.send("REGISTER", "sip:sip.test", *alice.registration(expires=60), to=f"<{alice.aor}>")
    assert world.upstream_request().method == "REGISTER"
    alice.send("MESSAGE", BOB)
    assert world.upstream_request().get("x-hook") == "1"
    (asked,) = hook.asked
    assert (asked.user, asked.secure) == ("alice", True)
    connection = world.edge._connections.get(alice.cid)
    assert connection is not None
    token = world.edge._tokens.make(connection.flow)
    world.from_upstream(
        SipRequest(
            "MESSAGE",
            alice.contact,
            [
                ("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKc"),
                ("Max-Forwards", "70"),
                ("Route", f"<sip:{token}@192.0.2.100:5080;lr>"),
                ("From", "<sip:carol@sip.test>;tag=c"),
                ("To", "<sip:alice@sip.test>"),
                ("Call-ID", "c"),
                ("CSeq", "1 MESSAGE"),
            ],
        )
    )
    assert alice.request("MESSAGE").get("x-hook") == "1"
    asked = hook.asked[-1]
    assert (asked.user, asked.connection, asked.address, asked.secure) == (None, None, "", False)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Proceed(add=[("v", "x")]), "'v' cannot be added or removed"),
        (lambda: Proceed(remove=["Call-ID"]), "'Call-ID' cannot be added or removed"),
        (lambda: Proceed(add=[("X", "a\r\nb")]), "line break"),
        (lambda: Proceed(add=[("no token", "x")]), "not a token"),
        (lambda: Refuse(200), "not a status from 300 to 699: 200"),
        (lambda: Refuse(700), "not a status from 300 to 699: 700"),
        (lambda: Refuse(486, headers=[("X", "\0")]), "NUL"),
    ],
)
def test_invalid_verdicts_are_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_an_invalid_uri_is_refused() -> None:
    with pytest.raises(SipParseError):
        Proceed("sip:")


def test_nothing_is_done_for_none() -> None:
    request = SipRequest("MESSAGE", BOB, [])
    assert apply_verdict(None, request, in_dialog=False) is None

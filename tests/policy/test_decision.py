from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import AcceptConnection, RejectConnection, RejectData, Request
from wsproto_sip.policy.decision import (
    Accept,
    Continue,
    Decision,
    Deferred,
    Pending,
    PolicyChain,
    Reject,
    RequestContext,
    Respond,
    header_values,
    refuse,
)
from wsproto_sip.utilities import LocalProtocolError

CONTEXT = RequestContext(
    Request(
        host="example.com",
        target="/",
        extra_headers=[(b"cookie", b"a=1"), (b"origin", b"null"), (b"cookie", b"b=2")],
    ),
    now=5.0,
)
ALICE = Identity("alice", "basic")
BOB = Identity("bob", "token", {"role": "admin"})


def passing(_: RequestContext) -> Decision:
    return Continue()


def test_header_values_are_found_by_name_in_order() -> None:
    assert header_values(CONTEXT.request, b"cookie") == [b"a=1", b"b=2"]
    assert header_values(CONTEXT.request, b"origin") == [b"null"]
    assert header_values(CONTEXT.request, b"x-none") == []


def test_empty_chain_accepts() -> None:
    assert PolicyChain().decide(CONTEXT) == Accept(CONTEXT)


@pytest.mark.parametrize("policies", [[print, 5], [None], ["policy"]])
def test_what_is_not_a_policy_is_refused_when_the_chain_is_made(policies: Any) -> None:
    with pytest.raises(TypeError, match="a policy must be callable: "):
        PolicyChain(policies)


def test_one_policy_is_not_a_chain() -> None:
    with pytest.raises(
        TypeError, match="policies must be several: \\[<built-in function print>\\]"
    ):
        PolicyChain(print)  # type: ignore[arg-type]


def test_contributions_are_merged_in_order() -> None:
    chain = PolicyChain(
        [
            lambda _: Continue(headers=[(b"a", b"1")], identity=ALICE, subprotocol="sip"),
            passing,
            lambda _: Continue(headers=[(b"b", b"2"), (b"a", b"3")]),
        ]
    )
    assert chain.decide(CONTEXT) == Accept(
        replace(CONTEXT, identity=ALICE, subprotocol="sip"),
        "sip",
        ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")),
        ALICE,
    )


def test_later_identity_and_subprotocol_replace_earlier_ones() -> None:
    chain = PolicyChain(
        [
            lambda _: Continue(identity=ALICE, subprotocol="sip"),
            lambda _: Continue(identity=BOB, subprotocol="msrp"),
        ]
    )
    context = replace(CONTEXT, identity=BOB, subprotocol="msrp")
    assert chain.decide(CONTEXT) == Accept(context, "msrp", (), BOB)


def test_corrected_context_is_what_the_next_policy_sees() -> None:
    other = RequestContext(CONTEXT.request, peer_address="192.0.2.1")
    seen: list[RequestContext] = []

    def look(context: RequestContext) -> Decision:
        seen.append(context)
        return Continue()

    outcome = PolicyChain([look, lambda _: Continue(context=other), look]).decide(CONTEXT)
    assert seen == [CONTEXT, other]
    assert outcome == Accept(other)


def test_later_policies_see_the_identity_in_any_context() -> None:
    seen: list[Identity | None] = []

    def look(context: RequestContext) -> Decision:
        seen.append(context.identity)
        return Continue()

    other = RequestContext(CONTEXT.request, peer_address="192.0.2.1")
    chain = PolicyChain([look, lambda _: Continue(identity=ALICE, context=other), look])
    assert chain.decide(CONTEXT) == Accept(replace(other, identity=ALICE), identity=ALICE)
    assert seen == [None, ALICE]


def test_first_rejection_ends_the_chain() -> None:
    asked: list[int] = []

    def answer(number: int, decision: Decision) -> Decision:
        asked.append(number)
        return decision

    chain = PolicyChain(
        [
            lambda _: answer(1, Continue(headers=[(b"a", b"1")])),
            lambda _: answer(2, refuse(403, "two")),
            lambda _: answer(3, refuse(401, "three")),
        ]
    )
    assert chain.decide(CONTEXT) == Reject(403, "two")
    assert asked == [1, 2]


def test_deferred_decision_continues_the_chain() -> None:
    def ask(_: RequestContext) -> Decision:
        return Deferred("who?", lambda who: Continue(identity=who if who is ALICE else None))

    times: list[float] = []

    def clock(context: RequestContext) -> Decision:
        times.append(context.now)
        return Continue(headers=[(b"b", b"2")])

    chain = PolicyChain([lambda _: Continue(headers=[(b"a", b"1")]), ask, clock])
    pending = chain.decide(CONTEXT)
    assert isinstance(pending, Pending)
    assert pending.question == "who?"
    assert pending.position == 1
    assert times == []

    outcome = chain.resume(pending, ALICE)
    assert outcome == Accept(
        replace(CONTEXT, identity=ALICE), None, ((b"a", b"1"), (b"b", b"2")), ALICE
    )
    later = chain.resume(pending, ALICE, now=9.0)
    assert isinstance(later, Accept)
    assert later.context.now == 9.0
    assert times == [5.0, 9.0]


def test_deferred_decision_may_refuse_or_be_deferred_again() -> None:
    second = Deferred("second", lambda answer: refuse(403, str(answer)))
    chain = PolicyChain([lambda _: Deferred("first", lambda _: second), passing])
    first = chain.decide(CONTEXT)
    assert isinstance(first, Pending)
    again = chain.resume(first, None)
    assert again == Pending(second, 0, Accept(CONTEXT))
    assert chain.resume(again, "no") == Reject(403, "no")


def test_exception_of_a_hook_passes_through() -> None:
    def broken(_: RequestContext) -> Decision:
        raise LookupError("database gone")

    with pytest.raises(LookupError, match="database gone"):
        PolicyChain([broken]).decide(CONTEXT)


def test_accept_gives_the_event() -> None:
    accept = Accept(CONTEXT, "sip", ((b"a", b"1"),), ALICE)
    assert accept.event() == AcceptConnection("sip", [], [(b"a", b"1")])


def test_reject_gives_the_events() -> None:
    assert refuse(403, "no", (b"a", b"1")).events() == [
        RejectConnection(403, [(b"a", b"1")], has_body=False)
    ]
    with_body = Reject(403, headers=[(b"Content-Length", b"999"), (b"a", b"1")], body=b"no\n")
    assert with_body.events() == [
        RejectConnection(403, [(b"a", b"1"), (b"content-length", b"3")], has_body=True),
        RejectData(b"no\n", body_finished=True),
    ]


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 200, 299, 600, 1000])
def test_rejection_needs_a_valid_status(status: int) -> None:
    with pytest.raises(ValueError, match="not a status from 300 to 599"):
        Reject(status)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xe4"])
def test_header_names_are_tokens(name: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="not a header field's name"):
        Continue(headers=[(name, b"x")])
    with pytest.raises(LocalProtocolError, match="not a header field's name"):
        Reject(403, headers=[(name, b"x")])


def test_acceptance_cannot_set_fields_of_the_handshake() -> None:
    with pytest.raises(LocalProtocolError, match="set by the handshake"):
        Continue(headers=[(b"Sec-WebSocket-Accept", b"x")])
    assert Reject(426, headers=[(b"sec-websocket-version", b"13")]).status == 426


@given(st.binary())
def test_no_control_character_gets_into_a_header(value: bytes) -> None:
    harmless = value == value.strip(b" \t") and not any(
        (byte < 0x20 and byte != 9) or byte == 0x7F for byte in value
    )
    for make in (
        lambda: Continue(headers=[(b"x", value)]),
        lambda: Reject(400, headers=[(b"x", value)]),
    ):
        if harmless:
            assert make().headers == [(b"x", value)]
        else:
            with pytest.raises(LocalProtocolError, match="x has a value that cannot be sent"):
                make()


def test_identities_are_hashable_with_any_attributes() -> None:
    assert {BOB: 1}[Identity("bob", "token", {"role": "admin"})] == 1
    assert hash(BOB) == hash(Identity("bob", "token"))
    assert Identity("bob", "token") != BOB


@pytest.mark.parametrize("status", [199, 600])
def test_response_needs_a_valid_status(status: int) -> None:
    with pytest.raises(ValueError, match=f"not a status from 200 to 599: {status}"):
        Respond(status)


def test_plain_request_is_answered_or_refused() -> None:
    plain = replace(CONTEXT, upgrade=False)
    page = Respond(200, "a page", body=b"page")
    assert PolicyChain([passing, lambda _: page]).decide(plain) == page
    rejection, body = page.events()
    assert rejection == RejectConnection(200, [(b"content-length", b"4")], True)
    assert body == RejectData(b"page")
    refused = PolicyChain([passing]).decide(plain)
    assert isinstance(refused, Reject)
    assert refused.status == 426
    assert dict(refused.headers)[b"Upgrade"] == b"websocket"
    later = PolicyChain([lambda _: Deferred("who?", lambda _: Continue())])
    pending = later.decide(plain)
    assert isinstance(pending, Pending)
    assert later.resume(pending, None) == refused


def test_rejection_has_the_context_of_its_policy() -> None:
    other = replace(CONTEXT, peer_address="198.51.100.9")
    chain = PolicyChain([lambda _: Continue(context=other), lambda _: refuse(403, "no")])
    refusal = chain.decide(CONTEXT)
    assert isinstance(refusal, Reject)
    assert refusal.context == other
    assert "context" not in repr(refusal)
    plain = PolicyChain([]).decide(replace(CONTEXT, upgrade=False))
    assert isinstance(plain, Reject)
    assert plain.context == replace(CONTEXT, upgrade=False)

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipParseError, SipValueError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.outbound import (
    Flow,
    FlowTokens,
    OutboundBinding,
    flow_deadline,
    flow_timer,
    instance_id,
    node_id,
    outbound_binding,
    reg_id,
    resolve_flow,
    uses_outbound,
)
from wsproto_sip.sip.rules.routing import Rejection

KEY = b"0123456789abcdef"
FLOW = Flow(7, 3)
ALPHABET = string.ascii_letters + string.digits + "-_"

flows = st.builds(Flow, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(flows)
def test_round_trip(flow: Flow) -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(flow)
    assert tokens.open(token) == flow
    assert len(token) == 40
    assert set(token) <= set(ALPHABET)
    assert SipUri.make("edge.test", token).user == token
    assert FlowTokens([KEY[::-1]]).open(token) is None


@given(flows, st.integers(0, 39), st.characters())
def test_changing_characters_invalidates_a_token(flow: Flow, position: int, character: str) -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(flow)
    changed = token[:position] + character + token[position + 1 :]
    assert tokens.open(changed) == (flow if changed == token else None)


def test_changing_any_character_invalidates_a_token() -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(FLOW)
    for position in range(40):
        for character in ALPHABET.replace(token[position], ""):
            assert tokens.open(token[:position] + character + token[position + 1 :]) is None


@given(st.text())
def test_any_text_is_opened_or_refused(text: str) -> None:
    assert FlowTokens([KEY]).open(text) is None
    assert FlowTokens([KEY]).open(FlowTokens([KEY]).make(FLOW) + text) in (None, FLOW)


def test_lengths() -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(FLOW)
    for wrong in (token[:-1], token + "A", token + "=", token + "\n", ""):
        assert tokens.open(wrong) is None


def test_rotated_keys_open_old_tokens() -> None:
    tokens = FlowTokens([KEY])
    first = tokens.make(FLOW)
    tokens.rotate(b"second key of 16")
    second = tokens.make(FLOW)
    assert first != second
    assert tokens.open(first) == tokens.open(second) == FLOW
    tokens.rotate(b"third key has 16", keep=0)
    assert tokens.open(second) is None
    with pytest.raises(SipValueError):
        tokens.rotate(KEY, keep=-1)
    assert FlowTokens([b"third key has 16", KEY]).open(first) == FLOW
    tokens.replace([b"fourth key has 16", KEY])
    assert tokens.open(first) == FLOW
    assert tokens.make(FLOW) == FlowTokens([b"fourth key has 16"]).make(FLOW)
    with pytest.raises(SipValueError):
        tokens.replace([])


def test_invalid_keys_are_refused() -> None:
    for keys in ([], [b"short"], [KEY, b""]):
        with pytest.raises(SipValueError):
            FlowTokens(keys)


@pytest.mark.parametrize("flow", [Flow(2**64, 0), Flow(0, 2**32), Flow(-1, 0), Flow(0, -1)])
def test_flow_out_of_range_is_refused(flow: Flow) -> None:
    with pytest.raises(SipValueError, match="out of range"):
        FlowTokens([KEY]).make(flow)


def test_resolving() -> None:
    tokens = FlowTokens([KEY])
    uri = SipUri.make("edge.test", tokens.make(FLOW), lr=None)
    assert resolve_flow(tokens.open, uri, lambda flow: flow == FLOW) == FLOW
    gone = resolve_flow(tokens.open, uri, lambda flow: False)
    assert isinstance(gone, Rejection)
    assert gone.status == 430
    forged = resolve_flow(tokens.open, SipUri.make("edge.test", "x" * 40), lambda flow: True)
    assert isinstance(forged, Rejection)
    assert forged.status == 403
    assert resolve_flow(tokens.open, SipUri("edge.test"), lambda flow: True) is None


def contact(params: str, uri: str = "sip:a@x.invalid") -> NameAddr:
    return NameAddr.parse(f"<{uri}>{params}")


def test_instance() -> None:
    assert instance_id(contact(';+sip.instance="<urn:uuid:1>"')) == "urn:uuid:1"
    assert instance_id(contact("")) is None
    for bad in ('"urn:uuid:1"', '"<>"', '"<a"', "x"):
        with pytest.raises(SipParseError):
            instance_id(contact(f";+sip.instance={bad}"))


def test_reg_id() -> None:
    assert reg_id(contact(";reg-id=2147483647")) == 2**31 - 1
    assert reg_id(contact("")) is None
    for bad in ("0", "2147483648", "x", "-1"):
        with pytest.raises(SipParseError):
            reg_id(contact(f";reg-id={bad}"))
    with pytest.raises(SipParseError):
        reg_id(contact(";reg-id"))


INSTANCE = ';+sip.instance="<urn:uuid:1>"'


def request(
    method: str,
    contacts: str | None,
    vias: int = 1,
    path: str = "",
    supported: str = "outbound",
    expires: str = "3600",
) -> SipRequest:
    headers = [("Via", "SIP/2.0/WS x.invalid")] * vias
    headers += [("Supported", supported), ("Expires", expires)]
    if contacts is not None:
        headers += [("Contact", contacts)]
    if path:
        headers += [("Path", path)]
    return SipRequest(method, "sip:sip.test", headers)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request("REGISTER", "<sip:a>;reg-id=1"), True),
        (request("REGISTER", "<sip:a>, <sip:b>;reg-id=1"), True),
        (request("REGISTER", "<sip:a;ob>"), False),
        (request("REGISTER", "*"), False),
        (request("INVITE", "<sip:a;ob>"), True),
        (request("INVITE", "<sip:a;ob>", 2), False),
        (request("INVITE", "<sip:a>;reg-id=1"), False),
        (request("INVITE", "<tel:+1>"), False),
        (request("INVITE", None), False),
    ],
)
def test_uses_outbound_depends_on_contact_and_hop(message: SipRequest, expected: bool) -> None:
    assert uses_outbound(message) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request("REGISTER", "<sip:a>"), None),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", supported="path"), None),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}"), OutboundBinding("urn:uuid:1", 1)),
        (request("REGISTER", "<sip:a>;reg-id=1"), None),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}, <sip:b>;reg-id=2"), 400),
        (
            request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}, <sip:b>;reg-id=2;expires=0"),
            OutboundBinding("urn:uuid:1", 1),
        ),
        (
            request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}, <sip:b>;reg-id=2;expires=x"),
            400,
        ),
        (
            request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}, <sip:b>;reg-id=2", expires="0"),
            OutboundBinding("urn:uuid:1", 1),
        ),
        (
            request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", 2, "<sip:p;lr>, <sip:e;lr;ob>"),
            OutboundBinding("urn:uuid:1", 1),
        ),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", 2, "<sip:p;ob>, <sip:e>"), 439),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", 2, "<tel:+1>"), 439),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", 2), 439),
    ],
)
def test_binding(message: SipRequest, expected: OutboundBinding | int | None) -> None:
    contacts = message.contacts
    assert contacts
    found = outbound_binding(message, contacts[0])
    assert (found.status if isinstance(found, Rejection) else found) == expected


def test_flow_timer() -> None:
    assert flow_timer("20") == 20
    with pytest.raises(SipParseError):
        flow_timer("-1")
    assert flow_deadline(100.0, 20) == 130.0
    assert flow_deadline(100.0, 20, 5.0) == 125.0


TEXTS = st.text(max_size=8)


@given(TEXTS, st.lists(TEXTS, max_size=4), TEXTS, st.lists(TEXTS, max_size=4))
def test_route_token_is_valid_for_its_call_and_claims_only(
    call_id: str, claims: list[str], other_call: str, others: list[str]
) -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make_route(FLOW, call_id, *claims)
    assert re.fullmatch(r"[A-Za-z0-9_-]{56}", token)
    assert tokens.open_route(token, call_id) == FLOW
    assert tokens.proves(token, call_id, *claims)
    same_call = other_call == call_id
    assert tokens.open_route(token, other_call) == (FLOW if same_call else None)
    assert tokens.proves(token, other_call, *others) == (same_call and others == claims)
    # Neither kind of token opens as the other, or with another key.
    assert tokens.open(token) is None
    assert tokens.open_route(tokens.make(FLOW), call_id) is None
    assert not FlowTokens([KEY[::-1]]).proves(token, call_id, *claims)
    tokens.rotate(b"second key of 16")
    assert tokens.proves(token, call_id, *claims)


def test_changing_any_character_invalidates_a_route_token() -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make_route(FLOW, "c", "caller")
    for position, old in enumerate(token):
        changed = token[:position] + ("A" if old != "A" else "B") + token[position + 1 :]
        assert not tokens.proves(changed, "c", "caller")
        assert tokens.open_route(changed, "c") == (FLOW if position >= 36 else None)


# -- nodes -----------------------------------------------------------------------------------------


def test_tokens_of_a_node_name_it_and_its_run() -> None:
    one, again = node_id("one", "1"), node_id("one", "2")
    assert (len(one), one[:4] == again[:4], one == again) == (8, True, False)
    assert node_id("two", "1")[:4] != one[:4]
    tokens = FlowTokens([KEY], one)
    token, route = tokens.make(FLOW), tokens.make_route(FLOW, "call", "claim")
    assert (len(token), len(route)) == (52, 68)
    assert tokens.open(token) == tokens.open_route(route, "call") == FLOW
    assert tokens.proves(route, "call", "claim")
    assert not tokens.proves(route, "call", "other")
    assert tokens.open_route(route, "other") is None
    # Of an earlier run they are genuine, and lead nowhere.
    later = FlowTokens([KEY], again)
    for flow in (later.open(token), later.open_route(route, "call")):
        assert flow == Flow(-1, 0)
    # Of other nodes, and of one alone, they are not opened.
    for other in (FlowTokens([KEY], node_id("two", "1")), FlowTokens([KEY])):
        assert other.open(token) is None
        assert other.open_route(route, "call") is None


def test_which_node_a_token_names() -> None:
    one, two = (FlowTokens([KEY], node_id(name, "1")) for name in ("one", "two"))
    assert one.node_of(two.make(FLOW)) == node_id("two", "9")[:4]
    assert one.node_of(two.make_route(FLOW, "call")) == node_id("two", "9")[:4]
    for text in (one.make(FLOW), FlowTokens([KEY]).make(FLOW), "", "alice", "!" * 52):
        assert one.node_of(text) is None
    assert FlowTokens([KEY]).node_of(two.make(FLOW)) is None


def test_tokens_for_a_path_can_be_told() -> None:
    """Of any node; those for the routes of dialogs are longer."""
    one, two = (FlowTokens([b"k" * 16], node_id(name, "1")) for name in ("one", "two"))
    flow = Flow(1, 2)
    assert one.is_for_path(one.make(flow))
    assert one.is_for_path(two.make(flow))
    for token in (one.make_route(flow, "call"), "", "x", "!" * len(one.make(flow))):
        assert not one.is_for_path(token)

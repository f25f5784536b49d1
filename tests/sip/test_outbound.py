from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.address import NameAddr
from wsproto_sip.sip.errors import SipParseError, SipValueError
from wsproto_sip.sip.message import SipRequest
from wsproto_sip.sip.outbound import (
    Flow,
    FlowTokens,
    OutboundBinding,
    flow_deadline,
    flow_timer,
    instance_id,
    outbound_binding,
    reg_id,
    resolve_flow,
    uses_outbound,
)
from wsproto_sip.sip.routing import Rejection
from wsproto_sip.sip.uri import SipUri

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
def test_any_changed_character(flow: Flow, position: int, character: str) -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(flow)
    changed = token[:position] + character + token[position + 1 :]
    assert tokens.open(changed) == (flow if changed == token else None)


def test_every_changed_character() -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(FLOW)
    for position in range(40):
        for character in ALPHABET.replace(token[position], ""):
            assert tokens.open(token[:position] + character + token[position + 1 :]) is None


@given(st.text())
def test_any_text(text: str) -> None:
    assert FlowTokens([KEY]).open(text) is None
    assert FlowTokens([KEY]).open(FlowTokens([KEY]).make(FLOW) + text) in (None, FLOW)


def test_lengths() -> None:
    tokens = FlowTokens([KEY])
    token = tokens.make(FLOW)
    for wrong in (token[:-1], token + "A", token + "=", token + "\n", ""):
        assert tokens.open(wrong) is None


def test_rotation() -> None:
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


def test_bad_keys() -> None:
    for keys in ([], [b"short"], [KEY, b""]):
        with pytest.raises(SipValueError):
            FlowTokens(keys)


@pytest.mark.parametrize("flow", [Flow(2**64, 0), Flow(0, 2**32), Flow(-1, 0), Flow(0, -1)])
def test_bad_flows(flow: Flow) -> None:
    with pytest.raises(SipValueError, match="out of range"):
        FlowTokens([KEY]).make(flow)


def test_resolving() -> None:
    tokens = FlowTokens([KEY])
    uri = SipUri.make("edge.test", tokens.make(FLOW), lr=None)
    assert resolve_flow(tokens, uri, lambda flow: flow == FLOW) == FLOW
    gone = resolve_flow(tokens, uri, lambda flow: False)
    assert isinstance(gone, Rejection)
    assert gone.status == 430
    forged = resolve_flow(tokens, SipUri.make("edge.test", "x" * 40), lambda flow: True)
    assert isinstance(forged, Rejection)
    assert forged.status == 403
    assert resolve_flow(tokens, SipUri("edge.test"), lambda flow: True) is None


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
    method: str, contacts: str | None, vias: int = 1, path: str = "", supported: str = "outbound"
) -> SipRequest:
    headers = [("Via", "SIP/2.0/WS x.invalid")] * vias
    headers += [("Supported", supported)]
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
def test_use(message: SipRequest, expected: bool) -> None:
    assert uses_outbound(message) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request("REGISTER", "<sip:a>"), None),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}", supported="path"), None),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}"), OutboundBinding("urn:uuid:1", 1)),
        (request("REGISTER", "<sip:a>;reg-id=1"), 400),
        (request("REGISTER", f"<sip:a>;reg-id=1{INSTANCE}, <sip:b>;reg-id=2"), 400),
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

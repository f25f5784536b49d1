from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext
from wsproto_sip.policy.subprotocol import SubprotocolPolicy


def decide(policy: SubprotocolPolicy, *proposed: str) -> object:
    return policy(RequestContext(Request("example.com", "/", subprotocols=list(proposed))))


def refusal(enabled: bytes) -> Reject:
    headers = ((b"sec-websocket-protocol", enabled), (b"sec-websocket-version", b"13"))
    return Reject(400, "no enabled sub-protocol offered", headers)


BOTH = SubprotocolPolicy(["sip", "msrp"])
KAMAILIO = SubprotocolPolicy(["sip", "msrp"], server_preference=True)


@pytest.mark.parametrize(
    ("proposed", "client_first", "server_first"),
    [
        (["sip"], "sip", "sip"),
        (["msrp"], "msrp", "msrp"),
        (["sip", "msrp"], "sip", "sip"),
        (["msrp", "sip"], "msrp", "sip"),
        (["chat", "msrp", "sip"], "msrp", "sip"),
        (["SIP", "msrp"], "msrp", "msrp"),
    ],
)
def test_order_of_preference(proposed: list[str], client_first: str, server_first: str) -> None:
    assert decide(BOTH, *proposed) == Continue(subprotocol=client_first)
    assert decide(KAMAILIO, *proposed) == Continue(subprotocol=server_first)


@pytest.mark.parametrize(
    "proposed", [[], ["chat"], ["SIP"], ["sipx"], ["xsip"], ["si"], ["sip, msrp"], ["sip "], [""]]
)
def test_mismatch_is_400_with_the_enabled_ones(proposed: list[str]) -> None:
    assert decide(BOTH, *proposed) == refusal(b"sip, msrp")
    assert decide(KAMAILIO, *proposed) == refusal(b"sip, msrp")
    optional = SubprotocolPolicy(["sip", "msrp"], required=False)
    assert decide(optional, *proposed) == Continue()


def test_only_enabled_ones_are_chosen() -> None:
    assert decide(SubprotocolPolicy(["msrp"]), "sip") == refusal(b"msrp")
    assert decide(SubprotocolPolicy([], required=False), "sip") == Continue()


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\r\n", "\xe4"])
def test_names_are_tokens(name: str) -> None:
    with pytest.raises(ValueError, match="not a sub-protocol name"):
        SubprotocolPolicy(["sip", name])


def test_bad_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="repeated: sip, msrp, sip"):
        SubprotocolPolicy(["sip", "msrp", "sip"])
    with pytest.raises(ValueError, match="required, but none is enabled"):
        SubprotocolPolicy([])
    with pytest.raises(TypeError, match="not one string"):
        SubprotocolPolicy("sip")


NAMES = st.lists(st.sampled_from(["sip", "msrp", "chat", "mqtt", "sipx"]), unique=True)


@given(NAMES.filter(bool), NAMES, st.booleans())
def test_choice_is_offered_and_enabled(
    enabled: list[str], proposed: list[str], server: bool
) -> None:
    decision = decide(SubprotocolPolicy(enabled, server_preference=server), *proposed)
    common = [name for name in (enabled if server else proposed) if name in enabled]
    common = [name for name in common if name in proposed]
    if common:
        assert decision == Continue(subprotocol=common[0])
    else:
        assert decision == refusal(", ".join(enabled).encode())

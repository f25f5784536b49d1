from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.cors import CorsMode, CorsPolicy
from wsproto_sip.policy.decision import Continue, Reject, RequestContext

NAME = b"access-control-allow-origin"


def decide(policy: CorsPolicy, *origins: bytes) -> object:
    headers = [(b"origin", origin) for origin in origins]
    return policy(RequestContext(Request("example.com", "/", extra_headers=headers)))


@pytest.mark.parametrize("origins", [[], [b"https://a"], [b"null"], [b"x", b"y"]])
def test_mode_0_adds_nothing_and_mode_1_a_star(origins: list[bytes]) -> None:
    assert decide(CorsPolicy(), *origins) == Continue()
    assert decide(CorsPolicy(0), *origins) == Continue()
    assert decide(CorsPolicy(CorsMode.ANY), *origins) == Continue(headers=((NAME, b"*"),))


def test_mode_2_echoes_the_origin() -> None:
    policy = CorsPolicy(2)
    assert decide(policy) == Continue()
    assert decide(policy, b"https://a:1") == Continue(headers=((NAME, b"https://a:1"),))
    assert decide(policy, b"null") == Continue(headers=((NAME, b"null"),))
    refused = Reject(400, "malformed or repeated Origin")
    assert decide(policy, b"https://a", b"https://a") == refused
    assert decide(policy, b"") == refused


@pytest.mark.parametrize("subprotocol", ["msrp", "sip", None])
def test_sub_protocol_can_require_it(subprotocol: str | None) -> None:
    policy = CorsPolicy(always=("msrp",))
    request = Request("example.com", "/", extra_headers=[(b"origin", b"https://a")])
    context = RequestContext(request, subprotocol=subprotocol)
    echoed = Continue(headers=((NAME, b"https://a"),))
    assert policy(context) == (echoed if subprotocol == "msrp" else Continue())
    assert policy(replace(context, request=Request("example.com", "/"))) == Continue()
    star = CorsPolicy(1, always=("msrp",))
    assert star(context) == Continue(headers=((NAME, b"*"),))
    with pytest.raises(TypeError, match="not one string"):
        CorsPolicy(always="msrp")


@given(st.binary(min_size=1))
def test_only_visible_ascii_is_echoed(origin: bytes) -> None:
    if all(0x21 <= byte <= 0x7E for byte in origin):
        assert decide(CorsPolicy(2), origin) == Continue(headers=((NAME, origin),))
    else:
        assert decide(CorsPolicy(2), origin) == Reject(400, "malformed or repeated Origin")


@pytest.mark.parametrize("mode", [-1, 3])
def test_other_modes_are_refused(mode: int) -> None:
    with pytest.raises(ValueError, match=f"{mode} is not a valid CorsMode"):
        CorsPolicy(mode)

from __future__ import annotations

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.capacity import CapacityPolicy
from wsproto_sip.policy.decision import Continue, Reject, RequestContext

RETRY = ((b"retry-after", b"5"),)


def decide(policy: CapacityPolicy, total: int, here: int) -> object:
    return policy(
        RequestContext(
            Request("example.com", "/"),
            peer_address="192.0.2.1",
            connections=total,
            connections_by_address={"192.0.2.1": here, "192.0.2.2": 999},
        )
    )


def test_limits_are_exact() -> None:
    policy = CapacityPolicy(10, 3)
    assert decide(policy, 9, 2) == Continue()
    assert decide(policy, 10, 2) == Reject(503, "too many connections", RETRY)
    assert decide(policy, 9, 3) == Reject(429, "too many connections from this address", RETRY)
    assert decide(policy, 10, 3) == Reject(503, "too many connections", RETRY)


def test_defaults() -> None:
    policy = CapacityPolicy()
    assert decide(policy, 9_999, 99) == Continue()
    assert decide(policy, 10_000, 0) == Reject(503, "too many connections", RETRY)
    assert decide(policy, 100, 100) == Reject(429, "too many connections from this address", RETRY)


def test_uncounted_address_has_no_connections() -> None:
    context = RequestContext(Request("example.com", "/"), peer_address="192.0.2.9")
    assert CapacityPolicy(None, 1)(context) == Continue()
    assert CapacityPolicy(None, 0, retry_after=None)(context) == Reject(
        429, "too many connections from this address"
    )


def test_none_disables_a_limit() -> None:
    assert decide(CapacityPolicy(None, None), 10**9, 10**9) == Continue()
    assert decide(CapacityPolicy(0, None, retry_after=0), 0, 0) == Reject(
        503, "too many connections", ((b"retry-after", b"0"),)
    )


@pytest.mark.parametrize("name", ["max_connections", "max_per_address", "retry_after"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative: -1"):
        CapacityPolicy(**{name: -1})

"""What strangers may send to one callee; what that means for floods is in test_flood."""

from __future__ import annotations

from wsproto_sip.server.shares import Bound, Party, ShareConfig
from wsproto_sip.sip.edge.callees import CalleeClaim, Callees

EVE = Party.stranger("203.0.113.9", 1)


def test_each_callee_has_a_pace_of_its_own() -> None:
    callees = Callees(ShareConfig(4, reserve=0), ShareConfig(4, reserve=0))
    assert callees.admit("alice", EVE, 0.0) is None
    assert callees.admit("alice", EVE, 0.5) is Bound.CONNECTION
    assert callees.admit("bob", EVE, 0.5) is None
    assert callees.refused == {("callee_requests_per_second", Bound.CONNECTION): 1}
    assert callees.admit("alice", EVE, 1.0) is None
    # Nothing is remembered of callees that were left alone for a second.
    assert callees.admit("carol", EVE, 2.0) is None
    assert len(callees) == 1


def test_each_callee_has_room_of_its_own_for_what_waits() -> None:
    callees = Callees(ShareConfig(4, reserve=0), ShareConfig(4, reserve=0))
    claims = [callees.claim(name, EVE) for name in ("alice", "bob")]
    assert callees.claim("alice", EVE) is Bound.CONNECTION
    assert callees.refused == {("callee_transactions", Bound.CONNECTION): 1}
    other = callees.claim("alice", Party.stranger("198.51.100.7", 2))
    assert len(callees) == 2
    for claim in (*claims, *claims, other):
        assert isinstance(claim, CalleeClaim)
        claim.release()
    assert len(callees) == 0

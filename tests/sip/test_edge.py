"""Two telephones and an edge."""

from __future__ import annotations

import pytest

from tests.sip._phones import MODES, SDP, World, call
from wsproto_sip.sip.edge_config import EdgeMode

both_modes = pytest.mark.parametrize("mode", MODES)


@both_modes
def test_a_whole_call(mode: EdgeMode) -> None:
    world = World(mode)
    alice, bob = world.phone("alice"), world.phone("bob")
    here, there = call(alice, bob)
    # Hold and resume, from both sides.
    for one, other in ((here, bob), (there, alice), (here, bob)):
        one.send("INVITE", body=SDP)
        one.phone.response(100)
        again = other.request("INVITE")
        assert again.body == SDP
        assert "record-route" not in again
        other.answer(again, 200, body=SDP)
        assert one.phone.response(200).body == SDP
        one.send("ACK")
        other.request("ACK")
    for one, other in ((here, bob), (there, alice)):
        one.send("INFO", ("Content-Type", "application/dtmf-relay"), body=b"Signal=5\r\n")
        info = other.request("INFO")
        assert info.body == b"Signal=5\r\n"
        assert "route" not in info
        assert str(info.uri).startswith(other.contact)
        other.answer(info, 200)
        one.phone.response(200)
    for one, other in ((there, alice), (here, bob)):
        one.send("BYE")
        other.answer(other.request("BYE"), 200)
        one.phone.response(200)
    assert world.quiet()
    world.wait(33)
    assert world.edge.transactions == 0
    assert world.quiet()

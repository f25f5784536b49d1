"""Choosing a sub-protocol."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.subprotocols import MSRP, SIP, select_subprotocol


@pytest.mark.parametrize(
    ("offered", "supported", "prefer_server", "chosen"),
    [
        ([], [SIP], False, None),
        ([SIP], [], False, None),
        ([MSRP, SIP], [SIP, MSRP], False, MSRP),
        ([MSRP, SIP], [SIP, MSRP], True, SIP),
        (["sipx", "xsip", "SIP", "si"], [SIP], False, None),
        (["other", SIP], [SIP, MSRP], False, SIP),
    ],
)
def test_choice(
    offered: list[str], supported: list[str], prefer_server: bool, chosen: str | None
) -> None:
    assert select_subprotocol(iter(offered), supported, prefer_server=prefer_server) == chosen


@given(
    st.lists(st.sampled_from("abcd"), unique=True),
    st.lists(st.sampled_from("cdef"), unique=True),
    st.booleans(),
)
def test_what_is_chosen_is_offered_and_supported(
    offered: list[str], supported: list[str], prefer_server: bool
) -> None:
    chosen = select_subprotocol(offered, supported, prefer_server=prefer_server)
    common = set(offered) & set(supported)
    if chosen is None:
        assert not common
    else:
        order = supported if prefer_server else offered
        assert chosen == min(common, key=order.index)

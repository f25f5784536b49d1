"""Answered calls and the connections they use."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from wsproto_sip.sip.edge.calls import CallName, Calls, name_of
from wsproto_sip.sip.message.message import SipRequest, SipResponse
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.rules.outbound import Flow

ALICE, BOB = Flow(1, 7), Flow(2, 8)


def name(call_id: str) -> CallName:
    return call_id, frozenset(["a", "b"])


def message(*lines: str) -> SipRequest | SipResponse:
    fields = ("Via: SIP/2.0/WS h;branch=z9hG4bK1", "Call-ID: c", *lines)
    return parse_message("\r\n".join(["BYE sip:h SIP/2.0", *fields, "CSeq: 1 BYE", "", ""]))


def test_name_is_the_same_in_either_direction() -> None:
    there = message("From: <sip:a@h>;tag=1", "To: <sip:b@h>;tag=2")
    back = message("From: <sip:b@h>;tag=2", "To: <sip:a@h>;tag=1")
    assert name_of(there) == name_of(back) == ("c", frozenset(["1", "2"]))
    assert name_of(message("From: <", "To: <sip:a@h>;tag=1")) is None


def test_call_is_on_both_connections_until_its_end() -> None:
    calls = Calls()
    calls.begin(name("c"), (ALICE, BOB), 5.0)
    assert (len(calls), calls.on(ALICE), calls.on(BOB)) == (1, 1, 1)
    assert calls.on(Flow(1, 9)) == 0
    assert calls.end(name("c"), 15.0) == 10.0
    assert (len(calls), calls.on(ALICE), calls.on(BOB)) == (0, 0, 0)
    assert calls.end(name("c"), 16.0) is None


def test_upstream_is_not_a_connection() -> None:
    calls = Calls()
    calls.begin(name("c"), (None, BOB), 0.0)
    calls.begin(name("to herself"), (ALICE, ALICE), 0.0)
    assert (calls.on(BOB), calls.on(ALICE)) == (1, 1)
    # A clock that jumps gives no negative duration.
    assert calls.end(name("c"), -1.0) == 0.0


def test_call_that_passes_twice_ends_twice() -> None:
    calls = Calls()
    calls.begin(name("c"), (ALICE, None), 0.0)
    calls.begin(name("c"), (None, BOB), 1.0)
    assert calls.end(name("c"), 5.0) == 5.0
    assert (len(calls), calls.on(ALICE), calls.on(BOB)) == (1, 0, 1)
    assert calls.end(name("c"), 5.0) == 4.0


Steps = list[tuple[bool, str, list[Flow | None]]]
steps = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from("cdefg"),
        st.lists(st.none() | st.sampled_from([ALICE, BOB]), max_size=3),
    ),
    max_size=40,
)


@given(steps)
def test_memory_is_bounded_and_counts_agree(
    taken: Steps,
) -> None:
    calls = Calls(most=3)
    model: dict[str, list[set[Flow]]] = {}
    for begins, call_id, flows in taken:
        if begins:
            calls.begin(name(call_id), flows, 0.0)
            model.setdefault(call_id, []).append({flow for flow in flows if flow is not None})
            if len(model) > 3:
                del model[next(iter(model))]
        else:
            known = calls.end(name(call_id), 0.0) is not None
            assert known is (call_id in model)
            if known:
                model[call_id].pop(0)
                if not model[call_id]:
                    del model[call_id]
        assert len(calls) == len(model) <= 3
        counts = Counter(flow for uses in model.values() for flows in uses for flow in flows)
        for flow in (ALICE, BOB):
            assert calls.on(flow) == counts[flow]

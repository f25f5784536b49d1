from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.edge.forking import Target, best_response, fork_groups
from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.message import SipResponse
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.registrar.store import Binding, Node
from wsproto_sip.sip.rules.outbound import Flow, OutboundBinding


def binding(
    number: int, *, q: int = 1000, instance: str | None = None, flow: bool = True, path: str = ""
) -> Binding:
    return Binding(
        NameAddr.parse(f"<sip:{number}@x.invalid>"),
        100.0,
        "call",
        1,
        float(number),
        q=q,
        instance=instance,
        outbound=None if instance is None else OutboundBinding(instance, number),
        path=(NameAddr.parse(path),) if path else (),
        flow=Flow(number, 1) if flow else None,
    )


def numbers(groups: list[list[Target]]) -> list[list[list[int]]]:
    return [
        [
            [t.flow.cid for t in (target, *target.alternatives) if t.flow is not None]
            for target in group
        ]
        for group in groups
    ]


def test_equally_preferred_ones_are_tried_together() -> None:
    groups = fork_groups([binding(1), binding(2), binding(3, q=500), binding(4, q=100)])
    assert numbers(groups) == [[[1], [2]], [[3]], [[4]]]
    assert str(groups[0][1].uri) == "sip:2@x.invalid"
    assert fork_groups([]) == []
    assert fork_groups([binding(1, flow=False)]) == []


def test_the_path_goes_along() -> None:
    ((target,),) = fork_groups([binding(1, path="<sip:p.test;lr>")])
    assert [str(value) for value in target.path] == ["<sip:p.test;lr>"]


def test_several_flows_of_one_client_count_once() -> None:
    groups = fork_groups(
        [
            binding(9),
            binding(1, instance="a"),
            binding(2, instance="b"),
            binding(3, instance="a"),
            binding(4, q=500, instance="a"),
            binding(5, q=500),
            binding(6, q=500, instance="c"),
        ]
    )
    assert numbers(groups) == [[[9], [1, 3, 4], [2]], [[5], [6]]]


def test_a_client_is_one_by_its_instance_with_outbound_and_without() -> None:
    """RFC 5626 §7: not more than one contact of an instance at a time."""
    ordinary = [replace(binding(number, instance="a"), outbound=None) for number in (3, 2)]
    groups = fork_groups([binding(4, instance="a"), *ordinary, binding(1)])
    assert numbers(groups) == [[[4, 3, 2], [1]]]


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, "a", "b"])), max_size=8))
def test_every_flow_once(wanted: list[tuple[int, str | None]]) -> None:
    bindings = [
        binding(number, q=1000 - 100 * q, instance=instance)
        for number, (q, instance) in enumerate(sorted(wanted, key=lambda item: item[0]))
    ]
    groups = numbers(fork_groups(bindings))
    assert sorted([n for group in groups for target in group for n in target]) == list(
        range(len(wanted))
    )
    instances = [instance for _, instance in wanted if instance is not None]
    targets = sum([len(group) for group in groups])
    assert targets == len(wanted) - len(instances) + len(set(instances))


@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        ([404], 404),
        ([503, 404], 404),
        ([302, 404], 302),
        ([486, 603, 302], 603),
        ([603, 600], 603),
        ([486, 407], 407),
        ([480, 484], 484),
        ([480, 486], 480),
        ([503, 500], 500),
        ([503, 501], 501),
        ([408, 486], 486),
    ],
)
def test_which_response_counts(statuses: list[int], best: int) -> None:
    assert best_response([SipResponse(status) for status in statuses]).status == best


def test_challenges_are_put_together() -> None:
    one = SipResponse(407, headers=[("Proxy-Authenticate", 'Digest realm="a"')])
    two = SipResponse(401, headers=[("WWW-Authenticate", 'Digest realm="b"')])
    three = SipResponse(404, headers=[("WWW-Authenticate", "no")])
    best = best_response([three, one, two])
    assert best.status == 407
    assert best.get_all("proxy-authenticate") == ['Digest realm="a"']
    assert best.get_all("www-authenticate") == ['Digest realm="b"']
    assert "www-authenticate" not in one


def test_clients_at_other_nodes_are_reached_by_their_address_and_token() -> None:
    there = replace(
        binding(1, flow=False, instance="a", path="<sip:p.test;lr>"),
        node=Node("two", "1"),
        token="TOKEN",
    )
    here = binding(2, instance="a")
    unknown = replace(there, node=Node("three", "1"), contact=NameAddr.parse("<sip:3@x.invalid>"))
    routes = {"two": SipUri.parse("sip:two.test:5070;transport=tcp;lr")}
    ((target,),) = fork_groups([here, there, unknown], routes)
    (other,) = target.alternatives
    assert (target.flow, target.node, target.is_upstream) == (Flow(2, 1), None, False)
    assert (other.flow, other.node, other.is_upstream) == (None, "two", False)
    assert [str(value) for value in other.path] == [
        "<sip:TOKEN@two.test:5070;transport=tcp;lr>",
        "<sip:p.test;lr>",
    ]
    assert fork_groups([there]) == []
    assert Target(None).is_upstream

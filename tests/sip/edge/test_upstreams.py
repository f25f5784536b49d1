"""Which upstream a request goes to, and which of them are in service."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.sip._phones import UPSTREAM
from wsproto_sip.sip.edge.config import Probing, Upstream
from wsproto_sip.sip.edge.upstreams import HEALTH_STEPS, Health, Sign, Upstreams

NAMES = ("a", "b", "c")
TWICE = Probing(dead_after=2, alive_after=2)


def upstream(name: str, priority: int = 0, weight: int = 1, transport: str = "udp") -> Upstream:
    local = (5090 if transport == "tls" else 5080,)
    return Upstream(
        name, f"{name}.test", 5060, "192.0.2.1", *local, transport, 1300, priority, weight
    )


def pool(*upstreams: Upstream, number: int = 0, probing: Probing = TWICE) -> Upstreams:
    return Upstreams(upstreams, probing, lambda size: number.to_bytes(size, "big"))


def chosen(upstreams: Upstreams, now: float = 0.0, **options: object) -> str | None:
    found = upstreams.choose(now, **options)  # type: ignore[arg-type]
    return None if found is None else found.name


# -- health ----------------------------------------------------------------------------------------


def test_enough_failures_in_a_row_end_service_and_enough_answers_begin_it() -> None:
    upstreams = pool(upstream("a"))
    signs = [
        (Sign.ANSWER, None, Health.ALIVE),
        (Sign.FAILURE, None, Health.ALIVE),
        (Sign.ANSWER, None, Health.ALIVE),
        (Sign.FAILURE, None, Health.ALIVE),
        (Sign.FAILURE, False, Health.DEAD),
        (Sign.FAILURE, None, Health.DEAD),
        (Sign.ANSWER, None, Health.DEAD),
        (Sign.UNREACHABLE, None, Health.DEAD),
        (Sign.ANSWER, None, Health.DEAD),
        (Sign.ANSWER, True, Health.ALIVE),
        (Sign.UNREACHABLE, False, Health.DEAD),
    ]
    for sign, change, health in signs:
        assert upstreams.sign("a", sign, 1.0) is change
        assert upstreams.health("a") is health
        assert upstreams.statistics["a"].in_service is (health is not Health.DEAD)


def test_signs_of_one_that_is_gone_are_passed_over() -> None:
    upstreams = pool(upstream("a"))
    assert upstreams.sign("b", Sign.UNREACHABLE, 1.0) is None
    upstreams.spare("b", 2.0)
    assert not upstreams.heard_after("b", 0.0)


@given(st.lists(st.sampled_from(Sign)), st.integers(1, 3), st.integers(1, 3))
def test_health_follows_from_the_last_signs(
    signs: list[Sign], dead_after: int, alive_after: int
) -> None:
    probing = Probing(dead_after=dead_after, alive_after=alive_after)
    upstreams = pool(upstream("a"), probing=probing)
    in_service = True
    for index, sign in enumerate(signs):
        change = upstreams.sign("a", sign, float(index))
        if change is not None:
            assert change is not in_service
            in_service = change
        enough = dead_after if sign is Sign.FAILURE else alive_after
        if sign is Sign.UNREACHABLE or signs[index + 1 - enough : index + 1] == [sign] * enough:
            assert in_service is (sign is Sign.ANSWER)
        assert upstreams.statistics["a"].in_service is in_service
        assert (upstreams.health("a") is Health.DEAD) is not in_service
        assert upstreams.heard_after("a", index - 0.5) is (sign is Sign.ANSWER)


def test_the_table_leads_to_no_health_that_has_no_way_out() -> None:
    for health in Health:
        assert any(
            start is health and end is not health for (start, _), end in HEALTH_STEPS.items()
        )


# -- choice ----------------------------------------------------------------------------------------


def test_the_lowest_priority_in_service_is_chosen() -> None:
    upstreams = pool(upstream("a", 2), upstream("b", 1), upstream("c", 3))
    assert chosen(upstreams) == "b"
    assert chosen(upstreams, tried=["b"]) == "a"
    upstreams.sign("b", Sign.UNREACHABLE, 0.0)
    assert chosen(upstreams) == "a"
    assert chosen(upstreams, tried=["a", "b"]) == "c"
    assert chosen(upstreams, tried=NAMES) is None


def test_the_dead_are_the_last_resort() -> None:
    upstreams = pool(upstream("a", 1), upstream("b", 2))
    for name in "ab":
        upstreams.sign(name, Sign.UNREACHABLE, 0.0)
    assert chosen(upstreams) == "a"
    assert chosen(upstreams, alive=True) is None


def test_one_that_asks_for_a_pause_has_it_while_there_are_others() -> None:
    upstreams = pool(upstream("a", 1), upstream("b", 2))
    upstreams.spare("a", 10.0)
    upstreams.spare("a", 5.0)
    assert [chosen(upstreams, now) for now in (0.0, 9.0, 10.0)] == ["b", "b", "a"]
    upstreams.sign("b", Sign.UNREACHABLE, 0.0)
    assert chosen(upstreams, 0.0) == "a"


def test_requests_of_one_client_stay_together_among_equals() -> None:
    upstreams = pool(upstream("a"), upstream("b"), upstream("c", 1))
    assert chosen(upstreams, preferred="a") == "a"
    assert chosen(upstreams, preferred="b") == "b"
    # It was a makeshift.
    assert chosen(upstreams, preferred="c") in ("a", "b")


def test_sips_needs_tls() -> None:
    upstreams = pool(upstream("a"), upstream("b", 9, transport="tls"))
    assert chosen(upstreams, secure=True) == "b"
    assert chosen(pool(upstream("a")), secure=True) is None


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((3, 1), {"a": 3, "b": 2}), ((0, 0), {"a": 3, "b": 2}), ((0, 4), {"a": 1, "b": 4})],
)
def test_weights_share_chances(weights: tuple[int, int], expected: dict[str, int]) -> None:
    """Of the numbers 0 to 4, RFC 2782's algorithm gives each as many as its weight, and 0 one."""
    first, second = upstream("a", weight=weights[0]), upstream("b", weight=weights[1])
    counts = Counter(chosen(pool(first, second, number=number)) for number in range(5))
    assert counts == expected


def test_what_is_known_of_those_that_stay_is_kept() -> None:
    upstreams = pool(upstream("a"), upstream("b"))
    statistics = upstreams.statistics
    upstreams.sign("a", Sign.UNREACHABLE, 0.0)
    upstreams.statistics["a"].requests = 5
    upstreams.replace([replace(upstream("a"), priority=7), upstream("c")])
    assert [item.name for item in upstreams] == ["a", "c"]
    assert upstreams.health("a") is Health.DEAD
    assert upstreams.get("a") == replace(upstream("a"), priority=7)
    assert upstreams.get("b") is None
    assert upstreams.statistics is statistics
    assert (len(upstreams), statistics["a"].requests, sorted(statistics)) == (2, 5, ["a", "c"])


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Sign))),
    st.tuples(*[st.integers(0, 2) for _ in NAMES]),
    st.sets(st.sampled_from(NAMES)),
    st.integers(0, 2**64 - 1),
)
def test_one_in_service_is_chosen_if_there_is_one(
    signs: list[tuple[str, Sign]], priorities: tuple[int, ...], tried: set[str], number: int
) -> None:
    members = [upstream(name, *pair) for name, pair in zip(NAMES, zip(priorities), strict=True)]
    upstreams = pool(*members, number=number)
    for name, sign in signs:
        upstreams.sign(name, sign, 0.0)
    found = upstreams.choose(0.0, tried=tried)
    left = [member for member in members if member.name not in tried]
    living = [member for member in left if upstreams.health(member.name) is not Health.DEAD]
    assert (found is None) is (not left)
    if found is not None:
        assert found in (living or left)
        assert found.priority == min(member.priority for member in living or left)
    assert (upstreams.choose(0.0, tried=tried, alive=True) is None) is (not living)


def test_one_server_is_its_own_choice() -> None:
    assert chosen(Upstreams([UPSTREAM], TWICE, bytes)) == "core"

"""The edge among hostile and honest parties, held against the invariants of SIP after each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fuzz.invariants import BrokenInvariant
from fuzz.sip_edge import INVARIANTS, ODD, STEPS, World, drive
from wsproto_sip.sip.edge import pipelines


class EdgeMachine(RuleBasedStateMachine):
    """Any steps of any parties; each looks at all that comes of it."""

    @initialize(mode=st.integers(0, 1), core=st.integers(0, 1), users=st.integers(0, 2))
    def begin(self, mode: int, core: int, users: int) -> None:
        self.world = World(mode, core, users)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


def _step(name: str) -> Callable[..., None]:
    def step(self: EdgeMachine, numbers: dict[str, int]) -> None:
        getattr(self.world, name)(**numbers)

    step.__name__ = name
    arguments = {key: st.integers(0, below - 1) for key, below in STEPS[name].items()}
    return rule(numbers=st.fixed_dictionaries(arguments))(step)


for _name in STEPS:
    setattr(EdgeMachine, _name, _step(_name))

EdgeMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
TestEdge = EdgeMachine.TestCase


@settings(max_examples=20)
@given(data=st.binary(max_size=400))
def test_steps_out_of_bytes_hold_too(data: bytes) -> None:
    drive(data)


# -- the harness itself ----------------------------------------------------------------------------


def honest(mode: int, core: int, users: int) -> Counter[str]:
    """Return the events when a registered browser calls another one, and both go on."""
    world = World(mode, core, users)
    world.ask(0, 0, 1, 0, 0, 0, 0, 1)
    if core:
        world.call_in(0, 0, 0, 0, 0, 0)
    for status in (1, 3):
        world.answer(0, 0, status, 0, 0, 0)
    for step in range(6):
        world.follow(step, step, step, 0, 0)
    world.wait(6)
    world.finish()
    return Counter(world.seen)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("core", [0, 1])
@pytest.mark.parametrize("users", [0, 1, 2])
def test_honest_steps_reach_somebody(mode: int, core: int, users: int) -> None:
    seen = honest(mode, core, users)
    assert seen["delivered to client"]
    assert seen["reached by token"] or seen["reached by name"]
    assert core or seen["registered"] >= 2


def relayed(world: World) -> None:
    """Let a proven user be challenged in the edge's name, and what it answers be passed on."""
    # Tokens are sent over TLS only.
    world.connect(0, 5, 1)
    for caller, proof in ((0, 0), (3, 2)):
        for who in range(6):
            world.ask(caller, 1, 1, 0, 0, 0, 0, 0)
            # 401, with a challenge that the edge has sent to some client.
            world.answer(who, 0, 12, 0, 0, 0)
            world.ask(caller, 1, 1, proof, 0, 0, 0, 0)
            for up in range(2):
                world.call_in(up, 1, 0, 0, 0, 0)


@pytest.mark.parametrize("core", [0, 1])
def test_credentials_stay_where_they_belong(core: int) -> None:
    world = World(0, core, 1)
    relayed(world)
    world.finish()
    assert world.seen["status 401"]
    assert not core or world.seen["credentials to upstream"]
    assert not world.seen["credentials to client"]


@pytest.mark.parametrize(
    ("pipeline", "core"), [("FROM_CLIENT", 0), ("FROM_CLIENT", 1), ("FROM_UPSTREAM", 1)]
)
def test_credentials_that_go_on_are_noticed(
    pipeline: str, core: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = getattr(pipelines, pipeline)
    left = tuple([step for step in steps if step is not pipelines.take_credentials])
    monkeypatch.setattr(pipelines, pipeline, left)
    with pytest.raises(BrokenInvariant) as caught:
        relayed(World(0, core, 1))
    assert caught.value.number == 1


@pytest.mark.parametrize("core", [0, 1])
def test_odd_fields_break_no_invariant(core: int) -> None:
    world = World(0, core, 0)
    world.register(1, 1, 0, 0, 0)
    for odd in range(len(ODD)):
        world.ask(0, 1, 1, 0, 0, odd, 0, 0)
    world.finish()
    assert world.seen["delivered to " + ("upstream" if core else "client")]


def test_each_invariant_has_its_sentence() -> None:
    with pytest.raises(BrokenInvariant) as caught:
        INVARIANTS.hold(57, False, "seen")
    assert caught.value.number == 57
    assert str(caught.value) == f"57: {INVARIANTS[57]} 'seen'"

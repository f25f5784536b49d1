"""The relay among hostile and honest clients, held against the invariants of MSRP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fuzz.invariants import BrokenInvariant
from fuzz.msrp_relay import INVARIANTS, STEPS, World


class RelayMachine(RuleBasedStateMachine):
    """Any steps of any clients; each looks at all that comes of it."""

    @initialize()
    def begin(self) -> None:
        self.world = World()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


def _step(name: str) -> Callable[..., None]:
    def step(self: RelayMachine, numbers: dict[str, int]) -> None:
        getattr(self.world, name)(**numbers)

    step.__name__ = name
    arguments = {key: st.integers(0, below - 1) for key, below in STEPS[name].items()}
    return rule(numbers=st.fixed_dictionaries(arguments))(step)


for _name in STEPS:
    setattr(RelayMachine, _name, _step(_name))

RelayMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestRelay = RelayMachine.TestCase


def test_honest_steps_reach_somebody() -> None:
    world = World()
    world.send(0, 1, 1, 0, 0, 0, 0)
    world.answer(1, 0, 0, 0)
    world.send(1, 2, 1, 0, 0, 0, 0)
    world.send(2, 0, 1, 0, 0, 0, 0)
    assert world.seen == 3
    world.finish()


def test_steps_take_the_short_way() -> None:
    """A second chunk on a route is not parsed as a whole."""
    world = World()
    for body in range(2):
        world.send(0, 1, 1, 0, 0, body, 0)
    (route,) = world.relay.relay._connections[1].routes.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("wsproto_sip.msrp.relay.relay.split_chunk")
        data = world.clients[1].sent[-1].replace(b"t00006", b"t00007")
        assert len(world.relay.relay.receive(1, data, world.now)) == 2
    assert route.is_open(world.now)


def test_each_invariant_has_its_sentence() -> None:
    with pytest.raises(BrokenInvariant, match="60: Session ids"):
        INVARIANTS.hold(60, False)

"""Values counted in classes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.histogram import Histogram

BOUNDS = (0.005, 0.01, 1.0, 10.0)


def test_value_equal_to_a_bound_is_in_the_class_below_it() -> None:
    values = Histogram(BOUNDS)
    for value in (0.0, 0.005, 0.006, 10.0, 11.0):
        values.add(value)
    assert (values.count, values.maximum) == (5, 11.0)
    assert values.total == pytest.approx(21.011)
    assert values.classes == [2, 1, 0, 1, 1]


@pytest.mark.parametrize("value", [-0.001, float("nan")])
def test_invalid_values_are_refused_and_not_counted(value: float) -> None:
    values = Histogram(BOUNDS)
    with pytest.raises(ValueError, match="must not be negative"):
        values.add(value)
    assert values.count == 0


@given(st.lists(st.floats(0, 20)))
def test_every_value_is_in_one_class(numbers: list[float]) -> None:
    values = Histogram(BOUNDS)
    for number in numbers:
        values.add(number)
    assert sum(values.classes) == values.count == len(numbers)
    for index, bound in enumerate(BOUNDS):
        assert sum(values.classes[: index + 1]) == sum(number <= bound for number in numbers)

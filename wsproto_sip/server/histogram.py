"""A histogram of values, as Prometheus uses them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Histogram"]


class Histogram:
    """Values counted in classes.

    Args:
        bounds: The upper bounds of the classes, in order; a value equal to a bound is within it.

    Attributes:
        bounds: The upper bounds.
        count: How many values were added.
        total: Their sum.
        maximum: The largest value.
        classes: How many values are in each class, not cumulative; the last class has the values
            above all bounds.
    """

    __slots__ = ("bounds", "classes", "count", "maximum", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0
        self.classes = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value.

        Raises:
            ValueError: The value is negative or not a number.
        """
        if not value >= 0:
            raise ValueError(f"must not be negative: {value!r}")
        self.count += 1
        self.total += value
        if value > self.maximum:
            self.maximum = value
        self.classes[bisect_left(self.bounds, value)] += 1

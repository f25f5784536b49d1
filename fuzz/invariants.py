"""What the drivers of the edge and of the relay check: numbered sentences, and what breaks one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BrokenInvariant", "Invariants"]


class BrokenInvariant(AssertionError):
    """An invariant is violated.

    Args:
        number: Its number.
        sentence: What should hold.
        detail: The observed values.
    """

    def __init__(self, number: int, sentence: str, detail: str) -> None:
        super().__init__(f"{number}: {sentence} {detail}")
        self.number = number


class Invariants(dict[int, str]):
    """Sentences by their number.

    Args:
        sentences: The sentences.
    """

    def __init__(self, sentences: Mapping[int, str]) -> None:
        super().__init__(sentences)

    def hold(self, number: int, condition: object, detail: object = "") -> None:
        """Raise :class:`BrokenInvariant` unless a condition is true."""
        if not condition:
            raise BrokenInvariant(number, self[number], repr(detail)[:2000])

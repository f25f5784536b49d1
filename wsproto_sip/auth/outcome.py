"""The possible outcomes of checking credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

__all__ = ["LATER", "Denied", "Later", "Question", "Unavailable"]

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class Later(Enum):
    """The type of :data:`LATER`."""

    LATER = "later"


LATER = Later.LATER
"""Returned by a hook that cannot answer at once; it is then asked through a question."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The answer to a question that cannot be answered now: a database is down, or too slow.

    The request is refused for a while, and the attempt does not count as a guess.

    Args:
        reason: The reason, for the log.
        retry_after: Seconds to wait before trying again; positive.

    Raises:
        ValueError: ``retry_after`` is not positive.
    """

    reason: str
    retry_after: int = 5

    def __post_init__(self) -> None:
        if self.retry_after < 1:
            raise ValueError(f"retry_after must be positive: {self.retry_after!r}")

    @property
    def denied(self) -> Denied:
        """The equivalent denial."""
        return Denied(self.reason, retry_after=self.retry_after, unavailable=True)


@dataclass(frozen=True, slots=True)
class Denied:
    """The credentials are not valid: 401 with challenges.

    Args:
        reason: The reason, for the log.
        stale: Whether they were right but too old, so that the client may answer the new challenge
            without asking its user (RFC 7616 §3.3).
        retry_after: Seconds for which credentials are not checked, because of too many failures; 0
            otherwise. A challenge would be useless then.
        unavailable: Whether they could not be checked, for a reason that is not the client's fault.
    """

    reason: str
    stale: bool = False
    retry_after: int = 0
    unavailable: bool = False


@dataclass(frozen=True, slots=True)
class Question(Generic[T_co]):
    """The check needs an answer from elsewhere.

    Args:
        question: What to find out.
        conclude: Takes the answer and finishes the check. An :class:`Unavailable` answers any
            question.
    """

    question: object
    conclude: Callable[[object], T_co]

    def then(self, step: Callable[[T_co], U]) -> Question[U]:
        """Return the question with a further step after it.

        Args:
            step: Takes the result of the check, and returns another one.
        """
        return Question(self.question, lambda answer: step(self.conclude(answer)))

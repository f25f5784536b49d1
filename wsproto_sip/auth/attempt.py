"""Judge one attempt at credentials, a password or a token, with a hook of the caller.

Theory of operation: the throttle admits the attempt, or refuses it unread. Then the hook returns
the identity that the credentials belong to, at once or as the answer to a question. The result
counts for or against the following attempts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .identity import Identity
from .outcome import Denied, Later, Question, Unavailable
from .throttle import Attempt, Slowed, Throttle, Ticket

__all__ = ["judge"]

Q = TypeVar("Q")


def judge(
    attempt: Attempt,
    now: float,
    throttle: Throttle,
    verify: Callable[[Q], Identity | Later | None],
    question: Q,
    *,
    wrong: str,
) -> Identity | Denied | Question[Identity | Denied]:
    """Find the identity that credentials belong to.

    Args:
        attempt: The credentials' name, and where they come from.
        now: The time, in seconds.
        throttle: Slows guessing down.
        verify: Takes the question and returns the identity, ``None`` for invalid credentials, or
            :data:`~wsproto_sip.auth.outcome.LATER` to have the question deferred.
        question: The question.
        wrong: The reason of a denial, for the log.

    Returns:
        The identity, the reason why there is none, or the question to answer first.

    Raises:
        TypeError: The hook, or the answer to the question, returned anything else.
    """
    ticket = throttle.admit(attempt, now)
    if isinstance(ticket, Slowed):
        return ticket.denied
    with ticket:
        answer = verify(question)
    if isinstance(answer, Later):
        return Question(question, lambda answer: _concluded(answer, ticket, wrong))
    return _concluded(answer, ticket, wrong)


def _concluded(answer: object, ticket: Ticket, wrong: str) -> Identity | Denied:
    if isinstance(answer, Identity):
        ticket.succeeded()
        return answer
    if answer is None:
        ticket.failed()
        return Denied(wrong)
    ticket.withdrawn()
    if isinstance(answer, Unavailable):
        return answer.denied
    raise TypeError(f"the answer must be an Identity or None, not {type(answer).__name__}")

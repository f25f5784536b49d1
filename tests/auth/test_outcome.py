from __future__ import annotations

import pytest

from wsproto_sip.auth.outcome import LATER, Denied, Later, Question, Unavailable


def test_question_ends_with_its_answer() -> None:
    question: Question[str | Denied] = Question(
        "who is it?", lambda answer: Denied("unknown") if answer is None else str(answer)
    )
    assert question.question == "who is it?"
    assert question.conclude("alice") == "alice"
    assert question.conclude(None) == Denied("unknown", stale=False)


def test_later_is_a_singleton() -> None:
    assert list(Later) == [LATER]


def test_further_step_gets_the_conclusion() -> None:
    question = Question("how many?", lambda answer: len(str(answer))).then(lambda size: size > 3)
    assert question.question == "how many?"
    assert question.conclude("four")
    assert not question.conclude("two")


def test_unavailable_answer_is_denied_for_a_while() -> None:
    denied = Denied("no database", retry_after=7, unavailable=True)
    assert Unavailable("no database", 7).denied == denied
    with pytest.raises(ValueError, match="retry_after must be positive: 0"):
        Unavailable("no database", 0)

from __future__ import annotations

import pytest

from tests.sip.registrar.test_store import binding
from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.sip.registrar import errands as module
from wsproto_sip.sip.registrar.errands import Errands
from wsproto_sip.sip.registrar.store import Conflict, Done, Found, NotAsked, Update

DOWN = Unavailable("down")


class Memory:
    """A registrar that has one binding to drop for each address it is told of."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.written: list[tuple[str, bool]] = []
        self.ended: list[object] = []
        self.needed: set[str] = set()

    def reconcile(self, aor: str, now: float, *, write: bool = False) -> Update | None:
        if not (self.left.get(aor) or write):
            return None
        self.written.append((aor, write))
        return Update(aor, 1, (binding(),))

    def reconciled(self, update: Update, answer: Done | Conflict, now: float) -> None:
        self.ended.append(answer)
        if isinstance(answer, Done):
            self.left[update.aor] = 0

    def forget(self, aor: str) -> bool:
        return aor not in self.needed


def errands(*aors: str) -> tuple[Memory, Errands]:
    memory = Memory()
    made = Errands(memory)
    for aor in aors:
        memory.left[aor] = 1
        made.note(aor)
    return memory, made


def numbers(made: Errands, now: float = 0.0) -> list[int]:
    return [number for number, _ in made.take(now)]


def test_an_errand_is_over_when_nothing_is_left_to_change() -> None:
    memory, made = errands("a")
    assert ("a" in made, "b" in made, len(made)) == (True, False, 1)
    assert numbers(made) == [-1]
    assert numbers(made) == []
    made.answered(-1, Done(2), 0.0)
    assert numbers(made) == []
    assert (len(made), made.next_deadline(), memory.ended) == (0, None, [Done(2)])
    # An answer that is not waited for is passed over.
    made.answered(-1, Done(2), 0.0)
    made.answered(-9, Done(2), 0.0)
    assert len(memory.ended) == 1


def test_after_a_conflict_it_is_worked_out_anew() -> None:
    memory, made = errands("a")
    assert numbers(made) == [-1]
    made.answered(-1, Conflict(Found("a", (), 7)), 0.0)
    assert numbers(made) == [-2]
    made.answered(-2, Done(8), 0.0)
    assert numbers(made) == []
    assert memory.ended == [Conflict(Found("a", (), 7)), Done(8)]


def test_so_many_are_under_way_at_a_time() -> None:
    _, made = errands(*[f"a{number}" for number in range(100)])
    first = numbers(made)
    assert len(first) == 64
    made.answered(first[0], Done(1), 0.0)
    assert len(numbers(made)) == 1
    for number in first[1:]:
        made.answered(number, Done(1), 0.0)
    assert len(numbers(made)) == 35
    assert len(made) == 36


def test_unanswered_updates_are_retried_with_growing_delays() -> None:
    memory, made = errands("a")
    memory.needed.add("a")
    now, pauses = 0.0, []
    (number,) = numbers(made, now)
    for _ in range(7):
        made.answered(number, NotAsked("down"), now)
        due = made.next_deadline()
        assert due is not None
        pauses.append(due - now)
        made.handle_timeout(due - 0.01)
        assert numbers(made, now) == []
        now = due
        made.handle_timeout(now)
        (number,) = numbers(made, now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    # Nothing was asked that could be done late.
    assert not any(write for _, write in memory.written)
    made.answered(number, Done(2), now)
    assert numbers(made) == []
    assert len(made) == 0


def test_what_takes_too_long_may_be_done_still_and_is_followed_by_a_change() -> None:
    memory, made = errands("a")
    assert numbers(made) == [-1]
    assert made.next_deadline() == 5.0
    made.handle_timeout(5.0)
    memory.left["a"] = 0
    made.handle_timeout(6.0)
    assert numbers(made, 6.0) == [-2]
    assert memory.written == [("a", False), ("a", True)]
    # A conflict changes nothing.
    made.answered(-2, Conflict(Found("a", (), 3)), 6.0)
    assert numbers(made, 6.0) == [-3]
    made.answered(-3, Done(4), 6.0)
    assert numbers(made, 6.0) == []
    assert memory.written[-1] == ("a", True)


def test_a_doubt_that_comes_meanwhile_is_not_settled_by_what_is_under_way() -> None:
    memory, made = errands("a")
    assert numbers(made) == [-1]
    made.note("a", uncertain=True)
    made.answered(-1, Done(2), 0.0)
    assert numbers(made) == [-2]
    assert memory.written[-1] == ("a", True)
    made.note("a", uncertain=True)
    made.answered(-2, DOWN, 0.0)
    made.handle_timeout(1.0)
    assert numbers(made, 1.0) == [-3]
    made.answered(-3, Done(3), 1.0)
    assert numbers(made, 1.0) == []


def test_a_new_reason_ends_the_pause() -> None:
    memory, made = errands("a")
    made.note("a")
    assert numbers(made) == [-1]
    made.answered(-1, NotAsked("down"), 0.0)
    made.note("a", uncertain=True)
    assert made.next_deadline() is None
    assert numbers(made) == [-2]
    assert memory.written[-1] == ("a", True)


def test_of_too_many_errands_those_without_bindings_here_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_ERRANDS", 0)
    memory, made = errands("a", "b")
    memory.needed.add("b")
    now = 0.0
    for _ in range(6):
        for number in numbers(made, now):
            made.answered(number, DOWN, now)
        now = max(now + 20.0, made.next_deadline() or 0.0)
        made.handle_timeout(now)
    assert ("a" in made, "b" in made) == (False, True)


def test_an_errand_may_begin_later() -> None:
    memory, made = errands()
    memory.left |= {"a": 1, "b": 1, "c": 1}
    for aor, when in (("a", 5.0), ("b", 10.0)):
        made.note(aor, uncertain=True, when=when)
    assert (numbers(made), made.next_deadline()) == ([], 5.0)
    # One that is there already keeps its time, unless there is a reason to try at once.
    made.note("a", when=20.0)
    made.note("b")
    assert numbers(made) == [-1]
    assert memory.written == [("b", True)]
    made.note("b", uncertain=True, when=30.0)
    assert made.next_deadline() == 5.0
    made.handle_timeout(5.0)
    assert numbers(made, 5.0) == [-2]
    assert memory.written == [("b", True), ("a", True)]

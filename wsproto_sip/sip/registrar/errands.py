"""Changes for a location store without a REGISTER: ended connections, lost answers and changes.

Theory of operation: an errand makes the location store agree with a node's memory on one address of
record. It is noted when they may differ, because a binding in memory has ended, or because it is
unknown whether a change was done. Then the registrar compares what it knows of the store with its
memory and makes an update of the difference, which is asked and answered like any other question.
After a conflict it compares again. What the store does not answer is asked again later.

Where it is unknown whether a change was done, the errand is not over before another change was.
That gives the address another version, with which the lost one can no longer be done.

Errands have numbers below zero, so that they are not mistaken for questions of requests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ...timers import TimerQueue
from .store import Conflict, Done, NotAsked

if TYPE_CHECKING:
    from .store import Update

__all__ = ["Errands", "Reconciler"]

#: Maximum number of concurrent updates, for a store that has just come back.
_MOST: Final = 64
#: Seconds that an update may take.
_TIMEOUT: Final = 5.0
#: Seconds to the next attempt, doubled each time up to the second number.
_PAUSES: Final = (1.0, 16.0)
#: Errands that are kept while the store does not answer. Above, those are given up that have failed
#: a few times and whose address has no binding here: what the store has of it expires by itself.
_MAX_ERRANDS: Final = 10_000
_MAX_FAILURES: Final = 5


class Reconciler(Protocol):
    """Knows the differences between memory and the location store."""

    def reconcile(self, aor: str, now: float, *, write: bool = False) -> Update | None:
        """Return the update that makes the location store agree with memory, or ``None``."""
        ...

    def reconciled(self, update: Update, answer: Done | Conflict, now: float) -> None:
        """Record the result of an update."""
        ...

    def forget(self, aor: str) -> bool:
        """Forget the view of an address; return ``False`` if it is still needed."""
        ...


@dataclass(slots=True, eq=False)
class _Errand:
    """An address on which memory and the store may differ.

    Args:
        uncertain: Whether a change is pending that may still be done.
        number: The number of the question; 0 without one.
        again: Whether it was noted again meanwhile.
        failures: Number of attempts without an answer.
        pausing: Whether it waits for the next attempt.
    """

    uncertain: bool
    number: int = 0
    again: bool = False
    failures: int = 0
    pausing: bool = False


class Errands:
    """The errands of a registrar.

    Args:
        registrar: Knows the differences between memory and the location store.
    """

    def __init__(self, registrar: Reconciler) -> None:
        self._registrar = registrar
        self._errands: dict[str, _Errand] = {}
        self._ready: deque[str] = deque()
        self._asked: dict[int, Update] = {}
        self._last = 0
        #: Deadlines of updates, and times of next attempts.
        self._timers: TimerQueue[str] = TimerQueue()

    def __len__(self) -> int:
        """Return the number of errands."""
        return len(self._errands)

    def __contains__(self, aor: str) -> bool:
        """Return whether an errand for an address exists."""
        return aor in self._errands

    def note(self, aor: str, *, uncertain: bool = False, when: float | None = None) -> None:
        """Record that memory and the location store may differ on an address.

        Args:
            aor: The address.
            uncertain: Whether a change is pending that may still be done.
            when: The time of the first attempt, unless the address has an errand already; ``None``
                for now.
        """
        errand = self._errands.get(aor)
        if errand is None:
            self._errands[aor] = errand = _Errand(uncertain)
            if when is None:
                self._ready.append(aor)
            else:
                errand.pausing = True
                self._timers.set(aor, when)
        elif errand.number:
            errand.again |= uncertain
        else:
            errand.uncertain |= uncertain
            if errand.pausing and when is None:
                # A new reason to try.
                self._timers.set(aor, None)
                errand.pausing = False
                self._ready.append(aor)

    def take(self, now: float) -> list[tuple[int, Update]]:
        """Take the updates to send now.

        Args:
            now: The time, in seconds.

        Returns:
            Updates with their numbers for :meth:`answered`.
        """
        taken = []
        while self._ready and len(self._asked) < _MOST:
            aor = self._ready.popleft()
            # It is complete unless something has to be changed.
            errand = self._errands.pop(aor)
            update = self._registrar.reconcile(aor, now, write=errand.uncertain)
            if update is None:
                continue
            self._errands[aor] = errand
            self._last -= 1
            errand.number = self._last
            self._asked[self._last] = update
            self._timers.set(aor, now + _TIMEOUT)
            taken.append((self._last, update))
        return taken

    def answered(self, number: int, answer: object, now: float) -> None:
        """Process an answer.

        Args:
            number: The number of the question; an unknown one is ignored.
            answer: The answer, as documented by the question.
            now: The time, in seconds.
        """
        update = self._asked.pop(number, None)
        if update is None:
            return
        aor = update.aor
        errand = self._errands[aor]
        errand.number = 0
        self._timers.set(aor, None)
        if isinstance(answer, Done | Conflict):
            self._registrar.reconciled(update, answer, now)
            errand.failures = 0
            errand.uncertain = errand.again or (errand.uncertain and not isinstance(answer, Done))
            errand.again = False
            # Other changes may remain: it ends when nothing differs.
            self._ready.append(aor)
            return
        errand.uncertain |= errand.again or not isinstance(answer, NotAsked)
        errand.again = False
        errand.failures += 1
        if errand.failures >= _MAX_FAILURES and len(self._errands) > _MAX_ERRANDS:
            del self._errands[aor]
            if self._registrar.forget(aor):
                return
            self._errands[aor] = errand
        first, longest = _PAUSES
        errand.pausing = True
        self._timers.set(aor, now + min(first * 2 ** (errand.failures - 1), longest))

    def next_deadline(self) -> float | None:
        """Return the time at which to call :meth:`handle_timeout`, or ``None``."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> None:
        """Give up overdue updates, and retry earlier ones; early calls do nothing."""
        for aor in self._timers.pop_due(now):
            errand = self._errands[aor]
            if errand.number:
                self.answered(errand.number, None, now)
            else:
                errand.pausing = False
                self._ready.append(aor)

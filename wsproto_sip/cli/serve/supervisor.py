"""Which processes of a set run, start again, reload and stop, without I/O.

Theory of operation: the owner of the processes reports what happens to them, and performs the
returned actions. Each process is in one state::

    DOWN ──Start──▶ STARTING ──ready──▶ RUNNING ──Tell(STOP)──▶ STOPPING
     ▲                  │                  │                       │
     └────── exited, after a pause ────────┴───────── exited ──────┘

The first process starts alone, so that an invalid setting is reported once; the others follow when
it is ready. Until all of them were ready, the end of one ends the set. From then on, a process that
ends is started again, after a random pause that grows while it keeps ending. Processes reload or
restart one after the other, each when the one before is ready again.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ...adapters.backoff import Backoff
from ...timers import TimerQueue

if TYPE_CHECKING:
    from ...typing import Entropy

__all__ = [
    "Action",
    "Announce",
    "Finish",
    "Order",
    "Report",
    "Rolled",
    "Rolling",
    "Start",
    "State",
    "Supervisor",
    "Tell",
]

#: Seconds that a process may take to start, and to reload.
_START_SECONDS: Final = 60.0
_RELOAD_SECONDS: Final = 60.0

#: Seconds that a process may take to end, in addition to those for draining.
_END_SECONDS: Final = 20.0

#: The pause before a process is started again: first and longest, in seconds; a process that ran
#: for as long as the last number starts over with the first.
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 1.0, 30.0, 30.0


class State(Enum):
    """The states of a process."""

    DOWN = "down"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class Order(Enum):
    """What a process can be told."""

    RELOAD = "reload"
    STOP = "stop"
    KILL = "kill"


class Rolling(Enum):
    """What processes can do one after the other."""

    RELOAD = "reload"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process.

    Args:
        index: Its number, from 0.
    """

    index: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a process an order.

    Args:
        index: Its number.
        order: The order.
    """

    index: int
    order: Order


@dataclass(frozen=True, slots=True)
class Announce:
    """All processes are ready for the first time."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """All processes have reloaded, or were restarted.

    Args:
        what: Which of both.
        done: Whether all have; a failure was reported before.
    """

    what: Rolling
    done: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Report a problem.

    Args:
        event: Its name.
        index: The number of the process.
        detail: What happened.
        seconds: The time until the process is started again; ``None`` if it is not.
    """

    event: str
    index: int
    detail: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The set has ended.

    Args:
        code: The exit code.
    """

    code: int


Action = Start | Tell | Announce | Rolled | Report | Finish


class _Process:
    """One process of the set."""

    __slots__ = ("backoff", "killed", "state")

    def __init__(self, entropy: Entropy) -> None:
        self.state = State.DOWN
        #: Why it was killed, if it was.
        self.killed = ""
        self.backoff = Backoff(
            first=_FIRST_PAUSE, longest=_LONGEST_PAUSE, steady=_STEADY, entropy=entropy
        )


class Supervisor:
    """The processes of a set, with numbers from 0.

    In all methods, ``now`` is the time in seconds of any monotonic clock, and ``index`` the number
    of a process. They return the actions to perform, in order.

    Args:
        count: How many processes there are.
        drain: Seconds in which a process that stops closes its connections.
        watchdog: Seconds within which a running process must be :meth:`alive`, or else be killed;
            ``None`` for no such check.
        entropy: Source of random bytes.
    """

    def __init__(
        self,
        count: int,
        *,
        drain: float,
        watchdog: float | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._processes = [_Process(entropy) for _ in range(count)]
        self._drain = drain
        self._watchdog = watchdog
        # Per process: when it is started again, or killed.
        self._timers: TimerQueue[int] = TimerQueue()
        self._announced = False
        self._code: int | None = None
        self._finished = False
        self._wanted: deque[Rolling] = deque()
        self._rolling: Rolling | None = None
        self._turns: deque[int] = deque()
        self._turn: int | None = None

    @property
    def states(self) -> list[State]:
        """The states of the processes."""
        return [process.state for process in self._processes]

    @property
    def stopping(self) -> bool:
        """Whether the set was told to stop, or cannot start."""
        return self._code is not None

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout`; ``None`` for never."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> list[Action]:
        """Start and kill what is due."""
        actions: list[Action] = []
        for index in self._timers.pop_due(now):
            process = self._processes[index]
            if process.state is State.DOWN:
                actions += self._start(index, now)
                continue
            if process.state is State.RUNNING and self._turn == index and not process.killed:
                process.killed = "it did not reload in time"
            elif process.state is State.RUNNING:
                process.killed = "it did not respond"
            elif process.state is State.STARTING:
                process.killed = "it did not start in time"
            else:
                process.killed = "it did not stop in time"
            # If the system does not end it, it is killed again.
            self._timers.set(index, now + _END_SECONDS)
            actions.append(Tell(index, Order.KILL))
        return actions

    # -- what happens to processes -----------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Start the set."""
        return self._start(0, now)

    def ready(self, index: int, now: float) -> list[Action]:
        """Take note that a process has started, or has finished reloading."""
        process = self._processes[index]
        if process.state not in (State.STARTING, State.RUNNING):
            return []
        actions: list[Action] = []
        if process.state is State.STARTING:
            process.state = State.RUNNING
            process.backoff.opened(now)
        self._expect_life(index, now)
        if not self._announced:
            if index == 0:
                for other, waiting in enumerate(self._processes):
                    if waiting.state is State.DOWN:
                        actions += self._start(other, now)
            if all(state is State.RUNNING for state in self.states):
                self._announced = True
                actions.append(Announce())
                actions += self._roll_on(now)
        elif self._turn == index:
            self._turn = None
            actions += self._roll_on(now)
        return actions

    def reload_failed(self, index: int, now: float) -> list[Action]:
        """Take note that a process has found an invalid file; :meth:`ready` follows."""
        if self._rolling is not Rolling.RELOAD or self._turn != index:
            return []
        done = len(self._processes) - len(self._turns) - 1
        actions: list[Action] = []
        if done:
            actions.append(
                Report("process-not-reloaded", index, f"only {done} before it have reloaded")
            )
        return [*actions, *self._end_roll(Rolling.RELOAD, now, done=False)]

    def alive(self, index: int, now: float) -> list[Action]:
        """Take note that a process is not stuck."""
        if self._processes[index].state is State.RUNNING and self._turn != index:
            self._expect_life(index, now)
        return []

    def exited(self, index: int, code: int, now: float) -> list[Action]:
        """Take note that a process has ended.

        Args:
            index: Its number.
            code: Its exit code; negative for that of a signal.
            now: The time.
        """
        process = self._processes[index]
        before, process.state = process.state, State.DOWN
        why, process.killed = process.killed or _meaning(code), ""
        self._timers.set(index, None)
        if self._code is not None:
            return self._finish()
        if not self._announced:
            # 2 is that of invalid settings.
            self._code = code if code > 0 else 1
            return [*self._stop_all(now), *self._finish()]
        if before is State.STOPPING:
            return self._start(index, now)
        pause = process.backoff.failed(now)
        self._timers.set(index, now + pause)
        actions: list[Action] = [Report("process-ended", index, why, pause)]
        if before is State.STARTING and self._turn == index and self._rolling is Rolling.RESTART:
            # The others are kept running with what they have.
            actions += self._end_roll(Rolling.RESTART, now, done=False)
        return actions

    # -- what the operator wants -------------------------------------------------------------------

    def roll(self, what: Rolling, now: float) -> list[Action]:
        """Have all processes reload or restart, one after the other.

        Args:
            what: Which of both; waits for its turn if processes are doing either.
            now: The time.
        """
        if self._code is not None or what in self._wanted:
            return []
        self._wanted.append(what)
        return self._roll_on(now) if self._announced and self._rolling is None else []

    def stop(self, now: float) -> list[Action]:
        """Stop all processes; they stop at once if this is called again."""
        if self._code is None:
            self._code = 0
            self._wanted.clear()
            self._rolling, self._turn = None, None
        return [*self._stop_all(now), *self._finish()]

    # -- steps -------------------------------------------------------------------------------------

    def _start(self, index: int, now: float) -> list[Action]:
        self._processes[index].state = State.STARTING
        self._timers.set(index, now + _START_SECONDS)
        return [Start(index)]

    def _expect_life(self, index: int, now: float) -> None:
        self._timers.set(index, None if self._watchdog is None else now + self._watchdog)

    def _stop_all(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for index, process in enumerate(self._processes):
            if process.state is State.DOWN:
                self._timers.set(index, None)
                continue
            process.state = State.STOPPING
            self._timers.set(index, now + self._drain + _END_SECONDS)
            actions.append(Tell(index, Order.STOP))
        return actions

    def _finish(self) -> list[Action]:
        if self._finished or any(state is not State.DOWN for state in self.states):
            return []
        self._finished = True
        return [Finish(self._code or 0)]

    def _roll_on(self, now: float) -> list[Action]:
        """Give the next process its turn."""
        if self._rolling is None:
            if not self._wanted:
                return []
            self._rolling = self._wanted.popleft()
            self._turns.extend(range(len(self._processes)))
        while self._turns:
            index = self._turns.popleft()
            process = self._processes[index]
            if process.state is State.DOWN:
                # It will read the files when it starts.
                continue
            self._turn = index
            if process.state is State.STARTING:
                # Once it is ready it has its turn.
                self._turns.appendleft(index)
                return []
            if self._rolling is Rolling.RELOAD:
                self._timers.set(index, now + _RELOAD_SECONDS)
                return [Tell(index, Order.RELOAD)]
            process.state = State.STOPPING
            self._timers.set(index, now + self._drain + _END_SECONDS)
            return [Tell(index, Order.STOP)]
        return self._end_roll(self._rolling, now, done=True)

    def _end_roll(self, what: Rolling, now: float, *, done: bool) -> list[Action]:
        self._rolling, self._turn = None, None
        self._turns.clear()
        return [Rolled(what, done), *self._roll_on(now)]


def _meaning(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"

"""The operator's programs that receive events, without delaying the server.

Theory of operation: an event becomes a line of JSON in a bounded queue. A thread takes it from
there to another process, which either stays and calls a function (:mod:`._hook`), answering each
line, or is a command that is started for each. A process that does not answer in time is killed,
one that has ended is started again after a pause, and events that find the queue full are dropped
and counted. Nothing that the operator's code does (wait, raise, exit, crash) reaches the server::

    server ──> queue ──> thread ──> process: function or command
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from threading import Condition, Thread, Timer
from typing import TYPE_CHECKING, Final

from ...adapters.reports import report
from ...errors import WsprotoSipError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EventHook", "EventHookError"]

#: Maximum number of queued events.
_CAPACITY: Final = 1000
#: Seconds that a process may take for an event, or to start.
_PATIENCE: Final = 10.0
#: Seconds until an ended process is started again: initial and maximum.
_PAUSES: Final = (0.5, 30.0)
#: Seconds that the remaining events may take at the end.
_LINGER: Final = 1.0


class EventHookError(WsprotoSipError):
    """A hook cannot start, or failed at an event.

    Args:
        reason: Why.
        ended: Whether its process has ended.

    Attributes:
        ended: As above.
    """

    def __init__(self, reason: str, *, ended: bool = False) -> None:
        super().__init__(reason)
        self.ended = ended


class _Function:
    """A process that calls a function for each event."""

    def __init__(self, name: str, patience: float) -> None:
        self._name = name
        self._patience = patience
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start the process, unless it runs.

        Raises:
            EventHookError: The function cannot be loaded.
        """
        if self._process is not None:
            return
        self._process = subprocess.Popen(  # noqa: S603 - the operator's own
            [sys.executable, "-m", "wsproto_sip.cli.serve._hook", self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            bufsize=1,
            # Ctrl-C in the server's terminal is for the server.
            start_new_session=True,
        )
        self._answer(self._process)

    def tell(self, line: str) -> None:
        """Send it an event.

        Raises:
            EventHookError: It failed, ended, or took too long.
        """
        self.begin()
        process = self._process
        if process is None or process.stdin is None:
            raise EventHookError("it has ended", ended=True)
        # If it ended, its answer is missing.
        with suppress(OSError):
            process.stdin.write(f"{line}\n")
        self._answer(process)

    def _answer(self, process: subprocess.Popen[str]) -> None:
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            process.kill()

        timer = Timer(self._patience, give_up)
        timer.start()
        try:
            answer = process.stdout.readline() if process.stdout is not None else ""
        finally:
            timer.cancel()
        if answer == "ok\n":
            return
        if answer.startswith("failed "):
            raise EventHookError(answer.removeprefix("failed ").strip())
        self.end()
        raise EventHookError(
            answer.strip() or (f"no answer in {self._patience:g} s" if late else "it has ended"),
            ended=True,
        )

    def end(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()


class _Command:
    """A command that is started for each event."""

    def __init__(self, words: Sequence[str], patience: float) -> None:
        self._words = list(words)
        self._patience = patience

    def begin(self) -> None:
        """Check that the program exists."""
        if shutil.which(self._words[0]) is None:
            raise EventHookError(f"no such program: {self._words[0]}")

    def tell(self, line: str) -> None:
        """Start it, with the event on its standard input.

        Raises:
            EventHookError: It cannot be started, failed, or took too long.
        """
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own
                self._words,
                input=f"{line}\n".encode(),
                stdout=subprocess.DEVNULL,
                timeout=self._patience,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise EventHookError(f"not done in {self._patience:g} s") from None
        except OSError as exc:
            raise EventHookError(str(exc)) from None
        if done.returncode:
            raise EventHookError(f"exit status {done.returncode}")

    def end(self) -> None:
        """Do nothing: it ends by itself."""


class EventHook:
    """Reports events to a function or a command.

    Args:
        function: ``module:function``, which is called with each event as a dictionary.
        command: The words of a command line, which gets each event as JSON on its standard input.
        capacity: Maximum number of queued events; more are dropped.
        patience: Seconds that an event may take.
        pauses: Seconds until an ended process is started again: initial and maximum.

    Attributes:
        told: Number of events that were handled.
        failed: Number of events at which the program failed.
        dropped: Number of events that were dropped.
    """

    def __init__(
        self,
        *,
        function: str | None = None,
        command: Sequence[str] = (),
        capacity: int = _CAPACITY,
        patience: float = _PATIENCE,
        pauses: tuple[float, float] = _PAUSES,
    ) -> None:
        self._pauses = pauses
        self.told = self.failed = self.dropped = 0
        self._capacity = capacity
        self._target: _Function | _Command
        if function is not None:
            self._target = _Function(function, patience)
        else:
            self._target = _Command(command, patience)
        self._change = Condition()
        self._waiting: deque[tuple[str, str]] = deque()
        self._busy = self._ended = False
        self._pause = 0.0
        self._thread = Thread(target=self._run, name="wsproto_sip event hook", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of queued events."""
        return len(self._waiting)

    def start(self) -> None:
        """Start; this may take a moment.

        Raises:
            EventHookError: The function or program does not exist.
        """
        self._target.begin()
        self._thread.start()

    def __call__(self, area: str, event: str, fields: Mapping[str, object]) -> None:
        """Queue an event, or drop it if there is no room; return at once.

        Args:
            area: The area of the event, such as ``sip``.
            event: The event.
            fields: The event's details.
        """
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": when, "area": area, "event": event, **fields})
        with self._change:
            if self._ended or len(self._waiting) >= self._capacity:
                self.dropped += 1
            else:
                self._waiting.append((event, line))
                self._change.notify_all()

    def close(self, seconds: float = _LINGER) -> None:
        """Wait briefly for the remaining events, and end the process.

        Args:
            seconds: Seconds to wait.
        """
        with self._change:
            self._change.wait_for(lambda: not (self._waiting or self._busy), seconds)
            self._ended = True
            self._waiting.clear()
            self._change.notify_all()
        self._target.end()

    def _run(self) -> None:
        told_of = 0
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    break
                self._busy = True
                event, line = self._waiting.popleft()
            self._tell(event, line)
            dropped = self.dropped
            if dropped > told_of:
                report("server", logging.WARNING, "hook-dropped", events=dropped - told_of)
                told_of = dropped
        self._target.end()

    def _tell(self, event: str, line: str) -> None:
        try:
            self._target.tell(line)
        except EventHookError as exc:
            self.failed += 1
            report(
                "server", logging.WARNING, "hook-failed", about="hook", of=event, reason=str(exc)
            )
            if exc.ended:
                self._wait()
        else:
            self.told += 1
            self._pause = 0.0

    def _wait(self) -> None:
        """Pause before the process is started again, longer each time."""
        first, longest = self._pauses
        self._pause = min(max(first, 2 * self._pause), longest)
        with self._change:
            self._change.wait_for(lambda: self._ended, self._pause)

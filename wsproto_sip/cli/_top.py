"""``wsproto-sip ctl top``: a live view of a server.

Theory of operation: a sample is taken every few seconds with commands that every server has; two
samples give rates, and :func:`frame` formats them. The rest is terminal handling: the alternate
screen while it runs, and Ctrl-C or q to end.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from ._tables import columns, table

__all__ = ["Sample", "frame", "run_top", "take_sample"]

#: Sends a command and returns its result.
Ask = Callable[[str, Sequence[str]], Any]

_RATES: Final = {
    "handshakes": "successful_handshakes",
    "failed": "failed_connections",
    "received": "received_frames",
    "sent": "transmitted_frames",
}
_KINDS: Final = {"all": "ws_", "sip": "ws_sip_", "msrp": "ws_msrp_"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a server at one time.

    Args:
        at: The time, in seconds.
        uptime: Seconds since the server was started.
        counters: Its statistics.
        connections: The output of ``ws.dump``.
        registrations: The number of registered addresses; ``None`` if it is not a registrar.
        transactions: The number of pending SIP requests; ``None`` without SIP.
        sessions: The number of MSRP sessions; ``None`` without a relay.
    """

    at: float
    uptime: int
    counters: Mapping[str, float] = field(default_factory=dict)
    connections: Any = None
    registrations: int | None = None
    transactions: int | None = None
    sessions: int | None = None


def take_sample(
    ask: Ask, at: float, rows: int, refused: type[Exception], *, everywhere: bool = False
) -> Sample:
    """Take a sample of a server, or of all nodes.

    Args:
        ask: Sends a command to it.
        at: The time.
        rows: The number of connections to show.
        refused: The exception for a command that it does not have.
        everywhere: Whether to ask all nodes.
    """
    scope = ["all"] if everywhere else []

    def number(name: str, params: Sequence[str], find: Callable[[Any], object]) -> int | None:
        with suppress(refused, LookupError, TypeError):
            return int(str(find(ask(name, params))))
        return None

    return Sample(
        at,
        int(ask("core.uptime", [])["uptime"]),
        ask("ws.statistics", scope),
        ask("ws.dump", [*scope, "used_asc", f"limit={min(max(rows, 1), 100)}"]),
        number(
            "ul.dump",
            [*scope, "brief", "limit=1"],
            lambda found: found["Domains"][0]["Domain"]["Stats"]["Records"],
        ),
        None if everywhere else number("tm.list", ["limit=1000"], len),
        None
        if everywhere
        else number("msrp.sessions", ["limit=1"], lambda found: found["info"]["count"]),
    )


def frame(now: Sample, before: Sample | None, width: int, height: int) -> list[str]:
    """Format the state of a server as lines.

    Args:
        now: The current state.
        before: The previous state, as the base of rates.
        width: Characters of a line.
        height: Maximum number of lines.
    """
    minutes, seconds = divmod(now.uptime, 60)
    hours, minutes = divmod(minutes, 60)
    facts = [f"up {hours}:{minutes:02}:{seconds:02}"]
    for text, count in (
        ("registered", now.registrations),
        ("SIP requests", now.transactions),
        ("MSRP sessions", now.sessions),
    ):
        if count is not None:
            facts.append(f"{count} {text}")
    rows = [("", "CONNECTIONS", "MOST", *[f"{name.upper()}/s" for name in _RATES])]
    for kind, prefix in _KINDS.items():
        rows.append(
            (
                kind,
                f"{now.counters.get(f'{prefix}current_connections', 0):g}",
                f"{now.counters.get(f'{prefix}max_concurrent_connections', 0):g}",
                *[_rate(now, before, prefix + name) for name in _RATES.values()],
            )
        )
    lines = ["  ".join(facts)[:width], "", *columns(rows, width), ""]
    lines += table("ws.dump", now.connections, width)
    return lines[:height]


def _rate(now: Sample, before: Sample | None, name: str) -> str:
    if before is None or now.at <= before.at:
        return ""
    grown = now.counters.get(name, 0) - before.counters.get(name, 0)
    # Counters start again after a restart or a reset.
    return f"{max(grown, 0) / (now.at - before.at):.1f}"


def run_top(
    ask: Ask,
    interval: float,
    refused: type[Exception],
    *,
    everywhere: bool = False,
    out: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], bool] | None = None,
) -> int:
    """Show a server until the user ends it; only once if the output is not a terminal.

    Args:
        ask: Sends a command to it.
        interval: Seconds between two samples.
        refused: The exception for a command that it does not have.
        everywhere: Whether to show all nodes.
        out: Where to show it; standard output by default.
        clock: The time.
        wait: Waits so many seconds, and returns whether to continue; by default until the time is
            over or q is pressed.
    """
    out = sys.stdout if out is None else out
    if not out.isatty():
        for line in frame(
            take_sample(ask, clock(), 100, refused, everywhere=everywhere), None, 200, 200
        ):
            print(line, file=out)
        return 0
    before: Sample | None = None
    with _other_screen(out), _keys() as pressed:
        pause = pressed if wait is None else wait
        while True:
            width, height = shutil.get_terminal_size()
            now = take_sample(ask, clock(), height, refused, everywhere=everywhere)
            lines = frame(now, before, width, height - 1)
            # Clear the rest of each line, and everything below.
            out.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in lines) + "\x1b[J")
            out.flush()
            before = now
            if not pause(interval):
                return 0


@contextmanager
def _other_screen(out: TextIO) -> Iterator[None]:
    """Preserve the content of the terminal."""
    out.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        out.write("\x1b[?25h\x1b[?1049l")
        out.flush()


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read single keys if standard input is a terminal; yield a function that waits for q."""
    try:
        import termios  # noqa: PLC0415  # not there on Windows
        import tty  # noqa: PLC0415

        number = sys.stdin.fileno()
        saved = termios.tcgetattr(number)
    except (ImportError, OSError, ValueError, AttributeError):
        yield _slept
        return
    except termios.error:
        yield _slept
        return
    import os  # noqa: PLC0415
    import select  # noqa: PLC0415

    def waited(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while select.select([number], [], [], max(end - time.monotonic(), 0))[0]:
            if os.read(number, 1) in (b"q", b"Q", b""):
                return False
        return True

    try:
        tty.setcbreak(number)
        yield waited
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, saved)


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return True

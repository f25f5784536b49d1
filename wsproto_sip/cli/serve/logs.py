"""The log of ``wsproto-sip serve``: forms of lines, where they go, and how many of a kind.

Theory of operation: everything is logged through ``logging``, most of it by
:mod:`~wsproto_sip.adapters.reports`. :func:`set_up` gives the package's logger one handler, which
writes to standard error or a file without ever waiting (:mod:`~wsproto_sip.cli.serve.outlet`). A
:class:`RateBound` in front of it lets only so many lines of one event about one address pass, and
says how many it has kept back.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ...adapters.reports import LOGGERS, Line, report
from .._text import MAX_VALUE, elided, escape, pair
from .outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "AREAS",
    "LEVELS",
    "JsonLines",
    "Log",
    "RateBound",
    "TextLines",
    "in_journal",
    "parse_levels",
    "set_up",
    "tell_dropped",
]

_LOGGER: Final = logging.getLogger("wsproto_sip")

#: What levels can be set for, besides all of them at once.
AREAS: Final = tuple(LOGGERS)
LEVELS: Final = ("debug", "info", "warning", "error")

#: Characters of a line for people. Tracebacks, which come of our own faults, stand whole after it.
_MAX_LINE: Final = 2000

#: Characters of the text of a record that is not a Line.
_MAX_TEXT: Final = 500

#: Seconds in which lines of one kind count together, and kinds that are told apart.
_WINDOW: Final = 10.0
_MAX_KINDS: Final = 10_000

#: syslog's numbers, as journald reads them at the beginning of a line (sd-daemon(3)).
_PRIORITIES: Final = (
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
    (0, "<7>"),
)


def tell_dropped(count: int) -> None:
    """Log that output was not read in time, so that some of it is missing.

    Args:
        count: The lines that are missing.
    """
    report("server", logging.WARNING, "output-dropped", lines=count)


def in_journal() -> bool:
    """Return whether standard error leads to systemd's journal (systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def parse_levels(words: tuple[str, ...]) -> dict[str, int]:
    """Read the values of ``--log-level``.

    Args:
        words: ``AREA=LEVEL``, or a level for all areas; later ones go before earlier ones.

    Returns:
        Levels of ``logging`` by area.

    Raises:
        ValueError: One is something else.
    """
    levels: dict[str, int] = {}
    for word in words:
        area, equals, level = word.rpartition("=")
        if level not in LEVELS or (equals and area not in AREAS):
            raise ValueError(
                f"{word!r:.100} is not LEVEL or AREA=LEVEL, with an area of {', '.join(AREAS)} "
                f"and a level of {', '.join(LEVELS)}"
            )
        number = logging.getLevelNamesMapping()[level.upper()]
        levels |= dict.fromkeys([area] if equals else AREAS, number)
    return levels


def _parts(record: logging.LogRecord) -> dict[str, object]:
    when = datetime.fromtimestamp(record.created, UTC)
    line = record.msg
    fields: Mapping[str, object] = {}
    if isinstance(line, Line):
        event, fields = line.event, line.fields
    else:
        event = elided(record.getMessage(), _MAX_TEXT)
    parts: dict[str, object] = {
        "time": when.isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "area": record.name.removeprefix(f"{_LOGGER.name}."),
        "event": event,
        **{name: _bounded(value) for name, value in fields.items()},
    }
    if record.exc_info:
        parts["exception"] = logging.Formatter().formatException(record.exc_info)
    return parts


def _bounded(value: object) -> object:
    return value if isinstance(value, bool | int | float) else elided(str(value), MAX_VALUE)


def _priority(record: logging.LogRecord) -> str:
    return next(prefix for level, prefix in _PRIORITIES if record.levelno >= level)


class JsonLines(logging.Formatter):
    """An object a line: ``time``, ``level``, ``area``, ``event``, and what is known about it.

    Args:
        journal: Whether to begin lines with their priority, as the journal reads it.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        parts = _parts(record)
        if not isinstance(record.msg, Line):
            # A sentence is not the name of an event, and differs from line to line.
            parts["text"], parts["event"] = parts["event"], "message"
        line = json.dumps(parts)
        return _priority(record) + line if self._journal else line


class TextLines(logging.Formatter):
    """Time, level, area, event, and ``name=value`` pairs; what moves cursors or hides is escaped.

    Args:
        journal: Whether to begin lines with their priority, and to leave out the time, which the
            journal has itself.
    """

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        parts = _parts(record)
        words = [str(parts.pop(name)) for name in ("time", "level", "area", "event")]
        exception = parts.pop("exception", None)
        words += [pair(name, value) for name, value in parts.items()]
        if self._journal:
            words[0] = ""
        line = elided(escape(" ".join(words).lstrip()), _MAX_LINE)
        if exception is not None:
            # Whole: it is of our own making.
            line = f"{line} exception={escape(json.dumps(exception, ensure_ascii=False))}"
        return _priority(record) + line if self._journal else line


@dataclass(slots=True)
class _Kind:
    """Lines of one kind: since when they count, how many there were, and the last one kept back."""

    since: float
    lines: int = 0
    kept_back: int = 0
    last: logging.LogRecord | None = None


class RateBound(logging.Filter):
    """Suppresses lines that are repeated too often, and counts them.

    Lines are of one kind if they report the same event of the same peer or user. Lines without a
    peer or user (:attr:`Line.about` is ``None``) always pass, except for records of other code,
    which are of one kind if they have the same text before formatting.

    Args:
        lines: Number of lines of a kind that pass in ten seconds; 0 for all.
        tell: Takes records that report the number of suppressed lines.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        lines: int,
        tell: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._tell = tell
        self._clock = clock
        # The one that began to count first in front.
        self._kinds: OrderedDict[tuple[str, str, str], _Kind] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record passes."""
        key = self._key(record)
        if key is None:
            return True
        now = self._clock()
        self.flush(now)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._end(*self._kinds.popitem(last=False))
            kind = self._kinds[key] = _Kind(now)
        kind.lines += 1
        if kind.lines <= self._lines:
            return True
        kind.kept_back += 1
        kind.last = record
        return False

    def _key(self, record: logging.LogRecord) -> tuple[str, str, str] | None:
        line = record.msg
        if not self._lines:
            return None
        if not isinstance(line, Line):
            return record.name, str(line), ""
        return None if line.about is None else (record.name, line.event, line.about)

    def flush(self, now: float | None = None) -> None:
        """Report the number of suppressed lines, for kinds whose window has ended.

        Args:
            now: The time; ``None`` for all kinds.
        """
        while self._kinds:
            key, kind = next(iter(self._kinds.items()))
            if now is not None and now < kind.since + _WINDOW:
                return
            del self._kinds[key]
            self._end(key, kind)

    def _end(self, key: tuple[str, str, str], kind: _Kind) -> None:
        if kind.last is None:
            return
        name, event, about = key
        fields: dict[str, object] = {"of": event, "lines": kind.kept_back}
        if about:
            fields["about"] = about
        line = Line("repeated", fields)
        self._tell(logging.LogRecord(name, kind.last.levelno, "", 0, line, None, None))


class Log:
    """The log of this process.

    Args:
        handler: Where it is written.
        bound: The bound on repeated lines.
        outlet: The file, if it is one.
        path: Its name.

    Attributes:
        outlet: As above.
    """

    def __init__(
        self,
        handler: logging.Handler,
        bound: RateBound,
        outlet: Outlet | None = None,
        path: str | None = None,
    ) -> None:
        self._handler = handler
        self._bound = bound
        self.outlet = outlet
        self._path = path

    def flush(self) -> None:
        """Report the number of lines suppressed since the last call; call this periodically."""
        self._bound.flush(time.monotonic())

    def reopen(self) -> None:
        """Open the file again, after something has moved it away.

        Raises:
            OSError: It cannot be opened; lines go where they went before.
        """
        if self.outlet is not None and self._path is not None:
            descriptor = _open(self._path)
            try:
                self.outlet.replace(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Write pending reports and stop logging."""
        self._bound.flush()
        _LOGGER.removeHandler(self._handler)
        if self.outlet is not None:
            self.outlet.close_descriptor()


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def set_up(
    log_format: str | None = None,
    *,
    levels: Mapping[str, int] | None = None,
    path: str | None = None,
    repeats: int = 0,
) -> Log:
    """Start logging, replacing an earlier log of this function.

    Args:
        log_format: ``text`` or ``json``; ``None`` logs only warnings, as text, unless there is a
            file or a level for an area.
        levels: Levels of ``logging`` by area, instead of the default.
        path: The file to write to; ``None`` for standard error.
        repeats: Number of lines of one event about one peer that pass in ten seconds; 0 for all.

    Raises:
        OSError: The file cannot be opened.
    """
    outlet = None
    journal = path is None and in_journal()
    if path is not None:
        outlet = Outlet(_open(path), tell_dropped)
    handler = logging.StreamHandler(sys.stderr if outlet is None else outlet)
    handler.setFormatter(
        JsonLines(journal=journal) if log_format == "json" else TextLines(journal=journal)
    )
    bound = RateBound(repeats, handler.handle)
    handler.addFilter(bound)
    for old in _LOGGER.handlers:
        _LOGGER.removeHandler(old)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.WARNING if log_format is path is None else logging.INFO)
    for area, logger in LOGGERS.items():
        logger.setLevel((levels or {}).get(area, logging.NOTSET))
    _LOGGER.propagate = False
    return Log(handler, bound, outlet, path)

"""What ``wsproto-sip serve`` logs: a line for each thing that happens, for people or programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from ._text import escape

__all__ = ["JsonLines", "TextLines", "log_event", "set_up"]

_LOGGER: Final = logging.getLogger("wsproto_sip")

#: Characters of one value: peers choose what is in many of them.
_MAX_VALUE: Final = 100

#: Characters of a line for people. Tracebacks, which come of our own faults, stand whole behind it.
_MAX_LINE: Final = 200


def log_event(name: str, **values: object) -> None:
    """Logs that something has happened.

    Args:
        name: What.
        values: What is to be known about it; None is left out.
    """
    known = {key: value for key, value in values.items() if value is not None}
    _LOGGER.info(name, extra={"values": known})


def _parts(record: logging.LogRecord) -> dict[str, object]:
    time = datetime.fromtimestamp(record.created, UTC)
    parts: dict[str, object] = {
        "time": time.isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "event": _elided(record.getMessage(), _MAX_LINE),
        **{name: _bounded(value) for name, value in getattr(record, "values", {}).items()},
    }
    if record.exc_info:
        parts["exception"] = logging.Formatter().formatException(record.exc_info)
    return parts


def _bounded(value: object) -> object:
    return value if isinstance(value, bool | int | float) else _elided(str(value), _MAX_VALUE)


def _elided(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class JsonLines(logging.Formatter):
    """An object a line: ``time``, ``level``, ``event``, and what is known about it."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes a line."""
        return json.dumps(_parts(record))


class TextLines(logging.Formatter):
    """Time, level, event, and ``name=value`` pairs; what moves cursors or hides is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes a line."""
        time, level, event, *_ = parts = _parts(record)
        words = [str(parts.pop(name)) for name in (time, level, event)]
        exception = parts.pop("exception", None)
        words += [_pair(name, value) for name, value in parts.items()]
        line = _elided(escape(" ".join(words)), _MAX_LINE)
        return line if exception is None else f"{line} {escape(_pair('exception', exception))}"


def _pair(name: str, value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=') and text != ""
    return f"{name}={text if plain else json.dumps(text, ensure_ascii=False)}"


def set_up(log_format: str | None) -> None:
    """Begins to log on standard error.

    Args:
        log_format: ``text`` or ``json``; None logs problems alone, as text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    for old in _LOGGER.handlers:
        _LOGGER.removeHandler(old)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.WARNING if log_format is None else logging.INFO)
    _LOGGER.propagate = False

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
        "event": record.getMessage(),
        **getattr(record, "values", {}),
    }
    if record.exc_info:
        parts["exception"] = logging.Formatter().formatException(record.exc_info)
    return parts


class JsonLines(logging.Formatter):
    """An object a line: ``time``, ``level``, ``event``, and what is known about it."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes a line."""
        return json.dumps(_parts(record), default=str)


class TextLines(logging.Formatter):
    """Time, level, event, and ``name=value`` pairs; what moves cursors or hides is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes a line."""
        time, level, event, *_ = parts = _parts(record)
        words = [str(parts.pop(name)) for name in (time, level, event)]
        for name, value in parts.items():
            text = str(value)
            plain = text.isprintable() and not set(text) & set(' "=') and text != ""
            words.append(f"{name}={text if plain else json.dumps(text, ensure_ascii=False)}")
        return escape(" ".join(words))


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

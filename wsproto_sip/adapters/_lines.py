"""Records of ``logging`` that are events with fields, and the loggers they go to.

Everything that a server logs in one of its areas goes through :func:`report`, so that a formatter
for programs finds the facts of each record in its fields.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ._text import pair

if TYPE_CHECKING:
    from ..typing import Address

__all__ = ["LOGGERS", "Line", "address_text", "known", "report", "report_failure"]

#: The logger of each area.
LOGGERS: Final[Mapping[str, logging.Logger]] = {
    area: logging.getLogger(f"wsproto_sip.{area}")
    for area in ("ws", "sip", "msrp", "auth", "server", "management")
}


class Line:
    """The message of a record.

    Args:
        event: The name of the event.
        fields: The facts about it, by name; values are text, numbers and booleans.
        about: The client it is about, for rate limits of the log; ``None`` for none.

    Attributes:
        event: The name of the event.
        fields: The facts about it.
        about: The client it is about.
    """

    __slots__ = ("about", "event", "fields")

    def __init__(self, event: str, fields: Mapping[str, object], about: str | None = None) -> None:
        self.event = event
        self.fields = fields
        self.about = about

    def __str__(self) -> str:
        """Format the line: the event, and ``name=value`` pairs."""
        return " ".join([self.event, *[pair(*item) for item in self.fields.items()]])


def report(
    area: str,
    level: int,
    event: str,
    *,
    about: str | None = None,
    **fields: object,
) -> None:
    """Log an event.

    Args:
        area: The area, a key of ``LOGGERS``.
        level: A level of ``logging``.
        event: The name of the event.
        about: The client it is about; see :class:`Line`.
        fields: The facts about it; ``None`` is omitted.
    """
    logger = LOGGERS[area]
    if logger.isEnabledFor(level):
        logger.log(level, Line(event, known(fields), about))


def report_failure(area: str, event: str, error: BaseException, **fields: object) -> None:
    """Log an event at level error, with the traceback of an exception.

    Args:
        area: The area, a key of ``LOGGERS``.
        event: The name of the event. The log bounds how often it is repeated.
        error: The exception.
        fields: The facts about it; ``None`` is omitted.
    """
    LOGGERS[area].error(Line(event, known(fields), event), exc_info=error)


def address_text(address: Address) -> str:
    """Format an address and port; a Unix socket has neither.

    Args:
        address: The address and the port.
    """
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def known(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that are not ``None``.

    Args:
        fields: Facts by name.
    """
    return {name: value for name, value in fields.items() if value is not None}

"""The management commands of ``wsproto-sip serve`` itself: settings, log levels, reloading."""

from __future__ import annotations

import logging
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from ...adapters.reports import LOGGERS
from ...server.management.commands import (
    ApplicationFault,
    CommandError,
    EmptyResult,
    FactsResult,
    Fault,
    ValueResult,
)
from .._text import did_you_mean
from .logs import LEVELS, parse_levels
from .settings import Settings, SettingsError, option_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...server.management.commands import CommandTable, Parameters, Result

__all__ = ["add_service_commands"]

_NO_OPTION: Final = ApplicationFault(404, "No such option")
#: The password of a database's URL.
_PASSWORD: Final = re.compile(r"(://[^/@:]*:)[^/]*@")
_NOT_RELOADED: Final = ApplicationFault(500, "Nothing is reloaded")


def add_service_commands(
    commands: CommandTable, settings: Callable[[], Settings], reload: Callable[[], object]
) -> None:
    """Add the commands of a service to those of its endpoint.

    Args:
        commands: The endpoint's commands.
        settings: Returns the current settings.
        reload: Reads the files again; raises :class:`SettingsError` if one is invalid.
    """

    def get(parameters: Parameters, now: float) -> Result:
        wanted = parameters.text("option")
        values = {
            option_name(item.name): _shown(getattr(settings(), item.name))
            for item in fields(Settings)
        }
        if wanted is None:
            return FactsResult(values)
        name = option_name(wanted.removeprefix("--"))
        if name not in values:
            raise CommandError(_NO_OPTION, f"{name[:80]}{did_you_mean(name, values)}")
        return ValueResult(values[name])

    def reloaded(parameters: Parameters, now: float) -> Result:
        try:
            reload()
        except SettingsError as exc:
            raise CommandError(_NOT_RELOADED, str(exc)) from None
        return EmptyResult()

    commands.add(
        "config.get",
        "Show the options that are in force, or one: [OPTION]",
        get,
        positional=("option",),
    )
    commands.add("reload", "Read the files again, as SIGHUP does", reloaded)
    commands.add(
        "log.level",
        f"Show or set what is logged: [[AREA=]{'|'.join(LEVELS)}]",
        _log_level,
        positional=("level",),
    )


def _shown(value: object) -> str | int | float:
    """Return a setting as it is shown: files of secrets by their names, URLs without passwords."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value or "")
    return _PASSWORD.sub(r"\1***@", text)


def _log_level(parameters: Parameters, now: float) -> Result:
    wanted = parameters.text("level")
    if wanted is not None:
        try:
            levels = parse_levels((wanted,))
        except ValueError as exc:
            raise CommandError(Fault.INVALID_PARAMETERS, str(exc)) from None
        for area, level in levels.items():
            LOGGERS[area].setLevel(level)
    return FactsResult(
        {
            area: logging.getLevelName(logger.getEffectiveLevel()).lower()
            for area, logger in LOGGERS.items()
        }
    )

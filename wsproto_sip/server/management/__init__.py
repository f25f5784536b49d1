"""Management: commands, their wire formats, and the names of Kamailio's module."""

from __future__ import annotations

from .commands import (
    CloseCommand,
    Command,
    CommandError,
    ConnectCommand,
    ConnectionInfo,
    ConnectResult,
    DisableCommand,
    DisplayState,
    DumpCommand,
    DumpFilter,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    FactsResult,
    Fault,
    PingCommand,
    PongCommand,
    Result,
    StatisticsCommand,
    parse_command,
)
from .kamailio import ModParams
from .kamailio_cfg import ModParamError

__all__ = [
    "CloseCommand",
    "Command",
    "CommandError",
    "ConnectCommand",
    "ConnectResult",
    "ConnectionInfo",
    "DisableCommand",
    "DisplayState",
    "DumpCommand",
    "DumpFilter",
    "DumpOrder",
    "DumpResult",
    "EmptyResult",
    "EnableCommand",
    "FactsResult",
    "Fault",
    "ModParamError",
    "ModParams",
    "PingCommand",
    "PongCommand",
    "Result",
    "StatisticsCommand",
    "parse_command",
]

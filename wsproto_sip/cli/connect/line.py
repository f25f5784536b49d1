"""The meaning of a line of input: a message, or a command that starts with a slash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ...errors import WsprotoSipError
from .._text import did_you_mean

__all__ = [
    "COMMANDS",
    "Action",
    "Close",
    "Help",
    "Mistake",
    "SendBinary",
    "SendPing",
    "SendPong",
    "SendText",
    "help_lines",
    "read_line",
]

#: The commands: arguments and description.
COMMANDS: Final = {
    "/ping": ("[TEXT]", "send a Ping, and show how long its answer takes"),
    "/pong": ("[TEXT]", "send an unsolicited Pong"),
    "/text": ("TEXT|@FILE", "send a text message, for example from a file"),
    "/binary": ("HEX|@FILE", "send a binary message"),
    "/close": ("[CODE [REASON]]", "close the connection (default: 1000)"),
    "/help": ("", "list these commands; write // to start a message with /"),
}

#: RFC 6455 §5.5: bytes of a control frame.
_MAX_CONTROL: Final = 125
_CODE: Final = re.compile(r"[0-9]{4}")
#: RFC 6455 §7.4.1: codes that report an end without a close frame, or without a code.
_NEVER_SENT: Final = frozenset({"1005", "1006", "1015"})


class Mistake(WsprotoSipError, ValueError):
    """A command that cannot be executed; the text says why."""


@dataclass(frozen=True, slots=True)
class SendText:
    """Send a text message.

    Args:
        text: The message; ``None`` to read a file.
        path: The file.
    """

    text: str | None
    path: str = ""


@dataclass(frozen=True, slots=True)
class SendBinary:
    """Send a binary message.

    Args:
        data: The message; ``None`` to read a file.
        path: The file.
    """

    data: bytes | None
    path: str = ""


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a Ping.

    Args:
        payload: The payload; ``None`` for random bytes.
    """

    payload: bytes | None


@dataclass(frozen=True, slots=True)
class SendPong:
    """Send a Pong.

    Args:
        payload: The payload.
    """

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection.

    Args:
        code: The status code.
        reason: The reason.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Help:
    """List the commands."""


Action = SendText | SendBinary | SendPing | SendPong | Close | Help


def read_line(line: bytes, *, commands: bool) -> Action:
    """Parse a line of input.

    Args:
        line: The line, without its end.
        commands: Whether a slash starts a command.

    Returns:
        The action: a binary message if the line is not UTF-8, otherwise text or a command.

    Raises:
        Mistake: The command is unknown, or its arguments are invalid.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return SendBinary(line)
    if not commands or not text.startswith("/"):
        return SendText(text)
    if text.startswith("//"):
        return SendText(text[1:])
    name, _, rest = text.partition(" ")
    match name:
        case "/ping":
            return SendPing(_control(name, rest) or None)
        case "/pong":
            return SendPong(_control(name, rest))
        case "/text":
            return SendText(None, rest[1:]) if rest.startswith("@") else SendText(rest)
        case "/binary":
            return SendBinary(None, rest[1:]) if rest.startswith("@") else SendBinary(_hex(rest))
        case "/close":
            return _close(rest)
        case "/help":
            return Help()
    raise Mistake(f"{name[:40]}: no such command{did_you_mean(name, COMMANDS) or '; see /help'}")


def help_lines() -> list[str]:
    """Return the commands as ``/help`` lists them."""
    shown = [(f"{name} {follows}".rstrip(), text) for name, (follows, text) in COMMANDS.items()]
    width = max(len(left) for left, _ in shown) + 2
    return [f"{left:{width}}{text}" for left, text in shown]


def _control(name: str, text: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_CONTROL:
        raise Mistake(f"{name}: {len(data)} bytes are too many, at most {_MAX_CONTROL}")
    return data


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Mistake(f"/binary: {text[:40]!r} is neither hexadecimal nor @FILE") from None


def _close(rest: str) -> Close:
    code, _, reason = rest.strip().partition(" ")
    if not code:
        return Close(1000, "")
    if not _CODE.fullmatch(code):
        raise Mistake(f"/close: {code[:40]!r} is not a code of four digits")
    if code in _NEVER_SENT:
        raise Mistake(f"/close: no close frame carries {code}")
    return Close(int(code), reason)

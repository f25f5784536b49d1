"""``wsproto-sip manual``: the man page, generated from the same parsers as ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from .. import __version__
from ._commands import COMMANDS, help_of, parser_of

__all__ = ["add_arguments", "page"]

_DESCRIPTION: Final = (
    "A WebSocket server with SIP and MSRP, a client, and commands for a running server."
)
_EXIT: Final = (
    ("0", "success"),
    ("1", "the connection or the command failed; for connect see above"),
    ("2", "it could not start: a wrong argument, a port in use, no server"),
    ("130", "interrupted before the connection was closed cleanly"),
)
_SIGNALS: Final = (
    ("SIGTERM", "close all connections, spread over --drain-seconds, and end"),
    ("SIGINT", "the same, within a second; a second one ends at once"),
    ("SIGHUP", "read the files again; nothing changes unless all of them are valid"),
    ("SIGUSR1", "open the log file again"),
    ("SIGUSR2", "with --processes, restart the processes one after the other"),
)


def _text(text: str) -> str:
    """Return text for roff, on one line."""
    words = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    words = "".join(
        character if character.isascii() else f"\\[u{ord(character):04X}]" for character in words
    )
    # A line must not begin like a request.
    return f"\\&{words}" if words.startswith((".", "'")) else words


def _line(text: str) -> str:
    """Return a line for roff that keeps its indentation."""
    words = text.lstrip(" ")
    return "\\ " * (len(text) - len(words)) + _text(words)


def _option(action: argparse.Action) -> Iterator[str]:
    metavar = str(action.metavar or action.dest.upper())
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
    if action.nargs == 0:
        shown = names
    elif not names:
        shown = f"\\fI{_text(metavar)}\\fR"
    elif action.nargs == "?":
        shown = f"{names} [\\fI{_text(metavar)}\\fR]"
    else:
        shown = f"{names} \\fI{_text(metavar)}\\fR"
    yield ".TP"
    yield shown
    yield _text(help_of(action).replace("%(default)s", str(action.default)))


def _command(name: str, text: str) -> Iterator[str]:
    parser = parser_of(name)
    yield f".SS \\fBwsproto\\-sip {_text(name)}\\fR"
    yield _text((parser.description or f"{text}.").strip())
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        if group.title not in ("options", "positional arguments", None):
            yield ".PP"
            yield f"\\fI{_text(str(group.title))}\\fR"
        for action in group._group_actions:
            yield from _option(action)
    if parser.epilog:
        yield from (".PP", ".nf", *map(_line, parser.epilog.splitlines()), ".fi")


def _listed(title: str, items: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for name, text in items:
        yield from (".TP", f"\\fB{_text(name)}\\fR", _text(text))


def page() -> str:
    """Return the man page, in roff."""
    lines = [
        '.\\" made by "wsproto-sip manual"; do not edit',
        f'.TH WSPROTO\\-SIP 1 "" "wsproto\\-sip {_text(__version__)}" "User Commands"',
        ".SH NAME",
        "wsproto\\-sip \\- WebSocket server and client for SIP and MSRP",
        ".SH SYNOPSIS",
    ]
    for name in COMMANDS:
        lines += [f"\\fBwsproto\\-sip {_text(name)}\\fR [\\fIoption\\fR ...]", ".br"]
    lines[-1] = ".SH DESCRIPTION"
    lines += [_text(_DESCRIPTION), ".SH COMMANDS"]
    for name, (_, text) in COMMANDS.items():
        lines += _command(name, text)
    lines += _listed("EXIT STATUS", _EXIT)
    lines += _listed("SIGNALS", _SIGNALS)
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``manual``, which takes no arguments."""
    parser.description = "Print the man page; man -l reads it: wsproto-sip manual | man -l -"
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(page(), end="")
    return 0

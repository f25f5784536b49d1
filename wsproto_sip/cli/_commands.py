"""The commands of the command line, each loaded when it is used, and their parsers.

Theory of operation: a table names the module and the help of each command. The module's
``add_arguments()`` defines its arguments; completion and the man page are made from the same
parsers.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ._text import did_you_mean, escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["COMMANDS", "Parser", "help_of", "options_of", "parser_of", "program_parser"]

#: Module and help of each command, by its name.
COMMANDS: Final = {
    "serve": ("serve.command", "a SIP server for WebSocket clients, an MSRP relay, and an echo"),
    "connect": ("connect.command", "a WebSocket client for terminals and pipes"),
    "ctl": ("ctl", "send a command to a running server"),
    "completion": ("completion", "a script that completes words in bash, zsh or fish"),
    "manual": ("manual", "the man page"),
}


def help_of(action: argparse.Action) -> str:
    """Return the help of an option, which says so if it may be repeated.

    Args:
        action: The option or argument.
    """
    text = str(action.help or "")
    many = isinstance(action, argparse._AppendAction) and "repeated" not in text
    return f"{text}; may be repeated" if many else text


class _Help(argparse.RawDescriptionHelpFormatter):
    """The layout of the help: descriptions are wrapped, lines of an epilog are kept."""

    def add_text(self, text: str | None) -> None:
        """Wrap a text of one line, which the base class would leave as it is."""
        if text is not None and "\n" not in text and text is not argparse.SUPPRESS:
            text = textwrap.fill(text, self._width - self._current_indent)
        super().add_text(text)

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_of(action)


class Parser(argparse.ArgumentParser):
    """A parser that accepts only whole option names, and suggests a similar one.

    An abbreviation that works today could be ambiguous in the next release.

    Args:
        prog: The program, and the command if there is one.
        options: As for the standard library's parser.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        """Report an error, without the whole usage, and exit with 2.

        Args:
            message: What is wrong.
        """
        print(
            f"{self.prog}: {escape(message)}\nTry '{self.prog} --help'.",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse words; unlike the standard library's parser, refuse unknown ones here."""
        found, surplus = super().parse_known_args(args, namespace)
        if surplus:
            option = next((word for word in surplus if word.startswith("--")), surplus[0])
            self.error(self._unknown(option.partition("=")[0]))
        return found, surplus

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word[:80]!r}: too many arguments"
        known = [name for action in options_of(self) for name in action.option_strings]
        return f"{word[:80]}: no such option{did_you_mean(word, known)}"


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser, in the order of its help.

    Args:
        parser: The parser.
    """
    # The standard library has no public name for them.
    yield from parser._actions


def parser_of(command: str) -> Parser:
    """Load a command and return its parser.

    Args:
        command: Its name in :data:`COMMANDS`.
    """
    place, _ = COMMANDS[command]
    parser = Parser(f"wsproto-sip {command}")
    import_module(f"{__package__}.{place}").add_arguments(parser)
    return parser


def program_parser() -> Parser:
    """Return the parser of the program itself, without loading any command."""
    width = max(map(len, COMMANDS)) + 2
    listed = [f"  {name:{width}}{text}" for name, (_, text) in COMMANDS.items()]
    parser = Parser(
        "wsproto-sip",
        usage="wsproto-sip [--version] [--help] COMMAND …",
        description="A WebSocket server with SIP and MSRP, a client, and commands for the server.",
        epilog="\n".join(["commands:", *listed, "", "'COMMAND --help' explains a command."]),
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser

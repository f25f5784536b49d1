"""The command line: ``wsproto-sip serve``, ``wsproto-sip connect`` and ``wsproto-sip ctl``.

Exit codes of all commands: 0 for success, 1 if the connection or the command failed (rejected,
lost, closed with an error), 2 if it could not start (a wrong argument, a port in use, no server),
130 after a second Ctrl-C. ``connect`` distinguishes more.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .. import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; by default those of this process.

    Returns:
        The exit code; see the head of this module.

    Raises:
        SystemExit: A wrong argument (2), or ``--help`` (0).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        # Only costs the import of the package: the parsers are not loaded.
        print(f"wsproto-sip {__version__}")
        return 0
    from ._commands import COMMANDS, parser_of, program_parser  # noqa: PLC0415
    from ._text import did_you_mean  # noqa: PLC0415

    if words and words[0] in COMMANDS:
        arguments = parser_of(words[0]).parse_args(words[1:])
        arguments.words = words[1:]
        return int(arguments.run(arguments))
    parser = program_parser()
    if words and not words[0].startswith("-"):
        wrong = words[0]
        parser.error(f"{wrong[:80]!r}: no such command{did_you_mean(wrong, COMMANDS)}")
    parser.parse_args(words)
    return parser.error("--version takes no arguments")

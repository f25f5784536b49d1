"""The command line: ``wsproto-sip serve``, ``wsproto-sip connect`` and ``wsproto-sip ctl``.

Exit codes of all: 0 when all went well, 1 when the connection or the command did not (rejected,
lost, closed with an error), 2 when there was nothing to begin with (a wrong argument, a port in
use, nobody listening), 130 after a second Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from .. import __version__
from . import connect, ctl, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wsproto-sip",
        description="A WebSocket server and client to try things with, and commands for it.",
    )
    parser.add_argument("--version", action="version", version=f"wsproto-sip {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve.add_command(commands)
    connect.add_command(commands)
    ctl.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments behind the program's name; by default those of this process.

    Returns:
        The exit code; see the head of this module.

    Raises:
        SystemExit: A wrong argument (2), ``--help`` or ``--version`` (0).
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code

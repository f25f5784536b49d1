"""A program at a terminal of its own, as a person has it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

from ..conftest import COMMAND, HANGS, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Makes standard input the terminal that controls the process, for the keys that signal.
_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


#: What a prompt asks the terminal for when it is drawn and reads keys; keys that come while
#: something is printed above it are the terminal's own.
_PASTE = "\x1b[?2004h"
READY = "[ready]"


class Terminal:
    """``wsproto-sip`` at a terminal.

    Args:
        arguments: Its arguments.
        environment: Variables that it gets besides ours.
        stderr: Where its standard error goes; None for the terminal.

    Attributes:
        process: Its process.
        shown: What it has written so far.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        stderr: int | None = None,
    ) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *COMMAND, *arguments],
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave if stderr is None else stderr,
            start_new_session=True,
            env={
                **os.environ,
                "TERM": "xterm",
                # Where the cursor is, this terminal does not tell.
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **(environment or {}),
            },
        )
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        """Read the next output; return False at the end."""
        ready, _, _ = select.select([self._master], [], [], HANGS)
        assert ready, self.shown
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux tells the end of a terminal
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    @property
    def plain(self) -> str:
        """What it has written, without what moves the cursor and changes colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.replace(_PASTE, READY))

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown, after the text of the last wait."""
        while (place := self.plain.find(text, self._seen)) < 0:
            assert self._read(), self.shown
        self._seen = place + len(text)

    def wait_for_prompt(self, text: str) -> None:
        """Wait until a text is shown, and the prompt below it."""
        self.wait_for(text)
        self.wait_for(READY)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def ended(self) -> int:
        """Wait for its end; return its exit code."""
        while self._read():
            pass
        return self.process.wait(HANGS)

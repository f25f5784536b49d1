"""A prompt for messages, with editing, history and completion (``prompt_toolkit``).

Theory of operation: while the prompt is shown, standard output and error are redirected through
``prompt_toolkit``, which writes their lines above it. The output is escaped before that, so that it
passes unchanged, with this program's own colours.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from .line import COMMANDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from prompt_toolkit.completion import CompleteEvent

__all__ = ["Prompt"]


class _Words(Completer):
    """Complete commands, and the names of files after ``@``."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        name, space, rest = text.partition(" ")
        if not space and name.startswith("/"):
            for command in COMMANDS:
                if command.startswith(name):
                    yield Completion(command, start_position=-len(name))
        elif name in ("/text", "/binary") and rest.startswith("@"):
            yield from self._paths.get_completions(Document(rest[1:]), event)


class Prompt:
    """A prompt on the terminal.

    Args:
        history: The file of the history; ``None`` to keep it for this run only.
        interrupt: Called at Ctrl-C, after which no more lines follow.

    Raises:
        OSError: The file cannot be used.
    """

    def __init__(self, history: str | None, interrupt: Callable[[], object]) -> None:
        if history is not None:
            # It may contain secrets, so it is readable by its user only from the start.
            os.close(os.open(history, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        self._interrupt = interrupt
        self._session: PromptSession[str] = PromptSession(
            "> ",
            history=InMemoryHistory() if history is None else FileHistory(history),
            completer=_Words(),
            complete_while_typing=False,
            enable_history_search=True,
            enable_suspend=True,
        )

    @contextmanager
    def screen(self) -> Iterator[None]:
        """Write everything above the prompt."""
        with patch_stdout(raw=True):
            yield

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the entered lines, until Ctrl-D or Ctrl-C."""
        while True:
            try:
                # Ctrl-C is a key here; a signal has its own handler.
                text = await self._session.prompt_async(handle_sigint=False)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._interrupt()
                return
            yield text.encode("utf-8", "surrogateescape")

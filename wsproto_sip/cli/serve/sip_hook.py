"""The function of ``--sip-hook``, which decides about SIP requests."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

from ...auth.outcome import LATER, Later
from .settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...sip.edge.hook import EdgeHook, HookRequest, Verdict

__all__ = ["sip_hook"]


def sip_hook(
    word: str | None,
) -> tuple[EdgeHook | None, Callable[[HookRequest], Awaitable[Verdict]] | None]:
    """Import a hook.

    Args:
        word: ``MODULE:FUNCTION``; modules are looked for in the working directory too.

    Returns:
        The hook of the edge, and the async function that answers it if it answers later.

    Raises:
        SettingsError: There is no such function, or its module cannot be imported.
    """
    if word is None:
        return None, None
    module, _, name = word.partition(":")
    if not module or not name:
        raise SettingsError(f"--sip-hook: {word!r} is not MODULE:FUNCTION")
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as exc:
        raise SettingsError(f"--sip-hook: {word}: {type(exc).__name__}: {exc}") from None
    if not callable(found):
        raise SettingsError(f"--sip-hook: {word} is not a function")
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__):
        return _later, found
    return found, None


def _later(request: HookRequest) -> Later:
    return LATER

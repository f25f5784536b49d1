"""What the operator of ``wsproto-sip serve`` gets besides the log: hooks and metrics."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from ...server.management.prometheus import Family
from .hooks import EventHook
from .settings import SettingsError

if TYPE_CHECKING:
    from ...adapters.asyncio.lag import LoopLag
    from .logs import Log
    from .settings import Settings

__all__ = ["MESSAGE_BOUNDS", "event_hook", "own_families"]

#: The classes that sizes of messages are counted in, in bytes.
MESSAGE_BOUNDS: Final = (64, 256, 1024, 2048, 4096, 16384, 65536, 262144, 1048576)


def event_hook(settings: Settings) -> EventHook | None:
    """Return the hook for events, not yet started, or ``None``.

    Raises:
        SettingsError: An option is invalid.
    """
    function, command = settings.event_hook, settings.event_hook_command
    if function is not None and command is not None:
        raise SettingsError("--event-hook-command: there is an --event-hook")
    if function is not None:
        module, colon, name = function.partition(":")
        parts = [*module.split("."), *name.split(".")]
        if not colon or not all(part.isidentifier() for part in parts):
            raise SettingsError(f"--event-hook: {function!r:.100} is not MODULE:FUNCTION")
        return EventHook(function=function)
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as exc:
            raise SettingsError(f"--event-hook-command: {exc}") from None
        if not words:
            raise SettingsError("--event-hook-command: not a command")
        return EventHook(command=words)
    return None


def own_families(lag: LoopLag, log: Log | None, hook: EventHook | None) -> list[Family]:
    """Return metrics of the server's process.

    Args:
        lag: The lag of its event loop.
        log: Its log.
        hook: Its hook for events.
    """
    found = [
        Family(
            "wsproto_sip_event_loop_lag_seconds",
            "histogram",
            "How late a timer of each second was.",
        ).add_histogram(lag.seconds)
    ]
    if log is not None and log.outlet is not None:
        found += [
            Family(
                "wsproto_sip_log_queue_bytes",
                "gauge",
                "Bytes that wait for the file of the log.",
                log.outlet.waiting,
            ),
            Family(
                "wsproto_sip_log_dropped_lines_total",
                "counter",
                "Lines that were dropped because it could not be written in time.",
                log.outlet.dropped_in_all,
            ),
        ]
    if hook is not None:
        events = Family("wsproto_sip_hook_events_total", "counter", "Events for the hook.")
        events.add(hook.told, outcome="told")
        events.add(hook.failed, outcome="failed")
        events.add(hook.dropped, outcome="dropped")
        waiting = Family("wsproto_sip_hook_queue", "gauge", "Events that wait.", hook.waiting)
        found += [events, waiting]
    return found

"""The targets of the command ``ws.connect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...server.management.commands import CommandError, ConnectCommand, Fault
from ...uri import WebSocketURI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...server.management.commands import Command

__all__ = ["TargetList", "target_check"]


class TargetList:
    """Hosts and ports that may be connected to.

    Clients of a command channel must not reach hosts that only this machine can reach.

    Args:
        entries: Each ``HOST`` for the default port of the scheme, ``HOST:PORT``, or ``any``.

    Raises:
        ValueError: An entry is not a host with or without a port.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        words = list(entries)
        self._any = "any" in words
        self._allowed = {
            (secure, uri.host, uri.port)
            for word in words
            if word != "any"
            for secure in (False, True)
            for uri in [WebSocketURI.parse(f"{'wss' if secure else 'ws'}://{word}")]
        }

    def allows(self, target: str) -> bool:
        """Return whether a URI is one of the targets.

        Args:
            target: The URI; the endpoint refuses one that is not a WebSocket URI.
        """
        if self._any:
            return True
        try:
            uri = WebSocketURI.parse(target)
        except ValueError:
            return True
        return (uri.secure, uri.host, uri.port) in self._allowed


def target_check(targets: Callable[[], TargetList]) -> Callable[[Command], None]:
    """Return a check that refuses ``ws.connect`` to other targets.

    Args:
        targets: Returns the current targets.
    """

    def check(command: Command) -> None:
        if isinstance(command, ConnectCommand) and not targets().allows(command.target):
            raise CommandError(Fault.CONNECTING_FAILED, "the target is not in --connect-allow")

    return check

"""The management command of an MSRP relay, which shows its sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...server.management.commands import Parameters, Result, TreeResult

if TYPE_CHECKING:
    from ...server.management.commands import CommandTable
    from .relay import MsrpRelay
    from .tables import Session

__all__ = ["add_msrp_commands"]


def add_msrp_commands(commands: CommandTable, relay: MsrpRelay) -> None:
    """Add the command of a relay to those of its endpoint.

    Args:
        commands: The endpoint's commands.
        relay: The relay.

    Raises:
        ValueError: It was added before.
    """

    def sessions(parameters: Parameters, now: float) -> Result:
        offset, limit = parameters.page()
        found = relay.sessions_page(offset, limit + 1)
        info: dict[str, object] = {
            "count": relay.sessions,
            "truncated": "yes" if len(found) > limit else "no",
        }
        if len(found) > limit:
            info["next"] = offset + limit
        shown = [_session(session, now) for session in found[:limit]]
        return TreeResult({"sessions": shown, "info": info})

    commands.add(
        "msrp.sessions",
        "Show the sessions of the MSRP relay, 50 by default: [NAME=VALUE ...]",
        sessions,
        options=("offset", "limit"),
    )


def _session(session: Session, now: float) -> dict[str, object]:
    """Describe a session.

    Its URI is a secret, since chunks to it are delivered; its last characters identify the session.
    """
    connection = session.connection
    return {
        "session": f"…{(session.uri.session_id or '')[-6:]}",
        "user": session.key[1],
        "path": " ".join(map(str, session.path))[:256],
        "connection": connection.id,
        "address": connection.address,
        "expires": max(int(session.expires - now), 0),
        "pending": len(connection.pending),
    }

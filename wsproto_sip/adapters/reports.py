"""Events of a server as records of ``logging`` and as calls of a hook.

Theory of operation: the layers without I/O report events, which are data. :class:`Reports` turns
each event that has a listener into one record: of a logger named after the area
(:data:`LOGGERS`), with the event's level. The message of a record is a :class:`Line`: its text is
one line that is safe to print, and formatters for programs use its fields. The same facts go to a
hook, if one is set for that kind of event.

A field has the same name wherever it occurs, and none contains a secret: the query of a target is
omitted, a SIP address is reduced to user and host, and credentials to the user's name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..msrp.relay import journal
from ..policy.authentication import claimed_user
from ..server.events import Closed, Opened
from ..session.lifecycle import Cause
from ..sip.edge.journal import (
    CallAnswered,
    CallEnded,
    CallFailed,
    CallStarted,
    EdgeEvent,
    Refused,
    Registered,
    Relayed,
    Unregistered,
    party_of,
)
from ._lines import LOGGERS as _LOGGERS, Line, address_text, known, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..auth.throttle import Failure
    from ..events import Event, Request
    from ..server.events import Answer
    from ..server.registry import Entry
    from ..sip.edge.actions import UpstreamChanged
    from ..typing import Address

__all__ = ["HOOKED", "LOGGERS", "Line", "Reports", "report"]

#: The logger of each area.
LOGGERS: Final[Mapping[str, logging.Logger]] = _LOGGERS

#: The events that a hook is called with, by area.
HOOKED: Final = frozenset(
    [
        ("ws", "opened"),
        ("ws", "closed"),
        ("ws", "refused"),
        ("sip", "registered"),
        ("sip", "unregistered"),
        ("sip", "refused"),
        ("sip", "upstream-up"),
        ("sip", "upstream-down"),
        ("msrp", "authorized"),
        ("msrp", "refused"),
    ]
)

#: Names and levels of the events of a SIP edge.
_SIP: Final[Mapping[type[EdgeEvent], tuple[str, int]]] = {
    Registered: ("registered", logging.INFO),
    Unregistered: ("unregistered", logging.INFO),
    Refused: ("refused", logging.INFO),
    CallStarted: ("call-started", logging.INFO),
    CallAnswered: ("call-answered", logging.INFO),
    CallFailed: ("call-failed", logging.INFO),
    CallEnded: ("call-ended", logging.INFO),
    Relayed: ("relayed", logging.DEBUG),
}

#: Names and levels of the events of an MSRP relay.
_MSRP: Final[Mapping[type[journal.RelayEvent], tuple[str, int]]] = {
    journal.Authorized: ("authorized", logging.INFO),
    journal.Refused: ("refused", logging.INFO),
    journal.Relayed: ("relayed", logging.DEBUG),
    journal.Failed: ("failed", logging.INFO),
    journal.Dropped: ("dropped", logging.INFO),
}

_BY_PEER: Final = frozenset([Cause.REMOTE])
_BY_NETWORK: Final = frozenset([Cause.END_OF_INPUT])


class Reports:
    """Write a server's events to the log, and call a hook.

    Args:
        hook: Called with area, event and fields of the events in :data:`HOOKED`. It must return at
            once.
    """

    def __init__(
        self, hook: Callable[[str, str, Mapping[str, object]], object] | None = None
    ) -> None:
        self._hook = hook

    def wants(self, area: str, level: int, event: str) -> bool:
        """Return whether a logger or the hook listens to an event.

        Args:
            area: Its area.
            level: Its level.
            event: Its name.
        """
        if self._hook is not None and (area, event) in HOOKED:
            return True
        return LOGGERS[area].isEnabledFor(level)

    def tell(
        self,
        area: str,
        level: int,
        event: str,
        fields: Mapping[str, object],
        *,
        about: str | None = None,
    ) -> None:
        """Report an event to the logger and the hook.

        Args:
            area: The area.
            level: A level of ``logging``.
            event: The name of the event.
            fields: The facts about it, by name; ``None`` is omitted.
            about: The client it is about, for rate limits of the log; see :class:`Line`.
        """
        facts = known(fields)
        logger = LOGGERS[area]
        if logger.isEnabledFor(level):
            logger.log(level, Line(event, facts, about))
        if self._hook is not None and (area, event) in HOOKED:
            self._hook(area, event, facts)

    # -- connections -------------------------------------------------------------------------------

    def connection(self, event: Event, entry: Entry | None, tls: str | None) -> None:
        """Report an :class:`~wsproto_sip.server.events.Opened` or ``Closed``; ignore other events.

        Args:
            event: An event of an endpoint.
            entry: The connection, while it is in the table.
            tls: The version of TLS, or ``None``.
        """
        if isinstance(event, Opened):
            if self.wants("ws", logging.INFO, "opened"):
                self._opened(event, entry, tls)
        elif isinstance(event, Closed):
            if event.opened:
                if self.wants("ws", logging.INFO, "closed"):
                    self._closed(event)
            elif event.answer is not None:
                self._answered(event, event.answer)
            elif self.wants("ws", logging.INFO, "failed"):
                self._failed(event)

    def _opened(self, event: Opened, entry: Entry | None, tls: str | None) -> None:
        peer = ("", None) if entry is None else entry.peer
        transport = peer if entry is None else entry.transport
        self.tell(
            "ws",
            logging.INFO,
            "opened",
            {
                "connection": event.cid,
                "peer": address_text(peer),
                "proxy": address_text(transport) if transport != peer else None,
                "outgoing": True if event.request is None else None,
                "secure": entry is not None and entry.secure,
                "tls": tls,
                **_request(event.request),
                "subprotocol": event.subprotocol,
                "identity": None if event.identity is None else event.identity.name,
            },
        )

    def _closed(self, event: Closed) -> None:
        closed, traffic = event.closed, event.traffic
        by = "peer" if closed.cause in _BY_PEER else "server"
        self.tell(
            "ws",
            logging.INFO,
            "closed",
            {
                "connection": event.cid,
                "peer": address_text((event.address, event.port)),
                "subprotocol": event.subprotocol,
                "identity": None if event.identity is None else event.identity.name,
                "code": closed.code,
                "cause": closed.cause.value,
                "by": "network" if closed.cause in _BY_NETWORK else by,
                "received_messages": traffic.received_messages,
                "sent_messages": traffic.sent_messages,
                "received_bytes": traffic.received_bytes,
                "sent_bytes": traffic.sent_bytes,
                "seconds": round(traffic.age, 3),
                "reason": closed.reason or None,
            },
        )

    def _answered(self, event: Closed, answer: Answer) -> None:
        name = "served" if answer.served else "refused"
        level = logging.DEBUG if answer.routine else logging.INFO
        if not self.wants("ws", level, name):
            return
        request, transport = answer.request, event.transport
        self.tell(
            "ws",
            level,
            name,
            {
                "connection": event.cid,
                "peer": address_text(answer.peer),
                "proxy": address_text(transport) if transport != answer.peer else None,
                "status": answer.status,
                "reason": answer.reason or None,
                **_request(request),
                "user": None if request is None else claimed_user(request),
            },
            about=answer.peer[0],
        )

    def _failed(self, event: Closed) -> None:
        peer, closed = (event.address, event.port), event.closed
        self.tell(
            "ws",
            logging.INFO,
            "failed",
            {
                "connection": event.cid,
                "peer": address_text(peer),
                "proxy": address_text(event.transport) if event.transport != peer else None,
                "cause": closed.cause.value,
                "seconds": round(event.traffic.age, 3),
                "reason": closed.reason or None,
            },
            about=event.address,
        )

    # -- SIP ---------------------------------------------------------------------------------------

    def sip(self, event: EdgeEvent, peer: Address | None) -> None:
        """Report an event of a SIP edge.

        Args:
            event: The event.
            peer: The address and port of the client; ``None`` for the upstream.
        """
        name, level = _SIP[type(event)]
        about = None
        if isinstance(event, Registered):
            if event.refreshed:
                name, level = "refreshed", logging.DEBUG
        elif isinstance(event, Refused):
            if event.status in (401, 407):
                # Every login begins with a challenge.
                name, level = "challenged", logging.DEBUG
            about = "upstream" if peer is None else peer[0]
        if self.wants("sip", level, name):
            shown = {"connection": event.cid, "peer": None if peer is None else address_text(peer)}
            self.tell("sip", level, name, shown | _sip_fields(event), about=about)

    def upstream(self, change: UpstreamChanged) -> None:
        """Tell that a SIP upstream has come into service, or gone out of it.

        Args:
            change: The change.
        """
        self.tell(
            "sip",
            # One that has come back is told wherever it was told that it is gone.
            logging.WARNING,
            "upstream-up" if change.in_service else "upstream-down",
            {"upstream": change.upstream, "reason": change.reason},
        )

    # -- MSRP --------------------------------------------------------------------------------------

    def msrp(self, event: journal.RelayEvent, peer: Address | None) -> None:
        """Report an event of an MSRP relay.

        Args:
            event: The event.
            peer: The address and port of the client; ``None`` for a peer of the relay.
        """
        name, level = _MSRP[type(event)]
        fields: dict[str, object]
        match event:
            case journal.Authorized():
                if event.refreshed:
                    name, level = "refreshed", logging.DEBUG
                fields = {"user": event.user, "expires": event.expires}
            case journal.Refused():
                if event.status == 401:
                    name, level = "challenged", logging.DEBUG
                fields = {"status": event.status, "method": event.method or None}
                fields["reason"] = event.detail or None
            case journal.Relayed():
                fields = {"method": event.method, "bytes": event.size}
            case journal.Failed():
                fields = {"status": event.status}
            case _:
                fields = {"reason": event.reason}
        if self.wants("msrp", level, name):
            shown = {"connection": event.cid, "peer": None if peer is None else address_text(peer)}
            about = None if peer is None else peer[0]
            self.tell("msrp", level, name, shown | fields, about=about)

    # -- passwords ---------------------------------------------------------------------------------

    def authentication_failed(self, failure: Failure) -> None:
        """Report a failed password attempt; ``deploy/fail2ban`` reads these lines.

        The field that the client chooses comes last.

        Args:
            failure: The attempt, and why it failed.
        """
        attempt = failure.attempt
        self.tell(
            "auth",
            logging.WARNING,
            "authentication-failed",
            {
                "address": attempt.address.strip("[]"),
                "service": attempt.service,
                "cause": failure.cause.value,
                "wait": round(failure.wait, 1) or None,
                "user": attempt.username,
            },
        )


def _sip_fields(event: EdgeEvent) -> dict[str, object]:
    """Return the fields of an event of an edge, except the connection."""
    if isinstance(event, Registered):
        expires = None if event.expires is None else round(event.expires)
        return {"aor": event.aor, "expires": expires, "contact": event.contact}
    if isinstance(event, Unregistered):
        return {"aor": event.aor, "cause": event.cause, "contact": event.contact}
    request = event.request
    message: dict[str, object] = {}
    if request is not None:
        message = {
            "method": request.method,
            "from": party_of(request, "from"),
            "to": party_of(request, "to"),
            "call_id": request.get("call-id"),
        }
    if isinstance(event, Refused):
        return {"status": event.status, "reason": event.detail} | message
    return {
        "status": event.status,
        "seconds": None if event.seconds is None else round(event.seconds, 3),
        "targets": event.targets if event.targets > 1 else None,
    } | message


def _request(request: Request | None) -> dict[str, object]:
    """Return the fields of a request."""
    if request is None:
        return {}
    path, query, _ = request.target.partition("?")
    fields = dict(request.extra_headers)
    return {
        # The query may contain a token.
        "target": f"{path}?…" if query else path,
        "host": request.host or None,
        "origin": _text(fields.get(b"origin")),
        "agent": _text(fields.get(b"user-agent")),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")

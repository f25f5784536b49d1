"""Many connections: one table, one way in, and one way out.

Theory of operation. An :class:`Endpoint` owns sessions and gives each an id. Whoever has the
sockets reports what happens to them (``accept``, ``receive``, ``connected``) and takes from
``take_output()`` what to write to which, and from ``take_connects()`` where to connect to. A
handshake is put before the policies; what they decide is sent, and an accepted connection is
announced with :class:`Opened`. Whatever way a connection ends, :class:`Closed` is given once.

A message costs its session, noting the use, and counting. Everything else (deadlines, output, the
table) is looked at only when a session says that it was touched. Deadlines live in shards, each a
heap, in which a connection stands with the next one it knows of: what it receives makes that
later, which is found out when it comes up, once an interval, so a pass costs what is due.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from ..events import Event, Ping, Pong
from ..frame_protocol import CloseReason
from ..lifecycle import Cause
from ..states import ConnectionState
from ..utilities import LocalProtocolError
from ._endpoint_core import EndpointCore
from .commands import (
    CloseCommand,
    Command,
    CommandError,
    ConnectCommand,
    ConnectResult,
    DisableCommand,
    DumpCommand,
    DumpResult,
    EmptyResult,
    EnableCommand,
    Fault,
    PingCommand,
    PongCommand,
    Result,
)
from .endpoint_events import CapacityError
from .registry import Entry

if TYPE_CHECKING:
    from ..config import SessionConfig
    from ..keepalive import KeepaliveConfig

__all__ = ["Endpoint"]

_STAYING: Final = frozenset([ConnectionState.CONNECTING, ConnectionState.OPEN])


class Endpoint(EndpointCore):
    """The connections of one server, which may also connect to others.

    Args:
        config: How it behaves.
        now: The time, in seconds of any monotonic clock.

    Attributes:
        config: How it behaves; may be exchanged, for connections to come.
        enabled: Whether new handshakes are let in (``ws.enable``, ``ws.disable``).
        registry: The connection table.
        statistics: What was counted.
    """

    # -- time, and all of them ---------------------------------------------------------------------

    def drain(self, now: float, deadline: float) -> None:
        """Lets no one in any more, and sends those who are here away (1001), spread over time.

        Args:
            now: The time.
            deadline: When all are gone; the last fifth of the time is for closing handshakes. At
                once where it is past.

        Raises:
            ValueError: There is no end to the deadline.
        """
        if not deadline < inf:
            raise ValueError(f"not a deadline: {deadline!r}")
        self._drained_by = max(now, deadline)
        entries = list(self.registry)
        step = 0.8 * (self._drained_by - now) / max(1, len(entries))
        for number, entry in enumerate(entries):
            self._leaving.set(entry.cid, now + number * step)

    def next_deadline(self, shard: int | None = None) -> float | None:
        """When :meth:`handle_timeout` has to be called at the latest.

        Args:
            shard: Of one shard; None for all, and for what is no shard's.

        Returns:
            The time; one that is past where work is left over; None where nothing is waited for.
        """
        self._settle()
        if self._busy or self._unread:
            return -inf
        shards = range(len(self._timers)) if shard is None else (shard,)
        due: list[float] = []
        for index in shards:
            when = self._timers[index].next()
            if when is not None:
                due.append(max(when, self._passes[index] + self.config.timer_interval))
        if shard is None or shard == 0:
            if self._drained_by is not None and len(self.registry):
                due.append(self._drained_by)
            leaving = self._leaving.next()
            if leaving is not None:
                due.append(leaving)
        return min(due, default=None)

    def handle_timeout(self, now: float, shard: int | None = None) -> list[tuple[int, Event]]:
        """Does what is due.

        Args:
            now: The time; early and repeated calls do nothing.
            shard: Of one shard; None for all.

        Returns:
            What happened, each with the connection it happened on.
        """
        self._settle()
        happened: list[tuple[int, Event]] = []
        busy, self._busy = self._busy, {}
        cids = list(busy)
        for index in range(len(self._timers)) if shard is None else (shard,):
            if now >= self._passes[index] + self.config.timer_interval:
                due = self._timers[index].pop_due(now, self.config.max_due)
                if due and len(due) != self.config.max_due:
                    # Else this pass goes on with the next call.
                    self._passes[index] = now
                cids += due
        for cid in cids:
            entry = self.registry.get(cid)
            if entry is not None:
                events = self._handle(entry, entry.session.handle_timeout(now), now)
                if events:
                    happened += [(cid, event) for event in events]
        if self._drained_by is not None and shard in (None, 0):
            self._drain(now, self._drained_by)
        unread, self._unread = self._unread, []
        return unread + happened

    def _drain(self, now: float, deadline: float) -> None:
        for cid in self._leaving.pop_due(now):
            entry = self.registry.get(cid)
            if entry is not None and entry.session.state in _STAYING:
                # The others are on their way out already.
                self._close(entry, CloseReason.GOING_AWAY, "shutting down", now, Cause.SHUTDOWN)
        if now >= deadline:
            for entry in self.registry:
                self._end(entry, now, Cause.SHUTDOWN)

    def _settle(self) -> None:
        """Looks at the deadlines of those whose output was not taken yet."""
        for entry in self._touched.values():
            self._schedule(entry)

    def set_keepalive(self, keepalive: KeepaliveConfig, now: float) -> None:
        """Changes the keep-alive of all connections, and of those to come, profiles or not.

        Those that are due by it are kept alive spread over the new interval.

        Args:
            keepalive: How from now on.
            now: The time.
        """
        session = _kept_alive(self.config.session, keepalive)
        client = self.config.client_session
        if client is not None:
            client = _kept_alive(client, keepalive)
        self.config = replace(self.config, session=session, client_session=client)
        for entry in self.registry:
            entry.session.set_keepalive(keepalive, now)
            if entry.session.keepalive.next_deadline() <= now:
                self._spread(entry, now)
            self._note(entry)

    # -- holding back ------------------------------------------------------------------------------

    def pause(self, cid: int, now: float) -> None:
        """Holds back what a connection receives; its transport should not be read meanwhile.

        Args:
            cid: The connection; an unknown one is passed over.
            now: The time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            entry.session.pause(now)
            self._note(entry)

    def resume(self, cid: int, now: float) -> None:
        """Goes on after :meth:`pause`: what was held back comes with ``handle_timeout``, at once.

        Args:
            cid: The connection; an unknown one is passed over.
            now: The time.
        """
        entry = self.registry.get(cid)
        if entry is not None:
            events = self._handle(entry, entry.session.resume(now), now)
            self._unread += [(cid, event) for event in events]
            # Even with nothing held back: whoever reads the transport has to hear of it.
            self._busy[cid] = None

    # -- management --------------------------------------------------------------------------------

    def execute(self, command: Command, now: float) -> Result:
        """Executes a management command.

        Args:
            command: What :func:`~wsproto_sip.server.commands.parse_command` made.
            now: The time.

        Returns:
            Its result.

        Raises:
            CommandError: It cannot be executed; with the module's code and text.
        """
        match command:
            case DumpCommand():
                shown, more = self.registry.page(
                    command.order, command.offset, command.limit, command.filter, now
                )
                following = command.offset + len(shown) if more else None
                return DumpResult(tuple(shown), following)
            case CloseCommand():
                entry = self._commanded(command.id)
                try:
                    self._close(entry, command.code, command.reason, now, Cause.ADMINISTRATOR)
                except LocalProtocolError as exc:
                    raise CommandError(Fault.CLOSING_FAILED, str(exc)) from exc
            case PingCommand() | PongCommand():
                entry = self._commanded(command.id)
                payload = entry.session.keepalive.config.application_data or b""
                frame = Ping(payload) if isinstance(command, PingCommand) else Pong(payload)
                try:
                    self.send(command.id, frame, now)
                except LocalProtocolError as exc:
                    raise CommandError(Fault.SENDING_FAILED, str(exc)) from exc
            case DisableCommand() | EnableCommand():
                self.enabled = isinstance(command, EnableCommand)
            case ConnectCommand():
                try:
                    cid = self.connect(command.target, now, subprotocol=command.sub_protocol)
                except (ValueError, CapacityError) as exc:
                    raise CommandError(Fault.CONNECTING_FAILED, str(exc)) from exc
                return ConnectResult(cid)
            case _:
                return self.statistics.result(command.names)
        return EmptyResult()

    def _commanded(self, cid: int) -> Entry:
        entry = self.registry.get(cid)
        if entry is None:
            raise CommandError(Fault.UNKNOWN_CONNECTION)
        return entry


def _kept_alive(config: SessionConfig, keepalive: KeepaliveConfig) -> SessionConfig:
    """A configuration with another keep-alive, its profiles too."""
    profiles = {
        name: replace(profile, keepalive=keepalive) for name, profile in config.profiles.items()
    }
    return replace(config, keepalive=keepalive, profiles=profiles)

"""Partly received messages: their memory, and their deadlines.

Theory of operation: a session that delivers whole messages keeps the received part of one. Its
limits bound that for one connection. This module claims it from the shares of all connections, so
that one address with many connections cannot fill the memory. A message that grows too slowly ends
its connection, since otherwise the peer could keep it for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..timers import TimerQueue
from .shares import Bound, Claim, Party, Shares

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .registry import Entry
    from .shares import ShareConfig

__all__ = ["MIN_RATE", "UnfinishedMessages"]

#: Bytes that give a message one more second beyond its timeout.
MIN_RATE: Final = 1024


class _Held:
    """The claim and the deadline of one connection."""

    __slots__ = ("begun", "claim", "party", "size")

    def __init__(self, party: Party, begun: float, claim: Claim) -> None:
        self.party = party
        self.begun = begun
        self.claim = claim
        self.size = 0


class UnfinishedMessages:
    """The unfinished messages of an endpoint.

    Args:
        config: How many bytes they may have in total.
        timeout: Seconds that a message may take, plus one for each KiB; ``None`` for ever.
    """

    __slots__ = ("_held", "_shares", "_timeout", "_timers")

    def __init__(self, config: ShareConfig, timeout: float | None) -> None:
        self._shares = Shares(config)
        self._timeout = timeout
        self._held: dict[int, _Held] = {}
        self._timers: TimerQueue[int] = TimerQueue()

    @property
    def size(self) -> int:
        """The size of all of them in bytes."""
        return self._shares.held

    @property
    def refused(self) -> Mapping[tuple[str, Bound], int]:
        """How many messages were refused, by ``unfinished_bytes`` and limit."""
        return {("unfinished_bytes", bound): n for bound, n in self._shares.refused.items()}

    def note(self, entry: Entry, now: float) -> str | None:
        """Update the claim of a connection after it has received input.

        Args:
            entry: The connection.
            now: The time.

        Returns:
            The reason why the connection has to end; ``None`` if it may continue.
        """
        size, joined = entry.session.unfinished, entry.session.joined
        held = self._held.get(entry.cid)
        if held is not None and (joined != entry.joined or not size):
            self.forget(entry.cid)
            held = None
        entry.joined, entry.holds = joined, size > 0
        if not size:
            return None
        if held is None:
            party = _party(entry)
            held = self._held[entry.cid] = _Held(party, now, Claim(self._shares, party, 0))
        held.claim.release()
        claim = self._shares.claim(held.party, size)
        if isinstance(claim, Bound):
            self.forget(entry.cid)
            entry.holds = False
            return f"too many bytes in unfinished messages (limit: {claim.value})"
        held.claim, held.size = claim, size
        self._arm(entry.cid, held, held.begun)
        return None

    def _arm(self, cid: int, held: _Held, begun: float) -> None:
        if self._timeout is not None:
            self._timers.set(cid, begun + self._timeout + held.size / MIN_RATE)

    def put_off(self, cid: int, now: float) -> None:
        """Restart a message's time, since it was not read in the meantime."""
        held = self._held.get(cid)
        if held is not None:
            held.begun = now
            self._arm(cid, held, now)

    def forget(self, cid: int) -> None:
        """Forget a connection's claim, because its message or the connection has ended."""
        held = self._held.pop(cid, None)
        if held is not None:
            self._timers.set(cid, None)
            held.claim.release()

    def next_deadline(self) -> float | None:
        """Return when :meth:`take_due` returns something; ``None`` for never."""
        return self._timers.next()

    def take_due(self, now: float) -> list[int]:
        """Return the connections whose message has taken too long, each once."""
        return self._timers.pop_due(now)


def _party(entry: Entry) -> Party:
    identity = entry.identity
    if identity is None:
        return Party.stranger(entry.peer[0], entry.cid)
    return Party.user(identity.name, entry.cid)

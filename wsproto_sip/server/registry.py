"""The connection table: every connection once, and how to find it.

Theory of operation: the table owns the ids, counts up, and never gives one twice. A connection is
found by id, by its peer's address and port, by identity and by sub-protocol. The order of use is
kept in a ring that runs through the connections themselves, so that noting a use is a few
assignments and neither end of it is ever searched for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from ..lifecycle import TransportAction
from ..states import ConnectionState
from .commands import ConnectionInfo, DisplayState, DumpFilter, DumpOrder

if TYPE_CHECKING:
    from ..policy.decision import Identity, Pending
    from ..session import Session
    from ..typing import Address

__all__ = ["Entry", "Others", "Registry"]

_DISPLAY = {
    ConnectionState.CONNECTING: DisplayState.CONNECTING,
    ConnectionState.REJECTING: DisplayState.CLOSING,
    ConnectionState.OPEN: DisplayState.OPEN,
    ConnectionState.LOCAL_CLOSING: DisplayState.CLOSING,
    ConnectionState.REMOTE_CLOSING: DisplayState.CLOSING,
    ConnectionState.CLOSED: DisplayState.CLOSED,
}


class Entry:
    """One connection in the table.

    Args:
        cid: Its id.
        session: Its session.
        peer: The other end's address and port.
        local: Ours.
        secure: Whether it is wss.
        now: The time.

    Attributes:
        cid: As above.
        session: As above.
        peer: As above; a trusted proxy's word may correct it.
        local: As above.
        secure: As above.
        used: When an octet was last received or sent.
        identity: Whom it was opened for.
        pending: The admission that waits for an answer.
        user_data: Whatever the owner wants to find here.
        action: What the owner was last told to do with the transport.
        handshaking: Whether it is before the end of its handshake.
        refused: Whether its handshake was counted as failed.
        round_trip: The last round-trip time that was counted.
    """

    __slots__ = (
        "action",
        "cid",
        "handshaking",
        "identity",
        "local",
        "newer",
        "older",
        "peer",
        "pending",
        "refused",
        "round_trip",
        "secure",
        "session",
        "used",
        "user_data",
    )

    older: Entry
    newer: Entry

    def __init__(
        self,
        cid: int,
        session: Session | None,
        peer: Address,
        local: Address | None,
        secure: bool,
        now: float,
    ) -> None:
        self.cid = cid
        if session is not None:
            self.session: Session = session
        self.peer = peer
        self.local = local
        self.secure = secure
        self.used = now
        self.identity: Identity | None = None
        self.pending: Pending | None = None
        self.user_data: object = None
        self.action = TransportAction.NONE
        self.handshaking = True
        self.refused = False
        self.round_trip: float | None = None

    def info(self, now: float) -> ConnectionInfo:
        """What a dump shows.

        Args:
            now: The time.
        """
        session = self.session
        local = self.local or ("", None)
        return ConnectionInfo(
            id=self.cid,
            peer_address=self.peer[0],
            peer_port=self.peer[1],
            local_address=local[0],
            local_port=local[1],
            secure=self.secure,
            state=_DISPLAY[session.state],
            awaiting_pong=session.keepalive.awaiting,
            idle=now - self.used,
            sub_protocol=session.subprotocol,
            identity=self.identity.name if self.identity is not None else None,
        )

    def matches(self, wanted: DumpFilter) -> bool:
        """Whether a dump is to show it.

        Args:
            wanted: What is to be shown.
        """
        identity = self.identity.name if self.identity is not None else None
        return (
            (wanted.after is None or self.cid > wanted.after)
            and wanted.address in (None, self.peer[0])
            and wanted.identity in (None, identity)
            and wanted.sub_protocol in (None, self.session.subprotocol)
            and wanted.state in (None, _DISPLAY[self.session.state])
        )


class Others(Mapping[str, int]):
    """How many connections each address has besides one of them, at the moment.

    Args:
        counts: How many each has.
        address: That one's.
    """

    def __init__(self, counts: Mapping[str, int], address: str) -> None:
        self._counts = counts
        self._address = address

    def __getitem__(self, address: str) -> int:
        return self._counts[address] - (address == self._address)

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


class Registry:
    """The connections of one endpoint."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._last = 0
        self._by_peer: dict[Address, int] = {}
        # Older connections of the same address and port: what a proxy tells may leave out the port.
        self._older_of_peer: dict[Address, dict[int, None]] = {}
        self._by_address: Counter[str] = Counter()
        self._handshaking_by_address: Counter[str] = Counter()
        self._by_identity: dict[str, set[int]] = {}
        self._by_subprotocol: dict[str, set[int]] = {}
        #: How many are before the end of their handshake.
        self.handshaking = 0
        # The ring of use: behind it the longest idle, before it the last used.
        ring = Entry(0, None, ("", None), None, False, 0.0)
        ring.older = ring.newer = ring
        self._ring = ring

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._entries)

    def __contains__(self, cid: object) -> bool:
        """Whether there is a connection of that id."""
        return cid in self._entries

    def __iter__(self) -> Iterator[Entry]:
        """The connections in the order of their ids, as they are now."""
        return iter(list(self._entries.values()))

    def add(
        self, session: Session, peer: Address, local: Address | None, secure: bool, now: float
    ) -> Entry:
        """Takes in a connection that begins its handshake.

        Args:
            session: Its session.
            peer: The other end's address and port.
            local: Ours.
            secure: Whether it is wss.
            now: The time.

        Returns:
            Its entry, with an id that no other ever had.
        """
        self._last += 1
        entry = Entry(self._last, session, peer, local, secure, now)
        self._entries[entry.cid] = entry
        self._by_address[peer[0]] += 1
        self._handshaking_by_address[peer[0]] += 1
        self._note_peer(entry)
        self.handshaking += 1
        self._link(entry)
        return entry

    def _link(self, entry: Entry) -> None:
        ring = self._ring
        entry.older = ring.older
        entry.newer = ring
        ring.older.newer = entry
        ring.older = entry

    def touch(self, entry: Entry, now: float) -> None:
        """Notes that a connection was used.

        Args:
            entry: Which one.
            now: The time.
        """
        entry.used = now
        ring = self._ring
        if ring.older is not entry:
            older, newer = entry.older, entry.newer
            older.newer = newer
            newer.older = older
            entry.older = older = ring.older
            entry.newer = ring
            older.newer = ring.older = entry

    def opened(self, entry: Entry) -> None:
        """Notes that a connection's handshake succeeded.

        Args:
            entry: Which one; its identity and its session's sub-protocol are settled.
        """
        self._end_handshake(entry)
        if entry.identity is not None:
            self._by_identity.setdefault(entry.identity.name, set()).add(entry.cid)
        if entry.session.subprotocol is not None:
            self._by_subprotocol.setdefault(entry.session.subprotocol, set()).add(entry.cid)

    def _end_handshake(self, entry: Entry) -> None:
        if entry.handshaking:
            entry.handshaking = False
            self.handshaking -= 1
            _less(self._handshaking_by_address, entry.peer[0])

    def move(self, entry: Entry, peer: Address) -> None:
        """Notes the address that a trusted proxy gives for a connection.

        Args:
            entry: Which one.
            peer: Where it really comes from.
        """
        self._forget_peer(entry)
        if entry.handshaking:
            _less(self._handshaking_by_address, entry.peer[0])
            self._handshaking_by_address[peer[0]] += 1
        entry.peer = peer
        self._by_address[peer[0]] += 1
        self._note_peer(entry)

    def _note_peer(self, entry: Entry) -> None:
        peer = entry.peer
        older = self._by_peer.get(peer)
        if older is not None:
            self._older_of_peer.setdefault(peer, {})[older] = None
        self._by_peer[peer] = entry.cid

    def _forget_peer(self, entry: Entry) -> None:
        peer, cid = entry.peer, entry.cid
        _less(self._by_address, peer[0])
        older = self._older_of_peer.get(peer)
        if older is None:
            del self._by_peer[peer]
            return
        if self._by_peer[peer] == cid:
            self._by_peer[peer], _ = older.popitem()
        else:
            del older[cid]
        if not older:
            del self._older_of_peer[peer]

    def remove(self, entry: Entry) -> None:
        """Takes a connection out.

        Args:
            entry: Which one.
        """
        del self._entries[entry.cid]
        self._end_handshake(entry)
        self._forget_peer(entry)
        if entry.identity is not None:
            _discard(self._by_identity, entry.identity.name, entry.cid)
        if entry.session.subprotocol is not None:
            _discard(self._by_subprotocol, entry.session.subprotocol, entry.cid)
        entry.older.newer = entry.newer
        entry.newer.older = entry.older

    def get(self, cid: int) -> Entry | None:
        """The connection of an id, or None."""
        return self._entries.get(cid)

    def by_peer(self, address: str, port: int | None) -> Entry | None:
        """The connection whose other end has an address and port, or None.

        Args:
            address: The address as text.
            port: The port; None where a proxy did not tell it.

        Returns:
            The latest of several.
        """
        cid = self._by_peer.get((address, port))
        return None if cid is None else self._entries[cid]

    def by_identity(self, name: str) -> list[Entry]:
        """The open connections of an identity, in the order of their ids."""
        return [self._entries[cid] for cid in sorted(self._by_identity.get(name, ()))]

    def by_subprotocol(self, token: str) -> list[Entry]:
        """The open connections that speak a sub-protocol, in the order of their ids."""
        return [self._entries[cid] for cid in sorted(self._by_subprotocol.get(token, ()))]

    def count_of(self, address: str) -> int:
        """How many connections come from an address."""
        return self._by_address[address]

    def handshaking_of(self, address: str) -> int:
        """How many of them are before the end of their handshake."""
        return self._handshaking_by_address[address]

    @property
    def addresses(self) -> Counter[str]:
        """How many connections each address has; not to be changed."""
        return self._by_address

    def page(
        self, order: DumpOrder, offset: int, limit: int, wanted: DumpFilter, now: float
    ) -> tuple[list[ConnectionInfo], bool]:
        """A part of the table.

        Only as much of it is looked at as is passed over and shown; nothing is sorted.

        Args:
            order: In which order.
            offset: How many to pass over.
            limit: How many to show.
            wanted: Which ones.
            now: The time.

        Returns:
            They, and whether there are more behind them.
        """
        entries = self._candidates(order, wanted)
        if wanted != DumpFilter():
            entries = (entry for entry in entries if entry.matches(wanted))
        # Passing over must not cost a description each.
        found = list(islice(entries, offset, offset + limit + 1))
        return [entry.info(now) for entry in found[:limit]], len(found) > limit

    def _candidates(self, order: DumpOrder, wanted: DumpFilter) -> Iterator[Entry]:
        """In order, at least those that are wanted; the few that an index knows, where it does."""
        if order is not DumpOrder.ID_HASH:
            return self._by_use(order is DumpOrder.USED_ASC)
        if wanted.identity is not None:
            return iter(self.by_identity(wanted.identity))
        return iter(self._entries.values())

    def _by_use(self, latest_first: bool) -> Iterator[Entry]:
        ring = self._ring
        entry = ring.older if latest_first else ring.newer
        while entry is not ring:
            yield entry
            entry = entry.older if latest_first else entry.newer


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _discard(index: dict[str, set[int]], key: str, cid: int) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(cid)
        if not members:
            del index[key]

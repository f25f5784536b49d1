"""The connection table: every connection once, and the ways to find it.

Theory of operation. The table assigns the ids; it counts up and never reuses one. A connection can
be found by id, by its peer's address and port, by identity and by sub-protocol. The order of use is
a ring through the connections themselves::

    ring.newer -> longest idle -> ... -> last used -> ring

Recording a use takes a few assignments, and both ends are found without a search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from ..auth.throttle import network_of
from ..session.lifecycle import TransportAction
from ..states import ConnectionState, ConnectionType
from .events import Traffic
from .management.commands import ConnectionInfo, DisplayState, DumpFilter, DumpOrder

if TYPE_CHECKING:
    from ..auth.identity import Identity
    from ..policy.decision import Pending
    from ..session.session import Session
    from ..typing import Address
    from .events import Answer

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
        cid: The connection's id.
        session: Its session.
        peer: The peer's address and port; replaced if a trusted proxy names another.
        local: Our address and port.
        secure: Whether the connection is wss.
        now: The current time.

    Attributes:
        used: When data was last received or sent.
        identity: The identity that the connection was opened for.
        pending: The admission that waits for an answer.
        user_data: Anything that the application keeps with the connection.
        action: The last action requested from the adapter.
        handshaking: Whether the handshake is unfinished.
        round_trip: The last round-trip time that was counted.
        holds: Whether a message has been partly received.
        joined: The value of ``session.joined`` at that time.
        transport: The address and port of the transport's peer.
        since: When it was opened; until then, when it was accepted.
        answer: The answer to its request, if that did not open a connection.
        received_messages: How many messages were received.
        sent_messages: How many messages were sent.
        received_bytes: How many bytes were received, including the handshake.
        sent_bytes: How many bytes were given to the transport, including the handshake.
    """

    __slots__ = (
        "action",
        "answer",
        "cid",
        "handshaking",
        "holds",
        "identity",
        "joined",
        "local",
        "newer",
        "older",
        "peer",
        "pending",
        "received_bytes",
        "received_messages",
        "round_trip",
        "secure",
        "sent_bytes",
        "sent_messages",
        "session",
        "since",
        "transport",
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
        self.peer = self.transport = peer
        self.local = local
        self.secure = secure
        self.used = self.since = now
        self.identity: Identity | None = None
        self.pending: Pending | None = None
        self.user_data: object = None
        self.action = TransportAction.NONE
        self.handshaking = True
        self.round_trip: float | None = None
        self.holds = False
        self.joined = 0
        self.answer: Answer | None = None
        self.received_messages = self.sent_messages = 0
        self.received_bytes = self.sent_bytes = 0

    def traffic(self, now: float) -> Traffic:
        """Return the traffic of the connection.

        Args:
            now: The current time.
        """
        return Traffic(
            self.received_messages,
            self.sent_messages,
            self.received_bytes,
            self.sent_bytes,
            now - self.since,
        )

    def info(self, now: float) -> ConnectionInfo:
        """Return the information for a dump.

        Args:
            now: The current time.
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
            subprotocol=session.subprotocol,
            identity=self.identity.name if self.identity is not None else None,
        )

    def matches(self, wanted: DumpFilter) -> bool:
        """Return whether a filter selects the connection.

        Args:
            wanted: The filter.
        """
        identity = self.identity.name if self.identity is not None else None
        return (
            (wanted.after is None or self.cid > wanted.after)
            and wanted.address in (None, self.peer[0])
            and wanted.identity in (None, identity)
            and wanted.subprotocol in (None, self.session.subprotocol)
            and wanted.state in (None, _DISPLAY[self.session.state])
        )


class Others(Mapping[str, int]):
    """The numbers of connections by address, not counting one connection; a live view.

    Args:
        counts: How many connections each address has, by
            :func:`~wsproto_sip.auth.throttle.network_of`.
        address: The address of the connection that is not counted.
    """

    def __init__(self, counts: Mapping[str, int], address: str) -> None:
        self._counts = counts
        self._network = network_of(address)

    def __getitem__(self, address: str) -> int:
        network = network_of(address)
        return self._counts[network] - (network == self._network)

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
        # Older connections with the same address and port, since proxies may leave out the port.
        self._older_of_peer: dict[Address, dict[int, None]] = {}
        # By network_of(): a client with one address of a /64 has all of them.
        self._by_address: Counter[str] = Counter()
        # Their ids, the oldest first.
        self._handshaking_by_address: dict[str, dict[int, None]] = {}
        self._by_identity: dict[str, set[int]] = {}
        self._by_subprotocol: dict[str, set[int]] = {}
        #: How many connections have an unfinished handshake.
        self.handshaking = 0
        ring = Entry(0, None, ("", None), None, False, 0.0)
        ring.older = ring.newer = ring
        self._ring = ring

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._entries)

    def __contains__(self, cid: object) -> bool:
        """Return whether there is a connection with an id."""
        return cid in self._entries

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the current connections in the order of their ids."""
        return iter(list(self._entries.values()))

    def add(
        self, session: Session, peer: Address, local: Address | None, secure: bool, now: float
    ) -> Entry:
        """Add a connection that starts its handshake.

        Args:
            session: Its session.
            peer: The peer's address and port.
            local: Our address and port.
            secure: Whether the connection is wss.
            now: The current time.

        Returns:
            The entry, with a new id.
        """
        self._last += 1
        entry = Entry(self._last, session, peer, local, secure, now)
        self._entries[entry.cid] = entry
        network = network_of(peer[0])
        self._by_address[network] += 1
        self._handshaking_by_address.setdefault(network, {})[entry.cid] = None
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
        """Record that a connection was used.

        Args:
            entry: The connection.
            now: The current time.
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
        """Record that a connection's handshake succeeded.

        Args:
            entry: The connection; its identity and sub-protocol are final.
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
            self._forget_handshake(entry)

    def _forget_handshake(self, entry: Entry) -> None:
        network = network_of(entry.peer[0])
        cids = self._handshaking_by_address[network]
        del cids[entry.cid]
        if not cids:
            del self._handshaking_by_address[network]

    def move(self, entry: Entry, peer: Address) -> None:
        """Record the address that a trusted proxy gives for a connection.

        Args:
            entry: The connection.
            peer: The client's own address and port.
        """
        self._forget_peer(entry)
        if entry.handshaking:
            self._forget_handshake(entry)
            self._handshaking_by_address.setdefault(network_of(peer[0]), {})[entry.cid] = None
        entry.peer = peer
        self._by_address[network_of(peer[0])] += 1
        self._note_peer(entry)

    def _note_peer(self, entry: Entry) -> None:
        peer = entry.peer
        older = self._by_peer.get(peer)
        if older is not None:
            self._older_of_peer.setdefault(peer, {})[older] = None
        self._by_peer[peer] = entry.cid

    def _forget_peer(self, entry: Entry) -> None:
        peer, cid = entry.peer, entry.cid
        _less(self._by_address, network_of(peer[0]))
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
        """Remove a connection.

        Args:
            entry: The connection.
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
        """Return the connection with an id, or ``None``."""
        return self._entries.get(cid)

    def by_peer(self, address: str, port: int | None) -> Entry | None:
        """Return the connection whose peer has an address and port, or ``None``.

        Args:
            address: The address as text.
            port: The port; ``None`` if a proxy left it out.

        Returns:
            The connection; if there are several, the latest.
        """
        cid = self._by_peer.get((address, port))
        return None if cid is None else self._entries[cid]

    def by_identity(self, name: str) -> list[Entry]:
        """Return the open connections of an identity, in the order of their ids."""
        return [self._entries[cid] for cid in sorted(self._by_identity.get(name, ()))]

    def by_subprotocol(self, token: str) -> list[Entry]:
        """Return the open connections with a sub-protocol, in the order of their ids."""
        return [self._entries[cid] for cid in sorted(self._by_subprotocol.get(token, ()))]

    def count_of(self, address: str) -> int:
        """Return the number of connections from an address; of IPv6, from its /64."""
        return self._by_address[network_of(address)]

    def handshaking_of(self, address: str) -> int:
        """Return how many of these have an unfinished handshake."""
        return len(self._handshaking_by_address.get(network_of(address), ()))

    def longest_handshake(self, address: str) -> Entry | None:
        """Return the oldest unfinished handshake of the address with the most of them.

        Args:
            address: An address that asks for one more.

        Returns:
            The connection; ``None`` if no client's address has more of them than this one.
        """
        most, found = self.handshaking_of(address), None
        for cids in self._handshaking_by_address.values():
            if len(cids) > most:
                entry = self._entries[next(iter(cids))]
                if entry.session.role is ConnectionType.SERVER:
                    most, found = len(cids), entry
        return found

    @property
    def addresses(self) -> Counter[str]:
        """The number of connections of each address, of IPv6 each /64; do not modify it."""
        return self._by_address

    def page(
        self, order: DumpOrder, offset: int, limit: int, wanted: DumpFilter, now: float
    ) -> tuple[list[ConnectionInfo], bool]:
        """Return one page of the table.

        Only the skipped and the returned connections are examined, and nothing is sorted.

        Args:
            order: The order.
            offset: How many connections to skip.
            limit: The maximum number to return.
            wanted: The filter.
            now: The current time.

        Returns:
            The connections, and whether more follow.
        """
        entries = self._candidates(order, wanted)
        if wanted != DumpFilter():
            entries = (entry for entry in entries if entry.matches(wanted))
        # Skipping a connection must not cost its description.
        found = list(islice(entries, offset, offset + limit + 1))
        return [entry.info(now) for entry in found[:limit]], len(found) > limit

    def _candidates(self, order: DumpOrder, wanted: DumpFilter) -> Iterator[Entry]:
        """Iterate in order over the selected connections, and possibly others.

        If an index has the selected ones, only those are returned.
        """
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

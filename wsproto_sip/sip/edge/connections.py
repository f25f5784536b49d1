"""The connections of an edge: its knowledge of each, and how to find one."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...server.shares import Party
from ..message.transport import Source
from ..message.uri import SipUri
from ..rules.outbound import Flow

__all__ = ["Connections", "EdgeConnection", "Peer", "gruu_name"]

#: GRUUs of one connection: two per user on it, and another temporary one per REGISTER.
_MAX_GRUUS = 100
#: Ports to try for an alias if the source is not unique.
_ALIAS_TRIES = 64


def gruu_name(uri: SipUri) -> str:
    """Return the key that identifies a GRUU (RFC 5627 §3.1)."""
    return f"{uri.username}@{uri.host_key};gr={uri.params.get('gr')}"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    Args:
        source: The address it comes from.
        user: The user that the handshake authenticated, if any: the name of a user in the first
            domain, or ``name@host``.
        address: The key for shares and failed logins, if it is not the source's host: a Unix socket
            has its user instead.
    """

    source: Source
    user: str | None = None
    address: str | None = None


@dataclass(slots=True, eq=False)
class EdgeConnection:
    """A client's connection.

    Args:
        flow: The name of the connection.
        peer: The other end.
        alias: Its source in aliases: the actual one, or one with another port if that is taken.
    """

    flow: Flow
    peer: Peer
    alias: Source
    #: What other nodes lead requests to it with, and how often the keys had changed by then.
    token: tuple[int, str] | None = None
    #: Users that have authenticated on it.
    proven: set[str] = field(default_factory=set)
    #: The upstream of its latest requests.
    upstream: str | None = None
    #: The address for which the upstream has accepted a REGISTER from this connection.
    registered: str | None = None
    #: Its party, and the user that it was made for.
    _party: tuple[str | None, Party] | None = None
    #: The client's GRUUs from the upstream, by :func:`gruu_name`, with its Contact.
    gruus: dict[str, SipUri] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """The address it comes from."""
        return self.peer.source

    @property
    def address(self) -> str:
        """The key for shares and failed logins."""
        return self.peer.address or self.source.host

    @property
    def user(self) -> str | None:
        """The known user at the other end; ``None`` for a stranger."""
        return self.peer.user or min(self.proven, default=self.registered)

    @property
    def names(self) -> set[str]:
        """All values of :attr:`user` since it was opened; ``""`` for a stranger."""
        known = {"", self.peer.user, self.registered, *self.proven}
        return {name for name in known if name is not None}

    @property
    def party(self) -> Party:
        """The party whose share its requests count towards."""
        user, known = self.user, self._party
        if known is None or known[0] != user:
            cid = self.flow.cid
            party = Party.stranger(self.address, cid) if user is None else Party.user(user, cid)
            known = self._party = user, party
        return known[1]


class Connections:
    """The live connections, by id, by flow and by alias.

    Args:
        generation: The first value of the counter; a random number prevents tokens of an earlier
            run from naming a connection of this one.
    """

    def __init__(self, generation: int = 0) -> None:
        self._by_id: dict[int, EdgeConnection] = {}
        self._by_alias: dict[Source, EdgeConnection] = {}
        self._by_gruu: dict[str, EdgeConnection] = {}
        self._generation = generation

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._by_id)

    def get(self, cid: int) -> EdgeConnection | None:
        """Return the connection with an id, or ``None``."""
        return self._by_id.get(cid)

    def add(self, cid: int, peer: Peer) -> EdgeConnection:
        """Add a connection.

        Raises:
            ValueError: The id is in use.
        """
        if cid in self._by_id:
            raise ValueError(f"connection {cid} exists already")
        self._generation = (self._generation + 1) % 2**32
        alias = peer.source
        # With a proxy that does not report ports, or a Unix socket, sources are not unique.
        for _ in range(_ALIAS_TRIES):
            if alias not in self._by_alias:
                break
            alias = Source(alias.host, (alias.port + 1) % 65536, alias.transport)
        else:
            # An address that no host has (RFC 6666), numbered like the flow.
            high, low = divmod(self._generation, 65536)
            alias = Source(f"100::{high:x}:{low:x}", alias.port, alias.transport)
        connection = EdgeConnection(Flow(cid, self._generation), peer, alias)
        self._by_id[cid] = self._by_alias[alias] = connection
        return connection

    def remove(self, cid: int) -> EdgeConnection | None:
        """Remove and return a connection; ``None`` if the id is unknown."""
        connection = self._by_id.pop(cid, None)
        if connection is not None:
            del self._by_alias[connection.alias]
            for name in connection.gruus:
                if self._by_gruu.get(name) is connection:
                    del self._by_gruu[name]
        return connection

    def of(self, flow: Flow) -> EdgeConnection | None:
        """Return the connection of a flow, if it is still that one."""
        connection = self._by_id.get(flow.cid)
        return connection if connection is not None and connection.flow == flow else None

    def is_alive(self, flow: Flow) -> bool:
        """Return whether a flow's connection exists."""
        connection = self._by_id.get(flow.cid)
        return connection is not None and connection.flow == flow

    def at(self, alias: Source) -> Flow | None:
        """Return the flow of an alias."""
        connection = self._by_alias.get(alias)
        return None if connection is None else connection.flow

    def add_gruu(self, connection: EdgeConnection, gruu: SipUri, contact: SipUri) -> None:
        """Note that the upstream leads a GRUU to a connection; the latest one counts.

        Args:
            connection: A live connection.
            gruu: The GRUU. Of so many on one connection, more are not noted.
            contact: The Contact that it stands for.
        """
        name = gruu_name(gruu)
        if name in connection.gruus or len(connection.gruus) < _MAX_GRUUS:
            connection.gruus[name] = contact
            self._by_gruu[name] = connection

    def with_gruu(self, gruu: SipUri) -> tuple[Flow, SipUri] | None:
        """Return the flow and the Contact that the upstream leads a GRUU to."""
        name = gruu_name(gruu)
        connection = self._by_gruu.get(name)
        return None if connection is None else (connection.flow, connection.gruus[name])

"""The state of a relay: connections, peers, sessions, routes and forwarded requests.

Theory of operation: records refer to one another and are compared by identity, so that a reused
number cannot revive an old record. The table of sessions knows when they expire; an extended
session keeps its single entry among the deadlines, which comes up early and is put back.

A conversation repeats its paths in each chunk, so a connection remembers its latest routes by the
lines of both paths. A route that is remembered can be used while the sessions that it was found by
are open. What else it depends on does not change, except the nodes: then all routes are forgotten.
"""

from __future__ import annotations

import base64
import heapq
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from ...server.shares import Claim, Party, Standing
from ...typing import Entropy
from ..message.chunk import MsrpRequest, acceptance, path_lines
from ..message.fields import FailureReport
from ..message.uri import MsrpPath, MsrpUri

__all__ = [
    "Hop",
    "Node",
    "Peer",
    "RelayConnection",
    "Route",
    "Session",
    "SessionTable",
    "Transaction",
]

_NOBODY: Final = Party.stranger("")

#: How many routes a connection remembers.
_MAX_ROUTES: Final = 8
#: How long an acceptance may be that each transaction keeps: a sender chooses a part of it.
_MAX_ACCEPTED: Final = 320


@dataclass(slots=True, eq=False)
class Hop:
    """A target of chunks: a client's connection, or a peer over any of its connections."""

    #: Forwarded requests that wait for their response, by our transaction id. All connections of a
    #: peer have that of the peer.
    pending: dict[bytes, Transaction] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Peer(Hop):
    """A configured peer, and how many connections there are with it."""

    name: str = ""
    authority: tuple[str, int | None] = ("", None)
    connections: int = 0


@dataclass(slots=True, eq=False)
class Node(Peer):
    """A node, which speaks for itself and its clients; known by the host in its URIs."""

    boot: str = ""
    #: Whether it has left; its sessions have ended.
    gone: bool = False


@dataclass(slots=True, eq=False)
class RelayConnection(Hop):
    """One connection. Another one with the same number is another object."""

    id: int = 0
    identity: str | None = None
    address: str = ""
    peer: Peer | None = None
    #: Whether a node has opened it; the requests on it say which one.
    from_node: bool = False
    alive: bool = True
    #: Sessions by the path they lead to and the user they belong to.
    sessions: dict[tuple[MsrpPath, str], Session] = field(default_factory=dict)
    #: The party whose share pays for its requests.
    party: Party = _NOBODY
    failures: int = 0
    malformed: int = 0
    #: The latest routes of its requests, by the lines of To-Path and From-Path.
    routes: dict[bytes, Route] = field(default_factory=dict)

    @property
    def proven(self) -> set[str]:
        """The users that have authenticated on it."""
        return {user for _, user in self.sessions}

    @property
    def hop(self) -> Hop:
        """The hop at which its responses are expected."""
        return self if self.peer is None else self.peer

    def join(self, peer: Peer) -> None:
        """Make it a connection with a peer."""
        self.peer = peer
        self.pending = peer.pending
        peer.connections += 1

    def remember(self, paths: bytes, route: Route) -> None:
        """Remember a route, if necessary instead of the oldest one."""
        routes = self.routes
        if len(routes) >= _MAX_ROUTES and paths not in routes:
            del routes[next(iter(routes))]
        routes[paths] = route


@dataclass(slots=True, eq=False)
class Session:
    """The result of one AUTH: a URI of ours that leads to a path of a connection."""

    uri: MsrpUri
    key: tuple[MsrpPath, str]
    connection: RelayConnection
    #: Minus infinity once it has ended.
    expires: float = 0.0

    @property
    def path(self) -> MsrpPath:
        """The path from which the client has sent AUTH."""
        return self.key[0]


class Route:
    """The way of a request: where it goes, and what is written and expected there.

    Args:
        hop: The next hop.
        to_path: The path to the receiver from there.
        from_path: The path back to the sender, without us.
        passed: Our URIs that the request has passed, the latest first.
        request: The request as received.
        session: The session that it was found by.
        other: The other one, if there were two.

    Attributes:
        hop: The next hop.
        from_path: The path back to the sender, without us.
        passed: Our URIs that the request has passed, the latest first.
        paths: The lines of both paths in the forwarded request.
        accepting: The :func:`~wsproto_sip.msrp.message.chunk.acceptance` for the previous hop.
        accepted: The same as expected from the next hop; ``None`` if it is too long to be kept.
    """

    __slots__ = (
        "_other",
        "_session",
        "accepted",
        "accepting",
        "from_path",
        "hop",
        "passed",
        "paths",
    )

    def __init__(
        self,
        hop: Hop,
        to_path: MsrpPath,
        from_path: MsrpPath,
        passed: MsrpPath,
        request: MsrpRequest,
        session: Session,
        other: Session | None = None,
    ) -> None:
        self.hop = hop
        self.from_path = from_path
        self.passed = passed
        self.paths = path_lines(to_path, passed + from_path)
        self.accepting = acceptance(request.from_path[0], request.to_path[0])
        accepted = acceptance(passed[0], to_path[0])
        self.accepted = accepted if len(accepted) <= _MAX_ACCEPTED else None
        self._session = session
        self._other = other or session

    def is_open(self, now: float) -> bool:
        """Return whether its sessions are open."""
        return self._session.expires > now and self._other.expires > now


@dataclass(slots=True, eq=False)
class Transaction:
    """A forwarded request that waits for its response.

    It keeps the parts that responses and reports need, without the body.
    """

    tid: bytes
    hop: Hop
    deadline: float
    origin: RelayConnection
    #: The original request's id and method.
    origin_tid: bytes
    method: bytes
    #: The path back from the origin.
    from_path: MsrpPath
    #: Our URIs that the request has passed, the latest first.
    passed: MsrpPath
    #: What the usual 200 to it says, if it is known.
    accepted: bytes | None
    claim: Claim
    #: Needed for a report.
    failure_report: FailureReport
    message_id: bytes | None
    byte_range: bytes | None
    size: int
    last: bool
    #: Why there will be no response, if that is known before the deadline.
    failure: int | None = None


class SessionTable:
    """The sessions of a relay by their URI.

    Args:
        host: The host in the URIs.
        port: The port in them.
        secure: Whether they are ``msrps``.
        entropy: Source of their unguessable part.
    """

    __slots__ = ("_deadlines", "_entropy", "_host", "_port", "_secure", "_serial", "_sessions")

    def __init__(
        self, host: str, port: int, *, secure: bool, entropy: Entropy = os.urandom
    ) -> None:
        self._host = host
        self._port = port
        self._secure = secure
        self._entropy = entropy
        self._sessions: dict[MsrpUri, Session] = {}
        #: When to check which session, which may have been extended or ended by then.
        self._deadlines: list[tuple[float, int, Session]] = []
        self._serial = 0

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def page(self, offset: int, limit: int) -> list[Session]:
        """Return some of the sessions, the oldest first."""
        return list(islice(self._sessions.values(), offset, offset + limit))

    def issue(
        self, key: tuple[MsrpPath, str], connection: RelayConnection, expires: float
    ) -> Session:
        """Create a session (RFC 4976 §6.2).

        Args:
            key: The path of the client, and the user.
            connection: The connection it ends with.
            expires: When it expires.
        """
        # 128 random bits; RFC 4976 §6.2 requires 64.
        token = base64.urlsafe_b64encode(self._entropy(16)).rstrip(b"=").decode("ascii")
        uri = MsrpUri.build(self._host, self._port, token, secure=self._secure)
        session = Session(uri, key, connection, expires)
        if connection.party.standing is Standing.STRANGER:
            connection.party = Party.user(key[1], connection.id)
        self._sessions[uri] = session
        connection.sessions[key] = session
        # Entries of sessions that ended with their connections must not pile up.
        if len(self._deadlines) > 2 * len(self._sessions) + 64:
            self._deadlines = [entry for entry in self._deadlines if self._is_here(entry[2])]
            heapq.heapify(self._deadlines)
        self._schedule(session)
        return session

    def find(self, uri: MsrpUri, now: float) -> Session | None:
        """Return the session of a URI, if we issued it and it has not expired."""
        session = self._sessions.get(uri)
        return None if session is None or session.expires <= now else session

    def drop(self, connection: RelayConnection) -> None:
        """End all sessions of a connection."""
        for session in connection.sessions.values():
            session.expires = -math.inf
            del self._sessions[session.uri]
        connection.sessions.clear()

    def next_deadline(self) -> float | None:
        """Return when :meth:`expire` may have something to do; ``None`` for never."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> Iterator[Session]:
        """End the expired sessions, and yield them."""
        while self._deadlines and self._deadlines[0][0] <= now:
            session = heapq.heappop(self._deadlines)[2]
            if not self._is_here(session):
                continue
            if session.expires > now:
                self._schedule(session)
                continue
            session.expires = -math.inf
            del self._sessions[session.uri], session.connection.sessions[session.key]
            yield session

    def _is_here(self, session: Session) -> bool:
        return self._sessions.get(session.uri) is session

    def _schedule(self, session: Session) -> None:
        self._serial += 1
        heapq.heappush(self._deadlines, (session.expires, self._serial, session))

"""What a relay remembers: connections, peers, sessions and forwarded requests.

Theory of operation: records refer to one another and are compared by identity, so that nothing can
come back under a number that is used again. The table of sessions knows when they expire; a
session that is prolonged keeps the one entry it has among the deadlines, which is looked at early
and put back.
"""

from __future__ import annotations

import base64
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..typing import Entropy
from .fields import FailureReport
from .message import Continuation, MsrpRequest
from .uri import MsrpPath, MsrpUri

__all__ = ["Connection", "Hop", "Peer", "Session", "SessionTable", "Transaction"]


@dataclass(slots=True, eq=False)
class Hop:
    """Where chunks go: a client's connection, or a peer over whichever connection."""

    #: Requests sent there that wait for their response, by our transaction id.
    pending: dict[bytes, Transaction] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Peer(Hop):
    """A configured peer, and how many connections there are with it."""

    name: str = ""
    authority: tuple[str, int | None] = ("", None)
    connections: int = 0


@dataclass(slots=True, eq=False)
class Connection(Hop):
    """One connection. Another one of the same number is another object."""

    id: int = 0
    identity: str | None = None
    peer: Peer | None = None
    alive: bool = True
    #: Sessions by the path they lead to and the user they belong to.
    sessions: dict[tuple[MsrpPath, str], Session] = field(default_factory=dict)
    #: Requests from here that are pending elsewhere.
    transactions: int = 0
    failures: int = 0
    malformed: int = 0

    @property
    def hop(self) -> Hop:
        """Where the responses that come from here were waited for."""
        return self if self.peer is None else self.peer


@dataclass(slots=True, eq=False)
class Session:
    """What one AUTH has created: a URI of ours that leads to a path behind a connection."""

    uri: MsrpUri
    key: tuple[MsrpPath, str]
    connection: Connection
    expires: float = 0.0

    @property
    def path(self) -> MsrpPath:
        """The path behind the connection: what its client has sent AUTH from."""
        return self.key[0]


@dataclass(slots=True, eq=False)
class Transaction:
    """A request sent on that waits for its response."""

    tid: bytes
    hop: Hop
    deadline: float
    origin: Connection
    #: Of the request as it came in: its id and method.
    origin_tid: bytes
    method: bytes
    #: The path back behind the origin.
    from_path: MsrpPath
    #: Our URIs it has passed, the latest first.
    passed: MsrpPath
    #: What a report needs to know.
    failure_report: FailureReport
    message_id: bytes | None
    byte_range: bytes | None
    size: int
    last: bool
    #: Why there will be no response, where that is known before the deadline.
    failure: int | None = None

    @classmethod
    def of(
        cls,
        request: MsrpRequest,
        fields: dict[bytes, bytes],
        *,
        tid: bytes,
        hop: Hop,
        deadline: float,
        origin: Connection,
        from_path: MsrpPath,
        passed: MsrpPath,
        failure_report: FailureReport,
    ) -> Transaction:
        """Remember what responses and reports need, and not the body.

        Args:
            request: The request as it came in.
            fields: Its header fields, by name in lower case.
            tid: Its transaction id from here on.
            hop: Where it goes.
            deadline: When there has been no response.
            origin: Where it came from.
            from_path: The path back from there.
            passed: Our URIs on the way, the latest first.
            failure_report: Which failures its sender wants to hear of.
        """
        return cls(
            tid,
            hop,
            deadline,
            origin,
            request.transaction_id,
            request.method,
            from_path,
            passed,
            failure_report,
            fields.get(b"message-id"),
            fields.get(b"byte-range"),
            len(request.body or b""),
            request.continuation is Continuation.COMPLETE,
        )


class SessionTable:
    """The sessions of a relay by the URI it has handed out.

    Args:
        host: The host in the URIs.
        port: The port in them.
        secure: Whether they are ``msrps``.
        entropy: Source of the part of them that cannot be guessed.
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
        #: When to look at which session; it may then have been prolonged, or be gone.
        self._deadlines: list[tuple[float, int, Session]] = []
        self._serial = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sessions)

    def issue(self, key: tuple[MsrpPath, str], connection: Connection, expires: float) -> Session:
        """Create a session (RFC 4976 §6.2).

        Args:
            key: The path behind the connection, and the user.
            connection: The connection it ends with.
            expires: When it ends at the latest.
        """
        # 128 random bits; RFC 4976 §6.2 asks for 64.
        token = base64.urlsafe_b64encode(self._entropy(16)).rstrip(b"=").decode("ascii")
        uri = MsrpUri.build(self._host, self._port, token, secure=self._secure)
        session = Session(uri, key, connection, expires)
        self._sessions[uri] = session
        connection.sessions[key] = session
        # Entries of sessions that went with their connections must not pile up.
        if len(self._deadlines) > 2 * len(self._sessions) + 64:
            self._deadlines = [entry for entry in self._deadlines if self._is_here(entry[2])]
            heapq.heapify(self._deadlines)
        self._schedule(session)
        return session

    def find(self, uri: MsrpUri, now: float) -> Session | None:
        """The session of a URI, if we issued it and it has not expired."""
        session = self._sessions.get(uri)
        return None if session is None or session.expires <= now else session

    def drop(self, connection: Connection) -> None:
        """End all sessions of a connection."""
        for session in connection.sessions.values():
            del self._sessions[session.uri]
        connection.sessions.clear()

    def next_deadline(self) -> float | None:
        """When :meth:`expire` may have something to do; ``None`` for never."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> Iterator[Session]:
        """End the sessions whose time is over, and tell which they were."""
        while self._deadlines and self._deadlines[0][0] <= now:
            session = heapq.heappop(self._deadlines)[2]
            if not self._is_here(session):
                continue
            if session.expires > now:
                self._schedule(session)
                continue
            del self._sessions[session.uri], session.connection.sessions[session.key]
            yield session

    def _is_here(self, session: Session) -> bool:
        return self._sessions.get(session.uri) is session

    def _schedule(self, session: Session) -> None:
        self._serial += 1
        heapq.heappush(self._deadlines, (session.expires, self._serial, session))

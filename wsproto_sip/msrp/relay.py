"""An MSRP relay for clients over WebSocket or TCP (RFC 4976, RFC 7977).

Theory of operation: a client authenticates with AUTH and is given a URI nobody can guess, its
session. Whatever it sends goes out through that session, and whatever comes in for it names that
session first. Forwarding moves the session's URI from To-Path to From-Path, so that the paths are
a source route and its way back, and the relay needs no state for them. State it has for SEND,
which is answered hop by hop: the previous hop is answered at once, and when the next one fails or
stays silent the relay reports that on the way back (RFC 4976 §6.3).

A session belongs to the connection it was made on, that very one and not its number: it ends with
the connection, and a later connection of the same number has nothing of it. Where a chunk goes is
decided by what the relay handed out and by its configuration alone. A URI of a message selects a
session or a configured peer, or the message is refused.

The transaction ids of what the relay forwards are its own, so that no sender can choose one that
is in use, and no receiver can answer for another.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from ..typing import Entropy, Headers
from .authentication import Accepted, DigestServer
from .chunking import reported_range
from .fields import FailureReport, format_status
from .limits import MsrpLimits
from .message import (
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    accept_send,
    forward_chunk,
    new_transaction_id,
    split_chunk,
)
from .relay_config import DropConnection, ForwardToPeer, MsrpRelayConfig, RelayAction, SendChunk
from .relay_tables import Connection, Hop, Peer, SessionTable, Transaction
from .stream import ChunkPart
from .uri import MsrpPath, MsrpUri

__all__ = ["MsrpRelay"]

#: Requests given up, and connections dropped, in one call; the rest is due at once.
_AT_ONCE = 256


class _Route(NamedTuple):
    """Where a request goes next, or, without a hop, what to answer instead."""

    status: int = 200
    hop: Hop | None = None
    to_path: MsrpPath = ()
    #: Where it comes from, and our URIs it has passed, the latest first.
    from_path: MsrpPath = ()
    passed: MsrpPath = ()


class MsrpRelay:
    """The relay, for any number of connections.

    The caller tells it of connections and of what arrives on them, and does what it answers.
    Connection ids are the caller's; an id may come again after :meth:`connection_lost`.

    Args:
        config: How it behaves.
        authenticator: Checks credentials; without one only connections with an identity of their
            own can have a session.
        entropy: Source of session and transaction ids.
    """

    def __init__(
        self,
        config: MsrpRelayConfig,
        authenticator: DigestServer | None = None,
        *,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._authenticator = authenticator
        self._entropy = entropy
        self._own = {
            MsrpUri.build(host, port).authority
            for host, port in ((config.host, config.port), *config.aliases)
        }
        self._peers = {
            name: Peer(name=name, authority=MsrpUri.build(host, port).authority)
            for name, (host, port) in config.peers.items()
        }
        self._peers_by_authority = {peer.authority: peer for peer in self._peers.values()}
        self._connections: dict[int, Connection] = {}
        self._sessions = SessionTable(
            config.host, config.port, secure=config.secure, entropy=entropy
        )
        #: Forwarded requests, the earliest first.
        self._transactions: OrderedDict[Transaction, None] = OrderedDict()
        #: Clients without a session, and when they have had time enough.
        self._waiting: OrderedDict[Connection, float] = OrderedDict()

    # -- what there is ---------------------------------------------------------------------------

    @property
    def limits(self) -> MsrpLimits:
        """The bounds."""
        return self._limits

    @property
    def peers(self) -> Collection[str]:
        """The names of the configured peers."""
        return self._peers.keys()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def transactions(self) -> int:
        """How many forwarded requests wait for their response."""
        return len(self._transactions)

    # -- connections -----------------------------------------------------------------------------

    def connection_made(
        self,
        connection_id: int,
        now: float,
        *,
        identity: str | None = None,
        peer: str | None = None,
    ) -> list[RelayAction]:
        """A connection is there.

        Args:
            connection_id: Its number.
            now: The time in seconds.
            identity: Who it is, where that is known by other means than AUTH, such as a
                certificate or the handshake (RFC 7977 §5.3.1); then AUTH needs no credentials.
            peer: The configured peer it is a connection with, whoever opened it. The caller knows
                that by the address; anybody else is a client.

        Raises:
            ValueError: The number is in use, or there is no such peer.
        """
        if connection_id in self._connections:
            raise ValueError(f"connection {connection_id} is there already")
        if peer is not None and peer not in self._peers:
            raise ValueError(f"no such peer: {peer!r}")
        if len(self._connections) >= self._limits.max_connections:
            return [DropConnection(connection_id, "too many connections")]
        connection = Connection(id=connection_id, identity=identity)
        self._connections[connection_id] = connection
        if peer is None:
            self._wait(connection, now)
        else:
            connection.peer = self._peers[peer]
            connection.peer.connections += 1
        return []

    def connection_lost(self, connection_id: int, now: float) -> list[RelayAction]:
        """A connection is gone, and its sessions with it.

        What was under way to it is reported to the senders at once, or, where it was a lot, by
        :meth:`handle_timeout`, which is due then. An unknown number is nothing.

        Args:
            connection_id: Its number.
            now: The time in seconds.
        """
        out: list[RelayAction] = []
        connection = self._connections.get(connection_id)
        if connection is not None:
            self._forget(connection, out)
        return out

    def peer_unreachable(self, peer: str, now: float) -> list[RelayAction]:
        """A chunk could not be forwarded to a peer: there is no connection and none to be had.

        Args:
            peer: Its name.
            now: The time in seconds.

        Raises:
            ValueError: There is no such peer.
        """
        if peer not in self._peers:
            raise ValueError(f"no such peer: {peer!r}")
        out: list[RelayAction] = []
        self._fail_pending(self._peers[peer], 408, out)
        return out

    def _drop(self, connection: Connection, reason: str, out: list[RelayAction]) -> None:
        out.append(DropConnection(connection.id, reason))
        self._forget(connection, out)

    def _forget(self, connection: Connection, out: list[RelayAction]) -> None:
        connection.alive = False
        del self._connections[connection.id]
        self._waiting.pop(connection, None)
        self._sessions.drop(connection)
        if connection.peer is None:
            self._fail_pending(connection, 481, out)
        else:
            connection.peer.connections -= 1
            if not connection.peer.connections:
                self._fail_pending(connection.peer, 408, out)

    def _fail_pending(self, hop: Hop, status: int, out: list[RelayAction]) -> None:
        # Before all others, so that they are as good as timed out.
        for transaction in reversed(hop.pending.values()):
            transaction.failure, transaction.deadline = status, -math.inf
            self._transactions.move_to_end(transaction, last=False)
        hop.pending.clear()
        self._give_up(-math.inf, out)

    # -- time ------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has something to do at the earliest; ``None`` for never.

        It can lie in the past, where that was more than is done in one call.
        """
        earliest = self._sessions.next_deadline()
        # Asked for after each chunk.
        for first in self._transactions:
            if earliest is None or first.deadline < earliest:
                earliest = first.deadline
            break
        for deadline in self._waiting.values():
            if earliest is None or deadline < earliest:
                earliest = deadline
            break
        return earliest

    def handle_timeout(self, now: float) -> list[RelayAction]:
        """Do what is due; an early call does nothing.

        Of what is due it does so much as does not keep others waiting for long.

        Args:
            now: The time in seconds.
        """
        out: list[RelayAction] = []
        self._give_up(now, out)
        for session in self._sessions.expire(now):
            if not session.connection.sessions:
                self._wait(session.connection, now)
        for connection, deadline in list(islice(self._waiting.items(), _AT_ONCE)):
            if deadline > now:
                break
            self._drop(connection, "no session", out)
        return out

    def _give_up(self, now: float, out: list[RelayAction]) -> None:
        """Wait no longer for the responses that are due."""
        for transaction in list(islice(self._transactions, _AT_ONCE)):
            if transaction.deadline > now:
                break
            self._time_out(transaction, out)

    def _wait(self, connection: Connection, now: float) -> None:
        if self._config.authentication_timeout is not None:
            self._waiting[connection] = now + self._config.authentication_timeout

    # -- chunks ----------------------------------------------------------------------------------

    def receive(self, connection_id: int, data: bytes, now: float) -> list[RelayAction]:
        """Take one chunk: a whole WebSocket message, or one frame of a stream.

        Args:
            connection_id: Where it came in. A number that is not there, because the connection
                has been dropped, is nothing.
            data: The octets. A :class:`~wsproto_sip.msrp.stream.ChunkPart` is forwarded or not,
                and answered in neither case: that is done for the last part.
            now: The time in seconds.
        """
        out: list[RelayAction] = []
        connection = self._connections.get(connection_id)
        if connection is None:
            return out
        try:
            chunk, fields, rest = split_chunk(data, limits=self._limits)
        except MsrpParseError as error:
            self._on_malformed(connection, error, out)
            return out
        if isinstance(chunk, MsrpResponse):
            self._on_response(connection, chunk, out)
        elif chunk.method == b"AUTH" and chunk.to_path[0].session_id is None:
            self._on_auth(connection, chunk, now, out)
        else:
            forwarded: list[RelayAction] = []
            status = self._forward(connection, chunk, fields, rest, now, forwarded)
            if status is not None and not isinstance(data, ChunkPart):
                self._answer(connection, chunk, status, out)
            out += forwarded
        return out

    @staticmethod
    def _send(hop: Hop, data: bytes, out: list[RelayAction], *, outcome: bool = False) -> None:
        if isinstance(hop, Peer):
            out.append(ForwardToPeer(hop.name, data, outcome))
        elif isinstance(hop, Connection) and hop.alive:
            out.append(SendChunk(hop.id, data, outcome))

    def _answer(
        self,
        connection: Connection,
        request: MsrpRequest,
        status: int,
        out: list[RelayAction],
        headers: Headers | None = None,
        comment: bytes | None = None,
    ) -> None:
        """Answer a request, where it may be answered (RFC 4975 §7.2)."""
        if request.method == b"REPORT":
            return
        if request.method == b"SEND":
            wanted = request.failure_report
            if wanted is FailureReport.NO or (status == 200 and wanted is FailureReport.PARTIAL):
                return
            if status == 200:
                self._send(connection, accept_send(request), out)
                return
        response = request.response(status, comment, headers or ())
        self._send(connection, response.to_bytes(), out)

    def _on_malformed(
        self, connection: Connection, error: MsrpParseError, out: list[RelayAction]
    ) -> None:
        """Answer 400 or 413; the flow lives on, unless nothing else comes of it."""
        response = error.response()
        if response is not None:
            self._send(connection, response.to_bytes(), out)
        connection.malformed += 1
        if connection.malformed >= self._limits.max_malformed:
            self._drop(connection, "too many malformed chunks", out)

    # -- AUTH ------------------------------------------------------------------------------------

    def _on_auth(
        self, connection: Connection, request: MsrpRequest, now: float, out: list[RelayAction]
    ) -> None:
        """RFC 4976 §6.2."""
        target = request.to_path[0]
        if (
            len(request.to_path) > 1
            or target.authority not in self._own
            or connection.peer is not None
        ):
            self._answer(connection, request, 403, out)
            return
        headers: Headers = []
        user = connection.identity
        if user is None:
            accepted = self._authenticate(connection, request, now, out)
            if accepted is None:
                return
            user = accepted.username
            headers.append((b"Authentication-Info", accepted.info))
        config = self._config
        asked = request.header(b"expires")
        expires = config.default_expires if asked is None else int(asked)
        if expires < config.min_expires:
            headers.append((b"Min-Expires", b"%d" % config.min_expires))
            self._answer(connection, request, 423, out, headers)
            return
        if expires > config.max_expires:
            headers.append((b"Max-Expires", b"%d" % config.max_expires))
            self._answer(connection, request, 423, out, headers)
            return
        key = (request.from_path, user)
        session = connection.sessions.get(key)
        if session is None:
            if (
                len(connection.sessions) >= self._limits.max_sessions_per_connection
                or len(self._sessions) >= self._limits.max_sessions
            ):
                self._answer(connection, request, 403, out, comment=b"Too many sessions")
                return
            session = self._sessions.issue(key, connection, now + expires)
            self._waiting.pop(connection, None)
        session.expires = now + expires
        connection.malformed = 0
        headers.append((b"Use-Path", session.uri.raw))
        headers.append((b"Expires", b"%d" % expires))
        self._answer(connection, request, 200, out, headers)

    def _authenticate(
        self, connection: Connection, request: MsrpRequest, now: float, out: list[RelayAction]
    ) -> Accepted | None:
        """Check the credentials, or ask for them; ``None`` where that has been answered."""
        if self._authenticator is None:
            self._answer(connection, request, 403, out)
            return None
        authorization = request.header(b"authorization")
        stale = False
        if authorization is not None:
            verdict = self._authenticator.check(authorization, request.to_path[-1], now)
            if isinstance(verdict, Accepted):
                connection.failures = 0
                return verdict
            stale = verdict.stale
            # A stale nonce is no guess at a password.
            connection.failures += not stale
        challenge = bytes(self._authenticator.challenge(now, stale=stale))
        self._answer(connection, request, 401, out, [(b"WWW-Authenticate", challenge)])
        if connection.failures >= self._limits.max_authentication_failures:
            self._drop(connection, "too many refused credentials", out)
        return None

    # -- forwarding ------------------------------------------------------------------------------

    def _route(self, connection: Connection, request: MsrpRequest, now: float) -> _Route:
        """Decide where a request goes (RFC 4976 §6.3).

        Either it comes from the client that has the session, and goes anywhere we know; or it
        comes from elsewhere and goes to that client. Each hop can only speak for itself: the first
        URI of From-Path is the one we know it by. Paths that we know go on as we know them: what
        does not count in their comparison is not the sender's to choose.
        """
        path = request.to_path[1:]
        session = self._sessions.find(request.to_path[0], now)
        if session is None:
            return _Route(481)
        if session.connection is connection:
            if request.from_path != session.path:
                return _Route(403)
            if not path:
                return _Route(self._for_us(request))
            other = self._sessions.find(path[0], now)
            if other is not None:
                if path[1:] != other.path:
                    return _Route(403)
                passed = (other.uri, session.uri)
                return _Route(200, other.connection, other.path, session.path, passed)
            if path[0].authority in self._own:
                return _Route(481)
            peer = self._peers_by_authority.get(path[0].authority)
            if peer is None:
                return _Route(403)
            return _Route(200, peer, path, session.path, (session.uri,))
        if connection.peer is None:
            return _Route(506)
        if request.from_path[0].authority != connection.peer.authority or path != session.path:
            return _Route(403)
        return _Route(200, session.connection, session.path, request.from_path, (session.uri,))

    @staticmethod
    def _for_us(request: MsrpRequest) -> int:
        """The answer to a request that ends here.

        A SEND without a body is a sign of life (RFC 7977 §6); we are no party to talk to.
        """
        if request.method == b"SEND":
            return 200 if request.body is None else 415
        return 501

    def _forward(
        self,
        connection: Connection,
        request: MsrpRequest,
        fields: dict[bytes, bytes],
        rest: bytes,
        now: float,
        out: list[RelayAction],
    ) -> int | None:
        """Send a request on, if it may go on.

        Returns:
            The status to answer at once; ``None`` where the answer comes from the other end.
        """
        route = self._route(connection, request, now)
        if route.hop is None:
            return route.status
        send = request.method == b"SEND"
        if send and b"message-id" not in fields:
            return 400
        tid = new_transaction_id(rest, entropy=self._entropy)
        data = forward_chunk(request, rest, tid, route.to_path, route.passed + route.from_path)
        # Our transaction id may be longer than theirs.
        if len(data) > self._limits.max_chunk_size:
            return 413
        wanted = FailureReport.of(fields.get(b"failure-report"))
        if request.method != b"REPORT" and not (send and wanted is FailureReport.NO):
            if connection.transactions >= self._limits.max_transactions_per_connection:
                return 413
            if len(self._transactions) >= self._limits.max_transactions:
                self._time_out(next(iter(self._transactions)), out)
            deadline = now + self._config.transaction_timeout
            transaction = Transaction.of(
                request,
                fields,
                tid=tid,
                hop=route.hop,
                deadline=deadline,
                origin=connection,
                from_path=route.from_path,
                passed=route.passed,
                failure_report=wanted,
            )
            self._transactions[transaction] = None
            route.hop.pending[tid] = transaction
            connection.transactions += 1
        self._send(route.hop, data, out)
        # RFC 4976 §6.3.1: the previous hop does not wait for the next one.
        return 200 if send else None

    def _time_out(self, transaction: Transaction, out: list[RelayAction]) -> None:
        """Wait no longer for a response."""
        self._finish(transaction)
        if transaction.failure is not None:
            self._report(transaction, transaction.failure, None, out)
        # Who asked for failures only in part has no use for a time-out (RFC 4975 §7.1.1).
        elif transaction.failure_report is FailureReport.YES:
            self._report(transaction, 408, None, out)

    def _finish(self, transaction: Transaction) -> None:
        del self._transactions[transaction]
        transaction.hop.pending.pop(transaction.tid, None)
        transaction.origin.transactions -= 1

    def _on_response(
        self, connection: Connection, response: MsrpResponse, out: list[RelayAction]
    ) -> None:
        """RFC 4976 §6.3.3: a response that is not to a request of ours is dropped."""
        transaction = connection.hop.pending.get(response.transaction_id)
        if transaction is None:
            return
        send = transaction.method == b"SEND"
        back = transaction.passed + transaction.from_path
        if response.to_path != (back[:1] if send else back):
            return
        self._finish(transaction)
        if not send:
            answer = MsrpResponse(
                transaction.origin_tid,
                response.code,
                transaction.from_path,
                transaction.passed[::-1] + response.from_path,
                response.headers,
                response.comment,
            )
            self._send_back(transaction, answer.to_bytes(), out)
        elif response.code != 200:
            self._report(transaction, response.code, response.comment, out)

    def _send_back(self, transaction: Transaction, data: bytes, out: list[RelayAction]) -> None:
        """Send something to where a request came from."""
        origin = transaction.origin
        # A peer may have another connection by now, a client may not.
        self._send(origin if origin.alive else origin.hop, data, out, outcome=True)

    def _report(
        self,
        transaction: Transaction,
        status: int,
        comment: bytes | None,
        out: list[RelayAction],
    ) -> None:
        """Tell the sender of a SEND that it failed further on (RFC 4976 §6.3.1)."""
        if transaction.method != b"SEND" or transaction.message_id is None:
            return
        held = reported_range(transaction.byte_range, transaction.size, transaction.last)
        report = MsrpRequest(
            new_transaction_id(entropy=self._entropy),
            b"REPORT",
            transaction.from_path,
            transaction.passed[-1:],
            [
                (b"Message-ID", transaction.message_id),
                (b"Byte-Range", bytes(held)),
                (b"Status", format_status(status, comment)),
            ],
        )
        self._send_back(transaction, report.to_bytes(), out)

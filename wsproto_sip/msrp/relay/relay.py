"""An MSRP relay for clients over WebSocket or TCP (RFC 4976, RFC 7977).

Theory of operation: a client authenticates with AUTH and gets an unguessable URI, its session. Its
requests leave through that session, and requests to it name that session first. Forwarding moves
the session's URI from To-Path to From-Path, so that the paths are a source route and its way back,
and the relay needs no state for them. It does keep state for SEND, which is answered hop by hop:
the previous hop is answered at once, and if the next hop fails or stays silent, the relay reports
that on the way back (RFC 4976 §6.3).

A session belongs to the very connection it was created on, not to the connection's number: it ends
with the connection, and a later connection with the same number does not inherit it. Only the URIs
that the relay has issued and its configuration decide where a chunk goes. A URI in a message
selects a session or a configured peer, or the message is refused.

The relay chooses its own transaction ids for forwarded requests, so that a sender cannot choose one
that is in use, and a receiver cannot answer for another.

Several relays can serve the same users, as nodes. A client of another node has a session whose URI
names that node, so no state is shared: a request for it has both sessions in its To-Path, goes to
that node, and from there to the client. Nodes trust one another and need no AUTH. What comes from a
node only goes to a client here, so nothing can travel in a circle. Each node sends its requests on
connections of its own, so that an accepted one needs no name.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

from ...auth.accounts import Account
from ...auth.outcome import Denied, Question, Unavailable
from ...auth.verifier import Proven
from ...server.shares import Bound, Party, ShareConfig, Shares
from ...typing import Entropy, Headers
from ..authentication import DigestServer
from ..message.chunk import (
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    accept_send,
    acceptance,
    forward_chunk,
    new_transaction_id,
    parse_chunk,
    split_chunk,
    with_open_range,
)
from ..message.chunking import reported_range
from ..message.fields import FailureReport, format_status, is_exact_range
from ..message.limits import MsrpLimits
from ..message.ordinary import Sent, is_ordinary_within, read_ordinary
from ..message.stream import ChunkPart
from ..message.uri import MsrpPath, MsrpUri
from .config import (
    AskQuestion,
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayAction,
    RelayNode,
    SendChunk,
    node_hop,
)
from .journal import RelayJournal
from .logins import Login, Logins
from .tables import Hop, Node, Peer, RelayConnection, Route, Session, SessionTable, Transaction

__all__ = ["MsrpRelay"]

#: How many requests are given up, and connections dropped, in one call; the rest is due at once.
_AT_ONCE = 256
#: Where a transaction id ends that we have made.
_TID_END: Final = len(b"MSRP ") + 20

#: How many nodes that have left are remembered, so that requests for them get 481.
_MAX_GONE: Final = 256


#: The answer to a question that was not answered in time.
_TOO_LATE: Final = Unavailable("no answer in time")


def _crowded(bound: Bound) -> Unavailable:
    return Unavailable(f"too many waiting requests (limit: {bound.value})")


def _is_accepted(transaction: Transaction, data: bytes) -> bool:
    """Return whether a chunk is the usual 200 to a SEND, after which nothing is left to do.

    Half of the chunks that a relay receives are such responses.
    """
    said = transaction.accepted
    return (
        said is not None
        and data == accept_send(transaction.tid, said)
        and transaction.method == b"SEND"
    )


def _ordinary_size(config: MsrpRelayConfig) -> int:
    """Return the size up to which an ordinary chunk, and a usual response, is within the limits."""
    limits = config.limits
    # The tokens of our sessions have 22 characters.
    own = MsrpUri.build(config.host, config.port, "x" * 22, secure=config.secure)
    longest = min(limits.max_uri, limits.max_header_line - len(b"To-Path: \r\n"))
    fits = is_ordinary_within(limits) and len(own.raw) <= longest
    return limits.max_chunk_size if fits else 0


class MsrpRelay:
    """An MSRP relay, for any number of connections.

    The caller reports connections and their input, and performs the returned actions. The caller
    chooses connection ids; an id may be reused after :meth:`connection_closed`.

    Args:
        config: The configuration.
        authenticator: Checks credentials; without one, only connections with an identity can have a
            session.
        entropy: Source of session and transaction ids.

    Attributes:
        authenticator: Checks credentials.
        journal: Counts and reports events.
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
        self.authenticator = authenticator
        self._entropy = entropy
        self.journal = RelayJournal()
        self._own = {
            MsrpUri.build(host, port).authority
            for host, port in ((config.host, config.port), *config.aliases)
        }
        self._peers = {
            name: Peer(name=name, authority=MsrpUri.build(host, port).authority)
            for name, (host, port) in config.peers.items()
        }
        self._peers_by_authority = {peer.authority: peer for peer in self._peers.values()}
        self._own_host = MsrpUri.build(config.host, config.port).authority[0]
        #: Nodes by the host in their URIs, including those that have left.
        self._nodes: dict[str, Node] = {}
        self._connections: dict[int, RelayConnection] = {}
        self._ordinary_size = _ordinary_size(config)
        self._sessions = SessionTable(
            config.host, config.port, secure=config.secure, entropy=entropy
        )
        #: Forwarded requests, the earliest first.
        self._transactions: OrderedDict[Transaction, None] = OrderedDict()
        limits = config.limits
        self._shares = Shares(
            ShareConfig(
                limits.max_transactions, per_connection=limits.max_transactions_per_connection
            )
        )
        #: AUTH requests waiting for an answer from elsewhere.
        self._logins = Logins(self._shares.claim, config.answer_timeout)
        #: Clients without a session, and when their time is over.
        self._waiting: OrderedDict[RelayConnection, float] = OrderedDict()

    # -- what there is ---------------------------------------------------------------------------

    @property
    def limits(self) -> MsrpLimits:
        """The limits."""
        return self._limits

    @property
    def refused(self) -> Mapping[Bound, int]:
        """How many chunks were refused because too many waited for a response, by limit."""
        return self._shares.refused

    @property
    def peers(self) -> Collection[str]:
        """The names of the configured peers and of the running nodes."""
        return self._peers.keys()

    @property
    def host(self) -> str:
        """The host in the URIs it issues."""
        return self._config.host

    @property
    def nodes(self) -> int:
        """The number of running nodes, except this one."""
        return sum(not node.gone for node in self._nodes.values())

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._connections)

    @property
    def sessions(self) -> int:
        """The number of sessions."""
        return len(self._sessions)

    def sessions_page(self, offset: int, limit: int) -> list[Session]:
        """Return some of the sessions, the oldest first; only for showing them.

        Args:
            offset: How many to skip.
            limit: The maximum number to return.
        """
        return self._sessions.page(offset, limit)

    @property
    def transactions(self) -> int:
        """How many forwarded requests wait for their response."""
        return len(self._transactions)

    @property
    def waiting(self) -> int:
        """How many AUTH requests wait for an answer, or for earlier ones."""
        return len(self._logins)

    # -- connections -----------------------------------------------------------------------------

    def connection_opened(
        self,
        cid: int,
        now: float,
        *,
        identity: str | None = None,
        peer: str | None = None,
        node: bool = False,
        address: str = "",
    ) -> list[RelayAction]:
        """Record a new connection.

        Args:
            cid: Its id.
            now: The time in seconds.
            identity: The client's identity, if it is known by other means than AUTH, such as a
                certificate or the handshake (RFC 7977 §5.3.1); then AUTH needs no credentials.
            peer: The configured peer of the connection, opened by either side, or the node to which
                it was opened. The caller knows it by the address; without one, it is a client's
                connection.
            node: Whether a node has opened it.
            address: The client's address as text, by which guesses at passwords are counted.

        Raises:
            ValueError: The id is in use, or the peer is unknown.
        """
        if cid in self._connections:
            raise ValueError(f"connection {cid} already exists")
        if peer is not None and peer not in self._peers:
            raise ValueError(f"unknown peer: {peer!r}")
        if len(self._connections) >= self._limits.max_connections:
            return [DropConnection(cid, "too many connections")]
        party = Party.stranger(address, cid) if identity is None else Party.user(identity, cid)
        connection = RelayConnection(id=cid, identity=identity, address=address, party=party)
        self._connections[cid] = connection
        if node:
            connection.from_node = True
            connection.party = Party.trusted(node_hop(address))
        elif peer is None:
            self._await_session(connection, now)
        else:
            connection.join(self._peers[peer])
            connection.party = Party.trusted(peer)
        return []

    def connection_closed(self, cid: int, now: float) -> list[RelayAction]:
        """Forget a connection that has ended, and its sessions.

        Requests that waited for it are reported to their senders at once, or, if there were many,
        by :meth:`handle_timeout`, which is due then.

        Args:
            cid: Its id; an unknown one is ignored.
            now: The time in seconds.
        """
        out: list[RelayAction] = []
        connection = self._connections.get(cid)
        if connection is not None:
            self._forget(connection, out)
        return out

    def use_nodes(self, nodes: Mapping[str, RelayNode]) -> list[RelayAction]:
        """Replace the list of running nodes.

        Requests that wait for a node that has left or restarted get 481, since its sessions have
        ended. So do later ones for a node that has left.

        Args:
            nodes: The other nodes by name. One with this relay's own host is ignored.
        """
        out: list[RelayAction] = []
        changed = False
        running = {
            MsrpUri.build(node.host).authority[0]: (node_hop(name), node)
            for name, node in nodes.items()
        }
        running.pop(self._own_host, None)
        for host, known in self._nodes.items():
            name, node = running.get(host, ("", None))
            if known.gone:
                continue
            if node is None or known.name != name or known.boot != node.boot:
                known.gone = changed = True
                del self._peers[known.name]
                self._fail_pending(known, 481, out)
        for host, (name, node) in running.items():
            if host not in self._nodes or self._nodes[host].gone:
                # At the end, so that those that have left come first.
                self._nodes.pop(host, None)
                self._nodes[host] = Node(name=name, authority=(host, None), boot=node.boot)
                self._peers[name] = self._nodes[host]
                changed = True
        if changed:
            for connection in self._connections.values():
                connection.routes.clear()
        gone = [host for host, node in self._nodes.items() if node.gone]
        for host in gone[: max(len(gone) - _MAX_GONE, 0)]:
            del self._nodes[host]
        return out

    def peer_unreachable(self, peer: str, now: float) -> list[RelayAction]:
        """Report that a chunk could not be forwarded to a peer, for lack of a connection.

        Args:
            peer: Its name.
            now: The time in seconds.

        Raises:
            ValueError: The peer is unknown.
        """
        if peer not in self._peers:
            raise ValueError(f"unknown peer: {peer!r}")
        out: list[RelayAction] = []
        self._fail_pending(self._peers[peer], 408, out)
        return out

    def _drop(self, connection: RelayConnection, reason: str, out: list[RelayAction]) -> None:
        self.journal.drop(connection.id, reason)
        out.append(DropConnection(connection.id, reason))
        self._forget(connection, out)

    def _forget(self, connection: RelayConnection, out: list[RelayAction]) -> None:
        connection.alive = False
        connection.routes.clear()
        del self._connections[connection.id]
        self._waiting.pop(connection, None)
        self._sessions.drop(connection)
        self._logins.drop(connection)
        if connection.peer is None:
            self._fail_pending(connection, 481, out)
        else:
            connection.peer.connections -= 1
            if not connection.peer.connections:
                self._fail_pending(connection.peer, 408, out)

    def _fail_pending(self, hop: Hop, status: int, out: list[RelayAction]) -> None:
        # Before all others, so that they count as timed out.
        for transaction in reversed(hop.pending.values()):
            transaction.failure, transaction.deadline = status, -math.inf
            self._transactions.move_to_end(transaction, last=False)
        hop.pending.clear()
        self._time_out_due(-math.inf, out)

    # -- time ------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return the earliest time for :meth:`handle_timeout`; ``None`` for never.

        It may lie in the past, if one call could not do all of the work.
        """
        earliest = self._sessions.next_deadline()
        login = self._logins.next_deadline()
        if login is not None and (earliest is None or login < earliest):
            earliest = login
        # Queried after each chunk.
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
        """Perform the actions that are due; an early call does nothing.

        The work of one call is limited, so that others need not wait for long.

        Args:
            now: The time in seconds.
        """
        out: list[RelayAction] = []
        self._time_out_due(now, out)
        for number in self._logins.due(now):
            out += self.answer(number, _TOO_LATE, now)
        for session in self._sessions.expire(now):
            if not session.connection.sessions:
                self._await_session(session.connection, now)
        for connection, deadline in list(islice(self._waiting.items(), _AT_ONCE)):
            if deadline > now:
                break
            self._drop(connection, "no session", out)
        return out

    def _time_out_due(self, now: float, out: list[RelayAction]) -> None:
        """Give up on overdue responses, a limited number of them."""
        for transaction in list(islice(self._transactions, _AT_ONCE)):
            if transaction.deadline > now:
                break
            self._time_out(transaction, out)

    def _await_session(self, connection: RelayConnection, now: float) -> None:
        if self._config.authentication_timeout is not None:
            self._waiting[connection] = now + self._config.authentication_timeout

    # -- chunks ----------------------------------------------------------------------------------

    def receive(self, cid: int, data: bytes, now: float) -> list[RelayAction]:
        """Take one chunk: a whole WebSocket message, or one frame of a stream.

        Args:
            cid: The connection it arrived on; an unknown one, for example one that was dropped, is
                ignored.
            data: The bytes. A :class:`~wsproto_sip.msrp.message.stream.ChunkPart` is forwarded or
                not, but not answered: the last part is.
            now: The time in seconds.
        """
        connection = self._connections.get(cid)
        if connection is None:
            return []
        paths: bytes | None = None
        # Only plain bytes: the parts of a large chunk are not answered.
        if type(data) is bytes and len(data) <= self._ordinary_size:
            # The transaction id of a response to one of our requests.
            transaction = connection.pending.get(data[5:_TID_END])
            if transaction is not None and _is_accepted(transaction, data):
                self._forget_transaction(transaction)
                return []
            if (ordinary := read_ordinary(data)) is not None:
                paths, sent = ordinary
                route = connection.routes.get(paths)
                if route is not None and route.is_open(now):
                    return self._pass_on(connection, route, data, sent, now)
        out: list[RelayAction] = []
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
            status = self._forward(connection, chunk, fields, rest, paths, now, forwarded)
            if status is not None and not isinstance(data, ChunkPart):
                wanted = FailureReport.of(fields.get(b"failure-report"))
                self._answer(connection, chunk, status, out, wanted=wanted)
            out += forwarded
        return out

    @staticmethod
    def _send(hop: Hop, data: bytes, out: list[RelayAction], *, outcome: bool = False) -> None:
        if isinstance(hop, RelayConnection):
            if hop.alive:
                out.append(SendChunk(hop.id, data, outcome))
        elif isinstance(hop, Peer) and not (isinstance(hop, Node) and hop.gone):
            out.append(ForwardToPeer(hop.name, data, outcome))

    def _answer(
        self,
        connection: RelayConnection,
        request: MsrpRequest,
        status: int,
        out: list[RelayAction],
        headers: Headers | None = None,
        comment: bytes | None = None,
        *,
        wanted: FailureReport = FailureReport.YES,
    ) -> None:
        """Answer a request, if it may be answered and its sender wants that (RFC 4975 §7.2)."""
        if status != 200:
            detail = "" if comment is None else comment.decode("utf-8", "replace")
            self.journal.refuse(request.method, status, detail, connection.id)
        if request.method == b"REPORT":
            return
        if request.method == b"SEND":
            if wanted is FailureReport.NO or (status == 200 and wanted is FailureReport.PARTIAL):
                return
            if status == 200:
                said = acceptance(request.from_path[0], request.to_path[0])
                self._send(connection, accept_send(request.transaction_id, said), out)
                return
        response = request.response(status, comment, headers or ())
        self._send(connection, response.to_bytes(), out)

    def _on_malformed(
        self, connection: RelayConnection, error: MsrpParseError, out: list[RelayAction]
    ) -> None:
        """Answer 400 or 413; the connection continues, unless it only sends malformed chunks."""
        method = b"" if error.request is None else error.request.method
        self.journal.refuse(method, error.status, str(error), connection.id)
        response = error.response()
        if response is not None:
            self._send(connection, response.to_bytes(), out)
        connection.malformed += 1
        if connection.malformed >= self._limits.max_malformed:
            self._drop(connection, "too many malformed chunks", out)

    # -- AUTH ------------------------------------------------------------------------------------

    def _on_auth(
        self, connection: RelayConnection, request: MsrpRequest, now: float, out: list[RelayAction]
    ) -> None:
        """Log a client in (RFC 4976 §6.2)."""
        target = request.to_path[0]
        if (
            len(request.to_path) > 1
            or target.authority not in self._own
            or connection.peer is not None
            or connection.from_node
        ):
            self._answer(connection, request, 403, out)
            return
        if connection.identity is not None:
            self._admit(connection, request, connection.identity, [], now, out)
        elif self._logins.is_waited_on(connection):
            login = self._logins.enter(connection, request, now)
            if isinstance(login, Bound):
                self._refuse_login(connection, request, _crowded(login).denied, now, out)
        else:
            self._log_in(connection, request, self._check(connection, request, now), now, out)

    def _log_in(
        self,
        connection: RelayConnection,
        request: MsrpRequest,
        verdict: Proven | Denied | Question[Proven | Denied],
        now: float,
        out: list[RelayAction],
        login: Login | None = None,
    ) -> None:
        """Act on the result of checking the credentials of an AUTH.

        Args:
            connection: The connection it arrived on.
            request: The request.
            verdict: The result of the check, or the question it waits for.
            now: The time in seconds.
            out: The list to append actions to.
            login: The request, if it has waited for its turn.
        """
        if isinstance(verdict, Question):
            waiting = login or self._logins.enter(connection, request, now)
            if isinstance(waiting, Bound):
                verdict = verdict.conclude(_crowded(waiting))
            elif waiting.deadline <= now:
                verdict = verdict.conclude(_TOO_LATE)
            else:
                number = self._logins.ask(waiting, verdict)
                out.append(AskQuestion(number, verdict.question))
                return
        if login is not None:
            self._logins.leave(login)
        if isinstance(verdict, Denied):
            self._refuse_login(connection, request, verdict, now, out)
            return
        connection.failures = 0
        headers: Headers = [(b"Authentication-Info", verdict.info.encode("utf-8"))]
        self._admit(connection, request, verdict.identity.name, headers, now, out)

    def answer(self, number: int, answer: object, now: float) -> list[RelayAction]:
        """Answer the question of an :class:`~wsproto_sip.msrp.relay.config.AskQuestion`.

        Args:
            number: Its number; an unknown or expired one is ignored.
            answer: The answer to the question, or an
                :class:`~wsproto_sip.auth.outcome.Unavailable`.
            now: The time in seconds.

        Raises:
            TypeError: The answer has the wrong type. The question still waits for its answer.
        """
        if answer is not None and not isinstance(answer, Account | Unavailable):
            raise TypeError(f"the answer must be an Account or None, not {type(answer).__name__}")
        out: list[RelayAction] = []
        login = self._logins.answered(number)
        if login is not None and login.question is not None:
            verdict = login.question.conclude(answer)
            if login.connection.alive:
                self._log_in(login.connection, login.request, verdict, now, out)
        while (login := self._logins.turn()) is not None:
            connection, request = login.connection, login.request
            self._log_in(
                connection, request, self._check(connection, request, now), now, out, login
            )
        return out

    def _admit(
        self,
        connection: RelayConnection,
        request: MsrpRequest,
        user: str,
        headers: Headers,
        now: float,
        out: list[RelayAction],
    ) -> None:
        """Create the session that an AUTH requests."""
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
        refreshed = session is not None
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
        self.journal.authorize(user, connection.id, expires, refreshed=refreshed)
        connection.malformed = 0
        headers.append((b"Use-Path", session.uri.raw))
        headers.append((b"Expires", b"%d" % expires))
        self._answer(connection, request, 200, out, headers)

    def _check(
        self, connection: RelayConnection, request: MsrpRequest, now: float
    ) -> Proven | Denied | Question[Proven | Denied]:
        """Check the credentials of an AUTH."""
        authorization = request.header(b"authorization")
        if self.authenticator is None or authorization is None:
            return Denied("no credentials")
        return self.authenticator.check(
            authorization,
            request.to_path[-1],
            now,
            address=connection.address,
            connection=("msrp", connection.id),
            proven=connection.proven,
        )

    def _refuse_login(
        self,
        connection: RelayConnection,
        request: MsrpRequest,
        denied: Denied,
        now: float,
        out: list[RelayAction],
    ) -> None:
        """Refuse credentials, and ask for better ones."""
        if self.authenticator is None:
            self._answer(connection, request, 403, out)
            return
        if denied.unavailable:
            # Clients treat it as silence (RFC 4975 §10.4), and RFC 4976 has no Retry-After.
            comment = b"Not now; wait %d s" % denied.retry_after
            self._answer(connection, request, 408, out, comment=comment)
            return
        if request.header(b"authorization") is not None:
            # A stale nonce is not a guess at a password.
            connection.failures += not denied.stale
        if denied.retry_after:
            comment = b"Too many failures; wait %d s" % denied.retry_after
            self._answer(connection, request, 403, out, comment=comment)
        else:
            challenges = self.authenticator.challenges(now, stale=denied.stale)
            headers = [(b"WWW-Authenticate", str(item).encode("utf-8")) for item in challenges]
            self._answer(connection, request, 401, out, headers)
        if connection.failures >= self._limits.max_authentication_failures:
            self._drop(connection, "too many refused credentials", out)

    # -- forwarding ------------------------------------------------------------------------------

    def _route(self, connection: RelayConnection, request: MsrpRequest, now: float) -> Route | int:
        """Decide where a request goes (RFC 4976 §6.3), or the status to answer it with.

        A request either comes from the client that owns the session, and goes anywhere we know; or
        it comes from elsewhere and goes to that client. Each hop can only speak for itself: the
        first URI of From-Path is the one we know it by. Known paths are forwarded as we know them:
        a sender may not choose the parts that comparison ignores.

        A route is used again for the same paths; see :class:`Route` for how long.
        """
        path = request.to_path[1:]
        session = self._sessions.find(request.to_path[0], now)
        if session is None:
            return 481
        passed: MsrpPath = (session.uri,)
        if session.connection is connection:
            if request.from_path != session.path:
                return 403
            if not path:
                return self._for_us(request)
            other = self._sessions.find(path[0], now)
            if other is not None:
                if path[1:] != other.path:
                    return 403
                passed = (other.uri, session.uri)
                return Route(
                    other.connection, other.path, session.path, passed, request, session, other
                )
            if path[0].authority in self._own:
                return 481
            node = self._nodes.get(path[0].authority[0])
            if node is not None:
                if node.gone:
                    return 481
                return Route(node, path, session.path, passed, request, session)
            peer = self._peers_by_authority.get(path[0].authority)
            if peer is None:
                return 403
            return Route(peer, path, session.path, passed, request, session)
        if connection.peer is None and not connection.from_node:
            return 506
        if path != session.path or not self._may_speak_for(connection, request.from_path[0]):
            return 403
        return Route(session.connection, session.path, request.from_path, passed, request, session)

    def _may_speak_for(self, connection: RelayConnection, uri: MsrpUri) -> bool:
        """Return whether a URI is that of the peer or node of a connection."""
        peer = connection.peer
        if peer is None or isinstance(peer, Node):
            # A node may be new here, and nodes trust one another.
            return uri.authority[0] != self._own_host
        return uri.authority == peer.authority

    @staticmethod
    def _for_us(request: MsrpRequest) -> int:
        """Return the status to answer a request with that ends here.

        A SEND without a body is a keep-alive (RFC 7977 §6); the relay itself does not receive
        messages.
        """
        if request.method == b"SEND":
            return 200 if request.body is None else 415
        return 501

    def _forward(
        self,
        connection: RelayConnection,
        request: MsrpRequest,
        fields: dict[bytes, bytes],
        rest: bytes,
        paths: bytes | None,
        now: float,
        out: list[RelayAction],
    ) -> int | None:
        """Find the route of a request, and forward it.

        Args:
            connection: The connection it arrived on.
            request: The request.
            fields: Its header fields that are defined, by name in lower case.
            rest: Its bytes between the paths and the end-line.
            paths: The lines of its paths to remember the route by; ``None`` not to remember it.
            now: The time in seconds.
            out: The list to append actions to.

        Returns:
            The status to answer with at once; ``None`` if the other end answers.
        """
        route = self._route(connection, request, now)
        if isinstance(route, int):
            return route
        if paths is not None:
            connection.remember(paths, route)
        method = request.method
        message_id, held = fields.get(b"message-id"), fields.get(b"byte-range")
        if method == b"SEND" and message_id is None:
            return 400
        size = len(request.body or b"")
        # The range in a REPORT describes another chunk.
        if held is not None and method != b"REPORT" and not is_exact_range(held, size):
            rest = with_open_range(rest)
        wanted = FailureReport.of(fields.get(b"failure-report"))
        flag = request.continuation.value
        sent = (request.transaction_id, message_id, held, wanted, rest, size, flag)
        status = self._launch(connection, route, method, sent, now, out)
        # RFC 4976 §6.3.1: the previous hop of a SEND does not wait for the next one.
        return status if method == b"SEND" or status != 200 else None

    def _pass_on(
        self, connection: RelayConnection, route: Route, data: bytes, sent: Sent, now: float
    ) -> list[RelayAction]:
        """Forward an ordinary SEND on a known route, and answer it."""
        out: list[RelayAction] = []
        status = self._launch(connection, route, b"SEND", sent, now, out)
        wanted = sent[3]
        if status == 200:
            if wanted is FailureReport.YES:
                out.insert(0, SendChunk(connection.id, accept_send(sent[0], route.accepting)))
        else:
            request = parse_chunk(data, limits=self._limits)
            assert isinstance(request, MsrpRequest)  # noqa: S101  # for the type checker
            self._answer(connection, request, status, out, wanted=wanted)
        return out

    def _launch(
        self,
        connection: RelayConnection,
        route: Route,
        method: bytes,
        sent: Sent,
        now: float,
        out: list[RelayAction],
    ) -> int:
        """Forward a request on its route, if there is room; return the status to answer with."""
        origin_tid, message_id, held, wanted, rest, size, flag = sent
        tid = new_transaction_id(rest, entropy=self._entropy)
        data = forward_chunk(method, tid, route.paths, rest, flag)
        # Our transaction id may be longer than the sender's.
        if len(data) > self._limits.max_chunk_size:
            return 413
        if method != b"REPORT" and not (wanted is FailureReport.NO and method == b"SEND"):
            claim = self._shares.claim(connection.party)
            if isinstance(claim, Bound):
                return 413
            transaction = Transaction(
                tid,
                route.hop,
                now + self._config.transaction_timeout,
                connection,
                origin_tid,
                method,
                route.from_path,
                route.passed,
                route.accepted,
                claim,
                wanted,
                message_id,
                held,
                size,
                flag == b"$",
            )
            self._transactions[transaction] = None
            route.hop.pending[tid] = transaction
        self.journal.relay(method, len(data), connection.id)
        self._send(route.hop, data, out)
        return 200

    def _time_out(self, transaction: Transaction, out: list[RelayAction]) -> None:
        """Give up on a response."""
        self._forget_transaction(transaction)
        if transaction.failure is not None:
            self._report(transaction, transaction.failure, None, out)
        # A sender that asked for partial failure reports does not want time-outs (RFC 4975 §7.1.1).
        elif transaction.failure_report is FailureReport.YES:
            self._report(transaction, 408, None, out)

    def _forget_transaction(self, transaction: Transaction) -> None:
        del self._transactions[transaction]
        transaction.hop.pending.pop(transaction.tid, None)
        transaction.claim.release()

    def _on_response(
        self, connection: RelayConnection, response: MsrpResponse, out: list[RelayAction]
    ) -> None:
        """Drop a response that is not for a request of ours (RFC 4976 §6.3.3), else act on it."""
        transaction = connection.pending.get(response.transaction_id)
        if transaction is None:
            return
        send = transaction.method == b"SEND"
        back = transaction.passed + transaction.from_path
        if response.to_path != (back[:1] if send else back):
            return
        self._forget_transaction(transaction)
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
        """Send a chunk back to the origin of a request."""
        origin = transaction.origin
        hop: Hop = origin if origin.alive else origin.hop
        if origin.from_node and not origin.alive:
            # It names itself in its requests.
            node = self._nodes.get(transaction.from_path[0].authority[0])
            if node is not None and not node.gone:
                hop = node
        # A peer may have another connection by now, a client cannot.
        self._send(hop, data, out, outcome=True)

    def _report(
        self,
        transaction: Transaction,
        status: int,
        comment: bytes | None,
        out: list[RelayAction],
    ) -> None:
        """Report to the sender of a SEND that it failed further on (RFC 4976 §6.3.1)."""
        if transaction.method != b"SEND" or transaction.message_id is None:
            return
        self.journal.fail(status, transaction.origin.id)
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

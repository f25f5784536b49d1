"""Sending requests on and bringing responses back: the stateful part of a proxy (RFC 3261 §16).

Theory of operation: every request but an ACK becomes a ``Transaction`` with a branch
for each target. A response is matched by the branch in our Via and the
connection it came on, and goes back where the transaction's request came from; its own words
choose neither. Each call ends in ``_settle``: when all branches have failed, the next group of
targets is tried, or the best response is sent.

Towards WebSocket clients the timers are those of a reliable transport; towards an upstream over
UDP, requests and responses are sent again until they are answered (RFC 3261 §17). A request that
is too large for a datagram goes over TCP to such an upstream, and as a datagram after all where no
connection can be had (§18.1.1).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from .edge_config import (
    DATAGRAMS,
    STREAM,
    EdgeAction,
    EdgeConfig,
    SendToConnection,
    SendToUpstream,
)
from .edge_routing import Connections, EdgeRouter
from .errors import SipParseError, SipValueError
from .forking import Target, best_response
from .message import SipMessage, SipRequest, SipResponse
from .outbound import Flow
from .routing import Rejection, branch_for, pop_via, push_via
from .transactions import Branch, Cancel, Key, Resend, State, Transaction, TransactionTable

__all__ = ["Forwarder", "Outbox"]

_MAX_FORWARDS = "70"
#: Where the loop mark of a branch parameter begins, from its end; see ``branch_for``.
_MARK = -17
#: Octets that Via and Record-Route of ours may need.
_GROWTH = 2 * 1024


class Outbox:
    """Collects what is to be sent.

    Args:
        config: The edge's configuration.
        connections: Its connections.
    """

    def __init__(self, config: EdgeConfig, connections: Connections) -> None:
        self._connections = connections
        self._upstream = config.upstream
        self._actions: list[EdgeAction] = []
        #: On which link the upstream has sent what is being handled.
        self.link = DATAGRAMS

    def take(self) -> list[EdgeAction]:
        """Everything since the last time, in its order."""
        actions, self._actions = self._actions, []
        return actions

    def add(self, action: EdgeAction) -> None:
        """Add anything."""
        self._actions.append(action)

    def reaches(self, flow: Flow | None) -> bool:
        """Whether a flow exists still; the upstream always does."""
        return flow is None or self._connections.is_alive(flow)

    def send(self, flow: Flow | None, message: SipMessage) -> None:
        """Send a message on a flow, which may have ended, or answer the upstream."""
        if flow is None:
            self.send_upstream(message.to_bytes(), self.link)
        elif self.reaches(flow):
            self._actions.append(SendToConnection(flow.connection, message.to_websocket()))

    def send_upstream(self, data: bytes, link: int) -> None:
        """Send octets to the upstream; without one there is nobody to send to."""
        if self._upstream is not None:
            self._actions.append(SendToUpstream(self._upstream.name, data, link))


class Forwarder:
    """The transactions of an edge.

    Args:
        config: The edge's configuration.
        router: Writes what belongs on a request.
        outbox: Takes what is to be sent.
        key: A secret for branch parameters.
    """

    def __init__(self, config: EdgeConfig, router: EdgeRouter, outbox: Outbox, key: bytes) -> None:
        self._config = config
        self._router = router
        self._outbox = outbox
        self._key = key
        self._table = TransactionTable()
        self._started = 0
        #: Until when no connection to an upstream over UDP is tried again.
        self._no_stream_until = -inf

    def __len__(self) -> int:
        """How many transactions there are."""
        return len(self._table)

    # -- requests ----------------------------------------------------------------------------------

    def repeated(self, key: Key) -> bool:
        """Whether a request is there already; then its last response is sent once more."""
        transaction = self._table.find(key)
        if transaction is None:
            return False
        if transaction.last is not None and transaction.origin is None:
            self._outbox.send_upstream(transaction.last, self._outbox.link)
        return True

    def base_for(self, request: SipRequest, origin: Flow | None) -> str:
        """What the branches of a request are named by; asked for before anything is changed on it.

        Raises:
            SipParseError: 400, for a bad Via, From, Call-ID or CSeq.
        """
        self._started += 1
        return branch_for(request, self._key, f"{self._started} {origin}")

    def start(
        self,
        request: SipRequest,
        key: Key,
        base: str,
        groups: list[list[Target]],
        now: float,
    ) -> Rejection | None:
        """Send a request on.

        Args:
            request: As it goes on, but for what differs between branches.
            key: Its name.
            base: From :meth:`base_for`.
            groups: Where it goes.
            now: The time, in seconds.

        Returns:
            ``None``, or the refusal: 503 where too much is under way, 513 where the message would
            become too large for whoever has the same bound.

        Raises:
            SipParseError: It cannot be sent on as it is.
            SipValueError: It cannot be written.
        """
        config, table = self._config, self._table
        size = len(request.to_bytes())
        limit = config.limits.max_message_size
        if limit is not None and size > limit - _GROWTH:
            return Rejection(513, "no room for what is written on the way")
        if (
            len(table) >= config.max_transactions
            or table.octets + size > config.max_pending_octets
            or (key[0] is not None and self._has_its_share(key[0], size))
        ):
            return Rejection(503, "too much under way", (("Retry-After", "5"),))
        link = self._outbox.link if key[0] is None else None
        transaction = Transaction(key, request, base, size, list(groups), link)
        table.add(transaction)
        try:
            if transaction.is_invite:
                self._respond(transaction, request.make_response(100))
            self._settle(transaction, now)
        except (SipParseError, SipValueError):
            # Nothing of it is to be waited for.
            table.remove(transaction)
            raise
        return None

    def _has_its_share(self, origin: Flow, size: int) -> bool:
        """Whether a connection has all that it may have under way; the upstream has no share."""
        config, table = self._config, self._table
        return (
            table.count_of(origin) >= config.max_transactions_per_connection
            or table.octets_of(origin) + size > config.max_pending_octets_per_connection
        )

    def _launch(self, transaction: Transaction, target: Target, now: float) -> None:
        """Send a copy of a request to a target, or on the first other flow that exists still."""
        config, request = self._config, transaction.request
        while not self._outbox.reaches(target.flow):
            if not target.alternatives:
                transaction.finals.append(request.make_response(self._gone(transaction)))
                return
            target = replace(target.alternatives[0], alternatives=target.alternatives[1:])
        base = transaction.base
        # The loop mark stays at the end, where is_loop looks for it.
        name = f"{base[:_MARK]}-{len(transaction.branches)}{base[_MARK:]}"
        sent = self._router.prepare(request, target, transaction.origin, name)
        branch = Branch(name, target, sent, transaction, now + config.timeout)
        self._table.add_branch(branch)
        if target.flow is None:
            self._send_up(branch, now)
        else:
            self._outbox.send(target.flow, sent)
        if sent.body:
            # Nothing that is made of it later has its body.
            sent.set_body(b"")

    def _send_up(self, branch: Branch, now: float) -> None:
        """Send a request to the upstream the first time."""
        sent = branch.request
        data = sent.to_bytes()
        if self._is_large(data, now):
            branch.datagram = data
            sent.replace_first("Via", self._router.via(None, branch.id, stream=True))
            branch.link = STREAM
            self._outbox.send_upstream(sent.to_bytes(), STREAM)
        else:
            self._send_first(branch, data, now)

    def _send_first(self, branch: Branch, data: bytes, now: float) -> None:
        config = self._config
        branch.link = DATAGRAMS if config.upstream is None else config.upstream.link
        self._outbox.send_upstream(data, branch.link)
        if branch.lossy:
            longest = inf if branch.transaction.is_invite else config.t2
            branch.resend = Resend(data, now + config.t1, config.t1, longest)

    def _is_large(self, data: bytes, now: float) -> bool:
        """Whether something is to go over TCP for its size alone (RFC 3261 §18.1.1)."""
        upstream = self._config.upstream
        return (
            upstream is not None
            and not upstream.reliable
            and upstream.datagram_limit is not None
            and len(data) > upstream.datagram_limit
            and now >= self._no_stream_until
        )

    def cancel(self, key: Key, reason: str | None, now: float) -> bool:
        """Give up an INVITE (RFC 3261 §16.10).

        Args:
            key: Its name.
            reason: The CANCEL's Reason field, to go on with it.
            now: The time, in seconds.

        Returns:
            Whether there is one.
        """
        transaction = self._table.find(key)
        if transaction is None:
            return False
        self._give_up(transaction, reason, now)
        self._settle(transaction, now)
        return True

    def _give_up(self, transaction: Transaction, reason: str | None, now: float) -> None:
        transaction.cancelled = True
        self._cancel_pending(transaction, reason, now)

    def _cancel_pending(self, transaction: Transaction, reason: str | None, now: float) -> None:
        """Try nobody else, and cancel who has not answered; that is only for INVITE (§9.1)."""
        transaction.groups.clear()
        if not transaction.is_invite:
            return
        for branch in transaction.pending:
            if branch.cancel is Cancel.NO:
                if reason is not None:
                    branch.request.replace_header("Reason", reason)
                branch.cancel = Cancel.WANTED
                if branch.state is State.PROCEEDING:
                    self._send_cancel(branch, now)

    def _send_cancel(self, branch: Branch, now: float) -> None:
        request = self._follow_up("CANCEL", branch, branch.request)
        if reason := branch.request.get("reason"):
            request.add_header("Reason", reason)
        branch.cancel = Cancel.SENT
        branch.deadline = now + self._config.timeout
        self._follow(branch, request)
        if branch.lossy:
            config = self._config
            branch.resend = Resend(request.to_bytes(), now + config.t1, config.t1, config.t2)

    def _follow(self, branch: Branch, request: SipRequest) -> None:
        """Send a CANCEL or an ACK the way its request went."""
        if branch.link is None:
            self._outbox.send(branch.flow, request)
        else:
            self._outbox.send_upstream(request.to_bytes(), branch.link)

    @staticmethod
    def _follow_up(method: str, branch: Branch, to: SipMessage) -> SipRequest:
        """The CANCEL or ACK that goes with a branch (RFC 3261 §9.1, §17.1.1.3)."""
        sent = branch.request
        fields: list[tuple[str, str]] = [("Via", str(sent.via))]
        fields += [("Route", route) for route in sent.get_all("route")]
        fields += [
            ("Max-Forwards", _MAX_FORWARDS),
            ("From", sent.get("from") or ""),
            ("To", to.get("to") or ""),
            ("Call-ID", sent.call_id),
            ("CSeq", f"{sent.cseq.number} {method}"),
        ]
        return SipRequest(method, sent.uri, fields)

    def absorbs_ack(self, key: Key, now: float) -> bool:
        """Whether an ACK ends here, since it is for a refusal that was sent (RFC 3261 §17.2.1)."""
        transaction = self._table.find(key)
        if transaction is None or transaction.state is not State.COMPLETED:
            return False
        transaction.resend = None
        # What is still sent again by a lossy network is absorbed for a while: timer I.
        linger = self._config.t4 if transaction.lossy else 0.0
        transaction.deadline = min(transaction.deadline, now + linger)
        self._settle(transaction, now)
        return True

    def forward_ack(
        self, ack: SipRequest, flow: Flow | None, origin: Flow | None, now: float
    ) -> None:
        """Send an ACK to a 2xx on; it has no transaction and no response.

        Raises:
            SipParseError: It cannot be sent on as it is.
        """
        branch = branch_for(ack, self._key, f"ACK {origin}")
        push_via(ack, self._router.via(flow, branch))
        upstream = self._config.upstream
        if flow is not None or upstream is None:
            self._outbox.send(flow, ack)
        elif self._is_large(ack.to_bytes(), now):
            ack.replace_first("Via", self._router.via(None, branch, stream=True))
            self._outbox.send_upstream(ack.to_bytes(), STREAM)
        else:
            self._outbox.send_upstream(ack.to_bytes(), upstream.link)

    # -- responses ---------------------------------------------------------------------------------

    def response(self, response: SipResponse, origin: Flow | None, now: float) -> bool:
        """Bring a response back.

        Args:
            response: As it came.
            origin: Where it came from.
            now: The time, in seconds.

        Returns:
            Whether it belongs to a request that was sent there; it is dropped otherwise.

        Raises:
            SipParseError: It cannot be read.
        """
        method = response.cseq.method
        if method == "CANCEL":
            return self._cancelled(response, origin, now)
        via = pop_via(response, self._router.is_own_via)
        branch = None if via is None else self._table.branch(via.branch or "", origin)
        if branch is None or method != branch.transaction.request.method:
            return False
        transaction = branch.transaction
        # The way back is what we know of it, whatever became of it on the other side.
        response.remove_header("via")
        for value in reversed(transaction.request.get_all("via")):
            response.insert_header("Via", value)
        if response.status < 200:
            self._provisional(branch, response, now)
        elif response.status < 300:
            self._success(branch, response, now)
        else:
            self._failure(branch, response, now)
        self._settle(transaction, now)
        return True

    def _cancelled(self, response: SipResponse, origin: Flow | None, now: float) -> bool:
        """The response to a CANCEL of ours, on which there is no Via but ours."""
        via = response.via
        branch = self._table.branch(via.branch or "", origin)
        if branch is None or not self._router.is_own_via(via) or branch.cancel is not Cancel.SENT:
            return False
        branch.resend = None
        self._settle(branch.transaction, now)
        return True

    def _provisional(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        if branch.done:
            return
        branch.state = State.PROCEEDING
        if branch.cancel is Cancel.WANTED:
            self._send_cancel(branch, now)
        elif branch.cancel is Cancel.NO:
            if not transaction.is_invite:
                if branch.resend is not None:
                    branch.resend.interval = self._config.t2
            else:
                branch.resend = None
                # Timer C in the place of timer B, and begun anew by every word (§16.7 step 2).
                branch.deadline = now + self._config.ring_timeout
        if response.status > 100 and transaction.state is State.PROCEEDING:
            self._router.alias_contact(response, branch.flow)
            self._respond(transaction, response)

    def _success(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        first = transaction.state is State.PROCEEDING
        if not (first or transaction.is_invite):
            return
        branch.state = State.ACCEPTED
        branch.resend = None
        self._router.alias_contact(response, branch.flow)
        self._respond(transaction, response)
        if first:
            self._finish(transaction, State.ACCEPTED, now)
            reason = 'SIP;cause=200;text="Call completed elsewhere"'
            self._cancel_pending(transaction, reason, now)

    def _failure(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        if transaction.is_invite and branch.state is not State.ACCEPTED:
            self._follow(branch, self._follow_up("ACK", branch, response))
        if branch.done:
            return
        self._end(branch)
        if response.status == 430 and self._try_other_flow(branch, now):
            return
        transaction.finals.append(response)
        if response.status >= 600:
            self._cancel_pending(transaction, None, now)

    @staticmethod
    def _gone(transaction: Transaction) -> int:
        """The status for a connection that has ended.

        For a proxy before us the flow has failed (RFC 5626 §5.3); a caller needs to know only that
        nobody is there.
        """
        return 430 if transaction.origin is None else 480

    @staticmethod
    def _end(branch: Branch) -> None:
        branch.state = State.COMPLETED
        branch.resend = None

    def _try_other_flow(self, branch: Branch, now: float) -> bool:
        """Send the request on another flow of the same client (RFC 5626 §7)."""
        transaction = branch.transaction
        others = branch.target.alternatives
        if not others or branch.cancel is not Cancel.NO or transaction.cancelled:
            return False
        self._launch(transaction, replace(others[0], alternatives=others[1:]), now)
        return True

    def _fail(self, branch: Branch, status: int) -> None:
        """End a branch that was not answered, with a response of our own in its place."""
        self._end(branch)
        transaction = branch.transaction
        # RFC 4320 §4.2: nobody is helped by a 408 to anything but an INVITE.
        if status != 408 or transaction.is_invite:
            transaction.finals.append(transaction.request.make_response(status))

    def _respond(self, transaction: Transaction, response: SipResponse) -> None:
        if transaction.link is None:
            self._outbox.send(transaction.origin, response)
        else:
            transaction.last = response.to_bytes()
            self._outbox.send_upstream(transaction.last, transaction.link)

    def _finish(self, transaction: Transaction, state: State, now: float) -> None:
        """A final response was sent: from here on only its repetitions matter."""
        config = self._config
        transaction.state = state
        lossy = transaction.lossy
        linger = config.timeout if transaction.is_invite or lossy else 0.0
        transaction.deadline = now + linger
        if lossy and transaction.is_invite and state is State.COMPLETED and transaction.last:
            transaction.resend = Resend(transaction.last, now + config.t1, config.t1, config.t2)

    def _settle(self, transaction: Transaction, now: float) -> None:
        """Do what follows from the state of a transaction, and arm its timer."""
        while transaction.state is State.PROCEEDING and not transaction.pending:
            if transaction.groups:
                for target in transaction.groups.pop(0):
                    self._launch(transaction, target, now)
                if transaction.request.body and not self._may_go_again(transaction):
                    transaction.request.set_body(b"")
            elif transaction.finals:
                best = best_response(transaction.finals)
                if best.status == 503:
                    # It is the next element that has no capacity, not this one (§16.7 step 6).
                    best = transaction.request.make_response(500)
                self._respond(transaction, best)
                self._finish(transaction, State.COMPLETED, now)
            else:
                # Nobody answered something else than an INVITE: nor do we.
                self._table.remove(transaction)
                return
        if transaction.deadline <= now:
            self._table.remove(transaction)
        else:
            self._table.arm(transaction)

    @staticmethod
    def _may_go_again(transaction: Transaction) -> bool:
        return bool(transaction.groups) or any(
            branch.target.alternatives for branch in transaction.branches
        )

    # -- connections and time ----------------------------------------------------------------------

    def flow_lost(self, flow: Flow, now: float) -> None:
        """End what was under way on a connection that has ended."""
        for transaction in self._table.came_from(flow):
            self._give_up(transaction, None, now)
            self._settle(transaction, now)
        for transaction in self._table.went_to(flow):
            for branch in transaction.pending:
                if branch.flow == flow:
                    self._end(branch)
                    if not self._try_other_flow(branch, now):
                        self._fail(branch, self._gone(transaction))
            self._settle(transaction, now)

    def stream_failed(self, now: float) -> None:
        """No connection to the upstream can be had, and nothing that was to be sent on it went."""
        self._no_stream_until = now + self._config.timeout
        for transaction in self._table.went_to(None):
            for branch in transaction.pending:
                if branch.link == STREAM and branch.state is State.CALLING:
                    self._not_sent(branch, now)
            self._settle(transaction, now)

    def _not_sent(self, branch: Branch, now: float) -> None:
        if branch.transaction.cancelled:
            self._fail(branch, 487)
        elif branch.datagram is None:
            # RFC 3261 §16.9: as if the upstream had said so.
            self._fail(branch, 503)
        else:
            branch.request.replace_first("Via", self._router.via(None, branch.id))
            self._send_first(branch, branch.datagram, now)
            branch.datagram = None

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has something to do; ``None`` for never."""
        return self._table.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Do what is due; early calls do nothing."""
        for transaction in self._table.due(now):
            if transaction.resend is not None and transaction.resend.at <= now:
                self._outbox.send_upstream(transaction.resend.again(now), DATAGRAMS)
            for branch in transaction.pending:
                if branch.deadline <= now:
                    self._timed_out(branch, now)
                elif branch.resend is not None and branch.resend.at <= now:
                    self._outbox.send_upstream(branch.resend.again(now), DATAGRAMS)
            self._settle(transaction, now)

    def _timed_out(self, branch: Branch, now: float) -> None:
        transaction = branch.transaction
        ringing = transaction.is_invite and branch.state is State.PROCEEDING
        if ringing and branch.cancel is Cancel.NO:
            # It has rung for long enough (§16.8).
            self._send_cancel(branch, now)
        else:
            self._fail(branch, 487 if transaction.cancelled else 408)

"""Sending requests on and bringing responses back: the stateful part of a proxy (RFC 3261 §16).

Theory of operation: every request but an ACK becomes a ``Transaction`` with one branch per target.
A response is matched by the branch in our Via and the connection it arrived on, and is sent to
where the transaction's request came from; the contents of the response choose neither. Each call
ends in ``_follow_state``: when all branches have failed, the next group of targets is tried, or the
best response is sent.

An upstream that refuses a request with 503, cannot be reached, or does not respond for a while has
failed, and another one gets the request, in a branch of its own (RFC 3263 §4.3, RFC 3261 §16.9),
unless the route leads to that particular upstream. Only one such branch is active at a time. Late
responses of the first one still count, since it may have started ringing: its 2xx goes to the
caller, its 1xx is answered with CANCEL, and its refusal is kept in case the others do no better.

Towards WebSocket clients the timers are those of a reliable transport. Towards an upstream over
UDP, requests and responses are retransmitted until they are answered (RFC 3261 §17). A request that
is too large for a datagram is sent to such an upstream over TCP, and as a datagram if no connection
can be made (§18.1.1).
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf

from ...server.shares import Bound, Claim, Party, Shares
from ..message.errors import SipParseError, SipValueError
from ..message.message import SipMessage, SipRequest, SipResponse
from ..rules.outbound import Flow
from ..rules.routing import (
    Rejection,
    branch_for,
    max_breadth,
    pop_via,
    push_via,
    restore_response,
    simplify_vias,
)
from .actions import SendToUpstream
from .callees import CalleeClaim
from .config import STREAM, EdgeConfig, Upstream
from .forking import Target, best_response
from .journal import EdgeJournal
from .outbox import Outbox
from .probing import Prober
from .router import EdgeRouter
from .transactions import Branch, Cancel, Key, Resend, State, Step, Transaction, TransactionTable
from .upstreams import Upstreams

__all__ = ["Forwarder"]

_MAX_FORWARDS = "70"
#: The start of the loop mark in a branch parameter, from its end; see ``branch_for``.
_MARK = -17
#: The longest Retry-After of an upstream that is respected, in seconds.
_LONGEST_PAUSE = 300
_SECONDS = re.compile(r"\s*([0-9]{1,9})")
#: The Retry-After for requests that could not be sent to the upstream, in seconds.
_RETRY_AFTER = "10"
#: Provisional responses and 2xx of one branch that are sent on. A callee that rings for three
#: minutes sends only a few, and repeats a 2xx 11 times (RFC 3261 §13.3.1); more would flood the
#: connection of the caller.
_MAX_RESPONSES = 200
#: Bytes that our Via and Record-Route may need.
_GROWTH = 2 * 1024


class Forwarder:
    """The transactions of an edge.

    Args:
        config: The edge's configuration.
        router: Writes our header fields.
        outbox: Takes messages to be sent.
        key: A secret for branch parameters.
        upstreams: The edge's upstreams.
        prober: Monitors them.

    Attributes:
        transactions: The shares in transactions.
        pending_bytes: The shares in the bytes of their requests.
        journal: The journal of events.
    """

    def __init__(
        self,
        config: EdgeConfig,
        router: EdgeRouter,
        outbox: Outbox,
        key: bytes,
        upstreams: Upstreams,
        prober: Prober,
    ) -> None:
        self._config = config
        self._router = router
        self._outbox = outbox
        self._key = key
        self._upstreams = upstreams
        self._prober = prober
        self._table = TransactionTable()
        self.transactions = Shares(config.transactions)
        self.pending_bytes = Shares(config.pending_bytes)
        self.journal = EdgeJournal()
        self._started = 0
        #: The time until which no connection to an upstream over UDP is retried, by name.
        self._no_stream_until: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of transactions."""
        return len(self._table)

    def page(self, offset: int, limit: int) -> list[Transaction]:
        """Return some of the transactions, the oldest first."""
        return self._table.page(offset, limit)

    def is_in_call(self, flow: Flow) -> bool:
        """Return whether a connection has an answered call, or one that is being set up."""
        pending = (*self._table.came_from(flow), *self._table.went_to(flow))
        return self.journal.answered.on(flow) > 0 or any(
            transaction.is_invite and transaction.state is State.PROCEEDING
            for transaction in pending
        )

    # -- requests ----------------------------------------------------------------------------------

    def repeated(self, key: Key) -> bool:
        """Return whether a request is a retransmission, after sending its last response again."""
        transaction = self._table.find(key)
        if transaction is None:
            return False
        if transaction.last is not None:
            outbox = self._outbox
            last = replace(transaction.last, upstream=outbox.upstream, link=outbox.link)
            outbox.add(last)
        return True

    def base_for(self, request: SipRequest, origin: Flow | None) -> str:
        """Return the base of a request's branch parameters; call this before editing it.

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
        party: Party,
        now: float,
        *,
        waiting: tuple[CalleeClaim, ...] = (),
        trying: bool = False,
    ) -> Rejection | None:
        """Send a request on.

        Args:
            request: The request as it goes on, except for the differences between branches.
            key: The name of its transaction.
            base: From :meth:`base_for`.
            groups: Its targets.
            party: The party whose share it counts towards.
            now: The time, in seconds.
            waiting: Claims to release with the final response, if it is sent on.
            trying: Whether its sender has received 100 already.

        Returns:
            ``None``, or the refusal: 440 for a Max-Breadth of 0, 483 if the response could not be
            read because of our Via, 503 if too much is pending, 513 if our header fields would push
            the message over the next hop's limit.

        Raises:
            SipParseError: It cannot be sent on because of bad syntax.
            SipValueError: It cannot be written.
        """
        table = self._table
        size = len(request.to_bytes())
        limit = self._config.limits.max_message_size
        if limit is not None and size > limit - _GROWTH:
            return Rejection(513, "no room for the header fields written on the way")
        hops = self._config.limits.max_vias
        if hops is not None and len(request.vias) >= hops:
            return Rejection(483, f"no room for a Via after {hops} hops")
        breadth = max_breadth(request)
        if not breadth:
            return Rejection(440, "Max-Breadth leaves no branch to this request")
        claims = self.claim(party, size)
        if isinstance(claims, Bound):
            detail = f"too many pending requests (bound: {claims.value})"
            return Rejection(503, detail, (("Retry-After", "5"),))
        transaction = Transaction(key, request, base, claims, waiting, breadth, list(groups))
        transaction.expires = now + self._config.timeout
        if key[0] is None:
            transaction.link, transaction.upstream = self._outbox.link, self._outbox.upstream
        table.add(transaction)
        try:
            if transaction.is_invite and not trying:
                self._respond(transaction, request.make_response(100))
            self.journal.started(transaction, now)
            self._follow_state(transaction, now)
        except (SipParseError, SipValueError):
            # No branch of it can be waited for.
            table.remove(transaction)
            raise
        return None

    def claim(self, party: Party, size: int) -> tuple[Claim, Claim] | Bound:
        """Claim the cost of a request from a share, completely or not at all.

        Args:
            party: The party whose share is used.
            size: The bytes of the request.
        """
        one = self.transactions.claim(party)
        if isinstance(one, Bound):
            return one
        octets = self.pending_bytes.claim(party, size)
        if isinstance(octets, Bound):
            one.release()
            return octets
        return one, octets

    def _launch_group(self, transaction: Transaction, now: float) -> None:
        """Send a request to the next group of targets, as many at a time as its breadth allows.

        No branch is pending then, so the whole breadth is available (RFC 5393 §5.3.3.1).
        """
        groups, breadth = transaction.groups, transaction.breadth
        targets = groups.pop(0)
        if len(targets) > breadth:
            groups.insert(0, targets[breadth:])
            targets = targets[:breadth]
        each, more = divmod(breadth, len(targets))
        for index, target in enumerate(targets):
            self._launch(transaction, target, each + (index < more), now)

    def _launch(self, transaction: Transaction, target: Target, breadth: int, now: float) -> None:
        """Send a copy of a request to a target, or on the first other flow that still exists."""
        request = transaction.request
        if target.is_upstream:
            upstream = self._router.upstream_for(request, transaction.origin, now)
            if upstream is None:
                # No upstream is reached over TLS (RFC 5630 §5.3).
                warning = f'380 {self._config.host} "SIPS Not Allowed"'
                refusal = request.make_response(480, headers=[("Warning", warning)])
                transaction.finals.append(refusal)
            else:
                self._launch_up(transaction, target, upstream, breadth, now)
            return
        while (node := self._node_of(target)) is None and not (
            target.flow is not None and self._outbox.reaches(target.flow)
        ):
            if not target.alternatives:
                transaction.finals.append(request.make_response(self._gone(transaction)))
                return
            target = replace(target.alternatives[0], alternatives=target.alternatives[1:])
        if node is not None:
            self._launch_up(transaction, target, node, breadth, now)
            return
        branch = self._branch(transaction, target, breadth, now, transaction.upstream)
        self._outbox.send(target.flow, branch.request)
        branch.request.set_body(b"")

    def _node_of(self, target: Target) -> Upstream | None:
        """Return the other node that a target is at, if it runs."""
        return None if target.node is None else self._upstreams.get(target.node)

    def _branch(
        self, transaction: Transaction, target: Target, breadth: int, now: float, upstream: str
    ) -> Branch:
        """Make the copy of a request for a target; its body is dropped later."""
        base = transaction.base
        # The loop mark stays at the end, where is_loop looks for it.
        name = f"{base[:_MARK]}-{len(transaction.branches)}{base[_MARK:]}"
        sent = self._router.prepare(transaction.request, target, transaction.origin, name, upstream)
        sent.replace_header("Max-Breadth", breadth)
        deadline = now + self._config.timeout
        branch = Branch(name, target, sent, transaction, deadline, breadth)
        self._table.add_branch(branch)
        return branch

    def _launch_up(
        self,
        transaction: Transaction,
        target: Target,
        upstream: Upstream,
        breadth: int,
        now: float,
    ) -> None:
        """Send a copy of a request to an upstream."""
        branch = self._branch(transaction, target, breadth, now, upstream.name)
        branch.upstream, branch.sent = upstream.name, now
        branch.deadline = transaction.expires
        if upstream.is_node:
            self._send_up(branch, upstream, now)
            branch.request.set_body(b"")
            return
        transaction.tried.append(upstream.name)
        self._router.stay_with(transaction.origin, upstream.name)
        if self._other_upstream(transaction, now, alive=True) is not None:
            branch.deadline = min(now + self._config.failover_timeout, transaction.expires)
        self._upstreams.statistics[upstream.name].requests += 1
        self._send_up(branch, upstream, now)
        branch.request.set_body(b"")

    def _send_up(self, branch: Branch, upstream: Upstream, now: float) -> None:
        """Send a request to its upstream for the first time."""
        sent, outbox, name = branch.request, self._outbox, upstream.name
        action = outbox.write(sent, name, upstream.link)
        if self._is_large(action, upstream, now):
            branch.datagram = action
            via = self._router.via(None, branch.id, upstream=name, stream=True)
            sent.replace_first("Via", via)
            branch.link = STREAM
            outbox.add(outbox.write(sent, name, STREAM))
        else:
            self._send_first(branch, action, now)

    def _send_first(self, branch: Branch, action: SendToUpstream, now: float) -> None:
        config = self._config
        branch.link = action.link
        self._outbox.add(action)
        if branch.lossy:
            longest = inf if branch.transaction.is_invite else config.t2
            branch.resend = Resend(action, now + config.t1, config.t1, longest)

    def _is_large(self, action: SendToUpstream, upstream: Upstream, now: float) -> bool:
        """Return whether a message must be sent over TCP because of its size (RFC 3261 §18.1.1)."""
        return (
            not upstream.reliable
            and upstream.datagram_limit is not None
            and len(action.data) > upstream.datagram_limit
            and now >= self._no_stream_until.get(upstream.name, -inf)
        )

    def _other_upstream(
        self, transaction: Transaction, now: float, *, alive: bool
    ) -> Upstream | None:
        """Return the upstream to try after those that were tried; ``None`` if there is none."""
        if len(self._upstreams) < 2 or not transaction.whole:
            return None
        return self._router.upstream_for(
            transaction.request, transaction.origin, now, tried=transaction.tried, alive=alive
        )

    def _fail_over(self, branch: Branch, now: float, *, silent: bool) -> bool:
        """Send the request of a failed branch to another upstream, while its sender still waits.

        Args:
            branch: The branch, which has no final response, or 503.
            now: The time, in seconds.
            silent: Whether it has failed only because of silence. Then it is not given up for an
                upstream that is out of service as well.

        Returns:
            Whether there was another one.
        """
        transaction = branch.transaction
        if branch.target.node is not None:
            return False
        if branch.upstream in self._upstreams.statistics:
            self._upstreams.statistics[branch.upstream].failures += 1
        if branch.cancel is not Cancel.NO or transaction.cancelled:
            return False
        if transaction.state is not State.PROCEEDING or now >= transaction.expires:
            return False
        other = self._other_upstream(transaction, now, alive=silent)
        if other is None:
            return False
        if not branch.done:
            self._end(branch)
            # A 1xx may still arrive, and must be answered.
            branch.abandoned, branch.cancel = True, Cancel.WANTED
        self._launch_up(transaction, branch.target, other, branch.breadth, now)
        return True

    def cancel(self, key: Key, reason: str | None, now: float) -> bool:
        """Cancel an INVITE (RFC 3261 §16.10).

        Args:
            key: The name of its transaction.
            reason: The CANCEL's Reason field, to be sent on with it.
            now: The time, in seconds.

        Returns:
            Whether such an INVITE is pending.
        """
        transaction = self._table.find(key)
        if transaction is None:
            return False
        self._give_up(transaction, reason, now)
        self._follow_state(transaction, now)
        return True

    def _give_up(self, transaction: Transaction, reason: str | None, now: float) -> None:
        transaction.cancelled = True
        self._cancel_pending(transaction, reason, now)

    def _cancel_pending(self, transaction: Transaction, reason: str | None, now: float) -> None:
        """Stop trying targets, and cancel pending branches, which only applies to INVITE (§9.1)."""
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
        action = self._follow(branch, request)
        if action is not None and branch.lossy:
            config = self._config
            branch.resend = Resend(action, now + config.t1, config.t1, config.t2)

    def _follow(self, branch: Branch, request: SipRequest) -> SendToUpstream | None:
        """Send a CANCEL or an ACK the way its request went.

        Returns:
            The action that sent it to the upstream; ``None`` if it went to a connection.
        """
        if branch.link is None:
            self._outbox.send(branch.flow, request)
            return None
        action = self._outbox.write(request, branch.upstream, branch.link)
        self._outbox.add(action)
        return action

    @staticmethod
    def _follow_up(method: str, branch: Branch, to: SipMessage) -> SipRequest:
        """Return the CANCEL or ACK for a branch (RFC 3261 §9.1, §17.1.1.3)."""
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
        """Return whether an ACK ends here, because it is for a refusal (RFC 3261 §17.2.1)."""
        transaction = self._table.find(key)
        if transaction is None or transaction.state is not State.COMPLETED:
            return False
        transaction.resend = None
        # Retransmissions on a lossy network are absorbed for a while: timer I.
        linger = self._config.t4 if transaction.lossy else 0.0
        transaction.deadline = min(transaction.deadline, now + linger)
        self._follow_state(transaction, now)
        return True

    def expects_ack(self, key: Key) -> bool:
        """Return whether an ACK answers a 2xx that was sent on; each is counted once.

        Args:
            key: The name of the ACK's transaction.
        """
        return self._table.take_ack(key)

    def forward_ack(self, ack: SipRequest, target: Target, origin: Flow | None, now: float) -> None:
        """Send on an ACK to a 2xx, which has no transaction and no response.

        Raises:
            SipParseError: It cannot be sent on because of bad syntax.
        """
        branch = branch_for(ack, self._key, f"ACK {origin}")
        outbox, router = self._outbox, self._router
        flow = target.flow
        if flow is not None:
            push_via(ack, router.via(flow, branch))
            outbox.send(flow, ack)
            return
        if target.node is not None:
            upstream = self._node_of(target)
        else:
            upstream = router.upstream_for(ack, origin, now)
        if upstream is None:
            return
        name = upstream.name
        simplify_vias(ack)
        push_via(ack, router.via(None, branch, upstream=name))
        action = outbox.write(ack, name, upstream.link)
        if self._is_large(action, upstream, now):
            ack.replace_first("Via", router.via(None, branch, upstream=name, stream=True))
            action = outbox.write(ack, name, STREAM)
        outbox.add(action)

    # -- responses ---------------------------------------------------------------------------------

    def response(self, response: SipResponse, origin: Flow | None, now: float) -> bool:
        """Send a response on to the sender of its request.

        Args:
            response: The response as received.
            origin: The connection it came from.
            now: The time, in seconds.

        Returns:
            Whether it belongs to a request that was sent there; otherwise it is dropped.

        Raises:
            SipParseError: Its syntax is bad.
        """
        method = response.cseq.method
        if method == "CANCEL":
            return self._cancelled(response, origin, now)
        via = pop_via(response, self._router.is_own_via)
        branch = None if via is None else self._table.branch(via.branch or "", origin)
        if branch is None or method != branch.transaction.request.method:
            return False
        if branch.link is not None:
            self._prober.heard(branch.upstream, now)
        transaction = branch.transaction
        if response.status < 300:
            if branch.responses >= _MAX_RESPONSES:
                return False
            branch.responses += 1
        elif transaction.is_invite and branch.state is not State.ACCEPTED:
            # With To as it came (§17.1.1.3): it may lack a tag, or have another one.
            self._follow(branch, self._follow_up("ACK", branch, response))
        restore_response(response, transaction.request)
        if response.status < 200:
            self._provisional(branch, response, now)
        elif response.status < 300:
            self._success(branch, response, now)
        else:
            self._failure(branch, response, now)
        self._follow_state(transaction, now)
        return True

    def _cancelled(self, response: SipResponse, origin: Flow | None, now: float) -> bool:
        """Handle the response to our CANCEL, whose only Via is ours."""
        via = response.via
        branch = self._table.branch(via.branch or "", origin)
        if branch is None or not self._router.is_own_via(via) or branch.cancel is not Cancel.SENT:
            return False
        branch.resend = None
        self._follow_state(branch.transaction, now)
        return True

    def _provisional(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        if not branch.step(Step.PROVISIONAL):
            if branch.state is State.COMPLETED and branch.cancel is Cancel.WANTED:
                # It was cancelled, and rings only now.
                self._send_cancel(branch, now)
            return
        if branch.cancel is Cancel.WANTED:
            self._send_cancel(branch, now)
        elif branch.cancel is Cancel.NO:
            if not transaction.is_invite:
                if branch.resend is not None:
                    branch.resend.interval = self._config.t2
                branch.deadline = max(branch.deadline, transaction.expires)
            else:
                branch.resend = None
                # Timer C replaces timer B, and is restarted by every response (§16.7 step 2).
                branch.deadline = now + self._config.ring_timeout
        if response.status > 100 and transaction.step(Step.PROVISIONAL):
            self._router.alias_contact(response, branch.flow)
            self._respond(transaction, response)

    def _success(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        first = transaction.state is State.PROCEEDING
        if not (first or transaction.is_invite):
            return
        branch.step(Step.SUCCESS)
        branch.resend = None
        self._router.alias_contact(response, branch.flow)
        known = self._router.registered(transaction.origin)
        self._router.note_success(transaction.request, response, transaction.origin)
        transaction.refreshes = known == self._router.registered(transaction.origin)
        if transaction.is_invite:
            self._table.expect_ack(transaction)
        self._respond(transaction, response)
        if first:
            self.journal.finished(transaction, response, now, branch.flow)
            self._end_transaction(transaction, Step.SUCCESS, now)
            reason = 'SIP;cause=200;text="Call completed elsewhere"'
            self._cancel_pending(transaction, reason, now)

    def _failure(self, branch: Branch, response: SipResponse, now: float) -> None:
        transaction = branch.transaction
        if branch.done:
            if branch.abandoned and branch.cancel is not Cancel.SENT:
                # Only once: over UDP it may be repeated.
                branch.abandoned = False
                transaction.finals.append(response)
            return
        self._end(branch)
        if branch.target.node is not None and response.status in (430, 503):
            # The connection is gone, or the node has no room.
            if not self._try_other_flow(branch, now):
                transaction.finals.append(self._of_node(transaction, response))
            return
        if response.status == 503 and branch.link is not None:
            transaction.finals.append(response)
            if seconds := _retry_after(response):
                self._upstreams.spare(branch.upstream, now + seconds)
            self._fail_over(branch, now, silent=False)
            return
        if response.status == 430 and self._try_other_flow(branch, now):
            return
        transaction.finals.append(response)
        if response.status >= 600:
            self._cancel_pending(transaction, None, now)

    @staticmethod
    def _gone(transaction: Transaction) -> int:
        """Return the status for a connection that has ended.

        For a proxy before us the flow has failed (RFC 5626 §5.3); a caller only needs to know that
        the user is unavailable.
        """
        return 430 if transaction.origin is None else 480

    def _of_node(self, transaction: Transaction, response: SipResponse) -> SipResponse:
        """Return what a caller hears of a node where the callee cannot be reached any more."""
        if response.status == 503 or transaction.request.to.tag is not None:
            return response
        return transaction.request.make_response(self._gone(transaction))

    @staticmethod
    def _end(branch: Branch) -> None:
        branch.step(Step.FAILURE)
        branch.resend = None

    def _try_other_flow(self, branch: Branch, now: float) -> bool:
        """Send the request on another flow of the same client (RFC 5626 §7)."""
        transaction = branch.transaction
        others = branch.target.alternatives
        if not others or branch.cancel is not Cancel.NO or transaction.cancelled:
            return False
        other = replace(others[0], alternatives=others[1:])
        self._launch(transaction, other, branch.breadth, now)
        return True

    def _fail_branch(self, branch: Branch, status: int) -> None:
        """End an unanswered branch with a response of our own."""
        self._end(branch)
        transaction = branch.transaction
        # A 408 is only useful for an INVITE (RFC 4320 §4.2).
        if status != 408 or transaction.is_invite:
            headers = [("Retry-After", _RETRY_AFTER)] if status == 503 else []
            transaction.finals.append(transaction.request.make_response(status, headers=headers))
            transaction.unreached |= status == 503

    def _respond(self, transaction: Transaction, response: SipResponse) -> None:
        if transaction.link is None:
            self._outbox.send(transaction.origin, response)
        else:
            transaction.last = self._outbox.write(response, transaction.upstream, transaction.link)
            self._outbox.add(transaction.last)

    def _end_transaction(self, transaction: Transaction, step: Step, now: float) -> None:
        """End a transaction after its final response; from now on only retransmissions matter."""
        config = self._config
        transaction.step(step)
        for claim in transaction.waiting:
            claim.release()
        lossy = transaction.lossy
        linger = config.timeout if transaction.is_invite or lossy else 0.0
        transaction.deadline = now + linger
        if lossy and transaction.is_invite and step is Step.FAILURE and transaction.last:
            transaction.resend = Resend(transaction.last, now + config.t1, config.t1, config.t2)

    def _follow_state(self, transaction: Transaction, now: float) -> None:
        """Take the next step that the state of a transaction requires, and arm its timer."""
        while transaction.state is State.PROCEEDING and not transaction.pending:
            if transaction.groups:
                self._launch_group(transaction, now)
                if transaction.request.body and not self._may_go_again(transaction):
                    transaction.request.set_body(b"")
                    transaction.whole = False
            elif transaction.finals:
                best = best_response(transaction.finals)
                if best.status == 503 and not transaction.unreached:
                    # It is the next element that lacks capacity, not this one (§16.7 step 6). If
                    # the upstream cannot be reached at all, that is true of every request.
                    best = transaction.request.make_response(500)
                self._respond(transaction, best)
                self.journal.finished(transaction, best, now)
                self._end_transaction(transaction, Step.FAILURE, now)
            else:
                # A request other than INVITE was not answered: we do not answer either.
                self.journal.finished(transaction, None, now)
                self._table.remove(transaction)
                return
        if transaction.deadline <= now:
            self._table.remove(transaction)
        else:
            self._table.arm(transaction)

    def _may_go_again(self, transaction: Transaction) -> bool:
        return bool(transaction.groups) or any(
            branch.target.alternatives or (branch.upstream and len(self._upstreams) > 1)
            for branch in transaction.branches
        )

    # -- connections and time ----------------------------------------------------------------------

    def flow_lost(self, flow: Flow, now: float) -> None:
        """End the pending requests of a connection that has ended."""
        for transaction in self._table.came_from(flow):
            self._give_up(transaction, None, now)
            self._follow_state(transaction, now)
        for transaction in self._table.went_to(flow):
            for branch in transaction.pending:
                if branch.flow == flow:
                    self._end(branch)
                    if not self._try_other_flow(branch, now):
                        self._fail_branch(branch, self._gone(transaction))
            self._follow_state(transaction, now)

    def link_failed(self, upstream: str, link: int, reason: str, now: float) -> None:
        """Give up requests on a link to an upstream that have not been answered.

        Args:
            upstream: The name of the upstream.
            link: ``STREAM``, if no connection can be made; ``DATAGRAMS``, if they are not received.
            reason: The reason reported by the network.
            now: The time, in seconds.
        """
        configured = self._upstreams.get(upstream)
        if configured is not None and link == configured.link:
            self._prober.unreachable(upstream, now, reason)
        if link == STREAM:
            until = self._no_stream_until.items()
            self._no_stream_until = {name: when for name, when in until if when > now}
            self._no_stream_until[upstream] = now + self._config.timeout
        for transaction in self._table.went_to(None):
            for branch in transaction.pending:
                sent_there = branch.link == link and branch.upstream == upstream
                # A node that cannot be reached has lost what it knew; an upstream, perhaps not.
                over = branch.state is State.CALLING or branch.target.node is not None
                if sent_there and over:
                    self._not_sent(branch, now)
            self._follow_state(transaction, now)

    def _not_sent(self, branch: Branch, now: float) -> None:
        if branch.transaction.cancelled:
            self._fail_branch(branch, 487)
        elif branch.target.node is not None:
            self._end(branch)
            if not self._try_other_flow(branch, now):
                self._fail_branch(branch, self._gone(branch.transaction))
        elif branch.datagram is not None:
            via = self._router.via(None, branch.id, upstream=branch.upstream)
            branch.request.replace_first("Via", via)
            self._send_first(branch, branch.datagram, now)
            branch.datagram = None
        elif not self._fail_over(branch, now, silent=False):
            # RFC 3261 §16.9, §18.4.
            self._fail_branch(branch, 503)

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout`; ``None`` for never."""
        return self._table.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Handle passed deadlines; early calls do nothing."""
        for transaction in self._table.due(now):
            if transaction.resend is not None and transaction.resend.at <= now:
                self._outbox.add(transaction.resend.again(now))
            for branch in list(transaction.branches):
                if not branch.done and branch.deadline <= now:
                    self._timed_out(branch, now)
                elif branch.resend is not None and branch.resend.at <= now:
                    if branch.deadline <= now:
                        # A CANCEL that was not answered.
                        branch.resend = None
                    else:
                        self._outbox.add(branch.resend.again(now))
            self._follow_state(transaction, now)

    def _timed_out(self, branch: Branch, now: float) -> None:
        transaction = branch.transaction
        ringing = transaction.is_invite and branch.state is State.PROCEEDING
        if ringing and branch.cancel is Cancel.NO:
            # It has rung for too long (§16.8).
            self._send_cancel(branch, now)
        elif branch.link is None or branch.state is not State.CALLING:
            self._fail_branch(branch, 487 if transaction.cancelled else 408)
        else:
            self._unanswered(branch, now)

    def _unanswered(self, branch: Branch, now: float) -> None:
        """Try another upstream for a request that has had no answer, or give it up."""
        transaction = branch.transaction
        waits_elsewhere = not transaction.is_invite and self._upstreams.heard_after(
            branch.upstream, branch.sent
        )
        if not waits_elsewhere:
            self._prober.silent(branch.upstream, transaction.request.method, now)
            if self._fail_over(branch, now, silent=True):
                return
        if now < transaction.expires:
            branch.deadline = transaction.expires
        else:
            self._fail_branch(branch, 487 if transaction.cancelled else 408)


def _retry_after(response: SipResponse) -> int:
    """Return the Retry-After of an upstream in seconds (RFC 3261 §20.33), bounded."""
    match = _SECONDS.match(response.get("retry-after") or "")
    return 0 if match is None else min(int(match[1]), _LONGEST_PAUSE)

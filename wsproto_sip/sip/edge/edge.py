"""A SIP server for WebSocket clients, or the edge in front of one (RFC 7118, RFC 5626), no I/O.

Theory of operation: the owner of the connections reports their beginnings, messages and ends to an
edge, and performs the returned actions. A request goes through the steps of
:mod:`~wsproto_sip.sip.edge.pipelines`: it is checked, and then answered here or sent on to where
:mod:`~wsproto_sip.sip.edge.router` decides. :mod:`~wsproto_sip.sip.edge.forwarding` keeps pending
requests and brings the responses back. A request that depends on an external answer waits in
:mod:`~wsproto_sip.sip.edge.parking` for :meth:`SipEdge.answer`. An invalid message is answered, or
dropped if that is not possible, and never ends a connection.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ...auth.outcome import Question, Unavailable
from ...server.shares import Bound, Pace
from ..message.datagram import parse_datagram
from ..message.errors import SipParseError, SipValueError
from ..message.message import SipRequest, SipResponse
from ..message.parser import parse_message
from ..message.stream import KeepAlive, SipStreamParser
from ..message.transport import Source
from ..registrar.authentication import DigestAuthenticator
from ..registrar.registrar import Registrar, RegistrarConfig
from ..registrar.store import Lookup, NotAsked, Update
from ..rules.identity import strip_trusted_fields, withhold_identity
from ..rules.outbound import Flow, FlowTokens, node_id
from ..rules.routing import Rejection
from .actions import AskQuestion, EdgeAction, HookFailed, ResetUpstream, SendToConnection
from .callees import Callees
from .config import DATAGRAMS, STREAM, EdgeConfig, EdgeMode, Upstream, check_upstreams
from .connections import Connections, EdgeConnection, Peer
from .forwarding import Forwarder
from .identity import Identities
from .journal import EdgeJournal
from .outbox import Outbox
from .parking import Parking
from .pipelines import UNNAMED, HookError, Outcome, Passage, Rooms, conclude, handle, resume
from .probing import Prober
from .router import EdgeRouter
from .transactions import key_of
from .upstreams import Health, Upstreams

if TYPE_CHECKING:
    from ...server.statistics import UpstreamStatistics
    from ...typing import Entropy
    from .hook import EdgeHook
    from .parking import Parked
    from .transactions import Transaction

__all__ = ["SipEdge"]

#: The answer to a question that was not answered in time.
_TOO_LATE: Final = Unavailable("no answer in time")


class SipEdge:
    """Any number of client connections, and upstreams if there are any.

    The caller chooses the ids of connections; an id may be reused after :meth:`connection_closed`.

    Args:
        config: The configuration.
        registrar: Locates users; made from the configuration by default. With upstreams there must
            be none.
        authenticator: Checks credentials; without one, no client is asked for any.
        hook: Decides about each request that has passed all checks; see
            :mod:`~wsproto_sip.sip.edge.hook`.
        flow_keys: Secrets of at least 16 bytes for flow tokens, the newest first; a random one by
            default, so that tokens end with the process.
        entropy: Source of random bytes.

    Raises:
        ValueError: Both a registrar and upstreams are given, or a registrar that is a node in a
            mode other than Outbound.
    """

    def __init__(
        self,
        config: EdgeConfig,
        *,
        registrar: Registrar | None = None,
        authenticator: DigestAuthenticator | None = None,
        hook: EdgeHook | None = None,
        flow_keys: Sequence[bytes] = (),
        entropy: Entropy = os.urandom,
    ) -> None:
        if config.upstreams:
            if registrar is not None:
                raise ValueError("with an upstream, the upstream is the registrar")
        elif registrar is None:
            outbound = config.mode is EdgeMode.OUTBOUND
            registrar = Registrar(
                RegistrarConfig(
                    config.own_domains,
                    outbound=outbound,
                    max_aors_per_flow=config.max_users_per_connection,
                ),
                is_known=None if authenticator is None else authenticator.knows,
                entropy=entropy,
            )
        node = None if registrar is None else registrar.node
        if node is not None and config.mode is not EdgeMode.OUTBOUND:
            raise ValueError("a node of several finds connections by flow tokens alone")
        self.config = config
        self.registrar = registrar
        self._connections = Connections(int.from_bytes(entropy(4), "big"))
        self._outbox = Outbox(config, self._connections)
        self._tokens = FlowTokens(
            flow_keys or [entropy(32)], b"" if node is None else node_id(node.name, node.boot)
        )
        self._upstreams = Upstreams(config.upstreams, config.probing, entropy)
        router = EdgeRouter(config, self._connections, registrar, self._tokens, self._upstreams)
        self._prober = Prober(config, self._upstreams, router, self._outbox, entropy)
        key = entropy(32)
        self._forwarder = Forwarder(
            config, router, self._outbox, key, self._upstreams, self._prober
        )
        # Through an upstream or by a hook, requests to other domains are served, too.
        alone = registrar is not None and hook is None
        self._identities = Identities(
            config, authenticator, serves=router.is_for_registrar if alone else None
        )
        if registrar is not None:
            registrar.observer = self._forwarder.journal.binding_changed
        self._parking: Parking[Passage] = Parking(self._forwarder.claim, config.answer_timeout)
        self._rooms = Rooms(
            router,
            self._forwarder,
            self._outbox,
            self._identities,
            registrar,
            Pace(config.requests_per_second),
            self._parking,
            Callees(config.callee_requests_per_second, config.callee_transactions),
            key,
            hook,
        )
        #: The parsers of connections with upstreams, by name and link.
        self._streams: dict[tuple[str, int], SipStreamParser] = {}
        #: The source of the upstream's message that is being handled.
        self._upstream_source: Source | None = None
        #: Messages dropped without an answer: responses without a request, ACKs that lead nowhere,
        #: and input that is not SIP.
        self.dropped = 0
        #: How often the hook has failed.
        self.hook_errors = 0

    @property
    def authenticator(self) -> DigestAuthenticator | None:
        """The authenticator; may be replaced."""
        return self._identities.authenticator

    @authenticator.setter
    def authenticator(self, authenticator: DigestAuthenticator | None) -> None:
        self._identities.authenticator = authenticator

    def use_flow_keys(self, keys: Sequence[bytes]) -> None:
        """Make flow tokens with other keys from now on.

        Args:
            keys: Secrets of at least 16 bytes, the newest first; tokens of other keys are refused.

        Raises:
            SipValueError: ``keys`` is empty, or a key is too short.
        """
        self._tokens.replace(keys)

    @property
    def journal(self) -> EdgeJournal:
        """The journal of events and counters."""
        return self._forwarder.journal

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._connections)

    @property
    def transactions(self) -> int:
        """The number of pending requests."""
        return len(self._forwarder)

    def transactions_page(self, offset: int, limit: int) -> list[Transaction]:
        """Return some of the pending requests, the oldest first, for display only.

        Args:
            offset: How many to skip.
            limit: The maximum number to return.
        """
        return self._forwarder.page(offset, limit)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for an answer, or for earlier requests."""
        return len(self._parking)

    @property
    def refused(self) -> Counter[tuple[str, Bound]]:
        """The number of requests refused because of their sender's share, by resource and bound."""
        counts: Counter[tuple[str, Bound]] = Counter()
        for name, refused in (
            ("transactions", self._forwarder.transactions.refused),
            ("pending_bytes", self._forwarder.pending_bytes.refused),
            ("requests_per_second", self._rooms.pace.refused),
        ):
            counts.update({(name, bound): number for bound, number in refused.items()})
        counts.update(self._rooms.callees.refused)
        if self.registrar is not None:
            bytes_ = self.registrar.refused
            counts.update({("binding_bytes", bound): number for bound, number in bytes_.items()})
        return counts

    def knows(self, cid: int) -> bool:
        """Return whether a connection with that id exists."""
        return self._connections.get(cid) is not None

    def is_in_call(self, cid: int) -> bool:
        """Return whether a connection has a call that is being set up or has not ended.

        Calls count whose INVITE was answered while this edge forwarded it, until their BYE.

        Args:
            cid: The connection; an unknown one has no call.
        """
        connection = self._connections.get(cid)
        return connection is not None and self._forwarder.is_in_call(connection.flow)

    # -- events ------------------------------------------------------------------------------------

    def connection_opened(self, cid: int, peer: Peer) -> None:
        """Add a connection.

        Args:
            cid: Its id.
            peer: The other end.

        Raises:
            ValueError: The id is in use.
        """
        self._connections.add(cid, peer)

    def connection_closed(self, cid: int, now: float) -> list[EdgeAction]:
        """Remove a connection, its bindings, and its pending requests.

        Args:
            cid: Its id; an unknown one is ignored.
            now: The time, in seconds.
        """
        connection = self._connections.remove(cid)
        if connection is not None:
            if self.registrar is not None:
                self.registrar.flow_lost(connection.flow, now)
            self._forwarder.flow_lost(connection.flow, now)
            self._parking.flow_lost(connection.flow)
            self._run_errands(now)
        return self._outbox.take()

    def receive(self, cid: int, payload: str | bytes, now: float) -> list[EdgeAction]:
        """Process a WebSocket message.

        Args:
            cid: The connection; messages on an unknown one are dropped.
            payload: The message, text or binary.
            now: The time, in seconds.
        """
        connection = self._connections.get(cid)
        if connection is None:
            self.dropped += 1
            return []
        keepalive = KeepAlive.of(payload)
        if keepalive is None:
            self._message(payload, connection, now)
        elif keepalive is KeepAlive.PING:
            # RFC 5626 §4.4.1, RFC 7118 §6; a single CRLF is an answer, and is not answered.
            self._outbox.add(SendToConnection(cid, "\r\n"))
        return self._take(now)

    def upstream_received(
        self,
        data: bytes,
        now: float,
        *,
        upstream: str | None = None,
        link: int | None = None,
        source: Source | None = None,
    ) -> list[EdgeAction]:
        """Process input from an upstream, which the caller has identified by its address.

        Args:
            data: A datagram, or bytes of a stream in pieces of any size.
            now: The time, in seconds.
            upstream: Its name; by default the first one.
            link: The link it arrived on; by default the one for requests.
            source: The exact source, if known; the Via of a request is compared with it.
        """
        name = self._upstream_name(upstream)
        if not self._rooms.router.knows_upstream(name):
            self.dropped += 1
            return self._outbox.take()
        if link is None:
            configured = self._upstreams.get(name)
            link = DATAGRAMS if configured is None else configured.link
        self._outbox.upstream, self._outbox.link = name, link
        self._upstream_source = source
        if link == DATAGRAMS:
            self._datagram(data, now)
            return self._take(now)
        stream = self._streams.get((name, link))
        if stream is None:
            stream = self._streams[name, link] = SipStreamParser(limits=self.config.limits)
        for item in stream.receive(data):
            if isinstance(item, SipParseError):
                self._unreadable(item, None)
                if item.fatal:
                    self._outbox.add(ResetUpstream(name, item.detail, link))
            elif isinstance(item, KeepAlive):
                if item is KeepAlive.PING:
                    self._outbox.add(self._outbox.write(KeepAlive.PONG, name, link))
            else:
                self._guarded(item, None, now)
        return self._take(now)

    def _upstream_name(self, name: str | None) -> str:
        """Return a name of an upstream, by default that of the first one."""
        if name is not None:
            return name
        return next((upstream.name for upstream in self._upstreams), "")

    def _datagram(self, data: bytes, now: float) -> None:
        keepalive = KeepAlive.of(data)
        if keepalive is KeepAlive.PING:
            pong = self._outbox.write(KeepAlive.PONG, self._outbox.upstream, DATAGRAMS)
            self._outbox.add(pong)
        elif keepalive is None:
            try:
                message = parse_datagram(data, limits=self.config.limits)
            except SipParseError as error:
                self._unreadable(error, None)
            else:
                self._guarded(message, None, now)

    def upstream_lost(self, link: int, *, upstream: str | None = None) -> None:
        """Handle the end of a connection with an upstream, whose link may be reused.

        Args:
            link: The link; an unknown one is ignored.
            upstream: The name of the upstream; by default the first one.
        """
        self._streams.pop((self._upstream_name(upstream), link), None)

    def upstream_failed(
        self,
        now: float,
        *,
        upstream: str | None = None,
        link: int = STREAM,
        reason: str = "it cannot be reached",
    ) -> list[EdgeAction]:
        """Send pending requests elsewhere that cannot reach an upstream.

        If there is no other upstream, they are answered with 503.

        Args:
            now: The time, in seconds.
            upstream: The name of the upstream; by default the first one.
            link: ``STREAM``, if no connection can be made or too much waits for one; ``DATAGRAMS``,
                if the network reports that datagrams are not received.
            reason: The reason reported by the network.
        """
        self._forwarder.link_failed(self._upstream_name(upstream), link, reason, now)
        return self._outbox.take()

    def upstream_opened(self, name: str, now: float) -> list[EdgeAction]:
        """Handle a new connection to an upstream: probe it at once, if it is out of service.

        Args:
            name: The name of the upstream.
            now: The time, in seconds.
        """
        if self._upstreams.get(name) and self._upstreams.health(name) is Health.DEAD:
            self._prober.hurry(name, now)
        return self._outbox.take()

    def use_upstreams(self, upstreams: Sequence[Upstream]) -> None:
        """Use other upstreams from now on, for example after their names have changed addresses.

        Pending requests to removed upstreams continue. The state of upstreams with the same names
        is kept.

        Args:
            upstreams: One or more. Those of the configuration are no longer used.

        Raises:
            ValueError: ``upstreams`` is empty, there were none before, or they cannot be told
                apart.
        """
        if not upstreams or not len(self._upstreams):
            raise ValueError("an edge must have upstreams from its beginning to its end, or never")
        check_upstreams(upstreams)
        self._upstreams.replace(upstreams)
        self._rooms.router.upstreams_changed()
        self._prober.upstreams_changed()

    def check_nodes(self, nodes: Sequence[Upstream]) -> None:
        """Check that :meth:`use_nodes` takes some nodes.

        Args:
            nodes: The nodes.

        Raises:
            ValueError: It does not.
        """
        own = None if self.registrar is None else self.registrar.node
        if own is None:
            raise ValueError("an edge whose registrar is not a node has no other nodes")
        for node in nodes:
            if node.name == own.name or not node.is_node:
                raise ValueError(f"not another node: {node.name!r:.100}")
        check_upstreams(nodes)

    def use_nodes(self, nodes: Sequence[Upstream]) -> None:
        """Have other nodes beside this one from now on: those that run.

        Requests for clients of theirs go there, and what comes from them goes to clients here,
        along a flow token of ours, and nowhere else. They are trusted to have checked who sends a
        request: the owner of the links authenticates them.

        Args:
            nodes: The other nodes of the location store, by their names, with ``is_node``.

        Raises:
            ValueError: This is not a node; one is this node or no node; or they cannot be told from
                each other.
        """
        self.check_nodes(nodes)
        self._upstreams.replace(nodes)
        self._rooms.router.upstreams_changed()
        self._prober.upstreams_changed()

    @property
    def upstreams(self) -> list[Upstream]:
        """The current upstreams."""
        return list(self._upstreams)

    @property
    def upstream_statistics(self) -> Mapping[str, UpstreamStatistics]:
        """The statistics of each upstream, by its name; kept up to date. Nodes have none."""
        return self._upstreams.statistics

    def answer(self, number: int, answer: object, now: float) -> list[EdgeAction]:
        """Answer the question of an :class:`~wsproto_sip.sip.edge.actions.AskQuestion`.

        Args:
            number: Its number; one that is not pending (any more) is ignored.
            answer: The answer that the question defines, or an
                :class:`~wsproto_sip.auth.outcome.Unavailable`.
            now: The time, in seconds.

        Returns:
            Actions to perform. An invalid answer is reported like a failure of the hook, and the
            request gets 500.
        """
        if number < 0 and self.registrar is not None:
            self.registrar.errands.answered(number, answer, now)
        parked = self._parking.answered(number)
        if parked is not None:
            self._resume(parked, answer, now)
        return self._take(now)

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout`; ``None`` for never."""
        deadlines = [
            self._forwarder.next_deadline(),
            self._prober.next_deadline(),
            self._parking.next_deadline(),
        ]
        if self.registrar is not None:
            deadlines.append(self.registrar.next_deadline())
            deadlines.append(self.registrar.errands.next_deadline())
        return min([when for when in deadlines if when is not None], default=None)

    def handle_timeout(self, now: float) -> list[EdgeAction]:
        """Handle passed deadlines; early and repeated calls do nothing.

        Args:
            now: The time, in seconds.
        """
        if self.registrar is not None:
            self.registrar.handle_timeout(now)
            self.registrar.errands.handle_timeout(now)
        self._forwarder.handle_timeout(now)
        self._prober.handle_timeout(now)
        for parked in self._parking.due(now):
            self._resume(parked, _TOO_LATE, now)
        return self._take(now)

    # -- messages ----------------------------------------------------------------------------------

    def _message(self, data: str | bytes, connection: EdgeConnection, now: float) -> None:
        try:
            message = parse_message(data, limits=self.config.limits)
        except SipParseError as error:
            self._unreadable(error, connection)
        else:
            self._guarded(message, connection, now)

    def _unreadable(self, error: SipParseError, connection: EdgeConnection | None) -> None:
        if error.response is None:
            self.dropped += 1
        else:
            self._outbox.send(_flow(connection), error.response)
            cid = None if connection is None else connection.flow.cid
            self.journal.refuse(None, error.status, error.detail, cid)

    def _guarded(
        self, message: SipRequest | SipResponse, connection: EdgeConnection | None, now: float
    ) -> None:
        """Handle a message."""
        origin = _flow(connection)
        cid = None if origin is None else origin.cid
        if connection is not None:
            strip_trusted_fields(message)
        else:
            withhold_identity(message)
        if isinstance(message, SipResponse):
            try:
                if connection is None and self._prober.response(message, now):
                    return
                self.journal.response_came(message.status, cid)
                self.dropped += not self._forwarder.response(message, origin, now)
            except (SipParseError, SipValueError):
                self.dropped += 1
            return
        self.journal.request_came(message.method, cid)
        outbox = self._outbox
        sender = (outbox.upstream, outbox.link)
        passage = Passage(message, now, connection, self._upstream_source, sender)
        if len(self._parking) and self._queue(passage):
            return
        self._run(passage)

    # -- requests that wait ------------------------------------------------------------------------

    def _queue(self, passage: Passage) -> bool:
        """Let a request wait if it must not overtake others; return whether it was handled."""
        request = passage.request
        if passage.method in ("ACK", "CANCEL"):
            return False
        try:
            if not self._parking.is_waited_on(passage.origin or request.call_id):
                return False
            key = key_of(request, passage.origin)
        except SipParseError:
            # It is refused, and does not wait for its turn.
            return False
        if not self._parking.repeated(key):
            refusal = self._parking.queue(passage, key, passage.party)
            if refusal is not None:
                self._refuse(request, refusal, passage.origin)
        return True

    def _resume(self, parked: Parked[Passage], answer: object, now: float) -> None:
        """Continue with a request whose question was answered."""
        passage, question = parked.passage, parked.question
        if parked.abandoned:
            # The check may still want the answer; its conclusion comes too late.
            self._step(passage, question, answer, only_conclude=True)
            return
        passage.now = now
        self._outbox.upstream, self._outbox.link = passage.sender
        self._run(passage, question, answer)

    def _take(self, now: float) -> list[EdgeAction]:
        """Handle the requests whose turn has come, and return the actions."""
        while (parked := self._parking.turn()) is not None:
            parked.passage.now = now
            self._outbox.upstream, self._outbox.link = parked.passage.sender
            self._run(parked.passage)
        self._run_errands(now)
        return self._outbox.take()

    def _run_errands(self, now: float) -> None:
        """Send pending updates to the location store, if there is one."""
        if self.registrar is not None and self.registrar.node is not None:
            for number, question in self.registrar.errands.take(now):
                self._outbox.add(AskQuestion(number, question))

    def _run(
        self, passage: Passage, question: Question[Outcome] | None = None, answer: object = None
    ) -> None:
        """Continue with a request until it is handled, refused or waits for an answer."""
        outcome = self._step(passage, question, answer)
        while isinstance(outcome, Question):
            unavailable = self._ask(passage, outcome)
            if unavailable is None:
                return
            outcome = self._step(passage, outcome, unavailable)
        if outcome is None:
            return
        if passage.method == "ACK":
            self.dropped += 1
        else:
            self._refuse(passage.request, outcome, passage.origin)

    def _step(
        self,
        passage: Passage,
        question: Question[Outcome] | None,
        answer: object,
        *,
        only_conclude: bool = False,
    ) -> Rejection | Question[Outcome] | None:
        """Run the next steps of a request; errors found late are answered, too."""
        try:
            if question is None:
                return handle(self._rooms, passage)
            outcome = conclude(question, answer)
            return None if only_conclude else resume(self._rooms, passage, outcome)
        except SipParseError as error:
            return Rejection(error.status, error.detail)
        except SipValueError as error:
            # A parsed value cannot be written, such as NUL in a quoted string.
            return Rejection(400, str(error))
        except HookError as error:
            self.hook_errors += 1
            self._outbox.add(HookFailed(passage.method, error.error))
            return Rejection(500, "the program's own code has failed")

    def _ask(self, passage: Passage, question: Question[Outcome]) -> Unavailable | None:
        """Let a request wait for an answer; return the answer if it cannot wait."""
        if passage.now >= self._parking.deadline_of(passage):
            return NotAsked(_TOO_LATE.reason)
        key = passage.key
        if key is UNNAMED:
            key = key_of(passage.request, passage.origin)
        deadline = None
        if isinstance(question.question, Lookup | Update):
            deadline = passage.now + self.config.store_timeout
        parked = self._parking.ask(passage, key, passage.party, question, deadline=deadline)
        if isinstance(parked, Bound):
            return NotAsked(f"too many waiting requests (bound: {parked.value})")
        self._outbox.add(AskQuestion(parked.number, question.question))
        return None

    def _refuse(self, request: SipRequest, rejection: Rejection, origin: Flow | None) -> None:
        try:
            response = rejection.response(request)
        except (SipParseError, SipValueError):
            # It lacks what an answer needs.
            self.dropped += 1
        else:
            self._outbox.send(origin, response)
            cid = None if origin is None else origin.cid
            self.journal.refuse(request, rejection.status, rejection.detail, cid)


def _flow(connection: EdgeConnection | None) -> Flow | None:
    return None if connection is None else connection.flow

"""An MSRP relay on the connections of an endpoint, and on those with its peers over TCP.

Theory of operation: :class:`MsrpApplication` connects transports with
:class:`~wsproto_sip.msrp.relay.relay.MsrpRelay`. WebSocket connections belong to the endpoint:
their events arrive through :meth:`MsrpApplication.handle`, and output for them goes to the
endpoint. Connections with peers are *links*; they are framed here, and the owner of their sockets
reports events and takes output. Both share one space of numbers: the endpoint's count up from 1,
links down from -1.

Receivers that read slowly have no queues. The actions caused by a sender's chunk are
performed one by one; if the next one would write to a receiver that has enough waiting, the sender
is held back with the rest of its input, and not read any further, until there is room. A receiver
that keeps a sender waiting too long is dropped. So a receiver costs its high-water mark and one
chunk, however many send to it, and a sender costs one read. Actions caused by a response do not
hold its sender back: they are for the sender of the request, which could otherwise stop a receiver
by not reading, and which can only have caused as many as it has sent requests.

Nodes are peers that come and go. Clients of a node share a link, so a receiver may hold one up for
a shorter time only.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ...events import BytesMessage, TextMessage
from ...frame_protocol import CloseReason
from ...server.events import Closed, Opened, UnknownConnectionError, Writable
from ...states import ConnectionState
from ...subprotocols import MSRP
from ...utilities import LocalProtocolError
from ..message.stream import MsrpStreamParser
from .config import AskQuestion, ForwardToPeer, RelayAction, RelayNode, SendChunk, node_hop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...events import Event
    from ...server.endpoint import Endpoint
    from ...server.shares import Bound
    from .relay import MsrpRelay

__all__ = ["LinkOutput", "MsrpApplication"]

#: The target of a chunk: a connection by its number, or a peer by its name.
_Target = int | str

#: How many bytes may wait for a peer before its senders have to wait.
_HIGH_WATER: Final = 64 * 1024

#: Why a connection that can be eavesdropped on is refused.
_INSECURE: Final = "MSRP needs wss"


@dataclass(frozen=True, slots=True)
class LinkOutput:
    """An instruction for a link's transport.

    Args:
        link: The link.
        data: Bytes to write.
        close: Whether to close it afterwards; the application has already forgotten it.
    """

    link: int
    data: bytes
    close: bool = False


@dataclass(slots=True, eq=False)
class _Source:
    """A source of chunks, and its remaining work."""

    id: int
    inbox: deque[bytes] = field(default_factory=deque)
    actions: deque[RelayAction] = field(default_factory=deque)
    #: The target it waits for.
    waits_for: _Target | None = None


@dataclass(slots=True, eq=False)
class _Link(_Source):
    """A connection with a peer, or one that a node has opened."""

    peer: str | None = None
    parser: MsrpStreamParser = field(default_factory=MsrpStreamParser)
    out: list[bytes] = field(default_factory=list)
    #: Bytes in ``out``, and bytes that the transport has not taken yet.
    waiting: int = 0
    backlog: int = 0
    closing: bool = False


@dataclass(slots=True, eq=False)
class _Peer:
    """A configured peer: its links, or the output that waits for one."""

    links: list[int] = field(default_factory=list)
    connecting: bool = False
    queue: list[bytes] = field(default_factory=list)
    waiting: int = 0
    #: Connecting is not tried again before this time.
    retry_at: float = 0.0


class MsrpApplication:
    """A relay on an endpoint.

    Connections with sub-protocols other than ``msrp`` are ignored, so other applications can share
    the endpoint. MSRP sessions must deliver whole messages, text as bytes; see
    :func:`~wsproto_sip.server.config.subprotocol_profiles`.

    Args:
        endpoint: The WebSocket connections.
        relay: The relay, which must not be used by others meanwhile.
        allow_insecure: Whether connections without TLS are accepted, which RFC 7977 §5.1 forbids
            outside test networks; otherwise they are closed with 1008.
        stall_timeout: Seconds that a sender waits for a slow receiver before the receiver is
            dropped. By then, the waiting requests have been reported as failed.
        retry_after: Seconds before another attempt to reach a peer that could not be reached.
        max_links: The maximum number of connections with one peer.
        max_node_links: The maximum number of connections that nodes have opened.
        node_stall_timeout: The same as ``stall_timeout``, if a node waits.

    Attributes:
        relay: The relay.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        relay: MsrpRelay,
        *,
        allow_insecure: bool = False,
        stall_timeout: float = 30.0,
        retry_after: float = 5.0,
        max_links: int = 8,
        max_node_links: int = 256,
        node_stall_timeout: float = 5.0,
    ) -> None:
        self._endpoint = endpoint
        self.relay = relay
        self._allow_insecure = allow_insecure
        self._stall_timeout = stall_timeout
        self._retry_after = retry_after
        self._max_links = max_links
        self._max_node_links = max_node_links
        self._node_stall_timeout = node_stall_timeout
        self._nodes: dict[str, RelayNode] = {}
        #: How many links nodes have opened.
        self._node_links = 0
        endpoint.statistics.refusals.append(self._refused)
        self._sources: dict[int, _Source] = {}
        self._links: dict[int, _Link] = {}
        self._peers = {name: _Peer() for name in relay.peers}
        self._last_link = 0
        self._connects: list[str] = []
        self._outputs: dict[int, _Link] = {}
        self._questions: list[AskQuestion] = []
        #: The sources that wait for each target, in order of arrival.
        self._waiting: dict[_Target, deque[_Source]] = {}
        #: When sources have waited too long, the earliest first.
        self._stalls: OrderedDict[_Source, tuple[float, _Target]] = OrderedDict()
        #: The same for nodes.
        self._node_stalls: OrderedDict[_Source, tuple[float, _Target]] = OrderedDict()

    def _refused(self) -> dict[tuple[str, Bound], int]:
        refused = self.relay.refused.items()
        return {("msrp_transactions", bound): count for bound, count in refused}

    # -- WebSocket connections ---------------------------------------------------------------------

    def handle(self, cid: int, event: Event, now: float) -> bool:
        """Handle an event of the endpoint.

        Args:
            cid: The connection it happened on.
            event: The event.
            now: The current time.

        Returns:
            Whether it is an MSRP connection, so that other applications can ignore the event.
        """
        if isinstance(event, Opened):
            return self._on_opened(event, now)
        source = self._sources.get(cid)
        if source is None:
            return False
        if isinstance(event, TextMessage | BytesMessage):
            data = event.data
            self._take(source, data.encode() if isinstance(data, str) else bytes(data), now)
        elif isinstance(event, Writable):
            self._release(cid, now)
        elif isinstance(event, Closed):
            self._forget_source(source, now)
        return True

    def _on_opened(self, event: Opened, now: float) -> bool:
        cid = event.cid
        # A connection that we opened would not have a client to relay for.
        if event.subprotocol != MSRP or event.request is None:
            return False
        entry = self._endpoint.registry.get(cid)
        if entry is None:
            return False
        self._sources[cid] = _Source(cid)
        if not (entry.secure or self._allow_insecure):
            self._close(cid, _INSECURE, now)
            return True
        identity = None if event.identity is None else event.identity.name
        self._do(
            self.relay.connection_opened(cid, now, identity=identity, address=entry.peer[0]), now
        )
        return True

    def _close(self, cid: int, reason: str, now: float) -> None:
        # It may have ended by itself.
        with suppress(UnknownConnectionError):
            self._endpoint.close(cid, CloseReason.POLICY_VIOLATION, reason, now=now)

    # -- questions ---------------------------------------------------------------------------------

    def take_questions(self) -> list[AskQuestion]:
        """Take the questions to be answered; pass each answer to :meth:`answer`."""
        questions, self._questions = self._questions, []
        return questions

    def answer(self, number: int, answer: object, now: float) -> None:
        """Answer a question; see :meth:`~wsproto_sip.msrp.relay.relay.MsrpRelay.answer`.

        Args:
            number: The question's number.
            answer: The answer.
            now: The time.
        """
        self._do(self.relay.answer(number, answer, now), now)

    # -- links with peers --------------------------------------------------------------------------

    def take_connects(self) -> list[str]:
        """Take the names of the peers to connect to.

        Report the result with :meth:`link_opened` or :meth:`link_failed`.
        """
        connects, self._connects = self._connects, []
        return connects

    def use_nodes(self, nodes: Mapping[str, RelayNode], now: float) -> None:
        """Replace the list of running nodes; see :meth:`.MsrpRelay.use_nodes`.

        Links to nodes that have left or restarted are closed.

        Args:
            nodes: The other nodes by name.
            now: The time.
        """
        left = [name for name, node in self._nodes.items() if nodes.get(name) != node]
        self._nodes = dict(nodes)
        actions = self.relay.use_nodes(nodes)
        for name in map(node_hop, left):
            peer = self._peers.pop(name, None)
            for number in [] if peer is None else list(peer.links):
                self._close_link(self._links[number], now)
            self._release(name, now)
        for name in self.relay.peers:
            self._peers.setdefault(name, _Peer())
        self._do(actions, now)

    def link_opened(self, peer: str, now: float) -> int | None:
        """Report a connection with a peer, opened by either side, or to a node.

        Args:
            peer: The name of the peer, which the caller knows by its address.
            now: The time.

        Returns:
            The link's number; ``None`` if no room is left or the node has left, so that the
            transport must be dropped.
        """
        known = self._peers.get(peer)
        if known is None or len(known.links) >= self._max_links:
            return None
        link = self._enter_link(peer, "", now)
        if link is None:
            return None
        number = link.id
        known.links.append(number)
        known.connecting = False
        known.retry_at = 0.0
        queue, known.queue, known.waiting = known.queue, [], 0
        for data in queue:
            self._write(link, data)
        self._release(peer, now)
        return number

    def node_link_opened(self, now: float, address: str = "") -> int | None:
        """Report a connection that a node has opened.

        Args:
            now: The time.
            address: The node's address as text, whose requests share their bounds.

        Returns:
            The link's number; ``None`` if no room is left, so that the transport must be dropped.
        """
        if self._node_links >= self._max_node_links:
            return None
        link = self._enter_link(None, address, now)
        if link is None:
            return None
        self._node_links += 1
        return link.id

    def _enter_link(self, peer: str | None, address: str, now: float) -> _Link | None:
        number = self._last_link - 1
        # A refusal is the relay's only possible answer, and then it has not recorded the
        # connection.
        if self.relay.connection_opened(number, now, peer=peer, node=peer is None, address=address):
            return None
        self._last_link = number
        link = _Link(number, peer=peer, parser=MsrpStreamParser(limits=self.relay.limits, cut=True))
        self._sources[number] = self._links[number] = link
        return link

    def link_failed(self, peer: str, now: float) -> None:
        """Report that a connection to a peer could not be opened.

        Args:
            peer: The name of the peer; a node that has left is ignored.
            now: The time.
        """
        known = self._peers.get(peer)
        if known is None:
            return
        known.connecting = False
        known.queue, known.waiting = [], 0
        known.retry_at = now + self._retry_after
        if not known.links:
            self._do(self.relay.peer_unreachable(peer, now), now)
        self._release(peer, now)

    def link_received(self, link: int, data: bytes, now: float) -> None:
        """Take bytes received on a link. Do not read from it while it is not :meth:`wanted`.

        Args:
            link: Its number; an unknown one is ignored.
            data: The bytes, split anywhere.
            now: The time.
        """
        known = self._links.get(link)
        if known is None:
            return
        for chunk in known.parser.receive(data):
            self._take(known, chunk, now)
        self._end_if_broken(known, now)

    def link_backlog(self, link: int, size: int, now: float) -> None:
        """Report how much of a link's output its transport has not taken yet.

        Args:
            link: Its number; an unknown one is ignored.
            size: How many bytes wait in the transport's own buffer.
            now: The time.
        """
        known = self._links.get(link)
        if known is not None:
            known.backlog = size
            self._release(link, now)
            if known.peer is not None:
                self._release(known.peer, now)

    def link_lost(self, link: int, now: float) -> None:
        """Report that a link is gone.

        Args:
            link: Its number; an unknown one is ignored.
            now: The time.
        """
        known = self._links.get(link)
        if known is not None:
            self._outputs.pop(link, None)
            self._forget_link(known, now)

    def wanted(self, link: int) -> bool:
        """Return whether to read from a link: it need not wait, and takes its own answers."""
        known = self._links.get(link)
        return known is not None and known.waits_for is None and self._writable(link)

    def take_output(self) -> list[LinkOutput]:
        """Take the instructions for the links; call it after every other call."""
        outputs, self._outputs = self._outputs, {}
        taken = []
        for link in outputs.values():
            data = b"".join(link.out)
            link.out, link.waiting = [], 0
            # The transport reports how much of it it has not taken.
            link.backlog += len(data)
            taken.append(LinkOutput(link.id, data, link.closing))
        return taken

    def _write(self, link: _Link, data: bytes) -> None:
        link.out.append(data)
        link.waiting += len(data)
        self._outputs[link.id] = link

    def _end_if_broken(self, link: _Link, now: float) -> None:
        """Close a link that can no longer be framed, after processing the chunks before that."""
        if link.parser.error is not None and link.waits_for is None and not link.closing:
            self._close_link(link, now)

    def _close_link(self, link: _Link, now: float) -> None:
        link.closing = True
        self._outputs[link.id] = link
        self._forget_link(link, now)

    def _forget_link(self, link: _Link, now: float) -> None:
        del self._links[link.id]
        if link.peer is None:
            self._node_links -= 1
        elif link.peer in self._peers:
            self._peers[link.peer].links.remove(link.id)
        self._forget_source(link, now)
        if link.peer is not None:
            self._release(link.peer, now)

    # -- what the relay asks for -------------------------------------------------------------------

    def _take(self, source: _Source, data: bytes, now: float) -> None:
        """Process a chunk."""
        if source.waits_for is not None:
            source.inbox.append(data)
            return
        actions = self.relay.receive(source.id, data, now)
        for position, action in enumerate(actions):
            target = self._perform(action, source, now)
            if target is not None:
                source.actions.extend(actions[position:])
                self._hold(source, target, now)
                return

    def _do(self, actions: list[RelayAction], now: float) -> None:
        """Perform actions not caused by a chunk: answers and reports, which hold up no sender."""
        for action in actions:
            self._perform(action, None, now)

    def _perform(self, action: RelayAction, source: _Source | None, now: float) -> _Target | None:
        """Perform an action of the relay, or return the target for which the source has to wait.

        An answer to the source itself does not wait: its transport stops reading from it. Neither
        does a report to another sender about the outcome of that sender's own request.
        """
        if isinstance(action, SendChunk | ForwardToPeer) and action.outcome:
            source = None
        if isinstance(action, SendChunk):
            number = action.cid
            if source is not None and source.id != number and not self._writable(number):
                return number
            link = self._links.get(number)
            if link is not None:
                self._write(link, action.data)
            else:
                self._send(number, action.data, now)
        elif isinstance(action, ForwardToPeer):
            if source is not None and not self._writable(action.peer):
                return action.peer
            self._forward(action.peer, action.data, now)
        elif isinstance(action, AskQuestion):
            self._questions.append(action)
        elif action.cid in self._links:
            self._close_link(self._links[action.cid], now)
        else:
            self._close(action.cid, action.reason, now)
        return None

    def _send(self, cid: int, data: bytes, now: float) -> None:
        """Send a chunk as a message, as text if possible (RFC 7977 §4.2)."""
        message: TextMessage | BytesMessage
        try:
            message = TextMessage(data.decode())
        except UnicodeDecodeError:
            message = BytesMessage(data)
        try:
            self._endpoint.send(cid, message, now)
        except (LocalProtocolError, UnknownConnectionError):
            # It is closing, or gone.
            return

    def _forward(self, name: str, data: bytes, now: float) -> None:
        peer = self._peers.get(name)
        if peer is None:
            # The node has left while its sender waited; the relay has reported it.
            return
        if peer.links:
            self._write(self._links[peer.links[-1]], data)
            return
        if now < peer.retry_at:
            self._do(self.relay.peer_unreachable(name, now), now)
            return
        peer.queue.append(data)
        peer.waiting += len(data)
        if not peer.connecting:
            peer.connecting = True
            self._connects.append(name)

    # -- back-pressure -----------------------------------------------------------------------------

    def _writable(self, target: _Target) -> bool:
        """Return whether a receiver takes more; a stalled one does not block its senders."""
        if isinstance(target, str):
            peer = self._peers.get(target)
            if peer is None or not peer.links:
                return peer is None or peer.waiting < _HIGH_WATER
            target = peer.links[-1]
        link = self._links.get(target)
        if link is not None:
            return link.waiting + link.backlog < _HIGH_WATER
        entry = self._endpoint.registry.get(target)
        if entry is None:
            return True
        session = entry.session
        return session.writable or session.state is not ConnectionState.OPEN

    def _stalls_of(self, source: _Source) -> OrderedDict[_Source, tuple[float, _Target]]:
        node = isinstance(source, _Link) and source.peer is None
        return self._node_stalls if node else self._stalls

    def _hold(self, source: _Source, target: _Target, now: float) -> None:
        """Let a source wait for a receiver."""
        source.waits_for = target
        self._waiting.setdefault(target, deque()).append(source)
        stalls = self._stalls_of(source)
        timeout = self._stall_timeout if stalls is self._stalls else self._node_stall_timeout
        stalls[source] = (now + timeout, target)
        if source.id > 0:
            self._endpoint.pause(source.id, now)

    def _release(self, target: _Target, now: float) -> None:
        """Let the sources waiting for a receiver continue, in turn, while it has room."""
        while (waiting := self._waiting.get(target)) and self._writable(target):
            source = waiting.popleft()
            source.waits_for = None
            del self._stalls_of(source)[source]
            self._go_on(source, now)
        if waiting is not None and not waiting:
            del self._waiting[target]

    def _go_on(self, source: _Source, now: float) -> None:
        """Perform the remaining work of a source, until it has to wait again."""
        while True:
            while source.actions:
                target = self._perform(source.actions[0], source, now)
                if target is not None:
                    self._hold(source, target, now)
                    return
                source.actions.popleft()
            if not source.inbox:
                break
            source.actions.extend(self.relay.receive(source.id, source.inbox.popleft(), now))
        if isinstance(source, _Link):
            self._end_if_broken(source, now)
        else:
            self._endpoint.resume(source.id, now)

    def _forget_source(self, source: _Source, now: float) -> None:
        """Forget a connection that has ended: none waits for it, and it waits for none."""
        del self._sources[source.id]
        if source.waits_for is not None:
            self._waiting[source.waits_for].remove(source)
            del self._stalls_of(source)[source]
            # The actions it caused before it ended are still performed.
            source.waits_for = None
            for action in source.actions:
                self._perform(action, None, now)
        self._do(self.relay.connection_closed(source.id, now), now)
        self._release(source.id, now)

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return the earliest time for :meth:`handle_timeout`; ``None`` for never."""
        earliest = self.relay.next_deadline()
        for stalls in (self._stalls, self._node_stalls):
            for stall, _ in stalls.values():
                if earliest is None or stall < earliest:
                    earliest = stall
                break
        return earliest

    def handle_timeout(self, now: float) -> None:
        """Perform the actions that are due; an early or repeated call does nothing.

        Args:
            now: The time.
        """
        self._do(self.relay.handle_timeout(now), now)
        for stalls in (self._stalls, self._node_stalls):
            while stalls:
                deadline, target = next(iter(stalls.values()))
                if deadline > now:
                    break
                self._end_slow_receiver(target, now)

    def _end_slow_receiver(self, target: _Target, now: float) -> None:
        """End a receiver that keeps senders waiting."""
        if isinstance(target, str):
            peer = self._peers[target]
            if not peer.links:
                self.link_failed(target, now)
                return
            target = peer.links[-1]
        link = self._links.get(target)
        if link is not None:
            self._close_link(link, now)
            return
        self._do(self.relay.connection_closed(target, now), now)
        self._close(target, "reads too slowly", now)
        self._release(target, now)

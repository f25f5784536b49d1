"""An MSRP relay on the connections of an endpoint, and on those with its peers over TCP.

Theory of operation: :class:`MsrpApplication` stands between transports and
:class:`~wsproto_sip.msrp.relay.MsrpRelay`. WebSocket connections are the endpoint's: their events
come in through :meth:`MsrpApplication.handle`, and what is for them goes out through the endpoint.
Connections with peers are *links*; they are framed here, and whoever has their sockets reports
what happens to them and takes what to write. Both share one space of numbers: the endpoint's count
up from 1, links down from -1.

Nothing queues up for a receiver that reads slowly. What a sender's chunk asks for is done one step
after the other, and where the next step would write to a receiver that has enough already, the
sender is held back with all that came from it and not read any further, until there is room. A
receiver for which somebody has waited too long is dropped. So a receiver costs its high-water mark
and one chunk, whoever sends to it, and a sender one read. What a response leads to holds back
nobody: it is for the sender of the request, who could else stop a receiver by not reading, and who
has itself sent as many requests as there can be of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..events import BytesMessage, TextMessage
from ..frame_protocol import CloseReason
from ..server.endpoint_events import Closed, Opened, UnknownConnectionError, Writable
from ..states import ConnectionState
from ..subprotocols import MSRP
from ..utilities import LocalProtocolError
from .relay_config import ForwardToPeer, RelayAction, SendChunk
from .stream import MsrpStreamParser

if TYPE_CHECKING:
    from ..events import Event
    from ..server.endpoint import Endpoint
    from .relay import MsrpRelay

__all__ = ["LinkOutput", "MsrpApplication"]

#: Where chunks go: a connection by its number, or a peer by its name.
_Target = int | str

#: Octets that may wait for a peer before its senders have to.
_HIGH_WATER: Final = 64 * 1024

#: The refusal of a connection that anybody could read along.
_INSECURE: Final = "MSRP needs wss"


@dataclass(frozen=True, slots=True)
class LinkOutput:
    """What to do with a link's transport.

    Args:
        link: The link.
        data: Octets to write.
        close: Whether to close it then; the application has forgotten it already.
    """

    link: int
    data: bytes
    close: bool = False


@dataclass(slots=True, eq=False)
class _Source:
    """Where chunks come from, and what of them is still to be done."""

    id: int
    inbox: deque[bytes] = field(default_factory=deque)
    actions: deque[RelayAction] = field(default_factory=deque)
    #: Whom it waits for.
    waits_for: _Target | None = None


@dataclass(slots=True, eq=False)
class _Link(_Source):
    """A connection with a peer."""

    peer: str = ""
    parser: MsrpStreamParser = field(default_factory=MsrpStreamParser)
    out: list[bytes] = field(default_factory=list)
    #: Octets in ``out``, and those the transport has not taken yet.
    waiting: int = 0
    backlog: int = 0
    closing: bool = False


@dataclass(slots=True, eq=False)
class _Peer:
    """A configured peer: its links, or what waits for one."""

    links: list[int] = field(default_factory=list)
    connecting: bool = False
    queue: list[bytes] = field(default_factory=list)
    waiting: int = 0
    #: Before this, there is no use in trying again.
    retry_at: float = 0.0


class MsrpApplication:
    """A relay on an endpoint.

    Connections whose sub-protocol is not ``msrp`` are passed over, so other applications can share
    the endpoint. Sessions that speak it must deliver whole messages, text as octets; see
    :func:`~wsproto_sip.server.endpoint_config.subprotocol_profiles`.

    Args:
        endpoint: The WebSocket connections.
        relay: The relay; nobody else may use it meanwhile.
        allow_insecure: Whether connections without TLS are let in, which RFC 7977 §5.1 forbids
            outside test networks; else they are closed with 1008.
        stall_timeout: Seconds that a sender waits for a slow receiver before that is dropped. By
            then, what waits has been reported as failed.
        retry_after: Seconds for which a peer that could not be reached is not tried again.
        max_links: Connections with one peer.
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
    ) -> None:
        self._endpoint = endpoint
        self._relay = relay
        self._allow_insecure = allow_insecure
        self._stall_timeout = stall_timeout
        self._retry_after = retry_after
        self._max_links = max_links
        self._sources: dict[int, _Source] = {}
        self._links: dict[int, _Link] = {}
        self._peers = {name: _Peer() for name in relay.peers}
        self._last_link = 0
        self._connects: list[str] = []
        self._outputs: dict[int, _Link] = {}
        #: Who waits for whom, those who came first in front.
        self._waiting: dict[_Target, deque[_Source]] = {}
        #: When they have waited too long, the earliest first.
        self._stalls: OrderedDict[_Source, tuple[float, _Target]] = OrderedDict()

    # -- WebSocket connections ---------------------------------------------------------------------

    def handle(self, cid: int, event: Event, now: float) -> bool:
        """Takes an event of the endpoint.

        Args:
            cid: The connection it happened on.
            event: The event.
            now: The time.

        Returns:
            Whether it is a connection that speaks MSRP, so that nobody else has to look.
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
            self._gone(source, now)
        return True

    def _on_opened(self, event: Opened, now: float) -> bool:
        cid = event.cid
        # On a connection that this side has opened there would be nobody to relay for.
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
        self._do(self._relay.connection_made(cid, now, identity=identity), now)
        return True

    def _close(self, cid: int, reason: str, now: float) -> None:
        # It may have gone by itself.
        with suppress(UnknownConnectionError):
            self._endpoint.close(cid, CloseReason.POLICY_VIOLATION, reason, now=now)

    # -- links with peers --------------------------------------------------------------------------

    def take_connects(self) -> list[str]:
        """Takes the names of the peers that a connection is to be opened to.

        Report it with :meth:`link_opened` or :meth:`link_failed`.
        """
        connects, self._connects = self._connects, []
        return connects

    def link_opened(self, peer: str, now: float) -> int | None:
        """A connection with a peer is there, whoever opened it.

        Args:
            peer: The name of the peer; the caller knows it by the address.
            now: The time.

        Returns:
            The link's number; None where there is no room, so the transport is to be dropped.
        """
        known = self._peers[peer]
        number = self._last_link - 1
        # The relay answers with nothing but a refusal, and then has not taken note of it.
        if len(known.links) >= self._max_links or self._relay.connection_made(
            number, now, peer=peer
        ):
            return None
        self._last_link = number
        link = _Link(
            number, peer=peer, parser=MsrpStreamParser(limits=self._relay.limits, cut=True)
        )
        self._sources[number] = self._links[number] = link
        known.links.append(number)
        known.connecting = False
        known.retry_at = 0.0
        queue, known.queue, known.waiting = known.queue, [], 0
        for data in queue:
            self._write(link, data)
        self._release(peer, now)
        return number

    def link_failed(self, peer: str, now: float) -> None:
        """A connection to a peer could not be opened.

        Args:
            peer: The name of the peer.
            now: The time.
        """
        known = self._peers[peer]
        known.connecting = False
        known.queue, known.waiting = [], 0
        known.retry_at = now + self._retry_after
        if not known.links:
            self._do(self._relay.peer_unreachable(peer, now), now)
        self._release(peer, now)

    def link_received(self, link: int, data: bytes, now: float) -> None:
        """Octets have come on a link. While it is not :meth:`wanted`, none should be read.

        Args:
            link: Its number; an unknown one is passed over.
            data: The octets, cut anywhere.
            now: The time.
        """
        known = self._links.get(link)
        if known is None:
            return
        for chunk in known.parser.receive(data):
            self._take(known, chunk, now)
        self._end_if_broken(known, now)

    def link_backlog(self, link: int, octets: int, now: float) -> None:
        """Tells how much of a link's output its transport has not taken yet.

        Args:
            link: Its number; an unknown one is passed over.
            octets: How many wait in the transport's own buffer.
            now: The time.
        """
        known = self._links.get(link)
        if known is not None:
            known.backlog = octets
            self._release(link, now)
            self._release(known.peer, now)

    def link_lost(self, link: int, now: float) -> None:
        """A link is gone.

        Args:
            link: Its number; an unknown one is passed over.
            now: The time.
        """
        known = self._links.get(link)
        if known is not None:
            self._outputs.pop(link, None)
            self._forget_link(known, now)

    def wanted(self, link: int) -> bool:
        """Whether a link may be read from: it waits for nobody, and takes its own answers."""
        known = self._links.get(link)
        return known is not None and known.waits_for is None and self._writable(link)

    def take_output(self) -> list[LinkOutput]:
        """Takes what is to be done with the links; call it after every other call."""
        outputs, self._outputs = self._outputs, {}
        taken = []
        for link in outputs.values():
            data = b"".join(link.out)
            link.out, link.waiting = [], 0
            # What the transport makes of it is told, if it does not take it at once.
            link.backlog += len(data)
            taken.append(LinkOutput(link.id, data, link.closing))
        return taken

    def _write(self, link: _Link, data: bytes) -> None:
        link.out.append(data)
        link.waiting += len(data)
        self._outputs[link.id] = link

    def _end_if_broken(self, link: _Link, now: float) -> None:
        """Closes a link that can no longer be framed, when all that came before has been done."""
        if link.parser.error is not None and link.waits_for is None and not link.closing:
            self._close_link(link, now)

    def _close_link(self, link: _Link, now: float) -> None:
        link.closing = True
        self._outputs[link.id] = link
        self._forget_link(link, now)

    def _forget_link(self, link: _Link, now: float) -> None:
        del self._links[link.id]
        self._peers[link.peer].links.remove(link.id)
        self._gone(link, now)
        self._release(link.peer, now)

    # -- what the relay asks for -------------------------------------------------------------------

    def _take(self, source: _Source, data: bytes, now: float) -> None:
        """Takes a chunk."""
        if source.waits_for is not None:
            source.inbox.append(data)
            return
        actions = self._relay.receive(source.id, data, now)
        for position, action in enumerate(actions):
            target = self._perform(action, source, now)
            if target is not None:
                source.actions.extend(actions[position:])
                self._hold(source, target, now)
                return

    def _do(self, actions: list[RelayAction], now: float) -> None:
        """Does what no chunk has asked for: answers and reports, which hold nobody back."""
        for action in actions:
            self._perform(action, None, now)

    def _perform(self, action: RelayAction, source: _Source | None, now: float) -> _Target | None:
        """Does what the relay asks for, or tells for whom the source has to wait with it.

        What goes back to the source itself does not wait: its transport stops reading from it.
        Nor does what tells somebody else the outcome of his own request.
        """
        if isinstance(action, SendChunk | ForwardToPeer) and action.outcome:
            source = None
        if isinstance(action, SendChunk):
            number = action.connection_id
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
        elif action.connection_id in self._links:
            self._close_link(self._links[action.connection_id], now)
        else:
            self._close(action.connection_id, action.reason, now)
        return None

    def _send(self, cid: int, data: bytes, now: float) -> None:
        """Sends a chunk as a message, text where it can be (RFC 7977 §4.2)."""
        message: TextMessage | BytesMessage
        try:
            message = TextMessage(data.decode())
        except UnicodeDecodeError:
            message = BytesMessage(data)
        try:
            self._endpoint.send(cid, message, now)
        except (LocalProtocolError, UnknownConnectionError):
            # It is closing, or has gone.
            return

    def _forward(self, name: str, data: bytes, now: float) -> None:
        peer = self._peers[name]
        if peer.links:
            self._write(self._links[peer.links[-1]], data)
            return
        if now < peer.retry_at:
            self._do(self._relay.peer_unreachable(name, now), now)
            return
        peer.queue.append(data)
        peer.waiting += len(data)
        if not peer.connecting:
            peer.connecting = True
            self._connects.append(name)

    # -- back-pressure -----------------------------------------------------------------------------

    def _writable(self, target: _Target) -> bool:
        """Whether a receiver takes more; one that takes nothing any more holds nobody back."""
        if isinstance(target, str):
            peer = self._peers[target]
            if not peer.links:
                return peer.waiting < _HIGH_WATER
            target = peer.links[-1]
        link = self._links.get(target)
        if link is not None:
            return link.waiting + link.backlog < _HIGH_WATER
        entry = self._endpoint.registry.get(target)
        if entry is None:
            return True
        session = entry.session
        return session.writable or session.state is not ConnectionState.OPEN

    def _hold(self, source: _Source, target: _Target, now: float) -> None:
        """Lets a source wait for a receiver."""
        source.waits_for = target
        self._waiting.setdefault(target, deque()).append(source)
        self._stalls[source] = (now + self._stall_timeout, target)
        if source.id > 0:
            self._endpoint.pause(source.id, now)

    def _release(self, target: _Target, now: float) -> None:
        """Lets those go on who wait for a receiver, in turn, while it has room."""
        while (waiting := self._waiting.get(target)) and self._writable(target):
            source = waiting.popleft()
            source.waits_for = None
            del self._stalls[source]
            self._go_on(source, now)
        if waiting is not None and not waiting:
            del self._waiting[target]

    def _go_on(self, source: _Source, now: float) -> None:
        """Does what is left of a source, until it has to wait again."""
        while True:
            while source.actions:
                target = self._perform(source.actions[0], source, now)
                if target is not None:
                    self._hold(source, target, now)
                    return
                source.actions.popleft()
            if not source.inbox:
                break
            source.actions.extend(self._relay.receive(source.id, source.inbox.popleft(), now))
        if isinstance(source, _Link):
            self._end_if_broken(source, now)
        else:
            self._endpoint.resume(source.id, now)

    def _gone(self, source: _Source, now: float) -> None:
        """A connection has ended: nobody waits for it, and it waits for nobody."""
        del self._sources[source.id]
        if source.waits_for is not None:
            self._waiting[source.waits_for].remove(source)
            del self._stalls[source]
            # What it asked for before it went is still done.
            source.waits_for = None
            for action in source.actions:
                self._perform(action, None, now)
        self._do(self._relay.connection_lost(source.id, now), now)
        self._release(source.id, now)

    # -- time --------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has something to do at the earliest; None for never."""
        relay = self._relay.next_deadline()
        if not self._stalls:
            return relay
        stall, _ = next(iter(self._stalls.values()))
        return stall if relay is None else min(relay, stall)

    def handle_timeout(self, now: float) -> None:
        """Does what is due; an early or repeated call does nothing.

        Args:
            now: The time.
        """
        self._do(self._relay.handle_timeout(now), now)
        while self._stalls:
            deadline, target = next(iter(self._stalls.values()))
            if deadline > now:
                break
            self._drop(target, now)

    def _drop(self, target: _Target, now: float) -> None:
        """Ends a receiver that keeps others waiting."""
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
        self._do(self._relay.connection_lost(target, now), now)
        self._close(target, "reads too slowly", now)
        self._release(target, now)

"""Where a request goes, and what it gets on the way: the routing of an edge, without state.

Theory of operation: what a message says never becomes an address to send to. A flow token or an
alias is looked up among the live connections, a user among the bindings, and everything else goes
to the configured upstream or nowhere.

In a dialog, Route holds what :meth:`EdgeRouter.prepare` had written into Record-Route: one value
for each side of the edge. In Outbound mode a value towards a connection carries its flow token, so
the last of the values taken out of Route says where the request leaves the edge; in alias mode the
Request-URI says it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .alias import AliasResult, add_contact_alias, handle_ruri_alias
from .edge_config import EdgeConfig, EdgeMode, Peer
from .forking import Target, fork_groups
from .message import SipMessage, SipRequest
from .outbound import Flow, FlowTokens, resolve_flow
from .params import Params
from .path import add_path, apply_path
from .registrar import Registrar
from .routing import Rejection, loose_route, prepare_next_hop, push_via, record_route
from .transport import Source
from .uri import SipUri
from .via import Via

__all__ = ["Connection", "Connections", "EdgeRouter"]

#: Requests that can begin a dialog, or a usage of one (RFC 3261 §12, RFC 6665, RFC 3515).
_BEGINNINGS = ("INVITE", "SUBSCRIBE", "REFER", "NOTIFY")
#: How often two routes of ours may follow each other: once, and after a passage of the upstream
#: that did not record itself.
_PASSAGES = 2
#: Ports that are tried for an alias where the source is not unique.
_ALIAS_TRIES = 64


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection.

    Args:
        flow: Its name.
        peer: Who is at the other end.
        alias: What stands for it in aliases: the source, or another port where it is taken.
    """

    flow: Flow
    peer: Peer
    alias: Source
    #: Users who have proven on it who they are.
    proven: set[str] = field(default_factory=set)

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return self.peer.source


class Connections:
    """The live connections, by id, by flow and by alias.

    Args:
        generation: Where to begin to count; a random number keeps the tokens of an earlier run
            from naming a connection of this one.
    """

    def __init__(self, generation: int = 0) -> None:
        self._by_id: dict[int, Connection] = {}
        self._by_alias: dict[Source, Connection] = {}
        self._generation = generation

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_id)

    def get(self, cid: int) -> Connection | None:
        """The connection of an id."""
        return self._by_id.get(cid)

    def add(self, cid: int, peer: Peer) -> Connection:
        """Take one in.

        Raises:
            ValueError: The id is in use.
        """
        if cid in self._by_id:
            raise ValueError(f"connection {cid} is there already")
        self._generation = (self._generation + 1) % 2**32
        alias = peer.source
        # Behind a proxy that does not tell ports, or on a Unix socket, sources are not unique.
        for _ in range(_ALIAS_TRIES):
            if alias not in self._by_alias:
                break
            alias = Source(alias.host, (alias.port + 1) % 65536, alias.transport)
        else:
            # An address that nobody has (RFC 6666), numbered as the flow is.
            high, low = divmod(self._generation, 65536)
            alias = Source(f"100::{high:x}:{low:x}", alias.port, alias.transport)
        connection = Connection(Flow(cid, self._generation), peer, alias)
        self._by_id[cid] = self._by_alias[alias] = connection
        return connection

    def remove(self, cid: int) -> Connection | None:
        """Forget one; ``None`` where it is not there."""
        connection = self._by_id.pop(cid, None)
        if connection is not None:
            del self._by_alias[connection.alias]
        return connection

    def of(self, flow: Flow) -> Connection | None:
        """The connection of a flow, if it is that very one."""
        connection = self._by_id.get(flow.connection)
        return connection if connection is not None and connection.flow == flow else None

    def is_alive(self, flow: Flow) -> bool:
        """Whether a flow's connection exists."""
        return self.of(flow) is not None

    def at(self, alias: Source) -> Flow | None:
        """The flow that an alias stands for."""
        connection = self._by_alias.get(alias)
        return None if connection is None else connection.flow


class EdgeRouter:
    """Decides where requests go and writes what belongs on them.

    Args:
        config: The edge's configuration.
        connections: Its connections.
        registrar: Its registrar; ``None`` with an upstream.
        tokens: Its flow tokens.
    """

    def __init__(
        self,
        config: EdgeConfig,
        connections: Connections,
        registrar: Registrar | None,
        tokens: FlowTokens,
    ) -> None:
        self._config = config
        self._connections = connections
        self._registrar = registrar
        self._tokens = tokens
        upstream = config.upstream
        self._near = SipUri.make(config.host, port=config.port, transport="ws")
        self._own = {(config.host.lower(), config.port)}
        if upstream is not None:
            self._far = SipUri.make(upstream.local_host, port=upstream.local_port)
            far_via = Via(upstream.transport.upper(), self._far.host, self._far.port)
            if upstream.reliable:
                self._far = self._far.with_param("transport", "tcp")
            else:
                far_via = far_via.with_param("rport")
            self._far_via = far_via
            self._far_stream_via = Via("TCP", far_via.host, far_via.port, far_via.params)
            self._own.add((self._far.host.lower(), self._far.port))

    # -- what is ours ------------------------------------------------------------------------------

    def is_own_via(self, via: Via) -> bool:
        """Whether a Via is one of ours, by its sent-by."""
        return (via.host.lower(), via.port) in self._own

    def is_own(self, uri: SipUri) -> bool:
        """Whether a URI names this edge, by host and port or as a domain of it."""
        if (uri.host.lower(), uri.port) in self._own:
            return True
        return uri.port in (None, self._config.port) and self._config.own_domains.has(uri)

    def names_edge(self, request: SipRequest) -> bool:
        """Whether the Request-URI is the edge itself and no user of it.

        Raises:
            SipParseError: 400, for a bad Request-URI.
        """
        uri = request.uri
        return isinstance(uri, SipUri) and uri.user is None and self.is_own(uri)

    # -- where to ----------------------------------------------------------------------------------

    def follow(self, request: SipRequest) -> list[SipUri]:
        """Take our own routes from the top of Route; returns them in their order.

        Raises:
            SipParseError: 400, for a bad Route or Request-URI.
        """
        own: list[SipUri] = []
        for _ in range(_PASSAGES):
            followed = loose_route(request, self.is_own)
            own += followed.own
            if not followed.followed:
                break
        return own

    def destination(
        self, request: SipRequest, own: list[SipUri], origin: Flow | None, now: float
    ) -> list[list[Target]] | Rejection:
        """Where a request goes.

        Args:
            request: Without our routes.
            own: Those, from :meth:`follow`.
            origin: Where it came from; ``None`` for the upstream.
            now: The time, in seconds.

        Returns:
            Groups of targets, one to be tried after the other, or else the refusal, which is 400,
            403, 404, 416, 430 or 480.

        Raises:
            SipParseError: 400, for a bad Route.
        """
        by_route = self._by_route(request, own, origin, now)
        if by_route is not None:
            return by_route
        if self._registrar is None:
            if origin is not None:
                return [[Target(None)]]
            return Rejection(404, "the upstream sent what leads to no connection")
        if request.routes:
            return Rejection(403, "a route to somebody else")
        return self._by_registrar(self._registrar, request, now)

    def _by_route(
        self, request: SipRequest, own: list[SipUri], origin: Flow | None, now: float
    ) -> list[list[Target]] | Rejection | None:
        """The connection that our own routes lead to; ``None`` where they lead out again."""
        if not own:
            return None
        flow = resolve_flow(self._tokens, own[-1], self._connections.is_alive)
        if isinstance(flow, Rejection):
            # A GRUU outlives the connection that its client had when the dialog began.
            if flow.status == 430 and self._gruu_bindings(request, now):
                return None
            return flow
        if flow is None:
            # A further route goes before the Request-URI and its alias.
            if self._config.mode is not EdgeMode.ALIAS or request.routes:
                return None
            return self._by_alias(request)
        if flow == origin and len(own) == 1 and self._config.upstream is not None:
            # On its way out: the token is the sender's own (RFC 5626 §5.3.1).
            return None
        uri = next((uri for held, uri in self._gruu_bindings(request, now) if held == flow), None)
        return [[Target(flow, uri)]]

    def _by_alias(self, request: SipRequest) -> list[list[Target]] | Rejection | None:
        outcome = handle_ruri_alias(request, self._connections.at)
        if outcome.result is AliasResult.MALFORMED:
            return Rejection(400, "bad alias")
        if outcome.result is AliasResult.GONE:
            return Rejection(430, "the connection of the alias is gone")
        return None if outcome.connection is None else [[Target(outcome.connection)]]

    def _gruu_bindings(self, request: SipRequest, now: float) -> list[tuple[Flow | None, SipUri]]:
        """Flows and contacts behind a Request-URI that is a GRUU of ours (RFC 5627 §5.1)."""
        uri = request.uri
        if self._registrar is None or not isinstance(uri, SipUri) or "gr" not in uri.params:
            return []
        found = self._registrar.lookup(uri, now)
        if isinstance(found, Rejection):
            return []
        return [(binding.flow, binding.uri) for binding in found]

    def _by_registrar(
        self, registrar: Registrar, request: SipRequest, now: float
    ) -> list[list[Target]] | Rejection:
        uri = request.uri
        if not isinstance(uri, SipUri):
            return Rejection(416, f"Request-URI of scheme {uri.scheme}")
        found = registrar.lookup(uri, now)
        if isinstance(found, Rejection):
            return found
        if uri.scheme == "sips":
            # RFC 7118 §9.2, RFC 3261 §26.2.2: secure all the way or not at all.
            found = [binding for binding in found if self._is_secure(binding.flow)]
        live = [b for b in found if b.flow is not None and self._connections.is_alive(b.flow)]
        groups = fork_groups(live[: self._config.max_branches])
        return groups or Rejection(480, f"no usable binding of {uri!s:.100}")

    def _is_secure(self, flow: Flow | None) -> bool:
        connection = None if flow is None else self._connections.of(flow)
        return connection is not None and connection.source.transport == "wss"

    # -- what is written ---------------------------------------------------------------------------

    def alias_contact(self, message: SipMessage, origin: Flow | None) -> bool:
        """Write the alias of its sender into the Contact of a message, in alias mode.

        Returns:
            False for a Contact that cannot be read.
        """
        connection = None if origin is None else self._connections.of(origin)
        if self._config.mode is not EdgeMode.ALIAS or connection is None:
            return True
        return add_contact_alias(message, connection.alias) is not AliasResult.MALFORMED

    def add_path(self, request: SipRequest, origin: Flow) -> Rejection | None:
        """Put the edge and the client's flow into the Path of a REGISTER for the upstream.

        Returns:
            ``None``, or the refusal with 421: without Path the upstream could not reach the client.

        Raises:
            SipParseError: 400, for a bad Supported or Via.
        """
        uri = self._with_token(self._far, origin)
        if len(request.vias) == 1:
            uri = uri.with_param("ob")
        received = None
        if self._config.mode is EdgeMode.ALIAS:
            connection = self._connections.of(origin)
            received = None if connection is None else connection.alias
        return add_path(request, uri, received=received, required=True)

    def _with_token(self, uri: SipUri, flow: Flow) -> SipUri:
        return SipUri(uri.host, self._tokens.make(flow), uri.port, uri.params)

    def _side(self, flow: Flow | None) -> SipUri:
        """This edge as one side of a dialog sees it."""
        if flow is None:
            return self._far
        if self._config.mode is EdgeMode.OUTBOUND:
            return self._with_token(self._near, flow)
        return self._near

    def via(self, flow: Flow | None, branch: str, *, stream: bool = False) -> Via:
        """Our Via on a request that goes there.

        Args:
            flow: Where.
            branch: The branch parameter.
            stream: It goes over TCP to an upstream that is reached over UDP otherwise.
        """
        if flow is None:
            return (self._far_stream_via if stream else self._far_via).with_param("branch", branch)
        connection = self._connections.of(flow)
        transport = "WS" if connection is None else connection.source.transport.upper()
        return Via(transport, self._near.host, self._near.port, Params([("branch", branch)]))

    def prepare(
        self, request: SipRequest, target: Target, origin: Flow | None, branch: str
    ) -> SipRequest:
        """A copy of a request as it goes to a target (RFC 3261 §16.6 steps 1 to 8).

        Args:
            request: As it came, without our routes and with Max-Forwards counted.
            target: Where it goes.
            origin: Where it came from.
            branch: The branch parameter of our Via.

        Raises:
            SipParseError: 400, for a bad Route or Request-URI.
        """
        sent = request.copy()
        if target.uri is not None:
            sent.uri = target.uri
        apply_path(sent, target.path)
        if sent.method in _BEGINNINGS and sent.to.tag is None:
            record_route(sent, self._side(origin), self._side(target.flow))
        prepare_next_hop(sent)
        push_via(sent, self.via(target.flow, branch))
        return sent

"""The routing of an edge, without state: where a request goes, and what is added on the way.

Theory of operation: the contents of a message never become an address to send to. A flow token or
an alias is looked up among the live connections, a user among the bindings, and everything else
goes to the configured upstreams or nowhere.

In a dialog, Route contains what :meth:`EdgeRouter.prepare` had written into Record-Route: one value
per side of the edge. A value towards a connection carries a flow token. In Outbound mode that is
the user part, so the last of the values taken out of Route says where the request leaves the edge.
In alias mode the Request-URI says it, and the token is a parameter.

The token is made for one dialog and one side of it: for the Call-ID, whether the connection is the
caller's or the callee's, the caller's tag, the addresses of both in From and To, and the user of
the connection. It thus proves to which side a request within that dialog belongs, without the edge
keeping dialogs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ..message.address import NameAddr
from ..message.errors import SipParseError
from ..message.message import SipMessage, SipRequest, SipResponse
from ..message.transport import TRANSPORT_NUMBERS, Source, default_port
from ..message.uri import SipUri, Uri, host_key
from ..message.via import Via
from ..registrar.registrar import Registrar
from ..registrar.store import Binding, Found, Lookup
from ..rules.alias import SEAL, AliasResult, add_contact_alias, handle_ruri_alias
from ..rules.outbound import Flow, FlowTokens, instance_id, node_id, resolve_flow
from ..rules.path import add_path, apply_path
from ..rules.routing import (
    Rejection,
    loose_route,
    prepare_next_hop,
    push_via,
    record_route,
    simplify_vias,
)
from .config import EdgeConfig, EdgeMode, Upstream
from .connections import Connections, EdgeConnection
from .forking import Target, fork_groups
from .upstreams import Upstreams

__all__ = ["EdgeRouter", "is_sips"]

#: Requests that can start a dialog, or a usage of one (RFC 3261 §12, RFC 6665, RFC 3515).
_BEGINNINGS = ("INVITE", "SUBSCRIBE", "REFER", "NOTIFY")
#: Requests that belong to a dialog if they carry its tags. Clients show a MESSAGE whether they know
#: the dialog or not, and a registrar accepts a REGISTER, or a PUBLISH, whatever its tags.
_WITHIN = frozenset(
    (
        "ACK",
        "BYE",
        "CANCEL",
        "INFO",
        "INVITE",
        "NOTIFY",
        "OPTIONS",
        "PRACK",
        "REFER",
        "SUBSCRIBE",
        "UPDATE",
    )
)
#: Removed upstreams that are remembered, for pending requests and dialogs.
_RETIRED = 100
#: How many of our routes may follow each other: one passage, and another one after a pass through
#: an upstream that did not record itself.
_PASSAGES = 2


class EdgeRouter:
    """Decide where requests go, and add our header fields.

    Args:
        config: The edge's configuration.
        connections: Its connections.
        registrar: Its registrar; ``None`` with an upstream.
        tokens: Its flow tokens.
        upstreams: Its upstreams.
    """

    def __init__(
        self,
        config: EdgeConfig,
        connections: Connections,
        registrar: Registrar | None,
        tokens: FlowTokens,
        upstreams: Upstreams,
    ) -> None:
        self._config = config
        self._domains = config.own_domains
        self._connections = connections
        self._registrar = registrar
        self._tokens = tokens
        self._upstreams = upstreams
        self._near = SipUri.make(config.host, port=config.port, transport="ws")
        self._near_sips = _as_sips(self._near)
        self._near_vias = {
            transport: Via(transport.upper(), self._near.host, self._near.port)
            for transport in TRANSPORT_NUMBERS
        }
        self._own = {(self._near.host_key, config.port)}
        # With a reverse proxy that terminates TLS, clients know the server by the proxy's port.
        self._ports = (None, config.port, default_port("ws"), default_port("wss"))
        self._names = {
            (SipUri.make(host).host_key, port)
            for host, given in config.names
            for port in (self._ports if given is None else (given,))
        }
        #: The edge as seen by each upstream, by its name, and upstreams by their host names.
        self._far: dict[str, _FarSide] = {}
        self._by_address: dict[tuple[str, int], str] = {}
        #: The other nodes, by what their tokens begin with.
        self._by_node: dict[bytes, str] = {}
        self.upstreams_changed()

    def upstreams_changed(self) -> None:
        """Update the upstreams.

        What was written towards a removed one still counts as ours: dialogs outlive it.
        """
        self._by_address = {}
        self._by_node = {
            node_id(upstream.name, "")[:4]: upstream.name
            for upstream in self._upstreams
            if upstream.is_node
        }
        for upstream in self._upstreams:
            self._far.pop(upstream.name, None)
            self._far[upstream.name] = far = _FarSide.towards(upstream)
            self._own.add((far.uri.host_key, far.uri.port))
            for host in (upstream.host, *upstream.aliases):
                address = SipUri.make(host).host_key, upstream.port
                # A name that several servers share, as with SRV, leads to none in particular.
                known = self._by_address.setdefault(address, upstream.name)
                if known != upstream.name:
                    self._by_address[address] = ""
        self._hosts = {host for host, _ in (*self._own, *self._names)}
        # The oldest are first.
        for name in list(self._far)[: -len(self._upstreams) - _RETIRED]:
            del self._far[name]

    # -- our own names
    # ------------------------------------------------------------------------------

    def is_own_via(self, via: Via) -> bool:
        """Return whether a Via is ours, by its sent-by."""
        return (host_key(via.host), via.port) in self._own

    def is_own(self, uri: SipUri) -> bool:
        """Return whether a URI names this edge, by host and port or as one of its domains."""
        if self._by_node and self._tokens.node_of(uri.user or "") in self._by_node:
            # All nodes may have one name towards clients.
            return False
        name = uri.host_key, uri.port
        if name in self._own or name in self._names:
            return True
        if uri.port not in self._ports:
            return False
        if self._domains.has(uri):
            return True
        # Without port and transport it means port 5060 there, possibly an upstream.
        same = name[0] == self._near.host_key
        return same and (uri.port is not None or uri.transport in ("ws", "wss"))

    def upstream_named(self, uri: Uri) -> str | None:
        """Return the name of the upstream whose address a URI is.

        Args:
            uri: Any URI. It names an upstream by host and port as configured.

        Returns:
            The name; empty if the URI is that of several, and ``None`` for no upstream.
        """
        if not isinstance(uri, SipUri):
            return None
        secure = uri.scheme == "sips" or uri.transport == "tls"
        port = uri.port or default_port("tls" if secure else "udp")
        return self._by_address.get((uri.host_key, port))

    def is_for_strangers(self, uri: Uri) -> bool:
        """Return whether a Request-URI is open to strangers: our domains, the edge or an upstream.

        An unauthenticated client gets no further.
        """
        if not isinstance(uri, SipUri):
            return False
        if self._config.open_to_strangers or self._domains.has(uri):
            return True
        return self.is_own(uri) or self.upstream_named(uri) is not None

    def is_for_registrar(self, uri: Uri) -> bool:
        """Return whether a Request-URI names one of our domains, or this edge.

        Clients write the server's name into a REGISTER with any port, or none.
        """
        if not isinstance(uri, SipUri):
            return False
        return self._domains.has(uri) or uri.host_key in self._hosts

    def names_user(self, uri: Uri) -> bool:
        """Return whether a Request-URI names a local user or domain, not a client itself.

        A client's own is a GRUU, or a Contact as browsers have them, in a domain that is none.
        """
        if not isinstance(uri, SipUri) or not self._domains.has(uri):
            return False
        return uri.params.get("gr") is None and not uri.host_key.endswith(".invalid")

    def names_edge(self, request: SipRequest) -> bool:
        """Return whether the Request-URI is the edge itself and not a user.

        Raises:
            SipParseError: 400, for a bad Request-URI.
        """
        uri = request.uri
        return isinstance(uri, SipUri) and uri.user is None and self.is_own(uri)

    def is_in_dialog(
        self, request: SipRequest, own: Sequence[SipUri], connection: EdgeConnection
    ) -> bool:
        """Return whether a request belongs to a dialog that began here, as its route can prove.

        Methods that do not depend on a dialog never count as part of one.

        Args:
            request: The request without our routes.
            own: Our routes, from :meth:`follow`.
            connection: The client's connection that it came on.

        Raises:
            SipParseError: 400, for a bad From, To or Call-ID.
        """
        return request.method in _WITHIN and self.has_dialog(request, own, connection)

    def has_dialog(
        self, request: SipRequest, own: Sequence[SipUri], connection: EdgeConnection
    ) -> bool:
        """Return whether one of our own routes is for the request's dialog and its sender.

        The route of the other side proves nothing while that side is connected. When it is gone,
        its user may continue on another connection.

        Args:
            request: The request without our routes.
            own: Our routes, from :meth:`follow`.
            connection: The client's connection that it came on.

        Raises:
            SipParseError: 400, for a bad From, To or Call-ID.
        """
        if not own or request.to.tag is None:
            return False
        call_id, tokens = request.call_id, self._tokens
        sides = _side_claims(request, caller=True), _side_claims(request, caller=False)
        for uri in own:
            token = uri.user or uri.params.get(SEAL) or ""
            flow = tokens.open_route(token, call_id)
            if flow is None or (flow != connection.flow and self._connections.is_alive(flow)):
                continue
            for name in connection.names:
                if any(tokens.proves(token, call_id, *side, name) for side in sides):
                    return True
        return False

    # -- destinations
    # -------------------------------------------------------------------------------

    def follow(self, request: SipRequest) -> list[SipUri]:
        """Take our own routes from the top of Route, and return them in order.

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
        self,
        request: SipRequest,
        own: list[SipUri],
        origin: Flow | None,
        now: float,
        found: Found | None = None,
    ) -> list[list[Target]] | Rejection | Lookup:
        """Return where a request goes.

        Args:
            request: The request without our routes.
            own: Our routes, from :meth:`follow`.
            origin: Where it came from; ``None`` for the upstream.
            now: The time, in seconds.
            found: The answer of the location store, if it was asked already.

        Returns:
            Groups of targets, to be tried one after another; the refusal, which is 400, 403, 404,
            416, 430, 480 or 485; or the question for the location store to be answered first.

        Raises:
            SipParseError: 400, for a bad Route.
        """
        by_route = self._by_route(request, own, origin, now, found)
        if isinstance(by_route, Rejection) and by_route.status == 430:
            return self._by_gruu(request) or by_route
        if by_route is not None:
            return by_route
        if self._registrar is None:
            if origin is not None:
                return [[Target(None)]]
            return Rejection(404, "a request of the upstream that leads to no connection")
        routes = request.routes
        if origin is None and self._registrar.node is not None and not (own and routes):
            # Each node takes its own routes off, so that no request goes round.
            return Rejection(404, "a request of a node that leads to no connection")
        if routes:
            node = self._node_named(routes[0].uri)
            if node is None:
                return Rejection(403, "a route to another element")
            if origin is not None and any(self._is_for_nodes(route.uri) for route in routes):
                return Rejection(403, "a route that only nodes write")
            if origin is not None and not any(self._names_node(each.uri, node) for each in routes):
                # A client learns the way to another node from the routes of a dialog alone, and
                # these name its connection there (RFC 5626 §5.3).
                return Rejection(403, "a route to a node without a token")
            return [[Target(None, node=node)]]
        return self._by_registrar(self._registrar, request, now, found)

    def _node_named(self, uri: Uri) -> str | None:
        """Return the other node that a route leads to: by its address, or by a token of it."""
        if not isinstance(uri, SipUri):
            return None
        name = self._node_of_token(uri) or self.upstream_named(uri)
        upstream = self._upstreams.get(name or "")
        return upstream.name if upstream is not None and upstream.is_node else None

    def _node_of_token(self, uri: SipUri) -> str | None:
        """Return the other node that a URI's token names, which is not checked here."""
        return self._by_node.get(self._tokens.node_of(uri.user or "") or b"")

    def _names_node(self, uri: Uri, node: str) -> bool:
        """Return whether a route has a token that names another node."""
        return isinstance(uri, SipUri) and self._node_of_token(uri) == node

    def _is_for_nodes(self, uri: Uri) -> bool:
        """Return whether a route has a token that leads from one node to a client of another."""
        return isinstance(uri, SipUri) and self._tokens.is_for_path(uri.user or "")

    def callees(self, request: SipRequest, groups: Sequence[Sequence[Target]]) -> list[Flow | str]:
        """Return the callees of a request: connections, or the user that it names at the upstream.

        Args:
            request: The request, with the Request-URI that goes to the upstream.
            groups: From :meth:`destination`.
        """
        flows = {target.flow: None for group in groups for target in group}
        return [self._callee(request.uri) if flow is None else flow for flow in flows]

    def _callee(self, uri: Uri) -> str:
        if not isinstance(uri, SipUri):
            return str(uri)
        # A user is the same under all names of the edge and the upstream.
        named = self.is_own(uri) or self.upstream_named(uri) is not None
        ours = named or self._domains.has(uri)
        return f"{uri.username}@{'' if ours else uri.host_key}"

    def _by_route(
        self,
        request: SipRequest,
        own: list[SipUri],
        origin: Flow | None,
        now: float,
        found: Found | None,
    ) -> list[list[Target]] | Rejection | Lookup | None:
        """Return the connection that our own routes lead to; ``None`` if they lead out again."""
        if not own:
            return None
        call_id = request.call_id
        flow = resolve_flow(
            lambda token: self._opened(token, call_id, origin),
            own[-1],
            self._connections.is_alive,
        )
        if isinstance(flow, Rejection):
            # A GRUU outlives the connection that its client had at the start of the dialog.
            if flow.status != 430:
                return flow
            gruu = self._gruu_of(request)
            if gruu is None:
                return flow
            # It outlives the dialog's node as well.
            groups = self._by_registrar(gruu[0], request, now, found)
            return flow if isinstance(groups, Rejection) else groups
        if flow is None:
            # A further route takes precedence over the Request-URI and its alias.
            if self._config.mode is not EdgeMode.ALIAS or request.routes:
                return None
            return self._by_alias(request)
        if flow == origin and len(own) == 1 and self._registrar is None:
            # On the way out, the token is the sender's own (RFC 5626 §5.3.1).
            return None
        return [[Target(flow, self._gruu_in_memory(request, flow, now))]]

    def _opened(self, token: str, call_id: str, origin: Flow | None) -> Flow | None:
        """Return the flow of a token, if the sender may use it."""
        flow = self._tokens.open_route(token, call_id)
        if flow is not None:
            return flow
        # A token of a Path is for the upstream, and for the client itself on the way out.
        flow = self._tokens.open(token)
        if flow is None or origin in (None, flow) or not self._connections.is_alive(flow):
            return flow
        return None

    def _by_alias(self, request: SipRequest) -> list[list[Target]] | Rejection | None:
        """Return the connection that an alias leads to, if its seal confirms it."""
        uri = request.uri
        if not isinstance(uri, SipUri) or "alias" not in uri.params:
            return None
        sealed = self._tokens.open(uri.params.get(SEAL) or "")
        if sealed is None:
            # Do not reveal to a guesser whether such a connection exists.
            return Rejection(403, "the alias has no valid seal")

        def resolve(source: Source) -> Flow | None:
            flow = self._connections.at(source)
            return flow if flow == sealed else None

        outcome = handle_ruri_alias(request, resolve)
        if outcome.result is AliasResult.MALFORMED:
            return Rejection(400, "bad alias")
        if outcome.result is AliasResult.GONE:
            return Rejection(430, "the connection of the alias no longer exists")
        request.uri = uri.without_param("alias").without_param(SEAL)
        return [[Target(sealed)]]

    def _gruu_of(self, request: SipRequest) -> tuple[Registrar, SipUri] | None:
        """Return the Request-URI if it can be a GRUU of ours (RFC 5627 §5.1)."""
        uri = request.uri
        if self._registrar is None or not isinstance(uri, SipUri) or "gr" not in uri.params:
            return None
        return self._registrar, uri

    def _gruu_in_memory(self, request: SipRequest, flow: Flow, now: float) -> SipUri | None:
        """Find the Contact of a GRUU on a connection, in memory."""
        gruu = self._gruu_of(request)
        bindings = () if gruu is None else gruu[0].lookup(gruu[1], now)
        if isinstance(bindings, Rejection):
            return None
        return next((each.uri for each in bindings if each.flow == flow), None)

    @staticmethod
    def _looked_up(
        registrar: Registrar, uri: SipUri, now: float, found: Found | None
    ) -> list[Binding] | Rejection | Lookup:
        """Locate a user or GRUU, in memory or with the answer of the location store.

        Args:
            registrar: The registrar.
            uri: The user or GRUU.
            now: The time, in seconds.
            found: The answer; ``None`` if it was not asked yet.
        """
        if registrar.node is None:
            return registrar.lookup(uri, now)
        question = registrar.plan_lookup(uri)
        if isinstance(question, Rejection) or found is None:
            return question
        return registrar.choose(uri, question, found, now)

    def _by_gruu(self, request: SipRequest) -> list[list[Target]] | None:
        """Find the client of an upstream's GRUU after it has reconnected.

        The dialog's route names the old connection; the upstream cannot route it elsewhere.
        """
        uri = request.uri
        found = self._connections.with_gruu(uri) if isinstance(uri, SipUri) else None
        return None if found is None else [[Target(*found)]]

    def _by_registrar(
        self, registrar: Registrar, request: SipRequest, now: float, found: Found | None
    ) -> list[list[Target]] | Rejection | Lookup:
        uri = request.uri
        if not isinstance(uri, SipUri):
            return Rejection(416, f"Request-URI of scheme {uri.scheme}")
        if self._is_contact(uri):
            alias = self._by_alias(request) if self._config.mode is EdgeMode.ALIAS else None
            if isinstance(alias, list):
                return alias
            bindings = registrar.lookup_contact(uri, now)
        else:
            looked_up = self._looked_up(registrar, uri, now, found)
            if isinstance(looked_up, Lookup):
                return looked_up
            bindings = looked_up
        if isinstance(bindings, Rejection):
            return bindings
        if uri.scheme == "sips":
            # Secure all the way or not at all (RFC 7118 §9.2, RFC 3261 §26.2.2).
            bindings = [each for each in bindings if self._is_secure(each)]
        live = [each for each in bindings if self._is_reachable(each)]
        if self._by_node:
            live.sort(key=lambda each: (-each.q, self._priority(each)))
        groups = fork_groups(live[: self._config.max_branches], self._node_routes(request))
        return groups or Rejection(480, f"no usable binding of {uri!s:.100}")

    def _is_contact(self, uri: SipUri) -> bool:
        """Return whether a URI can only be a client's Contact: a host that cannot be resolved.

        An attended transfer calls the Contact of the other side outside of its call's route.
        """
        if self._domains.has(uri):
            return False
        return uri.host_key.endswith(".invalid") or _is_address(uri.address)

    def _node_routes(self, request: SipRequest) -> dict[str, SipUri]:
        """Return the addresses of the other nodes, for the Route of a request."""
        routes = {}
        for node in self._upstreams if self._by_node else ():
            uri = SipUri.make(node.host, port=node.port).with_param("lr")
            if is_sips(request):
                uri = _as_sips(uri)
            elif node.reliable:
                uri = uri.with_param("transport", node.transport)
            routes[node.name] = uri
        return routes

    def token_of(self, connection: EdgeConnection) -> str:
        """Return what the other nodes lead requests to a connection with."""
        keys, known = self._tokens.changes, connection.token
        # Each REGISTER of a connection needs it, and it is the same until the keys change.
        if known is None or known[0] != keys:
            known = connection.token = keys, self._tokens.make(connection.flow)
        return known[1]

    def _is_reachable(self, binding: Binding) -> bool:
        """Return whether a binding's connection is here, or at a node that runs."""
        if binding.flow is not None:
            return self._connections.is_alive(binding.flow)
        return binding.node is not None and self._upstreams.get(binding.node.name) is not None

    def _priority(self, binding: Binding) -> int:
        """Return the priority of the node that has the connection of a reachable binding."""
        if binding.flow is not None or binding.node is None:
            return 0
        node = self._upstreams.get(binding.node.name)
        return 0 if node is None else node.priority

    def _is_secure(self, binding: Binding) -> bool:
        flow = binding.flow
        if flow is None:
            # The other node looks at its own side; the link to it has to be secure as well.
            upstream = None if binding.node is None else self._upstreams.get(binding.node.name)
            return upstream is not None and upstream.secure
        connection = self._connections.of(flow)
        return connection is not None and connection.source.transport == "wss"

    def upstream_for(
        self,
        request: SipRequest,
        origin: Flow | None,
        now: float,
        *,
        tried: Sequence[str] = (),
        alive: bool = False,
    ) -> Upstream | None:
        """Choose the upstream that a request goes to.

        A request whose route leads to a certain upstream goes there or nowhere: a dialog exists
        only on the server that has it. Otherwise the requests of a connection stay with one
        upstream while none is better. ``sips`` requires TLS on every hop (RFC 5630 §3.1.3).

        Args:
            request: The request without our routes.
            origin: Where it came from.
            now: The time, in seconds.
            tried: The names of the upstreams that have failed.
            alive: Whether it must be in service, unless the route leads there.

        Returns:
            The upstream; ``None`` if none is left.

        Raises:
            SipParseError: 400, for a bad Route, To or Request-URI.
        """
        secure = is_sips(request)
        bound = self._bound_to(request)
        if bound is not None:
            upstream = self._upstreams.get(bound)
            if bound in tried or upstream is None or (secure and not upstream.secure):
                return None
            return upstream
        connection = None if origin is None else self._connections.of(origin)
        preferred = None if connection is None else connection.upstream
        return self._upstreams.choose(
            now, preferred=preferred, tried=tried, secure=secure, alive=alive
        )

    def stay_with(self, origin: Flow | None, upstream: str) -> None:
        """Record the upstream that a request of a connection was sent to."""
        connection = None if origin is None else self._connections.of(origin)
        if connection is not None:
            connection.upstream = upstream

    def knows_upstream(self, name: str) -> bool:
        """Return whether an upstream with that name exists, or existed recently."""
        return name in self._far

    def _bound_to(self, request: SipRequest) -> str | None:
        """Return the upstream that the route of a request leads to."""
        routes = request.routes
        if routes:
            return self.upstream_named(routes[0].uri) or None
        return None if request.to.tag is None else self.upstream_named(request.uri) or None

    # -- writing header fields
    # ----------------------------------------------------------------------

    def alias_contact(self, message: SipMessage, origin: Flow | None) -> bool:
        """Write the alias of its sender into the Contact of a message, in alias mode.

        Returns:
            False for a Contact with bad syntax.
        """
        connection = None if origin is None else self._connections.of(origin)
        if self._config.mode is not EdgeMode.ALIAS or connection is None:
            return True
        seal = self._tokens.make(connection.flow)
        outcome = add_contact_alias(message, connection.alias, seal=seal)
        return outcome is not AliasResult.MALFORMED

    def note_success(self, request: SipRequest, response: SipResponse, origin: Flow | None) -> None:
        """Learn from a successful REGISTER, after which its sender is no longer a stranger.

        GRUUs that the upstream gives to a client lead to its connection from then on.
        """
        connection = None if origin is None else self._connections.of(origin)
        if request.method != "REGISTER" or connection is None:
            return
        connection.registered = self._user_at(request.to.uri)
        try:
            contacts = {instance_id(contact): contact.uri for contact in request.contacts or []}
            for answered in response.contacts or []:
                contact = contacts.get(instance_id(answered))
                for param in ("pub-gruu", "temp-gruu"):
                    text = answered.params.get(param)
                    if text is not None and isinstance(contact, SipUri):
                        self._connections.add_gruu(connection, SipUri.parse(text), contact)
        except SipParseError:
            # The client judges what the upstream writes.
            return

    def registered(self, origin: Flow | None) -> str | None:
        """Return the address that the upstream last registered for a connection."""
        connection = None if origin is None else self._connections.of(origin)
        return None if connection is None else connection.registered

    def _user_at(self, uri: Uri) -> str:
        """Return one key for a user's shares, however its address is written."""
        if not isinstance(uri, SipUri):
            return str(uri).partition(";")[0]
        return str(self._domains.aor(uri) or SipUri.make(uri.host_key, uri.username))

    def _add_path(self, request: SipRequest, origin: Flow, upstream: str) -> None:
        """Add the edge and the client's flow to the Path of a REGISTER for an upstream."""
        uri = self._with_token(self._far_uri(upstream, request), origin)
        if len(request.vias) == 1:
            uri = uri.with_param("ob")
        received = None
        if self._config.mode is EdgeMode.ALIAS:
            connection = self._connections.of(origin)
            received = None if connection is None else connection.alias
        add_path(request, uri, received=received)

    def _far_uri(self, upstream: str, request: SipRequest) -> SipUri:
        """Return this edge as seen by an upstream, with the scheme that a request needs."""
        far = self._far[upstream]
        return far.sips if is_sips(request) else far.uri

    def _with_token(self, uri: SipUri, flow: Flow) -> SipUri:
        return SipUri(uri.host, self._tokens.make(flow), uri.port, uri.params, uri.scheme)

    def _sides(
        self, request: SipRequest, caller: Flow | None, callee: Flow | None, upstream: str
    ) -> list[SipUri]:
        """Return this edge as seen by the two sides of a dialog, the caller's first.

        If a request is for a ``sips`` URI, the routes of its dialog are ``sips`` too (RFC 3261
        §16.6 step 4, RFC 5630 §3.1.3).

        Args:
            request: The request that starts the dialog.
            caller: The connection of its sender; ``None`` for the upstream.
            callee: The connection of the other side; ``None`` for the upstream.
            upstream: The upstream's name.
        """
        secure, call_id = is_sips(request), request.call_id
        claims = _dialog_claims(request.from_, request.to)
        near = self._near_sips if secure else self._near
        uris: list[SipUri] = []
        for side, flow in (("caller", caller), ("callee", callee)):
            if flow is None:
                far = self._far[upstream]
                uris.append(far.sips if secure else far.uri)
                continue
            connection = self._connections.of(flow)
            user = "" if connection is None else connection.user or ""
            token = self._tokens.make_route(flow, call_id, side, *claims, user)
            if self._config.mode is EdgeMode.ALIAS:
                uris.append(near.with_param(SEAL, token))
            else:
                uris.append(SipUri(near.host, token, near.port, near.params, near.scheme))
        return uris

    def via(
        self, flow: Flow | None, branch: str, *, upstream: str = "", stream: bool = False
    ) -> Via:
        """Return our Via for a request.

        Args:
            flow: Its destination; ``None`` for an upstream.
            branch: The branch parameter.
            upstream: The name of the upstream.
            stream: Whether it goes over TCP to an upstream that is otherwise reached over UDP.
        """
        if flow is None:
            far = self._far[upstream]
            return (far.stream_via if stream else far.via).with_branch(branch)
        connection = self._connections.of(flow)
        transport = "ws" if connection is None else connection.source.transport
        return self._near_vias[transport].with_branch(branch)

    def prepare(
        self, request: SipRequest, target: Target, origin: Flow | None, branch: str, upstream: str
    ) -> SipRequest:
        """Return a copy of a request for a target (RFC 3261 §16.6 steps 1 to 8).

        Args:
            request: The request, without our routes and with Max-Forwards counted.
            target: Its target.
            origin: Where it came from.
            branch: The branch parameter of our Via.
            upstream: The name of the upstream that it comes from or goes to.

        Raises:
            SipParseError: 400, for a bad Route, Request-URI or Via.
        """
        sent = request.copy()
        if target.uri is not None:
            sent.uri = target.uri
        apply_path(sent, target.path)
        if sent.method in _BEGINNINGS and sent.to.tag is None:
            record_route(sent, *self._sides(sent, origin, target.flow, upstream))
        elif sent.method == "REGISTER" and target.flow is None and origin is not None:
            self._add_path(sent, origin, upstream)
        prepare_next_hop(sent)
        if target.flow is None:
            simplify_vias(sent)
        push_via(sent, self.via(target.flow, branch, upstream=upstream))
        return sent


@dataclass(frozen=True, slots=True)
class _FarSide:
    """This edge as seen by an upstream.

    Args:
        uri: The URI in Record-Route and Path.
        sips: The same, for requests to a ``sips`` URI.
        via: The Via of requests.
        stream_via: The Via over TCP, if the upstream is otherwise reached over UDP.
    """

    uri: SipUri
    sips: SipUri
    via: Via
    stream_via: Via

    @classmethod
    def towards(cls, upstream: Upstream) -> _FarSide:
        """Build the view of an upstream."""
        uri = SipUri.make(upstream.local_host, port=upstream.local_port)
        via = Via(upstream.transport.upper(), uri.host, uri.port)
        if not upstream.reliable:
            via = via.with_param("rport")
        sips = _as_sips(uri)
        if upstream.reliable:
            uri = uri.with_param("transport", upstream.transport)
        return cls(uri, sips, via, Via("TCP", via.host, via.port, via.params))


def _as_sips(uri: SipUri) -> SipUri:
    return SipUri(uri.host, None, uri.port, uri.params, "sips")


def is_sips(request: SipRequest) -> bool:
    """Return whether a request must only travel over TLS (RFC 3261 §16.6 step 4, §26.2.2).

    Raises:
        SipParseError: 400, for a bad Route or Request-URI.
    """
    if request.uri.scheme == "sips":
        return True
    routes = request.routes
    return bool(routes) and routes[0].uri.scheme == "sips"


def _side_claims(request: SipRequest, *, caller: bool) -> tuple[str, str, str, str]:
    """Return the claims of a route token: the side, the caller's tag, and both addresses.

    Args:
        request: A request within the dialog.
        caller: Whether the side that has sent it is the caller's.
    """
    if caller:
        return "caller", *_dialog_claims(request.from_, request.to)
    return "callee", *_dialog_claims(request.to, request.from_)


def _dialog_claims(caller: NameAddr, callee: NameAddr) -> tuple[str, str, str]:
    """Return the claims that both sides have in common."""
    return caller.tag or "", _address(caller.uri), _address(callee.uri)


def _address(uri: Uri) -> str:
    """Return an address reduced to the parts that identify a user."""
    if not isinstance(uri, SipUri):
        return str(uri).lower()
    return f"{uri.scheme}:{uri.username}@{uri.host_key}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

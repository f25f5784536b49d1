"""A SIP server for WebSocket clients, or the edge in front of one (RFC 7118, RFC 5626), without IO.

Theory of operation: whoever has the connections tells an edge of their beginnings, messages and
ends, and does what it answers. A message is parsed, checked against who sent it, and then belongs
to the registrar, to the edge itself or to somebody else; :mod:`~wsproto_sip.sip.edge_routing` says
to whom, and :mod:`~wsproto_sip.sip.forwarding` takes it there and brings the responses back. What
is wrong with a message is answered, or dropped where it cannot be, and never ends a connection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .authentication import DigestAuthenticator
from .datagram import parse_datagram
from .domains import Domains
from .edge_config import (
    DATAGRAMS,
    EdgeAction,
    EdgeConfig,
    EdgeMode,
    Peer,
    ResetUpstream,
    SendToConnection,
)
from .edge_routing import Connection, Connections, EdgeRouter
from .errors import SipParseError, SipValueError
from .forwarding import Forwarder, Outbox
from .identity import check_identity
from .message import SipRequest, SipResponse
from .nat import force_rport
from .outbound import Flow, FlowTokens
from .parser import parse_message
from .registrar import Registrar, RegistrarConfig
from .routing import (
    Rejection,
    add_received,
    decrement_max_forwards,
    is_loop,
    validate_request,
)
from .stream import KeepAlive, SipStreamParser
from .transactions import key_of
from .transport import Source
from .uri import SipUri, Uri

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = ["SipEdge"]

_EXTENSIONS = ("gruu", "outbound", "path")
#: What an OPTIONS to the edge itself is told.
_ABILITIES = (
    ("Accept", "*/*"),
    ("Allow", "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS, REFER, REGISTER, UPDATE"),
    ("Supported", "outbound, path, gruu"),
)
#: What only a trusted element may say of who it is (RFC 3325 §5), and what was used before that.
_ASSERTIONS = ("p-asserted-identity", "remote-party-id")
#: Users that may prove on one connection who they are, and are remembered.
_MAX_PROVEN = 20


class SipEdge:
    """Any number of clients' connections, and one upstream or none.

    Ids of connections are the caller's; one may come again after :meth:`connection_closed`.

    Args:
        config: How it behaves.
        registrar: Where users are found; made from the configuration by default. There is none
            with an upstream.
        authenticator: Checks credentials; without one nobody is asked for any.
        flow_keys: Secrets of at least 16 octets for flow tokens, the newest first; a random one by
            default, with which tokens end with the process.
        entropy: Source of random octets.

    Raises:
        ValueError: A registrar and an upstream.
    """

    def __init__(
        self,
        config: EdgeConfig,
        *,
        registrar: Registrar | None = None,
        authenticator: DigestAuthenticator | None = None,
        flow_keys: Sequence[bytes] = (),
        entropy: Entropy = os.urandom,
    ) -> None:
        if config.upstream is not None:
            if registrar is not None:
                raise ValueError("with an upstream, that is the registrar")
        elif registrar is None:
            outbound = config.mode is EdgeMode.OUTBOUND
            registrar = Registrar(
                RegistrarConfig(config.own_domains, outbound=outbound),
                is_known=None if authenticator is None else authenticator.knows,
                entropy=entropy,
            )
        self.config = config
        self.registrar = registrar
        self.authenticator = authenticator
        self._domains: Domains = config.own_domains
        self._connections = Connections(int.from_bytes(entropy(4), "big"))
        self._outbox = Outbox(config, self._connections)
        self._tokens = FlowTokens(flow_keys or [entropy(32)])
        self._router = EdgeRouter(config, self._connections, registrar, self._tokens)
        self._key = entropy(32)
        self._forwarder = Forwarder(config, self._router, self._outbox, self._key)
        #: What has come on the connections with the upstream, by their links.
        self._streams: dict[int, SipStreamParser] = {}
        #: Where the message of the upstream's that is being handled came from.
        self._upstream_source: Source | None = None
        #: Messages that were dropped without an answer: responses to nothing, ACKs that lead
        #: nowhere, and what is no SIP.
        self.dropped = 0

    def use_flow_keys(self, keys: Sequence[bytes]) -> None:
        """Seal flow tokens with another key from now on.

        Args:
            keys: Secrets of at least 16 octets, the newest first; tokens of others are refused.

        Raises:
            SipValueError: There is none, or one is too short.
        """
        self._tokens.replace(keys)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def transactions(self) -> int:
        """How many requests are under way."""
        return len(self._forwarder)

    def knows(self, cid: int) -> bool:
        """Whether there is a connection of that id."""
        return self._connections.get(cid) is not None

    # -- what happens ------------------------------------------------------------------------------

    def connection_opened(self, cid: int, peer: Peer) -> None:
        """A connection is there.

        Args:
            cid: Its id.
            peer: Who is at its other end.

        Raises:
            ValueError: The id is in use.
        """
        self._connections.add(cid, peer)

    def connection_closed(self, cid: int, now: float) -> list[EdgeAction]:
        """A connection has ended: so have its bindings, and what was under way on it.

        Args:
            cid: Its id; an unknown one is passed over.
            now: The time, in seconds.
        """
        connection = self._connections.remove(cid)
        if connection is not None:
            if self.registrar is not None:
                self.registrar.flow_lost(connection.flow)
            self._forwarder.flow_lost(connection.flow, now)
        return self._outbox.take()

    def receive(self, cid: int, payload: str | bytes, now: float) -> list[EdgeAction]:
        """A WebSocket message has come.

        Args:
            cid: The connection; on an unknown one everything is dropped.
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
            # RFC 5626 §4.4.1, RFC 7118 §6; a single CRLF is an answer, and gets none.
            self._outbox.add(SendToConnection(cid, "\r\n"))
        return self._outbox.take()

    def upstream_received(
        self, data: bytes, now: float, *, link: int | None = None, source: Source | None = None
    ) -> list[EdgeAction]:
        """Something has come from the upstream, as the caller knows by its address.

        Args:
            data: A datagram, or octets of a stream in pieces of any size.
            now: The time, in seconds.
            link: What it came on; by default the link that requests go on.
            source: Where exactly it came from, if that is known: what the Via of a request is
                compared with.
        """
        upstream = self.config.upstream
        if upstream is None:
            self.dropped += 1
            return self._outbox.take()
        self._outbox.link = link = upstream.link if link is None else link
        self._upstream_source = source
        if link == DATAGRAMS:
            self._datagram(data, now)
            return self._outbox.take()
        stream = self._streams.get(link)
        if stream is None:
            stream = self._streams[link] = SipStreamParser(limits=self.config.limits)
        for item in stream.receive(data):
            if isinstance(item, SipParseError):
                self._unreadable(item, None)
                if item.fatal:
                    self._outbox.add(ResetUpstream(upstream.name, item.detail, link))
            elif isinstance(item, KeepAlive):
                if item is KeepAlive.PING:
                    self._outbox.send_upstream(KeepAlive.PONG.value, link)
            else:
                self._guarded(item, None, now)
        return self._outbox.take()

    def _datagram(self, data: bytes, now: float) -> None:
        keepalive = KeepAlive.of(data)
        if keepalive is KeepAlive.PING:
            self._outbox.send_upstream(KeepAlive.PONG.value, DATAGRAMS)
        elif keepalive is None:
            try:
                message = parse_datagram(data, limits=self.config.limits)
            except SipParseError as error:
                self._unreadable(error, None)
            else:
                self._guarded(message, None, now)

    def upstream_lost(self, link: int) -> None:
        """A connection with the upstream has ended; another one may come to be its link.

        Args:
            link: Which one; an unknown one is passed over.
        """
        self._streams.pop(link, None)

    def upstream_failed(self, now: float) -> list[EdgeAction]:
        """No connection to the upstream can be had, or what waited for one was too much.

        Args:
            now: The time, in seconds.
        """
        self._forwarder.stream_failed(now)
        return self._outbox.take()

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has to be called; ``None`` where nothing is waited for."""
        deadlines = [self._forwarder.next_deadline()]
        if self.registrar is not None:
            deadlines.append(self.registrar.next_deadline())
        return min([when for when in deadlines if when is not None], default=None)

    def handle_timeout(self, now: float) -> list[EdgeAction]:
        """Do what is due; early and repeated calls do nothing.

        Args:
            now: The time, in seconds.
        """
        if self.registrar is not None:
            self.registrar.handle_timeout(now)
        self._forwarder.handle_timeout(now)
        return self._outbox.take()

    # -- messages ----------------------------------------------------------------------------------

    def _message(self, data: str | bytes, connection: Connection, now: float) -> None:
        try:
            message = parse_message(data, limits=self.config.limits)
        except SipParseError as error:
            self._unreadable(error, connection)
        else:
            self._guarded(message, connection, now)

    def _unreadable(self, error: SipParseError, connection: Connection | None) -> None:
        if error.response is None:
            self.dropped += 1
        else:
            self._outbox.send(_flow(connection), error.response)

    def _guarded(
        self, message: SipRequest | SipResponse, connection: Connection | None, now: float
    ) -> None:
        """Handle a message; what turns out to be wrong with it late is answered all the same."""
        origin = _flow(connection)
        if connection is not None:
            for name in _ASSERTIONS:
                message.remove_header(name)
        try:
            if isinstance(message, SipResponse):
                self.dropped += not self._forwarder.response(message, origin, now)
                return
            rejection = self._request(message, connection, now)
        except SipParseError as error:
            rejection = Rejection(error.status, error.detail)
        except SipValueError as error:
            # Something that was read cannot be written, such as NUL in a quoted string.
            rejection = Rejection(400, str(error))
        if rejection is None:
            return
        if isinstance(message, SipResponse) or message.method == "ACK":
            self.dropped += 1
        else:
            self._refuse(message, rejection, origin)

    def _refuse(self, request: SipRequest, rejection: Rejection, origin: Flow | None) -> None:
        try:
            response = rejection.response(request)
        except (SipParseError, SipValueError):
            # Not even enough for an answer.
            self.dropped += 1
        else:
            self._outbox.send(origin, response)

    def _request(
        self, request: SipRequest, connection: Connection | None, now: float
    ) -> Rejection | None:
        """Handle a request; returns why it is refused.

        Raises:
            SipParseError: It cannot be read.
            SipValueError: It cannot be written.
        """
        origin = _flow(connection)
        for_registrar = request.method == "REGISTER" and self.registrar is not None
        for_edge = request.method == "OPTIONS" and self._router.names_edge(request)
        rejection = validate_request(
            request,
            schemes=("sip", "sips") if self.registrar is not None else ("sip", "sips", "tel"),
            extensions=_EXTENSIONS,
            as_server=for_registrar or for_edge,
        )
        if rejection is not None:
            return rejection
        if connection is not None:
            force_rport(request, connection.source)
        elif self._upstream_source is not None:
            add_received(request, self._upstream_source)
        key = key_of(request, origin)
        if request.method == "ACK":
            if not self._forwarder.absorbs_ack(key, now):
                return self._ack(request, origin, now)
            return None
        if request.method == "CANCEL":
            if not self._forwarder.cancel(key, request.get("reason"), now):
                return Rejection(481, "no INVITE to cancel")
            self._outbox.send(origin, request.make_response(200))
            return None
        if self._forwarder.repeated(key):
            return None
        if connection is not None and (rejection := self._check_identity(request, connection)):
            return rejection
        if is_loop(request, self._key, self._router.is_own_via):
            return Rejection(482, "the request has been here")
        base = self._forwarder.base_for(request, origin)
        if request.method == "REGISTER":
            if connection is None:
                return Rejection(403, "a REGISTER from the upstream")
            if self.registrar is not None:
                return self._register(self.registrar, request, connection, now)
            if rejection := self._router.add_path(request, connection.flow):
                return rejection
        own = self._router.follow(request)
        if connection is not None and (
            rejection := self._authenticate(request, connection, now, in_dialog=bool(own))
        ):
            return rejection
        if (
            connection is not None
            and request.method == "REGISTER"
            and (rejection := self._check_registered(request, connection))
        ):
            return rejection
        if for_edge:
            self._outbox.send(origin, request.make_response(200, headers=_ABILITIES))
            return None
        if request.method != "REGISTER" and not self._router.alias_contact(request, origin):
            return Rejection(400, "no alias can be written into Contact")
        groups = self._router.destination(request, own, origin, now)
        if isinstance(groups, Rejection):
            return groups
        decrement_max_forwards(request)
        return self._forwarder.start(request, key, base, groups, now)

    def _ack(self, request: SipRequest, origin: Flow | None, now: float) -> Rejection | None:
        """Send the ACK to a 2xx on, along the route of its dialog."""
        own = self._router.follow(request)
        groups = self._router.destination(request, own, origin, now) if own else []
        if isinstance(groups, Rejection):
            return groups
        if not groups:
            return Rejection(481, "an ACK that leads nowhere")
        decrement_max_forwards(request)
        target = groups[0][0]
        if target.uri is not None:
            request.uri = target.uri
        self._forwarder.forward_ack(request, target.flow, origin, now)
        return None

    # -- who it is ---------------------------------------------------------------------------------

    def _check_identity(self, request: SipRequest, connection: Connection) -> Rejection | None:
        """Compare a request with the user of its connection (RFC 7118 appendix A)."""
        user = connection.peer.user
        if user is None or not self.config.check_identity:
            return None
        return check_identity(request, self._identity(user, request.from_.uri))

    def _identity(self, user: str, claimed: Uri) -> SipUri:
        """The user of a connection, in the form that agrees with a claim to be them."""
        name, at, host = user.rpartition("@")
        if not at:
            name, host = user, self._domains.first
        if not isinstance(claimed, SipUri):
            return SipUri.make(host, name)
        identity = SipUri.make(host, name, scheme=claimed.scheme)
        if self._domains.has(identity) and self._domains.has(claimed):
            # A user is the same in all our domains.
            identity = SipUri.make(claimed.host, name, scheme=claimed.scheme)
        return identity

    def _check_registered(self, request: SipRequest, connection: Connection) -> Rejection | None:
        """Compare whom a REGISTER for the upstream is for with who has proven to send it.

        An upstream that leaves the asking to the edge cannot tell.
        """
        target, user = request.to.uri, connection.peer.user
        if user is not None:
            expected = self._identity(user, target).aor
            right = isinstance(target, SipUri) and target.aor == expected
        elif self.authenticator is not None and self.config.challenge_requests:
            # From is who has answered the challenge.
            sender = request.from_.sip_uri
            aor = self._domains.aor(target) if isinstance(target, SipUri) else None
            right = aor is not None and aor == self._domains.aor(sender)
        else:
            return None
        return None if right else Rejection(403, f"{target!s:.100} is somebody else")

    def _user_of(self, connection: Connection) -> str | None:
        """The name of the user in our domains that a connection was opened for."""
        user = connection.peer.user
        if user is None:
            return None
        name, at, host = user.rpartition("@")
        if not at:
            return user
        aor = self._domains.aor(SipUri.make(host, name))
        # Somebody of elsewhere is nobody's user here.
        return "" if aor is None else aor.username

    def _register(
        self, registrar: Registrar, request: SipRequest, connection: Connection, now: float
    ) -> Rejection | None:
        user = self._user_of(connection)
        if user is None and self.authenticator is not None:
            outcome = self.authenticator.check(request, now)
            if isinstance(outcome, Rejection):
                return outcome
            user = outcome
            _remember(connection, user)
        response = registrar.register(
            request, now, flow=connection.flow, source=connection.alias, user=user
        )
        self._outbox.send(connection.flow, response)
        return None

    def _authenticate(
        self, request: SipRequest, connection: Connection, now: float, *, in_dialog: bool
    ) -> Rejection | None:
        """Ask for a password, where that is wanted and nobody has given one yet (§22.3)."""
        authenticator = self.authenticator
        if authenticator is None or not self.config.challenge_requests:
            return None
        if connection.peer.user is not None:
            return None
        sender = request.from_.uri
        aor = self._domains.aor(sender) if isinstance(sender, SipUri) else None
        name = "" if aor is None else aor.username
        # Within a dialog, what was proven on this connection is enough.
        if in_dialog and request.to.tag is not None and name in connection.proven:
            return None
        outcome = authenticator.check(request, now, proxy=True)
        if isinstance(outcome, Rejection):
            return outcome
        if outcome != name:
            return Rejection(403, f"From is not {outcome!r:.100}")
        _remember(connection, outcome)
        authenticator.consume(request)
        return None


def _flow(connection: Connection | None) -> Flow | None:
    return None if connection is None else connection.flow


def _remember(connection: Connection, user: str) -> None:
    if len(connection.proven) < _MAX_PROVEN:
        connection.proven.add(user)

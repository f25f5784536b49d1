"""The MSRP relay of ``wsproto-sip serve``, made from its settings."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ...adapters._addresses import is_address
from ...adapters.asyncio.msrp import MsrpService
from ...msrp import (
    DigestServer,
    MsrpApplication,
    MsrpRelay,
    MsrpRelayConfig,
    MsrpUri,
    MsrpUriError,
    RelayNode,
)
from ...msrp.message.limits import DEFAULT_MSRP_LIMITS
from ...subprotocols import MSRP
from .._text import authority, in_uri, reason_of
from .nodes import node_networks
from .settings import Settings, SettingsError, about, option_name
from .setup import digest_algorithms, read_accounts, timed_accounts
from .users import places_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from ...adapters.asyncio.endpoint import EndpointServer
    from ...adapters.asyncio.location import LocationService
    from ...auth.accounts import Account, Users
    from ...auth.throttle import Throttle
    from .users import UserSources

__all__ = [
    "join_relay",
    "msrp_application",
    "msrp_peers",
    "msrp_reload",
    "msrp_users",
    "node_host",
    "relay_uri",
]

_DEFAULTS: Final = Settings()
#: Options that have an effect only with a relay.
_NEED_USERS: Final = ("msrp_peer", "msrp_peer_port", "msrp_node_port")
_PEER = re.compile(r"([0-9A-Za-z_\-]{1,64})=(\[[0-9A-Fa-f:.]+\]|[^\[\]:=]+):([0-9]{1,5})")


def msrp_users(settings: Settings) -> dict[str, Account] | None:
    """Return the users of the relay, or ``None`` if MSRP is not offered.

    Args:
        settings: The settings.

    Returns:
        The accounts of --msrp-users by name; empty for external users.

    Raises:
        SettingsError: Options do not fit together, or the file cannot be read.
    """
    path = settings.msrp_users
    if path is None and MSRP not in places_of(settings):
        for name in _NEED_USERS:
            if getattr(settings, name) != getattr(_DEFAULTS, name):
                raise SettingsError(f"--{option_name(name)}: requires --msrp-users")
        return None
    option = "users-for" if path is None else "msrp-users"
    if MSRP not in settings.subprotocol:
        raise SettingsError(f"--{option}: msrp is not among --subprotocol")
    if not settings.tls_cert and not (settings.allow_insecure_msrp or settings.trusted_proxy):
        raise SettingsError(
            f"--{option}: MSRP needs wss, so --tls-cert or a --trusted-proxy, or "
            "--allow-insecure-msrp on a network for tests"
        )
    if settings.msrp_name is None and not settings.named:
        raise SettingsError("--msrp-name: under which name do clients reach this server?")
    shortest, longest = settings.msrp_min_expires, settings.msrp_max_expires
    if shortest > longest:
        raise SettingsError(f"--msrp-min-expires: {shortest} is above {longest}, the longest time")
    msrp_peers(settings)
    if path is None:
        return {}
    with about("msrp-users"):
        return read_accounts(path, settings.auth_realm, digest_algorithms(settings))


def msrp_peers(settings: Settings) -> dict[str, tuple[str, int]]:
    """Host and port of the peers by name.

    Raises:
        SettingsError: One is given in another form, or twice.
    """
    peers: dict[str, tuple[str, int]] = {}
    for word in settings.msrp_peer:
        match = _PEER.fullmatch(word)
        if match is None:
            raise SettingsError(f"--msrp-peer: {word!r} is not NAME=HOST:PORT")
        name, host, port = match.groups()
        if name in peers:
            raise SettingsError(f"--msrp-peer: {name} is there already")
        try:
            MsrpUri.build(host, int(port))
        except MsrpUriError:
            raise SettingsError(f"--msrp-peer: {word!r} is not NAME=HOST:PORT") from None
        peers[name] = (host, int(port))
    return peers


def msrp_application(
    settings: Settings,
    server: EndpointServer,
    accounts: Mapping[str, str | Account],
    addresses: Sequence[tuple[str, int]],
    throttle: Throttle | None = None,
    users: UserSources | None = None,
    node: str | None = None,
    node_tls: ssl.SSLContext | None = None,
) -> MsrpService:
    """Return the relay on a listening server.

    Args:
        settings: The settings, validated by :func:`msrp_users`.
        server: The server; its handler must call :meth:`MsrpService.handle`.
        accounts: The result of :func:`msrp_users`.
        addresses: The addresses on which the server listens.
        throttle: Slows down guessing of passwords.
        users: External users.
        node: The name of this node, whose clients can send to those of other nodes.
        node_tls: The context for connections to them; see
            :func:`~wsproto_sip.cli.serve.nodes.node_tls`.

    Returns:
        The service.

    Raises:
        SettingsError: The name is not a host.
    """
    own = [(in_uri(host), port) for host, port in addresses]
    name = own[0][0] if settings.msrp_name is None else in_uri(settings.msrp_name)
    peers = msrp_peers(settings)
    shortest, longest = settings.msrp_min_expires, settings.msrp_max_expires
    try:
        config = MsrpRelayConfig(
            name if node is None else node_host(node, name),
            own[0][1],
            secure=not settings.allow_insecure_msrp,
            # Behind a proxy the port differs, or is not given at all.
            aliases=frozenset([*own, (name, own[0][1]), (name, 443), (name, None)]),
            peers=peers,
            min_expires=shortest,
            default_expires=min(max(900, shortest), longest),
            max_expires=longest,
            # A source that takes too long is given up before.
            answer_timeout=float(settings.users_timeout) + 1.0,
            limits=replace(
                DEFAULT_MSRP_LIMITS,
                max_chunk_size=min(settings.msrp_max_chunk_size, settings.max_message_size),
                max_transactions=settings.msrp_max_transactions,
            ),
        )
    except MsrpUriError:
        raise SettingsError(f"--msrp-name: {settings.msrp_name!r} is not a host") from None
    known: Users = accounts
    if users is not None and MSRP in users.places and users.has_accounts:
        known = users.lookup
    timed = timed_accounts(settings)
    authenticator = None
    # Users named by the handshake need no password.
    if settings.msrp_users is not None or known or timed is not None:
        authenticator = DigestServer(
            settings.auth_realm,
            known,
            algorithms=digest_algorithms(settings),
            timed=timed,
            throttle=throttle,
        )
    application = MsrpApplication(
        server.endpoint,
        MsrpRelay(config, authenticator),
        allow_insecure=settings.allow_insecure_msrp,
    )
    resolve = None if users is None else users.answers
    return MsrpService(
        server,
        application,
        peers,
        resolve=resolve,
        node_tls=node_tls,
        node_tls_name=settings.node_tls_name,
    )


def node_host(node: str, name: str) -> str:
    """Return the host in the URIs of a node's sessions, which differs from node to node.

    Args:
        node: The name of the node.
        name: The host in the URI of the relay, which all nodes may share.
    """
    label = re.sub("[^0-9A-Za-z-]", "-", node)[:48].strip("-") or "node"
    if label != node:
        # Two names may have the same letters and digits.
        label += f"-{zlib.crc32(node.encode()):08x}"
    return f"{label}.{'invalid' if is_address(name.strip('[]')) else name}"


async def join_relay(
    service: MsrpService,
    settings: Settings,
    location: LocationService,
    accepting: ssl.SSLContext | None,
) -> list[tuple[str, int]]:
    """Listen for the relays of other nodes, and follow which nodes run.

    It has to be called before the node enters the location store.

    Args:
        service: The relay.
        settings: The settings.
        location: The location store.
        accepting: The context for connections of other nodes; ``None`` for plain TCP.

    Returns:
        The addresses and ports it listens on.

    Raises:
        SettingsError: It cannot listen there.
    """
    entry, port = location.entry, settings.msrp_node_port or 0
    host = entry.host.strip("[]")
    try:
        addresses = await service.listen_for_nodes(
            host, port, networks=node_networks(settings), tls=accepting
        )
    except OSError as exc:
        where = authority(host, port)
        raise SettingsError(
            f"--msrp-node-port: cannot listen on {where} for nodes: {reason_of(exc)}"
        ) from None
    own = service.application.relay.host
    extra = {**entry.extra, "msrp-host": own, "msrp-port": str(addresses[0][1])}
    location.entry = replace(entry, extra=extra)

    def follow() -> None:
        nodes, places = {}, {}
        for name, other in location.others.items():
            try:
                nodes[name] = RelayNode(other.extra["msrp-host"], other.boot)
                places[name] = (other.host.strip("[]"), int(other.extra["msrp-port"]))
            except (LookupError, ValueError):
                # One without MSRP.
                nodes.pop(name, None)
        service.use_nodes(nodes, places)

    location.on_others = follow
    return addresses


def msrp_reload(
    service: MsrpService,
    settings: Settings,
    accounts: Mapping[str, str | Account],
    tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None] = (None, None),
) -> None:
    """Give a running relay the current users and certificates.

    Args:
        service: The relay.
        settings: The settings.
        accounts: The current result of :func:`msrp_users`; ignored for external users.
        tls: The current result of :func:`~wsproto_sip.cli.serve.nodes.node_tls`.
    """
    connecting, accepting = tls
    if connecting is not None and accepting is not None and service.node_tls is not None:
        service.use_node_tls(connecting, accepting)
    authenticator = service.application.relay.authenticator
    if authenticator is not None:
        users: Users = accounts if settings.msrp_users is not None else authenticator.users
        authenticator.use(users, timed_accounts(settings))


def relay_uri(settings: Settings, addresses: Sequence[tuple[str, int]]) -> str:
    """Return the URI to which clients send AUTH.

    Args:
        settings: The settings.
        addresses: Where the server listens.
    """
    host, port = addresses[0]
    return str(
        MsrpUri.build(
            in_uri(settings.msrp_name or host),
            port,
            secure=not settings.allow_insecure_msrp,
            transport="ws",
        )
    )

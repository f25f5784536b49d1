"""The SIP server of ``wsproto-sip serve``, made from its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...adapters.asyncio.sip import SipService
from ...sip.edge.application import EdgeApplication
from ...sip.edge.config import ChallengeScope, EdgeConfig, EdgeMode, Probing
from ...sip.edge.edge import SipEdge
from ...sip.message.errors import SipValueError
from ...sip.message.limits import DEFAULT_LIMITS
from ...sip.message.uri import SipUri
from ...sip.registrar.authentication import DigestAuthenticator
from ...sip.registrar.bearer import BearerVerifier
from ...sip.registrar.domains import Domains
from ...sip.registrar.registrar import Registrar, RegistrarConfig
from ...subprotocols import SIP
from .._text import in_uri, reason_of
from .nodes import check_nodes, node_tls
from .settings import Settings, SettingsError, about, option_name, share_of
from .setup import digest_algorithms, read_accounts, timed_accounts
from .sip_hook import sip_hook
from .upstreams import sites_of, upstream_tls
from .users import places_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from ...adapters.asyncio.answers import Resolve
    from ...adapters.asyncio.endpoint import EndpointServer
    from ...adapters.asyncio.location import LocationService
    from ...auth.accounts import Account, Users
    from ...auth.throttle import Throttle
    from ...auth.timed import TimedAccounts
    from ...sip.edge.config import Upstream
    from .users import UserSources

__all__ = ["SipFiles", "sip_files", "sip_line", "sip_reload", "sip_service"]

_LOCAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([1-9][0-9]{0,4}))?")
#: Seconds in which an upstream has to answer OPTIONS.
_PROBE_TIMEOUT = 4.0
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_DEFAULTS = Settings()
#: What --sip-challenge, --no-sip-challenge and neither of them mean.
_CHALLENGES = {True: ChallengeScope.ALL, False: ChallengeScope.NONE, None: ChallengeScope.OWN}
#: Refused without sip, because they would have no effect.
_OPTIONS = ("sip_domain", "sip_users", "sip_name", "sip_hook", "sip_flow_keys", "upstream")
#: Refused without an upstream, because they would have no effect.
_UPSTREAM_OPTIONS = (
    "upstream_local",
    "upstream_local_tls",
    "upstream_tls_ca",
    "upstream_tls_cert",
    "upstream_tls_key",
)


@dataclass(frozen=True, slots=True)
class SipFiles:
    """The contents of a SIP server's files; a reload reads them again.

    Args:
        users: The users of --sip-users, or ``None`` without them.
        flow_keys: The secrets of the flow tokens, newest first; empty for a random one.
        timed: Credentials that expire.
        tls: The contexts of :func:`~wsproto_sip.cli.serve.upstreams.upstream_tls`, or of
            :func:`~wsproto_sip.cli.serve.nodes.node_tls`.
    """

    users: Mapping[str, Account] | None
    flow_keys: tuple[bytes, ...]
    timed: TimedAccounts | None = None
    tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None] = (None, None)


def sip_files(settings: Settings) -> SipFiles | None:
    """Check the settings of a SIP server and read its files.

    Args:
        settings: The settings.

    Returns:
        The contents of the files, or ``None`` if SIP is not offered.

    Raises:
        SettingsError: Options do not fit together, or a file cannot be read.
    """
    check_nodes(settings)
    if SIP not in settings.subprotocol:
        for name in _OPTIONS:
            if getattr(settings, name) != getattr(_DEFAULTS, name):
                raise SettingsError(f"--{option_name(name)}: sip is not among --subprotocol")
        return None
    tls = node_tls(settings)
    if settings.upstream:
        tls = upstream_tls(settings, sites_of(settings))
        if _asks(settings) and not settings.sip_challenge:
            option = "users-for" if settings.sip_users is None else "sip-users"
            raise SettingsError(
                f"--{option}: the upstream registers; --sip-challenge has this side ask as well"
                + (", --users-for handshake asks before" if option == "users-for" else "")
            )
    else:
        for name in _UPSTREAM_OPTIONS:
            if getattr(settings, name) != getattr(_DEFAULTS, name):
                raise SettingsError(f"--{option_name(name)}: requires --upstream")
    _check_users(settings)
    if settings.sip_assert_identity and not settings.upstream:
        raise SettingsError("--sip-assert-identity: requires --upstream")
    if settings.sip_challenge and not _asks(settings):
        raise SettingsError("--sip-challenge: requires --sip-users or users --users-for sip")
    _registrar_config(settings, _config(settings, [("127.0.0.1", 1)], ()))
    with about("sip-flow-keys"):
        keys = _flow_keys(settings)
    return SipFiles(_users(settings), keys, timed_accounts(settings), tls)


def _asks(settings: Settings) -> bool:
    """Return whether this side requires passwords or tokens in SIP."""
    return settings.sip_users is not None or SIP in places_of(settings)


def _knows_clients(settings: Settings) -> bool:
    """Return whether the handshake authenticates clients."""
    return settings.auth_file is not None or "handshake" in places_of(settings)


def _check_users(settings: Settings) -> None:
    """Refuse a server that is open to all clients without an option that says so."""
    anyone = settings.local if settings.sip_anyone is None else settings.sip_anyone
    if anyone or _asks(settings) or _knows_clients(settings):
        return
    if not settings.upstream:
        raise SettingsError(
            f"--sip-users: state who may register at {settings.exposed}: a file of users, users "
            "from elsewhere (--users-for), or anyone by --sip-anyone"
        )
    raise SettingsError(
        f"--upstream: state who may send to it from {settings.exposed}: --sip-users with "
        "--sip-challenge, --auth-file, users from elsewhere (--users-for), or --sip-anyone where "
        "it asks for passwords itself"
    )


def _users(settings: Settings) -> Mapping[str, Account] | None:
    path = settings.sip_users
    if path is None:
        return None
    with about("sip-users"):
        return read_accounts(path, settings.auth_realm, digest_algorithms(settings))


def _flow_keys(settings: Settings) -> tuple[bytes, ...]:
    path = settings.sip_flow_keys
    if path is None:
        return ()
    keys = []
    try:
        for number, line in enumerate(Path(path).read_text(encoding="ascii").splitlines(), 1):
            word = line.strip()
            if not word or word.startswith("#"):
                continue
            if not _HEX.fullmatch(word):
                raise SettingsError(f"{path}: line {number}: not 32 or more hexadecimal digits")
            keys.append(bytes.fromhex(word))
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not ASCII") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {reason_of(exc)}") from None
    if not keys:
        raise SettingsError(f"{path}: there is no key in it")
    return tuple(keys)


def _name_of(word: str) -> tuple[str, int | None]:
    """Parse the host and port of a public name of the server."""
    match = _LOCAL.fullmatch(word)
    host, port = (word, None) if match is None else match.groups()
    try:
        uri = SipUri.make(in_uri(host), port=None if port is None else int(port))
    except SipValueError:
        raise SettingsError(f"--sip-name: {word!r} is not NAME or NAME:PORT") from None
    return uri.host, uri.port


def _config(
    settings: Settings, addresses: Sequence[tuple[str, int]], upstreams: Sequence[Upstream]
) -> EdgeConfig:
    host, port = addresses[0] if addresses else ("", None)
    public = tuple(_name_of(word) for word in settings.sip_name)
    if not public and not settings.named:
        raise SettingsError("--sip-name: under which name do clients reach this server?")
    name = public[0][0] if public else in_uri(host)
    for domain in settings.sip_domain:
        try:
            SipUri.make(in_uri(domain))
        except SipValueError:
            raise SettingsError(f"--sip-domain: {domain!r} is not a host") from None
    names = tuple(map(in_uri, settings.sip_domain))
    return EdgeConfig(
        name,
        Domains(
            names or (name,),
            any_host=not names and not settings.upstream and settings.local,
        ),
        port,
        EdgeMode(settings.sip_mode),
        tuple(upstreams),
        challenge=_CHALLENGES[settings.sip_challenge],
        check_identity=settings.sip_identity,
        # For tests on this machine, domains are optional.
        open_to_strangers=not names and settings.local,
        assert_identity=settings.sip_assert_identity,
        ring_timeout=float(settings.sip_ring_seconds),
        probing=_probing(settings),
        failover_timeout=float(settings.upstream_failover_seconds),
        # A source that takes too long is given up before.
        answer_timeout=float(settings.users_timeout) + 1.0,
        max_users_per_connection=settings.sip_max_users_per_connection,
        limits=replace(
            DEFAULT_LIMITS,
            max_message_size=min(settings.sip_max_message_size, settings.max_message_size),
            max_header_line=settings.sip_max_header_size,
        ),
        transactions=share_of(settings.sip_transactions),
        pending_bytes=share_of(settings.sip_pending_bytes),
        requests_per_second=share_of(settings.sip_rate),
        callee_requests_per_second=share_of(settings.sip_callee_rate),
        callee_transactions=share_of(settings.sip_callee_transactions),
        # A URI may name the port of any listener.
        names=tuple(dict.fromkeys([*public, *[(name, other) for _, other in addresses[1:]]])),
    )


def _probing(settings: Settings) -> Probing:
    interval = float(settings.upstream_probe_seconds)
    return Probing(interval, timeout=min(_PROBE_TIMEOUT, interval))


def _registrar_config(settings: Settings, config: EdgeConfig) -> RegistrarConfig:
    try:
        return RegistrarConfig(
            config.own_domains,
            outbound=config.mode is EdgeMode.OUTBOUND,
            min_expires=settings.sip_min_expires,
            default_expires=settings.sip_default_expires,
            max_expires=settings.sip_max_expires,
            flow_timer=settings.sip_flow_timer,
            max_contacts=settings.sip_max_contacts,
            binding_bytes=share_of(settings.sip_binding_bytes),
            max_aors_per_flow=settings.sip_max_users_per_connection,
        )
    except ValueError:
        raise SettingsError(
            "--sip-min-expires, --sip-default-expires, --sip-max-expires: not in this order"
        ) from None


def sip_service(
    settings: Settings,
    server: EndpointServer,
    files: SipFiles,
    addresses: Sequence[tuple[str, int]],
    throttle: Throttle | None = None,
    upstreams: Sequence[Upstream] = (),
    users: UserSources | None = None,
    location: LocationService | None = None,
) -> SipService:
    """Return the SIP server on a listening server.

    Args:
        settings: The settings, validated by :func:`sip_files`.
        server: The server; its handler must call :meth:`SipService.handle`.
        files: The contents of the files.
        addresses: The addresses on which the server listens.
        throttle: Slows down guessing of passwords.
        upstreams: The result of :class:`UpstreamSet`.
        users: External users.
        location: The location store, for a node of several.

    Returns:
        The service, not yet opened.

    Raises:
        SettingsError: The URL of the server that issues tokens is invalid.
    """
    config = _config(settings, addresses, upstreams)
    authenticator = _authenticator(settings, files, config, throttle, users)
    registrar = None
    if not config.upstreams:
        registrar = Registrar(
            _registrar_config(settings, config),
            node=None if location is None else location.entry.node,
            is_known=None if authenticator is None else authenticator.knows,
            # Each is used for what it is made for: GRUUs have keys of their own from these.
            gruu_keys=files.flow_keys,
        )
    hook, later = sip_hook(settings.sip_hook)
    edge = SipEdge(
        config,
        registrar=registrar,
        authenticator=authenticator,
        hook=hook,
        flow_keys=files.flow_keys,
    )
    client_tls, server_tls = files.tls
    resolve: Resolve | None = None if users is None else users.answers
    if location is not None:
        resolve = location.resolver(resolve)
    return SipService(
        server,
        EdgeApplication(server.endpoint, edge),
        hook=later,
        resolve=resolve,
        client_tls=client_tls,
        server_tls=server_tls,
    )


def _authenticator(
    settings: Settings,
    files: SipFiles,
    config: EdgeConfig,
    throttle: Throttle | None,
    users: UserSources | None,
) -> DigestAuthenticator | None:
    """Return the authenticator for passwords and tokens, or ``None``."""
    elsewhere = users is not None and SIP in users.places
    if files.users is None and not elsewhere:
        return None
    accounts: Users = files.users or {}
    bearer = None
    if users is not None and elsewhere:
        if users.has_accounts:
            accounts = users.lookup
        if users.has_tokens:
            try:
                bearer = BearerVerifier(
                    settings.auth_realm,
                    users.verify,
                    authorization_server=settings.sip_token_server,
                    require_tls=not settings.loopback,
                    max_length=settings.sip_max_header_size,
                    throttle=throttle,
                )
            except ValueError as exc:
                raise SettingsError(f"--sip-token-server: {exc}") from None
    return DigestAuthenticator(
        settings.auth_realm,
        accounts,
        algorithms=digest_algorithms(settings),
        offer_all=bool(settings.digest_algorithm),
        domains=config.own_domains,
        timed=files.timed,
        bearer=bearer,
        throttle=throttle,
    )


def sip_reload(service: SipService, files: SipFiles) -> None:
    """Give a running server the current contents of the files.

    Args:
        service: The server.
        files: Users, if there were any before, keys, and certificates for upstreams.
    """
    edge = service.application.edge
    client_tls, server_tls = files.tls
    if client_tls is not None:
        service.use_tls(client_tls, server_tls)
    if edge.authenticator is not None:
        if files.users is not None:
            edge.authenticator.users = files.users
        if files.timed is not None and edge.authenticator.timed is not None:
            edge.authenticator.timed = files.timed
    if files.flow_keys:
        edge.use_flow_keys(files.flow_keys)


def sip_line(settings: Settings, service: SipService) -> str:
    """Return a one-line description of a server.

    Args:
        settings: The settings.
        service: The server.
    """
    config = service.application.edge.config
    if config.upstreams:
        far = ", ".join(upstream.name for upstream in config.upstreams)
        locals_ = {item.local: item for item in config.upstreams}
        near = " and ".join(f"{item.local_host}:{item.local_port}" for item in locals_.values())
        reaches = "which reaches" if len(config.upstreams) == 1 else "which reach"
        return f"SIP edge of {far}, {reaches} it at {near}; {_strangers(settings, config)}"
    domains = config.own_domains
    where = "any domain" if domains.any_host else ", ".join(domains.names)
    return f"SIP for {where}; {_strangers(settings, config)}"


def _strangers(settings: Settings, config: EdgeConfig) -> str:
    """Return the permissions of an unauthenticated client."""
    if _knows_clients(settings):
        return "strangers cannot connect"
    if not _asks(settings):
        if not settings.upstream:
            return "strangers may register under any name"
        if config.open_to_strangers:
            return "strangers may send to it, to telephone numbers once it has registered them"
        domains = ", ".join(config.own_domains.names)
        return f"strangers may send to {domains}, elsewhere once it has registered them"
    if settings.sip_challenge:
        return "strangers may do nothing"
    if settings.sip_challenge is None:
        return "strangers may call and write to users, but not in the name of one"
    return "strangers may call and write to users, in any name"

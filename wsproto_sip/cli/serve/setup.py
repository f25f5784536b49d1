"""Policies, limits and certificates of ``wsproto-sip serve``, made from its settings."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ...adapters._tls import server_context
from ...adapters.certificates import certificate_context
from ...auth.accounts import Account, common_algorithms, parse_accounts, password_verifier
from ...auth.digest import Algorithm
from ...auth.throttle import ThrottleConfig
from ...auth.timed import TimedAccounts
from ...extensions import Extension, PerMessageDeflate
from ...limits import Limits
from ...policy.authentication import AuthenticationPolicy, Basic, Scheme
from ...policy.capacity import CapacityPolicy
from ...policy.cors import CorsPolicy
from ...policy.decision import Continue, Decision, Policy, PolicyChain, RequestContext
from ...policy.digest import Digest
from ...policy.forwarded import ForwardedHeader, ForwardedPolicy, TrustedNetworks
from ...policy.health import HealthPolicy
from ...policy.host import HostPolicy
from ...policy.origin import ANY_ORIGIN, AnyOrigin, OriginPolicy
from ...policy.subprotocol import SubprotocolPolicy
from ...policy.target import TargetPolicy
from ...policy.token import Bearer, TokenPolicy
from ...server.config import EndpointConfig, subprotocol_profiles
from ...session.config import SessionConfig
from ...session.keepalive import KeepaliveConfig, Mechanism
from ...subprotocols import MSRP, SIP
from .._text import reason_of
from .._token import read_token
from .descriptors import make_room
from .logs import Log, parse_levels, set_up
from .page import page_policy
from .settings import Settings, SettingsError, about, option_name, share_of, slowdown_of
from .targets import TargetList
from .users import token_sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...auth.accounts import Users
    from ...auth.throttle import Throttle
    from ...policy.page import PagePolicy
    from .users import UserSources

__all__ = [
    "check_places",
    "connect_targets",
    "digest_algorithms",
    "endpoint_config",
    "http_token",
    "open_to_others",
    "place_option",
    "policies",
    "proxies",
    "read_accounts",
    "served_page",
    "server_tls",
    "shared_addresses",
    "throttle_config",
    "timed_accounts",
    "within_descriptors",
]

T = TypeVar("T")

_DEFAULTS: Final = Settings()

#: Options that name files with passwords, hashes of them, or keys.
_SECRETS: Final = (
    *("auth_file", "sip_users", "msrp_users"),
    *("auth_secret", "sip_flow_keys", "tls_key", "upstream_tls_key", "users_http_headers"),
    *("store_password", "store_sentinel_password", "store_tls_key", "node_tls_key"),
)

#: Seconds of silence before a ping; on sip the default of Kamailio's module.
_KEEPALIVE_TIMEOUT: Final = 25.0
_KEEPALIVE_TIMEOUT_SIP: Final = 180.0


def _made(option: str, make: Callable[[], T]) -> T:
    """Return the value of an option; name the option in errors."""
    try:
        return make()
    except SettingsError:
        raise
    except ValueError as exc:
        raise SettingsError(f"--{option}: {exc}") from None


def check_places(settings: Settings) -> None:
    """Check that the places to listen at, and the options about them, fit together.

    Raises:
        SettingsError: They do not.
    """
    for word, place in zip(settings.listen, settings.places, strict=False):
        if place.secure and not settings.tls_cert:
            raise SettingsError(f"--listen: {word}: requires --tls-cert")
        if place.unix is not None and not hasattr(socket, "AF_UNIX"):
            raise SettingsError(f"--listen: {word}: there are no Unix sockets here")
        if settings.listen.count(word) > 1:
            raise SettingsError(f"--listen: {word} is given twice")
    if not settings.listen:
        return
    for name in ("host", "port"):
        if getattr(settings, name) != getattr(_DEFAULTS, name):
            raise SettingsError(f"--{name}: not together with --listen, which has it for each")
    if settings.tls_cert and not any(place.secure for place in settings.places):
        raise SettingsError("--tls-cert: no --listen is wss")


def place_option(settings: Settings) -> str:
    """Return the option to name in errors about the places to listen at.

    Args:
        settings: The settings.
    """
    return "listen" if settings.listen else "port"


def open_to_others(settings: Settings) -> list[str]:
    """Return a warning for each file with secrets that all users of this machine can read.

    A group may: a service reads its files that way.
    """
    if os.name != "posix":
        return []
    files: list[tuple[str, str]] = []
    for name in _SECRETS:
        value = getattr(settings, name) or ()
        files += [(name, path) for path in ((value,) if isinstance(value, str) else value)]
    if not settings.tls_key:
        files += [("tls_cert", path) for path in settings.tls_cert if _holds_a_key(path)]
    # Public keys may be readable.
    files += [("jwt_key", path) for path in settings.jwt_key if not _holds_public_key(path)]
    notes = []
    for name, path in files:
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & stat.S_IROTH:
                notes.append(
                    f"--{option_name(name)}: {path}: every user of this machine may read it "
                    f"(mode {mode:04o}); chmod o-r"
                )
    return notes


def shared_addresses(settings: Settings) -> list[str]:
    """Return a warning for each Unix socket whose clients share an address, as far as is known."""
    if any(word.startswith("unix") for word in settings.trusted_proxy):
        return []
    return [
        f"--listen: {place}: all clients that a proxy brings there share the bounds for one "
        "address; --trusted-proxy unix takes the proxy's word on whose they are"
        for place in settings.places
        if place.unix is not None
    ]


def _holds_a_key(path: str) -> bool:
    """Return whether a certificate's file contains the private key too."""
    return _holds(path, b"PRIVATE KEY-----")


def _holds_public_key(path: str) -> bool:
    """Return whether a file for tokens contains a public key, not a secret."""
    return _holds(path, b"-----BEGIN PUBLIC KEY-----") or _holds(path, b"-----BEGIN CERTIFICATE")


def _holds(path: str, text: bytes) -> bool:
    try:
        return text in Path(path).read_bytes()
    except OSError:
        return False


def proxies(settings: Settings) -> TrustedNetworks | None:
    """Return the networks whose connections begin with a PROXY protocol header, or ``None``.

    Raises:
        SettingsError: A value is not a network, or there is a header but no proxy.
    """
    if not settings.trusted_proxy and settings.proxy_header != _DEFAULTS.proxy_header:
        raise SettingsError("--proxy-header: requires --trusted-proxy")
    if not settings.trusted_proxy or settings.proxy_header != "proxy-protocol":
        return None
    return _made("trusted-proxy", lambda: TrustedNetworks(settings.trusted_proxy))


def _origins(settings: Settings) -> OriginPolicy:
    stated = settings.origin
    if not stated:
        if not settings.loopback:
            raise SettingsError(
                f"--origin: state which web pages may connect to {settings.exposed}, such as "
                "https://example.com, or any; add missing to admit clients that are not browsers"
            )
        # Not any: pages from other hosts could call and listen in the name of their visitors.
        stated = ("loopback", "missing")
    allowed: Iterable[str] | AnyOrigin = ANY_ORIGIN
    if "any" not in stated:
        allowed = [origin for origin in stated if origin not in ("null", "missing", "loopback")]
    return OriginPolicy(
        allowed,
        allow_null="null" in stated,
        allow_missing="missing" in stated,
        allow_loopback="loopback" in stated,
    )


def digest_algorithms(settings: Settings) -> tuple[Algorithm, ...]:
    """Return the Digest algorithms for users of SIP and MSRP, in order of preference."""
    words = dict.fromkeys(settings.digest_algorithm or ("md5", "sha-256"))
    return tuple([Algorithm(word.upper()) for word in words])


def timed_accounts(settings: Settings) -> TimedAccounts | None:
    """Return the credentials that expire, or ``None`` if they are not accepted.

    Raises:
        SettingsError: The secret cannot be read, or is too short.
    """
    path = settings.auth_secret
    if path is None:
        return None
    try:
        return TimedAccounts(Path(path).read_bytes().strip(), time.time)
    except OSError as exc:
        raise SettingsError(f"--auth-secret: {path}: {reason_of(exc)}") from None
    except ValueError as exc:
        raise SettingsError(f"--auth-secret: {path}: {exc}") from None


def throttle_config(settings: Settings) -> ThrottleConfig:
    """Return the throttle for guessing of passwords.

    Args:
        settings: The settings.
    """
    return ThrottleConfig(
        pair=slowdown_of(settings.guess_pair),
        connection=slowdown_of(settings.guess_connection),
        address=slowdown_of(settings.guess_address),
        user=slowdown_of(settings.guess_user),
        max_entries=settings.guess_entries,
    )


def read_accounts(
    path: str, realm: str, algorithms: Sequence[Algorithm] = ()
) -> dict[str, Account]:
    """Read a file of users.

    Args:
        path: The path of the file.
        realm: The realm of its hashes.
        algorithms: Of which every user needs a password or a hash for at least one, the same one;
            none to ask for no hash.

    Raises:
        SettingsError: It cannot be read, or a user is invalid.
    """
    try:
        accounts = parse_accounts(Path(path).read_text(encoding="utf-8"), realm)
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8") from None
    except ValueError as exc:
        raise SettingsError(f"{path}: {exc}") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {reason_of(exc)}") from None
    if algorithms and not common_algorithms(accounts, algorithms):
        lacking = [
            f"{algorithm.value} ({next(n for n, a in accounts.items() if not _can(a, algorithm))})"
            for algorithm in algorithms
        ]
        raise SettingsError(
            f"{path}: every user needs a password or a hash for the same algorithm; not all have "
            f"one for {' or '.join(lacking)}"
        )
    return accounts


def _can(account: Account, algorithm: Algorithm) -> bool:
    return account.password is not None or algorithm in account.ha1


def _passwords(
    settings: Settings, throttle: Throttle | None, users: UserSources | None
) -> list[Scheme]:
    """Return the authentication schemes; none without accounts."""
    realm, timed = settings.auth_realm, timed_accounts(settings)
    elsewhere = users is not None and "handshake" in users.places
    accounts: Users = {}
    if settings.auth_file is not None:
        with about("auth-file"):
            accounts = read_accounts(settings.auth_file, realm)
    elif users is not None and elsewhere and users.has_accounts:
        accounts = users.lookup
    elif timed is None or not elsewhere:
        return []
    # The hashes of external accounts are not known here.
    algorithms: tuple[Algorithm, ...] = (Algorithm.SHA_256, Algorithm.MD5)
    if settings.digest_algorithm and not isinstance(accounts, Mapping):
        algorithms = digest_algorithms(settings)
    schemes: list[Scheme] = []
    for name in dict.fromkeys(settings.auth_scheme):
        if name == "digest":
            schemes.append(
                Digest(realm, accounts, algorithms=algorithms, timed=timed, throttle=throttle)
            )
        elif settings.auth_file is not None or accounts:
            plain = settings.loopback
            verify = password_verifier(accounts, realm)
            schemes.append(Basic(realm, verify, require_tls=not plain, throttle=throttle))
    return schemes


def _authentication(
    settings: Settings, throttle: Throttle | None, users: UserSources | None
) -> list[Policy]:
    """Return the checks of passwords and tokens; empty if the handshake requires neither."""
    schemes = _passwords(settings, throttle, users)
    found: list[Policy] = []
    if users is not None and users.has_tokens and "handshake" in users.places:
        verify, secure = users.verify, not settings.loopback
        sources = token_sources(settings)
        if sources:
            found.append(
                TokenPolicy(
                    sources,
                    verify,
                    required=False,
                    require_tls=secure,
                    throttle=throttle,
                    used=users.used,
                )
            )
        realm = settings.auth_realm
        schemes.append(Bearer(realm, verify, require_tls=secure, throttle=throttle))
    if schemes:
        found.append(AuthenticationPolicy(schemes))
    elif settings.auth_file is not None or (users is not None and "handshake" in users.places):
        raise SettingsError("--auth-scheme: credentials that expire need digest")
    return found


def _admission(settings: Settings) -> list[Policy]:
    """Return the checks of Host and Origin."""
    found: list[Policy] = []
    if settings.allowed_host:
        found.append(_made("allowed-host", lambda: HostPolicy(settings.allowed_host)))
    found.append(_made("origin", lambda: _origins(settings)))
    return found


def served_page(settings: Settings, users: UserSources | None = None) -> PagePolicy | None:
    """Return the page for the names whose connections are accepted, or ``None`` without a page.

    Args:
        settings: The settings.
        users: External users.

    Raises:
        SettingsError: An option is invalid.
    """
    page = page_policy(settings, _admission(settings))
    elsewhere = users is not None and "handshake" in users.places
    if page is None or settings.auth_file is not None or not elsewhere:
        return page
    if _passwords(settings, None, users):
        return page
    if settings.page:
        raise SettingsError("--page: its visitors cannot log in; the handshake takes tokens alone")
    return None


def _of_plain_requests(policy: Policy) -> Policy:
    """Make a policy of one for plain requests only."""

    def ask(context: RequestContext, /) -> Decision:
        return Continue() if context.upgrade else policy(context)

    return ask


def policies(
    settings: Settings, throttle: Throttle | None = None, users: UserSources | None = None
) -> list[Policy]:
    """Return the policies that decide about handshakes, in order.

    Args:
        settings: The settings.
        throttle: Slows down guessing of passwords.
        users: External users.

    Raises:
        SettingsError: An option is invalid.
    """
    found: list[Policy] = []
    if settings.trusted_proxy and settings.proxy_header != "proxy-protocol":
        header = ForwardedHeader(settings.proxy_header)
        trusted = _made("trusted-proxy", lambda: TrustedNetworks(settings.trusted_proxy))
        found.append(ForwardedPolicy(trusted, header=header))
    authentication = _made("auth-realm", lambda: _authentication(settings, throttle, users))
    # Before the checks of handshakes, which the request for a page cannot pass.
    page = served_page(settings, users)
    if page is not None:
        # A browser asks its user for the password of a page, but never for that of a WebSocket;
        # afterwards it has the password for the connections of the page.
        found += map(_of_plain_requests, authentication)
        found.append(page)
    if settings.path:
        found.append(_made("path", lambda: TargetPolicy(settings.path)))
    found += _admission(settings)
    found += authentication
    found.append(CapacityPolicy(settings.max_connections, settings.max_per_address))
    names = list(dict.fromkeys(name for name in settings.subprotocol if name != "none"))
    found.append(
        SubprotocolPolicy(
            names,
            required="none" not in settings.subprotocol,
            server_preference=settings.prefer == "server",
        )
    )
    found.append(CorsPolicy(settings.cors_mode, always=(MSRP,)))
    return found


def _health(settings: Settings, is_ready: Callable[[], bool] | None = None) -> HealthPolicy | None:
    if settings.health is None and settings.ready is None:
        return None
    return _made(
        "health and --ready",
        lambda: HealthPolicy(settings.health, settings.ready, is_ready=is_ready),
    )


def _session(settings: Settings) -> SessionConfig:
    data = settings.keepalive_data
    keepalive = _made(
        "keepalive-data",
        lambda: KeepaliveConfig(
            mechanism=Mechanism[settings.keepalive_mechanism.upper()],
            interval=float(settings.keepalive_timeout or _KEEPALIVE_TIMEOUT),
            answer_timeout=float(settings.keepalive_answer),
            application_data=None if data is None else data.encode("utf-8"),
        ),
    )
    size = settings.max_message_size
    session = SessionConfig(
        # An echo is as long as its message, and a little more may be queued.
        limits=Limits(
            max_message_size=size,
            max_fragments=settings.max_fragments,
            max_handshake_bytes=settings.max_header_size,
            max_header_line=settings.max_header_size,
            max_outgoing=2 * size + 4 * 1024 * 1024,
        ),
        open_timeout=float(settings.open_timeout),
        close_timeout=float(settings.close_timeout),
        idle_timeout=float(settings.idle_timeout) or None,
        keepalive=keepalive,
        plain_requests=page_policy(settings) is not None or _health(settings) is not None,
    )
    profiles = subprotocol_profiles(
        session, sip_size=settings.sip_max_message_size, msrp_size=settings.msrp_max_chunk_size
    )
    if settings.keepalive_timeout is None:
        sip = replace(keepalive, interval=_KEEPALIVE_TIMEOUT_SIP)
        profiles[SIP] = replace(profiles[SIP], keepalive=sip)
    return replace(session, profiles=profiles)


def endpoint_config(
    settings: Settings,
    throttle: Throttle | None = None,
    users: UserSources | None = None,
    is_ready: Callable[[], bool] | None = None,
) -> EndpointConfig:
    """Return the endpoint's configuration.

    Args:
        settings: The settings.
        throttle: Slows down guessing of passwords.
        users: External users.
        is_ready: Whether everything that the server needs is there, for --ready.

    Raises:
        SettingsError: An option is invalid.
    """
    deflate = settings.deflate

    def extensions(subprotocol: str | None) -> Sequence[Extension]:
        # SIP and MSRP carry what others wrote beside secrets, and compressing both together tells
        # of one by the other.
        return [PerMessageDeflate()] if deflate and subprotocol is None else []

    handshakes = settings.max_handshakes
    each = settings.max_handshakes_per_address
    if settings.trusted_proxy and settings.proxy_header != "proxy-protocol":
        # Up to its header fields, every client has the proxy's address.
        each = handshakes
    return EndpointConfig(
        session=_session(settings),
        policies=PolicyChain(policies(settings, throttle, users)),
        health=_health(settings, is_ready),
        extensions=extensions,
        shards=settings.keepalive_processes,
        timer_interval=float(settings.keepalive_interval),
        # A client beyond the limit gets a response, which takes a handshake.
        max_connections=settings.max_connections + handshakes,
        max_per_address=settings.max_per_address + each,
        max_handshaking=handshakes,
        max_handshaking_per_address=each,
        unfinished_bytes=share_of(settings.max_unfinished_bytes),
        message_timeout=float(settings.message_timeout) or None,
    )


def within_descriptors(settings: Settings) -> tuple[Settings, list[str]]:
    """Make room for all connections, or lower their number to what the system allows.

    Returns:
        The settings, and a note if they are lowered.

    Raises:
        SettingsError: There are too few descriptors for a server.
    """
    most, handshakes = settings.max_connections, settings.max_handshakes
    try:
        room = make_room(most, handshakes)
    except ValueError as exc:
        raise SettingsError(f"--max-connections: {exc}") from None
    if not room.lowered:
        return settings, []
    note = (
        f"the system allows {room.descriptors} open files (ulimit -n), too few for {most} "
        f"connections and {handshakes} opening handshakes: there will be {room.connections} and "
        f"{room.handshakes} at most"
    )
    lowered = replace(settings, max_connections=room.connections, max_handshakes=room.handshakes)
    return lowered, [note]


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context for wss, or ``None`` without a certificate.

    Raises:
        SettingsError: A certificate or its key cannot be read, or they do not fit.
    """
    if not settings.tls_cert:
        for name in ("tls-key", "tls-client-ca", "tls-ciphers"):
            if getattr(settings, name.replace("-", "_")):
                raise SettingsError(f"--{name}: requires --tls-cert")
        return None
    chains, keys = settings.tls_cert, settings.tls_key or (None,) * len(settings.tls_cert)
    if len(keys) != len(chains):
        raise SettingsError(
            f"--tls-key: {len(keys)} for {len(chains)} --tls-cert; one for each in the same order "
            "is needed, or none where each certificate's file has it"
        )
    pairs = list(zip(chains, keys, strict=True))
    for path, key in pairs:
        try:
            # By itself, so that the error can name it. An encrypted key would be asked for on the
            # terminal.
            certificate_context([(path, key)], password=_no_password)
        except (OSError, ValueError) as exc:
            reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
            raise SettingsError(f"--tls-cert: {path}: {reason}") from None
    make = partial(_context, settings)
    return _made("tls-cert", lambda: certificate_context(pairs, make=make, password=_no_password))


def _context(settings: Settings) -> ssl.SSLContext:
    """Make a context for wss, without a certificate."""
    context = server_context()
    context.set_alpn_protocols(["http/1.1"])
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as exc:
            where = f"--tls-client-ca: {settings.tls_client_ca}"
            raise SettingsError(f"{where}: {reason_of(exc)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    if settings.tls_ciphers is not None:
        try:
            context.set_ciphers(settings.tls_ciphers)
        except ssl.SSLError:
            raise SettingsError(f"--tls-ciphers: no suite in {settings.tls_ciphers!r}") from None
    return context


def connect_targets(settings: Settings) -> TargetList:
    """Return the targets to which ``ws.connect`` may connect.

    Raises:
        SettingsError: A target is not a host.
    """
    return _made("connect-allow", lambda: TargetList(settings.connect_allow))


def http_token(settings: Settings) -> str | None:
    """Return the token required for commands over HTTP, or ``None``.

    Raises:
        SettingsError: The file cannot be read, or other users can read it.
    """
    path = settings.ctl_http_token
    if path is None:
        return None
    if settings.ctl_http is None:
        raise SettingsError("--ctl-http-token: requires --ctl-http")
    try:
        return read_token(path)
    except OSError as exc:
        raise SettingsError(f"--ctl-http-token: {path}: {reason_of(exc)}") from None
    except ValueError as exc:
        raise SettingsError(f"--ctl-http-token: {path}: {exc}") from None


def _no_password() -> str:
    raise ValueError("the private key is encrypted")


def begin_log(settings: Settings) -> Log:
    """Start logging as configured.

    Raises:
        SettingsError: A level is invalid, or the file cannot be opened.
    """
    levels = _made("log-level", lambda: parse_levels(settings.log_level))
    try:
        return set_up(
            settings.log_format,
            levels=levels,
            path=settings.log_file,
            repeats=settings.log_repeats,
        )
    except OSError as exc:
        raise SettingsError(f"--log-file: {settings.log_file}: {reason_of(exc)}") from None

"""What the settings of ``wsproto-sip serve`` mean: policies, limits, certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ..config import SessionConfig
from ..extensions import Extension, PerMessageDeflate
from ..keepalive import KeepaliveConfig, Mechanism
from ..limits import Limits
from ..policy.accounts import basic_verifier, digest_lookup, parse_accounts
from ..policy.authentication import AuthenticationPolicy, Basic, Scheme
from ..policy.capacity import CapacityPolicy
from ..policy.cors import CorsPolicy
from ..policy.decision import Policy, PolicyChain
from ..policy.digest import Account, Algorithm, Digest
from ..policy.forwarded import ForwardedHeader, ForwardedPolicy, TrustedNetworks
from ..policy.host import HostPolicy
from ..policy.origin import ANY_ORIGIN, AnyOrigin, OriginPolicy
from ..policy.subprotocol import SubprotocolPolicy
from ..policy.target import TargetPolicy
from ..server.endpoint_config import EndpointConfig, subprotocol_profiles
from ..subprotocols import MSRP, SIP
from ._text import reason_of
from .page import page_policy
from .settings import SettingsError, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .settings import Settings

__all__ = [
    "WILDCARDS",
    "endpoint_config",
    "load_certificate",
    "policies",
    "proxies",
    "read_accounts",
    "server_tls",
]

T = TypeVar("T")

#: Seconds without a sign of life before a ping; on sip as Kamailio's module has it.
_KEEPALIVE_TIMEOUT: Final = 25.0
_KEEPALIVE_TIMEOUT_SIP: Final = 180.0

#: Addresses that are all of a machine's.
WILDCARDS: Final = frozenset(["0.0.0.0", "::"])  # noqa: S104  # compared with, not bound to


def _made(option: str, make: Callable[[], T]) -> T:
    """What an option makes, or an error that names it."""
    try:
        return make()
    except SettingsError:
        raise
    except ValueError as exc:
        raise SettingsError(f"--{option}: {exc}") from None


def proxies(settings: Settings) -> TrustedNetworks | None:
    """The networks whose connections begin with a PROXY protocol header; None for none.

    Raises:
        SettingsError: One is no network.
    """
    if not settings.trusted_proxy or settings.proxy_header != "proxy-protocol":
        return None
    return _made("trusted-proxy", lambda: TrustedNetworks(settings.trusted_proxy))


def _origins(settings: Settings) -> OriginPolicy:
    stated = settings.origin
    if not stated:
        if not is_loopback(settings.host):
            raise SettingsError(
                f"--origin: state which web pages may connect to {settings.host}, such as "
                "https://example.com, or any; null and missing let the others in"
            )
        # Not any: pages from elsewhere could call and listen in the name of who opens them.
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


def read_accounts(path: str, realm: str, *, md5: bool = False) -> dict[str, Account]:
    """Reads a file of users.

    Args:
        path: Where it is.
        realm: The realm that its hashes have to be for.
        md5: Whether each user needs a password or a hash of MD5, for want of another algorithm.

    Raises:
        SettingsError: It cannot be read, or a user is wrong.
    """
    try:
        accounts = parse_accounts(Path(path).read_text(encoding="utf-8"), realm)
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8") from None
    except ValueError as exc:
        raise SettingsError(f"{path}: {exc}") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {reason_of(exc)}") from None
    for name, account in accounts.items():
        if md5 and account.password is None and Algorithm.MD5 not in account.ha1:
            raise SettingsError(
                f"{path}: {name} has no hash for MD5, the one that clients of SIP and MSRP know"
            )
    return accounts


def _authentication(settings: Settings, path: str) -> AuthenticationPolicy:
    realm = settings.auth_realm
    accounts = read_accounts(path, realm)
    schemes: list[Scheme] = []
    for name in dict.fromkeys(settings.auth_scheme):
        if name == "digest":
            schemes.append(Digest(realm, digest_lookup(accounts)))
        else:
            plain = is_loopback(settings.host)
            verify = basic_verifier(accounts, realm)
            schemes.append(Basic(realm, verify, require_tls=not plain))
    return AuthenticationPolicy(schemes)


def policies(settings: Settings) -> list[Policy]:
    """Who is let in, asked in this order.

    Raises:
        SettingsError: An option cannot be what it is.
    """
    found: list[Policy] = []
    if settings.trusted_proxy and settings.proxy_header != "proxy-protocol":
        header = ForwardedHeader(settings.proxy_header)
        trusted = _made("trusted-proxy", lambda: TrustedNetworks(settings.trusted_proxy))
        found.append(ForwardedPolicy(trusted, header=header))
    # Before what its visitors cannot meet: to open a page is no handshake.
    page = page_policy(settings)
    if page is not None:
        found.append(page)
    if settings.path:
        found.append(_made("path", lambda: TargetPolicy(settings.path)))
    if settings.allowed_host:
        found.append(_made("allowed-host", lambda: HostPolicy(settings.allowed_host)))
    found.append(_made("origin", lambda: _origins(settings)))
    if settings.auth_file is not None:
        path = settings.auth_file
        found.append(_made("auth-realm", lambda: _authentication(settings, path)))
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
        # What comes back is as long as what came, and a little more may be on its way.
        limits=Limits(max_message_size=size, max_outgoing=2 * size + 4 * 1024 * 1024),
        open_timeout=float(settings.open_timeout),
        close_timeout=float(settings.close_timeout),
        idle_timeout=float(settings.idle_timeout) or None,
        keepalive=keepalive,
        plain_requests=page_policy(settings) is not None,
    )
    profiles = subprotocol_profiles(session)
    if settings.keepalive_timeout is None:
        sip = replace(keepalive, interval=_KEEPALIVE_TIMEOUT_SIP)
        profiles[SIP] = replace(profiles[SIP], keepalive=sip)
    return replace(session, profiles=profiles)


def endpoint_config(settings: Settings) -> EndpointConfig:
    """How the endpoint behaves.

    Args:
        settings: The settings.

    Raises:
        SettingsError: An option cannot be what it is.
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
        policies=PolicyChain(policies(settings)),
        extensions=extensions,
        shards=settings.keepalive_processes,
        timer_interval=float(settings.keepalive_interval),
        # Whoever is one too many is told so, which takes a handshake.
        max_connections=settings.max_connections + handshakes,
        max_per_address=settings.max_per_address + each,
        max_handshaking=handshakes,
        max_handshaking_per_address=each,
    )


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS for wss; None without a certificate.

    Raises:
        SettingsError: The certificate or its key cannot be read, or they do not fit.
    """
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise SettingsError("--tls-key: there is no --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Has TLS use the certificate as it is in its file now, for connections to come.

    Raises:
        SettingsError: As :func:`server_tls`.
    """
    if settings.tls_cert is None:
        return
    try:
        # An encrypted key would be asked for on the terminal.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
        raise SettingsError(f"--tls-cert: {settings.tls_cert}: {reason}") from None


def _no_password() -> str:
    raise ValueError("the private key is encrypted")

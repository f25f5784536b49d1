"""The MSRP relay of ``wsproto-sip serve``: what its settings mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..adapters.msrp_tcp import MsrpService
from ..msrp import (
    DigestServer,
    Ha1,
    MsrpApplication,
    MsrpRelay,
    MsrpRelayConfig,
    MsrpUri,
    MsrpUriError,
)
from ..policy.digest import Algorithm
from ..subprotocols import MSRP
from ._text import in_uri
from .settings import SettingsError
from .setup import WILDCARDS, read_accounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..adapters.endpoint_server import EndpointServer
    from .settings import Settings

__all__ = ["msrp_application", "msrp_peers", "msrp_users", "relay_uri"]

_PEER = re.compile(r"([0-9A-Za-z_\-]{1,64})=(\[[0-9A-Fa-f:.]+\]|[^\[\]:=]+):([0-9]{1,5})")


def msrp_users(settings: Settings) -> dict[str, str | Ha1] | None:
    """The users of the relay; None where MSRP is not offered.

    Args:
        settings: The settings.

    Returns:
        Their passwords, or what is derived from them.

    Raises:
        SettingsError: Options do not fit together, or the file cannot be read.
    """
    path = settings.msrp_users
    if path is None:
        return None
    if MSRP not in settings.subprotocol:
        raise SettingsError("--msrp-users: msrp is not among --subprotocol")
    if settings.tls_cert is None and not (settings.allow_insecure_msrp or settings.trusted_proxy):
        raise SettingsError(
            "--msrp-users: MSRP needs wss, so --tls-cert or a --trusted-proxy, or "
            "--allow-insecure-msrp on a network for tests"
        )
    if settings.msrp_name is None and settings.host in WILDCARDS:
        raise SettingsError("--msrp-name: under which name do clients reach this server?")
    shortest, longest = settings.msrp_min_expires, settings.msrp_max_expires
    if shortest > longest:
        raise SettingsError(f"--msrp-min-expires: {shortest} is above {longest}, the longest time")
    msrp_peers(settings)
    return {
        name: Ha1(account.ha1[Algorithm.MD5]) if account.password is None else account.password
        for name, account in read_accounts(path, settings.auth_realm, md5=True).items()
    }


def msrp_peers(settings: Settings) -> dict[str, tuple[str, int]]:
    """Host and port of the peers by name.

    Raises:
        SettingsError: One is given in another form, or twice.
    """
    peers: dict[str, tuple[str, int]] = {}
    for word in settings.msrp_peer:
        match = _PEER.fullmatch(word)
        if match is None:
            raise SettingsError(f"--msrp-peer: {word!r} is no NAME=HOST:PORT")
        name, host, port = match.groups()
        if name in peers:
            raise SettingsError(f"--msrp-peer: {name} is there already")
        try:
            MsrpUri.build(host, int(port))
        except MsrpUriError:
            raise SettingsError(f"--msrp-peer: {word!r} is no NAME=HOST:PORT") from None
        peers[name] = (host, int(port))
    return peers


def msrp_application(
    settings: Settings,
    server: EndpointServer,
    users: Mapping[str, str | Ha1],
    addresses: Sequence[tuple[str, int]],
) -> MsrpService:
    """The relay on a server that listens.

    Args:
        settings: The settings, which :func:`msrp_users` has found right.
        server: The server; its handler has to call :meth:`MsrpService.handle`.
        users: The users; looked up at each login.
        addresses: Where the server listens.

    Returns:
        The service.

    Raises:
        SettingsError: The name is none.
    """
    own = [(in_uri(host), port) for host, port in addresses]
    name = own[0][0] if settings.msrp_name is None else in_uri(settings.msrp_name)
    peers = msrp_peers(settings)
    shortest, longest = settings.msrp_min_expires, settings.msrp_max_expires
    try:
        config = MsrpRelayConfig(
            name,
            own[0][1],
            secure=not settings.allow_insecure_msrp,
            # Behind a proxy the port is another one, or not given at all.
            aliases=frozenset([*own, (name, 443), (name, None)]),
            peers=peers,
            min_expires=shortest,
            default_expires=min(max(900, shortest), longest),
            max_expires=longest,
        )
    except MsrpUriError:
        raise SettingsError(f"--msrp-name: {settings.msrp_name!r} is no host") from None
    application = MsrpApplication(
        server.endpoint,
        MsrpRelay(config, DigestServer(settings.auth_realm, users)),
        allow_insecure=settings.allow_insecure_msrp,
    )
    return MsrpService(server, application, peers)


def relay_uri(settings: Settings, addresses: Sequence[tuple[str, int]]) -> str:
    """The URI that clients send their AUTH to.

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

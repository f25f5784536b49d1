"""The SIP server of ``wsproto-sip serve``: what its settings mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.sip_edge import SipService
from ..sip.application import EdgeApplication
from ..sip.authentication import DigestAuthenticator
from ..sip.domains import Domains
from ..sip.edge import SipEdge
from ..sip.edge_config import EdgeConfig, EdgeMode
from ..sip.errors import SipValueError
from ..sip.uri import SipUri
from ..sip.users import Users, UsersError
from ..subprotocols import SIP
from ._text import in_uri, reason_of
from .settings import Settings, SettingsError, option_name
from .setup import WILDCARDS, is_local

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..adapters.endpoint_server import EndpointServer

__all__ = ["SipFiles", "sip_files", "sip_lines", "sip_reload", "sip_service"]

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_DEFAULTS = Settings()
#: Without effect where sip is not offered, so not to be given then.
_OPTIONS = ("sip_domain", "sip_users", "sip_name", "sip_flow_keys")


@dataclass(frozen=True, slots=True)
class SipFiles:
    """What stands in the files of a SIP server; a reload reads them again.

    Args:
        users: The users; None where nobody is asked for a password.
        flow_keys: The secrets of the flow tokens, the newest first; none for a random one.
    """

    users: Users | None
    flow_keys: tuple[bytes, ...]


def sip_files(settings: Settings) -> SipFiles | None:
    """Checks the settings of a SIP server and reads its files.

    Args:
        settings: The settings.

    Returns:
        What stands in the files; None where SIP is not offered.

    Raises:
        SettingsError: Options do not fit together, or a file cannot be read.
    """
    if SIP not in settings.subprotocol:
        for name in _OPTIONS:
            if getattr(settings, name) != getattr(_DEFAULTS, name):
                raise SettingsError(f"--{option_name(name)}: sip is not among --subprotocol")
        return None
    anyone = is_local(settings) if settings.sip_anyone is None else settings.sip_anyone
    if settings.sip_users is None and settings.auth_file is None and not anyone:
        raise SettingsError(
            f"--sip-users: state who may register at {settings.host}: a file of users, or "
            "anybody by --sip-anyone"
        )
    if settings.sip_challenge and settings.sip_users is None:
        raise SettingsError("--sip-challenge: there are no --sip-users")
    _config(settings, [("127.0.0.1", 1)])
    return SipFiles(_users(settings), _flow_keys(settings))


def _users(settings: Settings) -> Users | None:
    path = settings.sip_users
    if path is None:
        return None
    try:
        return Users.parse(Path(path).read_bytes())
    except UsersError as exc:
        raise SettingsError(f"{path}: {exc}") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {reason_of(exc)}") from None


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


def _config(settings: Settings, addresses: Sequence[tuple[str, int]]) -> EdgeConfig:
    host, port = addresses[0]
    name = settings.sip_name
    if name is None and settings.host in WILDCARDS:
        raise SettingsError("--sip-name: under which name do clients reach this server?")
    name = in_uri(host if name is None else name)
    try:
        SipUri.make(name)
    except SipValueError:
        raise SettingsError(f"--sip-name: {settings.sip_name!r} is no host") from None
    for domain in settings.sip_domain:
        try:
            SipUri.make(in_uri(domain))
        except SipValueError:
            raise SettingsError(f"--sip-domain: {domain!r} is no host") from None
    names = tuple(map(in_uri, settings.sip_domain))
    return EdgeConfig(
        name,
        Domains(names or (name,), any_host=not names and is_local(settings)),
        port,
        EdgeMode(settings.sip_mode),
        challenge_requests=settings.sip_challenge,
        check_identity=settings.sip_identity,
    )


def sip_service(
    settings: Settings,
    server: EndpointServer,
    files: SipFiles,
    addresses: Sequence[tuple[str, int]],
) -> SipService:
    """The SIP server on a server that listens.

    Args:
        settings: The settings, which :func:`sip_files` has found right.
        server: The server; its handler has to call :meth:`SipService.handle`.
        files: What stands in the files.
        addresses: Where the server listens.

    Returns:
        The service, not opened yet.
    """
    authenticator = None
    if files.users is not None:
        authenticator = DigestAuthenticator(settings.auth_realm, files.users)
    edge = SipEdge(
        _config(settings, addresses), authenticator=authenticator, flow_keys=files.flow_keys
    )
    return SipService(server, EdgeApplication(server.endpoint, edge))


def sip_reload(service: SipService, files: SipFiles) -> None:
    """Gives a running server what stands in the files now.

    Args:
        service: The server.
        files: Users, where there were some before, and keys.
    """
    edge = service.application.edge
    if files.users is not None and edge.authenticator is not None:
        edge.authenticator.users = files.users
    if files.flow_keys:
        edge.use_flow_keys(files.flow_keys)


def sip_lines(settings: Settings, service: SipService) -> list[str]:
    """What there is to say of a server, in lines.

    Args:
        settings: The settings.
        service: The server.
    """
    domains = service.application.edge.config.own_domains
    where = "any domain" if domains.any_host else ", ".join(domains.names)
    who = "anybody may register" if settings.sip_users is None else "users register by password"
    if settings.sip_users is None and settings.auth_file is not None:
        who = "users register under the name they connect with"
    return [f"SIP for {where}; {who}"]

"""The SIP server of ``wsproto-sip serve``: what its settings mean."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.sip_edge import SipService
from ..sip.application import EdgeApplication
from ..sip.authentication import DigestAuthenticator
from ..sip.domains import Domains
from ..sip.edge import SipEdge
from ..sip.edge_config import EdgeConfig, EdgeMode, Upstream
from ..sip.errors import SipValueError
from ..sip.uri import SipUri
from ..sip.users import Users
from ..subprotocols import SIP
from ._text import in_uri, reason_of
from .settings import Settings, SettingsError, option_name
from .setup import WILDCARDS, read_accounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..adapters.endpoint_server import EndpointServer

__all__ = ["SipFiles", "sip_files", "sip_line", "sip_reload", "sip_service"]

_UPSTREAM = re.compile(r"(udp|tcp):(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})")
_LOCAL = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([1-9][0-9]{0,4}))?")
#: What stands for datagrams of any size.
_MAX_DATAGRAM = 65535
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){16,}")
_DEFAULTS = Settings()
#: Without effect where sip is not offered, so not to be given then.
_OPTIONS = ("sip_domain", "sip_users", "sip_name", "sip_flow_keys", "upstream")


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
    if settings.upstream is not None:
        _upstream_of(settings.upstream)
        if settings.sip_users is not None and not settings.sip_challenge:
            raise SettingsError(
                "--sip-users: the upstream registers; --sip-challenge has this side ask as well"
            )
    elif settings.upstream_local is not None:
        raise SettingsError("--upstream-local: there is no --upstream")
    if settings.upstream_local is not None:
        _local_of(settings.upstream_local)
    anyone = settings.local if settings.sip_anyone is None else settings.sip_anyone
    registers = settings.upstream is None and settings.sip_users is None
    if registers and settings.auth_file is None and not anyone:
        raise SettingsError(
            f"--sip-users: state who may register at {settings.host}: a file of users, or "
            "anybody by --sip-anyone"
        )
    if settings.sip_challenge and settings.sip_users is None:
        raise SettingsError("--sip-challenge: there are no --sip-users")
    _config(settings, [("127.0.0.1", 1)], None)
    return SipFiles(_users(settings), _flow_keys(settings))


def _users(settings: Settings) -> Users | None:
    path = settings.sip_users
    if path is None:
        return None
    realm = settings.auth_realm
    return Users(read_accounts(path, realm, md5=True), realm)


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


def _upstream_of(word: str) -> tuple[str, str, int]:
    """Transport, host and port of an upstream."""
    match = _UPSTREAM.fullmatch(word)
    try:
        if match is None:
            raise SipValueError("another form")
        transport, host, port = match.groups()
        SipUri.make(host, port=int(port))
    except SipValueError:
        raise SettingsError(f"--upstream: {word!r} is no udp:HOST:PORT or tcp:HOST:PORT") from None
    return transport, host, int(port)


def _local_of(word: str) -> tuple[str, int | None]:
    """Host and port of this side."""
    match = _LOCAL.fullmatch(word)
    try:
        if match is None or match[1].strip("[]") in WILDCARDS:
            raise SipValueError("another form")
        port = None if match[2] is None else int(match[2])
        SipUri.make(match[1], port=port)
    except SipValueError:
        raise SettingsError(f"--upstream-local: {word!r} is no HOST or HOST:PORT") from None
    return match[1], port


def _upstream(settings: Settings) -> Upstream | None:
    """The upstream, and where this side is for it.

    Raises:
        SettingsError: Its name is not known, or no address leads to it.
    """
    if settings.upstream is None:
        return None
    transport, host, port = _upstream_of(settings.upstream)
    local, local_port = None, None
    if settings.upstream_local is not None:
        local, local_port = _local_of(settings.upstream_local)
    try:
        if local is None:
            local = _address_towards(host.strip("[]"), port)
        if local_port is None:
            local_port = _free_port(local.strip("[]"))
    except OSError as exc:
        raise SettingsError(f"--upstream: {settings.upstream}: {reason_of(exc)}") from None
    limit = settings.upstream_datagram_limit
    return Upstream(
        "upstream",
        host,
        port,
        in_uri(local),
        local_port,
        transport,
        datagram_limit=None if limit == _MAX_DATAGRAM else limit,
    )


def _address_towards(host: str, port: int) -> str:
    """The address of this machine that packets to a host leave from."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        # Sends nothing: it only looks the route up.
        sock.connect(address)
        return str(sock.getsockname()[0])


def _free_port(host: str) -> int:
    """A port that nobody has, for UDP and TCP."""
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    while True:
        with (
            socket.socket(family, socket.SOCK_STREAM) as stream,
            socket.socket(family, socket.SOCK_DGRAM) as datagrams,
        ):
            stream.bind(address)
            port: int = stream.getsockname()[1]
            try:
                datagrams.bind((address[0], port, *address[2:]))
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    continue
                raise
            return port


def _config(
    settings: Settings, addresses: Sequence[tuple[str, int]], upstream: Upstream | None
) -> EdgeConfig:
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
        Domains(
            names or (name,),
            any_host=not names and settings.upstream is None and settings.local,
        ),
        port,
        EdgeMode(settings.sip_mode),
        upstream,
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

    Raises:
        SettingsError: Nothing leads to the upstream.
    """
    authenticator = None
    if files.users is not None:
        authenticator = DigestAuthenticator(settings.auth_realm, files.users)
    config = _config(settings, addresses, _upstream(settings))
    edge = SipEdge(config, authenticator=authenticator, flow_keys=files.flow_keys)
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


def sip_line(settings: Settings, service: SipService) -> str:
    """What there is to say of a server, in a line.

    Args:
        settings: The settings.
        service: The server.
    """
    config = service.application.edge.config
    if (upstream := config.upstream) is not None:
        near = f"{upstream.local_host}:{upstream.local_port}"
        far = f"{upstream.transport}:{upstream.host}:{upstream.port}"
        return f"SIP edge of {far}, which reaches it at {near}"
    domains = config.own_domains
    where = "any domain" if domains.any_host else ", ".join(domains.names)
    if settings.sip_users is not None:
        who = "users register by password"
        if not settings.sip_challenge:
            who += ", and anybody may call them"
    elif settings.auth_file is not None:
        who = "users register under the name they connect with"
    else:
        who = "anybody may register"
    return f"SIP for {where}; {who}"

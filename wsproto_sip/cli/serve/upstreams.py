"""The upstreams of ``wsproto-sip serve``: their settings, and the resolution of their names.

Theory of operation: each ``--upstream`` is a site, written as a SIP URI. A site with a port, or
an IP address, is one upstream. One with a name alone is looked up in the DNS (RFC 3263), and may
be several; it is looked up again when the answer is too old.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from ...adapters._lines import report
from ...adapters._tls import client_context, server_context
from ...adapters.asyncio.dns import DnsResolver, find
from ...sip.edge.config import Upstream
from ...sip.message.errors import SipParseError, SipValueError
from ...sip.message.transport import default_port
from ...sip.message.uri import SipUri
from .._text import in_uri, reason_of
from .places import WILDCARDS
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from ...adapters.asyncio.dns import Resolver

__all__ = ["Site", "UpstreamSet", "free_port", "local_of", "site_of", "sites_of", "upstream_tls"]

#: Value for datagrams of any size.
_MAX_DATAGRAM: Final = 65535
_LOCAL: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([1-9][0-9]{0,4}))?")
_Use = Callable[[Sequence[Upstream]], Awaitable[None]]
_PARAMS: Final = ("transport", "priority", "weight", "name")
#: Above all SRV priorities, so that those of sites take precedence.
_PRIORITIES: Final = 65536
#: Seconds until a name is looked up again: minimum, maximum, and after a failure.
_SHORTEST, _LONGEST, _AFTER_FAILURE = 5.0, 86400.0, 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """An upstream as configured.

    Args:
        host: A name, or an address, an IPv6 one in brackets.
        port: Its port; ``None`` for that of the DNS, or the transport's default for an address.
        transport: ``udp``, ``tcp`` or ``tls``; ``None`` for that of the DNS, or ``udp``.
        priority: Priority; the lowest comes first.
        weight: The share among equal priorities.
        tls_name: The name in its certificate; ``None`` for the host.
    """

    host: str
    port: int | None = None
    transport: str | None = None
    priority: int = 0
    weight: int = 1
    tls_name: str | None = None

    @property
    def is_named(self) -> bool:
        """Whether its servers have to be looked up in the DNS."""
        if self.port is not None:
            return False
        try:
            ip_address(self.host.strip("[]"))
        except ValueError:
            return True
        return False

    def upstreams(self) -> list[tuple[str, int, str, int, int, tuple[str, ...]]]:
        """Return host, port, transport, priority, weight and aliases of a single upstream."""
        transport = self.transport or "udp"
        port = default_port(transport) if self.port is None else self.port
        return [(self.host, port, transport, 0, 1, ())]


def site_of(word: str) -> Site:
    """Parse an upstream.

    Args:
        word: ``sip:HOST[:PORT][;transport=udp|tcp|tls][;priority=N][;weight=N][;name=DOMAIN]``, or
            the same with ``sips``, which means TLS.

    Raises:
        SettingsError: It has another form.
    """
    try:
        uri = SipUri.parse(word)
        params = {name.lower(): value for name, value in uri.params}
        unknown = [name for name in params if name not in _PARAMS]
        if uri.user is not None or uri.headers is not None or unknown:
            raise SipValueError("a part that says nothing of an upstream")
        transport: str | None = None
        if "transport" in params:
            transport = (params["transport"] or "").lower()
        if uri.scheme == "sips":
            if transport not in (None, "tcp", "tls"):
                raise SipValueError("another transport")
            transport = "tls"
        elif transport not in (None, "udp", "tcp", "tls"):
            raise SipValueError("another transport")
        if uri.port == 0:
            raise SipValueError("another port")
        name = params.get("name")
        if "name" in params:
            SipUri.make(name or "")
        priority, weight = _number(params, "priority", 0), _number(params, "weight", 1)
        return Site(uri.host, uri.port, transport, priority, weight, name)
    except (SipParseError, SipValueError, ValueError):
        raise SettingsError(
            f"--upstream: {word!r:.200} is not sip:HOST[:PORT] or sips:HOST[:PORT] with "
            ";transport=udp, tcp or tls, ;priority=N, ;weight=N (0 to 65535) or ;name=DOMAIN"
        ) from None


def _number(params: dict[str, str | None], name: str, default: int) -> int:
    word = params.get(name, str(default)) or ""
    if not (word.isascii() and word.isdigit() and len(word) < 6 and int(word) < _PRIORITIES):
        raise SipValueError("not a number")
    return int(word)


def sites_of(settings: Settings) -> list[Site]:
    """Parse all upstreams.

    Args:
        settings: The settings.

    Raises:
        SettingsError: One has another form, is there twice, or needs a certificate or dnspython
            that is not there.
    """
    sites = [site_of(word) for word in settings.upstream]
    if len({(site.host.lower(), site.port, site.transport) for site in sites}) < len(sites):
        raise SettingsError("--upstream: one of them is there twice")
    for name in ("upstream_local", "upstream_local_tls"):
        if getattr(settings, name) is not None:
            local_of(settings, name)
    if any(site.is_named for site in sites):
        _resolver()
    upstream_tls(settings, sites)
    return sites


def _resolver() -> Resolver:
    try:
        return DnsResolver()
    except ImportError as exc:
        raise SettingsError(f"--upstream: a name without a port: {exc}") from None


def local_of(settings: Settings, name: str) -> tuple[str, int | None]:
    """Parse host and port of this side.

    Args:
        settings: The settings.
        name: The field.

    Raises:
        SettingsError: It has another form.
    """
    word = getattr(settings, name)
    match = _LOCAL.fullmatch(word)
    try:
        if match is None or match[1].strip("[]") in WILDCARDS:
            raise SipValueError("another form")
        port = None if match[2] is None else int(match[2])
        SipUri.make(match[1], port=port)
    except SipValueError:
        option = name.replace("_", "-")
        raise SettingsError(f"--{option}: {word!r} is not HOST or HOST:PORT") from None
    return match[1], port


def upstream_tls(
    settings: Settings, sites: Sequence[Site]
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Make the contexts for upstreams over TLS.

    Args:
        settings: The settings.
        sites: The upstreams.

    Returns:
        One for connections to them, and one for theirs; empty if no upstream needs them.

    Raises:
        SettingsError: A certificate is missing, or cannot be used.
    """
    certificate, key = settings.upstream_tls_cert, settings.upstream_tls_key
    if not any(site.transport == "tls" or site.is_named for site in sites):
        for option, given in (
            ("ca", settings.upstream_tls_ca),
            ("cert", certificate),
            ("key", key),
        ):
            if given is not None:
                raise SettingsError(f"--upstream-tls-{option}: no --upstream is reached over TLS")
        return None, None
    if certificate is None:
        if key is not None:
            raise SettingsError("--upstream-tls-key: requires --upstream-tls-cert")
        certificate = next(iter(settings.tls_cert), None)
        key = next(iter(settings.tls_key), None)
    if certificate is None and any(site.transport == "tls" for site in sites):
        raise SettingsError(
            "--upstream-tls-cert: an upstream over TLS needs one to connect to this side"
        )
    authorities = settings.upstream_tls_ca
    client = _loaded("ca", authorities, lambda: client_context(authorities))
    # SIP has its own rules for names (RFC 5922), which the links apply.
    client.check_hostname = False
    if certificate is None:
        return client, None
    server = server_context()
    _loaded("cert", certificate, lambda: client.load_cert_chain(certificate, key, _no_password))
    _loaded("cert", certificate, lambda: server.load_cert_chain(certificate, key, _no_password))
    if authorities is not None:
        server.load_verify_locations(authorities)
    else:
        server.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    # An upstream without a certificate is identified by its address, as over TCP.
    server.verify_mode = ssl.CERT_OPTIONAL
    return client, server


def _loaded(option: str, path: str | None, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
        raise SettingsError(f"--upstream-tls-{option}: {path}: {reason}") from None


def _no_password() -> str:
    raise ValueError("the key has a password")


class UpstreamSet:
    """The upstreams of a server, kept up to date.

    Args:
        settings: The settings, validated by :func:`sites_of`.
        resolver: Resolver for the DNS; by default the name servers of this machine.
    """

    def __init__(self, settings: Settings, resolver: Resolver | None = None) -> None:
        self._settings = settings
        self._sites = sites_of(settings)
        self._resolver = resolver
        self._locals: dict[bool, tuple[str, int]] = {}
        self._task: asyncio.Task[None] | None = None
        #: Seconds until names must be looked up again.
        self.ttl = _LONGEST

    async def find(self) -> list[Upstream]:
        """Look up the servers.

        Raises:
            SettingsError: No server was found, or none can be reached.
        """
        found: dict[str, Upstream] = {}
        failure: SettingsError | None = None
        self.ttl = _LONGEST
        for site, word in zip(self._sites, self._settings.upstream, strict=True):
            try:
                servers = await self._servers(site)
                for host, port, transport, priority, weight, aliases in servers:
                    local = self._local(transport == "tls", host, port)
                    uri = SipUri.make(in_uri(host), port=port)
                    name = str(
                        uri if transport == "udp" else uri.with_param("transport", transport)
                    )
                    limit = self._settings.upstream_datagram_limit
                    upstream = Upstream(
                        name,
                        in_uri(host),
                        port,
                        *local,
                        transport,
                        None if limit == _MAX_DATAGRAM else limit,
                        priority=site.priority * _PRIORITIES + priority,
                        weight=site.weight * weight,
                        aliases=aliases,
                        tls_name=site.tls_name or site.host.strip("[]"),
                    )
                    found.setdefault(name, upstream)
            except OSError as exc:
                self.ttl = min(self.ttl, _AFTER_FAILURE)
                failure = SettingsError(f"--upstream: {word}: {reason_of(exc)}")
                report("sip", logging.INFO, "link-not-found", upstream=word, reason=str(exc))
        if not found and failure is not None:
            raise failure
        return list(found.values())

    async def _servers(self, site: Site) -> list[tuple[str, int, str, int, int, tuple[str, ...]]]:
        if not site.is_named:
            return site.upstreams()
        if self._resolver is None:
            self._resolver = _resolver()
        location = await find(self._resolver, site.host, None, site.transport, kinds=self._kinds())
        self.ttl = min(self.ttl, location.ttl)
        return [
            (
                server.address,
                server.port,
                server.transport,
                server.priority,
                server.weight,
                tuple(in_uri(host) for host in dict.fromkeys((site.host, server.host))),
            )
            for server in location.servers
            # Without a certificate, it could not connect to this side.
            if server.transport != "tls" or self._has_certificate
        ]

    @property
    def _has_certificate(self) -> bool:
        return bool(self._settings.upstream_tls_cert or self._settings.tls_cert)

    def _kinds(self) -> Sequence[str]:
        """Return the addresses that can be reached from this side."""
        if self._settings.upstream_local is None:
            return ("A", "AAAA")
        host = local_of(self._settings, "upstream_local")[0]
        return ("AAAA",) if host.startswith("[") else ("A",)

    def _local(self, secure: bool, host: str, port: int) -> tuple[str, int]:
        """Return the address at which upstreams reach this side, the same for all transports.

        Raises:
            OSError: No local address can reach the upstream.
        """
        known = self._locals.get(secure)
        if known is not None:
            return known
        settings = self._settings
        local: str | None = None
        local_port: int | None = None
        if settings.upstream_local is not None:
            local, local_port = local_of(settings, "upstream_local")
        if secure:
            local_port = None
            if settings.upstream_local_tls is not None:
                local, local_port = local_of(settings, "upstream_local_tls")
        if local is None:
            local = _address_towards(host.strip("[]"), port)
        if local_port is None:
            local_port = free_port(local.strip("[]"))
        known = self._locals[secure] = in_uri(local), local_port
        return known

    def keep(self, use: _Use) -> None:
        """Look names up again from now on, until :meth:`close`.

        Args:
            use: Called with the upstreams each time.
        """
        if self._has_names:
            self._task = asyncio.get_running_loop().create_task(self._keep(use))

    def change(self, settings: Settings, use: _Use) -> None:
        """Use the upstreams of other settings, as soon as they are resolved.

        Args:
            settings: The settings, validated by :func:`sites_of`. This side's address for upstreams
                stays.
            use: Called with the upstreams, and again as :meth:`keep` does.
        """
        if self._task is not None:
            self._task.cancel()
        before = self._settings
        self._settings = replace(
            settings,
            upstream_local=before.upstream_local,
            upstream_local_tls=before.upstream_local_tls,
        )
        self._sites = sites_of(self._settings)
        self._task = asyncio.get_running_loop().create_task(self._keep(use, at_once=True))

    @property
    def _has_names(self) -> bool:
        return any(site.is_named for site in self._sites)

    async def _keep(self, use: _Use, *, at_once: bool = False) -> None:
        while at_once or self._has_names:
            if not at_once:
                await asyncio.sleep(min(max(self.ttl, _SHORTEST), _LONGEST))
            try:
                upstreams = await self.find()
                await use(upstreams)
                if at_once:
                    names = ", ".join(upstream.name for upstream in upstreams)
                    report("sip", logging.WARNING, "upstreams-changed", upstreams=names)
                at_once = False
            except (OSError, SettingsError) as exc:
                # Old results are better than none.
                report("sip", logging.WARNING, "upstreams-unchanged", reason=str(exc))
                self.ttl = _AFTER_FAILURE
                if at_once:
                    await asyncio.sleep(_AFTER_FAILURE)

    async def close(self) -> None:
        """Stop looking names up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _address_towards(host: str, port: int) -> str:
    """Return the local address for packets to a host."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        # Sends nothing; only looks up the route.
        sock.connect(address)
        return str(sock.getsockname()[0])


def free_port(host: str) -> int:
    """Return a port that is free for UDP and TCP.

    Args:
        host: The address, one of this machine's.

    Raises:
        OSError: It is not.
    """
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

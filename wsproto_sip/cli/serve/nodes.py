"""Several nodes of ``wsproto-sip serve``: the settings of one, its store, and its metrics."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...adapters._tls import client_context, server_context
from ...adapters.asyncio.bus_redis import RedisBus
from ...adapters.asyncio.location import EngineError, LocationService, NodeEntry
from ...adapters.asyncio.location_redis import RedisEngine, RedisPlace, RedisTls
from ...adapters.asyncio.population import PopulationCommands
from ...policy.forwarded import TrustedNetworks
from ...server.management.commands import TreeResult
from ...server.management.prometheus import Family
from ...sip.message.errors import SipValueError
from ...sip.message.uri import SipUri
from ...subprotocols import SIP
from .._text import authority, in_uri, reason_of
from .places import WILDCARDS, is_loopback
from .settings import Settings, SettingsError, option_name
from .upstreams import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ...adapters.asyncio.sip import SipService
    from ...server.management.commands import CommandTable, Execute

__all__ = [
    "add_node_commands",
    "check_nodes",
    "join",
    "location_service",
    "node_line",
    "node_networks",
    "node_tls",
    "population_commands",
    "store_families",
    "takes_commands",
]

_DEFAULTS: Final = Settings()
_LISTEN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})")
#: Options that have no effect without a store.
_NEED_STORE: Final = (
    *("store_password", "store_sentinel_password", "store_prefix"),
    *("store_tls_ca", "store_tls_cert", "store_tls_key"),
    *("node_listen", "node_name", "node_network"),
    *("node_tls_cert", "node_tls_key", "node_tls_ca", "node_tls_name", "msrp_node_port"),
)
_LOOPBACK: Final = ("127.0.0.0/8", "::1")
#: Bytes of a file with a password.
_MAX_PASSWORD: Final = 4096


def check_nodes(settings: Settings) -> None:
    """Check that the options of a node fit together.

    Args:
        settings: The settings.

    Raises:
        SettingsError: They do not.
    """
    if settings.store is None:
        for name in _NEED_STORE:
            if getattr(settings, name) != getattr(_DEFAULTS, name):
                raise SettingsError(f"--{option_name(name)}: requires --store")
        return
    place = _place(settings)
    if SIP not in settings.subprotocol:
        raise SettingsError("--store: sip is not among --subprotocol")
    if settings.upstream:
        raise SettingsError("--store: not together with --upstream, which is the registrar then")
    if settings.sip_mode != "outbound":
        raise SettingsError("--store: requires --sip-mode outbound")
    if settings.sip_flow_keys is None:
        raise SettingsError(
            "--sip-flow-keys: required with --store, the same file for all nodes: the addresses "
            "(GRUUs) that one node gives to clients have to be understood by the others"
        )
    for name in ("ca", "cert", "key"):
        if getattr(settings, f"store_tls_{name}") is not None and not place.secure:
            raise SettingsError(f"--store-tls-{name}: --store is not reached over TLS (rediss)")
    if settings.store_tls_key is not None and settings.store_tls_cert is None:
        raise SettingsError("--store-tls-key: requires --store-tls-cert")
    if settings.store_sentinel_password is not None and place.kind != "+sentinel":
        raise SettingsError("--store-sentinel-password: --store has no Sentinels")
    host, _ = _listen(settings)
    _check_links(settings, host)


def _place(settings: Settings) -> RedisPlace:
    try:
        return RedisPlace.parse(settings.store or "")
    except ValueError as exc:
        raise SettingsError(f"--store: {exc}") from None


def _listen(settings: Settings) -> tuple[str, int]:
    """Parse the address of the node."""
    word = settings.node_listen
    if word is None:
        raise SettingsError(
            "--node-listen: required with --store: HOST:PORT, at which the other nodes reach this "
            "one"
        )
    match = _LISTEN.fullmatch(word)
    try:
        if match is None or match[1].strip("[]") in WILDCARDS:
            raise SipValueError("another form")
        host, port = match[1], int(match[2])
        SipUri.make(host, port=port)
    except SipValueError:
        raise SettingsError(
            f"--node-listen: {word!r} is not HOST:PORT, an address at which others reach this node"
        ) from None
    return host, port


def _check_links(settings: Settings, host: str) -> None:
    """Refuse links that programs other than nodes could use."""
    secure = settings.node_tls_cert is not None
    for name in ("key", "ca", "name"):
        if getattr(settings, f"node_tls_{name}") is not None and not secure:
            raise SettingsError(f"--node-tls-{name}: requires --node-tls-cert")
    if secure and settings.node_tls_ca is None:
        raise SettingsError("--node-tls-cert: requires --node-tls-ca, which issues those of nodes")
    networks = _networks(settings)
    if networks is not None:
        if host.strip("[]") not in networks:
            raise SettingsError(f"--node-network: {host} of --node-listen is not in it")
    elif not secure and not is_loopback(host.strip("[]")):
        raise SettingsError(
            f"--node-listen: state how other nodes are known at {host}: by certificates "
            "(--node-tls-cert), or by a network of their own (--node-network)"
        )


def _networks(settings: Settings) -> TrustedNetworks | None:
    if not settings.node_network:
        return None
    try:
        return TrustedNetworks(settings.node_network)
    except ValueError as exc:
        raise SettingsError(f"--node-network: {exc}") from None


def node_networks(settings: Settings) -> TrustedNetworks | None:
    """Return the addresses that other nodes connect from; ``None`` if certificates tell.

    Args:
        settings: The settings, validated by :func:`check_nodes`.
    """
    networks = _networks(settings)
    if networks is None and settings.node_tls_cert is None:
        return TrustedNetworks(_LOOPBACK)
    return networks


def _admits(settings: Settings) -> Callable[[NodeEntry], bool] | None:
    """Return the check of other nodes' addresses, if there is one."""
    networks = _networks(settings)
    if networks is not None:
        return lambda entry: entry.host.strip("[]") in networks
    if settings.node_tls_cert is None:
        return lambda entry: is_loopback(entry.host.strip("[]"))
    return None


def node_tls(settings: Settings) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Make the contexts for links between nodes.

    Args:
        settings: The settings.

    Returns:
        One for connections to other nodes, and one for theirs; empty without TLS.

    Raises:
        SettingsError: A certificate cannot be used.
    """
    certificate, authorities = settings.node_tls_cert, settings.node_tls_ca
    if certificate is None or authorities is None:
        return None, None
    try:
        client = client_context(authorities)
    except OSError as exc:
        raise SettingsError(f"--node-tls-ca: {authorities}: {reason_of(exc)}") from None
    # SIP has its own rules for names (RFC 5922), which the links apply.
    client.check_hostname = False
    server = server_context()
    server.load_verify_locations(authorities)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        _load(context, "node", certificate, settings.node_tls_key)
    return client, server


def _check_store_tls(tls: RedisTls) -> None:
    """Check the certificates for the store, which is reached only later, and again and again."""
    try:
        context = client_context(tls.ca)
    except OSError as exc:
        raise SettingsError(f"--store-tls-ca: {tls.ca}: {reason_of(exc)}") from None
    if tls.cert is not None:
        _load(context, "store", tls.cert, tls.key)


def _load(context: ssl.SSLContext, prefix: str, certificate: str, key: str | None) -> None:
    """Load a certificate with its key; name the options in errors."""
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except (OSError, ValueError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
        raise SettingsError(f"--{prefix}-tls-cert: {certificate}: {reason}") from None


def _no_password() -> str:
    raise ValueError("the private key is encrypted")


def _password(settings: Settings, name: str) -> str | None:
    path = getattr(settings, name)
    if path is None:
        return None
    option = option_name(name)
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_PASSWORD + 1).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"--{option}: {path}: not UTF-8") from None
    except OSError as exc:
        raise SettingsError(f"--{option}: {path}: {reason_of(exc)}") from None
    if not text or len(text) > _MAX_PASSWORD:
        raise SettingsError(f"--{option}: {path}: not a password of 1 to {_MAX_PASSWORD} bytes")
    return text


def location_service(settings: Settings) -> LocationService | None:
    """Return the location store of a node, not yet opened; ``None`` without one.

    Args:
        settings: The settings, validated by :func:`check_nodes`.

    Raises:
        SettingsError: A file cannot be read, redis-py is not installed, or no port is free.
    """
    if settings.store is None:
        return None
    tls = RedisTls(settings.store_tls_ca, settings.store_tls_cert, settings.store_tls_key)
    _check_store_tls(tls)
    try:
        engine = RedisEngine(
            settings.store,
            password=_password(settings, "store_password"),
            sentinel_password=_password(settings, "store_sentinel_password"),
            tls=tls,
            prefix=settings.store_prefix,
        )
    except ImportError as exc:
        raise SettingsError(f"--store: {exc}") from None
    host, port = _listen(settings)
    try:
        port = port or free_port(host.strip("[]"))
    except OSError as exc:
        raise SettingsError(f"--node-listen: {settings.node_listen}: {reason_of(exc)}") from None
    host = in_uri(host)
    name = settings.node_name or f"{host}:{port}"
    transport = "tcp" if settings.node_tls_cert is None else "tls"
    try:
        entry = NodeEntry(name, os.urandom(8).hex(), host, port, transport)
    except ValueError as exc:
        raise SettingsError(f"--node-name: {name!r:.100}: {exc}") from None
    return LocationService(engine, entry, admits=_admits(settings), tls_name=settings.node_tls_name)


async def join(location: LocationService, sip: SipService) -> None:
    """Listen for other nodes, and enter a node.

    Args:
        location: The node's location store.
        sip: Its SIP server.

    Raises:
        SettingsError: The node cannot listen at its address, or the store refuses to serve.
    """
    entry = location.entry
    try:
        await sip.listen_for_nodes(
            entry.host, entry.port, secure=entry.transport == "tls", introduce=location.meet
        )
    except OSError as exc:
        where = authority(entry.host.strip("[]"), entry.port)
        raise SettingsError(
            f"--node-listen: cannot listen on {where} for nodes: {reason_of(exc)}"
        ) from None
    try:
        await location.open(sip)
    except EngineError as exc:
        raise SettingsError(f"--store: {exc}") from None


def takes_commands(settings: Settings) -> bool:
    """Return whether other nodes may give this one commands: only nodes reach the store.

    Args:
        settings: The settings.
    """
    place = _place(settings)
    known = place.password or settings.store_password or settings.store_tls_cert
    hosts = [host for host, _ in place.hosts]
    return bool(known) or all(is_loopback(host) for host in hosts)


def population_commands(
    settings: Settings, location: LocationService, execute: Execute
) -> PopulationCommands | None:
    """Return the commands that concern other nodes, not yet opened; ``None`` if there are none.

    Args:
        settings: The settings.
        location: The node's location store.
        execute: Executes a command here.
    """
    engine = location.engine
    if not isinstance(engine, RedisEngine) or not takes_commands(settings):
        return None
    return PopulationCommands(
        RedisBus(engine),
        location.entry.name,
        lambda: location.others,
        execute,
        meet=location.meet,
    )


def node_line(settings: Settings, location: LocationService) -> str:
    """Return a one-line description of a node.

    Args:
        settings: The settings.
        location: The node's location store.
    """
    entry, place = location.entry, _place(settings)
    where = ", ".join(authority(*each) for each in place.hosts) or place.path
    by = "with certificates" if entry.transport == "tls" else "over TCP"
    line = (
        f"Node {entry.name}, which others reach {by} at {entry.host}:{entry.port}; "
        f"registrations are shared at {where}"
    )
    if not takes_commands(settings):
        line += "; commands for other nodes are off, because the store has no password"
    return line


def add_node_commands(commands: CommandTable, location: LocationService, sip: SipService) -> None:
    """Add the command that shows the nodes and the state of the store.

    Args:
        commands: The endpoint's commands.
        location: The node's location store.
        sip: Its SIP server.
    """

    def shown(entry: NodeEntry) -> dict[str, object]:
        state = "leaving" if entry.draining else "running"
        if entry.name in sip.out_of_reach:
            state = "out of reach"
        return {
            "node": entry.name,
            "address": f"{entry.host}:{entry.port}",
            "transport": entry.transport,
            "state": "this node" if entry.node == location.entry.node else state,
        }

    def nodes() -> TreeResult:
        known = {**location.others, location.entry.name: location.entry}
        return TreeResult(
            {
                "nodes": [shown(known[name]) for name in sorted(known)],
                "store": {
                    "up": "yes" if location.up else "no",
                    "outages": location.outages,
                    "waiting": location.waiting,
                    "errands": location.errands,
                },
            }
        )

    commands.add(
        "ws.nodes",
        "Show the nodes that this one knows, and whether the store answers it",
        lambda parameters, now: nodes(),
    )


def store_families(location: LocationService, out_of_reach: Collection[str] = ()) -> list[Family]:
    """Return the metrics of a node, for Prometheus.

    Args:
        location: The node's location store.
        out_of_reach: The names of nodes to which no connection can be made.
    """
    asked = Family("wsproto_sip_store_questions_total", "counter", "Questions to the store.")
    for (kind, outcome), count in sorted(location.counts.items()):
        asked.add(count, kind=kind, outcome=outcome)
    return [
        Family(
            "wsproto_sip_store_up",
            "gauge",
            "Whether the location store answers.",
            int(location.up),
        ),
        Family(
            "wsproto_sip_store_outages_total",
            "counter",
            "How often the location store has stopped answering.",
            location.outages,
        ),
        asked,
        Family(
            "wsproto_sip_store_questions",
            "gauge",
            "Questions that wait to be sent to the store.",
            location.waiting,
        ),
        Family(
            "wsproto_sip_store_answer_seconds", "histogram", "How long the store took to answer."
        ).add_histogram(location.seconds),
        Family(
            "wsproto_sip_store_errands",
            "gauge",
            "Addresses whose registrations the store does not have as they are.",
            location.errands,
        ),
        Family(
            "wsproto_sip_store_clock_skew_seconds",
            "gauge",
            "How far the clock of the store is ahead of this machine's.",
            location.skew,
        ),
        Family("wsproto_sip_nodes", "gauge", "Other nodes that run.", len(location.others)),
        Family(
            "wsproto_sip_nodes_out_of_reach",
            "gauge",
            "Nodes among them to which no connection can be made.",
            len(location.others.keys() & set(out_of_reach)),
        ),
    ]

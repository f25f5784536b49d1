"""The settings of ``wsproto-sip serve``: one table for flags, TOML keys, defaults and help.

Theory of operation: every field of :class:`Settings` is an option. Its name with hyphens is the
flag and the TOML key; its kind reads text from the command line and checks values from a file.
:func:`load` puts the sources on top of each other: defaults, kamailio.cfg, TOML, flags.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from ..server.modparams import ModParamError, ModParams, SubProtocols

__all__ = [
    "Settings",
    "SettingsError",
    "add_options",
    "is_loopback",
    "load",
    "option_name",
    "restart_needed",
]

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")


class SettingsError(ValueError):
    """A setting, or the file it stands in, that nothing can be done with.

    Args:
        message: Which one, and what is wrong.
    """


@dataclass(frozen=True, slots=True)
class _Kind:
    """What values an option takes.

    Args:
        words: What that is, for people: behind "is not".
        metavar: How a value stands in the usage; empty for switches.
        read: Makes a value of a word from the command line; ValueError if it is none.
        check: Whether a value from a file is one.
        many: Whether there can be several.
    """

    words: str
    metavar: str
    read: Callable[[str], Any]
    check: Callable[[Any], bool]
    many: bool = False

    def from_word(self, word: str) -> Any:
        """Takes a value from the command line."""
        try:
            value = self.read(word)
        except ValueError:
            value = None
        if value is None or not self.check(value):
            raise argparse.ArgumentTypeError(f"{word!r} is no {self.words}")
        return value

    def from_file(self, value: Any) -> Any:
        """Takes a value from a file; ValueError if it is none."""
        if not self.many:
            if not self.check(value):
                raise ValueError(f"{value!r} is no {self.words}")
            return value
        if not isinstance(value, list) or not all(map(self.check, value)):
            raise ValueError(f"{value!r} is no array of {self.words}s")
        return tuple(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _text(words: str = "text", metavar: str = "TEXT", *, many: bool = False) -> _Kind:
    return _Kind(words, metavar, str, _is_text, many)


def _path() -> _Kind:
    return _text("name of a file", "FILE")


def _word(*words: str, many: bool = False) -> _Kind:
    return _Kind(
        f"{', '.join(words[:-1])} or {words[-1]}",
        "|".join(words),
        str,
        lambda value: isinstance(value, str) and value in words,
        many,
    )


def _read_whole(word: str) -> int | None:
    return int(word) if _WHOLE.fullmatch(word) else None


def _read_number(word: str) -> float | None:
    return float(word) if _NUMBER.fullmatch(word) else None


def _whole(low: int, high: int, metavar: str = "N") -> _Kind:
    return _Kind(
        f"number from {low} to {high}",
        metavar,
        _read_whole,
        lambda value: type(value) is int and low <= value <= high,
    )


def _seconds(low: float, high: float) -> _Kind:
    return _Kind(
        f"number of seconds from {low:g} to {high:g}",
        "SECONDS",
        _read_number,
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


_SWITCH: Final = _Kind("true or false", "", str, lambda value: isinstance(value, bool))


def _option(default: Any, kind: _Kind, text: str, *, group: str = "", restart: bool = False) -> Any:
    """A field of Settings.

    Args:
        default: Its value where no source gives one.
        kind: What values it takes.
        text: The help.
        group: The heading it begins in the help; it holds for the fields behind it.
        restart: Whether a reload cannot change it.
    """
    metadata = {"kind": kind, "help": text, "group": group, "restart": restart}
    return field(default=default, metadata=metadata)


_HOUR = 3600
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``wsproto-sip serve`` does."""

    host: str = _option(
        "127.0.0.1", _text("host", "HOST"), "where to listen", group="listening", restart=True
    )
    port: int = _option(8080, _whole(0, 65535), "0 picks a free one", restart=True)
    tls_cert: str | None = _option(None, _path(), "certificate chain (PEM): serves wss")
    tls_key: str | None = _option(None, _path(), "its private key, unless that is in the same file")

    origin: tuple[str, ...] = _option(
        (),
        _text("origin", "ORIGIN", many=True),
        "web pages that may connect: https://example.com, any, loopback (of this machine), null "
        "(files and sandboxes), missing (no browser); needed unless --host is this machine, where "
        "it is loopback and missing",
        group="admission",
    )
    allowed_host: tuple[str, ...] = _option(
        (),
        _text("host", "HOST[:PORT]", many=True),
        "names that requests may be for; all if none is given",
    )
    path: tuple[str, ...] = _option(
        (),
        _text("path", "PATH", many=True),
        "paths to serve, * for one segment; all if none is given",
    )
    subprotocol: tuple[str, ...] = _option(
        ("sip", "msrp", "none"),
        _word("sip", "msrp", "none", many=True),
        "sub-protocols; without none, one of the others is required",
    )
    prefer: str = _option(
        "client", _word("client", "server"), "whose order of sub-protocols decides"
    )
    auth_file: str | None = _option(
        None, _path(), "users who may connect, a line each: user:password or user:realm:HA1"
    )
    auth_realm: str = _option(
        "wsproto-sip", _text("realm"), "what users are asked for", restart=True
    )
    auth_scheme: tuple[str, ...] = _option(
        ("digest", "basic"),
        _word("digest", "basic", many=True),
        "how; basic needs TLS unless --host is this machine",
    )
    cors_mode: int = _option(
        0,
        _whole(0, 2),
        "Access-Control-Allow-Origin: 0 none but for msrp, 1 *, 2 the request's Origin",
    )
    trusted_proxy: tuple[str, ...] = _option(
        (), _text("network", "NETWORK", many=True), "proxies whose word on the client is taken"
    )
    proxy_header: str = _option(
        "forwarded",
        _word("forwarded", "x-forwarded-for", "proxy-protocol"),
        "how they give it",
    )

    sip_domain: tuple[str, ...] = _option(
        (),
        _text("domain", "DOMAIN", many=True),
        "the part behind @ of the users here; any where --host is this machine, else --sip-name",
        group="SIP",
        restart=True,
    )
    sip_users: str | None = _option(
        None,
        _path(),
        "users who may register, in lines as for --auth-file; without it nobody is asked for a "
        "password, see --sip-anyone",
        restart=True,
    )
    sip_anyone: bool | None = _option(
        None,
        _SWITCH,
        "lets anybody register under any name; on where --host is this machine, off elsewhere",
        restart=True,
    )
    sip_challenge: bool = _option(
        False, _SWITCH, "asks for a password before calls and messages too", restart=True
    )
    sip_identity: bool = _option(
        True, _SWITCH, "holds those of --auth-file to their own names in From", restart=True
    )
    sip_name: str | None = _option(
        None,
        _text("host", "HOST"),
        "what the server is called in routes; --host if not given",
        restart=True,
    )
    sip_mode: str = _option(
        "outbound",
        _word("outbound", "alias"),
        "how requests within a call find a client: flow tokens, or aliases in Contact",
        restart=True,
    )
    sip_flow_keys: str | None = _option(
        None,
        _path(),
        "secrets that seal flow tokens, a line each, the newest first; random if not given",
        restart=True,
    )

    page: bool | None = _option(
        None,
        _SWITCH,
        "a page with a telephone for browsers; on where --host is this machine, off elsewhere",
    )
    upstream: str | None = _option(
        None,
        _text("upstream", "udp|tcp:HOST:PORT"),
        "a SIP proxy and registrar to be the edge of, instead of being one",
        restart=True,
    )
    upstream_local: str | None = _option(
        None,
        _text("address", "HOST[:PORT]"),
        "where it reaches this side; the address that leads to it, and a free port",
        restart=True,
    )
    upstream_datagram_limit: int = _option(
        1300,
        _whole(0, 65535, "OCTETS"),
        "above which a request goes to it over TCP although it is udp; 65535 for never",
        restart=True,
    )

    msrp_users: str | None = _option(
        None,
        _path(),
        "users of an MSRP relay, in lines as for --auth-file; without it msrp is an echo too",
        group="MSRP relay",
        restart=True,
    )
    msrp_name: str | None = _option(
        None, _text("host", "HOST"), "what it is called in URIs; --host if not given", restart=True
    )
    msrp_min_expires: int = _option(
        60, _whole(1, 86400, "SECONDS"), "that a session may be asked for at least", restart=True
    )
    msrp_max_expires: int = _option(
        3600, _whole(1, 86400, "SECONDS"), "and at most; 900 without asking", restart=True
    )
    msrp_peer: tuple[str, ...] = _option(
        (),
        _text("peer", "NAME=HOST:PORT", many=True),
        "others that it relays to and from, over plain TCP",
        restart=True,
    )
    msrp_peer_port: int | None = _option(
        None, _whole(0, 65535, "PORT"), "where these may connect to --host", restart=True
    )
    allow_insecure_msrp: bool = _option(
        False, _SWITCH, "lets clients in without TLS: for tests only", restart=True
    )

    max_message_size: int = _option(
        1024 * 1024,
        _whole(1, 1 << 30, "OCTETS"),
        "of one message; at most 65536 on sip and msrp",
        group="limits",
    )
    max_connections: int = _option(10_000, _whole(1, 1 << 20), "connections in all")
    max_per_address: int = _option(100, _whole(1, 1 << 20), "connections of one address")
    max_handshakes: int = _option(1000, _whole(1, 1 << 20), "opening handshakes at a time")
    max_handshakes_per_address: int = _option(
        50, _whole(1, 1 << 20), "of one address; not applied behind --trusted-proxy"
    )
    open_timeout: float = _option(10.0, _seconds(0.1, _HOUR), "for the opening handshake")
    close_timeout: float = _option(5.0, _seconds(0.1, _HOUR), "for the closing handshake")
    idle_timeout: float = _option(0.0, _seconds(0, _DAY), "without any octet; 0 for ever")
    deflate: bool = _option(
        True, _SWITCH, "permessage-deflate, where the client offers it; never on sip and msrp"
    )

    keepalive_mechanism: str = _option(
        "ping", _word("none", "ping", "pong", "check"), "what is sent", group="keep-alive"
    )
    keepalive_timeout: float | None = _option(
        None,
        _seconds(1, _HOUR),
        "without a sign of life before it is sent; if not given 25, and 180 on sip",
    )
    keepalive_answer: float = _option(
        20.0, _seconds(0.1, _HOUR), "that a client has to answer a ping"
    )
    keepalive_interval: float = _option(1.0, _seconds(0, 60), "between two rounds")
    keepalive_processes: int = _option(
        1, _whole(1, 16), "parts that a round is split into", restart=True
    )
    keepalive_data: str | None = _option(
        None, _text(), "what pings and pongs carry, 1 to 125 octets; random ones if not given"
    )

    fifo: str | None = _option(
        None, _path(), "takes commands from this FIFO", group="management", restart=True
    )
    ctl_socket: str | None = _option(
        None, _path(), "takes commands on this Unix socket", restart=True
    )
    ctl_http: int | None = _option(
        None,
        _whole(0, 65535, "PORT"),
        "takes commands, and gives metrics, over HTTP on this port of 127.0.0.1",
        restart=True,
    )
    log_format: str | None = _option(
        None,
        _word("text", "json"),
        "tells about each connection on standard error; otherwise only about problems",
        restart=True,
    )
    drain_seconds: float = _option(
        5.0, _seconds(0, _HOUR), "that connections are closed over at SIGTERM"
    )

    @property
    def local(self) -> bool:
        """Whether programs on this machine alone can connect, and no proxy does so for others."""
        return is_loopback(self.host) and not self.trusted_proxy


def is_loopback(host: str) -> bool:
    """Whether what listens there is for programs on this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def option_name(name: str) -> str:
    """The flag, less its two hyphens, and the TOML key of a field."""
    return name.replace("_", "-")


_FIELDS: Final[Mapping[str, Field[Any]]] = {option_name(f.name): f for f in fields(Settings)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each option. Those that are not used leave no trace.

    Args:
        parser: Where to.
    """
    group: Any = parser
    for name, item in _FIELDS.items():
        kind: _Kind = item.metadata["kind"]
        if item.metadata["group"]:
            group = parser.add_argument_group(item.metadata["group"])
        text = item.metadata["help"]
        if item.default not in (None, (), True) and item.default is not False:
            text += f" ({_shown(item.default)})"
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
        if kind is _SWITCH:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": kind.from_word, "metavar": kind.metavar}
            if kind.many:
                options |= {"action": "append"}
        group.add_argument(f"--{name}", **options)


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def load(
    flags: Mapping[str, Any], *, config: str | None = None, kamailio_cfg: str | None = None
) -> tuple[Settings, list[str]]:
    """Reads the files and puts the sources together: flags > TOML > kamailio.cfg > defaults.

    Args:
        flags: What the command line says, by the names of the fields.
        config: A TOML file.
        kamailio_cfg: A kamailio.cfg.

    Returns:
        The settings, and notes on what was not taken as it stood there.

    Raises:
        SettingsError: A file cannot be read or understood.
    """
    values: dict[str, Any] = {}
    notes: list[str] = []
    if kamailio_cfg is not None:
        try:
            params = ModParams.from_kamailio_cfg(_read(kamailio_cfg))
        except ModParamError as exc:
            raise SettingsError(f"{kamailio_cfg}: {exc}") from None
        values |= _from_modparams(params)
        notes += [f"{kamailio_cfg}: {note}" for note in params.notes]
    if config is not None:
        try:
            table = tomllib.loads(_read(config))
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"{config}: {exc}") from None
        for name, value in table.items():
            item = _FIELDS.get(name)
            if item is None:
                known = ", ".join(_FIELDS)
                raise SettingsError(f"{config}: no such option: {name!r}; there are {known}")
            try:
                values[item.name] = item.metadata["kind"].from_file(value)
            except ValueError as exc:
                raise SettingsError(f"{config}: {name}: {exc}") from None
    for name, value in flags.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return Settings(**values), notes


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from None


def _from_modparams(params: ModParams) -> dict[str, Any]:
    """The fields that the module's parameters set, the module's own defaults included."""
    bits = ((SubProtocols.SIP, "sip"), (SubProtocols.MSRP, "msrp"))
    return {
        "keepalive_mechanism": params.keepalive_mechanism.name.lower(),
        "keepalive_timeout": float(params.keepalive_timeout),
        "keepalive_processes": params.keepalive_processes,
        "keepalive_interval": float(params.keepalive_interval),
        "keepalive_data": params.ping_application_data.decode("utf-8", "replace"),
        "subprotocol": tuple(name for bit, name in bits if bit in params.sub_protocols),
        "prefer": "server",
        "cors_mode": int(params.cors_mode),
    }


def restart_needed(before: Settings, after: Settings) -> list[str]:
    """The options that differ and that a reload cannot change."""
    old, new = asdict(before), asdict(after)
    return [
        name
        for name, item in _FIELDS.items()
        if item.metadata["restart"] and old[item.name] != new[item.name]
    ]

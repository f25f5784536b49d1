"""The settings of ``wsproto-sip serve``: one table for flags, TOML keys, defaults and help.

Theory of operation: every field of :class:`Settings` is an option. Its name with hyphens is the
flag and the TOML key; its kind parses text from the command line and checks values from a file.
:func:`load` merges the sources: defaults, kamailio.cfg, TOML, flags.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...adapters.jwt import ALGORITHMS
from ...auth.throttle import Slowdown
from ...errors import WsprotoSipError
from ...server.management.kamailio_cfg import ModParamError
from ...server.shares import ShareConfig
from .._text import did_you_mean, reason_of
from .kamailio import take_kamailio_cfg
from .places import WILDCARDS, WORDS, Place

__all__ = [
    "Loaded",
    "Settings",
    "SettingsError",
    "about",
    "add_options",
    "load",
    "option_name",
    "restart_needed",
    "share_of",
    "slowdown_of",
]

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_SHARE = re.compile(r"([0-9]{1,18})((?:,(?:reserve|connection|address|user)=[0-9]{1,18})*)")
_SLOWDOWN = re.compile(r"([0-9]{1,9}),longest=([0-9]{1,9}),forgive=([0-9]{1,9})")
#: The option at the start of an error's text, the first of several.
_ABOUT = re.compile(r"--([a-z][a-z-]*)(?:, --[a-z-]+)*: ")
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")


class SettingsError(WsprotoSipError, ValueError):
    """An invalid setting, or an invalid file with settings.

    Args:
        message: The setting, and what is wrong.
    """


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kind of values that an option takes.

    Args:
        words: A description of valid values, to follow "is not" or "must be".
        metavar: The placeholder for a value in the usage; empty for switches.
        read: Parses a word from the command line; raises ValueError if it is invalid.
        check: Returns whether a value from a file is valid.
        many: Whether the option can be repeated.
        lone: Whether a file may give a single value without an array.
    """

    words: str
    metavar: str
    read: Callable[[str], Any]
    check: Callable[[Any], bool]
    many: bool = False
    lone: bool = False

    def from_word(self, word: str) -> Any:
        """Parse a value from the command line."""
        try:
            value = self.read(word)
        except ValueError:
            value = None
        if value is None or not self.check(value):
            raise argparse.ArgumentTypeError(f"{word!r} is not {self.words}")
        return value

    def from_file(self, value: Any) -> Any:
        """Convert a value from a file; raise ValueError if it is invalid."""
        if not self.many:
            if not self.check(value):
                raise ValueError(f"{value!r} is not {self.words}")
            return value
        if self.lone and self.check(value):
            return (value,)
        if not isinstance(value, list) or not all(map(self.check, value)):
            raise ValueError(f"{value!r} is not an array; each item must be {self.words}")
        return tuple(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _text(word: str = "text", metavar: str = "TEXT", *, many: bool = False) -> _Kind:
    article = "an" if word[0] in "aeiou" else "a"
    return _Kind(f"{article} {word}", metavar, str, _is_text, many)


def _path() -> _Kind:
    return _text("file name", "FILE")


def _paths() -> _Kind:
    return replace(_text("file name", "FILE", many=True), lone=True)


def _word(*words: str, many: bool = False, metavar: str = "") -> _Kind:
    return _Kind(
        f"{', '.join(words[:-1])} or {words[-1]}",
        metavar or "|".join(words),
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
        f"a number from {low} to {high}",
        metavar,
        _read_whole,
        lambda value: type(value) is int and low <= value <= high,
    )


def _seconds(low: float, high: float) -> _Kind:
    return _Kind(
        f"a number of seconds from {low:g} to {high:g}",
        "SECONDS",
        _read_number,
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def share_of(text: str) -> ShareConfig:
    """Parse a total and bounds on shares in it.

    Args:
        text: ``TOTAL[,reserve=N][,connection=N][,address=N][,user=N]``.

    Raises:
        ValueError: The form is invalid, or a number is out of range.
    """
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError(f"not of the form TOTAL[,WHO=N]: {text!r:.100}")
    bounds = dict(word.split("=") for word in match[2].split(",")[1:])
    return ShareConfig(
        int(match[1]),
        *[
            int(bounds[name]) if name in bounds else None
            for name in ("reserve", "connection", "address", "user")
        ],
    )


def _is_share(value: object) -> bool:
    try:
        return isinstance(value, str) and share_of(value) is not None
    except ValueError:
        return False


_SHARES: Final = _Kind(
    "TOTAL[,reserve=N][,connection=N][,address=N][,user=N] with a reserve below TOTAL",
    "TOTAL[,WHO=N]",
    str,
    _is_share,
)


def slowdown_of(text: str) -> Slowdown:
    """Parse how failed logins delay the next attempt.

    Args:
        text: ``FREE,longest=SECONDS,forgive=SECONDS``.

    Raises:
        ValueError: The form is invalid, or a number is 0.
    """
    match = _SLOWDOWN.fullmatch(text)
    if match is None:
        raise ValueError(f"not of the form FREE,longest=S,forgive=S: {text!r:.100}")
    free, longest, forgive = map(int, match.groups())
    return Slowdown(free, float(longest), float(forgive))


def _is_slowdown(value: object) -> bool:
    try:
        return isinstance(value, str) and slowdown_of(value) is not None
    except ValueError:
        return False


_SLOWDOWNS: Final = _Kind(
    "FREE,longest=SECONDS,forgive=SECONDS with positive numbers",
    "FREE,longest=S,forgive=S",
    str,
    _is_slowdown,
)


def _is_place(value: object) -> bool:
    try:
        return isinstance(value, str) and Place.parse(value) is not None
    except ValueError:
        return False


_PLACES: Final = _Kind(WORDS, "WHERE", str, _is_place, many=True)
_SWITCH: Final = _Kind("true or false", "", str, lambda value: isinstance(value, bool))


def _option(default: Any, kind: _Kind, text: str, *, group: str = "", restart: bool = False) -> Any:
    """Define a field of Settings.

    Args:
        default: Its value if no source gives one.
        kind: The kind of its values.
        text: The help.
        group: The heading in the help that starts here, for this and the following fields.
        restart: Whether changing it needs a restart, so that a reload cannot change it.
    """
    metadata = {"kind": kind, "help": text, "group": group, "restart": restart}
    return field(default=default, metadata=metadata)


_HOUR = 3600
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of ``wsproto-sip serve``."""

    host: str = _option(
        "127.0.0.1", _text("host", "HOST"), "address to listen on", group="listening", restart=True
    )
    port: int = _option(8080, _whole(0, 65535), "port to listen on, 0 for a free one", restart=True)
    listen: tuple[str, ...] = _option(
        (),
        _PLACES,
        "places to listen on, instead of --host and --port: ws://HOST:PORT, wss://HOST:PORT, "
        "unix:PATH, or systemd[:NAME] for sockets passed by a socket unit; the latter two with a "
        "wss+ prefix for TLS",
        restart=True,
    )
    processes: int = _option(
        1,
        _whole(1, 256),
        "processes that share the places to listen on; each has bounds of its own, and adds its "
        "number, from 0, to --ctl-http and to the name of --ctl-socket",
        restart=True,
    )
    tls_cert: tuple[str, ...] = _option(
        (),
        _paths(),
        "certificate chain (PEM), which enables wss; of several, the name that a client sends "
        "selects one, by default the first",
    )
    tls_key: tuple[str, ...] = _option(
        (),
        _paths(),
        "private key of --tls-cert, unless it is in the same file; one per certificate, in order",
    )
    tls_client_ca: str | None = _option(
        None,
        _path(),
        "CA certificates (PEM); require a client certificate issued by one of them",
    )
    tls_ciphers: str | None = _option(
        None,
        _text("list", "LIST"),
        "cipher suites of TLS 1.2, in OpenSSL's syntax; Python's default if not given",
    )

    origin: tuple[str, ...] = _option(
        (),
        _text("origin", "ORIGIN", many=True),
        "web pages that may connect: https://example.com, any, loopback (of this machine), null "
        "(files and sandboxes), missing (not a browser); required unless --host is loopback, where "
        "the default is loopback and missing",
        group="admission",
    )
    allowed_host: tuple[str, ...] = _option(
        (),
        _text("host", "HOST[:PORT]", many=True),
        "accepted Host of requests; any if not given",
    )
    path: tuple[str, ...] = _option(
        (),
        _text("path", "PATH", many=True),
        "paths to serve, * for any one segment; all if not given",
    )
    health: str | None = _option(
        None,
        _text("path", "PATH"),
        "answer GET and HEAD on this path with 200 while the server is alive",
    )
    ready: str | None = _option(
        None,
        _text("path", "PATH"),
        "answer GET and HEAD on this path with 200, or 503 while new connections are refused",
    )
    subprotocol: tuple[str, ...] = _option(
        ("sip", "msrp", "none"),
        _word("sip", "msrp", "none", many=True),
        "accepted sub-protocols; if none is not listed, a sub-protocol is required",
    )
    prefer: str = _option(
        "client", _word("client", "server"), "side whose order of sub-protocols decides"
    )
    auth_file: str | None = _option(
        None,
        _path(),
        "file of users that may connect, one per line: user:password or user:realm:HA1",
    )
    auth_realm: str = _option(
        "wsproto-sip", _text("realm"), "realm of user names and passwords", restart=True
    )
    auth_scheme: tuple[str, ...] = _option(
        ("digest", "basic"),
        _word("digest", "basic", many=True),
        "HTTP authentication schemes; basic needs TLS unless --host is loopback",
    )
    auth_secret: str | None = _option(
        None,
        _path(),
        "file with a secret for expiring credentials, as for TURN servers, which Digest accepts in "
        "addition to users, or alone",
    )
    digest_algorithm: tuple[str, ...] = _option(
        (),
        _word("md5", "sha-256", many=True),
        "hashes to challenge users of SIP and MSRP with, the preferred one first, if every user "
        "has a password or a hash for it; by default md5, or sha-256 if the users have no other",
        restart=True,
    )
    guess_pair: str = _option(
        "5,longest=300,forgive=600",
        _SLOWDOWNS,
        "failed logins of a user from an address before attempts are delayed, by one second and "
        "then twice as long each time up to the longest delay; seconds after which a failure is "
        "forgiven; each process and each node counts failed logins for itself",
        restart=True,
    )
    guess_connection: str = _option(
        "10,longest=300,forgive=600", _SLOWDOWNS, "the same for a connection", restart=True
    )
    guess_address: str = _option(
        "20,longest=60,forgive=60",
        _SLOWDOWNS,
        "the same for an address, for users that have not logged in from it",
        restart=True,
    )
    guess_user: str = _option(
        "50,longest=30,forgive=60",
        _SLOWDOWNS,
        "the same for a user, from addresses without an earlier login",
        restart=True,
    )
    guess_entries: int = _option(
        10_000, _whole(1, 1 << 24), "number of entries to remember of each kind", restart=True
    )
    cors_mode: int = _option(
        0,
        _whole(0, 2),
        "Access-Control-Allow-Origin: 0 only for msrp, 1 *, 2 the request's Origin",
    )
    trusted_proxy: tuple[str, ...] = _option(
        (),
        _text("network", "NETWORK", many=True),
        "proxies that are trusted to report the client's address; unix for those on Unix sockets, "
        "unix-33 for those run by user 33",
    )
    proxy_header: str = _option(
        "forwarded",
        _word("forwarded", "x-forwarded-for", "proxy-protocol"),
        "how trusted proxies report the client's address",
    )

    users_http: str | None = _option(
        None,
        _text("URL", "URL"),
        "service that knows the users, queried with JSON over HTTP",
        group="users from elsewhere",
    )
    users_http_headers: str | None = _option(
        None,
        _path(),
        "file of header fields for this service, one per line, such as Authorization: Bearer "
        "SECRET",
    )
    users_http_ca: str | None = _option(
        None,
        _path(),
        "CA certificates (PEM) for the service; the system's if not given",
    )
    users_http_tokens: bool = _option(False, _SWITCH, "ask the service about tokens, too")
    users_sql: str | None = _option(
        None,
        _text("URL", "URL"),
        "database with the users: sqlite:///FILE, or any URL of SQLAlchemy",
    )
    users_sql_query: str | None = _option(
        None,
        _text("query", "SQL"),
        "query for the user :name; by default SELECT * FROM users WHERE username = :name",
    )
    users_for: tuple[str, ...] = _option(
        (),
        _word("handshake", "sip", "msrp", many=True),
        "purposes that use these users; by default handshake with --token-query or --token-cookie, "
        "otherwise sip",
        restart=True,
    )
    users_cache_seconds: float = _option(
        30.0, _seconds(0, _HOUR), "seconds to cache an account, or its absence"
    )
    users_timeout: float = _option(
        4.0,
        _seconds(0.1, 30),
        "seconds that a service or a database may take to answer",
        restart=True,
    )
    users_connections: int = _option(
        8,
        _whole(1, 256),
        "connections to the service or database, each with one question at a time",
    )
    users_questions: int = _option(
        256,
        _whole(1, 1 << 16),
        "questions that may be pending; further requests are refused meanwhile",
        restart=True,
    )
    jwt_key: tuple[str, ...] = _option(
        (),
        _paths(),
        "file with a public key (PEM) or secret that signs tokens (JWT); repeat it during a change "
        "of keys",
    )
    jwt_algorithm: tuple[str, ...] = _option(
        ("RS256",),
        _word(*ALGORITHMS, many=True, metavar="NAME"),
        "accepted signature algorithms of tokens",
    )
    jwt_audience: str | None = _option(
        None,
        _text(),
        "required audience of tokens (aud); if not given, tokens must not name one",
    )
    jwt_issuer: str | None = _option(
        None, _text(), "required issuer of tokens (iss); any if not given"
    )
    jwt_claim: str = _option("sub", _text("claim", "NAME"), "claim that names the user")
    token_query: str | None = _option(
        None, _text("name", "NAME"), "query parameter with a token in the handshake"
    )
    token_once: float | None = _option(
        None,
        _seconds(1, 86400),
        "accept a token of --token-query once, and remember it for this time, which has to be "
        "longer than tokens are valid; nodes of a --store remember it together",
        restart=True,
    )
    token_cookie: str | None = _option(
        None, _text("name", "NAME"), "cookie with a token in the handshake"
    )

    sip_domain: tuple[str, ...] = _option(
        (),
        _text("domain", "DOMAIN", many=True),
        "domain of local users, the part after @; any if --host is loopback, otherwise --sip-name",
        group="SIP",
        restart=True,
    )
    sip_users: str | None = _option(
        None,
        _path(),
        "file of users that may register, in the format of --auth-file; without it no passwords "
        "are required, see --sip-anyone",
        restart=True,
    )
    sip_anyone: bool | None = _option(
        None,
        _SWITCH,
        "let any client register under any name, or send to --upstream; by default if --host is "
        "loopback",
        restart=True,
    )
    sip_token_server: str | None = _option(
        None,
        _text("URL", "URL"),
        "https URL where clients get tokens, sent in SIP challenges (RFC 8898)",
        restart=True,
    )
    sip_challenge: bool | None = _option(
        None,
        _SWITCH,
        "ask for a password before all calls and messages; by default only before those in the "
        "name of a local user",
        restart=True,
    )
    sip_identity: bool = _option(
        True, _SWITCH, "require users of --auth-file to use their own names in From", restart=True
    )
    sip_assert_identity: bool = _option(
        False,
        _SWITCH,
        "tell the upstream the authenticated sender of a request, in P-Asserted-Identity",
        restart=True,
    )
    sip_name: tuple[str, ...] = _option(
        (),
        _text("name", "NAME[:PORT]", many=True),
        "name by which clients know the server; the first is written into routes; by default "
        "--host",
        restart=True,
    )
    sip_mode: str = _option(
        "outbound",
        _word("outbound", "alias"),
        "how requests within a call reach a client: flow tokens, or sealed aliases in Contact",
        restart=True,
    )
    sip_hook: str | None = _option(
        None,
        _text("function", "MODULE:FUNCTION"),
        "Python function, async or not, that decides about SIP requests; its module may be in the "
        "working directory",
        restart=True,
    )
    sip_flow_keys: str | None = _option(
        None,
        _path(),
        "file of secrets for flow tokens, one per line, the newest first; random if not given",
        restart=True,
    )

    sip_min_expires: int = _option(
        60,
        _whole(1, 86400, "SECONDS"),
        "shortest registration; shorter ones are refused with 423",
        restart=True,
    )
    sip_default_expires: int = _option(
        600,
        _whole(1, 86400, "SECONDS"),
        "registration of clients that ask for no time",
        restart=True,
    )
    sip_max_expires: int = _option(
        7200, _whole(1, 86400, "SECONDS"), "longest registration", restart=True
    )
    sip_flow_timer: int = _option(
        120,
        _whole(1, 86400, "SECONDS"),
        "interval of keep-alives that clients with Outbound are told to use",
        restart=True,
    )
    sip_max_contacts: int = _option(
        10, _whole(1, 1000), "concurrent registrations of one user", restart=True
    )
    sip_max_users_per_connection: int = _option(
        20, _whole(1, 100_000), "users of one connection; a gateway has many", restart=True
    )
    sip_max_message_size: int = _option(
        65536,
        _whole(4096, 1 << 26, "BYTES"),
        "largest SIP message; at most --max-message-size",
        restart=True,
    )
    sip_max_header_size: int = _option(
        4096,
        _whole(256, 1 << 20, "BYTES"),
        "largest header field of a SIP message; Identity and tokens can be larger",
        restart=True,
    )
    sip_ring_seconds: float = _option(
        185.0,
        _seconds(33, _HOUR),
        "time that a call may ring without a response of the callee",
        restart=True,
    )
    sip_transactions: str = _option(
        "10000",
        _SHARES,
        "total pending SIP requests, and bounds on shares in them",
        restart=True,
    )
    sip_pending_bytes: str = _option(
        "33554432",
        _SHARES,
        "total bytes of pending SIP requests, and bounds on shares",
        restart=True,
    )
    sip_binding_bytes: str = _option(
        "268435456",
        _SHARES,
        "total bytes of registrations, plus 1 KiB each, and bounds on shares",
        restart=True,
    )
    sip_rate: str = _option(
        "2000",
        _SHARES,
        "new SIP requests of clients per second, and bounds on shares",
        restart=True,
    )
    sip_callee_rate: str = _option(
        "30,reserve=0", _SHARES, "requests of strangers to one callee per second", restart=True
    )
    sip_callee_transactions: str = _option(
        "30,reserve=0",
        _SHARES,
        "pending requests of strangers to one callee, such as ringing calls",
        restart=True,
    )

    page: bool | None = _option(
        None,
        _SWITCH,
        "serve a page with a telephone for browsers; by default if --host is loopback",
    )
    upstream: tuple[str, ...] = _option(
        (),
        _text("upstream", "URI", many=True),
        "SIP proxy and registrar to be the edge of, instead of being the registrar: "
        "sip:HOST[:PORT], with ;transport=udp, tcp or tls, ;priority=N, ;weight=N and ;name=DOMAIN "
        "as needed",
    )
    upstream_local: str | None = _option(
        None,
        _text("address", "HOST[:PORT]"),
        "address at which the upstream reaches this server; by default found by the route, with a "
        "free port",
        restart=True,
    )
    upstream_local_tls: str | None = _option(
        None,
        _text("address", "HOST[:PORT]"),
        "the same for upstreams over TLS; by default the host of --upstream-local, with a free "
        "port",
        restart=True,
    )
    upstream_tls_ca: str | None = _option(
        None,
        _path(),
        "CA certificates (PEM) for upstreams over TLS; the system's if not given",
    )
    upstream_tls_cert: str | None = _option(
        None,
        _path(),
        "certificate chain (PEM) to present to upstreams over TLS; --tls-cert if not given",
    )
    upstream_tls_key: str | None = _option(
        None, _path(), "private key of --upstream-tls-cert, unless it is in the same file"
    )
    upstream_probe_seconds: float = _option(
        10.0,
        _seconds(1, _HOUR),
        "seconds between two OPTIONS that probe whether an upstream is in service; a single "
        "upstream is only probed while it is not",
        restart=True,
    )
    upstream_failover_seconds: float = _option(
        5.0,
        _seconds(0.5, 32),
        "seconds that a request waits for an upstream before it is sent to the next one",
        restart=True,
    )
    upstream_datagram_limit: int = _option(
        1300,
        _whole(0, 65535, "BYTES"),
        "size above which requests are sent over TCP to a udp upstream; 65535 for never",
        restart=True,
    )

    store: str | None = _option(
        None,
        _text("URL", "URL"),
        "location store in Redis or Valkey that several nodes share: redis://HOST[:PORT][/DB], "
        "redis+sentinel://HOST,.../NAME or redis+cluster://HOST,...; rediss for TLS; by default "
        "registrations are in memory",
        group="several nodes",
        restart=True,
    )
    store_password: str | None = _option(
        None, _path(), "file with the password of --store, unless its URL has it", restart=True
    )
    store_sentinel_password: str | None = _option(
        None, _path(), "file with the password of the Sentinels of --store", restart=True
    )
    store_tls_ca: str | None = _option(
        None,
        _path(),
        "CA certificates (PEM) for --store over TLS; the system's if not given",
        restart=True,
    )
    store_tls_cert: str | None = _option(
        None, _path(), "certificate chain (PEM) to present to --store", restart=True
    )
    store_tls_key: str | None = _option(
        None,
        _path(),
        "private key of --store-tls-cert, unless it is in the same file",
        restart=True,
    )
    store_prefix: str = _option(
        "ws:", _text("prefix", "TEXT"), "start of all keys in --store", restart=True
    )
    node_listen: str | None = _option(
        None,
        _text("address", "HOST:PORT"),
        "address at which the other nodes reach this one over SIP; required with --store",
        restart=True,
    )
    node_name: str | None = _option(
        None,
        _text("name", "NAME"),
        "name of this node, unique among those of --store; by default the address of --node-listen",
        restart=True,
    )
    node_network: tuple[str, ...] = _option(
        (),
        _text("network", "NETWORK", many=True),
        "network in which only nodes have addresses, for links without TLS; required without "
        "--node-tls-cert unless --node-listen is loopback",
        restart=True,
    )
    node_tls_cert: str | None = _option(
        None,
        _path(),
        "certificate chain (PEM) of this node; links between nodes then use TLS, with client "
        "certificates",
    )
    node_tls_key: str | None = _option(
        None, _path(), "private key of --node-tls-cert, unless it is in the same file"
    )
    node_tls_ca: str | None = _option(
        None, _path(), "CA certificates (PEM) that issue the certificates of nodes"
    )
    node_tls_name: str | None = _option(
        None,
        _text("domain", "DOMAIN"),
        "domain in the certificates of all nodes; by default the host of each node's --node-listen",
        restart=True,
    )

    msrp_users: str | None = _option(
        None,
        _path(),
        "file of users of an MSRP relay, in the format of --auth-file; without it msrp is echoed",
        group="MSRP relay",
        restart=True,
    )
    msrp_name: str | None = _option(
        None,
        _text("host", "HOST"),
        "host of the relay in MSRP URIs; by default --host",
        restart=True,
    )
    msrp_min_expires: int = _option(
        60, _whole(1, 86400, "SECONDS"), "shortest session", restart=True
    )
    msrp_max_expires: int = _option(
        3600,
        _whole(1, 86400, "SECONDS"),
        "longest session; 900 if the client asks for no time",
        restart=True,
    )
    msrp_peer: tuple[str, ...] = _option(
        (),
        _text("peer", "NAME=HOST:PORT", many=True),
        "another relay or client to exchange messages with, over plain TCP",
        restart=True,
    )
    msrp_peer_port: int | None = _option(
        None, _whole(0, 65535, "PORT"), "port on which peers may connect to --host", restart=True
    )
    msrp_node_port: int | None = _option(
        None,
        _whole(0, 65535, "PORT"),
        "port on which the other nodes of --store connect to the host of --node-listen; clients of "
        "all nodes can then send to each other",
        restart=True,
    )
    msrp_max_chunk_size: int = _option(
        65536,
        _whole(1024, 1 << 26, "BYTES"),
        "largest MSRP chunk, one WebSocket message; at most --max-message-size",
        restart=True,
    )
    msrp_max_transactions: int = _option(
        65536,
        _whole(1, 1 << 24),
        "total MSRP chunks that wait for a response; a user may have half of those left",
        restart=True,
    )
    allow_insecure_msrp: bool = _option(
        False, _SWITCH, "admit MSRP clients without TLS, for tests only", restart=True
    )

    max_message_size: int = _option(
        1024 * 1024,
        _whole(1, 1 << 30, "BYTES"),
        "largest message; see also --sip-max-message-size and --msrp-max-chunk-size",
        group="limits",
    )
    max_fragments: int = _option(
        1024,
        _whole(1, 1 << 30, "FRAMES"),
        "frames of one message, plus one per 64 bytes of it; at most 64 on sip",
    )
    max_header_size: int = _option(
        16 * 1024,
        _whole(1024, 1 << 20, "BYTES"),
        "total size of a request's header fields; a larger head, such as one with long cookies, "
        "gets 431",
    )
    max_connections: int = _option(10_000, _whole(1, 1 << 20), "total connections")
    max_per_address: int = _option(
        100, _whole(1, 1 << 20), "connections per address, or per /64 of IPv6"
    )
    max_handshakes: int = _option(
        1000,
        _whole(1, 1 << 20),
        "concurrent opening handshakes; when all are taken, the oldest of the address with the "
        "most is dropped",
    )
    max_handshakes_per_address: int = _option(
        50,
        _whole(1, 1 << 20),
        "concurrent opening handshakes per address; not applied with --trusted-proxy",
    )
    max_unfinished_bytes: str = _option(
        "268435456",
        _SHARES,
        "total bytes of incomplete messages, and bounds on shares in them",
        restart=True,
    )
    message_timeout: float = _option(
        60.0,
        _seconds(0, _HOUR),
        "time to receive a message, plus one second per KiB; 0 for no limit",
    )
    open_timeout: float = _option(10.0, _seconds(0.1, _HOUR), "time for the opening handshake")
    close_timeout: float = _option(5.0, _seconds(0.1, _HOUR), "time for the closing handshake")
    idle_timeout: float = _option(
        0.0, _seconds(0, _DAY), "time without any byte received; 0 for no limit"
    )
    deflate: bool = _option(
        True, _SWITCH, "negotiate permessage-deflate if the client offers it; never on sip and msrp"
    )

    keepalive_mechanism: str = _option(
        "ping",
        _word("none", "ping", "pong", "check"),
        "what to send to idle clients",
        group="keep-alive",
    )
    keepalive_timeout: float | None = _option(
        None,
        _seconds(1, _HOUR),
        "time without a sign of life before it is sent; by default 25, or 180 on sip",
    )
    keepalive_answer: float = _option(
        20.0, _seconds(0.1, _HOUR), "time for a client to answer a ping"
    )
    keepalive_interval: float = _option(1.0, _seconds(0, 60), "time between two rounds of checks")
    keepalive_processes: int = _option(
        1, _whole(1, 16), "number of parts to split a round into", restart=True
    )
    keepalive_data: str | None = _option(
        None, _text(), "payload of pings and pongs, 1 to 125 bytes; random if not given"
    )

    fifo: str | None = _option(
        None, _path(), "accept commands from this FIFO", group="management", restart=True
    )
    ctl_socket: str | None = _option(
        None, _path(), "accept commands on this Unix socket", restart=True
    )
    ctl_http: int | None = _option(
        None,
        _whole(0, 65535, "PORT"),
        "accept commands, and serve metrics, over HTTP on this port of 127.0.0.1",
        restart=True,
    )
    ctl_http_token: str | None = _option(
        None,
        _path(),
        "file, readable by this user only, with a token that --ctl-http requires",
        restart=True,
    )
    connect_allow: tuple[str, ...] = _option(
        (),
        _text("target", "HOST[:PORT]|any", many=True),
        "target that the command ws.connect may connect to; none if not given",
    )
    drain_seconds: float = _option(
        5.0, _seconds(0, _HOUR), "spread the closing of connections over this time at SIGTERM"
    )

    log_format: str | None = _option(
        None,
        _word("text", "json"),
        "log connections, calls and registrations in this format; by default only problems",
        group="log",
        restart=True,
    )
    log_level: tuple[str, ...] = _option(
        (),
        _text("level", "[AREA=]LEVEL", many=True),
        "debug, info, warning or error, of all areas or of ws, sip, msrp, auth, server, management",
        restart=True,
    )
    log_file: str | None = _option(
        None,
        _path(),
        "log to this file instead of standard error; reopened at SIGHUP and SIGUSR1",
        restart=True,
    )
    log_repeats: int = _option(
        20,
        _whole(0, 1_000_000),
        "log lines of one event per client in 10 seconds; further ones are counted; 0 for no limit",
        restart=True,
    )

    @property
    def places(self) -> tuple[Place, ...]:
        """The places to listen on; the first one is used in messages."""
        if self.listen:
            return tuple(map(Place.parse, self.listen))
        return (Place(bool(self.tls_cert), self.host, self.port),)

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return all(place.loopback for place in self.places)

    event_hook: str | None = _option(
        None,
        _text("name of a function", "MODULE:FUNCTION"),
        "call this function with events (opened, closed, refused, registered, unregistered), in a "
        "process of its own",
        group="hooks",
        restart=True,
    )
    event_hook_command: str | None = _option(
        None,
        _text("command", "COMMAND"),
        "run this command for each of these events, with the event as JSON on standard input",
        restart=True,
    )

    @property
    def local(self) -> bool:
        """Whether only programs on this machine can connect, and not through a trusted proxy."""
        return self.loopback and not self.trusted_proxy

    @property
    def exposed(self) -> str:
        """A place open to other machines, for messages: a host, or another place as given."""
        place = next((place for place in self.places if not place.loopback), self.places[0])
        return place.host or str(place)

    @property
    def named(self) -> bool:
        """Whether the first address is also a name or address for clients."""
        hosts = [place.host for place in self.places if place.host is not None]
        return bool(hosts) and hosts[0] not in WILDCARDS


def option_name(name: str) -> str:
    """Return the flag, without its two hyphens, and the TOML key of a field."""
    return name.replace("_", "-")


_FIELDS: Final[Mapping[str, Field[Any]]] = {option_name(f.name): f for f in fields(Settings)}


class _Once(argparse.Action):
    """An option with one value: repeating it is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        if hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, "may be given only once")
        setattr(namespace, self.dest, values)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option; unused flags leave no attribute.

    Args:
        parser: The parser.
    """
    group: Any = parser
    for name, item in _FIELDS.items():
        kind: _Kind = item.metadata["kind"]
        if item.metadata["group"]:
            group = parser.add_argument_group(item.metadata["group"])
        text = item.metadata["help"]
        if item.default not in (None, (), True) and item.default is not False:
            text += f" (default: {_shown(item.default)})"
        options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": text}
        if kind is _SWITCH:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": kind.from_word, "metavar": kind.metavar}
            options |= {"action": "append" if kind.many else _Once}
        group.add_argument(f"--{name}", **options)


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


class Loaded(NamedTuple):
    """The merged settings.

    Args:
        settings: The settings.
        notes: Settings of files that could not be used as written.
        files: The file that an option comes from, by the name of its field; without those from the
            command line and those left at their defaults.
    """

    settings: Settings
    notes: list[str]
    files: Mapping[str, str]

    def locate(self, error: SettingsError) -> str:
        """Return an error's text, prefixed with the file that its option comes from.

        Args:
            error: The error; its text begins with its option.
        """
        text = str(error)
        match = _ABOUT.match(text)
        file = None if match is None else self.files.get(match[1].replace("-", "_"))
        return text if file is None else f"{file}: {text.removeprefix('--')}"


@contextmanager
def about(option: str) -> Iterator[None]:
    """Prefix the text of errors with an option, unless they name one.

    Args:
        option: The name of the option, as :func:`option_name` returns it.
    """
    try:
        yield
    except SettingsError as exc:
        if _ABOUT.match(str(exc)):
            raise
        raise SettingsError(f"--{option}: {exc}") from None


def load(
    flags: Mapping[str, Any],
    *,
    config: str | None = None,
    kamailio_cfg: str | None = None,
    defines: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the files and merge the sources: flags > TOML > kamailio.cfg > defaults.

    Args:
        flags: The values of the command line, by the names of the fields.
        config: A TOML file.
        kamailio_cfg: A kamailio.cfg.
        defines: Its defines.

    Raises:
        SettingsError: A file cannot be read or parsed.
    """
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    notes: list[str] = []
    if kamailio_cfg is not None:
        try:
            taken = take_kamailio_cfg(kamailio_cfg, _read(kamailio_cfg), defines or {})
        except ModParamError as exc:
            raise SettingsError(str(exc)) from None
        except OSError as exc:
            raise SettingsError(f"{exc.filename}: {reason_of(exc)}") from None
        values |= taken.values
        files |= {name: taken.where[name] or kamailio_cfg for name in taken.values}
        notes += taken.notes
    if config is not None:
        found = _from_toml(config)
        _override(values, found)
        files |= dict.fromkeys(found, config)
    _override(values, flags)
    for name, value in flags.items():
        values[name] = tuple(value) if isinstance(value, list) else value
        files.pop(name, None)
    return Loaded(Settings(**values), notes, files)


def _override(values: dict[str, Any], by: Mapping[str, Any]) -> None:
    """Override values with those of a later source."""
    # One place to listen on, or several: the later statement counts.
    if by.keys() & {"host", "port"}:
        values.pop("listen", None)
    values |= by


def _from_toml(path: str) -> dict[str, Any]:
    """Read a TOML file, and return its values by the names of the fields."""
    try:
        table = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path}: {exc}") from None
    values = {}
    for name, value in table.items():
        item = _FIELDS.get(name)
        if item is None:
            meant = did_you_mean(option_name(name), _FIELDS)
            raise SettingsError(f"{path}: {name[:80]!r}: no such option{meant}")
        try:
            values[item.name] = item.metadata["kind"].from_file(value)
        except ValueError as exc:
            raise SettingsError(f"{path}: {name}: {exc}") from None
    return values


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8") from None
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from None


def restart_needed(before: Settings, after: Settings) -> list[str]:
    """Return the options that differ and that a reload cannot change."""
    old, new = asdict(before), asdict(after)
    return [
        name
        for name, item in _FIELDS.items()
        if item.metadata["restart"] and old[item.name] != new[item.name]
    ]

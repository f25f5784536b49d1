"""External users for ``wsproto-sip serve``: their settings, and their use by the checks.

Theory of operation: accounts are kept by a service or in a database, or derived from a secret;
tokens are verified by a service or by their signature. :class:`UserSources` offers them to the
checks of the handshake, SIP and MSRP, as ``--users-for`` selects. The checks keep the objects that
they got at the start; a reload replaces the sources that these objects use.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ...adapters._tls import client_context
from ...adapters.asyncio.answers import Answers
from ...adapters.asyncio.users_http import HttpUsers
from ...adapters.asyncio.users_sql import DEFAULT_QUERY, SqlUsers
from ...adapters.jwt import JwtVerifier
from ...auth.cache import AccountCache
from ...auth.outcome import LATER
from ...auth.used import UsedTokens
from ...policy.token import TokenPlace, TokenSource
from ...server.management.prometheus import Family
from ...subprotocols import MSRP, SIP
from .._text import reason_of
from .places import is_loopback
from .settings import Settings, SettingsError, about, option_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...auth.accounts import Account
    from ...auth.identity import Identity
    from ...auth.outcome import Later
    from ...policy.token import TokenQuestion
    from ...sip.registrar.bearer import BearerQuestion

__all__ = ["UserSources", "in_the_clear", "places_of", "token_sources"]

_DEFAULTS: Final = Settings()
#: Options that have an effect only with a source.
_NEEDED: Final = {
    "users_http": ("users_http_headers", "users_http_ca", "users_http_tokens"),
    "users_sql": ("users_sql_query",),
    "jwt_key": ("jwt_algorithm", "jwt_audience", "jwt_issuer", "jwt_claim"),
}
#: Options of files with users, by the check that uses them.
_FILES: Final = {"handshake": "auth_file", "sip": "sip_users", "msrp": "msrp_users"}
#: Bytes of a file of header fields, or of a key.
_MAX_FILE: Final = 64 * 1024


def _accounts_of(settings: Settings) -> str | None:
    """Return the option for the source of accounts, if any."""
    return next((name for name in ("users_http", "users_sql") if getattr(settings, name)), None)


def _tokens_of(settings: Settings) -> str | None:
    """Return the option for the verification of tokens, if any."""
    return next(
        (name for name in ("jwt_key", "users_http_tokens") if getattr(settings, name)), None
    )


def _sources_of(settings: Settings) -> list[str]:
    """Return the options of external users."""
    found = [name for name in _NEEDED if getattr(settings, name)]
    files = any(getattr(settings, name) is not None for name in _FILES.values())
    if settings.auth_secret is not None and (settings.users_for or not files):
        found.append("auth_secret")
    return found


def places_of(settings: Settings) -> frozenset[str]:
    """Return the checks that use external users: ``handshake``, ``sip`` and ``msrp``.

    Args:
        settings: The settings.
    """
    if not _sources_of(settings):
        return frozenset()
    if settings.users_for:
        return frozenset(settings.users_for)
    in_handshake = settings.token_query is not None or settings.token_cookie is not None
    return frozenset(["handshake" if in_handshake else "sip"])


def token_sources(settings: Settings) -> list[TokenSource]:
    """Return where tokens are looked for in a handshake, besides Authorization.

    Args:
        settings: The settings.

    Raises:
        SettingsError: A name is invalid.
    """
    found = []
    for option, name, source in (
        ("token-query", settings.token_query, TokenPlace.QUERY),
        ("token-cookie", settings.token_cookie, TokenPlace.COOKIE),
    ):
        if name is not None:
            try:
                found.append(TokenSource(source, name))
            except ValueError as exc:
                raise SettingsError(f"--{option}: {exc}") from None
    return found


def in_the_clear(settings: Settings) -> list[str]:
    """Return a warning if passwords are sent over a network without TLS.

    Args:
        settings: The settings.
    """
    parts = urlsplit(settings.users_http or "")
    if parts.scheme != "http" or is_loopback(parts.hostname or ""):
        return []
    return [f"--users-http: {parts.hostname} sends passwords without TLS; use https"]


def _check(settings: Settings) -> None:
    """Check that the options of external users fit together.

    Raises:
        SettingsError: They do not.
    """
    for source, names in _NEEDED.items():
        for name in names:
            if not getattr(settings, source) and getattr(settings, name) != getattr(
                _DEFAULTS, name
            ):
                raise SettingsError(f"--{option_name(name)}: requires --{option_name(source)}")
    if settings.users_http is not None and settings.users_sql is not None:
        raise SettingsError("--users-sql: not together with --users-http")
    if settings.users_http_tokens and settings.jwt_key:
        raise SettingsError("--users-http-tokens: not together with --jwt-key, which knows tokens")
    tokens, sources, places = _tokens_of(settings), _sources_of(settings), places_of(settings)
    if settings.token_once is not None and settings.token_query is None:
        raise SettingsError("--token-once: requires --token-query")
    for name in ("token_query", "token_cookie", "sip_token_server"):
        if getattr(settings, name) is not None and tokens is None:
            raise SettingsError(f"--{option_name(name)}: requires --jwt-key or --users-http-tokens")
    if settings.users_for and not sources:
        raise SettingsError(
            "--users-for: requires --users-http, --users-sql, --jwt-key or --auth-secret"
        )
    if "handshake" not in places:
        for name in ("token_query", "token_cookie"):
            if getattr(settings, name) is not None:
                raise SettingsError(f"--{option_name(name)}: --users-for is without handshake")
    if settings.sip_token_server is not None and "sip" not in places:
        raise SettingsError("--sip-token-server: --users-for is without sip")
    accounts = _accounts_of(settings)
    for place in sorted(places):
        file = _FILES[place]
        if accounts is not None and getattr(settings, file) is not None:
            raise SettingsError(
                f"--{option_name(file)}: not together with --{option_name(accounts)}, which has "
                f"the users of {place} (--users-for)"
            )
        if place in (SIP, MSRP) and place not in settings.subprotocol:
            raise SettingsError(f"--users-for: {place} is not among --subprotocol")
    named = settings.auth_file is not None or "handshake" in places
    if "msrp" in places and not (named or accounts or settings.auth_secret):
        raise SettingsError(
            "--users-for: msrp takes no tokens but those of the handshake; --users-for handshake "
            "asks for them there"
        )


@dataclass(frozen=True, slots=True)
class _Sources:
    """The sources of users that the checks use.

    Args:
        http: A service.
        sql: A database.
        jwt: Verifies tokens by their signature.
        cache: Cache of accounts.
        shape: The properties that the checks need at the start: whether there are accounts, and
            tokens.
    """

    http: HttpUsers | None
    sql: SqlUsers | None
    jwt: JwtVerifier | None
    cache: AccountCache
    shape: tuple[bool, bool, bool]

    async def close(self) -> None:
        for source in (self.http, self.sql):
            if source is not None:
                await source.close()


class UserSources:
    """External users, for all checks of a server.

    Args:
        settings: The settings.
        clock: Returns the time in seconds, of any monotonic clock.

    Raises:
        SettingsError: Options do not fit together, or a file cannot be read.

    Attributes:
        answers: Answers the questions of the checks.
        places: The checks that use them.
        has_accounts: Whether a service or a database has accounts.
        has_tokens: Whether tokens are accepted.
        used: Has tokens in a query accepted once; ``None`` if they may be used again.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sources = sources = self.prepare(settings, start=True)
        self.places = places_of(settings)
        self.has_accounts, self.has_tokens = sources.shape[:2]
        self.used = None
        if settings.token_once is not None:
            shared = settings.store is not None
            self.used = UsedTokens(float(settings.token_once), shared=shared)
        self._closing: set[asyncio.Task[None]] = set()
        self.answers = Answers(
            realm=settings.auth_realm,
            timeout=float(settings.users_timeout),
            max_waiting=settings.users_questions,
        )
        self._use(sources)

    def prepare(self, settings: Settings, *, start: bool = False) -> _Sources:
        """Make the sources of the settings, without using them yet.

        Args:
            settings: The settings.
            start: Whether the server is started with them. A database in a file has to be there
                then; later, it may be away for a while.

        Raises:
            SettingsError: Options do not fit together, or a file cannot be read.
        """
        _check(settings)
        token_sources(settings)
        return _Sources(
            _http_of(settings),
            _sql_of(settings, check=start),
            _jwt_of(settings),
            AccountCache(self._clock, lifetime=float(settings.users_cache_seconds)),
            (
                _accounts_of(settings) is not None,
                _tokens_of(settings) is not None,
                settings.auth_secret is not None,
            ),
        )

    def use(self, sources: _Sources) -> list[str]:
        """Use other sources from now on.

        Args:
            sources: The result of :meth:`prepare`.

        Returns:
            Options that require a restart, in which case nothing was changed.
        """
        if sources.shape != self._sources.shape:
            options = ("users-http or users-sql", "jwt-key or users-http-tokens", "auth-secret")
            pairs = zip(options, sources.shape, self._sources.shape, strict=True)
            return [option for option, new, old in pairs if new is not old]
        before = self._sources
        self._use(sources)
        task = asyncio.ensure_future(self._close_later(before))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return []

    def _use(self, sources: _Sources) -> None:
        self._sources = sources
        tokens = sources.http if sources.jwt is None else None
        self.answers.use(sources.http or sources.sql, tokens, sources.cache)

    async def _close_later(self, sources: _Sources) -> None:
        # Pending queries keep their time.
        await asyncio.sleep(self.answers.timeout)
        await sources.close()

    async def close(self) -> None:
        """Stop using the sources."""
        await self.answers.close()
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._sources.close()

    # -- interface for the checks ------------------------------------------------------------------

    def lookup(self, username: str) -> Account | Later | None:
        """Return the account of a name, or ``LATER`` if it is not cached."""
        return self._sources.cache(username)

    def verify(self, question: TokenQuestion | BearerQuestion) -> Identity | Later | None:
        """Return the user of a token, or ``LATER`` if a service must verify it."""
        jwt = self._sources.jwt
        return LATER if jwt is None else jwt(question)

    def families(self) -> list[Family]:
        """Return metrics of the sources for Prometheus; empty without sources."""
        if self._sources.http is None and self._sources.sql is None:
            return []
        asked = Family("wsproto_sip_user_questions_total", "counter", "Questions about users.")
        for (kind, outcome), count in sorted(self.answers.counts.items()):
            asked.add(count, kind=kind, outcome=outcome)
        return [
            asked,
            Family(
                "wsproto_sip_user_questions",
                "gauge",
                "Questions about users that wait for their answer.",
                self.answers.waiting,
            ),
            Family(
                "wsproto_sip_user_answer_seconds",
                "histogram",
                "How long the source of users took.",
            ).add_histogram(self.answers.seconds),
            Family(
                "wsproto_sip_users_remembered",
                "gauge",
                "Names of users whose accounts are remembered, or that there is none.",
                len(self._sources.cache),
            ),
        ]


def _read(option: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as exc:
        raise SettingsError(f"--{option}: {path}: {reason_of(exc)}") from None
    if len(data) > _MAX_FILE:
        raise SettingsError(f"--{option}: {path}: more than {_MAX_FILE} bytes")
    return data


def _http_of(settings: Settings) -> HttpUsers | None:
    url = settings.users_http
    if url is None:
        return None
    context: ssl.SSLContext | None = None
    if settings.users_http_ca is not None:
        if urlsplit(url).scheme != "https":
            raise SettingsError("--users-http-ca: --users-http is not https")
        try:
            context = client_context(settings.users_http_ca)
        except OSError as exc:
            where = f"--users-http-ca: {settings.users_http_ca}"
            raise SettingsError(f"{where}: {reason_of(exc)}") from None
    headers = _headers_of(settings)
    try:
        HttpUsers(url)  # the error is not about the header fields
    except ValueError as exc:
        raise SettingsError(f"--users-http: {exc}") from None
    try:
        return HttpUsers(
            url, headers=headers, tls=context, max_connections=settings.users_connections
        )
    except ValueError as exc:
        where = f"--users-http-headers: {settings.users_http_headers}"
        raise SettingsError(f"{where}: {exc}") from None


def _headers_of(settings: Settings) -> list[tuple[str, str]]:
    path = settings.users_http_headers
    if path is None:
        return []
    found = []
    text = _read("users-http-headers", path).decode("latin-1")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            # Not shown, because it may be a secret.
            raise SettingsError(f"--users-http-headers: {path}: line {number}: not NAME: VALUE")
        found.append((name, value.strip()))
    return found


def _sql_of(settings: Settings, *, check: bool) -> SqlUsers | None:
    url = settings.users_sql
    if url is None:
        return None
    query = DEFAULT_QUERY if settings.users_sql_query is None else settings.users_sql_query
    try:
        users = SqlUsers(url, query, threads=settings.users_connections)
    except (ValueError, ImportError) as exc:
        raise SettingsError(f"--users-sql: {exc}") from None
    if check and urlsplit(url).scheme == "sqlite":
        # Other databases may start later than this server.
        try:
            users.check()
        except Exception as exc:
            raise SettingsError(f"--users-sql: {url}: {exc}") from None
    return users


def _jwt_of(settings: Settings) -> JwtVerifier | None:
    if not settings.jwt_key:
        return None
    options: dict[str, Any] = {
        "algorithms": settings.jwt_algorithm,
        "audience": settings.jwt_audience,
        "issuer": settings.jwt_issuer,
        "claim": settings.jwt_claim,
    }
    keys = []
    for path in settings.jwt_key:
        key = _read("jwt-key", path).strip()
        with about("jwt-key"):
            try:
                # By itself, so that the error can name it.
                JwtVerifier([key], **options)
            except ImportError as exc:
                raise SettingsError(str(exc)) from None
            except ValueError as exc:
                words = ", ".join(settings.jwt_algorithm)
                raise SettingsError(f"{path}: {exc} (--jwt-algorithm {words})") from None
        keys.append(key)
    return JwtVerifier(keys, **options)

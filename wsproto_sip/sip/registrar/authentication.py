"""The server's side of authentication in SIP (RFC 3261 §22, RFC 8898)."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...auth.accounts import Users
from ...auth.digest import Algorithm, Credentials, DigestError
from ...auth.identity import Identity
from ...auth.nonces import Nonces
from ...auth.outcome import Denied, Question
from ...auth.throttle import Throttle
from ...auth.timed import TimedAccounts
from ...auth.verifier import DigestVerifier, Proven
from ..message.errors import SipParseError, SipValueError
from ..message.message import SipRequest
from ..message.uri import SipUri, parse_uri
from ..rules.routing import Rejection
from .bearer import BearerVerifier
from .domains import Domains

if TYPE_CHECKING:
    from ...typing import Entropy

__all__ = ["DigestAuthenticator"]


class DigestAuthenticator:
    """Challenges requests and checks their credentials, each of which can be used once.

    Only ``qop=auth`` is accepted: without it there is no protection from replay.

    Args:
        realm: The realm; printable ASCII.
        users: Passwords or accounts by name, or a function that finds an account; it may return
            :data:`~wsproto_sip.auth.outcome.LATER`. A mapping is read at each check, so changes
            take effect.
        algorithms: Digest algorithms in order of preference (RFC 8760 §2.4), of those for which
            every user has a password or a hash.
        offer_all: Send a challenge for each of them, not only for the first one. Of several
            challenges, JsSIP reads the last one and SIP.js the first one, and both support only
            MD5.
        domains: The domains of the users: ``alice@`` one of them is ``alice`` in credentials.
        timed: Credentials that expire, accepted in addition to those of the users.
        bearer: Verifier of Bearer tokens, accepted in addition to passwords. Without users, only
            they are requested; with users, only if each challenge is sent.
        nonces: Source of nonces; the defaults of :class:`~wsproto_sip.auth.nonces.Nonces`
            if not given.
        throttle: Slows down guessing; its own one with the defaults if not given.
        entropy: Source of random bytes.

    Raises:
        ValueError: The realm cannot be quoted as it is, or there are no algorithms.
    """

    def __init__(
        self,
        realm: str,
        users: Users,
        *,
        algorithms: Sequence[Algorithm] = (Algorithm.MD5, Algorithm.SHA_256),
        offer_all: bool = False,
        domains: Domains | None = None,
        timed: TimedAccounts | None = None,
        bearer: BearerVerifier | None = None,
        nonces: Nonces | None = None,
        throttle: Throttle | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._users = users
        self._offer_all = offer_all
        self._domains = domains
        self._bearer = bearer
        self._verifier = DigestVerifier(
            realm,
            users,
            algorithms=algorithms,
            account_name=self._account_name,
            timed=timed,
            nonces=nonces,
            throttle=throttle,
            service="sip",
            entropy=entropy,
        )

    @property
    def users(self) -> Users:
        """The users; can be replaced."""
        return self._users

    @users.setter
    def users(self, users: Users) -> None:
        self._verifier.users = self._users = users

    @property
    def timed(self) -> TimedAccounts | None:
        """Credentials that expire; can be replaced."""
        return self._verifier.timed

    @timed.setter
    def timed(self, timed: TimedAccounts | None) -> None:
        self._verifier.timed = timed

    @property
    def _tokens_alone(self) -> bool:
        """Whether only tokens are accepted, not passwords."""
        no_users = isinstance(self._users, Mapping) and not self._users
        return self._bearer is not None and self.timed is None and no_users

    def knows(self, name: str) -> bool:
        """Return whether a user exists.

        With credentials that expire, tokens, or external accounts, any name may be a user.
        """
        users = self._users
        if self.timed is not None or self._bearer is not None or not isinstance(users, Mapping):
            return True
        domains = () if self._domains is None else self._domains.names
        return any(key in users for key in (name, *[f"{name}@{host}" for host in domains]))

    def _account_name(self, username: str) -> str:
        """Return the user that a name in credentials stands for."""
        name, at, host = username.rpartition("@")
        # A second "@" would allow guesses at the same user under another name.
        if not (name and at) or "@" in name or self._domains is None:
            return username
        try:
            return name if self._domains.has(SipUri.make(host)) else username
        except SipValueError:
            return username

    def check(
        self,
        request: SipRequest,
        now: float,
        *,
        proxy: bool = False,
        address: str = "",
        connection: Hashable = None,
        proven: Collection[str] = (),
        secure: bool = False,
    ) -> str | Rejection | Question[str | Rejection]:
        """Find the user of a request.

        Args:
            request: The request; not an ACK or a CANCEL, which cannot be challenged (§22.1).
            now: The time, in seconds.
            proxy: Whether to act as a proxy, with 407 and its header fields instead of 401.
            address: The client's address as text.
            connection: Identifies its connection.
            proven: The users already authenticated on the connection.
            secure: Whether the connection is TLS.

        Returns:
            The user's name, or the rejection, or a question to answer first. A rejection is usually
            a challenge, 400 for malformed credentials, and 503 with Retry-After for those that come
            too early after failed ones or cannot be checked now.
        """
        fields = request.get_all("proxy-authorization" if proxy else "authorization")
        if self._bearer is not None and (token := self._bearer.find(fields)) is not None:
            checked = self._bearer.check(
                token, now, secure=secure, address=address, connection=connection
            )

            def told(outcome: Identity | Denied) -> str | Rejection:
                if isinstance(outcome, Identity):
                    return self._account_name(outcome.name)
                return self._refusal("a token", outcome, now, proxy=proxy, wrong=True)

            return checked.then(told) if isinstance(checked, Question) else told(checked)
        try:
            given = self._credentials(fields)
            if given is not None and parse_uri(given.uri) != request.uri:
                return Rejection(400, "credentials for another URI")
        except DigestError as exc:
            return Rejection(400, str(exc))
        except SipParseError as exc:
            return Rejection(exc.status, exc.detail)
        if given is None:
            return self._challenge("no credentials", now, proxy=proxy)
        outcome = self._verifier.check(
            given, request.method, now, address=address, connection=connection, proven=proven
        )
        username = f"{given.username!r:.100}"

        def judged(outcome: Proven | Denied) -> str | Rejection:
            if isinstance(outcome, Proven):
                return outcome.identity.name
            return self._refusal(username, outcome, now, proxy=proxy)

        return outcome.then(judged) if isinstance(outcome, Question) else judged(outcome)

    def _refusal(
        self, who: str, denied: Denied, now: float, *, proxy: bool, wrong: bool = False
    ) -> Rejection:
        detail = f"{who}: {denied.reason}"
        if denied.retry_after:
            # RFC 3261 §20.33. No status is more specific; after 403 the client would give up.
            return Rejection(503, detail, (("Retry-After", str(denied.retry_after)),))
        return self._challenge(detail, now, proxy=proxy, stale=denied.stale, wrong=wrong)

    def _credentials(self, fields: Sequence[str]) -> Credentials | None:
        """Return the credentials for this realm; a request may hold others, for other proxies."""
        for text in fields:
            credentials = Credentials.parse(text)
            if credentials is not None and credentials.realm == self._verifier.realm:
                return credentials
        return None

    def _challenge(
        self, detail: str, now: float, *, proxy: bool, stale: bool = False, wrong: bool = False
    ) -> Rejection:
        header = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
        values: list[str] = []
        if not self._tokens_alone:
            challenges = self._verifier.challenges(now, stale=stale)
            values = [str(challenge) for challenge in challenges]
        if self._bearer is not None:
            values.append(self._bearer.challenge(wrong=wrong))
        if not self._offer_all:
            # For a client with a token, the token was invalid.
            values = values[-1:] if wrong else values[:1]
        headers = tuple([(header, value) for value in values])
        return Rejection(407 if proxy else 401, detail, headers)

    def consume(
        self,
        request: SipRequest,
        header: str = "Proxy-Authorization",
        *,
        only_answers: bool = False,
    ) -> None:
        """Remove this realm's credentials from a request to be forwarded (§22.3).

        Args:
            request: The request.
            header: The field that holds them.
            only_answers: Remove only those that answer a challenge of this authenticator.
        """
        fields = request.get_all(header)
        is_ours = self._verifier.is_answered if only_answers else self._is_ours
        others = [field for field in fields if not is_ours(field)]
        if len(others) < len(fields):
            request.remove_header(header)
            for field in others:
                request.add_header(header, field)

    def _is_ours(self, field: str) -> bool:
        """Return whether credentials may be for this realm."""
        # Bearer credentials have no realm, so all of them are taken as this one's.
        if self._bearer is not None and self._bearer.find([field]):
            return True
        try:
            return self._credentials([field]) is not None
        except DigestError:
            # Another reader may find in them what this one does not.
            return True

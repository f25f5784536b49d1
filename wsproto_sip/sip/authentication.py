"""The server's side of digest authentication: whose request is it (RFC 3261 §22, RFC 8760)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..policy.digest import Nonces
from .digest import DIGEST_ALGORITHMS, DigestChallenge, digest_ha1, parse_credentials, verify_digest
from .errors import SipParseError, SipValueError
from .message import SipRequest
from .routing import Rejection
from .uri import parse_uri
from .users import Users

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = ["DigestAuthenticator"]


class DigestAuthenticator:
    """Challenges requests and checks their credentials, each of which can be used once.

    Only ``qop=auth`` is taken: without it there is no protection from replay.

    Args:
        realm: The realm.
        users: Who may come in.
        algorithms: What to challenge with, the preferred first. The default is what JsSIP and
            SIP.js know; they look at the first challenge alone.
        nonces: Where nonces come from; by default they last 300 s.
        entropy: Source of random octets.

    Attributes:
        realm: The realm.
        users: As above; may be exchanged.

    Raises:
        SipValueError: An algorithm is unknown, or there is none.
    """

    def __init__(
        self,
        realm: str,
        users: Users,
        *,
        algorithms: tuple[str, ...] = ("MD5",),
        nonces: Nonces | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        if not algorithms or not set(algorithms) <= set(DIGEST_ALGORITHMS):
            raise SipValueError(f"unknown digest algorithms, or none: {algorithms!r}")
        self.realm = realm
        self.users = users
        self._algorithms = algorithms
        self._nonces = Nonces(entropy=entropy) if nonces is None else nonces
        # What an unknown user's credentials are compared with, so that they take as long.
        self._nobody = entropy(16).hex()

    def knows(self, name: str) -> bool:
        """Whether there is a user of that name."""
        return name in self.users

    def check(self, request: SipRequest, now: float, *, proxy: bool = False) -> str | Rejection:
        """Whose request it is.

        Args:
            request: Not an ACK or a CANCEL, which cannot be challenged (§22.1).
            now: The time, in seconds.
            proxy: Whether to act as a proxy: 407 and its headers in place of 401.

        Returns:
            The user's name; or the refusal, a challenge as a rule, and 400 for bad credentials.
        """
        name = "proxy-authorization" if proxy else "authorization"
        try:
            given = parse_credentials(request.get_all(name), self.realm)
            if given is not None and parse_uri(given.uri) != request.uri:
                return Rejection(400, "credentials for another URI")
        except SipParseError as error:
            return Rejection(error.status, error.detail)
        if given is None:
            return self._challenge("no credentials", now, proxy=proxy)
        if given.algorithm not in self._algorithms or given.count is None:
            return self._challenge("another algorithm, or no qop", now, proxy=proxy)
        ha1 = self.users.ha1(given.username, self.realm, given.algorithm)
        compared = ha1 or digest_ha1(given.username, self.realm, self._nobody, given.algorithm)
        if not verify_digest(given, compared, request.method) or ha1 is None:
            return self._challenge(f"{given.username!r:.100} proves nothing", now, proxy=proxy)
        if not self._nonces.use(given.nonce, given.count, now):
            return self._challenge("nonce is too old or used", now, proxy=proxy, stale=True)
        return given.username

    def _challenge(self, detail: str, now: float, *, proxy: bool, stale: bool = False) -> Rejection:
        header = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
        challenges = [
            DigestChallenge(self.realm, self._nonces.make(now), algorithm, stale=stale)
            for algorithm in self._algorithms
        ]
        headers = tuple([(header, str(challenge)) for challenge in challenges])
        return Rejection(407 if proxy else 401, detail, headers)

    def consume(self, request: SipRequest) -> None:
        """Take this realm's credentials out of a request that goes on to somebody else (§22.3)."""
        fields = request.get_all("proxy-authorization")
        others = [field for field in fields if parse_credentials([field], self.realm) is None]
        if len(others) < len(fields):
            request.remove_header("proxy-authorization")
            for field in others:
                request.add_header("Proxy-Authorization", field)

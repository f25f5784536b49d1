"""The server's side of Digest authentication of AUTH requests (RFC 4976 §5.1, §9.1).

Only ``qop=auth`` is supported: without it there is neither a count against replay nor a proof that
the server knows the password.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Sequence

from ..auth.accounts import Users
from ..auth.digest import Algorithm, Challenge, Credentials
from ..auth.nonces import Nonces
from ..auth.outcome import Denied, Question
from ..auth.throttle import Throttle
from ..auth.timed import TimedAccounts
from ..auth.verifier import DigestVerifier, Proven
from ..typing import Entropy
from ..utilities import RemoteProtocolError
from .message.uri import MsrpUri, MsrpUriError

__all__ = ["AuthenticationError", "DigestServer"]


class AuthenticationError(RemoteProtocolError):
    """A relay refused the login, or cannot be trusted."""


class DigestServer:
    """Challenges AUTH requests and checks their credentials.

    Args:
        realm: The realm of the passwords; printable ASCII.
        users: Passwords or accounts by name, or a function that finds an account; it may return
            :data:`~wsproto_sip.auth.outcome.LATER`. A mapping is read at each check, so changes
            take effect.
        algorithms: The hashes to accept, the preferred one first; a challenge is made for each
            that every user has a password or a hash for.
        timed: Credentials that expire, accepted in addition to those of the users.
        nonces: The store of nonces; by default one with the defaults of
            :class:`~wsproto_sip.auth.nonces.Nonces`.
        throttle: Slows guessing down; by default a separate one with default settings.
        entropy: Source of random bytes.

    Raises:
        ValueError: The realm cannot be quoted as it is, or ``algorithms`` is empty.
    """

    def __init__(
        self,
        realm: str,
        users: Users,
        *,
        algorithms: Sequence[Algorithm] = (Algorithm.MD5, Algorithm.SHA_256),
        timed: TimedAccounts | None = None,
        nonces: Nonces | None = None,
        throttle: Throttle | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._verifier = DigestVerifier(
            realm,
            users,
            algorithms=algorithms,
            timed=timed,
            nonces=nonces,
            throttle=throttle,
            service="msrp",
            entropy=entropy,
        )

    @property
    def users(self) -> Users:
        """The users; :meth:`use` replaces them."""
        return self._verifier.users

    def use(self, users: Users, timed: TimedAccounts | None = None) -> None:
        """Replace the users.

        Args:
            users: See the constructor.
            timed: Other credentials that expire; ``None`` keeps the previous ones.
        """
        self._verifier.users = users
        if timed is not None:
            self._verifier.timed = timed

    def challenges(self, now: float, *, stale: bool = False) -> list[Challenge]:
        """Make one challenge for each hash.

        Args:
            now: The time in seconds.
            stale: Whether the credentials to answer were right except for their nonce.
        """
        return self._verifier.challenges(now, stale=stale)

    def check(
        self,
        authorization: bytes,
        uri: MsrpUri,
        now: float,
        *,
        address: str = "",
        connection: Hashable = None,
        proven: Collection[str] = (),
    ) -> Proven | Denied | Question[Proven | Denied]:
        """Check the value of an Authorization header field.

        Args:
            authorization: The value.
            uri: The last URI of the request's To-Path.
            now: The time in seconds.
            address: The client's address as text.
            connection: Identifies the connection.
            proven: The users that have authenticated on the connection.

        Returns:
            The proven identity, a denial, or the question to answer first.
        """
        try:
            credentials = Credentials.parse(authorization.decode("utf-8"))
        except ValueError as exc:
            return Denied(str(exc))
        if credentials is None:
            return Denied("not Digest with an offered algorithm and qop=auth")
        try:
            same = MsrpUri.parse(credentials.uri.encode("utf-8")) == uri
        except MsrpUriError:
            same = False
        if not same:
            return Denied("credentials for another URI")
        return self._verifier.check(
            credentials, "AUTH", now, address=address, connection=connection, proven=proven
        )

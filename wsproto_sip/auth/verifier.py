"""The server's side of Digest authentication: verify credentials and find their identity.

Theory of operation: credentials pass if their response matches the account's password, and their
nonce is one of ours that has not been used with this count. The password is compared first: only a
client that knows it learns that its nonce is stale, and may continue without asking its user. The
same work is done for unknown users, so that timing does not reveal which names exist. Each protocol
has its own form of URI in the credentials, so the protocol's code compares it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .accounts import Account, Lookup, Users, account_lookup, common_algorithms
from .digest import (
    Algorithm,
    Challenge,
    Credentials,
    digest_ha1,
    server_proof,
    verify_response,
)
from .identity import Identity, check_realm
from .nonces import Nonces
from .outcome import Denied, Later, Question, Unavailable
from .throttle import Attempt, Slowed, Throttle, Ticket
from .timed import TimedAccounts

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = ["AccountQuestion", "DigestVerifier", "Proven"]


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """A question for an account. The answer is an :class:`Account`, or ``None`` for no account.

    Answer :class:`~wsproto_sip.auth.outcome.Unavailable` if it cannot be found out.

    Args:
        username: The user's name as it is in the credentials, and in the hash of a password.
        realm: The realm of the challenge.
        name: The user that this name refers to, if names have several forms.
    """

    username: str
    realm: str
    name: str


@dataclass(frozen=True, slots=True)
class Proven:
    """The credentials are right.

    Args:
        identity: The sender.
        credentials: The credentials.
        ha1: The hash they were compared with.
    """

    identity: Identity
    credentials: Credentials
    ha1: str = field(repr=False)

    @property
    def info(self) -> str:
        """An Authentication-Info that proves to the client that the server knows its password."""
        return server_proof(self.credentials, self.ha1)


class DigestVerifier:
    """Makes challenges and checks credentials, each of which can be used only once.

    Only ``qop=auth`` is accepted: without it replay is possible. Guessing is slowed
    down, see :mod:`~wsproto_sip.auth.throttle`.

    Args:
        realm: The realm that the client shows its user, and part of the stored hashes; printable
            ASCII.
        users: Passwords or accounts by name, or a function that finds an account. A mapping is read
            at each check, so changes take effect.
        algorithms: The hashes to accept, the preferred one first; a challenge is made for each. If
            every user of a mapping has a password or a hash for some of them, only these are
            offered.
        account_name: Returns the name that a name in credentials refers to, for names in several
            forms, such as ``alice`` and ``alice@example.com``. In a mapping, the account is looked
            up by the name as received, and then by this one.
        timed: Credentials that expire, accepted in addition to those of the users.
        nonces: The store of nonces; by default one with the defaults of :class:`Nonces`.
        throttle: Slows guessing down; by default a separate one with default settings.
        service: The service that the throttle's reports name.
        entropy: Source of random bytes.

    Attributes:
        realm: The realm.
        timed: The credentials that expire; may be replaced.

    Raises:
        ValueError: The realm cannot be quoted as it is, or ``algorithms`` is empty.
    """

    def __init__(
        self,
        realm: str,
        users: Users,
        *,
        algorithms: Sequence[Algorithm] = (Algorithm.SHA_256, Algorithm.MD5),
        account_name: Callable[[str], str] = str,
        timed: TimedAccounts | None = None,
        nonces: Nonces | None = None,
        throttle: Throttle | None = None,
        service: str = "digest",
        entropy: Entropy = os.urandom,
    ) -> None:
        if not algorithms:
            raise ValueError("at least one algorithm is required")
        self.realm = check_realm(realm)
        self._wanted = tuple(algorithms)
        self._account_name = account_name
        self.timed = timed
        self.users = users
        self._nonces = Nonces(entropy=entropy) if nonces is None else nonces
        self._throttle = Throttle() if throttle is None else throttle
        self._service = service
        # The password that credentials of unknown users are compared with.
        self._unknown = entropy(16).hex()

    @property
    def users(self) -> Users:
        """The users; they may be replaced."""
        return self._users

    @users.setter
    def users(self, users: Users) -> None:
        algorithms = self._wanted
        if isinstance(users, Mapping):
            algorithms = common_algorithms(users, algorithms) or algorithms
        self._users, self._algorithms = users, algorithms
        self._lookup: Lookup = account_lookup(users)

    def challenges(self, now: float, *, stale: bool = False, utf8: bool = False) -> list[Challenge]:
        """Make one challenge for each hash (RFC 7616 §3.3, RFC 8760 §2.4).

        Args:
            now: The time, in seconds.
            stale: Whether the credentials to answer were right except for their nonce.
            utf8: See :class:`Challenge`.
        """
        return [
            Challenge(self.realm, self._nonces.make(now), algorithm, stale=stale, utf8=utf8)
            for algorithm in self._algorithms
        ]

    def is_answered(self, text: str) -> bool:
        """Return whether credentials answer a challenge of this verifier.

        Args:
            text: The credentials, possibly malformed.
        """
        # Without the escapes of a quoted string.
        return self._nonces.in_text(text.replace("\\", ""))

    def check(
        self,
        credentials: Credentials,
        method: str,
        now: float,
        *,
        address: str = "",
        connection: Hashable = None,
        proven: Collection[str] = (),
    ) -> Proven | Denied | Question[Proven | Denied]:
        """Check credentials.

        Args:
            credentials: The credentials of the request; the caller has compared their URI with it.
            method: The request's method.
            now: The time, in seconds.
            address: The client's address as text.
            connection: Identifies the connection, if several requests can arrive on one.
            proven: The users that have authenticated on the connection.

        Returns:
            The proven identity, a denial, or the :class:`AccountQuestion` to answer first.
        """
        if credentials.realm != self.realm:
            return Denied("credentials for another realm")
        if credentials.algorithm not in self._algorithms:
            return Denied(f"algorithm {credentials.algorithm.value} is not offered")
        if credentials.count is None:
            return Denied("credentials without qop")
        username = credentials.username
        if self.timed is not None:
            username = self.timed.account_name(username)
        name = self._account_name(username)
        # A success with one kind of secret says nothing about guesses at the other.
        secret = "" if username == credentials.username else "timed"
        attempt = Attempt(self._service, address, name, connection, name in proven, secret)
        ticket = self._throttle.admit(attempt, now)
        if isinstance(ticket, Slowed):
            return ticket.denied
        with ticket:
            account = self._find(credentials.username, name)
        if isinstance(account, Later):
            return Question(
                AccountQuestion(credentials.username, self.realm, name),
                lambda answer: self._conclude(answer, credentials, method, now, ticket),
            )
        return self._conclude(account, credentials, method, now, ticket)

    def _find(self, username: str, name: str) -> Account | Later | None:
        """Find the account of a name as received, or of the name it refers to."""
        if self.timed is not None and self.timed.account_name(username) != username:
            return self.timed(username)
        account = self._lookup(username)
        if account is None and name != username and isinstance(self._users, Mapping):
            return self._lookup(name)
        return account

    def _conclude(
        self, account: object, credentials: Credentials, method: str, now: float, ticket: Ticket
    ) -> Proven | Denied:
        if isinstance(account, Unavailable):
            ticket.withdrawn()
            return account.denied
        if account is not None and not isinstance(account, Account):
            ticket.withdrawn()
            raise TypeError(f"the answer must be an Account or None, not {type(account).__name__}")
        algorithm = credentials.algorithm
        stored = password = None
        if account is not None:
            stored, password = account.ha1.get(algorithm), account.password
        # Computed for unknown users too, so that it takes as long.
        derived = digest_ha1(
            credentials.username,
            self.realm,
            self._unknown if password is None else password,
            algorithm,
        )
        ha1 = derived if stored is None else stored
        # Compared in any case, for the same reason.
        right = verify_response(credentials, ha1, method)
        if account is None or (stored is None and password is None) or not right:
            ticket.failed()
            return Denied("wrong name or password")
        # The nonce comes last: only the owner of the password learns that it is stale (RFC 7616
        # §3.3).
        if not self._nonces.use(credentials.nonce, credentials.count or 0, now):
            ticket.withdrawn()
            return Denied("nonce too old, already used, or not ours", stale=True)
        ticket.succeeded()
        identity = account.identity
        return Proven(
            replace(
                identity,
                name=self._account_name(identity.name),
                method=identity.method or "digest",
            ),
            credentials,
            ha1,
        )

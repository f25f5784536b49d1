"""Accounts of users, and the file that stores them.

A line of the file is ``user:password``, or ``user:realm:HA1`` so that no password is stored. The
second form is that of Apache's ``htdigest``: the hash of ``user:realm:password`` (RFC 7616 §3.4.2),
32 hexadecimal digits of MD5 or 64 of SHA-256. One file serves the handshake, SIP and MSRP.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import WsprotoSipError
from .digest import Algorithm, digest_ha1
from .identity import Identity, is_username, same_secret
from .outcome import Later

__all__ = [
    "Account",
    "Lookup",
    "UnusableAccount",
    "Users",
    "account_from",
    "account_lookup",
    "common_algorithms",
    "parse_accounts",
    "password_verifier",
]

_HA1 = re.compile(r"([^:]*):([0-9A-Fa-f]{64}|[0-9A-Fa-f]{32})")
_HEX = re.compile("[0-9a-f]+")
_FOREIGN = re.compile(r"\$[0-9A-Za-z]+\$|\{[A-Z]+\}")


@dataclass(frozen=True, slots=True)
class Account:
    """What the server knows about a user.

    Args:
        identity: The identity of a connection that has proven the password. If its ``method`` is
            empty, that of the check is filled in: ``"digest"`` or ``"basic"``.
        password: The password; ``None`` if only hashes are stored.
        ha1: The results of :func:`~wsproto_sip.auth.digest.digest_ha1`, by hash; they take
            precedence over the password.

    Raises:
        ValueError: A hash is not lower-case hexadecimal of its length. Everyone could log in with
            an empty one, or with a word like ``none``.
    """

    identity: Identity
    password: str | None = field(default=None, repr=False)
    ha1: Mapping[Algorithm, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for algorithm, value in self.ha1.items():
            size = 32 if algorithm is Algorithm.MD5 else 64
            if len(value) != size or not _HEX.fullmatch(value):
                raise ValueError(f"a hash is not the {size} digits of {algorithm.value}")


class UnusableAccount(WsprotoSipError, ValueError):
    """What is stored about a user cannot be compared with any credentials.

    A source of accounts raises it. The user is refused like an unknown one, so that clients do not
    learn which names exist, and the log names the user.

    Args:
        reason: The reason, for the log; without the secret.
    """


Lookup = Callable[[str], Account | Later | None]
"""Finds the account for a name; returns ``None`` without one, :data:`LATER` to be asked later."""


Users = Mapping[str, str | Account] | Lookup
"""Passwords or accounts by name, or a function that finds an account."""


def common_algorithms(
    users: Mapping[str, str | Account], wanted: Sequence[Algorithm]
) -> tuple[Algorithm, ...]:
    """Return the algorithms that can be offered to every user.

    A client answers the first challenge whose hash it knows, so an algorithm must not be offered if
    a user has neither a hash for it nor a password.

    Args:
        users: The users.
        wanted: The algorithms to choose from, the preferred one first.
    """
    hashes = [
        user.ha1
        for user in users.values()
        if isinstance(user, Account) and user.password is None and user.ha1
    ]
    return tuple([item for item in wanted if all(item in known for known in hashes)])


def parse_accounts(text: str, realm: str) -> dict[str, Account]:
    """Parse a file of users.

    Args:
        text: The file, with one user per line; empty lines and lines that start with ``#`` are
            ignored. A user may have two lines with hashes, for SHA-256 and MD5.
        realm: The realm that the hashes must belong to.

    Returns:
        The accounts by user.

    Raises:
        ValueError: A line is invalid. The message has its number and the reason, never a password.
    """
    accounts: dict[str, Account] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#"):
            continue
        try:
            _take(line, realm, accounts)
        except ValueError as exc:
            raise ValueError(f"line {number}: {exc}") from None
    return accounts


def _take(line: str, realm: str, accounts: dict[str, Account]) -> None:
    name, colon, secret = line.partition(":")
    if not colon or not is_username(name):
        raise ValueError("not user:password or user:realm:HA1")
    known = accounts.get(name)
    match = _HA1.fullmatch(secret)
    if match is None:
        if secret.startswith(f"{realm}:"):
            # A mistyped hash would be the password.
            raise ValueError("after the realm, not the 32 or 64 digits of a hash")
        _check_plain(secret)
        if known is not None:
            raise ValueError(f"duplicate user: {name}")
        accounts[name] = Account(Identity(name), secret)
        return
    if match[1] != realm:
        raise ValueError(f"the hash is for realm {match[1]!r}, not {realm!r}")
    algorithm = Algorithm.SHA_256 if len(match[2]) == 64 else Algorithm.MD5
    hashes = {} if known is None else dict(known.ha1)
    if algorithm in hashes or (known is not None and known.password is not None):
        raise ValueError(f"duplicate user: {name}")
    accounts[name] = Account(Identity(name), None, {**hashes, algorithm: match[2].lower()})


def account_from(
    name: str, password: str | None, ha1: Mapping[Algorithm, str] | None = None
) -> Account:
    """Make an account of what a database or a service has about a user.

    Args:
        name: The name of the user.
        password: The password. An empty one is an error, because those that store it mean a user
            without one.
        ha1: Hashes; their letters may be of either case.

    Raises:
        ValueError: The name is invalid.
        UnusableAccount: The password or a hash could not match any credentials, or neither is
            given.
    """
    if not is_username(name):
        raise ValueError("the name is not a user name")
    hashes = {algorithm: value.lower() for algorithm, value in (ha1 or {}).items()}
    if password is None and not hashes:
        raise UnusableAccount("no password and no hash is stored")
    try:
        if password is not None:
            if not password:
                raise ValueError("the password is empty")
            _check_plain(password)
        return Account(Identity(name), password, hashes)
    except ValueError as exc:
        raise UnusableAccount(str(exc)) from None


def _check_plain(password: str) -> None:
    """Refuse the hashes of other systems, which could be used like a password."""
    if _FOREIGN.match(password):
        raise ValueError("a hashed password: of hashes, only HA1 can be used")


def account_lookup(users: Users) -> Lookup:
    """Make a lookup function from passwords or accounts by name.

    Args:
        users: The users. A mapping is read at each call, so changes take effect; a lookup function
            is returned as it is.
    """
    if not isinstance(users, Mapping):
        return users

    def lookup(username: str) -> Account | None:
        user = users.get(username)
        return Account(Identity(username), user) if isinstance(user, str) else user

    return lookup


def password_verifier(
    users: Users, realm: str = ""
) -> Callable[[str, str], Identity | Later | None]:
    """Make the ``verify`` of :class:`~wsproto_sip.policy.authentication.Basic`.

    Args:
        users: The users. A mapping is read at each call, so changes take effect.
        realm: The realm that the hashes of the accounts are for.

    Returns:
        A function that does the same work for unknown names, so that timing does not reveal which
        names exist. It returns :data:`~wsproto_sip.auth.outcome.LATER` if a lookup does.
    """
    lookup = account_lookup(users)

    def verify(username: str, password: str) -> Identity | Later | None:
        account = lookup(username)
        if isinstance(account, Later):
            return account
        stored = {} if account is None else account.ha1
        expected = None if account is None else account.password
        # Compare in any case, so that timing does not depend on whether the name exists.
        right = same_secret(password, expected or "") and expected is not None
        for algorithm in (Algorithm.SHA_256, Algorithm.MD5):
            ha1 = digest_ha1(username, realm, password, algorithm)
            known = stored.get(algorithm)
            right |= hmac.compare_digest(ha1, known or ha1[::-1]) and known is not None
        if account is None or not right:
            return None
        identity = account.identity
        return identity if identity.method else replace(identity, method="basic")

    return verify

"""The file of users: ``user:password``, or ``user:realm:HA1`` so that no password is stored.

The second form is that of Apache's ``htdigest``: the hash of ``user:realm:password`` (RFC 7616
§3.4.2), 32 hexadecimal digits of MD5 or 64 of SHA-256. One file serves the handshake, SIP and MSRP.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping

from .authentication import is_username, same_secret
from .decision import Identity
from .digest import Account, Algorithm, digest_ha1

__all__ = ["basic_verifier", "digest_lookup", "parse_accounts"]

_HA1 = re.compile(r"([^:]*):([0-9A-Fa-f]{64}|[0-9A-Fa-f]{32})")
_FOREIGN = re.compile(r"\$[0-9A-Za-z]+\$|\{[A-Z]+\}")


def parse_accounts(text: str, realm: str) -> dict[str, Account]:
    """Reads a file of users.

    Args:
        text: The file: a user a line; empty lines and such as begin with ``#`` are passed over.
            A user may stand in two lines with hashes, for SHA-256 and MD5.
        realm: The realm that the hashes have to be for.

    Returns:
        The accounts by user.

    Raises:
        ValueError: With the number of the line that is wrong, and why; it never holds a password.
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
        raise ValueError("neither user:password nor user:realm:HA1")
    known = accounts.get(name)
    match = _HA1.fullmatch(secret)
    if match is None:
        if _FOREIGN.match(secret):
            raise ValueError("a hashed password; only user:realm:HA1 can stand in its place")
        if known is not None:
            raise ValueError(f"{name} is there already")
        accounts[name] = Account(Identity(name), secret)
        return
    if match[1] != realm:
        raise ValueError(f"the hash is for realm {match[1]!r}, not {realm!r}")
    algorithm = Algorithm.SHA_256 if len(match[2]) == 64 else Algorithm.MD5
    hashes = {} if known is None else dict(known.ha1)
    if algorithm in hashes or (known is not None and known.password is not None):
        raise ValueError(f"{name} is there already")
    accounts[name] = Account(Identity(name), None, {**hashes, algorithm: match[2].lower()})


def digest_lookup(accounts: Mapping[str, Account]) -> Callable[[str], Account | None]:
    """Makes the ``lookup`` of :class:`~wsproto_sip.policy.digest.Digest`.

    Args:
        accounts: The accounts by user.
    """

    def lookup(username: str) -> Account | None:
        account = accounts.get(username)
        if account is None:
            return None
        return Account(Identity(username, "digest"), account.password, account.ha1)

    return lookup


def basic_verifier(
    accounts: Mapping[str, Account], realm: str
) -> Callable[[str, str], Identity | None]:
    """Makes the ``verify`` of :class:`~wsproto_sip.policy.authentication.Basic`.

    Args:
        accounts: The accounts by user.
        realm: The realm that their hashes are for.
    """

    def verify(username: str, password: str) -> Identity | None:
        account = accounts.get(username)
        if account is None:
            same_secret(password, "")
            return None
        if account.password is not None:
            right = same_secret(password, account.password)
        else:
            right = any(
                hmac.compare_digest(digest_ha1(algorithm, username, realm, password), ha1)
                for algorithm, ha1 in account.ha1.items()
            )
        return Identity(username, "basic") if right else None

    return verify

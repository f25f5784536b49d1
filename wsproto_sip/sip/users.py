"""The users who may register and call."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ..policy.decision import Identity
from ..policy.digest import Account, Algorithm
from .digest import digest_ha1

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Users"]


class Users:
    """The users and what proves them.

    Args:
        users: By name, passwords, or accounts as
            :func:`~wsproto_sip.policy.accounts.parse_accounts` reads them from a file.
        realm: The realm that the hashes of the accounts are for.
    """

    def __init__(self, users: Mapping[str, str | Account] = {}, realm: str = "") -> None:
        self._realm = realm
        self._accounts = {
            name: Account(Identity(name), user) if isinstance(user, str) else user
            for name, user in users.items()
        }

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._accounts)

    def __contains__(self, name: object) -> bool:
        """Whether there is a user of that name."""
        return name in self._accounts

    def ha1(self, name: str, realm: str, algorithm: str) -> str | None:
        """What proves a user, as ``digest_ha1`` computes it.

        Args:
            name: The user.
            realm: The realm.
            algorithm: ``MD5``, ``SHA-256`` or ``SHA-512-256``.

        Returns:
            The hash; ``None`` for an unknown user, or one whose hash is of another realm or
            algorithm.
        """
        account = self._accounts.get(name)
        if account is None:
            return None
        if account.password is not None:
            return digest_ha1(name, realm, account.password, algorithm)
        if realm == self._realm:
            # Files have no hashes of other algorithms.
            with suppress(ValueError):
                return account.ha1.get(Algorithm(algorithm))
        return None

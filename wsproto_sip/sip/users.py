"""The users who may register and call, out of a file.

Each line is a user; empty lines and those that start with ``#`` are passed over::

    alice:wonderland
    bob:sip.example.com:7bb2fc2e2b9d1d3ff4d1ff3d4d4ed5b5

The first form gives a password, which may hold colons. The second is that of Apache's
``htdigest``: a realm and the hash of ``user:realm:password``, 32 hexadecimal digits of MD5 or 64 of
SHA-256, so that the file holds no password. A user may have several lines of the second form, for
several realms or algorithms.
"""

from __future__ import annotations

import re

from .digest import digest_ha1

__all__ = ["Users", "UsersError"]

_HASHED_RE = re.compile(r"([^:]++):([0-9A-Fa-f]{64}|[0-9A-Fa-f]{32})")
_NAME_RE = re.compile(r"[^\x00-\x20\x7f-\x9f:]{1,255}")
_ALGORITHMS = {32: "MD5", 64: "SHA-256"}


class UsersError(ValueError):
    """A line of the file is wrong; the text says which, and never holds a password."""


class Users:
    """The users and what proves them.

    Args:
        passwords: Passwords by the user's name.
    """

    def __init__(self, passwords: dict[str, str] | None = None) -> None:
        self._passwords = dict(passwords or {})
        #: By name, realm and algorithm.
        self._hashes: dict[tuple[str, str, str], str] = {}
        self._names = set(self._passwords)

    @classmethod
    def parse(cls, data: bytes) -> Users:
        """Read the content of a file.

        Args:
            data: The file's octets, in UTF-8.

        Raises:
            UsersError: It is not UTF-8, or a line is wrong.
        """
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsersError(f"not UTF-8 at octet {error.start}") from None
        users = cls()
        for number, line in enumerate(text.split("\n"), 1):
            line = line.rstrip("\r")
            if line.strip(" \t") and line[0] != "#":
                users._add(line, f"line {number}")
        return users

    def _add(self, line: str, where: str) -> None:
        name, colon, rest = line.partition(":")
        if not colon or not rest:
            raise UsersError(f"{where} is neither name:password nor name:realm:hash")
        if not _NAME_RE.fullmatch(name):
            raise UsersError(f"{where} has no usable name before its colon")
        if (match := _HASHED_RE.fullmatch(rest)) is not None:
            key = (name, match[1], _ALGORITHMS[len(match[2])])
            if key in self._hashes:
                raise UsersError(f"{where} repeats user, realm and algorithm of another one")
            self._hashes[key] = match[2].lower()
        elif name in self._passwords:
            raise UsersError(f"{where} gives a user a second password")
        else:
            self._passwords[name] = rest
        self._names.add(name)

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a user of that name."""
        return name in self._names

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
        stored = self._hashes.get((name, realm, algorithm))
        if stored is None and name in self._passwords:
            return digest_ha1(name, realm, self._passwords[name], algorithm)
        return stored

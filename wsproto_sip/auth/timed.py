"""Credentials that expire, made by a web application without contacting this server.

Theory of operation: the application and this server share a secret. The name in the credentials
contains the expiry time and the user, ``1893456000:alice``; the password is the keyed hash of that
name. TURN servers accept the same form (draft-uberti-behave-turn-rest-00), so one function of the
application makes credentials for both. A client does not learn a lasting password, and no list of
users is needed.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from typing import Final

from .accounts import Account
from .identity import Identity, is_username

__all__ = ["TimedAccounts", "timed_credentials"]

_NAME: Final = re.compile(r"([0-9]{1,12}):(.+)", re.DOTALL)
#: Minimum length of a secret in bytes: a shorter one could be guessed from one pair of credentials.
_LEAST: Final = 16


def timed_credentials(secret: bytes, user: str, expires: int) -> tuple[str, str]:
    """Make the name and the password for a client.

    Args:
        secret: The secret.
        user: The user.
        expires: When they expire, in seconds since 1970.

    Raises:
        ValueError: The secret is shorter than 16 bytes, the user is not a valid name, or the time
            does not have 1 to 12 digits.
    """
    if len(secret) < _LEAST:
        raise ValueError(f"the secret must have at least {_LEAST} bytes")
    name = f"{expires}:{user}"
    if not is_username(name) or not _NAME.fullmatch(name):
        raise ValueError(f"not a time and a user: {name!r:.100}")
    return name, _password(secret, name)


def _password(secret: bytes, name: str) -> str:
    # The form requires SHA-1, which is not broken as a keyed hash.
    return base64.b64encode(hmac.digest(secret, name.encode("utf-8"), "sha1")).decode("ascii")


class TimedAccounts:
    """The accounts of credentials that are valid now.

    Args:
        secret: The secret that :func:`timed_credentials` is called with.
        clock: Returns the seconds since 1970, like ``time.time``.

    Raises:
        ValueError: The secret is shorter than 16 bytes.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        if len(secret) < _LEAST:
            raise ValueError(f"the secret must have at least {_LEAST} bytes")
        self._secret = secret
        self._clock = clock

    def __call__(self, username: str) -> Account | None:
        """Return the account of a name; ``None`` if it has expired or has another form."""
        match = _NAME.fullmatch(username)
        if match is None:
            return None
        try:
            password = _password(self._secret, username)
        except UnicodeEncodeError:
            return None
        if int(match[1]) <= self._clock():
            return None
        return Account(Identity(match[2]), password)

    @staticmethod
    def account_name(username: str) -> str:
        """Return the user in a name."""
        match = _NAME.fullmatch(username)
        return username if match is None else match[2]

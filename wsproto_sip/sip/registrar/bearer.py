"""Bearer tokens in SIP requests (RFC 8898).

Theory of operation: the caller's hook verifies tokens; this module finds them in requests, and
requests them with a challenge. A token can be used by any reader, so tokens received without TLS
are ignored unless that is allowed (§5). Guessing at tokens is slowed down like guessing at
passwords, see :mod:`~wsproto_sip.auth.throttle`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ...auth.attempt import judge
from ...auth.identity import Identity, check_realm
from ...auth.outcome import Denied, Later, Question
from ...auth.throttle import Attempt, Throttle

__all__ = ["BearerQuestion", "BearerVerifier"]

_SCHEME: Final = re.compile(r"[ \t]*[Bb][Ee][Aa][Rr][Ee][Rr](?:[ \t]|\Z)")
_TOKEN: Final = re.compile(r"[ \t]*[A-Za-z]+[ \t]+([A-Za-z0-9\-._~+/]+=*)[ \t]*")
_HTTPS: Final = re.compile(r"https://[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True, slots=True)
class BearerQuestion:
    """The question for a token's user; the answer is an :class:`Identity` or ``None``.

    The answer is :class:`~wsproto_sip.auth.outcome.Unavailable` if it cannot be verified.

    Args:
        token: The token; not shown in representations.
    """

    token: str = field(repr=False)


class BearerVerifier:
    """Finds tokens in requests, lets them be verified, and requests them.

    Args:
        realm: The realm of the tokens; printable ASCII.
        verify: Takes a :class:`BearerQuestion` and returns the token's user, ``None`` if it is
            invalid, or :data:`~wsproto_sip.auth.outcome.LATER` to be asked again through the same
            question.
        authorization_server: The ``https`` URI where clients get tokens (§4), if it should be
            sent.
        require_tls: Whether tokens received without TLS are denied unread.
        max_length: Maximum length of a token, in bytes; a longer one is denied unread.
        throttle: Slows down guessing; its own one with the defaults if not given.

    Raises:
        ValueError: The realm cannot be quoted as it is, the server is not an ``https`` URI, or
            ``max_length`` is not positive.
    """

    def __init__(
        self,
        realm: str,
        verify: Callable[[BearerQuestion], Identity | Later | None],
        *,
        authorization_server: str | None = None,
        require_tls: bool = True,
        max_length: int = 4096,
        throttle: Throttle | None = None,
    ) -> None:
        self._challenge = f'Bearer realm="{check_realm(realm)}"'
        if authorization_server is not None:
            if not _HTTPS.fullmatch(authorization_server):
                raise ValueError(f"not an https URI: {authorization_server!r:.200}")
            self._challenge += f', authz_server="{authorization_server}"'
        if max_length < 1:
            raise ValueError(f"max_length must be positive: {max_length!r}")
        self._verify = verify
        self._require_tls = require_tls
        self._max_length = max_length
        self._throttle = Throttle() if throttle is None else throttle

    def challenge(self, *, wrong: bool = False) -> str:
        """Return the value of the header field that requests a token (§4).

        Args:
            wrong: Whether an invalid token was given.
        """
        return self._challenge + ', error="invalid_token"' if wrong else self._challenge

    @staticmethod
    def find(fields: Sequence[str]) -> str | None:
        """Return the first credentials of this scheme.

        Args:
            fields: The values of Authorization or Proxy-Authorization.
        """
        return next((text for text in fields if _SCHEME.match(text)), None)

    def check(
        self,
        credentials: str,
        now: float,
        *,
        secure: bool,
        address: str = "",
        connection: Hashable = None,
    ) -> Identity | Denied | Question[Identity | Denied]:
        """Find the user of a token.

        Args:
            credentials: The result of :meth:`find`.
            now: The time, in seconds.
            secure: Whether they came over TLS.
            address: The client's address as text.
            connection: Identifies its connection.

        Returns:
            The user, or the reason for denial, or the :class:`BearerQuestion` to answer first.
        """
        if self._require_tls and not secure:
            return Denied("a token without TLS")
        match = _TOKEN.fullmatch(credentials)
        if match is None or len(match[1]) > self._max_length:
            return Denied("a malformed token")
        throttle, token = self._throttle, match[1]
        attempt = Attempt("bearer", address, throttle.pseudonym(token), connection)
        question = BearerQuestion(token)
        return judge(attempt, now, throttle, self._verify, question, wrong="unknown token")

"""Tokens that are good for one use, at one server or several.

Theory of operation: a token in a URI is seen by proxies, logs and histories, and may be shown again
by their readers. One that is good for one use is remembered from its first use for as long as
it could be valid. A server alone remembers it in memory, under a digest. Several servers ask a
store that they share, in data: a :class:`FirstUse`, which the store answers in one step, so that of
two that ask at once one is told that it is the first.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from dataclasses import dataclass

from .outcome import Denied, Question, Unavailable

__all__ = ["FirstUse", "UsedTokens"]

#: Hexadecimal digits of a digest: 128 bits, of which none are guessed.
_DIGITS = 32


@dataclass(frozen=True, slots=True)
class FirstUse:
    """A question for a shared store: whether this is the first use of a token.

    The answer is ``True`` for the first one, which the store remembers, and ``False`` otherwise.

    Args:
        name: A digest of the token.
        seconds: How long the use has to be remembered.
    """

    name: str
    seconds: float


class UsedTokens:
    """Remember tokens that were used.

    Args:
        seconds: For how long; at least as long as a token can be valid.
        shared: Whether a store that servers share remembers them, and is asked.
        capacity: How many are remembered in memory. When there are as many, others are refused for
            a while, because a forgotten one could be used again.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, seconds: float, *, shared: bool = False, capacity: int = 100_000) -> None:
        if not (seconds > 0 and capacity > 0):
            raise ValueError(f"must be positive: seconds {seconds!r}, capacity {capacity!r}")
        self._seconds = seconds
        self._shared = shared
        self._capacity = capacity
        self._names: set[str] = set()
        #: When each is forgotten, and its name, in order.
        self._ages: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        """Return how many are remembered in memory."""
        return len(self._names)

    def use(self, token: str, now: float) -> Denied | Question[Denied | None] | None:
        """Use a valid token.

        Args:
            token: The token.
            now: The time, in seconds; not before that of an earlier call.

        Returns:
            ``None`` for the first time, the denial otherwise, or the question to answer first.
        """
        text = _signed_part(token).encode("utf-8", "surrogatepass")
        name = hashlib.sha256(text).hexdigest()[:_DIGITS]
        if self._shared:
            return Question(FirstUse(name, self._seconds), _concluded)
        while self._ages and self._ages[0][0] <= now:
            self._names.discard(self._ages.popleft()[1])
        if name in self._names:
            return _concluded(False)
        if len(self._names) >= self._capacity:
            return _concluded(Unavailable("too many tokens have been used"))
        self._names.add(name)
        self._ages.append((now + self._seconds, name))
        return None


def _signed_part(token: str) -> str:
    """Return what is the same in all texts of a token.

    The signature of a JSON Web Token can be written in several ways, some of which need no key: the
    last bits of its Base64, and the sign of a number in ECDSA.
    """
    head, _, rest = token.partition(".")
    if rest.count(".") != 1:
        return token
    try:
        decoded = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return token
    return token.rpartition(".")[0] if isinstance(decoded, dict) else token


def _concluded(answer: object) -> Denied | None:
    if isinstance(answer, Unavailable):
        return answer.denied
    if not isinstance(answer, bool):
        raise TypeError(f"the answer must be a bool, not {type(answer).__name__}")
    return None if answer else Denied("the token was used before")

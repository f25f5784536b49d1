"""A cache of accounts that are stored elsewhere.

Theory of operation: a check looks an account up here. If it is not cached, the result is
:data:`~wsproto_sip.auth.outcome.LATER`, so that the check asks for it; the code that asks the other
store puts the answer here. A missing user is cached like an account, for as long and in the same
place, so that timing does not reveal which users exist.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from .accounts import Account
from .outcome import LATER, Later

__all__ = ["AccountCache"]


class AccountCache:
    """A lookup of accounts that are stored elsewhere.

    Args:
        clock: Returns the time in seconds, of any monotonic clock.
        lifetime: Seconds for which an answer is valid, which is how long a change elsewhere may go
            unseen; 0 caches nothing.
        capacity: How many names are cached; if there are more, the oldest one is dropped.

    Raises:
        ValueError: The lifetime is negative, or the capacity is not positive.
    """

    def __init__(
        self, clock: Callable[[], float], *, lifetime: float = 30.0, capacity: int = 10_000
    ) -> None:
        if not lifetime >= 0:
            raise ValueError(f"lifetime must not be negative: {lifetime!r}")
        if capacity < 1:
            raise ValueError(f"capacity must be positive: {capacity!r}")
        self._clock = clock
        self._lifetime = lifetime
        self._capacity = capacity
        #: Expiry times and accounts; the oldest first.
        self._known: OrderedDict[str, tuple[float, Account | None]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many names are cached."""
        return len(self._known)

    def __call__(self, username: str) -> Account | Later | None:
        """Return the cached account of a name; ``LATER`` if it is not cached.

        Args:
            username: The name in the credentials.
        """
        known = self._known.get(username)
        return LATER if known is None or known[0] <= self._clock() else known[1]

    def store(self, username: str, account: Account | None) -> None:
        """Cache an answer.

        Args:
            username: The requested name.
            account: Its account; ``None`` if the user does not exist.
        """
        if not self._lifetime:
            return
        self._known.pop(username, None)
        self._known[username] = (self._clock() + self._lifetime, account)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Clear the cache."""
        self._known.clear()

"""Fair shares of limited resources: transactions, bytes, bindings, requests per second.

Theory of operation: whatever occupies the server for a while is claimed from one :class:`Shares`,
and released when it is over. The claimant is a :class:`Party`: the user if known, otherwise the
address, and in both cases the connection. A claim is granted if

- the total is not exceeded;
- strangers together leave the reserve, which is for users;
- the user or address holds no more than what would then still be free. So a single one may have
  half of the total, two that want everything get a third each, and a hundred get a hundredth each:
  nothing is divided up in advance;
- a stranger's connection holds no more than what its address could then still claim, in the same
  way;
- the limits set for a connection, an address or a user, if any, are not exceeded.

So a newcomer always finds something left, however many others try to take everything, and a party
that is alone is not refused while the server is otherwise idle. IPv6 addresses are counted by their
/64.

Rates work in the same way: :class:`Pace` releases each claim after a second.

This module does not read a clock, and keeps no record of parties that hold nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from .._checks import check_fields
from ..auth.throttle import network_of

__all__ = ["Bound", "Claim", "Pace", "Party", "ShareConfig", "Shares", "Standing"]


class Bound(Enum):
    """The limit that refused a claim; the values appear in messages and metrics."""

    #: The total, or the total for strangers.
    ALL = "all"
    #: The connection's share.
    CONNECTION = "connection"
    #: The address's share.
    ADDRESS = "address"
    #: The user's share.
    USER = "user"


class Standing(Enum):
    """How well a party is known."""

    #: Only its address is known.
    STRANGER = "stranger"
    #: It has authenticated.
    USER = "user"
    #: It was configured, and serves many users: an upstream or a peer.
    TRUSTED = "trusted"

    # Every claim hashes it, and Enum hashes the name of a member, in Python.
    __hash__ = object.__hash__


_STRANGER: Final = Standing.STRANGER
_TRUSTED: Final = Standing.TRUSTED


class Party(NamedTuple):
    """A claimant; create one with :meth:`stranger`, :meth:`user` or :meth:`trusted`.

    Args:
        standing: How well it is known.
        group: The address, user or name that it counts for.
        connection: Identifies its connection; ``None`` if connections are not distinguished.
    """

    standing: Standing
    group: str
    connection: Hashable = None

    @classmethod
    def stranger(cls, address: str, connection: Hashable = None) -> Party:
        """Return a party known by its address alone, given as text."""
        return cls(_STRANGER, network_of(address), connection)

    @classmethod
    def user(cls, name: str, connection: Hashable = None) -> Party:
        """Return a party that has authenticated as a user."""
        return cls(Standing.USER, name, connection)

    @classmethod
    def trusted(cls, name: str) -> Party:
        """Return a configured party, which may hold three times as much as is free."""
        return cls(_TRUSTED, name)


@dataclass(frozen=True, slots=True)
class ShareConfig:
    """The size of a resource and of its shares. The unit is that of the claims.

    Args:
        total: The total size.
        reserve: The part that strangers leave to users; a quarter by default.
        per_connection: The limit per connection; ``None`` for its fair share, which does not apply
            to each connection of a user.
        per_address: The limit per address, for strangers; ``None`` for its fair share alone.
        per_user: The limit per user; ``None`` for its fair share alone.

    Raises:
        ValueError: A limit is not positive, or the reserve is not between 0 and the total.
    """

    total: int
    reserve: int | None = None
    per_connection: int | None = None
    per_address: int | None = None
    per_user: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        bounds = (self.total, self.per_connection, self.per_address, self.per_user)
        if min(bound for bound in bounds if bound is not None) < 1:
            raise ValueError(f"limits must be positive: {self!r}")
        if self.reserve is not None and not 0 <= self.reserve < self.total:
            raise ValueError(f"the reserve must be 0 to below {self.total}: {self.reserve!r}")

    @property
    def for_strangers(self) -> int:
        """How much strangers may hold together."""
        return self.total - (self.total // 4 if self.reserve is None else self.reserve)


class Claim:
    """The amount that a party holds until it is released."""

    __slots__ = ("_amount", "_party", "_shares")

    def __init__(self, shares: Shares, party: Party, amount: int) -> None:
        self._shares = shares
        self._party = party
        self._amount = amount

    def release(self) -> None:
        """Release all of it; repeated calls do nothing."""
        amount = self._amount
        if amount:
            self._amount = 0
            self._shares._give_back(self._party, amount)

    def reduce(self, amount: int) -> int:
        """Release a part of it.

        Args:
            amount: How much; the whole if it is more than that.

        Returns:
            How much was released.
        """
        part = min(amount, self._amount)
        self._amount -= part
        if part:
            self._shares._give_back(self._party, part)
        return part


class Shares:
    """One resource, and how much of it each party holds.

    Args:
        config: The sizes.

    Attributes:
        held: How much is held in total.
        refused: How many claims were refused, by limit.
    """

    __slots__ = (
        "_by_connection",
        "_by_group",
        "_by_strangers",
        "_config",
        "_for_strangers",
        "held",
        "refused",
    )

    def __init__(self, config: ShareConfig) -> None:
        self._config = config
        self._for_strangers = config.for_strangers
        self.held = 0
        self._by_strangers = 0
        self._by_group: dict[tuple[Standing, str], int] = {}
        self._by_connection: dict[Party, int] = {}
        self.refused: Counter[Bound] = Counter()

    def claim(self, party: Party, amount: int = 1) -> Claim | Bound:
        """Claim an amount.

        Args:
            party: The claimant.
            amount: How much; 0 is always granted.

        Returns:
            The claim, to be released when it is over; or the limit that refused it.
        """
        standing, name, connection = party
        group = (standing, name)
        held = self._by_group.get(group, 0)
        own = 0 if connection is None else self._by_connection.get(party, 0)
        if amount:
            bound = self._check(party, amount, held, own)
            if bound is not None:
                self.refused[bound] += 1
                return bound
            self.held += amount
            if standing is _STRANGER:
                self._by_strangers += amount
            self._by_group[group] = held + amount
            if connection is not None:
                self._by_connection[party] = own + amount
        return Claim(self, party, amount)

    def _check(self, party: Party, amount: int, held: int, own: int) -> Bound | None:
        """Return the limit that refuses a claim.

        Args:
            party: The claimant.
            amount: How much.
            held: How much its address or user holds.
            own: How much its connection holds.
        """
        config, standing = self._config, party.standing
        free = config.total - self.held
        if standing is _STRANGER:
            free = min(free, self._for_strangers - self._by_strangers)
        if amount > free:
            return Bound.ALL
        # A party may hold at most what would then still be free, which is half of both together.
        if standing is _TRUSTED:
            return None if held + amount <= (3 * (held + free) + 3) // 4 else Bound.ALL
        if standing is _STRANGER:
            whole, where = config.per_address, Bound.ADDRESS
        else:
            whole, where = config.per_user, Bound.USER
        most = (held + free + 1) // 2
        if whole is not None and whole < most:
            most = whole
        if held + amount > most:
            return where
        if party.connection is None:
            return None
        if config.per_connection is not None:
            most = config.per_connection
        elif standing is _STRANGER:
            most = (own + most - held + 1) // 2
        return Bound.CONNECTION if own + amount > most else None

    def _give_back(self, party: Party, amount: int) -> None:
        standing, name, connection = party
        self.held -= amount
        if standing is _STRANGER:
            self._by_strangers -= amount
        group = (standing, name)
        held = self._by_group[group]
        if held > amount:
            self._by_group[group] = held - amount
        else:
            del self._by_group[group]
        if connection is not None:
            own = self._by_connection[party]
            if own > amount:
                self._by_connection[party] = own - amount
            else:
                del self._by_connection[party]

    def __len__(self) -> int:
        """Return how many addresses, users and connections hold something."""
        return len(self._by_group) + len(self._by_connection)


class Pace:
    """A limit on how often something may be done.

    Args:
        config: How often within one period.
        period: The period in seconds.
    """

    __slots__ = ("_claims", "_period", "_shares")

    def __init__(self, config: ShareConfig, period: float = 1.0) -> None:
        self._shares = Shares(config)
        self._period = period
        #: The claims of the last period, and when they expire.
        self._claims: deque[tuple[float, Claim]] = deque()

    @property
    def refused(self) -> Counter[Bound]:
        """How many were refused, by limit."""
        return self._shares.refused

    def admit(self, party: Party, now: float) -> Bound | None:
        """Count one event.

        Args:
            party: The claimant.
            now: The time, in seconds.

        Returns:
            ``None`` if it is admitted; otherwise the limit that refused it.
        """
        claims = self._claims
        while claims and claims[0][0] <= now:
            claims.popleft()[1].release()
        claim = self._shares.claim(party)
        if isinstance(claim, Bound):
            return claim
        claims.append((now + self._period, claim))
        return None

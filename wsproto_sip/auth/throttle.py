"""Slow down the guessing of passwords, without locking users out.

Theory of operation: every check of a name and its password has to be admitted first, and counts as
a failure until it succeeds, so that concurrent attempts count too. Failures are counted in four
places. Each allows some free failures; after that, an attempt made too early is refused unread. The
delay doubles with each further failure up to a maximum, and failures are forgiven over time. The
places are:

- the pair of an address and a user, where a forgotten password shows up first;
- the connection;
- the address, for all names tried from it;
- the user, for all addresses that try the name or a form of it that a database may take for equal.

An attacker must not be able to keep the user out. So an address from which the user has logged in
before is slowed down neither by attempts at the same name from elsewhere nor by attempts at other
names from there. An unknown address has to wait while the name is under attack, but only for
itself: the delay starts with its own first attempt and does not grow with the attempts of others.
And a user who has logged in on a connection is slowed down there only by failures on connections
like it: of the same user at the same address. These count, since a token or another credential that
expires may have opened the connection, and must not lead to the password. For the same reason, a
success forgives only failures at the same kind of secret.

Clients that cannot be told apart affect each other: clients with the same address (of a proxy whose
header fields are not trusted, say) that have not logged in yet have to wait while an attacker
guesses from there. IPv6 addresses are counted by their /64, which is what one subscriber has.

Nothing is shared: each :class:`Throttle` counts for itself, and so does each process of a server
and each node of a population.

This module does not read a clock. All tables are bounded; if one is full, the least important
entries are dropped.
"""

from __future__ import annotations

import hmac
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from .._checks import check_fields
from .identity import folded_name
from .outcome import Denied

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = [
    "Attempt",
    "Failure",
    "FailureCause",
    "Slowdown",
    "Slowed",
    "Throttle",
    "ThrottleConfig",
    "Ticket",
    "network_of",
]

#: After this many doublings every delay has reached its maximum.
_MAX_DOUBLINGS: Final = 30


class FailureCause(Enum):
    """Why an attempt has failed; the values appear in log lines and metrics."""

    #: The credentials were wrong.
    WRONG = "wrong"
    #: Refused unread: too many failures of this user at this address.
    PAIR = "slowed-pair"
    #: Refused unread: too many failures on this connection.
    CONNECTION = "slowed-connection"
    #: Refused unread: too many failures at this address.
    ADDRESS = "slowed-address"
    #: Refused unread: too many failures of this user at other addresses.
    USER = "slowed-user"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A check of a name and its password.

    Args:
        service: What the password is for, such as ``"sip"``; appears in log lines and metrics.
        address: The client's address as text.
        username: The name, whether or not such a user exists.
        connection: Identifies the connection, if several attempts can be made on one; ``None`` if
            each attempt has its own.
        proven: Whether the user has logged in on this connection before.
        secret: The kind of secret, if a user has several; empty for a password. Success with one
            forgives no failures at another.
    """

    service: str
    address: str
    username: str
    connection: Hashable = None
    proven: bool = False
    secret: str = ""

    @property
    def pair(self) -> tuple[str, str, str]:
        """The address and the user, by which failures are forgiven."""
        # By the exact name: otherwise a user whose name differs in case only could have guesses at
        # the other one forgiven.
        return network_of(self.address), self.username, self.secret


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt, as it is reported.

    Args:
        attempt: The attempt.
        cause: Why it failed.
        wait: Seconds until the next attempt is checked; 0.0 for :attr:`FailureCause.WRONG`.
    """

    attempt: Attempt
    cause: FailureCause
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Slowed:
    """An attempt that is refused without checking its password.

    Args:
        cause: The count that caused it.
        wait: Seconds to wait before trying again; positive.
    """

    cause: FailureCause
    wait: float

    @property
    def denied(self) -> Denied:
        """The equivalent denial."""
        retry_after = math.ceil(self.wait)
        return Denied(f"{self.cause.value}: wait {retry_after} s", retry_after=retry_after)


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How failures at one place delay the next attempt there.

    Args:
        free: How many failures are allowed before the first delay, which is one second.
        longest: The longest delay, in seconds.
        forgive: Seconds after which one failure is forgiven.

    Raises:
        ValueError: A value is not positive.
    """

    free: int
    longest: float
    forgive: float

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.free > 0 and self.longest > 0 and self.forgive > 0):
            raise ValueError(f"must be positive: {self!r}")

    def delay(self, failures: float) -> float:
        """Return the seconds to wait after a number of failures; 0.0 for none."""
        over = math.ceil(failures) - self.free - 1
        if over < 0:
            return 0.0
        return min(float(2 ** min(over, _MAX_DOUBLINGS)), self.longest)


@dataclass(frozen=True, slots=True)
class ThrottleConfig:
    """How strongly guessing is slowed down.

    By default an address has 25 attempts at one user in the first hour and 12 in each later one,
    and 86 and 60 at all users together.

    Args:
        pair: For a user at an address.
        connection: For a connection.
        address: For an address, counting users that have not logged in from it.
        user: For a user, counting addresses from which they have not logged in.
        max_entries: How many entries of each kind are remembered.

    Raises:
        ValueError: ``max_entries`` is not positive.
    """

    pair: Slowdown = Slowdown(free=5, longest=300.0, forgive=600.0)
    connection: Slowdown = Slowdown(free=10, longest=300.0, forgive=600.0)
    address: Slowdown = Slowdown(free=20, longest=60.0, forgive=60.0)
    user: Slowdown = Slowdown(free=50, longest=30.0, forgive=60.0)
    max_entries: int = 10_000

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_entries < 1:
            raise ValueError(f"max_entries must be positive: {self.max_entries!r}")


@dataclass(slots=True)
class _Count:
    """The failures at one place, and when the next attempt there is checked."""

    failures: float = 0.0
    at: float = 0.0
    open_at: float = -math.inf
    #: The delay that was reported; one log line is enough for each.
    told: float = -math.inf
    #: The cause of the delay.
    cause: FailureCause | None = None


@dataclass(frozen=True, slots=True)
class _Counted:
    """A counted failure that can be taken back."""

    count: _Count
    before: float
    after: float

    def take_back(self) -> None:
        """Take it back, unless another one has been counted since."""
        self.count.failures = max(0.0, self.count.failures - 1.0)
        if self.count.open_at == self.after:
            self.count.open_at = self.before


class _Counts:
    """The counts of all places of one kind."""

    __slots__ = ("_cause", "_counts", "_most", "slowdown")

    def __init__(self, cause: FailureCause, slowdown: Slowdown, most: int) -> None:
        self.slowdown = slowdown
        self._cause = cause
        self._most = most
        self._counts: dict[Hashable, _Count] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def get(self, key: Hashable) -> _Count | None:
        """Return the count of a place; ``None`` without one."""
        return self._counts.get(key)

    def failures(self, key: Hashable, now: float) -> float:
        """Return how many failures of a place are not forgiven yet."""
        count = self._counts.get(key)
        return 0.0 if count is None else self._left(count, now)

    def _left(self, count: _Count, now: float) -> float:
        return max(0.0, count.failures - (now - count.at) / self.slowdown.forgive)

    def add(self, key: Hashable, now: float, least: float = 0.0) -> _Counted:
        """Count a failure.

        Args:
            key: The place.
            now: The time, in seconds.
            least: The minimum delay of the next attempt in seconds, because of the user.

        Returns:
            The counted failure, to take it back.
        """
        count = self._make(key, now)
        before = count.open_at
        count.failures = self._left(count, now) + 1.0
        count.at = now
        delay = self.slowdown.delay(count.failures)
        count.cause = FailureCause.USER if least > delay else self._cause
        if max(delay, least) > 0:
            count.open_at = now + max(delay, least)
        return _Counted(count, before, count.open_at)

    def hold(self, key: Hashable, now: float, delay: float) -> _Count:
        """Delay the next attempt at a place that has not failed."""
        count = self._make(key, now)
        count.open_at, count.cause = now + delay, FailureCause.USER
        return count

    def forget(self, key: Hashable) -> None:
        """Forget a place."""
        self._counts.pop(key, None)

    def _make(self, key: Hashable, now: float) -> _Count:
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= self._most:
                self._make_room(now)
            count = self._counts[key] = _Count(at=now)
        return count

    def _make_room(self, now: float) -> None:
        """Drop the least important quarter: the fewest failures, then those over the longest."""
        counts = self._counts

        def weight(key: Hashable) -> tuple[float, float]:
            count = counts[key]
            return self._left(count, now), count.open_at

        for key in sorted(counts, key=weight)[: len(counts) // 4 + 1]:
            del counts[key]


class Ticket:
    """An admitted attempt, which counts as a failure until it reports otherwise.

    Only the first report counts; later ones are ignored. Used as a context manager, the attempt is
    withdrawn by an exception, for example if a database cannot be reached.
    """

    __slots__ = ("_attempt", "_counted", "_now", "_settled", "_throttle")

    def __init__(
        self, throttle: Throttle, attempt: Attempt, counted: list[_Counted], now: float
    ) -> None:
        self._throttle = throttle
        self._now = now
        self._attempt = attempt
        self._counted = counted
        self._settled = False

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        if exc is not None:
            self.withdrawn()

    def failed(self) -> None:
        """Report that the credentials are wrong."""
        if not self._settled:
            self._settled = True
            if self._attempt.proven:
                self._throttle._logged_in.add(self._attempt.pair, self._now)
            self._throttle._report(Failure(self._attempt, FailureCause.WRONG))

    def succeeded(self) -> None:
        """Report that the credentials are right."""
        if not self._settled:
            self.withdrawn()
            self._throttle._remember(self._attempt)

    def withdrawn(self) -> None:
        """Report that the attempt was not a guess, but its credentials are too old."""
        if self._settled:
            return
        self._settled = True
        for counted in self._counted:
            counted.take_back()


class Throttle:
    """Admits attempts at passwords, or returns how long to wait.

    Share one instance between all services that accept the same passwords.

    Args:
        config: How strongly guessing is slowed down.
        report: Called with each failure: wrong credentials, and the first attempt made during each
            delay. It may be replaced.
        entropy: Source of random bytes, for :meth:`pseudonym`.

    Attributes:
        counts: How many attempts have failed, by service and cause, reported or not.
        report: The function called with each failure.
    """

    def __init__(
        self,
        config: ThrottleConfig = ThrottleConfig(),
        report: Callable[[Failure], None] | None = None,
        *,
        entropy: Entropy = os.urandom,
    ) -> None:
        most = config.max_entries
        self.report = report
        self.counts: Counter[tuple[str, FailureCause]] = Counter()
        self._pairs = _Counts(FailureCause.PAIR, config.pair, most)
        #: The same for attempts on connections on which the user has logged in.
        self._logged_in = _Counts(FailureCause.PAIR, config.pair, most)
        self._connections = _Counts(FailureCause.CONNECTION, config.connection, most)
        self._addresses = _Counts(FailureCause.ADDRESS, config.address, most)
        self._users = _Counts(FailureCause.USER, config.user, most)
        #: Pairs that have logged in, the most recent ones at the end.
        self._proven: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._most = most
        self._key = entropy(32)

    def pseudonym(self, secret: str) -> str:
        """Return a name for credentials without one, such as a token.

        The same credentials get the same name, which replaces them in log lines and reveals nothing
        about them.

        Args:
            secret: The credentials.
        """
        return hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]

    def __len__(self) -> int:
        """Return how many places are remembered."""
        counts = (self._pairs, self._logged_in, self._connections, self._addresses, self._users)
        return sum(map(len, counts)) + len(self._proven)

    def admit(self, attempt: Attempt, now: float) -> Ticket | Slowed:
        """Admit an attempt, or return how long to wait.

        Args:
            attempt: The attempt.
            now: The time, in seconds.

        Returns:
            The ticket, to report the result of the attempt to; or the delay.
        """
        pair = attempt.pair
        if attempt.proven:
            # Whatever happens elsewhere, users who have logged in are not slowed down by it.
            count = self._logged_in.get(pair)
            if count is not None and count.open_at > now:
                return self._refuse(attempt, count, now)
            # A failure counts when it is reported, so that such users can do much at a time.
            return Ticket(self, attempt, [], now)
        place = pair[0]
        name = (folded_name(attempt.username), attempt.secret)
        proven = pair in self._proven
        pressure = 0.0
        if not proven:
            # An attack on the name from elsewhere delays an unknown address, from its own first
            # attempt on.
            pressure = self._users.slowdown.delay(self._users.failures(name, now) + 1)
            if pressure and self._pairs.get(pair) is None:
                self._pairs.hold(pair, now, pressure)
        keys: list[tuple[_Counts, Hashable]] = [(self._pairs, pair)]
        if not proven:
            keys.append((self._addresses, place))
            if attempt.connection is not None:
                keys.append((self._connections, attempt.connection))
        waits = [count for table, key in keys if (count := table.get(key)) is not None]
        # The place that stays closed for the longest time decides.
        last = max(waits, key=lambda count: count.open_at, default=None)
        if last is not None and last.open_at > now:
            return self._refuse(attempt, last, now)
        # Counted as failures at once, so that concurrent attempts see each other. A success takes
        # them back.
        counted = [
            table.add(key, now, pressure if table is self._pairs else 0.0) for table, key in keys
        ]
        if not proven:
            # Failures at an address that is known do not put pressure on the name.
            counted.append(self._users.add(name, now))
        return Ticket(self, attempt, counted, now)

    def note(self, attempt: Attempt) -> None:
        """Count and report a failure at what is not slowed down, such as a long random token.

        Args:
            attempt: The attempt.
        """
        self._report(Failure(attempt, FailureCause.WRONG))

    def _refuse(self, attempt: Attempt, count: _Count, now: float) -> Slowed:
        cause = count.cause or FailureCause.USER
        slowed = Slowed(cause, count.open_at - now)
        if count.told < count.open_at:
            count.told = count.open_at
            self._report(Failure(attempt, cause, slowed.wait))
        else:
            self.counts[attempt.service, cause] += 1
        return slowed

    def _report(self, failure: Failure) -> None:
        self.counts[failure.attempt.service, failure.cause] += 1
        if self.report is not None:
            self.report(failure)

    def _remember(self, attempt: Attempt) -> None:
        pair = attempt.pair
        # An attempt that was not checked does not forgive failures at the same address.
        (self._logged_in if attempt.proven else self._pairs).forget(pair)
        self._proven[pair] = None
        self._proven.move_to_end(pair)
        if len(self._proven) > self._most:
            self._proven.popitem(last=False)


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """Return the unit in which an address is counted: an IPv4 address, or the /64 of an IPv6 one.

    Args:
        address: The address, with or without brackets; other text is returned unchanged.
    """
    try:
        parsed = ip_address(address.strip("[]"))
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(IPv6Network((int(parsed) >> 64 << 64, 64)))

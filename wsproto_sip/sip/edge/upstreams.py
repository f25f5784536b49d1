"""Choosing the upstream for a request, and the health of upstreams.

Theory of operation: an upstream is untried, alive or dead. Signs of life and their absence move it
from one state to another, according to :data:`HEALTH_STEPS`, after enough of them in a row. A
request goes to one of the best: those in service before those that have asked for a pause, and
these before the dead ones; among equals those with the lowest priority, and among these by weight
and chance (RFC 2782). Dead ones are not excluded, because their state may be outdated: if no
upstream is in service, a request shows whether that is still true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Final

from ...server.statistics import UpstreamStatistics
from .config import Probing, Upstream

if TYPE_CHECKING:
    from ...typing import Entropy

__all__ = ["HEALTH_STEPS", "Health", "Sign", "Upstreams"]


class Health(Enum):
    """The health of an upstream."""

    #: Unknown yet; it counts as in service.
    UNTRIED = "untried"
    ALIVE = "alive"
    DEAD = "dead"


class Sign(Enum):
    """The events that change the health of an upstream."""

    #: A response came from it.
    ANSWER = "answer"
    #: No response came in time, or 503 to a probe.
    FAILURE = "failure"
    #: The network reports that nothing can be sent to it.
    UNREACHABLE = "unreachable"


#: The new health of an upstream after enough signs of one kind in a row: one report that it cannot
#: be reached, or as many others as :class:`Probing` says. Other signs change nothing.
HEALTH_STEPS: Final[Mapping[tuple[Health, Sign], Health]] = {
    (Health.UNTRIED, Sign.ANSWER): Health.ALIVE,
    (Health.DEAD, Sign.ANSWER): Health.ALIVE,
    (Health.UNTRIED, Sign.FAILURE): Health.DEAD,
    (Health.ALIVE, Sign.FAILURE): Health.DEAD,
    (Health.UNTRIED, Sign.UNREACHABLE): Health.DEAD,
    (Health.ALIVE, Sign.UNREACHABLE): Health.DEAD,
}


@dataclass(slots=True, eq=False)
class _Server:
    """The state of one upstream."""

    upstream: Upstream
    counts: UpstreamStatistics
    health: Health = Health.UNTRIED
    last: Sign | None = None
    #: How often the last sign was repeated in a row.
    signs: int = 0
    #: When it was last heard from, and until when it has asked for a pause.
    heard: float = -inf
    spared: float = -inf

    def rank(self, now: float) -> tuple[int, int]:
        """Return its rank among the others; the lowest is best."""
        if self.health is Health.DEAD:
            return 2, self.upstream.priority
        return int(self.spared > now), self.upstream.priority


class Upstreams:
    """The upstreams of an edge.

    Args:
        upstreams: The upstreams.
        probing: The required numbers of signs.
        entropy: Source of random bytes.

    Attributes:
        statistics: The statistics of each that is not a node, by its name.
    """

    def __init__(self, upstreams: Sequence[Upstream], probing: Probing, entropy: Entropy) -> None:
        self._probing = probing
        self._entropy = entropy
        self._servers: dict[str, _Server] = {}
        self.statistics: dict[str, UpstreamStatistics] = {}
        self.replace(upstreams)

    def replace(self, upstreams: Sequence[Upstream]) -> None:
        """Use other upstreams from now on, keeping the state of those that stay."""
        before, self._servers = self._servers, {}
        for upstream in upstreams:
            server = before.get(upstream.name)
            if server is None:
                server = _Server(upstream, UpstreamStatistics())
            server.upstream = upstream
            self._servers[upstream.name] = server
        # In place, because it is shared.
        self.statistics.clear()
        self.statistics.update(
            {name: item.counts for name, item in self._servers.items() if not item.upstream.is_node}
        )

    def __len__(self) -> int:
        """Return the number of upstreams."""
        return len(self._servers)

    def __iter__(self) -> Iterator[Upstream]:
        """Iterate over the upstreams."""
        return iter([server.upstream for server in self._servers.values()])

    def get(self, name: str) -> Upstream | None:
        """Return the upstream with that name, or ``None``."""
        server = self._servers.get(name)
        return None if server is None else server.upstream

    def health(self, name: str) -> Health:
        """Return the health of a known upstream."""
        return self._servers[name].health

    def choose(
        self,
        now: float,
        *,
        preferred: str | None = None,
        tried: Collection[str] = (),
        secure: bool = False,
        alive: bool = False,
    ) -> Upstream | None:
        """Choose the upstream for a request.

        Args:
            now: The time, in seconds.
            preferred: The one to use if it is among the best: requests of one client stay together,
                so that for example a challenge and its answer meet the same server.
            tried: Those to exclude.
            secure: Whether it must be reached over TLS.
            alive: Whether it must be in service.

        Returns:
            The upstream; ``None`` if none is left.
        """
        best: list[_Server] = []
        rank = (3, 0)
        for name, server in self._servers.items():
            if name in tried or (secure and not server.upstream.secure):
                continue
            own = server.rank(now)
            if own < rank:
                best, rank = [server], own
            elif own == rank:
                best.append(server)
        if not best or (alive and rank[0] == 2):
            return None
        if len(best) == 1:
            return best[0].upstream
        for server in best:
            if server.upstream.name == preferred:
                return server.upstream
        return self._by_weight([server.upstream for server in best])

    def _by_weight(self, upstreams: list[Upstream]) -> Upstream:
        """Choose one by chance, in proportion to its weight (RFC 2782)."""
        # Those with weight 0 first, so that each has a small chance.
        upstreams.sort(key=lambda upstream: upstream.weight)
        total = sum(upstream.weight for upstream in upstreams)
        if not total:
            return upstreams[self._random(len(upstreams))]
        number = self._random(total + 1)
        sums = accumulate(upstream.weight for upstream in upstreams)
        return next(item for item, so_far in zip(upstreams, sums, strict=True) if so_far >= number)

    def _random(self, bound: int) -> int:
        return int.from_bytes(self._entropy(8), "big") % bound

    def sign(self, name: str, sign: Sign, now: float) -> bool | None:
        """Record a sign of life, or its absence.

        Args:
            name: The upstream; an unknown one is ignored.
            sign: The sign.
            now: The time, in seconds.

        Returns:
            Whether it has come into service or gone out of it; ``None`` for neither.
        """
        server = self._servers.get(name)
        if server is None:
            return None
        if sign is Sign.ANSWER:
            server.heard = now
        server.signs = server.signs + 1 if sign is server.last else 1
        server.last = sign
        health = HEALTH_STEPS.get((server.health, sign))
        if health is None or server.signs < self._enough(server.health, sign):
            return None
        server.health = health
        before = server.counts.in_service
        server.counts.in_service = after = health is Health.ALIVE
        return None if before is after else after

    def _enough(self, health: Health, sign: Sign) -> int:
        if sign is Sign.FAILURE:
            return self._probing.dead_after
        return self._probing.alive_after if health is Health.DEAD else 1

    def heard_after(self, name: str, when: float) -> bool:
        """Return whether a known upstream was heard from after that time."""
        server = self._servers.get(name)
        return server is not None and server.heard > when

    def spare(self, name: str, until: float) -> None:
        """Prefer others to an upstream for a while, if there are any (RFC 3261 §21.5.4)."""
        server = self._servers.get(name)
        if server is not None:
            server.spared = max(server.spared, until)

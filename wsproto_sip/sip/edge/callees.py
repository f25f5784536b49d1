"""Bounds on what strangers may send to one callee, so that they cannot flood it or ring forever.

Theory of operation: a callee is a connection, or the user named by a request for the upstream. Each
has its own bounds on requests per second and on requests that wait for their answer, in which the
addresses and connections of strangers have shares, as in :mod:`~wsproto_sip.server.shares`: one
stranger alone leaves room for the next. Known users are not counted. Requests within dialogs, which
the callee has agreed to, are counted separately. No state is kept for callees that strangers do not
contact.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from ...server.shares import Bound, Claim, Pace, Shares

if TYPE_CHECKING:
    from ...server.shares import Party, ShareConfig

__all__ = ["CalleeClaim", "Callees"]

#: The period in which requests are counted, in seconds.
_PERIOD: Final = 1.0


class CalleeClaim:
    """The claim of a request that waits for its answer, until released."""

    __slots__ = ("_callee", "_callees", "_claim")

    def __init__(self, callees: Callees, callee: Hashable, claim: Claim) -> None:
        self._callees = callees
        self._callee = callee
        self._claim = claim

    def release(self) -> None:
        """Release the claim; does nothing when repeated."""
        self._claim.release()
        self._callees._forget(self._callee)


class Callees:
    """The callees that strangers currently send to.

    Args:
        rate: Requests per second that may be sent to one callee.
        waiting: Requests to one callee that may wait for their answer.

    Attributes:
        refused: The number of refused requests, by resource and by the bound they met.
    """

    __slots__ = ("_paces", "_rate", "_shares", "_waiting", "refused")

    def __init__(self, rate: ShareConfig, waiting: ShareConfig) -> None:
        self._rate = rate
        self._waiting = waiting
        #: The time of the last request to each, and its pace; the latest at the end.
        self._paces: OrderedDict[Hashable, tuple[float, Pace]] = OrderedDict()
        self._shares: dict[Hashable, Shares] = {}
        self.refused: Counter[tuple[str, Bound]] = Counter()

    def __len__(self) -> int:
        """Return the number of callees with state, counting both kinds."""
        return len(self._paces) + len(self._shares)

    def admit(self, callee: Hashable, party: Party, now: float) -> Bound | None:
        """Count a request.

        Args:
            callee: The callee.
            party: The sender.
            now: The time, in seconds.

        Returns:
            ``None``, or the bound that refuses it.
        """
        paces = self._paces
        while paces and next(iter(paces.values()))[0] + _PERIOD <= now:
            paces.popitem(last=False)
        known = paces.pop(callee, None)
        pace = Pace(self._rate, _PERIOD) if known is None else known[1]
        paces[callee] = now, pace
        bound = pace.admit(party, now)
        if bound is not None:
            self.refused["callee_requests_per_second", bound] += 1
        return bound

    def claim(self, callee: Hashable, party: Party) -> CalleeClaim | Bound:
        """Count a request that waits for its answer.

        Args:
            callee: The callee.
            party: The sender.

        Returns:
            The claim, to be released when it is answered; or the bound that refuses it.
        """
        shares = self._shares.get(callee)
        if shares is None:
            shares = self._shares[callee] = Shares(self._waiting)
        claim = shares.claim(party)
        if isinstance(claim, Bound):
            self.refused["callee_transactions", claim] += 1
            return claim
        return CalleeClaim(self, callee, claim)

    def _forget(self, callee: Hashable) -> None:
        shares = self._shares.get(callee)
        if shares is not None and not shares.held:
            del self._shares[callee]

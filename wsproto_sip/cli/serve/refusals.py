"""Reports refusals because of an exhausted share in the log.

Theory of operation: refusals are counted where they happen, thousands a second in a flood. Every
now and then the counts are compared with those of the time before, so that the log has one line for
each share and bound in that time, with their number.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ...adapters.reports import report

if TYPE_CHECKING:
    from ...server.statistics import Statistics

__all__ = ["PERIOD", "RefusalLog"]

#: Seconds between checks of the counts.
PERIOD: Final = 10.0


class RefusalLog:
    """Remembers the counts already reported.

    Args:
        statistics: The counts.
    """

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._told: dict[tuple[str, str], int] = {}

    def tell(self) -> None:
        """Log the refusals since the last call."""
        for share, bound, count in self._statistics.refused():
            new = count - self._told.get((share, bound), 0)
            if new:
                self._told[share, bound] = count
                report(
                    "server", logging.WARNING, "share-refused", share=share, bound=bound, count=new
                )

"""The counters of a server: the 25 statistics of Kamailio's module, close codes and round trips.

Each counter exists for all connections (``ws_…``), for SIP (``ws_sip_…``) and for MSRP
(``ws_msrp_…``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..auth.throttle import FailureCause
from ..subprotocols import MSRP, SIP
from .histogram import Histogram
from .management.commands import CommandError, FactsResult, Fault
from .shares import Bound

__all__ = [
    "GAUGES",
    "GROUP",
    "MAX_CLOSE_CODES",
    "MODULE_STATISTICS",
    "OTHER_CODES",
    "ROUND_TRIP_BOUNDS",
    "Ending",
    "Statistics",
    "UpstreamStatistics",
]

_PREFIXES = ("ws", "ws_sip", "ws_msrp")
_PER_FAMILY = (
    "current_connections",
    "max_concurrent_connections",
    "failed_connections",
    "local_closed_connections",
    "remote_closed_connections",
    "received_frames",
    "transmitted_frames",
    "successful_handshakes",
)

#: Kamailio's name for the group.
GROUP = "websocket"

#: The names of the module's statistics.
MODULE_STATISTICS: tuple[str, ...] = (
    *(f"{prefix}_{name}" for prefix in _PREFIXES for name in _PER_FAMILY),
    "ws_failed_handshakes",
)

#: The statistics that can decrease; the others only increase.
GAUGES: frozenset[str] = frozenset(
    f"{prefix}_{name}" for prefix in _PREFIXES for name in _PER_FAMILY[:2]
)

#: How many different close codes are counted separately, since peers can choose among thousands.
MAX_CLOSE_CODES = 64

#: Stands for all other codes.
OTHER_CODES = 0

#: Upper bounds in seconds of the histogram classes for round trips and handshakes.
ROUND_TRIP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Ending(Enum):
    """The end that closed a connection; the values are the names of the statistics."""

    #: We sent the first Close frame.
    LOCAL = "local_closed_connections"
    #: The peer sent the first Close frame.
    REMOTE = "remote_closed_connections"
    #: It ended without the closing handshake.
    FAILED = "failed_connections"


class _Family:
    """The counters for one kind of connection; the attributes have the statistics' names."""

    __slots__ = _PER_FAMILY

    def __init__(self) -> None:
        self.current_connections = 0
        self.max_concurrent_connections = 0
        self.failed_connections = 0
        self.local_closed_connections = 0
        self.remote_closed_connections = 0
        self.received_frames = 0
        self.transmitted_frames = 0
        self.successful_handshakes = 0


@dataclass(slots=True)
class UpstreamStatistics:
    """The counters of one upstream of a SIP edge.

    Args:
        in_service: Whether it is in service, as far as that is known.
        requests: How many requests were sent to it, except probes and retransmissions.
        failures: How many requests it did not answer, or answered with 503.
    """

    in_service: bool = True
    requests: int = 0
    failures: int = 0


class Statistics:
    """Counters of one server.

    Attributes:
        failed_handshakes: How many handshakes were refused.
        answers: How many requests that did not open a connection were answered with each status,
            including pages.
        handshakes: Times from accepting a transport to opening its connection.
        message_sizes: Sizes of received messages in bytes; ``None`` (the default) does not count
            them.
        turned_away: How many transports were dropped for lack of room.
        hook_errors: How often a policy or listener of the caller raised an exception, or a policy
            made an impossible decision.
        close_codes: How often connections ended with each code; 1005 means a Close frame without a
            code, 1006 no Close frame, and :data:`OTHER_CODES` all codes beyond
            :data:`MAX_CLOSE_CODES` different ones.
        round_trips: Times between Pings and Pongs.
        upstream_failures: How often a SIP upstream could not be reached.
        upstreams: The counters of each SIP upstream by name, if an edge has set them here.
        authentication_failures: How many login attempts have failed, by service and cause:
            :attr:`Throttle.counts`, if the owner of a throttle has set it here.
        refusals: Functions that return the refusals because of used up shares, by resource and
            limit. Owners of shares add theirs.
    """

    __slots__ = (
        "_all",
        "_named",
        "answers",
        "authentication_failures",
        "close_codes",
        "failed_handshakes",
        "handshakes",
        "hook_errors",
        "message_sizes",
        "refusals",
        "round_trips",
        "turned_away",
        "upstream_failures",
        "upstreams",
    )

    def __init__(self) -> None:
        self._all = _Family()
        self._named = {SIP: _Family(), MSRP: _Family()}
        self.failed_handshakes = 0
        self.hook_errors = 0
        self.upstream_failures = 0
        self.upstreams: Mapping[str, UpstreamStatistics] = {}
        self.close_codes: dict[int, int] = {}
        self.answers: Counter[int] = Counter()
        self.turned_away = 0
        self.round_trips = Histogram(ROUND_TRIP_BOUNDS)
        self.handshakes = Histogram(ROUND_TRIP_BOUNDS)
        self.message_sizes: Histogram | None = None
        self.authentication_failures: Mapping[tuple[str, FailureCause], int] = {}
        self.refusals: list[Callable[[], Mapping[tuple[str, Bound], int]]] = []

    def _families(self, subprotocol: str | None) -> tuple[_Family, ...]:
        named = self._named.get(subprotocol) if subprotocol is not None else None
        return (self._all,) if named is None else (self._all, named)

    def connection_opened(self, subprotocol: str | None, seconds: float = 0.0) -> None:
        """Count a successful handshake, and the connection it opened.

        Args:
            subprotocol: The sub-protocol of the connection.
            seconds: The time it took, since the transport was accepted.
        """
        self.handshakes.add(seconds)
        for family in self._families(subprotocol):
            family.successful_handshakes += 1
            current = family.current_connections = family.current_connections + 1
            family.max_concurrent_connections = max(family.max_concurrent_connections, current)

    def handshake_failed(self) -> None:
        """Count a handshake that ended without an answer."""
        self.failed_handshakes += 1

    def request_answered(self, status: int, *, served: bool = False) -> None:
        """Count a request that did not open a connection: it was refused, or served a page.

        Args:
            status: The HTTP status code of the answer.
            served: Whether it was served, so that it is not a handshake that has failed.
        """
        self.answers[status] += 1
        if not served:
            self.failed_handshakes += 1

    def connection_closed(self, subprotocol: str | None, ending: Ending, code: int) -> None:
        """Count the end of an open connection.

        Args:
            subprotocol: The sub-protocol it was opened with.
            ending: The end that closed it.
            code: The status code it ended with.

        Raises:
            ValueError: No connection with this sub-protocol is open.
        """
        families = self._families(subprotocol)
        if not all(family.current_connections for family in families):
            raise ValueError("more connections ended than were opened")
        for family in families:
            family.current_connections -= 1
            setattr(family, ending.value, getattr(family, ending.value) + 1)
        if code not in self.close_codes and len(self.close_codes) >= MAX_CLOSE_CODES:
            code = OTHER_CODES
        self.close_codes[code] = self.close_codes.get(code, 0) + 1

    def frames_received(self, subprotocol: str | None, data: int, control: int = 0) -> None:
        """Count frames.

        Args:
            subprotocol: The connection's sub-protocol.
            data: Text, binary and continuation frames.
            control: Control frames, which only the counter of all connections includes.
        """
        self._all.received_frames += data + control
        named = self._named.get(subprotocol) if subprotocol is not None else None
        if named is not None:
            named.received_frames += data

    def frames_transmitted(self, subprotocol: str | None, data: int, control: int = 0) -> None:
        """Count frames; see :meth:`frames_received`."""
        self._all.transmitted_frames += data + control
        named = self._named.get(subprotocol) if subprotocol is not None else None
        if named is not None:
            named.transmitted_frames += data

    def values(self) -> dict[str, int]:
        """Return the module's statistics by name."""
        values = {
            f"{prefix}_{name}": int(getattr(family, name))
            for prefix, family in zip(
                _PREFIXES, (self._all, self._named[SIP], self._named[MSRP]), strict=True
            )
            for name in _PER_FAMILY
        }
        values["ws_failed_handshakes"] = self.failed_handshakes
        return values

    def group(self, group: str) -> dict[str, int]:
        """Return the module's statistics by name in alphabetical order (``cnt.grp_get_all``).

        Args:
            group: ``websocket``; others have none.
        """
        return dict(sorted(self.values().items())) if group == GROUP else {}

    def chosen(self, names: Sequence[str]) -> dict[str, int]:
        """Return the statistics selected by the names of Kamailio's ``stats`` commands.

        Args:
            names: Names, ``websocket:`` or ``all``; unknown ones are ignored.
        """
        chosen: dict[str, int] = {}
        values = self.group(GROUP)
        for name in names:
            if name in ("all", f"{GROUP}:"):
                chosen |= values
            elif name in values:
                chosen[name] = values[name]
        return chosen

    def reset(self, names: Sequence[str]) -> None:
        """Reset counters to zero.

        The number of connections is not reset, and the highest one becomes the current one. Close
        codes and round trips are reset together with all of the module's statistics.

        Args:
            names: See :meth:`chosen`.
        """
        chosen = self.chosen(names)
        families = zip(_PREFIXES, (self._all, self._named[SIP], self._named[MSRP]), strict=True)
        for prefix, family in families:
            for name in _PER_FAMILY:
                if f"{prefix}_{name}" not in chosen or name == "current_connections":
                    continue
                highest = name == "max_concurrent_connections"
                setattr(family, name, family.current_connections if highest else 0)
        if "ws_failed_handshakes" in chosen:
            self.failed_handshakes = 0
        if len(chosen) == len(MODULE_STATISTICS):
            self.close_codes = {}
            self.round_trips = Histogram(ROUND_TRIP_BOUNDS)
            self.handshakes = Histogram(ROUND_TRIP_BOUNDS)
            self.answers = Counter()

    def failures(self) -> list[tuple[str, str, int]]:
        """Return service, cause and number of failed login attempts, in order."""
        counts = self.authentication_failures.items()
        return sorted((service, cause.value, count) for (service, cause), count in counts)

    def refused(self) -> list[tuple[str, str, int]]:
        """Return the refusals for each share and limit, in order."""
        found = [item for source in self.refusals for item in source().items()]
        return sorted((share, bound.value, count) for (share, bound), count in found)

    def result(self, names: Sequence[str] = ()) -> FactsResult:
        """Return the result of ``ws.statistics``.

        Args:
            names: The counters to return; if empty, all, including close codes and round trips.

        Raises:
            CommandError: A name is unknown.
        """
        values: dict[str, int | float | str] = {**self.values()}
        values["ws_round_trips"] = self.round_trips.count
        values["ws_round_trip_seconds_total"] = self.round_trips.total
        values["ws_round_trip_seconds_max"] = self.round_trips.maximum
        for code in sorted(self.close_codes):
            values[f"ws_close_code_{code or 'other'}"] = self.close_codes[code]
        for service, cause, count in self.failures():
            values[f"ws_authentication_failures_{service}_{cause.replace('-', '_')}"] = count
        for share, bound, count in self.refused():
            values[f"ws_share_refusals_{share}_{bound}"] = count
        if not names:
            return FactsResult(values)
        unknown = [name for name in names if name not in values]
        if unknown:
            raise CommandError(Fault.INVALID_PARAMETERS, f"unknown statistic {unknown[0][:80]!r}")
        return FactsResult({name: values[name] for name in names})

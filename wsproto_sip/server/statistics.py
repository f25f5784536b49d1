"""What a server counts: the 25 statistics of Kamailio's module, close codes and round trips.

Every number is kept for all connections (``ws_…``), and for those that speak SIP (``ws_sip_…``)
and MSRP (``ws_msrp_…``). The object only counts what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ..subprotocols import MSRP, SIP
from .commands import CommandError, Fault, StatisticsResult

__all__ = [
    "GAUGES",
    "MAX_CLOSE_CODES",
    "MODULE_STATISTICS",
    "OTHER_CODES",
    "ROUND_TRIP_BOUNDS",
    "Ending",
    "RoundTrips",
    "Statistics",
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

#: The names of the module's statistics.
MODULE_STATISTICS: tuple[str, ...] = (
    *(f"{prefix}_{name}" for prefix in _PREFIXES for name in _PER_FAMILY),
    "ws_failed_handshakes",
)

#: Those that can go down; the others only go up.
GAUGES: frozenset[str] = frozenset(
    f"{prefix}_{name}" for prefix in _PREFIXES for name in _PER_FAMILY[:2]
)

#: How many different close codes are counted by themselves, since the peers choose among thousands.
MAX_CLOSE_CODES = 64

#: Stands for all further ones.
OTHER_CODES = 0

#: Upper bounds in seconds of the classes that round-trip times are counted in.
ROUND_TRIP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Ending(Enum):
    """Who ended a connection; the values are the names of the statistics."""

    #: We sent the first Close frame.
    LOCAL = "local_closed_connections"
    #: The peer sent the first Close frame.
    REMOTE = "remote_closed_connections"
    #: It ended without the closing handshake.
    FAILED = "failed_connections"


class RoundTrips:
    """Times between a Ping and its Pong, in classes.

    Attributes:
        count: How many there were.
        total: Their sum in seconds.
        maximum: The longest in seconds.
        classes: How many were at most :data:`ROUND_TRIP_BOUNDS`, class by class, not added up;
            the last class takes the rest.
    """

    __slots__ = ("classes", "count", "maximum", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0
        self.classes = [0] * (len(ROUND_TRIP_BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Count one.

        Raises:
            ValueError: It is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"not a time: {seconds!r}")
        self.count += 1
        self.total += seconds
        self.maximum = max(self.maximum, seconds)
        for index, bound in enumerate(ROUND_TRIP_BOUNDS):
            if seconds <= bound:
                self.classes[index] += 1
                return
        self.classes[-1] += 1


class _Family:
    """The counters of one kind of connections; the attributes have the statistics' names."""

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


class Statistics:
    """Counters of one server.

    Attributes:
        failed_handshakes: How many handshakes were refused.
        close_codes: How often connections ended with each code; 1005 stands for a Close frame
            without one and 1006 for none, and :data:`OTHER_CODES` for what is beyond
            :data:`MAX_CLOSE_CODES` different ones.
        round_trips: Times between Pings and Pongs.
    """

    __slots__ = ("_all", "_named", "close_codes", "failed_handshakes", "round_trips")

    def __init__(self) -> None:
        self._all = _Family()
        self._named = {SIP: _Family(), MSRP: _Family()}
        self.failed_handshakes = 0
        self.close_codes: dict[int, int] = {}
        self.round_trips = RoundTrips()

    def _families(self, sub_protocol: str | None) -> tuple[_Family, ...]:
        named = self._named.get(sub_protocol) if sub_protocol is not None else None
        return (self._all,) if named is None else (self._all, named)

    def connection_opened(self, sub_protocol: str | None) -> None:
        """Count a handshake that succeeded, and the connection it opened."""
        for family in self._families(sub_protocol):
            family.successful_handshakes += 1
            current = family.current_connections = family.current_connections + 1
            family.max_concurrent_connections = max(family.max_concurrent_connections, current)

    def handshake_failed(self) -> None:
        """Count a handshake that was refused."""
        self.failed_handshakes += 1

    def connection_ended(self, sub_protocol: str | None, ending: Ending, code: int) -> None:
        """Count the end of an open connection.

        Args:
            sub_protocol: The sub-protocol it was opened with.
            ending: Who ended it.
            code: The status code it ended with.

        Raises:
            ValueError: No such connection is open.
        """
        families = self._families(sub_protocol)
        if not all(family.current_connections for family in families):
            raise ValueError("more connections ended than were opened")
        for family in families:
            family.current_connections -= 1
            setattr(family, ending.value, getattr(family, ending.value) + 1)
        if code not in self.close_codes and len(self.close_codes) >= MAX_CLOSE_CODES:
            code = OTHER_CODES
        self.close_codes[code] = self.close_codes.get(code, 0) + 1

    def frames_received(self, sub_protocol: str | None, data: int, control: int = 0) -> None:
        """Count frames.

        Args:
            sub_protocol: The connection's sub-protocol.
            data: Text, binary and continuation frames.
            control: The others, which only the counter of all connections counts.
        """
        self._all.received_frames += data + control
        named = self._named.get(sub_protocol) if sub_protocol is not None else None
        if named is not None:
            named.received_frames += data

    def frames_transmitted(self, sub_protocol: str | None, data: int, control: int = 0) -> None:
        """Count frames; see :meth:`frames_received`."""
        self._all.transmitted_frames += data + control
        named = self._named.get(sub_protocol) if sub_protocol is not None else None
        if named is not None:
            named.transmitted_frames += data

    def values(self) -> dict[str, int]:
        """The module's statistics by name."""
        values = {
            f"{prefix}_{name}": int(getattr(family, name))
            for prefix, family in zip(
                _PREFIXES, (self._all, self._named[SIP], self._named[MSRP]), strict=True
            )
            for name in _PER_FAMILY
        }
        values["ws_failed_handshakes"] = self.failed_handshakes
        return values

    def result(self, names: Sequence[str] = ()) -> StatisticsResult:
        """The result of ``ws.statistics``.

        Args:
            names: Which numbers to give; all if empty, close codes and round trips too.

        Raises:
            CommandError: There is none of that name.
        """
        values: dict[str, int | float] = {**self.values()}
        values["ws_round_trips"] = self.round_trips.count
        values["ws_round_trip_seconds_total"] = self.round_trips.total
        values["ws_round_trip_seconds_max"] = self.round_trips.maximum
        for code in sorted(self.close_codes):
            values[f"ws_close_code_{code or 'other'}"] = self.close_codes[code]
        if not names:
            return StatisticsResult(values)
        unknown = [name for name in names if name not in values]
        if unknown:
            raise CommandError(Fault.INVALID_PARAMETERS, f"no statistic {unknown[0][:80]!r}")
        return StatisticsResult({name: values[name] for name in names})

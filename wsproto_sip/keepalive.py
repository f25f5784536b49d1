"""Keep-alive of one connection (RFC 6455 §5.5.2, RFC 7118 §6).

Theory of operation: what counts as life is what the peer *sent*, whatever it was; sending counts
for nothing. After ``interval`` seconds without a sign of life the mechanism acts. With Pings, the
peer then has ``answer_timeout`` seconds to send something, and only a Pong with the payload that
is outstanding ends the waiting and gives a round-trip time. The caller notes every read with one
assignment to ``last_received``; deadlines that have become too early by it are found out when
they pass, so a received frame costs no more than that.

A deadline that is looked at much too late tells more about this process than about the peer,
whose answer may lie unread: it is granted once more. So it is after a pause in reading, which does
not count as time that the peer had.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .typing import Entropy

__all__ = ["Keepalive", "KeepaliveAction", "KeepaliveConfig", "Mechanism"]

#: Octets of a random payload.
_PAYLOAD_SIZE: Final = 8

#: Seconds by which a deadline may be missed before the clock, or this process, is to blame.
LATENESS: Final = 2.0


class Mechanism(IntEnum):
    """How a connection is kept alive; the numbers are Kamailio's ``keepalive_mechanism``."""

    #: Nothing is done.
    NONE = 0
    #: A Ping, which the peer has to answer.
    PING = 1
    #: An unsolicited Pong: keeps middleboxes awake, and cannot see that the peer is gone.
    PONG = 2
    #: No frame; the caller is asked to see whether the transport still exists.
    CHECK = 3


class KeepaliveAction(Enum):
    """What :meth:`Keepalive.poll` wants done."""

    #: Send a Ping with :attr:`Keepalive.payload`.
    PING = "ping"
    #: Send an unsolicited Pong with :attr:`Keepalive.payload`.
    PONG = "pong"
    #: See whether the transport still exists.
    CHECK = "check"
    #: End the connection: the peer is gone.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class KeepaliveConfig:
    """How one connection is kept alive.

    Args:
        mechanism: What is done.
        interval: Seconds without a sign of life before it is done, 1 to 3600.
        answer_timeout: Seconds that the peer has to answer a Ping, more than 0 and at most 3600.
        application_data: Payload of the frames, 1 to 125 octets; None takes eight random octets
            for each.

    Raises:
        ValueError: A value is out of its range.
        TypeError: ``application_data`` is not ``bytes``.
    """

    mechanism: Mechanism = Mechanism.PING
    interval: float = 25.0
    answer_timeout: float = 20.0
    application_data: bytes | None = None

    def __post_init__(self) -> None:
        # A number is as good as its name.
        object.__setattr__(self, "mechanism", Mechanism(self.mechanism))
        if not 1 <= self.interval <= 3600:
            raise ValueError(f"interval must be 1 to 3600 seconds: {self.interval!r}")
        if not 0 < self.answer_timeout <= 3600:
            raise ValueError(
                f"answer_timeout must be above 0 and at most 3600 seconds: {self.answer_timeout!r}"
            )
        data = self.application_data
        if data is not None:
            if not isinstance(data, bytes):
                raise TypeError(f"application_data must be bytes: {data!r}")
            if not 1 <= len(data) <= 125:
                raise ValueError(f"application_data must be 1 to 125 octets, not {len(data)}")


class Keepalive:
    """Watches one open connection.

    Args:
        config: How to.
        now: The time.
        entropy: Source of random payloads.

    Attributes:
        config: How it is done at the moment.
        last_received: When the peer last sent anything; the caller sets it.
        payload: What the outstanding, or else the last, frame carries.
        awaiting: Whether a Ping is out that was not answered.
        round_trip_time: Seconds that the last answered Ping took; None before the first.
    """

    __slots__ = (
        "_deadline",
        "_early",
        "_entropy",
        "_extended",
        "_pinged",
        "awaiting",
        "config",
        "last_received",
        "payload",
        "round_trip_time",
    )

    def __init__(
        self, config: KeepaliveConfig, *, now: float, entropy: Entropy = os.urandom
    ) -> None:
        self.config = config
        self.last_received = now
        self.payload = b""
        self.awaiting = False
        self.round_trip_time: float | None = None
        self._entropy = entropy
        self._pinged = now
        self._extended = False
        self._early = False
        self._deadline = self._first_deadline(now)

    def _first_deadline(self, now: float) -> float:
        if self.config.mechanism is Mechanism.NONE:
            return inf
        return now + self.config.interval

    @property
    def waiting(self) -> bool:
        """Whether the peer's time to answer a Ping runs, at the end of which it is given up."""
        return self.awaiting and self.config.mechanism is Mechanism.PING

    def next_deadline(self) -> float:
        """When :meth:`poll` has to be called at the latest; infinity without a mechanism."""
        return self._deadline

    def reconfigure(self, config: KeepaliveConfig, now: float) -> None:
        """Changes how it is done, from now on; an outstanding Ping is forgotten.

        Args:
            config: The new way.
            now: The time.
        """
        self.config = config
        self.awaiting = False
        self._deadline = self._first_deadline(max(self.last_received, now - config.interval))

    def spread(self, share: float, now: float) -> None:
        """Gives the next keep-alive a place of its own in the interval that begins now.

        Connections that were opened together would be kept alive together for ever. What the peer
        sends meanwhile does not put it off: they may all send something at once, too.

        Args:
            share: Of the interval, above 0 and at most 1.
            now: The time.
        """
        if self.config.mechanism is not Mechanism.NONE:
            self._early = True
            self._deadline = now + self.config.interval * share

    def shift(self, seconds: float) -> None:
        """Follows a clock that was moved.

        Args:
            seconds: By how much; negative towards the past.
        """
        self.last_received += seconds
        self._pinged += seconds
        self._deadline += seconds

    def ping(self, payload: bytes, now: float) -> None:
        """Notes that a Ping goes out, whoever wanted it.

        It takes the place of an earlier one as what is to be answered, but the peer has no more
        time for that: who pings often would never find out.

        Args:
            payload: Its payload.
            now: The time.
        """
        if not self.awaiting:
            self._extended = False
            if self.config.mechanism is Mechanism.PING:
                self._deadline = now + self.config.answer_timeout
        self.payload = payload
        self.awaiting = True
        self._pinged = now

    def pong(self, payload: bytes, now: float) -> bool:
        """Notes a Pong that was received.

        Args:
            payload: Its payload.
            now: The time.

        Returns:
            Whether it answers the outstanding Ping, which only the same octets do.
        """
        if not self.awaiting or payload != self.payload:
            return False
        self.awaiting = False
        self.round_trip_time = now - self._pinged
        self._deadline = self._first_deadline(now)
        return True

    def looked_away(self, since: float, now: float) -> None:
        """Gives the peer back the time in which its answer would not have been seen.

        Args:
            since: When nobody read any more what it sent.
            now: The time; from here on it is read again.
        """
        if self.waiting:
            self._deadline += now - max(since, self._pinged)
            if not self._extended:
                # The answer may be there, and take a moment to be read.
                self._extended = True
                self._deadline = max(self._deadline, now + self.config.answer_timeout)

    def poll(self, now: float) -> KeepaliveAction | None:
        """Does what is due.

        Args:
            now: The time; calls that are early change nothing.

        Returns:
            What the caller has to do, or None.
        """
        if now < self._deadline:
            return None
        config = self.config
        if self.waiting:
            # It may send, even if not the Pong.
            alive_until = self.last_received + config.answer_timeout
            if alive_until > self._deadline:
                self._extended = False
            if now < alive_until:
                self._deadline = alive_until
                return None
            if now - self._deadline > LATENESS and not self._extended:
                self._extended = True
                self._deadline = now + config.answer_timeout
                return None
            self._deadline = inf
            return KeepaliveAction.DEAD
        quiet_until = self.last_received + config.interval
        early, self._early = self._early, False
        if now < quiet_until and not early:
            self._deadline = quiet_until
            return None
        if config.mechanism is Mechanism.CHECK:
            self._deadline = now + config.interval
            return KeepaliveAction.CHECK
        payload = config.application_data or self._entropy(_PAYLOAD_SIZE)
        if config.mechanism is Mechanism.PING:
            self.ping(payload, now)
            return KeepaliveAction.PING
        self.payload = payload
        self._deadline = now + config.interval
        return KeepaliveAction.PONG

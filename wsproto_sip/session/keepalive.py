"""Keep-alive of one connection (RFC 6455 §5.5.2, RFC 7118 §6).

Theory of operation: any byte the peer *sends* counts as a sign of life; sending to it does not.
After ``interval`` seconds without one the mechanism acts. With Pings, the peer then has
``answer_timeout`` seconds to send something. Only a Pong with the payload of the outstanding Ping
ends the wait and gives a round-trip time. The caller records every read with one assignment to
``last_received``; a deadline that has become too early because of it is corrected when it passes,
so a received frame costs no more than that.

The time to answer starts when the Ping has left: :meth:`Keepalive.hold` stops it while the
transport is known to hold the Ping after other bytes, which the peer may still be reading.

A deadline that is checked much too late says more about this process than about the peer, whose
answer may be unread: it is extended once. The same applies after a pause in reading, which does not
count as time that the peer had.

Connections opened together would be kept alive together for ever. :meth:`Keepalive.spread` delays
the first frame of each by a share of the interval. None is sent before a full interval of silence,
and all later ones are sent after exactly that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import inf
from typing import TYPE_CHECKING, Final

from .._checks import check_fields
from .deadlines import LATENESS

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = ["Keepalive", "KeepaliveAction", "KeepaliveConfig", "Mechanism"]

#: Bytes of a random payload.
_PAYLOAD_SIZE: Final = 8


class Mechanism(IntEnum):
    """The way a connection is kept alive; the numbers are Kamailio's ``keepalive_mechanism``."""

    #: No keep-alive.
    NONE = 0
    #: A Ping, which the peer must answer.
    PING = 1
    #: An unsolicited Pong: keeps middleboxes awake, but cannot detect that the peer is gone.
    PONG = 2
    #: No frame; the caller is asked to check whether the transport still exists.
    CHECK = 3


class KeepaliveAction(Enum):
    """An action requested by :meth:`Keepalive.poll`."""

    #: Send a Ping with :attr:`Keepalive.payload`.
    PING = "ping"
    #: Send an unsolicited Pong with :attr:`Keepalive.payload`.
    PONG = "pong"
    #: Check whether the transport still exists.
    CHECK = "check"
    #: End the connection: the peer is gone.
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class KeepaliveConfig:
    """The keep-alive configuration of one connection.

    Args:
        mechanism: The mechanism.
        interval: Seconds without a sign of life before it acts, 1 to 3600. An endpoint may take up
            to twice as long the first time, to spread its connections.
        answer_timeout: Seconds for the peer to answer a Ping after it has left, as far as the
            adapter reports that; more than 0 and at most 3600.
        application_data: Payload of the frames, 1 to 125 bytes; ``None`` uses eight random bytes
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
        # Accept a number instead of its enum member.
        object.__setattr__(self, "mechanism", Mechanism(self.mechanism))
        check_fields(self)
        if not 1 <= self.interval <= 3600:
            raise ValueError(f"interval must be 1 to 3600 seconds: {self.interval!r}")
        if not 0 < self.answer_timeout <= 3600:
            raise ValueError(
                f"answer_timeout must be above 0 and at most 3600 seconds: {self.answer_timeout!r}"
            )
        data = self.application_data
        if data is not None and not 1 <= len(data) <= 125:
            raise ValueError(f"application_data must be 1 to 125 bytes, not {len(data)}")


class Keepalive:
    """The keep-alive of one open connection.

    Args:
        config: The configuration.
        now: The time.
        entropy: Source of random payloads.

    Attributes:
        config: The current configuration.
        last_received: When the peer last sent anything; the caller sets it.
        payload: The payload of the outstanding frame, or of the last one.
        awaiting: Whether a Ping has been sent and not answered.
        held: Whether the time to answer it has not started, because it has not left.
        round_trip_time: Seconds between the last answered Ping and its Pong; ``None`` before the
            first.
    """

    __slots__ = (
        "_deadline",
        "_delay",
        "_entropy",
        "_extended",
        "_pinged",
        "awaiting",
        "config",
        "held",
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
        # The delay of the next frame in addition to the interval.
        self._delay = 0.0
        self.held = False
        self._deadline = self._quiet_until(now)

    def _quiet_until(self, now: float) -> float:
        """Return when a frame is due if nothing is received from now on."""
        if self.config.mechanism is Mechanism.NONE:
            return inf
        return now + self.config.interval + self._delay

    @property
    def waiting(self) -> bool:
        """Whether the time to answer a Ping is running, after which the peer is given up."""
        return self.awaiting and self.config.mechanism is Mechanism.PING

    def next_deadline(self) -> float:
        """Return the latest time to call :meth:`poll`; infinity without a mechanism."""
        return self._deadline

    def put_off(self, now: float) -> float:
        """Move the deadline if input since it was set has moved it past now.

        :meth:`poll` does the same; this is for callers that check many connections.

        Args:
            now: The time.

        Returns:
            The deadline, as from :meth:`next_deadline`.
        """
        deadline = self._deadline
        if self.awaiting and self.waiting:
            until = self.last_received + self.config.answer_timeout
        else:
            until = self.last_received + self.config.interval + self._delay
        # An infinite deadline stays: no mechanism is set, or the peer was given up.
        if now < until and deadline < until and deadline != inf:
            self._extended = False
            self._deadline = deadline = until
        return deadline

    def reconfigure(self, config: KeepaliveConfig, now: float) -> None:
        """Change the configuration from now on; an outstanding Ping is forgotten.

        Args:
            config: The new configuration.
            now: The time.
        """
        self.config = config
        self.awaiting = self.held = False
        self._delay = 0.0
        self._deadline = self._quiet_until(max(self.last_received, now - config.interval))

    def spread(self, share: float, now: float) -> None:
        """Delay the next frame, to spread connections that would be due together.

        Input in the meantime delays it further, and does not use the delay up.

        Args:
            share: The share of an interval, from 0 to 1; it should differ between connections.
            now: The time.
        """
        interval = self.config.interval
        self._delay = interval * share
        if not self.awaiting and self.config.mechanism is not Mechanism.NONE:
            self._deadline = max(self.last_received + interval, now) + self._delay

    def shift(self, seconds: float) -> None:
        """Follow a clock that was moved.

        Args:
            seconds: By how much; negative if the clock was set back.
        """
        self.last_received += seconds
        self._pinged += seconds
        self._deadline += seconds

    def ping(self, payload: bytes, now: float) -> None:
        """Record that a Ping is sent, automatic or not.

        It replaces an earlier one as the Ping to be answered, but the peer does not get more time:
        otherwise frequent Pings would never detect its loss.

        Args:
            payload: Its payload.
            now: The time.
        """
        if not self.awaiting:
            self._extended = self.held = False
            if self.config.mechanism is Mechanism.PING:
                self._deadline = now + self.config.answer_timeout
        self.payload = payload
        self.awaiting = True
        self._pinged = now

    def pong(self, payload: bytes, now: float) -> bool:
        """Record a received Pong.

        Args:
            payload: Its payload.
            now: The time.

        Returns:
            Whether it answers the outstanding Ping, which requires the same payload.
        """
        if not self.awaiting or payload != self.payload:
            return False
        self.awaiting = self.held = False
        self.round_trip_time = now - self._pinged
        self._deadline = self._quiet_until(now)
        return True

    def hold(self, until: float) -> None:
        """Stop the time to answer the Ping: it has not left yet.

        Args:
            until: When to give the peer up all the same; infinity if another deadline covers that.
        """
        if self.waiting:
            self.held = True
            self._deadline = until

    def release(self, now: float) -> None:
        """Start the time to answer the Ping, if it was stopped: it has left.

        Args:
            now: The time.
        """
        if self.held:
            self.held = False
            self._pinged = now
            self._deadline = now + self.config.answer_timeout

    def looked_away(self, since: float, now: float) -> None:
        """Give the peer back the time in which its answer could not have been seen.

        Args:
            since: When reading stopped.
            now: The current time, from which reading continues.
        """
        if self.waiting:
            self._deadline += now - max(since, self._pinged)
            if not self._extended:
                # The answer may have arrived, but takes a moment to be read.
                self._extended = True
                self._deadline = max(self._deadline, now + self.config.answer_timeout)

    def poll(self, now: float) -> KeepaliveAction | None:
        """Perform the actions that are due.

        Args:
            now: The current time; early calls change nothing.

        Returns:
            The action for the caller, or ``None``.
        """
        if now < self._deadline:
            return None
        config = self.config
        if self.waiting:
            # The peer may still send anything, even if not the Pong.
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
        quiet_until = self._quiet_until(self.last_received)
        if now < quiet_until:
            self._deadline = quiet_until
            return None
        self._delay = 0.0
        if config.mechanism is Mechanism.CHECK:
            self._deadline = self._quiet_until(now)
            return KeepaliveAction.CHECK
        payload = config.application_data or self._entropy(_PAYLOAD_SIZE)
        if config.mechanism is Mechanism.PING:
            self.ping(payload, now)
            return KeepaliveAction.PING
        self.payload = payload
        self._deadline = self._quiet_until(now)
        return KeepaliveAction.PONG

"""When and whether to connect again (RFC 6455 §7.2.3), without I/O."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

from ..session.lifecycle import Cause
from .exceptions import ConnectionClosedError, HandshakeRejected, ProxyError
from .proxies import TRANSIENT_STATUS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff", "is_transient", "retry_after"]

#: The longest Retry-After that is respected, in seconds.
_LONGEST_WISH: Final = 3600.0


class Backoff:
    """Compute how long to wait before each attempt: a random time with a growing upper bound.

    After the first failure the wait is between 0 and ``first`` seconds, so that the clients of a
    restarted server do not all return at once. Each further failure multiplies the bound by
    ``factor``, up to ``longest``. A connection that lasts ``steady`` seconds resets it; a server
    that accepts clients only to drop them is therefore not retried at the same pace forever.

    Args:
        first: The upper bound of the first wait, in seconds.
        factor: Multiplies the bound after each failure.
        longest: The highest upper bound, in seconds.
        steady: Seconds for which a connection must last.
        entropy: Returns the given number of random bytes.

    Attributes:
        failures: The number of failures in a row.

    Raises:
        ValueError: A time is not positive, or the factor is below 1.
    """

    def __init__(
        self,
        *,
        first: float = 5.0,
        factor: float = 2.0,
        longest: float = 60.0,
        steady: float = 60.0,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not (first > 0 and longest > 0 and steady > 0):
            raise ValueError("first, longest and steady must be positive")
        if not factor >= 1:
            raise ValueError("factor must be at least 1")
        self.failures = 0
        self._first = first
        self._factor = factor
        self._longest = longest
        self._steady = steady
        self._entropy = entropy
        self._upper = 0.0
        self._opened: float | None = None

    def opened(self, now: float) -> None:
        """Record that a connection was opened.

        Args:
            now: The time in seconds, of a monotonic clock.
        """
        self._opened = now

    def failed(self, now: float, *, at_least: float = 0.0) -> float:
        """Record a failed attempt, or the end of a connection.

        Args:
            now: The time in seconds, of a monotonic clock.
            at_least: Seconds for which the server asked not to be retried. At most an hour is
                granted; the random time is added to it.

        Returns:
            The seconds to wait before the next attempt.
        """
        opened, self._opened = self._opened, None
        if opened is not None and now - opened >= self._steady:
            self.failures = 0
        # Multiply step by step: a power would overflow in the end.
        grown = self._upper * self._factor if self.failures else self._first
        self._upper = min(grown, self._longest)
        self.failures += 1
        share = int.from_bytes(self._entropy(4), "big") / 0x1_0000_0000
        return min(max(at_least, 0.0), _LONGEST_WISH) + self._upper * share


def is_transient(error: Exception) -> bool:
    """Return whether another attempt to connect makes sense.

    It does if there was no connection or no timely answer (``OSError``, ``TimeoutError``, a failed
    look-up), if the handshake was cut off, for the statuses 408, 425, 429, 500, 502, 503 and 504
    from a server or a proxy, and if a SOCKS proxy does not reach the server.

    It does not in all other cases: another status, an untrusted certificate, an answer that is not
    a WebSocket handshake, an invalid URI or argument.

    Args:
        error: The exception raised by connecting.
    """
    if isinstance(error, HandshakeRejected):
        return error.status_code in TRANSIENT_STATUS
    if isinstance(error, ProxyError):
        return error.transient
    if isinstance(error, ConnectionClosedError):
        return error.event.cause not in {Cause.PROTOCOL_ERROR, Cause.LIMIT}
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)


def retry_after(error: Exception) -> float:
    """Return for how many seconds a server or proxy asks not to be retried (RFC 9110 §10.2.3).

    Args:
        error: The exception raised by connecting.

    Returns:
        The seconds; 0 if it gives none, or a date.
    """
    headers = error.headers if isinstance(error, HandshakeRejected | ProxyError) else []
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit():
            # RFC 9110 §5.6.1 puts no bound on the number of digits.
            return float(value[:9])
    return 0.0

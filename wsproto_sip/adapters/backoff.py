"""When to connect once more (RFC 6455 §7.2.3), and whether at all; without I/O."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

from ..lifecycle import Cause
from ._common import ConnectionClosedError, HandshakeRejected
from .proxies import TRANSIENT_STATUS, ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff", "is_transient", "retry_after"]

#: Seconds of a server's wish that are granted at most.
_LONGEST_WISH: Final = 3600.0


class Backoff:
    """Says how long to wait in front of each attempt: a random time, and longer ones every time.

    After the first failure it is from 0 to ``first`` seconds, so that the clients of a server that
    restarts do not all come at once; the upper end is then multiplied by ``factor`` for each
    further failure, up to ``longest``. A connection that has lasted for ``steady`` seconds ends the
    row: a server that lets clients in and throws them out at once is not asked without end.

    Args:
        first: The upper end of the first wait, in seconds.
        factor: What it is multiplied by.
        longest: The highest upper end, in seconds.
        steady: Seconds that a connection has to last.
        entropy: Gives as many random octets as it is asked for.

    Attributes:
        failures: How many there were in a row.

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
            raise ValueError("first, longest and steady are positive numbers of seconds")
        if not factor >= 1:
            raise ValueError("factor is at least 1")
        self.failures = 0
        self._first = first
        self._factor = factor
        self._longest = longest
        self._steady = steady
        self._entropy = entropy
        self._upper = 0.0
        self._opened: float | None = None

    def opened(self, now: float) -> None:
        """A connection was opened.

        Args:
            now: The time in seconds, of a clock that does not go back.
        """
        self._opened = now

    def failed(self, now: float, *, at_least: float = 0.0) -> float:
        """An attempt has failed, or the connection has ended.

        Args:
            now: The time.
            at_least: Seconds that the server wants to be left alone; up to an hour is granted, and
                the random time is added to it.

        Returns:
            The seconds to wait in front of the next attempt.
        """
        opened, self._opened = self._opened, None
        if opened is not None and now - opened >= self._steady:
            self.failures = 0
        # No power: that overflows in the end.
        grown = self._upper * self._factor if self.failures else self._first
        self._upper = min(grown, self._longest)
        self.failures += 1
        share = int.from_bytes(self._entropy(4), "big") / 0x1_0000_0000
        return min(max(at_least, 0.0), _LONGEST_WISH) + self._upper * share


def is_transient(error: Exception) -> bool:
    """Whether another attempt to connect makes sense.

    Yes: no connection and no answer in time (``OSError``, ``TimeoutError``, a look-up that failed);
    a handshake that was cut off; the statuses 408, 425, 429, 500, 502, 503 and 504, be they a
    server's or a proxy's; a SOCKS proxy that does not reach the server.

    No: everything else. Other statuses, a certificate that is not trusted, an answer that is no
    WebSocket handshake, a wrong URI and a wrong argument stay what they are.

    Args:
        error: What connecting has raised.
    """
    if isinstance(error, HandshakeRejected):
        return error.status_code in TRANSIENT_STATUS
    if isinstance(error, ProxyError):
        return error.transient
    if isinstance(error, ConnectionClosedError):
        return error.event.cause not in {Cause.PROTOCOL_ERROR, Cause.LIMIT}
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)


def retry_after(error: Exception) -> float:
    """The seconds that a server or a proxy wants to be left alone (RFC 9110 §10.2.3).

    Args:
        error: What connecting has raised.

    Returns:
        The seconds; 0 where it says none, or names a date.
    """
    headers = error.headers if isinstance(error, HandshakeRejected | ProxyError) else []
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit():
            # RFC 9110 §5.6.1 puts no bound on the number of digits.
            return float(value[:9])
    return 0.0

"""One connection after another, on trio (RFC 6455 §7.2.3)."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from ..backoff import retry_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..backoff import Backoff
    from .connection import Connection

__all__ = ["Reconnecting"]

_logger = logging.getLogger("wsproto_sip.trio")


class Reconnecting:
    """Iterate over connections, each opened after the end of the one before; see ``reconnect()``.

    When asked for the next connection, close the last one with 1000 if it is still open, wait
    according to the back-off, and open another, until that succeeds or the error is final. The
    iterator never ends by itself.

    Args:
        opening: Opens a connection.
        backoff: Computes the waiting times.
        retry: Decides whether to retry after an exception.
    """

    def __init__(
        self,
        opening: Callable[[], Awaitable[Connection]],
        backoff: Backoff,
        retry: Callable[[Exception], bool],
    ) -> None:
        self._opening = opening
        self._backoff = backoff
        self._retry = retry
        self._connection: Connection | None = None
        # The earliest time of the next attempt.
        self._not_before = -inf

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> Connection:
        if self._connection is not None:
            await self.aclose()
            self._wait(self._backoff.failed(trio.current_time()), "the connection has ended")
        while True:
            await trio.sleep_until(self._not_before)
            try:
                self._connection = await self._opening()
            except Exception as error:
                if not self._retry(error):
                    raise
                seconds = self._backoff.failed(trio.current_time(), at_least=retry_after(error))
                self._wait(seconds, error)
            else:
                self._backoff.opened(trio.current_time())
                return self._connection

    def _wait(self, seconds: float, why: object) -> None:
        _logger.info("%s; connecting again in %.1f s", why, seconds)
        self._not_before = trio.current_time() + seconds

    async def aclose(self) -> None:
        """Close the last connection with 1000, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

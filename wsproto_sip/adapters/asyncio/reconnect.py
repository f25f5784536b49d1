"""One connection after another, on asyncio (RFC 6455 §7.2.3)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..backoff import retry_after

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from ..backoff import Backoff
    from .connection import Connection

__all__ = ["Reconnecting"]

_logger = logging.getLogger("wsproto_sip.asyncio")


class Reconnecting:
    """Iterate over connections, each opened after the end of the one before; see ``reconnect()``.

    When asked for the next connection, close the last one with 1000 if it is still open, wait
    according to the back-off, and open another, until that succeeds or the error is final. The
    iterator never ends by itself. As a context manager it closes the last connection after its
    block.

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
        # The earliest time of the next attempt; ``None`` for at once.
        self._not_before: float | None = None

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> Connection:
        time = asyncio.get_running_loop().time
        if self._connection is not None:
            await self.aclose()
            self._wait(self._backoff.failed(time()), "the connection has ended")
        while True:
            if self._not_before is not None:
                await asyncio.sleep(self._not_before - time())
            try:
                self._connection = await self._opening()
            except Exception as error:
                if not self._retry(error):
                    raise
                self._wait(self._backoff.failed(time(), at_least=retry_after(error)), error)
            else:
                self._backoff.opened(time())
                return self._connection

    def _wait(self, seconds: float, why: object) -> None:
        _logger.info("%s; connecting again in %.1f s", why, seconds)
        self._not_before = asyncio.get_running_loop().time() + seconds

    async def aclose(self) -> None:
        """Close the last connection with 1000, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            finally:
                connection.abort()

    async def __aenter__(self) -> Reconnecting:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self._connection is not None:
            self._connection.abort()
        await self.aclose()

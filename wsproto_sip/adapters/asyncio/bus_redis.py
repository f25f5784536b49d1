"""Messages between servers over channels of Redis or Valkey (``PUBLISH``, ``SUBSCRIBE``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .population import BusError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .location_redis import RedisEngine

__all__ = ["RedisBus"]

#: Seconds of one wait for a message; the connection is checked between two.
_WAIT: Final = 1.0


class RedisBus:
    """Channels of the server that a location store is at.

    Args:
        engine: The location store; its client is used, and its prefix for the channels.
    """

    def __init__(self, engine: RedisEngine) -> None:
        self._engine = engine

    async def publish(self, channel: str, data: bytes) -> None:
        """Send a message to all that listen to a channel."""
        try:
            await self._engine.client.publish(self._engine.prefix + channel, data)
        except self._engine.failures as exc:
            raise BusError(str(exc)) from exc

    async def listen(self, channels: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield channel and data of each message."""
        prefix = self._engine.prefix
        messages: Any = self._engine.client.pubsub(ignore_subscribe_messages=True)
        try:
            await messages.subscribe(*[prefix + channel for channel in channels])
            while True:
                message = await messages.get_message(timeout=_WAIT)
                if message is not None:
                    name = message["channel"].decode("utf-8", "replace")
                    yield name.removeprefix(prefix), message["data"]
        except self._engine.failures as exc:
            raise BusError(str(exc)) from exc
        finally:
            await messages.aclose()

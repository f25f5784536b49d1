"""Channels of a real Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run

pytest.importorskip("redis")

from wsproto_sip.adapters.asyncio.bus_redis import RedisBus
from wsproto_sip.adapters.asyncio.location_redis import RedisEngine
from wsproto_sip.adapters.asyncio.population import BusError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = needs_redis


@asynccontextmanager
async def bus(url: str) -> AsyncIterator[RedisBus]:
    engine = RedisEngine(url, prefix="test:")
    try:
        yield RedisBus(engine)
    finally:
        await engine.close()


def test_messages_reach_those_that_listen() -> None:
    async def scenario(url: str) -> None:
        async with bus(url) as one, bus(url) as two:
            messages = one.listen(["a", "b"])
            first = asyncio.ensure_future(anext(messages))
            while not await two._engine.client.publish("test:a", b"\xff"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await first == ("a", b"\xff")
            await two.publish("other", b"not for us")
            await two.publish("b", b"2")
            assert await anext(messages) == ("b", b"2")
            await messages.aclose()  # type: ignore[attr-defined]

    with redis_server() as redis:
        run(scenario(redis.url))


def test_wait_without_a_message_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_sip.adapters.asyncio.bus_redis._WAIT", 0.01)

    async def scenario(url: str) -> None:
        async with bus(url) as one:
            messages = one.listen(["a"])
            first = asyncio.ensure_future(anext(messages))
            await asyncio.wait([first], timeout=0.2)
            await one.publish("a", b"late")
            assert await first == ("a", b"late")
            await messages.aclose()  # type: ignore[attr-defined]

    with redis_server() as redis:
        run(scenario(redis.url))


def test_server_that_is_away_is_an_error() -> None:
    async def scenario(url: str) -> None:
        async with bus(url) as one:
            with pytest.raises(BusError):
                await one.publish("a", b"1")
            with pytest.raises(BusError):
                await anext(one.listen(["a"]))

    with redis_server() as redis:
        url = redis.url
    run(scenario(url))

"""Nodes that are cut off from each other, or from their clients, and from nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tests.adapters._sip import call, phone
from tests.peers._network import Network, needs_network, own_network
from tests.peers._nodes import population
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run
from tests.peers.test_nodes_store import calls, hang_up, mobile, reached, refused, talk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers._nodes import NodeProcess
    from tests.peers._redis import RedisServer

pytestmark = [needs_redis, needs_network]

#: What a test waits for that TCP has to notice, in seconds: nothing is acknowledged for 10 s.
NOTICED = 60.0
#: The nodes' addresses towards each other.
ONE, TWO = "127.0.0.11", "127.0.0.12"


def test_nodes_are_cut_off_from_each_other_alone(tmp_path: Path) -> None:
    async def scenario(network: Network, redis: RedisServer, one: str, two: str) -> None:
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(phone(one, "alice"))
            carol = await stack.enter_async_context(phone(one, "carol"))
            before = await stack.enter_async_context(mobile(two, 1))
            await reached(alice, before, 10.0)
            here, there = await call(alice, carol)
            network.drop(f"ip saddr {ONE} ip daddr {TWO}", f"ip saddr {TWO} ip daddr {ONE}")
            # The first one waits until TCP gives the connection up; both directions are told.
            assert (await refused(alice, "MESSAGE", before.aor, NOTICED)).status == 480
            invite = alice.send("INVITE", before.aor, body=b"v=0\r\n")
            async with asyncio.timeout(NOTICED):
                final = await alice.response()
            assert final.status == 480
            alice.follow("ACK", invite, to=str(final.to))
            assert (await refused(before, "MESSAGE", alice.aor, NOTICED)).status == 480
            # Within a node everything goes on: a call, a new one, and a registration.
            await talk(here, there)
            await calls(carol, alice)
            assert (await carol.register()).status == 200
            # The store has one owner of a binding, whichever node its client comes to.
            async with mobile(one, 2) as after:
                held = redis.run("HVALS", f"ws:{{{after.aor}}}")
                assert (held.count('"node":"one"'), held.count('"node":')) == (1, 1)
                await calls(alice, after)
                network.mend()
                async with phone(two, "dave") as dave:
                    await reached(alice, dave, NOTICED)
                    await calls(dave, after)
                    await talk(there, here)
                    await hang_up(there, here)
                # The end of the old connection does not count.
                await before.hang_up()
                await reached(carol, after, 10.0)

    with (
        own_network() as network,
        redis_server() as redis,
        population(redis, tmp_path, "one", "two", extra=("--drain-seconds", "0")) as (one, two),
    ):
        run(scenario(network, redis, one.url, two.url), 300)


def test_a_node_is_cut_off_from_clients_alone(tmp_path: Path) -> None:
    """A client returns to another node before the first one notices that it is gone."""

    async def scenario(network: Network, one: NodeProcess, two: NodeProcess) -> None:
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(phone(two.url, "alice"))
            carol = await stack.enter_async_context(phone(one.url, "carol"))
            before = await stack.enter_async_context(mobile(one.url, 1))
            await reached(alice, before, 10.0)
            port = one.service.address[1]
            network.drop(f"tcp dport {port}", f"tcp sport {port}")
            async with mobile(two.url, 2) as after:
                # Those that are back are called where they are.
                await calls(alice, after)
                # The others are not, until their connections end; then they are not registered.
                async with asyncio.timeout(NOTICED):
                    while (await refused(alice, "MESSAGE", carol.aor, NOTICED)).status != 480:
                        pass
                # The node has noticed its clients' silence. What has moved stays.
                await asyncio.to_thread(await_connections, one, 0)
                await calls(alice, after)
                network.mend()
                async with phone(one.url, "carol") as again:
                    await calls(alice, again)
                    await calls(again, after)

    keepalive = ("--keepalive-timeout", "2", "--keepalive-answer", "2", "--drain-seconds", "0")
    with (
        own_network() as network,
        redis_server() as redis,
        population(redis, tmp_path, "one", "two", extra=keepalive) as (one, two),
    ):
        run(scenario(network, one, two), 300)


def await_connections(node: NodeProcess, number: int) -> None:
    """Wait until a node has so many connections."""
    while node.service.call("ws.statistics")["ws_current_connections"] != number:
        pass

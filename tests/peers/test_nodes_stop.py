"""Nodes that stop, die and come back while others go on: real processes and a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from tests.adapters._sip import HOST, call, phone
from tests.cli._service import Service, launched, status_of
from tests.peers._nodes import DOMAIN, population
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run
from tests.peers.test_nodes_crowd import WIDE, Crowd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers._nodes import NodeProcess

pytestmark = needs_redis

#: Seconds that stop a scenario that hangs; processes start slowly on a busy machine.
HANGS = 300.0


@pytest.fixture
def processes(tmp_path: Path) -> tuple[str, ...]:
    """Return the options of a server of two processes, but for its store."""
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32 + "\n")
    keys.chmod(0o600)
    return (
        *("--processes", "2", "--sip-flow-keys", str(keys), "--sip-domain", DOMAIN),
        *("--node-name", "here", "--node-listen", f"{HOST}:0", "--no-page"),
    )


def test_node_that_stops_keeps_calls_until_they_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            phone(one.url, "alice") as alice,
            phone(two.url, "bob") as bob,
            phone(one.url, "carol") as carol,
        ):
            here, there = await call(alice, bob)
            one.begin_to_stop()
            # The idle one leaves, and there is no way in.
            assert await carol.ended() == 1001
            with pytest.raises((OSError, InvalidStatus)):
                async with phone(one.url, "dave"):
                    pass
            # What a caller hears of her.
            bob.send("INVITE", carol.aor)
            assert (await bob.response()).status in (404, 480)
            # The call goes on, in either direction.
            for dialog, other, own in ((there, alice, bob), (here, bob, alice)):
                dialog.send("INFO")
                other.answer(await other.request("INFO"), 200)
                await own.response(200)
            here.send("BYE")
            bob.answer(await bob.request("BYE"), 200)
            await alice.response(200)
            # Nothing is left to wait for.
            assert await alice.ended() == 1001

    with (
        redis_server() as redis,
        population(redis, tmp_path, "one", "two", extra=("--drain-seconds", "15")) as (one, two),
    ):
        run(scenario(), HANGS)
        one.await_end()
        assert one.service.process.returncode == 0
        assert redis.run("HKEYS", "ws:nodes").split()[-1] == "two"


def test_processes_of_one_machine_share_their_users(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    flags = (*processes, "--ctl-socket", str(tmp_path / "ctl"))

    async def scenario(url: str) -> None:
        async with AsyncExitStack() as stack:
            # The system shares eight of them out over both, but for one time in a hundred.
            phones = [
                await stack.enter_async_context(phone(url, f"user{number}")) for number in range(8)
            ]
            for caller, callee in zip(phones, phones[1:] + phones[:1], strict=True):
                here, _ = await call(caller, callee)
                here.send("BYE")
                callee.answer(await callee.request("BYE"), 200)
                await caller.response(200)

    with redis_server() as redis, launched("--store", redis.url, *flags) as service:
        assert status_of(service.url) == 101
        assert set(redis.run("HKEYS", "ws:nodes").split()[2::2]) == {"here/0", "here/1"}
        run(scenario(service.url), HANGS)
        service.stop()
        assert redis.run("HLEN", "ws:nodes") == ":0\r\n"


def test_processes_are_replaced_while_clients_connect(processes: tuple[str, ...]) -> None:
    """SIGUSR2: a client that is sent away, or meets a process that stops, is in at its next try."""
    flags = (*processes, "--log-format", "json", *WIDE)

    async def scenario(service: Service) -> None:
        crowd = Crowd([service], 12)
        async with crowd.living():
            await crowd.gathered(60)
            before = crowd.lives
            service.process.send_signal(signal.SIGUSR2)
            await asyncio.to_thread(await_event, service, "processes-restarted")
            # Both processes are others now, so that each connection is another one.
            await crowd.gathered(60, anew=before)
            for caller, callee in zip(
                crowd.members, crowd.members[1:] + crowd.members[:1], strict=True
            ):
                assert await caller.call(callee) == 200
        assert max(crowd.delivered.values()) == 1

    with redis_server() as redis, launched("--store", redis.url, *flags) as service:
        run(scenario(service), HANGS)
        service.stop()
        # Four runs had entries, and have taken them away.
        assert redis.run("HLEN", "ws:nodes") == ":0\r\n"


def await_event(service: Service, name: str) -> None:
    """Wait until a server of several processes writes an event to its log."""
    assert service.process.stderr is not None
    for line in service.process.stderr:
        if f'"event": "{name}"' in line or f'"event":"{name}"' in line:
            assert json.loads(line)["complete"] is True
            return
    raise AssertionError(f"no event {name}")


def test_node_that_is_killed_gets_no_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alice = await stack.enter_async_context(phone(one.url, "alice"))
            bob = await stack.enter_async_context(phone(two.url, "bob"))
            spare = await stack.enter_async_context(phone(one.url, "carol", q=";q=0.5"))
            await stack.enter_async_context(phone(two.url, "carol"))
            here, _ = await call(alice, bob)
            here.send("BYE")
            bob.answer(await bob.request("BYE"), 200)
            await alice.response(200)
            two.kill()
            # Before the store knows: the next binding, or a status that says why.
            here, _ = await call(alice, spare)
            here.send("BYE")
            spare.answer(await spare.request("BYE"), 200)
            await alice.response(200)
            invite = alice.send("INVITE", bob.aor)
            refused = await alice.response()
            assert refused.status == 480
            alice.follow("ACK", invite, to=str(refused.to))
            # He comes back elsewhere, with another binding beside the dead one.
            again = await stack.enter_async_context(phone(one.url, "bob"))
            here, _ = await call(alice, again)
            here.send("BYE")
            again.answer(await again.request("BYE"), 200)
            await alice.response(200)

    with redis_server() as redis, population(redis, tmp_path, "one", "two") as (one, two):
        run(scenario(), HANGS)
        # Its entry is not renewed, and the store forgets it within 16 s.
        deadline = time.monotonic() + 17
        while "two" in all_nodes(one):
            assert time.monotonic() < deadline
        two.start()
        # The others look once a second.
        while "two" not in all_nodes(one):
            assert time.monotonic() < deadline + 60


def test_nodes_restart_one_after_the_other_under_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        for stopped in nodes:
            others = [node for node in nodes if node is not stopped]
            async with (
                phone(others[0].url, "alice") as alice,
                phone(others[1].url, "bob") as bob,
                phone(stopped.url, "carol") as carol,
            ):
                here, there = await call(alice, bob)
                await asyncio.to_thread(stopped.stop)
                assert await carol.ended() == 1001
                for dialog, other, own in ((there, alice, bob), (here, bob, alice)):
                    dialog.send("INFO")
                    other.answer(await other.request("INFO"), 200)
                    await own.response(200)
                await asyncio.to_thread(stopped.start)
                while {node.name for node in nodes} != all_nodes(others[0]):  # noqa: ASYNC110
                    # The others look once a second.
                    await asyncio.sleep(0.05)
                async with phone(stopped.url, "carol") as carol:
                    other_call, _ = await call(carol, alice)
                    other_call.send("BYE")
                    alice.answer(await alice.request("BYE"), 200)
                    await carol.response(200)
                here.send("BYE")
                bob.answer(await bob.request("BYE"), 200)
                await alice.response(200)

    names = ("one", "two", "three")
    extra = ("--drain-seconds", "0.5")
    with redis_server() as redis, population(redis, tmp_path, *names, extra=extra) as nodes:
        run(scenario(), HANGS)


def all_nodes(asked: NodeProcess) -> set[str]:
    """Return the nodes that a node counts on."""
    found = asked.service.call("core.version", "all")
    return set(found)

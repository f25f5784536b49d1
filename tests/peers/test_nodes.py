"""Several ``serve`` processes that share a Redis: calls between them, and what fails."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.adapters._sip import HOST, SocketPhone, call, phone
from tests.cli._service import Service, launched
from tests.peers._redis import RedisServer, needs_redis, redis_server
from tests.peers._support import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_redis

DOMAIN = "sip.test"


@contextmanager
def nodes(
    redis: RedisServer, folder: Path, *names: str, extra: tuple[str, ...] = ()
) -> Iterator[list[Service]]:
    """Run nodes that share a store."""
    keys = folder / "keys"
    keys.write_text("ab" * 32 + "\n")
    keys.chmod(0o600)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                launched(
                    *("--store", redis.url, "--sip-flow-keys", str(keys)),
                    *("--node-name", name, "--node-listen", f"{HOST}:0"),
                    *("--sip-domain", DOMAIN, *extra),
                )
            )
            for name in names
        ]


async def gone(alice: SocketPhone, bob: SocketPhone) -> None:
    """Call, talk and hang up, with a request from each side."""
    here, there = await call(alice, bob)
    there.send("INFO")
    alice.answer(await alice.request("INFO"), 200)
    await bob.response(200)
    here.send("BYE")
    bob.answer(await bob.request("BYE"), 200)
    await alice.response(200)


def test_telephones_at_two_nodes_call_each_other(tmp_path: Path) -> None:
    async def scenario(one: str, two: str) -> None:
        async with phone(one, "alice") as alice, phone(two, "bob") as bob:
            await gone(alice, bob)
            await gone(bob, alice)
            assert (await bob.register(expires=0)).status == 200
            alice.send("MESSAGE", bob.aor)
            assert (await alice.response()).status in (404, 480)

    with redis_server() as redis, nodes(redis, tmp_path, "one", "two") as (one, two):
        run(scenario(one.url, two.url))
        for service in (one, two):
            out, err = service.stop()
            print(service.announced, out, err)

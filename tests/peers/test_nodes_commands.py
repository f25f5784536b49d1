"""Commands across nodes: real processes and a real Redis."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from tests.adapters._sip import phone
from tests.peers._nodes import population
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers._nodes import NodeProcess

pytestmark = needs_redis


def all_of(node: NodeProcess, name: str, *params: object) -> Any:
    """Execute a command for all nodes, once the node knows both."""
    while True:
        found = node.service.call(name, "all", *params)
        if name != "ws.statistics" or found["nodes"] == 2:
            return found


def await_state(node: NodeProcess, state: str) -> None:
    """Wait until a node shows the state of the other one."""
    while state not in [each["state"] for each in node.service.call("ws.nodes")["nodes"]]:
        pass


def test_nodes_are_managed_from_any_of_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with phone(one.url, "alice") as alice, phone(two.url, "bob") as bob:
            assert all_of(one, "ws.statistics")["ws_current_connections"] == 2
            dump = all_of(one, "ws.dump", "limit=1")
            assert dump["info"] == {"wscounter": 1, "truncated": "yes", "next": "one/1"}
            dump = all_of(one, "ws.dump", "after=one/1")
            assert dump["connections"][0].startswith("two/1: ws:127.0.0.1:")
            code, out, _ = one.service.ctl("ul.dump", "all")
            assert code == 0
            assert {line.split()[0]: line.split()[-1] for line in out.splitlines()[1:]} == {
                alice.aor: "one/1",
                bob.aor: "two/1",
            }
            # An address is found, and removed, wherever its client is.
            code, _, err = one.service.ctl("ul.lookup", bob.aor)
            assert (code, "at this node; all as the first parameter" in err) == (1, True)
            code, out, _ = one.service.ctl("ul.lookup", "all", bob.aor)
            assert (code, out.splitlines()[1].split()[-1]) == (0, "two/1")
            assert one.service.call("ul.rm", "all", bob.aor) == {"two": "done"}
            assert one.service.call("ul.rm", "all", bob.aor)["message"] == "Failed to delete AOR"
            assert all_of(one, "ul.dump")["Domains"][0]["Domain"]["Stats"]["Records"] == 1
            assert (await bob.register()).status == 200
            code, out, _ = one.service.ctl("ws.nodes")
            assert [line.split()[0] for line in out.splitlines()] == ["NODE", "one", "two", "The"]
            assert "The store answers; outages 0, waiting 0, errands 0" in out
            code, out, _ = two.service.ctl("top", "all")
            assert (code, "2 registered" in out) == (0, True)
            assert one.service.call("ws.close", "two/1", "4001", "away") == {}
            assert await bob.ended() == 4001
            assert one.service.call("ws.close", "two/9")["message"] == "Unknown connection ID"
            assert one.service.call("ws.close", "three/1")["message"] == "No such node"
            assert two.service.call("ws.disable", "all") == {"one": "done", "two": "done"}
            code, out, _ = two.service.ctl("core.uptime", "all")
            assert out.split()[:2] == ["NODE", "UPTIME"]
            assert [line.split()[0] for line in out.splitlines()[1:]] == ["one", "two"]
            # The last of all, as nothing connects afterwards.
            assert one.service.call("drain", "all", "0") == {"one": "done", "two": "done"}
            assert await alice.ended() == 1001

    with redis_server() as redis, population(redis, tmp_path, "one", "two") as (one, two):
        run(scenario())
        assert one.service.status() == two.service.status() == 503
        # Killed, it is out of reach until its entry ends; back, it is as before.
        two.kill()
        await_state(one, "out of reach")
        two.start()
        await_state(one, "running")
        # Paused, it is not missing in silence.
        two.service.process.send_signal(signal.SIGSTOP)
        assert one.service.call("ws.statistics", "all")["silent"] == "two"
        two.service.process.send_signal(signal.SIGCONT)

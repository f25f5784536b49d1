"""The commands of the page "Scale out": from nothing to a call between two nodes."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests._fences import DOCS, ROOT, commands
from tests.adapters._sip import HOST, call, phone
from tests.cli._service import launched
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = DOCS / "howto" / "scale-out.md"
DOMAIN = "phone.example"


def steps(program: str) -> list[list[str]]:
    """Return the page's commands of a program, in order, as words."""
    return [words for fence, words in commands() if fence.page == PAGE and words[0] == program]


@needs_redis
def test_two_nodes_from_nothing(tmp_path: Path) -> None:
    start = steps("redis-server")[0]
    # The page's server listens at the usual port, and goes on.
    assert start[:3] == ["redis-server", "--port", "6379"]
    assert start[-2:] == ["--daemonize", "yes"]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    makes_keys = next(line for line in lines if line.startswith("openssl "))
    subprocess.run(["bash", "-c", makes_keys], cwd=tmp_path, check=True)
    keys = tmp_path / "flow-keys"
    assert keys.stat().st_mode & 0o077 == 0

    async def scenario(*urls: str) -> None:
        async with (
            phone(urls[0], "alice", domain=DOMAIN) as alice,
            phone(urls[1], "bob", domain=DOMAIN) as bob,
        ):
            here, _ = await call(alice, bob)
            here.send("BYE")
            bob.answer(await bob.request("BYE"), 200)
            await alice.response(200)

    with redis_server(*start[3:-2]) as redis, ExitStack() as stack:
        services = []
        for words in steps("wsproto-sip")[:2]:
            options = dict(zip(words[2::2], words[3::2], strict=True))
            assert options["--store"] == "redis://127.0.0.1:6379"
            options |= {"--port": "0", "--store": redis.url, "--node-listen": f"{HOST}:0"}
            options["--sip-flow-keys"] = str(tmp_path / options["--sip-flow-keys"])
            arguments = [word for option in options.items() for word in option]
            services.append(stack.enter_context(launched(*arguments)))
        run(scenario(*[service.url for service in services]))


def test_page_names_metrics_that_exist() -> None:
    named = set(re.findall(r"`((?:wsproto_sip|msrp)_\w+)`", PAGE.read_text(encoding="utf-8")))
    modules = [*ROOT.joinpath("wsproto_sip").rglob("*.py")]
    sources = "".join(module.read_text(encoding="utf-8") for module in modules)
    assert len(named) >= 10
    assert [name for name in named if f'"{name}"' not in sources] == []


def test_dashboard_shows_what_is_to_be_watched() -> None:
    text = PAGE.read_text(encoding="utf-8")
    watched = text.partition("## What to watch\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(wsproto_sip_\w+)`", watched, re.MULTILINE))
    assert len(named) >= 8
    dashboard = ROOT.joinpath("deploy", "grafana", "wsproto-sip.json").read_text(encoding="utf-8")
    assert [name for name in named if name not in dashboard] == []

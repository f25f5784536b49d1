"""What docs/howto/users.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.sip._phones import World

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "users.md"


def example(containing: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found


def test_a_source_answers(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example("class Directory"), PAGE.name, "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert "name='alice'" in first
    assert "wonderland" not in first


def test_the_hook_works_as_documented() -> None:
    names: dict[str, Any] = {"__name__": "hook"}
    exec(compile(example("def hook"), PAGE.name, "exec", dont_inherit=True), names)
    world = World(hook=names["hook"])
    alice, bob = world.phone("alice"), world.phone("bob")
    alice.send("MESSAGE", bob.aor)
    alice.response(403)
    connection = world.edge._connections.get(alice.cid)
    assert connection is not None
    connection.proven.add("alice")
    alice.send("MESSAGE", "sip:support@sip.test")
    assert bob.request("MESSAGE").get("x-called") == "support"
    alice.send("MESSAGE", bob.aor, ("X-Debug", "1"))
    assert "x-debug" not in bob.request("MESSAGE")
    assert world.failures == []

"""``--sip-hook``: a function of the operator's decides about SIP requests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.adapters._sip import phone
from tests.peers._support import run
from wsproto_sip.cli.serve.settings import SettingsError
from wsproto_sip.cli.serve.sip_hook import sip_hook

from .._service import launched

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "users.md"

LATE = """
import asyncio
from wsproto_sip.sip import Proceed, Refuse

async def decide(asked):
    await asyncio.sleep(0)
    if asked.request.method == "OPTIONS":
        raise RuntimeError("broken")
    if asked.request.method == "MESSAGE":
        return Refuse(486) if asked.request.body == b"no" else Proceed(add=[("X-Late", "1")])

class Decider:
    async def __call__(self, asked):
        return await decide(asked)

decider = Decider()
number = 7
"""


def example() -> str:
    blocks: list[str] = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return next(block for block in blocks if "def hook" in block)


def test_the_example_of_the_page_decides(tmp_path: Path) -> None:
    (tmp_path / "decisions.py").write_text(example())
    users = tmp_path / "users"
    users.write_text("alice:wonderland\nbob:builder\n")
    users.chmod(0o600)

    async def scenario(url: str) -> None:
        async with (
            phone(url, "alice", password="wonderland") as alice,
            phone(url, "bob", password="builder") as bob,
        ):
            alice.send("MESSAGE", "sip:support@sip.test", ("X-Debug", "1"))
            assert (await bob.request("MESSAGE")).get("x-called") == "support"
            alice.send("MESSAGE", bob.aor, ("X-Debug", "1"))
            assert "x-debug" not in await bob.request("MESSAGE")

    flags = ["--sip-domain", "sip.test", "--sip-users", str(users), "--auth-realm", "sip.test"]
    path = {"PYTHONPATH": str(tmp_path)}
    with launched("--sip-hook", "decisions:hook", *flags, environment=path) as service:
        run(scenario(service.url))
        out, err = service.stop()
    assert (out, err) == ("", [])


@pytest.mark.parametrize("name", ["decide", "decider"])
def test_an_async_function_decides_later_and_may_fail(tmp_path: Path, name: str) -> None:
    (tmp_path / "late_decisions.py").write_text(LATE)
    path = {"PYTHONPATH": str(tmp_path)}

    async def scenario(url: str) -> None:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            alice.send("MESSAGE", bob.aor, body=b"yes")
            assert (await bob.request("MESSAGE")).get("x-late") == "1"
            alice.send("MESSAGE", bob.aor, body=b"no")
            await alice.response(486)
            alice.send("OPTIONS", bob.aor)
            await alice.response(500)
            alice.send("MESSAGE", bob.aor, body=b"yes")
            await bob.request("MESSAGE")

    with launched("--sip-hook", f"late_decisions:{name}", environment=path) as service:
        run(scenario(service.url))
        _, err = service.stop()
    assert any("RuntimeError: broken" in line for line in err)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("nowhere", "'nowhere' is not MODULE:FUNCTION"),
        (":f", "':f' is not MODULE:FUNCTION"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("late_decisions:nothing", "AttributeError: "),
        ("late_decisions:number", "late_decisions:number is not a function"),
    ],
)
def test_a_value_other_than_a_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    (tmp_path / "late_decisions.py").write_text(LATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "late_decisions", raising=False)
    with pytest.raises(SettingsError, match=f"^--sip-hook: .*{re.escape(reason)}"):
        sip_hook(word)
    assert sip_hook(None) == (None, None)

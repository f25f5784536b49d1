"""The process of a hook, by itself: what it is told and what it answers."""

from __future__ import annotations

import subprocess
import sys


def answers(name: str, *lines: str) -> tuple[int, list[str], str]:
    """Exit code, answers, and what else was said."""
    done = subprocess.run(
        [sys.executable, "-m", "wsproto_sip.cli.serve._hook", name],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_each_event_is_answered() -> None:
    code, said, other = answers("builtins:print", '{"event": "opened"}', "{", '{"event": "closed"}')
    assert (code, said[0], said[1], said[3]) == (0, "ok", "ok", "ok")
    assert said[2].startswith("failed JSONDecodeError: ")
    assert other == "{'event': 'opened'}\n{'event': 'closed'}\n"


def test_a_value_that_is_not_callable_is_reported_at_once() -> None:
    code, said, _ = answers("sys:maxsize")
    assert (code, said) == (1, ["TypeError: sys:maxsize cannot be called"])
    code, said, _ = answers("json:no.thing")
    assert (code, said[0].startswith("AttributeError: ")) == (1, True)

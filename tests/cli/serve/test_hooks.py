"""Hooks that do what they should, and hooks that wait, raise, exit and crash."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest

from tests.adapters._sip import Core, phone
from tests.peers._support import run
from wsproto_sip.cli.serve.hooks import EventHook, EventHookError

from .._service import Service, launched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[[], list[dict[str, object]]]

HOOK = """\
import json, os, sys, time

def write(event):
    print("what a hook prints is not an answer")
    with open({path!r}, "a") as file:
        print(json.dumps(event), file=file)

def fail(event):
    write(event)
    raise RuntimeError("not\\nthis one")

def leave(event):
    write(event)
    sys.exit(3)

def crash(event):
    write(event)
    os._exit(4)

def wait(event):
    write(event)
    time.sleep(1000)

number = 7
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Return the events that the hooks of a module recorded."""
    path = tmp_path / "events"
    (tmp_path / "their_hooks.py").write_text(HOOK.format(path=str(path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def read() -> list[dict[str, object]]:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def finished(hook: EventHook) -> None:
    """Wait until it is idle."""
    with hook._change:
        assert hook._change.wait_for(lambda: not (hook._waiting or hook._busy), 30)


def started(**options: object) -> EventHook:
    hook = EventHook(pauses=(0.0, 0.0), **options)  # type: ignore[arg-type]
    hook.start()
    return hook


def test_a_function_gets_events(written: Written) -> None:
    hook = started(function="their_hooks:write")
    for number in range(3):
        hook("ws", "opened", {"connection": number})
    finished(hook)
    hook.close()
    events = written()
    assert [event.pop("time") is not None for event in events] == [True] * 3
    assert events == [
        {"area": "ws", "event": "opened", "connection": number} for number in range(3)
    ]
    assert (hook.told, hook.failed, hook.dropped, hook.waiting) == (3, 0, 0, 0)
    hook("ws", "opened", {})
    assert hook.dropped == 1


def test_a_command_is_started(tmp_path: Path) -> None:
    path = tmp_path / "events"
    hook = started(command=["sh", "-c", f"cat >> {path}"])
    hook("sip", "registered", {"aor": "sip:alice@sip.test"})
    finished(hook)
    hook.close()
    event = json.loads(path.read_text())
    assert (event["area"], event["aor"]) == ("sip", "sip:alice@sip.test")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fail", "RuntimeError: not this one"),
        ("leave", "it has ended"),
        ("crash", "it has ended"),
        ("wait", "no answer in 3.5 s"),
    ],
)
def test_whatever_a_function_does_it_gets_the_next_event(
    written: Written,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
) -> None:
    monkeypatch.setattr(logging.getLogger("wsproto_sip"), "propagate", True)
    # Time to begin, and then less of it.
    hook = EventHook(function=f"their_hooks:{name}", pauses=(0.0, 0.0))
    hook.start()
    if name == "wait":
        hook._target._patience = 3.5
    with caplog.at_level(logging.WARNING, "wsproto_sip"):
        hook("ws", "opened", {"connection": 1})
        finished(hook)
        hook._target._patience = 10.0
        if name != "wait":
            hook("ws", "closed", {"connection": 1})
            finished(hook)
    hook.close()
    assert len(written()) == hook.failed == (1 if name == "wait" else 2)
    assert hook.told == 0
    assert reason in caplog.messages[0] or reason.replace(" ", "") in caplog.messages[0]
    assert caplog.messages[0].startswith("hook-failed of=opened reason=")


def test_a_command_that_fails_or_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    for words, patience in ((["false"], 10.0), (["sleep", "1000"], 0.2)):
        hook = started(command=words, patience=patience)
        hook("ws", "opened", {})
        finished(hook)
        hook.close()
        assert hook.failed == 1
    hook = EventHook(command=["/nowhere/program"])
    with pytest.raises(EventHookError, match="no such program: /nowhere/program"):
        hook.start()
    with pytest.raises(EventHookError, match="No such file"):
        hook._target.tell("{}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("their_hooks:nothing", "AttributeError"),
        ("their_hooks:number", "cannot be called"),
        ("no_such_module:f", "ModuleNotFoundError"),
    ],
)
@pytest.mark.usefixtures("written")
def test_a_missing_function_is_refused(name: str, reason: str) -> None:
    with pytest.raises(EventHookError, match=reason):
        EventHook(function=name).start()


def test_events_beyond_the_queue_are_dropped_and_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("wsproto_sip"), "propagate", True)
    hook = EventHook(command=[sys.executable, "-c", ""], capacity=2)
    for _ in range(5):
        hook("ws", "opened", {})
    assert (hook.waiting, hook.dropped) == (2, 3)
    with caplog.at_level(logging.WARNING, "wsproto_sip"):
        hook.start()
        finished(hook)
    hook.close()
    assert caplog.messages == ["hook-dropped events=3"]


# -- of a server -----------------------------------------------------------------------------------


def test_state_of_upstreams(written: Written) -> None:
    core = Core("udp")
    name = f"sip:127.0.0.1:{core.port}"

    async def until_told(service: Service, event: str) -> str:
        assert service.process.stderr is not None
        while True:
            line: str = await asyncio.to_thread(service.process.stderr.readline)
            assert line
            if f" {event} " in line:
                return line

    async def scenario(service: Service) -> None:
        async with phone(service.url, "alice", registers=False) as alice:
            # The only upstream is not probed while nothing is wrong.
            alice.send("MESSAGE", "sip:core@sip.test", body=b"hello")
            await alice.response(503)
        line = await until_told(service, "upstream-down")
        assert f"upstream={name} reason=" in line
        async with core.datagrams():
            line = await until_told(service, "upstream-up")
            assert f"upstream={name} reason=" in line

    options = ("--upstream", name, "--upstream-local", f"127.0.0.1:{core.upstream.local_port}")
    probing = ("--upstream-probe-seconds", "1")
    with launched("--event-hook", "their_hooks:write", *options, *probing) as service:
        run(scenario(service))
        service.stop()
    down, up, *_ = [event for event in written() if event["area"] == "sip"]
    assert (down["event"], up["event"]) == ("upstream-down", "upstream-up")
    assert down["upstream"] == up["upstream"] == name
    assert "refused" in str(down["reason"])


@pytest.mark.parametrize("name", ["write", "fail", "leave", "crash", "wait"])
def test_a_server_serves_whatever_its_hook_does(
    written: Written, tmp_path: Path, name: str
) -> None:
    with launched("--event-hook", f"their_hooks:{name}") as service:
        for _ in range(3):
            with service.dial() as client:
                client.send("hello")
                assert client.recv() == "hello"
        _, err = service.stop()
        assert service.process.returncode == 0
    events = written()
    assert events[0]["event"] == "opened"
    if name == "write":
        assert sorted(str(event["event"]) for event in events) == ["closed"] * 3 + ["opened"] * 3
        closed = next(event for event in events if event["event"] == "closed")
        assert closed["peer"].startswith("127.0.0.1:")  # type: ignore[attr-defined]
        assert (closed["code"], closed["cause"]) == (1000, "remote")
        assert [line for line in err if "hook" in line and "what a hook prints" not in line] == []
    elif name != "wait":
        assert any("hook-failed of=opened" in line for line in err)

"""Fewer descriptors than the limits need."""

from __future__ import annotations

import resource
import shlex
import subprocess
from dataclasses import replace

import pytest

from tests.cli._service import COMMAND, HANGS, ROOT
from wsproto_sip.cli.serve import descriptors
from wsproto_sip.cli.serve.descriptors import Room, make_room, room_within
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import within_descriptors


@pytest.mark.parametrize(
    ("allowed", "room"),
    [
        (11_128, Room(10_000, 1000, 11_128, lowered=False)),
        (1 << 20, Room(10_000, 1000, 11_128, lowered=False)),
        (11_127, Room(9999, 1000, 11_127, lowered=True)),
        (1024, Room(672, 224, 1024, lowered=True)),
        (130, Room(1, 1, 130, lowered=True)),
    ],
)
def test_limits_are_lowered_to_the_available_descriptors(allowed: int, room: Room) -> None:
    assert room_within(allowed, 10_000, 1000) == room
    assert room.connections + room.handshakes + 128 <= allowed


def test_too_few_for_a_server() -> None:
    with pytest.raises(ValueError, match=r"allows 129 open files .* needs 130 at least"):
        room_within(129, 10, 10)


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "got"),
    [
        (1 << 30, 1 << 30, [], 11_128),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, [], 11_128),
        (1024, resource.RLIM_INFINITY, [(11_128, resource.RLIM_INFINITY)], 11_128),
        (1024, 1 << 30, [(11_128, 1 << 30)], 11_128),
        (1024, 4096, [(11_128, 11_128), (4096, 4096)], 4096),
    ],
)
def test_the_limit_of_the_process_is_raised_as_far_as_allowed(
    soft: int,
    hard: int,
    asked: list[tuple[int, int]],
    got: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def set_limits(_: int, limits: tuple[int, int]) -> None:
        tried.append(limits)
        if limits[1] > hard >= 0:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    assert make_room(10_000, 1000).descriptors == got
    assert tried == asked


def test_a_limit_that_cannot_be_raised_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1 << 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert make_room(10_000, 1000).descriptors == 1024


def started(limit: str, *arguments: str) -> tuple[str, str]:
    """Return the output of a server that a shell starts, until it is stopped."""
    serve = shlex.join([*COMMAND, "serve", "--port", "0", *arguments])
    command = f"ulimit {limit} && exec {serve}"
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        process.terminate()
        return "".join(lines), process.communicate(timeout=HANGS)[1]


def test_a_soft_limit_of_the_shell_is_raised() -> None:
    out, err = started("-S -n 200", "--max-connections", "300", "--max-handshakes", "20")
    assert "Up to 300 connections and 20 opening handshakes at a time\n" in out
    assert err == ""


def test_lowered_limits_are_reported_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_raised_to", lambda _: 1024)
    settings, notes = within_descriptors(Settings())
    assert (settings.max_connections, settings.max_handshakes) == (672, 224)
    [note] = notes
    assert note.startswith("the system allows 1024 open files (ulimit -n), too few for 10000 ")
    assert note.endswith("opening handshakes: there will be 672 and 224 at most")
    assert within_descriptors(replace(Settings(), max_connections=600))[0].max_connections == 600
    small = replace(Settings(), max_connections=10, max_handshakes=10)
    assert within_descriptors(small) == (small, [])
    monkeypatch.setattr(descriptors, "_raised_to", lambda _: 100)
    with pytest.raises(SettingsError, match=r"--max-connections: the system allows 100 open files"):
        within_descriptors(small)

"""The management command of a relay."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.msrp.relay.commands import add_msrp_commands
from wsproto_sip.server.management.commands import ApplicationCommand, CommandTable, TreeResult

from .._relay import USERS, World

USERNAMES = list(USERS)[:2]


def result(world: World, *params: object) -> Any:
    commands = CommandTable()
    add_msrp_commands(commands, world.relay)
    command = commands.parse("msrp.sessions", params)
    assert isinstance(command, ApplicationCommand)
    found = command.execute(world.now)
    assert isinstance(found, TreeResult)
    return found.value


def test_sessions_are_shown_without_their_secrets() -> None:
    world = World()
    client = world.client(1, "alice", expires=600)
    world.now += 10
    shown = result(world)
    assert shown["info"] == {"count": 1, "truncated": "no"}
    [session] = shown["sessions"]
    assert (session["user"], session["connection"], session["expires"]) == ("alice", 1, 590)
    assert session["path"] == str(client.uri)
    assert session["pending"] == 0
    # 22 characters are the secret.
    assert session["session"] == f"…{(client.session.session_id or '')[-6:]}"


def test_sessions_are_shown_in_pages() -> None:
    world = World()
    for number, user in enumerate(USERNAMES, 1):
        world.client(number, user)
    shown = result(world, "limit=1")
    assert [session["user"] for session in shown["sessions"]] == USERNAMES[:1]
    assert shown["info"] == {"count": 2, "truncated": "yes", "next": 1}
    shown = result(world, "offset=1")
    assert [session["user"] for session in shown["sessions"]] == USERNAMES[1:]


def test_command_is_added_once() -> None:
    world, commands = World(), CommandTable()
    add_msrp_commands(commands, world.relay)
    with pytest.raises(ValueError, match="already exists"):
        add_msrp_commands(commands, world.relay)

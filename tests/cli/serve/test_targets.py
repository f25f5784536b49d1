"""Where ``ws.connect`` may go."""

from __future__ import annotations

import pytest

from wsproto_sip.cli.serve.targets import TargetList, target_check
from wsproto_sip.server.management.commands import (
    CommandError,
    ConnectCommand,
    EnableCommand,
)


@pytest.mark.parametrize(
    ("entries", "target", "allowed"),
    [
        ([], "ws://127.0.0.1:6379/", False),
        (["any"], "ws://127.0.0.1:6379/", True),
        (["peer.example"], "ws://peer.example/a?b", True),
        (["peer.example"], "wss://PEER.example:443/", True),
        (["peer.example"], "ws://peer.example:443/", False),
        (["peer.example:8080"], "ws://peer.example:8080/", True),
        (["peer.example:8080"], "ws://peer.example/", False),
        (["peer.example"], "ws://peer.example.evil.example/", False),
        (["[::1]:9"], "wss://[::1]:9/", True),
    ],
)
def test_only_listed_targets_are_allowed(entries: list[str], target: str, allowed: bool) -> None:
    assert TargetList(entries).allows(target) == allowed


def test_an_entry_that_is_not_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="port"):
        TargetList(["a:b"])


def test_a_command_for_another_target_is_refused_and_others_pass() -> None:
    check = target_check(lambda: TargetList(["a.example"]))
    for command in (EnableCommand(), ConnectCommand("ws://a.example/"), ConnectCommand("http://x")):
        check(command)
    with pytest.raises(CommandError, match="the target is not in --connect-allow"):
        check(ConnectCommand("ws://b.example/"))

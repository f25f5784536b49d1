"""What is told to systemd, and what it passes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli.serve.systemd import Notifier, take_inherited

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is Linux's")

OWN = str(os.getpid())


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_PID": OWN},
        {"LISTEN_PID": OWN, "LISTEN_FDS": "many"},
        {"LISTEN_PID": OWN, "LISTEN_FDS": "-1"},
        {"LISTEN_PID": OWN, "LISTEN_FDS": "0"},
    ],
)
def test_no_sockets_are_inherited(variables: dict[str, str]) -> None:
    environment = {"PATH": "/bin", **variables}
    assert take_inherited(environment) == []
    assert environment == {"PATH": "/bin"}


def test_descriptors_are_taken_with_their_names_and_not_handed_on() -> None:
    """In a process of its own: descriptor 3 of this one may be in use."""
    code = """
import os, socket
from wsproto_sip.cli.serve.systemd import take_inherited
sock = socket.socket()
while (fd := os.dup(sock.fileno())) < 5:
    pass
for number in (3, 4, 5):
    os.dup2(fd, number)
environment = {
    "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "public:",
}
print(take_inherited(environment), environment, [os.get_inheritable(n) for n in (3, 4, 5)])
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[('public', 3), ('', 4), ('', 5)] {} [False, False, False]\n"


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified(tmp_path: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("the abstract namespace is Linux's")
    place = f"@wsproto-sip-{OWN}-{time.monotonic_ns()}" if abstract else str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind("\0" + place[1:] if abstract else place)
        environment = {"NOTIFY_SOCKET": place, "A": "b"}
        notifier = Notifier(environment)
        assert environment == {"A": "b"}
        notifier.ready("Listening on ws://h:1/")
        assert manager.recv(1024) == b"READY=1\nSTATUS=Listening on ws://h:1/"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        told = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.recv(1024))
        assert told is not None
        assert before <= int(told[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.stopping(2.5, "Going")
        assert manager.recv(1024) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000\nSTATUS=Going"
        notifier.alive()
        assert manager.recv(1024) == b"WATCHDOG=1"


@pytest.mark.parametrize("place", ["", "relative", "/nowhere/notify"])
def test_notifications_without_a_listener_are_skipped(place: str) -> None:
    Notifier({"NOTIFY_SOCKET": place}).alive()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OWN}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog(variables: dict[str, str], seconds: float | None) -> None:
    environment = dict(variables)
    assert Notifier(environment).watchdog == seconds
    assert environment == {}

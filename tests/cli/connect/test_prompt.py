"""The prompt, at a terminal: editing, history, and what comes in above it."""

from __future__ import annotations

import contextlib
import signal
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed

from ..conftest import HANGS
from ._terminal import READY, Terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from websockets.sync.server import ServerConnection

    Peer = Callable[..., str]
    Server = tuple[str, subprocess.Popen[bytes]]

pytest.importorskip("prompt_toolkit")

UP, LEFT = "\x1b[A", "\x1b[D"


def test_lines_are_edited_and_remembered(shared: Server) -> None:
    with Terminal("connect", shared[0]) as terminal:
        terminal.wait_for_prompt("connected, sub-protocol none")
        terminal.type(f"hllo{LEFT * 3}e\r")
        terminal.wait_for_prompt("< hello")
        terminal.type(f"{UP} again\r")
        terminal.wait_for_prompt("< hello again")
        terminal.type("\x04")
        terminal.wait_for("closed: 1000")
        assert terminal.ended() == 0
        assert "\x1b[36m< hello\x1b[m" in terminal.shown


def test_received_messages_do_not_disturb_the_input_line(peer: Peer) -> None:
    go = threading.Event()
    received: list[str | bytes] = []

    def handler(websocket: ServerConnection) -> None:
        assert go.wait(HANGS)
        websocket.send("news\x1b[2J")
        received.append(websocket.recv())

    with Terminal("connect", peer(handler)) as terminal:
        terminal.wait_for_prompt("connected")
        terminal.type("half-a-")
        terminal.wait_for("half-a-")
        go.set()
        terminal.wait_for("< news\\x1b[2J")
        # The prompt is drawn again below it, with what was written.
        terminal.wait_for("half-a-")
        terminal.type("line\r")
        terminal.wait_for("closed: 1000")
        assert terminal.ended() == 0
    assert received == ["half-a-line"]


def test_commands_and_completion(peer: Peer, tmp_path: Path) -> None:
    received: list[object] = []
    (tmp_path / "message.txt").write_text("of a file")

    def handler(websocket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            received.extend(websocket)
        received.append((websocket.close_code, websocket.close_reason))

    with Terminal("connect", peer(handler)) as terminal:
        terminal.wait_for_prompt("connected")
        terminal.type("/pi\t")
        terminal.wait_for("/ping")
        terminal.type(" here\r")
        terminal.wait_for("pong (4 bytes) 68 65 72 65")
        terminal.wait_for_prompt("round trip")
        terminal.type(f"/text @{tmp_path}/mess\t")
        terminal.wait_for("message.txt")
        terminal.type("\r/binary 00ff\r//x\r/colse\r")
        terminal.wait_for_prompt("/colse: no such command; did you mean /close?")
        terminal.type("/close 4000 enough\r")
        terminal.wait_for("closed: 4000")
        assert terminal.ended() == 1
    assert received == ["of a file", b"\x00\xff", "/x", (4000, "enough")]


def test_ctrl_c_and_a_signal_close(peer: Peer) -> None:
    for interrupt in ("\x03", signal.SIGINT):
        codes: list[int | None] = []

        def handler(websocket: ServerConnection, codes: list[int | None] = codes) -> None:
            assert list(websocket) == []
            codes.append(websocket.close_code)

        with Terminal("connect", peer(handler)) as terminal:
            terminal.wait_for_prompt("connected")
            if isinstance(interrupt, str):
                terminal.type(interrupt)
            else:
                terminal.process.send_signal(interrupt)
            terminal.wait_for("closed: 1000")
            assert terminal.ended() == 0
        assert codes == [1000]


def test_history_in_a_file_of_its_user(shared: Server, tmp_path: Path) -> None:
    path = tmp_path / "history"
    for keys, expected in (("first\r", "< first"), (f"{UP}!\r", "< first!")):
        with Terminal("connect", "--history", str(path), shared[0]) as terminal:
            terminal.wait_for_prompt("connected")
            terminal.type(keys)
            terminal.wait_for_prompt(expected)
            terminal.type("\x04")
            assert terminal.ended() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_unwritable_history_is_refused(shared: Server, tmp_path: Path) -> None:
    with Terminal("connect", "--history", str(tmp_path), shared[0]) as terminal:
        terminal.wait_for(f"--history '{tmp_path}': Is a directory")
        assert terminal.ended() == 2


def test_without_prompt_toolkit_the_terminal_edits(shared: Server, tmp_path: Path) -> None:
    package = tmp_path / "prompt_toolkit"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with Terminal("connect", shared[0], environment=environment) as terminal:
        terminal.wait_for("connected")
        terminal.type("/ping x\n")
        terminal.wait_for("round trip")
        terminal.type("hello\n")
        terminal.wait_for("< hello")
        terminal.type("\x04")
        terminal.wait_for("closed: 1000")
        assert terminal.ended() == 0
        assert "> " not in terminal.plain


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_colours_can_be_switched_off(shared: Server, variable: str) -> None:
    with Terminal("connect", shared[0], environment={variable: "dumb"}) as terminal:
        terminal.wait_for("connected")
        if variable == "NO_COLOR":
            terminal.wait_for(READY)
        terminal.type("hello\n")
        terminal.wait_for("< hello")
        terminal.type("/close\n")
        assert terminal.ended() == 0
        assert "\x1b[36m" not in terminal.shown
        # A terminal that cannot move its cursor has no prompt.
        assert (READY in terminal.plain) is (variable == "NO_COLOR")


def test_standard_error_in_a_file_stays_there(shared: Server, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        arguments = ("connect", "--show", shared[0])
        with Terminal(*arguments, stderr=file.fileno()) as terminal:
            terminal.wait_for(">")
            terminal.type("hello\r")
            terminal.wait_for_prompt("< hello")
            terminal.type("\x04")
            assert terminal.ended() == 0
            assert "->" not in terminal.shown
    log = path.read_text()
    assert log.startswith("-> GET / HTTP/1.1\n")
    assert "-- closed: 1000\n" in log
    assert "\x1b" not in log

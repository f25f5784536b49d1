"""The live view of a server."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.cli._top import Sample, frame, run_top, take_sample

from ._service import COMMAND, HANGS, ROOT, launched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LINE = "7: ws:192.0.2.1:4711 -> ws:[::1]:80 (state: OPEN,  last used 1s ago, sub-protocol: sip)"
DUMP = {"connections": [LINE], "info": {"wscounter": 1, "truncated": "no"}}


class Missing(Exception):
    """The server does not have it."""


def answers(**counters: float) -> Any:
    """Return a server without MSRP."""

    def ask(name: str, params: Sequence[str]) -> Any:
        match name:
            case "core.uptime":
                return {"uptime": 3725}
            case "ws.statistics":
                return counters
            case "ws.dump":
                assert params == ["used_asc", "limit=10"]
                return DUMP
            case "ul.dump":
                return {"Domains": [{"Domain": {"Stats": {"Records": 4}}}]}
            case "tm.list":
                return [{}, {}]
        raise Missing

    return ask


def test_a_sample() -> None:
    sample = take_sample(answers(a=1), 5.0, 10, Missing)
    assert sample == Sample(5.0, 3725, {"a": 1}, DUMP, 4, 2, None)


def test_rates_are_between_two_samples() -> None:
    before = Sample(10.0, 60, {"ws_received_frames": 100, "ws_sip_transmitted_frames": 9}, DUMP)
    now = Sample(
        12.0,
        3725,
        {
            "ws_received_frames": 150,
            "ws_sip_transmitted_frames": 1,
            "ws_current_connections": 3,
            "ws_max_concurrent_connections": 8,
        },
        DUMP,
        registrations=4,
        transactions=2,
        sessions=1,
    )
    lines = frame(now, before, 100, 40)
    assert lines[0] == "up 1:02:05  4 registered  2 SIP requests  1 MSRP sessions"
    words = [line.split() for line in lines]
    assert ["all", "3", "8", "0.0", "0.0", "25.0", "0.0"] in words
    # A counter that has begun again does not go backwards.
    assert ["sip", "0", "0", "0.0", "0.0", "0.0", "0.0"] in words
    assert ["7", "ws:192.0.2.1:4711", "ws:[::1]:80", "OPEN", "1s", "sip"] in words
    assert ["all", "3", "8"] in [line.split() for line in frame(now, None, 100, 40)]


def test_a_frame_fits() -> None:
    lines = frame(take_sample(answers(), 0.0, 10, Missing), None, 20, 5)
    assert len(lines) == 5
    assert max(map(len, lines)) <= 20


def test_without_a_terminal_it_is_shown_once() -> None:
    out = io.StringIO()

    def ask(name: str, params: Sequence[str]) -> Any:
        return DUMP if name == "ws.dump" else answers()(name, params)

    assert run_top(ask, 1.0, Missing, out=out) == 0
    assert out.getvalue().startswith("up 1:02:05")
    assert "\x1b" not in out.getvalue()


class Terminal(io.StringIO):
    """What thinks that it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")
    waits = iter([True, True, False])
    times = iter([0.0, 1.0, 2.0])
    out = Terminal()
    code = run_top(
        answers(), 3.0, Missing, out=out, clock=lambda: next(times), wait=lambda _: next(waits)
    )
    assert code == 0
    text = out.getvalue()
    assert text.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert text.endswith("\x1b[?25h\x1b[?1049l")
    assert text.count("\x1b[Hup 1:02:05") == 3


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_q_ends_it_on_a_terminal(tmp_path: Path) -> None:
    import pty

    with launched("--ctl-socket", str(tmp_path / "ctl")) as service:
        place = service.places["--socket"]
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            command = [*COMMAND, "ctl", "--socket", place, "--watch", "0.1", "top"]
            os.execv(command[0], command)
        seen = b""
        while seen.count(b"CONNECTIONS") < 3:
            assert select.select([terminal], [], [], HANGS)[0]
            seen += os.read(terminal, 65536)
        os.write(terminal, b"xq")
        try:
            while chunk := os.read(terminal, 65536):
                seen += chunk
        except OSError:
            pass  # Linux's way to tell the end
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seen.startswith(b"\x1b[?1049h")
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")

"""The log: forms of lines, where they go, and how many of a kind."""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters.reports import Line, report
from wsproto_sip.cli import main
from wsproto_sip.cli.serve import logs
from wsproto_sip.cli.serve.logs import (
    JsonLines,
    RateBound,
    TextLines,
    in_journal,
    parse_levels,
    set_up,
    tell_dropped,
)

from .._service import launched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def back() -> Iterator[None]:
    """Nothing of it is left for other tests."""
    yield
    set_up(None)


def fail() -> None:
    try:
        raise RuntimeError("out\nof order")
    except RuntimeError:
        logging.getLogger("wsproto_sip.ws").exception("connection %d: it failed", 7)


def tell(event: str, **fields: object) -> None:
    report("ws", logging.INFO, event, **fields)  # type: ignore[arg-type]


def test_by_default_only_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(None)
    tell("opened", connection=1)
    fail()
    [line] = capsys.readouterr().err.splitlines()
    assert " error ws connection 7: it failed exception=" in line


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("text")
    tell("closed", peer="[::1]:7", reason='a "b" \x1b', empty="", none=None, code=1000)
    fail()
    first, second = capsys.readouterr().err.splitlines()
    time, _, rest = first.partition(" ")
    assert time.endswith("+00:00")
    assert rest == r'info ws closed peer=[::1]:7 reason="a \"b\" \u001b" empty="" code=1000'
    assert r"\nRuntimeError: out\nof order" in second


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("text")
    set_up("json")
    tell("closed", peer="[::1]:7", reason="\u2028\x1b", none=None, code=1000, odd=object)
    fail()
    first, second = capsys.readouterr().err.split("\n")[:2]
    assert first.isascii()
    entry = json.loads(first)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "area": "ws",
        "event": "closed",
        "peer": "[::1]:7",
        "reason": "\u2028\x1b",
        "code": 1000,
        "odd": str(object),
    }
    assert json.loads(second)["exception"].endswith("RuntimeError: out\nof order")


def test_lines_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    target = "/" + "x" * 8000
    many = {f"field{number}": "\x1b" * 5000 for number in range(10)}
    set_up("text")
    tell("opened", connection=1, target=target, **many)
    logging.getLogger("wsproto_sip.ws").warning("%s", target)
    for line, most in zip(capsys.readouterr().err.splitlines(), (2000, 600), strict=True):
        assert most - 100 < len(line) <= most
        assert line.endswith("…")
    set_up("json")
    tell("opened", connection=1 << 40, secure=True, target=target, peer="p" * 100)
    logging.getLogger("wsproto_sip.ws").warning("%s", target)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["connection"], first["secure"], first["peer"]) == (1 << 40, True, "p" * 100)
    assert first["target"] == target[:99] + "…"
    assert (second["event"], second["text"]) == ("message", target[:499] + "…")


@given(st.text(max_size=300), st.sampled_from([TextLines(), JsonLines()]))
def test_text_from_a_peer_makes_no_line_of_its_own(text: str, lines: logging.Formatter) -> None:
    for message, arguments in (("%s", (text,)), (Line("closed", {"reason": text}), None)):
        record = logging.LogRecord("wsproto_sip", logging.INFO, "", 0, message, arguments, None)
        assert len(lines.format(record).splitlines()) == 1


# -- levels ----------------------------------------------------------------------------------------


def test_levels_by_area(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(None, levels=parse_levels(("sip=debug", "ws=error")))
    tell("opened")
    report("ws", logging.WARNING, "one")
    report("sip", logging.DEBUG, "two")
    report("msrp", logging.INFO, "three")
    report("msrp", logging.WARNING, "four")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["debug", "sip", "two"],
        ["warning", "msrp", "four"],
    ]


def test_a_level_for_all() -> None:
    levels = parse_levels(("warning", "sip=info"))
    assert levels["sip"] == logging.INFO
    assert {levels[area] for area in levels if area != "sip"} == {logging.WARNING}
    assert set(levels) == set(logs.AREAS)


@pytest.mark.parametrize("word", ["", "loud", "sip=", "sip=loud", "=debug", "sap=debug", "DEBUG"])
def test_what_is_not_a_level(word: str) -> None:
    with pytest.raises(ValueError, match="is not LEVEL or AREA=LEVEL"):
        parse_levels((word,))


# -- a file ----------------------------------------------------------------------------------------


def test_a_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = set_up("text", path=str(path))
    tell("one")
    assert log.outlet is not None
    assert log.outlet.drain()
    path.rename(tmp_path / "log.1")
    tell("two")
    assert log.outlet.drain()
    log.reopen()
    tell("three")
    log.close()
    assert [line.split()[-1] for line in (tmp_path / "log.1").read_text().splitlines()] == [
        "one",
        "two",
    ]
    assert path.read_text().split()[-1] == "three"
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    assert log.outlet.dropped_in_all == 0


def test_if_reopening_fails_the_old_file_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    log = set_up(None, path=str(folder / "log"))
    (folder / "log").rename(tmp_path / "moved")
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        log.reopen()
    tell("one")
    log.close()
    assert (tmp_path / "moved").read_text().split()[-1] == "one"


def test_standard_error_is_not_opened_again(capsys: pytest.CaptureFixture[str]) -> None:
    log = set_up("text")
    log.reopen()
    log.flush()
    tell_dropped(3)
    log.close()
    tell("nowhere")
    assert capsys.readouterr().err.endswith(" warning server output-dropped lines=3\n")


# -- the journal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_for_the_journal_begin_with_their_priority(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert in_journal()
    set_up(log_format, levels=parse_levels(("debug",)))
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        report("ws", level, "it")
    lines = capfd.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<3>"]
    if log_format == "text":
        assert lines[0] == "<7>debug ws it"
    else:
        assert json.loads(lines[0][3:])["level"] == "debug"


def test_another_stream_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not in_journal()

    def gone(descriptor: int) -> os.stat_result:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", gone)
        assert not in_journal()


# -- repeated lines --------------------------------------------------------------------------------


class Bounded:
    """A bound with its clock, and what it tells."""

    def __init__(self, lines: int) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.bound = RateBound(lines, self._tell, lambda: self.now)

    def _tell(self, record: logging.LogRecord) -> None:
        assert self.bound.filter(record)
        self.told.append(f"{record.name} {record.levelname} {record.getMessage()}")

    def passes(self, message: object, name: str = "wsproto_sip.ws") -> bool:
        record = logging.LogRecord(name, logging.INFO, "", 0, message, None, None)
        return bool(self.bound.filter(record))


def test_repeated_lines_are_kept_back_and_counted() -> None:
    bounded = Bounded(2)
    alice, bob = Line("refused", {}, "alice"), Line("refused", {}, "bob")
    assert [bounded.passes(alice) for _ in range(5)] == [True, True, False, False, False]
    assert bounded.passes(bob)
    assert bounded.passes(Line("served", {}, "alice"))
    assert bounded.passes(alice, "wsproto_sip.sip")
    assert bounded.told == []
    bounded.now = 9.9
    assert not bounded.passes(alice)
    bounded.now = 10.0
    assert bounded.passes(alice)
    assert bounded.told == ["wsproto_sip.ws INFO repeated of=refused lines=4 about=alice"]
    bounded.bound.flush(30.0)
    assert len(bounded.told) == 1


def test_lines_without_a_peer_pass_and_those_of_other_code_count_by_their_text() -> None:
    bounded = Bounded(1)
    assert all(bounded.passes(Line("opened", {})) for _ in range(5))
    assert [bounded.passes("failed: %s") for _ in range(3)] == [True, False, False]
    bounded.bound.flush()
    assert bounded.told == ['wsproto_sip.ws INFO repeated of="failed: %s" lines=2']


def test_no_bound() -> None:
    bounded = Bounded(0)
    assert all(bounded.passes(Line("refused", {}, "alice")) for _ in range(100))


def test_kinds_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MAX_KINDS", 2)
    bounded = Bounded(1)
    for name in ("a", "a", "b", "c", "c"):
        bounded.passes(Line("refused", {}, name))
    assert bounded.told == ["wsproto_sip.ws INFO repeated of=refused lines=1 about=a"]
    assert bounded.passes(Line("refused", {}, "a"))


def test_suppressed_lines_are_reported_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    log = set_up("text", repeats=1)
    for _ in range(3):
        report("ws", logging.INFO, "refused", about="alice", status=403)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "info ws refused status=403",
        "info ws repeated of=refused lines=2 about=alice",
    ]


# -- of a server -----------------------------------------------------------------------------------


def test_a_server_opens_its_log_again(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    with launched(
        *("--log-file", str(path), "--log-level", "sip=error", "--log-level", "ws=info"),
        *("--ctl-socket", str(tmp_path / "socket")),
    ) as service:
        assert service.status() == 101
        path.rename(moved)
        service.process.send_signal(signal.SIGUSR1)
        while not path.exists():
            # Each call is a turn of the server's loop.
            service.call("core.version")
        assert service.status(origin="https://elsewhere.test") == 403
        path.rename(tmp_path / "log.2")
        service.reload()
        assert path.exists()
        _, err = service.stop()
    assert err == []
    # The end of the connection may be told in either file.
    opened = moved.read_text().splitlines()[0]
    assert " info ws opened connection=1 " in opened
    refused = (tmp_path / "log.2").read_text()
    assert " status=403 " in refused
    assert 'reason="Origin is not allowed" target=/ ' in refused
    assert path.read_text().splitlines()[-1].split()[1:4] == ["info", "server", "stopping"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--log-level", "sip=loud"], "--log-level: 'sip=loud' is not LEVEL or AREA=LEVEL, with"),
        (["--log-file", "/nowhere/log"], "--log-file: /nowhere/log: No such file or directory"),
    ],
)
def test_an_unusable_log_file_is_refused(
    flags: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *flags]) == 2
    assert expected in capfd.readouterr().err

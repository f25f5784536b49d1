"""Log lines for people and for programs."""

from __future__ import annotations

import json
import logging

import pytest

from wsproto_sip.cli.logs import log_event, set_up


def fail() -> None:
    try:
        raise RuntimeError("out\nof order")
    except RuntimeError:
        logging.getLogger("wsproto_sip.server").exception("connection %d: it failed", 7)


def test_nothing_but_problems(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(None)
    log_event("opened", connection=1)
    fail()
    [line] = capsys.readouterr().err.splitlines()
    assert " error connection 7: it failed exception=" in line


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("text")
    log_event("closed", peer="[::1]:7", reason='a "b" \x1b', empty="", none=None, code=1000)
    fail()
    first, second = capsys.readouterr().err.splitlines()
    time, _, rest = first.partition(" ")
    assert time.endswith("+00:00")
    assert rest == r'info closed peer=[::1]:7 reason="a \"b\" \u001b" empty="" code=1000'
    assert r"\nRuntimeError: out\nof order" in second


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("text")
    set_up("json")
    log_event("closed", peer="[::1]:7", reason="\u2028\x1b", none=None, code=1000, odd=object)
    fail()
    first, second = capsys.readouterr().err.split("\n")[:2]
    assert first.isascii()
    entry = json.loads(first)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "event": "closed",
        "peer": "[::1]:7",
        "reason": "\u2028\x1b",
        "code": 1000,
        "odd": str(object),
    }
    assert json.loads(second)["exception"].endswith("RuntimeError: out\nof order")


def test_lines_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    target = "/" + "x" * 8000
    set_up("text")
    log_event("opened", connection=1, target=target, reason="\x1b" * 5000)
    logging.getLogger("wsproto_sip.server").warning("%s", target)
    for line in capsys.readouterr().err.splitlines():
        assert len(line) == 200
        assert line.endswith("…")
    set_up("json")
    log_event("opened", connection=1 << 40, secure=True, target=target, peer="p" * 100)
    logging.getLogger("wsproto_sip.server").warning("%s", target)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["connection"], first["secure"], first["peer"]) == (1 << 40, True, "p" * 100)
    assert first["target"] == target[:99] + "…"
    assert second["event"] == target[:199] + "…"

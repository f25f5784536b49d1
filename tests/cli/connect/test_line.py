"""Lines of input: messages and commands."""

from __future__ import annotations

import re

import pytest

from wsproto_sip.cli.connect.line import (
    COMMANDS,
    Action,
    Close,
    Help,
    Mistake,
    SendBinary,
    SendPing,
    SendPong,
    SendText,
    help_lines,
    read_line,
)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("hello", SendText("hello")),
        ("", SendText("")),
        ("//ping", SendText("/ping")),
        ("/ping", SendPing(None)),
        ("/ping grüße you", SendPing("grüße you".encode())),
        ("/pong", SendPong(b"")),
        ("/pong x", SendPong(b"x")),
        ("/text /close", SendText("/close")),
        ("/text", SendText("")),
        ("/text @a b.txt", SendText(None, "a b.txt")),
        ("/binary 00 ff 7F", SendBinary(b"\x00\xff\x7f")),
        ("/binary 00ff", SendBinary(b"\x00\xff")),
        ("/binary", SendBinary(b"")),
        ("/binary @x.bin", SendBinary(None, "x.bin")),
        ("/close", Close(1000, "")),
        ("/close 4000", Close(4000, "")),
        ("/close 4000 I go home", Close(4000, "I go home")),
        ("/help", Help()),
    ],
)
def test_commands(line: str, action: Action) -> None:
    assert read_line(line.encode(), commands=True) == action


@pytest.mark.parametrize("line", ["/ping", "//", "/x"])
def test_without_commands_everything_is_a_message(line: str) -> None:
    assert read_line(line.encode(), commands=False) == SendText(line)


def test_bytes_that_are_not_utf_8_are_binary() -> None:
    assert read_line(b"/ping\xff", commands=True) == SendBinary(b"/ping\xff")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/clsoe", "/clsoe: no such command; did you mean /close?"),
        ("/zzzzzzzz", "/zzzzzzzz: no such command; see /help"),
        ("/ping " + "ü" * 63, "/ping: 126 bytes are too many, at most 125"),
        ("/pong " + "x" * 126, "/pong: 126 bytes are too many, at most 125"),
        ("/binary xyz", "/binary: 'xyz' is neither hexadecimal nor @FILE"),
        ("/close now", "/close: 'now' is not a code of four digits"),
        ("/close 1006", "/close: no close frame carries 1006"),
        ("/close 100", "not a code of four digits"),
    ],
)
def test_mistakes_are_named(line: str, why: str) -> None:
    with pytest.raises(Mistake, match=re.escape(why)):
        read_line(line.encode(), commands=True)


def test_help_lists_each_command() -> None:
    lines = help_lines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert len({line.index(COMMANDS[line.split()[0]][1]) for line in lines}) == 1

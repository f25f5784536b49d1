"""The lines of standard input, in pieces as they come from a pipe."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli.connect.lines import input_lines

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Input:
    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def fileno(self) -> int:
        return self._fileno


def lines_of(pieces: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the lines read from a pipe to which these are written."""
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", _Input(reading))

    def write() -> None:
        for piece in pieces:
            os.write(writing, piece)
        os.close(writing)

    async def read() -> list[bytes]:
        return [line async for line in input_lines()]

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return asyncio.run(read())
    finally:
        writer.join()
        os.close(reading)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a\r\n\r\nb"], [b"a", b"", b"b"]),
        ([b"one ", b"line", b"\nand", b" one\n"], [b"one line", b"and one"]),
        ([b"x" * 200_000, b"\n"], [b"x" * 200_000]),
        ([b"a\n"] * 1000, [b"a"] * 1000),
    ],
)
def test_lines(pieces: list[bytes], lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(pieces, monkeypatch) == lines


@pytest.mark.parametrize("stdin", [None, _Input(10_000)])
def test_unreadable_input_counts_as_ended(stdin: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", stdin)

    async def read() -> list[bytes]:
        return [line async for line in input_lines()]

    assert asyncio.run(read()) == []

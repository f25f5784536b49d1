"""A recording of a session with another relay, as two WebSocket clients and a TCP peer saw it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

RECORDING = Path(__file__).resolve().parent.parent / "data" / "msrp" / "kamailio-msrp.txt"
_ENTRY = re.compile(rb"#### (\w+) (C->S|S->C) (text|binary|tcp) t=\d+ms len=(\d+)\n")


class Entry(NamedTuple):
    """One WebSocket message, or one chunk over TCP."""

    who: str
    to_server: bool
    kind: str
    data: bytes


def read_recording() -> list[Entry]:
    """Return all messages in the order of the recording."""
    content = RECORDING.read_bytes()
    entries = []
    position = 0
    while match := _ENTRY.search(content, position):
        position = match.end() + int(match[4])
        who, direction, kind = (match[group].decode("ascii") for group in (1, 2, 3))
        entries.append(Entry(who, direction == "C->S", kind, content[match.end() : position]))
    return entries

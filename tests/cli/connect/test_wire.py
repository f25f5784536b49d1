"""The handshake and frames as they were: from bytes in pieces, and from a server of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli.connect.wire import PAYLOAD_SHOWN, Wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
SHOWN_RESPONSE = ["<- HTTP/1.1 101 Switching Protocols", "<- Upgrade: websocket", "<-"]


def shown(data: bytes, *, sent: bool = False, size: int | None = None) -> list[str]:
    """Return the lines for bytes, fed in pieces of a size."""
    lines: list[str] = []
    wire = Wire(lines.append)
    connection = object()
    for start in range(0, len(data), size or len(data)):
        wire(connection, data[start : start + (size or len(data))], sent)
    return lines


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (b"\x81\x05hello", "81 05  text, 5 bytes  hello"),
        (b"\x81\x80\0\0\0\0", "81 80 00 00 00 00  text, masked, 0 bytes"),
        (b"\x82\x02\0\xff", "82 02  binary, 2 bytes  00 ff"),
        (b"\xc1\x02\0\xff", "c1 02  text, rsv1, 2 bytes  00 ff"),
        (b"\xb3\x00", "b3 00  opcode 3, rsv2, rsv3, 0 bytes"),
        (b"\x88\x00", "88 00  close, 0 bytes"),
        (b"\x88\x01x", "88 01  close, 1 bytes  78"),
        (b"\x88\x05\x03\xe8b\x1bd", "88 05  close, 5 bytes  1000 b\\x1bd"),
        (b"\x89\x01\x00", "89 01  ping, 1 bytes  00"),
        (b"\x8a\x81\x01\x02\x03\x04a", "8a 81 01 02 03 04  pong, masked, 1 bytes  60"),
        (b"\x81\x05\x1b[2J\xff", "81 05  text, 5 bytes  \\x1b[2J\\xff"),
    ],
)
def test_frames(frame: bytes, line: str, size: int | None) -> None:
    assert shown(RESPONSE + frame, size=size) == [*SHOWN_RESPONSE, f"<- {line}"]


def test_fragments_are_of_the_kind_of_their_first() -> None:
    frames = [b"\x01\x01a", b"\x80\x01b", b"\x02\x01a", b"\x80\x01b", b"\x41\x01a", b"\x80\x01b"]
    assert shown(RESPONSE + b"".join(frames))[3:] == [
        "<- 01 01  text, not final, 1 bytes  a",
        "<- 80 01  continuation, 1 bytes  b",
        "<- 02 01  binary, not final, 1 bytes  61",
        "<- 80 01  continuation, 1 bytes  62",
        "<- 41 01  text, not final, rsv1, 1 bytes  61",
        "<- 80 01  continuation, 1 bytes  62",
    ]


@pytest.mark.parametrize("size", [None, 999])
def test_large_frames_are_shown_in_part(size: int | None) -> None:
    head, start = b"\x82\x7e\x10\x00", b"\x81\x7f" + (70_000).to_bytes(8)
    lines = shown(RESPONSE + head + b"\0" * 4096 + start + b"x" * 70_000 + b"\x89\0", size=size)
    assert lines[3] == f"<- 82 7e 10 00  binary, 4096 bytes  {'00 ' * PAYLOAD_SHOWN}…"
    assert lines[4] == (f"<- {start.hex(' ')}  text, 70000 bytes  {'x' * PAYLOAD_SHOWN} …")
    assert lines[5] == "<- 89 00  ping, 0 bytes"


def test_request() -> None:
    request = b"GET / HTTP/1.1\r\nHost: h\r\nX: \x1b\r\n\r\n"
    assert shown(request + b"\x81\x81\0\0\0\0a", sent=True) == [
        "-> GET / HTTP/1.1",
        "-> Host: h",
        "-> X: \\x1b",
        "->",
        "-> 81 81 00 00 00 00  text, masked, 1 bytes  a",
    ]


def test_refusal_has_a_body_and_an_interim_response_a_successor() -> None:
    interim, refusal = b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 403 Forbidden\r\n\r\n"
    assert shown(interim + refusal + b"no\x1b\nway", size=200) == [
        "<- HTTP/1.1 103 Early Hints",
        "<-",
        "<- HTTP/1.1 403 Forbidden",
        "<-",
        "<- no\\x1b",
        "<- way",
    ]


def test_what_never_ends_is_cut() -> None:
    assert len(shown(b"x" * 70_000)) == 1
    body = shown(b"HTTP/1.1 500 x\r\n\r\n" + b"x\n" * 100_000, size=100_000)
    assert 2 < len(body) <= 2 + 32 * 1024 + 1


def test_each_connection_begins_anew() -> None:
    lines: list[str] = []
    wire = Wire(lines.append)
    for connection in (object(), object()):
        wire(connection, RESPONSE + b"\x81", False)
    assert lines == SHOWN_RESPONSE * 2


def test_show(
    shared: tuple[str, subprocess.Popen[bytes]], connect: Callable[..., tuple[int, bytes, str]]
) -> None:
    code, out, err = connect("--show", "--origin", "http://localhost", shared[0], lines=b"abc\n")
    assert (code, out) == (0, b"abc\n")
    lines = err.splitlines()
    assert lines[0] == "-> GET / HTTP/1.1"
    assert "-> Origin: http://localhost" in lines
    assert "<- HTTP/1.1 101 Switching Protocols" in lines
    assert len([line for line in lines if line.startswith("-> c1 ") and "masked" in line]) == 1
    assert any(line.endswith("close, 2 bytes  1000") for line in lines)

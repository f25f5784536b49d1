"""Conversations: commands in a pipe, files, and how they end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed

from ..conftest import HANGS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from websockets.sync.server import ServerConnection

    Connect = Callable[..., tuple[int, bytes, str]]
    Peer = Callable[..., str]
    Server = tuple[str, subprocess.Popen[bytes]]


def collector(received: list[object]) -> Callable[[ServerConnection], None]:
    """Start a server that records the messages, and how the connection ends."""

    def handler(websocket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            received.extend(websocket)
        received.append((websocket.close_code, websocket.close_reason))

    return handler


def test_slashes_are_text_in_a_pipe(peer: Peer, connect: Connect) -> None:
    received: list[object] = []
    assert connect(peer(collector(received)), lines=b"/ping\n/close 4000\n")[0] == 0
    assert received == ["/ping", "/close 4000", (1000, "")]


def test_commands_in_a_pipe(peer: Peer, connect: Connect, tmp_path: Path) -> None:
    received: list[object] = []
    text, binary = tmp_path / "a text", tmp_path / "binary"
    text.write_text("zwei\nZeilen ü")
    binary.write_bytes(b"\x00\xff" * 100_000)
    lines = [
        "//slash",
        f"/text @{text}",
        f"/binary @{binary}",
        "/binary 00 01",
        "/pong unasked",
        "/ping",
        f"/text @{binary}",
        "/text @/nowhere",
        "/text @~nobody-of-this-name/x",
        "/close 2000",
        "/close 4000 enough",
        "too late",
    ]
    code, out, err = connect(
        "--commands", peer(collector(received)), lines="\n".join(lines).encode() + b"\n"
    )
    assert (code, out) == (1, b"")
    assert received == [
        "/slash",
        "zwei\nZeilen ü",
        b"\x00\xff" * 100_000,
        b"\x00\x01",
        (4000, "enough"),
    ]
    told = err.splitlines()
    assert f"-- @{binary}: not UTF-8; /binary sends it" in told
    assert "-- @/nowhere: No such file or directory" in told
    assert any("nobody-of-this-name" in line for line in told)
    assert any("2000" in line for line in told)
    assert told[-1] == "-- closed: 4000 enough"


def test_pings_of_the_same_payload_wait_for_each_other(peer: Peer, connect: Connect) -> None:
    def handler(websocket: ServerConnection) -> None:
        assert websocket.recv() == "x"

    lines = b"/ping a\n/ping a\n/ping b\n/text x\n"
    code, _, err = connect("--commands", "--wait", str(HANGS), peer(handler), lines=lines)
    assert code == 0
    told = err.splitlines()
    assert "-- pong (1 bytes) 61" in told
    assert "-- pong (1 bytes) 62" in told
    trips = [line for line in told if "round trip" in line or "already" in line]
    assert len(trips) == 3


def test_file_larger_than_the_server_takes(
    shared: Server, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(2 * 1024 * 1024))
    code, _, err = connect(
        "--commands", "--wait", str(HANGS), shared[0], lines=f"/binary @{path}\n".encode()
    )
    assert code == 1
    assert err.splitlines()[-1].startswith("-- closed: 1009")

"""What is told in JSON: each event as a program reads it."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from ..conftest import HANGS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

    Connect = Callable[..., tuple[int, bytes, str]]
    Peer = Callable[..., str]
    Server = tuple[str, subprocess.Popen[bytes]]


def events(out: bytes) -> list[dict[str, Any]]:
    """Return the events, without their times."""
    found = [json.loads(line) for line in out.splitlines()]
    assert all(event.pop("time").endswith("+00:00") for event in found)
    return found


def test_conversation(peer: Peer, connect: Connect) -> None:
    def handler(websocket: ServerConnection) -> None:
        websocket.send("grüße\x1b")
        websocket.send(b"\x00\xff")
        assert websocket.ping(b"x").wait(HANGS)
        websocket.pong(b"y")
        assert websocket.recv() == "last"
        websocket.close(4000, "enough")

    lines = b"/ping z\n/colse\n/text last\n"
    url = peer(handler, subprotocols=["sip"], compression=None)
    options = ("--json", "--commands", "--subprotocol", "sip", "--wait", str(HANGS))
    code, out, err = connect(*options, url, lines=lines)
    assert (code, err) == (1, "")
    assert out.isascii()
    first, *others, last = events(out)
    assert (first["event"], first["subprotocol"], first["extensions"]) == ("opened", "sip", [])
    assert [name.lower() for name, _ in first["headers"]].count("server") == 1
    assert last == {"event": "closed", "code": 4000, "reason": "enough", "cause": "remote"}
    (trip,) = [event for event in others if event["event"] == "round-trip"]
    assert 0 <= trip["seconds"] < HANGS
    others.remove(trip)
    assert sorted(others, key=str) == sorted(
        [
            {"event": "message", "type": "text", "data": "grüße\x1b"},
            {"event": "message", "type": "binary", "data": "00ff"},
            {"event": "ping", "data": "78"},
            {"event": "pong", "data": "79"},
            {"event": "pong", "data": "7a"},
            {"event": "mistake", "reason": "/colse: no such command; did you mean /close?"},
        ],
        key=str,
    )


def test_refusal(peer: Peer, connect: Connect) -> None:
    def refuse(websocket: ServerConnection, request: Request) -> Response:
        return websocket.respond(HTTPStatus.FORBIDDEN, "not you\n")

    code, out, err = connect("--json", peer(lambda _: None, process_request=refuse))
    (event,) = events(out)
    assert (code, err) == (4, "")
    assert (event["event"], event["status"], event["body"]) == ("rejected", 403, "not you\n")
    assert ["connection", "close"] in event["headers"]


def test_no_connection(connect: Connect) -> None:
    code, out, err = connect("--json", "ws://127.0.0.1:1/")
    assert (code, err) == (3, "")
    reason = "cannot connect to 127.0.0.1:1: Connection refused"
    assert events(out) == [{"event": "failed", "reason": reason}]


@pytest.mark.parametrize("json", [True, False])
def test_help_is_for_people(shared: Server, connect: Connect, json: bool) -> None:
    options = ["--json"] if json else []
    code, out, err = connect(*options, "--commands", shared[0], lines=b"/help\n")
    assert code == 0
    assert "/ping [TEXT]" in err
    assert b"/ping" not in out

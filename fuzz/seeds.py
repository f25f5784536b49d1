"""Seeds for the targets, taken from the tests: recordings, and our own output."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.auth.digest import Algorithm, Challenge, answer_challenge
from wsproto_sip.connection import Connection
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate

from . import msrp_relay, sip_edge
from .targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsproto_sip.events import Event
    from wsproto_sip.extensions import Extension

__all__ = ["seeds", "write_seeds"]

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"

_EVENTS: tuple[Event, ...] = (
    TextMessage("grüße"),
    BytesMessage(bytes(300)),
    TextMessage("fragment", message_finished=False),
    Ping(b"between"),
    TextMessage("s", message_finished=True),
    CloseConnection(1000, "bye"),
)


def seeds(target: str) -> Iterable[bytes]:
    """Return the seeds of a target.

    Args:
        target: Its name in TARGETS.
    """
    return {
        "handshake": _handshakes,
        "frames": _frames,
        "session": _sessions,
        "sip_message": _sip_messages,
        "sip_edge": _sip_edges,
        "msrp_relay": _msrp_relays,
        "msrp_chunk": _msrp_chunks,
        "kamailio_cfg": _configurations,
        "digest_header": _digests,
    }[target]()


def _digests() -> list[bytes]:
    challenges = [
        Challenge("example.com", "n1", qop=False),
        Challenge('a realm, quoted \\ and "so"', "n2", Algorithm.SHA_256, opaque="o", stale=True),
        Challenge("grüße", "n3", utf8=True),
    ]
    answers = [
        answer_challenge(challenge, "alice", "secret", "REGISTER", "sip:example.com", entropy=bytes)
        for challenge in challenges
    ]
    extended = b"Digest username*=UTF-8''gr%C3%BC%C3%9Fe, realm=r, nonce=n, uri=u, response=0"
    return [*(str(one).encode() for one in [*challenges, *answers]), extended]


def _handshakes() -> list[bytes]:
    client = WSConnection(ConnectionType.CLIENT, entropy=bytes)
    request = client.send(
        Request(host="h", target="/", extensions=[PerMessageDeflate()], subprotocols=["sip"])
    )
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(request)
    list(server.events())
    accepted = server.send(AcceptConnection(subprotocol="sip"))
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    return [
        b"\x00\xff" + request,
        b"\x00\x00" + request,
        b"\x04\x10" + request,
        b"\x08\xff" + request,
        b"\x01\xff" + accepted,
        b"\x03\xff" + accepted,
        b"\x01\x05" + refused,
    ]


def _written(role: ConnectionType, *, compressed: bool) -> bytes:
    extensions: list[Extension] = []
    if compressed:
        deflate = PerMessageDeflate()
        deflate.finalize("permessage-deflate")
        extensions = [deflate]
    connection = Connection(role, extensions, entropy=bytes)
    return b"".join(connection.send(event) for event in _EVENTS)


def _frames() -> list[bytes]:
    found = []
    for choice in range(4):
        sender = ConnectionType.SERVER if choice & 1 else ConnectionType.CLIENT
        wire = _written(sender, compressed=bool(choice & 2))
        found += [bytes([choice, 255]) + wire, bytes([choice, 0]) + wire]
    return found


def _sessions() -> list[bytes]:
    request = _handshakes()[0][2:]
    pieces = b"".join(
        bytes([min(len(request) - at, 31) << 3]) + request[at : at + 31]
        for at in range(0, len(request), 31)
    )
    wire = _written(ConnectionType.CLIENT, compressed=False)[:31]
    frame = bytes([len(wire) << 3]) + wire
    return [
        b"\x00" + pieces + b"\x06" + frame + b"\x04\x13\x1b\x2e",
        b"\x00" + pieces + b"\x0e\x0d",
    ]


def _sip_messages() -> list[bytes]:
    found: dict[str, bytes] = {}
    for recording in sorted((DATA / "sip").glob("*.jsonl")):
        for line in recording.read_text(encoding="utf-8").splitlines():
            for text in _texts(json.loads(line)):
                if " SIP/2.0\r\n" in text or text.startswith("SIP/2.0 "):
                    found.setdefault(text.split("\r\n", 1)[0], text.encode())
    return list(found.values())


def _step(steps: dict[str, dict[str, int]], name: str, *numbers: int) -> bytes:
    """Write one step; arguments that are not given are 0."""
    data = bytes([list(steps).index(name)])
    for index, below in enumerate(steps[name].values()):
        number = numbers[index] if index < len(numbers) else 0
        data += number.to_bytes(2 if below > 256 else 1, "big")
    return data


def _msrp_relays() -> list[bytes]:
    """Return steps with messages to a client and to the peer, answered and damaged."""
    step = partial(_step, msrp_relay.STEPS)
    sent = step("send", 0, 1, 1) + step("answer", 1, 0, 1) + step("send", 1, 2, 1, 0, 7, 3)
    sent += step("send", 2, 0, 1) + step("damage", 0, 0, 9, 6, 1) + step("wait", 2)
    return [sent + step("leave", number) + sent for number in range(3)]


def _sip_edges() -> list[bytes]:
    """Return steps of a call over each kind of edge, from request to cancel."""
    step = partial(_step, sip_edge.STEPS)
    call = step("ask", 0, 0, 1) + step("call_in") + step("answer", 0, 0, 1)
    call += step("cancel") + step("answer", 0, 0, 3) + step("follow") + step("follow", 1, 1, 1)
    call += step("again") + step("wait", 3) + step("damage", 0, 0, 9, 6, 1) + step("lose")
    return [bytes([kind]) + call for kind in range(12)]


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _msrp_chunks() -> list[bytes]:
    head = b"MSRP abcd1234 SEND\r\nTo-Path: msrp://a:1/x;tcp\r\nFrom-Path: msrp://b:2/y;ws\r\n"
    return [
        head + b"Message-ID: 1\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi"
        b"\r\n-------abcd1234$\r\n",
        head + b"Message-ID: 1\r\nByte-Range: 1-*/9\r\n-------abcd1234+\r\n",
        # A line of the body resembles the end-line.
        head + b"Content-Type: text/plain\r\n\r\n-------abcd1234$x\r\n-------abcd1234$\r\n",
        head.replace(b"SEND", b"200 OK") + b"-------abcd1234$\r\n",
    ]


def _configurations() -> list[bytes]:
    return [path.read_bytes() for path in sorted((DATA / "kamailio").glob("*.cfg"))]


def write_seeds(folder: Path) -> None:
    """Write the seeds of all targets, one folder each.

    Args:
        folder: The folder; it is created.
    """
    for target in TARGETS:
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(target)):
            (place / f"seed-{number}").write_bytes(seed)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))

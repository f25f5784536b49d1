"""Kamailio's websocket module and ``wsproto-sip serve`` with one configuration, side by side.

Theory of operation: both read the same kamailio.cfg, and every test does the same with both. What
clients and senders of commands see must be the same, except for ids, ports and times.
"""

from __future__ import annotations

import http.client
import json
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import strptime
from typing import TYPE_CHECKING, Any

import pytest
from websockets.frames import Opcode

from tests.cli._service import HANGS, FrameClient, launched
from wsproto_sip.server.statistics import GAUGES, MODULE_STATISTICS

from ._kamailio import PROGRAM, running

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = Path(__file__).resolve().parents[1] / "data" / "kamailio" / "websocket.cfg"

pytestmark = pytest.mark.skipif(
    PROGRAM is None or not list(Path("/usr/lib").glob("*/kamailio/modules/websocket.so")),
    reason="needs kamailio and its websocket module (Debian: kamailio, kamailio-websocket-modules)",
)

HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "sip",
}
SHOWN = (
    "Access-Control-Allow-Origin",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
)
SIP: Any = ["sip"]
MSRP: Any = ["msrp"]


class Server:
    """One of the two servers.

    Args:
        address: The address it listens on.
        commands: The port and path of its commands.
    """

    #: It does not serve wss.
    tls = None

    def __init__(self, address: tuple[str, int], commands: tuple[int, str]) -> None:
        self.address = address
        self.url = f"ws://{address[0]}:{address[1]}/"
        self._commands = commands

    def call(self, method: str, *params: object) -> Any:
        """Send a command, and return its result, or its error's code and text."""
        port, path = self._commands
        message = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        connection = http.client.HTTPConnection(self.address[0], port, timeout=HANGS)
        connection.request("POST", path, json.dumps(message), {"Content-Type": "application/json"})
        reply = json.loads(connection.getresponse().read())
        connection.close()
        if "error" in reply:
            return reply["error"]["code"], reply["error"]["message"]
        return reply["result"]

    def shake_hands(self, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Request a WebSocket, and return the status and the header fields to compare."""
        connection = http.client.HTTPConnection(*self.address, timeout=HANGS)
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        connection.close()
        shown = {name: ", ".join(response.headers.get_all(name, [])) for name in SHOWN}
        return response.status, shown

    def statistics(self) -> dict[str, int]:
        """Return the module's statistics."""
        raise NotImplementedError

    @contextmanager
    def client(self, subprotocols: Any = SIP) -> Iterator[tuple[FrameClient, int]]:
        """Yield a client, and the id of its connection."""
        with FrameClient(self, subprotocols) as client:  # type: ignore[arg-type]
            [line] = [line for line in self.dump() if f":{client.socket.getsockname()[1]} " in line]
            yield client, int(line.partition(":")[0])

    def dump(self, *params: object) -> list[str]:
        """Return the lines of a dump."""
        return list(self.call("ws.dump", *params)["connections"])


class Module(Server):
    """Kamailio's module."""

    def statistics(self) -> dict[str, int]:
        """Return the statistics as ``kex`` shows them."""
        lines = self.call("stats.get_statistics", "websocket:")
        found = [re.fullmatch(r"websocket:(\w+) = (\d+)", line) for line in lines]
        return {match[1]: int(match[2]) for match in found if match is not None}


class Ours(Server):
    """``wsproto-sip serve``."""

    def statistics(self) -> dict[str, int]:
        """Return the statistics that the module has too."""
        return {name: self.call("ws.statistics", name)[name] for name in MODULE_STATISTICS}


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, Server]]:
    """Run both, the module first."""
    with (
        running(CONFIGURATION) as module,
        launched(
            *("--kamailio-cfg", str(CONFIGURATION), "--ctl-http", "0"),
            # The module leaves the Origin to the script around it.
            *("--origin", "any", "--origin", "missing"),
        ) as service,
    ):
        port = int(service.places["--url"].rstrip("/").rpartition(":")[2])
        yield (
            Module(("127.0.0.1", module.port), (module.port, "/RPC")),
            Ours(service.address, (port, "/")),
        )


Both = tuple[Server, Server]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 101),
        ({"Sec-WebSocket-Protocol": "msrp"}, 101),
        ({"Sec-WebSocket-Protocol": "chat, msrp"}, 101),
        ({"Sec-WebSocket-Protocol": "msrp, sip"}, 101),
        ({"Origin": "https://communicator.example.com"}, 101),
        ({"Sec-WebSocket-Protocol": "chat"}, 400),
        ({"Sec-WebSocket-Protocol": None}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
    ],
)
def test_handshakes_are_answered_alike(
    both: Both, changes: dict[str, str | None], status: int
) -> None:
    headers = {name: value for name, value in (HEADERS | changes).items() if value is not None}
    module, ours = [server.shake_hands(headers) for server in both]
    assert ours == module
    assert ours[0] == status


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("ws.dump", ["sideways"]),
        ("ws.close", []),
        ("ws.close", [999_999]),
        ("ws.ping", []),
        ("ws.ping", [999_999]),
        ("ws.pong", []),
        ("ws.pong", [999_999]),
        ("ws.disable", []),
        ("ws.enable", []),
        ("stats.get_statistics", []),
        ("stats.get_statistics", ["ws_unknown"]),
        ("stats.get_statistics", ["unknown:"]),
        ("stats.reset_statistics", []),
        ("stats.reset_statistics", ["ws_msrp_failed_connections"]),
        ("cnt.grp_get_all", ["unknown"]),
        ("cfg.get", ["websocket", "keepalive_timeout"]),
        ("cfg.get", ["websocket", "enabled"]),
        ("cfg.get", ["websocket", "sub_protocols"]),
        ("cfg.get", ["unknown"]),
        ("cfg.seti", ["websocket", "keepalive_timeout", 30]),
        ("cfg.seti", ["websocket", "sub_protocols", 1]),
        ("system.methodHelp", ["unknown"]),
    ],
)
def test_commands_are_answered_alike(both: Both, method: str, params: list[object]) -> None:
    module, ours = [server.call(method, *params) for server in both]
    for server in both:
        server.call("ws.enable")
    assert ours == module


def test_statistics_are_shown_in_the_same_form(both: Both) -> None:
    module, ours = [server.call("stats.get_statistics", "websocket:") for server in both]
    assert [line.partition(" = ")[0] for line in ours] == [
        line.partition(" = ")[0] for line in module
    ]
    assert all(re.fullmatch(r"websocket:ws_[a-z_]+ = [0-9]+", line) for line in ours)
    module, ours = [server.call("cnt.grp_get_all", "websocket") for server in both]
    assert list(ours) == list(module)


def test_uptime_is_shown_in_the_same_form(both: Both) -> None:
    module, ours = [server.call("core.uptime") for server in both]
    assert [(name, type(value)) for name, value in ours.items()] == [
        (name, type(value)) for name, value in module.items()
    ]
    for name in ("now", "up_since"):
        for shown in (module, ours):
            assert strptime(shown[name], "%a %b %d %H:%M:%S %Y")


def test_disabling_by_a_setting_has_the_same_effect(both: Both) -> None:
    for server in both:
        assert server.call("cfg.seti", "websocket", "enabled", 0) == {}
        assert server.shake_hands(HEADERS)[0] == 503
        assert server.call("cfg.seti", "websocket", "enabled", 1) == {}
        assert server.shake_hands(HEADERS)[0] == 101


def test_disabling_has_the_same_effect(both: Both) -> None:
    for headers in (HEADERS, HEADERS | {"Sec-WebSocket-Version": "8"}):
        for server in both:
            with server.client() as (client, cid):
                assert server.call("ws.disable") == {}
                assert server.shake_hands(headers)[0] == 503
                assert server.call("ws.enable") == {}
                assert server.call("ws.pong", cid) == {}
                assert client.frame().opcode is Opcode.PONG


@pytest.mark.parametrize("order", ["id_hash", "used_desc", "USED_ASC"])
def test_dumps_are_the_same(both: Both, order: str) -> None:
    shown = []
    for server in both:
        with ExitStack() as stack:
            ids = [stack.enter_context(server.client())[1] for _ in range(2)]
            lines = [
                re.sub(r"\d+", "N", line.replace("127.0.0.1", "HOST"))
                for line in server.dump(order)
                if int(line.partition(":")[0]) in ids
            ]
            shown.append(lines)
    module, ours = shown
    assert ours == module
    assert len(ours) == 2


def test_frames_that_commands_send_are_the_same(both: Both) -> None:
    seen = []
    for server in both:
        with server.client() as (client, cid):
            frames = []
            for command in ("ws.pong", "ws.ping", "ws.close"):
                assert server.call(command, cid) == {}
                frame = client.frame()
                frames.append((frame.opcode, bytes(frame.data)))
            seen.append(frames)
    module, ours = seen
    assert ours == module
    assert ours[0] == (Opcode.PONG, b"WebSockets rock")


def test_pending_ping_is_shown_alike(both: Both) -> None:
    for server in both:
        with server.client() as (_, cid):
            assert server.call("ws.ping", cid) == {}
            [line] = [line for line in server.dump() if line.startswith(f"{cid}: ")]
            assert "(state: OPEN, awaiting Pong,  last used " in line


def test_statistics_have_the_same_names(both: Both) -> None:
    module, ours = [server.statistics() for server in both]
    assert set(ours) == set(module)
    assert len(ours) == 25


def test_closing_connection_is_treated_alike(both: Both) -> None:
    seen = []
    for server in both:
        with server.client() as (_, cid):
            # It does not read, so it does not answer a close frame.
            assert server.call("ws.close", cid) == {}
            [line] = [line for line in server.dump() if line.startswith(f"{cid}: ")]
            ping, pong = server.call("ws.ping", cid), server.call("ws.pong", cid)
            again = server.call("ws.close", cid)
            left = [line for line in server.dump() if line.startswith(f"{cid}: ")]
            seen.append((re.sub(r"\d+", "N", line), ping, pong, again, left))
    module, ours = seen
    assert ours == module


def test_statistics_count_the_same(both: Both) -> None:
    counted = []
    for server in both:
        before = server.statistics()
        for subprotocol in (SIP, MSRP):
            with server.client(subprotocol) as (client, cid):
                for command in ("ws.pong", "ws.ping"):
                    assert server.call(command, cid) == {}
                    client.frame()
                assert server.call("ws.close", cid) == {}
                client.frame()
        server.shake_hands(HEADERS | {"Sec-WebSocket-Version": "8"})
        # The module counts a refusal after it has answered.
        for _ in range(1000):
            after = server.statistics()
            if after["ws_failed_handshakes"] > before["ws_failed_handshakes"]:
                break
        # Gauges only decrease when the module looks for ended connections.
        counted.append({name: after[name] - before[name] for name in after if name not in GAUGES})
    module, ours = counted
    assert ours == module

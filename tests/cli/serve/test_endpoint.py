"""Every parameter and command of the guide at ``wsproto-sip serve``, through real sockets.

The clients are those of the websockets library. Where something takes longer than a test may, the
same settings drive an endpoint whose clock the test has.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Opcode

from wsproto_sip import __version__
from wsproto_sip.auth.digest import Algorithm, digest_ha1, digest_response
from wsproto_sip.cli.serve.settings import load
from wsproto_sip.cli.serve.setup import endpoint_config
from wsproto_sip.events import CloseConnection, Ping, Pong, Request
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.management.commands import COMMAND_NAMES
from wsproto_sip.server.statistics import MODULE_STATISTICS
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

from .._service import HANGS, Dialed, FrameClient, Service, launched, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no Unix here")

#: The examples 1.3 to 1.9 of the guide, as they stand there.
GUIDE = """\
loadmodule "sl.so"
loadmodule "xhttp.so"
loadmodule "msrp.so"  # Only required if using MSRP over WebSockets
loadmodule "websocket.so"
modparam("websocket", "keepalive_mechanism", 0)
modparam("websocket", "keepalive_timeout", 30)
modparam("websocket", "keepalive_processes", 2)
modparam("websocket", "keepalive_interval", 2)
modparam("websocket", "ping_application_data", "WebSockets rock")
modparam("websocket", "sub_protocols", 2)
modparam("websocket", "cors_mode", 2)
"""

MSRP: Any = ["msrp"]
SIP: Any = ["sip"]
ORIGIN: Any = "https://communicator.example.com"


def issued(cert: Path, key: Path, ca: Path | None = None) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1; return the clients' context for it."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    cert.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(str(key))
    if ca is not None:
        authority.cert_pem.write_to_path(str(ca))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module", params=["ws", "wss"])
def guide(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Start a server with the guide's values, and all channels for commands."""
    path = tmp_path_factory.mktemp("guide")
    (path / "tmp").mkdir()
    (path / "kamailio.cfg").write_text(GUIDE)
    options: list[str] = []
    context = None
    if request.param == "wss":
        context = issued(path / "cert.pem", path / "key.pem", path / "ca.pem")
        options = ["--tls-cert", str(path / "cert.pem"), "--tls-key", str(path / "key.pem")]
    with launched(
        *("--kamailio-cfg", str(path / "kamailio.cfg"), "--log-format", "json", *options),
        *("--fifo", str(path / "tmp" / "fifo"), "--ctl-socket", str(path / "socket")),
        *("--ctl-http", "0", "--origin", "any", "--origin", "missing", "--connect-allow", "any"),
        tls=context,
        # What it connects to itself it trusts as others do.
        environment={"SSL_CERT_FILE": str(path / "ca.pem")} if context else None,
    ) as service:
        assert service.url.startswith(f"{request.param}://")
        yield service


def lines_of(result: Any) -> list[str]:
    return list(result["connections"])


def id_of(websocket: Any, service: Service) -> int:
    """Return the id of a connection, from the dump."""
    host, port = websocket.address
    for line in lines_of(service.call("ws.dump")):
        if f":{host}:{port} -> " in line:
            return int(line.partition(":")[0])
    raise AssertionError("no such connection")


# -- parameters -----------------------------------------------------------------------------------


def test_the_start_reports_how_to_send_commands(guide: Service) -> None:
    assert set(guide.places) == {"--fifo", "--socket", "--url"}
    assert "Sub-protocols msrp; messages of at most 1048576 bytes." in guide.announced


def test_sub_protocols(guide: Service) -> None:
    with guide.dial(subprotocols=["sip", "msrp"]) as websocket:
        assert websocket.subprotocol == "msrp"
        websocket.send("MSRP in name only")
        assert websocket.recv() == "MSRP in name only"
        websocket.send(b"\x00")
        assert websocket.recv() == b"\x00"
    for offered in (SIP, None):
        with pytest.raises(InvalidStatus) as caught, guide.dial(subprotocols=offered):
            pass
        response = caught.value.response
        assert response.status_code == 400
        assert response.headers["Sec-WebSocket-Protocol"] == "msrp"
        assert response.headers["Sec-WebSocket-Version"] == "13"


def test_cors_mode(guide: Service) -> None:
    name = "Access-Control-Allow-Origin"
    with guide.dial(subprotocols=MSRP, origin=ORIGIN) as websocket:
        assert websocket.headers[name] == ORIGIN
    with guide.dial(subprotocols=MSRP) as websocket:
        assert name not in websocket.headers


def test_ping_application_data(guide: Service) -> None:
    with FrameClient(guide, MSRP) as client:
        [line] = [
            line
            for line in lines_of(guide.call("ws.dump"))
            if f":{client.socket.getsockname()[1]} -> " in line
        ]
        cid = int(line.partition(":")[0])
        assert guide.call("ws.pong", cid) == {}
        frame = client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"WebSockets rock")
        assert guide.call("ws.ping", cid) == {}
        frame = client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PING, b"WebSockets rock")


def driven(
    tmp_path: Path, text: str, until: float, *, subprotocol: str = "msrp"
) -> list[tuple[float, object]]:
    """Return the timed frames that a silent client of an endpoint with these parameters gets."""
    (tmp_path / "kamailio.cfg").write_text(text)
    settings, *_ = load({}, kamailio_cfg=str(tmp_path / "kamailio.cfg"))
    endpoint = Endpoint(endpoint_config(settings), now=0)
    client = Session(ConnectionType.CLIENT, now=0)
    client.send(Request(host="localhost", target="/", subprotocols=[subprotocol]), 0)
    cid = endpoint.accept(("192.0.2.1", 4000), 0)
    endpoint.receive(cid, client.data_to_send(), 0)
    seen: list[tuple[float, object]] = []
    now = 0.0
    while now <= until:
        for output in endpoint.take_output():
            for event in client.receive(output.data, now):
                seen.append((now, event))
        deadline = endpoint.next_deadline()
        if deadline is None:
            break
        now = max(now, deadline)
        endpoint.handle_timeout(now)
    return seen[1:]


def test_keepalive_mechanism_none(tmp_path: Path) -> None:
    assert driven(tmp_path, GUIDE, 4000) == []


def test_keepalive_mechanism_ping_timeout_and_interval(tmp_path: Path) -> None:
    text = GUIDE.replace('"keepalive_mechanism", 0', '"keepalive_mechanism", 1')
    (first, ping), (second, closing) = driven(tmp_path, text, 100)[:2]
    # After the timeout, and a place of its own in the next, at a round.
    assert 30 <= first <= 62
    assert ping == Ping(b"WebSockets rock")
    assert isinstance(closing, CloseConnection)
    assert (closing.code, closing.reason) == (1011, "keep-alive timed out")
    assert 20 <= second - first <= 22


def test_keepalive_mechanism_pong(tmp_path: Path) -> None:
    text = GUIDE.replace('"keepalive_mechanism", 0', '"keepalive_mechanism", 2')
    seen = driven(tmp_path, text, 150)
    assert [event for _, event in seen] == [Pong(b"WebSockets rock")] * len(seen)
    times = [when for when, _ in seen]
    assert len(times) >= 4
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == pytest.approx([30] * len(gaps)), times


def test_keepalive_mechanism_check(tmp_path: Path) -> None:
    text = GUIDE.replace('"keepalive_mechanism", 0', '"keepalive_mechanism", 3')
    assert driven(tmp_path, text, 150) == []


def test_keepalive_processes(tmp_path: Path) -> None:
    (tmp_path / "kamailio.cfg").write_text(GUIDE)
    settings, notes, _ = load({}, kamailio_cfg=str(tmp_path / "kamailio.cfg"))
    endpoint = Endpoint(endpoint_config(settings), now=0)
    assert notes == []
    assert [endpoint.shard_of(cid) for cid in (1, 2, 3, 4)] == [1, 0, 1, 0]


def test_keepalive_through_sockets(tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    text = GUIDE.replace('"keepalive_timeout", 30', '"keepalive_timeout", 1')
    text = text.replace('"keepalive_interval", 2', '"keepalive_interval", 1')
    config.write_text(text)

    def use(mechanism: int) -> None:
        config.write_text(text.replace('_mechanism", 0', f'_mechanism", {mechanism}'))
        assert service.reload() == "Settings reloaded"

    with contextlib.ExitStack() as stack:
        service = stack.enter_context(
            launched("--kamailio-cfg", str(config), "--idle-timeout", "4")
        )
        silent = stack.enter_context(FrameClient(service, MSRP))
        use(3)
        checked = stack.enter_context(FrameClient(service, MSRP))
        for mechanism, opcode in ((1, Opcode.PING), (2, Opcode.PONG)):
            use(mechanism)
            # Neighbours: both processes have one of them.
            clients = [stack.enter_context(FrameClient(service, MSRP)) for _ in range(2)]
            for client in clients:
                frame = client.frame()
                assert (frame.opcode, bytes(frame.data)) == (opcode, b"WebSockets rock")
        for client in (silent, checked):
            # Nothing comes but the end for having said nothing.
            assert client.frame().opcode is Opcode.CLOSE


def test_keepalive_from_flags() -> None:
    with (
        launched(
            *("--keepalive-timeout", "1", "--keepalive-interval", "0"),
            *("--keepalive-data", "still there?"),
        ) as service,
        FrameClient(service) as client,
    ):
        frame = client.frame()
        assert (frame.opcode, bytes(frame.data)) == (Opcode.PING, b"still there?")


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_dump(guide: Service, place: str) -> None:
    with (
        guide.dial(subprotocols=MSRP) as one,
        guide.dial(subprotocols=MSRP) as two,
    ):
        first, second = id_of(one, guide), id_of(two, guide)
        one.send("used last")
        one.recv()
        for order, expected in (
            ("id_hash", [first, second]),
            ("used_desc", [second, first]),
            ("USED_ASC", [first, second]),
        ):
            code, out, err = guide.ctl("ws.dump", order, place=place)
            assert (code, err) == (0, "")
            heading, *rows = out.splitlines()
            headings = ["ID", "PEER", "LOCAL", "STATE", "IDLE", "SUB-PROTOCOL", "IDENTITY"]
            assert heading.split() == headings
            assert [int(row.split()[0]) for row in rows] == expected
            assert all(row.split()[3] == "OPEN" and row.endswith("msrp") for row in rows)
        code, out, _ = guide.ctl("--json", "ws.dump", "limit=1", place=place)
        result = json.loads(out)
        info = {"wscounter": 1, "truncated": "yes", "next": 1}
        assert (code, result["info"]) == (0, info)
        host, port = guide.address
        scheme = guide.url.partition(":")[0]
        assert re.fullmatch(
            rf"{first}: {scheme}:127\.0\.0\.1:\d+ -> {scheme}:{re.escape(host)}:{port} "
            r"\(state: OPEN,  last used \ds ago, sub-protocol: msrp\)",
            result["connections"][0],
        )
        code, out, err = guide.ctl("ws.dump", "sideways", place=place)
        assert (code, out) == (1, "")
        assert err == "wsproto-sip: 400 Bad display order parameter\n"


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_what_the_server_tells_about_itself(guide: Service, place: str) -> None:
    def result(*arguments: str) -> Any:
        code, out, err = guide.ctl("--json", *arguments, place=place)
        assert (code, err) == (0, "")
        return json.loads(out)

    assert result("core.version") == f"wsproto-sip {__version__}"
    uptime = result("core.uptime")
    assert list(uptime) == ["now", "up_since", "uptime"]
    assert 0 <= uptime["uptime"] < 3600
    names = result("system.listMethods")
    # Those of SIP and of the service besides.
    assert set(COMMAND_NAMES) < set(names)
    assert names == sorted(names) == list(result("core.help"))
    assert result("core.help", "ws.ping") == result("system.methodHelp", "ws.ping")
    assert guide.ctl("ws.none", place=place)[0] == 1
    code, out, _ = guide.ctl("system.listMethods", place=place)
    assert (code, out.splitlines()) == (0, names)


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_settings_while_it_runs(guide: Service, place: str) -> None:
    before = guide.call("cfg.get", "websocket")
    code, out, _ = guide.ctl("cfg.get", "websocket", "keepalive_timeout", place=place)
    assert (code, out) == (0, f"{before['keepalive_timeout']}\n")
    assert guide.ctl("cfg.seti", "websocket", "keepalive_timeout", "77", place=place)[0] == 0
    assert guide.call("cfg.get", "websocket") == before | {"keepalive_timeout": 77}
    guide.call("cfg.seti", "websocket", "keepalive_timeout", before["keepalive_timeout"])
    code, _, err = guide.ctl("cfg.seti", "websocket", "keepalive_timeout", "0", place=place)
    assert code == 1
    assert err.startswith("wsproto-sip: 400 Failed to set the variable")


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_statistics_in_kamailios_forms(guide: Service, place: str) -> None:
    name = "ws_msrp_remote_closed_connections"
    code, out, _ = guide.ctl("--json", "stats.get_statistics", name, place=place)
    value = guide.call("ws.statistics")[name]
    assert (code, json.loads(out)) == (0, [f"websocket:{name} = {value}"])
    code, out, _ = guide.ctl("--json", "cnt.grp_get_all", "websocket", place=place)
    assert (code, sorted(json.loads(out))) == (0, sorted(MODULE_STATISTICS))
    assert guide.ctl("stats.reset_statistics", name, place=place) == (0, "", "")
    assert guide.call("ws.statistics")[name] == 0


def test_drain_sends_the_connections_away_and_lets_none_in(tmp_path: Path) -> None:
    commands = ("--ctl-socket", str(tmp_path / "ctl"))
    with launched(*commands) as service, service.dial() as websocket:
        assert service.call("drain", 0) == {}
        with pytest.raises(ConnectionClosed):
            websocket.recv()
        assert websocket.close_code == 1001
        with pytest.raises(InvalidStatus) as caught, service.dial():
            pass
        assert caught.value.response.status_code == 503


@pytest.mark.skipif(not shutil.which("kamctl"), reason="needs kamctl, of Debian's kamailio")
def test_kamailio_s_own_tool(guide: Service) -> None:
    fifo = Path(guide.places["--fifo"])

    def kamctl(*arguments: str) -> Any:
        done = subprocess.run(
            ["kamctl", "rpc", *arguments],
            env={**os.environ, "CHROOT_DIR": str(fifo.parent.parent), "RPCFIFOPATH": str(fifo)},
            capture_output=True,
            check=True,
            timeout=HANGS,
        )
        return json.loads(done.stdout)

    with guide.dial(subprotocols=MSRP) as websocket:
        cid = id_of(websocket, guide)
        reply = kamctl("ws.dump", "used_desc")
        assert reply["result"]["info"] == guide.call("ws.dump")["info"]
        assert [line for line in lines_of(reply["result"]) if line.startswith(f"{cid}: ws")]
        assert kamctl("ws.close", str(cid))["result"] == {}
        with pytest.raises(ConnectionClosed):
            websocket.recv()
        assert websocket.close_code == 1000
    assert kamctl("ws.ping", str(cid))["error"] == {
        "code": 500,
        "message": "Unknown connection ID",
    }


def test_dump_shows_connections_that_wait_for_a_pong(guide: Service) -> None:
    with FrameClient(guide, MSRP) as client:
        port = client.socket.getsockname()[1]
        [line] = [text for text in lines_of(guide.call("ws.dump")) if f":{port} -> " in text]
        assert guide.call("ws.ping", line.partition(":")[0]) == {}
        # Its Pong is not written before the Ping is read.
        [line] = [text for text in lines_of(guide.call("ws.dump")) if f":{port} -> " in text]
        assert "(state: OPEN, awaiting Pong,  last used " in line
        client.frame()


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_close(guide: Service, place: str) -> None:
    with guide.dial(subprotocols=MSRP) as websocket:
        cid = id_of(websocket, guide)
        assert guide.ctl("ws.close", str(cid), place=place) == (0, "", "")
        with pytest.raises(ConnectionClosed):
            websocket.recv()
        assert websocket.closing == Close(1000, "Normal closure")
    code, out, err = guide.ctl("ws.close", "999999", place=place)
    assert (code, out, err) == (1, "", "wsproto-sip: 500 Unknown connection ID\n")


def test_close_with_a_code_and_a_reason(guide: Service) -> None:
    with guide.dial(subprotocols=MSRP) as websocket:
        assert guide.call("ws.close", id_of(websocket, guide), 4000, "Because I say so") == {}
        with pytest.raises(ConnectionClosed):
            websocket.recv()
        assert websocket.closing == Close(4000, "Because I say so")


def test_ping_and_pong(guide: Service) -> None:
    with guide.dial(subprotocols=MSRP) as websocket:
        cid = id_of(websocket, guide)
        before = guide.call("ws.statistics", "ws_round_trips")["ws_round_trips"]
        assert guide.ctl("ws.pong", str(cid)) == (0, "", "")
        assert guide.ctl("ws.ping", str(cid)) == (0, "", "")
        for _ in range(1000):
            # As soon as its Pong is there; each look takes a round trip.
            now = guide.call("ws.statistics", "ws_round_trips")["ws_round_trips"]
            if now == before + 1:
                break
        else:
            pytest.fail("the ping is not answered")
        websocket.send("after")
        assert websocket.recv() == "after"
    code, _, err = guide.ctl("ws.ping")
    assert (code, err) == (1, "wsproto-sip: 500 Invalid Parameters: id is missing\n")


@pytest.mark.parametrize("place", ["--socket", "--url", "--fifo"])
def test_disable_and_enable(guide: Service, place: str) -> None:
    with guide.dial(subprotocols=MSRP) as websocket:
        assert guide.ctl("ws.disable", place=place) == (0, "", "")
        try:
            assert guide.status(subprotocols=MSRP) == 503
            websocket.send("open ones stay")
            assert websocket.recv() == "open ones stay"
        finally:
            assert guide.ctl("ws.enable", place=place) == (0, "", "")
        assert guide.status(subprotocols=MSRP) == 101


def test_connect(guide: Service) -> None:
    code, out, err = guide.ctl("--json", "ws.connect", guide.url, "msrp")
    assert (code, err) == (0, "")
    cid = json.loads(out)["id"]
    assert guide.call("ws.connect", guide.url, "msrp") == {"id": cid}
    for _ in range(1000):
        # As soon as its handshake is done; each look takes a round trip.
        if f"{cid}: " in "".join(lines_of(guide.call("ws.dump", "state=open"))):
            break
    else:
        pytest.fail("it does not open")
    assert guide.call("ws.close", cid) == {}
    assert guide.call("ws.connect", "http://127.0.0.1/")["code"] == 500


def test_unknown_commands(guide: Service) -> None:
    for place, text in (("--socket", "-32601 Method not found"), ("--fifo", "500 Unknown command")):
        code, out, err = guide.ctl("nothing", place=place)
        assert (code, out) == (1, "")
        assert err == f"wsproto-sip: {text}; core.help lists the commands\n"
        code, _, err = guide.ctl("ws.dum", place=place)
        assert (code, err) == (1, f"wsproto-sip: {text}; did you mean ws.dump?\n")
    assert guide.call("ws.nothing") == {"code": -32601, "message": "Method not found"}


def test_statistics_and_metrics(guide: Service) -> None:
    values = guide.call("ws.statistics")
    assert set(MODULE_STATISTICS) <= set(values)
    with guide.dial(subprotocols=MSRP) as websocket:
        websocket.send("counted")
        websocket.recv()
        url = f"{guide.places['--url']}metrics"
        with urllib.request.urlopen(url) as response:
            text = response.read().decode()
        metrics = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.labels
        }
        now = guide.call("ws.statistics")
        for name in MODULE_STATISTICS:
            # The parser has its own name for counters.
            assert metrics.get(name, metrics.get(f"{name}_total")) == now[name], name
        assert now["ws_msrp_current_connections"] >= 1
        assert now["ws_msrp_received_frames"] > values["ws_msrp_received_frames"]
    code, out, _ = guide.ctl("ws.statistics", "ws_sip_current_connections")
    assert (code, out) == (0, "ws_sip_current_connections  0\n")


# -- events ---------------------------------------------------------------------------------------


def test_closed_is_logged_with_address_and_port() -> None:
    with launched("--log-format", "json") as service:
        with Dialed(f"{service.url}a?b", subprotocols=SIP) as websocket:
            host, port = websocket.address
            websocket.close(4000, "\x1b[31mbye")
        assert status_of(service.url) == 101
        out, err = service.stop()
    assert out == ""
    events = [json.loads(line) for line in err]
    common = {"level": "info", "area": "ws", "connection": 1, "peer": f"{host}:{port}"}
    common |= {"subprotocol": "sip"}
    times = [event.pop("time") for event in events]
    assert times == sorted(times)
    agent = events[0].pop("agent")
    assert agent.startswith("Python")
    asked = {"secure": False, "target": "/a?…", "host": service.url.split("/")[2]}
    assert events[0] == common | {"event": "opened"} | asked
    [closed] = [
        event for event in events if event["event"] == "closed" and event["connection"] == 1
    ]
    assert closed.pop("seconds") >= 0
    assert closed.pop("received_bytes") > 200
    assert closed.pop("sent_bytes") > 100
    assert closed == common | {
        "event": "closed",
        "code": 4000,
        "cause": "remote",
        "by": "peer",
        "received_messages": 0,
        "sent_messages": 0,
        "reason": "\x1b[31mbye",
    }


# -- admission ------------------------------------------------------------------------------------


HA1 = digest_ha1("bob", "the realm", "b:secret", Algorithm.SHA_256)

CONFIG = """\
origin = ["https://communicator.example.com", "missing"]
allowed-host = ["127.0.0.1"]
path = ["/ws", "/rooms/*"]
subprotocol = ["sip", "none"]
max-message-size = 1000
max-per-address = 2
auth-realm = "the realm"
auth-file = "{users}"
"""


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """Start a server with a TOML file; yield both."""
    users, config = tmp_path / "users", tmp_path / "serve.toml"
    users.write_text(f"# users\nalice:secret\n\nbob:the realm:{HA1}\n", encoding="utf-8")
    config.write_text(CONFIG.format(users=users), encoding="utf-8")
    with launched(
        *("--config", str(config), "--ctl-socket", str(tmp_path / "socket")),
    ) as service:
        yield service, config


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def test_admission(strict: tuple[Service, Path]) -> None:
    service, _ = strict
    url, alice = f"{service.url}ws", basic("alice", "secret")
    assert status_of(service.url, additional_headers=alice) == 404
    assert status_of(f"{service.url}rooms/7", additional_headers=alice) == 101
    assert status_of(url, additional_headers=alice, origin="https://evil.example") == 403
    assert status_of(url, additional_headers=alice, origin="null") == 403
    assert status_of(url, additional_headers=alice, origin=ORIGIN) == 101
    port = service.address[1]
    assert status_of(f"ws://localhost:{port}/ws", additional_headers=alice) == 403
    assert status_of(url) == 401
    assert status_of(url, additional_headers=basic("alice", "wrong")) == 401
    assert status_of(url, additional_headers=basic("bob", "b:secret")) == 101
    assert status_of(url, additional_headers=basic("bob", HA1)) == 401
    assert status_of(url, additional_headers=basic("eve", "secret")) == 401
    with Dialed(url, additional_headers=alice) as one, Dialed(url, additional_headers=alice) as two:
        assert status_of(url, additional_headers=alice) == 429
        lines = lines_of(service.call("ws.dump", "identity=alice"))
        assert all(line.endswith(", identity: alice)") for line in lines)
        assert len(lines) == 2
        assert lines_of(service.call("ws.dump", "identity=bob")) == []
        one.send("x" * 1000)
        assert one.recv() == "x" * 1000
        two.send("x" * 1001)
        with pytest.raises(ConnectionClosed):
            two.recv()
        assert two.close_code == 1009


def test_digest(strict: tuple[Service, Path]) -> None:
    service, _ = strict
    url = f"{service.url}ws"
    with pytest.raises(InvalidStatus) as caught, Dialed(url):
        pass
    challenges = caught.value.response.headers.get_all("WWW-Authenticate")
    # One of the users has a SHA-256 hash alone, so that MD5 is not offered.
    assert [text.partition(" ")[0] for text in challenges] == ["Digest", "Basic"]
    found = dict(re.findall(r'(\w+)="?([^",]*)"?', challenges[0]))
    assert (found["realm"], found["algorithm"]) == ("the realm", "SHA-256")

    def authorization(nc: str) -> dict[str, str]:
        response = digest_response(
            HA1, "GET", "/ws", found["nonce"], algorithm=Algorithm.SHA_256, nc=nc, cnonce="c"
        )
        return {
            "Authorization": f'Digest username="bob", realm="the realm", uri="/ws", qop=auth, '
            f'nonce="{found["nonce"]}", nc={nc}, cnonce="c", algorithm=SHA-256, '
            f'response="{response}"'
        }

    assert status_of(url, additional_headers=authorization("00000001")) == 101
    # What was overheard cannot be said again.
    assert status_of(url, additional_headers=authorization("00000001")) == 401
    assert status_of(url, additional_headers=authorization("00000002")) == 101


def test_reload(strict: tuple[Service, Path]) -> None:
    service, config = strict
    url, alice = f"{service.url}ws", basic("alice", "secret")
    users = config.with_name("users")
    with Dialed(url, additional_headers=alice) as before:
        users.write_text("carol:new\n", encoding="utf-8")
        text = CONFIG.format(users=users).replace("= 1000", "= 10").replace('"/ws"', '"/other"')
        config.write_text(f"{text}port = 1\n", encoding="utf-8")
        assert service.reload() == "Settings reloaded"
        assert status_of(url, additional_headers=basic("carol", "new")) == 404
        other = f"{service.url}other"
        assert status_of(other, additional_headers=alice) == 401
        with Dialed(other, additional_headers=basic("carol", "new")) as after:
            after.send("x" * 11)
            with pytest.raises(ConnectionClosed):
                after.recv()
            assert after.close_code == 1009
        before.send("x" * 1000)
        assert before.recv() == "x" * 1000
        # A file that is wrong changes nothing.
        config.write_text('path = ["nowhere"]\norigin = ["any"]\n', encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        assert service.process.stderr is not None
        assert "authentication-failed" in service.process.stderr.readline()
        assert service.process.stderr.readline() == (
            f"wsproto-sip: nothing is reloaded: {config}: path: not an absolute path without a "
            "query: 'nowhere'\n"
        )
        assert status_of(other, additional_headers=basic("carol", "new")) == 101


# -- TLS ------------------------------------------------------------------------------------------


def test_wss_and_a_new_certificate(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    first = issued(cert, key)
    options = ["--tls-cert", str(cert), "--tls-key", str(key), "--ctl-socket", str(tmp_path / "s")]
    with launched(*options) as service:
        assert service.url.startswith("wss://127.0.0.1:")
        with Dialed(service.url, ssl=first, subprotocols=MSRP) as websocket:
            websocket.send("sealed")
            assert websocket.recv() == "sealed"
            [line] = lines_of(service.call("ws.dump"))
            assert re.match(r"1: wss:127\.0\.0\.1:\d+ -> wss:127\.0\.0\.1:\d+ ", line)
        second = issued(cert, key)
        assert service.reload() == "Settings reloaded"
        with Dialed(service.url, ssl=second) as websocket:
            websocket.send("anew")
            assert websocket.recv() == "anew"
        with pytest.raises(ssl.SSLCertVerificationError), Dialed(service.url, ssl=first):
            pass
        cert.write_text("no certificate")
        service.process.send_signal(signal.SIGHUP)
        assert service.process.stderr is not None
        line = service.process.stderr.readline()
        assert line.startswith(f"wsproto-sip: nothing is reloaded: --tls-cert: {cert}: ")
        with Dialed(service.url, ssl=second) as websocket:
            service.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                websocket.recv()
            assert websocket.close_code == 1001


# -- stopping -------------------------------------------------------------------------------------


def test_a_drain_is_spread(tmp_path: Path) -> None:
    paths = [tmp_path / "socket", tmp_path / "fifo"]
    with launched(
        *("--drain-seconds", "1.5", "--ctl-socket", str(paths[0]), "--fifo", str(paths[1])),
        *("--log-format", "json", "--keepalive-interval", "0"),
    ) as service:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Dialed(service.url)) for _ in range(3)]
            _, err = service.stop()
            assert service.process.returncode == 0
        assert [client.close_code for client in clients] == [1001] * 3
    assert [path.exists() for path in paths] == [False, False]
    closed = [event for event in map(json.loads, err) if event["event"] == "closed"]
    assert [event["connection"] for event in closed] == [1, 2, 3]
    assert {event["cause"] for event in closed} == {"shutdown"}
    # One after the other: 0.4 seconds lie between two of them.
    assert len({event["time"] for event in closed}) == 3


def test_what_holds_on_to_a_connection_is_dropped_in_time() -> None:
    with launched("--drain-seconds", "0.2") as service, FrameClient(service) as client:
        # It answers no close frame, because it does not read.
        service.stop()
        assert service.process.returncode == 0
        assert client.frame().opcode is Opcode.CLOSE

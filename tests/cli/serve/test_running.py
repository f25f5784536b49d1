"""``wsproto-sip serve`` inside the test's process."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from wsproto_sip.auth import Account, Algorithm, Identity
from wsproto_sip.cli import main
from wsproto_sip.cli.serve.logs import set_up
from wsproto_sip.cli.serve.service import Service
from wsproto_sip.cli.serve.settings import Loaded, Settings, SettingsError, add_options, load
from wsproto_sip.events import Ping, TextMessage
from wsproto_sip.server.management.commands import DumpCommand, DumpFilter, DumpResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

SIP: Any = ["sip"]


def settings(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_options(parser)
    port = () if "--port" in flags else ("--port", "0")
    return load(vars(parser.parse_args([*port, *flags])))[0]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back to the test runner at the end."""
    names = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = [(number, signal.getsignal(number)) for number in names if number is not None]
    yield
    for number, handler in before:
        signal.signal(number, handler)


class Running:
    """A service, and what it announced."""

    def __init__(self, service: Service, urls: list[str], places: list[str]) -> None:
        self.service = service
        self.url = urls[0]
        self.places = places

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("//")[2].rstrip("/").rpartition(":")
        return host, int(port)

    def dump(self, **wanted: Any) -> DumpResult:
        result = self.service._endpoint.execute(DumpCommand(filter=DumpFilter(**wanted)), 0)
        assert isinstance(result, DumpResult)
        return result


@asynccontextmanager
async def serving(
    *flags: str, reloads: list[tuple[Settings, list[str]] | Exception] | None = None
) -> AsyncIterator[Running]:
    announced = asyncio.Event()

    def read() -> Loaded:
        assert reloads
        found = reloads.pop(0)
        if isinstance(found, Exception):
            raise found
        return Loaded(*found, {})

    service = Service(settings(*flags), read)
    running = asyncio.ensure_future(service.run(announced.set))
    running.add_done_callback(lambda _: announced.set())
    await announced.wait()
    if running.done():
        running.result()
    try:
        yield Running(service, service.urls, service.places)
    finally:
        service.stop(0.0)
        service.stop(0.0)
        await running


async def fetch(service: Running, path: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the body of a plain response."""
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


def test_health_checks_need_no_host_page_or_password(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    users.chmod(0o600)
    strict = ["--allowed-host", "example.com", "--auth-file", str(users), "--no-page"]

    async def scenario() -> None:
        async with serving("--health", "/healthz", "--ready", "/readyz", *strict) as service:
            assert await fetch(service, "/healthz") == (200, "alive\n")
            assert await fetch(service, "/healthz", "HEAD") == (200, "")
            assert await fetch(service, "/readyz") == (200, "ready\n")
            assert (await fetch(service, "/"))[0] in (401, 403)
            service.service._endpoint.enabled = False
            assert await fetch(service, "/healthz") == (200, "alive\n")
            assert await fetch(service, "/readyz") == (503, "not ready\n")
            assert (await fetch(service, "/"))[0] == 503

    run(scenario())


OPTIONS = (
    "OPTIONS sip:sip.test SIP/2.0\r\nVia: SIP/2.0/WS a.invalid;branch=z9hG4bK1\r\n"
    "From: <sip:alice@sip.test>;tag=1\r\nTo: <sip:sip.test>\r\nCall-ID: 1\r\n"
    "CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n\r\n"
)


def test_client_that_comes_while_the_server_starts_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialing: list[asyncio.Task[Any]] = []
    open_listeners = Service._open_listeners

    async def then_a_client_comes(service: Service) -> Any:
        places = await open_listeners(service)
        dialing.append(asyncio.ensure_future(call(service.urls[0])))
        # It gets as far as it can before anything else is started.
        for _ in range(100):
            await asyncio.sleep(0)
        return places

    async def call(url: str) -> str | bytes:
        async with dial(url, subprotocols=SIP) as client:
            await client.send(OPTIONS)
            return await client.recv()

    async def scenario() -> None:
        monkeypatch.setattr(Service, "_open_listeners", then_a_client_comes)
        async with serving("--sip-domain", "sip.test", "--sip-anyone"):
            answer = await dialing[0]
            assert isinstance(answer, str)
            assert answer.startswith("SIP/2.0 200 ")

    run(scenario())


def test_plain_request_without_health_checks_and_page_is_refused() -> None:
    async def scenario() -> None:
        async with serving("--no-page") as service:
            assert (await fetch(service, "/healthz"))[0] == 426

    run(scenario())


@pytest.mark.parametrize("paths", [("healthz", "/r"), ("/h", "/h")])
def test_invalid_paths_of_health_checks_are_refused(paths: tuple[str, str]) -> None:
    async def scenario() -> None:
        with pytest.raises(SettingsError, match="--health and --ready: "):
            async with serving("--health", paths[0], "--ready", paths[1]):
                pass

    run(scenario())


@pytest.mark.parametrize(("mode", "expected"), [(0, None), (1, "*"), (2, "https://a.example")])
def test_cors_modes(mode: int, expected: str | None) -> None:
    async def scenario() -> None:
        origin: Any = "https://a.example"
        pages = ["--origin", "any", "--origin", "missing"]
        async with (
            serving("--cors-mode", str(mode), *pages) as service,
            dial(service.url, origin=origin) as client,
        ):
            assert client.response is not None
            name = "Access-Control-Allow-Origin"
            assert client.response.headers.get(name) == expected
            msrp = [Subprotocol("msrp")]
            # RFC 7977 §7: on MSRP it is told in any case, where there is an Origin.
            for page in (origin, None):
                async with dial(service.url, origin=page, subprotocols=msrp) as other:
                    assert other.response is not None
                    told = other.response.headers.get(name)
                    assert told == ("*" if mode == 1 else page)

    run(scenario())


@pytest.mark.parametrize(
    ("option", "headers", "proxy", "shown"),
    [
        ("forwarded", {"Forwarded": 'for="192.0.2.9:99";proto=https'}, b"", ("wss", 99)),
        (
            "x-forwarded-for",
            {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"},
            b"",
            ("wss", None),
        ),
        ("proxy-protocol", {}, b"PROXY TCP4 192.0.2.9 192.0.2.1 99 443\r\n", ("ws", 99)),
    ],
)
def test_trusted_proxies(
    option: str, headers: dict[str, str], proxy: bytes, shown: tuple[str, int | None]
) -> None:
    async def scenario() -> None:
        flags = ["--trusted-proxy", "127.0.0.1", "--proxy-header", option, "--sip-anyone"]
        async with serving(*flags) as service:
            sock = socket.create_connection(service.address)
            sock.sendall(proxy)
            async with dial(service.url, sock=sock, additional_headers=headers):
                [info] = service.dump(address="192.0.2.9").connections
                assert (info.secure, info.peer_port) == (shown[0] == "wss", shown[1])

    run(scenario())


def test_the_server_s_order_of_sub_protocols() -> None:
    async def scenario() -> None:
        offers: Any = ["msrp", "sip"]
        for prefer, chosen in (("client", "msrp"), ("server", "sip")):
            async with (
                serving("--prefer", prefer) as service,
                dial(service.url, subprotocols=offers) as client,
            ):
                assert client.subprotocol == chosen

    run(scenario())


def test_without_deflate() -> None:
    async def scenario() -> None:
        for flags, count in ((["--no-deflate"], 0), (["--deflate"], 1), ([], 1)):
            async with serving(*flags) as service, dial(service.url) as client:
                assert len(client.protocol.extensions) == count

    run(scenario())


@pytest.mark.parametrize(("flags", "bound"), [([], 65536), (["--max-message-size", "100"], 100)])
@pytest.mark.parametrize("name", ["sip", "msrp"])
def test_messages_on_sip_and_msrp_are_bounded_by_the_smaller_limit(
    name: str, flags: list[str], bound: int
) -> None:
    async def scenario() -> None:
        async with (
            serving(*flags) as service,
            dial(service.url, subprotocols=[name]) as client,  # type: ignore[list-item]
        ):
            # Nor are they compressed, which would tell of a secret by what stands beside it.
            assert client.protocol.extensions == []
            await client.send("x" * bound)
            await client.send("\r\n\r\n")
            assert await client.recv() == ("\r\n" if name == "sip" else "x" * bound)
            await client.send("x" * (bound + 1))
            await client.wait_closed()
            assert client.close_code == 1009

    run(scenario())


def test_a_connection_beyond_a_limit_is_refused() -> None:
    async def scenario() -> None:
        for flag, status in (("--max-connections", 503), ("--max-per-address", 429)):
            async with serving(flag, "1") as service, dial(service.url):
                with pytest.raises(InvalidStatus) as caught:
                    async with dial(service.url):
                        pass
                assert caught.value.response.status_code == status

    run(scenario())


def test_what_our_own_connections_bring_is_not_echoed() -> None:
    async def scenario() -> None:
        async with serving() as there, serving() as here:
            endpoint, loop = here.service._endpoint, asyncio.get_running_loop()
            cid = endpoint.connect(there.url, loop.time())
            here.service._server.pump()
            while not there.dump().connections:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            [info] = there.dump().connections
            other = there.service._endpoint
            while there.dump().connections[0].state.value != "OPEN":  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert other.statistics.values()["ws_received_frames"] == 0
            other.send(info.id, TextMessage("would go on for ever"), loop.time())
            other.send(info.id, Ping(), loop.time())
            there.service._server.pump()
            # The Pong comes after what would be an echo.
            while not other.statistics.values()["ws_received_frames"]:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert endpoint.statistics.values()["ws_received_frames"] == 2
            assert other.statistics.values()["ws_received_frames"] == 1
            endpoint.close(cid, now=loop.time())

    run(scenario())


def test_reloading(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        reloads: list[tuple[Settings, list[str]] | Exception] = [
            SettingsError("the file is gone"),
            (settings("--path", "relative"), []),
            (
                settings("--path", "/a", "--keepalive-processes", "2", "--fifo", "/elsewhere"),
                ["a note"],
            ),
        ]
        async with serving(reloads=reloads) as service:
            service.service.reload()
            service.service.reload()
            async with dial(service.url):
                pass
            service.service.reload()
            with pytest.raises(InvalidStatus):
                async with dial(service.url):
                    pass
            async with dial(f"{service.url}a"):
                pass

    run(scenario())
    out, err = capfd.readouterr()
    assert out == "Settings reloaded\n"
    assert err.splitlines() == [
        "wsproto-sip: nothing is reloaded: the file is gone",
        (
            "wsproto-sip: nothing is reloaded: --path: not an absolute path without a query: "
            "'relative'"
        ),
        "wsproto-sip: a note",
        "wsproto-sip: only a restart changes keepalive-processes, fifo",
    ]


def test_a_realm_takes_a_restart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Hashes are for one realm: those of another one would lock out every user."""
    users = tmp_path / "users"

    def realm(name: str) -> Settings:
        return settings("--sip-users", str(users), "--auth-realm", name)

    async def scenario() -> None:
        users.write_text(f"alice:one:{'a' * 32}\n", encoding="utf-8")
        flags = ["--sip-users", str(users), "--auth-realm", "one"]
        async with serving(*flags, reloads=[(realm("two"), [])] * 2) as service:
            service.service.reload()
            assert service.service._sip is not None
            authenticator = service.service._sip.application.edge.authenticator
            assert authenticator is not None
            hashes = {Algorithm.MD5: "a" * 32}
            assert authenticator.users == {"alice": Account(Identity("alice"), ha1=hashes)}
            users.write_text(f"alice:two:{'a' * 32}\n", encoding="utf-8")
            service.service.reload()

    run(scenario())
    assert capfd.readouterr().err.splitlines() == [
        "wsproto-sip: only a restart changes auth-realm",
        (
            f"wsproto-sip: nothing is reloaded: --sip-users: {users}: line 1: "
            "the hash is for realm 'two', not 'one'"
        ),
    ]


def test_tls_takes_a_restart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "both.pem")
    )
    secured = settings("--tls-cert", str(tmp_path / "both.pem"))

    async def scenario() -> None:
        async with serving(reloads=[(secured, [])]) as service:
            service.service.reload()
            async with dial(service.url):
                pass
        async with serving("--tls-cert", *secured.tls_cert, reloads=[(settings(), [])]) as tls:
            assert tls.url.startswith("wss://")
            tls.service.reload()

    run(scenario())
    assert (
        capfd.readouterr().err.splitlines()
        == [
            "wsproto-sip: only a restart changes tls-cert",
        ]
        * 2
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    set_up(log_format)

    async def scenario() -> None:
        async with serving("--path", "/a") as service:
            async with dial(f"{service.url}a", subprotocols=SIP) as client:
                await client.close(4000, "\x1b[31m bye")
            with pytest.raises(InvalidStatus):
                async with dial(service.url):
                    pass

    try:
        run(scenario())
    finally:
        set_up(None)
    lines = capfd.readouterr().err.splitlines()
    assert "\x1b" not in "".join(lines)
    if log_format == "json":
        events = [json.loads(line)["event"] for line in lines]
        assert sorted(events) == ["closed", "opened", "refused", "stopping"]
    else:
        [closed] = [line for line in lines if " closed " in line]
        assert closed.endswith(r' reason="\u001b[31m bye"')
        assert " subprotocol=sip code=4000 cause=remote by=peer received_messages=0 " in closed


def test_unusable_addresses_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    path = str(tmp_path / "file")

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = str(sock.getsockname()[1])
            for flags, expected in (
                (
                    ["--port", port],
                    f"--port: cannot listen on 127.0.0.1:{port}: Address already in use",
                ),
                (["--ctl-http", port], f"--ctl-http: cannot listen on http://127.0.0.1:{port}/: "),
                (["--fifo", path], f"--fifo: cannot listen on {path}: "),
                (
                    ["--ctl-socket", path],
                    f"--ctl-socket: cannot listen on {path}: {path} is not a socket",
                ),
                (
                    ["--host", "300.0.0.1", "--origin", "any", "--sip-anyone"],
                    "--port: cannot listen on 300.0.0.1:0: ",
                ),
                (["--host", "300.0.0.1", "--origin", "any"], "--sip-users: state who may "),
            ):
                with pytest.raises(SettingsError) as caught:
                    async with serving(*flags):
                        pass
                assert str(caught.value).startswith(expected)

    run(scenario())
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_line_from_start_to_stop(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Service._obey_signals

    def stop_at_once(self: Service) -> None:
        started(self)
        self.stop()

    monkeypatch.setattr(Service, "_obey_signals", stop_at_once)
    (tmp_path / "kamailio.cfg").write_text('modparam("websocket", "keepalive_timeout", 0)\n')
    code = main(["serve", "--port", "0", "--kamailio-cfg", str(tmp_path / "kamailio.cfg")])
    out, err = capfd.readouterr()
    assert code == 0
    assert out.startswith("Listening on ws://127.0.0.1:")
    assert "Sub-protocols sip; " in out
    assert "keepalive_timeout = 0 is not 1 to 3600: 180 is used" in err


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--host", "0.0.0.0"], "--origin: state which web pages may connect to 0.0.0.0"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: No such file or directory"),
        (["--origin", "https://EXAMPLE.com"], "--origin: not an origin as browsers send it"),
    ],
)
def test_settings_that_do_not_work(
    flags: list[str], error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"wsproto-sip: {error}")
    assert err.count("\n") == 1

"""The SIP server of ``wsproto-sip serve``: its settings, and the server with telephones."""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.adapters._sip import HOST, Core, SocketPhone, call, phone
from tests.peers._support import run
from wsproto_sip.adapters.endpoint_server import EndpointServer
from wsproto_sip.cli.settings import Settings, SettingsError
from wsproto_sip.cli.setup import endpoint_config
from wsproto_sip.cli.sip import SipFiles, sip_files, sip_line, sip_reload, sip_service
from wsproto_sip.policy.digest import Algorithm, digest_ha1
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.sip import SipUri
from wsproto_sip.sip.edge_config import EdgeConfig, EdgeMode, Upstream

from ._service import Service, launched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsproto_sip.adapters.sip_edge import SipService

PUBLIC = Settings(host="192.0.2.1")
KEYS = "# newest first\n" + "ab" * 16 + "\n\n" + "0C" * 32 + "\n"


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def service_of(settings: Settings, look: Callable[[SipService], object], port: int = 8080) -> Any:
    """What is seen of a service that these settings make."""

    async def scenario() -> object:
        endpoint = Endpoint(endpoint_config(Settings()), now=0.0)
        server = EndpointServer(endpoint, lambda cid, event: None)
        files = sip_files(settings)
        assert files is not None
        service = sip_service(settings, server, files, [(settings.host, port)])
        found = look(service)
        await server.close()
        return found

    return run(scenario())


def config_of(settings: Settings) -> EdgeConfig:
    found = service_of(settings, lambda service: service.application.edge.config)
    assert isinstance(found, EdgeConfig)
    return found


# -- what the settings mean ------------------------------------------------------------------------


def test_a_newcomer_needs_none() -> None:
    assert sip_files(Settings()) == SipFiles(None, ())
    config = config_of(Settings())
    assert (config.host, config.port, config.mode) == ("127.0.0.1", 8080, EdgeMode.OUTBOUND)
    assert config.own_domains.has(SipUri.parse("sip:alice@whatever.example"))
    assert config.upstream is None


def test_others_have_domains() -> None:
    settings = replace(
        PUBLIC, sip_anyone=True, sip_name="edge.example", sip_mode="alias", sip_identity=False
    )
    config = config_of(settings)
    assert (config.host, config.mode, config.check_identity) == (
        "edge.example",
        EdgeMode.ALIAS,
        False,
    )
    assert config.own_domains.names == ("edge.example",)
    assert not config.own_domains.any_host
    config = config_of(replace(settings, sip_domain=("example.com", "2001:db8::1")))
    assert config.own_domains.names == ("example.com", "[2001:db8::1]")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "--sip-users: state who may register at 192.0.2.1"),
        ({"sip_anyone": False, "host": "127.0.0.1"}, "--sip-users: state who may register"),
        ({"host": "::1", "trusted_proxy": ("10.0.0.0/8",)}, "--sip-users: state who may"),
        ({"sip_anyone": True, "sip_challenge": True}, "--sip-challenge: there are no --sip-users"),
        ({"sip_anyone": True, "host": "0.0.0.0"}, "--sip-name: under which name"),
        ({"sip_anyone": True, "sip_name": "a b"}, "--sip-name: 'a b' is no host"),
        ({"sip_anyone": True, "sip_domain": ("a b",)}, "--sip-domain: 'a b' is no host"),
        ({"subprotocol": ("msrp",), "sip_domain": ("a",)}, "--sip-domain: sip is not among"),
        ({"subprotocol": ("none",), "upstream": "udp:a:1"}, "--upstream: sip is not among"),
        ({"upstream_local": "127.0.0.1"}, "--upstream-local: there is no --upstream"),
        ({"upstream": "udp:a:1", "sip_users": "x"}, "--sip-users: the upstream registers"),
        ({"upstream": "udp:a:1", "upstream_local": "0.0.0.0"}, "--upstream-local: '0.0.0.0'"),
        ({"upstream": "udp:a:1", "upstream_local": "a:0"}, "--upstream-local: 'a:0' is no HOST"),
        ({"upstream": "udp:a:1", "upstream_local": "a:70000"}, "--upstream-local: 'a:70000'"),
    ],
)
def test_what_does_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sip_files(replace(PUBLIC, **fields))
    assert str(caught.value).startswith(message)


def test_without_sip_there_are_no_files() -> None:
    assert sip_files(replace(PUBLIC, subprotocol=("msrp", "none"))) is None


@pytest.mark.parametrize("fields", [{"auth_file": "x"}, {"upstream": "tcp:core.example:5060"}])
def test_somebody_else_may_know_the_users(fields: dict[str, Any]) -> None:
    assert sip_files(replace(PUBLIC, **fields)) == SipFiles(None, ())


def test_files(tmp_path: Path) -> None:
    users = written(tmp_path / "users", "alice:wonderland\n")
    keys = written(tmp_path / "keys", KEYS)
    files = sip_files(replace(PUBLIC, sip_users=users, sip_flow_keys=keys))
    assert files is not None
    assert files.users is not None
    assert "alice" in files.users
    assert files.flow_keys == (b"\xab" * 16, b"\x0c" * 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys: there is no key in it"),
        ("\nab\n", "keys: line 2: not 32 or more hexadecimal digits"),
        ("abc" * 11, "keys: line 1: not 32 or more"),
        (b"\xe9", "keys: not ASCII"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path / "keys", text)
    with pytest.raises(SettingsError, match=message):
        sip_files(Settings(sip_flow_keys=path))


def test_users_that_cannot_be(tmp_path: Path) -> None:
    path = written(tmp_path / "users", "alice\n")
    with pytest.raises(SettingsError, match="users: line 1"):
        sip_files(Settings(sip_users=path))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    for fields in ({"sip_users": path}, {"sip_flow_keys": path}):
        with pytest.raises(SettingsError, match="nowhere: No such file"):
            sip_files(Settings(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "local", "expected"),
    [
        ("udp:127.0.0.1:5060", "127.0.0.1:5080", ("127.0.0.1", 5060, "127.0.0.1", 5080, "udp")),
        ("tcp:[::1]:5060", "[::1]:5080", ("[::1]", 5060, "[::1]", 5080, "tcp")),
        ("tcp:core.test:5060", "edge.test:5080", ("core.test", 5060, "edge.test", 5080, "tcp")),
    ],
)
def test_an_upstream(word: str, local: str, expected: tuple[str, int, str, int, str]) -> None:
    config = config_of(replace(PUBLIC, upstream=word, upstream_local=local))
    assert config.upstream == Upstream("upstream", *expected)
    assert not config.own_domains.any_host
    config = config_of(Settings(upstream=word, upstream_local=local, upstream_datagram_limit=65535))
    assert config.upstream == Upstream("upstream", *expected, datagram_limit=None)


def test_where_an_upstream_reaches_this_side() -> None:
    upstream = config_of(Settings(upstream="udp:127.0.0.1:5060")).upstream
    assert upstream is not None
    assert upstream.local_host == "127.0.0.1"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as sock:
            sock.bind(("127.0.0.1", upstream.local_port))


def test_a_port_has_to_be_free_for_udp_and_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is taken, the second try finds one; anything else is an error."""
    failures = [OSError(98, "Address already in use"), None, OSError(99, "No such address")]

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            failure = failures.pop(0) if self.type == socket.SOCK_DGRAM else None
            if failure is not None:
                raise failure
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    settings = Settings(upstream="udp:127.0.0.1:5060", upstream_local="127.0.0.1")
    assert service_of(settings, lambda service: 7) == 7
    assert len(failures) == 1
    with pytest.raises(SettingsError, match=r"--upstream: udp:127\.0\.0\.1:5060: .*address"):
        service_of(settings, lambda service: 7)


@pytest.mark.parametrize(
    "word", ["udp:a", "tls:a:1", "udp:a:70000", "udp:a b:1", "udp:[::1:5", "udp:::1:5060", "a:1"]
)
def test_an_upstream_that_cannot_be(word: str) -> None:
    with pytest.raises(SettingsError, match=r"--upstream: .* is no udp:HOST:PORT or tcp:HOST:PO"):
        sip_files(replace(PUBLIC, upstream=word))


def test_an_upstream_that_nobody_knows() -> None:
    with pytest.raises(SettingsError, match=r"--upstream: udp:core\.invalid:5060: "):
        service_of(Settings(upstream="udp:core.invalid:5060"), lambda service: 7)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "SIP for any domain; anybody may register"),
        ({"sip_domain": ("a.test", "b.test")}, "SIP for a.test, b.test; anybody may register"),
        (
            {"sip_users": "users"},
            "SIP for any domain; users register by password, and anybody may call them",
        ),
        (
            {"sip_users": "users", "sip_challenge": True},
            "SIP for any domain; users register by password",
        ),
        ({"auth_file": "x"}, "SIP for any domain; users register under the name they connect with"),
        (
            {"upstream": "tcp:[::1]:5060", "upstream_local": "[::1]:5080"},
            "SIP edge of tcp:[::1]:5060, which reaches it at [::1]:5080",
        ),
    ],
)
def test_what_there_is_to_say(tmp_path: Path, fields: dict[str, Any], line: str) -> None:
    if "sip_users" in fields:
        fields = {**fields, "sip_users": written(tmp_path / "users", "alice:wonderland\n")}
    settings = Settings(**fields)
    assert service_of(settings, lambda service: sip_line(settings, service)) == line


def test_reloading(tmp_path: Path) -> None:
    users = written(tmp_path / "users", "alice:wonderland\n")
    settings = Settings(sip_users=users)

    def look(service: SipService) -> list[bool]:
        edge = service.application.edge
        written(tmp_path / "users", "bob:builder\n")
        again = sip_files(replace(settings, sip_flow_keys=written(tmp_path / "keys", KEYS)))
        assert again is not None
        sip_reload(service, again)
        assert edge.authenticator is not None
        found = [edge.authenticator.knows(name) for name in ("alice", "bob")]
        # What is no longer named changes nothing.
        sip_reload(service, SipFiles(None, ()))
        return [*found, edge.authenticator.knows("bob")]

    assert service_of(settings, look) == [False, True, True]


# -- with telephones -------------------------------------------------------------------------------


async def written_to(one: SocketPhone, other: SocketPhone, text: str) -> None:
    """A message, and its answer."""
    one.send("MESSAGE", other.aor, ("Content-Type", "text/plain"), body=text.encode())
    message = await other.request("MESSAGE")
    assert message.body.decode() == text
    other.answer(message, 200)
    await one.response(200)


@pytest.mark.parametrize("mode", ["outbound", "alias"])
def test_telephones_register_message_and_call(mode: str) -> None:
    async def scenario(url: str) -> None:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            await written_to(alice, bob, "Grüße, 世界 🎉")
            await written_to(bob, alice, "back")
            here, there = await call(alice, bob)
            there.send("INFO")
            alice.answer(await alice.request("INFO"), 200)
            await bob.response(200)
            here.send("BYE")
            bob.answer(await bob.request("BYE"), 200)
            await alice.response(200)
            alice.send("MESSAGE", "sip:nobody@sip.test")
            await alice.response(404)
            assert (await bob.register(expires=0)).status == 200
            alice.send("MESSAGE", bob.aor)
            assert (await alice.response()).status in (404, 480)
            alice.send("OPTIONS", "sip:sip.test")
            await alice.response(200)

    with launched("--sip-mode", mode) as service:
        run(scenario(service.url))
        out, err = service.stop()
    assert (out, err) == ("", [])


def test_users_with_passwords(tmp_path: Path) -> None:
    ha1 = digest_ha1(Algorithm.MD5, "bob", "sip.test", "builder")
    users = written(tmp_path / "users", f"alice:wonderland\nbob:sip.test:{ha1}\n")
    flags = ["--sip-users", users, "--sip-challenge", "--auth-realm", "sip.test"]
    flags += ["--sip-domain", "sip.test"]

    async def scenario(url: str) -> None:
        async with (
            phone(url, "alice", password="wonderland") as alice,
            phone(url, "bob", password="builder") as bob,
            phone(url, "bob", password="wrong", registers=False) as eve,
        ):
            assert (await eve.register()).status == 401
            assert (await eve.ask("MESSAGE", alice.aor)).status == 407
            asking = asyncio.ensure_future(alice.ask("MESSAGE", bob.aor, body=b"it is me"))
            message = await bob.request("MESSAGE")
            # The proof is this server's affair and nobody else's.
            assert message.get("proxy-authorization") is None
            bob.answer(message, 200)
            assert (await asking).status == 200
            # Whoever says who he is cannot say that he is somebody else.
            stolen = await alice.ask("MESSAGE", bob.aor, sender="<sip:bob@sip.test>;tag=1")
            assert stolen.status == 403

    with launched(*flags) as service:
        assert "SIP for sip.test; users register by password" in service.announced
        run(scenario(service.url))


def test_users_of_the_handshake_need_no_other_password(tmp_path: Path) -> None:
    users = written(tmp_path / "users", "alice:wonderland\n")

    async def scenario(url: str) -> None:
        where = url.replace("//", "//alice:wonderland@")
        async with phone(where, "alice") as alice:
            await written_to(alice, alice, "to myself")
            for sender in ("<sip:bob@sip.test>;tag=1", "<sip:alice@else.invalid>;tag=1"):
                alice.send("MESSAGE", alice.aor, sender=sender)
                await alice.response(403)
        async with phone(where, "bob", registers=False) as bob:
            assert (await bob.register()).status == 403

    with launched("--auth-file", users, "--auth-scheme", "basic") as service:
        run(scenario(service.url))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no Unix here")
def test_sighup_reads_users_and_keys(tmp_path: Path) -> None:
    users = written(tmp_path / "users", "alice:wonderland\nbob:builder\n")
    keys = written(tmp_path / "keys", "aa" * 16)
    flags = ["--sip-users", users, "--sip-flow-keys", keys]

    async def scenario(url: str, reload: Callable[[], str]) -> None:
        async with (
            phone(url, "alice", password="wonderland") as alice,
            phone(url, "bob", password="builder") as bob,
        ):
            here, _ = await call(alice, bob)
            written(tmp_path / "users", "alice\n")
            service.process.send_signal(signal.SIGHUP)
            assert service.process.stderr is not None
            assert "nothing is reloaded: " in service.process.stderr.readline()
            assert (await alice.register()).status == 200
            written(tmp_path / "users", "alice:alice\ncarol:carol\n")
            # The old key opens what it has sealed, and the new one seals.
            written(tmp_path / "keys", "bb" * 16 + "\n" + "aa" * 16)
            assert reload() == "Settings reloaded"
            here.send("INFO")
            bob.answer(await bob.request("INFO"), 200)
            await alice.response(200)
            assert (await alice.register()).status == 401
            alice.password = "alice"
            assert (await alice.register()).status == 200
            assert (await bob.register()).status == 401
            async with phone(url, "carol", password="carol") as carol:
                await written_to(carol, alice, "new here")
            written(tmp_path / "keys", "bb" * 16)
            assert reload() == "Settings reloaded"
            here.send("INFO")
            await alice.response(403)

    with launched(*flags) as service:
        run(scenario(service.url, service.reload))


@pytest.mark.parametrize(("kept", "status"), [(True, 430), (False, 403)])
def test_a_restart(tmp_path: Path, kept: bool, status: int) -> None:
    """Whoever comes back with an old route is told that it is gone, or nobody's."""
    keys = written(tmp_path / "keys", KEYS)
    flags = ["--sip-flow-keys", keys] if kept else []

    async def before(url: str) -> list[str]:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            here, _ = await call(alice, bob)
            return [here.target, here.remote, *here.route]

    async def after(url: str, target: str, remote: str, *route: str) -> None:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            fields = [("Route", value) for value in route]
            alice.send("BYE", target, *fields, to=remote, call_id="old")
            await alice.response(status)
            await written_to(alice, bob, "there again")

    with launched(*flags) as service:
        port = str(service.address[1])
        found = run(before(service.url))
        service.stop()
    # The same port, so that the routes of before name this server.
    with launched(*flags, "--port", port) as service:
        run(after(service.url, *found))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_edge_of_an_upstream(transport: str) -> None:
    core = Core(transport)
    local = core.upstream.local_port
    where = f"{transport}:{HOST}:{core.port}"
    flags = ["--upstream", where, "--upstream-local", f"{HOST}:{local}"]

    async def calls(url: str, send: Callable[[bytes], None]) -> None:
        async with phone(url, "alice") as alice:
            [register] = [request for request in core.requests if request.method == "REGISTER"]
            assert register.paths[0].sip_uri.port == local
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert core.requests[-1].body == b"there"
            request = core.request(alice, transport.upper(), body=b"back")
            if transport == "udp":
                send(request)
            else:
                _, writer = await asyncio.open_connection(HOST, local)
                writer.write(request)
            message = await alice.request("MESSAGE")
            assert message.body == b"back"
            alice.answer(message, 200)
            if transport == "tcp":
                writer.close()
                await writer.wait_closed()

    async def scenario(service: Service) -> None:
        ended = asyncio.Event()

        async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await core.attach(reader, writer)
            await writer.wait_closed()
            ended.set()

        async with await asyncio.start_server(attach, sock=sock), core.datagrams() as send:
            await calls(service.url, send)
            service.process.terminate()
            if transport == "tcp":
                await ended.wait()

    # It connects as soon as it starts.
    with socket.create_server((HOST, core.port)) as sock, launched(*flags) as service:
        assert f"SIP edge of {where}, which reaches it at {HOST}:{local}" in service.announced
        run(scenario(service))


def test_an_address_for_the_upstream_that_is_in_use() -> None:
    with socket.create_server((HOST, 0)) as sock:
        local = f"{HOST}:{sock.getsockname()[1]}"
        flags = ["--upstream", f"tcp:{HOST}:5060", "--upstream-local", local]
        with pytest.raises(AssertionError, match="Address already in use"), launched(*flags):
            pass

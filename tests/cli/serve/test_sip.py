"""The SIP server of ``wsproto-sip serve``: its settings, and the server with telephones."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.adapters._sip import HOST, Core, SocketPhone, call, phone
from tests.peers._support import run
from tests.sip._phones import Dialog
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.auth import Algorithm, digest_ha1, timed_credentials
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import endpoint_config, timed_accounts
from wsproto_sip.cli.serve.sip import SipFiles, sip_files, sip_line, sip_reload, sip_service
from wsproto_sip.cli.serve.upstreams import UpstreamSet
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import SipLimits, SipUri
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.registrar.registrar import RegistrarConfig

from .._service import Service, launched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsproto_sip.adapters.asyncio.sip import SipService

PUBLIC = Settings(host="192.0.2.1")
KEYS = "# newest first\n" + "ab" * 16 + "\n\n" + "0C" * 32 + "\n"


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def service_of(settings: Settings, look: Callable[[SipService], object], port: int = 8080) -> Any:
    """Return the description of a service with these settings."""

    async def scenario() -> object:
        endpoint = Endpoint(endpoint_config(Settings()), now=0.0)
        server = EndpointServer(endpoint, lambda cid, event: None)
        files = sip_files(settings)
        assert files is not None
        upstreams = await UpstreamSet(settings).find() if settings.upstream else ()
        service = sip_service(settings, server, files, [(settings.host, port)], upstreams=upstreams)
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
    assert config.upstreams == ()


def test_bounds_are_those_of_the_library_unless_they_are_given() -> None:
    plain, config = EdgeConfig("edge.test"), config_of(Settings())
    for name in ("ring_timeout", "max_users_per_connection", "limits"):
        assert getattr(config, name) == getattr(plain, name)
    given = replace(
        Settings(),
        sip_ring_seconds=400.0,
        sip_max_users_per_connection=500,
        sip_max_header_size=8192,
        sip_max_message_size=131_072,
    )
    config = config_of(given)
    assert (config.ring_timeout, config.max_users_per_connection) == (400.0, 500)
    assert config.limits == SipLimits(max_header_line=8192, max_message_size=131_072)
    # What the WebSocket does not let through is nothing to promise.
    assert config_of(replace(given, max_message_size=5000)).limits.max_message_size == 5000


def test_times_and_contacts_of_registrations_can_be_given() -> None:
    def config_of_registrar(settings: Settings) -> object:
        def look(service: SipService) -> object:
            registrar = service.application.edge.registrar
            return None if registrar is None else registrar.config

        return service_of(settings, look)

    domains = config_of(Settings()).own_domains
    assert config_of_registrar(Settings()) == RegistrarConfig(domains)
    given = replace(
        Settings(),
        sip_min_expires=10,
        sip_default_expires=20,
        sip_max_expires=30,
        sip_flow_timer=40,
        sip_max_contacts=50,
        sip_binding_bytes="70000,address=5000",
        sip_max_users_per_connection=60,
    )
    assert config_of_registrar(given) == RegistrarConfig(
        domains,
        min_expires=10,
        default_expires=20,
        max_expires=30,
        flow_timer=40,
        max_contacts=50,
        binding_bytes=ShareConfig(70_000, per_address=5000),
        max_aors_per_flow=60,
    )
    with pytest.raises(SettingsError, match="--sip-max-expires: not in this order"):
        sip_files(replace(Settings(), sip_max_expires=30))


def test_shares_are_those_of_the_edge_unless_they_are_given() -> None:
    plain, config = EdgeConfig("edge.test"), config_of(Settings())
    for name in ("transactions", "pending_bytes", "requests_per_second"):
        assert getattr(config, name) == getattr(plain, name)
    given = replace(
        Settings(), sip_transactions="5,user=3", sip_pending_bytes="600", sip_rate="7,address=2"
    )
    config = config_of(given)
    assert config.transactions == ShareConfig(5, per_user=3)
    assert config.pending_bytes == ShareConfig(600)
    assert config.requests_per_second == ShareConfig(7, per_address=2)


def test_others_have_domains() -> None:
    settings = replace(
        PUBLIC, sip_anyone=True, sip_name=("edge.example",), sip_mode="alias", sip_identity=False
    )
    config = config_of(settings)
    assert (config.host, config.mode, config.check_identity) == (
        "edge.example",
        EdgeMode.ALIAS,
        False,
    )
    assert config.own_domains.names == ("edge.example",)
    assert config.names == (("edge.example", None),)
    names = ("edge.example", "sip.example.com:8443", "2001:db8::1", "[2001:db8::2]:443")
    assert config_of(replace(settings, sip_name=names)).names == (
        ("edge.example", None),
        ("sip.example.com", 8443),
        ("[2001:db8::1]", None),
        ("[2001:db8::2]", 443),
    )
    assert not config.own_domains.any_host
    config = config_of(replace(settings, sip_domain=("example.com", "2001:db8::1")))
    assert config.own_domains.names == ("example.com", "[2001:db8::1]")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "--sip-users: state who may register at 192.0.2.1"),
        ({"sip_anyone": False, "host": "127.0.0.1"}, "--sip-users: state who may register"),
        ({"host": "::1", "trusted_proxy": ("10.0.0.0/8",)}, "--sip-users: state who may"),
        ({"sip_anyone": True, "sip_challenge": True}, "--sip-challenge: requires --sip-users"),
        ({"sip_anyone": True, "host": "0.0.0.0"}, "--sip-name: under which name"),
        ({"sip_anyone": True, "sip_name": ("a b",)}, "--sip-name: 'a b' is not NAME or NAME:PORT"),
        ({"sip_anyone": True, "sip_name": ("a", "b:70000")}, "--sip-name: 'b:70000' is not NAME"),
        ({"sip_anyone": True, "sip_domain": ("a b",)}, "--sip-domain: 'a b' is not a host"),
        ({"subprotocol": ("msrp",), "sip_domain": ("a",)}, "--sip-domain: sip is not among"),
        ({"subprotocol": ("none",), "upstream": ("sip:a:1",)}, "--upstream: sip is not among"),
        ({"upstream_local": "127.0.0.1"}, "--upstream-local: requires --upstream"),
        ({"sip_anyone": True, "sip_assert_identity": True}, "--sip-assert-identity: requires"),
        ({"upstream": ("sip:a:1",), "sip_users": "x"}, "--sip-users: the upstream registers"),
        ({"upstream": ("sip:a:1",)}, "--upstream: state who may send to it from 192.0.2.1"),
        ({"upstream": ("sip:a:1",), "upstream_local": "0.0.0.0"}, "--upstream-local: '0.0.0.0'"),
        ({"upstream": ("sip:a:1",), "upstream_local": "a:0"}, "--upstream-local: 'a:0' is not"),
        ({"upstream": ("sip:a:1",), "upstream_local": "a:70000"}, "--upstream-local: 'a:70000'"),
    ],
)
def test_incompatible_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sip_files(replace(PUBLIC, **fields))
    assert str(caught.value).startswith(message)


def test_files_are_not_read_without_sip() -> None:
    assert sip_files(replace(PUBLIC, subprotocol=("msrp", "none"))) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"auth_file": "x"},
        {"auth_file": "x", "upstream": ("sip:core.example:5060;transport=tcp",)},
        {"sip_anyone": True, "upstream": ("sip:core.example:5060;transport=tcp",)},
        {"host": "127.0.0.1", "upstream": ("sip:core.example:5060;transport=tcp",)},
    ],
)
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
def test_invalid_keys_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path / "keys", text)
    with pytest.raises(SettingsError, match=message):
        sip_files(Settings(sip_flow_keys=path))


def test_invalid_users_are_refused(tmp_path: Path) -> None:
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
        ("sip:127.0.0.1:5060", "127.0.0.1:5080", ("127.0.0.1", 5060, "127.0.0.1", 5080, "udp")),
        ("sip:[::1];transport=tcp", "[::1]:5080", ("[::1]", 5060, "[::1]", 5080, "tcp")),
        (
            "sip:core.test:5060;transport=TCP",
            "edge.test:5080",
            ("core.test", 5060, "edge.test", 5080, "tcp"),
        ),
    ],
)
def test_an_upstream(word: str, local: str, expected: tuple[str, int, str, int, str]) -> None:
    settings = replace(PUBLIC, sip_anyone=True, upstream=(word,), upstream_local=local)
    config = config_of(settings)
    (upstream,) = config.upstreams
    assert upstream == Upstream(upstream.name, *expected, tls_name=expected[0].strip("[]"))
    assert not config.own_domains.any_host
    config = config_of(
        Settings(upstream=(word,), upstream_local=local, upstream_datagram_limit=65535)
    )
    assert config.upstreams == (replace(upstream, datagram_limit=None),)


def test_where_an_upstream_reaches_this_side() -> None:
    (upstream,) = config_of(Settings(upstream=("sip:127.0.0.1:5060",))).upstreams
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
    settings = Settings(upstream=("sip:127.0.0.1:5060",), upstream_local="127.0.0.1")
    assert service_of(settings, lambda service: 7) == 7
    assert len(failures) == 1
    with pytest.raises(SettingsError, match=r"--upstream: sip:127\.0\.0\.1:5060: .*address"):
        service_of(settings, lambda service: 7)


def test_an_unresolvable_upstream_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--upstream: sip:core\.invalid:5060: "):
        service_of(Settings(upstream=("sip:core.invalid:5060",)), lambda service: 7)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "SIP for any domain; strangers may register under any name"),
        (
            {"sip_domain": ("a.test", "b.test")},
            "SIP for a.test, b.test; strangers may register under any name",
        ),
        (
            {"sip_users": "users"},
            "SIP for any domain; strangers may call and write to users, but not in the name of one",
        ),
        (
            {"sip_users": "users", "sip_challenge": False},
            "SIP for any domain; strangers may call and write to users, in any name",
        ),
        (
            {"sip_users": "users", "sip_challenge": True},
            "SIP for any domain; strangers may do nothing",
        ),
        ({"auth_file": "x"}, "SIP for any domain; strangers cannot connect"),
        (
            {"upstream": ("sip:[::1]:5060;transport=tcp",), "upstream_local": "[::1]:5080"},
            (
                "SIP edge of sip:[::1]:5060;transport=tcp, which reaches it at [::1]:5080; "
                "strangers may send to it, to telephone numbers once it has registered them"
            ),
        ),
        (
            {
                "upstream": ("sip:[::1]:5060;transport=tcp",),
                "upstream_local": "[::1]:5080",
                "sip_domain": ("a.test", "b.test"),
            },
            (
                "SIP edge of sip:[::1]:5060;transport=tcp, which reaches it at [::1]:5080; "
                "strangers may send to a.test, b.test, elsewhere once it has registered them"
            ),
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
    """Send a message; return its answer."""
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
    ha1 = digest_ha1("bob", "sip.test", "builder")
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
            # The credentials are for this server only.
            assert message.get("proxy-authorization") is None
            bob.answer(message, 200)
            assert (await asking).status == 200
            # An authenticated user cannot claim to be another one.
            stolen = await alice.ask("MESSAGE", bob.aor, sender="<sip:bob@sip.test>;tag=1")
            assert stolen.status == 403

    with launched(*flags) as service:
        assert "SIP for sip.test; strangers may do nothing" in service.announced
        run(scenario(service.url))


def test_users_with_only_sha_256_hashes(tmp_path: Path) -> None:
    ha1 = digest_ha1("bob", "sip.test", "builder", Algorithm.SHA_256)
    users = written(tmp_path / "users", f"alice:wonderland\nbob:sip.test:{ha1}\n")
    flags = ["--sip-users", users, "--auth-realm", "sip.test", "--sip-domain", "sip.test"]

    async def scenario(url: str) -> None:
        async with (
            phone(url, "alice", password="wonderland"),
            phone(url, "bob", password="builder"),
            phone(url, "bob", password="wrong", registers=False) as eve,
        ):
            assert (await eve.register()).status == 401

    with launched(*flags) as service:
        run(scenario(service.url))


def test_credentials_that_expire(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", "a secret of sixteen bytes\n")
    users = written(tmp_path / "users", "")
    flags = ["--sip-users", users, "--auth-realm", "sip.test", "--sip-domain", "sip.test"]
    later = int(time.time()) + 600
    name, password = timed_credentials(b"a secret of sixteen bytes", "alice", later)

    async def scenario(url: str) -> None:
        async with phone(url, "alice", password=password, registers=False) as alice:
            alice.login = name
            assert (await alice.register()).status == 200
            alice.login = f"{later + 1}:alice"
            assert (await alice.register()).status == 401

    with launched(*flags, "--auth-secret", secret) as service:
        run(scenario(service.url))


@pytest.mark.parametrize(
    ("text", "message"), [("short", "secret: the secret must have at least 16"), (None, "No such")]
)
def test_an_invalid_secret_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        written(tmp_path / "secret", text)
    with pytest.raises(SettingsError, match=f"--auth-secret: .*{message}"):
        timed_accounts(Settings(sip_users="x", auth_secret=str(tmp_path / "secret")))


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
    """A client with an old route learns that it is gone, or not a valid one."""
    keys = written(tmp_path / "keys", KEYS)
    flags = ["--sip-flow-keys", keys] if kept else []

    async def before(url: str) -> Dialog[SocketPhone]:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            here, _ = await call(alice, bob)
            return here

    async def after(url: str, here: Dialog[SocketPhone]) -> None:
        async with phone(url, "alice") as alice, phone(url, "bob") as bob:
            here.phone = alice
            here.send("BYE")
            await alice.response(status)
            await written_to(alice, bob, "there again")

    with launched(*flags) as service:
        port = str(service.address[1])
        found = run(before(service.url))
        service.stop()
    # The same port, so that the routes of before name this server.
    with launched(*flags, "--port", port) as service:
        run(after(service.url, found))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_edge_of_an_upstream(transport: str) -> None:
    core = Core(transport)
    local = core.upstream.local_port
    where = f"sip:{HOST}:{core.port};transport={transport}"
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
        name = where.removesuffix(";transport=udp")
        line = f"SIP edge of {name}, which reaches it at {HOST}:{local}; strangers may "
        assert any(text.startswith(line) for text in service.announced)
        run(scenario(service))


def test_an_address_for_the_upstream_that_is_in_use() -> None:
    with socket.create_server((HOST, 0)) as sock:
        local = f"{HOST}:{sock.getsockname()[1]}"
        flags = ["--upstream", f"sip:{HOST}:5060;transport=tcp", "--upstream-local", local]
        with pytest.raises(AssertionError, match="Address already in use"), launched(*flags):
            pass

"""The MSRP relay of ``wsproto-sip serve``: its settings, and the server with clients."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.adapters._endpoint import CLIENT_TLS, HOST, SERVER_TLS
from tests.adapters._msrp import USERS, Client, PeerNode, client, serving
from tests.peers._redis import RedisServer, needs_redis, redis_server
from tests.peers._support import ROOT, run
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.location import NodeEntry
from wsproto_sip.auth import Account, Algorithm, Identity, digest_ha1
from wsproto_sip.cli.serve.msrp import (
    join_relay,
    msrp_application,
    msrp_peers,
    msrp_users,
    node_host,
    relay_uri,
)
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import endpoint_config
from wsproto_sip.msrp import (
    Authenticated,
    AuthenticationFailed,
    MessageDelivered,
    MessageFailed,
    MessageReceived,
    MsrpEvent,
    MsrpUri,
)
from wsproto_sip.server.endpoint import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from wsproto_sip.msrp import MsrpSession

INSECURE = Settings(allow_insecure_msrp=True)


def users_of(tmp_path: Path, text: str | bytes, settings: Settings = INSECURE) -> Any:
    file = tmp_path / "users"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return msrp_users(replace(settings, msrp_users=str(file)))


# -- users -----------------------------------------------------------------------------------------


def test_msrp_is_not_offered_without_users() -> None:
    assert msrp_users(Settings()) is None


def test_users_with_passwords_and_hashes(tmp_path: Path) -> None:
    hashed = digest_ha1("carol", "wsproto-sip", "c-secret")
    text = f"# ours\nalice:a-secret:with:colons\n\ncarol:wsproto-sip:{hashed}\n"
    assert users_of(tmp_path, text) == {
        "alice": Account(Identity("alice"), "a-secret:with:colons"),
        "carol": Account(Identity("carol"), ha1={Algorithm.MD5: hashed}),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice", "line 1: not user:password"),
        (b"\xff:\xff", "not UTF-8"),
        (
            f"carol:wsproto-sip:{'0' * 64}\ndave:wsproto-sip:{'0' * 32}",
            r"for the same algorithm; not all have one for MD5 \(carol\) or SHA-256 \(dave\)",
        ),
    ],
)
def test_invalid_users_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        users_of(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: No such file"):
        msrp_users(replace(INSECURE, msrp_users=str(tmp_path / "nowhere")))


# -- what fits together ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "--msrp-users: MSRP needs wss"),
        ({"allow_insecure_msrp": True, "subprotocol": ("sip",)}, "msrp is not among"),
        ({"allow_insecure_msrp": True, "host": "0.0.0.0"}, "--msrp-name: under which"),
        ({"allow_insecure_msrp": True, "msrp_peer": ("bob",)}, "'bob' is not NAME=HOST:PORT"),
        (
            {"allow_insecure_msrp": True, "msrp_min_expires": 61, "msrp_max_expires": 60},
            "--msrp-min-expires: 61 is above 60",
        ),
    ],
)
def test_incompatible_options_are_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        users_of(tmp_path, "alice:a", Settings(**fields))


@pytest.mark.parametrize("fields", [{"tls_cert": ("x",)}, {"trusted_proxy": ("10.0.0.0/8",)}])
def test_where_clients_can_have_wss(tmp_path: Path, fields: dict[str, Any]) -> None:
    users = users_of(tmp_path, "alice:a", Settings(**fields))
    assert users == {"alice": Account(Identity("alice"), "a")}


def test_peers() -> None:
    settings = Settings(msrp_peer=("bob=bob.example:2855", "dan=[2001:db8::1]:2856"))
    assert msrp_peers(settings) == {
        "bob": ("bob.example", 2855),
        "dan": ("[2001:db8::1]", 2856),
    }


@pytest.mark.parametrize(
    "words",
    [
        ("bob=bob.example",),
        ("=bob.example:2855",),
        ("bob=bob.example:70000",),
        ("bob=bob example:2855",),
        ("bob=[2001:db8::1:2855",),
        ("bob=a:1", "bob=b:2"),
    ],
)
def test_invalid_peers_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="--msrp-peer: "):
        msrp_peers(Settings(msrp_peer=words))


@pytest.mark.parametrize(
    ("settings", "address", "uri"),
    [
        (Settings(), ("192.0.2.1", 443), "msrps://192.0.2.1:443;ws"),
        (Settings(msrp_name="relay.example"), ("::", 443), "msrps://relay.example:443;ws"),
        (INSECURE, ("::1", 80), "msrp://[::1]:80;ws"),
        (Settings(msrp_name="[::1]"), ("::", 443), "msrps://[::1]:443;ws"),
    ],
)
def test_what_clients_are_to_call_it(settings: Settings, address: Any, uri: str) -> None:
    assert relay_uri(settings, [address]) == uri


def test_an_invalid_name_is_refused() -> None:
    async def scenario() -> None:
        server = EndpointServer(
            Endpoint(endpoint_config(Settings()), now=0.0), lambda cid, event: None
        )
        with pytest.raises(SettingsError, match="'a b' is not a host"):
            msrp_application(replace(INSECURE, msrp_name="a b"), server, {}, [(HOST, 1)])

    run(scenario())


@pytest.mark.parametrize(
    ("shortest", "longest", "default"),
    [(60, 3600, 900), (1, 30, 30), (1800, 3600, 1800), (900, 900, 900)],
)
def test_how_long_sessions_may_last(shortest: int, longest: int, default: int) -> None:
    settings = replace(INSECURE, msrp_min_expires=shortest, msrp_max_expires=longest)

    async def scenario() -> None:
        endpoint = Endpoint(endpoint_config(settings), now=asyncio.get_running_loop().time())
        server = EndpointServer(endpoint, lambda *event: service.handle(*event))  # noqa: PLW0108  # not there yet
        ((_, port),) = addresses = await server.listen(HOST, 0)
        service = msrp_application(settings, server, USERS, addresses)
        relay = MsrpUri.parse(relay_uri(settings, addresses).encode())
        url = f"ws://{HOST}:{port}/"
        granted = []
        for asked in (None, 0, 100_000):
            async with client(url, "alice", relay=relay, expires=asked) as alice:
                granted.append((await alice.until(Authenticated)).expires)
        assert granted == [default, shortest, longest]
        await service.close()
        await server.close()

    run(scenario())


# -- with clients ----------------------------------------------------------------------------------


def port_of(session: MsrpSession) -> int | None:
    return session.path[0].port


@pytest.mark.parametrize("name", [None, "relay.example"])
def test_relay_with_tls(name: str | None) -> None:
    """Its URIs are msrps, and no client without TLS stays."""

    async def scenario() -> None:
        settings = Settings(msrp_name=name)
        endpoint = Endpoint(endpoint_config(settings), now=asyncio.get_running_loop().time())
        server = EndpointServer(endpoint, lambda *event: service.handle(*event))  # noqa: PLW0108  # not there yet
        ((_, secure),) = await server.listen(HOST, 0, tls=SERVER_TLS)
        ((_, plain),) = await server.listen(HOST, 0)
        addresses = [(HOST, secure)]
        service = msrp_application(settings, server, USERS, addresses)
        relay = MsrpUri.parse(relay_uri(settings, addresses).encode())
        assert relay.secure
        async with (
            client(f"wss://{HOST}:{secure}/", "alice", relay=relay, tls=CLIENT_TLS) as alice,
            client(f"ws://{HOST}:{plain}/", "carol", relay=relay) as carol,
        ):
            await alice.until(Authenticated)
            assert alice.session.path[0].secure
            assert port_of(alice.session) == secure
            await carol.until_ended()
            assert carol.websocket.close_reason == "MSRP needs wss"
        await service.close()
        await server.close()

    run(scenario())


async def started(*options: str) -> tuple[asyncio.subprocess.Process, list[str]]:
    """``wsproto-sip serve``, and the lines up to its guide."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsproto_sip", "serve", "--port", "0", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = []
    while not (line := (await process.stdout.readline()).decode()).startswith("Sub-protocols"):
        if not line:
            break
        lines.append(line.rstrip("\n"))
    return process, lines


def test_serve_is_a_relay_for_clients_and_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("alice:a-secret\n")

    async def scenario() -> None:
        process, lines = await started(
            *("--msrp-users", str(file), "--allow-insecure-msrp"),
            *("--msrp-peer", "bob=127.0.0.1:2855", "--msrp-peer-port", "0"),
        )
        assert process.stdout is not None
        url = lines[0].removeprefix("Listening on ")
        offer, peers = [line for line in lines if line.startswith("MSRP ")]
        relay = MsrpUri.parse(offer.removeprefix("MSRP relay ").encode())
        host, _, port = peers.removeprefix("MSRP peers on ").partition(":")
        assert (await process.stdout.readline()).startswith(b"Without a sub-protocol, every")
        bob = PeerNode(HOST, 2855)
        bob.attach(*await asyncio.open_connection(host, int(port)))
        async with client(url, "alice", relay=relay) as alice:
            await alice.until(Authenticated)
            alice.session.connect((bob.session.local,))
            bob.session.connect(alice.session.path)
            bob.send(b"to alice", success_report=True)
            assert (await alice.until(MessageReceived)).body == b"to alice"
            await bob.until(MessageDelivered)
            alice.send(b"to bob")
            assert (await bob.until(MessageReceived)).body == b"to bob"
            async with client(url, "carol", relay=relay) as carol:
                await carol.until(AuthenticationFailed)
                # Users are read again.
                file.write_text("carol:c-secret\n")
                process.send_signal(1)
                while b"reloaded" not in await process.stdout.readline():
                    pass
                carol.session.authenticate(carol.now())
                carol.wake()
                await carol.until(Authenticated)
        await bob.stop()
        process.terminate()
        _, errors = await process.communicate()
        assert process.returncode == 0
        [failed] = errors.decode().splitlines()
        assert failed.endswith("service=msrp cause=wrong user=carol")

    run(scenario())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "MSRP needs wss"),
        (
            (
                *("--allow-insecure-msrp", "--msrp-peer-port", "0"),
                *("--msrp-peer", "bob=127.0.0.1:1", "--msrp-peer", "dan=127.0.0.1:2"),
            ),
            "--msrp-peer: peers bob and dan have the same address",
        ),
    ],
)
def test_serve_refuses_to_start(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    file = tmp_path / "users"
    file.write_text("alice:a-secret\n")

    async def scenario() -> None:
        process, lines = await started("--msrp-users", str(file), *options)
        _, errors = await process.communicate()
        assert lines == []
        assert process.returncode == 2
        assert message in errors.decode()

    run(scenario())


def test_a_port_for_peers_that_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("alice:a-secret\n")

    async def scenario() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, HOST, 0) as taken:
            port = taken.sockets[0].getsockname()[1]
            process, _ = await started(
                *("--msrp-users", str(file), "--allow-insecure-msrp"),
                *("--msrp-peer-port", str(port)),
            )
            _, errors = await process.communicate()
            assert process.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port}" in errors.decode()

    run(scenario())


# -- nodes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "name", "host"),
    [
        ("one", "chat.example.com", "one.chat.example.com"),
        ("one/2", "chat.example.com", "one-2-926ef797.chat.example.com"),
        ("one-2", "chat.example.com", "one-2.chat.example.com"),
        ("10.0.0.1:5070", "chat.example.com", "10-0-0-1-5070-5c2023fc.chat.example.com"),
        ("one", "192.0.2.1", "one.invalid"),
        ("one", "[2001:db8::1]", "one.invalid"),
        ("::", "chat.example.com", "node-a27c1534.chat.example.com"),
    ],
)
def test_hosts_of_nodes_differ(node: str, name: str, host: str) -> None:
    assert node_host(node, name) == host
    MsrpUri.build(host)


async def outcome(talker: Client, body: bytes) -> MessageDelivered | MessageFailed:
    """Send a message and wait for what becomes of it."""
    message = talker.send(body, success_report=True)

    def is_its(event: MsrpEvent) -> bool:
        return isinstance(event, MessageDelivered | MessageFailed) and event.message_id == message

    event = await talker.until(object, is_its)  # type: ignore[arg-type]
    assert isinstance(event, MessageDelivered | MessageFailed)
    return event


@needs_redis
def test_clients_of_two_nodes(tmp_path: Path) -> None:
    users, keys = tmp_path / "users", tmp_path / "keys"
    users.write_text("alice:a-secret\ncarol:c-secret\n")
    keys.write_text("ab" * 32 + "\n")
    keys.chmod(0o600)

    async def scenario(redis: RedisServer) -> None:
        nodes = []
        for name in ("one", "two"):
            process, lines = await started(
                *("--msrp-users", str(users), "--allow-insecure-msrp", "--msrp-node-port", "0"),
                *("--msrp-name", "chat.example", "--store", redis.url, "--node-name", name),
                *("--node-listen", f"{HOST}:0", "--sip-flow-keys", str(keys)),
            )
            offer, where = [line for line in lines if line.startswith("MSRP ")]
            assert where.startswith("MSRP nodes on 127.0.0.1:")
            relay = MsrpUri.parse(offer.removeprefix("MSRP relay ").encode())
            nodes.append((process, lines[0].removeprefix("Listening on "), relay))
        (one, url, relay), (two, other_url, other_relay) = nodes
        async with client(url, "alice", relay=relay) as alice:
            await alice.until(Authenticated)
            async with client(other_url, "carol", relay=other_relay) as carol:
                await carol.until(Authenticated)
                hosts = [talker.session.path[0].host for talker in (alice, carol)]
                assert hosts == ["one.chat.example", "two.chat.example"]
                alice.session.connect(carol.session.path)
                carol.session.connect(alice.session.path)
                # The first node learns of the second within a second or so.
                while not isinstance(ended := await outcome(alice, b"to carol"), MessageDelivered):
                    assert ended.status == 403
                assert (await carol.until(MessageReceived)).body == b"to carol"
                carol.send(b"to alice")
                assert (await alice.until(MessageReceived)).body == b"to alice"
            # It is gone at once, and the other node is told so.
            two.kill()
            await two.wait()
            failed = await outcome(alice, b"too late")
            assert isinstance(failed, MessageFailed)
            assert failed.status in (408, 481)
        for process in (one, two):
            if process.returncode is None:
                process.terminate()
            await process.communicate()

    with redis_server() as redis:
        run(scenario(redis))


def test_a_port_for_nodes_that_is_taken() -> None:
    async def scenario() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, HOST, 0) as taken:
            port = taken.sockets[0].getsockname()[1]
            settings = Settings(msrp_node_port=port, node_listen=f"{HOST}:0")
            location: Any = SimpleNamespace(entry=NodeEntry("one", "1", HOST, 5070))
            async with serving() as relay:
                with pytest.raises(SettingsError, match=f"port: cannot listen on {HOST}:{port} "):
                    await join_relay(relay.service, settings, location, None)

    run(scenario())


def test_nodes_without_msrp_are_passed_over() -> None:
    async def scenario() -> None:
        other = NodeEntry("two", "1", HOST, 5071)
        extra = {"msrp-host": "two.chat.example", "msrp-port": "5081"}
        location: Any = SimpleNamespace(entry=NodeEntry("one", "1", HOST, 5070), others={})
        async with serving() as relay:
            settings = Settings(msrp_node_port=0, node_listen=f"{HOST}:0")
            (address,) = await join_relay(relay.service, settings, location, None)
            assert location.entry.extra == {
                "msrp-host": "relay.example",
                "msrp-port": str(address[1]),
            }
            strange = [{}, {"msrp-host": "a b", "msrp-port": "1"}, extra | {"msrp-port": "x"}]
            for values in [*strange, extra]:
                location.others = {"two": replace(other, extra=values)}
                location.on_others()
                assert relay.relay.nodes == (values is extra)

    run(scenario())

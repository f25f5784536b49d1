"""The options of a node, what is wrong with them, and what the start says."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.adapters._sip import HOST, free_port
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run
from wsproto_sip.adapters.asyncio.location import LocationService, NodeEntry
from wsproto_sip.cli.serve.nodes import (
    check_nodes,
    location_service,
    node_line,
    node_tls,
    store_families,
    takes_commands,
)
from wsproto_sip.cli.serve.settings import Settings, SettingsError

from .._service import launched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NODE = Settings(store="redis://store.example", sip_flow_keys="keys", node_listen="127.0.0.1:5070")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Certificates, keys and passwords."""
    authority = trustme.CA()
    issued = authority.issue_cert("nodes.example")
    paths = {name: str(tmp_path / name) for name in ("ca", "cert", "key", "chain", "word", "keys")}
    authority.cert_pem.write_to_path(paths["ca"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    issued.private_key_pem.write_to_path(paths["key"])
    issued.private_key_and_cert_chain_pem.write_to_path(paths["chain"])
    (tmp_path / "word").write_text("se:cr@t\n")
    (tmp_path / "keys").write_text("ab" * 32 + "\n")
    return paths


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"node_listen": "localhost:0"},
        {"node_listen": "[::1]:5070", "store": "unix:///run/redis.sock"},
        {"node_listen": "10.0.0.1:5070", "node_network": ("10.0.0.0/24",)},
        {"node_listen": "node.example:5070", "node_tls_cert": "c", "node_tls_ca": "a"},
        {"store": "rediss://a", "store_tls_ca": "x", "store_tls_cert": "x", "store_tls_key": "x"},
        {"store": "redis+sentinel://a/b", "store_sentinel_password": "x"},
    ],
)
def test_what_fits_together(fields: dict[str, Any]) -> None:
    check_nodes(Settings())
    check_nodes(replace(NODE, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"store": None}, "--node-listen: requires --store"),
        ({"store": None, "node_listen": None, "store_prefix": "x"}, "--store-prefix: requires"),
        ({"subprotocol": ("msrp",)}, "--store: sip is not among --subprotocol"),
        ({"upstream": ("sip:a:1",)}, "--store: not together with --upstream"),
        ({"sip_mode": "alias"}, "--store: requires --sip-mode outbound"),
        ({"sip_flow_keys": None}, "--sip-flow-keys: required with --store"),
        ({"store": "http://a"}, "--store: not of the form redis"),
        ({"store_tls_ca": "x"}, "--store-tls-ca: --store is not reached over TLS"),
        ({"store": "rediss://a", "store_tls_key": "x"}, "--store-tls-key: requires"),
        ({"store_sentinel_password": "x"}, "--store-sentinel-password: --store has no Sentinels"),
        ({"node_listen": None}, "--node-listen: required with --store"),
        ({"node_listen": "127.0.0.1"}, "--node-listen: '127.0.0.1' is not HOST:PORT"),
        ({"node_listen": "0.0.0.0:5070"}, "--node-listen: '0.0.0.0:5070' is not HOST:PORT"),
        ({"node_listen": "[::]:5070"}, "--node-listen: '[::]:5070' is not HOST:PORT"),
        ({"node_listen": "a b:5070"}, "--node-listen: 'a b:5070' is not HOST:PORT"),
        ({"node_listen": "a:70000"}, "--node-listen: 'a:70000' is not HOST:PORT"),
        ({"node_listen": "10.0.0.1:1"}, "--node-listen: state how other nodes are known at 10."),
        ({"node_network": ("10.0.0.0/8",)}, "--node-network: 127.0.0.1 of --node-listen is not"),
        ({"node_network": ("nowhere",)}, "--node-network: 'nowhere' does not appear"),
        ({"node_tls_key": "x"}, "--node-tls-key: requires --node-tls-cert"),
        ({"node_tls_cert": "x"}, "--node-tls-cert: requires --node-tls-ca"),
    ],
)
def test_incompatible_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_nodes(replace(NODE, **fields))
    assert str(caught.value).startswith(message)


def made(settings: Settings, look: Callable[[LocationService], Any]) -> Any:
    """Return what there is to see of a store's service that is not opened."""

    async def scenario() -> Any:
        service = location_service(settings)
        assert service is not None
        found = look(service)
        await service.close()
        return found

    return run(scenario())


def test_a_node(files: dict[str, str]) -> None:
    assert run(nothing(Settings())) is None
    entry = made(NODE, lambda service: service.entry)
    assert (entry.name, entry.host, entry.port, entry.transport) == (
        *("127.0.0.1:5070", "127.0.0.1", 5070, "tcp"),
    )
    assert entry.boot != made(NODE, lambda service: service.entry).boot
    named = replace(NODE, node_name="a/1", node_listen="[::1]:0", node_tls_cert=files["cert"])
    entry = made(named, lambda service: service.entry)
    assert (entry.name, entry.host, entry.transport) == ("a/1", "[::1]", "tls")
    assert entry.port > 0


async def nothing(settings: Settings) -> LocationService | None:
    return location_service(settings)


@pytest.mark.parametrize(
    ("fields", "admitted"),
    [
        ({}, ["127.0.0.9"]),
        ({"node_network": ("127.0.0.0/8", "10.0.0.0/8")}, ["127.0.0.9", "10.1.2.3"]),
        ({"node_tls_cert": "c"}, ["127.0.0.9", "10.1.2.3", "192.0.2.1", "node.example"]),
    ],
)
def test_which_other_nodes_are_ours(fields: dict[str, Any], admitted: list[str]) -> None:
    hosts = ["127.0.0.9", "10.1.2.3", "192.0.2.1", "node.example"]

    def look(service: LocationService) -> list[str]:
        return [
            host
            for host in hosts
            if service._admits is None or service._admits(NodeEntry("x", "1", host, 1))
        ]

    assert made(replace(NODE, **fields), look) == admitted


def test_passwords(files: dict[str, str]) -> None:
    def look(service: LocationService) -> object:
        pool = service.engine.client.connection_pool  # type: ignore[attr-defined]
        return pool.connection_kwargs.get("password")

    assert made(replace(NODE, store="redis://:p%40q@store.example"), look) == "p@q"
    assert made(replace(NODE, store_password=files["word"]), look) == "se:cr@t"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\n", "not a password of 1 to 4096 bytes"),
        (b"x" * 5000, "not a password"),
        (b"\xff", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_invalid_passwords(tmp_path: Path, text: bytes | None, message: str) -> None:
    path = tmp_path / "word"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SettingsError, match=f"--store-password: .*word: {message}"):
        run(nothing(replace(NODE, store_password=str(path))))


def test_certificates_for_the_store(files: dict[str, str]) -> None:
    secure = replace(NODE, store="rediss://a")
    usable: dict[str, Any] = {"store_tls_ca": files["ca"], "store_tls_cert": files["cert"]}
    run(nothing(replace(secure, **usable, store_tls_key=files["key"])))
    for name in ("ca", "cert"):
        for path, reason in (("nowhere", "No such file"), (files["word"], "n")):
            fields: dict[str, Any] = {f"store_tls_{name}": path}
            with pytest.raises(SettingsError, match=f"--store-tls-{name}: {path}: {reason}"):
                run(nothing(replace(secure, **fields)))
    with pytest.raises(SettingsError, match=f"--store-tls-cert: {files['cert']}: not a certif"):
        run(nothing(replace(secure, **usable)))


def test_names_that_cannot_be_used() -> None:
    with pytest.raises(SettingsError, match="--node-name: 'ä': the name of a node"):
        run(nothing(replace(NODE, node_name="ä")))
    with pytest.raises(SettingsError, match=r"--node-listen: 192\.0\.2\.1:0: "):
        run(nothing(replace(NODE, node_listen="192.0.2.1:0")))


def test_redis_py_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SettingsError, match=r'--store: .*pip install "wsproto-sip\[redis\]"'):
        run(nothing(NODE))


def test_certificates_of_nodes(files: dict[str, str], tmp_path: Path) -> None:
    assert node_tls(NODE) == (None, None)
    for chain, key in ((files["cert"], files["key"]), (files["chain"], None)):
        given = replace(NODE, node_tls_ca=files["ca"], node_tls_cert=chain, node_tls_key=key)
        client, server = node_tls(given)
        assert client is not None
        assert server is not None
        # Each side has to show a certificate; the names in it are for the links to compare.
        assert (client.verify_mode, server.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_REQUIRED)
        assert not client.check_hostname
    with pytest.raises(SettingsError, match="--node-tls-ca: nowhere: "):
        node_tls(replace(NODE, node_tls_cert=files["chain"], node_tls_ca="nowhere"))
    with pytest.raises(SettingsError, match=r"--node-tls-cert: .*cert: "):
        node_tls(replace(NODE, node_tls_cert=files["cert"], node_tls_ca=files["ca"]))
    encrypted = tmp_path / "encrypted"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(SettingsError, match="--node-tls-cert: "):
        node_tls(
            replace(
                NODE,
                node_tls_cert=files["cert"],
                node_tls_key=str(encrypted),
                node_tls_ca=files["ca"],
            )
        )


def test_what_there_is_to_say() -> None:
    named = replace(NODE, store="redis://u:secret@a:7000", node_name="one")
    line = made(named, lambda service: node_line(named, service))
    assert line == (
        "Node one, which others reach over TCP at 127.0.0.1:5070; "
        "registrations are shared at a:7000"
    )
    unix = replace(NODE, store="unix:///run/redis.sock", node_tls_cert="c")
    line = made(unix, lambda service: node_line(unix, service))
    assert line.endswith("at 127.0.0.1:5070; registrations are shared at /run/redis.sock")
    assert "with certificates" in line
    line = made(NODE, lambda service: node_line(NODE, service))
    assert line.endswith(
        "registrations are shared at store.example:6379; "
        "commands for other nodes are off, because the store has no password"
    )


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, False),
        ({"store": "rediss://store.example"}, False),
        ({"store": "redis://user@store.example"}, False),
        ({"store": "redis+sentinel://127.0.0.1,10.0.0.1/name"}, False),
        ({"store": "redis+cluster://127.0.0.1,store.example"}, False),
        ({"store": "redis://:word@store.example"}, True),
        ({"store_password": "file"}, True),
        ({"store": "rediss://store.example", "store_tls_cert": "file"}, True),
        ({"store": "redis://127.0.0.1"}, True),
        ({"store": "valkey://localhost"}, True),
        ({"store": "redis://[::1]"}, True),
        ({"store": "redis+sentinel://127.0.0.1,127.0.0.2/name"}, True),
        ({"store": "unix:///run/redis.sock"}, True),
    ],
)
def test_commands_are_taken_from_a_store_that_only_nodes_reach(
    fields: dict[str, Any], taken: bool
) -> None:
    assert takes_commands(replace(NODE, **fields)) is taken


def test_nodes_out_of_reach_are_counted_while_they_are_there() -> None:
    def look(service: LocationService) -> list[str]:
        service.others = {"two": NodeEntry("two", "1", HOST, 1)}
        families = {family.name: family for family in store_families(service, {"two", "gone"})}
        return families["wsproto_sip_nodes_out_of_reach"].lines

    assert made(NODE, look)[-1] == "wsproto_sip_nodes_out_of_reach 1"


def test_metrics() -> None:
    families = made(NODE, store_families)
    values = {family.name: family for family in families}
    assert len(values) == 9
    assert all(family.text for family in families)


# -- as processes ----------------------------------------------------------------------------------


def refusal(files: dict[str, str], store: str, *arguments: str) -> str:
    """Return why a server does not start."""
    with (
        pytest.raises(AssertionError) as caught,
        launched(
            *("--store", store, "--sip-flow-keys", files["keys"]),
            *(() if "--node-listen" in arguments else ("--node-listen", f"{HOST}:0")),
            *arguments,
        ),
    ):
        pass
    return str(caught.value)


@needs_redis
def test_a_wrong_password_ends_the_start(files: dict[str, str]) -> None:
    with redis_server("--requirepass", "right") as redis:
        assert "wsproto-sip: --store: " in refusal(files, redis.url)
        assert "wsproto-sip: --store: " in refusal(
            files, redis.url, "--store-password", files["word"]
        )
        where = redis.url.replace("://", "://:right@")
        keys = ("--sip-flow-keys", files["keys"])
        with launched("--store", where, *keys, "--node-listen", f"{HOST}:0") as service:
            assert "right" not in "".join(service.announced)
            service.stop()


@needs_redis
def test_a_port_in_use_ends_the_start(files: dict[str, str]) -> None:
    with redis_server() as redis, socket.create_server((HOST, 0)) as taken:
        where = f"{HOST}:{taken.getsockname()[1]}"
        said = refusal(files, redis.url, "--node-listen", where)
    assert f"cannot listen on {where} for nodes: Address already in use" in said


@needs_redis
def test_a_store_that_comes_later(files: dict[str, str], tmp_path: Path) -> None:
    """The start does not wait for it, but the node is not ready before."""
    port = free_port()
    with launched(
        *("--store", f"redis://{HOST}:{port}", "--sip-flow-keys", files["keys"]),
        *("--node-listen", f"{HOST}:0", "--ready", "/ready", "--health", "/health"),
        *("--ctl-socket", str(tmp_path / "ctl")),
    ) as service:
        assert service.process.stderr is not None
        assert "store-down" in service.process.stderr.readline()
        assert (status(service.address, "/health"), status(service.address, "/ready")) == (200, 503)
        with redis_server(port=port):
            assert "store-up" in service.process.stderr.readline()
            assert status(service.address, "/ready") == 200
            service.stop()


def status(address: tuple[str, int], path: str) -> int:
    """Return the status of a plain request."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        with sock.makefile("rb") as stream:
            return int(stream.readline().split()[1])


def test_a_check_of_the_configuration_needs_no_store(
    files: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    from wsproto_sip.cli import main

    arguments = ["serve", "--check-config", "--store", "redis://store.invalid", "--port", "0"]
    arguments += ["--sip-flow-keys", files["keys"], "--node-listen", f"{HOST}:5070"]
    before = os.umask(0o077)
    try:
        assert main(arguments) == 0
    finally:
        os.umask(before)
    out = capfd.readouterr().out
    assert "Node 127.0.0.1:5070, which others reach over TCP" in out

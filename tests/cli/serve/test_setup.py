"""What the settings of ``wsproto-sip serve`` mean."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from wsproto_sip.auth import Algorithm
from wsproto_sip.auth.throttle import Slowdown, ThrottleConfig
from wsproto_sip.cli.serve.places import is_loopback
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import (
    check_places,
    endpoint_config,
    open_to_others,
    policies,
    proxies,
    read_accounts,
    server_tls,
    shared_addresses,
    throttle_config,
)
from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Accept, PolicyChain, Reject, RequestContext

if TYPE_CHECKING:
    from pathlib import Path


def settings(**values: Any) -> Settings:
    return replace(Settings(), **values)


def decide(
    given: Settings,
    *headers: tuple[bytes, bytes],
    host: str = "localhost",
    target: str = "/",
    **context: Any,
) -> int:
    """Return the status of the decision: 101 if accepted."""
    request = Request(host=host, target=target, extra_headers=list(headers))
    found = {"peer_address": "192.0.2.1", "peer_port": 1, **context}
    outcome = PolicyChain(policies(given)).decide(RequestContext(request, **found))
    assert isinstance(outcome, Accept | Reject)
    return 101 if isinstance(outcome, Accept) else outcome.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example.com", False),
        ("example.com", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"listen": ("wss://h:1",)}, "--listen: wss://h:1: requires --tls-cert"),
        ({"listen": ("ws://h:1", "ws://h:1")}, "--listen: ws://h:1 is given twice"),
        ({"listen": ("ws://h:1",), "port": 1}, "--port: not together with --listen"),
        ({"listen": ("ws://h:1",), "host": "::1"}, "--host: not together with --listen"),
        ({"listen": ("ws://h:1",), "tls_cert": ("c",)}, "--tls-cert: no --listen is wss"),
    ],
)
def test_places_have_to_fit_the_other_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        check_places(settings(**values))


def test_places_that_fit() -> None:
    check_places(settings())
    check_places(settings(host="::", port=1, tls_cert=("c",)))
    check_places(settings(listen=("ws://h:80", "wss://h:443", "systemd"), tls_cert=("c",)))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are Unix sockets everywhere else")
def test_unix_sockets_may_be_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(listen=("unix:/run/ws",))
    check_places(given)
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(SettingsError, match="there are no Unix sockets here"):
        check_places(given)


@pytest.mark.parametrize(
    ("listen", "loopback", "exposed", "named"),
    [
        ((), True, "127.0.0.1", True),
        (("ws://[::1]:1", "ws://localhost:2"), True, "::1", True),
        (("ws://127.0.0.1:1", "wss://192.0.2.1:2"), False, "192.0.2.1", True),
        (("ws://0.0.0.0:1",), False, "0.0.0.0", False),
        # What a proxy or systemd passes on comes from anywhere.
        (("unix:/run/ws",), False, "unix:/run/ws", False),
        (("systemd",), False, "systemd:", False),
        (("unix:/run/ws", "ws://127.0.0.1:1"), False, "unix:/run/ws", True),
    ],
)
def test_what_places_mean_for_other_options(
    listen: tuple[str, ...], loopback: bool, exposed: str, named: bool
) -> None:
    given = settings(listen=listen)
    assert (given.loopback, given.exposed, given.named) == (loopback, exposed, named)
    assert given.local is loopback
    assert not settings(listen=listen, trusted_proxy=("192.0.2.1",)).local


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_world_readable_files_with_secrets_are_reported(tmp_path: Path) -> None:
    users, key, certificate = tmp_path / "users", tmp_path / "key", tmp_path / "certificate"
    for path in (users, key):
        path.write_text("x")
        path.chmod(0o644)
    certificate.write_text("-----BEGIN CERTIFICATE-----")
    given: dict[str, Any] = {
        "sip_users": str(users),
        "tls_cert": (str(certificate),),
        "tls_key": (str(key),),
    }
    told = "every user of this machine may read it (mode 0644); chmod o-r"
    assert open_to_others(settings(**given)) == [
        f"--sip-users: {users}: {told}",
        f"--tls-key: {key}: {told}",
    ]
    users.chmod(0o640)
    given["tls_key"] = ()
    assert open_to_others(settings(**given)) == []
    certificate.write_text("-----BEGIN PRIVATE KEY-----")
    certificate.chmod(0o604)
    assert open_to_others(settings(**given)) == [
        f"--tls-cert: {certificate}: {told.replace('0644', '0604')}"
    ]
    nowhere = {"auth_file": "/nowhere/users", "tls_cert": ("/nowhere/certificate",)}
    assert open_to_others(settings(**nowhere)) == []


ORIGIN = b"origin"


def test_a_unix_socket_whose_clients_share_an_address_is_reported() -> None:
    given = {"listen": ("unix:/run/ws", "ws://127.0.0.1:1")}
    [note] = shared_addresses(settings(**given))
    assert note.startswith("--listen: unix:/run/ws: all clients that a proxy brings there share")
    for trusted in ("unix", "unix-33"):
        assert shared_addresses(settings(**given, trusted_proxy=(trusted,))) == []
    assert shared_addresses(settings()) == []


@pytest.mark.parametrize(
    ("stated", "page", "other", "null", "missing"),
    [
        ((), 403, 403, 403, 101),
        (("https://a.example",), 101, 403, 403, 403),
        (("https://a.example", "missing"), 101, 403, 403, 101),
        (("null",), 403, 403, 101, 403),
        (("any",), 101, 101, 403, 403),
        (("any", "null", "missing"), 101, 101, 101, 101),
    ],
)
def test_origins(stated: tuple[str, ...], page: int, other: int, null: int, missing: int) -> None:
    given = settings(origin=stated)
    found = [decide(given, (ORIGIN, o)) for o in (b"https://a.example", b"https://b", b"null")]
    assert [*found, decide(given)] == [page, other, null, missing]


def test_pages_of_this_machine() -> None:
    for stated in ((), ("loopback",)):
        given = settings(origin=stated)
        assert decide(given, (ORIGIN, b"http://localhost:3000")) == 101
        assert decide(given, (ORIGIN, b"http://localhost.example.com")) == 403
    assert decide(settings(origin=("missing",)), (ORIGIN, b"http://localhost:3000")) == 403


def test_origins_have_to_be_stated_for_others() -> None:
    with pytest.raises(SettingsError, match=r"^--origin: state which web pages may connect to ::,"):
        policies(settings(host="::"))
    assert decide(settings(host="::", origin=("missing",))) == 101


def test_basic_takes_tls_where_others_can_listen(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("alice:secret\n")
    header = (b"authorization", b"Basic YWxpY2U6c2VjcmV0")
    for host, secure, status in (
        ("127.0.0.1", False, 101),
        ("0.0.0.0", False, 401),
        ("0.0.0.0", True, 101),
    ):
        given = settings(host=host, origin=("missing",), auth_file=str(tmp_path / "users"))
        assert decide(given, header, secure=secure) == status
        digest = replace(given, auth_scheme=("digest",))
        assert decide(digest, header, secure=secure) == 401


def test_the_order_of_the_checks(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("alice:secret\n")
    given = settings(
        path=("/ws",),
        allowed_host=("example.com",),
        origin=("https://a.example",),
        auth_file=str(tmp_path / "users"),
        max_connections=1,
        subprotocol=("sip",),
    )
    origin = (ORIGIN, b"https://a.example")
    login = (b"authorization", b"Basic YWxpY2U6c2VjcmV0")
    ours = {"host": "example.com", "target": "/ws"}
    assert decide(given) == 404
    assert decide(given, target="/ws") == 403
    assert decide(given, **ours) == 403
    assert decide(given, origin, connections=1, **ours) == 401
    assert decide(given, origin, login, connections=1, **ours) == 503
    assert decide(given, origin, login, **ours) == 400


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": ("relative",)}, "--path: not an absolute path"),
        ({"allowed_host": ("a b",)}, "--allowed-host: not a host"),
        ({"origin": ("https://a/",)}, "--origin: not an origin as browsers send it"),
        ({"trusted_proxy": ("10.0.0.1/8",)}, "--trusted-proxy: 10.0.0.1/8 has host bits set"),
        ({"auth_file": "/nowhere"}, "--auth-file: /nowhere: No such file or directory"),
    ],
)
def test_bad_settings_name_their_option(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        policies(settings(**values))
    assert str(caught.value).startswith(message)


def test_a_bad_file_of_users(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"alice:\xff\n")
    with pytest.raises(SettingsError, match="users: not UTF-8"):
        policies(settings(auth_file=str(path)))
    path.write_text("alice\n")
    with pytest.raises(SettingsError, match="users: line 1: not user:password"):
        policies(settings(auth_file=str(path)))
    path.write_text("alice:secret\n")
    with pytest.raises(SettingsError, match="--auth-realm: realm is not printable ASCII"):
        policies(settings(auth_file=str(path), auth_realm='a"b'))


def test_proxies() -> None:
    assert proxies(settings()) is None
    assert proxies(settings(trusted_proxy=("10.0.0.0/8",))) is None
    found = proxies(settings(trusted_proxy=("10.0.0.0/8",), proxy_header="proxy-protocol"))
    assert found is not None
    assert "10.1.2.3" in found
    assert "192.0.2.1" not in found
    with pytest.raises(SettingsError, match="--trusted-proxy: "):
        proxies(settings(trusted_proxy=("x",), proxy_header="proxy-protocol"))


def test_bounds() -> None:
    given = settings(max_connections=7, max_per_address=5, max_handshakes=3)
    config = endpoint_config(replace(given, max_handshakes_per_address=2))
    assert (config.max_connections, config.max_per_address) == (10, 7)
    assert (config.max_handshaking, config.max_handshaking_per_address) == (3, 2)
    behind = replace(given, trusted_proxy=("10.0.0.0/8",), max_handshakes_per_address=2)
    assert endpoint_config(behind).max_handshaking_per_address == 3
    direct = replace(behind, proxy_header="proxy-protocol")
    assert endpoint_config(direct).max_handshaking_per_address == 2


def test_times_and_sizes() -> None:
    config = endpoint_config(
        settings(
            max_message_size=100_000,
            max_fragments=2000,
            max_header_size=65_536,
            open_timeout=1,
            close_timeout=2,
            idle_timeout=3,
            keepalive_mechanism="pong",
            keepalive_timeout=4,
            keepalive_answer=5,
            keepalive_interval=6,
            keepalive_data="é",
        )
    )
    session = config.session
    assert (session.open_timeout, session.close_timeout, session.idle_timeout) == (1, 2, 3)
    assert (session.keepalive.interval, session.keepalive.answer_timeout) == (4, 5)
    assert session.keepalive.application_data == "é".encode()
    assert config.timer_interval == 6
    assert session.limits.max_message_size == 100_000
    assert session.profiles["sip"].limits.max_message_size == 65536
    assert session.limits.max_fragments == session.profiles["msrp"].limits.max_fragments == 2000
    assert session.profiles["sip"].limits.max_fragments == 64
    assert session.limits.max_handshake_bytes == session.limits.max_header_line == 65_536
    assert session.profiles["sip"].keepalive.interval == 4
    own = settings(sip_max_message_size=131_072, msrp_max_chunk_size=9000, max_message_size=1 << 20)
    profiles = endpoint_config(own).session.profiles
    assert profiles["sip"].limits.max_message_size == 131_072
    assert profiles["msrp"].limits.max_message_size == 9000
    small = endpoint_config(settings(max_message_size=10, max_fragments=5)).session
    assert small.profiles["sip"].limits.max_fragments == 5
    assert small.profiles["msrp"].limits.max_message_size == 10
    assert small.idle_timeout is None
    assert small.keepalive.interval == 25
    assert small.profiles["sip"].keepalive.interval == 180
    assert small.profiles["msrp"].keepalive.interval == 25
    with pytest.raises(SettingsError, match=r"--keepalive-data: .* 1 to 125 bytes, not 126"):
        endpoint_config(settings(keepalive_data="x" * 126))


def test_certificates(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    cert, key, other = tmp_path / "cert", tmp_path / "key", tmp_path / "other"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(other))
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert server_tls(settings()) is None
    context = server_tls(settings(tls_cert=(str(cert),), tls_key=(str(key),)))
    assert isinstance(context, ssl.SSLContext)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    for values, message in (
        ({"tls_key": (str(key),)}, "--tls-key: requires --tls-cert"),
        ({"tls_cert": ("/nowhere",)}, "--tls-cert: /nowhere: No such file or directory"),
        ({"tls_cert": (str(cert),), "tls_key": (str(other),)}, f"--tls-cert: {cert}: "),
        (
            {"tls_cert": (str(cert),), "tls_key": (str(locked),)},
            f"--tls-cert: {cert}: the private key is encrypted",
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            server_tls(settings(**values))
        assert str(caught.value).startswith(message)


def test_compression_is_for_connections_without_a_sub_protocol() -> None:
    for deflate in (True, False):
        extensions = endpoint_config(settings(deflate=deflate)).extensions
        assert [len(extensions(name)) for name in (None, "sip", "msrp")] == [deflate, 0, 0]


def test_a_page_takes_plain_requests() -> None:
    for page in (True, False):
        config = endpoint_config(settings(page=page, path=("/ws",)))
        assert config.session.plain_requests is page
        assert decide(settings(page=page), upgrade=False) == (200 if page else 426)


def test_some_have_no_use_for_other_hashes(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:secret\nbob:r:{'0' * 64}\n")
    assert set(read_accounts(str(path), "r")) == {"alice", "bob"}
    with pytest.raises(
        SettingsError, match=r"users: every user .* not all have one for MD5 \(bob\)"
    ):
        read_accounts(str(path), "r", [Algorithm.MD5])
    assert set(read_accounts(str(path), "r", [Algorithm.MD5, Algorithm.SHA_256])) == {
        "alice",
        "bob",
    }


def test_guessing_is_slowed_down_as_the_options_say() -> None:
    assert throttle_config(Settings()) == ThrottleConfig()
    given = settings(
        guess_pair="1,longest=2,forgive=3",
        guess_connection="4,longest=5,forgive=6",
        guess_address="7,longest=8,forgive=9",
        guess_user="10,longest=11,forgive=12",
        guess_entries=13,
    )
    assert throttle_config(given) == ThrottleConfig(
        Slowdown(1, 2.0, 3.0),
        Slowdown(4, 5.0, 6.0),
        Slowdown(7, 8.0, 9.0),
        Slowdown(10, 11.0, 12.0),
        max_entries=13,
    )

"""What the settings of ``wsproto-sip serve`` mean."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from wsproto_sip.cli.settings import Settings, SettingsError, is_loopback
from wsproto_sip.cli.setup import endpoint_config, policies, proxies, read_accounts, server_tls
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
    """The status of the decision: 101 for those who may in."""
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


ORIGIN = b"origin"


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
        ({"auth_file": "/nowhere"}, "/nowhere: No such file or directory"),
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
    with pytest.raises(SettingsError, match="users: line 1: neither"):
        policies(settings(auth_file=str(path)))
    path.write_text("alice:secret\n")
    with pytest.raises(SettingsError, match="--auth-realm: not printable ASCII"):
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
    assert session.profiles["sip"].limits.max_fragments == 64
    assert session.profiles["sip"].keepalive.interval == 4
    small = endpoint_config(settings(max_message_size=10)).session
    assert small.profiles["msrp"].limits.max_message_size == 10
    assert small.idle_timeout is None
    assert small.keepalive.interval == 25
    assert small.profiles["sip"].keepalive.interval == 180
    assert small.profiles["msrp"].keepalive.interval == 25
    with pytest.raises(SettingsError, match=r"--keepalive-data: .* 1 to 125 octets, not 126"):
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
    context = server_tls(settings(tls_cert=str(cert), tls_key=str(key)))
    assert isinstance(context, ssl.SSLContext)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    for values, message in (
        ({"tls_key": str(key)}, "--tls-key: there is no --tls-cert"),
        ({"tls_cert": "/nowhere"}, "--tls-cert: /nowhere: No such file or directory"),
        ({"tls_cert": str(cert), "tls_key": str(other)}, f"--tls-cert: {cert}: "),
        (
            {"tls_cert": str(cert), "tls_key": str(locked)},
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
    with pytest.raises(SettingsError, match="users: bob has no hash for MD5"):
        read_accounts(str(path), "r", md5=True)

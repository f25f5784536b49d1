"""Users from elsewhere: what the options mean, and a server that asks a service, a database, a key.

Theory of operation: :class:`Directory` is a service on this machine that knows users and tokens. It
can fail and hang, so that a test sees what clients are told then, and how soon.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import trustme

from tests.adapters._sip import HOST, free_port, phone
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run
from wsproto_sip.auth import (
    LATER,
    Challenge,
    answer_challenge,
    digest_ha1,
    timed_credentials,
)
from wsproto_sip.cli.serve.commands import _shown
from wsproto_sip.cli.serve.msrp import msrp_users
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import open_to_others, policies
from wsproto_sip.cli.serve.sip import sip_files
from wsproto_sip.cli.serve.users import UserSources, in_the_clear, places_of
from wsproto_sip.msrp import MsrpRequest, MsrpResponse, MsrpUri, parse_chunk
from wsproto_sip.sip.registrar.bearer import BearerQuestion

from .._service import Dialed, Service, launched, status_of
from .test_guessing import basic, sent
from .test_sip import written

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a secret of 32 bytes and no less"
DOMAIN = ["--sip-domain", "sip.test", "--auth-realm", "sip.test"]


# -- what the options mean -------------------------------------------------------------------------


def settings(**values: Any) -> Settings:
    return replace(Settings(), **values)


def sources(given: Settings) -> UserSources:
    async def made() -> UserSources:
        return UserSources(given, lambda: 0.0)

    return run(made())


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Yield the URL of a database with one user."""
    path = tmp_path / "users.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (username, password, ha1)")
        connection.execute("INSERT INTO users VALUES ('alice', 'wonderland', NULL)")
        ha1 = digest_ha1("bob", "sip.test", "builder")
        connection.execute("INSERT INTO users VALUES ('bob', NULL, ?)", [ha1])
        connection.commit()
    return f"sqlite:///{path}"


@pytest.fixture
def key(tmp_path: Path) -> str:
    """Return a file with a secret for tokens."""
    return written(tmp_path / "key", f"{SECRET}\n")


def signed(key: str = SECRET, **claims: Any) -> str:
    jwt = pytest.importorskip("jwt", reason="PyJWT is not installed")
    token = jwt.encode({"sub": "alice", "exp": time.time() + 300, **claims}, key, "HS256")
    assert isinstance(token, str)
    return token


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ({}, set()),
        ({"sip_users": "x", "auth_secret": "x"}, set()),
        ({"auth_secret": "x"}, {"sip"}),
        ({"users_http": "http://a"}, {"sip"}),
        ({"users_sql": "sqlite:///a", "users_for": ("sip", "msrp")}, {"sip", "msrp"}),
        ({"jwt_key": ("a",)}, {"sip"}),
        ({"jwt_key": ("a",), "token_query": "t"}, {"handshake"}),
        ({"jwt_key": ("a",), "token_cookie": "t", "users_for": ("sip",)}, {"sip"}),
        (
            {"sip_users": "x", "auth_secret": "x", "users_for": ("handshake",)},
            {"handshake"},
        ),
    ],
)
def test_where_users_are_asked_for(values: dict[str, Any], places: set[str]) -> None:
    assert places_of(settings(**values)) == places


HTTP = {"users_http": "http://127.0.0.1:1/"}
SQL = {"users_sql": "mysql://a/b"}
JWT = {"jwt_key": ("a",)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (HTTP | SQL, "--users-sql: not together with --users-http"),
        (
            HTTP | JWT | {"users_http_tokens": True},
            "--users-http-tokens: not together with --jwt-key, which knows tokens",
        ),
        ({"users_http_tokens": True}, "--users-http-tokens: requires --users-http"),
        ({"users_http_headers": "a"}, "--users-http-headers: requires --users-http"),
        (SQL | {"users_http_ca": "a"}, "--users-http-ca: requires --users-http"),
        (HTTP | {"users_sql_query": "a"}, "--users-sql-query: requires --users-sql"),
        ({"jwt_algorithm": ("HS256",)}, "--jwt-algorithm: requires --jwt-key"),
        ({"jwt_audience": "a"}, "--jwt-audience: requires --jwt-key"),
        ({"jwt_issuer": "a"}, "--jwt-issuer: requires --jwt-key"),
        ({"jwt_claim": "name"}, "--jwt-claim: requires --jwt-key"),
        (
            HTTP | {"token_query": "a"},
            "--token-query: requires --jwt-key or --users-http-tokens",
        ),
        ({"token_once": 60.0}, "--token-once: requires --token-query"),
        ({"token_cookie": "a"}, "--token-cookie: requires --jwt-key or --users-http-tokens"),
        ({"sip_token_server": "a"}, "--sip-token-server: requires --jwt-key or --users-http-"),
        (
            {"users_for": ("sip",)},
            "--users-for: requires --users-http, --users-sql, --jwt-key or --auth-secret",
        ),
        (
            JWT | {"token_query": "a", "users_for": ("sip",)},
            "--token-query: --users-for is without handshake",
        ),
        (
            JWT | {"token_query": "a", "sip_token_server": "https://a"},
            "--sip-token-server: --users-for is without sip",
        ),
        (
            HTTP | {"sip_users": "a"},
            "--sip-users: not together with --users-http, which has the users of sip (--users-for)",
        ),
        (
            SQL | {"auth_file": "a", "users_for": ("handshake",)},
            "--auth-file: not together with --users-sql, which has the users of handshake",
        ),
        (
            SQL | {"msrp_users": "a", "users_for": ("msrp",)},
            "--msrp-users: not together with --users-sql, which has the users of msrp",
        ),
        (HTTP | {"subprotocol": ("msrp",)}, "--users-for: sip is not among --subprotocol"),
        (
            JWT | {"users_for": ("msrp",)},
            "--users-for: msrp takes no tokens but those of the handshake; --users-for handshake",
        ),
        ({"users_http": "ftp://a"}, "--users-http: not an http or https URL"),
        (HTTP | {"users_http_ca": "a"}, "--users-http-ca: --users-http is not https"),
        (
            {"users_http": "https://a", "users_http_ca": "/nowhere"},
            "--users-http-ca: /nowhere: No such file",
        ),
        (HTTP | {"users_http_headers": "/nowhere"}, "--users-http-headers: /nowhere: No such file"),
        ({"users_sql": "users.db"}, "--users-sql: not the URL of a database: 'users.db'"),
        (
            {"users_sql": "sqlite:////nowhere/users.db"},
            "--users-sql: sqlite:////nowhere/users.db: unable to open database file",
        ),
        ({"jwt_key": ("/nowhere",)}, "--jwt-key: /nowhere: No such file"),
    ],
)
def test_options_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
    with pytest.raises(SettingsError) as caught:
        sources(settings(**values))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Authorization Bearer x", "line 1: not NAME: VALUE"),
        ("# a comment\n\nX-Key : x", "line 3: not NAME: VALUE"),
        ("X-Key: a\x00", "not valid in a request"),
        ("Host: other", "a header field that cannot be set: Host"),
        ("X" * 65537, "more than 65536 bytes"),
    ],
)
def test_invalid_header_fields_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "headers", text)
    with pytest.raises(SettingsError, match=f"--users-http-headers: {path}: {message}") as caught:
        sources(settings(users_http="http://a", users_http_headers=path))
    # What stands in the file may be a secret.
    assert "Bearer x" not in str(caught.value)


def test_an_invalid_key_is_refused(tmp_path: Path, key: str) -> None:
    pytest.importorskip("jwt", reason="PyJWT is not installed")
    short = written(tmp_path / "short", "short")
    for algorithm, path, reason in (
        ("HS256", short, "a secret must have at least 32 bytes"),
        ("RS256", key, "a key that cannot be used"),
    ):
        with pytest.raises(SettingsError, match=f"--jwt-key: {path}: {reason}.*{algorithm}"):
            sources(settings(jwt_key=(path,), jwt_algorithm=(algorithm,)))
    both = sources(settings(jwt_key=(key, key), jwt_algorithm=("HS256",)))
    assert both.verify(BearerQuestion(signed())) is not None
    with pytest.raises(SettingsError, match="--token-query: not the name of a cookie"):
        sources(settings(jwt_key=(key,), jwt_algorithm=("HS256",), token_query="a b"))


def test_extras_that_are_not_there(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    monkeypatch.setitem(__import__("sys").modules, "sqlalchemy", None)
    for values, message in (
        ({"jwt_key": (key,)}, r"--jwt-key: tokens need PyJWT: pip install"),
        (SQL, r"--users-sql: databases other than SQLite need SQLAlchemy: pip"),
    ):
        with pytest.raises(SettingsError, match=message):
            sources(settings(**values))


def test_credentials_that_expire_need_digest(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret", SECRET)
    given = settings(auth_secret=secret, users_for=("handshake",))
    assert policies(given, users=sources(given))
    given = replace(given, auth_scheme=("basic",))
    with pytest.raises(SettingsError, match="--auth-scheme: credentials that expire need digest"):
        policies(given, users=sources(given))


def test_a_server_can_use_only_external_users(database: str) -> None:
    given = settings(host="192.0.2.1", users_sql=database)
    files = sip_files(given)
    assert files is not None
    assert files.users is None
    assert msrp_users(given) is None
    for values, message in (
        ({"upstream": ("sip:192.0.2.9",)}, "--users-for: the upstream registers; --sip-challenge"),
        ({"users_for": ("msrp",), "host": "127.0.0.1"}, "--users-for: MSRP needs wss"),
    ):
        wrong = replace(given, **values)
        check = sip_files if wrong.upstream else msrp_users
        with pytest.raises(SettingsError, match=message):
            check(wrong)


def test_world_readable_secrets_are_reported(tmp_path: Path) -> None:
    secret, public = tmp_path / "secret", tmp_path / "public"
    secret.write_text(SECRET)
    public.write_text("-----BEGIN PUBLIC KEY-----\n")
    for path in (secret, public):
        path.chmod(0o644)
    given = settings(jwt_key=(str(secret), str(public)), users_http_headers=str(secret))
    names = [note.partition(": ")[0] for note in open_to_others(given)]
    assert names == ["--users-http-headers", "--jwt-key"]


def test_a_service_without_tls_is_reported() -> None:
    told = in_the_clear(settings(users_http="http://users.example:8000/ask"))
    assert told == ["--users-http: users.example sends passwords without TLS; use https"]
    for url in (
        "https://users.example",
        "http://localhost/ask",
        "http://[::1]:1/",
        "http://127.1.1.1",
    ):
        assert in_the_clear(settings(users_http=url)) == []
    # Another word is wrong for other reasons.
    assert in_the_clear(settings(users_http="users.example")) == []


def test_passwords_of_databases_are_not_shown() -> None:
    assert _shown("postgresql://sip:s3/cret@h/db") == "postgresql://sip:s3/cret@h/db"
    assert _shown("postgresql+psycopg://sip:s3cret@h/db") == "postgresql+psycopg://sip:***@h/db"


# -- a service on this machine ---------------------------------------------------------------------


class Directory:
    """A service that knows alice and her token.

    Args:
        tls: Its certificate.

    Attributes:
        url: Where it is.
        asked: What it was asked.
        arrived: Released with each question.
        key: What it wants in X-Key.
        status: What it answers with.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[dict[str, str]] = []
        self.arrived = threading.Semaphore(0)
        self.key: str | None = None
        self.status = 200
        #: Set as long as answers are given at all.
        self.answers = threading.Event()
        self.answers.set()
        self.passwords = {"alice": "wonderland"}
        self.tokens = {"hers": "alice"}
        directory = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                question = json.loads(self.rfile.read(length))
                directory.asked.append(question)
                directory.arrived.release()
                directory.answers.wait()
                status, found = directory.answer(question, self.headers["X-Key"])
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                # Clients give up, which is what the tests are about.
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/users"

    def answer(self, question: dict[str, str], key: str | None) -> tuple[int, Any]:
        if key != self.key:
            return 401, None
        if self.status != 200:
            return self.status, None
        if question["question"] == "token":
            name = self.tokens.get(question["token"])
            return 200, None if name is None else {"name": name}
        password = self.passwords.get(question["name"])
        return 200, None if password is None else {"password": password}


@contextmanager
def directory(tls: ssl.SSLContext | None = None) -> Iterator[Directory]:
    made = Directory(tls)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.answers.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


async def registered(url: str, user: str, password: str, **options: Any) -> int:
    """Register once, with a password; what the last answer is."""
    async with phone(url, user, password=password, registers=False, **options) as telephone:
        return (await telephone.register()).status


async def registered_with(url: str, user: str, token: str) -> tuple[int, list[str]]:
    """Register with a token: the status, and what is asked for."""
    async with phone(url, user, registers=False) as telephone:
        answer = await telephone.register(("Authorization", f"Bearer {token}"))
        return answer.status, answer.get_all("www-authenticate")


def logged_in(service: Service, name: str, password: str) -> int:
    """Log in to the MSRP relay; the code of the answer."""
    relay, own = MsrpUri.parse(b"msrp://sip.test:443;ws"), MsrpUri.parse(b"msrp://a.invalid:1/a;ws")
    request = MsrpRequest(b"abcd", b"AUTH", (relay,), (own,))
    with service.dial(subprotocols=["msrp"]) as client:
        answer = parse_chunk(sent(client, request))
        assert isinstance(answer, MsrpResponse)
        challenge = Challenge.parse((answer.header(b"www-authenticate") or b"").decode())
        assert challenge is not None
        given = answer_challenge(challenge, name, password, "AUTH", str(relay))
        request.headers = [(b"Authorization", str(given).encode())]
        answer = parse_chunk(sent(client, request))
        assert isinstance(answer, MsrpResponse)
        return answer.code


def metrics(service: Service) -> dict[str, float]:
    with urlopen(f"{service.places['--url'].rstrip('/')}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


EVERYWHERE = ["--users-for", "handshake", "--users-for", "sip", "--users-for", "msrp"]
RELAY = ["--msrp-name", "sip.test", "--allow-insecure-msrp"]
ALICE = {"Authorization": basic("alice", "wonderland", "")["Authorization"]}


def test_a_service_is_asked_in_the_handshake_in_sip_and_in_msrp(tmp_path: Path) -> None:
    """One question each for two users, since what is known is remembered."""
    headers = written(tmp_path / "headers", "# for the service\nX-Key: k3y\n")
    with directory() as there:
        there.key = "k3y"
        flags = ["--users-http", there.url, "--users-http-headers", headers, *EVERYWHERE]
        with launched(*flags, *DOMAIN, *RELAY, "--ctl-http", "0") as service:
            assert service.status(additional_headers=ALICE) == 101
            assert service.status() == 401
            wrong = basic("alice", "looking-glass", "")["Authorization"]
            assert service.status(additional_headers={"Authorization": wrong}) == 401
            eve = basic("eve", "wonderland", "")["Authorization"]
            assert service.status(additional_headers={"Authorization": eve}) == 401
            counted = metrics(service)
            questions = "wsproto_sip_user_questions_total"
            # Basic brings what is remembered as well.
            assert counted[f'{questions}{{kind="account",outcome="found"}}'] == 1
            assert counted[f'{questions}{{kind="account",outcome="unknown"}}'] == 1
            assert counted["wsproto_sip_user_questions"] == 0
            assert counted["wsproto_sip_user_answer_seconds_count"] == 2
            assert counted["wsproto_sip_users_remembered"] == 2
        assert [question["name"] for question in there.asked] == ["alice", "eve"]
        flags = [*flags[:4], "--users-for", "sip", "--users-for", "msrp"]
        with launched(*flags, *DOMAIN, *RELAY) as service:
            assert run(registered(service.url, "alice", "wonderland")) == 200
            assert run(registered(service.url, "alice", "looking-glass")) == 401
            assert run(registered(service.url, "eve", "wonderland")) == 401
            assert logged_in(service, "alice", "wonderland") == 200
            assert logged_in(service, "alice", "looking-glass") == 401
        asked = [question["name"] for question in there.asked[2:]]
        assert asked == ["alice", "eve"]


def test_clients_get_an_error_in_time_if_the_service_fails_or_hangs() -> None:
    """503, and 408 in MSRP; all others go on meanwhile."""
    with directory() as there:
        flags = ["--users-http", there.url, *EVERYWHERE, "--users-timeout", "0.5"]
        flags += ["--users-cache-seconds", "0", "--ctl-http", "0", "--log-format", "text"]
        with launched(*flags, *DOMAIN, *RELAY) as service, there_is_one(service) as known:
            there.status = 500
            assert service.status(additional_headers=ALICE) == 503
            there.status = 200
            assert service.status(additional_headers=ALICE) == 101
            there.answers.clear()
            began = time.monotonic()
            assert service.status(additional_headers=ALICE) == 503
            assert 0.5 <= time.monotonic() - began < 4
            # A connection that is open does not wait for handshakes.
            with concurrent(lambda: service.status(additional_headers=ALICE)) as waiting:
                known.send("meanwhile")
                assert known.recv() == "meanwhile"
                assert waiting() == 503
            there.answers.set()
            assert service.status(additional_headers=ALICE) == 101
            counted = metrics(service)
            key = 'wsproto_sip_user_questions_total{kind="account",outcome="failed"}'
            assert counted[key] == 3
            lines = service.stop()[1]
        failure = "the service has answered with status 500"
        failing = [line for line in lines if " auth users-" in line]
        assert [line.partition(" ")[2] for line in failing] == [
            f'error auth users-down error=ValueError reason="{failure}"',
            "warning auth users-up",
            'error auth users-down error=TimeoutError reason="no answer in time"',
            "warning auth users-up",
        ]
        refused = [line for line in lines if " refused " in line]
        assert all("status=503" in line for line in refused)
        assert len(refused) == 3


@contextmanager
def there_is_one(service: Service) -> Iterator[Dialed]:
    """Return an accepted client."""
    with service.dial(additional_headers=ALICE) as client:
        yield client


@contextmanager
def concurrent(call: Any) -> Iterator[Any]:
    """Call something in a thread; what it gives waits for the result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()

    def result() -> Any:
        thread.join()
        return found[0]

    try:
        yield result
    finally:
        thread.join()


def test_a_service_that_hangs_keeps_no_request_of_sip_or_msrp_for_ever() -> None:
    with directory() as there:
        flags = ["--users-http", there.url, "--users-for", "sip", "--users-for", "msrp"]
        flags += ["--users-timeout", "0.5", *DOMAIN, *RELAY]

        async def scenario(url: str) -> None:
            async with (
                phone(url, "alice", password="wonderland") as alice,
                phone(url, "bob", password="x", registers=False) as bob,
            ):
                there.answers.clear()
                waiting = asyncio.ensure_future(bob.register())
                # Alice is known, and does not wait for him.
                assert (await alice.register()).status == 200
                refused = await waiting
                assert (refused.status, refused.get("retry-after")) == (503, "5")
                there.answers.set()
                assert (await bob.register()).status == 401

        with launched(*flags) as service:
            run(scenario(service.url))
            there.answers.clear()
            assert logged_in(service, "carol", "x") == 408
            there.answers.set()
            assert logged_in(service, "carol", "x") == 401


def test_a_service_that_hangs_does_not_delay_the_end() -> None:
    handshake = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: {ALICE['Authorization']}\r\n\r\n"
    )
    with directory() as there:
        there.answers.clear()
        flags = ["--users-http", there.url, "--users-for", "handshake", "--users-timeout", "30"]
        with (
            launched(*flags, "--drain-seconds", "0") as service,
            socket.create_connection(service.address) as client,
        ):
            client.sendall(handshake.encode())
            there.arrived.acquire()
            began = time.monotonic()
            service.stop()
            assert service.process.returncode == 0
            assert time.monotonic() - began < 10


def test_a_service_over_tls_needs_a_certificate_of_the_ca(tmp_path: Path) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    config = tmp_path / "serve.toml"
    with directory(context) as there:
        config.write_text(f'users-http = "{there.url}"\nusers-http-ca = "{ca}"\n')
        trustme.CA().cert_pem.write_to_path(str(ca))
        with launched("--config", str(config), *DOMAIN) as service:
            assert run(registered(service.url, "alice", "wonderland")) == 503
            authority.cert_pem.write_to_path(str(ca))
            assert service.reload() == "Settings reloaded"
            assert run(registered(service.url, "alice", "wonderland")) == 200


def test_a_reload_asks_another_service(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    with directory() as one, directory() as other:
        other.passwords = {"alice": "other"}
        config.write_text(f'users-http = "{one.url}"\n')
        with launched("--config", str(config), *DOMAIN) as service:
            assert run(registered(service.url, "alice", "wonderland")) == 200
            config.write_text(f'users-http = "{other.url}"\n')
            assert service.reload() == "Settings reloaded"
            # What was remembered of the other one counts no more.
            assert run(registered(service.url, "alice", "wonderland")) == 401
            assert run(registered(service.url, "alice", "other")) == 200
            config.write_text("")
            assert service.reload() == "Settings reloaded"
            assert service.process.stderr is not None
            said = "wsproto-sip: only a restart changes users-http or users-sql\n"
            assert said in iter(service.process.stderr.readline, "")
            assert run(registered(service.url, "alice", "other")) == 200


def test_a_database_is_asked(tmp_path: Path, database: str) -> None:
    with launched("--users-sql", database, "--check-config", *DOMAIN, port=False) as checked:
        assert checked.announced[-1] == "The configuration is valid"
    flags = ["--users-sql", database, "--users-for", "sip", "--users-for", "msrp"]
    flags += ["--users-cache-seconds", "0", "--users-timeout", "5", *DOMAIN, *RELAY]
    with launched(*flags) as service, closing(sqlite3.connect(database[10:])) as connection:
        assert run(registered(service.url, "alice", "wonderland")) == 200
        assert run(registered(service.url, "bob", "builder")) == 200
        assert run(registered(service.url, "eve", "x")) == 401
        assert logged_in(service, "bob", "builder") == 200
        connection.execute("UPDATE users SET password = 'new' WHERE username = 'alice'")
        connection.commit()
        assert run(registered(service.url, "alice", "new")) == 200
        # SQLite waits 2 seconds for the lock of another program.
        connection.execute("BEGIN EXCLUSIVE")
        assert run(registered(service.url, "alice", "new")) == 503
        connection.rollback()
        assert run(registered(service.url, "alice", "new")) == 200
        lines = service.stop()[1]
    failing = [line.partition(" auth ")[2] for line in lines if " auth users-" in line]
    assert failing == [
        'users-down error=OperationalError reason="database is locked"',
        "users-up",
    ]


def test_a_user_without_a_usable_secret_is_refused_like_an_unknown_one(database: str) -> None:
    with closing(sqlite3.connect(database[10:])) as connection:
        connection.execute("INSERT INTO users VALUES ('carol', '$2y$05$abc', NULL)")
        connection.execute("INSERT INTO users VALUES ('dave', NULL, '*')")
        connection.commit()
    flags = ["--users-sql", database, "--users-cache-seconds", "0", "--log-format", "text"]
    users = ("carol", "dave", "eve")
    with launched(*flags, "--users-for", "handshake", *DOMAIN) as service:
        for name in users:
            headers = {"Authorization": basic(name, "*", "")["Authorization"]}
            assert service.status(additional_headers=headers) == 401
    flags += ["--users-for", "sip", "--users-for", "msrp"]
    with launched(*flags, *DOMAIN, *RELAY) as service:
        for name in users:
            assert run(registered(service.url, name, "*")) == 401
            assert logged_in(service, name, "*") == 401
        lines = service.stop()[1]
    told = [line.partition(" auth ")[2] for line in lines if " account-unusable " in line]
    assert told == [
        'account-unusable user=carol reason="a hashed password: of hashes, only HA1 can be used"',
        'account-unusable user=dave reason="a hash is not the 32 digits of MD5"',
    ]


def test_a_query_without_a_secret_is_a_fault_of_the_source(database: str) -> None:
    flags = ["--users-sql", database, "--users-sql-query"]
    flags += ["SELECT username FROM users WHERE username = :name", *DOMAIN]
    with launched(*flags) as service:
        assert run(registered(service.url, "alice", "wonderland")) == 503
        assert run(registered(service.url, "eve", "x")) == 401


def test_a_query_of_ones_own(tmp_path: Path, database: str) -> None:
    query = "SELECT password AS password, 'carol' AS name FROM users WHERE username = 'alice'"
    flags = ["--users-sql", database, "--users-for", "handshake", "--auth-scheme", "basic"]
    with launched(*flags, "--users-sql-query", query, "--ctl-socket", str(tmp_path / "s")) as one:
        headers = {"Authorization": basic("someone", "wonderland", "")["Authorization"]}
        with one.dial(additional_headers=headers):
            assert "carol" in one.ctl("ws.dump")[1]
        assert one.ctl("config.get", "users-sql")[1].strip() == database
    wrong = ["serve", *flags, "--users-sql-query", "SELECT x FROM others", "--check-config"]
    with (
        pytest.raises(AssertionError, match=r"--users-sql: .*: no such table: others"),
        launched(*wrong[1:]),
    ):
        pass


# -- tokens ----------------------------------------------------------------------------------------


def jwt_flags(key: str, *more: str) -> list[str]:
    return ["--jwt-key", key, "--jwt-algorithm", "HS256", *more]


def test_a_token_lets_a_client_in(key: str) -> None:
    flags = jwt_flags(key, "--token-query", "access", "--token-cookie", "session")
    with launched(*flags, "--jwt-audience", "edge", "--jwt-issuer", "login", *DOMAIN) as service:
        token = signed(aud="edge", iss="login")
        where = service.url
        assert status_of(f"{where}?access={token}") == 101
        assert service.status(additional_headers={"Cookie": f"session={token}"}) == 101
        assert service.status(additional_headers={"Authorization": f"Bearer {token}"}) == 101
        assert service.status() == 401
        for wrong in (signed(aud="other", iss="login"), signed(aud="edge", iss="x"), "nonsense"):
            assert status_of(f"{where}?access={wrong}") == 403
            assert service.status(additional_headers={"Authorization": f"Bearer {wrong}"}) == 401
        expired = signed(aud="edge", iss="login", exp=time.time() - 60)
        assert status_of(f"{where}?access={expired}") == 403

        async def scenario() -> None:
            # In SIP, that is whose connection it is: no password, and no other name.
            async with phone(f"{where}?access={token}", "alice"):
                pass
            async with phone(f"{where}?access={token}", "bob", registers=False) as bob:
                assert (await bob.register()).status == 403

        run(scenario())


def test_a_token_that_is_good_for_one_use(key: str) -> None:
    flags = jwt_flags(key, "--token-query", "t", "--token-cookie", "c", "--token-once", "60")
    with launched(*flags, *DOMAIN) as service:
        token, other = signed(), signed(jti="2")
        assert status_of(f"{service.url}?t={token}") == 101
        assert status_of(f"{service.url}?t={token}") == 403
        assert status_of(f"{service.url}?t={other}") == 101
        # What only its owner has seen may be sent again.
        for _ in range(2):
            assert service.status(additional_headers={"Cookie": f"c={token}"}) == 101
            assert service.status(additional_headers={"Authorization": f"Bearer {token}"}) == 101


@needs_redis
def test_a_token_that_is_good_for_one_use_at_one_of_several_nodes(key: str, tmp_path: Path) -> None:
    written(tmp_path / "keys", "ab" * 32)
    with redis_server() as redis, ExitStack() as stack:
        shared = ["--store", redis.url, "--sip-flow-keys", str(tmp_path / "keys"), *DOMAIN]
        flags = jwt_flags(key, "--token-query", "t", "--token-once", "60", *shared)
        one, two = [
            stack.enter_context(launched(*flags, "--node-listen", f"{HOST}:{free_port()}"))
            for _ in range(2)
        ]
        first, second = signed(jti="1"), signed(jti="2")
        assert [status_of(f"{each.url}?t={first}") for each in (one, two)] == [101, 403]
        assert [status_of(f"{each.url}?t={second}") for each in (two, one)] == [101, 403]
        redis.kill()
        assert status_of(f"{one.url}?t={signed(jti='3')}") == 503


def test_tokens_in_sip(key: str, tmp_path: Path) -> None:
    """Bearer (RFC 8898), beside the passwords of a file; a reload takes another key."""
    users = written(tmp_path / "users", "bob:builder\n")
    more = ["--sip-users", users, "--digest-algorithm", "md5"]
    more += ["--sip-token-server", "https://login.test/"]
    with launched(*jwt_flags(key, *more), *DOMAIN) as service:
        assert run(registered_with(service.url, "alice", signed())) == (200, [])
        status, asked = run(registered_with(service.url, "alice", "nonsense"))
        assert status == 401
        assert asked[1] == (
            'Bearer realm="sip.test", authz_server="https://login.test/", error="invalid_token"'
        )
        assert asked[0].startswith('Digest realm="sip.test"')
        assert run(registered_with(service.url, "bob", signed()))[0] == 403
        assert run(registered(service.url, "bob", "builder")) == 200
        other = "another secret of 32 bytes at least"
        written(tmp_path / "key", other)
        assert service.reload() == "Settings reloaded"
        assert run(registered_with(service.url, "alice", signed()))[0] == 401
        assert run(registered_with(service.url, "alice", signed(other)))[0] == 200


def test_guesses_at_tokens_in_sip_are_slowed_down(key: str, tmp_path: Path) -> None:
    async def scenario(url: str) -> list[int]:
        async with phone(url, "alice", registers=False) as alice:
            answers = []
            for number in range(14):
                field = ("Authorization", f"Bearer guess{number}")
                answers.append((await alice.register(field)).status)
            return answers

    flags = jwt_flags(key, "--ctl-socket", str(tmp_path / "socket"), *DOMAIN)
    with launched(*flags) as service:
        answers = run(scenario(service.url))
        # For all of them to be looked at it would have to take a few seconds.
        assert answers[:11] == [401] * 11
        assert 503 in answers
        name = "ws_authentication_failures_bearer_wrong"
        assert service.call("ws.statistics", name)[name] == answers.count(401)
        lines = service.stop()[1]
    assert " service=bearer cause=wrong user=" in lines[0]
    assert "guess" not in "".join(lines)


def test_a_service_knows_tokens(tmp_path: Path) -> None:
    with directory() as there:
        flags = ["--users-http", there.url, "--users-http-tokens", "--token-query", "t"]
        flags += ["--users-for", "handshake", "--users-for", "sip", "--users-timeout", "0.5"]
        with launched(*flags, *DOMAIN) as service:
            where = service.url
            assert status_of(f"{where}?t=hers") == 101
            assert status_of(f"{where}?t=his") == 403
            assert service.status(additional_headers=ALICE) == 101
            assert service.status() == 401
            there.answers.clear()
            assert status_of(f"{where}?t=another") == 503
            there.answers.set()
        with launched(*flags[:3], *DOMAIN) as service:
            assert run(registered_with(service.url, "alice", "hers")) == (200, [])
            assert run(registered_with(service.url, "alice", "his"))[0] == 401
            assert run(registered(service.url, "alice", "wonderland")) == 200


def test_msrp_takes_those_whom_the_handshake_has_named(key: str) -> None:
    flags = jwt_flags(key, "--token-query", "t", "--users-for", "handshake", "--users-for", "msrp")
    with launched(*flags, *DOMAIN, *RELAY) as service:
        relay = MsrpUri.parse(b"msrp://sip.test:443;ws")
        own = MsrpUri.parse(b"msrp://a.invalid:1/a;ws")
        request = MsrpRequest(b"abcd", b"AUTH", (relay,), (own,))
        with Dialed(f"{service.url}?t={signed()}", subprotocols=["msrp"]) as client:
            answer = parse_chunk(sent(client, request))
            assert isinstance(answer, MsrpResponse)
            assert answer.code == 200
            assert answer.header(b"use-path") is not None


def test_over_the_network_tokens_need_tls(tmp_path: Path, key: str) -> None:
    authority = trustme.CA()
    pem = tmp_path / "cert.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    client = ssl.create_default_context()
    authority.configure_trust(client)
    flags = jwt_flags(key, "--token-query", "t", "--origin", "missing", "--sip-name", "sip.test")
    flags += ["--users-for", "handshake", "--users-for", "sip", "--listen", "ws://127.0.0.1:0"]
    flags += ["--listen", "wss://127.0.0.1:0", "--listen", f"unix:{tmp_path / 'ws'}"]
    with launched(*flags, "--tls-cert", str(pem), port=False) as service:
        plain, secure = [
            line[13:] for line in service.announced if line.startswith("Listening on ws")
        ]
        assert status_of(f"{plain}?t={signed()}") == 403
        assert status_of(f"{secure}?t={signed()}", ssl=client) == 101


# -- credentials that expire, alone ----------------------------------------------------------------


def test_credentials_that_expire_need_no_list_of_users(tmp_path: Path) -> None:
    path = written(tmp_path / "secret", SECRET)
    later = int(time.time()) + 600
    name, password = timed_credentials(SECRET.encode(), "alice", later)

    async def scenario(url: str, secret: str, status: int) -> None:
        name, password = timed_credentials(secret.encode(), "alice", later)
        async with phone(url, "alice", password=password, registers=False) as alice:
            alice.login = name
            assert (await alice.register()).status == status

    flags = ["--auth-secret", path, "--users-for", "sip", "--users-for", "msrp", *DOMAIN, *RELAY]
    with launched(*flags) as service:
        run(scenario(service.url, SECRET, 200))
        assert logged_in(service, name, password) == 200
        assert run(registered(service.url, "alice", "wonderland")) == 401
        written(tmp_path / "secret", SECRET[::-1])
        assert service.reload() == "Settings reloaded"
        run(scenario(service.url, SECRET, 401))
        run(scenario(service.url, SECRET[::-1], 200))
        assert logged_in(service, name, password) == 401
        assert logged_in(service, *timed_credentials(SECRET[::-1].encode(), "alice", later)) == 200


def test_what_is_not_known_here_is_asked() -> None:
    there = sources(settings(users_http="http://127.0.0.1:1", users_http_tokens=True))
    assert there.lookup("alice") is LATER
    assert there.verify(BearerQuestion("x")) is LATER
    assert (there.has_accounts, there.has_tokens) == (True, True)
    nothing = sources(Settings())
    assert nothing.families() == []
    assert (nothing.has_accounts, nothing.has_tokens, nothing.places) == (False, False, frozenset())

"""Users of a service on this machine, queried over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.adapters._endpoint import CLIENT_TLS, SERVER_TLS
from tests.peers._support import run
from wsproto_sip.adapters.asyncio import users_http
from wsproto_sip.adapters.asyncio.users_http import HttpUsers
from wsproto_sip.auth import Account, AccountQuestion, Algorithm, Identity, UnusableAccount

QUESTION = AccountQuestion("alice@sip.test", "calls", "alice")


class Service:
    """Gives prepared answers, and records the questions."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Any] = []
        self.asked: list[Any] = []
        self.heads: list[str] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        #: Whether connections stay open after an answer that does not say so.
        self.hang_up = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                self.asked.append(json.loads(await reader.readexactly(length)))
                answer = self.answers.pop(0)
                if not isinstance(answer, bytes):
                    body = json.dumps(answer).encode()
                    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                writer.write(answer)
                await writer.drain()
                if self.hang_up or not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def service(*answers: Any, tls: bool = False) -> AsyncIterator[Service]:
    made = Service()
    made.answers += answers
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=SERVER_TLS if tls else None)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/users?for=sip"
    try:
        yield made
    finally:
        server.close()


def status(code: int, *fields: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {code} Whatever", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.mark.parametrize("tls", [False, True])
def test_account_is_requested_and_found(tls: bool) -> None:
    hashes = {"MD5": "AB" * 16, "SHA-256": "cd" * 32, "SHA-512-256": None}

    async def scenario() -> None:
        async with service({"password": "x"}, {"ha1": hashes, "name": "al"}, tls=tls) as there:
            users = HttpUsers(there.url, token="s3cret", headers=[("X-Key", "k3y")], tls=CLIENT_TLS)
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            assert await users.account(QUESTION) == Account(
                Identity("al"), None, {Algorithm.MD5: "ab" * 16, Algorithm.SHA_256: "cd" * 32}
            )
            await users.close()
        assert there.asked[0] == {
            "question": "account",
            "username": "alice@sip.test",
            "name": "alice",
            "realm": "calls",
        }
        assert there.heads[0].startswith("POST /users?for=sip HTTP/1.1\r\n")
        assert "authorization: bearer s3cret" in there.heads[0].lower()
        assert "x-key: k3y" in there.heads[0].lower()
        # Both on one connection.
        assert there.connections == 1

    run(scenario())


def test_token_is_sent_and_found() -> None:
    async def scenario() -> None:
        async with service({"name": "alice"}, None, {}, status(404)) as there:
            users = HttpUsers(there.url)
            assert await users.identity("abc") == Identity("alice", "token")
            for _ in range(3):
                assert await users.identity("abc") is None
            assert there.asked[0] == {"question": "token", "token": "abc"}
            await users.close()

    run(scenario())


def test_interim_responses_are_skipped() -> None:
    async def scenario() -> None:
        early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        async with service(early + status(200, body=b'{"password": "x"}')) as there:
            users = HttpUsers(there.url)
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            await users.close()

    run(scenario())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(500), "status 500"),
        (status(302, "Location: http://elsewhere.test/"), "status 302"),
        (status(200, body=b"{"), ""),
        (status(200, body=b"[1]"), "not an object"),
        (status(200, body=b"x" * 70_000), "more than 65536 bytes"),
        (b"nonsense\r\n\r\n", "does not speak HTTP"),
        ({"name": 1, "password": "x"}, "not a user name"),
        ({"name": "a\nb", "password": "x"}, "not a user name"),
        ({"password": 1}, "no password or ha1"),
        ({"ha1": "x"}, "no password or ha1"),
        ({"name": "alice"}, "no password or ha1"),
        ({"ha1": {"SHA-1": "x"}}, "SHA-1"),
    ],
)
def test_invalid_answer_is_an_error(answer: Any, reason: str) -> None:
    async def scenario() -> None:
        async with service(answer, {"password": "x"}) as there:
            users = HttpUsers(there.url)
            with pytest.raises(ValueError, match=reason or ".") as caught:
                await users.account(QUESTION)
            assert not isinstance(caught.value, UnusableAccount)
            # The next question is answered anyway.
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            await users.close()

    run(scenario())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"password": None}, "no password and no hash is stored"),
        ({"ha1": {}}, "no password and no hash is stored"),
        ({"ha1": {"MD5": None}}, "no password and no hash is stored"),
        ({"ha1": {"MD5": ""}}, "not the 32 digits of MD5"),
        ({"ha1": {"MD5": "cd" * 32}}, "not the 32 digits of MD5"),
        ({"password": ""}, "the password is empty"),
        ({"password": "$2y$05$abc"}, "a hashed password"),
    ],
)
def test_stored_secret_that_matches_nothing_makes_the_account_unusable(
    answer: Any, reason: str
) -> None:
    async def scenario() -> None:
        async with service(answer) as there:
            users = HttpUsers(there.url)
            with pytest.raises(UnusableAccount, match=reason):
                await users.account(QUESTION)
            await users.close()

    run(scenario())


def test_stale_connection_is_replaced() -> None:
    async def scenario() -> None:
        async with service(*[{"password": "x"}] * 3) as there:
            users = HttpUsers(there.url)
            there.hang_up = True
            for _ in range(3):
                assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            assert there.connections == 3
            await users.close()

    run(scenario())


def test_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with service(*[{"password": "x"}] * 4) as there:
            users = HttpUsers(there.url)
            await asyncio.gather(*[users.account(QUESTION) for _ in range(2)])
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            assert there.connections == 2
            monkeypatch.setattr(users_http, "_MOST_IDLE", -1.0)
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            assert there.connections == 3
            await users.close()

    run(scenario())


def test_connection_closed_instead_of_an_answer_is_an_error() -> None:
    async def scenario() -> None:
        async with service(b"", status(200, "Connection: close", body=b"{}")) as there:
            users = HttpUsers(there.url)
            with pytest.raises(ValueError, match="does not speak HTTP"):
                await users.account(QUESTION)
            assert await users.account(QUESTION) is None
            assert there.connections == 2
            await users.close()

    run(scenario())


def test_silent_service_does_not_delay_close() -> None:
    async def scenario() -> None:
        async with service({"password": "x"}, tls=True) as there:
            users = HttpUsers(there.url, tls=CLIENT_TLS)
            assert await users.account(QUESTION) == Account(Identity("alice"), "x")
            # It no longer reads, so that it does not answer the closing alert of TLS.
            transport: Any = there.writers[0].transport
            transport.pause_reading()
            await users.close(patience=0.01)
            await users.close()
            transport.abort()

    run(scenario())


def test_unreachable_service_is_an_error() -> None:
    async def scenario() -> None:
        async with service() as there:
            url = there.url
        with pytest.raises(OSError, match=r"."):
            await HttpUsers(url).account(QUESTION)

    run(scenario())


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("ftp://a/", {}, "not an http or https URL"),
        ("http:///x", {}, "not an http or https URL"),
        ("http://user:secret@a/", {}, "not an http or https URL"),
        ("http://a/\x7f b", {}, "not valid in a request"),
        ("http://a/", {"token": "a\nb"}, "not valid in a request"),
        ("http://a/", {"headers": [("X", "a\nb")]}, "not valid in a request"),
        ("http://a/", {"headers": [("Host", "b")]}, "a header field that cannot be set: Host"),
        ("http://a/", {"max_connections": 0}, "max_connections must be positive: 0"),
    ],
)
def test_invalid_settings_are_refused(url: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HttpUsers(url, **options)


def test_https_trusts_the_systems_certificates_by_default() -> None:
    async def scenario() -> None:
        async with service({}, tls=True) as there:
            with pytest.raises(OSError, match="certificate verify failed"):
                await HttpUsers(there.url).account(QUESTION)
            assert HttpUsers("https://a.test")._port == 443

    run(scenario())

"""Commands and metrics over HTTP, with handwritten requests and http.client."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.peers._support import HOST, run
from wsproto_sip.adapters.asyncio import management, management_http
from wsproto_sip.adapters.asyncio.management_http import HttpChannel
from wsproto_sip.server.management.commands import (
    Command,
    CommandTable,
    DisableCommand,
    EmptyResult,
    Result,
)
from wsproto_sip.server.management.prometheus import Family, connection_families
from wsproto_sip.server.statistics import MODULE_STATISTICS, Statistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CALL = b'{"jsonrpc":"2.0","method":"ws.disable","id":1}'
JSON = "Content-Type: application/json"


class Client:
    """A client that writes its requests by hand.

    Args:
        port: The port of the server.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    async def send(self, data: bytes) -> bytes:
        """Return everything that arrives until the server closes."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def ask(
        self, start: str, *headers: str, body: bytes = b"", host: str | None = "localhost"
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, header fields and body."""
        lines = [f"{start} HTTP/1.1", *headers, "Connection: close"]
        if host is not None:
            lines.append(f"Host: {host}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        answer = await self.send("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, rest = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        pairs = (field.partition(": ") for field in fields)
        return int(status.split(" ")[1]), {name.lower(): value for name, _, value in pairs}, rest


def families() -> list[Family]:
    return connection_families(Statistics())


@asynccontextmanager
async def http(
    executed: list[Command] | None = None,
    *,
    token: str | None = None,
    ready: bool = True,
    refused: Callable[[], object] = lambda: None,
) -> AsyncIterator[Client]:
    def execute(command: Command) -> Result:
        if executed is not None:
            executed.append(command)
        return EmptyResult()

    table = CommandTable()
    channel = HttpChannel(
        0, table.executing(execute), families, ready=lambda: ready, token=token, refused=refused
    )
    await channel.open()
    try:
        assert channel.name.startswith(f"http://{HOST}:")
        yield Client(int(channel.name.rpartition(":")[2].rstrip("/")))
    finally:
        await channel.close()


def test_command_is_executed() -> None:
    async def scenario() -> None:
        executed: list[Command] = []
        async with http(executed) as client:
            status, headers, body = await client.ask("POST /", JSON, body=CALL)
        assert (status, headers["content-type"]) == (200, "application/json")
        assert headers["cache-control"] == "no-store"
        assert json.loads(body) == {"jsonrpc": "2.0", "result": {}, "id": 1}
        assert executed == [DisableCommand()]

    run(scenario())


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8098", "[::1]", "[::1]:9"])
def test_only_names_of_this_machine_are_accepted(host: str) -> None:
    async def scenario() -> None:
        async with http() as client:
            status, headers, body = await client.ask("GET /metrics", host=host)
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name for family in text_string_to_metric_families(body.decode())}
        assert set(MODULE_STATISTICS) <= families | {f"{name}_total" for name in families}
        assert "ws_round_trip_seconds" in families

    run(scenario())


@pytest.mark.parametrize(
    ("start", "headers", "host", "status"),
    [
        ("POST /", [JSON], "evil.example", 403),
        ("POST /", [JSON], "127.0.0.1.evil.example:80", 403),
        ("POST /", [JSON], "", 403),
        ("GET /metrics", [], "evil.example:8098", 403),
        ("POST /", [JSON, "Origin: http://localhost"], "localhost", 403),
        ("GET /metrics", ["Origin: null"], "localhost", 403),
        ("POST /", ["Content-Type: text/plain"], "localhost", 415),
        ("POST /", [], "localhost", 415),
        ("POST /", ["Content-Type: application/jsonx"], "localhost", 415),
        ("OPTIONS /", ["Access-Control-Request-Method: POST"], "localhost", 405),
        ("GET /", [], "localhost", 405),
        ("POST /metrics", [JSON], "localhost", 405),
        ("GET /metrics/", [], "localhost", 404),
        ("GET /other", [], "localhost", 404),
        ("POST /", [JSON, "Transfer-Encoding: nonsense"], "localhost", 501),
        ("GET /metrics", [], None, 400),
    ],
)
def test_invalid_requests_are_refused(
    start: str, headers: list[str], host: str | None, status: int
) -> None:
    async def scenario() -> None:
        executed: list[Command] = []
        async with http(executed) as client:
            got, fields, _ = await client.ask(start, *headers, body=CALL, host=host)
        assert got == status
        assert not [name for name in fields if name.startswith("access-control")]
        assert ("allow" in fields) == (status == 405)
        assert executed == []

    run(scenario())


def test_json_may_name_its_charset() -> None:
    async def scenario() -> None:
        async with http() as client:
            header = "Content-Type: Application/JSON ; charset=utf-8"
            status, _, _ = await client.ask("POST /", header, body=CALL)
        assert status == 200

    run(scenario())


def test_head_has_no_body() -> None:
    async def scenario() -> None:
        async with http() as client:
            status, headers, body = await client.ask("HEAD /metrics")
            assert (status, body) == (200, b"")
            assert int(headers["content-length"]) > 1000
            status, headers, body = await client.ask("HEAD /")
            assert (status, body) == (405, b"")

    run(scenario())


def test_notifications_have_no_answer() -> None:
    async def scenario() -> None:
        executed: list[Command] = []
        async with http(executed) as client:
            call = b'{"jsonrpc":"2.0","method":"ws.disable"}'
            assert (await client.ask("POST /", JSON, body=call))[::2] == (204, b"")
        assert executed == [DisableCommand()]

    run(scenario())


def test_body_is_bounded() -> None:
    async def scenario() -> None:
        async with http() as client:
            status, headers, _ = await client.ask(
                "POST /", JSON, body=b" " * (management.MAX_MESSAGE + 1)
            )
            assert (status, headers["connection"]) == (413, "close")
            chunked = (
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
                b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n"
            )
            answers = await client.send(chunked)
            assert answers.count(b"HTTP/1.1 200 ") == 2

    run(scenario())


def test_invalid_http_is_refused() -> None:
    async def scenario() -> None:
        async with http() as client:
            assert (await client.send(b"\x16\x03\x01\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
            assert (await client.send(b"X: " + b"x" * 20000)).startswith(b"HTTP/1.1 431 ")

    run(scenario())


def test_client_may_leave_at_any_point() -> None:
    async def scenario() -> None:
        request = (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
        async with http() as client:
            for data in (b"", b"GET ", request):
                reader, writer = await asyncio.open_connection(HOST, client.port)
                writer.write(data)
                writer.write_eof()
                answer = await reader.read()
                assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
                writer.close()
            assert (await client.ask("GET /metrics"))[0] == 200

    run(scenario())


def test_requests_of_one_connection_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management_http, "MAX_REQUESTS", 2)

    async def scenario() -> None:
        async with http() as client:
            one = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert (await client.send(one * 3)).count(b"HTTP/1.1 200 ") == 2

    run(scenario())


def test_http_survives_a_lack_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = socket.socket.accept
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(3)]

    def scarce(listener: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(listener)

    async def scenario() -> None:
        async with http() as client:
            monkeypatch.setattr(socket.socket, "accept", scarce)
            assert (await client.ask("GET /metrics"))[0] == 200

    run(scenario())
    assert not failures
    assert caplog.messages == ['accept-failed reason="Too many open files" failures=1']


def test_port_in_use_is_reported() -> None:
    async def scenario() -> None:
        async with http() as client:
            channel = HttpChannel(client.port, lambda name, params: EmptyResult(), families)
            with pytest.raises(OSError):
                await channel.open()
            await channel.close()

    run(scenario())


def test_configured_token_is_required() -> None:
    async def scenario() -> None:
        refused: list[int] = []
        token = "the-token-of-a-test"
        async with http(token=token, refused=lambda: refused.append(1)) as client:
            for fields, status in (
                ([], 401),
                (["Authorization: Basic dTpw"], 401),
                (["Authorization: Bearer the-token"], 401),
                (["Authorization: Bearer the-token-of-a-test"], 204),
                (["authorization: bearer  the-token-of-a-test"], 204),
            ):
                call = CALL.replace(b',"id":1', b"")
                got, headers, _ = await client.ask("POST /", JSON, *fields, body=call)
                assert got == status
                assert ("www-authenticate" in headers) == (status == 401)
            assert (await client.ask("GET /metrics"))[0] == 401
            assert (await client.ask("GET /elsewhere"))[0] == 401
        # Only those that have brought a token can be guesses.
        assert len(refused) == 2

    run(scenario())


def test_health_checks_need_no_token() -> None:
    async def scenario() -> None:
        for ready, status in ((True, 200), (False, 503)):
            async with http(token="secret", ready=ready) as client:
                assert (await client.ask("GET /ready"))[0] == status
                assert (await client.ask("GET /health"))[::2] == (200, b"alive\n")
                assert (await client.ask("HEAD /health"))[::2] == (200, b"")
                assert (await client.ask("POST /health", JSON, body=b"{}"))[0] == 401
                assert (await client.ask("GET /metrics"))[0] == 401

    run(scenario())

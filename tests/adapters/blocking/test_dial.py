"""How a blocking client reaches its server: addresses, and proxies, real and broken ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.blocking import (
    Connection,
    ProxyError,
    connect,
    dial as _blocking_dial,
    serve,
)
from wsproto_sip.session.config import SessionConfig

from .._proxies import ThroughProxies, tinyproxy, tls_front
from .._suite import BOUND, HOST, certificates, port_of, reset
from .test_blocking import Ended, NoContext, echo_all, nothing_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from .._suite import End


class TestProxies(ThroughProxies):
    """Real proxies."""

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND):
                await scenario

        with nothing_leaks():
            asyncio.run(bounded())

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        connection = await asyncio.to_thread(connect, uri, **options)
        yield Ended(connection, asyncio.to_thread)
        await asyncio.to_thread(connection.__exit__, None, None, None)

    @pytest.mark.parametrize("secure", [False, True])
    @pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
    def test_messages_of_all_sizes_pass_a_proxy(
        self, scheme: str, secure: bool, tmp_path: Path
    ) -> None:
        if (scheme, secure) == ("https", True):
            with pytest.raises(ValueError, match="TLS in TLS"):
                connect("wss://example.com/", proxy="https://example.com")
        else:
            super().test_messages_of_all_sizes_pass_a_proxy(scheme, secure, tmp_path)


class TestBadProxies:
    """Proxies that misbehave."""

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (b"", "closed the connection"),
            (b"HTTP/1.1 200", "closed the connection"),
            (b"SSH-2.0-x\r\n\r\n", "did not send HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\nmore", "more than its answer"),
            (b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n", "refused: 403 No"),
            (None, "closed the connection"),
        ],
    )
    def test_invalid_answers_of_a_proxy_are_reported(self, answer: bytes | None, why: str) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                reset(writer.get_extra_info("socket"))
                writer.transport.abort()
            else:
                writer.write(answer)
                writer.close()

        async def scenario() -> None:
            async with await asyncio.start_server(other, HOST, 0) as server:
                proxy = f"http://{HOST}:{port_of(server)}"
                with pytest.raises(ProxyError, match=why):
                    await asyncio.to_thread(connect, "ws://x/", proxy=proxy)

        asyncio.run(scenario())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_silent_proxy_is_a_timeout(self, scheme: str) -> None:
        pytest.importorskip("python_socks")
        with socket.create_server((HOST, 0)) as silent:
            proxy = f"{scheme}://{HOST}:{silent.getsockname()[1]}"
            with pytest.raises(TimeoutError):
                connect("ws://x/", proxy=proxy, config=SessionConfig(open_timeout=0.05))

    def test_untrusted_proxy_is_refused(self, tmp_path: Path) -> None:
        """The certificate of the proxy is not trusted."""

        async def scenario() -> None:
            async with tls_front(port, certificates()[0]) as front:
                with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                    await asyncio.to_thread(connect, "ws://x/", proxy=f"https://localhost:{front}")

        with tinyproxy(tmp_path) as port:
            asyncio.run(scenario())


class TestAddresses:
    def test_addresses_are_tried_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve(echo_all, HOST, 0) as server:
            with socket.create_server((HOST, 0)) as sock:
                closed = sock.getsockname()
            kind = socket.SOCK_STREAM
            places = [
                (9999, kind, 0, "", (HOST, 1)),
                (socket.AF_INET, kind, 0, "", closed),
                (socket.AF_INET, kind, 0, "", server.addresses[0]),
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
            with connect("ws://example.com/") as client:
                client.send("x")
                assert client.recv(BOUND) == "x"
            places.pop()
            with pytest.raises(OSError, match="not supported"):
                connect("ws://example.com/")
            places.clear()
            with pytest.raises(OSError, match="no address"):
                connect("ws://example.com/")

    def test_connecting_respects_the_time_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_blocking_dial, "monotonic", lambda: inf)
        with pytest.raises(TimeoutError, match="in time"):
            connect(f"ws://{HOST}:1")

    def test_interrupted_connect_closes_the_socket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with socket.create_server((HOST, 0)) as listener:
            uri = f"ws://{HOST}:{listener.getsockname()[1]}"
            for place, name in ((socket.socket, "connect"), (Connection, "wait_opened")):
                with monkeypatch.context() as patch:
                    patch.setattr(place, name, interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        connect(uri)

    def test_failing_tls_context_closes_the_socket(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            place: dict[str, Any] = {"host": HOST, "port": listener.getsockname()[1]}
            with pytest.raises(OSError, match="gone"):
                connect("wss://example.com/", ssl=NoContext(ssl.PROTOCOL_TLS_CLIENT), **place)

    def test_socks_without_a_timeout(self) -> None:
        with serve(echo_all, HOST, 0) as server:
            uri = f"ws://{HOST}:{server.addresses[0][1]}"
            with connect(uri, config=SessionConfig(open_timeout=None)) as client:
                assert client.ping() >= 0

"""How a client on trio reaches its server through proxies, real and broken ones."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trio")

import trio

from wsproto_sip.adapters.trio import ProxyError, connect, serve
from wsproto_sip.session.config import SessionConfig

from .._proxies import ThroughProxies, microsocks, tinyproxy
from .._suite import BOUND, HOST, reset
from .test_trio import CERTIFICATES, Ended, TrioThread, echo_all, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from .._suite import End


class TestProxies(ThroughProxies):
    """Real proxies."""

    trio: TrioThread

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND):
                await scenario

        with TrioThread() as self.trio:
            asyncio.run(bounded())

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        async with self.trio.enter(lambda: connect(uri, **options)) as connection:
            yield Ended(connection, self.trio)


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("python_socks")
    with tinyproxy(tmp_path_factory.mktemp("proxy")) as http, microsocks() as socks:
        yield {"http": http, "socks5h": socks}


@pytest.mark.parametrize("steps", [0, 4, 8, 12, 16, 20, 30, 50, 80])
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_cancelled_client_leaves_no_connection(
    scheme: str, steps: int, proxies: dict[str, int]
) -> None:
    """No connection is left, wherever the client is cancelled."""
    for_server, for_client = CERTIFICATES

    async def client(uri: str, scope: trio.CancelScope) -> None:
        proxy = f"{scheme}://{HOST}:{proxies[scheme]}"
        with scope:
            async with connect(uri, proxy=proxy, ssl=for_client) as end:
                await end.ping()

    async def scenario() -> None:
        async with serve(echo_all, HOST, 0, ssl=for_server) as server:
            uri = f"wss://{HOST}:{server.addresses[0][1]}"
            files = len(os.listdir("/proc/self/fd"))
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(client, uri, scope)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            while server.connections or len(os.listdir("/proc/self/fd")) > files:
                await trio.lowlevel.checkpoint()

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "more than its answer"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n", "refused: 403 No"),
        (None, "closed the connection"),
    ],
)
def test_invalid_answers_of_a_proxy_are_reported(answer: bytes | None, why: str) -> None:
    async def other(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if answer is None:
            reset(stream.socket)  # type: ignore[arg-type]
        else:
            await stream.send_all(answer)
        await stream.aclose()

    async def refused() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(_serve, other)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(ProxyError, match=why):
                async with connect("ws://x/", proxy=f"http://{HOST}:{port}"):
                    pass
            nursery.cancel_scope.cancel()

    run(refused)


async def _serve(handler: Any, task_status: Any) -> None:
    await trio.serve_tcp(handler, 0, host=HOST, task_status=task_status)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_silent_proxy_is_a_timeout(scheme: str) -> None:
    pytest.importorskip("python_socks")

    async def scenario() -> None:
        with trio.socket.socket() as silent:
            await silent.bind((HOST, 0))
            silent.listen()
            proxy = f"{scheme}://{HOST}:{silent.getsockname()[1]}"
            with pytest.raises(TimeoutError):
                async with connect("ws://x/", proxy=proxy, config=SessionConfig(open_timeout=0.05)):
                    pass

    run(scenario)


def test_unknown_host_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(*_: object, **__: object) -> None:
        raise socket.gaierror("unknown")

    async def scenario() -> None:
        monkeypatch.setattr(trio.socket, "getaddrinfo", lookup)
        with pytest.raises(socket.gaierror):
            async with connect("ws://example.invalid/"):
                pass

    run(scenario)


def test_untrusted_certificate_is_refused() -> None:
    async def scenario() -> None:
        async with serve(echo_all, HOST, 0, ssl=CERTIFICATES[0]) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                async with connect(f"wss://{HOST}:{server.addresses[0][1]}"):
                    pass

    run(scenario)

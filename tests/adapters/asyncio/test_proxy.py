"""Clients on asyncio through proxies: real and broken ones."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.asyncio import connect, proxy as _asyncio_proxy, serve
from wsproto_sip.adapters.asyncio.proxy import on_socket
from wsproto_sip.adapters.exceptions import ProxyError

from .._proxies import ThroughProxies, microsocks, tinyproxy, tls_front
from .._suite import BOUND, HOST, certificates, echo, nothing_leaks, port_of, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from .._suite import End


class OnAsyncio(ThroughProxies):
    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(BOUND), nothing_leaks():
                await scenario

        self.loop_run(bounded())

    def loop_run(self, scenario: Coroutine[Any, Any, None]) -> None:
        asyncio.run(scenario)

    @asynccontextmanager
    async def client(self, uri: str, **options: Any) -> AsyncIterator[End]:
        async with connect(uri, **options) as connection:
            yield connection

    def test_transport_ending_at_once_is_closed_once(self) -> None:
        """Its descriptor is closed once, and the peer sees the end."""

        class Ending(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                transport.abort()

        async def scenario() -> None:
            here, there = socket.socketpair()
            with there:
                assert isinstance(await on_socket(Ending, here, {}), Ending)
                await turns(lambda: here.fileno() == -1)
                there.settimeout(BOUND)
                assert there.recv(1) == b""

        self.run(scenario())

    @pytest.mark.parametrize("way", ["cancel", "abort"])
    def test_abandoned_tunnel_is_dropped(self, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Either the transport or its waiting task has ended."""
        tasks: list[asyncio.Task[Any]] = []

        class Ending(_asyncio_proxy._Waiting):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                if way == "abort":
                    self.ended = True
                    asyncio.get_running_loop().call_soon(transport.abort)
                else:
                    tasks[0].cancel()

        async def scenario() -> None:
            here, there = socket.socketpair()
            with there:
                tasks.append(asyncio.create_task(on_socket(asyncio.Protocol, here, {})))
                [result] = await asyncio.gather(*tasks, return_exceptions=True)
                assert isinstance(
                    result, ConnectionResetError if way == "abort" else asyncio.CancelledError
                )
                there.settimeout(BOUND)
                await turns(lambda: here.fileno() == -1)
                assert there.recv(1) == b""

        monkeypatch.setattr(_asyncio_proxy, "_Waiting", Ending)
        self.run(scenario())

    # A proxy may connect even later; that transport is left to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("steps", [0, 4, 8, 10, 12, 14, 18, 25, 40, 70])
    @pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
    def test_cancelled_client_leaves_no_connection(
        self, scheme: str, steps: int, proxies: dict[str, int]
    ) -> None:
        """No connection is left, wherever the client is cancelled."""
        for_server, for_client = certificates()

        async def one(uri: str, proxy: str) -> None:
            async with connect(uri, proxy=proxy, ssl=for_client, proxy_ssl=for_client) as end:
                await end.ping()

        async def scenario() -> None:
            # asyncio does not notice a client lost in its TLS handshake: the timeout ends it.
            async with (
                serve(echo, HOST, 0, ssl=for_server, ssl_handshake_timeout=1) as server,
                tls_front(proxies["http"], for_server, 1) as front,
            ):
                before = asyncio.all_tasks()
                uri = f"wss://localhost:{server.addresses[0][1]}"
                ports = {"https": front, **proxies}
                files = len(os.listdir("/proc/self/fd"))
                task = asyncio.create_task(one(uri, f"{scheme}://localhost:{ports[scheme]}"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                # Connections accepted before this one are visible now.
                await one(uri, f"{scheme}://localhost:{ports[scheme]}")
                await turns(lambda: not server.connections and not server._tasks)
                await turns(lambda: asyncio.all_tasks() <= before)
                await turns(lambda: len(os.listdir("/proc/self/fd")) <= files)

        self.run(scenario())


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("python_socks")
    with tinyproxy(tmp_path_factory.mktemp("proxy")) as http, microsocks() as socks:
        yield {"http": http, "socks5h": socks}


class TestStandardLoop(OnAsyncio):
    """On the event loop of the standard library."""


@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
class TestUvloop(OnAsyncio):
    """On uvloop."""

    def loop_run(self, scenario: Coroutine[Any, Any, None]) -> None:
        uvloop = import_module("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario)


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
        ],
    )
    def test_invalid_answers_of_a_proxy_are_reported(self, answer: bytes, why: str) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        run(_refused(other, why))

    def test_reset_by_a_proxy_is_reported(self) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        run(_refused(other, "closed the connection"))

    def test_proxy_ending_after_its_answer_is_reported(self) -> None:
        """In the read after the answer, before TLS."""

        async def scenario() -> None:
            from wsproto_sip.adapters.asyncio.proxy import _Tunnelling
            from wsproto_sip.adapters.proxies import Proxy, Tunnel

            here, there = socket.socketpair()
            with there:
                tunnel = Tunnel(Proxy.parse("http://p"), "h", 1)
                loop = asyncio.get_running_loop()
                transport, asking = await loop.create_connection(
                    lambda: _Tunnelling(tunnel), sock=here
                )
                there.send(b"HTTP/1.1 200 OK\r\n\r\n")
                await asking.ready
                asking.check()
                there.send(b"x")
                await turns(lambda: asking._error is not None)
                with pytest.raises(ProxyError, match="ended before"):
                    asking.check()
                transport.close()

        run(scenario())

    def test_invalid_tls_arguments_close_the_socket(self, proxies: dict[str, int]) -> None:
        """The socket that python-socks opened is closed."""

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                proxy = f"socks5://{HOST}:{proxies['socks5h']}"
                uri = f"ws://{HOST}:{server.addresses[0][1]}"
                with pytest.raises(ValueError, match="server_hostname"):
                    async with connect(uri, proxy=proxy, server_hostname="x"):
                        pass
                await turns(lambda: not server.connections)

        run(scenario())


async def _refused(other: Any, why: str) -> None:
    async with await asyncio.start_server(other, HOST, 0) as server:
        with pytest.raises(ProxyError, match=why):
            async with connect("ws://x/", proxy=f"http://{HOST}:{port_of(server)}"):
                pass


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), nothing_leaks():
            await scenario

    asyncio.run(bounded())

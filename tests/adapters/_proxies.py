"""Real proxies, tinyproxy and microsocks, and what every adapter's client must do through them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("websockets")

from websockets.asyncio.server import serve as their_server

from wsproto_sip.adapters.exceptions import ProxyError
from wsproto_sip.session.config import SessionConfig

from ._suite import BOUND, HOST, MESSAGES, certificates, port_of, their_echo, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

    from ._suite import End

#: The credentials that the proxies with authentication expect.
USER, PASSWORD = "alice", "s3cret"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a process accepts connections; return False if it exits instead."""
    while process.poll() is None:
        with suppress(OSError):
            socket.create_connection((HOST, port), 10).close()
            return True
    return False


@contextmanager
def _running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert _accepts(process, port), f"{command[0]} did not start"
        yield port
    finally:
        # tinyproxy may miss a signal to terminate.
        process.kill()
        process.wait()


@contextmanager
def tinyproxy(directory: Path, *, authenticate: bool = False) -> Iterator[int]:
    """Run an HTTP proxy, and yield its port."""
    if shutil.which("tinyproxy") is None:
        pytest.skip("tinyproxy is not installed")
    port = free_port()
    lines = [f"Listen {HOST}", f"Port {port}", "Timeout 60", "MaxClients 100", f"Allow {HOST}"]
    if authenticate:
        lines.append(f"BasicAuth {USER} {PASSWORD}")
    file = directory / f"tinyproxy-{port}.conf"
    file.write_text("\n".join(lines) + "\n")
    with _running(["tinyproxy", "-d", "-c", str(file)], port):
        yield port


@contextmanager
def microsocks(*, authenticate: bool = False) -> Iterator[int]:
    """Run a SOCKS5 proxy, and yield its port."""
    if shutil.which("microsocks") is None:
        pytest.skip("microsocks is not installed")
    port = free_port()
    command = ["microsocks", "-i", HOST, "-p", str(port)]
    if authenticate:
        command += ["-u", USER, "-P", PASSWORD]
    with _running(command, port):
        yield port


@asynccontextmanager
async def tls_front(
    port: int, context: ssl.SSLContext, handshake_timeout: float = BOUND
) -> AsyncIterator[int]:
    """Terminate TLS in front of a port, and yield the port of the front."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(client(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(
        accepted, HOST, 0, ssl=context, ssl_handshake_timeout=handshake_timeout
    )
    async with server:
        yield port_of(server)
        server.close()
        while tasks:
            await asyncio.wait(tasks)


class ThroughProxies:
    """The tests; a subclass defines how clients are run, as for the suite."""

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        raise NotImplementedError

    def client(self, uri: str, **options: Any) -> AbstractAsyncContextManager[End]:
        raise NotImplementedError

    @pytest.mark.parametrize("secure", [False, True])
    @pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
    def test_messages_of_all_sizes_pass_a_proxy(
        self, scheme: str, secure: bool, tmp_path: Path
    ) -> None:
        """Messages of all sizes, including through TLS inside TLS."""
        pytest.importorskip("python_socks")
        for_server, for_client = certificates()

        async def echo(proxy: str) -> None:
            context = for_server if secure else None
            async with their_server(their_echo, HOST, 0, ssl=context, max_size=None) as server:
                uri = f"{'wss' if secure else 'ws'}://localhost:{port_of(server)}/"
                options = {"ssl": for_client, "proxy_ssl": for_client, "proxy": proxy}
                async with self.client(uri, **options) as end:
                    for message in MESSAGES:
                        await end.send(message)
                        assert await end.recv() == message
                    assert await end.ping() >= 0
                assert end.closed
                assert end.closed.code == 1000

        async def scenario() -> None:
            if scheme != "https":
                await echo(f"{scheme}://{USER}:{PASSWORD}@{HOST}:{port}")
                return
            async with tls_front(port, for_server) as front:
                await echo(f"https://{USER}:{PASSWORD}@localhost:{front}")

        running = (
            microsocks(authenticate=True)
            if scheme.startswith("socks")
            else tinyproxy(tmp_path, authenticate=True)
        )
        with running as port:
            self.run(scenario())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    @pytest.mark.parametrize("who", ["", "alice:wrong@"])
    def test_wrong_credentials_are_reported(self, scheme: str, who: str, tmp_path: Path) -> None:
        pytest.importorskip("python_socks")
        http = scheme == "http"

        async def scenario() -> None:
            with pytest.raises(ProxyError, match=r"the proxy .* refused: ") as caught:
                async with self.client("ws://localhost:9/", proxy=f"{scheme}://{who}{HOST}:{port}"):
                    pass
            assert "wrong" not in str(caught.value)
            # tinyproxy answers wrong credentials with 401.
            assert caught.value.status_code in ({401, 407} if http else {None})
            assert not caught.value.transient

        running = tinyproxy(tmp_path, authenticate=True) if http else microsocks(authenticate=True)
        with running as port:
            self.run(scenario())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_unreachable_server_is_reported(self, scheme: str, tmp_path: Path) -> None:
        pytest.importorskip("python_socks")

        async def scenario() -> None:
            uri = f"ws://{HOST}:{free_port()}/"
            with pytest.raises(ProxyError, match=r"the proxy .* refused: ") as caught:
                async with self.client(uri, proxy=f"{scheme}://{HOST}:{port}"):
                    pass
            assert caught.value.transient

        with tinyproxy(tmp_path) if scheme == "http" else microsocks() as port:
            self.run(scenario())

    @pytest.mark.parametrize("scheme", ["http", "socks5"])
    def test_unreachable_proxy_is_reported(self, scheme: str) -> None:
        pytest.importorskip("python_socks")

        async def scenario() -> None:
            with pytest.raises(OSError, match=r"refused|Could not|Connect call failed"):
                async with self.client("ws://x/", proxy=f"{scheme}://{HOST}:{free_port()}"):
                    pass

        self.run(scenario())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_answer_of_a_proxy_has_one_time_limit(self, scheme: str) -> None:
        """A proxy that sends byte by byte keeps the client no longer than a silent one."""
        pytest.importorskip("python_socks")
        sent: list[bool] = []
        if scheme == "http":
            answer = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300
        else:
            # No authentication; connected, at a name of 255 bytes.
            answer = b"\x05\x00\x05\x00\x00\x03\xff" + bytes(257)

        async def proxy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for value in answer:
                    writer.write(bytes([value]))
                    await writer.drain()
                    await asyncio.sleep(0.02)
            except (ConnectionError, RuntimeError):
                # uvloop refuses to write to a transport that is closed with the latter.
                sent.append(False)
            else:
                sent.append(True)
            writer.close()

        async def scenario() -> None:
            async with await asyncio.start_server(proxy, HOST, 0) as server:
                config = SessionConfig(open_timeout=0.3)
                with pytest.raises(TimeoutError, match="could not be opened in time"):
                    async with self.client(
                        "ws://x/", proxy=f"{scheme}://{HOST}:{port_of(server)}", config=config
                    ):
                        pass
                await turns(lambda: bool(sent))
                assert sent == [False]

        self.run(scenario())

    def test_proxy_is_taken_from_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variables select the proxy, unless no_proxy or an argument overrides them."""

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0) as server:
                uri = f"ws://{HOST}:{port_of(server)}"
                # Refused without credentials, so the proxy was asked.
                with pytest.raises(ProxyError):
                    async with self.client(uri):
                        pass
                async with self.client(uri, proxy=None) as end:
                    await end.send("x")
                    assert await end.recv() == "x"
                monkeypatch.setenv("no_proxy", HOST)
                async with self.client(uri) as end:
                    await end.send("y")
                    assert await end.recv() == "y"

        with tinyproxy(tmp_path, authenticate=True) as port:
            monkeypatch.setenv("http_proxy", f"http://{HOST}:{port}")
            self.run(scenario())

    def test_redirects_pass_the_proxy(self, tmp_path: Path) -> None:
        """Every hop goes through the proxy."""
        asked: list[str] = []

        def redirect(connection: Any, request: Any) -> Any:
            asked.append(request.path)
            if request.path == "/there":
                return None
            response = connection.respond(302, "")
            response.headers["Location"] = "/there"
            return response

        async def scenario() -> None:
            async with their_server(their_echo, HOST, 0, process_request=redirect) as server:
                uri = f"ws://{HOST}:{port_of(server)}/here"
                async with self.client(uri, proxy=f"http://{HOST}:{port}") as end:
                    await end.send("x")
                    assert await end.recv() == "x"

        with tinyproxy(tmp_path) as port:
            self.run(scenario())
        assert asked == ["/here", "/there"]

"""Every program in ``examples/`` runs, and does what its page says of it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect as dial
from websockets.typing import Origin, Subprotocol

from tests.adapters._msrp import until
from tests.adapters._sip import SocketPhone, free_port
from tests.cli._service import launched
from tests.peers._redis import RedisServer, needs_redis, redis_server
from tests.peers._support import run
from tests.peers._tabs import Tab, browser
from tests.peers.test_chromium import CHROMIUM
from tests.peers.test_page import telephones
from wsproto_sip import ConnectionType, Session, SessionConfig
from wsproto_sip.adapters.asyncio import (
    Connection,
    ConnectionClosedError,
    HandshakeRejected,
    connect,
    serve,
)
from wsproto_sip.events import CloseConnection, Event, Request, TextMessage
from wsproto_sip.extended_connect import ClientExtendedConnect

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: Ports that the examples listen at; here each takes a free one.
PORTS = re.compile(r"\b(8000|8080|8443)\b")
HOST = "127.0.0.1"
#: A page of this machine.
ORIGIN = Origin("http://127.0.0.1:8080")


def source(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def load(name: str) -> ModuleType:
    """Return the example as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def running(name: str, folder: Path, *arguments: str) -> Iterator[Running]:
    """Run a server of the examples as a process, at a free port."""
    program = folder / name
    program.write_text(PORTS.sub("0", source(name)), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Examples may import each other.
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLES}"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"listening at \('127\.0\.0\.1', (\d+)\)", line)
            assert found is not None, line + process.stderr.read()
            yield Running(process, int(found[1]))
            assert process.poll() is None
        finally:
            process.terminate()
            errors = process.stderr.read()
        assert errors == ""


class Running:
    """A server that runs.

    Args:
        process: Its process.
        port: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.uri = f"ws://{HOST}:{port}"


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.stem}' in tests, path.name


def test_every_example_is_on_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in [*(ROOT / "docs").rglob("*.md")])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        program = source(path.name).partition('"""\n\n')[2]
        assert f"examples/{path.name}\n" in pages or program in readme, path.name


def test_server_and_client_of_the_readme(tmp_path: Path) -> None:
    with running("echo_server.py", tmp_path) as server:
        program = source("echo_client.py").replace("8000", str(server.port))
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
        )
    assert done.stdout == "hello\n"


@pytest.mark.parametrize("name", ["test_chat_server.py", "test_without_sockets.py"])
def test_tests_among_the_examples_pass(name: str) -> None:
    options = ["-q", "-c", os.devnull, "--rootdir", str(EXAMPLES), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", *options, EXAMPLES / name],
        check=False,
        capture_output=True,
        text=True,
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_chat(tmp_path: Path) -> None:
    async def scenario(uri: str) -> None:
        async with connect(f"{uri}/alice") as alice, connect(f"{uri}/") as other:
            assert await alice.recv() == "alice is here"
            assert await alice.recv() == "anonymous is here"
            await other.send(b"not text")
            await other.send("hello")
            assert await alice.recv() == "anonymous: hello"

    with running("chat_server.py", tmp_path) as server:
        run(scenario(server.uri))


def test_slow_member_of_the_chat_is_disconnected() -> None:
    module = load("chat_server")

    async def scenario() -> None:
        room = module.Room()
        async with serve(room.join, HOST, 0) as server:
            host, port = server.addresses[0]
            async with connect(f"ws://{host}:{port}/slow") as slow:
                assert await slow.recv() == "slow is here"
                # More at once than the queue takes, in one turn of the loop.
                for number in range(module.BACKLOG + 1):
                    room.say(str(number))
                closed = await slow.wait_closed()
                assert (closed.code, closed.reason) == (1008, "too slow")

    run(scenario())


def test_page_of_the_chat_is_served(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "chat_page", tmp_path / "chat_page")

    async def scenario(server: Running) -> None:
        for target, word in (("/", "<h1>Chat</h1>"), ("/chat.mjs", "onclose"), ("/chat.css", "ol")):
            status, body = await get(server.port, target)
            assert status == 200
            assert word in body
        with pytest.raises(HandshakeRejected) as rejected:
            await connect(f"{server.uri}/eve", headers=[("Origin", "https://evil.example")])
        assert rejected.value.status_code == 403

    with running("chat_page.py", tmp_path) as server:
        run(scenario(server))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_browsers_chat_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    module = load("chat_page")

    async def enter(tab: Tab, name: str) -> None:
        await tab.run(f"document.getElementById('name').value = {name!r}")
        await tab.run("document.querySelector('#enter button').click()")
        await tab.until(f"document.getElementById('state').textContent === 'Connected as {name}'")

    async def say(tab: Tab, text: str) -> None:
        await tab.run(f"document.getElementById('text').value = {text!r}")
        await tab.run("document.querySelector('#say button').click()")

    async def hear(tab: Tab, line: str) -> None:
        await tab.until(
            f"[...document.querySelectorAll('li')].some((item) => item.textContent === {line!r})"
        )

    async def scenario() -> None:
        room = module.Room()
        joined: asyncio.Queue[Connection] = asyncio.Queue()

        async def join(connection: Connection) -> None:
            joined.put_nowait(connection)
            await room.join(connection)

        config = SessionConfig(plain_requests=True)
        async with (
            serve(join, HOST, 0, policies=module.POLICIES, config=config) as server,
            browser(tmp_path / "profile") as found,
        ):
            url = f"http://{HOST}:{server.addresses[0][1]}/"
            alice, bob = await found.open(url), await found.open(url)
            await enter(alice, "alice")
            await enter(bob, "bob")
            await say(alice, "<b>hello</b>")
            await hear(bob, "alice: <b>hello</b>")
            for _ in range(2):
                (await joined.get()).begin_close(1001)
            # Both come back by themselves, after different times. Until then, a page that has not
            # read the close frame still says that it is connected.
            for _ in range(2):
                await joined.get()
            for tab, name in ((alice, "alice"), (bob, "bob")):
                await tab.until(
                    f"document.getElementById('state').textContent === 'Connected as {name}'"
                )
            await say(bob, "again")
            await hear(alice, "bob: again")
            assert found.complaints == []

    run(scenario(), bound=240.0)


# -- calls -----------------------------------------------------------------------------------------


def test_calls_go_through_policy_passwords_and_hook(tmp_path: Path) -> None:
    module = load("calls")

    async def scenario(server: Running) -> None:
        assert f'data-domain="{module.DOMAIN}"' in (await get(server.port, "/"))[1]
        with pytest.raises(HandshakeRejected) as refused:
            await connect(
                server.uri, subprotocols=["sip"], headers=[("Origin", "https://evil.example")]
            )
        assert refused.value.status_code == 403
        async with AsyncExitStack() as stack:
            phones = []
            for name in ("alice", "bob"):
                websocket = await stack.enter_async_context(
                    dial(server.uri, subprotocols=[Subprotocol("sip")], origin=ORIGIN, proxy=None)
                )
                phone = SocketPhone(
                    websocket, name, domain=module.DOMAIN, password=module.USERS[name]
                )
                stack.push_async_callback(phone.stop)
                assert (await phone.register()).status == 200
                phones.append(phone)
            alice, bob = phones
            asked = asyncio.ensure_future(alice.ask("MESSAGE", f"sip:operator@{module.DOMAIN}"))
            bob.answer(await bob.request("MESSAGE"), 200)
            assert (await asked).status == 200
            assert (await alice.ask("INVITE", f"sip:carol@{module.DOMAIN}")).status == 486
            alice.password = "guessed"
            assert (await alice.ask("MESSAGE", bob.aor)).status == 407

    with running("calls.py", tmp_path) as server:
        run(scenario(server))


async def get(port: int, target: str) -> tuple[int, str]:
    """Return the status and the body of a plain request."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_two_tabs_call_each_other_through_the_program(tmp_path: Path) -> None:
    users = load("calls").USERS

    async def scenario(uri: str) -> None:
        async with telephones(tmp_path / "profile", uri, uri) as (_, (alice, bob)):
            await alice.registered("alice", "operator", users["alice"])
            await bob.registered("bob", "carol", users["bob"])
            # The hook leads calls for the operator to bob, and refuses those for carol.
            await alice.press("Call")
            await bob.call("alice", "Incoming call")
            await bob.press("Answer")
            await alice.call("operator", "Connected")
            await alice.counts(5)
            await alice.press("Hang up")
            await alice.idle()
            await bob.idle()
            await bob.press("Call")
            await bob.noticed("carol is busy")

    with running("calls.py", tmp_path) as server:
        run(scenario(server.uri), bound=240.0)


# -- servers on other loops ------------------------------------------------------------------------

TEXTS = ["a", "grüße", "x" * 300_000, *(str(number) for number in range(1000))]


@pytest.mark.parametrize("name", ["selectors_server.py", "echo_server.py"])
def test_servers_that_echo(tmp_path: Path, name: str) -> None:
    async def scenario(uri: str) -> None:
        async with connect(uri) as connection, connect(uri) as other:
            sending = asyncio.ensure_future(send(connection))
            for text in TEXTS:
                assert await connection.recv() == text
            await sending
            await other.send(b"\0")
            assert await other.recv() == b"\0"
            await connection.ping()
            await connection.close(4000, "bye")
            closed = await connection.wait_closed()
            assert closed.close_rcvd == CloseConnection(4000, "bye")
        # A client that goes without a word, and one that never begins.
        for data in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            reader, writer = await asyncio.open_connection(*uri[5:].split(":"))
            writer.write(data)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()

    async def send(connection: Any) -> None:
        for text in TEXTS:
            await connection.send(text)

    with running(name, tmp_path) as server:
        run(scenario(server.uri))


class Http2Client:
    """A client of h2 with sessions on its streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h2.config
        import h2.connection

        self.reader, self.writer = reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.streams: dict[int, ClientExtendedConnect] = {}
        self.sessions: dict[int, Session] = {}
        self.events: dict[int, list[Event]] = {}
        self.over: set[int] = set()
        self.refused: list[bytes] = []

    async def read(self) -> None:
        """Take what comes next."""
        import h2.events

        self.writer.write(self.h2.data_to_send())
        data = await self.reader.read(65536)
        assert data
        for event in self.h2.receive_data(data):
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.ResponseReceived):
                assert stream is not None
                if stream not in self.streams:
                    self.refused.append(dict(event.headers)[b":status"])
                    continue
                self.streams[stream].receive_response(event.headers)
                self.sessions[stream] = Session.established(ConnectionType.CLIENT, now=0.0)
                self.events[stream] = []
            elif isinstance(event, h2.events.DataReceived):
                assert stream is not None
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self.events[stream] += self.sessions[stream].receive(event.data, 0.0)
            elif isinstance(event, h2.events.StreamEnded):
                assert stream is not None
                self.over.add(stream)
        self.writer.write(self.h2.data_to_send())

    def request(self, target: str) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.streams[stream] = ClientExtendedConnect()
        headers = self.streams[stream].request_headers(Request(HOST, target), secure=False)
        self.h2.send_headers(stream, headers)
        return stream

    def send(self, stream: int, event: Event) -> None:
        self.sessions[stream].send(event, 0.0)
        self.h2.send_data(stream, self.sessions[stream].data_to_send())


def test_streams_of_http2_are_sessions(tmp_path: Path) -> None:
    pytest.importorskip("h2", reason="h2 is missing: pip install h2")

    async def scenario(port: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        client = Http2Client(reader, writer)
        first, second = client.request("/a"), client.request("/b")
        while len(client.sessions) < 2:
            await client.read()
        large = "x" * 15_000
        # More than the window of a stream in one direction.
        for number in range(20):
            client.send(first, TextMessage(f"{number}{large}"))
            while len(client.events[first]) <= number:
                await client.read()
            assert client.events[first][number] == TextMessage(f"{number}{large}")
        client.send(second, TextMessage("b"))
        client.send(second, CloseConnection(1000, "bye"))
        while second not in client.over:
            await client.read()
        assert client.events[second] == [TextMessage("b"), CloseConnection(1000, "bye")]
        client.h2.send_headers(
            client.h2.get_next_available_stream_id(),
            [
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b":path", b"/"),
                (b":authority", b"a"),
            ],
            end_stream=True,
        )
        client.send(first, TextMessage("still there"))
        while len(client.events[first]) < 21:
            await client.read()
        assert client.refused == [b"405"]
        client.h2.reset_stream(first)
        writer.write(client.h2.data_to_send())
        writer.close()
        await writer.wait_closed()

    with running("http2_server.py", tmp_path) as server:
        run(scenario(server.port))


def issue_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate, its key and its authority, and return their paths."""
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    chain, key, ca = folder / "fullchain.pem", folder / "privkey.pem", folder / "ca.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return chain, key, ca


def test_client_and_server_over_http3(tmp_path: Path) -> None:
    pytest.importorskip("aioquic", reason="aioquic is missing: pip install aioquic")
    chain, key, ca = issue_certificate(tmp_path)
    with running("http3_server.py", tmp_path, str(chain), str(key)) as server:
        program = source("http3_client.py").replace("8443", str(server.port))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(ca)],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    assert (done.stdout, done.stderr) == ("hello\nclosed with 1000 bye\n", "")


def test_streams_of_http3_are_sessions(tmp_path: Path) -> None:
    reason = "aioquic is missing: pip install aioquic"
    connect_quic = pytest.importorskip("aioquic.asyncio.client", reason=reason).connect
    h3 = importlib.import_module("aioquic.h3.connection")
    settings = importlib.import_module("aioquic.quic.configuration")
    chain, key, ca = issue_certificate(tmp_path)
    create_protocol = load("http3_client").Http3Client

    async def scenario(port: int) -> None:
        configuration = settings.QuicConfiguration(alpn_protocols=h3.H3_ALPN, cafile=str(ca))
        async with (
            connect_quic(
                HOST, port, configuration=configuration, create_protocol=create_protocol
            ) as first,
            connect_quic(
                HOST, port, configuration=configuration, create_protocol=create_protocol
            ) as second,
        ):
            await first.open(HOST, "/a")
            large = "x" * 100_000
            # More than the window of a stream in one direction.
            for number in range(20):
                first.send(TextMessage(f"{number}{large}"))
                assert await first.events.get() == TextMessage(f"{number}{large}")
            # A request that is not an extended CONNECT.
            await second.settings
            second.handshake = ClientExtendedConnect()
            second.handshake.request_headers(Request(HOST, "/"))
            plain = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]
            second.http.send_headers(
                second._quic.get_next_available_stream_id(),
                [*plain, (b":authority", HOST.encode())],
                end_stream=True,
            )
            second.transmit()
            assert (await second.answer).status_code == 405
            # A stream that is reset ends no other.
            second.answer = asyncio.get_running_loop().create_future()
            await second.open(HOST, "/b")
            second._quic.reset_stream(second.stream, h3.ErrorCode.H3_REQUEST_CANCELLED)
            second.transmit()
            first.send(CloseConnection(1000, "bye"))
            assert await first.events.get() == CloseConnection(1000, "bye")
            closed = await first.events.get()
            assert (closed.code, closed.reason) == (1000, "bye")

    with running("http3_server.py", tmp_path, str(chain), str(key)) as server:
        run(scenario(server.port))


# -- how-to ----------------------------------------------------------------------------------------


def test_broadcast_reaches_all_and_does_not_wait_for_slow_readers(tmp_path: Path) -> None:
    module = load("broadcast")

    async def scenario() -> None:
        channel = module.Channel(backlog=2)
        async with serve(channel.subscribe, HOST, 0) as server:
            host, port = server.addresses[0]
            uri = f"ws://{host}:{port}/"
            async with connect(uri) as one, connect(uri) as other:
                await until(lambda: len(channel.queues) == 2)
                assert channel.publish("a") == 0
                assert [await one.recv(), await other.recv()] == ["a", "a"]
                # In one turn of the loop: the third has no room in either queue.
                assert [channel.publish(text) for text in ("b", "c", "d")] == [0, 0, 2]
                assert [await one.recv(), await one.recv()] == ["b", "c"]
            await until(lambda: not channel.queues)

    async def hear(uri: str) -> None:
        async with connect(uri) as connection:
            assert re.fullmatch(r"2\d{3}-.*\+00:00", str(await connection.recv()))

    run(scenario())
    with running("broadcast.py", tmp_path) as server:
        run(hear(server.uri))


def test_slow_server_limits_its_input(tmp_path: Path) -> None:
    async def scenario(uri: str) -> None:
        async with connect(uri) as connection:
            sending = [asyncio.ensure_future(connection.send(text)) for text in "abcdefghij"]
            for number, text in enumerate("abcdefghij", 1):
                assert await connection.recv() == f"{number}: {text}"
            await asyncio.gather(*sending)

    with running("backpressure.py", tmp_path) as server:
        run(scenario(server.uri))


def test_health_checks(tmp_path: Path) -> None:
    async def scenario(server: Running) -> None:
        assert await get(server.port, "/health") == (200, "alive\n")
        assert await get(server.port, "/ready") == (200, "ready\n")
        assert await get(server.port, "/version") == (200, "1.0\n")
        assert (await get(server.port, "/"))[0] == 426
        async with connect(server.uri) as connection:
            await connection.send("a")
            assert await connection.recv() == "a"

    with running("health.py", tmp_path) as server:
        run(scenario(server))


def test_tokens_authenticate_users(tmp_path: Path) -> None:
    async def scenario(uri: str) -> None:
        for target, headers in (
            ("/?token=a1b2c3", []),
            ("/", [("Cookie", "session=a1b2c3"), ("Origin", "https://app.example")]),
        ):
            async with connect(uri + target, headers=headers) as connection:
                assert await connection.recv() == "hello, alice"
                await connection.send("a")
                assert await connection.recv() == "a"
        for target, headers in (
            ("/", []),
            ("/?token=unknown", []),
            ("/?token=a1b2c3", [("Origin", "https://evil.example")]),
        ):
            with pytest.raises(HandshakeRejected) as refused:
                await connect(uri + target, headers=headers)
            assert refused.value.status_code == 403

    with running("authentication.py", tmp_path) as server:
        run(scenario(server.uri))


def test_certificate_is_exchanged_while_the_server_runs(tmp_path: Path) -> None:
    chain, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"

    def issue() -> ssl.SSLContext:
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key.write_bytes(certificate.private_key_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async def scenario(server: Running) -> None:
        uri = server.uri.replace("ws:", "wss:")
        async with connect(uri, ssl=before) as open_before:
            after = issue()
            server.process.send_signal(signal.SIGHUP)
            while True:
                try:
                    connection = await connect(uri, ssl=after)
                except ssl.SSLCertVerificationError:
                    continue
                break
            for each in (connection, open_before):
                await each.send("a")
                assert await each.recv() == "a"
            await connection.close()

    before = issue()
    with running("tls_server.py", tmp_path, str(chain), str(key)) as server:
        run(scenario(server))


def test_clients_of_a_relay_write_to_each_other(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:wonderland\nbob:builder\n")
    users.chmod(0o600)
    flags = ["--msrp-users", str(users), "--allow-insecure-msrp", "--msrp-name", HOST]
    with launched(*flags) as service:
        port = service.url.rstrip("/").rpartition(":")[2]
        relay = f"msrp://{HOST}:{port};ws"
        done = subprocess.run(
            [
                *(sys.executable, "-W", "error", EXAMPLES / "msrp_client.py", service.url, relay),
                *("alice", "wonderland", "bob", "builder"),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.stdout, done.stderr) == ("text/plain hello\n", "")


def test_patterns_of_a_handler(tmp_path: Path) -> None:
    async def scenario(uri: str) -> None:
        async with connect(f"{uri}/echo?x=1") as connection:
            await connection.send("a")
            assert await connection.recv() == "a"
        async with connect(f"{uri}/clock") as connection:
            assert await connection.recv() == "tick 0"
            # After the first tick, it sends much more often.
            await connection.send("0.001")
            assert [await connection.recv() for _ in range(3)] == ["tick 1", "tick 2", "tick 3"]
        async with connect(f"{uri}/work") as connection:
            for seconds in ("0.5", "0.001", "0.002", "0.003", "0.004", "0.005"):
                await connection.send(seconds)
            done = [await connection.recv() for _ in range(6)]
            # The slow one occupies one worker and delays no other.
            assert done[-1] == "done: 0.5"
            assert len(set(done)) == 6
        with pytest.raises(HandshakeRejected) as rejected:
            await connect(f"{uri}/other")
        assert rejected.value.status_code == 404

    with running("patterns.py", tmp_path) as server:
        run(scenario(server.uri))


def test_sigterm_ends_the_patterns_in_order(tmp_path: Path) -> None:
    async def scenario(server: Running) -> int:
        async with connect(f"{server.uri}/clock") as connection:
            server.process.send_signal(signal.SIGTERM)
            return (await connection.wait_closed()).code

    program = tmp_path / "patterns.py"
    program.write_text(PORTS.sub("0", source("patterns.py")), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        found = re.search(r"(\d+)\)$", process.stdout.readline())
        assert found is not None
        assert run(scenario(Running(process, int(found[1])))) == 1001
        assert process.wait(60) == 0


def test_answers_find_their_requests(tmp_path: Path) -> None:
    program = EXAMPLES / "requests_with_answers.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("ping done\nsleep done\n", "")

    async def leave(connection: Any) -> None:
        await connection.recv()

    async def scenario() -> None:
        module = load("requests_with_answers")
        async with serve(leave, HOST, 0) as server:
            host, port = server.addresses[0]
            async with connect(f"ws://{host}:{port}/") as connection:
                caller = module.Caller(connection)
                receiving = asyncio.ensure_future(caller.run())
                # The server closes instead of answering.
                with pytest.raises(asyncio.CancelledError):
                    await caller.call("ping")
                await receiving
                assert caller.waiting == {}

    run(scenario())


def test_log_has_the_start_and_the_end_of_each_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = load("logged_server")

    async def fail(connection: Any, log: Any) -> None:
        if connection.request.target != "/echo":
            raise RuntimeError("broken")
        await module.echo(connection, log)

    async def scenario() -> None:
        async with serve(module.logged(fail), HOST, 0) as server:
            host, port = server.addresses[0]
            async with connect(f"ws://{host}:{port}/echo") as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
            async with connect(f"ws://{host}:{port}/?token=secret") as connection:
                assert (await connection.wait_closed()).code == 1011

    with caplog.at_level("DEBUG", "example"):
        run(scenario())
    lines = [record.getMessage() for record in caplog.records if record.name == "example"]
    assert [re.sub(r":\d+", ":PORT", line) for line in lines] == [
        f"[1] opened by {HOST}:PORT for /echo",
        "[1] received 5 characters or bytes",
        "[1] closed with 1000 (remote)",
        f"[2] opened by {HOST}:PORT for /",
        "[2] closed with 1011 (local)",
    ]
    [failure] = [record for record in caplog.records if record.name == "wsproto_sip.asyncio"]
    assert failure.exc_info is not None


def test_client_shows_what_is_on_the_wire(tmp_path: Path) -> None:
    with running("echo_server.py", tmp_path) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", EXAMPLES / "wire_client.py", f"{server.uri}/", "hello"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.stdout == "hello\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("-> b'GET / HTTP/1.1")
    assert lines[1].startswith("<- b'HTTP/1.1 101 Switching Protocols")
    assert "<- b'\\x81\\x05hello'" in lines


def test_signed_tokens_of_a_web_application() -> None:
    pytest.importorskip("jwt", reason="PyJWT is missing: pip install pyjwt")
    module = load("signed_tokens")

    async def scenario() -> None:
        async with serve(module.greet, HOST, 0, policies=module.POLICIES) as server:
            host, port = server.addresses[0]
            uri = f"ws://{host}:{port}/?token="
            async with connect(uri + module.token_for("alice")) as connection:
                assert await connection.recv() == "hello, alice"
                await connection.send("a")
                assert await connection.recv() == "a"
            forged = module.token_for("alice", secret=bytes(32))
            for token in ("unknown", forged, module.token_for("alice", seconds=-60)):
                with pytest.raises(HandshakeRejected) as rejected:
                    await connect(uri + token)
                assert rejected.value.status_code == 403

    run(scenario())


def test_limits_end_what_is_too_large(tmp_path: Path) -> None:
    async def scenario(uri: str) -> None:
        async with connect(uri) as connection:
            await connection.send(json.dumps([1, 2, 3]))
            assert await connection.recv() == "6"
            await connection.send("[" + "1," * 4096 + "1]")
            with pytest.raises(ConnectionClosedError) as closed:
                await connection.recv()
            assert closed.value.code == 1009
        async with connect(uri) as connection:
            await connection.send("{")
            assert (await connection.wait_closed()).code == 1007

    with running("limits.py", tmp_path) as server:
        run(scenario(server.uri))


# -- several processes -----------------------------------------------------------------------------


@needs_redis
def test_room_in_two_processes(tmp_path: Path) -> None:
    async def scenario(one: Running, two: Running, redis: RedisServer) -> None:
        async with connect(one.uri) as alice, connect(two.uri) as bob, connect(two.uri) as carol:
            members = (alice, bob, carol)
            for number, speaker in enumerate(members):
                await speaker.send(f"hello {number}")
                assert [await member.recv() for member in members] == [f"hello {number}"] * 3
            redis.kill()
            await bob.send("is anybody there?")
            with pytest.raises(ConnectionClosedError) as closed:
                await bob.recv()
            assert closed.value.code == 1013
            redis.start()
            # Both processes subscribe again by themselves.
            subscribed = "*2\r\n$4\r\nroom\r\n:2\r\n"
            await until(lambda: redis.run("PUBSUB", "NUMSUB", "room") == subscribed)
            await alice.send("back again")
            assert [await member.recv() for member in (alice, carol)] == ["back again"] * 2

    with (
        redis_server() as redis,
        running("broadcast_nodes.py", tmp_path, redis.url, "0") as one,
        running("broadcast_nodes.py", tmp_path, redis.url, "0") as two,
    ):
        run(scenario(one, two, redis))


def test_slow_member_of_the_room_is_sent_away() -> None:
    module = load("broadcast_nodes")

    async def scenario() -> None:
        room = module.Room(None)
        async with serve(room.join, HOST, 0) as server:
            host, port = server.addresses[0]
            async with connect(f"ws://{host}:{port}/") as slow:
                await until(lambda: room.queues)
                # In one turn of the loop.
                for number in range(module.BACKLOG + 1):
                    room.say(b"%d" % number)
                with pytest.raises(ConnectionClosedError) as closed:
                    await slow.recv()
                assert (closed.value.code, closed.value.reason) == (1008, "too slow")

    run(scenario())


@needs_redis
def test_telephones_at_two_nodes_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("calls_nodes")
    keys = tmp_path / "keys"
    keys.write_bytes(os.urandom(32))

    async def scenario(*servers: Running) -> None:
        async with AsyncExitStack() as stack:
            phones = []
            for server, name in zip(servers, ("alice", "bob"), strict=True):
                websocket = await stack.enter_async_context(
                    dial(server.uri, subprotocols=[Subprotocol("sip")], proxy=None)
                )
                phone = SocketPhone(
                    websocket, name, domain=module.DOMAIN, password=module.USERS[name]
                )
                stack.push_async_callback(phone.stop)
                assert (await phone.register()).status == 200
                phones.append(phone)
            for one, two in (phones, phones[::-1]):
                asked = asyncio.ensure_future(one.ask("MESSAGE", two.aor))
                two.answer(await two.request("MESSAGE"), 200)
                assert (await asked).status == 200

    with redis_server() as redis:
        monkeypatch.setenv("REDIS", redis.url)
        with (
            running("calls_nodes.py", tmp_path, "one", "0", str(free_port()), str(keys)) as one,
            running("calls_nodes.py", tmp_path, "two", "0", str(free_port()), str(keys)) as two,
        ):
            run(scenario(one, two))

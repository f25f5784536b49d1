"""Two Node clients written from the RFCs, one of our own, and ``wsproto-sip serve`` between them.

Theory of operation: the server is a process of its own, and so is each Node client, which takes
commands and reports events in lines of JSON. The third client is the package's own client half on
the websockets library.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("websockets")

from tests.adapters._msrp import client
from wsproto_sip.msrp import (
    Authenticated,
    AuthenticationFailed,
    MessageAborted,
    MessageDelivered,
    MessageReceived,
    MsrpUri,
    parse_path,
)

from ._support import ROOT, command, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = Path(__file__).with_name("msrp_client.mjs")
USERS = {"alice": "a-secret", "carol": "c-secret", "dave": "d-secret"}
MEGABYTE = 1024 * 1024


def _node() -> list[str] | None:
    """Return a Node with a built-in WebSocket, and the option it may need for that."""
    node = shutil.which("node")
    for options in ([], ["--experimental-websocket"]) if node is not None else ():
        done = subprocess.run(
            [str(node), *options, "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"],
            check=False,
            capture_output=True,
        )
        if done.returncode == 0:
            return [str(node), "--no-warnings", *options]
    return None


NODE = _node()
pytestmark = pytest.mark.skipif(NODE is None, reason="no node with a WebSocket on the PATH")


class NodeClient:
    """A Node client.

    Args:
        process: Its process.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.path: list[str] = []
        self.events: list[dict[str, Any]] = []

    def do(self, what: str, **values: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **values}).encode() + b"\n")

    async def until(self, *events: str, **wanted: Any) -> dict[str, Any]:
        """Wait for an event of one of these kinds with these values, keeping the others."""

        def fits(told: dict[str, Any]) -> bool:
            return told["event"] in events and wanted.items() <= told.items()

        assert self._process.stdout is not None
        while not any(map(fits, self.events)):
            line = await self._process.stdout.readline()
            assert line, f"no {events}: the client has ended after {self.events[-3:]}"
            self.events.append(json.loads(line))
        found = next(filter(fits, self.events))
        self.events.remove(found)
        return found

    async def authenticate(self, user: str, password: str | None = None, **values: Any) -> None:
        """Authenticate, and wait for the session."""
        self.do("authenticate", user=user, password=password or USERS[user], **values)
        self.path = (await self.until("ready"))["path"]


@asynccontextmanager
async def relay(users: Path, *options: str) -> AsyncIterator[tuple[str, str]]:
    """Run ``wsproto-sip serve`` with MSRP, and return its URL and its relay's URI."""
    process = await asyncio.create_subprocess_exec(
        *command("wsproto_sip", "serve", "--port", "0", "--msrp-users", str(users), *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("Listening on ws://127.0.0.1:"), line
        line_of_relay = ""
        while not line_of_relay.startswith("MSRP relay "):
            line_of_relay = (await process.stdout.readline()).decode()
            assert line_of_relay
        yield line.split()[-1], line_of_relay.split()[2]
    finally:
        process.terminate()
        await process.communicate()
        assert process.returncode == 0


@asynccontextmanager
async def node(url: str, uri: str) -> AsyncIterator[NodeClient]:
    """Run a connected Node client."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        *NODE,
        str(PROGRAM),
        url,
        uri,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MEGABYTE,
    )
    try:
        told = NodeClient(process)
        assert await told.until("open") == {"event": "open", "protocol": "msrp"}
        yield told
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    file.write_text("".join(f"{name}:{password}\n" for name, password in USERS.items()))
    return file


async def pair(stack: AsyncExitStack, users: Path) -> tuple[NodeClient, NodeClient, str, str]:
    url, uri = await stack.enter_async_context(relay(users, "--allow-insecure-msrp"))
    alice = await stack.enter_async_context(node(url, uri))
    carol = await stack.enter_async_context(node(url, uri))
    await alice.authenticate("alice")
    await carol.authenticate("carol", expires=120)
    alice.do("connect", path=carol.path)
    carol.do("connect", path=alice.path)
    return alice, carol, url, uri


def test_files_both_ways_while_texts_are_sent(users: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alice, carol, _, _ = await pair(stack, users)
            size = 5 * MEGABYTE
            for seed, sender in enumerate((alice, carol), 1):
                sender.do("send", name="file", size=size, seed=seed)
            sums = [(await each.until("sending", name="file"))["sha256"] for each in (alice, carol)]
            assert len(set(sums)) == 2
            texts = ["Grüße", "héllo ✓ 日本語", "-------", "end\r\n-------abcdefgh$\r\n", ""]
            for at, text in enumerate(texts):
                # While the files are being transferred.
                alice.do("send", name=f"text {at}", text=text)
                assert (await carol.until("received", type="text/plain"))["text"] == text
                assert not any(told.get("size") == size for told in carol.events)
                report = await alice.until("report", name=f"text {at}")
                length = len(text.encode())
                assert (report["status"], report["range"]) == (200, f"1-{length}/{length}")
            for receiver, sender, total in ((carol, alice, sums[0]), (alice, carol, sums[1])):
                received = await receiver.until("received", type="application/octet-stream")
                assert (received["size"], received["sha256"]) == (size, total)
                # Each chunk is a message of its own, in binary.
                assert (received["chunks"], received["binary"]) == (2560, 2560)
                report = await sender.until("report", name="file")
                assert (report["status"], report["range"]) == (200, f"1-{size}/{size}")
            for talker in (alice, carol):
                talker.do("close")
                assert await talker.until("closed") == {
                    "event": "closed",
                    "code": 1000,
                    "reason": "",
                }
                assert not any(told["event"] in ("failed", "error") for told in talker.events)

    run(scenario())


def test_our_client_with_a_node_client(users: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alice, _, url, uri = await pair(stack, users)
            dave = await stack.enter_async_context(
                client(
                    url,
                    "dave",
                    USERS["dave"],
                    relay=MsrpUri.parse(uri.encode()),
                    require_proof=True,
                )
            )
            await dave.until(Authenticated)
            alice.do("connect", path=[str(hop) for hop in dave.session.path])
            dave.session.connect(parse_path(" ".join(alice.path).encode()))
            body = random.Random(7977).randbytes(5 * MEGABYTE)
            sent = dave.send(body, b"application/octet-stream", success_report=True)
            alice.do("send", name="file", size=5 * MEGABYTE, seed=3)
            total = (await alice.until("sending"))["sha256"]
            alice.do("send", name="text", text="meanwhile")
            text = await dave.until(MessageReceived)
            assert (text.content_type, text.body) == (b"text/plain", b"meanwhile")
            received = await alice.until("received", type="application/octet-stream")
            assert received["sha256"] == hashlib.sha256(body).hexdigest()
            await dave.until(MessageDelivered, lambda event: event.message_id == sent)
            arrived = await dave.until(MessageReceived, lambda event: event is not text)
            assert hashlib.sha256(arrived.body).hexdigest() == total
            assert (await alice.until("report", name="file"))["status"] == 200

    run(scenario())


def test_abandoned_file_is_reported(users: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alice, carol, url, uri = await pair(stack, users)
            alice.do("send", name="file", size=5 * MEGABYTE, seed=1, abortAt=1_024_000)
            assert await carol.until("abandoned") == {"event": "abandoned", "bytes": 1_024_000}
            # The connection stays usable.
            alice.do("send", name="text", text="sorry")
            assert (await carol.until("received"))["text"] == "sorry"
            assert not any(told["event"] == "failed" for told in alice.events)
            dave = await stack.enter_async_context(
                client(url, "dave", USERS["dave"], relay=MsrpUri.parse(uri.encode()))
            )
            await dave.until(Authenticated)
            alice.do("connect", path=[str(hop) for hop in dave.session.path])
            dave.session.connect(parse_path(" ".join(alice.path).encode()))
            alice.do("send", name="file", size=5 * MEGABYTE, seed=1, abortAt=1_024_000)
            await dave.until(MessageAborted)
            assert not any(isinstance(event, MessageReceived) for event in dave.events)

    run(scenario())


def test_wrong_password_is_refused(users: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            url, uri = await stack.enter_async_context(relay(users, "--allow-insecure-msrp"))
            alice = await stack.enter_async_context(node(url, uri))
            alice.do("authenticate", user="alice", password="guess")
            assert (await alice.until("refused"))["status"] == 401
            alice.do("authenticate", user="nobody", password="guess")
            assert (await alice.until("refused"))["status"] == 401
            await alice.authenticate("alice")
            dave = await stack.enter_async_context(
                client(url, "dave", "guess", relay=MsrpUri.parse(uri.encode()))
            )
            failed = await dave.until(AuthenticationFailed)
            assert (failed.status, failed.reason) == (401, "the credentials were refused")
            # After too many guesses, the connection is closed.
            for _ in range(4):
                dave.events.clear()
                dave.session.authenticate(dave.now())
                dave.wake()
                await dave.until(AuthenticationFailed)
            await dave.until_ended()
            assert (dave.websocket.close_code, dave.websocket.close_reason) == (
                1008,
                "too many refused credentials",
            )

    run(scenario())


def test_session_expires(users: Path) -> None:
    async def scenario() -> None:
        options = ("--allow-insecure-msrp", "--msrp-min-expires", "1")
        async with AsyncExitStack() as stack:
            url, uri = await stack.enter_async_context(relay(users, *options))
            alice = await stack.enter_async_context(node(url, uri))
            carol = await stack.enter_async_context(node(url, uri))
            alice.do("authenticate", user="alice", password=USERS["alice"], expires=0)
            assert await alice.until("refused") == {
                "event": "refused",
                "status": 423,
                "minimum": "1",
            }
            await alice.authenticate("alice")
            await carol.authenticate("carol", expires=1)
            alice.do("connect", path=carol.path)
            carol.do("connect", path=alice.path)
            # Poll until it has expired: only the answers show the time.
            answers: list[int] = []
            while answers[-1:] != [481]:
                name = f"text {len(answers)}"
                alice.do("send", name=name, text="there?")
                told = await alice.until("sent", "failed", name=name)
                answers.append(told["status"])
            assert answers[:-1] == [200] * (len(answers) - 1)
            assert len(answers) > 1
            # Her session continues, and he can get a new one.
            before = carol.path
            await carol.authenticate("carol")
            assert carol.path[0] != before[0]
            alice.do("connect", path=carol.path)
            carol.do("connect", path=alice.path)
            alice.do("send", name="again", text="there you are")
            while (await carol.until("received"))["text"] != "there you are":
                pass

    run(scenario())


def test_wss_is_required(users: Path) -> None:
    """Without the flag, a server without TLS refuses MSRP."""
    done = subprocess.run(
        command("wsproto_sip", "serve", "--port", "0", "--msrp-users", str(users)),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.search(r"--allow-insecure-msrp", done.stderr)

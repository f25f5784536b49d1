"""Headless Chromium on the other side.

Theory of operation: the test serves a page and the plan of what the page shall do, and receives its
report, all on one port of 127.0.0.1. Chromium runs once for all tests here: the page connects to
``wsproto-sip serve`` and to servers of the test, one after another.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.frame_protocol import CloseReason

from ._support import HOST, ROOT, Endpoint, command, run, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

PAGE = Path(__file__).with_name("page.html")

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
]


class Page:
    """Serve the page and its plan, and receive its report.

    Args:
        plan: The steps.
    """

    def __init__(self, plan: list[dict[str, Any]]) -> None:
        self._plan = plan
        self.ready: asyncio.Queue[str] = asyncio.Queue()
        self.report: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, fields = head.partition(b"\r\n")
            length = 0
            for field in fields.split(b"\r\n"):
                name, _, value = field.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = await reader.readexactly(length)
            status, answer = b"200 OK", b"{}"
            match line.split(b" ")[:2]:
                case [b"GET", b"/"]:
                    answer = PAGE.read_bytes()
                case [b"GET", b"/plan"]:
                    answer = json.dumps(self._plan).encode()
                case [b"POST", b"/ready"]:
                    self.ready.put_nowait(json.loads(body))
                case [b"POST", b"/report"]:
                    self.report.put_nowait(json.loads(body))
                case _:
                    status = b"404 Not Found"
            writer.write(
                b"HTTP/1.1 %s\r\nContent-Type: text/html; charset=utf-8\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(answer), answer)
            )
            await writer.drain()
        writer.close()


@asynccontextmanager
async def serving_page(page: Page) -> AsyncIterator[str]:
    async with await asyncio.start_server(page, HOST, 0) as server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def serve_command() -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run ``wsproto-sip serve``, and return the URL it prints."""
    process = await asyncio.create_subprocess_exec(
        *command("wsproto_sip", "serve", "--port", "0"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("Listening on ws://127.0.0.1:"), line
        yield line.split()[-1], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def chromium(url: str, profile: Path) -> AsyncIterator[None]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *OPTIONS,
        f"--user-data-dir={profile}",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # It has child processes.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


#: What the servers of the test have seen, by the name of the step.
Seen = dict[str, Any]


async def take_report(profile: Path) -> tuple[dict[str, Any], Seen]:
    seen: Seen = {}

    async def closes_with_reason(end: Endpoint) -> None:
        await end.accept()
        await end.send(TextMessage("bye"), CloseConnection(4000, "Grüße"))
        seen["server closes"] = await end.expect(CloseConnection)

    async def closes_without_code(end: Endpoint) -> None:
        await end.accept()
        await end.send(CloseConnection(CloseReason.NO_STATUS_RCVD))
        seen["server closes without a code"] = await end.expect(CloseConnection)

    async def breaks_the_protocol(end: Endpoint) -> None:
        await end.accept()
        await end.write(b"\x81\x01\xff")
        seen["not UTF-8"] = (await end.expect(CloseConnection)).code

    async def drops(end: Endpoint) -> None:
        await end.accept()

    async def rejects(end: Endpoint) -> None:
        seen["request"] = await end.expect(Request)
        await end.send(RejectConnection(403, [(b"content-length", b"0")]))

    async def fragments(end: Endpoint) -> None:
        await end.accept(AcceptConnection(extensions=[PerMessageDeflate()]))
        await end.send(
            TextMessage("Gr", message_finished=False),
            Ping(b"between"),
            TextMessage("", message_finished=False),
            TextMessage("üße"),
            BytesMessage(b"abc" * 1000),
        )
        assert await end.expect(Pong) == Pong(b"between")
        seen["fragments"] = [await end.message(), await end.message()]
        await end.send(CloseConnection(1000))
        await end.expect(CloseConnection)

    def echoing(deflate: PerMessageDeflate) -> Any:
        async def echo(end: Endpoint) -> None:
            await end.accept(AcceptConnection(extensions=[deflate]))
            seen.setdefault("echo", []).append(await end.echo())

        return echo

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, process = await enter(serve_command())

        async def own(handler: Any) -> str:
            return f"ws://{HOST}:{await enter(serving(handler))}/"

        narrow = PerMessageDeflate(server_max_window_bits=9, client_max_window_bits=10)
        forgetful = PerMessageDeflate(
            server_no_context_takeover=True,
            server_max_window_bits=15,
            client_no_context_takeover=True,
            client_max_window_bits=15,
        )
        plan: list[dict[str, Any]] = [
            {"name": "echo", "url": url, "echo": True, "close": [3001, "Grüße"]},
            {"name": "plain close", "url": url, "close": []},
            {"name": "sip", "url": url, "protocols": ["sip"], "close": [1000]},
            {"name": "msrp", "url": url, "protocols": ["other", "msrp"], "close": [1000]},
            {"name": "other", "url": url, "protocols": ["other"], "close": [1000]},
            {"name": "oversize", "url": url, "oversize": (1 << 20) + 1},
            {"name": "narrow", "url": await own(echoing(narrow)), "echo": True, "close": [1000]},
            {
                "name": "forgetful",
                "url": await own(echoing(forgetful)),
                "echo": True,
                "close": [1000],
            },
            {"name": "fragments", "url": await own(fragments), "reply": True},
            {"name": "server closes", "url": await own(closes_with_reason)},
            {"name": "server closes without a code", "url": await own(closes_without_code)},
            {"name": "not UTF-8", "url": await own(breaks_the_protocol)},
            {"name": "dropped", "url": await own(drops)},
            {"name": "rejected", "url": await own(rejects), "protocols": ["sip", "msrp"]},
            {"name": "going away", "url": url, "ready": True},
        ]
        page = Page(plan)
        address = await enter(serving_page(page))
        await enter(chromium(address, profile))
        assert await page.ready.get() == "going away"
        process.terminate()
        report = await page.report.get()
        seen["exit code"] = await process.wait()
    return report, seen


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Seen]:
    return run(take_report(tmp_path_factory.mktemp("chromium")))


@pytest.fixture(scope="module")
def report(outcome: tuple[dict[str, Any], Seen]) -> dict[str, Any]:
    return outcome[0]


@pytest.fixture(scope="module")
def seen(outcome: tuple[dict[str, Any], Seen]) -> Seen:
    return outcome[1]


ECHOED = [
    "text",
    "empty text",
    "bytes",
    "no bytes",
    "non-ASCII",
    "125 bytes",
    "126 bytes",
    "65535 bytes",
    "65536 bytes",
    "1 MiB of bytes",
    "1 MiB of text",
    "1 MiB of non-ASCII text",
]


@pytest.mark.parametrize("step", ["echo", "narrow", "forgetful"])
def test_every_message_is_echoed(report: dict[str, Any], step: str) -> None:
    assert report[step]["echoed"] == dict.fromkeys(ECHOED, True)


def test_close_with_code_and_reason(report: dict[str, Any]) -> None:
    assert report["echo"]["close"] == {"code": 3001, "reason": "Grüße", "clean": True}


def test_close_without_a_code(report: dict[str, Any]) -> None:
    assert report["plain close"]["close"] == {"code": 1005, "reason": "", "clean": True}


FORGETFUL = (
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
    "client_max_window_bits=15"
)


@pytest.mark.parametrize(
    ("step", "extensions"),
    [
        ("echo", "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        ("narrow", "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10"),
        ("forgetful", FORGETFUL),
        ("server closes", ""),
    ],
)
def test_extensions(report: dict[str, Any], step: str, extensions: str) -> None:
    first, *parameters = report[step]["extensions"].split("; ")
    expected, *more = extensions.split("; ")
    assert (first, sorted(parameters)) == (expected, sorted(more))


@pytest.mark.parametrize(("step", "protocol"), [("echo", ""), ("sip", "sip"), ("msrp", "msrp")])
def test_subprotocol(report: dict[str, Any], step: str, protocol: str) -> None:
    assert report[step]["opened"]
    assert report[step]["protocol"] == protocol
    assert report[step]["close"]["clean"]


def test_unsupported_subprotocol_fails_in_the_browser(report: dict[str, Any]) -> None:
    """The server accepts without one, and the browser gives up (RFC 6455 §4.2.2)."""
    assert not report["other"]["opened"]
    assert report["other"]["close"] == {"code": 1006, "reason": "", "clean": False}


def test_oversized_message_closes_with_1009(report: dict[str, Any]) -> None:
    assert report["oversize"]["received"] == []
    assert report["oversize"]["close"]["code"] == 1009
    assert report["oversize"]["close"]["clean"]


def test_fragments_and_ping(report: dict[str, Any], seen: Seen) -> None:
    assert report["fragments"]["received"] == ["Grüße", 3000]
    assert seen["fragments"] == ["Grüße", b"abc" * 1000]
    assert report["fragments"]["close"] == {"code": 1000, "reason": "", "clean": True}


def test_close_by_the_server_is_reported(report: dict[str, Any], seen: Seen) -> None:
    assert report["server closes"]["received"] == ["bye"]
    assert report["server closes"]["close"] == {"code": 4000, "reason": "Grüße", "clean": True}
    assert seen["server closes"].code == 4000


def test_close_by_the_server_without_a_code(report: dict[str, Any], seen: Seen) -> None:
    step = "server closes without a code"
    assert report[step]["close"] == {"code": 1005, "reason": "", "clean": True}
    assert seen[step].code == 1005


def test_shutdown_is_reported_as_1001(report: dict[str, Any], seen: Seen) -> None:
    close = {"code": 1001, "reason": "shutting down", "clean": True}
    assert report["going away"]["close"] == close
    assert seen["exit code"] == 0


def test_browser_fails_the_connection(report: dict[str, Any], seen: Seen) -> None:
    assert report["not UTF-8"]["close"]["code"] == 1006
    assert seen["not UTF-8"] in {1002, 1007}


@pytest.mark.parametrize("step", ["dropped", "rejected"])
def test_unclean_ends(report: dict[str, Any], step: str) -> None:
    assert report[step]["opened"] == (step == "dropped")
    assert report[step]["close"] == {"code": 1006, "reason": "", "clean": False}


def test_request(seen: Seen) -> None:
    request = seen["request"]
    assert request.target == "/"
    assert request.subprotocols == ["sip", "msrp"]
    assert request.extensions == ["permessage-deflate; client_max_window_bits"]
    headers = dict(request.extra_headers)
    assert headers[b"origin"].startswith(b"http://127.0.0.1:")
    assert b"user-agent" in headers


def test_echo_ends_cleanly(seen: Seen) -> None:
    assert seen["echo"] == [CloseConnection(1000, ""), CloseConnection(1000, "")]

"""The command line as processes of their own, and peers for it in this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import websockets.sync.server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Any

    from websockets.sync.server import ServerConnection

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-m", "wsproto_sip"]

#: What stops a test that hangs; nothing waits for it.
HANGS = 60


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    """Users and keys that all may read would be warned of in each test."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command line; kill remaining processes at the test's end."""
    with contextlib.ExitStack() as stack:

        def started(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=ROOT,
                bufsize=0,  # a line read here leaves the rest for communicate()
                stdin=subprocess.PIPE,
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


@pytest.fixture
def serve(start: Callable[..., subprocess.Popen[bytes]]) -> tuple[str, subprocess.Popen[bytes]]:
    """Start our server on a free port; yield its URL and process."""
    process = start("serve", "--port", "0")
    assert process.stdout is not None
    announced = process.stdout.readline().decode().split()
    assert announced[:2] == ["Listening", "on"]
    return announced[2], process


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start our server for all tests of a module that leave it running."""
    command = [*COMMAND, "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().split()[2], process
        process.kill()


@pytest.fixture
def connect(
    start: Callable[..., subprocess.Popen[bytes]],
) -> Callable[..., tuple[int, bytes, str]]:
    """Run our client; return its exit code, standard output and notices.

    It closes as soon as its input has ended, unless its arguments say otherwise.
    """

    def run(*arguments: str, lines: bytes = b"") -> tuple[int, bytes, str]:
        process = start("connect", "--wait", "0", *arguments)
        out, err = process.communicate(lines, timeout=HANGS)
        return process.returncode, out, err.decode()

    return run


@pytest.fixture
def peer() -> Iterator[Callable[..., str]]:
    """Start a server of the websockets library; return its URL."""
    with contextlib.ExitStack() as stack:

        def listen(
            handler: Callable[[ServerConnection], None],
            ssl: ssl.SSLContext | None = None,
            **options: Any,
        ) -> str:
            server = websockets.sync.server.serve(handler, "127.0.0.1", 0, ssl=ssl, **options)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            scheme = "wss" if ssl else "ws"
            return f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}/"

        yield listen


def echo(count: int) -> Callable[[ServerConnection], None]:
    """Send that many messages back, then close.

    The library would answer our close before it hands on the messages in front of it, so a test
    leaves closing to it.
    """

    def handler(websocket: ServerConnection) -> None:
        for _ in range(count):
            websocket.send(websocket.recv())

    return handler

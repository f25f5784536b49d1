"""Connecting to names with several addresses, on both loops."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.asyncio import connect, dial as _asyncio_dial, serve
from wsproto_sip.adapters.asyncio.dial import dial

from .._suite import BOUND, HOST, echo, nothing_leaks, turns

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed"),
    ),
]


def run(loop: str, scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), nothing_leaks():
            await scenario

    factory = import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


def info(port: int, host: str = HOST) -> tuple[Any, ...]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 0, "", (host, port)


def named(monkeypatch: pytest.MonkeyPatch, *infos: tuple[Any, ...]) -> None:
    """Resolve every name to these addresses."""

    async def look_up(*arguments: Any) -> list[Any]:
        return list(infos)

    monkeypatch.setattr(_asyncio_dial, "_look_up", look_up)


@contextmanager
def silent() -> Iterator[int]:
    """Return a port on which connecting hangs, because its backlog is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        port: int = server.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((HOST, port))
        yield port


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        yield server


@pytest.fixture
def refused() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("loop", LOOPS)
class TestDial:
    @pytest.mark.parametrize("delay", [None, 10.0])
    def test_next_address_is_tried_after_a_failure(
        self, loop: str, delay: float | None, refused: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At once, without waiting for the delay."""

        async def scenario() -> None:
            with listening() as server:
                port = server.getsockname()[1]
                named(monkeypatch, info(refused), info(refused), info(port))
                with await dial("x", 1, delay=delay) as sock:
                    assert sock.getpeername()[1] == port
                    assert not sock.getblocking()
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        run(loop, scenario())

    def test_next_address_is_tried_after_the_delay(
        self, loop: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            with listening() as server, silent() as slow:
                port = server.getsockname()[1]
                named(monkeypatch, info(slow), info(port))
                files = len(os.listdir("/proc/self/fd"))
                with await dial("x", 1, delay=0.01) as sock:
                    assert sock.getpeername()[1] == port
                await turns(lambda: len(os.listdir("/proc/self/fd")) == files)

        run(loop, scenario())

    def test_second_success_is_closed(self, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second successful connection is closed."""
        both: list[asyncio.Future[None]] = []
        made: list[socket.socket] = []

        async def attempt(place: Any, local: Any) -> socket.socket:
            both.append(asyncio.get_running_loop().create_future())
            await both[-1]
            made.append(socket.socket())
            return made[-1]

        async def scenario() -> None:
            named(monkeypatch, info(1), info(2))
            monkeypatch.setattr(_asyncio_dial, "_attempt", attempt)
            dialling = asyncio.create_task(dial("x", 1, delay=0.0))
            await turns(lambda: len(both) == 2)
            for future in both:
                future.set_result(None)
            with await dialling as sock:
                await turns(lambda: sum(each.fileno() < 0 for each in made) == 1)
                assert sock.fileno() >= 0

        run(loop, scenario())

    def test_other_attempts_continue_after_the_last_failed(
        self, loop: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other attempts keep their time."""
        waiters: list[asyncio.Future[socket.socket]] = []

        async def attempt(place: Any, local: Any) -> socket.socket:
            waiters.append(asyncio.get_running_loop().create_future())
            return await waiters[-1]

        async def scenario() -> None:
            named(monkeypatch, info(1), info(2))
            monkeypatch.setattr(_asyncio_dial, "_attempt", attempt)
            dialling = asyncio.create_task(dial("x", 1, delay=0.0))
            await turns(lambda: len(waiters) == 2)
            waiters[1].set_exception(ConnectionRefusedError())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not dialling.done()
            with socket.socket() as sock:
                waiters[0].set_result(sock)
                assert await dialling is sock

        run(loop, scenario())

    def test_different_errors_are_combined(
        self, loop: str, refused: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            named(monkeypatch, info(refused), info(refused))
            with pytest.raises(ConnectionRefusedError):
                await dial("x", 1, delay=0.25)
            # 255.255.255.255 is not an address to connect to.
            named(monkeypatch, info(refused), info(1, "255.255.255.255"))
            with pytest.raises(OSError, match=r"no address of x:1 answered: .*; "):
                await dial("x", 1, delay=0.25)

        run(loop, scenario())

    def test_other_exceptions_are_raised(self, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def attempt(place: Any, local: Any) -> socket.socket:
            raise ZeroDivisionError

        async def scenario() -> None:
            named(monkeypatch, info(1))
            monkeypatch.setattr(_asyncio_dial, "_attempt", attempt)
            with pytest.raises(ZeroDivisionError):
                await dial("x", 1, delay=0.25)

        run(loop, scenario())

    def test_local_address(self, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            with listening() as server:
                port = server.getsockname()[1]
                with await dial(HOST, port, delay=None, local_addr=("127.0.0.2", 0)) as sock:
                    assert sock.getsockname()[0] == "127.0.0.2"
                here = [info(0, "::1")]
                with pytest.raises(OSError, match="has no address of the remote address's family"):
                    await _asyncio_dial._attempt(info(port), here)

        run(loop, scenario())

    @pytest.mark.parametrize("steps", range(12))
    def test_cancelled_attempts_close_their_sockets(self, loop: str, steps: int) -> None:
        async def one(port: int) -> None:
            async with connect(f"ws://localhost:{port}", happy_eyeballs_delay=0.0):
                pass

        async def scenario() -> None:
            async with serve(echo, HOST, 0) as server:
                # libuv keeps a descriptor in reserve from its first stream on.
                await one(server.addresses[0][1])
                await turns(lambda: not server.connections and not server._tasks)
                files = len(os.listdir("/proc/self/fd"))
                task = asyncio.create_task(one(server.addresses[0][1]))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await turns(lambda: not server.connections and not server._tasks)
                await turns(lambda: len(os.listdir("/proc/self/fd")) <= files)

        run(loop, scenario())


def test_families_alternate() -> None:
    """Families alternate, starting with the resolver's first (RFC 8305 §4)."""
    six, four = [info(port, "::1") for port in (1, 2, 3)], [info(port) for port in (4, 5)]
    ordered = _asyncio_dial._alternating([*six, *four])
    assert [place[4][1] for place in ordered] == [1, 4, 2, 5, 3]

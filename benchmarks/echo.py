"""What an echo costs a server: CPU time per message over loopback.

Theory of operation: each candidate is a server in a separate process, on one event loop. Its CPU
time, user and system, is read from the kernel before and after a number of messages, which a load
generator sends through plain sockets: ping-pong, with one outstanding message per connection. The
generator makes its frames once and only counts the answers, so that it costs little; its own cost
is not in the figures. Candidates take turns, round by round, and the median counts.

Run ``python -m benchmarks.echo`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import selectors
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsproto_sip import ConnectionType, Session, TransportAction, implementation
from wsproto_sip.events import AcceptConnection, Request, TextMessage

from ._harness import Goal, Results, run_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
LOOPS = ("asyncio", "uvloop")
SIZES = {"20 B": 20, "800 B": 800, "64 KiB": 65536}
CONNECTIONS = (1, 64)

CANDIDATES = {
    "wsproto_sip": "serve() with `async for` and `await send()`",
    "wsproto_sip Session": "a Session on a BufferedProtocol of the benchmark's own, no tasks",
    "wsproto_sip uvicorn": "uvicorn with wsproto_sip.adapters.uvicorn",
    "websockets": "websockets.asyncio.server.serve(), its C extension in use",
    "aiohttp": "aiohttp.web, its C extensions in use, `async for` and `await send_str()`",
    "picows": "a listener with a callback, in Cython, which writes past the loop's transport",
    "uvicorn websockets": "uvicorn with ws='websockets-sansio'",
    "uvicorn wsproto": "uvicorn with ws='wsproto'",
    "transport alone": "a BufferedProtocol that parses nothing but lengths: loop and kernel",
}
OURS = ("wsproto_sip", "wsproto_sip Session", "wsproto_sip uvicorn")

#: The mask of frames; zeros would be cheaper to undo for some.
KEY = bytes.fromhex("37fa213d")


# -- servers, each run in a process of its own ---------------------------------------------------


async def serve_wsproto_sip(announce: Any, deflate: bool) -> None:
    from wsproto_sip.adapters.asyncio import serve
    from wsproto_sip.extensions import PerMessageDeflate

    def extensions() -> list[Any]:
        return [PerMessageDeflate()] if deflate else []

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, HOST, 0, extensions=extensions) as server:
        announce(server.addresses[0][1])
        await asyncio.Event().wait()


class Echo(asyncio.BufferedProtocol):
    """A framework with a session for each transport, and without tasks."""

    buffer = memoryview(bytearray(64 * 1024))

    def __init__(self, extensions: Callable[[], list[Any]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.extensions = extensions
        self.session = Session(ConnectionType.SERVER, now=self.loop.time())

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.settle(self.loop.time())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        now = self.loop.time()
        session = self.session
        events = session.receive(bytes(self.buffer[:nbytes]), now)
        if session.touched:
            self.answer(events, now)
            self.settle(now)
            return
        # Only messages, which are the usual case.
        data = b""
        for event in events:
            data += session.send_message(event.data, now)
        if data:
            self.transport.write(data)
        if session.touched or self.transport.get_write_buffer_size():
            self.settle(now)

    def answer(self, events: list[Any], now: float) -> None:
        session = self.session
        for event in events:
            if type(event) is TextMessage:
                session.send(event, now)
            elif type(event) is Request:
                session.send(AcceptConnection(extensions=self.extensions()), now)
        if data := session.data_to_send():
            self.transport.write(data)

    def settle(self, now: float) -> None:
        session, transport = self.session, self.transport
        session.transport_backlog(transport.get_write_buffer_size(), now)
        if session.transport_action is TransportAction.CLOSE:
            transport.close()
        elif session.transport_action is TransportAction.ABORT:
            transport.abort()
        elif session.writable and not session.has_work:
            transport.resume_reading()
        else:
            transport.pause_reading()
        if self.timer is not None:
            self.timer.cancel()
        deadline = session.next_deadline()
        self.timer = None if deadline is None else self.loop.call_at(deadline, self.wake_up)
        session.touched = False

    def wake_up(self) -> None:
        now = self.loop.time()
        self.answer(self.session.handle_timeout(now), now)
        self.settle(now)

    def pause_writing(self) -> None:
        self.settle(self.loop.time())

    resume_writing = pause_writing

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.session.receive(None, self.loop.time())


async def serve_session(announce: Any, deflate: bool) -> None:
    from wsproto_sip.extensions import PerMessageDeflate

    def extensions() -> list[Any]:
        return [PerMessageDeflate()] if deflate else []

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(extensions), HOST, 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def serve_websockets(announce: Any, deflate: bool) -> None:
    from websockets.asyncio.server import serve

    async def echo(websocket: Any) -> None:
        async for message in websocket:
            await websocket.send(message)

    async with serve(echo, HOST, 0, compression="deflate" if deflate else None) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await asyncio.Event().wait()


async def serve_aiohttp(announce: Any, deflate: bool) -> None:
    from aiohttp import web

    async def echo(request: Any) -> Any:
        response = web.WebSocketResponse(compress=deflate)
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_picows(announce: Any) -> None:
    import picows

    class Echo(picows.WSListener):
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
                return
            transport.send(frame.msg_type, frame.get_payload_as_bytes())

    server = await picows.ws_create_server(lambda _: Echo(), HOST, 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


class Mirror(asyncio.BufferedProtocol):
    """Sends each frame's payload back without parsing: the minimum cost of loop and kernel."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(256 * 1024))
        self.filled = 0
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.filled += nbytes
        if not self.open:
            self.open = True
            self.filled = 0
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
                b"ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
            )
            return
        size = self.buffer[1] & 127
        head = {126: 8, 127: 14}.get(size, 6)
        if head > 6:
            size = int.from_bytes(self.buffer[2 : head - 4], "big")
        if self.filled >= head + size:
            self.filled = 0
            self.transport.write(frame(1, bytes(self.buffer[head : head + size]), None))


async def serve_transport(announce: Any) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Mirror, HOST, 0)
    announce(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Echo text, as an ASGI application."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def serve_uvicorn(announce: Any, ws: Any, deflate: bool) -> None:
    import uvicorn

    config = uvicorn.Config(
        application,
        host=HOST,
        port=0,
        ws=ws,
        log_level="error",
        lifespan="off",
        ws_per_message_deflate=deflate,
    )
    server = uvicorn.Server(config)

    async def tell() -> None:
        while not server.started:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)
        announce(server.servers[0].sockets[0].getsockname()[1])

    async with asyncio.TaskGroup() as group:
        group.create_task(tell())
        group.create_task(server.serve())


def run_server(candidate: str, loop: str, deflate: bool) -> None:
    """Run one server until its process is ended."""

    def announce(port: int) -> None:
        print(port, flush=True)

    match candidate:
        case "wsproto_sip":
            main = serve_wsproto_sip(announce, deflate)
        case "wsproto_sip Session":
            main = serve_session(announce, deflate)
        case "wsproto_sip uvicorn":
            from wsproto_sip.adapters.uvicorn import WebSocketProtocol

            main = serve_uvicorn(announce, WebSocketProtocol, deflate)
        case "websockets":
            main = serve_websockets(announce, deflate)
        case "aiohttp":
            main = serve_aiohttp(announce, deflate)
        case "picows":
            main = serve_picows(announce)
        case "uvicorn websockets":
            main = serve_uvicorn(announce, "websockets-sansio", deflate)
        case "uvicorn wsproto":
            main = serve_uvicorn(announce, "wsproto", deflate)
        case _:
            main = serve_transport(announce)
    factory = None if loop == "asyncio" else importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


# -- the load generator ----------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, key: bytes | None) -> bytes:
    """Return a frame, masked or not."""
    mask = 0 if key is None else 0x80
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, mask | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, mask | 127]) + size.to_bytes(8, "big")
    if key is not None:
        mask_number = int.from_bytes((key * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ mask_number).to_bytes(size, "big")
    return head + (key or b"") + payload


class Candidate:
    """One server, and the means to load it.

    Args:
        name: The server.
        loop: The event loop.
        deflate: Whether it may negotiate permessage-deflate.
    """

    def __init__(self, name: str, loop: str, *, deflate: bool = False) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.echo", "--serve", name, "--loop", loop]
        self.process = subprocess.Popen(
            [*command, "--deflate"] if deflate else command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start")
        self.port = int(line)
        self.sockets: list[socket.socket] = []

    def connect(self, count: int) -> None:
        """Open or close connections up to a number."""
        while len(self.sockets) > count:
            self.sockets.pop().close()
        while len(self.sockets) < count:
            self.sockets.append(self.open()[0])

    def open(self, *fields: bytes) -> tuple[socket.socket, bytes]:
        """Open a connection; return its socket, and the head of the answer.

        Args:
            fields: More header fields of the request.
        """
        sock = socket.create_connection((HOST, self.port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = [
            b"GET / HTTP/1.1",
            b"Host: x",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            *fields,
        ]
        sock.sendall(b"\r\n".join([*request, b"", b""]))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += sock.recv(4096)
        if not answer.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"{self.name}: {answer[:100]!r}")
        return sock, answer

    def cpu(self) -> float:
        """Return the server's CPU time in seconds, to the microsecond if possible."""
        # /proc/…/stat counts hundredths; the schedule statistics of its threads, nanoseconds.
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def load(self, payload: bytes, messages: int) -> float:
        """Have messages echoed on all connections; return the server's microseconds per message.

        Raises:
            RuntimeError: An answer differs from the message.
        """
        request, answer = frame(1, payload, KEY), frame(1, payload, None)
        expected = len(answer)
        # A server that does not unmask only gets the header right.
        checked = 2 if self.name == "transport alone" else 32
        rounds = max(1, messages // len(self.sockets))
        left = dict.fromkeys(self.sockets, rounds)
        got = dict.fromkeys(self.sockets, 0)
        buffer = bytearray(256 * 1024)
        with selectors.DefaultSelector() as selector:
            for sock in self.sockets:
                selector.register(sock, selectors.EVENT_READ)
            start = self.cpu()
            for sock in self.sockets:
                sock.sendall(request)
            while left:
                for key, _ in selector.select():
                    sock = key.fileobj  # type: ignore[assignment]
                    size = sock.recv_into(buffer)
                    if not size:
                        raise RuntimeError(f"{self.name} closed the connection")
                    if (
                        not got[sock]
                        and buffer[: min(size, checked)] != answer[: min(size, checked)]
                    ):
                        raise RuntimeError(f"{self.name} answered {bytes(buffer[:20])!r}")
                    got[sock] += size
                    if got[sock] < expected:
                        continue
                    if got[sock] > expected:
                        raise RuntimeError(f"{self.name} answered more than was asked")
                    got[sock] = 0
                    left[sock] -= 1
                    if left[sock]:
                        sock.sendall(request)
                    else:
                        del left[sock]
            return (self.cpu() - start) / (rounds * len(self.sockets)) * 1e6

    def stop(self) -> None:
        """End the server."""
        for sock in self.sockets:
            sock.close()
        self.process.kill()
        self.process.communicate()


def goals() -> list[Goal]:
    """Return the goals of the engine in use, which are for 800 bytes on 64 connections."""
    if implementation == "pure":
        row = "asyncio, 800 B, 64"
        return [
            Goal(row, "wsproto_sip", "websockets", 0.65),
            Goal(row, "wsproto_sip Session", "aiohttp", 0.85),
        ]
    row = "uvloop, 800 B, 64"
    return [
        Goal(row, "wsproto_sip", "aiohttp", 1.0),
        Goal(row, "wsproto_sip Session", "aiohttp", 0.65),
    ]


def measure(
    candidates: list[str],
    loops: list[str],
    sizes: list[str],
    *,
    rounds: int,
    messages: int,
    warm_up: int,
) -> Results:
    """Measure everything that was requested.

    Args:
        candidates: The servers.
        loops: The loops to run them on.
        sizes: The sizes of the messages.
        rounds: How often each is measured.
        messages: The number of messages of up to 800 B per round.
        warm_up: The number of uncounted rounds before them.
    """
    results = Results(
        subject="Server CPU per echoed message over loopback",
        candidates={name: CANDIDATES[name] for name in candidates},
        ours=[name for name in OURS if name in candidates],
    )
    for loop in loops:
        with ExitStack() as stack:
            servers = []
            for name in candidates:
                try:
                    server = Candidate(name, loop)
                except RuntimeError as error:
                    results.missing.append(f"{error} on {loop}")
                    continue
                stack.callback(server.stop)
                servers.append(server)
            for size in sizes:
                payload = os.urandom(SIZES[size] // 2).hex().encode()
                count = max(64, messages if len(payload) < 10_000 else messages // 8)
                for connections in CONNECTIONS:
                    row: dict[str, list[float]] = {server.name: [] for server in servers}
                    for number in range(-warm_up, rounds):
                        shift = number % max(1, len(servers))
                        for server in (*servers[shift:], *servers[:shift]):
                            server.connect(connections)
                            figure = server.load(payload, count)
                            server.connect(0)
                            if number >= 0:
                                row[server.name].append(figure)
                    results.samples[f"{loop}, {size}, {connections}"] = row
    return results


#: Lines of the plot, ours first.
COLOURS = {
    "wsproto_sip": "#c0392b",
    "wsproto_sip uvicorn": "#e59866",
    "websockets": "#2e86c1",
    "aiohttp": "#239b56",
    "picows": "#7d3c98",
    "uvicorn websockets": "#85c1e9",
    "uvicorn wsproto": "#797d7f",
    "transport alone": "#d5d8dc",
}


def plot(results: Results, path: Path) -> None:
    """Draw the medians, with a panel for each loop, size and number of connections.

    Args:
        results: The results.
        path: The file; its suffix determines the format.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    # The same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "wsproto-sip", "svg.fonttype": "none", "font.size": 8})
    rows = list(results.samples)
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(5 * columns, 2.1 * lines), squeeze=False, layout="constrained"
    )
    names = [name for name in COLOURS if name in results.candidates][::-1]
    for panel in panels.flat[len(rows) :]:
        panel.set_visible(False)
    for panel, row in zip(panels.flat, rows, strict=False):
        figures = [results.median(row, name) or 0.0 for name in names]
        bars = panel.barh(names, figures, color=[COLOURS[name] for name in names])
        panel.bar_label(bars, [f"{figure:.1f}" for figure in figures], padding=2)
        connections = "connection" if row.endswith(", 1") else "connections"
        panel.set_title(f"{row} {connections}")
        panel.margins(x=0.15)
    figure.suptitle("Server CPU per echoed message, µs (less is better)")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.echo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=4000, help="per round, of up to 800 B")
    parser.add_argument("--only", action="append", choices=list(CANDIDATES), default=None)
    parser.add_argument("--size", action="append", choices=list(SIZES), default=None)
    parser.add_argument("--smoke", action="store_true", help="few messages: figures mean nothing")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plot", type=Path, default=None, help="a file, for example echo.svg")
    parser.add_argument("--loop", choices=LOOPS, default=None)
    parser.add_argument("--deflate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=list(CANDIDATES), default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        run_server(options.serve, options.loop, options.deflate)
        return 0
    run_elsewhere.update({"wsproto", "websockets", "aiohttp", "picows", "uvicorn", "uvloop"})
    if options.smoke:
        options.rounds, options.messages = 1, 64
    results = measure(
        options.only or list(CANDIDATES),
        [options.loop] if options.loop else list(LOOPS),
        options.size or list(SIZES),
        rounds=options.rounds,
        messages=options.messages,
        warm_up=0 if options.smoke else 1,
    )
    print(results.render(goals(), markdown=options.markdown))
    if options.plot:
        plot(results, options.plot)
    if options.json:
        results.write_json(options.json, goals())
    return 0


if __name__ == "__main__":
    sys.exit(main())

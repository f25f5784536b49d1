"""What a connection costs a server: opening and closing one, and an idle one.

Theory of operation: the servers are those of ``benchmarks.echo``, each in a separate process. CPU
time is the process's while connections are opened and closed one after the other. Memory is the
resident memory of the process, all of it: transports, tasks and handlers that wait for a message,
divided by the number of connections, which are opened, receive and answer one message each, and
then rest. A first batch of connections, which pays for one-time costs, is not counted.

Run ``python -m benchmarks.connections`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import socket
import sys
import zlib
from contextlib import ExitStack
from pathlib import Path

from ._harness import Figure, middle, render_figures, run_elsewhere, write_figures
from .echo import CANDIDATES, KEY, LOOPS, Candidate, frame

#: KiB of one of our idle connections, without and with permessage-deflate in use.
GOALS = {False: 12.0, True: 36.0}

#: The same for every connection, and similar to SIP messages: compressible, but not to nothing.
MESSAGE = b"".join(
    b"Header-%d: value %x of some length\r\n" % (number, number**7) for number in range(20)
)[:800]

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
CLOSE = frame(8, b"\x03\xe8", KEY)


def compressed_frame() -> bytes:
    """Return the message in one compressed frame that suits a window of any size."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -9)
    data = (deflater.compress(MESSAGE) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    # RFC 7692 §6: the first reserved bit marks it as compressed.
    plain = frame(1, data, KEY)
    return bytes([plain[0] | 0x40]) + plain[1:]


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise RuntimeError("the server closed a connection")
        data += piece
    return data


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """Return the first byte and the payload of a frame."""
    first, size = read_exactly(sock, 2)
    if size == 126:
        size = int.from_bytes(read_exactly(sock, 2), "big")
    return first, read_exactly(sock, size)


def talk(sock: socket.socket, deflate: bool) -> None:
    """Have one message echoed.

    Raises:
        RuntimeError: The answer differs from the message.
    """
    sock.sendall(compressed_frame() if deflate else frame(1, MESSAGE, KEY))
    first, payload = read_frame(sock)
    if first & 0x40:
        payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
    if payload != MESSAGE or bool(first & 0x40) != deflate:
        raise RuntimeError(f"the server answered {first:#x} {payload[:40]!r}")


def resident(server: Candidate) -> float:
    """Return the private memory of a server's process in KiB."""
    text = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(float(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean"))


def memory(server: Candidate, connections: int, deflate: bool, stack: ExitStack) -> float:
    """Return the KiB of an idle connection.

    Args:
        server: The server.
        connections: How many are measured; a tenth more are opened before them.
        deflate: Whether to compress their messages.
        stack: Closes them.
    """
    before = 0.0
    fields = [OFFER] if deflate else []
    for number in range(-(connections // 10), connections):
        if number == 0:
            before = resident(server)
        sock, head = server.open(*fields)
        stack.enter_context(sock)
        if deflate and b"permessage-deflate" not in head:
            raise RuntimeError(f"{server.name} does not compress")
        talk(sock, deflate)
    return (resident(server) - before) / connections


def coming_and_going(server: Candidate, connections: int) -> float:
    """Return the microseconds of CPU time to open and close a connection."""
    start = server.cpu()
    for _ in range(connections):
        sock, _head = server.open()
        with sock:
            sock.sendall(CLOSE)
            first, payload = read_frame(sock)
            if (first, payload) != (0x88, b"\x03\xe8"):
                raise RuntimeError(f"{server.name} answered {first:#x} {payload!r}")
            # RFC 6455 §7.1.1: the server ends TCP.
            while sock.recv(4096):
                pass
    return (server.cpu() - start) / connections * 1e6


def measure(
    candidates: list[str], loops: list[str], *, idle: int, opened: int, rounds: int
) -> tuple[list[Figure], list[str]]:
    """Measure everything that was requested.

    Args:
        candidates: The servers.
        loops: The loops to run them on.
        idle: The number of idle connections.
        opened: The number of connections opened in a round.
        rounds: The number of rounds.

    Returns:
        The figures, and what could not be measured.
    """
    figures: list[Figure] = []
    missing: list[str] = []
    for loop in loops:
        with ExitStack() as stack:
            servers = []
            for name in candidates:
                try:
                    servers.append(Candidate(name, loop))
                except RuntimeError as error:
                    missing.append(f"{error} on {loop}")
                    continue
                stack.callback(servers[-1].stop)
            times: dict[str, list[float]] = {server.name: [] for server in servers}
            for number in range(-1, rounds):
                for server in servers:
                    figure = coming_and_going(server, opened)
                    if number >= 0:
                        times[server.name].append(figure)
            for name, samples in times.items():
                figures.append(middle(f"{loop}, opened and closed: {name}", "µs", samples))
        for deflate in (False, True):
            for name in candidates:
                if any(line.startswith(f"{name} did not start") for line in missing):
                    continue
                goal = GOALS[deflate] if name == "wsproto_sip" else None
                what = f"{loop}, idle, {'deflate used' if deflate else 'plain'}: {name}"
                with ExitStack() as stack:
                    server = Candidate(name, loop, deflate=deflate)
                    stack.callback(server.stop)
                    try:
                        kib = memory(server, idle, deflate, stack)
                    except RuntimeError as error:
                        missing.append(f"{what}: {error}")
                        continue
                figures.append(Figure(what, "KiB", kib, goal, [kib]))
    return figures, missing


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    names = [name for name in CANDIDATES if name != "transport alone"]
    parser = argparse.ArgumentParser(prog="benchmarks.connections", description=__doc__)
    parser.add_argument("--idle", type=int, default=1000, help="connections that rest")
    parser.add_argument("--opened", type=int, default=300, help="connections opened in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=names, default=None)
    parser.add_argument("--loop", choices=LOOPS, default=None)
    parser.add_argument("--smoke", action="store_true", help="few of all: figures mean nothing")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    run_elsewhere.update({"wsproto", "websockets", "aiohttp", "picows", "uvicorn", "uvloop"})
    if options.smoke:
        options.idle, options.opened, options.rounds = 10, 5, 1
    figures, missing = measure(
        options.only or names,
        [options.loop] if options.loop else list(LOOPS),
        idle=options.idle,
        opened=options.opened,
        rounds=options.rounds,
    )
    if options.smoke:
        for figure in figures:
            figure.goal = None
    print(render_figures("a connection", figures, markdown=options.markdown))
    for line in missing:
        print(f"not measured: {line}")
    if options.json:
        write_figures(options.json, figures, missing=missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())

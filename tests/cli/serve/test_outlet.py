"""Output that is not read, or read slowly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import closing
from queue import Queue
from threading import Event
from typing import TYPE_CHECKING

import pytest

from tests.cli._service import HANGS, launched
from wsproto_sip.cli.serve.outlet import Outlet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe: to read from, and to write to."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def unexpected(count: int) -> None:
    raise AssertionError(f"{count} lines were dropped")


class Gate:
    """A descriptor that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.open = Event()
        self.reached: Queue[None] = Queue()
        self.written: list[bytes] = []

    def write(self, descriptor: int, data: bytes) -> int:
        """Take half of it at most."""
        self.reached.put(None)
        assert self.open.wait(HANGS)
        part = data[: max(len(data) // 2, 1)]
        self.written.append(part)
        return len(part)

    @property
    def text(self) -> str:
        """All that was written."""
        return b"".join(self.written).decode()


def test_output_arrives_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with closing(Outlet(writer, unexpected)) as outlet:
        assert outlet.writable()
        print("Größe", "and \udc80", file=outlet, flush=True)
        print("more", file=outlet)
        assert outlet.drain()
        assert os.read(reader, 100) == "Größe and \\udc80\nmore\n".encode()


def test_text_queued_before_a_rotation_goes_to_the_old_file(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("old", "new", "unused")]
    files = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    reached, opened = Event(), Event()

    def write(descriptor: int, data: bytes) -> int:
        reached.set()
        assert opened.wait(HANGS)
        return os.write(descriptor, data[:2])

    outlet = Outlet(files[0], unexpected, write=write)
    outlet.write("begun\n")
    assert reached.wait(HANGS)
    outlet.write("queued\n")
    outlet.replace(files[1])
    outlet.write("later\n")
    opened.set()
    outlet.close()
    # Neither is anything written, nor a descriptor kept, after the end.
    outlet.replace(files[2])
    for file in files:
        os.close(file)
    assert [path.read_text() for path in paths] == ["begun\nqueued\n", "later\n", ""]


def test_a_rotation_that_output_without_a_reader_waits_for_is_forgotten(
    pipe: tuple[int, int],
) -> None:
    gate = Gate()
    before = len(os.listdir("/proc/self/fd"))
    outlet = Outlet(pipe[1], lambda _: None, write=gate.write)
    outlet.write("begun\n")
    gate.reached.get(timeout=HANGS)
    outlet.write("queued\n")
    outlet.replace(pipe[1])
    outlet._end()
    assert outlet.dropped == 1
    assert len(os.listdir("/proc/self/fd")) == before
    gate.open.set()


def test_what_finds_no_room_is_dropped_and_counted_once_there_is_room() -> None:
    gate = Gate()
    counts: list[int] = []

    def tell(count: int) -> None:
        counts.append(count)
        outlet.write(f"{count} dropped\n")

    outlet = Outlet(-1, tell, capacity=20, write=gate.write)
    outlet.write("first\n")
    gate.reached.get(timeout=HANGS)
    for word in ("fits in\n", "does not fit\n", "neither does this\n", "ok\n"):
        outlet.write(word)
    assert outlet.dropped == 2
    assert not outlet.drain(0)
    gate.open.set()
    assert outlet.drain(HANGS)
    assert gate.text == "first\nfits in\nok\n2 dropped\n"
    assert (counts, outlet.dropped) == ([2], 0)
    outlet.close()
    outlet.close()


def test_a_line_above_the_capacity_is_written_if_the_queue_is_empty() -> None:
    gate = Gate()
    gate.open.set()
    with closing(Outlet(-1, unexpected, capacity=5, write=gate.write)) as outlet:
        outlet.write("longer than that\n")
        assert outlet.drain(HANGS)
    assert gate.text == "longer than that\n"


def test_lines_after_the_reader_is_gone_are_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outlet = Outlet(writer, unexpected)
    for _ in range(3):
        outlet.write("is anyone there\n")
        assert outlet.drain(HANGS)
    assert outlet.dropped >= 2
    outlet.close()
    os.close(writer)


def test_a_pipe_that_another_process_has_made_non_blocking_is_waited_for(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    text = "x" * 200_000
    with closing(Outlet(writer, unexpected)) as outlet:
        outlet.write(text)
        got = b""
        while len(got) < len(text):
            got += os.read(reader, 65536)
        assert outlet.drain(HANGS)
    assert got.decode() == text


def test_the_end_does_not_wait_for_a_reader_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    outlet = Outlet(-1, unexpected, write=gate.write)
    monkeypatch.setattr(outlet, "drain", lambda: False)
    outlet.write("first\n")
    gate.reached.get(timeout=HANGS)
    outlet.write("second\n")
    outlet.close()
    assert outlet.dropped == 1
    gate.open.set()


def test_a_standard_error_that_is_not_read_stops_neither_the_server_nor_its_end() -> None:
    """As under a supervisor that has died, with its pipe still open."""
    with launched("--log-format", "json", "--log-repeats", "0", "--no-page") as service:
        for _ in range(600):
            # Each is a line of some 150 bytes; the pipe holds 64 KiB.
            with socket.create_connection(service.address, HANGS) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 4")
        with service.dial() as client_of_ours:
            client_of_ours.send("hello")
            assert client_of_ours.recv() == "hello"
        service.process.send_signal(signal.SIGTERM)
        try:
            assert service.process.wait(HANGS) == 0
        except subprocess.TimeoutExpired:
            pytest.fail("it waits for its standard error")

"""The common base of protocols, on a transport that the test controls."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from wsproto_sip.adapters.asyncio import transport as module
from wsproto_sip.adapters.asyncio.transport import READ_SIZE, StreamProtocol

from .._transport import Transport


class Plain(Transport):
    """A transport that may support half-closing.

    Args:
        half: Whether it supports half-closing.
        fault: The exception of half-closing.
    """

    def __init__(self, *, half: bool = True, fault: OSError | None = None) -> None:
        super().__init__()
        self.half = half
        self.fault = fault
        self.options: list[Any] = []

    def can_write_eof(self) -> bool:
        return self.half

    def write_eof(self) -> None:
        super().write_eof()
        if self.fault is not None:
            raise self.fault

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return SimpleNamespace(setsockopt=lambda *option: self.options.append(option))


def begun(**options: Any) -> tuple[StreamProtocol, Plain]:
    protocol, transport = StreamProtocol(), Plain(**options)
    protocol._begin_on(transport, 65536)
    return protocol, transport


@pytest.mark.parametrize("ahead", [False, True])
def test_protocols_share_a_buffer_unless_reads_are_pending(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READS_AHEAD", ahead)
    one, other, larger = StreamProtocol(), StreamProtocol(), StreamProtocol(4 * READ_SIZE)
    assert (one.get_buffer(-1) is other.get_buffer(-1)) != ahead
    assert len(one.get_buffer(-1)) == READ_SIZE
    assert len(larger.get_buffer(-1)) == (READ_SIZE if ahead else 4 * READ_SIZE)
    one.get_buffer(-1)[:2] = b"hi"
    assert one._read(2) == b"hi"
    one._read_into(1)
    assert len(one.get_buffer(-1)) == 1


def test_closing_transport_is_left_alone() -> None:
    protocol, transport = begun()
    protocol._write(b"abc")
    assert protocol._backlog() == 3
    protocol._pause_reading()
    protocol._resume_reading()
    protocol._drop_transport()
    protocol._write(b"abc")
    protocol._pause_reading()
    protocol._resume_reading()
    protocol._half_close()
    assert protocol._backlog() == 3
    assert transport.calls == ["pause", "resume", "abort"]


@pytest.mark.parametrize("fault", [None, ConnectionResetError()])
def test_input_is_read_after_the_end_of_output(fault: OSError | None) -> None:
    protocol, transport = begun(fault=fault)
    protocol._half_close()
    assert transport.calls == ["write_eof"]


def test_transport_that_cannot_be_half_closed_is_closed() -> None:
    protocol, transport = begun(half=False)
    protocol._half_close()
    assert transport.calls == ["close"]


def test_transport_is_closed_once() -> None:
    """A TLS transport that is closed twice ignores what it is asked for later."""
    protocol, transport = begun()
    protocol._close_transport()
    transport.is_closing = lambda: True  # type: ignore[method-assign]
    protocol._close_transport()
    assert transport.calls == ["close"]


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT (Linux)"
)
def test_tcp_gives_up_a_silent_peer() -> None:
    protocol, transport = begun()
    protocol.keep_alive()
    assert transport.options == [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
    ]


def test_options_that_a_system_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT"):
        monkeypatch.delattr(socket, name, raising=False)
    assert not module.silence(1, 1, 1)


def test_lingering_transport_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        (protocol, transport), (gone, kept) = begun(), begun()
        for _ in range(2):
            gone._linger(loop)
            gone._end_lingering()
        monkeypatch.setattr(module, "_LINGER", 0.0)
        protocol._linger(loop)
        protocol._linger(loop)
        while not transport.calls:  # noqa: ASYNC110 - the loop's own timer
            await asyncio.sleep(0)
        protocol._end_lingering()
        protocol._end_lingering()
        assert transport.calls == ["abort"]
        assert kept.calls == []

    asyncio.run(scenario())

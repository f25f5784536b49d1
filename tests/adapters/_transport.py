"""An asyncio transport that a test controls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._suite import turns

if TYPE_CHECKING:
    from wsproto_sip.adapters.asyncio.connection import Connection

    from ._ends import Plan


class Transport(asyncio.Transport):
    """A transport that writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.backlog = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 65536

    def get_write_buffer_size(self) -> int:
        return self.backlog

    def write(self, data: Any) -> None:
        self.backlog += len(data)

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.calls.append("close")

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def abort(self) -> None:
        self.calls.append("abort")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def receive(connection: Connection, data: bytes) -> None:
    """Pass received bytes to a connection."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


async def play(
    plan: Plan, connection: Connection, transport: Transport, lost: Exception | None
) -> None:
    """Play the peer, and lose the transport.

    Args:
        plan: What the peer does.
        connection: The open connection.
        transport: Its transport.
        lost: The error that the loop reports; ``None`` for an end of input first.
    """
    for data in plan.writes:
        await turns(lambda: transport.calls[-1:] != ["pause"])
        receive(connection, data)
        if plan.size < 65536:
            await asyncio.sleep(0)
    if lost is None:
        connection.eof_received()
    connection.connection_lost(lost)

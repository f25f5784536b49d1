"""Loads in front of Kamailio: calls of clients to sipp, and of sipp to clients, all at once.

No call is lost: the callers, the called and the edge between them count the same number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.adapters._msrp import until
from tests.adapters._sip import SocketPhone, phone, serving
from tests.peers._support import run
from tests.sip._phones import SDP
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import SipRequest
from wsproto_sip.sip.edge.config import EdgeMode

from ._kamailio import Kamailio, in_front_of, kamailio, needs_kamailio
from ._sipp import call_out, called_party, calling_party, needs_sipp, register_at

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_kamailio, needs_sipp]

#: Telephones that call and such as are called, and the calls of each.
PHONES, CALLS = 8, 15


async def answer_calls(callee: SocketPhone, counted: Counter[str]) -> None:
    """Answer every call, several at a time, and count what comes."""
    while True:
        request = await callee.message()
        assert isinstance(request, SipRequest), request
        counted[request.method] += 1
        if request.method == "INVITE":
            callee.answer(request, 180)
            callee.answer(request, 200, ("Content-Type", "application/sdp"), body=SDP)
        elif request.method != "ACK":
            callee.answer(request, 200)


@pytest.mark.parametrize("mode", list(EdgeMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_calls_in_both_directions_at_once(transport: str, mode: EdgeMode, tmp_path: Path) -> None:
    async def scenario(core: Kamailio) -> None:
        total = PHONES * CALLS
        counted: Counter[str] = Counter()
        config = replace(
            in_front_of(core, transport, mode),
            # All calls go to one callee.
            callee_requests_per_second=ShareConfig(1000, reserve=0),
        )
        for name in ("out", "in"):
            (tmp_path / name).mkdir()
        async with (
            called_party(total, tmp_path / "out") as called,
            serving(config) as running,
            AsyncExitStack() as phones,
        ):
            await asyncio.to_thread(register_at, core.port, called)
            callers, callees = [
                [
                    await phones.enter_async_context(phone(running.url, f"{name}{number}"))
                    for number in range(PHONES)
                ]
                for name in ("caller", "callee")
            ]

            async def calls(caller: SocketPhone) -> None:
                for _ in range(CALLS):
                    await call_out(caller)

            async with asyncio.TaskGroup() as tasks:
                answering = [tasks.create_task(answer_calls(callee, counted)) for callee in callees]
                users = [callee.user for callee in callees]
                async with calling_party(total, tmp_path / "in", core.port, users):
                    await asyncio.gather(*map(calls, callers))
                await until(lambda: counted["ACK"] == total)
                for task in answering:
                    task.cancel()
            assert counted == dict.fromkeys(("INVITE", "ACK", "BYE"), total)
            # The edge has seen the calls of both, none of them twice.
            passed = running.edge.journal.calls
            assert passed == dict.fromkeys(("started", "answered", "ended"), 2 * total)
            assert len(running.edge.journal.answered) == 0
            for one in (*callers, *callees):
                assert (await one.register(expires=0)).status == 200

    with kamailio() as core:
        run(scenario(core))

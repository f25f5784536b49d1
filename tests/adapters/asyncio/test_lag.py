"""The lag of an event loop."""

from __future__ import annotations

import asyncio
import time

from wsproto_sip.adapters.asyncio.lag import LoopLag


def test_blocked_loop_has_lag() -> None:
    async def scenario() -> LoopLag:
        lag = LoopLag(0.001)
        lag.stop()
        lag.start()
        while not lag.seconds.count:  # noqa: ASYNC110  # turns of the loop
            await asyncio.sleep(0)
        # What holds it up.
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass
        before = lag.seconds.count
        while lag.seconds.count == before:  # noqa: ASYNC110  # turns of the loop
            await asyncio.sleep(0)
        lag.stop()
        return lag

    lag = asyncio.run(scenario())
    assert lag.seconds.maximum > 0.03
    assert lag.seconds.count >= 2

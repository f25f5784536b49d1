"""Waking a task: at once or in the next turn, from a callback or another task, or by cancelling."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.asyncio.wakeup import DirectWakeup, TurnWakeup, make_wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from wsproto_sip.adapters.asyncio.wakeup import Wakeup


def run_on_loops(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


class PythonTask(asyncio.tasks._PyTask):  # type: ignore[name-defined,misc]
    """The pure-Python task of the standard library."""


def waits(wakeup: Wakeup, log: list[str]) -> Coroutine[Any, Any, None]:
    async def wait() -> None:
        for number in range(2):
            log.append(f"waits {number}")
            await wakeup
        log.append("ends")

    return wait()


both = pytest.mark.parametrize("make", [DirectWakeup, TurnWakeup])


def test_loops_in_python_wake_at_once() -> None:
    async def scenario() -> type:
        return type(make_wakeup(asyncio.get_running_loop()))

    assert asyncio.run(scenario()) is DirectWakeup
    assert type(make_wakeup(asyncio.AbstractEventLoop())) is TurnWakeup  # type: ignore[abstract]


@pytest.mark.parametrize("kind", [asyncio.Task, PythonTask])
class TestWakeup:
    def test_woken_from_a_callback_at_once(self, kind: Any) -> None:
        async def scenario() -> None:
            loop = asyncio.get_running_loop()
            wakeup, log = DirectWakeup(loop), list[str]()
            assert wakeup.get_loop() is loop
            task = kind(waits(wakeup, log), loop=loop)
            await asyncio.sleep(0)
            assert wakeup.waiting

            def callback() -> None:
                log.append("callback")
                wakeup.wake()
                log.append("after")

            loop.call_soon(callback)
            await asyncio.sleep(0)
            assert log == ["waits 0", "callback", "waits 1", "after"]
            assert wakeup.waiting
            loop.call_soon(callback)
            await task
            assert log[4:] == ["callback", "ends", "after"]
            assert not wakeup.waiting
            # No task waits any more.
            assert not wakeup.wake()
            assert not wakeup.cancel()

        run_on_loops(scenario)

    @both
    def test_woken_from_a_task_in_the_next_turn(self, make: type[Wakeup], kind: Any) -> None:
        async def scenario() -> None:
            wakeup, log = make(asyncio.get_running_loop()), list[str]()
            task = kind(waits(wakeup, log), loop=asyncio.get_running_loop())
            assert not wakeup.waiting
            assert not wakeup.wake()
            await asyncio.sleep(0)
            assert wakeup.wake()
            assert log == ["waits 0"]
            assert not wakeup.waiting
            await asyncio.sleep(0)
            assert log == ["waits 0", "waits 1"]
            wakeup.wake()
            await task

        run_on_loops(scenario)

    @both
    def test_wait_can_be_cancelled(self, make: type[Wakeup], kind: Any) -> None:
        async def scenario() -> None:
            wakeup, log = make(asyncio.get_running_loop()), list[str]()
            task = kind(waits(wakeup, log), loop=asyncio.get_running_loop())
            await asyncio.sleep(0)
            task.cancel()
            assert not wakeup.waiting
            assert not wakeup.wake()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert log == ["waits 0"]
            # It can be awaited again.
            task = kind(waits(wakeup, log), loop=asyncio.get_running_loop())
            await asyncio.sleep(0)
            wakeup.wake()
            await asyncio.sleep(0)
            wakeup.wake()
            await task
            assert log[1:] == ["waits 0", "waits 1", "ends"]

        run_on_loops(scenario)

    @both
    def test_cancelling_after_waking_wins(self, make: type[Wakeup], kind: Any) -> None:
        """If it is cancelled after waking but before it continues, the cancelling wins."""

        async def scenario() -> None:
            wakeup, log = make(asyncio.get_running_loop()), list[str]()
            task = kind(waits(wakeup, log), loop=asyncio.get_running_loop())
            await asyncio.sleep(0)
            wakeup.wake()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert log == ["waits 0"]

        run_on_loops(scenario)

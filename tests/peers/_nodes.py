"""Nodes as ``serve`` processes that share a Redis, and can be killed and started again."""

from __future__ import annotations

import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.adapters._sip import free_port
from tests.cli._service import HANGS, Service, launched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.peers._redis import RedisServer

DOMAIN = "sip.test"


class NodeProcess:
    """A node that keeps its name and its port over restarts.

    Args:
        name: Its name.
        arguments: The arguments of ``serve``.
        stack: Ends what is left of it.

    Attributes:
        service: The running process.
    """

    def __init__(self, name: str, arguments: tuple[str, ...], stack: ExitStack) -> None:
        self.name = name
        self._arguments = ("--port", str(free_port()), *arguments)
        self._stack = stack
        self.service = self._start()

    def _start(self) -> Service:
        return self._stack.enter_context(launched(*self._arguments))

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return self.service.url

    def kill(self) -> None:
        """Kill it, with everything it knows."""
        self.service.process.kill()
        self.service.process.communicate(timeout=HANGS)

    def stop(self) -> list[str]:
        """Have it send its clients away and end; return its log."""
        return self.service.stop()[1]

    def begin_to_stop(self) -> None:
        """Have it send its clients away."""
        self.service.process.send_signal(signal.SIGTERM)

    def await_end(self) -> None:
        """Wait until it has ended."""
        self.service.process.communicate(timeout=HANGS)

    def start(self) -> None:
        """Start it again."""
        self.service = self._start()


@contextmanager
def population(
    redis: RedisServer, folder: Path, *names: str, extra: tuple[str, ...] = ()
) -> Iterator[list[NodeProcess]]:
    """Run nodes that share a store.

    Args:
        redis: The store.
        folder: Where their files are.
        names: Their names.
        extra: Further arguments of each.
    """
    keys = folder / "keys"
    keys.write_text("ab" * 32 + "\n")
    keys.chmod(0o600)
    with ExitStack() as stack:
        yield [
            NodeProcess(
                name,
                (
                    *("--store", redis.url, "--sip-flow-keys", str(keys)),
                    # Nodes of several machines have addresses of their own.
                    *("--node-name", name, "--node-listen", f"127.0.0.{index}:{free_port()}"),
                    *("--sip-domain", DOMAIN, "--no-page", *extra),
                    *("--ctl-socket", str(folder / f"ctl.{name}")),
                ),
                stack,
            )
            for index, name in enumerate(names, 11)
        ]

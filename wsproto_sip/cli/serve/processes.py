"""The parent of ``wsproto-sip serve --processes``: starts processes, and passes signals on.

Theory of operation: :mod:`~wsproto_sip.cli.serve.supervisor` decides what the processes do; this
module performs it. The parent itself serves no connection. It holds what the processes must not
lose when one of them ends: the ports, each bound by a socket of its own that does not listen
(``SO_REUSEPORT``), the Unix sockets and those passed by systemd, which all processes share::

    systemd ◀── readiness ── parent ── signals ──▶ process 0, 1, …
                                ▲                     │
                                └── ready, alive … ───┘   a pair of sockets each

Signals: SIGTERM and SIGINT stop all processes, SIGHUP has them reload one after the other, SIGUSR2
restart one after the other, and SIGUSR1 reopen their logs.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from ...adapters._listening import open_listener, place_of, unlink
from ...adapters.reports import report
from .._text import authority, reason_of
from .process import VARIABLE, Process
from .settings import SettingsError
from .setup import place_option
from .supervisor import (
    Announce,
    Finish,
    Order,
    Report,
    Rolled,
    Rolling,
    Start,
    State,
    Supervisor,
    Tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .logs import Log
    from .places import Place
    from .settings import Settings
    from .supervisor import Action
    from .systemd import Notifier

__all__ = ["Parent", "command_of"]

#: Seconds in which connections are closed at SIGINT.
_SOON: Final = 1.0
#: Seconds to wait for the last lines of a process that has ended.
_LAST_LINES: Final = 1.0
#: Signals that stop a process: gracefully, and within a second.
_GRACEFULLY, _QUICKLY = signal.SIGTERM, signal.SIGINT


class _Held:
    """Ports and sockets that outlast each process.

    Args:
        settings: The settings.
        inherited: Name and descriptor of each socket passed by systemd.

    Raises:
        SettingsError: A place cannot be listened on.
    """

    def __init__(self, settings: Settings, inherited: Sequence[tuple[str, int]]) -> None:
        self.places: dict[str, list[tuple[str, int]]] = {}
        self.sockets: dict[str, int] = {}
        self.inherited = list(inherited)
        with ExitStack() as stack:
            for place in settings.places:
                try:
                    self._hold(place, stack)
                except OSError as exc:
                    raise SettingsError(
                        f"--{place_option(settings)}: cannot listen on {place}: {reason_of(exc)}"
                    ) from None
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Give them up, and remove the paths of Unix sockets."""
        self._stack.close()

    def _hold(self, place: Place, stack: ExitStack) -> None:
        if place.inherited is not None:
            return
        if place.unix is not None:
            shared = open_listener(None, place.unix, None, 100)
            if shared is not None:
                stack.enter_context(shared)
                stack.callback(unlink, shared)
                self.sockets[str(place)] = shared.fileno()
            return
        found = self.places.setdefault(str(place), [])
        infos = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, protocol, _, address in dict.fromkeys(infos):
            try:
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, protocol))
            except OSError:
                # A machine without IPv6 still resolves IPv6 addresses.
                continue
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # First without sharing: another server on this port would get some of the connections.
            with socket.socket(family, socket.SOCK_STREAM, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            found.append(_with_zone(sock))
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _with_zone(sock: socket.socket) -> tuple[str, int]:
    """Return address and port of a socket, with the zone of an IPv6 address."""
    host, port = place_of(sock)
    name = sock.getsockname()
    zone = name[3] if len(name) == 4 else 0
    return (f"{host}%{zone}" if zone else host), port


class Parent:
    """The parent of several processes; made inside the event loop.

    Args:
        settings: The settings.
        command: The words that start a process.
        inherited: Name and descriptor of each socket passed by systemd.
        notifier: Notifies systemd.
        log: The log, reopened when the processes do.
        warn: Tells the operator something.

    Raises:
        SettingsError: A place cannot be listened on.
    """

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        inherited: Sequence[tuple[str, int]],
        notifier: Notifier,
        log: Log,
        warn: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._command = list(command)
        self._notifier = notifier
        self._log = log
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._held = _Held(settings, inherited)
        self._supervisor = Supervisor(
            settings.processes,
            drain=float(settings.drain_seconds),
            # A process shows it twice in this time.
            watchdog=None if notifier.watchdog is None else 2 * notifier.watchdog,
        )
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping_with = _GRACEFULLY
        self._announced: dict[int, dict[str, Any]] = {}
        self._announce: Callable[[list[dict[str, Any]]], None] = lambda announced: None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    async def run(self, announce: Callable[[list[dict[str, Any]]], None]) -> int:
        """Run the processes until a signal ends them.

        Args:
            announce: Called with what each process has announced, when all are ready.

        Returns:
            The exit code.
        """
        self._announce = announce
        self._obey_signals()
        feeding = asyncio.ensure_future(self._feed_watchdog())
        try:
            self._perform(self._supervisor.start(self._loop.time()))
            return await self._ended
        finally:
            feeding.cancel()
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._held.close()

    def _obey_signals(self) -> None:
        for number, action in (
            (signal.SIGINT, self._stop_soon),
            (signal.SIGTERM, self._stop),
            (signal.SIGHUP, self._reload),
            (signal.SIGUSR1, self._reopen),
            (signal.SIGUSR2, self._restart),
        ):
            self._loop.add_signal_handler(number, action)

    def _stop_soon(self) -> None:
        self._stopping_with = _QUICKLY
        self._stop()

    def _stop(self) -> None:
        if self._supervisor.stopping:
            # They ignore a second SIGTERM, which may come from systemd.
            self._stopping_with = _QUICKLY
        seconds = _SOON if self._stopping_with is _QUICKLY else self._settings.drain_seconds
        self._notifier.stopping(seconds + 30, "Stopping the processes")
        self._perform(self._supervisor.stop(self._loop.time()))

    def _reload(self) -> None:
        self._notifier.reloading()
        self._perform(self._supervisor.roll(Rolling.RELOAD, self._loop.time()))

    def _restart(self) -> None:
        self._perform(self._supervisor.roll(Rolling.RESTART, self._loop.time()))

    def _reopen(self) -> None:
        try:
            self._log.reopen()
        except OSError as exc:
            self._warn(f"--log-file: {self._settings.log_file}: {reason_of(exc)}")
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGUSR1)

    async def _feed_watchdog(self) -> None:
        while self._notifier.watchdog is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog)

    def _status(self) -> str:
        places = [authority(*at) for found in self._held.places.values() for at in found]
        where = ", ".join([*places, *self._held.sockets, *[name for name, _ in self._inherited]])
        return f"{self._settings.processes} processes listening on {where}"

    @property
    def _inherited(self) -> list[tuple[str, int]]:
        return [(f"systemd:{name}", number) for name, number in self._held.inherited]

    # -- what the supervisor decides ---------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(index):
                    self._spawn(index)
                case Tell(index, order):
                    self._tell(index, order)
                case Announce():
                    self._announce([self._announced[index] for index in sorted(self._announced)])
                    self._notifier.ready(self._status())
                case Rolled(what, done):
                    if what is Rolling.RELOAD:
                        if done:
                            print("Settings reloaded", flush=True)
                        self._notifier.ready(self._status())
                    report("server", logging.INFO, f"processes-{what.value}ed", complete=done)
                case Report(event, index, detail, seconds):
                    report(
                        "server",
                        logging.WARNING,
                        event,
                        process=index,
                        detail=detail,
                        again_in=None if seconds is None else round(seconds, 3),
                    )
                case Finish(code):
                    self._ended.set_result(code)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._supervisor.next_deadline()
        if deadline is not None and not self._ended.done():
            delay = max(deadline - self._loop.time(), 0)
            self._timer = self._loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._perform(self._supervisor.handle_timeout(self._loop.time()))

    def _tell(self, index: int, order: Order) -> None:
        process = self._processes.get(index)
        if process is None:
            # Its start is under way; _run() ends it.
            return
        number = {
            Order.RELOAD: signal.SIGHUP,
            Order.STOP: self._stopping_with,
            Order.KILL: signal.SIGKILL,
        }[order]
        with suppress(ProcessLookupError):
            process.send_signal(number)

    def _spawn(self, index: int) -> None:
        task = self._loop.create_task(self._run(index))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, index: int) -> None:
        """Start a process, listen to it, and report its end."""
        ours, theirs = socket.socketpair()
        held, code = self._held, 1
        with ours:
            with theirs:
                description = Process(
                    index,
                    self._settings.processes,
                    theirs.fileno(),
                    self._notifier.watchdog,
                    held.places,
                    held.sockets,
                    held.inherited,
                )
                environment: Mapping[str, str] = {
                    **os.environ,
                    VARIABLE: description.describe(),
                }
                try:
                    process = await asyncio.create_subprocess_exec(
                        *self._command,
                        env=environment,
                        pass_fds=description.descriptors,
                        # Ctrl-C is for the parent, which passes it on.
                        process_group=0,
                    )
                except OSError as exc:
                    self._warn(f"process {index} cannot be started: {reason_of(exc)}")
                    self._perform(self._supervisor.exited(index, code, self._loop.time()))
                    return
            self._processes[index] = process
            if self._supervisor.stopping:
                # It was started before, and could not be told.
                process.send_signal(self._stopping_with)
            listening = asyncio.ensure_future(self._listen(index, ours))
            try:
                code = await process.wait()
                # What it told last may not be read yet.
                await asyncio.wait([listening], timeout=_LAST_LINES)
            finally:
                listening.cancel()
            del self._processes[index]
        self._perform(self._supervisor.exited(index, code, self._loop.time()))

    async def _listen(self, index: int, channel: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            with suppress(ConnectionError):
                async for line in reader:
                    self._told(index, json.loads(line))
        finally:
            writer.close()

    def _told(self, index: int, message: dict[str, Any]) -> None:
        now = self._loop.time()
        match message["event"]:
            case "announced":
                self._announced[index] = message
            case "ready":
                if self._supervisor.states[index] is State.STARTING:
                    process = self._processes.get(index)
                    pid = None if process is None else process.pid
                    report("server", logging.INFO, "process-ready", process=index, pid=pid)
                self._perform(self._supervisor.ready(index, now))
            case "failed":
                self._perform(self._supervisor.reload_failed(index, now))
            case "alive":
                self._perform(self._supervisor.alive(index, now))


def command_of(words: Sequence[str]) -> list[str]:
    """Return the command that starts a process with the words of this one.

    Args:
        words: The words after ``serve``.
    """
    # A program that was started as a module finds it in the working directory, too.
    as_module = os.path.basename(sys.argv[0]) == "__main__.py"
    safe = [] if as_module else ["-P"]
    return [sys.executable, *safe, "-m", "wsproto_sip", "serve", *words]

"""``wsproto-sip serve``: a SIP server for WebSocket clients, an MSRP relay, and an echo.

Theory of operation: an :class:`~wsproto_sip.server.endpoint.Endpoint` contains the logic of the
server, an :class:`~wsproto_sip.adapters.asyncio.endpoint.EndpointServer` performs its I/O, and
channels bring commands for it. A SIP server and an MSRP relay serve the connections with their
sub-protocols. :class:`Service` starts all of them from the settings, echoes the messages of other
connections, logs, and handles signals.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shlex
import signal
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...adapters.asyncio.drain import stop
from ...adapters.asyncio.endpoint import EndpointServer
from ...adapters.asyncio.lag import LoopLag
from ...adapters.asyncio.management import FifoChannel, SocketChannel, executor
from ...adapters.asyncio.management_http import HttpChannel
from ...adapters.process_metrics import process_families
from ...adapters.reports import Reports, report
from ...auth.throttle import Attempt, Throttle
from ...events import BytesMessage, TextMessage
from ...msrp.relay.commands import add_msrp_commands
from ...msrp.relay.metrics import relay_families
from ...server.endpoint import Endpoint
from ...server.events import Closed, Opened, UnknownConnectionError
from ...server.histogram import Histogram
from ...server.management.prometheus import connection_families
from ...sip.edge.commands import add_sip_commands
from ...sip.edge.metrics import edge_families
from ...utilities import LocalProtocolError
from .._text import authority, reason_of
from .commands import add_service_commands
from .hooks import EventHookError
from .logs import Log
from .msrp import join_relay, msrp_application, msrp_reload, msrp_users, relay_uri
from .nodes import (
    add_node_commands,
    join,
    location_service,
    node_line,
    population_commands,
    store_families,
)
from .operation import MESSAGE_BOUNDS, event_hook, own_families
from .process import ParentNotifier, each_of
from .refusals import PERIOD, RefusalLog
from .settings import (
    Loaded,
    Settings,
    SettingsError,
    option_name,
    restart_needed,
)
from .setup import (
    check_places,
    connect_targets,
    endpoint_config,
    http_token,
    place_option,
    proxies,
    server_tls,
    throttle_config,
)
from .sip import sip_files, sip_line, sip_reload, sip_service
from .systemd import Notifier
from .targets import target_check
from .upstreams import UpstreamSet
from .users import UserSources

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ...adapters.asyncio.answers import Resolve
    from ...adapters.asyncio.management import Channel
    from ...adapters.asyncio.msrp import MsrpService
    from ...adapters.asyncio.population import PopulationCommands
    from ...adapters.asyncio.sip import SipService
    from ...events import Event
    from ...msrp.relay.journal import RelayEvent
    from ...server.config import EndpointConfig
    from ...server.management.prometheus import Family
    from ...session.config import SessionConfig
    from ...sip.edge.config import Upstream
    from ...sip.edge.journal import EdgeEvent
    from .places import Place
    from .process import Process

__all__ = ["Service", "warn"]

#: Seconds over which connections are closed when the server has to stop soon.
_SOON = 1.0

#: Seconds between reports of suppressed lines.
_FLUSH = 10.0

#: Addresses with a wrong token for commands, for the log.
_MANAGEMENT: Final = Attempt("management", "127.0.0.1", "token")

#: Fields of a keep-alive by the options they come from.
_KEEPALIVE_FIELDS: Final = {
    "keepalive_mechanism": "mechanism",
    "keepalive_timeout": "interval",
    "keepalive_answer": "answer_timeout",
    "keepalive_data": "application_data",
}


class Service:
    """One running server; made inside the event loop.

    Args:
        settings: The settings at the start.
        read: Reads the settings again, with notes on them.
        inherited: Name and descriptor of each socket passed by systemd.
        notifier: Notifies systemd.
        log: The log, flushed and reopened while the server runs.
        process: Its place among several processes; ``None`` for a single one.

    Raises:
        SettingsError: The settings do not fit together, or name a file that cannot be read.

    Attributes:
        offers: Lines that describe its services other than the echo.
        places: The options with which ``ctl`` reaches it.
        urls: URLs, and paths of Unix sockets, where it listens.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Loaded],
        inherited: Sequence[tuple[str, int]] = (),
        notifier: Notifier | None = None,
        log: Log | None = None,
        process: Process | None = None,
    ) -> None:
        check_places(settings)
        self._process = process
        self._settings = settings
        self._log = log
        self._read = read
        self._inherited = inherited
        self._notifier = Notifier({}) if notifier is None else notifier
        self._tls: ssl.SSLContext | None = server_tls(settings)
        self._targets, self._token = connect_targets(settings), http_token(settings)
        loop = asyncio.get_running_loop()
        self.users = self._users = UserSources(settings, loop.time)
        now = loop.time()
        self._hook = event_hook(settings)
        self._lag = LoopLag()
        self._reports = Reports(self._hook)
        # Shared: guesses at a password count across all services.
        authentication_failed = self._reports.authentication_failed
        self._throttle = Throttle(throttle_config(settings), report=authentication_failed)
        config = endpoint_config(settings, self._throttle, self._users, self._is_counted_on)
        self._endpoint = Endpoint(config, now=now)
        self._endpoint.statistics.authentication_failures = self._throttle.counts
        # It checks what the next one takes for granted.
        self._sip_files = sip_files(settings)
        self._location = location = location_service(settings)
        answers: Resolve = self._users.answers
        self._server = EndpointServer(
            self._endpoint,
            self._handle,
            proxies=proxies(settings),
            resolve=answers if location is None else location.resolver(answers),
        )
        # Connections opened by this side; echoing on them could go on for ever.
        self._own: set[int] = set()
        self._msrp_users = msrp_users(settings)
        self._msrp: MsrpService | None = None
        self._sip: SipService | None = None
        self._commands: PopulationCommands | None = None
        self._upstreams = UpstreamSet(settings) if settings.upstream else None
        self.offers: list[str] = []
        self.places: list[str] = []
        self.urls: list[str] = []
        self._channels: list[Channel] = []
        add_service_commands(self._endpoint.commands, lambda: self._settings, self.reload_or_fail)
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._seconds = 0.0

    # -- connections -------------------------------------------------------------------------------

    def _handle(self, cid: int, event: Event) -> None:
        taken = self._sip is not None and self._sip.handle(cid, event)
        taken = taken or (self._msrp is not None and self._msrp.handle(cid, event))
        if isinstance(event, TextMessage | BytesMessage):
            if not taken and cid not in self._own:
                # It may be closing or closed already.
                with suppress(LocalProtocolError, UnknownConnectionError):
                    self._endpoint.send(cid, event, self._server.now())
        elif isinstance(event, Opened | Closed):
            if isinstance(event, Closed):
                self._own.discard(cid)
            elif event.request is None:
                self._own.add(cid)
            entry = self._endpoint.registry.get(cid)
            self._reports.connection(event, entry, self._server.tls_version(cid))

    def _tell_sip(self, event: EdgeEvent) -> None:
        entry = None if event.cid is None else self._endpoint.registry.get(event.cid)
        self._reports.sip(event, None if entry is None else entry.peer)

    def _tell_msrp(self, event: RelayEvent) -> None:
        entry = self._endpoint.registry.get(event.cid)
        self._reports.msrp(event, None if entry is None else entry.peer)

    # -- from start to stop ------------------------------------------------------------------------

    async def run(self, announce: Callable[[], None]) -> None:
        """Serve until a signal ends it.

        Args:
            announce: Called when clients can connect.

        Raises:
            SettingsError: The server cannot listen at a place.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._start_hook()
            # Before clients can connect.
            upstreams = await self._find_upstreams()
            addresses = await self._open_listeners()
            await self._open_sip([(host, port) for _, host, port in addresses], upstreams)
            await self._open_relay(self._relay_addresses(addresses))
            await self._join()
            await self._open_channels()
            await self._server.accept()
            self._obey_signals()
            announce()
            self._notifier.ready(self._status())
            tasks = [
                asyncio.ensure_future(task)
                for task in (self._feed_watchdog(), self._log_refusals())
            ]
            if self._log is not None:
                self._server.spawn(self._flush_log(self._log))
            await self._stopping.wait()
            # The system has a moment more for the remaining data.
            self._notifier.stopping(self._seconds + 10, "Sending the clients away")
            report(
                "server",
                logging.INFO,
                "stopping",
                connections=len(self._endpoint),
                seconds=self._seconds,
            )
            location = self._location
            await stop(
                self._server,
                self._seconds,
                announce=None if location is None else location.drain,
                withdraw=None if location is None else self._withdraw,
                hurry=self._stopped,
            )
        finally:
            for channel in self._channels:
                await channel.close()
            if self._msrp is not None:
                await self._msrp.close()
            await self._server.close()
            self._lag.stop()
            if self._hook is not None:
                await asyncio.to_thread(self._hook.close)
            if self._upstreams is not None:
                await self._upstreams.close()
            await self._withdraw()
            if self._sip is not None:
                await self._sip.close()
            await self._users.close()
            for task in tasks:
                task.cancel()

    async def _start_hook(self) -> None:
        if self._hook is None:
            return
        option = "event_hook" if self._settings.event_hook is not None else "event_hook_command"
        try:
            await asyncio.to_thread(self._hook.start)
        except EventHookError as exc:
            raise SettingsError(f"--{option_name(option)}: {exc}") from None

    async def _withdraw(self) -> None:
        """Leave the other nodes."""
        if self._commands is not None:
            await self._commands.close()
        if self._location is not None:
            await self._location.close()

    async def _find_upstreams(self) -> Sequence[Upstream]:
        return () if self._upstreams is None else await self._upstreams.find()

    async def _log_refusals(self) -> None:
        log = RefusalLog(self._endpoint.statistics)
        while True:
            await asyncio.sleep(PERIOD)
            log.tell()

    async def _feed_watchdog(self) -> None:
        # A task of the loop, so that systemd gets no notification if the loop is stuck.
        while self._notifier.watchdog is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog)

    def _status(self) -> str:
        return f"Listening on {', '.join(self.urls)}"

    def _current_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            raise SettingsError("--listen: wss without --tls-cert")
        return self._tls

    async def _open_listeners(self) -> list[tuple[Place, str, int]]:
        """Listen at all places, and return the addresses among them.

        Connections wait until everything that serves them has started. Otherwise a client that
        comes back at the moment of a restart would be connected, and its REGISTER never answered.
        """
        addresses: list[tuple[Place, str, int]] = []
        option = place_option(self._settings)
        for place in self._settings.places:
            tls = self._current_tls if place.secure else None
            scheme = "wss" if place.secure else "ws"
            listen: Any = partial(self._server.listen, tls=tls, accept=False)
            if place.inherited is not None:
                found = []
                for descriptor in self._passed(place.inherited):
                    found += await _listening(option, str(place), listen(sock=descriptor))
            elif place.unix is not None:
                # Several processes share the socket of their parent, which removes its path.
                where: dict[str, Any] = {"unix": place.unix}
                if self._process is not None:
                    where = {"sock": self._process.socket(place)}
                found = await _listening(option, str(place), listen(**where))
            elif self._process is not None:
                found = []
                for address in self._process.addresses(place):
                    opening = listen(*address, reuse_port=True)
                    found += await _listening(option, authority(*address), opening)
            else:
                found = await _listening(option, str(place), listen(place.host, place.port))
            for host, port in found:
                if host.startswith(("/", "\0")) or not host:
                    self.urls.append(f"unix:{host}")
                else:
                    addresses.append((place, host, port))
                    self.urls.append(f"{scheme}://{authority(host, port)}/")
        return addresses

    def _passed(self, name: str) -> list[int]:
        """Return the descriptors of inherited listening sockets by name."""
        found = [number for given, number in self._inherited if name in ("", given)]
        if not found:
            there = ", ".join(given or "(without a name)" for given, _ in self._inherited)
            raise SettingsError(
                f"--listen: systemd:{name}: no such socket was passed; there are "
                f"{there or 'none (LISTEN_FDS)'}"
            )
        for number in found:
            # Not a socket of ours: its descriptor stays open.
            with socket.socket(fileno=os.dup(number)) as sock:
                if sock.type != socket.SOCK_STREAM:
                    raise SettingsError(f"--listen: systemd:{name}: not a stream socket")
        return found

    def _relay_addresses(self, addresses: list[tuple[Place, str, int]]) -> list[tuple[str, int]]:
        """Return the addresses for the URI of the MSRP relay: those with TLS, if any."""
        secure = [(host, port) for place, host, port in addresses if place.secure]
        found = secure or [(host, port) for _, host, port in addresses]
        return found or [(str(self._settings.msrp_name), 443)]

    async def check(self) -> None:
        """Check whether :meth:`run` would start, without listening anywhere.

        A port in use is not an error: the server to be restarted may hold it.

        Raises:
            SettingsError: It would not start.
        """
        settings, option = self._settings, place_option(self._settings)
        await self._start_hook()
        if self._hook is not None:
            await asyncio.to_thread(self._hook.close)
        addresses = []
        for place in settings.places:
            if place.inherited is None:
                opening = _could_listen(place)
                for host, port in await _listening(option, str(place), opening):
                    addresses.append((place, host, port))
        plain = [(host, port) for _, host, port in addresses]
        if self._sip_files is not None:
            upstreams = await self._find_upstreams()
            sip = sip_service(
                settings,
                self._server,
                self._sip_files,
                plain,
                self._throttle,
                upstreams,
                self._users,
                self._location,
            )
            self.offers.append(sip_line(settings, sip))
            if self._location is not None:
                self.offers.append(node_line(settings, self._location))
        if self._msrp_users is not None:
            relayed = self._relay_addresses(addresses)
            msrp_application(
                settings,
                self._server,
                self._msrp_users,
                relayed,
                self._throttle,
                self._users,
                *self._node(),
            )
            self.offers.append(f"MSRP relay {relay_uri(settings, relayed)}")
        for own in each_of(settings):
            _check_path("fifo", own.fifo, "FIFO", stat.S_ISFIFO)
            _check_path("ctl-socket", own.ctl_socket, "socket", stat.S_ISSOCK)

    async def _open_sip(
        self, addresses: list[tuple[str, int]], upstreams: Sequence[Upstream]
    ) -> None:
        settings, files = self._settings, self._sip_files
        if files is None:
            return
        self._sip = sip = sip_service(
            settings,
            self._server,
            files,
            addresses,
            self._throttle,
            upstreams,
            self._users,
            self._location,
        )
        sip.application.edge.journal.observer = self._tell_sip
        sip.on_upstream = self._reports.upstream
        where = f"{settings.upstream_local or 'an address'} for the upstream"
        await _listening("upstream-local", where, sip.open())
        if self._upstreams is not None:
            self._upstreams.keep(sip.use_upstreams)
        add_sip_commands(self._endpoint.commands, sip.application.edge)
        self.offers.append(sip_line(settings, sip))

    async def _join(self) -> None:
        """Enter the node, when other nodes can reach all of it."""
        location, sip = self._location, self._sip
        if location is None or sip is None:
            return
        await join(location, sip)
        add_node_commands(self._endpoint.commands, location, sip)
        self.offers.append(node_line(self._settings, location))

    def _node_tls(self) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        """Return the contexts for links between nodes."""
        files = self._sip_files
        return (None, None) if files is None or self._location is None else files.tls

    def _node(self) -> tuple[str | None, ssl.SSLContext | None]:
        """Return the name of this node for the relay, and the context for links to others."""
        if self._location is None or self._settings.msrp_node_port is None:
            return None, None
        return self._location.entry.name, self._node_tls()[0]

    async def _open_relay(self, addresses: list[tuple[str, int]]) -> None:
        settings, users = self._settings, self._msrp_users
        if users is None:
            return
        location, tls = self._location, self._node_tls()
        self._msrp = relay = msrp_application(
            settings, self._server, users, addresses, self._throttle, self._users, *self._node()
        )
        add_msrp_commands(self._endpoint.commands, relay.application.relay)
        relay.application.relay.journal.observer = self._tell_msrp
        self.offers.append(f"MSRP relay {relay_uri(settings, addresses)}")
        if location is not None and settings.msrp_node_port is not None:
            for address in await join_relay(relay, settings, location, tls[1]):
                self.offers.append(f"MSRP nodes on {authority(*address)}")
        port = settings.msrp_peer_port
        if port is not None:
            host = next((place.host for place in settings.places if place.host), settings.host)
            try:
                where = authority(host, port)
                for address in await _listening("msrp-peer-port", where, relay.listen(host, port)):
                    self.offers.append(f"MSRP peers on {authority(*address)}")
            except SettingsError:
                raise
            except ValueError as exc:
                raise SettingsError(f"--msrp-peer: {exc}") from None

    async def _open_channels(self) -> None:
        settings = self._settings
        execute = executor(self._server, check=target_check(lambda: self._targets))
        anywhere = None
        if self._location is not None:
            self._commands = population_commands(settings, self._location, execute)
        if self._commands is not None:
            self._commands.open()
            anywhere = self._commands.execute
        channels: list[tuple[str, str, Channel]] = []
        if settings.fifo is not None:
            channels.append(("fifo", "--fifo", FifoChannel(settings.fifo, execute)))
        if settings.ctl_socket is not None:
            socket_channel = SocketChannel(settings.ctl_socket, execute, anywhere)
            channels.append(("ctl-socket", "--socket", socket_channel))
        if settings.ctl_http is not None:
            self._endpoint.statistics.message_sizes = Histogram(MESSAGE_BOUNDS)
            self._lag.start()
            channel = HttpChannel(
                settings.ctl_http,
                execute,
                self._families,
                ready=self._is_ready,
                token=self._token,
                refused=partial(self._throttle.note, _MANAGEMENT),
                anywhere=anywhere,
            )
            channels.append(("ctl-http", "--url", channel))
        for option, flag, opening in channels:
            await _listening(option, opening.name, opening.open())
            self._channels.append(opening)
            self.places.append(shlex.join([flag, opening.name]))

    def _is_ready(self) -> bool:
        """Return whether new connections are accepted, and are worth having."""
        endpoint = self._endpoint
        return endpoint.enabled and not endpoint.draining and self._is_counted_on()

    def _is_counted_on(self) -> bool:
        """Return whether the other nodes, if there are any, send requests to this one."""
        return self._location is None or self._location.ready

    def _families(self) -> list[Family]:
        """Return all metrics."""
        found = connection_families(self._endpoint.statistics)
        if self._sip is not None:
            found += edge_families(self._sip.application.edge)
        if self._msrp is not None:
            found += relay_families(self._msrp.application.relay)
        if self._location is not None:
            found += store_families(
                self._location, () if self._sip is None else self._sip.out_of_reach
            )
        found += self._users.families()
        return [*found, *own_families(self._lag, self._log, self._hook), *process_families()]

    def _obey_signals(self) -> None:
        loop = self._server.loop

        def obey(name: str, action: Callable[..., None], *arguments: Any) -> None:
            number = getattr(signal, name, None)
            if number is None:
                return
            try:
                # It wakes the loop, even if the signal comes just before the loop waits.
                loop.add_signal_handler(number, action, *arguments)
            except NotImplementedError:
                # On Windows the loop wakes by itself.
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(action, *arguments))

        obey("SIGINT", self.stop, _SOON)
        obey("SIGTERM", self._terminate)
        obey("SIGHUP", self.reload)
        obey("SIGUSR1", self.reopen_log)
        if isinstance(self._notifier, ParentNotifier):
            loop.add_reader(self._notifier, self._parent_told, self._notifier)
            # Signals for all processes of a service reach this one, too; this one is the parent's.
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def _terminate(self) -> None:
        # systemd may send it to all processes, and then the parent sends it again.
        if self._process is None or not self._stopping.is_set():
            self.stop()

    def _parent_told(self, parent: ParentNotifier) -> None:
        if parent.gone():
            self._server.loop.remove_reader(parent)
            self.stop()

    def stop(self, seconds: float | None = None) -> None:
        """End :meth:`run` gracefully; immediately if called again.

        Args:
            seconds: Time over which connections are closed; by default that of the settings.
        """
        if self._stopping.is_set():
            self._stopped.set()
        self._seconds = float(self._settings.drain_seconds) if seconds is None else seconds
        self._stopping.set()

    def reopen_log(self) -> None:
        """Open the log file again, after a rotation."""
        if self._log is not None:
            try:
                self._log.reopen()
            except OSError as exc:
                warn(f"--log-file: {self._settings.log_file}: {reason_of(exc)}")

    async def _flush_log(self, log: Log) -> None:
        while True:
            await asyncio.sleep(_FLUSH)
            log.flush()

    def reload(self) -> None:
        """Read the files again, and report an invalid one."""
        try:
            self.reload_or_fail()
        except SettingsError as exc:
            warn(f"nothing is reloaded: {exc}")

    def reload_or_fail(self) -> None:
        """Read the files again; change nothing unless all of them are valid.

        Raises:
            SettingsError: A file is invalid; nothing changed.
        """
        self._notifier.reloading()
        self.reopen_log()
        try:
            self._reload()
        except SettingsError:
            self._notifier.not_reloaded()
            raise
        finally:
            self._notifier.ready(self._status())

    def _reload(self) -> None:
        loaded = self._read()
        stated = loaded.settings
        try:
            # One realm for the handshake, SIP and MSRP, of which only the first could change it.
            settings = replace(stated, auth_realm=self._settings.auth_realm)
            check_places(settings)
            config = endpoint_config(settings, self._throttle, self._users, self._is_counted_on)
            sources, networks = self._users.prepare(settings), proxies(settings)
            users, files = msrp_users(settings), sip_files(settings)
            targets = connect_targets(settings)
            # A new context, for new connections, so that a half-loaded certificate is never used.
            tls = server_tls(settings)
        except SettingsError as exc:
            raise SettingsError(loaded.locate(exc)) from None
        for note in loaded.notes:
            warn(note)
        fixed = restart_needed(self._settings, stated)
        if bool(settings.tls_cert) is (self._tls is None):
            fixed.append("tls-cert")
        if bool(settings.upstream) is (self._upstreams is None):
            fixed.append("upstream")
        if bool(settings.node_tls_cert) is not bool(self._settings.node_tls_cert):
            fixed.append("node-tls-cert")
        fixed += self._users.use(sources)
        if fixed:
            warn(f"only a restart changes {', '.join(fixed)}")
        self._endpoint.config = self._with_commanded(config, settings)
        self._server.proxies, self._targets = networks, targets
        if tls is not None and self._tls is not None:
            self._tls = tls
        if self._msrp is not None and users is not None:
            msrp_reload(self._msrp, settings, users, (None, None) if files is None else files.tls)
        if self._sip is not None and files is not None:
            sip_reload(self._sip, files)
            changed = settings.upstream and settings.upstream != self._settings.upstream
            if self._upstreams is not None and changed:
                self._upstreams.change(settings, self._sip.use_upstreams)
        self._settings = settings
        if self._process is None:
            print("Settings reloaded", flush=True)
        report("server", logging.INFO, "reloaded")

    def _with_commanded(self, config: EndpointConfig, settings: Settings) -> EndpointConfig:
        """Return a configuration with the values set by commands, unless their options changed.

        ``cfg.seti`` is an operator's last word: reloading users must not undo it. An option that
        was changed in a file since is a later word.
        """
        running, before = self._endpoint.config, self._settings
        config = replace(config, shards=running.shards)
        if settings.keepalive_interval == before.keepalive_interval:
            config = replace(config, timer_interval=running.timer_interval)
        kept = [
            field
            for option, field in _KEEPALIVE_FIELDS.items()
            if getattr(settings, option) == getattr(before, option)
        ]

        def merged(new: SessionConfig, old: SessionConfig) -> SessionConfig:
            values = {field: getattr(old.keepalive, field) for field in kept}
            return replace(new, keepalive=replace(new.keepalive, **values))

        session, ran = config.session, running.session
        profiles = {
            name: merged(profile, ran.profiles[name]) for name, profile in session.profiles.items()
        }
        return replace(config, session=replace(merged(session, ran), profiles=profiles))


async def _could_listen(place: Place) -> list[tuple[str, int]]:
    """Bind where a server would listen, and release it again.

    Returns:
        The addresses and ports; empty for a Unix socket.

    Raises:
        OSError: The server could not listen there.
    """
    if place.unix is not None:
        directory = os.path.dirname(place.unix)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return []
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    found: dict[tuple[str, int], None] = {}
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as sock:
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)
                address = sock.getsockname()
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
        found[str(address[0]), int(address[1])] = None
    return list(found)


def _check_path(option: str, path: str | None, kind: str, is_kind: Callable[[int], bool]) -> None:
    """Check whether a channel for commands could be made.

    Raises:
        SettingsError: It could not.
    """
    if path is None:
        return
    if not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
        raise SettingsError(f"--{option}: {path}: nothing can be made in its directory")
    # The running server may have made it.
    if os.path.lexists(path) and not is_kind(os.lstat(path).st_mode):
        raise SettingsError(f"--{option}: {path} is not a {kind}")


def warn(text: str) -> None:
    """Tell the operator something, regardless of the log's level.

    Args:
        text: The text.
    """
    print(f"wsproto-sip: {text}", file=sys.stderr, flush=True)


async def _listening(option: str, where: str, opening: Any) -> Any:
    try:
        return await opening
    except OSError as exc:
        # Our texts say more than the number.
        reason = str(exc.strerror) if exc.strerror and where in exc.strerror else reason_of(exc)
        raise SettingsError(f"--{option}: cannot listen on {where}: {reason}") from None

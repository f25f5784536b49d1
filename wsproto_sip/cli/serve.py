"""``wsproto-sip serve``: a SIP server for WebSocket clients, an MSRP relay, and an echo.

Theory of operation: an :class:`~wsproto_sip.server.endpoint.Endpoint` does what a server has to do,
an :class:`~wsproto_sip.adapters.endpoint_server.EndpointServer` moves its octets, and channels
bring commands for it. Beside it stand a SIP server and an MSRP relay for the connections that speak
these. What is left for :class:`Service` is to start all of them from the settings, to echo what the
other connections bring, to log, and to do as signals say.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..adapters.endpoint_server import EndpointServer
from ..adapters.management import FifoChannel, SocketChannel, executor
from ..adapters.management_http import HttpChannel
from ..events import BytesMessage, TextMessage
from ..server.endpoint import Endpoint
from ..server.endpoint_events import Closed, Opened, UnknownConnectionError
from ..subprotocols import MSRP
from ..utilities import LocalProtocolError
from ._text import authority, reason_of
from .logs import log_event, set_up
from .msrp import msrp_application, msrp_users, relay_uri
from .page import page_policy
from .settings import Settings, SettingsError, add_options, load, restart_needed
from .setup import endpoint_config, load_certificate, proxies, server_tls
from .sip import sip_files, sip_line, sip_reload, sip_service

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ..adapters.management import Channel
    from ..adapters.msrp_tcp import MsrpService
    from ..adapters.sip_edge import SipService
    from ..events import Event

__all__ = ["Service", "add_command"]

#: Seconds that connections are closed over when the server is to stop soon.
_SOON = 1.0

_GUIDE = """\
Sub-protocols {subprotocols}; messages of at most {size} octets.
{echo}{commands}Ctrl-C stops the server.
"""

_ECHO = """\
{where}, every message comes back as it was sent. Try it from another terminal:
  {command}
or in a browser's console, on a page that may connect:
  ws = new WebSocket({arguments}); ws.onmessage = (e) => console.log(e.data); ws.onopen = () => ws.send("hello")
"""  # noqa: E501  # one line to copy


class Service:
    """One running server; made inside the event loop.

    Args:
        settings: How it is started.
        read: Gives the settings anew, and notes on them.

    Raises:
        SettingsError: The settings do not fit together, or name a file that cannot be read.
    """

    def __init__(self, settings: Settings, read: Callable[[], tuple[Settings, list[str]]]) -> None:
        self._settings = settings
        self._read = read
        self._tls: ssl.SSLContext | None = server_tls(settings)
        now = asyncio.get_running_loop().time()
        self._endpoint = Endpoint(endpoint_config(settings), now=now)
        self._server = EndpointServer(self._endpoint, self._handle, proxies=proxies(settings))
        # Connections that this side has opened: to echo what they bring could go on for ever.
        self._own: set[int] = set()
        self._msrp_users = msrp_users(settings)
        self._msrp: MsrpService | None = None
        self._sip_files = sip_files(settings)
        self._sip: SipService | None = None
        #: What it offers besides an echo, in lines.
        self.offers: list[str] = []
        self._channels: list[Channel] = []
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._seconds = 0.0

    # -- connections -------------------------------------------------------------------------------

    def _handle(self, cid: int, event: Event) -> None:
        taken = self._sip is not None and self._sip.handle(cid, event)
        taken = taken or (self._msrp is not None and self._msrp.handle(cid, event))
        if isinstance(event, TextMessage | BytesMessage):
            if not taken and cid not in self._own:
                # It may be closing already, or have ended.
                with suppress(LocalProtocolError, UnknownConnectionError):
                    self._endpoint.send(cid, event, self._server.now())
        elif isinstance(event, Opened):
            self._tell_opened(event)
        elif isinstance(event, Closed):
            self._own.discard(cid)
            self._tell_closed(event)

    def _tell_opened(self, event: Opened) -> None:
        request, identity = event.request, event.identity
        if request is None:
            self._own.add(event.cid)
        entry = self._endpoint.registry.get(event.cid)
        address, port = ("", 0) if entry is None else entry.peer
        log_event(
            "opened",
            connection=event.cid,
            peer=authority(address, port or 0),
            secure=entry is not None and entry.secure,
            target=None if request is None else request.target,
            subprotocol=event.subprotocol,
            identity=None if identity is None else identity.name,
        )

    @staticmethod
    def _tell_closed(event: Closed) -> None:
        closed, identity = event.closed, event.identity
        log_event(
            "closed" if event.opened else "refused",
            connection=event.cid,
            peer=authority(event.address, event.port or 0),
            subprotocol=event.subprotocol,
            identity=None if identity is None else identity.name,
            code=closed.code if event.opened else None,
            reason=closed.reason or None,
            cause=closed.cause.value,
        )

    # -- from start to stop ------------------------------------------------------------------------

    async def run(self, announce: Callable[[list[str], list[str]], None]) -> None:
        """Serves until a signal ends it.

        Args:
            announce: Called with URLs and the places for commands, when clients may come.

        Raises:
            SettingsError: It cannot be listened somewhere.
        """
        settings = self._settings
        try:
            scheme = "ws" if self._tls is None else "wss"
            where = authority(settings.host, settings.port)
            addresses = await _listening(
                where, self._server.listen(settings.host, settings.port, tls=self._tls)
            )
            await self._open_sip(addresses)
            await self._open_relay(addresses)
            places = await self._open_channels()
            self._obey_signals()
            urls = [f"{scheme}://{authority(*address)}/" for address in addresses]
            announce(urls, places)
            await self._stopping.wait()
            self._server.stop_listening()
            log_event("stopping", connections=len(self._endpoint), seconds=self._seconds)
            await self._until_drained()
        finally:
            for channel in self._channels:
                await channel.close()
            if self._msrp is not None:
                await self._msrp.close()
            await self._server.close()
            if self._sip is not None:
                await self._sip.close()

    async def _open_sip(self, addresses: list[tuple[str, int]]) -> None:
        settings, files = self._settings, self._sip_files
        if files is None:
            return
        # There before anything is waited for: from now on clients come.
        self._sip = sip = sip_service(settings, self._server, files, addresses)
        await _listening(f"{settings.upstream_local or 'an address'} for the upstream", sip.open())
        self.offers.append(sip_line(settings, sip))

    async def _open_relay(self, addresses: list[tuple[str, int]]) -> None:
        settings, users = self._settings, self._msrp_users
        if users is None:
            return
        self._msrp = relay = msrp_application(settings, self._server, users, addresses)
        self.offers.append(f"MSRP relay {relay_uri(settings, addresses)}")
        port = settings.msrp_peer_port
        if port is not None:
            try:
                where = authority(settings.host, port)
                for address in await _listening(where, relay.listen(settings.host, port)):
                    self.offers.append(f"MSRP peers on {authority(*address)}")
            except SettingsError:
                raise
            except ValueError as exc:
                raise SettingsError(f"--msrp-peer: {exc}") from None

    async def _open_channels(self) -> list[str]:
        settings, execute = self._settings, executor(self._server)
        channels: list[tuple[str, Channel]] = []
        if settings.fifo is not None:
            channels.append(("--fifo", FifoChannel(settings.fifo, execute)))
        if settings.ctl_socket is not None:
            channels.append(("--socket", SocketChannel(settings.ctl_socket, execute)))
        if settings.ctl_http is not None:
            statistics = self._endpoint.statistics
            channels.append(("--url", HttpChannel(settings.ctl_http, execute, statistics)))
        places = []
        for option, channel in channels:
            await _listening(channel.name, channel.open())
            self._channels.append(channel)
            places.append(shlex.join([option, channel.name]))
        return places

    async def _until_drained(self) -> None:
        drained = asyncio.ensure_future(self._server.drain(self._seconds))
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([drained, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            stopped.cancel()

    def _obey_signals(self) -> None:
        # Not loop.add_signal_handler, which Windows does not have.
        loop = self._server.loop

        def obey(name: str, action: Callable[..., None], *arguments: Any) -> None:
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(action, *arguments))

        obey("SIGINT", self.stop, _SOON)
        obey("SIGTERM", self.stop)
        obey("SIGHUP", self.reload)

    def stop(self, seconds: float | None = None) -> None:
        """Ends :meth:`run`, politely; a second time at once.

        Args:
            seconds: How long connections are closed over; by default as the settings say.
        """
        if self._stopping.is_set():
            self._stopped.set()
        self._seconds = float(self._settings.drain_seconds) if seconds is None else seconds
        self._stopping.set()

    def reload(self) -> None:
        """Reads the files again; what was in force stays unless all of it is right."""
        try:
            stated, notes = self._read()
            # One realm for the handshake, SIP and MSRP, of which only the first could change it.
            settings = replace(stated, auth_realm=self._settings.auth_realm)
            config, networks = endpoint_config(settings), proxies(settings)
            users, files = msrp_users(settings), sip_files(settings)
            if self._tls is not None:
                # Into one that nobody uses first: half a certificate must not be in force.
                server_tls(settings)
                load_certificate(self._tls, settings)
        except SettingsError as exc:
            _warn(f"nothing is reloaded: {exc}")
            return
        for note in notes:
            _warn(note)
        fixed = restart_needed(self._settings, stated)
        if (settings.tls_cert is None) is not (self._tls is None):
            fixed.append("tls-cert")
        if fixed:
            _warn(f"only a restart changes {', '.join(fixed)}")
        self._endpoint.config = replace(config, shards=self._endpoint.config.shards)
        self._server.proxies = networks
        if self._msrp_users is not None and users is not None:
            self._msrp_users.clear()
            self._msrp_users.update(users)
        if self._sip is not None and files is not None:
            sip_reload(self._sip, files)
        self._settings = settings
        print("Settings reloaded", flush=True)
        log_event("reloaded")


async def _listening(where: str, opening: Any) -> Any:
    try:
        return await opening
    except OSError as exc:
        # Ours say more than the number does.
        reason = str(exc.strerror) if exc.strerror and where in exc.strerror else reason_of(exc)
        raise SettingsError(f"cannot listen on {where}: {reason}") from None


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``serve`` to the command line."""
    parser = commands.add_parser(
        "serve",
        help="a SIP server for WebSocket clients, an MSRP relay, and an echo",
        description="Serves WebSocket connections: registers, connects and relays what speaks sip, "
        "relays msrp where it has users, and sends every other message back as it came. "
        "A flag goes before the same option in the file of --config, that before kamailio.cfg, "
        "and that before the default.",
    )
    parser.add_argument("--config", metavar="FILE.toml", help="takes options from a TOML file")
    parser.add_argument(
        "--kamailio-cfg",
        metavar="FILE",
        help='takes modparam("websocket", …) from a kamailio.cfg',
    )
    add_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    flags = vars(arguments).copy()
    del flags["run"]
    config, kamailio_cfg = flags.pop("config"), flags.pop("kamailio_cfg")

    def read() -> tuple[Settings, list[str]]:
        return load(flags, config=config, kamailio_cfg=kamailio_cfg)

    try:
        settings, notes = read()
        set_up(settings.log_format)
        for note in notes:
            _warn(note)
        asyncio.run(_serve(settings, read))
    except SettingsError as exc:
        _warn(str(exc))
        return 2
    return 0


def _warn(text: str) -> None:
    print(f"wsproto-sip: {text}", file=sys.stderr, flush=True)


async def _serve(settings: Settings, read: Callable[[], tuple[Settings, list[str]]]) -> None:
    service = Service(settings, read)

    def announce(urls: list[str], places: list[str]) -> None:
        program = _program()
        for url in urls:
            print("Listening on", url)
        for line in service.offers:
            print(line)
        if page_policy(settings) is not None:
            page = urls[0].replace("ws", "http", 1)
            print(f"Two tabs of a browser that show {page} can call each other")
        commands = "".join(f"  {program} ctl {place} ws.dump\n" for place in places)
        guide = _GUIDE.format(
            subprotocols=_listed(settings.subprotocol),
            size=settings.max_message_size,
            echo=_echo(settings, program, urls[0]),
            commands=f"Give commands with\n{commands}" if commands else "",
        )
        print(guide, end="", flush=True)

    await service.run(announce)


def _echo(settings: Settings, program: str, url: str) -> str:
    """How to try the echo; nothing where there is none."""
    places = []
    if "none" in settings.subprotocol:
        places.append("Without a sub-protocol")
    if MSRP in settings.subprotocol and settings.msrp_users is None:
        places.append(f"{'on' if places else 'On'} msrp")
    if not places:
        return ""
    if "none" not in settings.subprotocol:
        program, url = f"{program} connect --subprotocol msrp {url}", f'"{url}", "msrp"'
    else:
        program, url = f"{program} connect {url}", f'"{url}"'
    return _ECHO.format(where=" and ".join(places), command=program, arguments=url)


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _program() -> str:
    """How this program was started, to start it once more."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return shlex.join([sys.executable, "-m", "wsproto_sip"])
    return shlex.quote(sys.argv[0])

"""One of several processes of ``wsproto-sip serve``: what it has of its own, and its parent.

Theory of operation: the parent (:mod:`~wsproto_sip.cli.serve.processes`) starts each process with
the same words, and with a description of its place among them in the environment. A process takes
that description, changes its settings where each process needs a place of its own, and tells the
parent what happens to it: lines of JSON on one end of a pair of sockets. When the parent ends, so
does the other end, and the process stops.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ...subprotocols import SIP
from .._text import authority
from .places import WILDCARDS
from .settings import Settings, SettingsError, option_name
from .systemd import Notifier
from .users import places_of

if TYPE_CHECKING:
    from .places import Place

__all__ = [
    "VARIABLE",
    "ParentNotifier",
    "Process",
    "check_ports",
    "check_processes",
    "each_of",
    "take_process",
]

#: The variable of the environment with a process's description.
VARIABLE: Final = "WSPROTO_SIP_PROCESS"

#: Options with a port, or a host and a port, to which each process adds its number.
_PORTS: Final = ("ctl_http", "msrp_peer_port", "msrp_node_port")
_ADDRESSES: Final = ("upstream_local", "upstream_local_tls", "node_listen")
#: Options with the path of a socket or FIFO, to which each process appends its number.
_PATHS: Final = ("fifo", "ctl_socket")

_MAX_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(.+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Process:
    """A process among several.

    Args:
        index: Its number, from 0.
        count: How many processes there are.
        channel: The descriptor on which it tells its parent what happens; -1 for none.
        watchdog: Seconds between two signs of life; ``None`` for none.
        places: The addresses and ports of each place to listen on, by :class:`Place` as text.
        sockets: The descriptor of each Unix socket to listen on, likewise.
        inherited: Name and descriptor of each socket passed by systemd.
    """

    index: int
    count: int
    channel: int = -1
    watchdog: float | None = None
    places: dict[str, list[tuple[str, int]]] | None = None
    sockets: dict[str, int] | None = None
    inherited: Sequence[tuple[str, int]] = ()

    def describe(self) -> str:
        """Return the description that :func:`take_process` reads."""
        return json.dumps(
            {
                "index": self.index,
                "count": self.count,
                "channel": self.channel,
                "watchdog": self.watchdog,
                "places": self.places,
                "sockets": self.sockets,
                "inherited": list(self.inherited),
            }
        )

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that the process needs from its parent."""
        passed = [number for _, number in self.inherited]
        return [self.channel, *(self.sockets or {}).values(), *passed]

    def addresses(self, place: Place) -> list[tuple[str, int]]:
        """Return the addresses and ports of a place.

        Args:
            place: The place.

        Raises:
            SettingsError: The parent does not hold it.
        """
        found = (self.places or {}).get(str(place))
        if found is None:
            raise SettingsError(f"--listen: {place}: only a restart of all processes changes it")
        return found

    def socket(self, place: Place) -> int:
        """Return the descriptor of a Unix socket to listen on.

        Args:
            place: The place.

        Raises:
            SettingsError: The parent does not hold it.
        """
        found = (self.sockets or {}).get(str(place))
        if found is None:
            raise SettingsError(f"--listen: {place}: only a restart of all processes changes it")
        return found

    def own(self, settings: Settings) -> Settings:
        """Return the settings of this process: its own ports, paths and name.

        Args:
            settings: The settings of all processes.
        """
        changed: dict[str, Any] = {}
        for name in _PORTS:
            port = getattr(settings, name)
            if port:
                changed[name] = port + self.index
        for name in _PATHS:
            path = getattr(settings, name)
            if path is not None:
                changed[name] = f"{path}.{self.index}"
        for name in _ADDRESSES:
            match = _ADDRESS.fullmatch(getattr(settings, name) or "")
            if match is not None and int(match[2]):
                changed[name] = f"{match[1]}:{int(match[2]) + self.index}"
        if settings.node_name is not None:
            changed["node_name"] = f"{settings.node_name}/{self.index}"
        return replace(settings, **changed)


def take_process(environment: MutableMapping[str, str]) -> Process | None:
    """Return the description of this process, and remove it from the environment.

    Args:
        environment: The environment.

    Returns:
        The description; ``None`` for a process without a parent.
    """
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    values = json.loads(text)
    found = Process(
        values["index"],
        values["count"],
        values["channel"],
        values["watchdog"],
        {name: [(host, port) for host, port in at] for name, at in values["places"].items()},
        values["sockets"],
        [(name, number) for name, number in values["inherited"]],
    )
    for number in found.descriptors:
        os.set_inheritable(number, False)
    return found


def each_of(settings: Settings) -> list[Settings]:
    """Return the settings of each process.

    Args:
        settings: The settings of all processes.
    """
    count = settings.processes
    if count == 1:
        return [settings]
    return [Process(index, count).own(settings) for index in range(count)]


def check_ports(settings: Settings) -> None:
    """Check that no two options, or processes, listen on one port.

    Args:
        settings: The settings of all processes.

    Raises:
        SettingsError: Two do.
    """
    taken: list[tuple[str, str, int]] = []
    for name, host, port in _listeners(settings):
        for other, there, number in taken:
            if port == number and _overlap(host, there):
                where = authority(host, port)
                reason = "is given twice" if other == name else f"is used by --{other}, too"
                raise SettingsError(f"--{name}: {where} {reason}")
        if port:
            taken.append((name, host, port))


def _listeners(settings: Settings) -> list[tuple[str, str, int]]:
    """Return option, host and port of everything that listens on a TCP port."""
    shared = "listen" if settings.listen else "port"
    places = [place for place in settings.places if place.host is not None]
    found = [(shared, str(place.host), place.port) for place in places]
    host = str(places[0].host) if places else settings.host
    for own in each_of(settings):
        node = _ADDRESS.fullmatch(own.node_listen or "")
        if node is not None:
            found.append(("node-listen", node[1].strip("[]"), int(node[2])))
            found.append(("msrp-node-port", node[1].strip("[]"), own.msrp_node_port or 0))
        found.append(("msrp-peer-port", host, own.msrp_peer_port or 0))
        found.append(("ctl-http", "127.0.0.1", own.ctl_http or 0))
    return found


def _overlap(one: str, other: str) -> bool:
    """Return whether a port at one host is also a port at the other."""
    hosts = {"127.0.0.1" if host == "localhost" else host for host in (one, other)}
    same_family = len({":" in host for host in hosts}) == 1
    return same_family and (len(hosts) == 1 or not hosts.isdisjoint(WILDCARDS))


def check_processes(settings: Settings) -> None:
    """Check that the settings make sense for several processes.

    Args:
        settings: The settings of all processes.

    Raises:
        SettingsError: They do not.
    """
    count = settings.processes
    if count == 1:
        return
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError("--processes: this system cannot share a port between processes")
    shared = settings.store is not None
    if SIP in settings.subprotocol and not settings.upstream and not shared:
        raise SettingsError(
            "--processes: SIP users of one process could not call those of another: share their "
            "registrations with --store, or name the others with --subprotocol msrp or none"
        )
    relay = settings.msrp_users is not None or "msrp" in places_of(settings)
    if relay and not (shared and settings.msrp_node_port is not None):
        raise SettingsError(
            "--processes: MSRP sessions of one process could not reach those of another: join the "
            "processes with --store and --msrp-node-port"
        )
    last = Process(count - 1, count).own(settings)
    for name in (*_PORTS, *_ADDRESSES):
        value = getattr(last, name)
        match = _ADDRESS.fullmatch(str(value or ""))
        port = int(match[2]) if match is not None else value
        if isinstance(port, int) and port > _MAX_PORT:
            raise SettingsError(
                f"--{option_name(name)}: process {count - 1} would have port {port}, above "
                f"{_MAX_PORT}"
            )


class ParentNotifier(Notifier):
    """Notifies the parent of a process, in place of systemd.

    Args:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        super().__init__({})
        self.watchdog = process.watchdog
        self._channel = socket.socket(fileno=process.channel)
        self._channel.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor of the channel; it ends with the parent."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def gone(self) -> bool:
        """Return whether the parent has ended; call it when the channel can be read."""
        try:
            return self._channel.recv(1024) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def tell(self, event: str, **values: object) -> None:
        """Tell the parent something.

        Args:
            event: What happened.
            values: More about it.
        """
        line = json.dumps({"event": event, **values}) + "\n"
        try:
            self._channel.send(line.encode("ascii"))
        except OSError:
            # The end of the parent is noticed elsewhere; one that is stuck must not stop us.
            return

    def ready(self, status: str) -> None:
        """Tell that clients can connect, or that reloading is complete."""
        self.tell("ready")

    def reloading(self) -> None:
        """Do nothing: the parent has asked for it."""

    def not_reloaded(self) -> None:
        """Tell that nothing was reloaded."""
        self.tell("failed")

    def stopping(self, seconds: float, status: str) -> None:
        """Do nothing: the parent has asked for it, or sees the end."""

    def alive(self) -> None:
        """Tell that the event loop is not stuck."""
        self.tell("alive")

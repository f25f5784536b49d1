"""The management commands: what can be asked, what is answered, and what can go wrong.

Theory of operation: a codec turns octets into a name and parameters, :func:`parse_command` turns
these into a command, whoever owns the connections executes it and returns a result or raises
:class:`CommandError`, and the codec turns that into octets again. Names, codes and texts are those
of Kamailio's ``websocket`` module; what it does not have (filters, pages, ``ws.connect``,
``ws.statistics``) is named in its manner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..frame_protocol import MAX_REASON_OCTETS, is_close_code

__all__ = [
    "COMMAND_NAMES",
    "DEFAULT_PAGE",
    "MAX_PAGE",
    "CloseCommand",
    "Command",
    "CommandError",
    "ConnectCommand",
    "ConnectResult",
    "ConnectionInfo",
    "DisableCommand",
    "DisplayState",
    "DumpCommand",
    "DumpFilter",
    "DumpOrder",
    "DumpResult",
    "EmptyResult",
    "EnableCommand",
    "Fault",
    "PingCommand",
    "PongCommand",
    "Result",
    "StatisticsCommand",
    "StatisticsResult",
    "format_connection",
    "parse_command",
]

#: How many connections a dump shows unless told otherwise, and at most.
DEFAULT_PAGE = 50
MAX_PAGE = 100

_NUMBER = re.compile(r"[0-9]{1,18}")
_OPTION = re.compile(r"([a-z_]{1,20})=(.*)", re.DOTALL)
_PRINTABLE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]*")
_TARGET = re.compile(r"(?i:wss?)://[!-~]+")
_UNSAFE = re.compile(r"[^!-~]")


class Fault(Enum):
    """What can go wrong with a command, as code and text.

    Clients of the module know the first five; the others are ours.
    """

    BAD_ORDER = (400, "Bad display order parameter")
    INVALID_PARAMETERS = (500, "Invalid Parameters")
    UNKNOWN_CONNECTION = (500, "Unknown connection ID")
    SENDING_FAILED = (500, "Error sending frame")
    CLOSING_FAILED = (500, "Error closing connection")
    CONNECTING_FAILED = (500, "Error connecting")
    UNKNOWN_COMMAND = (500, "Unknown command")
    DISABLED = (503, "WebSockets are disabled")

    @property
    def code(self) -> int:
        """The number."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The words."""
        return self.value[1]


class CommandError(Exception):
    """A command was not executed.

    Args:
        fault: What went wrong.
        detail: What exactly, for people; it never changes code or text.
    """

    def __init__(self, fault: Fault, detail: str = "") -> None:
        self.fault = fault
        self.detail = detail
        super().__init__(f"{fault.code} {fault.text}" + (f": {detail}" if detail else ""))

    @property
    def code(self) -> int:
        """The fault's number."""
        return self.fault.code

    @property
    def text(self) -> str:
        """The fault's words."""
        return self.fault.text


class DumpOrder(Enum):
    """In which order connections are shown."""

    #: By their ids.
    ID_HASH = "id_hash"
    #: The one that has been idle longest first.
    USED_DESC = "used_desc"
    #: The most recently used first.
    USED_ASC = "used_asc"


class DisplayState(Enum):
    """The states a dump tells apart."""

    CONNECTING = "CONNECTING"
    OPEN = "OPEN"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class DumpFilter:
    """Which connections to show; ``None`` does not restrict.

    Args:
        sub_protocol: The sub-protocol.
        address: The peer's address.
        identity: The name of the identity.
        state: The state.
        after: An id; those above it. Whoever goes through all pages in the order of ids, from the
            last id of one to the next, sees everybody who stays once, whoever comes and goes.
    """

    sub_protocol: str | None = None
    address: str | None = None
    identity: str | None = None
    state: DisplayState | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """``ws.dump``: show connections.

    Args:
        order: In which order.
        offset: How many to pass over.
        limit: How many to show at most, 1 to ``MAX_PAGE``.
        filter: Which ones.
    """

    order: DumpOrder = DumpOrder.ID_HASH
    offset: int = 0
    limit: int = DEFAULT_PAGE
    filter: DumpFilter = DumpFilter()


@dataclass(frozen=True, slots=True)
class CloseCommand:
    """``ws.close``: start the closing handshake.

    Args:
        id: The connection.
        code: The status code, one that may be sent.
        reason: Text of at most 123 octets.
    """

    id: int
    code: int = 1000
    reason: str = "Normal closure"


@dataclass(frozen=True, slots=True)
class PingCommand:
    """``ws.ping``: send a Ping.

    Args:
        id: The connection.
    """

    id: int


@dataclass(frozen=True, slots=True)
class PongCommand:
    """``ws.pong``: send an unsolicited Pong (RFC 6455 §5.5.3).

    Args:
        id: The connection.
    """

    id: int


@dataclass(frozen=True, slots=True)
class DisableCommand:
    """``ws.disable``: answer new handshakes with 503; open connections stay."""


@dataclass(frozen=True, slots=True)
class EnableCommand:
    """``ws.enable``: accept new handshakes again."""


@dataclass(frozen=True, slots=True)
class ConnectCommand:
    """``ws.connect``: open a connection as a client.

    Args:
        target: A ``ws`` or ``wss`` URI.
        sub_protocol: The sub-protocol to propose; ``None`` for none.
    """

    target: str
    sub_protocol: str | None = None


@dataclass(frozen=True, slots=True)
class StatisticsCommand:
    """``ws.statistics``: read the counters.

    Args:
        names: Which ones; empty for all.
    """

    names: tuple[str, ...] = ()


Command = (
    DumpCommand
    | CloseCommand
    | PingCommand
    | PongCommand
    | DisableCommand
    | EnableCommand
    | ConnectCommand
    | StatisticsCommand
)


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """What a dump shows of a connection.

    Args:
        id: The connection's id.
        peer_address: The peer's address.
        peer_port: The peer's port.
        local_address: Our address.
        local_port: Our port.
        secure: Whether it is ``wss``.
        state: The state.
        awaiting_pong: Whether a Ping is out.
        idle: Seconds since it was used.
        sub_protocol: The sub-protocol.
        identity: The name of the identity.
    """

    id: int
    peer_address: str
    peer_port: int | None
    local_address: str
    local_port: int | None
    secure: bool = False
    state: DisplayState = DisplayState.OPEN
    awaiting_pong: bool = False
    idle: float = 0.0
    sub_protocol: str | None = None
    identity: str | None = None


def _address(secure: bool, address: str, port: int | None) -> str:
    host = _UNSAFE.sub("?", address) or "unknown"
    if ":" in host:
        host = f"[{host}]"
    return f"{'wss' if secure else 'ws'}:{host}:{port or 0}"


def format_connection(info: ConnectionInfo) -> str:
    """One line of a dump, as the module writes it; safe to print whatever the addresses hold."""
    peer = _address(info.secure, info.peer_address, info.peer_port)
    local = _address(info.secure, info.local_address, info.local_port)
    awaiting = ", awaiting Pong" if info.awaiting_pong else ""
    protocol = _UNSAFE.sub("?", info.sub_protocol or "none")
    return (
        f"{info.id}: {peer} -> {local} (state: {info.state.value}{awaiting}, "
        f" last used {max(0, int(info.idle))}s ago, sub-protocol: {protocol})"
    )


@dataclass(frozen=True, slots=True)
class EmptyResult:
    """Done; there is nothing to tell."""

    def to_json(self) -> dict[str, object]:
        """The result as JSON shows it."""
        return {}

    def to_lines(self) -> list[str]:
        """The result as text shows it."""
        return []


@dataclass(frozen=True, slots=True)
class DumpResult:
    """The connections a dump shows.

    Args:
        connections: One page of them.
        next_offset: Where the next page starts; ``None`` if this is the last.
    """

    connections: tuple[ConnectionInfo, ...]
    next_offset: int | None = None

    def to_json(self) -> dict[str, object]:
        """The result as JSON shows it: the module's form, and ``next`` where there is more."""
        info: dict[str, object] = {
            "wscounter": len(self.connections),
            "truncated": "no" if self.next_offset is None else "yes",
        }
        if self.next_offset is not None:
            info["next"] = self.next_offset
        lines = [format_connection(connection) for connection in self.connections]
        return {"connections": lines, "info": info}

    def to_lines(self) -> list[str]:
        """The result as text shows it."""
        lines = [format_connection(connection) for connection in self.connections]
        lines.append(f"wscounter: {len(lines)}")
        if self.next_offset is None:
            return [*lines, "truncated: no"]
        return [*lines, "truncated: yes", f"next: {self.next_offset}"]


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """A connection is being opened.

    Args:
        id: Its id.
    """

    id: int

    def to_json(self) -> dict[str, object]:
        """The result as JSON shows it."""
        return {"id": self.id}

    def to_lines(self) -> list[str]:
        """The result as text shows it."""
        return [f"id: {self.id}"]


@dataclass(frozen=True, slots=True)
class StatisticsResult:
    """Counters.

    Args:
        values: The numbers by name, in the order to show them.
    """

    values: Mapping[str, int | float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The result as JSON shows it."""
        return dict(self.values)

    def to_lines(self) -> list[str]:
        """The result as text shows it."""
        return [f"{name}: {value}" for name, value in self.values.items()]


Result = EmptyResult | DumpResult | ConnectResult | StatisticsResult


def _invalid(detail: str) -> CommandError:
    return CommandError(Fault.INVALID_PARAMETERS, detail)


class _Parameters:
    """A command's parameters by name, taken out one by one."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
            raise _invalid(f"{name} is not printable text")
        return value

    def number(self, name: str) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
            raise _invalid(f"{name} is not a number")
        return value

    def id(self) -> int:
        number = self.number("id")
        if number is None:
            raise _invalid("no id")
        return number


def _dump(parameters: _Parameters) -> Command:
    try:
        order = DumpOrder((parameters.text("order") or "id_hash").lower())
    except (CommandError, ValueError):
        raise CommandError(Fault.BAD_ORDER) from None
    limit = parameters.number("limit")
    if limit is None:
        limit = DEFAULT_PAGE
    if not 1 <= limit <= MAX_PAGE:
        raise _invalid(f"limit {limit} is not 1 to {MAX_PAGE}")
    state = parameters.text("state")
    if state is not None:
        # Not all that turns into ASCII in upper case was ASCII before.
        state = state.upper() if state.isascii() else state
    if state is not None and state not in DisplayState.__members__:
        raise _invalid(f"state is none of {', '.join(DisplayState.__members__)}")
    return DumpCommand(
        order=order,
        offset=parameters.number("offset") or 0,
        limit=limit,
        filter=DumpFilter(
            sub_protocol=parameters.text("sub_protocol"),
            address=parameters.text("address"),
            identity=parameters.text("identity"),
            state=None if state is None else DisplayState[state],
            after=parameters.number("after"),
        ),
    )


def _close(parameters: _Parameters) -> Command:
    default = CloseCommand(parameters.id())
    code, reason = parameters.number("code"), parameters.text("reason")
    if code is None:
        code = default.code
    if not is_close_code(code):
        raise _invalid(f"code {code} may not be sent")
    if reason is None:
        # "Normal closure" is the text of 1000 only.
        reason = default.reason if code == default.code else ""
    if len(reason.encode("utf-8")) > MAX_REASON_OCTETS:
        raise _invalid(f"reason has more than {MAX_REASON_OCTETS} octets")
    return CloseCommand(default.id, code, reason)


def _connect(parameters: _Parameters) -> Command:
    target = parameters.text("target")
    if target is None or len(target) > 1024 or not _TARGET.fullmatch(target):
        raise _invalid("target is not a ws or wss URI of at most 1024 octets")
    return ConnectCommand(target, parameters.text("sub_protocol"))


@dataclass(frozen=True, slots=True)
class _Form:
    """How a command is written.

    Args:
        build: Makes the command out of its parameters.
        positional: The names of parameters given by position.
        options: The names of parameters that may also be given as ``name=value``.
    """

    build: Callable[[_Parameters], Command]
    positional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


_DUMP_OPTIONS = (
    *("order", "offset", "limit", "after"),
    *("sub_protocol", "address", "identity", "state"),
)
_FORMS = {
    "ws.dump": _Form(_dump, ("order", "offset", "limit"), _DUMP_OPTIONS),
    "ws.close": _Form(_close, ("id", "code", "reason")),
    "ws.ping": _Form(lambda parameters: PingCommand(parameters.id()), ("id",)),
    "ws.pong": _Form(lambda parameters: PongCommand(parameters.id()), ("id",)),
    "ws.disable": _Form(lambda parameters: DisableCommand()),
    "ws.enable": _Form(lambda parameters: EnableCommand()),
    "ws.connect": _Form(_connect, ("target", "sub_protocol")),
}

#: The commands' names.
COMMAND_NAMES = (*_FORMS, "ws.statistics")


def parse_command(name: str, params: Sequence[object] | Mapping[str, object] = ()) -> Command:
    """Make a command out of its name and parameters.

    Args:
        name: The name, ``ws.dump``.
        params: The parameters by position or by name. Numbers may be given as text. Those of
            ``ws.dump`` may also be given as ``name=value`` at any position.

    Returns:
        The command, its parameters checked.

    Raises:
        CommandError: There is no such command, a parameter is missing or surplus, or has a value
            it cannot have.
    """
    if name == "ws.statistics":
        return _statistics(params)
    form = _FORMS.get(name)
    if form is None:
        raise CommandError(Fault.UNKNOWN_COMMAND)
    known = form.options or form.positional
    values: dict[str, object] = {}
    if isinstance(params, Mapping):
        values.update(params)
        surplus = [key for key in values if key not in known]
        if surplus:
            raise _invalid(f"unknown parameter {str(surplus[0])[:40]!r}")
    else:
        positional = iter(form.positional)
        for value in params:
            match = _OPTION.fullmatch(value) if isinstance(value, str) else None
            if match is not None and match[1] in form.options:
                key, value = match.groups()
            else:
                key = next(positional, "")
            if not key:
                raise _invalid("too many parameters")
            if key in values:
                raise _invalid(f"{key} is given twice")
            values[key] = value
    return form.build(_Parameters(values))


def _statistics(params: Sequence[object] | Mapping[str, object]) -> Command:
    if isinstance(params, Mapping):
        if not params:
            return StatisticsCommand()
        raise _invalid("names are given by position")
    names: list[str] = []
    for name in params:
        if not isinstance(name, str) or not _PRINTABLE.fullmatch(name):
            raise _invalid("a name is not printable text")
        names.append(name)
    return StatisticsCommand(tuple(names))

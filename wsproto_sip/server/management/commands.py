"""The management commands, their results and their errors.

Theory of operation. A codec turns bytes into a name and parameters, a :class:`CommandTable` turns
these into a command, the endpoint executes it and returns a result or raises :class:`CommandError`,
and the codec turns that into bytes again. Each endpoint has a table, to which applications may add
commands. Names, codes and texts are those of Kamailio's ``websocket`` module and of Kamailio itself
(``core``, ``system``, ``stats``, ``cnt``, ``cfg``); additions (filters, pages, ``ws.connect``,
``ws.statistics``, ``core.help``, ``drain``) are named in the same style.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ... import __version__
from ...errors import WsprotoSipError
from ...frame_protocol import MAX_REASON_BYTES, is_close_code
from ...uri import WebSocketURI

__all__ = [
    "COMMAND_NAMES",
    "DEFAULT_PAGE",
    "MAX_DRAIN",
    "MAX_PAGE",
    "ApplicationCommand",
    "ApplicationFault",
    "CloseCommand",
    "Command",
    "CommandError",
    "CommandTable",
    "ConnectCommand",
    "ConnectResult",
    "ConnectionInfo",
    "DisableCommand",
    "DisplayState",
    "DrainCommand",
    "DumpCommand",
    "DumpFilter",
    "DumpOrder",
    "DumpResult",
    "EmptyResult",
    "EnableCommand",
    "Execute",
    "FactsResult",
    "Fault",
    "GetSettingCommand",
    "GetStatisticsCommand",
    "GroupStatisticsCommand",
    "HelpCommand",
    "ListMethodsCommand",
    "ListResult",
    "Parameters",
    "Params",
    "PingCommand",
    "PongCommand",
    "ResetStatisticsCommand",
    "Result",
    "SetSettingCommand",
    "StatisticsCommand",
    "TreeResult",
    "UptimeCommand",
    "ValueResult",
    "VersionCommand",
    "format_connection",
    "parse_command",
]

#: How many connections a dump shows by default, and at most.
DEFAULT_PAGE = 50
MAX_PAGE = 100

#: The longest time for draining, in seconds.
MAX_DRAIN = 86_400

_NUMBER = re.compile(r"[0-9]{1,18}")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,31}(?:\.[a-zA-Z][a-zA-Z0-9_]{0,31})?")
_OPTION = re.compile(r"([a-z_]{1,20})=(.*)", re.DOTALL)
_PRINTABLE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]*")
#: The longest URI to connect to, in characters.
_MAX_URI = 1024
_UNSAFE = re.compile(r"[^!-~]")


class Fault(Enum):
    """The errors of commands, as code and text.

    The first five are the module's, the others with 400 are Kamailio's, and the rest are ours.
    """

    BAD_ORDER = (400, "Bad display order parameter")
    INVALID_PARAMETERS = (500, "Invalid Parameters")
    UNKNOWN_CONNECTION = (500, "Unknown connection ID")
    SENDING_FAILED = (500, "Error sending frame")
    CLOSING_FAILED = (500, "Error closing connection")
    CONNECTING_FAILED = (500, "Error connecting")
    NO_STATISTICS_NAMED = (400, "Please provide which stats to retrieve")
    NO_STATISTIC_NAMED = (400, "Please provide stats name")
    GETTING_FAILED = (400, "Failed to get the variable")
    SETTING_FAILED = (400, "Failed to set the variable")
    HELP_NOT_FOUND = (400, "command not found")
    UNKNOWN_COMMAND = (500, "Unknown command")
    DISABLED = (503, "WebSockets are disabled")

    @property
    def code(self) -> int:
        """The code."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The text."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class ApplicationFault:
    """An error of a command that an application has added.

    Args:
        code: The code, of three digits.
        text: The text.
    """

    code: int
    text: str


class CommandError(WsprotoSipError):
    """A command was not executed.

    Args:
        fault: The error.
        detail: More about it, for people; it never changes code or text.
    """

    def __init__(self, fault: Fault | ApplicationFault, detail: str = "") -> None:
        self.fault = fault
        self.detail = detail
        super().__init__(f"{fault.code} {fault.text}" + (f": {detail}" if detail else ""))

    @property
    def code(self) -> int:
        """The fault's code."""
        return self.fault.code

    @property
    def text(self) -> str:
        """The fault's text."""
        return self.fault.text


class DumpOrder(Enum):
    """The order in which connections are shown."""

    #: By their ids.
    ID_HASH = "id_hash"
    #: The longest idle one first.
    USED_DESC = "used_desc"
    #: The most recently used first.
    USED_ASC = "used_asc"


class DisplayState(Enum):
    """The states that a dump distinguishes."""

    CONNECTING = "CONNECTING"
    OPEN = "OPEN"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class DumpFilter:
    """The connections to show; ``None`` does not restrict.

    Args:
        subprotocol: The sub-protocol.
        address: The peer's address.
        identity: The name of the identity.
        state: The state.
        after: An id; shows connections above it. To go through all pages in the order of ids, give
            the last id of a page for the next one: then every connection that stays open is seen
            exactly once, even if others come and go.
    """

    subprotocol: str | None = None
    address: str | None = None
    identity: str | None = None
    state: DisplayState | None = None
    after: int | None = None


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """``ws.dump``: show connections.

    Args:
        order: The order.
        offset: How many to skip.
        limit: The maximum number to show, 1 to ``MAX_PAGE``.
        filter: The connections to show.
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
        reason: Text of at most 123 bytes in UTF-8.
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
    """``ws.enable``: accept new handshakes again; an error after :class:`DrainCommand`."""


@dataclass(frozen=True, slots=True)
class ConnectCommand:
    """``ws.connect``: open a connection as a client.

    Args:
        target: A ``ws`` or ``wss`` URI.
        subprotocol: The sub-protocol to offer; ``None`` for none.
    """

    target: str
    subprotocol: str | None = None


@dataclass(frozen=True, slots=True)
class StatisticsCommand:
    """``ws.statistics``: read the counters.

    Args:
        names: The counters; empty for all.
    """

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainCommand:
    """``drain``: refuse new handshakes, and close all connections with 1001.

    Args:
        seconds: The time over which to spread closing them.
    """

    seconds: int = 5


@dataclass(frozen=True, slots=True)
class VersionCommand:
    """``core.version``: show the name and version of the server."""


@dataclass(frozen=True, slots=True)
class UptimeCommand:
    """``core.uptime``: show how long the server has been running."""


@dataclass(frozen=True, slots=True)
class HelpCommand:
    """``core.help`` and ``system.methodHelp``: explain commands.

    Args:
        name: The command; ``None`` for all.
    """

    name: str | None = None


@dataclass(frozen=True, slots=True)
class ListMethodsCommand:
    """``system.listMethods``: list the names of the commands."""


@dataclass(frozen=True, slots=True)
class GetStatisticsCommand:
    """``stats.get_statistics``: read counters as Kamailio shows them, ``GROUP:NAME = VALUE``.

    Args:
        names: Names, groups with a colon (``websocket:``), or ``all``. Unknown ones are ignored.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResetStatisticsCommand:
    """``stats.reset_statistics``: reset counters to zero.

    Args:
        names: See :class:`GetStatisticsCommand`. The number of connections is not reset.
    """

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupStatisticsCommand:
    """``cnt.grp_get_all``: read the counters of a group by name.

    Args:
        group: The group; an unknown one has no counters.
    """

    group: str


@dataclass(frozen=True, slots=True)
class GetSettingCommand:
    """``cfg.get``: read parameters that may be changed at run time.

    Args:
        group: ``websocket``.
        name: The parameter; ``None`` for all of the group.
    """

    group: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class SetSettingCommand:
    """``cfg.seti``: change a parameter at run time.

    Args:
        group: ``websocket``.
        name: The parameter.
        value: Its new value.
    """

    group: str
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class ApplicationCommand:
    """A command that an application has added.

    Args:
        name: Its name.
        execute: Executes it; takes the time, and raises :class:`CommandError` like the endpoint.
    """

    name: str
    execute: Callable[[float], Result]


Command = (
    ApplicationCommand
    | DumpCommand
    | CloseCommand
    | PingCommand
    | PongCommand
    | DisableCommand
    | EnableCommand
    | ConnectCommand
    | StatisticsCommand
    | DrainCommand
    | VersionCommand
    | UptimeCommand
    | HelpCommand
    | ListMethodsCommand
    | GetStatisticsCommand
    | ResetStatisticsCommand
    | GroupStatisticsCommand
    | GetSettingCommand
    | SetSettingCommand
)


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """The information about a connection in a dump.

    Args:
        id: The connection's id.
        peer_address: The peer's address.
        peer_port: The peer's port.
        local_address: Our address.
        local_port: Our port.
        secure: Whether it is ``wss``.
        state: The state.
        awaiting_pong: Whether a Ping has not been answered.
        idle: Seconds since it was last used.
        subprotocol: The sub-protocol.
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
    subprotocol: str | None = None
    identity: str | None = None


def _address(secure: bool, address: str, port: int | None) -> str:
    host = _UNSAFE.sub("?", address) or "unknown"
    if ":" in host:
        host = f"[{host}]"
    return f"{'wss' if secure else 'ws'}:{host}:{port or 0}"


def format_connection(info: ConnectionInfo) -> str:
    """Format a connection as one line, safe to print whatever its addresses and names contain.

    The format is the module's, followed by the identity, if the connection has one.
    """
    peer = _address(info.secure, info.peer_address, info.peer_port)
    local = _address(info.secure, info.local_address, info.local_port)
    awaiting = ", awaiting Pong" if info.awaiting_pong else ""
    protocol = _UNSAFE.sub("?", info.subprotocol or "none")
    identity = f", identity: {_UNSAFE.sub('?', info.identity)}" if info.identity else ""
    return (
        f"{info.id}: {peer} -> {local} (state: {info.state.value}{awaiting}, "
        f" last used {max(0, int(info.idle))}s ago, sub-protocol: {protocol}{identity})"
    )


@dataclass(frozen=True, slots=True)
class EmptyResult:
    """The command was executed; it has no other result."""

    def to_json(self) -> dict[str, object]:
        """Return the result as JSON."""
        return {}

    def to_lines(self) -> list[str]:
        """Return the result as text."""
        return []


@dataclass(frozen=True, slots=True)
class DumpResult:
    """The connections in a dump.

    Args:
        connections: One page of them.
        next_offset: Where the next page starts; ``None`` on the last page.
    """

    connections: tuple[ConnectionInfo, ...]
    next_offset: int | None = None

    def to_json(self) -> dict[str, object]:
        """Return the result as JSON, in the module's form, with ``next`` if more follow."""
        info: dict[str, object] = {
            "wscounter": len(self.connections),
            "truncated": "no" if self.next_offset is None else "yes",
        }
        if self.next_offset is not None:
            info["next"] = self.next_offset
        lines = [format_connection(connection) for connection in self.connections]
        return {"connections": lines, "info": info}

    def to_lines(self) -> list[str]:
        """Return the result as text."""
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
        """Return the result as JSON."""
        return {"id": self.id}

    def to_lines(self) -> list[str]:
        """Return the result as text."""
        return [f"id: {self.id}"]


@dataclass(frozen=True, slots=True)
class FactsResult:
    """Values by name.

    Args:
        values: The values, in the order to show them.
    """

    values: Mapping[str, int | float | str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the result as JSON."""
        return dict(self.values)

    def to_lines(self) -> list[str]:
        """Return the result as text."""
        return [f"{name}: {value}" for name, value in self.values.items()]


@dataclass(frozen=True, slots=True)
class ValueResult:
    """One value, a number or a text.

    Args:
        value: The value.
    """

    value: int | float | str

    def to_json(self) -> object:
        """Return the result as JSON."""
        return self.value

    def to_lines(self) -> list[str]:
        """Return the result as text."""
        return [str(self.value)]


@dataclass(frozen=True, slots=True)
class ListResult:
    """A list of texts.

    Args:
        items: The texts, in the order to show them.
    """

    items: tuple[str, ...] = ()

    def to_json(self) -> object:
        """Return the result as JSON."""
        return list(self.items)

    def to_lines(self) -> list[str]:
        """Return the result as text."""
        return list(self.items)


@dataclass(frozen=True, slots=True)
class TreeResult:
    """Nested values.

    Args:
        value: Dictionaries, lists, numbers and texts, as in JSON.
    """

    value: object

    def to_json(self) -> object:
        """Return the result as JSON."""
        return self.value

    def to_lines(self) -> list[str]:
        """Return the result as text: a line of JSON."""
        return [json.dumps(self.value, separators=(",", ":"), allow_nan=False)]


Result = (
    EmptyResult | DumpResult | ConnectResult | FactsResult | ValueResult | ListResult | TreeResult
)

#: The parameters of a command, by position or by name.
Params = Sequence[object] | Mapping[str, object]

#: Executes a command, given its name and parameters; raises :class:`CommandError`.
Execute = Callable[[str, Params], Result]


def _invalid(detail: str) -> CommandError:
    return CommandError(Fault.INVALID_PARAMETERS, detail)


class Parameters:
    """A command's parameters by name, to be taken one by one.

    Args:
        values: The given values.
    """

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """Take a text; return ``None`` if it is missing.

        Raises:
            CommandError: The value is not printable text.
        """
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
            raise _invalid(f"{name} is not printable text")
        return value

    def number(self, name: str) -> int | None:
        """Take an integer, which may be given as text; return ``None`` if it is missing.

        Raises:
            CommandError: The value is not an integer of 0 or more.
        """
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
            raise _invalid(f"{name} is not a number")
        return value

    def required(self, name: str) -> str:
        """Take a required text.

        Raises:
            CommandError: The value is missing, or not printable text.
        """
        value = self.text(name)
        if value is None:
            raise _invalid(f"{name} is missing")
        return value

    def id(self) -> int:
        """Take the required id of a connection.

        Raises:
            CommandError: The id is missing, or not a number.
        """
        number = self.number("id")
        if number is None:
            raise _invalid("id is missing")
        return number

    def page(self, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> tuple[int, int]:
        """Take ``offset`` and ``limit``: how many to skip, and how many to show.

        Args:
            default: The limit if it is missing.
            most: The highest limit.

        Raises:
            CommandError: A value is not a number, or the limit is out of range.
        """
        limit = self.number("limit")
        if limit is None:
            limit = default
        if not 1 <= limit <= most:
            raise _invalid(f"limit {limit} must be 1 to {most}")
        return self.number("offset") or 0, limit


def _dump(parameters: Parameters) -> Command:
    try:
        order = DumpOrder((parameters.text("order") or "id_hash").lower())
    except (CommandError, ValueError):
        raise CommandError(Fault.BAD_ORDER) from None
    offset, limit = parameters.page()
    state = parameters.text("state")
    if state is not None:
        # Some characters outside ASCII have ASCII upper case.
        state = state.upper() if state.isascii() else state
    if state is not None and state not in DisplayState.__members__:
        raise _invalid(f"state must be one of {', '.join(DisplayState.__members__)}")
    return DumpCommand(
        order=order,
        offset=offset,
        limit=limit,
        filter=DumpFilter(
            subprotocol=parameters.text("subprotocol"),
            address=parameters.text("address"),
            identity=parameters.text("identity"),
            state=None if state is None else DisplayState[state],
            after=parameters.number("after"),
        ),
    )


def _close(parameters: Parameters) -> Command:
    default = CloseCommand(parameters.id())
    code, reason = parameters.number("code"), parameters.text("reason")
    if code is None:
        code = default.code
    if not is_close_code(code):
        raise _invalid(f"code {code} may not be sent")
    if reason is None:
        # "Normal closure" is the text of 1000 only.
        reason = default.reason if code == default.code else ""
    if len(reason.encode("utf-8")) > MAX_REASON_BYTES:
        raise _invalid(f"reason is longer than {MAX_REASON_BYTES} bytes")
    return CloseCommand(default.id, code, reason)


def _connect(parameters: Parameters) -> Command:
    target = parameters.text("target")
    if target is None or len(target) > _MAX_URI:
        raise _invalid(f"target must be a URI of at most {_MAX_URI} characters")
    try:
        WebSocketURI.parse(target)
    except ValueError as exc:
        raise _invalid(f"target: {exc}") from None
    return ConnectCommand(target, parameters.text("subprotocol"))


def _drain(parameters: Parameters) -> Command:
    seconds = parameters.number("seconds")
    if seconds is None:
        return DrainCommand()
    if seconds > MAX_DRAIN:
        raise _invalid(f"seconds {seconds} must be 0 to {MAX_DRAIN}")
    return DrainCommand(seconds)


def _set_setting(parameters: Parameters) -> Command:
    value = parameters.number("value")
    if value is None:
        raise _invalid("value is missing")
    return SetSettingCommand(parameters.required("group"), parameters.required("name"), value)


@dataclass(frozen=True, slots=True)
class _Form:
    """The syntax of a command.

    Args:
        help: What it does, in one line.
        build: Makes the command from its parameters.
        positional: The names of positional parameters.
        options: The names of parameters that may also be given as ``name=value``.
    """

    help: str
    build: Callable[[Parameters], Command]
    positional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _NamesForm:
    """The syntax of a command whose parameters are any number of positional names.

    Args:
        help: What it does, in one line.
        build: Makes the command from the names.
        missing: The error if there are none; ``None`` if that is allowed.
    """

    help: str
    build: Callable[[tuple[str, ...]], Command]
    missing: Fault | None = None


_DUMP_OPTIONS = (
    *("order", "offset", "limit", "after"),
    *("subprotocol", "address", "identity", "state"),
)
_FORMS: dict[str, _Form | _NamesForm] = {
    "ws.dump": _Form(
        "Show connections, 50 by default: [ORDER] [NAME=VALUE ...]",
        _dump,
        ("order", "offset", "limit"),
        _DUMP_OPTIONS,
    ),
    "ws.close": _Form(
        "Start the closing handshake, or end a closing connection: ID [CODE [REASON]]",
        _close,
        ("id", "code", "reason"),
    ),
    "ws.ping": _Form("Send a Ping: ID", lambda parameters: PingCommand(parameters.id()), ("id",)),
    "ws.pong": _Form(
        "Send an unsolicited Pong: ID", lambda parameters: PongCommand(parameters.id()), ("id",)
    ),
    "ws.disable": _Form(
        "Answer new handshakes with 503; open connections stay",
        lambda parameters: DisableCommand(),
    ),
    "ws.enable": _Form("Accept new handshakes again", lambda parameters: EnableCommand()),
    "ws.connect": _Form(
        "Open a connection, or find an existing one: URI [SUB-PROTOCOL]",
        _connect,
        ("target", "subprotocol"),
    ),
    "ws.statistics": _NamesForm("Show the counters: [NAME ...]", StatisticsCommand),
    "stats.get_statistics": _NamesForm(
        "Show counters as Kamailio does: all, GROUP: or NAME ...",
        GetStatisticsCommand,
        Fault.NO_STATISTICS_NAMED,
    ),
    "stats.reset_statistics": _NamesForm(
        "Reset counters to zero: all, GROUP: or NAME ...",
        ResetStatisticsCommand,
        Fault.NO_STATISTIC_NAMED,
    ),
    "cnt.grp_get_all": _Form(
        "Show the counters of a group: GROUP",
        lambda parameters: GroupStatisticsCommand(parameters.required("group")),
        ("group",),
    ),
    "cfg.get": _Form(
        "Show parameters that may change at run time: websocket [NAME]",
        lambda parameters: GetSettingCommand(parameters.required("group"), parameters.text("name")),
        ("group", "name"),
    ),
    "cfg.seti": _Form(
        "Change a parameter, also for open connections: websocket NAME NUMBER",
        _set_setting,
        ("group", "name", "value"),
    ),
    "core.version": _Form("Show the server's version", lambda parameters: VersionCommand()),
    "core.uptime": _Form(
        "Show how long the server has been running", lambda parameters: UptimeCommand()
    ),
    "core.help": _Form(
        "Explain the commands, or one: [COMMAND]",
        lambda parameters: HelpCommand(parameters.text("name")),
        ("name",),
    ),
    "system.listMethods": _Form("List the commands", lambda parameters: ListMethodsCommand()),
    "system.methodHelp": _Form(
        "Explain a command: COMMAND",
        lambda parameters: HelpCommand(parameters.required("name")),
        ("name",),
    ),
    "drain": _Form(
        "Refuse new handshakes and close all connections: [SECONDS]",
        _drain,
        ("seconds",),
    ),
}

#: The commands' names.
COMMAND_NAMES = tuple(_FORMS)


class CommandTable:
    """The commands of a server: the endpoint's, and those added by applications."""

    def __init__(self) -> None:
        self._forms = dict(_FORMS)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the commands."""
        return tuple(self._forms)

    def add(
        self,
        name: str,
        help: str,
        execute: Callable[[Parameters, float], Result],
        *,
        positional: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        """Add a command.

        Args:
            name: Its name, ``area.verb``.
            help: What it does and takes, in one line.
            execute: Executes it; takes the parameters and the time, and raises
                :class:`CommandError` if it cannot be executed.
            positional: The names of positional parameters.
            options: The names of parameters that may also be given as ``name=value``.

        Raises:
            ValueError: The name is invalid, or taken.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a command name: {name!r:.80}")
        if name in self._forms:
            raise ValueError(f"command {name} already exists")
        self._forms[name] = _Form(
            help,
            lambda parameters: ApplicationCommand(name, lambda now: execute(parameters, now)),
            positional,
            options,
        )

    def parse(self, name: str, params: Params = ()) -> Command:
        """Make a command from its name and parameters.

        Args:
            name: The name, such as ``ws.dump``.
            params: The parameters by position or by name. Numbers may be given as text. Some
                commands, such as ``ws.dump``, also accept ``name=value`` at any position.

        Returns:
            The command, with validated parameters.

        Raises:
            CommandError: The command is unknown, or a parameter is missing, superfluous or invalid.
        """
        form = self._forms.get(name)
        if form is None:
            raise CommandError(Fault.UNKNOWN_COMMAND)
        if isinstance(form, _NamesForm):
            names = _names(params)
            if not names and form.missing is not None:
                raise CommandError(form.missing)
            return form.build(names)
        return form.build(Parameters(_by_name(form, params)))

    def describe(self, command: VersionCommand | HelpCommand | ListMethodsCommand) -> Result:
        """Answer a command about the server and its commands, which does not need connections.

        Args:
            command: The command.

        Raises:
            CommandError: Help is requested for an unknown command.
        """
        if isinstance(command, VersionCommand):
            return ValueResult(f"wsproto-sip {__version__}")
        if isinstance(command, ListMethodsCommand):
            return ListResult(tuple(sorted(self._forms)))
        if command.name is None:
            return FactsResult({name: form.help for name, form in sorted(self._forms.items())})
        form = self._forms.get(command.name)
        if form is None:
            raise CommandError(Fault.HELP_NOT_FOUND)
        return ValueResult(form.help)

    def executing(self, execute: Callable[[Command], Result]) -> Execute:
        """Return a function that parses names and parameters, and has the command executed.

        Args:
            execute: Executes a command.
        """
        return lambda name, params: execute(self.parse(name, params))


def _by_name(form: _Form, params: Params) -> dict[str, object]:
    """Return all parameters by name, including positional ones."""
    known = {*form.positional, *form.options}
    values: dict[str, object] = {}
    if isinstance(params, Mapping):
        values.update(params)
        surplus = [key for key in values if key not in known]
        if surplus:
            raise _invalid(f"unknown parameter {str(surplus[0])[:40]!r}")
        return values
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
            raise _invalid(f"{key} is repeated")
        values[key] = value
    return values


_OWN = CommandTable()


def parse_command(name: str, params: Params = ()) -> Command:
    """Make one of the endpoint's own commands; see :meth:`CommandTable.parse`.

    Args:
        name: The name, such as ``ws.dump``.
        params: The parameters by position or by name.

    Raises:
        CommandError: See :meth:`CommandTable.parse`.
    """
    return _OWN.parse(name, params)


def _names(params: Params) -> tuple[str, ...]:
    if isinstance(params, Mapping):
        if not params:
            return ()
        raise _invalid("names must be positional")
    names: list[str] = []
    for name in params:
        if not isinstance(name, str) or not _PRINTABLE.fullmatch(name):
            raise _invalid("a name is not printable text")
        names.append(name)
    return tuple(names)

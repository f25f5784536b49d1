"""Tables and drawings for the pages, generated from the objects that the package uses.

Theory of operation: each state is drawn in the column of its distance from the first one, so a new
state or transition needs no change here. The step that every state has (the end) would cross all
others, so it is one dashed line below, which all states join.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from html import escape
from importlib import import_module
from inspect import getdoc, getsource
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests._layers import LAYERS, PACKAGE, module_files, place_of
from wsproto_sip.adapters.process_metrics import process_families
from wsproto_sip.cli._commands import parser_of
from wsproto_sip.cli.serve.settings import Settings
from wsproto_sip.errors import WsprotoSipError
from wsproto_sip.msrp import DigestServer, MsrpRelay, MsrpRelayConfig
from wsproto_sip.msrp.relay.metrics import relay_families
from wsproto_sip.server import Endpoint, EndpointConfig
from wsproto_sip.server.management.prometheus import connection_families
from wsproto_sip.sip import Domains, EdgeConfig, Registrar, RegistrarConfig, SipEdge
from wsproto_sip.sip.edge.metrics import edge_families
from wsproto_sip.sip.edge.transactions import State, Step as SipStep
from wsproto_sip.states import TRANSITIONS, ConnectionState, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Rows = list[list[str]]

#: The picture in README. It is a file, because README is also read without Sphinx.
LAYERS_PICTURE = Path(__file__).with_name("figures") / "layers.svg"

WIDTH, HEIGHT = 150, 34
COLUMN, ROW, EDGE = 330, 100, 20


def transition_rows() -> Rows:
    """Return a table with a row for each state and a column for each step: the next state."""
    steps = list(Step)
    rows = [["", *(step.value for step in steps)]]
    for state in states():
        following = [TRANSITIONS.get((state, step)) for step in steps]
        rows.append([f"`{state.name}`", *(f"`{s.name}`" if s else "" for s in following)])
    return rows


def sip_rows(table: Mapping[tuple[State, SipStep], State]) -> Rows:
    """Return the same table for the states of a SIP transaction or branch."""
    rows = [["", *(step.value for step in SipStep)]]
    for state in State:
        if state in table.values() or any(state is begun for begun, _ in table):
            after = [table.get((state, step)) for step in SipStep]
            rows.append([state.value, *(found.value if found else "" for found in after)])
    return rows


def pipeline_rows(steps: Sequence[Callable[..., object]]) -> Rows:
    """Return a table with a row for each step of a pipeline and its docstring."""
    rows = [["", "step", "what it does"]]
    for number, step in enumerate(steps, 1):
        text = (getdoc(step) or "").partition("\n")[0]
        rows.append([str(number), f"`{step.__name__}`", text.replace("``", "`")])
    return rows


def states() -> list[ConnectionState]:
    """Return the states in the order in which they are reached."""
    return sorted(depths(), key=lambda state: (depths()[state], state.value))


def depths() -> Mapping[ConnectionState, int]:
    """Return the length of the longest path to each state that does not use the end."""
    found = {ConnectionState.CONNECTING: 0}
    for _ in ConnectionState:
        for (state, step), following in TRANSITIONS.items():
            if state in found and step is not Step.END:
                found[following] = max(found.get(following, 0), found[state] + 1)
    return found


def places() -> Mapping[ConnectionState, tuple[int, int]]:
    """Return the centre of each state."""
    columns: dict[int, list[ConnectionState]] = {}
    for state in states():
        columns.setdefault(depths()[state], []).append(state)
    rows = max(map(len, columns.values()))
    return {
        state: (
            EDGE + WIDTH // 2 + column * COLUMN,
            EDGE + HEIGHT // 2 + number * ROW + (rows - len(members)) * ROW // 2,
        )
        for column, members in columns.items()
        for number, state in enumerate(members)
    }


def state_diagram() -> str:
    """Draw the states and their transitions as SVG, in the colours of the page."""
    at = places()
    right = max(x for x, _ in at.values()) + WIDTH // 2 + EDGE
    bus = max(y for _, y in at.values()) + HEIGHT // 2 + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bus + EDGE}" role="img"',
        'style="max-width: 100%; font: 12px sans-serif" fill="currentColor">',
        "<title>The states of a session</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"',
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    labels = []
    ends: dict[int, int] = {}
    for (state, step), following in TRANSITIONS.items():
        (x, y), (to_x, to_y) = at[state], at[following]
        start, end = x + WIDTH // 2, to_x - WIDTH // 2
        if step is not Step.END:
            parts.append(_line(f"M{start} {y}L{end} {to_y}", "arrow"))
            labels += _text((start + end) // 2, (y + to_y) // 2 + 4, step.value.split(", "))
        elif state is not following:
            parts.append(_line(f"M{start} {y + 10}h12", "dashed"))
            ends[start + 12] = min(ends.get(start + 12, bus), y + 10)
    parts += [_line(f"M{x} {y}V{bus}", "dashed") for x, y in ends.items()]
    end_x, end_y = at[ConnectionState.CLOSED]
    way = f"M{min(ends)} {bus}H{end_x}V{end_y + HEIGHT // 2}"
    parts.append(_line(way, "dashed arrow"))
    parts += labels
    parts += _text((min(ends) + end_x) // 2, bus + 4, [Step.END.value])
    for state, (x, y) in at.items():
        parts.append(
            f'<rect x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" '
            'rx="8" fill="none" stroke="currentColor"/>'
        )
        parts += _text(x, y + 4, [state.name])
    return "\n".join([*parts, "</svg>"])


def _line(path: str, kind: str) -> str:
    dashes = ' stroke-dasharray="4 4"' if "dashed" in kind else ""
    tip = ' marker-end="url(#tip)"' if "arrow" in kind else ""
    return f'<path d="{path}" fill="none" stroke="currentColor"{dashes}{tip}/>'


def _text(x: int, y: int, lines: list[str]) -> list[str]:
    first = y - 7 * (len(lines) - 1)
    return [
        f'<text x="{x}" y="{first + 14 * number}" text-anchor="middle" paint-order="stroke" '
        'stroke-width="6" stroke="var(--color-background-primary, white)">'
        f"{escape(line)}</text>"
        for number, line in enumerate(lines)
    ]


#: The path of a message that a server echoes, and of a SIP request from one client to another:
#: the modules in order, and what each does. ``None`` is the point where it turns.
ECHO: tuple[tuple[str, str] | None, ...] = (
    ("adapters.asyncio.connection", "a read of the transport, into one shared buffer"),
    ("session.session", "receive(data, now): notes the sign of life"),
    ("_parser", "header, bounds, unmasking, UTF-8; _deflate if it was compressed"),
    ("events", "TextMessage"),
    ("adapters._driver", "queues it, and wakes the handler that waits in recv()"),
    None,
    ("adapters._driver", "send(message) waits while the transport is full"),
    ("session.session", "send(event, now)"),
    ("frame_protocol", "FrameEncoder writes one frame"),
    ("session.output", "joins it with what waits: data_to_send()"),
    ("adapters.asyncio.connection", "writes to the transport"),
)
SIP_REQUEST: tuple[tuple[str, str] | None, ...] = (
    ("adapters.asyncio.endpoint", "a read of the caller's transport"),
    ("server.endpoint", "receive(cid, data, now), through that connection's session"),
    ("sip.edge.application", "hands the message to the edge, under its connection"),
    ("sip.message.parser", "a SipRequest whose header fields are read when they are wanted"),
    ("sip.edge.pipelines", "from a client: identity, challenge, routes, step by step"),
    ("sip.edge.router", "where to: a binding of the registrar, a flow token, an upstream"),
    ("sip.edge.forwarding", "a branch for each target, under the transaction"),
    None,
    ("sip.edge.outbox", "Via on top; on a stream Content-Length before all else"),
    ("sip.edge.actions", "SendToConnection or SendToUpstream"),
    ("server.endpoint", "send(cid, event, now), through the callee's session"),
    ("adapters.asyncio.endpoint", "writes to the callee's transport"),
)


def layer_rows() -> Rows:
    """Return a table of the layers, with their modules and folders and the purpose of each."""
    firsts: dict[str, str] = {}
    for module, path in module_files().items():
        name = module.removeprefix(PACKAGE).removeprefix(".")
        if place_of(module) == name:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            firsts[name] = docstring.partition("\n")[0].rstrip(".")
    rows = [["layer", "room", "what it is for"]]
    for layer, places in LAYERS.items():
        for place in places:
            shown = place.replace(".", "/") or "__init__"
            rows.append([layer, f"`{shown}`", firsts.get(place, "").replace("``", "`")])
            layer = ""
    return rows


#: The text of README's picture for each layer, from the outside in.
_PICTURE: tuple[tuple[str, str, str], ...] = (
    (
        "the outside world",
        "adapters, cli",
        "sockets, clocks, threads: asyncio, trio, uvicorn, wsproto-sip",
    ),
    ("sub-protocols", "sip, msrp", "registrar and edge (RFC 7118), relay and client (RFC 7977)"),
    ("server", "auth, policy, server", "who may connect, many connections, commands, metrics"),
    ("session", "session", "one connection over time: deadlines, keep-alive, closing"),
    ("protocol", "the root", "handshake, frames, messages, deflate: bytes in, events out"),
)


def layers_diagram() -> str:
    """Draw the layers as SVG with fixed colours, for README."""
    width, step, box = 760, 62, 50
    inner = [layer for layer, _, _ in _PICTURE]
    if set(inner) != set(LAYERS):
        raise ValueError(f"the picture has {inner}, and the list has {list(LAYERS)}")
    bottom = step * len(_PICTURE) + 26
    svg = 'xmlns="http://www.w3.org/2000/svg" role="img" font-family="sans-serif"'
    parts = [
        f'<svg {svg} viewBox="0 0 {width} {bottom}">',
        "<title>The layers of wsproto-sip; only the outermost one does I/O</title>",
        f'<rect width="{width}" height="{bottom}" rx="10" fill="#ffffff"/>',
    ]

    def write(x: int, y: int, text: str, style: str) -> None:
        parts.append(f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>')

    for number, (layer, rooms, text) in enumerate(_PICTURE):
        y = 14 + number * step + (12 if number else 0)
        colours = 'fill="#e8f0fb" stroke="#1f4e8c"' if number else 'fill="#fdf1e3" stroke="#b45f06"'
        place = f'x="14" y="{y}" width="{width - 28}" height="{box}"'
        parts.append(f'<rect {place} rx="8" {colours}/>')
        write(30, y + 22, layer, 'font-size="15" font-weight="bold" fill="#1b1b1b"')
        write(30, y + 40, rooms, 'font-size="12" fill="#444444"')
        write(205, y + 31, text, 'font-size="14" fill="#1b1b1b"')
    line = 14 + step
    dashes = 'stroke="#888888" stroke-dasharray="5 5"'
    parts.append(f'<path d="M14 {line}H{width - 160}" {dashes}/>')
    style = 'font-size="12" text-anchor="end" fill="#555555"'
    write(width - 16, line + 4, "no I/O below this line", style)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def way_diagram(title: str, way: Sequence[tuple[str, str] | None]) -> str:
    """Draw the path of one message as SVG: a box for each module, from top to bottom.

    Args:
        title: The title of the drawing.
        way: The modules and what each does; ``None`` where the message turns.
    """
    step, box = 44, 250
    height = step * len(way) + EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img"',
        'style="max-width: 100%; font: 13px sans-serif" fill="currentColor">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="down" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"',
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for number, room in enumerate(way):
        y = EDGE + number * step
        if number:
            dashes = ' stroke-dasharray="4 4"' if room is None or way[number - 1] is None else ""
            parts.append(
                f'<path d="M{EDGE + box // 2} {y - step + 28}V{y}" fill="none" '
                f'stroke="currentColor"{dashes} marker-end="url(#down)"/>'
            )
        name, text = room or ("the program", "what it makes of it")
        style = 'stroke-dasharray="4 4"' if room is None else ""
        parts += [
            (
                f'<rect x="{EDGE}" y="{y}" width="{box}" height="28" rx="6" fill="none" '
                f'stroke="currentColor" {style}/>'
            ),
            (
                f'<text x="{EDGE + box // 2}" y="{y + 18}" text-anchor="middle">'
                f"{escape(name.replace('.', '/'))}</text>"
            ),
            f'<text x="{EDGE + box + 16}" y="{y + 18}">{escape(text)}</text>',
        ]
    return "\n".join([*parts, "</svg>"])


def error_rows() -> Rows:
    """Return a table of the exceptions, with other base classes and the meaning of each."""
    rows = [["exception", "is also", "raised for"]]
    for kind in _below(WsprotoSipError):
        bases = [base for base in kind.__bases__ if base not in (Exception, WsprotoSipError)]
        text = _in_markdown((getdoc(kind) or "").partition("\n")[0])
        name = f"{{class}}`~{kind.__module__}.{kind.__qualname__}`"
        if any(part.startswith("_") for part in kind.__module__.split(".")):
            name = f"`{kind.__qualname__}`"
        rows.append([name, ", ".join(f"`{base.__name__}`" for base in bases), text])
    return rows


def _below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield all subclasses of a class, each before its own."""
    for module in module_files():
        # The command line is not documented here; the others need optional packages.
        others = ("cli", "adapters.", "__main__", "_kernel", "_compiled")
        if not module.startswith(tuple(f"{PACKAGE}.{name}" for name in others)):
            import_module(module)
    import_module(f"{PACKAGE}.adapters.exceptions")
    for below in sorted(kind.__subclasses__(), key=lambda found: found.__name__):
        if below.__module__.startswith(PACKAGE) and ".cli" not in below.__module__:
            yield below
            yield from _below(below)


def metric_rows() -> Rows:
    """Return a table of the metrics of a server, with the type and the meaning of each."""
    config = EdgeConfig("edge.invalid")
    registrar = Registrar(RegistrarConfig(Domains(("edge.invalid",))))
    relay = MsrpRelay(MsrpRelayConfig("relay.invalid", 443), DigestServer("relay.invalid", {}))
    families = [
        *connection_families(Endpoint(EndpointConfig(), now=0.0).statistics),
        *edge_families(SipEdge(config, registrar=registrar)),
        *relay_families(relay),
        *process_families(),
    ]
    rows = [["metric", "kind", "what it counts"]]
    for family in families:
        rows.append([f"`{family.name}`", family.kind, family.text])
    return rows


def option_groups(command: str) -> list[str]:
    """Return the headings of a command's options, as in its help."""
    return [
        str(group.title)
        for group in parser_of(command)._action_groups
        if group.title != "positional arguments" and group._group_actions
    ]


def option_rows(command: str, title: str) -> Rows:
    """Return the options under a heading of a command's help: how each is written, and its help.

    Args:
        command: The command of the command line.
        title: The heading.
    """
    [group] = [found for found in parser_of(command)._action_groups if found.title == title]
    described = {item.name: item for item in fields(Settings)} if command == "serve" else {}
    rows = []
    for action in group._group_actions:
        if action.dest == "help":
            continue
        value = "" if action.nargs == 0 else f" {action.metavar}"
        if action.nargs == "?":
            value = f" [{action.metavar}]"
        text = str(action.help).replace("%(default)s", str(action.default))
        if "append" in type(action).__name__.lower() and "repeat" not in text:
            text += "; may be repeated"
        setting = described.get(action.dest)
        if setting is not None and isinstance(setting.default, bool):
            text += f" (default: {'on' if setting.default else 'off'})"
        if setting is not None and setting.metadata["restart"]:
            text += " †"
        names = ", ".join(f"{name}{value}" for name in action.option_strings)
        rows.append([names, text])
    return rows


def enum_rows(kind: type[Enum]) -> Rows:
    """Return a table of an enumeration: each member with the comment above it."""
    rows = [["name", "value", "meaning"]]
    comments = re.findall(r"((?:^ +#: .*\n)+) +(\w+) = ", getsource(kind), re.MULTILINE)
    texts = {name: " ".join(re.findall(r"#: (.*)", text)) for text, name in comments}
    for member in kind:
        rows.append([f"`{member.name}`", f"`{member.value}`", _in_markdown(texts[member.name])])
    return rows


def field_rows(kind: type[Any]) -> Rows:
    """Return a table of the fields of a dataclass, with defaults and descriptions."""
    described = arguments(getdoc(kind) or "")
    rows = [["name", "default", "what it is, and what passing it does"]]
    for item in fields(kind):
        if not item.init:
            continue
        default = item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        default = "" if default is MISSING else f"`{_written(default)}`"
        rows.append([f"`{item.name}`", default, _in_markdown(described[item.name])])
    return rows


def arguments(docstring: str) -> dict[str, str]:
    """Return the description of each argument from a dedented docstring in Google style."""
    section = re.search(r"^Args:\n((?: {4}.*(?:\n|$)|\n)+)", docstring, re.MULTILINE)
    texts: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        begun = re.match(r" {4}(\w+): (.*)", line)
        if begun:
            name, texts[begun[1]] = begun.groups()
        elif line.strip():
            texts[name] += " " + line.strip()
    return texts


def _in_markdown(text: str) -> str:
    """Convert the roles and literals of a docstring to Markdown."""
    return re.sub(r":(\w+):`", r"{\1}`", text.replace("``", "`"))


def _written(value: object) -> str:
    """Return a default value as source code."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if is_dataclass(value):
        return f"{type(value).__name__}()"
    if callable(value):
        return value.__name__
    return f"{value:,}" if type(value) is int else str(value)


def markdown(rows: Rows) -> str:
    """Render a table in Markdown; the first row is the header."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


if __name__ == "__main__":
    LAYERS_PICTURE.write_text(layers_diagram(), encoding="utf-8")

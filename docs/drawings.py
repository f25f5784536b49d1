"""Tables and a drawing for the pages, made of what the package itself goes by.

Theory of operation: states stand in columns by how many steps they are away from the beginning, so
that an added state or transition draws itself. The step that every state has (the end) would cross
everything else: it is a dashed line below, which they all join.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, is_dataclass
from html import escape
from inspect import getdoc
from typing import TYPE_CHECKING, Any

from wsproto_sip.lifecycle import TRANSITIONS, Step
from wsproto_sip.states import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Mapping

Rows = list[list[str]]

WIDTH, HEIGHT = 150, 34
COLUMN, ROW, EDGE = 330, 100, 20


def transition_rows() -> Rows:
    """A table: one row a state, one column a step, with the state that follows."""
    steps = list(Step)
    rows = [["", *(step.value for step in steps)]]
    for state in states():
        following = [TRANSITIONS.get((state, step)) for step in steps]
        rows.append([f"`{state.name}`", *(f"`{s.name}`" if s else "" for s in following)])
    return rows


def states() -> list[ConnectionState]:
    """The states in the order in which they are reached."""
    return sorted(depths(), key=lambda state: (depths()[state], state.value))


def depths() -> Mapping[ConnectionState, int]:
    """The longest way to each state from the beginning that does not end it at once."""
    found = {ConnectionState.CONNECTING: 0}
    for _ in ConnectionState:
        for (state, step), following in TRANSITIONS.items():
            if state in found and step is not Step.END:
                found[following] = max(found.get(following, 0), found[state] + 1)
    return found


def places() -> Mapping[ConnectionState, tuple[int, int]]:
    """Where the middle of each state is."""
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
    """The states and the ways between them as SVG, in the colours of the page."""
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


def field_rows(kind: type[Any]) -> Rows:
    """A table of a dataclass: each field, its default, and what its docstring says of it."""
    described = arguments(getdoc(kind) or "")
    rows = [["name", "default", "what it is, and what passing it does"]]
    for item in fields(kind):
        default = item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        default = "" if default is MISSING else f"`{_written(default)}`"
        rows.append([f"`{item.name}`", default, described[item.name].replace("``", "`")])
    return rows


def arguments(docstring: str) -> dict[str, str]:
    """What a docstring in Google's style, without its indentation, says of each argument."""
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


def _written(value: object) -> str:
    """A default as one would write it."""
    if is_dataclass(value):
        return f"{type(value).__name__}()"
    if callable(value):
        return value.__name__
    return f"{value:,}" if type(value) is int else str(value)


def markdown(rows: Rows) -> str:
    """A table in Markdown, the first row being its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])

"""Results of commands as tables that fit the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ._text import escape

__all__ = ["CONNECTION", "columns", "table"]

#: A line of ``ws.dump``; a connection of another node is NODE/ID.
CONNECTION: Final = re.compile(
    r"((?:[ -~]+/)?\d+): (\S+) -> (\S+) \(state: (\w+)(, awaiting Pong)?,  last used (\d+)s ago, "
    r"sub-protocol: ([^\s,]+)(?:, identity: (\S+))?\)"
)
_CONNECTIONS: Final = ("ID", "PEER", "LOCAL", "STATE", "IDLE", "SUB-PROTOCOL", "IDENTITY")
_BINDINGS: Final = ("AOR", "CONTACT", "EXPIRES", "Q", "CONNECTION")
_TRANSACTIONS: Final = {
    "ID": "tlabel",
    "METHOD": "method",
    "STATE": "state",
    "OUT": "outgoings",
    "CONNECTION": "connection",
    "URI": "uri",
    "FROM": "from",
    "CALL-ID": "callid",
}
_NODES: Final = {"NODE": "node", "ADDRESS": "address", "TRANSPORT": "transport", "STATE": "state"}
_SESSIONS: Final = {
    "USER": "user",
    "CONNECTION": "connection",
    "ADDRESS": "address",
    "EXPIRES": "expires",
    "PENDING": "pending",
    "SESSION": "session",
    "PATH": "path",
}

#: What the servers of a population say of their running.
_UPTIMES: Final = ("NODE", "UPTIME", "UP SINCE", "NOW")

#: Minimum width of a cell, however narrow the terminal is.
_NARROWEST: Final = 4


def table(name: str, result: Any, width: int | None = None) -> list[str]:
    """Return the lines that show a result.

    Args:
        name: The command.
        result: The result, in its JSON form.
        width: Maximum characters of a line; ``None`` for no limit.
    """
    shown = _rows(name, result)
    if shown is not None:
        rows, more = shown
        lines = columns(rows, width)
        if more is not None:
            # Pages of several nodes go on after NODE/NUMBER.
            option = "after" if "/" in str(more) else "offset"
            lines.append(f"More follow: {option}={escape(str(more))}")
        return lines + [_cut(escape(line), width) for line in _remarks(name, result)]
    if isinstance(result, list):
        lines = [escape(str(item)) for item in result]
    elif isinstance(result, dict):
        room = max(map(len, result), default=0)
        lines = [escape(f"{key:{room}}  {value}") for key, value in result.items()]
    else:
        lines = [escape(str(result))]
    return [_cut(line, width) for line in lines]


def _rows(name: str, result: Any) -> tuple[list[tuple[str, ...]], object] | None:
    """Return the rows of a tabular result, and where the next page begins; otherwise ``None``."""
    try:
        if name == "ws.dump":
            info = result.get("info", {})
            more = info.get("next") if info.get("truncated") == "yes" else None
            rows = [_connection(str(line)) for line in result.get("connections", ())]
            return [_CONNECTIONS, *rows], more
        if name == "ul.dump":
            domain = result["Domains"][0]["Domain"]
            return [_BINDINGS, *_bindings(domain["AoRs"])], domain["Stats"].get("Next")
        if name == "ul.lookup":
            return [_BINDINGS, *_bindings([{"Info": result}])], None
        if name == "tm.list":
            return _picked(_TRANSACTIONS, result), None
        if name == "ws.nodes":
            return _picked(_NODES, result["nodes"]), None
        if name == "core.uptime" and not isinstance(result.get("uptime"), int):
            return [_UPTIMES, *[_uptime(node, result[node]) for node in result]], None
        if name == "msrp.sessions":
            return _picked(_SESSIONS, result["sessions"]), result["info"].get("next")
    except (AttributeError, IndexError, KeyError, TypeError):
        # From another server; shown unchanged.
        return None
    return None


def _remarks(name: str, result: Any) -> list[str]:
    """Return what to say about the store, or about nodes that are missing in a result."""
    if name == "ws.nodes":
        facts = dict(result.get("store", {}))
        state = "answers" if facts.pop("up", "no") == "yes" else "does not answer"
        return [f"The store {state}; " + ", ".join(f"{key} {facts[key]}" for key in facts)]
    if name == "ws.dump":
        about = result.get("info", {})
    elif name == "ul.lookup":
        about = {key.lower(): value for key, value in result.items()}
    elif name == "ul.dump":
        about = {
            key.lower(): value for key, value in result["Domains"][0]["Domain"]["Stats"].items()
        }
    else:
        return []
    texts = (("silent", "No answer from"), ("failed", "Refused by"))
    return [f"{text}: {about[key]}" for key, text in texts if key in about]


def _connection(line: str) -> tuple[str, ...]:
    match = CONNECTION.fullmatch(line)
    if match is None:
        return (line, *[""] * (len(_CONNECTIONS) - 1))
    cid, peer, local, state, awaiting, idle, protocol, identity = match.groups()
    state += " (ping)" if awaiting else ""
    return cid, peer, local, state, f"{idle}s", protocol, identity or ""


def _uptime(node: str, facts: Any) -> tuple[str, ...]:
    if not isinstance(facts, dict):
        # An error, or that it has not answered.
        return node, str(facts), "", ""
    return node, f"{facts['uptime']}s", str(facts["up_since"]), str(facts["now"])


def _bindings(addresses: Any) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for address in addresses:
        info = address.get("Info")
        if info is None:
            rows.append((str(address["AoR"]), "", "", "", ""))
            continue
        for each in info["Contacts"]:
            contact = each["Contact"]
            rows.append(
                (
                    *(str(info["AoR"]), str(contact["Address"]), f"{contact['Expires']}s"),
                    *(f"{contact['Q']:g}", str(contact["Tcpconn-Id"])),
                )
            )
    return rows


def _picked(headings: dict[str, str], items: Any) -> list[tuple[str, ...]]:
    rows = [
        tuple("" if item[key] is None else str(item[key]) for key in headings.values())
        for item in items
    ]
    return [tuple(headings), *rows]


def columns(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Format rows as columns, shrinking the widest ones if there is too little room.

    Args:
        rows: The rows, the first of them the headings; all of the same length.
        width: Maximum characters of a line; ``None`` for no limit.
    """
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _NARROWEST:
            widths[widths.index(max(widths))] -= 1
    lines = [
        "  ".join(
            f"{_cut(cell, room):{room}}" for cell, room in zip(row, widths, strict=True)
        ).rstrip(" ")
        for row in cells
    ]
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: max(width - 1, 0)]}…"

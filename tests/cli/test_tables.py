"""Results of commands as tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.cli._tables import columns, table


def test_tables() -> None:
    line = "{}: wss:192.0.2.1:4711 -> wss:[::1]:443 (state: OPEN{},  last used 7s ago, {}: sip)"
    result = {
        "connections": [
            line.format(3, ", awaiting Pong", "sub-protocol"),
            line.format(12345, "", "sub-protocol").replace("sip)", "sip, identity: alice)"),
            "something \x1b[31melse",
        ],
        "info": {"wscounter": 3, "truncated": "yes", "next": 50},
    }
    lines = table("ws.dump", result)
    assert [line.split() for line in lines] == [
        ["ID", "PEER", "LOCAL", "STATE", "IDLE", "SUB-PROTOCOL", "IDENTITY"],
        ["3", "wss:192.0.2.1:4711", "wss:[::1]:443", "OPEN", "(ping)", "7s", "sip"],
        ["12345", "wss:192.0.2.1:4711", "wss:[::1]:443", "OPEN", "7s", "sip", "alice"],
        ["something", "\\x1b[31melse"],
        ["More", "follow:", "offset=50"],
    ]
    # In columns, with nothing after the last one.
    for heading, cell in (("PEER", "wss:192"), ("IDLE", "7s")):
        assert {line.index(cell) for line in lines[1:3]} == {lines[0].index(heading)}
    assert lines == [line.rstrip(" ") for line in lines]
    assert table("ws.statistics", {"a": 1, "long": 2.5}) == ["a     1", "long  2.5"]
    assert table("ws.enable", {}) == []


CONTACT = {"Address": "sip:x@y.invalid", "Expires": 290, "Q": 0.5, "Tcpconn-Id": 7}
BINDINGS = {
    "Domains": [
        {
            "Domain": {
                "AoRs": [
                    {"Info": {"AoR": "sip:a@b", "Contacts": [{"Contact": CONTACT}]}},
                    {"AoR": "sip:c@d"},
                ],
                "Stats": {"Next": 50},
            }
        }
    ]
}
TRANSACTION = {
    "tlabel": 1,
    "method": "INVITE",
    "state": "proceeding",
    "outgoings": 2,
    "uri": "sip:x",
    "connection": None,
    "from": "sip:a",
    "to": "sip:b",
    "callid": "abc",
    "cseq": "1 INVITE",
}
SESSION = {
    "user": "alice",
    "connection": 3,
    "address": "192.0.2.1",
    "expires": 9,
    "pending": 0,
    "session": "…abc",
    "path": "msrp://x",
}


@pytest.mark.parametrize(
    ("name", "result", "rows"),
    [
        (
            "ul.dump",
            BINDINGS,
            [
                ["AOR", "CONTACT", "EXPIRES", "Q", "CONNECTION"],
                ["sip:a@b", "sip:x@y.invalid", "290s", "0.5", "7"],
                ["sip:c@d"],
                ["More", "follow:", "offset=50"],
            ],
        ),
        (
            "ul.lookup",
            {"AoR": "sip:a@b", "Contacts": [{"Contact": CONTACT}]},
            [
                ["AOR", "CONTACT", "EXPIRES", "Q", "CONNECTION"],
                ["sip:a@b", "sip:x@y.invalid", "290s", "0.5", "7"],
            ],
        ),
        (
            "ul.lookup",
            {"AoR": "sip:a@b", "Contacts": [], "Silent": "two"},
            [["AOR", "CONTACT", "EXPIRES", "Q", "CONNECTION"], ["No", "answer", "from:", "two"]],
        ),
        (
            "ws.nodes",
            {
                "nodes": [
                    {"node": "one", "address": "h:1", "transport": "tcp", "state": "this node"}
                ],
                "store": {"up": "yes", "outages": 2},
            },
            [
                ["NODE", "ADDRESS", "TRANSPORT", "STATE"],
                ["one", "h:1", "tcp", "this", "node"],
                ["The", "store", "answers;", "outages", "2"],
            ],
        ),
        (
            "ws.nodes",
            {"nodes": [], "store": {"up": "no", "outages": 1, "waiting": 3}},
            [
                ["NODE", "ADDRESS", "TRANSPORT", "STATE"],
                ["The", "store", "does", "not", "answer;", "outages", "1,", "waiting", "3"],
            ],
        ),
        (
            "core.uptime",
            {"one": {"now": "t2", "up_since": "t1", "uptime": 7}, "two": "no answer"},
            [
                ["NODE", "UPTIME", "UP", "SINCE", "NOW"],
                ["one", "7s", "t1", "t2"],
                ["two", "no", "answer"],
            ],
        ),
        (
            "core.uptime",
            {"now": "t2", "up_since": "t1", "uptime": 7},
            [["now", "t2"], ["up_since", "t1"], ["uptime", "7"]],
        ),
        (
            "tm.list",
            [TRANSACTION],
            [
                ["ID", "METHOD", "STATE", "OUT", "CONNECTION", "URI", "FROM", "CALL-ID"],
                ["1", "INVITE", "proceeding", "2", "sip:x", "sip:a", "abc"],
            ],
        ),
        (
            "msrp.sessions",
            {"sessions": [SESSION], "info": {"next": 5}},
            [
                ["USER", "CONNECTION", "ADDRESS", "EXPIRES", "PENDING", "SESSION", "PATH"],
                ["alice", "3", "192.0.2.1", "9", "0", "…abc", "msrp://x"],
                ["More", "follow:", "offset=5"],
            ],
        ),
        # What has another form is shown as it is.
        ("ul.dump", {"Domains": []}, [["Domains", "[]"]]),
        ("ul.dump", "none", [["none"]]),
        ("core.uptime", {"one": {"seconds": 7}}, [["one", "{'seconds':", "7}"]]),
        ("tm.list", [{"method": "INVITE"}], [["{'method':", "'INVITE'}"]]),
        ("msrp.sessions", ["a"], [["a"]]),
    ],
)
def test_rows_of_applications(name: str, result: Any, rows: list[list[str]]) -> None:
    assert [line.split() for line in table(name, result)] == rows


def test_the_widest_columns_give_way() -> None:
    rows = [["ID", "NAME", "PLACE"], ["1", "x" * 30, "y" * 40]]
    assert columns(rows) == [f"ID  NAME{' ' * 28}PLACE", f"1   {'x' * 30}  {'y' * 40}"]
    assert columns(rows, 30) == [
        "ID  NAME          PLACE",
        f"1   {'x' * 11}…  {'y' * 11}…",
    ]
    # Too narrow for any table: each line is cut.
    assert columns(rows, 8) == ["ID  NAM…", "1   xxx…"]


def test_other_lines_are_cut_too() -> None:
    assert table("core.help", {"a": "x" * 20}, 10) == ["a  xxxxxx…"]
    assert table("core.version", "x" * 20, 10) == ["xxxxxxxxx…"]
    assert table("system.listMethods", ["x" * 20, "y"], 10) == ["xxxxxxxxx…", "y"]


TEXTS = st.text(max_size=30)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4), st.integers(1, 80))
def test_lines_fit_and_move_no_cursor(rows: list[tuple[str, str, str]], width: int) -> None:
    for line in columns(rows, width):
        assert len(line) <= width
        assert line.isprintable()

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.commands import (
    COMMAND_NAMES,
    CloseCommand,
    Command,
    CommandError,
    ConnectCommand,
    ConnectionInfo,
    ConnectResult,
    DisableCommand,
    DisplayState,
    DumpCommand,
    DumpFilter,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    Fault,
    PingCommand,
    PongCommand,
    StatisticsCommand,
    StatisticsResult,
    format_connection,
    parse_command,
)

Params = list[object] | dict[str, object]


@pytest.mark.parametrize(
    ("name", "params", "command"),
    [
        ("ws.dump", [], DumpCommand()),
        ("ws.dump", {}, DumpCommand()),
        ("ws.dump", ["id_hash"], DumpCommand(DumpOrder.ID_HASH)),
        ("ws.dump", ["USED_desc"], DumpCommand(DumpOrder.USED_DESC)),
        ("ws.dump", ["used_asc", 50, "10"], DumpCommand(DumpOrder.USED_ASC, 50, 10)),
        ("ws.dump", ["offset=50"], DumpCommand(offset=50)),
        ("ws.dump", ["after=7"], DumpCommand(filter=DumpFilter(after=7))),
        ("ws.dump", ["limit=100", "used_asc"], DumpCommand(DumpOrder.USED_ASC, limit=100)),
        (
            "ws.dump",
            ["sub_protocol=sip", "address=::1", "identity=a=b", "state=open"],
            DumpCommand(filter=DumpFilter("sip", "::1", "a=b", DisplayState.OPEN)),
        ),
        (
            "ws.dump",
            {"order": "used_asc", "limit": 1, "state": "Closing"},
            DumpCommand(DumpOrder.USED_ASC, limit=1, filter=DumpFilter(state=DisplayState.CLOSING)),
        ),
        ("ws.close", ["1"], CloseCommand(1)),
        ("ws.close", [1, 4000, "Because I say so"], CloseCommand(1, 4000, "Because I say so")),
        ("ws.close", {"id": 1, "code": 1001}, CloseCommand(1, 1001, "")),
        ("ws.close", ["1", "1000", "code=4000"], CloseCommand(1, 1000, "code=4000")),
        ("ws.close", [1, None, "\xe4" * 61], CloseCommand(1, 1000, "\xe4" * 61)),
        ("ws.ping", ["0"], PingCommand(0)),
        ("ws.ping", {"id": 999_999_999_999_999_999}, PingCommand(999_999_999_999_999_999)),
        ("ws.pong", [7], PongCommand(7)),
        ("ws.disable", [], DisableCommand()),
        ("ws.enable", {}, EnableCommand()),
        ("ws.connect", ["ws://example.com/"], ConnectCommand("ws://example.com/")),
        (
            "ws.connect",
            ["WSS://[::1]:8/x?y=z", "sip"],
            ConnectCommand("WSS://[::1]:8/x?y=z", "sip"),
        ),
        ("ws.statistics", [], StatisticsCommand()),
        ("ws.statistics", {}, StatisticsCommand()),
        (
            "ws.statistics",
            ["ws_current_connections"],
            StatisticsCommand(("ws_current_connections",)),
        ),
    ],
)
def test_commands(name: str, params: Params, command: Command) -> None:
    assert parse_command(name, params) == command
    assert name in COMMAND_NAMES


@pytest.mark.parametrize(
    ("name", "params", "fault", "detail"),
    [
        ("ws.dump", ["used"], Fault.BAD_ORDER, ""),
        ("ws.dump", ["id_hash "], Fault.BAD_ORDER, ""),
        ("ws.dump", [3], Fault.BAD_ORDER, ""),
        ("ws.dump", ["colour=red"], Fault.BAD_ORDER, ""),
        ("ws.dump", ["\u0130d_hash"], Fault.BAD_ORDER, ""),
        ("ws.dump", ["id_hash", 0, 0], Fault.INVALID_PARAMETERS, "limit 0 is not 1 to 100"),
        ("ws.dump", ["limit=101"], Fault.INVALID_PARAMETERS, "limit 101 is not 1 to 100"),
        ("ws.dump", ["offset=-1"], Fault.INVALID_PARAMETERS, "offset is not a number"),
        ("ws.dump", ["state=lost"], Fault.INVALID_PARAMETERS, "state is none of CONNECTING, "),
        ("ws.dump", ["state=clo\u017fed"], Fault.INVALID_PARAMETERS, "state is none of"),
        ("ws.dump", ["address=\x1b[2J"], Fault.INVALID_PARAMETERS, "address is not printable"),
        ("ws.dump", ["limit=1", "limit=2"], Fault.INVALID_PARAMETERS, "limit is given twice"),
        ("ws.dump", ["id_hash", 0, 1, 2], Fault.INVALID_PARAMETERS, "too many parameters"),
        ("ws.dump", {"colour": 1}, Fault.INVALID_PARAMETERS, "unknown parameter 'colour'"),
        ("ws.close", [], Fault.INVALID_PARAMETERS, "no id"),
        ("ws.close", {"id": None}, Fault.INVALID_PARAMETERS, "no id"),
        ("ws.close", [1, 1005], Fault.INVALID_PARAMETERS, "code 1005 may not be sent"),
        ("ws.close", [1, 999], Fault.INVALID_PARAMETERS, "code 999 may not be sent"),
        ("ws.close", [1, 1000, "\xe4" * 62], Fault.INVALID_PARAMETERS, "more than 123 octets"),
        ("ws.close", [1, 1000, "a\nb"], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.close", [1, 1000, "\ud800"], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.close", [1, 1000, 5], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.ping", [], Fault.INVALID_PARAMETERS, "no id"),
        ("ws.ping", ["x"], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", ["1 "], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", ["\u0661"], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", ["9" * 19], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [10**18], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [-1], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [True], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [1.0], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [[1]], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.ping", [1, 2], Fault.INVALID_PARAMETERS, "too many parameters"),
        ("ws.ping", {"ID": 1}, Fault.INVALID_PARAMETERS, "unknown parameter 'ID'"),
        ("ws.pong", ["id=1"], Fault.INVALID_PARAMETERS, "id is not a number"),
        ("ws.disable", ["x"], Fault.INVALID_PARAMETERS, "too many parameters"),
        ("ws.enable", {"x": 1}, Fault.INVALID_PARAMETERS, "unknown parameter 'x'"),
        ("ws.connect", [], Fault.INVALID_PARAMETERS, "target is not a ws or wss URI"),
        ("ws.connect", ["http://x/"], Fault.INVALID_PARAMETERS, "target is not a ws or wss URI"),
        ("ws.connect", ["ws://x y"], Fault.INVALID_PARAMETERS, "target is not a ws or wss URI"),
        ("ws.connect", ["ws://" + "x" * 1020], Fault.INVALID_PARAMETERS, "at most 1024 octets"),
        ("ws.statistics", [1], Fault.INVALID_PARAMETERS, "a name is not printable text"),
        ("ws.statistics", ["\x00"], Fault.INVALID_PARAMETERS, "a name is not printable text"),
        ("ws.statistics", {"a": 1}, Fault.INVALID_PARAMETERS, "names are given by position"),
        ("ws.none", [], Fault.UNKNOWN_COMMAND, ""),
        ("WS.DUMP", [], Fault.UNKNOWN_COMMAND, ""),
        ("", [], Fault.UNKNOWN_COMMAND, ""),
    ],
)
def test_bad_commands(name: str, params: Params, fault: Fault, detail: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(name, params)
    assert caught.value.fault is fault
    assert detail in caught.value.detail
    assert bool(detail) is bool(caught.value.detail)


def test_codes_and_texts_are_the_modules() -> None:
    assert {(fault.code, fault.text) for fault in Fault} >= {
        (400, "Bad display order parameter"),
        (500, "Invalid Parameters"),
        (500, "Unknown connection ID"),
        (500, "Error sending frame"),
        (500, "Error closing connection"),
    }
    error = CommandError(Fault.UNKNOWN_CONNECTION)
    assert (error.code, error.text) == (500, "Unknown connection ID")
    assert str(error) == "500 Unknown connection ID"
    detailed = CommandError(Fault.INVALID_PARAMETERS, "no id")
    assert (detailed.code, detailed.text) == (500, "Invalid Parameters")
    assert str(detailed) == "500 Invalid Parameters: no id"


INFO = ConnectionInfo(3, "127.0.0.1", 39512, "127.0.0.1", 27180, sub_protocol="sip")


def test_a_line_is_the_modules() -> None:
    assert format_connection(INFO) == (
        "3: ws:127.0.0.1:39512 -> ws:127.0.0.1:27180"
        " (state: OPEN,  last used 0s ago, sub-protocol: sip)"
    )
    waiting = replace(INFO, awaiting_pong=True, idle=181.9, secure=True, sub_protocol="msrp")
    assert format_connection(waiting) == (
        "3: wss:127.0.0.1:39512 -> wss:127.0.0.1:27180"
        " (state: OPEN, awaiting Pong,  last used 181s ago, sub-protocol: msrp)"
    )


def test_a_line_of_an_odd_connection() -> None:
    odd = ConnectionInfo(9, "2001:db8::1", 1, "", None, state=DisplayState.CLOSING, idle=-3.0)
    assert format_connection(odd) == (
        "9: ws:[2001:db8::1]:1 -> ws:unknown:0"
        " (state: CLOSING,  last used 0s ago, sub-protocol: none)"
    )


@given(st.text(), st.text())
def test_a_line_is_safe_to_print(address: str, protocol: str) -> None:
    line = format_connection(replace(INFO, peer_address=address, sub_protocol=protocol))
    assert line.isascii()
    assert line.isprintable()


def test_results() -> None:
    line = format_connection(INFO)
    last = DumpResult((INFO,))
    assert last.to_json() == {
        "connections": [line],
        "info": {"wscounter": 1, "truncated": "no"},
    }
    assert last.to_lines() == [line, "wscounter: 1", "truncated: no"]
    page = DumpResult((INFO, INFO), next_offset=52)
    assert page.to_json() == {
        "connections": [line, line],
        "info": {"wscounter": 2, "truncated": "yes", "next": 52},
    }
    assert page.to_lines() == [line, line, "wscounter: 2", "truncated: yes", "next: 52"]
    assert EmptyResult().to_json() == {}
    assert EmptyResult().to_lines() == []
    assert ConnectResult(4).to_json() == {"id": 4}
    assert ConnectResult(4).to_lines() == ["id: 4"]
    counters = StatisticsResult({"b": 2, "a": 1.5})
    assert counters.to_json() == {"b": 2, "a": 1.5}
    assert counters.to_lines() == ["b: 2", "a: 1.5"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(["id", "code", "reason", "order", "offset", "limit", "target", "x"])


@given(st.sampled_from(COMMAND_NAMES), st.lists(JSON, max_size=4) | st.dictionaries(KEYS, JSON))
def test_any_parameters_give_a_command_or_the_documented_error(name: str, params: Params) -> None:
    outcome: Command | Fault
    try:
        outcome = parse_command(name, params)
    except CommandError as error:
        outcome = error.fault
    assert isinstance(outcome, Command) or outcome in (Fault.BAD_ORDER, Fault.INVALID_PARAMETERS)

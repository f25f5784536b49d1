from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip import __version__
from wsproto_sip.server.management.commands import (
    COMMAND_NAMES,
    ApplicationCommand,
    ApplicationFault,
    CloseCommand,
    Command,
    CommandError,
    CommandTable,
    ConnectCommand,
    ConnectionInfo,
    ConnectResult,
    DisableCommand,
    DisplayState,
    DrainCommand,
    DumpCommand,
    DumpFilter,
    DumpOrder,
    DumpResult,
    EmptyResult,
    EnableCommand,
    FactsResult,
    Fault,
    GetSettingCommand,
    GetStatisticsCommand,
    GroupStatisticsCommand,
    HelpCommand,
    ListMethodsCommand,
    ListResult,
    Parameters,
    Params,
    PingCommand,
    PongCommand,
    ResetStatisticsCommand,
    Result,
    SetSettingCommand,
    StatisticsCommand,
    TreeResult,
    UptimeCommand,
    ValueResult,
    VersionCommand,
    format_connection,
    parse_command,
)


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
            ["subprotocol=sip", "address=::1", "identity=a=b", "state=open"],
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
        ("stats.get_statistics", ["websocket:", "x"], GetStatisticsCommand(("websocket:", "x"))),
        ("stats.reset_statistics", ["all"], ResetStatisticsCommand(("all",))),
        ("cnt.grp_get_all", ["websocket"], GroupStatisticsCommand("websocket")),
        ("cfg.get", ["websocket"], GetSettingCommand("websocket")),
        ("cfg.get", ["websocket", "enabled"], GetSettingCommand("websocket", "enabled")),
        (
            "cfg.seti",
            ["websocket", "keepalive_timeout", "60"],
            SetSettingCommand("websocket", "keepalive_timeout", 60),
        ),
        ("core.version", [], VersionCommand()),
        ("core.uptime", {}, UptimeCommand()),
        ("core.help", [], HelpCommand()),
        ("core.help", ["ws.dump"], HelpCommand("ws.dump")),
        ("system.methodHelp", ["ws.dump"], HelpCommand("ws.dump")),
        ("system.listMethods", [], ListMethodsCommand()),
        ("drain", [], DrainCommand(5)),
        ("drain", ["0"], DrainCommand(0)),
        ("drain", {"seconds": 86_400}, DrainCommand(86_400)),
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
        ("ws.dump", ["id_hash", 0, 0], Fault.INVALID_PARAMETERS, "limit 0 must be 1 to 100"),
        ("ws.dump", ["limit=101"], Fault.INVALID_PARAMETERS, "limit 101 must be 1 to 100"),
        ("ws.dump", ["offset=-1"], Fault.INVALID_PARAMETERS, "offset is not a number"),
        ("ws.dump", ["state=lost"], Fault.INVALID_PARAMETERS, "state must be one of CONNECTING, "),
        ("ws.dump", ["state=clo\u017fed"], Fault.INVALID_PARAMETERS, "state must be one of"),
        ("ws.dump", ["address=\x1b[2J"], Fault.INVALID_PARAMETERS, "address is not printable"),
        ("ws.dump", ["limit=1", "limit=2"], Fault.INVALID_PARAMETERS, "limit is repeated"),
        ("ws.dump", ["id_hash", 0, 1, 2], Fault.INVALID_PARAMETERS, "too many parameters"),
        ("ws.dump", {"colour": 1}, Fault.INVALID_PARAMETERS, "unknown parameter 'colour'"),
        ("ws.close", [], Fault.INVALID_PARAMETERS, "id is missing"),
        ("ws.close", {"id": None}, Fault.INVALID_PARAMETERS, "id is missing"),
        ("ws.close", [1, 1005], Fault.INVALID_PARAMETERS, "code 1005 may not be sent"),
        ("ws.close", [1, 999], Fault.INVALID_PARAMETERS, "code 999 may not be sent"),
        ("ws.close", [1, 1000, "\xe4" * 62], Fault.INVALID_PARAMETERS, "longer than 123 bytes"),
        ("ws.close", [1, 1000, "a\nb"], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.close", [1, 1000, "\ud800"], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.close", [1, 1000, 5], Fault.INVALID_PARAMETERS, "reason is not printable"),
        ("ws.ping", [], Fault.INVALID_PARAMETERS, "id is missing"),
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
        ("ws.connect", [], Fault.INVALID_PARAMETERS, "target must be a URI of at most 1024"),
        ("ws.connect", ["http://x/"], Fault.INVALID_PARAMETERS, "target: the URI does not start"),
        ("ws.connect", ["ws://x y"], Fault.INVALID_PARAMETERS, "target: the URI contains a space"),
        ("ws.connect", ["ws://" + "x" * 1020], Fault.INVALID_PARAMETERS, "at most 1024"),
        ("ws.statistics", [1], Fault.INVALID_PARAMETERS, "a name is not printable text"),
        ("ws.statistics", ["\x00"], Fault.INVALID_PARAMETERS, "a name is not printable text"),
        ("ws.statistics", {"a": 1}, Fault.INVALID_PARAMETERS, "names must be positional"),
        ("stats.get_statistics", [], Fault.NO_STATISTICS_NAMED, ""),
        ("stats.reset_statistics", {}, Fault.NO_STATISTIC_NAMED, ""),
        ("stats.reset_statistics", [1], Fault.INVALID_PARAMETERS, "a name is not printable text"),
        ("cnt.grp_get_all", [], Fault.INVALID_PARAMETERS, "group is missing"),
        ("cfg.get", [], Fault.INVALID_PARAMETERS, "group is missing"),
        ("cfg.seti", ["websocket", "enabled"], Fault.INVALID_PARAMETERS, "value is missing"),
        ("cfg.seti", {"value": 1, "name": "enabled"}, Fault.INVALID_PARAMETERS, "group is missing"),
        ("cfg.seti", {"value": 1, "group": "x"}, Fault.INVALID_PARAMETERS, "name is missing"),
        ("cfg.seti", ["websocket", "enabled", "on"], Fault.INVALID_PARAMETERS, "not a number"),
        ("system.methodHelp", [], Fault.INVALID_PARAMETERS, "name is missing"),
        ("core.version", ["x"], Fault.INVALID_PARAMETERS, "too many parameters"),
        ("drain", [86_401], Fault.INVALID_PARAMETERS, "seconds 86401 must be 0 to 86400"),
        ("drain", ["soon"], Fault.INVALID_PARAMETERS, "seconds is not a number"),
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


def test_codes_and_texts_match_the_module() -> None:
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
    detailed = CommandError(Fault.INVALID_PARAMETERS, "id is missing")
    assert (detailed.code, detailed.text) == (500, "Invalid Parameters")
    assert str(detailed) == "500 Invalid Parameters: id is missing"


INFO = ConnectionInfo(3, "127.0.0.1", 39512, "127.0.0.1", 27180, subprotocol="sip")


def test_line_matches_the_module() -> None:
    assert format_connection(INFO) == (
        "3: ws:127.0.0.1:39512 -> ws:127.0.0.1:27180"
        " (state: OPEN,  last used 0s ago, sub-protocol: sip)"
    )
    waiting = replace(INFO, awaiting_pong=True, idle=181.9, secure=True, subprotocol="msrp")
    assert format_connection(waiting) == (
        "3: wss:127.0.0.1:39512 -> wss:127.0.0.1:27180"
        " (state: OPEN, awaiting Pong,  last used 181s ago, sub-protocol: msrp)"
    )


def test_line_of_an_odd_connection() -> None:
    odd = ConnectionInfo(9, "2001:db8::1", 1, "", None, state=DisplayState.CLOSING, idle=-3.0)
    assert format_connection(odd) == (
        "9: ws:[2001:db8::1]:1 -> ws:unknown:0"
        " (state: CLOSING,  last used 0s ago, sub-protocol: none)"
    )


def test_line_ends_with_the_identity_if_there_is_one() -> None:
    assert format_connection(replace(INFO, identity="alice x")).endswith(
        " (state: OPEN,  last used 0s ago, sub-protocol: sip, identity: alice?x)"
    )


@given(st.text(), st.text(), st.text())
def test_line_is_safe_to_print(address: str, protocol: str, identity: str) -> None:
    info = replace(INFO, peer_address=address, subprotocol=protocol, identity=identity)
    line = format_connection(info)
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
    counters = FactsResult({"b": 2, "a": 1.5})
    assert counters.to_json() == {"b": 2, "a": 1.5}
    assert counters.to_lines() == ["b: 2", "a: 1.5"]
    assert ValueResult(30).to_json() == 30
    assert ValueResult(30).to_lines() == ["30"]
    assert ListResult(("b", "a")).to_json() == ListResult(("b", "a")).to_lines() == ["b", "a"]


def test_version_and_help_are_shown() -> None:
    table = CommandTable()
    assert table.describe(VersionCommand()) == ValueResult(f"wsproto-sip {__version__}")
    listed = table.describe(ListMethodsCommand())
    assert listed == ListResult(tuple(sorted(COMMAND_NAMES)))
    everything = table.describe(HelpCommand())
    assert isinstance(everything, FactsResult)
    assert list(everything.values) == sorted(COMMAND_NAMES)
    for name, text in everything.values.items():
        assert table.describe(HelpCommand(name)) == ValueResult(str(text))
        # In the text form, a line without a name is a value.
        assert re.fullmatch(r"[A-Z][a-z]+ .+", str(text))
    with pytest.raises(CommandError, match="400 command not found"):
        table.describe(HelpCommand("ws.none"))


def test_trees_are_json_in_both_forms() -> None:
    tree = TreeResult({"a": [1, {"b": "\u2028"}]})
    assert tree.to_json() == {"a": [1, {"b": "\u2028"}]}
    assert tree.to_lines() == ['{"a":[1,{"b":"\\u2028"}]}']


class TestApplications:
    """Commands that applications add to a table."""

    @staticmethod
    def table() -> CommandTable:
        def show(parameters: Parameters, now: float) -> FactsResult:
            offset, limit = parameters.page(5, 10)
            text = parameters.text("name") or ""
            return FactsResult({"name": text, "offset": offset, "limit": limit, "now": now})

        def fail(parameters: Parameters, now: float) -> FactsResult:
            raise CommandError(ApplicationFault(404, "Nothing there"), parameters.required("name"))

        table = CommandTable()
        table.add("app.show", "Show it: NAME", show, positional=("name",), options=("limit",))
        table.add("fail", "Fail", fail, positional=("name",))
        return table

    def test_application_commands_are_parsed_and_get_the_time(self) -> None:
        command = self.table().parse("app.show", ["x", "limit=7"])
        assert isinstance(command, ApplicationCommand)
        assert command.name == "app.show"
        expected: dict[str, int | float | str] = {"name": "x", "offset": 0, "limit": 7, "now": 3.0}
        assert command.execute(3.0) == FactsResult(expected)
        by_name = self.table().parse("app.show", {"name": "x", "limit": 7})
        assert isinstance(by_name, ApplicationCommand)
        assert by_name.execute(3.0) == FactsResult(expected)

    @pytest.mark.parametrize(
        ("name", "params", "message"),
        [
            ("app.show", ["x", "y"], "500 Invalid Parameters: too many parameters"),
            ("app.show", ["limit=11"], "500 Invalid Parameters: limit 11 must be 1 to 10"),
            ("app.show", {"offset": 1}, "500 Invalid Parameters: unknown parameter 'offset'"),
            ("fail", ["x"], "404 Nothing there: x"),
            ("fail", [], "500 Invalid Parameters: name is missing"),
            ("app.none", [], "500 Unknown command"),
        ],
    )
    def test_faults(self, name: str, params: Params, message: str) -> None:
        execute = self.table().executing(self.execute)
        with pytest.raises(CommandError) as caught:
            execute(name, params)
        assert str(caught.value) == message
        assert str(caught.value.code) == message[:3]

    @staticmethod
    def execute(command: Command) -> Result:
        assert isinstance(command, ApplicationCommand)
        return command.execute(0.0)

    def test_application_commands_are_listed_and_explained(self) -> None:
        table = self.table()
        assert table.names == (*COMMAND_NAMES, "app.show", "fail")
        listed = table.describe(ListMethodsCommand())
        assert isinstance(listed, ListResult)
        assert "app.show" in listed.items
        assert table.describe(HelpCommand("app.show")) == ValueResult("Show it: NAME")
        assert "app.show" not in CommandTable().names

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("ws.dump", "command ws.dump already exists"),
            ("fail", "command fail already exists"),
            ("a b", "not a command name: 'a b'"),
            ("a.b.c", "not a command name"),
            ("", "not a command name"),
        ],
    )
    def test_names_are_checked(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.table().add(name, "Help", lambda parameters, now: FactsResult())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["id", "code", "reason", "order", "offset", "limit", "target", "group", "name", "value", "x"]
)


@given(st.sampled_from(COMMAND_NAMES), st.lists(JSON, max_size=4) | st.dictionaries(KEYS, JSON))
def test_any_parameters_give_a_command_or_the_documented_error(name: str, params: Params) -> None:
    outcome: Command | Fault | ApplicationFault
    try:
        outcome = parse_command(name, params)
    except CommandError as error:
        outcome = error.fault
    assert isinstance(outcome, Command) or outcome in (
        Fault.BAD_ORDER,
        Fault.INVALID_PARAMETERS,
        Fault.NO_STATISTICS_NAMED,
        Fault.NO_STATISTIC_NAMED,
    )

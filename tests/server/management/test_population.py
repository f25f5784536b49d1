"""Commands for several servers, and one result from all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.management.commands import ApplicationFault, CommandError, Fault
from wsproto_sip.server.management.population import (
    Errand,
    errand_of,
    explained,
    is_for_others,
)

KNOWN = ["two", "one", "three/1"]
REFUSED = CommandError(Fault.UNKNOWN_COMMAND)


def errand(name: str, *params: object) -> Errand:
    found = errand_of(name, params)
    assert found is not None
    assert found.name == name
    return found


def line(number: int, idle: int = 0) -> str:
    return (
        f"{number}: ws:192.0.2.1:5 -> ws:192.0.2.2:80 (state: OPEN,  last used {idle}s ago, "
        "sub-protocol: sip)"
    )


def page(*numbers: int, more: bool = False, idle: int = 0) -> dict[str, Any]:
    lines = [line(number, idle) for number in numbers]
    return {"connections": lines, "info": {"truncated": "yes" if more else "no"}}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ws.dump", []),
        ("ws.dump", ["used_asc", "limit=3"]),
        ("ws.close", ["17", "1001"]),
        ("ws.close", {"id": 17}),
        ("ws.close", []),
        ("tm.list", ["all"]),
        ("ws.statistics", {"node": "one"}),
    ],
)
def test_commands_of_one_server(name: str, params: Any) -> None:
    assert errand_of(name, params) is None


def test_commands_that_others_may_give() -> None:
    assert is_for_others("ws.dump")
    assert is_for_others("ws.close")
    assert is_for_others("ws.statistics")
    assert is_for_others("reload")
    assert not is_for_others("ws.connect")
    assert is_for_others("drain")
    assert not is_for_others("stats.reset_statistics")


def test_connection_of_another_server() -> None:
    found = errand("ws.close", "three/1/17", "1001", "bye")
    assert found.servers(KNOWN) == ["three/1"]
    assert found.params("three/1") == ["17", "1001", "bye"]
    assert found.merged({"three/1": {}}, []).to_json() == {}
    named = errand_of("ws.ping", {"id": "one/4"})
    assert named is not None
    assert named.params("one") == {"id": "4"}
    with pytest.raises(CommandError, match="500 Unknown command"):
        found.merged({"three/1": REFUSED}, [])
    with pytest.raises(CommandError, match="504 The node has not answered: three/1"):
        found.merged({}, ["three/1"])
    with pytest.raises(CommandError, match="404 No such node: four"):
        errand("ws.close", "four/17").servers(KNOWN)


def test_results_by_server() -> None:
    found = errand("ws.disable", "all")
    assert found.servers(KNOWN) == ["one", "three/1", "two"]
    assert list(found.params("one")) == []
    assert found.merged({"two": {}, "one": REFUSED}, ["three/1"]).to_json() == {
        "one": "500 Unknown command",
        "three/1": "no answer",
        "two": "done",
    }
    uptime = errand_of("core.uptime", {"node": "all"})
    assert uptime is not None
    answers = {"one": {"uptime": 7}, "two": {"now": "x", "uptime": 8}, "three/1": "5.1"}
    assert uptime.merged(answers, []).to_json() == {
        "one": 7,
        "three/1": "5.1",
        "two": {"now": "x", "uptime": 8},
    }


@pytest.mark.parametrize(
    ("params", "passed"),
    [
        (["all"], []),
        (["all", "30"], ["30"]),
        ({"node": "all", "seconds": 30}, {"seconds": 30}),
        # Each server says what is wrong with them.
        (["all", "30", "x=y"], ["30", "x=y"]),
    ],
)
def test_all_servers_drain_in_the_same_time(params: Any, passed: Any) -> None:
    found = errand_of("drain", params)
    assert found is not None
    assert found.params("one") == passed
    assert found.merged({"one": {}}, ["two"]).to_json() == {"one": "done", "two": "no answer"}


def test_statistics_are_summed() -> None:
    found = errand("ws.statistics", "all", "a", "b_max")
    assert found.params("one") == ["a", "b_max"]
    detailed = CommandError(ApplicationFault(400, "Bad"), "why")
    answers = {"one": {"a": 2, "b_max": 5, "c": "x"}, "two": {"a": 3.5, "b_max": 4}}
    assert found.merged({**answers, "three/1": detailed}, ["four"]).to_json() == {
        "a": 5.5,
        "b_max": 5,
        "nodes": 2,
        "silent": "four",
        "failed": "three/1: 400 Bad: why",
    }


def test_pages_of_connections_go_from_server_to_server() -> None:
    found = errand("ws.dump", "all", "limit=3", "state=open")
    assert found.servers(KNOWN) == ["one", "three/1", "two"]
    assert found.params("one") == {"order": "id_hash", "limit": 3, "state": "open"}
    answers = {"two": page(1, 2), "one": page(5), "three/1": page(8)}
    result: Any = found.merged(answers, ["four"]).to_json()
    assert result["info"] == {
        "wscounter": 3,
        "truncated": "yes",
        "next": "two/1",
        "silent": "four",
    }
    assert result["connections"][0] == f"one/{line(5)}"
    assert result["connections"][2] == f"two/{line(1)}"
    further = errand("ws.dump", "all", "limit=3", "after=three/1/8")
    assert further.servers(KNOWN) == ["three/1", "two"]
    assert further.params("three/1") == {"order": "id_hash", "limit": 3, "after": 8}
    assert further.params("two") == {"order": "id_hash", "limit": 3}
    last: Any = further.merged({"three/1": page(), "two": page(1, 2)}, []).to_json()
    assert last["info"] == {"wscounter": 2, "truncated": "no"}


def test_page_ends_with_a_server_that_has_more() -> None:
    found = errand("ws.dump", "all", "limit=3")
    answers = {"one": page(1, 2, more=True), "two": page(1)}
    result: Any = found.merged(answers, []).to_json()
    assert result["info"] == {"wscounter": 2, "truncated": "yes", "next": "one/2"}


def test_connections_by_use() -> None:
    found = errand("ws.dump", "all", "used_asc", "limit=2")
    answers = {"one": page(1, idle=9), "two": page(2, idle=3, more=True), "three/1": REFUSED}
    result: Any = found.merged(answers, []).to_json()
    assert result["connections"] == [f"two/{line(2, 3)}", f"one/{line(1, 9)}"]
    assert result["info"] == {
        "wscounter": 2,
        "truncated": "yes",
        "failed": "three/1: 500 Unknown command",
    }
    down: Any = errand("ws.dump", "all", "used_desc", "limit=1").merged(answers, []).to_json()
    assert down["connections"] == [f"one/{line(1, 9)}"]
    strange: Any = {"connections": ["?"], "info": {"truncated": "no"}}
    odd: Any = found.merged({"one": strange, "two": page(1)}, []).to_json()
    assert odd["info"]["failed"].startswith("one: ")
    without: Any = {"connections": ["3: x"], "info": {"truncated": "no"}}
    assert found.merged({"one": without}, []).to_json()["connections"] == ["one/3: x"]  # type: ignore[index]


@pytest.mark.parametrize(
    "params",
    [
        ["all", "limit=0"],
        ["all", "limit=101"],
        ["all", "limit=x"],
        ["all", "after=17"],
        ["all", "offset=5"],
        ["all", "used_asc", "after=one/5"],
        ["all", "used_asc", "more"],
    ],
)
def test_pages_that_cannot_be(params: list[str]) -> None:
    with pytest.raises(CommandError, match="500 Invalid Parameters"):
        errand_of("ws.dump", params)


def bindings(*aors: str, more: bool = False) -> dict[str, Any]:
    found = [{"Info": {"AoR": aor, "Contacts": [{"Contact": {"Tcpconn-Id": 4}}]}} for aor in aors]
    stats = {"Records": len(aors) + more, "Truncated": "yes" if more else "no"}
    return {"Domains": [{"Domain": {"AoRs": found, "Stats": stats}}]}


def test_pages_of_registrations() -> None:
    found = errand("ul.dump", "all", "limit=2")
    assert found.params("one") == {"limit": 2}
    answers = {"one": bindings("a"), "two": bindings("b", "c", more=True), "three/1": REFUSED}
    result: Any = found.merged(answers, ["four"]).to_json()
    domain = result["Domains"][0]["Domain"]
    contact = domain["AoRs"][0]["Info"]["Contacts"][0]["Contact"]
    assert contact == {"Tcpconn-Id": "one/4", "Node": "one"}
    assert domain["Stats"] == {
        "Records": 4,
        "Truncated": "yes",
        "Next": "two/1",
        "Silent": "four",
        "Failed": "three/1: 500 Unknown command",
    }
    further = errand("ul.dump", "all", "brief", "limit=2", "after=two/1")
    assert further.params("two") == {"limit": 2, "form": "brief", "offset": 1}
    brief = {
        "Domains": [
            {
                "Domain": {
                    "AoRs": [{"AoR": "c"}, {"AoR": "d"}],
                    "Stats": {"Records": 3, "Truncated": "no"},
                }
            }
        ]
    }
    last: Any = further.merged({"two": brief}, []).to_json()
    assert last["Domains"][0]["Domain"]["Stats"] == {"Records": 3, "Truncated": "no"}
    with pytest.raises(CommandError, match="too many parameters"):
        errand("ul.dump", "all", "brief", "x")


ABSENT = CommandError(ApplicationFault(500, "AOR not found in location table"))


def registered(*numbers: int) -> dict[str, Any]:
    return {
        "AoR": "sip:a@b",
        "Contacts": [{"Contact": {"Tcpconn-Id": number}} for number in numbers],
    }


def test_registrations_of_an_address_are_found_wherever_they_are() -> None:
    found = errand("ul.lookup", "all", "a@b")
    assert found.servers(KNOWN) == sorted(KNOWN)
    assert found.params("one") == ["a@b"]
    assert is_for_others("ul.lookup")
    assert is_for_others("ul.rm")
    answers = {"two": registered(4, 5), "one": ABSENT, "three/1": registered(6)}
    result: Any = found.merged(answers, []).to_json()
    assert [each["Contact"] for each in result.pop("Contacts")] == [
        {"Tcpconn-Id": "three/1/6", "Node": "three/1"},
        {"Tcpconn-Id": "two/4", "Node": "two"},
        {"Tcpconn-Id": "two/5", "Node": "two"},
    ]
    assert result == {"AoR": "sip:a@b"}
    # What is missing is said, and is not taken for an answer.
    some: Any = found.merged({"two": registered(4), "one": REFUSED}, ["four"]).to_json()
    assert (some["Silent"], some["Failed"]) == ("four", "one: 500 Unknown command")
    with pytest.raises(CommandError, match="500 AOR not found in location table"):
        found.merged({"one": ABSENT, "two": ABSENT}, [])
    with pytest.raises(CommandError, match="504 The node has not answered: five, four"):
        found.merged({"one": ABSENT, "five": "strange"}, ["four"])
    with pytest.raises(CommandError, match="500 Unknown command"):
        found.merged({"one": ABSENT, "two": REFUSED}, [])
    by_name = errand_of("ul.lookup", {"node": "all", "table": "location", "aor": "a@b"})
    assert by_name is not None
    assert by_name.params("one") == {"table": "location", "aor": "a@b"}


def test_registrations_of_an_address_are_removed_wherever_they_are() -> None:
    found = errand("ul.rm", "all", "location", "a@b")
    absent = CommandError(ApplicationFault(500, "Failed to delete AOR"))
    assert found.merged({"one": absent, "two": {}}, []).to_json() == {"two": "done"}
    assert found.merged({"two": {}}, ["one"]).to_json() == {"two": "done", "Silent": "one"}
    with pytest.raises(CommandError, match="500 Failed to delete AOR"):
        found.merged({"one": absent}, [])


def test_an_address_that_is_not_here_may_be_elsewhere() -> None:
    assert str(explained(ABSENT)) == (
        "500 AOR not found in location table: at this node; all as the first parameter asks every "
        "node"
    )
    assert explained(REFUSED) is REFUSED


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    limit=st.integers(1, 7),
)
def test_every_connection_is_on_exactly_one_page(sizes: list[int], limit: int) -> None:
    servers = {f"node{index}": range(1, size + 1) for index, size in enumerate(sizes)}
    seen: list[str] = []
    params = ["all", f"limit={limit}"]
    for _ in range(sum(sizes) + 2):
        found = errand("ws.dump", *params)
        answers = {}
        for server in found.servers(servers):
            wanted: Any = found.params(server)
            numbers = [number for number in servers[server] if number > wanted.get("after", 0)]
            answers[server] = page(*numbers[:limit], more=len(numbers) > limit)
        result: Any = found.merged(answers, []).to_json()
        assert len(result["connections"]) <= limit
        seen += [each.partition(":")[0] for each in result["connections"]]
        if result["info"]["truncated"] == "no":
            break
        params = ["all", f"limit={limit}", f"after={result['info']['next']}"]
    assert seen == [f"{server}/{number}" for server in servers for number in servers[server]]

"""The management commands of an edge."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.server.management.commands import (
    ApplicationCommand,
    CommandError,
    CommandTable,
    EmptyResult,
    FactsResult,
    TreeResult,
)
from wsproto_sip.sip.edge.commands import add_sip_commands
from wsproto_sip.sip.edge.config import EdgeConfig, Upstream
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.registrar.domains import Domains

from .._phones import World


def table(world: World) -> CommandTable:
    commands = CommandTable()
    add_sip_commands(commands, world.edge)
    return commands


def result(world: World, name: str, *params: object) -> Any:
    command = table(world).parse(name, params)
    assert isinstance(command, ApplicationCommand)
    found = command.execute(world.now)
    return found.value if isinstance(found, TreeResult) else found


def test_registrations_are_shown_in_kamailios_form() -> None:
    world = World()
    alice = world.phone("alice")
    world.now += 10
    shown = result(world, "ul.dump")
    [domain] = shown["Domains"]
    assert domain["Domain"]["Domain"] == "location"
    assert domain["Domain"]["Stats"] == {"Records": 1, "Truncated": "no"}
    [address] = domain["Domain"]["AoRs"]
    assert address["Info"]["AoR"] == "sip:alice@sip.test"
    [contact] = address["Info"]["Contacts"]
    assert result(world, "ul.lookup", "alice@sip.test")["Contacts"] == [contact]
    details = contact["Contact"]
    assert details["Address"].startswith("sip:")
    assert (details["Expires"], details["Age"]) == (290, 10)
    assert details["Tcpconn-Id"] == alice.cid
    assert details["Q"] == 1.0
    assert (details["Path"], details["CSeq"]) == ("", 1)


def test_registrations_in_pages_and_in_brief() -> None:
    world = World()
    for user in ("a", "b", "c"):
        world.phone(user)
    domain = result(world, "ul.dump", "brief", "limit=2")["Domains"][0]["Domain"]
    assert domain["AoRs"] == [{"AoR": "sip:a@sip.test"}, {"AoR": "sip:b@sip.test"}]
    assert domain["Stats"] == {"Records": 3, "Truncated": "yes", "Next": 2}
    domain = result(world, "ul.dump", "brief", "offset=2")["Domains"][0]["Domain"]
    assert domain["AoRs"] == [{"AoR": "sip:c@sip.test"}]
    with pytest.raises(CommandError, match="the form must be brief"):
        result(world, "ul.dump", "long")


@pytest.mark.parametrize(
    "address",
    [
        ["location", "alice@sip.test"],
        ["alice@sip.test"],
        ["sip:alice@sip.test"],
        ["location", "sip:alice@sip.test"],
    ],
)
def test_an_address_is_looked_up_and_removed(address: list[str]) -> None:
    world = World()
    world.phone("alice")
    assert result(world, "ul.lookup", *address)["AoR"] == "sip:alice@sip.test"
    assert result(world, "ul.rm", *address) == EmptyResult()
    with pytest.raises(CommandError, match="500 AOR not found in location table"):
        result(world, "ul.lookup", *address)
    with pytest.raises(CommandError, match="500 Failed to delete AOR"):
        result(world, "ul.rm", *address)


def test_other_tables_and_none() -> None:
    world = World()
    with pytest.raises(CommandError, match="500 Domain table not found"):
        result(world, "ul.lookup", "aliases", "alice@sip.test")
    with pytest.raises(CommandError, match="500 Invalid Parameters: table is missing"):
        result(world, "ul.rm")


def test_requests_under_way_are_listed() -> None:
    world = World()
    alice, bob = world.phone("alice"), world.phone("bob")
    assert result(world, "tm.list") == []
    invite = alice.send("INVITE", "sip:bob@sip.test")
    bob.request("INVITE")
    [shown] = result(world, "tm.list")
    assert shown["method"] == "INVITE"
    assert shown["callid"] == invite.call_id
    assert shown["cseq"] == "1 INVITE"
    assert "alice@sip.test" in shown["from"]
    assert "bob@sip.test" in shown["to"]
    assert (shown["state"], shown["outgoings"], shown["connection"]) == ("proceeding", 1, alice.cid)
    assert shown["uri"].startswith("sip:")
    assert result(world, "tm.list", "offset=1") == []


def test_requests_of_the_upstream_have_no_connection() -> None:
    upstream = Upstream("core", "core.test", 5060, "192.0.2.9", 5070)
    edge = SipEdge(EdgeConfig("edge.test", Domains(("sip.test",)), 80, upstreams=(upstream,)))
    commands = CommandTable()
    add_sip_commands(commands, edge)
    assert [name for name in commands.names if name[:3] in ("ul.", "tm.")] == ["tm.list"]


def test_upstreams() -> None:
    upstream = Upstream("core", "core.test", 5060, "192.0.2.9", 5070)
    edge = SipEdge(EdgeConfig("edge.test", Domains(("sip.test",)), 80, upstreams=(upstream,)))
    commands = CommandTable()
    add_sip_commands(commands, edge)
    command = commands.parse("ws.upstreams", ())
    assert isinstance(command, ApplicationCommand)
    assert command.execute(0.0) == FactsResult({"core": "in service, 0 requests, 0 failures"})
    counts = edge.upstream_statistics["core"]
    counts.in_service, counts.requests, counts.failures = False, 2, 1
    assert command.execute(0.0) == FactsResult({"core": "out of service, 2 requests, 1 failures"})


def test_no_command_for_upstreams_without_any() -> None:
    assert "ws.upstreams" not in table(World()).names


def test_commands_are_added_once() -> None:
    world = World()
    commands = table(world)
    with pytest.raises(ValueError, match=r"command ul\.dump already exists"):
        add_sip_commands(commands, world.edge)

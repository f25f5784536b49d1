"""What an edge knows of its connections, and how it finds one."""

from __future__ import annotations

import pytest

from wsproto_sip.server.shares import Party
from wsproto_sip.sip import Flow, SipUri, Source
from wsproto_sip.sip.edge.connections import Connections, Peer

SOURCE = Source("192.0.2.1", 4000, "ws")


def test_connections() -> None:
    table = Connections(2**32 - 2)
    one = table.add(7, Peer(SOURCE))
    assert one.flow == Flow(7, 2**32 - 1)
    assert one.source is SOURCE
    assert (len(table), table.get(7), table.get(8)) == (1, one, None)
    assert table.of(one.flow) is one
    assert table.at(SOURCE) == one.flow
    with pytest.raises(ValueError, match="connection 7 exists already"):
        table.add(7, Peer(SOURCE))
    assert table.remove(7) is one
    assert table.remove(7) is None
    assert (len(table), table.at(SOURCE), table.is_alive(one.flow)) == (0, None, False)
    # The same number again is another flow.
    again = table.add(7, Peer(SOURCE))
    assert again.flow == Flow(7, 0)
    assert table.of(one.flow) is None


def test_requests_are_taken_from_the_share_of_the_user_if_that_is_known() -> None:
    table = Connections()
    one = table.add(7, Peer(SOURCE))
    assert (one.user, one.party) == (None, Party.stranger("192.0.2.1", 7))
    assert one.party is one.party
    one.registered = "sip:alice@core.test"
    assert one.party == Party.user("sip:alice@core.test", 7)
    one.proven.update(["bob", "alice"])
    assert (one.user, one.party) == ("alice", Party.user("alice", 7))
    assert table.add(8, Peer(SOURCE, "carol")).party == Party.user("carol", 8)


def test_sources_that_are_not_unique() -> None:
    table = Connections()
    source = Source("192.0.2.1", 65535, "ws")
    connections = [table.add(cid, Peer(source)) for cid in range(3)]
    assert [connection.alias.port for connection in connections] == [65535, 0, 1]
    assert [table.at(connection.alias) for connection in connections] == [
        connection.flow for connection in connections
    ]
    assert all(connection.source == source for connection in connections)
    table.remove(1)
    assert table.add(3, Peer(source)).alias.port == 0


def test_the_cost_of_a_connection() -> None:
    table = Connections()
    assert table.add(1, Peer(SOURCE)).address == SOURCE.host
    local = table.add(2, Peer(SOURCE, None, "unix-33"))
    assert local.address == "unix-33"
    assert local.party == Party.stranger("unix-33", 2)


def test_a_source_that_all_have_in_common() -> None:
    """However many there are, another one costs no more, and no two share an alias."""
    table = Connections(2**32 - 1)
    source = Source("192.0.2.1", 5060, "wss")
    connections = [table.add(cid, Peer(source)) for cid in range(200)]
    assert len({connection.alias for connection in connections}) == 200
    assert connections[63].alias == Source("192.0.2.1", 5123, "wss")
    assert connections[64].alias == Source("100::40", 5124, "wss")
    for connection in connections:
        assert table.at(connection.alias) == connection.flow
        table.remove(connection.flow.cid)
        assert table.at(connection.alias) is None


def test_gruus_lead_to_the_latest_connection() -> None:
    table = Connections()
    one, two = table.add(1, Peer(SOURCE)), table.add(2, Peer(SOURCE))
    gruu = SipUri.parse("sip:%61@Core.test;gr=urn:x")
    contacts = [SipUri.parse(f"sip:a{number}@x.invalid") for number in range(2)]
    assert table.with_gruu(gruu) is None
    table.add_gruu(one, gruu, contacts[0])
    assert table.with_gruu(SipUri.parse("sip:a@core.test;x;gr=urn:x")) == (one.flow, contacts[0])
    assert table.with_gruu(SipUri.parse("sip:a@core.test;gr=urn:y")) is None
    table.add_gruu(two, gruu, contacts[1])
    table.remove(1)
    assert table.with_gruu(gruu) == (two.flow, contacts[1])
    for number in range(200):
        table.add_gruu(two, gruu.with_param("gr", str(number)), contacts[1])
    assert len(two.gruus) == 100
    table.remove(2)
    assert table.with_gruu(gruu) is None


def test_a_connection_has_the_names_that_its_user_may_have_had() -> None:
    connection = Connections().add(1, Peer(Source("192.0.2.1", 4000, "ws")))
    assert connection.names == {""}
    connection.registered = "sip:alice@sip.test"
    assert connection.user in connection.names
    connection.proven |= {"alice", "bob"}
    assert connection.names == {"", "alice", "bob", "sip:alice@sip.test"}
    named = Connections().add(1, Peer(Source("192.0.2.1", 4000, "ws"), "carol"))
    assert named.names == {"", "carol"}

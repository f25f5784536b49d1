"""From a domain to its servers, with a DNS that is a table."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.rules.location import Answer, Location, Naptr, Question, Server, Srv, locate

Table = dict[tuple[str, str], Answer]


def located(table: Table, *arguments: object, **options: object) -> tuple[Location, list[str]]:
    """Return the location and the questions asked for it."""
    asked: list[str] = []
    search = locate(*arguments, **options)  # type: ignore[arg-type]
    try:
        question = next(search)
        while True:
            asked.append(f"{question.kind} {question.name}")
            question = search.send(table.get((question.kind, question.name), Answer()))
    except StopIteration as end:
        location: Location = end.value
    return location, asked


def naptr(service: str, replacement: str, order: int = 1, preference: int = 1) -> Naptr:
    return Naptr(order, preference, "s", service, replacement)


EXAMPLE: Table = {
    ("NAPTR", "example.test"): Answer(
        [
            naptr("SIP+D2U", "_sip._udp.example.test.", 2),
            naptr("SIP+D2T", "_sip._tcp.example.test.", 1, 2),
            naptr("E2U+sip", "x.test", 0),
            Naptr(0, 0, "a", "SIP+D2T", "host.test"),
            naptr("SIPS+D2T", "_sips._tcp.none.test.", 1, 1),
        ],
        3600.0,
    ),
    ("SRV", "_sips._tcp.none.test"): Answer([Srv(0, 0, 5061, ".")], 3000.0),
    ("SRV", "_sip._tcp.example.test"): Answer(
        [Srv(2, 1, 5060, "b.test."), Srv(1, 3, 5070, "a.test.")], 600.0
    ),
    ("A", "a.test"): Answer(["192.0.2.1", "192.0.2.2"], 300.0),
    ("AAAA", "a.test"): Answer(["2001:db8::1"], 200.0),
    ("A", "b.test"): Answer(["192.0.2.3"], 300.0),
}


def test_naptr_srv_and_addresses() -> None:
    location, asked = located(EXAMPLE, "example.test")
    assert location.servers == (
        Server("192.0.2.1", 5070, "tcp", 1, 3, "a.test"),
        Server("192.0.2.2", 5070, "tcp", 1, 3, "a.test"),
        Server("2001:db8::1", 5070, "tcp", 1, 3, "a.test"),
        Server("192.0.2.3", 5060, "tcp", 2, 1, "b.test"),
    )
    assert location.ttl == 200.0
    assert asked[:3] == [
        "NAPTR example.test",
        "SRV _sips._tcp.none.test",
        "SRV _sip._tcp.example.test",
    ]


def test_unusable_address_kinds_are_not_queried() -> None:
    location, asked = located(EXAMPLE, "example.test", kinds=("A",))
    assert not [question for question in asked if question.startswith("AAAA")]
    assert (len(location.servers), location.ttl) == (3, 300.0)


def test_given_transport_skips_naptr() -> None:
    table: Table = {("SRV", "_sip._udp.example.test"): Answer([Srv(0, 1, 5065, "192.0.2.9")], 60.0)}
    location, asked = located(table, "example.test", None, "udp")
    assert asked == ["SRV _sip._udp.example.test"]
    assert location == Location((Server("192.0.2.9", 5065, "udp", 0, 1, "192.0.2.9"),), 60.0)


def test_transports_are_tried_in_turn_without_naptr() -> None:
    table: Table = {
        ("SRV", "_sip._udp.example.test"): Answer([Srv(0, 1, 5060, "a.test")]),
        ("A", "a.test"): Answer(["192.0.2.1"]),
    }
    location, asked = located(table, "example.test", kinds=("A",))
    assert asked == [
        "NAPTR example.test",
        "SRV _sips._tcp.example.test",
        "SRV _sip._tcp.example.test",
        "SRV _sip._udp.example.test",
        "A a.test",
    ]
    assert [server.transport for server in location.servers] == ["udp"]


@pytest.mark.parametrize(
    ("transport", "expected"),
    [(None, ("udp", 5060)), ("tcp", ("tcp", 5060)), ("tls", ("tls", 5061))],
)
def test_name_itself_is_used_without_srv(transport: str | None, expected: tuple[str, int]) -> None:
    location, _ = located({("A", "a.test"): Answer(["192.0.2.1"], 7.0)}, "a.test", None, transport)
    (server,) = location.servers
    assert (server.transport, server.port, server.host) == (*expected, "a.test")
    assert location.ttl == 7.0


@pytest.mark.parametrize(
    ("arguments", "server", "asked"),
    [
        (("192.0.2.1",), ("192.0.2.1", 5060, "udp"), []),
        (("[2001:db8::1]", None, "tls"), ("2001:db8::1", 5061, "tls"), []),
        (("a.test.", 5070, "tcp"), ("192.0.2.1", 5070, "tcp"), ["A a.test"]),
        (("a.test", 5070), ("192.0.2.1", 5070, "udp"), ["A a.test"]),
    ],
)
def test_address_or_port_skips_naptr_and_srv(
    arguments: tuple[object, ...], server: tuple[str, int, str], asked: list[str]
) -> None:
    table: Table = {("A", "a.test"): Answer(["192.0.2.1"])}
    location, questions = located(table, *arguments, kinds=("A",))
    assert questions == asked
    (found,) = location.servers
    assert (found.address, found.port, found.transport) == server
    assert location.ttl == inf


def test_unresolvable_name_has_no_servers() -> None:
    location, _ = located(
        {("SRV", "_sip._tcp.a.test"): Answer([Srv(0, 0, 1, "b.test")], 5.0)}, "a.test"
    )
    assert location == Location((), 5.0)


RECORDS = st.one_of(
    st.builds(
        Naptr,
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(["s", "S", "a", ""]),
        st.sampled_from(["SIP+D2U", "sip+d2t", "SIPS+D2T", "x"]),
        st.sampled_from(["a.test", ".", "_sip._tcp.a.test."]),
    ),
    st.builds(
        Srv,
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 65535),
        st.sampled_from(["a.test", ".", "192.0.2.7"]),
    ),
    st.sampled_from(["192.0.2.1", "2001:db8::1"]),
)


@given(st.lists(st.builds(Answer, st.lists(RECORDS, max_size=4), st.floats(0, 1e6)), max_size=40))
def test_any_answers_lead_to_a_location(answers: list[Answer]) -> None:
    """Even answers of the wrong kind, and any number of them."""
    search = locate("example.test")
    remaining = iter(answers)
    try:
        question = next(search)
        for _ in range(1000):
            assert isinstance(question, Question)
            question = search.send(next(remaining, Answer()))
    except StopIteration as end:
        location = end.value
    ranks = [server.priority for server in location.servers]
    assert ranks == sorted(ranks)

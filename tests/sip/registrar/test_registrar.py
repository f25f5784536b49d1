from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.sip._location import Location
from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest, SipResponse
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Asked, Registrar, RegistrarConfig, Removal
from wsproto_sip.sip.registrar.store import (
    Binding,
    Conflict,
    Done,
    Found,
    Lookup,
    Node,
    NotAsked,
    Update,
)
from wsproto_sip.sip.rules.outbound import Flow
from wsproto_sip.sip.rules.routing import Rejection

FLOW = Flow(1, 1)
SOURCE = Source("192.0.2.1", 4000, "ws")
CONTACT = "<sip:a1@x.invalid;transport=ws>"
OUTBOUND = CONTACT + ';+sip.ice;reg-id=1;+sip.instance="<urn:uuid:1>"'
SUPPORTED = "path, gruu, outbound"
_calls = count(1)


def entropy() -> Callable[[int], bytes]:
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def registrar(**options: object) -> Registrar:
    any_host = bool(options.pop("any_host", False))
    domains = Domains(("sip.test", "Other.test"), any_host)
    config = RegistrarConfig(domains, **options)  # type: ignore[arg-type]
    return Registrar(config, entropy=entropy())


def register(
    *contacts: str,
    user: str = "alice",
    to: str | None = None,
    expires: int | str | None = None,
    call_id: str | None = None,
    cseq: int = 1,
    **fields: str,
) -> SipRequest:
    lines = [
        "REGISTER sip:sip.test SIP/2.0",
        *[
            f"Via: {via}"
            for via in fields.pop("via", "SIP/2.0/WS x.invalid;branch=z9hG4bK1").split("|")
        ],
        f"From: <sip:{user}@sip.test>;tag=1",
        f"To: {to or f'<sip:{user}@sip.test>'}",
        f"Call-ID: {call_id or f'call-{next(_calls)}'}",
        f"CSeq: {cseq} REGISTER",
        *[f"Contact: {contact}" for contact in contacts],
        *([] if expires is None else [f"Expires: {expires}"]),
        *[f"{name}: {value}" for name, value in fields.items()],
    ]
    message = parse_message("\r\n".join([*lines, "", ""]))
    assert isinstance(message, SipRequest)
    return message


def contacts(response: SipResponse) -> list[str]:
    assert response.status == 200
    return response.values("contact")


def found(server: Registrar, uri: str, now: float = 0.0) -> list[str] | int:
    outcome = server.lookup(SipUri.parse(uri), now)
    if isinstance(outcome, Rejection):
        return outcome.status
    return [str(binding.uri) for binding in outcome]


# -- bindings --------------------------------------------------------------------------------------


def test_register_refresh_and_remove() -> None:
    server = registrar()
    assert found(server, "sip:alice@sip.test") == 404
    answer = server.register(register(CONTACT, expires=120), 0.0, flow=FLOW, source=SOURCE)
    assert contacts(answer) == [f"{CONTACT};expires=120"]
    assert answer.to.tag is not None
    assert "require" not in answer
    assert found(server, "sip:%61lice@SIP.test:5060;transport=ws") == [
        "sip:a1@x.invalid;transport=ws"
    ]
    assert contacts(server.register(register(), 20.5)) == [f"{CONTACT};expires=100"]
    again = server.register(register(CONTACT + ";expires=300", expires=120), 60.0, flow=FLOW)
    assert contacts(again) == [f"{CONTACT};expires=300"]
    assert contacts(server.register(register(CONTACT, expires=0), 70.0, flow=FLOW)) == []
    assert found(server, "sip:alice@sip.test", 70.0) == 404
    assert len(server.store) == 0


def test_a_user_is_the_same_in_all_domains_and_unknown_elsewhere() -> None:
    server = registrar()
    server.register(register(CONTACT, to="<sips:alice@other.TEST>"), 0.0)
    assert found(server, "sip:alice@sip.test") == ["sip:a1@x.invalid;transport=ws"]
    assert found(server, "sip:alice@example.com") == 404
    assert found(server, "sip:sip.test") == 404
    assert server.register(register(CONTACT, to="<sip:alice@example.com>"), 0.0).status == 404
    assert server.register(register(CONTACT, to="<sip:sip.test>"), 0.0).status == 404


def test_any_domain() -> None:
    server = registrar(any_host=True)
    server.register(register(CONTACT, to="<sip:alice@192.0.2.7>"), 0.0)
    assert found(server, "sip:alice@localhost") == ["sip:a1@x.invalid;transport=ws"]
    assert found(server, "sip:alice@x.Invalid") == 404
    assert found(server, "sip:alice@x.invalid.") == 404


def test_bindings_are_shown_and_removed_by_address() -> None:
    server = registrar()
    server.register(register(CONTACT, expires=120), 0.0, flow=FLOW, source=SOURCE)
    [aor] = server.store.page(0, 9)
    assert [str(binding.uri) for binding in server.bindings_of(aor, 119.0)] == [
        "sip:a1@x.invalid;transport=ws"
    ]
    assert server.bindings_of(aor, 120.0) == []
    assert server.remove(aor, 1.0) == 1
    assert server.remove(aor, 1.0) == 0
    assert server.removed[Removal.ADMINISTRATOR] == 1
    assert found(server, aor) == 404


def test_several_contacts_by_preference_and_age() -> None:
    server = registrar()
    one = register("<sip:1@x.invalid>;q=0.5", "<sip:2@x.invalid>;q=0.7, <sip:3@x.invalid>;q=0.5")
    server.register(one, 0.0)
    server.register(register("<sip:4@x.invalid>;q=0.5"), 1.0)
    assert found(server, "sip:alice@sip.test", 2.0) == [
        f"sip:{number}@x.invalid" for number in (2, 4, 1, 3)
    ]


def test_contacts_are_compared_as_uris() -> None:
    server = registrar()
    server.register(register("<sip:a@x.invalid;transport=ws>"), 0.0)
    server.register(register("<SIP:%61@X.invalid;transport=WS>"), 1.0)
    assert len(contacts(server.register(register(), 1.0))) == 1


@pytest.mark.parametrize(
    ("contact", "header", "seconds"),
    [
        (CONTACT, None, 600),
        (CONTACT, "90", 90),
        (CONTACT + ";expires=91", "90", 91),
        (CONTACT + ";expires=soon", "90", 600),
        (CONTACT, "4294967296", 600),
        (CONTACT, "4294967295", 7200),
        (CONTACT, "60", 60),
    ],
)
def test_for_how_long(contact: str, header: str | None, seconds: int) -> None:
    answer = registrar().register(register(contact, expires=header), 5.0)
    assert contacts(answer) == [f"{CONTACT};expires={seconds}"]


def test_too_brief() -> None:
    server = registrar()
    answer = server.register(register(CONTACT, "<sip:b@x.invalid>;expires=59"), 0.0)
    assert answer.status == 423
    assert answer.get("min-expires") == "60"
    assert found(server, "sip:alice@sip.test") == 404


def test_bindings_expire() -> None:
    server = registrar()
    assert server.next_deadline() is None
    server.register(register(CONTACT, "<sip:b@x.invalid>;expires=90", expires=60), 0.0)
    assert server.next_deadline() == 60.0
    assert found(server, "sip:alice@sip.test", 59.9) == [
        "sip:a1@x.invalid;transport=ws",
        "sip:b@x.invalid",
    ]
    # Whether or not handle_timeout was called.
    assert found(server, "sip:alice@sip.test", 60.0) == ["sip:b@x.invalid"]
    server.handle_timeout(59.0)
    assert len(server.store.get("sip:alice@sip.test")) == 2
    server.handle_timeout(60.0)
    assert len(server.store.get("sip:alice@sip.test")) == 1
    assert server.next_deadline() == 90.0
    server.handle_timeout(90.0)
    assert len(server.store) == 0
    assert server.next_deadline() is None


def test_star() -> None:
    server = registrar()
    server.register(register(CONTACT, call_id="one", cseq=5), 0.0)
    assert server.register(register("*"), 0.0).status == 400
    assert server.register(register("*", expires=60), 0.0).status == 400
    assert server.register(register("*", CONTACT, expires=0), 0.0).status == 400
    assert server.register(register("*", expires=0, call_id="one", cseq=5), 0.0).status == 500
    assert len(contacts(server.register(register(), 0.0))) == 1
    assert contacts(server.register(register("*", expires=0, call_id="one", cseq=6), 0.0)) == []
    assert len(server.store) == 0


def test_order() -> None:
    server = registrar()
    server.register(register(CONTACT, call_id="one", cseq=5), 0.0)
    for cseq in (4, 5):
        late = register("<sip:new@x.invalid>", CONTACT, expires=0, call_id="one", cseq=cseq)
        assert server.register(late, 1.0).status == 500
    assert found(server, "sip:alice@sip.test") == ["sip:a1@x.invalid;transport=ws"]
    assert server.register(register(CONTACT, call_id="two", cseq=1), 1.0).status == 200


@pytest.mark.parametrize(
    ("contact", "status"),
    [
        ("<sip:a@x.invalid?subject=x>", 400),
        ("<mailto:a@x.invalid>", 416),
        ("<sip:a@x.invalid>;q=2", 400),
        ('<sip:a@x.invalid>;+sip.instance="urn"', 400),
        ('<sip:a@x.invalid>;reg-id=0;+sip.instance="<urn>"', 400),
        ("sip:a b", 400),
    ],
)
def test_bad_contacts_change_nothing(contact: str, status: int) -> None:
    server = registrar()
    request = register(CONTACT, contact, Supported=SUPPORTED)
    assert server.register(request, 0.0).status == status
    assert len(server.store) == 0


def test_a_reg_id_without_an_instance_is_ignored() -> None:
    """RFC 5626 §6."""
    answer = registrar().register(register(f"{CONTACT};reg-id=1", Supported=SUPPORTED), 0.0)
    assert answer.status == 200
    assert "require" not in answer


def test_what_cannot_be_written_is_a_bad_request() -> None:
    server = registrar()
    request = register(f'{CONTACT};+sip.instance="<\\\0>"', Supported="gruu")
    answer = server.register(request, 0.0)
    assert answer.status in (200, 400)
    assert b"\0" not in answer.to_bytes().replace(b"\\\0", b"")


def test_writing_errors_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsproto_sip.sip.message.errors import SipValueError
    from wsproto_sip.sip.registrar import registrar as module

    def fail(*_: object) -> None:
        raise SipValueError("cannot be written")

    monkeypatch.setattr(module, "copy_path", fail)
    assert registrar().register(register(CONTACT, Supported="path"), 0.0).status == 400


# -- permission ------------------------------------------------------------------------------------


def test_only_known_users() -> None:
    server = Registrar(
        RegistrarConfig(Domains(("sip.test",))), is_known={"alice", "bob"}.__contains__
    )
    assert server.register(register(CONTACT, user="carol"), 0.0).status == 404
    assert found(server, "sip:carol@sip.test") == 404
    assert found(server, "sip:bob@sip.test") == 480
    assert server.register(register(CONTACT), 0.0).status == 200
    assert len(found(server, "sip:alice@sip.test")) == 1  # type: ignore[arg-type]


def test_only_ones_own_bindings() -> None:
    server = registrar()
    assert server.register(register(CONTACT), 0.0, user="bob").status == 403
    assert server.register(register(CONTACT), 0.0, user="alice").status == 200


def test_room() -> None:
    server = registrar(max_contacts=2, max_aors=3, max_aors_per_flow=2)
    three = [f"<sip:{number}@x.invalid>" for number in range(3)]
    assert server.register(register(*three), 0.0).status == 503
    assert server.register(register(*three[:2]), 0.0, flow=FLOW).status == 200
    assert server.register(register(*three[:2]), 1.0, flow=FLOW).status == 200
    assert server.register(register(three[2]), 1.0, flow=FLOW).status == 503
    assert server.register(register(CONTACT, user="bob"), 0.0, flow=FLOW).status == 200
    assert server.register(register(CONTACT, user="carol"), 0.0, flow=FLOW).status == 503
    assert server.register(register(CONTACT, user="carol"), 0.0, flow=Flow(2, 1)).status == 200
    assert server.register(register(CONTACT, user="dave"), 0.0).status == 503
    assert server.register(register(CONTACT, expires=0), 0.0).status == 200


def test_contacts_without_room_are_not_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would be compared with all others: thousands of them in one REGISTER cost seconds."""
    server = registrar(max_contacts=2)
    monkeypatch.setattr(server, "_merge", None)
    three = [f"<sip:{number}@x.invalid>;expires=0" for number in range(3)]
    assert server.register(register(*three), 0.0).status == 503


def test_all_bindings_have_a_bound_together() -> None:
    server = registrar(binding_bytes=ShareConfig(3400, reserve=0))

    def answered(user: str, now: float, expires: int = 300, flow: Flow | None = None) -> int:
        request = register(CONTACT, user=user, expires=expires)
        return server.register(request, now, flow=flow, user=user).status

    assert answered("alice", 0.0, flow=FLOW) == 200
    used = server._shares.held
    assert 1024 < used < 1100
    # Another one in its place is not another one beside it.
    assert answered("alice", 1.0, flow=FLOW) == 200
    assert answered("bob", 1.0) == 200
    assert answered("carol", 2.0) == 503
    assert server._shares.held == 2 * used
    server.flow_lost(FLOW, 0.0)
    assert server._shares.held == used
    assert answered("carol", 2.0) == 200
    assert answered("carol", 3.0, expires=0) == 200
    assert server._shares.held == used
    server.handle_timeout(10_000.0)
    assert (server._shares.held, len(server.store), server._claims) == (0, 0, {})


def test_one_address_that_registers_everybody_leaves_room_for_others() -> None:
    server = registrar(binding_bytes=ShareConfig(64 * 1024), max_aors_per_flow=1000)
    eve, other = Source("203.0.113.9", 1000, "ws"), Source("198.51.100.7", 1000, "ws")
    statuses = [
        server.register(register(CONTACT, user=f"u{n}"), 0.0, flow=FLOW, source=eve).status
        for n in range(100)
    ]
    assert 5 < statuses.count(200) < 24
    assert statuses[-1] == 503
    last = register(CONTACT, user="bob")
    assert server.register(last, 0.0, flow=Flow(9, 9), source=other).status == 200


def test_a_binding_that_shrinks_gives_back_what_it_no_longer_needs() -> None:
    server = registrar()
    sizes = []
    for number, padding in enumerate((10, 500, 300, 400, 0)):
        contact = f"<sip:alice@x.invalid>;p={'x' * (padding + 1)}"
        assert (
            server.register(
                register(contact, call_id="call", cseq=number + 1), 0.0, user="alice"
            ).status
            == 200
        )
        sizes.append(server._shares.held)
    assert [size - sizes[0] for size in sizes] == [0, 490, 290, 390, -10]
    assert len(server._claims["sip:alice@sip.test"]) <= 3


def test_a_binding_has_a_bound() -> None:
    server = registrar(max_binding_bytes=400)
    path = "<sip:edge.test;lr>"
    assert server.register(register(CONTACT, Path=path), 0.0).status == 200
    assert server.register(register(CONTACT, Path=", ".join([path] * 30)), 1.0).status == 513
    assert server.register(register(f"{CONTACT};a={'x' * 400}"), 2.0).status == 513
    # What was there stays.
    (binding,) = server.store.get("sip:alice@sip.test")
    assert len(binding.path) == 1


@pytest.mark.parametrize(
    "options", [{"min_expires": 0}, {"min_expires": 601}, {"max_expires": 599}]
)
def test_bad_configurations(options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        registrar(**options)


# -- alias mode ------------------------------------------------------------------------------------


def test_received_without_outbound() -> None:
    server = registrar(outbound=False)
    answer = server.register(
        register(OUTBOUND + ';received="sip:evil"', Supported=SUPPORTED),
        0.0,
        flow=FLOW,
        source=SOURCE,
    )
    assert contacts(answer) == [
        f'{OUTBOUND};expires=600;received="sip:192.0.2.1:4000;transport=ws"'
    ]
    assert answer.tokens("supported") == ["path"]
    assert "require" not in answer
    assert "flow-timer" not in answer
    assert "received" not in contacts(registrar(outbound=False).register(register(CONTACT), 0.0))[0]


# -- Outbound --------------------------------------------------------------------------------------


def test_outbound() -> None:
    server = registrar(flow_timer=90)
    answer = server.register(register(OUTBOUND, Supported=SUPPORTED), 0.0, flow=FLOW, source=SOURCE)
    assert answer.tokens("supported") == ["outbound", "path", "gruu"]
    assert answer.tokens("require") == ["outbound"]
    assert answer.get("flow-timer") == "90"
    (contact,) = answer.contacts or []
    assert contact.params.get("pub-gruu") == "sip:alice@sip.test;gr=urn:uuid:1"
    assert (contact.params.get("temp-gruu") or "").startswith("sip:tgruu.")
    assert "received" not in contact.params
    assert contact.params.get("+sip.instance") == "<urn:uuid:1>"
    assert contact.params.get("reg-id") == "1"


def test_one_contact_for_each_instance_and_reg_id() -> None:
    server = registrar()

    def add(user_part: str, instance: str, number: int, flow: Flow, now: float) -> list[str]:
        contact = f'<sip:{user_part}@x.invalid>;reg-id={number};+sip.instance="<{instance}>"'
        server.register(register(contact, Supported="outbound"), now, flow=flow)
        found_now = found(server, "sip:alice@sip.test", now)
        assert isinstance(found_now, list)
        return sorted([uri[4:5] for uri in found_now])

    assert add("a", "urn:1", 1, FLOW, 0.0) == ["a"]
    assert add("b", "urn:1", 2, Flow(2, 1), 1.0) == ["a", "b"]
    assert add("c", "urn:1", 1, Flow(3, 1), 2.0) == ["b", "c"]
    assert add("d", "urn:2", 1, Flow(4, 1), 3.0) == ["b", "c", "d"]
    assert server.flow_lost(FLOW, 0.0) == 0
    assert server.flow_lost(Flow(3, 1), 0.0) == 1
    assert found(server, "sip:alice@sip.test") == ["sip:d@x.invalid", "sip:b@x.invalid"]


def test_an_ordinary_binding_does_not_replace_an_outbound_one() -> None:
    server = registrar()
    server.register(register(OUTBOUND, Supported="outbound"), 0.0)
    server.register(register(OUTBOUND), 0.0)
    assert len(contacts(server.register(register(), 0.0))) == 2


@pytest.mark.parametrize("fields", [("outbound", ""), ("", "outbound")])
@pytest.mark.parametrize("expires", [0, 300])
def test_a_client_that_begins_or_stops_to_use_outbound_is_one_client(
    fields: tuple[str, str], expires: int
) -> None:
    """It has registered one Contact on one connection, and a call arrives there once."""
    server = registrar()
    for number, supported in enumerate(fields):
        request = register(OUTBOUND, expires=expires if number else 300, Supported=supported)
        answer = server.register(request, float(number), flow=FLOW)
    assert len(contacts(answer)) == bool(expires)


@pytest.mark.parametrize(
    ("contact", "flow"),
    [(OUTBOUND, Flow(2, 1)), (OUTBOUND.replace("a1", "a2"), FLOW), (OUTBOUND, None)],
)
def test_without_outbound_another_contact_or_connection_is_another_binding(
    contact: str, flow: Flow | None
) -> None:
    server = registrar()
    server.register(register(OUTBOUND, Supported="outbound"), 0.0, flow=FLOW)
    assert len(contacts(server.register(register(contact), 1.0, flow=flow))) == 2


def test_a_first_hop_without_outbound() -> None:
    server = registrar()
    vias = "SIP/2.0/UDP p.test;branch=z9hG4bK2|SIP/2.0/WS x.invalid;branch=z9hG4bK1"
    request = register(OUTBOUND, via=vias, Supported=SUPPORTED, Path="<sip:t@p.test;lr>")
    assert server.register(request, 0.0).status == 439
    request = register(OUTBOUND, via=vias, Supported=SUPPORTED, Path="<sip:t@p.test;lr;ob>")
    answer = server.register(request, 0.0)
    assert answer.status == 200
    assert answer.values("path") == ["<sip:t@p.test;lr;ob>"]
    outcome = server.lookup(SipUri.parse("sip:alice@sip.test"), 0.0)
    assert isinstance(outcome, list)
    assert [str(value) for value in outcome[0].path] == ["<sip:t@p.test;lr;ob>"]


def test_path_is_sent_only_to_clients_that_support_it() -> None:
    answer = registrar().register(register(CONTACT, Path="<sip:p.test;lr>"), 0.0)
    assert answer.status == 200
    assert "path" not in answer


# -- GRUU ------------------------------------------------------------------------------------------


def test_gruus_lead_to_their_instance() -> None:
    server = registrar()
    other = OUTBOUND.replace("a1", "a2").replace("urn:uuid:1", "urn:uuid:2")
    answer = server.register(register(OUTBOUND, call_id="one", Supported=SUPPORTED), 0.0, flow=FLOW)
    server.register(register(other, Supported=SUPPORTED), 0.0)
    (contact,) = answer.contacts or []
    temporary = contact.params.get("temp-gruu") or ""
    mine = ["sip:a1@x.invalid;transport=ws"]
    assert found(server, "sip:alice@sip.test;gr=urn:uuid:1") == mine
    assert found(server, "sip:alice@sip.test;gr=urn:uuid:3") == 480
    assert found(server, "sip:bob@sip.test;gr=urn:uuid:1") == 404
    assert found(server, temporary) == mine
    assert found(server, "sip:alice@sip.test;gr") == 404
    # A refresh makes another one, and the old one goes on.
    again = server.register(
        register(OUTBOUND, call_id="one", cseq=2, Supported=SUPPORTED), 1.0, flow=FLOW
    )
    newer = [c.params.get("temp-gruu") or "" for c in again.contacts or []]
    assert temporary not in newer
    assert mine in [found(server, uri, 1.0) for uri in newer]
    assert found(server, temporary, 1.0) == mine
    # Another Call-ID ends them.
    server.register(register(OUTBOUND, call_id="two", Supported=SUPPORTED), 2.0, flow=FLOW)
    assert found(server, temporary, 2.0) == 404
    server.flow_lost(FLOW, 0.0)
    assert found(server, "sip:alice@sip.test;gr=urn:uuid:1", 3.0) == 480
    assert found(server, "sip:alice@sip.test", 3.0) == ["sip:a2@x.invalid;transport=ws"]


def test_a_temporary_gruu_of_several_flows() -> None:
    server = registrar()
    for number in (1, 2):
        server.register(
            register(
                OUTBOUND.replace("reg-id=1", f"reg-id={number}").replace("a1", f"a{number}"),
                call_id="one", cseq=number, Supported=SUPPORTED,
            ),
            float(number),
            flow=Flow(number, 1),
        )  # fmt: skip
    answer = server.register(register(Supported="gruu"), 2.0)
    for contact in answer.contacts or []:
        uris = found(server, contact.params.get("temp-gruu") or "", 2.0)
        assert uris == ["sip:a2@x.invalid;transport=ws", "sip:a1@x.invalid;transport=ws"]


def test_gruus_only_on_request() -> None:
    server = registrar()
    answer = server.register(register(OUTBOUND, Supported="outbound"), 0.0)
    assert "gruu=" not in contacts(answer)[0]
    server.register(register(OUTBOUND, Supported=SUPPORTED), 0.0)
    assert "gruu=" not in contacts(server.register(register(), 0.0))[0]


# -- against a model -------------------------------------------------------------------------------

USERS = ("alice", "bob")
PARTS = ("a", "b", "c")


class RegistrarMachine(RuleBasedStateMachine):
    """A registrar, and dictionaries that say what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Registrar(
            RegistrarConfig(Domains(("sip.test",)), min_expires=10, max_contacts=100)
        )
        self.now = 0.0
        #: By user and what identifies a contact: URI, flow and end.
        self.model: dict[str, dict[object, tuple[str, int, float]]] = {user: {} for user in USERS}

    @rule(
        user=st.sampled_from(USERS),
        part=st.sampled_from(PARTS),
        flow=st.integers(1, 3),
        seconds=st.sampled_from([0, 5, 10, 100]),
        outbound=st.none() | st.tuples(st.sampled_from(["urn:1", "urn:2"]), st.integers(1, 2)),
    )
    def register(
        self, user: str, part: str, flow: int, seconds: int, outbound: tuple[str, int] | None
    ) -> None:
        contact = f"<sip:{part}@x.invalid>;expires={seconds}"
        key: object = part
        if outbound is not None:
            contact += f';reg-id={outbound[1]};+sip.instance="<{outbound[0]}>"'
            key = outbound
        request = register(contact, user=user, Supported=SUPPORTED)
        answer = self.server.register(request, self.now, flow=Flow(flow, 1), source=SOURCE)
        if seconds == 5:
            assert answer.status == 423
            return
        assert answer.status == 200
        self.expire()
        for other, value in list(self.model[user].items()):
            # The same Contact on the same connection, once with Outbound and once without.
            if value[:2] == (part, flow) and (outbound is None or isinstance(other, str)):
                del self.model[user][other]
        if seconds:
            self.model[user].pop(key, None)
            self.model[user][key] = (part, flow, self.now + seconds)
        else:
            self.model[user].pop(key, None)
        assert len(contacts(answer)) == len(self.model[user])

    @rule(user=st.sampled_from(USERS))
    def clear(self, user: str) -> None:
        answer = self.server.register(register("*", user=user, expires=0), self.now)
        assert contacts(answer) == []
        self.model[user].clear()

    @rule(flow=st.integers(1, 3))
    def lose(self, flow: int) -> None:
        self.expire()
        self.server.handle_timeout(self.now)
        lost = 0
        for bindings in self.model.values():
            for key in [key for key, value in bindings.items() if value[1] == flow]:
                del bindings[key]
                lost += 1
        assert self.server.flow_lost(Flow(flow, 1), 0.0) == lost

    @rule(seconds=st.sampled_from([1, 10, 90]), tell=st.booleans())
    def wait(self, seconds: int, tell: bool) -> None:
        self.now += seconds
        if tell:
            self.server.handle_timeout(self.now)
            assert (self.server.next_deadline() or self.now + 1) > self.now

    def expire(self) -> None:
        for bindings in self.model.values():
            for key in [key for key, value in bindings.items() if value[2] <= self.now]:
                del bindings[key]

    @invariant()
    def the_same_bindings(self) -> None:
        self.expire()
        for user in USERS:
            expected = sorted([value[:2] for value in self.model[user].values()])
            outcome = self.server.lookup(SipUri.parse(f"sip:{user}@sip.test"), self.now)
            if isinstance(outcome, Rejection):
                assert outcome.status == 404
                outcome = []
            assert sorted([shape(binding) for binding in outcome]) == expected


def shape(binding: Binding) -> tuple[str, int]:
    assert binding.flow is not None
    return binding.uri.user or "", binding.flow.cid


RegistrarMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None
)
TestRegistrar = RegistrarMachine.TestCase

_VALUES = st.lists(
    st.sampled_from([*'<>;="\\,@:*?% \t\0', "sip:", "q", "expires", "é", "reg-id", "1", "urn"]),
    max_size=12,
).map("".join)


@given(_VALUES, _VALUES, _VALUES, _VALUES)
def test_hostile_fields(contact: str, to: str, supported: str, path: str) -> None:
    text = (
        "REGISTER sip:sip.test SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n"
        f"From: <sip:a@sip.test>;tag=1\r\nTo: <sip:a@sip.test>{to}\r\nCall-ID: c\r\n"
        f"CSeq: 1 REGISTER\r\nContact: <sip:a@x.invalid>{contact}\r\nSupported: {supported}\r\n"
        f"Path: {path}\r\n\r\n"
    )
    server = registrar()
    try:
        request = parse_message(text)
    except SipParseError:
        return
    assert isinstance(request, SipRequest)
    answer = server.register(request, 0.0, flow=FLOW, source=SOURCE)
    assert parse_message(answer.to_bytes()).start_line == answer.start_line
    assert (answer.status == 200) == bool(len(server.store)) or "expires=0" in contact


@pytest.mark.parametrize("outbound", [True, False])
def test_a_contact_that_leads_back_to_the_registrar_is_refused(outbound: bool) -> None:
    server = registrar(outbound=outbound)
    answer = server.register(
        register(f'{CONTACT};+sip.instance="<urn:uuid:1>"', Supported="gruu"), 0.0
    )
    contact = (answer.contacts or [])[0]
    own = ["sip:alice@sip.test", "sip:%61lice@SIP.TEST", "sips:alice@sip.test"]
    own.append("sip:alice@sip.test;gr=urn:uuid:1")
    if outbound:
        own.append(contact.params.get("temp-gruu") or "")
    for uri in own:
        refused = server.register(register(f"<{uri}>"), 1.0)
        assert refused.status == 403
    assert found(server, "sip:alice@sip.test", 1.0) == [str(contact.uri)]
    for uri in (
        "sip:alice@x.invalid",
        "sip:alice@elsewhere.test;gr=urn:uuid:1",
        "sip:bob@sip.test",
    ):
        assert server.register(register(f"<{uri}>"), 2.0).status == 200


def test_with_any_host_only_the_address_itself_leads_back() -> None:
    server = registrar(any_host=True)
    assert server.register(register("<sip:alice@sip.test>"), 0.0).status == 403
    assert server.register(register("<sip:alice@192.0.2.7>"), 0.0).status == 200


def test_a_client_is_found_by_its_contact() -> None:
    server = registrar()
    server.register(register(CONTACT, expires=60), 0.0, flow=FLOW)

    def looked_up(uri: str, now: float = 1.0) -> list[str] | int:
        outcome = server.lookup_contact(SipUri.parse(uri), now)
        if isinstance(outcome, Rejection):
            return outcome.status
        return [str(each.uri) for each in outcome]

    uri = "sip:a1@x.invalid;transport=ws"
    for written in (uri, "sip:%611@X.invalid;ob", "sip:a1@x.invalid;alias=192.0.2.1~4000~5"):
        assert looked_up(written) == [uri]
    for other in ("sip:a2@x.invalid", "sip:a1@x.invalid:5060", "sip:x.invalid"):
        assert looked_up(other) == 404
    assert looked_up(uri, 60.0) == 404
    # The same client under two names, and another user who registers the same Contact.
    server.register(register(CONTACT, user="alias"), 1.0, flow=FLOW)
    assert looked_up(uri) == [uri]
    server.register(register(CONTACT, user="mallory"), 1.0, flow=Flow(2, 1))
    assert looked_up(uri) == 485


def test_a_client_that_reconnects_again_and_again_keeps_its_place() -> None:
    """Without a reg-id, each of its Contacts is another binding; other clients keep theirs."""
    server = registrar(max_contacts=3)
    other = '<sip:other@y.invalid>;+sip.instance="<urn:uuid:other>"'
    assert server.register(register(other), 0.0, flow=Flow(100, 1)).status == 200
    for number in range(1, 12):
        contact = f'<sip:a{number}@x.invalid>;+sip.instance="<urn:uuid:1>"'
        answer = server.register(register(contact), float(number), flow=Flow(number, 1))
        assert answer.status == 200
        assert len(answer.contacts or []) <= 3
    assert found(server, "sip:alice@sip.test", 12.0) == [
        "sip:a11@x.invalid",
        "sip:a10@x.invalid",
        "sip:other@y.invalid",
    ]
    # Another client, and one that does not say which it is, find no place.
    for contact in ('<sip:c@z.invalid>;+sip.instance="<urn:uuid:2>"', "<sip:c@z.invalid>"):
        assert server.register(register(contact), 12.0).status == 503


@pytest.mark.parametrize("to", ["<isbn:2983792873>", "<tel:+1>"])
def test_an_address_of_another_scheme_cannot_be_registered(to: str) -> None:
    """RFC 4475 §3.3.4, unksm2."""
    assert registrar().register(register(CONTACT, to=to), 0.0).status == 400


def test_changes_are_reported_to_the_observer() -> None:
    server = registrar()
    told: list[tuple[str, str]] = []
    server.observer = lambda change, now: told.append((str(change.aor), change.change.value))
    refusals: list[Rejection] = []
    server.register(register(CONTACT), 0.0, refused=refusals.append)
    server.register(register(CONTACT), 1.0)
    server.register(register(CONTACT, expires=0), 2.0)
    assert [what for _, what in told] == ["added", "refreshed", "removed"]
    assert not refusals
    answer = server.register(register(user="nobody", to="<sip:b@elsewhere.test>"), 3.0)
    server.register(
        register(user="nobody", to="<sip:b@elsewhere.test>"), 3.0, refused=refusals.append
    )
    assert [refusal.status for refusal in refusals] == [answer.status]
    assert server.refused == {}


# -- a node of several -----------------------------------------------------------------------------

ALICE = "sip:alice@sip.test"
DOWN = Unavailable("down", 7)


def node(name: str = "one", **options: object) -> Registrar:
    config = RegistrarConfig(Domains(("sip.test",)), **options)  # type: ignore[arg-type]
    return Registrar(config, node=Node(name, "1"), entropy=entropy())


def planned(server: Registrar, request: SipRequest, now: float = 0.0, flow: Flow = FLOW) -> Asked:
    asked = server.plan(request, now, flow=flow)
    assert isinstance(asked, Asked)
    return asked


def finished(
    server: Registrar, location: Location, request: SipRequest, now: float = 0.0, flow: Flow = FLOW
) -> SipResponse:
    """Register with a location store that answers at once."""
    outcome = server.plan(request, now, flow=flow)
    while isinstance(outcome, Asked):
        assert server.node is not None
        answer = location.ask(server.node, outcome.question)
        outcome = server.proceed(outcome, answer, now)
    return outcome


def run_errands(server: Registrar, location: Location, now: float = 0.0) -> list[Update]:
    asked = []
    assert server.node is not None
    while taken := server.errands.take(now):
        for number, question in taken:
            asked.append(question)
            server.errands.answered(number, location.ask(server.node, question), now)
    return asked


def names(location: Location) -> list[str]:
    return [str(each.uri) for each in location.bindings(ALICE)]


def test_a_node_asks_and_a_single_registrar_does_not() -> None:
    with pytest.raises(ValueError, match="has to ask"):
        node().register(register(CONTACT), 0.0)
    answer = registrar().plan(register(CONTACT), 0.0)
    assert isinstance(answer, SipResponse)
    assert node().plan(register(CONTACT, to="<sip:alice@elsewhere.test>"), 0.0).status == 404  # type: ignore[union-attr]


def test_bindings_end_by_the_wall_clock() -> None:
    server = registrar()
    server.epoch = 1_000_000.0
    assert contacts(server.register(register(CONTACT, expires=60), 5.0, flow=FLOW)) == [
        f"{CONTACT};expires=60"
    ]
    (binding,) = server.store.get(ALICE)
    assert (binding.updated, binding.expires_at) == (1_000_005.0, 1_000_065.0)
    assert (server.next_deadline(), server.wall(65.0)) == (65.0, binding.expires_at)
    server.handle_timeout(64.9)
    assert server.bindings == 1
    # The wall clock was put right.
    server.epoch += 1.0
    assert server.next_deadline() == 64.0
    server.handle_timeout(64.0)
    assert (server.bindings, server.next_deadline()) == (0, None)


def test_two_nodes_that_register_one_user_at_once_lose_neither() -> None:
    location = Location()
    one, two = node("one"), node("two")
    asked = [
        planned(one, register("<sip:a@x.invalid>")),
        planned(two, register("<sip:b@x.invalid>")),
    ]
    answers = [
        location.ask(server.node, each.question)
        for server, each in zip((one, two), asked, strict=True)
        if server.node is not None
    ]
    assert [type(answer) for answer in answers] == [Done, Conflict]
    first = one.proceed(asked[0], answers[0], 0.0)
    assert isinstance(first, SipResponse)
    second = two.proceed(asked[1], answers[1], 0.0)
    assert isinstance(second, Asked)
    assert two.node is not None
    response = two.proceed(second, location.ask(two.node, second.question), 0.0)
    assert isinstance(response, SipResponse)
    assert len(response.contacts or []) == 2
    assert names(location) == ["sip:a@x.invalid", "sip:b@x.invalid"]
    assert (one.bindings, two.bindings) == (1, 1)


def test_a_nodes_own_view_does_not_cause_a_refusal() -> None:
    location = Location()
    one, two = node("one", max_contacts=1), node("two", max_contacts=1)
    assert finished(one, location, register(CONTACT)).status == 200
    assert finished(two, location, register("*", expires=0)).status == 200
    assert names(location) == []
    # As far as the first node knows, there is no room.
    assert finished(one, location, register("<sip:b@x.invalid>")).status == 200
    assert names(location) == ["sip:b@x.invalid"]
    # And its first binding is gone.
    assert [str(each.uri) for each in one.store.get(ALICE)] == ["sip:b@x.invalid"]
    assert finished(two, location, register("<sip:c@x.invalid>")).status == 503
    assert finished(one, location, register(CONTACT, call_id="x", cseq=1)).status == 503
    assert two._views == {}


def test_the_order_of_registrations_holds_across_nodes() -> None:
    location = Location()
    one, two = node("one"), node("two")
    contact = OUTBOUND
    assert finished(one, location, register(contact, call_id="c", cseq=5)).status == 200
    assert finished(two, location, register(contact, call_id="c", cseq=5)).status == 500
    assert finished(two, location, register(contact, call_id="c", cseq=6)).status == 200
    # The client has moved: there is one binding.
    assert len(location.bindings(ALICE)) == 1
    # The end of its old connection does not take it away.
    one.flow_lost(FLOW, 1.0)
    run_errands(one, location, 1.0)
    assert [each.node for each in location.bindings(ALICE)] == [two.node]
    assert (one.bindings, one._views) == (0, {})


def test_other_nodes_that_are_always_faster() -> None:
    server = node()
    outcome: SipResponse | Asked = planned(server, register(CONTACT))
    for version in range(1, 20):
        if isinstance(outcome, SipResponse):
            break
        outcome = server.proceed(outcome, Conflict(Found(ALICE, (), version)), 0.0)
    assert isinstance(outcome, SipResponse)
    assert (outcome.status, outcome.get("retry-after")) == (503, "1")
    assert (server._shares.held, server._views) == (0, {})


def test_a_location_store_that_does_not_answer() -> None:
    location, server = Location(), node()
    told: list[Rejection] = []
    asked = server.plan(register(CONTACT), 0.0, flow=FLOW, refused=told.append)
    assert isinstance(asked, Asked)
    assert server._shares.held
    answer = server.proceed(asked, DOWN, 0.0)
    assert isinstance(answer, SipResponse)
    assert (answer.status, answer.get("retry-after")) == (503, "7")
    assert told[0].detail == "down"
    assert server._shares.held == 0
    # It may have been done, and may be done still: afterwards it is certain that it is not.
    assert location.ask(Node("one", "1"), asked.question) == Done(1)
    first, second = run_errands(server, location)
    assert (first.version, first.drop) == (0, ())
    assert len(second.drop) == 1
    assert names(location) == []
    late = planned(server, register(CONTACT))
    server.proceed(late, DOWN, 0.0)
    run_errands(server, location)
    assert isinstance(location.ask(Node("one", "1"), late.question), Conflict)
    # What was certainly not asked is nothing to care about.
    server.proceed(planned(server, register(CONTACT)), NotAsked("down"), 0.0)
    server.proceed(planned(server, register()), DOWN, 0.0)
    assert len(server.errands) == 0


def test_an_answer_for_a_connection_that_is_gone() -> None:
    location, server = Location(), node()
    asked = planned(server, register(CONTACT))
    answer = location.ask(Node("one", "1"), asked.question)
    server.proceed(asked, answer, 0.0, alive=False)
    assert server.bindings == 0
    run_errands(server, location)
    assert names(location) == []
    # After a conflict there is nothing to undo.
    server.proceed(
        planned(server, register(CONTACT)), Conflict(Found(ALICE, (), 9)), 0.0, alive=False
    )
    assert (len(server.errands), server._shares.held, server._views) == (0, 0, {})


@pytest.mark.parametrize("answer", [None, Found(ALICE), "x"])
def test_an_answer_of_another_form_is_an_error(answer: object) -> None:
    server = node()
    with pytest.raises(TypeError, match="not an answer to Update"):
        server.proceed(planned(server, register(CONTACT)), answer, 0.0)
    with pytest.raises(TypeError, match="not an answer to Lookup"):
        server.proceed(planned(server, register()), Done(1), 0.0)
    assert server._shares.held == 0


def test_answers_that_overtake_each_other() -> None:
    """The later REGISTER counts, whichever answer comes first."""
    location, server = Location(), node()
    one = planned(server, register(OUTBOUND, call_id="a"), 0.0, Flow(1, 1))
    answer = location.ask(Node("one", "1"), one.question)
    two = planned(server, register(OUTBOUND, call_id="b"), 1.0, Flow(2, 1))
    conflict = location.ask(Node("one", "1"), two.question)
    again = server.proceed(two, conflict, 1.0)
    assert isinstance(again, Asked)
    done = location.ask(Node("one", "1"), again.question)
    server.proceed(again, done, 1.0)
    server.proceed(one, answer, 1.0)
    (binding,) = server.store.get(ALICE)
    assert binding.flow == Flow(2, 1)
    run_errands(server, location)
    assert location.bindings(ALICE) == [binding]


def test_another_client_registers_before_an_answer_has_come() -> None:
    location, server, names = Location(), node(), ("<sip:a@x.invalid>", "<sip:b@x.invalid>")
    finished(server, location, register(names[0], cseq=1), 0.0, Flow(1, 1))
    one = planned(server, register(names[0], cseq=2), 1.0, Flow(1, 1))
    answer = location.ask(Node("one", "1"), one.question)
    finished(server, location, register(names[1]), 1.0, Flow(2, 1))
    assert server.bindings == 2
    server.proceed(one, answer, 2.0)
    run_errands(server, location)
    held = server.store.get(ALICE)
    assert sorted(str(each.uri) for each in held) == ["sip:a@x.invalid", "sip:b@x.invalid"]
    assert {each.cseq for each in held if each.flow == Flow(1, 1)} == {2}
    assert sorted(location.bindings(ALICE), key=str) == sorted(held, key=str)


def test_a_connection_that_ends_while_another_of_its_user_registers() -> None:
    location, server = Location(), node()
    assert finished(server, location, register("<sip:a@x.invalid>"), 0.0, Flow(1, 1)).status == 200
    asked = planned(server, register("<sip:b@x.invalid>"), 1.0, Flow(2, 1))
    answer = location.ask(Node("one", "1"), asked.question)
    server.flow_lost(Flow(1, 1), 1.0)
    server.proceed(asked, answer, 1.0)
    run_errands(server, location)
    assert names(location) == ["sip:b@x.invalid"]
    assert [str(each.uri) for each in server.store.get(ALICE)] == ["sip:b@x.invalid"]


def test_a_store_that_has_lost_its_memory_is_given_it_again() -> None:
    location, server = Location(), node()
    for user in ("alice", "bob"):
        finished(server, location, register(CONTACT, user=user))
    (before,) = location.bindings(ALICE)
    location.records.clear()
    # It shows at the next look-up.
    question = server.plan_lookup(SipUri.parse(ALICE))
    assert question == Lookup(ALICE)
    found = server.choose(SipUri.parse(ALICE), question, Found(ALICE), 0.0)
    assert found == [before]
    run_errands(server, location)
    assert location.bindings(ALICE) == [before]
    # Or the adapter knows. What another node has written meanwhile is not the end of ours.
    server.renew(0.0)
    finished(node("two"), location, register("<sip:b@x.invalid>", user="bob"))
    run_errands(server, location)
    assert len(location.bindings("sip:bob@sip.test")) == 2
    assert server._renewed == set()
    alone = registrar()
    alone.register(register(CONTACT), 0.0)
    alone.renew(0.0)
    assert len(alone.errands) == 0


def test_a_client_that_has_moved_while_the_store_was_lost() -> None:
    location = Location()
    one, two = node("one"), node("two")
    finished(one, location, register(OUTBOUND, call_id="a"), 0.0)
    old = dict(location.records)
    finished(two, location, register(OUTBOUND, call_id="b"), 1.0)
    (moved,) = location.bindings(ALICE)
    # A stale replica: the second node writes its binding again, the first one gives way.
    location.records = old
    for server in (one, two, one):
        server.renew(0.0)
        run_errands(server, location, 2.0)
    (now,) = location.bindings(ALICE)
    assert now == moved
    assert (one.bindings, two.bindings) == (0, 1)


def test_a_store_that_was_put_back_to_where_a_client_was_before() -> None:
    """By its clock, the client came to the other node later than here: then it is there."""
    location = Location()
    one, two = node("one"), node("two")
    two.epoch = 30.0
    finished(two, location, register(OUTBOUND, call_id="a"), 0.0)
    old = dict(location.records)
    finished(one, location, register(OUTBOUND, call_id="b"), 1.0)
    location.records = old
    one.renew(0.0)
    run_errands(one, location, 2.0)
    assert (one.bindings, one.removed[Removal.REQUEST]) == (0, 1)
    assert [each.node for each in location.bindings(ALICE)] == [two.node]


def test_a_query_lists_the_bindings_of_all_nodes() -> None:
    location = Location()
    one, two = node("one"), node("two")
    for number, server in enumerate((one, two, one)):
        answer = finished(server, location, register(f"<sip:{number}@x.invalid>"), float(number))
    assert answer.status == 200
    for server in (one, two):
        assert len(finished(server, location, register()).contacts or []) == 3
    assert set(two._views) == {ALICE}
    assert finished(two, location, register(user="bob")).status == 200
    assert set(two._views) == {ALICE}


def test_two_nodes_find_one_user() -> None:
    location = Location()
    one, two = node("one"), node("two")
    finished(one, location, register("<sip:a@x.invalid>;q=0.5"), 0.0)
    finished(two, location, register("<sip:b@x.invalid>;q=0.9"), 0.0)
    uri = SipUri.parse(ALICE)

    def chosen(server: Registrar, now: float = 1.0) -> list[str] | int:
        question = server.plan_lookup(uri)
        assert isinstance(question, Lookup)
        assert server.node is not None
        found = location.ask(server.node, question)
        assert isinstance(found, Found)
        outcome = server.choose(uri, question, found, now)
        if isinstance(outcome, Rejection):
            return outcome.status
        return [str(each.uri) for each in outcome]

    assert chosen(one) == chosen(two) == ["sip:b@x.invalid", "sip:a@x.invalid"]
    # In memory is what is here.
    assert found(one, ALICE, 1.0) == ["sip:a@x.invalid"]
    assert chosen(one, 601.0) == 404
    # A node that does not run any more leaves nothing that leads anywhere, and its binding goes.
    location.stopped.add(Node("two", "1"))
    assert chosen(one) == ["sip:a@x.invalid"]
    finished(one, location, register("<sip:a@x.invalid>;q=0.5"), 2.0)
    assert names(location) == ["sip:a@x.invalid"]


def test_ended_bindings_are_dropped_in_the_store() -> None:
    location, server = Location(), node()
    for user in ("alice", "bob"):
        finished(server, location, register(CONTACT, user=user, expires=60))
    assert server.remove(ALICE, 1.0) == 1
    (drop,) = run_errands(server, location, 1.0)
    assert (drop.aor, len(drop.drop)) == (ALICE, 1)
    assert names(location) == []
    # What expires does so at the store as well.
    server.handle_timeout(60.0)
    assert (len(server.errands), server._views, server.bindings) == (0, {}, 0)


def test_temporary_gruus_of_several_nodes() -> None:
    location = Location()
    config = RegistrarConfig(Domains(("sip.test",)))
    one, two = [
        Registrar(config, node=Node(name, "1"), gruu_keys=[b"k" * 16]) for name in ("one", "two")
    ]
    answer = finished(one, location, register(OUTBOUND, Supported=SUPPORTED))
    uri = SipUri.parse((answer.contacts or [])[0].params.get("temp-gruu") or "")
    question = two.plan_lookup(uri)
    assert isinstance(question, Lookup)
    assert question.gruu
    found = location.ask(Node("two", "1"), question)
    assert isinstance(found, Found)
    chosen = two.choose(uri, question, found, 0.0)
    assert not isinstance(chosen, Rejection)
    assert [binding.instance for binding in chosen] == ["urn:uuid:1"]
    gone = two.choose(uri, question, Found(""), 0.0)
    assert isinstance(gone, Rejection)
    assert gone.status == 404

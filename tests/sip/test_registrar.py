from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.errors import SipParseError
from wsproto_sip.sip.message import SipRequest, SipResponse
from wsproto_sip.sip.outbound import Flow
from wsproto_sip.sip.parser import parse_message
from wsproto_sip.sip.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.routing import Rejection
from wsproto_sip.sip.store import Binding, MemoryStore
from wsproto_sip.sip.transport import Source
from wsproto_sip.sip.uri import SipUri

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


def test_a_user_is_the_same_in_all_domains_and_nobody_elsewhere() -> None:
    server = registrar()
    server.register(register(CONTACT, to="<sips:alice@other.TEST>"), 0.0)
    assert found(server, "sip:alice@sip.test") == ["sip:a1@x.invalid;transport=ws"]
    assert found(server, "sip:alice@example.com") == 404
    assert found(server, "sip:sip.test") == 404
    assert server.register(register(CONTACT, to="<sip:alice@example.com>"), 0.0).status == 404
    assert server.register(register(CONTACT, to="<sip:sip.test>"), 0.0).status == 404
    assert server.register(register(CONTACT, to="<tel:+1>"), 0.0).status == 416


def test_any_domain() -> None:
    server = registrar(any_host=True)
    server.register(register(CONTACT, to="<sip:alice@192.0.2.7>"), 0.0)
    assert found(server, "sip:alice@localhost") == ["sip:a1@x.invalid;transport=ws"]
    assert found(server, "sip:alice@x.Invalid") == 404
    assert found(server, "sip:alice@x.invalid.") == 404


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
    # Whether or not anybody has called handle_timeout.
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
        ("<sip:a@x.invalid>;reg-id=1", 400),
        ("sip:a b", 400),
    ],
)
def test_bad_contacts_change_nothing(contact: str, status: int) -> None:
    server = registrar()
    request = register(CONTACT, contact, Supported=SUPPORTED)
    assert server.register(request, 0.0).status == status
    assert len(server.store) == 0


def test_what_cannot_be_written_is_a_bad_request() -> None:
    server = registrar()
    request = register(f'{CONTACT};+sip.instance="<\\\0>"', Supported="gruu")
    answer = server.register(request, 0.0)
    assert answer.status in (200, 400)
    assert b"\0" not in answer.to_bytes().replace(b"\\\0", b"")


def test_writing_errors_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsproto_sip.sip import registrar as module
    from wsproto_sip.sip.errors import SipValueError

    def fail(*_: object) -> None:
        raise SipValueError("cannot be written")

    monkeypatch.setattr(module, "copy_path", fail)
    assert registrar().register(register(CONTACT, Supported="path"), 0.0).status == 400


# -- who may ---------------------------------------------------------------------------------------


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


def test_contacts_that_there_is_no_room_for_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would be compared with all others: thousands of them in one REGISTER cost seconds."""
    server = registrar(max_contacts=2)
    monkeypatch.setattr(server, "_merge", None)
    three = [f"<sip:{number}@x.invalid>;expires=0" for number in range(3)]
    assert server.register(register(*three), 0.0).status == 503


def test_all_bindings_have_a_bound_together() -> None:
    server = registrar(max_octets=2200)
    assert server.register(register(CONTACT), 0.0, flow=FLOW).status == 200
    used = server._octets
    assert 1024 < used < 1100
    # Another one in its place is not another one beside it.
    assert server.register(register(CONTACT), 1.0, flow=FLOW).status == 200
    assert server.register(register(CONTACT, user="bob"), 1.0).status == 200
    assert server.register(register(CONTACT, user="carol"), 2.0).status == 503
    assert server._octets == 2 * used
    server.flow_lost(FLOW)
    assert server._octets == used
    assert server.register(register(CONTACT, user="carol"), 2.0).status == 200
    assert server.register(register(CONTACT, user="carol", expires=0), 3.0).status == 200
    assert server._octets == used
    server.handle_timeout(10_000.0)
    assert (server._octets, len(server.store)) == (0, 0)


def test_a_binding_has_a_bound() -> None:
    server = registrar(max_binding_octets=400)
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
    assert server.flow_lost(FLOW) == 0
    assert server.flow_lost(Flow(3, 1)) == 1
    assert found(server, "sip:alice@sip.test") == ["sip:d@x.invalid", "sip:b@x.invalid"]


def test_an_ordinary_binding_does_not_replace_an_outbound_one() -> None:
    server = registrar()
    server.register(register(OUTBOUND, Supported="outbound"), 0.0)
    server.register(register(OUTBOUND), 0.0)
    assert len(contacts(server.register(register(), 0.0))) == 2


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


def test_path_is_told_only_to_who_knows_it() -> None:
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
    server.flow_lost(FLOW)
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
            RegistrarConfig(Domains(("sip.test",)), min_expires=10, max_contacts=100), MemoryStore()
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
        assert self.server.flow_lost(Flow(flow, 1)) == lost

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
    return binding.uri.user or "", binding.flow.connection


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

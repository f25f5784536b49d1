"""Records of bindings: what comes back, and which texts are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip import SipUri
from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.registrar.records import RecordError, binding_of, key_of, record_of
from wsproto_sip.sip.registrar.store import Binding, Node
from wsproto_sip.sip.rules.outbound import Flow, OutboundBinding

ONE, TWO = Node("one", "1"), Node("two", "2")
CONTACT = NameAddr.parse(
    '"Ä \\" 🎉" <sip:a%20b@x.invalid;transport=ws?h=1>;+sip.instance="<urn:x>"'
)
BINDING = Binding(
    CONTACT,
    1000.125,
    "call",
    7,
    900.5,
    q=500,
    instance="urn:x",
    outbound=OutboundBinding("urn:x", 3),
    path=(NameAddr.parse("<sip:p.test;lr>"), NameAddr.parse("<sip:t@q.test;lr;ob>;x=1")),
    flow=Flow(2**60, 3),
    received=SipUri.parse("sip:192.0.2.1:5;transport=ws"),
    gruu=2**64 - 1,
    size=1234,
    node=ONE,
    token="tok-en_",
)

times = st.floats(0, 4e9, allow_nan=False)
words = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=20)
bindings = st.builds(
    Binding,
    contact=st.builds(
        lambda name: NameAddr(SipUri.make("x.invalid", "u"), display_name=name), words
    ),
    expires_at=times,
    call_id=words,
    cseq=st.integers(0, 2**31),
    updated=times,
    q=st.integers(0, 1000),
    instance=st.none() | words,
    outbound=st.none() | st.builds(OutboundBinding, words, st.integers(1, 2**31 - 1)),
    flow=st.none() | st.builds(Flow, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    gruu=st.integers(0, 2**64 - 1),
    size=st.integers(0, 2**40),
    node=st.just(ONE),
    token=words,
)


@given(bindings, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_node_reads_what_it_has_written(binding: Binding, then: float, now: float) -> None:
    text = record_of(binding, then)
    assert text.isascii()
    assert binding_of(text, ONE, now) == binding
    # The store's key is found again with what was read.
    assert key_of(binding_of(text, ONE, now)) == key_of(binding)


@given(bindings, st.floats(-1e6, 1e6))
def test_a_record_is_compact_json(binding: Binding, ahead: float) -> None:
    for each in (binding, replace(BINDING, expires_at=binding.expires_at)):
        text = record_of(each, ahead)
        assert text == json.dumps(json.loads(text), separators=(",", ":"))


def test_everything_of_a_binding_comes_back() -> None:
    assert binding_of(record_of(BINDING), ONE) == BINDING
    plain = replace(BINDING, outbound=None, instance=None, received=None, path=(), gruu=0)
    assert binding_of(record_of(plain), ONE) == plain


def test_a_connection_means_nothing_elsewhere() -> None:
    text = record_of(BINDING)
    assert binding_of(text, TWO) == replace(BINDING, flow=None)
    # Nor to another run of the same node.
    assert binding_of(text, Node("one", "2")).flow is None


def test_times_are_those_of_the_readers_clock() -> None:
    # The clock of the store is 30 s ahead of the writer, and that of the reader 10 s ahead of it.
    found = binding_of(record_of(BINDING, 30.0), TWO, -10.0)
    assert (found.expires_at, found.updated) == (1040.125, 940.5)


def test_keys() -> None:
    assert key_of(BINDING) == "3 urn:x"
    plain = replace(BINDING, outbound=None)
    assert key_of(plain) == f"0 {CONTACT.uri}"
    other = replace(plain, contact=NameAddr.parse("<sip:other@x.invalid>"))
    assert key_of(other) != key_of(plain)


def test_only_bindings_of_nodes_have_records() -> None:
    with pytest.raises(ValueError, match="only bindings of nodes"):
        record_of(replace(BINDING, node=None))


def changed(**values: object) -> str:
    return json.dumps(json.loads(record_of(BINDING)) | values)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "7", "{}", "[" * 100_000),
        changed(contact="<x"),
        changed(contact=7),
        changed(expires="soon"),
        changed(expires=None),
        changed(q=1e400),
        changed(node=""),
        changed(outbound=[]),
        changed(outbound="x"),
        changed(flow=[1]),
        changed(path=7),
        changed(received="tel:1"),
        changed(contact="<tel:+491>"),
        changed(gruu=[]),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RecordError, match="not the record of a binding"):
        binding_of(text, ONE)


@given(
    st.text() | st.dictionaries(st.text(), st.none() | st.integers() | st.text()).map(json.dumps)
)
def test_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(RecordError):
        binding_of(text, ONE)


@given(st.sampled_from(sorted(json.loads(record_of(BINDING)))), st.data())
def test_a_field_of_another_form_raises_nothing_else(name: str, data: st.DataObject) -> None:
    anything = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        st.lists,
        max_leaves=3,
    )
    try:
        found = binding_of(changed(**{name: data.draw(anything)}), ONE)
    except RecordError:
        return
    # What passes can be used: as a key, and for a record.
    assert hash(found.name) is not None
    assert key_of(found)
    assert record_of(found)

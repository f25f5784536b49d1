from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipValueError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.gruu import (
    TemporaryGruus,
    add_gruus,
    public_gruu,
    public_gruu_instance,
    wants_gruu,
)

KEY = b"0123456789abcdef"
AOR = SipUri("sip.test", "alice")


def counting() -> TemporaryGruus:
    salts = iter(range(1000))
    return TemporaryGruus([KEY], lambda size: next(salts).to_bytes(size, "big"))


def test_supported_gruu_is_recognised() -> None:
    assert wants_gruu(SipRequest("REGISTER", "sip:a", [("Supported", "path, GRUU")]))
    assert not wants_gruu(SipRequest("REGISTER", "sip:a", [("Supported", "path")]))


def test_public() -> None:
    uri = public_gruu(SipUri.parse("sip:alice@SIP.test:5060;lr"), "urn:uuid:34ac49b2")
    assert str(uri) == "sip:alice@sip.test;gr=urn:uuid:34ac49b2"
    assert public_gruu_instance(uri) == "urn:uuid:34ac49b2"
    assert public_gruu_instance(AOR) is None
    assert public_gruu_instance(AOR.with_param("gr")) is None
    assert public_gruu_instance(public_gruu(AOR, "a;b>")) == "a;b>"
    with pytest.raises(SipValueError):
        public_gruu(AOR, "")


@given(st.integers(0, 2**64 - 1), st.binary(min_size=6, max_size=6))
def test_temporary(number: int, salt: bytes) -> None:
    gruus = TemporaryGruus([KEY], lambda size: salt)
    uri = gruus.make(AOR, number)
    assert gruus.open(SipUri.parse(str(uri))) == number
    assert uri.host == "sip.test"
    assert "alice" not in str(uri)
    assert TemporaryGruus([b"another key of 16", KEY], lambda size: salt).open(uri) == number
    assert TemporaryGruus([b"another key of 16"], lambda size: salt).open(uri) is None


def test_two_gruus_of_one_instance_cannot_be_linked() -> None:
    gruus = counting()
    one, two = gruus.make(AOR, 5), gruus.make(AOR, 5)
    assert one.user is not None
    assert two.user is not None
    # Only the prefix and the counter of this test's salts are equal.
    assert one.user[14:] != two.user[14:]
    assert gruus.open(one) == gruus.open(two) == 5


def test_changing_any_character_invalidates_a_gruu() -> None:
    gruus = counting()
    uri = gruus.make(AOR, 5)
    user = uri.user or ""
    for position in range(len(user)):
        changed = user[:position] + ("A" if user[position] != "A" else "B") + user[position + 1 :]
        assert gruus.open(SipUri("sip.test", changed).with_param("gr")) is None


def test_other_uris_are_not_temporary_gruus() -> None:
    gruus = counting()
    uri = gruus.make(AOR, 5)
    assert gruus.open(uri.without_param("gr")) is None
    assert gruus.open(uri.with_param("gr", "x")) is None
    assert gruus.open(AOR.with_param("gr")) is None
    assert gruus.open(SipUri("sip.test").with_param("gr")) is None
    assert gruus.open(SipUri("sip.test", "tgruu.short").with_param("gr")) is None


def test_invalid_keys_and_numbers_are_refused() -> None:
    for keys in ([], [b"short"], [KEY, b"short"]):
        with pytest.raises(SipValueError):
            TemporaryGruus(keys, bytes)
    for number in (-1, 2**64):
        with pytest.raises(SipValueError):
            counting().make(AOR, number)


def test_gruus_are_put_into_the_contact() -> None:
    contact = NameAddr.parse("<sip:a@x.invalid>;expires=5")
    public = public_gruu(AOR, "urn:uuid:1")
    assert str(add_gruus(contact, public)) == (
        '<sip:a@x.invalid>;expires=5;pub-gruu="sip:alice@sip.test;gr=urn:uuid:1"'
    )
    temporary = counting().make(AOR, 5)
    both = NameAddr.parse(str(add_gruus(contact, public, temporary)))
    assert both.params.get("temp-gruu") == str(temporary)
    assert both.params.get("pub-gruu") == str(public)

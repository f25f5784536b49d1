from __future__ import annotations

import pytest

from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.registrar.domains import Domains

OURS = Domains(("SIP.test", "192.0.2.7"))


@pytest.mark.parametrize(
    ("uri", "aor"),
    [
        ("sip:alice@sip.test", "sip:alice@sip.test"),
        ("sips:%61lice:secret@Sip.Test:5061;transport=ws?x=y", "sip:alice@sip.test"),
        ("sip:alice@192.0.2.7", "sip:alice@sip.test"),
        ("sip:alice@192.000.02.07", "sip:alice@sip.test"),
        ("sip:alice@sip.test.", "sip:alice@sip.test"),
        ("sip:a%20b@sip.test", "sip:a%20b@sip.test"),
        ("sip:sip.test", None),
        ("sip:alice@example.com", None),
        ("sip:alice@sub.sip.test", None),
    ],
)
def test_addresses_of_record(uri: str, aor: str | None) -> None:
    found = OURS.aor(SipUri.parse(uri))
    assert (None if found is None else str(found)) == aor


@pytest.mark.parametrize(
    ("host", "ours"),
    [("localhost", True), ("x.invalid", False), ("x.INVALID.", False), ("invalid.test", True)],
)
def test_any_host_but_invalid_ones(host: str, ours: bool) -> None:
    assert Domains(("sip.test",), any_host=True).has(SipUri.make(host)) is ours
    assert not OURS.has(SipUri.make(host))


def test_there_has_to_be_one() -> None:
    with pytest.raises(ValueError, match="a domain is needed"):
        Domains(())


def test_one_name_is_not_a_tuple_of_names() -> None:
    with pytest.raises(TypeError, match=r"names must be tuple\[str, \.\.\.\]: 'sip\.test'"):
        Domains("sip.test")  # type: ignore[arg-type]

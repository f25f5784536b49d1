from __future__ import annotations

import pytest

from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.uri import SipUri

OURS = Domains(("SIP.test", "192.0.2.7"))


@pytest.mark.parametrize(
    ("uri", "aor"),
    [
        ("sip:alice@sip.test", "sip:alice@sip.test"),
        ("sips:%61lice:secret@Sip.Test:5061;transport=ws?x=y", "sip:alice@sip.test"),
        ("sip:alice@192.0.2.7", "sip:alice@sip.test"),
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

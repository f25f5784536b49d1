from __future__ import annotations

import pytest

from wsproto_sip.sip.identity import check_identity
from wsproto_sip.sip.message import SipRequest
from wsproto_sip.sip.uri import SipUri

ALICE = SipUri.parse("sip:alice@sip.test")


def request(sender: str, preferred: str | None = None) -> SipRequest:
    headers = [("From", sender)]
    if preferred is not None:
        headers.append(("P-Preferred-Identity", preferred))
    return SipRequest("INVITE", "sip:bob@sip.test", headers)


@pytest.mark.parametrize(
    ("sender", "preferred", "status"),
    [
        ("<sip:alice@sip.test>;tag=1", None, None),
        ('"The Boss" <sip:%61lice@SIP.test:5060;x=y>;tag=1', None, None),
        ("<sip:alice@sip.test>", '"A" <sip:alice@sip.test>', None),
        ("<sip:Alice@sip.test>", None, 403),
        ("<sip:bob@sip.test>", None, 403),
        ("<sip:alice@sip.test.evil>", None, 403),
        ("<sips:alice@sip.test>", None, 403),
        ("<sip:sip.test>", None, 403),
        ("<tel:+1>", None, 403),
        ('"Anonymous" <sip:anonymous@anonymous.invalid>', None, 403),
        ("<sip:alice@sip.test>", "<sip:bob@sip.test>", 403),
        ("<sip:alice@sip.test>", "<sip:alice@sip.test>, <tel:+1>", 403),
        ("<sip:alice@sip.test", None, 400),
        ("<sip:alice@sip.test>", "x", 400),
    ],
)
def test_identity(sender: str, preferred: str | None, status: int | None) -> None:
    rejection = check_identity(request(sender, preferred), ALICE)
    assert (None if rejection is None else rejection.status) == status

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.identity import (
    TRUSTED_FIELDS,
    check_identity,
    strip_trusted_fields,
    unkept_privacy,
    withhold_identity,
)

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
        ('"Anonymous" <sip:anonymous@anonymous.invalid>', None, None),
        ("<sip:anonymous@Anonymous.invalid>;tag=1", "<sip:alice@sip.test>", None),
        ("<sip:anonymous@anonymous.invalid>", "<sip:bob@sip.test>", 403),
        ("<sip:anonymous@anonymous.invalid.evil>", None, 403),
        ("<sip:alice@sip.test>", "<sip:bob@sip.test>", 403),
        ("<sip:alice@sip.test>", "<sip:alice@sip.test>, <tel:+1>", 403),
        ("<sip:alice@sip.test", None, 400),
        ("<sip:alice@sip.test>", "x", 400),
    ],
)
def test_from_and_preferred_identity_must_match(
    sender: str, preferred: str | None, status: int | None
) -> None:
    rejection = check_identity(request(sender, preferred), ALICE)
    assert (None if rejection is None else rejection.status) == status


@pytest.mark.parametrize("name", TRUSTED_FIELDS)
def test_trusted_field_from_a_client_is_stripped(name: str) -> None:
    message = request("<sip:alice@sip.test>", "<sip:alice@sip.test>")
    before = message.to_bytes()
    message.add_header(name.upper(), "<sip:boss@sip.test>")
    message.insert_header(name, "<sip:boss@sip.test>")
    for _ in range(2):
        strip_trusted_fields(message)
        assert message.to_bytes() == before


def test_page_lists_the_stripped_fields() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "howto" / "sip.md"
    table = page.read_text(encoding="utf-8").partition("(trusted-fields)=")[2]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", table, re.MULTILINE)
    assert dict(rows) == TRUSTED_FIELDS


@pytest.mark.parametrize(
    ("privacy", "withheld"),
    [("id", True), ("Header; ID;critical", True), ("none", False), ("user", False), (None, False)],
)
def test_identity_is_withheld_on_request(privacy: str | None, withheld: bool) -> None:
    message = request("<sip:anonymous@anonymous.invalid>", None)
    message.add_header("P-Asserted-Identity", "<sip:alice@sip.test>")
    if privacy is not None:
        message.add_header("Privacy", privacy)
    withhold_identity(message)
    assert ("p-asserted-identity" not in message) is withheld


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ([], []),
        (["header;session"], []),
        (["critical"], []),
        (["id;critical"], []),
        (["none ; Critical"], []),
        (["header;id;critical", "session"], ["header", "session"]),
        (["history;critical;user;history"], ["history", "user"]),
    ],
)
def test_unsupported_critical_privacy_is_named(fields: list[str], missing: list[str]) -> None:
    message = request("<sip:alice@sip.test>")
    for field in fields:
        message.add_header("Privacy", field)
    assert unkept_privacy(message) == missing

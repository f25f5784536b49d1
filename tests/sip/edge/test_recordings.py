"""Sessions of Chromium with JsSIP and SIP.js through Kamailio, message by message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsproto_sip.auth import Challenge, Credentials
from wsproto_sip.sip import (
    SipMessage,
    SipRequest,
    SipResponse,
    SipStreamParser,
    parse_message,
    validate_request,
)
from wsproto_sip.sip.message.stream import is_keepalive

DATA = Path(__file__).parents[2] / "data" / "sip"


def recorded(name: str) -> list[tuple[str, str]]:
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")
    entries = [json.loads(line) for line in lines if line]
    return [(entry["ev"], entry["data"]) for entry in entries if "data" in entry]


FILES = sorted([path.name for path in DATA.glob("*.jsonl")])


def test_there_are_recordings() -> None:
    assert len(FILES) == 4


def rewritten(message: SipMessage) -> SipMessage:
    """Return the same message, with every value parsed and serialized."""
    headers = []
    for name, value in message.header_items():
        if name in ("via", "route", "record-route", "path", "contact", "from", "to"):
            continue
        headers.append((name, value))
    parts: list[tuple[str, object]] = [
        *[("via", via) for via in message.vias],
        *[(n, a) for n in ("route", "record-route", "path") for a in message.addresses(n)],
        *[("contact", contact) for contact in message.contacts or []],
        ("from", message.from_),
        ("to", message.to),
        *headers,
    ]
    named = [(name, str(value)) for name, value in parts]
    if isinstance(message, SipRequest):
        return SipRequest(message.method, message.uri, named, message.body)
    assert isinstance(message, SipResponse)
    return SipResponse(message.status, message.reason, named, message.body)


@pytest.mark.parametrize("name", FILES)
def test_replay(name: str) -> None:
    messages = 0
    for direction, text in recorded(name):
        if is_keepalive(text):
            continue
        messages += 1
        message = parse_message(text)
        assert message.to_websocket() == text
        assert message.content_length == len(message.body)
        if isinstance(message, SipRequest):
            assert validate_request(message) is None
            answer = parse_message(message.make_response(404).to_bytes())
            assert answer.values("via") == message.values("via")
            assert answer.to.tag is not None
        again = parse_message(rewritten(message).to_bytes())
        for read in ("vias", "contacts", "routes", "record_routes", "paths", "from_", "to"):
            assert getattr(again, read) == getattr(message, read)
        assert again.start_line == message.start_line
        assert again.body == message.body
        assert sorted(n for n, _ in again.header_items()) == sorted(
            n for n, _ in rewritten(message).header_items()
        )
        assert direction in ("sent", "recv")
    assert messages > 50


@pytest.mark.parametrize("name", FILES)
def test_as_a_stream(name: str) -> None:
    texts = [text for _, text in recorded(name) if not is_keepalive(text)]
    stream = "".join(texts).encode()
    parser = SipStreamParser()
    items = [
        item
        for at in range(0, len(stream), 1000)
        for item in parser.receive(stream[at : at + 1000])
    ]
    assert [
        item.to_bytes().decode() for item in items if isinstance(item, (SipRequest, SipResponse))
    ] == texts


def test_digest_in_the_recordings() -> None:
    challenges = set()
    proofs = 0
    for _, text in recorded("kamailio-digest-alice.jsonl"):
        message = parse_message(text)
        for name in ("www-authenticate", "proxy-authenticate"):
            for field in message.get_all(name):
                challenge = Challenge.parse(field)
                assert challenge is not None
                assert challenge.realm == "sip.test"
                challenges.add(challenge.nonce)
        for name in ("authorization", "proxy-authorization"):
            for field in message.get_all(name):
                credentials = Credentials.parse(field)
                assert credentials is not None
                assert credentials.nonce in challenges
                proofs += 1
    assert proofs > 5

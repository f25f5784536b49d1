from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.alias import (
    AliasResult,
    AliasTarget,
    add_contact_alias,
    format_alias,
    handle_ruri_alias,
    parse_alias,
    set_contact_alias,
)

WS = Source("127.0.0.1", 57374, "ws")


def request(contact: str | None = None, uri: str = "sip:b@sip.test") -> SipRequest:
    headers = [] if contact is None else [("Contact", contact)]
    return SipRequest("INVITE", uri, headers)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (WS, "127.0.0.1~57374~5"),
        (Source("2001:db8::1", 443, "wss"), "[2001:db8::1]~443~6"),
        (Source("192.0.2.1", 5060, "udp"), "192.0.2.1~5060~1"),
    ],
)
def test_alias_is_written_and_parsed(source: Source, text: str) -> None:
    assert format_alias(source) == text
    assert parse_alias(text) == source


def test_ipv6_without_brackets() -> None:
    assert parse_alias("2001:db8::1~443~6") == Source("2001:db8::1", 443, "wss")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1~80",
        "127.0.0.1~80~7",
        "127.0.0.1~80~0",
        "127.0.0.1~65536~5",
        "127.0.0.1~\u0661~5",
        "127.0.0.256~80~5",
        "evil.example~80~5",
        "127.0.0.1~80~5~",
        "127.0.0.1~-1~5",
    ],
)
def test_malformed_alias_is_refused(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        parse_alias(text)
    assert caught.value.status == 400
    target = handle_ruri_alias(
        request(uri=str(SipUri("h").with_param("alias", text or None))), lambda source: source
    )
    assert target == AliasTarget(AliasResult.MALFORMED)


@pytest.mark.parametrize(
    ("contact", "added", "at_end"),
    [
        (
            "<sip:b@x.invalid;transport=ws>",
            "<sip:b@x.invalid;alias=127.0.0.1~57374~5;transport=ws>",
            "<sip:b@x.invalid;transport=ws;alias=127.0.0.1~57374~5>",
        ),
        (
            "sip:b@x.invalid:80;expires=5",
            "<sip:b@x.invalid:80;alias=127.0.0.1~57374~5>;expires=5",
            "<sip:b@x.invalid:80;alias=127.0.0.1~57374~5>;expires=5",
        ),
        (
            "<sip:b@x;a;alias=6.6.6.6~1~1;ob>;q=1, <sip:c@y>",
            "<sip:b@x;alias=127.0.0.1~57374~5;a;ob>;q=1, <sip:c@y>",
            "<sip:b@x;a;ob;alias=127.0.0.1~57374~5>;q=1, <sip:c@y>",
        ),
    ],
)
def test_alias_is_put_into_the_contact(contact: str, added: str, at_end: str) -> None:
    message = request(contact)
    assert add_contact_alias(message, WS) is AliasResult.DONE
    assert message.get("contact") == added
    message = request(contact)
    assert set_contact_alias(message, WS) is AliasResult.DONE
    assert message.get("contact") == at_end


def test_seal_replaces_the_clients_own() -> None:
    message = request("<sip:b@x.invalid;seal=forged;alias=6.6.6.6~1~1;transport=ws>")
    assert add_contact_alias(message, WS, seal="abc") is AliasResult.DONE
    assert message.get("contact") == (
        "<sip:b@x.invalid;alias=127.0.0.1~57374~5;seal=abc;transport=ws>"
    )


@pytest.mark.parametrize(
    ("contact", "source"),
    [
        (None, WS),
        ("*", WS),
        ("<sip:b@127.0.0.1:57374;transport=ws>", WS),
        ("<sip:b@[::1]:7;transport=WS>", Source("::1", 7, "wss")),
        ("<sip:b@127.0.0.1;transport=tls>", Source("127.0.0.1", 5061, "tls")),
        ("<sip:b@127.0.0.1>", Source("127.0.0.1", 5060, "udp")),
    ],
)
def test_message_without_usable_contact_is_unchanged(contact: str | None, source: Source) -> None:
    message = request(contact)
    before = message.to_bytes()
    assert add_contact_alias(message, source) == 2
    assert message.to_bytes() == before


@pytest.mark.parametrize("contact", ["<", "<tel:+1>", "*, <sip:a>", "<sip:a;x;x>"])
def test_malformed_contact_is_reported(contact: str) -> None:
    assert add_contact_alias(request(contact), WS) == -1
    assert set_contact_alias(request(contact), WS) == -1


def test_request_uri() -> None:
    message = request(uri="sip:b@x.invalid;alias=127.0.0.1~57374~5;transport=ws")
    assert handle_ruri_alias(message, {WS: "the connection"}.get) == AliasTarget(
        AliasResult.DONE, "the connection"
    )
    assert message.uri_text == "sip:b@x.invalid;transport=ws"


def test_dead_connection_is_reported_and_not_dialled() -> None:
    message = request(uri="sip:b@x.invalid;alias=169.254.169.254~80~2")
    assert handle_ruri_alias(message, {WS: 1}.get) == AliasTarget(AliasResult.GONE)
    assert message.uri_text == "sip:b@x.invalid;alias=169.254.169.254~80~2"


@pytest.mark.parametrize("uri", ["sip:b@x;transport=ws", "tel:+1"])
def test_request_uri_without_alias_is_unchanged(uri: str) -> None:
    assert handle_ruri_alias(request(uri=uri), {WS: 1}.get).result == 2


@given(st.text(st.sampled_from("0123456789.:[]~%;=abf")))
def test_alias_resolves_to_live_connections_only(text: str) -> None:
    asked: list[Source] = []

    def resolve(source: Source) -> Source | None:
        asked.append(source)
        return source if source == WS else None

    try:
        message = request(uri=f"sip:b@x;alias={text}")
        uri = message.uri_text
        target = handle_ruri_alias(message, resolve)
    except ValueError:
        return
    assert target.connection in (None, WS)
    assert (target.connection == WS) is (target.result is AliasResult.DONE)
    assert len(asked) <= 1
    if target.connection is None:
        assert message.uri_text == uri

"""Where a client connects to."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.target import Target


@pytest.mark.parametrize(
    ("uri", "target", "authority"),
    [
        ("ws://example.com", Target("example.com", 80, False, "/"), "example.com"),
        ("WSS://Example.COM", Target("example.com", 443, True, "/"), "example.com"),
        ("ws://h:8080/a/b?c=d", Target("h", 8080, False, "/a/b?c=d"), "h:8080"),
        ("ws://h:443", Target("h", 443, False, "/"), "h:443"),
        ("wss://h:443/?", Target("h", 443, True, "/?"), "h"),
        ("ws://[::1]:5?x", Target("[::1]", 5, False, "/?x"), "[::1]:5"),
        ("wss://192.0.2.1/%20~", Target("192.0.2.1", 443, True, "/%20~"), "192.0.2.1"),
    ],
)
def test_uris(uri: str, target: Target, authority: str) -> None:
    parsed = Target.parse(uri)
    assert parsed == target
    assert parsed.authority == authority
    assert Target.parse(uri, "sip").subprotocol == "sip"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://h",
        "ws:/h",
        "ws://",
        "ws://h:",
        "ws://h:0",
        "ws://h:65536",
        "ws://h:1٣",
        "ws://user@h",
        "ws://h/#fragment",
        "ws://h/a b",
        "ws://h/\r\nX: y",
        "ws://h\r\n",
        "ws://h/é",
        "ws://ü",
        "ws://[::1",
        " ws://h",
    ],
)
def test_what_is_none(uri: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        Target.parse(uri)


@given(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=30))
def test_nothing_but_visible_ascii_gets_through(text: str) -> None:
    try:
        target = Target.parse("ws://" + text)
    except ValueError:
        return
    for part in (target.authority, target.resource):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part


@pytest.mark.parametrize("token", ["", "a b", "sip\r\n", "sip,msrp", "é", "\udc80"])
def test_what_is_no_subprotocol(token: str) -> None:
    with pytest.raises(ValueError, match="not a sub-protocol: '"):
        Target.parse("ws://a", token)
    assert Target.parse("ws://a", "sip").subprotocol == "sip"

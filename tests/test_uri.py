"""WebSocket URIs: parsing, and the refusal of invalid ones."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.uri import WebSocketURI, encode_domain


@pytest.mark.parametrize(
    ("text", "expected", "host_header"),
    [
        ("ws://example.com", WebSocketURI(False, "example.com", 80), "example.com"),
        ("WSS://Example.COM/a?b", WebSocketURI(True, "example.com", 443, "/a?b"), "example.com"),
        ("wss://x:80/%20", WebSocketURI(True, "x", 80, "/%20"), "x:80"),
        ("ws://h:8080/a/b?c=d?e", WebSocketURI(False, "h", 8080, "/a/b?c=d?e"), "h:8080"),
        ("ws://h?x", WebSocketURI(False, "h", 80, "/?x"), "h"),
        ("ws://h_1/a;b=c", WebSocketURI(False, "h_1", 80, "/a;b=c"), "h_1"),
        # The ten inputs on which three parsers disagreed.
        ("ws://a@h/", WebSocketURI(False, "h", 80, "/", b"a:"), "h"),
        ("ws://%41:b%3a@h/", WebSocketURI(False, "h", 80, "/", b"A:b:"), "h"),
        ("ws://b\xfccher.de", WebSocketURI(False, "xn--bcher-kva.de", 80), "xn--bcher-kva.de"),
        ("ws://[::1]:443/\xfc", WebSocketURI(False, "::1", 443, "/%C3%BC"), "[::1]:443"),
        ("ws://[0:0::1]/", WebSocketURI(False, "::1", 80), "[::1]"),
        ("ws://h:/", WebSocketURI(False, "h", 80), "h"),
        ("wss://h:443/?", WebSocketURI(True, "h", 443, "/"), "h"),
        ("ws://example.com./", WebSocketURI(False, "example.com.", 80), "example.com."),
        ("ws://[fe80::1%25eth0]:1/", WebSocketURI(False, "fe80::1%eth0", 1), "[fe80::1]:1"),
        ("ws://192.0.2.1", WebSocketURI(False, "192.0.2.1", 80), "192.0.2.1"),
    ],
)
def test_uri_is_parsed(text: str, expected: WebSocketURI, host_header: str) -> None:
    uri = WebSocketURI.parse(text)
    assert uri == expected
    assert uri.host_header == host_header


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not start with ws:// or wss://"),
        ("http://a/", "does not start with ws:// or wss://"),
        ("ws:/a", "does not start with ws:// or wss://"),
        ("ws://a b/", "contains a space"),
        ("ws://a\r\nX: y", "contains a space"),
        ("ws://a/\ud800", "contains a space"),
        ("ws://a/#b", "has a fragment"),
        ("ws:///x", "has no host"),
        ("ws://:80/x", "has no host"),
        ("ws://user@/x", "has no host"),
        ("ws://a..b/", "the host is not a valid domain name"),
        ("ws://a%62/", "the host is not a valid domain name"),
        ("ws://a,b/", "the host is not a valid domain name"),
        ("ws://a\\@b/", "the host contains a backslash"),
        ("ws://b\\c/", "the host contains a backslash"),
        (f"ws://{'a' * 64}/", "the host is not a valid domain name"),
        (f"ws://{'a.' * 127}aa/", "the host is not a valid domain name"),
        ("ws://\u0661\u200d/", "the host is not a valid domain name"),
        ("ws://a%3ab@h/", "user name contains a colon"),
        ("ws://h:0/", "port is not an integer between 1 and 65535"),
        ("ws://h:65536/", "port is not an integer between 1 and 65535"),
        ("ws://h:000080/", "port is not an integer between 1 and 65535"),
        ("ws://h:1\u0663/", "port is not an integer between 1 and 65535"),
        ("ws://h:x/", "port is not an integer between 1 and 65535"),
        ("ws://[::1/", "no closing bracket"),
        ("ws://[::1]8/", "no closing bracket"),
        ("ws://[::g]/", "not an IPv6 address"),
        ("ws://[fe80::1%eth0]/", "write %25NAME"),
        ("ws://[fe80::1%25]/", "write %25NAME"),
        ("ws://[fe80::1%25a%0d]/", "write %25NAME"),
        ("ws://1.2.3/", "not an IPv4 address"),
        ("ws://127.1/", "not an IPv4 address"),
        ("ws://0x7f000001/", "not an IPv4 address"),
    ],
)
def test_invalid_uri_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        WebSocketURI.parse(text)


def test_uri_is_printed_without_credentials() -> None:
    assert str(WebSocketURI.parse("wss://a:b@h:1/x?y")) == "wss://h:1/x?y"
    assert str(WebSocketURI.parse("ws://h")) == "ws://h/"


def test_credentials_become_an_authorization_field() -> None:
    # RFC 7617 §2 has this one.
    uri = WebSocketURI.parse("ws://Aladdin:open%20sesame@h/")
    assert uri.authorization == b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    assert WebSocketURI.parse("ws://h/").authorization is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("wss://example.com./", "example.com"),
        ("wss://[fe80::1%25eth0]/", "fe80::1"),
        ("wss://example.com/", "example.com"),
    ],
)
def test_server_name_has_no_final_dot_and_no_zone(text: str, name: str) -> None:
    assert WebSocketURI.parse(text).server_name == name


def test_origin_is_what_uris_of_one_server_share() -> None:
    first, second = WebSocketURI.parse("ws://a@H:80/x"), WebSocketURI.parse("ws://h/y")
    assert first.origin == second.origin
    assert first.origin != WebSocketURI.parse("wss://h:80/x").origin


class TestDomains:
    def test_idna_2008_keeps_what_2003_mapped_away(self) -> None:
        assert encode_domain("Fa\xdf.example") == "xn--fa-hia.example"

    def test_without_idna_a_name_that_needs_it_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "idna", None)
        assert encode_domain("b\xfccher.de") == "xn--bcher-kva.de"
        with pytest.raises(ValueError, match="install the package idna"):
            encode_domain("fa\xdf.example")
        with pytest.raises(ValueError, match="not a valid domain name"):
            encode_domain("a..\xfc")


@given(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=30))
def test_only_visible_ascii_reaches_a_request(text: str) -> None:
    try:
        uri = WebSocketURI.parse("ws://" + text)
    except ValueError:
        return
    for part in (uri.host_header, uri.target, uri.server_name):
        assert part.isascii()
        assert part.isprintable()
        assert " " not in part
    assert 1 <= uri.port <= 65535


@given(
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,5}){0,2}", fullmatch=True),
    st.integers(1, 65535),
    st.booleans(),
    st.text(max_size=20),
)
def test_printed_uri_is_parsed_to_the_same(host: str, port: int, secure: bool, path: str) -> None:
    scheme = "wss" if secure else "ws"
    try:
        uri = WebSocketURI.parse(f"{scheme}://{host}:{port}/{path}")
    except ValueError:
        return
    assert WebSocketURI.parse(str(uri)) == uri

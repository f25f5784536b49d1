from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext
from wsproto_sip.policy.host import HostPolicy, LocalPortPolicy

POLICY = HostPolicy(["Example.com", "sip.example.com:8080", "web:80", "tls:443", "[2001:DB8::1]"])
FORBIDDEN = Reject(403, "Host is not one of ours")
MALFORMED = Reject(403, "malformed Host")


def decide(host: str, *, secure: bool = False, policy: HostPolicy = POLICY) -> object:
    return policy(RequestContext(Request(host=host, target="/"), secure=secure))


@pytest.mark.parametrize(
    ("host", "secure"),
    [
        ("example.com", False),
        ("EXAMPLE.com", True),
        ("example.com:1", False),
        ("example.com:65535", False),
        ("sip.example.com:8080", False),
        ("sip.example.com:08080", False),
        ("web", False),
        ("web:80", True),
        ("tls", True),
        ("[2001:db8::1]", False),
        ("[2001:db8:0:0::1]:80", False),
    ],
)
def test_own_names_pass(host: str, secure: bool) -> None:
    assert decide(host, secure=secure) == Continue()


@pytest.mark.parametrize(
    ("host", "secure"),
    [
        ("example.org", False),
        ("evil-example.com", False),
        ("example.com.evil.org", False),
        ("example.com.", False),
        ("www.example.com", False),
        ("sip.example.com", False),
        ("sip.example.com:80", False),
        ("sip.example.com:8081", False),
        ("web", True),
        ("tls", False),
        ("[2001:db8::2]", False),
    ],
)
def test_other_names_are_403(host: str, secure: bool) -> None:
    assert decide(host, secure=secure) == FORBIDDEN


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:8\uff10",
        "example.com:80:80",
        "example.com,evil.org",
        "user@example.com",
        "example.com/",
        " example.com",
        "example.com\n",
        "ex\u212aample.com",
        "2001:db8::1",
        "[2001:db8::1",
        "[::1%25eth0]",
        "[1:2]",
        "[example.com]",
        "a" * 254,
    ],
)
def test_malformed_hosts_are_403(host: str) -> None:
    assert decide(host) == MALFORMED


@pytest.mark.parametrize("alias", ["", "a b", "a:0", "[::g]", "http://a", "a/"])
def test_bad_aliases_are_refused(alias: str) -> None:
    with pytest.raises(ValueError, match="not a host, or host and port"):
        HostPolicy(["ok", alias])


def test_aliases_must_be_a_collection_and_not_empty() -> None:
    with pytest.raises(TypeError, match="not one string"):
        HostPolicy("example.com")
    with pytest.raises(ValueError, match="no aliases"):
        HostPolicy([])


def test_local_port() -> None:
    policy = LocalPortPolicy([80, 443])
    request = Request(host="example.com", target="/")
    assert policy(RequestContext(request, local_port=443)) == Continue()
    refused = Reject(403, "not a port for WebSockets")
    assert policy(RequestContext(request, local_port=5060)) == refused
    assert policy(RequestContext(request)) == refused


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_local_port_must_be_valid(port: int) -> None:
    with pytest.raises(ValueError, match="not a port"):
        LocalPortPolicy([80, port])


@given(st.text(max_size=12), st.text(max_size=12), st.integers(0, 99999))
def test_nothing_but_the_alias_matches(before: str, after: str, port: int) -> None:
    policy = HostPolicy(["xxexample.comxx", "example.com:80"])
    host = f"{before}example.com{after}"
    expected = host.lower() in ("example.com", "example.com:80", "xxexample.comxx")
    assert (decide(host, policy=policy) == Continue()) is expected
    assert (decide(f"example.com:{port}", policy=policy) == Continue()) is (port == 80)
    assert (decide(f"xxexample.comxx:{port}", policy=policy) == Continue()) is (1 <= port <= 65535)

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext
from wsproto_sip.policy.origin import ANY_ORIGIN, OriginPolicy

ALLOWED = [
    "https://example.com",
    "http://example.com:8080",
    "https://[2001:db8::1]",
    "https://[2001:db8::1]:8443",
    "chrome-extension://abcdefghijklmnop",
]
STRICT = OriginPolicy(ALLOWED, allow_null=False, allow_missing=False)
ANY = OriginPolicy(ANY_ORIGIN, allow_null=False, allow_missing=False)
FORBIDDEN = Reject(403, "Origin is not allowed")


def decide(policy: OriginPolicy, *origins: bytes) -> object:
    headers = [(b"origin", origin) for origin in origins]
    return policy(RequestContext(Request("example.com", "/", extra_headers=headers)))


@pytest.mark.parametrize("origin", ALLOWED)
def test_allowed_origins_pass(origin: str) -> None:
    assert decide(STRICT, origin.encode()) == Continue()
    assert decide(ANY, origin.encode()) == Continue()


LOOK_ALIKES = [
    b"http://example.com",
    b"https://example.com:8080",
    b"https://example.com:8443",
    b"http://example.com:80801",
    b"https://example.com.evil.org",
    b"https://evil-example.com",
    b"https://evilexample.com",
    b"https://www.example.com",
    b"https://example.co",
    b"https://example.com.",
    b"https://example",
    b"https://[2001:db8::2]",
]
MISSHAPEN = [
    b"",
    b"NULL",
    b"*",
    b"example.com",
    b"//example.com",
    b"HTTPS://example.com",
    b"Https://example.com",
    b"https://EXAMPLE.com",
    b"https://example.com:443",
    b"http://example.com:80",
    b"https://example.com:0443",
    b"https://example.com:",
    b"https://example.com:65536",
    b"https://example.com/",
    b"https://example.com/path",
    b"https://example.com?",
    b"https://example.com#",
    b"https://user@example.com",
    b"https://evil.org@example.com",
    b"https://example.com\\@evil.org",
    b"https://example.com https://evil.org",
    b"https://example.com, https://evil.org",
    b"https://example.com\x00",
    b"https://example.com\n",
    b"\x85https://example.com",
    b"https://example\xe3\x80\x82com",
    b"https://ex\xc3\xa4mple.com",
    b"https://[2001:db8:0::1]",
    b"https://[2001:DB8::1]",
    b"https://[::g]",
    b"https://[1:2]",
    b"https:example.com",
    b"https:/example.com",
    b"https:///example.com",
]


@pytest.mark.parametrize("origin", LOOK_ALIKES + MISSHAPEN)
def test_look_alikes_are_403(origin: bytes) -> None:
    assert decide(STRICT, origin) == FORBIDDEN


@pytest.mark.parametrize("origin", LOOK_ALIKES[:2] + LOOK_ALIKES[4:])
def test_any_origin_allows_every_valid_origin(origin: bytes) -> None:
    assert decide(ANY, origin) == Continue()


@pytest.mark.parametrize("origin", MISSHAPEN)
def test_any_origin_refuses_invalid_origins(origin: bytes) -> None:
    assert decide(ANY, origin) == FORBIDDEN


@pytest.mark.parametrize("allowed", [ALLOWED, ANY_ORIGIN])
def test_null_and_missing_are_separate_options(allowed: list[str]) -> None:
    null = OriginPolicy(allowed, allow_null=True, allow_missing=False)
    assert decide(null, b"null") == Continue()
    assert decide(null) == Reject(403, "no Origin")
    missing = OriginPolicy(allowed, allow_null=False, allow_missing=True)
    assert decide(missing, b"null") == Reject(403, "Origin is null")
    assert decide(missing) == Continue()


def test_empty_list_allows_none() -> None:
    nobody = OriginPolicy([], allow_null=False, allow_missing=False)
    assert decide(nobody, b"https://example.com") == FORBIDDEN


def test_two_origins_are_400() -> None:
    assert decide(ANY, b"https://example.com", b"https://example.com") == Reject(
        400, "more than one Origin"
    )


@pytest.mark.parametrize(
    ("origin", "fault"),
    [
        ("example.com", "not scheme://host or scheme://host:port in lower case"),
        ("HTTPS://example.com", "in lower case"),
        ("https://example.com/", "not scheme://host"),
        ("null", "not scheme://host"),
        ("*", "not scheme://host"),
        ("https://ex\xe4mple.com", "not scheme://host"),
        ("https://example.com:443", "leave out the scheme's default port"),
        ("https://example.com:65536", "not a port"),
        ("https://[::g]", "not scheme://host"),
        ("https://[1:2]", "not an IPv6 address"),
        ("https://[0::1]", r"write the address as \[::1\]"),
    ],
)
def test_list_is_checked(origin: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"not an origin as browsers send it: .*{fault}"):
        OriginPolicy([origin], allow_null=False, allow_missing=False)


def test_list_is_not_one_string() -> None:
    with pytest.raises(TypeError, match="not one string"):
        OriginPolicy("https://example.com", allow_null=False, allow_missing=False)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_only_the_exact_bytes_of_an_allowed_origin_pass(before: bytes, after: bytes) -> None:
    origin = before + b"https://example.com" + after
    assert (decide(STRICT, origin) == Continue()) is (not before and not after)


@given(
    st.sampled_from(["http", "https", "ws", "wss", "x"]),
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True),
    st.none() | st.integers(1, 65535),
)
def test_origin_allows_itself_and_nothing_else(scheme: str, host: str, port: int | None) -> None:
    origin = f"{scheme}://{host}" + ("" if port is None else f":{port}")
    default = {"http": 80, "https": 443, "ws": 80, "wss": 443}.get(scheme)
    if port is not None and port == default:
        with pytest.raises(ValueError, match="default port"):
            OriginPolicy([origin], allow_null=False, allow_missing=False)
        return
    policy = OriginPolicy([origin], allow_null=False, allow_missing=False)
    assert decide(policy, origin.encode()) == Continue()
    for other in (
        f"a{origin}",
        f"{origin}1" if port is None else f"{origin[:-1]}x",
        origin.replace("://", "s://"),
        origin.replace("://", "://a."),
        origin.upper(),
        f"{scheme}://{host}:{(port or 0) % 65535 + 1}",
        *([] if default is None else [f"{scheme}://{host}:{default}"]),
    ):
        assert decide(policy, other.encode()) == FORBIDDEN


LOOPBACK = OriginPolicy(
    ["https://example.com"], allow_null=False, allow_missing=False, allow_loopback=True
)


@pytest.mark.parametrize(
    "origin",
    [
        b"https://example.com",
        b"http://localhost",
        b"https://localhost:8443",
        b"http://app.localhost:3000",
        b"http://127.0.0.1:8080",
        b"http://127.9.9.9",
        b"http://[::1]:8080",
    ],
)
def test_pages_of_the_client_s_own_machine(origin: bytes) -> None:
    assert decide(LOOPBACK, origin) == Continue()
    if b"example" not in origin:
        assert decide(STRICT, origin) == FORBIDDEN


@pytest.mark.parametrize(
    "origin",
    [
        b"http://example.org",
        b"http://localhost.example.org",
        b"http://mylocalhost",
        b"http://127.0.0.1.example.org",
        b"http://192.0.2.1",
        b"http://[2001:db8::1]",
        b"http://[0:0::1]",
        b"http://localhost:80",
        b"http://localhost/",
        b"chrome-extension://localhost",
        b"http://localhost\xff",
    ],
)
def test_no_pages_of_the_client_s_own_machine(origin: bytes) -> None:
    assert decide(LOOPBACK, origin) == FORBIDDEN

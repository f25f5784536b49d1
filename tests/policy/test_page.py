from __future__ import annotations

from dataclasses import replace

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext, Respond
from wsproto_sip.policy.host import HostPolicy
from wsproto_sip.policy.origin import OriginPolicy
from wsproto_sip.policy.page import CONTENT_SECURITY_POLICY, PagePolicy, Resource, own_origin
from wsproto_sip.utilities import LocalProtocolError

PAGE = Resource("text/html; charset=utf-8", b"<!doctype html>")
POLICY = PagePolicy({"/": PAGE, "/a.js": Resource("text/javascript", b"1")})


def ask(target: str, *, upgrade: bool = False) -> object:
    return POLICY(RequestContext(Request("example.com", target), upgrade=upgrade))


@pytest.mark.parametrize("target", ["/", "/?user=bob"])
def test_page_and_its_headers(target: str) -> None:
    answer = ask(target)
    assert isinstance(answer, Respond)
    assert (answer.status, answer.body) == (200, PAGE.body)
    assert dict(answer.headers) == {
        b"Content-Type": b"text/html; charset=utf-8",
        b"Content-Security-Policy": CONTENT_SECURITY_POLICY.encode(),
        b"X-Content-Type-Options": b"nosniff",
        b"Referrer-Policy": b"no-referrer",
        b"Cache-Control": b"no-cache",
    }


@pytest.mark.parametrize("target", ["/b.js", "//", "/a.js/", "/../a.js", "/A.js", "/%61.js"])
def test_unknown_path_is_404(target: str) -> None:
    assert ask(target) == Reject(404, "no such page")


def test_request_for_a_websocket_passes() -> None:
    assert ask("/", upgrade=True) == Continue()


def test_another_content_security_policy() -> None:
    policy = PagePolicy({"/": PAGE}, content_security_policy="default-src 'self'")
    answer = policy(RequestContext(Request("example.com", "/"), upgrade=False))
    assert isinstance(answer, Respond)
    assert dict(answer.headers)[b"Content-Security-Policy"] == b"default-src 'self'"


@pytest.mark.parametrize(
    ("host", "secure", "origin"),
    [
        ("example.com", False, "http://example.com"),
        ("Example.com:80", False, "http://example.com"),
        ("example.com:443", False, "http://example.com:443"),
        ("example.com:443", True, "https://example.com"),
        ("[::1]:8080", False, "http://[::1]:8080"),
    ],
)
def test_origin_of_a_page(host: str, secure: bool, origin: str) -> None:
    assert own_origin(host, secure=secure) == origin


@pytest.mark.parametrize(
    ("host", "secure", "status"),
    [
        ("example.com", True, 200),
        ("example.com", False, 404),
        ("example.com:8443", True, 404),
        ("other.example", True, 404),
        ("ex\u00e4mple.com", True, 404),
    ],
)
def test_page_is_missing_if_its_connections_are_refused(
    host: str, secure: bool, status: int
) -> None:
    origins = OriginPolicy(["https://example.com"], allow_null=False, allow_missing=True)
    policy = PagePolicy({"/": PAGE}, admission=[HostPolicy(["example.com"]), origins])
    # An Origin in the request itself belongs to the requesting page.
    request = Request(host, "/", extra_headers=[(b"origin", b"https://elsewhere.example")])
    answer = policy(RequestContext(request, secure=secure, upgrade=False))
    assert isinstance(answer, Reject)
    assert answer.status == status


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="not an absolute path: 'a'"):
        PagePolicy({"a": PAGE})
    with pytest.raises(LocalProtocolError):
        PagePolicy({"/": replace(PAGE, content_type="a\r\nb: c")})

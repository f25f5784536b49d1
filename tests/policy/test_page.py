from __future__ import annotations

from dataclasses import replace

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext, Respond
from wsproto_sip.policy.page import CONTENT_SECURITY_POLICY, PagePolicy, Resource
from wsproto_sip.utilities import LocalProtocolError

PAGE = Resource("text/html; charset=utf-8", b"<!doctype html>")
POLICY = PagePolicy({"/": PAGE, "/a.js": Resource("text/javascript", b"1")})


def ask(target: str, *, upgrade: bool = False) -> object:
    return POLICY(RequestContext(Request("example.com", target), upgrade=upgrade))


@pytest.mark.parametrize("target", ["/", "/?user=bob"])
def test_a_page_and_its_headers(target: str) -> None:
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
def test_what_is_not_there(target: str) -> None:
    assert ask(target) == Reject(404, "no such page")


def test_who_wants_a_websocket_passes() -> None:
    assert ask("/", upgrade=True) == Continue()


def test_another_content_security_policy() -> None:
    policy = PagePolicy({"/": PAGE}, content_security_policy="default-src 'self'")
    answer = policy(RequestContext(Request("example.com", "/"), upgrade=False))
    assert isinstance(answer, Respond)
    assert dict(answer.headers)[b"Content-Security-Policy"] == b"default-src 'self'"


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="not an absolute path: 'a'"):
        PagePolicy({"a": PAGE})
    with pytest.raises(LocalProtocolError):
        PagePolicy({"/": replace(PAGE, content_type="a\r\nb: c")})

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext
from wsproto_sip.policy.target import TargetPolicy

POLICY = TargetPolicy(["/", "/ws", "/rooms/*/ws", "/a*b/*"])
NOT_FOUND = Reject(404, "no WebSocket at this target")


def context(target: str, method: str = "GET") -> RequestContext:
    return RequestContext(Request(host="example.com", target=target), method=method)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/?",
        "/ws",
        "/ws?token=/x?y",
        "/rooms/1/ws",
        "/rooms/..a/ws",
        "/rooms/.../ws",
        "/a*b/%20",
        "http://example.com/ws?x",
        "WSS://user@example.com:80/ws",
        "http://example.com",
        "http://example.com?/other",
    ],
)
def test_known_targets_pass(target: str) -> None:
    assert POLICY(context(target)) == Continue()


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "ws",
        "//",
        "/ws/",
        "//ws",
        "/WS",
        "/ws#x",
        "/ws\n",
        "/w%73",
        "/x/../ws",
        "http://example.com/wss",
        "ftp://example.com/ws",
        "http:///ws",
        "http://example.com#/ws",
        "/rooms//ws",
        "/rooms/../ws",
        "/rooms/./ws",
        "/rooms/%2e%2E/ws",
        "/rooms/.%2e/ws",
        "/rooms/1/2/ws",
        "/rooms/1/ws/",
        "/rooms/é/ws",
        "/rooms/1/ws\n",
        "/a*b/..",
        "/a*b/.",
        "/axb/1",
    ],
)
def test_other_targets_are_404(target: str) -> None:
    assert POLICY(context(target)) == NOT_FOUND


def test_other_methods_are_405_with_the_allowed_ones() -> None:
    assert POLICY(context("/ws", "CONNECT")) == Continue()
    assert POLICY(context("/ws", "POST")) == Reject(
        405, "wrong method", ((b"allow", b"GET, CONNECT"),)
    )
    assert POLICY(context("/other", "POST")) == NOT_FOUND
    get_only = TargetPolicy(["/ws"], methods=["GET"])
    assert get_only(context("/ws", "get")) == Reject(405, "wrong method", ((b"allow", b"GET"),))


@pytest.mark.parametrize("path", ["", "ws", "/ws?x", "/a b", "/ä", "/ws\n", "http://x/"])
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute path without a query"):
        TargetPolicy(["/ok", path])


def test_paths_must_be_given_as_a_collection_and_not_be_empty() -> None:
    with pytest.raises(TypeError, match="not one string"):
        TargetPolicy("/ws")
    with pytest.raises(ValueError, match="no paths"):
        TargetPolicy([])


@given(st.text(alphabet="/abc.*?%2e", max_size=12))
def test_exact_path_matches_itself_only(target: str) -> None:
    expected = target.partition("?")[0] == "/a/b"
    assert (TargetPolicy(["/a/b"])(context(target)) == Continue()) is expected

"""Answers to health checks."""

from __future__ import annotations

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, RequestContext, Respond
from wsproto_sip.policy.health import HealthPolicy

POLICY = HealthPolicy("/healthz", "/readyz")


def ask(target: str, *, upgrade: bool = False, enabled: bool = True) -> object:
    context = RequestContext(Request("10.0.0.1", target), upgrade=upgrade, enabled=enabled)
    return POLICY(context)


@pytest.mark.parametrize(
    ("target", "enabled", "status", "body"),
    [
        ("/healthz", True, 200, b"alive\n"),
        ("/healthz?verbose", True, 200, b"alive\n"),
        ("/healthz", False, 200, b"alive\n"),
        ("/readyz", True, 200, b"ready\n"),
        ("/readyz", False, 503, b"not ready\n"),
    ],
)
def test_alive_is_always_200_and_ready_only_while_enabled(
    target: str, enabled: bool, status: int, body: bytes
) -> None:
    answer = ask(target, enabled=enabled)
    assert isinstance(answer, Respond)
    assert (answer.status, answer.body) == (status, body)
    assert dict(answer.headers)[b"Cache-Control"] == b"no-store"


def test_other_paths_and_requests_for_a_websocket_pass() -> None:
    assert ask("/") == ask("/healthz/") == ask("/HEALTHZ") == Continue()
    assert ask("/healthz", upgrade=True) == ask("/readyz", upgrade=True) == Continue()


def test_disabled_path_is_not_answered() -> None:
    context = RequestContext(Request("a", "/readyz"), upgrade=False)
    assert HealthPolicy("/healthz")(context) == HealthPolicy()(context) == Continue()


@pytest.mark.parametrize(
    ("alive", "ready", "problem"),
    [
        ("healthz", None, "'healthz'"),
        (None, "", "''"),
        (None, "/r?a", r"'/r\?a'"),
        ("/a", "/a", "alive and ready must differ: '/a'"),
    ],
)
def test_invalid_paths_are_refused(alive: str | None, ready: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HealthPolicy(alive, ready)


def test_readiness_may_depend_on_more() -> None:
    answers = iter([True, False])
    policy = HealthPolicy(ready="/readyz", is_ready=lambda: next(answers))
    context = RequestContext(Request("a", "/readyz"), upgrade=False)
    found = [policy(context) for _ in range(2)]
    assert [each.status for each in found if isinstance(each, Respond)] == [200, 503]
    # A server that accepts nothing is not ready, whatever else is there.
    policy = HealthPolicy(ready="/readyz", is_ready=lambda: True)
    disabled = RequestContext(Request("a", "/readyz"), upgrade=False, enabled=False)
    answer = policy(disabled)
    assert isinstance(answer, Respond)
    assert answer.status == 503
